# %% [markdown]
# # Lab 4. Fast sampling
#
# You write DDIM, which makes a sprite in 25 network calls instead of 500, and DPM-Solver++(2M), which needs even
# fewer. You measure how much faster they are, and on a problem with a known solution how exact. You need lab 1:
# $x_t$, $\hat x_0$, and the loop of DDPM. Time: 90 minutes. In a hurry? The last exercise is an exam; passing it
# skips the lab.

# %% tags=["setup"]
import math
import time
from itertools import pairwise

import torch

import shapedreamer as sd
from shapedreamer.labs import check, predict

model = sd.load("sprites")
schedule = model.schedule
denoise = model.denoiser()  # (x_t, t) -> x̂₀, unconditional
start = model.noise(6, seed=3)  # standard normal noise x_T

# %% [markdown]
# ## Why DDPM is slow
#
# DDPM calls the network once per step, and the paper takes as many steps as there are timesteps. Why not just fewer?
# DDPM can skip timesteps as well. The cell below does, with the DDPM of the package, in 100, 25 and 10 steps from the
# same noise. And it prints what is known exactly: for data with standard deviation 0.5, what standard deviation do
# the samples have, if the denoiser is perfect?

# %%
few = [sd.samplers.sample(sd.samplers.ddpm(denoise, schedule, start, n, generator=sd.Noise(3))) for n in (100, 25, 10)]
sd.show(torch.cat(few), titles=["DDPM, 100", "DDPM, 25", "DDPM, 10"], columns=6)
for n in (1000, 50, 10):
    print(f"DDPM in {n:4} steps: standard deviation {sd.conformance.TABLE['posterior'][n]:.3f}, right is 0.5")

# %% [markdown]
# Six pictures are not enough to judge a sampler. The numbers are clear: with few steps the samples vary too little,
# 0.333 in 10 steps where 0.5 is right. They crowd around the mean. A long step of DDPM adds a lot of fresh noise in one
# go, on the basis of one prediction that is a mean.
#
# ## DDIM: keep the noise that is there
#
# In $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ two of the three letters determine the third.
# So a prediction $\hat x_0$ is a prediction of the noise in $x_t$ as well:
#
# $$\hat\epsilon = \frac{x_t - \sqrt{\bar\alpha_t}\,\hat x_0}{\sqrt{1-\bar\alpha_t}}$$
#
# DDIM (Song et al. 2021, equation 12) mixes the two again, in the proportion of the earlier timestep $s$:
#
# $$x_s = \sqrt{\bar\alpha_s}\;\hat x_0 + \sqrt{1-\bar\alpha_s-\sigma^2}\;\hat\epsilon + \sigma z,
# \qquad \sigma = \eta\,\sqrt{\frac{1-\bar\alpha_s}{1-\bar\alpha_t}\left(1-\frac{\bar\alpha_t}{\bar\alpha_s}\right)}$$
#
# For now, think of $\eta = 0$. Then $\sigma = 0$, no fresh noise is added, and the step is just the forward process,
# applied to the estimates. If the estimates were right, $x_s$ would be right as well, *however far away $s$ is*. That
# is why DDIM may skip timesteps. The only error comes from $\hat x_0$ changing on the way.
#
# With $\eta > 0$ a part of the old noise is replaced by fresh noise. The total noise must still have the variance
# $1-\bar\alpha_s$. That is why the root in the middle is reduced by $\sigma^2$.

# %% tags=["prediction"] name="eta_one"
predict(
    "lab4.eta_one",
    "?",
    a="with η = 1 a DDIM step is a pure random step, which ignores the noise in x_t",
    b="with η = 1 a DDIM step is the same as a DDPM step",
    c="with η = 1 a DDIM step has nothing to do with DDPM",
)

# %% tags=["exercise"] name="ddim_step"
def ddim_step(x_t, x0, t, s, schedule, eta, z):
    """Return x_s.

    x_t: image at t;  x0: the predicted clean image;  z: standard normal noise; all (B, C, H, W)
    t, s: ints, 0 ≤ s < t ≤ T;  eta: a number from 0 to 1
    """
    # Compute ε̂, then σ, then the three terms.
    ...  # your code here

# %% tags=["check"] name="ddim_step"
if check.lab4.ddim_step(ddim_step):
    x, guess, z = model.noise(1, seed=1), model.noise(1, seed=2), model.noise(1, seed=4)
    mean, variance = sd.process.posterior(guess, x, 300, 200, schedule)
    difference = (ddim_step(x, guess, 300, 200, schedule, 1, z) - (mean + math.sqrt(variance) * z)).abs().max().item()
    predict.measured(
        "lab4.eta_one", "b", f"the largest difference to a DDPM step from t = 300 to 200 is {difference:.7f}"
    )

