"""Weights in 8 bits, for shipped models that would be too large in half precision.

A tensor KEY of shape (C, …) becomes two:

    KEY          int8 (C, …), from −127 to 127
    KEY.scale    float16 (C,), one for each output channel: weight = int8 · scale

A scale has 4 significant bits, so that every product is a float16 number and no later conversion rounds again. Vectors,
such as biases, stay in half precision. The images of a network change by less than bfloat16 changes them.
"""

import torch
from torch import Tensor

from ..common.errors import UserError
from .limits import MAX_PARAMETERS

SUFFIX = ".scale"
BITS = 4  # of a scale


def to_eight_bits(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with its matrices and convolutions in 8 bits and its vectors in half precision."""
    stored = {}
    for key, value in state.items():
        if value.is_floating_point() and value.dim() > 1:
            mantissa, exponent = torch.frexp(value.float().flatten(1).abs().amax(1) / 127)
            scale = torch.ldexp((mantissa * 2**BITS).ceil(), exponent - BITS)
            scale = torch.where(scale > 0, scale, 1)
            stored[key] = (value.float() / _per_channel(scale, value)).round().to(torch.int8)
            stored[key + SUFFIX] = scale.half()
        else:
            stored[key] = value.half() if value.is_floating_point() else value
    return stored


def from_eight_bits(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with its 8-bit weights as float16. UserError for a tensor without its scale, or if there are too many.

    A state without 8-bit weights is returned unchanged.
    """
    quantised = {key for key, value in state.items() if value.dtype == torch.int8}
    if sum(state[key].numel() for key in quantised) > MAX_PARAMETERS:
        raise UserError(f"the weights are too many: at most {MAX_PARAMETERS} are supported")
    scales = {key + SUFFIX for key in quantised}
    weights = {key: value for key, value in state.items() if key not in scales}
    for key in quantised:
        value, scale = state[key], state.get(key + SUFFIX)
        if scale is None or scale.dtype != torch.float16 or value.dim() < 2 or scale.shape != value.shape[:1]:
            raise UserError(f"the weights {key[:200]} are damaged: they have no scale for each channel")
        weights[key] = value.half() * _per_channel(scale, value)
    return weights


def _per_channel(scale: Tensor, value: Tensor) -> Tensor:
    return scale.view(-1, *[1] * (value.dim() - 1))
