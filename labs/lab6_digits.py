# %% [markdown]
# # Lab 6. Digits and clothes
#
# Three things that every project needs: a noise schedule, your own images in the right form, and a number that says
# how good the samples are. You write the cosine schedule, bring your own handwriting to a digit model, and compute
# FID, with the baseline that makes it readable. You need labs 0 and 1, or: you know $\bar\alpha_t$, $x_t$ and what a
# sampler does. Time: about 75 minutes. In a hurry? The last exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import math
from itertools import pairwise

import torch

import shapedreamer as sd
from shapedreamer.evaluation.classifier import shipped_classifier
from shapedreamer.evaluation.distances import fid
from shapedreamer.labs import check, predict
from shapedreamer.models import zoo

mnist, clothes = sd.load("mnist"), sd.load("fashion_mnist")  # two networks that come with the package
fast = sd.load("mnist-turbo")  # a few-step model: digits in 1 to 4 network calls
real_data, _ = sd.recipes.sprites().make_data()  # drawn by the package: as many real images as we like
sprite_classifier = shipped_classifier(real_data.spec)


def scribble(*strokes, size=112, width=3.5):
    """Return a drawing as a scanner would give it: dark lines on white paper, uint8 (size, size).

    strokes: each a list of points (x, y) from 0 to 1, x to the right and y down
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = torch.full((size, size), math.inf)
    for stroke in strokes:
        for (x1, y1), (x2, y2) in pairwise(stroke):
            dx, dy = (x2 - x1) * size, (y2 - y1) * size
            along = ((x - x1 * size) * dx + (y - y1 * size) * dy) / (dx * dx + dy * dy)
            along = along.clamp(0, 1)
            away = torch.hypot(x - x1 * size - along * dx, y - y1 * size - along * dy)
            distance = torch.minimum(distance, away)
    return (255 * ((distance - width) / 2).clamp(0, 1)).byte()


# %% [markdown]
# ## Digits and clothes
#
# MNIST has 70,000 handwritten digits, and Fashion-MNIST as many pictures of clothes, all 28 × 28 pixels in grey. The
# package does not contain the images (`sd.recipes.mnist().make_data()` downloads them), but it contains models that
# were trained on them. So the digits and clothes in this lab are *generated*:

# %%
digits = mnist.sample(10, label=torch.eye(10), seed=1)
garments = clothes.sample(10, label=torch.eye(10), seed=1)
sd.show(torch.cat([digits, garments]), columns=10)
print(", ".join(clothes.spec.labels))

# %% [markdown]
# ## The cosine schedule
#
# DDPM's linear schedule was made for large pictures. Nichol & Dhariwal (2021,
# [arXiv:2102.09672](https://arxiv.org/abs/2102.09672), equation 17) noticed that it destroys small ones too early,
# and proposed a smoother one:
#
# $$\bar\alpha_t = \frac{f(t)}{f(0)}, \qquad
# f(t) = \cos^2\!\left(\frac{t/T + s}{1 + s} \cdot \frac{\pi}{2}\right), \qquad s = 0.008$$

# %% tags=["prediction"] name="wasted"
predict(
    "lab6.wasted",
    "b",
    a="in about 60 of the 1000 timesteps of the linear schedule, the image is less than 1% of the variance of x_t",
    b="in about 330 of the 1000 timesteps of the linear schedule, the image is less than 1% of the variance of x_t",
    c="in about 700 of the 1000 timesteps of the linear schedule, the image is less than 1% of the variance of x_t",
)


# %% tags=["exercise"] name="cosine_alpha_bar"
def cosine_alpha_bar(T, s=0.008):
    """Return ᾱ_t of the cosine schedule for t = 0…T: (T + 1,), float64."""
    # torch.arange(T + 1, dtype=torch.float64) is t = 0, 1, …, T.
    # begin solution
    t = torch.arange(T + 1, dtype=torch.float64)
    f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2
    return f / f[0]
    # end solution


# %% tags=["check"] name="cosine_alpha_bar"
if check.lab6.cosine_alpha_bar(cosine_alpha_bar):
    linear, cosine = sd.schedule.linear(1000).alpha_bar, cosine_alpha_bar(1000)
    ts = list(range(1001))
    sd.plot(
        {"linear": (ts, linear.tolist()), "cosine": (ts, cosine.tolist())}, "t", "ᾱ_t", "How much of the image is left"
    )
    images = torch.cat([mnist.sample(1, label="3", seed=1), clothes.sample(1, label="boot", seed=1)])
    eps = torch.randn(1, 28, 28, generator=torch.Generator().manual_seed(0))
    times = [0, 50, 100, 200, 400, 600, 800, 999]
    strips = [
        a[t].sqrt().float() * x + (1 - a[t]).sqrt().float() * eps
        for x in images
        for a in (linear, cosine)
        for t in times
    ]
    sd.show(torch.stack(strips), titles=[f"t = {t}" for t in times], columns=8)
    predict.measured(
        "lab6.wasted",
        "b",
        f"ᾱ_t is below 0.01 in {(linear < 0.01).sum()} timesteps of the linear schedule "
        f"and in {(cosine < 0.01).sum()} of the cosine schedule",
    )

# %% [markdown] tags=["hint"] name="cosine_alpha_bar"
# Compute f for all t at once, and divide by its first entry. Work in float64: near T the numbers are tiny.

# %% [markdown] tags=["hint"] name="cosine_alpha_bar"
# The angle is `(t / T + s) / (1 + s) * math.pi / 2`: it goes from almost 0 to exactly π/2.

# %% [markdown] tags=["hint"] name="cosine_alpha_bar"
# With `t = torch.arange(T + 1, dtype=torch.float64)`: `f = torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2` and
# `return f / f[0]`

# %% [markdown] tags=["explanation"] name="cosine_alpha_bar"
# The rows are: a digit with the linear schedule and with the cosine schedule, then the same for a boot. Compare the
# columns 400 and 600. With the linear schedule the digit is nearly gone at 400; with cosine you can still read it.
#
# A third of the linear schedule's timesteps show nothing but noise. Training on them is a waste, and so are sampling
# steps there. It matters less if you train and sample by noise level and not by t, as the recipes of this package do.
#
# The usual mistake is the square: without it, $\bar\alpha$ is replaced by its root. (In the last steps the paper also
# keeps $\beta_t$ below 0.999, so that $\bar\alpha_T$ is not 0. `sd.schedule.cosine(1000)` does.)

# %% [markdown]
# ## Your own images
#
# The digit model wants what it was trained on: white on black, one channel, 28 × 28 pixels, values from −1 to 1. A
# scanned page is nothing like this: dark on white, larger, and with whole numbers from 0 to 255. A model does not
# complain about images in the wrong form. It just works badly. So this step is where most home-made projects fail.
#
# To shrink an image by a whole factor k, take the mean of each k × k block of pixels. It looks smoother than taking
# every k-th pixel.

# %% tags=["prediction"] name="inverted"
predict(
    "lab6.inverted",
    "b",
    a="a digit classifier trained on white digits on black also recognises most digits that are black on white",
    b="a digit classifier trained on white digits on black fails on most digits that are black on white",
)


# %% tags=["exercise"] name="prepare"
def prepare(pixels, size):
    """Return scanned drawings in the form of MNIST: (N, 1, size, size), float32, white (1) on black (−1).

    pixels: dark on white, (N, k·size, k·size) uint8 from 0 (black) to 255 (white), for a whole number k
    """
    # 1. to float, or the arithmetic of uint8 wraps around   2. the mean of each k × k block
    # 3. 0…255 to −1…1, and dark becomes light   4. the channel
    # begin solution
    k = pixels.shape[1] // size
    blocks = pixels.float().view(len(pixels), size, k, size, k).mean((2, 4))
    return (1 - blocks / 127.5)[:, None]
    # end solution


# %% tags=["check"] name="prepare"
if check.lab6.prepare(prepare):
    drawings = torch.stack(
        [  # change them, and draw your own!
            scribble([(0.3, 0.28), (0.7, 0.28), (0.45, 0.78)]),
            scribble([(0.55, 0.22), (0.3, 0.55), (0.72, 0.55)], [(0.6, 0.4), (0.58, 0.8)]),
            scribble([(0.32, 0.35), (0.42, 0.25), (0.6, 0.25), (0.67, 0.38), (0.32, 0.75), (0.7, 0.75)]),
            scribble([(0.52, 0.2), (0.5, 0.8)]),
        ]
    )
    own = prepare(drawings, 28)
    print(sd.conformance.check_data(own))
    classifier = shipped_classifier(mnist.spec)
    seen = [int(classifier.known[k].argmax()) for k in classifier.predict(own)[1]]
    print("The classifier reads your drawings as", seen)

    # to t = 500 and back: the model replaces the details by those of MNIST
    start = 500
    x_t = sd.process.diffuse(own, start, mnist.noise(4, seed=2), mnist.schedule)
    denoise = mnist.denoiser(torch.eye(10)[seen])
    back = sd.samplers.sample(
        sd.samplers.ddim(denoise, mnist.schedule, x_t, mnist.times(16, start), eta=1.0, generator=sd.Noise(2))
    )
    sd.show(torch.cat([own, x_t, back]), titles=["yours", f"noise of t = {start}", "and back"], columns=4)

    test = fast.sample(100, label=torch.eye(10).repeat(10, 1), steps=1, seed=3)
    right = torch.arange(10).repeat(10)
    read = {
        name: (classifier.known[classifier.predict(images)[1]].argmax(1) == right).float().mean().item()
        for name, images in (("white on black", test), ("black on white", -test))
    }
    predict.measured(
        "lab6.inverted",
        "b",
        f"of 100 generated digits, the classifier reads {read['white on black']:.0%} white on black, "
        f"and {read['black on white']:.0%} black on white",
    )

# %% [markdown] tags=["hint"] name="prepare"
# `pixels.float()` first. Then a `.view` with five dimensions separates the blocks: (N, size, k, size, k). Which two
# dimensions do you average?

# %% [markdown] tags=["hint"] name="prepare"
# `blocks = pixels.float().view(N, size, k, size, k).mean((2, 4))` is (N, size, size) from 0 to 255. White paper, 255,
# must become −1, and ink, 0, must become 1.

# %% [markdown] tags=["hint"] name="prepare"
# `k = pixels.shape[1] // size`, `blocks = pixels.float().view(len(pixels), size, k, size, k).mean((2, 4))`, `return
# (1 - blocks / 127.5)[:, None]`

# %% [markdown] tags=["explanation"] name="prepare"
# First row: your drawings. Last row: the same digits, drawn as in MNIST. Noise of $t = 500$ hides the stroke but not
# the digit, and the model fills in what strokes usually look like. Try a larger `start`, and the digit becomes
# another one, of the same label.
#
# `check_data` looks for the usual mistakes: values from 0 to 1, a missing channel, images that are not finite. It
# cannot know that your ink should be white; look at a picture. To train a model on images of your own, put them into
# a folder: `shapedreamer train folder --data my-pictures --size 28x28 --mode L`.

# %% [markdown]
# ## FID: a number for quality
#
# How good are the samples of a model? One look says much, but it cannot tell a good model from a slightly better one,
# and it does not notice if half of the kinds of images are missing. The usual number is FID (Heusel et al. 2017,
# [arXiv:1706.08500](https://arxiv.org/abs/1706.08500)):
#
# 1. Turn each image into *features*, the activations of a classifier. Similar features mean that images show similar
#    things.
# 2. Describe the features of the real images by their mean $\mu$ and covariance $\Sigma$, and those of the samples
#    likewise.
# 3. Take the Fréchet distance of these two Gaussians:
#
# $$\mathrm{FID} = \lVert\mu_a - \mu_b\rVert^2
# + \mathrm{tr}\big(\Sigma_a + \Sigma_b - 2\,(\Sigma_a\Sigma_b)^{1/2}\big)$$
#
# The root is that of a *matrix*. You need only its trace: the sum of the roots of the eigenvalues of
# $\Sigma_a\Sigma_b$.


# %% tags=["exercise"] name="frechet"
def frechet(mean_a, cov_a, mean_b, cov_b):
    """Return the squared Fréchet distance of two Gaussians, one real number.

    means (D,) and covariances (D, D), float64
    """
    # torch.linalg.eigvals(matrix) has the eigenvalues as complex numbers. Here they are real and at least 0, up to
    # rounding: take .real, and clamp(min=0) before the root.
    # begin solution
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * roots.sum()
    # end solution


# %% tags=["check"] name="frechet"
if check.lab6.frechet(frechet):
    num = 256

    def gaussian(images):
        """Return mean and covariance of the classifier's 128 features."""
        features = sprite_classifier.predict(images)[0].double()
        return features.mean(0), features.T.cov()

    reference = gaussian(real_data.batch(torch.arange(num))[0])
    samples = {f"sprites-epoch-{n}": sd.load(f"sprites-epoch-{n}").sample(num, steps=12) for n in (0, 4, 31)}
    samples["sprites-turbo, 1 call"] = sd.load("sprites-turbo").sample(num, steps=1)
    for name, images in samples.items():
        print(f"{float(frechet(*gaussian(images), *reference)):7.2f}  {name}")
    sd.show(torch.cat([images[:8] for images in samples.values()]), titles=list(samples), columns=8)

