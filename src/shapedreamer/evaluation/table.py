"""The results of an evaluation as text: every measure with its meaning, which values are good, and its blind spots.

This module does not import torch. `quality` is an Evaluation (see evaluator.py) as a plain dict, from
dataclasses.asdict or from JSON.
"""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from ..common.errors import UserError
from ..models import zoo

WIDTH = 99  # columns
MAX_CLOSE_RATIO = 5  # close / close_held_out without memorisation; chance stays below it, even with 256 samples
MIN_NEARER, MAX_NEARER = 0.4, 0.6  # range without memorisation; by chance, `nearer` is within 0.5 ± 0.08
KIND_COLUMNS = ["by kind", "valid", "real", "intact", "real", "share", "real"]  # see kind_rows
Better = Literal["lower is better", "higher is better", "best close to real", "best at or below real"]


class Measure(NamedTuple):
    """One measure of the samples and of real images, formatted for display; "–" if there is nothing to measure.

    brief:       the meaning in a few words
    explanation: the meaning in full sentences
    blind_spot:  what it cannot detect
    interval, real_interval: the 95% confidence intervals of both values; "" if they were not computed
    """

    name: str
    samples: str
    real: str
    better: Better
    brief: str
    explanation: str
    blind_spot: str
    interval: str = ""
    real_interval: str = ""


def measures(quality: Mapping[str, Any]) -> list[Measure]:
    """All measures of an evaluation, the most informative ones first."""
    copies, shapes, label = quality["copies"], quality["shapes"], quality["label_accuracy"]
    return [
        *(_shape_measures(shapes["samples"], shapes["real"]) if shapes else []),
        Measure(
            "FID",
            *_both(quality["fid"], number),
            "lower is better",
            "distance to training images in feature space",
            "Fréchet distance. A classifier turns each image into a vector of features; FID compares the mean and the "
            "covariance of the features of both sets, as if they were Gaussian. It is 0 if both agree.",
            "It does not separate quality from variety. It depends on the number of images and on the classifier: "
            "compare it only with FIDs that were measured in the same way.",
        ),
        Measure(
            "KID",
            *_both(quality["kid"], number),
            "lower is better",
            "like FID, from all pairs of images",
            "Kernel distance. It compares the features of all pairs of images, without assuming that they are "
            "Gaussian. For two sets from one distribution it is 0 on average, so small negative values are normal.",
            "Like FID, it misses flaws that the features do not show.",
        ),
        Measure(
            "precision",
            *_both(quality["precision"], percent),
            "higher is better",
            "samples that resemble training images",
            "The share of samples that lie among the training images. A sample does if it is at least as close to one "
            "of them, in feature space, as that image's third-nearest neighbour. Low precision means bad samples.",
            "It ignores variety: a model that repeats one good image scores 100%.",
        ),
        Measure(
            "recall",
            *_both(quality["recall"], percent),
            "higher is better",
            "training images that resemble samples",
            "The share of training images that lie among the samples, measured in the same way. Low recall means that "
            "the samples miss some kinds of images.",
            "It says little about quality: bad samples raise it if they are widely scattered.",
        ),
        *([_label_measure(label)] if label else []),
        Measure(
            "copying",
            f"{copies['nearer']:.2f}",
            "0.50",
            "best close to real",
            "1 = copies, 0.5 = new, 0 = unlike the data",
            "The probability that a sample is closer to a training image than an unseen real image is. It is 0.5 if "
            "samples are as new as unseen real images, 1 if all samples are copies, and near 0 if the samples do not "
            "resemble the data.",
            "It compares pixels: shifted, mirrored or recoloured copies count as new, and blurry samples look like "
            "copies. A few copies among many samples hardly change it.",
        ),
        Measure(
            "near-copies",
            percent(copies["close"]),
            percent(copies["close_held_out"]),
            "best at or below real",
            "samples very close to a training image",
            "The share of samples that are as close to a training image as the closest 1% of unseen real images. It "
            "reveals a few copies among many samples.",
            "Simple images can be nearly equal without any copying.",
        ),
    ]


def verdict(quality: Mapping[str, Any]) -> str:
    """One sentence: does the model memorise training images?"""
    copies = quality["copies"]
    if copies["close"] > MAX_CLOSE_RATIO * copies["close_held_out"]:
        return (
            f"The model memorises training images: {percent(copies['close'])} of the samples are as close to one as "
            f"only {percent(copies['close_held_out'])} of unseen real images are."
        )
    if copies["nearer"] > MAX_NEARER:
        return (
            "Samples are closer to the training images than unseen real images are. They are partly copied, or "
            "blurry: look at the closest pairs in the report."
        )
    if copies["nearer"] < MIN_NEARER:
        return "No sign of memorisation: samples are farther from the training images than unseen real images are."
    return "No sign of memorisation: samples are as far from the training images as unseen real images are."


