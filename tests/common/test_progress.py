"""Progress: a bar in a terminal, otherwise one line every ten seconds."""

import pytest

from shapedreamer.common import progress
from shapedreamer.common.progress import Progress


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_without_a_terminal_a_line_appears_every_ten_seconds_with_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as report:
        for done in range(1, 101):
            clock.now += 1
            report("sampling [64]", done, 100)
        clock.now += 30
        report("comparing", 0, 3)
        clock.now += 30
        report("comparing", 1, 3)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[:3] == [
        "sampling [64]  11/100  1m29s left",
        "sampling [64]  22/100  1m18s left",
        "sampling [64]  33/100  1m07s left",
    ]
    assert lines[9:] == ["comparing  0/3  ? left", "comparing  1/3  2m00s left"]  # its clock starts when sampling ends


def test_short_tasks_print_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as report:
        for task in ("sampling", "comparing"):
            clock.now += 4
            report(task, 1, 1)
    assert capsys.readouterr().err == ""


def test_in_a_terminal_every_task_has_a_bar(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress() as report:
        assert report.console.is_terminal
        report("sampling", 5, 10)
        clock.now += 60
        report("sampling", 10, 10)
        report("comparing", 2, 3)
        tasks = {task.description: (task.completed, task.total) for task in report.bars.tasks}
    assert tasks == {"sampling": (10, 10), "comparing": (2, 3)}
    captured = capsys.readouterr()
    assert "2/3  0s left" in captured.err
    assert "━" in captured.err
    assert captured.out == ""


def test_exceptions_propagate(clock: Clock) -> None:
    with pytest.raises(KeyError), Progress():
        raise KeyError
