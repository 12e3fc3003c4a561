"""Is an image made of shapes? For each image, search for the shapes that the data set would have drawn it with.

The data sets `shapes` and `patterns` draw one to three shapes per image, and an image is their union. Two definitions
say when an image consists of such shapes:

valid   its white pixels match a union with an intersection over union (IoU) of at least VALID_IOU
intact  they match a union in which each shape has at most one wrong pixel for every OUTLINE_PER_WRONG pixels of its
        outline; see is_intact

IoU is relative to the area, and the mistakes of a shape lie on its outline. So `valid` rejects a line of ten pixels for
one wrong pixel, and accepts a disc that lacks 24. `intact` treats thin and thick shapes alike, and a wrong line cannot
hide beside a large disc. Both are reported until `valid` is retired.

How many white pixels a shape covers at each position is a cross-correlation, so the fast Fourier transform computes it
for all positions at once. A beam search builds the unions, one shape at a time. It keeps several candidates, because a
shape that covers parts of two others can look better at first than either of them.

Three shapes can imitate many things. A bent line may be explained by two lines, and a square with round corners by
three shapes. Few such images have the shapes of their label, which ShapeReport.asked measures.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.drawn import patterns, shapes
from ..data.spec import DataSpec
from .intervals import Interval, normal, wilson

VALID_IOU = 0.92
MAX_SHAPES = 3
PIXEL_TOLERANCE = 3  # unions that differ by at most this many pixels are equally good; the one with fewest shapes wins
BEAM_WIDTH = 8  # unions that the search keeps for each number of shapes
BRANCHES = 16  # shapes that the search tries to add to each of them
SPILL_COST = 2  # white pixels per covered black pixel: the next shape can cover missed pixels, but not undo a spill
OUTLINE_PER_WRONG = 10  # pixels of a shape's outline for each wrong pixel that it may have in an intact image
CRISP_TOLERANCE = 0.2  # largest difference from black (-1) or white (1)


class Primitives:
    """All shapes that a data set draws: every kind in every size.

    kinds: for each kind, in the order of the labels, the masks (M, H, W) bool of its shapes; each shape lies entirely
           inside its mask, at any position

    Equal masks count as one shape, of the first kind that has it.
    """

    def __init__(self, kinds: Sequence[Tensor]) -> None:
        distinct: dict[bytes, tuple[Tensor, int]] = {}
        for kind, masks in enumerate(kinds):
            for mask in map(_to_top_left, masks):
                distinct.setdefault(mask.numpy().tobytes(), (mask, kind))
        self.masks = torch.stack([mask for mask, _ in distinct.values()])  # (P, H, W), each in the top left corner
        self.kind = torch.tensor([kind for _, kind in distinct.values()])  # (P,)
        self.num_kinds = len(kinds)
        _, H, W = self.masks.shape
        fits_down = torch.arange(H) <= H - self.masks.any(2).sum(1)[:, None]
        fits_across = torch.arange(W) <= W - self.masks.any(1).sum(1)[:, None]
        self._fits = fits_down[:, :, None] & fits_across[:, None, :]  # (P, H, W), by top left corner
        self._spectrum = torch.fft.rfft2(self.masks.float()).conj().resolve_conj()

    def coverage(self, pixels: Tensor) -> Tensor:
        """How many of the pixels (H, W) bool each shape covers, by the position of its top left corner: (P, H, W).

        Positions where the shape does not fit into the image are meaningless: there it wraps around the border.
        """
        product = torch.fft.rfft2(pixels.float()) * self._spectrum
        return torch.fft.irfft2(product, s=pixels.shape).round_()

    def spill(self, white: Tensor) -> Tensor:
        """How many black pixels each shape covers, by position: (P, H, W); inf where the shape does not fit.

        white: (H, W) bool, the white pixels of the image
        """
        return torch.where(self._fits, self.masks.sum((1, 2), keepdim=True) - self.coverage(white), torch.inf)

    def render(self, shape: Tensor, position: Tensor) -> Tensor:
        """Masks (N, H, W) bool of shapes (N,), given as indices into `masks`, at positions (N,): row · W + column."""
        _, H, W = self.masks.shape
        source = (torch.arange(H * W) - position[:, None]) % (H * W)
        return self.masks.flatten(1)[shape].gather(1, source).view(-1, H, W)


def _to_top_left(mask: Tensor) -> Tensor:
    top, left = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return mask.roll((-int(top), -int(left)), (0, 1))


@cache
def primitives_of(spec: DataSpec) -> Primitives | None:
    """The shapes of a data set, or None if it does not draw shapes. UserError if OpenCV is needed but not installed."""
    if spec == shapes.SPEC:
        return Primitives(
            [
                _shapes_masks(shapes.circle, shapes.CIRCLE_RADIUS, (0, 0)),
                _shapes_masks(shapes.rectangle, shapes.RECTANGLE_SIDE, shapes.RECTANGLE_SIDE),
                _shapes_masks(shapes.triangle, shapes.TRIANGLE_SIDE, shapes.TRIANGLE_SIDE),
                _shapes_masks(shapes.line, shapes.LINE_LENGTH, (0, shapes.LINE_DIRECTIONS - 1)),
            ]
        )
    if spec == patterns.SPEC:
        return Primitives(
            [
                _patterns_masks(patterns.draw_circle, *patterns.CIRCLE_RADIUS),
                _patterns_masks(patterns.draw_square, *patterns.SQUARE_SIDE),
            ]
        )
    return None


def _shapes_masks(draw: Callable[..., Tensor], *ranges: tuple[int, int]) -> Tensor:
    """Masks of one kind of data/drawn/shapes.py in all sizes. `draw` takes random words, so find the words first."""
    first, second = torch.cartesian_prod(*(_random_words(low, high) for low, high in ranges)).unbind(1)
    corner = torch.zeros_like(first)
    return draw(first, second, corner, corner)


def _random_words(low: int, high: int) -> Tensor:
    """For each integer from low to high, the lowest random word that noise.integers maps to it."""
    count = high - low + 1
    return (torch.arange(count) * 2**32 + count - 1) // count


def _patterns_masks(draw: Callable[[np.ndarray, int, int, int], None], low: int, high: int) -> Tensor:
    """Masks of one kind of data/drawn/patterns.py in all sizes."""
    canvases = np.zeros((high - low + 1, patterns.SIZE, patterns.SIZE), np.uint8)
    for canvas, size in zip(canvases, range(low, high + 1), strict=True):
        draw(canvas, size, 0, 0)
    return torch.from_numpy(canvases).bool()


class Explanation(NamedTuple):
    """For N images, the union of shapes that matches each image best.

    iou:    (N,) float32, intersection over union of the image's white pixels and the union of shapes
    wrong:  (N,) int64, number of pixels that are white in only one of the two. An image without white pixels lacks at
            least the smallest shape, so it has as many wrong pixels as that shape.
    counts: (N, kinds) float32, number of shapes of each kind in the union, like a label of the data set
    parts:  (N, 3, 3) int64, for each shape of the union its index in Primitives.masks, and the row and column of its
            top left corner; -1 for shapes that are not used
    intact: (N,) bool, whether the image is intact. This union shows it, or another one that the search has found: one
            with more shapes, or with fewer wrong pixels.
    """

    iou: Tensor
    wrong: Tensor
    counts: Tensor
    parts: Tensor
    intact: Tensor


def explain(images: Tensor, primitives: Primitives, progress: Callable[[int], None] | None = None) -> Explanation:
    """For each image, find the union of one to three shapes, all inside the image, that matches it best.

    images:   (N, 1, H, W), white where above 0; ValueError if their size is not that of the primitives
    progress: called with the number of images done, after each image

    An image can often be drawn in several ways: two shapes can look like a third one or hide a fourth, and another
    shape may correct a wrong pixel. The best union is the one with the highest IoU. A union with fewer shapes is
    preferred if it has at most PIXEL_TOLERANCE more wrong pixels, unless only the best union makes the image valid.
    Among unions with equally many shapes, the highest IoU wins. An image without white pixels has IoU 0 and no shapes.
    The search does not try all unions, so it occasionally misses one that is better by a few pixels.
    """
    _, H, W = primitives.masks.shape
    if images.shape[1:] != (1, H, W):
        raise ValueError(f"images must be (N, 1, {H}, {W}), not {tuple(images.shape)}")
    iou, intact = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.bool)
    wrong = primitives.masks.sum((1, 2)).min().repeat(len(images))
    parts = torch.full((len(images), MAX_SHAPES, 3), -1)
    for i, white in enumerate(images[:, 0].cpu() > 0):
        if white.any():
            spill = primitives.spill(white)
            found = _search(white, spill, primitives)
            union = _simplest(found)
            shape, position = union.parts.unbind(1)
            iou[i], wrong[i] = union.iou, union.wrong
            parts[i, : len(shape)] = torch.stack([shape, position // W, position % W], dim=1)
            intact[i] = _shows_intact(white, spill, found, primitives)
        if progress is not None:
            progress(i + 1)
    used = parts[..., 0] >= 0
    kinds = F.one_hot(primitives.kind[parts[..., 0]], primitives.num_kinds) * used[..., None]
    return Explanation(iou, wrong, kinds.sum(1).float(), parts, intact)


def is_intact(white: Tensor, masks: Tensor) -> bool:
    """Whether each shape of an image has at most one wrong pixel for every OUTLINE_PER_WRONG pixels of its outline.

    white: (H, W) bool, the white pixels of the image
    masks: (S, H, W) bool, the shapes of which it should be the union

    The outline of a shape is the part of the union's outline that belongs to it: pixels next to a pixel, or to the
    border, outside the union. So a shape that is nearly hidden has a short outline. A wrong pixel is one that is white
    in the image or in the union, but not in both. It counts against the nearest shape, or against several if they are
    equally near: if it is missing, against the shapes that should cover it.
    """
    union = masks.any(0)
    padded = F.pad(union, (1, 1, 1, 1))
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outlines = (masks & ~inside).sum((1, 2))
    wrong = (white ^ union).nonzero()
    if OUTLINE_PER_WRONG * len(wrong) > outlines.sum():
        return False  # too many, however they are distributed
    distances = torch.stack([_squared_distances(wrong, mask) for mask in masks])
    counts = (distances == distances.amin(0)).sum(1)
    return bool((OUTLINE_PER_WRONG * counts <= outlines).all())


def _squared_distances(pixels: Tensor, mask: Tensor) -> Tensor:
    """The squared distances of pixels (N, 2), as rows and columns, to the nearest white pixel of a mask (H, W): (N,)"""
    return (pixels[:, None] - mask.nonzero()).square().sum(2).amin(1)


class _Union(NamedTuple):
    """iou and wrong as in Explanation; parts (S, 2): shapes and positions, the arguments of Primitives.render."""

    iou: float
    wrong: int
    parts: Tensor


def _search(white: Tensor, spill: Tensor, primitives: Primitives) -> list[_Union]:
    """The best union of one shape, of two, and of three, unless fewer are good enough.

    white: (H, W) bool, of which at least one is True; spill: primitives.spill(white)
    """
    unions, parts = torch.zeros(1, *white.shape, dtype=torch.bool), torch.zeros(1, 0, 2, dtype=torch.int64)
    found: list[_Union] = []
    for _ in range(MAX_SHAPES):
        added = torch.stack([_best_shapes(white & ~union, spill, primitives) for union in unions])  # (B, K, 2)
        K, added = added.shape[1], added.flatten(0, 1)
        unions = unions.repeat_interleave(K, dim=0) | primitives.render(*added.unbind(1))
        parts = torch.cat([parts.repeat_interleave(K, dim=0), added[:, None]], dim=1)

        hit = (unions & white).sum((1, 2))
        spilled = unions.sum((1, 2)) - hit
        iou = hit / (white.sum() + spilled)
        best = int(iou.argmax())
        found.append(_Union(iou[best].item(), int(white.sum() - hit[best] + spilled[best]), parts[best]))
        if found[-1].iou >= VALID_IOU and found[-1].wrong <= PIXEL_TOLERANCE:
            break  # another shape cannot improve the union by more than PIXEL_TOLERANCE pixels

        beam = (hit - SPILL_COST * spilled).argsort(descending=True, stable=True)[:BEAM_WIDTH]
        unions, parts = unions[beam], parts[beam]
    return found


def _simplest(found: Sequence[_Union]) -> _Union:
    """The union with the fewest shapes that is about as good as the best one; see explain."""
    best_union = max(found, key=lambda union: union.iou)
    return next(
        union
        for union in found
        if union.wrong <= best_union.wrong + PIXEL_TOLERANCE and (union.iou >= VALID_IOU or best_union.iou < VALID_IOU)
    )


def _best_shapes(missed: Tensor, spill: Tensor, primitives: Primitives) -> Tensor:
    """The shapes to add to a union that misses the pixels (H, W) bool, each at its best position: (K, 2)."""
    gain = primitives.coverage(missed).sub_(spill, alpha=SPILL_COST)
    best = gain.amax((1, 2)).argsort(descending=True, stable=True)[:BRANCHES]
    return torch.stack([best, gain[best].flatten(1).argmax(1)], dim=1)


def _shows_intact(white: Tensor, spill: Tensor, found: Sequence[_Union], primitives: Primitives) -> bool:
    """Whether one of the unions shows that the image is intact, or else the best one after a refinement.

    white, spill, found: arguments and result of _search
    """
    best = min(found, key=lambda union: union.wrong)
    candidates = (union.parts for union in found)
    return any(is_intact(white, primitives.render(*parts.unbind(1))) for parts in candidates) or (
        best.wrong > 0 and is_intact(white, _refine(white, spill, best.parts, primitives))
    )


def _refine(white: Tensor, spill: Tensor, parts: Tensor, primitives: Primitives) -> Tensor:
    """Masks (3, H, W) of three shapes that match the image at least as well as the union `parts` (S, 2).

    Each shape in turn is replaced by the best one beside the others. This corrects most of what the search misses: a
    shape that it chose first, which looked better alone than next to those chosen later.
    """
    masks = primitives.render(*parts[torch.arange(MAX_SHAPES) % len(parts)].unbind(1))  # some twice, as placeholders
    for _ in range(MAX_SHAPES):
        first, others = masks[:1], masks[1:]
        added = _best_shapes(white & ~others.any(0), spill, primitives)
        choices = torch.cat([first, primitives.render(*added.unbind(1))])
        wrong = ((others.any(0) | choices) ^ white).sum((1, 2))
        masks = torch.cat([others, choices[wrong.argmin()][None]])
    return masks


def crispness(images: Tensor) -> float:
    """The share of pixels (N, C, H, W) that differ from black (-1) or white (1) by at most CRISP_TOLERANCE."""
    return _crisp(images).double().mean().item()


def _crisp(images: Tensor) -> Tensor:
    return images.abs() >= 1 - CRISP_TOLERANCE


@dataclass(frozen=True)
class KindReport:
    """How well the shapes of one kind turned out.

    images     number of images with the kind: those whose label asks for at least one such shape or, without labels,
               those whose explanation (see Explanation.counts) has one, valid or not
    valid      share of these images that are valid; None if there are none
    intact     share of these images that are intact; None if there are none
    intervals  95% confidence intervals of valid and intact, and as "share" of the kind's share in ShapeReport.kinds; a
               value that is None has no interval

    An image with several kinds counts for each of them. A blank image counts for the kinds of its label.
    """

    images: int
    valid: float | None
    intact: float | None
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class ShapeReport:
    """How well images consist of shapes. Compare with real images: their shapes hide each other, too.

    valid      share of images that a union of shapes matches with an IoU of at least VALID_IOU
    exact      share of images that are valid with at most PIXEL_TOLERANCE wrong pixels
    crisp      share of pixels that are nearly black or nearly white
    white      share of pixels that are white
    shapes     average number of shapes in a valid image; None if no image is valid
    kinds      share of each kind among the shapes in valid images, by label name; None if no image is valid
    asked      share of valid images with exactly the shapes of their label; None if no image is valid or there are no
               labels
    intact     share of images that are intact; see is_intact
    by_kind    valid and intact for each kind, by label name; see KindReport
    intervals  95% confidence intervals of valid, exact, crisp, white, shapes, asked and intact, by these names; a value
               that is None has no interval

    Reports of earlier versions lack intact, by_kind and intervals: None.
    """

    valid: float
    exact: float
    crisp: float
    white: float
    shapes: float | None
    kinds: dict[str, float] | None
    asked: float | None
    intact: float | None = None
    by_kind: dict[str, KindReport] | None = None
    intervals: dict[str, Interval] | None = None


def judge(
    images: Tensor, spec: DataSpec, labels: Tensor | None = None, progress: Callable[[int], None] | None = None
) -> ShapeReport:
    """Measure how well images (N, 1, H, W) in [-1, 1] consist of the shapes of a data set.

    labels:   (N, kinds), the labels that the images are conditioned on, or None
    progress: called with the number of images done, after each image

    ValueError if the data set does not draw shapes; see primitives_of.
    """
    primitives = primitives_of(spec)
    if primitives is None:
        raise ValueError(f"cannot search for shapes: the data set {spec.name} does not draw any")
    iou, wrong, counts, _, intact = explain(images, primitives, progress)
    valid = iou >= VALID_IOU
    exact = valid & (wrong <= PIXEL_TOLERANCE)
    asked = None if labels is None else (counts[valid] == labels[valid]).all(1)
    has_kind = (counts if labels is None else labels) > 0
    counts = counts[valid].double()
    any_valid = len(counts) > 0
    kinds = dict(zip(spec.labels, (counts.sum(0) / counts.sum()).tolist(), strict=True)) if any_valid else None
    by_kind = {name: _kind_report(valid[has], intact[has]) for name, has in zip(spec.labels, has_kind.T, strict=True)}
    for name, share in (kinds or {}).items():
        by_kind[name].intervals["share"] = wilson(share, int(counts.sum()))
    white = images > 0
    values = {
        "valid": valid,
        "exact": exact,
        "crisp": _crisp(images).double().mean((1, 2, 3)),
        "white": white.double().mean((1, 2, 3)),
        "shapes": counts.sum(1),
        "asked": asked,
        "intact": intact,
    }
    return ShapeReport(
        valid=valid.double().mean().item(),
        exact=exact.double().mean().item(),
        crisp=crispness(images),
        white=white.double().mean().item(),
        shapes=counts.sum(1).mean().item() if any_valid else None,
        kinds=kinds,
        asked=_share(asked),
        intact=_share(intact),
        by_kind=by_kind,
        intervals=_intervals(values),
    )


def _kind_report(valid: Tensor, intact: Tensor) -> KindReport:
    """The report of a kind from its images, (N,) bool each."""
    intervals = _intervals({"valid": valid, "intact": intact})
    return KindReport(len(valid), _share(valid), _share(intact), intervals)


def _share(hits: Tensor | None) -> float | None:
    """The share of True in hits (N,) bool; None without hits or if N = 0."""
    return None if hits is None or len(hits) == 0 else hits.double().mean().item()


def _intervals(values: Mapping[str, Tensor | None]) -> dict[str, Interval]:
    """By name, the interval of the share of True in values (N,) bool, or of the mean of values (N,) float64."""
    intervals = {}
    for name, value in values.items():
        if value is not None and len(value):
            mean, std = value.double().mean().item(), value.double().std(correction=0).item()
            is_share = value.dtype == torch.bool
            intervals[name] = wilson(mean, len(value)) if is_share else normal(mean, std, len(value))
    return intervals
