# %% [markdown]
# # Lab 2. Training
#
# You train a diffusion model: the loss, the training step, the averaged weights (EMA), and the curves that tell
# whether it learns. You need labs 0 and 1, or: you know $x_t = \sqrt{\bar\alpha_t}\,x_0 +
# \sqrt{1-\bar\alpha_t}\,\epsilon$ and what a sampler does. The training itself takes about a minute on two CPU cores.
# Time: 60 to 90 minutes. In a hurry? The last exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import copy
import time

import torch
from torch import nn

import shapedreamer as sd
from shapedreamer.labs import check, predict

train_data, held_out_data = sd.recipes.sprites().make_data()
sprites, labels = train_data.batch(torch.arange(3000))  # images (3000, 3, 16, 16) in [−1, 1], labels (3000, 5)
held_out, held_out_labels = held_out_data.batch(torch.arange(128))  # sprites that we never train on

recipe = sd.recipes.sprites(network=sd.recipes.ContextUnetConfig(features=16, groups=16)).bind_data(train_data)
schedule = recipe.make_schedule()  # schedule.T is 500
checkpoints = {f"epoch {n}": sd.load(f"sprites-epoch-{n}") for n in (0, 4, 8, 31)}  # the stages of a longer run
trained = {}  # your own networks, when they are trained


def new_network():
    """Return an untrained network (x_t (B, 3, 16, 16), t (B,), label (B, 5)) -> x̂₀ with 0.18 million weights."""
    torch.manual_seed(0)
    return recipe.make_network()


def as_model(network):
    """Return the network as a model, so that we can sample from it."""
    like = checkpoints["epoch 31"]
    return sd.Model(copy.deepcopy(network), schedule, "x0", like.spec, like.labels, sampling=like.sampling)


# %% [markdown]
# ## The game
#
# Training a diffusion model is a game of one question. Take a clean image $x_0$. Choose a random timestep $t$, and
# add noise of that strength. Show the network the result $x_t$, and $t$, and ask: what was the clean image? Then
# correct the network a little, and repeat.
#
# That is algorithm 1 of DDPM (Ho et al. 2020, [arXiv:2006.11239](https://arxiv.org/abs/2006.11239)). The paper's
# network answers with the noise $\epsilon$. Ours answers with the clean image; each follows from the other, and $\hat
# x_0$ can be looked at. (More about it is in docs/concepts.md of the repository, section "What the network predicts".
# In the exam the network answers with the noise.)
#
# Our images are sprites, 16 × 16 pixels in colour, each with a label of one in five classes:

# %%
sd.show(sprites[:10], columns=10)

# %% [markdown]
# ## The loss
#
# The answer is judged by the squared error, averaged over the pixels of an image:
#
# $$L = \lVert\, f_\theta(x_t, t, c) - x_0 \,\rVert^2, \qquad
# x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\epsilon$$
#
# $c$ is the label, which the network gets as a third input; lab 3 is about it. We keep one loss *for each image*,
# because we want to see later how it depends on $t$. Think before you write: how large is the loss of a network that
# knows nothing?

# %% tags=["prediction"] name="untrained"
predict(
    "lab2.untrained",
    "b",
    a="an untrained network has about the same loss as one that always answers 0",
    b="an untrained network has a larger loss than one that always answers 0",
    c="an untrained network has a smaller loss than one that always answers 0",
)


# %% tags=["exercise"] name="denoising_loss"
def denoising_loss(network, x0, label, t, eps, schedule):
    """Return the loss of each image: (B,).

    network: (x_t, t, label) -> x̂₀ (B, C, H, W)
    x0, eps: clean images and standard normal noise, (B, C, H, W)
    label:   (B, L)
    t:       (B,) int64 with values in 1…T, one timestep for each image
    """
    # sd.process.diffuse(x0, t, eps, schedule) is the forward process of lab 0.
    # The error of the prediction, squared, averaged over C, H and W, but not over the batch.
    # begin solution
    x_t = sd.process.diffuse(x0, t, eps, schedule)
    error = network(x_t, t, label) - x0
    return error.square().flatten(1).mean(1)
    # end solution


