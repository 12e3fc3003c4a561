"""Recipes: typed, named, refused when they make no sense, and equal to what they promise."""

import inspect
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import RecipeName
from shapedreamer.data.arrays import Arrays
from shapedreamer.models import recipes
from shapedreamer.models.checkpoint import RunConfig
from shapedreamer.models.recipes import (
    ContextUnetConfig,
    DrawnData,
    Recipe,
    UNetConfig,
    change,
    folder,
    moved,
    named,
    patterns,
    shapes,
    sprites,
)
from shapedreamer.networks.context_unet import ContextUnet
from shapedreamer.networks.unet import UNet

SHARED = Path(__file__).parents[3] / "shared" / "data"


def test_the_textbook_is_ddpms() -> None:
    recipe = shapes(textbook=True)
    assert recipe == Recipe("shapes")
    assert (recipe.prediction, recipe.schedule, recipe.timesteps, recipe.noise_levels) == ("eps", "linear", 1000, None)
    assert (recipe.batch_size, recipe.lr, recipe.epochs, recipe.data.samples) == (64, 2e-4, 100, 10_000)
    assert (recipe.steps_per_epoch, recipe.steps) == (156, 15_600)
    assert 2e6 < sum(p.numel() for p in recipe.make_network().parameters()) < 4e6


def test_network_options_are_those_of_the_network() -> None:
    """UNetConfig repeats UNet's arguments so that it needs no torch; it must not drift from them."""
    for network, config in ((UNet, UNetConfig()), (ContextUnet, ContextUnetConfig())):
        arguments = {name: p.default for name, p in inspect.signature(network).parameters.items()}
        assert arguments == {name: getattr(config, name) for name in arguments}
        assert {"kind", *arguments} == {field.name for field in fields(config)}


@pytest.mark.parametrize("textbook", [False, True])
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_fits_its_data_builds_and_survives_json(name: RecipeName, textbook: bool, tmp_path: Path) -> None:
    data = None
    if name in ("mnist", "fashion_mnist"):
        data = SHARED / name
        if not data.exists():
            pytest.skip("the real data are not here")
    if name == "folder":
        data = tmp_path
        rng = np.random.default_rng(0)
        for kind in "ab":
            (tmp_path / kind).mkdir()
            np.save(tmp_path / kind / "images.npy", rng.integers(0, 256, (20, 30, 20, 3), np.uint8))
    if name == "patterns":
        pytest.importorskip("cv2")
    recipe = named(name, textbook=textbook, data=data, samples=30)
    images, held_out = recipe.make_data()
    fitted = recipe.fitted(images)
    assert fitted.fitted(images) == fitted
    config = RunConfig(fitted, images.spec)
    assert RunConfig.from_json(config.to_json(), "here") == config
    assert fitted.data.samples == len(images) == 30
    assert held_out.spec.labels == images.spec.labels
    x, label = images.batch(torch.arange(2))
    assert images.spec.check(x) is x
    network = fitted.make_network()
    told = [label] if fitted.labels else []
    assert network(x, torch.tensor([1, recipe.timesteps]), *told).shape == x.shape
    assert recipe.make_schedule().T == recipe.timesteps
    assert (recipe.prediction, recipe.schedule) == (("eps", "linear") if textbook else ("x0", "cosine"))


def test_the_textbooks_of_the_other_systems() -> None:
    course = sprites(textbook=True)
    assert (course.timesteps, course.network) == (500, ContextUnetConfig(features=64))
    assert (course.epochs, course.batch_size, course.lr) == (32, 100, 2e-4)
    for name in ("mnist", "fashion_mnist"):
        recipe = named(name, textbook=True)
        assert (recipe.epochs, recipe.batch_size, recipe.lr, recipe.timesteps) == (20, 128, 2e-4, 1000)
        network = replace(recipe, network=replace(recipe.network, context=10)).make_network()
        assert 1.5e6 < sum(p.numel() for p in network.parameters()) < 2.5e6
        assert isinstance(network, UNet)
        assert network.time.linear1.out_features == 256
    assert patterns(textbook=True) == replace(
        Recipe("patterns", DrawnData("patterns")), network=UNetConfig(time_at="bottleneck"), labels=True
    )


