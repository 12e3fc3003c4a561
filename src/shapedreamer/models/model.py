"""A trained model: load it, sample from it, or watch it step by step."""

import copy
import difflib
import html
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from ..common.device import autocast, pick_device, torch_defaults
from ..common.errors import UserError
from ..common.files import new_folder, write_atomic
from ..common.names import (
    MASKED_WITH_ETA,
    MAX_ETA,
    TIMESTEPS,
    TWO_CALLS,
    WITH_ETA,
    DeviceName,
    Precision,
    Prediction,
    Process,
    ScheduleName,
    Which,
)
from ..common.noise import Noise, bits, fold, integers
from ..common.values import as_choice, as_float, as_int, as_path, as_seed, shown
from ..data.spec import DataSpec
from ..diffusion import masked
from ..diffusion.denoiser import Denoise, Denoiser, Network, clipped, with_label
from ..diffusion.process import diffuse
from ..diffusion.samplers import SAMPLERS, Sampler, Step, Steps
from ..diffusion.schedule import SCHEDULES, Schedule, cubic_times, log_snr_times, step_times
from ..networks.threads import in_shares
from . import zoo
from .checkpoint import Checkpoint, RunConfig, load_checkpoint, save_checkpoint
from .guidance import check_cfg_pp, check_guide, combine
from .options import Labels, SampleOptions
from .recipes import ContextUnetConfig, DiTConfig, FolderData, Recipe, Sampling, UNetConfig, check_sampler
from .weights import network_with_weights

# On a CPU bfloat16 pays for more images only: it converts all weights in each call
MAX_FLOAT32_IMAGES = 4
MAX_BYTES = 4 * 2**30  # of the images of one call; more do not fit the memory of most machines
LABELS = 0x1ABE1  # folded into a seed to draw labels, so that they are independent of its noise


NetworkFunction = Callable[..., Tensor]  # (x_t, t) or (x_t, t, label) -> the network's prediction