# %% tags=["check"] name="denoising_loss"
if check.lab2.denoising_loss(denoising_loss):
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(1, schedule.T + 1, (len(held_out),), generator=generator)
    eps = torch.randn(held_out.shape, generator=generator)

    def held_out_loss(network):
        """Return the mean loss on held-out images, always with the same t and noise."""
        with torch.no_grad():
            return denoising_loss(network, held_out, held_out_labels, t, eps, schedule).mean().item()

    mean_image = sprites.mean(0, keepdim=True)
    baselines = {
        "always 0": held_out_loss(lambda x_t, t, label: torch.zeros_like(x_t)),
        "always the mean sprite": held_out_loss(lambda x_t, t, label: mean_image.expand_as(x_t)),
        "x_t itself": held_out_loss(lambda x_t, t, label: x_t),
    }
    baselines["the untrained network"] = held_out_loss(new_network())
    baselines["after epoch 31 of the longer run"] = held_out_loss(checkpoints["epoch 31"].network)
    for name, value in baselines.items():
        print(f"{value:.3f}  {name}")
    predict.measured(
        "lab2.untrained",
        "b",
        f"the loss is {baselines['the untrained network']:.3f} untrained, and {baselines['always 0']:.3f} for always 0",
    )

# %% [markdown] tags=["hint"] name="denoising_loss"
# Three lines: make x_t, subtract x0 from the prediction, and take the mean of the squares. Which dimensions must be
# left after the mean?

# %% [markdown] tags=["hint"] name="denoising_loss"
# `error.square()` is (B, C, H, W). `.flatten(1)` makes it (B, C·H·W), and a mean over dimension 1 leaves (B,).

# %% [markdown] tags=["hint"] name="denoising_loss"
# `x_t = sd.process.diffuse(x0, t, eps, schedule)`, `error = network(x_t, t, label) - x0`, and `return
# error.square().flatten(1).mean(1)`

# %% [markdown] tags=["explanation"] name="denoising_loss"
# The list above is the scale on which to read every loss of this lab. A loss means nothing by itself; it means
# something next to a *baseline*. "Always 0" is the one to keep: the mean square of the pixels. The untrained network
# is even worse, because it answers with random numbers. A run whose loss stays at the baseline is not training.
#
# Always the mean sprite is better than 0 without any learning, so a network that just gets there has learned one
# image.
#
# The usual mistakes are a missing root in the forward process, and a mean over everything, which hides how the loss
# depends on $t$.

# %% [markdown]
# ## The training step
#
# One step of the game, in PyTorch: draw a timestep for *each* image, uniform in $1 \dots T$; draw noise; compute the
# loss; take a gradient step.

# %% tags=["prediction"] name="minute"
predict(
    "lab2.minute",
    "b",
    a="after 60 steps with 64 images, the held-out loss is still near the baseline",
    b="after 60 steps with 64 images, the held-out loss is below half of the baseline",
    c="after 60 steps with 64 images, the held-out loss is near 0",
)


# %% tags=["exercise"] name="training_step"
def training_step(network, optimizer, x0, label, schedule):
    """Take one gradient step, and return the mean loss of the batch, a Python number.

    optimizer: a torch optimizer of the network's parameters
    x0, label: a batch of clean images (B, C, H, W) and their labels (B, L)
    """
    # 1. t: (B,) int64, uniform in 1…T. Mind that torch.randint leaves out its upper end.
    # 2. eps: standard normal noise like x0
    # 3. the mean of denoising_loss over the batch
    # 4. gradients to zero, backward, step; loss.item() is a Python number
    # begin solution
    t = torch.randint(1, schedule.T + 1, (len(x0),))
    eps = torch.randn_like(x0)
    loss = denoising_loss(network, x0, label, t, eps, schedule).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
    # end solution


