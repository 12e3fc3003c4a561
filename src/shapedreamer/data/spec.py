"""DataSpec: what a model must know about the images it was trained on. It is stored in every run's config.json."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DataSpec:
    """Images of `channels` x `height` x `width` with values in [low, high]; labels are vectors, a number per name."""

    name: str
    channels: int
    height: int
    width: int
    labels: tuple[str, ...]
    low: float = -1.0
    high: float = 1.0

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


class Dataset(Protocol):
    """A data set is its spec, its length, and a function from indices to images and labels."""

    spec: DataSpec

    def __len__(self) -> int: ...

    def batch(self, index: "Tensor") -> "tuple[Tensor, Tensor]":
        """Images (B, C, H, W) float32 in the spec's range and labels (B, L) float32, for indices (B,) int64."""
        ...
