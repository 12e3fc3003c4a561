"""IDX files: valid ones are read exactly, and damaged ones raise; MNIST and Fashion-MNIST load correctly."""

import contextlib
import gzip
import hashlib
import struct
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shapedreamer.common.errors import UserError
from shapedreamer.data.files import mnist
from shapedreamer.data.files.download import RemoteFile
from shapedreamer.data.files.mnist import FILE_NAMES, FILES, LABELS, Name, load, read_idx

SHARED = Path(__file__).parents[4] / "shared" / "data"
NAMES: tuple[Name, ...] = ("mnist", "fashion_mnist")
SHAPES = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)


def idx(array: np.ndarray) -> bytes:
    return header(*array.shape) + array.tobytes()


def header(*shape: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape)


def noise(*shape: int, high: int = 255, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high + 1, shape, np.uint8)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "file"


# IDX


@given(shape=SHAPES, seed=st.integers(0, 99), zipped=st.booleans())
def test_an_idx_file_is_read_exactly(scratch: Path, shape: tuple[int, ...], seed: int, zipped: bool) -> None:
    array = noise(*shape, seed=seed)
    scratch.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    found = read_idx(scratch)
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert np.array_equal(found, array)
    found += 1  # the array is writable


def test_sizes_are_big_endian_and_data_may_span_many_blocks(tmp_path: Path) -> None:
    array = noise(2**21 + 3)  # a size above 255 depends on the byte order; more than two blocks
    (tmp_path / "long").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "long"), array)


def test_the_file_name_does_not_matter(tmp_path: Path) -> None:
    array = noise(3, 4)
    (tmp_path / "a.gz").write_bytes(idx(array))  # some browsers decompress a download but keep its name
    (tmp_path / "b").write_bytes(gzip.compress(idx(array)))
    for name in ("a.gz", "b"):
        assert np.array_equal(read_idx(tmp_path / name), array)


HUGE = 2**32 - 1
BAD = {
    "empty": (b"", "is not an IDX file: it starts with nothing"),
    "short magic": (b"\0\0\x08", "is not an IDX file: it starts with 00 00 08, not"),
    "text": (b"<!DOCTYPE html>", "is not an IDX file: it starts with 3c 21 44 4f, not with 00 00 08"),
    "first byte": (b"\1" + header(1)[1:] + b"x", "is not an IDX file: it starts with 01 00 08 01"),
    "second byte": (b"\0\1" + header(1)[2:] + b"x", "is not an IDX file: it starts with 00 01 08 01"),
    "signed bytes": (header(1, kind=9) + b"x", "contains data of type 0x09; it must contain unsigned bytes"),
    "floats": (header(1, kind=0x0D) + b"1234", "contains data of type 0x0d"),
    "no dimension": (header() + b"x", "has 0 dimensions according to its header"),
    "many dimensions": (header(*[1] * 33) + b"x", "has 33 dimensions according to its header; it must have 1 to 32"),
    "truncated header": (header(2, 3)[:-1], "it ends inside the header"),
    "nothing after the magic": (header(2, 3)[:4], "it ends inside the header"),
    "a size of 0": (header(0, 28, 28), r"is empty: according to its header, its shape is \(0, 28, 28\)"),
    "a size of 0 among huge ones": (header(0, *[HUGE] * 9), "is empty: according to its header"),
    "no data": (header(2, 3), r"its shape \(2, 3\) needs 6 bytes, but it has only 0"),
    "a byte missing": (idx(noise(2, 3))[:-1], r"its shape \(2, 3\) needs 6 bytes, but it has only 5"),
    "an extra byte": (idx(noise(2, 3)) + b"\0", r"its shape \(2, 3\) needs 6 bytes, but it has more"),
    "absurd sizes": (header(HUGE, HUGE, HUGE) + b"x", "but it has only 1;"),
    "a terabyte": (header(2**20, 2**20) + b"x", "but it has only 1;"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_an_invalid_file_raises_with_the_reason(tmp_path: Path, content: bytes, message: str, zipped: bool) -> None:
    path = tmp_path / "train-images"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))


def test_32_dimensions_are_allowed(scratch: Path) -> None:
    scratch.write_bytes(idx(noise(*[1] * 31, 2)))
    assert read_idx(scratch).ndim == 32


@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_file_raises(scratch: Path, zipped: bool) -> None:
    whole = gzip.compress(idx(noise(3, 5))) if zipped else idx(noise(3, 5))
    for length in range(len(whole)):
        scratch.write_bytes(whole[:length])
        with pytest.raises(UserError, match=str(scratch)):
            read_idx(scratch)


