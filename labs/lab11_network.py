# %% [markdown]
# # Lab 11. Inside the network
#
# You build the parts of the U-Net: time features, group normalisation, the residual block, attention, and the wiring of
# it all, until your functions and the trained network's weights give the same output as the network itself. On the way
# you build a block of a diffusion transformer. You need PyTorch (convolutions, broadcasting) and lab 1; no training.
# Time: 105 minutes. In a hurry? The last exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import math

import torch
import torch.nn.functional as F

import shapedreamer as sd
from shapedreamer.labs import check, predict
from shapedreamer.networks import dit

model = sd.load("shapes")
net, schedule = model.network, model.schedule  # a UNet that predicts x0; T = 1000
net.requires_grad_(False)  # nothing is trained in this lab
shapes, _ = sd.recipes.shapes().make_data()[1].batch(torch.arange(16))  # (16, 1, 32, 32)


def noisy(t):
    """The 16 shapes with the noise of timestep t, always the same noise."""
    eps = torch.randn(shapes.shape, generator=torch.Generator().manual_seed(0))
    return sd.process.diffuse(shapes, t, eps, schedule)


# %% [markdown]
# ## The map
#
# The network takes the noisy image $x_t$ and the number t, and returns an image. It goes down to coarse resolutions,
# where few numbers describe the whole image, and up again (docs/concepts.md in the repository, section "The network").
# Its parts repeat:

# %%
print("timestep: ", net.time)
print("first level:", net.down[0].res)
print(f"{sum(p.numel() for p in net.parameters()):,} parameters; {len(net.down)} layers down, {len(net.up)} up")

# %% [markdown]
# ## A number becomes a vector
#
# One network serves all noise levels, so it must know t. A single number is a poor input: layers are smooth
# functions, and t = 3 and t = 4 hardly differ next to t = 1000. So t becomes a vector of waves, from fast to slow
# ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762), section 3.5), like the hands of a clock:
#
# $$\left(\cos(\omega_0 t), \dots, \cos(\omega_{h-1} t),\; \sin(\omega_0 t), \dots, \sin(\omega_{h-1} t)\right),
#   \qquad \omega_k = 10000^{-k/h}, \quad h = \text{dim}/2$$

# %% tags=["prediction"] name="waves"
# The cosine similarity of two feature vectors (dim 64) says how alike they are: 1 for equal ones. For t = 500:
predict(
    "lab11.waves",
    "b",
    a="the features of 501 and of 900 are about equally similar to those of 500",
    b="501 is very similar, 900 much less",
    c="all are nearly equal, because most waves are slow",
)


# %% tags=["exercise"] name="time_features"
def time_features(t, dim):
    """Waves of t: (B,) int64 -> (B, dim) float32; first all cosines, then all sines, each from fast to slow."""
    half = dim // 2
    # frequencies (half,), angles (B, half), then both functions side by side
    # begin solution
    frequency = 10000 ** (-torch.arange(half) / half)
    angle = t.float()[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)
    # end solution


# %% tags=["check"] name="time_features"
if check.lab11.time_features(time_features):
    times = torch.arange(1, 1001)
    features = time_features(times, 64)
    sd.plot(
        {f"cosine {k}": (times, features[:, k]) for k in (12, 16, 20, 24, 31)},
        "timestep t",
        "feature",
        "Five of 32 waves",
    )
    similar = F.cosine_similarity(features, features[499:500])
    sd.plot({"similarity to t = 500": (times, similar)}, "timestep t", "cosine similarity", "Near times look alike")
    near, far = similar[500].item(), similar[899].item()
    predict.measured(
        "lab11.waves",
        "b" if near > far + 0.2 else "c" if far > 0.9 else "a",
        f"similarity of 500 to 501: {near:.3f}, to 900: {far:.3f}",
    )

# %% [markdown] tags=["hint"] name="time_features"
# `torch.arange(half)` is 0 … half − 1. An outer product of t (B,) and the frequencies (half,) needs t as (B, 1):
# `t[:, None]`.

# %% [markdown] tags=["hint"] name="time_features"
# `frequency = 10000 ** (-torch.arange(half) / half)` and `angle = t.float()[:, None] * frequency`.

