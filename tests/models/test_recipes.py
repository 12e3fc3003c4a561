"""Recipes hold the documented settings, fit their data, round-trip through JSON, and reject invalid values."""

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
from shapedreamer.common.names import NetworkName, RecipeName
from shapedreamer.data.arrays import Arrays
from shapedreamer.models import recipes
from shapedreamer.models.checkpoint import RunConfig
from shapedreamer.models.recipes import (
    ContextUnetConfig,
    DiTConfig,
    DrawnData,
    Recipe,
    Sampling,
    UNetConfig,
    folder,
    get_recipe,
    patterns,
    shapes,
    sprites,
    with_data_path,
    with_overrides,
)
from shapedreamer.networks.context_unet import ContextUnet
from shapedreamer.networks.dit import DiT
from shapedreamer.networks.unet import UNet
from tests.recipe_data import data_for


def test_the_textbook_recipe_has_the_settings_of_ddpm() -> None:
    recipe = shapes(textbook=True)
    assert recipe == Recipe("shapes")
    assert (recipe.prediction, recipe.schedule, recipe.timesteps, recipe.noise_levels) == ("eps", "linear", 1000, None)
    assert (recipe.batch_size, recipe.lr, recipe.epochs, recipe.data.samples) == (64, 2e-4, 100, 10_000)
    assert (recipe.steps_per_epoch, recipe.steps) == (156, 15_600)
    assert 2e6 < sum(p.numel() for p in recipe.make_network().parameters()) < 4e6


def test_network_configs_have_the_arguments_and_defaults_of_their_networks() -> None:
    """UNetConfig repeats UNet's arguments so that it does not import torch."""
    for network, config in ((UNet, UNetConfig()), (ContextUnet, ContextUnetConfig()), (DiT, DiTConfig())):
        arguments = {name: p.default for name, p in inspect.signature(network).parameters.items()}
        assert arguments == {name: getattr(config, name) for name in arguments}
        assert {"kind", *arguments} == {field.name for field in fields(config)}


@pytest.mark.parametrize(("textbook", "network_name"), [(False, None), (True, None), (False, "dit")])
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_fits_its_data_and_round_trips_through_json(
    name: RecipeName, textbook: bool, network_name: NetworkName | None, tmp_path: Path
) -> None:
    data = data_for(name, tmp_path, height=32 if network_name else 30)
    recipe = get_recipe(name, textbook=textbook, data=data, samples=30, network=network_name)
    assert recipe.network.kind == (network_name or ("context_unet" if name == "sprites" else "unet"))
    images, held_out = recipe.make_data()
    bound = recipe.bind_data(images)
    assert bound.bind_data(images) == bound
    config = RunConfig(bound, images.spec)
    assert RunConfig.from_json(config.to_json(), "config.json") == config
    assert bound.data.samples == len(images) == 30
    assert held_out.spec.labels == images.spec.labels
    x, label = images.batch(torch.arange(2))
    assert images.spec.check(x) is x
    network = bound.make_network()
    condition = [label] if bound.labels else []
    assert network(x, torch.tensor([1, recipe.timesteps]), *condition).shape == x.shape
    assert recipe.make_schedule().T == recipe.timesteps
    assert (recipe.prediction, recipe.schedule) == (("eps", "linear") if textbook else ("x0", "cosine"))


def test_the_settings_of_the_other_textbook_recipes() -> None:
    recipe = sprites(textbook=True)
    assert (recipe.timesteps, recipe.network) == (500, ContextUnetConfig(features=64))
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (32, 100, 2e-4)
    for name in ("mnist", "fashion_mnist"):
        recipe = get_recipe(name, textbook=True)
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
def test_a_network_drops_levels_for_images_that_cannot_be_halved_often_enough(
    size: tuple[int, int], levels: int, patch: int
) -> None:
    images = np.zeros((20, *size, 3), np.uint8)
    bound = folder("nowhere").bind_data(Arrays("mine", images, np.zeros((20, 0)), ()))
    assert isinstance(bound.network, UNetConfig)
    assert (len(bound.network.channels), bound.network.patch, bound.network.in_channels) == (levels, patch, 3)
    assert bound.network.context == 0  # the data have no labels
    x = torch.zeros(1, 3, *size)
    assert bound.make_network()(x, torch.tensor([1])).shape == x.shape


