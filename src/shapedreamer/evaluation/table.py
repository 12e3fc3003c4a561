"""The numbers of an evaluation, as people read them: each measure with what it means, in a table of text.

It needs no torch. `quality` is an Evaluation (see evaluation.py) as dataclasses.asdict or JSON gives it: a plain dict.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from ..common.errors import UserError
from ..models import zoo

MANY = 5  # times as many close samples as held-out images; in honest sets of the least number there are fewer
NEARER, FARTHER = 0.6, 0.4  # of `nearer`, which by chance is 0.5 ± 0.08 at the most
Better = Literal["lower is better", "higher is better", "best as for real images"]


class Measure(NamedTuple):
    """A measure of the samples and of real images in their place; "–" where there is nothing to measure.

    brief: what it is, in a few words; means: the same in full; blind: what it cannot tell
    """

    name: str
    samples: str
    real: str
    better: Better
    brief: str
    means: str
    blind: str


def measures(quality: Mapping[str, Any]) -> list[Measure]:
    """All that were taken, those that tell most first."""
    copies, shapes, label = quality["copies"], quality["shapes"], quality["label_accuracy"]
    return [
        *(_of_shapes(shapes["samples"], shapes["real"]) if shapes else []),
        Measure(
            "FID",
            *_both(quality["fid"], number),
            "lower is better",
            "how far the two sets lie apart",
            "How far the samples lie from training images by what a classifier sees in them (its features), where each "
            "set is taken for a Gaussian.",
            "It does not tell bad images from too few kinds of them, and falls with the number of images: compare it "
            "with the number beside it, or with another one of the same features and number.",
        ),
        Measure(
            "KID",
            *_both(quality["kid"], number),
            "lower is better",
            "the same, by all pairs of images",
            "How far the two sets lie apart by all pairs of images, with no Gaussian. It is 0 on average for two sets "
            "of one kind, and so below 0 for about half of them.",
            "A flaw that the features do not show costs nothing, here as in FID.",
        ),
        Measure(
            "precision",
            *_both(quality["precision"], percent),
            "higher is better",
            "samples that could be real",
            "The share of samples that lie among the training images: as near to one of them as its third-nearest "
            "neighbour.",
            "A model that draws one good image again and again has a precision of 100%.",
        ),
        Measure(
            "recall",
            *_both(quality["recall"], percent),
            "higher is better",
            "real images that could be samples",
            "The share of training images that lie among the samples, in the same sense.",
            "Bad samples raise it, too, where they are scattered widely.",
        ),
        *([_of_labels(label)] if label else []),
        Measure(
            "nearer than new",
            f"{copies['nearer']:.2f}",
            "0.50",
            "best as for real images",
            "1 where training images are copied",
            "How likely it is that a sample lies nearer to the training images than a real image that the model has "
            "never seen. It is 0.5 for samples like the data, 1 for copies, and 0 for samples unlike the data.",
            "It goes by pixels: a copy that is shifted, mirrored or recoloured is taken for new, and blurred images "
            "lie near to all others. A few copies among many samples do not move it.",
        ),
        Measure(
            "close to a copy",
            percent(copies["close"]),
            percent(copies["close_held_out"]),
            "best as for real images",
            "as close as 1% of unseen images",
            "The share of samples that lie as close to a training image as the closest hundredth of real images that "
            "the model has never seen. It shows a few copies among many samples.",
            "Where images are simple, some are close to one another and nobody copied.",
        ),
    ]


def verdict(quality: Mapping[str, Any]) -> str:
    """Whether training images were memorised, in a sentence."""
    copies = quality["copies"]
    if copies["close"] > MANY * copies["close_held_out"]:
        return (
            f"The model memorises: {percent(copies['close'])} of its samples are as close to a training image as only "
            f"{percent(copies['close_held_out'])} of new real images are."
        )
    if copies["nearer"] > NEARER:
        return (
            "The samples lie nearer to the training images than new real images do: they are copied in part, or "
            "blurred (the nearest pairs, in the report, show which)."
        )
    if copies["nearer"] < FARTHER:
        return "Nothing is memorised: the samples lie farther from the training images than new real images do."
    return "Nothing is memorised: the samples lie as far from the training images as new real images do."


def sampled(quality: Mapping[str, Any]) -> str:
    """How the samples were made, in a line."""
    return (
        f"{quality['sampler']}, {quality['steps']} steps, eta {quality['eta']:g}, guidance {quality['guidance']:g}, "
        f"seed {quality['seed']}"
    )


def judged_by(quality: Mapping[str, Any]) -> str:
    """Whose features the numbers depend on, in a sentence."""
    return f"FID, KID, precision and recall are by the features of {quality['features']}."


def lines_of(quality: Mapping[str, Any]) -> list[str]:
    """An evaluation as lines of text, none of them empty."""
    rows = measures(quality)
    lines = [("", "samples", "real", ""), *((m.name, m.samples, m.real, f"{m.better}: {m.brief}") for m in rows)]
    name, samples, real, _ = (max(map(len, column)) for column in zip(*lines, strict=True))
    return [
        f"{quality['num']} samples of {quality['model']} beside {quality['num']} real images of {quality['data']}",
        f"{sampled(quality)}: {quality['seconds']:.0f} s",
        *(f"{a:{name}}  {b:>{samples}}  {c:>{real}}  {d}".rstrip() for a, b, c, d in lines),
        *([_kinds(quality["shapes"])] if quality["shapes"] else []),
        verdict(quality),
        judged_by(quality),
    ]


def number(value: float) -> str:
    """Three digits, or more before the point."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _both(beside: Mapping[str, float], form: Callable[[float], str]) -> tuple[str, str]:
    return form(beside["samples"]), form(beside["real"])


