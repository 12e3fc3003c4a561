"""Show the progress of a long computation on stderr: a bar in a terminal, otherwise a line every ten seconds."""

import math
import time
from types import TracebackType

from rich import progress

from .notebook import log_console

SECONDS_BETWEEN_LINES = 10  # when stderr is not a terminal


def time_left(elapsed: float, done: int, total: int) -> float:
    """Estimate the seconds left, given that `done` of `total` steps took `elapsed` seconds; NaN if none is done."""
    return elapsed * (total - done) / done if done else float("nan")


def clock(seconds: float) -> str:
    """Format a duration: 12.3 -> '12s', 75 -> '1m15s', 4000 -> '1h06m', NaN -> '?'."""
    if math.isnan(seconds):
        return "?"
    s = round(seconds)
    return f"{s}s" if s < 60 else f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


class Progress:
    """A context manager that reports progress: call it with the task's name, the steps done and the total.

    It shows these numbers and the estimated time left. Tasks run one after the other; each name is a new task.
    """

    def __init__(self) -> None:
        self.console = log_console()
        self.bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[state]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, progress.TaskID] = {}
        self.task_start = self.last_call = self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bars.stop()

    def __call__(self, task: str, done: int, total: int) -> None:
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, state="")
            self.task_start = self.last_call  # a task starts when the previous one ends
        self.last_call = time.monotonic()
        state = f"{done}/{total}  {clock(time_left(self.last_call - self.task_start, done, total))} left"
        self.bars.update(self.tasks[task], completed=done, total=total, state=state)
        if not self.console.is_terminal and self.last_call - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = self.last_call
            self.console.print(f"{task}  {state}", markup=False, highlight=False)
