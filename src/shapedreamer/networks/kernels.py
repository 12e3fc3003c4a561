"""Fast implementations of the operations in which the networks spend their time.

The first line of each docstring says what the function computes. The rest explains how it is made fast; skip it unless
you want to know where the time goes (see benchmarks/). Every implementation is tested against plain PyTorch. Timings
are from 2 CPU cores with bfloat16 instructions.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakIdKeyDictionary

from ..common.device import machine
from ..common.files import cache_folder

# The values that each setting below can have; tuning.py measures which are the fastest on a machine.
SETTINGS = {
    # Some operations process a batch in chunks of about this many elements, which stay in the cache between operations
    "CHUNK_SIZE": (2**18, 2**19, 2**20, 2**21),
    # On a CPU plain matrix products are up to 7 times as fast as the fused kernel in bfloat16, and about equal in
    # float32, up to 1024 tokens (benchmarks/attention.py). The limit is lower because training keeps their (tokens x
    # tokens) matrices in memory: for 64 images, 8 MB per head at 256 tokens and 128 MB per head at 1024 tokens.
    "MAX_PLAIN_ATTENTION_TOKENS": (1, 64, 256),
    # 1 to upsample by a transposed convolution (see upsample_conv), 0 to upsample first and convolve then
    "FUSED_UPSAMPLING": (0, 1),
    # Threads share a batch if each gets at least this many images. With fewer, the fixed costs of each operation
    # outweigh the gain, and the threads share every operation instead (see threads.py)
    "MIN_IMAGES_PER_THREAD": (8, 16, 32, 64),
}
DEFAULTS = {"CHUNK_SIZE": 2**20, "MAX_PLAIN_ATTENTION_TOKENS": 256, "FUSED_UPSAMPLING": 1, "MIN_IMAGES_PER_THREAD": 16}


def settings_file() -> Path:
    """Where the settings are kept, for all machines that share this home folder."""
    return cache_folder() / "machines.json"


def stored_settings() -> dict[str, Any]:
    """The settings by machine; empty if there is no file, or it is damaged."""
    try:
        content = json.loads(settings_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def machine_settings() -> dict[str, int]:
    """The settings of this machine: what the self-test has found, else the defaults."""
    found = stored_settings().get(machine())
    found = found if isinstance(found, dict) else {}
    return {name: found[name] if found.get(name) in values else DEFAULTS[name] for name, values in SETTINGS.items()}


CHUNK_SIZE, MAX_PLAIN_ATTENTION_TOKENS, FUSED_UPSAMPLING, MIN_IMAGES_PER_THREAD = machine_settings().values()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v for (B, heads, tokens, d), by the faster method for this device and number of tokens."""
    heads, tokens = q.shape[1:3]
    if q.device.type != "cpu" or tokens > MAX_PLAIN_ATTENTION_TOKENS:
        return F.scaled_dot_product_attention(q, k, v)
    if torch.compiler.is_compiling():
        return _plain_attention(q, k, v)
    images = max(1, CHUNK_SIZE // (heads * tokens**2))
    chunks = zip(q.split(images), k.split(images), v.split(images), strict=True)
    return torch.cat([_plain_attention(*chunk) for chunk in chunks])


def _plain_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """norm(x), with the faster implementation for this input."""
    if _use_custom_group_norm(norm, x):
        return _GroupNorm.apply(x, *_per_image(norm, x), norm.num_groups, norm.eps, False)
    return norm(x)


def group_norm_silu(norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
    """SiLU(norm(x) · (1 + scale) + shift), with the faster implementation for this input.

    scale, shift: both (B, C) or both None, which leaves them out
    """
    if _use_custom_group_norm(norm, x):
        return _GroupNorm.apply(x, *_per_image(norm, x, scale, shift), norm.num_groups, norm.eps, True)
    h = norm(x)
    if scale is not None and shift is not None:
        h = h * (1 + scale)[:, :, None, None] + shift[:, :, None, None]
    return F.silu(h)


def _per_image(
    norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The factor and offset of each image's channels after normalisation, (B, 1, C) each."""
    weight: Tensor = norm.weight
    bias: Tensor = norm.bias
    if scale is not None and shift is not None:
        weight, bias = weight * (1 + scale), torch.addcmul(shift, bias, 1 + scale)
    B, C = x.shape[:2]
    return weight.view(-1, 1, C).expand(B, 1, C), bias.view(-1, 1, C).expand(B, 1, C)


def _use_custom_group_norm(norm: nn.GroupNorm, x: Tensor) -> bool:
    """Whether _GroupNorm is faster: with fewer than 16 channels per group, PyTorch's loops are not vectorised."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and x.is_contiguous(memory_format=torch.channels_last)
        and norm.num_channels < 16 * norm.num_groups
        and not torch.compiler.is_compiling()
    )


class _GroupNorm(torch.autograd.Function):
    """Group normalisation, optionally followed by SiLU, of bfloat16 images in channels_last on a CPU.

    2 to 8 times as fast as PyTorch's, which took a quarter of a training step, and the input of SiLU need not be stored
    (benchmarks/throughput.py). Weight γ and bias β are (B, 1, C), so that each image can have its own. With mean μ and
    standard deviation σ over the n elements of a group in one image:

        x̂ = (x − μ) / σ,  z = γ x̂ + β;  dβ = Σ dz,  dγ = Σ x̂ dz,  dx = (γ dz − Σ γ dz / n − x̂ Σ γ x̂ dz / n) / σ

    The last two terms of dx appear because μ and σ depend on every x of the group.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        ctx.groups, ctx.silu, ctx.images = groups, silu, max(1, CHUNK_SIZE // x.shape[1:].numel())
        out, moments = torch.empty_like(x), []
        chunks = (t.split(ctx.images) for t in (_pixels(x), _pixels(out), weight, bias))
        for x_chunk, out_chunk, gamma, beta in zip(*chunks, strict=True):
            h = x_chunk.float()
            mean = _group_mean(h.mean(1, keepdim=True), groups)
            variance = _group_mean(h.square().mean(1, keepdim=True), groups) - mean.square()
            scale = (variance.clamp(min=0) + eps).rsqrt()
            moments.append(torch.cat([mean, scale], dim=1))
            h = torch.addcmul(beta - mean * scale * gamma, h, scale * gamma)
            out_chunk.copy_(F.silu(h, inplace=True) if silu else h)
        ctx.save_for_backward(x, weight, bias, torch.cat(moments))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, moments = ctx.saved_tensors
        dx, pixels = torch.empty_like(x), x.shape[2] * x.shape[3]
        d_weight, d_bias = [], []
        grad = grad.contiguous(memory_format=torch.channels_last)
        chunks = (t.split(ctx.images) for t in (_pixels(x), _pixels(grad), _pixels(dx), moments, weight, bias))
        for x_chunk, grad_chunk, dx_chunk, moments_chunk, gamma, beta in zip(*chunks, strict=True):
            h, dz, (mean, scale) = x_chunk.float(), grad_chunk.float(), moments_chunk.split(1, dim=1)
            if ctx.silu:
                z = torch.addcmul(beta - mean * scale * gamma, h, scale * gamma)
                dz = torch.ops.aten.silu_backward(dz, z)
            dz_mean = dz.mean(1, keepdim=True)
            xhat_dz_mean = ((dz * h).mean(1, keepdim=True) - mean * dz_mean) * scale
            d_weight.append(pixels * xhat_dz_mean)
            d_bias.append(pixels * dz_mean)
            slope = -scale.square() * _group_mean(gamma * xhat_dz_mean, ctx.groups)
            offset = -scale * _group_mean(gamma * dz_mean, ctx.groups) - slope * mean
            dx_chunk.copy_(torch.addcmul(offset, h, slope).addcmul_(dz, scale * gamma))
        return dx, torch.cat(d_weight), torch.cat(d_bias), None, None, None


def _pixels(x: Tensor) -> Tensor:
    """View (B, C, H, W) in channels_last as (B, HW, C), without a copy."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _group_mean(x: Tensor, groups: int) -> Tensor:
    """Replace each channel of (B, 1, C) by the mean over the channels of its group."""
    size = x.shape[-1] // groups
    return x.unflatten(-1, (groups, size)).mean(-1).repeat_interleave(size, dim=-1)


def upsample_conv(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """conv(x upsampled 2x by nearest neighbour), for a 3 x 3 convolution with padding 1."""
    if FUSED_UPSAMPLING and x.device.type == "cpu" and not torch.compiler.is_compiling():
        kernel = _upsample_kernel if torch.is_grad_enabled() else _cached_upsample_kernel
        return F.conv_transpose2d(x, kernel(conv.weight), conv.bias, stride=2, padding=1)
    return conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


_upsample_kernels = WeakIdKeyDictionary()  # weight -> (its state, its kernel)


def _cached_upsample_kernel(weight: Tensor) -> Tensor:
    """_upsample_kernel(weight), kept until the weight changes: for one image it takes a quarter of a network call."""
    if weight.is_inference():  # which does not count its changes
        return _upsample_kernel(weight)
    state = weight._version, weight.data_ptr(), weight.dtype, torch.is_autocast_enabled("cpu")
    if _upsample_kernels.get(weight, (None,))[0] != state:
        _upsample_kernels[weight] = state, _upsample_kernel(weight)
    kernel: Tensor = _upsample_kernels[weight][1]
    return kernel


# In one dimension: pixel p, repeated as pixels 2p and 2p + 1, contributes to the outputs 2p - 1, 2p, 2p + 1 and 2p + 2.
# One row for each of these outputs says which of the taps w₀, w₁, w₂ are applied to it.
UPSAMPLE_TAPS = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device="cpu")


def _upsample_kernel(weight: Tensor) -> Tensor:
    """The 4 x 4 kernel whose stride-2 transposed convolution equals nearest-neighbour upsampling, then `weight`.

    (C_out, C_in, 3, 3) -> (C_in, C_out, 4, 4), in channels_last. The 9 pixels under a 3 x 3 kernel are copies of only 4
    input pixels. Adding the weights of the copies first leaves 4 of the 9 products. On a CPU this takes half the time,
    at batch size 1 too.
    """
    c_out, c_in = weight.shape[:2]
    taps = weight.permute(0, 2, 3, 1).reshape(c_out, 9 * c_in).t().contiguous().view(9, c_in * c_out)
    kernel = torch.kron(UPSAMPLE_TAPS, UPSAMPLE_TAPS).to(weight) @ taps
    return kernel.view(4, 4, c_in, c_out).permute(2, 3, 0, 1)
