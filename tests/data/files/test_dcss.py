"""The Dungeon Crawl tiles: selection, order and pixels; all accepted forms; damaged and malicious archives."""

import io
import shutil
import stat
import struct
import tarfile
import threading
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shapedreamer.common.errors import UserError
from shapedreamer.data.files import dcss
from shapedreamer.data.files.dcss import (
    ARCHIVE,
    LABELS,
    RELEASE,
    TILE_NAME,
    TILES_SHA256,
    fetch_dcss,
    find_tiles,
    on_white,
    open_archive,
    read_members,
    read_tiles,
)
from shapedreamer.data.files.download import RemoteFile

SHARED = Path(__file__).parents[4] / "shared" / "data"
Files = dict[str, bytes]


def png(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def opaque(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    picture[..., 3] = 255
    return picture


def showing(pixels: int, hidden: int = 0) -> np.ndarray:
    """A picture with this many visible, blue pixels; the transparent ones have the grey value `hidden`."""
    picture = np.full((32 * 32, 4), hidden, np.uint8)
    picture[:, 3] = 0
    picture[:pixels] = 0, 0, 200, 255
    return picture.reshape(32, 32, 4)


# In the expected order: the files of a folder, then those of its subfolders.
USED = {
    "dngn/unseen.png": png(opaque(0)),
    "dngn/zot.png": png(opaque(1)),
    "dngn/altars/ash.png": png(opaque(2)),
    "dngn/floor/grass/green.png": png(opaque(3)),
    "effect/bolt_0.png": png(showing(16, hidden=7)),
    "gui/spells/air/fly.png": png(opaque(4)),
    "item/apple.png": png(opaque(5)),
    "misc/blood/blood-1.png": png(opaque(6)),
    "mon/orc.png": png(opaque(7)),
    "mon/undead/bat.png": png(opaque(8)),
    "player/base/elf.png": png(opaque(9)),
}
USED_LABELS = [*["terrain"] * 4, "effect", "icon", "item", "icon", "monster", "monster", "player"]
LEFT_OUT = {
    "UNUSED/mon/old.png": png(opaque(20)),
    "UNUSED/old.png": png(opaque(21)),
    "mon/tall.png": png(opaque(22, 48, 32)),
    "misc/num0.png": png(opaque(23, 14, 8)),
    "mon/orc_again.png": USED["mon/orc.png"],
    "item/like_bolt.png": png(showing(16, hidden=9)),
    "mon/corner.png": png(showing(15)),
    "mon/nothing.png": png(showing(0)),
    "other/thing.png": png(opaque(24)),
    "mon/.thumbnail.png": png(opaque(25)),
    "mon/LICENSE.txt": b"CC0",
}
LEFT_OUT_ALONE = {
    name: content for name, content in LEFT_OUT.items() if name not in ("mon/orc_again.png", "item/like_bolt.png")
}
MINIATURE = USED | LEFT_OUT


def write_folder(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, files: Files, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


def in_folder(prefix: str, files: Files) -> Files:
    return {prefix + name: content for name, content in files.items()}


REPOSITORY = {
    "tiles-master/README.md": b"Crawl",
    "tiles-master/releases/Ancient/Oct-5-2010/mon/orc.png": png(opaque(30)),
    **in_folder(f"tiles-master/releases/{RELEASE}/", MINIATURE),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """The expected tiles of the miniature, computed pixel by pixel; an alpha of 0 or 255 needs no blending."""
    images = []
    for content in USED.values():
        rgba = np.array(Image.open(io.BytesIO(content))).astype(int)
        rgb = np.where(rgba[..., 3:] > 0, rgba[..., :3], 255)
        small = [[[round(rgb[y : y + 2, x : x + 2, c].sum() / 4) for c in range(3)] for x in range(0, 32, 2)]
                 for y in range(0, 32, 2)]  # fmt: skip
        images.append(small)
    return np.array(images, np.uint8), np.array([LABELS.index(label) for label in USED_LABELS])


# selection and pixels


def as_folder(at: Path) -> Path:
    return write_folder(at / RELEASE, MINIATURE)


def as_folder_with_another_name(at: Path) -> Path:
    return write_folder(at / "my tiles", MINIATURE)


def as_parent_folder(at: Path) -> Path:
    return write_folder(at / RELEASE, MINIATURE).parent


def as_repository(at: Path) -> Path:
    return write_folder(at, REPOSITORY) / "tiles-master"


def as_tar(at: Path) -> Path:
    return write_tar(at / "tiles.tar.gz", in_folder(f"{RELEASE}/", MINIATURE))


def as_tar_in_reverse_order(at: Path) -> Path:
    return write_tar(at / "a name without extension", dict(reversed(in_folder(f"./{RELEASE}/", MINIATURE).items())))


def as_zip_of_the_repository(at: Path) -> Path:
    return write_zip(at / "tiles.zip", REPOSITORY)


def as_folder_with_the_downloaded_zip(at: Path) -> Path:
    return write_zip(at / ARCHIVE.name, REPOSITORY).parent


@pytest.mark.parametrize(
    "form",
    [
        as_folder,
        as_folder_with_another_name,
        as_parent_folder,
        as_repository,
        as_tar,
        as_tar_in_reverse_order,
        as_zip_of_the_repository,
        as_folder_with_the_downloaded_zip,
    ],
)
def test_every_form_gives_the_same_tiles(
    form: Callable[[Path], Path], tmp_path: Path, reference: tuple[np.ndarray, np.ndarray]
) -> None:
    path = form(tmp_path)
    source = find_tiles(path) if path.is_dir() else path
    assert source is not None
    images, classes = read_tiles(source)
    assert images.dtype == np.uint8
    assert np.array_equal(images, reference[0])
    assert np.array_equal(classes, reference[1])


@pytest.mark.parametrize("name", LEFT_OUT)
def test_unwanted_files_are_left_out(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / RELEASE, {**USED, name: LEFT_OUT[name]})
    assert len(read_tiles(folder)[0]) == len(USED)


def test_blending_and_halving_follow_the_formulas(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    rgba[:4, :4] = 200, 100, 0, 51  # a fifth opaque: 255 + (200 − 255)/5, …
    rgba[4:6, 4:6, 3] = 255
    rgba[4, 4:6, :3], rgba[5, 4:6, :3] = 1, 2  # 1½ and ½ round to the even neighbour
    rgba[6:8, 4:6, 3] = 255
    rgba[6, 4:6, :3], rgba[7, 4:6, :3] = 0, 1
    images, _ = read_tiles(write_folder(tmp_path, {"mon/a.png": png(rgba)}))
    assert images[0, 0, 0].tolist() == [244, 224, 204]
    assert images[0, 2, 2].tolist() == [2, 2, 2]
    assert images[0, 3, 2].tolist() == [0, 0, 0]
    alpha = rgba[..., 3:].astype(int)
    numerator = rgba[..., :3] * alpha + 255 * (255 - alpha)  # 255 times the visible colour
    assert np.abs(on_white(rgba[None])[0] - numerator / 255).max() < 1e-4
    mean = numerator.reshape(16, 2, 16, 2, 3).sum((1, 3)) / (4 * 255)
    assert np.abs(images[0] - mean).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "P", "L", "LA", "1"])
def test_a_tile_may_have_any_png_mode(mode: str, tmp_path: Path) -> None:
    grey = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 2, (16, 16), np.uint8) * 255, 2, 0), 2, 1)
    file = io.BytesIO()
    Image.fromarray(grey).convert(mode).save(file, "PNG")
    images, _ = read_tiles(write_folder(tmp_path, {"mon/a.png": file.getvalue()}))
    assert np.array_equal(images[0], np.repeat(grey[::2, ::2, None], 3, 2))


