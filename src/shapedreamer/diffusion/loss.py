"""What training minimises: a squared error per image, weighted by its noise level; and which noise levels to show.

DDPM's loss (Ho et al. 2020, equation 14) is the plain mean over uniform times: weight "simple", noise levels "uniform".
"""

import torch
from torch import Tensor

from ..common.names import Prediction, Weight
from .denoiser import Network
from .process import diffuse, target
from .schedule import Schedule


def denoising_loss(
    network: Network, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: Prediction
) -> Tensor:
    """Squared error of each image: (B,). Noise it to time t, let the network predict, compare.

    x0 (B, C, H, W) in [−1, 1]; t (B,) int64 in 1…T; eps (B, C, H, W) standard normal.
    """
    x_t = diffuse(x0, t, eps, schedule)
    error = network(x_t, t).float() - target(prediction, x0, t, eps, schedule)
    return error.square().flatten(1).mean(1)


def loss_weight(weight: Weight, prediction: Prediction, schedule: Schedule, gamma: float = 5.0) -> Tensor:
    """Weight of each time: (T+1,) float64.

    "simple" is 1. "min_snr" (Hang et al. 2023) weighs the error of x₀ by min(SNR, γ), so that the easy times of low
    noise do not drown the rest. |x₀ error|² is |ε error|²/SNR or |v error|²/(SNR + 1): hence the weight of each.
    """
    if weight == "simple":
        return torch.ones_like(schedule.alpha_bar)
    snr = schedule.snr.clone()
    snr[0] = snr[1]  # t = 0 is never trained on; keep its infinite SNR out of the arithmetic
    divisor = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1}[prediction]
    return snr.clamp(max=gamma) / divisor


def time_density(schedule: Schedule, log_snr: tuple[float, float] | None = None, uniform: float = 0.0) -> Tensor:
    """How often to train on each time: (T+1,) float64 that sums to 1, with 0 at t = 0.

    log_snr: None for uniform times, or (mean, std) of a normal distribution that the log-SNR of the times shall have
             (as in Karras et al. 2022, section 5, who choose a normal in log σ), so that the work goes where the
             image is decided.
    uniform: share of the times drawn uniformly all the same, in [0, 1], so that no noise level is neglected.
    """
    T = schedule.T
    even = torch.cat([torch.zeros(1, dtype=torch.float64), torch.full((T,), 1 / T, dtype=torch.float64)])
    if log_snr is None:
        return even
    mean, std = log_snr
    if not (std > 0 and 0 <= uniform <= 1):
        raise ValueError(f"the log-SNR needs std > 0 and the uniform share must be in [0, 1], not {std} and {uniform}")
    level = schedule.log_snr[1:].clamp(-40, 40)  # an SNR of 0 counts as very small
    edges = torch.cat([level[:1], (level[1:] + level[:-1]) / 2, level[-1:]])
    cdf = torch.special.ndtr((edges - mean) / std)  # mass between the edges around each time's own log-SNR
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), cdf[:-1] - cdf[1:]])
    if mass.sum() == 0:
        there = f"{level[0]:.3g} at t = 1 to {level[-1]:.3g} at t = T"
        raise ValueError(f"log_snr={log_snr} never meets the schedule's log-SNR, {there}")
    return uniform * even + (1 - uniform) * mass / mass.sum()


def draw_times(density: Tensor, u: Tensor) -> Tensor:
    """Times with the given density for uniform numbers u in [0, 1): (B,) -> (B,) int64 in 1…T."""
    return torch.searchsorted(density.cumsum(0), u.double(), right=True).clamp(1, len(density) - 1)


def stratified(n: int, generator: torch.Generator) -> Tensor:
    """n uniform numbers, one in each n-th of [0, 1), in random order: every batch sees all noise levels."""
    u = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    return u[torch.randperm(n, generator=generator)]
