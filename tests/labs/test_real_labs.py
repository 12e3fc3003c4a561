"""The labs themselves, as a learner meets them: the files are up to date, every exercise passes in the runner."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from shapedreamer import cli
from shapedreamer.labs import assistance, build, progress
from shapedreamer.labs.formulas import to_unicode
from shapedreamer.labs.process import run_task
from shapedreamer.labs.run import Task, has_output_above
from shapedreamer.labs.runner import COMMANDS
from shapedreamer.labs.source import HIDDEN, Lab, read_labs, to_exercise, to_script

ROOT = Path(__file__).parents[2]
LABS = read_labs()
lab_by_lab = pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)


def test_the_exercise_files_are_up_to_date() -> None:
    expected = build.exercise_files(LABS)
    stale = [path.name for path, text in expected.items() if not path.exists() or path.read_text("utf-8") != text]
    assert not stale, "run: python -m shapedreamer.labs.build --exercises-only"
    found = {path for path in (ROOT / "labs" / "exercises").iterdir() if path.suffix in (".py", ".ipynb")}
    assert found == set(expected)


@lab_by_lab
def test_the_guide_has_a_row_for_the_lab(lab: Lab) -> None:
    assert f"| {lab.title.removeprefix('Lab ')} |" in (ROOT / "docs" / "labs.md").read_text("utf-8")


def test_the_guide_lists_every_command() -> None:
    text = (ROOT / "docs" / "labs.md").read_text("utf-8")
    assert set(COMMANDS) - {"help"} <= set(re.findall(r"`([\w-]+)`", text))


@lab_by_lab
def test_links_lead_somewhere(lab: Lab) -> None:
    for cell in lab.cells:
        for target in re.findall(r"\]\((\.\.?/[^)#]+)", cell.text) if cell.markdown else ():
            assert (ROOT / "labs" / target).exists(), target


# `make labs`, which .ci/run calls, executes all solved notebooks, and so every check cell


@pytest.mark.slow
@lab_by_lab
def test_the_first_exercise_and_the_exam_pass_in_the_runner(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / lab.path.name).write_text(to_script(lab), encoding="utf-8")
    progress.write(tmp_path, progress.EMPTY)
    for name in (lab.exercises[0], lab.exercises[-1]):
        output: list[str] = []
        results, reason = run_task(Task(lab.path.name, lab.name, name), tmp_path, 300, output.append)
        said = "".join(output)
        assert not reason, said
        assert results[-1]["passed"] is True, said
        assert "the code after it failed" not in said, said


@pytest.mark.slow
@lab_by_lab
def test_the_cells_above_an_exercise_run_in_the_runner(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / lab.path.name).write_text(to_script(to_exercise(lab)), encoding="utf-8")
    progress.write(tmp_path, progress.EMPTY)
    for name in lab.exercises[:2]:
        if has_output_above(lab, name):
            output: list[str] = []
            _, reason = run_task(Task(lab.path.name, lab.name, name, above=True), tmp_path, 300, output.append)
            said = "".join(output)
            assert not reason, said
            assert " raised " not in said, said
            assert said, name


@lab_by_lab
def test_every_formula_can_be_shown_in_a_terminal(lab: Lab) -> None:
    for cell in lab.cells:
        if set(cell.tags) & set(HIDDEN):
            for formula in re.findall(r"\$([^$]+)\$", re.sub(r"`[^`]*`", "", cell.text)):
                text = to_unicode(formula)
                assert not set(r"\{}$") & set(text), formula
                assert not re.search(r"[a-z]{4}", text) or "text" in formula, text


@pytest.mark.slow
def test_a_class_that_hands_in_the_solutions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "class" / "anna").mkdir(parents=True)
    for lab in LABS[:2]:
        shutil.copy(lab.path, tmp_path / "class" / "anna")
    monkeypatch.setattr(
        sys, "argv", ["shapedreamer", "labs", "report", str(tmp_path / "class"), "--out", str(tmp_path)]
    )
    assert cli.main() == 0
    count = sum(len(lab.exercises) for lab in LABS[:2])
    assert f"anna: {count} exercises are right" in capsys.readouterr().out


def test_explanations_name_pages_that_a_learners_folder_cannot_link_to() -> None:
    texts = [assistance.explanation(f"{lab.name}.{name}") for lab in read_labs() for name in lab.exercises]
    assert not [text for text in texts if "](../" in text]
    assert any("live page (docs/live.md)" in text for text in texts)