@pytest.mark.parametrize(
    ("recipe", "size", "nearest"),
    [
        (folder("x"), (27, 27), "28x28"),
        (folder("x", textbook=True), (30, 21), "30x20"),
        (folder("x", textbook=True), (1, 1), "2x2"),
        (sprites(), (18, 33), "16x32"),
    ],
)
def test_images_of_an_unsupported_size_are_rejected_with_the_nearest_size(
    recipe: Recipe, size: tuple[int, int], nearest: str
) -> None:
    data = Arrays("mine", np.zeros((20, *size, 3), np.uint8), np.zeros((20, 2)), ("a", "b"))
    with pytest.raises(UserError, match=f"images of {size[0]}x{size[1]} do not fit.*nearest size is {nearest}"):
        recipe.bind_data(data)


def test_the_context_unet_needs_class_labels() -> None:
    data = Arrays("mine", np.zeros((20, 16, 16, 3), np.uint8), np.zeros((20, 0)), ())
    with pytest.raises(UserError, match="context_unet needs class labels, but mine has none"):
        sprites().bind_data(data)


@pytest.mark.parametrize(
    ("size", "patch", "fitting"),
    [
        ((28, 28), 3, "1, 2, 4, 7, 14, 28"),
        ((27, 36), 4, "1, 3, 9"),
        ((7, 11), 4, "1"),
        ((512, 512), 4, "8, 16, 32, 64"),
    ],
)
def test_a_patch_that_does_not_fit_is_rejected_with_those_that_do(
    size: tuple[int, int], patch: int, fitting: str
) -> None:
    data = Arrays("mine", np.zeros((2, *size, 1), np.uint8), np.zeros((2, 0)), ())
    recipe = folder("x", network=DiTConfig(patch=patch))
    expected = f"images of {size[0]}x{size[1]} do not fit .* patches of {patch}: .*patches that fit: {fitting}, as in"
    with pytest.raises(UserError, match=expected):
        recipe.bind_data(data)
    for fits in map(int, fitting.split(", ")):
        assert folder("x", network=DiTConfig(patch=fits)).bind_data(data).network == DiTConfig(patch=fits)


def test_if_no_patch_fits_the_error_says_so() -> None:
    data = Arrays("mine", np.zeros((2, 509, 3, 1), np.uint8), np.zeros((2, 0)), ())
    assert folder("x", network=DiTConfig(patch=1)).bind_data(data).network == DiTConfig(patch=1)
    data = Arrays("mine", np.zeros((2, 1021, 9, 1), np.uint8), np.zeros((2, 0)), ())
    with pytest.raises(UserError, match="no patch fits such images"):
        folder("x", network="dit").bind_data(data)


