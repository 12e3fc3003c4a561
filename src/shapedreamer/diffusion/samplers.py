"""Six samplers: each turns noise x_T into an image x_0 by calling a denoiser step after step.

Each is a pure generator of `Step(t, x, x0)`; the same arguments give the same steps:

    denoise    (x_t (B, C, H, W), t (B,) int64) -> x̂₀; see denoiser.py
    x_T        standard normal noise (B, C, H, W), or an image noised to the first timestep in `steps`
    steps      the number of denoiser calls, 1…T, spaced by schedule.step_times; or a list of timesteps decreasing to 0
    generator  counter-based Noise, called as generator(t, like=x) in a step that leaves t and adds noise

Every step goes from a timestep t, where a = ᾱ_t, to a timestep s < t, where b = ᾱ_s. The last lands on 0 and adds no
noise. ValueError before the first denoiser call if `steps` or eta is out of range, or the generator is missing.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..common.names import MAX_ETA, SamplerName
from ..common.noise import Noise
from .denoiser import Denoise
from .process import posterior, to_eps
from .schedule import Schedule, step_times


class Step(NamedTuple):
    """The timestep t on which a step landed, the image x there, and the (first) prediction x̂₀ that led there."""

    t: int
    x: Tensor
    x0: Tensor


Steps = int | Sequence[int]
Variance = Literal["posterior", "beta"]
Sampler = Callable[..., Iterator[Step]]


def ddpm(
    denoise: Denoise,
    schedule: Schedule,
    x_T: Tensor,
    steps: Steps,
    *,
    variance: Variance = "posterior",
    generator: Noise,
) -> Iterator[Step]:
    """DDPM's ancestral sampling (Ho et al. 2020, algorithm 2): the mean of q(x_s | x_t, x̂₀) plus noise.

    variance: "posterior" is β̃ = (1−b)/(1−a) · (1−a/b), and "beta" is β = 1−a/b (section 3.2, where s = t − 1)
    """
    x = x_T
    for t, s in intervals(schedule, steps):
        x0 = denoise(x, batch_of(t, x))
        x, var = posterior(x0, x, t, s, schedule)
        if s > 0:
            var = 1 - (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item() if variance == "beta" else var
            x = x + math.sqrt(var) * generator(t, like=x)
        yield Step(s, x, x0)


def ddim(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps, *, eta: float = 0.0, generator: Noise | None = None
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equations 12 and 16, where α_t is our ᾱ_t).

        x_s = √b x̂₀ + √(1−b−σ²) ε̂ + σ z,    σ = η √β̃,    β̃ = (1−b)/(1−a) · (1−a/b),    z ~ N(0, 1)

    ε̂ = (x_t − √a x̂₀)/√(1−a) is the noise in x_t if x̂₀ is its clean image, and σ the standard deviation of new noise.
    η = eta: 0 adds no noise, 1 is ddpm with the posterior variance. Above 1, see `fresh_noise`.
    """
    check_eta(eta)
    x = x_T
    for t, s in intervals(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, batch_of(t, x))
        eps = to_eps(x0, x, t, schedule)
        sigma = fresh_noise(eta, a, b)
        x = math.sqrt(b) * x0 + math.sqrt(max(1 - b - sigma**2, 0.0)) * eps
        x = _add_noise(x, sigma, t, generator)
        yield Step(s, x, x0)


