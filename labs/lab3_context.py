# %% [markdown]
# # Lab 3. Context
#
# You steer a diffusion model with labels: generate a human or a food on demand, mix the two, and turn the label up
# with classifier-free guidance. You also write the small trick in training that makes guidance possible. You need
# labs 0 and 1, or: you know what a denoiser $(x_t, t) \mapsto \hat x_0$ is and that a sampler calls it again and
# again. Time: about 60 minutes. In a hurry? The last exercise is an exam; passing it skips the lab.

# %% tags=["setup"]
import torch

import shapedreamer as sd
from shapedreamer.evaluation.classifier import shipped_classifier
from shapedreamer.labs import check, predict

model = sd.load("sprites")  # a trained network that comes with the package; its images are (3, 16, 16)
small = sd.load("sprites-epoch-31")  # one with a sixteenth of the parameters: worse, but fast enough to measure with
schedule = model.schedule
names = model.spec.labels  # the five classes
train_data, _ = sd.recipes.sprites().make_data()
sprites, labels = train_data.batch(torch.arange(500))  # images (500, 3, 16, 16) in [−1, 1], labels (500, 5)
classifier = shipped_classifier(model.spec)  # tells the classes of real sprites apart; we measure with it


@torch.inference_mode()  # this lab trains nothing, so no gradients are needed
def network(x_t, t, label=None):
    """Return x̂₀, predicted from x_t (B, 3, 16, 16), t (B,) and a label (B, 5), or without a label."""
    return model.network(x_t, t, label)


def share(images, name):
    """Return the share of the images in which the classifier sees this class."""
    vector = torch.zeros(1, len(names))
    vector[0, names.index(name)] = 1
    return (classifier.predict(images)[1] == classifier.classes(vector)).float().mean().item()


# %% [markdown]
# ## A label is a vector
#
# Every sprite in the training data has a label, one of five classes. The network does not get the name of the class.
# It gets a vector with one number for each class: 1 for the class of the sprite, and 0 for the others. This is called
# a *one-hot* vector.

# %%
print("the classes:", ", ".join(names))
chosen = [int((labels.argmax(1) == k).nonzero()[0]) for k in range(5)]  # the first sprite of each class
for i in chosen:
    print(labels[i].tolist(), "=", names[int(labels[i].argmax())])
sd.show(sprites[chosen], titles=names, columns=5)

# %% [markdown]
# Inside the network, the vector goes through a small MLP. Its output scales and shifts the features at every level of
# the U-Net (feature-wise linear modulation; Perez et al. 2018, [arXiv:1709.07871](https://arxiv.org/abs/1709.07871)).
#
# Because the label is a vector of numbers and not a name, nothing keeps us from asking for 0.6 of a class, or for two
# classes at once. So our first function turns names with amounts into a vector.

# %% tags=["prediction"] name="two_classes"
predict(
    "lab3.two_classes",
    "a",
    a="asked for human = 1 and food = 0.6, the network mostly draws humans",
    b="asked for human = 1 and food = 0.6, the network draws humans and foods equally often",
    c="such a vector was not in the training data, so the network draws noise",
)


# %% tags=["exercise"] name="label_vector"
def label_vector(amounts, names):
    """Return the label vector of some classes: float32, shape (L,).

    amounts: a dict from class names to numbers, such as {"human": 1, "food": 0.6}
    names:   all L class names, in the order of the vector
    """
    # One number for each name in `names`: the amount of this class, or 0 if it is not in `amounts`.
    # begin solution
    return torch.tensor([float(amounts.get(name, 0)) for name in names])
    # end solution


# %% tags=["check"] name="label_vector"
if check.lab3.label_vector(label_vector):
    mixed = label_vector({"human": 1, "food": 0.6}, names)
    print([round(number, 2) for number in mixed.tolist()])
    sd.show(model.sample(6, label=mixed.expand(6, -1), seed=4), columns=6)
    images = small.sample(40, label=mixed.expand(40, -1), seed=4)
    predict.measured(
        "lab3.two_classes",
        "a",
        f"the classifier sees a human in {share(images, 'human'):.0%} of 40 samples, "
        f"and food in {share(images, 'food'):.0%}",
    )

# %% [markdown] tags=["hint"] name="label_vector"
# Go through `names`, not through `amounts`: the result has a number for every name, in the order of `names`.

# %% [markdown] tags=["hint"] name="label_vector"
# `amounts.get(name, 0)` is the amount of a class, or 0 if it is missing. A list comprehension over `names` collects
# them.

