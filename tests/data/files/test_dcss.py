"""Tiles from PNG files: which, in what order, how they look; every form alike; archives that nobody need trust."""

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
    """A picture of which so many pixels show, and are blue; the others would be of the grey `hidden`."""
    picture = np.full((32 * 32, 4), hidden, np.uint8)
    picture[:, 3] = 0
    picture[:pixels] = 0, 0, 200, 255
    return picture.reshape(32, 32, 4)


# In the order in which they must come: the files of a folder, then those of its folders.
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


def within(prefix: str, files: Files) -> Files:
    return {prefix + name: content for name, content in files.items()}


REPOSITORY = {
    "tiles-master/README.md": b"Crawl",
    "tiles-master/releases/Ancient/Oct-5-2010/mon/orc.png": png(opaque(30)),
    **within(f"tiles-master/releases/{RELEASE}/", MINIATURE),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray]:
    """The tiles of the miniature, worked out number by number; those whose alpha is 0 or 255 need no arithmetic."""
    images = []
    for content in USED.values():
        rgba = np.array(Image.open(io.BytesIO(content))).astype(int)
        rgb = np.where(rgba[..., 3:] > 0, rgba[..., :3], 255)
        small = [[[round(rgb[y : y + 2, x : x + 2, c].sum() / 4) for c in range(3)] for x in range(0, 32, 2)]
                 for y in range(0, 32, 2)]  # fmt: skip
        images.append(small)
    return np.array(images, np.uint8), np.array([LABELS.index(label) for label in USED_LABELS])


# which tiles, and how they look


def as_folder(at: Path) -> Path:
    return write_folder(at / RELEASE, MINIATURE)


def as_folder_of_another_name(at: Path) -> Path:
    return write_folder(at / "my tiles", MINIATURE)


def as_folder_above(at: Path) -> Path:
    return write_folder(at / RELEASE, MINIATURE).parent


def as_repository(at: Path) -> Path:
    return write_folder(at, REPOSITORY) / "tiles-master"


def as_tar(at: Path) -> Path:
    return write_tar(at / "tiles.tar.gz", within(f"{RELEASE}/", MINIATURE))


def as_tar_backwards(at: Path) -> Path:
    return write_tar(at / "a name without an ending", dict(reversed(within(f"./{RELEASE}/", MINIATURE).items())))


def as_zip_of_the_repository(at: Path) -> Path:
    return write_zip(at / "tiles.zip", REPOSITORY)


def as_folder_with_the_downloaded_zip(at: Path) -> Path:
    return write_zip(at / ARCHIVE.name, REPOSITORY).parent


@pytest.mark.parametrize(
    "form",
    [
        as_folder,
        as_folder_of_another_name,
        as_folder_above,
        as_repository,
        as_tar,
        as_tar_backwards,
        as_zip_of_the_repository,
        as_folder_with_the_downloaded_zip,
    ],
)
def test_every_form_gives_the_same_tiles(
    form: Callable[[Path], Path], tmp_path: Path, reference: tuple[np.ndarray, np.ndarray]
) -> None:
    path = form(tmp_path)
    place = find_tiles(path) if path.is_dir() else path
    assert place is not None
    images, classes = read_tiles(place)
    assert images.dtype == np.uint8
    assert np.array_equal(images, reference[0])
    assert np.array_equal(classes, reference[1])


@pytest.mark.parametrize("name", LEFT_OUT)
def test_each_of_these_is_left_out(name: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / RELEASE, {**USED, name: LEFT_OUT[name]})
    assert len(read_tiles(folder)[0]) == len(USED)


