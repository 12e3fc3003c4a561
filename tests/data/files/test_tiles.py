"""Sprite data sets: recognising each kind, naming the file and row of every fault, and loading the real sets."""

import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shapedreamer.common.errors import UserError
from shapedreamer.data.arrays import Arrays, one_hot
from shapedreamer.data.files import dcss, tiles
from shapedreamer.data.files.tiles import COURSE_CLASSES, COURSE_IMAGES, COURSE_LABELS, NPZ_KEYS, Kind, kind_of, load
from shapedreamer.data.inspect import inspect_data

SHARED = Path(__file__).parents[4] / "shared" / "data"
DCSS_NPZ = SHARED / "dcss" / "dcss_cc0_nov2015_32x32.npz"
DCSS_TAR = SHARED / "dcss" / "dcss_cc0_nov2015_pngs.tar.gz"
EMOJI_NPZ = SHARED / "emoji" / "emoji_noto_datasource16.npz"

N = 60
GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (N, 16, 16, 3), np.uint8)
RGBA = GENERATOR.integers(0, 256, (N, 16, 16, 4), np.uint8)
CLASSES = np.arange(N) % 3
NAMES = np.array(["monster", "item", "a longer name"])
ARRAYS: dict[Kind, dict[str, np.ndarray]] = {
    kind: dict(zip(names, (RGBA if kind == "emoji" else RGB, CLASSES, NAMES), strict=True))
    for kind, names in NPZ_KEYS.items()
}
COURSE_ONE_HOT = one_hot(np.arange(N) % 5, 5).astype(np.float64)


def course(folder: Path, images: np.ndarray = RGB, labels: np.ndarray = COURSE_ONE_HOT) -> Path:
    folder.mkdir(exist_ok=True)
    np.save(folder / COURSE_IMAGES, images)
    np.save(folder / COURSE_LABELS, labels)
    return folder


def npz(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def pngs(folder: Path) -> Path:
    for i, image in enumerate(RGB):
        path = folder / dcss.RELEASE / ("mon" if i % 2 else "player/base") / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.repeat(2, 0).repeat(2, 1)).save(path)
    return folder


def rows(*parts: Arrays) -> list[bytes]:
    """Every image with its label, sorted."""
    return sorted(i.tobytes() + b.tobytes() for part in parts for i, b in zip(part.images, part.labels, strict=True))


def expected(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    return sorted(i.tobytes() + b.astype(np.float32).tobytes() for i, b in zip(images, labels, strict=True))


# recognising the data set


def test_the_content_decides_the_kind(tmp_path: Path) -> None:
    folder = course(tmp_path / "sprites")
    assert kind_of(folder) == kind_of(folder / COURSE_IMAGES) == kind_of(folder / COURSE_LABELS) == "course"
    for kind, arrays in ARRAYS.items():
        assert kind_of(npz(tmp_path / "any name.npz", arrays)) == kind
        for name in arrays:  # one array is enough to recognise the kind
            assert kind_of(npz(tmp_path / "one.npz", {name: arrays[name]})) == kind
    parent = pngs(tmp_path / "pngs")
    assert kind_of(parent) == kind_of(parent / dcss.RELEASE) == "dcss"
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "gztar", parent))
    assert kind_of(archive) == "dcss"
    assert kind_of(archive.rename(tmp_path / "no ending")) == "dcss"
    assert kind_of(Path(shutil.make_archive(str(tmp_path / "packed"), "zip", parent))) == "dcss"


def test_anything_else_raises_and_lists_the_accepted_data_sets(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("PK\x03\x04, but not really")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "empty folder").mkdir()
    np.save(tmp_path / "other.npy", RGB)
    npz(tmp_path / "other.npz", {"images": RGB})
    whole = npz(tmp_path / "whole.npz", ARRAYS["emoji"]).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-10])
    for name in ("text", "empty", "empty folder", "other.npy", "other.npz", "cut.npz", "missing"):
        with pytest.raises(UserError) as caught:
            load(tmp_path / name)
        message = str(caught.value)
        assert str(tmp_path / name) in message
        reason = "there is no file or folder" if name == "missing" else "is not a supported sprite data set"
        assert reason in message
        for word in (COURSE_IMAGES, COURSE_LABELS, "github.com/crawl/tiles", "images_rgb16_white", "category_names"):
            assert word in message


