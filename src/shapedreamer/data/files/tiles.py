"""Sprites of 16x16 pixels, RGB on white, from files that you have or can download.

    course   the sprites of the course "How Diffusion Models Work": two .npy files, which may not be redistributed
    dcss     the tiles of Dungeon Crawl Stone Soup; see dcss.py
    emoji    Noto emoji, in one .npz file

Files are not trusted: nothing is unpickled, and memory use depends on the data in a file, not on what a header claims.
limits.py says how much is unpacked.
"""

import io
import math
import reprlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ...common.errors import UserError
from ..arrays import Arrays, one_hot, split
from ..limits import (
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MIN_BYTES_PER_IMAGE,
    allowed_bytes,
    bytes_on_disk,
    check_unpacked,
    megabytes,
    printable,
)
from .dcss import (
    LABELS,
    SIZE,
    TILE_NAME,
    fetch_dcss,
    find_tiles,
    naming_read_errors,
    on_white,
    open_archive,
    read_members,
    read_tiles,
)

BLOCK_IMAGES = 4096  # that are blended with white together
Kind = Literal["course", "dcss", "emoji"]

COURSE_IMAGES = "sprites_1788_16x16.npy"
COURSE_LABELS = "sprite_labels_nc_1788_16x16.npy"
COURSE_CLASSES = ("human", "non-human", "food", "spell", "side-facing")

# The arrays in an .npz file: images, class numbers, and the names of the classes.
NPZ_KEYS: dict[Kind, tuple[str, str, str]] = {
    "dcss": ("images_rgb16_white", "coarse", "coarse_names"),
    "emoji": ("images_rgba16", "category", "category_names"),
}

ACCEPTED = f"""accepted data sets:
  course: a folder with {COURSE_IMAGES} and {COURSE_LABELS}, or the path of either file
  dcss:   an .npz with {", ".join(NPZ_KEYS["dcss"])}; or the PNGs of github.com/crawl/tiles as a folder, .zip or .tar.gz
  emoji:  an .npz with {", ".join(NPZ_KEYS["emoji"])}"""


def load(path: Path | None, samples: int | None = None) -> tuple[Arrays, Arrays]:
    """Return the training data (all of it, or `samples` images) and the held-out data; labels are one-hot.

    path: one of the data sets in ACCEPTED; None for the dcss tiles, which are downloaded on first use.
    UserError, with the file and the row, if anything is missing, damaged or in the wrong format.
    """
    _, read = _identify(fetch_dcss() if path is None else path)
    return split(read(), samples)


def kind_of(path: Path) -> Kind:
    """Return which data set is at a path; UserError, listing the accepted ones, if it is none of them."""
    kind, _ = _identify(path)
    return kind


def _identify(path: Path) -> tuple[Kind, Callable[[], Arrays]]:
    """Return which data set is at a path, and a function that reads it."""
    if path.is_dir():
        if any((path / name).is_file() for name in (COURSE_IMAGES, COURSE_LABELS)):
            return "course", partial(_course, path)
        if source := find_tiles(path):
            return "dcss", partial(_tiles, source)
    elif path.is_file():
        if path.name in (COURSE_IMAGES, COURSE_LABELS):
            return "course", partial(_course, path.parent)
        with open_archive(path) as members:
            names = set(members)
        for kind, arrays in NPZ_KEYS.items():
            if names.intersection(f"{array}.npy" for array in arrays):
                return kind, partial(_npz, path, kind)
        if any(map(TILE_NAME.fullmatch, names)):
            return "dcss", partial(_tiles, path)
    else:
        raise UserError(f"there is no file or folder {path}; {ACCEPTED}")
    raise UserError(f"{path} is not a supported sprite data set, or it is damaged; {ACCEPTED}")


def _course(folder: Path) -> Arrays:
    images = _from_npy(folder / COURSE_IMAGES, np.uint8, (SIZE, SIZE, 3))
    labels = _from_npy(folder / COURSE_LABELS, np.float64, (len(COURSE_CLASSES),))
    if len(labels) != len(images):
        raise UserError(f"{folder / COURSE_LABELS} has {len(labels)} rows, but {COURSE_IMAGES} has {len(images)}")
    valid = ((labels == 1).sum(1) == 1) & ((labels == 0).sum(1) == len(COURSE_CLASSES) - 1)
    if not valid.all():
        row = int(valid.argmin())
        raise UserError(f"{folder / COURSE_LABELS}: row {row} is {labels[row].tolist()}, which is not one-hot")
    return Arrays("course", images, labels, COURSE_CLASSES)


