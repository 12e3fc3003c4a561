"""How good can a model be after M minutes, from nothing? `python -m benchmarks.speedrun RECIPE --minutes M`

First the speed of training is measured, for half a minute; then as many images are trained on as fit into the minutes,
in EPOCHS parts, with all that belongs to a run: data, checkpoints, logs. When that is over, the averaged weights of
each part are scored, which costs no minutes, by `shapedreamer evaluate`, with the network calls that the recipe says.
What was tried, and what it gave, stands in benchmarks/SPEEDRUN.md.
"""

import ast
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from shapedreamer.common.names import RecipeName
from shapedreamer.common.progress import Progress
from shapedreamer.evaluation.evaluator import evaluate, subject
from shapedreamer.imaging.compare import stored_epochs
from shapedreamer.models.checkpoint import read_metrics
from shapedreamer.models.recipes import Recipe, change, named
from shapedreamer.training.loop import train

from .throughput import machine

EPOCHS = 4
TRIAL_MINUTES = 0.5


def main(
    recipe: Positional[RecipeName],
    minutes: float = 10.0,
    num: int = 512,
    out: Path = Path("runs/speedrun"),
    data: str | None = None,
    changes: tuple[str, ...] = (),
) -> None:
    """Args:
    recipe: What to train.
    minutes: Of training.
    num: Samples of each score.
    out: Folder of the run.
    data: Where its images lie, as for `shapedreamer train`.
    changes: Fields of the recipe to change, as field=value: batch_size=64 prediction=\"v\" network.blocks=2.
    """
    tried = changed(named(recipe, data=data), changes)
    speed = images_a_second(tried)
    samples = int(60 * minutes * speed / EPOCHS)
    begin = time.perf_counter()
    train(change(tried, samples=samples, epochs=EPOCHS), out, save_every=1, sample_every=0)
    took = (time.perf_counter() - begin) / 60
    print(f"{recipe} {' '.join(changes)}\n{machine()}\n{EPOCHS * samples} images in {took:.1f} minutes")
    losses = {record["epoch"]: record["held_out"] for record in read_metrics(out) if "held_out" in record}
    for epoch, checkpoint in stored_epochs(out).items():
        if epoch:
            print(
                f"{took * epoch / EPOCHS:5.1f} min  held-out loss {losses[epoch]:.4f}  {score(checkpoint, num, data)}"
            )


def changed(recipe: Recipe, changes: tuple[str, ...]) -> Recipe:
    """The recipe with fields replaced, those of its parts by a dot: "network.blocks=2"."""
    for text in changes:
        place, _, value = text.partition("=")
        *parts, field = place.split(".")
        recipe = _replaced(recipe, parts, field, ast.literal_eval(value))
    return recipe


def images_a_second(recipe: Recipe) -> float:
    """How fast this machine trains it, by a run that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        train(change(recipe, samples=100_000), folder, max_minutes=TRIAL_MINUTES, save_every=0)
        steps = sum("loss" in record for record in read_metrics(Path(folder)))
    return steps * recipe.batch_size / (60 * TRIAL_MINUTES)


def score(checkpoint: Path, num: int, data: str | None) -> str:
    """What evaluate says, in a line."""
    with Progress() as tell:
        quality, _ = evaluate(subject(checkpoint, data, tell=tell), num)
    line = f"FID {quality.fid.samples:.3f}, {quality.fid.samples / quality.fid.real:.1f} times the real one"
    if quality.label_accuracy:
        line += f"  labels {quality.label_accuracy.samples:.3f} ({quality.label_accuracy.real:.3f})"
    if quality.shapes:
        samples, real = quality.shapes.samples, quality.shapes.real
        line += f"  valid {samples.valid:.3f} ({real.valid:.3f})  exact {samples.exact:.3f} ({real.exact:.3f})"
        line += f"  crisp {samples.crisp:.3f} ({real.crisp:.3f})  area {samples.white:.3f} ({real.white:.3f})"
    return line


def _replaced(thing: Any, parts: list[str], field: str, value: Any) -> Any:
    if not parts:
        return replace(thing, **{field: value})
    return replace(thing, **{parts[0]: _replaced(getattr(thing, parts[0]), parts[1:], field, value)})


if __name__ == "__main__":
    tyro.cli(main)
