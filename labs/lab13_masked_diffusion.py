# %% [markdown]
# # Lab 13. Masked diffusion
#
# You write diffusion without noise: the process hides pixels, and the reverse process reveals them. You write its
# loss, see it equal the log-likelihood, and measure the price of revealing many pixels at once. The exam turns
# it into a small language model. You need PyTorch and lab 1. Time: 75 minutes. In a hurry? The last exercise is an
# exam; passing it skips the lab.

# %% tags=["setup"]
import math

import torch
import torch.nn.functional as F
from torch import nn

import shapedreamer as sd
from shapedreamer.labs import check, predict


def frames():
    """All 86 square frames of 3 to 6 pixels in an image of 8x8: (86, 1, 8, 8), black is −1 and white +1."""
    found = []
    for size in range(3, 7):
        for row in range(9 - size):
            for column in range(9 - size):
                image = -torch.ones(8, 8)
                image[row : row + size, column : column + size] = 1
                image[row + 1 : row + size - 1, column + 1 : column + size - 1] = -1
                found.append(image)
    return torch.stack(found)[:, None]


images = frames()
T = 64
schedule = sd.schedule.Schedule(torch.linspace(1, 0, T + 1, dtype=torch.float64))  # ᾱ_t = 1 − t/T
denoise = sd.masked.finite_data(images)  # exact: (x_t, t) -> x̂₀, the mean of all frames that agree with x_t


def impossible(x):
    """The share of the images x (B, 1, 8, 8) that are not in the data."""
    return 1 - (x.flatten(1)[:, None] == images.flatten(1)).all(2).any(1).double().mean().item()


def uniform(like):
    """Independent uniform numbers in [0, 1)."""
    return torch.rand(like.shape)


# %% [markdown]
# ## Data that we know completely
#
# Every image in this lab is one of 86 square frames, all equally likely. Because there are so few, the best possible
# denoiser is a sum over all of them (`sd.masked.finite_data`; lab 8 does the same with noise). So whatever goes wrong
# below is the fault of the sampler, never of a network. And a bad sample is easy to recognise: it is not one of the 86.

# %%
sd.show(images[[0, 20, 40, 55, 65, 77, 80, 85]], columns=8)
print(f"{len(images)} images; log 86 = {math.log(86):.3f}")

# %% [markdown]
# ## Hide pixels instead of adding noise
#
# The forward process of *masked diffusion* keeps or hides each pixel on its own:
#
# $$x_t = \begin{cases} x_0 & \text{with probability } \bar\alpha_t \\
#   0 & \text{with probability } 1-\bar\alpha_t, \text{ the pixel is hidden} \end{cases}$$
#
# Visible pixels are −1 or +1, so 0 cannot be confused with them. $\bar\alpha_t$ falls from 1 at t = 0 to 0 at t = T, as
# it does for noise, but it is now a probability: no square roots. This is the process of MDLM
# ([Sahoo et al. 2024](https://arxiv.org/abs/2406.07524)) and MD4
# ([Shi et al. 2024](https://arxiv.org/abs/2406.04329)).

# %% tags=["prediction"] name="identify"
# We hide pixels of all frames with ᾱ = 1/4. For how many of them do the visible pixels fit only one of the 86 images?
predict(
    "lab13.identify",
    "c",
    a="for hardly any, less than 10%",
    b="for about a quarter, as many as there are visible pixels",
    c="for most, more than 60%",
)


# %% tags=["exercise"] name="hide"
def hide(x0, t, u, schedule):
    """Return x_t: a pixel of x0 is visible if its u is at most ᾱ_t; otherwise it is hidden (0).

    x0: (B, 1, H, W) of −1 and +1;  t: (B,) int64 in 0…T;  u: (B, 1, H, W), uniform in [0, 1)
    """
    # schedule.alpha_bar is a table of T + 1 numbers; each image has its own t
    # begin solution
    visible = u <= schedule.alpha_bar[t].view(-1, 1, 1, 1)
    return torch.where(visible, x0, 0.0)
    # end solution


