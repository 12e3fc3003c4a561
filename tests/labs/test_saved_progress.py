"""The progress file: it survives damage, and an exercise that is solved stays solved."""

from pathlib import Path

import pytest

from shapedreamer.labs import progress
from shapedreamer.labs.predictions import Predictions

HERE = Path()


def test_nothing_is_stored_without_a_learners_folder() -> None:
    progress.record("lab90.half", True)
    assert list(HERE.iterdir()) == []


def test_solved_exercises_stay_solved() -> None:
    progress.write(HERE, progress.EMPTY)
    progress.record("lab90.half", True)
    progress.record("lab90.half", False)
    progress.record("lab90.half", True)
    assert progress.read(HERE)["solved"] == ["lab90.half"]


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", "\x00" * 50, "[" * 10000])
def test_damage_costs_nothing_that_was_there_one_write_before(content: str) -> None:
    progress.write(HERE, progress.EMPTY | {"solved": ["lab90.half"]})
    progress.write(HERE, progress.EMPTY | {"solved": ["lab90.half", "lab90.exam"]})
    Path(progress.NAME).write_text(content)
    assert progress.read(HERE)["solved"] == ["lab90.half"]
    progress.record("lab90.quarter", True)  # writes without a repair before it
    assert progress.read(HERE)["solved"] == ["lab90.half", "lab90.quarter"]
    assert Path(progress.DAMAGED).read_text() == content


def test_without_a_backup_the_damaged_file_is_kept() -> None:
    Path(progress.NAME).write_text("damaged")
    assert "type check-all" in progress.repair(HERE)
    assert progress.repair(HERE) == ""
    assert progress.read(HERE) == progress.EMPTY
    assert Path(progress.DAMAGED).read_text() == "damaged"


def test_entries_of_a_wrong_type_are_ignored() -> None:
    Path(progress.NAME).write_text('{"solved": "all", "hints": {"a": "b", "c": 2}, "predictions": 3, "current": []}')
    assert progress.read(HERE) == progress.EMPTY | {"hints": {"c": 2}}


def test_the_first_prediction_counts(capsys: pytest.CaptureFixture[str]) -> None:
    progress.write(HERE, progress.EMPTY)
    for letter in ("?", "a", "b"):
        Predictions()("lab90.size", letter, a="smaller", b="larger")
    said = capsys.readouterr().out
    assert 'Replace "?" with a or b.' in said
    assert progress.read(HERE)["predictions"] == {"lab90.size": "a"}
    predict = Predictions()
    predict("lab90.size", "b", a="smaller", b="larger")
    predict.measured("lab90.size", "a", "1 and 0.5")
    assert "You predicted that." in capsys.readouterr().out