# %% [markdown] tags=["hint"] name="frechet"
# Four terms: the squared distance of the means, two traces, and minus twice the sum of the roots. `matrix.trace()` is
# the trace.

# %% [markdown] tags=["hint"] name="frechet"
# The product of the matrices is `cov_a @ cov_b`, with @. Its eigenvalues' roots are `torch.linalg.eigvals(cov_a @
# cov_b).real.clamp(min=0).sqrt()`.

# %% [markdown] tags=["hint"] name="frechet"
# `roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()`, then `return (mean_a -
# mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * roots.sum()`

# %% [markdown] tags=["explanation"] name="frechet"
# The order of the numbers is the order of the pictures: from noise to sprites. Lower is better. But how low is good?
# Is 4 a good FID? The number alone does not tell, and next you find out what does.
#
# Never compare FIDs from different papers before you know that features, number of images and even the resizing are
# the same. Ours come from a small classifier of the package, so they are not comparable with those of papers, whose
# features come from an Inception network.
#
# The usual mistakes: the root of each *entry* in place of the matrix root, and a forgotten factor 2.

# %% [markdown]
# ## The baseline: real against real
#
# What FID would a *perfect* model have? Its samples would be other real images. So measure real images against other
# real images, of the same number. This is the baseline. Nothing can be better, except by luck or by copying.

