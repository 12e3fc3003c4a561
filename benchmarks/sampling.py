"""Measure how long sampling takes, for batches of 1 and 64 images: python -m benchmarks.sampling [MODEL ...]

MODEL is a run, a checkpoint or the name of a shipped model, as for `shapedreamer sample`. Each model uses its default
sampler, on four backends: PyTorch with default settings (bfloat16 where that is fast), PyTorch in float32,
torch.compile, and onnxruntime. They are compared with two baselines:

- Diffusers: UNet2DModel with the same weights, in float32, its default, and the same number of DDIM calls;
- the original ShapeDreamer: a UNet2DModel with about 18.5 million parameters in float32, with 20 calls of DDIM or 1,000
  of DDPM (50 are measured and multiplied by 20).

The candidates take turns, so that slow phases of the machine affect all of them; the table shows the median over the
rounds. Speed relative to the original is for batch size 1.
"""

import copy
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor, nn
from tyro.conf import Positional

from shapedreamer.common.errors import UserError, require
from shapedreamer.common.names import Prediction
from shapedreamer.data.drawn.shapes import SPEC
from shapedreamer.export.diffusers import to_diffusers
from shapedreamer.export.runtimes import onnx_network
from shapedreamer.models import recipes
from shapedreamer.models.model import Model, load
from shapedreamer.networks.unet import UNet

from .throughput import DEVICE, machine, seconds

BATCHES = (1, 64)
# The time of a single image is short and noisy: take the fastest of at least MIN_RUNS runs, and of as many as fit into
# MIN_SECONDS. The first runs are slow because idle threads of the previous candidate are still spinning.
MIN_RUNS = 3
MIN_SECONDS = 1.0
DIFFUSERS_PREDICTION: dict[Prediction, str] = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
ORIGINAL = "original ShapeDreamer"
ORIGINAL_DDIM_CALLS, ORIGINAL_DDPM_CALLS, MEASURED_DDPM_CALLS = 20, 1000, 50
Draw = Callable[[int], object]  # generates this number of images


class Candidate(NamedTuple):
    """A model on a backend. `draw` makes calls/repeat network calls; its time is multiplied by `repeat`."""

    model: str
    backend: str
    calls: int
    draw: Draw
    batches: tuple[int, ...] = BATCHES
    repeat: int = 1


class WithBackend(nn.Module):
    """A network whose forward pass is computed by another function."""

    def __init__(self, network: nn.Module, backend: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.backend = network, backend

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.backend(*inputs)


def in_float32(network: nn.Module) -> Callable[..., Tensor]:
    def forward(*inputs: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, enabled=False):
            return network(*inputs)

    return forward


def with_backends(name: str, model: Model, calls: int) -> Iterator[Candidate]:
    """The model with each of our backends; only the computation of the network differs."""
    network = model.network
    backends: dict[str, Callable[..., Tensor]] = {
        "PyTorch": network,
        "PyTorch, float32": in_float32(network),
        "PyTorch, compiled": torch.compile(network, dynamic=False),
        "onnxruntime": onnx_network(model),
    }
    for backend, function in backends.items():
        changed = copy.copy(model)
        changed.network = WithBackend(network, function)
        yield Candidate(name, backend, calls, partial(changed.sample, steps=calls, label=None))


def diffusers_loop(unet: Any, scheduler: Any, calls: int, shape: tuple[int, ...], **conditioning: int) -> Draw:
    """The sampling loop of Diffusers' pipelines, plus `conditioning`: class labels, the same for every image."""

    @torch.no_grad()
    def draw(num: int) -> Tensor:
        labels = {key: torch.full((num,), value, device=DEVICE) for key, value in conditioning.items()}
        image = torch.randn(num, *shape, device=DEVICE)
        for t in scheduler.timesteps[:calls]:
            image = scheduler.step(unet(image, t, **labels).sample, t, image).prev_sample
        return image.cpu()

    return draw


def diffusers_twin(name: str, model: Model, calls: int) -> Candidate:
    """The same network as a UNet2DModel. ValueError if the network has no counterpart in Diffusers."""
    network = model.network
    if not isinstance(network, UNet):
        raise ValueError(f"{type(network).__name__} has no counterpart in Diffusers")
    diffusers = require("diffusers", "diffusers")
    unet = to_diffusers(network, (model.spec.height, model.spec.width)).to(memory_format=torch.contiguous_format)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=model.schedule.T,
        trained_betas=model.schedule.beta[1:].tolist(),
        prediction_type=DIFFUSERS_PREDICTION[model.prediction],
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(calls)
    no_label = {"class_labels": network.context_size} if network.context_size else {}
    shape = (unet.config.in_channels, *unet.config.sample_size)
    return Candidate(name, "Diffusers", calls, diffusers_loop(unet, scheduler, calls, shape, **no_label))


def original() -> Iterator[Candidate]:
    """The network of the original, for 32x32x1: of four configurations of about its size, the cheapest to compute."""
    diffusers = require("diffusers", "diffusers")
    plain, attending = "DownBlock2D", "AttnDownBlock2D"
    down = (plain, plain, attending, attending)
    unet = diffusers.UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(64, 128, 128, 256),
        down_block_types=down,
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(down)),
    )
    unet = unet.to(DEVICE).eval()
    name = f"{ORIGINAL}, {sum(p.numel() for p in unet.parameters()) / 1e6:.1f} M parameters"
    for backend, scheduler, calls, measured in (
        ("Diffusers, DDIM", diffusers.DDIMScheduler(), ORIGINAL_DDIM_CALLS, ORIGINAL_DDIM_CALLS),
        ("Diffusers, DDPM", diffusers.DDPMScheduler(), ORIGINAL_DDPM_CALLS, MEASURED_DDPM_CALLS),
    ):
        scheduler.set_timesteps(calls)
        draw = diffusers_loop(unet, scheduler, measured, (1, 32, 32))
        yield Candidate(name, backend, calls, draw, batches=(1,), repeat=calls // measured)


def untrained() -> Model:
    """An untrained model; it takes as long as a trained one."""
    recipe = recipes.shapes()
    network = recipe.make_network().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, recipe.make_schedule(), recipe.prediction, SPEC, sampling=recipe.sampling)


