"""The line that benchmarks/speedrun.py prints for each checkpoint."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import speedrun
from shapedreamer.evaluation.evaluator import SampleVsReal, Shapes
from shapedreamer.evaluation.validity import KindReport, ShapeReport


def test_a_score_has_every_measure_of_shapes_with_its_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    spans = dict.fromkeys(("valid", "intact", "exact", "crisp", "white", "shapes"), (0.125, 0.75))
    kinds = {"circle": KindReport(9, 0.75, 0.5, {}), "line": KindReport(0, None, None, {})}
    samples = ShapeReport(0.5, 0.25, 0.875, 0.1, 1.5, {"circle": 1.0, "line": 0.0}, None, 0.375, kinds, spans)
    real = ShapeReport(1.0, 1.0, 1.0, 0.2, 2.0, {"circle": 0.5, "line": 0.5}, None, 1.0)
    quality = SimpleNamespace(fid=SampleVsReal(2.0, 0.5), label_accuracy=None, shapes=Shapes(samples, real))
    monkeypatch.setattr(speedrun, "evaluate", lambda *_, **__: quality)
    first, *kind_lines = speedrun.score(Path("run"), 256, None).splitlines()
    assert first == (
        "FID 2.000, 4.0 × real  valid 0.500 [0.125, 0.750] (1.000)  intact 0.375 [0.125, 0.750] (1.000)  "
        "exact 0.250 [0.125, 0.750] (1.000)  crisp 0.875 [0.125, 0.750] (1.000)  white 0.100 [0.125, 0.750] (0.200)"
    )
    assert [line.split() for line in kind_lines] == [
        "circle valid 0.750 intact 0.500 of the shapes 1.000 (0.500)".split(),
        "line valid – intact – of the shapes 0.000 (0.500)".split(),
    ]