# %% tags=["check"] name="training_step"
if check.lab2.training_step(training_step):
    network = new_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    x0, label, steps = held_out, held_out_labels, 60
    t = torch.randint(1, schedule.T + 1, (len(x0),), generator=generator)
    eps = torch.randn(x0.shape, generator=generator)
    baseline = x0.square().mean().item()
    losses = []
    for _ in range(steps):
        index = torch.randint(len(sprites), (64,))
        losses.append(training_step(network, optimizer, sprites[index], labels[index], schedule))
    with torch.no_grad():
        after = denoising_loss(network, x0, label, t, eps, schedule).mean().item()
    sd.plot(
        {"loss of the batch": (range(1, steps + 1), losses), "baseline: always 0": ([1, steps], [baseline, baseline])},
        "step",
        "loss",
        "The first steps",
    )
    letter = "c" if after < 0.03 else "b" if after < baseline / 2 else "a"
    predict.measured(
        "lab2.minute", letter, f"after {steps} steps the held-out loss is {after:.3f}; the baseline is {baseline:.3f}"
    )

# %% [markdown] tags=["hint"] name="training_step"
# `torch.randint(low, high, (B,))` gives whole numbers from low to high − 1. You need 1 to T.

# %% [markdown] tags=["hint"] name="training_step"
# `t = torch.randint(1, schedule.T + 1, (len(x0),))`, `eps = torch.randn_like(x0)`. The optimizer needs a single
# number: `.mean()` of the loss.

# %% [markdown] tags=["hint"] name="training_step"
# After `loss = denoising_loss(network, x0, label, t, eps, schedule).mean()`, the last four lines are
# `optimizer.zero_grad()`, `loss.backward()`, `optimizer.step()` and `return loss.item()`.

# %% [markdown] tags=["explanation"] name="training_step"
# The plot falls fast and then gets noisy. It is noisy because each batch has other timesteps, and the loss depends
# strongly on $t$: a batch that happens to get large $t$ looks bad. Never judge a run by the loss of single batches.
# Use fixed images, timesteps and noise, as in the number above.
#
# The usual mistakes: one $t$ for the whole batch, which makes the gradient noisier; `torch.rand` in the place of
# `torch.randn`; $t$ from 0 to $T-1$, so that the network never sees the timestep at which sampling starts; and a
# forgotten `zero_grad`, which adds up the gradients of all steps.

# %% [markdown]
# ## Averaged weights
#
# The weights jitter from step to step, because each batch pulls in another direction. Their running average is
# calmer, and samples from it are better. It is called EMA, exponential moving average. After training step $n = 0, 1,
# 2, \dots$, for every weight:
#
# $$\bar\theta \leftarrow d_n\,\bar\theta + (1-d_n)\,\theta, \qquad d_n = \min\!\left(d,\ \frac{1+n}{10+n}\right)$$
#
# $\theta$ is the weight and $\bar\theta$ its average. The fraction is a warm-up: it removes the random initial
# weights quickly.

# %% tags=["prediction"] name="ema"
predict(
    "lab2.ema",
    "a",
    a="at the end of a training of 250 steps, the averaged weights have the lower held-out loss",
    b="at the end of a training of 250 steps, the weights of the last step have the lower held-out loss",
)


