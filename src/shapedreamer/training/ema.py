"""The exponential moving average (EMA) of a network's weights, which gives better samples than the raw weights."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Maintains `self.network`, a copy of a network whose parameters are the moving average of the original's.

        average ← d · average + (1 − d) · weights,    d = min(decay, (1 + n)/(10 + n)) at update n

    decay: in [0, 1). The average covers about the last 1/(1 − decay) steps. The warm-up of d quickly removes the random
    initial weights; at a constant decay of 0.9999 they would still make up 90% of the average after 1,000 steps.
    ValueError for a decay out of range.

    Buffers (tables, statistics) are copied, not averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay must be in [0, 1), not {decay}")
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, n: int) -> None:
        """Include the weights of `network` after optimizer step n = 0, 1, 2, …"""
        decay = min(self.decay, (1 + n) / (10 + n))
        averages: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averages, [p.detach() for p in network.parameters()], 1 - decay)
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