def describe_sampling(quality: Mapping[str, Any]) -> str:
    """The sampling options in one line."""
    steps = f"{quality['steps']} step" if quality["steps"] == 1 else f"{quality['steps']} steps"
    guidance = f"{'CFG++ ' if quality.get('cfg_pp') else ''}guidance {quality['guidance']:g}"
    if quality.get("guide_with"):
        guidance += f" away from {quality['guide_with']}"
    if quality.get("guidance_interval"):
        low, high = quality["guidance_interval"]
        guidance += f" at log-SNR {low:g} to {high:g}"
    return f"{quality['sampler']}, {steps}, eta {quality['eta']:g}, {guidance}, seed {quality['seed']}"


def describe_features(quality: Mapping[str, Any]) -> str:
    """One sentence that names the network whose features the distances use."""
    return f"FID, KID, precision and recall use the features of {quality['features']}."


def lines_of(quality: Mapping[str, Any]) -> list[str]:
    """An evaluation as lines of text: a table of the measures, then what they do not show, then the verdict."""
    rows = measures(quality)
    cells = [("", "samples", "real", ""), *((*row[:3], f"{row.better}: {row.brief}") for row in rows)]
    name, samples, real, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
    table = [f"{a:{name}}  {b:>{samples}}  {c:>{real}}  {d}".rstrip() for a, b, c, d in cells]
    limits = [
        line
        for row in rows
        for line in textwrap.wrap(
            row.blind_spot, WIDTH, initial_indent=f"{row.name:{name}}  ", subsequent_indent=" " * (name + 2)
        )
    ]
    num = quality["num"]
    return [
        f"{num} samples of {quality['model']} compared with {num} real images of {quality['data']}",
        f"sampled with {describe_sampling(quality)}, in {quality['seconds']:.0f} s",
        "",
        *table,
        *(_shape_lines(quality["shapes"], rows) if quality["shapes"] else []),
        "",
        '"real" measures other real images in place of the samples: a perfect model scores about the same.',
        "What the measures do not show:",
        *limits,
        "",
        verdict(quality),
        describe_features(quality),
    ]


def number(value: float) -> str:
    """A number with three significant digits, or all digits before the point: 12.3, 0.0312, 23196."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share as a percentage with one decimal: 0.123 -> "12.3%"."""
    return f"{100 * share:.1f}%"


def _both(measure: Mapping[str, float], form: Callable[[float], str]) -> tuple[str, str]:
    return form(measure["samples"]), form(measure["real"])


def _shape_measures(samples: Mapping[str, Any], real: Mapping[str, Any]) -> list[Measure]:
    def both(key: str, form: Callable[[float], str]) -> tuple[str, str]:
        values = samples[key], real[key]
        first, second = ("–" if value is None else form(value) for value in values)
        return first, second

    rows = [
        Measure(
            "valid",
            *both("valid", percent),
            "higher is better",
            "images made of one to three shapes",
            "The share of images that consist of one to three shapes of the data set, with an overlap (intersection "
            "over union) of at least 92%.",
            "Edges may be slightly wrong, and a model that repeats one shape scores 100%. Thin shapes are judged "
            "more strictly: one wrong pixel makes a short line invalid, and 20 leave a large disc valid.",
        ),
        *(
            [
                Measure(
                    "intact",
                    *both("intact", percent),
                    "higher is better",
                    "each outline at most 10% wrong",
                    "The share of images that consist of one to three shapes, each with at most one wrong pixel for "
                    "every ten pixels of its outline. So thin and thick shapes are judged alike, and each by itself.",
                    "Two shapes can look like one with a flaw: a bent line may count as two lines. It ignores variety, "
                    "too.",
                )
            ]
            if real.get("intact") is not None
            else []
        ),
        Measure(
            "exact",
            *both("exact", percent),
            "higher is better",
            "valid, with at most three wrong pixels",
            "The share of images that are valid with at most three wrong pixels.",
            "It is strict: an image with four wrong pixels can look perfect. It ignores variety, too.",
        ),
        *(
            [
                Measure(
                    "label match",
                    *both("asked", percent),
                    "higher is better",
                    "valid images with the shapes of their label",
                    "The share of valid images with exactly the shapes of their label: the right number of each kind.",
                    "One shape can hide another, and two can look like a third, so even real images score below 100%.",
                )
            ]
            if real["asked"] is not None
            else []
        ),
        Measure(
            "shapes per image",
            *both("shapes", number),
            "best close to real",
            "in valid images, on average",
            "The average number of shapes in a valid image.",
            "Hidden shapes are not counted, in samples and in real images.",
        ),
        Measure(
            "crisp",
            *both("crisp", percent),
            "higher is better",
            "pixels that are nearly black or white",
            "The share of pixels that are nearly black or nearly white. In the data, all are.",
            "An empty image scores 100%.",
        ),
        Measure(
            "white",
            *both("white", percent),
            "best close to real",
            "pixels that are white",
            "The share of white pixels: the area that the shapes cover.",
            "Many small shapes can cover as much as a few large ones.",
        ),
    ]
    return [_with_intervals(row, samples, real) for row in rows]


