"""Checks of the average of the weights, and of which weights are sampled with."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from . import mistakes
from .report import Checklist, Report, number, title_of, unfailing


class Averaging(Protocol):
    """What check_ema needs of an average of weights."""

    network: nn.Module

    def update(self, network: nn.Module, n: int) -> None:
        """Take in the weights after update n = 0, 1, 2, …"""
        ...


class _Toy(nn.Module):
    """A weight and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.table: Tensor
        self.register_buffer("table", torch.linspace(1, 0, 7, dtype=torch.float64))


@unfailing
def check_ema(make_ema: Callable[[nn.Module, float], Averaging]) -> Report:
    """Whether make_ema(network, decay) averages the weights, warms up, and leaves buffers (tables) alone.

    It has `.network`, the averaged copy, and `.update(network, n)` for updates n = 0, 1, 2, …
    """
    rows = Checklist(title_of(make_ema, "EMA"), "lucidrains/denoising-diffusion-pytorch #44, #136")

    def after(updates: int, decay: float, first: int = 0) -> tuple[_Toy, nn.Module]:
        """A network whose weights were 0 when its average was made, and 1 at each of the updates; and that average."""
        network = _Toy()
        ema = make_ema(network, decay)
        with torch.no_grad():
            network.weight.fill_(1.0)
            network.table.mul_(-3)
        for n in range(first, first + updates):
            ema.update(network, n)
        return network, ema.network

    def averaged(updates: int, decay: float, first: int = 0) -> float:
        return next(after(updates, decay, first)[1].parameters()).detach().double().mean().item()

    once = rows.attempt("one update", lambda: after(1, 0.999))
    if once is None:
        return rows.report()
    network, average = once
    shared = any(mine.data_ptr() == network.weight.data_ptr() for mine in average.parameters())
    rows.holds("the average is a copy", not shared, "its own weights", "shared", mistakes.EMA_ALIASED)
    kept = bool((network.weight == 1).all())
    rows.holds("the network stays as it was", kept, "unchanged", "changed", "the average is written into the network")
    tables = [table for _, table in average.named_buffers()]
    apart = all(any(torch.equal(table, each) for each in (network.table, _Toy().table)) for table in tables)
    rows.holds("tables are copied or left alone", apart, "no mean", "a mean", mistakes.AVERAGED_TABLES)
    late = rows.attempt("late", lambda: averaged(1, 0.9, 100_000))
    long = rows.attempt("many", lambda: averaged(500, 0.9))
    early = rows.attempt("early", lambda: averaged(200, 0.9999))
    if shared or late is None or long is None or early is None:
        return rows.report()
    follows = abs(long - 1) < 1e-3
    suspect = mistakes.DECAY_SWAPPED if abs(late - 0.9) < 1e-4 else "the average does not take 1 − decay of the weights"
    rows.add("late: takes 1 − decay of the weights", abs(late - 0.1) < 1e-4, "0.1 at decay 0.9", number(late), suspect)
    rows.add("reaches weights that stay", follows, "1", number(long), mistakes.EMA_STANDS_STILL)
    suspect = mistakes.NO_WARM_UP if follows else "the first weights stay in the average"
    rows.add("share of the first weights after 200", early > 0.9, "below 10%", f"{1 - early:.1%}", suspect)
    return rows.report()


@unfailing
def check_sampling_weights(sample: Callable[[nn.Module, nn.Module], Any]) -> Report:
    """Whether sample(raw_network, ema_network) samples with the average: both are told apart by their one weight.

    Each is a module of (x_t, t, …) that answers in the shape of x_t. Copying or loading its weights is followed too.
    """
    rows = Checklist(title_of(sample, "sampling"), "huggingface/diffusers #5783")
    used: list[str] = []

    class Network(nn.Module):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(weight))

        def forward(self, x_t: Tensor, t: Tensor, *_: Any, **__: Any) -> Tensor:
            used.append("average" if self.weight.item() == 1 else "raw")
            return torch.zeros_like(x_t)

    if rows.attempt("sampling", lambda: (sample(Network(0.0), Network(1.0)),)) is None:
        return rows.report()
    rows.add("the network is called", bool(used), "calls", f"{len(used)} calls", "sampling calls neither network")
    raw = used.count("raw")
    otherwise = f"raw in {raw} of {len(used)} calls"
    rows.holds("sampling uses the average", not raw, "the average", otherwise, mistakes.EMA_NOT_USED)
    return rows.report()
