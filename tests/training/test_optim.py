"""Muon makes updates with singular values near 1, and every parameter gets the right optimizer."""

import pytest
import torch
from torch import nn

from shapedreamer.networks.threads import torch_threads
from shapedreamer.networks.unet import UNet
from shapedreamer.training.optim import Muon, hidden_matrices, make_optimizers, orthogonalise, shares_of_work


@pytest.mark.parametrize("shape", [(16, 16), (8, 64), (64, 8)])
def test_orthogonalise_keeps_singular_vectors_and_moves_singular_values_to_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    rank = min(shape)
    u, _ = torch.linalg.qr(torch.randn(shape[0], rank))
    v, _ = torch.linalg.qr(torch.randn(shape[1], rank))
    singular_values = torch.linspace(1.0, 0.05, rank)
    out = orthogonalise(u @ singular_values.diag() @ v.T).float()
    assert out.shape == shape
    rotated = u.T @ out @ v  # diagonal if the singular vectors are unchanged
    assert (rotated - rotated.diag().diag()).abs().max() < 0.03
    assert rotated.diag().min() > 0.5
    assert rotated.diag().max() < 1.3


def test_the_step_size_does_not_depend_on_the_scale_of_the_gradient() -> None:
    step_sizes = []
    for scale in (1e-6, 1.0, 1e6):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.zeros(8, 4, 3, 3))
        weight.grad = torch.randn_like(weight) * scale
        Muon([weight], lr=0.1, weight_decay=0.0).step()
        step_sizes.append(weight.detach().square().mean().sqrt().item())
    assert step_sizes == pytest.approx([0.1 * 0.2] * 3, rel=0.3)
    assert step_sizes[0] == pytest.approx(step_sizes[2], rel=0.02)


def test_weight_decay_shrinks_the_weights_without_a_gradient() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


@pytest.mark.parametrize("number", [2, 3])
def test_threads_share_the_weights_and_change_nothing(number: int) -> None:
    """In float32, where one and several threads round alike for matrices this small."""
    shapes = [(8, 4, 3, 3), (6, 6), (16, 2, 1, 1), (4, 12)]

    def trained(threads: int) -> list[torch.Tensor]:
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape)) for shape in shapes]
        optimizer = Muon(weights, lr=0.1, weight_decay=0.1)
        with torch_threads(threads):
            for _ in range(3):
                for weight in weights:
                    weight.grad = torch.randn_like(weight)
                optimizer.step()
        assert list(map(id, optimizer.state)) == list(map(id, weights))
        return [weight.detach() for weight in weights]

    for one, several in zip(trained(1), trained(number), strict=True):
        torch.testing.assert_close(one, several)


def test_the_threads_get_equal_work_and_each_weight_once() -> None:
    weights = hidden_matrices(UNet(channels=(64, 128), attention=(1,)))
    with torch_threads(3):
        shares = shares_of_work(weights)
    assert len(shares) == 3
    assert sorted(id(weight) for share in shares for weight in share) == sorted(map(id, weights))
    work = [sum(w.numel() * min(len(w), w[0].numel()) for w in share) for share in shares]
    assert max(work) < 1.05 * min(work)
    with torch_threads(8):
        assert [len(share) for share in shares_of_work(weights[:2])] == [1, 1]


def test_every_parameter_has_exactly_one_optimizer() -> None:
    network = UNet(head=8)
    for name, count in (("adamw", 1), ("muon", 2)):
        optimizers = make_optimizers(network, name, 1e-3, 0.01)  # type: ignore[arg-type]
        parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        assert len(optimizers) == count
        assert sorted(map(id, parameters)) == sorted(map(id, network.parameters()))
    assert network.head is not None
    ends = (network.conv_in, network.conv_out, network.head.conv_in, network.head.conv_out)
    excluded = {id(conv.weight) for conv in ends}
    assert not excluded & {id(p) for p in hidden_matrices(network)}


def test_muon_solves_a_least_squares_problem() -> None:
    torch.manual_seed(0)
    x, truth = torch.randn(64, 6), torch.randn(6, 5)
    weight = nn.Parameter(torch.zeros(6, 5))
    optimizer = Muon([weight], lr=0.5, weight_decay=0.0)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - step / 200)
        optimizer.zero_grad()
        (x @ weight - x @ truth).square().mean().backward()
        optimizer.step()
    assert (weight - truth).abs().max() < 0.05
