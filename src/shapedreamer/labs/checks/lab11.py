"""The checks of lab 11: the parts of the U-Net and of the transformer, compared with the package's layers."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...networks.dit import Block as TransformerBlock
from ...networks.dit import rotations
from ...networks.layers import Attention, ResBlock, TimeEmbedding
from ...networks.unet import Block, UNet
from ..verdict import AnswerError, call, exercise, same

B = 3


def _randomise(module: nn.Module) -> None:
    """Give norms and biases values that matter; they start as 1 and 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.requires_grad_(False)
            if parameter.ndim == 1 or not parameter.any():  # a head's last convolution starts at 0
                parameter.add_(0.5 * torch.randn_like(parameter))


@exercise
def time_features(answer: Any) -> str:
    """Random timesteps and an even dim."""
    half = 4 + int(torch.randint(5, ()))
    t = torch.randint(3, 1001, (B,))
    k = torch.arange(half, dtype=torch.float64)

    def features(frequency: Tensor, time: Tensor = t) -> tuple[Tensor, Tensor]:
        angle = time.double()[:, None] * frequency
        return angle.cos(), angle.sin()

    frequency = 10000 ** (-k / half)
    cos, sin = features(frequency)

    def both(frequency: Tensor) -> Tensor:
        return torch.cat(features(frequency), dim=1)

    yours = call(answer, t, 2 * half)
    if isinstance(yours, Tensor) and yours.shape == (B, half):
        raise AnswerError(f"you return dim/2 = {half} features; cosines and sines side by side are dim = {2 * half}")
    if isinstance(yours, Tensor) and yours.shape == (B, 4 * half):
        raise AnswerError("you return 2·dim features; there are dim/2 frequencies, each with a cosine and a sine")
    same(
        yours,
        torch.cat([cos, sin], dim=1),
        "these are not cos(ω_k t) and then sin(ω_k t), with ω_k = 10000^(−k/half)",
        {
            "sines come first in yours; here the cosines come first": torch.cat([sin, cos], dim=1),
            "cosines and sines alternate in yours; all cosines come first, then all sines": (
                torch.stack([cos, sin], dim=2).flatten(1)
            ),
            "your frequencies go from slow to fast; the first is 1": torch.cat([cos.flip(1), sin.flip(1)], dim=1),
            "your frequencies grow: the exponent is −k/half": both(10000 ** (k / half)),
            "you divide k by dim; divide it by half = dim/2": both(10000 ** (-k / (2 * half))),
            "you divide k by half − 1; divide it by half": both(10000 ** (-k / (half - 1))),
            "you do not multiply by t": torch.cat([frequency.cos(), frequency.sin()]).expand(B, -1),
            "there is a factor 2π too much: the angle is ω_k t": both(2 * math.pi * frequency),
            "this uses the base e; the base is 10000": both((-k / half).exp()),
            "these are the angles; take their cosines and sines": torch.cat([t.double()[:, None] * frequency] * 2, 1),
        },
        tol=2e-3,
    )
    return "Fast waves tell neighbours apart, slow waves tell early from late."


