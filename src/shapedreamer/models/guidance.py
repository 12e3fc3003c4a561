"""How a model combines its guidance options (see SampleOptions), and which combinations do not work."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.errors import UserError
from ..diffusion.denoiser import Denoise, cfg_pp_scale, guided, interval_scale
from ..diffusion.samplers import Steps
from ..diffusion.schedule import Schedule
from .options import SampleOptions
from .recipes import Sampling

if TYPE_CHECKING:
    from .model import Model


def combine(
    conditional: Denoise,
    base: Denoise,
    guidance: float,
    interval: tuple[float, float] | None,
    cfg_pp: Steps | None,
    clip: Callable[[Denoise], Denoise],
    schedule: Schedule,
) -> Denoise:
    """The guided and clipped denoiser.

    base:     what guidance leads away from: the unconditional prediction, or that of a weaker model
    interval: of log-SNR, where guidance acts; None for everywhere. UserError if no timestep is inside
    cfg_pp:   for CFG++: the timesteps that ddim visits. The guided and the unconditional x̂₀ are clipped. The result
              itself may lie far outside the range, except in the last step
    clip:     clips a denoiser to the range of the data
    """
    scale = guidance if interval is None else _within(interval, guidance, schedule)
    if cfg_pp is None:
        return clip(guided(conditional, base, scale))
    assert isinstance(cfg_pp, Sequence)  # only heun chooses its own timesteps
    w = cfg_pp_scale(cfg_pp, schedule)
    base = _once(base)  # which both need
    x0 = clip(guided(conditional, base, scale))
    return guided(x0, clip(base), w if interval is None else _within(interval, w, schedule))


def _within(interval: tuple[float, float], scale: float | Tensor, schedule: Schedule) -> Tensor:
    low, high = interval
    log_snr = schedule.log_snr[1:]
    if not ((log_snr >= low) & (log_snr <= high)).any():
        raise UserError(
            f"`guidance_interval` {low:g} {high:g} contains no timestep: the log-SNR of this model goes from "
            f"{log_snr[-1]:.3g} (at t = T) to {log_snr[0]:.3g} (at t = 1)"
        )
    return interval_scale(scale, low, high, schedule)


def _once(denoise: Denoise) -> Denoise:
    """The denoiser, which answers a second call with the same tensors from memory."""
    last: list[Tensor] = []

    def remembered(x_t: Tensor, t: Tensor) -> Tensor:
        if not last or last[0] is not x_t or last[1] is not t:
            last[:] = [x_t, t, denoise(x_t, t)]
        return last[2]

    return remembered


def check_cfg_pp(options: SampleOptions, sampling: Sampling, label: Tensor | None) -> None:
    """UserError if CFG++ does not work with the other options."""
    if sampling.sampler != "ddim" or sampling.eta:
        raise UserError(
            f"CFG++ is a change of ddim with eta 0, but this is {sampling.sampler} with eta {sampling.eta:g}; "
            "sample with ddim and eta 0, or leave out `cfg_pp`"
        )
    if options.guide_with is not None:
        raise UserError("CFG++ guides away from the unconditional prediction; leave out `guide_with` or `cfg_pp`")
    if label is None:
        raise UserError("CFG++ needs a label; leave out `cfg_pp` or add `label`")
    if not 0 <= options.guidance <= 1:
        raise UserError(f"with CFG++, `guidance` must be between 0 and 1, not {options.guidance:g}")


def check_guide(model: "Model", weak: "Model") -> None:
    """UserError, which names the differences, unless `weak` suits `model` for autoguidance."""
    differences = [
        f"{name} {theirs}, not {ours}"
        for (name, ours), theirs in zip(_interface(model).items(), _interface(weak).values(), strict=True)
        if theirs != ours
    ]
    ours, theirs = model.schedule.alpha_bar, weak.schedule.alpha_bar
    if len(ours) == len(theirs) and not torch.allclose(ours, theirs, rtol=0, atol=1e-6):
        differences.append("another noise schedule")
    if differences:
        raise UserError(
            "`guide_with` needs a model with the same images, labels and noise schedule; that one has "
            + "; ".join(differences)
        )


def _interface(model: "Model") -> dict[str, str]:
    """What two models must share, except for the schedule, so that one can guide the other."""
    spec = model.spec
    return {
        "images of": f"{spec.height}x{spec.width}x{spec.channels}",
        "values in": f"[{spec.low:g}, {spec.high:g}]",
        "the labels": "none" if model.labels is None else ", ".join(spec.labels),
        "T =": f"{model.schedule.T}",
        "the device": str(model.device),
    }
