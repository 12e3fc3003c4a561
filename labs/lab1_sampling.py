# %% [markdown]
# # Lab 1. Sampling
#
# You write DDPM sampling, the loop that turns noise into an image. You also leave out the noise on purpose and see
# what happens. You need Python, a little PyTorch, and lab 0 (or: you know that
# $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$). Time: 60 to 90 minutes. In a hurry? The last
# exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import math
from itertools import pairwise

import torch

import shapedreamer as sd
from shapedreamer.labs import check, predict

model = sd.load("sprites")  # a trained network that comes with the package; its images are (3, 16, 16)
schedule = model.schedule  # schedule.alpha_bar[t] is ᾱ_t for t = 0…T, float64; schedule.T is T
denoise = model.denoiser()  # (x_t, t) -> x̂₀, the prediction of the clean image
train_data, _ = sd.recipes.sprites().make_data()
sprites, _ = train_data.batch(torch.arange(1000))  # what the network was trained to draw: (1000, 3, 16, 16) in [−1, 1]
start = model.noise(8, seed=1)  # standard normal noise x_T, (8, 3, 16, 16)

# %% [markdown]
# ## What you get
#
# Here are eight of the sprites that the network was trained on. They are 16 pixels high and wide, with values from −1
# (black) to 1 (white). It was trained on them with noise of all strengths, and on one task: to predict the clean
# image.

# %%
sd.show(sprites[:8], columns=8)

# %% [markdown]
# The trained network is wrapped in a function, the *denoiser*. It takes noisy images $x_t$ and the timestep $t$ of
# each image, and returns $\hat x_0$, its prediction of the clean images. Everything in this lab is built on this one
# function:
#
#     x0 = denoise(x_t, t)        # x_t (B, 3, 16, 16), t (B,) int64 with values in 1…T
#
# Let us see how good it is. We add noise to four sprites at four timesteps, and denoise each with a single call.

# %%
times = torch.tensor([50, 200, 350, 450])
alpha = schedule.alpha_bar[times].sqrt().float().view(-1, 1, 1, 1)
sigma = (1 - schedule.alpha_bar[times]).sqrt().float().view(-1, 1, 1, 1)
noisy = alpha * sprites[:4] + sigma * torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
sd.show(
    torch.cat([sprites[:4], noisy, denoise(noisy, times)]),
    titles=[f"t = {t}" for t in times.tolist()],
    columns=4,
)

# %% [markdown]
# The rows are: the sprite, the sprite with noise, and the prediction from the noisy image. Compare the first and the
# last row. On the left the prediction is nearly perfect. On the right the noise hides the details, and the prediction
# is soft.
#
# What does the network predict if there is *nothing but* noise? At $t = T$ the image is gone: the noise could have
# come from any sprite.

# %% tags=["prediction"] name="one_call"
predict(
    "lab1.one_call",
    "b",
    a="from pure noise, one call gives a sharp sprite, a different one for each noise",
    b="from pure noise, one call gives a blur, nearly the same for each noise",
    c="from pure noise, one call gives noise",
)


# %% tags=["exercise"] name="one_call"
def one_call(denoise, x_T, schedule):
    """Return the network's prediction of the clean images from pure noise x_T (B, C, H, W), by one call at t = T."""
    # The denoiser needs a timestep for each image: an int64 tensor (B,). torch.full(shape, value) makes one.
    # begin solution
    return denoise(x_T, torch.full((len(x_T),), schedule.T))
    # end solution


# %% tags=["check"] name="one_call"
if check.lab1.one_call(one_call):
    guess = one_call(denoise, start, schedule)
    mean_image = sprites.mean(0, keepdim=True)
    sd.show(
        torch.cat([start, guess, mean_image.expand(8, -1, -1, -1)]), titles=["noise", "prediction", "mean"], columns=8
    )
    distance = (guess - mean_image).square().mean().sqrt().item()
    between = (sprites - mean_image).square().mean().sqrt().item()
    predict.measured(
        "lab1.one_call",
        "b",
        f"the predictions are {distance:.2f} away from the mean of 1000 sprites (root mean square), "
        f"a real sprite {between:.2f}",
    )

