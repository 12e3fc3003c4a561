"""A small diffusion transformer: the image as a grid of patches, which attend to each other.

The DiT of Peebles & Xie 2023, with rotary positions and normalised queries and keys. Every block computes at the same
resolution, and there are no skip connections::

    x ── patches, conv_in ──▶ block ──▶ block ──▶ … ──▶ normalise, conv_out ──▶ prediction
                                ▲         ▲                 ▲
    t, label ── embeddings ─────┴─────────┴─────────────────┘
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import attention
from .layers import TimeEmbedding, as_context, check_size


def rotations(rows: int, columns: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines, (rows · columns, dim/2) each, that rotate queries and keys of `dim` numbers.

    Rotary position embedding (Su et al. 2021) in two dimensions: half of the angles grow with the row, half with the
    column. The product of a rotated query and a rotated key then depends on their distance, not on their positions.
    """
    frequency = 100.0 ** -(torch.arange(dim // 4, device=device) / (dim // 4))
    row = torch.arange(rows, device=device)[:, None, None] * frequency
    column = torch.arange(columns, device=device)[:, None] * frequency
    angle = torch.cat([row.expand(-1, columns, -1), column.expand(rows, -1, -1)], dim=2).flatten(0, 1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_{i + dim/2}) of the last dimension by its angle: (…, tokens, dim) -> the same."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def normalise(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm, then scale and shift: h (B, N, width), shift and scale (B, 1, width) -> (B, N, width)."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), 1 + scale)


class Block(nn.Module):
    """Self-attention, then a two-layer perceptron, on tokens h (B, N, width), each with a residual connection.

    The embedding of timestep and label, time (B, width/2), scales and shifts their inputs, and scales (gates) their
    outputs. All of these start at zero, so the block starts as the identity (adaLN-zero).
    """

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.heads = width // head_dim
        self.time = nn.Linear(width // 2, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, time: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, N, width = h.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.time(F.silu(time))[:, None].chunk(6, dim=2)
        q, k, v = self.qkv(normalise(h, shift1, scale1)).view(B, N, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = (rotate(F.layer_norm(part, part.shape[-1:]), cos, sin) for part in (q, k))
        h = h + gate1 * self.out(attention(q, k, v).transpose(1, 2).reshape(B, N, width))
        return h + gate2 * self.linear2(F.silu(self.linear1(normalise(h, shift2, scale2))))


class DiT(nn.Module):
    """x (B, C, H, W), t (B,) and an optional label -> a prediction of x's shape. It starts as the prediction 0.

    in_channels:  C, for example 1 for greyscale and 3 for RGB
    patch:        a token is a square of patch x patch pixels; patch must divide H and W, else forward raises ValueError
    width:        numbers per token
    depth:        number of blocks
    head_dim:     numbers per attention head; must divide width, and 4 must divide it
    context:      length of the label vector, 0 for an unconditional network; labels are those of UNet

    `self.options` has these arguments, so that a file can store them.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch: int = 4,
        width: int = 256,
        depth: int = 6,
        head_dim: int = 64,
        context: int = 0,
    ) -> None:
        super().__init__()
        if width % head_dim or head_dim % 4:
            raise ValueError(f"head_dim={head_dim} must be divisible by 4 and divide width={width}")
        self.options: dict[str, Any] = {"in_channels": in_channels, "patch": patch, "width": width, "depth": depth}
        self.options |= {"head_dim": head_dim, "context": context}
        self.in_channels, self.divisor, self.head_dim, self.context_size = in_channels, patch, head_dim, context
        self.time = TimeEmbedding(width // 2, width // 2)
        self.context = nn.Linear(context, width // 2, bias=False) if context else None
        self.conv_in = nn.Conv2d(in_channels * patch**2, width, 3, padding=1)
        blocks = [Block(width, head_dim) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.time_out = nn.Linear(width // 2, 2 * width)
        self.conv_out = nn.Conv2d(width, in_channels * patch**2, 3, padding=1)
        for layer in (*(block.time for block in blocks), self.time_out, self.conv_out):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def encode(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """Run the first half of the blocks: (output, [input], embedding), images being (B, width, H/patch, W/patch)."""
        check_size(x, self.in_channels, self.divisor)
        time = self.time(t)
        if self.context is not None:
            time = time + self.context(as_context(context, x, self.context_size))
        elif context is not None:
            raise ValueError("this network is unconditional (context=0) and takes no labels; leave them out")
        h = self.conv_in(F.pixel_unshuffle(x, self.divisor))
        return self.run_blocks(self.blocks[: len(self.blocks) // 2], h, time), [h], time

    def run_blocks(self, blocks: nn.ModuleList, h: Tensor, time: Tensor) -> Tensor:
        cos, sin = (table.to(h.dtype) for table in rotations(h.shape[2], h.shape[3], self.head_dim, h.device))
        tokens = h.flatten(2).transpose(1, 2)  # (B, N, width), without a copy in channels_last
        for block in blocks:
            tokens = block(tokens, time, cos, sin)
        return tokens.transpose(1, 2).reshape(h.shape)

    def forward(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        h, _, time = self.encode(x, t, context)
        h = self.run_blocks(self.blocks[len(self.blocks) // 2 :], h, time)
        shift, scale = self.time_out(F.silu(time))[:, None].chunk(2, dim=2)
        h = normalise(h.flatten(2).transpose(1, 2), shift, scale).transpose(1, 2).reshape(h.shape)
        return F.pixel_shuffle(self.conv_out(h), self.divisor)