@exercise
def group_norm(answer: Any) -> str:
    """Random groups, weight, bias and a small input, for which ε matters."""
    groups, each = 3, 2 + int(torch.randint(2, ()))
    C, eps = groups * each, 0.02
    x = 0.3 * torch.randn(B, C, 3, 4) * (1 + torch.rand(C, 1, 1)) + torch.rand(C, 1, 1)
    weight, bias = 0.5 + torch.rand(C), torch.randn(C)
    d, w, b = x.double(), weight.double().view(1, C, 1, 1), bias.double().view(1, C, 1, 1)

    def normal(g: Tensor, dims: tuple[int, ...], unbiased: bool = False, how: str = "inside") -> Tensor:
        mean, variance = g.mean(dims, keepdim=True), g.var(dims, unbiased=unbiased, keepdim=True)
        divisor = {
            "inside": (variance + eps).sqrt(),
            "outside": variance.sqrt() + eps,
            "none": variance.sqrt(),
            "no root": variance + eps,
        }[how]
        return (g - mean) / divisor

    def grouped(**how: Any) -> Tensor:
        return normal(d.reshape(B, groups, -1), (2,), **how).view_as(d)

    strided = d.view(B, each, groups, -1).transpose(1, 2).reshape(B, groups, -1)
    strided = normal(strided, (2,)).view(B, groups, each, -1).transpose(1, 2).reshape(d.shape)
    centred = d.reshape(B, groups, -1)
    same(
        call(answer, x, groups, weight, bias, eps),
        w * grouped() + b,
        "this is not group normalisation: normalise each group of each image over its channels and pixels",
        {
            "you normalise each channel alone (instance norm); a group has C/groups channels": (
                w * normal(d, (2, 3)) + b
            ),
            "you normalise over all channels (layer norm); each group has statistics of its own": (
                w * normal(d, (1, 2, 3)) + b
            ),
            "you normalise over the batch (batch norm); one image must not influence another": (
                w * normal(d, (0, 2, 3)) + b
            ),
            "you normalise over the channels of a group at each pixel; the statistics are over its pixels too": (
                w * normal(d.view(B, groups, each, 3, 4), (2,)).view_as(d) + b
            ),
            "weight and bias are missing": grouped(),
            "the bias is missing": w * grouped(),
            "the weight is missing": grouped() + b,
            "you divide by n − 1; use unbiased=False, which divides by n": w * grouped(unbiased=True) + b,
            "ε is outside the root; it is added to the variance": w * grouped(how="outside") + b,
            "ε is missing: it is added to the variance": w * grouped(how="none") + b,
            "you divide by the variance; the root is missing": w * grouped(how="no root") + b,
            "your groups take every third channel; a group has neighbouring channels": w * strided + b,
            "you do not subtract the mean": w
            * (centred / (centred.var(2, unbiased=False, keepdim=True) + eps).sqrt()).view_as(d)
            + b,
        },
        tol=1e-4,
    )
    return "Whatever the size of the input, the output has the size that weight and bias give it."


@exercise
def scale_shift(answer: Any) -> str:
    """Random features and embeddings."""
    C = 3
    h, embedding = torch.randn(B, C, 4, 5), torch.randn(B, 2 * C)
    scale, shift = embedding[:, :, None, None].chunk(2, dim=1)
    even, odd = embedding[:, ::2, None, None], embedding[:, 1::2, None, None]
    yours = call(answer, h, embedding)
    same(
        yours,
        (1 + scale) * h + shift,
        "this is not (1 + scale)·h + shift",
        {
            "the 1 is missing: with scale 0 the features must pass unchanged": scale * h + shift,
            "scale and shift are swapped: the first C numbers are the scale": (1 + shift) * h + scale,
            "you shift before you scale; multiply first, then add": (1 + scale) * (h + shift),
            "scale and shift do not alternate: the first C numbers are the scale, the others the shift": (
                (1 + even) * h + odd
            ),
            "the shift is missing": (1 + scale) * h,
            "the scale is missing": h + shift,
            "you subtract the shift; add it": (1 + scale) * h - shift,
            "you use the embedding of the first image for all images": (1 + scale[:1]) * h + shift[:1],
            "you average the embedding over the batch; each image has its own": (
                (1 + scale.mean(0, keepdim=True)) * h + shift.mean(0, keepdim=True)
            ),
        },
    )
    return "FiLM, AdaGN and adaLN are names of this line at different places of a network."


