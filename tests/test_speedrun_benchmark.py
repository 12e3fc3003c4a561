"""The lines that benchmarks/speedrun.py prints for each checkpoint, and for the table of records."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks import speedrun
from shapedreamer.evaluation.evaluator import SampleVsReal, Shapes
from shapedreamer.evaluation.validity import KindReport, ShapeReport


def evaluation() -> Any:
    """Made-up measures of a model of shapes."""
    spans = dict.fromkeys(("valid", "intact", "exact", "crisp", "white", "shapes"), (0.125, 0.75))
    kinds = {"circle": KindReport(9, 0.75, 0.5, {}), "line": KindReport(0, None, None, {})}
    samples = ShapeReport(0.5, 0.25, 0.875, 0.1, 1.5, {"circle": 1.0, "line": 0.0}, None, 0.375, kinds, spans)
    real = ShapeReport(1.0, 1.0, 1.0, 0.2, 2.0, {"circle": 0.5, "line": 0.5}, None, 1.0)
    shapes = Shapes(samples, real)
    return SimpleNamespace(data="shapes", num=512, fid=SampleVsReal(2.0, 0.5), label_accuracy=None, shapes=shapes)


def test_a_score_has_every_measure_of_shapes_with_its_interval() -> None:
    first, *kind_lines = speedrun.describe(evaluation()).splitlines()
    assert first == (
        "FID 2.000, 4.0 × real  valid 0.500 [0.125, 0.750] (1.000)  intact 0.375 [0.125, 0.750] (1.000)  "
        "exact 0.250 [0.125, 0.750] (1.000)  crisp 0.875 [0.125, 0.750] (1.000)  white 0.100 [0.125, 0.750] (0.200)"
    )
    assert [line.split() for line in kind_lines] == [
        "circle valid 0.750 intact 0.500 of the shapes 1.000 (0.500)".split(),
        "line valid – intact – of the shapes 0.000 (0.500)".split(),
    ]


def test_a_record_is_a_row_of_the_table_of_records() -> None:
    experiments = Path(speedrun.__file__).with_name("EXPERIMENTS.md").read_text()
    header = next(line for line in experiments.splitlines() if line.startswith("| data | date |"))
    row = speedrun.record(evaluation(), "unet batch_size=64", 49_600, 10.04)
    cells = dict(zip(*([c.strip() for c in line.strip("|").split("|")] for line in (header, row)), strict=True))
    assert cells["data"] == "shapes"
    assert cells["settings"] == "unet batch_size=64"
    assert cells["minutes"] == "10.0"
    assert cells["images"] == "49,600"
    assert cells["N"] == "512"
    shares = [cells[name] for name in ("exact", "asked", "intact", "valid", "crisp", "label accuracy")]
    assert shares == ["0.250", "–", "0.375", "0.500", "0.875", "–"]
    assert cells["FID × real"] == "4.0"
