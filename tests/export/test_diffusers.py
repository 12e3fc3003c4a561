"""UNet and Diffusers' UNet2DModel compute the same function after conversion, in both directions."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion.denoiser import Denoiser
from shapedreamer.diffusion.samplers import ddim, sample
from shapedreamer.diffusion.schedule import linear
from shapedreamer.export.diffusers import from_diffusers, to_diffusers
from shapedreamer.networks import layers
from shapedreamer.networks.unet import UNet
from tests.random_weights import randomise

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")

TIMES = torch.tensor([1, 2, 10, 500, 999, 1000])
Size = tuple[int, int]

NETWORKS: dict[str, tuple[dict[str, Any], Size]] = {
    "default": ({}, (16, 16)),
    "attention everywhere, scale_shift, 2 blocks": (
        {"channels": (32, 64), "blocks": 2, "attention": (0, 1), "scale_shift": True},
        (8, 8),
    ),
    "RGB, 4 levels, not square": (
        {
            "in_channels": 3,
            "channels": (16, 24, 32, 32),
            "attention": (1, 3),
            "head_dim": 8,
            "groups": 8,
            "dropout": 0.1,
        },
        (16, 24),
    ),
    "attention in the middle only, 1 level": (
        {"channels": (48,), "attention": (), "head_dim": 16, "groups": 3},
        (6, 5),
    ),
    "patch": ({"channels": (16, 32), "attention": (1,), "groups": 8, "patch": 2, "head_dim": 32}, (8, 12)),
}
MODELS: dict[str, dict[str, Any]] = {
    "attention low": {
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 16,
    },
    "attention high, 2 layers": {
        "block_out_channels": (16, 16, 32),
        "layers_per_block": 2,
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D"),
        "norm_num_groups": 8,
        "dropout": 0.2,
    },
    "scale_shift": {
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 4,
        "attn_norm_num_groups": 4,
        "attention_head_dim": 32,
    },
}


def random_network(config: dict[str, Any]) -> UNet:
    network = UNet(**config).eval()
    randomise(network)
    return network


def random_model(config: dict[str, Any]) -> Any:
    model = diffusers.UNet2DModel(**config).eval()
    randomise(model)
    return model


def images(channels: int, size: Size) -> Tensor:
    return Noise(1)(0, like=torch.zeros(len(TIMES), channels, *size))


@torch.inference_mode()
def run_model(model: Any, x: Tensor, t: Tensor, patch: int = 1) -> Tensor:
    """Call the model like one of our networks: with 1-based timesteps and images that are not pixel-unshuffled."""
    return pixel_shuffle(model(pixel_unshuffle(x, patch), t - 1).sample, patch)


@torch.inference_mode()
def run_network(network: UNet, x: Tensor, t: Tensor) -> Tensor:
    return network(x, t)


@pytest.mark.parametrize("patch", [1, 2])
def test_labels_become_classes_and_the_class_after_the_last_is_unconditional(patch: int) -> None:
    network = random_network({"channels": (16, 32), "groups": 8, "attention": (1,), "context": 5, "patch": patch})
    model, x = to_diffusers(network, 16), images(1, (16, 16))
    back = from_diffusers(model, patch)
    assert back.context_size == 5
    for label in (*range(5), None):
        classes = torch.full((len(x),), 5 if label is None else label)
        our_label = None if label is None else classes
        with torch.inference_mode():
            theirs = pixel_shuffle(model(pixel_unshuffle(x, patch), TIMES - 1, class_labels=classes).sample, patch)
            assert_close(theirs, network(x, TIMES, our_label), rtol=0, atol=1e-5)
            assert_close(back(x, TIMES, our_label), network(x, TIMES, our_label), rtol=0, atol=1e-5)


def test_all_classes_are_kept_if_none_means_unconditional() -> None:
    model = random_model({**MODELS["attention low"], "num_class_embeds": 3})
    network, x = from_diffusers(model), images(1, (8, 8))
    assert network.context_size == 3
    for label in range(3):
        classes = torch.full((len(x),), label)
        with torch.inference_mode():
            theirs = model(x, TIMES - 1, class_labels=classes).sample
            assert_close(network(x, TIMES, classes), theirs, rtol=0, atol=1e-5)


def test_a_head_raises() -> None:
    with pytest.raises(ValueError, match="no head"):
        to_diffusers(UNet(patch=2, head=8), 16)


def test_time_at_bottleneck_raises() -> None:
    with pytest.raises(ValueError, match="time_at='bottleneck'"):
        to_diffusers(UNet(time_at="bottleneck"), 16)


every_network = pytest.mark.parametrize(("config", "size"), NETWORKS.values(), ids=NETWORKS)
every_model = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)


@every_network
def test_exported_network_gives_the_same_output(config: dict[str, Any], size: Size) -> None:
    network = random_network(config)
    model = to_diffusers(network, size)
    x = images(network.in_channels, size)
    ours = run_network(network, x, TIMES)
    assert_close(run_model(model, x, TIMES, network.patch), ours, rtol=0, atol=1e-5)

    # rule out a network that outputs almost nothing or ignores the timestep, which would pass trivially
    assert 0.1 < ours.std() < 10
    assert ((run_network(network, x, TIMES) - run_network(network, x, TIMES + 1)).abs().amax((1, 2, 3)) > 0.01).all()


@every_network
def test_export_is_exact_in_float64(config: dict[str, Any], size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 both networks round t ω, by up to 3e-5 at t = 1000; with float64 features they agree to 1e-12."""

    def features(t: Tensor, dim: int, **_: Any) -> Tensor:
        frequency = torch.exp(-math.log(10000.0) * torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
        angle = t.double()[:, None] * frequency
        return torch.cat([angle.cos(), angle.sin()], dim=1)

    monkeypatch.setattr(layers, "time_features", features)
    monkeypatch.setattr("diffusers.models.embeddings.get_timestep_embedding", features)
    network = random_network(config).double()
    model = to_diffusers(network, size)
    x = images(network.in_channels, size).double()
    assert_close(run_model(model, x, TIMES, network.patch), run_network(network, x, TIMES), rtol=0, atol=1e-12)


@every_model
def test_imported_model_gives_the_same_output(config: dict[str, Any]) -> None:
    model = random_model(config)
    network = from_diffusers(model)
    x = images(model.config.in_channels, (8, 12))
    assert_close(run_network(network, x, TIMES), run_model(model, x, TIMES), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dim", [8, 32, 48, 96])
def test_time_features_equal_those_of_diffusers_bit_for_bit(dim: int) -> None:
    t = torch.arange(1001)
    theirs = diffusers.models.embeddings.get_timestep_embedding(t, dim, flip_sin_to_cos=True, downscale_freq_shift=0)
    assert torch.equal(layers.time_features(t, dim), theirs)


@every_network
def test_round_trip_gives_the_same_network(config: dict[str, Any], size: Size) -> None:
    network = random_network(config)
    model = to_diffusers(network, size)
    back = from_diffusers(model, patch=network.patch)
    assert_close(dict(back.state_dict()), dict(network.state_dict()), rtol=0, atol=1e-6)
    assert str(back) == str(network)  # every option in the modules' repr: groups, dropout, kernel sizes
    counts = [sum(p.numel() for p in n.parameters()) for n in (network, model, back)]
    assert counts[0] == counts[1] == counts[2]


@every_model
def test_round_trip_gives_the_same_model(config: dict[str, Any]) -> None:
    model = random_model(config)
    back = to_diffusers(from_diffusers(model), 32)
    assert_close(dict(back.state_dict()), dict(model.state_dict()), rtol=0, atol=1e-6)


def test_a_saved_model_can_be_loaded_and_converted_back(tmp_path: Path) -> None:
    network = random_network(NETWORKS["RGB, 4 levels, not square"][0])
    to_diffusers(network, (16, 24)).save_pretrained(tmp_path)
    model = diffusers.UNet2DModel.from_pretrained(tmp_path)
    assert tuple(model.config.sample_size) == (16, 24)
    assert_close(dict(from_diffusers(model).state_dict()), dict(network.state_dict()), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_dtype_and_mode_are_kept_and_memory_is_not_shared(training: bool) -> None:
    network = random_network({"channels": (32,), "attention": ()}).double().train(training)
    model = to_diffusers(network, 8)
    back = from_diffusers(model)
    assert model.training == back.training == training
    storages = [{p.untyped_storage().data_ptr() for p in n.parameters()} for n in (network, model, back)]
    assert not storages[0] & storages[1]
    assert not storages[1] & storages[2]
    for converted in (model, back):
        assert all(p.dtype == torch.float64 and p.requires_grad for p in converted.parameters())


def test_ddim_pipeline_generates_our_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """DDIMPipeline counts timesteps from 0 and needs no adjustment."""
    network = random_network({"channels": (16, 32), "attention": (1,), "groups": 8})
    noise = Noise(5)(0, like=torch.zeros(2, 1, 8, 12))
    schedule = linear(1000)
    with torch.inference_mode():
        ours = sample(ddim(Denoiser(network, schedule, "v"), schedule, noise, 10))

    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False, timestep_spacing="trailing")
    pipeline = diffusers.DDIMPipeline(to_diffusers(network, (8, 12)), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: noise)
    theirs = pipeline(batch_size=2, num_inference_steps=10, output_type="pt").images
    assert_close(theirs, (ours / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-4)  # Diffusers has float32 tables
    assert theirs.std() > 0.1


UNSUPPORTED: dict[str, Any] = {
    "act_fn": "gelu",
    "add_attention": False,
    "attention_head_dim": None,
    "center_input_sample": True,
    "class_embed_type": "timestep",
    "down_block_types": ("DownBlock2D", "ResnetDownsampleBlock2D"),
    "downsample_padding": 0,
    "downsample_type": "resnet",
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "mid_block_scale_factor": 2,
    "mid_block_type": None,
    "norm_eps": 1e-6,
    "out_channels": 3,
    "time_embedding_dim": 64,
    "time_embedding_type": "fourier",
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "upsample_type": "resnet",
}


@pytest.mark.parametrize(("key", "value"), UNSUPPORTED.items(), ids=UNSUPPORTED)
def test_unsupported_options_raise(key: str, value: Any) -> None:
    model = diffusers.UNet2DModel(**MODELS["attention low"] | {key: value})
    with pytest.raises(ValueError, match=key) as error:
        from_diffusers(model)
    assert repr(value) in str(error.value)


def test_middle_attention_without_a_norm_raises() -> None:
    model = diffusers.UNet2DModel(**MODELS["scale_shift"] | {"attn_norm_num_groups": None})
    with pytest.raises(ValueError, match="attn_norm_num_groups=None"):
        from_diffusers(model)


def test_weights_without_a_counterpart_raise() -> None:
    model = diffusers.UNet2DModel(**MODELS["attention low"])
    model.down_blocks[0].extra = nn.Linear(1, 1)
    with pytest.raises(ValueError, match=r"down_blocks\.0\.extra\.bias"):
        from_diffusers(model)


def test_heads_that_do_not_divide_the_channels_raise() -> None:
    model = diffusers.UNet2DModel(**MODELS["attention low"] | {"attention_head_dim": 48})
    with pytest.raises(ValueError, match="64 channels cannot be split into heads of 48"):
        from_diffusers(model)


def test_channels_not_divisible_by_the_patch_raise() -> None:
    with pytest.raises(ValueError, match="in_channels=1 "):
        from_diffusers(diffusers.UNet2DModel(**MODELS["attention low"]), patch=2)


@pytest.mark.parametrize("size", [6, (8, 12)])
def test_sizes_that_do_not_fit_raise(size: int | Size) -> None:
    network = UNet(channels=(16, 32), attention=(), groups=8, patch=4)
    with pytest.raises(ValueError, match="divisible by 8"):
        to_diffusers(network, size)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"shapedreamer\[diffusers\]"):
        to_diffusers(UNet(), 16)
