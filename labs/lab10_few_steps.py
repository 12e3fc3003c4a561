# %% [markdown]
# # Lab 10. Few steps
#
# Why does a diffusion model need many steps, and how can a model do with four calls, or one? You see why the mean
# blurs, sample a few-step model, write the losses of a critic, and train small generators in two dimensions. You need
# labs 0, 1 and 2; lab 8 helps with the exam. Time: 75 minutes. In a hurry? The last exercise is an exam; passing it
# skips the lab.

# %% tags=["setup"]
import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

import shapedreamer as sd
from shapedreamer.labs import check, predict

teacher, turbo = sd.load("mnist"), sd.load("mnist-turbo")  # the second was distilled from the first
schedule = teacher.schedule  # cosine, T = 1000
corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # the centres of the toy data


def real_points(n):
    """n points of the toy data, each near one of the four corners: (n, 2)."""
    return corners[torch.randint(4, (n,))] + 0.05 * torch.randn(n, 2)


def small_network(c_in, c_out):
    return nn.Sequential(nn.Linear(c_in, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, c_out))


def density(points):
    """Points (n, 2) as an image (1, 1, 32, 32) of the square from −1.5 to 1.5: the brighter, the more points."""
    cell = ((points + 1.5) / 3 * 32).long().clamp(0, 31)
    counts = torch.bincount(32 * (31 - cell[:, 1]) + cell[:, 0], minlength=1024).float()
    return (counts / counts.quantile(0.995).clamp(min=1)).clamp(max=1).view(1, 1, 32, 32) * 2 - 1


def near_corners(points):
    """The share of points at most 0.25 away from a corner, and how many of the corners have such points."""
    distance, which = torch.cdist(points, corners).min(1)
    return (distance < 0.25).float().mean().item(), len(set(which[distance < 0.25].tolist()))


# %% [markdown]
# ## Why the mean blurs
#
# A denoiser that is trained with the squared error predicts the *mean* of all images that are still possible. Take
# the smallest data set: one pixel that is −1 or +1, each with probability ½. With
# $x_t = \alpha x_0 + \sigma \epsilon$ and Bayes' rule,
#
# $$P(+1 \mid x_t) = \frac{e^{-(x_t-\alpha)^2/2\sigma^2}}{e^{-(x_t-\alpha)^2/2\sigma^2} + e^{-(x_t+\alpha)^2/2\sigma^2}}
#   = \frac{1}{1 + e^{-2\alpha x_t/\sigma^2}}$$
#
# and the mean is $P(+1 \mid x_t) - P(-1 \mid x_t)$. Simplify it:
# $\dfrac{1}{1+e^{-2a}} - \dfrac{1}{1+e^{2a}} = \tanh a$.

# %% tags=["prediction"] name="one_call"
# We call this exact denoiser once on pure noise at t = T. The predictions are …
predict(
    "lab10.one_call", "c", a="half of them −1, half of them +1", b="spread evenly from −1 to +1", c="all close to 0"
)


# %% tags=["exercise"] name="two_points"
def two_points(x_t, t, schedule):
    """The exact denoiser for pixels that are −1 or +1 with equal probability.

    x_t (B, C, H, W);  t (B,) int64  ->  E[x0 | x_t], (B, C, H, W)
    """
    alpha, sigma = schedule.alpha_sigma(t, like=x_t)  # (B, 1, 1, 1)
    # begin solution
    return torch.tanh(alpha * x_t / sigma**2)
    # end solution


# %% tags=["check"] name="two_points"
if check.lab10.two_points(two_points):
    grid = torch.linspace(-2.5, 2.5, 101)
    curves = {}
    for t in (100, 400, 600, 800, 1000):
        curves[f"t = {t}"] = (grid, two_points(grid.view(-1, 1, 1, 1), torch.full((101,), t), schedule).flatten())
    sd.plot(curves, "x_t", "x̂₀", "The mean of −1 and +1, given x_t")
    torch.manual_seed(0)
    guess = two_points(torch.randn(1000, 1, 1, 1), torch.full((1000,), 1000), schedule).abs()
    predict.measured(
        "lab10.one_call",
        "c" if guess.mean() < 0.1 else "a" if guess.mean() > 0.9 else "b",
        f"|x̂₀| is {guess.mean():.4f} on average at t = T",
    )

