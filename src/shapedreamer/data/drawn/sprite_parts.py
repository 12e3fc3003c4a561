"""A part of a sprite: pixel art in materials instead of colours, with its shading."""

import functools
from dataclasses import dataclass

import numpy as np

SHADOW, BASE, LIGHT = 1, 2, 3  # the shades of a colour ramp, from dark to light; shade 0 is for outlines
INK, GLINT = 1, 2  # pixels with a fixed colour
FIRST_MATERIAL = 3


@dataclass(frozen=True, eq=False)
class Part:
    """Pixel art whose materials get their colours when it is painted.

    rows:      the art as text, H rows of W characters; sprite_files.py lists the characters
    materials: its letters in lower case, in alphabetical order
    pixel:     (H, W): 0 for transparent, INK, GLINT, or FIRST_MATERIAL + the letter's index in `materials`
    shade:     (H, W) uint8: SHADOW, BASE or LIGHT for materials, 0 elsewhere
    """

    rows: tuple[str, ...]
    materials: str
    pixel: np.ndarray
    shade: np.ndarray

    def flipped(self) -> "Part":
        """The part mirrored left to right. The light still comes from the top left."""
        return make_part(tuple(row[::-1] for row in self.rows))


@functools.cache
def make_part(rows: tuple[str, ...]) -> Part:
    """The part that `rows` draw; all rows have the same length."""
    art = np.array([list(row) for row in rows])
    letters = np.char.lower(art)
    materials = "".join(sorted(set(letters.ravel()) - set(".#*")))
    pixel, shade = np.select([art == "#", art == "*"], [INK, GLINT], 0), np.zeros(art.shape, np.uint8)
    for index, letter in enumerate(materials):
        mask = letters == letter
        pixel[mask] = FIRST_MATERIAL + index
        shade[mask] = np.where(art == letter, shade_from_top_left(mask), SHADOW)[mask]
    return Part(rows, materials, pixel, shade)


def shade_from_top_left(mask: np.ndarray) -> np.ndarray:
    """The shade of each pixel of a solid object lit from the top left: (H, W) bool -> SHADOW, BASE or LIGHT.

    Each pixel has two coordinates between 0 and 1: how far it is along its row of the object, from the left, and along
    its column, from the top. A sum below 0.5 is LIGHT, above 1.35 SHADOW.
    """
    (x, width), (y, height) = _position_in_run(mask), (a.T for a in _position_in_run(mask.T))
    scaled_sum = x * height + y * width  # (x / width + y / height) · width · height: integers, so exact
    area = width * height
    return np.where(2 * scaled_sum < area, LIGHT, np.where(20 * scaled_sum > 27 * area, SHADOW, BASE))


def shade_as_glow(mask: np.ndarray) -> np.ndarray:
    """The shade of each pixel of an object that glows from the inside: (H, W) bool -> SHADOW at the edge, BASE, LIGHT.

    Pixels outside the mask are 0.
    """
    depth = np.zeros(mask.shape, np.uint8)
    for _ in range(LIGHT):
        depth += mask
        padded = np.pad(mask, 1)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return depth


def _position_in_run(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel, its centre's distance from the left end of its run in the row, and the run's length.

    Both are (H, W) and in half pixels, which makes them integers.
    """
    column, width = np.arange(mask.shape[1]), mask.shape[1]
    before = np.maximum.accumulate(np.where(mask, -1, column), axis=1)
    after = np.minimum.accumulate(np.where(mask, width, column)[:, ::-1], axis=1)[:, ::-1]
    return 2 * (column - before) - 1, 2 * (after - before - 1)
