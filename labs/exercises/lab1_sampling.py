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
    "?",
    a="from pure noise, one call gives a sharp sprite, a different one for each noise",
    b="from pure noise, one call gives a blur, nearly the same for each noise",
    c="from pure noise, one call gives noise",
)

# %% tags=["exercise"] name="one_call"
def one_call(denoise, x_T, schedule):
    """Return the network's prediction of the clean images from pure noise x_T (B, C, H, W), by one call at t = T."""
    # The denoiser needs a timestep for each image: an int64 tensor (B,). torch.full(shape, value) makes one.
    ...  # your code here

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
    "?",
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
    ...  # your code here

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
    "?",
    a="β̃ differs most from β at small t, near the clean image",
    b="β̃ differs most from β in the middle",
    c="β̃ differs most from β at large t, near pure noise",
)

# %% tags=["exercise"] name="posterior_variance"
def posterior_variance(t, s, schedule):
    """Return the variance β̃ of x_s, given x_t and x0: one number. t and s are ints, 0 ≤ s < t ≤ T."""
    ...  # your code here

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
    "?",
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
    ...  # your code here

# %% tags=["check"] name="ddpm_step"
if check.lab1.ddpm_step(ddpm_step):
    none, unit = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    fresh = ddpm_step(none, none, 250, 249, schedule, unit).item()
    noise_250 = math.sqrt(1 - schedule.alpha_bar[250])
    predict.measured("lab1.fresh", "b", f"the step adds noise of std {fresh:.3f}; x_t has noise of std {noise_250:.3f}")

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
    "?",
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
        ...  # your code here

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
    "?",
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
    ...  # your code here

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
    ...  # your code here

# %% tags=["check"] name="exam"
if check.lab1.exam(exam):

    def predict_noise(x_t, t):
        """The sprite network as one that predicts the noise."""
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        return (x_t - alpha * denoise(x_t, t)) / sigma

    print("Four sprites from the sampler of your exam …")
    sd.show(exam(predict_noise, schedule, model.noise(4, seed=7), sd.Noise(7)), columns=4)
