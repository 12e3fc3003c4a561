# %% [markdown]
# # Lab 0. Noise
#
# You turn images into noise: the data, the noise schedule, the forward process in small steps and in one, and the
# signal-to-noise ratio. At the end you know why there is a square root in front of the noise. You need Python and a
# little PyTorch. Time: 60 minutes. In a hurry? The last exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import torch

import shapedreamer as sd
from shapedreamer.labs import check, predict

train_data, _ = sd.recipes.sprites().make_data()
sprites, _ = train_data.batch(torch.arange(512))  # (512, 3, 16, 16) in [−1, 1]
stored = ((sprites + 1) * 127.5).round().byte().permute(0, 2, 3, 1)  # as a picture file stores them: (512, 16, 16, 3)
beta = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # β₁…β_1000 of the DDPM paper, its "linear schedule"


def noise_like(x, seed=0):
    """Standard normal noise of the shape of x: mean 0, variance 1, and every pixel is independent."""
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


# %% [markdown]
# ## The idea
#
# A diffusion model learns to turn noise into images. To train it, we do the opposite, which is easy: we turn images
# into noise, so gradually that every single step could be undone. This is the *forward process*. It has no network
# and nothing to learn, just a few lines of arithmetic. But every later lab stands on them, and a wrong root here
# ruins everything that follows without any error message.
#
# ## The data
#
# A picture file stores bytes from 0 (black) to 255 (white), with the colours last: (height, width, channels).
# PyTorch's convolutions want floating point numbers and the channels first: (B, C, H, W). And diffusion wants the
# numbers in [−1, 1].
#
# Why not [0, 1]? The noise that we add has mean 0, and the sampler will start from such noise. With the data centred
# too, the noisy images have no large offset that changes with $t$.

# %%
print(stored.shape, stored.dtype, "from", stored.min().item(), "to", stored.max().item())

# %% tags=["prediction"] name="overflow"
predict(
    "lab0.overflow",
    "c",
    a="torch.tensor([200], dtype=torch.uint8) * 2 is 400",
    b="torch.tensor([200], dtype=torch.uint8) * 2 is an error",
    c="torch.tensor([200], dtype=torch.uint8) * 2 is another number below 256",
)


# %% tags=["exercise"] name="to_images"
def to_images(pixels):
    """Return images (B, C, H, W) float32 in [−1, 1] from stored pixels (B, H, W, C) uint8 in 0…255.

    0 becomes −1, and 255 becomes 1.
    """
    # begin solution
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    # end solution


# %% tags=["check"] name="to_images"
if check.lab0.to_images(to_images):
    doubled = (torch.tensor([200], dtype=torch.uint8) * 2).item()
    predict.measured("lab0.overflow", "c", f"it is {doubled}")
    images = to_images(stored)
    print("mean", round(images.mean().item(), 2), "standard deviation", round(images.std().item(), 2))
    sd.show(images[:8], columns=8)

# %% [markdown] tags=["hint"] name="to_images"
# Three things to do: move the channels (`permute`), convert to float, scale. Convert *before* you calculate.

# %% [markdown] tags=["hint"] name="to_images"
# The range 0…255 has the width 255, and −1…1 has the width 2. Divide by 127.5; what is left to subtract?

# %% [markdown] tags=["hint"] name="to_images"
# `pixels.permute(0, 3, 1, 2).float() / 127.5 - 1`

# %% [markdown] tags=["explanation"] name="to_images"
# Bytes wrap around at 256, silently. So calculations with uint8 are a trap; convert first.
#
# Data in [0, 1] is one of the most frequent bugs in diffusion code. Nothing crashes, and the loss even looks fine.
# But black is then 0, which everybody else takes for the middle grey, and samples come out pale.

# %% [markdown]
# ## One small step
#
# One step of the forward process mixes an image with a little noise (Ho et al. 2020, equation 2):
#
# $$x_t = \sqrt{1-\beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon, \qquad \epsilon \sim \mathcal N(0, 1)$$
#
# $\beta_t$ is a small number: the variance of the noise that step $t$ adds. The table `beta` holds the paper's
# values, from 0.0001 to 0.02.
#
# Why is the image shrunk by $\sqrt{1-\beta_t}$? Think of variances. If $x_{t-1}$ has variance $v$, and the noise is
# independent, then $x_t$ has the variance $(1-\beta_t)\,v + \beta_t \cdot 1$. A factor $c$ multiplies the variance by
# $c^2$; this is where the roots come from.

