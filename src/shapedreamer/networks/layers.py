"""Building blocks shared by both U-Nets: time embedding, residual block, attention, down- and upsampling.

Images are (B, C, H, W). Nothing here depends on diffusion: the timestep is simply one number per image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import attention, group_norm, group_norm_silu, upsample_conv


def time_features(t: Tensor, dim: int) -> Tensor:
    """Return sinusoidal features of the timestep: (B,) -> (B, dim) float32, cosines first, then sines.

    The frequencies decrease geometrically from 1 to about 1/10000 (Vaswani et al. 2017, section 3.5). The layout is
    that of the DDPM code, so that weights can be converted to and from other libraries. `dim` must be even.
    """
    half = dim // 2
    # keep this order of operations: at t = 1000 one more rounding changes the angle by 3e-5
    frequency = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """A two-layer perceptron on the sinusoidal features: (B,) timesteps -> (B, out_dim)."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.linear1 = nn.Linear(dim, out_dim)
        self.linear2 = nn.Linear(out_dim, out_dim)

    def forward(self, t: Tensor) -> Tensor:
        features = time_features(t, self.dim).to(self.linear1.weight.dtype)
        return self.linear2(F.silu(self.linear1(features)))


class ResBlock(nn.Module):
    """The residual block of DDPM (Ho et al. 2020, appendix B): (B, c_in, H, W), (B, time_dim) -> (B, c_out, H, W).

    Norm, SiLU, convolution; add the time embedding; norm, SiLU, convolution; add the input. With `scale_shift` the time
    embedding scales and shifts the output of the second norm instead ("AdaGN", Nichol & Dhariwal 2021). With
    time_dim = 0 the block does not depend on the timestep.
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
            h = group_norm_silu(self.norm2, h, *self.time(F.silu(time)).chunk(2, dim=1))
        else:
            h = group_norm_silu(self.norm2, h + self.time(F.silu(time))[:, :, None, None])
        return self.skip(x) + self.conv2(self.dropout(h))


class Attention(nn.Module):
    """Multi-head self-attention over the pixels, with a residual connection: (B, C, H, W) -> (B, C, H, W).

    head_dim is the number of channels per head. ValueError unless it divides `channels`.
    """

    def __init__(self, channels: int, head_dim: int, groups: int = 32) -> None:
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"{channels} channels cannot be split into heads of {head_dim}: head_dim must divide them")
        self.heads = channels // head_dim
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        tokens = group_norm(self.norm, x).flatten(2).transpose(1, 2)  # (B, HW, C), without a copy in channels_last
        q, k, v = self.qkv(tokens).view(B, H * W, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return x + self.out(mixed).transpose(1, 2).view(B, C, H, W)


class PixelHead(nn.Module):
    """Refine a prediction pixel by pixel: noisy images x and prediction, (B, C, H, W) each -> (B, C, H, W).

    time is the embedding of timestep and label, (B, time_dim). A network with patch > 1 computes at a fraction
    of the resolution. These three convolutions see the noisy image and its prediction at full resolution, and add what
    the coarse levels missed. The last one starts at zero.
    """

    def __init__(self, channels: int, width: int, time_dim: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.time = nn.Linear(time_dim, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, prediction: Tensor, time: Tensor) -> Tensor:
        h = self.conv_in(torch.cat([x, prediction], dim=1)) + self.time(F.silu(time))[:, :, None, None]
        return prediction + self.conv_out(F.silu(self.conv(F.silu(h))))


def as_context(label: Tensor | None, x: Tensor, size: int) -> Tensor:
    """Return the labels of the images x (B, C, H, W) as vectors (B, size) of x's dtype.

    label: vectors (B, size), used unchanged; class indices (B,) int64, which are one-hot encoded; or None for no
           label, which gives zeros. ValueError for any other shape.
    """
    B = x.shape[0]  # not len(x): in an exported graph that would be a constant
    if label is None:
        return x.new_zeros(B, size)
    if label.dtype == torch.int64 and label.ndim == 1:
        label = F.one_hot(label, size)
    if label.shape != (B, size):
        expected = f"({B}, {size}) vectors or ({B},) int64 class indices"
        raise ValueError(f"labels are {tuple(label.shape)} {label.dtype}, and must be {expected}")
    return label.to(x.dtype)


def check_size(x: Tensor, channels: int, divisor: int) -> None:
    """Check that x is (B, channels, H, W) and that `divisor` divides H and W.

    Raises ValueError otherwise. For a wrong size, the message names the nearest sizes that fit.
    """
    C, H, W = x.shape[1:]
    if C != channels:
        raise ValueError(f"images have {C} channels, but the network expects {channels}")
    if H % divisor or W % divisor:
        nearest = " or ".join(f"{h}x{w}" for h, w in zip(_multiples(H, divisor), _multiples(W, divisor), strict=True))
        raise ValueError(
            f"images of {H}x{W} do not fit the network: height and width must be divisible by {divisor}; "
            f"nearest sizes: {nearest}"
        )


def _multiples(n: int, d: int) -> tuple[int, int]:
    """The nearest positive multiples of d: at or below n, and at or above n."""
    return max(n // d, 1) * d, -(-n // d) * d


class Downsample(nn.Module):
    """Halve height and width with a 3 x 3 convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample(nn.Module):
    """Double height and width with nearest-neighbour interpolation, then apply a 3 x 3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return upsample_conv(self.conv, x)