def all_candidates(models: dict[str, Model], steps: int | None) -> Iterator[Candidate]:
    for name, model in models.items():
        calls = steps or model.sampling.steps
        yield from with_backends(name, model, calls)
        try:
            yield diffusers_twin(name, model, calls)
        except ValueError as error:
            print(f"skipped Diffusers for {name}: {error}", file=sys.stderr)
    yield from original()


def fastest(function: Callable[[], object]) -> float:
    """The shortest time in seconds of MIN_RUNS runs, or of as many as fit into MIN_SECONDS."""
    times: list[float] = []
    while len(times) < MIN_RUNS or sum(times) < MIN_SECONDS:
        times.append(seconds(function))
    return min(times)


def measure(candidates: list[Candidate], rounds: int) -> list[dict[str, Any]]:
    """A row for each candidate and batch size, with the median time in seconds of a batch."""
    measurements: dict[tuple[int, int], list[float]] = {(i, b): [] for i, c in enumerate(candidates) for b in c.batches}
    for round_number in range(rounds + 1):
        for (i, batch), times in list(measurements.items()):
            candidate = candidates[i]
            try:
                draw = partial(candidate.draw, batch)
                duration = fastest(draw) if batch == 1 else seconds(draw)
            except Exception as error:  # such as no C++ compiler for torch.compile
                if round_number > 0:
                    raise
                print(f"skipped {candidate.model}, {candidate.backend}: {error}", file=sys.stderr)
                del measurements[i, batch]
                continue
            if round_number > 0:  # the first round is the warm-up
                times.append(candidate.repeat * duration)
        print(f"round {round_number} of {rounds}", file=sys.stderr)
    return [
        {
            "model": candidates[i].model,
            "backend": candidates[i].backend,
            "calls": candidates[i].calls,
            "batch": batch,
            "seconds": statistics.median(times),
        }
        for (i, batch), times in measurements.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: a line for each model and backend, with its time and its speed relative to the baselines."""
    measured = {(row["model"], row["backend"], row["calls"], row["batch"]): row["seconds"] for row in rows}
    original_ddim, original_ddpm = (
        next(s for (model, _, calls, _), s in measured.items() if model.startswith(ORIGINAL) and calls == wanted)
        for wanted in (ORIGINAL_DDIM_CALLS, ORIGINAL_DDPM_CALLS)
    )
    lines = [
        f"{machine()}. The {ORIGINAL_DDPM_CALLS:,} calls of the original are extrapolated from {MEASURED_DDPM_CALLS}.",
        "",
        f"| model | backend | calls | batch 1 | images/s | × Diffusers | × original, {ORIGINAL_DDIM_CALLS} calls "
        f"| × original, {ORIGINAL_DDPM_CALLS:,} calls | batch {BATCHES[1]} | images/s | × Diffusers |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, backend, calls in dict.fromkeys(key[:3] for key in measured):
        cells = [model, backend, f"{calls:,}"]
        for batch in BATCHES:
            duration = measured.get((model, backend, calls, batch))
            diffusers = measured.get((model, "Diffusers", calls, batch))
            if duration is None:
                cells += ["–"] * 3
                continue
            cells += [f"{1000 * duration:.1f} ms", f"{batch / duration:.2f}"]
            cells += [f"{diffusers / duration:.2f}" if diffusers else "–"]
            if batch == 1:
                cells += [f"{original_ddim / duration:.2f}", f"{original_ddpm / duration:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    models: Positional[tuple[str, ...]] = (), rounds: int = 4, steps: int | None = None, json_to: Path | None = None
) -> None:
    """Measure, and print a table.

    Args:
        models: Runs, checkpoints or shipped models. If not given, an untrained network of the recipe shapes.
        rounds: Rounds to measure.
        steps: Network calls per image. If not given, each model uses its own default.
        json_to: Also write the results to this JSON file.
    """
    loaded = {name: load(name) for name in models} or {"shapes, untrained": untrained()}
    rows = measure(list(all_candidates(loaded, steps)), rounds)
    print(table(rows))
    if json_to:
        json_to.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except UserError as error:
        sys.exit(str(error))