# %% tags=["prediction"] name="variance"
predict(
    "lab0.variance",
    "b",
    a="if x has variance 1, the variance grows with every step",
    b="if x has variance 1, it keeps variance 1",
    c="if x has variance 1, the variance shrinks with every step",
)


# %% tags=["exercise"] name="noise_step"
def noise_step(x, beta_t, eps):
    """Return x_t, one step noisier than x.

    x, eps: images and standard normal noise, both (B, C, H, W);  beta_t: a number between 0 and 1
    """
    # begin solution
    return (1 - beta_t) ** 0.5 * x + beta_t**0.5 * eps
    # end solution


# %% tags=["check"] name="noise_step"
if check.lab0.noise_step(noise_step):
    x = noise_like(torch.empty(64, 1, 16, 16), seed=1)  # "images" of variance 1
    grown = x
    for t in range(1000):
        eps = noise_like(x, seed=2 + t)
        x = noise_step(x, beta[t].item(), eps)
        grown = grown + beta[t].item() ** 0.5 * eps  # the same without shrinking the image
    predict.measured(
        "lab0.variance",
        "b",
        f"the variance after 1000 steps is {x.var().item():.2f}; "
        f"without shrinking the image it is {grown.var().item():.1f}",
    )

# %% [markdown] tags=["hint"] name="noise_step"
# The formula is one line of Python. `beta_t` is a plain number, so `beta_t**0.5` is its root.

# %% [markdown] tags=["hint"] name="noise_step"
# Two products and a sum. *Both* factors have a square root.

# %% [markdown] tags=["hint"] name="noise_step"
# `(1 - beta_t)**0.5 * x + beta_t**0.5 * eps`

# %% [markdown] tags=["explanation"] name="noise_step"
# $(1-\beta_t)\cdot 1 + \beta_t \cdot 1 = 1$: the variance stays. This is called *variance preserving*. The network
# then gets inputs of about the same size at all timesteps.
#
# The noise without shrinking is a valid process as well ("variance exploding"; Karras et al. 2022 use it), but its
# $x_t$ must be rescaled before the network sees it.

# %% [markdown]
# ## The schedule
#
# To train, we need $x_t$ for random $t$, and a thousand small steps for each image would be slow. Fortunately, steps
# can be multiplied out. Two steps shrink the image by $\sqrt{1-\beta_1}\sqrt{1-\beta_2}$, and so on. The product has
# a name:
#
# $$\bar\alpha_t = (1-\beta_1)(1-\beta_2)\cdots(1-\beta_t), \qquad \bar\alpha_0 = 1$$
#
# It is the share of the image in the variance of $x_t$. $\bar\alpha_0 = 1$ stands for the clean image, before the
# first step. We put it in the table, so that entry $t$ of the table is timestep $t$. Forgetting it is the origin of
# most off-by-one errors in diffusion code.

# %% tags=["prediction"] name="half"
predict(
    "lab0.half",
    "a",
    a="half of the variance is noise well before the middle of the 1000 steps",
    b="half of the variance is noise about in the middle, at t = 500",
    c="half of the variance is noise well after the middle",
)


# %% tags=["exercise"] name="make_alpha_bar"
def make_alpha_bar(beta):
    """Return ᾱ_t for t = 0…T: a tensor (T + 1,), float64, from β₁…β_T, a tensor (T,), float64."""
    # begin solution
    return torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])
    # end solution


# %% tags=["check"] name="make_alpha_bar"
if check.lab0.make_alpha_bar(make_alpha_bar):
    alpha_bar = make_alpha_bar(beta)
    half = int((alpha_bar > 0.5).sum())
    predict.measured("lab0.half", "a", f"ᾱ falls below 0.5 at t = {half}, and ends at {alpha_bar[-1].item():.6f}")
    sd.plot(
        {
            "linear": (list(range(1001)), alpha_bar.tolist()),
            "cosine": (list(range(1001)), sd.schedule.cosine(1000).alpha_bar.tolist()),
        },
        x_label="t",
        y_label="ᾱ_t",
        title="How much of the image is left",
    )

# %% [markdown] tags=["hint"] name="make_alpha_bar"
# PyTorch has the cumulative product: `torch.cumprod(tensor, 0)`. Of which numbers?

