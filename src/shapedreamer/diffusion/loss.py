"""The training objective, the weight of each noise level in it, and the sampling of timesteps.

    L = E ‖network(x_t, t) − target‖² · weight_t,    x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε,    ε ~ N(0, 1),    t ~ p(t)

‖ ‖² is the mean over the pixels. The target is ε, x₀, v or u; see process.py. With target ε, weight_t = 1 and
uniform p(t) this is the simplified objective of DDPM (Ho et al. 2020, equation 14).
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
    """The unweighted loss of each image, ‖network(x_t, t) − target‖²: (B,).

    x0 (B, C, H, W) in [−1, 1]; t (B,) int64 in 1…T; eps (B, C, H, W) standard normal.
    """
    x_t = diffuse(x0, t, eps, schedule)
    error = network(x_t, t).float() - target(prediction, x0, t, eps, schedule)
    return error.square().flatten(1).mean(1)


def loss_weight(weight: Weight, prediction: Prediction, schedule: Schedule, gamma: float = 5.0) -> Tensor:
    """The weight of each timestep in the loss: (T+1,) float64.

    "simple" is 1 everywhere. "min_snr" (Hang et al. 2023) weights the error of x̂₀ by min(SNR, γ), and "balanced" by
    1 + 25 min(SNR, 25); see docs/concepts.md. Other predictions divide this weight by the factor of their error:

        ‖x̂₀ − x₀‖² = ‖ε̂ − ε‖² / SNR = ‖v̂ − v‖² / (SNR + 1) = ‖û − u‖² / (√SNR + 1)²
    """
    if weight == "simple":
        return torch.ones_like(schedule.alpha_bar)
    snr = schedule.snr.clone()
    snr[0] = snr[1]  # t = 0 is never trained on, and its SNR is infinite
    divisor = {"eps": snr, "x0": torch.ones_like(snr), "v": snr + 1, "flow": (snr.sqrt() + 1) ** 2}[prediction]
    return {"min_snr": snr.clamp(max=gamma), "balanced": 1 + 25 * snr.clamp(max=25)}[weight] / divisor


def timestep_distribution(
    schedule: Schedule, log_snr: tuple[float, float] | None = None, uniform: float = 0.0
) -> Tensor:
    """p(t), the probability of training on each timestep: (T+1,) float64. It sums to 1 and is 0 at t = 0.

    log_snr: None for uniform timesteps, or (mean, std): log-SNR ~ N(mean, std²), for most training where images take
             shape (Karras et al. 2022, section 5). Logit-normal τ of flow matching is this too: mean −2m, std 2s.
    uniform: fraction in [0, 1] of timesteps that are uniform even with log_snr, so that no noise level is neglected

    ValueError for a std or a fraction out of range, and if no timestep has a log-SNR near the mean.
    """
    T = schedule.T
    even = torch.cat([torch.zeros(1, dtype=torch.float64), torch.full((T,), 1 / T, dtype=torch.float64)])
    if log_snr is None or T == 1:
        return even
    mean, std = log_snr
    if not (std > 0 and 0 <= uniform <= 1):
        raise ValueError(f"log_snr needs std > 0, and uniform must be in [0, 1]; got std={std} and uniform={uniform}")
    level = schedule.log_snr[1:].clamp(-40, 40)  # zero terminal SNR would be −∞
    edges = torch.cat([level[:1], (level[1:] + level[:-1]) / 2, level[-1:]])
    cdf = torch.special.ndtr((edges - mean) / std)
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), cdf[:-1] - cdf[1:]])  # between the edges around each log-SNR
    if mass.sum() == 0:
        span = f"between {level[-1]:.3g} and {level[0]:.3g}, the log-SNR at T and at 1"
        raise ValueError(f"log_snr={log_snr} reaches no timestep: choose a mean {span}, or a larger std")
    return uniform * even + (1 - uniform) * mass / mass.sum()


def sample_timesteps(distribution: Tensor, u: Tensor) -> Tensor:
    """Sample t ~ p(t) by inverting its cumulative distribution: u (B,), uniform in [0, 1), -> t (B,) int64 in 1…T."""
    return torch.searchsorted(distribution.cumsum(0), u.double(), right=True).clamp(1, len(distribution) - 1)


def stratified_uniform(n: int, generator: torch.Generator) -> Tensor:
    """One uniform number in each interval [i/n, (i+1)/n), in random order, to cover all noise levels: (n,) float64."""
    u = (torch.arange(n) + torch.rand(n, generator=generator, dtype=torch.float64)) / n
    return u[torch.randperm(n, generator=generator)]
