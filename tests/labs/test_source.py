"""The format of the labs: scripts and notebooks with the same cells, and learners' files without the solutions."""

import json
import sys
from pathlib import Path

import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.labs.source import (
    BLANK,
    read_lab,
    read_labs,
    replace_cell,
    to_exercise,
    to_notebook,
    to_script,
    without_marks,
)


def test_a_script_is_read_as_it_was_written() -> None:
    lab = read_labs()[0]
    assert lab.title == "Lab 90. Halves"
    assert lab.exercises == ["half", "quarter", "exam"]
    Path("lab90_copy.py").write_text(to_script(lab))
    copy = read_lab(Path("lab90_copy.py"))
    assert [(c.text, c.markdown, c.tags, c.name) for c in copy.cells] == [
        (c.text, c.markdown, c.tags, c.name) for c in lab.cells
    ]
    lines = Path("lab90_copy.py").read_text().split("\n")
    for cell in copy.cells:
        if not cell.markdown:
            assert lines[cell.line - 1] == cell.text.split("\n")[0]


def test_a_learners_file_has_blanks_and_neither_hints_nor_explanations() -> None:
    text = to_script(to_exercise(read_labs()[0]))
    assert text.count(BLANK) == 3
    assert 'predict("lab90.size", "?"' in text
    assert not any(word in text for word in ("secret", "hint.", "explanation of", "solution"))


def test_buggy_code_takes_the_place_of_its_mended_version(small_labs: Path) -> None:
    cell = (
        '# %% tags=["exercise"] name="mend"\n@cause("b")\ndef mend(x):\n    # begin solution\n    return x\n'
        "    # end solution\n    # begin buggy\n    # if x:\n    #     return -x\n    # end buggy\n"
    )
    path = small_labs / "lab92_bugs.py"
    path.write_text("# %% [markdown]\n# # Bugs\n\n" + cell)
    lab = read_lab(path)
    assert to_exercise(lab).cells[1].text == '@cause("?")\ndef mend(x):\n    if x:\n        return -x'
    assert without_marks(lab.cells[1].text) == '@cause("b")\ndef mend(x):\n    return x'


def test_notebooks_have_a_kernel_fixed_ids_and_the_cells_of_the_script() -> None:
    lab = to_exercise(read_labs()[0])
    text = to_notebook(lab)
    assert text == to_notebook(lab)
    stored = json.loads(text)
    assert stored["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in stored["cells"]}) == len(lab.cells)
    assert all(cell.get("outputs", []) == [] for cell in stored["cells"])
    Path("lab90_copy.ipynb").write_text(text)
    copy = read_lab(Path("lab90_copy.ipynb"))
    assert [(c.text, c.tags, c.name) for c in copy.cells] == [(c.text, c.tags, c.name) for c in lab.cells]
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.reads(text, 4))


def test_jupytext_reads_the_same_cells() -> None:
    jupytext = pytest.importorskip("jupytext")
    lab = read_labs()[0]
    cells = jupytext.reads(to_script(lab), fmt="py:percent").cells
    assert [(c.source, c.metadata.get("name", ""), tuple(c.metadata.get("tags", ()))) for c in cells] == [
        (c.text, c.name, c.tags) for c in lab.cells
    ]


def test_replacing_a_cell_changes_nothing_else() -> None:
    lab = read_labs()[0]
    text = lab.path.read_text()
    (cell,) = lab.find("exercise", "half")
    changed = replace_cell(text, cell, "half = 3\n# a comment")
    assert changed == text.replace(cell.text, "half = 3\n# a comment")


@pytest.mark.parametrize(
    "header", ['# %% name="half" tags=["exercise"]', '# %% half tags=["exercise"] name="half" other=1']
)
def test_a_header_that_an_editor_has_changed_is_understood(header: str) -> None:
    Path("lab90_mine.py").write_text(f"import torch\n{header}\nhalf = 1\n# %% tags=[broken\nx = 2\n")
    lab = read_lab(Path("lab90_mine.py"))
    assert [(cell.text, cell.tags, cell.name) for cell in lab.cells] == [
        ("import torch", (), ""),
        ("half = 1", ("exercise",), "half"),
        ("x = 2", (), ""),
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"cells": 3}', '{"cells": [{"source": 3}]}', "[" * 100_000])
def test_a_damaged_notebook_is_an_error(content: str) -> None:
    Path("lab90_mine.ipynb").write_text(content)
    with pytest.raises(UserError, match=r"lab90_mine\.ipynb is not a notebook, or is damaged"):
        read_lab(Path("lab90_mine.ipynb"))


def test_other_files_are_no_labs() -> None:
    Path("notes.py").write_text("")
    with pytest.raises(UserError, match="its name must be like lab1_sampling"):
        read_lab(Path("notes.py"))
    Path("lab90_x.py").write_bytes(b"\xff")
    with pytest.raises(UserError, match="cannot read the lab"):
        read_lab(Path("lab90_x.py"))


def test_an_old_python_gets_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import shapedreamer

    monkeypatch.setattr(sys, "version_info", (3, 8, 1))
    monkeypatch.setattr(sys, "version", "3.8.1 (default)")
    monkeypatch.setattr(sys, "tracebacklimit", 1000, raising=False)
    with pytest.raises(ImportError, match=r"ShapeDreamer needs Python 3\.10 or newer; this is Python 3\.8\.1$"):
        exec(compile(Path(shapedreamer.__file__).read_text("utf-8"), "init", "exec"), {"__name__": "copy"})
