"""Turns links to files outside docs/, such as ../src/shapedreamer/diffusion/samplers.py, into links to rendered pages.

A module that the API reference documents already has a page, made by sphinx.ext.viewcode. Any other text file gets a
page here. A link to a folder leads to its __init__.py or README.md.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INCLUDED = {"benchmarks/EXPERIMENTS.md": "experiments"}  # files that a page of docs/ includes


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", _find_links, priority=100)  # before Sphinx copies the files to _downloads
    app.connect("env-purge-doc", lambda app, env, docname: _linked(env).pop(docname, None))
    app.connect("env-updated", _drop_modules_without_source)
    app.connect("doctree-resolved", _resolve_links)
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": False}


def _linked(env: BuildEnvironment) -> dict[str, set[str]]:
    """The files outside docs/ that each page links to, relative to the repository."""
    if not hasattr(env, "linked_sources"):
        env.linked_sources = {}
    return env.linked_sources


def _find_links(app: Sphinx, doctree: nodes.document) -> None:
    docname = app.env.docname
    folder = (DOCS / docname).parent
    for node in list(doctree.findall(lambda n: isinstance(n, addnodes.download_reference | addnodes.pending_xref))):
        source = _source(folder, str(node.get("reftarget", "")))
        if source:
            link = nodes.reference("", "", *node.children, internal=True, refuri="", source=source)
            node.replace_self(link)
            _linked(app.env).setdefault(docname, set()).add(source)


def _source(folder: Path, target: str) -> str | None:
    """The path of a text file in the repository, but outside docs/, that a link leads to; None for any other link."""
    if "/" not in target:
        return None
    path = Path(os.path.normpath(folder / target))
    # MyST takes the ending off the name of a Markdown file
    candidates = (path, path.with_name(f"{path.name}.md"), path / "__init__.py", path / "README.md")
    path = next((candidate for candidate in candidates if candidate.is_file()), path)
    if not path.is_file() or ROOT not in path.parents or DOCS in path.parents:
        return None
    try:
        get_lexer_for_filename(path.name)
    except ClassNotFound:
        return None
    return path.relative_to(ROOT).as_posix()


def _drop_modules_without_source(app: Sphinx, env: BuildEnvironment) -> None:
    """viewcode would list them, with links to pages that it does not write."""
    modules = getattr(env, "_viewcode_modules", {})
    for name in [name for name, source in modules.items() if not source]:
        del modules[name]


def _page(env: BuildEnvironment, source: str) -> str:
    """The name of the page that shows a file."""
    if source in INCLUDED:
        return INCLUDED[source]
    module = source.removeprefix("src/").removesuffix(".py").removesuffix("/__init__")
    if getattr(env, "_viewcode_modules", {}).get(module.replace("/", ".")):
        return f"_modules/{module}"
    return f"source/{source}"


def _resolve_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    for node in doctree.findall(nodes.reference):
        if "source" in node:
            node["refuri"] = app.builder.get_relative_uri(docname, _page(app.env, node["source"]))


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    for source in sorted(set().union(*_linked(app.env).values())):
        page = _page(app.env, source)
        if page.startswith("source/"):
            language = get_lexer_for_filename(source).aliases[0]
            code = app.builder.highlighter.highlight_block((ROOT / source).read_text(encoding="utf-8"), language)
            yield page, {"title": source, "body": f"<h1>{source}</h1>\n{code}"}, "page.html"
