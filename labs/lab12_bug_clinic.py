# %% [markdown]
# # Lab 12. The bug clinic
#
# Twelve patients, each with one bug. Bugs like these happen in real projects, and hardly one raises an error.
# You will learn to go from a **symptom** (a curve, a grid, a table) to the **cause**, and to mend it. You need labs 0
# to 4. Time: two to three hours; every patient stands alone, so stop and continue as you like. The exam has a
# thirteenth patient, with two bugs.

# %% [markdown]
# ## How the clinic works
#
# For each patient:
#
# 1. Look at the symptom. The cell runs the code as it was submitted. Do not read the code yet: which causes could make
#    *this* picture?
# 2. Name the cause: write its letter into the decorator, `@cause("b")`.
# 3. Mend the code, which stands below the decorator. One or two lines are enough, and the docstring says what the
#    function should do.
# 4. The check wants both. If your letter is wrong, it says what one would see if that were the cause. The picture
#    below the check shows your code at work, so run it as often as you like.

# %% tags=["setup"]
import copy
import functools
import math
from itertools import pairwise

import torch

import shapedreamer as sd
from shapedreamer.labs import check, predict

cause, submitted = check.lab12.cause, check.lab12.submitted  # submitted.forward is the code of patient 1, with its bug


@functools.cache
def load_model(name="sprites"):
    return sd.load(name)


@functools.cache
def load_sprites(count=256):
    """Sprites (count, 3, 16, 16) in [−1, 1], and their labels (count, 5)."""
    return sd.recipes.sprites().make_data()[0].batch(torch.arange(count))


def show_columns(columns):
    """Show batches {title: (B, C, H, W)}, one in each column."""
    sd.show(torch.stack(list(columns.values()), 1).flatten(0, 1), titles=list(columns), columns=len(columns))


def denoisers(kind, count):
    """The sprite model as two denoisers (x_t, t) -> x̂₀, unclipped: conditioned on the label, and unconditional."""
    model = load_model()
    label = model.label_vectors(kind, count)

    @torch.inference_mode()
    def conditional(x_t, t):
        return model.network(x_t, t, label)

    @torch.inference_mode()
    def unconditional(x_t, t):
        return model.network(x_t, t)

    return conditional, unconditional


# %% [markdown]
# ## Patient 1: the noise that loses weight
#
# *"My forward process looks fine: the pictures get noisier and noisier. But the trained model samples mush."*
#
# The cell takes sprites, scaled to mean 0 and standard deviation 1, adds noise of each timestep, and measures the
# standard deviation of $x_t$. It does the same with a grey image, $x_0 = 0$, which has only the noise to show. The
# lines "expected" are what [the forward process](https://arxiv.org/abs/2006.11239) (Ho et al. 2020, equation 4) should
# give.


# %% tags=["setup"]
def forward_symptom(forward):
    schedule = load_model().schedule
    sprites = load_sprites()[0][:64]
    sprites = (sprites - sprites.mean()) / sprites.std()
    ts = list(range(10, schedule.T + 1, 10))
    noise = torch.randn(sprites.shape, generator=torch.Generator().manual_seed(0))
    of_sprites, of_grey = [], []
    for t in ts:
        batch = torch.full((len(sprites),), t)
        of_sprites.append(forward(sprites, batch, noise, schedule).std().item())
        of_grey.append(forward(torch.zeros_like(sprites), batch, noise, schedule).std().item())
    expected = [(1 - schedule.alpha_bar[t]).sqrt().item() for t in ts]
    lines = {
        "sprites": (ts, of_sprites),
        "sprites, expected": (ts, [1.0] * len(ts)),
        "grey image": (ts, of_grey),
        "grey image, expected": (ts, expected),
    }
    sd.plot(lines, x_label="t", y_label="standard deviation of x_t", title="The forward process of patient 1")
    print(f"sprites: the std of x_t falls to {min(of_sprites):.3f} at t = {ts[of_sprites.index(min(of_sprites))]}")


# %%
forward_symptom(submitted.forward)


# %% tags=["exercise"] name="forward"
# What is the cause?
#   a) the image is multiplied by ᾱ_t instead of √ᾱ_t
#   b) the noise is multiplied by 1−ᾱ_t instead of √(1−ᾱ_t)
#   c) the table holds β_t where ᾱ_t is needed
#   d) t counts from 0 instead of 1
@cause("b")
def forward(x0, t, eps, schedule):
    """Return x_t: the images x0 with the noise of timestep t.

    x0, eps: images and standard normal noise, (B, C, H, W)
    t:       a timestep for each image, (B,)
    """
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    # begin solution
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
    # end solution
    # begin buggy
    # return a.sqrt() * x0 + (1 - a) * eps
    # end buggy


# %% tags=["check"] name="forward"
check.lab12.forward(forward)
forward_symptom(forward)  # what your code does now

# %% [markdown] tags=["hint"] name="forward"
# The upper curve dips in the middle: $x_t$ has too little variance there. Which of the two parts, image or noise, is
# too small? The grey image has only one of them.

# %% [markdown] tags=["hint"] name="forward"
# Variances add up. The squares of the two factors must sum to 1.

# %% [markdown] tags=["hint"] name="forward"
# The factor of `eps` must be `(1 - a).sqrt()`.

# %% [markdown] tags=["explanation"] name="forward"
# With the factors $\sqrt{\bar\alpha}$ and $1-\bar\alpha$, the variance is $\bar\alpha + (1-\bar\alpha)^2$. That is 1
# at both ends, where the bug cannot be seen, and 3/4 in the middle. The pictures still get noisier, so a grid does not
# show it. The network learns to denoise images with *less* noise than the sampler gives it, and that is where the mush
# comes from.
#
# Note that a missing root at $\bar\alpha$ alone gives the very same upper curve: $\bar\alpha^2 + 1 - \bar\alpha$ is
# the same polynomial. Only the grey image tells the two apart. A good test has an input that isolates each term.

