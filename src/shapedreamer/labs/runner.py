"""`shapedreamer labs`: work through the labs in a terminal, with any editor.

The runner shows an exercise, watches the learner's file, and checks it in a process of its own whenever it is saved.
After passing it shows the explanation and the solution, and goes on to the next exercise. Nothing that the learner's
code does can end the runner, and the progress is stored after every check.
"""

import contextlib
import queue
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.syntax import Syntax

from ..common.errors import UserError
from ..common.files import write_atomic
from . import assistance, progress
from .formulas import readable
from .process import ENDED, STOPPED, run_task
from .run import CELL_TIME_LIMIT, Task, has_output_above
from .source import Lab, read_lab, read_labs, replace_cell, restore, to_exercise, to_notebook, to_script

POLL = 0.25  # seconds between two looks at the file
TIMEOUT = 240  # seconds until a check is killed
BACKUPS = ".backup"  # where `reset` keeps the learner's file

COMMANDS = {
    "hint": "a hint, 1 of 3; type it again for the next one",
    "show": "the pictures of the text above the exercise",
    "check": "check the exercise now; saving the file does the same",
    "next": "go to the next unsolved exercise",
    "exam": "go to the exam of this lab; passing it solves the lab",
    "lab3": "go to another lab; or to an exercise: lab3.blend",
    "solution": "the solution of an exercise that you have solved",
    "reset": "empty the exercise again; your file is kept in the folder .backup",
    "list": "the list of all labs and your progress",
    "check-all": "check every exercise in your files",
    "help": "this list",
    "quit": "leave; your progress is kept",
}


def learners_folder(folder: Path | None) -> Path:
    """Where the learner's files are or will be: ./labs, or ./my-labs in a clone, whose labs/ holds the solutions."""
    found = progress.folder()
    if folder is None and found is not None:
        return found
    folder = Path(progress.FOLDERS[0]) if folder is None else folder
    solutions = read_labs()[0].path.parent
    return folder.with_name(progress.FOLDERS[1]) if folder.resolve() == solutions.resolve() else folder


def copy_labs(labs: list[Lab], folder: Path, notebooks: bool = False) -> list[Path]:
    """Write the exercise files that the folder does not have yet, and the progress file. Return the paths written."""
    written = []
    for lab in labs:
        path = folder / lab.path.with_suffix(".ipynb" if notebooks else ".py").name
        if not path.exists():
            exercise = to_exercise(lab)
            write_atomic(path, (to_notebook(exercise) if notebooks else to_script(exercise)).encode())
            written.append(path)
    if not (folder / progress.NAME).exists():
        progress.write(folder, progress.read(folder))
    return written


