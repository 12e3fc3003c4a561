"""Four samplers: ways from noise x_T to an image x_0 by calling a denoiser a few times.

Each is a pure generator of `Step(t, x, x0)`:

    denoise    (x_t (B, C, H, W), t (B,) int64) -> x̂₀; see denoiser.py
    schedule   ᾱ over 0…T
    x_T        (B, C, H, W) standard normal noise (or an image at the time where `steps` begins)
    steps      the number of network calls, 1…T, spread by schedule.step_times; or the times themselves, falling to 0
    generator  Noise, asked as generator(t, like=x) when leaving time t; needed wherever noise is added

`t` is the time a step landed on, `x` the image there, `x0` the guess that led there. t falls strictly, the last step
lands on t = 0 and adds no noise. No state outlives the call, and the same arguments give the same steps.

Throughout: a = ᾱ_t of the step's start, b = ᾱ_s of its end.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..common.names import SamplerName
from ..common.noise import Noise
from .denoiser import Denoise
from .process import posterior, to_eps
from .schedule import Schedule, step_times


class Step(NamedTuple):
    """t: the time landed on; x: (B, C, H, W) the image there; x0: (B, C, H, W) the prediction it was made from."""

    t: int
    x: Tensor
    x0: Tensor


Steps = int | Sequence[int]
Sampler = Callable[..., Iterator[Step]]


def ddpm(
    denoise: Denoise,
    schedule: Schedule,
    x_T: Tensor,
    steps: Steps,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
    generator: Noise,
) -> Iterator[Step]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2): the posterior mean, plus noise.

    variance: the posterior's (β̃) or that of the forward step (β); with fewer than T steps both are those of the chain
    that has only these times.
    """
    x = x_T
    for t, s in _intervals(schedule, steps):
        x0 = denoise(x, _times(t, x))
        x, var = posterior(x0, x, t, s, schedule)
        if s > 0:
            if variance == "beta":
                var = 1 - (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()
            x = x + math.sqrt(var) * generator(t, like=x)
        yield Step(s, x, x0)


def ddim(
    denoise: Denoise,
    schedule: Schedule,
    x_T: Tensor,
    steps: Steps,
    *,
    eta: float = 0.0,
    generator: Noise | None = None,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equations 12 and 16): eta = 0 adds no noise, eta = 1 as much as DDPM's posterior."""
    x = x_T
    for t, s in _intervals(schedule, steps):
        x0 = denoise(x, _times(t, x))
        x = _ddim_step(x0, x, t, s, schedule, eta, generator)
        yield Step(s, x, x0)


def heun(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps) -> Iterator[Step]:
    """Heun's second-order method (Karras et al. 2022, algorithm 1), on the circle instead of their σ.

    With √ᾱ = cos θ and √(1−ᾱ) = sin θ the flow is dx/dθ = v = cos θ ε − sin θ x₀. A step goes to the end as DDIM does,
    looks at v there too, and takes the mean of both. In σ = tan θ the first step would be hundreds long; θ ends at π/2.

    A step costs two calls, but for the last, which is DDIM's (at t = 0 there is no v to look at). So n calls make
    n // 2 + 1 steps; for an even n the first one, where v hardly changes, is DDIM's too. Times given in a list are
    each a step.
    """
    x = x_T
    even = isinstance(steps, int) and steps % 2 == 0
    intervals = _intervals(schedule, steps)  # refuses a number of calls outside 1…T, too
    if isinstance(steps, int):
        intervals = _intervals(schedule, steps // 2 + 1)
    for t, s in intervals:
        theta, phi = (math.acos(math.sqrt(schedule.alpha_bar[time].item())) for time in (t, s))
        x0, v = _x0_and_v(denoise, x, t, theta)
        end = math.cos(phi - theta) * x + math.sin(phi - theta) * v
        if s > 0 and not (even and t == intervals[0][0]):
            _, v_end = _x0_and_v(denoise, end, s, phi)
            end = x + (phi - theta) * (v + v_end) / 2
        x = end
        yield Step(s, x, x0)


def dpmpp_2m(
    denoise: Denoise,
    schedule: Schedule,
    x_T: Tensor,
    steps: Steps,
    *,
    eta: float = 0.0,
    generator: Noise | None = None,
) -> Iterator[Step]:
    """DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2): DDIM, with x̂₀ extrapolated through the last two predictions.

    In λ = log(√ᾱ/√(1−ᾱ)) a step of DDIM is exact if x̂₀ is constant. Here it is taken as a straight line, of which the
    middle of the step counts. The first step, and the last (of infinite length, to t = 0), take it as constant.

    eta: as for ddim; with 1 this is their SDE-DPM-Solver++(2M).
    """
    x, previous, h_before = x_T, None, math.nan
    for t, s in _intervals(schedule, steps):
        x0 = denoise(x, _times(t, x))
        h = _half_log_snr(schedule.alpha_bar[s].item()) - _half_log_snr(schedule.alpha_bar[t].item())
        guess = x0 if previous is None or s == 0 else x0 + h / (2 * h_before) * (x0 - previous)
        x = _ddim_step(guess, x, t, s, schedule, eta, generator)
        previous, h_before = x0, h
        yield Step(s, x, x0)


SAMPLERS: dict[SamplerName, Sampler] = {"ddpm": ddpm, "ddim": ddim, "heun": heun, "dpmpp_2m": dpmpp_2m}


def sample(steps: Iterator[Step]) -> Tensor:
    """The image at the end of a stream of steps: (B, C, H, W)."""
    for step in steps:
        last = step
    return last.x


def _intervals(schedule: Schedule, steps: Steps) -> list[tuple[int, int]]:
    """[(t, s), …]: from which time to which each step goes."""
    times = step_times(schedule.T, steps) if isinstance(steps, int) else list(steps)
    falling = all(t > s for t, s in itertools.pairwise(times))
    if len(times) < 2 or times[-1] != 0 or times[0] > schedule.T or not falling:
        raise ValueError(f"times must fall from at most T = {schedule.T} to 0, not {times}")
    return list(itertools.pairwise(times))


def _ddim_step(
    x0: Tensor, x: Tensor, t: int, s: int, schedule: Schedule, eta: float, generator: Noise | None
) -> Tensor:
    """x_s, on the straight line from x_t to x̂₀, with a part of the noise in it drawn anew."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be between 0 and 1, not {eta}")
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
    x = math.sqrt(b) * x0 + math.sqrt(max(1 - b - sigma**2, 0.0)) * to_eps(x0, x, t, schedule)
    if sigma == 0:  # at s = 0 always, where b = 1
        return x
    if generator is None:
        raise ValueError(f"a sampler with eta = {eta} adds noise and needs a generator")
    return x + sigma * generator(t, like=x)


def _x0_and_v(denoise: Denoise, x: Tensor, t: int, theta: float) -> tuple[Tensor, Tensor]:
    """x̂₀ and v = cos θ ε − sin θ x₀, which with x = cos θ x₀ + sin θ ε is (cos θ x − x₀) / sin θ."""
    x0 = denoise(x, _times(t, x))
    return x0, (math.cos(theta) * x - x0) / math.sin(theta)


def _times(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64, device=x.device)


def _half_log_snr(alpha_bar: float) -> float:
    """λ = ½ log(ᾱ/(1−ᾱ)), infinite at both ends."""
    if alpha_bar == 0:
        return -math.inf
    return math.inf if alpha_bar == 1 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))
