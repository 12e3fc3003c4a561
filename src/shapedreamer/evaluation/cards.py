"""Add a model to the package: `python -m shapedreamer.evaluation.cards RUN NAME --about … --data … --commands … …`.

It makes the three files of a shipped model out of a run. What the card says of the quality is measured on the packed
file, in half precision as it is, and not on the run.
"""

import hashlib
import json
import re
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from tyro.conf import Positional

from ..common.errors import UserError
from ..common.files import naming_disk_errors, write_atomic
from ..imaging.render import grid, save_picture
from ..models import zoo
from ..models.checkpoint import Checkpoint, RunConfig, load_checkpoint, read_metrics, save_checkpoint
from ..models.model import find
from ..models.recipes import DrawnData, MnistData
from .table import describe

MOST, MOST_IN_ALL = 12e6, 50e6  # bytes of weights, of a model and of all as a wheel holds them
SHOWN = 64  # samples in the picture


def pack(
    run: Positional[Path],
    name: Positional[str],
    about: str,
    data: str,
    commands: tuple[str, ...],
    minutes: float,
    machine: str,
    num: int = 2000,
    epoch: int | None = None,
    path: Path | None = None,
) -> None:
    """Make a shipped model of a run: NAME.safetensors, NAME.json and NAME.png, all three or none.

    A model of that name is replaced. UserError for a name that is no file's, weights that are too large, a run or
    images that are missing.

    Args:
        run: A run folder (its best checkpoint is taken) or a checkpoint file.
        name: What to load it by.
        about: What it dreams of, in a sentence.
        data: What it was trained on, and its licence.
        commands: All that it takes to train it again, from nothing.
        minutes: That training took.
        machine: That it took them on.
        num: How many samples to measure its quality with.
        epoch: Take the checkpoint of this epoch, not the best.
        path: Where the images of the run lie by now, if not where it found them.
    """
    from ..common.progress import Progress
    from .evaluator import evaluate, subject

    if not re.fullmatch("[a-z0-9_-]+", name):
        raise UserError(f"the name {name!r} must be of small letters, digits, - and _ alone")
    checkpoint = load_checkpoint(find(run) if epoch is None else run / "checkpoints" / f"epoch-{epoch:04d}.safetensors")
    recipe = checkpoint.config.recipe
    with naming_disk_errors(zoo.WEIGHTS):
        zoo.WEIGHTS.mkdir(exist_ok=True)
        workshop = TemporaryDirectory(prefix=".", dir=zoo.WEIGHTS)  # on the same disk, so that to rename is to move
    with workshop:
        made = Path(workshop.name)
        weights = _write_weights(checkpoint, made, name)
        with Progress() as tell:
            it = subject(weights, path or getattr(recipe.data, "path", None), tell=tell)
            evaluation, evidence = evaluate(it, num)
        eta = f", eta {evaluation.eta:g}" if evaluation.eta else ""
        card = zoo.Card(
            about=about,
            data=data,
            commands=commands,
            seed=recipe.seed,
            images=checkpoint.step * recipe.batch_size,
            minutes=minutes,
            machine=machine,
            parameters=sum(parameter.numel() for parameter in it.model.network.parameters()),
            sampling=f"{evaluation.sampler}{eta}, {evaluation.steps} network calls",
            quality=asdict(replace(evaluation, model=name)),  # it has the name of a passing file
            curve=tuple(
                (record["step"] * recipe.batch_size, round(record["held_out"], 5))
                for record in read_metrics(run)
                if "held_out" in record and record["step"] <= checkpoint.step
            ),
            sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        )
        text = json.dumps(asdict(card), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(made / f"{name}.json", f"{text}\n".encode())
        save_picture(grid(evidence.samples[:SHOWN]), made / f"{name}.png")
        # a model is in the box if its weights are: they go first and come last, and never stand beside another's card
        with naming_disk_errors(zoo.WEIGHTS):
            zoo.path(name).unlink(missing_ok=True)
            for file in (f"{name}.json", f"{name}.png", weights.name):
                (made / file).replace(zoo.WEIGHTS / file)
    print(describe(name))


def _write_weights(checkpoint: Checkpoint, folder: Path, name: str) -> Path:
    """The checkpoint's averaged weights alone, in half precision; UserError if they are too large for the box."""
    ema = {key: value.half() if value.is_floating_point() else value for key, value in checkpoint.ema.items()}
    config = _from_anywhere(checkpoint.config)
    save_checkpoint(folder, name, config, checkpoint.step, {}, ema, checkpoint.best_loss, checkpoint.labels)
    weights = folder / f"{name}.safetensors"
    size = weights.stat().st_size
    if size > MOST:
        raise UserError(f"the weights of {name} are {size / 1e6:.1f} MB, and must be at most {MOST / 1e6:.0f} MB")
    total = sum(in_a_wheel(path) for path in [weights, *(zoo.path(other) for other in zoo.names() if other != name)])
    if total > MOST_IN_ALL:
        raise UserError(
            f"with {name} there would be {total / 1e6:.1f} MB of weights in the package, "
            f"and there must be at most {MOST_IN_ALL / 1e6:.0f} MB"
        )
    return weights


def in_a_wheel(path: Path) -> int:
    """Bytes of a file when it is compressed, as it is in the package that people download."""
    return len(zlib.compress(path.read_bytes()))


def _from_anywhere(config: RunConfig) -> RunConfig:
    """The configuration with images that are downloaded or, where a path must be said, with the name of their data."""
    data = config.recipe.data
    if isinstance(data, MnistData):
        data = replace(data, path=None)
    elif not isinstance(data, DrawnData):
        data = replace(data, path=config.data.name)
    return replace(config, recipe=replace(config.recipe, data=data))


if __name__ == "__main__":
    try:
        tyro.cli(pack, prog="python -m shapedreamer.evaluation.cards")
    except UserError as error:
        sys.exit(f"error: {error}")