# %% [markdown]
# ## Patient 2: the restless preview
#
# *"The log says that the held-out loss of the averaged weights hardly changes any more. But the previews change all
# the time."*
#
# A small sprite model is trained on for 32 steps, with a large learning rate, and keeps an exponential moving average
# (EMA) of its weights. Every four steps it makes a preview. Each row starts from the same noise $x_T$.


# %% tags=["setup"]
@functools.cache
def trained_on():
    """A model that is trained for 32 more steps: {step: (network, averaged network)}."""
    model = copy.deepcopy(load_model("sprites-epoch-31"))
    network, schedule, sprites = model.network.train().requires_grad_(True), model.schedule, load_sprites()[0]
    average, found = copy.deepcopy(network), {}
    optimizer, generator = torch.optim.Adam(network.parameters(), lr=0.003), torch.Generator().manual_seed(0)
    for step in range(1, 33):
        x0 = sprites[torch.randint(len(sprites), (16,), generator=generator)]
        t = torch.randint(1, schedule.T + 1, (16,), generator=generator)
        eps = torch.randn(x0.shape, generator=generator)
        loss = (network(sd.process.diffuse(x0, t, eps, schedule), t) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(weight, 0.05)
        if step >= 12 and step % 4 == 0:
            found[step] = copy.deepcopy((network, average))
    return found


def preview_symptom(preview):
    model = load_model("sprites-epoch-31")
    x_T, columns = model.noise(4, seed=3), {}
    for step, (network, average) in trained_on().items():
        with torch.inference_mode():
            columns[f"step {step}"] = preview(network, average, x_T, model.schedule)
    show_columns(columns)
    images = list(columns.values())
    change = torch.stack([(b - a).abs().mean() for a, b in pairwise(images)]).mean().item()
    print(f"from one preview to the next, a pixel changes by {change:.3f} on average")


# %%
preview_symptom(submitted.preview)


# %% tags=["exercise"] name="preview"
# What is the cause?
#   a) every preview starts from new noise
#   b) the decay of the average is too close to 1
#   c) the averaged weights are not used
#   d) the average has no warm-up, so it starts with the untrained weights
@cause("c")
def preview(network, ema_network, x_T, schedule):
    """Return the preview that a training run shows: images (B, C, H, W), sampled with DDIM in 15 steps.

    network, ema_network: the network in training, and its moving average; both predict x̂₀ from (x_t, t)
    x_T:                  noise (B, C, H, W)
    """
    # begin solution
    denoise = sd.clipped(sd.Denoiser(ema_network, schedule, "x0"))
    # end solution
    # begin buggy
    # denoise = sd.clipped(sd.Denoiser(network, schedule, "x0"))
    # end buggy
    for step in sd.samplers.ddim(denoise, schedule, x_T, 15):
        image = step.x
    return image


# %% tags=["check"] name="preview"
check.lab12.preview(preview)
preview_symptom(preview)  # what your code does now

# %% [markdown] tags=["hint"] name="preview"
# In each row the sprite stays, but its colours jump. What does change within four training steps?

# %% [markdown] tags=["hint"] name="preview"
# The function gets two networks. The log speaks of one of them. Which one is called?

# %% [markdown] tags=["hint"] name="preview"
# Pass `ema_network` to `sd.Denoiser`.

# %% [markdown] tags=["explanation"] name="preview"
# Compare the two grids. The weights of the last step jump back and forth around the optimum, and the colours jump
# with them. Their average stands almost still. That is what the EMA is for.
#
# The bug survives because everything else works: the average is computed, stored and even evaluated. Only the samples
# come from the other network. A test that finds it gives the function two networks that can be told apart, and checks
# which one is called (`sd.conformance.check_sampling_weights`).

# %% [markdown]
# ## Patient 3: the schedule that nobody chose
#
# *"We fine-tune a model and switch from the linear schedule to the cosine one. The network samples well. Its moving
# average does not, and a day later it does."*
#
# In this network, the table $\bar\alpha_t$ is a *buffer*: it is saved with the weights, but not learned. The cell
# switches the schedule, trains on, and plots the table of the network and the table of its average after a number of
# updates.


# %% tags=["setup"]
class NetworkWithTable(torch.nn.Module):
    """A network that carries its schedule along: a parameter, the table ᾱ_t, and the number of images seen."""

    def __init__(self, schedule):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))
        self.register_buffer("alpha_bar", schedule.alpha_bar.clone())
        self.register_buffer("images_seen", torch.tensor(0))


def ema_update_symptom(ema_update):
    network = NetworkWithTable(sd.schedule.linear())
    average = copy.deepcopy(network)
    network.alpha_bar.copy_(sd.schedule.cosine().alpha_bar)  # the switch
    ts = list(range(1001))
    lines = {"network": (ts, network.alpha_bar.tolist())}
    for update in range(1, 81):
        network.images_seen += 64
        ema_update(average, network, 0.99)
        if update in (1, 20, 80):
            lines[f"average after {update}"] = (ts, average.alpha_bar.tolist())
    sd.plot(lines, x_label="t", y_label="alpha_bar", title="The tables of patient 3")
    print(f"images seen: {network.images_seen} by the network, {average.images_seen} by its average")


# %%
ema_update_symptom(submitted.ema_update)


# %% tags=["exercise"] name="ema_update"
# What is the cause?
#   a) decay and 1 − decay are swapped
#   b) the average and the network share the memory of the table
#   c) the average takes in what is not learned
#   d) the table is stored in float32
@cause("c")
def ema_update(average, network, decay):
    """Move the averaged network towards `network`, in place, and return it.

    average, network: two copies of a network, with parameters and buffers
    decay:            share of the average that stays, such as 0.99
    """
    with torch.no_grad():
        # begin solution
        for mine, new in zip(average.buffers(), network.buffers(), strict=True):
            mine.copy_(new)
        for mine, new in zip(average.parameters(), network.parameters(), strict=True):
            # end solution
            # begin buggy
            # for mine, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            # end buggy
            mine.copy_(decay * mine + (1 - decay) * new)
    return average