# %% [markdown] tags=["hint"] name="time_features"
# `return torch.cat([angle.cos(), angle.sin()], dim=1)`

# %% [markdown] tags=["explanation"] name="time_features"
# The fast waves tell neighbours apart, the slow ones tell early from late. The second plot is highest at 500 and
# falls off on both sides: close times have close features, so what the network learns at t = 500 helps at 501.
#
# Libraries differ in the details: sines first or cosines first, h or h − 1 in the exponent. Neither is better, but
# weights trained with one do not work with the other. Two linear layers follow, with a SiLU between them; the result
# goes to every block.

# %% [markdown]
# ## Group normalisation
#
# Deep networks train well only if the numbers in them keep a steady size. Normalisation sees to that: subtract the
# mean, divide by the standard deviation. The question is: over what? Over the batch, the result for one image would
# depend on the others, and at sampling time batches are different. *Group normalisation*
# ([Wu & He 2018](https://arxiv.org/abs/1803.08494)) splits the C channels of **one** image into groups of C/groups
# neighbouring channels and normalises each group over its channels and all its pixels:
#
# $$\hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}, \qquad y = w_c\, \hat x + b_c$$
#
# with $\sigma^2$ as the mean of the squared deviations (divide by n, not n − 1), and a learned weight $w_c$ and bias
# $b_c$ for each channel.

# %% tags=["prediction"] name="scale"
# Somebody multiplies the input of a GroupNorm by 3 and adds 1. What happens to its output?
predict("lab11.scale", "a", a="nothing, up to rounding and ε", b="it is multiplied by 3", c="1 is added to it")


# %% tags=["exercise"] name="group_norm"
def group_norm(x, groups, weight, bias, eps):
    """Group normalisation, without torch's own.

    x (B, C, H, W);  weight, bias (C,)  ->  (B, C, H, W)
    """
    B, C, H, W = x.shape
    # begin solution
    g = x.reshape(B, groups, -1)
    mean, variance = g.mean(2, keepdim=True), g.var(2, unbiased=False, keepdim=True)
    normal = ((g - mean) / (variance + eps).sqrt()).view(B, C, H, W)
    return weight.view(1, C, 1, 1) * normal + bias.view(1, C, 1, 1)
    # end solution


# %% tags=["check"] name="group_norm"
if check.lab11.group_norm(group_norm):
    norm, x = net.down[0].res.norm1, net.conv_in(F.pixel_unshuffle(noisy(300), net.patch))
    mine = group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    print(f"largest difference to the network's own layer: {(mine - norm(x)).abs().max():.1e}")
    other = group_norm(3 * x + 1, norm.num_groups, norm.weight, norm.bias, norm.eps)
    change, size = (other - mine).abs().mean().item(), mine.abs().mean().item()
    predict.measured(
        "lab11.scale",
        "a" if change < 0.05 * size else "b",
        f"the output, of mean size {size:.3f}, changes by {change:.4f}",
    )

# %% [markdown] tags=["hint"] name="group_norm"
# Neighbouring channels form a group, so a reshape is enough: `x.reshape(B, groups, -1)` has all numbers of a group in
# its last dimension.

# %% [markdown] tags=["hint"] name="group_norm"
# `g.mean(2, keepdim=True)` and `g.var(2, unbiased=False, keepdim=True)`. Normalise, go back to (B, C, H, W), then
# apply weight and bias, which need the shape (1, C, 1, 1).

# %% [markdown] tags=["hint"] name="group_norm"
# `normal = ((g - mean) / (variance + eps).sqrt()).view(B, C, H, W)`, then
# `return weight.view(1, C, 1, 1) * normal + bias.view(1, C, 1, 1)`.

# %% [markdown] tags=["explanation"] name="group_norm"
# The mean takes out the 1 and the standard deviation the 3. So a block cannot be thrown off by the size of its input,
# which differs much between t = 1 and t = T.
#
# This also has a price: brightness and contrast of a whole group are lost. They survive through the skip path of the
# residual block, which is not normalised. A common mistake is statistics over each channel alone (that is instance
# norm) or over the whole image (layer norm); with groups = C or groups = 1 you get exactly these.

