"""The same noise through several samplers, or through the weights of several epochs: a row of images each."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.names import DeviceName, Which
from ..common.noise import Noise
from ..diffusion.samplers import Step, ddpm, sample
from ..models.model import Model, load
from ..models.recipes import Sampling
from . import render
from .figures import Way


class Row(NamedTuple):
    """name: what it is; calls: of the network, that it took; seconds: likewise; images: (num, C, H, W) on the CPU."""

    name: str
    calls: int
    seconds: float
    images: Tensor


class NoNoise(Noise):
    """Noise that is forgotten: all zeros."""

    def __call__(self, step: int, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


def parse_sampler(text: str) -> Sampling:
    """ "ddim:20" or "ddim:20:0.5": sampler, steps, eta. UserError for anything else."""
    parts: list[Any] = text.split(":")
    try:
        sampler, steps, eta = parts if len(parts) == 3 else (*parts, 0)
        return Sampling(sampler, int(steps), float(eta))
    except ValueError:
        raise UserError(
            f"{text!r} must be SAMPLER:STEPS or SAMPLER:STEPS:ETA, such as ddim:20 or ddim:20:0.5"
        ) from None


def usual_samplers(T: int) -> list[str]:
    """What to compare where nothing is said: DDPM as it was published, and three that are content with less."""
    return [f"ddpm:{T}", f"ddim:{min(20, T)}", f"dpmpp_2m:{min(10, T)}", f"heun:{min(10, T)}"]


def compare_samplers(
    model: Model, samplers: Sequence[str], num: int = 8, way: Way = Way(), without_noise: bool = False
) -> list[Row]:
    """`num` images by each of the samplers (see parse_sampler), all from the noise of way.seed.

    without_noise adds a row with a well-known mistake: DDPM, in as many steps as its own row, or T, that forgets to add
    noise on the way. Its x then holds less noise than the network is told, and all come out as much the same blob.
    UserError for a value that makes no sense, before anything is computed.
    """
    ways = [parse_sampler(text) for text in samplers]
    denoise, x_T = model.denoiser_for(num, way.label, way.guidance, way.seed), model.noise(num, way.seed)
    walks = [(_name(w), model.walk(denoise, x_T, w.sampler, w.steps, w.eta, Noise(way.seed))) for w in ways]
    if without_noise:
        steps = next((w.steps for w in ways if w.sampler == "ddpm"), model.schedule.T)
        forgetful = ddpm(denoise, model.schedule, x_T, steps, generator=NoNoise(way.seed))
        walks.append(("ddpm, no noise added", forgetful))
    denoise(x_T, torch.full((num,), model.schedule.T, device=model.device))  # the first call of all takes longer
    return [_measured(name, model, walk) for name, walk in walks]


def compare_epochs(
    run: Path,
    epochs: Sequence[int],
    num: int,
    sampler: str,
    way: Way = Way(),
    which: Which = "ema",
    device: DeviceName = "auto",
) -> list[Row]:
    """`num` images with the weights that a run had after each of these epochs, all from the noise of way.seed.

    UserError, listing the epochs that are stored, for one that is not.
    """
    stored = stored_epochs(run)
    for epoch in epochs:
        if epoch not in stored:
            raise UserError(
                f"{run} has no checkpoint of epoch {epoch}; it has those of: {' '.join(map(str, stored)) or 'none'} "
                "(shapedreamer train --save-every N keeps one every N epochs)"
            )
    models = (load(stored[epoch], which, device) for epoch in epochs)
    rows = (compare_samplers(model, [sampler], num, way)[0] for model in models)
    return [row._replace(name=f"epoch {epoch}") for epoch, row in zip(epochs, rows, strict=True)]


def stored_epochs(run: Path) -> dict[int, Path]:
    """The checkpoints that a run keeps of its epochs, in their order."""
    paths = {path.stem.removeprefix("epoch-"): path for path in run.glob("checkpoints/epoch-*.safetensors")}
    return dict(sorted((int(number), path) for number, path in paths.items() if number.isdecimal()))


def compare(
    run: Path,
    samplers: Sequence[str] = (),
    epochs: Sequence[int] = (),
    num: int = 8,
    way: Way = Way(),
    without_noise: bool = False,
    which: Which = "ema",
    device: DeviceName = "auto",
) -> list[Row]:
    """The rows of samplers, the usual ones if none is named, or if epochs are named of those, with one sampler."""
    if not epochs:
        model = load(run, which, device)
        return compare_samplers(model, samplers or usual_samplers(model.schedule.T), num, way, without_noise)
    if len(samplers) > 1:
        raise UserError(f"epochs are compared with one sampler, not {len(samplers)}: {' '.join(samplers)}")
    if without_noise:
        raise UserError("--wrong no-noise is compared with samplers, not with epochs; leave one out")
    return compare_epochs(run, epochs, num, samplers[0] if samplers else "ddim:20", way, which, device)


def picture(rows: Sequence[Row]) -> Image.Image:
    """The images, a row each, and beside them what they cost."""
    grid = render.grid(torch.cat([row.images for row in rows]), columns=len(rows[0].images))
    return render.titled(grid, [f"{row.name}\n{_calls(row)}, {row.seconds:.2f} s" for row in rows])


def table(rows: Sequence[Row]) -> str:
    """What the rows cost, as lines of text."""
    lines = [("", "network calls", "seconds"), *((row.name, str(row.calls), f"{row.seconds:.2f}") for row in rows)]
    name, calls, seconds = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(f"{a:{name}}  {b:>{calls}}  {c:>{seconds}}" for a, b, c in lines)


def _name(way: Sampling) -> str:
    return f"{way.sampler}, eta {way.eta:g}" if way.eta else way.sampler


def _calls(row: Row) -> str:
    return "1 call" if row.calls == 1 else f"{row.calls} calls"


def _measured(name: str, model: Model, walk: Iterator[Step]) -> Row:
    with _counted(model.network) as calls:
        began = time.perf_counter()
        images = sample(walk).cpu()  # which waits for a GPU to be done
        seconds = time.perf_counter() - began
    return Row(name, len(calls), seconds, images)


@contextmanager
def _counted(network: nn.Module) -> Iterator[list[object]]:
    """A list that grows by one with every call of the network."""
    calls: list[object] = []
    hook = network.register_forward_pre_hook(lambda module, inputs: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()
