# %% [markdown]
# # Lab 8. The exact denoiser
#
# You write the best possible denoiser of a data set, in closed form and without a network. Then you put it beside a
# trained network and find that the network is good *because* it misses this optimum. You need labs 0 to 2 (forward
# process, sampling, loss). Time: 60 minutes. In a hurry? The last exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import math

import torch

import shapedreamer as sd
from shapedreamer.labs import check, predict

model = sd.load("sprites")
schedule = model.schedule  # cosine, T = 500
network = model.denoiser()  # (x_t, t) -> x̂₀, without a label
training_set, held_out_set = sd.recipes.sprites().make_data()
train, _ = training_set.batch(torch.arange(1000))  # (1000, 3, 16, 16): the first 1,000 sprites the model was trained on
held_out, _ = held_out_set.batch(torch.arange(100))  # (100, 3, 16, 16): sprites that it has never seen

# %% [markdown]
# ## Which image was it?
#
# Suppose that the data are exactly N images $y_1, \dots, y_N$, all equally likely. Somebody picks one, adds the noise
# of timestep t, and shows you $x_t = \alpha_t x_0 + \sigma_t \epsilon$ with $\alpha_t = \sqrt{\bar\alpha_t}$ and
# $\sigma_t = \sqrt{1-\bar\alpha_t}$. Which image was it?
#
# If it was image i, then $x_t$ is normally distributed around $\alpha_t y_i$ with variance $\sigma_t^2$ in each
# pixel. Bayes' rule turns this around, and the constants cancel because all images are equally likely:
#
# $$p(i \mid x_t) = \frac{\exp\left(-\lVert x_t - \alpha_t y_i\rVert^2 / 2\sigma_t^2\right)}
#   {\sum_j \exp\left(-\lVert x_t - \alpha_t y_j\rVert^2 / 2\sigma_t^2\right)}$$
#
# $\lVert\cdot\rVert^2$ is the sum of squares over all channels and pixels. A fraction of this form is a *softmax*.
# Use `torch.softmax`: with little noise the exponents reach −100,000, and `exp` of such a number is 0 in the
# computer.


# %% tags=["exercise"] name="posterior_weights"
def posterior_weights(x_t, t, images, schedule):
    """How likely each image is, given its noisy version.

    x_t (B, C, H, W), t (B,) int64, images (N, C, H, W)  ->  (B, N); each row sums to 1
    """
    alpha, sigma = schedule.alpha_sigma(t, like=x_t)  # (B, 1, 1, 1) each
    # 1. the squared distance from each x_t to each α · image: (B, N)
    # 2. divide by −2σ² of each row, and apply softmax over the images
    # begin solution
    noisy, shrunk = x_t.flatten(1)[:, None], alpha.view(-1, 1, 1) * images.flatten(1)[None]
    distance = (noisy - shrunk).square().sum(2)
    return torch.softmax(-distance / (2 * sigma.view(-1, 1) ** 2), dim=1)
    # end solution


# %% tags=["check"] name="posterior_weights"
if check.lab8.posterior_weights(posterior_weights):
    times = [500, 475, 450, 425, 400, 375, 350, 300, 200]
    counts = []
    for t in times:
        batch_t = torch.full((32,), t)
        x_t = sd.process.diffuse(train[:32], batch_t, torch.randn(32, 3, 16, 16), schedule)
        weights = posterior_weights(x_t, batch_t, train, schedule)
        counts.append((1 / weights.square().sum(1)).mean().item())
        print(f"t = {t}: log-SNR {schedule.log_snr[t]:6.1f}, about {counts[-1]:6.1f} images are possible")
    sd.plot(
        {"possible images": (times, counts)}, "timestep t", "1 / Σ weight²", "How many images could it be?", log_y=True
    )

# %% [markdown] tags=["hint"] name="posterior_weights"
# Flatten each image to a vector of C·H·W numbers: `x_t.flatten(1)` is (B, D), `images.flatten(1)` is (N, D).
# Broadcasting (B, 1, D) against (1, N, D) gives all pairs.

