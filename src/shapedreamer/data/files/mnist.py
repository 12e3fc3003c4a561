"""MNIST and Fashion-MNIST: 28x28 greyscale images in ten classes, 60,000 for training and 10,000 held out.

Each data set is four IDX files. An IDX file consists of two zero bytes, a byte for the data type (8: unsigned bytes), a
byte for the number of dimensions, the size of each dimension (four bytes, big-endian), and the data.
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
from ..limits import FREE_BYTES, allowed_bytes, bytes_on_disk, check_unpacked
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

TORCHVISION: dict[Name, str] = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # its folders below `root`
GZIP_MAGIC = b"\x1f\x8b"  # the start of a gzip file; an IDX file starts with zeros
UNSIGNED_BYTES = 8
MAX_DIMENSIONS = 32  # the limit of numpy 1
BLOCK = 2**20  # bytes


def load(name: Name, path: Path | None = None, samples: int | None = None) -> tuple[Arrays, Arrays]:
    """Return the training data, 60,000 images or `samples` of them, and the 10,000 held-out images.

    Labels (N, 10) are one-hot.
    path: a folder that contains the four files under their usual names, with or without .gz, or the `root` that they
          were downloaded to with torchvision. Nothing is downloaded.
          None: use the cache folder, and download the files that it lacks.
    UserError if files are missing, damaged or have the wrong content.
    """
    files = fetch(FILES[name], cache_folder(name)) if path is None else _find(name, path)
    train_images, train_labels, held_out_images, held_out_labels = files
    return first(_arrays(name, train_images, train_labels), samples), _arrays(name, held_out_images, held_out_labels)


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes into a writable array.

    The content, not the name, shows whether it is gzipped. UserError, with the file and the fault, if it is invalid or
    claims more memory than limits.py allows for its size on disk.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            file.seek(0)
            return _parse(gzip.GzipFile(fileobj=file) if zipped else file, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged ({error}); get a new copy") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _parse(file: BufferedIOBase, path: Path) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise UserError(f"{path} is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}, not with 00 00 08")
    _, _, kind, dimensions = magic
    if kind != UNSIGNED_BYTES:
        raise UserError(f"{path} contains data of type {kind:#04x}; it must contain unsigned bytes, type 0x08")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise UserError(
            f"{path} has {dimensions} dimensions according to its header; it must have 1 to {MAX_DIMENSIONS}"
        )
    header = file.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise UserError(f"{path} is truncated: it ends inside the header; get a new copy")
    shape = struct.unpack(f">{dimensions}I", header)
    if 0 in shape:
        raise UserError(f"{path} is empty: according to its header, its shape is {shape}")
    size = math.prod(shape)
    on_disk = bytes_on_disk([path])
    content = bytearray()
    # read in blocks, so that neither a wrong header nor a zip bomb can use up the memory
    limit = size if size <= allowed_bytes(on_disk) else FREE_BYTES
    while len(content) <= limit and (block := file.read(BLOCK)):
        content += block
    if limit < len(content) < size:
        check_unpacked(f"{path}, of shape {shape},", size, on_disk)
    if len(content) != size:
        found = f"only {len(content)}" if len(content) < size else "more"
        raise UserError(f"{path} is damaged: its shape {shape} needs {size} bytes, but it has {found}; get a new copy")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _find(name: Name, folder: Path) -> list[Path]:
    """Return the paths of the four files, in the order of FILE_NAMES; several spellings of the names are accepted.

    The files may also be where torchvision puts them, in the subfolder TORCHVISION[name] or `raw`.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; pass a folder that contains {', '.join(FILE_NAMES)}")
    places = [folder, folder / "raw", folder / TORCHVISION[name] / "raw"]
    found = [[_spelled(place, file) for file in FILE_NAMES] for place in places]
    best = min(found, key=lambda files: files.count(None))  # the first one, if several have equally many
    missing = [file for file, path in zip(FILE_NAMES, best, strict=True) if path is None]
    if missing:
        raise UserError(f"{folder} does not contain {', '.join(missing)} (with or without .gz)")
    return [path for path in best if path]


def _spelled(folder: Path, name: str) -> Path | None:
    """The file of this name in a folder, under the usual spellings; None if there is none."""
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    spellings = (folder / spelling for spelling in (plain, f"{plain}.gz", dotted, f"{dotted}.gz"))
    return next((path for path in spellings if path.is_file()), None)


def _arrays(name: Name, images_file: Path, labels_file: Path) -> Arrays:
    images = read_idx(images_file)
    if images.shape[1:] != (SIZE, SIZE):
        raise UserError(f"{images_file} has shape {images.shape}; it must be (N, {SIZE}, {SIZE})")
    labels = read_idx(labels_file)
    if labels.shape != images.shape[:1]:
        raise UserError(f"{labels_file} has shape {labels.shape}; it must be {images.shape[:1]}, one label per image")
    if labels.max() >= len(LABELS[name]):
        raise UserError(f"{labels_file} contains the label {labels.max()}; labels must be 0 to {len(LABELS[name]) - 1}")
    return Arrays(name, images[..., None], one_hot(labels, len(LABELS[name])), LABELS[name])