# %% [markdown]
# ## Scale and shift
#
# How does the embedding enter a block? There are two ways. The older one (DDPM) adds one number per channel to the
# features. The other one multiplies as well (*FiLM*, [Perez et al. 2018](https://arxiv.org/abs/1709.07871); "AdaGN"
# in [Nichol & Dhariwal 2021](https://arxiv.org/abs/2102.09672)): a linear layer makes 2C numbers from the embedding;
# the first C are the scale, the others the shift:
#
# $$h \leftarrow (1 + \text{scale}) \cdot h + \text{shift}$$


# %% tags=["exercise"] name="scale_shift"
def scale_shift(h, embedding):
    """Scale and shift each channel: h (B, C, H, W), embedding (B, 2C), scale first -> (B, C, H, W)."""
    # begin solution
    scale, shift = embedding[:, :, None, None].chunk(2, dim=1)
    return (1 + scale) * h + shift
    # end solution


# %% tags=["check"] name="scale_shift"
if check.lab11.scale_shift(scale_shift):
    h = torch.linspace(-1, 1, 16).view(1, 1, 1, 16).expand(1, 1, 16, 16)
    rows = [scale_shift(h, torch.tensor([[scale, shift]])) for scale in (-0.5, 0.0, 1.0) for shift in (-0.5, 0.0, 0.5)]
    print("A ramp. Rows: scale −0.5, 0, 1. Columns: shift −0.5, 0, 0.5.")
    sd.show(torch.cat(rows), columns=3)

# %% [markdown] tags=["hint"] name="scale_shift"
# `embedding.chunk(2, dim=1)` gives two tensors (B, C). To multiply h they need the shape (B, C, 1, 1).

# %% [markdown] tags=["hint"] name="scale_shift"
# `scale, shift = embedding[:, :, None, None].chunk(2, dim=1)`

# %% [markdown] tags=["hint"] name="scale_shift"
# `return (1 + scale) * h + shift`

# %% [markdown] tags=["explanation"] name="scale_shift"
# Scale changes the contrast, shift the brightness of a channel. The 1 matters at the start of training: with an
# embedding of zeros the features pass unchanged. Without it they would be multiplied by 0, and the gradient with
# them.
#
# The same trick carries labels in `ContextUnet`, style in StyleGAN, and the timestep in diffusion transformers
# (*adaLN*).

# %% [markdown]
# ## The residual block
#
# Most of the network is this block. Its input goes two ways. On the main path:
#
# 1. `norm1`, SiLU, `conv1`
# 2. the embedding of t, after a SiLU and the linear layer `time`, enters:
#    - without `scale_shift`: it is added to each channel, then `norm2`, SiLU
#    - with `scale_shift`: `norm2`, then scale and shift, then SiLU
# 3. `conv2`
#
# The other path is `skip`: the input itself, or a 1×1 convolution if the number of channels changes. The output is
# the sum of both (DDPM, appendix B). Normalisation and SiLU come *before* each convolution, so the skip path from
# start to end is free of them.

# %% tags=["prediction"] name="wrong_t"
# We noise shapes to t = 700, but pass another timestep to the network. When is its error smallest?
predict(
    "lab11.wrong_t",
    "a",
    a="when the timestep is about 700",
    b="when the timestep is small, because then it keeps everything that can be seen",
    c="the timestep makes no difference; the noise can be seen in the image",
)


# %% tags=["exercise"] name="res_block"
def res_block(block, x, time):
    """Run a residual block of the network from its layers.

    block: has norm1, conv1, time, norm2, conv2, skip (layers to call) and scale_shift (bool)
    x (B, c_in, H, W);  time (B, time_dim): the embedding of t  ->  (B, c_out, H, W)
    """
    # begin solution
    h = block.conv1(F.silu(block.norm1(x)))
    embedding = block.time(F.silu(time))
    if block.scale_shift:
        h = F.silu(scale_shift(block.norm2(h), embedding))
    else:
        h = F.silu(block.norm2(h + embedding[:, :, None, None]))
    return block.skip(x) + block.conv2(h)
    # end solution


