"""The U-Net: shapes, wiring, conditioning, and the errors for invalid settings and inputs."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.networks.layers import Attention, Downsample, Upsample
from shapedreamer.networks.unet import Block, UNet

SMALL: Mapping[str, Any] = {"channels": (8, 16), "attention": (1,), "head_dim": 8, "groups": 4}


def small(**changes: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(**{**SMALL, **changes}).double()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (2, 1, 8, 8)),
        ({}, (1, 1, 6, 10)),
        ({"in_channels": 3}, (2, 3, 8, 4)),
        ({"patch": 2}, (2, 1, 8, 12)),
        ({"patch": 4, "in_channels": 3}, (2, 3, 16, 8)),
        ({"attention": (0, 1)}, (2, 1, 8, 8)),
        ({"attention": ()}, (2, 1, 8, 8)),
        ({"blocks": 3}, (2, 1, 4, 4)),
        ({"scale_shift": True}, (2, 1, 8, 8)),
        ({"channels": (8,), "attention": (0,)}, (2, 1, 5, 7)),
        ({"channels": (8, 8, 16, 24), "attention": (0, 1, 2, 3)}, (2, 1, 16, 8)),
        ({"channels": (16, 8), "dropout": 0.1}, (2, 1, 8, 8)),
        ({"context": 3, "time_at": "bottleneck"}, (2, 1, 8, 8)),
        ({"patch": 2, "head": 4, "in_channels": 3}, (2, 3, 8, 8)),
    ],
)
def test_the_prediction_has_the_shape_of_the_images(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    network = small(**settings)
    out = network(images(*shape), torch.arange(1, shape[0] + 1))
    assert out.shape == shape
    assert out.dtype == torch.float64
    assert out.isfinite().all()
    assert out.std() > 0


def test_the_default_has_2_to_4_million_parameters() -> None:
    network = UNet()
    assert 2e6 <= sum(p.numel() for p in network.parameters()) <= 4e6
    assert network.divisor == 4
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 32, 32), torch.tensor([1])).shape == (1, 1, 32, 32)


@pytest.mark.parametrize(("blocks", "levels"), [(1, 1), (1, 3), (2, 2), (3, 3)])
def test_the_number_of_blocks(blocks: int, levels: int) -> None:
    network = small(channels=(8,) * levels, blocks=blocks, attention=(levels - 1,))
    down, up = list(network.down), list(network.up)
    assert sum(isinstance(part, Block) for part in down) == blocks * levels
    assert sum(isinstance(part, Block) for part in up) == (blocks + 1) * levels
    assert sum(isinstance(part, Downsample) for part in down) == levels - 1
    assert sum(isinstance(part, Upsample) for part in up) == levels - 1
    attending = [
        isinstance(part.attend, Attention) for part in (*down, *network.middle, *up) if isinstance(part, Block)
    ]
    # attention at the coarsest level, on the way down and up, and in the first block of the middle
    expected = [False] * (blocks * (levels - 1)) + [True] * blocks + [True, False] + [True] * (blocks + 1)
    assert attending == expected + [False] * ((blocks + 1) * (levels - 1))


def test_skip_connections_are_used_in_reverse_order() -> None:
    network = small(channels=(8, 16, 8), blocks=2, attention=(0, 2))
    pushed: list[Tensor] = []
    received: list[tuple[Tensor, Tensor]] = []  # output of the previous layer, input of the block
    outputs: list[Tensor] = []

    network.conv_in.register_forward_hook(lambda module, inputs, out: pushed.append(out))
    for part in network.down:
        part.register_forward_hook(lambda module, inputs, out: pushed.append(out))
    for part in (*network.middle, *network.up):
        if isinstance(part, Block) and part not in list(network.middle):
            part.register_forward_pre_hook(lambda module, inputs: received.append((outputs[-1], inputs[0])))
        part.register_forward_hook(lambda module, inputs, out: outputs.append(out))
    network(images(2, 1, 8, 8), torch.tensor([1, 2]))

    assert len(pushed) == len(received) == 9
    for (previous, block_input), skip in zip(received, reversed(pushed), strict=True):
        assert torch.equal(block_input, torch.cat([previous, skip], dim=1))


def test_without_labels_every_block_receives_the_time_embedding() -> None:
    network = small()
    received: list[Tensor] = []
    for part in (*network.down, *network.middle, *network.up):
        if isinstance(part, Block):
            part.register_forward_pre_hook(lambda module, inputs: received.append(inputs[1]))
    t = torch.tensor([3, 700])
    network(images(2, 1, 8, 8), t)
    assert len(received) == 2 + 2 + 4
    for time in received:
        assert torch.equal(time, network.time(t))


@pytest.mark.parametrize("settings", [{}, {"scale_shift": True}, {"patch": 2, "attention": (0, 1)}])
def test_the_timestep_changes_the_output(settings: dict[str, Any]) -> None:
    network, x = small(**settings), images(1, 1, 8, 8)
    outputs = [network(x, torch.tensor([t])) for t in (1, 2, 500, 1000)]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert not torch.allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"scale_shift": True}, {"patch": 2}])
def test_the_images_of_a_batch_are_independent(settings: dict[str, Any]) -> None:
    network, x, t = small(**settings), images(4, 1, 8, 8), torch.tensor([1, 10, 100, 1000])
    together = network(x, t)
    for i in range(4):
        assert_close(network(x[i : i + 1], t[i : i + 1])[0], together[i], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("settings", [{}, {"scale_shift": True}, {"blocks": 2, "attention": (0, 1), "patch": 2}])
def test_the_gradient_reaches_every_parameter(settings: dict[str, Any]) -> None:
    network = small(**settings)
    out = network(images(2, 1, 8, 8), torch.tensor([5, 900]))
    (out * images(2, 1, 8, 8, seed=1)).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_an_output_pixel_depends_on_the_whole_image() -> None:
    network, x = small(), images(1, 1, 16, 16).requires_grad_()
    network(x, torch.tensor([50]))[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_the_seed_determines_the_weights() -> None:
    first, again = small(), small()
    torch.manual_seed(1)
    other = UNet(**SMALL).double()
    x, t = images(1, 1, 8, 8), torch.tensor([7])
    assert torch.equal(first(x, t), again(x, t))
    assert not torch.allclose(first(x, t), other(x, t))


def test_dropout_is_active_only_in_training() -> None:
    network, x, t = small(dropout=0.5), images(1, 1, 8, 8), torch.tensor([7])
    assert not torch.equal(network(x, t), network(x, t))
    network.eval()
    assert torch.equal(network(x, t), network(x, t))


def test_unfolding_inverts_folding_into_patches() -> None:
    # if the last layer returns the input of the first layer, the output is the image itself
    network = small(channels=(4,), attention=(), groups=1, head_dim=4, patch=2)
    x = images(1, 1, 6, 4)
    seen: list[Tensor] = []
    network.conv_in.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network.conv_out.register_forward_hook(lambda module, inputs, out: seen[0])
    out = network(x, torch.tensor([1]))
    assert seen[0].shape == (1, 4, 3, 2)
    assert torch.equal(seen[0][0, :, 1, 1], x[0, 0, 2:4, 2:4].flatten())  # 2 x 2 pixels become the channels of one
    assert torch.equal(out, x)


def test_the_memory_layout_does_not_change_the_output() -> None:
    network, x, t = small(attention=(0, 1)), images(2, 1, 8, 8), torch.tensor([7, 8])
    expected = network(x, t)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_close(network(x.contiguous(memory_format=torch.channels_last), t), expected, rtol=1e-9, atol=1e-11)


# labels


@pytest.mark.parametrize("settings", [{}, {"scale_shift": True}, {"time_at": "bottleneck"}])
def test_labels_change_the_output_and_zeros_equal_no_label(settings: dict[str, Any]) -> None:
    network, x, t = small(context=3, **settings), images(2, 1, 8, 8), torch.tensor([5, 900])
    unconditional = network(x, t)
    assert torch.equal(network(x, t, torch.zeros(2, 3)), unconditional)
    outputs = [network(x, t, torch.eye(3)[[i, i]]) for i in range(3)] + [unconditional]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert not torch.allclose(one, other, rtol=0, atol=1e-6)
    twice = network(x, t, torch.tensor([[2.0, 0, 0], [0, 1, 0]]))
    assert not torch.allclose(twice[0], outputs[0][0], rtol=0, atol=1e-6)  # a count of 2 differs from a count of 1
    assert_close(twice[1], outputs[1][1])  # each image has its own label


def test_a_class_index_equals_its_one_hot_vector() -> None:
    network, x, t = small(context=3), images(3, 1, 8, 8), torch.tensor([5, 90, 900])
    assert torch.equal(network(x, t, torch.tensor([2, 0, 1])), network(x, t, torch.eye(3)[[2, 0, 1]]))


def test_a_conditional_network_without_a_label_equals_an_unconditional_network() -> None:
    conditional, unconditional = small(context=3), small()
    weights = conditional.state_dict()
    del weights["context.weight"]
    unconditional.load_state_dict(weights)
    x, t = images(2, 1, 8, 8), torch.tensor([5, 900])
    assert torch.equal(conditional(x, t), unconditional(x, t))


def test_with_time_at_bottleneck_only_the_middle_is_conditioned() -> None:
    network = small(time_at="bottleneck", context=2)
    encoded: list[Tensor] = []
    middle_inputs: list[Tensor] = []
    list(network.down)[-1].register_forward_hook(lambda module, inputs, out: encoded.append(out))
    next(iter(network.middle)).register_forward_pre_hook(lambda module, inputs: middle_inputs.append(inputs[0]))
    x, label = images(1, 1, 8, 8), torch.tensor([[1.0, 2.0]])
    for t in (1, 700):
        network(x, torch.tensor([t]), label)
    assert torch.equal(encoded[0], encoded[1])  # the way down does not depend on the timestep
    assert network.context is not None
    for i, t in enumerate((1, 700)):
        embedding = network.time(torch.tensor([t])) + label.double() @ network.context.weight.T
        assert_close(middle_inputs[i], encoded[i] + embedding[:, :, None, None])
    assert not any(name.startswith(("down", "up", "middle")) and ".time." in name for name in network.state_dict())


def test_a_head_adds_nothing_before_training() -> None:
    torch.manual_seed(0)
    plain = UNet(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=2)
    torch.manual_seed(0)
    refined = UNet(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=2, head=4)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([5, 900])
    assert torch.equal(refined(x, t), plain(x, t))


def test_a_head_adds_convolutions_of_image_prediction_and_timestep() -> None:
    network, x, t = small(patch=2, head=4), images(2, 1, 8, 8), torch.tensor([5, 900])
    head = network.head
    assert head is not None
    nn.init.normal_(head.conv_out.weight)
    network.head = None
    coarse = network(x, t)
    network.head = head
    time = F.silu(network.time(t))
    bias = head.time.bias + time @ head.time.weight.T
    h = F.conv2d(torch.cat([x, coarse], dim=1), head.conv_in.weight, padding=1)
    h = h + head.conv_in.get_parameter("bias")[:, None, None] + bias[:, :, None, None]
    h = F.silu(F.conv2d(F.silu(h), head.conv.weight, head.conv.bias, padding=1))
    correction = F.conv2d(h, head.conv_out.weight, head.conv_out.bias, padding=1)
    assert correction.std() > 1e-3
    assert_close(network(x, t), coarse + correction)


def test_labels_of_the_wrong_shape_are_rejected() -> None:
    x, t = images(2, 1, 8, 8), torch.tensor([5, 900])
    for wrong in (torch.zeros(2, 4), torch.zeros(1, 3), torch.zeros(3), torch.zeros(2, 3, 1)):
        with pytest.raises(ValueError, match=r"must be \(2, 3\) vectors or \(2,\) int64 class indices"):
            small(context=3)(x, t, wrong)
    with pytest.raises(ValueError, match="this network is unconditional"):
        small()(x, t, torch.zeros(2, 3))


# errors


@pytest.mark.parametrize(
    ("settings", "size", "nearest"),
    [
        ({}, (7, 8), "6x8 or 8x8"),
        ({}, (8, 9), "8x8 or 8x10"),
        ({"channels": (8, 8, 8), "patch": 2}, (28, 28), "24x24 or 32x32"),
        ({"channels": (8, 8, 8), "patch": 2}, (5, 33), "8x32 or 8x40"),
    ],
)
def test_wrong_sizes_are_rejected_and_the_nearest_valid_sizes_named(
    settings: dict[str, Any], size: tuple[int, int], nearest: str
) -> None:
    network = small(**settings)
    H, W = size
    with pytest.raises(ValueError, match=f"images of {H}x{W} do not fit.*divisible by {network.divisor}.*{nearest}"):
        network(images(1, 1, H, W), torch.tensor([1]))
    for valid in nearest.split(" or "):
        h, w = map(int, valid.split("x"))
        assert network(images(1, 1, h, w), torch.tensor([1])).shape == (1, 1, h, w)


def test_a_wrong_number_of_channels_is_rejected() -> None:
    with pytest.raises(ValueError, match="images have 3 channels, but the network expects 1"):
        small()(images(1, 3, 8, 8), torch.tensor([1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": (2,)}, r"attention=\(2,\) names a level outside 0...1"),
        ({"attention": (-1,)}, r"attention=\(-1,\) names a level outside 0...1"),
        ({"channels": (8, 15)}, r"channels=\(8, 15\) must all be divisible by groups=4"),
        ({"channels": (8, 20)}, "20 channels cannot be split into heads of 8"),
    ],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)
