"""Read .npy and .npz files that cannot be trusted: the header is checked before any memory is allocated for the data.

Nothing is unpickled, and a compressed array is unpacked only as far as its header claims.
"""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ..limits import MAX_MEMBERS, bytes_on_disk, check_unpacked, printable

MAX_HEADER_BYTES = 10_000
BLOCK = 2**20  # bytes


class Header(NamedTuple):
    """What an array in a file claims to be."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Read the header of an .npy file and stop before its data.

    ValueError if it is invalid, or if the data are Python objects or have no size.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = Header(*np.lib.format.read_array_header_1_0(file, MAX_HEADER_BYTES))
    elif version in ((2, 0), (3, 0)):  # 3.0 differs in the encoding of field names, which no array of numbers has
        header = Header(*np.lib.format.read_array_header_2_0(file, MAX_HEADER_BYTES))
    else:
        raise ValueError(f"version {version} of the .npy format is not supported")
    if header.dtype.hasobject:
        raise ValueError("it contains Python objects")
    if not header.dtype.itemsize:
        raise ValueError("its elements have no size")
    return header


class StoredArray(NamedTuple):
    """An array in a file: its name (empty in an .npy file), its header, and a function that opens it."""

    path: Path
    name: str
    header: Header
    open: Callable[[], IO[bytes]]

    def read(self) -> np.ndarray:
        """Read the data: a writable array. UserError if it claims too much memory; ValueError if it is truncated."""
        size = self.header.nbytes
        check_unpacked(f"{self.name} in {self.path}" if self.name else self.path, size, bytes_on_disk([self.path]))
        content = np.empty(size, np.uint8)
        with self.open() as file:
            read_header(file)
            read_into(file, content)
            file.read(1)  # at the end of a zip member, its checksum is compared
        return content.view(self.header.dtype).reshape(
            self.header.shape, order="F" if self.header.fortran_order else "C"
        )


class RowsInFile:
    """Images (N, H, W, C) uint8 in an .npy file, in C order, which are read when they are indexed.

    ValueError if the file is truncated.
    Not a memory map: if the file is truncated later, reading it is an error and does not end the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape, self.nbytes = path, shape, math.prod(shape)
        with path.open("rb") as file:
            read_header(file)
            self.start = file.tell()
        if path.stat().st_size < self.start + self.nbytes:
            raise ValueError("truncated")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, end, _ = rows.indices(len(self))
        bytes_per_row = math.prod(self.shape[1:])
        content = np.empty((end - first) * bytes_per_row, np.uint8)
        with self.path.open("rb") as file:
            file.seek(self.start + first * bytes_per_row)
            read_into(file, content)
        return content.reshape(end - first, *self.shape[1:])


def read_into(file: IO[bytes], content: np.ndarray) -> None:
    """Fill an array (N,) uint8 with the next N bytes of a file. ValueError if it has fewer."""
    size = 0
    while size < len(content):
        block = file.read(min(BLOCK, len(content) - size))
        if not block:
            raise ValueError(f"truncated: {size} of {len(content)} bytes")
        content[size : size + len(block)] = np.frombuffer(block, np.uint8)
        size += len(block)


@contextmanager
def open_arrays(path: Path) -> Iterator[list[StoredArray]]:
    """Open an .npy or .npz file and yield its arrays, whose data are not read yet. The content decides the format.

    ValueError, EOFError or zipfile.BadZipFile if the file is damaged.
    """
    with path.open("rb") as file:
        if file.read(4) not in (b"PK\3\4", b"PK\5\6"):
            file.seek(0)
            yield [StoredArray(path, "", read_header(file), lambda: path.open("rb"))]
            return
        with zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if len(infos) > MAX_MEMBERS:
                raise ValueError(f"{len(infos)} arrays, more than {MAX_MEMBERS}")
            arrays = []
            for info in infos:
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise ValueError(f"{info.filename} has an unsupported compression method: {info.compress_type}")
                with archive.open(info) as member:
                    header = read_header(member)
                name = printable(info.filename.removesuffix(".npy"))
                arrays.append(StoredArray(path, name, header, partial(archive.open, info)))
            yield arrays
