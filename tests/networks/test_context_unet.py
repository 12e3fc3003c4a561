"""ContextUnet: timestep and label condition every level by the formula, labels are optional, old checkpoints load."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import shapedreamer as sd
from shapedreamer.models import zoo
from shapedreamer.models.checkpoint import load_checkpoint
from shapedreamer.networks.context_unet import ContextUnet, Level, ScaleShift
from shapedreamer.networks.critic import Critic
from shapedreamer.training.ema import EMA


def small(**changes: Any) -> ContextUnet:
    torch.manual_seed(0)
    return ContextUnet(**{"in_channels": 3, "context": 5, "features": 32, "groups": 8, **changes}).double()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, T = images(3, 3, 16, 16), torch.tensor([1, 90, 500])
LABELS = torch.tensor([[1.0, 0, 0, 0, 0], [1, 0, 0.6, 0, 0], [0, 2, 1, 0, 0]])


@pytest.mark.parametrize(("channels", "size"), [(3, (16, 16)), (1, (8, 12)), (4, (4, 4))])
def test_the_prediction_has_the_shape_of_the_images(channels: int, size: tuple[int, int]) -> None:
    x = images(2, channels, *size)
    out = small(in_channels=channels)(x, torch.tensor([1, 500]), LABELS[:2])
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 0


def test_the_default_size_is_that_of_the_course() -> None:
    network = ContextUnet()
    assert (network.in_channels, network.context_size) == (3, 5)
    assert network.conv_in.out_channels == 64
    assert 2e6 < sum(p.numel() for p in network.parameters()) < 4e6


def test_no_label_equals_zeros_and_a_class_index_equals_its_one_hot_vector() -> None:
    network = small()
    assert torch.equal(network(X, T), network(X, T, torch.zeros(3, 5)))
    assert torch.equal(network(X, T, torch.tensor([4, 0, 2])), network(X, T, torch.eye(5)[[4, 0, 2]]))


def test_the_output_of_each_image_depends_on_its_own_timestep_and_label() -> None:
    network = small()
    together = network(X, T, LABELS)
    for i in range(3):
        assert_close(network(X[i : i + 1], T[i : i + 1], LABELS[i : i + 1])[0], together[i], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(network(X, T, LABELS.flip(0))[0], together[0], atol=1e-6)
    assert not torch.allclose(network(X, T.flip(0), LABELS)[0], together[0], atol=1e-6)
    assert not torch.allclose(network(X, T, LABELS * 0.5)[1], together[1], atol=1e-6)  # half a label is another label


def test_every_level_is_conditioned_on_timestep_and_label() -> None:
    network = small()
    received: list[tuple[Tensor, Tensor]] = []
    levels = [module for module in network.modules() if isinstance(module, Level)]
    for level in levels:
        level.register_forward_pre_hook(lambda module, inputs: received.append((inputs[1], inputs[2])))
    network(X, T, LABELS)
    assert len(levels) == len(received) == 6
    expected = torch.nn.functional.silu(network.time(T)), network.context(LABELS.double())
    for time, context in received:
        assert torch.equal(time, expected[0])
        assert torch.equal(context, expected[1])


def test_the_label_scales_and_shifts_and_the_timestep_shifts() -> None:
    layer, h, time, context = ScaleShift(4, 6).double(), images(2, 4, 3, 3), images(2, 6, seed=1), images(2, 6, seed=2)
    scale, label_shift = (context @ layer.context.weight.T + layer.context.bias).split(4, dim=1)
    time_shift = time @ layer.time.weight.T + layer.time.bias
    expected = h * (1 + scale)[..., None, None] + (label_shift + time_shift)[..., None, None]
    assert_close(layer(h, time, context), expected)


def test_the_gradient_reaches_every_parameter() -> None:
    network = small()
    (network(X, T, LABELS) * images(3, 3, 16, 16, seed=1)).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_an_output_pixel_depends_on_the_whole_image() -> None:
    x = images(1, 3, 16, 16).requires_grad_()
    small()(x, torch.tensor([50]), LABELS[:1])[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_wrong_sizes_channels_and_labels_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"divisible by 4; nearest sizes: 28x16 or 32x20"):
        small()(images(1, 3, 30, 18), torch.tensor([1]))
    with pytest.raises(ValueError, match="images have 1 channels, but the network expects 3"):
        small()(images(1, 1, 16, 16), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"labels are \(1, 4\).*must be \(1, 5\) vectors"):
        small()(images(1, 3, 16, 16), torch.tensor([1]), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="context must be at least 1"):
        small(context=0)


# older checkpoints, where `scale_shift` was called `told`


def old_keys(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of a module with the keys that older versions wrote."""
    return {key.replace(".scale_shift.", ".told."): value for key, value in module.state_dict().items()}


def another() -> ContextUnet:
    torch.manual_seed(1)
    return ContextUnet(in_channels=3, context=5, features=32, groups=8).double()


WRAPPERS: dict[str, Callable[[ContextUnet], nn.Module]] = {
    "network": lambda network: network,
    "deep copy": copy.deepcopy,
    "EMA": lambda network: EMA(network, 0.9).network,
    "critic": lambda network: Critic(network.float(), 7),
    "nested": nn.Sequential,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_state_dict_with_the_old_keys_loads(wrap: Callable[[ContextUnet], nn.Module]) -> None:
    saved, loading = wrap(small()), wrap(another())
    state = old_keys(saved)
    assert sum(".told." in key for key in state) == 6 * 4
    passed = dict(state)
    keys = loading.load_state_dict(passed)
    assert keys.missing_keys == keys.unexpected_keys == []
    assert list(passed) == list(state)  # the caller's state dict is unchanged
    for (name, expected), (found_name, found) in zip(
        saved.state_dict().items(), loading.state_dict().items(), strict=True
    ):
        assert name == found_name
        assert torch.equal(found, expected)


def test_missing_and_unexpected_keys_are_still_reported() -> None:
    state = old_keys(small())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*down1\.scale_shift\.extra"):
        another().load_state_dict({**state, "down1.told.extra": torch.zeros(1)})
    with pytest.raises(RuntimeError, match=r"Missing key.*down1\.scale_shift\.time\.bias"):
        another().load_state_dict({key: value for key, value in state.items() if key != "down1.told.time.bias"})
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"told\.time\.bias"'):
        another().load_state_dict({**state, "told.time.bias": torch.zeros(1)})


def test_the_shipped_sprites_model_has_the_old_keys_and_loads() -> None:
    stored = load_checkpoint(zoo.path("sprites")).ema
    assert "down1.told.context.weight" in stored
    network = sd.load("sprites", device="cpu").network
    assert isinstance(network, ContextUnet)
    loaded = old_keys(network)
    assert loaded.keys() == stored.keys()
    for key, value in stored.items():
        assert torch.equal(loaded[key], value.float())
