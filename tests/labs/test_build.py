"""The generated files: learners' files are up to date, and the solved labs run."""

import json
import subprocess
from pathlib import Path

import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.labs import build
from shapedreamer.labs.source import read_labs


def test_learners_notebooks_install_the_package_in_colab_only() -> None:
    files = build.exercise_files(read_labs())
    assert [path.name for path in files] == [
        f"lab{number}_halves.{kind}" for number in (90, 91) for kind in ("py", "ipynb")
    ]
    stored = json.loads(next(text for path, text in files.items() if path.suffix == ".ipynb"))
    source = "".join(stored["cells"][1]["source"])
    assert 'if "google.colab" in sys.modules:' in source
    assert build.requirement() in source
    names: dict[str, object] = {}
    exec(source.replace("%pip", "pass  #"), names)
    assert "package" not in names  # nothing is installed here


@pytest.mark.slow
def test_a_lab_runs_and_its_notebook_has_the_outputs() -> None:
    pytest.importorskip("nbclient")
    text = build.solve(read_labs()[0])
    stored = json.loads(text)
    outputs = "".join("".join(out.get("text", "")) for cell in stored["cells"] for out in cell.get("outputs", []))
    assert outputs.count("✓") == 3
    assert "Measured: 1 and 0.5. So a) a half is smaller. You predicted that." in outputs
    assert "begin solution" not in text
    assert "<details><summary>A hint for <code>half</code></summary>" in text
    kinds = {out["output_type"] for cell in stored["cells"] for out in cell.get("outputs", [])}
    assert kinds == {"stream"}
    names = {out.get("name") for cell in stored["cells"] for out in cell.get("outputs", [])}
    assert names == {"stdout"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "message"), [("return x", "✗ lab90.half: you return x itself"), ("return 1 / 0\nhalf(1)", "ZeroDivision")]
)
def test_a_solution_that_does_not_pass_is_an_error(small_labs: Path, wrong: str, message: str) -> None:
    pytest.importorskip("nbclient")
    path = small_labs / "lab90_halves.py"
    path.write_text(path.read_text().replace("return x / 2  # the secret solution", wrong))
    with pytest.raises(UserError, match=message):
        build.solve(read_labs()[0])


def test_links_work_in_the_folder_of_the_generated_files(small_labs: Path) -> None:
    path = small_labs / "lab90_halves.py"
    path.write_text(path.read_text().replace("a half is. Time", "a [half](../docs/concepts.md) is. Time"))
    assert "(../../docs/concepts.md)" in next(iter(build.exercise_files(read_labs()).values()))


def test_the_wheel_has_the_labs(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    assert "include labs/lab*.py" in (root / "MANIFEST.in").read_text()
    code = (
        "import sys, types, runpy, pathlib; from setuptools import Distribution; import setuptools\n"
        "setuptools.setup = lambda cmdclass: globals().update(command=cmdclass['build_py'])\n"
        f"runpy.run_path({str(root / 'setup.py')!r})\n"
        "build = command(Distribution({'packages': []}))\n"
        f"build.ensure_finalized(); build.build_lib = {str(tmp_path)!r}; build.run()\n"
    )
    pytest.importorskip("setuptools")
    import sys

    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    built = {path.name for path in (tmp_path / "shapedreamer/labs/sources").iterdir()}
    assert built == {path.name for path in (root / "labs").glob("lab*.py")}
