"""Run a learner's lab file in this process. `runner` and `report` start a process with `main` for each check.

The code of a learner may do anything: loop forever, raise any exception, exit, or use up the memory. Here, whatever
Python can catch becomes one sentence. The process that started this one limits the time, and copes with its death.
"""

import builtins
import contextlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..imaging import show
from . import checks, progress, verdict
from .assistance import solved_lab
from .source import BLANK, Cell, Lab, read_lab, to_exercise
from .verdict import Verdict, judge, learners_line, time_limit

CELL_TIME_LIMIT = 60  # seconds that one cell may take, apart from the pictures after a check


@dataclass(frozen=True)
class Task:
    """What to run.

    file:     a learner's lab, a script or a notebook
    lab:      its name, such as "lab1"
    exercise: the exercise to check, with its output and pictures; "" to judge all exercises silently
    result:   the file for the results: a line of JSON for each exercise, {"exercise", "passed", "message"}. When the
              exercises are judged, each line follows one with only "exercise", which says that it has begun
    folder:   the working directory as the learner sees it, for the paths of pictures
    above:    show the output of the cells above the exercise, and check nothing
    ask:      whether to show the predictions that the learner has not made
    skip:     exercises that are not run, because they ended an earlier process
    cpu_seconds, memory: limits of this process, in seconds and bytes; 0 for none
    """

    file: str
    lab: str
    exercise: str
    result: str = ""
    folder: str = ""
    above: bool = False
    ask: bool = True
    skip: tuple[str, ...] = ()
    cpu_seconds: int = 0
    memory: int = 0
    cell_seconds: int = CELL_TIME_LIMIT

    def encode(self) -> str:
        return json.dumps(asdict(self))


class CellError(Exception):
    """A cell of the learner's file cannot be run. The message is one sentence."""


def main(argument: str) -> None:
    """Carry out a Task, encoded as JSON."""
    task = Task(**json.loads(argument))
    _limit(task.cpu_seconds, task.memory)
    with Path(task.result).open("a", encoding="utf-8") as file:

        def report(content: dict[str, Any]) -> None:
            file.write(json.dumps(content) + "\n")
            file.flush()

        session = Session(task)
        if task.above:
            session.show_above(task.exercise)
            return
        if task.exercise:
            result = session.check(task.exercise)
            if not any(seen is result for seen in verdict.SHOWN):  # the check itself was not reached
                verdict.show(result)
            report({"exercise": result.exercise, "passed": result.passed, "message": result.message})
            return
        for name in session.solved.exercises:
            if name not in task.skip:
                report({"exercise": f"{task.lab}.{name}"})
                result = session.judge(name)
                report({"exercise": result.exercise, "passed": result.passed, "message": result.message})


