"""Bar charts as SVG, to stand in a page: they take its colours, and need nothing else."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 10, 40  # room around the bars
TICKS = 5  # on an axis, about
BINS = 5  # of a histogram, between two ticks


def bars(series: Mapping[str, Sequence[float]], ticks: Mapping[float, str], about: str, xlabel: str = "") -> str:
    """Shares of several series side by side: at each place a bar of each.

    series: shares, 0…1, of equal number for every name; the name is the CSS class of its bars
    ticks:  words below the bars: 0 is where the first place begins, 1 where the second does
    about:  what the chart shows, for those who cannot see it
    """
    places = len(next(iter(series.values())))
    marks = axis(max(max(shares) for shares in series.values()))
    scale = (HEIGHT - TOP - BOTTOM) / marks[-1]
    width, floor = (WIDTH - LEFT - RIGHT) / places, HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(about)}">']
    for mark in marks:
        y = floor - scale * mark
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * mark:.3g}%</text>')
    thick = 0.8 * width / len(series)
    for number, (name, shares) in enumerate(series.items()):
        for place, share in enumerate(shares):
            x, tall = LEFT + (place + 0.1) * width + number * thick, scale * share
            parts.append(
                f'<rect class="{name}" x="{x:.2f}" y="{floor - tall:.2f}" width="{thick:.2f}" height="{tall:.2f}"/>'
            )
    for at, word in ticks.items():
        parts.append(f'<text x="{LEFT + at * width:.1f}" y="{floor + 16}" text-anchor="middle">{escape(word)}</text>')
    parts.append(f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(xlabel)}</text></svg>')
    return "".join(parts)


def histogram(series: Mapping[str, Sequence[float]], about: str, xlabel: str) -> str:
    """Which share of the values of each series, all 0 or more, lies in each of equal ranges; see `bars`."""
    marks = axis(max(max(values) for values in series.values()))
    count = BINS * (len(marks) - 1)
    shares = {name: [0.0] * count for name in series}
    for name, values in series.items():
        for value in values:
            shares[name][min(int(value / marks[-1] * count), count - 1)] += 1 / len(values)
    return bars(shares, {BINS * i: f"{mark:.3g}" for i, mark in enumerate(marks)}, about, xlabel)


def axis(highest: float) -> list[float]:
    """Round numbers, evenly from 0 to the first that is not below the highest value; 0…1 if that is 0."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(n for n in (1, 2, 5, 10) if n * unit >= rough * (1 - 1e-9)) * unit
    return [i * step for i in range(math.ceil(highest / step - 1e-9) + 1)]
