"""Export a model as a pipeline folder of Hugging Face Diffusers, which runs without this package; and import one.

    save_pipeline(sd.load("mnist"), "mnist-pipeline")
    pipeline = diffusers.DiffusionPipeline.from_pretrained("mnist-pipeline")
    images = pipeline(class_labels=[7, 7], guidance_scale=1.0, num_inference_steps=24).images
    model = load_pipeline("mnist-pipeline")                    # the model again

This needs `pip install 'shapedreamer[diffusers]'`. Given the same noise, the pipeline's images are those of
`model.sample`. The folder uses only classes of Diffusers:

    scheduler   DPMSolverMultistepScheduler. With the options below it is our ddim (order 1) or dpmpp_2m (order 2), with
                eta 0, or with eta 1 as an SDE; and it clips x̂₀ before it uses it, as this package does
    network     UNet2DModel, see diffusers.py
    pipeline    DDPMPipeline; or for labels or patches, DiTPipeline, with this network as its transformer
    vae         of DiTPipeline: an AutoencoderDC whose weights make it pixel_shuffle for patch = 2, else the identity

DiTPipeline is the pipeline of Diffusers that takes class labels and guidance. It treats class 1000 as unconditional, so
the network gets 1001 classes, and those without a label are all unconditional.

Diffusers can only space timesteps evenly. For a model with another spacing, the exported timesteps are numbered so that
even spacing visits the right ones: timestep i of the pipeline has the ᾱ, and the features in the network's time
embedding, of our timestep `clock(...)[i]`. See clock.

Models with flow prediction have another form, because the pipelines of Diffusers for FlowMatchEulerDiscreteScheduler
call the network with z = (1−τ) x₀ + τ ε, and ours takes x_t = z/√((1−τ)² + τ²). Their folder contains its own pipeline,
a copy of flow_pipeline.py, so loading it takes trust_remote_code=True. It has our timesteps and their τ in a table.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..common.device import torch_defaults
from ..common.errors import UserError, require
from ..common.files import naming_disk_errors, new_folder, write_atomic
from ..common.names import TWO_CALLS, Prediction, ScheduleName
from ..common.values import as_path
from ..data.spec import DataSpec
from ..diffusion.schedule import Schedule
from ..models.checkpoint import RunConfig
from ..models.model import Model, config_of
from ..models.options import SampleOptions
from ..models.recipes import FolderData, Recipe, Sampling, UNetConfig
from ..models.weights import check_network, check_spec, check_tensor
from ..networks.layers import time_features
from ..networks.unet import UNet
from .card import model_card
from .diffusers import CLASS_WEIGHT, from_diffusers, load_converted, to_diffusers

if TYPE_CHECKING:
    UNet2DModel = Any

NULL_CLASS = 1000  # of DiTPipeline: the class that means unconditional
MIN_TIMESTEPS = 1000  # of an exported schedule, so that pipelines can make as many steps by default
PREDICTION_TYPES: dict[Prediction, str] = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
SCHEDULE_OPTIONS: dict[ScheduleName, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "linear_zero_snr": {
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "rescale_betas_zero_snr": True,
    },
}
MAX_BETA = np.float32(1 - 2**-24)  # the largest float32 below 1: DPM-Solver divides by √ᾱ_T, which must not be 0
FLOW_PIPELINE = Path(__file__).with_name("flow_pipeline.py")
FLOW_CLASS = ("pipeline", "FlowPipeline")  # module and class, as model_index.json names it
OURS = "shapedreamer.json"  # what Diffusers has no place for: the run's configuration, and labels of real images


@torch_defaults()
def save_pipeline(model: Model, out: str | Path, options: SampleOptions = SampleOptions(), shipped: str = "") -> None:
    """Write a pipeline folder with a model card; the folder is written completely or not at all.

    options: the sampler, steps and eta of the pipeline; None means the model's own
    shipped: the name of the model if it is a shipped one, for its card

    UserError if Diffusers has no counterpart for the network, the sampler, the size or the range of the images, if the
    folder exists already or cannot be written, or if the extra `diffusers` is not installed.
    """
    out = as_path("out", out)
    require("diffusers", "diffusers")
    config, sampling = config_of(model), model.resolve_sampling(options)
    _check_exportable(model, sampling)
    times, is_flow = clock(model, sampling), model.prediction == "flow"
    parts, index = (_flow_parts if is_flow else _parts)(model, sampling, times)
    usage, notes = _usage(model, sampling), (_flow_notes if is_flow else _notes)(model, sampling)
    labels = None if model.labels is None else model.labels.tolist()
    stored = _Ours(config, labels, None if times is None or is_flow else times.tolist())
    card = model_card(model, "diffusers", usage, notes, shipped)
    with new_folder(out) as folder:
        for name, part in parts.items():
            part.save_pretrained(folder / name)
        if is_flow:
            write_atomic(folder / "pipeline.py", FLOW_PIPELINE.read_bytes())
        write_atomic(folder / "model_index.json", json.dumps(index, indent=2, ensure_ascii=False).encode())
        write_atomic(folder / OURS, TypeAdapter(_Ours).dump_json(stored))
        write_atomic(folder / "README.md", card.encode())


def _parts(model: Model, sampling: Sampling, times: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a DDPMPipeline or DiTPipeline, and the content of its model_index.json."""
    diffusers = require("diffusers", "diffusers")
    network, with_classes = cast(UNet, model.network), _has_classes(model)
    unet = _export_network(network, model.spec, times, with_classes)
    recipe = config_of(model).recipe
    scheduler = diffusers.DPMSolverMultistepScheduler(**_scheduler_options(recipe, sampling, model, times))

    index: dict[str, Any] = {"_diffusers_version": diffusers.__version__}
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    parts = {"scheduler": scheduler}
    if with_classes:
        index |= {"_class_name": "DiTPipeline", "transformer": ["diffusers", "UNet2DModel"]}
        index |= {"vae": ["diffusers", "AutoencoderDC"], "id2label": _id2label(model)}
        parts |= {"transformer": unet, "vae": pixel_shuffle_vae(model.spec.channels, network.patch)}
    else:
        index |= {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]}
        parts |= {"unet": unet}
    return parts, index


