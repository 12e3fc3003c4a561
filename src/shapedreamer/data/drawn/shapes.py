"""White shapes on black, 32x32: 1-3 circles, rectangles, triangles and lines; a pure function of (seed, index).

Every number that makes up an image is an integer drawn from a counter-based generator, so that any image can be made
at any time, alone or in any batch, and the set of all possible shapes is finite. Pixel (x, y) covers the square
[x, x+1] x [y, y+1] of the frame and is white when its centre lies in a shape.
"""

import math

import torch
from torch import Tensor

from ...common.noise import bits, integers
from ..spec import DataSpec
from .base import Drawn

SIZE = 32
KINDS = ("circle", "rectangle", "triangle", "line")
MOST_SHAPES = 3
CIRCLE_RADIUS = (3, 12)
RECTANGLE_SIDE = (4, 16)
TRIANGLE_SIDE = (6, 14)  # base and height; the tip points up
LINE_LENGTH = (5, 20)
LINE_WIDTH = 2
LINE_DIRECTIONS = 32  # over half a turn

SPEC = DataSpec(name="shapes", channels=1, height=SIZE, width=SIZE, labels=KINDS)


class Shapes(Drawn):
    """`samples` images of 1-3 shapes. The label is how many of each kind there are: (4,), in the order of KINDS.

    `held_out` gives another set from the same distribution, which shares no random number with the first.
    """

    spec = SPEC
    purpose = 0xDA7A

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, 32, 32) float32, −1 or 1, and labels (B, 4) float32, for indices (B,) within 0…samples−1."""
        self.check(index)
        word = bits(self.seed, index, 1 + 5 * MOST_SHAPES)
        count = integers(word[:, 0], 1, MOST_SHAPES)
        each = word[:, 1:].view(len(index), MOST_SHAPES, 5)
        kind = integers(each[..., 0], 0, len(KINDS) - 1)
        present = torch.arange(MOST_SHAPES) < count[:, None]

        white = torch.zeros(len(index), MOST_SHAPES, SIZE, SIZE, dtype=torch.bool)
        labels = torch.zeros(len(index), len(KINDS))
        for k, draw in enumerate((circle, rectangle, triangle, line)):
            mine = present & (kind == k)
            white[mine] = draw(*each[mine][:, 1:].unbind(1))
            labels[:, k] = mine.sum(1)
        return white.any(1, keepdim=True).float() * 2 - 1, labels


# Each function below takes four random 32-bit words a shape, (N,) int64 each, and returns masks (N, 32, 32) bool.


def circle(size: Tensor, _: Tensor, x: Tensor, y: Tensor) -> Tensor:
    radius = integers(size, *CIRCLE_RADIUS)
    px, py = _pixels_from(integers(x, radius, SIZE - radius), integers(y, radius, SIZE - radius))
    return px**2 + py**2 <= _column(radius) ** 2


def rectangle(width: Tensor, height: Tensor, x: Tensor, y: Tensor) -> Tensor:
    w, h = integers(width, *RECTANGLE_SIDE), integers(height, *RECTANGLE_SIDE)
    px, py = _pixels_from(integers(x, 0, SIZE - w), integers(y, 0, SIZE - h))
    return (px > 0) & (px < _column(w)) & (py > 0) & (py < _column(h))


def triangle(base: Tensor, height: Tensor, x: Tensor, y: Tensor) -> Tensor:
    b, h = integers(base, *TRIANGLE_SIDE), integers(height, *TRIANGLE_SIDE)
    px, py = _pixels_from(integers(x, 0, SIZE - b), integers(y, 0, SIZE - h))
    half_width = _column(b) / 2 * py / _column(h)  # it widens evenly from 0 at the tip
    return (py > 0) & (py < _column(h)) & ((px - _column(b) / 2).abs() <= half_width)


def line(length: Tensor, direction: Tensor, x: Tensor, y: Tensor) -> Tensor:
    n = integers(length, *LINE_LENGTH)
    angle = integers(direction, 0, LINE_DIRECTIONS - 1) * (math.pi / LINE_DIRECTIONS)
    # in steps of 2⁻¹⁶ all that follows is exact in float32, and so the same pixels everywhere
    cos, sin = ((f(angle) * 2**16).round() / 2**16 for f in (torch.cos, torch.sin))
    # the box around the line, as seen from where it starts: the start is drawn so that the box is inside the frame
    side_x, side_y = LINE_WIDTH / 2 * sin, LINE_WIDTH / 2 * cos.abs()
    left, right = (n * cos).clamp(max=0) - side_x, (n * cos).clamp(min=0) + side_x
    top, bottom = -side_y, n * sin + side_y
    px, py = _pixels_from(
        integers(x, (-left).ceil().long(), (SIZE - right).floor().long()),
        integers(y, (-top).ceil().long(), (SIZE - bottom).floor().long()),
    )
    along = px * _column(cos) + py * _column(sin)
    across = py * _column(cos) - px * _column(sin)
    return (along > 0) & (along < _column(n)) & (across.abs() < LINE_WIDTH / 2)


def _column(value: Tensor) -> Tensor:
    return value[:, None, None]


def _pixels_from(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The centres of all pixels as seen from the points (x, y): (N, 1, 32) and (N, 32, 1)."""
    centre = torch.arange(SIZE) + 0.5
    return (centre - x[:, None])[:, None, :], (centre - y[:, None])[:, :, None]