def test_a_zip_of_tiles_may_also_contain_an_array(tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", pngs(tmp_path / "pngs")))
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("notes.npy", b"anything")
    assert kind_of(archive) == "dcss"
    assert rows(*load(archive)) == rows(*load(tmp_path / "pngs"))


# loading


def test_the_course_files(tmp_path: Path) -> None:
    folder = course(tmp_path / "sprites", RGB.repeat(3, 0), COURSE_ONE_HOT.repeat(3, 0))
    train, held_out = load(folder)
    assert train.spec.name == held_out.spec.name == "course"
    assert train.spec.labels == COURSE_CLASSES
    assert len(held_out) == N // 10  # one copy each of a tenth of the distinct images
    assert len(train) == 3 * (N - N // 10)
    assert rows(train, held_out, held_out, held_out) == expected(RGB.repeat(3, 0), COURSE_ONE_HOT.repeat(3, 0))
    assert rows(load(folder / COURSE_LABELS)[0]) == rows(load(folder / COURSE_IMAGES)[0]) == rows(train)
    images, labels = train.batch(torch.arange(5))
    assert images.shape == (5, 3, 16, 16)
    assert train.spec.check(images) is images
    assert labels.sum(1).tolist() == [1] * 5
    assert len(load(folder, samples=7)[0]) == 7
    assert "duplicates: 108" in inspect_data(train)


def test_the_memory_layout_of_arrays_does_not_matter(tmp_path: Path) -> None:
    expected_rows = rows(*load(course(tmp_path / "a")))
    big_endian = COURSE_ONE_HOT.astype(">f8")
    assert rows(*load(course(tmp_path / "b", np.asfortranarray(RGB), np.asfortranarray(big_endian)))) == expected_rows
    with (tmp_path / "b" / COURSE_IMAGES).open("wb") as file:
        np.lib.format.write_array(file, RGB, version=(2, 0))
    assert rows(*load(tmp_path / "b")) == expected_rows


def test_an_npz_of_dcss(tmp_path: Path) -> None:
    train, held_out = load(npz(tmp_path / "a.npz", ARRAYS["dcss"]))
    assert train.spec.name == "dcss"
    assert train.spec.labels == tuple(NAMES)
    assert rows(train, held_out) == expected(RGB, one_hot(CLASSES, 3))
    arrays: dict[str, Any] = ARRAYS["dcss"] | {}
    np.savez(tmp_path / "stored.npz", **arrays)
    assert rows(*load(tmp_path / "stored.npz")) == rows(train, held_out)
    smaller = {**ARRAYS["dcss"], "coarse": CLASSES.astype(np.uint8)}
    assert rows(*load(npz(tmp_path / "b.npz", smaller))) == rows(train, held_out)


def test_an_npz_of_emoji_is_blended_with_white(tmp_path: Path) -> None:
    train, held_out = load(npz(tmp_path / "a.npz", ARRAYS["emoji"]))
    assert train.spec.name == "emoji"
    assert train.spec.channels == 3
    opacity = RGBA[..., 3:].astype(int)
    quotient, remainder = np.divmod(RGBA[..., :3] * opacity + 255 * (255 - opacity), 255)
    assert rows(train, held_out) == expected((quotient + (remainder > 127)).astype(np.uint8), one_hot(CLASSES, 3))


def test_pngs_of_dcss(tmp_path: Path) -> None:
    train, held_out = load(pngs(tmp_path / "a"))
    assert train.spec.name == "dcss"
    assert train.spec.labels == dcss.LABELS
    labels = one_hot(np.where(np.arange(N) % 2, dcss.LABELS.index("monster"), dcss.LABELS.index("player")), 6)
    assert rows(train, held_out) == expected(RGB, labels)
    assert len(load(tmp_path / "a", samples=4)[0]) == 4


def test_without_a_path_the_tiles_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "fetch_dcss", lambda: pngs(tmp_path / "cache") / dcss.RELEASE)
    assert rows(*load(None)) == rows(*load(tmp_path / "cache"))


# faults in the course's files


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (RGB[0], COURSE_ONE_HOT, rf"{COURSE_IMAGES} is \(16, 16, 3\) uint8; it must be \(N, 16, 16, 3\) uint8"),
        (RGB[..., 0], COURSE_ONE_HOT, r"is \(60, 16, 16\) uint8; it must be"),
        (RGBA, COURSE_ONE_HOT, r"is \(60, 16, 16, 4\) uint8"),
        (RGB[:, :8], COURSE_ONE_HOT, r"is \(60, 8, 16, 3\) uint8"),
        (RGB[:0], COURSE_ONE_HOT[:0], r"is \(0, 16, 16, 3\) uint8; .*with N at least 1"),
        (RGB.astype(np.float32), COURSE_ONE_HOT, r"is \(60, 16, 16, 3\) float32"),
        (RGB.astype(np.int8), COURSE_ONE_HOT, r"is \(60, 16, 16, 3\) int8"),
        (np.array(5, np.uint8), COURSE_ONE_HOT, r"is \(\) uint8"),
        (
            RGB,
            COURSE_ONE_HOT.astype(np.float32),
            rf"{COURSE_LABELS} is \(60, 5\) float32; it must be \(N, 5\) float64",
        ),
        (RGB, COURSE_ONE_HOT[:, :4], r"is \(60, 4\) float64"),
        (RGB, COURSE_ONE_HOT.argmax(1).astype(float), r"is \(60,\) float64"),
        (RGB, COURSE_ONE_HOT[:-1], rf"{COURSE_LABELS} has 59 rows, but {COURSE_IMAGES} has 60"),
        (RGB[:-1], COURSE_ONE_HOT, rf"{COURSE_LABELS} has 60 rows, but {COURSE_IMAGES} has 59"),
    ],
)
def test_wrong_shapes_and_types_raise(images: np.ndarray, labels: np.ndarray, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load(course(tmp_path / "sprites", images, labels))


@pytest.mark.parametrize(
    "row",
    [
        [0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0.5, 0.5, 0, 0, 0],
        [2, -1, 0, 0, 0],
        [1, 0, 0, 0, 1e-9],
        [0, 0, 0, 0, 2],
        [1, 0, 0, 0, float("nan")],
        [1, float("inf"), float("-inf"), 0, 0],
    ],
)
def test_a_row_of_labels_that_is_not_one_hot_raises(row: list[float], tmp_path: Path) -> None:
    labels = COURSE_ONE_HOT.copy()
    labels[[17, 40]] = row
    with pytest.raises(UserError, match=rf"{COURSE_LABELS}: row 17 is \[.*\], which is not one-hot"):
        load(course(tmp_path / "sprites", labels=labels))


@pytest.mark.parametrize("name", [COURSE_IMAGES, COURSE_LABELS])
def test_damaged_course_files_raise(name: str, tmp_path: Path) -> None:
    path = course(tmp_path / "sprites") / name
    content = path.read_bytes()
    for wrong in (b"", b"\x93NUM", content[:9], content[:60], content[:-1], content + b"\0", b"hello" + content):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match=rf"{name} is damaged or not the expected kind of file .*get a new copy"):
            load(path.parent)
    path.unlink()
    with pytest.raises(UserError, match=rf"cannot read .*{name}: No such file"):
        load(path.parent)
    path.mkdir()
    with pytest.raises(UserError, match=rf"cannot read .*{name}: "):
        load(path.parent)


