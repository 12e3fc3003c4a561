"""Measure whether a dream without end stays as good as its first frame: python -m benchmarks.wandering [MODEL …]

Two numbers, for several frames of each motion of the live page:

    brightness  mean of all pixels, from 0 (black) to 1 (white); for shapes, the share of white area
    spread      variance of a pixel over the images, averaged over the pixels; it falls if images become alike

Melt: one long dream at the page's default settings. Each frame is a variation of the one before, and after EVERY frames
a new sample starts a new stretch. Frame 15, the last of a stretch, is averaged over all stretches.

Drift: frames between two samples of a seed. One such stretch stands for all.

The change is relative to frame 0 of a stretch. Its standard error is over the images, which are the same in both frames
(melt), or over independent images (drift).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from shapedreamer.common.errors import exit_on_user_error
from shapedreamer.common.values import as_int
from shapedreamer.imaging.editing import DRIFT_EVERY, drift_frame, melt
from shapedreamer.live.settings import model_info
from shapedreamer.models import zoo
from shapedreamer.models.model import Model, load
from shapedreamer.models.options import SampleOptions

from .throughput import machine

EVERY = 16  # frames between two samples of a dream that melts, as on the page (MOTION_DEFAULTS in state.js)
PHASES = (0.25, 0.5, 0.75)  # of the way from one sample of a drift to the next
HEAD = ("model", "motion", "frame", "brightness", "change", "spread")


class Row(NamedTuple):
    """Measurements of one frame. change: of the brightness since frame 0, as a share; error: its standard error."""

    motion: str
    frame: int
    brightness: float
    change: float
    error: float
    spread: float


def measure(motion: str, frame: int, images: Tensor, first: Tensor, paired: bool) -> Row:
    """The row of images (num, C, H, W), compared with those of frame 0."""
    now, before = (((x + 1) / 2).flatten(1).mean(1) for x in (images, first))
    errors = (now - before).std() if paired else (now.var() + before.var()).sqrt()
    change, error = (now - before).mean() / before.mean(), errors / len(now) ** 0.5 / before.mean()
    return Row(motion, frame, now.mean().item(), change.item(), error.item(), images.var(0).mean().item())


def measure_motions(model: Model, num: int, frames: int, seed: int) -> Iterator[Row]:
    """The rows of a model."""
    options, frames = SampleOptions(seed=seed), as_int("frames", frames, EVERY)
    info: dict[str, Any] = model_info("", model)
    dream = melt(model, model.sample(1, options), info["creativity"], frames, 1, options, EVERY)
    stretches = dream[: frames - frames % EVERY, 0].unflatten(0, (-1, EVERY))
    for frame in (0, EVERY // 2, EVERY - 1):
        yield measure("melt", frame, stretches[:, frame], stretches[:, 0], paired=True)
    if not model.is_masked:
        samples = model.sample(num, options)
        for phase in PHASES:
            frame = int(phase * DRIFT_EVERY)
            images = drift_frame(model, frame, num, options)
            yield measure("drift", frame, images, samples, paired=False)


def main(models: Positional[tuple[str, ...]] = (), num: int = 64, frames: int = 63 * EVERY, seed: int = 11) -> None:
    """Print a table in Markdown.

    Args:
        models: Shipped models, runs or checkpoints; all shipped models by default.
        num: Number of images in each row of drift.
        frames: Length of the dream that melts, EVERY or more.
        seed: Determines the noise and the labels.
    """
    print(f"{machine()}; {frames} frames that melt, {num} images that drift, seed {seed}.\n", flush=True)
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for name in models or zoo.names():
        with torch.inference_mode():
            for row in measure_motions(load(name), num, frames, seed):
                change = f"{row.change:+.1%} ± {row.error:.1%}" if row.frame else ""
                cells = (name, row.motion, str(row.frame), f"{row.brightness:.4f}", change, f"{row.spread:.4f}")
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main, description=__doc__)