# %% [markdown] tags=["hint"] name="posterior_weights"
# `distance = (x_t.flatten(1)[:, None] - alpha.view(-1, 1, 1) * images.flatten(1)[None]).square().sum(2)` is (B, N).
# The σ of each row needs the shape (B, 1).

# %% [markdown] tags=["hint"] name="posterior_weights"
# The last line is `return torch.softmax(-distance / (2 * sigma.view(-1, 1) ** 2), dim=1)`.

# %% [markdown] tags=["explanation"] name="posterior_weights"
# $1/\sum_i p_i^2$ counts how many images are still possible: it is N if all weights are equal, and 1 if one image has
# all the weight. Read the plot from left to right in t: with little noise the answer is certain, and only in a narrow
# band of timesteps near T do many images remain possible. With 768 pixels, even strong noise leaves enough evidence:
# the distances are sums over all pixels. That is why the exponents are so large, and why the formula without softmax
# ends in 0/0. The usual mistakes are σ in the place of σ², and forgetting that $x_t$ lies near $\alpha_t y_i$, not
# near $y_i$.

# %% [markdown]
# ## The best guess is a mean
#
# You have to answer with one image $\hat x_0$, and you are scored with the squared error. Then the best answer is not
# the most likely image. It is the mean of all images, weighted with their probabilities:
#
# $$\hat x_0(x_t, t) = \mathbb E[x_0 \mid x_t] = \sum_i p(i \mid x_t)\; y_i$$
#
# No network can have a smaller error *on these N images*. A network with enough capacity that is trained on them for
# long enough approaches this function (docs/concepts.md in the repository, section "Denoiser").

# %% tags=["prediction"] name="seen"
# We noise a sprite that is NOT among the 1,000, to t = 200. What does the exact denoiser of the 1,000 return?
predict(
    "lab8.seen",
    "b",
    a="the new sprite, without the noise",
    b="one of the 1,000 sprites, sharp",
    c="a blur of many sprites",
)


# %% tags=["exercise"] name="exact_denoiser"
def exact_denoiser(images, schedule):
    """The ideal denoiser of the images (N, C, H, W): a function (x_t (B, C, H, W), t (B,)) -> x̂₀ (B, C, H, W)."""

    def denoise(x_t, t):
        # the mean of the images with the weights of posterior_weights
        # begin solution
        weights = posterior_weights(x_t, t, images, schedule)
        return torch.einsum("bn,nchw->bchw", weights, images)
        # end solution

    return denoise


# %% tags=["check"] name="exact_denoiser"
if check.lab8.exact_denoiser(exact_denoiser):
    exact = exact_denoiser(train, schedule)
    torch.manual_seed(0)
    x0 = torch.cat([train[:1], held_out[4:5]])
    eps = torch.randn(x0.shape)
    rows = []
    for t in (200, 350, 425, 475):
        batch_t = torch.full((2,), t)
        x_t = sd.process.diffuse(x0, batch_t, eps, schedule)
        for i in range(2):
            rows += [x0[i], x_t[i], exact(x_t, batch_t)[i], network(x_t, batch_t)[i]]
    print("Two rows for each t = 200, 350, 425, 475: a training sprite, then a new sprite.")
    sd.show(torch.stack(rows), titles=["x0", "x_t", "exact", "network"], columns=4)
    t = torch.full((100,), 200)
    x_t = sd.process.diffuse(held_out, t, torch.randn(held_out.shape), schedule)
    answer = exact(x_t, t)
    to_train = torch.cdist(answer.flatten(1), train.flatten(1)).min(1).values.mean().item() / math.sqrt(768)
    to_truth = (answer - held_out).square().mean().sqrt().item()
    predict.measured(
        "lab8.seen",
        "a" if to_truth < to_train else "b" if to_train < 0.1 else "c",
        f"the answers are {to_train:.3f} away from the nearest of the 1,000, and {to_truth:.3f} from the new sprite"
        " (root mean square over pixels)",
    )

# %% [markdown] tags=["hint"] name="exact_denoiser"
# The weights are (B, N) and the images (N, C, H, W). A weighted sum over N is a matrix product.

# %% [markdown] tags=["hint"] name="exact_denoiser"
# Flatten the images to (N, D), multiply, and give the result the shape of x_t again. `torch.einsum` can do it in one
# call.