# %% [markdown] tags=["hint"] name="label_vector"
# `torch.tensor([float(amounts.get(name, 0)) for name in names])`. Without `float`, a dict of whole numbers gives an
# integer tensor.

# %% [markdown] tags=["explanation"] name="label_vector"
# Look at the six samples. They are humans, but with a touch of something else, in colour or outline. No training
# image had this label. The network still does something sensible, because the new vector is close to label vectors
# that it has seen.
#
# The usual mistake is to follow the order of the dict. {"food": 1} would then fill the *first* entry, and the network
# would draw a human: the order of the classes is fixed when the network is trained.

# %% [markdown]
# ## Generate on demand
#
# A sampler wants a function of two arguments, $(x_t, t) \mapsto \hat x_0$. The network takes three. So we fix the
# label: we make a new function, which always calls the network with our label. The sampler sees no difference.
#
# One detail: the sampler denoises a batch of B images, and the network wants a label for each of them, a tensor (B,
# L).

# %% tags=["prediction"] name="same_noise"
predict(
    "lab3.same_noise",
    "b",
    a="two samples from the same noise with different labels have nothing in common",
    b="two samples from the same noise with different labels are more alike than samples from different noise",
    c="two samples from the same noise with different labels are the same image",
)


# %% tags=["exercise"] name="conditional"
def conditional(network, label):
    """Return a denoiser: a function (x_t, t) -> x̂₀ that calls the network with this label.

    network: a function (x_t (B, C, H, W), t (B,), label (B, L)) -> x̂₀ (B, C, H, W)
    label:   one label vector, (L,)
    """

    def denoise(x_t, t):
        # Repeat the label for each of the B images in x_t, and call the network.
        # begin solution
        return network(x_t, t, label.expand(len(x_t), -1))
        # end solution

    return denoise


# %% tags=["check"] name="conditional"
if check.lab3.conditional(conditional):
    x_T = model.noise(6, seed=3)
    rows = []
    for name in names:
        one_hot = torch.eye(5)[names.index(name)]
        denoise = sd.clipped(conditional(network, one_hot))
        rows.append(sd.samplers.sample(sd.samplers.ddim(denoise, schedule, x_T, model.times(16))))
    sd.show(torch.cat(rows), titles=names, columns=6)
    difference = {
        moved: torch.stack([(rows[i] - rows[j].roll(moved, 0)).square().mean() for i in range(5) for j in range(i)])
        .mean()
        .sqrt()
        for moved in (0, 1)
    }
    predict.measured(
        "lab3.same_noise",
        "b",
        f"two classes differ by {difference[0]:.2f} (root mean square) from the same noise, "
        f"and by {difference[1]:.2f} from different noise",
    )

# %% [markdown] tags=["hint"] name="conditional"
# The inner function has three things to pass on: x_t and t, which it gets, and the label, which it finds outside.

# %% [markdown] tags=["hint"] name="conditional"
# `label` has shape (L,). `label.expand(len(x_t), -1)` is the same label B times, (B, L), without copying it.

# %% [markdown] tags=["hint"] name="conditional"
# `return network(x_t, t, label.expand(len(x_t), -1))`

# %% [markdown] tags=["explanation"] name="conditional"
# Read the picture in two directions. Each *row* is one class: on demand. Each *column* starts from the same noise,
# and images in a column share colours and where things are. The noise decides what the label leaves open.
#
# The usual mistake is to call the network at once and to return the image. A sampler needs the *function*: it calls
# it at every step, each time with another image and another timestep. `sd.samplers` and `model.sample(6,
# label="human")` work the same way.

# %% [markdown]
# ## Where the label counts
#
# How much does the network gain from the label? We add noise to held-out sprites and measure the squared error of
# $\hat x_0$ three times: with the right label, without a label (a vector of zeros), and with a wrong label.

# %% tags=["prediction"] name="levels"
predict(
    "lab3.levels",
    "a",
    a="the label helps most at large t, where the noise hides the image",
    b="the label helps equally at all t",
    c="the label helps most at small t, where it can improve the details",
)

# %%
_, held_out = sd.recipes.sprites().make_data()
real, real_labels = held_out.batch(torch.arange(96))
eps = torch.randn(real.shape, generator=torch.Generator().manual_seed(0))
errors = {"right label": [], "no label": [], "wrong label": []}
times = [10, 50, 100, 200, 300, 400, 450, 500]
for t in times:
    batch = torch.full((len(real),), t)
    x_t = sd.process.diffuse(real, batch, eps, schedule)
    for name, label in zip(errors, (real_labels, None, real_labels.roll(1, dims=1)), strict=True):
        with torch.inference_mode():
            errors[name].append((small.network(x_t, batch, label) - real).square().mean().item())