# %% [markdown] tags=["hint"] name="make_alpha_bar"
# The product of $1-\beta$, not of $\beta$. Then put a 1 in front with `torch.cat`.

# %% [markdown] tags=["hint"] name="make_alpha_bar"
# `torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])`

# %% [markdown] tags=["explanation"] name="make_alpha_bar"
# The number $\bar\alpha_T$ above should be close to 0: nothing of the image may be left at the end, since the sampler
# will start with pure noise.
#
# Compare the two curves. The linear schedule (in $\beta$) destroys the image early, and in its last third there is
# hardly anything left to destroy. The cosine schedule (Nichol & Dhariwal 2021, equation 17) spreads the loss of the
# image over all steps. The tables are float64, because $1-\bar\alpha_1 = 0.0001$ keeps only a few digits in float32.

# %% [markdown]
# ## All steps at once
#
# What about the noise? Independent noises add up to one noise, and their variances add. Since the total variance
# stays 1 and the image has the share $\bar\alpha_t$ of it, $1-\bar\alpha_t$ is left for the noise. So $x_t$ follows
# from the clean image in one line (Ho et al. 2020, equation 4):
#
# $$x_t = \sqrt{\bar\alpha_t}\;x_0 + \sqrt{1-\bar\alpha_t}\;\epsilon$$
#
# Some well-known course material multiplies the noise by $1-\bar\alpha_t$, without the root. What would that do?

# %% tags=["prediction"] name="no_root"
predict(
    "lab0.no_root",
    "a",
    a="without the root, x_t has too little noise in the middle: the variance dips to 0.75",
    b="without the root, x_t has too much noise in the middle: the variance grows to 1.25",
    c="the root makes no difference, since the network gets used to it",
)


# %% tags=["exercise"] name="diffuse"
def diffuse(x0, t, eps, alpha_bar):
    """Return x_t, the images x0 with the noise of timestep t.

    x0, eps:   (B, C, H, W) float32
    t:         a timestep for each image, (B,) int64 in 0…T
    alpha_bar: the table (T + 1,), float64
    """
    # ᾱ_t is one number for each image, (B,). To multiply images it needs the shape (B, 1, 1, 1): .view(-1, 1, 1, 1)
    # begin solution
    a = alpha_bar[t].view(-1, 1, 1, 1).to(x0.dtype)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
    # end solution


# %% tags=["check"] name="diffuse"
if check.lab0.diffuse(diffuse):
    table = sd.schedule.linear(1000).alpha_bar
    ts = torch.tensor([0, 50, 100, 200, 400, 600, 800, 999])
    rows = [
        diffuse(image.expand(8, -1, -1, -1), ts, noise_like(image.expand(8, -1, -1, -1), seed=i), table)
        for i, image in enumerate(sprites[:4])
    ]
    sd.show(torch.cat(rows), titles=[f"t = {t}" for t in ts.tolist()], columns=8)
    at = range(0, 1001, 10)
    a = [table[t].item() for t in at]
    sd.plot(
        {"√(1−ᾱ) ε": (list(at), [v + (1 - v) for v in a]), "(1−ᾱ) ε": (list(at), [v + (1 - v) ** 2 for v in a])},
        x_label="t",
        y_label="variance of x_t",
        title="Data of variance 1, with and without the root",
    )
    t = torch.full((512,), 260)
    wide = noise_like(torch.empty(512, 3, 16, 16), seed=5)
    share = table[t[0]].item()
    without = share**0.5 * wide + (1 - share) * noise_like(wide, seed=6)
    with_root = diffuse(wide, t, noise_like(wide, seed=6), table)
    predict.measured(
        "lab0.no_root",
        "a",
        f"at t = {t[0]}, where ᾱ is {share:.2f}, data of variance 1 get the variance "
        f"{without.var().item():.2f} without the root and {with_root.var().item():.2f} with it",
    )

    # Is it really the same as many small steps? Noise one sprite 256 times in both ways, up to t = 300.
    start = sprites[:1].expand(256, -1, -1, -1)
    x = start
    for t in range(1, 301):
        x = noise_step(x, beta[t - 1].item(), noise_like(x, seed=100 + t))
    y = diffuse(start, torch.full((256,), 300), noise_like(start, seed=99), table)
    print("300 small steps, and all at once:")
    print(f"  standard deviation of a pixel: {x.std(0).mean().item():.3f} and {y.std(0).mean().item():.3f}")
    print(f"  the formula says √(1−ᾱ_300) =  {(1 - table[300].item()) ** 0.5:.3f}")
    print(f"  mean of the pixels: they differ by {(x.mean(0) - y.mean(0)).square().mean().sqrt().item():.3f} (RMS)")
    print(f"  chance alone explains          {(2 * (1 - table[300].item()) / 256) ** 0.5:.3f}")
    sd.show(torch.cat([x[:4], y[:4]]), titles=["300 steps", "at once"], columns=4)

