"""The running mean of the weights, in closed form."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.training.ema import EMA


class Network(nn.Module):
    """A parameter, a table that is not one, and statistics that are counted in whole numbers."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), weight, dtype=torch.float64))
        self.other = nn.Parameter(torch.full((2, 2), -weight, dtype=torch.float64))
        self.table: Tensor
        self.count: Tensor
        self.register_buffer("table", torch.linspace(0, 1, 4))
        self.register_buffer("count", torch.tensor(0))
        self.dropout = nn.Dropout(0.5)

    def set(self, weight: float) -> None:
        with torch.no_grad():
            self.weight.fill_(weight)
            self.other.fill_(-weight)


def mean(ema: EMA) -> Network:
    assert isinstance(ema.network, Network)
    return ema.network


def test_the_first_updates_by_hand() -> None:
    network = Network(1.0)
    ema = EMA(network, decay=0.9999)
    expected = Fraction(1)
    for n in range(20):
        network.set(n + 2.0)
        ema.update(network, n)
        decay = Fraction(1 + n, 10 + n)
        expected = decay * expected + (1 - decay) * (n + 2)
        assert_close(mean(ema).weight, torch.full((3,), float(expected), dtype=torch.float64), rtol=1e-13, atol=0)
        assert_close(mean(ema).other, torch.full((2, 2), -float(expected), dtype=torch.float64), rtol=1e-13, atol=0)


def test_the_first_weights_are_forgotten_in_closed_form() -> None:
    # with constant weights w after the start, what is left of the start is the product of the decays
    # Π (1 + n)/(10 + n) over n = 0 … N − 1, which is 9!·N!/(N + 9)!
    network, N = Network(0.0), 30
    ema = EMA(network, decay=0.999)
    network.set(1.0)
    for n in range(N):
        ema.update(network, n)
    left = math.factorial(9) * math.factorial(N) / math.factorial(N + 9)
    assert (1 - mean(ema).weight[0]).item() == pytest.approx(left, rel=1e-6)


@pytest.mark.parametrize("n", [8, 9, 100, 10**6])
def test_the_decay_stops_growing_at_its_limit(n: int) -> None:
    network = Network(0.0)
    ema = EMA(network, decay=0.5)
    network.set(1.0)
    ema.update(network, n)
    assert_close(mean(ema).weight, torch.full((3,), 0.5, dtype=torch.float64), rtol=1e-15, atol=0)


def test_decay_0_copies() -> None:
    network = Network(1.0)
    ema = EMA(network, decay=0.0)
    for n, weight in ((0, 0.1), (1, -7.3), (1000, 1 / 3)):
        network.set(weight)
        ema.update(network, n)
        assert torch.equal(mean(ema).weight, network.weight)
        assert torch.equal(mean(ema).other, network.other)


def test_tables_and_statistics_are_copied_and_never_averaged() -> None:
    network = Network(1.0)
    ema = EMA(network, decay=0.9)
    network.table.fill_(5.0)
    network.count.fill_(17)
    ema.update(network, 3)
    assert torch.equal(mean(ema).table, torch.full((4,), 5.0))
    assert mean(ema).count.item() == 17


def test_batch_norm_statistics_are_copied() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2))
    ema = EMA(network, decay=0.9)
    network(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    ema.update(network, 0)
    for mine, theirs in zip(ema.network.buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_mean_is_a_separate_network_made_for_sampling() -> None:
    network = Network(1.0)
    network.train()
    ema = EMA(network, decay=0.9)
    assert not any(module.training for module in ema.network.modules())
    assert not any(p.requires_grad for p in ema.network.parameters())
    assert network.training
    assert all(p.requires_grad for p in network.parameters())
    network.set(2.0)
    assert torch.equal(mean(ema).weight, torch.ones(3, dtype=torch.float64))
    ema.update(network, 0)
    assert torch.equal(network.weight, torch.full((3,), 2, dtype=torch.float64))
    assert not mean(ema).weight.requires_grad


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, math.nan])
def test_decays_outside_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        EMA(Network(1.0), decay)
