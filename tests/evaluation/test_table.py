"""A table of text says each number, what it means, and whether anything was memorised."""

import copy
import subprocess
import sys
from typing import Any

import pytest

from shapedreamer.evaluation.table import lines_of, measures, number, percent, verdict

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


def but(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(QUALITY) | changes


def test_every_measure_has_its_numbers_and_its_words() -> None:
    shown = {row.name: (row.samples, row.real) for row in measures(QUALITY)}
    assert shown == {
        "valid": ("50.0%", "100.0%"),
        "exact": ("25.0%", "25.0%"),
        "as asked": ("90.0%", "90.0%"),
        "shapes an image": ("1.75", "1.75"),
        "crisp": ("99.0%", "99.0%"),
        "white": ("10.0%", "10.0%"),
        "FID": ("12.3", "0.5"),
        "KID": ("0.0312", "-0.00123"),
        "precision": ("81.2%", "95.0%"),
        "recall": ("75.0%", "93.8%"),
        "label accuracy": ("62.5%", "87.5%"),
        "nearer than new": ("0.51", "0.50"),
        "close to a copy": ("2.0%", "1.2%"),
    }
    better = {row.name: row.better.split()[0] for row in measures(QUALITY)}
    assert {name for name, word in better.items() if word == "lower"} == {"FID", "KID"}
    assert {name for name, word in better.items() if word == "best"} == {
        "shapes an image", "white", "nearer than new", "close to a copy",
    }  # fmt: skip
    assert all(row.brief and row.means.endswith(".") and row.blind.endswith(".") for row in measures(QUALITY))


def test_what_was_not_measured_is_left_out() -> None:
    names = [row.name for row in measures(but(shapes=None, label_accuracy=None))]
    assert names == ["FID", "KID", "precision", "recall", "nearer than new", "close to a copy"]
    unasked = but()
    unasked["shapes"]["samples"]["asked"] = unasked["shapes"]["real"]["asked"] = None
    assert "as asked" not in [row.name for row in measures(unasked)]


def test_a_model_without_a_valid_image_has_dashes() -> None:
    quality = but()
    quality["shapes"]["samples"] |= {"valid": 0.0, "shapes": None, "kinds": None, "asked": None}
    shown = {row.name: (row.samples, row.real) for row in measures(quality)}
    assert shown["valid"] == ("0.0%", "100.0%")
    assert shown["as asked"] == ("–", "90.0%")
    assert shown["shapes an image"] == ("–", "1.75")
    assert "kinds of shapes: there is no valid image" in lines_of(quality)


def test_the_lines_say_everything_in_columns() -> None:
    lines = lines_of(QUALITY)
    assert lines[0] == "300 samples of runs/one beside 300 real images of shapes"
    assert lines[1] == "ddim, 24 steps, eta 1, guidance 1.5, seed 7: 12 s"
    assert lines[2].split() == ["samples", "real"]
    for line, row in zip(lines[3:], measures(QUALITY), strict=False):
        assert line.startswith(row.name)
        assert line[: lines[2].index("real") + 4].removeprefix(row.name).split() == [row.samples, row.real]
        assert line.endswith(f"  {row.better}: {row.brief}")
    assert lines[-3] == "kinds of shapes: circle 75.0% (real: 50.0%), line 25.0% (real: 50.0%)"
    assert lines[-2] == verdict(QUALITY)
    assert "the features of a classifier of shapes" in lines[-1]
    assert all(lines)
    assert max(len(line) for line in lines[:-1]) < 100


@pytest.mark.parametrize(
    ("nearer", "close", "close_held_out", "says"),
    [
        (0.5, 0.01, 0.01, "lie as far from"),
        (0.599, 0.05, 0.01, "lie as far from"),
        (0.5, 0.051, 0.01, "memorises: 5.1% of its samples are as close to a training image as only 1.0%"),
        (1.0, 1.0, 0.01, "memorises: 100.0%"),
        (0.61, 0.01, 0.01, "copied in part, or blurred"),
        (0.1, 0.0, 0.01, "lie farther from"),
        (0.1, 0.2, 0.01, "memorises: 20.0%"),
    ],
)
def test_the_verdict_goes_by_copies_first(nearer: float, close: float, close_held_out: float, says: str) -> None:
    copies = {"nearer": nearer, "close": close, "close_held_out": close_held_out}
    assert says in verdict(but(copies=copies))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (12.345, "12.3"), (-0.001234, "-0.00123"), (999.4, "999"), (23195.7, "23196"), (-1e-17, "-1e-17")],
)
def test_numbers_have_three_digits_and_no_exponent_when_large(value: float, text: str) -> None:
    assert number(value) == text


def test_shares_are_percents() -> None:
    assert [percent(share) for share in (0, 0.12345, 1)] == ["0.0%", "12.3%", "100.0%"]


def test_a_stored_evaluation_is_printed_without_torch() -> None:
    code = f"import sys\nfrom shapedreamer.evaluation.table import lines_of\nlines_of({QUALITY!r})\n"
    done = subprocess.run([sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"])
    assert done.returncode == 0