# %% [markdown] tags=["hint"] name="diffuse"
# `alpha_bar[t]` with a tensor `t` picks an entry for each image. Give it three more dimensions, so that it broadcasts
# over channels and pixels.

# %% [markdown] tags=["hint"] name="diffuse"
# With `a = alpha_bar[t].view(-1, 1, 1, 1)`, the factor of the image is `a.sqrt()`. What is the one of the noise?

# %% [markdown] tags=["hint"] name="diffuse"
# `a = alpha_bar[t].view(-1, 1, 1, 1).to(x0.dtype)`, then `a.sqrt() * x0 + (1 - a).sqrt() * eps`

# %% [markdown] tags=["explanation"] name="diffuse"
# The root stands there because variances add, not standard deviations. We want the noise to have the *variance*
# $1-\bar\alpha_t$, and a factor $c$ gives it the variance $c^2$. Without the root the variance is
# $\bar\alpha_t + (1-\bar\alpha_t)^2$, which is 0.75 at $\bar\alpha_t = 0.5$: the dip in the plot.
#
# Does a network get used to it? In training, yes: the images are consistent. But the sampler's formulas assume the
# variance $1-\bar\alpha_t$. It then hands the network images with more noise than those that it was trained on. No
# loss curve shows this mismatch.
#
# The last picture compares the two ways to $x_t$: hundreds of small steps above, the formula below. They are not the
# same *pictures*, because they drew different noise. But they have the same *distribution*: the numbers above compare
# the mean and the standard deviation of all pixels over 256 tries.

# %% [markdown]
# ## How noisy is it? The signal-to-noise ratio
#
# "t = 300" says little: it is heavy noise with one schedule and light noise with another. What counts is the ratio of
# image to noise,
#
# $$\mathrm{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t}$$
#
# It falls from infinity to almost 0, over so many orders of magnitude that one plots its logarithm. Two images with
# the same SNR are equally noisy, whatever their timesteps are.

# %% tags=["prediction"] name="same_t"
predict(
    "lab0.same_t",
    "c",
    a="t = 500 of the linear schedule is as noisy as t = 500 of the cosine schedule",
    b="t = 500 of the linear schedule is as noisy as a smaller t of the cosine schedule",
    c="t = 500 of the linear schedule is as noisy as a larger t of the cosine schedule",
)


# %% tags=["exercise"] name="same_noise"
def same_noise(t, alpha_bar, other):
    """Return the timestep of the table `other` whose log-SNR is nearest to that of timestep t of the table `alpha_bar`.

    t: an int from 1 on;  alpha_bar, other: tables (T + 1,), float64;  returns an int from 1 on
    """

    # Leave out t = 0, where the SNR is infinite.
    # begin solution
    def log_snr(a):
        return torch.log(a / (1 - a))

    return int((log_snr(other[1:]) - log_snr(alpha_bar[t])).abs().argmin()) + 1
    # end solution


# %% tags=["check"] name="same_noise"
if check.lab0.same_noise(same_noise):
    linear, cosine = sd.schedule.linear(1000), sd.schedule.cosine(1000)
    equal = same_noise(500, linear.alpha_bar, cosine.alpha_bar)
    predict.measured("lab0.same_t", "c", f"t = 500 of linear has the noise of t = {equal} of cosine")
    eps = noise_like(sprites[:4], seed=3)
    shown = [
        sd.process.diffuse(sprites[:4], t, eps, schedule)
        for t, schedule in ((500, linear), (500, cosine), (equal, cosine))
    ]
    sd.show(torch.cat(shown), titles=["linear, t = 500", "cosine, t = 500", f"cosine, t = {equal}"], columns=4)
    ts = list(range(1, 1000))
    sd.plot(
        {"linear": (ts, linear.log_snr[1:1000].tolist()), "cosine": (ts, cosine.log_snr[1:1000].tolist())},
        x_label="t",
        y_label="log SNR",
        title="Noise schedules",
    )

