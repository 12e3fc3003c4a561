"""Compare models, samplers, or the epochs of a run: a row of images for each, all from the same noise."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.names import DeviceName, Which
from ..common.noise import Noise
from ..common.values import as_path
from ..diffusion import masked
from ..diffusion.samplers import Step, ddpm, sample
from ..models.model import Model, load
from ..models.options import SampleOptions
from ..models.recipes import Sampling
from . import render


class Row(NamedTuple):
    """name: of the sampler or epoch; calls: network calls; seconds: time taken; images: (num, C, H, W) on the CPU."""

    name: str
    calls: int
    seconds: float
    images: Tensor


class NoNoise(Noise):
    """All zeros, for a sampler that forgets to add noise."""

    def __call__(self, step: int, like: Tensor) -> Tensor:
        return torch.zeros_like(like)


def parse_sampler(text: str, options: SampleOptions = SampleOptions()) -> SampleOptions:
    """The options with sampler, steps and eta as in "ddim:20" or "ddim:20:0.5". UserError for anything else."""
    parts: list[Any] = text.split(":")
    try:
        sampler, steps, eta = parts if len(parts) == 3 else (*parts, 0)
        return replace(options, sampler=sampler, steps=int(steps), eta=float(eta))
    except ValueError:
        raise UserError(
            f"{text!r} must be SAMPLER:STEPS or SAMPLER:STEPS:ETA, such as ddim:20 or ddim:20:0.5"
        ) from None


def default_samplers(T: int) -> list[str]:
    """What to compare by default: DDPM with all T steps, and three faster samplers."""
    return [f"ddpm:{T}", f"ddim:{min(20, T)}", f"dpmpp_2m:{min(10, T)}", f"heun:{min(10, T)}"]


def masked_samplers(T: int) -> list[str]:
    """What to compare by default for a masked model: many steps, fewer steps, and hiding pixels again."""
    few, many = min(16, T), min(128, T)
    return [f"masked_ancestral:{many}", *(f"{name}:{few}" for name in masked.SAMPLERS), f"masked_ancestral:{few}:0.1"]


def compare_samplers(
    model: Model,
    samplers: Sequence[str],
    num: int = 8,
    options: SampleOptions = SampleOptions(),
    without_noise: bool = False,
) -> list[Row]:
    """`num` images from each of the samplers (see parse_sampler), all starting from the noise of options.seed.

    without_noise adds a row with a well-known mistake: DDPM, with as many steps as its own row (or T), that forgets to
    add noise at each step. Its x_t then contains less noise than t says, and every image becomes much the same blob.
    UserError for an invalid value, before anything is computed.
    """
    return _rows(model, [parse_sampler(text, options) for text in samplers], num, options, without_noise)


def _rows(
    model: Model, rows: Sequence[SampleOptions], num: int, options: SampleOptions, without_noise: bool = False
) -> list[Row]:
    """A row of images for each sampler; None stands for the model's own sampler."""
    if without_noise:
        model.check_gaussian("a row without noise", "leave out `without_noise=True`")
    denoise, x_T = model.denoiser_for(num, options), model.noise(num, options.seed)
    names = [_name(model.resolve_sampling(row)) for row in rows]
    runs = [
        (name, model.bind_sampler(row, Noise(options.seed))(model.denoiser_for(num, row), x_T=x_T))
        for name, row in zip(names, rows, strict=True)
    ]
    if without_noise:
        steps = next((row.steps for row in rows if row.sampler == "ddpm"), None) or model.schedule.T
        forgetful = ddpm(denoise, model.schedule, x_T, steps, generator=NoNoise(options.seed))
        runs.append(("ddpm, no noise added", forgetful))
    denoise(x_T, torch.full((num,), model.schedule.T, device=model.device))  # warm up: the first call is slower
    return [_measured(name, model, steps) for name, steps in runs]


def compare_epochs(
    run: str | Path,
    epochs: Sequence[int],
    num: int,
    sampler: str | None,
    options: SampleOptions = SampleOptions(),
    which: Which = "ema",
    device: DeviceName = "auto",
) -> list[Row]:
    """`num` images with the weights after each of these epochs of a run, all from the noise of options.seed.

    UserError for an epoch without a checkpoint; the message lists those that have one.
    """
    stored = stored_epochs(as_path("run", run))
    for epoch in epochs:
        if epoch not in stored:
            raise UserError(
                f"{run} has no checkpoint of epoch {epoch}; it has those of: {' '.join(map(str, stored)) or 'none'} "
                "(training with `save_every=N` keeps one every N epochs)"
            )
    models = (load(stored[epoch], which, device) for epoch in epochs)
    rows = (compare_samplers(model, [sampler or _usual_sampler(model)], num, options)[0] for model in models)
    return [row._replace(name=f"epoch {epoch}") for epoch, row in zip(epochs, rows, strict=True)]


def _usual_sampler(model: Model) -> str:
    return f"masked_ancestral:{min(64, model.schedule.T)}" if model.is_masked else "ddim:20"