def _flow_parts(model: Model, sampling: Sampling, times: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a FlowPipeline, and the content of its model_index.json."""
    diffusers = require("diffusers", "diffusers")
    network, T, with_classes = cast(UNet, model.network), model.schedule.T, _has_classes(model)
    times = torch.arange(1, T + 1, dtype=torch.float64) if times is None else times
    tau = np.interp(times.numpy(), np.arange(T + 1), model.schedule.tau.numpy())
    # shift=1: if the schedule has a shift, τ includes it
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=len(times), shift=1.0)
    unet = _export_network(network, model.spec, None, with_classes)
    unet.time_embedding.linear_1.load_state_dict(network.time.linear1.state_dict())  # its timesteps are 1…T, as ours
    index = {
        "_diffusers_version": diffusers.__version__,
        "_class_name": list(FLOW_CLASS),
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "timesteps": times.tolist(),
        "sigmas": tau.tolist(),
        "steps": sampling.steps,
        "patch": network.patch,
        "id2label": _id2label(model) if with_classes else None,
    }
    return {"scheduler": scheduler, "unet": unet}, index


def _has_classes(model: Model) -> bool:
    """Whether the exported network has classes: for labels, and in a DiTPipeline also for patches."""
    network = cast(UNet, model.network)
    return network.context_size > 0 or (network.patch > 1 and model.prediction != "flow")


def clock(model: Model, sampling: Sampling) -> Tensor | None:
    """Our timesteps, ascending and float64, that the exported timesteps 0, 1, … stand for; None for 1…T.

    None if the model spaces its timesteps evenly, as Diffusers can. Otherwise the intervals between the timesteps that
    sampling.steps calls visit are divided into equal parts, until there are at least MIN_TIMESTEPS timesteps. Those in
    between are fractions. A pipeline that makes the same number of calls visits our timesteps exactly.
    """
    if sampling.spacing == "even":
        return None
    visited = np.array(model.times(sampling.steps)[::-1], dtype=np.float64)
    parts = -(-MIN_TIMESTEPS // sampling.steps)
    grid = np.arange(len(visited)) * parts
    return torch.from_numpy(np.interp(np.arange(1, grid[-1] + 1), grid, visited))


def alpha_bar_at(schedule: Schedule, times: Tensor) -> Tensor:
    """ᾱ at fractional timesteps, (N,) float64, linear between whole ones."""
    return torch.from_numpy(np.interp(times.numpy(), np.arange(schedule.T + 1), schedule.alpha_bar.numpy()))


def _betas(alpha_bar: Tensor) -> list[float]:
    """β_t of these ᾱ_t, for a library that multiplies the 1 − β_t in float32: each β makes up for earlier rounding."""
    betas, product = [], np.float32(1)
    for target in alpha_bar.numpy():
        betas.append(min(np.float32(1 - target / float(product)), MAX_BETA))
        product *= np.float32(1) - betas[-1]
    return [float(beta) for beta in betas]


def pixel_shuffle_vae(channels: int, patch: int) -> Any:
    """An AutoencoderDC of Diffusers that decodes by pixel_shuffle(z, 2); for patch 1, one that leaves z unchanged.

    Its decoder ends in RMSNorm over the channels, a bias, ReLU and a convolution. An extra channel holds a constant so
    large that it alone decides the norm, and a bias keeps every value above 0, so that ReLU changes nothing. For values
    in [−1, 1] the error is about 1e-6.
    """
    diffusers = require("diffusers", "diffusers")
    latents = channels * patch**2
    layers = (0, 0) if patch == 2 else (1,)
    vae = diffusers.AutoencoderDC(
        in_channels=channels,
        latent_channels=latents,
        encoder_block_out_channels=(latents,) * len(layers),
        encoder_layers_per_block=layers,
        encoder_qkv_multiscales=((),) * len(layers),
        encoder_out_shortcut=False,
        decoder_block_out_channels=(latents + 1,) * len(layers),
        decoder_layers_per_block=layers,
        decoder_qkv_multiscales=((),) * len(layers),
        decoder_in_shortcut=False,
    )
    big, bias, identity = 1e4, 2.0, torch.eye(latents)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()  # so that residual blocks change nothing
        encoder, decoder = vae.encoder, vae.decoder
        encoder_in, decoder_out = encoder.conv_in, decoder.conv_out
        if patch == 2:  # these convolutions come before pixel_unshuffle and after the norm, in front of pixel_shuffle
            encoder_in, decoder_out = encoder_in.conv, decoder_out.conv
        encoder_in.weight[:, :, 1, 1] = torch.eye(channels)
        encoder.conv_out.weight[:, :, 1, 1] = identity
        decoder.conv_in.weight[:latents, :, 1, 1] = identity
        decoder.conv_in.bias[latents] = big
        decoder.norm_out.weight.fill_(big / (latents + 1) ** 0.5)
        decoder.norm_out.bias.fill_(bias)
        decoder_out.weight[:, :latents, 1, 1] = identity
        decoder_out.bias.fill_(-bias)
    return vae


def _check_exportable(model: Model, sampling: Sampling) -> None:
    """UserError that names what has no counterpart in Diffusers."""
    network, spec, kind = model.network, model.spec, type(model.network).__name__
    lacks = "Diffusers has no counterpart for"
    if model.is_masked:
        raise UserError(f"{lacks} the masked process of this model; export it to ONNX instead")
    if not isinstance(network, UNet):
        raise UserError(f"{lacks} the network {kind} of this model; only a UNet can be exported, or use ONNX")
    if network.time_at == "bottleneck":
        raise UserError(f"{lacks} time_at='bottleneck' of this network; export it to ONNX instead")
    if network.head is not None:
        raise UserError(f"{lacks} the head of this network at full resolution; export it to ONNX instead")
    if (spec.low, spec.high) != (-1, 1):
        raise UserError(f"{lacks} images in [{spec.low:g}, {spec.high:g}]; they must be in [-1, 1]")
    if spec.channels == 2:
        raise UserError(f"{lacks} images with 2 channels")
    if network.context_size > NULL_CLASS:
        raise UserError(f"{lacks} {network.context_size} labels; at most {NULL_CLASS} can be exported")
    if model.prediction == "flow":
        _check_flow(sampling)
        return
    if network.patch not in (1, 2):
        raise UserError(f"{lacks} patch={network.patch} of this network; only 1 and 2 can be exported")
    if (network.context_size or network.patch > 1) and spec.height != spec.width:
        raise UserError(f"{lacks} images of {spec.height}x{spec.width} with labels or patches: they must be square")
    if sampling.sampler in TWO_CALLS:
        raise UserError(f"{lacks} the sampler {sampling.sampler}; choose another, as in `sampler='ddim'`")
    if sampling.sampler in ("ddim", "dpmpp_2m") and sampling.eta not in (0, 1):
        raise UserError(f"{lacks} eta = {sampling.eta:g}; choose 0 or 1, as in `eta=0`")
    if sampling.sampler == "dpmpp_2m" and model.schedule.alpha_bar[-1] == 0:
        raise UserError(f"{lacks} dpmpp_2m at zero terminal SNR; choose another sampler, as in `sampler='ddim'`")


def _check_flow(sampling: Sampling) -> None:
    """UserError unless the sampler is Euler's method on the line, as in FlowMatchEulerDiscreteScheduler."""
    if sampling.sampler != "ddim" or sampling.eta != 0:
        raise UserError(
            f"Diffusers has no counterpart for {sampling.sampler} with eta = {sampling.eta:g} on a model with flow "
            "prediction; choose `sampler='ddim'` and `eta=0`"
        )


def _scheduler_options(recipe: Recipe, sampling: Sampling, model: Model, times: Tensor | None) -> dict[str, Any]:
    """The arguments of DPMSolverMultistepScheduler."""
    stochastic = sampling.sampler == "ddpm" or sampling.eta == 1
    options: dict[str, Any] = {
        "num_train_timesteps": model.schedule.T,
        "prediction_type": PREDICTION_TYPES[model.prediction],
        "algorithm_type": "sde-dpmsolver++" if stochastic else "dpmsolver++",
        "solver_order": 2 if sampling.sampler == "dpmpp_2m" else 1,
        "final_sigmas_type": "zero",
        "timestep_spacing": "trailing",
        "thresholding": True,  # with a largest value of 1 this clips to [−1, 1]
        "sample_max_value": 1.0,
    }
    if times is None and model.schedule.alpha_bar[-1] == 0:
        # for rescale_betas_zero_snr, Diffusers replaces ᾱ_T = 0 by 2⁻²⁴, which changes a picture by 1e-3
        times = torch.arange(1, model.schedule.T + 1, dtype=torch.float64)
    if times is None:
        options |= SCHEDULE_OPTIONS[recipe.schedule]
    else:
        alpha_bar = alpha_bar_at(model.schedule, times)
        options |= {"num_train_timesteps": len(times), "trained_betas": _betas(alpha_bar)}
    return options


def _export_network(network: UNet, spec: DataSpec, times: Tensor | None, with_classes: bool) -> "UNet2DModel":
    """The UNet2DModel with NULL_CLASS + 1 classes if needed, and with a table of time features if `times` is given."""
    size: int | tuple[int, int] = spec.height if spec.height == spec.width else (spec.height, spec.width)
    model = to_diffusers(network, size)
    state, changes = model.state_dict(), {"sample_size": model.config.sample_size}
    if isinstance(size, int):
        changes["sample_size"] = size // network.patch  # DiTPipeline needs an int
    if with_classes:
        classes = torch.zeros(NULL_CLASS + 1, network.time.linear2.out_features)
        if network.context is not None:
            classes[: network.context_size] = network.context.weight.T
        state[CLASS_WEIGHT] = classes
        changes["num_class_embeds"] = len(classes)
    if times is not None:
        state["time_proj.weight"] = time_features(times, network.time.dim)
        state["time_embedding.linear_1.weight"] = network.time.linear1.weight
        changes |= {"time_embedding_type": "learned", "num_train_timesteps": len(times)}
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    exported = type(model)(**config | changes)
    exported.load_state_dict({name: value.detach().cpu().float() for name, value in state.items()})
    return exported.eval()


def _id2label(model: Model) -> dict[str, str]:
    """The names of the classes; Diffusers splits them at commas."""
    names = model.spec.labels[: cast(UNet, model.network).context_size] or ("unconditional",)
    return {str(i): name.replace(",", " ") for i, name in enumerate(names)}


def _usage(model: Model, sampling: Sampling) -> str:
    labels = "class_labels=[0, 0, 0, 0], guidance_scale=1.0, " if _has_classes(model) else "batch_size=4, "
    trust = ", trust_remote_code=True" if model.prediction == "flow" else ""
    named = (
        "\n`pipeline.labels` has the numbers of the labels, and 1000 means no label.\n"
        if model.labels is not None
        else ""
    )
    return f"""\
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("PATH_OR_REPOSITORY"{trust})
images = pipeline({labels}num_inference_steps={sampling.steps}).images
images[0].save("sample.png")
```
{named}""".rstrip()


def _notes(model: Model, sampling: Sampling) -> list[str]:
    """What a user of the pipeline must know."""
    how = f"{sampling.sampler} with {sampling.steps} network calls" + (
        f", eta {sampling.eta:g}" if sampling.eta else ""
    )
    notes = [
        f"The scheduler is set up as {how}: `num_inference_steps={sampling.steps}` is what the model is meant for."
    ]
    if sampling.spacing != "even":
        notes.append(
            f"The model visits timesteps that are not evenly spaced ({sampling.spacing}). The timesteps of this "
            "pipeline are numbered so that even spacing visits the right ones, and the network has a table of time "
            "features instead of computing them."
        )
    network = cast(UNet, model.network)
    if network.context_size or network.patch > 1:
        notes.append(
            "The pipeline is a `DiTPipeline` with a `UNet2DModel` as its transformer and an `AutoencoderDC` as its "
            "vae. Diffusers logs that it expected other types, which does no harm: all three have the same interface."
        )
    if network.patch > 1:
        notes.append("The vae has not learnt anything: its weights are set so that decoding is `pixel_shuffle`.")
    return notes


def _flow_notes(model: Model, sampling: Sampling) -> list[str]:
    """What a user of a FlowPipeline must know."""
    return [
        f"The scheduler makes Euler steps on the line from noise to image: `num_inference_steps={sampling.steps}` is "
        "the default, and what the model is meant for.",
        "This network predicts the velocity of flow matching, but takes images scaled to variance 1, and no pipeline "
        "of Diffusers scales them. So the folder contains its own pipeline, `pipeline.py`, and loading it takes "
        "`trust_remote_code=True`; read the file first, as with any code that you download.",
    ]


# import


@torch_defaults()
def load_pipeline(folder: str | Path) -> Model:
    """The model of a pipeline folder that save_pipeline wrote, or of a DDPMPipeline or DDIMPipeline with a UNet2DModel.

    Code in the folder is not run. The model always clips x̂₀ to [−1, 1], even if the scheduler has clip_sample = False.
    UserError if the folder is incomplete or damaged, or if this package has no counterpart for something in it; the
    message names it.
    """
    folder = as_path("folder", folder)
    diffusers = require("diffusers", "diffusers")
    index = _read_json(folder / "model_index.json", "a Diffusers pipeline")
    ours = _read_ours(folder)
    kind = index.get("_class_name")
    is_ours = kind in ("DiTPipeline", list(FLOW_CLASS)) and ours is not None
    if kind not in ("DDPMPipeline", "DDIMPipeline") and not is_ours:
        raise UserError(f"{folder} is a {kind}; only DDPMPipeline and DDIMPipeline with a UNet2DModel can be imported")
    part = "transformer" if kind == "DiTPipeline" else "unet"
    if list(index.get(part) or []) != ["diffusers", "UNet2DModel"]:
        raise UserError(f"the {part} of {folder} is {index.get(part)}; only a UNet2DModel can be imported")
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json", "a scheduler")
    try:
        unet = diffusers.UNet2DModel.from_pretrained(folder / part, low_cpu_mem_usage=False, local_files_only=True)
    except Exception as error:  # of many libraries: a missing file, JSON or weights that are damaged
        raise UserError(f"{folder / part} is incomplete or damaged: {str(error)[:200]}; download it again") from None
    if ours:
        return _import_ours(folder, unet, scheduler, ours)
    return _import_foreign(folder, unet, scheduler)


def _import_ours(folder: Path, unet: "UNet2DModel", scheduler: Mapping[str, Any], ours: "_Ours") -> Model:
    config = ours.config
    recipe, spec = config.recipe, config.data
    if scheduler.get("prediction_type") != PREDICTION_TYPES.get(recipe.prediction):  # None for flow
        raise UserError(
            f"the scheduler of {folder} has prediction_type {scheduler.get('prediction_type')}, but {OURS} says that "
            f"the network predicts {recipe.prediction}; export the model again"
        )
    check_spec(spec, recipe)
    check_network(recipe)
    context = recipe.network.context
    labels = None if ours.labels is None else torch.tensor(ours.labels)
    if labels is not None:
        check_tensor("the table of labels", labels, (len(labels), context))
    network, state = cast(UNet, recipe.make_network()), unet.state_dict()
    classes = state.pop(CLASS_WEIGHT, torch.zeros(context, 1))
    if classes[context:].any():
        raise UserError(f"{folder} has trained classes from {context} on, for which {OURS} has no labels")
    if ours.times is not None:
        table = state.pop("time_proj.weight", torch.zeros(0))
        if not torch.equal(table, time_features(torch.tensor(ours.times, dtype=torch.float64), network.time.dim)):
            raise UserError(f"the time_proj of {folder} has been trained, which has no counterpart in UNet")
    shift_time = ours.times is None and recipe.prediction != "flow"
    try:
        load_converted(network, state, classes[:context] if context else None, shift_time)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"the network of {folder} is not that of {OURS}: {str(error)[:200]}") from None
    return Model(network, recipe.make_schedule(), recipe.prediction, spec, labels, recipe.sampling, config=config)


