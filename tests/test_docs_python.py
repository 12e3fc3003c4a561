"""Every Python block in docs/ runs, in order, except the client of the live page, which needs a server."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import shapedreamer as sd

from .tiny import TINY

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_SERVER = ("live.md",)
PAGES = [path.name for path in sorted(DOCS.glob("*.md")) if BLOCK.search(path.read_text(encoding="utf-8"))]


def test_the_pages_with_python_are_found() -> None:
    assert {"guide.md", "export.md", *WITH_SERVER} <= set(PAGES)


# DPM-Solver's set_timesteps calls np.array(tensor), and NumPy 2 warns that torch's __array__ has no copy argument
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page not in WITH_SERVER])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("diffusers", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extras 'diffusers' and 'export'")
    tiny = replace(TINY, timesteps=1000, epochs=1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sd.recipes, "shapes", _tiny_or(sd.recipes.shapes, tiny))
    sd.train(tiny, "runs/shapes", sample_every=0)
    for block in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")):
        script = tmp_path / "digits-onnx" / "sample.py"  # export.md shows this file
        exec(compile(block, page, "exec"), {"__name__": "__main__", "__file__": str(script)})


def _tiny_or(shapes: Any, tiny: Any) -> Any:
    """The recipe `shapes`, but a tiny one where a page trains with the default settings."""
    return lambda **options: shapes(**options) if "textbook" in options else tiny
