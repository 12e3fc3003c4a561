"""Read the parts and colours of sprites from the files in art/.

A text file of drawings has sections, and each section is a sheet of parts. Drawings stand side by side below their
names; an empty line ends such a block, and text after // is a comment:

    [hats]
    cap  crown
    .aa. m.mm
    aaaa mmMM

Each character is one pixel:

    .    transparent: what is below stays visible
    a-z  a material, lit from the top left; the code that paints the part chooses its colour
    A-Z  the same material in shadow
    #    ink
    *    a glint

After `[name] mirrored` each drawing is the left half of a part, and the reader adds the right half. Outlines are not
drawn: sprites.py adds them.

colours.json has the ramps of colours, four shades each, and for each food the ramps to choose from for each material.
A letter instead of a ramp stands for the ramp chosen for that material. Shadows lean towards blue and purple, lights
towards yellow, as they do outdoors. Pure white is reserved for the background.
"""

import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from .sprite_parts import Part, make_part

ART = Path(__file__).parent / "art"
DRAWING_FILES = ("people.txt", "walkers.txt", "beasts.txt", "creatures.txt", "food.txt", "spells.txt")
COLOUR_FILE = "colours.json"

Sheet = dict[str, Part]  # parts by name, in the order of the file


class Colours(NamedTuple):
    """ramps: (4, 3) uint8 by name, from the outline to the light; food: for each food, the ramps of each material."""

    ramps: dict[str, np.ndarray]
    food: dict[str, dict[str, list[str]]]


class Line(NamedTuple):
    path: Path
    number: int
    words: list[str]

    def fail(self, problem: str) -> NoReturn:
        raise ValueError(f"{self.path}, line {self.number}: {problem}")


class Section(NamedTuple):
    mirrored: bool
    blocks: list[list[Line]]  # runs of lines between empty lines


@functools.cache
def load_sheets() -> Mapping[str, Sheet]:
    """All sheets by name. The files are read once, when the first sprite is drawn."""
    return read_sheets(*(ART / name for name in DRAWING_FILES))


@functools.cache
def load_colours() -> Colours:
    """The colours of all sprites. The file is read once."""
    return read_colours(ART / COLOUR_FILE)


def read_sheets(*paths: Path) -> dict[str, Sheet]:
    """The sheets in these files by name. ValueError, with file and line, for a malformed file."""
    sheets: dict[str, Sheet] = {}
    for title, section in _read_sections(*paths).items():
        sheet = sheets[title] = {}
        for names, *rows in section.blocks:
            _check_block(names, rows, sheet)
            for name, *drawing in zip(names.words, *(row.words for row in rows), strict=True):
                sheet[name] = make_part(tuple(row + row[::-1] if section.mirrored else row for row in drawing))
    return sheets


def read_colours(path: Path) -> Colours:
    """The colours in a file. ValueError for a malformed file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.keys() != {"ramps", "food"}:
        raise ValueError(f"{path} must have the keys ramps and food, not {', '.join(content)}")
    ramps: dict[str, np.ndarray] = {}
    for name, shades in content["ramps"].items():
        if len(shades) != 4 or not all(re.fullmatch("[0-9a-f]{6}", shade) for shade in shades):
            raise ValueError(f"{path}: ramp {name} must have four colours such as 3f0d1f, not {shades}")
        ramps[name] = np.array([list(bytes.fromhex(shade)) for shade in shades], np.uint8)
    food: dict[str, dict[str, list[str]]] = {}
    for name, materials in content["food"].items():
        food[name] = {}
        for material, choices in materials.items():
            allowed = ramps.keys() | food[name].keys()
            if not choices or not set(choices.split()) <= allowed:
                raise ValueError(f"{path}: {name}, {material}: {choices!r} must be ramps or materials listed before it")
            food[name][material] = choices.split()
    return Colours(ramps, food)


def _read_sections(*paths: Path) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    for path in paths:
        blocks: list[list[Line]] = []
        for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            text, comment, _ = (piece.strip() for piece in raw.partition("//"))
            line = Line(path, number, text.split())
            if text.startswith("["):
                header = re.fullmatch(r"\[([a-z_]+)\]( mirrored)?", text)
                if not header or header[1] in sections:
                    line.fail(f"expected a new [name] or [name] mirrored, not {text}")
                blocks = [[]]
                sections[header[1]] = Section(bool(header[2]), blocks)
            elif text and not blocks:
                line.fail("expected a section such as [hats] first")
            elif text:
                blocks[-1].append(line)
            elif blocks and blocks[-1] and not comment:
                blocks.append([])
    return {title: Section(mirrored, list(filter(None, blocks))) for title, (mirrored, blocks) in sections.items()}


def _check_block(names: Line, rows: Sequence[Line], sheet: Sheet) -> None:
    """ValueError unless every name is new to the sheet and has a rectangular drawing below it."""
    for name in names.words:
        if name in sheet or names.words.count(name) > 1:
            names.fail(f"the name {name} is used twice")
    if not rows:
        names.fail("expected drawings below these names")
    for row in rows:
        if len(row.words) != len(names.words):
            row.fail(f"expected {len(names.words)} drawings side by side, found {len(row.words)}")
        for name, pixels, first in zip(names.words, row.words, rows[0].words, strict=True):
            if len(pixels) != len(first) or not re.fullmatch("[a-zA-Z.#*]+", pixels):
                row.fail(f"expected {len(first)} letters, '.', '#' or '*' for {name}, not {pixels}")
