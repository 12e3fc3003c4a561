"""Folders of images: every format is read correctly, every fit and mode works, and broken files are reported."""

import contextlib
import io
import json
import os
import pickle
import struct
import sys
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageColor

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import Fit, Mode
from shapedreamer.data.arrays import Arrays
from shapedreamer.data.files import folder
from shapedreamer.data.files.folder import MAX_LISTED, Images, load

SHARED = Path(__file__).parents[4] / "shared" / "data"
DCSS = SHARED / "dcss" / "dcss_cc0_nov2015_32x32.npz"
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
LOSSLESS: dict[str, dict[str, Any]] = {"png": {}, "bmp": {}, "webp": {"lossless": True, "exact": True}}
RANDOM = np.random.default_rng(0)


def read_all(path: Path, size: tuple[int, int] | None = None, fit: Fit = "none", mode: Mode = "auto") -> Arrays:
    """Read a folder of fewer than ten images, in which case the held-out data are the same images."""
    data, held_out = load(path, size, fit, mode)
    assert len(held_out) == len(data) < 10
    return in_memory(data)


def in_memory(data: Images) -> Arrays:
    assert isinstance(data, Arrays)
    return data


def read_only_image(
    path: Path, size: tuple[int, int] | None = None, fit: Fit = "none", mode: Mode = "auto"
) -> np.ndarray:
    """Read a folder with a single image: (H, W, C)."""
    images = read_all(path, size, fit, mode).images
    assert len(images) == 1
    return images[0]


