"""The forward process q, its posterior, and conversions between ε-, x₀-, v- and flow prediction.

With α = √ᾱ_t and σ = √(1−ᾱ_t):   x_t = α x₀ + σ ε        (Ho et al. 2020, equation 4)
                                   v   = α ε − σ x₀        (Salimans & Ho 2022, section 4)
                                   u   = ε − x₀           (flow matching: Lipman et al. 2023; Liu et al. 2023)

Any two of x_t, x₀, ε, v and u determine the others. Images are (B, C, H, W); t is an int or (B,) int64, and 1-based.
"""

from torch import Tensor

from ..common.names import Prediction
from .schedule import Schedule


def diffuse(x0: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """x_t ~ q(x_t | x₀): the image x₀ with the noise of timestep t, √ᾱ_t x₀ + √(1−ᾱ_t) ε. eps is drawn from N(0, 1)."""
    alpha, sigma = schedule.alpha_sigma(t, like=x0)
    return alpha * x0 + sigma * eps


def transition(x_s: Tensor, s: int, t: int, eps: Tensor, schedule: Schedule) -> Tensor:
    """x_t ~ q(x_t | x_s) for s < t: add the noise of the steps from s to t to x_s.

        x_t = √(ᾱ_t/ᾱ_s) x_s + √(1 − ᾱ_t/ᾱ_s) ε

    s = t − 1 is one step of the Markov chain (Ho et al. 2020, equation 2). IndexError unless 0 ≤ s < t ≤ T.
    """
    _check_order(s, t, schedule)
    ratio = (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()
    return ratio**0.5 * x_s + (1 - ratio) ** 0.5 * eps


def posterior(x0: Tensor, x_t: Tensor, t: int, s: int, schedule: Schedule) -> tuple[Tensor, float]:
    """Mean and variance of q(x_s | x_t, x₀) for s < t, with β = 1 − ᾱ_t/ᾱ_s (Ho et al. 2020, equations 6 and 7).

        mean = √ᾱ_s β / (1−ᾱ_t) · x₀ + √(1−β) (1−ᾱ_s) / (1−ᾱ_t) · x_t,    variance = (1−ᾱ_s) / (1−ᾱ_t) · β

    At s = 0 the mean is x₀ and the variance is exactly 0. IndexError unless 0 ≤ s < t ≤ T.
    """
    _check_order(s, t, schedule)
    a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    beta = 1 - a_t / a_s
    mean = (a_s**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - a_s) * x_t) / (1 - a_t)
    return mean, (1 - a_s) / (1 - a_t) * beta


def target(prediction: Prediction, x0: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """What a network with this prediction type is trained to output for x_t = diffuse(x0, t, eps): eps, x0, v or u."""
    if prediction == "eps":
        return eps
    if prediction == "x0":
        return x0
    if prediction == "flow":
        return eps - x0
    alpha, sigma = schedule.alpha_sigma(t, like=x0)
    return alpha * eps - sigma * x0


def to_x0(prediction: Prediction, output: Tensor, x_t: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """x̂₀, computed from the network's output for x_t. ε-prediction divides by √ᾱ_t, which must not be 0."""
    if prediction == "x0":
        return output
    alpha, sigma = schedule.alpha_sigma(t, like=x_t)
    if prediction == "eps":
        return (x_t - sigma * output) / alpha
    if prediction == "flow":
        return (x_t - sigma * output) / (alpha + sigma)
    return alpha * x_t - sigma * output


def to_eps(x0: Tensor, x_t: Tensor, t: int | Tensor, schedule: Schedule) -> Tensor:
    """ε̂ = (x_t − α x₀) / σ, the noise in x_t if x0 is its clean image. t must be at least 1, since σ = 0 at t = 0."""
    alpha, sigma = schedule.alpha_sigma(t, like=x_t)
    return (x_t - alpha * x0) / sigma


def _check_order(s: int, t: int, schedule: Schedule) -> None:  # a negative index would silently wrap around
    if not 0 <= s < t <= schedule.T:
        raise IndexError(f"timesteps must be 0 ≤ s < t ≤ {schedule.T}, not s = {s}, t = {t}")