# %% tags=["prediction"] name="real"
predict(
    "lab6.real",
    "b",
    a="the FID of real images against other real images is 0, for any number of images",
    b="the FID of real images against other real images is above 0, and falls as the number of images grows",
    c="the FID of real images against other real images is above 0, and does not depend on their number",
)


# %% tags=["exercise"] name="baseline"
def baseline(features, n, fid, generator):
    """Return the FID of n images against n other ones, chosen at random from all images.

    features:  of M ≥ 2n images, (M, D); they may be sorted by class, so choose at random
    fid:       a function of the features of two sets, fid(a (n, D), b (n, D))
    generator: a torch.Generator for the random choice
    """
    # torch.randperm(M, generator=generator) is a random order of 0…M − 1.
    # begin solution
    order = torch.randperm(len(features), generator=generator)
    return fid(features[order[:n]], features[order[n : 2 * n]])
    # end solution


# %% tags=["check"] name="baseline"
if check.lab6.baseline(baseline):
    generator = torch.Generator().manual_seed(0)
    real = torch.cat(
        [sprite_classifier.predict(real_data.batch(part)[0])[0] for part in torch.arange(4096).split(1024)]
    )
    numbers = [256, 512, 1024, 2048]
    of_real = [sum(baseline(real, n, fid, generator) for _ in range(4)) / 4 for n in numbers]
    model = sprite_classifier.predict(sd.load("sprites-epoch-31").sample(512, steps=12))[0]
    of_model = [fid(model[:n], real[:n]) for n in (256, 512)]
    sd.plot(
        {"real against real": (numbers, of_real), "sprites-epoch-31 against real": ([256, 512], of_model)},
        "N, the number of images in each set",
        "FID",
        "FID depends on N",
        log_x=True,
        log_y=True,
    )
    predict.measured(
        "lab6.real", "b", ", ".join(f"{value:.2f} with N = {n}" for n, value in zip(numbers, of_real, strict=True))
    )
    print("\nFrom the model cards, with N = 2,000:")
    for name in ("mnist", "mnist-turbo", "fashion_mnist", "sprites"):
        value = zoo.card(name).quality["fid"]
        print(f"  {name:14} FID {value['samples']:.2f}, real images {value['real']:.2f}")