# %% [markdown]
# ## Which timesteps?
#
# 25 steps from $T = 500$ to 0: every 20th timestep. And 30 steps? 500/30 is not an integer. A widespread program
# computes the stride `T // steps` and counts down with it. With 30 steps the stride is 16, and 30 · 16 is 480. The
# loop never visits the 20 timesteps near $T$; or, if it starts at $T$, it stops before 0, or it takes one step too
# many and reads the table at a negative index. Python does not complain: index −1 is the *last* entry.
#
# Right is: start at $T$, end at 0, and round in between (Lin et al. 2024, section 3.3):
# $t_i = \mathrm{round}(T - i\,T/n)$.

# %% tags=["prediction"] name="stride"
predict(
    "lab4.stride",
    "?",
    a="if DDIM starts at t = 480 instead of 500, but from pure noise, the images change visibly, but are still sprites",
    b="if DDIM starts at t = 480 instead of 500, but from pure noise, the images are noise",
    c="if DDIM stops at t = 20 instead of 0, nobody can see it",
)

# %% tags=["exercise"] name="timesteps"
def timesteps(T, steps):
    """Return the timesteps to visit: a list of steps + 1 ints that fall from T to 0, evenly spaced. 1 ≤ steps ≤ T."""
    ...  # your code here

# %% tags=["check"] name="timesteps"
if check.lab4.timesteps(timesteps):
    print(timesteps(500, 25))
    print(timesteps(500, 30))
    visited = timesteps(500, 25)
    runs = [list(sd.samplers.ddim(denoise, schedule, start, times)) for times in (visited, visited[1:])]
    sd.show(
        torch.cat([runs[0][-1].x, runs[1][-1].x, runs[0][-2].x]), titles=["500 … 0", "480 … 0", "500 … 20"], columns=6
    )
    corners = [(1 - x[..., [0, 0, -1, -1], [0, -1, 0, -1]]).abs().mean().item() for x in (runs[0][-1].x, runs[0][-2].x)]
    change = (runs[1][-1].x - runs[0][-1].x).square().mean().sqrt().item()
    predict.measured(
        "lab4.stride",
        "a",
        f"starting at 480 changes the images by {change:.2f} (root mean square); the corners, which should be "
        f"white, are off by {corners[0]:.3f}, and by {corners[1]:.3f} if sampling stops at t = 20",
    )

# %% [markdown]
# ## The sampler
#
# Now put the loop together, as in lab 1.

# %% tags=["prediction"] name="speed"
predict(
    "lab4.speed",
    "?",
    a="25 steps of DDIM are about 500 times as fast as 500 steps of DDPM",
    b="25 steps of DDIM are about 20 times as fast as 500 steps of DDPM",
    c="25 steps of DDIM are about 5 times as fast, because a DDIM step is more work",
)

# %% tags=["exercise"] name="ddim"
def ddim(denoise, schedule, x_T, steps, *, eta=0.0, generator=None):
    """DDIM. Yield sd.samplers.Step(s, x_s, x0) after every step; the last has s = 0 and is the image.

    denoise:   (x_t, t) -> x̂₀, where t is an int64 tensor (B,)
    steps:     number of denoiser calls
    generator: generator(t, like=x) returns the noise z of the step that leaves t; only called if eta > 0
    """
    # Use timesteps and ddim_step. With eta = 0 there may be no generator, and z can be 0.
    ...  # your code here

# %% tags=["check"] name="ddim"
if check.lab4.ddim(ddim):
    print("500 steps of DDPM, and DDIM with fewer. This takes about half a minute …")

    def timed(steps):
        """The final image of a sampler, and the seconds that it took."""
        began = time.perf_counter()
        image = sd.samplers.sample(steps)
        return image, time.perf_counter() - began

    slow, slow_seconds = timed(sd.samplers.ddpm(denoise, schedule, start[:4], 500, generator=sd.Noise(3)))
    fast, fast_seconds = timed(ddim(denoise, schedule, start[:4], 25))
    predict.measured(
        "lab4.speed",
        "b",
        f"DDPM took {slow_seconds:.1f} s for 500 steps, DDIM {fast_seconds:.2f} s for 25: "
        f"{slow_seconds / fast_seconds:.0f} times faster",
    )
    sd.show(torch.cat([slow, fast]), titles=["DDPM, 500", "DDIM, 25"], columns=4)
    for n in (1000, 50, 10):
        deviations = sd.conformance.TABLE["posterior"][n], sd.conformance.TABLE["η = 0"][n]
        print(f"in {n:4} steps, where 0.5 is right: standard deviation {deviations[0]:.3f} with DDPM, ", end="")
        print(f"{deviations[1]:.3f} with DDIM")

    # With context: three labels, the same noise in every column, more and more calls
    labels = torch.eye(5)[[0, 2, 3]]  # human, food, spell
    with_label, three = model.denoiser(labels), model.noise(3, seed=8)
    columns = {n: timed(ddim(with_label, schedule, three, n)) for n in (4, 10, 25, 100)}
    for n, (_, seconds) in columns.items():
        print(f"{n:4} calls of DDIM with labels: {seconds:.2f} s for 3 images")
    images = torch.stack([image for image, _ in columns.values()], 1).flatten(0, 1)
    sd.show(images, titles=[f"{n} calls" for n in columns], columns=4)

