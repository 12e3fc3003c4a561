"""What is known exactly about data N(0, s²): the best possible loss, the flow, and what a sampler must end with."""

import itertools
from collections.abc import Sequence

from ..diffusion.schedule import Schedule
from .updates import right

STD = 0.5
"""Standard deviation of the data in the end-to-end table."""

TABLE = {
    "η = 0": {1000: 0.498495, 50: 0.471403, 10: 0.369955},
    "posterior": {1000: 0.496110, 50: 0.444100, 10: 0.333475},
    "β": {1000: 0.500752, 50: 0.511719, 10: 0.493901},
}
"""Standard deviation of the output by number of steps: linear schedule, T = 1000, trailing steps, x_T ~ N(0, 1)."""

OPTIMAL_EPS_MSE = {1.0: 0.27551, 0.5: 0.17305}
"""Mean over t = 1…1000 of the smallest possible ε-MSE, by standard deviation of the data: linear schedule."""


def optimal_eps_mse(std: float, schedule: Schedule) -> float:
    """Mean over t = 1…T of the smallest ε-MSE that any network can reach on data N(0, std²).

    Of the variance v = ᾱ std² + 1 − ᾱ of x_t, noise is the share (1−ᾱ)/v; what is left of ε unknown is ᾱ std²/v.
    """
    a = schedule.alpha_bar[1:]
    return (a * std**2 / (a * std**2 + 1 - a)).mean().item()


def variance(t: int, schedule: Schedule, std: float = STD) -> float:
    """Of x_t, for data N(0, std²). The exact flow from t to s is x_s/x_t = √(v_s/v_t)."""
    a = schedule.alpha_bar[t].item()
    return a * std**2 + 1 - a


def output_std(times: Sequence[int], eta: float, beta: bool, schedule: Schedule, std: float = STD) -> float:
    """Standard deviation that a correct sampler ends with when it visits these times, for data N(0, std²).

    The exact denoiser is linear, x̂₀ = g x_t with g = √ᾱ_t std²/v_t: each step scales the variance and adds noise.
    """
    v = 1.0
    for t, s in itertools.pairwise(times):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        step = right(a, b, eta, beta)
        v = (step.x + step.x0 * a**0.5 * std**2 / variance(t, schedule, std)) ** 2 * v + step.noise**2
    return v**0.5