# %% tags=["check"] name="ema_update"
check.lab12.ema_update(ema_update)
ema_update_symptom(ema_update)  # what your code does now

# %% [markdown] tags=["hint"] name="ema_update"
# The curves of the average move from the linear table to the cosine one, slowly. Is a table something that should move
# slowly?

# %% [markdown] tags=["hint"] name="ema_update"
# `state_dict()` contains parameters *and* buffers. `parameters()` and `buffers()` give them apart.

# %% [markdown] tags=["hint"] name="ema_update"
# Average over `zip(average.parameters(), network.parameters())`. In a second loop, over `buffers()`, do
# `mine.copy_(new)`.

# %% [markdown] tags=["explanation"] name="ema_update"
# Eighty updates after the switch, the average still has a schedule that nobody chose. A few hundred updates later the
# old table has faded from the average, and it samples well again: bugs that cure themselves are hard to catch.
#
# The counter is a second symptom. It is an integer, so `copy_` cuts off the fraction, and the average counts something
# else. Batch normalisation has such a counter. (lucidrains/denoising-diffusion-pytorch, issues 44 and 136, are about
# averaged buffers.)

# %% [markdown]
# ## Patient 4: thirty steps are too many
#
# *"I sample with 25 steps, all is well. I thought that 30 would be a bit better."*

# %% tags=["prediction"] name="ddim"
predict(
    "lab12.ddim",
    "c",
    a="with 30 steps the sprites are nearly the same as with 25, a little sharper",
    b="with 30 steps the sprites are the same as with 25, with a little grain",
    c="with 30 steps there are no sprites",
)


# %% tags=["setup"]
@functools.cache  # remembers the images of each function
def ddim_images(ddim):
    """Sprites sampled in 10, 25 and 30 steps: {title: (3, 3, 16, 16)}."""
    model = load_model()
    conditional, _ = denoisers("human", 3)
    x_T = model.noise(3, seed=1)
    return {f"{steps} steps": ddim(conditional, model.schedule, x_T, steps) for steps in (10, 25, 30)}


def ddim_symptom(ddim):
    show_columns(ddim_images(ddim))
    print(f"T = {load_model().schedule.T}")


# %%
ddim_symptom(submitted.ddim)


# %% tags=["exercise"] name="ddim"
# What is the cause?
#   a) the last step reads the table at an index below 0
#   b) the last step adds noise
#   c) the direction term with ε̂ is missing
#   d) the errors of the steps add up
@cause("a")
def ddim(denoise, schedule, x_T, steps):
    """Return images (B, C, H, W), sampled with DDIM and `steps` calls of the denoiser.

    denoise: (x_t, t (B,)) -> x̂₀
    x_T:     noise (B, C, H, W)
    """
    # begin solution
    times = [round(schedule.T - i * schedule.T / steps) for i in range(steps)] + [0]
    x = x_T
    for t, s in pairwise(times):
        # end solution
        # begin buggy
        # stride = schedule.T // steps
        # x = x_T
        # for t in range(schedule.T, 0, -stride):
        #     s = t - stride
        # end buggy
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, torch.full((len(x),), t))
        eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        x = math.sqrt(b) * x0 + math.sqrt(1 - b) * eps
    return x


# %% tags=["check"] name="ddim"
if check.lab12.ddim(ddim):
    before, after = (
        (ddim_images(function)["30 steps"] - ddim_images(function)["25 steps"]).abs().mean().item()
        for function in (submitted.ddim, ddim)
    )
    evidence = f"the images of 30 and of 25 steps differed by {before:.2f} on average, and now by {after:.2f}"
    predict.measured("lab12.ddim", "c" if before > 0.4 else "b", evidence)
ddim_symptom(ddim)  # what your code does now

# %% [markdown] tags=["hint"] name="ddim"
# Which of 10, 25 and 30 divide $T$? The number $T$ stands below the grid.

# %% [markdown] tags=["hint"] name="ddim"
# Print every pair `t, s` for 30 steps. Look at the last one, and count the pairs.

# %% [markdown] tags=["hint"] name="ddim"
# Space the timesteps evenly: `times = [round(schedule.T - i * schedule.T / steps) for i in range(steps)] + [0]`. Then
# go through `pairwise(times)`.

# %% [markdown] tags=["explanation"] name="ddim"
# With 30 steps the stride is $500 // 30 = 16$, and the timesteps are 500, 484, …, 4, and then −12. Python reads
# `alpha_bar[-12]` from the *end* of the table, where $\bar\alpha$ is almost 0. So the last step turns a finished
# sprite into $\hat\epsilon$, pure noise. The grid shows the noise in the image, as the network sees it.
#
# `max(t - stride, 0)` removes the noise, but 30 steps then make 32 calls, and the last one is a tiny step. Diffusers
# had issues with timesteps of a fixed stride (huggingface/diffusers, #5921 and #11347). A language that raises an
# error for index −1 would have found the bug for you; so does `schedule.alpha_sigma(t, like=x)`, which checks the
# range.

# %% [markdown]
# ## Patient 5: the harsh sprites
#
# *"My DDIM is perfect at η = 0. With η = 1 it should be DDPM, but the sprites turn harsh and white."*
#
# All columns have 20 steps, and the same $x_T$.


# %% tags=["setup"]
def ddim_step_symptom(ddim_step):
    model = load_model()
    conditional, _ = denoisers("human", 4)
    columns = {}
    for eta in (0.0, 0.5, 1.0):
        x, noise = model.noise(4, seed=0), sd.Noise(0)
        times = sd.schedule.step_times(model.schedule.T, 20)
        for t, s in pairwise(times):
            x0 = conditional(x, torch.full((4,), t))
            x = ddim_step(x, x0, t, s, eta, noise(t, like=x), model.schedule)
        columns[f"eta = {eta:g}"] = x
    show_columns(columns)


