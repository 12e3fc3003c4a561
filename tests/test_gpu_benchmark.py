"""benchmarks/gpu.py runs on a CPU as well, and needs to be asked to."""

import sys
from dataclasses import replace

import pytest
import torch
import tyro

from benchmarks import gpu, speedrun
from tests.tiny import TUNED


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
def test_without_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    with pytest.raises(SystemExit) as end:
        tyro.cli(gpu.main)
    assert end.value.code == 2
    assert "error: device cuda is not available on this machine" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_has_every_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "RECIPE", replace(TUNED, name="shapes"))
    monkeypatch.setattr(gpu, "BATCHES", (16,))
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "EPOCHS", 1)
    monkeypatch.setattr(gpu, "TESTS", gpu.TESTS[:1])
    monkeypatch.setattr(gpu, "BACKEND", "eager")  # the default backend compiles for minutes on a CPU
    monkeypatch.setattr(speedrun, "TRIAL_MINUTES", 0.01)
    monkeypatch.setattr("shapedreamer.evaluation.validity.BEAM_WIDTH", 1)  # a short search for shapes in noise
    monkeypatch.setattr("shapedreamer.evaluation.validity.BRANCHES", 1)
    monkeypatch.setattr(sys, "argv", "gpu --device cpu --minutes 0.01 --goal 0 --num 256".split())
    with pytest.raises(SystemExit) as end:
        tyro.cli(gpu.main)
    report = capsys.readouterr().out
    assert end.value.code == 0, report
    for row in ("| training step | 16 |", "| call of the network | 16 |"):
        assert report.count(row) == 1
    assert "0% valid samples take" in report
    assert "Tests that need CUDA:" in report