sd.plot(
    {name: (times, values) for name, values in errors.items()}, "t", "squared error of x̂₀", "What the label is worth"
)
gain = [without - right for without, right in zip(errors["no label"], errors["right label"], strict=True)]
predict.measured(
    "lab3.levels",
    "a",
    f"the label lowers the error by {gain[2]:.4f} at t = {times[2]}, by {gain[4]:.4f} at t = {times[4]} "
    f"and by {gain[-1]:.4f} at t = {times[-1]}",
)

# %% [markdown]
# At small $t$ the three lines are almost one: the image itself shows its class, so the label adds nothing. At large
# $t$ the noise has hidden the image, and the label is all there is to go by. So a label decides early in sampling
# what the picture becomes.

# %% [markdown]
# ## Training with and without labels
#
# "No label" worked above because the network was trained for it. In training, the label of one image in ten is
# replaced by zeros. One network then learns both: to denoise with a label, and to denoise without one. Guidance,
# below, needs both (Ho & Salimans 2022, [arXiv:2207.12598](https://arxiv.org/abs/2207.12598), algorithm 1).
#
# You write this *label dropout*. Each image is decided on its own.

# %% tags=["prediction"] name="batches"
predict(
    "lab3.batches",
    "c",
    a="if 10% of labels are dropped per image, about one batch of 64 in ten has an image without label",
    b="if 10% of labels are dropped per image, about half of the batches of 64 have an image without label",
    c="if 10% of labels are dropped per image, almost all batches of 64 have images with and without label",
)


# %% tags=["exercise"] name="drop_labels"
def drop_labels(labels, probability, generator):
    """Return the labels, with each row set to zeros with this probability, independently of the other rows.

    labels:    (B, L); they belong to the data set, so do not change them in place
    generator: a torch.Generator; draw the random numbers with it, as in torch.rand(..., generator=generator)
    """
    # Draw one uniform random number for each image. Keep its label where the number is at least `probability`.
    # begin solution
    keep = torch.rand(len(labels), 1, generator=generator) >= probability
    return labels * keep
    # end solution


# %% tags=["check"] name="drop_labels"
if check.lab3.drop_labels(drop_labels):
    generator = torch.Generator().manual_seed(0)
    dropped = drop_labels(labels[:8], 0.5, generator)
    print("eight labels, of which about half should be dropped:", *[row.tolist() for row in dropped], sep="\n  ")
    batches = torch.stack([(drop_labels(labels[:64], 0.1, generator) == 0).all(1).sum() for _ in range(1000)])
    both = ((batches > 0) & (batches < 64)).float().mean().item()
    predict.measured("lab3.batches", "c", f"{both:.1%} of 1000 batches of 64 have both")

# %% [markdown] tags=["hint"] name="drop_labels"
# You need B random numbers, one for each row, and each must act on a whole row. What shape must they have to multiply
# (B, L)?

# %% [markdown] tags=["hint"] name="drop_labels"
# `torch.rand(len(labels), 1, generator=generator)` has shape (B, 1). Compared with `probability` it is a mask of rows
# to keep.

# %% [markdown] tags=["hint"] name="drop_labels"
# `keep = torch.rand(len(labels), 1, generator=generator) >= probability`, and then `return labels * keep`, which is a
# new tensor.

# %% [markdown] tags=["explanation"] name="drop_labels"
# The mask has shape (B, 1), and broadcasting stretches it over the row. With shape (B, L) single *entries* would be
# dropped. A one-hot label would often survive; a label with several entries would lose some of them and become
# another label.
#
# The other usual mistake is one random number for the whole batch. On average just as many labels are dropped, but
# each gradient step then trains only one of the two tasks, and the steps pull the network back and forth.

# %% [markdown]
# ## Mixing
#
# Now to the space between two labels. `blend` makes the straight path from one label vector to another, in equal
# steps. We then walk from human to food, always from the same noise.

# %% tags=["prediction"] name="path"
predict(
    "lab3.path",
    "b",
    a="on the way from human to food, the share of foods grows evenly",
    b="on the way from human to food, the share of foods stays low, jumps in one part of the path, and stays high",
    c="between the two, the classifier mostly sees the other three classes",
)


# %% tags=["exercise"] name="blend"
def blend(a, b, steps):
    """Return the labels on the straight path from a to b in equal steps: (steps, L). The first is a, and the last is b.

    a, b: label vectors (L,); steps: at least 2
    """
    # With weights w from 0 to 1, shape (steps, 1), a row is (1 − w) · a + w · b.
    # begin solution
    w = torch.linspace(0, 1, steps).view(-1, 1)
    return (1 - w) * a + w * b
    # end solution


