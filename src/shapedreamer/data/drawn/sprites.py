"""Sprites, 16x16 in colour on white: people, creatures, food, spells, walkers; a pure function of (seed, index).

A sprite is a few layers, from the back to the front: a cape, the figure, what it holds. Each layer is painted with
parts from sprite_parts.py in colours that random words choose, and gets a dark outline. Only whole numbers decide what
a pixel is, so an image is the same on every machine, alone or in any batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ...common.noise import bits
from ..arrays import one_hot
from ..spec import DataSpec
from . import sprite_parts as parts
from .base import Drawn
from .sprite_parts import BASE, FIRST_MATERIAL, GLINT, INK, LIGHT, Part, glowing, shaded

SIZE = 16
KINDS = ("human", "non-human", "food", "spell", "side-facing")
WORDS = 40  # random words an image; none needs more

SPEC = DataSpec(name="sprites", channels=3, height=SIZE, width=SIZE, labels=KINDS)

# A pixel is a place in this table: 0 is the background, then INK and GLINT, and from 4 on the ramps, four shades each.
COLOURS = np.concatenate(
    [np.array([[255, 255, 255], [26, 20, 36], [255, 254, 250], [0, 0, 0]], np.uint8), *parts.RAMPS.values()]
)
FIRST_SHADE = {name: 4 * place for place, name in enumerate(parts.RAMPS, start=1)}

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
ELEMENTS = ("curse", "fire", "thunder", "holy", "poison", "wind", "ice", "water", "arcane", "shadow")  # once around

T = TypeVar("T")


class Sprites(Drawn):
    """`samples` sprites. The label is which of KINDS it is, one-hot: (5,). All kinds are equally likely.

    `held_out` gives another set from the same distribution, which shares no random number with the first. Chance still
    draws simple sprites twice: of 10,000, 59 are copies of others, and 1.2 % of those held out are among them.
    """

    spec = SPEC
    purpose = 0x5B817E5

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, 16, 16) float32 in [−1, 1] and labels (B, 5) float32, for indices (B,) within 0…samples−1."""
        self.check(index)
        kinds, drawn = [], []
        for words in bits(self.seed, index, WORDS).tolist():
            dice = Dice(words)
            kinds.append(dice.roll(len(KINDS)))
            drawn.append(DRAW[kinds[-1]](dice))
        images = torch.from_numpy(COLOURS[flattened(drawn)]).permute(0, 3, 1, 2)
        return images.float() / 127.5 - 1, torch.from_numpy(one_hot(np.array(kinds, int), len(KINDS)))


class Dice:
    """The random words of one image, used one after another."""

    def __init__(self, words: Sequence[int]) -> None:
        self._words = iter(words)

    def roll(self, sides: int) -> int:
        """0…sides−1, equally likely."""
        return next(self._words) * sides >> 32

    def chance(self, percent: int) -> bool:
        return self.roll(100) < percent

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.roll(len(choices))]

    def part(self, choices: Mapping[str, Part]) -> Part:
        return self.pick(list(choices.values()))

    def some(self, choices: Sequence[T], count: int) -> list[T]:
        """`count` different ones."""
        left = list(choices)
        return [left.pop(self.roll(len(left))) for _ in range(count)]


class Layer:
    """16x16 pixels, each a place in COLOURS; 0 where there is nothing. What is painted outside is cut off."""

    def __init__(self) -> None:
        self.pixels = np.zeros((SIZE, SIZE), np.uint8)

    def paint(self, part: Part, colours: Mapping[str, str], top: int = 0, left: int = 0) -> "Layer":
        """Put a part on top, each of its materials in the ramp that `colours` names."""
        first = np.array([0, INK, GLINT, *(FIRST_SHADE[colours[letter]] for letter in part.materials)], np.uint8)
        above, aside = max(0, -top), max(0, -left)
        new = (first[part.pixel] + part.shade)[above : SIZE - top, aside : SIZE - left]
        height, width = new.shape
        old = self.pixels[top + above : top + above + height, left + aside : left + aside + width]
        np.copyto(old, new, where=new > 0)
        return self

    def fill(self, mask: np.ndarray, shade: np.ndarray, colour: str) -> None:
        """Paint a mask (16, 16) bool with a shade for each of its pixels."""
        self.pixels[mask] = FIRST_SHADE[colour] + shade[mask]

    def recolour(self, mask: np.ndarray, old: str, new: str) -> None:
        """Change one ramp into another within a mask; the shades stay."""
        mask = mask & (self.pixels & ~np.uint8(3) == FIRST_SHADE[old])
        self.pixels[mask] = FIRST_SHADE[new] + (self.pixels[mask] & 3)


