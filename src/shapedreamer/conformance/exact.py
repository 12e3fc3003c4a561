"""Closed-form results for Gaussian data N(0, std²): the minimum loss and the output of a correct sampler.

For Gaussian data the best denoiser is known and linear. So the smallest possible loss, the exact solution of the
probability-flow ODE, and the standard deviation that a sampler must produce can all be computed instead of estimated.
"""

import itertools
from collections.abc import Sequence

from ..diffusion.schedule import Schedule
from .updates import correct_update

DATA_STD = 0.5
"""Standard deviation of the data in ``TABLE``."""

TABLE = {
    "η = 0": {1000: 0.498495, 50: 0.471403, 10: 0.369955},
    "posterior": {1000: 0.496110, 50: 0.444100, 10: 0.333475},
    "β": {1000: 0.500752, 50: 0.511719, 10: 0.493901},
}
"""Standard deviation of the samples by number of steps.

For the linear schedule, T = 1000, trailing timesteps and x_T ~ N(0, 1). The columns are DDIM at η = 0, and DDPM with
the variance of the posterior and with variance β.
"""

OPTIMAL_EPS_MSE = {1.0: 0.27551, 0.5: 0.17305}
"""Mean over t = 1…1000 of the smallest possible ε-MSE, by standard deviation of the data, for the linear schedule."""


def optimal_eps_mse(std: float, schedule: Schedule) -> float:
    """Return the mean over t = 1…T of the smallest ε-MSE that any network can reach on data N(0, std²).

    x_t has variance v = ᾱ_t std² + 1 − ᾱ_t, of which the noise contributes the fraction (1−ᾱ_t)/v. The rest,
    ᾱ_t std²/v, is the variance of ε that x_t does not determine.
    """
    a = schedule.alpha_bar[1:]
    return (a * std**2 / (a * std**2 + 1 - a)).mean().item()


def variance(t: int, schedule: Schedule, std: float = DATA_STD) -> float:
    """Return v_t, the variance of x_t for data N(0, std²). The exact ODE solution satisfies x_s/x_t = √(v_s/v_t)."""
    a = schedule.alpha_bar[t].item()
    return a * std**2 + 1 - a


def output_std(
    times: Sequence[int], eta: float, beta: bool, schedule: Schedule, std: float = DATA_STD, start: float = 1.0
) -> float:
    """Return the standard deviation of the samples of a correct sampler on data N(0, std²).

    The exact denoiser is linear, x̂₀ = g x_t with g = √ᾱ_t std²/v_t. So each step scales the variance and adds noise.

    times: the timesteps, from T down to 0
    eta:   η of DDIM; 1 is DDPM
    beta:  whether the noise has variance β instead of the posterior variance β̃
    start: standard deviation of the first image
    """
    v = start**2
    for t, s in itertools.pairwise(times):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        update = correct_update(a, b, eta, beta)
        v = (update.x + update.x0 * a**0.5 * std**2 / variance(t, schedule, std)) ** 2 * v + update.noise**2
    return v**0.5