def _tiles(source: Path) -> Arrays:
    images, classes = read_tiles(source)
    return Arrays("dcss", images, one_hot(classes, len(LABELS)), LABELS)


def _npz(path: Path, kind: Kind) -> Arrays:
    with open_archive(path) as members:
        if missing := [name for name in NPZ_KEYS[kind] if f"{name}.npy" not in members]:
            raise UserError(f"{path} has no array {', '.join(missing)}; {ACCEPTED}")
        content = read_members(path, {name: members[f"{name}.npy"] for name in NPZ_KEYS[kind]})
    images_key, classes_key, names_key = NPZ_KEYS[kind]
    channels = 4 if kind == "emoji" else 3
    images = _parse(content[images_key], f"{images_key} in {path}", np.uint8, (SIZE, SIZE, channels))
    classes = _parse(content[classes_key], f"{classes_key} in {path}", np.integer, ())
    with naming_read_errors(f"{names_key} in {path}"):  # tolist() fails on invalid Unicode code points
        names = _parse(content[names_key], f"{names_key} in {path}", np.str_, ())
        if len(names) > MAX_LABELS:
            raise UserError(f"{names_key} in {path} has {len(names)} labels; at most {MAX_LABELS} are supported")
        if names.dtype.itemsize > MAX_LABEL_LENGTH * names.dtype.alignment:
            raise UserError(
                f"{names_key} in {path} is {names.dtype}; a label has at most {MAX_LABEL_LENGTH} characters"
            )
        labels = [printable(name) for name in names.tolist()]
    if not all(labels) or len(set(labels)) < len(labels):
        raise UserError(f"{names_key} in {path} must be distinct, non-empty names, not {reprlib.repr(labels)}")
    if len(classes) != len(images):
        raise UserError(f"{classes_key} in {path} has {len(classes)} rows, but {images_key} has {len(images)}")
    _check_image_count(path, len(images), len(labels))
    valid = (classes >= 0) & (classes < len(labels))
    if not valid.all():
        row = int(valid.argmin())
        raise UserError(f"{classes_key} in {path}: row {row} is {classes[row]}; it must be 0 to {len(labels) - 1}")
    if kind == "emoji":
        blocks = np.array_split(images, math.ceil(len(images) / BLOCK_IMAGES))  # floats need four times the memory
        images = np.concatenate([np.rint(on_white(block)).astype(np.uint8) for block in blocks])
    return Arrays(kind, images, one_hot(classes, len(labels)), labels)


def _check_image_count(path: Path, num: int, labels: int) -> None:
    """UserError if this many images, with their labels as float32, need more memory than a file may use."""
    on_disk = bytes_on_disk([path])
    if num * (MIN_BYTES_PER_IMAGE + 4 * labels) > allowed_bytes(on_disk):
        raise UserError(
            f"{path} has {num:,} images and {labels} labels, too many for a file of {megabytes(on_disk)}; it is not "
            "the expected file"
        )


def _from_npy(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    with naming_read_errors(path):
        check_unpacked(path, path.stat().st_size, bytes_on_disk([path]))
        content = path.read_bytes()
    return _parse(content, str(path), kind, shape)


def _parse(content: bytes, source: str, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    """Parse an .npy file whose array has N ≥ 1 rows of this type and shape. The array shares memory with `content`.

    source: what to call the file in an error
    """
    file = io.BytesIO(content)
    with naming_read_errors(source):
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, column_major, dtype = read_header(file)
        if found[1:] != shape or not found[:1] > (0,) or not np.issubdtype(dtype, kind) or dtype.kind == "m":
            expected = ", ".join(["N", *map(str, shape)])
            raise UserError(f"{source} is {found} {dtype}; it must be ({expected}) {kind.__name__}, with N at least 1")
        array = np.frombuffer(content, dtype, offset=file.tell())
        return array.reshape(found, order="F" if column_major else "C")