@pytest.mark.parametrize(
    ("size", "levels", "patch"),
    [((32, 32), 3, 2), ((28, 28), 2, 2), ((30, 20), 1, 2), ((64, 48), 3, 2), ((8, 8), 3, 2), ((2, 2), 1, 2)],
)
def test_a_network_loses_the_levels_that_the_images_cannot_be_halved_for(
    size: tuple[int, int], levels: int, patch: int
) -> None:
    images = np.zeros((20, *size, 3), np.uint8)
    fitted = folder("nowhere").fitted(Arrays("mine", images, np.zeros((20, 0)), ()))
    assert isinstance(fitted.network, UNetConfig)
    assert (len(fitted.network.channels), fitted.network.patch, fitted.network.in_channels) == (levels, patch, 3)
    assert fitted.network.context == 0  # there are no labels to be told
    x = torch.zeros(1, 3, *size)
    assert fitted.make_network()(x, torch.tensor([1])).shape == x.shape


@pytest.mark.parametrize(
    ("recipe", "size", "nearest"),
    [
        (folder("x"), (27, 27), "28x28"),
        (folder("x", textbook=True), (30, 21), "30x20"),
        (folder("x", textbook=True), (1, 1), "2x2"),
        (sprites(), (18, 33), "16x32"),
    ],
)
def test_images_that_fit_no_network_are_refused_with_the_nearest_size(
    recipe: Recipe, size: tuple[int, int], nearest: str
) -> None:
    data = Arrays("mine", np.zeros((20, *size, 3), np.uint8), np.zeros((20, 2)), ("a", "b"))
    with pytest.raises(UserError, match=f"images of {size[0]}x{size[1]} do not fit.*nearest size is {nearest}"):
        recipe.fitted(data)


def test_a_network_that_must_be_told_labels_needs_some() -> None:
    data = Arrays("mine", np.zeros((20, 16, 16, 3), np.uint8), np.zeros((20, 0)), ())
    with pytest.raises(UserError, match="context_unet is told labels, and there are none in mine"):
        sprites().fitted(data)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("shapes", {"data": "x"}, "draws its own images.*--data is for: sprites, mnist, fashion_mnist, folder"),
        ("folder", {}, "needs the folder of your pictures: --data PATH"),
        ("mnist", {"size": (28, 28)}, "mnist has no size; --size is for: folder"),
        ("sprites", {"fit": "crop"}, "sprites has no fit; --fit is for: folder"),
    ],
)
def test_an_option_of_another_recipe_is_refused(name: RecipeName, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        named(name, **options)


def test_images_can_move_but_drawn_ones_lie_nowhere() -> None:
    assert moved(named("mnist", data="a"), "b") == named("mnist", data="b")
    assert moved(shapes(), None) == shapes()
    with pytest.raises(UserError, match="draws its own images"):
        moved(shapes(), "b")


def test_change_leaves_what_is_not_given() -> None:
    assert change(shapes(), samples=None, epochs=None) == shapes()
    changed = change(shapes(), samples=77, epochs=3)
    assert (changed.data.samples, changed.epochs) == (77, 3)
    assert replace(changed, data=shapes().data, epochs=4) == shapes()


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
        ({"label_dropout": 1.5}, "label_dropout"),
        ({"textbook": True, "schedule": "linear_zero_snr"}, "prediction v or x0"),
    ],
)
def test_nonsense_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        shapes(**wrong)


def test_a_batch_larger_than_the_data_is_one_batch_an_epoch() -> None:
    assert shapes(samples=10, batch_size=64).steps_per_epoch == 1


def test_reading_recipes_does_not_load_torch() -> None:
    code = "import sys, shapedreamer, shapedreamer.models.recipes, shapedreamer.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_top_level_names_all_resolve() -> None:
    import shapedreamer as sd

    assert sd.recipes is recipes
    assert all(getattr(sd, name) is not None for name in sd.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sd.nonsense


@pytest.mark.slow
def test_train_is_callable_whatever_was_imported_first() -> None:
    imports = "import shapedreamer.training.loop, shapedreamer as sd"
    code = f"{imports}; assert callable(sd.train) and 'recipe' in inspect.signature(sd.train).parameters"
    assert subprocess.run([sys.executable, "-c", f"import inspect; {code}"]).returncode == 0
