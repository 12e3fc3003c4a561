"""What a training run reports: progress on the screen, metrics.jsonl, TensorBoard, sample grids and plots."""

import json
import math
import sys
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from ..common.errors import UserError, require
from ..common.files import naming_disk_errors, write_atomic
from ..common.progress import SECONDS_BETWEEN_LINES, clock, time_left
from ..imaging import render
from ..models.checkpoint import read_metrics
from ..models.recipes import Recipe

PREVIEW_COLUMNS = 4  # for each kind of weights; the number of preview images is a multiple


class RunLog:
    """The log of one session of a run, which starts (or resumes) at step `start`, in the run's folder.

    metrics.jsonl holds only what the recipe determines, so that the file of a resumed run equals that of an
    uninterrupted one, bit for bit: {"step", "epoch", "loss", "lr"} for every step, and {"step", "epoch", "held_out",
    "by_time"} for every epoch. Speed goes to the screen and to TensorBoard. Without the extra `track` there are no
    TensorBoard files and no plots.

    baseline: name and value of a loss to compare with, such as the loss of predicting zero
    """

    def __init__(
        self, out: Path, recipe: Recipe, start: int, baseline: tuple[str, float], max_minutes: float | None
    ) -> None:
        self.out, self.recipe, self.start, self.baseline = out, recipe, start, baseline
        self.max_seconds = math.inf if max_minutes is None else max_minutes * 60
        records = [r for r in read_metrics(out) if r["step"] <= start]
        write_atomic(out / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records).encode())
        self.held_out = [r for r in records if "held_out" in r]
        self.losses: deque[float] = deque((r["loss"] for r in records if "loss" in r), maxlen=100)
        with naming_disk_errors(out / "metrics.jsonl"):
            self.file = (out / "metrics.jsonl").open("a")
        self.console = Console(file=sys.stderr, soft_wrap=True)
        try:
            tensorboard = require("torch.utils.tensorboard", "track")
            self.board: Any = tensorboard.SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)
        except UserError as error:
            self.board = None
            self.say(f"no TensorBoard and no plots: {error}")
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(
            "", total=recipe.steps, completed=start, epoch=1, epochs=recipe.epochs, state=""
        )
        self.began = self.last_line = time.monotonic()

    def __enter__(self) -> "RunLog":
        self.progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.progress.stop()
        self.file.close()
        if self.board is not None:
            self.board.close()

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False)

    def step(self, step: int, loss: float, lr: float) -> None:
        """After optimizer step number `step` (the first is 1)."""
        epoch = (step - 1) // self.recipe.steps_per_epoch + 1
        self._record({"step": step, "epoch": epoch, "loss": loss, "lr": lr})
        self.losses.append(loss)
        elapsed = time.monotonic() - self.began
        speed = (step - self.start) * self.recipe.batch_size / elapsed
        left = time_left(elapsed, step - self.start, self.recipe.steps - self.start)
        left = min(left, max(self.max_seconds - elapsed, 0))
        mean = sum(self.losses) / len(self.losses)
        state = f"loss {mean:.4f} ({self.baseline[0]}: {self.baseline[1]:.2f})  {speed:.0f} img/s  {clock(left)} left"
        self.progress.update(self.task, completed=step, epoch=epoch, state=state)
        if not self.console.is_terminal and time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            self.say(f"epoch {epoch}/{self.recipe.epochs}  step {step}/{self.recipe.steps}  {state}")
        if self.board is not None:
            self.board.add_scalar("loss/train", loss, step)
            self.board.add_scalar("speed/images_per_second", speed, step)

    def out_of_time(self) -> bool:
        return time.monotonic() - self.began >= self.max_seconds

    def epoch(self, step: int, loss: float, by_time: list[tuple[float, float]]) -> None:
        """After an epoch: the held-out loss of the averaged weights, and its mean in ten ranges of t as (t, loss)."""
        epoch = step // self.recipe.steps_per_epoch
        record = {"step": step, "epoch": epoch, "held_out": loss, "by_time": by_time}
        self._record(record)
        self.held_out.append(record)
        if self.board is not None:
            self.board.add_scalar("loss/held_out", loss, step)
            for t, value in by_time:
                self.board.add_scalar(f"loss_by_time/t{round(t):04d}", value, step)

    def samples(self, step: int, raw: Tensor, ema: Tensor) -> None:
        """A grid of samples from the same noise, with raw weights on the left and averaged weights on the right."""
        epoch = step // self.recipe.steps_per_epoch
        rows = torch.cat([raw.unflatten(0, (-1, PREVIEW_COLUMNS)), ema.unflatten(0, (-1, PREVIEW_COLUMNS))], dim=1)
        both = render.grid(rows.flatten(0, 1), columns=2 * PREVIEW_COLUMNS)
        picture = render.labelled(both, ["raw weights", "averaged weights (EMA)"])
        render.save_picture(picture, self.out / "samples" / f"epoch-{epoch:04d}.png")
        if self.board is not None:
            self.board.add_image("samples", torch.from_numpy(_rgb(picture)), step, dataformats="HWC")

    def plots(self) -> None:
        """loss.png and loss_by_time.png, from all records so far."""
        if self.board is None:
            return
        self.file.flush()
        steps = [r for r in read_metrics(self.out) if "loss" in r]
        window = max(1, len(steps) // 200)
        chunks = [steps[i : i + window] for i in range(0, len(steps), window)]
        lines = {
            "training": ([c[-1]["step"] for c in chunks], [sum(r["loss"] for r in c) / len(c) for c in chunks]),
            self.baseline[0]: ([0, steps[-1]["step"] if steps else 1], 2 * [self.baseline[1]]),
        }
        if self.held_out:
            held_out = [r["step"] for r in self.held_out], [r["held_out"] for r in self.held_out]
            lines["held out (averaged weights)"] = held_out
        render.plot_lines(self.out / "loss.png", lines, "step", "loss", f"{self.recipe.name}: loss", log_y=True)
        if not self.held_out:
            return
        shown = self.held_out[:: max(1, len(self.held_out) // 4)]
        by_time = {
            f"epoch {r['epoch']}": ([t for t, _ in r["by_time"]], [loss for _, loss in r["by_time"]])
            for r in {r["epoch"]: r for r in [*shown, *self.held_out[-1:]]}.values()
        }
        title = f"{self.recipe.name}: held-out loss by noise level"
        render.plot_lines(self.out / "loss_by_time.png", by_time, "t (0 clean … T noise)", "loss", title, log_y=True)

    def _record(self, record: dict[str, Any]) -> None:
        with naming_disk_errors(self.out / "metrics.jsonl"):
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()


def _rgb(picture: Any) -> Any:
    import numpy as np

    return np.asarray(picture.convert("RGB")).copy()
