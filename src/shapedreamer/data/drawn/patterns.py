"""White circles and squares on black, 64x64, 1-3 per image, drawn with OpenCV; a pure function of (seed, index).

A filled circle of radius r covers exactly the pixels at a distance of at most r from its centre pixel, so it is 2r+1
pixels wide. A filled rectangle includes both of its corners.
"""

import numpy as np
import torch
from torch import Tensor

from ...common.errors import require
from ...common.noise import bits, integers
from ..spec import DataSpec
from .base import DrawnDataset

SIZE = 64
KINDS = ("circle", "square")
MAX_SHAPES = 3
CIRCLE_RADIUS = (5, 14)
SQUARE_SIDE = (8, 26)
WORDS = 4  # random words per shape: kind, size, x, y

SPEC = DataSpec(name="patterns", channels=1, height=SIZE, width=SIZE, labels=KINDS)


class Patterns(DrawnDataset):
    """`samples` images of 1-3 shapes. Labels (2,) count the shapes of each kind, in the order of KINDS.

    `held_out` selects a second set from the same distribution that shares no random numbers with the first. UserError
    if OpenCV is not installed.
    """

    spec = SPEC
    purpose = 0x9A77E2

    def __init__(self, samples: int = 10_000, seed: int = 0, held_out: bool = False) -> None:
        require("cv2", "data")  # fail here, not at the first batch
        super().__init__(samples, seed, held_out)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 1, 64, 64) float32, −1 or 1, and labels (B, 2) float32, for indices (B,) within 0…samples−1."""
        self.check_index(index)
        word = bits(self.seed, index, 1 + WORDS * MAX_SHAPES)
        count = integers(word[:, 0], 1, MAX_SHAPES)
        present = torch.arange(MAX_SHAPES) < count[:, None]
        kind, size, x, y = word[:, 1:].view(len(index), MAX_SHAPES, WORDS).unbind(2)

        circle = integers(kind, 0, 1) == KINDS.index("circle")
        size = torch.where(circle, integers(size, *CIRCLE_RADIUS), integers(size, *SQUARE_SIDE))
        width = torch.where(circle, 2 * size + 1, size)
        left, top = integers(x, 0, SIZE - width), integers(y, 0, SIZE - width)

        canvas = np.zeros((len(index), SIZE, SIZE), np.uint8)
        for i, shape in present.nonzero().tolist():
            draw = draw_circle if circle[i, shape] else draw_square
            draw(canvas[i], int(size[i, shape]), int(left[i, shape]), int(top[i, shape]))
        labels = torch.stack([(present & circle).sum(1), (present & ~circle).sum(1)], dim=1)
        return torch.from_numpy(canvas)[:, None].float() * 2 - 1, labels.float()


def draw_circle(canvas: np.ndarray, radius: int, left: int, top: int) -> None:
    """Draw a filled circle into canvas (64, 64) uint8 with value 1; its bounding box starts at (left, top)."""
    cv2 = require("cv2", "data")
    cv2.circle(canvas, (left + radius, top + radius), radius, color=1, thickness=cv2.FILLED)


def draw_square(canvas: np.ndarray, side: int, left: int, top: int) -> None:
    """Draw a filled square into canvas (64, 64) uint8 with value 1; its top left pixel is (left, top)."""
    cv2 = require("cv2", "data")
    cv2.rectangle(canvas, (left, top), (left + side - 1, top + side - 1), color=1, thickness=cv2.FILLED)
