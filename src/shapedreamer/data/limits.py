"""How much memory and time a file may take. A file is measured before it is decoded, and no claim in it is believed.

A small file can claim, or unpack to, gigabytes. So each reader compares what a file claims with these limits before it
allocates memory, and unpacks compressed data in blocks that stop at a limit. With these limits a file of a few
megabytes takes less than 1 GB of memory. Larger data sets may use more, in proportion to their size on disk.
"""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from unicodedata import category

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from ..common.errors import UserError

# A picture file. At 50 million pixels (more than most cameras have), decoding and blending takes about 600 MB.
MAX_PICTURE_PIXELS = 50_000_000
MAX_WEBP_PIXELS = 40_000_000  # its decoder needs more memory
MAX_PICTURE_SIDE = 65_535  # the maximum of JPEG and GIF; decoders allocate multiples of a row
MAX_PICTURE_BYTES = 2**28  # of the file: more than 50 million pixels take without compression
SCAN_MARKER = b"\xff\xda"  # before each scan of a JPEG
TIFF_TILE_TAGS = (322, 323)  # TileWidth and TileLength
MAX_TILE_SIDE = 4096
MAX_SCAN_PIXELS = 10**9  # pixels x scans of a progressive JPEG, which is decoded once for each scan

# An image to train on, after resizing. 2048x2048 is far more than these networks can learn in days.
MAX_IMAGE_PIXELS = 2**22

# A data set in memory: FREE_BYTES, or up to MAX_RATIO times its size on disk if that is more. Photographs unpack to
# 10 or 20 times their size, pixel art to 50 times; a bomb to 1,000 times. Uncompressed files fit.
FREE_BYTES = 2**27
MAX_RATIO = 64
MAX_DATA_BYTES = 2**33
CONTAINER_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
MIN_BYTES_PER_IMAGE = 2048  # what an image counts at least, as each one takes time too, however small it is

# An archive, or an .npz or .npy file of sprites. The Dungeon Crawl tiles have 20 MB in 10,000 files.
MAX_UNPACKED_BYTES = 2**27
MAX_MEMBERS = 50_000  # of a tar.gz or .npz
MAX_ZIP_MEMBERS = 200_000  # which are listed faster; the one that is downloaded holds several releases

# A folder: visited folders and files. Links can make a few folders look like millions.
MAX_FOLDERS = 20_000
MAX_FILES = 2_000_000
MAX_IMAGES = 10_000_000  # that are read from disk for each batch; memory holds about 75 bytes for each

# Labels: an image has a number for each of them.
MAX_LABELS = 1000
MAX_LABEL_LENGTH = 255  # characters; the limit of file names

UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, line and paragraph separators

MAX_DOWNLOAD_BYTES = 2**28  # of one file; the largest that is downloaded has 31 MB


def bytes_on_disk(paths: Iterable[Path]) -> int:
    """The bytes that files occupy on disk. The holes of sparse files do not count."""
    total = 0
    for path in paths:
        try:
            total += occupied_bytes(path.stat())
        except OSError:  # such as a broken link; reading it reports the error
            continue
    return total


def occupied_bytes(status: os.stat_result) -> int:
    """The bytes that a file occupies on disk, from its status."""
    blocks = getattr(status, "st_blocks", None)  # of 512 bytes; Windows has none
    return status.st_size if blocks is None else min(status.st_size, 512 * blocks)


def max_bytes_in_memory() -> int:
    """How many bytes of images are held in memory on this machine. More are read from disk for each batch.

    An eighth of the memory, since splitting copies the images, and 4 GB at most.
    """
    memory = [MAX_DATA_BYTES * 4]
    if hasattr(os, "sysconf"):  # not on Windows
        memory.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
            memory.append(int(limit.read_text()))
    return min(memory) // 8


def allowed_bytes(on_disk: int) -> int:
    """How many bytes a data set of this size on disk may occupy in memory."""
    return min(MAX_DATA_BYTES, max(FREE_BYTES, MAX_RATIO * on_disk))


def check_unpacked(source: object, claimed: int, on_disk: int) -> None:
    """UserError if something that occupies on_disk bytes claims more memory than it may use.

    source: what to call it in the error
    """
    allowed = allowed_bytes(on_disk)
    if claimed > allowed:
        raise UserError(
            f"{source} claims {megabytes(claimed)} of data but has {megabytes(on_disk)} on disk; at most "
            f"{megabytes(allowed)} are unpacked. If these are your data, save them without compression (numpy.savez) "
            "or split them; otherwise remove the file"
        )


def check_picture(picture: Image.Image, path: Path) -> None:
    """ValueError if an opened picture, which is not decoded yet, is too large to decode."""
    pixels = picture.width * picture.height
    size = f"{picture.height}x{picture.width} pixels (height x width)"
    max_pixels = MAX_WEBP_PIXELS if picture.format == "WEBP" else MAX_PICTURE_PIXELS
    if pixels > max_pixels or max(picture.size) > MAX_PICTURE_SIDE:
        raise ValueError(
            f"{size}, which may be a decompression bomb; at most {max_pixels:,} pixels and "
            f"{MAX_PICTURE_SIDE:,} on a side are read: resize it"
        )
    if picture.format == "JPEG":
        scans = path.read_bytes().count(SCAN_MARKER)
        if scans * pixels > MAX_SCAN_PIXELS:
            raise ValueError(f"{size} in {scans} scans, which may be a decompression bomb; save it as a baseline JPEG")
    if isinstance(picture, TiffImageFile):  # it is decoded tile by tile, and tiles may be larger than the picture
        for tag in TIFF_TILE_TAGS:
            if picture.tag_v2.get(tag, 0) > MAX_TILE_SIDE:
                raise ValueError(
                    f"{size} in tiles of more than {MAX_TILE_SIDE} pixels on a side; save it as a PNG file"
                )


def megabytes(size: int) -> str:
    """A size in words: 1500000 -> "1.5 MB"."""
    return f"{size / 1e6:,.1f} MB"


def printable(text: str) -> str:
    """The text on one line that any terminal can show: line breaks, escape codes and invalid characters are escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if category(character) in UNPRINTABLE else character
        for character in text
    )