# %% [markdown] tags=["hint"] name="two_points"
# Compare the exponent $2\alpha x_t/\sigma^2$ of the formula with $2a$ in the line below it. What is a?

# %% [markdown] tags=["hint"] name="two_points"
# $a = \alpha x_t / \sigma^2$. The function `torch.tanh` exists.

# %% [markdown] tags=["hint"] name="two_points"
# `return torch.tanh(alpha * x_t / sigma**2)`

# %% [markdown] tags=["explanation"] name="two_points"
# In the plot, the curve of a small t is a switch, and that of t = 1000 is flat at 0: neither black nor white but
# grey, a value that no data point has. In an image, every pixel does this, and the result is a blur. The denoiser
# makes no mistake: grey has the smallest squared error. So one call cannot give a sharp image, no matter how large
# the network is, and a sampler takes small steps, in which the choice between −1 and +1 is made bit by bit.

# %% [markdown]
# ## A few-step model
#
# A few-step model is trained differently: it may return *any one* of the possible images instead of the mean of all.
# Then few steps are enough. Its sampler is the DDPM step of lab 1 with few timesteps: predict x̂₀, then draw $x_s$
# from the posterior $q(x_s \mid x_t, \hat x_0)$, whose mean and variance `sd.process.posterior` gives
# ([Xiao et al. 2022](https://arxiv.org/abs/2112.07804), equation 4).

# %% tags=["prediction"] name="calls"
# Digits by the teacher and by the few-step model, with 1 and 4 calls. Which pictures are blurred?
predict("lab10.calls", "a", a="the teacher's with 1 call", b="all with 1 call", c="none: digits are simple")


# %% tags=["exercise"] name="few_steps"
def few_steps(denoise, x_T, times, schedule, noise):
    """Sample with one denoiser call for each timestep but the last.

    x_T (B, C, H, W);  times: falling ints from T to 0;  noise(): fresh standard normal noise, called before each step
    that adds some  ->  images (B, C, H, W)
    """
    x = x_T
    for t, s in pairwise(times):
        x0 = denoise(x, torch.full((len(x),), t))
        # x_s from q(x_s | x_t, x̂₀); no noise at s = 0
        # begin solution
        x, variance = sd.process.posterior(x0, x, t, s, schedule)
        if s > 0:
            x = x + math.sqrt(variance) * noise()
        # end solution
    return x


# %% tags=["check"] name="few_steps"
if check.lab10.few_steps(few_steps):
    torch.manual_seed(0)
    x_T, rows, titles, sharp = teacher.noise(8, seed=0), [], [], {}
    for name, model in {"teacher": teacher, "turbo": turbo}.items():
        denoise = model.denoiser(model.label_vectors(3, 8))
        for calls, counted in ((1, "1 call"), (4, "4 calls")):
            images = few_steps(denoise, x_T, model.times(calls), schedule, lambda: torch.randn(8, 1, 28, 28))
            rows.append(images)
            sharp[name, calls] = (images.abs() > 0.9).float().mean().item()
            print(f"{name}, {counted}: {sharp[name, calls]:.0%} of the pixels are clearly black or white")
            titles.append(f"{name}, {counted}")
    sd.show(torch.cat(rows), titles=titles, columns=8)
    blurred = [key for key, share in sharp.items() if share < 0.75]
    predict.measured(
        "lab10.calls",
        "a" if blurred == [("teacher", 1)] else "c" if not blurred else "b",
        f"black or white with one call: teacher {sharp['teacher', 1]:.0%}, few-step model {sharp['turbo', 1]:.0%}",
    )