# %% tags=["check"] name="hide"
if check.lab13.hide(hide):
    times = torch.tensor([0, 16, 32, 48, 56, 60, 64])
    frame, u = images[65:66].expand(7, -1, -1, -1), uniform(images[:1]).expand(7, -1, -1, -1)
    noise = torch.randn(1, 1, 8, 8).expand(7, -1, -1, -1)
    both = torch.cat([hide(frame, times, u, schedule), sd.process.diffuse(frame, times, noise, schedule)])
    sd.show(both, titles=[f"t = {t}" for t in times], columns=7)

    repeated, levels, shares = images.repeat(10, 1, 1, 1), list(range(0, 65, 4)), []
    for t in levels:
        x_t = hide(repeated, torch.full((860,), t), uniform(repeated), schedule)
        shares.append((denoise(x_t, None).abs() > 0.999).flatten(1).all(1).double().mean().item())
    sd.plot(
        {"only one image fits": ([1 - t / T for t in levels], shares)},
        "ᾱ, the share of visible pixels",
        "share of images",
        "How much has to be visible?",
    )
    known = shares[levels.index(48)]
    predict.measured(
        "lab13.identify",
        "a" if known < 0.1 else "c" if known > 0.6 else "b",
        f"with a quarter of the pixels visible, {100 * known:.0f}% of the images are determined",
    )

# %% [markdown] tags=["hint"] name="hide"
# `schedule.alpha_bar[t]` is one number for each image, (B,). Compared with u, (B, 1, H, W), it needs the shape
# (B, 1, 1, 1).

# %% [markdown] tags=["hint"] name="hide"
# `visible = u <= schedule.alpha_bar[t].view(-1, 1, 1, 1)`. Then choose between x0 and 0 with `torch.where`, or
# multiply.

# %% [markdown] tags=["hint"] name="hide"
# `return torch.where(visible, x0, 0.0)`

# %% [markdown] tags=["explanation"] name="hide"
# In the first row, black and white pixels turn grey one after the other, and those that are left keep their full
# contrast. In the second row, with noise at the same $\bar\alpha_t$, every pixel is a little wrong. That is the
# difference: a masked image holds less information, but all of it is true.
#
# The same u was used for all times. So a pixel that is hidden at t stays hidden at every later timestep, and the row
# is one walk of the forward process. If your comparison is the other way round, pixels vanish early and come back.
#
# The curve shows that a few pixels determine a frame. Neighbouring pixels carry nearly the same information; so do
# those of photographs.

# %% [markdown]
# ## The loss: a bound that is tight
#
# The network sees $x_t$ and returns a logit $\ell_i$ for each pixel: $p(x_{0,i} = +1 \mid x_t) =
# \mathrm{sigmoid}(\ell_i)$. Only hidden pixels are in question. Their cross-entropy, with the right weight, is a bound
# on the log-likelihood of the image. For $\bar\alpha$ uniform in [0, 1] and D pixels it is
#
# $$-\log p(x_0) \;\le\; D \cdot E_{\bar\alpha}\!\left[\frac{1}{1-\bar\alpha} \cdot
#   \frac1D \sum_{\text{hidden } i} -\log p(x_{0,i} \mid x_t)\right]$$
#
# The expression in brackets is the loss of one image. $1-\bar\alpha$ is the share of pixels that the process hides on
# average, so the weight makes images with few hidden pixels count as much as images with many.
#
# Work out the smallest example by hand. The data are two pixels that are always equal, so each of the two images has
# the probability 1/2. If one pixel is hidden, the other one tells what it is: loss 0. If both are hidden, which happens
# with probability $(1-\bar\alpha)^2$, each costs log 2. The weight takes away one factor, and
# $\int_0^1 (1-\bar\alpha)\,2\log 2\; d\bar\alpha = \log 2$. That is exactly $-\log\tfrac12$.

# %% tags=["prediction"] name="floor"
# The exact denoiser is computed from the data themselves. What is its loss on the frames, times the 64 pixels?
predict(
    "lab13.floor",
    "b",
    a="0, because it is exact",
    b="log 86 = 4.45, the surprise of one image among 86",
    c="64 log 2 = 44.4, the surprise of 64 pixels",
)


