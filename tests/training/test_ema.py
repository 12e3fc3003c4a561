"""The exponential moving average of the weights, against its closed form."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.training.ema import EMA


class Network(nn.Module):
    """Two parameters, a floating-point buffer, an integer buffer and dropout."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), weight, dtype=torch.float64))
        self.other = nn.Parameter(torch.full((2, 2), -weight, dtype=torch.float64))
        self.table: Tensor
        self.count: Tensor
        self.register_buffer("table", torch.linspace(0, 1, 4))
        self.register_buffer("count", torch.tensor(0))
        self.dropout = nn.Dropout(0.5)

    def fill(self, weight: float) -> None:
        with torch.no_grad():
            self.weight.fill_(weight)
            self.other.fill_(-weight)


def average(ema: EMA) -> Network:
    assert isinstance(ema.network, Network)
    return ema.network


def test_the_first_updates_equal_exact_fractions() -> None:
    network = Network(1.0)
    ema = EMA(network, decay=0.9999)
    expected = Fraction(1)
    for n in range(20):
        network.fill(n + 2.0)
        ema.update(network, n)
        decay = Fraction(1 + n, 10 + n)
        expected = decay * expected + (1 - decay) * (n + 2)
        assert_close(average(ema).weight, torch.full((3,), float(expected), dtype=torch.float64), rtol=1e-13, atol=0)
        assert_close(average(ema).other, torch.full((2, 2), -float(expected), dtype=torch.float64), rtol=1e-13, atol=0)


def test_the_remaining_share_of_the_initial_weights_in_closed_form() -> None:
    # if the weights stay constant after the start, the initial weights contribute the product of the decays,
    # Π (1 + n)/(10 + n) over n = 0 … N − 1, which is 9!·N!/(N + 9)!
    network, N = Network(0.0), 30
    ema = EMA(network, decay=0.999)
    network.fill(1.0)
    for n in range(N):
        ema.update(network, n)
    remaining = math.factorial(9) * math.factorial(N) / math.factorial(N + 9)
    assert (1 - average(ema).weight[0]).item() == pytest.approx(remaining, rel=1e-6)


@pytest.mark.parametrize("n", [8, 9, 100, 10**6])
def test_the_warm_up_ends_at_the_given_decay(n: int) -> None:
    network = Network(0.0)
    ema = EMA(network, decay=0.5)
    network.fill(1.0)
    ema.update(network, n)
    assert_close(average(ema).weight, torch.full((3,), 0.5, dtype=torch.float64), rtol=1e-15, atol=0)


def test_decay_0_copies_the_weights() -> None:
    network = Network(1.0)
    ema = EMA(network, decay=0.0)
    for n, weight in ((0, 0.1), (1, -7.3), (1000, 1 / 3)):
        network.fill(weight)
        ema.update(network, n)
        assert torch.equal(average(ema).weight, network.weight)
        assert torch.equal(average(ema).other, network.other)


def test_buffers_are_copied_and_not_averaged() -> None:
    network = Network(1.0)
    ema = EMA(network, decay=0.9)
    network.table.fill_(5.0)
    network.count.fill_(17)
    ema.update(network, 3)
    assert torch.equal(average(ema).table, torch.full((4,), 5.0))
    assert average(ema).count.item() == 17


def test_batch_norm_statistics_are_copied() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2))
    ema = EMA(network, decay=0.9)
    network(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    ema.update(network, 0)
    for copied, buffer in zip(ema.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(copied, buffer)


def test_the_average_is_a_separate_network_in_eval_mode_without_gradients() -> None:
    network = Network(1.0)
    network.train()
    ema = EMA(network, decay=0.9)
    assert not any(module.training for module in ema.network.modules())
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    network.fill(2.0)
    assert torch.equal(average(ema).weight, torch.ones(3, dtype=torch.float64))
    ema.update(network, 0)
    assert torch.equal(network.weight, torch.full((3,), 2, dtype=torch.float64))
    assert not average(ema).weight.requires_grad


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan])
def test_decays_out_of_range_are_rejected(decay: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        EMA(Network(1.0), decay)
