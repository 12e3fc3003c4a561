"""Are they shapes? For each image, a search for the few shapes that its data set could have drawn it from.

A sample of the data sets `shapes` and `patterns` is good when it is a union of one to three of the shapes that the data
set draws. So its white pixels are compared with such unions: an image is valid if there is one with an intersection
over union (IoU) of at least VALID. How many of its pixels each shape covers at each place is a cross-correlation,
computed for all at once with the fast Fourier transform. A beam search puts the unions together, a shape at a time. It
goes on from several, as a shape that covers parts of two others can look better at first than either.

VALID is lenient towards small flaws: with three shapes, an ellipse or a square with round corners may reach it. Few of
these are `exact`, and few are made of the shapes that they were asked for; ShapeReport has all three.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.drawn import patterns, shapes
from ..data.spec import DataSpec

VALID = 0.92
MOST_SHAPES = 3
SAME = 3  # pixels: unions that differ by no more explain an image equally well, and the one of fewest shapes is taken
BEAM = 8  # unions of each number of shapes, from which the search goes on
BRANCH = 16  # shapes tried on top of each of them
COST = 2  # of a black pixel covered, in white ones gained: the next shape can mend what is missed, not what is spilled
CRISP = 0.2  # from black or white


class Primitives:
    """The shapes that a data set draws, of every kind and every size.

    kinds: for each kind, in the order of the labels, masks (M, H, W) bool of its shapes, whole and anywhere

    Equal masks are one shape, of the first kind that has it.
    """

    def __init__(self, kinds: Sequence[Tensor]) -> None:
        different: dict[bytes, tuple[Tensor, int]] = {}
        for kind, masks in enumerate(kinds):
            for mask in map(_to_top_left, masks):
                different.setdefault(mask.numpy().tobytes(), (mask, kind))
        self.masks = torch.stack([mask for mask, _ in different.values()])  # (P, H, W), each at the top left
        self.kind = torch.tensor([kind for _, kind in different.values()])  # (P,)
        self.num_kinds = len(kinds)
        _, H, W = self.masks.shape
        fits_down = torch.arange(H) <= H - self.masks.any(2).sum(1)[:, None]
        fits_across = torch.arange(W) <= W - self.masks.any(1).sum(1)[:, None]
        self._fits = fits_down[:, :, None] & fits_across[:, None, :]  # (P, H, W): where its top left can be
        self._spectrum = torch.fft.rfft2(self.masks.float()).conj().resolve_conj()

    def coverage(self, pixels: Tensor) -> Tensor:
        """How many of these pixels (H, W) bool each shape covers, by the row and column of its top left: (P, H, W).

        Right where the shape fits; elsewhere it is wrapped around the frame.
        """
        product = torch.fft.rfft2(pixels.float()) * self._spectrum
        return torch.fft.irfft2(product, s=pixels.shape).round_()

    def spill(self, white: Tensor) -> Tensor:
        """How many black pixels of an image (H, W) bool each shape covers: (P, H, W), inf where it does not fit."""
        return torch.where(self._fits, self.masks.sum((1, 2), keepdim=True) - self.coverage(white), torch.inf)

    def drawn(self, which: Tensor, place: Tensor) -> Tensor:
        """Masks (N, H, W) bool of shapes (N,) with their top left at places (N,), which are row · W + column."""
        _, H, W = self.masks.shape
        source = (torch.arange(H * W) - place[:, None]) % (H * W)
        return self.masks.flatten(1)[which].gather(1, source).view(-1, H, W)


def _to_top_left(mask: Tensor) -> Tensor:
    top, left = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    return mask.roll((-int(top), -int(left)), (0, 1))


@cache
def primitives_of(spec: DataSpec) -> Primitives | None:
    """The shapes of a data set; None for one that does not draw such shapes. UserError if OpenCV is missing for it."""
    if spec == shapes.SPEC:
        return Primitives(
            [
                _every_size(shapes.circle, shapes.CIRCLE_RADIUS, (0, 0)),
                _every_size(shapes.rectangle, shapes.RECTANGLE_SIDE, shapes.RECTANGLE_SIDE),
                _every_size(shapes.triangle, shapes.TRIANGLE_SIDE, shapes.TRIANGLE_SIDE),
                _every_size(shapes.line, shapes.LINE_LENGTH, (0, shapes.LINE_DIRECTIONS - 1)),
            ]
        )
    if spec == patterns.SPEC:
        return Primitives(
            [
                _on_canvases(patterns.draw_circle, *patterns.CIRCLE_RADIUS),
                _on_canvases(patterns.draw_square, *patterns.SQUARE_SIDE),
            ]
        )
    return None


def _every_size(draw: Callable[..., Tensor], *ranges: tuple[int, int]) -> Tensor:
    """Masks of a kind of data/shapes.py in all its sizes, drawn from the random words that mean them."""
    first, second = torch.cartesian_prod(*(_words(low, high) for low, high in ranges)).unbind(1)
    corner = torch.zeros_like(first)
    return draw(first, second, corner, corner)


def _words(low: int, high: int) -> Tensor:
    """For each of low…high the lowest random word that noise.integers takes for it."""
    count = high - low + 1
    return (torch.arange(count) * 2**32 + count - 1) // count


def _on_canvases(draw: Callable[[np.ndarray, int, int, int], None], low: int, high: int) -> Tensor:
    """Masks of a kind of data/patterns.py in all its sizes."""
    canvases = np.zeros((high - low + 1, patterns.SIZE, patterns.SIZE), np.uint8)
    for canvas, size in zip(canvases, range(low, high + 1), strict=True):
        draw(canvas, size, 0, 0)
    return torch.from_numpy(canvases).bool()


class Explained(NamedTuple):
    """What N images are made of.

    iou:    (N,) float32, of each image's white pixels with the union of shapes that explains it
    wrong:  (N,) int64, how many pixels are white in only one of the two
    counts: (N, kinds) float32, how many shapes of each kind are in that union, as in a label of the data set
    parts:  (N, 3, 3) int64, for each of its shapes the place in Primitives.masks, and the row and the column of its top
            left; -1 where there is none
    """

    iou: Tensor
    wrong: Tensor
    counts: Tensor
    parts: Tensor


def explained(images: Tensor, primitives: Primitives, progress: Callable[[int], None] | None = None) -> Explained:
    """For each image the union of one to three shapes, anywhere inside the frame, that explains it best.

    images:   (N, 1, H, W), white where above 0; ValueError if they are not of the primitives' size
    progress: is told the number of images done, after each

    A picture can often be drawn in several ways: two shapes look like a third, or hide a fourth, and wherever a pixel
    is wrong one more shape may mend it. The best union is the one with the highest IoU; but the one with the fewest
    shapes explains the image as well if no more than SAME pixels more are wrong in it, unless the image would be valid
    with the best alone. Among unions of so many shapes, the highest IoU decides. An image without a white pixel has an
    IoU of 0 and no parts. The search does not try all unions: now and then a better one is missed, by a few pixels.
    """
    _, H, W = primitives.masks.shape
    if images.shape[1:] != (1, H, W):
        raise ValueError(f"images are {tuple(images.shape)}, not (N, 1, {H}, {W})")
    iou, wrong = torch.zeros(len(images)), torch.zeros(len(images), dtype=torch.int64)
    parts = torch.full((len(images), MOST_SHAPES, 3), -1)
    for i, white in enumerate(images[:, 0].cpu() > 0):
        if white.any():
            union = _search(white, primitives)
            which, place = union.parts.unbind(1)
            iou[i], wrong[i] = union.iou, union.wrong
            parts[i, : len(which)] = torch.stack([which, place // W, place % W], dim=1)
        if progress is not None:
            progress(i + 1)
    there = parts[..., 0] >= 0
    kinds = F.one_hot(primitives.kind[parts[..., 0]], primitives.num_kinds) * there[..., None]
    return Explained(iou, wrong, kinds.sum(1).float(), parts)


class _Union(NamedTuple):
    """iou and wrong as in Explained; parts (S, 2): shapes and their places, as `drawn` takes them."""

    iou: float
    wrong: int
    parts: Tensor


def _search(white: Tensor, primitives: Primitives) -> _Union:
    """The union that explains the white pixels (H, W) bool, of which there are some."""
    spill = primitives.spill(white)
    unions, parts = torch.zeros(1, *white.shape, dtype=torch.bool), torch.zeros(1, 0, 2, dtype=torch.int64)
    found: list[_Union] = []  # the best of one shape, of two and of three
    for _ in range(MOST_SHAPES):
        more = torch.stack([_promising(white & ~union, spill, primitives) for union in unions])  # (B, K, 2)
        K, more = more.shape[1], more.flatten(0, 1)
        unions = unions.repeat_interleave(K, dim=0) | primitives.drawn(*more.unbind(1))
        parts = torch.cat([parts.repeat_interleave(K, dim=0), more[:, None]], dim=1)

        hit = (unions & white).sum((1, 2))
        spilled = unions.sum((1, 2)) - hit
        iou = hit / (white.sum() + spilled)
        best = int(iou.argmax())
        found.append(_Union(iou[best].item(), int(white.sum() - hit[best] + spilled[best]), parts[best]))
        if found[-1].iou >= VALID and found[-1].wrong <= SAME:
            break  # no union of more shapes is more than SAME pixels better

        beam = (hit - COST * spilled).argsort(descending=True, stable=True)[:BEAM]
        unions, parts = unions[beam], parts[beam]
    best_of_all = max(found, key=lambda union: union.iou)
    return next(
        union
        for union in found
        if union.wrong <= best_of_all.wrong + SAME and (union.iou >= VALID or best_of_all.iou < VALID)
    )


def _promising(missed: Tensor, spill: Tensor, primitives: Primitives) -> Tensor:
    """The shapes to try where white pixels (H, W) bool are missed, each at the place where it gains most: (K, 2)."""
    gain = primitives.coverage(missed).sub_(spill, alpha=COST)
    which = gain.amax((1, 2)).argsort(descending=True, stable=True)[:BRANCH]
    return torch.stack([which, gain[which].flatten(1).argmax(1)], dim=1)


def crispness(images: Tensor) -> float:
    """The share of pixels (N, C, H, W) within CRISP of black (-1) or of white (1)."""
    return (images.abs() >= 1 - CRISP).double().mean().item()


@dataclass(frozen=True)
class ShapeReport:
    """How well images are made of shapes. Real images, whose shapes hide each other too, say how much can be had.

    valid   share of images that a union of shapes explains with an IoU of at least VALID
    exact   share of images that are valid with no more than SAME pixels wrong
    crisp   share of pixels that are nearly black or nearly white
    white   share of pixels that are white
    shapes  number of shapes in a valid image, on average; None if no image is valid
    kinds   of the shapes in valid images, the share of each kind, by its label; None if no image is valid
    asked   share of the valid images that hold as many of each kind as they were asked for; None if no image is valid
            or none was asked for
    """

    valid: float
    exact: float
    crisp: float
    white: float
    shapes: float | None
    kinds: dict[str, float] | None
    asked: float | None


def judge(
    images: Tensor, spec: DataSpec, asked: Tensor | None = None, progress: Callable[[int], None] | None = None
) -> ShapeReport:
    """Report on images (N, 1, H, W) in [-1, 1] of a data set that `primitives_of` knows; ValueError for another.

    asked:    the labels that the images were asked for, (N, kinds); None for none
    progress: is told the number of images done, after each
    """
    primitives = primitives_of(spec)
    if primitives is None:
        raise ValueError(f"the data set {spec.name} does not draw shapes that can be searched for")
    iou, wrong, counts, _ = explained(images, primitives, progress)
    valid = iou >= VALID
    counts = counts[valid].double()
    some = len(counts) > 0
    return ShapeReport(
        valid=valid.double().mean().item(),
        exact=(valid & (wrong <= SAME)).double().mean().item(),
        crisp=crispness(images),
        white=(images > 0).double().mean().item(),
        shapes=counts.sum(1).mean().item() if some else None,
        kinds=dict(zip(spec.labels, (counts.sum(0) / counts.sum()).tolist(), strict=True)) if some else None,
        asked=(counts == asked[valid]).all(1).double().mean().item() if some and asked is not None else None,
    )