class Model:
    """A network with everything needed to sample from it.

    spec:      what its images are
    labels:    (N, L) labels of some real images, from which "any" draws; None for an unconditional model
    sampling:  the sampler, steps, eta and spacing to use where SampleOptions leaves them None
    precision: "auto" computes in bfloat16 where the device is fast at it, but on a CPU only for more than
               MAX_FLOAT32_IMAGES images of one request; "float32" is what the live page uses. Samples agree up to
               rounding, which can occasionally change the image
    config:    the configuration of the run that trained it; None for a model made by hand
    process:   "gaussian", or "masked" for a network that outputs logits of hidden pixels; see diffusion/masked.py
    for_few:   for each number of images up to MAX_FLOAT32_IMAGES, a faster way to run the network on a CPU, if there is
               one; export/runtimes.py fills it

    Methods that sample take SampleOptions, or its fields by keyword: `model.sample(8, sampler="ddim", steps=25)`. They
    raise UserError for a value out of range, for an unknown label, and for any label if the model is unconditional.
    With a guidance scale other than 1 and 0, each step makes two network calls instead of one, or one outside of
    guidance_interval.
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
        config: RunConfig | None = None,
        process: Process = "gaussian",
    ) -> None:
        self.config, self.process = config, process
        self.network, self.sampling, self.precision = network.eval(), sampling, precision
        self.schedule, self.prediction, self.spec, self.labels = schedule, prediction, spec, labels
        self.device = next(network.parameters()).device
        self.for_few: Mapping[int, NetworkFunction] = {}
        self._run: NetworkFunction | None = None  # instead of `network`
        self._guides: dict[tuple[Path, Precision], Model] = {}

    def __repr__(self) -> str:
        return f"Model({'; '.join(f'{name}: {value}' for name, value in self.facts().items())})"

    def _repr_html_(self) -> str:
        """A small table, which a notebook displays."""
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in self.facts().items())
        return f"<table>{rows}</table>"

    def facts(self) -> dict[str, str]:
        """What there is to know about the model, as text."""
        sampling = self.sampling
        kinds = {
            "eps": "ε (the noise)",
            "x0": "x₀ (the image)",
            "v": "v (a mixture of image and noise)",
            "flow": "u (noise minus image)",
        }
        return {
            "data": self.spec.name,
            "images": f"{self.spec.height}×{self.spec.width}, {'grey' if self.spec.channels == 1 else 'colour'}",
            "labels": "none" if self.labels is None else ", ".join(self.spec.labels),
            "network": type(self.network).__name__,
            "parameters": f"{sum(parameter.numel() for parameter in self.network.parameters()):,}",
            "prediction": "hidden pixels" if self.is_masked else kinds.get(self.prediction, self.prediction),
            "timesteps": f"{self.schedule.T}",
            "sampler": f"{sampling.sampler}, {min(sampling.steps, self.schedule.T)} steps, η = {sampling.eta:g}",
            "device": str(self.device),
        }

    @property
    def is_masked(self) -> bool:
        """Whether the process hides pixels instead of adding noise."""
        return self.process == "masked"

    def check_gaussian(self, purpose: str, instead: str) -> None:
        """UserError for a masked model, saying what does not work and what to do instead."""
        if self.is_masked:
            raise UserError(f"{purpose} does not work with a masked model; {instead}")

    def to(self, device: DeviceName | torch.device) -> "Model":
        """Move the network to a device, and return the model itself. UserError if this machine has no such device."""
        device = pick_device(device) if isinstance(device, str) else device
        self.network.to(device)
        self.device = device
        self._guides.clear()
        return self

    def save(self, path: str | Path) -> None:
        """Write the model so that `load` reads it: to a file that ends in .safetensors, else to a new run folder.

        A file is replaced, a folder is not. UserError if the folder exists, the schedule of a model made by hand is
        none of those in diffusion/schedule.py, or the path cannot be written.
        """
        save_model(self, as_path("path", path))

    def sample(
        self, num: int = 1, options: SampleOptions = SampleOptions(), *, batch_size: int = 64, **changes: Any
    ) -> Tensor:
        """`num` images, (num, C, H, W) float32 in [−1, 1] on the CPU. They depend on the seed, not on batch_size.

        changes: fields of SampleOptions that differ from `options`
        """
        options = replace(options, **changes)
        num, batch_size = self.check_num(num), as_int("batch_size", batch_size, 1)
        if isinstance(options.label, Tensor):
            self.label_vectors(options.label, num)  # checks that there is a label for each image
        batches = []
        for first in range(0, num, batch_size):
            count = min(batch_size, num - first)
            label = options.label[first : first + count] if isinstance(options.label, Tensor) else options.label
            for step in self.stream(count, options, first=first, total=num, label=label):
                x = step.x
            batches.append(x.cpu())
        return torch.cat(batches)

    def stream(
        self,
        num: int = 1,
        options: SampleOptions = SampleOptions(),
        *,
        first: int = 0,
        total: int | None = None,
        **changes: Any,
    ) -> Iterator[Step]:
        """Every Step(t, x, x0) from noise to image, for images first…first + num − 1 of the seed, as one batch.

        total:   number of images that are sampled in several batches, which decides the precision; by default num
        changes: fields of SampleOptions that differ from `options`
        """
        options = replace(options, **changes)
        num, first = self.check_num(num), _check_first(first)
        denoise = self.denoiser_for(num, options, first, total=total)
        x_T = self.noise(num, options.seed, first)
        sampler = self.bind_sampler(options, Noise(options.seed, first))  # such as diffusion.samplers.ddim
        return sampler(denoise, x_T=x_T)

    def _fast_for(self, num: int) -> "Model":
        """The model, computing in the way that is fastest for this number of images."""
        if self.device.type != "cpu" or num > MAX_FLOAT32_IMAGES:
            return self
        model = copy.copy(self)
        model.precision, model._run = "float32", self.for_few.get(num)
        return model

    def bind_sampler(self, options: SampleOptions, noise: Noise, times: Sequence[int] | None = None) -> Sampler:
        """The sampler that `options` names, ready to call as sampler(denoise, x_T=x). See diffusion/samplers.py.

        noise: the noise that the sampler adds, if it adds any
        times: the timesteps to visit, falling to 0, where x is an image at times[0]; by default from T
        """
        sampling, steps = self.resolve_sampling(options), self._steps(options, times)
        arguments: dict[str, Any] = {"schedule": self.schedule, "steps": steps}
        if sampling.sampler not in TWO_CALLS:
            arguments["generator"] = noise
        if sampling.sampler in (*WITH_ETA, *MASKED_WITH_ETA):
            arguments["eta"] = sampling.eta
        samplers: Mapping[Any, Sampler] = masked.SAMPLERS if self.is_masked else SAMPLERS
        sampler = partial(samplers[sampling.sampler], **arguments)
        return partial(self._in_range, sampler) if sampling.sampler == "midpoint" else sampler

    def _in_range(self, sampler: Sampler, denoise: Denoise, *, x_T: Tensor) -> Iterator[Step]:
        """The steps of a sampler that ends on an extrapolated image, which is clipped to the range of the data."""
        for step in sampler(denoise, x_T=x_T):
            yield step if step.t > 0 else step._replace(x=step.x.clamp(self.spec.low, self.spec.high))

    def _steps(self, options: SampleOptions, times: Sequence[int] | None) -> Steps:
        """The timesteps to visit; for samplers with two calls a step, which choose their own, the number of calls."""
        sampling = self.resolve_sampling(options)
        steps: Steps | None = options.steps if times is None and isinstance(options.steps, Sequence) else times
        if steps is None:
            steps = sampling.steps if sampling.sampler in TWO_CALLS else self.times(sampling.steps)
        return steps if isinstance(steps, int) else self._check_times(steps)

    def resolve_sampling(self, options: SampleOptions) -> Sampling:
        """The options with None replaced by the model's defaults. Another sampler than the default one gets eta 0."""
        default, sampler, eta = self.sampling, options.sampler, options.eta
        steps = options.steps if isinstance(options.steps, int) else None
        as_seed(options.seed)
        check_sampler(sampler or default.sampler, self.process)
        with_eta = MASKED_WITH_ETA if self.is_masked else WITH_ETA
        if steps is not None:
            as_int("steps", steps, 1, self.schedule.T)
        if eta is not None:
            as_float("eta", eta, 0, 1 if self.is_masked else MAX_ETA)
        if eta and (sampler or default.sampler) not in with_eta:
            have = f"samplers {' and '.join(with_eta)} have" if len(with_eta) > 1 else f"sampler {with_eta[0]} has"
            raise UserError(f"{sampler or default.sampler} has no eta; the {have} one")
        if eta is None:
            eta = default.eta if sampler in (None, default.sampler) else 0.0
        steps = steps or min(default.steps, self.schedule.T)
        return replace(default, sampler=sampler or default.sampler, steps=steps, eta=eta)

    def times(self, steps: int, start: int | None = None) -> list[int]:
        """The timesteps of `steps` network calls, from `start` (default T) to 0, with the model's own spacing."""
        start = self.schedule.T if start is None else as_int("start", start)
        steps = as_int("steps", steps)
        if self.sampling.spacing == "log_snr":
            return log_snr_times(self.schedule, steps, start)
        return (cubic_times if self.sampling.spacing == "cubic" else step_times)(start, steps)

    @torch_defaults()
    def noise(self, num: int, seed: int = 0, first: int = 0) -> Tensor:
        """x_T of images first…first + num − 1 of this seed: (num, C, H, W). All pixels of a masked model are hidden."""
        num, seed, first = self.check_num(num), as_seed(seed), _check_first(first)
        x_T = torch.zeros(num, self.spec.channels, self.spec.height, self.spec.width, device=self.device)
        return x_T if self.is_masked else Noise(seed, first)(0, like=x_T)

    def diffuse(self, image: Tensor, t: int, seed: int = 0, first: int = 0) -> Tensor:
        """x_t of an image (num, C, H, W), by the model's forward process and the noise of first…first + num − 1."""
        image = self.fit(image).float()
        eps = Noise(as_seed(seed), _check_first(first))(0, like=image)
        return (masked.hide if self.is_masked else diffuse)(image, t, eps, self.schedule)

    def fit(self, image: Tensor) -> Tensor:
        """An image to edit, on the model's device; black and white for a masked model."""
        image = image.to(self.device)
        return masked.binary(image) if self.is_masked else image

    def denoiser_for(
        self,
        num: int,
        options: SampleOptions,
        first: int = 0,
        times: Sequence[int] | None = None,
        *,
        total: int | None = None,
    ) -> Denoise:
        """The denoiser of images first…first + num − 1 of this seed, conditioned on their labels and guided.

        times: as in bind_sampler; cfg_pp needs them
        total: as in stream
        """
        model = self._fast_for(total or num)
        vectors = self.label_vectors(options.label, num, options.seed, first)
        weak = None if options.guide_with is None else model.guide(options.guide_with)
        if vectors is None and weak is None and options.guidance != 1:
            raise UserError(f"guidance {options.guidance:g} needs a label; leave `guidance` out or add `label`")
        steps = None
        if options.cfg_pp:
            check_cfg_pp(options, self.resolve_sampling(options), vectors)
            steps = self._steps(options, times)
        return model.denoiser(vectors, options.guidance, options.guidance_interval, weak, steps)

    def denoiser(
        self,
        label: Tensor | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] | None = None,
        weak: "Model | None" = None,
        cfg_pp: Steps | None = None,
    ) -> Denoise:
        """The network as a denoiser (x_t, t) -> x̂₀, guided and then clipped to the range of the data.

        UserError if a prediction is not finite, or the interval contains no timestep.

        label:    a vector for each image, (B, L); None for unconditional
        interval: of log-SNR, where guidance acts; None for everywhere
        weak:     for autoguidance: the model to guide away from, with the same label
        cfg_pp:   for CFG++: the timesteps that ddim visits
        """
        if self.is_masked:
            if interval is not None or weak is not None or cfg_pp is not None:
                self.check_gaussian(
                    "guidance by an interval, by another model or by CFG++",
                    "leave out `guidance_interval`, `guide_with` and `cfg_pp`",
                )
            return _finite(masked.denoiser(masked.guided(self._network(label), self._network(None), guidance)))
        conditional = self._predict(label)
        base = self._predict(None) if weak is None else weak._predict(label)
        return _finite(combine(conditional, base, guidance, interval, cfg_pp, self._clip, self.schedule))

    def _network(self, label: Tensor | None) -> Network:
        """The network with this label, as it predicts."""

        def network(x_t: Tensor, *label: Tensor) -> Tensor:
            with torch_defaults(), torch.inference_mode(), autocast(self.device, self.precision):
                if self._run is not None:
                    return self._run(x_t, *label)
                return in_shares(self.network, x_t.contiguous(memory_format=torch.channels_last), *label)

        return with_label(network, label)

    def _predict(self, label: Tensor | None) -> Denoise:
        """The network as a denoiser with this label, neither guided nor clipped."""
        return Denoiser(self._network(label), self.schedule, self.prediction)

    def _clip(self, denoise: Denoise) -> Denoise:
        return clipped(denoise, self.spec.low, self.spec.high)

    def guide(self, guide: "Model | str | Path") -> "Model":
        """The weak model of autoguidance, loaded once. UserError unless it suits this model; see SampleOptions."""
        if not isinstance(guide, Model):
            key = Path(guide), self.precision
            if key not in self._guides:
                self._guides[key] = load(key[0], device="cpu", precision=self.precision).to(self.device)
            guide = self._guides[key]
        check_guide(self, guide)
        return guide

    def check_num(self, num: int) -> int:
        """The number of images of one call as a plain int. UserError below 1, or if they do not fit the memory."""
        num = as_int("num", num, 1)
        max_num = MAX_BYTES // (4 * self.spec.channels * self.spec.height * self.spec.width)
        if num > max_num:
            raise UserError(f"num must be at most {max_num}, not {shown(num)}: more images do not fit the memory")
        return num

    def _check_times(self, times: Sequence[int]) -> list[int]:
        """Timesteps to visit as plain ints. UserError unless they fall from at most T to 0."""
        plain = [as_int("steps", t) for t in times]
        if len(plain) < 2 or plain[-1] != 0 or plain[0] > self.schedule.T or sorted(set(plain), reverse=True) != plain:
            raise UserError(
                f"the timesteps in steps must fall from at most T = {self.schedule.T} to 0, not {shown(plain)}"
            )
        return plain

    @torch_defaults()
    def label_vectors(self, label: Labels | None, num: int, seed: int = 0, first: int = 0) -> Tensor | None:
        """The labels of images first…first + num − 1 of this seed: (num, L) float32; None for unconditional."""
        num, seed, first = self.check_num(num), as_seed(seed), _check_first(first)
        word = label if isinstance(label, str) and label not in self.spec.labels else ""
        if label is None or word == "none" or (word == "any" and self.labels is None):
            return None
        if self.labels is None:
            raise UserError(f"this model of {self.spec.name} was trained without labels (train with `labels=True`)")
        if word == "any":
            drawn = bits(fold(seed, LABELS), torch.arange(first, first + num), 1)[:, 0]
            return self.labels.to(self.device)[integers(drawn, 0, len(self.labels) - 1)]
        if not isinstance(label, Tensor):
            return torch.tensor(self.spec.vector(label), device=self.device).expand(num, -1)
        if label.shape != (num, len(self.spec.labels)):
            raise UserError(
                f"labels for {num} images must be ({num}, {len(self.spec.labels)}), not {tuple(label.shape)}"
            )
        return label.to(self.device, torch.float32)


