"""Damaged files for every reader: a valid file with bytes changed, cut or inserted. Only UserError may be raised.

`python -m tests.data.fuzz N` tries N files of each kind. test_fuzz.py tries a few hundred.
"""

import contextlib
import gzip
import io
import random
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from shapedreamer.common.errors import UserError
from shapedreamer.data.files import folder, mnist, tiles
from shapedreamer.data.spec import DataSpec
from shapedreamer.imaging.editing import read_image

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (12, 16, 16, 3), np.uint8)
SPEC = DataSpec("fuzz", 3, 16, 16, ())
# bytes that mean something: sizes, signs, and the separators of headers
INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0",
    b"9" * 9,
    b"-",
    b"(",
    b",",
    b"O",
    b"\n",
)


def picture(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, form, **options)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(save: Callable[..., None], arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def tile() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[0].repeat(2, 0).repeat(2, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def tar_gz() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        info = tarfile.TarInfo("mon/a.png")
        info.size = len(tile())
        tar.addfile(info, io.BytesIO(tile()))
    return buffer.getvalue()


def tiles_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("mon/a.png", tile())
    return buffer.getvalue()


def idx() -> bytes:
    return bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 28, 0, 0, 0, 28]) + bytes(2 * 784)


EMOJI = {
    "images_rgba16": GENERATOR.integers(0, 256, (12, 16, 16, 4), np.uint8),
    "category": np.arange(12) % 3,
    "category_names": np.array(["a", "b", "c"]),
}


def read_folder(path: Path) -> None:
    folder.load(path.parent)
    folder.load(path.parent, (8, 8), "crop")


def read_picture(path: Path) -> None:
    read_image(path, SPEC)


# name of the file -> a valid content, whether it is packed in a gzip after it is damaged, and how to read it
READERS: dict[str, tuple[bytes, bool, Callable[[Path], object]]] = {
    "a.png": (picture("PNG"), False, read_folder),
    "a.jpg": (picture("JPEG"), False, read_folder),
    "b.jpg": (picture("JPEG", progressive=True), False, read_folder),
    "a.webp": (picture("WEBP"), False, read_folder),
    "b.webp": (picture("WEBP", lossless=True), False, read_folder),
    "a.gif": (picture("GIF"), False, read_folder),
    "a.bmp": (picture("BMP"), False, read_folder),
    "a.npy": (npy(PIXELS[:2]), False, read_folder),
    "a.npz": (npz(np.savez_compressed, {"images": PIXELS, "labels": np.arange(12)}), False, read_folder),
    "b.npz": (npz(np.savez, {"images": PIXELS[:2], "labels": np.eye(2)}), False, read_folder),
    "c.npz": (npz(np.savez_compressed, EMOJI), False, tiles.load),
    "d.npz": (npz(np.savez, EMOJI), False, tiles.load),
    "a.tar.gz": (tar_gz(), False, tiles.load),
    "b.tar.gz": (gzip.decompress(tar_gz()), True, tiles.load),
    "a.zip": (tiles_zip(), False, tiles.load),
    "a.idx": (idx(), False, mnist.read_idx),
    "a.idx.gz": (gzip.compress(idx()), False, mnist.read_idx),
    "b.idx.gz": (idx(), True, mnist.read_idx),
    "explore.png": (picture("PNG"), False, read_picture),
    "explore.tif": (picture("TIFF"), False, read_picture),
    "explore.gif": (picture("GIF"), False, read_picture),
    "explore.ppm": (picture("PPM"), False, read_picture),
    "explore.tga": (picture("TGA"), False, read_picture),
}


def damage(content: bytes, draw: random.Random) -> bytes:
    """The content with one to four changes, most of them near its start, where the headers are."""
    damaged = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        near = draw.random() < 0.6
        place = draw.randrange(max(1, min(len(damaged), 120 if near else len(damaged))))
        match draw.randrange(6):
            case 0:
                damaged[place : place + 1] = bytes([draw.randrange(256)])
            case 1:
                damaged[place : place + 1] = bytes([damaged[place] ^ 1 << draw.randrange(8)]) if damaged else b""
            case 2:
                value = draw.choice(INTERESTING)
                damaged[place : place + len(value)] = value
            case 3:
                damaged[place:place] = draw.choice(INTERESTING)
            case 4:
                end = place + draw.randrange(40)
                damaged[end:end] = damaged[place:end]
            case _:
                del damaged[place : place + draw.choice((1, 4, 40, len(damaged)))]
    return bytes(damaged)


def check(name: str, seed: int) -> None:
    """Read one damaged file. Raises whatever is not a UserError, and AssertionError if the error is not one line."""
    content, gzipped, read = READERS[name]
    damaged = damage(content, random.Random(f"{name} {seed}"))
    with tempfile.TemporaryDirectory() as root, warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # Pillow and NumPy warn about damage that they can tolerate
        path = Path(root) / "files" / name
        path.parent.mkdir()
        path.write_bytes(gzip.compress(damaged, 1) if gzipped else damaged)
        try:
            read(path)
        except UserError as error:
            message = str(error).replace(tiles.ACCEPTED, "")  # a list on several lines
            assert len(message.splitlines()) == 1, (name, seed, message)


def main(count: int) -> None:
    for name in READERS:
        for seed in range(count):
            try:
                check(name, seed)
            except BaseException:
                print(f"failed: check({name!r}, {seed})")
                raise
        print(f"{name}: {count} files", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