# %% tags=["exercise"] name="masked_loss"
def masked_loss(logit, x0, x_t, alpha_bar):
    """Return the weighted loss of each image, (B,).

    logit: (B, 1, H, W);  x0: (B, 1, H, W) of −1 and +1;  x_t: x0 with some pixels hidden (0);  alpha_bar: (B,) below 1
    """
    # 1. −log p(x₀ᵢ | x_t) for each pixel; F.binary_cross_entropy_with_logits needs targets 0 and 1
    # 2. the sum over hidden pixels, divided by the number of all pixels
    # 3. the weight
    # begin solution
    surprise = F.binary_cross_entropy_with_logits(logit, (x0 + 1) / 2, reduction="none")
    return (surprise * (x_t == 0)).flatten(1).mean(1) / (1 - alpha_bar)
    # end solution


# %% tags=["check"] name="masked_loss"
if check.lab13.masked_loss(masked_loss):

    def exact_logit(x_t, exact):
        """The logit of an exact denoiser, kept finite."""
        return 2 * torch.atanh(exact(x_t, None).clamp(-1 + 1e-6, 1 - 1e-6))

    # three images of 2x2 pixels: all 16 masks, and 200 values of ᾱ
    three = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, 1, 1, -1]]).view(3, 1, 2, 2)
    masks = torch.cartesian_prod(*[torch.tensor([False, True])] * 4).view(16, 1, 2, 2)  # True: hidden
    hidden, small = masks.flatten(1).sum(1), sd.masked.finite_data(three)
    for number, x0 in enumerate(three):
        x_t, bound = x0.masked_fill(masks, 0), 0.0
        for i in range(200):
            a = (i + 0.5) / 200
            losses = masked_loss(exact_logit(x_t, small), x0.expand(16, 1, 2, 2), x_t, torch.full((16,), a))
            bound += (a ** (4 - hidden) * (1 - a) ** hidden * 4 * losses).sum().item() / 200
        print(f"2x2 image {number}, by enumeration: bound {bound:.4f}; −log p = log 3 = {math.log(3):.4f}")

    repeated = images.repeat(60, 1, 1, 1)
    a = ((torch.arange(60) + 0.5) / 60).repeat_interleave(86)  # each image with 60 values from 0 to 1
    x_t = torch.where(uniform(repeated) <= a.view(-1, 1, 1, 1), repeated, 0.0)
    floor = 64 * masked_loss(exact_logit(x_t, denoise), repeated, x_t, a).mean().item()
    predict.measured(
        "lab13.floor",
        "a" if floor < 1 else "b" if floor < 10 else "c",
        f"64 times the loss is {floor:.2f}, where log 86 = {math.log(86):.2f}",
    )

    print("A small network learns from this loss …")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(128, 256), nn.SiLU(), nn.Linear(256, 256), nn.SiLU(), nn.Linear(256, 64))
    optimizer, curve = torch.optim.AdamW(network.parameters(), lr=2e-3), []
    for _ in range(1200):
        x0 = images[torch.randint(86, (128,))]
        a = (torch.arange(128) + torch.rand(1)) / 128 % 1 * 0.999  # spread evenly: less noise in the loss
        x_t = torch.where(uniform(x0) <= a.view(-1, 1, 1, 1), x0, 0.0)
        logit = network(torch.cat([x_t.flatten(1), (x_t == 0).flatten(1).float()], dim=1)).view(x0.shape)
        loss = masked_loss(logit, x0, x_t, a).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(64 * loss.item())
    means = torch.tensor(curve).view(-1, 40).mean(1)
    ticks = range(40, 1201, 40)
    sd.plot(
        {"network": (ticks, means), "log 86": (ticks, [math.log(86)] * 30)},
        "training step",
        "64 times the loss (nats per image)",
        "The loss has a floor, and we know it",
        log_y=True,
    )
    print(f"the network's bound: {means[0]:.1f} nats at first, {means[-1]:.2f} in the end; the floor is 4.45")

# %% [markdown] tags=["hint"] name="masked_loss"
# With `reduction="none"`, `F.binary_cross_entropy_with_logits` returns a number for each pixel. Its target is the
# probability of white, so −1 becomes 0 and +1 stays 1.

# %% [markdown] tags=["hint"] name="masked_loss"
# `surprise = F.binary_cross_entropy_with_logits(logit, (x0 + 1) / 2, reduction="none")`. Set it to zero where x_t is
# visible, and average over *all* pixels of an image: `.flatten(1).mean(1)`.