# %% [markdown] tags=["hint"] name="baseline"
# Make a random order of all images, and cut it: the first n are one set, and the next n are the other.

# %% [markdown] tags=["hint"] name="baseline"
# With `order = torch.randperm(len(features), generator=generator)`, the first set is `features[order[:n]]`. The
# second must not share an image with it.

# %% [markdown] tags=["hint"] name="baseline"
# `order = torch.randperm(len(features), generator=generator)` and then `return fid(features[order[:n]],
# features[order[n : 2 * n]])`

# %% [markdown] tags=["explanation"] name="baseline"
# Both sets come from the same source, and still the FID is not 0. A mean and a covariance from N images are
# *estimates*, and two estimates never agree. With 128 features, a covariance has 8,256 numbers to be estimated. From
# 256 images they are poor, and the differences add up: FID never goes below 0, so errors do not cancel.
#
# So a FID from few images is too large, for a good model as for a bad one. That is why the package refuses to compute
# it with fewer than 256. Read each FID next to the baseline with the *same N*. Look at the model cards: the digits
# are close to real ones, and the clothes have a way to go.
#
# The usual mistakes: 64 samples against 10,000 real images; the two sets overlap, which makes the baseline too small;
# and sets in the order of the data, so that one has the zeros and the other the nines.

# %% [markdown]
# ## Without the bias
#
# The extra that comes from a finite N shrinks like $1/N$ (Chong & Forsyth 2020,
# [arXiv:1911.07023](https://arxiv.org/abs/1911.07023)):
#
# $$\mathrm{FID}_N \approx \mathrm{FID}_\infty + \frac{c}{N}$$
#
# Two measurements with different N are enough to solve for the two unknowns, $\mathrm{FID}_\infty$ and $c$.


