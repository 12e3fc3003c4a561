"""Add a model to the package: `python -m shapedreamer.evaluation.cards RUN NAME --about … --data … --commands … …`.

It turns a run into the three files of a shipped model: weights, model card and a picture of samples. The quality on the
card is measured with the rounded weights that are shipped, not with the run.
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
from torch import Tensor
from tyro.conf import Positional

from ..common.errors import UserError
from ..common.files import naming_disk_errors, write_atomic
from ..imaging.render import grid, save_picture
from ..models import zoo
from ..models.checkpoint import Checkpoint, RunConfig, load_checkpoint, read_metrics, save_checkpoint
from ..models.eight_bits import to_eight_bits
from ..models.model import find_checkpoint
from ..models.recipes import DrawnData, MnistData, UNetConfig
from .table import describe

MAX_BYTES = 12e6  # weights of one model
MAX_TOTAL_BYTES = 50e6  # weights of all models, compressed as in a wheel
MAX_SHARPEN = 1.5  # more would also decide pixels that are really grey
GRID_IMAGES = 64  # samples in the picture


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
    sharpen: float = 1.0,
    images_before: int = 0,
) -> None:
    """Turn a run into a shipped model: NAME.safetensors, NAME.json and NAME.png. Writes all three files or none.

    An existing model of that name is replaced. UserError for an invalid name, weights that are too large, or if the run
    or its training images are missing.

    Args:
        run: A run folder (its best checkpoint is used) or a checkpoint file.
        name: The name of the model, for shapedreamer.load.
        about: What it generates, in a sentence.
        data: What it was trained on, and the licence of the data.
        commands: The commands that train it again from scratch.
        minutes: Training time.
        machine: The machine that it was trained on.
        num: Number of samples to measure its quality with.
        epoch: Use the checkpoint of this epoch instead of the best one.
        path: Where the training images are now, if they were moved.
        sharpen: Factor of the network's output, for few-step models of black and white images: pixels that are nearly
            black or white become so when x̂₀ is clipped. 1 changes nothing.
        images_before: Images that the run's --start-from was trained on.
    """
    from ..common.progress import Progress
    from .evaluator import evaluate_subject, load_subject

    if not re.fullmatch("[a-z0-9_-]+", name):
        raise UserError(f"the name {name!r} is not valid: use only lowercase letters, digits, - and _")
    checkpoint = load_checkpoint(
        find_checkpoint(run) if epoch is None else run / "checkpoints" / f"epoch-{epoch:04d}.safetensors"
    )
    recipe = checkpoint.config.recipe
    if sharpen != 1:
        checkpoint = replace(checkpoint, ema=_scale_output(checkpoint, sharpen))
    with naming_disk_errors(zoo.WEIGHTS):
        zoo.WEIGHTS.mkdir(exist_ok=True)
        # on the same disk as zoo.WEIGHTS, so that the files can be renamed into it
        temporary = TemporaryDirectory(prefix=".", dir=zoo.WEIGHTS)
    with temporary:
        folder = Path(temporary.name)
        weights = _write_weights(checkpoint, folder, name)
        with Progress() as report:
            subject = load_subject(weights, path or getattr(recipe.data, "path", None), report=report)
            evaluation, evidence = evaluate_subject(subject, num)
        eta = f", eta {evaluation.eta:g}" if evaluation.eta else ""
        card = zoo.Card(
            about=about,
            data=data,
            commands=commands,
            seed=recipe.seed,
            images=images_before + checkpoint.step * recipe.batch_size,
            minutes=minutes,
            machine=machine,
            parameters=sum(parameter.numel() for parameter in subject.model.network.parameters()),
            sampling=f"{evaluation.sampler}{eta}, {evaluation.steps} network calls",
            quality=asdict(replace(evaluation, model=name)),  # not the name of the temporary file
            curve=tuple(
                (images_before + record["step"] * recipe.batch_size, round(record["held_out"], 5))
                for record in read_metrics(run)
                if "held_out" in record and record["step"] <= checkpoint.step
            ),
            sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        )
        text = json.dumps(asdict(card), indent=2, ensure_ascii=False, allow_nan=False)
        write_atomic(folder / f"{name}.json", f"{text}\n".encode())
        save_picture(grid(evidence.samples[:GRID_IMAGES]), folder / f"{name}.png")
        # A model exists if its weight file does. So delete the old weights first and add the new ones last: a crash
        # never leaves weights next to the card of other weights.
        with naming_disk_errors(zoo.WEIGHTS):
            zoo.path(name).unlink(missing_ok=True)
            for file in (f"{name}.json", f"{name}.png", weights.name):
                (folder / file).replace(zoo.WEIGHTS / file)
    print(describe(name))


def _write_weights(checkpoint: Checkpoint, folder: Path, name: str) -> Path:
    """Write a checkpoint with averaged weights only, in half precision, or if that is too large in 8 bits.

    UserError if it is too large to ship in 8 bits too.
    """
    config = _without_local_paths(checkpoint.config)
    weights = folder / f"{name}.safetensors"
    others = sum(compressed_size(zoo.path(other)) for other in zoo.names() if other != name)
    for compress in (_to_half, to_eight_bits):
        ema = compress(checkpoint.ema)
        save_checkpoint(folder, name, config, checkpoint.step, {}, ema, checkpoint.best_loss, checkpoint.labels)
        size, total = weights.stat().st_size, others + compressed_size(weights)
        if size <= MAX_BYTES and total <= MAX_TOTAL_BYTES:
            return weights
    if size > MAX_BYTES:
        raise UserError(f"the weights of {name} take {size / 1e6:.1f} MB; the maximum is {MAX_BYTES / 1e6:.0f} MB")
    raise UserError(
        f"with {name}, the weights in the package would take {total / 1e6:.1f} MB; "
        f"the maximum is {MAX_TOTAL_BYTES / 1e6:.0f} MB"
    )


def _scale_output(checkpoint: Checkpoint, factor: float) -> dict[str, Tensor]:
    """The averaged weights of a network whose output is `factor` times that of the checkpoint's.

    A PixelHead adds its output to that of the U-Net, which it also sees. So both are scaled, and what it sees is scaled
    back. UserError unless the network is a U-Net that predicts x̂₀.
    """
    recipe, weights = checkpoint.config.recipe, dict(checkpoint.ema)
    if recipe.prediction != "x0" or not isinstance(recipe.network, UNetConfig):
        raise UserError("only a U-Net that predicts x0 can be sharpened: leave out sharpen")
    if not 1 < factor <= MAX_SHARPEN:
        raise UserError(f"sharpen must be between 1 and {MAX_SHARPEN}, not {factor:g}")
    for layer in ("conv_out", "head.conv_out") if recipe.network.head else ("conv_out",):
        for key in (f"{layer}.weight", f"{layer}.bias"):
            weights[key] = weights[key] * factor
    if recipe.network.head:
        seen = weights["head.conv_in.weight"].clone()
        seen[:, recipe.network.in_channels :] /= factor
        weights["head.conv_in.weight"] = seen
    return weights


def _to_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def compressed_size(path: Path) -> int:
    """The size of a file in bytes when compressed, as in the wheel that users download."""
    return len(zlib.compress(path.read_bytes()))


def _without_local_paths(config: RunConfig) -> RunConfig:
    """The configuration without paths of this machine: downloaded data, or else the data set's name as the path."""
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
