"""The tiles of the game Dungeon Crawl Stone Soup, which are free to use for any purpose (CC0).

The repository github.com/crawl/tiles stores them as 32x32 PNG files with transparent backgrounds. `fetch_dcss`
downloads them, and `read_tiles` scales them to 16x16 on white. It leaves out the folder UNUSED, images of other sizes,
tiles with fewer than 16 visible pixels, and all but the first of identical tiles. 3,893 tiles remain, each labelled by
its folder. The skill icons are drawn in white, so 32 icons are white on white.
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
from ..limits import MAX_MEMBERS, MAX_UNPACKED_BYTES, MAX_ZIP_MEMBERS, printable
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
MIN_VISIBLE_PIXELS = 16

RELEASE = "Nov-2015"
ARCHIVE = RemoteFile(
    name="crawl-tiles.zip",
    sha256="",  # GitHub may pack the archive differently each time; TILES_SHA256 checks the tiles in it
    urls=(
        "https://github.com/crawl/tiles/archive/a6ea1655db5c044829d9eea19a232fa6fcac87b0.zip",
        "https://codeload.github.com/crawl/tiles/zip/refs/heads/master",
    ),
)
TILES_SHA256 = "ec8d40e8801ebb0d7d03fa9b692cb544549112c941d20e391d0400437513dff6"  # see _digest

GZIP_MAGIC = b"\x1f\x8b"
TILE_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 2 * SIZE, 2 * SIZE)
# The path of a tile, relative to a release or to any folder above it. No part starts with a dot, so none is "..".
TILE_NAME = re.compile(rf"(?:(?:.*/)?{RELEASE}/)?((?:{'|'.join(LABEL_OF_FOLDER)})(?:/[^./\\:\0][^/\\:\0]*)+(?<=\.png))")


def fetch_dcss(folder: Path | None = None) -> Path:
    """Return the folder of the tiles' PNG files, inside `folder` or the cache; download them if they are missing.

    An incomplete download leaves no such folder. UserError if the tiles on disk have been modified, if the download has
    the wrong content, or if downloading or storing the tiles fails.
    """
    release = (folder or cache_folder("dcss")) / RELEASE
    if not release.exists():
        [archive] = fetch([ARCHIVE], release.parent)
        _unpack(archive, release)
    elif _digest(_tile_files(release)) != TILES_SHA256:
        raise UserError(f"the tiles in {release} have been modified; move or delete this folder to download them again")
    return release


def find_tiles(folder: Path) -> Path | None:
    """Find the tiles in a folder: return the folder of a release, the downloaded archive, or None if neither exists."""
    for release in (folder, folder / RELEASE, folder / "releases" / RELEASE):
        if any((release / name).is_dir() for name in LABEL_OF_FOLDER):
            return release
    archive = folder / ARCHIVE.name
    return archive if archive.is_file() else None


def read_tiles(source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 16, 16, 3) uint8 and classes (N,), which index LABELS, sorted by folder and name.

    source: the folder of a release, or a zip or tar.gz that contains one. UserError if a file in it is damaged or it
    contains no tile.
    """
    files = _tile_files(source)
    tiles: dict[bytes, np.ndarray] = {}
    classes = []
    for name in sorted(files, key=_sort_key):
        tile = _decode(files[name], f"{name} in {source}")
        if tile is not None and tile.tobytes() not in tiles and (tile[..., 3] > 0).sum() >= MIN_VISIBLE_PIXELS:
            tiles[tile.tobytes()] = tile
            classes.append(LABELS.index(LABEL_OF_FOLDER[name.split("/")[0]]))
    if not tiles:
        raise UserError(f"{source} contains no {2 * SIZE}x{2 * SIZE} tiles in the folders {', '.join(LABEL_OF_FOLDER)}")
    return _halve(on_white(np.stack(list(tiles.values())))), np.array(classes)


def on_white(rgba: np.ndarray) -> np.ndarray:
    """Blend images (N, H, W, 4) uint8 with a white background: (N, H, W, 3) float32 in [0, 255]."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


class Member(NamedTuple):
    """A file in an archive: its declared size in bytes, and a function that reads it."""

    size: int
    read: Callable[[], bytes]


@contextmanager
def open_archive(path: Path) -> Iterator[dict[str, Member]]:
    """Open a zip or tar.gz archive and yield its files by name; yield no files if it is neither.

    The content decides the format, not the file's name. Archives are not trusted: links are skipped, and memory use is
    limited to MAX_UNPACKED_BYTES and, for each member that is read, to its declared size. A tar.gz inside a gzip is not
    unpacked. UserError if the archive is damaged, or exceeds MAX_UNPACKED_BYTES, MAX_MEMBERS or MAX_ZIP_MEMBERS.
    """
    with naming_read_errors(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
                _check_member_count(path, len(infos), MAX_ZIP_MEMBERS)
                yield {info.filename: Member(info.file_size, partial(_read_zipped, archive, info)) for info in infos}
        elif _starts_with_gzip(path):
            with gzip.open(path) as file:
                content = file.read(MAX_UNPACKED_BYTES + 1)
            _check_unpacked_size(path, len(content))
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:  # "r" would unpack a gzip in the gzip
                members = {}
                for count, info in enumerate(tar):  # it might never end, as a header can lead back to an earlier one
                    _check_member_count(path, count)
                    if info.isfile():
                        members[info.name] = Member(info.size, partial(_read_tarred, tar, info))
                yield members
        else:
            yield {}


def read_members(path: Path, members: dict[str, Member]) -> dict[str, bytes]:
    """Read members of the open archive `path`; UserError if together they exceed MAX_UNPACKED_BYTES."""
    _check_unpacked_size(path, sum(member.size for member in members.values()))
    return {name: member.read() for name, member in members.items()}


@contextmanager
def naming_read_errors(source: object) -> Iterator[None]:
    """Turn any exception raised while reading a file into a UserError that names `source`."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from error
    except Exception as error:  # on malformed files, libraries raise almost anything, even SystemError
        raise UserError(
            f"{source} is damaged or not the expected kind of file ({printable(str(error))}); get a new copy"
        ) from error


