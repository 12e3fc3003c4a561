"""The runner: it watches a learner's files, checks what is saved, and never loses the progress."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from shapedreamer import cli
from shapedreamer.common.errors import UserError
from shapedreamer.labs import progress
from shapedreamer.labs.runner import Runner, copy_labs, learners_folder
from shapedreamer.labs.source import BLANK, read_lab, read_labs, replace_cell, to_exercise, to_script

SECRETS = ("secret", "The explanation", "hint.")  # of what a learner's file must not have


class Learner:
    """A learner at the terminal: edits files, types commands, and reads the output since the last look."""

    def __init__(self, timeout: float = 60) -> None:
        self.output = io.StringIO()
        self.runner = Runner(learners_folder(None), Console(file=self.output, width=200), timeout)

    def type(self, command: str) -> str:
        self.runner.handle(command)
        return self.read()

    def fill_in(self, code: str, exercise: str = "half", lab: str = "lab90") -> str:
        """Replace the blank of an exercise, and save the file."""
        path = Path("labs", f"{lab}_halves.py")
        (cell,) = read_lab(path).find("exercise", exercise)
        (blank,) = to_exercise(read_labs()[0]).find("exercise", exercise)
        path.write_text(replace_cell(path.read_text(), cell, blank.text.replace(BLANK, code)))
        self.runner.poll()
        return self.read()

    def read(self) -> str:
        text = self.output.getvalue()
        self.output.truncate(0)
        self.output.seek(0)
        return text


def test_a_learner_solves_an_exercise() -> None:
    learner = Learner()
    for path in Path("labs").glob("*.py"):
        assert not any(secret in path.read_text() for secret in SECRETS)
    assert learner.runner.current == "lab90.half"
    wrong = learner.fill_in("return x")
    assert "✗ lab90.half: you return x itself" in wrong
    assert "picture: labs/pictures/lab90-half/001.png" in wrong
    assert "A hint? Type: hint" in wrong
    assert Path("labs/pictures/lab90-half/001.png").exists()
    assert not any(secret in wrong for secret in SECRETS)
    right = learner.fill_in("return x / 2")
    assert "✓ lab90.half: right, of course" in right
    assert "The explanation of half." in right
    assert "the secret solution" in right
    assert "begin solution" not in right
    assert learner.runner.current == "lab90.quarter"
    assert progress.read(Path("labs"))["solved"] == ["lab90.half"]
    assert "✗" in learner.fill_in("return x", "quarter")  # what it checks now
    assert Learner().runner.current == "lab90.quarter"  # another day


def test_nothing_is_checked_as_long_as_nothing_is_saved() -> None:
    learner = Learner()
    for _ in range(3):
        learner.runner.poll()
    assert learner.read() == ""


def test_the_predictions_are_asked_once_for_each_exercise() -> None:
    learner = Learner()
    assert "Your prediction?" in learner.fill_in("return x")
    assert "Your prediction?" not in learner.fill_in("return 2 * x")


@pytest.mark.slow
def test_show_runs_the_cells_above_an_exercise() -> None:
    learner = Learner()
    assert "has no pictures" in learner.type("show")
    assert "Type show" not in learner.fill_in("return x")
    opened = learner.type("lab90.quarter")
    assert "type show to see them" in opened
    shown = learner.type("show")
    assert "not run by a check" in shown
    assert "✗" not in shown
    file = Path("labs/lab90_halves.py")
    file.write_text(file.read_text().replace("not run by a check", '" + 1 + "'))
    learner.runner.poll()
    assert "lab90_halves.py, line" in learner.type("show")


def test_a_solution_is_shown_in_full_on_a_narrow_terminal() -> None:
    learner = Learner()
    learner.runner.console = Console(file=learner.output, width=20, soft_wrap=True)
    assert "    return x / 2  # the secret solution\n" in learner.fill_in("return x / 2")


def test_hints_come_one_by_one_and_only_when_asked_for() -> None:
    learner = Learner()
    assert [word in learner.type("hint") for word in ("first", "second")] == [True, True]
    learner = Learner()
    assert "Hint 3 of 3. The third hint." in learner.type("hint")
    again = learner.type("hint")
    assert all(word in again for word in ("first", "second", "third"))


def test_next_list_and_jumps() -> None:
    learner = Learner()
    assert "quarter" in learner.type("next")
    assert "lab91_halves.py" in learner.type("lab91")
    assert learner.runner.current == "lab91.half"
    assert "Lab 90. Halves · exam" in learner.type("lab90.exam")
    learner.type("next")
    assert learner.runner.current == "lab91.half"
    listed = learner.type("list")
    assert "Lab 90. Halves" in listed
    assert "▸ half · quarter · exam" in listed
    assert "0 of 6 exercises done" in listed
    assert "hint" in learner.type("help")
    assert "There is no command 'dance'" in learner.type("dance")
    assert "solution appears when you have solved" in learner.type("solution")


@pytest.mark.slow
def test_the_exam_solves_the_lab() -> None:
    learner = Learner()
    learner.type("exam")
    assert "That was the exam" in learner.fill_in("return x / 8", "exam")
    assert learner.runner.current == "lab91.half"
    assert "3 of 6 exercises done" in learner.type("list")
    learner.type("exam")
    assert "You have done all labs" in learner.fill_in("return x / 8", "exam", "lab91")
    for command in ("next", "hint", "check"):
        learner.type(command)
    assert "You have done all labs" in learner.type("next")


@pytest.mark.slow
def test_reset_empties_one_exercise_and_keeps_the_old_file() -> None:
    learner = Learner()
    learner.fill_in("return x / 2")
    file = Path("labs/lab90_halves.py")
    file.write_text(file.read_text() + "\n# my notes\n")
    learner.fill_in("return 7", "quarter")
    before = file.read_text()
    learner.type("reset")  # of quarter
    assert "return 7" not in file.read_text()
    assert "return x / 2" in file.read_text()
    assert "# my notes" in file.read_text()
    assert Path("labs/.backup/lab90_halves-1.py").read_text() == before
    start = before.index('# %% tags=["exercise"] name="quarter"')
    file.write_text(before[:start] + before[before.index("# %%", start + 1) :])
    assert "has no cell with the exercise quarter" in learner.type("check")
    learner.type("reset")
    assert 'name="quarter"' in file.read_text()
    assert "return x / 2" in file.read_text()
    file.unlink()
    assert "was missing and is written again" in learner.type("reset")
    assert "lab90.half" in progress.read(Path("labs"))["solved"]


@pytest.mark.slow
def test_check_all_finds_what_is_solved() -> None:
    learner = Learner()
    learner.fill_in("return x / 2")
    learner.fill_in("return x", "quarter")
    Path("labs", progress.NAME).unlink()
    Path("labs", progress.BACKUP).unlink()
    learner = Learner()
    output = learner.type("check-all")
    assert "Lab 90. Halves: 1 of 3 exercises are right" in output
    assert "✗ lab90.quarter: you return x itself" in output
    assert "exam" not in output  # is not filled in
    assert progress.read(Path("labs"))["solved"] == ["lab90.half"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os._exit(0)", "Python ended before the check was done"),
        ("import os; os.abort()", "Python crashed before the check was done (SIGABRT)"),
        ("import os; os.kill(os.getpid(), 9)", "Python was killed"),
        ("[print('x' * 1000) for _ in range(1000)]", "there is more output"),
    ],
)
def test_nothing_ends_the_runner(code: str, message: str) -> None:
    learner = Learner()
    output = learner.fill_in(code)
    assert message in output
    assert len(output) < 30_000
    assert "1. lab" not in learner.type("list")


@pytest.mark.slow
def test_a_loop_is_stopped() -> None:
    learner = Learner(timeout=5)
    assert "it did not finish in 5 seconds; does a loop never end?" in learner.fill_in("while True: pass")
    assert "check" in learner.type("help")


def test_saving_again_or_typing_stops_a_check() -> None:
    learner = Learner()
    learner.runner.commands.put("quit")
    assert "Stopped, because you typed a command." in learner.fill_in("while True: pass")
    learner.runner.commands.get()
    assert "Your prediction?" in learner.fill_in("return x")  # not lost with the check that was stopped


def test_a_learners_module_does_not_hide_pythons_own() -> None:
    learner = Learner()
    Path("labs/random.py").write_text("raise ImportError")
    assert "✓" in learner.fill_in("return x / 2")


def test_files_are_never_overwritten() -> None:
    folder = Path("labs")
    folder.mkdir()
    (folder / "lab90_halves.py").write_text("mine")
    assert [path.name for path in copy_labs(read_labs(), folder)] == ["lab91_halves.py"]
    assert (folder / "lab90_halves.py").read_text() == "mine"


def test_a_clone_keeps_its_solutions(small_labs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_labs.rename(small_labs.with_name("labs"))
    monkeypatch.setenv("SHAPEDREAMER_LAB_FOLDER", str(small_labs.with_name("labs")))
    monkeypatch.chdir(small_labs.parent)
    assert learners_folder(None) == Path("my-labs")
    assert learners_folder(Path("else")) == Path("else")
    Learner()
    assert Path("my-labs/lab90_halves.py").exists()
    assert learners_folder(None) == Path("my-labs")
    monkeypatch.chdir("my-labs")
    assert learners_folder(None) == Path()


def test_watching_ends_with_quit_or_the_end_of_the_input() -> None:
    learner = Learner()
    for text in ("list\nquit\nlist\n", "list\n", "\n\nEXIT"):
        learner.runner.watch(io.StringIO(text))
        output = learner.read()
        assert "labs/.progress.json. To continue: shapedreamer labs" in output
        assert output.count("0 of 6 exercises done") <= 2


def test_a_file_that_is_being_replaced_is_not_checked_until_it_is_there() -> None:
    learner = Learner()
    file = Path("labs/lab90_halves.py")
    text = file.read_text()
    file.unlink()
    learner.runner.poll()
    assert learner.read() == ""
    file.write_text(text.replace(BLANK, "return x / 2", 1))
    learner.runner.poll()
    assert "✓" in learner.read()


def shapedreamer(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "labs", *arguments])
    return cli.main()


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert shapedreamer(monkeypatch, "list") == 0
    assert shapedreamer(monkeypatch, "hint") == 0
    assert "The first hint" in capsys.readouterr().out
    assert shapedreamer(monkeypatch, "check") == 1
    assert "not filled in yet" in capsys.readouterr().out
    file = Path("labs/lab90_halves.py")
    file.write_text(file.read_text().replace(BLANK, "return x / 2", 1))
    assert shapedreamer(monkeypatch, "check") == 0
    assert shapedreamer(monkeypatch, "lab91.exam") == 0
    assert progress.read(Path("labs"))["current"] == "lab91.exam"
    for wrong in (["dance"], ["hint", "folder"], ["report"], ["report", "nowhere"]):
        assert shapedreamer(monkeypatch, *wrong) == 2
    errors = capsys.readouterr().err
    assert "there is no action 'dance'; choose one of hint, show" in errors
    assert "only report takes a folder" in errors
    assert "say where the submissions are" in errors
    assert "nowhere is not a folder with submissions" in errors


def test_the_command_watches_its_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hint\nquit\n"))
    assert shapedreamer(monkeypatch) == 0
    output = capsys.readouterr().out
    assert "New in labs: lab90_halves.py, lab91_halves.py." in output
    assert "The first hint." in output


def test_jupyter_writes_notebooks_and_starts_jupyterlab_with_ipc(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shapedreamer.labs import jupyter

    called: list[list[str]] = []

    class Done:
        returncode = 0

    def run(command: list[str], **options: Any) -> Done:
        called.append(command)
        return Done()

    monkeypatch.setattr(jupyter, "require", lambda module, extra: None)
    monkeypatch.setattr(subprocess, "run", run)
    assert shapedreamer(monkeypatch, "--jupyter") == 0
    assert Path("labs/lab90_halves.ipynb").exists()
    assert any("jupyterlab" in word for word in called[0])
    assert sys.platform == "win32" or any("transport=ipc" in word for word in called[0])
    monkeypatch.setattr(jupyter, "ROOT", ["--allow-root"])  # as in a container
    assert shapedreamer(monkeypatch, "--jupyter") == 0
    assert "--allow-root" in called[1]
    assert "open the address with ?token=" in capsys.readouterr().out

    def missing(module: str, extra: str) -> None:
        raise UserError("this needs jupyterlab: pip install 'shapedreamer[labs]'")

    monkeypatch.setattr(jupyter, "require", missing)
    assert shapedreamer(monkeypatch, "--jupyter") == 2
    assert "pip install 'shapedreamer[labs]'; or use the runner" in capsys.readouterr().err


def test_a_damaged_progress_file_is_repaired() -> None:
    learner = Learner()
    learner.fill_in("return x / 2")
    learner.type("next")  # another write, so that the backup has the solved exercise
    Path("labs", progress.NAME).write_text("{ damaged")
    learner = Learner()
    assert ".progress.json was damaged and is kept as .progress.damaged.json" in learner.read()
    assert progress.read(Path("labs"))["solved"] == ["lab90.half"]
    assert Path("labs", progress.DAMAGED).read_text() == "{ damaged"
    assert to_script(read_labs()[0])  # the labs themselves are as they were