# %% tags=["exercise"] name="fid_infinity"
def fid_infinity(n1, fid1, n2, fid2):
    """Return FID for N = ∞, from the FID with n1 and with n2 images (numbers, n1 ≠ n2)."""
    # begin solution
    return (n2 * fid2 - n1 * fid1) / (n2 - n1)
    # end solution


# %% tags=["check"] name="fid_infinity"
if check.lab6.fid_infinity(fid_infinity):
    generator = torch.Generator().manual_seed(1)
    real = torch.cat(
        [sprite_classifier.predict(real_data.batch(part)[0])[0] for part in torch.arange(2048).split(1024)]
    )
    model = sprite_classifier.predict(sd.load("sprites-epoch-31").sample(512, steps=12))[0]

    def mean_fid(of, n):
        """Return the mean of four FIDs with n images each, against as many real images that are not among `of`."""
        values = []
        for _ in range(4):
            a, b = torch.randperm(len(of), generator=generator)[:n], torch.randperm(1024, generator=generator)[:n]
            values.append(fid(of[a], real[1024:][b]))
        return sum(values) / 4

    for name, of in (("real sprites", real[:1024]), ("sprites-epoch-31", model)):
        few, many = mean_fid(of, 256), mean_fid(of, 512)
        print(f"{name:17} N = 256: {few:.2f}   N = 512: {many:.2f}   N = ∞: {fid_infinity(256, few, 512, many):.2f}")

# %% [markdown] tags=["hint"] name="fid_infinity"
# Write the equation for n1 and for n2. Multiply each by its n, and subtract one from the other. What becomes of c?

