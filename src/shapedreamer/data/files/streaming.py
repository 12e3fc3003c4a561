"""Images larger than memory: they stay on disk, and each batch is read when it is needed.

In memory are only the names of the files, in one block of text, a digest of each image and its label: about 75 bytes
for each image. Splits, labels, digests and batches equal those of data.arrays.Arrays bit for bit.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from ...common.errors import UserError
from ..arrays import DIGEST_BYTES, digest, one_hot
from ..limits import printable
from ..spec import DataSpec

BLOCK_BYTES = 2**22  # of images that are hashed together


class FileNames(Sequence[str]):
    """A list of names in one block of text: a million take about 30 MB, and ten times as much as Path objects."""

    def __init__(self) -> None:
        self._text, self._ends = bytearray(), array("Q", [0])

    def append(self, name: str) -> None:
        self._text += name.encode("utf-8", "surrogatepass")  # Linux allows names that are not valid text
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._text[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")


class Digests:
    """The digests of images (n, H, W, C) uint8, which are added in order.

    A grey image has two, for C = 1 and C = 3, until a colour image comes: then the grey images become RGB too.
    """

    def __init__(self) -> None:
        self._grey, self._colour, self._all_grey = bytearray(), bytearray(), True

    def add(self, images: np.ndarray) -> None:
        is_grey = images.shape[3] == 1
        if not is_grey:
            self._all_grey = False
            self._grey.clear()
        for image in images:
            if self._all_grey:
                self._grey += digest(image)
            self._colour += digest(image.repeat(3, axis=2) if is_grey else image)

    def array(self) -> np.ndarray:
        """A digest of each image: (N,) void."""
        return np.frombuffer(self._grey if self._all_grey else self._colour, f"V{DIGEST_BYTES}")


def label_vectors(labels: np.ndarray, count: int) -> np.ndarray:
    """Labels as vectors (N, count) float32. (N,) integers are class numbers, and `count` means no label."""
    # one more class for images without a label, whose column is then dropped
    return one_hot(labels, count + 1)[:, :-1] if labels.ndim == 1 else labels.astype(np.float32)


class Source(NamedTuple):
    """Images on disk.

    shape    (H, W, C) of each image
    digests  (N,) void, of the images when they were first read
    labels   as in label_vectors
    decode   returns an image, (H, W, C) uint8; it may raise any exception if the file is gone or damaged
    path     returns the file that an image is in
    """

    name: str
    shape: tuple[int, int, int]
    digests: np.ndarray
    labels: np.ndarray
    label_names: Sequence[str]
    decode: Callable[[int], np.ndarray]
    path: Callable[[int], Path]

    def read(self, index: np.ndarray) -> np.ndarray:
        """Images (B, H, W, C) uint8. UserError, naming the file, if one cannot be read or has changed."""
        images = np.empty((len(index), *self.shape), np.uint8)
        for image, number in zip(images, index.tolist(), strict=True):
            try:
                pixels = self.decode(number)
            except Exception as error:  # decoders raise almost any exception on damaged files
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
                raise UserError(
                    printable(f"cannot read {self.path(number)} any more: {reason}. Restore the file and try again")
                ) from error
            if pixels.shape != self.shape or digest(pixels) != self.digests[number].tobytes():
                raise UserError(
                    printable(f"{self.path(number)} has changed since the start. Restore the file, or start a new run")
                )
            image[:] = pixels
        return images

    def vectors(self, index: np.ndarray) -> np.ndarray:
        """Label vectors (B, L) float32."""
        return label_vectors(self.labels[index], len(self.label_names)).copy()


class StreamedImages:
    """A data set of the images of a source that have these indices (N,). It reads each of them once, for the digest.

    progress: called after each image
    """

    def __init__(self, source: Source, index: np.ndarray, progress: Callable[[], None] = lambda: None) -> None:
        self.source, self.index = source, index.astype(np.uint32)
        height, width, channels = source.shape
        content = hashlib.sha256()
        for block in self._blocks():
            content.update(source.read(block).data)
            for _ in block:
                progress()
        for block in self._blocks():
            content.update(source.vectors(block).data)
        self.spec = DataSpec(
            source.name, channels, height, width, tuple(source.label_names), sha256=content.hexdigest()
        )

    def _blocks(self) -> Iterator[np.ndarray]:
        bytes_per_image = max(int(np.prod(self.source.shape)), 4 * len(self.source.label_names))
        step = max(1, BLOCK_BYTES // bytes_per_image)
        for first in range(0, len(self.index), step):
            yield self.index[first : first + step]

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) float32 in [−1, 1] and labels (B, L) float32, for indices (B,) in 0…N−1.

        UserError if a file is gone, damaged or changed.
        """
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"index {int(index.min())}…{int(index.max())} is outside 0…{len(self) - 1}")
        numbers = self.index[index.numpy()]
        images = torch.from_numpy(self.source.read(numbers)).permute(0, 3, 1, 2)
        return images.float() / 127.5 - 1, torch.from_numpy(self.source.vectors(numbers))