def test_a_transparent_palette_colour_becomes_white(tmp_path: Path) -> None:
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(0, (0, 0, 16, 32))
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    images, _ = read_tiles(write_folder(tmp_path, {"mon/a.png": file.getvalue()}))
    assert (images[0, :, :8] == 255).all()
    assert (images[0, :, 8:] == [40, 50, 60]).all()


def test_without_tiles_nothing_is_found(tmp_path: Path) -> None:
    assert find_tiles(tmp_path) is None
    (tmp_path / "UNUSED" / "mon").mkdir(parents=True)
    (tmp_path / "mon").write_bytes(b"not a folder")
    assert find_tiles(tmp_path) is None
    path = write_zip(
        tmp_path / "a.zip", {"x/mon/orc.png": USED["mon/orc.png"]} | in_folder(f"{RELEASE}/", LEFT_OUT_ALONE)
    )
    with pytest.raises(UserError, match=r"a\.zip contains no 32x32 tiles in the folders dngn, effect, gui"):
        read_tiles(path)
    (tmp_path / "text").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"text contains no 32x32 tiles"):
        read_tiles(tmp_path / "text")


# damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a complete PNG file"),
        (b"GIF89a, or any text that is longer", "is not a complete PNG file"),
        (USED["mon/orc.png"][:23], "is not a complete PNG file"),
        (USED["mon/orc.png"][:30], "is damaged|cannot read"),
        (USED["mon/orc.png"][:1000], "is damaged|cannot read"),
        (USED["mon/orc.png"][:29] + b"\0" + USED["mon/orc.png"][30:], "is damaged|cannot read"),
    ],
)
def test_a_damaged_tile_raises(content: bytes, message: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar.gz", in_folder(f"{RELEASE}/", {**USED, "mon/bad.png": content}))
    with pytest.raises(UserError, match=rf"(mon/bad\.png in .*t\.tar\.gz.*({message}))|({message}.*mon/bad\.png in)"):
        read_tiles(path)


@pytest.mark.slow
def test_a_corrupt_tile_gives_an_image_or_a_user_error(tmp_path: Path) -> None:
    good = USED["effect/bolt_0.png"]
    path = tmp_path / "mon" / "a.png"
    path.parent.mkdir()
    refused = 0
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 0x41]) + good[i + 1 :])
        try:
            read_tiles(tmp_path)
        except UserError:
            refused += 1
    assert refused > len(good) // 2


