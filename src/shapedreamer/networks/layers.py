"""The parts both networks are made of: time embedding, residual block, attention, down- and up-sampling.

Images are (B, C, H, W). Nothing here knows about diffusion; a "time" is just a number per image to be told about.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import attention, doubled_conv, group_norm, group_norm_silu


def time_features(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal features of the time: (B,) numbers -> (B, dim) float32, cosines first, then sines.

    The frequencies fall geometrically from 1 to about 1/10000 (Vaswani et al. 2017, section 3.5; the layout is that of
    the DDPM code, so that weights can be exchanged with other libraries). `dim` must be even.
    """
    half = dim // 2
    # in this order of operations, to the last bit: at t = 1000 one rounding more is an angle off by 3e-5
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """A small perceptron on the sinusoidal features: (B,) times -> (B, out_dim)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear1 = nn.Linear(dim, out_dim)
        self.linear2 = nn.Linear(out_dim, out_dim)

    def forward(self, t: Tensor) -> Tensor:
        features = time_features(t, self.dim).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(features)))


class ResBlock(nn.Module):
    """norm, SiLU, conv; the time comes in; norm, SiLU, conv; plus the input (DDPM, appendix B).

    With `scale_shift` the time scales and shifts the second norm's output (Nichol & Dhariwal 2021, "AdaGN");
    without it, it is added before that norm. With time_dim = 0 the block is not told the time.
    """

    def __init__(
        self, c_in: int, c_out: int, time_dim: int, groups: int = 32, scale_shift: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.norm1 = nn.GroupNorm(groups, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.time = nn.Linear(time_dim, 2 * c_out if scale_shift else c_out) if time_dim else None
        self.norm2 = nn.GroupNorm(groups, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        h = self.conv1(group_norm_silu(self.norm1, x))
        if self.time is None or time is None:
            h = group_norm_silu(self.norm2, h)
        elif self.scale_shift:
            scale, shift = self.time(F.silu(time))[:, :, None, None].chunk(2, dim=1)
            h = F.silu(group_norm(self.norm2, h) * (1 + scale) + shift)
        else:
            h = group_norm_silu(self.norm2, h + self.time(F.silu(time))[:, :, None, None])
        return self.skip(x) + self.conv2(self.dropout(h))


class Attention(nn.Module):
    """Self-attention over the pixels of an image, with a residual connection: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, head_dim: int, groups: int = 32) -> None:
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"{channels} channels cannot be split into heads of {head_dim}, which must divide them")
        self.heads = channels // head_dim
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = group_norm(self.norm, x).flatten(2).transpose(1, 2)  # (B, HW, C): a view, when x is channels_last
        q, k, v = self.qkv(tokens).view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return x + self.out(mixed).transpose(1, 2).view(B, C, H, W)


def as_context(label: Tensor | None, x: Tensor, size: int) -> Tensor:
    """Labels as vectors (B, size) of x's type, for images x (B, C, H, W): vectors as they are, classes (B,) int64 as
    one-hot vectors, None, which is no label, as zeros. ValueError for vectors of another length."""
    B = x.shape[0]  # and not len(x), which would make it a constant in an exported graph
    if label is None:
        return x.new_zeros(B, size)
    if label.dtype == torch.int64 and label.ndim == 1:
        label = F.one_hot(label, size)
    if label.shape != (B, size):
        expected = f"({B}, {size}) vectors or ({B},) classes"
        raise ValueError(f"labels are {tuple(label.shape)} {label.dtype}, and must be {expected}")
    return label.to(x.dtype)


def check_size(x: Tensor, channels: int, divisor: int) -> None:
    """ValueError, naming the nearest sizes that fit, unless x is (B, channels, H, W) with H and W divisible."""
    C, H, W = x.shape[1:]
    if C != channels:
        raise ValueError(f"images have {C} channels, this network was built for {channels}")
    if H % divisor or W % divisor:
        nearest = " or ".join(f"{h}x{w}" for h, w in zip(_multiples(H, divisor), _multiples(W, divisor), strict=True))
        raise ValueError(
            f"images of {H}x{W} do not fit: height and width must be divisible by {divisor}; nearest sizes: {nearest}"
        )


def _multiples(n: int, d: int) -> tuple[int, int]:
    """The nearest positive multiples of d at or below n, and at or above it."""
    return max(n // d, 1) * d, -(-n // d) * d


class Downsample(nn.Module):
    """Half the height and width, by a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double the height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return doubled_conv(self.conv, x)
