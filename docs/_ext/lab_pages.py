"""Renders the labs: copies the solved notebooks to docs/labs, where git ignores them.

`make labs` writes the solved notebooks. A lab that has none yet is rendered without outputs.
"""

import shutil
from pathlib import Path

from sphinx.application import Sphinx

from shapedreamer.labs.build import readable, solved_path
from shapedreamer.labs.source import read_labs, to_notebook

PAGES = Path(__file__).parents[1] / "labs"
FROM_LABS = "](../../docs/"  # how a solved notebook links to the documentation


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _write_pages)
    return {"parallel_read_safe": True}


def _write_pages(app: Sphinx) -> None:
    pages = {}
    for lab in read_labs():
        path = solved_path(lab)
        text = path.read_text(encoding="utf-8") if path.is_file() else to_notebook(readable(lab))
        pages[f"{lab.name[:3]}{lab.number:02d}{lab.path.stem[len(lab.name) :]}.ipynb"] = text.replace(
            FROM_LABS, "](../"
        )
    if PAGES.is_dir() and {path.name for path in PAGES.iterdir()} - set(pages):
        shutil.rmtree(PAGES)
    PAGES.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = PAGES / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # unchanged pages are not read again
            path.write_text(text, encoding="utf-8")