def test_a_huge_image_is_not_decoded(tmp_path: Path) -> None:
    header = struct.pack(">II5B", 60_000, 60_000, 8, 6, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR") + header
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert len(read_tiles(write_folder(tmp_path, {**USED, "mon/bomb.png": bomb}))[0]) == len(USED)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_damaged_archives_raise(write: Callable[[Path, Files], Path], tmp_path: Path) -> None:
    good = write(
        tmp_path / "good", in_folder(f"{RELEASE}/", {k: USED[k] for k in ("effect/bolt_0.png", "mon/orc.png")})
    )
    content, path = good.read_bytes(), tmp_path / "bad"
    cut = 0
    for end in range(1, len(content), len(content) // 60):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="bad"):
            read_tiles(path)
        cut += 1
    assert cut >= 60
    refused = 0
    for i in range(0, len(content), len(content) // 150):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x55]) + content[i + 1 :])
        try:
            read_tiles(path)
        except UserError:
            refused += 1
    assert refused > 100  # the other bytes do not matter: timestamps or permissions


def test_an_unreadable_file_raises(tmp_path: Path) -> None:
    (write_folder(tmp_path, USED) / "mon" / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*mon.folder\.png"):
        read_tiles(tmp_path)


# malicious archives


@pytest.mark.parametrize(
    "name",
    [
        "mon/../../evil.png",
        "mon/../evil.png",
        "mon/./evil.png",
        "mon/a/../../../evil.png",
        "mon//etc/evil.png",
        "mon/",
        "mon/.evil.png",
        "mon\\..\\..\\evil.png",
        "mon/..\\..\\evil.png",
        "mon/C:\\evil.png",
        "mon/C:evil.png",
        "mon/evil\0.png",
        "mon/evil.png/",
        "mon/evil.sh",
        "mon.png",
        "../mon/evil.png",
        "/etc/mon/evil.png",
        "UNUSED/mon/evil.png",
    ],
)
def test_names_that_lead_out_of_the_folder_do_not_match(name: str) -> None:
    for prefix in ("", f"{RELEASE}/", f"tiles-master/releases/{RELEASE}/"):
        assert not TILE_NAME.fullmatch(prefix + name)


def test_links_are_skipped(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar.gz", in_folder(f"{RELEASE}/", USED))
    with tarfile.open(tmp_path / "links.tar.gz", "w:gz") as tar, tarfile.open(path) as good:
        for info in good:
            tar.addfile(info, good.extractfile(info))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo(f"{RELEASE}/mon/link_{kind.decode()}.png")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    assert np.array_equal(read_tiles(tmp_path / "links.tar.gz")[0], read_tiles(path)[0])

    link_in_zip = zipfile.ZipInfo(f"{RELEASE}/mon/link.png")
    link_in_zip.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as packed:
        packed.writestr(link_in_zip, "/etc/passwd")
    with pytest.raises(UserError, match=r"mon/link\.png in .*links\.zip is not a complete PNG file"):
        read_tiles(tmp_path / "links.zip")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_archives_that_unpack_to_too_much_raise(
    write: Callable[[Path, Files], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "bomb", in_folder(f"{RELEASE}/", {f"mon/{i}.png": bytes(200_000) for i in range(6)}))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(dcss, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(UserError, match=r"bomb unpacks to more than 1,000,000 bytes"):
        read_tiles(path)


def test_a_zip_with_a_false_declared_size_uses_no_more_memory(tmp_path: Path) -> None:
    size = 40_000_000
    path = write_zip(tmp_path / "liar.zip", {f"{RELEASE}/mon/a.png": bytes(size)})
    forged = path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 1000))
    path.write_bytes(forged)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"liar\.zip is damaged"):
        read_tiles(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 10


def test_a_sparse_file_in_a_tar_counts_at_its_full_size(tmp_path: Path) -> None:
    info = tarfile.TarInfo(f"{RELEASE}/mon/a.png")
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": info.name,
        "GNU.sparse.realsize": str(10**13),
    }
    content = b"1\n0\n512\n".ljust(512, b"\0") + bytes(512)
    info.size = len(content)
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(UserError, match=r"t\.tar\.gz unpacks to more than"):
        read_tiles(tmp_path / "t.tar.gz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unsupported_compression_methods_raise(method: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", in_folder(f"{RELEASE}/", USED), method)
    with pytest.raises(UserError, match=f"unsupported compression method: {method}"):
        read_tiles(path)


def test_an_encrypted_zip_raises(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{RELEASE}/mon/a.png": b"secret"})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the encryption flag, in the member's header and in the central directory
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip is damaged or not the expected kind of file .*encrypted"):
        read_tiles(path)


def test_only_requested_members_are_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"big": bytes(5_000_000), "small": b"1"})
    with open_archive(path) as members:
        assert {name: member.size for name, member in members.items()} == {"big": 5_000_000, "small": 1}
        tracemalloc.start()
        assert read_members(path, {"s": members["small"]}) == {"s": b"1"}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


# the download


class Host:
    """A web server that gives the same reply to every request, and counts the requests."""

    def __init__(self, content: bytes) -> None:
        self.requests = 0
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.requests += 1
                self.send_response(200)
                self.send_header("Content-Length", str(len(host.content)))
                self.end_headers()
                self.wfile.write(host.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.content = content
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/tiles.zip"


RELEASE_FILES = {name: content for name, content in MINIATURE.items() if TILE_NAME.fullmatch(name)}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that serves the miniature the way GitHub serves the repository; its digest is set as the expected one."""
    host = Host(write_zip(tmp_path / "for the host.zip", REPOSITORY).read_bytes())
    monkeypatch.setattr(dcss, "ARCHIVE", RemoteFile(ARCHIVE.name, "", (host.url,)))
    monkeypatch.setattr(dcss, "TILES_SHA256", dcss._digest(RELEASE_FILES))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield host
    host.server.shutdown()
    host.server.server_close()


def tree(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_tiles_are_downloaded_once_and_nothing_else_is_kept(
    host: Host, tmp_path: Path, reference: tuple[np.ndarray, np.ndarray]
) -> None:
    folder = tmp_path / "cache" / "dcss"
    assert fetch_dcss(folder) == folder / RELEASE
    assert tree(folder) == in_folder(f"{RELEASE}/", RELEASE_FILES)
    assert fetch_dcss(folder) == folder / RELEASE
    assert host.requests == 1
    assert np.array_equal(read_tiles(folder / RELEASE)[0], reference[0])


def test_by_default_the_tiles_go_to_the_cache(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAPEDREAMER_DATA", str(tmp_path / "chosen"))
    assert fetch_dcss() == tmp_path / "chosen" / "dcss" / RELEASE


def test_an_archive_placed_by_hand_is_used(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ARCHIVE.name).write_bytes(host.content)
    fetch_dcss(folder)
    assert host.requests == 0
    assert tree(folder) == in_folder(f"{RELEASE}/", RELEASE_FILES)


def modify(release: Path) -> None:
    (release / "mon" / "orc.png").write_bytes(USED["item/apple.png"])


def remove(release: Path) -> None:
    (release / "mon" / "orc.png").unlink()


def rename(release: Path) -> None:
    (release / "mon" / "orc.png").rename(release / "mon" / "ork.png")


def add(release: Path) -> None:
    (release / "mon" / "mine.png").write_bytes(png(opaque(40)))


def empty(release: Path) -> None:
    shutil.rmtree(release)
    release.mkdir()


@pytest.mark.parametrize("damage", [modify, remove, rename, add, empty])
def test_modified_tiles_raise_and_stay_unchanged(damage: Callable[[Path], None], host: Host, tmp_path: Path) -> None:
    release = fetch_dcss(tmp_path / "cache")
    damage(release)
    before = tree(tmp_path / "cache")
    with pytest.raises(UserError, match=r"have been modified; move or delete this folder"):
        fetch_dcss(tmp_path / "cache")
    assert tree(tmp_path / "cache") == before
    release.rename(tmp_path / "away")
    assert tree(fetch_dcss(tmp_path / "cache")) == RELEASE_FILES


EVIL = {
    f"tiles-master/releases/{RELEASE}/mon/../../../../evil.png": b"evil",
    f"tiles-master/releases/{RELEASE}/mon/.evil.png": b"evil",
    f"{RELEASE}/mon\\..\\..\\evil.png": b"evil",
    "../../evil.png": b"evil",
    "/evil.png": b"evil",
}


def test_names_that_lead_out_of_the_folder_are_not_written(host: Host, tmp_path: Path) -> None:
    host.content = write_zip(tmp_path / "evil.zip", REPOSITORY | EVIL).read_bytes()
    before = tree(tmp_path)
    fetch_dcss(tmp_path / "a" / "b" / "c")
    assert tree(tmp_path) == before | in_folder(f"a/b/c/{RELEASE}/", RELEASE_FILES)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Please log in to this network</html>",
        b"",
        png(opaque(0)),
        in_folder(f"{RELEASE}/", {name: content for name, content in RELEASE_FILES.items() if name != "mon/orc.png"}),
        in_folder(f"{RELEASE}/", {**RELEASE_FILES, "mon/orc.png": USED["item/apple.png"]}),
        in_folder(f"{RELEASE}/", {**RELEASE_FILES, "mon/more.png": USED["item/apple.png"]}),
    ],
)
def test_a_download_with_the_wrong_content_raises_and_is_not_unpacked(
    content: bytes | Files, host: Host, tmp_path: Path
) -> None:
    host.content = content if isinstance(content, bytes) else write_zip(tmp_path / "other.zip", content).read_bytes()
    folder = tmp_path / "cache"
    with pytest.raises(UserError, match=r"crawl-tiles\.zip does not contain the expected tiles; delete it"):
        fetch_dcss(folder)
    assert list(tree(folder)) == [ARCHIVE.name]


@pytest.mark.parametrize(("step", "name"), [("write_bytes", "elf.png"), ("rename", RELEASE)])
def test_a_full_disk_leaves_no_partial_folder(
    step: str, name: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    real = getattr(Path, step)

    def fail(path: Path, argument: object) -> object:
        if path.name == name:
            raise OSError(28, "No space left on device")
        return real(path, argument)

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        with pytest.raises(
            UserError, match=r"cannot store files in .*cache: No space left on device; .*SHAPEDREAMER_D"
        ):
            fetch_dcss(folder)
    assert [path.name for path in folder.iterdir()] == [ARCHIVE.name]
    fetch_dcss(folder)
    assert host.requests == 1
    assert tree(folder) == in_folder(f"{RELEASE}/", RELEASE_FILES)


def test_the_published_tiles_have_the_expected_digest() -> None:
    path = SHARED / "dcss" / "dcss_cc0_nov2015_pngs.tar.gz"
    if not path.exists():
        pytest.skip(f"the tiles are not in {path}")
    assert dcss._digest(dcss._tile_files(path)) == TILES_SHA256
