"""The text of an evaluation shows every measure, its meaning and its blind spot, and the verdict on memorisation."""

import copy
import subprocess
import sys
from typing import Any

import pytest

from shapedreamer.evaluation.table import describe_sampling, lines_of, measures, number, percent, verdict

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
