"""DiT: positions are relative, a fresh network predicts zero, timestep and label condition every block."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.networks.dit import Block, DiT, rotate, rotations

SMALL: dict[str, Any] = {"in_channels": 3, "patch": 2, "width": 32, "depth": 3, "head_dim": 8, "context": 3}


def small(**changes: Any) -> DiT:
    """A network whose gates and output are not zero, as they are before training."""
    torch.manual_seed(0)
    network = DiT(**{**SMALL, **changes}).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return network


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X, T, LABELS = images(3, 3, 8, 12), torch.tensor([1, 90, 900]), torch.tensor([[1.0, 0, 0], [0, 2, 1], [0, 0, 0.6]])


@pytest.mark.parametrize(
    ("channels", "patch", "size"), [(3, 2, (8, 12)), (1, 4, (28, 28)), (4, 1, (3, 5)), (2, 7, (7, 21))]
)
def test_the_prediction_has_the_shape_of_the_images(channels: int, patch: int, size: tuple[int, int]) -> None:
    x = images(2, channels, *size)
    out = small(in_channels=channels, patch=patch)(x, torch.tensor([1, 500]), LABELS[:2])
    assert out.shape == x.shape
    assert out.isfinite().all()
    assert out.std() > 0


def test_one_network_takes_images_of_several_sizes() -> None:
    network = small()
    for H, W in ((2, 2), (8, 12), (20, 6)):
        assert network(images(1, 3, H, W), T[:1]).shape == (1, 3, H, W)


# adaLN-zero


def test_before_training_every_block_is_the_identity_and_the_prediction_is_zero() -> None:
    network = DiT(**SMALL)
    h, time, tables = torch.randn(2, 6, 32), torch.randn(2, 16), rotations(2, 3, 8, torch.device("cpu"))
    for block in network.blocks:
        assert isinstance(block, Block)
        assert torch.equal(block(h, time, *tables), h)
    assert network(X.float(), T, LABELS).count_nonzero() == 0


def test_a_block_is_attention_and_a_perceptron_scaled_shifted_and_gated() -> None:
    """The formulas of the paper, with PyTorch's own layers and complex numbers for the rotations."""
    block = small().blocks[0]
    assert isinstance(block, Block)
    h, time, (cos, sin) = images(2, 6, 32), images(2, 16, seed=1), rotations(2, 3, 8, torch.device("cpu"))
    parts = block.time(torch.nn.functional.silu(time))[:, None].split(32, dim=2)
    norm = torch.nn.LayerNorm(32, elementwise_affine=False)

    def turned(x: Tensor) -> Tensor:
        x = torch.nn.LayerNorm(8, elementwise_affine=False)(x.unflatten(2, (4, 8)).transpose(1, 2))
        return torch.view_as_real(torch.complex(*x.split(4, dim=3)) * torch.complex(cos, sin)).mT.flatten(3)

    q, k, v = block.qkv(norm(h) * (1 + parts[1]) + parts[0]).split(32, dim=2)
    weights = (turned(q) @ turned(k).mT / 8**0.5).softmax(dim=3)
    middle = h + parts[2] * block.out((weights @ v.unflatten(2, (4, 8)).transpose(1, 2)).transpose(1, 2).flatten(2))
    hidden = torch.nn.functional.silu(block.linear1(norm(middle) * (1 + parts[4]) + parts[3]))
    assert_close(block(h, time, cos, sin), middle + parts[5] * block.linear2(hidden), rtol=1e-6, atol=1e-7)


def test_the_size_of_queries_and_keys_does_not_matter() -> None:
    network = small()
    before = network(X, T, LABELS)
    with torch.no_grad():
        for block in network.blocks:
            assert isinstance(block, Block)
            block.qkv.weight[:64] *= 100
            block.qkv.bias[:64] *= 100
    assert_close(network(X, T, LABELS), before, rtol=1e-3, atol=1e-5)


# positions


