"""From noise to pictures, 1 and 64 at a time: python -m benchmarks.sampling [MODEL ...]

A MODEL is what `shapedreamer sample` takes: a run, a checkpoint, or the name of one in the box. Each is sampled by its
own sampler: as it is by default (in bfloat16 where that is fast), in float32, compiled, and by onnxruntime. Beside it

- Diffusers: its UNet2DModel with the same weights, in float32 as people use it, and as many calls of its DDIM;
- the original: a UNet2DModel of about 18.7 million parameters in float32, with 20 calls of DDIM or 1,000 of DDPM, of
  which 50 are made and counted twenty times.

Every candidate takes its turn in every round, so that a slow spell of the machine hits all; the median of its rounds
counts. Ratios to the original are of one picture at a time.
"""

import copy
import json
import statistics
import sys
import tempfile
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
from shapedreamer.export.onnx import OnnxNetwork, to_onnx
from shapedreamer.models import recipes
from shapedreamer.models.model import Model, load
from shapedreamer.networks.unet import UNet

from .throughput import DEVICE, machine, seconds

BATCHES = (1, 64)
# A picture alone is quick, and its time uncertain: the best counts of so many, and of as many as there is time for in a
# turn, since the threads of the candidate before still spin in the beginning, as they wait for more work.
TIMES_AT_ONE = 3
TURN = 1.0  # second
THEIR_PREDICTION: dict[Prediction, str] = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
ORIGINAL = "the original"
ORIGINAL_CALLS, ORIGINAL_SLOW_CALLS, MEASURED_CALLS = 20, 1000, 50
Draw = Callable[[int], object]  # makes so many pictures


class Candidate(NamedTuple):
    """A way to make pictures. `repeat`: how often what `draw` does has to be done for them."""

    model: str
    way: str
    calls: int
    draw: Draw
    batches: tuple[int, ...] = BATCHES
    repeat: int = 1


