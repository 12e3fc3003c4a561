"""Every check of the labs accepts right answers in any style, and names the mistake of each wrong one."""

import importlib
import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from shapedreamer.labs import checks
from shapedreamer.labs.source import Lab, read_lab, to_exercise
from shapedreamer.labs.verdict import Verdict, judge
from tests.labs.answers import Answers

LABS = [read_lab(path) for path in sorted((Path(__file__).parents[2] / "labs").glob("lab*.py"))]
EXERCISES = [pytest.param(lab, name, id=f"{lab.name}-{name}") for lab in LABS for name in lab.exercises]
TRAINING = ("lab2-exam", "lab12-score", "lab12-train_steps")  # their checks train a network for each answer
EXERCISES_BY_SPEED = [
    pytest.param(lab, name, id=f"{lab.name}-{name}", marks=[pytest.mark.slow] * (f"{lab.name}-{name}" in TRAINING))
    for lab in LABS
    for name in lab.exercises
]
SEEDS = 200


def run_cells(lab: Lab, *tags: str) -> dict[str, Any]:
    """The names that the cells with one of these tags define."""
    names: dict[str, Any] = {"__name__": "lab"}
    with redirect_stdout(io.StringIO()):
        for cell in lab.cells:
            if set(cell.tags) & set(tags):
                exec(compile("\n" * (cell.line - 1) + cell.text, lab.path, "exec"), names)
    return names


@pytest.fixture(scope="module")
def solutions() -> dict[str, dict[str, Any]]:
    """What the setup and exercise cells of each lab define; filled when a lab is first used."""
    return {}


def solution(solutions: dict[str, dict[str, Any]], lab: Lab, name: str) -> Any:
    if lab.name not in solutions:
        solutions[lab.name] = run_cells(lab, "setup", "exercise")
    return solutions[lab.name][name]


def verdict(lab: Lab, name: str, answer: Any, seed: int = 0) -> Verdict:
    check = getattr(getattr(checks, lab.name), name)
    return judge(f"{lab.name}.{name}", check.test, (answer,), seed)


def answers(lab: Lab) -> dict[str, Answers]:
    table: dict[str, Answers] = importlib.import_module(f"tests.labs.answers.{lab.name}").ANSWERS
    return table


@pytest.mark.parametrize(("lab", "name"), EXERCISES)
def test_the_solution_passes(lab: Lab, name: str, solutions: dict[str, dict[str, Any]]) -> None:
    result = verdict(lab, name, solution(solutions, lab, name))
    assert result.passed, result.message


@pytest.mark.slow
@pytest.mark.parametrize(("lab", "name"), EXERCISES)
def test_the_solution_passes_on_many_seeds(lab: Lab, name: str, solutions: dict[str, dict[str, Any]]) -> None:
    for seed in range(SEEDS):
        result = verdict(lab, name, solution(solutions, lab, name), seed)
        assert result.passed, f"seed {seed}: {result.message}"


@pytest.mark.parametrize(("lab", "name"), EXERCISES)
def test_right_answers_in_another_style_pass(lab: Lab, name: str) -> None:
    right = answers(lab)[name].right
    assert len(right) >= 2
    for answer in right:
        for seed in range(5):
            result = verdict(lab, name, answer, seed)
            assert result.passed, f"{answer}: {result.message}"


@pytest.mark.parametrize(("lab", "name"), EXERCISES_BY_SPEED)
def test_each_wrong_answer_gets_its_message(lab: Lab, name: str) -> None:
    wrong = answers(lab)[name].wrong
    assert len(wrong) >= (3 if name == "exam" else 5)
    for answer, message in wrong:
        for seed in range(3):
            result = verdict(lab, name, answer, seed)
            assert not result.passed, f"{answer} passed"
            assert message in result.message, f"{answer}: {result.message}"


@pytest.mark.parametrize(("lab", "name"), EXERCISES)
def test_hostile_answers_get_one_clear_sentence(lab: Lab, name: str) -> None:
    def raises(*arguments: Any, **named: Any) -> Any:
        raise ValueError("my own mistake")

    for answer in (raises, 3, "text", lambda *arguments, **named: "text", lambda *arguments, **named: None, print):
        result = verdict(lab, name, answer)
        assert not result.passed
        assert result.message
        assert "\n" not in result.message.strip()


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_every_exercise_fails_unsolved(lab: Lab) -> None:
    unsolved = run_cells(to_exercise(lab), "setup", "exercise")
    for name in lab.exercises:
        result = verdict(lab, name, unsolved.get(name))
        assert not result, name
        if any("# begin buggy" in cell.text for cell in lab.find("exercise", name)):
            assert "still there" in result.message, result.message  # it describes the symptom, not the cause


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_lab_is_complete(lab: Lab) -> None:
    *exercises, last = lab.exercises
    assert last == "exam"
    assert 3 <= len(exercises) <= 6 or lab.name == "lab12"
    assert any("prediction" in cell.tags for cell in lab.cells)
    for name in lab.exercises:
        assert len(lab.find("hint", name)) == 3, name
        assert len(lab.find("explanation", name)) == 1, name
        assert len(lab.find("check", name)) == 1, name


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.name)
def test_a_learners_file_has_no_solution(lab: Lab) -> None:
    learner = to_exercise(lab)
    for before in (cell for cell in lab.cells if "exercise" in cell.tags):
        (after,) = learner.find("exercise", before.name)
        solved = before.text.partition("# begin solution")[2].partition("# end solution")[0].split("\n")
        assert any(line.strip() for line in solved), before.name
        assert "begin solution" not in after.text
        for line in solved:
            assert len(line.strip()) < 12 or line not in after.text.split("\n")
