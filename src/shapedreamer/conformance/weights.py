"""Checks of the EMA (exponential moving average) of the weights, and of which weights sampling uses."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from . import mistakes
from .report import Checklist, Report, format_number, name_of, report_exceptions


class WeightAverage(Protocol):
    """The interface that check_ema expects of an EMA."""

    network: nn.Module

    def update(self, network: nn.Module, n: int) -> None:
        """Include the weights of the network after training step n = 0, 1, 2, …"""
        ...


class _TinyNetwork(nn.Module):
    """A network with one parameter and one buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.table: Tensor
        self.register_buffer("table", torch.linspace(1, 0, 7, dtype=torch.float64))


@report_exceptions
def check_ema(make_ema: Callable[[nn.Module, float], WeightAverage]) -> Report:
    """Check that ``make_ema(network, decay)`` averages the weights with a warm-up and does not average buffers.

    The result must have ``.network``, the averaged copy, and ``.update(network, n)`` for updates n = 0, 1, 2, …
    """
    checklist = Checklist(name_of(make_ema, "EMA"), "lucidrains/denoising-diffusion-pytorch #44, #136")

    def train(updates: int, decay: float, first: int = 0) -> tuple[_TinyNetwork, nn.Module]:
        """Return a network and its average. The weights are 0 when the average is created, and 1 at each update."""
        network = _TinyNetwork()
        ema = make_ema(network, decay)
        with torch.no_grad():
            network.weight.fill_(1.0)
            network.table.mul_(-3)
        for n in range(first, first + updates):
            ema.update(network, n)
        return network, ema.network

    def averaged_weight(updates: int, decay: float, first: int = 0) -> float:
        return next(train(updates, decay, first)[1].parameters()).detach().double().mean().item()

    result = checklist.attempt("one update", lambda: train(1, 0.999))
    if result is None:
        return checklist.report()
    network, average = result
    shared = any(weight.data_ptr() == network.weight.data_ptr() for weight in average.parameters())
    checklist.require("the average is a copy", not shared, "own weights", "shared", mistakes.EMA_ALIASED)
    unchanged = bool((network.weight == 1).all())
    mistake = "the EMA modifies the network that is being trained"
    checklist.require("the network is not modified", unchanged, "unchanged", "changed", mistake)
    allowed = (network.table, _TinyNetwork().table)
    exact = all(any(torch.equal(buffer, table) for table in allowed) for _, buffer in average.named_buffers())
    checklist.require("buffers are not averaged", exact, "not averaged", "averaged", mistakes.AVERAGED_TABLES)
    late = checklist.attempt("update 100,000", lambda: averaged_weight(1, 0.9, 100_000))
    long = checklist.attempt("500 updates", lambda: averaged_weight(500, 0.9))
    early = checklist.attempt("200 updates", lambda: averaged_weight(200, 0.9999))
    if shared or late is None or long is None or early is None:
        return checklist.report()
    converges = abs(long - 1) < 1e-3
    swapped = abs(late - 0.9) < 1e-4
    suspect = mistakes.DECAY_SWAPPED if swapped else "a late update does not add 1 − decay of the new weights"
    name = "a late update adds 1 − decay of the weights"
    checklist.add(name, abs(late - 0.1) < 1e-4, "0.1 at decay 0.9", format_number(late), suspect)
    _add_every_update_check(checklist, make_ema)
    checklist.add("converges to constant weights", converges, "1", format_number(long), mistakes.EMA_STANDS_STILL)
    suspect = mistakes.NO_WARM_UP if converges else "the initial weights stay in the average"
    name = "initial weights after 200 updates"
    checklist.add(name, early > 0.9, "below 10%", f"{1 - early:.1%}", suspect)
    return checklist.report()


def _add_every_update_check(checklist: Checklist, make_ema: Callable[[nn.Module, float], WeightAverage]) -> None:
    """Check that each of 40 late updates in a row averages the weights, whatever it counts."""
    network, decay, first = _TinyNetwork(), 0.9, 100_001

    def run() -> list[float]:
        ema = make_ema(network, decay)
        with torch.no_grad():
            network.weight.fill_(1.0)
        averages = []
        for n in range(first, first + 40):
            ema.update(network, n)
            averages.append(next(ema.network.parameters()).detach().double().mean().item())
        return averages

    averages = checklist.attempt("40 updates in a row", run)
    if averages is None:
        return
    pairs = zip([0.0, *averages[:-1]], averages, strict=True)
    skipped = [n for n, (before, after) in enumerate(pairs) if after == before < 0.99]
    wrong = [n for n, average in enumerate(averages) if abs(average - (1 - decay ** (n + 1))) > 1e-4]
    name = "every update averages the weights"
    got = f"{len(skipped)} of 40 skipped" if skipped else f"wrong after {wrong[0] + 1} updates" if wrong else "40 of 40"
    partly = 0 < len(skipped) < 40
    mistake = mistakes.EMA_SKIPS_UPDATES if partly else "the average is not decay · average + (1 − decay) · weights"
    checklist.add(name, not wrong, "40 of 40", got, mistake)


@report_exceptions
def check_sampling_weights(sample: Callable[[nn.Module, nn.Module], Any]) -> Report:
    """Check that ``sample(raw_network, ema_network)`` samples with the EMA weights.

    Both arguments are modules called as (x_t, t, ...) that return a tensor in the shape of x_t. The value of their
    single weight tells them apart, so the check also works if ``sample`` copies a network or loads its state dict.
    """
    checklist = Checklist(name_of(sample, "sampling"), "huggingface/diffusers #5783")
    used: list[str] = []

    class Network(nn.Module):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(weight))

        def forward(self, x_t: Tensor, t: Tensor, *_: Any, **__: Any) -> Tensor:
            used.append("ema" if self.weight.item() == 1 else "raw")
            return torch.zeros_like(x_t)

    if checklist.attempt("sampling", lambda: (sample(Network(0.0), Network(1.0)),)) is None:
        return checklist.report()
    checklist.add("a network is called", bool(used), "calls", f"{len(used)} calls", "sampling calls neither network")
    raw = used.count("raw")
    otherwise = f"raw weights in {raw} of {len(used)} calls"
    checklist.require("sampling uses the EMA weights", not raw, "EMA weights", otherwise, mistakes.EMA_NOT_USED)
    return checklist.report()
