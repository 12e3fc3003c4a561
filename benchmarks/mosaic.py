"""Draws the README's first picture: python -m benchmarks.mosaic docs/denoising.png

Every tile is another sample of a shipped model. A tile further to the right is denoised further: the left edge is x_T,
the right edge is x_0.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from PIL import Image, ImageOps
from tyro.conf import Positional

from shapedreamer.imaging.figures import history
from shapedreamer.imaging.render import save_picture, to_uint8
from shapedreamer.models.model import load

COLUMNS, ROWS = 20, 3  # of tiles, for each model
TILE, GAP, BAND_GAP = 60, 4, 12  # pixels
BANDS = {"shapes": 2, "mnist": 2, "sprites": 4}  # and by how much a tile of each is enlarged
PAPER = (16, 18, 27)
STEPS = 48


def tiles_of(name: str) -> list[list[np.ndarray]]:
    """ROWS x COLUMNS samples (H, W, C) of a model, noise in the first column and finished images in the last.

    The columns are denser towards the end, where images take shape.
    """
    model, count = load(name), ROWS * COLUMNS
    moments = history(model.stream(count, steps=STEPS), model.noise(count), model.schedule.T, STEPS)
    shown = [to_uint8(moments[round((len(moments) - 1) * (i / (COLUMNS - 1)) ** 0.6)].x) for i in range(COLUMNS)]
    return [[shown[column][row * COLUMNS + column] for column in range(COLUMNS)] for row in range(ROWS)]


def main(path: Annotated[Positional[Path], tyro.conf.arg(metavar="PATH")]) -> None:
    """Draw the mosaic and write it to `path`."""
    height = len(BANDS) * (ROWS * (TILE + GAP) + BAND_GAP) - BAND_GAP + GAP
    picture = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, height), PAPER)
    top = GAP
    for name, scale in BANDS.items():
        for row, tiles in enumerate(tiles_of(name)):
            for column, tile in enumerate(tiles):
                size = tile.shape[0] * scale
                image = Image.fromarray(tile[:, :, 0] if tile.shape[2] == 1 else tile).convert("RGB")
                image = ImageOps.fit(image.resize((size, size), Image.Resampling.NEAREST), (TILE, TILE))
                picture.paste(image, (GAP + column * (TILE + GAP), top + row * (TILE + GAP)))
        top += ROWS * (TILE + GAP) + BAND_GAP
    save_picture(picture, path)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m benchmarks.mosaic")
