"""Random weights for tests that compare two implementations of a network."""

import math

import torch
from torch import nn


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Randomise every weight at a scale that preserves the signal; freshly initialised norms would all be the same."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        is_gain = parameter.ndim == 1 and name.endswith("weight")
        scale = 0.3 if parameter.ndim == 1 else math.sqrt(1 / parameter[0].numel())
        parameter.copy_(is_gain + scale * torch.randn(parameter.shape, generator=generator))