# %% tags=["exercise"] name="ema_update"
def ema_update(average, network, n, decay):
    """Include the weights after training step n in the average, in place, and return `average`.

    average, network: two networks of the same form
    n:                0, 1, 2, …
    decay:            d, such as 0.99
    """
    # Work in torch.no_grad(). Average the .parameters(). The .buffers() are tables that are not learned: copy them.
    # begin solution
    d = min(decay, (1 + n) / (10 + n))
    with torch.no_grad():
        for averaged, weight in zip(average.parameters(), network.parameters(), strict=True):
            averaged.lerp_(weight, 1 - d)
        for copied, buffer in zip(average.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
    return average
    # end solution


# %% [markdown]
# Now everything is there for the real run. When your function passes, the next cell trains a network for 250 steps of
# 64 images. That takes about a minute. It shows the same eight samples (same noise, same labels) at four stages.

# %% tags=["check"] name="ema_update"
if check.lab2.ema_update(ema_update):
    network = new_network()
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    steps, stages, start = 250, {0: as_model(average).sample(8, seed=1)}, time.perf_counter()
    for n in range(steps):
        index = torch.randint(len(sprites), (64,))
        loss = training_step(network, optimizer, sprites[index], labels[index], schedule)
        ema_update(average, network, n, decay=0.98)
        if n + 1 in (25, 100, steps):
            stages[n + 1] = as_model(average).sample(8, seed=1)
            print(f"step {n + 1} of {steps}, {time.perf_counter() - start:.0f} s: loss of this batch {loss:.3f}")
    trained["yours"], trained["yours, raw weights"] = average, network
    sd.show(torch.cat([*stages.values()]), titles=[f"step {n}" for n in stages], columns=8)

    generator = torch.Generator().manual_seed(0)
    t = torch.randint(1, schedule.T + 1, (len(held_out),), generator=generator)
    eps = torch.randn(held_out.shape, generator=generator)
    with torch.no_grad():
        of_average, of_last = (
            denoising_loss(each, held_out, held_out_labels, t, eps, schedule).mean().item()
            for each in (average, network)
        )
    predict.measured(
        "lab2.ema",
        "a" if of_average < of_last else "b",
        f"the held-out loss is {of_average:.4f} with averaged weights and {of_last:.4f} with those of the last step",
    )

# %% [markdown] tags=["hint"] name="ema_update"
# Compute $d_n$ first. Then go through the parameters of both networks in step, with `zip`, and change those of
# `average` in place.

# %% [markdown] tags=["hint"] name="ema_update"
# `averaged.lerp_(weight, 1 - d)` is $\bar\theta \leftarrow \bar\theta + (1-d)(\theta - \bar\theta)$, which is the
# formula. For buffers, `copied.copy_(buffer)`.

# %% [markdown] tags=["hint"] name="ema_update"
# In `with torch.no_grad():`, `for averaged, weight in zip(average.parameters(), network.parameters()):
# averaged.lerp_(weight, 1 - d)`, then the same with `.buffers()` and `copy_`, with `d = min(decay, (1 + n) / (10 +
# n))`. At the end, `return average`.

# %% [markdown] tags=["explanation"] name="ema_update"
# Look at the rows from top to bottom. At step 0 there is noise in, noise out. After 25 steps you see brown blobs in
# the middle, not far from the mean sprite. At the end there are bodies with dark outlines and strong colours, but
# hardly a face. That is what a minute can do.
#
# The average is better by little here, since the run is short. It gains more in long runs, in which the weights
# jitter around a good place. At a constant learning rate it does what a falling learning rate would do.
#
# The usual mistakes: $d$ and $1-d$ swapped; no warm-up; averaging the tables of the schedule along with the weights;
# and the most common of all, sampling from the wrong one of the two networks.

# %% [markdown]
# ## Loss by noise level
#
# The mean loss is one number for all timesteps. It hides the most interesting part. So measure the loss *at each* of
# a few timesteps. Use the same noise for all, so that the curves of two networks can be compared.

# %% tags=["prediction"] name="levels"
predict(
    "lab2.levels",
    "a",
    a="from epoch 4 to epoch 31, the loss falls by the larger factor at small t, where there is little noise",
    b="from epoch 4 to epoch 31, the loss falls by the larger factor at large t, where there is much noise",
    c="from epoch 4 to epoch 31, the loss falls by about the same factor at all t",
)


# %% tags=["exercise"] name="loss_by_level"
def loss_by_level(network, x0, label, eps, times, schedule):
    """Return the mean loss at each of the timesteps: (len(times),).

    x0, label, eps: images, labels and noise, the same for all timesteps
    times:          a list of ints
    """
    # For each t in times, denoising_loss with this t for all images; without gradients (torch.no_grad()).
    # begin solution
    means = []
    with torch.no_grad():
        for t in times:
            batch = torch.full((len(x0),), t)
            means.append(denoising_loss(network, x0, label, batch, eps, schedule).mean())
    return torch.stack(means)
    # end solution


# %% tags=["check"] name="loss_by_level"
if check.lab2.loss_by_level(loss_by_level):
    times = [1, 5, 20, 50, 100, 200, 300, 400, 450, 500]
    x0, label = held_out[:96], held_out_labels[:96]
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    networks = {name: model.network for name, model in checkpoints.items()}
    if "yours" in trained:
        networks["yours"] = trained["yours"]
    curves = {name: loss_by_level(each, x0, label, eps, times, schedule).tolist() for name, each in networks.items()}
    lines = {name: (times, curve) for name, curve in curves.items()}
    lines["always 0"] = (times, [x0.square().mean().item()] * len(times))
    sd.plot(lines, "t", "squared error of x̂₀", "Loss by noise level", log_y=True)
    factor = [before / after for before, after in zip(curves["epoch 4"], curves["epoch 31"], strict=True)]
    predict.measured(
        "lab2.levels",
        "a",
        f"the loss of epoch 4 is {factor[1]:.2f} times that of epoch 31 at t = {times[1]}, "
        f"{factor[5]:.2f} times at t = {times[5]}, and {factor[-1]:.2f} times at t = {times[-1]}",
    )
    models = {**checkpoints, **({"yours": as_model(trained["yours"])} if "yours" in trained else {})}
    sd.show(torch.cat([model.sample(8, seed=1) for model in models.values()]), titles=list(models), columns=8)

# %% [markdown] tags=["hint"] name="loss_by_level"
# `denoising_loss` wants a timestep for each image. How do you make a batch in which all have the same?

# %% [markdown] tags=["hint"] name="loss_by_level"
# `torch.full((len(x0),), t)` is B times the timestep t. Collect the mean of each loss in a list, and make a tensor
# with `torch.stack`.

# %% [markdown] tags=["hint"] name="loss_by_level"
# In `with torch.no_grad():`, `return torch.stack([denoising_loss(network, x0, label, torch.full((len(x0),), t), eps,
# schedule).mean() for t in times])`

# %% [markdown] tags=["explanation"] name="loss_by_level"
# Read the plot from right to left. At large $t$ the noise has hidden the image. Nobody can know which sprite it was,
# so the best answer is a mean, and its error is large *for every network*. There the curves of epochs 4, 8 and 31
# nearly meet: this part is learned first, and there is little left to gain. At small $t$ the answer is almost
# determined. The curves differ most there, and what is still learned are details.
#
# Now look at the pictures in this light: the same eight samples at epoch 4, 8 and 31. The silhouettes hardly change,
# but the colours get stronger, and there is more and more detail inside. In that time the mean loss, which large $t$
# dominates, falls slowly. So look at pictures, and do not stop a run because its loss looks flat.
#
# The curve of epoch 0 lies above "always 0" everywhere. And the loss cannot go to 0: lab 8 computes how low it can
# get.

# %% [markdown]
# ## Is it training?
#
# A list to go through when a run of your own looks dead. You now have all the tools for it:
#
# - **The loss is at the baseline** after a hundred steps: the optimizer does not step, the learning rate is far too
#   low or too high, or the target is wrong.
# - **The loss is below the baseline, but samples are noise:** you sample from the untrained or not averaged network,
#   or with another schedule.
# - **The loss is suspiciously low:** the network can see the answer. Check that it gets $x_t$ and not $x_0$.
# - **One end of the loss by noise level is high:** these timesteps are never drawn. Look at the call of `randint`.
# - **Samples are washed out, without black:** the data are in [0, 1] and not in [−1, 1].
#   `sd.conformance.check_data(images)` tells.
#
# `sd.train(sd.recipes.sprites(), "runs/sprites")` does what you wrote here, and saves checkpoints, logs and sample
# pictures.

# %% [markdown]
# ## Exam: the whole loop, with noise as the target
#
# Write the loop from start to end, in the setting of the DDPM paper: the network predicts the noise $\epsilon$, and
# there are no labels. The loss is $\lVert f_\theta(x_t, t) - \epsilon \rVert^2$ (equation 14). Return the averaged
# network.
#
# To see whether it is right, we train on data for which the best network is known: Gaussian pixels with standard
# deviation 0.5. There the best prediction is a multiple of $x_t$, $\hat\epsilon = w_t\,x_t$ with $w_t =
# \sqrt{1-\bar\alpha_t}\,/\,(0.25\,\bar\alpha_t + 1 - \bar\alpha_t)$. So a network with one weight for each timestep
# is enough, and you can compare its weights with the formula.


# %% tags=["setup"]
class PerTimestep(nn.Module):
    """The smallest diffusion network: (x_t, t) -> w[t] · x_t."""

    def __init__(self, T):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(T + 1))

    def forward(self, x_t, t):
        return self.weight[t].view(-1, 1, 1, 1) * x_t


