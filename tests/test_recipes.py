"""Recipes: typed, named, refused when they make no sense, and equal to what they promise."""

import inspect
import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest

from shapedreamer import recipes
from shapedreamer.checkpoint import RunConfig
from shapedreamer.data.shapes import SPEC
from shapedreamer.errors import UserError
from shapedreamer.networks.unet import UNet
from shapedreamer.recipes import Recipe, UNetConfig, change, shapes


def test_the_textbook_is_ddpms() -> None:
    recipe = shapes()
    assert (recipe.prediction, recipe.schedule, recipe.timesteps, recipe.noise_levels) == ("eps", "linear", 1000, None)
    assert (recipe.batch_size, recipe.lr, recipe.epochs, recipe.data.samples) == (64, 2e-4, 100, 10_000)
    assert (recipe.steps_per_epoch, recipe.steps) == (156, 15_600)
    assert 2e6 < sum(p.numel() for p in recipe.make_network().parameters()) < 4e6


def test_network_options_are_those_of_the_network() -> None:
    """UNetConfig repeats UNet's arguments so that it needs no torch; it must not drift from them."""
    arguments = {name: p.default for name, p in inspect.signature(UNet).parameters.items()}
    assert arguments == {name: getattr(UNetConfig(), name) for name in arguments}
    assert arguments.keys() == {field.name for field in fields(UNetConfig)}


@pytest.mark.parametrize("recipe", [shapes(), shapes(quick=True)])
def test_every_recipe_builds_and_survives_json(recipe: Recipe) -> None:
    config = RunConfig(recipe, SPEC)
    assert RunConfig.from_json(config.to_json(), "here") == config
    assert recipe.make_network().in_channels == recipe.make_data().spec.channels
    assert recipe.make_schedule().T == recipe.timesteps


def test_change_leaves_what_is_not_given() -> None:
    assert change(shapes(), samples=None, epochs=None) == shapes()
    changed = change(shapes(), samples=77, epochs=3)
    assert (changed.data.samples, changed.epochs) == (77, 3)
    assert replace(changed, data=shapes().data, epochs=100) == shapes()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": -1}, "batch_size"),
        ({"timesteps": 0}, "timesteps"),
        ({"samples": 0}, "samples"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"seed": -1}, "seed"),
        ({"schedule": "linear_zero_snr"}, "prediction v or x0"),
    ],
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        shapes(**wrong)


def test_a_batch_larger_than_the_data_is_one_batch_an_epoch() -> None:
    assert shapes(samples=10, batch_size=64).steps_per_epoch == 1


def test_reading_recipes_does_not_load_torch() -> None:
    code = "import sys, shapedreamer, shapedreamer.recipes, shapedreamer.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_top_level_names_all_resolve() -> None:
    import shapedreamer as sd

    assert sd.recipes is recipes
    assert all(getattr(sd, name) is not None for name in sd.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sd.nonsense


def test_train_is_callable_whatever_was_imported_first() -> None:
    code = "import shapedreamer.train, shapedreamer as sd; assert callable(sd.train); import shapedreamer.loss"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
