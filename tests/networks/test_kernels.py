"""Every fast way of an operation gives what the plain way gives, forward and backward."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.networks import kernels
from shapedreamer.networks.kernels import PLAIN_ATTENTION_TOKENS, attention, doubled_conv, group_norm, group_norm_silu


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
def test_both_ways_of_attention_give_the_same_output_and_gradient(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fused: list[bool] = []
    sdpa = F.scaled_dot_product_attention

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        fused.append(True)
        return sdpa(q, k, v)

    monkeypatch.setattr(kernels, "PLAIN_ATTENTION_TOKENS", limit)
    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    inputs = [random(2, 3, 9, 4, seed=i).requires_grad_() for i in range(3)]
    out = attention(*inputs)
    assert bool(fused) == (limit == 0)
    assert_close(out, softmax_attention(*inputs), rtol=1e-12, atol=1e-13)
    toward = random(2, 3, 9, 4, seed=9)
    found = torch.autograd.grad((out * toward).sum(), inputs)
    expected = torch.autograd.grad((softmax_attention(*inputs) * toward).sum(), inputs)
    assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, PLAIN_ATTENTION_TOKENS, PLAIN_ATTENTION_TOKENS + 1])
def test_attention_on_both_sides_of_the_threshold(tokens: int) -> None:
    q, k, v = (random(1, 2, tokens, 4, seed=i) for i in range(3))
    assert_close(attention(q, k, v), softmax_attention(q, k, v), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 100, 2**20])
def test_attention_in_pieces_is_attention(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    q, k, v = (random(5, 2, 7, 4, seed=i) for i in range(3))
    assert_close(attention(q, k, v), softmax_attention(q, k, v), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("chunk", [1, 2**20])
@pytest.mark.parametrize(("channels", "groups"), [(8, 8), (16, 4), (32, 32)])
def test_group_norm_in_bfloat16(
    silu: bool, chunk: int, channels: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against float64, forward and every gradient, to what bfloat16 can hold; and it is the fast way that is tested."""
    monkeypatch.setattr(kernels, "CHUNK", chunk)
    norm = nn.GroupNorm(groups, channels)
    with torch.no_grad():
        norm.weight.copy_(1 + 0.3 * random(channels, seed=1))
        norm.bias.copy_(0.3 * random(channels, seed=2))
    exact = nn.GroupNorm(groups, channels).double()
    exact.load_state_dict(norm.state_dict())
    x = (2 * random(3, channels, 6, 4) + 0.5).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    toward = random(3, channels, 6, 4, seed=3)

    out = group_norm_silu(norm, x) if silu else group_norm(norm, x)
    assert out.grad_fn is not None
    assert type(out.grad_fn).__name__ == "_GroupNormBackward"
    assert out.is_contiguous(memory_format=torch.channels_last)
    expected = F.silu(exact(x64)) if silu else exact(x64)
    assert_close(out.double(), expected, rtol=8e-3, atol=8e-3)

    out.backward(toward.bfloat16())
    expected.backward(toward.bfloat16().double())
    for name, mine, theirs in (
        ("x", x.grad, x64.grad),
        ("weight", norm.weight.grad, exact.weight.grad),
        ("bias", norm.bias.grad, exact.bias.grad),
    ):
        assert mine is not None
        assert theirs is not None
        error = (mine.double() - theirs).norm() / theirs.norm()
        assert error < 6e-3, f"gradient of {name} is off by {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_norm_elsewhere_is_torchs_own(dtype: torch.dtype) -> None:
    norm, x = nn.GroupNorm(4, 8).to(dtype), random(2, 8, 5, 3).to(dtype)
    assert torch.equal(group_norm(norm, x), norm(x))
    assert torch.equal(group_norm_silu(norm, x), F.silu(norm(x)))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (4, 4), (3, 5)])
def test_doubling_and_convolving_at_once(height: int, width: int) -> None:
    """Output and every gradient, edges too, where the padding is."""
    conv = nn.Conv2d(6, 5, 3, padding=1).double()
    x = random(2, 6, height, width).requires_grad_()
    out = doubled_conv(conv, x)
    expected = conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert_close(out, expected, rtol=1e-11, atol=1e-12)
    toward, inputs = random(*out.shape, seed=5), [x, *conv.parameters()]
    found, wanted = (torch.autograd.grad((y * toward).sum(), inputs) for y in (out, expected))
    assert_close(found, wanted, rtol=1e-10, atol=1e-11)
