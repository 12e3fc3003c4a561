"""Measure training beside other busy programs: python -m benchmarks.neighbours

Trains the network of `shapes` while 0, 1 and 2 other processes keep a core busy each, and prints images per second:
with PyTorch's threads, which share every operation, and with those of networks/threads.py, which share the batch. The
fair share of the training is cores / (cores + neighbours) of its speed on an idle machine.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import tyro

from shapedreamer.common.device import autocast
from shapedreamer.models.recipes import shapes
from shapedreamer.networks.threads import in_shares
from shapedreamer.training.optim import make_optimizers

from .throughput import machine

MEASURE = "import sys; from benchmarks.neighbours import images_per_second as f; print(f(*sys.argv[1:]))"


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Run `count` processes that keep a core busy each."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def images_per_second(shared: str, images: str, seconds: str) -> float:
    """The training speed of `shapes` on the CPU, with `images` in a step; shared: "operations" or "batches"."""
    recipe, device = shapes(), torch.device("cpu")
    network: Any = recipe.make_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    predict = partial(in_shares, network) if shared == "batches" else network
    optimizers = make_optimizers(network, recipe.optimizer, recipe.lr, recipe.weight_decay)
    x, t = torch.randn(int(images), 1, 32, 32), torch.arange(int(images))
    steps, start = -2, 0.0  # the first two warm up
    while steps < 1 or time.perf_counter() - start < float(seconds):
        if steps == 0:
            start = time.perf_counter()
        with autocast(device):
            loss = predict(x, t).float().square().mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        steps += 1
    return steps * len(x) / (time.perf_counter() - start)


def main(seconds: float = 15.0, images: int = 64, rounds: int = 2, max_neighbours: int = 2) -> None:
    """Print a table.

    Args:
        seconds: Time of each measurement.
        images: Images in a step.
        rounds: How often each is measured; the best counts.
        max_neighbours: The largest number of busy programs.
    """
    print(machine())
    cores = len(os.sched_getaffinity(0))
    speeds: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        for count in range(max_neighbours + 1):
            for shared in ("operations", "batches"):
                command = [sys.executable, "-c", MEASURE, shared, str(images), str(seconds)]
                with neighbours(count):
                    speed = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
                speeds[shared, count] = max(speeds.get((shared, count), 0), speed)
    columns = ["neighbours"]
    for shared in ("operations", "batches"):
        columns += [f"threads share {shared}: images/s", "of the fair share"]
    print(f"| {' | '.join(columns)} |")
    print("|" + "---|" * len(columns))
    for count in range(max_neighbours + 1):
        cells = []
        for shared in ("operations", "batches"):
            fair = max(speeds[way, 0] for way in ("operations", "batches")) * cores / (cores + count)
            cells += [f"{speeds[shared, count]:.1f}", f"{speeds[shared, count] / fair:.0%}"]
        print(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    tyro.cli(main)
