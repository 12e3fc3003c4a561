"""Number the timesteps of a model for Diffusers, which can only space them evenly.

Timestep i of an exported pipeline stands for our timestep clock(...)[i], so that even spacing visits the right ones. It
has the ᾱ of that timestep, by way of betas, and the network gets a table with its features.
"""

import numpy as np
import torch
from torch import Tensor

from ..diffusion.schedule import Schedule
from ..models.model import Model
from ..models.recipes import Sampling

MIN_TIMESTEPS = 1000  # of an exported schedule, so that pipelines can make as many steps by default
MAX_BETA = np.float32(1 - 2**-24)  # the largest float32 below 1: DPM-Solver divides by √ᾱ_T, which must not be 0


def clock(model: Model, sampling: Sampling) -> Tensor | None:
    """Our timesteps, ascending and float64, that the exported timesteps 0, 1, … stand for; None for 1…T.

    None if the model spaces its timesteps evenly, as Diffusers can. Otherwise the intervals between the timesteps that
    sampling.steps calls visit are divided into equal parts, until there are at least MIN_TIMESTEPS timesteps. Those in
    between are fractions. A pipeline that makes the same number of calls visits our timesteps exactly.
    """
    if sampling.spacing == "even":
        return None
    visited = np.array(model.times(sampling.steps)[::-1], dtype=np.float64)
    parts = -(-MIN_TIMESTEPS // sampling.steps)
    grid = np.arange(len(visited)) * parts
    return torch.from_numpy(np.interp(np.arange(1, grid[-1] + 1), grid, visited))


def alpha_bar_at(schedule: Schedule, times: Tensor) -> Tensor:
    """ᾱ at fractional timesteps, (N,) float64, linear between whole ones."""
    return torch.from_numpy(np.interp(times.numpy(), np.arange(schedule.T + 1), schedule.alpha_bar.numpy()))


def betas_of(alpha_bar: Tensor) -> list[float]:
    """β_t of these ᾱ_t, for a library that multiplies the 1 − β_t in float32: each β makes up for earlier rounding."""
    betas, product = [], np.float32(1)
    for target in alpha_bar.numpy():
        betas.append(min(np.float32(1 - target / float(product)), MAX_BETA))
        product *= np.float32(1) - betas[-1]
    return [float(beta) for beta in betas]
