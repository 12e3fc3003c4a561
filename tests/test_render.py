"""Pictures show the pixels that they are given, and files hold what they say."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapedreamer import render
from shapedreamer.errors import UserError


def test_eight_bits_are_rounded_and_clipped() -> None:
    images = torch.tensor([-5.0, -1.0, -1 + 2 / 255, 0.0, 1.0, 7.0]).view(1, 1, 1, 6)
    assert render.to_uint8(images).ravel().tolist() == [0, 0, 1, 128, 255, 255]


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_grid_has_every_image_in_its_place(channels: int, mode: str) -> None:
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


def test_labels_stand_outside_the_images() -> None:
    picture = render.grid(torch.rand(4, 1, 8, 8), columns=2, scale=4)
    words = render.labelled(picture, ["a", "b"], ["c", "d"])
    inside = words.crop((words.width - picture.width, words.height - picture.height, words.width, words.height))
    assert list(inside.convert("L").tobytes()) == list(picture.tobytes())
    assert words.convert("L").getextrema()[1] == 255  # something is written


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_animations_run_forever_and_rest_at_the_end(tmp_path: Path, ending: str) -> None:
    frames = [Image.fromarray(np.full((8, 8), 60 * i, np.uint8)) for i in range(4)]
    path = tmp_path / f"a{ending}"
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


def test_arrays_come_back(tmp_path: Path) -> None:
    images = torch.rand(3, 1, 4, 4) * 2 - 1
    render.save_array(images, tmp_path / "a.npy")
    loaded = np.load(io.BytesIO((tmp_path / "a.npy").read_bytes()), allow_pickle=False)
    assert loaded.dtype == np.float32
    assert torch.equal(torch.from_numpy(loaded), images)


def test_an_ending_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.txt.*\.png"):
        render.save_picture(Image.new("L", (2, 2)), tmp_path / "a.txt")
    assert list(tmp_path.iterdir()) == []
