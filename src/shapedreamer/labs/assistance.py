"""What a learner may see on request, or after passing: the hints, the explanation and the solution of an exercise."""

import functools
import re
from pathlib import Path

from ..common.errors import UserError
from . import progress
from .source import Lab, lab_files, read_lab, without_marks


@functools.cache
def solved_lab(name: str) -> Lab:
    """A lab with its solutions, by its name, such as "lab1"."""
    for path in lab_files():
        if path.name.startswith(f"{name}_"):
            return read_lab(path)
    raise UserError(f"there is no {name}")


def next_hint(exercise: str, folder: Path | None = None) -> str:
    """The next hint of an exercise, such as "lab1.ddpm_step"; after the last one, all of them again.

    folder: the learner's folder, where it is counted; by default the one that belongs to the working directory
    """
    lab, _, name = exercise.partition(".")
    hints = [cell.text for cell in solved_lab(lab).find("hint", name)]
    folder = folder or progress.folder()
    content = progress.read(folder) if folder else None
    shown = content["hints"].get(exercise, 0) if content else _SHOWN.get(exercise, 0)
    if shown >= len(hints):
        return "\n\n".join(["These were all hints:", *(_numbered(i, hints) for i in range(len(hints)))])
    if folder and content:
        content["hints"][exercise] = shown + 1
        progress.write(folder, content)
    _SHOWN[exercise] = shown + 1
    return _numbered(shown, hints)


def _numbered(i: int, hints: list[str]) -> str:
    return f"**Hint {i + 1} of {len(hints)}.** {hints[i]}"


_SHOWN: dict[str, int] = {}  # without a learner's folder


def explanation(exercise: str) -> str:
    """The explanation of an exercise, as Markdown.

    Links to the documentation lead from the docs site, and a learner's folder has no docs: name the page instead.
    """
    lab, _, name = exercise.partition(".")
    text = "\n\n".join(cell.text for cell in solved_lab(lab).find("explanation", name))
    return re.sub(r"\[([^\]]+)\]\(\.\./(docs/[^)#]+)[^)]*\)", r"\1 (\2)", text)


def solution(exercise: str) -> str:
    """The solution of an exercise, as Python, without the lines that mark it."""
    lab, _, name = exercise.partition(".")
    return without_marks("\n".join(cell.text for cell in solved_lab(lab).find("exercise", name)))