# %% [markdown] tags=["hint"] name="fid_infinity"
# $n_1 F_1 = n_1 F_\infty + c$ and $n_2 F_2 = n_2 F_\infty + c$, so $n_2 F_2 - n_1 F_1 = (n_2 - n_1) F_\infty$.

# %% [markdown] tags=["hint"] name="fid_infinity"
# `return (n2 * fid2 - n1 * fid1) / (n2 - n1)`

# %% [markdown] tags=["explanation"] name="fid_infinity"
# For real sprites the extrapolated value is much nearer to 0 than either measurement, as it should be: they come from
# the same source as the reference. With other random sets it may even be slightly negative, because the measurements
# are noisy. The model keeps a distance that no number of images removes. That is its real error.

# %% [markdown]
# ## Exam: judge a model
#
# Write the whole evaluation: from images to two numbers, FID and baseline, both with the same N and the same
# reference. And make it fair: real images come from files with 256 levels of grey, so round the samples to the same
# levels first. A classifier can see the difference, even if you cannot.


# %% tags=["exercise", "exam"] name="exam"
def judge(samples, real, features):
    """Return (FID of the samples, FID of other real images in their place), two numbers.

    samples:  N images (N, C, H, W), roughly in [−1, 1]
    real:     at least 2N real images (M, C, H, W) in random order: the first N are the reference, the next N the others
    features: a function from images (B, C, H, W) to features (B, D)
    """
    # 1. Round the samples to the levels −1, −1 + 2/255, …, 1, after clipping them to [−1, 1].
    # 2. Features of three sets; mean and covariance of each in float64. (Torch has features.T.cov().)
    # 3. Two Fréchet distances to the reference. You may use your function frechet.
    # begin solution
    N = len(samples)
    samples = ((samples.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1

    def gaussian(images):
        found = features(images).double()
        return found.mean(0), found.T.cov()

    def distance(a, b):
        roots = torch.linalg.eigvals(a[1] @ b[1]).real.clamp(min=0).sqrt()
        return float((a[0] - b[0]).square().sum() + a[1].trace() + b[1].trace() - 2 * roots.sum())

    reference = gaussian(real[:N])
    return distance(gaussian(samples), reference), distance(gaussian(real[N : 2 * N]), reference)
    # end solution


exam = judge

# %% tags=["check"] name="exam"
if check.lab6.exam(exam):
    shapes_data, _ = sd.recipes.shapes().make_data()
    real_shapes = shapes_data.batch(torch.arange(512))[0]
    shape_classifier, shapes_model = shipped_classifier(shapes_data.spec), sd.load("shapes-turbo")
    for steps in (1, 4):
        samples = shapes_model.sample(256, steps=steps)
        value, other = judge(samples, real_shapes, lambda images: shape_classifier.predict(images)[0])
        print(
            f"shapes-turbo, {steps} network call{'s' * (steps > 1)}: FID {value:.2f}, real images {other:.2f} (N = 256)"
        )
    sd.show(torch.cat([samples[:8], real_shapes[:8]]), titles=["samples, 4 calls", "real"], columns=8)

# %% [markdown] tags=["hint"] name="exam"
# Write a small function `gaussian(images)` that returns mean and covariance of the features, and use it three times.
# The reference is `real[:N]` both times.

# %% [markdown] tags=["hint"] name="exam"
# Rounding: `((samples.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1`. The covariance of features (N, D) is
# `features.T.cov()`.

# %% [markdown] tags=["hint"] name="exam"
# With `gaussian` returning a pair, the result is `frechet(*gaussian(rounded), *reference), frechet(*gaussian(real[N :
# 2 * N]), *reference)`.

# %% [markdown] tags=["explanation"] name="exam"
# Now you can read a sentence such as "shapes-turbo has FID 1.13 with 4 calls, and real images have 0.39": same
# features, same N = 2,000, and the baseline beside it. With N = 256 both numbers are larger, as you have seen.
# `sd.evaluate("shapes-turbo", num=512)` does all this, and measures precision, recall, valid shapes and copying as
# well (see docs/concepts.md in the repository, section "Evaluation").
