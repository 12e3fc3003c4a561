"""How good is a model after M minutes of training from scratch? python -m benchmarks.speedrun RECIPE --minutes M

A trial of half a minute measures the training speed. Then one run trains on as many images as fit into M minutes, in
EPOCHS epochs; its time includes loading data, checkpoints and logs. Afterwards `shapedreamer.evaluate` scores the
averaged weights of each epoch, with the recipe's default sampling; that time does not count. The last line printed is a
row for the table of records in benchmarks/EXPERIMENTS.md, which states the rules.
"""

import ast
import datetime
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from shapedreamer.common.names import DeviceName, NetworkName, RecipeName
from shapedreamer.common.progress import Progress
from shapedreamer.evaluation.evaluator import Evaluation, evaluate
from shapedreamer.imaging.comparison import stored_epochs
from shapedreamer.models.checkpoint import read_metrics
from shapedreamer.models.recipes import Recipe, get_recipe, with_overrides
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
    network: NetworkName | None = None,
    changes: tuple[str, ...] = (),
) -> None:
    """Train for the given time, and print the scores after each epoch.

    Args:
        recipe: What to train.
        minutes: Training time.
        num: Number of samples for each score.
        out: Run folder.
        data: Where the images are, as for `shapedreamer train`.
        network: As for `shapedreamer train`; changes apply to it.
        changes: Fields of the recipe to change, as field=value: batch_size=64 prediction=\"v\" network.blocks=2.
    """
    settings = with_changes(get_recipe(recipe, data=data, network=network), changes)
    samples = int(60 * minutes * images_per_second(settings) / EPOCHS)
    start = time.perf_counter()
    train(with_overrides(settings, samples=samples, epochs=EPOCHS), out, save_every=1, sample_every=0)
    elapsed = (time.perf_counter() - start) / 60
    print(f"{recipe} {settings.network.kind} {' '.join(changes)}\n{machine()}")
    print(f"{EPOCHS * samples} images in {elapsed:.1f} minutes")
    losses = {record["epoch"]: record["held_out"] for record in read_metrics(out) if "held_out" in record}
    for epoch, checkpoint in stored_epochs(out).items():
        if epoch:
            quality = judge(checkpoint, num, data)
            print(f"{elapsed * epoch / EPOCHS:5.1f} min  held-out loss {losses[epoch]:.4f}  {describe(quality)}")
    print(record(quality, " ".join((settings.network.kind, *changes)), EPOCHS * samples, elapsed))


def with_changes(recipe: Recipe, changes: tuple[str, ...]) -> Recipe:
    """The recipe with some fields replaced. A dot addresses a nested field: "network.blocks=2"."""
    for change in changes:
        path, _, value = change.partition("=")
        *parts, field = path.split(".")
        recipe = _replaced(recipe, parts, field, ast.literal_eval(value))
    return recipe


def images_per_second(recipe: Recipe, device: DeviceName = "auto") -> float:
    """The training speed on this machine, measured by a short run in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        long = with_overrides(recipe, samples=100_000)
        train(long, folder, max_minutes=TRIAL_MINUTES, save_every=0, sample_every=0, device=device)
        steps = sum("loss" in record for record in read_metrics(Path(folder)))
    return steps * recipe.batch_size / (60 * TRIAL_MINUTES)


def judge(checkpoint: Path, num: int, data: str | None) -> Evaluation:
    """All measures of a checkpoint, with the recipe's default sampling."""
    with Progress() as report:
        return evaluate(checkpoint, num, data=data, report=report)


def describe(quality: Evaluation) -> str:
    """The main measures in one line, with [95% intervals] and (those of real images).

    A line for each kind of shape follows, if the data set draws shapes.
    """
    line = f"FID {quality.fid.samples:.3f}, {quality.fid.samples / quality.fid.real:.1f} × real"
    if quality.label_accuracy:
        line += f"  label accuracy {quality.label_accuracy.samples:.3f} ({quality.label_accuracy.real:.3f})"
    if quality.shapes:
        samples, real = quality.shapes.samples, quality.shapes.real
        for name in ("valid", "intact", "exact", "asked", "crisp", "white"):
            value, of_real = getattr(samples, name), getattr(real, name)
            if value is not None:
                low, high = (samples.intervals or {})[name]
                line += f"  {name} {value:.3f} [{low:.3f}, {high:.3f}] ({of_real:.3f})"
        for name, kind in (samples.by_kind or {}).items():
            line += f"\n{name:>20} valid {_share(kind.valid)}  intact {_share(kind.intact)}"
            line += (
                f"  of the shapes {_share((samples.kinds or {}).get(name))} ({_share((real.kinds or {}).get(name))})"
            )
    return line


def record(quality: Evaluation, settings: str, images: int, minutes: float) -> str:
    """A row of the table of records in EXPERIMENTS.md, which has the columns in this order."""
    shapes = quality.shapes and quality.shapes.samples
    shares = [_share(getattr(shapes, name, None)) for name in ("exact", "asked", "intact", "valid", "crisp")]
    accuracy = _share(quality.label_accuracy.samples if quality.label_accuracy else None)
    distance = f"{quality.fid.samples / quality.fid.real:.1f}"
    today = datetime.date.today().isoformat()
    cells = [quality.data, today, settings, machine(), f"{minutes:.1f}", f"{images:,}", f"{quality.num:,}"]
    return " | ".join(["", *cells, *shares, accuracy, distance, ""]).strip()


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _replaced(config: Any, parts: list[str], field: str, value: Any) -> Any:
    """A copy of a dataclass with one nested field replaced."""
    if not parts:
        return replace(config, **{field: value})
    return replace(config, **{parts[0]: _replaced(getattr(config, parts[0]), parts[1:], field, value)})


if __name__ == "__main__":
    tyro.cli(main)
