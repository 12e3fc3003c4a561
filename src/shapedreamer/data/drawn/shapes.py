"""White circles, rectangles, triangles and lines on black, 32x32, 1-3 per image; a pure function of (seed, index).

A counter-based generator provides all random numbers, so any image can be drawn on its own and is the same in every
batch. All parameters are integers, so the set of possible shapes is finite. Pixel (x, y) covers the square
[x, x+1] x [y, y+1] of the frame and is white if its centre lies inside a shape.
"""

import math

import torch
from torch import Tensor

from ...common.noise import bits, integers
from ..spec import DataSpec
from .base import DrawnDataset

SIZE = 32
KINDS = ("circle", "rectangle", "triangle", "line")
MAX_SHAPES = 3
CIRCLE_RADIUS = (3, 12)
RECTANGLE_SIDE = (4, 16)
TRIANGLE_SIDE = (6, 14)  # base and height; the apex is at the top
LINE_LENGTH = (5, 20)
LINE_WIDTH = 2
LINE_DIRECTIONS = 32  # spread over 180°

SPEC = DataSpec(name="shapes", channels=1, height=SIZE, width=SIZE, labels=KINDS)


class Shapes(DrawnDataset):
    """`samples` images of 1-3 shapes. Labels (4,) count the shapes of each kind, in the order of KINDS.

    `held_out` selects a second set from the same distribution that shares no random numbers with the first.
    """

    spec = SPEC
    purpose = 0xDA7A

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, 32, 32) float32, −1 or 1, and labels (B, 4) float32, for indices (B,) within 0…samples−1."""
        self.check_index(index)
        word = bits(self.seed, index, 1 + 5 * MAX_SHAPES)
        count = integers(word[:, 0], 1, MAX_SHAPES)
        shape_words = word[:, 1:].view(len(index), MAX_SHAPES, 5)
        kind = integers(shape_words[..., 0], 0, len(KINDS) - 1)
        present = torch.arange(MAX_SHAPES) < count[:, None]

        white = torch.zeros(len(index), MAX_SHAPES, SIZE, SIZE, dtype=torch.bool)
        labels = torch.zeros(len(index), len(KINDS))
        for k, draw in enumerate((circle, rectangle, triangle, line)):
            selected = present & (kind == k)
            white[selected] = draw(*shape_words[selected][:, 1:].unbind(1))
            labels[:, k] = selected.sum(1)
        return white.any(1, keepdim=True).float() * 2 - 1, labels


# Each function below draws N shapes from four random 32-bit words per shape, (N,) int64 each: masks (N, 32, 32) bool.


def circle(size: Tensor, _: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Filled circles; the second word is unused."""
    radius = integers(size, *CIRCLE_RADIUS)
    px, py = _pixels_from(integers(x, radius, SIZE - radius), integers(y, radius, SIZE - radius))
    return px**2 + py**2 <= _broadcast(radius) ** 2


def rectangle(width: Tensor, height: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Filled rectangles."""
    w, h = integers(width, *RECTANGLE_SIDE), integers(height, *RECTANGLE_SIDE)
    px, py = _pixels_from(integers(x, 0, SIZE - w), integers(y, 0, SIZE - h))
    return (px > 0) & (px < _broadcast(w)) & (py > 0) & (py < _broadcast(h))


def triangle(base: Tensor, height: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Filled isosceles triangles with a horizontal base."""
    b, h = integers(base, *TRIANGLE_SIDE), integers(height, *TRIANGLE_SIDE)
    px, py = _pixels_from(integers(x, 0, SIZE - b), integers(y, 0, SIZE - h))
    half_width = _broadcast(b) / 2 * py / _broadcast(h)  # grows linearly from 0 at the apex
    return (py > 0) & (py < _broadcast(h)) & ((px - _broadcast(b) / 2).abs() <= half_width)


def line(length: Tensor, direction: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Lines of width LINE_WIDTH at one of LINE_DIRECTIONS angles."""
    n = integers(length, *LINE_LENGTH)
    angle = integers(direction, 0, LINE_DIRECTIONS - 1) * (math.pi / LINE_DIRECTIONS)
    # rounded to multiples of 2⁻¹⁶, so that float32 is exact below and every machine draws the same pixels
    cos, sin = ((f(angle) * 2**16).round() / 2**16 for f in (torch.cos, torch.sin))
    # the bounding box relative to the start point, which is sampled such that the box fits into the frame
    side_x, side_y = LINE_WIDTH / 2 * sin, LINE_WIDTH / 2 * cos.abs()
    left, right = (n * cos).clamp(max=0) - side_x, (n * cos).clamp(min=0) + side_x
    top, bottom = -side_y, n * sin + side_y
    px, py = _pixels_from(
        integers(x, (-left).ceil().long(), (SIZE - right).floor().long()),
        integers(y, (-top).ceil().long(), (SIZE - bottom).floor().long()),
    )
    along = px * _broadcast(cos) + py * _broadcast(sin)
    across = py * _broadcast(cos) - px * _broadcast(sin)
    return (along > 0) & (along < _broadcast(n)) & (across.abs() < LINE_WIDTH / 2)


def _broadcast(value: Tensor) -> Tensor:
    """(N,) -> (N, 1, 1), to broadcast over pixels."""
    return value[:, None, None]


def _pixels_from(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates of all pixel centres relative to the points (x, y): (N, 1, 32) and (N, 32, 1)."""
    centre = torch.arange(SIZE) + 0.5
    return (centre - x[:, None])[:, None, :], (centre - y[:, None])[:, :, None]
