"""Sprites, 16x16 in colour on white: people, creatures, food, spells, walkers; a pure function of (seed, index).

A sprite has a few layers, from back to front: for example a cape, the figure, a shield. Each layer is painted with
parts from art/ in randomly chosen colours and gets a dark outline. Pixels are computed with integers only, so an image
is the same on every machine and in every batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...common.noise import bits
from ..arrays import one_hot
from ..spec import DataSpec
from .base import DrawnDataset
from .sprite_files import load_colours, load_sheets
from .sprite_parts import BASE, FIRST_MATERIAL, GLINT, INK, LIGHT, Part, shade_as_glow, shade_from_top_left

SIZE = 16
KINDS = ("human", "non-human", "food", "spell", "side-facing")
WORDS = 40  # random words per image; no sprite needs more

SPEC = DataSpec(name="sprites", channels=3, height=SIZE, width=SIZE, labels=KINDS)

# The palette. A pixel is an index into it: 0 is the background, INK and GLINT follow, 3 is unused, and from 4 on each
# ramp has four shades.
RAMPS = load_colours().ramps
COLOURS = np.concatenate(
    [np.array([[255, 255, 255], [26, 20, 36], [255, 254, 250], [0, 0, 0]], np.uint8), *RAMPS.values()]
)
FIRST_SHADE = {name: 4 * position for position, name in enumerate(RAMPS, start=1)}

SKINS = ("porcelain", "peach", "olive", "umber", "ebony")
HAIR_COLOURS = ("brunette", "charcoal", "gold", "orange", "white", "grey", "red", "teal", "pink", "purple")
METALS = ("steel", "gold", "grey")
LEATHERS = ("brown", "charcoal", "tan")
CLOTHS = (
    *("red", "orange", "gold", "lime", "green", "teal", "blue", "navy", "purple", "pink", "grey", "white", "charcoal"),
)
HIDES = (*CLOTHS, "brown")
FURS = ("brown", "tan", "orange", "grey", "white", "charcoal", "brunette", "gold", "bone")
FRUITS = ("red", "orange", "gold", "lime", "green", "purple", "pink", "navy")
LEAVES = ("green", "lime", "teal")
ELEMENTS = ("curse", "fire", "thunder", "holy", "poison", "wind", "ice", "water", "arcane", "shadow")  # a colour wheel

T = TypeVar("T")


class Sprites(DrawnDataset):
    """`samples` sprites. Labels are one-hot vectors (5,) over KINDS; all kinds are equally likely.

    `held_out` selects a second set from the same distribution that shares no random numbers with the first. Simple
    sprites can still occur more than once: 59 of 10,000 are duplicates, and 1.2% of the held-out images also occur in
    the first set.
    """

    spec = SPEC
    purpose = 0x5B817E5

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, 16, 16) float32 in [−1, 1] and labels (B, 5) float32, for indices (B,) within 0…samples−1."""
        self.check_index(index)
        kinds, sprites = [], []
        for words in bits(self.seed, index, WORDS).tolist():
            dice = Dice(words)
            kinds.append(dice.roll(len(KINDS)))
            sprites.append(DRAW[kinds[-1]](dice))
        images = torch.from_numpy(COLOURS[flatten(sprites)]).permute(0, 3, 1, 2)
        return images.float() / 127.5 - 1, torch.from_numpy(one_hot(np.array(kinds, int), len(KINDS)))


