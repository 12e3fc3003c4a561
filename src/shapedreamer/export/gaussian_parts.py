"""The parts of a pipeline for a model that predicts ε, x₀ or v: all classes are those of Diffusers.

    scheduler   DPMSolverMultistepScheduler. With the options below it is our ddim (order 1) or dpmpp_2m (order 2), with
                eta 0, or with eta 1 as an SDE; and it clips x̂₀ before it uses it, as this package does
    network     see network_part.py
    pipeline    DDPMPipeline; or for labels, or for patches without a head, DiTPipeline, with this network as its
                transformer
    vae         of DiTPipeline: an AutoencoderDC whose weights make it pixel_shuffle for patch = 2, else the identity

DiTPipeline is the pipeline of Diffusers that takes class labels and guidance. It treats class 1000 as unconditional, so
the network gets 1001 classes, and those without a label are all unconditional.
"""

from typing import Any

import torch
from torch import Tensor

from ..common.errors import UserError, require
from ..common.names import TWO_CALLS, Prediction, ScheduleName
from ..models.model import Model, config_of
from ..models.recipes import Sampling
from .clock import alpha_bar_at, betas_of
from .network_part import export_network, has_classes, id2label, latent_patch, network_class
from .shuffle_vae import pixel_shuffle_vae

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


def check_gaussian(model: Model, sampling: Sampling) -> None:
    """UserError that names what has no counterpart in DPMSolverMultistepScheduler or the pipelines."""
    spec, patch, lacks = model.spec, latent_patch(model), "Diffusers has no counterpart for"
    if patch not in (1, 2):
        raise UserError(f"{lacks} patch={patch} of this network; only 1 and 2 can be exported")
    if has_classes(model) and spec.height != spec.width:
        raise UserError(f"{lacks} images of {spec.height}x{spec.width} with labels or patches: they must be square")
    if sampling.sampler in TWO_CALLS:
        raise UserError(f"{lacks} the sampler {sampling.sampler}; choose another, as in `sampler='ddim'`")
    if sampling.sampler in ("ddim", "dpmpp_2m") and sampling.eta not in (0, 1):
        raise UserError(f"{lacks} eta = {sampling.eta:g}; choose 0 or 1, as in `eta=0`")
    if sampling.sampler == "dpmpp_2m" and model.schedule.alpha_bar[-1] == 0:
        raise UserError(f"{lacks} dpmpp_2m at zero terminal SNR; choose another sampler, as in `sampler='ddim'`")


def gaussian_parts(model: Model, sampling: Sampling, times: Tensor | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a DDPMPipeline or DiTPipeline, and the content of its model_index.json. times: of clock."""
    diffusers, network = require("diffusers", "diffusers"), export_network(model, times)
    parts: dict[str, Any] = {
        "scheduler": diffusers.DPMSolverMultistepScheduler(**_scheduler_options(model, sampling, times))
    }
    index: dict[str, Any] = {"_diffusers_version": diffusers.__version__}
    index["scheduler"] = ["diffusers", "DPMSolverMultistepScheduler"]
    if has_classes(model):
        index |= {"_class_name": "DiTPipeline", "transformer": network_class(model)}
        index |= {"vae": ["diffusers", "AutoencoderDC"], "id2label": id2label(model)}
        parts |= {"transformer": network, "vae": pixel_shuffle_vae(model.spec.channels, latent_patch(model))}
    else:
        index |= {"_class_name": "DDPMPipeline", "unet": network_class(model)}
        parts |= {"unet": network}
    return parts, index


def _scheduler_options(model: Model, sampling: Sampling, times: Tensor | None) -> dict[str, Any]:
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
        options |= SCHEDULE_OPTIONS[config_of(model).recipe.schedule]
    else:
        alpha_bar = alpha_bar_at(model.schedule, times)
        options |= {"num_train_timesteps": len(times), "trained_betas": betas_of(alpha_bar)}
    return options


def gaussian_notes(model: Model, sampling: Sampling) -> list[str]:
    """What a user of a DDPMPipeline or DiTPipeline must know."""
    how = f"{sampling.sampler} with {sampling.steps} network calls" + (
        f", eta {sampling.eta:g}" if sampling.eta else ""
    )
    notes = [
        f"The scheduler is set up as {how}: `num_inference_steps={sampling.steps}` is what the model is meant for."
    ]
    if model.sampling.eta > max(1, sampling.eta):
        notes.append(
            f"The model's own sampler adds more noise in each step (eta {model.sampling.eta:g}), which Diffusers "
            "cannot. Its pictures are more exact: `shapedreamer sample`."
        )
    if sampling.spacing != "even":
        notes.append(
            f"The model visits timesteps that are not evenly spaced ({sampling.spacing}). The timesteps of this "
            "pipeline are numbered so that even spacing visits the right ones, and the network has a table of time "
            "features instead of computing them."
        )
    if has_classes(model):
        notes.append(
            f"The pipeline is a `DiTPipeline` with a `{network_class(model)[1]}` as its transformer and an "
            "`AutoencoderDC` as its "
            "vae. Diffusers logs that it expected other types, which does no harm: all three have the same interface."
        )
    if latent_patch(model) > 1:
        notes.append("The vae has not learnt anything: its weights are set so that decoding is `pixel_shuffle`.")
    return notes
