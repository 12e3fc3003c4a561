"""The U-Net of DDPM: down the resolutions, through the middle, and up again with skip connections.

Ho et al. 2020, appendix B, in the structure of UNet2DModel in Hugging Face Diffusers, so that weights can be exchanged
(see export/diffusers.py). Read `UNet.forward` first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.names import TimeAt
from .layers import Attention, Downsample, ResBlock, TimeEmbedding, Upsample, as_context, check_size


class Block(nn.Module):
    """A residual block and, at some levels, attention after it."""

    def __init__(self, res: ResBlock, attend: nn.Module) -> None:
        super().__init__()
        self.res, self.attend = res, attend

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        return self.attend(self.res(x, time))


class UNet(nn.Module):
    """x (B, C, H, W), t (B,) and, if it is told labels, the context -> a prediction of x's shape.

    in_channels:  C, 1 for grey and 3 for colour
    channels:     width of each level; each level has half the height and width of the one before
    blocks:       residual blocks per level on the way down (one more on the way up)
    attention:    levels (0 is the finest) whose residual blocks are followed by self-attention; the middle
                  always has it
    head_dim:     channels per attention head
    groups:       groups of every GroupNorm
    scale_shift:  whether the time scales and shifts (True) or is added (False); see ResBlock
    dropout:      inside the residual blocks, in [0, 1)
    context:      length of the label vector, or number of classes; 0 for a network that is told no labels. A label
                  is a vector (B, context) or a class (B,) int64, which is its one-hot vector; None, no label, is zeros
    time_at:      where time and label come in: in all residual "blocks", or added once, at the "bottleneck"
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
        context: int = 0,
        time_at: TimeAt = "blocks",
    ) -> None:
        super().__init__()
        levels = len(channels)
        if any(not 0 <= level < levels for level in attention):
            raise ValueError(f"attention={tuple(attention)} names a level outside 0...{levels - 1}")
        if any(c % groups for c in channels):
            raise ValueError(f"channels={tuple(channels)} must all be divisible by groups={groups}")
        self.in_channels, self.patch, self.context_size, self.time_at = in_channels, patch, context, time_at
        self.divisor = patch * 2 ** (levels - 1)
        time_dim = channels[-1] if time_at == "bottleneck" else 4 * channels[0]

        def block(c_in: int, level: int, attend: bool) -> Block:
            block_time = 0 if time_at == "bottleneck" else time_dim
            res = ResBlock(c_in, channels[level], block_time, groups, scale_shift, dropout)
            return Block(res, Attention(channels[level], head_dim, groups) if attend else nn.Identity())

        self.time = TimeEmbedding(channels[0], time_dim)
        # no bias: a label of zeros leaves the time as it is
        self.context = nn.Linear(context, time_dim, bias=False) if context else None
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

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        h, skips, time = self.encode(x, t, context)
        for part in self.up:
            h = part(torch.cat([h, skips.pop()], dim=1), time) if isinstance(part, Block) else part(h)
        return F.pixel_shuffle(self.conv_out(F.silu(self.norm_out(h))), self.patch)

    def encode(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """The way down and the middle: the image at its coarsest, what is kept on the way, and the time and label."""
        check_size(x, self.in_channels, self.divisor)
        time = self.time(t)
        if self.context is not None:
            time = time + self.context(as_context(context, x, self.context_size))
        elif context is not None:
            raise ValueError("this network was built without labels: give it none")
        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for part in self.down:
            h = part(h, time) if isinstance(part, Block) else part(h)
            skips.append(h)

        if self.time_at == "bottleneck":
            h = h + time[:, :, None, None]
        for part in self.middle:
            h = part(h, time)
        return h, skips, time