# %% [markdown] tags=["hint"] name="few_steps"
# `sd.process.posterior(x0, x, t, s, schedule)` returns mean and variance. How do you draw from a normal distribution
# with them?

# %% [markdown] tags=["hint"] name="few_steps"
# Mean plus standard deviation times noise; the standard deviation is the root of the variance. At s = 0 the variance
# is 0: leave the noise out.

# %% [markdown] tags=["hint"] name="few_steps"
# `x, variance = sd.process.posterior(x0, x, t, s, schedule)`, then `if s > 0: x = x + math.sqrt(variance) * noise()`.

# %% [markdown] tags=["explanation"] name="few_steps"
# The first row is what you just derived: the mean of all threes, and nearly the same for every noise. The third row
# also comes from a single call of a network of the same size, and is sharp: a different three from each noise, even if
# one of them could be a five. The live page uses such models, which is why it can dream in a browser.
#
# Look at `turbo.times(4)`: the steps are not even. The timesteps are those the model was trained at, cubic in
# spacing.

# %% [markdown]
# ## A critic
#
# How do you train a network to return *one possible* image? There is no single right answer to compare with. So a
# second network learns to compare: the *critic* C gives each image a score, and learns to score real images higher
# than generated ones. The generator learns to get scores as high as real images. We use the relativistic loss
# ([Jolicoeur-Martineau 2019](https://arxiv.org/abs/1807.00734)), which compares them in pairs:
#
# $$L_\text{critic} = \overline{\operatorname{softplus}\big(C(\text{fake}) - C(\text{real})\big)}, \qquad
#   L_\text{student} = \overline{\operatorname{softplus}\big(C(\text{real}) - C(\text{fake})\big)}$$
#
# with $\operatorname{softplus}(z) = \log(1 + e^z)$, a smooth version of max(0, z), and the mean over the batch.

# %% tags=["prediction"] name="guessing"
# What is the critic's loss if it cannot tell real from fake, and gives all images the same score?
predict("lab10.guessing", "b", a="0", b="log 2 = 0.693", c="it grows without bound")


# %% tags=["exercise"] name="losses"
def losses(real, fake):
    """(critic loss, student loss), two scalars, from the scores of real and generated images, (B, S) each."""
    # begin solution
    return F.softplus(fake - real).mean(), F.softplus(real - fake).mean()
    # end solution


# %% tags=["check"] name="losses"
if check.lab10.losses(losses):
    equal = losses(torch.zeros(8, 1), torch.zeros(8, 1))[0].item()
    predict.measured("lab10.guessing", "a" if equal < 0.1 else "b" if equal < 1 else "c", f"the loss is {equal:.4f}")
    gaps = torch.linspace(-6, 6, 61)
    both = torch.stack([torch.stack(losses(gap.view(1, 1), torch.zeros(1, 1))) for gap in gaps])
    curves = {"critic": (gaps, both[:, 0]), "student": (gaps, both[:, 1])}
    sd.plot(curves, "C(real) − C(fake)", "loss", "What one loses the other wins")

# %% [markdown] tags=["hint"] name="losses"
# The critic's loss must be small when real images have higher scores than fake ones, and the student's is the other
# way round.

# %% [markdown] tags=["hint"] name="losses"
# softplus of a very negative number is almost 0. So the critic's loss is softplus of (fake − real).

# %% [markdown] tags=["hint"] name="losses"
# `return F.softplus(fake - real).mean(), F.softplus(real - fake).mean()`

# %% [markdown] tags=["explanation"] name="losses"
# log 2 is the baseline of a critic: near it, it cannot tell real from fake. That is where training should end, so
# unlike every loss you have seen before, these losses do not show progress: they only show who is ahead at the
# moment. `shapedreamer distill` prints the baseline beside the critic's loss.

