r"""Formulas for a terminal: `$\hat x_0 = g\,x_t$` becomes x̂₀ = g x_t."""

import re
import unicodedata

_CODE_OR_MATH = re.compile(r"(?P<code>```.*?```|`[^`]*`)|\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL)
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|\s+|.", re.DOTALL)
_ACCENTS = {"hat": "\u0302", "bar": "\u0304", "tilde": "\u0303"}
_SYMBOLS = dict(
    pair.split("=")
    for pair in (
        "alpha=α beta=β epsilon=ε eta=η theta=θ lambda=λ mu=μ sigma=σ tau=τ cdot=· times=× infty=∞ sum=Σ varnothing=∅ "
        "sim=~ leftarrow=← to=→ mid=| lceil=⌈ rceil=⌉ lfloor=⌊ rfloor=⌋ le=≤ ge=≥ approx=≈ left= right= big="
    ).split()
)
_FONTS = ("mathrm", "mathcal", "mathbf", "text")
_SUPERSCRIPTS = str.maketrans("0123456789−+n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def readable(markdown: str) -> str:
    """Return the Markdown with Unicode in the place of every LaTeX formula. Code stays as it is."""

    def replace(match: re.Match[str]) -> str:
        if match["code"]:
            return match["code"]
        formula = to_unicode(match["block"] or match["inline"])
        return re.sub(r"([\\*_\[\]<>])", r"\\\1", formula)

    return _CODE_OR_MATH.sub(replace, markdown)


def to_unicode(formula: str) -> str:
    r"""Return a formula without LaTeX, such as x̂₀ for \hat x_0, (a + b)/c for \frac{a + b}{c}, or √(1−ᾱ_t)."""
    return unicodedata.normalize("NFC", _sequence([token[0] for token in _TOKEN.finditer(formula.strip())]))


def _sequence(tokens: list[str]) -> str:
    """Translate tokens up to the closing brace, or to the end. The list gets shorter."""
    text = ""
    while tokens and tokens[0] != "}":
        text += _script(tokens) if tokens[0] in "^_" else _piece(tokens)
    return text


def _argument(tokens: list[str]) -> str:
    """Translate one argument: what braces enclose, or the next piece."""
    while tokens and tokens[0].isspace():
        tokens.pop(0)
    if tokens and tokens[0] == "{":
        tokens.pop(0)
        text = _sequence(tokens)
        del tokens[:1]
        return text
    return _piece(tokens) if tokens else ""


def _piece(tokens: list[str]) -> str:
    token = tokens.pop(0)
    name = token[1:]
    if token == "{":
        tokens.insert(0, token)
        return _argument(tokens)
    if not token.startswith("\\"):
        return " " if token.isspace() else "−" if token == "-" else token
    if name in _ACCENTS:
        return _argument(tokens) + _ACCENTS[name]
    if name == "sqrt":
        text = _argument(tokens)
        while tokens and tokens[0] == "_":  # \sqrt x_t
            text += _script(tokens)
        return f"√{_grouped(text)}"
    if name in ("frac", "tfrac"):
        top, bottom = _argument(tokens), _argument(tokens)
        text = f"{_grouped(top, '[-−+]')}/{_grouped(bottom)}"
        return text if not tokens or re.match(r"[\s}=,.)]", tokens[0]) else f"({text})"
    if name in _FONTS:
        return _argument(tokens)
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    return name if name.isalpha() else " "


def _script(tokens: list[str]) -> str:
    """Translate an exponent or an index."""
    mark = tokens.pop(0)
    text = _argument(tokens).strip()
    small = _SUPERSCRIPTS if mark == "^" else _SUBSCRIPTS
    if all(ord(letter) in small for letter in text):
        return text.translate(small)
    return f"{mark}{_grouped(text, '[-−+/·×_ ]')}"


def _grouped(text: str, operators: str = "[-−+/·× ]") -> str:
    """Return the text, in parentheses if it has an operator."""
    text = text.strip()
    return f"({text})" if re.search(operators, text) else text
