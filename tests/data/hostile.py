"""Small files that claim or unpack to gigabytes, or take minutes, for the tests of every door by which a file enters.

`python -m tests.data.hostile FOLDER DOOR …` sends each of them through these doors of the command line, in one process
with little memory, and prints a line of JSON for each: its name, exit code, seconds, the peak of memory so far in MB,
and what was written to stderr. It needs resource, which Windows does not have.
"""

import contextlib
import gzip
import io
import json
import re
import resource
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from shapedreamer.data.files.mnist import FILE_NAMES

MEMORY = 9 * 2**28  # bytes of address space, beside what importing torch takes: 0.6 GB, with CUDA 3 GB
MB = 2**20


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def zeros(num: int) -> bytes:
    """A zlib stream of `num` zeros."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(MB)) for _ in range(num // MB)]
    return b"".join([*parts, packer.compress(bytes(num % MB)), packer.flush()])


def png(width: int, height: int, depth: int, colour: int, *more: bytes, honest: bool = True) -> bytes:
    """A black PNG. honest: it contains the pixels that its header claims, at the cost of a second per gigabyte."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    pixels = zeros(height * (1 + (width * depth * channels + 7) // 8)) if honest else zlib.compress(b"\0")
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(screen: tuple[int, int], frame: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", *screen) + b"\xf0\0\0" + b"\0\0\0\xff\xff\xff"
    return head + b"\x2c" + struct.pack("<HHHH", 0, 0, *frame) + b"\0\x02\x02\x44\x01\0;"


def bmp(width: int, height: int, data: bytes) -> bytes:
    """A BMP with 8 bits per pixel, compressed by run lengths."""
    palette = bytes(1024)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 256, 0)
    start = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + palette + data


def webp(width: int, height: int) -> bytes:
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + struct.pack("<I", width - 1)[:3]
    body = head + struct.pack("<I", height - 1)[:3] + b"VP8L" + struct.pack("<I", 8) + b"\x2f" + bytes(7)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def many_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + (content[last:-2]) * scans + content[-2:]


def npy_header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text


