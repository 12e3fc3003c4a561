"""The tiles of the game Dungeon Crawl Stone Soup: pictures that anyone may use for anything (CC0).

The repository github.com/crawl/tiles holds them as PNG files of 32x32 pixels, transparent where there is nothing. Here
they become 16x16 on white. Left out are the folder UNUSED, other sizes, what shows fewer than 16 pixels, and all but
the first of equal ones. 3,893 remain; the label of each is what its folder says. Skills are drawn in white, so 32 icons
are white on white.
"""

import gzip
import hashlib
import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...common.errors import UserError
from .download import RemoteFile, cache_folder, fetch

SIZE = 16
LABELS = ("monster", "item", "terrain", "effect", "player", "icon")
LABEL_OF_FOLDER = {
    "dngn": "terrain",
    "effect": "effect",
    "gui": "icon",
    "item": "item",
    "misc": "icon",
    "mon": "monster",
    "player": "player",
}
FEWEST_PIXELS = 16  # that must show

RELEASE = "Nov-2015"
ARCHIVE = RemoteFile(
    name="crawl-tiles.zip",
    sha256="",  # it is packed anew when it is asked for, so its bytes may change; those of the tiles may not
    urls=(
        "https://github.com/crawl/tiles/archive/a6ea1655db5c044829d9eea19a232fa6fcac87b0.zip",
        "https://codeload.github.com/crawl/tiles/zip/refs/heads/master",
    ),
)
TILES_SHA256 = "ec8d40e8801ebb0d7d03fa9b692cb544549112c941d20e391d0400437513dff6"  # see _digest

MOST_BYTES = 2**27  # that an archive may unpack to
GZIP = b"\x1f\x8b"
TILE_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 2 * SIZE, 2 * SIZE)
# A tile by its name, in a release or in anything that holds one. No part starts with a dot, so none is "..".
TILE_NAME = re.compile(rf"(?:(?:.*/)?{RELEASE}/)?((?:{'|'.join(LABEL_OF_FOLDER)})(?:/[^./\\:\0][^/\\:\0]*)+(?<=\.png))")


def fetch_dcss(folder: Path | None = None) -> Path:
    """The folder of the tiles' PNG files within `folder` (by default the cache); they are downloaded if it is missing.

    It is there as a whole or not at all. UserError if it is no longer what was downloaded, if the download is not what
    it should be, or if there is no way to get it or to keep it.
    """
    release = (folder or cache_folder("dcss")) / RELEASE
    if not release.exists():
        [archive] = fetch([ARCHIVE], release.parent)
        _unpack(archive, release)
    elif _digest(_tile_files(release)) != TILES_SHA256:
        raise UserError(f"the tiles in {release} are not as they were downloaded; move it away, and they will be again")
    return release


def find_tiles(folder: Path) -> Path | None:
    """Where in a folder the tiles are: the folder of a release, or the archive that is downloaded; None if nowhere."""
    for release in (folder, folder / RELEASE, folder / "releases" / RELEASE):
        if any((release / name).is_dir() for name in LABEL_OF_FOLDER):
            return release
    archive = folder / ARCHIVE.name
    return archive if archive.is_file() else None


def read_tiles(place: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 16, 16, 3) uint8 and the numbers of their LABELS (N,), in the order of their folders and names.

    place: the folder of a release, or a zip or tar.gz that holds one. UserError if a file in it is damaged, or if no
    tile is there.
    """
    files = _tile_files(place)
    tiles: dict[bytes, np.ndarray] = {}
    classes = []
    for name in sorted(files, key=_files_before_folders):
        tile = _decode(files[name], f"{name} in {place}")
        if tile is not None and tile.tobytes() not in tiles and (tile[..., 3] > 0).sum() >= FEWEST_PIXELS:
            tiles[tile.tobytes()] = tile
            classes.append(LABELS.index(LABEL_OF_FOLDER[name.split("/")[0]]))
    if not tiles:
        raise UserError(f"{place} holds no picture of {2 * SIZE}x{2 * SIZE} in {', '.join(LABEL_OF_FOLDER)}")
    return _halved(on_white(np.stack(list(tiles.values())))), np.array(classes)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 4) uint8 as they look on a white page: (N, H, W, 3) float32 in [0, 255]."""
    opacity = rgba[..., 3:].astype(np.float32) / 255
    return rgba[..., :3] * opacity + 255 * (1 - opacity)


