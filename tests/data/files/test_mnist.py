"""IDX files come back as they were written, damaged ones are named, and MNIST is what everybody knows it to be."""

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


def noise(*shape: int, most: int = 255, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, most + 1, shape, np.uint8)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "file"


# IDX


@given(shape=SHAPES, seed=st.integers(0, 99), zipped=st.booleans())
def test_an_idx_file_comes_back_as_it_was_written(
    scratch: Path, shape: tuple[int, ...], seed: int, zipped: bool
) -> None:
    array = noise(*shape, seed=seed)
    scratch.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    found = read_idx(scratch)
    assert found.dtype == np.uint8
    assert found.shape == shape
    assert np.array_equal(found, array)
    found += 1  # it is the caller's own


def test_sizes_are_read_with_the_highest_byte_first_and_over_many_blocks(tmp_path: Path) -> None:
    array = noise(2**21 + 3)  # sizes above 255 tell the order of bytes; more than two blocks
    (tmp_path / "long").write_bytes(idx(array))
    assert np.array_equal(read_idx(tmp_path / "long"), array)


def test_what_a_file_is_called_does_not_matter(tmp_path: Path) -> None:
    array = noise(3, 4)
    (tmp_path / "a.gz").write_bytes(idx(array))  # some browsers unpack what they download and keep the name
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
    "signed bytes": (header(1, kind=9) + b"x", "holds numbers of type 0x09, and must hold unsigned bytes"),
    "floats": (header(1, kind=0x0D) + b"1234", "holds numbers of type 0x0d"),
    "no dimension": (header() + b"x", "says that it has 0 dimensions"),
    "many dimensions": (header(*[1] * 33) + b"x", "says that it has 33 dimensions, and must have 1 to 32"),
    "cut in the sizes": (header(2, 3)[:-1], "ends within its sizes"),
    "nothing after the magic": (header(2, 3)[:4], "ends within its sizes"),
    "a size of 0": (header(0, 28, 28), r"its size is \(0, 28, 28\): it holds nothing"),
    "a size of 0 among huge ones": (header(0, *[HUGE] * 9), "it holds nothing"),
    "no numbers": (header(2, 3), r"its size \(2, 3\) means 6 bytes, and it has only 0"),
    "a byte less": (idx(noise(2, 3))[:-1], r"its size \(2, 3\) means 6 bytes, and it has only 5"),
    "a byte more": (idx(noise(2, 3)) + b"\0", r"its size \(2, 3\) means 6 bytes, and it has more"),
    "absurd sizes": (header(HUGE, HUGE, HUGE) + b"x", "and it has only 1;"),
    "a terabyte": (header(2**20, 2**20) + b"x", "and it has only 1;"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, content: bytes, message: str, zipped: bool) -> None:
    path = tmp_path / "train-images"
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UserError, match=message) as caught:
        read_idx(path)
    assert str(caught.value).startswith(str(path))


def test_32_dimensions_are_not_too_many(scratch: Path) -> None:
    scratch.write_bytes(idx(noise(*[1] * 31, 2)))
    assert read_idx(scratch).ndim == 32


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_cut_anywhere_is_refused(scratch: Path, zipped: bool) -> None:
    whole = gzip.compress(idx(noise(3, 5))) if zipped else idx(noise(3, 5))
    for length in range(len(whole)):
        scratch.write_bytes(whole[:length])
        with pytest.raises(UserError, match=str(scratch)):
            read_idx(scratch)


def test_a_flipped_bit_in_a_gzip_file_is_never_believed(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "BLOCK", 15)  # all the numbers in one block, and gzip's checksum after it
    array = noise(3, 5)
    whole = gzip.compress(idx(array))
    believed = 0
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << bit % 8
        scratch.write_bytes(broken)
        with contextlib.suppress(UserError):
            assert np.array_equal(read_idx(scratch), array)
            believed += 1
    assert believed < 8 * 10  # it was in gzip's own header of 10 bytes, as in the file's date


def test_garbage_after_a_gzip_file_is_refused(scratch: Path) -> None:
    scratch.write_bytes(gzip.compress(idx(noise(3, 5))) + b"garbage")
    with pytest.raises(UserError, match="is damaged"):
        read_idx(scratch)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_byte_more_is_seen_where_the_numbers_fill_a_block(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.setattr(mnist, "BLOCK", 15)
    content = idx(noise(3, 5)) + b"\0"
    scratch.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(UserError, match="and it has more"):
        read_idx(scratch)


@pytest.mark.parametrize("promised", [6, 2**40])
def test_memory_is_taken_neither_for_a_zip_bomb_nor_for_a_promise(scratch: Path, promised: int) -> None:
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
def test_what_cannot_be_read_is_named(tmp_path: Path, path: str) -> None:
    with pytest.raises(UserError, match=f"cannot read {tmp_path / path}: (No such file|Is a directory)"):
        read_idx(tmp_path / path)


# the data sets


def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """30 images to train on and 20 held out, in the order of FILE_NAMES; every label is there."""
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
def test_the_first_pair_of_files_is_to_train_on_and_the_second_is_held_out(tmp_path: Path, name: Name) -> None:
    contents = arrays()
    data = load(name, write(tmp_path, contents))
    for one, images, labels in zip(data, contents[::2], contents[1::2], strict=True):
        assert one.spec.name == name
        assert one.spec.labels == LABELS[name]
        assert (one.spec.channels, one.spec.height, one.spec.width) == (1, 28, 28)
        found, vectors = one.batch(torch.arange(len(images)))
        assert torch.equal(found[:, 0], torch.from_numpy(images).float() / 127.5 - 1)
        assert vectors.argmax(1).tolist() == labels.tolist()
        assert torch.equal(vectors.sum(1), torch.ones(len(labels)))


def test_samples_are_of_the_images_to_train_on_alone(tmp_path: Path) -> None:
    train, held_out = load("mnist", write(tmp_path, arrays()), samples=7)
    assert (len(train), len(held_out)) == (7, 20)
    everything = {image.tobytes() for image in arrays()[0]}
    assert {image.tobytes() for image in train.images} <= everything


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name.removesuffix(".gz"),
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx").removesuffix(".gz"),
        lambda name: name.removesuffix(".gz") if "images" in name else name,
    ],
)
def test_files_may_be_spelled_as_people_do(tmp_path: Path, spell: Callable[[str], str]) -> None:
    write(tmp_path, arrays(), [spell(name) for name in FILE_NAMES])
    train, held_out = load("mnist", tmp_path)
    assert np.array_equal(train.images[..., 0], arrays()[0])
    assert np.array_equal(held_out.labels.argmax(1), arrays()[3])


