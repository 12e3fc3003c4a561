"""The U-Net of DDPM: down the resolutions, through the middle, and up again with skip connections.

Ho et al. 2020, appendix B, in the structure of UNet2DModel in Hugging Face Diffusers, so that weights can be exchanged
(see export/diffusers.py). Read `UNet.forward` first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Attention, Downsample, ResBlock, TimeEmbedding, Upsample


class Block(nn.Module):
    """A residual block and, at some levels, attention after it."""

    def __init__(self, res: ResBlock, attend: nn.Module) -> None:
        super().__init__()
        self.res, self.attend = res, attend

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.attend(self.res(x, time))


class UNet(nn.Module):
    """x (B, C, H, W) and t (B,) -> a prediction of x's shape.

    in_channels:  C, 1 for grey and 3 for colour
    channels:     width of each level; each level has half the height and width of the one before
    blocks:       residual blocks per level on the way down (one more on the way up)
    attention:    levels (0 is the finest) whose residual blocks are followed by self-attention; the middle
                  always has it
    head_dim:     channels per attention head
    groups:       groups of every GroupNorm
    scale_shift:  whether the time scales and shifts (True) or is added (False); see ResBlock
    dropout:      inside the residual blocks, in [0, 1)
    patch:        pixels of a patch x patch square are folded into channels before the first level, so that
                  the first level runs at 1/patch of the resolution; 1 leaves the image as it is

    H and W must be divisible by `self.divisor` = patch * 2**(levels - 1); forward raises ValueError otherwise and names
    the nearest sizes that are.
    """

    def __init__(
        self,
        in_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        attention: Sequence[int] = (1, 2),
        head_dim: int = 32,
        groups: int = 32,
        scale_shift: bool = False,
        dropout: float = 0.0,
        patch: int = 1,
    ) -> None:
        super().__init__()
        levels = len(channels)
        if any(not 0 <= level < levels for level in attention):
            raise ValueError(f"attention={tuple(attention)} names a level outside 0...{levels - 1}")
        if any(c % groups for c in channels):
            raise ValueError(f"channels={tuple(channels)} must all be divisible by groups={groups}")
        self.in_channels, self.patch = in_channels, patch
        self.divisor = patch * 2 ** (levels - 1)
        time_dim = 4 * channels[0]

        def block(c_in: int, level: int, attend: bool) -> Block:
            res = ResBlock(c_in, channels[level], time_dim, groups, scale_shift, dropout)
            return Block(res, Attention(channels[level], head_dim, groups) if attend else nn.Identity())

        self.time = TimeEmbedding(channels[0], time_dim)
        self.conv_in = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)

        self.down = nn.ModuleList()
        skips = [channels[0]]  # channels of every skip connection, in the order in which they are pushed
        c = channels[0]
        for level, width in enumerate(channels):
            for _ in range(blocks):
                self.down.append(block(c, level, attend=level in attention))
                c = width
                skips.append(c)
            if level < levels - 1:
                self.down.append(Downsample(c))
                skips.append(c)

        self.middle = nn.ModuleList([block(c, -1, attend=True), block(c, -1, attend=False)])

        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(channels))):
            for _ in range(blocks + 1):
                self.up.append(block(c + skips.pop(), level, attend=level in attention))
                c = width
            if level > 0:
                self.up.append(Upsample(c))

        self.norm_out = nn.GroupNorm(groups, c)
        self.conv_out = nn.Conv2d(c, in_channels * patch**2, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self._check_size(x)
        time = self.time(t)
        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for part in self.down:
            h = part(h, time) if isinstance(part, Block) else part(h)
            skips.append(h)

        for part in self.middle:
            h = part(h, time)

        for part in self.up:
            h = part(torch.cat([h, skips.pop()], dim=1), time) if isinstance(part, Block) else part(h)

        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)

    def _check_size(self, x: Tensor) -> None:
        C, H, W = x.shape[1:]
        if C != self.in_channels:
            raise ValueError(f"images have {C} channels, this network was built for {self.in_channels}")
        d = self.divisor
        if H % d or W % d:
            nearest = " or ".join(f"{h}x{w}" for h, w in zip(_multiples(H, d), _multiples(W, d), strict=True))
            raise ValueError(
                f"images of {H}x{W} do not fit: height and width must be divisible by {d}; nearest sizes: {nearest}"
            )


def _multiples(n: int, d: int) -> tuple[int, int]:
    """The nearest positive multiples of d at or below n, and at or above it."""
    return max(n // d, 1) * d, -(-n // d) * d