# %% tags=["check"] name="res_block"
if check.lab11.res_block(res_block):
    x, time = net.conv_in(F.pixel_unshuffle(noisy(300), net.patch)), net.time(torch.full((16,), 300))
    block = net.down[0].res
    print(
        f"largest difference to the network's own block: {(res_block(block, x, time) - block(x, time)).abs().max():.1e}"
    )
    passed = [1, 200, 400, 500, 600, 650, 700, 750, 800, 900, 1000]
    errors = [(net(noisy(700), torch.full((16,), t)) - shapes).square().mean().item() for t in passed]
    for t, error in zip(passed, errors, strict=True):
        print(f"network called with t = {t:4d}: error {error:.3f}")
    title = "Images with the noise of t = 700"
    sd.plot({"error of x̂₀": (passed, errors)}, "the t passed to the network", "mean squared error", title)
    best = passed[errors.index(min(errors))]
    predict.measured(
        "lab11.wrong_t",
        "c" if max(errors) < 1.2 * min(errors) else "a" if 600 <= best <= 800 else "b",
        f"the error is smallest ({min(errors):.3f}) for t = {best}; for t = 1 it is {errors[0]:.3f}",
    )

# %% [markdown] tags=["hint"] name="res_block"
# Start with the main path, one line for each of the three steps, and keep x for the skip path.

# %% [markdown] tags=["hint"] name="res_block"
# Step 1: `h = block.conv1(F.silu(block.norm1(x)))`. The embedding: `embedding = block.time(F.silu(time))`, which is
# (B, c_out), or (B, 2 c_out) with scale_shift.

# %% [markdown] tags=["hint"] name="res_block"
# Without scale_shift: `h = F.silu(block.norm2(h + embedding[:, :, None, None]))`; with it:
# `h = F.silu(scale_shift(block.norm2(h), embedding))`. At the end `return block.skip(x) + block.conv2(h)`.

# %% [markdown] tags=["explanation"] name="res_block"
# The plot is a valley with its lowest point near the truth. With a t that is too small, the network leaves noise in
# the image; with one that is too large, it ignores what can still be seen. So a sampler that passes the wrong t (off
# by a factor, or the number of the step) does not crash; it only makes bad images. Try `noisy(400)` in the cell:
# there the valley is flat to the left, because the network can measure this little noise in the image itself.
#
# Why the sum? At the start of training `conv2` gives small numbers, so a block is nearly the identity, and gradients
# reach the first layer through all the sums.

# %% [markdown]
# ## Attention
#
# A convolution sees 3×3 pixels. To make both eyes equal, a network must compare places far apart. *Self-attention*
# lets every pixel read from every other one. The pixels become *tokens*: H·W vectors of C numbers. A linear layer
# makes three vectors for each: a query q, a key k, a value v. With d numbers each,
#
# $$\text{attention}(q, k, v) = \operatorname{softmax}\!\left(\frac{q\,k^\top}{\sqrt d}\right) v$$
#
# Row i of the softmax says how much token i takes from each token; it sums to 1. *Multi-head* means: the channels are
# cut into `heads` parts of d = C/heads numbers, and each part attends for itself.

# %% tags=["prediction"] name="shuffle"
# We shuffle the pixels of the input of attention in some order. The output is …
predict(
    "lab11.shuffle",
    "a",
    a="the same output, with the pixels shuffled in the same order",
    b="different, since neighbours have changed",
    c="the same output as without shuffling",
)