def test_the_product_of_a_query_and_a_key_depends_on_their_distance_alone() -> None:
    rows, columns = 5, 7
    tables = rotations(rows, columns, 16, torch.device("cpu"))
    q, k = (rotate(images(16, seed=seed).expand(rows * columns, 16), *tables) for seed in (1, 2))
    products = (q @ k.T).view(rows, columns, rows, columns)
    assert_close(products[0, 0, 2, 3], products[2, 3, 4, 6], rtol=1e-5, atol=1e-5)
    assert_close(products[3, 1, 1, 2], products[4, 5, 2, 6], rtol=1e-5, atol=1e-5)
    distances = torch.stack([products[2, 3, 2 + i, 3 + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
    assert (distances[:, None] - distances).abs().fill_diagonal_(1).min() > 1e-3  # all directions differ


def test_rotations_keep_the_length_and_leave_the_first_patch_as_it_is() -> None:
    x, tables = images(6, 8), rotations(2, 3, 8, torch.device("cpu"))
    assert_close(rotate(x, *tables).norm(dim=1), x.norm(dim=1), rtol=1e-6, atol=1e-6)
    assert torch.equal(rotate(x, *tables)[0], x[0])


def test_an_output_pixel_depends_on_the_whole_image() -> None:
    x = images(1, 3, 8, 12).requires_grad_()
    small()(x, T[:1], LABELS[:1])[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


# timestep and label


def test_the_output_of_each_image_depends_on_its_own_timestep_and_label() -> None:
    network = small()
    together = network(X, T, LABELS)
    for i in range(3):
        assert_close(network(X[i : i + 1], T[i : i + 1], LABELS[i : i + 1])[0], together[i], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(network(X, T, LABELS.flip(0))[0], together[0], atol=1e-6)
    assert not torch.allclose(network(X, T.flip(0), LABELS)[0], together[0], atol=1e-6)
    assert not torch.allclose(network(X, T, LABELS * 0.5)[1], together[1], atol=1e-6)  # half a label is another label


def test_no_label_equals_zeros_and_a_class_index_equals_its_one_hot_vector() -> None:
    network = small()
    assert torch.equal(network(X, T), network(X, T, torch.zeros(3, 3)))
    assert torch.equal(network(X, T, torch.tensor([2, 0, 1])), network(X, T, torch.eye(3)[[2, 0, 1]]))


def test_a_conditional_network_without_a_label_equals_an_unconditional_network() -> None:
    conditional, unconditional = small(), small(context=0)
    weights = conditional.state_dict()
    del weights["context.weight"]
    unconditional.load_state_dict(weights)
    assert torch.equal(conditional(X, T), unconditional(X, T))


def test_the_gradient_reaches_every_parameter() -> None:
    network = small()
    (network(X, T, LABELS) * images(3, 3, 8, 12, seed=1)).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_bfloat16_gives_about_the_same_prediction() -> None:
    network = small().float()
    with torch.inference_mode():
        exact = network(X.float(), T, LABELS)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(X.float(), T, LABELS)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - exact).square().mean() < 1e-3 * exact.square().mean()


def test_its_options_make_the_same_network_again() -> None:
    network = small()
    again = DiT(**network.options).double()
    again.load_state_dict(network.state_dict())
    assert network.options == SMALL
    assert torch.equal(again(X, T, LABELS), network(X, T, LABELS))


def test_wrong_sizes_channels_labels_and_heads_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"images of 30x18 .*divisible by 4; nearest sizes: 28x16 or 32x20"):
        small(patch=4)(images(1, 3, 30, 18), T[:1])
    with pytest.raises(ValueError, match="images have 1 channels, but the network expects 3"):
        small()(images(1, 1, 8, 8), T[:1])
    with pytest.raises(ValueError, match=r"labels are \(1, 4\).*must be \(1, 3\) vectors"):
        small()(images(1, 3, 8, 8), T[:1], torch.zeros(1, 4))
    with pytest.raises(ValueError, match="this network is unconditional"):
        small(context=0)(X, T, LABELS)
    for head_dim in (5, 6, 64):
        with pytest.raises(ValueError, match=f"head_dim={head_dim} must be divisible by 4 and divide width=32"):
            DiT(width=32, head_dim=head_dim)
