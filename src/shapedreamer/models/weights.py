"""Check a checkpoint's weights against its recipe, and build the network from them.

A digest shows that a file has not changed since it was written, not that it was written by this package. So everything
is compared with the recipe on torch's meta device, which holds shapes and no numbers, before memory is allocated.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..common.device import torch_defaults
from ..common.errors import UserError
from ..common.names import Which
from ..data.spec import DataSpec
from .limits import MAX_LABELS, MAX_PARAMETERS, MAX_SIDE
from .recipes import DiTConfig, Recipe, check_patch

if TYPE_CHECKING:
    from ..networks.context_unet import ContextUnet
    from ..networks.dit import DiT
    from ..networks.unet import UNet
    from .checkpoint import Checkpoint


@torch_defaults()
def check_network(recipe: Recipe) -> "UNet | ContextUnet | DiT":
    """The network of a recipe on the meta device. UserError for contradictory settings, or if it is too large."""
    try:
        recipe.network_class  # noqa: B018  import it first: its module has tensors, which must not be on "meta"
        with torch.device("meta"):
            network = recipe.make_network()
    except ValueError as error:  # such as channels that the groups do not divide
        raise UserError(f"the network of the recipe cannot be built: {error}") from None
    size = sum(parameter.numel() for parameter in network.parameters())
    if size > MAX_PARAMETERS:
        raise UserError(f"the network of the recipe has {size} parameters; at most {MAX_PARAMETERS} are supported")
    return network


def check_spec(spec: DataSpec, recipe: Recipe) -> None:
    """UserError unless the images and labels of a run are possible, and those that its network takes."""
    sides = {
        "channels": (spec.channels, 1, 4),
        "height": (spec.height, 1, MAX_SIDE),
        "width": (spec.width, 1, MAX_SIDE),
    }
    for name, (value, low, high) in sides.items():
        if not low <= value <= high:
            raise UserError(f"the {name} of the images must be between {low} and {high}, not {value}")
    if not -1e6 < spec.low < spec.high < 1e6:
        raise UserError(f"the range of the images, {spec.low:g} to {spec.high:g}, is not a range")
    if len(spec.labels) > MAX_LABELS or len(set(spec.labels)) < len(spec.labels):
        raise UserError(f"the labels of the images must be different, and at most {MAX_LABELS}")
    if recipe.network.in_channels != spec.channels:
        raise UserError(f"the network takes {recipe.network.in_channels} channels, but the images have {spec.channels}")


@torch_defaults()
def network_with_weights(checkpoint: "Checkpoint", which: Which) -> nn.Module:
    """The network of a checkpoint on the CPU, with averaged ("ema") or raw weights. torch's random state is not used.

    UserError if the checkpoint's recipe, images, labels and weights do not belong together.
    """
    recipe, spec = checkpoint.config.recipe, checkpoint.config.data
    check_spec(spec, recipe)
    network = check_network(recipe)
    if spec.height % network.divisor or spec.width % network.divisor:
        raise UserError(f"images of {spec.height}x{spec.width} do not fit the network of the checkpoint")
    if isinstance(recipe.network, DiTConfig):
        check_patch(recipe.network, spec)
    if checkpoint.labels is not None:  # a network that takes labels can also be used without them
        context, shape = recipe.network.context, tuple(checkpoint.labels.shape)
        if len(spec.labels) != context:
            raise UserError(f"the network takes {context} labels, but the images have {len(spec.labels)}")
        check_tensor("the table of labels", checkpoint.labels, (max(1, *shape[:1]), context))
    network.to_empty(device="cpu")
    load_state(network, checkpoint.ema if which == "ema" else checkpoint.network, f"{which} weights")
    return network


def load_state(network: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load a state into a network. UserError unless its keys and shapes are the network's and its values are finite."""
    if not isinstance(state, Mapping):
        raise UserError(f"the {name} are damaged: they are not a table of tensors")
    for key, value in state.items():
        check_tensor(f"{name} {key}", value)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # lists everything that is missing, unknown or of another shape
        faults = " ".join(" ".join(str(error).split()[6:])[:200].split())
        raise UserError(f"the {name} do not fit the network of the recipe: {faults}") from None


def check_tensor(name: str, value: object, shape: tuple[int, ...] | None = None) -> None:
    """UserError unless a stored value is an ordinary tensor of finite floats, and of this shape if one is given."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or not value.is_floating_point():
        raise UserError(f"{name} is damaged: it is not a tensor of floats")
    if shape is not None and tuple(value.shape) != shape:
        raise UserError(f"{name} has shape {tuple(value.shape)}, but the recipe needs {shape}")
    if not torch.isfinite(value).all():
        raise UserError(f"{name} has values that are not finite; use another checkpoint")
