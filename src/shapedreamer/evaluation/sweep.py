"""Quality against the number of network calls, for every sampler: helps to decide how to sample a model.

DDPM and DDIM with eta 1 share a line: with the same steps they are the same sampler, up to rounding.
"""

import io
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean
from typing import Literal, NamedTuple

from PIL import Image
from torch import Tensor

from ..common.errors import require
from ..common.names import SamplerName
from ..models.options import SampleOptions
from .distances import fid
from .evaluator import Subject, draw, real_images
from .intervals import wilson
from .table import number, percent
from .validity import judge, primitives_of

STEPS = (1, 2, 4, 8, 16, 24, 50)
NUM = 512
SEARCH_COST = 20  # the search for shapes in an image takes about as long as this many network calls
CURVES: dict[tuple[SamplerName, float], tuple[str, str]] = {  # (sampler, eta) -> (name, colour)
    ("ddpm", 0.0): ("ddpm = ddim, eta 1", "#d55e00"),
    ("ddim", 0.0): ("ddim", "#0072b2"),
    ("heun", 0.0): ("heun", "#009e73"),
    ("dpmpp_2m", 0.0): ("dpmpp_2m", "#aa4499"),
    ("dpmpp_2m", 1.0): ("dpmpp_2m, eta 1", "#661133"),
    ("midpoint", 0.0): ("midpoint", "#e69f00"),
    ("heun_line", 0.0): ("heun_line", "#56b4e9"),
}
REAL_COLOUR = "#777777"
MIN_GAP = 0.06  # between the names at the right, as a share of the plot's height
# (images (N, C, H, W), progress) -> quality, and the share of intact images or None
Metric = Callable[[Tensor, Callable[[int], None]], tuple[float, float | None]]


class Point(NamedTuple):
    """The quality of `num` samples from one sampler with one number of steps.

    calls    network calls per sample: `steps`, or twice as many if guidance is neither 0 nor 1
    measure  what `quality` is: "valid", the share of samples made of shapes, or "FID"
    real     the quality of as many real images
    intact, real_intact  the shares of intact images, if the quality is "valid"
    """

    sampler: SamplerName
    eta: float
    steps: int
    calls: int
    measure: Literal["valid", "FID"]
    quality: float
    real: float
    num: int
    seed: int
    guidance: float
    intact: float | None = None
    real_intact: float | None = None


def sweep(subject: Subject, num: int = NUM, guidance: float = 1.0, seed: int = 0) -> list[Point]:
    """Measure the quality with every sampler and with each number of steps in STEPS, up to the model's T.

    All samplers start from the same noise and use the same labels. Quality is the share of valid images if the data set
    draws shapes, otherwise FID. UserError as in evaluate_subject.
    """
    subject.model.check_gaussian(
        "a sweep over the samplers", "evaluate it with one `sampler` and one number of `steps` at a time"
    )
    reference, real, _ = real_images(subject.training, subject.held_out, num)
    subject.model.stream(1, seed=seed, guidance=guidance)  # raises UserError for invalid options
    steps = [n for n in STEPS if n <= subject.model.schedule.T]
    measure: Literal["valid", "FID"] = "valid" if primitives_of(subject.training.spec) else "FID"
    metric, cost = (_valid(subject), SEARCH_COST) if measure == "valid" else (_fid(subject, reference), 0)
    group = subject.group
    total = num * (len(CURVES) * sum(n + cost for n in steps) + cost)  # in network calls
    finished = 0

    def report(done: int) -> None:
        subject.report("sampling and measuring", finished + done, total)

    def measure_samples(sampler: SamplerName, eta: float, n: int) -> tuple[float, float | None]:
        options = SampleOptions(sampler, n, eta, seed, guidance=guidance)
        images, _ = draw(subject.model, num, options, lambda done: report(n * done), group)
        return group.first_patiently(lambda: metric(images, lambda done: report(n * num + cost * done)))

    real_quality, real_intact = group.first_patiently(lambda: metric(real, lambda done: report(cost * done)))
    finished += cost * num
    points = []
    for sampler, eta in CURVES:
        for n in steps:
            calls = n if guidance in (0, 1) else 2 * n
            quality, intact = measure_samples(sampler, eta, n)
            shares = (quality, real_quality, num, seed, guidance, intact, real_intact)
            points.append(Point(sampler, eta, n, calls, measure, *shares))
            finished += (n + cost) * num
    return points