# %% tags=["exercise"] name="attention"
def attention(layer, x):
    """Multi-head self-attention over the pixels, with a residual connection: (B, C, H, W) -> (B, C, H, W).

    layer: has norm (GroupNorm), qkv (Linear from C to 3C), out (Linear from C to C), and heads (int)
    """
    B, C, H, W = x.shape
    # 1. tokens (B, H·W, C), one for each pixel, after the norm; .transpose(1, 2) swaps dimensions, .view does not
    # 2. q, k, v = layer.qkv(tokens).view(B, H * W, 3, layer.heads, -1).permute(2, 0, 3, 1, 4): each (B, heads, H·W, d)
    # 3. the weights (B, heads, H·W, H·W), the mixed values (B, heads, H·W, d), the heads side by side again (B, H·W, C)
    # 4. the linear layer `out`, back to an image, plus the input
    # begin solution
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    q, k, v = layer.qkv(tokens).view(B, H * W, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    mixed = (weights @ v).transpose(1, 2).reshape(B, H * W, C)
    return x + layer.out(mixed).transpose(1, 2).view(B, C, H, W)
    # end solution


# %% tags=["check"] name="attention"
if check.lab11.attention(attention):
    layer = net.middle[0].attend
    x = torch.randn(1, layer.norm.num_channels, 4, 4)
    order = torch.randperm(16)

    def shuffled(image):
        return image.flatten(2)[:, :, order].view(image.shape)

    print(f"largest difference to the network's own layer: {(attention(layer, x) - layer(x)).abs().max():.1e}")
    plain, mixed = attention(layer, x), attention(layer, shuffled(x))
    difference = (mixed - shuffled(plain)).abs().max().item()
    predict.measured(
        "lab11.shuffle",
        "a" if difference < 1e-4 else "c" if (mixed - plain).abs().max() < 1e-4 else "b",
        f"the outputs agree up to {difference:.1e} after the same shuffling",
    )

# %% [markdown] tags=["hint"] name="attention"
# `layer.norm(x).flatten(2)` is (B, C, H·W); tokens are (B, H·W, C). The heads work in parallel, because `@`
# multiplies the last two dimensions for every b and head.

# %% [markdown] tags=["hint"] name="attention"
# `weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)`. After `weights @ v` the dimensions are
# (B, heads, H·W, d): swap heads and pixels with `.transpose(1, 2)` before you reshape.

# %% [markdown] tags=["hint"] name="attention"
# `tokens = layer.norm(x).flatten(2).transpose(1, 2)`; `mixed = (weights @ v).transpose(1, 2).reshape(B, H * W, C)`;
# `return x + layer.out(mixed).transpose(1, 2).view(B, C, H, W)`.

# %% [markdown] tags=["explanation"] name="attention"
# Attention does not know where a pixel is: it is a function of a *set* of tokens. Language models therefore add
# positions to the tokens; in a U-Net the convolutions around it tell the place (zero padding at the borders gives it
# away).
#
# The weights are (H·W)×(H·W) numbers for each head, so attention costs 16 times as much at twice the resolution. That
# is why it sits only at the coarse levels. $\sqrt d$ keeps q·k at a variance of about 1; without it softmax picks one
# token and stops learning. The usual mistake is `.view` or `.reshape` where `.transpose` is needed: shapes fit, and
# pixels and channels are scrambled.

# %% [markdown]
# ## Without the U: a transformer block
#
# A *diffusion transformer* (DiT, [Peebles & Xie 2023](https://arxiv.org/abs/2212.09748)) drops the U and the skip
# connections. It cuts the image into *patches*, makes each a token, and applies the same block again and again.
# `F.pixel_unshuffle` cuts: channel k of its output holds pixel k of every patch, and `F.pixel_shuffle` puts the pixels
# back. Look at an image of 4×4 numbers in patches of 2×2:

# %%
grid = torch.arange(16.0).view(1, 1, 4, 4)
folded = F.pixel_unshuffle(grid, 2)
print(f"{grid[0, 0].int().tolist()} becomes {tuple(folded.shape)}. Four tokens, one for each patch, row by row:")
print(folded.flatten(2).transpose(1, 2).int()[0].tolist())
print(f"pixel_shuffle gives the image back: {torch.equal(F.pixel_shuffle(folded, 2), grid)}")

# %% [markdown]
# The first token is 0, 1, 4, 5: the upper left square, itself row by row. A `view(4, 4)` would make tokens of whole
# rows.
#
# **Positions.** Attention cannot see where a token is, and here is no convolution to tell. *Rotary positions*
# ([Su et al. 2021](https://arxiv.org/abs/2104.09864)) turn each query and key by an angle that grows with the position.
# The first half $x_1$ and the second half $x_2$ of a head's numbers form pairs, and each pair turns like a point in the
# plane:
#
# $$(x_1, x_2) \;\to\; (x_1 \cos\theta - x_2 \sin\theta,\;\; x_1 \sin\theta + x_2 \cos\theta)$$
#
# **The embedding** scales and shifts the tokens, as you know. But now it also scales what each part *adds*. One linear
# layer makes six vectors from it: shift, scale and gate for attention, then shift, scale and gate for a two-layer
# perceptron (MLP). With $\text{norm}$ for layer norm, the block is
#
# $$h \leftarrow h + \text{gate}_1 \cdot \text{attention}\big((1+\text{scale}_1)\,\text{norm}(h) + \text{shift}_1\big)$$
#
# $$h \leftarrow h + \text{gate}_2 \cdot \text{MLP}\big((1+\text{scale}_2)\,\text{norm}(h) + \text{shift}_2\big)$$

# %% tags=["prediction"] name="new_block"
# In a new DiT, the layer that makes the six vectors starts at zero (adaLN-zero). What does a new block return?
predict("lab11.new_block", "a", a="the tokens, unchanged", b="zeros", c="the tokens, a little changed at random")

# %% tags=["prediction"] name="moved"
# A query and a key are rotated to two patches. Then both patches move 3 columns to the right. Their product …
predict("lab11.moved", "b", a="changes, since both angles do", b="stays the same", c="changes its sign")


# %% tags=["exercise"] name="transformer_block"
def transformer_block(block, h, time, cos, sin):
    """Run a block of a diffusion transformer from its layers: tokens h (B, N, width) -> (B, N, width).

    block: has time (width/2 to 6·width), qkv (width to 3·width), out, linear1, linear2 (layers to call) and heads (int)
    time (B, width/2): the embedding of t;  cos, sin (N, d/2): of the angles of each token, d numbers in a head
    """
    B, N, width = h.shape
    # 1. shift1, scale1, gate1, shift2, scale2, gate2 = block.time(F.silu(time)), cut in six; tokens need (B, 1, width)
    # 2. q, k, v (B, heads, N, d) as in attention, from block.qkv of the scaled and shifted F.layer_norm(h, (width,))
    # 3. F.layer_norm(…, (d,)) of q and k, then rotate both; leave v unchanged
    # 4. F.scaled_dot_product_attention(q, k, v), the heads side by side again, block.out, gate1, plus h
    # 5. the perceptron: block.linear1, SiLU, block.linear2; the same way, with shift2, scale2, gate2
    # begin solution
    shift1, scale1, gate1, shift2, scale2, gate2 = block.time(F.silu(time))[:, None].chunk(6, dim=2)

    def rotate(x):
        x1, x2 = F.layer_norm(x, x.shape[-1:]).chunk(2, dim=-1)
        return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)

    normal = (1 + scale1) * F.layer_norm(h, (width,)) + shift1
    q, k, v = block.qkv(normal).view(B, N, 3, block.heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v)
    h = h + gate1 * block.out(mixed.transpose(1, 2).reshape(B, N, width))
    normal = (1 + scale2) * F.layer_norm(h, (width,)) + shift2
    return h + gate2 * block.linear2(F.silu(block.linear1(normal)))
    # end solution


