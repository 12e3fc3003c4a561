"""The U-Net of DDPM: down through the resolutions, the middle, and up again with skip connections.

The architecture is that of Ho et al. 2020, appendix B, structured like UNet2DModel in Hugging Face Diffusers, so that
weights can be converted both ways (see export/diffusers.py). With three levels::

    x ── conv_in ──▶ blocks (H x W) ─────── skips ──────▶ blocks ── norm_out, SiLU, conv_out ──▶ prediction
                       ▼ Downsample                         ▲ Upsample
                     blocks (H/2 x W/2) ─── skips ──────▶ blocks
                       ▼ Downsample                         ▲ Upsample
                     blocks (H/4 x W/4) ─── skips ──────▶ blocks
                       └─────▶ middle (two blocks) ─────────┘

    t ──────────────── TimeEmbedding ──▶ (+) ──▶ time, an input of every block
    label (optional) ─ Linear ────────────┘

A block is a ResBlock, followed by self-attention at some levels. The outputs of conv_in, of every block on the way down
and of every Downsample are skip connections. On the way up, each block takes the most recent one not yet used.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.names import TimeAt
from .kernels import group_norm_silu
from .layers import Attention, Downsample, PixelHead, ResBlock, TimeEmbedding, Upsample, as_context, check_size


class Block(nn.Module):
    """A residual block, followed at some levels by self-attention (elsewhere `attend` is the identity)."""

    def __init__(self, res: ResBlock, attend: nn.Module) -> None:
        super().__init__()
        self.res, self.attend = res, attend

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        return self.attend(self.res(x, time))


class UNet(nn.Module):
    """x (B, C, H, W), t (B,) and an optional label -> a prediction of x's shape.

    in_channels:  C, for example 1 for greyscale and 3 for RGB
    channels:     number of channels at each level, finest first; each level halves height and width
    blocks:       residual blocks per level on the way down; there is one more per level on the way up
    attention:    levels (0 is the finest) with self-attention after every residual block; the middle always has it
    head_dim:     channels per attention head
    groups:       groups of every GroupNorm
    scale_shift:  True: the time embedding scales and shifts the features; False: it is added (see ResBlock)
    dropout:      dropout probability inside the residual blocks, in [0, 1)
    patch:        fold each patch x patch square of pixels into channels before the first level, so that all levels run
                  at 1/patch of the resolution; 1 leaves the image unchanged
    context:      length of the label vector, one number per class; 0 for an unconditional network. A label is a vector
                  (B, context) or a class index (B,) int64, which is one-hot encoded; None means no label and
                  equals a vector of zeros
    time_at:      "blocks": the embeddings of timestep and label are an input of every residual block; "bottleneck":
                  they are added once, before the middle
    head:         channels of a PixelHead that refines the output at full resolution; 0 for none

    `self.options` has these arguments, so that a file can store them.

    H and W must be divisible by `self.divisor` = patch * 2**(levels - 1); otherwise forward raises ValueError with the
    nearest sizes that fit.
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
        head: int = 0,
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "in_channels": in_channels,
            "channels": tuple(channels),
            "blocks": blocks,
            "attention": tuple(attention),
            "head_dim": head_dim,
            "groups": groups,
            "scale_shift": scale_shift,
            "dropout": dropout,
            "patch": patch,
            "context": context,
            "time_at": time_at,
            "head": head,
        }
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
        # no bias: a label of zeros adds nothing to the time embedding
        self.context = nn.Linear(context, time_dim, bias=False) if context else None
        self.conv_in = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)

        self.down = nn.ModuleList()
        skips = [channels[0]]  # number of channels of each skip connection, in the order of the way down
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
        self.head = PixelHead(in_channels, head, time_dim) if head else None

    def encode(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """Run the first half, down to and including the middle.

        Returns the coarsest features, the skip connections (finest first) and the embedding of timestep and label.
        """
        check_size(x, self.in_channels, self.divisor)
        time = self.time(t)
        if self.context is not None:
            time = time + self.context(as_context(context, x, self.context_size))
        elif context is not None:
            raise ValueError("this network is unconditional (context=0) and takes no labels; leave them out")

        h = self.conv_in(F.pixel_unshuffle(x, self.patch))
        skips = [h]
        for layer in self.down:
            h = layer(h, time) if isinstance(layer, Block) else layer(h)
            skips.append(h)

        if self.time_at == "bottleneck":
            h = h + time[:, :, None, None]
        for block in self.middle:
            h = block(h, time)
        return h, skips, time

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        h, skips, time = self.encode(x, t, context)
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], dim=1), time) if isinstance(layer, Block) else layer(h)
        out = F.pixel_shuffle(self.conv_out(group_norm_silu(self.norm_out, h)), self.patch)
        return out if self.head is None else self.head(x, out, time)
