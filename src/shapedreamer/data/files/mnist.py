"""MNIST and Fashion-MNIST: grey images, 28x28, of ten kinds; 60,000 to train on and 10,000 held out.

Both are four IDX files. An IDX file is two zero bytes, the type of its numbers (8: unsigned bytes), how many dimensions
it has, the size of each as four bytes, the highest first, and then the numbers and nothing else.
"""

import gzip
import math
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path
from typing import Literal

import numpy as np

from ...common.errors import UserError
from ..arrays import Arrays, first, one_hot
from .download import RemoteFile, cache_folder, fetch

Name = Literal["mnist", "fashion_mnist"]

SIZE = 28
LABELS: dict[Name, tuple[str, ...]] = {
    "mnist": ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    "fashion_mnist": (
        "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
    ),
}  # fmt: skip

FILE_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


def _files(mirrors: tuple[str, str], sha256: tuple[str, str, str, str]) -> tuple[RemoteFile, ...]:
    return tuple(
        RemoteFile(name, digest, tuple(mirror + name for mirror in mirrors))
        for name, digest in zip(FILE_NAMES, sha256, strict=True)
    )


FILES: dict[Name, tuple[RemoteFile, ...]] = {
    "mnist": _files(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion_mnist": _files(
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}

GZIP = b"\x1f\x8b"  # what a gzip file starts with, and an IDX file never does
UNSIGNED_BYTES = 8
MOST_DIMENSIONS = 32  # of an array in any numpy
BLOCK = 2**20


def load(name: Name, path: Path | None = None, samples: int | None = None) -> tuple[Arrays, Arrays]:
    """What to train on, 60,000 images or `samples` of them, and the 10,000 held-out ones; labels (N, 10) are one-hot.

    path: a folder that holds the four files under their usual names, with or without .gz; nothing is downloaded then.
          None: they are taken from the cache folder, and what is missing there is downloaded.
    UserError if files are missing, damaged, or not what the name says.
    """
    files = fetch(FILES[name], cache_folder(name)) if path is None else _find(path)
    train_images, train_labels, held_out_images, held_out_labels = files
    return first(_arrays(name, train_images, train_labels), samples), _arrays(name, held_out_images, held_out_labels)


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, plain or gzipped (by its content, whatever its name); writable.

    UserError, naming the file and what is wrong, if it is not exactly that.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(GZIP)) == GZIP
            file.seek(0)
            return _parse(gzip.GzipFile(fileobj=file) if zipped else file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(file: BufferedIOBase, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise UserError(f"{path} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}, not with 00 00 08")
    _, _, kind, dimensions = magic
    if kind != UNSIGNED_BYTES:
        raise UserError(f"{path} holds numbers of type {kind:#04x}, and must hold unsigned bytes, type 0x08")
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise UserError(f"{path} says that it has {dimensions} dimensions, and must have 1 to {MOST_DIMENSIONS}")
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise UserError(f"{path} is cut short: it ends within its sizes; get it again")
    shape = struct.unpack(f">{dimensions}I", header)
    if 0 in shape:
        raise UserError(f"{path} says that its size is {shape}: it holds nothing")
    size = math.prod(shape)
    content = bytearray()
    # block by block, so that memory is taken for what is there, and never for what the header or a zip bomb promises
    while len(content) <= size and (block := file.read(BLOCK)):
        content += block
    if len(content) != size:
        found = f"only {len(content)}" if len(content) < size else "more"
        raise UserError(f"{path} is damaged: its size {shape} means {size} bytes, and it has {found}; get it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _find(folder: Path) -> list[Path]:
    """The four files, however they are spelled, in the order of FILE_NAMES."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one that holds {', '.join(FILE_NAMES)}")
    found, missing = [], []
    for name in FILE_NAMES:
        plain = name.removesuffix(".gz")
        dotted = plain.replace("-idx", ".idx")
        spellings = [folder / spelling for spelling in (plain, f"{plain}.gz", dotted, f"{dotted}.gz")]
        there = next((path for path in spellings if path.is_file()), None)
        if there:
            found.append(there)
        else:
            missing.append(name)
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)} (with or without .gz)")
    return found


def _arrays(name: Name, images_file: Path, labels_file: Path) -> Arrays:
    images, labels = read_idx(images_file), read_idx(labels_file)
    if images.shape[1:] != (SIZE, SIZE):
        raise UserError(f"{images_file} has the size {images.shape}, and must have (N, {SIZE}, {SIZE})")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{labels_file} has the size {labels.shape}, and must have {images.shape[:1]}, a label an image"
        )
    if labels.max() >= len(LABELS[name]):
        raise UserError(f"{labels_file} has a label {labels.max()}, and labels are 0 to {len(LABELS[name]) - 1}")
    return Arrays(name, images[..., None], one_hot(labels, len(LABELS[name])), LABELS[name])
