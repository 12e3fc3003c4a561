"""Export a model as a pipeline folder of Hugging Face Diffusers, which runs without this package; and import one.

    save_pipeline(sd.load("mnist"), "mnist-pipeline")
    pipeline = diffusers.DiffusionPipeline.from_pretrained("mnist-pipeline")
    images = pipeline(class_labels=[7, 7], guidance_scale=1.0, num_inference_steps=24).images
    model = load_pipeline("mnist-pipeline")                    # the model again

This needs `pip install 'shapedreamer[diffusers]'`. Given the same noise, the pipeline's images are those of
`model.sample`. The parts of a folder, each explained in its file:

    gaussian_parts   scheduler, pipeline and vae of a model that predicts ε, x₀ or v: classes of Diffusers
    flow_parts       those of a model with flow prediction, with code for the pipeline in the folder
    network_part     the network: a UNet2DModel, or if it has a head, a class with its code in the folder
    clock            timesteps that are not evenly spaced

Loading a folder with code takes trust_remote_code=True.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from ..common.device import torch_defaults
from ..common.errors import UserError, require
from ..common.files import naming_disk_errors, new_folder, write_atomic
from ..common.values import as_path
from ..models.checkpoint import RunConfig
from ..models.model import Model, config_of
from ..models.options import SampleOptions
from ..models.recipes import Sampling
from ..models.weights import check_network, check_spec, check_tensor
from ..networks.layers import time_features
from ..networks.unet import UNet
from .card import model_card
from .clock import clock
from .diffusers import CLASS_WEIGHT, load_converted
from .flow_parts import FLOW_CLASS, FLOW_PIPELINE, check_flow, flow_notes, flow_parts
from .foreign import import_foreign
from .gaussian_parts import PREDICTION_TYPES, check_gaussian, gaussian_notes, gaussian_parts
from .network_part import (
    HEAD_CLASS,
    NULL_CLASS,
    UNET_CLASS,
    has_classes,
    head_notes,
    network_class,
    read_head_weights,
    read_unet,
)

OURS = "shapedreamer.json"  # what Diffusers has no place for: the run's configuration, and labels of real images


@torch_defaults()
def save_pipeline(model: Model, out: str | Path, options: SampleOptions = SampleOptions(), shipped: str = "") -> None:
    """Write a pipeline folder with a model card; the folder is written completely or not at all.

    options: the sampler, steps and eta of the pipeline; None means the model's own, but an eta of at most 1
    shipped: the name of the model if it is a shipped one, for its card

    UserError if Diffusers has no counterpart for the network, the sampler, the size or the range of the images, if the
    folder exists already or cannot be written, or if the extra `diffusers` is not installed.
    """
    out = as_path("out", out)
    require("diffusers", "diffusers")
    config, sampling = config_of(model), model.resolve_sampling(options)
    if options.eta is None and sampling.eta > 1:
        sampling = replace(sampling, eta=1.0)
    _check_exportable(model, sampling)
    times, is_flow = clock(model, sampling), model.prediction == "flow"
    parts, index = (flow_parts if is_flow else gaussian_parts)(model, sampling, times)
    notes = flow_notes(sampling) if is_flow else gaussian_notes(model, sampling)
    notes += head_notes() if network_class(model) == HEAD_CLASS else []
    labels = None if model.labels is None else model.labels.tolist()
    stored = _Ours(config, labels, None if times is None or is_flow else times.tolist())
    card = model_card(model, "diffusers", _usage(model, sampling), notes, shipped)
    with new_folder(out) as folder:
        for name, part in parts.items():
            part.save_pretrained(folder / name)
        if is_flow:
            write_atomic(folder / "pipeline.py", FLOW_PIPELINE.read_bytes())
        write_atomic(folder / "model_index.json", json.dumps(index, indent=2, ensure_ascii=False).encode())
        write_atomic(folder / OURS, TypeAdapter(_Ours).dump_json(stored))
        write_atomic(folder / "README.md", card.encode())


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
    if (spec.low, spec.high) != (-1, 1):
        raise UserError(f"{lacks} images in [{spec.low:g}, {spec.high:g}]; they must be in [-1, 1]")
    if spec.channels == 2:
        raise UserError(f"{lacks} images with 2 channels")
    if network.context_size > NULL_CLASS:
        raise UserError(f"{lacks} {network.context_size} labels; at most {NULL_CLASS} can be exported")
    if model.prediction == "flow":
        check_flow(sampling)
    else:
        check_gaussian(model, sampling)


def _usage(model: Model, sampling: Sampling) -> str:
    labels = "class_labels=[0, 0, 0, 0], guidance_scale=1.0, " if has_classes(model) else "batch_size=4, "
    has_code = model.prediction == "flow" or network_class(model) == HEAD_CLASS
    trust = ", trust_remote_code=True" if has_code else ""
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


# import


@torch_defaults()
def load_pipeline(folder: str | Path) -> Model:
    """The model of a pipeline folder that save_pipeline wrote, or of a DDPMPipeline or DDIMPipeline with a UNet2DModel.

    Code in the folder is not run. The model always clips x̂₀ to [−1, 1], even if the scheduler has clip_sample = False.
    UserError if the folder is incomplete or damaged, or if this package has no counterpart for something in it; the
    message names it.
    """
    folder = as_path("folder", folder)
    require("diffusers", "diffusers")
    index = _read_json(folder / "model_index.json", "a Diffusers pipeline")
    ours = _read_ours(folder)
    kind = index.get("_class_name")
    is_ours = kind in ("DiTPipeline", FLOW_CLASS) and ours is not None
    if kind not in ("DDPMPipeline", "DDIMPipeline") and not is_ours:
        raise UserError(f"{folder} is a {kind}; only DDPMPipeline and DDIMPipeline with a UNet2DModel can be imported")
    part = "transformer" if kind == "DiTPipeline" else "unet"
    network = index.get(part)
    if network != UNET_CLASS and not (network == HEAD_CLASS and ours is not None):
        raise UserError(f"the {part} of {folder} is {network}; only a UNet2DModel can be imported")
    scheduler = _read_json(folder / "scheduler" / "scheduler_config.json", "a scheduler")
    if ours is None:
        return import_foreign(folder, part, scheduler)
    if network == UNET_CLASS:
        state = read_unet(folder / part).state_dict()
    else:
        _read_json(folder / part / "config.json", "a network")
        state = read_head_weights(folder / part)
    return _import_ours(folder, state, scheduler, ours)


def _import_ours(folder: Path, state: dict[str, Tensor], scheduler: Mapping[str, Any], ours: "_Ours") -> Model:
    """The model of a folder that save_pipeline wrote. state: the weights of its network, in the names of Diffusers."""
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
    network = cast(UNet, recipe.make_network())
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