# %% [markdown] tags=["hint"] name="one_call"
# The first cell with pictures calls the denoiser as well: `denoise(noisy, times)`. What are the images here, and what
# are the times?

# %% [markdown] tags=["hint"] name="one_call"
# All images are at the same timestep, `schedule.T`. There are `len(x_T)` of them.

# %% [markdown] tags=["hint"] name="one_call"
# `return denoise(x_T, torch.full((len(x_T),), schedule.T))`

# %% [markdown] tags=["explanation"] name="one_call"
# The rows are: noise, the prediction from it, and the mean of 1000 training sprites. The second row is almost the
# third.
#
# That is no failure. The network was trained with the squared error, and the best answer under the squared error is
# the *mean* of all images that are still possible: $\hat x_0 = \mathrm E[x_0 \mid x_t]$. From pure noise every sprite
# is possible.
#
# So one call is not enough. The way out is to go in small steps: take a *little* of the prediction, get an image with
# slightly less noise, ask again. Each step rules out some sprites, and the mean of the rest gets sharper. The
# question is how to take such a step.

# %% [markdown]
# ## The step
#
# We are at timestep $t$ with the noisy image $x_t$, and want to go to a smaller timestep $s$. Suppose that we knew
# the clean image $x_0$. Then the forward process tells us exactly how $x_s$ is distributed: as a Gaussian (Ho et al.
# 2020, equations 6 and 7). With $\beta = 1 - \bar\alpha_t/\bar\alpha_s$, the variance of the noise that was added
# between $s$ and $t$, its mean is
#
# $$\tilde\mu = \frac{\sqrt{\bar\alpha_s}\,\beta}{1-\bar\alpha_t}\;x_0
# + \frac{\sqrt{1-\beta}\,(1-\bar\alpha_s)}{1-\bar\alpha_t}\;x_t$$
#
# It is a weighted sum of the clean image and of the noisy one. (The paper has $s = t-1$. Then $\beta$ is its
# $\beta_t$.)

# %% tags=["prediction"] name="weights"
predict(
    "lab1.weights",
    "a",
    a="in one step from t = 250 to 249, the mean is mostly x_t, with about one percent of x0",
    b="in one step from t = 250 to 249, the mean is about half x_t and half x0",
    c="in one step from t = 250 to 249, the mean is mostly x0",
)


# %% tags=["exercise"] name="posterior_mean"
def posterior_mean(x_t, x0, t, s, schedule):
    """Return the mean of x_s, given x_t and x0.

    x_t, x0: images (B, C, H, W)
    t, s:    ints, 0 ≤ s < t ≤ T
    """
    # ᾱ_t is schedule.alpha_bar[t]. Compute ᾱ_t, ᾱ_s and β first, then the two weights, then the sum.
    # begin solution
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    beta = 1 - a / b
    weight_x0 = math.sqrt(b) * beta / (1 - a)
    weight_x_t = math.sqrt(1 - beta) * (1 - b) / (1 - a)
    return weight_x0 * x0 + weight_x_t * x_t
    # end solution


# %% tags=["check"] name="posterior_mean"
if check.lab1.posterior_mean(posterior_mean):
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    of_x0 = posterior_mean(zero, one, 250, 249, schedule).item()
    of_x_t = posterior_mean(one, zero, 250, 249, schedule).item()
    predict.measured("lab1.weights", "a", f"the weight of x_t is {of_x_t:.3f}, that of x0 {of_x0:.4f}")
    ts = list(range(1, schedule.T + 1))
    sd.plot(
        {
            "weight of x0": (ts, [posterior_mean(zero, one, t, t - 1, schedule).item() for t in ts]),
            "weight of x_t": (ts, [posterior_mean(one, zero, t, t - 1, schedule).item() for t in ts]),
        },
        x_label="t",
        y_label="weight",
        title="The mean of a single step",
    )

# %% [markdown] tags=["hint"] name="posterior_mean"
# The formula needs three numbers: $\bar\alpha_t$, $\bar\alpha_s$ and $\beta = 1 - \bar\alpha_t/\bar\alpha_s$. Give
# each a short name.