class Session:
    """The names that the cells of one learner's file have defined so far."""

    def __init__(self, task: Task) -> None:
        self.task, self.solved = task, solved_lab(task.lab)
        self.learner, self.problem = self.solved, ""
        try:
            self.learner = read_lab(Path(task.file), task.lab)
        except UserError as error:
            self.problem = str(error)
        self.begun = False
        self.names: dict[str, Any] = {"__name__": "__main__", "__builtins__": builtins}

    # One exercise, with everything that the learner should see

    def check(self, name: str) -> Verdict:
        """Run the cells that an exercise needs, the exercise and its check, and return the verdict."""
        exercise = f"{self.task.lab}.{name}"
        if self.problem:
            return Verdict(exercise, False, self.problem)
        show.FOLDER, show.PREFIX = Path("pictures", f"{self.task.lab}-{name}"), Path(self.task.folder)
        _remove_pictures(show.FOLDER)
        try:
            cell = self._exercise_cell(name)
            for other in self._cells_before(cell):
                self._prepare(other)
            for other in self._predictions(cell):
                self._run(other, quiet=not self.task.ask)
            self._define(cell)
            return self._run_check(name)
        except CellError as error:
            return Verdict(exercise, False, str(error))

    def show_above(self, name: str) -> None:
        """Run the cells between the exercise before this one and this one, with their output and pictures."""
        try:
            if self.problem:
                raise CellError(self.problem)
            show.FOLDER = Path("pictures", f"{self.task.lab}-{name}-above")
            show.PREFIX = Path(self.task.folder)
            _remove_pictures(show.FOLDER)
            exercise = self._exercise_cell(name)
            for cell in self._cells_before(exercise):
                self._prepare(cell)
            for cell in cells_above(self.learner, name):
                if "prediction" in cell.tags or not cell.tags:
                    self._run(cell)
        except CellError as error:
            print(error)

    def _exercise_cell(self, name: str) -> Cell:
        """The learner's cell of an exercise. CellError if it is not there exactly once."""
        cells = self.learner.find("exercise", name)
        where = self.learner.path.name
        if not cells:
            raise CellError(f"{where} has no cell with the exercise {name} any more; type reset to restore it")
        if len(cells) > 1:
            raise CellError(f"{where} has {len(cells)} cells with the exercise {name}; delete all but one")
        return cells[0]

    def _cells_before(self, last: Cell) -> Iterator[Cell]:
        """The setup cells, and the exercises before this one."""
        setup = [cell for cell in self.learner.cells if "setup" in cell.tags]
        yield from setup or [cell for cell in self.solved.cells if "setup" in cell.tags]
        for name in self.solved.exercises[: self.solved.exercises.index(last.name)]:
            yield from self.solved.find("exercise", name)

    def _prepare(self, cell: Cell) -> None:
        """Run a setup cell, or an earlier exercise: the learner's if it is solved, otherwise the solution."""
        if "exercise" not in cell.tags:
            self._run(cell, quiet=True)
            return
        mine = self.learner.find("exercise", cell.name)
        if len(mine) == 1 and f"{self.task.lab}.{cell.name}" in progress.read(Path())["solved"]:
            with contextlib.suppress(CellError):
                self._run(mine[0], quiet=True)
                return
        self._run(cell, quiet=True)

    def _predictions(self, cell: Cell) -> Iterator[Cell]:
        """The prediction cells between the exercise before this one and its check; earlier ones run without output."""
        cells = list(self.learner.cells)
        end = next((i for i, c in enumerate(cells) if "check" in c.tags and c.name == cell.name), cells.index(cell))
        start = max((i for i, c in enumerate(cells[:end]) if "check" in c.tags), default=0)
        for i, other in enumerate(cells[:end]):
            if "prediction" in other.tags:
                if i >= start:
                    yield other
                else:
                    self._run(other, quiet=True)

    def _define(self, cell: Cell) -> None:
        """Run an exercise. CellError if it does not define what it should."""
        (blank,) = to_exercise(self.solved).find("exercise", cell.name)
        # the code of the bug clinic runs as it is, and shows the symptom
        if BLANK in blank.text and _without_space(cell.text) == _without_space(blank.text):
            raise CellError("this exercise is not filled in yet")
        self.names.pop(cell.name, None)
        self._run(cell)
        if cell.name not in self.names:
            raise CellError(f"{self._place(cell)}: this cell must define {cell.name}, and does not any more")

    def _run_check(self, name: str) -> Verdict:
        """Run the check cell: the learner's, or the original if it is missing."""
        exercise = f"{self.task.lab}.{name}"
        cells = self.learner.find("check", name) or self.solved.find("check", name)
        problem = ""
        try:
            for cell in cells:
                self._run(cell, limited=False)
        except CellError as error:
            problem = str(error)
        found = [shown for shown in verdict.SHOWN if shown.exercise == exercise]
        if not found:  # the learner has changed the check cell
            if problem:
                print(problem)
            getattr(getattr(checks, self.task.lab), name)(self.names.get(name))
            found = verdict.SHOWN
        elif problem:
            print(f"The check has run; the code after it failed. {problem}")
        return found[-1]

    # All exercises, without output

    def judge(self, name: str) -> Verdict:
        """Check one exercise after the other. An exercise that fails is replaced by its solution for the next ones."""
        exercise = f"{self.task.lab}.{name}"
        if self.problem:
            return Verdict(exercise, False, self.problem)
        sys.stdout = sys.stderr = io.StringIO()
        try:
            self._begin()
            self._define(self._exercise_cell(name))
            verdict.TIME_LIMIT = self.task.cell_seconds
            test = getattr(getattr(checks, self.task.lab), name).test
            result = judge(exercise, test, (self.names[name],))
        except CellError as error:
            result = Verdict(exercise, False, str(error))
        except BaseException as error:
            result = Verdict(exercise, False, f"the check ended with {type(error).__name__}")
        finally:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        if not result:
            with contextlib.suppress(CellError), contextlib.redirect_stdout(io.StringIO()):
                for cell in self.solved.find("exercise", name):
                    self._run(cell)
        return result

    def _begin(self) -> None:
        """Before the first exercise: the setup, the learner's if it works, and the solutions of skipped exercises."""
        if self.begun:
            return
        self.begun = True
        cells = [cell for cell in self.learner.cells if "setup" in cell.tags]
        try:
            for cell in cells:
                self._run(cell)
        except CellError:
            cells = []
        if not cells:
            for cell in (cell for cell in self.solved.cells if "setup" in cell.tags):
                self._run(cell)
        for name in self.task.skip:
            for cell in self.solved.find("exercise", name):
                self._run(cell)

    # One cell

    def _run(self, cell: Cell, quiet: bool = False, limited: bool = True) -> None:
        """Run a cell. CellError with one sentence if it fails in any way."""
        lab = self.learner if cell in self.learner.cells else self.solved
        hide = contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext()
        limit = time_limit(self.task.cell_seconds) if limited else contextlib.nullcontext()
        try:
            code = compile("\n" * (cell.line - 1) + cell.text, str(lab.path), "exec")
            with hide, limit:
                exec(code, self.names)
        except SyntaxError as error:
            raise CellError(f"{self._place(cell, error.lineno)}: {error.msg}, so Python cannot read the cell") from None
        except verdict.OutOfTimeError:
            where = self._place(cell)
            raise CellError(
                f"{where}: the cell did not finish in {self.task.cell_seconds} seconds; does a loop never end?"
            ) from None
        except SystemExit:
            raise CellError(f"{self._place(cell)}: the cell calls exit(); remove that") from None
        except RecursionError as error:
            raise CellError(f"{self._place(cell, learners_line(error))}: a function calls itself without end") from None
        except MemoryError as error:
            raise CellError(f"{self._place(cell, learners_line(error))}: there is not enough memory") from None
        except BaseException as error:
            message = next(iter(str(error).splitlines()), "no message")
            where = self._place(cell, learners_line(error))
            raise CellError(f"{where} raised {type(error).__name__}: {message}") from None

    def _place(self, cell: Cell, line: int | None = None) -> str:
        """Where something happened, such as "lab1_sampling.py, line 42"."""
        lab: Lab = self.learner if cell in self.learner.cells else self.solved
        if lab.path.suffix == ".ipynb":
            return f"{lab.path.name}, cell {cell.name or (cell.tags or ('code',))[0]}, line {line or 1}"
        return f"{lab.path.name}, line {line or cell.line}"


def _limit(cpu_seconds: int, memory: int) -> None:
    """Limit this process. Without effect on Windows."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if cpu_seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    if memory:
        with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
            resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))


def cells_above(lab: Lab, name: str) -> list[Cell]:
    """The code cells between the check of the exercise before this one and this one."""
    cells = [cell for cell in lab.cells if not cell.markdown]
    end = next((i for i, cell in enumerate(cells) if "exercise" in cell.tags and cell.name == name), 0)
    start = max((i + 1 for i, cell in enumerate(cells[:end]) if "check" in cell.tags), default=0)
    return cells[start:end]


def has_output_above(lab: Lab, name: str) -> bool:
    """Whether a code cell above an exercise is there for its output: it has no tags."""
    return any(not cell.tags for cell in cells_above(lab, name))


def _without_space(text: str) -> str:
    return "".join(text.split())


def _remove_pictures(folder: Path) -> None:
    """Delete the pictures of the last check of an exercise."""
    for path in folder.glob("[0-9]*.*") if folder.is_dir() else ():
        if path.suffix in (".png", ".gif"):
            with contextlib.suppress(OSError):
                path.unlink()