# %% [markdown] tags=["hint"] name="masked_loss"
# `return (surprise * (x_t == 0)).flatten(1).mean(1) / (1 - alpha_bar)`

# %% [markdown] tags=["explanation"] name="masked_loss"
# The enumeration gives log 3 for each image. For the exact denoiser the bound is an equality: revealing the pixels one
# at a time is the chain rule, $p(x_0) = p(x_1)\,p(x_2 \mid x_1)$ …, and the loss averages it over all orders. A
# loss of zero is impossible, since the first pixels are a true surprise.
#
# So this loss tells how far a network is from perfect, in nats per image. The loss of a noise prediction does not; its
# floor is unknown. The curve falls towards log 86 and cannot go below, up to the noise of its batches.
#
# Dividing by the *actual* number of hidden pixels is a related estimate. With $\bar\alpha$ uniform, as here, its mean
# is D/(D + 1) of the bound, and it varies less; but it is 0/0 if nothing is hidden. The mistakes that really hurt are
# to count visible pixels, which are known, and to leave out the weight.

# %% [markdown]
# ## Reveal: the ancestral step
#
# Sampling starts with all pixels hidden. A step goes from t to an earlier time s; write $a = \bar\alpha_t$ and
# $b = \bar\alpha_s > a$. A share $1-a$ of the pixels is hidden before the step, $1-b$ after it. So a hidden pixel
# becomes visible with probability
#
# $$\frac{b-a}{1-a}$$
#
# independently of all others, and its value is drawn: +1 with probability $(1+\hat x_0)/2$, because a pixel of −1 and
# +1 with the mean $\hat x_0$ is white that often. Visible pixels stay as they are.

# %% tags=["prediction"] name="one_step"
# Two pixels are always equal in the data. We sample with the exact denoiser in a single step. How often do they differ?
predict("lab13.one_step", "c", a="never, the denoiser is exact", b="in a quarter of the samples", c="in half of them")


# %% tags=["exercise"] name="reveal_step"
def reveal_step(x, x0, a, b, u, v):
    """Return x_s, after an ancestral step from t to s.

    x: x_t, (B, 1, H, W), with 0 where a pixel is hidden;  x0: the denoiser's answer, in [−1, 1]
    a, b: ᾱ_t and ᾱ_s, floats
    u, v: uniform in [0, 1), like x: a hidden pixel is revealed if its u is below (b−a)/(1−a), and white if its v is
    below (1 + x̂₀)/2
    """
    # begin solution
    value = torch.where(v < (1 + x0) / 2, 1.0, -1.0)
    reveal = (x == 0) & (u < (b - a) / (1 - a))
    return torch.where(reveal, value, x)
    # end solution


# %% tags=["check"] name="reveal_step"
if check.lab13.reveal_step(reveal_step):

    def ancestral(exact, x, steps):
        """All x from your step, in equal steps of ᾱ from 0 to 1."""
        seen = [x]
        for i in range(steps):
            x = reveal_step(x, exact(x, None), i / steps, (i + 1) / steps, uniform(x), uniform(x))
            seen.append(x)
        return seen

    pair = sd.masked.finite_data(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).view(2, 1, 1, 2))
    x = ancestral(pair, torch.zeros(10_000, 1, 1, 2), 1)[-1].flatten(1)
    differ = (x[:, 0] != x[:, 1]).double().mean().item()
    predict.measured(
        "lab13.one_step",
        "a" if differ < 0.1 else "b" if differ < 0.4 else "c",
        f"in one step the two pixels differ in {100 * differ:.1f}% of 10,000 samples",
    )
    walk = ancestral(denoise, torch.zeros(3, 1, 8, 8), 64)
    chosen = [8, 16, 24, 32, 40, 48, 56, 64]
    sd.show(torch.stack([walk[i] for i in chosen], 1).flatten(0, 1), titles=[f"step {i}" for i in chosen], columns=8)
    counts, shares = [1, 2, 4, 8, 16, 32, 64, 128], []
    for steps in counts:
        x = ancestral(denoise, torch.zeros(300, 1, 8, 8), steps)[-1]
        shares.append(impossible(x))
        print(f"{steps:4} steps: {100 * shares[-1]:5.1f}% of the samples are no frames")
        if steps in (1, 4, 16, 128):
            sd.show(x[:8], titles=[f"{steps} step{'s' * (steps > 1)}"], columns=8)
    title = "Ancestral sampling with the exact denoiser"
    sd.plot({"frames of 8x8": (counts, shares)}, "steps", "share of impossible images", title, log_x=True)