def header(description: str) -> bytes:
    text = description.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "description",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000, 16, 16, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 16, 16, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (60, -16, -16, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (59, 16, 16, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (60.0, 16, 16, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 60}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (60, 16, 16, 3)}",
        "{'descr': '|V0', 'fortran_order': False, 'shape': (60, 16, 16, 3)}",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (60, 16, 16, 3)}",
        "{'descr': '|u1', 'fortran_order': 2, 'shape': (60, 16, 16, 3)}",
        "{'descr': '|u1', 'shape': (60, 16, 16, 3)}",
        "__import__('os').system('false')",
        "-" * 100 + "1",
        "[" * 110,
        "",
    ],
)
def test_headers_are_not_trusted(description: str, tmp_path: Path) -> None:
    folder = course(tmp_path / "sprites")
    (folder / COURSE_IMAGES).write_bytes(header(description) + RGB.tobytes())
    with pytest.raises(UserError, match=COURSE_IMAGES):
        load(folder)
    (folder / COURSE_IMAGES).write_bytes(
        header("{'descr': '|u1', 'fortran_order': False, 'shape': (60, 16, 16, 3)}") + RGB.tobytes()
    )
    assert len(load(folder)[0]) == N - N // 10


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "touched",))

    objects = np.array([Bomb()] * N, dtype=object)
    folder = course(tmp_path / "sprites")
    np.save(folder / COURSE_LABELS, objects, allow_pickle=True)
    with pytest.raises(UserError, match=r"is \(60,\) object"):
        load(folder)
    for arrays in ARRAYS.values():
        for name in arrays:
            with pytest.raises(UserError, match=rf"{name} in .* is \(60,\) object"):
                load(npz(tmp_path / "a.npz", {**arrays, name: objects}))
    assert not (tmp_path / "touched").exists()