# %% [markdown]
# ## Order of convergence
#
# How fast do the images converge? With $\eta = 0$, DDIM solves a differential equation, the probability-flow ODE, and
# the steps are the steps of a numerical solver. The error of such a solver falls with a power of the number of steps
# $n$:
#
# $$\text{error} \approx C\,n^{-p}$$
#
# $p$ is the *order*. With $p = 1$, twice as many steps halve the error. With $p = 2$ they divide it by four. From two
# measurements you can compute $p$.

# %% tags=["prediction"] name="first_order"
predict(
    "lab4.first_order",
    "?",
    a="DDIM has order 1: twice the steps, half the error",
    b="DDIM has order 2: twice the steps, a quarter of the error",
    c="the error of DDIM does not fall like a power at all",
)

# %% tags=["exercise"] name="order"
def order(steps, errors):
    """Return the order p, a float, from two runs: steps = (n1, n2) and errors = (e1, e2), all positive numbers."""
    # Divide the two equations error = C · n^(−p), so that C cancels, and take logarithms.
    ...  # your code here

# %% [markdown]
# To measure an error, you need the exact solution. For a trained network nobody has it. But there are data for which
# the *best possible* denoiser can be written down: `sd.oracle.gaussian(mean, std, schedule)` is the exact denoiser
# for pixels that are distributed as $\mathcal N(\text{mean}, \text{std}^2)$. The ODE can then be solved on paper.
# With the variance $v_t = \bar\alpha_t\,\text{std}^2 + 1-\bar\alpha_t$ of $x_t$, the solution is
#
# $$\frac{x_t - \sqrt{\bar\alpha_t}\,\text{mean}}{\sqrt{v_t}} = \text{constant}$$
#
# The function below runs a sampler on it and returns the error at $t = 200$. (At the very end all of these solvers
# take one plain DDIM step. To compare them, we stop before.)

# %% tags=["setup"]
def error_at_200(sampler, steps, mean=0.1, std=0.5):
    """The largest error of x at t = 200 on Gaussian data, if a sampler goes from T = 1000 to 0 in equal steps."""
    linear = sd.schedule.linear(1000)
    a = linear.alpha_bar
    v = a * std**2 + 1 - a
    start = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    landed = {step.t: step.x for step in sampler(sd.oracle.gaussian(mean, std, linear), linear, start, steps)}
    exact = a[200].sqrt() * mean + (v[200] / v[1000]).sqrt() * (start - a[1000].sqrt() * mean)
    return (landed[200] - exact).abs().max().item()

# %% tags=["check"] name="order"
if check.lab4.order(order):
    counts = [10, 20, 40, 100, 200, 500]
    errors_ddim = [error_at_200(sd.samplers.ddim, n) for n in counts]
    p = order((counts[2], counts[3]), (errors_ddim[2], errors_ddim[3]))
    for n, e in zip(counts, errors_ddim, strict=True):
        print(f"{n:4} steps: error {e:.5f}")
    predict.measured("lab4.first_order", "a", f"the order between {counts[2]} and {counts[3]} steps is {p:.2f}")

# %% [markdown]
# ## A second order for free: DPM-Solver++(2M)
#
# DDIM pretends that $\hat x_0$ stays the same during a step. In truth it changes, and we even know how: we have the
# prediction of the step *before*. So extend the line through the last two predictions, and use its value in the
# middle of the coming step (Lu et al. 2022b, algorithm 2). It needs no additional network call.
#
# $$D = \hat x_0 + \frac{h}{2h'}\left(\hat x_0 - \hat x_0'\right),
# \qquad h = \lambda_s - \lambda_t, \quad h' = \lambda_t - \lambda_r$$
#
# The step before went from $r$ to $t$, and $\hat x_0'$ is its prediction. The lengths are not measured in $t$ but in
# $\lambda = \tfrac12\log\frac{\bar\alpha}{1-\bar\alpha}$, half the log-SNR, on which $\hat x_0$ is smooth. With $D$
# in the place of $\hat x_0$, take an ordinary DDIM step with $\eta = 0$.
#
# Two steps are special, and use $D = \hat x_0$: the first has no step before. The last is infinitely long, because
# $\lambda = \infty$ at $t = 0$.