def noise(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


def plain(height: int, width: int, *colour: int) -> np.ndarray:
    return np.full((height, width, len(colour)), colour, np.uint8)


def save(pixels: np.ndarray, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels).save(path, **options)
    return path


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, colour: int, rows: list[bytes], *more: bytes) -> bytes:
    """Build a PNG by hand, for features that Pillow cannot write; `more` are chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + chunk(b"IEND", b"")


def encoded(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


# formats


@pytest.mark.parametrize("form", LOSSLESS)
@given(
    pixels=st.sampled_from([1, 3]).flatmap(
        lambda C: hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(C)))
    )
)
def test_lossless_formats_are_read_exactly(form: str, pixels: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as path:
        save(pixels, Path(path) / f"x.{form}", **LOSSLESS[form])
        grey = (pixels == pixels[..., :1]).all()
        assert np.array_equal(read_only_image(Path(path)), pixels[..., :1] if grey else pixels)
        assert np.array_equal(read_only_image(Path(path), mode="RGB"), np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


@pytest.mark.parametrize("form", ["png", "webp"])
def test_transparency_is_kept_in_mode_rgba(form: str, tmp_path: Path) -> None:
    pixels = noise(5, 7, 4)
    save(pixels, tmp_path / f"x.{form}", **LOSSLESS[form])
    assert np.array_equal(read_only_image(tmp_path, mode="RGBA"), pixels)


def test_images_without_transparency_are_opaque_in_mode_rgba(tmp_path: Path) -> None:
    pixels = noise(5, 7, 3)
    save(pixels, tmp_path / "a.png")
    save(pixels[..., :1], tmp_path / "b.png")
    images = read_all(tmp_path, mode="RGBA").images
    assert np.array_equal(images[0], np.dstack([pixels, plain(5, 7, 255)]))
    assert np.array_equal(images[1], np.dstack([pixels[..., :1]] * 3 + [plain(5, 7, 255)]))


@pytest.mark.parametrize("form", ["gif", "png"])
def test_palette_images(form: str, tmp_path: Path) -> None:
    palette, index = noise(16, 3), RANDOM.integers(0, 16, (6, 5), np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / f"x.{form}")
    assert np.array_equal(read_only_image(tmp_path), palette[index])
    image.save(tmp_path / f"x.{form}", transparency=3)
    palette[3] = 255
    assert np.array_equal(read_only_image(tmp_path), palette[index])


def test_a_palette_with_an_alpha_per_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette(bytes(RED + GREEN + BLUE))
    image.save(tmp_path / "x.png", transparency=bytes([255, 51, 0]))
    assert read_only_image(tmp_path).tolist() == [[[255, 0, 0], [204, 255, 204], [255, 255, 255]]]
    assert read_only_image(tmp_path, mode="RGBA")[0, :2].tolist() == [[255, 0, 0, 255], [0, 255, 0, 51]]


def test_jpeg(tmp_path: Path) -> None:
    y, x = np.mgrid[:32, :24]
    smooth = np.dstack([x * 8, y * 6, 255 - x * 4]).astype(np.uint8)
    save(smooth, tmp_path / "a.jpg", quality=95, subsampling=0)
    assert np.abs(read_only_image(tmp_path).astype(int) - smooth).max() <= 8
    save(smooth[..., :1], tmp_path / "a.jpg", quality=95)
    grey = read_only_image(tmp_path)
    assert grey.shape == (32, 24, 1)
    assert np.abs(grey.astype(int) - smooth[..., :1]).max() <= 4


@pytest.mark.parametrize(
    ("ink", "colour"),
    [((255, 0, 0, 0), (0, 255, 255)), ((0, 255, 0, 0), (255, 0, 255)), ((0, 0, 0, 255), BLACK), ((0, 0, 0, 0), WHITE)],
)
def test_cmyk_jpeg(tmp_path: Path, ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    Image.new("CMYK", (16, 16), ink).save(tmp_path / "x.jpg", quality=100)
    assert np.abs(read_only_image(tmp_path, mode="RGB").astype(int) - colour).max() <= 2


ORIENTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # orientation tag -> how to show the stored pixels
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_exif_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    stored = noise(2, 3, 3)
    expected = ORIENTATIONS[orientation](stored)
    for form in ("png", "webp"):
        save(stored, tmp_path / form / f"x.{form}", exif=exif, **LOSSLESS[form])
        assert np.array_equal(read_only_image(tmp_path / form), expected)
    blocks = np.kron(stored, np.ones((16, 16, 1), np.uint8))
    save(blocks, tmp_path / "jpeg" / "x.jpg", exif=exif, quality=95, subsampling=0)
    assert np.abs(read_only_image(tmp_path / "jpeg").astype(int) - ORIENTATIONS[orientation](blocks)).max() <= 12


def test_the_orientation_may_come_after_the_pixels_of_a_png(tmp_path: Path) -> None:
    stored = noise(2, 3, 3)
    exif = Image.Exif()
    exif[0x112] = 6
    complete = encoded(stored, "PNG")
    (tmp_path / "x.png").write_bytes(complete[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + complete[-12:])
    assert np.array_equal(read_only_image(tmp_path), np.rot90(stored, -1))


def test_16_bit_images_keep_the_upper_8_bits(tmp_path: Path) -> None:
    deep = RANDOM.integers(0, 2**16, (4, 6, 3), np.uint16)
    deep[0, 0] = [0, 255, 256]
    deep[0, 1] = [65535, 65280, 32768]
    Image.fromarray(deep[..., 0]).save(tmp_path / "x.png")
    assert np.array_equal(read_only_image(tmp_path), deep[..., :1] >> 8)
    (tmp_path / "x.png").write_bytes(png(6, 4, 16, 2, [row.astype(">u2").tobytes() for row in deep]))
    assert np.array_equal(read_only_image(tmp_path), deep >> 8)
    rgba = np.dstack([deep, np.full((4, 6), 65535, np.uint16)])
    (tmp_path / "x.png").write_bytes(png(6, 4, 16, 6, [row.astype(">u2").tobytes() for row in rgba]))
    assert np.array_equal(read_only_image(tmp_path, mode="RGBA"), rgba >> 8)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "expected"),
    [
        (
            16,
            0,
            struct.pack(">3H", 0x1234, 0x1235, 0),
            struct.pack(">H", 0x1234),
            [[0, 0, 0, 0], [0x12] * 3, [0, 0, 0]],
        ),
        (8, 0, bytes([7, 8, 0]), struct.pack(">H", 7), [[7, 7, 7, 0], [8, 8, 8], [0, 0, 0]]),
        (8, 2, bytes([*RED, 1, 2, 3, *BLACK]), struct.pack(">3H", *RED), [[*RED, 0], [1, 2, 3], [0, 0, 0]]),
    ],
)
def test_a_single_transparent_colour(
    depth: int, colour: int, row: bytes, key: bytes, expected: list[list[int]], tmp_path: Path
) -> None:
    (tmp_path / "x.png").write_bytes(png(3, 1, depth, colour, [row], chunk(b"tRNS", key)))
    assert read_only_image(tmp_path, mode="RGB")[0].tolist() == [[255, 255, 255], *expected[1:]]
    found = read_only_image(tmp_path, mode="RGBA")[0].tolist()
    assert found[0][3] == expected[0][3] == 0
    assert found[1:] == [[*colour, 255] for colour in expected[1:]]


def test_one_bit_images_and_grey_images_with_alpha(tmp_path: Path) -> None:
    bits = RANDOM.integers(0, 2, (5, 9), np.uint8)
    Image.fromarray(bits.astype(bool)).save(tmp_path / "x.png")
    assert np.array_equal(read_only_image(tmp_path)[..., 0], bits * 255)
    grey = noise(5, 9)
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(bits * 255)]).save(tmp_path / "x.png")
    assert np.array_equal(read_only_image(tmp_path)[..., 0], np.where(bits, grey, 255))


@pytest.mark.parametrize("form", ["gif", "webp", "png"])
def test_animations_give_their_first_frame(form: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / f"x.{form}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(read_only_image(tmp_path), plain(3, 4, *RED))


def test_extensions_match_in_any_case_and_the_content_decides_the_format(tmp_path: Path) -> None:
    pixels = noise(4, 4, 3)
    for extension in ("PNG", "Jpg", "jpeg", "webp", "GIF", "bmp"):
        (tmp_path / f"{extension}.{extension}").write_bytes(encoded(pixels, "PNG"))
    np.save(tmp_path / "x.npy", pixels)
    (tmp_path / "x.npy").rename(tmp_path / "x.NPY")
    images = read_all(tmp_path).images
    assert len(images) == 7
    assert (images == pixels).all()


@pytest.mark.parametrize("shape", [(28, 28), (30, 20), (1, 1), (1, 7)])
def test_one_image_of_any_size_is_enough(shape: tuple[int, int], tmp_path: Path) -> None:
    pixels = noise(*shape, 3)
    save(pixels, tmp_path / "x.png")
    data, held_out = load(tmp_path)
    assert (data.spec.channels, data.spec.height, data.spec.width) == (3, *shape)
    assert data.spec.name == tmp_path.name
    assert np.array_equal(in_memory(data).images, pixels[None])
    assert np.array_equal(in_memory(held_out).images, pixels[None])
    batch, labels = data.batch(torch.tensor([0]))
    assert torch.equal(((batch + 1) * 127.5).round().byte()[0].permute(1, 2, 0), torch.from_numpy(pixels))
    assert labels.shape == (1, 0)


# transparency and colour


@given(
    pixel=st.tuples(*[st.integers(0, 255)] * 4),
    background=st.one_of(st.sampled_from(["white", "black", "Tomato"]), st.from_regex(r"#[0-9a-f]{6}", fullmatch=True)),
)
def test_transparent_images_are_blended_with_the_background(pixel: tuple[int, ...], background: str) -> None:
    with tempfile.TemporaryDirectory() as path:
        save(plain(1, 1, *pixel), Path(path) / "x.png")
        data = load(Path(path), mode="RGB", background=background)[0]
    found = in_memory(data).images[0, 0, 0]
    back, (*front, alpha) = ImageColor.getrgb(background), pixel
    for value, over, under in zip(found.tolist(), front, back, strict=True):
        assert abs(value - (over * alpha + under * (255 - alpha)) / 255) <= 1
        assert alpha not in (0, 255) or value == (over if alpha else under)


@pytest.mark.parametrize("background", ["", "whit", "#12", "255,255,255"])
def test_invalid_background_colours_raise(background: str, tmp_path: Path) -> None:
    save(noise(2, 2, 3), tmp_path / "x.png")
    with pytest.raises(UserError, match=f"'{background}' is not a colour; use a name such as white, or #rrggbb"):
        load(tmp_path, background=background)


def test_mode_auto_is_grey_only_if_every_image_is(tmp_path: Path) -> None:
    grey, colour = noise(4, 5, 1), noise(4, 5, 3)
    save(grey, tmp_path / "a.png")
    save(np.dstack([grey] * 3)[::-1], tmp_path / "b.png")  # grey, stored in colour
    save(np.dstack([np.zeros((4, 5, 3), np.uint8), grey]), tmp_path / "c.png")  # black with varying transparency
    images = read_all(tmp_path).images
    assert images.shape == (3, 4, 5, 1)
    assert np.array_equal(images, [grey, grey[::-1], 255 - grey])
    save(colour, tmp_path / "d.png")
    save(grey, tmp_path / "e.png")
    images = read_all(tmp_path).images
    assert images.shape == (5, 4, 5, 3)
    assert np.array_equal(images[3], colour)
    for i, expected in enumerate((grey, grey[::-1], 255 - grey, None, grey)):
        assert expected is None or (images[i] == expected).all()


def test_mode_l_converts_to_luminance(tmp_path: Path) -> None:
    pixels = noise(6, 6, 3)
    save(pixels, tmp_path / "x.png")
    assert np.abs(read_only_image(tmp_path, mode="L")[..., 0] - pixels @ [0.299, 0.587, 0.114]).max() <= 0.51
    save(pixels[..., :1], tmp_path / "x.png")
    assert np.array_equal(read_only_image(tmp_path, mode="L"), pixels[..., :1])


def test_a_coloured_background_makes_grey_images_coloured(tmp_path: Path) -> None:
    save(plain(1, 2, 9), tmp_path / "x.png")
    data, _ = load(tmp_path, size=(3, 2), fit="pad", background="red")
    assert in_memory(data).images[0].tolist() == [[[255, 0, 0]] * 2, [[9, 9, 9]] * 2, [[255, 0, 0]] * 2]


# sizes


def test_different_sizes_raise_and_the_most_common_ones_are_listed(tmp_path: Path) -> None:
    for i in range(3):
        save(noise(4, 6, 3), tmp_path / f"a{i}.png")
    exif = Image.Exif()
    exif[0x112] = 8
    save(noise(4, 6, 3), tmp_path / "turned.png", exif=exif)
    np.savez(tmp_path / "x.npz", images=noise(5, 2, 2, 3))
    (tmp_path / "broken.png").write_text("not an image")
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert "are not all the same size (height x width): 2x2 (5), 4x6 (3), 6x4 (1); choose `size=(H, W)`" in str(
        error.value
    )
    assert "with `fit` crop, pad or stretch" in str(error.value)
    with pytest.raises(UserError, match=r"not all 4x6 \(height x width\): 2x2 \(5\), 4x6 \(3\), 6x4 \(1\); choose"):
        load(tmp_path, size=(4, 6))
    with pytest.raises(UserError, match="not all the same size"):
        load(tmp_path, fit="crop")  # without a size


def test_only_some_of_many_sizes_are_listed(tmp_path: Path) -> None:
    for i in range(1, MAX_LISTED + 3):
        save(noise(1, i, 3), tmp_path / f"{i:02}.png")
    with pytest.raises(UserError, match=rf": 1x1 \(1\), .*, 1x{MAX_LISTED} \(1\) and 2 other sizes; choose"):
        load(tmp_path)


def test_resizing_to_the_same_size_changes_nothing(tmp_path: Path) -> None:
    pixels = noise(4, 6, 3)
    save(pixels, tmp_path / "x.png")
    for fit in ("none", "crop", "pad", "stretch"):
        assert np.array_equal(read_only_image(tmp_path, (4, 6), fit), pixels)


A, B, C, D = 10, 20, 40, 90
ROWS = [[A, B], [C, D]]


@pytest.mark.parametrize(
    ("fit", "size", "image", "expected"),
    [
        ("crop", (2, 2), [[0, A, B, 0], [0, C, D, 0]], ROWS),
        ("crop", (2, 2), [[0, 0], [A, B], [C, D], [0, 0]], ROWS),
        ("crop", (2, 2), [[0, A, B, 0, 0], [0, C, D, 0, 0]], ROWS),  # an odd column cannot be cut in half
        ("crop", (4, 4), [[0, A, B, 0], [0, C, D, 0]], [[A, A, B, B]] * 2 + [[C, C, D, D]] * 2),
        ("crop", (1, 1), [[0, A, B, 0], [0, C, D, 0]], [[40]]),
        ("pad", (2, 4), ROWS, [[255, A, B, 255], [255, C, D, 255]]),
        ("pad", (3, 2), ROWS, [[A, B], [C, D], [255, 255]]),
        ("pad", (4, 6), ROWS, [[255, A, A, B, B, 255]] * 2 + [[255, C, C, D, D, 255]] * 2),
        ("pad", (2, 2), [[A, A, B, B], [A, A, B, B]], [[A, B], [255, 255]]),
        ("stretch", (2, 4), ROWS, [[A, A, B, B], [C, C, D, D]]),
        ("stretch", (6, 2), ROWS, [[A, B]] * 3 + [[C, D]] * 3),
        ("stretch", (1, 1), ROWS, [[40]]),
        ("stretch", (1, 2), ROWS, [[25, 55]]),
    ],
)
def test_fits_with_known_results(
    fit: Fit, size: tuple[int, int], image: list[list[int]], expected: list[list[int]], tmp_path: Path
) -> None:
    save(np.array(image, np.uint8), tmp_path / "x.png")
    assert read_only_image(tmp_path, size, fit)[..., 0].tolist() == expected


SIDE = st.integers(1, 24)


@given(original=st.tuples(SIDE, SIDE), size=st.tuples(SIDE, SIDE))
def test_crop_and_stretch_fill_the_frame_and_pad_leaves_margins(
    original: tuple[int, int], size: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as path:
        save(plain(*original, 7), Path(path) / "x.png")
        for fit in ("crop", "stretch"):
            found = read_only_image(Path(path), size, fit)
            assert found.shape == (*size, 1)
            assert (found == 7).all()
        inside = read_only_image(Path(path), size, "pad")[..., 0] == 7
    (H, W), (h, w) = size, original
    scale = min(H / h, W / w)
    rows, columns = inside.any(1), inside.any(0)
    assert np.array_equal(inside, rows[:, None] & columns)  # a rectangle
    for line, length, part in ((rows, H, h * scale), (columns, W, w * scale)):
        first, last = np.flatnonzero(line)[[0, -1]]
        assert line[first : last + 1].all()
        assert abs(line.sum() - max(1, part)) <= 0.5 + 1e-9
        assert length - 1 - last - first in (0, 1)  # centred


@pytest.mark.parametrize(
    ("original", "size", "method"),
    [((9, 7), (4, 5), Image.Resampling.LANCZOS), ((9, 7), (10, 9), Image.Resampling.BICUBIC)],
)
def test_other_scale_factors_are_smooth(
    original: tuple[int, int], size: tuple[int, int], method: Image.Resampling, tmp_path: Path
) -> None:
    pixels = noise(*original, 3)
    save(pixels, tmp_path / "x.png")
    expected = Image.fromarray(pixels).resize(size[::-1], method)
    assert np.array_equal(read_only_image(tmp_path, size, "stretch"), np.asarray(expected))


def test_transparent_pixels_do_not_affect_colours_when_an_image_shrinks(tmp_path: Path) -> None:
    pixels = np.array([[[*RED, 255], [*GREEN, 0]]], np.uint8)
    save(pixels, tmp_path / "x.png")
    assert read_only_image(tmp_path, (1, 1), "stretch", "RGBA").tolist() == [[[255, 0, 0, 128]]]
    assert read_only_image(tmp_path, (1, 1), "stretch").tolist() == [[[255, 128, 128]]]


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_invalid_sizes_raise(size: tuple[int, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"size must be at least 1x1, not {size[0]}x{size[1]}"):
        load(tmp_path, size=size)


def test_images_too_large_for_memory_raise(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((2**23, 1, 2), np.uint8))
    with pytest.raises(UserError, match="do not fit into memory; choose a smaller `size"):
        load(tmp_path, size=(2**12, 2**12), fit="stretch", mode="L")  # 2⁴⁷ bytes, more than a process can address


def test_invalid_options_raise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fit must be one of none, crop, pad, stretch, not 'scale'"):
        load(tmp_path, fit="scale")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="mode must be one of auto, L, RGB, RGBA, not 'CMYK'"):
        load(tmp_path, mode="CMYK")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="samples must be at least 1, not 0"):
        load(tmp_path, samples=0)


# arrays


@pytest.mark.parametrize(
    ("shape", "images"),
    [
        ((3, 5, 6), (3, 5, 6, 1)),
        ((3, 5, 6, 1), (3, 5, 6, 1)),
        ((3, 5, 6, 3), (3, 5, 6, 3)),
        ((3, 5, 6, 4), (3, 5, 6, 4)),
        ((5, 6), (1, 5, 6, 1)),
        ((5, 6, 1), (1, 5, 6, 1)),
        ((5, 6, 3), (1, 5, 6, 3)),
        ((5, 6, 4), (1, 5, 6, 4)),
    ],
)
@pytest.mark.parametrize("extension", ["npy", "npz"])
def test_arrays_of_every_supported_shape(
    shape: tuple[int, ...], images: tuple[int, ...], extension: str, tmp_path: Path
) -> None:
    pixels = noise(*shape)
    if extension == "npy":
        np.save(tmp_path / "x.npy", np.asfortranarray(pixels))
    else:
        np.savez_compressed(tmp_path / "x.npz", whatever=pixels)
    data = read_all(tmp_path, mode="RGBA" if images[3] == 4 else "auto")
    assert np.array_equal(data.images, pixels.reshape(images))
    assert data.spec.labels == ()


def test_arrays_are_treated_like_image_files(tmp_path: Path) -> None:
    pixels = noise(2, 4, 4, 4)
    np.save(tmp_path / "b.npy", pixels)
    save(pixels[0], tmp_path / "a.png")
    save(pixels[1], tmp_path / "c.png")
    images = read_all(tmp_path, (2, 4), "pad").images
    assert images.shape == (4, 2, 4, 3)
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[2], images[3])


@pytest.mark.parametrize(
    "array", [np.zeros((2, 4, 4)), np.zeros((2, 4, 4), np.int64), np.zeros((2, 4, 4), bool), np.array(["x"])]
)
def test_arrays_that_are_not_uint8_raise(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert f"{tmp_path / 'x.npy'} contains {array.dtype}; it must contain uint8 in 0…255" in str(error.value)
    for advice, values, expected in (
        ("((x + 1) * 127.5).round().astype('uint8')", [-1, 0.004, 1], [0, 128, 255]),
        ("(x * 255).round().astype('uint8')", [0, 0.5019, 1], [0, 128, 255]),
    ):
        assert advice in str(error.value)
        assert eval(advice, {"x": np.array(values)}).tolist() == expected


@pytest.mark.parametrize("shape", [(7,), (2, 3, 5, 5), (2, 4, 4, 2), (1, 2, 4, 4, 3), (0, 4, 4), (2, 0, 4, 3), ()])
def test_arrays_of_other_shapes_raise(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert f"x.npy has shape {shape}; it must be (N, H, W), (N, H, W, C), (H, W) or (H, W, C)" in str(error.value)


def test_an_npz_contains_one_array_of_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", small=noise(2, 4, 4), large=noise(2, 8, 8), labels=np.arange(2))
    with pytest.raises(
        UserError, match=r"x.npz must contain one array of images besides 'labels'; found: small, large"
    ):
        load(tmp_path)
    np.savez(tmp_path / "x.npz", labels=np.arange(2))
    with pytest.raises(UserError, match=r"found: none"):
        load(tmp_path)


# labels


def test_the_first_level_of_subfolders_gives_the_labels_sorted_by_name(tmp_path: Path) -> None:
    for name in ("dogs/a.png", "cats/b.png", "cats/old/deep/c.png", "ants/notes.txt", "bees/broken.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.stem in ("notes", "broken"):
            path.write_text("not an image")
        else:
            save(noise(3, 3, 3), path)
    data = read_all(tmp_path)
    assert data.spec.labels == ("cats", "dogs")  # the other folders have no readable image
    assert data.labels.tolist() == [[1, 0], [1, 0], [0, 1]]
    assert data.labels.dtype == np.float32
    save(noise(3, 3, 3), tmp_path / "b.png")  # it sorts before cats/b.png
    data = read_all(tmp_path)
    assert data.labels.tolist() == [[0, 0], [1, 0], [1, 0], [0, 1]]
    assert data.spec.vector("dogs") == [0, 1]


def test_without_subfolders_there_are_no_labels(tmp_path: Path) -> None:
    save(noise(3, 3, 3), tmp_path / "a.png")
    save(noise(3, 3, 3), tmp_path / "b.png")
    data = read_all(tmp_path)
    assert data.labels.shape == (2, 0)
    assert data.spec.labels == ()


def test_every_image_of_an_array_has_the_label_of_its_folder(tmp_path: Path) -> None:
    for name, count in (("b", 2), ("a", 3)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", noise(count, 5, 5))
    assert read_all(tmp_path).labels.tolist() == [[1, 0]] * 3 + [[0, 1]] * 2


def test_arrays_may_come_with_class_numbers(tmp_path: Path) -> None:
    pixels = noise(5, 5, 5)
    np.savez(tmp_path / "a.npz", images=pixels[:3], labels=np.array([2, 0, 0], np.uint8))
    np.savez(tmp_path / "b.npz", images=pixels[3:], labels=np.array([3, 2], np.int64))
    data = read_all(tmp_path)
    assert data.spec.labels == ("0", "1", "2", "3")
    assert data.labels.argmax(1).tolist() == [2, 0, 0, 3, 2]
    assert data.labels.sum(1).tolist() == [1] * 5


def test_arrays_may_come_with_label_vectors_which_replace_subfolder_labels(tmp_path: Path) -> None:
    vectors = RANDOM.normal(size=(3, 2))
    (tmp_path / "part").mkdir()
    np.savez(tmp_path / "part" / "a.npz", images=noise(3, 5, 5), labels=vectors)
    data = read_all(tmp_path)
    assert data.spec.labels == ("0", "1")
    assert np.array_equal(data.labels, vectors.astype(np.float32))


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(2),
        np.arange(4),
        np.array([0, -1, 2]),
        np.array([0.0, 1, 2]),
        np.array(["a", "b", "c"]),
        np.full((3, 2), np.nan),
        np.full((3, 2), np.inf),
        np.full((3, 2), "a"),
        np.zeros((3, 2), complex),
        np.zeros((3, 2, 1)),
        np.array(1),
    ],
)
def test_invalid_labels_raise(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=noise(3, 5, 5), labels=labels)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert f"x.npz are {labels.shape} {labels.dtype}; they must be class numbers, (3,) integers" in str(error.value)


def test_labels_of_several_arrays_must_be_consistent(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=noise(2, 5, 5), labels=np.eye(2))
    np.savez(tmp_path / "b.npz", images=noise(2, 5, 5), labels=np.arange(2))
    with pytest.raises(UserError, match=r"the `labels` of the arrays in .* have different shapes: \(2, 2\), \(2,\)"):
        load(tmp_path)
    np.savez(tmp_path / "b.npz", images=noise(2, 5, 5))
    with pytest.raises(UserError, match=r"b.npz has no `labels`, but another array in .* does"):
        load(tmp_path)
    (tmp_path / "b.npz").unlink()
    save(noise(5, 5, 1), tmp_path / "c.png")
    with pytest.raises(UserError, match=r"c.png has no `labels`"):
        load(tmp_path)


def test_too_many_labels_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", images=noise(2, 5, 5), labels=np.array([0, 10**12]))
    with pytest.raises(UserError, match="has 1000000000001 labels; at most 1000 are supported"):
        load(tmp_path)
    (tmp_path / "x.npz").unlink()
    monkeypatch.setattr(folder, "MAX_LABELS", 2)
    for name in ("a", "b", "c"):
        save(noise(4, 4, 1), tmp_path / name / "x.png")
    with pytest.raises(UserError, match="has 3 labels; at most 2 are supported"):
        load(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows names that are not valid text")
def test_folder_names_that_are_not_valid_text_are_escaped(tmp_path: Path) -> None:
    save(noise(4, 4, 1), tmp_path / os.fsdecode(b"caf\xe9") / "x.png")
    data = read_all(tmp_path)
    assert json.dumps(data.spec.labels, ensure_ascii=False).encode() == b'["caf\\\\udce9"]'


# which files are read


def test_images_are_sorted_by_path_on_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["B.png", "a-b/x.png", "a.jpg", "a.png", "a/b.png", "a/b/c.png", "b.png"]
    for value, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(plain(2, 2, value, value, value), "PNG"))
    data = read_all(tmp_path)
    assert data.images[:, 0, 0, 0].tolist() == list(range(len(names)))
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(listing(path), reverse=True))
    assert read_all(tmp_path).spec == data.spec


def test_changing_an_image_changes_the_digest_and_copying_the_folder_does_not(tmp_path: Path) -> None:
    pixels = noise(3, 3, 3)
    for parent in ("one", "two"):
        save(pixels, tmp_path / parent / "images" / "x.png")
    first = read_all(tmp_path / "one" / "images").spec
    assert read_all(tmp_path / "two" / "images").spec == first
    pixels[1, 1, 1] ^= 1
    save(pixels, tmp_path / "two" / "images" / "x.png")
    assert read_all(tmp_path / "two" / "images").spec.sha256 != first.sha256


def test_links_are_followed_but_loops_are_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    pixels = noise(2, 3, 3, 3)
    save(pixels[0], root / "b" / "x.png")
    save(pixels[1], tmp_path / "elsewhere" / "y.png")
    (root / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "b" / "around").symlink_to(root, target_is_directory=True)
    (root / "itself").symlink_to(root / "itself")
    (root / "c.png").symlink_to(root / "b" / "x.png")
    (root / "nowhere.png").symlink_to(root / "missing.png")
    data = read_all(root)
    assert data.spec.labels == ("a", "b")
    assert np.array_equal(data.images, pixels[[1, 0, 0]])
    assert data.labels.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert "1 of 4 files" in (report := capsys.readouterr().err)
    assert "  nowhere.png: not a regular file, or a broken link\n" in report


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_named_pipes_do_not_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(noise(2, 2, 3), tmp_path / "x.png")
    for name in ("a.png", "b.npy"):
        os.mkfifo(tmp_path / name)
    assert len(read_all(tmp_path)) == 1
    assert "2 of 3 files" in capsys.readouterr().err


def test_unreadable_folders_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save(noise(2, 2, 3), tmp_path / "x.png")
    (tmp_path / "secret").mkdir()
    listing = Path.iterdir

    def guarded(path: Path) -> Iterator[Path]:
        if path.name == "secret":
            raise PermissionError(13, "Permission denied")
        return listing(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    assert len(read_all(tmp_path)) == 1
    assert "1 of 2 files" in (report := capsys.readouterr().err)
    assert "  secret: Permission denied\n" in report


def test_hidden_files_and_other_extensions_are_ignored_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = noise(2, 2, 3)
    save(pixels, tmp_path / "x.png")
    assert np.array_equal(read_only_image(tmp_path), pixels)
    assert capsys.readouterr() == ("", "")
    save(pixels, tmp_path / ".hidden.png")
    save(pixels, tmp_path / ".thumbnails" / "y.png")
    for name in ("a.txt", "b.TXT", "c.tiff", "README"):
        (tmp_path / name).write_text("")
    assert np.array_equal(read_only_image(tmp_path), pixels)
    names = "2 .txt, 1 .tiff, 2 hidden, 1 without extension"
    out, report = capsys.readouterr()
    assert out == ""
    assert report.count("\n") == 1
    assert sorted(report.strip().partition(f"{tmp_path}: ")[2].split(", ")) == sorted(names.split(", "))


@pytest.mark.parametrize("name", ["missing", "file.png"])
def test_a_missing_folder_raises(name: str, tmp_path: Path) -> None:
    (tmp_path / "file.png").write_bytes(encoded(noise(2, 2), "PNG"))
    with pytest.raises(UserError, match=f"there is no folder .*{name}; pass a folder of images"):
        load(tmp_path / name)


# broken files


def broken(kind: str) -> bytes:
    """The contents of a file that cannot be read as an image, or as an array."""
    jpeg, complete = encoded(noise(32, 32, 3), "JPEG"), encoded(noise(32, 32, 3), "PNG")
    match kind:
        case "truncated.jpg":
            return jpeg[: len(jpeg) // 2]
        case "truncated.png":
            return complete[: len(complete) // 2]
        case "truncated.gif":
            return encoded(noise(32, 32), "GIF")[:500]
        case "truncated.webp":
            return encoded(noise(32, 32, 3), "WEBP", lossless=True)[:500]
        case "truncated.bmp":
            return encoded(noise(32, 32, 3), "BMP")[:500]
        case "truncated.npy":
            return npy(noise(2, 32, 32))[:500]
        case "truncated.npz":
            return npz(noise(2, 32, 32))[:500]
        case "head.npy":
            return npy(noise(2, 32, 32))[:50]
        case "changed.npz":
            content = bytearray(npz(noise(2, 32, 32)))
            content[len(content) // 2] ^= 1
            return bytes(content)
        case "objects.npz":
            return npz(np.array([{}, []], dtype=object))
        case "changed.png":
            return complete[:20] + b"\1" + complete[21:]  # a bit of its width
        case "text.png" | "text.jpg" | "text.npy" | "text.npz":
            return b"<html>404</html>"
        case "empty.png" | "empty.npy":
            return b""
        case "tiff.png":
            return encoded(noise(4, 4), "TIFF")
        case "bomb.png":
            return png(10_000, 10_000, 8, 0, [bytes(10_000)])
        case "huge.png":
            return png(60_000, 60_000, 8, 0, [bytes(60_000)])
        case _:
            raise AssertionError(kind)


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated.jpg", "truncated"),
        ("truncated.png", "truncated"),
        ("truncated.gif", "truncated"),
        ("truncated.webp", ""),
        ("truncated.bmp", "truncated"),
        ("truncated.npy", "truncated, or not an array of numbers"),
        ("head.npy", "truncated, or not an array of numbers"),
        ("truncated.npz", "zip"),
        ("changed.npz", "CRC"),
        ("objects.npz", "truncated, or not an array of numbers"),
        ("changed.png", "PNG"),
        ("text.png", "not a PNG, JPEG, WEBP, GIF or BMP file"),
        ("text.jpg", "not a PNG, JPEG, WEBP, GIF or BMP file"),
        ("tiff.png", "not a PNG, JPEG, WEBP, GIF or BMP file"),
        ("text.npy", "truncated, or not an array of numbers"),
        ("text.npz", "truncated, or not an array of numbers"),
        ("empty.png", "empty"),
        ("empty.npy", "empty"),
        ("bomb.png", "decompression bomb"),
        ("huge.png", "decompression bomb"),
    ],
)
def test_a_broken_file_is_skipped_and_reported(
    kind: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = noise(32, 32, 3)
    save(pixels, tmp_path / "a.png")
    save(pixels, tmp_path / "z" / "z.png")
    (tmp_path / kind).write_bytes(broken(kind))
    data = read_all(tmp_path)
    assert np.array_equal(data.images, [pixels, pixels])
    assert data.labels.tolist() == [[0], [1]]
    out, report = capsys.readouterr()
    assert out == ""
    first, second = report.splitlines()
    assert first == f"skipped 1 of 3 files in {tmp_path}:"
    assert second.startswith(f"  {kind}: ")
    assert reason in second
    assert len(second) > len(f"  {kind}: ")


def test_the_report_lists_at_most_ten_files_sorted_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(noise(2, 2, 3), tmp_path / "x.png")
    for i in range(MAX_LISTED + 2):
        (tmp_path / f"{i:02}.png").write_bytes(b"")
    (tmp_path / "03.png").write_text("not an image")  # detected only when it is read
    (tmp_path / "notes.txt").write_text("")
    assert len(read_all(tmp_path)) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"skipped 12 of 13 files in {tmp_path}:",
        *(f"  {i:02}.png: {'not a PNG, JPEG, WEBP, GIF or BMP file' if i == 3 else 'empty'}" for i in range(10)),
        "  and 2 more",
        f"ignored files in {tmp_path}: 1 .txt",
    ]


def test_a_folder_without_a_readable_file_raises(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        UserError, match=r"no image in .* could be read; supported files: .png .jpg .jpeg .webp .gif .bmp"
    ):
        load(tmp_path)
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "y.npy").write_bytes(b"")
    with pytest.raises(UserError, match="could be read"):
        load(tmp_path)
    assert "2 of 2 files" in capsys.readouterr().err


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "run"),)

    save(noise(2, 2, 3), tmp_path / "x.png")
    array = np.array([Evil()], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=array)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "d.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\n"
    )  # Pillow would run Ghostscript
    assert len(read_all(tmp_path)) == 1
    assert "4 of 5 files" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


VALID_FILES = {
    "png": encoded(noise(6, 7, 3), "PNG"),
    "jpg": encoded(noise(6, 7, 3), "JPEG"),
    "webp": encoded(noise(6, 7, 3), "WEBP", lossless=True),
    "gif": encoded(noise(6, 7), "GIF"),
    "bmp": encoded(noise(6, 7, 3), "BMP"),
    "npy": npy(noise(1, 6, 7, 3)),
    "npz": npz(noise(1, 6, 7, 3)),
}


@pytest.mark.parametrize("form", VALID_FILES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_corrupt_file_does_not_affect_the_others(form: str, data: st.DataObject) -> None:
    content = bytearray(VALID_FILES[form])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([len(content), place]))
    pixels = noise(6, 7, 3)
    with tempfile.TemporaryDirectory() as path, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow and NumPy warn about damage that they can tolerate
        save(pixels, Path(path) / "a.png")
        (Path(path) / f"b.{form}").write_bytes(content[:cut])
        with contextlib.suppress(UserError):  # an array's shape or type may have changed
            read, _ = load(Path(path), (6, 7), "stretch", "RGB")
            assert np.array_equal(in_memory(read).images[0], pixels)


def test_warning_filters_are_restored(tmp_path: Path) -> None:
    save(noise(2, 2, 3), tmp_path / "x.png")
    filters = list(warnings.filters)
    load(tmp_path)
    assert warnings.filters == filters


# split and progress


def test_a_tenth_is_held_out_and_samples_limits_the_training_images(tmp_path: Path) -> None:
    pixels = noise(30, 4, 4, 3)
    for i, one in enumerate(pixels):
        save(one, tmp_path / f"{i:02}.png")
        save(one, tmp_path / f"{i:02}-copy.bmp")
    data, held_out = load(tmp_path)
    assert (len(data), len(held_out)) == (54, 3)
    training, unseen = ({image.tobytes() for image in in_memory(part).images} for part in (data, held_out))
    assert not training & unseen
    few, same = load(tmp_path, samples=5)
    assert len(few) == 5
    assert same.spec == held_out.spec


def test_a_progress_bar_appears_after_a_delay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(3):
        save(noise(4, 4, 3), tmp_path / f"{i}.png")
    load(tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(folder, "PROGRESS_DELAY", -1)
    load(tmp_path)
    out, report = capsys.readouterr()
    assert out == ""
    assert "3/3" in report
    save(noise(5, 4, 3), tmp_path / "4.png")
    for _ in range(2):  # the first bar must be stopped by the error, or the second could not be drawn
        with pytest.raises(UserError, match="not all the same size"):
            load(tmp_path)
        assert "3/4" in capsys.readouterr().err


# real images


@pytest.mark.skipif(not DCSS.exists(), reason=f"{DCSS.name} is not available")
def test_real_tiles_match_an_independent_conversion(tmp_path: Path) -> None:
    with np.load(DCSS, allow_pickle=False) as arrays:
        names, rgba, white = arrays["names"], arrays["images_rgba32"], arrays["images_rgb16_white"]
    rgba[rgba[..., 3] == 0] = 0  # transparent pixels may have any colour
    some = {str(name): i for i, name in enumerate(names) if i % 20 == 0}
    with tarfile.open(DCSS.with_name("dcss_cc0_nov2015_pngs.tar.gz")) as tar:
        for member in tar:
            name = member.name.partition("/")[2]
            if name in some and (file := tar.extractfile(member)):
                path = tmp_path / str(some[name] // 180) / name  # nine per folder
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.read())
    assert len(list(tmp_path.iterdir())) == 22
    for group in tmp_path.iterdir():
        order = [some[name] for name in sorted(some) if some[name] // 180 == int(group.name)]
        images = read_all(group, mode="RGBA").images.copy()
        images[images[..., 3] == 0] = 0
        assert np.array_equal(images, rgba[order])
        images = read_all(group, (16, 16), "stretch", "RGB").images
        assert np.abs(images.astype(int) - white[order]).max() <= 1


# arrays of ambiguous shapes, and labels in a column


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_a_column_of_integers_is_read_as_class_numbers(
    kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", images=noise(5, 5, 5), labels=np.array([[2], [0], [1], [0], [2]], kind))
    data = read_all(tmp_path)
    assert data.spec.labels == ("0", "1", "2")
    assert data.labels.argmax(1).tolist() == [2, 0, 1, 0, 2]
    assert "labels of shape (5, 1) are read as class numbers" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", images=noise(5, 5, 5), labels=np.array([[0.5], [0], [1], [0], [2]]))
    assert read_all(tmp_path).labels.ravel().tolist() == [0.5, 0, 1, 0, 2]  # amounts of one label
    np.savez(tmp_path / "x.npz", images=noise(5, 5, 5), labels=np.array([[-1], [0], [1], [0], [2]]))
    with pytest.raises(UserError, match="they must be class numbers"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("shape", "reshape"),
    [
        ((20, 784), "x.reshape(-1, 28, 28)"),
        ((1000, 784), "x.reshape(-1, 28, 28)"),
        ((1797, 64), "x.reshape(-1, 8, 8)"),
        ((50, 3072), "x.reshape(-1, 32, 32, 3)"),
        ((5, 768), "x.reshape(-1, 16, 16, 3)"),
    ],
)
def test_an_array_that_looks_flattened_is_refused_with_both_answers(
    shape: tuple[int, int], reshape: str, tmp_path: Path
) -> None:
    pixels = noise(*shape)
    np.save(tmp_path / "x.npy", pixels)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert f"{shape[0]} flattened images, or one image {shape[0]} pixels high" in str(error.value)
    assert f"Save {reshape}" in str(error.value)
    np.save(tmp_path / "x.npy", eval(reshape, {"x": pixels}))
    train, _ = load(tmp_path)
    assert len(train) > 1
    np.save(tmp_path / "x.npy", pixels[None])
    assert read_only_image(tmp_path).shape == (*shape, 1)


@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_a_flat_array_is_read_as_one_image_with_a_note_or_refused(shape: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as path, contextlib.redirect_stderr(io.StringIO()) as report:
        np.save(Path(path) / "x.npy", noise(*shape))
        looks_flat = shape[1] in (16, 25, 36, 48) and max(shape) >= 4 * min(shape)
        if looks_flat:
            with pytest.raises(UserError, match="flattened images, or one image"):
                load(Path(path))
            return
        assert read_only_image(Path(path)).shape == (*shape, 1)
        assert f"has shape {shape}: read as one image, {shape[0]} pixels high" in report.getvalue()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_note_says_how_an_array_with_three_or_four_rows_is_read(
    channels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", noise(channels, 16, 16))
    assert len(read_all(tmp_path)) == channels
    report = capsys.readouterr().err
    assert f"read as {channels} grey images of 16x16; for one colour image, save x.transpose(1, 2, 0)" in report


@pytest.mark.parametrize(
    ("values", "formula"),
    [
        (np.array([0, 0.25, 1]), "(x * 255).round().astype('uint8')"),
        (np.array([-1, 0, 1.0]), "((x + 1) * 127.5).round().astype('uint8')"),
        (np.array([0, 100.0, 255]), "x.round().astype('uint8')"),
        (np.array([0, 100, 255], np.int64), "x.round().astype('uint8')"),
        (np.array([0, 257, 65535], np.uint16), "(x // 257).astype('uint8')"),
        (
            np.array([-1000, 0, 3000], np.int16),
            "((x - x.min()) * (255.0 / (x.max() - x.min()))).round().astype('uint8')",
        ),
        (np.array([False, True, True]), "(x * 255).round().astype('uint8')"),
    ],
)
def test_the_error_for_another_type_says_how_to_convert_these_values(
    values: np.ndarray, formula: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.broadcast_to(values, (2, 5, 3)))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(error.value).endswith(f": use {formula}")
    converted = eval(formula, {"x": values})
    assert converted.dtype == np.uint8
    assert (converted[0], converted[-1]) == (0, 255)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((2, 5, 5), np.nan))
    with pytest.raises(UserError, match="not finite"):
        load(tmp_path)


def test_an_npz_of_a_published_data_set_says_how_to_convert_it(tmp_path: Path) -> None:
    pixels, classes = noise(12, 5, 5), np.arange(12)[:, None] % 2
    np.savez(tmp_path / "x.npz", train_images=pixels, train_labels=classes, val_images=pixels[:2])
    with pytest.raises(UserError) as error:
        load(tmp_path)
    command = "numpy.savez('new.npz', images=data['train_images'], labels=data['train_labels'])"
    assert str(error.value).endswith(command)


def test_arrays_share_one_limit_of_memory(tmp_path: Path) -> None:
    for i in range(3):
        np.savez_compressed(tmp_path / f"{i}.npz", np.zeros((50, 1000, 1000), np.uint8))
    with pytest.raises(UserError, match=r"2.npz and other arrays claims 150.0 MB of data but has 0.1 MB on disk"):
        load(tmp_path)


def test_links_that_multiply_folders_are_limited(tmp_path: Path) -> None:
    for i in range(18):
        (tmp_path / "d" / str(i)).mkdir(parents=True)
        for side in "ab":
            (tmp_path / "d" / str(i) / side).symlink_to(tmp_path / "d" / str(i + 1), target_is_directory=True)
    with pytest.raises(UserError, match="more than 20,000 folders"):
        load(tmp_path / "d" / "0")


def test_an_error_has_one_line_whatever_the_files_are_called(tmp_path: Path) -> None:
    np.save(tmp_path / "a\nb\x1b.npy", np.zeros(3))
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert r"a\nb\x1b.npy contains float64" in str(error.value)