# %% [markdown]
# ## Keep the critic smooth
#
# A critic that becomes steep sends the student huge gradients, and both run in circles. The remedy is a penalty on
# the slope of the critic at real images, *R1* ([Mescheder et al. 2018](https://arxiv.org/abs/1801.04406)):
#
# $$R_1 = \frac{\gamma}{2}\; \overline{\lVert \nabla_x C(x) \rVert^2}$$
#
# with the sum of squares over all numbers of an image, and the mean over the images. The gradient is with respect to
# the *image*. Because the critic's weights must learn from it, the gradient must itself be differentiable:
# `create_graph=True`.

# %% tags=["prediction"] name="toy"
# The data are four points in the plane, the corners of a square. Two generators G(z) learn them from noise z: one with
# the squared error to random points of the data, one with your critic. Where do their points end up?
predict(
    "lab10.toy",
    "b",
    a="both at the corners",
    b="squared error: all in the centre of the square; critic: at the corners",
    c="squared error: at the corners; critic: all at one corner",
)


# %% tags=["exercise"] name="r1_penalty"
def r1_penalty(critic, x, gamma):
    """The R1 penalty, a scalar: critic(x) -> scores (B, S);  x (B, ...) real images;  gamma: float."""
    # 1. a copy of x that requires a gradient; 2. the gradient of the sum of its scores; 3. the penalty
    # begin solution
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gamma / 2 * gradient.square().flatten(1).sum(1).mean()
    # end solution


# %% tags=["check"] name="r1_penalty"
def train_on_corners(with_critic, steps):
    """Train a generator from 2-D noise to the corners, and return 2,000 of its points."""
    torch.manual_seed(0)
    generator, critic = small_network(2, 2), small_network(2, 1)
    generator_steps, critic_steps = (
        torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.0, 0.9)) for network in (generator, critic)
    )
    for _ in range(steps):
        real, fake = real_points(128), generator(torch.randn(128, 2))
        if with_critic:
            loss = losses(critic(real), critic(fake.detach()))[0] + r1_penalty(critic, real, 0.02)
            critic_steps.zero_grad()
            loss.backward()
            critic_steps.step()
            loss = losses(critic(real).detach(), critic(fake))[1]
        else:
            loss = (fake - real).square().mean()
        generator_steps.zero_grad()
        loss.backward()
        generator_steps.step()
    return generator(torch.randn(2000, 2)).detach()


if check.lab10.r1_penalty(r1_penalty) and losses(torch.zeros(1, 1), torch.zeros(1, 1)) is not None:
    by_error, by_critic = train_on_corners(False, 150), train_on_corners(True, 400)
    sd.show(
        torch.cat([density(points) for points in (real_points(2000), by_error, by_critic)]),
        titles=["data", "squared error", "critic"],
        columns=3,
    )
    (share, found), centre = near_corners(by_critic), by_error.norm(dim=1).mean().item()
    predict.measured(
        "lab10.toy",
        "c" if found < 2 else "b" if centre < 0.3 else "a",
        f"squared error: {centre:.2f} from the centre; critic: {share:.0%} near a corner, {found} of 4 found",
    )

# %% [markdown] tags=["hint"] name="r1_penalty"
# `x = x.detach().requires_grad_(True)`. Images do not influence each other's scores, so the gradient of the *sum* of
# all scores has each image's own gradient.

# %% [markdown] tags=["hint"] name="r1_penalty"
# `(gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)`; it has the shape of x.

# %% [markdown] tags=["hint"] name="r1_penalty"
# `return gamma / 2 * gradient.square().flatten(1).sum(1).mean()`

# %% [markdown] tags=["explanation"] name="r1_penalty"
# The middle picture is the blur of this lab in its purest form: the mean of the corners is the centre, where there is
# no data at all. The critic's generator finds all four corners. It also leaves points between them, because a
# continuous function of z cannot jump from one corner to the next. If you set γ to 0 or raise the learning rate,
# watch what happens.
#
# `shapedreamer distill` does the same with images: the student starts as a copy of the teacher, and the critic also
# sees a noisier version of the image, so that it can judge whether the two fit together. (docs/concepts.md in the
# repository has a section "Few-step models".)

