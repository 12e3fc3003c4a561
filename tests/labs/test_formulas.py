"""Formulas in the terminal: LaTeX becomes Unicode, and never loses a sign."""

import pytest

from shapedreamer.labs.formulas import readable, to_unicode


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\hat x_0 = g\,x_t", "x̂₀ = g x_t"),
        (r"\bar\alpha_t", "ᾱ_t"),
        (r"\sqrt{1-\bar\alpha_t}\,\hat\epsilon", "√(1−ᾱ_t) ε̂"),
        (r"\sqrt{\bar\alpha_t}", "√ᾱ_t"),
        (r"\frac{\bar\alpha_t}{\bar\alpha_s}(1-\bar\alpha_s) + 1", "(ᾱ_t/ᾱ_s)(1−ᾱ_s) + 1"),
        (r"\frac{a + b}{2 c}", "(a + b)/(2 c)"),
        (r"C n^{-p}", "C n^(−p)"),
        (r"e^{z_i} + 0.9^{32}", "e^(z_i) + 0.9³²"),
        (r"\mathrm E[x_0 \mid x_t]", "E[x₀ | x_t]"),
        (r"F_\infty \leftarrow \text{row}", "F_∞ ← row"),
        (r"\frac", "/"),
        ("}{", ""),
    ],
)
def test_latex_becomes_unicode(latex: str, text: str) -> None:
    assert to_unicode(latex) == text


def test_code_stays_as_it_is_and_markdown_does_not_see_the_formula() -> None:
    assert readable("`$a_b$` is *not* $x_t*y$ and costs 3 $") == r"`$a_b$` is *not* x\_t\*y and costs 3 $"
