"""Grids, strips, animations and plots. Images are converted to 8-bit only here."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..common.errors import UserError, require
from ..common.files import atomic_file, naming_disk_errors, write_atomic
from ..common.values import as_path

BACKGROUND = 96  # the grey between images: neither black nor white
MARGIN = 2  # pixels of background around each image
LEGEND_COLUMNS = 3  # of a plot
WIDTH = 1024  # pictures are enlarged to about this many pixels
PICTURES = {".png": "PNG", ".gif": "GIF", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
TITLE_SIZE = 14  # font size in pixels
ANIMATION_WIDTH = 512  # noise does not compress: a GIF of twice this width is larger than 10 MB
ANIMATIONS = (".gif", ".webp")


def to_uint8(images: Tensor) -> np.ndarray:
    """Convert images (B, C, H, W) in [−1, 1] to (B, H, W, C) uint8; values outside are clipped."""
    return ((images.float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def grid(images: Tensor, columns: int | None = None, scale: int | None = None, width: int = WIDTH) -> Image.Image:
    """One picture of images (B, C, H, W) with C = 1, 3 or 4, arranged in rows.

    columns: images per row; by default the grid is about square
    scale:   size of an image's pixel in the picture; by default so that the picture is about `width` pixels wide
    """
    tiles = to_uint8(images)
    B, H, W, C = tiles.shape
    columns = min(columns or math.ceil(math.sqrt(B)), B)
    rows = math.ceil(B / columns)
    scale = scale or max(1, round(width / (columns * (W + 1))))
    height, width = H * scale + 2 * MARGIN, W * scale + 2 * MARGIN
    canvas = np.full((rows, height, columns, width, C), BACKGROUND, np.uint8)
    for i, tile in enumerate(tiles.repeat(scale, 1).repeat(scale, 2)):
        canvas[i // columns, MARGIN:-MARGIN, i % columns, MARGIN:-MARGIN] = tile
    picture = canvas.reshape(rows * height, columns * width, C)
    return Image.fromarray(picture[:, :, 0] if C == 1 else picture)


def labelled(picture: Image.Image, columns: Sequence[str] = (), rows: Sequence[str] = ()) -> Image.Image:
    """A grid with a title above each column and, turned by 90°, to the left of each row."""
    top, left = (18 if columns else 0), (18 if rows else 0)
    out = Image.new("RGB", (picture.width + left, picture.height + top), (BACKGROUND,) * 3)
    out.paste(picture.convert("RGB"), (left, top))
    draw = ImageDraw.Draw(out)
    for i, title in enumerate(columns):
        draw.text((left + (i + 0.5) * picture.width / len(columns), top / 2), title, fill="white", anchor="mm")
    for i, title in enumerate(rows):
        tag = Image.new("RGB", (picture.height // len(rows), left), (BACKGROUND,) * 3)
        ImageDraw.Draw(tag).text((tag.width / 2, left / 2), title, fill="white", anchor="mm")
        out.paste(tag.rotate(90, expand=True), (0, top + i * picture.height // len(rows)))
    return out


def titled(picture: Image.Image, rows: Sequence[str]) -> Image.Image:
    """A grid with a horizontal title, of one or more lines, to the left of each row."""
    measure = ImageDraw.Draw(Image.new("L", (1, 1)))
    max_width = max(measure.multiline_textbbox((0, 0), title, font_size=TITLE_SIZE)[2] for title in rows)
    left = math.ceil(max_width) + 2 * TITLE_SIZE
    out = Image.new("RGB", (picture.width + left, picture.height), (BACKGROUND,) * 3)
    out.paste(picture.convert("RGB"), (left, 0))
    draw = ImageDraw.Draw(out)
    for i, title in enumerate(rows):
        middle = (i + 0.5) * picture.height / len(rows)
        draw.multiline_text((TITLE_SIZE, middle), title, fill="white", font_size=TITLE_SIZE, anchor="lm")
    return out


def strip(columns: Sequence[Tensor], titles: Sequence[str], rows: Sequence[str] = ()) -> Image.Image:
    """Columns of images (B, C, H, W) side by side, each with a title: B images over time."""
    images = torch.stack(list(columns), dim=1).flatten(0, 1)
    return labelled(grid(images, columns=len(columns)), titles, rows)


def save_picture(picture: Image.Image, path: str | Path) -> None:
    """Write a picture in the format of the suffix of `path`."""
    path = as_path("path", path)
    write_atomic(path, _encode(path, picture))


def save_animation(frames: Sequence[Image.Image], path: str | Path, frame_ms: int = 80, hold_ms: int = 2000) -> None:
    """Write an animated .gif or .webp that loops forever and holds its last frame for `hold_ms`."""
    path = as_path("path", path)
    durations = [frame_ms] * (len(frames) - 1) + [hold_ms]
    options: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    if path.suffix.lower() == ".webp":
        options["lossless"] = True
    write_atomic(path, _encode(path, frames[0], **options))


def save_array(images: Tensor, path: str | Path) -> None:
    """Write images as .npy: (N, C, H, W) float32 in [−1, 1]."""
    path, array = as_path("path", path), np.ascontiguousarray(images.float().cpu().numpy())
    with atomic_file(path, array.nbytes) as file:
        file.write(array_header(array.shape))
        file.write(array.data)  # without a copy; np.save would not say that the disk is full


def array_header(shape: tuple[int, ...]) -> bytes:
    """What precedes the values of a float32 array in a .npy file."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def check_ending(path: str | Path, *others: str) -> None:
    """UserError unless the suffix of `path` is one of PICTURES or of `others`."""
    path = as_path("path", path)
    *suffixes, last = *PICTURES, *others
    if path.suffix.lower() not in (*suffixes, last):
        raise UserError(f"{path} ends in {path.suffix!r}; it must end in {', '.join(suffixes)} or {last}")


def _encode(path: Path, picture: Image.Image, **options: Any) -> bytes:
    check_ending(path)
    buffer = io.BytesIO()
    picture.save(buffer, format=PICTURES[path.suffix.lower()], **options)
    return buffer.getvalue()


def plot_lines(
    path: str | Path,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str,
    log_y: bool = False,
) -> None:
    """Write a plot of named lines (x, y). Needs the extra `track`."""
    path = as_path("path", path)
    with naming_disk_errors(path):
        lines_figure(lines, xlabel, ylabel, title, log_y=log_y).savefig(path, dpi=120)


def lines_figure(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str,
    log_x: bool = False,
    log_y: bool = False,
) -> Any:
    """A matplotlib Figure of named lines (x, y). Needs the extra `track`."""
    figure = require("matplotlib.figure", "track").Figure(figsize=(7, 4))
    rows = math.ceil(len(lines) / LEGEND_COLUMNS)
    # fixed margins: matplotlib's layout engine takes longer than everything else
    figure.subplots_adjust(left=0.14, right=0.97, top=0.92, bottom=0.15 + 0.06 * rows)
    axes = figure.add_subplot()
    for name, (x, y) in lines.items():
        axes.plot(x, y, label=name, marker="." if len(x) < 30 else "")
    scales = {"xscale": "log" if log_x else "linear", "yscale": "log" if log_y else "linear"}
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, **scales)
    axes.grid(alpha=0.3)
    figure.legend(loc="lower center", ncols=LEGEND_COLUMNS)
    return figure