# %%
ddim_step_symptom(submitted.ddim_step)


# %% tags=["exercise"] name="ddim_step"
# What is the cause?
#   a) ε̂ is multiplied by σ, and z should be
#   b) z is multiplied by the variance σ² instead of σ
#   c) the last step adds noise
#   d) the direction term does not make room for the fresh noise
@cause("d")
def ddim_step(x_t, x0, t, s, eta, z, schedule):
    """Return x_s after one DDIM step from t to s (Song et al. 2021, equation 12).

    x_t, x0, z: the noisy image, the predicted clean image x̂₀, and fresh standard normal noise, (B, C, H, W)
    t, s:       ints, 0 ≤ s < t ≤ T
    eta:        how much of the noise is fresh, from 0 to 1
    """
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    eps = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
    sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
    # begin solution
    direction = math.sqrt(max(1 - b - sigma**2, 0.0))
    # end solution
    # begin buggy
    # direction = math.sqrt(1 - b)
    # end buggy
    return math.sqrt(b) * x0 + direction * eps + sigma * z


# %% tags=["check"] name="ddim_step"
check.lab12.ddim_step(ddim_step)
ddim_step_symptom(ddim_step)  # what your code does now

# %% [markdown] tags=["hint"] name="ddim_step"
# Only columns with fresh noise are ill, and the more noise, the worse. Is there too much or too little noise in $x_s$?

# %% [markdown] tags=["hint"] name="ddim_step"
# All noise in $x_s$ together must have variance $1-\bar\alpha_s$. The fresh noise has $\sigma^2$. How much is left for
# $\hat\epsilon$?

# %% [markdown] tags=["hint"] name="ddim_step"
# `direction = math.sqrt(1 - b - sigma**2)`. (At s = 0, rounding could make it slightly negative; `max(…, 0.0)` is
# safe.)

# %% [markdown] tags=["explanation"] name="ddim_step"
# With $\sqrt{1-\bar\alpha_s}$ for the direction, $x_s$ has noise of variance $1-\bar\alpha_s+\sigma^2$. The network
# gets the timestep s, so it expects less noise, and takes the surplus for detail. It sharpens it: edges turn hard,
# areas turn white. At the next step there is more surplus.
#
# At η = 0 the term is right by accident. That is why every sampler should be tested at more than one η. Check your
# square sum: $b + (1-b-\sigma^2) + \sigma^2 = 1$.

# %% [markdown]
# ## Patient 6: broken by guidance
#
# *"My network predicts ε. I clip x̂₀ to [−1, 1], as everybody does. Without guidance all is well, with strong guidance
# the sprites fall apart."*
#
# The columns differ in the guidance scale. All have the label "human" and 20 DDIM steps.


# %% tags=["setup"]
def clipped_step_symptom(clipped_step):
    model = load_model()
    columns = {}
    for scale in (1.0, 3.0, 6.0):
        denoise = sd.guided(*denoisers("human", 3), scale)
        x = model.noise(3, seed=0)
        times = sd.schedule.step_times(model.schedule.T, 20)
        for t, s in pairwise(times):
            a = model.schedule.alpha_bar[t].item()
            eps = (x - math.sqrt(a) * denoise(x, torch.full((3,), t))) / math.sqrt(
                1 - a
            )  # as if the network predicted ε
            x = clipped_step(x, eps, t, s, model.schedule)
        columns[f"scale {scale:g}"] = x
    show_columns(columns)


# %%
clipped_step_symptom(submitted.clipped_step)


# %% tags=["exercise"] name="clipped_step"
# What is the cause?
#   a) x̂₀ is not clipped
#   b) ε̂ and x̂₀ do not belong together
#   c) x̂₀ is clipped to [0, 1]
#   d) a guidance scale of 6 is too much for this network
@cause("b")
def clipped_step(x_t, eps, t, s, schedule):
    """Return x_s after one DDIM step (η = 0) from t to s, with the predicted clean image clipped to [−1, 1].

    x_t, eps: the noisy image, and the noise in it that the network predicts, (B, C, H, W)
    t, s:     ints, 0 ≤ s < t ≤ T
    """
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    x0 = (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)
    x0 = x0.clamp(-1, 1)
    # begin solution
    eps = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
    # end solution
    # begin buggy
    # end buggy
    return math.sqrt(b) * x0 + math.sqrt(1 - b) * eps


# %% tags=["check"] name="clipped_step"
check.lab12.clipped_step(clipped_step)
clipped_step_symptom(clipped_step)  # what your code does now

# %% [markdown] tags=["hint"] name="clipped_step"
# What changes with the scale? The larger it is, the further $\hat x_0$ reaches beyond [−1, 1], and the more is
# clipped.

# %% [markdown] tags=["hint"] name="clipped_step"
# By definition $x_t = \sqrt{\bar\alpha_t}\,\hat x_0 + \sqrt{1-\bar\alpha_t}\,\hat\epsilon$. Does this hold after the
# clipping?

# %% [markdown] tags=["hint"] name="clipped_step"
# After the clipping: `eps = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)`.

# %% [markdown] tags=["explanation"] name="clipped_step"
# $x_t$, $\hat x_0$ and $\hat\epsilon$ are tied together by one equation. If you clip $\hat x_0$ and keep
# $\hat\epsilon$, you cut the tie: what was clipped off is neither in the image nor in the noise, so the next $x_s$
# lies where no training image ever was, and the error grows from step to step. At scale 1 almost nothing is clipped,
# and so nothing is seen.
#
# Samplers that take a denoiser for $\hat x_0$ and compute $\hat\epsilon$ from its *clipped* result, as in
# `sd.samplers`, cannot have this bug.

