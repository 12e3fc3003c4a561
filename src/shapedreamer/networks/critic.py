"""The critic that training/distillation.py trains few-step models with."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .context_unet import ContextUnet
from .dit import DiT
from .unet import UNet


class Critic(nn.Module):
    """Scores how likely it is that the noisy image x_u was made from the image x.

    x and x_u (B, C, H, W) and an optional label -> scores (B, S), one per feature map of the encoder, from the finest
    (edges) to the coarsest (the whole image).

    network:  a UNet, ContextUnet or DiT. The critic is a copy of its encoder, with pretrained weights, and takes x_u as
              additional input channels.
    timestep: the encoder is always conditioned on this timestep. Choose one with little noise, because x is a clean
              image. If it were conditioned on the timestep of x_u, it would treat x as noisy, and ignore it at t = T.
    """

    def __init__(self, network: UNet | ContextUnet | DiT, timestep: int) -> None:
        super().__init__()
        self.network, self.timestep = copy.deepcopy(network), timestep
        conv_x = self.network.conv_in
        C, size = 2 * self.network.in_channels, 2 * self.network.divisor
        conv_both = nn.Conv2d(2 * conv_x.in_channels, conv_x.out_channels, 3, padding=1)
        with torch.no_grad():
            # weight 0 for x_u: at first the features are those of the pretrained encoder
            conv_both.weight.copy_(torch.cat([conv_x.weight, torch.zeros_like(conv_x.weight)], dim=1))
            conv_both.bias = conv_x.bias
            self.network.conv_in, self.network.in_channels = conv_both.to(conv_x.weight.device), C
            # encode an image of zeros to find out how many channels each feature map has
            x, t = conv_both.weight.new_zeros(1, C, size, size), conv_both.weight.new_ones(1)
            coarsest, skips, _ = self.network.encode(x, t)
        self.heads = nn.ModuleList([Head(h.shape[1]) for h in [*skips, coarsest]])

    def forward(self, x: Tensor, x_u: Tensor, label: Tensor | None = None) -> Tensor:
        t = torch.full((len(x),), self.timestep, device=x.device)
        coarsest, skips, _ = self.network.encode(torch.cat([x, x_u], dim=1), t, label)
        return torch.cat([head(h) for head, h in zip(self.heads, [*skips, coarsest], strict=True)], dim=1)


class Head(nn.Module):
    """A score per pixel, averaged over the image: features (B, C, H, W) -> (B, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(math.gcd(32, channels), channels)
        self.conv = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.silu(self.norm(h))).float().mean(dim=(2, 3))
