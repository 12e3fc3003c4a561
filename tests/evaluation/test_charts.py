"""Bars are as high as their values."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shapedreamer.evaluation.charts import BINS, HEIGHT, WIDTH, axis, bars, histogram

Bar = tuple[float, float, float, float]


def bars_of(svg: str, name: str) -> list[Bar]:
    """The bars of a series, as (x, y, width, height)."""
    return [
        (*(float(rect.attrib[key]) for key in ("x", "y", "width", "height")),)  # type: ignore[misc]
        for rect in ElementTree.fromstring(svg).iter("rect")
        if rect.attrib["class"] == name
    ]


def texts(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter("text")]


@given(st.floats(1e-9, 1e9))
def test_axis_ticks_are_round_and_end_at_or_just_above_the_highest_value(highest: float) -> None:
    marks = axis(highest)
    step = marks[1]
    assert marks[0] == 0
    assert marks[-2] * (1 - 1e-6) <= highest <= marks[-1] * (1 + 1e-6)
    assert 2 <= len(marks) <= 7
    assert step / 10 ** math.floor(math.log10(step) + 1e-9) == pytest.approx(
        round(step / 10 ** math.floor(math.log10(step) + 1e-9))
    )
    assert re.match("[125]", f"{step:.3e}")


@pytest.mark.parametrize(
    ("highest", "marks"),
    [
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.3, [0, 0.1, 0.2, 0.3]),
        (0.41, [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
        (0.0, [0, 1]),
    ],
)
def test_axis_examples(highest: float, marks: list[float]) -> None:
    assert axis(highest) == pytest.approx(marks)


def test_bar_heights_are_proportional_and_bars_do_not_overlap() -> None:
    svg = bars({"samples": [0.1, 0.4], "real": [0.2, 0.0]}, {0.5: "circle", 1.5: "a < b"}, "about", "kinds")
    samples, real = bars_of(svg, "samples"), bars_of(svg, "real")
    unit = samples[0][3] / 0.1
    assert [bar[3] for bar in samples + real] == pytest.approx([0.1 * unit, 0.4 * unit, 0.2 * unit, 0], abs=0.02)
    assert len({round(y + height, 1) for _, y, _, height in samples + real}) == 1  # the same baseline
    intervals = sorted((x, x + width) for x, _, width, _ in samples + real)
    assert all(end <= start + 0.02 for (_, end), (start, _) in pairwise(intervals))
    assert 0 <= intervals[0][0]
    assert intervals[-1][1] <= WIDTH
    assert min(y for _, y, _, _ in samples) >= 0
    assert max(y + height for _, y, _, height in samples) <= HEIGHT
    assert texts(svg) == ["0%", "10%", "20%", "30%", "40%", "circle", "a < b", "kinds"]
    assert ElementTree.fromstring(svg).attrib["aria-label"] == "about"


def test_histogram_counts_each_value_once_in_its_bin() -> None:
    values = {"samples": [0.0, 0.01, 0.07, 0.99, 1.0], "real": [0.5, 0.5]}
    svg = histogram(values, "about", "distance")
    bins = 5 * BINS
    heights = {name: [bar[3] for bar in bars_of(svg, name)] for name in values}
    assert len(heights["samples"]) == len(heights["real"]) == bins
    tallest = max(heights["real"])
    expected = [0.0] * bins
    for index in (0, 0, 1, bins - 1, bins - 1):
        expected[index] += 1 / 5
    assert [height / tallest for height in heights["samples"]] == pytest.approx(expected, abs=1e-3)
    assert heights["real"].index(tallest) == bins // 2
    assert texts(svg)[-7:] == ["0", "0.2", "0.4", "0.6", "0.8", "1", "distance"]


def test_histogram_of_zeros() -> None:
    heights = [bar[3] for bar in bars_of(histogram({"samples": [0.0, 0.0]}, "", ""), "samples")]
    assert heights[0] > 0
    assert not any(heights[1:])
