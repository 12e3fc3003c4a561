"""Pictures show exactly the pixels of the images, and written files read back as they should."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapedreamer.common.errors import UserError
from shapedreamer.imaging import render


def test_conversion_to_8_bit_rounds_and_clips() -> None:
    images = torch.tensor([-5.0, -1.0, -1 + 2 / 255, 0.0, 1.0, 7.0]).view(1, 1, 1, 6)
    assert render.to_uint8(images).ravel().tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_grid_shows_every_image_in_order(channels: int, mode: str) -> None:
    images = torch.rand(5, channels, 6, 4) * 2 - 1
    picture = render.grid(images, columns=3, scale=2)
    margin = render.MARGIN
    assert picture.mode == mode
    assert picture.size == (3 * (8 + 2 * margin), 2 * (12 + 2 * margin))
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    for i, image in enumerate(render.to_uint8(images)):
        top, left = (i // 3) * (12 + 2 * margin) + margin, (i % 3) * (8 + 2 * margin) + margin
        assert (pixels[top : top + 12 : 2, left : left + 8 : 2] == image).all()
    assert (pixels[-margin - 1, -margin - 1] == render.BACKGROUND).all()  # the sixth place is empty


def test_column_and_row_titles_are_outside_the_grid() -> None:
    picture = render.grid(torch.rand(4, 1, 8, 8), columns=2, scale=4)
    titled = render.labelled(picture, ["a", "b"], ["c", "d"])
    inside = titled.crop((titled.width - picture.width, titled.height - picture.height, titled.width, titled.height))
    assert list(inside.convert("L").tobytes()) == list(picture.tobytes())
    for strip in ((18, 0, titled.width, 18), (0, 18, 18, titled.height)):
        assert np.asarray(titled.crop(strip).convert("L")).max() > 200  # there is white text


@pytest.mark.parametrize("titles", [["a", "b"], ["one line", "first\nsecond line, longer"], ["", "x" * 50]])
def test_row_titles_are_complete_and_level_with_their_rows(titles: list[str]) -> None:
    picture = render.grid(torch.full((4, 1, 30, 30), -1.0), columns=2, scale=4)
    shown = render.titled(picture, titles)
    assert shown.height == picture.height
    left = shown.width - picture.width
    pixels = np.asarray(shown.convert("L"))
    assert (pixels[:, left:] == np.asarray(picture)).all()
    text = pixels[:, :left] > render.BACKGROUND + 20
    for title, row in zip(titles, np.split(text, 2), strict=True):
        assert row.any() == bool(title)
        assert not row[:20].any()  # the title is in the middle of the row
        assert not row[-20:].any()
    assert not text[:, :10].any()  # no letter is cut off on either side
    assert not text[:, -10:].any()


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_loop_forever_and_hold_the_last_frame(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 8), 60 * i, np.uint8)) for i in range(4)]
    path = tmp_path / f"a{suffix}"
    render.save_animation(frames, path, frame_ms=80, hold_ms=2000)
    with Image.open(path) as movie:
        assert movie.n_frames == 4
        assert movie.info["loop"] == 0
        shades = []
        for i in range(4):
            movie.seek(i)
            shades.append(movie.convert("L").getpixel((4, 4)))
            movie.load()
        assert movie.info["duration"] == 2000
    assert shades == pytest.approx([0, 60, 120, 180], abs=2)


def test_arrays_round_trip_exactly(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 4, 4) * 2 - 1
    render.save_array(images, tmp_path / "a.npy")
    loaded = np.load(io.BytesIO((tmp_path / "a.npy").read_bytes()), allow_pickle=False)
    assert loaded.dtype == np.float32
    assert torch.equal(torch.from_numpy(loaded), images)


def test_a_suffix_that_is_no_picture_format_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"a\.txt ends in '\.txt'; it must end in \.png, \.gif, \.webp, \.jpg or \.jpeg"
    ):
        render.save_picture(Image.new("L", (2, 2)), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
