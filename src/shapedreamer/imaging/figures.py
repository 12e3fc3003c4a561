"""A model's samples, and a data set's forward process, as files that people look at."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..common.errors import UserError
from ..common.noise import Noise
from ..common.values import as_path
from ..data.spec import Dataset
from ..diffusion.process import diffuse
from ..diffusion.samplers import Step, sample
from ..diffusion.schedule import Schedule
from ..models.model import Model
from ..models.options import SampleOptions
from . import render

BATCH = 64
MAX_FRAMES = 60  # of an animation
STRIP_COLUMNS, STRIP_IMAGES = 10, 4
SWEEP_COLUMNS = 10
GUIDANCES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


class Moment(NamedTuple):
    """One point between noise and image: the timestep t, x_t, and the prediction x̂₀ made from it."""

    t: int
    x: Tensor
    x0: Tensor


def history(stream: Iterator[Step], x_T: Tensor, T: int, max_moments: int = MAX_FRAMES) -> list[Moment]:
    """The moments of a stream of steps that starts at x_T: about `max_moments` of them, evenly spaced in t."""
    moments: list[Moment] = []
    t, x = T, x_T
    for step in stream:
        if t - 0.5 <= T - len(moments) * T / max_moments:  # 0.5 because timesteps are rounded
            moments.append(Moment(t, x, step.x0))
        t, x = step.t, step.x
    return [*moments, Moment(t, x, x)]


def write_samples(
    model: Model, out: str | Path, num: int = 64, options: SampleOptions = SampleOptions(), show_process: bool = False
) -> list[Path]:
    """Sample `num` images and write them to `out`, in the format of its suffix. Return the paths written.

    .npy is an array (N, C, H, W) float32 in [−1, 1]; .gif and .webp animate the grid of all images from noise to the
    end; any other picture format shows the grid. show_process also writes NAME-process.png, a strip of the first images
    with x_t above and x̂₀ below.
    """
    out = as_path("out", out)
    render.check_ending(out, ".npy")
    if num < 1:
        raise UserError(f"num must be at least 1, not {num}")
    animated = out.suffix.lower() in render.ANIMATIONS
    images = torch.empty(num, model.spec.channels, model.spec.height, model.spec.width)
    histories = []  # of all images for an animation, and of the first ones for a strip
    for first in range(0, num, BATCH):
        count = min(BATCH, num - first)
        steps = model.stream(count, options, first=first)
        if animated or (show_process and first == 0):
            histories.append(history(steps, model.noise(count, options.seed, first), model.schedule.T))
            images[first : first + count] = histories[-1][-1].x
        else:
            images[first : first + count] = sample(steps)
    if out.suffix.lower() == ".npy":
        render.save_array(images, out)
    elif animated:
        frames = [torch.cat([moment.x for moment in moments]) for moments in zip(*histories, strict=True)]
        render.save_animation([render.grid(frame, width=render.ANIMATION_WIDTH) for frame in frames], out)
    else:
        render.save_picture(render.grid(images), out)
    if not show_process:
        return [out]
    process = out.with_name(f"{out.stem}-process.png")
    render.save_picture(process_picture(histories[0]), process)
    return [out, process]


def write_sweep(
    model: Model, sweep: Literal["label", "guidance"], out: str | Path, num: int, options: SampleOptions
) -> list[Path]:
    """A picture of `num` columns from the same noise, with a row for each label, or for each of GUIDANCES."""
    out = as_path("out", out)
    render.check_ending(out)
    if sweep == "label":
        model.label_vectors(0, 1)  # raises for an unconditional model
        rows = {name: replace(options, label=name) for name in model.spec.labels}
    else:
        rows = {f"{scale:g}": replace(options, guidance=scale) for scale in GUIDANCES}
    images = [model.sample(num, row) for row in rows.values()]
    render.save_picture(render.labelled(render.grid(torch.cat(images), columns=num), rows=list(rows)), out)
    return [out]


def process_picture(moments: Sequence[Moment]) -> Image.Image:
    """The first images from noise to the end: for each a row of x_t, and below it a row of x̂₀."""
    last = len(moments) - 1
    shown = [moments[round(i * last / (STRIP_COLUMNS - 1))] for i in range(STRIP_COLUMNS)] if last > 9 else moments
    count = min(STRIP_IMAGES, len(shown[0].x))
    columns = [torch.stack([m.x[:count], m.x0[:count]], dim=1).flatten(0, 1) for m in shown]
    return render.strip(columns, [f"t = {m.t}" for m in shown], ["x_t", "x0"] * count)


def forward_picture(data: Dataset, schedule: Schedule, num: int, times: Sequence[int], seed: int = 0) -> Image.Image:
    """The first `num` images of a data set, noised to each of these timesteps, one column each."""
    if not 1 <= num <= len(data):
        raise UserError(f"num must be between 1 and {len(data)}, not {num}")
    if not times or not 0 <= min(times) <= max(times) <= schedule.T:
        raise UserError(f"times must lie between 0 and T = {schedule.T}, not {' '.join(map(str, times)) or 'none'}")
    x0, _ = data.batch(torch.arange(num))
    eps = Noise(seed)(0, like=x0)
    return render.strip([diffuse(x0, t, eps, schedule) for t in times], [f"t = {t}" for t in times])
