"""DataSpec: the size, range and labels of the images that a model is trained on. Every run stores it in config.json."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Protocol

from ..common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

NUMBER = re.compile(r"\s*[+-]?\d+(\.\d+)?\s*")
MAX_INDEX_DIGITS = 9

Label = str | int | Mapping[str, float] | Sequence[float]


@dataclass(frozen=True)
class DataSpec:
    """Images (channels, height, width) with values in [low, high], and the names of the entries of a label vector.

    sha256: the hash of all images and labels if they come from files, so that a run can detect changed data
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
        """Return `images` unchanged. ValueError if their shape, type or range does not match."""
        C, H, W = self.channels, self.height, self.width
        if tuple(images.shape[1:]) != (C, H, W) or not images.is_floating_point():
            found = f"{tuple(images.shape)} {images.dtype}"
            raise ValueError(f"{self.name}: images must be floats of shape (B, {C}, {H}, {W}), not {found}")
        low, high = images.min().item(), images.max().item()
        if not (self.low <= low and high <= self.high):
            raise ValueError(
                f"{self.name}: values must lie in [{self.low:g}, {self.high:g}], not in [{low:g}, {high:g}]"
            )
        return images

    def vector(self, label: Label) -> list[float]:
        """The label vector that a network is conditioned on: one number for each of `labels`.

        label: a name ("boot"), an index (7), names with amounts ("circle=2,line=1" or {"human": 1, "food": 0.6}), or
               the whole vector. UserError, with the valid names, for anything else.

        A label that is exactly a name means this name, even if it contains a comma or an equals sign. An index counts
        from 0. Where a name is a number, such as those of folders 1 to 12, a number always means the name.
        """
        names = ", ".join(self.labels)
        if not self.labels:
            raise UserError(f"cannot use label {label!r}: the data set {self.name} has no labels")
        if isinstance(label, str):
            label = dict(self._parts(label))
        elif isinstance(label, (int, Integral)):  # of Python or NumPy
            label = {str(label): 1.0}
        if isinstance(label, Mapping):
            vector = [0.0] * len(self.labels)
            for name, amount in label.items():
                vector[self._index(name)] = float(amount)
        else:
            vector = [float(amount) for amount in label]
            if len(vector) != len(self.labels):
                raise UserError(f"a label vector has {len(self.labels)} numbers ({names}), not {len(vector)}")
        if not all(map(math.isfinite, vector)):
            raise UserError(f"the amounts of a label must be finite, not {vector}")
        return vector

    def _parts(self, label: str) -> Iterator[tuple[str, float]]:
        """Split "NAME=AMOUNT,NAME" into names and amounts. The longest part that fits a name counts as one."""
        parts = label.split(",")
        first = 0
        while first < len(parts):
            for end in range(min(len(parts), first + 1 + self._most_commas), first, -1):
                found = self._name_and_amount(",".join(parts[first:end]))
                if found:
                    break
            if not found:  # end is now first + 1
                found = _name_and_amount(parts[first], ", ".join(self.labels))
            yield found
            first = end

    @property
    def _most_commas(self) -> int:
        return max(name.count(",") for name in self.labels)

    def _name_and_amount(self, part: str) -> tuple[str, float] | None:
        """A part that is a name, or a name with an amount; None if it is neither."""
        for name in (part, part.strip()):
            if name in self.labels:
                return name, 1.0
        before, _, amount = part.rpartition("=")
        for name in (before, before.strip()):
            if name in self.labels:
                try:
                    return name, float(amount)
                except ValueError:
                    return None
        return None

    def _index(self, name: str) -> int:
        """The index of a label. A name takes precedence over an index, which is valid only if no name is a number."""
        if name in self.labels:
            return self.labels.index(name)
        is_index = name.isdecimal() and len(name) <= MAX_INDEX_DIGITS and int(name) < len(self.labels)
        if is_index and not any(map(NUMBER.fullmatch, self.labels)):
            return int(name)
        raise UserError(f"there is no label {name!r}; there are: {', '.join(self.labels)}")


def _name_and_amount(part: str, names: str) -> tuple[str, float]:
    name, equals, amount = part.strip().partition("=")
    try:
        return name.strip(), float(amount) if equals else 1.0
    except ValueError:
        raise UserError(f"{part.strip()!r} is not a valid label: write NAME or NAME=AMOUNT; names: {names}") from None


class Dataset(Protocol):
    """A data set: a spec, a length, and a function from indices to images and labels."""

    spec: DataSpec

    def __len__(self) -> int: ...

    def batch(self, index: "Tensor") -> "tuple[Tensor, Tensor]":
        """Images (B, C, H, W) float32 in the spec's range and labels (B, L) float32, for indices (B,) int64."""
        ...
