"""How good is a model? Its samples beside as many real images, by every measure that fits its data.

A number means something beside that of real images only: each measure is taken twice, of the samples and of real images
that are not those they are compared with, at the same N.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.names import DeviceName, SamplerName
from ..data.spec import Dataset
from ..diffusion.samplers import sample
from ..imaging.render import to_uint8
from ..models.checkpoint import load_checkpoint
from ..models.model import Model, find, from_checkpoint
from ..models.recipes import Sampling, moved
from .classifier import IMAGES, Classifier, shipped, train_classifier
from .distances import LEAST, fid, kid, precision_recall
from .memorisation import Memorisation, memorisation
from .validity import ShapeReport, judge, primitives_of

BATCH = 64
NUM = 2000
PAIRS = 8  # of a sample and its nearest training image, to be shown
Tell = Callable[[str, int, int], None]  # what is being done, how much of it is, of how much


@dataclass(frozen=True)
class Beside:
    """A measure of the samples, and the same measure of real images in their place."""

    samples: float
    real: float


@dataclass(frozen=True)
class Shapes:
    """What a search for shapes finds in the samples, and in real images."""

    samples: ShapeReport
    real: ShapeReport


@dataclass(frozen=True)
class Copies:
    """Whether training images were memorised; the three are explained in memorisation.py."""

    nearer: float
    close: float
    close_held_out: float


@dataclass(frozen=True)
class Evaluation:
    """All there is to say about a model in numbers.

    num             N, of samples and of real images
    steps           network calls a sample, or twice as many with a guidance that is neither 0 nor 1
    seconds         that sampling took
    features        whose features fid, kid, precision and recall were measured by
    label_accuracy  share of images that the classifier takes for what their label says
    shapes          for data sets of shapes
    """

    model: str
    data: str
    num: int
    seed: int
    sampler: SamplerName
    steps: int
    eta: float
    guidance: float
    seconds: float
    features: str
    fid: Beside
    kid: Beside
    precision: Beside
    recall: Beside
    label_accuracy: Beside | None
    shapes: Shapes | None
    copies: Copies


class Evidence(NamedTuple):
    """What is behind the numbers.

    samples, real: the images, (N, C, H, W) each
    pairs:         (P, 2, C, H, W), a sample and its nearest training image, the nearest pair first
    copies:        the distances to the nearest training image, and the places of those pairs
    """

    samples: Tensor
    real: Tensor
    pairs: Tensor
    copies: Memorisation


@dataclass(frozen=True)
class Subject:
    """A model, under the name it is known by, and the data it was trained on. `tell` hears what is being done."""

    name: str
    model: Model
    training: Dataset
    held_out: Dataset
    tell: Tell = lambda *_: None

    @cached_property
    def classifier(self) -> tuple[Classifier, str]:
        """A classifier of such images, in whose features sets of images are compared, and what to call it.

        For images other than those of the package's recipes it is trained now. A network that has learnt nothing has
        features, too; they must do where there are no labels to learn.
        """
        spec = self.training.spec
        if len(spec.labels) < 2:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                untrained = Classifier(spec.channels, torch.zeros(1, len(spec.labels)))
            return untrained.eval(), f"an untrained network, as {spec.name} has no labels to learn"
        seen = 0

        def progress(images: int) -> None:
            nonlocal seen
            seen += images
            self.tell("training a classifier", seen, IMAGES)

        in_the_box = shipped(spec)
        classifier = in_the_box or train_classifier(self.training, self.held_out, progress=progress)
        origin = "that comes with shapedreamer" if in_the_box else "trained for this"
        right = f"{100 * classifier.accuracy:.1f}% of real images that it has not seen"
        return classifier, f"a classifier of {spec.name} {origin}, which recognises {right}"


def subject(
    run: str | Path, data: str | Path | None = None, device: DeviceName = "auto", tell: Tell = lambda *_: None
) -> Subject:
    """The model of a run, of a checkpoint, or one in the box (see model.load), with the images it was trained on.

    data: where they lie by now, for recipes that read them. UserError if they are others.
    """
    checkpoint = load_checkpoint(find(run))
    training, held_out = moved(checkpoint.config.recipe, data).make_data()
    if training.spec != checkpoint.config.data:
        raise UserError(
            f"{run} was trained on other images than those of {data or training.spec.name}: give it its own"
        )
    return Subject(str(run), from_checkpoint(checkpoint, "ema", device), training, held_out, tell)


def evaluate(
    it: Subject,
    num: int = NUM,
    sampler: SamplerName | None = None,
    steps: int | None = None,
    eta: float | None = None,
    guidance: float = 1.0,
    seed: int = 0,
) -> tuple[Evaluation, Evidence]:
    """Judge `num` samples, with labels as they come in the data. None is as the model is best sampled.

    UserError for a value that makes no sense, an N too small, or one too large for the data, before anything is drawn.
    """
    reference, real, real_labels = real_images(it.training, it.held_out, num)
    sampling = it.model.chosen(sampler, steps, eta)
    began = time.perf_counter()
    samples, labels = draw(it.model, num, sampling, guidance, seed, lambda done: it.tell("sampling", done, num))
    seconds = time.perf_counter() - began

    classifier, features = it.classifier
    it.tell("comparing", 0, 3)
    of_reference, of_samples, of_real = (classifier.see(images) for images in (reference, samples, real))
    distances = [Beside(f(of_samples[0], of_reference[0]), f(of_real[0], of_reference[0])) for f in (fid, kid)]
    it.tell("comparing", 1, 3)
    within = zip(*(precision_recall(of_reference[0], seen[0]) for seen in (of_samples, of_real)), strict=True)
    precision, recall = (Beside(*shares) for shares in within)
    it.tell("comparing", 2, 3)
    copies = memorisation(samples, real[: len(it.held_out)], it.training, PAIRS)
    it.tell("comparing", 3, 3)

    accuracy, shapes, spec = None, None, it.training.spec
    if labels is not None and len(classifier.known) > 1:
        accuracy = Beside(_right(classifier, of_samples[1], labels), _right(classifier, of_real[1], real_labels))
    if primitives_of(spec) is not None:
        asked = None if labels is None else real_labels  # not, if the samples were asked for nothing
        shapes = Shapes(
            judge(samples, spec, labels, lambda done: it.tell("shapes in samples", done, num)),
            judge(real, spec, asked, lambda done: it.tell("shapes in real images", done, num)),
        )
    evaluation = Evaluation(
        model=it.name,
        data=spec.name,
        num=num,
        seed=seed,
        sampler=sampling.sampler,
        steps=sampling.steps,
        eta=sampling.eta,
        guidance=guidance,
        seconds=round(seconds, 2),
        features=features,
        fid=distances[0],
        kid=distances[1],
        precision=precision,
        recall=recall,
        label_accuracy=accuracy,
        shapes=shapes,
        copies=Copies(copies.nearer, copies.close, copies.close_held_out),
    )
    pairs = torch.stack([samples[copies.pairs[:, 0]], it.training.batch(copies.pairs[:, 1])[0]], dim=1)
    return evaluation, Evidence(samples, real, pairs, copies)


def draw(
    model: Model, num: int, sampling: Sampling, guidance: float, seed: int, progress: Callable[[int], None]
) -> tuple[Tensor, Tensor | None]:
    """`num` samples, (num, C, H, W), and the labels that they were asked for, (num, L), or None.

    The samples are as a picture file would have them, in 256 levels, as real images are: so an exact copy is one.
    progress is told the number of samples drawn so far, after each batch.
    """
    labels = model.label_vectors("any", num, seed)
    batches = []
    for first in range(0, num, BATCH):
        count = min(BATCH, num - first)
        its = None if labels is None else labels[first : first + count]
        steps = model.stream(count, sampling.sampler, sampling.steps, sampling.eta, seed, first, its, guidance)
        batches.append(sample(steps).cpu())
        progress(first + count)
    levels = torch.from_numpy(to_uint8(torch.cat(batches))).permute(0, 3, 1, 2)
    return levels.float() / 127.5 - 1, None if labels is None else labels.cpu()


def real_images(training: Dataset, held_out: Dataset, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """`num` training images to compare with, `num` other real images, and the labels of those.

    The others are held-out images, as far as those go, and then training images that are not among the first.
    UserError for an N too small, or one that the data are too few for.
    """
    if num < LEAST:
        raise UserError(f"num must be at least {LEAST} for its numbers to mean anything, not {num}")
    spare = min(num, len(held_out))
    if 2 * num - spare > len(training):
        most = min(len(training), (len(training) + len(held_out)) // 2)
        advice = f"there are enough for --num {most}" if most >= LEAST else f"it takes {LEAST} of each at the least"
        raise UserError(f"{training.spec.name} has too few images to compare {num} samples with: {advice}")
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    images, labels = held_out.batch(torch.randperm(len(held_out), generator=torch.Generator().manual_seed(1))[:spare])
    if spare < num:
        more = training.batch(order[num : 2 * num - spare])
        images, labels = torch.cat([images, more[0]]), torch.cat([labels, more[1]])
    return training.batch(order[:num])[0], images, labels


def _right(classifier: Classifier, seen: Tensor, labels: Tensor) -> float:
    return (seen == classifier.classes(labels)).double().mean().item()