def flattened(drawn: Sequence[Sequence[Layer]]) -> np.ndarray:
    """The layers of each image, outlined and put over one another: (B, 16, 16) places in COLOURS.

    An outline lies around a layer, on the pixels that touch it with a side, in the darkest shade of what it touches.
    The outermost pixels of the image are for outlines alone: what a layer has there is left out.
    """
    most = max(map(len, drawn), default=0)
    stack = np.zeros((most, len(drawn), SIZE + 2, SIZE + 2), np.uint8)
    for i, layers in enumerate(drawn):
        for place, layer in enumerate(layers):
            stack[place, i, 2:-2, 2:-2] = layer.pixels[1:-1, 1:-1]
    inside = stack[..., 1:-1, 1:-1]
    dark = np.where(stack > GLINT, stack & ~np.uint8(3), (stack > 0).astype(np.uint8) * np.uint8(INK))
    outlined = inside
    for side in (dark[..., 2:, 1:-1], dark[..., 1:-1, 2:], dark[..., :-2, 1:-1], dark[..., 1:-1, :-2]):
        outlined = np.where(outlined > 0, outlined, side)
    flat = np.zeros(inside.shape[1:], np.uint8)
    for layer_of_each in outlined:
        flat = np.where(layer_of_each > 0, layer_of_each, flat)
    return flat


# Each function below draws a kind: it takes the dice and returns the layers, from the back to the front.


def human(dice: Dice) -> list[Layer]:
    """A person who looks at us."""
    colours, metal = clothes(dice)
    armed = dice.chance(55)
    left = 1 if armed else 0  # a step aside makes room for what the hand holds
    hat = dice.part(parts.HATS) if dice.chance(55) else None
    head = dice.pick((2, 2, 2, 3, 3, 4)) if hat is None or not hat.pixel[0].any() else dice.pick((3, 3, 4))
    figure = Layer().paint(dice.part(parts.LEGS), colours, 8, left)
    figure.paint(dice.part(parts.TORSOS), colours, head + 6, left)
    figure.paint(dice.part(parts.HEADS), colours, head, left)
    figure.paint(dice.part(parts.EYES), colours, head + 3, left)
    if dice.chance(35):
        figure.paint(dice.part(parts.BEARDS), colours, head + 3, left)
    figure.paint(dice.part(parts.HAIR), colours, head - 2, left)
    if hat:
        figure.paint(hat, colours | hat_colours(dice, colours, metal), head - 2, left)
    layers = [figure]
    if dice.chance(20):
        layers.insert(0, Layer().paint(dice.part(parts.CAPES), colours, head + 5, left))
    if armed:
        layers.insert(0, Layer().paint(dice.part(parts.WEAPONS), colours, head + 2, left))
    if dice.chance(35):
        front = {"a": dice.pick((colours["b"], metal, "brown")), "b": colours["a"], "w": "brown"}
        layers.append(Layer().paint(dice.part(parts.SHIELDS), front, head + 7, 10))
    return layers


def side_facing(dice: Dice) -> list[Layer]:
    """Someone who walks to the right."""
    return dice.pick((walker, walker, walker, quadruped, beast))(dice)