# %% [markdown] tags=["hint"] name="reveal_step"
# Three questions for each pixel: is it hidden (`x == 0`)? Is it revealed now? Which value does it get? Answer each in
# a tensor, then combine them.

# %% [markdown] tags=["hint"] name="reveal_step"
# `value = torch.where(v < (1 + x0) / 2, 1.0, -1.0)` and `reveal = (x == 0) & (u < (b - a) / (1 - a))`

# %% [markdown] tags=["hint"] name="reveal_step"
# `return torch.where(reveal, value, x)`

# %% [markdown] tags=["explanation"] name="reveal_step"
# In one step, the denoiser returns 1/2 as the probability of white for each of the two pixels. That is true for each
# alone. But both are drawn at once, so they differ in half of the cases. **Pixels that are revealed in the same step
# are drawn independently.** No network can fix this: it outputs one probability for each pixel, and these cannot say
# how pixels go together.
#
# The samples of 1 step are independent pixels; most of those of 4 steps are torn frames. More steps help because fewer
# pixels share a step. Even with 128 steps two pixels meet in a step now and then, so a few percent are left.
#
# Where does $(b-a)/(1-a)$ come from? A pixel is hidden at t with probability $1-a$ and at s with probability $1-b$, and
# every pixel that is hidden at s is also hidden at t, which is later. So a pixel that is hidden at t is still hidden at
# s with probability $(1-b)/(1-a)$. Subtract that from 1.

# %% [markdown]
# ## One pixel at a time, in which order?
#
# Ancestral sampling leaves to chance how many pixels a step reveals. One can also fix the number: in each step, reveal
# the k hidden pixels with the highest *score*. Random scores give a random order. With $|\hat x_0|$ as score, the
# pixels come first about which the denoiser is most certain (MaskGIT, [Chang et al.
# 2022](https://arxiv.org/abs/2202.04200)).

# %% tags=["prediction"] name="order"
# We reveal 2 pixels in each step, with the exact denoiser. Which order gives fewer impossible images?
predict(
    "lab13.order",
    "a",
    a="random order",
    b="certain pixels first",
    c="both the same",
)


# %% tags=["exercise"] name="reveal_best"
def reveal_best(x, value, score, k):
    """Reveal the k hidden pixels with the highest score in each image, and all of them if there are fewer.

    x: (B, 1, H, W), with 0 where a pixel is hidden;  value: the drawn values, −1 or +1, like x;  score: like x
    """
    # Visible pixels must not take part: give them a score of −∞. topk(k, dim=1) returns (values, indices).
    # begin solution
    flat = score.masked_fill(x != 0, -math.inf).flatten(1)
    best = flat.topk(min(k, flat.shape[1]), dim=1).indices
    reveal = torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, True).view(x.shape)
    return torch.where(reveal & (x == 0), value, x)
    # end solution


# %% tags=["check"] name="reveal_best"
if check.lab13.reveal_best(reveal_best):

    def in_order(x, k, score):
        """All x of a run that reveals k pixels in each step; score is a function of x̂₀."""
        seen = [x]
        while (x == 0).any():
            x0 = denoise(x, None)
            value = torch.where(uniform(x) < (1 + x0) / 2, 1.0, -1.0)
            x = reveal_best(x, value, score(x0), k)
            seen.append(x)
        return seen

    scores = {"random": uniform, "certain first": torch.abs}
    for name, score in scores.items():
        print(f"{name}, one pixel a step:")
        walk = in_order(torch.zeros(2, 1, 8, 8), 1, score)
        sd.show(torch.stack(walk[8::8], 1).flatten(0, 1), titles=[f"{i} visible" for i in range(8, 65, 8)], columns=8)
    ks, shares = [64, 16, 8, 4, 2, 1], {name: [] for name in scores}
    for k in ks:
        for name, score in scores.items():
            x = in_order(torch.zeros(200, 1, 8, 8), k, score)[-1]
            shares[name].append(impossible(x))
            print(f"{k:2} pixels a step, {name}: {100 * shares[name][-1]:5.1f}% impossible", end="")
            print(f"; {len(x.flatten(1).unique(dim=0))} different images among 200")
    lines = {name: (ks, values) for name, values in shares.items()}
    sd.plot(lines, "pixels revealed in a step", "share of impossible images", "Order matters", log_x=True)
    chance, certain = shares["random"][ks.index(2)], shares["certain first"][ks.index(2)]
    predict.measured(
        "lab13.order",
        "c" if abs(chance - certain) < 0.05 else "a" if chance < certain else "b",
        f"with 2 pixels a step, {100 * chance:.0f}% are impossible in random order, {100 * certain:.0f}% with certain "
        "pixels first",
    )

