"""The limits of files: what is just allowed, what is not, and that many small files together may be large."""

from pathlib import Path

import pytest
from PIL import Image

from shapedreamer.common.errors import UserError
from shapedreamer.data import limits
from shapedreamer.data.limits import (
    FREE_BYTES,
    MAX_DATA_BYTES,
    MAX_PICTURE_PIXELS,
    MAX_PICTURE_SIDE,
    MAX_RATIO,
    allowed_bytes,
    bytes_on_disk,
    check_picture,
    check_unpacked,
    printable,
)


def test_memory_is_free_up_to_a_limit_and_then_in_proportion_to_the_size_on_disk() -> None:
    assert allowed_bytes(0) == allowed_bytes(FREE_BYTES // MAX_RATIO) == FREE_BYTES
    assert allowed_bytes(10**7) == MAX_RATIO * 10**7
    assert allowed_bytes(10**12) == MAX_DATA_BYTES
    check_unpacked("a", FREE_BYTES, 0)
    check_unpacked("a", 10**9, 10**9)  # uncompressed
    with pytest.raises(UserError, match=r"^a claims 134.2 MB of data but has 0.0 MB on disk; at most 134.2 MB are"):
        check_unpacked("a", FREE_BYTES + 1, 0)


def test_holes_do_not_count_as_bytes_on_disk(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.write(b"1234")
        file.truncate(2**33)
    (tmp_path / "b").write_bytes(b"12345")
    if not hasattr((tmp_path / "a").stat(), "st_blocks") or (tmp_path / "a").stat().st_blocks > 2**20:
        pytest.skip("this system has no sparse files")
    assert bytes_on_disk([tmp_path / "a"]) < 2**20
    assert bytes_on_disk([tmp_path / "b", tmp_path / "missing"]) == 5


@pytest.mark.parametrize(
    ("size", "allowed"),
    [
        ((6000, 4000), True),  # a camera with 24 megapixels
        ((MAX_PICTURE_PIXELS // 1000, 1000), True),
        ((MAX_PICTURE_PIXELS // 1000 + 1, 1000), False),
        ((MAX_PICTURE_SIDE, 1), True),
        ((1, MAX_PICTURE_SIDE + 1), False),
    ],
)
def test_a_picture_has_a_maximum_number_of_pixels_and_side(size: tuple[int, int], allowed: bool) -> None:
    picture = Image.Image()
    picture._size = size  # no pixels are allocated
    if allowed:
        check_picture(picture, Path("a.png"))
    else:
        with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} pixels .* decompression bomb; at most 50,000,000"):
            check_picture(picture, Path("a.png"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café 猫 🐈", "café 猫 🐈"),
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\ud800", r"\ud800"),
        ("\u2028", r"\u2028"),
    ],
)
def test_text_from_a_file_is_printed_on_one_line_without_control_characters(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert len(printable(text).splitlines()) == 1


def test_every_limit_is_documented_with_a_reason() -> None:
    names = [name for name in vars(limits) if name.isupper() and name.startswith(("MAX_", "MIN_", "FREE_"))]
    source = Path(limits.__file__).read_text(encoding="utf-8").splitlines()
    for name in names:
        [line] = [i for i, text in enumerate(source) if text.startswith(f"{name} =")]
        block = line
        while source[block - 1]:
            block -= 1
        assert "#" in source[line] or source[block].startswith("#"), name
