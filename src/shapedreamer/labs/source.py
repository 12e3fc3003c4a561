"""The format of the lab files: percent scripts with the solutions, from which the learner's files are made.

A cell starts with a line such as

    # %% [markdown]
    # %% tags=["exercise"] name="ddpm_step"

and its tags say what it is: "setup" runs before every exercise, "prediction" asks what will happen, "exercise" has a
solution between the lines ``# begin solution`` and ``# end solution``, "check" checks it, and "hint" and "explanation"
are text that a learner's file does not have. ``name`` connects the cells of an exercise. The rest is text and code for
everybody.

A learner's file has a blank in the place of a solution. In the bug clinic it has buggy code instead, which follows the
solution as comments, between the lines ``# begin buggy`` and ``# end buggy``. The letter in ``@cause("b")``
becomes "?".
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..common.errors import UserError

OWN_LABS = "SHAPEDREAMER_LAB_FOLDER"
BLANK = "...  # your code here"
_HEADER = re.compile(r"# %%(?!%)(?P<rest>.*)")
_TAGS, _NAME = re.compile(r"tags=(\[[^\]]*\])"), re.compile(r'name="(\w+)"')
_SOLUTION = re.compile(
    r"(?P<indent>[ \t]*)# begin solution\n.*?# end solution\n?"
    r"(?:[ \t]*# begin buggy\n(?P<buggy>.*?)[ \t]*# end buggy\n?)?",
    re.DOTALL,
)
_PREDICTED = re.compile(r'(predict\(\s*"[\w.]+",\s*)"\w"')
_CAUSE = re.compile(r'(@cause\()"\w+"')
HIDDEN = ("hint", "explanation")  # the cells that a learner's file does not have


@dataclass(frozen=True)
class Cell:
    """One cell. text: its source without the header line; for markdown without the leading `#` of each line."""

    text: str
    markdown: bool = False
    tags: tuple[str, ...] = ()
    name: str = ""
    line: int = 1  # the line of the file on which the text starts, for error messages

    @property
    def header(self) -> str:
        tags = f" tags={json.dumps(list(self.tags))}" if self.tags else ""
        return (
            f"# %%{' [markdown]' if self.markdown else ''}{tags}{f' name={json.dumps(self.name)}' if self.name else ''}"
        )


@dataclass(frozen=True)
class Lab:
    """A lab. name: such as "lab1"; path: its file, whose name starts with the name; cells: in the order of the file."""

    name: str
    path: Path
    cells: tuple[Cell, ...]

    @property
    def number(self) -> int:
        return int(self.name[3:])

    @property
    def title(self) -> str:
        """The title in the first cell, such as "Lab 1. Sampling"."""
        return self.cells[0].text.splitlines()[0].lstrip("# ") if self.cells and self.cells[0].text else self.name

    @property
    def exercises(self) -> list[str]:
        """The names of the exercises, in order; the last one is "exam"."""
        return [cell.name for cell in self.cells if "exercise" in cell.tags]

    def find(self, tag: str, name: str) -> list[Cell]:
        """The cells with this tag that belong to an exercise."""
        return [cell for cell in self.cells if tag in cell.tags and cell.name == name]


def lab_files() -> list[Path]:
    """The lab files with the solutions, in the order of their numbers.

    An installed package has them in labs/sources, a clone in the folder labs of the repository. Teachers can name a
    folder with labs of their own in the environment variable SHAPEDREAMER_LAB_FOLDER; its subfolder checks/ has the
    checks.
    """
    installed, clone = Path(__file__).parent / "sources", Path(__file__).parents[3] / "labs"
    folder = Path(os.environ.get(OWN_LABS) or (installed if installed.is_dir() else clone)).absolute()
    return sorted(folder.glob("lab*_*.py"), key=lambda path: int(re.sub(r"\D", "", path.name.partition("_")[0])))


def read_labs() -> list[Lab]:
    """All labs with their solutions. UserError if the package has none."""
    labs = [read_lab(path) for path in lab_files()]
    if not labs:
        raise UserError(
            "this copy of the package has no labs; install it with pip, or work in a clone of its repository"
        )
    return labs


def read_lab(path: Path, name: str = "") -> Lab:
    """Read a lab, a solution or a learner's: a percent script, or a notebook if its name ends in .ipynb.

    name: such as "lab1"; by default the beginning of the file's name
    UserError if the file is missing, or is not a lab.
    """
    match = re.match(r"(lab[0-9]+)_", path.name)
    if match is None and not name:
        raise UserError(f"{path} is not a lab: its name must be like lab1_sampling.py")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no {path}; type reset to write it again; the progress is kept") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the lab {path}: {error}") from None
    cells = _notebook_cells(path, text) if path.suffix == ".ipynb" else _cells(text)
    return Lab(name or (match[1] if match else ""), path, tuple(cells))


def _cells(text: str) -> Iterator[Cell]:
    """The cells of a percent script. Text before the first header is a code cell without tags."""
    header, lines, first = "", list[str](), 1
    for number, line in enumerate([*text.split("\n"), "# %%"], 1):
        match = _HEADER.fullmatch(line)
        if match is None:
            lines.append(line)
            continue
        if first > 1 or any(line.strip() for line in lines):
            markdown = "[markdown]" in header
            while lines and not lines[0].strip():
                del lines[0]
                first += 1
            body = "\n".join(_uncomment(lines) if markdown else lines).rstrip("\n")
            name = _NAME.search(header)
            yield Cell(body, markdown, _tags(header), name[1] if name else "", first)
        header, lines, first = match["rest"], [], number + 1


def _tags(header: str) -> tuple[str, ...]:
    match = _TAGS.search(header)
    try:
        return tuple(str(tag) for tag in json.loads(match[1])) if match else ()
    except ValueError:  # a learner has edited the line
        return ()


def _uncomment(lines: Sequence[str]) -> list[str]:
    return [re.sub(r"^# ?", "", line) for line in lines]


def to_script(lab: Lab) -> str:
    """The lab as a percent script; the inverse of `read_lab`."""
    parts = []
    for cell in lab.cells:
        lines = cell.text.splitlines()
        if cell.markdown:
            lines = [f"# {line}".rstrip() for line in lines]
        parts.append("\n".join([cell.header, *lines]))
    return "\n\n".join(parts) + "\n"


def to_exercise(lab: Lab) -> Lab:
    """The learner's lab: blanks in the place of solutions and predictions, and no hints and explanations."""
    cells = (replace(cell, text=_blank(cell)) for cell in lab.cells if not set(cell.tags) & set(HIDDEN))
    return replace(lab, cells=tuple(cells))


