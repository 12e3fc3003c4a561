"""The operations that take a network's time, each by the way that was measured to be the fastest on the device.

What they compute is in the first line of each docstring, and a test holds every way to it; how they do it is for those
who want to know where the time goes (benchmarks/). Numbers are from 2 CPU cores with bfloat16 instructions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# On a CPU plain matrix products are up to 7 times as fast as the fused kernel in bfloat16, and about equal in float32,
# as far as 1024 tokens (benchmarks/attention.py). They stop here because training keeps their (tokens x tokens)
# matrices: at 256 tokens 8 MB for each head of 64 images, at 1024 tokens 128 MB.
PLAIN_ATTENTION_TOKENS = 256

# Some layers go through a batch in pieces of so many numbers, which stay in the cache from one operation to the next.
CHUNK = 2**20


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v for (B, heads, tokens, d), by the way that was measured faster on this device and size."""
    heads, tokens = q.shape[1:3]
    if q.device.type != "cpu" or tokens > PLAIN_ATTENTION_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    if torch.compiler.is_compiling():
        return _plain_attention(q, k, v)
    images = max(1, CHUNK // (heads * tokens**2))
    parts = zip(q.split(images), k.split(images), v.split(images), strict=True)
    return torch.cat([_plain_attention(*part) for part in parts])


def _plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """norm(x), by the way that was measured faster."""
    if _small_groups_of_bf16(norm, x):
        return _GroupNorm.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, False)
    return norm(x)


def group_norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU(norm(x)), by the way that was measured faster."""
    if _small_groups_of_bf16(norm, x):
        return _GroupNorm.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps, True)
    return F.silu(norm(x))


def _small_groups_of_bf16(norm: nn.GroupNorm, x: Tensor) -> bool:
    """Whether _GroupNorm is the faster way: below 16 channels a group, torch's loops over them have no vectors."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.is_contiguous(memory_format=torch.channels_last)
        and norm.num_channels < 16 * norm.num_groups
        and not torch.compiler.is_compiling()
    )


class _GroupNorm(torch.autograd.Function):
    """Group normalisation, and SiLU after it if wanted, of bfloat16 images in channels_last on a CPU.

    2 to 8 times as fast as torch's, which made it a quarter of a training step, and SiLU's input need not be kept
    (benchmarks/throughput.py). With mean μ and deviation σ of each image and group, of n numbers:

        x̂ = (x − μ) / σ,  z = γ x̂ + β;  dβ = Σ dz,  dγ = Σ x̂ dz,  dx = (γ dz − Σ γ dz / n − x̂ Σ γ x̂ dz / n) / σ

    The last two terms are there because every x moves the μ and the σ of its group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        ctx.groups, ctx.silu, ctx.images = groups, silu, max(1, CHUNK // x.shape[1:].numel())
        out, moments = torch.empty_like(x), []
        for x_part, out_part in zip(_pixels(x).split(ctx.images), _pixels(out).split(ctx.images), strict=True):
            h = x_part.float()
            mean = _group_mean(h.mean(1, keepdim=True), groups)
            variance = _group_mean(h.square().mean(1, keepdim=True), groups) - mean.square()
            scale = (variance.clamp(min=0) + eps).rsqrt()
            moments.append(torch.cat([mean, scale], dim=1))
            h = torch.addcmul(bias - mean * scale * weight, h, scale * weight)
            out_part.copy_(F.silu(h, inplace=True) if silu else h)
        ctx.save_for_backward(x, weight, bias, torch.cat(moments))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, moments = ctx.saved_tensors
        dx, pixels = torch.empty_like(x), x.shape[2] * x.shape[3]
        d_weight, d_bias = torch.zeros_like(weight).float(), torch.zeros_like(bias).float()
        grad = grad.contiguous(memory_format=torch.channels_last)
        parts = (t.split(ctx.images) for t in (_pixels(x), _pixels(grad), _pixels(dx), moments))
        for x_part, grad_part, dx_part, moments_part in zip(*parts, strict=True):
            h, dz, (mean, scale) = x_part.float(), grad_part.float(), moments_part.split(1, dim=1)
            if ctx.silu:
                z = torch.addcmul(bias - mean * scale * weight, h, scale * weight)
                dz = torch.ops.aten.silu_backward(dz, z)
            dz_mean = dz.mean(1, keepdim=True)
            dz_along = ((dz * h).mean(1, keepdim=True) - mean * dz_mean) * scale  # mean of x̂ dz
            d_weight += pixels * dz_along.sum(dim=(0, 1))
            d_bias += pixels * dz_mean.sum(dim=(0, 1))
            slope = -scale.square() * _group_mean(weight * dz_along, ctx.groups)
            offset = -scale * _group_mean(weight * dz_mean, ctx.groups) - slope * mean
            dx_part.copy_(torch.addcmul(offset, h, slope).addcmul_(dz, scale * weight))
        return dx, d_weight, d_bias, None, None, None


def _pixels(x: Tensor) -> Tensor:
    """(B, C, H, W) in channels_last -> the same memory as (B, HW, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _group_mean(x: Tensor, groups: int) -> Tensor:
    """(B, 1, C): in the place of each channel, the mean over the channels of its group."""
    size = x.shape[-1] // groups
    return x.unflatten(-1, (groups, size)).mean(-1).repeat_interleave(size, dim=-1)


def doubled_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x doubled in height and width by nearest neighbour), for a 3 x 3 convolution."""
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        return F.conv_transpose2d(x, _through_nearest(conv.weight), conv.bias, stride=2, padding=1)
    return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


# The products with a doubled row, summed: how the taps w₀ w₁ w₂ reach from one input to four outputs, twice as dense
SPREAD = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])


def _through_nearest(weight: Tensor) -> Tensor:
    """The 4 x 4 kernel whose transposed convolution of stride 2 is nearest-neighbour doubling and then `weight`.

    (C_out, C_in, 3, 3) -> (C_in, C_out, 4, 4), in channels_last. The 9 pixels under a 3 x 3 kernel are copies of 4;
    adding the weights of copies leaves 4 products of the 9. Measured on a CPU: half the time, at batch 1 too.
    """
    c_out, c_in = weight.shape[:2]
    taps = weight.permute(0, 2, 3, 1).reshape(c_out, 9 * c_in).t().contiguous().view(9, c_in * c_out)
    kernel = torch.kron(SPREAD, SPREAD).to(weight) @ taps
    return kernel.view(4, 4, c_in, c_out).permute(2, 3, 0, 1)
