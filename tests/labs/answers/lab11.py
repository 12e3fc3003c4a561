"""Right and wrong answers to lab 11."""

import math

import torch
import torch.nn.functional as F

from tests.labs.answers import Answers


def features_by_loop(t, dim):
    half = dim // 2
    rows = [[f(time * 10000 ** (-k / half)) for f in (math.cos, math.sin) for k in range(half)] for time in t.tolist()]
    return torch.tensor(rows, dtype=torch.float64)


class Features:
    def __call__(self, t, dim):
        out = torch.zeros(len(t), dim)
        angle = torch.outer(t.float(), torch.exp(-math.log(10000) * torch.arange(dim // 2) / (dim // 2)))
        out[:, : dim // 2] = angle.cos()
        out[:, dim // 2 :] = angle.sin()
        return out


def _features(exponent=lambda k, half: -k / half, order=lambda c, s: torch.cat([c, s], 1), base=10000, factor=1.0):
    def answer(t, dim):
        k, half = torch.arange(dim // 2).double(), dim // 2
        angle = factor * t.double()[:, None] * base ** exponent(k, half)
        return order(angle.cos(), angle.sin())

    return answer


def norm_by_loop(x, groups, weight, bias, eps):
    out, each = torch.empty_like(x), x.shape[1] // groups
    for i in range(len(x)):
        for g in range(groups):
            part = x[i, g * each : (g + 1) * each]
            out[i, g * each : (g + 1) * each] = (part - part.mean()) / (
                (part - part.mean()).square().mean() + eps
            ) ** 0.5
    return out.mul_(weight[:, None, None]).add_(bias[:, None, None])


class Norm:
    def __call__(self, x, groups, weight, bias, eps):
        return F.group_norm(x.double(), groups, weight.double(), bias.double(), eps)


def _norm(shape, dims, unbiased=False, outside=False, affine=True, mean=True):
    """A wrong version: statistics over `dims` of x in `shape(x, groups)`."""

    def answer(x, groups, weight, bias, eps):
        g = x.reshape(shape(x, groups))
        variance = g.var(dims, unbiased=unbiased, keepdim=True)
        divisor = variance.sqrt() + eps if outside else (variance + eps).sqrt()
        g = ((g - g.mean(dims, keepdim=True) if mean else g) / divisor).reshape(x.shape)
        return g * weight[:, None, None] + bias[:, None, None] if affine else g

    return answer


def _grouped(x, groups):
    return len(x), groups, -1


def _as_is(x, groups):
    return x.shape


def strided_groups(x, groups, weight, bias, eps):
    C = x.shape[1]
    order = torch.arange(C).view(C // groups, groups).T.flatten()
    y = F.group_norm(x[:, order], groups, None, None, eps)[:, order.argsort()]
    return y * weight[:, None, None] + bias[:, None, None]


def shift_in_place(h, embedding):
    C = h.shape[1]
    return h.mul_(1 + embedding[:, :C].view(-1, C, 1, 1)).add_(embedding[:, C:].view(-1, C, 1, 1))


class ScaleShift:
    def __call__(self, h, embedding):
        scale, shift = embedding.double().split(h.shape[1], dim=1)
        return torch.stack(
            [(1 + a[:, None, None]) * x + b[:, None, None] for x, a, b in zip(h, scale, shift, strict=True)]
        )


def _scaled(function):
    """A wrong version: function(h, scale, shift)."""
    return lambda h, embedding: function(h, *embedding[:, :, None, None].chunk(2, 1))


def res(block, x, time, act1=True, act2=True, time_act=True, skip=True, embed=True, late=False, other=False, one=1):
    """Right by default, with faults to choose from."""
    silu = torch.nn.SiLU()
    h = block.norm1(x)
    h = block.conv1(silu(h) if act1 else h)
    e = block.time(silu(time) if time_act else time).unsqueeze(-1).unsqueeze(-1) * embed
    if block.scale_shift:
        C = h.shape[1]
        h = block.norm2((one + e[:, :C]) * h + e[:, C:]) if other else block.norm2(h)
        if late:
            h = silu(h) * (one + e[:, :C]) + e[:, C:]
        elif not other:
            h = h * (one + e[:, :C]) + e[:, C:]
            h = silu(h) if act2 else h
        else:
            h = silu(h)
    elif late:
        h = silu(block.norm2(h)) + e
    elif other:
        h = silu(block.norm2(h) + e)
    else:
        h = block.norm2(h + e)
        h = silu(h) if act2 else h
    h = block.conv2(h)
    return h + block.skip(x) if skip else h


class Res:
    def __call__(self, block, x, time):
        h = block.conv1(block.norm1(x).mul_(torch.sigmoid(block.norm1(x))))
        e = block.time(time * time.sigmoid())[..., None, None]
        if block.scale_shift:
            scale, shift = e.chunk(2, dim=1)
            h = block.norm2(h)
            h = h + h * scale + shift
        else:
            h = block.norm2(h.add_(e))
        return block.conv2(F.silu(h)).add_(block.skip(x))


def _res(**faults):
    return lambda block, x, time: res(block, x, time, **faults)


def attend(layer, x, root=None, dim=-1, residual=True, norm=True, out=True, merge=True, view=False, back=True):
    """Right by default, with faults to choose from."""
    B, C, H, W = x.shape
    y = layer.norm(x) if norm else x
    tokens = y.view(B, H * W, C) if view else y.permute(0, 2, 3, 1).reshape(B, H * W, C)
    heads = []
    parts = layer.qkv(tokens).reshape(B, H * W, 3, layer.heads, C // layer.heads)
    for head in range(layer.heads):
        q, k, v = parts[:, :, 0, head], parts[:, :, 1, head], parts[:, :, 2, head]
        z = torch.einsum("bid,bjd->bij", q, k) / (root or math.sqrt(C // layer.heads))
        heads.append(torch.softmax(z, dim) @ v)
    mixed = torch.cat(heads, dim=2) if merge else torch.stack(heads, 1).reshape(B, H * W, C)
    mixed = layer.out(mixed) if out else mixed
    image = mixed.view(B, H, W, C).permute(0, 3, 1, 2) if back else mixed.reshape(B, C, H, W)
    return x + image if residual else image


class Attend:
    def __call__(self, layer, x):
        B, C, H, W = x.shape
        tokens = layer.norm(x).flatten(2).transpose(1, 2)
        q, k, v = layer.qkv(tokens).view(B, H * W, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return layer.out(mixed).transpose(1, 2).reshape(x.shape).add_(x)


def _attend(**faults):
    return lambda layer, x: attend(layer, x, **faults)


def turn(x, cos, sin, sign=1, alternate=False):
    """The numbers of a head as complex ones."""
    d = x.shape[-1]
    z = torch.complex(x[..., ::2], x[..., 1::2]) if alternate else torch.complex(x[..., : d // 2], x[..., d // 2 :])
    z = z * torch.complex(cos, sign * sin)
    return torch.view_as_real(z).flatten(-2) if alternate else torch.cat([z.real, z.imag], -1)


def transform(block, h, time, cos, sin, act=True, one=1, gate=lambda g: g, swap=False, which="qk", **faults):
    """Right by default, with faults to choose from."""
    B, _, width = h.shape
    d = width // block.heads
    six = block.time(F.silu(time) if act else time).view(B, 6, 1, width).unbind(1)
    if swap:
        six = six[1], six[0], six[2], six[4], six[3], six[5]

    def norm(x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    qkv = block.qkv(norm(h) * (one + six[1]) + six[0])
    heads = []
    for i in range(block.heads):
        q, k, v = (qkv[..., j * width + i * d : j * width + (i + 1) * d] for j in range(3))
        if faults.get("qk_norm", True):
            q, k = norm(q), norm(k)
        turned = [turn(x, cos, sin, faults.get("sign", 1), faults.get("alternate")) for x in (q, k, v)]
        q, k, v = (y if name in which else x for x, y, name in zip((q, k, v), turned, "qkv", strict=True))
        heads.append((q @ k.transpose(1, 2) / math.sqrt(d)).softmax(2) @ v)
    added = gate(six[2]) * block.out(torch.cat(heads, 2))
    after = h + added if faults.get("residual", True) else added
    hidden = block.linear1(norm(after if faults.get("fresh", True) else h) * (one + six[4]) + six[3])
    return after + gate(six[5]) * block.linear2(F.silu(hidden) if faults.get("silu", True) else hidden)


class Transform:
    def __call__(self, block, h, time, cos, sin):
        width = h.shape[2]
        shift, scale, gate, *others = block.time(F.silu(time)).unsqueeze(1).split(width, dim=-1)
        x = torch.addcmul(shift, F.layer_norm(h, [width]), 1 + scale)
        q, k, v = (part.unflatten(2, (block.heads, -1)).transpose(1, 2) for part in block.qkv(x).chunk(3, dim=-1))
        q, k = (self.rotated(F.layer_norm(part, [part.shape[3]]), cos, sin) for part in (q, k))
        h += gate * block.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        shift, scale, gate = others
        return h.addcmul_(gate, block.linear2(F.silu(block.linear1((1 + scale) * F.layer_norm(h, [width]) + shift))))

    def rotated(self, x, cos, sin):
        half = torch.cat([-x[..., x.shape[3] // 2 :], x[..., : x.shape[3] // 2]], -1)
        return x * torch.cat([cos, cos], 1) + half * torch.cat([sin, sin], 1)


def _transform(**faults):
    return lambda block, h, time, cos, sin: transform(block, h, time, cos, sin, **faults)


def wire(
    net, x, t, queue=False, first=False, middle=True, use_attention=True, silu=True, norm=True, time_act=True, head=True
):
    """Right by default, with faults to choose from."""
    e = net.time.linear1(Features()(t, net.time.dim))
    e = net.time.linear2(F.silu(e) if time_act else e)

    def run(layer, h):
        if not hasattr(layer, "res"):
            return layer(h)
        h = res(layer.res, h, e)
        return attend(layer.attend, h) if use_attention and hasattr(layer.attend, "heads") else h

    h = net.conv_in(F.pixel_unshuffle(x, net.patch))
    skips = [h]
    for layer in net.down:
        skips.append(run(layer, skips[-1]))
    h = skips[-1]
    for layer in net.middle:
        h = run(layer, h) if middle else h
    for layer in net.up:
        if hasattr(layer, "res"):
            skip = skips.pop(0 if queue else -1)
            h = torch.cat([skip, h] if first else [h, skip], 1)
        h = run(layer, h)
    h = net.norm_out(h) if norm else h
    h = F.pixel_shuffle(net.conv_out(F.silu(h) if silu else h), net.patch)
    return net.head(x, h, e) if net.head is not None and head else h


class Wire:
    """Keeps the skips in a list with an index, and reads the kind of a layer from its class."""

    def __call__(self, net, x, t):
        time = net.time.linear2(torch.nn.SiLU()(net.time.linear1(features_by_loop(t, net.time.dim).float())))
        outputs = [net.conv_in(F.pixel_unshuffle(x, net.patch))]
        for layer in net.down:
            outputs.append(self.run(layer, outputs[-1], time))
        h, unused = outputs[-1], len(outputs) - 1
        for layer in net.middle:
            h = self.run(layer, h, time)
        for layer in net.up:
            if type(layer).__name__ == "Block":
                h = torch.cat((h, outputs[unused]), 1)
                unused -= 1
            h = self.run(layer, h, time)
        prediction = F.pixel_shuffle(net.conv_out(F.silu(net.norm_out(h))), net.patch)
        return (net.head or (lambda x, h, time: h))(x, prediction, time)

    def run(self, layer, h, time):
        if type(layer).__name__ == "Block":
            h = Res()(layer.res, h, time)
            return h if isinstance(layer.attend, torch.nn.Identity) else Attend()(layer.attend, h)
        if type(layer).__name__ == "Upsample":
            return layer.conv(F.interpolate(h, scale_factor=2))
        return layer.conv(h)


def _wire(**faults):
    return lambda net, x, t: wire(net, x, t, **faults)


ANSWERS = {
    "time_features": Answers(
        right=[features_by_loop, Features()],
        wrong=[
            (_features(order=lambda c, s: torch.cat([s, c], 1)), "sines come first"),
            (_features(order=lambda c, s: torch.stack([c, s], 2).flatten(1)), "alternate"),
            (_features(order=lambda c, s: torch.cat([c.flip(1), s.flip(1)], 1)), "from slow to fast"),
            (_features(exponent=lambda k, half: k / half), "frequencies grow"),
            (_features(exponent=lambda k, half: -k / (2 * half)), "divide k by dim"),
            (_features(exponent=lambda k, half: -k / (half - 1)), "half − 1"),
            (_features(factor=2 * math.pi), "2π"),
            (_features(base=math.e), "base e"),
            (_features(order=lambda c, s: c), "cosines and sines side by side"),
            (lambda t, dim: _features()(torch.ones_like(t), dim), "do not multiply by t"),
        ],
    ),
    "group_norm": Answers(
        right=[norm_by_loop, Norm()],
        wrong=[
            (_norm(_as_is, (2, 3)), "instance norm"),
            (_norm(_as_is, (1, 2, 3)), "layer norm"),
            (_norm(_as_is, (0, 2, 3)), "batch norm"),
            (_norm(_grouped, (2,), affine=False), "weight and bias are missing"),
            (_norm(_grouped, (2,), unbiased=True), "n − 1"),
            (_norm(_grouped, (2,), outside=True), "outside the root"),
            (_norm(_grouped, (2,), mean=False), "subtract the mean"),
            (lambda x, groups, weight, bias, eps: F.group_norm(x, groups, weight, bias, 0), "ε is missing"),
            (strided_groups, "neighbouring channels"),
            (lambda x, groups, weight, bias, eps: F.group_norm(x, groups, weight, None, eps), "the bias is missing"),
        ],
    ),
    "scale_shift": Answers(
        right=[shift_in_place, ScaleShift()],
        wrong=[
            (_scaled(lambda h, scale, shift: scale * h + shift), "the 1 is missing"),
            (_scaled(lambda h, scale, shift: (1 + shift) * h + scale), "are swapped"),
            (_scaled(lambda h, scale, shift: (1 + scale) * (h + shift)), "multiply first"),
            (_scaled(lambda h, scale, shift: (1 + scale) * h), "the shift is missing"),
            (_scaled(lambda h, scale, shift: h + shift), "the scale is missing"),
            (_scaled(lambda h, scale, shift: (1 + scale) * h - shift), "subtract the shift"),
            (_scaled(lambda h, scale, shift: (1 + scale[:1]) * h + shift[:1]), "first image"),
            (
                lambda h, embedding: (1 + embedding[:, ::2, None, None]) * h + embedding[:, 1::2, None, None],
                "do not alternate",
            ),
        ],
    ),
    "res_block": Answers(
        right=[res, Res()],
        wrong=[
            (_res(skip=False), "skip path is missing"),
            (lambda block, x, time: x + res(block, x, time, skip=False), "not x: this block turns"),
            (_res(act1=False), "first SiLU"),
            (_res(act2=False), "second SiLU"),
            (_res(time_act=False), "SiLU on the embedding"),
            (_res(embed=False), "embedding of t is not used"),
            (_res(late=True), "too late"),
            (_res(other=True), "before norm2"),
            (_res(one=0), "the 1 in (1 + scale)"),
        ],
    ),
    "attention": Answers(
        right=[attend, Attend()],
        wrong=[
            (_attend(root=1.0), "division by √d is missing"),
            (_attend(root=math.sqrt(6)), "√C"),
            (_attend(root=3.0), "divide by its root"),
            (_attend(dim=-2), "over the queries"),
            (_attend(residual=False), "input is not added"),
            (_attend(norm=False), "norm is missing"),
            (_attend(out=False), "layer.out is missing"),
            (_attend(merge=False), "side by side again"),
            (_attend(view=True), "scrambles pixels and channels"),
            (_attend(back=False), "back to an image"),
        ],
    ),
    "transformer_block": Answers(
        right=[transform, Transform()],
        wrong=[
            (_transform(act=False), "SiLU on the embedding"),
            (_transform(one=0), "the 1 in (1 + scale)"),
            (_transform(swap=True), "are swapped: the shift"),
            (_transform(gate=lambda g: 1), "the gates are missing"),
            (_transform(gate=lambda g: 1 + g), "1 + gate"),
            (_transform(residual=False), "not added after attention"),
            (_transform(qk_norm=False), "layer norm of q and k"),
            (_transform(which=""), "q and k are not rotated"),
            (_transform(which="q"), "rotate q only"),
            (_transform(which="qkv"), "rotate v as well"),
            (_transform(sign=-1), "other way round"),
            (_transform(alternate=True), "neighbours"),
            (_transform(silu=False), "between linear1 and linear2"),
            (_transform(fresh=False), "from before attention"),
            (lambda block, h, time, cos, sin: block(h, time, cos, sin), "the block itself"),
        ],
    ),
    "exam": Answers(
        right=[wire, Wire()],
        wrong=[
            (_wire(queue=True), "wrong order"),
            (_wire(first=True), "h comes first"),
            (_wire(middle=False), "middle of the network"),
            (_wire(use_attention=False), "leave out the attention"),
            (_wire(silu=False), "between norm_out and conv_out"),
            (_wire(norm=False), "norm_out is missing"),
            (_wire(time_act=False), "between linear1 and linear2"),
            (_wire(head=False), "the head is missing"),
            (lambda net, x, t: net(x, t), "the network itself"),
        ],
    ),
}