def walker(dice: Dice) -> list[Layer]:
    """A person, or almost."""
    colours, metal = clothes(dice)
    if dice.chance(15):
        colours["s"] = dice.pick(("lime", "bone", "green"))  # goblins and the undead walk as well
    armed = dice.chance(65)
    hat = dice.part(parts.SIDE_HATS) if dice.chance(50) else None
    head = dice.pick((2, 2, 3)) if hat is None or not hat.pixel[0].any() else 3
    left = 2 if armed else 3
    figure = Layer().paint(dice.part(parts.SIDE_LEGS), colours, 8, left)
    figure.paint(dice.part(parts.SIDE_TORSOS), colours, head + 6, left)
    figure.paint(dice.part(parts.SIDE_HEADS), colours, head, left + 1)
    if dice.chance(30):
        figure.paint(dice.part(parts.SIDE_BEARDS), colours, head + 4, left + 1)
    figure.paint(dice.part(parts.SIDE_HAIR), colours, head - 2, left - 1)
    if hat:
        figure.paint(hat, colours | hat_colours(dice, colours, metal), head - 2, left - 1)
    layers = [figure]
    if dice.chance(40):
        layers.insert(0, Layer().paint(dice.part(parts.BACKS), colours, head + 5, left - 1))
    if armed:
        layers.append(Layer().paint(dice.part(parts.SIDE_WEAPONS), colours, head + 1, left + 9))
    return layers


def quadruped(dice: Dice) -> list[Layer]:
    """A beast put together from legs, a trunk, a tail and a head."""
    colours = furs(dice)
    body = Layer().paint(dice.part(parts.BEAST_LEGS), colours, 11, 2)
    body.paint(dice.part(parts.TRUNKS), colours, 6, 2)
    body.recolour(dice.part(parts.PATTERNS).pixel > 0, colours["a"], colours["b"])
    tail = Layer().paint(dice.part(parts.TAILS), colours, 4, 1)
    return [tail, body, Layer().paint(dice.part(parts.BEAST_HEADS), colours, 2, 8)]


def beast(dice: Dice) -> list[Layer]:
    """A beast drawn whole."""
    colours = furs(dice)
    body = Layer().paint(dice.part(parts.BEASTS), colours, 1, 1)
    body.recolour(dice.part(parts.PATTERNS).pixel > 0, colours["a"], colours["b"])
    return [body]


def non_human(dice: Dice) -> list[Layer]:
    """A mirrored creature: drawn whole, or the face of an animal, or put together from a body, eyes and limbs."""
    a, b = dice.some(HIDES, 2)
    eyes, claws = dice.pick(("red", "gold", "lime", "pink")), dice.pick(("bone", "steel", "white"))
    colours = {"a": a, "b": b, "e": eyes, "w": claws, "c": "steel", "r": "red", "y": "orange", "l": "green"}
    body, layers = Layer(), []
    style = dice.roll(10)
    if style < 4:
        body.paint(dice.part(parts.CREATURES), colours, 1)
    elif style < 6:
        layers.append(Layer().paint(dice.part(parts.EARS), colours, 1))
        body.paint(dice.part(parts.FACES), colours, 4)
        body.paint(dice.part(parts.MONSTER_EYES), colours, 6)
        body.paint(dice.part(parts.MUZZLES), colours, 9)
    else:
        for limbs, top in ((parts.SIDES, 4), (parts.TOPS, 1), (parts.FEET, 12)):
            layers.append(Layer().paint(dice.part(limbs), colours, top))
        if style < 8:
            body.paint(dice.part(parts.BODIES), colours, 4)
        else:
            mask = grown_body(dice)
            body.fill(mask, shaded(mask), a)
        body.paint(dice.part(parts.MONSTER_EYES), colours, 6)
        body.paint(dice.part(parts.MOUTHS), colours, 10)
    body.recolour(dice.part(parts.PATTERNS).pixel > 0, a, b)
    return [*layers, body]