# %% [markdown]
# ## Patient 7: behind a veil
#
# *"Trained for a week. The samples have the right shapes, but they look as if there were fog."*
#
# To rule out the training, the cell uses the perfect network: the exact denoiser `sd.oracle.finite_data` of 64 loaded
# images. The first row shows loaded images, the second row samples.


# %% tags=["setup"]
def load_images_symptom(load_images):
    pixels = ((load_sprites()[0][:64] + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)  # as in a file
    images = load_images(pixels).float()
    schedule = sd.schedule.cosine()
    denoise = sd.oracle.finite_data(images, schedule)
    samples = sd.samplers.sample(
        sd.samplers.ddim(
            denoise, schedule, torch.randn(6, *images.shape[1:], generator=torch.Generator().manual_seed(0)), 20
        )
    )
    sd.show(torch.cat([images[:6], samples]), titles=["loaded", "samples"], columns=6)
    darkest = ((samples.min() + 1) * 127.5).round().int()
    print(f"the darkest value in the pictures of the samples, from 0 (black) to 255 (white): {darkest}")


# %%
load_images_symptom(submitted.load_images)


# %% tags=["exercise"] name="load_images"
# What is the cause?
#   a) arithmetic with bytes wraps around
#   b) the network predicts the mean of many images
#   c) the sampler stops too early
#   d) black is not where the network expects it
@cause("d")
def load_images(pixels):
    """Return images (B, C, H, W) in floating point, as the diffusion model needs them.

    pixels: (B, H, W, C) uint8, from 0 (black) to 255 (white)
    """
    # begin solution
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    # end solution
    # begin buggy
    # return pixels.permute(0, 3, 1, 2).float() / 255
    # end buggy


# %% tags=["check"] name="load_images"
check.lab12.load_images(load_images)
load_images_symptom(load_images)  # what your code does now

# %% [markdown] tags=["hint"] name="load_images"
# The loaded images are pale already, and no network has touched them. Print their minimum and maximum.

# %% [markdown] tags=["hint"] name="load_images"
# `sd.show` paints −1 black, 0 grey and 1 white, and the sampler clips to [−1, 1].

# %% [markdown] tags=["hint"] name="load_images"
# Divide by 127.5 and subtract 1.

# %% [markdown] tags=["explanation"] name="load_images"
# The outlines of the sprites were the darkest pixels, and they became grey. A trained model copies its data
# faithfully, also with the wrong range; so samples that look right, except for the range, point at the loader.
#
# There is a second, invisible harm. In [0, 1] the data have half the standard deviation, and the noise is the same. So
# every timestep is noisier than its number says: its signal-to-noise ratio is a quarter of what it should be.
# (lucidrains/denoising-diffusion-pytorch, issues 20 and 47.)

# %% [markdown]
# ## Patient 8: the spikes
#
# *"The loss of my conditional model has spikes. I drop 10% of the labels for classifier-free guidance."*
#
# The cell takes 32 sprites with fixed noise, at a high noise level where the label matters most. It measures the loss
# of the shipped sprite model on this one batch 100 times, each time after label dropout. The weights do not change.
# The second line is the loss with all labels.


# %% tags=["setup"]
@functools.cache
def losses_by_label():
    """The loss of each of 32 sprites with its label, and with zeros for a label: (32,) each."""
    model, (x0, label) = load_model(), (images[:32] for images in load_sprites())
    t = torch.full((32,), int(0.75 * model.schedule.T))
    x_t = sd.process.diffuse(x0, t, model.noise(32), model.schedule)
    with torch.inference_mode():
        return [(model.network(x_t, t, c) - x0).square().flatten(1).mean(1) for c in (label, 0 * label)]


def drop_labels_symptom(drop_labels):
    label, generator = load_sprites()[1][:32], torch.Generator().manual_seed(7)
    kept, without = losses_by_label()
    losses = []
    for _ in range(100):
        dropped = (drop_labels(label, 0.1, generator) == 0).all(1)
        losses.append(torch.where(dropped, without, kept).mean().item())
    lines = {"with label dropout": (range(100), losses), "all labels": (range(100), [kept.mean().item()] * 100)}
    sd.plot(lines, x_label="batch", y_label="loss", title="The loss of patient 8")
    mean, largest = (100 * (loss / kept.mean().item() - 1) for loss in (sum(losses) / 100, max(losses)))
    print(f"dropout raises the loss by {mean:.1f}% on average, and by {largest:.1f}% in the worst batch")


# %%
drop_labels_symptom(submitted.drop_labels)


# %% tags=["exercise"] name="drop_labels"
# What is the cause?
#   a) whole batches lose their labels
#   b) the learning rate is too high
#   c) some images are unusual
#   d) more labels are dropped than 10%
@cause("a")
def drop_labels(labels, probability, generator):
    """Return the labels, where each is set to zeros with this probability, for classifier-free guidance.

    labels: (B, L), one row for each image. They belong to the data and must not change
    """
    # begin solution
    keep = torch.rand(len(labels), 1, generator=generator) >= probability
    # end solution
    # begin buggy
    # keep = torch.rand(1, 1, generator=generator) >= probability
    # end buggy
    return labels * keep


# %% tags=["check"] name="drop_labels"
check.lab12.drop_labels(drop_labels)
drop_labels_symptom(drop_labels)  # what your code does now

# %% [markdown] tags=["hint"] name="drop_labels"
# Most batches lie exactly on the lower line: not one of their labels is dropped. If each image had its own chance, how
# often would a batch of 32 lose none?

# %% [markdown] tags=["hint"] name="drop_labels"
# Print the shape of `keep`, and compare it with that of `labels`.

# %% [markdown] tags=["hint"] name="drop_labels"
# One random number for each row: `torch.rand(len(labels), 1, generator=generator)`.

# %% [markdown] tags=["explanation"] name="drop_labels"
# `keep` had the shape (1, 1), and broadcasting silently copied it to all rows. Now nearly all batches leave the lower
# line, most of them upwards and none far: $1 - 0.9^{32}$, about 97%, of them lose at least one label.
#
# On average the loss is the same, so its mean tells you nothing. But in the submitted code one step in ten learned
# only without labels, with a gradient of its own size and direction. Random numbers deserve a look at their *shape*
# (Ho & Salimans 2022, algorithm 1, draws one for each image).

# %% [markdown]
# ## Patient 9: the picture that is always right
#
# *"Three runs, three rows. They all look the same to me. The FID says that two of them are bad."*
#
# The cell prints the mean of the samples of each run. Then it shows what the patient's code makes of them.


# %% tags=["setup"]
def to_picture_symptom(to_picture):
    sprites = load_model().sample(6, label="human", sampler="ddim", steps=15, seed=4)
    runs = {"run A": sprites, "run B": sprites + 0.3, "run C": sprites * 0.8 + 0.7}
    for name, samples in runs.items():
        print(f"{name}: the mean of the samples is {samples.mean():.2f}")
    levels = to_picture(torch.cat(list(runs.values()))).float()
    sd.show(levels / 127.5 - 1, titles=list(runs), columns=6)


# %%
to_picture_symptom(submitted.to_picture)


# %% tags=["exercise"] name="to_picture"
# What is the cause?
#   a) the brightness is stretched over the whole batch
#   b) the brightness of each picture is stretched
#   c) the samples are clipped
#   d) the means are those of other samples
@cause("b")
def to_picture(samples):
    """Return the pixels of pictures: uint8 from 0 (for −1) to 255 (for 1), (B, C, H, W). Values outside are clipped.

    samples: images (B, C, H, W) in [−1, 1], or a little outside
    """
    # begin solution
    levels = ((samples + 1) * 127.5).clamp(0, 255)
    # end solution
    # begin buggy
    # low = samples.amin((1, 2, 3), keepdim=True)
    # high = samples.amax((1, 2, 3), keepdim=True)
    # levels = (samples - low) / (high - low) * 255
    # end buggy
    return levels.round().to(torch.uint8)


# %% tags=["check"] name="to_picture"
check.lab12.to_picture(to_picture)
to_picture_symptom(to_picture)  # what your code does now

# %% [markdown] tags=["hint"] name="to_picture"
# The means differ and the pictures do not. Somewhere between the two, each row was moved back.

# %% [markdown] tags=["hint"] name="to_picture"
# Which numbers does the code take from the samples themselves? A picture must be a *fixed* function of each pixel.

# %% [markdown] tags=["hint"] name="to_picture"
# `levels = ((samples + 1) * 127.5).clamp(0, 255)`

# %% [markdown] tags=["explanation"] name="to_picture"
# Now you can see what the means say: run B has lost its dark colours, and run C is a white fog. A picture that is
# stretched from its own minimum to its own maximum looks right whatever its brightness and contrast are. `plt.imshow`
# does this to every single-channel image unless you pass `vmin` and `vmax`, and
# `torchvision.utils.make_grid(normalize=True)` stretches a whole batch.
#
# Without the clamp, `to(torch.uint8)` would wrap around, and white would get black speckles. Those are a symptom worth
# knowing, too.

# %% [markdown]
# ## Patient 10: guidance that repels
#
# *"I increase the guidance scale to get more human sprites, and get fewer."*

# %% tags=["prediction"] name="guide"
predict(
    "lab12.guide",
    "a",
    a="the submitted code gives the right result at scale 1, and only there",
    b="the submitted code gives the right result at scale 0, and only there",
    c="the submitted code gives a wrong result at every scale",
)


# %% tags=["setup"]
def guide_symptom(guide):
    model = load_model()
    conditional, unconditional = denoisers("human", 3)
    columns = {}
    for scale in (1.0, 2.0, 4.0):

        def denoise(x_t, t, scale=scale):
            return guide(conditional(x_t, t), unconditional(x_t, t), scale).clamp(-1, 1)

        x_T = model.noise(3, seed=1)
        columns[f"human, scale {scale:g}"] = sd.samplers.sample(sd.samplers.ddim(denoise, model.schedule, x_T, 15))
    show_columns(columns)


# %%
guide_symptom(submitted.guide)


# %% tags=["exercise"] name="guide"
# What is the cause?
#   a) the label does not reach the network
#   b) the scale follows the paper's convention, w = scale − 1
#   c) the prediction moves away from the label
#   d) x̂₀ is not clipped
@cause("c")
def guide(conditional, unconditional, scale):
    """Return the guided prediction (Ho & Salimans 2022): at scale 1 the conditional one, at 0 the other.

    conditional, unconditional: predictions x̂₀ with and without the label, (B, C, H, W)
    """
    # begin solution
    return unconditional + scale * (conditional - unconditional)
    # end solution
    # begin buggy
    # return conditional + (scale - 1) * (unconditional - conditional)
    # end buggy


# %% tags=["check"] name="guide"
if check.lab12.guide(guide):
    one, other = torch.randn(2, 1, 3, 4, 4)
    errors = [(submitted.guide(one, other, s) - guide(one, other, s)).abs().mean().item() for s in (0.0, 1.0, 2.0)]
    evidence = "the submitted code is wrong by {:.2f} at scale 0, {:.2f} at scale 1 and {:.2f} at scale 2".format(
        *errors
    )
    predict.measured("lab12.guide", "a" if errors[1] < 1e-5 else "c", evidence)
guide_symptom(guide)  # what your code does now

# %% [markdown] tags=["hint"] name="guide"
# At scale 1 all is well, at 4 nothing is human. The samples are not random, either: they avoid something.

# %% [markdown] tags=["hint"] name="guide"
# Draw the two predictions as two points, and an arrow for the difference in the code. Where does it point?

# %% [markdown] tags=["hint"] name="guide"
# Start at the unconditional prediction and go towards the conditional one: `unconditional + scale * (conditional -
# unconditional)`.

# %% [markdown] tags=["explanation"] name="guide"
# Both formulas are the same at scale 1, because the term with the difference vanishes. So a unit test at scale 1
# passes, and the samples look right until somebody raises the scale. What remains then is a *negative prompt*: sprites
# that are anything but human.
#
# A test at scales 0, 1 and 2 finds it, since two points and the straight line through them leave no freedom.

# %% [markdown]
# ## Patient 11: the run that forgets its age
#
# *"My machine reboots every night, so I resume from a checkpoint. The weights and the optimizer's state are restored.
# Still, interrupted runs end with a higher loss."*
#
# The cell trains a small network for 400 steps, once without a break and once with a resume at step 250. The learning
# rate rises for 20 steps, and then falls to 0. Each point of the plot is the mean over 20 steps.


# %% tags=["setup"]
def train_steps_symptom(train_steps):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(400, 16, 8, generator=generator)
    targets = inputs @ torch.randn(8, 1, generator=generator) + 0.3 * torch.randn(400, 16, 1, generator=generator)
    layer = torch.nn.Linear(8, 1)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)

    def rate(step):
        return 0.5 * min(1, (step + 1) / 20) * (1 - step / 400)

    def loss(network, step):
        return (network(inputs[step]) - targets[step]).square().mean()

    lines, first_losses = {}, {}
    for name, stops in (("without a break", (400,)), ("resumed at 250", (250, 400))):
        network, losses, first = copy.deepcopy(layer), [], 0
        optimizer = torch.optim.Adam(network.parameters())
        for last in stops:
            losses += train_steps(network, optimizer, rate, loss, first, last)
            first = last
        means = torch.tensor(losses).view(-1, 20).mean(1)
        lines[name] = (range(10, 400, 20), means)
        first_losses[name] = losses[250]
    sd.plot(lines, x_label="step", y_label="loss", title="The loss of patient 11", log_y=True)
    print("the loss of step 250:", ", ".join(f"{value:.4f} {name}" for name, value in first_losses.items()))
    print(
        "the mean of the last 40 steps:", ", ".join(f"{ys[-2:].mean():.4f} {name}" for name, (_, ys) in lines.items())
    )


