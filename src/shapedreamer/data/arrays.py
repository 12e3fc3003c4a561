"""Images that come from files and fit into memory, kept there as bytes."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .spec import DataSpec

MOST_HELD_OUT = 512


class Arrays:
    """N images (N, H, W, C) uint8, C = 1, 3 or 4, with labels (N, L) float32, a column for each name.

    Raises ValueError if there are no images, or if the shapes do not go together.
    """

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3, 4) or not len(images):
            raise ValueError(f"{name}: images are {images.shape} {images.dtype}, not (N, H, W, 1, 3 or 4) uint8")
        if labels.shape != (len(images), len(label_names)):
            raise ValueError(f"{name}: labels are {labels.shape}, not ({len(images)}, {len(label_names)})")
        self.images, self.labels = np.ascontiguousarray(images), np.ascontiguousarray(labels, np.float32)
        _, height, width, channels = images.shape
        digest = hashlib.sha256(self.images.data)
        digest.update(self.labels.data)
        self.spec = DataSpec(name, channels, height, width, tuple(label_names), sha256=digest.hexdigest())

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) float32 in [−1, 1] and labels (B, L) float32, for indices (B,) within 0…N−1."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"index {int(index.min())}…{int(index.max())} is outside 0…{len(self) - 1}")
        images = torch.from_numpy(self.images[index.numpy()]).permute(0, 3, 1, 2)
        return images.float() / 127.5 - 1, torch.from_numpy(self.labels[index.numpy()])

    def take(self, index: np.ndarray) -> "Arrays":
        """A data set of the images at these places."""
        return Arrays(self.spec.name, self.images[index], self.labels[index], self.spec.labels)


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Class numbers (N,) as label vectors (N, count) float32."""
    return np.eye(count, dtype=np.float32)[classes]


def first(data: Arrays, samples: int | None) -> Arrays:
    """`samples` images of a data set, or all: always the same ones, and of every kind, however the files are sorted."""
    if samples is None or samples >= len(data):
        return data
    return data.take(np.random.default_rng(0).permutation(len(data))[:samples])


def split(data: Arrays, samples: int | None = None) -> tuple[Arrays, Arrays]:
    """What to train on, and a tenth of the distinct images, 512 at most, that are held out.

    No copy of a held-out image is trained on. With fewer than ten distinct images nothing can be spared, and what is
    held out is the images themselves.
    """
    digests = np.frombuffer(b"".join(hashlib.sha256(image.data).digest() for image in data.images), "V32")
    _, where, which = np.unique(digests, return_index=True, return_inverse=True)
    count = min(MOST_HELD_OUT, len(where) // 10)
    if not count:
        return first(data, samples), data
    held_out = np.random.default_rng(0).permutation(len(where))[:count]
    return first(data.take(np.flatnonzero(~np.isin(which, held_out))), samples), data.take(np.sort(where[held_out]))