def _check_first(first: int) -> int:
    return as_int("first", first, 0, 2**32 - 1)


def _finite(denoise: Denoise) -> Denoise:
    """The denoiser; UserError instead of a prediction that is not finite, which would spoil every later step."""

    def checked(x_t: Tensor, t: Tensor) -> Tensor:
        x0 = denoise(x_t, t)
        if not torch.isfinite(x0).all():
            raise UserError(
                f"the prediction at t = {int(t[0])} is not finite: the label's amounts or the guidance scale are too "
                "large, or the weights are damaged"
            )
        return x0

    return checked


def load(run: str | Path, which: Which = "ema", device: DeviceName = "auto", precision: Precision = "auto") -> Model:
    """The model of a run, a checkpoint, or a shipped model; see find_checkpoint.

    which:     averaged weights ("ema") or those of the last step ("raw"); shipped models have only averaged weights
    precision: see Model

    UserError if there is no such model or its file is damaged.
    """
    checkpoint = load_checkpoint(find_checkpoint(run))
    as_choice("which", which, get_args(Which))
    if which == "raw" and not checkpoint.network:
        raise UserError(f"{run} has only averaged weights; leave out `which='raw'`")
    return from_checkpoint(checkpoint, which, device, precision)


def find_checkpoint(run: str | Path) -> Path:
    """The checkpoint of a run folder (its best, else its latest), of a checkpoint file, or of a shipped model by name.

    An existing path takes precedence over a name. The suffix .safetensors may be left out. UserError if nothing fits.
    """
    path = as_path("model", run)
    if not path.exists() and str(run) in zoo.names():
        return zoo.path(str(run))
    stem = path.with_name(f"{path.name}.safetensors") if path.name else path
    if not path.exists() and stem.is_file():
        return stem
    if not path.exists():
        similar = difflib.get_close_matches(str(run), zoo.names(), n=1, cutoff=0.75)
        hint = f", but there is a model {similar[0]}" if similar else ""
        shipped = ", ".join(zoo.names()) or "none"
        raise UserError(f"there is no run or checkpoint {run}{hint}; the shipped models are: {shipped}")
    if not path.is_dir():
        return path
    best = path / "checkpoints" / "best.safetensors"
    return best if best.exists() else path / "checkpoints" / "latest.safetensors"


