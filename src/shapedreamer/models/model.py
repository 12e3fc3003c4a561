"""A trained model, ready to dream: load one, sample it, or watch it step by step."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.device import autocast, pick_device
from ..common.errors import UserError
from ..common.names import WITH_ETA, DeviceName, Precision, Prediction, SamplerName, Which
from ..common.noise import Noise, bits, fold, integers
from ..data.spec import DataSpec, Label
from ..diffusion.denoiser import Denoise, Denoiser, clipped, given, guided
from ..diffusion.samplers import SAMPLERS, Step, Steps
from ..diffusion.schedule import Schedule, cubic_times, log_snr_times, step_times
from . import zoo
from .checkpoint import Checkpoint, load_checkpoint
from .recipes import Sampling

LABELS = 0x1ABE1  # what a seed is folded with to draw labels, which share no random word with its noise


class Model:
    """A network with all that it takes to sample from it.

    spec:      what its images are
    labels:    (N, L) of some images, as labels come in the data; None for a network that is told none
    sampling:  how it is sampled where sampler, steps or eta are None
    precision: of the network's products: bfloat16 where that is fast ("auto"), or "float32" as on the live page; a
               sample is the same in both but for what rounding decides, which now and then is much

    Wherever a `label` can be given it is, for all images, one that spec.vector understands, such as "circle=2,line=1",
    {"human": 1, "food": 0.6} or 7; or a tensor (num, L) of vectors, one an image; or "any", for each image a label as
    they come in the data; or None (or "none") for no label at all. `guidance` is the scale of classifier-free guidance:
    1 the label as it is, more overshoots towards it, 0 forgets it. Each network call is two unless guidance is 1 or 0.
    UserError for a label that does not exist, and for any in a model without labels.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: Prediction,
        spec: DataSpec,
        labels: Tensor | None = None,
        sampling: Sampling = Sampling(),
        precision: Precision = "auto",
    ) -> None:
        self.network, self.sampling, self.precision = network.eval(), sampling, precision
        self.schedule, self.prediction, self.spec, self.labels = schedule, prediction, spec, labels
        self.device = next(network.parameters()).device

    def denoiser(self, label: Tensor | None = None, guidance: float = 1.0) -> Denoise:
        """The network as a denoiser (x_t, t) -> x̂₀, guided and clipped to the range of the data; see denoiser.py.

        label: a vector for each image, (B, L), or None.
        """

        def network(x_t: Tensor, *told: Tensor) -> Tensor:
            with torch.inference_mode(), autocast(self.device, self.precision):
                return self.network(x_t.contiguous(memory_format=torch.channels_last), *told)

        conditional, unconditional = (
            Denoiser(given(network, which), self.schedule, self.prediction) for which in (label, None)
        )
        return clipped(guided(conditional, unconditional, guidance), self.spec.low, self.spec.high)

    def label_vectors(self, label: Label | Tensor | None, num: int, seed: int = 0, first: int = 0) -> Tensor | None:
        """The labels of images first…first + num − 1 of this seed: (num, L) float32, or None for none."""
        word = label if isinstance(label, str) and label not in self.spec.labels else ""
        if label is None or word == "none" or (word == "any" and self.labels is None):
            return None
        if self.labels is None:
            raise UserError(f"this model of {self.spec.name} was trained without labels (train with --labels yes)")
        if word == "any":
            _check_seed(seed)
            drawn = bits(fold(seed, LABELS), torch.arange(first, first + num), 1)[:, 0]
            return self.labels.to(self.device)[integers(drawn, 0, len(self.labels) - 1)]
        if not isinstance(label, Tensor):
            return torch.tensor(self.spec.vector(label), device=self.device).expand(num, -1)
        if label.shape != (num, len(self.spec.labels)):
            raise UserError(f"labels for {num} images are ({num}, {len(self.spec.labels)}), not {tuple(label.shape)}")
        return label.to(self.device, torch.float32)

    def denoiser_for(
        self, num: int, label: Label | Tensor | None = "any", guidance: float = 1.0, seed: int = 0, first: int = 0
    ) -> Denoise:
        """The denoiser of images first…first + num − 1 of this seed, each told its label."""
        vectors = self.label_vectors(label, num, seed, first)
        if not math.isfinite(guidance):
            raise UserError(f"guidance must be finite, not {guidance}")
        if vectors is None and guidance != 1:
            raise UserError(f"guidance {guidance:g} needs a label to guide to")
        return self.denoiser(vectors, guidance)

    def noise(self, num: int, seed: int = 0, first: int = 0) -> Tensor:
        """x_T of images first…first + num − 1 of this seed: (num, C, H, W)."""
        if num < 1:
            raise UserError(f"num must be at least 1, not {num}")
        _check_seed(seed)
        shape = (num, self.spec.channels, self.spec.height, self.spec.width)
        return Noise(seed, first)(0, like=torch.empty(shape, device=self.device))

    def stream(
        self,
        num: int = 1,
        sampler: SamplerName | None = None,
        steps: Steps | None = None,
        eta: float | None = None,
        seed: int = 0,
        first: int = 0,
        label: Label | Tensor | None = "any",
        guidance: float = 1.0,
    ) -> Iterator[Step]:
        """Every Step(t, x, x0) from noise to image of images first…first + num − 1 of this seed, as one batch.

        steps: network calls; eta: noise of the samplers WITH_ETA, 0…1. UserError for a value that makes no sense.
        """
        denoise = self.denoiser_for(num, label, guidance, seed, first)
        return self.walk(denoise, self.noise(num, seed, first), sampler, steps, eta, Noise(seed, first))

    def chosen(self, sampler: SamplerName | None, steps: int | None, eta: float | None) -> Sampling:
        """What is None filled in: as the model is best sampled, and no noise for another sampler than that."""
        best = self.sampling
        if sampler is not None and sampler not in SAMPLERS:
            raise UserError(f"there is no sampler {sampler!r}; there are: {', '.join(SAMPLERS)}")
        if steps is not None and not 1 <= steps <= self.schedule.T:
            raise UserError(f"steps must be between 1 and {self.schedule.T}, not {steps}")
        if eta is not None and not 0 <= eta <= 1:
            raise UserError(f"eta must be between 0 and 1, not {eta:g}")
        if eta and (sampler or best.sampler) not in WITH_ETA:
            raise UserError(f"eta belongs to the samplers {' and '.join(WITH_ETA)}; {sampler or best.sampler} has none")
        if eta is None:
            eta = best.eta if sampler in (None, best.sampler) else 0.0
        steps = steps or min(best.steps, self.schedule.T)
        return replace(best, sampler=sampler or best.sampler, steps=steps, eta=eta)

    def walk(
        self,
        denoise: Denoise,
        x: Tensor,
        sampler: SamplerName | None,
        steps: Steps | None,
        eta: float | None,
        noise: Noise,
    ) -> Iterator[Step]:
        """Every step from x (num, C, H, W), at time T or where the list `steps` of times begins, with any denoiser.

        noise: what a sampler adds on the way, if it adds any
        """
        way = self.chosen(sampler, steps if isinstance(steps, int) else None, eta)
        options: dict[str, Any] = {}
        if way.sampler != "heun":
            options["generator"] = noise
        if way.sampler in WITH_ETA:
            options["eta"] = way.eta
        if not isinstance(steps, Sequence):
            # heun, which calls the network twice a step, makes its own times of a number of calls
            steps = way.steps if way.sampler == "heun" else self.times(way.steps)
        return SAMPLERS[way.sampler](denoise, self.schedule, x, steps, **options)

    def times(self, steps: int, start: int | None = None) -> list[int]:
        """The times of so many network calls, from `start` (or T) to 0, spaced as the model is best sampled."""
        start = self.schedule.T if start is None else start
        if self.sampling.spacing == "log_snr":
            return log_snr_times(self.schedule, steps, start)
        return (cubic_times if self.sampling.spacing == "cubic" else step_times)(start, steps)

    def sample(
        self,
        num: int = 1,
        sampler: SamplerName | None = None,
        steps: Steps | None = None,
        eta: float | None = None,
        seed: int = 0,
        label: Label | Tensor | None = "any",
        guidance: float = 1.0,
        batch_size: int = 64,
    ) -> Tensor:
        """num images, (num, C, H, W) float32 in [−1, 1] on the CPU. The seed decides them, and not the batch_size."""
        if num < 1 or batch_size < 1:
            raise UserError(f"num and batch_size must be at least 1, not {num} and {batch_size}")
        vectors = self.label_vectors(label, num, seed)
        batches = []
        for first in range(0, num, batch_size):
            count = min(batch_size, num - first)
            its_label = None if vectors is None else vectors[first : first + count]
            for step in self.stream(count, sampler, steps, eta, seed, first, its_label, guidance):
                x = step.x
            batches.append(x.cpu())
        return torch.cat(batches)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise UserError(f"seed must be between 0 and 2⁶⁴−1, not {seed}")


