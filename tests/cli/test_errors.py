"""The library's errors speak Python; the command line translates them into its options."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shapedreamer.cli import with_options

SOURCE = Path(__file__).parents[2] / "src" / "shapedreamer"


@pytest.mark.parametrize(
    ("python", "command"),
    [
        ("choose another `out`", "choose another --out"),
        ("with `save_every=2` it", "with --save-every 2 it"),
        ("`size=(28, 20)` with `fit` crop", "--size 28x20 with --fit crop"),
        ("`size=(H, W)`", "--size HxW"),
        ("leave out `which='raw'`", "leave out --which raw"),
        ("one: `creativity=[T]`", "one: --creativity T"),
        ("train with `labels=True`", "train with --labels yes"),
        ("`resume=True` or `without_noise=True`", "--resume or --wrong no-noise"),
        ("make it with `shapedreamer distill`", "make it with `shapedreamer distill`"),
        ("a file called `x", "a file called `x"),
    ],
)
def test_arguments_become_options(python: str, command: str) -> None:
    assert with_options(python) == command


def library_errors() -> Iterator[tuple[str, str]]:
    """The calls of UserError outside of the command line: (file name, source)."""
    for path in SOURCE.rglob("*.py"):
        if "cli" not in path.relative_to(SOURCE).parts:
            text = path.read_text("utf-8")
            for error in re.findall(r"UserError\(.*?\)\s*(?:from|$)", text, re.DOTALL | re.MULTILINE):
                yield path.name, error


def test_errors_of_the_library_name_no_options() -> None:
    """An error that a Python user can meet must not tell them to pass --option."""
    found = [(name, re.findall(r"(?<![\w-])--[a-z][\w-]*", error)) for name, error in library_errors()]
    assert [(name, options) for name, options in found if options] == []


def test_errors_of_the_library_have_only_arguments_in_backticks() -> None:
    """The name of a command there, such as `evaluate`, would become --evaluate."""
    arguments = {
        name
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"(?:^ +|[(,] ?)([a-z_]+): (?=[A-Za-z\"])", path.read_text("utf-8"), re.MULTILINE)
    }
    found = [(name, re.findall(r"`([a-z_]+)(?:=[^`\n]*)?`", error)) for name, error in library_errors()]
    assert [(name, words) for name, words in found if not arguments.issuperset(words)] == []
