"""Noise schedules: how much of the image is left at time t, and how much noise has come in.

Everything follows from one table, alpha_bar (ᾱ): x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε. Times run over 1…T, and ᾱ₀ = 1, so
that t = 0 is the clean image and "the step before the first" needs no special case. Tables are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from ..common.names import ScheduleName


@dataclass(frozen=True, eq=False)
class Schedule:
    """ᾱ over t = 0…T: shape (T+1,), float64, alpha_bar[0] == 1, falling, never below 0. Raises ValueError otherwise."""

    alpha_bar: Tensor
    _tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        a = self.alpha_bar
        if a.dtype != torch.float64 or a.ndim != 1 or len(a) < 2:
            raise ValueError(f"alpha_bar must be float64 of shape (T+1,) with T ≥ 1, not {a.dtype} of {tuple(a.shape)}")
        if a[0] != 1:
            raise ValueError(f"alpha_bar[0] must be 1 (t = 0 is clean data), not {a[0].item()}")
        if not ((a[1:] < a[:-1]).all() and a[-1] >= 0):
            raise ValueError("alpha_bar must fall strictly from 1 and never below 0")

    @property
    def T(self) -> int:
        """The last time, where almost nothing of the image is left."""
        return len(self.alpha_bar) - 1

    @property
    def beta(self) -> Tensor:
        """β_t = 1 − ᾱ_t/ᾱ_{t−1}, the variance that one step adds: (T+1,) with β₀ = 0."""
        a = self.alpha_bar
        return torch.cat([a.new_zeros(1), 1 - a[1:] / a[:-1]])

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio ᾱ/(1−ᾱ): (T+1,), infinite at t = 0."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @cached_property  # as samplers ask for it, and a logarithm of a thousand numbers is not for nothing
    def log_snr(self) -> Tensor:
        """log(ᾱ/(1−ᾱ)): (T+1,), infinite at t = 0, and at the end −∞ if no signal is left there."""
        with torch.inference_mode(False):  # as below
            return self.snr.log()

    def alpha_sigma(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1−ᾱ_t)), of the dtype and on the device of the images `like`, ready to multiply them.

        t: one time for all images (an int: two scalars come back) or one for each ((B,) int64: two (B, 1, 1, 1)).
        Raises IndexError for a time outside 0…T.
        """
        key = (like.device, like.dtype)
        if key not in self._tables:  # computed in float64, cast once; a table a device, since indexing must not copy
            with torch.inference_mode(False):  # a table made while sampling must serve training afterwards
                self._tables[key] = (
                    self.alpha_bar.sqrt().to(like.dtype).to(like.device),
                    (1 - self.alpha_bar).sqrt().to(like.dtype).to(like.device),
                )
        alpha, sigma = self._tables[key]
        if isinstance(t, int):
            if not 0 <= t <= self.T:  # a negative index would silently wrap around
                raise IndexError(f"time {t} is outside 0…{self.T}")
            return alpha[t], sigma[t]
        if t.device.type == "cpu" and len(t) and not (0 <= t.min() and t.max() <= self.T):
            raise IndexError(f"times {t.min().item()}…{t.max().item()} are outside 0…{self.T}")
        t = t.to(like.device)
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alpha[t].view(shape), sigma[t].view(shape)


def from_beta(beta: Tensor) -> Schedule:
    """The schedule whose step t = 1…T adds noise of variance beta[t−1]: (T,) float64 in (0, 1]."""
    return Schedule(torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)]))


def linear(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """β grows evenly from beta_start to beta_end (Ho et al. 2020, section 4)."""
    return from_beta(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


def cosine(T: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """ᾱ follows a squared cosine; β is clipped at max_beta near T (Nichol & Dhariwal 2021, equation 17)."""
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s) * torch.pi / 2) ** 2
    return from_beta((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and stretch √ᾱ so that ᾱ_T = 0 exactly while ᾱ₁ stays (Lin et al. 2024, algorithm 1).

    At T nothing of the image is left, so ε says nothing about it there: such a schedule needs v- or x₀-prediction.
    """
    root = schedule.alpha_bar.sqrt()
    first, last = root[1], root[-1]
    root = (root - last) * first / (first - last)
    root[0] = 1.0
    return Schedule(root**2)


def linear_zero_snr(T: int = 1000) -> Schedule:
    """The linear schedule, rescaled to zero terminal SNR."""
    return zero_terminal_snr(linear(T))


SCHEDULES: dict[ScheduleName, Callable[[int], Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "linear_zero_snr": linear_zero_snr,
}


def step_times(T: int, steps: int) -> list[int]:
    """The times a sampler of `steps` steps visits: T first, then evenly down, then 0: steps + 1 numbers, all distinct.

    These are "trailing" times, t_i = round(T − i·T/steps), which begin at T whatever the number of steps (Lin et al.
    2024, section 3.3). Raises ValueError unless 1 ≤ steps ≤ T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be between 1 and T = {T}, not {steps}")
    return [round(T - i * T / steps) for i in range(steps)] + [0]


def cubic_times(T: int, steps: int) -> list[int]:
    """Like step_times, but even in ∛t: the less noise there is, the closer together. distill.py says why.

    DDIM knows such times with squares (Song et al. 2021, appendix D.2). Where two cubes would round to the same, the
    earlier time is the next that is free. Raises ValueError unless 1 ≤ steps ≤ T.
    """
    times = step_times(T, steps)
    for i in range(1, steps):
        nearest = round(T * (steps - i) ** 3 / steps**3)
        times[i] = max(steps - i, min(nearest, times[i - 1] - 1))  # below the last, and enough left for the rest
    return times


LOG_SNR = (-7.0, 5.0)  # between these an image is decided, from where its things lie to the last edge


def log_snr_times(schedule: Schedule, steps: int, start: int | None = None) -> list[int]:
    """Like step_times, but even in log-SNR: from `start` (T unless given) on, and LOG_SNR is cut into `steps` parts.

    Even times waste calls where noise hardly hides the image any more (Karras et al. 2022, section 3, choose their
    noise levels likewise). Raises ValueError unless 1 ≤ steps ≤ start ≤ T.
    """
    start = schedule.T if start is None else start
    if not 1 <= steps <= start <= schedule.T:
        raise ValueError(f"steps must be between 1 and {start}, and that at most T = {schedule.T}, not {steps}")
    level = schedule.log_snr[1:]
    low = max(LOG_SNR[0], min(level[start - 1].item(), LOG_SNR[1]))
    wanted = torch.linspace(low, LOG_SNR[1], steps + 1, dtype=torch.float64)[1:-1]
    times = [start]
    for i, log_snr in enumerate(wanted, 2):
        nearest = int((level - log_snr).abs().argmin()) + 1
        times.append(max(steps + 1 - i, min(nearest, times[-1] - 1)))  # all distinct, and enough left for the rest
    return [*times, 0]
