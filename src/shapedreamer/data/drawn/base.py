"""What all data sets that a program draws have in common: image i of a seed is always the same one."""

from typing import ClassVar

from torch import Tensor

from ...common.noise import fold
from ..spec import DataSpec


class Drawn:
    """`samples` images, a pure function of (seed, index), from no file: a subclass says how in its `batch`.

    purpose:  what the seed is folded with, so that images share no random word with the noise of the same seed
    held_out: another set from the same distribution, which shares no random number with the first

    ValueError for a number of samples that cannot be.
    """

    spec: DataSpec
    purpose: ClassVar[int]

    def __init__(self, samples: int = 10_000, seed: int = 0, held_out: bool = False) -> None:
        if not 1 <= samples <= 2**32:
            raise ValueError(f"samples must be between 1 and 2³², not {samples}")
        self.samples = samples
        self.seed = fold(seed, self.purpose, int(held_out))

    def __len__(self) -> int:
        return self.samples

    def check(self, index: Tensor) -> None:
        """IndexError unless all of index (B,) int64 is within 0…samples−1."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.samples:
            raise IndexError(f"index {int(index.min())}…{int(index.max())} is outside 0…{self.samples - 1}")
