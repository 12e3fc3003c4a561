"""A command reaches the mathematics that it runs in a few calls, so that a reader can follow them."""

import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shapedreamer import cli
from shapedreamer.cli import sample as sample_command
from shapedreamer.cli import train as train_command
from shapedreamer.diffusion.loss import denoising_loss
from shapedreamer.diffusion.samplers import SAMPLERS, ddim
from shapedreamer.models import recipes
from shapedreamer.models.checkpoint import RunConfig, save_checkpoint
from shapedreamer.models.recipes import Recipe
from shapedreamer.training import loop
from tests.tiny import TINY, TUNED


def path_from(start: Callable[..., Any], end: Callable[..., Any]) -> list[str]:
    """The package's functions on the stack from `start` on, and then `end`, which is about to be called.

    Comprehensions and functions of other packages (tyro, contextlib, functools) do not count.
    """
    frames = [info.frame for info in reversed(inspect.stack(0))]
    first = [frame.f_code for frame in frames].index(start.__code__)
    names = [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame in frames[first:]]
    names = [(module, name) for module, name in names if not name.endswith(("comp>", "genexpr>"))]
    path = [f"{module}.{name}" for module, name in names if module.startswith("shapedreamer.")]
    return [*path, f"{end.__module__}.{end.__name__}"]


def assert_hops(path: list[str], limit: int) -> None:
    hops = len(path) - 1
    assert hops <= limit, f"{hops} calls, at most {limit} are allowed: {' -> '.join(path)}"


def shapedreamer(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["shapedreamer", *map(str, arguments)])
    assert cli.main() == 0


def test_the_sample_command_reaches_the_sampler_in_3_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = TUNED.make_data()
    recipe = TUNED.bind_data(data)
    weights = recipe.make_network().state_dict()
    save_checkpoint(tmp_path, "untrained", RunConfig(recipe, data.spec), 0, {}, weights, math.inf)
    paths = []

    def record(*args: Any, **options: Any) -> Any:
        paths.append(path_from(sample_command.run, ddim))
        return ddim(*args, **options)

    monkeypatch.setitem(SAMPLERS, "ddim", record)
    options = ("--num", 1, "--sampler", "ddim", "--steps", 2, "--out", tmp_path / "a.png")
    shapedreamer(monkeypatch, "sample", tmp_path / "untrained.safetensors", *options)
    assert len(paths) == 1
    assert_hops(paths[0], 3)


def test_the_train_command_reaches_the_loss_in_2_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = []

    def record(*args: Any) -> torch.Tensor:
        if torch.is_grad_enabled():  # a training step; the held-out loss needs no gradient
            paths.append(path_from(train_command.run, denoising_loss))
        return denoising_loss(*args)

    def tiny(*, textbook: bool = False) -> Recipe:
        return TINY

    monkeypatch.setattr(loop, "denoising_loss", record)
    monkeypatch.setitem(recipes.RECIPES, "shapes", tiny)
    shapedreamer(monkeypatch, "train", "shapes", "--epochs", 1, "--sample-every", 0, "--out", tmp_path / "run")
    assert len(paths) == 4  # one for each step
    for path in paths:
        assert_hops(path, 2)


def test_the_error_prints_the_path() -> None:
    with pytest.raises(AssertionError, match="2 calls, at most 1 are allowed: a -> b -> c"):
        assert_hops(["a", "b", "c"], 1)


def test_the_core_fits_in_750_lines() -> None:
    names = ("schedule", "process", "denoiser", "samplers", "loss", "oracle")
    lines = [(Path(inspect.getfile(denoising_loss)).parent / f"{name}.py").read_text().count("\n") for name in names]
    assert sum(lines) < 750