# %% [markdown]
# ## Exam: matching distributions without a critic
#
# Another way to one call is *distribution matching* ([Yin et al. 2024](https://arxiv.org/abs/2311.18828), DMD). It
# needs two denoisers: that of the data ("teacher"), and that of the generator's own samples ("fake"). Take a sample
# x, add noise: $x_t = \alpha x + \sigma \epsilon$. If the fake denoiser's estimate differs from the teacher's, there
# are too many samples in the direction of the fake estimate. So move x against the difference
#
# $$g = \hat x_0^\text{fake}(x_t) - \hat x_0^\text{teacher}(x_t)$$
#
# To move a *generator*, write a loss whose gradient with respect to x is g: the mean over the batch of the inner
# product $x \cdot g$, in which **g is a constant**. No gradient may flow through the denoisers or $x_t$.


# %% tags=["exercise", "exam"] name="exam"
def exam(x, teacher, fake, t, eps, schedule):
    """A scalar loss whose gradient with respect to x[i] is (x̂₀_fake − x̂₀_teacher)[i] / B.

    x (B, C, H, W): samples of a generator, with a graph;  teacher, fake: denoisers (x_t, t) -> x̂₀
    t (B,) int64;  eps (B, C, H, W)
    """
    # begin solution
    with torch.no_grad():
        x_t = sd.process.diffuse(x, t, eps, schedule)
        g = fake(x_t, t) - teacher(x_t, t)
    return (x * g).flatten(1).sum(1).mean()
    # end solution


# %% tags=["check"] name="exam"
if check.lab10.exam(exam):
    torch.manual_seed(0)
    generator = small_network(2, 2)
    optimizer = torch.optim.Adam(generator.parameters(), lr=5e-3)
    # samples are points; a little width makes them a density with an exact denoiser (lab 8)
    exact = sd.oracle.gaussian_mixture(
        corners.view(4, 2, 1, 1), torch.full((4,), 0.05), torch.full((4,), 1 / 4), schedule
    )
    pictures = []
    for step in range(601):
        if step % 200 == 0:
            points = generator(torch.randn(2000, 2)).detach()
            share, found = near_corners(points)
            print(f"step {step}: {share:.0%} near a corner, {found} of 4 found")
            pictures.append(density(points))
        others = generator(torch.randn(128, 2)).detach().view(128, 2, 1, 1)
        fake = sd.oracle.gaussian_mixture(others, torch.full((128,), 0.05), torch.full((128,), 1 / 128), schedule)
        x = generator(torch.randn(128, 2)).view(128, 2, 1, 1)
        loss = exam(x, exact, fake, torch.randint(50, 600, (128,)), torch.randn(128, 2, 1, 1), schedule)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sd.show(torch.cat(pictures), titles=["step 0", "200", "400", "600"], columns=4)

# %% [markdown] tags=["hint"] name="exam"
# Compute x_t and g in a block `with torch.no_grad():`. Then only the x in the inner product has a graph.

# %% [markdown] tags=["hint"] name="exam"
# `x_t = sd.process.diffuse(x, t, eps, schedule)` and `g = fake(x_t, t) - teacher(x_t, t)`. The inner product of each
# sample is the sum over C, H, W of x · g.

# %% [markdown] tags=["hint"] name="exam"
# After the `with` block: `return (x * g).flatten(1).sum(1).mean()`

# %% [markdown] tags=["explanation"] name="exam"
# From a blob to four corners, in one call, with no critic and no real data: the teacher stands for the data. Training
# is short, so many points are still on their way. Here both denoisers are exact (lab 8). For images, the teacher is a
# diffusion model, and the fake denoiser is a copy of it that keeps learning to denoise the student's samples.
# `shapedreamer distill --dmd-weight` adds this to the critic.
#
# The usual mistake is a gradient through the denoisers: then x follows another gradient, which does not lead to the
# data. The other usual mistake is the sign: then samples flee from the data.
