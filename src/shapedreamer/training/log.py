"""What a training run reports: progress on the screen, metrics.jsonl, TensorBoard, sample grids and plots."""

import contextlib
import json
import math
import shutil
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from ..common.errors import UserError, require
from ..common.files import naming_disk_errors, write_atomic
from ..common.notebook import log_console
from ..common.progress import SECONDS_BETWEEN_LINES, clock, time_left
from ..common.values import as_float
from ..imaging import render
from ..models.metrics import describe_damage, parse_metrics, read_metrics
from ..models.recipes import Recipe
from .board import Board

PREVIEW_COLUMNS = 4  # for each kind of weights; the number of preview images is a multiple


def check_minutes(max_minutes: float | None) -> float | None:
    """A time limit as a plain float; None for no limit. UserError if it is negative or not a number."""
    return None if max_minutes is None else as_float("max_minutes", max_minutes, 0, finite=False)


class SilentLog(AbstractContextManager["SilentLog"]):
    """The log of every process but process 0: it writes nothing, and process 0 keeps the time."""

    def __exit__(self, *error: object) -> None: ...

    def say(self, text: str) -> None: ...

    def step(self, step: int, loss: float, lr: float) -> None: ...

    def plots(self) -> None: ...

    def out_of_time(self) -> bool:
        return False


class RunLog:
    """The log of one session of a run, which starts (or resumes) at step `start`, in the run's folder.

    metrics.jsonl holds only what the recipe determines, so that the file of a resumed run equals that of an
    uninterrupted one, bit for bit: {"step", "epoch", "loss", "lr"} for every step, and {"step", "epoch", "held_out",
    "by_time"} for every epoch. Speed goes to the screen and to TensorBoard. Without the extra `track` there are no
    TensorBoard files and no plots. If TensorBoard, a plot or a sample grid fails, a note says so once, and the training
    goes on.

    A metrics.jsonl with damaged lines is kept as metrics.damaged.jsonl, and the run goes on with the other lines.

    baseline: name and value of a loss to compare with, such as the loss of predicting zero
    """

    def __init__(
        self, out: Path, recipe: Recipe, start: int, baseline: tuple[str, float], max_minutes: float | None
    ) -> None:
        self.out, self.recipe, self.start, self.baseline = out, recipe, start, baseline
        self.max_seconds = math.inf if max_minutes is None else max_minutes * 60
        self.console = log_console()
        self.failed: set[str] = set()
        records = [r for r in self._metrics() if r["step"] <= start]
        write_atomic(out / "metrics.jsonl", "".join(json.dumps(r) + "\n" for r in records).encode())
        self.held_out = [r for r in records if "held_out" in r]
        self.losses: deque[float] = deque((r["loss"] for r in records if "loss" in r), maxlen=100)
        with naming_disk_errors(out / "metrics.jsonl"):
            self.file = (out / "metrics.jsonl").open("a")
        self.board: Board | None = None
        try:
            require("torch.utils.tensorboard", "track")
        except UserError as error:
            self.say(f"no TensorBoard and no plots: {error}")
        else:
            with self._surviving("TensorBoard"):
                self.board = Board(out / "tensorboard", purge_step=start + 1)
        self.plotting = self.board is not None or "TensorBoard" in self.failed
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
        with self._surviving("TensorBoard"):
            if self.board is not None:
                self.board.close()

    def say(self, text: str) -> None:
        """Print a line on stderr. A closed or full stderr does not end a training."""
        with contextlib.suppress(OSError, SystemExit):  # rich answers a closed pipe with SystemExit
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
        self._scalars(step, {"loss/train": loss, "speed/images_per_second": speed})

    def out_of_time(self) -> bool:
        return time.monotonic() - self.began >= self.max_seconds

    def epoch(self, step: int, loss: float, by_time: list[tuple[float, float]]) -> None:
        """After an epoch: the held-out loss of the averaged weights, and its mean in ten ranges of t as (t, loss)."""
        epoch = step // self.recipe.steps_per_epoch
        record = {"step": step, "epoch": epoch, "held_out": loss, "by_time": by_time}
        self._record(record)
        best = min((r["held_out"] for r in self.held_out), default=math.inf)
        self.held_out.append(record)
        self.say(
            f"epoch {epoch}/{self.recipe.epochs}  held-out loss {loss:.4f}"
            + (" (the best so far)" if loss < best else f" (best {best:.4f})")
        )
        self._scalars(step, {"loss/held_out": loss, **{f"loss_by_time/t{round(t):04d}": x for t, x in by_time}})

    def samples(self, step: int, raw: Tensor, ema: Tensor) -> None:
        """A grid of samples from the same noise, with raw weights on the left and averaged weights on the right."""
        epoch = step // self.recipe.steps_per_epoch
        rows = torch.cat([raw.unflatten(0, (-1, PREVIEW_COLUMNS)), ema.unflatten(0, (-1, PREVIEW_COLUMNS))], dim=1)
        both = render.grid(rows.flatten(0, 1), columns=2 * PREVIEW_COLUMNS)
        picture = render.labelled(both, ["raw weights", "averaged weights (EMA)"])
        with self._surviving("the sample grid"):
            render.save_picture(picture, self.out / "samples" / f"epoch-{epoch:04d}.png")
        with self._surviving("TensorBoard"):
            if self.board is not None:
                self.board.image("samples", np.asarray(picture.convert("RGB")), step)

    def plots(self) -> None:
        """loss.png and loss_by_time.png, from all records so far."""
        if self.plotting:
            with self._surviving("the plots"):
                self._plot()

    def _plot(self) -> None:
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

    def _metrics(self) -> list[dict[str, Any]]:
        """The records of earlier sessions."""
        records, damaged = parse_metrics(self.out)
        if damaged:
            kept = self.out / "metrics.damaged.jsonl"
            self.say(f"note: {describe_damage(self.out, damaged)}; the old file is kept as {kept}")
            with contextlib.suppress(OSError):
                shutil.copyfile(self.out / "metrics.jsonl", kept)
        return records

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        with self._surviving("TensorBoard"):
            for tag, value in values.items() if self.board is not None else ():
                assert self.board is not None
                self.board.scalar(tag, value, step)

    @contextlib.contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        """Turn any error in the `with` block into a note on stderr, once for each name. TensorBoard is then closed."""
        try:
            yield
        except Exception as error:  # matplotlib and TensorBoard raise errors of many kinds
            if name not in self.failed:
                self.failed.add(name)
                self.say(f"note: {name} failed, and the training goes on without it: {error}")
            if name == "TensorBoard" and self.board is not None:
                board, self.board = self.board, None
                with contextlib.suppress(OSError):
                    board.close()
