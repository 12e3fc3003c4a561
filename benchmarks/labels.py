"""Do samples show what their label asked for? `python -m benchmarks.labels RUN [--num 2000] [--guidance 1 2]`

A small classifier is trained on the real images of the run's data set, tried on its held-out ones, and then asked what
it sees in the samples: as many of each label, from the averaged weights.
"""

import time
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

from shapedreamer import load
from shapedreamer.checkpoint import read_config
from shapedreamer.evaluate.classifier import recognised, train_classifier
from shapedreamer.names import SamplerName


def main(
    run: Positional[Path],
    num: int = 2000,
    sampler: SamplerName = "ddim",
    steps: int = 20,
    guidance: tuple[float, ...] = (1.0, 2.0),
    seed: int = 0,
) -> None:
    data, held_out = read_config(run).recipe.make_data()
    names = data.spec.labels
    start = time.perf_counter()
    classifier = train_classifier(data)
    print(f"classifier trained on {len(data)} real images of {data.spec.name} in {time.perf_counter() - start:.0f} s")
    images, labels = held_out.batch(torch.arange(len(held_out)))
    report(names, f"{len(images)} held-out real images", recognised(classifier, images, labels))

    model = load(run)
    labels = torch.eye(len(names)).repeat_interleave(num // len(names), dim=0)
    for scale in guidance:
        start = time.perf_counter()
        samples = model.sample(len(labels), sampler=sampler, steps=steps, seed=seed, label=labels, guidance=scale)
        what = f"{len(samples)} samples, {sampler}, {steps} steps, guidance {scale:g}, seed {seed}"
        what += f" ({time.perf_counter() - start:.0f} s)"
        report(names, what, recognised(classifier, samples, labels))


def report(names: tuple[str, ...], what: str, share: torch.Tensor) -> None:
    each = ", ".join(f"{name} {100 * s:.1f}" for name, s in zip(names, share.tolist(), strict=True))
    print(f"{what}: {100 * share.mean():.2f}% recognised ({each})")


if __name__ == "__main__":
    tyro.cli(main)