class Through(nn.Module):
    """A network that is computed in another way."""

    def __init__(self, network: nn.Module, way: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.way = network, way

    def forward(self, *told: Tensor) -> Tensor:
        return self.way(*told)


def in_float32(network: nn.Module) -> Callable[..., Tensor]:
    def way(*told: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, enabled=False):
            return network(*told)

    return way


def in_onnxruntime(model: Model) -> OnnxNetwork:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        to_onnx(model, path)
        return OnnxNetwork(path, threads=torch.get_num_threads())


def ours(name: str, model: Model, calls: int) -> Iterator[Candidate]:
    """A model in all its ways; only the network changes."""
    network = model.network
    ways: dict[str, Callable[..., Tensor]] = {
        "as it samples": network,
        "float32": in_float32(network),
        "compiled": torch.compile(network, dynamic=False),
        "onnxruntime": in_onnxruntime(model),
    }
    for way, function in ways.items():
        changed = copy.copy(model)
        changed.network = Through(network, function)
        yield Candidate(name, way, calls, partial(changed.sample, steps=calls, label=None))


def diffusers_loop(unet: Any, scheduler: Any, calls: int, shape: tuple[int, ...], **told: int) -> Draw:
    """The loop of Diffusers' pipelines, which do not know of labels: `told` says them, the same for every picture."""

    @torch.no_grad()
    def draw(num: int) -> Tensor:
        labels = {key: torch.full((num,), value, device=DEVICE) for key, value in told.items()}
        image = torch.randn(num, *shape, device=DEVICE)
        for t in scheduler.timesteps[:calls]:
            image = scheduler.step(unet(image, t, **labels).sample, t, image).prev_sample
        return image.cpu()

    return draw


def diffusers_twin(name: str, model: Model, calls: int) -> Candidate:
    """The same network as Diffusers' own. ValueError where it has no counterpart there."""
    network = model.network
    if not isinstance(network, UNet):
        raise ValueError(f"UNet2DModel has no counterpart of {type(network).__name__}")
    diffusers = require("diffusers", "diffusers")
    unet = to_diffusers(network, (model.spec.height, model.spec.width)).to(memory_format=torch.contiguous_format)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=model.schedule.T,
        trained_betas=model.schedule.beta[1:].tolist(),
        prediction_type=THEIR_PREDICTION[model.prediction],
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(calls)
    no_label = {"class_labels": network.context_size} if network.context_size else {}
    shape = (unet.config.in_channels, *unet.config.sample_size)
    return Candidate(name, "Diffusers", calls, diffusers_loop(unet, scheduler, calls, shape, **no_label))


def original() -> Iterator[Candidate]:
    """For 32x32x1. Of the four configurations near that size that were tried, the one with the fewest operations."""
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
    for way, scheduler, calls, measured in (
        ("DDIM", diffusers.DDIMScheduler(), ORIGINAL_CALLS, ORIGINAL_CALLS),
        ("DDPM", diffusers.DDPMScheduler(), ORIGINAL_SLOW_CALLS, MEASURED_CALLS),
    ):
        scheduler.set_timesteps(calls)
        draw = diffusers_loop(unet, scheduler, measured, (1, 32, 32))
        yield Candidate(name, way, calls, draw, batches=(1,), repeat=calls // measured)


def untrained() -> Model:
    """As fast as a trained one."""
    recipe = recipes.shapes()
    network = recipe.make_network().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, recipe.make_schedule(), recipe.prediction, SPEC, sampling=recipe.sampling)


def candidates(models: dict[str, Model], steps: int | None) -> Iterator[Candidate]:
    for name, model in models.items():
        calls = steps or model.sampling.steps
        yield from ours(name, model, calls)
        try:
            yield diffusers_twin(name, model, calls)
        except ValueError as error:
            print(f"{name}: Diffusers is left out: {error}", file=sys.stderr)
    yield from original()


def best(turn: Callable[[], object]) -> float:
    """The seconds of the quickest of TIMES_AT_ONE, or of as many as there are in TURN seconds."""
    times: list[float] = []
    while len(times) < TIMES_AT_ONE or sum(times) < TURN:
        times.append(seconds(turn))
    return min(times)


def measure(every: list[Candidate], rounds: int) -> list[dict[str, Any]]:
    """A row for each candidate and batch: the seconds that its pictures take, in the median of the rounds."""
    turns: dict[tuple[int, int], list[float]] = {(i, b): [] for i, c in enumerate(every) for b in c.batches}
    for round_number in range(rounds + 1):
        for (i, batch), times in list(turns.items()):
            candidate = every[i]
            try:
                turn = partial(candidate.draw, batch)
                took = best(turn) if batch == 1 else seconds(turn)
            except Exception as error:  # such as a machine that torch.compile has no compiler on
                if round_number > 0:
                    raise
                print(f"{candidate.model}, {candidate.way}, is left out: {error}", file=sys.stderr)
                del turns[i, batch]
                continue
            if round_number > 0:  # the first round warms up
                times.append(candidate.repeat * took)
        print(f"round {round_number} of {rounds}", file=sys.stderr)
    return [
        {
            "model": every[i].model,
            "way": every[i].way,
            "calls": every[i].calls,
            "batch": batch,
            "seconds": statistics.median(times),
        }
        for (i, batch), times in turns.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for each model and way, and how many times as fast it is as the others."""
    took = {(row["model"], row["way"], row["calls"], row["batch"]): row["seconds"] for row in rows}
    fast, slow = (
        next(s for (model, _, calls, _), s in took.items() if model.startswith(ORIGINAL) and calls == wanted)
        for wanted in (ORIGINAL_CALLS, ORIGINAL_SLOW_CALLS)
    )
    lines = [
        f"{machine()}. The {ORIGINAL_SLOW_CALLS:,} calls of the original are {MEASURED_CALLS} calls, "
        f"{ORIGINAL_SLOW_CALLS // MEASURED_CALLS} times.",
        "",
        f"| model | way | calls | batch 1 | images/s | × Diffusers | × the original, {ORIGINAL_CALLS} calls "
        f"| × the original, {ORIGINAL_SLOW_CALLS:,} calls | batch {BATCHES[1]} | images/s | × Diffusers |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for model, way, calls in dict.fromkeys(key[:3] for key in took):
        cells = [model, way, f"{calls:,}"]
        for batch in BATCHES:
            its, theirs = took.get((model, way, calls, batch)), took.get((model, "Diffusers", calls, batch))
            if its is None:
                cells += ["–"] * 3
                continue
            cells += [f"{1000 * its:.1f} ms", f"{batch / its:.2f}", f"{theirs / its:.2f}" if theirs else "–"]
            if batch == 1:
                cells += [f"{fast / its:.2f}", f"{slow / its:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(
    models: Positional[tuple[str, ...]] = (), rounds: int = 4, steps: int | None = None, json_to: Path | None = None
) -> None:
    """Measure, and print a table.

    Args:
        models: Runs, checkpoints or names; without any, the untrained network of the recipe shapes.
        rounds: Turns that each candidate takes.
        steps: Network calls to a picture; without it, as many as each model takes by default.
        json_to: Also write the numbers here.
    """
    loaded = {name: load(name) for name in models} or {"shapes, untrained": untrained()}
    rows = measure(list(candidates(loaded, steps)), rounds)
    print(table(rows))
    if json_to:
        json_to.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2))


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except UserError as error:
        sys.exit(str(error))
