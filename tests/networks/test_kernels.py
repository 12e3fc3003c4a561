"""Every fast implementation agrees with plain PyTorch, forward and backward."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.networks import kernels
from shapedreamer.networks.kernels import (
    MAX_PLAIN_ATTENTION_TOKENS,
    attention,
    group_norm,
    group_norm_silu,
    upsample_conv,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            weight = torch.exp(q[b, h] @ k[b, h].T / math.sqrt(q.shape[-1]))
            out[b, h] = weight @ v[b, h] / weight.sum(1, keepdim=True)
    return out


@pytest.mark.parametrize("limit", [0, 10**6])
def test_plain_and_fused_attention_agree_forward_and_backward(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fused: list[bool] = []
    sdpa = F.scaled_dot_product_attention

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        fused.append(True)
        return sdpa(q, k, v)

    monkeypatch.setattr(kernels, "MAX_PLAIN_ATTENTION_TOKENS", limit)
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    inputs = [random(2, 3, 9, 4, seed=i).requires_grad_() for i in range(3)]
    out = attention(*inputs)
    assert bool(fused) == (limit == 0)
    assert_close(out, softmax_attention(*inputs), rtol=1e-12, atol=1e-13)
    cotangent = random(2, 3, 9, 4, seed=9)
    found = torch.autograd.grad((out * cotangent).sum(), inputs)
    expected = torch.autograd.grad((softmax_attention(*inputs) * cotangent).sum(), inputs)
    assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, MAX_PLAIN_ATTENTION_TOKENS, MAX_PLAIN_ATTENTION_TOKENS + 1])
def test_attention_on_both_sides_of_the_threshold(tokens: int) -> None:
    q, k, v = (random(1, 2, tokens, 4, seed=i) for i in range(3))
    assert_close(attention(q, k, v), softmax_attention(q, k, v), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
def test_attention_in_chunks_equals_attention_at_once(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CHUNK_SIZE", chunk)
    q, k, v = (random(5, 2, 7, 4, seed=i) for i in range(3))
    assert_close(attention(q, k, v), softmax_attention(q, k, v), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("chunk", [1, 2**20])
@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (16, 4), (32, 32)])
def test_group_norm_in_bfloat16(
    silu: bool, chunk: int, channels: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Output and gradients agree with float64 to bfloat16 precision, and the fast implementation is the one tested."""
    monkeypatch.setattr(kernels, "CHUNK_SIZE", chunk)
    norm = nn.GroupNorm(groups, channels)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * random(channels, seed=1))
        norm.bias.copy_(0.3 * random(channels, seed=2))
    exact = nn.GroupNorm(groups, channels).double()
    exact.load_state_dict(norm.state_dict())
    x = (2 * random(3, channels, 6, 4) + 0.5).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    cotangent = random(3, channels, 6, 4, seed=3)

    out = group_norm_silu(norm, x) if silu else group_norm(norm, x)
    assert out.grad_fn is not None
    assert type(out.grad_fn).__name__ == "_GroupNormBackward"
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = F.silu(exact(x64)) if silu else exact(x64)
    assert_close(out.double(), expected, rtol=8e-3, atol=8e-3)

    out.backward(cotangent.bfloat16())
    expected.backward(cotangent.bfloat16().double())
    for name, found, wanted in (
        ("x", x.grad, x64.grad),
        ("weight", norm.weight.grad, exact.weight.grad),
        ("bias", norm.bias.grad, exact.bias.grad),
    ):
        assert found is not None
        assert wanted is not None
        error = (found.double() - wanted).norm() / wanted.norm()
        assert error < 6e-3, f"gradient of {name} is off by {error:.1e}"


@pytest.mark.parametrize("chunk", [1, 2**20])
def test_group_norm_scaled_and_shifted_in_each_image(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, output and gradients agree with float64, which plain PyTorch computes."""
    monkeypatch.setattr(kernels, "CHUNK_SIZE", chunk)
    norm, exact = nn.GroupNorm(4, 16), nn.GroupNorm(4, 16).double()
    with torch.no_grad():
        for parameter, wanted in zip(norm.parameters(), exact.parameters(), strict=True):
            wanted.copy_(parameter.add_(0.3 * random(16, seed=1)))
    images = random(3, 16, 6, 4).bfloat16().contiguous(memory_format=torch.channels_last)
    conditioning = [random(3, 16, seed=seed).bfloat16() for seed in (2, 3)]
    cotangent = random(3, 16, 6, 4, seed=4)
    results = []
    for module, inputs in (
        (norm, [images, *conditioning]),
        (exact, [images.double(), *(c.double() for c in conditioning)]),
    ):
        inputs = [x.detach().requires_grad_() for x in inputs]
        out = group_norm_silu(module, *inputs)
        results.append([out, *torch.autograd.grad(out, [*inputs, *module.parameters()], cotangent.to(out.dtype))])
    scale, shift = (c.double()[:, :, None, None] for c in conditioning)
    assert_close(results[1][0], F.silu(exact(images.double()) * (1 + scale) + shift), rtol=1e-12, atol=1e-12)
    for found, wanted in zip(*results, strict=True):
        assert (found.double() - wanted).norm() / wanted.norm() < 8e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_norm_in_other_dtypes_is_that_of_pytorch(dtype: torch.dtype) -> None:
    norm, x = nn.GroupNorm(4, 8).to(dtype), random(2, 8, 5, 3).to(dtype)
    assert torch.equal(group_norm(norm, x), norm(x))
    assert torch.equal(group_norm_silu(norm, x), F.silu(norm(x)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (3, 5)])
def test_upsample_conv_equals_interpolation_then_convolution(height: int, width: int) -> None:
    """Output and gradients, including the edges, where the padding is."""
    conv = nn.Conv2d(6, 5, 3, padding=1).double()
    x = random(2, 6, height, width).requires_grad_()
    out = upsample_conv(conv, x)
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert_close(out, expected, rtol=1e-11, atol=1e-12)
    cotangent, inputs = random(*out.shape, seed=5), [x, *conv.parameters()]
    found, wanted = (torch.autograd.grad((y * cotangent).sum(), inputs) for y in (out, expected))
    assert_close(found, wanted, rtol=1e-10, atol=1e-11)