# %% tags=["exercise", "exam"] name="exam"
def train(network, images, schedule, steps, batch_size, lr, decay):
    """Train a network (x_t, t) -> ε̂ with torch.optim.Adam, and return a second network with the averaged weights.

    images: clean images (N, C, H, W); each step takes `batch_size` random ones
    steps:  number of gradient steps
    lr:     learning rate
    decay:  of the EMA, whose warm-up is d_n = min(decay, (1 + n) / (10 + n)) after step n = 0, 1, 2, …
    """
    # begin solution
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for n in range(steps):
        x0 = images[torch.randint(len(images), (batch_size,))]
        t = torch.randint(1, schedule.T + 1, (batch_size,))
        eps = torch.randn_like(x0)
        x_t = sd.process.diffuse(x0, t, eps, schedule)
        loss = (network(x_t, t) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        d = min(decay, (1 + n) / (10 + n))
        with torch.no_grad():
            for averaged, weight in zip(average.parameters(), network.parameters(), strict=True):
                averaged.lerp_(weight, 1 - d)
    return average
    # end solution


exam = train

# %% tags=["check"] name="exam"
if check.lab2.exam(exam):
    table = sd.schedule.cosine(100)
    gaussian = 0.5 * torch.randn(2000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    result = train(PerTimestep(100), gaussian, table, steps=2000, batch_size=64, lr=0.02, decay=0.99)
    a, ts = table.alpha_bar[1:], list(range(1, 101))
    exact = (1 - a).sqrt() / (0.25 * a + 1 - a)
    learned = result.weight.detach()[1:].double()
    sd.plot({"learned": (ts, learned.tolist()), "exact": (ts, exact.tolist())}, "t", "w", "The network's weights")
    # the ε-loss of weights w: E(w x_t − ε)² with x_t = √ᾱ x0 + √(1−ᾱ) ε
    floor = sd.conformance.optimal_eps_mse(0.5, table)
    reached = ((learned * (1 - a).sqrt() - 1) ** 2 + learned**2 * a * 0.25).mean().item()
    print(f"loss: {reached:.5f} with your weights, {floor:.5f} is the smallest possible, 1 is the baseline")

# %% [markdown] tags=["hint"] name="exam"
# It is your training step with another target, in a loop, with an EMA after each step. Start with `average =
# copy.deepcopy(network)`.

# %% [markdown] tags=["hint"] name="exam"
# The loss is `(network(x_t, t) - eps).square().mean()`. A random batch is `images[torch.randint(len(images),
# (batch_size,))]`.

# %% [markdown] tags=["hint"] name="exam"
# In each step n: x0, t, eps, x_t, loss; `optimizer.zero_grad()`, `loss.backward()`, `optimizer.step()`; then
# `ema_update(average, network, n, decay)`. After the loop, `return average`, not `network`.

# %% [markdown] tags=["explanation"] name="exam"
# The learned curve lies on the exact one, up to jitter, and the loss is a little above the smallest possible value. A
# loss *below* it would mean that the network sees something that it must not see.
# `sd.conformance.check_loss_floor(loss, std=0.5)` is this test for any training code, and a good first test of your
# own: train on Gaussian noise as data before you train on images.
