"""Show images, animations and plots: in a notebook below the cell, elsewhere as files in the folder pictures/.

sd.show(model.sample(16))                       a grid
sd.animate(model.stream(16, steps=100))         a GIF, from noise to images
sd.plot({"linear": (t, snr)}, "t", "SNR")       a line plot
"""

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..common.errors import UserError
from ..common.files import write_atomic
from ..common.notebook import display, kernel_shell
from ..common.values import as_int, shown
from ..diffusion.samplers import Step
from . import render

FOLDER = Path("pictures")  # below the working directory
PREFIX = Path()  # where the working directory is, for someone who reads the paths in another one
TILE = 144  # pixels of an image in a picture, about
MAX_WIDTH = 960
MAX_FRAMES = 32
PLOT_DPI = 100


def show(images: Tensor, titles: Sequence[str] | None = None, columns: int | None = None) -> None:
    """Show images (B, C, H, W), or one image (C, H, W), in [−1, 1] as a grid.

    titles:  one for each column, for each row or for each image
    columns: images in a row; by default the grid is about square
    UserError if the shape is not that of images, or if the number of titles fits neither columns, rows nor images.
    """
    show_picture(picture_of(images, titles, columns))


def picture_of(images: Tensor, titles: Sequence[str] | None = None, columns: int | None = None) -> Image.Image:
    """The grid that `show` displays."""
    images = _as_images(images)
    count = len(images)
    columns = math.ceil(math.sqrt(count)) if columns is None else min(as_int("columns", columns, 1), count)
    rows = math.ceil(count / columns)
    tile = max(TILE, *(7 * len(str(title)) for title in titles or ("",)))
    grid = render.grid(images, columns=columns, width=min(columns * tile, MAX_WIDTH))
    if titles is None:
        return grid
    titles = [str(title) for title in titles]
    if len(titles) == columns:
        return render.labelled(grid, titles)
    if len(titles) == rows:
        return render.titled(grid, titles)
    if len(titles) == count:
        return _captioned(grid, titles, columns, rows)
    raise UserError(
        f"{len(titles)} titles do not fit: give {columns} (one for each column), {rows} (for each row) "
        f"or {count} (for each image)"
    )


def animate(steps: Iterable[Step]) -> None:
    """Show the steps of `model.stream(...)` as an animation: x_t on the left, the estimate x̂₀ on the right.

    At most MAX_FRAMES of the steps are shown, among them the last one. The steps may also be tensors (B, C, H, W).
    """
    found = [step if isinstance(step, Step) else Step(i, step, step) for i, step in enumerate(steps)]
    if not found:
        raise UserError("there are no steps to animate; pass model.stream(...), and call it again for every animation")
    pairs = any(step.x is not step.x0 for step in found)
    last = len(found) - 1
    chosen = sorted({round(i * last / (MAX_FRAMES - 1)) for i in range(MAX_FRAMES)}) if last >= MAX_FRAMES else None
    found = found if chosen is None else [found[i] for i in chosen]
    if kernel_shell() is None:
        frames = [_frame(step, pairs) for step in found]
    else:  # small: the browser enlarges it
        frames = [_pair(step, pairs, scale=1) for step in found]
    caption = f"t = {found[0].t} … {found[-1].t}" + (": x_t on the left, the estimate x̂₀ on the right" if pairs else "")
    buffer = io.BytesIO()
    durations = [80] * (len(frames) - 1) + [2000]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    if kernel_shell() is None:
        _write(buffer.getvalue(), ".gif", caption)
        return
    encoded = base64.b64encode(buffer.getvalue()).decode()
    width = min(MAX_WIDTH, max(512, frames[0].width))
    source = f'<img src="data:image/gif;base64,{encoded}" width="{width}" style="image-rendering: pixelated">'
    display({"text/html": f"{source}<p>{html.escape(caption)}</p>", "text/plain": f"an animation, {caption}"})