# %% [markdown] tags=["hint"] name="exact_denoiser"
# `return (posterior_weights(x_t, t, images, schedule) @ images.flatten(1)).view(x_t.shape)`

# %% [markdown] tags=["explanation"] name="exact_denoiser"
# Compare the last two columns. For a training sprite (odd rows) the exact denoiser is better than the network, even
# at t = 425. For a new sprite (even rows) it returns *other* sprites or a mixture of a few: the formula contains only
# the 1,000. The network restores the new sprite, as far as the noise allows. At t = 475 both return a blur, the mean
# of everything that is still possible.
#
# So the network has not learned the exact denoiser of its training set. It has learned something about sprites:
# outlines are dark, figures are symmetric, the ground is white. The package has the function you wrote as
# `sd.oracle.finite_data`, and tests every sampler with such exact denoisers.

# %% [markdown]
# ## Memorisation
#
# What does a sampler produce with the exact denoiser? To measure it, we need the distance from a sample to the
# nearest training image: the root of the mean squared difference over all channels and pixels, which is 0 for a copy.

# %% tags=["prediction"] name="copies"
# DDIM, 25 steps, 16 noises; once with the exact denoiser of the 1,000 sprites and once with the network.
predict(
    "lab8.copies",
    "c",
    a="both produce new sprites",
    b="the exact one produces blurs, the network sprites",
    c="the exact one produces copies of training sprites, the network new ones",
)


# %% tags=["exercise"] name="nearest_distance"
def nearest_distance(samples, images):
    """Distance from each sample to its nearest image: (B, C, H, W), (N, C, H, W) -> (B,).

    The distance of two images is the root mean square difference of their values.
    """
    # begin solution
    squares = (samples.flatten(1)[:, None] - images.flatten(1)[None]).square().mean(2)
    return squares.min(dim=1).values.sqrt()
    # end solution


# %% tags=["check"] name="nearest_distance"
if check.lab8.nearest_distance(nearest_distance):
    x_T = model.noise(16, seed=1)
    copies = sd.samplers.sample(sd.samplers.ddim(sd.oracle.finite_data(train, schedule), schedule, x_T, 25))
    new = sd.samplers.sample(sd.samplers.ddim(network, schedule, x_T, 25))
    print("The same noise for both denoisers:")
    sd.show(torch.cat([copies, new]), titles=["exact", "exact", "network", "network"], columns=8)
    by_exact, by_network = nearest_distance(copies, train).max().item(), nearest_distance(new, train).min().item()
    real = nearest_distance(held_out, train).mean().item()
    predict.measured(
        "lab8.copies",
        "c" if by_exact < 0.05 < by_network else "a" if by_exact > 0.05 else "b",
        f"the distance to the nearest training sprite is at most {by_exact:.3f} with the exact denoiser, and at least "
        f"{by_network:.3f} with the network (real new sprites: {real:.3f} on average)",
    )

# %% [markdown] tags=["hint"] name="nearest_distance"
# All pairs again, as in the first exercise: (B, 1, D) against (1, N, D). Which function goes over D, and which over
# N?

# %% [markdown] tags=["hint"] name="nearest_distance"
# Square, `mean` over the pixels D, root, then `min` over the images N. Note that `min(dim=1)` returns values and
# indices.

# %% [markdown] tags=["hint"] name="nearest_distance"
# `return (samples.flatten(1)[:, None] - images.flatten(1)[None]).square().mean(2).sqrt().min(dim=1).values`

# %% [markdown] tags=["explanation"] name="nearest_distance"
# The upper rows look perfect, and every one of them is a copy: with the perfect denoiser of a training set, a
# diffusion model is an expensive way to pick a training image. The sampler is not to blame; it is the same in all
# rows. The lower rows are less clean (they are sampled without a label, in few steps), but they are new.
#
# This is why "the loss is low" and "the samples look real" are not enough. `shapedreamer evaluate` reports *copying*,
# a test that compares such distances with those of real images that the model has not seen
# ([Meehan et al. 2020](https://arxiv.org/abs/2004.05675)). Distances between pixels find copies, but a copy shifted
# by a pixel counts as new.

