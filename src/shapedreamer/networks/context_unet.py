"""A small U-Net that is told a label at every level: the time is added, the label scales and shifts.

The idea is that of minDiffusion (Pearce 2022) and of the course "How Diffusion Models Work", where a context vector
multiplies the features; the parts are those of the other U-Net. Read `ContextUnet.forward` first.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, Downsample, ResBlock, TimeEmbedding, Upsample, as_context, check_size


class Told(nn.Module):
    """h (B, C, H, W) -> (1 + scale) · h + shift: the label says how much to scale, label and time how much to shift."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.time = nn.Linear(dim, channels)
        self.context = nn.Linear(dim, 2 * channels)

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.context(context).chunk(2, dim=1)
        return (1 + scale[:, :, None, None]) * h + (shift + self.time(time))[:, :, None, None]


class Level(nn.Module):
    """A residual block, told of time and label."""

    def __init__(self, c_in: int, c_out: int, dim: int, groups: int) -> None:
        super().__init__()
        self.res = ResBlock(c_in, c_out, 0, groups)
        self.told = Told(c_out, dim)

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.told(self.res(h), time, context)


class ContextUnet(nn.Module):
    """x (B, C, H, W), t (B,) and a label -> a prediction of x's shape.

    in_channels:  C
    context:      length of the label vector, at least 1: one-hot, several-hot, counts or fractions
    features:     width of the finest level; the two coarser ones have twice as many
    groups:       groups of every GroupNorm

    A label is a vector (B, context) or a class (B,) int64, which is its one-hot vector; None, no label, is zeros.
    H and W must be divisible by 4; forward raises ValueError otherwise and names the nearest sizes that are.
    """

    divisor = 4

    def __init__(self, in_channels: int = 3, context: int = 5, features: int = 64, groups: int = 32) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context must be at least 1, not {context}; a UNet can do without labels")
        self.in_channels, self.context_size = in_channels, context
        dim, wide = 4 * features, 2 * features
        self.time = TimeEmbedding(features, dim)
        self.context = nn.Sequential(nn.Linear(context, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.conv_in = nn.Conv2d(in_channels, features, 3, padding=1)

        self.down1 = Level(features, features, dim, groups)
        self.halve1 = Downsample(features)
        self.down2 = Level(features, wide, dim, groups)
        self.halve2 = Downsample(wide)
        self.down3 = Level(wide, wide, dim, groups)
        self.attend = Attention(wide, 32, groups)
        self.up3 = Level(2 * wide, wide, dim, groups)
        self.double2 = Upsample(wide)
        self.up2 = Level(2 * wide, wide, dim, groups)
        self.double1 = Upsample(wide)
        self.up1 = Level(wide + features, features, dim, groups)

        self.norm_out = nn.GroupNorm(groups, features)
        self.conv_out = nn.Conv2d(features, in_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        h, (level1, level2, level3), told = self.encode(x, t, context)
        h = self.up3(torch.cat([h, level3], dim=1), *told)
        h = self.up2(torch.cat([self.double2(h), level2], dim=1), *told)
        h = self.up1(torch.cat([self.double1(h), level1], dim=1), *told)
        return self.conv_out(F.silu(self.norm_out(h)))

    def encode(
        self, x: Tensor, t: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], tuple[Tensor, Tensor]]:
        """The way down and the attention: the image at its coarsest, what is kept on the way, and time and label."""
        check_size(x, self.in_channels, self.divisor)
        told = F.silu(self.time(t)), self.context(as_context(context, x, self.context_size))
        level1 = self.down1(self.conv_in(x), *told)  # whole size
        level2 = self.down2(self.halve1(level1), *told)  # half
        level3 = self.down3(self.halve2(level2), *told)  # a quarter
        return self.attend(level3), [level1, level2, level3], told
