"""How good is a model? Compare its samples with as many real images, by every measure that suits the data.

A value alone says little. So each measure is computed twice with the same N: for the samples, and for other real images
in place of the samples. The second value is what a perfect model would score.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common.device import pick_device
from ..common.errors import UserError
from ..common.names import AnySamplerName, DeviceName
from ..common.processes import SINGLE, Group, connect
from ..data.spec import Dataset
from ..diffusion.samplers import sample
from ..imaging.render import to_uint8
from ..models.checkpoint import load_checkpoint
from ..models.model import Model, find_checkpoint, from_checkpoint
from ..models.options import SampleOptions
from ..models.recipes import with_data_path
from .classifier import TRAINING_IMAGES, Classifier, shipped_classifier, train_classifier
from .distances import MIN_IMAGES, fid, kid, precision_recall
from .memorisation import Memorisation, memorisation
from .validity import ShapeReport, judge, primitives_of

BATCH = 64
NUM = 2000
MAX_PAIRS = 8  # pairs of a sample and its nearest training image in the report
ReportProgress = Callable[[str, int, int], None]  # (task, done, total)


def ignore(task: str, done: int, total: int) -> None:
    """The default ReportProgress: does nothing."""


@dataclass(frozen=True)
class SampleVsReal:
    """One measure, for the samples and for real images in their place."""

    samples: float
    real: float


@dataclass(frozen=True)
class Shapes:
    """What the search for shapes finds in the samples and in real images; see validity.py."""

    samples: ShapeReport
    real: ShapeReport


@dataclass(frozen=True)
class Copies:
    """Are training images memorised? See the class Memorisation in memorisation.py."""

    nearer: float
    close: float
    close_held_out: float


@dataclass(frozen=True)
class Evaluation:
    """All measures of a model.

    model           its name or path
    num             N, the number of samples, and of real images
    steps           network calls per sample, or half of them if guidance is neither 0 nor 1
    seconds         how long sampling took
    features        the network whose features fid, kid, precision and recall use
    label_accuracy  share of images that the classifier assigns to their label; None for unconditional models
    shapes          None unless the data set draws shapes

    guidance_interval, guide_with and cfg_pp are those of SampleOptions.
    """

    model: str
    data: str
    num: int
    seed: int
    sampler: AnySamplerName
    steps: int
    eta: float
    guidance: float
    seconds: float
    features: str
    fid: SampleVsReal
    kid: SampleVsReal
    precision: SampleVsReal
    recall: SampleVsReal
    label_accuracy: SampleVsReal | None
    shapes: Shapes | None
    copies: Copies
    guidance_interval: tuple[float, float] | None = None
    guide_with: str | None = None
    cfg_pp: bool = False


class Evidence(NamedTuple):
    """The images and distances behind an Evaluation.

    samples, real: the images, (N, C, H, W) each
    pairs:         (P, 2, C, H, W), a sample and its nearest training image, closest pair first
    copies:        the distances to the nearest training image, and the indices of those pairs
    """

    samples: Tensor
    real: Tensor
    pairs: Tensor
    copies: Memorisation


@dataclass(frozen=True)
class Subject:
    """The subject of an evaluation: a model, its name, and the data it was trained on.

    report: called with progress; see ReportProgress
    group:  the processes that share the sampling; process 0 measures
    """

    name: str
    model: Model
    training: Dataset
    held_out: Dataset
    report: ReportProgress = ignore
    group: Group = SINGLE

    @cached_property
    def classifier(self) -> tuple[Classifier, str]:
        """The classifier whose features are compared, and a description of it.

        It is the one shipped for this data set, or else trained now. Data without labels get an untrained network:
        its features are less telling, but they can be compared, too.
        """
        spec = self.training.spec
        if len(spec.labels) < 2:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                untrained = Classifier(spec.channels, torch.zeros(1, len(spec.labels)))
            return untrained.eval(), f"an untrained network ({spec.name} has no labels to train a classifier on)"
        images_seen = 0

        def progress(images: int) -> None:
            nonlocal images_seen
            images_seen += images
            self.report("training a classifier", images_seen, TRAINING_IMAGES)

        shipped = shipped_classifier(spec)
        classifier = shipped or train_classifier(self.training, self.held_out, progress=progress)
        origin = "shipped with shapedreamer" if shipped else "trained for this evaluation"
        accuracy = f"{100 * classifier.accuracy:.1f}% accuracy on held-out images"
        return classifier, f"a classifier of {spec.name} {origin} ({accuracy})"


def load_subject(
    run: str | Path,
    data: str | Path | None = None,
    device: DeviceName = "auto",
    report: ReportProgress = ignore,
    group: Group = SINGLE,
) -> Subject:
    """The model of a run, a checkpoint, or a shipped model (see models.model.load), with its training images.

    data:  where the images are now, for recipes that read files. UserError if they are not the training images.
    group: the processes that share the sampling; each calls this function
    """
    checkpoint = load_checkpoint(find_checkpoint(run))
    training, held_out = group.in_turn(with_data_path(checkpoint.config.recipe, data).make_data)
    if training.spec != checkpoint.config.data:
        raise UserError(
            f"{run} was not trained on the images of {data or training.spec.name}; "
            "pass the path of its training images with `data`"
        )
    return Subject(str(run), from_checkpoint(checkpoint, "ema", device), training, held_out, report, group)


def evaluate(
    model: str | Path,
    num: int = NUM,
    options: SampleOptions = SampleOptions(),
    *,
    data: str | Path | None = None,
    device: DeviceName = "auto",
    report: ReportProgress = ignore,
    **changes: Any,
) -> Evaluation:
    """Measure how good `num` samples of a model are. `model` is a run, a checkpoint, or a shipped model.

        ``shapedreamer.evaluate("shapes", num=512, steps=10).fid``

    options, changes: how to sample; labels are drawn from the data, so options.label must be "any"
    data:             where the training images are now, for recipes that read files
    report:           called with the name of the current task, the steps done, and the total

    UserError as in load_subject and evaluate_subject.

    In a script started by torchrun, the processes share the sampling. Call this function in each, with equal arguments.
    """
    group, _ = connect(pick_device(device))
    subject = load_subject(model, data, device, report if group.is_first else ignore, group)
    return evaluate_subject(subject, num, replace(options, **changes))[0]


def evaluate_subject(
    subject: Subject, num: int = NUM, options: SampleOptions = SampleOptions()
) -> tuple[Evaluation, Evidence]:
    """Measure `num` samples, with labels drawn from the data, and as many real images in their place.

    UserError for an option out of range, or if `num` is too small or too large for the data; raised before sampling.

    Several processes share the sampling, and the first of them measures. All get the same result.
    """
    model, group = subject.model, subject.group
    reference, real, real_labels = real_images(subject.training, subject.held_out, num)
    start = time.perf_counter()
    samples, labels = draw(model, num, options, lambda done: subject.report("sampling", done, num), group)
    seconds = time.perf_counter() - start
    drawn = _Drawn(samples, labels, reference, real, real_labels, seconds)
    return group.first_patiently(lambda: _measure(subject, drawn, options))


class _Drawn(NamedTuple):
    """The images to compare, as evaluate_subject draws them, and how long sampling took."""

    samples: Tensor
    labels: Tensor | None
    reference: Tensor
    real: Tensor
    real_labels: Tensor
    seconds: float


def _measure(subject: Subject, drawn: _Drawn, options: SampleOptions) -> tuple[Evaluation, Evidence]:
    samples, labels, reference, real, real_labels, seconds = drawn
    num, sampling = len(samples), subject.model.resolve_sampling(options)
    classifier, classifier_name = subject.classifier
    subject.report("comparing", 0, 3)
    reference_features, _ = classifier.predict(reference)
    sample_features, sample_classes = classifier.predict(samples)
    real_features, real_classes = classifier.predict(real)
    fids, kids = (
        SampleVsReal(distance(sample_features, reference_features), distance(real_features, reference_features))
        for distance in (fid, kid)
    )
    subject.report("comparing", 1, 3)
    of_samples, of_real = (precision_recall(reference_features, fake) for fake in (sample_features, real_features))
    precision, recall = (SampleVsReal(*pair) for pair in zip(of_samples, of_real, strict=True))
    subject.report("comparing", 2, 3)
    copies = memorisation(samples, real[: len(subject.held_out)], subject.training, MAX_PAIRS)
    subject.report("comparing", 3, 3)

    label_accuracy, shapes, spec = None, None, subject.training.spec
    if labels is not None and len(classifier.known) > 1:
        label_accuracy = SampleVsReal(
            _accuracy(classifier, sample_classes, labels), _accuracy(classifier, real_classes, real_labels)
        )
    if primitives_of(spec) is not None:
        shape_labels = None if labels is None else real_labels  # an unconditional model has nothing to compare with
        shapes = Shapes(
            judge(samples, spec, labels, lambda done: subject.report("shapes in samples", done, num)),
            judge(real, spec, shape_labels, lambda done: subject.report("shapes in real images", done, num)),
        )
    evaluation = Evaluation(
        model=subject.name,
        data=spec.name,
        num=num,
        seed=options.seed,
        sampler=sampling.sampler,
        steps=sampling.steps,
        eta=sampling.eta,
        guidance=options.guidance,
        seconds=round(seconds, 2),
        features=classifier_name,
        fid=fids,
        kid=kids,
        precision=precision,
        recall=recall,
        label_accuracy=label_accuracy,
        shapes=shapes,
        copies=Copies(copies.nearer, copies.close, copies.close_held_out),
        guidance_interval=options.guidance_interval,
        guide_with=_name_of(options.guide_with),
        cfg_pp=options.cfg_pp,
    )
    nearest = torch.stack([samples[copies.pairs[:, 0]], subject.training.batch(copies.pairs[:, 1])[0]], dim=1)
    return evaluation, Evidence(samples, real, nearest, copies)


def draw(
    model: Model, num: int, options: SampleOptions, progress: Callable[[int], None], group: Group = SINGLE
) -> tuple[Tensor, Tensor | None]:
    """`num` samples, (num, C, H, W), and the labels they are conditioned on, (num, L), or None.

    The samples are rounded to the 256 levels of an image file, like real images, so that a copy is at distance 0.
    `progress` is called after each batch with the number of samples so far. The processes of the group share the work:
    the batches are the same for any number of them, and each gets all samples.
    """
    if options.label != "any":
        raise UserError("evaluation draws its labels from the data; leave out `label`")
    labels = model.label_vectors("any", num, options.seed)
    batches = []
    for start in range(0, num, group.size * BATCH):
        first = start + group.rank * BATCH
        count = max(0, min(BATCH, num - first))
        pixels = torch.zeros(BATCH, model.spec.height, model.spec.width, model.spec.channels, dtype=torch.uint8)
        if count:
            pixels[:count] = torch.from_numpy(to_uint8(sample(model.stream(count, options, first=first))))
        batches.append(group.gather(pixels))
        progress(min(num, start + group.size * BATCH))
    levels = torch.cat(batches)[:num].permute(0, 3, 1, 2)
    return levels.float() / 127.5 - 1, None if labels is None else labels.cpu()


def real_images(training: Dataset, held_out: Dataset, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """The reference, `num` training images; `num` other real images to measure in place of samples; their labels.

    The other images are held-out images first. If there are fewer than `num`, training images that are not in the
    reference follow. UserError if `num` is too small, or too large for the data.
    """
    if num < MIN_IMAGES:
        raise UserError(f"num must be at least {MIN_IMAGES}, not {num}: with fewer images the measures are unreliable")
    num_held_out = min(num, len(held_out))
    if 2 * num - num_held_out > len(training):
        max_num = min(len(training), (len(training) + len(held_out)) // 2)
        advice = f"use at most `num={max_num}`" if max_num >= MIN_IMAGES else f"at least {MIN_IMAGES} are needed"
        raise UserError(f"{training.spec.name} has too few images to compare {num} samples with; {advice}")
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    held_out_order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(1))
    images, labels = held_out.batch(held_out_order[:num_held_out])
    if num_held_out < num:
        more = training.batch(order[num : 2 * num - num_held_out])
        images, labels = torch.cat([images, more[0]]), torch.cat([labels, more[1]])
    return training.batch(order[:num])[0], images, labels


def _name_of(guide: Model | str | Path | None) -> str | None:
    if guide is None:
        return None
    return f"a model of {guide.spec.name}" if isinstance(guide, Model) else str(guide)


def _accuracy(classifier: Classifier, predicted: Tensor, labels: Tensor) -> float:
    return (predicted == classifier.classes(labels)).double().mean().item()
