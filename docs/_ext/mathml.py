"""Renders LaTeX maths as MathML, which browsers display themselves: no scripts, no fonts, no network."""

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
converter = LatexToMathML(fancy_error=False)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (_visit_inline, None), (_visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def to_mathml(latex: str, *, block: bool) -> str:
    """A <math> element. LatexError, with the position, if the LaTeX is wrong or a command is not supported."""
    return converter.convert_with_local_state(latex, displaystyle=block)


def _visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(f'<span class="math">{_render(translator, node, block=False)}</span>')
    raise nodes.SkipNode


def _visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="math"))
    translator.body.append(_render(translator, node, block=True))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({node["number"]})</span>')
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def _render(translator: HTML5Translator, node: nodes.Element, *, block: bool) -> str:
    latex = node.astext()
    try:
        return to_mathml(latex, block=block)
    except LatexError as error:
        logger.warning("cannot render the maths %r: %s", latex, error, location=node)
        return f"<code>{translator.encode(latex)}</code>"
