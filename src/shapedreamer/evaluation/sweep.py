"""Quality against network calls, for every sampler: the picture that decides how to sample a model.

DDIM with eta 1 has no line of its own: with these steps it is DDPM, to the last rounding.
"""

import io
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Literal, NamedTuple

from PIL import Image
from torch import Tensor

from ..common.errors import require
from ..common.names import SamplerName
from ..models.recipes import Sampling
from .distances import fid
from .evaluator import Subject, draw, real_images
from .table import number, percent
from .validity import judge, primitives_of

STEPS = (1, 2, 4, 8, 16, 24, 50)
NUM = 512
SEARCH = 20  # network calls that looking for the shapes in an image takes about as long as
WAYS: dict[tuple[SamplerName, float], tuple[str, str]] = {  # of the sampler with this eta: name and colour
    ("ddpm", 0.0): ("ddpm = ddim, eta 1", "#d55e00"),
    ("ddim", 0.0): ("ddim", "#0072b2"),
    ("heun", 0.0): ("heun", "#009e73"),
    ("dpmpp_2m", 0.0): ("dpmpp_2m", "#aa4499"),
    ("dpmpp_2m", 1.0): ("dpmpp_2m, eta 1", "#661133"),
}
REAL = "#777777"
GAP = 0.06  # between the names beside the lines, as a share of the picture's height
Quality = Callable[[Tensor, Callable[[int], None]], float]  # of images (N, C, H, W), telling how many it has seen


class Point(NamedTuple):
    """The quality of `num` samples, drawn by one sampler in so many steps from the noise of `seed`.

    calls    of the network, for a sample: twice the steps with a guidance that is neither 0 nor 1
    measure  what quality is: "valid", the share of samples made of shapes, or "FID"
    real     the quality of as many real images
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


def sweep(it: Subject, num: int = NUM, guidance: float = 1.0, seed: int = 0) -> list[Point]:
    """The quality with every sampler and each of STEPS that the model has, all from the same noise and labels.

    UserError as in `evaluate`.
    """
    reference, real, _ = real_images(it.training, it.held_out, num)
    it.model.stream(1, seed=seed, guidance=guidance)  # refuses what makes no sense
    steps = [n for n in STEPS if n <= it.model.schedule.T]
    quality, extra = (_valid(it), SEARCH) if primitives_of(it.training.spec) else (_distance(it, reference), 0)
    total = num * (len(WAYS) * sum(n + extra for n in steps) + extra)
    before = 0

    def tell(done: int) -> None:
        it.tell("network calls and as much other work", before + done, total)

    def one(sampler: SamplerName, eta: float, n: int) -> float:
        images, _ = draw(it.model, num, Sampling(sampler, n, eta), guidance, seed, lambda done: tell(n * done))
        return quality(images, lambda done: tell(n * num + extra * done))

    of_real = quality(real, lambda done: tell(extra * done))
    before += extra * num
    points = []
    for sampler, eta in WAYS:
        for n in steps:
            calls = n if guidance in (0, 1) else 2 * n
            measure: Literal["valid", "FID"] = "valid" if extra else "FID"
            found = one(sampler, eta, n)
            points.append(Point(sampler, eta, n, calls, measure, found, of_real, num, seed, guidance))
            before += (n + extra) * num
    return points


def table(points: Sequence[Point]) -> list[str]:
    """A line for each sampler and a column for each number of network calls."""
    first = points[0]
    form = percent if first.measure == "valid" else number
    calls = sorted({point.calls for point in points})
    lines = [("network calls", *map(str, calls))]
    for name, line in _lines(points).items():
        lines.append((name, *(form(point.quality) for point in line)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join([f"{head:{widths[0]}}", *map(str.rjust, cells, widths[1:])]) for head, *cells in lines)
    return [f"{title(points)}; real images: {form(first.real)}", *rows]


def title(points: Sequence[Point]) -> str:
    first = points[0]
    quality = "images made of one to three shapes" if first.measure == "valid" else "FID, lower is better"
    return f"{quality} ({first.num} samples each)"


def picture(points: Sequence[Point]) -> Image.Image:
    """Quality over network calls, a line for each sampler and one for real images. Needs the extra `track`."""
    figure = require("matplotlib.figure", "track").Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    first, ends = points[0], {}
    for name, line in _lines(points).items():
        _, colour = WAYS[line[0].sampler, line[0].eta]
        axes.plot([point.calls for point in line], [point.quality for point in line], marker="o", color=colour)
        ends[name] = line[-1].quality, colour
    axes.axhline(first.real, color=REAL, linestyle="--")
    ends["real images"] = first.real, REAL

    calls = sorted({point.calls for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(calls, [str(n) for n in calls])
    if first.measure == "valid":
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.0f}%")
    else:
        axes.set_yscale("log")
        axes.autoscale_view()
    axes.set(xlabel="network calls a sample", title=title(points))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)

    ends = dict(sorted(ends.items(), key=lambda end: end[1][0]))
    heights = [axes.transAxes.inverted().transform(axes.transData.transform((1, y)))[1] for y, _ in ends.values()]
    for (name, (_, colour)), height in zip(ends.items(), apart(heights, GAP), strict=True):
        axes.text(1.02, height, name, color=colour, va="center", transform=axes.transAxes)

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer)


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights, moved as little as it takes (in squares) for each to be at least `gap` above the one before."""
    groups: list[list[float]] = []  # of those that are moved together, each height less the gaps below it
    for i, height in enumerate(heights):
        groups.append([height - i * gap])
        while len(groups) > 1 and fmean(groups[-2]) > fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    level = [fmean(group) for group in groups for _ in group]
    return [height + i * gap for i, height in enumerate(level)]


def _lines(points: Sequence[Point]) -> dict[str, list[Point]]:
    """The points of each sampler, by its name."""
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(WAYS[point.sampler, point.eta][0], []).append(point)
    return lines


def _valid(it: Subject) -> Quality:
    return lambda images, progress: judge(images, it.training.spec, progress=progress).valid


def _distance(it: Subject, reference: Tensor) -> Quality:
    classifier, _ = it.classifier
    features, _ = classifier.see(reference)
    return lambda images, _: fid(classifier.see(images)[0], features)
