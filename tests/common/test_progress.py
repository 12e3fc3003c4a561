"""Progress is told in lines where there is no terminal, and not too often."""

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


def test_in_a_pipe_there_is_a_line_every_ten_seconds_with_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as tell:
        for done in range(1, 101):
            clock.now += 1
            tell("sampling [64]", done, 100)
        clock.now += 30
        tell("comparing", 0, 3)
        clock.now += 30
        tell("comparing", 1, 3)
    heard = capsys.readouterr()
    assert heard.out == ""
    lines = heard.err.splitlines()
    assert lines[:3] == [
        "sampling [64]  11/100  1m29s left",
        "sampling [64]  22/100  1m18s left",
        "sampling [64]  33/100  1m07s left",
    ]
    assert lines[9:] == ["comparing  0/3  ? left", "comparing  1/3  2m00s left"]  # it began when sampling ended


def test_what_is_quick_is_not_told(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as tell:
        for what in ("sampling", "comparing"):
            clock.now += 4
            tell(what, 1, 1)
    assert capsys.readouterr().err == ""


def test_in_a_terminal_there_is_a_bar_for_everything(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with Progress() as tell:
        assert tell.console.is_terminal
        tell("sampling", 5, 10)
        clock.now += 60
        tell("sampling", 10, 10)
        tell("comparing", 2, 3)
        tasks = {task.description: (task.completed, task.total) for task in tell.bars.tasks}
    assert tasks == {"sampling": (10, 10), "comparing": (2, 3)}
    heard = capsys.readouterr()
    assert "2/3  0s left" in heard.err
    assert "━" in heard.err
    assert heard.out == ""


def test_an_error_goes_through(clock: Clock) -> None:
    with pytest.raises(KeyError), Progress():
        raise KeyError