# %% [markdown] tags=["hint"] name="posterior_mean"
# With `a = schedule.alpha_bar[t]` and `b = schedule.alpha_bar[s]`, the denominator of both weights is `1 - a`. Both
# numerators have one square root.

# %% [markdown] tags=["hint"] name="posterior_mean"
# The weight of x0 is `b**0.5 * beta / (1 - a)`, and that of x_t is `(1 - beta)**0.5 * (1 - b) / (1 - a)`.

# %% [markdown] tags=["explanation"] name="posterior_mean"
# Look at the left end of the plot: at $t = 1$ the weight of $x_0$ is exactly 1 and that of $x_t$ is 0, because
# $\bar\alpha_0 = 1$. The last step returns the prediction itself. Far from the end, a step takes only a small share
# of $x_0$ (the number above). That is what we wanted: small steps, because the prediction cannot be trusted yet. (At
# the right end the weight of $x_t$ falls too: the last steps of this schedule add so much noise that $x_T$ says
# almost nothing about the step before.)
#
# The usual mistake is $\beta_t$ from a table instead of $\beta = 1 - \bar\alpha_t/\bar\alpha_s$. It works as long as
# $s = t-1$, and breaks as soon as the sampler skips timesteps.

# %% [markdown]
# ## How wide is it?
#
# The mean is not enough: $x_s$ is *distributed* around it. The variance of this Gaussian is (equation 7)
#
# $$\tilde\beta = \frac{1-\bar\alpha_s}{1-\bar\alpha_t}\;\beta$$
#
# It is smaller than $\beta$, the variance of the noise that the forward process added. The reason: if you know $x_0$,
# you know part of that noise.

# %% tags=["prediction"] name="narrower"
predict(
    "lab1.narrower",
    "a",
    a="β̃ differs most from β at small t, near the clean image",
    b="β̃ differs most from β in the middle",
    c="β̃ differs most from β at large t, near pure noise",
)


# %% tags=["exercise"] name="posterior_variance"
def posterior_variance(t, s, schedule):
    """Return the variance β̃ of x_s, given x_t and x0: one number. t and s are ints, 0 ≤ s < t ≤ T."""
    # begin solution
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    return (1 - b) / (1 - a) * (1 - a / b)
    # end solution


# %% tags=["check"] name="posterior_variance"
if check.lab1.posterior_variance(posterior_variance):
    ratio = {t: float(posterior_variance(t, t - 1, schedule) / schedule.beta[t]) for t in range(1, schedule.T + 1)}
    predict.measured(
        "lab1.narrower", "a", f"β̃/β is {ratio[1]:.2f} at t = 1, {ratio[2]:.2f} at t = 2 and {ratio[250]:.3f} at t = 250"
    )
    sd.plot(
        {"β̃ / β": (list(ratio), list(ratio.values()))},
        x_label="t",
        y_label="ratio",
        title="The posterior variance, relative to β",
        log_x=True,
    )

# %% [markdown] tags=["hint"] name="posterior_variance"
# The same three numbers as before: $\bar\alpha_t$, $\bar\alpha_s$ and $\beta$. No square root this time: you need a
# variance.

# %% [markdown] tags=["hint"] name="posterior_variance"
# In the fraction, the numerator belongs to $s$ and the denominator to $t$, so it is below 1.

# %% [markdown] tags=["hint"] name="posterior_variance"
# With `a` and `b` as before: `(1 - b) / (1 - a) * (1 - a / b)`.

# %% [markdown] tags=["explanation"] name="posterior_variance"
# At $t = 1$ the variance is 0: the step lands on the clean image, and there is nothing left to be unsure about. At
# large $t$ the ratio is close to 1, since one step more or less of noise says almost nothing. The DDPM paper tried
# both $\beta$ and $\tilde\beta$ (section 3.2) and found samples of similar quality. With 500 small steps the few
# steps where they differ hardly matter.