def test_on_white_and_halved_follow_the_formula(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8)
    rgba[:4, :4] = 200, 100, 0, 51  # a fifth of it shows: 255 + (200 − 255)/5, …
    rgba[4:6, 4:6, 3] = 255
    rgba[4, 4:6, :3], rgba[5, 4:6, :3] = 1, 2  # 1½ and ½, between two whole numbers, go to the even one
    rgba[6:8, 4:6, 3] = 255
    rgba[6, 4:6, :3], rgba[7, 4:6, :3] = 0, 1
    images, _ = read_tiles(write_folder(tmp_path, {"mon/a.png": png(rgba)}))
    assert images[0, 0, 0].tolist() == [244, 224, 204]
    assert images[0, 2, 2].tolist() == [2, 2, 2]
    assert images[0, 3, 2].tolist() == [0, 0, 0]
    opacity = rgba[..., 3:].astype(int)
    numerator = rgba[..., :3] * opacity + 255 * (255 - opacity)  # 255 times what is seen
    assert np.abs(on_white(rgba[None])[0] - numerator / 255).max() < 1e-4
    mean = numerator.reshape(16, 2, 16, 2, 3).sum((1, 3)) / (4 * 255)
    assert np.abs(images[0] - mean).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("mode", ["RGBA", "RGB", "P", "L", "LA", "1"])
def test_a_tile_may_be_a_png_of_any_kind(mode: str, tmp_path: Path) -> None:
    grey = np.repeat(np.repeat(np.random.default_rng(1).integers(0, 2, (16, 16), np.uint8) * 255, 2, 0), 2, 1)
    file = io.BytesIO()
    Image.fromarray(grey).convert(mode).save(file, "PNG")
    images, _ = read_tiles(write_folder(tmp_path, {"mon/a.png": file.getvalue()}))
    assert np.array_equal(images[0], np.repeat(grey[::2, ::2, None], 3, 2))


def test_a_colour_that_a_palette_makes_transparent_is_white(tmp_path: Path) -> None:
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.paste(0, (0, 0, 16, 32))
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=0)
    images, _ = read_tiles(write_folder(tmp_path, {"mon/a.png": file.getvalue()}))
    assert (images[0, :, :8] == 255).all()
    assert (images[0, :, 8:] == [40, 50, 60]).all()


def test_where_no_tiles_are_none_are_found(tmp_path: Path) -> None:
    assert find_tiles(tmp_path) is None
    (tmp_path / "UNUSED" / "mon").mkdir(parents=True)
    (tmp_path / "mon").write_bytes(b"no folder")
    assert find_tiles(tmp_path) is None
    path = write_zip(tmp_path / "a.zip", {"x/mon/orc.png": USED["mon/orc.png"]} | within(f"{RELEASE}/", LEFT_OUT_ALONE))
    with pytest.raises(UserError, match=r"a\.zip holds no picture of 32x32 in dngn, effect, gui"):
        read_tiles(path)
    (tmp_path / "text").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"text holds no picture of 32x32"):
        read_tiles(tmp_path / "text")


# damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PNG file"),
        (b"GIF89a, or any text that is longer", "is not a PNG file"),
        (USED["mon/orc.png"][:23], "not a whole one"),
        (USED["mon/orc.png"][:30], "is damaged|cannot read"),
        (USED["mon/orc.png"][:1000], "is damaged|cannot read"),
        (USED["mon/orc.png"][:29] + b"\0" + USED["mon/orc.png"][30:], "is damaged|cannot read"),
    ],
)
def test_a_damaged_tile_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar.gz", within(f"{RELEASE}/", {**USED, "mon/bad.png": content}))
    with pytest.raises(UserError, match=rf"(mon/bad\.png in .*t\.tar\.gz.*({message}))|({message}.*mon/bad\.png in)"):
        read_tiles(path)


@pytest.mark.slow
def test_whatever_bit_of_a_tile_is_wrong_there_is_a_tile_or_an_error_of_ours(tmp_path: Path) -> None:
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