# %% tags=["check"] name="transformer_block"
if check.lab11.transformer_block(transformer_block):
    new = dit.DiT(patch=4, width=64, depth=1, head_dim=32)
    cos, sin = dit.rotations(8, 8, 32, torch.device("cpu"))  # an image of 32x32 pixels has 8x8 patches
    tokens = new.conv_in(F.pixel_unshuffle(noisy(300), 4)).flatten(2).transpose(1, 2)
    output = transformer_block(new.blocks[0], tokens, new.time(torch.full((16,), 300)), cos, sin)
    change = (output - tokens).abs().max().item()
    predict.measured(
        "lab11.new_block",
        "a" if change == 0 else "b" if output.abs().max() == 0 else "c",
        f"the largest change of a token is {change}",
    )

    q, k = torch.randn(2, 32)
    at = dit.rotate(q, cos, sin).view(8, 8, 32), dit.rotate(k, cos, sin).view(8, 8, 32)
    before, after = ((at[0][2, c] @ at[1][5, c + 1]).item() for c in (1, 4))
    predict.measured(
        "lab11.moved",
        "b" if abs(after - before) < 1e-3 else "c" if abs(after + before) < 1e-3 else "a",
        f"the product is {before:.4f} before and {after:.4f} after",
    )
    same = dit.rotate(torch.ones(32), cos, sin)  # the same vector as query and key, at each of the 64 patches
    places = [(0, 0), (3, 4), (6, 2)]
    maps = torch.stack([(same @ same[8 * row + column]).view(1, 8, 8) / 16 - 1 for row, column in places])
    print("White: patches whose key fits a query at row 0, column 0; row 3, column 4; row 6, column 2.")
    sd.show(maps, titles=[f"({row}, {column})" for row, column in places], columns=3)