def _res(
    block: ResBlock,
    x: Tensor,
    time: Tensor,
    *,
    act1: bool = True,
    act2: bool = True,
    time_act: bool = True,
    use_time: bool = True,
    skip: bool = True,
    norm1: bool = True,
    norm2: bool = True,
    late: bool = False,
    post: bool = False,
    one: bool = True,
    other: bool = False,
) -> Tensor:
    """A residual block, with faults to choose from."""

    def silu(h: Tensor, on: bool) -> Tensor:
        return F.silu(h) if on else h

    assert block.time is not None
    h = block.norm1(silu(x, True)) if post else silu(block.norm1(x) if norm1 else x, act1)
    h = block.conv1(h)
    embedding = block.time(silu(time, time_act))[:, :, None, None] * use_time
    if block.scale_shift:
        scale, shift = embedding.chunk(2, dim=1)
        if late:
            h = (one + scale) * silu(block.norm2(h), act2) + shift
        elif other:
            h = silu(block.norm2((one + scale) * h + shift), act2)
        else:
            h = silu((one + scale) * (block.norm2(h) if norm2 else h) + shift, act2)
    elif late:
        h = silu(block.norm2(h), act2) + embedding
    elif other:
        h = silu(block.norm2(h) + embedding, act2)
    else:
        h = silu(block.norm2(h + embedding) if norm2 else h + embedding, act2)
    h = block.conv2(h)
    return block.skip(x) + h if skip else h


RES_FAULTS: dict[str, dict[str, bool]] = {
    "the skip path is missing: add block.skip(x)": {"skip": False},
    "the first SiLU is missing, between norm1 and conv1": {"act1": False},
    "the second SiLU is missing, before conv2": {"act2": False},
    "both SiLUs of the main path are missing": {"act1": False, "act2": False},
    "the SiLU on the embedding is missing: block.time(F.silu(time))": {"time_act": False},
    "the embedding of t is not used": {"use_time": False},
    "you apply SiLU before norm1; the norm comes first": {"post": True},
    "norm1 is missing": {"norm1": False},
    "norm2 is missing": {"norm2": False},
    "the embedding comes too late: it enters before the second SiLU": {"late": True},
}


@exercise
def res_block(answer: Any) -> str:
    """Random blocks with and without scale_shift, with and without a change of the number of channels."""
    x, time = torch.randn(B, 4, 6, 6), torch.randn(B, 5)
    for c_out in (4, 6):
        for scaled in (False, True):
            block = ResBlock(4, c_out, 5, groups=2, scale_shift=scaled)
            _randomise(block)
            try:
                yours = call(answer, block, x, time)
            except AnswerError as error:
                if "must match the size" in error.message and c_out != 4:
                    message = f"add block.skip(x), not x: this block turns 4 channels into {c_out} ({error.message})"
                    raise AnswerError(message) from None
                raise
            right = block(x, time)
            where = "with scale_shift" if scaled else "without scale_shift"
            mistakes = {text: _res(block, x, time, **fault) for text, fault in RES_FAULTS.items()}
            if scaled:
                mistakes["with scale_shift: norm2 comes first, then scale and shift"] = _res(block, x, time, other=True)
                mistakes["with scale_shift: the 1 in (1 + scale) is missing"] = _res(block, x, time, one=False)
            else:
                mistakes["without scale_shift: the embedding is added before norm2, not after it"] = _res(
                    block, x, time, other=True
                )
            if c_out == 4:
                mistakes["the skip path is used twice"] = right + x
            else:
                mistakes["the input of the skip path is x, not the output of norm1"] = (
                    right - block.skip(x) + block.skip(block.norm1(x))
                )
            same(yours, right, f"{where}, this is not the output of the block", mistakes)
    return "Most of the network's parameters are in such blocks."


