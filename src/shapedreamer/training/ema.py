"""The exponential moving average of a network's weights, which samples better than the weights of any one step."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Keeps `self.network`, a copy of a network whose parameters are the running mean of the original's.

    decay: in [0, 1): the mean looks back about 1/(1 − decay) steps. It warms up as min(decay, (1 + n)/(10 + n)) at
    update n, or the first weights, which are noise, would stay in it for long: a plain decay of 0.9999 still holds 90%
    of them after 1,000 steps. Buffers (tables, statistics) are copied and never averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must be in [0, 1), not {decay}")
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, n: int) -> None:
        """Take in the weights after update n = 0, 1, 2, …"""
        decay = min(self.decay, (1 + n) / (10 + n))
        mine: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(mine, [p.detach() for p in network.parameters()], 1 - decay)
        for buffer, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(theirs)