class Dice:
    """Random choices from the random words of one image; each choice uses the next word."""

    def __init__(self, words: Sequence[int]) -> None:
        self._words = iter(words)

    def roll(self, sides: int) -> int:
        """An integer in 0…sides−1, uniformly distributed."""
        return next(self._words) * sides >> 32

    def chance(self, percent: int) -> bool:
        """True with this probability."""
        return self.roll(100) < percent

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, all equally likely."""
        return choices[self.roll(len(choices))]

    def pick_distinct(self, choices: Sequence[T], count: int) -> list[T]:
        """`count` choices without replacement."""
        remaining = list(choices)
        return [remaining.pop(self.roll(len(remaining))) for _ in range(count)]

    def part(self, sheet: str) -> Part:
        """A part from the sheet of this name."""
        return self.pick(list(load_sheets()[sheet].values()))


class Layer:
    """16x16 pixels, each an index into COLOURS; 0 is transparent. Painting outside the frame is clipped."""

    def __init__(self) -> None:
        self.pixels = np.zeros((SIZE, SIZE), np.uint8)

    def paint(self, part: Part, colours: Mapping[str, str], top: int = 0, left: int = 0) -> "Layer":
        """Paint a part over the layer, each material in the ramp that `colours` names for it. Returns the layer."""
        first = np.array([0, INK, GLINT, *(FIRST_SHADE[colours[letter]] for letter in part.materials)], np.uint8)
        skip_rows, skip_columns = max(0, -top), max(0, -left)
        new = (first[part.pixel] + part.shade)[skip_rows : SIZE - top, skip_columns : SIZE - left]
        height, width = new.shape
        top, left = top + skip_rows, left + skip_columns
        old = self.pixels[top : top + height, left : left + width]
        np.copyto(old, new, where=new > 0)
        return self

    def fill(self, mask: np.ndarray, shade: np.ndarray, colour: str) -> None:
        """Paint a mask (16, 16) bool in a ramp, each pixel in its own shade (16, 16)."""
        self.pixels[mask] = FIRST_SHADE[colour] + shade[mask]

    def recolour(self, mask: np.ndarray, old: str, new: str) -> None:
        """Replace one ramp by another within a mask (16, 16) bool and keep the shades."""
        mask = mask & (self.pixels & ~np.uint8(3) == FIRST_SHADE[old])
        self.pixels[mask] = FIRST_SHADE[new] + (self.pixels[mask] & 3)


def flatten(sprites: Sequence[Sequence[Layer]]) -> np.ndarray:
    """Outline the layers of each sprite and merge them, back to front: (B, 16, 16) indices into COLOURS.

    The outline of a layer is on the pixels that share a side with it, in the darkest shade of the pixel they touch. The
    border of the image is reserved for outlines: pixels of a layer there are dropped.
    """
    depth = max(map(len, sprites), default=0)
    stack = np.zeros((depth, len(sprites), SIZE + 2, SIZE + 2), np.uint8)
    for i, layers in enumerate(sprites):
        for position, layer in enumerate(layers):
            stack[position, i, 2:-2, 2:-2] = layer.pixels[1:-1, 1:-1]
    inside = stack[..., 1:-1, 1:-1]
    dark = np.where(stack > GLINT, stack & ~np.uint8(3), (stack > 0).astype(np.uint8) * np.uint8(INK))
    outlined = inside
    for side in (dark[..., 2:, 1:-1], dark[..., 1:-1, 2:], dark[..., :-2, 1:-1], dark[..., 1:-1, :-2]):
        outlined = np.where(outlined > 0, outlined, side)
    flat = np.zeros(inside.shape[1:], np.uint8)
    for layer_pixels in outlined:
        flat = np.where(layer_pixels > 0, layer_pixels, flat)
    return flat


# Each function below draws one kind of sprite and returns its layers, from back to front.


def human(dice: Dice) -> list[Layer]:
    """A person facing the viewer."""
    colours, metal = clothes(dice)
    armed = dice.chance(55)
    left = 1 if armed else 0  # one column to the right makes room for the weapon
    hat = dice.part("hats") if dice.chance(55) else None
    head = dice.pick((2, 2, 2, 3, 3, 4)) if hat is None or not hat.pixel[0].any() else dice.pick((3, 3, 4))
    figure = Layer().paint(dice.part("legs"), colours, 8, left)
    figure.paint(dice.part("torsos"), colours, head + 6, left)
    figure.paint(dice.part("heads"), colours, head, left)
    figure.paint(dice.part("eyes"), colours, head + 3, left)
    if dice.chance(35):
        figure.paint(dice.part("beards"), colours, head + 3, left)
    figure.paint(dice.part("hair"), colours, head - 2, left)
    if hat:
        figure.paint(hat, colours | hat_colours(dice, colours, metal), head - 2, left)
    layers = [figure]
    if dice.chance(20):
        layers.insert(0, Layer().paint(dice.part("capes"), colours, head + 5, left))
    if armed:
        layers.insert(0, Layer().paint(dice.part("weapons"), colours, head + 2, left))
    if dice.chance(35):
        front = {"a": dice.pick((colours["b"], metal, "brown")), "b": colours["a"], "w": "brown"}
        layers.append(Layer().paint(dice.part("shields"), front, head + 7, 10))
    return layers


def side_facing(dice: Dice) -> list[Layer]:
    """A person or an animal facing right."""
    return dice.pick((walker, walker, walker, quadruped, beast))(dice)


def walker(dice: Dice) -> list[Layer]:
    """A person, goblin or undead."""
    colours, metal = clothes(dice)
    if dice.chance(15):
        colours["s"] = dice.pick(("lime", "bone", "green"))  # the skin of goblins and the undead
    armed = dice.chance(65)
    hat = dice.part("side_hats") if dice.chance(50) else None
    head = dice.pick((2, 2, 3)) if hat is None or not hat.pixel[0].any() else 3
    left = 2 if armed else 3
    figure = Layer().paint(dice.part("side_legs"), colours, 8, left)
    figure.paint(dice.part("side_torsos"), colours, head + 6, left)
    figure.paint(dice.part("side_heads"), colours, head, left + 1)
    if dice.chance(30):
        figure.paint(dice.part("side_beards"), colours, head + 4, left + 1)
    figure.paint(dice.part("side_hair"), colours, head - 2, left - 1)
    if hat:
        figure.paint(hat, colours | hat_colours(dice, colours, metal), head - 2, left - 1)
    layers = [figure]
    if dice.chance(40):
        layers.insert(0, Layer().paint(dice.part("back_items"), colours, head + 5, left - 1))
    if armed:
        layers.append(Layer().paint(dice.part("side_weapons"), colours, head + 1, left + 9))
    return layers


def quadruped(dice: Dice) -> list[Layer]:
    """An animal assembled from legs, a trunk, a tail and a head."""
    colours = furs(dice)
    body = Layer().paint(dice.part("beast_legs"), colours, 11, 2)
    body.paint(dice.part("trunks"), colours, 6, 2)
    body.recolour(dice.part("markings").pixel > 0, colours["a"], colours["b"])
    tail = Layer().paint(dice.part("tails"), colours, 4, 1)
    return [tail, body, Layer().paint(dice.part("beast_heads"), colours, 2, 8)]


def beast(dice: Dice) -> list[Layer]:
    """An animal drawn in one piece."""
    colours = furs(dice)
    body = Layer().paint(dice.part("beasts"), colours, 1, 1)
    body.recolour(dice.part("markings").pixel > 0, colours["a"], colours["b"])
    return [body]


def non_human(dice: Dice) -> list[Layer]:
    """A symmetric creature: drawn in one piece, an animal's face, or assembled from a body, eyes and limbs."""
    a, b = dice.pick_distinct(HIDES, 2)
    eyes, claws = dice.pick(("red", "gold", "lime", "pink")), dice.pick(("bone", "steel", "white"))
    colours = {"a": a, "b": b, "e": eyes, "w": claws, "c": "steel", "r": "red", "y": "orange", "l": "green"}
    body, layers = Layer(), []
    style = dice.roll(10)
    if style < 4:
        body.paint(dice.part("creatures"), colours, 1)
    elif style < 6:
        layers.append(Layer().paint(dice.part("ears"), colours, 1))
        body.paint(dice.part("faces"), colours, 4)
        body.paint(dice.part("creature_eyes"), colours, 6)
        body.paint(dice.part("muzzles"), colours, 9)
    else:
        for sheet, top in (("sides", 4), ("tops", 1), ("feet", 12)):
            layers.append(Layer().paint(dice.part(sheet), colours, top))
        if style < 8:
            body.paint(dice.part("bodies"), colours, 4)
        else:
            mask = random_body(dice)
            body.fill(mask, shade_from_top_left(mask), a)
        body.paint(dice.part("creature_eyes"), colours, 6)
        body.paint(dice.part("mouths"), colours, 10)
    body.recolour(dice.part("markings").pixel > 0, a, b)
    return [*layers, body]