# %% [markdown]
# ## One step of DDPM
#
# Now put the two together. The sampler does not know $x_0$, so it uses the prediction $\hat x_0$ in its place
# (algorithm 2 of the paper, in our notation):
#
# $$x_s = \tilde\mu(x_t, \hat x_0) + \sqrt{\tilde\beta}\;z, \qquad z \sim \mathcal N(0, 1)$$
#
# The noise has a purpose. We want *one* of the possible $x_s$, not the mean of them.

# %% tags=["prediction"] name="fresh"
predict(
    "lab1.fresh",
    "b",
    a="at t = 250 the fresh noise of a step is about as strong as the noise in x_t",
    b="at t = 250 the fresh noise of a step is about a tenth of the noise in x_t",
    c="at t = 250 the fresh noise of a step is less than a hundredth of the noise in x_t",
)


# %% tags=["exercise"] name="ddpm_step"
def ddpm_step(x_t, x0, t, s, schedule, z):
    """Return x_s, a sample of the Gaussian with the posterior's mean and variance.

    x_t: image at t (B, C, H, W);  x0: the predicted clean image;  z: standard normal noise, all of the same shape
    t, s: ints, 0 ≤ s < t ≤ T
    """
    # Use posterior_mean and posterior_variance. Noise of variance v is √v · z.
    # begin solution
    mean = posterior_mean(x_t, x0, t, s, schedule)
    return mean + math.sqrt(posterior_variance(t, s, schedule)) * z
    # end solution


# %% tags=["check"] name="ddpm_step"
if check.lab1.ddpm_step(ddpm_step):
    none, unit = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    fresh = ddpm_step(none, none, 250, 249, schedule, unit).item()
    noise_250 = math.sqrt(1 - schedule.alpha_bar[250])
    predict.measured("lab1.fresh", "b", f"the step adds noise of std {fresh:.3f}; x_t has noise of std {noise_250:.3f}")

# %% [markdown] tags=["hint"] name="ddpm_step"
# You have written both parts already. What is missing is how to turn a mean, a variance and $z$ into a sample.

# %% [markdown] tags=["hint"] name="ddpm_step"
# $z$ has variance 1. Multiplied by a number $c$ it has variance $c^2$. Which $c$ gives the variance $\tilde\beta$?

# %% [markdown] tags=["hint"] name="ddpm_step"
# `posterior_mean(x_t, x0, t, s, schedule) + posterior_variance(t, s, schedule)**0.5 * z`

# %% [markdown] tags=["explanation"] name="ddpm_step"
# Does the last step need a special case, since the result should have no noise? Not here: at $s = 0$ the variance
# $\tilde\beta$ is 0, and the formula takes care of it. With the variance $\beta$ it would not. The paper says
# "$z = 0$ if $t = 1$" for that reason.
#
# The usual mistake is to multiply $z$ by the variance. At $t = 250$ that would make the fresh noise more than ten
# times too weak, and you will see below what too little noise does.

# %% [markdown]
# ## The loop
#
# The sampler starts with pure noise $x_T$. In each step it calls the denoiser at $t$ and takes a `ddpm_step` to the
# next timestep $s$, until it is at 0. `sd.schedule.step_times(T, steps)` returns the timesteps to visit. With as many
# steps as timesteps it visits all of them:

# %%
print(sd.schedule.step_times(500, 500)[:4], "…", sd.schedule.step_times(500, 500)[-3:])
print(sd.schedule.step_times(500, 5))

# %% [markdown]
# Three details matter, and each is a classic bug:
#
# - The denoiser wants a timestep *for each image*: `torch.full((len(x),), t)`, not the int `t`.
# - Every step needs noise of its own. Ask for it with `generator(t, like=x)`. (`sd.Noise(seed)` is such a generator:
#   it gives the same noise for the same seed and $t$, so that everybody gets the same pictures.)
# - The function should `yield` each step, so that we can watch. A function with `yield` is a generator: the caller
#   loops over what it yields.
#
# Before you write it: what if you forget the noise? Every $x_s$ is then the *mean* of what is possible, and the mean
# has no grain. It sounds harmless.

