# %% [markdown]
# # Lab 5. Patterns from nothing
#
# The whole way of a diffusion model in one walk, with a picture at every stop: draw your own data, dissolve them in
# noise, build and train a small U-Net, and walk back from noise to sharp 64 × 64 patterns with a model that comes
# with the package. You need lab 1 (sampling) and, for the training part, lab 2; or: you know what $x_t$, $\hat x_0$
# and a training step are. Time: about 60 minutes. In a hurry? The last exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import time
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

import shapedreamer as sd
from shapedreamer.labs import check, predict

SIZE = 64
linear, cosine = sd.schedule.linear(1000), sd.schedule.cosine(1000)
model = sd.load("patterns")  # a network trained on circles and squares; it comes with the package


def crisp(images):
    """Return the share of white pixels among those that are not black (tolerance 0.1): 1 if all edges are sharp."""
    return ((images > 0.9).sum() / (images > -0.9).sum().clamp(min=1)).item()


# %% [markdown]
# ## 1. Data from nothing
#
# No download, no folder of pictures: we draw the data ourselves. A circle is a *mask*. Every pixel asks one question:
# am I at a distance of at most $r$ from the centre? If so it is white, 1, and otherwise black, −1.
#
# To ask all pixels at once, make the coordinates as tensors that broadcast: the row numbers as a column, (size, 1),
# and the column numbers as a row, (size,). Then `rows - y` and `columns - x` combine to (size, size).


# %% tags=["exercise"] name="draw_circle"
def draw_circle(x, y, radius, size):
    """Return a white circle on black: a float image (1, size, size) with values −1 and 1.

    x, y:   the centre: column x, from the left, and row y, from the top
    radius: a pixel is white if its distance from the centre is at most this
    """
    # images are indexed [channel, row, column]
    # begin solution
    rows, columns = torch.arange(size).view(-1, 1), torch.arange(size)
    inside = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return (inside.float() * 2 - 1)[None]
    # end solution


# %% tags=["check"] name="draw_circle"
if check.lab5.draw_circle(draw_circle):
    circles = [draw_circle(20, 40, 3, SIZE), draw_circle(20, 40, 10, SIZE), draw_circle(45, 15, 14, SIZE)]
    sd.show(torch.stack(circles), titles=["(20, 40), r = 3", "(20, 40), r = 10", "(45, 15), r = 14"], columns=3)

# %% [markdown] tags=["hint"] name="draw_circle"
# The distance is $\sqrt{(\text{column} - x)^2 + (\text{row} - y)^2}$. You can compare the squares and leave out the
# root.

# %% [markdown] tags=["hint"] name="draw_circle"
# `rows = torch.arange(size).view(-1, 1)` and `columns = torch.arange(size)`. A mask `inside` of bools becomes −1 and
# 1 with `inside.float() * 2 - 1`.

# %% [markdown] tags=["hint"] name="draw_circle"
# `inside = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2` and then `return (inside.float() * 2 - 1)[None]`

# %% [markdown] tags=["explanation"] name="draw_circle"
# Check the picture: the centre (20, 40) is left of the middle and below it. If it were right and above, rows and
# columns would be swapped, the most common mistake with images.
#
# The range matters as much. Diffusion mixes images with noise of mean 0 and variance 1, so images should be of that
# size too: −1 and 1, not 0 and 1 (or 0 and 255). With 0 and 1, "no white at all" would still be a grey image for the
# network.

# %% [markdown]
# ## 2. At random, but inside
#
# A data set needs variety, so the place is random. But the whole circle should be visible. Between which columns may
# the centre lie?


# %% tags=["exercise"] name="place"
def place(radius, size, generator):
    """Return (x, y), two ints: a random centre, with the whole circle inside. All such centres are equally likely.

    generator: a torch.Generator for the random numbers, as in torch.randint(..., generator=generator)
    """
    # The leftmost pixel of the circle is x − radius, at least 0, and the rightmost x + radius, at most size − 1.
    # begin solution
    x, y = torch.randint(radius, size - radius, (2,), generator=generator).tolist()
    return x, y
    # end solution