def stored_epochs(run: Path) -> dict[int, Path]:
    """The checkpoints of single epochs that a run has kept, in order: epoch -> path."""
    paths = {path.stem.removeprefix("epoch-"): path for path in run.glob("checkpoints/epoch-*.safetensors")}
    return dict(sorted((int(number), path) for number, path in paths.items() if number.isdecimal()))


def compare(
    models: Model | str | Path | Sequence[Model | str | Path],
    samplers: Sequence[str] = (),
    epochs: Sequence[int] = (),
    num: int = 8,
    options: SampleOptions = SampleOptions(),
    without_noise: bool = False,
    which: Which = "ema",
    device: DeviceName = "auto",
) -> list[Row]:
    """Rows of `num` images to compare, all from the noise of options.seed; `picture` and `table` show them.

    models:        a model, or several: each a Model, a run folder, a checkpoint file or the name of a shipped model
    samplers:      such as ["ddim:20"], see parse_sampler; by default default_samplers for one model, and each model's
                   own sampler for several
    epochs:        of one run folder: the weights after these epochs, with one sampler
    without_noise: add a row with a mistake; see compare_samplers

    UserError for options that do not work together, or for models whose images have different sizes.
    """
    several = [models] if isinstance(models, (Model, str, Path)) else list(models)
    if not several:
        raise UserError("there is no model to compare")
    if epochs:
        if len(several) > 1 or isinstance(several[0], Model):
            raise UserError("`epochs` needs the folder of one run")
        if len(samplers) > 1:
            raise UserError(f"`epochs` needs exactly one sampler, not {len(samplers)}: {' '.join(samplers)}")
        if without_noise:
            raise UserError("`without_noise=True` and `epochs` do not work together; leave one out")
        run = as_path("models", several[0])
        return compare_epochs(run, epochs, num, samplers[0] if samplers else None, options, which, device)
    loaded = [model if isinstance(model, Model) else load(model, which, device) for model in several]
    if len(loaded) == 1:
        model = loaded[0]
        defaults = masked_samplers if model.is_masked else default_samplers
        return compare_samplers(model, samplers or defaults(model.schedule.T), num, options, without_noise)
    if without_noise:
        raise UserError("`without_noise=True` works with one model only; leave it out")
    shapes = {(model.spec.channels, model.spec.height, model.spec.width) for model in loaded}
    if len(shapes) > 1:
        found = ", ".join(
            f"{name}: {m.spec.channels}x{m.spec.height}x{m.spec.width}" for name, m in _named(several, loaded)
        )
        raise UserError(f"the models generate images of different sizes, so they cannot share their noise: {found}")
    rows = []
    for name, model in _named(several, loaded):
        own = replace(options, sampler=None, steps=None, eta=None)
        choices = [parse_sampler(text, options) for text in samplers] or [own]
        rows += [row._replace(name=f"{name}: {row.name}") for row in _rows(model, choices, num, options)]
    return rows


def _named(given: Sequence[Model | str | Path], models: Sequence[Model]) -> list[tuple[str, Model]]:
    """The models with their names: as given, or of a Model the name of its data and its position."""
    names = [
        f"model {i + 1} of {model.spec.name}" if isinstance(value, Model) else str(value)
        for i, (value, model) in enumerate(zip(given, models, strict=True))
    ]
    return list(zip(names, models, strict=True))


def picture(rows: Sequence[Row]) -> Image.Image:
    """A row of images for each, with its name, network calls and seconds."""
    grid = render.grid(torch.cat([row.images for row in rows]), columns=len(rows[0].images))
    return render.titled(grid, [f"{row.name}\n{_calls(row)}, {row.seconds:.2f} s" for row in rows])


def table(rows: Sequence[Row]) -> str:
    """Name, network calls and seconds of each row, as lines of text."""
    lines = [("", "network calls", "seconds"), *((row.name, str(row.calls), f"{row.seconds:.2f}") for row in rows)]
    name, calls, seconds = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(f"{a:{name}}  {b:>{calls}}  {c:>{seconds}}" for a, b, c in lines)


def _name(row: Sampling) -> str:
    return f"{row.sampler}, eta {row.eta:g}" if row.eta else str(row.sampler)


def _calls(row: Row) -> str:
    return "1 call" if row.calls == 1 else f"{row.calls} calls"


def _measured(name: str, model: Model, steps: Iterator[Step]) -> Row:
    with _counting_calls(model.network) as calls:
        began = time.perf_counter()
        images = sample(steps).cpu()  # cpu() waits for a GPU to finish
        seconds = time.perf_counter() - began
    return Row(name, len(calls), seconds, images)


@contextmanager
def _counting_calls(network: nn.Module) -> Iterator[list[object]]:
    """A list that grows by one item with every call of the network."""
    calls: list[object] = []
    hook = network.register_forward_pre_hook(lambda module, inputs: calls.append(None))
    try:
        yield calls
    finally:
        hook.remove()
