"""`shapedreamer labs report SUBMISSIONS/`: check what a class has handed in, and write a table as CSV and HTML.

A submission runs in processes of its own, with limits of time, processor time and memory, and in a temporary folder. It
cannot end the report. It is no defence against a learner who attacks the checks themselves: read what looks odd.
"""

import csv
import html
import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.errors import UserError
from ..common.files import write_atomic
from .runner import judge_file
from .source import Lab, read_lab, read_labs

TIMEOUT = 300  # seconds for a file; if an exercise ends its process, for the exercises after it again
CPU_SECONDS = 300
CELL_SECONDS = 60  # for a cell, and for a check
MEMORY = 4 * 2**30  # bytes of data
MAX_FILES = 1000  # of one learner
MAX_BYTES = 20 * 2**20  # of one file
LAB = re.compile(r"(?<![A-Za-z])lab[ _-]?0*([0-9]{1,2})(?![0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """What a learner has done in an exercise. message: what the check says."""

    learner: str
    lab: str
    exercise: str
    passed: bool
    message: str


def write_report(
    submissions: Path, out: Path, jobs: int = 2, timeout: float = TIMEOUT, say: Callable[[str], None] = print
) -> list[Path]:
    """Check every submission and write report.csv and report.html to the folder `out`. Return their paths.

    submissions: a folder with a subfolder or a file for each learner, whose name is the learner's; the files are lab
                 scripts or notebooks, and their names, or their first cells, say which lab they are
    jobs:        how many files to check at the same time
    UserError if there are no submissions.
    """
    if not submissions.is_dir():
        raise UserError(f"{submissions} is not a folder with submissions")
    labs = {lab.name: lab for lab in read_labs()}
    found = list(_submissions(submissions, out))
    if not found:
        raise UserError(f"{submissions} has no submissions: no subfolder, and no file that ends in .py or .ipynb")
    rows: dict[str, list[Row]] = {}
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = pool.map(lambda item: _judge(item[0], item[1], labs, timeout), found)
        for (learner, _), result in zip(found, results, strict=True):
            rows.setdefault(learner, []).extend(result)
            say(f"{learner}: {sum(row.passed for row in rows[learner])} exercises are right")
    used = [lab for lab in labs.values() if any(row.lab == lab.name for result in rows.values() for row in result)]
    paths = [out / "report.csv", out / "report.html"]
    write_atomic(paths[0], _csv(rows).encode("utf-8-sig"))  # with the mark by which Excel knows UTF-8
    write_atomic(paths[1], _html(rows, used).encode())
    return paths


def _submissions(folder: Path, out: Path) -> Iterator[tuple[str, list[Path]]]:
    """(learner, files) in the order of their names."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith((".", "__")) or path.resolve() == out.resolve():
            continue
        if path.is_dir():
            yield path.name, list(_files(path))
        elif path.suffix in (".py", ".ipynb"):
            yield path.stem, [path]


def _files(folder: Path) -> Iterator[Path]:
    count = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(names):
            if name.endswith((".py", ".ipynb")) and not name.startswith("."):
                count += 1
                if count > MAX_FILES:
                    return
                yield Path(parent, name)


def _judge(learner: str, files: Sequence[Path], labs: dict[str, Lab], timeout: float) -> list[Row]:
    """The rows of one learner. Of several files for a lab, an exercise is right if it is right in one of them."""
    best: dict[str, Row] = {}
    problems = []
    for path in files:
        try:
            lab = labs.get(_lab_of(path))
            if lab is None:
                if len(files) == 1:
                    problems.append(Row(learner, "", "", False, f"{path.name} does not say which lab it is"))
                continue
            results = _judge_in_a_copy(path, lab, timeout)
        except (UserError, OSError) as error:
            problems.append(Row(learner, "", "", False, str(error).replace(str(path), path.name)))
            continue
        for result in results:
            name = result["exercise"].partition(".")[2]
            row = Row(learner, lab.name, name, result["passed"], result["message"])
            if row.passed or result["exercise"] not in best:
                best[result["exercise"]] = row
    if not best and not problems:
        problems.append(Row(learner, "", "", False, "there is no lab in this submission"))
    return [*best.values(), *problems]


def _judge_in_a_copy(path: Path, lab: Lab, timeout: float) -> list[dict[str, Any]]:
    """Check a file in a temporary folder, which is also its home."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"the file is larger than {MAX_BYTES // 2**20} MB; clear the outputs of the notebook")
    with tempfile.TemporaryDirectory(prefix="shapedreamer-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, f"{lab.name}_submission{path.suffix}")
        shutil.copyfile(path, copy)
        environment = {"HOME": folder, "TMPDIR": folder}
        results = judge_file(copy, lab, Path(folder), timeout, CPU_SECONDS, MEMORY, CELL_SECONDS, environment)
    for result in results:
        result["message"] = result["message"].replace(str(copy), path.name).replace(copy.name, path.name)
    return results


def _lab_of(path: Path) -> str:
    """The lab of a file, from its name or from its first cells; "" if neither says it."""
    match = LAB.search(path.stem)
    if match is None:
        cells = read_lab(path, "lab0").cells[:3]
        match = next((found for cell in cells if cell.markdown and (found := LAB.search(cell.text))), None)
    return f"lab{match[1]}" if match else ""


def _csv(rows: dict[str, list[Row]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["learner", "lab", "exercise", "passed", "message"])
    for result in rows.values():
        for row in result:
            writer.writerow([_plain(row.learner), row.lab, row.exercise, int(row.passed), _plain(row.message)])
    return buffer.getvalue()


def _plain(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    text = " ".join(text.split())
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; }
table { border-collapse: collapse; } th, td { padding: .3rem .6rem; border: 1px solid #ccc; text-align: center; }
th:first-child, td:first-child { text-align: left; } .right { background: #d9f2dd; } .wrong { background: #fbe3e0; }
.done { font-weight: 600; } ul { padding-left: 1.2rem; } thead th { position: sticky; top: 0; background: #fff; }
"""


def _html(rows: dict[str, list[Row]], labs: Sequence[Lab]) -> str:
    """A page with a table of learners and exercises, and what the checks say about wrong answers."""
    head = "".join(f'<th colspan="{len(lab.exercises) + 1}">{html.escape(lab.title)}</th>' for lab in labs)
    names = "".join("".join(f"<th>{name}</th>" for name in [*lab.exercises, "sum"]) for lab in labs)
    body = "".join(_html_row(learner, result, labs) for learner, result in rows.items())
    notes = "".join(
        f"<h3>{html.escape(learner)}</h3><ul>{items}</ul>"
        for learner, result in rows.items()
        if (items := "".join(_note(row) for row in result if not row.passed))
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Labs: report</title><style>{STYLE}</style>'
        f"<h1>Labs: report</h1><p>✓ right, ✗ wrong, – not handed in. Passing the exam counts as the whole lab.</p>"
        f"<table><thead><tr><th rowspan=2>learner</th>{head}</tr><tr>{names}</tr></thead><tbody>{body}</tbody></table>"
        f"<h2>What was wrong</h2>{notes or '<p>Nothing.</p>'}</html>\n"
    )


def _html_row(learner: str, result: Sequence[Row], labs: Sequence[Lab]) -> str:
    found = {(row.lab, row.exercise): row for row in result}
    cells = [f"<td>{html.escape(learner)}</td>"]
    for lab in labs:
        count = 0
        for name in lab.exercises:
            row = found.get((lab.name, name))
            if row is None:
                cells.append("<td>–</td>")
                continue
            count += row.passed
            kind, mark = ("right", "✓") if row.passed else ("wrong", "✗")
            cells.append(f'<td class="{kind}" title="{html.escape(row.message)}">{mark}</td>')
        exam = found.get((lab.name, "exam"))
        count = len(lab.exercises) if exam and exam.passed else count
        cells.append(f'<td class="done">{count}/{len(lab.exercises)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _note(row: Row) -> str:
    where = f"{row.lab}.{row.exercise}: " if row.lab else ""
    return f"<li>{where}{html.escape(row.message)}</li>"
