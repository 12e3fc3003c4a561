"""Import a DDPMPipeline or DDIMPipeline of Diffusers that this package did not write."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..common.errors import UserError
from ..common.names import Prediction, ScheduleName
from ..data.spec import DataSpec
from ..models.checkpoint import RunConfig
from ..models.model import Model
from ..models.recipes import FolderData, Recipe, Sampling, UNetConfig
from ..models.weights import check_network, check_spec
from .diffusers import from_diffusers
from .gaussian_parts import PREDICTION_TYPES, SCHEDULE_OPTIONS
from .network_part import read_unet


def import_foreign(folder: Path, part: str, scheduler: Mapping[str, Any]) -> Model:
    """The model of a pipeline folder with a UNet2DModel as the part `part` and a scheduler with this config.

    UserError if this package has no counterpart for something in it; the message names it.
    """
    unet = read_unet(folder / part)
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