# %%
train_steps_symptom(submitted.train_steps)


# %% tags=["exercise"] name="train_steps"
# What is the cause?
#   a) the state of the optimizer is lost
#   b) the learning rate starts again
#   c) the batches start again from the first one
#   d) the weights are those of an older checkpoint
@cause("b")
def train_steps(network, optimizer, rate, loss, first, last):
    """Do the training steps first, …, last − 1 of a run, and return their losses as a list.

    rate: step -> the learning rate of this step of the run
    loss: (network, step) -> the loss of this step's batch
    """
    losses = []
    for i in range(last - first):
        # begin solution
        lr = rate(first + i)
        # end solution
        # begin buggy
        # lr = rate(i)
        # end buggy
        for group in optimizer.param_groups:
            group["lr"] = lr
        value = loss(network, first + i)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


# %% tags=["check"] name="train_steps"
check.lab12.train_steps(train_steps)
train_steps_symptom(train_steps)  # what your code does now

# %% [markdown] tags=["hint"] name="train_steps"
# The first loss after the resume is the same to the last digit. So the weights and the batch are right. What else does
# a step depend on?

# %% [markdown] tags=["hint"] name="train_steps"
# At step 250 the learning rate should be small already. Print `group["lr"]` in both runs.

# %% [markdown] tags=["hint"] name="train_steps"
# `rate` wants the step of the whole run: `rate(first + i)`.