# %% [markdown] tags=["hint"] name="reveal_best"
# `flat = score.masked_fill(x != 0, -math.inf).flatten(1)` has a score for each pixel, and visible ones last. If k is
# more than the number of pixels, `topk` raises an error: use `min(k, flat.shape[1])`.

# %% [markdown] tags=["hint"] name="reveal_best"
# `best = flat.topk(min(k, flat.shape[1]), dim=1).indices`. Turn the indices into a mask:
# `torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, True).view(x.shape)`

# %% [markdown] tags=["hint"] name="reveal_best"
# If fewer than k are hidden, the best k contain visible pixels: `return torch.where(reveal & (x == 0), value, x)`.

# %% [markdown] tags=["explanation"] name="reveal_best"
# With one pixel a step there is not a single impossible image, in either order. Each pixel is drawn in view of all
# that came before, and this is the chain rule of probability: the samples are exact if the denoiser is. (The
# order may depend on what is visible, but not on the values drawn in the same step. Certain *values* first, as in a
# score that looks at `value`, would be biased.)
#
# With 2 to 8 pixels a step, revealing certain pixels first does worse here, which surprises many. At the start the most
# certain pixels are those in the corners and along the border, which are mostly black. They say little about the frame,
# so nearly everything is decided late, by neighbours that depend on each other and share a step. Compare the first two
# pictures: one looks around, the other works its way in from the border. With a trained network the order has another
# effect: certain pixels are those where the network is rarely wrong. That is why MaskGIT uses it, with some randomness.
# `sd.masked.confidence` adds that as Gumbel noise.

# %% [markdown]
# ## Hide again
#
# So far a visible pixel stays for ever, even if it was a mistake. *Remasking* (ReMDM,
# [Wang et al. 2025](https://arxiv.org/abs/2503.00307)) hides each visible pixel again with a small probability
# $\sigma$ in every step. The next prediction of this pixel then depends on all the others, and can be different.
#
# After the step to s, a share b of the pixels must still be visible on average; otherwise too much is left for the last
# step. Before the step a share $a$ is visible; of these, $1-\sigma$ stay. With which probability r must a hidden pixel
# be revealed, so that the sum is b?
#
# $$(1-\sigma)\,a + r\,(1-a) = b$$

# %% tags=["prediction"] name="again"
# The ancestral sampler with 16 steps, but now every step hides some visible pixels again. Impossible images become …
predict(
    "lab13.again",
    "a",
    a="much fewer, because mistakes are corrected",
    b="no fewer, because hidden pixels must be drawn again, with new mistakes",
    c="more, because pixels that were right are lost",
)


# %% tags=["exercise"] name="remask_step"
def remask_step(x, x0, a, b, sigma, u, v):
    """Return x_s, after a step that hides visible pixels with probability sigma, and reveals hidden ones.

    x, x0, a, b, v: as in reveal_step;  sigma: a float;  u: a visible pixel is hidden if its u is below sigma, and a
    hidden one is revealed if its u is below r
    """
    # begin solution
    r = (b - (1 - sigma) * a) / (1 - a)
    value = torch.where(v < (1 + x0) / 2, 1.0, -1.0)
    return torch.where(x == 0, torch.where(u < r, value, 0.0), torch.where(u < sigma, 0.0, x))
    # end solution