def plot(
    lines: Mapping[str, tuple[Any, Any]],
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Show named lines, each (xs, ys), as a plot. The numbers may be lists, arrays or tensors.

    Needs the extra `track`; UserError if it is missing, or if a line has not as many xs as ys.
    """
    numbers = {}
    for name, (xs, ys) in lines.items():
        numbers[name] = _numbers(xs), _numbers(ys)
        if len(numbers[name][0]) != len(numbers[name][1]):
            raise UserError(f"line {name!r} has {len(numbers[name][0])} xs and {len(numbers[name][1])} ys")
    figure = render.lines_figure(numbers, x_label, y_label, title, log_x=log_x, log_y=log_y)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PLOT_DPI)
    few_colours = Image.open(buffer).convert("RGB").quantize(64)  # a third of the size, also in a stored notebook
    show_picture(few_colours, title)


def show_picture(picture: Image.Image, caption: str = "") -> None:
    """Display a picture in a notebook; elsewhere write it to the folder of pictures and print its path."""
    _show_png(_png(picture), caption)


def step_png(step: Step) -> bytes:
    """A step as a notebook displays it: the images x, as a PNG file."""
    return _png(picture_of(step.x))


def _show_png(content: bytes, caption: str) -> None:
    if kernel_shell() is None:
        _write(content, ".png", caption)
    else:
        display({"image/png": content, "text/plain": caption or "a picture"})


def _write(content: bytes, suffix: str, caption: str) -> None:
    """Write the next file in the folder of pictures, and print its path."""
    found = (re.match(r"[0-9]+", path.name) for path in FOLDER.glob("*")) if FOLDER.is_dir() else iter(())
    number = max((int(match[0]) for match in found if match), default=0) + 1
    path = FOLDER / f"{number:03d}{suffix}"
    write_atomic(path, content)
    print(f"picture: {PREFIX / path}{f' ({caption})' if caption else ''}")


def _as_images(images: Any) -> Tensor:
    """Images as (B, C, H, W) float32. Pixels that are not finite become grey, with a note."""
    if not isinstance(images, Tensor):
        raise UserError(f"images must be a tensor (B, C, H, W), not {shown(images)}")
    images = images.detach().float().cpu()
    images = images.unsqueeze(0) if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[1] not in (1, 3, 4) or 0 in images.shape:
        raise UserError(f"images must have the shape (B, C, H, W) with C = 1, 3 or 4, not {tuple(images.shape)}")
    bad = int((~torch.isfinite(images)).flatten(1).any(1).sum())
    if bad:
        print(f"{bad} of {len(images)} images have pixels that are NaN or ∞; they are grey here")
    return images.nan_to_num(0.0, 0.0, 0.0)


def _pair(step: Step, pairs: bool, scale: int | None) -> Image.Image:
    """x_t, and to the right of it x̂₀."""
    width = render.ANIMATION_WIDTH // (2 if pairs else 1)
    grids = [render.grid(_as_images(images), scale=scale, width=width) for images in ((step.x, step.x0)[: 1 + pairs])]
    gap = 2 * render.MARGIN if pairs else 0
    out = Image.new(grids[0].mode, (sum(grid.width for grid in grids) + gap, grids[0].height))
    for i, grid in enumerate(grids):
        out.paste(grid, (i * (grid.width + gap), 0))
    return out


def _frame(step: Step, pairs: bool) -> Image.Image:
    return render.labelled(_pair(step, pairs, None), [f"x_t at t = {step.t}", "estimate of x0"][: 1 + pairs])


def _captioned(grid: Image.Image, titles: Sequence[str], columns: int, rows: int) -> Image.Image:
    """A grid with a title above every image."""
    width, height = grid.width // columns, grid.height // rows
    top = render.TITLE_SIZE + 4
    out = Image.new("RGB", (grid.width, rows * (height + top)), (render.BACKGROUND,) * 3)
    draw = ImageDraw.Draw(out)
    for i, title in enumerate(titles):
        row, column = divmod(i, columns)
        box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
        out.paste(grid.crop(box).convert("RGB"), (column * width, row * (height + top) + top))
        draw.text(((column + 0.5) * width, row * (height + top) + top / 2), title, fill="white", anchor="mm")
    return out


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _numbers(values: Any) -> list[float]:
    values = values.detach().cpu().flatten().tolist() if isinstance(values, Tensor) else values
    return [float(value) for value in values]