# %% tags=["prediction"] name="no_noise"
predict(
    "lab1.no_noise",
    "c",
    a="without the noise the samples are cleaner, and still different sprites",
    b="without the noise the samples are a little blurry, and still different sprites",
    c="without the noise the samples are all nearly the same blob",
)


# %% tags=["exercise"] name="ddpm"
def ddpm(denoise, schedule, x_T, steps, *, generator):
    """DDPM sampling. Yield sd.samplers.Step(s, x_s, x0) after every step; the last has s = 0 and is the image.

    denoise:   (x_t, t) -> x̂₀, where t is an int64 tensor (B,)
    x_T:       noise (B, C, H, W)
    steps:     number of denoiser calls
    generator: generator(t, like=x) returns the noise z of the step that leaves t
    """
    x = x_T
    times = sd.schedule.step_times(schedule.T, steps)
    for t, s in pairwise(times):  # such as (500, 499), (499, 498), …
        # Predict x0 at t; draw z; go to s with ddpm_step; yield the step.
        # begin solution
        x0 = denoise(x, torch.full((len(x),), t))
        z = generator(t, like=x)
        x = ddpm_step(x, x0, t, s, schedule, z)
        yield sd.samplers.Step(s, x, x0)
        # end solution


# %% tags=["check"] name="ddpm"
if check.lab1.ddpm(ddpm):
    print("Sampling 8 sprites in 250 steps, with noise and without. This takes half a minute or more …")

    def no_noise(t, like):
        return torch.zeros_like(like)

    right = list(ddpm(denoise, schedule, start, 250, generator=sd.Noise(1)))
    wrong = list(ddpm(denoise, schedule, start, 250, generator=no_noise))
    sd.show(torch.cat([right[-1].x, wrong[-1].x]), titles=["with noise", "without"], columns=8)
    spread = [steps[-1].x.std(dim=0).mean().item() for steps in (right, wrong)]
    predict.measured(
        "lab1.no_noise",
        "c",
        f"the 8 images differ by {spread[0]:.2f} per pixel with noise, and by {spread[1]:.2f} without (std)",
    )
    # Watch it: x_t above and the prediction below, for the first image; with noise, then without.
    shown = [0, 50, 100, 125, 150, 175, 200, 225, 249]
    for steps in (right, wrong):
        pair = [steps[i].x[:1] for i in shown] + [steps[i].x0[:1] for i in shown]
        sd.show(torch.cat(pair), titles=[f"t = {steps[i].t}" for i in shown], columns=len(shown))
    sd.animate(right)

# %% [markdown] tags=["hint"] name="ddpm"
# The body of the loop has four lines. They do what the comment says, in that order.

# %% [markdown] tags=["hint"] name="ddpm"
# `x0 = denoise(x, torch.full((len(x),), t))` calls the denoiser. The new image must be stored in `x`, so that the
# next turn of the loop starts from it.

# %% [markdown] tags=["hint"] name="ddpm"
# After `x0 = …`: `x = ddpm_step(x, x0, t, s, schedule, generator(t, like=x))`, then
# `yield sd.samplers.Step(s, x, x0)`.

# %% [markdown] tags=["explanation"] name="ddpm"
# Look at the first picture. Above: eight sprites, all different. Below: the same dark blob eight times, although the
# eight noises they started from were different. It is neither a sprite nor the mean image.
#
# What happened? A step with noise picks one of the possible $x_s$. A step without noise takes their mean, and the
# mean of means, hundreds of times, has lost what made the images different. There is a second effect: the network
# expects $x_t$ with noise of strength $\sqrt{1-\bar\alpha_t}$. Without fresh noise there is too little, and the
# network was never trained on such images. From a smooth $x_t$ it predicts something smooth.
#
# Now look at the steps of one image, $x_t$ above and the prediction $\hat x_0$ below. Find the column where you can
# first tell in the upper row what it will be, and the one where you can tell in the lower row. The prediction is
# ahead of the image. It starts as the mean blob, decides on the outline and the colours next, and on the details
# last. The film shows the same for all eight. In the run without noise, the upper row is smooth where it should be
# full of grain.
#
# (There *are* samplers without fresh noise, such as DDIM in lab 4. They do not just leave it out: they keep the noise
# that is already there at the right strength.)