# %% tags=["check"] name="remask_step"
if check.lab13.remask_step(remask_step):

    def remasking(x, steps, eta):
        """All x from your step. σ is the share η of the largest that is possible, min(1, (1−b)/a)."""
        seen = [x]
        for i in range(steps):
            a, b = i / steps, (i + 1) / steps
            sigma = eta * min(1.0, (1 - b) / a) if a > 0 else 0.0
            x = remask_step(x, denoise(x, None), a, b, sigma, uniform(x), uniform(x))
            seen.append(x)
        return seen

    walk = remasking(torch.zeros(3, 1, 8, 8), 16, 1.0)
    chosen = [2, 4, 6, 8, 10, 12, 14, 16]
    print("With η = 1: between two pictures of a row, visible pixels disappear and come back changed.")
    sd.show(torch.stack([walk[i] for i in chosen], 1).flatten(0, 1), titles=[f"step {i}" for i in chosen], columns=8)
    etas, lines = [0.0, 0.25, 0.5, 1.0], {}
    for steps in (4, 16, 64):
        found = [impossible(remasking(torch.zeros(200, 1, 8, 8), steps, eta)[-1]) for eta in etas]
        lines[f"{steps} steps"] = (etas, found)
        print(f"{steps:3} steps: ", end="")
        print(", ".join(f"{100 * p:5.1f}% impossible with η = {eta}" for eta, p in zip(etas, found, strict=True)))
    sd.plot(lines, "η", "share of impossible images", "Hiding pixels again")
    before, after = lines["16 steps"][1][0], lines["16 steps"][1][-1]
    predict.measured(
        "lab13.again",
        "a" if after < before / 2 else "c" if after > 1.2 * before else "b",
        f"in 16 steps, {100 * before:.0f}% of the images are impossible with η = 0, {100 * after:.0f}% with η = 1",
    )

# %% [markdown] tags=["hint"] name="remask_step"
# First solve the equation for r. With σ = 0 it must give $(b-a)/(1-a)$.

# %% [markdown] tags=["hint"] name="remask_step"
# `r = (b - (1 - sigma) * a) / (1 - a)`. Then hidden pixels (`x == 0`) and visible ones follow different rules, but both
# compare u.

# %% [markdown] tags=["hint"] name="remask_step"
# Hidden pixels become `torch.where(u < r, value, 0.0)`, visible ones `torch.where(u < sigma, 0.0, x)`. A third
# `torch.where(x == 0, ..., ...)` chooses.

# %% [markdown] tags=["explanation"] name="remask_step"
# With the same number of denoiser calls, far fewer images are impossible. In each step a torn frame loses some pixels,
# and those that did not fit are replaced by others that do. r is larger than $(b-a)/(1-a)$: what is hidden again
# must be made up for.
#
# It works because the denoiser returns something useful even if no image fits: `finite_data` then takes the images with
# the fewest differences. A trained network has seen only images without contradictions. So start with a small η, such
# as `--eta 0.05` on the command line, and measure.
#
# Gaussian diffusion has the same idea under another name. With $\eta = 0$ DDIM keeps the noise it has, and with
# $\eta = 1$ it replaces some in every step, which corrects earlier errors.

# %% [markdown]
# ## Exam: from pixels to letters
#
# A pixel has two values, but nothing depends on that. With K values the denoiser returns K probabilities for each
# place. This is how masked diffusion writes text. Here the "images" are 20 words of four letters, and a letter is a
# number from 0 to 25. 26 means hidden. Again the denoiser is exact.


# %% tags=["setup"]
WORDS = "cold cord card ward warm word wood wool cool coal goal gold bold ball fall fail tail tall tale sale".split()
HIDDEN = 26
codes = torch.tensor([[ord(letter) - ord("a") for letter in word] for word in WORDS])  # (20, 4)


def predict_letters(x):
    """The exact denoiser: x (B, 4) int64, 26 is hidden -> probabilities (B, 4, 26). Visible letters get 1."""
    agree = (x[:, None] == codes).sum(2)  # letters in common with each word
    match = (agree == agree.amax(1, keepdim=True)).float()
    p = match / match.sum(1, keepdim=True) @ F.one_hot(codes, 26).flatten(1).float()
    visible = F.one_hot(x, 27)[..., :26].float()
    return torch.where((x == HIDDEN)[..., None], p.view(-1, 4, 26), visible)


