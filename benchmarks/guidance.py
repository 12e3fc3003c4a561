"""Measure what each kind of guidance does to a model: python -m benchmarks.guidance MODEL [--weak MODEL]

Prints a table with a row for each kind: network calls per sample, FID, label accuracy and, for data sets of shapes, the
share of valid samples and of valid samples with the shapes of their label. All rows start from the same noise and use
the same labels. With --picture, writes a picture of these rows instead.
"""

from pathlib import Path
from typing import Any

import torch
import tyro
from tyro.conf import Positional

from shapedreamer.common.errors import exit_on_user_error
from shapedreamer.evaluation.evaluator import BATCH, Evaluation, SampleVsReal, evaluate_subject, load_subject
from shapedreamer.imaging.render import grid, labelled, save_picture
from shapedreamer.models.model import load
from shapedreamer.models.options import SampleOptions

HEAD = ("guidance", "calls", "FID", "label accuracy", "valid", "right shapes")


def kinds(weak: Path | None, interval: tuple[float, float]) -> dict[str, dict[str, Any]]:
    """The options of each row."""
    ddim: dict[str, Any] = {"sampler": "ddim", "eta": 0.0}
    rows: dict[str, dict[str, Any]] = {"none": {}}
    for scale in (2.0, 4.0):
        rows[f"{scale:g}"] = {"guidance": scale}
        rows[f"{scale:g}, interval"] = {"guidance": scale, "guidance_interval": interval}
    for scale in (1.5, 2.0) if weak else ():
        rows[f"autoguidance {scale:g}"] = {"guidance": scale, "guide_with": weak}
    rows["ddim, none"] = ddim
    rows["ddim, 2"] = ddim | {"guidance": 2.0}
    for scale in (0.3, 0.6, 1.0):
        rows[f"CFG++ {scale:g}"] = ddim | {"guidance": scale, "cfg_pp": True}
    return rows


def main(
    model: Positional[Path],
    num: int = 512,
    weak: Path | None = None,
    interval: tuple[float, float] = (-3.0, 3.0),
    only: tuple[str, ...] = (),
    data: Path | None = None,
    seed: int = 0,
    picture: Path | None = None,
) -> None:
    """Print the table as Markdown, or write the picture.

    Args:
        model: A run folder, a checkpoint file, or a shipped model.
        num: Number of samples for each row.
        weak: The weaker model of autoguidance.
        interval: Log-SNR from which and to which guidance acts, in some of the rows.
        only: The names of the rows to measure; all by default.
        data: Where the training images are now.
        seed: Determines the noise and the labels.
        picture: The picture of `num` samples in each row.
    """
    rows = {name: changes for name, changes in kinds(weak, interval).items() if not only or name in only}
    if picture:
        images = [load(model).sample(num, SampleOptions(seed=seed, **changes)) for changes in rows.values()]
        save_picture(labelled(grid(torch.cat(images), columns=num), rows=list(rows)), picture)
        return
    subject = load_subject(model, data)
    calls: list[object] = []
    weak_model = None if weak is None else subject.model.guide(weak)
    for counted in (subject.model, weak_model):
        if counted is not None:
            counted.network.register_forward_pre_hook(lambda module, inputs: calls.append(None))
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for name, changes in rows.items():
        calls.clear()
        quality, _ = evaluate_subject(subject, num, SampleOptions(seed=seed, **changes))
        print(f"| {name} | {len(calls) * BATCH / (num + -num % BATCH):g} | {_cells(quality)} |", flush=True)


def _cells(quality: Evaluation) -> str:
    shapes = quality.shapes
    measures = [quality.fid, quality.label_accuracy, None, None]
    if shapes:
        measures[2] = SampleVsReal(shapes.samples.valid, shapes.real.valid)
        measures[3] = SampleVsReal(shapes.samples.asked or 0, shapes.real.asked or 0)
    return " | ".join("–" if pair is None else f"{pair.samples:.3f} ({pair.real:.3f})" for pair in measures)


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
