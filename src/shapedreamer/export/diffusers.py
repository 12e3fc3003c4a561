"""Weights to and from UNet2DModel of Hugging Face Diffusers: another spelling of the same network.

Names and numbering are all that differs. Diffusers counts times 0…T−1, we count 1…T, and the difference is folded into
the weights here, so that with x' = pixel_unshuffle(x, patch), which is x itself for patch = 1,

    model(x', t − 1).sample == pixel_unshuffle(unet(x, t), patch).
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..common.errors import require
from ..networks.layers import Attention, ResBlock
from ..networks.unet import Block, UNet

if TYPE_CHECKING:
    UNet2DModel = Any  # a type checker sees stand-ins without attributes in diffusers, so its types are of no use

# Options of UNet2DModel for which our UNet has no counterpart, each at the value that means what our UNet does.
FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,  # 4 * block_out_channels[0]
    "freq_shift": 0,
    "flip_sin_to_cos": True,  # cosines first
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "add_attention": True,
    "class_embed_type": None,
}

# Our modules, their modules. In a block's, {i} counts the blocks of one resolution. The fused qkv is three of theirs.
MODULES = {
    "time.linear1": ["time_embedding.linear_1"],
    "time.linear2": ["time_embedding.linear_2"],
    "conv_in": ["conv_in"],
    "norm_out": ["conv_norm_out"],
    "conv_out": ["conv_out"],
}
BLOCK_MODULES = {
    "res.norm1": ["resnets.{i}.norm1"],
    "res.conv1": ["resnets.{i}.conv1"],
    "res.time": ["resnets.{i}.time_emb_proj"],
    "res.norm2": ["resnets.{i}.norm2"],
    "res.conv2": ["resnets.{i}.conv2"],
    "res.skip": ["resnets.{i}.conv_shortcut"],
    "attend.norm": ["attentions.{i}.group_norm"],
    "attend.qkv": ["attentions.{i}.to_q", "attentions.{i}.to_k", "attentions.{i}.to_v"],
    "attend.out": ["attentions.{i}.to_out.0"],
}
TIME_WEIGHT = "time.linear1.weight"
LABEL_WEIGHT, CLASS_WEIGHT = "context.weight", "class_embedding.weight"


def to_diffusers(network: UNet, size: int | tuple[int, int]) -> "UNet2DModel":
    """A UNet2DModel with the weights of `network`, on the same device, of the same dtype and mode (training or not).

    size: height and width (an int: both) of the images, in pixels; Diffusers' pipelines draw images of this size.

    Diffusers has no `patch`: for patch > 1 its network lives on images of in_channels * patch² channels and 1/patch of
    the size. Noise is the same either way, so a pipeline draws such an image, and pixel_shuffle makes it a picture.

    A network that is told labels becomes a model with `class_labels`: 0, 1, … are our labels, one of them at a time,
    and the number after the last is no label.
    Raises ValueError for a size that does not fit the network, or one that is told the time at its bottleneck only;
    UserError where diffusers is not installed.
    """
    diffusers = require("diffusers", "diffusers")
    height, width = (size, size) if isinstance(size, int) else size
    if height % network.divisor or width % network.divisor:
        raise ValueError(f"size {height}x{width} must be divisible by {network.divisor} for this network")
    if network.time_at == "bottleneck":
        raise ValueError("UNet2DModel tells every block the time; it has no counterpart of time_at='bottleneck'")

    sample_size = (height // network.patch, width // network.patch)
    model = diffusers.UNet2DModel(sample_size=sample_size, **_config(network), **FIXED)
    state = network.state_dict()
    state[TIME_WEIGHT] = _shift_time(state[TIME_WEIGHT], by=1)
    weights: dict[str, Tensor] = {}
    if LABEL_WEIGHT in state:
        classes = state.pop(LABEL_WEIGHT).T
        weights[CLASS_WEIGHT] = torch.cat([classes, torch.zeros_like(classes[:1])])
    for ours, theirs in _parameters(network):
        pieces = state[ours].chunk(len(theirs))
        weights |= {name: piece.clone() for name, piece in zip(theirs, pieces, strict=True)}
    model.load_state_dict(weights, assign=True)  # assigned, not copied into float32 on the CPU
    return model.train(network.training)


def from_diffusers(model: "UNet2DModel", patch: int = 1) -> UNet:
    """A UNet with the weights of `model`, on the same device, of the same dtype and mode (training or not).

    patch: the patch of the network that to_diffusers made `model` from; it cannot be read off a UNet2DModel.

    Raises ValueError for a model that does what our UNet cannot; the message names the key of its config.
    """
    state = model.state_dict()
    classes = state.pop(CLASS_WEIGHT, None)
    if classes is not None and not classes[-1].any():
        classes = classes[:-1]  # the class that adds nothing to the time is no label
    network = UNet(**_options(model.config, patch), context=0 if classes is None else len(classes))
    parameters = dict(_parameters(network))
    unknown = state.keys() - {name for theirs in parameters.values() for name in theirs}
    if unknown:
        raise ValueError(f"the model has weights that a UNet has no place for: {sorted(unknown)}")

    weights = {ours: torch.cat([state[name] for name in theirs]) for ours, theirs in parameters.items()}
    weights[TIME_WEIGHT] = _shift_time(weights[TIME_WEIGHT], by=-1)
    if classes is not None:
        weights[LABEL_WEIGHT] = classes.T.clone()
    network.load_state_dict(weights, assign=True)
    return network.train(model.training)


def _shift_time(weight: Tensor, by: int) -> Tensor:
    """The weight W' of the time embedding's first layer for which W' f(t) = W f(t + by), f the sinusoidal features.

    weight is (out, dim). Features are cosines, then sines, of the angles t ω, and later means further round the circle:
        cos((t + by) ω) = cos tω cos(by ω) − sin tω sin(by ω)
        sin((t + by) ω) = cos tω sin(by ω) + sin tω cos(by ω)
    """
    half = weight.shape[1] // 2
    angle = by * torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    w_cos, w_sin = weight.cpu().double().chunk(2, dim=1)  # Apple's GPU has no float64
    turned = [w_cos * angle.cos() + w_sin * angle.sin(), w_sin * angle.cos() - w_cos * angle.sin()]
    return torch.cat(turned, dim=1).to(weight)


def _parameters(network: UNet) -> Iterator[tuple[str, list[str]]]:
    """(our name, their names) of every parameter: one name, or three that stacked along dimension 0 make ours."""
    modules = dict(MODULES)

    def add_block(ours: str, stage: str, i: int) -> None:
        for module, theirs in BLOCK_MODULES.items():
            modules[f"{ours}.{module}"] = [f"{stage}.{name.format(i=i)}" for name in theirs]

    for side, parts in {"down": network.down, "up": network.up}.items():
        stage = i = 0
        for n, part in enumerate(parts):
            if isinstance(part, Block):
                add_block(f"{side}.{n}", f"{side}_blocks.{stage}", i)
                i += 1
            else:
                modules[f"{side}.{n}.conv"] = [f"{side}_blocks.{stage}.{side}samplers.0.conv"]
                stage, i = stage + 1, 0
    for i in range(len(network.middle)):
        add_block(f"middle.{i}", "mid_block", i)

    for parameter in network.state_dict():
        if parameter == LABEL_WEIGHT:
            continue  # as a table of classes it lies on its side
        module, _, kind = parameter.rpartition(".")  # kind: weight or bias
        yield parameter, [f"{name}.{kind}" for name in modules[module]]


def _config(network: UNet) -> dict[str, Any]:
    """The options of UNet2DModel that say what `network` is."""
    levels: list[list[Block]] = [[]]
    for part in network.down:
        if isinstance(part, Block):
            levels[-1].append(part)
        else:
            levels.append([])
    attends = [isinstance(level[0].attend, Attention) for level in levels]
    res = next(module for module in network.modules() if isinstance(module, ResBlock))
    attention = next(module for module in network.modules() if isinstance(module, Attention))
    return {
        "in_channels": network.conv_in.in_channels,
        "out_channels": network.conv_out.out_channels,
        "block_out_channels": tuple(level[0].res.conv1.out_channels for level in levels),
        "layers_per_block": len(levels[0]),
        "down_block_types": _block_types("Down", attends),
        "up_block_types": _block_types("Up", attends[::-1]),
        "attention_head_dim": attention.out.in_features // attention.heads,
        "norm_num_groups": res.norm1.num_groups,
        "attn_norm_num_groups": res.norm1.num_groups,  # if None, the middle attention has no norm under scale_shift
        "resnet_time_scale_shift": "scale_shift" if res.scale_shift else "default",
        "dropout": res.dropout.p,
        "num_class_embeds": network.context_size + 1 if network.context_size else None,
    }


def _options(config: Mapping[str, Any], patch: int) -> dict[str, Any]:
    """The arguments of UNet that say what a UNet2DModel of this config is; ValueError if none can."""
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}  # from JSON
    in_channels, groups = config["in_channels"], config["norm_num_groups"]
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    attends = [name.startswith("Attn") for name in config["down_block_types"]]
    supported = {key: [value] for key, value in FIXED.items()} | {
        "out_channels": [in_channels],
        "attn_norm_num_groups": [groups] if scale_shift else [groups, None],
        "down_block_types": [_block_types("Down", attends)],
        "up_block_types": [_block_types("Up", attends[::-1])],
    }
    for key, values in supported.items():
        if config[key] not in values:
            raise ValueError(
                f"UNet has no counterpart of {key}={config[key]!r}; it must be {' or '.join(map(repr, values))}"
            )
    if config["attention_head_dim"] is None:
        raise ValueError("UNet has no counterpart of attention_head_dim=None (one head); it must be a number")
    if in_channels % patch**2:
        raise ValueError(f"in_channels={in_channels} are not patches of {patch}x{patch} pixels")
    return {
        "in_channels": in_channels // patch**2,
        "channels": config["block_out_channels"],
        "blocks": config["layers_per_block"],
        "attention": [level for level, attend in enumerate(attends) if attend],
        "head_dim": config["attention_head_dim"],
        "groups": groups,
        "scale_shift": scale_shift,
        "dropout": config["dropout"],
        "patch": patch,
    }


def _block_types(side: str, attends: list[bool]) -> tuple[str, ...]:
    return tuple(f"Attn{side}Block2D" if attend else f"{side}Block2D" for attend in attends)