def food(dice: Dice) -> list[Layer]:
    """Something to eat or drink: drawn in one piece and squeezed, or a round fruit with a stalk."""
    foods = list(load_sheets()["food"].items())
    number = dice.roll(len(foods) + 6)  # the six numbers beyond the list mean round fruit
    if number < len(foods):
        name, art = foods[number]
        art = art.flipped() if dice.chance(50) else art
        colours = food_colours(dice, load_colours().food[name])
        layer = Layer().paint(art, colours, 1, (SIZE - art.pixel.shape[1]) // 2)
        layer.pixels = squeeze(layer.pixels, dice)
        return [layer]
    skin, blush = dice.pick_distinct(FRUITS, 2)
    fruit = Layer().paint(dice.part("fruit"), {"a": skin}, 2)
    fruit.recolour(dice.part("markings").pixel > 0, skin, dice.pick((skin, blush)))
    fruit.paint(dice.part("glints"), {}, 5, 3)
    stalk = dice.part("stalks")
    stalk = stalk.flipped() if dice.chance(50) else stalk
    return [fruit, Layer().paint(stalk, {"w": "brown", "l": dice.pick(LEAVES)}, 1, 1)]


def spell(dice: Dice) -> list[Layer]:
    """A glowing spell: from a drawing, all rays, an orb with rays, or a sign in a ring."""
    first = dice.roll(len(ELEMENTS))
    near, far = dice.pick((-2, -1, 1, 2)), 3 + dice.roll(5)  # neighbours on the wheel match, distant ones contrast
    colours = [ELEMENTS[(first + step) % len(ELEMENTS)] for step in (0, near, far)]
    layer = Layer()
    style = dice.roll(10)
    if style < 5:
        flies = style < 3
        art = dice.part("flying_spells" if flies else "upright_spells")
        pixel = np.zeros((SIZE, SIZE), np.uint8)
        pixel[1:-1, 1:-1] = art.pixel
        pixel = squeeze(pixel, dice)
        pixel = rotate_or_flip(pixel, dice) if flies else pixel[:, :: dice.pick((1, -1))]
        for material, colour in enumerate(colours[: len(art.materials)], start=FIRST_MATERIAL):
            layer.fill(pixel == material, shade_as_glow(pixel == material), colour)
        layer.recolour(shade_as_glow(pixel > 0) == LIGHT, colours[0], dice.pick(colours))
        layer.pixels[pixel == INK], layer.pixels[pixel == GLINT] = INK, GLINT
    elif style < 8:
        mask = dice.pick((burst, burst, star, star, whirl))(dice)
        layer.fill(mask, shade_as_glow(mask), colours[0])
        layer.recolour(DISTANCE < dice.pick((0, 12, 36, 60)), colours[0], colours[1])
    else:
        for mask, colour in zip(dice.pick((orb, sigil))(dice), colours, strict=False):
            layer.fill(mask, dice.pick((shade_from_top_left, shade_as_glow))(mask), colour)
    for _ in range(dice.roll(5)):  # sparks, where there is space
        y, x = dice.roll(SIZE - 2) + 1, dice.roll(SIZE - 2) + 1
        if not layer.pixels[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].any():
            layer.pixels[y, x] = FIRST_SHADE[colours[1]] + BASE
    return [layer]


DRAW: tuple[Callable[[Dice], list[Layer]], ...] = (human, non_human, food, spell, side_facing)


# The functions below choose colours: a ramp for each material.


def clothes(dice: Dice) -> tuple[dict[str, str], str]:
    """The colours of a person's materials, and the ramp of their metal."""
    cloth, trim, trousers = dice.pick_distinct(CLOTHS, 3)
    metal = dice.pick(METALS)
    people = {"s": dice.pick(SKINS), "h": dice.pick(HAIR_COLOURS), "e": dice.pick(("blue", "green", "purple"))}
    clothing = {"a": cloth, "b": trim, "l": trousers, "f": dice.pick((*LEATHERS, trim)), "m": metal}
    equipment = {"w": "brown", "g": dice.pick(("gold", "red", "blue", "lime")), "y": "orange"}
    return people | clothing | equipment, metal


def hat_colours(dice: Dice, colours: Mapping[str, str], metal: str) -> dict[str, str]:
    """The colours of a hat: metal, or those of the clothes."""
    return {"a": dice.pick((metal, colours["a"])), "b": dice.pick((colours["b"], metal)), "w": "bone"}


def furs(dice: Dice) -> dict[str, str]:
    """The colours of an animal's materials, natural ones most of the time."""
    a, b = dice.pick_distinct(FURS if dice.chance(70) else HIDES, 2)
    eye = "gold" if a in ("charcoal", "brunette", "navy") else "charcoal"
    hoof = dice.pick(("charcoal", "tan", "brunette", a))
    return {"a": a, "b": b, "c": hoof, "e": eye, "w": "bone", "r": "red", "y": "orange"}


def food_colours(dice: Dice, choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A ramp for each material. A choice that is the letter of an earlier material means the ramp of that material."""
    colours: dict[str, str] = {}
    for material, names in choices.items():
        name = dice.pick(names)
        colours[material] = colours.get(name, name)
    return colours


# The functions below make or transform masks and pixels, (16, 16).

_Y, _X = np.mgrid[:SIZE, :SIZE]
ACROSS, DOWN = abs(2 * _X + 1 - SIZE), abs(2 * _Y + 1 - SIZE)  # distance from the centre lines, in half pixels
DISTANCE = ACROSS**2 + DOWN**2  # squared distance from the centre
COMPASS = (
    *((16, 0), (15, 6), (11, 11), (6, 15), (0, 16), (-6, 15), (-11, 11), (-15, 6)),
    *((-16, 0), (-15, -6), (-11, -11), (-6, -15), (0, -16), (6, -15), (11, -11), (15, -6)),
)  # vectors of length 16, rounded, in sixteen directions


def random_body(dice: Dice) -> np.ndarray:
    """A symmetric blob, nine rows high. The width changes a little from row to row and leaves space for the eyes."""
    mask = np.zeros((SIZE, SIZE), bool)
    half = dice.roll(3) + 1
    for row in range(4, 13):
        half = min(max(half + dice.roll(3) - (1 if row > 8 else 0), 4 if 5 < row < 10 else 2), 6)
        mask[row, SIZE // 2 - half : SIZE // 2 + half] = True
    return mask


def squeeze(pixels: np.ndarray, dice: Dice) -> np.ndarray:
    """Remove up to two rows and, in 60% of cases, a column and its mirror image, and centre the result."""
    rows, columns = set(range(SIZE)), set(range(SIZE))
    rows -= {dice.roll(12) + 2 for _ in range(dice.roll(3))}
    if dice.chance(60):
        column = dice.roll(5) + 2
        columns -= {column, SIZE - 1 - column}
    small = pixels[np.ix_(sorted(rows), sorted(columns))]
    top, left = (SIZE - len(rows)) // 2, (SIZE - len(columns)) // 2
    centred = np.zeros_like(pixels)
    centred[top : top + len(rows), left : left + len(columns)] = small
    return centred


def rotate_or_flip(pixels: np.ndarray, dice: Dice) -> np.ndarray:
    """One of the eight rotations and reflections of a square."""
    rotated = np.rot90(pixels, dice.roll(4))
    return rotated.T if dice.chance(50) else rotated


def branch(dice: Dice) -> np.ndarray:
    """A ray from the centre to the right, with pixels that grow from it at random, downwards and to the right."""
    mask = np.zeros((SIZE, SIZE), bool)
    centre, end = SIZE // 2, SIZE // 2 + 4 + dice.roll(4)
    mask[centre - 1 : centre + 1, centre - 1 : end] = True
    for x in range(centre, end):
        growing = dice.roll(2**7)
        for y in range(centre, SIZE - 1):
            if growing >> (y - centre) & 1 and (mask[y - 1, x] or mask[y, x - 1]):
                mask[y, x] = True
    return mask


def burst(dice: Dice) -> np.ndarray:
    """Random rays, symmetric about both axes and both diagonals."""
    arm = branch(dice)
    quarter = arm | arm.T
    half = quarter | quarter[::-1]
    return (half | half[:, ::-1]) & (DISTANCE <= 14**2)


def star(dice: Dice) -> np.ndarray:
    """Four pointed rays along the axes and four along the diagonals."""
    reach = np.maximum(ACROSS, DOWN)
    axes = (ACROSS * DOWN <= dice.pick((9, 15, 25, 35))) & (reach <= 13 - 2 * dice.roll(2))
    diagonals = (abs(ACROSS - DOWN) <= 2 * dice.roll(2)) & (reach <= 1 + 2 * dice.roll(6))
    return axes | diagonals


def whirl(dice: Dice) -> np.ndarray:
    """Two opposite spiral arms that get thinner outwards."""
    arm = np.zeros((SIZE, SIZE), bool)
    start, steps = dice.roll(len(COMPASS)), 10 + dice.roll(3)
    for step in range(steps):
        x, y = COMPASS[(start + step) % len(COMPASS)]
        from_x, from_y = 16 * (2 * _X + 1 - SIZE) - (2 + step) * x, 16 * (2 * _Y + 1 - SIZE) - (2 + step) * y
        arm |= from_x**2 + from_y**2 <= (70 - 4 * step) ** 2
    both = arm | arm[::-1, ::-1]
    return both if dice.chance(50) else both.T


def orb(dice: Dice) -> list[np.ndarray]:
    """The masks of rays, a ball in front of them, and its core."""
    ball = dice.pick((7, 9, 11))
    return [dice.pick((burst, star, whirl))(dice), DISTANCE <= ball**2, DISTANCE <= (ball - dice.pick((4, 5))) ** 2]


def sigil(dice: Dice) -> list[np.ndarray]:
    """The masks of a ring and a sign inside it."""
    ring = (DISTANCE <= 13**2 + 3**2) & (DISTANCE >= dice.pick((9, 11)) ** 2 + 3**2)
    return [ring, dice.pick((burst, star, whirl))(dice) & (DISTANCE < dice.pick((5, 7)) ** 2 + 3**2)]
