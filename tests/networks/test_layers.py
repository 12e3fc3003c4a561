"""Each layer against its formula, written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.networks.layers import Attention, Downsample, ResBlock, TimeEmbedding, Upsample, time_features


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module) -> nn.Module:
    """Give the module random float64 weights, so that no term of a formula is 0 or 1."""
    module = module.double()
    for i, p in enumerate(module.parameters()):
        with torch.no_grad():
            p.copy_(0.5 * random(*p.shape, seed=100 + i))
    return module


# time


@pytest.mark.parametrize("dim", [2, 8, 32])
def test_time_features_by_hand(dim: int) -> None:
    t = torch.tensor([0, 1, 17, 1000])
    features = time_features(t, dim)
    assert features.shape == (4, dim)
    assert features.dtype == torch.float32
    half = dim // 2
    for i, time in enumerate(t.tolist()):
        for k in range(half):
            angle = time * 10000 ** (-k / half)
            assert features[i, k].item() == pytest.approx(math.cos(angle), abs=2e-4)
            assert features[i, half + k].item() == pytest.approx(math.sin(angle), abs=2e-4)


def test_time_features_of_different_timesteps_are_far_apart() -> None:
    features = time_features(torch.arange(1001), 32)
    distance = torch.cdist(features, features) + 9 * torch.eye(1001)
    assert distance.min() > 0.1


def test_time_embedding_is_a_two_layer_perceptron_on_the_features() -> None:
    module = TimeEmbedding(8, 12)
    t = torch.tensor([3, 500])
    hidden = time_features(t, 8) @ module.linear1.weight.T + module.linear1.bias
    expected = hidden * torch.sigmoid(hidden) @ module.linear2.weight.T + module.linear2.bias
    assert_close(module(t), expected)
    assert module.double()(t).dtype == torch.float64


# attention


def softmax_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            weight = torch.exp(q[b, h] @ k[b, h].T / math.sqrt(q.shape[-1]))
            out[b, h] = weight @ v[b, h] / weight.sum(1, keepdim=True)
    return out


def test_attention_matches_its_formula() -> None:
    module = randomise(Attention(8, head_dim=4, groups=2))
    assert isinstance(module, Attention)
    x = random(2, 8, 3, 5)
    tokens = F.group_norm(x, 2, module.norm.weight, module.norm.bias).flatten(2).mT
    q, k, v = (tokens @ w.T + b for w, b in zip(module.qkv.weight.chunk(3), module.qkv.bias.chunk(3), strict=True))
    heads = [softmax_attention(*(part[:, None, :, i : i + 4] for part in (q, k, v)))[:, 0] for i in (0, 4)]
    mixed = torch.cat(heads, dim=2) @ module.out.weight.T + module.out.bias
    assert_close(module(x), x + mixed.mT.reshape(2, 8, 3, 5), rtol=1e-11, atol=1e-12)


def test_attention_is_equivariant_to_permuting_the_pixels() -> None:
    module = randomise(Attention(4, head_dim=2, groups=1))
    x = random(2, 4, 3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    shuffled = x.flatten(2)[:, :, order].view_as(x)
    assert_close(module(shuffled), module(x).flatten(2)[:, :, order].view_as(x), rtol=1e-11, atol=1e-12)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="48 channels cannot be split into heads of 32"):
        Attention(48, head_dim=32, groups=16)


# blocks


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("c_out", [4, 6])
def test_res_block_matches_its_formula(scale_shift: bool, c_out: int) -> None:
    module = randomise(ResBlock(4, c_out, time_dim=5, groups=2, scale_shift=scale_shift))
    assert isinstance(module, ResBlock)
    x, time = random(2, 4, 3, 5), random(2, 5, seed=1)
    norm1, norm2 = module.norm1, module.norm2
    assert module.time is not None

    h = F.conv2d(
        F.silu(F.group_norm(x, 2, norm1.weight, norm1.bias)), module.conv1.weight, module.conv1.bias, padding=1
    )
    embedding = (F.silu(time) @ module.time.weight.T + module.time.bias)[:, :, None, None]
    if scale_shift:
        h = F.group_norm(h, 2, norm2.weight, norm2.bias) * (1 + embedding[:, :c_out]) + embedding[:, c_out:]
    else:
        h = F.group_norm(h + embedding, 2, norm2.weight, norm2.bias)
    h = F.conv2d(F.silu(h), module.conv2.weight, module.conv2.bias, padding=1)
    skip = x
    if c_out != 4:
        assert isinstance(module.skip, nn.Conv2d)
        skip = F.conv2d(x, module.skip.weight, module.skip.bias)
    assert_close(module(x, time), skip + h, rtol=1e-11, atol=1e-12)


def test_dropout_is_active_only_in_training() -> None:
    module = ResBlock(4, 4, time_dim=5, groups=2, dropout=0.5)
    x, time = random(1, 4, 8, 8).float(), random(1, 5).float()
    torch.manual_seed(0)
    assert not torch.equal(module(x, time), module(x, time))
    module.eval()
    assert torch.equal(module(x, time), module(x, time))


def test_downsample_is_a_strided_convolution() -> None:
    module = Downsample(3)
    x = random(2, 3, 8, 6).float()
    assert module(x).shape == (2, 3, 4, 3)
    assert_close(module(x), F.conv2d(x, module.conv.weight, module.conv.bias, stride=2, padding=1))


def test_upsample_repeats_each_pixel_and_then_convolves() -> None:
    module = Upsample(3)
    x = random(2, 3, 4, 3).float()
    repeated = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert module(x).shape == (2, 3, 8, 6)
    assert_close(module(x), F.conv2d(repeated, module.conv.weight, module.conv.bias, padding=1))


@pytest.mark.parametrize("module", [Attention(8, 4, 2), Downsample(8), Upsample(8)])
def test_the_memory_layout_does_not_change_the_output(module: nn.Module) -> None:
    randomise(module)
    x = random(2, 8, 6, 4)
    assert_close(module(x.contiguous(memory_format=torch.channels_last)), module(x), rtol=1e-11, atol=1e-12)