def test_a_picture_that_would_fill_the_memory_is_not_even_opened(tmp_path: Path) -> None:
    header = struct.pack(">II5B", 60_000, 60_000, 8, 6, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4s", 13, b"IHDR") + header
    bomb += struct.pack(">I", zlib.crc32(b"IHDR" + header))
    assert len(read_tiles(write_folder(tmp_path, {**USED, "mon/bomb.png": bomb}))[0]) == len(USED)


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_damaged_archive_is_refused_whatever_the_damage(write: Callable[[Path, Files], Path], tmp_path: Path) -> None:
    good = write(tmp_path / "good", within(f"{RELEASE}/", {k: USED[k] for k in ("effect/bolt_0.png", "mon/orc.png")}))
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
    assert refused > 100  # the others are in a time of day, or a permission


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (write_folder(tmp_path, USED) / "mon" / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"cannot read .*mon.folder\.png"):
        read_tiles(tmp_path)


# archives that were made to do harm


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
def test_a_name_that_leads_elsewhere_is_not_a_tiles(name: str) -> None:
    for prefix in ("", f"{RELEASE}/", f"tiles-master/releases/{RELEASE}/"):
        assert not TILE_NAME.fullmatch(prefix + name)


def test_links_are_no_files(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "t.tar.gz", within(f"{RELEASE}/", USED))
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
    with pytest.raises(UserError, match=r"mon/link\.png in .*links\.zip is not a PNG file"):
        read_tiles(tmp_path / "links.zip")


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_what_unpacks_to_too_much_is_refused(
    write: Callable[[Path, Files], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "bomb", within(f"{RELEASE}/", {f"mon/{i}.png": bytes(200_000) for i in range(6)}))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(dcss, "MOST_BYTES", 1_000_000)
    with pytest.raises(UserError, match=r"bomb unpacks to more than 1,000,000 bytes"):
        read_tiles(path)


def test_a_zip_that_claims_less_than_it_unpacks_to_takes_no_more_memory(tmp_path: Path) -> None:
    size = 40_000_000
    path = write_zip(tmp_path / "liar.zip", {f"{RELEASE}/mon/a.png": bytes(size)})
    claimed = path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 1000))
    path.write_bytes(claimed)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"liar\.zip is damaged"):
        read_tiles(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 10


def test_a_sparse_file_in_a_tar_counts_with_the_size_that_it_would_have(tmp_path: Path) -> None:
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
def test_ways_of_packing_that_cannot_be_read_by_measure_are_refused(method: int, tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", within(f"{RELEASE}/", USED), method)
    with pytest.raises(UserError, match=f"a method that is not expected: {method}"):
        read_tiles(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {f"{RELEASE}/mon/a.png": b"secret"})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flag, in the file's own header and in the list at the end
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip is damaged, or not what its name says .*encrypted"):
        read_tiles(path)


def test_members_that_are_not_wanted_are_not_read(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"big": bytes(5_000_000), "small": b"1"})
    with open_archive(path) as members:
        assert {name: member.size for name, member in members.items()} == {"big": 5_000_000, "small": 1}
        tracemalloc.start()
        assert read_members(path, {"s": members["small"]}) == {"s": b"1"}
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


# the download


class Host:
    """A web server that gives one answer to all, and counts how often it is asked."""

    def __init__(self, content: bytes) -> None:
        self.asked = 0
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked += 1
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


KEPT = {name: content for name, content in MINIATURE.items() if TILE_NAME.fullmatch(name)}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that gives the miniature as GitHub gives the repository; its digest is the one that is wanted."""
    host = Host(write_zip(tmp_path / "for the host.zip", REPOSITORY).read_bytes())
    monkeypatch.setattr(dcss, "ARCHIVE", RemoteFile(ARCHIVE.name, "", (host.url,)))
    monkeypatch.setattr(dcss, "TILES_SHA256", dcss._digest(KEPT))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield host
    host.server.shutdown()
    host.server.server_close()


def tree(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_tiles_are_downloaded_once_and_nothing_else_stays(
    host: Host, tmp_path: Path, reference: tuple[np.ndarray, np.ndarray]
) -> None:
    folder = tmp_path / "cache" / "dcss"
    assert fetch_dcss(folder) == folder / RELEASE
    assert tree(folder) == within(f"{RELEASE}/", KEPT)
    assert fetch_dcss(folder) == folder / RELEASE
    assert host.asked == 1
    assert np.array_equal(read_tiles(folder / RELEASE)[0], reference[0])


def test_without_a_folder_they_go_to_the_cache(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHAPEDREAMER_DATA", str(tmp_path / "chosen"))
    assert fetch_dcss() == tmp_path / "chosen" / "dcss" / RELEASE


def test_an_archive_that_was_put_there_by_hand_is_used(host: Host, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ARCHIVE.name).write_bytes(host.content)
    fetch_dcss(folder)
    assert host.asked == 0
    assert tree(folder) == within(f"{RELEASE}/", KEPT)


def change(release: Path) -> None:
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


@pytest.mark.parametrize("harm", [change, remove, rename, add, empty])
def test_tiles_that_are_no_longer_as_they_came_are_left_alone_and_named(
    harm: Callable[[Path], None], host: Host, tmp_path: Path
) -> None:
    release = fetch_dcss(tmp_path / "cache")
    harm(release)
    before = tree(tmp_path / "cache")
    with pytest.raises(UserError, match=r"not as they were downloaded; move it away"):
        fetch_dcss(tmp_path / "cache")
    assert tree(tmp_path / "cache") == before
    release.rename(tmp_path / "away")
    assert tree(fetch_dcss(tmp_path / "cache")) == KEPT


EVIL = {
    f"tiles-master/releases/{RELEASE}/mon/../../../../evil.png": b"evil",
    f"tiles-master/releases/{RELEASE}/mon/.evil.png": b"evil",
    f"{RELEASE}/mon\\..\\..\\evil.png": b"evil",
    "../../evil.png": b"evil",
    "/evil.png": b"evil",
}


def test_names_that_lead_elsewhere_are_not_written(host: Host, tmp_path: Path) -> None:
    host.content = write_zip(tmp_path / "evil.zip", REPOSITORY | EVIL).read_bytes()
    before = tree(tmp_path)
    fetch_dcss(tmp_path / "a" / "b" / "c")
    assert tree(tmp_path) == before | within(f"a/b/c/{RELEASE}/", KEPT)


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Please log in to this network</html>",
        b"",
        png(opaque(0)),
        within(f"{RELEASE}/", {name: content for name, content in KEPT.items() if name != "mon/orc.png"}),
        within(f"{RELEASE}/", {**KEPT, "mon/orc.png": USED["item/apple.png"]}),
        within(f"{RELEASE}/", {**KEPT, "mon/more.png": USED["item/apple.png"]}),
    ],
)
def test_a_download_of_something_else_is_refused_and_not_unpacked(
    content: bytes | Files, host: Host, tmp_path: Path
) -> None:
    host.content = content if isinstance(content, bytes) else write_zip(tmp_path / "other.zip", content).read_bytes()
    folder = tmp_path / "cache"
    with pytest.raises(UserError, match=r"crawl-tiles\.zip does not hold the tiles that it should; delete it"):
        fetch_dcss(folder)
    assert list(tree(folder)) == [ARCHIVE.name]


@pytest.mark.parametrize(("step", "name"), [("write_bytes", "elf.png"), ("rename", RELEASE)])
def test_a_full_disk_leaves_nothing_half_written(
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
        with pytest.raises(UserError, match=r"cannot keep files in .*cache: No space left on device; .*SHAPEDREAMER_D"):
            fetch_dcss(folder)
    assert [path.name for path in folder.iterdir()] == [ARCHIVE.name]
    fetch_dcss(folder)
    assert host.asked == 1
    assert tree(folder) == within(f"{RELEASE}/", KEPT)


def test_the_published_tiles_have_the_digest_that_a_download_must_have() -> None:
    path = SHARED / "dcss" / "dcss_cc0_nov2015_pngs.tar.gz"
    if not path.exists():
        pytest.skip(f"the tiles are not in {path}")
    assert dcss._digest(dcss._tile_files(path)) == TILES_SHA256