# %% [markdown]
# ## Why the blob: follow the variance
#
# "It loses variety" can be calculated. Take data for which the best denoiser is known: all pixels are independent,
# Gaussian, with mean 0 and standard deviation $d$. The best prediction is then a number times $x_t$:
#
# $$\hat x_0 = g\,x_t, \qquad g = \frac{\sqrt{\bar\alpha_t}\,d^2}{\bar\alpha_t d^2 + 1 - \bar\alpha_t}$$
#
# (`sd.oracle.gaussian` is this denoiser.) Your step multiplies $x_t$ by a number too. So if $x_t$ has variance $v$,
# then $x_s$ has the variance
#
# $$v_s = (A\,g + B)^2\,v + \tilde\beta$$
#
# where $A$ is the weight of $x_0$ in the mean, $B$ the weight of $x_t$, and $\tilde\beta$ is missing if the noise is
# forgotten. From $v = 1$ at $T$ you get the variance of the samples without sampling anything. It should come out as
# $d^2$.

# %% tags=["prediction"] name="spread"
predict(
    "lab1.spread",
    "c",
    a="for data with standard deviation 0.5, samples without noise have a standard deviation of about 0.5",
    b="for data with standard deviation 0.5, samples without noise have one between 0.1 and 0.4",
    c="for data with standard deviation 0.5, samples without noise have one below 0.1",
)


# %% tags=["exercise"] name="next_variance"
def next_variance(v, t, s, schedule, d, noise):
    """Return the variance of x_s after one DDPM step with the exact denoiser of Gaussian data.

    v: variance of x_t (a number);  d: standard deviation of the data;  noise: False if the step forgets the noise
    """
    # A and B are the weights in posterior_mean. The variance of c · x is c² times that of x.
    # begin solution
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    beta = 1 - a / b
    A = math.sqrt(b) * beta / (1 - a)
    B = math.sqrt(1 - beta) * (1 - b) / (1 - a)
    g = math.sqrt(a) * d**2 / (a * d**2 + 1 - a)
    return (A * g + B) ** 2 * v + (posterior_variance(t, s, schedule) if noise else 0)
    # end solution


# %% tags=["check"] name="next_variance"
if check.lab1.next_variance(next_variance):
    linear = sd.schedule.linear(1000)
    stds = {True: [1.0], False: [1.0]}
    for noise, values in stds.items():
        for t in range(linear.T, 0, -1):
            values.append(math.sqrt(next_variance(values[-1] ** 2, t, t - 1, linear, 0.5, noise)))
    ts = list(range(linear.T, -1, -1))
    exact = [math.sqrt(linear.alpha_bar[t].item() * 0.25 + 1 - linear.alpha_bar[t].item()) for t in ts]
    sd.plot(
        {"exact": (ts, exact), "DDPM": (ts, stds[True]), "without noise": (ts, stds[False])},
        x_label="t (sampling goes from right to left)",
        y_label="standard deviation of x_t",
        title="Data with standard deviation 0.5, linear schedule",
    )
    predict.measured(
        "lab1.spread", "c", f"the samples have std {stds[True][-1]:.3f} with noise, {stds[False][-1]:.5f} without"
    )

# %% [markdown] tags=["hint"] name="next_variance"
# Put $\hat x_0 = g\,x_t$ into the step: $x_s = A\,g\,x_t + B\,x_t + \sqrt{\tilde\beta}\,z$. What is the variance of
# this?

# %% [markdown] tags=["hint"] name="next_variance"
# $x_t$ and $z$ are independent, so their variances add. Compute $A$ and $B$ as in `posterior_mean`, and $g$ with
# $\bar\alpha_t$.

# %% [markdown] tags=["hint"] name="next_variance"
# `(A * g + B)**2 * v`, plus `posterior_variance(t, s, schedule)` if `noise` is true.