def _import_foreign(folder: Path, unet: "UNet2DModel", scheduler: Mapping[str, Any]) -> Model:
    schedule, prediction, sampling = _scheduler_counterpart(scheduler)
    try:
        network = from_diffusers(unet)
    except ValueError as error:
        raise UserError(f"the network of {folder} cannot be imported: {error}") from None
    size = unet.config.sample_size
    if size is None:
        raise UserError(f"the network of {folder} has no sample_size, so the size of its images is unknown")
    height, width = (size, size) if isinstance(size, int) else size
    labels = tuple(map(str, range(network.context_size)))
    spec = DataSpec(folder.resolve().name or "imported", network.in_channels, height, width, labels)
    recipe = Recipe(
        "imported",
        FolderData(str(folder)),  # unknown; only training and evaluation need it
        UNetConfig(**network.options),
        schedule=schedule,
        timesteps=scheduler["num_train_timesteps"],
        prediction=prediction,
        labels=bool(labels),
        sampling=sampling,
    )
    check_spec(spec, recipe)
    check_network(recipe)
    table = torch.eye(len(labels)) if labels else None
    config = RunConfig(recipe, spec)
    return Model(network, recipe.make_schedule(), prediction, spec, table, sampling, config=config)


def _scheduler_counterpart(scheduler: Mapping[str, Any]) -> tuple[ScheduleName, Prediction, Sampling]:
    """Our names for a scheduler's configuration. UserError that names what has no counterpart."""

    def refuse(key: str, value: Any, supported: str) -> UserError:
        return UserError(
            f"there is no counterpart for the scheduler's {key} = {str(value)[:60]}; supported: {supported}"
        )

    T, kind = scheduler.get("num_train_timesteps", 1000), scheduler.get("_class_name")
    samplers = {
        "DDPMScheduler": Sampling("ddpm", min(T, 1000)),
        "DDIMScheduler": Sampling("ddim", min(T, 50)),
        "DPMSolverMultistepScheduler": Sampling("dpmpp_2m", min(T, 20)),
    }
    if kind not in samplers:
        raise refuse("class", kind, ", ".join(samplers))
    predictions = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in predictions:
        raise refuse("prediction_type", prediction, ", ".join(predictions))
    if scheduler.get("trained_betas") is not None:
        raise refuse("trained_betas", scheduler["trained_betas"], "none")
    if str(scheduler.get("variance_type")).startswith("learned"):
        raise refuse("variance_type", scheduler["variance_type"], "fixed_small, fixed_large")
    if scheduler.get("clip_sample", True) and scheduler.get("clip_sample_range", 1.0) != 1:
        raise refuse("clip_sample_range", scheduler["clip_sample_range"], "1.0")
    defaults = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "rescale_betas_zero_snr": False}
    found = {key: scheduler.get(key, value) for key, value in defaults.items()}
    for name, options in SCHEDULE_OPTIONS.items():
        wanted = {"rescale_betas_zero_snr": False} | options
        if all(found[key] == value for key, value in wanted.items()):
            return name, predictions[prediction], samplers[kind]
    raise refuse("betas", found, "linear from 0.0001 to 0.02, or squaredcos_cap_v2")


@dataclass(frozen=True)
class _Ours:
    """The content of OURS: the run's configuration, labels of real images, and the times that clock returned."""

    config: RunConfig
    labels: list[list[float]] | None
    times: list[float] | None


def _read_ours(folder: Path) -> _Ours | None:
    """What save_pipeline stored for import; None in a folder that it did not write. UserError if it is damaged."""
    path = folder / OURS
    if not path.exists():
        return None
    try:
        with naming_disk_errors(path, action="read"):
            return TypeAdapter(_Ours).validate_json(path.read_bytes())
    except (ValidationError, UserError) as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:200]}; export the model again") from None


def _read_json(path: Path, kind: str) -> dict[str, Any]:
    """The object in a JSON file. UserError if the file is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path.parent} is not {kind}: it has no {path.name}")
    try:
        with naming_disk_errors(path, action="read"):
            found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object; download it again")
    return found