# %% [markdown]
# ## Two curves that should not be far apart
#
# Memorisation shows in the loss if we measure it on images from the training set and on held-out images. Write the
# error of any denoiser.

# %% tags=["prediction"] name="gap"
# Error of x̂₀ at t = 200, for training sprites and for held-out sprites:
predict(
    "lab8.gap",
    "b",
    a="both denoisers are better on training sprites",
    b="the exact one is far better on training sprites; the network is about equal on both",
    c="neither cares: noise hides which sprite it was",
)


# %% tags=["exercise"] name="denoising_error"
def denoising_error(denoise, x0, t, eps, schedule):
    """The error of a denoiser for each image: the mean over pixels of (x̂₀ − x0)².

    denoise: (x_t, t) -> x̂₀;  x0, eps (B, C, H, W), t (B,) int64  ->  (B,)
    """
    # noise x0 to timestep t (you may use sd.process.diffuse), denoise it, compare
    # begin solution
    x_t = sd.process.diffuse(x0, t, eps, schedule)
    return (denoise(x_t, t) - x0).square().flatten(1).mean(1)
    # end solution


# %% tags=["check"] name="denoising_error"
if check.lab8.denoising_error(denoising_error):
    torch.manual_seed(0)
    eps = torch.randn(100, 3, 16, 16)
    times = [50, 100, 150, 200, 250, 300, 350, 400, 450, 500]
    exact = sd.oracle.finite_data(train, schedule)
    errors = {}
    for who, denoise in {"exact": exact, "network": network}.items():
        for which, images in {"training": train[:100], "held out": held_out}.items():
            errors[f"{who}, {which}"] = [
                denoising_error(denoise, images, torch.full((100,), t), eps, schedule).mean().item() for t in times
            ]
    print("      t", *(f"{t:6d}" for t in times))
    for name, line in errors.items():
        print(f"{name:18s}", *(f"{error:6.3f}" for error in line))
    curves = {name: (times, line) for name, line in errors.items()}
    sd.plot(curves, "timestep t", "mean squared error of x̂₀", "Training against held-out images")
    at_200 = {name: line[times.index(200)] for name, line in errors.items()}
    gap = {who: at_200[f"{who}, held out"] - at_200[f"{who}, training"] for who in ("exact", "network")}
    predict.measured(
        "lab8.gap",
        ("a" if gap["network"] > 0.05 else "b") if gap["exact"] > 0.05 else "c",
        f"the error on held-out sprites is higher by {gap['exact']:.3f} (exact) and {gap['network']:.4f} (network)",
    )
    print("\nAnd if the exact denoiser has more images? Error at t = 200 on held-out sprites:")
    for n in (10, 100, 1000, 10000):
        exact_n = sd.oracle.finite_data(training_set.batch(torch.arange(n))[0], schedule)
        error = denoising_error(exact_n, held_out, torch.full((100,), 200), eps, schedule).mean()
        print(f"{n:6d} images: {error:.3f}   (network: {at_200['network, held out']:.3f})")

# %% [markdown] tags=["hint"] name="denoising_error"
# Three lines: x_t from x0 and eps; x̂₀ from x_t; the squared difference to x0.

# %% [markdown] tags=["hint"] name="denoising_error"
# `sd.process.diffuse(x0, t, eps, schedule)` makes x_t. The mean goes over C, H and W, not over the batch: the result
# has B numbers.

# %% [markdown] tags=["hint"] name="denoising_error"
# `x_t = sd.process.diffuse(x0, t, eps, schedule)`, then `return (denoise(x_t, t) - x0).square().mean(dim=(1, 2, 3))`.

# %% [markdown] tags=["explanation"] name="denoising_error"
# Four curves, and two of them coincide. The network has the same error on sprites it was trained on and on new ones:
# it generalises. The exact denoiser has almost no error on its own images and a large one on new images, even with
# hardly any noise: it can only answer with an image it has.
#
# The last table shows that more images help the exact denoiser slowly: with all 10,000 images that the network was
# trained on, its held-out error is still several times the network's. A network cannot store 10,000 sprites in its
# weights easily, and its convolutions see the same kinds of corners and outlines everywhere. That restriction is what
# makes it generalise. To train a network until it memorises, take 10 images and a long time
# ([Kadkhodaie et al. 2024](https://arxiv.org/abs/2310.02557) measure the transition).