# %% [markdown] tags=["explanation"] name="next_variance"
# The curve of DDPM lies on the exact one. (Its last value is a little below 0.5. That is the error of finite steps,
# and it shrinks with more of them.) Without noise the curve leaves the exact one at once and falls to almost 0: all
# samples are the same image, the mean. For Gaussian data the collapse is exactly that. On sprites the network is not
# linear, so the blob is not the mean image, but the collapse is the same.
#
# This check of a sampler by its variance is worth remembering: `sd.conformance.check_sampler` does it with any
# sampler, and your `ddpm` has passed it.

# %% [markdown]
# ## Exam
#
# The networks of the DDPM paper predict the *noise* in the image, $\hat\epsilon$, instead of the clean image. Write
# the whole sampler for such a network, as in algorithm 2 of the paper: all $T$ steps, one at a time, and with the
# variance $\beta_t$ instead of $\tilde\beta_t$ for the fresh noise.
#
# In our notation a step from $t$ to $t-1$ is
#
# $$x_{t-1} = \frac{1}{\sqrt{1-\beta_t}}\left(x_t - \frac{\beta_t}{\sqrt{1-\bar\alpha_t}}\;\hat\epsilon\right)
# + \sqrt{\beta_t}\;z$$
#
# with $z = 0$ in the last step. You can also compute $\hat x_0$ from $\hat\epsilon$ and use what you have; the mean
# is the same.


# %% tags=["exercise", "exam"] name="exam"
def exam(network, schedule, x_T, generator):
    """Return the image (B, C, H, W) that DDPM makes from the noise x_T, in T steps.

    network:   (x_t, t) -> ε̂, where t is an int64 tensor (B,) with values in 1…T
    generator: generator(t, like=x) returns the noise z of the step that leaves t
    """
    # schedule.beta[t] is β_t, and schedule.alpha_bar[t] is ᾱ_t.
    # begin solution
    x = x_T
    for t in range(schedule.T, 0, -1):
        beta, a = schedule.beta[t].item(), schedule.alpha_bar[t].item()
        eps = network(x, torch.full((len(x),), t))
        x = (x - beta / math.sqrt(1 - a) * eps) / math.sqrt(1 - beta)
        if t > 1:
            x = x + math.sqrt(beta) * generator(t, like=x)
    return x
    # end solution


# %% tags=["check"] name="exam"
if check.lab1.exam(exam):

    def predict_noise(x_t, t):
        """The sprite network as one that predicts the noise."""
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        return (x_t - alpha * denoise(x_t, t)) / sigma

    print("Four sprites from the sampler of your exam …")
    sd.show(exam(predict_noise, schedule, model.noise(4, seed=7), sd.Noise(7)), columns=4)

# %% [markdown] tags=["hint"] name="exam"
# Start with `x = x_T` and loop over `range(schedule.T, 0, -1)`. Keep the three parts apart: the network call, the
# mean, the noise.

# %% [markdown] tags=["hint"] name="exam"
# The fresh noise has the *variance* $\beta_t$, and the step that leaves $t = 1$ adds none.

# %% [markdown] tags=["hint"] name="exam"
# The mean is `(x - beta / (1 - a)**0.5 * eps) / (1 - beta)**0.5`; then, if `t > 1`, add
# `beta**0.5 * generator(t, like=x)`.

# %% [markdown] tags=["explanation"] name="exam"
# This is the sampler of DDPM as printed in the paper, and of most tutorials. Compare the two forms: put
# $\hat x_0 = (x_t - \sqrt{1-\bar\alpha_t}\,\hat\epsilon)/\sqrt{\bar\alpha_t}$ into your `posterior_mean` with
# $s = t-1$, and you get the mean above.
#
# The form with $\hat x_0$ has two advantages: it can skip timesteps, and $\hat x_0$ can be clipped to the range of
# images, which the shipped model does in every step.
#
# Where to go from here: lab 2 trains the network, lab 3 asks for certain sprites, and lab 4 needs 25 calls where this
# one needs 500. The sampler of the package is `ddpm` in src/shapedreamer/diffusion/samplers.py. You can read it now.
# docs/concepts.md (section Sampling) has all samplers in one place.