# %% tags=["check"] name="blend"
if check.lab3.blend(blend):
    human, food = torch.eye(5)[names.index("human")], torch.eye(5)[names.index("food")]
    path = blend(human, food, 5)
    titles = [f"food {row[names.index('food')]:.2f}" for row in path]
    columns = [model.sample(3, label=row.expand(3, -1), seed=1) for row in path]
    sd.show(torch.stack(columns, dim=1).flatten(0, 1), titles=titles, columns=5)
    samples = [small.sample(32, label=row.expand(32, -1), seed=1) for row in path]
    foods, humans = ([share(images, name) for images in samples] for name in ("food", "human"))
    w = torch.linspace(0, 1, 5).tolist()
    sd.plot({"human": (w, humans), "food": (w, foods)}, "weight of food", "share of 32 samples", "From human to food")
    predict.measured("lab3.path", "b", "the shares of food along the path are " + ", ".join(f"{x:.0%}" for x in foods))

# %% [markdown] tags=["hint"] name="blend"
# `torch.linspace(0, 1, steps)` gives the weights. To combine (steps,) weights with (L,) vectors, give the weights a
# second dimension.

# %% [markdown] tags=["hint"] name="blend"
# With `w = torch.linspace(0, 1, steps).view(-1, 1)`, the product `w * b` has shape (steps, L).

# %% [markdown] tags=["hint"] name="blend"
# `w = torch.linspace(0, 1, steps).view(-1, 1)` and then `return (1 - w) * a + w * b`

# %% [markdown] tags=["explanation"] name="blend"
# Follow a row of the picture from left to right. The colours and the place of things stay, because the noise does,
# but somewhere in the middle the human turns into food. Nearly every frame is one or the other. Sampling ends at
# images like those that the network was trained on, and none of them is half a human. So a small change of the label
# near the middle can flip the result. The curves show where.
#
# The usual mistake is weights that stop short of 1, such as `i / steps`: the path then never reaches b.

# %% [markdown]
# ## Classifier-free guidance
#
# A label of 1 asks for a class. How could we ask for *more* of it? A label of 3 is far outside what the network saw
# in training. Guidance asks in another way. It compares two predictions, with the label $c$ and without
# ($\varnothing$), and goes in the direction from the second to the first, further than to the first:
#
# $$\hat x_0 = \hat x_0(\varnothing) + \text{scale} \cdot \big(\hat x_0(c) - \hat x_0(\varnothing)\big)$$
#
# Scale 0 is the unconditional model, scale 1 the conditional one, and above 1 the label counts more. It costs two
# network calls in each step. (Ho & Salimans 2022, equation 6. The paper counts from the conditional model, $w =
# \text{scale} - 1$.)

# %% tags=["prediction"] name="scale"
predict(
    "lab3.scale",
    "b",
    a="a larger scale makes samples match their label more often, and makes them vary more",
    b="a larger scale makes samples match their label more often, and makes them vary less",
    c="a larger scale changes only the contrast",
)


# %% tags=["exercise"] name="guided"
def guided(conditional, unconditional, scale):
    """Return the guided denoiser, a function (x_t, t) -> x̂₀.

    conditional, unconditional: denoisers (x_t, t) -> x̂₀, with and without the label
    scale:                      the guidance scale, a number
    """

    def denoise(x_t, t):
        # Start from the unconditional prediction, and go `scale` times the way to the conditional one.
        # begin solution
        base = unconditional(x_t, t)
        return base + scale * (conditional(x_t, t) - base)
        # end solution

    return denoise


# %% tags=["check"] name="guided"
if check.lab3.guided(guided):
    scales = (0, 1, 2, 4)
    x_T, one_hot = model.noise(5, seed=6), torch.eye(5)[names.index("spell")]
    rows = []
    for scale in scales:
        denoise = sd.clipped(guided(lambda x, t: network(x, t, one_hot.expand(len(x), -1)), network, scale))
        rows.append(sd.samplers.sample(sd.samplers.ddim(denoise, schedule, x_T, model.times(16))))
    sd.show(torch.cat(rows), titles=[f"spell, scale {scale}" for scale in scales], columns=5)

    matches, variety = {}, {}
    for scale in (1, 2, 4):
        samples = {name: small.sample(24, label=name, guidance=scale, seed=0) for name in names}
        matches[scale] = sum(share(images, name) for name, images in samples.items()) / 5
        variety[scale] = sum(images.std(0).mean().item() for images in samples.values()) / 5
    print("scale  samples that show their label  standard deviation of a pixel within a class")
    for scale in matches:
        print(f"{scale:5}  {matches[scale]:29.0%}  {variety[scale]:.3f}")
    predict.measured(
        "lab3.scale",
        "b",
        f"from scale 1 to 4, the share that shows its label goes from {matches[1]:.0%} to {matches[4]:.0%}, "
        f"and the standard deviation from {variety[1]:.3f} to {variety[4]:.3f}",
    )

