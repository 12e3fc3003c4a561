"""How to sample: one set of options for Python, the command line, comparisons, exploration and the live page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..common.names import SamplerName
from ..data.spec import Label

if TYPE_CHECKING:
    from torch import Tensor

    Labels = Label | Tensor
else:  # the command line reads this file, and its help must not wait for torch
    Labels = Label

MODEL_DEFAULT = "(default: the model's own)"


@dataclass(frozen=True)
class SampleOptions:
    """How to turn noise into images. None means the model's default; see Recipe.sampling.

    In Python, `steps` may also be a list of timesteps that falls to 0, and `label` may be anything that DataSpec.vector
    accepts, or a tensor (num, L) with a vector for each image.

    Args:
        sampler: How to get from noise to image.
        steps: Number of network calls.
        eta: Noise that ddim and dpmpp_2m add at each step, 0 to 1.
        seed: The same seed gives the same images.
        label: Class label: a name or number (boot, 7), or names with amounts (circle=2,line=1; human=1,food=0.6). "any"
            draws a label from the data for each image; "none" samples unconditionally.
        guidance: Classifier-free guidance scale: 1 = conditional, 0 = unconditional, above 1 strengthens the label.
    """

    sampler: Annotated[
        SamplerName | None, arg(metavar="{ddpm,ddim,heun,dpmpp_2m}", help_behavior_hint=MODEL_DEFAULT)
    ] = None
    steps: Annotated[
        int | Sequence[int] | None, arg(constructor=int, metavar="INT", help_behavior_hint=MODEL_DEFAULT)
    ] = None
    eta: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=MODEL_DEFAULT)] = None
    seed: int = 0
    label: Annotated[Labels | None, arg(constructor=str, metavar="LABEL", help_behavior_hint="(default: any)")] = "any"
    guidance: float = 1.0