@torch_defaults()
def from_checkpoint(
    checkpoint: Checkpoint, which: Which, device: DeviceName = "auto", precision: Precision = "auto"
) -> Model:
    """The model of a loaded checkpoint; the arguments are those of `load`. UserError if its weights do not fit."""
    config = checkpoint.config
    recipe, spec, schedule = config.recipe, config.data, config.recipe.make_schedule()
    network: Any = network_with_weights(checkpoint, which)
    network = network.to(pick_device(device), memory_format=torch.channels_last)
    labels, sampling = checkpoint.labels, recipe.sampling
    return Model(network, schedule, recipe.prediction, spec, labels, sampling, precision, config, recipe.process)


def save_model(model: Model, path: Path) -> None:
    """See Model.save."""
    config, weights = config_of(model), model.network.state_dict()
    if path.suffix == ".safetensors":
        if path.is_dir():
            raise UserError(f"{path} is a folder; choose the name of a file")
        save_checkpoint(path.parent, path.stem, config, 0, {}, weights, math.inf, model.labels)
        return
    with new_folder(path) as folder:
        write_atomic(folder / "config.json", config.to_json().encode())
        save_checkpoint(folder / "checkpoints", "best", config, 0, {}, weights, math.inf, model.labels)


def config_of(model: Model) -> RunConfig:
    """The configuration of a model: that of its run, or for a model made by hand, one that describes it.

    UserError if the schedule is none of those in diffusion/schedule.py, or the network is not one of ours.
    """
    if model.config is not None:
        return model.config
    schedule = name_of_schedule(model.schedule)
    kind = {"UNet": UNetConfig, "ContextUnet": ContextUnetConfig, "DiT": DiTConfig}.get(type(model.network).__name__)
    if kind is None:
        name = type(model.network).__name__
        raise UserError(f"cannot describe a network of type {name}; use UNet, ContextUnet or DiT")
    recipe = Recipe(
        name=model.spec.name,
        data=FolderData(model.spec.name),  # unknown; only training and evaluation need it
        network=kind(**model.network.options),  # type: ignore[arg-type]
        process=model.process,
        schedule=schedule,
        timesteps=model.schedule.T,
        prediction=model.prediction,
        labels=model.labels is not None,
        sampling=model.sampling,
    )
    return RunConfig(recipe, model.spec)


def name_of_schedule(schedule: Schedule) -> ScheduleName:
    """The name of a schedule; UserError if it is none of those in diffusion/schedule.py."""
    for name, make in SCHEDULES.items():
        low, high = TIMESTEPS[name]
        if low <= schedule.T <= high:
            known = make(schedule.T).alpha_bar
            if torch.allclose(known, schedule.alpha_bar, rtol=0, atol=1e-6):
                return name
    raise UserError(f"the schedule is none of {', '.join(SCHEDULES)}, so a run cannot describe it")