# %% tags=["check"] name="place"
def draw_data(num, seed=0):
    """Return `num` images of one to three circles, (num, 1, 64, 64), drawn with your two functions."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.full((num, 1, SIZE, SIZE), -1.0)
    for image in images:
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            radius = int(torch.randint(5, 15, (), generator=generator))
            image.copy_(torch.maximum(image, draw_circle(*place(radius, SIZE, generator), radius, SIZE)))
    return images


if check.lab5.place(place) and draw_circle(1, 1, 1, 4) is not None:
    images = draw_data(16)
    sd.show(images, columns=8)
    white = (images > 0).float().mean()
    print(f"{white:.0%} of the pixels are white, and {crisp(images):.0%} of those that are not black: no edge is soft")

# %% [markdown] tags=["hint"] name="place"
# `torch.randint(low, high, (2,), generator=generator)` draws two ints from low to high − 1. What are the smallest and
# the largest centre?

# %% [markdown] tags=["hint"] name="place"
# The centre lies between `radius` and `size - 1 - radius`, both included. The upper end of `randint` is excluded.

# %% [markdown] tags=["hint"] name="place"
# `x, y = torch.randint(radius, size - radius, (2,), generator=generator).tolist()` and then `return x, y`

# %% [markdown] tags=["explanation"] name="place"
# Sixteen images of your own data set, and there could be as many as you like: the network need never see one twice.
#
# The usual mistake is one pixel at the upper end. It does not show in sixteen images, but a diffusion model learns
# the distribution that you draw, not the one that you meant.

# %% [markdown]
# ## 3. Into noise
#
# The forward process, as a strip of pictures: $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$ at
# several $t$, from the clean image to noise (Ho et al. 2020, [arXiv:2006.11239](https://arxiv.org/abs/2006.11239),
# equation 4). Use one and the same $\epsilon$ for the whole strip, so that you can follow single pixels.
#
# How fast the image disappears is decided by the schedule. The linear one is DDPM's; the shipped model uses the
# cosine schedule.

# %% tags=["prediction"] name="half_way"
predict(
    "lab5.half_way",
    "c",
    a="half way, at t = 500 of 1000, the image has half of the variance of x_t in both schedules",
    b="half way, at t = 500 of 1000, the image has less than a tenth of the variance of x_t in both schedules",
    c="half way, the image has less than a tenth in the linear schedule, and about half in the cosine schedule",
)


# %% tags=["exercise"] name="forward_strip"
def forward_strip(x0, times, eps, schedule):
    """Return x_t for each t in times: (len(times), C, H, W).

    x0, eps: one image and one noise, (C, H, W)
    times:   a list of ints in 0…T; schedule.alpha_bar[t] is ᾱ_t, with ᾱ_0 = 1
    """
    # begin solution
    a = schedule.alpha_bar[times].float().view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
    # end solution


# %% tags=["check"] name="forward_strip"
if check.lab5.forward_strip(forward_strip):
    times = [0, 50, 100, 200, 400, 600, 800, 999]
    x0 = -torch.ones(1, SIZE, SIZE)
    for x, y, r in ((18, 20, 12), (44, 40, 14), (14, 50, 7)):  # three circles, drawn here again
        rows, columns = torch.arange(SIZE).view(-1, 1), torch.arange(SIZE)
        x0[0][(columns - x) ** 2 + (rows - y) ** 2 <= r**2] = 1
    eps = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    strips = [forward_strip(x0, times, eps, schedule) for schedule in (linear, cosine)]
    sd.show(torch.cat(strips), titles=[f"t = {t}" for t in times], columns=8)
    predict.measured(
        "lab5.half_way",
        "c",
        f"ᾱ_500 is {linear.alpha_bar[500]:.3f} in the linear schedule "
        f"and {cosine.alpha_bar[500]:.3f} in the cosine schedule",
    )

# %% [markdown] tags=["hint"] name="forward_strip"
# For one t this is `a**0.5 * x0 + (1 - a)**0.5 * eps` with `a = schedule.alpha_bar[t]`. You can loop over times and
# stack the results.

# %% [markdown] tags=["hint"] name="forward_strip"
# Without a loop: `a = schedule.alpha_bar[times].float().view(-1, 1, 1, 1)` has a number for each t, and broadcasts
# against (C, H, W).

# %% [markdown] tags=["hint"] name="forward_strip"
# With this `a`: `return a.sqrt() * x0 + (1 - a).sqrt() * eps`

# %% [markdown] tags=["explanation"] name="forward_strip"
# The upper row is the linear schedule, the lower one cosine. Look for the last picture in each row in which you can
# see the circles. Big shapes survive longer than you may think: you average over many pixels without noticing. The
# network does the same.
#
# In the linear schedule, the pictures at 600, 800 and 999 look alike, and steps there teach little. The cosine
# schedule spends more of its timesteps where the image is decided.
#
# The usual mistake is to add noise to the picture before. A strip made like that piles up noise without shrinking the
# image, and its variance grows beyond 1.

# %% [markdown]
# ## 4. The network
#
# A U-Net goes down to a coarse image, where it can see a whole circle, and up again. *Skip connections* carry the
# details across. It must also learn the timestep: at $t = 10$ it should change almost nothing, at $t = 900$ almost
# everything.
#
# The simplest way, used here and by `train patterns --textbook`, adds the timestep *at the bottleneck*. A small MLP
# turns $t/T$, a number from 0 to 1, into a number for each channel, which is added to all positions of this channel.


# %% tags=["exercise"] name="add_time"
def add_time(h, t, mlp, T):
    """Return h with the timestep added: (B, C, H, W).

    h:   features at the bottleneck, (B, C, H, W)
    t:   (B,) int64, one timestep for each image
    mlp: a function from (B, 1) float to (B, C)
    """
    # t/T as a float tensor (B, 1) goes into the MLP; its result (B, C) must broadcast over H and W.
    # begin solution
    time = mlp((t.float() / T).view(-1, 1))
    return h + time[:, :, None, None]
    # end solution


# %% tags=["setup"]
class SmallUNet(nn.Module):
    """x_t (B, 1, 64, 64), t (B,) -> x̂₀. The timestep enters at the bottleneck, with your function."""

    def __init__(self, T, channels=32):
        super().__init__()
        C = channels
        self.T = T
        self.conv_in = nn.Conv2d(16, C, 3, padding=1)  # 4 × 4 pixels are folded into 16 channels: 16 × 16 positions
        self.down = nn.Sequential(nn.GroupNorm(8, C), nn.SiLU(), nn.Conv2d(C, 2 * C, 3, padding=1, stride=2))
        self.mlp = nn.Sequential(nn.Linear(1, 2 * C), nn.SiLU(), nn.Linear(2 * C, 2 * C))
        self.middle = nn.Sequential(
            *(
                layer
                for _ in range(3)
                for layer in (nn.GroupNorm(8, 2 * C), nn.SiLU(), nn.Conv2d(2 * C, 2 * C, 3, padding=1))
            )
        )
        self.up = nn.Sequential(nn.GroupNorm(8, 2 * C), nn.SiLU(), nn.ConvTranspose2d(2 * C, C, 4, stride=2, padding=1))
        self.out = nn.Sequential(
            nn.GroupNorm(8, 2 * C),
            nn.SiLU(),
            nn.Conv2d(2 * C, C, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(C, 16, 3, padding=1),
        )

    def forward(self, x, t):
        fine = self.conv_in(F.pixel_unshuffle(x, 4))  # (B, C, 16, 16)
        coarse = self.down(fine)  # (B, 2C, 8, 8): the bottleneck
        coarse = coarse + self.middle(add_time(coarse, t, self.mlp, self.T))
        both = torch.cat([self.up(coarse), fine], dim=1)  # the skip connection
        return F.pixel_shuffle(self.out(both), 4)


# %% [markdown]
# ## 5. Train it
#
# When your function passes, the next cell trains this network on circles, for about half a minute. The loss is the
# mean squared error of the clean image. (DDPM's is that of the noise. At large $t$, $\hat x_0$ then comes from a
# division by $\sqrt{\bar\alpha_t}$, which is nearly 0, and every small error becomes a large one.) Do not expect
# much: the network has 0.2 million weights, and sees 250 batches.

# %% tags=["prediction"] name="early"
predict(
    "lab5.early",
    "a",
    a="after so short a training, the network's guess x̂₀ is closer to x0 at t = 200 than at t = 800",
    b="after so short a training, the network's guess x̂₀ is closer to x0 at t = 800 than at t = 200",
    c="after so short a training, the guess is useless at both: its error is above 0.5",
)

# %% tags=["check"] name="add_time"
if check.lab5.add_time(add_time):
    torch.manual_seed(0)
    rows, columns = torch.arange(SIZE).view(-1, 1), torch.arange(SIZE)

    def circles(num):
        """Return `num` images of one circle, all at once: the mask of section 1 for a batch."""
        r = torch.randint(5, 15, (num, 1, 1, 1))
        x, y = (r + (torch.rand(num, 1, 1, 1) * (SIZE - 2 * r)).long() for _ in range(2))
        return ((columns - x) ** 2 + (rows - y) ** 2 <= r**2).float() * 2 - 1

    network = SmallUNet(cosine.T)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    start, losses = time.perf_counter(), []
    for _ in range(250):
        x0 = circles(32)
        t, eps = torch.randint(1, cosine.T + 1, (32,)), torch.randn_like(x0)
        loss = (network(sd.process.diffuse(x0, t, eps, cosine), t) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    network.eval()
    print(f"250 steps in {time.perf_counter() - start:.0f} s; the baseline, predicting 0, has a loss of 1")
    smooth = torch.tensor(losses).view(-1, 10).mean(1).tolist()
    sd.plot({"mean of 10 steps": (range(10, 251, 10), smooth)}, "step", "loss", "Training the small U-Net")

    x0, eps = circles(6), torch.randn(6, 1, SIZE, SIZE)
    pictures, errors = [x0], {}
    for at in (200, 500, 800):
        t = torch.full((6,), at)
        x_t = sd.process.diffuse(x0, t, eps, cosine)
        with torch.no_grad():
            guess = network(x_t, t).clamp(-1, 1)
        pictures += [x_t, guess]
        errors[at] = (guess - x0).square().mean().item()
    titles = ["x0", *[f"{name}, t = {at}" for at in errors for name in ("x_t", "guess")]]
    sd.show(torch.cat(pictures), titles=titles, columns=6)
    print("Samples of your network, from noise to images with DDPM in 50 steps:")
    sampler = sd.samplers.ddpm(
        sd.clipped(torch.no_grad()(network.forward)),
        cosine,
        model.noise(4, seed=3),
        sd.schedule.log_snr_times(cosine, 50),
        generator=sd.Noise(3),
    )
    sd.show(sd.samplers.sample(sampler), columns=4)
    predict.measured(
        "lab5.early", "a", f"the squared error of x̂₀ is {errors[200]:.3f} at t = 200 and {errors[800]:.3f} at t = 800"
    )

# %% [markdown] tags=["hint"] name="add_time"
# Two steps: `mlp` wants a float tensor with one column, and addition wants (B, C, 1, 1).

# %% [markdown] tags=["hint"] name="add_time"
# `(t.float() / T).view(-1, 1)` is (B, 1). From (B, C) to (B, C, 1, 1) it is `[:, :, None, None]`.

# %% [markdown] tags=["hint"] name="add_time"
# `time = mlp((t.float() / T).view(-1, 1))` and then `return h + time[:, :, None, None]`

# %% [markdown] tags=["explanation"] name="add_time"
# Compare the rows "guess" with the first row. At $t = 200$ the circles come back in place and size, with soft edges.
# At $t = 800$ they are in place, but ragged: the network cannot see well where a circle ends. At even larger $t$ a
# circle could be here or there, and the mean of all these is a blur. This is not a fault of your network alone. The
# best possible answer at large $t$ is a blur too (see lab 8).
#
# The usual mistake is broadcasting: (B, C) + (B, C, H, W) fails or, worse, adds along the wrong dimensions if the
# sizes happen to fit. The other one is $t$ itself in place of $t/T$: numbers up to 1000 drown everything else in an
# MLP.

# %% [markdown]
# ## 6. The walk back
#
# Now from noise to patterns, and we keep *every* picture on the way. You know the step from lab 1: denoise, take the
# posterior mean, add noise. Here it is done by `sd.process.posterior(x0, x_t, t, s, schedule)`, which returns the
# mean and the *variance* of $x_s$.

# %% tags=["prediction"] name="first_guess"
predict(
    "lab5.first_guess",
    "b",
    a="the first guess x̂₀, from pure noise, is already black and white, and later ones correct it",
    b="the first guess x̂₀, from pure noise, is a grey mist without any white, and the guesses get sharp on the way",
    c="the guesses stay grey until the last step",
)


# %% tags=["exercise"] name="walk_back"
def walk_back(denoise, x_T, times, schedule, generator):
    """Return a list with a step for each interval of times: sd.samplers.Step(s, x_s, x0).

    denoise:   (x_t (B, C, H, W), t (B,) int64) -> x̂₀
    times:     the timesteps to visit, [T, …, 0]
    generator: generator(t, like=x) is the noise z for the step that leaves t
    """
    x, steps = x_T, []
    for t, s in pairwise(times):
        # 1. x0: the denoiser, with the timestep t for every image: torch.full((len(x),), t)
        # 2. the mean and the variance of x_s, with sd.process.posterior
        # 3. x_s: the mean, and if s > 0 noise of this variance
        # 4. append the step
        # begin solution
        x0 = denoise(x, torch.full((len(x),), t))
        x, variance = sd.process.posterior(x0, x, t, s, schedule)
        if s > 0:
            x = x + variance**0.5 * generator(t, like=x)
        steps.append(sd.samplers.Step(s, x, x0))
        # end solution
    return steps


# %% tags=["check"] name="walk_back"
if check.lab5.walk_back(walk_back):
    times = model.times(24)
    steps = walk_back(model.denoiser(), model.noise(4, seed=3), times, model.schedule, sd.Noise(3))
    shown = [0, 4, 8, 11, 14, 17, 20, 23]
    strip = [torch.stack([steps[i].x[k] for i in shown]) for k in range(2)]
    guesses = [torch.stack([steps[i].x0[k] for i in shown]) for k in range(2)]
    pictures = torch.cat([strip[0], guesses[0], strip[1], guesses[1]])
    sd.show(pictures, titles=[f"t = {steps[i].t}" for i in shown], columns=8)
    sd.animate(steps)
    sharpness = [crisp(step.x0) for step in steps]
    sd.plot({"x̂₀": (range(1, 25), sharpness)}, "step", "share of white among not black", "The guess gets sharp")
    predict.measured(
        "lab5.first_guess",
        "b",
        f"the brightest pixel of the first guess is {steps[0].x0.max():.2f}, where white is 1; of the pixels "
        f"that are not black, {sharpness[0]:.0%} are white in the first guess, {sharpness[12]:.0%} after half of the "
        f"steps, and {sharpness[-1]:.0%} in the last",
    )
    sd.show(steps[-1].x, columns=4)

# %% [markdown] tags=["hint"] name="walk_back"
# It is the sampler of lab 1, with a list. Call the denoiser, get mean and variance from `sd.process.posterior`, add
# noise, append.

# %% [markdown] tags=["hint"] name="walk_back"
# Noise of variance v is $\sqrt v \cdot z$ with `z = generator(t, like=x)`. In the last step, to s = 0, there is none.

# %% [markdown] tags=["hint"] name="walk_back"
# `x0 = denoise(x, torch.full((len(x),), t))`, then `x, variance = sd.process.posterior(x0, x, t, s, schedule)`, then
# `if s > 0: x = x + variance**0.5 * generator(t, like=x)`, then `steps.append(sd.samplers.Step(s, x, x0))`.

# %% [markdown] tags=["explanation"] name="walk_back"
# Odd rows are $x_t$, and below each is the guess $\hat x_0$ of the same step. Watch a guess from left to right. First
# it is a grey mist: the mean of all patterns. Then mist gathers in some places and thins out in others: positions are
# decided. Only then do edges appear. Coarse first, fine last.
#
# Compare the last picture with the samples of your small network. The shipped network has 10 million weights, and was
# trained for 73 minutes. Its edges are sharp, and its circles are round except for a few pixels. Yours draws soft
# circles, and at times nothing at all: half a minute is not enough.
#
# The usual mistakes are noise with the variance in place of its root, noise in the last step (it stays as grain), and
# a list of the same tensor changed in place again and again, so that all its pictures are the last one.

# %% [markdown]
# ## Exam: squares, half the way
#
# Use it all in another setting: draw *squares*, a whole batch at once, noise them to some $t$ that is *not* $T$, and
# walk back from there. The result is a variation: the same image where the noise left something, and a new one where
# it did not. (This is SDEdit; Meng et al. 2022, [arXiv:2108.01073](https://arxiv.org/abs/2108.01073). On the live
# page, `shapedreamer live`, it is the creativity slider.)


# %% tags=["exercise", "exam"] name="exam"
def variations(left, top, side, size, eps, denoise, times, schedule, generator):
    """Return (x0, x_t, result), three batches (B, 1, size, size): squares, squares with noise, and what comes back.

    left, top, side: ints (B,): a square covers the columns left…left + side − 1 and the rows top…top + side − 1
    eps:             noise for x_t, (B, 1, size, size)
    times:           the timesteps of the walk back, [t, …, 0]; the noise of x_t is that of times[0]
    denoise, schedule, generator: as in walk_back
    """
    # White is 1, and black −1. With left.view(-1, 1, 1, 1) a mask for the whole batch needs no loop.
    # begin solution
    left, top, side = (value.view(-1, 1, 1, 1) for value in (left, top, side))
    rows, columns = torch.arange(size).view(-1, 1), torch.arange(size)
    inside = (columns >= left) & (columns < left + side) & (rows >= top) & (rows < top + side)
    x0 = inside.float() * 2 - 1
    a = schedule.alpha_bar[times[0]].item()
    x_t = a**0.5 * x0 + (1 - a) ** 0.5 * eps
    x = x_t
    for t, s in pairwise(times):
        x, variance = sd.process.posterior(denoise(x, torch.full((len(x),), t)), x, t, s, schedule)
        if s > 0:
            x = x + variance**0.5 * generator(t, like=x)
    return x0, x_t, x
    # end solution


exam = variations

# %% tags=["check"] name="exam"
if check.lab5.exam(exam):
    squares = torch.tensor([6, 30, 20]), torch.tensor([8, 34, 20]), torch.tensor([14, 22, 26])
    eps = torch.randn(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    pictures, titles = [], []
    for start in (600, 850, 950):
        walk = model.times(12, start)
        x0, x_t, result = variations(*squares, SIZE, eps, model.denoiser(), walk, model.schedule, sd.Noise(5))
        pictures += [x_t, result]
        titles += [f"noise of t = {start}", "and back"]
    sd.show(torch.cat([x0, *pictures]), titles=["squares", *titles], columns=3)

# %% [markdown] tags=["hint"] name="exam"
# Three parts that you have written before: a mask, the forward process, the walk back. Start with the mask: a pixel
# is inside if its column *and* its row are in range.

# %% [markdown] tags=["hint"] name="exam"
# `columns >= left` and `columns < left + side`, the same for rows and top, combined with `&`. The noise level is
# `schedule.alpha_bar[times[0]]`.

# %% [markdown] tags=["hint"] name="exam"
# After x0 and x_t you can call `walk_back(denoise, x_t, times, schedule, generator)[-1].x` for the result, and
# `return x0, x_t, result`.

# %% [markdown] tags=["explanation"] name="exam"
# At $t = 600$ the same squares come back: the noise had not hidden them. The larger $t$, the more is invented. The
# shipped model was trained on circles and squares, so what it invents is one of these.
#
# Nobody trained this model to edit images. It follows from one fact: a sampler may start from any $x_t$ whose noise
# fits its $t$.