def heun(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps) -> Iterator[Step]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1) for the probability-flow ODE. It adds no noise.

    The ODE carries noise x_T to an image x_0. With √ᾱ_t = cos θ and √(1−ᾱ_t) = sin θ, x_t = cos θ x₀ + sin θ ε has the
    derivative v in θ. The ODE follows its prediction from T, where θ is close to π/2, down to 0 (Salimans & Ho 2022,
    appendix D). A step from θ to φ makes a DDIM step to x', then follows the average of the slopes at x and x':

        dx/dθ = v̂(x, θ) = cos θ ε̂ − sin θ x̂₀ = (cos θ x − x̂₀)/sin θ, because x = cos θ x̂₀ + sin θ ε̂
        x' = cos(φ−θ) x + sin(φ−θ) v̂(x, θ),    x_s = x + (φ−θ) (v̂(x, θ) + v̂(x', φ))/2

    A step takes two denoiser calls. The last one takes one: v̂ is not defined at t = 0, so it is a DDIM step. An even
    number of calls leaves one over, so the first step, where v̂ changes little, is a DDIM step too.
    """
    x = x_T
    for t, s, calls in _two_call_steps(schedule, steps, last_calls=1):
        theta, phi = (math.acos(math.sqrt(schedule.alpha_bar[time].item())) for time in (t, s))
        x0 = denoise(x, batch_of(t, x))
        v = (math.cos(theta) * x - x0) / math.sin(theta)
        end = math.cos(phi - theta) * x + math.sin(phi - theta) * v
        if calls == 2:
            v_end = (math.cos(phi) * end - denoise(end, batch_of(s, end))) / math.sin(phi)
            end = x + (phi - theta) * (v + v_end) / 2
        x = end
        yield Step(s, x, x0)


def dpmpp_2m(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps, *, eta: float = 0.0, generator: Noise | None = None
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): DDIM with x̂₀ extrapolated from the last two predictions.

        D = x̂₀ + c h/h' (x̂₀ − x̂₀'),    x_s = √b D + √(1−b−σ²) ε̂ + σ z,    ε̂ = (x_t − √a D)/√(1−a)

    A DDIM step is exact if x̂₀ does not change in it. This solver assumes that x̂₀ is linear in λ = log(√ᾱ/√(1−ᾱ)), and
    extrapolates the last two predictions to D, in its middle (c = ½). h is the length of the step in λ; x̂₀' and h' are
    those of the step before. The first step has none, and the last is infinitely long: both use D = x̂₀; so does the
    second if ᾱ_T = 0. σ is that of ddim. eta = 1 is SDE-DPM-Solver++(2M); for more, see `place_in_step`.
    """
    check_eta(eta)
    x, x0_before, h_before = x_T, None, math.nan
    for t, s in intervals(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, batch_of(t, x))
        h = (schedule.log_snr[s] - schedule.log_snr[t]).item() / 2
        D = x0 if x0_before is None or s == 0 else x0 + place_in_step(eta, a, b) * h / h_before * (x0 - x0_before)
        eps = to_eps(D, x, t, schedule)
        sigma = fresh_noise(eta, a, b)
        x = math.sqrt(b) * D + math.sqrt(max(1 - b - sigma**2, 0.0)) * eps
        x = _add_noise(x, sigma, t, generator)
        x0_before, h_before = x0, h
        yield Step(s, x, x0)


def midpoint(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps) -> Iterator[Step]:
    """The midpoint method on the straight line of flow matching (Lipman et al. 2023), for the ODE of `heun`.

    With τ = √(1−ᾱ_t)/(√ᾱ_t + √(1−ᾱ_t)), every process runs along a line at another scale and pace (schedule.flow):

        z = x_t/(√ᾱ_t + √(1−ᾱ_t)) = (1−τ) x₀ + τ ε,    dz/dτ = û = ε̂ − x̂₀ = (z − x̂₀)/τ

    Euler's method on it is ddim with eta 0. This method makes such a step to m, the first timestep whose τ reaches the
    middle between t and s, and follows the slope there from t to s. With an odd number of calls the first is Euler's.
    """
    x = x_T
    for t, s, calls in _two_call_steps(schedule, steps, last_calls=2):
        middle = (schedule.tau[t] + schedule.tau[s]) / 2
        m = min(int((schedule.tau > middle - 1e-9).int().argmax()), t - 1)
        x, x0 = _line_step(denoise, schedule, x, t, m if calls == 2 else 0, s)
        yield Step(s, x, x0)


def heun_line(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps) -> Iterator[Step]:
    """Heun's method on the line of `midpoint`: follow the mean of the slopes at t and at s. Calls are as in `heun`."""
    x = x_T
    for t, s, calls in _two_call_steps(schedule, steps, last_calls=1):
        x, x0 = _line_step(denoise, schedule, x, t, s if calls == 2 else 0, s)
        yield Step(s, x, x0)


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddpm": ddpm, "ddim": ddim, "heun": heun, "dpmpp_2m": dpmpp_2m, "midpoint": midpoint, "heun_line": heun_line
}  # fmt: skip