def table(points: Sequence[Point]) -> list[str]:
    """The points as text: one line per sampler, one column per number of network calls; intact images below."""
    first = points[0]
    form = percent if first.measure == "valid" else number
    lines = [f"{title(points)}; real images: {form(first.real)}", *_rows(points, [form(p.quality) for p in points])]
    if first.real_intact is not None:
        low, high = wilson(0.5, first.num)
        lines += [
            f"intact images, higher is better; real images: {percent(first.real_intact)}",
            *_rows(points, [percent(point.intact or 0) for point in points]),
            f"95% intervals reach {50 * (high - low):.1f} points to each side, at most",
        ]
    return lines


def _rows(points: Sequence[Point], values: Sequence[str]) -> list[str]:
    """A table of values, one for each point."""
    lines = [("network calls", *map(str, sorted({point.calls for point in points})))]
    texts = dict(zip(points, values, strict=True))
    lines += [(name, *(texts[point] for point in line)) for name, line in _lines(points).items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join([f"{head:{widths[0]}}", *map(str.rjust, cells, widths[1:])]) for head, *cells in lines]


def title(points: Sequence[Point]) -> str:
    """What the points show: the measure, which direction is better, and the number of samples."""
    first = points[0]
    quality = "valid images, higher is better" if first.measure == "valid" else "FID, lower is better"
    return f"{quality} ({first.num} samples per value)"


def picture(points: Sequence[Point]) -> Image.Image:
    """Plot quality against network calls: one line per sampler, and one for real images. Needs the extra `track`."""
    figure = require("matplotlib.figure", "track").Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    first, labels = points[0], {}
    for name, line in _lines(points).items():
        _, colour = CURVES[line[0].sampler, line[0].eta]
        axes.plot([point.calls for point in line], [point.quality for point in line], marker="o", color=colour)
        labels[name] = line[-1].quality, colour
    axes.axhline(first.real, color=REAL_COLOUR, linestyle="--")
    labels["real images"] = first.real, REAL_COLOUR

    calls = sorted({point.calls for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(calls, [str(n) for n in calls])
    if first.measure == "valid":
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
    else:
        axes.set_yscale("log")
        axes.autoscale_view()
    axes.set(xlabel="network calls per sample", title=title(points))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

    labels = dict(sorted(labels.items(), key=lambda label: label[1][0]))
    heights = [axes.transAxes.inverted().transform(axes.transData.transform((1, y)))[1] for y, _ in labels.values()]
    for (name, (_, colour)), height in zip(labels.items(), spread(heights, MIN_GAP), strict=True):
        axes.text(1.02, height, name, color=colour, va="center", transform=axes.transAxes)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move increasing heights apart to at least `gap`, with the least sum of squared movements.

    This is isotonic regression, solved by pooling adjacent violators.
    """
    groups: list[list[float]] = []  # heights that end up exactly `gap` apart, with i * gap subtracted
    for i, height in enumerate(heights):
        groups.append([height - i * gap])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    levels = [fmean(group) for group in groups for _ in group]
    return [level + i * gap for i, level in enumerate(levels)]


def _lines(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each curve, by the curve's name."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(CURVES[point.sampler, point.eta][0], []).append(point)
    return lines


def _valid(subject: Subject) -> Metric:
    """The shares of valid and of intact images."""

    def measure(images: Tensor, progress: Callable[[int], None]) -> tuple[float, float | None]:
        report = judge(images, subject.training.spec, progress=progress)
        return report.valid, report.intact

    return measure


def _fid(subject: Subject, reference: Tensor) -> Metric:
    """The FID to the reference images (N, C, H, W)."""

    @cache  # computed on first use, which is in process 0 only
    def features() -> Tensor:
        return subject.classifier[0].predict(reference)[0]

    return lambda images, _: (fid(subject.classifier[0].predict(images)[0], features()), None)
