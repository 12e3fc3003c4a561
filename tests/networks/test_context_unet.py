"""ContextUnet: told time and label at every level, by the formula, and nothing when there is no label."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.networks.context_unet import ContextUnet, Level, Told


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


def test_the_default_is_the_courses_size() -> None:
    network = ContextUnet()
    assert (network.in_channels, network.context_size) == (3, 5)
    assert network.conv_in.out_channels == 64
    assert 2e6 < sum(p.numel() for p in network.parameters()) < 4e6


def test_no_label_is_a_label_of_zeros_and_a_class_its_one_hot_vector() -> None:
    network = small()
    assert torch.equal(network(X, T), network(X, T, torch.zeros(3, 5)))
    assert torch.equal(network(X, T, torch.tensor([4, 0, 2])), network(X, T, torch.eye(5)[[4, 0, 2]]))


def test_time_and_label_change_the_output_and_belong_to_their_image() -> None:
    network = small()
    together = network(X, T, LABELS)
    for i in range(3):
        assert_close(network(X[i : i + 1], T[i : i + 1], LABELS[i : i + 1])[0], together[i], rtol=1e-9, atol=1e-11)
    assert not torch.allclose(network(X, T, LABELS.flip(0))[0], together[0], atol=1e-6)
    assert not torch.allclose(network(X, T.flip(0), LABELS)[0], together[0], atol=1e-6)
    assert not torch.allclose(network(X, T, LABELS * 0.5)[1], together[1], atol=1e-6)  # half human is not human


def test_every_level_is_told_both() -> None:
    network = small()
    told: list[tuple[Tensor, Tensor]] = []
    levels = [module for module in network.modules() if isinstance(module, Level)]
    for level in levels:
        level.register_forward_pre_hook(lambda module, inputs: told.append((inputs[1], inputs[2])))
    network(X, T, LABELS)
    assert len(levels) == len(told) == 6
    context = network.context(LABELS.double())
    for time, its_context in told:
        assert torch.equal(time, torch.nn.functional.silu(network.time(T)))
        assert torch.equal(its_context, context)


def test_the_label_scales_and_shifts_and_the_time_is_added() -> None:
    told, h, time, context = Told(4, 6).double(), images(2, 4, 3, 3), images(2, 6, seed=1), images(2, 6, seed=2)
    scale, shift = (context @ told.context.weight.T + told.context.bias).split(4, dim=1)
    added = time @ told.time.weight.T + told.time.bias
    expected = h * (1 + scale)[..., None, None] + shift[..., None, None] + added[..., None, None]
    assert_close(told(h, time, context), expected)


def test_the_gradient_reaches_every_parameter() -> None:
    network = small()
    (network(X, T, LABELS) * images(3, 3, 16, 16, seed=1)).sum().backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_a_pixel_far_away_is_seen() -> None:
    x = images(1, 3, 16, 16).requires_grad_()
    small()(x, torch.tensor([50]), LABELS[:1])[0, 0, 0, 0].backward()
    assert x.grad is not None
    assert (x.grad != 0).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"divisible by 4; nearest sizes: 28x16 or 32x20"):
        small()(images(1, 3, 30, 18), torch.tensor([1]))
    with pytest.raises(ValueError, match="images have 1 channels, this network was built for 3"):
        small()(images(1, 1, 16, 16), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"labels are \(1, 4\).*must be \(1, 5\) vectors"):
        small()(images(1, 3, 16, 16), torch.tensor([1]), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="context must be at least 1"):
        small(context=0)