class Member(NamedTuple):
    """A file in an archive: the size that it claims to have, in bytes, and how to read it."""

    size: int
    read: Callable[[], bytes]


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, Member]]:
    """The files in a zip or tar.gz, told by its content, whatever its name; none if it is neither.

    Nobody needs to trust the archive: links are no files, and nothing takes more memory than MOST_BYTES, or than a
    member's claimed size when that is read. UserError if it is damaged or unpacks to more.
    """
    with naming_damage(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                infos = [info for info in packed.infolist() if not info.is_dir()]
                yield {info.filename: Member(info.file_size, partial(_read_zipped, packed, info)) for info in infos}
        elif _starts_with_gzip(path):
            with gzip.open(path) as file:
                content = file.read(MOST_BYTES + 1)
            _refuse_bomb(path, len(content))
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                yield {info.name: Member(info.size, partial(_read_tarred, tar, info)) for info in tar if info.isfile()}
        else:
            yield {}


def read_members(path: Path, members: dict[str, Member]) -> dict[str, bytes]:
    """The content of members of the archive `path`, while that is open. UserError if all of it is too much."""
    _refuse_bomb(path, sum(member.size for member in members.values()))
    return {name: member.read() for name, member in members.items()}


@contextmanager
def naming_damage(source: object) -> Iterator[None]:
    """Turn what the libraries say of a file that they cannot read into an error that names `source`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    except Exception as error:  # a malformed file makes them raise almost anything, even a SystemError
        raise UserError(f"{source} is damaged, or not what its name says ({error}); get it again") from error


def _refuse_bomb(path: Path, size: int) -> None:
    if size > MOST_BYTES:
        raise UserError(f"{path} unpacks to more than {MOST_BYTES:,} bytes: it is not what it should be")


def _starts_with_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP)) == GZIP


def _read_zipped(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{info.filename} is packed by a method that is not expected: {info.compress_type}")
    with packed.open(info) as file:
        return file.read(info.file_size)  # without a number it would unpack all that there is, whatever it claims


def _read_tarred(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    return file.read() if file else b""


def _tile_files(place: Path) -> dict[str, bytes]:
    """The PNG files of a release, whatever their sizes: from names like "mon/orc.png" to contents."""
    if not place.is_dir():
        with open_archive(place) as members:
            return read_members(place, {m[1]: members[name] for name in members if (m := TILE_NAME.fullmatch(name))})
    files = {}
    for path in place.rglob("*.png"):
        name = path.relative_to(place).as_posix()
        if TILE_NAME.fullmatch(name):
            with naming_damage(path):
                files[name] = path.read_bytes()
    return files


def _digest(files: dict[str, bytes]) -> str:
    """SHA-256 over the names and contents of files, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()


def _unpack(archive: Path, release: Path) -> None:
    """Make the folder of a release from the archive, which is then deleted."""
    files = _tile_files(archive)
    if _digest(files) != TILES_SHA256:  # this vouches for the names, too: no others can lead a file elsewhere
        raise UserError(f"{archive} does not hold the tiles that it should; delete it, and it will be downloaded again")
    try:
        with TemporaryDirectory(dir=release.parent, prefix=".unpacking-") as temporary:
            whole = Path(temporary) / RELEASE
            for name, content in files.items():
                path = whole / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            whole.rename(release)
        archive.unlink()
    except OSError as error:
        raise UserError(
            f"cannot keep files in {release.parent}: {error.strerror or error}; mend that, or name another folder in "
            "the environment variable SHAPEDREAMER_DATA"
        ) from error


def _files_before_folders(name: str) -> list[tuple[bool, str]]:
    """What to sort names by, so that the files of a folder come before those of the folders in it."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _decode(content: bytes, source: str) -> np.ndarray | None:
    """A PNG file as (32, 32, 4) uint8, all 0 where it is transparent; None for one of another size.

    What a transparent pixel would look like is of no account, and differs between tiles that look the same.
    """
    if len(content) < len(TILE_HEADER) or not content.startswith(TILE_HEADER[:16]):
        raise UserError(f"{source} is not a PNG file, or not a whole one; get it again")
    if not content.startswith(TILE_HEADER):
        return None
    with naming_damage(source):
        rgba = np.array(Image.open(io.BytesIO(content), formats=["PNG"]).convert("RGBA"))
    return rgba * (rgba[..., 3:] > 0)


def _halved(images: np.ndarray) -> np.ndarray:
    """Images (N, 2H, 2W, 3) at half their size, rounded to uint8: each pixel is the mean of four."""
    # one by one, since the last bit of a sum, and so at times the rounded mean, depends on the order
    total = images[:, ::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, ::2] + images[:, 1::2, 1::2]
    return np.rint(total / 4).astype(np.uint8)