# %% [markdown] tags=["hint"] name="transformer_block"
# `[:, None]` makes (B, 1, 6·width) of the six vectors, and `.chunk(6, dim=2)` cuts them. Write a small function for
# rotating; its first line is `x1, x2 = F.layer_norm(x, x.shape[-1:]).chunk(2, dim=-1)`.

# %% [markdown] tags=["hint"] name="transformer_block"
# `q, k, v = block.qkv((1 + scale1) * F.layer_norm(h, (width,)) + shift1).view(B, N, 3, block.heads, -1)` followed by
# `.permute(2, 0, 3, 1, 4)`. To rotate: `torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)`.

# %% [markdown] tags=["hint"] name="transformer_block"
# `mixed = F.scaled_dot_product_attention(rotate(q), rotate(k), v).transpose(1, 2).reshape(B, N, width)`, then `h = h +
# gate1 * block.out(mixed)`. The perceptron gets `(1 + scale2) * F.layer_norm(h, (width,)) + shift2` of this new h, and
# its output is added with gate2.

# %% [markdown] tags=["explanation"] name="transformer_block"
# All gates of a new network are 0, so each block returns its tokens, to the last bit. A deep network that starts as the
# identity is easy to train: gradients reach the first layer undiminished, and each block opens its gates when it has
# found something useful. Scale and shift alone would not do that, and a factor 1 + gate would spoil it.
#
# In the picture, each query fits keys near it best, and the pattern moves along with it. Rotating q by $\alpha$ and k
# by
# $\beta$ changes their product as rotating one of them by $\alpha - \beta$ does. So the product depends on the distance
# only. Here half of the angles grow with the row, half with the column. v is not rotated: it says *what* a token passes
# on, not where it is.
#
# The layer norm of q and k keeps their product small, so that softmax cannot saturate. `networks/dit.py` has the whole
# network; `shapedreamer train shapes --network dit` trains it.

# %% [markdown]
# ## Down, up, and the skips
#
# Two small layers change the resolution: `Downsample` is a 3×3 convolution with stride 2, `Upsample` repeats each
# pixel 2×2 times and then applies a 3×3 convolution. What is lost on the way down comes back through the *skip
# connections*: the way up gets the outputs of the way down as additional channels. Say what they are good for; you see
# it after the exam.

# %% tags=["prediction"] name="no_skips"
# We set all skip connections of the trained network to zero. What does it make of a shape at t = 50, with little noise?
predict(
    "lab11.no_skips",
    "b",
    a="nearly the same; the middle of the network has the whole image",
    b="a poor image: the details came through the skips",
    c="the noisy input, unchanged",
)


# %% [markdown]
# ## Exam: the whole network
#
# Put it together. Here is the way of an image through `net`:
#
# 1. the embedding: your time features with `net.time.dim` numbers, then `net.time.linear1`, SiLU, `net.time.linear2`
# 2. `F.pixel_unshuffle(x, net.patch)` folds pixels into channels; then `net.conv_in`. The result is the first skip.
# 3. every layer of `net.down`; **every** output is a skip, also that of a Downsample
# 4. every layer of `net.middle`
# 5. every layer of `net.up`; a residual block first gets the latest unused skip: `torch.cat([h, skip], dim=1)`
# 6. `net.norm_out`, SiLU, `net.conv_out`, and `F.pixel_shuffle(h, net.patch)` unfolds the pixels
# 7. if `net.head` is not None, the output is `net.head(x, h, time)`: three more convolutions, which see the noisy image
#    and the prediction at full resolution and add what the coarse levels missed
#
# A layer that has an attribute `res` is a residual block (`layer.res`) followed by `layer.attend`, which is attention
# if it has `heads`, and otherwise nothing. A layer without `res` is a Downsample or an Upsample: call it, `layer(h)`.
#
# For residual blocks, attention and the time embedding, use your functions, or write them out; calling the network's
# own raises an error. If you come here directly: the texts above say what each of them computes.