# %% tags=["prediction"] name="second"
predict(
    "lab4.second",
    "?",
    a="at 20 steps, the error of the second-order solver is about the same as DDIM's",
    b="at 20 steps, it is about half of DDIM's",
    c="at 20 steps, it is several times smaller",
)

# %% tags=["exercise"] name="dpmpp_2m_step"
def dpmpp_2m_step(x_t, x0, x0_before, r, t, s, schedule):
    """Return x_s, after a step of DPM-Solver++(2M) from t to s.

    x_t: image at t;  x0: the prediction from it;  x0_before: the prediction of the step before, which went from r to t
    r, t, s: ints, r > t > s ≥ 0; in the first step r and x0_before are None
    """
    ...  # your code here

# %% tags=["check"] name="dpmpp_2m_step"
if check.lab4.dpmpp_2m_step(dpmpp_2m_step):

    def dpmpp_2m(denoise, schedule, x_T, steps):
        """A sampler from your step."""
        x, x0_before, r = x_T, None, None
        times = sd.schedule.step_times(schedule.T, steps)
        for t, s in pairwise(times):
            x0 = denoise(x, torch.full((len(x),), t))
            x = dpmpp_2m_step(x, x0, x0_before, r, t, s, schedule)
            x0_before, r = x0, t
            yield sd.samplers.Step(s, x, x0)

    counts = [10, 20, 40, 100, 200, 500]
    errors_ddim = [error_at_200(sd.samplers.ddim, n) for n in counts]
    errors_2m = [error_at_200(dpmpp_2m, n) for n in counts]
    sd.plot(
        {"DDIM": (counts, errors_ddim), "DPM-Solver++(2M)": (counts, errors_2m)},
        x_label="network calls",
        y_label="error",
        title="Error at t = 200, on Gaussian data",
        log_x=True,
        log_y=True,
    )
    slopes = [math.log(e[3] / e[4]) / math.log(2) for e in (errors_ddim, errors_2m)]
    print(f"order between 100 and 200 steps: DDIM {slopes[0]:.2f}, DPM-Solver++(2M) {slopes[1]:.2f}")
    predict.measured("lab4.second", "c", f"at 20 steps the errors are {errors_ddim[1]:.4f} and {errors_2m[1]:.4f}")
    few = [
        list(sampler(denoise, schedule, start, n))[-1].x for n in (6, 12) for sampler in (sd.samplers.ddim, dpmpp_2m)
    ]
    limit = list(dpmpp_2m(denoise, schedule, start, 100))[-1].x
    names = ["DDIM, 6", "2M, 6", "DDIM, 12", "2M, 12"]
    sd.show(torch.cat([*few, limit]), titles=[*names, "2M, 100"], columns=6)
    for name, image in zip(names, few, strict=True):
        print(f"{name:8} calls: {(image - limit).square().mean().sqrt().item():.3f} away from 100 calls (RMS)")

# %% [markdown]
# ## Exam
#
# A network that predicts the *noise*, and a fast sampler of second order: write DPM-Solver++(2M) from the noise to
# the image, with everything it needs: timesteps, $\hat x_0$ from $\hat\epsilon$, the extrapolation, and the two
# special steps. Any number of calls from 1 to $T$ must work.

# %% tags=["exercise", "exam"] name="exam"
def exam(network, schedule, x_T, steps):
    """Return the image (B, C, H, W) of DPM-Solver++(2M) with `steps` network calls, at t_i = round(T − i T/steps).

    network: (x_t, t) -> ε̂, where t is an int64 tensor (B,) with values in 1…T
    """
    ...  # your code here

# %% tags=["check"] name="exam"
if check.lab4.exam(exam):

    def predict_noise(x_t, t):
        """The sprite network as one that predicts the noise."""
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        return (x_t - alpha * denoise(x_t, t)) / sigma

    began = time.perf_counter()
    sd.show(exam(predict_noise, schedule, model.noise(8, seed=9), 16), columns=8)
    print(f"8 sprites in {time.perf_counter() - began:.2f} s, from 16 calls")