def _attend(
    layer: Attention,
    x: Tensor,
    *,
    root: float | None = None,
    dim: int = -1,
    residual: bool = True,
    norm: bool = True,
    out: bool = True,
    softmax: bool = True,
    merge: bool = True,
    back: bool = True,
    tokens_by_view: bool = False,
    swap: bool = False,
) -> Tensor:
    """Attention, with faults to choose from."""
    N, C, H, W = x.shape
    normal = layer.norm(x) if norm else x
    tokens = normal.reshape(N, H * W, C) if tokens_by_view else normal.flatten(2).transpose(1, 2)
    q, k, v = layer.qkv(tokens).view(N, H * W, 3, layer.heads, C // layer.heads).permute(2, 0, 3, 1, 4)
    if swap:
        q, k = k, q
    z = q @ k.transpose(2, 3) / (q.shape[-1] ** 0.5 if root is None else root)
    mixed = (z.softmax(dim) if softmax else z) @ v
    mixed = mixed.transpose(1, 2).reshape(N, H * W, C) if merge else mixed.reshape(N, H * W, C)
    mixed = layer.out(mixed) if out else mixed
    image = mixed.transpose(1, 2).reshape(N, C, H, W) if back else mixed.reshape(N, C, H, W)
    return x + image if residual else image


@exercise
def attention(answer: Any) -> str:
    """A random layer with two heads, on images that are not square."""
    layer = Attention(6, head_dim=3, groups=2)
    _randomise(layer)
    with torch.no_grad():
        layer.qkv.weight.mul_(3)  # sharp attention, so that every mistake shows
    x = torch.randn(B, 6, 3, 4)
    yours = call(answer, layer, x)
    mistakes = {
        "the division by √d is missing": _attend(layer, x, root=1.0),
        "you divide by √C; divide by √d, d the numbers in a head": _attend(layer, x, root=6**0.5),
        "you divide by d; divide by its root": _attend(layer, x, root=3.0),
        "your softmax goes over the queries; it goes over the keys, the last dimension": _attend(layer, x, dim=-2),
        "there is no softmax": _attend(layer, x, softmax=False),
        "the input is not added at the end": _attend(layer, x, residual=False),
        "the norm is missing: tokens come from layer.norm(x)": _attend(layer, x, norm=False),
        "layer.out is missing": _attend(layer, x, out=False),
        "the heads are not side by side again: .transpose(1, 2) before the reshape to (B, H·W, C)": _attend(
            layer, x, merge=False
        ),
        "tokens and image: .view scrambles pixels and channels; flatten the pixels, then .transpose(1, 2)": _attend(
            layer, x, tokens_by_view=True
        ),
        "back to an image: .transpose(1, 2) first, then .view(B, C, H, W)": _attend(layer, x, back=False),
        "both to tokens and back you need .transpose(1, 2); .view scrambles pixels and channels": _attend(
            layer, x, tokens_by_view=True, back=False
        ),
        "q and k are swapped: q @ k.transpose(2, 3)": _attend(layer, x, swap=True),
    }
    same(yours, layer(x), "this is not the output of the layer", mistakes, tol=1e-3)
    return "Every pixel read from every other one, in a single layer."


def _transform(
    block: TransformerBlock,
    h: Tensor,
    time: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    act: bool = True,
    one: bool = True,
    order: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    gates: tuple[bool, bool] = (True, True),
    one_gate: bool = False,
    residual: tuple[bool, bool] = (True, True),
    qk_norm: bool = True,
    rotate: tuple[bool, bool, bool] = (True, True, False),
    back: bool = False,
    alternate: bool = False,
    norm_after: bool = False,
    merge: bool = True,
    silu: bool = True,
    fresh: bool = True,
    norm: bool = True,
) -> Tensor:
    """A block of the transformer, with faults to choose from."""
    B, N, width = h.shape
    vectors = block.time(F.silu(time) if act else time)[:, None].chunk(6, dim=2)
    shift1, scale1, gate1, shift2, scale2, gate2 = (vectors[i] for i in order)

    def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (one + scale) * (F.layer_norm(h, (width,)) if norm else h) + shift

    def turn(x: Tensor) -> Tensor:
        sine = -sin if back else sin
        if alternate:
            a, b = x[..., ::2], x[..., 1::2]
            return torch.stack([a * cos - b * sine, a * sine + b * cos], dim=-1).flatten(-2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sine, a * sine + b * cos], dim=-1)

    parts = block.qkv(modulate(h, shift1, scale1)).view(B, N, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = parts
    if qk_norm and not norm_after:
        q, k = (F.layer_norm(part, part.shape[-1:]) for part in (q, k))
    q, k, v = (turn(part) if on else part for part, on in zip((q, k, v), rotate, strict=True))
    if norm_after:
        q, k = (F.layer_norm(part, part.shape[-1:]) for part in (q, k))
    mixed = F.scaled_dot_product_attention(q, k, v)
    mixed = block.out((mixed.transpose(1, 2) if merge else mixed).reshape(B, N, width))
    start = h
    h = (h if residual[0] else 0) + (one_gate + gate1 if gates[0] else 1) * mixed
    hidden = block.linear1(modulate(h if fresh else start, shift2, scale2))
    added = block.linear2(F.silu(hidden) if silu else hidden)
    return (h if residual[1] else 0) + (one_gate + gate2 if gates[1] else 1) * added


TRANSFORMER_FAULTS: dict[str, dict[str, Any]] = {
    "the SiLU on the embedding is missing: block.time(F.silu(time))": {"act": False},
    "the 1 in (1 + scale) is missing": {"one": False},
    "scale and shift are swapped: the shift comes first": {"order": (1, 0, 2, 4, 3, 5)},
    "the gates are missing: multiply what is added by gate1 and gate2": {"gates": (False, False)},
    "gate1 is missing: multiply the output of block.out by it": {"gates": (False, True)},
    "gate2 is missing: multiply the output of block.linear2 by it": {"gates": (True, False)},
    "you multiply by 1 + gate; with the gate alone, the block starts as the identity": {"one_gate": True},
    "gate1 and gate2 are swapped": {"order": (0, 1, 5, 3, 4, 2)},
    "h is not added after attention: h + gate1 · …": {"residual": (False, True)},
    "h is not added after the perceptron: h + gate2 · …": {"residual": (True, False)},
    "the layer norm of q and k is missing": {"qk_norm": False},
    "you rotate q and k before their layer norm; the norm comes first": {"norm_after": True},
    "q and k are not rotated": {"rotate": (False, False, False)},
    "you rotate q only; k is rotated too": {"rotate": (True, False, False)},
    "you rotate k only; q is rotated too": {"rotate": (False, True, False)},
    "you rotate v as well; only q and k are rotated": {"rotate": (True, True, True)},
    "you rotate the other way round: (x₁ cos − x₂ sin, x₁ sin + x₂ cos)": {"back": True},
    "your pairs are neighbours; a pair has one number from the first half of the head and one from the second": {
        "alternate": True
    },
    "the heads are not side by side again: .transpose(1, 2) before the reshape to (B, N, width)": {"merge": False},
    "the SiLU between linear1 and linear2 is missing": {"silu": False},
    "the perceptron gets the h from before attention; it gets the new one": {"fresh": False},
    "the layer norm of h is missing": {"norm": False},
}


@exercise
def transformer_block(answer: Any) -> str:
    """A random block with two heads, on tokens of an image that is not square."""
    block = TransformerBlock(16, 8)
    _randomise(block)
    with torch.no_grad():
        block.qkv.weight.mul_(2)
        block.time.weight.mul_(2)
    h, time = torch.randn(B, 12, 16), torch.randn(B, 8)
    cos, sin = rotations(3, 4, 8, torch.device("cpu"))
    right = block(h, time, cos, sin)

    def forbidden(*arguments: Any, **named: Any) -> Tensor:
        raise AnswerError("you call the block itself; write it out with the layers inside")

    block.forward = forbidden  # type: ignore[method-assign]
    yours = call(answer, block, h, time, cos, sin)
    mistakes = {text: _transform(block, h, time, cos, sin, **fault) for text, fault in TRANSFORMER_FAULTS.items()}
    same(yours, right, "the shape is right, but this is not the output of the block", mistakes, tol=1e-3)
    return "A diffusion transformer is a stack of such blocks, between two convolutions."


def _forbid(network: UNet) -> None:
    """Make the parts that the exam asks for raise an error when they are called."""
    names = {
        UNet: "the network itself",
        Block: "a block of the network, with its residual block and its attention",
        ResBlock: "the network's residual block",
        Attention: "the network's attention",
        TimeEmbedding: "the network's time embedding",
    }

    def forbidden(name: str) -> Any:
        def forward(*arguments: Any, **named: Any) -> Tensor:
            raise AnswerError(f"you call {name}; use your own function, or write it out with the layers inside")

        return forward

    for module in network.modules():
        if type(module) in names:
            module.forward = forbidden(names[type(module)])


def _wire(
    net: UNet,
    x: Tensor,
    t: Tensor,
    *,
    queue: bool = False,
    first: bool = False,
    middle: bool = True,
    attend: bool = True,
    last_act: bool = True,
    head: bool = True,
    norm_out: bool = True,
    time_act: bool = True,
    time: bool = True,
) -> Tensor:
    """The UNet's forward, with faults to choose from."""
    features = net.time.linear1(_features(t, net.time.dim))
    embedding = net.time.linear2(F.silu(features) if time_act else features) * time

    def run(layer: Any, h: Tensor) -> Tensor:
        if not hasattr(layer, "res"):
            return layer(h)
        h = _res(layer.res, h, embedding)
        return _attend(layer.attend, h) if attend and hasattr(layer.attend, "heads") else h

    h = net.conv_in(F.pixel_unshuffle(x, net.patch))
    skips = [h]
    for layer in net.down:
        h = run(layer, h)
        skips.append(h)
    for layer in net.middle if middle else []:
        h = run(layer, h)
    for layer in net.up:
        if hasattr(layer, "res"):
            skip = skips.pop(0) if queue else skips.pop()
            h = torch.cat([skip, h] if first else [h, skip], dim=1)
        h = run(layer, h)
    h = net.norm_out(h) if norm_out else h
    h = F.pixel_shuffle(net.conv_out(F.silu(h) if last_act else h), net.patch)
    return h if net.head is None or not head else net.head(x, h, embedding)


def _features(t: Tensor, dim: int) -> Tensor:
    angle = t.float()[:, None] * 10000 ** (-torch.arange(dim // 2) / (dim // 2))
    return torch.cat([angle.cos(), angle.sin()], dim=1)


EXAM_FAULTS: dict[str, dict[str, bool]] = {
    "the skips are in the wrong order: the way up takes the latest unused one, skips.pop()": {"queue": True},
    "in torch.cat, h comes first, then the skip": {"first": True},
    "the middle of the network is missing": {"middle": False},
    "you leave out the attention: run layer.attend if it has `heads`": {"attend": False},
    "the SiLU between norm_out and conv_out is missing": {"last_act": False},
    "norm_out is missing": {"norm_out": False},
    "norm_out and the SiLU after it are missing": {"norm_out": False, "last_act": False},
    "the SiLU between linear1 and linear2 of the time embedding is missing": {"time_act": False},
    "the embedding of t is not used": {"time": False},
    "the head is missing: if net.head is not None, it makes the output from x, the prediction and the embedding": {
        "head": False
    },
}


@exercise
def exam(answer: Any) -> str:
    """Small random UNets whose blocks cannot be called as a whole: first one with a single level, then with two."""
    patch, scaled = 1 + int(torch.randint(2, ())), bool(torch.rand(()) < 0.5)
    x, t = torch.randn(B, 1, 8, 8), torch.randint(1, 1001, (B,))
    for channels, blocks in (((8,), 2), ((8, 8), 1)):
        last = len(channels) - 1
        options: dict[str, Any] = {"attention": (last,), "head_dim": 4, "groups": 4, "scale_shift": scaled}
        net = UNet(1, channels, blocks, **options, patch=patch, head=8 * last)
        _randomise(net)
        right = net(x, t)
        _forbid(net)
        yours = call(answer, net, x, t)
        # with two levels, skips in the wrong order do not fit together
        unsuitable = "queue" if last else "head"  # the net with one level has no head
        faults = {text: fault for text, fault in EXAM_FAULTS.items() if unsuitable not in fault}
        mistakes = {text: _wire(net, x, t, **fault) for text, fault in faults.items()}
        same(yours, right, "the shape is right, but this is not the output of the network", mistakes, tol=1e-3)
    return "There is nothing else in a U-Net."
