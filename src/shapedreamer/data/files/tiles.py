"""Small pictures from games and fonts, 16x16 RGB on white, from files that their users have or may download.

    course   the sprites of the course "How Diffusion Models Work": two .npy files, which may not be passed on
    dcss     the tiles of Dungeon Crawl Stone Soup: see dcss.py
    emoji    Noto emoji, in one .npz file

Files come from strangers. Nothing is unpickled, and memory is taken for what is there, never for what a header claims.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from ...common.errors import UserError
from ..arrays import Arrays, one_hot, split
from .dcss import (
    LABELS,
    SIZE,
    TILE_NAME,
    fetch_dcss,
    find_tiles,
    naming_damage,
    on_white,
    open_archive,
    read_members,
    read_tiles,
)

Kind = Literal["course", "dcss", "emoji"]

COURSE_IMAGES = "sprites_1788_16x16.npy"
COURSE_LABELS = "sprite_labels_nc_1788_16x16.npy"
COURSE_KINDS = ("human", "non-human", "food", "spell", "side-facing")

# The arrays of an .npz file: images, the number of each image's label, and the labels' names.
NPZ: dict[Kind, tuple[str, str, str]] = {
    "dcss": ("images_rgb16_white", "coarse", "coarse_names"),
    "emoji": ("images_rgba16", "category", "category_names"),
}

FORMS = f"""what is accepted:
  course: a folder with {COURSE_IMAGES} and {COURSE_LABELS}, or either file beside the other
  dcss:   an .npz with {", ".join(NPZ["dcss"])}; or the PNGs of github.com/crawl/tiles, as a folder, .zip or .tar.gz
  emoji:  an .npz with {", ".join(NPZ["emoji"])}"""


def load(path: Path | None, samples: int | None = None) -> tuple[Arrays, Arrays]:
    """What to train on, all of it or `samples` images, and what is held out; labels are one-hot.

    path: any of the forms; None: the dcss tiles, downloaded when they are first wanted.
    UserError, naming the file and the row, if anything is missing, damaged, or not of its form.
    """
    _, read = _identify(fetch_dcss() if path is None else path)
    return split(read(), samples)


def kind_of(path: Path) -> Kind:
    """Which set of pictures lies at a path, by what is there. UserError, with what is accepted, if it is none."""
    kind, _ = _identify(path)
    return kind


def _identify(path: Path) -> tuple[Kind, Callable[[], Arrays]]:
    """Which set lies at a path, and what reads it."""
    if path.is_dir():
        if any((path / name).is_file() for name in (COURSE_IMAGES, COURSE_LABELS)):
            return "course", partial(_course, path)
        if place := find_tiles(path):
            return "dcss", partial(_tiles, place)
    elif path.is_file():
        if path.name in (COURSE_IMAGES, COURSE_LABELS):
            return "course", partial(_course, path.parent)
        with open_archive(path) as members:
            names = set(members)
        for kind, arrays in NPZ.items():
            if names.intersection(f"{array}.npy" for array in arrays):
                return kind, partial(_npz, path, kind)
        if any(map(TILE_NAME.fullmatch, names)):
            return "dcss", partial(_tiles, path)
    else:
        raise UserError(f"there is no file or folder {path}; {FORMS}")
    raise UserError(f"{path} is none of the sets of pictures that are known, or is damaged; {FORMS}")


def _course(folder: Path) -> Arrays:
    images = _from_npy(folder / COURSE_IMAGES, np.uint8, (SIZE, SIZE, 3))
    labels = _from_npy(folder / COURSE_LABELS, np.float64, (len(COURSE_KINDS),))
    if len(labels) != len(images):
        raise UserError(f"{folder / COURSE_LABELS} has {len(labels)} rows, and {COURSE_IMAGES} has {len(images)}")
    right = ((labels == 1).sum(1) == 1) & ((labels == 0).sum(1) == len(COURSE_KINDS) - 1)
    if not right.all():
        row = int(right.argmin())
        raise UserError(f"{folder / COURSE_LABELS}: row {row} is {labels[row].tolist()}, and must be a 1 and four 0")
    return Arrays("course", images, labels, COURSE_KINDS)


def _tiles(place: Path) -> Arrays:
    images, classes = read_tiles(place)
    return Arrays("dcss", images, one_hot(classes, len(LABELS)), LABELS)


def _npz(path: Path, kind: Kind) -> Arrays:
    wanted = NPZ[kind]
    with open_archive(path) as members:
        if missing := [name for name in wanted if f"{name}.npy" not in members]:
            raise UserError(f"{path} has no array {', '.join(missing)}; {FORMS}")
        content = read_members(path, {name: members[f"{name}.npy"] for name in wanted})
    pictures, numbers, names = wanted
    channels = 4 if kind == "emoji" else 3
    images = _parse(content[pictures], f"{pictures} in {path}", np.uint8, (SIZE, SIZE, channels))
    classes = _parse(content[numbers], f"{numbers} in {path}", np.integer, ())
    with naming_damage(f"{names} in {path}"):  # until they become strings, letters may be any numbers
        labels = _parse(content[names], f"{names} in {path}", np.str_, ()).tolist()
    if not all(labels) or len(set(labels)) < len(labels):
        raise UserError(f"{names} in {path} must be different names, and are {labels}")
    if len(classes) != len(images):
        raise UserError(f"{numbers} in {path} has {len(classes)} rows, and {pictures} has {len(images)}")
    right = (classes >= 0) & (classes < len(labels))
    if not right.all():
        row = int(right.argmin())
        raise UserError(f"{numbers} in {path}: row {row} is {classes[row]}, and must be 0 to {len(labels) - 1}")
    if kind == "emoji":
        images = np.rint(on_white(images)).astype(np.uint8)
    return Arrays(kind, images, one_hot(classes, len(labels)), labels)


def _from_npy(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    with naming_damage(path):
        content = path.read_bytes()
    return _parse(content, str(path), kind, shape)


def _parse(content: bytes, source: str, kind: type, shape: tuple[int, ...]) -> np.ndarray:
    """The array in an .npy file, N rows of numbers of this kind and this shape. It shares memory with `content`."""
    file = io.BytesIO(content)
    with naming_damage(source):
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, column_major, dtype = read_header(file)
        if found[1:] != shape or not found[:1] > (0,) or not np.issubdtype(dtype, kind):
            wanted = ", ".join(["N", *map(str, shape)])
            raise UserError(f"{source} is {found} {dtype}, and must be ({wanted}) {kind.__name__}, with N at least 1")
        array = np.frombuffer(content, dtype, offset=file.tell())
        return array.reshape(found, order="F" if column_major else "C")
