"""`make labs`: generate everything that is made from the lab files with the solutions.

    exercises/labN_topic.py, .ipynb   what learners get, without solutions, hints and explanations
    solved/labN_topic.ipynb           the whole lab with its outputs, which the documentation shows

The exercise files depend on the lab files alone. tests/labs/test_build.py fails if they are stale.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from ..common.errors import UserError, require
from ..common.files import write_atomic
from .source import Cell, Lab, read_labs, to_exercise, to_notebook, to_script, without_marks

PACKAGE = "shapedreamer"
PROCESSES = 2  # labs that run at the same time, each on one thread
COLAB = """\
# In Google Colab this cell installs ShapeDreamer; anywhere else it does nothing.
import sys
from pathlib import Path

if "google.colab" in sys.modules:
    wheel = next(Path().glob("shapedreamer-*.whl"), None)  # if you have uploaded one
    package = wheel or "{requirement}"
    %pip install --quiet {{package}} matplotlib"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m shapedreamer.labs.build", description="Generate the labs' files.")
    parser.add_argument("labs", nargs="*", help="such as lab1 (default: all)")
    parser.add_argument("--exercises-only", action="store_true", help="do not run the solutions, which takes minutes")
    options = parser.parse_args(arguments)
    try:
        labs = [lab for lab in read_labs() if not options.labs or lab.name in options.labs]
        for path, text in exercise_files(labs).items():
            write_if_changed(path, text)
        if not options.exercises_only:
            # Matplotlib lists the fonts on its first import, and warns in labs that do it at the same time
            import_module("matplotlib.font_manager")
        with ThreadPoolExecutor(PROCESSES) as pool:
            for _ in pool.map(_write_solved, [] if options.exercises_only else labs):
                pass  # an error of a lab is raised here
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _write_solved(lab: Lab) -> None:
    start = time.monotonic()
    write_if_changed(solved_path(lab), solve(lab))
    print(f"{lab.name} ran in {time.monotonic() - start:.0f} s", flush=True)


def exercise_files(labs: list[Lab]) -> dict[Path, str]:
    """The content of every file in the folder exercises, by its path."""
    files = {}
    for lab in labs:
        path, exercise = lab.path.parent / "exercises" / lab.path.name, in_subfolder(to_exercise(lab))
        files[path] = to_script(exercise)
        files[path.with_suffix(".ipynb")] = to_notebook(for_colab(exercise))
    return files


def solved_path(lab: Lab) -> Path:
    return lab.path.parent / "solved" / lab.path.with_suffix(".ipynb").name


def for_colab(lab: Lab) -> Lab:
    """The lab with a cell that installs the package in Google Colab, below the title."""
    cell = Cell(COLAB.format(requirement=requirement()), tags=("colab",))
    return replace(lab, cells=(*lab.cells[:1], cell, *lab.cells[1:]))


def requirement() -> str:
    """What pip installs: this version from the project's repository, or else from the package index."""
    about = importlib.metadata.metadata(PACKAGE)
    urls = dict(entry.split(", ", 1) for entry in about.get_all("Project-URL") or ())
    version = about["Version"]
    return f"git+{urls['Repository']}@v{version}" if "Repository" in urls else f"{PACKAGE}=={version}"


def solve(lab: Lab) -> str:
    """Run a lab with its solutions and return the notebook with the outputs. Needs the extra `labs`.

    Hints are folded up. UserError if a cell fails, or if a check does not pass.
    """
    for module in ("nbformat", "nbclient", "ipykernel"):
        require(module, "labs")
    with tempfile.TemporaryDirectory(prefix="shapedreamer-") as folder:
        path = Path(folder, "solved.ipynb")
        path.write_text(to_notebook(readable(lab)), encoding="utf-8")
        command = [sys.executable, "-W", "ignore", "-m", "shapedreamer.labs.execute", str(path)]
        done = subprocess.run(command, env=os.environ | _environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stdout.strip() or done.stderr.strip() or "no message"
            raise UserError(f"{lab.path.name} fails: {said.splitlines()[-1]}")
        notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            text = "".join(output.get("text", ""))
            if output.get("name") == "stderr" or "✗" in text:
                raise UserError(f"{lab.path.name}, in the cell {cell['metadata'].get('name', '')}: {text.strip()}")
    notebook["metadata"] = {
        "kernelspec": notebook["metadata"]["kernelspec"],
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _environment() -> Mapping[str, str]:
    source = str(Path(__file__).parents[2])
    paths = os.environ.get("PYTHONPATH", "")
    return {
        "PYTHONPATH": f"{source}{os.pathsep}{paths}" if paths else source,
        "SHAPEDREAMER_LABS": "build",
        "OMP_NUM_THREADS": "1",
    }


def readable(lab: Lab) -> Lab:
    """The lab as a solved notebook shows it: hints are folded up, and the lines that mark a solution are gone."""
    return in_subfolder(replace(lab, cells=tuple(_readable(cell) for cell in lab.cells)))


def in_subfolder(lab: Lab) -> Lab:
    """The lab with links to the documentation that work one folder deeper."""
    return replace(lab, cells=tuple(replace(cell, text=cell.text.replace("](../", "](../../")) for cell in lab.cells))


def _readable(cell: Cell) -> Cell:
    if "hint" in cell.tags:
        summary = f"<summary>A hint for <code>{cell.name}</code></summary>"
        return replace(cell, text=f"<details>{summary}\n\n{cell.text}\n\n</details>")
    if "exercise" in cell.tags:
        return replace(cell, text=without_marks(cell.text))
    return cell


def write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text.encode())
        print(path)


if __name__ == "__main__":
    sys.exit(main())
