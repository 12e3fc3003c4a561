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
    "?",
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
    ...  # your code here

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
    "?",
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
        ...  # your code here

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

# %% [markdown]
# ## Where the label counts
#
# How much does the network gain from the label? We add noise to held-out sprites and measure the squared error of
# $\hat x_0$ three times: with the right label, without a label (a vector of zeros), and with a wrong label.

# %% tags=["prediction"] name="levels"
predict(
    "lab3.levels",
    "?",
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
    "?",
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
    ...  # your code here

# %% tags=["check"] name="drop_labels"
if check.lab3.drop_labels(drop_labels):
    generator = torch.Generator().manual_seed(0)
    dropped = drop_labels(labels[:8], 0.5, generator)
    print("eight labels, of which about half should be dropped:", *[row.tolist() for row in dropped], sep="\n  ")
    batches = torch.stack([(drop_labels(labels[:64], 0.1, generator) == 0).all(1).sum() for _ in range(1000)])
    both = ((batches > 0) & (batches < 64)).float().mean().item()
    predict.measured("lab3.batches", "c", f"{both:.1%} of 1000 batches of 64 have both")

# %% [markdown]
# ## Mixing
#
# Now to the space between two labels. `blend` makes the straight path from one label vector to another, in equal
# steps. We then walk from human to food, always from the same noise.

# %% tags=["prediction"] name="path"
predict(
    "lab3.path",
    "?",
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
    ...  # your code here

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
    "?",
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
        ...  # your code here

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
    ...  # your code here


exam = digits

# %% tags=["check"] name="exam"
if check.lab3.exam(exam):
    mnist = sd.load("mnist")
    with torch.inference_mode():
        images = digits(mnist.network, mnist.schedule, torch.eye(10), 2.0, mnist.noise(10, seed=2), mnist.times(20))
    sd.show(images, titles=[str(digit) for digit in range(10)], columns=10)