def sample(steps: Iterator[Step]) -> Tensor:
    """The final image of a stream of steps: (B, C, H, W)."""
    for step in steps:
        last = step  # keep one, not all
    return last.x


def intervals(schedule: Schedule, steps: Steps) -> list[tuple[int, int]]:
    """The timesteps at which each step starts and ends: [(t, s), …]. ValueError if `steps` is out of range."""
    times = step_times(schedule.T, steps) if isinstance(steps, int) else list(steps)
    falling = all(t > s for t, s in itertools.pairwise(times))
    if len(times) < 2 or times[-1] != 0 or times[0] > schedule.T or not falling:
        raise ValueError(f"timesteps must fall from at most T = {schedule.T} to 0, not {times}")
    return list(itertools.pairwise(times))


def _two_call_steps(schedule: Schedule, steps: Steps, last_calls: int) -> list[tuple[int, int, int]]:
    """[(t, s, calls), …] with two calls a step, `last_calls` in the last, and one in the first if that is left over."""
    pairs, spare = intervals(schedule, steps), 0  # also checks that the number of calls is in 1…T
    if isinstance(steps, int):
        count = (steps + 3 - last_calls) // 2
        pairs, spare = intervals(schedule, count), 2 * (count - 1) + last_calls - steps
    calls = [2] * (len(pairs) - 1) + [last_calls]
    calls[0] -= spare
    return [(t, s, n) for (t, s), n in zip(pairs, calls, strict=True)]


def fresh_noise(eta: float, a: float, b: float) -> float:
    """σ of a step from ᾱ_t = a to ᾱ_s = b: η' √β̃ ≤ √(1−b). η' is η up to 1, and 1 + (η−1) min(1, 2b) above.

    Late in sampling, more noise lets the network redraw details and correct mistakes. Early, it erases the layout.
    """
    eta = min(eta, 1.0) + max(eta - 1.0, 0.0) * min(1.0, 2 * b)
    return min(eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b)), math.sqrt(1 - b))


def place_in_step(eta: float, a: float, b: float) -> float:
    """c, the place of D in a step of dpmpp_2m: ½ up to η = 1. More new noise moves it towards 1, the end of it."""
    kept, kept_by_ddpm = (max(1 - b - fresh_noise(e, a, b) ** 2, 0.0) for e in (eta, 1.0))
    return 1 - min(1.0, math.sqrt(kept / kept_by_ddpm)) / 2


def check_eta(eta: float, high: int = MAX_ETA) -> None:
    if not 0 <= eta <= high:
        raise ValueError(f"eta must be between 0 and {high}, not {eta}")


def _add_noise(x: Tensor, sigma: float, t: int, generator: Noise | None) -> Tensor:
    if sigma == 0:  # so it is at s = 0, where b = 1
        return x
    if generator is None:
        raise ValueError("a sampler with eta above 0 adds noise and needs a generator")
    return x + sigma * generator(t, like=x)


def _line_step(denoise: Denoise, schedule: Schedule, x: Tensor, t: int, m: int, s: int) -> tuple[Tensor, Tensor]:
    """x_s and x̂₀ after a two-stage Runge-Kutta step on the line, with slopes at t and m; Euler's step if m = 0.

    In the exact middle the second slope counts alone; at m = s both count half.
    """
    tau_t, tau_m, tau_s = (schedule.tau[time].item() for time in (t, m, s))
    scale_t, scale_m, scale_s = (1 / math.hypot(1 - tau, tau) for tau in (tau_t, tau_m, tau_s))  # √ᾱ + √(1−ᾱ)
    z = x / scale_t
    x0 = denoise(x, batch_of(t, x))
    slope = (z - x0) / tau_t
    if m > 0:
        z_m = z + (tau_m - tau_t) * slope
        slope_m = (z_m - denoise(scale_m * z_m, batch_of(m, x))) / tau_m
        slope = slope + (tau_s - tau_t) / (2 * (tau_m - tau_t)) * (slope_m - slope)
    return scale_s * (z + (tau_s - tau_t) * slope), x0


def batch_of(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)
