"""DataSpec: what a model must know about the images it was trained on. It is stored in every run's config.json."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Label = str | int | Mapping[str, float] | Sequence[float]


@dataclass(frozen=True)
class DataSpec:
    """Images of `channels` x `height` x `width` with values in [low, high]; labels are vectors, a number per name.

    sha256: of all images and labels, where they come from files, so that a run notices when they have changed
    """

    name: str
    channels: int
    height: int
    width: int
    labels: tuple[str, ...]
    low: float = -1.0
    high: float = 1.0
    sha256: str = ""

    def check(self, images: "Tensor") -> "Tensor":
        """The images, if they are what this says; ValueError otherwise."""
        shape = (self.channels, self.height, self.width)
        if tuple(images.shape[1:]) != shape or not images.is_floating_point():
            raise ValueError(f"{self.name}: images are {tuple(images.shape)} {images.dtype}, not (B, *{shape}) floats")
        low, high = images.min().item(), images.max().item()
        if not (self.low <= low and high <= self.high):
            raise ValueError(
                f"{self.name}: values lie in [{low:g}, {high:g}] and must lie in [{self.low:g}, {self.high:g}]"
            )
        return images

    def vector(self, label: Label) -> list[float]:
        """A label as the vector that networks are told: a number for each of `labels`.

        label: a name ("boot"), its place (7), names with amounts ("circle=2,line=1" or {"human": 1, "food": 0.6}), or
               the whole vector. UserError, listing the right names, for any other.
        """
        names = ", ".join(self.labels)
        if not self.labels:
            raise UserError(f"the data set {self.name} has no labels, so there is none to ask for")
        if isinstance(label, str):
            label = dict(_name_and_amount(part, names) for part in label.split(","))
        if isinstance(label, int):
            label = {str(label): 1.0}
        if isinstance(label, Mapping):
            vector = [0.0] * len(self.labels)
            for name, amount in label.items():
                vector[self._place(name)] = float(amount)
        else:
            vector = [float(amount) for amount in label]
            if len(vector) != len(self.labels):
                raise UserError(f"a label has {len(self.labels)} numbers ({names}), not {len(vector)}")
        if not all(map(math.isfinite, vector)):
            raise UserError(f"the amounts of a label must be finite, not {vector}")
        return vector

    def _place(self, name: str) -> int:
        """Where a label stands, by its name or, if no name is like that, by its number."""
        if name in self.labels:
            return self.labels.index(name)
        if name.isdecimal() and int(name) < len(self.labels):
            return int(name)
        raise UserError(f"there is no label {name!r}; there are: {', '.join(self.labels)}")


def _name_and_amount(part: str, names: str) -> tuple[str, float]:
    name, equals, amount = part.strip().partition("=")
    try:
        return name.strip(), float(amount) if equals else 1.0
    except ValueError:
        raise UserError(f"{part.strip()!r} is no label: write NAME or NAME=AMOUNT, with a name of {names}") from None


class Dataset(Protocol):
    """A data set is its spec, its length, and a function from indices to images and labels."""

    spec: DataSpec

    def __len__(self) -> int: ...

    def batch(self, index: "Tensor") -> "tuple[Tensor, Tensor]":
        """Images (B, C, H, W) float32 in the spec's range and labels (B, L) float32, for indices (B,) int64."""
        ...
