"""The README's commands run, its Python runs, its links lead somewhere, and it stays short."""

import functools
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shapedreamer import cli

from .tiny import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (shapedreamer .*)$", README, flags=re.MULTILINE)


def test_it_is_short_and_the_map_of_concepts_comes_early() -> None:
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(i for i, line in enumerate(lines, 1) if "](src/shapedreamer/" in line) <= 100
    assert len(COMMANDS) == 8


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    called: list[str] = []

    def stand_in(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(run)(lambda *args, **kwargs: called.append(name))

    monkeypatch.setattr(cli, "SUBCOMMANDS", {name: stand_in(name, run) for name, run in cli.SUBCOMMANDS.items()})
    monkeypatch.setattr(sys, "argv", shlex.split(command, comments=True))
    assert cli.main() == 0
    assert called == [command.split()[1]]


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, but with a recipe that takes a second."""
    tiny = replace(TINY, timesteps=1000, epochs=1)
    monkeypatch.chdir(tmp_path)
    block = re.search(r"```python\n(import shapedreamer as sd.*?)```", README, flags=re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {"tiny": tiny}
    exec(block[1].replace("sd.recipes.shapes()", "tiny"), names)
    assert names["images"].shape == (32, 1, 32, 32)
    assert names["step"].t == 0
    assert Path("runs/mine/checkpoints/latest.safetensors").exists()


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        path, _, anchor = target.partition("#")
        if path.startswith("https://"):
            continue
        assert (ROOT / path).exists(), target
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("words", ["classifier-free guidance", "conditional", "timestep", "your own images", "DDIM"])
def test_the_words_that_people_search_for_are_there(words: str) -> None:
    assert words in README