def test_a_flipped_bit_in_a_gzip_file_never_changes_the_data(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "BLOCK", 15)  # all data in one block, followed by gzip's checksum
    array = noise(3, 5)
    whole = gzip.compress(idx(array))
    accepted = 0
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        scratch.write_bytes(broken)
        with contextlib.suppress(UserError):
            assert np.array_equal(read_idx(scratch), array)
            accepted += 1
    assert accepted < 8 * 10  # only flips in gzip's 10-byte header, such as in its timestamp


def test_garbage_after_a_gzip_file_raises(scratch: Path) -> None:
    scratch.write_bytes(gzip.compress(idx(noise(3, 5))) + b"garbage")
    with pytest.raises(UserError, match="is damaged"):
        read_idx(scratch)


@pytest.mark.parametrize("zipped", [False, True])
def test_an_extra_byte_raises_when_the_data_fill_a_block(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.setattr(mnist, "BLOCK", 15)
    content = idx(noise(3, 5)) + b"\0"
    scratch.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UserError, match="but it has more"):
        read_idx(scratch)


@pytest.mark.parametrize("promised", [6, 2**40])
def test_zip_bombs_and_false_headers_do_not_use_memory(scratch: Path, promised: int) -> None:
    content = header(promised // 2, 2) if promised < 2**32 else header(2**20, 2**20)
    content += bytes(2**25 if promised == 6 else 6)
    scratch.write_bytes(gzip.compress(content, 1))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="is damaged"):
            read_idx(scratch)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", ["missing", "."])
def test_an_unreadable_file_raises(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=f"cannot read {tmp_path / path}: (No such file|Is a directory)"):
        read_idx(tmp_path / path)


# the data sets


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """30 training and 20 held-out images with their labels, in the order of FILE_NAMES; every label occurs."""
    return (
        noise(30, 28, 28),
        np.arange(30, dtype=np.uint8) % 10,
        noise(20, 28, 28, seed=1),
        9 - np.arange(20, dtype=np.uint8) % 10,
    )


def write(folder: Path, contents: Sequence[np.ndarray], names: Sequence[str] = FILE_NAMES) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(gzip.compress(idx(content)) if name.endswith(".gz") else idx(content))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_the_first_two_files_are_training_data_and_the_others_held_out(tmp_path: Path, name: Name) -> None:
    contents = arrays()
    data = load(name, write(tmp_path, contents))
    for part, images, labels in zip(data, contents[::2], contents[1::2], strict=True):
        assert part.spec.name == name
        assert part.spec.labels == LABELS[name]
        assert (part.spec.channels, part.spec.height, part.spec.width) == (1, 28, 28)
        found, vectors = part.batch(torch.arange(len(images)))
        assert torch.equal(found[:, 0], torch.from_numpy(images).float() / 127.5 - 1)
        assert vectors.argmax(1).tolist() == labels.tolist()
        assert torch.equal(vectors.sum(1), torch.ones(len(labels)))


def test_samples_limits_the_training_images_only(tmp_path: Path) -> None:
    train, held_out = load("mnist", write(tmp_path, arrays()), samples=7)
    assert (len(train), len(held_out)) == (7, 20)
    all_images = {image.tobytes() for image in arrays()[0]}
    assert {image.tobytes() for image in train.images} <= all_images


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name.removesuffix(".gz"),
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx").removesuffix(".gz"),
        lambda name: name.removesuffix(".gz") if "images" in name else name,
    ],
)
def test_common_spellings_of_the_file_names_are_accepted(tmp_path: Path, spell: Callable[[str], str]) -> None:
    write(tmp_path, arrays(), [spell(name) for name in FILE_NAMES])
    train, held_out = load("mnist", tmp_path)
    assert np.array_equal(train.images[..., 0], arrays()[0])
    assert np.array_equal(held_out.labels.argmax(1), arrays()[3])


@pytest.mark.parametrize("path", ["root", "root/MNIST", "root/MNIST/raw"])
def test_the_folders_of_torchvision_are_found(tmp_path: Path, path: str) -> None:
    raw = tmp_path / "root" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    write(raw, arrays(), [name.removesuffix(".gz") for name in FILE_NAMES])
    train, _ = load("mnist", tmp_path / path)
    assert np.array_equal(train.images[..., 0], arrays()[0])
    with pytest.raises(UserError, match="does not contain train-images"):
        load("fashion_mnist", tmp_path)


def test_a_folder_named_like_a_file_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, arrays())
    (tmp_path / FILE_NAMES[0].removesuffix(".gz")).mkdir()
    assert len(load("mnist", tmp_path)[0]) == 30