# faults in an npz


@pytest.mark.parametrize("kind", NPZ_KEYS)
def test_missing_arrays_raise(kind: Kind, tmp_path: Path) -> None:
    for name in NPZ_KEYS[kind]:
        others = {other: array for other, array in ARRAYS[kind].items() if other != name}
        with pytest.raises(UserError, match=rf"a\.npz has no array {name}; accepted data sets"):
            load(npz(tmp_path / "a.npz", others))
    with pytest.raises(UserError, match=rf"has no array {NPZ_KEYS[kind][0]}, {NPZ_KEYS[kind][2]};"):
        load(npz(tmp_path / "a.npz", {NPZ_KEYS[kind][1]: CLASSES}))


@pytest.mark.parametrize("kind", NPZ_KEYS)
def test_wrong_arrays_raise(kind: Kind, tmp_path: Path) -> None:
    images, classes_key, names = NPZ_KEYS[kind]
    valid = ARRAYS[kind]
    channels = valid[images].shape[3]
    faults: list[tuple[str, np.ndarray, str]] = [
        (images, valid[images][..., :2], rf"is \(60, 16, 16, 2\) uint8; it must be \(N, 16, 16, {channels}\) uint8"),
        (images, valid[images].astype(np.int64), r"is \(60, 16, 16, \d\) int64"),
        (images, valid[images][:0], r"is \(0, 16"),
        (classes_key, CLASSES.astype(float), r"is \(60,\) float64; it must be \(N\) integer"),
        (classes_key, CLASSES[:, None], r"is \(60, 1\) int64"),
        (names, np.array([b"a", b"b", b"c"]), r"is \(3,\) \|S1; it must be \(N\) str"),
        (names, NAMES[:0], r"is \(0,\) <U\d+"),
    ]
    for name, array, message in faults:
        with pytest.raises(UserError, match=rf"{name} in .*a\.npz {message}"):
            load(npz(tmp_path / "a.npz", {**valid, name: array}))
    with pytest.raises(UserError, match=rf"{classes_key} in .*a\.npz has 59 rows, but {images} has 60"):
        load(npz(tmp_path / "a.npz", {**valid, classes_key: CLASSES[:-1]}))
    for wrong in (3, -1):
        classes = CLASSES.copy()
        classes[[31, 50]] = wrong
        with pytest.raises(UserError, match=rf"{classes_key} in .*a\.npz: row 31 is {wrong}; it must be 0 to 2"):
            load(npz(tmp_path / "a.npz", {**valid, classes_key: classes}))
    for invalid in (["a", "a", "b"], ["a", "", "b"]):
        with pytest.raises(UserError, match=rf"{names} in .*a\.npz must be distinct, non-empty names, not \['a'"):
            load(npz(tmp_path / "a.npz", {**valid, names: np.array(invalid)}))


