"""How to sample: one set of options for Python, the command line, comparisons, exploration and the live page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args

from tyro.conf import arg

from ..common.errors import UserError
from ..common.names import TIMESTEPS, AnySamplerName
from ..common.values import as_bool, as_choice, as_float, as_int, as_ints, as_path, as_text, shown
from ..data.spec import Label

if TYPE_CHECKING:
    from torch import Tensor

    from .model import Model

    Labels = Label | Tensor
    Guide: TypeAlias = Model | str | Path
else:  # the command line reads this file, and its help must not wait for torch
    Labels = Label
    Guide = Path

MAX_LABEL = 1000  # characters; the longest useful label names every entry of a label vector
MODEL_DEFAULT = "(default: the model's own)"


@dataclass(frozen=True)
class SampleOptions:
    """How to turn noise into images. None means the model's default; see Recipe.sampling.

    In Python, `steps` may also be a list of timesteps that falls to 0, `label` may be anything that DataSpec.vector
    accepts, or a tensor (num, L) with a vector for each image, and `guide_with` may be a Model. Numbers may come from
    numpy or torch; the fields then hold plain Python values. UserError for a value of another type; the model checks
    the ranges.

    Args:
        sampler: How to get from noise to image. The samplers named masked_ are for models of the masked process.
        steps: Number of network calls.
        eta: Noise that ddim and dpmpp_2m add at each step, 0 to 2; 1 is as much as ddpm. masked_ancestral hides pixels
            again instead, 0 to 1.
        seed: The same seed gives the same images.
        label: Class label: a name or number (boot, 7), or names with amounts (circle=2,line=1; human=1,food=0.6). "any"
            draws a label from the data for each image; "none" samples unconditionally.
        guidance: Classifier-free guidance scale: 1 = conditional, 0 = unconditional, above 1 strengthens the label.
        guidance_interval: Guide only where the log-SNR, log(ᾱ/(1−ᾱ)), is between these bounds: low is noisy, high is
            clean, and at 0 image and noise are equally strong.
        guide_with: Autoguidance: guide away from this weaker model (a run, a checkpoint, or a shipped model) instead of
            from the unconditional prediction. Choose a guidance above 1.
        cfg_pp: CFG++: guide the prediction of the image, but not that of the noise. For ddim with eta 0, and a guidance
            from 0 to 1.
    """

    sampler: Annotated[
        AnySamplerName | None,
        arg(
            metavar="{ddpm,ddim,heun,dpmpp_2m,midpoint,heun_line,masked_ancestral,masked_random,masked_confidence}",
            help_behavior_hint=MODEL_DEFAULT,
        ),
    ] = None
    steps: Annotated[
        int | Sequence[int] | None, arg(constructor=int, metavar="INT", help_behavior_hint=MODEL_DEFAULT)
    ] = None
    eta: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=MODEL_DEFAULT)] = None
    seed: int = 0
    label: Annotated[Labels | None, arg(constructor=str, metavar="LABEL", help_behavior_hint="(default: any)")] = "any"
    guidance: float = 1.0
    guidance_interval: Annotated[
        tuple[float, float] | None, arg(metavar="LOW HIGH", help_behavior_hint="(default: everywhere)")
    ] = None
    guide_with: Annotated[Guide | None, arg(metavar="MODEL", help_behavior_hint="(default: none)")] = None
    cfg_pp: bool = False

    def __post_init__(self) -> None:
        steps: Any = self.steps
        if hasattr(steps, "__len__") and not isinstance(steps, str) and _dimensions(steps) != 0:
            high = max(high for _, high in TIMESTEPS.values())
            steps = as_ints("steps", steps, 0, high, high + 1)
        elif steps is not None:
            steps = as_int("steps", steps)
        values = {
            "sampler": None if self.sampler is None else as_choice("sampler", self.sampler, get_args(AnySamplerName)),
            "steps": steps,
            "eta": None if self.eta is None else as_float("eta", self.eta, finite=False),
            "seed": as_int("seed", self.seed),
            "label": _label(self.label),
            "guidance": as_float("guidance", self.guidance),
            "guidance_interval": None if self.guidance_interval is None else _interval(self.guidance_interval),
            "guide_with": self.guide_with,
            "cfg_pp": as_bool("cfg_pp", self.cfg_pp),
        }
        if isinstance(self.guide_with, (str, PathLike)) or not hasattr(self.guide_with, "denoiser_for"):
            values["guide_with"] = None if self.guide_with is None else as_path("guide_with", self.guide_with)
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the class is frozen


def _dimensions(value: Any) -> int | None:
    """The number of dimensions of an array or a tensor; None for anything else."""
    return getattr(value, "ndim", None)


def _interval(bounds: Any) -> tuple[float, float]:
    """Two values of log-SNR, which may be infinite. UserError unless the first is below the second."""
    if isinstance(bounds, (str, bytes)) or not hasattr(bounds, "__len__") or len(bounds) != 2:
        raise UserError(f"`guidance_interval` must be two values of log-SNR, such as -3 3, not {shown(bounds)}")
    low, high = (as_float(f"guidance_interval[{i}]", bound, finite=False) for i, bound in enumerate(bounds))
    if not low < high:
        advice = f"did you mean {high:g} {low:g}?" if low > high else "the lower log-SNR comes first, such as -3 3"
        raise UserError(f"`guidance_interval` {low:g} {high:g} is empty: {advice}")
    return low, high


def _label(label: Any) -> Any:
    """A label with plain names and numbers; a tensor of label vectors stays as it is."""
    if label is None:
        return None
    if isinstance(label, str):
        return as_text("label", label, MAX_LABEL)
    if isinstance(label, Mapping):
        return {
            as_text("the name of a label", name, MAX_LABEL): as_float(f"label {shown(name)}", amount)
            for name, amount in label.items()
        }
    dimensions = _dimensions(label)
    if dimensions == 2 and hasattr(label, "new_zeros"):  # a tensor; torch itself is not imported here
        return label
    if dimensions == 1 or (dimensions is None and isinstance(label, Sequence) and not isinstance(label, bytes)):
        return tuple(as_float(f"label[{i}]", amount) for i, amount in enumerate(label))
    if dimensions:
        raise UserError(f"labels for several images must be a tensor (num, L), not {shown(label)}")
    return as_int("label", label, 0, 10**9)
