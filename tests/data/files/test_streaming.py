"""Images larger than memory: batches, labels and splits equal those of images in memory, and changes are found."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shapedreamer.common.errors import UserError
from shapedreamer.data import limits
from shapedreamer.data.arrays import Arrays
from shapedreamer.data.files import folder
from shapedreamer.data.files.npy import StoredArray
from shapedreamer.data.files.streaming import Digests, FileNames, StreamedImages

RANDOM = np.random.default_rng(0)

Stream = Callable[..., tuple[StreamedImages, StreamedImages]]


def noise(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    """A function that loads a folder as if nothing fitted into memory."""

    def load(path: Path, *options: Any, memory: int = 0, **more: Any) -> tuple[StreamedImages, StreamedImages]:
        with monkeypatch.context() as patch:
            patch.setattr(folder, "max_bytes_in_memory", lambda: memory)
            data, held_out = folder.load(path, *options, **more)
        assert isinstance(data, StreamedImages)
        assert isinstance(held_out, StreamedImages)
        return data, held_out

    return load


def pictures(root: Path, size: tuple[int, ...] = (8, 8, 3), num: int = 40) -> None:
    """Pictures in three folders and at the top level, with duplicates, and names that sort in an unusual order."""
    for i in range(num):
        place = root / ("", "a", "a-b", "a/c", "z")[i % 5]
        pixels = noise(*size)
        save(pixels, place / f"{i}.png")
        if i % 7 == 0:
            save(pixels, root / "z" / f"{i} again.bmp")
    (root / "a" / "broken.png").write_bytes(b"not an image")
    (root / "a" / "empty.png").write_bytes(b"")
    (root / "notes.txt").write_text("")


def mixed(root: Path) -> None:
    """Grey pictures, then one in colour, as are the last rows of an array."""
    pictures(root, (8, 8))
    save(noise(8, 8, 3), root / "y.png")
    grey = noise(20, 8, 8, 1).repeat(3, axis=3)
    np.save(root / "m.npy", np.concatenate([grey, noise(5, 8, 8, 3)]))


def transparent(root: Path) -> None:
    pictures(root, (9, 7, 4))


def of_all_sizes(root: Path) -> None:
    for i in range(30):
        save(noise(5 + i, 30 - i // 2, 3), root / "ab"[i % 2] / f"{i}.png")


def arrays(root: Path) -> None:
    for name, num in (("a", 20), ("b", 15)):
        np.savez(root / f"{name}.npz", images=noise(num, 6, 6), labels=RANDOM.integers(0, 4, num))


def vectors(root: Path) -> None:
    np.savez(root / "x.npz", images=noise(30, 6, 6, 3), labels=RANDOM.normal(size=(30, 3)))


def few(root: Path) -> None:
    pictures(root, num=4)


def large_array(root: Path) -> None:
    np.save(root / "x.npy", noise(40, 6, 5, 3))
    save(noise(6, 5, 3), root / "y.png")


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (pictures, {}),
        (pictures, {"mode": "L"}),
        (pictures, {"samples": 10}),
        (mixed, {}),
        (mixed, {"size": (4, 6), "fit": "crop"}),
        (transparent, {}),
        (transparent, {"mode": "RGBA"}),
        (transparent, {"background": "red"}),
        (of_all_sizes, {"size": (8, 8), "fit": "crop"}),
        (of_all_sizes, {"size": (8, 12), "fit": "pad", "background": "teal"}),
        (of_all_sizes, {"size": (16, 16), "fit": "stretch", "mode": "L"}),
        (arrays, {}),
        (vectors, {}),
        (few, {}),
        (few, {"samples": 2}),
        (large_array, {}),
        (large_array, {"size": (3, 3), "fit": "crop", "samples": 20}),
    ],
)
@pytest.mark.parametrize("memory", [0, 5000])
def test_streamed_images_equal_those_in_memory(
    make: Callable[[Path], None],
    options: dict[str, Any],
    memory: int,
    stream: Stream,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    expected = folder.load(root, **options)
    report = capsys.readouterr().err
    assert isinstance(expected[0], Arrays)
    memory = min(memory, expected[0].images.nbytes // 2)
    streamed = stream(root, memory=memory, **options)
    lines = capsys.readouterr().err.removeprefix(report).splitlines()
    assert len(lines) == 1
    line = re.fullmatch(r"streaming from disk: (\d+) images, larger than memory", lines[0])
    assert line
    assert int(line[1]) >= max(map(len, expected))
    assert (expected[0] is expected[1]) == (streamed[0] is streamed[1])
    for part, other in zip(streamed, expected, strict=True):
        assert part.spec == other.spec
        assert len(part) == len(other)
        order = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))
        for index in (torch.arange(len(part)), order, order[:1], order[:0]):
            for values, others in zip(part.batch(index), other.batch(index), strict=True):
                assert torch.equal(values, others)
                assert values.stride() == others.stride()
                assert values.dtype == others.dtype


def test_images_move_to_disk_when_the_first_colour_image_does_not_fit(stream: Stream, tmp_path: Path) -> None:
    for i in range(20):
        save(noise(10, 10), tmp_path / f"{i:02}.png")
    assert isinstance(folder.load(tmp_path)[0], Arrays)
    save(noise(10, 10, 3), tmp_path / "x.png")
    data, held_out = stream(tmp_path, memory=3000)  # 21 grey images fit
    expected = folder.load(tmp_path)
    assert (data.spec, held_out.spec) == (expected[0].spec, expected[1].spec)


def test_an_array_larger_than_memory_is_read_in_rows(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, noise(50, 6, 6))
    monkeypatch.setattr(StoredArray, "read", None)  # the whole array
    data, _ = stream(tmp_path)
    batch, _ = data.batch(torch.tensor([3]))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 36)
    assert torch.equal(data.batch(torch.tensor([3]))[0], batch)
    with pytest.raises(UserError, match=r"cannot read .*x.npy any more: truncated: 0 of 36 bytes"):
        data.batch(torch.arange(len(data)))


def test_a_truncated_array_larger_than_memory_is_skipped(
    stream: Stream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, noise(50, 6, 6))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 36)
    save(noise(6, 6), tmp_path / "y.png")
    data, _ = stream(tmp_path)
    assert len(data) == 1
    assert "x.npy: truncated" in capsys.readouterr().err


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (Path.unlink, "cannot read {} any more: No such file or directory. Restore the file"),
        (damage, "cannot read {} any more: "),
        (lambda path: path.write_bytes(b"html"), "cannot read {} any more: not a PNG"),
        (lambda path: save(noise(8, 8, 3), path), "{} has changed since the start"),
        (lambda path: save(noise(9, 8, 3), path), "cannot read {} any more: its size is now 9x8"),
    ],
)
def test_a_file_that_vanishes_or_changes_is_an_error_that_names_it(
    change: Callable[[Path], None], error: str, stream: Stream, tmp_path: Path
) -> None:
    for i in range(30):
        save(noise(8, 8, 3), tmp_path / f"{i}\n.png")  # a name with a line break
    data, held_out = stream(tmp_path)
    change(tmp_path / "17\n.png")
    with pytest.raises(UserError) as raised:
        [part.batch(torch.arange(len(part))) for part in (data, held_out)]
    assert str(raised.value).startswith(error.format(f"{tmp_path}/17\\n.png"))
    assert "\n" not in str(raised.value)


def test_an_index_out_of_range_raises(stream: Stream, tmp_path: Path) -> None:
    pictures(tmp_path)
    data, _ = stream(tmp_path)
    for i in (-1, len(data)):
        with pytest.raises(IndexError, match="outside"):
            data.batch(torch.tensor([i]))


def test_the_number_of_streamed_images_is_limited(
    stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path)
    monkeypatch.setattr(folder, "MAX_IMAGES", 47)
    with pytest.raises(UserError, match=r"has 48 images, which do not fit into memory; at most 47 can be streamed"):
        stream(tmp_path)


def test_the_number_of_files_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path)
    monkeypatch.setattr(folder, "MAX_FILES", 47)
    with pytest.raises(UserError, match="more than 20,000 folders or 47 files"):
        folder.load(tmp_path)


def test_many_labels_count_as_memory(stream: Stream, tmp_path: Path) -> None:
    for i in range(20):
        save(noise(2, 2), tmp_path / str(i) / "x.png")
    stream(tmp_path, memory=20 * 4 + 20 * 20 * 4 - 1)


def test_a_container_limits_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = limits.max_bytes_in_memory()
    assert 0 < usual <= limits.MAX_DATA_BYTES // 2
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(limits, "CONTAINER_LIMITS", (limit,))
    limit.write_text("800000\n")
    assert limits.max_bytes_in_memory() == 100_000
    limit.write_text("max\n")
    assert limits.max_bytes_in_memory() >= usual


@pytest.mark.skipif(sys.platform == "win32", reason="names of files are always valid text there")
def test_names_are_kept_exactly() -> None:
    names = ["", "a/b.png", "é\n\x1b.png", os.fsdecode(b"caf\xe9.png"), "漢字/😀.png"]
    listed = FileNames()
    for name in names:
        listed.append(name)
    assert list(listed) == listed[:] == names
    with pytest.raises(IndexError):
        listed[5]


def test_digests_of_grey_images_become_those_of_colour_images() -> None:
    grey, colour = noise(5, 3, 3, 1), noise(2, 3, 3, 3)
    digests = Digests()
    digests.add(grey)
    assert np.array_equal(digests.array(), Arrays("grey", grey, np.zeros((5, 0)), ()).digests())
    digests.add(colour)
    digests.add(grey[:1])
    everything = np.concatenate([grey.repeat(3, axis=3), colour, grey[:1].repeat(3, axis=3)])
    assert np.array_equal(digests.array(), Arrays("all", everything, np.zeros((8, 0)), ()).digests())


PEAK = """
import re, sys
from pathlib import Path
import torch
from shapedreamer.data.files import folder
folder.max_bytes_in_memory = lambda: 0
data, held_out = folder.load(Path(sys.argv[1]))
for step in range(20):
    data.batch(torch.arange(step * 16, step * 16 + 16))
print(len(data) + len(held_out), *re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure memory")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """3,500 more images of 64x64 take 43 MB in memory, and a megabyte when they are streamed."""
    peaks = []
    for first, num in ((0, 500), (500, 4000)):
        for i in range(first, num):
            save(noise(64, 64, 3), tmp_path / str(i % 4) / f"{i}.bmp")
        done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
        images, kilobytes = map(int, done.stdout.split())
        assert images == num
        peaks.append(kilobytes / 1000)
    assert peaks[1] - peaks[0] < 10