def food(dice: Dice) -> list[Layer]:
    """Something to eat or drink: drawn whole and squeezed, or a round fruit with a stalk."""
    place = dice.roll(len(parts.FOOD) + 6)
    if place < len(parts.FOOD):
        name, art = list(parts.FOOD.items())[place]
        art = art.flipped() if dice.chance(50) else art
        whole = Layer().paint(art, chosen(dice, parts.FOOD_COLOURS[name]), 1, (SIZE - art.pixel.shape[1]) // 2)
        whole.pixels = squeezed(whole.pixels, dice)
        return [whole]
    skin, blush = dice.some(FRUITS, 2)
    fruit = Layer().paint(dice.part(parts.FRUIT), {"a": skin}, 2)
    fruit.recolour(dice.part(parts.PATTERNS).pixel > 0, skin, dice.pick((skin, blush)))
    fruit.paint(dice.part(parts.GLINTS), {}, 5, 3)
    stalk = dice.part(parts.STALKS)
    stalk = stalk.flipped() if dice.chance(50) else stalk
    return [fruit, Layer().paint(stalk, {"w": "brown", "l": dice.pick(LEAVES)}, 1, 1)]


def spell(dice: Dice) -> list[Layer]:
    """Something that glows: drawn, or all rays, or an orb with rays, or a sign in a ring."""
    first = dice.roll(len(ELEMENTS))
    near, far = dice.pick((-2, -1, 1, 2)), 3 + dice.roll(5)  # neighbours go together, and some contrast
    colours = [ELEMENTS[(first + step) % len(ELEMENTS)] for step in (0, near, far)]
    layer = Layer()
    style = dice.roll(10)
    if style < 5:
        flies = style < 3
        art = dice.part(parts.MISSILES if flies else parts.RITES)
        drawn = np.zeros((SIZE, SIZE), np.uint8)
        drawn[1:-1, 1:-1] = art.pixel
        drawn = turned(squeezed(drawn, dice), dice) if flies else squeezed(drawn, dice)[:, :: dice.pick((1, -1))]
        for place, colour in enumerate(colours[: len(art.materials)], start=FIRST_MATERIAL):
            layer.fill(drawn == place, glowing(drawn == place), colour)
        layer.recolour(glowing(drawn > 0) == LIGHT, colours[0], dice.pick(colours))
        layer.pixels[drawn == INK], layer.pixels[drawn == GLINT] = INK, GLINT
    elif style < 8:
        mask = dice.pick((burst, burst, star, star, whirl))(dice)
        layer.fill(mask, glowing(mask), colours[0])
        layer.recolour(DISTANCE < dice.pick((0, 12, 36, 60)), colours[0], colours[1])
    else:
        for mask, colour in zip(dice.pick((orb, sigil))(dice), colours, strict=False):
            layer.fill(mask, dice.pick((shaded, glowing))(mask), colour)
    for _ in range(dice.roll(5)):  # sparks, where there is room
        y, x = dice.roll(SIZE - 2) + 1, dice.roll(SIZE - 2) + 1
        if not layer.pixels[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3].any():
            layer.pixels[y, x] = FIRST_SHADE[colours[1]] + BASE
    return [layer]


DRAW: tuple[Callable[[Dice], list[Layer]], ...] = (human, non_human, food, spell, side_facing)


# The functions below choose colours.


def clothes(dice: Dice) -> tuple[dict[str, str], str]:
    """The colours of a person's materials, and what their metal is."""
    cloth, trim, trousers = dice.some(CLOTHS, 3)
    metal = dice.pick(METALS)
    people = {"s": dice.pick(SKINS), "h": dice.pick(HAIR_COLOURS), "e": dice.pick(("blue", "green", "purple"))}
    worn = {"a": cloth, "b": trim, "l": trousers, "f": dice.pick((*LEATHERS, trim)), "m": metal}
    held = {"w": "brown", "g": dice.pick(("gold", "red", "blue", "lime")), "y": "orange"}
    return people | worn | held, metal


def hat_colours(dice: Dice, colours: Mapping[str, str], metal: str) -> dict[str, str]:
    """A hat is made of metal or of what else is worn."""
    return {"a": dice.pick((metal, colours["a"])), "b": dice.pick((colours["b"], metal)), "w": "bone"}


def furs(dice: Dice) -> dict[str, str]:
    """The colours of a beast: those of nature, mostly."""
    a, b = dice.some(FURS if dice.chance(70) else HIDES, 2)
    eye = "gold" if a in ("charcoal", "brunette", "navy") else "charcoal"
    hoof = dice.pick(("charcoal", "tan", "brunette", a))
    return {"a": a, "b": b, "c": hoof, "e": eye, "w": "bone", "r": "red", "y": "orange"}


def chosen(dice: Dice, choices: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """A colour for each material. A choice that is itself a material, chosen before, stands for the colour of that."""
    colours: dict[str, str] = {}
    for material, names in choices.items():
        name = dice.pick(names)
        colours[material] = colours.get(name, name)
    return colours


# And these make or change shapes, (16, 16).

_Y, _X = np.mgrid[:SIZE, :SIZE]
ACROSS, DOWN = abs(2 * _X + 1 - SIZE), abs(2 * _Y + 1 - SIZE)  # from the centre, in half pixels
DISTANCE = ACROSS**2 + DOWN**2  # and squared
COMPASS = (
    *((16, 0), (15, 6), (11, 11), (6, 15), (0, 16), (-6, 15), (-11, 11), (-15, 6)),
    *((-16, 0), (-15, -6), (-11, -11), (-6, -15), (0, -16), (6, -15), (11, -11), (15, -6)),
)  # sixteen directions, and how far 16 steps take us in each


def grown_body(dice: Dice) -> np.ndarray:
    """A mirrored blob, nine rows high: each row is a little wider or narrower than the last, and wide at the eyes."""
    mask = np.zeros((SIZE, SIZE), bool)
    half = dice.roll(3) + 1
    for row in range(4, 13):
        half = min(max(half + dice.roll(3) - (1 if row > 8 else 0), 4 if 5 < row < 10 else 2), 6)
        mask[row, SIZE // 2 - half : SIZE // 2 + half] = True
    return mask


def squeezed(pixels: np.ndarray, dice: Dice) -> np.ndarray:
    """Smaller by up to two rows, and by two columns that mirror each other, and in the middle again."""
    rows, columns = set(range(SIZE)), set(range(SIZE))
    rows -= {dice.roll(12) + 2 for _ in range(dice.roll(3))}
    if dice.chance(60):
        column = dice.roll(5) + 2
        columns -= {column, SIZE - 1 - column}
    small = pixels[np.ix_(sorted(rows), sorted(columns))]
    top, left = (SIZE - len(rows)) // 2, (SIZE - len(columns)) // 2
    middle = np.zeros_like(pixels)
    middle[top : top + len(rows), left : left + len(columns)] = small
    return middle


def turned(pixels: np.ndarray, dice: Dice) -> np.ndarray:
    """In one of the eight ways to turn a square."""
    quarter = np.rot90(pixels, dice.roll(4))
    return quarter.T if dice.chance(50) else quarter


def branch(dice: Dice) -> np.ndarray:
    """An arm from the centre to the right, and what grows out of it, to its right and below, pixel by pixel."""
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
    """The same in every mirror: left and right, top and bottom, and both diagonals."""
    arm = branch(dice)
    quarter = arm | arm.T
    half = quarter | quarter[::-1]
    return (half | half[:, ::-1]) & (DISTANCE <= 14**2)


def star(dice: Dice) -> np.ndarray:
    """Four pointed rays, upright, and four slanted ones."""
    reach = np.maximum(ACROSS, DOWN)
    upright = (ACROSS * DOWN <= dice.pick((9, 15, 25, 35))) & (reach <= 13 - 2 * dice.roll(2))
    slanted = (abs(ACROSS - DOWN) <= 2 * dice.roll(2)) & (reach <= 1 + 2 * dice.roll(6))
    return upright | slanted


def whirl(dice: Dice) -> np.ndarray:
    """Two arms that wind outwards, one opposite the other, and get thinner."""
    arm = np.zeros((SIZE, SIZE), bool)
    start, steps = dice.roll(len(COMPASS)), 10 + dice.roll(3)
    for step in range(steps):
        x, y = COMPASS[(start + step) % len(COMPASS)]
        from_x, from_y = 16 * (2 * _X + 1 - SIZE) - (2 + step) * x, 16 * (2 * _Y + 1 - SIZE) - (2 + step) * y
        arm |= from_x**2 + from_y**2 <= (70 - 4 * step) ** 2
    both = arm | arm[::-1, ::-1]
    return both if dice.chance(50) else both.T


def orb(dice: Dice) -> list[np.ndarray]:
    """Rays, a ball in front of them, and a core."""
    ball = dice.pick((7, 9, 11))
    return [dice.pick((burst, star, whirl))(dice), DISTANCE <= ball**2, DISTANCE <= (ball - dice.pick((4, 5))) ** 2]


def sigil(dice: Dice) -> list[np.ndarray]:
    """A ring with a sign in it."""
    ring = (DISTANCE <= 13**2 + 3**2) & (DISTANCE >= dice.pick((9, 11)) ** 2 + 3**2)
    return [ring, dice.pick((burst, star, whirl))(dice) & (DISTANCE < dice.pick((5, 7)) ** 2 + 3**2)]