# %% [markdown]
# ## The loss floor
#
# A training loss never reaches 0, not even for a perfect model. How low can it get? For data whose pixels are
# independent and normally distributed, $x_0 \sim \mathcal N(0, s^2)$, there is a formula. Look at a single pixel,
# $x_t = \alpha_t x_0 + \sigma_t \epsilon$. The variance of $\epsilon$ is 1, the variance of $x_t$ is
# $\alpha_t^2 s^2 + \sigma_t^2$, and their covariance is $\sigma_t$. For normal variables, knowing one reduces the
# variance of the other to
#
# $$\operatorname{Var}(\epsilon \mid x_t)
#   = \operatorname{Var}(\epsilon) - \frac{\operatorname{Cov}(\epsilon, x_t)^2}{\operatorname{Var}(x_t)}$$
#
# and this is the smallest possible squared error of $\hat\epsilon$: the floor of the ε-loss at t.

# %% tags=["prediction"] name="floor"
# Where is the floor of the ε-loss highest?
predict(
    "lab8.floor",
    "a",
    a="at small t, where there is little noise",
    b="in the middle",
    c="at T, where there is almost only noise",
)


# %% tags=["exercise"] name="gaussian_floor"
def gaussian_floor(std, t, schedule):
    """The smallest possible mean squared error of ε̂ at timestep t, for pixels x0 ~ N(0, std²), as a float.

    std: float;  t: int;  schedule.alpha_bar[t] is ᾱ_t
    """
    alpha_bar = schedule.alpha_bar[t].item()
    # begin solution
    signal, noise = alpha_bar * std**2, 1 - alpha_bar
    return signal / (signal + noise)
    # end solution


# %% tags=["check"] name="gaussian_floor"
if check.lab8.gaussian_floor(gaussian_floor):
    torch.manual_seed(0)
    std, times = 0.5, [10, 50, 100, 200, 300, 400, 450, 500]
    best = sd.oracle.gaussian(0.0, std, schedule)
    x0, eps = std * torch.randn(64, 3, 16, 16), torch.randn(64, 3, 16, 16)
    floor = [gaussian_floor(std, t, schedule) for t in times]
    found = []
    for t in times:
        batch_t = torch.full((64,), t)
        x_t = sd.process.diffuse(x0, batch_t, eps, schedule)
        eps_hat = sd.process.to_eps(best(x_t, batch_t), x_t, batch_t, schedule)
        found.append((eps_hat - eps).square().mean().item())
        print(f"t = {t:3d}: your floor {floor[len(found) - 1]:.4f}, the loss of the exact denoiser {found[-1]:.4f}")
    sd.plot(
        {"floor": (times, floor), "exact denoiser": (times, found)}, "timestep t", "ε-loss", "The loss floor, std 0.5"
    )
    highest = times[found.index(max(found))]
    predict.measured(
        "lab8.floor",
        "a" if highest <= 100 else "b" if highest <= 400 else "c",
        f"the loss of the exact denoiser is highest at t = {highest}",
    )

# %% [markdown] tags=["hint"] name="gaussian_floor"
# Put the three values into the formula: variance 1, covariance σ, variance α²s² + σ². Here α² = ᾱ_t and σ² = 1 − ᾱ_t.

# %% [markdown] tags=["hint"] name="gaussian_floor"
# The formula gives 1 − σ² / (α²s² + σ²), which is α²s² / (α²s² + σ²).

# %% [markdown] tags=["hint"] name="gaussian_floor"
# `return alpha_bar * std**2 / (alpha_bar * std**2 + 1 - alpha_bar)`

# %% [markdown] tags=["explanation"] name="gaussian_floor"
# Surprised? With little noise, $\epsilon$ is hard to see: a small wiggle of the image could be noise or image. At T,
# $x_t$ is almost $\epsilon$ itself, so a network that copies its input has nearly no ε-loss, and says nothing about
# the image. For $x_0$ it is the other way round; the two errors differ by the factor SNR (`loss.py` has the formula).
# So a loss says little without its floor, and you cannot compare losses of different predictions or schedules.
#
# Sprites are not normally distributed, and their floor has no formula. But the network's held-out error above is an
# upper bound of it. `sd.conformance` uses your formula to test loss functions.

