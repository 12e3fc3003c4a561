"""The parts of a pipeline for a model with flow prediction.

The pipelines of Diffusers for FlowMatchEulerDiscreteScheduler call the network with z = (1−τ) x₀ + τ ε, and ours takes
x_t = z/√((1−τ)² + τ²). So the folder contains its own pipeline, a copy of flow_pipeline.py, and loading it takes
trust_remote_code=True. It has our timesteps and their τ in a table.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UserError, require
from ..models.model import Model
from ..models.recipes import Sampling
from .network_part import export_network, has_classes, id2label, latent_patch, network_class

FLOW_PIPELINE = Path(__file__).with_name("flow_pipeline.py")
FLOW_CLASS = ["pipeline", "FlowPipeline"]  # module and class, as model_index.json names it


def check_flow(sampling: Sampling) -> None:
    """UserError unless the sampler is Euler's method on the line, as in FlowMatchEulerDiscreteScheduler."""
    if sampling.sampler != "ddim" or sampling.eta != 0:
        raise UserError(
            f"Diffusers has no counterpart for {sampling.sampler} with eta = {sampling.eta:g} on a model with flow "
            "prediction; choose `sampler='ddim'` and `eta=0`"
        )


def flow_parts(model: Model, sampling: Sampling, times: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a FlowPipeline, and the content of its model_index.json. times: as clock returns them."""
    diffusers, T = require("diffusers", "diffusers"), model.schedule.T
    times = torch.arange(1, T + 1, dtype=torch.float64) if times is None else times
    tau = np.interp(times.numpy(), np.arange(T + 1), model.schedule.tau.numpy())
    # shift=1: if the schedule has a shift, τ includes it
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=len(times), shift=1.0)
    index = {
        "_diffusers_version": diffusers.__version__,
        "_class_name": FLOW_CLASS,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "unet": network_class(model),
        "timesteps": times.tolist(),
        "sigmas": tau.tolist(),
        "steps": sampling.steps,
        "patch": latent_patch(model),
        "id2label": id2label(model) if has_classes(model) else None,
    }
    return {"scheduler": scheduler, "unet": export_network(model, shift_time=False)}, index


def flow_notes(sampling: Sampling) -> list[str]:
    """What a user of a FlowPipeline must know."""
    return [
        f"The scheduler makes Euler steps on the line from noise to image: `num_inference_steps={sampling.steps}` is "
        "the default, and what the model is meant for.",
        "This network predicts the velocity of flow matching, but takes images scaled to variance 1, and no pipeline "
        "of Diffusers scales them. So the folder contains its own pipeline, `pipeline.py`, and loading it takes "
        "`trust_remote_code=True`; read the file first, as with any code that you download.",
    ]
