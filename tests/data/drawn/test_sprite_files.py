"""The files in art/: every drawing and colour is read exactly, and a malformed file is refused with its line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shapedreamer.data.drawn.sprite_files import ART, COLOUR_FILE, DRAWING_FILES, load_sheets, read_colours, read_sheets
from shapedreamer.data.drawn.sprites import SIZE

EXAMPLE = """\
// people
[hats] mirrored
cap  crown  // two hats
.aa  #.*
// a comment does not end a block
aaA  aab

hood
a

[legs]
bare  boots
sS.   ..
"""


def write(folder: Path, text: str, name: str = "art.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read_in_order_and_mirrored_halves_are_completed(tmp_path: Path) -> None:
    sheets = read_sheets(write(tmp_path, EXAMPLE))
    rows = {title: {name: part.rows for name, part in sheet.items()} for title, sheet in sheets.items()}
    assert rows == {
        "hats": {"cap": (".aaaa.", "aaAAaa"), "crown": ("#.**.#", "aabbaa"), "hood": ("aa",)},
        "legs": {"bare": ("sS.",), "boots": ("..",)},
    }
    assert [list(sheet) for sheet in sheets.values()] == [["cap", "crown", "hood"], ["bare", "boots"]]


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("cap\naa", 1, "expected a section such as"),
        ("[]\ncap\naa", 1, r"expected a new \[name\] or \[name\] mirrored, not \[\]"),
        ("[Hats]\ncap\naa", 1, r"not \[Hats\]"),
        ("[hats] mirored\ncap\naa", 1, r"not \[hats\] mirored"),
        ("[hats]\ncap\naa\n\n[hats] mirrored\nhood\naa", 5, r"not \[hats\] mirrored"),
        ("[hats]\ncap cap\naa aa", 2, "the name cap is used twice"),
        ("[hats]\ncap\naa\n\n// more\ncap\naa", 6, "the name cap is used twice"),
        ("[hats]\ncap\n\naa", 2, "expected drawings below these names"),
        ("[hats]\ncap hood\naa bb\naa", 4, "expected 2 drawings side by side, found 1"),
        ("[hats]\ncap hood\naa bb cc", 3, "expected 2 drawings side by side, found 3"),
        ("[hats]\ncap hood\naa bb\naa b", 4, r"expected 2 letters, '\.', '#' or '\*' for hood, not b"),
        ("[hats]\ncap\na7", 3, "for cap, not a7"),
    ],
)
def test_a_malformed_drawing_is_refused_with_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"art\.txt, line {line}: .*{problem}"):
        read_sheets(write(tmp_path, text))


def test_two_files_cannot_have_the_same_section(tmp_path: Path) -> None:
    paths = [write(tmp_path, "[hats]\ncap\naa", name) for name in ("one.txt", "two.txt")]
    with pytest.raises(ValueError, match=r"two\.txt, line 1: expected a new"):
        read_sheets(*paths)


@pytest.mark.parametrize(
    ("ramps", "food", "problem"),
    [
        ({"red": ["000000"] * 3}, {}, "ramp red must have four colours such as 3f0d1f, not"),
        ({"red": ["000000"] * 3 + ["00000g"]}, {}, "ramp red must have"),
        ({"red": ["000000"] * 3 + ["0000000"]}, {}, "ramp red must have"),
        ({}, {"pie": {"a": "blue"}}, "pie, a: 'blue' must be ramps or materials listed before it"),
        ({"red": ["000000"] * 4}, {"pie": {"a": "red b", "b": "red"}}, "pie, a: 'red b' must be ramps"),
        ({"red": ["000000"] * 4}, {"pie": {"a": ""}}, "pie, a: '' must be ramps"),
    ],
)
def test_malformed_colours_are_refused_by_name(
    tmp_path: Path, ramps: dict[str, list[str]], food: dict[str, dict[str, str]], problem: str
) -> None:
    with pytest.raises(ValueError, match=rf"colours\.json: {problem}"):
        read_colours(write(tmp_path, json.dumps({"ramps": ramps, "food": food}), COLOUR_FILE))


def test_the_colours_need_ramps_and_food(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"colours\.json must have the keys ramps and food, not ramps, foods"):
        read_colours(write(tmp_path, '{"ramps": {}, "foods": {}}', COLOUR_FILE))


def test_every_shipped_file_is_read() -> None:
    assert {path.name for path in ART.iterdir()} == {*DRAWING_FILES, COLOUR_FILE}
    for sheet in load_sheets().values():
        assert sheet
        for name, part in sheet.items():
            assert max(part.pixel.shape) <= SIZE, name


def test_mirrored_sheets_are_symmetric_and_as_wide_as_the_sprite() -> None:
    for title in ("heads", "hair", "torsos", "creatures", "faces", "markings"):
        for part in load_sheets()[title].values():
            assert (part.pixel == part.pixel[:, ::-1]).all()
            assert part.pixel.shape[1] == SIZE


def test_importing_the_sprites_reads_no_drawings() -> None:
    code = (
        "from shapedreamer.data.drawn import sprite_files, sprites\n"
        "print(sprite_files.load_sheets.cache_info().currsize, sprite_files.make_part.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "0"]
