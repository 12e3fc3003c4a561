"""Bar charts as SVG for a web page. The page's style sheet sets the colours; nothing else is needed."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 10, 40  # margins around the bars
TICKS = 5  # approximate number of tick marks on an axis
BINS = 5  # histogram bins between two ticks


def bars(series: Mapping[str, Sequence[float]], ticks: Mapping[float, str], label: str, xlabel: str = "") -> str:
    """A grouped bar chart: for each category, one bar per series.

    series: for each series, its shares (0 to 1), one per category; the name becomes the CSS class of the bars
    ticks:  text below the bars, by position: category i covers i to i + 1
    label:  a description of the chart for screen readers
    """
    categories = len(next(iter(series.values())))
    marks = axis(max(max(shares) for shares in series.values()))
    scale = (HEIGHT - TOP - BOTTOM) / marks[-1]
    width, floor = (WIDTH - LEFT - RIGHT) / categories, HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for mark in marks:
        y = floor - scale * mark
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * mark:.3g}%</text>')
    bar_width = 0.8 * width / len(series)
    for number, (name, shares) in enumerate(series.items()):
        for category, share in enumerate(shares):
            x, bar_height = LEFT + (category + 0.1) * width + number * bar_width, scale * share
            parts.append(
                f'<rect class="{name}" x="{x:.2f}" y="{floor - bar_height:.2f}" '
                f'width="{bar_width:.2f}" height="{bar_height:.2f}"/>'
            )
    for position, text in ticks.items():
        x = LEFT + position * width
        parts.append(f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(xlabel)}</text></svg>')
    return "".join(parts)


def histogram(series: Mapping[str, Sequence[float]], label: str, xlabel: str) -> str:
    """A histogram of non-negative values: the share of each series that falls into each bin. See `bars`."""
    marks = axis(max(max(values) for values in series.values()))
    count = BINS * (len(marks) - 1)
    shares = {name: [0.0] * count for name in series}
    for name, values in series.items():
        for value in values:
            shares[name][min(int(value / marks[-1] * count), count - 1)] += 1 / len(values)
    return bars(shares, {BINS * i: f"{mark:.3g}" for i, mark in enumerate(marks)}, label, xlabel)


def axis(highest: float) -> list[float]:
    """Tick positions: evenly spaced round numbers from 0 to the first one at or above `highest`. 0, 1 if that is 0."""
    if highest <= 0:
        return [0.0, 1.0]
    target = highest / TICKS
    unit = 10.0 ** math.floor(math.log10(target))
    step = next(n for n in (1, 2, 5, 10) if n * unit >= target * (1 - 1e-9)) * unit
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]
