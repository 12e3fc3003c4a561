"""What is written to a notebook, with a kernel's shell in its place."""

from types import SimpleNamespace

import pytest

from shapedreamer.common import notebook


class Events:
    """The events of an IPython shell."""

    def __init__(self) -> None:
        self.after_cell: list[object] = []

    def register(self, event: str, function: object) -> None:
        assert event == "post_run_cell"
        self.after_cell.append(function)

    def unregister(self, event: str, function: object) -> None:
        self.after_cell.remove(function)


def test_a_notebooks_lines_break_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    long = "the label helps most " * 10
    notebook.print_wrapped(long)
    assert capsys.readouterr().out == f"{long}\n"  # a terminal wraps by itself
    monkeypatch.setattr(notebook, "kernel_shell", lambda: SimpleNamespace())
    notebook.print_wrapped(f"{long}\n  A hint?")
    *lines, hint = capsys.readouterr().out.splitlines()
    assert " ".join(lines).split() == long.split()
    assert max(map(len, lines)) <= notebook.WIDTH
    assert hint == "  A hint?"


def test_what_belongs_after_the_cell_is_displayed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    events, displayed = Events(), list[object]()
    monkeypatch.setattr(notebook, "display", displayed.append)
    notebook.display_after_cell({"text/plain": "in a terminal"})
    assert not displayed
    monkeypatch.setattr(notebook, "kernel_shell", lambda: SimpleNamespace(events=events))
    notebook.display_after_cell({"text/plain": "why"})
    assert not displayed
    (function,) = events.after_cell
    function("the result of the cell")  # type: ignore[operator]
    assert displayed == [{"text/plain": "why"}]
    assert not events.after_cell