class Runner:
    """The state of one session: the labs, the learner's folder and the current exercise.

    `handle` carries out a command, and `poll` checks the file if it was saved. `watch` calls both until `quit`.
    """

    def __init__(self, folder: Path, console: Console | None = None, timeout: float = TIMEOUT) -> None:
        self.folder, self.timeout = folder, timeout
        self.console = console or Console(soft_wrap=True, highlight=False)
        self.labs = {lab.name: lab for lab in read_labs()}
        self.exercises = [f"{lab.name}.{name}" for lab in self.labs.values() for name in lab.exercises]
        self.commands: queue.Queue[str] = queue.Queue()
        self.written = copy_labs(list(self.labs.values()), folder)
        if repaired := progress.repair(folder):
            self.say(repaired)
        stored = progress.read(folder)["current"]
        self.current = stored if stored in self.exercises and not self.is_done(stored) else self.next_unsolved()
        self.stamp = self._stamp()
        self.asked = ""  # the exercise whose predictions were shown

    # What is solved

    def solved(self) -> set[str]:
        return set(progress.read(self.folder)["solved"])

    def is_done(self, exercise: str) -> bool:
        """Whether an exercise is solved, or its lab by the exam."""
        solved = self.solved()
        return exercise in solved or f"{exercise.partition('.')[0]}.exam" in solved

    def next_unsolved(self, after: str = "") -> str:
        """The first unsolved exercise after this one, or else before it; "" if all labs are done."""
        start = self.exercises.index(after) + 1 if after in self.exercises else 0
        order = self.exercises[start:] + self.exercises[:start]
        return next((name for name in order if name != after and not self.is_done(name)), "")

    # Watching

    def watch(self, commands: TextIO | None = None) -> None:
        """Show the list and the current exercise, then check every saved file and carry out commands until `quit`."""
        reader = threading.Thread(target=self._read_commands, args=(commands or sys.stdin,), daemon=True)
        reader.start()
        if self.written:
            self.say(f"New in {self.folder}: {', '.join(path.name for path in self.written)}. Open them in any editor.")
        self.show_list()
        self.open(self.current)
        while True:
            with contextlib.suppress(queue.Empty):
                if not self.handle(self.commands.get(timeout=POLL)):
                    return
            self.poll()

    def run_once(self, command: str) -> int:
        """Carry out one command without watching. Return the exit status, which is 1 if a check failed."""
        names = {*COMMANDS, *self.labs, *self.exercises} - {"lab3", "help", "quit"}
        if command not in names:
            raise UserError(f"there is no action {command[:40]!r}; choose one of {', '.join(COMMANDS)}")
        if command == "check":
            return 0 if self.check() else 1
        self.handle(command)
        return 0

    def _read_commands(self, commands: TextIO) -> None:
        for line in commands:
            self.commands.put(line)
        self.commands.put("quit")  # the end of the input

    def poll(self) -> None:
        """Check the current exercise if its file was saved since the last look."""
        stamp = self._stamp()
        if stamp != self.stamp:
            self.stamp = stamp
            if stamp is not None:
                self.check()

    def _stamp(self) -> tuple[int, int] | None:
        """Changes when the file is saved; None while there is no file, as when an editor replaces it."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size

    @property
    def lab(self) -> Lab:
        name = self.current.partition(".")[0]
        return self.labs.get(name) or next(iter(self.labs.values()))

    @property
    def path(self) -> Path:
        """The file of the current exercise."""
        return self.folder / self.lab.path.name

    # Commands

    def handle(self, command: str) -> bool:
        """Carry out one command. False for `quit`. A mistake in it is explained, and changes nothing."""
        words = command.strip().lower().split()
        name = words[0].removeprefix("/") if words else ""
        actions = {
            "hint": self.hint,
            "show": self.show_above,
            "check": self.check,
            "next": self.go_to_next,
            "exam": lambda: self.open(f"{self.lab.name}.exam"),
            "solution": self.show_solution,
            "reset": self.reset,
            "list": self.show_list,
            "check-all": self.check_all,
            "help": self.show_commands,
        }
        try:
            if name in ("quit", "exit", "q"):
                self.say(f"Your progress is in {self.folder / progress.NAME}. To continue: shapedreamer labs")
                return False
            if name in actions:
                actions[name]()
            elif name in self.labs or name in self.exercises:
                self.go_to(name)
            elif name:
                self.say(f"There is no command {name[:40]!r}; type help for the list.")
        except UserError as error:
            self.say(str(error))
        return True

    def open(self, exercise: str) -> None:
        """Make an exercise the current one, and say where it is."""
        if not exercise:
            self.say("You have done all labs. Type list for the list, or lab3 to look at one again.")
            return
        self.current = exercise
        self._store(current=exercise)
        self.stamp = self._stamp()
        name = exercise.partition(".")[2]
        self.console.print(f"\n[bold]{escape(self.lab.title)}[/bold] · {name}", soft_wrap=True)
        cells = read_lab(self.path).find("exercise", name)
        if not cells:
            self.say(f"{self.path} has no cell with the exercise {name} any more; type reset to restore it")
            return
        self.say(f"Fill in the exercise in {self.path}, line {cells[0].line}, and save the file. Stuck? Type hint.")
        if has_output_above(self.lab, name):
            self.say("The text above it describes pictures or numbers; type show to see them.")

    def go_to(self, name: str) -> None:
        if name in self.labs:
            names = [f"{name}.{exercise}" for exercise in self.labs[name].exercises]
            name = next((exercise for exercise in names if exercise not in self.solved()), names[0])
        self.open(name)

    def go_to_next(self) -> None:
        following = self.next_unsolved(self.current)
        if not following and self.current and not self.is_done(self.current):
            self.say("There is no other unsolved exercise.")
            following = self.current
        self.open(following)

    def hint(self) -> None:
        """Show the next hint of the current exercise."""
        if self.current:
            self._print_markdown(assistance.next_hint(self.current, self.folder))

    def show_above(self) -> None:
        """Run the cells between the last exercise and this one, and show their output and pictures."""
        name = self.current.partition(".")[2]
        if not self.current or not has_output_above(self.lab, name):
            self.say("The text above this exercise has no pictures.")
            return
        self.say(f"Running the cells above {self.current} …")
        self._run(Task(self.path.name, self.lab.name, name, folder=str(self.folder), above=True))

    def show_solution(self) -> None:
        if self.current not in self.solved():
            raise UserError("the solution appears when you have solved the exercise; type hint for help")
        self._print_solution(self.current)

    def show_commands(self) -> None:
        for name, text in COMMANDS.items():
            self.console.print(f"  [bold]{name:10}[/bold] {text}", soft_wrap=True)

    def show_list(self) -> None:
        """Every lab with a mark for each exercise: ✓ solved, ▸ current, · open."""
        solved = self.solved()
        for lab in self.labs.values():
            names = [f"{lab.name}.{name}" for name in lab.exercises]
            done = f"{lab.name}.exam" in solved or solved.issuperset(names)
            marks = " ".join(
                f"{'✓' if name in solved else '▸' if name == self.current else '·'} {name.partition('.')[2]}"
                for name in names
            )
            self.console.print(f"[{'green' if done else 'bold'}]{'✓' if done else ' '} {escape(lab.title)}[/]")
            self.console.print(f"      {marks}", style="dim", soft_wrap=True)
        count = sum(self.is_done(name) for name in self.exercises)
        self.say(f"{count} of {len(self.exercises)} exercises done. Type help for the commands.")

    def check(self) -> bool:
        """Check the current exercise; after passing, explain it and go on. Return whether it passed."""
        if not self.current:
            return False
        exercise, name = self.current, self.current.partition(".")[2]
        self.stamp = self._stamp()
        self.say(f"Checking {exercise} …")
        task = Task(self.path.name, self.lab.name, name, folder=str(self.folder), ask=exercise != self.asked)
        results, reason = self._run(task)
        if reason == STOPPED:
            return False
        self.asked = exercise
        passed = any(result.get("passed") is True and result["exercise"] == exercise for result in results)
        if not results:
            self.say(f"✗ {exercise}: {reason or ENDED}\n  A hint? Type: hint")
        if passed:
            self._record([exercise])
            self._congratulate(exercise)
        return passed

    def _run(self, task: Task) -> tuple[list[dict[str, Any]], str]:
        """Run a task and show its output. Return its results, and why it ended early."""
        results, reason = run_task(task, self.folder, self.timeout, self._write, self._interrupted)
        if reason == STOPPED:
            why = "the file was saved again" if self.commands.empty() else "you typed a command"
            self.say(f"Stopped, because {why}.")
        return results, reason

    def _interrupted(self) -> bool:
        """Whether to stop a check: the file was saved again, or a command was typed."""
        return not self.commands.empty() or self._stamp() not in (None, self.stamp)

    def _congratulate(self, exercise: str) -> None:
        if text := assistance.explanation(exercise):
            self.console.print()
            self._print_markdown(text)
        self._print_solution(exercise)
        if exercise.endswith(".exam"):
            self.say(f"That was the exam: {self.lab.title} is done.")
        self.open(self.next_unsolved(exercise))

    def _print_solution(self, exercise: str) -> None:
        self.console.print("\n[bold]A solution[/bold] (yours may look different)")
        code = assistance.solution(exercise)
        syntax = Syntax(code, "python", theme="ansi_dark", background_color="default")
        self.console.print(syntax.highlight(code), end="", soft_wrap=True)  # as text, because a Syntax is cut off

    def check_all(self) -> None:
        """Check every exercise of every file. What passes is stored as solved; nothing becomes unsolved."""
        passed = []
        for lab in self.labs.values():
            path = self.folder / lab.path.name
            if not path.exists():
                self.say(f"{lab.name}: there is no {path}")
                continue
            results = judge_file(path, lab, self.folder, self.timeout)
            right = [result["exercise"] for result in results if result["passed"]]
            passed += right
            self.say(f"{lab.title}: {len(right)} of {len(lab.exercises)} exercises are right")
            for result in results:
                if not result["passed"] and "not filled in" not in result["message"]:
                    self.say(f"  ✗ {result['exercise']}: {result['message']}")
        self._record(passed)

    def reset(self) -> None:
        """Empty the current exercise again, or restore its cell. The old file is kept."""
        name = self.current.partition(".")[2]
        blank = to_exercise(self.lab)
        if not self.path.exists():
            write_atomic(self.path, to_script(blank).encode())
            self.say(f"{self.path} was missing and is written again.")
            self.open(self.current)
            return
        kept = self._back_up()
        learner = read_lab(self.path)
        (cell,) = blank.find("exercise", name)
        if len(learner.find("exercise", name)) == 1:
            text = replace_cell(self.path.read_text(encoding="utf-8"), learner.find("exercise", name)[0], cell.text)
        else:  # a cell is missing, or there are two
            text = to_script(restore(blank, learner, name))
        write_atomic(self.path, text.encode())
        self.say(f"{self.current} is empty again. Your old file is {kept}.")
        self.open(self.current)

    def _back_up(self) -> Path:
        folder = self.folder / BACKUPS
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
        number = 1
        while (path := folder / f"{self.path.stem}-{number}.py").exists():
            number += 1
        try:
            shutil.copyfile(self.path, path)
        except OSError as error:
            raise UserError(f"cannot keep a copy of {self.path}, so nothing was reset: {error.strerror}") from None
        return path

    # Output and progress

    def _print_markdown(self, text: str) -> None:
        self.console.print(Markdown(readable(text)))

    def say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _write(self, text: str) -> None:
        self.console.print(text, end="", markup=False, highlight=False, soft_wrap=True)

    def _record(self, exercises: list[str]) -> None:
        content = progress.read(self.folder)
        content["solved"] += [name for name in exercises if name not in content["solved"]]
        progress.write(self.folder, content)

    def _store(self, **values: Any) -> None:
        content = progress.read(self.folder)
        if any(content[key] != value for key, value in values.items()):
            with contextlib.suppress(UserError):  # the disk is full: the exercise can be solved all the same
                progress.write(self.folder, content | values)


def judge_file(
    path: Path,
    lab: Lab,
    folder: Path,
    timeout: float,
    cpu_seconds: int = 0,
    memory: int = 0,
    cell_seconds: int = CELL_TIME_LIMIT,
    environment: dict[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Check all exercises of a file. Return {"exercise", "passed", "message"} for each, whatever the file does.

    An exercise that ends the process fails, and the others are checked in a new process. `timeout` and `cpu_seconds`
    count for each of these.
    """
    found: dict[str, dict[str, Any]] = {}
    skip: list[str] = []
    while len(found) < len(lab.exercises):
        task = Task(
            str(path.resolve()),
            lab.name,
            "",
            skip=tuple(skip),
            cpu_seconds=cpu_seconds,
            memory=memory,
            cell_seconds=cell_seconds,
        )
        results, reason = run_task(task, folder, timeout, environment=environment)
        found |= {
            result["exercise"].partition(".")[2]: {
                "exercise": result["exercise"],
                "passed": result["passed"] is True,
                "message": str(result.get("message", ""))[:500],
            }
            for result in results
            if "passed" in result
        }
        missing = [name for name in lab.exercises if name not in found]
        begun = [result["exercise"].partition(".")[2] for result in results if "passed" not in result]
        for name in missing if missing and missing[0] not in begun else missing[:1]:
            message = reason or ENDED
            found[name] = {"exercise": f"{lab.name}.{name}", "passed": False, "message": message}
        skip = list(found)
    return [found[name] for name in lab.exercises]