# %% [markdown] tags=["hint"] name="same_noise"
# Compute the log-SNR of the one timestep, and that of all timesteps of the other table. Which is nearest?

# %% [markdown] tags=["hint"] name="same_noise"
# `(…).abs().argmin()` finds the place of the smallest distance. If you left out entry 0 with `other[1:]`, place 0 is
# timestep 1.

# %% [markdown] tags=["hint"] name="same_noise"
# With `snr = lambda a: torch.log(a / (1 - a))`: `int((snr(other[1:]) - snr(alpha_bar[t])).abs().argmin()) + 1`

# %% [markdown] tags=["explanation"] name="same_noise"
# Look at the three rows: the first and the third are the same pictures, and the second, which has the same $t$ as the
# first, is much clearer. So if somebody says "we re-noise to t = 300", ask for the schedule.
#
# Why the logarithm? $\bar\alpha$ near 0 and near 1 hides differences that matter: 0.999 and 0.99 look alike and
# differ by a factor of ten in the noise. And a nearest neighbour in $\bar\alpha$ may be another one than in log-SNR.

# %% [markdown]
# ## Exam
#
# Everything together, and something new: an image at timestep $s$ is noised further, to a later timestep $t$. It is
# the formula for $x_t$ once more, but with $\bar\alpha_t/\bar\alpha_s$, the product of the steps in between, in the
# place of $\bar\alpha_t$. (The live page does this for every frame.)
#
# Start from stored pixels and a table of $\beta$, and return both images.


# %% tags=["exercise", "exam"] name="exam"
def exam(pixels, beta, s, t, eps_s, eps_t):
    """Return x_s and x_t: the images at timestep s, and these noised further, from s to t.

    pixels:       stored images (B, H, W, C) uint8
    beta:         β₁…β_T, (T,) float64
    s, t:         ints, 0 ≤ s < t ≤ T
    eps_s, eps_t: standard normal noise (B, C, H, W), for x_s and for the way from s to t
    """
    # begin solution
    x0 = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])
    x_s = alpha_bar[s].sqrt() * x0 + (1 - alpha_bar[s]).sqrt() * eps_s
    ratio = alpha_bar[t] / alpha_bar[s]
    return x_s, ratio.sqrt() * x_s + (1 - ratio).sqrt() * eps_t
    # end solution


# %% tags=["check"] name="exam"
if check.lab0.exam(exam):
    few = stored[:8]
    x_s, x_t = exam(few, beta, 100, 300, noise_like(sprites[:8], seed=1), noise_like(sprites[:8], seed=2))
    sd.show(torch.cat([sprites[:8], x_s, x_t]), titles=["t = 0", "s = 100", "t = 300"], columns=8)

# %% [markdown] tags=["hint"] name="exam"
# Four lines: the images, the table $\bar\alpha$ with a 1 in front, $x_s$ from $x_0$, and $x_t$ from $x_s$.

# %% [markdown] tags=["hint"] name="exam"
# The last line is the same formula as the one before, with `ratio = alpha_bar[t] / alpha_bar[s]` and with `x_s` in
# the place of the clean image.

# %% [markdown] tags=["hint"] name="exam"
# `x_t = ratio.sqrt() * x_s + (1 - ratio).sqrt() * eps_t`

# %% [markdown] tags=["explanation"] name="exam"
# Check it on paper: the image in $x_t$ has the factor
# $\sqrt{\bar\alpha_t/\bar\alpha_s} \cdot \sqrt{\bar\alpha_s} = \sqrt{\bar\alpha_t}$, and the variances of the two
# noises add up to
# $\frac{\bar\alpha_t}{\bar\alpha_s}(1-\bar\alpha_s) + 1 - \frac{\bar\alpha_t}{\bar\alpha_s} = 1-\bar\alpha_t$. So
# $x_t$ is distributed as if it had been noised at once. With $s = t-1$ the ratio is $1-\beta_t$, and you are back at
# the single step.
#
# In the package this is `diffuse` and `transition` in src/shapedreamer/diffusion/process.py, and the tables are in
# schedule.py; the notation and the formulas are collected in docs/concepts.md of the repository. In lab 1 you go the
# other way: from noise to images.