# %% tags=["exercise", "exam"] name="exam"
def exam(net, x, t):
    """The output of a UNet, from its layers: x (B, C, H, W), t (B,) int64 -> (B, C, H, W)."""
    # begin solution
    time = net.time.linear2(F.silu(net.time.linear1(time_features(t, net.time.dim))))

    def run(layer, h):
        if not hasattr(layer, "res"):
            return layer(h)
        h = res_block(layer.res, h, time)
        return attention(layer.attend, h) if hasattr(layer.attend, "heads") else h

    h = net.conv_in(F.pixel_unshuffle(x, net.patch))
    skips = [h]
    for layer in net.down:
        h = run(layer, h)
        skips.append(h)
    for layer in net.middle:
        h = run(layer, h)
    for layer in net.up:
        if hasattr(layer, "res"):
            h = torch.cat([h, skips.pop()], dim=1)
        h = run(layer, h)
    h = F.pixel_shuffle(net.conv_out(F.silu(net.norm_out(h))), net.patch)
    return h if net.head is None else net.head(x, h, time)
    # end solution


# %% tags=["check"] name="exam"
if check.lab11.exam(exam):
    t = torch.full((16,), 300)
    print(f"largest difference to the network: {(exam(net, noisy(300), t) - net(noisy(300), t)).abs().max():.1e}")
    mine = sd.samplers.ddim(
        sd.clipped(lambda x_t, t: exam(net, x_t, t)), schedule, model.noise(4, seed=0), model.times(10)
    )
    theirs = sd.samplers.ddim(model.denoiser(), schedule, model.noise(4, seed=0), model.times(10))
    samples = torch.cat([sd.samplers.sample(mine), sd.samplers.sample(theirs)])
    sd.show(samples, titles=["your code", "the package"], columns=4)

    def zero_skip(module, arguments):
        """Before a block of the way up runs: set the channels of the skip connection, the last ones, to zero."""
        h = arguments[0].clone()
        h[:, module.first_skip_channel :] = 0
        return (h, *arguments[1:])

    channels, hooks = net.middle[1].res.conv2.out_channels, []
    for layer in net.up:
        if hasattr(layer, "res"):
            layer.first_skip_channel = channels
            hooks.append(layer.register_forward_pre_hook(zero_skip))
            channels = layer.res.conv2.out_channels
    x_t, t = noisy(50), torch.full((16,), 50)
    head, net.head = net.head, None  # it sees x_t, and would restore what the skips carry
    without = net(x_t, t)
    for hook in hooks:
        hook.remove()
    with_skips = net(x_t, t)
    net.head = head
    sd.show(torch.cat([x_t[:8], with_skips[:8], without[:8]]), titles=["x_t", "U-Net", "no skips"], columns=8)
    error, worse = ((x0 - shapes).square().mean().item() for x0 in (with_skips, without))
    predict.measured(
        "lab11.no_skips",
        "a" if worse < 3 * error else "c" if (without - x_t).square().mean() < 0.05 else "b",
        f"at t = 50 the error is {error:.3f} with skips, {worse:.3f} without",
    )

# %% [markdown] tags=["hint"] name="exam"
# Write a small function for one layer: with `res` (then residual block and perhaps attention) or without. The three
# loops are then short.

# %% [markdown] tags=["hint"] name="exam"
# `skips = [h]` after conv_in, and `skips.append(h)` after each layer down. On the way up `skips.pop()` takes the
# latest one. An Upsample takes none.

# %% [markdown] tags=["hint"] name="exam"
# One layer: `layer(h)` without `res`; otherwise `h = res_block(layer.res, h, time)` and, if
# `hasattr(layer.attend, "heads")`, `h = attention(layer.attend, h)`. Way up:
# `if hasattr(layer, "res"): h = torch.cat([h, skips.pop()], dim=1)`, then the layer.

# %% [markdown] tags=["explanation"] name="exam"
# Your code and the trained weights draw the same shapes: there is nothing else in the network. The real code is
# hardly longer: `networks/unet.py` and `networks/layers.py`. `networks/kernels.py` computes the same faster.
#
# In the last picture, which leaves out the head, hardly anything is left of the shapes without the skips: the middle of
# the network works at a quarter of the resolution that `conv_in` sees, and at low noise it has learned to leave nearly
# everything to the skips. (The test is a bit unfair: a network trained without skips would have learned to do better.)
