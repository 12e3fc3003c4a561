"""How to sample: one set of options for Python, the command line, comparisons, exploration and the live page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

from tyro.conf import arg

from ..common.errors import UserError
from ..common.names import TIMESTEPS, AnySamplerName
from ..common.values import as_choice, as_float, as_int, as_ints, as_text, shown
from ..data.spec import Label

if TYPE_CHECKING:
    from torch import Tensor

    Labels = Label | Tensor
else:  # the command line reads this file, and its help must not wait for torch
    Labels = Label

MAX_LABEL = 1000  # characters; the longest useful label names every entry of a label vector
MODEL_DEFAULT = "(default: the model's own)"


@dataclass(frozen=True)
class SampleOptions:
    """How to turn noise into images. None means the model's default; see Recipe.sampling.

    In Python, `steps` may also be a list of timesteps that falls to 0, and `label` may be anything that DataSpec.vector
    accepts, or a tensor (num, L) with a vector for each image. Numbers may come from numpy or torch; the fields then
    hold plain Python values. UserError for a value of another type; the model checks the ranges.

    Args:
        sampler: How to get from noise to image. The samplers named masked_ are for models of the masked process.
        steps: Number of network calls.
        eta: Noise that ddim and dpmpp_2m add at each step, 0 to 1; masked_ancestral hides pixels again instead.
        seed: The same seed gives the same images.
        label: Class label: a name or number (boot, 7), or names with amounts (circle=2,line=1; human=1,food=0.6). "any"
            draws a label from the data for each image; "none" samples unconditionally.
        guidance: Classifier-free guidance scale: 1 = conditional, 0 = unconditional, above 1 strengthens the label.
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
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the class is frozen


def _dimensions(value: Any) -> int | None:
    """The number of dimensions of an array or a tensor; None for anything else."""
    return getattr(value, "ndim", None)


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
