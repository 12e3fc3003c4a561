"""Parts of sprites: pixels and shades as the text describes them, lit from the top left."""

import numpy as np
import pytest

from shapedreamer.data.drawn.sprite_files import load_sheets
from shapedreamer.data.drawn.sprite_parts import (
    BASE,
    GLINT,
    INK,
    LIGHT,
    SHADOW,
    make_part,
    shade_as_glow,
    shade_from_top_left,
)


def test_a_part_has_the_pixels_and_shades_of_its_text() -> None:
    lit, inked = make_part(("aB.", "bb.")), make_part(("#*", ".c"))
    assert lit.materials == "ab"
    assert lit.pixel.tolist() == [[3, 4, 0], [4, 4, 0]]
    assert lit.shade[0, 1] == SHADOW
    assert inked.pixel.tolist() == [[INK, GLINT], [0, 3]]
    assert inked.shade.tolist() == [[0, 0], [0, BASE]]
    assert (lit.shade[lit.pixel > 0] > 0).all()


def test_a_flipped_part_is_lit_from_the_left_as_well() -> None:
    art = load_sheets()["food"]["drumstick"]
    flipped = art.flipped()
    assert (flipped.pixel == art.pixel[:, ::-1]).all()
    assert (flipped.shade != art.shade[:, ::-1]).any()
    for part in (art, flipped):
        y, x = np.nonzero(part.shade == LIGHT)
        dark_y, dark_x = np.nonzero(part.shade == SHADOW)
        assert y.mean() < dark_y.mean()
        assert x.mean() < dark_x.mean()
    assert flipped.flipped() is art


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 5), (8, 8), (5, 2), (10, 3)])
def test_shades_of_a_rectangle(width: int, height: int) -> None:
    mask = np.zeros((12, 12), bool)
    mask[1 : 1 + height, 1 : 1 + width] = True
    shade = shade_from_top_left(mask)
    for y in range(height):
        for x in range(width):
            depth = (x + 0.5) / width + (y + 0.5) / height
            expected = LIGHT if depth < 0.5 else SHADOW if depth > 1.35 else BASE
            assert shade[1 + y, 1 + x] == expected, (x, y)


def test_each_row_and_column_of_an_object_is_shaded_by_its_own_length() -> None:
    mask = np.array([list(row) for row in ("..##....", ".######.", "########", ".######.")]) == "#"
    assert (shade_from_top_left(mask.T) == shade_from_top_left(mask).T).all()
    two_legs = np.zeros((4, 9), bool)  # each is shaded on its own
    two_legs[:, [1, 2, 6, 7]] = True
    shade = shade_from_top_left(two_legs)
    assert (shade[:, 1:3] == shade[:, 6:8]).all()
    assert shade[0, 1] == LIGHT
    assert shade[-1, 2] == SHADOW


def test_a_glow_gets_brighter_with_depth() -> None:
    mask = np.zeros((11, 11), bool)
    mask[1:-1, 1:-1] = True
    y, x = np.mgrid[:11, :11]
    depth = np.minimum(np.minimum(x, 10 - x), np.minimum(y, 10 - y))
    assert (shade_as_glow(mask) == np.minimum(depth, LIGHT)).all()
    assert shade_as_glow(np.ones((5, 5), bool))[0, 0] == SHADOW  # outside the frame counts as empty