def test_a_folder_with_the_name_of_a_file_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, arrays())
    (tmp_path / FILE_NAMES[0].removesuffix(".gz")).mkdir()
    assert len(load("mnist", tmp_path)[0]) == 30


def test_a_folder_that_lacks_files_is_refused_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist, "fetch", None)
    write(tmp_path, arrays())
    (tmp_path / FILE_NAMES[1]).unlink()
    (tmp_path / FILE_NAMES[2]).rename(tmp_path / "other")
    with pytest.raises(UserError) as caught:
        load("mnist", tmp_path)
    assert str(caught.value) == f"{tmp_path} lacks {FILE_NAMES[1]}, {FILE_NAMES[2]} (with or without .gz)"


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", write(tmp_path, arrays()) / FILE_NAMES[0]):
        with pytest.raises(UserError, match=f"{path} is not a folder; name one that holds train-images"):
            load("mnist", path)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (0, noise(30, 28, 27), r"train-images-idx3-ubyte.gz has the size \(30, 28, 27\), and must have \(N, 28, 28\)"),
        (2, noise(20, 32, 28), r"t10k-images-idx3-ubyte.gz has the size \(20, 32, 28\)"),
        (0, noise(30, 784), r"train-images-idx3-ubyte.gz has the size \(30, 784\)"),
        (0, noise(30, 28, 28, 3), r"train-images-idx3-ubyte.gz has the size \(30, 28, 28, 3\)"),
        (1, noise(29, most=9), r"train-labels-idx1-ubyte.gz has the size \(29,\), and must have \(30,\)"),
        (3, noise(30, most=9), r"t10k-labels-idx1-ubyte.gz has the size \(30,\), and must have \(20,\)"),
        (1, noise(30, 1, most=9), r"train-labels-idx1-ubyte.gz has the size \(30, 1\)"),
        (3, np.full(20, 10, np.uint8), "t10k-labels-idx1-ubyte.gz has a label 10, and labels are 0 to 9"),
    ],
)
def test_files_that_do_not_go_together_are_refused(tmp_path: Path, place: int, wrong: np.ndarray, message: str) -> None:
    contents = list(arrays())
    contents[place] = wrong
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


def test_labels_have_the_order_of_their_numbers() -> None:
    assert LABELS["mnist"] == tuple("0123456789")
    assert ",".join(LABELS["fashion_mnist"]) == "t-shirt,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,boot"


def test_every_file_has_its_own_checksum_and_two_mirrors() -> None:
    for name in NAMES:
        assert tuple(file.name for file in FILES[name]) == FILE_NAMES
        assert len(LABELS[name]) == len(set(LABELS[name])) == 10
        for file in FILES[name]:
            assert len(bytes.fromhex(file.sha256)) == 32
            assert len({urlsplit(url).hostname for url in file.urls}) == 2
            assert all(url.startswith("http") and url.endswith(f"/{file.name}") for url in file.urls)
    assert len({file.sha256 for name in NAMES for file in FILES[name]}) == 8


# the real files


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real files are not here")
@pytest.mark.parametrize(("name", "first_labels"), [("mnist", [5, 0, 4, 1, 9]), ("fashion_mnist", [9, 0, 0, 3, 0])])
def test_the_real_files(monkeypatch: pytest.MonkeyPatch, name: Name, first_labels: list[int]) -> None:
    for file in FILES[name]:
        assert hashlib.sha256((SHARED / name / file.name).read_bytes()).hexdigest() == file.sha256
    monkeypatch.setenv("SHAPEDREAMER_DATA", str(SHARED))  # a cache folder that has them all
    train, held_out = load(name)
    assert (len(train), len(held_out)) == (60_000, 10_000)
    assert train.labels[:5].argmax(1).tolist() == first_labels
    assert held_out.labels.sum(0).tolist() == pytest.approx([1000] * 10, abs=0 if name == "fashion_mnist" else 150)
    for data in (train, held_out):
        images, _ = data.batch(torch.arange(100))
        assert data.spec.check(images) is images
        assert images.min() == -1  # a dark background
        assert images.mean() < 0