def test_names_with_invalid_code_points_raise(tmp_path: Path) -> None:
    names = np.array([0x110000, 1, 2], np.uint32).view("<U1")
    with pytest.raises(UserError, match=r"category_names in .*a\.npz is damaged"):
        load(npz(tmp_path / "a.npz", {**ARRAYS["emoji"], "category_names": names}))


def test_a_damaged_npz_raises_or_is_read_correctly(tmp_path: Path) -> None:
    small = {"images_rgba16": RGBA[:12], "category": CLASSES[:12], "category_names": NAMES}
    content = npz(tmp_path / "good.npz", small).read_bytes()
    good, path = rows(*load(tmp_path / "good.npz")), tmp_path / "bad.npz"
    for end in range(0, len(content), len(content) // 60):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match=r"bad\.npz"):
            load(path)
    refused = 0
    for i in range(0, len(content), len(content) // 200):
        path.write_bytes(content[:i] + bytes([content[i] ^ 0x55]) + content[i + 1 :])
        try:
            assert rows(*load(path)) == good  # the damaged byte does not matter, for example in a timestamp
        except UserError:
            refused += 1
    assert refused > 150


def test_a_header_that_declares_too_much_data_uses_no_memory(tmp_path: Path) -> None:
    huge = header("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000, 16, 16, 4)}") + bytes(1000)
    path = npz(tmp_path / "a.npz", {name: ARRAYS["emoji"][name] for name in ("category", "category_names")})
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("images_rgba16.npy", huge)
    with pytest.raises(UserError, match=r"images_rgba16 in .*a\.npz is damaged .*cannot reshape"):
        load(path)


def test_an_npz_that_unpacks_to_too_much_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path / "a.npz", ARRAYS["emoji"])
    assert path.stat().st_size < RGBA.nbytes + 3000
    monkeypatch.setattr(dcss, "MAX_UNPACKED_BYTES", RGBA.nbytes)
    with pytest.raises(UserError, match=r"a\.npz unpacks to more than"):
        load(path)


# the real sets


def real(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"the real images are not in {path}")
    return path


@pytest.mark.slow
def test_the_real_tiles_are_the_same_in_every_form(tmp_path: Path) -> None:
    train, held_out = load(real(DCSS_NPZ))
    assert len(train) + len(held_out) == 3862
    assert train.spec.labels == dcss.LABELS
    assert (train.labels.sum(0) + held_out.labels.sum(0)).tolist() == [679, 623, 1105, 195, 797, 463]
    with tarfile.open(real(DCSS_TAR)) as tar:
        for info in tar:
            path = tmp_path / info.name
            if file := tar.extractfile(info):
                path.write_bytes(file.read())
            else:
                path.mkdir(parents=True, exist_ok=True)
    for form in (DCSS_TAR, tmp_path):
        # a spec includes the sha256 of all images and labels
        assert [part.spec for part in load(form)] == [train.spec, held_out.spec]


def test_the_real_emoji() -> None:
    train, held_out = load(real(EMOJI_NPZ))
    assert len(train) + len(held_out) == 3786 - 1  # a copy of a held-out image is dropped
    assert train.spec.labels[:3] == ("Activities", "Animals & Nature", "Component")
    assert len(held_out) == 376
    corners = np.concatenate([train.images, held_out.images])[:, 0, 0]
    assert (corners == 255).all(1).mean() > 0.8  # in most images the corner is background