def to_text(x):
    """Words, with a dot for a hidden letter."""
    return ["".join("abcdefghijklmnopqrstuvwxyz·"[code] for code in row) for row in x.tolist()]


# %% [markdown]
# Write the ancestral sampler for tokens, with $\bar\alpha$ in equal steps: after step i of n, a token is visible with
# probability i/n. So step i (from 0) starts at $a = i/n$ and ends at $b = (i+1)/n$.

# %% tags=["prediction"] name="words"
# One step for all four letters: how many of the samples are among the 20 words?
predict("lab13.words", "b", a="fewer than 1 in 20", b="about 1 in 7", c="more than half")


# %% tags=["exercise", "exam"] name="exam"
def exam(predict_tokens, x, hidden, steps):
    """Return tokens (B, L) int64: x with every hidden token revealed, by ancestral sampling in `steps` calls.

    predict_tokens: (B, L) int64 -> probabilities (B, L, K), which sum to 1 over the last dimension
    x: (B, L) int64; a token equal to the int `hidden` is hidden, and all others are a prompt, which stays
    """
    # torch.multinomial(p, 1) draws from each row of a matrix (N, K)
    # begin solution
    for i in range(steps):
        p = predict_tokens(x)
        value = torch.multinomial(p.flatten(0, 1), 1).view(x.shape)
        reveal = torch.rand(x.shape) < 1 / (steps - i)  # (b − a)/(1 − a)
        x = torch.where((x == hidden) & reveal, value, x)
    return x
    # end solution


# %% tags=["check"] name="exam"
if check.lab13.exam(exam):
    empty, real = torch.full((400, 4), HIDDEN), {}
    for steps in (1, 2, 4, 16, 64):
        words = to_text(exam(predict_letters, empty, HIDDEN, steps))
        real[steps] = sum(word in WORDS for word in words) / len(words)
        print(f"{steps:3} steps: {100 * real[steps]:5.1f}% are words: {' '.join(words[:9])} …")
    prompt = empty[:8].clone()
    prompt[:, 0], prompt[:, 3] = ord("w") - ord("a"), ord("d") - ord("a")
    print(f"from the prompt {to_text(prompt)[0]}: {' '.join(to_text(exam(predict_letters, prompt, HIDDEN, 16)))}")
    predict.measured(
        "lab13.words",
        "a" if real[1] < 0.05 else "b" if real[1] < 0.5 else "c",
        f"in one step {100 * real[1]:.1f}% of 400 samples are words, in 64 steps {100 * real[64]:.1f}%",
    )

# %% [markdown] tags=["hint"] name="exam"
# It is `reveal_step` in a loop. Only the draw is new: a value from K probabilities in the place of two.

# %% [markdown] tags=["hint"] name="exam"
# `value = torch.multinomial(p.flatten(0, 1), 1).view(x.shape)`. With a = i/n and b = (i + 1)/n the probability
# $(b-a)/(1-a)$ is 1/(n − i), which is 1 in the last step.

# %% [markdown] tags=["hint"] name="exam"
# `reveal = torch.rand(x.shape) < 1 / (steps - i)` and `x = torch.where((x == hidden) & reveal, value, x)`. In every
# turn call `predict_tokens(x)` again.

# %% [markdown] tags=["explanation"] name="exam"
# In one step you get letter salad: each letter is common at its place, but few of them go together. With many steps
# nearly all samples are words. A prompt needs no trick, and it can be anywhere: a language model that writes from left
# to right cannot fill in the middle so easily. On the other hand, it draws one token in each call and so never two at
# once: it needs more calls, and is free of the error that you have measured.
#
# Real models of this kind have a transformer with a large vocabulary and the loss of this lab (MDLM; LLaDA,
# [Nie et al. 2025](https://arxiv.org/abs/2502.09992)). In this package, `shapedreamer train shapes --process masked`
# trains a U-Net on black-and-white shapes; all of it is in src/shapedreamer/diffusion/masked.py, and
# [the concepts](../docs/concepts.md#masked-diffusion) summarise it.