# %% [markdown] tags=["explanation"] name="train_steps"
# Step 250 should have a learning rate of $0.5 \cdot (1 - 250/400)$; the resumed run warmed up and then went on with
# almost three times as much. It also never came down to 0, so it ended in the noise that a large learning rate leaves.
# In a real run the jump is smaller and easily taken for bad luck.
#
# The cure for the whole family of these bugs: make everything a function of the global step, the learning rate, the
# batch and the random numbers. Then a resumed run equals an uninterrupted one bit for bit, and a test can demand it.

# %% [markdown]
# ## Patient 12: the perfect model with the bad score
#
# *"Our model scores far worse than real images. Sampling is slow, so we measure it with 64 images."*
#
# To find out whether the score or the model is ill, the cell scores a *perfect* model: one that gives real sprites,
# which are not in the reference. FID needs a vector of features for each image; here it is the sprite at 4×4 pixels,
# 48 numbers.

# %% tags=["prediction"] name="score"
predict(
    "lab12.score",
    "c",
    a="the perfect model scores like the other real images, since that is what it is",
    b="the perfect model sometimes scores better and sometimes worse than the real images, depending on the seed",
    c="the perfect model scores much worse than the real images, for every seed",
)


# %% tags=["setup"]
def fid(features, reference):
    """Fréchet distance of two sets of features, (N, D) and (M, D) (Heusel et al. 2017)."""
    roots = [(x - x.mean(0)) / math.sqrt(len(x) - 1) for x in (features.double(), reference.double())]
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    shift = (features.double().mean(0) - reference.double().mean(0)).square().sum()
    return (shift + roots[0].square().sum() + roots[1].square().sum() - 2 * cross).item()


@functools.cache
def sprite_features():
    """Features of 1,800 sprites: (1800, 48)."""
    return torch.nn.functional.adaptive_avg_pool2d(load_sprites(1800)[0], 4).flatten(1)


def score_symptom(score):
    features = sprite_features()
    ratios = []
    print("         perfect model   real images")
    for seed in range(5):
        order = torch.randperm(1800, generator=torch.Generator().manual_seed(seed))
        samples, real, reference = features[order].split(600)
        of_samples, of_real = score(samples, real, reference)
        ratios.append(float(of_samples) / float(of_real))
        print(f"seed {seed}   {float(of_samples):13.3f}   {float(of_real):11.3f}")
    return ratios


# %%
_ = score_symptom(submitted.score)


