"""Turns docstrings, which are plain text, into reStructuredText for autodoc.

paragraphs       stay paragraphs; `name` in backticks becomes a literal, and `*`, `|` and trailing `_` stay characters
name   meaning   lists become definition lists, and so do lists of `name: meaning`
- item           lists stay lists
anything else    that is indented or aligned with spaces stays as it is, monospaced: code, formulas, tables
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ITEM = re.compile(r"(?:[-*•]|\d+\.) +(?=\S)")
COLON_ENTRY = re.compile(r"([\w*]+(?:, [\w*]+)*): +(?=\S)")
WIDE_ENTRY = re.compile(r"(\S(?: ?[^\s=])*) {2,}(?=\S)")
ALIGNED = re.compile(r"\S {3,}\S")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _on_docstring)
    app.connect("autodoc-process-signature", _on_signature)
    app.connect("autodoc-skip-member", _on_member)
    return {"parallel_read_safe": True}


def _on_docstring(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    by_dataclass = what == "class" and " ".join(lines).startswith(f"{name.rpartition('.')[2]}(")
    lines[:] = [] if by_dataclass else to_rest(lines)


def _on_signature(app: object, what: str, name: str, obj: object, options: object, args: str, returns: str) -> object:
    return args and args.replace("<factory>", "..."), returns  # Sphinx links the types only if this is valid Python


def _on_member(app: object, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    alias = type(obj).__name__ == "_tuplegetter"  # a field of a NamedTuple, "Alias for field number 0"
    return True if alias else None


def to_rest(lines: list[str]) -> list[str]:
    """The reStructuredText of a docstring, given and returned as lines. Its first line is a sentence, never a list."""
    summary, rest = lines[:1], lines[1:]
    while rest and rest[0].strip() and _kind(rest[0]) == "text":
        summary.append(rest.pop(0))
    return _text(summary) + [line for block in _blocks(rest) for line in _render(block)]


def _blocks(lines: list[str]) -> Iterator[list[str]]:
    """Split at blank lines and where the kind of line changes. Blank lines between indented lines split nothing."""
    block: list[str] = []
    for i, line in enumerate(lines):
        if not line.strip():
            following = next((later for later in lines[i:] if later.strip()), "")
            if block and _kind(block[0]) == "indented" == _kind(following):
                block.append("")
                continue
            yield from [block] if block else []
            block = []
        elif block and not _continues(block, line):
            yield block
            block = [line]
        else:
            block.append(line)
    yield from [block] if block else []


def _kind(line: str) -> str:
    if line.startswith(" "):
        return "indented"
    if ITEM.match(line):
        return "item"
    if _entry(line):
        return "entry"
    return "aligned" if ALIGNED.search(line) else "text"


def _continues(block: list[str], line: str) -> bool:
    """Whether the next line belongs to the block."""
    kind, new = _kind(block[0]), _kind(line)
    if kind == "indented" or new == "indented":
        return kind == new or kind != "text"
    if kind == "text":
        in_sentence = block[-1][-1] not in ".:"
        return new == "text" or (in_sentence and COLON_ENTRY.match(line) is not None)
    return new == kind or (new == "text" and line[0].islower())  # in the middle of a sentence


def _render(block: list[str]) -> list[str]:
    kind = _kind(block[0])
    if kind == "text":
        return _text(block)
    if kind == "item":
        return _items(block)
    indent = min(len(line) - len(line.lstrip()) for line in block if line.strip())
    block = [line[indent:] for line in block]
    entries = _entries(block)
    return _definitions(entries) if entries else _literal(block)


def _text(lines: list[str]) -> list[str]:
    text = " ".join(line.strip() for line in lines)
    return [_inline(re.sub("::$", ":", text)), ""]


def _entry(line: str) -> tuple[str, str] | None:
    """(name, meaning) if the line begins an entry of a list."""
    match = COLON_ENTRY.match(line) or WIDE_ENTRY.match(line)
    if match is None or len(match[1]) > 40 or re.search(r".[,.;]$", match[1]):
        return None
    return match[1].rstrip(":"), line[match.end() :]


def _entries(lines: list[str]) -> list[tuple[str, str]]:
    """(name, meaning) of every entry; [] unless each line belongs to one. Tables and commented code are no entries."""
    entries: list[tuple[str, str]] = []
    for line in lines:
        entry = None if line.startswith(" ") else _entry(line)
        if entry:
            entries.append(entry)
        elif entries:
            name, meaning = entries[-1]
            entries[-1] = name, f"{meaning} {line.strip()}".strip()
        else:
            return []
        if ALIGNED.search(entries[-1][1]) or entries[-1][1].startswith("#"):
            return []
    return entries


def _definitions(entries: list[tuple[str, str]]) -> list[str]:
    result = []
    for name, meaning in entries:
        term = _inline(name) if "`" in name else ", ".join(f"``{part}``" for part in name.split(", "))
        result += [term, f"    {_inline(meaning)}", ""]
    return result


def _items(block: list[str]) -> list[str]:
    items: list[str] = []
    for line in block:
        bullet = ITEM.match(line)
        if bullet:
            items.append(bullet[0] + _inline(line[bullet.end() :]))
        else:
            items[-1] += f" {_inline(line.strip())}"
    return [*items, ""]


def _literal(lines: list[str]) -> list[str]:
    try:
        ast.parse("\n".join(lines))
        language = "python"
    except SyntaxError:
        language = "text"
    return [f".. code-block:: {language}", "", *(f"    {line}" for line in lines), ""]


def _inline(text: str) -> str:
    """The text with what stands between backticks as literals, and without any other markup."""
    result = ""
    for i, part in enumerate(re.split(r"(``.+?``|`[^`]+`)", text)):
        escaped = f"``{part.strip('`')}``" if i % 2 else re.sub(r"([\\*|`]|_(?!\w))", r"\\\1", part)
        glued = result[-1:].isalnum() if i % 2 else i > 0 and part[:1].isalnum()
        result += "\\ " + escaped if glued else escaped
    return re.sub(r"^(\.\. |\+ |\w\. |:)", r"\\\1", result)
