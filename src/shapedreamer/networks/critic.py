"""The critic of distill.py: how likely is an image the one that a noisy image was made of?"""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context_unet import ContextUnet
from .unet import UNet


class Critic(nn.Module):
    """An image x (B, C, H, W), a noisy one x_u of the same shape and a label -> scores (B, S).

    It is the way down of `network`, a UNet or a ContextUnet: it begins with those weights, sees x_u besides x, and
    gives a score at each of its depths, from the finest, of edges, to the coarsest, of the whole.

    time: that the network is told, whatever the noise in x_u: one of little noise, as x has none. Told the time of x_u
          it would look at x as at a noisy image, and at T as at one that says nothing.
    """

    def __init__(self, network: UNet | ContextUnet, time: int) -> None:
        super().__init__()
        self.network, self.time = copy.deepcopy(network), time
        narrow = self.network.conv_in
        C, size = 2 * self.network.in_channels, 2 * self.network.divisor
        wide = nn.Conv2d(2 * narrow.in_channels, narrow.out_channels, 3, padding=1)
        with torch.no_grad():
            wide.weight.copy_(torch.cat([narrow.weight, torch.zeros_like(narrow.weight)], dim=1))  # blind to x_u as yet
            wide.bias = narrow.bias
            self.network.conv_in, self.network.in_channels = wide.to(narrow.weight.device), C
            coarsest, kept, _ = self.network.encode(wide.weight.new_zeros(1, C, size, size), wide.weight.new_ones(1))
        self.heads = nn.ModuleList([Head(h.shape[1]) for h in [*kept, coarsest]])

    def forward(self, x: Tensor, x_u: Tensor, label: Tensor | None = None) -> Tensor:
        t = torch.full((len(x),), self.time, device=x.device)
        coarsest, kept, _ = self.network.encode(torch.cat([x, x_u], dim=1), t, label)
        return torch.cat([head(h) for head, h in zip(self.heads, [*kept, coarsest], strict=True)], dim=1)


class Head(nn.Module):
    """Features (B, C, H, W) -> one score (B, 1), the mean of those of all places."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(32, channels), channels)
        self.conv = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(h))).float().mean(dim=(2, 3))
