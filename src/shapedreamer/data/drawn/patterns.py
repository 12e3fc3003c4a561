"""White circles and squares on black, 64x64, drawn with OpenCV: 1-3 an image; a pure function of (seed, index).

Like data/shapes.py, with OpenCV to draw. Its filled circle of radius r around a pixel is exactly the pixels no further
than r from that one, 2r+1 across; its filled rectangle includes both corners.
"""

import numpy as np
import torch
from torch import Tensor

from ...common.errors import require
from ...common.noise import bits, integers
from ..spec import DataSpec
from .base import Drawn

SIZE = 64
KINDS = ("circle", "square")
MOST_SHAPES = 3
CIRCLE_RADIUS = (5, 14)
SQUARE_SIDE = (8, 26)
WORDS = 4  # random numbers a shape: kind, size, x, y

SPEC = DataSpec(name="patterns", channels=1, height=SIZE, width=SIZE, labels=KINDS)


class Patterns(Drawn):
    """`samples` images of 1-3 shapes. The label is how many of each kind there are: (2,), in the order of KINDS.

    `held_out` gives another set from the same distribution, which shares no random number with the first. UserError if
    OpenCV is missing.
    """

    spec = SPEC
    purpose = 0x9A77E2

    def __init__(self, samples: int = 10_000, seed: int = 0, held_out: bool = False) -> None:
        require("cv2", "data")  # to miss it now, not when the first image is wanted
        super().__init__(samples, seed, held_out)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, 64, 64) float32, −1 or 1, and labels (B, 2) float32, for indices (B,) within 0…samples−1."""
        self.check(index)
        word = bits(self.seed, index, 1 + WORDS * MOST_SHAPES)
        count = integers(word[:, 0], 1, MOST_SHAPES)
        present = torch.arange(MOST_SHAPES) < count[:, None]
        kind, size, x, y = word[:, 1:].view(len(index), MOST_SHAPES, WORDS).unbind(2)

        circle = integers(kind, 0, 1) == KINDS.index("circle")
        size = torch.where(circle, integers(size, *CIRCLE_RADIUS), integers(size, *SQUARE_SIDE))
        across = torch.where(circle, 2 * size + 1, size)
        left, top = integers(x, 0, SIZE - across), integers(y, 0, SIZE - across)

        canvas = np.zeros((len(index), SIZE, SIZE), np.uint8)
        for i, shape in present.nonzero().tolist():
            draw = draw_circle if circle[i, shape] else draw_square
            draw(canvas[i], int(size[i, shape]), int(left[i, shape]), int(top[i, shape]))
        labels = torch.stack([(present & circle).sum(1), (present & ~circle).sum(1)], dim=1)
        return torch.from_numpy(canvas)[:, None].float() * 2 - 1, labels.float()


def draw_circle(canvas: np.ndarray, radius: int, left: int, top: int) -> None:
    """Set a circle's pixels to 1: canvas (64, 64) uint8; it starts at column `left`, row `top`."""
    cv2 = require("cv2", "data")
    cv2.circle(canvas, (left + radius, top + radius), radius, color=1, thickness=cv2.FILLED)


def draw_square(canvas: np.ndarray, side: int, left: int, top: int) -> None:
    """Set a square's pixels to 1: canvas (64, 64) uint8; it starts at column `left`, row `top`."""
    cv2 = require("cv2", "data")
    cv2.rectangle(canvas, (left, top), (left + side - 1, top + side - 1), color=1, thickness=cv2.FILLED)