def test_a_folder_with_missing_files_raises_without_downloading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "fetch", None)
    write(tmp_path, arrays())
    (tmp_path / FILE_NAMES[1]).unlink()
    (tmp_path / FILE_NAMES[2]).rename(tmp_path / "other")
    with pytest.raises(UserError) as caught:
        load("mnist", tmp_path)
    assert str(caught.value) == f"{tmp_path} does not contain {FILE_NAMES[1]}, {FILE_NAMES[2]} (with or without .gz)"


def test_a_path_that_is_not_a_folder_raises(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", write(tmp_path, arrays()) / FILE_NAMES[0]):
        with pytest.raises(UserError, match=f"{path} is not a folder; pass a folder that contains train-images"):
            load("mnist", path)


@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, noise(30, 28, 27), r"train-images-idx3-ubyte.gz has shape \(30, 28, 27\); it must be \(N, 28, 28\)"),
        (2, noise(20, 32, 28), r"t10k-images-idx3-ubyte.gz has shape \(20, 32, 28\)"),
        (0, noise(30, 784), r"train-images-idx3-ubyte.gz has shape \(30, 784\)"),
        (0, noise(30, 28, 28, 3), r"train-images-idx3-ubyte.gz has shape \(30, 28, 28, 3\)"),
        (1, noise(29, high=9), r"train-labels-idx1-ubyte.gz has shape \(29,\); it must be \(30,\)"),
        (3, noise(30, high=9), r"t10k-labels-idx1-ubyte.gz has shape \(30,\); it must be \(20,\)"),
        (1, noise(30, 1, high=9), r"train-labels-idx1-ubyte.gz has shape \(30, 1\)"),
        (3, np.full(20, 10, np.uint8), "t10k-labels-idx1-ubyte.gz contains the label 10; labels must be 0 to 9"),
    ],
)
def test_files_that_do_not_match_raise(tmp_path: Path, position: int, wrong: np.ndarray, message: str) -> None:
    contents = list(arrays())
    contents[position] = wrong
    with pytest.raises(UserError, match=message):
        load("fashion_mnist", write(tmp_path, contents))


@pytest.mark.parametrize("name", NAMES)
def test_without_a_path_the_files_come_from_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Name
) -> None:
    def fetch(files: Sequence[RemoteFile], folder: Path) -> list[Path]:
        assert files is FILES[name]
        assert folder == tmp_path / name
        write(folder, arrays())
        return [folder / file.name for file in files]

    monkeypatch.setenv("SHAPEDREAMER_DATA", str(tmp_path))
    monkeypatch.setattr(mnist, "fetch", fetch)
    train, held_out = load(name)
    assert np.array_equal(train.images[..., 0], arrays()[0])
    assert np.array_equal(held_out.images[..., 0], arrays()[2])


def test_label_names_are_in_class_order() -> None:
    assert LABELS["mnist"] == tuple("0123456789")
    assert ",".join(LABELS["fashion_mnist"]) == "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,boot"


def test_every_file_has_a_checksum_of_its_own_and_two_mirrors() -> None:
    for name in NAMES:
        assert tuple(file.name for file in FILES[name]) == FILE_NAMES
        assert len(LABELS[name]) == len(set(LABELS[name])) == 10
        for file in FILES[name]:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert len({urlsplit(url).hostname for url in file.urls}) == 2
            assert all(url.startswith("http") and url.endswith(f"/{file.name}") for url in file.urls)
    assert len({file.sha256 for name in NAMES for file in FILES[name]}) == 8


# the real files


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not available")
@pytest.mark.parametrize(("name", "first_labels"), [("mnist", [5, 0, 4, 1, 9]), ("fashion_mnist", [9, 0, 0, 3, 0])])
def test_the_real_files(monkeypatch: pytest.MonkeyPatch, name: Name, first_labels: list[int]) -> None:
    for file in FILES[name]:
        assert hashlib.sha256((SHARED / name / file.name).read_bytes()).hexdigest() == file.sha256
    monkeypatch.setenv("SHAPEDREAMER_DATA", str(SHARED))  # a cache folder that contains all files
    train, held_out = load(name)
    assert (len(train), len(held_out)) == (60_000, 10_000)
    assert train.labels[:5].argmax(1).tolist() == first_labels
    assert held_out.labels.sum(0).tolist() == pytest.approx([1000] * 10, abs=0 if name == "fashion_mnist" else 150)
    for data in (train, held_out):
        images, _ = data.batch(torch.arange(100))
        assert data.spec.check(images) is images
        assert images.min() == -1  # a dark background
        assert images.mean() < 0