# %% tags=["exercise"] name="score"
# What is the cause?
#   a) too few samples
#   b) the model gives too little variety
#   c) bad luck with the choice of samples
#   d) the features do not suit these images
@cause("a")
def score(samples, real, reference):
    """Return two FIDs that can be compared: of the samples, and of real images in their place.

    samples, real, reference: features of images, (N, D) each; `real` has at least as many rows as `samples`. Both FIDs
    measure the distance to `reference`
    """
    # begin solution
    return fid(samples, reference), fid(real[: len(samples)], reference)
    # end solution
    # begin buggy
    # few = samples[:64]  # sampling is slow
    # return fid(few, reference), fid(real, reference)
    # end buggy


# %% tags=["check"] name="score"
if check.lab12.score(score):
    ratios = score_symptom(submitted.score)
    smallest, largest = min(ratios), max(ratios)
    evidence = f"the FID of the perfect model was {smallest:.1f} to {largest:.1f} times that of the real images"
    predict.measured("lab12.score", "c" if smallest > 2 else "b", evidence)
    reference, others = sprite_features().split([600, 1200])
    counts = [32, 64, 128, 256, 512, 1024]
    fids = [fid(others[:n], reference) for n in counts]
    sd.plot(
        {"real sprites": (counts, fids)},
        x_label="N",
        y_label="FID",
        title="FID of real sprites",
        log_x=True,
        log_y=True,
    )
_ = score_symptom(score)  # what your code does now

# %% [markdown] tags=["hint"] name="score"
# The "model" cannot be better: it *is* real. So the fault lies in the measurement. Do the two columns measure in the
# same way?

# %% [markdown] tags=["hint"] name="score"
# FID compares covariance matrices, here of 48 × 48 numbers. How well can 64 images determine them? And would another
# seed help?

# %% [markdown] tags=["hint"] name="score"
# Use all samples, and as many real images: `fid(samples, reference), fid(real[: len(samples)], reference)`.

# %% [markdown] tags=["explanation"] name="score"
# A covariance from few images is off in some direction, and on average any such error makes the distance larger. So
# FID has a *bias*: it is too high for small N, for every seed, and falls as N grows. The plot shows it for real
# sprites, against other real sprites: a perfect model, and nothing but N changes.
#
# Two rules follow. Compare only FIDs with the same N and the same features. And report next to it the FID of real
# images with the same N: it is what a perfect model would score. `sd.evaluate` does both, and refuses fewer than 256
# images.

# %% [markdown]
# ## The exam: patient 13
#
# A guided sampler, **with two bugs**. The columns have 25 or 30 steps and a guidance scale of 1 or 4; all ask for
# humans. One bug can hide another, so mend one and look again.
#
# If you pass this at once, you may skip the other patients.


# %% tags=["setup"]
def exam_symptom(sampler):
    model = load_model()
    x_T = model.noise(3, seed=5)
    columns = {}
    for steps, scale in ((25, 1.0), (25, 4.0), (30, 1.0)):
        images = sampler(*denoisers("human", 3), model.schedule, x_T, steps, scale)
        columns[f"{steps} steps, scale {scale:g}"] = images
    show_columns(columns)
    print(f"T = {model.schedule.T}")


# %%
exam_symptom(submitted.exam)


# %% tags=["exercise", "exam"] name="exam"
# What are the two causes? Write both letters into @cause, such as "af".
#   a) ε̂ is stale after the clipping of x̂₀
#   b) the timesteps do not end at 0
#   c) the direction term is wrong
#   d) a square root is missing in the noise
#   e) guidance counts from the wrong prediction
#   f) the labels were dropped per batch in training
@cause("be")
def exam(conditional, unconditional, schedule, x_T, steps, scale):
    """Return images (B, C, H, W), sampled with guided DDIM (η = 0), x̂₀ clipped to [−1, 1], in `steps` steps.

    conditional, unconditional: denoisers (x_t, t (B,)) -> x̂₀, with and without the label
    scale:                      guidance scale; 1 is the conditional model, and above 1 the label counts more
    """
    # begin solution
    times = [round(schedule.T - i * schedule.T / steps) for i in range(steps)] + [0]
    # end solution
    # begin buggy
    # stride = math.ceil(schedule.T / steps)
    # times = [schedule.T - i * stride for i in range(steps + 1)]
    # end buggy
    x = x_T
    for t, s in pairwise(times):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        batch = torch.full((len(x),), t)
        with_label, without = conditional(x, batch), unconditional(x, batch)
        # begin solution
        x0 = without + scale * (with_label - without)
        # end solution
        # begin buggy
        # x0 = with_label + scale * (without - with_label)
        # end buggy
        x0 = x0.clamp(-1, 1)
        eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        x = math.sqrt(b) * x0 + math.sqrt(1 - b) * eps
    return x


# %% tags=["check"] name="exam"
check.lab12.exam(exam)
exam_symptom(exam)  # what your code does now

# %% [markdown] tags=["hint"] name="exam"
# Take the columns one by one. The first asks for humans at scale 1, in a number of steps that divides $T$. The third
# differs from it in the number of steps only.

# %% [markdown] tags=["hint"] name="exam"
# Print `times` for 30 steps. And work out `x0` by hand for scale 1.

# %% [markdown] tags=["hint"] name="exam"
# The list of timesteps is `[round(schedule.T - i * schedule.T / steps) for i in range(steps)] + [0]`, and guidance is
# `without + scale * (with_label - without)`.

# %% [markdown] tags=["explanation"] name="exam"
# At scale 1, the formula with the two predictions swapped *is* the unconditional model: sprites of all kinds. At scale
# 4 it moves far away from the label. And 30 steps of $\lceil 500/30 \rceil = 17$ end at −10, that is, at the end of
# the table.
#
# The noise of the third column hid the wrong label. So after every repair, look at the whole grid again. And now you
# know the order in which a clinic works: look, list the causes that fit, find the measurement that tells them apart,
# and only then open the code.
