"""What a long computation tells on stderr: a bar in a terminal, elsewhere a line every ten seconds."""

import sys
import time
from types import TracebackType

from rich import progress
from rich.console import Console

SECONDS_BETWEEN_LINES = 10  # where there is no terminal to draw a bar in


def time_left(elapsed: float, done: int, total: int) -> float:
    """Seconds left, if the rest goes as fast as what is done: elapsed seconds for `done` steps of `total`."""
    return elapsed * (total - done) / done if done else float("nan")


def clock(seconds: float) -> str:
    """12.3 -> '12s', 75 -> '1m15s', 4000 -> '1h07m'."""
    if seconds != seconds:
        return "?"
    s = round(seconds)
    return f"{s}s" if s < 60 else f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


class Progress:
    """Called with what is being done, how much of it is, and of how much; tells that and the time left for it."""

    def __init__(self) -> None:
        self.console = Console(file=sys.stderr, soft_wrap=True)
        self.bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[state]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, progress.TaskID] = {}
        self.began = self.told = self.last_line = time.monotonic()

    def __enter__(self) -> "Progress":
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bars.stop()

    def __call__(self, what: str, done: int, of: int) -> None:
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, state="")
            self.began = self.told  # what was told last has ended where this began
        self.told = time.monotonic()
        state = f"{done}/{of}  {clock(time_left(self.told - self.began, done, of))} left"
        self.bars.update(self.tasks[what], completed=done, total=of, state=state)
        if not self.console.is_terminal and self.told - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = self.told
            self.console.print(f"{what}  {state}", markup=False, highlight=False)