def load(run: str | Path, which: Which = "ema", device: DeviceName = "auto", precision: Precision = "auto") -> Model:
    """The model of a run, of a checkpoint, or one in the box; see `find`.

    which:     the averaged weights ("ema") or those of the last step ("raw"); models in the box have averaged ones only
    precision: see Model

    UserError if there is none or it is damaged.
    """
    checkpoint = load_checkpoint(find(run))
    if which == "raw" and not checkpoint.network:
        raise UserError(f"{run} has averaged weights alone; leave out --which raw")
    return from_checkpoint(checkpoint, which, device, precision)


def find(run: str | Path) -> Path:
    """The checkpoint of a run (a folder: its best, or else its latest), a checkpoint itself, or one in the box by name.

    A path that exists comes before a name. UserError if there is neither.
    """
    path = Path(run)
    if not path.exists() and str(run) in zoo.names():
        return zoo.path(str(run))
    if not path.exists():
        raise UserError(f"there is no run or checkpoint {run}; in the box are: {', '.join(zoo.names()) or 'none'}")
    if not path.is_dir():
        return path
    best = path / "checkpoints" / "best.safetensors"
    return best if best.exists() else path / "checkpoints" / "latest.safetensors"


def from_checkpoint(
    checkpoint: Checkpoint, which: Which, device: DeviceName = "auto", precision: Precision = "auto"
) -> Model:
    recipe = checkpoint.config.recipe
    network = recipe.make_network()
    network.load_state_dict(checkpoint.ema if which == "ema" else checkpoint.network)
    network = network.to(pick_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule, spec = recipe.make_schedule(), checkpoint.config.data
    return Model(network, schedule, recipe.prediction, spec, checkpoint.labels, recipe.sampling, precision)