def npz(**arrays: tuple[tuple[int, ...], str, int]) -> bytes:
    """An .npz file of zeros. Each array is (shape, type, bytes that are really there)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for name, (shape, descr, size) in arrays.items():
            with packed.open(f"{name}.npy", "w", force_zip64=True) as file:
                file.write(npy_header(shape, descr))
                for _ in range(size // MB):
                    file.write(bytes(MB))
                file.write(bytes(size % MB))
    return buffer.getvalue()


def idx(shape: tuple[int, ...], size: int) -> bytes:
    buffer = io.BytesIO()
    with gzip.open(buffer, "wb", compresslevel=9) as file:
        file.write(bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape))
        for _ in range(size // MB):
            file.write(bytes(MB))
        file.write(bytes(size % MB))
    return buffer.getvalue()


def nested_tar(size: int) -> bytes:
    """A tar.gz inside a gzip, with a member of `size` zeros."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=9) as file:
        info = tarfile.TarInfo("mon/a.png")
        info.size = size
        file.write(info.tobuf())
        for _ in range(size // MB):
            file.write(bytes(MB))
    return gzip.compress(buffer.getvalue())


def tar_gz(*infos: tuple[str, int], padding: int = 0) -> bytes:
    """A tar.gz of headers that claim sizes, followed by zeros."""
    parts = []
    for name, size in infos:
        info = tarfile.TarInfo(name)
        info.size = size
        parts.append(info.tobuf(tarfile.GNU_FORMAT))
    return gzip.compress(b"".join(parts) + bytes(padding), 1)


def many_members(num: int) -> bytes:
    return gzip.compress(tarfile.TarInfo("mon/a.png").tobuf() * num, 1)


def tiles_zip(num: int, size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for i in range(num):
            packed.writestr(f"mon/{i}.png", bytes(size))
    return buffer.getvalue()


PICTURES: dict[str, Callable[[], bytes]] = {
    "grey.png": lambda: png(9400, 9500, 1, 0),
    "rgba.png": lambda: png(7100, 7100, 8, 6),
    "deep.png": lambda: png(7100, 7100, 16, 0),
    "claims.png": lambda: png(30_000, 30_000, 8, 2, honest=False),
    "overflow.png": lambda: png(2**31 - 1, 2**31 - 1, 8, 6, honest=False),
    "wide.png": lambda: png(40_000_000, 1, 8, 0),
    "text.png": lambda: png(9400, 9500, 8, 0, chunk(b"zTXt", b"a\0\0" + zeros(100 * MB)), honest=False),
    "screen.gif": lambda: gif((9400, 9400), (9400, 9400)),
    "frame.gif": lambda: gif((10, 10), (65_535, 65_535)),
    "big.webp": lambda: webp(16_383, 16_383),
    "delta.bmp": lambda: bmp(40_000_000, 1, b"\0\2\0\xff" * 1000 + b"\0\1"),
    "runs.bmp": lambda: bmp(9400, 9500, b"\xff\0" * 400_000 + b"\0\1"),
    "scans.jpg": lambda: many_scans(2000, 1000),
}

ARRAYS: dict[str, Callable[[], bytes]] = {
    "honest.npz": lambda: npz(a=((300, 1000, 1000), "|u1", 300 * 10**6)),
    "claims.npz": lambda: npz(a=((10**6, 1000, 1000), "|u1", 10)),
    "float.npz": lambda: npz(a=((40, 1000, 1000), "<f8", 320 * 10**6)),
    "overflow.npy": lambda: npy_header((2**40, 2**40)) + b"\0",
    "negative.npy": lambda: npy_header((-5, -5, 3)) + bytes(75),
    "no_size.npy": lambda: npy_header((10**12,), "|S0"),
    "pixels.npz": lambda: npz(a=((2**27, 1, 1, 1), "|u1", 2**27)),
    "rows.npz": lambda: npz(a=((20, 16, 16), "|u1", 5120), labels=((20, 5 * 10**6), "|b1", 10**8)),
    "class.npz": lambda: npz(a=((20, 16, 16), "|u1", 5120), labels=((20,), "<f8", 160)),
    "nested.npy": lambda: b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000,
}

SPRITES: dict[str, Callable[[], bytes]] = {
    "nested.tar.gz": lambda: nested_tar(2**29),
    "claims.tar.gz": lambda: tar_gz(("mon/a.png", 20 * 2**30)),
    "back.tar.gz": lambda: tar_gz(("mon/a.png", -512), padding=1024),
    "many.tar.gz": lambda: many_members(60_000),
    "zeros.gz": lambda: gzip.compress(bytes(200 * MB)),
    "tiles.zip": lambda: tiles_zip(20, 10 * MB),
    "many.zip": lambda: tiles_zip(60_000, 0),
    "names.npz": lambda: npz(
        images_rgba16=((20, 16, 16, 4), "|u1", 20480),
        category=((20,), "<i8", 160),
        category_names=((100_000,), "<U6", 2_400_000),
    ),
    "long.npz": lambda: npz(
        images_rgba16=((20, 16, 16, 4), "|u1", 20480),
        category=((20,), "<i8", 160),
        category_names=((1,), "<U25000000", 10**8),
    ),
    "time.npz": lambda: npz(
        images_rgba16=((20, 16, 16, 4), "|u1", 20480), category=((20,), "<m8[s]", 160), category_names=((1,), "<U1", 4)
    ),
    "rgba.npz": lambda: npz(
        images_rgba16=((130_000, 16, 16, 4), "|u1", 130_000 * 1024),
        category=((130_000,), "|u1", 130_000),
        category_names=((1,), "<U1", 4),
    ),
}

MNIST: dict[str, Callable[[], bytes]] = {
    "honest": lambda: idx((400_000, 28, 28), 400_000 * 784),
    "claims": lambda: idx((2**31, 28, 28), 100),
    "overflow": lambda: idx((2**32 - 1,) * 32, 100),
    "long": lambda: idx((10, 28, 28), 300 * MB),
}

Case = tuple[str, list[str]]  # a name, and the arguments for the command line


def folder_cases(root: Path, *command: str) -> list[Case]:
    """Each picture and each array, alone in a folder."""
    return [
        (name, [*command, "--data", str(write(root / name, name, make))]) for name, make in (PICTURES | ARRAYS).items()
    ]


def sprite_cases(root: Path, *command: str) -> list[Case]:
    return [(name, [*command, "--data", str(write(root / name, name, make) / name)]) for name, make in SPRITES.items()]


def mnist_cases(root: Path, *command: str) -> list[Case]:
    cases = []
    for name, make in MNIST.items():
        folder = write(root / name, FILE_NAMES[0], make)
        (folder / FILE_NAMES[1]).write_bytes(idx((10,), 10))
        (folder / FILE_NAMES[2]).write_bytes(idx((10, 28, 28), 7840))
        (folder / FILE_NAMES[3]).write_bytes(idx((10,), 10))
        cases.append((name, [*command, "--data", str(folder)]))
    return cases


def explore_cases(root: Path, *command: str) -> list[Case]:
    return [(name, [*command, str(write(root / name, name, make) / name)]) for name, make in PICTURES.items()]


def write(folder: Path, name: str, make: Callable[[], bytes]) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(make())
    return folder


OUT = ("--out", "out.png")
DOORS: dict[str, Callable[[Path], list[Case]]] = {
    "data folder": lambda root: folder_cases(root, "data", "folder", "--inspect", *OUT),
    "data folder --size": lambda root: folder_cases(
        root, "data", "folder", "--inspect", *OUT, "--size", "16x16", "--fit", "crop"
    ),
    "data sprites": lambda root: sprite_cases(root, "data", "sprites", "--inspect", *OUT),
    "data mnist": lambda root: mnist_cases(root, "data", "mnist", "--inspect", *OUT),
    "train folder": lambda root: folder_cases(root, "train", "folder", "--epochs", "1", "--device", "cpu"),
    "train sprites": lambda root: sprite_cases(root, "train", "sprites", "--epochs", "1", "--device", "cpu"),
    "train mnist": lambda root: mnist_cases(root, "train", "mnist", "--epochs", "1", "--device", "cpu"),
    "explore --image": lambda root: explore_cases(root, "explore", "shapes", "vary", *OUT, "--image"),
    "explore --mask": lambda root: explore_cases(root, "explore", "shapes", "inpaint", *OUT, "--mask"),
}


def main(root: Path, doors: list[str]) -> None:
    from shapedreamer import cli

    limit = in_status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    cases = []
    for i, door in enumerate(doors):
        (root / str(i)).mkdir()
        cases += [(f"{door}: {name}", arguments) for name, arguments in DOORS[door](root / str(i))]
    for name, arguments in cases:
        sys.argv = ["shapedreamer", *arguments]
        errors = io.StringIO()
        start = time.process_time()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                code: object = cli.main()
            except BaseException as error:
                code = repr(error)
        seconds = time.process_time() - start  # of the processor, as the machine may be busy
        print(json.dumps([name, code, seconds, peak_memory(), errors.getvalue()]), flush=True)


def peak_memory() -> int:
    """The most memory that this process has used so far, in MB.

    On Linux, ru_maxrss of a new process starts at that of its parent, and pytest's may be large.
    """
    return (in_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) // MB


def in_status(name: str) -> int:
    """An amount of memory of this process in bytes, as Linux reports it; 0 on other systems."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