# %% [markdown]
# ## Exam: is a little noise enough to be creative?
#
# Perhaps the exact denoiser copies only because its data are points. So blur the data: each image $y_i$ becomes a
# small Gaussian cloud with standard deviation $h$ in every pixel, and the clouds have probabilities $w_i$ (think of a
# data set in which some images occur more often). This is the kernel density estimate of statistics. Its exact
# denoiser combines everything above:
#
# - $x_t$ given i is normal with mean $\alpha_t y_i$ and variance $v = \alpha_t^2 h^2 + \sigma_t^2$ in each pixel, so
#   $p(i \mid x_t) \propto w_i \exp(-\lVert x_t - \alpha_t y_i\rVert^2 / 2v)$
# - within cloud i, the best guess is $y_i + \frac{\alpha_t h^2}{v}\,(x_t - \alpha_t y_i)$
# - the best guess is the mean of these, weighted with $p(i \mid x_t)$


# %% tags=["exercise", "exam"] name="exam"
def exam(images, weights, h, schedule):
    """The exact denoiser of Gaussian clouds around images: a function (x_t (B, C, H, W), t (B,)) -> x̂₀.

    images (N, C, H, W);  weights (N,), positive, sum 1;  h: float, the standard deviation of every cloud
    """

    def denoise(x_t, t):
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)  # (B, 1, 1, 1)
        # begin solution
        flat, noisy = images.flatten(1), x_t.flatten(1)
        a = alpha.view(-1, 1)
        v = a**2 * h**2 + sigma.view(-1, 1) ** 2
        distance = (noisy[:, None] - a[:, :, None] * flat[None]).square().sum(2)
        p = torch.softmax(weights.log() - distance / (2 * v), dim=1)
        mean = p @ flat
        return (mean + a * h**2 / v * (noisy - a * mean)).view(x_t.shape)
        # end solution

    return denoise


# %% tags=["check"] name="exam"
if check.lab8.exam(exam):
    some, even = train[:200], torch.full((200,), 1 / 200)
    x_T = model.noise(8, seed=2)
    results = []
    for h in (0.01, 0.1, 0.3):
        images = sd.samplers.sample(sd.samplers.ddim(exam(some, even, h, schedule), schedule, x_T, 25))
        results.append(images)
        distance = torch.cdist(images.flatten(1), some.flatten(1)).min(1).values.mean().item() / math.sqrt(768)
        print(f"h = {h}: distance to the nearest image {distance:.3f}")
    sd.show(torch.cat(results), titles=["h = 0.01", "h = 0.1", "h = 0.3"], columns=8)

# %% [markdown] tags=["hint"] name="exam"
# Start from your answers to the first two exercises. Two things change: the variance, and what is averaged.

# %% [markdown] tags=["hint"] name="exam"
# The weights enter the softmax as a logarithm: $w_i e^{z_i} = e^{\log w_i + z_i}$. The mean over the clouds is
# linear, so you may average the images first: with $m = \sum_i p_i y_i$ the answer is
# $m + \frac{\alpha h^2}{v}(x_t - \alpha m)$.

# %% [markdown] tags=["hint"] name="exam"
# With `a = alpha.view(-1, 1)`, `v = a**2 * h**2 + sigma.view(-1, 1)**2` and `distance` as before:
# `p = torch.softmax(weights.log() - distance / (2 * v), dim=1)`, then `mean = p @ images.flatten(1)`.

# %% [markdown] tags=["explanation"] name="exam"
# Look at the rows: you get training images plus noise that grows with h, as promised. The distance grows too, so by
# that number the samples become new, but no eye would call them so. Independent noise in each pixel is not how
# sprites differ from each other. A network varies sprites in the right way. It owes this to its structure and to many
# examples.
#
# The package has this function as `sd.oracle.gaussian_mixture`. You have now seen both ends: the exact denoiser,
# which fits its data perfectly and cannot generate, and a network, which fits them less well and can.
