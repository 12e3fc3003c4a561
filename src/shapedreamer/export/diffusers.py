"""Convert a UNet to UNet2DModel of Hugging Face Diffusers, and back.

    model = to_diffusers(sd.load("digits").network, size=28)    # a UNet2DModel
    model.save_pretrained("digits-diffusers")
    network = from_diffusers(model, patch=4)                    # the UNet again

This needs `pip install 'shapedreamer[diffusers]'`. Both classes are the same network, but the parameters have other
names and the timesteps other numbers: Diffusers counts 0…T−1, this package counts 1…T. The conversion folds this shift
into the weights of the time embedding. With x' = pixel_unshuffle(x, patch), which is x for patch = 1,

    model(x', t − 1).sample == pixel_unshuffle(network(x, t), patch).
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
    UNet2DModel = Any  # type checkers see only placeholders without attributes in diffusers

# Options of UNet2DModel that our UNet lacks, with the values at which both networks compute the same function.
FIXED_OPTIONS: dict[str, Any] = {
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

# Our module names -> theirs. {i} numbers the blocks of one resolution. Our fused qkv is three of their modules.
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
HEAD = "head."  # how the names of the head's weights begin, which Diffusers has no names for


def to_diffusers(network: UNet, size: int | tuple[int, int]) -> "UNet2DModel":
    """Return a UNet2DModel with the weights of `network`, on the same device, with the same dtype and training mode.

    size: (height, width) of the images in pixels, or an int for square ones; Diffusers' pipelines generate this size.

    Diffusers has no `patch`. For patch > 1 the model works on pixel-unshuffled images, with in_channels · patch²
    channels and 1/patch of the height and width. Unshuffled noise is noise too, so a pipeline generates such an image,
    and pixel_shuffle turns it into the picture.

    For a class-conditional network, pass `class_labels` to the model: 0, 1, … are our labels, one per image, and the
    number after the last label means unconditional.

    ValueError if `size` does not fit the network, or if the network has time_at="bottleneck" or a head; UserError if
    diffusers is not installed.
    """
    require("diffusers", "diffusers")
    height, width = (size, size) if isinstance(size, int) else size
    if height % network.divisor or width % network.divisor:
        raise ValueError(f"size {height}x{width} must be divisible by {network.divisor} for this network")
    if network.time_at == "bottleneck":
        raise ValueError("UNet2DModel has no time_at='bottleneck': all its blocks are conditioned on the timestep")
    if network.head is not None:
        raise ValueError("UNet2DModel has no head at full resolution; save_pipeline can export this network")
    return trunk_to_diffusers(network, (height, width))


def trunk_to_diffusers(network: UNet, size: tuple[int, int]) -> "UNet2DModel":
    """Return the UNet2DModel of a network without its head; otherwise like to_diffusers, for a size that fits."""
    diffusers, (height, width) = require("diffusers", "diffusers"), size
    sample_size = (height // network.patch, width // network.patch)
    model = diffusers.UNet2DModel(sample_size=sample_size, **_model_config(network), **FIXED_OPTIONS)
    state = network.state_dict()
    state[TIME_WEIGHT] = _shift_time(state[TIME_WEIGHT], by=1)
    weights: dict[str, Tensor] = {}
    if LABEL_WEIGHT in state:
        classes = state.pop(LABEL_WEIGHT).T
        weights[CLASS_WEIGHT] = torch.cat([classes, torch.zeros_like(classes[:1])])
    for ours, theirs in _parameters(network):
        if ours.startswith(HEAD):
            continue
        pieces = state[ours].chunk(len(theirs))
        weights |= {name: piece.clone() for name, piece in zip(theirs, pieces, strict=True)}
    model.load_state_dict(weights, assign=True)  # copying would convert the weights to float32 on the CPU
    return model.train(network.training)


def from_diffusers(model: "UNet2DModel", patch: int = 1) -> UNet:
    """Return a UNet with the weights of `model`, on the same device, with the same dtype and training mode.

    patch: the `patch` of the network that to_diffusers converted to `model`; a UNet2DModel does not store it.

    ValueError if the model uses an option that our UNet lacks; the message names the key in the model's config.
    """
    state = model.state_dict()
    classes = state.pop(CLASS_WEIGHT, None)
    if classes is not None and not classes[-1].any():
        classes = classes[:-1]  # a last row of zeros means unconditional, which our UNet does without a label
    network = UNet(**_unet_options(model.config, patch), context=0 if classes is None else len(classes))
    load_converted(network, state, classes)
    return network.train(model.training)


def load_converted(network: UNet, state: dict[str, Tensor], classes: Tensor | None, shift_time: bool = True) -> None:
    """Load the weights of a UNet2DModel of the same architecture into a UNet.

    state:      all its weights but the class embedding, and with them those of the head, if the UNet has one
    classes:    the class embedding, a row for each of our labels; None if there are no labels
    shift_time: whether it computes the features of 0…T−1, as Diffusers does, instead of our 1…T

    ValueError if it has weights that our UNet lacks.
    """
    parameters = dict(_parameters(network))
    unknown = state.keys() - {name for theirs in parameters.values() for name in theirs}
    if unknown:
        raise ValueError(f"the model has weights without a counterpart in UNet: {sorted(unknown)}")

    weights = {ours: torch.cat([state[name] for name in theirs]) for ours, theirs in parameters.items()}
    if shift_time:
        weights[TIME_WEIGHT] = _shift_time(weights[TIME_WEIGHT], by=-1)
    if classes is not None:
        weights[LABEL_WEIGHT] = classes.T.clone()
    network.load_state_dict(weights, assign=True)


def _shift_time(weight: Tensor, by: int) -> Tensor:
    """Return W' with W' f(t) = W f(t + by), where W is `weight` and f(t) the sinusoidal features of the timestep.

    weight: (out, dim), of the time embedding's first layer. f(t) holds the cosines, then the sines, of the angles t ω.
    The angle addition formulas give W':

        cos((t + by) ω) = cos tω cos(by ω) − sin tω sin(by ω)
        sin((t + by) ω) = cos tω sin(by ω) + sin tω cos(by ω)
    """
    half = weight.shape[1] // 2
    angle = by * torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float64) / half)
    w_cos, w_sin = weight.cpu().double().chunk(2, dim=1)  # Apple's GPU has no float64
    rotated = [w_cos * angle.cos() + w_sin * angle.sin(), w_sin * angle.cos() - w_cos * angle.sin()]
    return torch.cat(rotated, dim=1).to(weight)


def _parameters(network: UNet) -> Iterator[tuple[str, list[str]]]:
    """Yield (our name, their names) for every parameter; several of theirs, stacked along dimension 0, give ours."""
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
            continue  # theirs is a table of classes, the transpose of ours
        module, _, kind = parameter.rpartition(".")  # kind: weight or bias
        names = [module] if module.startswith(HEAD) else modules[module]
        yield parameter, [f"{name}.{kind}" for name in names]


def _model_config(network: UNet) -> dict[str, Any]:
    """Return the options with which UNet2DModel has the architecture of `network`."""
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
        "attn_norm_num_groups": res.norm1.num_groups,  # if None, scale_shift removes the middle attention's norm
        "resnet_time_scale_shift": "scale_shift" if res.scale_shift else "default",
        "dropout": res.dropout.p,
        "num_class_embeds": network.context_size + 1 if network.context_size else None,
    }


def _unet_options(config: Mapping[str, Any], patch: int) -> dict[str, Any]:
    """Return the arguments with which UNet has the architecture of a UNet2DModel with this config.

    ValueError if UNet does not support an option.
    """
    # a config read from JSON has lists
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    in_channels, groups = config["in_channels"], config["norm_num_groups"]
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    attends = [name.startswith("Attn") for name in config["down_block_types"]]
    supported = {key: [value] for key, value in FIXED_OPTIONS.items()} | {
        "out_channels": [in_channels],
        "attn_norm_num_groups": [groups] if scale_shift else [groups, None],
        "down_block_types": [_block_types("Down", attends)],
        "up_block_types": [_block_types("Up", attends[::-1])],
    }
    for key, values in supported.items():
        if config[key] not in values:
            raise ValueError(
                f"UNet does not support {key}={config[key]!r}; it must be {' or '.join(map(repr, values))}"
            )
    if config["attention_head_dim"] is None:
        raise ValueError("UNet does not support attention_head_dim=None (a single head); it must be a number")
    if in_channels % patch**2:
        raise ValueError(f"in_channels={in_channels} is not divisible by patch² = {patch**2}")
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