def _of_shapes(samples: Mapping[str, Any], real: Mapping[str, Any]) -> list[Measure]:
    def both(key: str, form: Callable[[float], str]) -> tuple[str, str]:
        values = samples[key], real[key]
        first, second = ("–" if value is None else form(value) for value in values)
        return first, second

    return [
        Measure(
            "valid",
            *both("valid", percent),
            "higher is better",
            "images made of one to three shapes",
            "The share of images that overlap by 92% or more (IoU) with one to three shapes of the data set.",
            "Edges may be a little off; and one shape drawn again and again is valid, too.",
        ),
        Measure(
            "exact",
            *both("exact", percent),
            "higher is better",
            "the same, to three pixels",
            "The share of images that are valid, with no more than three pixels wrong.",
            "It is strict: an eye can find an image perfect that is not exact.",
        ),
        *(
            [
                Measure(
                    "as asked",
                    *both("asked", percent),
                    "higher is better",
                    "valid images with the shapes of their label",
                    "The share of valid images that hold as many shapes of each kind as their label says.",
                    "A shape can hide behind another one, or two look like a third: so real images miss some, too.",
                )
            ]
            if real["asked"] is not None
            else []
        ),
        Measure(
            "shapes an image",
            *both("shapes", number),
            "best as for real images",
            "in valid images, on average",
            "How many shapes it takes to draw a valid image, on average.",
            "Shapes that hide behind others do not count, in samples and in real images.",
        ),
        Measure(
            "crisp",
            *both("crisp", percent),
            "higher is better",
            "pixels that are black or white",
            "The share of pixels that are nearly black or nearly white, as all are in the data.",
            "An empty image is perfectly crisp.",
        ),
        Measure(
            "white",
            *both("white", percent),
            "best as for real images",
            "pixels that are white",
            "The share of pixels that are white.",
            "Many small shapes and a few large ones can be as white.",
        ),
    ]


def _of_labels(label: Mapping[str, float]) -> Measure:
    return Measure(
        "label accuracy",
        *_both(label, percent),
        "higher is better",
        "images that show their label",
        "The share of images that the classifier takes for what their label says.",
        "The classifier makes mistakes, as it does with real images; and what it recognises need not look good.",
    )


def _kinds(shapes: Mapping[str, Any]) -> str:
    samples, real = shapes["samples"]["kinds"], shapes["real"]["kinds"]
    if samples is None or real is None:
        return "kinds of shapes: there is no valid image"
    return "kinds of shapes: " + ", ".join(
        f"{kind} {percent(share)} (real: {percent(real[kind])})" for kind, share in samples.items()
    )


def describe(name: str) -> str:
    """The card of a model as text. UserError if there is no such model."""
    if name not in zoo.names():
        raise UserError(f"there is no model {name!r} in the box; there are: {', '.join(zoo.names()) or 'none'}")
    card = zoo.card(name)
    commands = "\n".join(f"    {command}" for command in card.commands)
    quality = "\n".join(lines_of(card.quality))
    return (
        f"{name}: {card.about}\n\ndata: {card.data}\n{card.parameters:,} parameters, "
        f"trained on {card.images:,} images in {card.minutes:.0f} minutes, seed {card.seed}, on {card.machine}:\n"
        f"{commands}\n\n{quality}\nsha256 {card.sha256}"
    )
