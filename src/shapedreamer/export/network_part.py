"""The network of a pipeline folder: a UNet as a UNet2DModel of Diffusers, or with a head, as a PixelHeadUNet.

A UNet2DModel has no head. So the folder of a network with a head contains its own class, a copy of pixel_head_unet.py,
and loading it takes trust_remote_code=True. This class also does the patches: it takes images of the full size.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..common.errors import UserError, require
from ..common.files import naming_disk_errors, write_atomic
from ..models.model import Model
from ..networks.layers import time_features
from ..networks.unet import UNet
from .diffusers import CLASS_WEIGHT, HEAD, trunk_to_diffusers

if TYPE_CHECKING:
    UNet2DModel = Any

NULL_CLASS = 1000  # of DiTPipeline: the class that means unconditional
HEAD_CODE = Path(__file__).with_name("pixel_head_unet.py")
# module and class, as model_index.json names them
UNET_CLASS = ["diffusers", "UNet2DModel"]
HEAD_CLASS = ["pixel_head_unet", "PixelHeadUNet"]
TRUNK = "unet."  # how the names of the weights begin that a PixelHeadUNet has in its UNet2DModel
WEIGHTS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class HeadNetwork:
    """A PixelHeadUNet: the arguments of the class and its weights."""

    config: dict[str, Any]
    state: dict[str, Tensor]

    def save_pretrained(self, folder: Path) -> None:
        """Write what the class would write, and the file of the class."""
        version = require("diffusers", "diffusers").__version__
        config = {"_class_name": HEAD_CLASS[1], "_diffusers_version": version} | self.config
        write_atomic(folder / "config.json", json.dumps(config, indent=2).encode())
        write_atomic(folder / WEIGHTS, safetensors.torch.save(self.state, {"format": "pt"}))
        write_atomic(folder / HEAD_CODE.name, HEAD_CODE.read_bytes())


def network_class(model: Model) -> list[str]:
    """Module and class of the exported network."""
    return UNET_CLASS if cast(UNet, model.network).head is None else HEAD_CLASS


def has_classes(model: Model) -> bool:
    """Whether the exported network has classes: for labels, and in a DiTPipeline also for patches."""
    network = cast(UNet, model.network)
    return network.context_size > 0 or (latent_patch(model) > 1 and model.prediction != "flow")


def latent_patch(model: Model) -> int:
    """The patch by which the pipeline folds images for the network; a network with a head does that itself."""
    network = cast(UNet, model.network)
    return network.patch if network.head is None else 1


def id2label(model: Model) -> dict[str, str]:
    """The names of the classes; Diffusers splits them at commas."""
    names = model.spec.labels[: cast(UNet, model.network).context_size] or ("unconditional",)
    return {str(i): name.replace(",", " ") for i, name in enumerate(names)}


def export_network(model: Model, times: Tensor | None = None, shift_time: bool = True) -> "UNet2DModel | HeadNetwork":
    """The network as a part of a pipeline, with NULL_CLASS + 1 classes if it has any.

    times:      our timesteps that timesteps 0, 1, … stand for: the part gets a table of their features
    shift_time: whether its timesteps are 0…T−1, as in Diffusers, instead of our 1…T
    """
    network, spec = cast(UNet, model.network), model.spec
    trunk = trunk_to_diffusers(network, (spec.height, spec.width))
    height, width = (side // latent_patch(model) for side in (spec.height, spec.width))
    size = height if height == width else (height, width)  # DiTPipeline needs an int
    state: dict[str, Tensor] = trunk.state_dict()
    changes: dict[str, Any] = {"sample_size": size}
    if has_classes(model):
        classes = torch.zeros(NULL_CLASS + 1, network.time.linear2.out_features)
        if network.context is not None:
            classes[: network.context_size] = network.context.weight.T
        state[CLASS_WEIGHT] = classes
        changes["num_class_embeds"] = len(classes)
    if times is not None:
        state["time_proj.weight"] = time_features(times, network.time.dim)
        changes |= {"time_embedding_type": "learned", "num_train_timesteps": len(times)}
    if times is not None or not shift_time:
        state["time_embedding.linear_1.weight"] = network.time.linear1.weight
    config = {key: value for key, value in trunk.config.items() if not key.startswith("_")} | changes
    if network.head is not None:
        return _with_head(network, config, state)
    exported = type(trunk)(**config)
    exported.load_state_dict(_as_stored(state))
    return exported.eval()


def _with_head(network: UNet, config: dict[str, Any], state: dict[str, Tensor]) -> HeadNetwork:
    """The PixelHeadUNet whose UNet2DModel has this config and these weights."""
    head = {name: value for name, value in network.state_dict().items() if name.startswith(HEAD)}
    options = {
        "sample_size": config["sample_size"],
        "in_channels": network.in_channels,
        "out_channels": network.in_channels,
        "num_class_embeds": config["num_class_embeds"],
        "patch": network.patch,
        "head_channels": network.options["head"],
        "unet_config": config,
    }
    return HeadNetwork(options, _as_stored({TRUNK + name: value for name, value in state.items()} | head))


def _as_stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().float().contiguous() for name, value in state.items()}


def head_notes() -> list[str]:
    """What a user of a pipeline with a PixelHeadUNet must know."""
    return [
        "This network has a head at full resolution, which no network of Diffusers has. So the folder contains its own "
        f"class, `{HEAD_CODE.name}`, and loading it takes `trust_remote_code=True`; read the file first, as with any "
        "code that you download. Diffusers logs that it expected another type, which does no harm."
    ]


# import


def read_unet(folder: Path) -> "UNet2DModel":
    """The UNet2DModel in a folder. UserError if it is incomplete or damaged."""
    diffusers = require("diffusers", "diffusers")
    try:
        return diffusers.UNet2DModel.from_pretrained(folder, low_cpu_mem_usage=False, local_files_only=True)
    except Exception as error:  # of many libraries: a missing file, JSON or weights that are damaged
        raise _damaged(folder, error) from None


def read_head_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a PixelHeadUNet, as load_converted takes them. UserError if they are missing or damaged."""
    path = folder / WEIGHTS
    try:
        with naming_disk_errors(path, action="read"):
            state = safetensors.torch.load_file(path)
    except (SafetensorError, UserError) as error:
        raise _damaged(folder, error) from None
    return {name.removeprefix(TRUNK): value for name, value in state.items()}


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder} is incomplete or damaged: {str(error)[:200]}; download it again")
