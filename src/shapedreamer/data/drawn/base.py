"""The base class of procedurally drawn data sets."""

from typing import ClassVar

from torch import Tensor

from ...common.noise import fold
from ..spec import DataSpec


class DrawnDataset:
    """`samples` images, each a pure function of (seed, index). A subclass draws them in its method `batch`.

    purpose:  folded into the seed, so that images and sampling noise of the same seed use different random numbers
    held_out: select a second set from the same distribution that shares no random numbers with the first

    ValueError if `samples` or `seed` is out of range.
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

    def check_index(self, index: Tensor) -> None:
        """IndexError unless every element of index (B,) int64 is in 0…samples−1."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.samples:
            raise IndexError(f"index {int(index.min())}…{int(index.max())} is outside 0…{self.samples - 1}")
