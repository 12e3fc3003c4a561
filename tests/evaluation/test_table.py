"""The text of an evaluation shows every measure, its meaning and its blind spot, and the verdict on memorisation."""

import copy
import subprocess
import sys
from typing import Any

import pytest

from shapedreamer.evaluation.table import describe_sampling, lines_of, measures, number, percent, verdict
from shapedreamer.models import zoo

REPORT = {"valid": 0.5, "exact": 0.25, "crisp": 0.99, "white": 0.1, "shapes": 1.75, "asked": 0.9}
QUALITY: dict[str, Any] = {
    "model": "runs/one",
    "data": "shapes",
    "num": 300,
    "seed": 7,
    "sampler": "ddim",
    "steps": 24,
    "eta": 1.0,
    "guidance": 1.5,
    "seconds": 12.34,
    "features": "a classifier of shapes",
    "fid": {"samples": 12.345, "real": 0.5},
    "kid": {"samples": 0.0312, "real": -0.00123},
    "precision": {"samples": 0.8125, "real": 0.95},
    "recall": {"samples": 0.75, "real": 0.9375},
    "label_accuracy": {"samples": 0.625, "real": 0.875},
    "shapes": {
        "samples": REPORT | {"kinds": {"circle": 0.75, "line": 0.25}},
        "real": REPORT | {"valid": 1.0, "kinds": {"circle": 0.5, "line": 0.5}},
    },
    "copies": {"nearer": 0.51, "close": 0.02, "close_held_out": 0.0125},
}


KINDS = {
    "circle": {"images": 200, "valid": 1.0, "intact": 0.9, "intervals": {"valid": [0.98, 1.0], "intact": [0.85, 0.93]}},
    "line": {"images": 0, "valid": None, "intact": None, "intervals": {}},
}
WITH_INTERVALS = {
    "intact": 0.4,
    "by_kind": KINDS,
    "intervals": {
        "valid": [0.4438, 0.5562],
        "exact": [0.2, 0.3],
        "crisp": [0.98, 1.0],
        "white": [0.09, 0.11],
        "shapes": [1.7, 1.8],
        "asked": [0.8, 0.95],
        "intact": [0.34, 0.46],
    },
}


def with_intervals() -> dict[str, Any]:
    """The quality of a conditional model, as this version measures it."""
    quality = with_changes()
    for report in quality["shapes"].values():
        report |= copy.deepcopy(WITH_INTERVALS)
        report["by_kind"]["circle"]["intervals"]["share"] = [0.7, 0.8]
    return quality