def _check_unpacked_size(path: Path, size: int) -> None:
    if size > MAX_UNPACKED_BYTES:
        raise UserError(f"{path} unpacks to more than {MAX_UNPACKED_BYTES:,} bytes; it is not the expected file")


def _check_member_count(path: Path, count: int, limit: int = MAX_MEMBERS) -> None:
    if count > limit:
        raise UserError(f"{path} contains more than {limit:,} files; it is not the expected file")


def _starts_with_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def _read_zipped(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise zipfile.BadZipFile(f"{info.filename} has an unsupported compression method: {info.compress_type}")
    with archive.open(info) as file:
        return file.read(info.file_size)  # without a limit, more than the declared size could be unpacked


def _read_tarred(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(info)
    return file.read() if file else b""


def _tile_files(source: Path) -> dict[str, bytes]:
    """Return the PNG files of a release, of any size: names such as "mon/orc.png" -> contents."""
    if not source.is_dir():
        with open_archive(source) as members:
            return read_members(source, {m[1]: members[name] for name in members if (m := TILE_NAME.fullmatch(name))})
    paths = {}
    for path in source.rglob("*.png"):
        name = path.relative_to(source).as_posix()
        if TILE_NAME.fullmatch(name) and not path.is_fifo():  # reading a named pipe would block
            paths[name] = path
            _check_member_count(source, len(paths))
    files = {}
    total = 0
    for name, path in paths.items():
        with naming_read_errors(path):
            total += path.stat().st_size
            _check_unpacked_size(source, total)
            files[name] = path.read_bytes()
    return files


def _digest(files: dict[str, bytes]) -> str:
    """Return the SHA-256 of the files' names, sizes and contents, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.hexdigest()


def _unpack(archive: Path, release: Path) -> None:
    """Unpack the archive into the folder of a release, then delete it."""
    files = _tile_files(archive)
    if _digest(files) != TILES_SHA256:  # this checks the names too, so no file can be written elsewhere
        raise UserError(f"{archive} does not contain the expected tiles; delete it to download it again")
    try:
        with TemporaryDirectory(dir=release.parent, prefix=".unpacking-") as temporary:
            unpacked = Path(temporary) / RELEASE
            for name, content in files.items():
                path = unpacked / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            unpacked.rename(release)
        archive.unlink()
    except OSError as error:
        raise UserError(
            f"cannot store files in {release.parent}: {error.strerror or error}; fix this, or choose another folder "
            "with the environment variable SHAPEDREAMER_DATA"
        ) from error


def _sort_key(name: str) -> list[tuple[bool, str]]:
    """A sort key for names, which puts the files of a folder before those of its subfolders."""
    *folders, file = name.split("/")
    return [*((True, folder) for folder in folders), (False, file)]


def _decode(content: bytes, source: str) -> np.ndarray | None:
    """Decode a PNG file to (32, 32, 4) uint8; return None if the image has another size.

    Transparent pixels become 0. Their colour is invisible, and it can differ between tiles that look the same.
    """
    if len(content) < len(TILE_HEADER) or not content.startswith(TILE_HEADER[:16]):
        raise UserError(f"{source} is not a complete PNG file; get a new copy")
    if not content.startswith(TILE_HEADER):
        return None
    with naming_read_errors(source):
        rgba = np.array(Image.open(io.BytesIO(content), formats=["PNG"]).convert("RGBA"))
    return rgba * (rgba[..., 3:] > 0)


def _halve(images: np.ndarray) -> np.ndarray:
    """Halve the size of images (N, 2H, 2W, 3): each pixel is the mean of four, rounded to uint8."""
    # add in a fixed order, which affects the last bit of the sum and so sometimes the rounded mean
    total = images[:, ::2, ::2] + images[:, ::2, 1::2] + images[:, 1::2, ::2] + images[:, 1::2, 1::2]
    return np.rint(total / 4).astype(np.uint8)
