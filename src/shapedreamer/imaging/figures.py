"""From a model to files that people look at."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ..common.errors import UserError
from ..common.names import SamplerName
from ..common.noise import Noise
from ..data.spec import Dataset, Label
from ..diffusion.process import diffuse
from ..diffusion.samplers import Step
from ..diffusion.schedule import Schedule
from ..models.model import Model
from . import render

BATCH = 64
FRAMES = 60  # of an animation, at most
STRIP_COLUMNS, STRIP_IMAGES = 10, 4
SWEEP_COLUMNS = 10
GUIDANCES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


class Moment(NamedTuple):
    """A place on the way from noise to image: the time, x_t there, and what x̂₀ looked like from there."""

    t: int
    x: Tensor
    x0: Tensor


def history(stream: Iterator[Step], x_T: Tensor, T: int, most: int = FRAMES) -> list[Moment]:
    """The way from x_T at time T to the end of a stream of steps, at about `most` moments spread evenly over t."""
    moments: list[Moment] = []
    t, x = T, x_T
    for step in stream:
        if t - 0.5 <= T - len(moments) * T / most:  # the half is for times that were rounded
            moments.append(Moment(t, x, step.x0))
        t, x = step.t, step.x
    return [*moments, Moment(t, x, x)]


class Way(NamedTuple):
    """How to sample: the arguments of Model.stream but for the number of images. None is as the model likes it."""

    sampler: SamplerName | None = None
    steps: int | None = None
    eta: float | None = None
    seed: int = 0
    label: Label | None = "any"
    guidance: float = 1.0


def write_dream(model: Model, out: Path, num: int = 64, way: Way = Way(), show_process: bool = False) -> list[Path]:
    """Sample `num` images and write them to `out`, in the form its ending asks for; return the paths written.

    .npy: (N, C, H, W) float32 in [−1, 1]; .gif, .webp: the grid of all images, from noise to the end; another picture
    format: the grid. With show_process also NAME-process.png, a strip of the first images: x_t above, x̂₀ below.
    """
    render.check_ending(out, ".npy")
    if num < 1:
        raise UserError(f"num must be at least 1, not {num}")
    batches = []
    for first in range(0, num, BATCH):
        count = min(BATCH, num - first)
        stream = model.stream(count, **way._asdict(), first=first)
        batches.append(history(stream, model.noise(count, way.seed, first), model.schedule.T))
    frames = [torch.cat([moment.x for moment in moments]) for moments in zip(*batches, strict=True)]
    if out.suffix == ".npy":
        render.save_array(frames[-1], out)
    elif out.suffix in render.ANIMATIONS:
        render.save_animation([render.grid(frame, width=render.ANIMATION_WIDTH) for frame in frames], out)
    else:
        render.save_picture(render.grid(frames[-1]), out)
    if not show_process:
        return [out]
    process = out.with_name(f"{out.stem}-process.png")
    render.save_picture(process_picture(batches[0]), process)
    return [out, process]


def write_sweep(model: Model, sweep: Literal["label", "guidance"], out: Path, num: int, way: Way) -> list[Path]:
    """A picture of `num` columns from the same noise, with a row for each label or for each of GUIDANCES."""
    render.check_ending(out)
    if sweep == "label":
        model.label_vectors(0, 1)  # refuses a model without labels
        ways = {name: way._replace(label=name) for name in model.spec.labels}
    else:
        ways = {f"{scale:g}": way._replace(guidance=scale) for scale in GUIDANCES}
    rows = [model.sample(num, **its_way._asdict()) for its_way in ways.values()]
    render.save_picture(render.labelled(render.grid(torch.cat(rows), columns=num), rows=list(ways)), out)
    return [out]


def process_picture(moments: Sequence[Moment]) -> Image.Image:
    """The first images on their way: for each a row of x_t and below it one of x̂₀, from noise to image."""
    last = len(moments) - 1
    chosen = [moments[round(i * last / (STRIP_COLUMNS - 1))] for i in range(STRIP_COLUMNS)] if last > 9 else moments
    count = min(STRIP_IMAGES, len(chosen[0].x))
    columns = [torch.stack([m.x[:count], m.x0[:count]], dim=1).flatten(0, 1) for m in chosen]
    return render.strip(columns, [f"t = {m.t}" for m in chosen], ["x_t", "x0"] * count)


def forward_picture(data: Dataset, schedule: Schedule, num: int, times: Sequence[int], seed: int = 0) -> Image.Image:
    """The first `num` images of a data set with the noise of each of the times in them, a column each."""
    if not 1 <= num <= len(data):
        raise UserError(f"num must be between 1 and {len(data)}, not {num}")
    if not times or not 0 <= min(times) <= max(times) <= schedule.T:
        raise UserError(f"times must lie between 0 and T = {schedule.T}, not {' '.join(map(str, times)) or 'none'}")
    x0, _ = data.batch(torch.arange(num))
    eps = Noise(seed)(0, like=x0)
    return render.strip([diffuse(x0, t, eps, schedule) for t in times], [f"t = {t}" for t in times])