def _with_intervals(row: Measure, samples: Mapping[str, Any], real: Mapping[str, Any]) -> Measure:
    """The measure of shapes with its intervals, which evaluations of earlier versions lack."""
    key = {"label match": "asked", "shapes per image": "shapes"}.get(row.name, row.name)
    form = number if key == "shapes" else percent
    spans = [_span((report.get("intervals") or {}).get(key), form) for report in (samples, real)]
    return row._replace(interval=spans[0], real_interval=spans[1])


def _label_measure(label: Mapping[str, float]) -> Measure:
    return Measure(
        "label accuracy",
        *_both(label, percent),
        "higher is better",
        "images recognised as their label",
        "The share of images that the classifier assigns to their label.",
        "The classifier makes mistakes, even with real images. An image that it recognises can still look bad.",
    )


def _shape_lines(shapes: Mapping[str, Any], rows: Sequence[Measure]) -> list[str]:
    """What the table does not have: the intervals, and the measures by kind."""
    kinds = kind_rows(shapes)
    if not kinds:
        return [_kinds(shapes)]  # an evaluation of an earlier version
    spans = ", ".join(f"{row.name} {row.interval}" for row in rows if row.interval)
    widths = [max(map(len, column)) for column in zip(KIND_COLUMNS, *kinds, strict=True)]
    table = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in (KIND_COLUMNS, *kinds)]
    return [*textwrap.wrap(f"95% intervals of the samples: {spans}", WIDTH), "", *table, describe_kinds(shapes)]


def kind_rows(shapes: Mapping[str, Any]) -> list[list[str]]:
    """For each kind of shape the cells of KIND_COLUMNS. Empty for an evaluation of an earlier version."""
    samples, real = shapes["samples"], shapes["real"]
    rows = []
    for kind, found in (samples.get("by_kind") or {}).items():
        values = [_kind_values(report, kind) for report in (samples, real)]
        cells = [kind]
        for key, value in values[0].items():
            span = _span(found["intervals"].get(key), percent)
            cells += [f"{value} ({span})" if span else value, values[1][key]]
        rows.append(cells)
    return rows


def _kind_values(report: Mapping[str, Any], kind: str) -> dict[str, str]:
    found = report["by_kind"][kind]
    values = {"valid": found["valid"], "intact": found["intact"], "share": (report["kinds"] or {}).get(kind)}
    return {key: "–" if value is None else percent(value) for key, value in values.items()}


def describe_kinds(shapes: Mapping[str, Any]) -> str:
    """One sentence: what the columns of kind_rows measure."""
    conditional = shapes["real"]["asked"] is not None
    images = "whose label asks for the kind" if conditional else "in which the search found the kind"
    return f"valid, intact: of the images {images}; share: of the shapes in valid images."


def _span(interval: Sequence[float] | None, form: Callable[[float], str]) -> str:
    """An interval as text: 71.8–82.0%. "" without one."""
    return "" if interval is None else f"{form(interval[0]).removesuffix('%')}–{form(interval[1])}"


def _kinds(shapes: Mapping[str, Any]) -> str:
    samples, real = shapes["samples"]["kinds"], shapes["real"]["kinds"]
    if samples is None or real is None:
        return "kinds of shapes: none, because no image is valid"
    return "kinds of shapes: " + ", ".join(
        f"{kind} {percent(share)} (real: {percent(real[kind])})" for kind, share in samples.items()
    )


def describe(name: str) -> str:
    """The model card of a shipped model as text. UserError if there is no such model."""
    if name not in zoo.names():
        shipped = ", ".join(zoo.names()) or "none"
        raise UserError(f"there is no shipped model {name!r}; the shipped models are: {shipped}")
    card = zoo.card(name)
    commands = "\n".join(f"    {command}" for command in card.commands)
    quality = "\n".join(lines_of(card.quality))
    return (
        f"{name}: {card.about}\n\ndata: {card.data}\n{card.parameters:,} parameters, "
        f"trained on {card.images:,} images in {card.minutes:.0f} minutes, seed {card.seed}, on {card.machine}\n"
        f"commands:\n{commands}\n\n{quality}\n\nsha256 of the weights: {card.sha256}"
    )