def test_a_network_can_be_named_or_given_and_a_stored_one_stays() -> None:
    assert shapes(network="unet") == shapes(network=None) == shapes()
    assert isinstance(shapes(network="dit").network, DiTConfig)
    assert isinstance(shapes(network="dit", textbook=True).network, DiTConfig)
    assert (shapes(network="dit").optimizer, shapes(network="dit", optimizer="muon").optimizer) == ("adamw", "muon")
    wide = shapes(network="wide_unet")
    assert wide.network == UNetConfig(channels=(128, 128, 192), patch=2, head=32, scale_shift=True)
    assert replace(wide, network=shapes().network) == shapes()
    assert with_overrides(wide, network="wide_unet") == with_overrides(wide, network="unet") == wide
    digits = recipes.mnist(network="wide_unet").network
    assert digits == UNetConfig(channels=(96, 128), attention=(1,), patch=2, head=32, scale_shift=True)  # 28 = 4 · 7
    stored = shapes(network=DiTConfig(width=64))
    assert with_overrides(stored, network="dit") == stored
    with pytest.raises(UserError, match="shapes has no network context_unet; `network` can be unet, wide_unet or dit"):
        shapes(network="context_unet")
    with pytest.raises(UserError, match="the recipe sprites has no network unet; `network` can be context_unet or dit"):
        sprites(network="unet")
    with pytest.raises(UserError, match="unknown network 'vit'; choose one of unet, wide_unet, context_unet, dit"):
        shapes(network="vit")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("shapes", {"data": "x"}, "draws its own images; `data` works with: sprites, mnist, fashion_mnist, folder"),
        ("folder", {}, "needs the folder of your images: `data=PATH`"),
        ("mnist", {"size": (28, 28)}, "mnist has no size; `size` works with: folder"),
        ("sprites", {"fit": "crop"}, "sprites has no fit; `fit` works with: folder"),
    ],
)
def test_an_option_of_another_recipe_is_rejected(name: RecipeName, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_recipe(name, **options)


def test_an_unknown_recipe_is_rejected_with_the_names_there_are() -> None:
    with pytest.raises(UserError, match="unknown recipe 'squares'; choose one of shapes, "):
        get_recipe("squares")


def test_the_data_path_can_change_except_for_drawn_images() -> None:
    assert with_data_path(get_recipe("mnist", data="a"), "b") == get_recipe("mnist", data="b")
    assert with_data_path(shapes(), None) == shapes()
    with pytest.raises(UserError, match="draws its own images"):
        with_data_path(shapes(), "b")


def test_overrides_that_are_none_change_nothing() -> None:
    assert with_overrides(shapes(), samples=None, epochs=None) == shapes()
    changed = with_overrides(shapes(), samples=77, epochs=3)
    assert (changed.data.samples, changed.epochs) == (77, 3)
    assert replace(changed, data=shapes().data, epochs=shapes().epochs) == shapes()


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch_size": -1}, "batch_size must be at least 1, not -1"),
        ({"timesteps": 0}, "timesteps must be at least 1, not 0"),
        ({"samples": 0}, "samples must be at least 1, not 0"),
        ({"lr": 0.0}, r"lr must be above 0, not 0\.0"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"seed": -1}, "seed must be between 0 and 2⁶⁴−1, not -1"),
        ({"label_dropout": 1.5}, r"label_dropout must be between 0 and 1, not 1\.5"),
        ({"textbook": True, "schedule": "linear_zero_snr"}, "prediction eps does not work .*; use flow, v or x0"),
        (
            {"textbook": True, "schedule": "flow"},
            "prediction eps does not work with schedule flow.*; use flow, v or x0",
        ),
    ],
)
def test_invalid_values_are_rejected_by_name(invalid: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shapes(**invalid)


def test_an_epoch_of_less_data_than_a_batch_is_one_step() -> None:
    assert shapes(samples=10, batch_size=64).steps_per_epoch == 1


def test_importing_recipes_does_not_import_torch() -> None:
    code = "import sys, shapedreamer, shapedreamer.models.recipes, shapedreamer.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_all_top_level_names_resolve() -> None:
    import shapedreamer as sd

    assert sd.recipes is recipes
    assert all(getattr(sd, name) is not None for name in sd.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = sd.nonsense


@pytest.mark.slow
def test_sd_train_is_a_function_regardless_of_import_order() -> None:
    imports = "import shapedreamer.training.loop, shapedreamer as sd"
    code = f"{imports}; assert callable(sd.train) and 'recipe' in inspect.signature(sd.train).parameters"
    assert subprocess.run([sys.executable, "-c", f"import inspect; {code}"]).returncode == 0


def test_the_eta_of_a_masked_recipe_is_a_share() -> None:
    with pytest.raises(UserError, match=r"eta of the masked process must be between 0 and 1, not 1\.5"):
        shapes(process="masked", sampling=Sampling("masked_ancestral", 8, eta=1.5))
