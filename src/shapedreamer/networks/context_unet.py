"""A small U-Net conditioned at every level: the label scales and shifts the features, the timestep shifts them.

The idea comes from minDiffusion (Pearce 2022) and the course "How Diffusion Models Work", where a context vector
multiplies the features. The building blocks are those of `UNet`, with one block per level::

    x ── conv_in ──▶ down1 ───── level1 ─────▶ up1 ── norm_out, SiLU, conv_out ──▶ prediction
                       ▼ halve1                 ▲ double1
                     down2 ───── level2 ─────▶ up2
                       ▼ halve2                 ▲ double2
                     down3 ───── level3 ─────▶ up3
                       └──────▶ attend ─────────┘

    t ── TimeEmbedding, SiLU ──▶ time ───┐
    label ── two-layer MLP ──▶ context ──┴──▶ inputs of every level
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import group_norm_silu
from .layers import Attention, Downsample, ResBlock, TimeEmbedding, Upsample, as_context, check_size


class ScaleShift(nn.Module):
    """Feature-wise linear modulation (FiLM, Perez et al. 2018): h (B, C, H, W) -> (1 + scale) · h + shift.

    The scale depends on the label, the shift on both the label and the timestep.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.time = nn.Linear(dim, channels)
        self.context = nn.Linear(dim, 2 * channels)

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.context(context).chunk(2, dim=1)
        return (1 + scale[:, :, None, None]) * h + (shift + self.time(time))[:, :, None, None]


class Level(nn.Module):
    """A residual block whose output is scaled and shifted according to label and timestep."""

    def __init__(self, c_in: int, c_out: int, dim: int, groups: int) -> None:
        super().__init__()
        self.res = ResBlock(c_in, c_out, 0, groups)
        self.scale_shift = ScaleShift(c_out, dim)

    def forward(self, h: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.scale_shift(self.res(h), time, context)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load older checkpoints too: their keys call `scale_shift` by its former name, `told`."""
        old, new = f"{prefix}told.", f"{prefix}scale_shift."
        for key in [key for key in state_dict if key.startswith(old)]:
            state_dict[new + key.removeprefix(old)] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ContextUnet(nn.Module):
    """x (B, C, H, W), t (B,) and an optional label -> a prediction of x's shape.

    in_channels:  C
    context:      length of the label vector, at least 1: one-hot, multi-hot, counts or fractions
    features:     channels at full resolution; the two coarser levels have twice as many
    groups:       groups of every GroupNorm

    A label is a vector (B, context) or a class index (B,) int64, which is one-hot encoded; None means no label and
    equals a vector of zeros. H and W must be divisible by 4; otherwise forward raises ValueError with the nearest sizes
    that fit.
    """

    divisor = 4

    def __init__(self, in_channels: int = 3, context: int = 5, features: int = 64, groups: int = 32) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context must be at least 1, not {context}; for a network without labels use UNet")
        self.in_channels, self.context_size = in_channels, context
        self.options = {"in_channels": in_channels, "context": context, "features": features, "groups": groups}
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

    def encode(
        self, x: Tensor, t: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], tuple[Tensor, Tensor]]:
        """Run the first half, down to and including the attention.

        Returns the coarsest features, the skip connections (finest first) and the embeddings of timestep and label.
        """
        check_size(x, self.in_channels, self.divisor)
        conditioning = F.silu(self.time(t)), self.context(as_context(context, x, self.context_size))
        level1 = self.down1(self.conv_in(x), *conditioning)  # full resolution
        level2 = self.down2(self.halve1(level1), *conditioning)  # 1/2
        level3 = self.down3(self.halve2(level2), *conditioning)  # 1/4
        return self.attend(level3), [level1, level2, level3], conditioning

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        h, (level1, level2, level3), conditioning = self.encode(x, t, context)
        h = self.up3(torch.cat([h, level3], dim=1), *conditioning)
        h = self.up2(torch.cat([self.double2(h), level2], dim=1), *conditioning)
        h = self.up1(torch.cat([self.double1(h), level1], dim=1), *conditioning)
        return self.conv_out(group_norm_silu(self.norm_out, h))
