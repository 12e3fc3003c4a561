"""The README's commands are commands, its Python runs, and its links lead somewhere."""

import functools
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import shapedreamer as sd
from shapedreamer import cli
from tests.tiny import TINY

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (shapedreamer .*)$", README, flags=re.MULTILINE)


def test_there_is_a_command_for_each_subcommand() -> None:
    assert {command.split()[1] for command in COMMANDS} == set(cli.SUBCOMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    called: list[str] = []

    def stand_in(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(run)(lambda *args, **kwargs: called.append(name))

    monkeypatch.setattr(cli, "SUBCOMMANDS", {name: stand_in(name, run) for name, run in cli.SUBCOMMANDS.items()})
    monkeypatch.setattr(sys, "argv", command.split("#")[0].split())
    assert cli.main() == 0
    assert called == [command.split()[1]]


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for a recipe that takes a second."""
    tiny = replace(TINY, timesteps=1000, epochs=1)
    monkeypatch.chdir(tmp_path)
    sd.train(tiny, "runs/shapes", sample_every=0)
    block = re.search(r"```python\n(import shapedreamer as sd.*?)```", README, flags=re.DOTALL)
    assert block is not None
    code = block[1].replace("sd.recipes.shapes(seed=1)", "tiny")
    names: dict[str, Any] = {"tiny": tiny}
    exec(code, names)
    assert names["images"].shape == (32, 1, 32, 32)
    assert names["step"].t == 0
    assert Path("runs/mine/checkpoints/latest.safetensors").exists()


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.search(r"@[A-Z_]{3,}", README)
