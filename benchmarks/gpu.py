"""Speed, time to quality and tests on a GPU: python -m benchmarks.gpu

Prints a report in Markdown: (1) the speed of training steps and network calls of the recipe `shapes`, and after how
many calls torch.compile has paid off; (2) the speed of `train` and of sampling, and how long to train until a share of
the samples are valid; (3) the result of the tests that need CUDA. Without CUDA it exits with code 2.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import nn

from shapedreamer.common.device import pick_device
from shapedreamer.common.errors import exit_on_user_error
from shapedreamer.diffusion.loss import denoising_loss
from shapedreamer.evaluation.evaluator import evaluate
from shapedreamer.models.recipes import get_recipe, with_overrides
from shapedreamer.training.loop import train
from shapedreamer.training.optim import make_optimizers

from . import speedrun
from .throughput import machine, seconds

RECIPE = get_recipe("shapes")
BATCHES = (32, 256)
ROUNDS = 30
EPOCHS = 4  # of each run
BACKEND = "inductor"  # of torch.compile
TESTS = ("tests/common/test_noise.py", "tests/training/test_cuda.py")
Call = Callable[[], object]


def main(device: Literal["cuda", "cpu"] = "cuda", minutes: float = 3.5, goal: float = 0.75, num: int = 512) -> None:
    """Measure a GPU, and print a report in Markdown.

    Args:
        device: Where to compute.
        minutes: Training time, of all runs together. Compiling, evaluating and tests come on top.
        goal: Share of valid samples at which to stop.
        num: Number of samples to judge a run by.
    """
    start = time.perf_counter()
    with exit_on_user_error():
        torch_device = pick_device(device)
        for part in (header(torch_device), speed(torch_device), quality(device, minutes, goal, num)):
            for line in part:
                print(line, flush=True)
        passed = run_tests()
        print(f"\nTook {(time.perf_counter() - start) / 60:.1f} minutes.")
    sys.exit(not passed)


def header(device: torch.device) -> Iterator[str]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else machine()
    yield f"# {name}\n\ntorch {torch.__version__}. Medians of {ROUNDS} calls; float32 has TF32 convolutions.\n"


def speed(device: torch.device) -> Iterator[str]:
    """A table of images per second. torch.compile pays after as many calls as make up for its compile time."""
    yield "| images/s | batch | float32 | bfloat16 | bfloat16, compiled | compile time | pays after |"
    yield f"|{'---|' * 7}"
    for name, make_call in (("training step", training_step), ("call of the network", network_call)):
        for batch in BATCHES:
            times = {}
            for column in ("float32", "bfloat16", "compiled"):
                network: Any = RECIPE.make_network()
                network = network.to(device, memory_format=torch.channels_last)
                forward = torch.compile(network, dynamic=False, backend=BACKEND) if column == "compiled" else network
                context = partial(torch.autocast, device.type, torch.bfloat16, enabled=column != "float32")
                call = make_call(network, forward, batch, device, context)
                first = seconds(call)
                times[column] = statistics.median(seconds(call) for _ in range(ROUNDS))
            gain = times["bfloat16"] - times["compiled"]
            pays = f"{(first - times['compiled']) / gain:,.0f} calls" if gain > 0 else "never"
            cells = " | ".join(f"{batch / duration:,.0f}" for duration in times.values())
            yield f"| {name} | {batch} | {cells} | {first:.0f} s | {pays} |"


def training_step(network: nn.Module, forward: Any, batch: int, device: torch.device, context: Any) -> Call:
    """A step as `train` does it, from images that are on the device already."""
    optimizers = make_optimizers(network, RECIPE.optimizer, RECIPE.lr, RECIPE.weight_decay)
    schedule = RECIPE.make_schedule()
    x0, t = RECIPE.make_data()[0].batch(torch.arange(batch))[0].to(device), torch.ones(batch, device=device).long()
    x0, eps = (x.contiguous(memory_format=torch.channels_last) for x in (x0, torch.randn_like(x0)))

    def step() -> None:
        with context():
            loss = denoising_loss(forward, x0, t, eps, schedule, RECIPE.prediction).mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step


def network_call(network: nn.Module, forward: Any, batch: int, device: torch.device, context: Any) -> Call:
    x = torch.randn_like(RECIPE.make_data()[0].batch(torch.arange(batch))[0]).to(device)
    x, t = x.contiguous(memory_format=torch.channels_last), torch.ones(batch, device=device).long()

    @torch.inference_mode()
    def call() -> None:
        with context():
            forward(x, t)

    return call


def quality(device: Literal["cuda", "cpu"], minutes: float, goal: float, num: int) -> Iterator[str]:
    """A table of runs, each twice as long as the one before, until the goal is reached or the time is up."""
    rate = speedrun.images_per_second(RECIPE, device)
    yield f"\n`train` processes {rate:,.0f} images/s, with data, checkpoints and logs.\n"
    yield f"| minutes of training | images | valid | exact | sampling, images/s |\n{'|---' * 5}|"
    for part in (1, 2, 4):
        samples = max(num, int(60 * minutes * part / 7 * rate / EPOCHS))
        with tempfile.TemporaryDirectory() as out:
            recipe = with_overrides(RECIPE, samples=samples, epochs=EPOCHS)
            start = time.perf_counter()
            train(recipe, out, device=device, save_every=0, sample_every=0)
            elapsed = (time.perf_counter() - start) / 60
            result = evaluate(out, num, device=device)
        assert result.shapes is not None
        valid, exact = result.shapes.samples.valid, result.shapes.samples.exact
        yield f"| {elapsed:.2f} | {EPOCHS * samples:,} | {valid:.1%} | {exact:.1%} | {num / result.seconds:,.0f} |"
        if valid >= goal:
            yield f"\n{goal:.0%} valid samples take {elapsed:.2f} minutes or less."
            return
    yield f"\n{goal:.0%} valid samples take longer than this."


def run_tests() -> bool:
    """Run the tests that need CUDA, and print their summary."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-k", "gpu", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    print(f"\nTests that need CUDA: {(done.stdout.splitlines() or ['none'])[-1]}")
    print(done.stdout + done.stderr if done.returncode else "", file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    tyro.cli(main)