def _blank(cell: Cell) -> str:
    if "exercise" in cell.tags:
        return _CAUSE.sub(r'\1"?"', _SOLUTION.sub(_to_fill_in, cell.text + "\n").rstrip("\n"))
    if "prediction" in cell.tags:
        return _PREDICTED.sub(r'\1"?"', cell.text)
    return cell.text


def _to_fill_in(solution: re.Match[str]) -> str:
    """What a learner has in the place of a solution: a blank, or the buggy code to mend."""
    if solution["buggy"] is None:
        return f"{solution['indent']}{BLANK}\n"
    return re.sub(r"^[ \t]*# ?", solution["indent"], solution["buggy"], flags=re.MULTILINE)


def without_marks(text: str) -> str:
    """A solution for reading: without the lines that mark it, and without the buggy code in comments."""
    text = re.sub(r"[ \t]*# begin buggy\n.*?# end buggy\n?", "", text + "\n", flags=re.DOTALL)
    return re.sub(r"^[ \t]*# (begin|end) solution\n", "", text, flags=re.MULTILINE).rstrip("\n")


def replace_cell(script: str, cell: Cell, text: str) -> str:
    """A script with other text in one of its cells, and everything else unchanged."""
    lines = script.split("\n")
    start = cell.line - 1
    return "\n".join([*lines[:start], *text.split("\n"), *lines[start + len(cell.text.split("\n")) :]])


def restore(blank: Lab, learner: Lab, name: str) -> Lab:
    """The blank lab with all that the learner has filled in, except for the exercise `name`."""

    def filled(cell: Cell) -> Cell:
        if cell.name == name or not set(cell.tags) & {"exercise", "prediction"}:
            return cell
        tag = "exercise" if "exercise" in cell.tags else "prediction"
        mine = learner.find(tag, cell.name)
        return replace(cell, text=mine[0].text) if mine else cell

    return replace(blank, cells=tuple(filled(cell) for cell in blank.cells))


# Notebooks

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def to_notebook(lab: Lab) -> str:
    """The lab as a notebook without outputs. The ids of its cells depend on their names and places alone."""
    cells = []
    for i, cell in enumerate(lab.cells):
        key = f"{lab.name} {i} {'-'.join(cell.tags)} {cell.name}"
        metadata = {"name": cell.name} if cell.name else {}
        content: dict[str, Any] = {
            "cell_type": "markdown" if cell.markdown else "code",
            "id": hashlib.sha256(key.encode()).hexdigest()[:8],
            "metadata": metadata | ({"tags": list(cell.tags)} if cell.tags else {}),
            "source": cell.text.splitlines(keepends=True),
        }
        cells.append(content if cell.markdown else content | {"execution_count": None, "outputs": []})
    about = {"kernelspec": KERNEL, "language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    notebook = {"cells": cells, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _notebook_cells(path: Path, text: str) -> Iterator[Cell]:
    """The cells of a notebook. The lines count from the start of each cell."""
    try:
        stored = json.loads(text)["cells"]
        for cell in stored:
            source, metadata = cell["source"], cell.get("metadata", {})
            tags = tuple(str(tag) for tag in metadata.get("tags", ()))
            body = (source if isinstance(source, str) else "".join(source)).strip("\n")
            yield Cell(body, cell["cell_type"] != "code", tags, str(metadata.get("name", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path} is not a notebook, or is damaged") from None
