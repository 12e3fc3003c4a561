"""A run to examine, and what can be measured of it. The checks in ailments.py judge the numbers."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..common.device import autocast
from ..common.noise import Noise, fold
from ..data.spec import Dataset
from ..diffusion.denoiser import Denoise, Denoiser, with_label
from ..diffusion.loss import denoising_loss, loss_weight, sample_timesteps, stratified_uniform
from ..diffusion.oracle import gaussian
from ..diffusion.process import diffuse, target, to_eps
from ..imaging.render import to_uint8
from ..models.metrics import Record
from ..models.model import Model
from ..models.options import SampleOptions
from ..models.recipes import Recipe
from ..training.loop import training_density
from .evaluator import ReportProgress, ignore

NUM_SAMPLES = 96
BATCH = 32  # samples that are made together
MAX_CALLS = 50  # network calls for a sample, even if the model uses more by default
NUM_IMAGES = 256  # training images, and held-out images, that the losses are measured with
NUM_ERRORS = 128  # images that the error at a single noise level is measured with
MAX_REAL = 512  # held-out images that samples are compared with
MAX_STATISTICS = 2048  # training images for their range, mean and standard deviation
MAX_VALUES = 2**25  # of images that are held in memory: 128 MB
OVERSHOOT = 0.1  # how far outside the range a predicted pixel counts as outside
PURPOSE = 0xD0C  # folded into seeds


@dataclass(frozen=True)
class Case:
    """Everything that the checks need to know about a run. Only the first four fields are required.

    name      of the run, for the report
    model     with its averaged weights
    training  the training images
    held_out  images of the same kind that the model was not trained on
    recipe    how it was trained; None for a model that another program has trained
    step      optimizer steps behind the weights; None if unknown
    raw       the network with the weights of the last step, which are not averaged; None if unknown
    metrics   the records of metrics.jsonl
    report    called with progress; see ReportProgress
    """

    name: str
    model: Model
    training: Dataset
    held_out: Dataset
    recipe: Recipe | None = None
    step: int | None = None
    raw: nn.Module | None = None
    metrics: tuple[Record, ...] = ()
    report: ReportProgress = ignore


class NotFiniteError(Exception):
    """A prediction is NaN or infinite."""


class Losses(NamedTuple):
    """Mean losses over the noise levels of the training.

    held_out, training  of the averaged weights
    zero, mean          of predicting zero, and of predicting the mean image, for held-out images
    """

    held_out: float
    training: float
    zero: float
    mean: float

    @property
    def baseline(self) -> float:
        """The loss of the best constant."""
        return min(self.zero, self.mean)


class Sampled(NamedTuple):
    """Samples, and what clipping did on the way to them.

    samples    (N, C, H, W)
    labels     (N, L), what they are conditioned on; None for an unconditional model
    clipped    for each network call, the share of the predicted pixels that clipping changes by OVERSHOOT or more
    unclipped  for each network call, the share that is outside the range of the images by OVERSHOOT, after clipping
    """

    samples: Tensor
    labels: Tensor | None
    clipped: list[float]
    unclipped: list[float]


class Measurements:
    """Measurements of a case, each made when the first check needs it. NotFiniteError if it meets a NaN."""

    def __init__(self, case: Case) -> None:
        self.case, self.model, self.recipe = case, case.model, case.recipe
        self.schedule, self.spec = case.model.schedule, case.model.spec

    @property
    def few_step(self) -> bool:
        """Whether the model was distilled from another one."""
        return self.recipe is not None and self.recipe.teacher is not None

    @cached_property
    def images(self) -> tuple[Tensor, Tensor]:
        """Some training images and their labels, in random order."""
        return _some(self.case.training, MAX_STATISTICS)

    @cached_property
    def real(self) -> tuple[Tensor, Tensor]:
        """Some held-out images and their labels, in random order."""
        return _some(self.case.held_out, MAX_REAL)

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value of the training images."""
        return self.images[0].min().item(), self.images[0].max().item()

    @cached_property
    def mean(self) -> Tensor:
        """The mean training image, (1, C, H, W)."""
        return self.images[0].mean(0, keepdim=True)

    @cached_property
    def losses(self) -> Losses:
        """The losses of the averaged weights, and of constants to compare with."""
        held_out, label = (part[:NUM_IMAGES] for part in self.real)
        network, mean = self.model.network, Constant(self.mean, self.model)
        losses = Losses(
            self.loss(network, held_out, label),
            self.loss(network, *(part[:NUM_IMAGES] for part in self.images)),
            self.loss(lambda x, t, *_: torch.zeros_like(x), held_out, label),
            self.loss(mean, held_out, label),
        )
        if not math.isfinite(losses.held_out):
            raise NotFiniteError(f"loss of held-out images is {losses.held_out}")
        return losses

    @torch.inference_mode()
    def loss(self, network: Callable[..., Tensor], images: Tensor, label: Tensor) -> float:
        """The mean loss, weighted as in training. Every call uses the same timesteps and noise."""
        model, recipe, device = self.model, self.recipe, self.model.device
        weight = density = torch.ones_like(self.schedule.alpha_bar)
        if recipe is not None:
            weight, density = loss_weight(recipe.weight, recipe.prediction, self.schedule), training_density(recipe)
        else:
            density = torch.cat([density[:1] * 0, density[1:] / self.schedule.T])
        generator = torch.Generator().manual_seed(fold(PURPOSE, 1))
        t = sample_timesteps(density, stratified_uniform(len(images), generator))
        eps = torch.randn(images.shape, generator=generator)
        total = 0.0
        for part in torch.arange(len(images)).split(BATCH):
            vectors = None if model.labels is None else label[part].to(device)
            inputs = images[part].to(device), t[part].to(device), eps[part].to(device)
            with autocast(device, model.precision):
                error = denoising_loss(with_label(network, vectors), *inputs, self.schedule, model.prediction)
            total += (weight.to(error)[inputs[1]] * error).sum().item()
        return total / len(images)

    def unclipped(self, label: Tensor | None) -> Denoise:
        """The network as a denoiser that does not clip. It raises NotFiniteError for a NaN or an infinite value."""

        def network(x_t: Tensor, *label: Tensor) -> Tensor:
            with torch.inference_mode(), autocast(self.model.device, self.model.precision):
                return self.model.network(x_t.contiguous(memory_format=torch.channels_last), *label)

        denoise = Denoiser(with_label(network, label), self.schedule, self.model.prediction)

        def checked(x_t: Tensor, t: Tensor) -> Tensor:
            x0 = denoise(x_t, t)
            if not torch.isfinite(x0).all():
                raise NotFiniteError(f"prediction at t = {int(t[0])} is NaN or infinite")
            return x0

        return checked

    def clipped(self, label: Tensor | None) -> Denoise:
        """The denoiser that samplers use."""
        denoise = self.unclipped(label)
        return lambda x_t, t: denoise(x_t, t).clamp(self.spec.low, self.spec.high)

    def time_of(self, log_snr: float) -> int:
        """The timestep whose log-SNR is nearest to this one."""
        return int((self.schedule.log_snr[1:] - log_snr).abs().argmin()) + 1

    def errors(self, images: Tensor, label: Tensor | None, log_snr: float) -> tuple[Tensor, Tensor]:
        """The error of x̂₀ for each image at a noise level, of the model and of the best linear denoiser: (N,) each."""
        t = self.time_of(log_snr)
        eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(fold(PURPOSE, 2, t)))
        linear = gaussian(self.mean, self.images[0].std(0, keepdim=True).clamp(min=1e-3), self.schedule)
        model, best = [], []
        for part in torch.arange(len(images)).split(BATCH):
            x_t, times = diffuse(images[part], t, eps[part], self.schedule), torch.full((len(part),), t)
            vectors = None if label is None else label[part].to(self.model.device)
            x0 = self.clipped(vectors)(x_t.to(self.model.device), times.to(self.model.device)).cpu()
            model.append((x0 - images[part]).square().flatten(1).mean(1))
            best.append((linear(x_t, times) - images[part]).square().flatten(1).mean(1))
        return torch.cat(model), torch.cat(best)

    @cached_property
    def sampled(self) -> Sampled:
        """Samples by the model's own sampler."""
        labels = self.model.label_vectors("any", NUM_SAMPLES)
        clipped: list[list[float]] = []
        unclipped: list[list[float]] = []
        low, high = self.range

        def watched(label: Tensor | None) -> Denoise:
            denoise = self.unclipped(label)

            def call(x_t: Tensor, t: Tensor) -> Tensor:
                x0 = denoise(x_t, t)
                kept = x0.clamp(self.spec.low, self.spec.high)
                outside = (kept < low - OVERSHOOT) | (kept > high + OVERSHOOT)
                clipped[-1].append(((kept - x0).abs() >= OVERSHOOT).double().mean().item())
                unclipped[-1].append(outside.double().mean().item())
                return kept

            return call

        samples = []
        for first in range(0, NUM_SAMPLES, BATCH):
            clipped.append([])
            unclipped.append([])
            label = None if labels is None else labels[first : first + BATCH]
            samples.append(self.sample(watched(label), first))
            self.case.report("sampling", first + BATCH, NUM_SAMPLES)
        return Sampled(
            torch.cat(samples),
            labels,
            [statistics.mean(shares) for shares in zip(*clipped, strict=True)],
            [statistics.mean(shares) for shares in zip(*unclipped, strict=True)],
        )

    def sample(self, denoise: Denoise, first: int = 0) -> Tensor:
        """Images first…first + BATCH − 1 of seed 0, rounded to the 256 levels of an image file."""
        options = SampleOptions(steps=min(self.model.sampling.steps, MAX_CALLS, self.schedule.T))
        sampler = self.model.bind_sampler(options, Noise(0, first))
        for step in sampler(denoise, x_T=self.model.noise(BATCH, 0, first)):
            x = step.x
        if not torch.isfinite(x).all():
            raise NotFiniteError("result of the sampler is NaN or infinite")
        if self.spec.low < -1 or self.spec.high > 1:
            return x.cpu()
        return torch.from_numpy(to_uint8(x)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Constant:
    """A network whose prediction is always the same image, whatever its prediction type."""

    def __init__(self, image: Tensor, model: Model) -> None:
        self.image, self.model = image, model

    def __call__(self, x_t: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        x0, schedule = self.image.to(x_t).expand_as(x_t), self.model.schedule
        return target(self.model.prediction, x0, t, to_eps(x0, x_t, t, schedule), schedule)


def _some(data: Dataset, num: int) -> tuple[Tensor, Tensor]:
    """Images and labels in random order, `num` at most, and fewer if they are large."""
    num = min(num, max(BATCH, MAX_VALUES // (data.spec.channels * data.spec.height * data.spec.width)))
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(fold(PURPOSE, 0)))
    return data.batch(order[:num])


def spread(images: Tensor) -> float:
    """The root mean square difference of two images."""
    return (images - images.roll(1, 0)).square().mean().sqrt().item()
