"""Images from files, held in memory as bytes, and how they are split into training and held-out images."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .spec import DataSpec

MAX_HELD_OUT = 512
DIGEST_BYTES = 16  # of an image: enough to tell a trillion images apart


class Arrays:
    """N images (N, H, W, C) uint8, C = 1, 3 or 4, with labels (N, L) float32, one column per label name.

    ValueError if there are no images, or if a shape or type does not fit.
    """

    def __init__(self, name: str, images: np.ndarray, labels: np.ndarray, label_names: Sequence[str]) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3, 4) or not len(images):
            raise ValueError(f"{name}: images must be (N, H, W, 1 or 3 or 4) uint8, not {images.shape} {images.dtype}")
        if labels.shape != (len(images), len(label_names)):
            raise ValueError(f"{name}: labels must be ({len(images)}, {len(label_names)}), not {labels.shape}")
        self.images, self.labels = np.ascontiguousarray(images), np.ascontiguousarray(labels, np.float32)
        _, height, width, channels = images.shape
        digest = hashlib.sha256(self.images.data)
        digest.update(self.labels.data)
        self.spec = DataSpec(name, channels, height, width, tuple(label_names), sha256=digest.hexdigest())

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) float32 in [−1, 1] and labels (B, L) float32, for indices (B,) in 0…N−1."""
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"index {int(index.min())}…{int(index.max())} is outside 0…{len(self) - 1}")
        images = torch.from_numpy(self.images[index.numpy()]).permute(0, 3, 1, 2)
        return images.float() / 127.5 - 1, torch.from_numpy(self.labels[index.numpy()])

    def digests(self) -> np.ndarray:
        """A digest of each image: (N,) void."""
        return np.frombuffer(b"".join(map(digest, self.images)), f"V{DIGEST_BYTES}")

    def take(self, index: np.ndarray) -> "Arrays":
        """A data set of the images with these indices or this mask."""
        return Arrays(self.spec.name, self.images[index], self.labels[index], self.spec.labels)


def one_hot(classes: np.ndarray, count: int) -> np.ndarray:
    """Class numbers (N,) int as one-hot vectors (N, count) float32."""
    vectors = np.zeros((len(classes), count), np.float32)  # not rows of np.eye, which needs count² numbers
    vectors[np.arange(len(classes)), classes] = 1
    return vectors


def first(data: Arrays, samples: int | None) -> Arrays:
    """A random subset of `samples` images, always the same one; all images for None.

    The subset is random since files may be sorted by class.
    """
    return data if samples is None or samples >= len(data) else data.take(_some(len(data), samples))


def split(data: Arrays, samples: int | None = None) -> tuple[Arrays, Arrays]:
    """(training images, held-out images). A tenth of the distinct images is held out, 512 at most.

    No duplicate of a held-out image is in the training set. With fewer than ten distinct images, the held-out set is
    the whole data set. `samples` limits the training set, as in `first`.
    """
    training, held_out = split_index(data.digests(), samples)
    if len(held_out) == len(data):
        return first(data, samples), data
    return data.take(training), data.take(held_out)


def split_index(digests: np.ndarray, samples: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the training images and of the held-out images, as in `split`.

    digests: of each image, (N,) void
    """
    _, first_index, group = np.unique(digests, return_index=True, return_inverse=True)
    count = min(MAX_HELD_OUT, len(first_index) // 10)
    if count:
        chosen = np.random.default_rng(0).permutation(len(first_index))[:count]
        training, held_out = np.flatnonzero(~np.isin(group, chosen)), np.sort(first_index[chosen])
    else:
        training = held_out = np.arange(len(digests))
    if samples is not None and samples < len(training):
        training = training[_some(len(training), samples)]
    return training, held_out


def _some(num: int, samples: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(num)[:samples]


def digest(image: np.ndarray) -> bytes:
    """The first bytes of the SHA-256 hash of an image. Two different images never have the same ones in practice."""
    return hashlib.sha256(np.ascontiguousarray(image).data).digest()[:DIGEST_BYTES]
