"""The report of a class: whatever a submission does, it gets its rows, and so do the others."""

import csv
from pathlib import Path

import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.labs import report
from shapedreamer.labs.report import write_report
from shapedreamer.labs.source import BLANK, read_labs, to_exercise, to_notebook, to_script


def submission(half: str = BLANK, quarter: str = BLANK, exam: str = BLANK) -> str:
    text = to_script(to_exercise(read_labs()[0]))
    for code in (half, quarter, exam):
        head, _, tail = text.partition(BLANK)
        text = f"{head}{code}\x00{tail}"
    return text.replace("\x00", "")


def rows(out: Path) -> dict[tuple[str, str], tuple[str, str]]:
    with (out / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        return {(row["learner"], row["exercise"]): (row["passed"], row["message"]) for row in csv.DictReader(file)}


@pytest.mark.slow
def test_a_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MEMORY", 2 * 2**30)
    monkeypatch.setattr(report, "CELL_SECONDS", 2)
    folder, out = tmp_path / "class", tmp_path / "out"
    files = {
        "anna/lab90_halves.py": submission("return x / 2", "return half(half(x))", "return x / 8"),
        "bob/work/LAB90 final.py": submission("while True: pass", "return x / 4"),
        "eve/lab90.py": submission("import os; os.kill(os.getpid(), 9)", "return [0] * 10**12", "return half(x) / 4"),
        "carl.py": submission("return (", "return x / 4", "import sys; sys.exit()"),
        "dora/lab90_halves.py": "",
        "<b>fay/lab90_halves.py": submission("raise ValueError('<script>')").replace("import torch", "1 / 0"),
        "=gus/notes.txt": "nothing",
        "hal/lab90_x.ipynb": "{",
        ".hidden/lab90_x.py": submission(),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    notebook = to_notebook(to_exercise(read_labs()[0])).replace(f"    {BLANK}", "    return x / 2", 1)
    (folder / "bob/lab90_halves.ipynb").write_text(notebook)
    said: list[str] = []
    assert write_report(folder, out, timeout=100, say=said.append) == [out / "report.csv", out / "report.html"]
    assert "anna: 3 exercises are right" in said
    found = rows(out)
    assert [found["anna", name][0] for name in ("half", "quarter", "exam")] == ["1", "1", "1"]
    assert [found["bob", name][0] for name in ("half", "quarter", "exam")] == ["1", "1", "0"]  # the best of two files
    assert found["eve", "half"] == (
        "0",
        "Python was killed before the check was done; perhaps there was not enough memory",
    )
    assert found["eve", "quarter"][0] == "0"
    assert found["eve", "exam"][0] == "1"  # with the solution in the place of her half
    assert "was never closed" in found["carl", "half"][1]
    assert found["carl", "quarter"][0] == "1"
    assert "calls exit()" in found["carl", "exam"][1]
    assert "has no cell with the exercise half" in found["dora", "half"][1]
    assert "ValueError" in found["<b>fay", "half"][1]  # her setup fails; the original one is used
    assert found["'=gus", ""] == ("0", "there is no lab in this submission")
    assert found["hal", "half"] == ("0", "lab90_x.ipynb is not a notebook, or is damaged")
    assert not any("hidden" in learner for learner, _ in found)
    page = (out / "report.html").read_text()
    assert "<b>fay" not in page
    assert "<script>" not in page
    assert "&lt;b&gt;fay" in page
    assert ">3/3<" in page
    assert {path.name for path in folder.iterdir()} == {name.partition("/")[0] for name in files}


@pytest.mark.slow
def test_a_loop_that_nothing_can_stop_takes_no_more_than_its_time(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    code = "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)\n    while True: pass"
    (tmp_path / "class" / "lab90_bob.py").write_text(submission(code, "return x / 4"))
    write_report(tmp_path / "class", tmp_path / "out", timeout=25, say=lambda text: None)
    found = rows(tmp_path / "out")
    assert found["lab90_bob", "half"] == ("0", "it did not finish in 25 seconds; does a loop never end?")
    assert found["lab90_bob", "quarter"][0] == "1"


def test_a_report_is_written_for_every_learner(tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "lab90_anna.py").write_text(submission("return x / 2", "return x", "return x / 8"))
    (tmp_path / "class" / "=bob.ipynb").write_text("{")
    write_report(tmp_path / "class", tmp_path / "out", say=lambda text: None)
    found = rows(tmp_path / "out")
    assert [found["lab90_anna", name][0] for name in ("half", "quarter", "exam")] == ["1", "0", "1"]
    assert found["lab90_anna", "quarter"][1] == "you return x itself"
    assert found["'=bob", ""] == ("0", "'=bob.ipynb is not a notebook, or is damaged")
    assert ">3/3<" in (tmp_path / "out" / "report.html").read_text()  # the exam counts as the whole lab


def test_without_submissions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no submissions"):
        write_report(tmp_path / "place", tmp_path / "out")
    with pytest.raises(UserError, match="is not a folder"):
        write_report(tmp_path / "nowhere", tmp_path / "out")
