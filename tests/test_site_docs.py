"""The documentation site: docstrings are rendered in full, the API reference is complete, and links work.

These tests build no pages. `make docs` does, with warnings as errors; .ci/run calls it.
"""

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import shapedreamer
from shapedreamer.diffusion.samplers import Step, ddim

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "shapedreamer"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("**/*.md")]
MARKUP = r"[\s`:*•-]"
REST = [
    ("One sentence.", ["One sentence."]),
    ("One sentence\nin two lines.", ["One sentence in two lines."]),
    ("Name: not a list.\n\nNo list\neither: really.", ["Name: not a list.", "", "No list either: really."]),
    (
        "A *b* and |x − y|, `c`s, a trailing_ and a ``(B, *shape)``.",
        [r"A \*b\* and \|x − y\|, ``c``\ s, a trailing\_ and a ``(B, *shape)``."],
    ),
    (
        "F.\n\nx:    the image, which\n      is noisy\ns, t: timesteps",
        ["F.", "", "``x``", "    the image, which is noisy", "", "``s``, ``t``", "    timesteps"],
    ),
    (
        "F.\n\neta: as for ddim. With fewer\nsteps the same.\nUserError for a bad eta.",
        ["F.", "", "``eta``", "    as for ddim. With fewer steps the same.", "", "UserError for a bad eta."],
    ),
    (
        "F.\n\nTwo forms:\n    ema, raw   averaged or not,\n               and `why`\n    .          none",
        ["F.", "", "Two forms:", "", "``ema``, ``raw``", "    averaged or not, and ``why``", "", "``.``", "    none"],
    ),
    (
        "F.\n\n    x = √a,    y = 1\n\nHere::\n\n    f(1)  # python\n\n    g(2)",
        [
            *["F.", "", ".. code-block:: text", "", "    x = √a,    y = 1", "", "Here:", ""],
            *[".. code-block:: python", "", "    f(1)  # python", "    ", "    g(2)"],
        ],
    ),
    (
        "F.\n\nWith α:   x = α   (1)\n          v = σ   (2)\nThe end.",
        [
            "F.",
            "",
            ".. code-block:: text",
            "",
            "    With α:   x = α   (1)",
            "              v = σ   (2)",
            "",
            "The end.",
        ],
    ),
    ("F.\n\n- one\n  item\n- two", ["F.", "", "- one item", "- two"]),
    ("", [""]),
]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def docstrings() -> list[tuple[str, str]]:
    """(where, docstring) of everything in the package."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return [
        (f"{path.relative_to(SOURCE)}: {getattr(node, 'name', 'module')}", docstring)
        for path in sorted(SOURCE.glob("**/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, kinds) and (docstring := ast.get_docstring(node))
    ]


@pytest.mark.parametrize(("docstring", "expected"), REST)
def test_docstrings_become_restructured_text(docstring: str, expected: list[str]) -> None:
    to_rest = load(DOCS / "_ext" / "plain_docstrings.py").to_rest
    lines = to_rest(inspect.cleandoc(docstring).split("\n"))
    assert "\n".join(lines).rstrip() == "\n".join(expected)


def test_every_docstring_is_rendered_without_a_warning_and_without_losing_a_word() -> None:
    core = pytest.importorskip("docutils.core", reason="needs the extra 'docs'")
    to_rest = load(DOCS / "_ext" / "plain_docstrings.py").to_rest
    settings = {"report_level": 2, "halt_level": 2, "file_insertion_enabled": False, "syntax_highlight": "none"}
    for where, docstring in docstrings():
        rest = "\n".join(to_rest(docstring.split("\n")))
        rendered = core.publish_doctree(rest, settings_overrides=settings).astext()
        assert re.sub(MARKUP, "", rendered) == re.sub(MARKUP, "", docstring), where


def test_generated_docstrings_and_defaults_are_left_out() -> None:
    hooks = load(DOCS / "_ext" / "plain_docstrings.py")
    lines = ["Schedule(alpha_bar: Tensor)"]
    hooks._on_docstring(None, "class", "shapedreamer.diffusion.schedule.Schedule", None, None, lines)
    assert lines == []
    assert hooks._on_signature(None, "class", "C", None, None, "(a: list = <factory>)", None) == (
        "(a: list = ...)",
        None,
    )
    assert hooks._on_member(None, "class", "t", vars(Step)["t"], False, None) is True
    assert hooks._on_member(None, "function", "ddim", ddim, False, None) is None


def test_every_module_is_on_a_page_of_the_api_reference() -> None:
    modules = {
        ".".join(("shapedreamer", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        for path in SOURCE.glob("*/**/*.py")
        if "cli" not in path.parts
    }
    # these have nothing but a docstring, and their modules are on the page of `data`
    modules -= {"shapedreamer.data.drawn", "shapedreamer.data.files"}
    # a page with the checks of the labs would list the mistakes that learners should find
    modules = {name for name in modules if not name.startswith("shapedreamer.labs.checks.")}
    documented = [
        name for page in DOCS.glob("api/*.md") for name in re.findall(r"automodule:: (\S+)", page.read_text("utf-8"))
    ]
    assert sorted(documented) == sorted(modules)


def test_the_api_reference_lists_every_top_level_name() -> None:
    rows = re.findall(r"^\| \{py:\w+\}`(\w+) <", (DOCS / "api" / "index.md").read_text("utf-8"), flags=re.MULTILINE)
    assert sorted(rows) == sorted(shapedreamer.__all__)


def test_maths_becomes_mathml() -> None:
    math_core = pytest.importorskip("math_core", reason="needs the extra 'docs'")
    pytest.importorskip("sphinx", reason="needs the extra 'docs'")
    mathml = load(DOCS / "_ext" / "mathml.py")
    assert mathml.to_mathml(r"\bar\alpha_t", block=False).startswith("<math><msub><mover")
    with pytest.raises(math_core.LatexError, match="nosuch"):
        mathml.to_mathml(r"\nosuch", block=True)


def test_links_to_files_outside_docs_lead_to_pages_of_source() -> None:
    pytest.importorskip("sphinx", reason="needs the extra 'docs'")
    source = load(DOCS / "_ext" / "source_pages.py")._source
    samplers = "src/shapedreamer/diffusion/samplers.py"
    assert source(DOCS, f"../{samplers}") == samplers
    assert source(DOCS / "api", f"../../{samplers}") == samplers
    assert source(DOCS, "../src/shapedreamer/diffusion") == "src/shapedreamer/diffusion/__init__.py"
    assert source(DOCS, str(ROOT / "README")) == "README.md"  # as MyST stores a link to ../README.md
    for other in (
        "guide",
        "../nosuch.py",
        "../docs/noise.md",
        "../src/shapedreamer/models/zoo/weights/shapes.safetensors",
    ):
        assert source(DOCS, other) is None


def test_no_markdown_link_is_broken() -> None:
    assert list(load(DOCS / "check_links.py").broken_markdown_links(PAGES)) == []


def test_broken_markdown_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `title`: 1\n\n[a](page.md) [b](#a-title-1) [c](page.md#a-title-1) [d](https://example.org) `[e](f)`\n\n"
        "    [code](nowhere)\n\n```python\n# no heading\nf[0](x)\n```\n\n[g](gone.md) ![h](gone.png) [i](#no-heading)\n"
    )
    assert list(load(DOCS / "check_links.py").broken_markdown_links([page])) == [
        f"{page}: there is no gone.md",
        f"{page}: there is no gone.png",
        f"{page}: page.md has no heading for #no-heading",
    ]


def test_broken_html_links_are_found(tmp_path: Path) -> None:
    check = load(DOCS / "check_links.py").broken_html_links
    (tmp_path / "sub").mkdir()
    (tmp_path / "style.css").write_text("a { background: url('sub/index.html') } b { background: url(data:x) }")
    (tmp_path / "sub" / "index.html").write_text(
        '<p id="here"><a href="../index.html">up</a> <a href="#top">top</a></p>'
    )
    page = tmp_path / "index.html"
    page.write_text(
        '<link href="style.css?v=1"><a href="sub/#here">a</a> <a href="https://example.org">b</a> <img src="data:x">'
        '<a href="sub/#view=draw&seed=7">c</a>'
    )
    assert list(check(tmp_path)) == []
    page.write_text(
        '<a href="sub/#gone">a</a> <a href="#view=">b</a> <a href="#a b=c">c</a>'
        '<img src="gone.png"> <script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "style.css").write_text(
        "a { background: url(gone.woff2) } b { background: url(https://example.org/x) }"
    )
    style = tmp_path / "style.css"
    assert list(check(tmp_path)) == [
        f"{page}: index.html has no anchor #gone",
        f"{page}: index.html has no anchor #a b=c",
        f"{page}: there is no gone.png",
        f"{page}: <script> loads https://example.org/x.js from another host",
        f"{style}: there is no gone.woff2 on this host",
        f"{style}: there is no https://example.org/x on this host",
    ]
