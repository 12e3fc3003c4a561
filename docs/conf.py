"""Settings of the documentation site. `make docs` builds it in build/docs; nothing here needs a network."""

import os
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ConfigError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import shapedreamer  # noqa: E402
from shapedreamer.live.site import RUNTIME, build_site  # noqa: E402

project = "ShapeDreamer"
author = "The ShapeDreamer authors"
copyright = f"2026, {author}"
version = release = shapedreamer.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "lab_pages",
    "mathml",
    "plain_docstrings",
    "source_pages",
]
exclude_patterns = ["_ext"]
smartquotes = False  # "--steps" is an option, not a dash
highlight_language = "text"

# pages
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_update_mathjax = False
nb_execution_mode = "off"
html_math_renderer = "mathml"

# the API reference
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False  # torch's docstrings are not ours to render
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
add_module_names = False
maximum_signature_line_length = 150  # counts qualified names too, which are not shown
nitpick_ignore_regex = [
    (r"py:.*", r"(?!shapedreamer\b).*"),  # other packages: linking to their documentation would need a network
    (r"py:.*", r"shapedreamer\..*\b_\w+"),  # private classes
]
nitpick_ignore = [  # type variables
    ("py:class", "shapedreamer.common.noise.Words"),
    ("py:class", "shapedreamer.common.processes.Result"),
    ("py:class", "shapedreamer.conformance.report.Result"),
    ("py:class", "shapedreamer.data.drawn.sprites.T"),
]
toc_object_entries_show_parents = "hide"

# look
html_theme = "furo"
html_theme_options = {
    "light_css_variables": {
        # DejaVu first: it draws the accents of x̂₀ and ᾱ in the right place
        "font-stack--monospace": "'DejaVu Sans Mono', 'SFMono-Regular', Menlo, Consolas, 'Liberation Mono', monospace",
    }
}
html_title = "ShapeDreamer"
html_logo = "../src/shapedreamer/live/page/icon.svg"
html_favicon = "../src/shapedreamer/live/page/icon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

# the demo: the live page with a model, which needs the tarball of onnxruntime-web
DEMO_MODEL = "shapes-turbo"
RUNTIME_VARIABLE = "SHAPEDREAMER_ONNXRUNTIME"
runtime = Path(os.environ.get(RUNTIME_VARIABLE) or ROOT / "build" / f"{RUNTIME.replace('@', '-')}.tgz")


def setup(app: Sphinx) -> None:
    if runtime.is_file():
        app.tags.add("demo")
        app.connect("build-finished", build_demo)
    elif os.environ.get(RUNTIME_VARIABLE):
        raise ConfigError(f"{RUNTIME_VARIABLE}={runtime}: there is no such file")
    else:
        print(
            f"The demo is left out: there is no {runtime}. "
            f"Run `make docs-runtime` to fetch it with npm, or set {RUNTIME_VARIABLE} to the path of the tarball."
        )


def build_demo(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        build_site(Path(app.outdir) / "live-page", [DEMO_MODEL], runtime)
