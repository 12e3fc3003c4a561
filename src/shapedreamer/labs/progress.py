"""Which exercises are solved and what was predicted, in the file .progress.json of the learner's folder.

The file is optional: without `shapedreamer labs`, in a plain notebook, nothing is stored. Every write keeps the version
before it as .progress.backup.json. A damaged file is kept as .progress.damaged.json, and the backup takes its place.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.files import write_atomic

NAME = ".progress.json"
BACKUP, DAMAGED = ".progress.backup.json", ".progress.damaged.json"
FOLDERS = ("labs", "my-labs")  # the learner's folder; the second one in a clone, where labs/ holds the solutions
EMPTY: dict[str, Any] = {"solved": [], "predictions": {}, "hints": {}, "current": ""}


def folder() -> Path | None:
    """The learner's folder: the working directory, or one of FOLDERS in it; None if there is no progress file."""
    paths = (Path(), *(Path(name) for name in FOLDERS))
    return next((path for path in paths if (path / NAME).exists() or (path / BACKUP).exists()), None)


def read(path: Path) -> dict[str, Any]:
    """The progress in a folder.

    solved:      exercises, such as "lab1.ddpm_step"
    predictions: the letter that was predicted, by name
    hints:       the number of hints that were shown, by exercise
    current:     the exercise to continue with; "" for the first unsolved one
    """
    stored = _parse(path / NAME)
    stored = _parse(path / BACKUP) if stored is None else stored
    found = {key: json.loads(json.dumps(value)) for key, value in EMPTY.items()}  # a copy
    for key, value in (stored or {}).items():
        if key in found and isinstance(value, type(found[key])):
            found[key] = value
    found["solved"] = [name for name in found["solved"] if isinstance(name, str)]
    found["hints"] = {name: count for name, count in found["hints"].items() if isinstance(count, int)}
    return found


def write(path: Path, content: dict[str, Any]) -> None:
    """Store the progress. UserError if the disk is full or the folder is not writable; the old file then stays."""
    before = _parse(path / NAME)
    if before is not None:
        write_atomic(path / BACKUP, _encode(before))
    elif (path / NAME).exists():
        repair(path)
    write_atomic(path / NAME, _encode(content))


def repair(path: Path) -> str:
    """Replace a damaged progress file by its backup. Return what was done in one sentence; "" if it is not damaged."""
    file = path / NAME
    if not file.exists() or _parse(file) is not None:
        return ""
    file.replace(path / DAMAGED)
    backup = _parse(path / BACKUP)
    write_atomic(file, _encode(EMPTY if backup is None else backup))
    if backup is None:
        return f"{NAME} was damaged and is kept as {DAMAGED}; type check-all to find out which exercises are solved"
    return f"{NAME} was damaged and is kept as {DAMAGED}; the version before it, {BACKUP}, is used"


def record(exercise: str, passed: bool) -> None:
    """Remember that an exercise is solved. It stays solved if the learner experiments with the code afterwards."""
    path = folder()
    if path is None or not passed:
        return
    content = read(path)
    if exercise not in content["solved"]:
        content["solved"].append(exercise)
        with contextlib.suppress(UserError, OSError):  # a full disk must not hide the verdict
            write(path, content)


def _parse(path: Path) -> dict[str, Any] | None:
    """The content of a progress file; None if it is missing or damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return stored if isinstance(stored, dict) else None


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True).encode()