def with_changes(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(QUALITY) | changes


def test_every_measure_has_values_and_explanations() -> None:
    shown = {row.name: (row.samples, row.real) for row in measures(QUALITY)}
    assert shown == {
        "valid": ("50.0%", "100.0%"),
        "exact": ("25.0%", "25.0%"),
        "label match": ("90.0%", "90.0%"),
        "shapes per image": ("1.75", "1.75"),
        "crisp": ("99.0%", "99.0%"),
        "white": ("10.0%", "10.0%"),
        "FID": ("12.3", "0.5"),
        "KID": ("0.0312", "-0.00123"),
        "precision": ("81.2%", "95.0%"),
        "recall": ("75.0%", "93.8%"),
        "label accuracy": ("62.5%", "87.5%"),
        "copying": ("0.51", "0.50"),
        "near-copies": ("2.0%", "1.2%"),
    }
    better = {row.name: row.better.split()[0] for row in measures(QUALITY)}
    assert {name for name, word in better.items() if word == "lower"} == {"FID", "KID"}
    assert {name for name, word in better.items() if word == "best"} == {
        "shapes per image", "white", "copying", "near-copies",
    }  # fmt: skip
    assert all(
        row.brief and row.explanation.endswith(".") and row.blind_spot.endswith(".") for row in measures(QUALITY)
    )


def test_missing_measures_are_left_out() -> None:
    names = [row.name for row in measures(with_changes(shapes=None, label_accuracy=None))]
    assert names == ["FID", "KID", "precision", "recall", "copying", "near-copies"]
    unconditional = with_changes()
    unconditional["shapes"]["samples"]["asked"] = unconditional["shapes"]["real"]["asked"] = None
    assert "label match" not in [row.name for row in measures(unconditional)]


def test_the_sampling_line_names_the_kind_of_guidance() -> None:
    for changes, guidance in (
        ({}, "guidance 1.5"),
        ({"guidance_interval": None, "guide_with": None, "cfg_pp": False}, "guidance 1.5"),
        ({"guidance_interval": [-3.0, 2.5]}, "guidance 1.5 at log-SNR -3 to 2.5"),
        ({"guide_with": "runs/weak"}, "guidance 1.5 away from runs/weak"),
        ({"guidance": 0.6, "cfg_pp": True}, "CFG++ guidance 0.6"),
    ):
        assert describe_sampling(with_changes(**changes)) == f"ddim, 24 steps, eta 1, {guidance}, seed 7"


def test_values_without_a_valid_image_are_dashes() -> None:
    quality = with_changes()
    quality["shapes"]["samples"] |= {"valid": 0.0, "shapes": None, "kinds": None, "asked": None}
    shown = {row.name: (row.samples, row.real) for row in measures(quality)}
    assert shown["valid"] == ("0.0%", "100.0%")
    assert shown["label match"] == ("–", "90.0%")
    assert shown["shapes per image"] == ("–", "1.75")
    assert "kinds of shapes: none, because no image is valid" in lines_of(quality)


def test_lines_of_has_a_table_then_the_blind_spots_then_the_verdict() -> None:
    lines, rows = lines_of(QUALITY), measures(QUALITY)
    assert lines[0] == "300 samples of runs/one compared with 300 real images of shapes"
    assert lines[1] == "sampled with ddim, 24 steps, eta 1, guidance 1.5, seed 7, in 12 s"
    assert lines[3].split() == ["samples", "real"]
    for line, row in zip(lines[4:], rows, strict=False):
        assert line.startswith(row.name)
        assert line[: lines[3].index("real") + 4].removeprefix(row.name).split() == [row.samples, row.real]
        assert line.endswith(f"  {row.better}: {row.brief}")
    after = lines[4 + len(rows) :]
    assert after[0] == "kinds of shapes: circle 75.0% (real: 50.0%), line 25.0% (real: 50.0%)"
    limits = " ".join(" ".join(after[after.index("What the measures do not show:") + 1 : -3]).split())
    assert limits == " ".join(f"{row.name} {row.blind_spot}" for row in rows)
    assert lines[-2] == verdict(QUALITY)
    assert "the features of a classifier of shapes" in lines[-1]
    assert [i for i, line in enumerate(lines) if not line] == [2, 5 + len(rows), len(lines) - 3]
    assert all(line == line.rstrip() for line in lines)
    assert max(len(line) for line in lines[:-1]) < 100


def test_intact_stands_below_valid_and_measures_of_shapes_have_intervals() -> None:
    rows = measures(with_intervals())
    assert [row.name for row in rows[:3]] == ["valid", "intact", "exact"]
    assert (rows[1].samples, rows[1].real) == ("40.0%", "40.0%")
    spans = {row.name: (row.interval, row.real_interval) for row in rows}
    assert spans["valid"] == ("44.4–55.6%", "44.4–55.6%")
    assert spans["label match"] == ("80.0–95.0%", "80.0–95.0%")
    assert spans["shapes per image"] == ("1.7–1.8", "1.7–1.8")
    assert spans["FID"] == ("", "")
    assert all(row.interval == "" for row in measures(QUALITY))


def test_the_intervals_and_the_kinds_of_shapes_stand_below_the_table() -> None:
    quality = with_intervals()
    lines, rows = lines_of(quality), measures(quality)
    after = lines[4 + len(rows) :]
    blank = after.index("")
    assert " ".join(after[:blank]) == (
        "95% intervals of the samples: valid 44.4–55.6%, intact 34.0–46.0%, exact 20.0–30.0%, label match 80.0–95.0%, "
        "shapes per image 1.7–1.8, crisp 98.0–100.0%, white 9.0–11.0%"
    )
    assert after[blank + 1 : blank + 6] == [
        "by kind  valid                 real    intact              real   share               real",
        "circle   100.0% (98.0–100.0%)  100.0%  90.0% (85.0–93.0%)  90.0%  75.0% (70.0–80.0%)  50.0%",
        "line     –                     –       –                   –      25.0%               50.0%",
        "valid, intact: of the images whose label asks for the kind; share: of the shapes in valid images.",
        "",
    ]
    assert not any("kinds of shapes" in line for line in lines)
    assert max(len(line) for line in lines[:-1]) < 100


def test_the_kinds_of_an_unconditional_model_are_those_of_the_search() -> None:
    quality = with_intervals()
    for report in quality["shapes"].values():
        report |= {"asked": None, "kinds": None}
    lines = lines_of(quality)
    assert any("of the images in which the search found the kind" in line for line in lines)
    row = next(line for line in lines if line.startswith("circle"))
    assert row.split()[-2:] == ["(70.0–80.0%)", "–"]


@pytest.mark.parametrize("name", zoo.names())
def test_the_cards_of_the_shipped_models_are_shown(name: str) -> None:
    quality = zoo.card(name).quality
    lines = lines_of(quality)
    assert lines[0].startswith(f"{quality['num']} samples of {name} compared with")
    assert any(line.startswith("intact") for line in lines) == bool(
        quality["shapes"] and "intact" in quality["shapes"]["samples"]
    )


@pytest.mark.parametrize(
    ("nearer", "close", "close_held_out", "expected"),
    [
        (0.5, 0.01, 0.01, "samples are as far from"),
        (0.599, 0.05, 0.01, "samples are as far from"),
        (0.5, 0.051, 0.01, "memorises training images: 5.1% of the samples are as close to one as only 1.0% of"),
        (1.0, 1.0, 0.01, "memorises training images: 100.0%"),
        (0.61, 0.01, 0.01, "partly copied, or blurry"),
        (0.1, 0.0, 0.01, "samples are farther from"),
        (0.1, 0.2, 0.01, "memorises training images: 20.0%"),
    ],
)
def test_the_verdict_considers_copies_first(nearer: float, close: float, close_held_out: float, expected: str) -> None:
    copies = {"nearer": nearer, "close": close, "close_held_out": close_held_out}
    assert expected in verdict(with_changes(copies=copies))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12.345, "12.3"), (-0.001234, "-0.00123"), (999.4, "999"), (23195.7, "23196"), (-1e-17, "-1e-17")],
)
def test_numbers_have_three_digits_and_large_ones_no_exponent(value: float, text: str) -> None:
    assert number(value) == text


def test_shares_are_percentages() -> None:
    assert [percent(share) for share in (0, 0.12345, 1)] == ["0.0%", "12.3%", "100.0%"]


def test_printing_a_stored_evaluation_does_not_import_torch() -> None:
    code = f"import sys\nfrom shapedreamer.evaluation.table import lines_of\nlines_of({QUALITY!r})\n"
    process = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"])
    assert process.returncode == 0