# %% [markdown] tags=["hint"] name="guided"
# Call both denoisers with the same (x_t, t). The formula above has the unconditional prediction twice; compute it
# once.

# %% [markdown] tags=["hint"] name="guided"
# Test yourself: at scale 0 the result must be the unconditional prediction, and at scale 1 the conditional one.

# %% [markdown] tags=["hint"] name="guided"
# `base = unconditional(x_t, t)` and then `return base + scale * (conditional(x_t, t) - base)`

# %% [markdown] tags=["explanation"] name="guided"
# In the first row the label is ignored: anything appears. From row to row the spells get more typical. Guidance
# pushes away from what an unlabelled image would look like, so what is left is what only spells have. The table shows
# the price: more matches, less variety. On the [live page](../docs/live.md) you can move the guidance scale while the
# network generates images.
#
# The usual mistake is the sign: `conditional + scale * (unconditional - conditional)` moves *away* from the label,
# and at scale 1 it already ignores it. Another is the paper's $w$: if a paper says $w = 1$, our scale is 2.

# %% [markdown]
# ## Exam: digits
#
# Another model, another kind of label use: `sd.load("mnist")` draws handwritten digits, and this time each image of
# the batch has its *own* label. Put everything together: the two denoisers, guidance, clipping, and a sampler. If you
# pass, you have finished the lab.
#
# After guidance, $\hat x_0$ can leave the range $[-1, 1]$ of images. So clip it, and mind the order: guide first,
# then clip.


# %% tags=["exercise", "exam"] name="exam"
def digits(network, schedule, labels, scale, x_T, steps):
    """Return images (B, C, H, W): DDIM (sd.samplers.ddim) with classifier-free guidance, each image with its own label.

    network: (x_t, t, label (B, L)) -> x̂₀; network(x_t, t) without a label is the unconditional prediction
    labels:  (B, L), one for each image in x_T
    scale:   guidance scale
    x_T:     noise (B, C, H, W)
    steps:   the number of steps, or a list of timesteps that falls to 0
    """

    # 1. denoise(x_t, t): the guided prediction, clipped to [−1, 1]
    # 2. stream = sd.samplers.ddim(denoise, schedule, x_T, steps) yields the steps
    # 3. sd.samplers.sample(stream) is the image after the last step
    # begin solution
    def denoise(x_t, t):
        without = network(x_t, t)
        x0 = without + scale * (network(x_t, t, labels) - without)
        return x0.clamp(-1, 1)

    return sd.samplers.sample(sd.samplers.ddim(denoise, schedule, x_T, steps))
    # end solution


exam = digits

# %% tags=["check"] name="exam"
if check.lab3.exam(exam):
    mnist = sd.load("mnist")
    with torch.inference_mode():
        images = digits(mnist.network, mnist.schedule, torch.eye(10), 2.0, mnist.noise(10, seed=2), mnist.times(20))
    sd.show(images, titles=[str(digit) for digit in range(10)], columns=10)

# %% [markdown] tags=["hint"] name="exam"
# Inside of `denoise`, call the network twice with the same x_t and t: once with `labels`, once without.

# %% [markdown] tags=["hint"] name="exam"
# The labels already have shape (B, L): pass them as they are. Clip the *guided* prediction, `x0.clamp(-1, 1)`, not
# the two predictions.

# %% [markdown] tags=["hint"] name="exam"
# In `denoise`: `without = network(x_t, t)`, then `return (without + scale * (network(x_t, t, labels) -
# without)).clamp(-1, 1)`. After it: `return sd.samplers.sample(sd.samplers.ddim(denoise, schedule, x_T, steps))`.

# %% [markdown] tags=["explanation"] name="exam"
# Ten digits in the right order, from one batch. This is what `mnist.sample(10, label=torch.eye(10), guidance=2.0)`
# does, apart from its default sampler.
#
# If you clip before you guide, the extrapolation leaves the range again, and errors add up from step to step: images
# get a harsh contrast. The [concepts page](../docs/concepts.md#class-labels-and-classifier-free-guidance) has a table
# of all scales. To train a conditional model on your own images, sort them into folders: `shapedreamer train folder
# --data my-pictures --size 32x32`.
