"""`shapedreamer doctor`: its report and its exit codes."""

import sys
from pathlib import Path

import pytest

from shapedreamer import cli
from shapedreamer.common.errors import UserError
from shapedreamer.evaluation import doctor
from shapedreamer.evaluation.ailments import Check
from shapedreamer.evaluation.doctor import Examination


def run_doctor(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "doctor", *map(str, words), "--device", "cpu"])
    return cli.main()


def test_a_sick_run_is_exit_code_10(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(monkeypatch, "sprites-epoch-0") == 10
    output = capsys.readouterr().out
    assert "✗ loss at the baseline\n  Measured: " in output
    assert "\n  What to do: " in output


def test_a_healthy_run_is_exit_code_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    healthy = Examination("sprites", (Check("SNR 1e-8", "at most 0.001", name="x_T is noise"),))
    monkeypatch.setattr(doctor, "examine", lambda *arguments: healthy)
    assert run_doctor(monkeypatch, "sprites") == 0
    assert capsys.readouterr().out.startswith("sprites: nothing found in 1 check\n")


@pytest.mark.parametrize("words", [("nowhere",), ("mnist", "--data", "nowhere"), ("sprites", "--data", ".")])
def test_a_run_that_cannot_be_examined_is_exit_code_20(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_doctor(monkeypatch, *words) == 20
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_an_error_in_the_middle_is_exit_code_20(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> Examination:
        raise UserError("the disk is gone")

    monkeypatch.setattr(doctor, "examine", fail)
    assert run_doctor(monkeypatch, "sprites") == 20
    assert "the disk is gone" in capsys.readouterr().err
