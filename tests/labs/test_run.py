"""Whatever a learner's code does, the check says one clear sentence."""

from pathlib import Path

import pytest

from shapedreamer.labs import progress
from shapedreamer.labs.run import Session, Task
from shapedreamer.labs.source import BLANK, Lab, read_lab, read_labs, replace_cell, to_exercise, to_notebook, to_script

FILE = Path("lab90_halves.py")


def fill_in(**bodies: str) -> Lab:
    """A learner's file in which the blanks of some exercises are replaced by code."""
    lab = to_exercise(read_labs()[0])
    text = to_script(lab)
    FILE.write_text(text)
    for name, body in bodies.items():
        (cell,) = read_lab(FILE).find("exercise", name)
        text = replace_cell(FILE.read_text(), cell, cell.text.replace(BLANK, body))
        FILE.write_text(text)
    return lab


def check(name: str = "half", seconds: int = 60) -> tuple[bool, str]:
    result = Session(Task(str(FILE), "lab90", name, cell_seconds=seconds)).check(name)
    return result.passed, result.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (BLANK, "this exercise is not filled in yet"),
        ("pass", "your function returns None"),
        ("return x", "you return x itself"),
        ("return x * 3", "divide by 2"),
        ("return x[0]", "shape (1, 8, 8), but (2, 1, 8, 8) is needed"),
        ("return x / 0", "NaN or ∞"),
        ("return 'text'", "returned a str"),
        ("return x.nothing", "raised AttributeError in line LINE"),
        ("return half(x)", "calls itself without end"),
        ("raise SystemExit", "calls exit()"),
        ("return (", "lab90_halves.py, line LINE: '(' was never closed"),
        ("return x\n  return 3", "unindent does not match any outer indentation level"),
    ],
)
def test_one_sentence_names_what_is_wrong(body: str, message: str) -> None:
    fill_in(half=body)
    passed, said = check()
    lines = FILE.read_text().split("\n")
    line = next((i for i, text in enumerate(lines, 1) if text == f"    {body}"), 0)
    assert not passed
    assert message.replace("LINE", str(line)) in said
    assert "\n" not in said


def test_an_endless_loop_ends() -> None:
    fill_in(half="return x\nwhile True: pass")
    passed, said = check(seconds=1)
    assert not passed
    assert "the cell did not finish in 1 seconds; does a loop never end?" in said


@pytest.mark.parametrize(
    ("top_level", "message"),
    [
        ("1 / 0", " raised ZeroDivisionError: division by zero"),
        ("del half", "this cell must define half"),
        ("exit()", "the cell calls exit()"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt"),
    ],
)
def test_code_below_the_function_may_fail_too(top_level: str, message: str) -> None:
    fill_in(half=f"return x / 2\n{top_level}")
    passed, said = check()
    assert not passed
    assert message in said


def test_the_right_answer_passes_and_its_numbers_are_compared_with_the_prediction(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill_in(half="return 0.5 * x")
    FILE.write_text(FILE.read_text().replace('"?"', '"b"'))
    progress.write(Path(), progress.EMPTY)
    assert check()[0]
    output = capsys.readouterr().out
    assert "Measured: 1 and 0.5. So a) a half is smaller. You predicted b) a half is larger." in output
    assert "not run by a check" not in output
    assert progress.read(Path())["solved"] == ["lab90.half"]
    assert progress.read(Path())["predictions"] == {"lab90.size": "b"}


def test_a_wrong_image_is_drawn_beside_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    fill_in(half="return -x")
    for _ in range(2):  # the second check replaces the picture
        assert not check()[0]
        assert "picture: pictures/lab90-half/001.png" in capsys.readouterr().out
    assert [path.name for path in Path("pictures/lab90-half").iterdir()] == ["001.png"]


def test_an_earlier_exercise_that_is_not_solved_does_not_matter() -> None:
    fill_in(half="return nonsense", quarter="return half(half(x))")
    assert check("quarter")[0]


def test_an_earlier_exercise_that_is_solved_is_the_learners() -> None:
    fill_in(half="print('mine')\n    return x / 2", quarter="return half(x) if my_own else x\nmy_own = True")
    progress.write(Path(), progress.EMPTY | {"solved": ["lab90.half"]})
    assert "divide by 4" in check("quarter")[1]


def test_deleted_cells() -> None:
    fill_in(half="return x / 2")
    whole = FILE.read_text()
    cells = {part.partition("\n")[0]: part for part in whole.split("# %%")}
    exercise, checked, setup = (
        f"# %%{cells[header]}"
        for header in (
            ' tags=["exercise"] name="half"',
            ' tags=["check"] name="half"',
            ' tags=["setup"]',
        )
    )
    FILE.write_text(whole.replace(exercise, ""))
    assert "has no cell with the exercise half any more; type reset" in check()[1]
    FILE.write_text(whole + exercise)
    assert "has 2 cells with the exercise half; delete all but one" in check()[1]
    FILE.write_text(whole.replace(checked, "").replace(setup, ""))  # the originals are used
    assert check()[0]
    FILE.write_text(whole.replace("if check.lab90.half(half):", "if True:"))  # no check in the check cell
    assert check()[0]
    FILE.unlink()
    assert "there is no lab90_halves.py" in check()[1]


def test_code_after_a_check_that_fails_does_not_change_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    fill_in(half="return x / 2")
    FILE.write_text(
        FILE.read_text().replace('    predict.measured("lab90.size"', '    1 / 0\n    predict.measured("lab90.size"')
    )
    assert check()[0]
    assert "The check has run; the code after it failed" in capsys.readouterr().out


def test_a_notebook_can_be_judged() -> None:
    lab = fill_in(half="return x / 2")
    assert lab.name == "lab90"
    text = to_notebook(to_exercise(read_labs()[0])).replace(f"    {BLANK}", "    return x / 2", 1)
    Path("mine.ipynb").write_text(text)
    session = Session(Task("mine.ipynb", "lab90", ""))
    assert [session.judge(name).passed for name in session.solved.exercises] == [True, False, False]
