"""Noise schedules: how much image and how much noise x_t contains at each timestep t.

Everything follows from one table, alpha_bar (ᾱ): x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε. Timesteps run from 1 to T, and ᾱ₀ = 1
makes t = 0 the clean image, so the step to it needs no special case. Tables are float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..common.device import torch_defaults
from ..common.names import TIMESTEPS, ScheduleName
from ..common.values import as_float, as_int


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule: alpha_bar, (T+1,) float64, decreases strictly from 1 and never below 0; else ValueError."""

    alpha_bar: Tensor
    _tables: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

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
        """The last timestep, where x_t is almost pure noise."""
        return len(self.alpha_bar) - 1

    @property
    def beta(self) -> Tensor:
        """β_t = 1 − ᾱ_t/ᾱ_{t−1}, the variance of the noise that step t adds: (T+1,) with β₀ = 0."""
        a = self.alpha_bar
        return torch.cat([a.new_zeros(1), 1 - a[1:] / a[:-1]])

    @property
    def snr(self) -> Tensor:
        """Signal-to-noise ratio ᾱ_t/(1−ᾱ_t): (T+1,), +∞ at t = 0."""
        return self.alpha_bar / (1 - self.alpha_bar)

    @cached_property  # samplers read it on every call
    @torch.inference_mode(False)  # training must be able to use a table made while sampling
    def log_snr(self) -> Tensor:
        """log(ᾱ_t/(1−ᾱ_t)): (T+1,), +∞ at t = 0, and −∞ at T if ᾱ_T = 0."""
        return self.snr.log()

    @cached_property
    @torch.inference_mode(False)
    def tau(self) -> Tensor:
        """τ = √(1−ᾱ_t)/(√ᾱ_t + √(1−ᾱ_t)), the share of noise in x_t: (T+1,), 0 at t = 0, and 1 where ᾱ = 0."""
        sigma = (1 - self.alpha_bar).sqrt()
        return sigma / (self.alpha_bar.sqrt() + sigma)

    def alpha_sigma(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(√ᾱ_t, √(1−ᾱ_t)) with the dtype and device of the images `like`, shaped to multiply them.

        t: an int (returns two scalars), or one timestep for each image, (B,) int64 (returns two (B, 1, 1, 1) tensors).
        IndexError for a timestep outside 0…T, unless t is on a GPU, where checking it would make the CPU wait.
        """
        key = (like.device, like.dtype)
        if key not in self._tables:  # computed in float64, cast once, and kept on each device
            with torch.inference_mode(False):
                alpha, sigma = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()
                self._tables[key] = (alpha.to(like.dtype).to(like.device), sigma.to(like.dtype).to(like.device))
        alpha, sigma = self._tables[key]
        if isinstance(t, int):
            if not 0 <= t <= self.T:  # a negative index would silently wrap around
                raise IndexError(f"timestep {t} is outside 0…{self.T}")
            return alpha[t], sigma[t]
        if t.device.type == "cpu" and len(t) and not (0 <= t.min() and t.max() <= self.T):
            raise IndexError(f"timesteps {t.min().item()}…{t.max().item()} are outside 0…{self.T}")
        t = t.to(like.device)
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alpha[t].view(shape), sigma[t].view(shape)


def from_beta(beta: Tensor) -> Schedule:
    """ᾱ_t = (1−β₁) ⋯ (1−β_t): step t adds noise of variance β_t. beta: (T,) float64 in (0, 1); β_T may be 1."""
    return Schedule(torch.cat([beta.new_ones(1), (1 - beta).cumprod(0)]))


@torch_defaults()
def linear(T: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """β_t grows linearly from beta_start at 1 to beta_end at T ≤ 70,000, else UserError (Ho et al. 2020, section 4)."""
    T = check_timesteps(T, "linear")
    return from_beta(torch.linspace(beta_start, beta_end, T, dtype=torch.float64))


@torch_defaults()
def cosine(T: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """The cosine schedule (Nichol & Dhariwal 2021, equation 17).

        ᾱ_t = f(t)/f(0),    f(t) = cos²((t/T + s)/(1 + s) · π/2)

    Clipping β_t to max_beta affects only the last timesteps, and keeps ᾱ_T above 0. UserError unless 1 ≤ T ≤ 100,000.
    """
    T = check_timesteps(T, "cosine")
    f = torch.cos((torch.arange(T + 1, dtype=torch.float64) / T + s) / (1 + s) * torch.pi / 2) ** 2
    return from_beta((1 - f[1:] / f[:-1]).clamp(max=max_beta))


def zero_terminal_snr(schedule: Schedule) -> Schedule:
    """Shift and scale √ᾱ so that ᾱ_T = 0 exactly and ᾱ₁ is unchanged (Lin et al. 2024, algorithm 1)."""
    root = schedule.alpha_bar.sqrt()
    first, last = root[1], root[-1]
    root = (root - last) * first / (first - last)
    root[0] = 1.0
    return Schedule(root**2)


def linear_zero_snr(T: int = 1000) -> Schedule:
    """The linear schedule, rescaled to zero terminal SNR. UserError unless 2 ≤ T ≤ 70,000."""
    return zero_terminal_snr(linear(check_timesteps(T, "linear_zero_snr")))


@torch_defaults()
def flow(T: int = 1000, shift: float = 1.0) -> Schedule:
    """The schedule of flow matching (Lipman et al. 2023): x_t/(√ᾱ_t + √(1−ᾱ_t)) is its straight path (1−τ) x₀ + τ ε.

        ᾱ_t = (1−τ)²/((1−τ)² + τ²),    τ = shift · u/(1 + (shift − 1) u),    u = t/T

    log-SNR = −2 log(τ/(1−τ)), and ᾱ_T = 0. A shift above 1 moves timesteps to more noise, which adds −2 log(shift) to
    the log-SNR (Esser et al. 2024, section 5.3.2). UserError unless 2 ≤ T ≤ 100,000 and 0.01 ≤ shift ≤ 100.
    """
    u = torch.arange(check_timesteps(T, "flow") + 1, dtype=torch.float64) / T
    tau = as_float("shift", shift, 0.01, 100) * u / (1 + (shift - 1) * u)
    return Schedule((1 - tau) ** 2 / ((1 - tau) ** 2 + tau**2))


def check_timesteps(T: int, name: ScheduleName) -> int:
    """T as a plain int. UserError if there is no schedule of this name with T timesteps."""
    return as_int(f"the timesteps of schedule {name}", T, *TIMESTEPS[name])


SCHEDULES: dict[ScheduleName, Callable[[int], Schedule]] = {
    "linear": linear, "cosine": cosine, "linear_zero_snr": linear_zero_snr, "flow": flow
}  # fmt: skip


def step_times(T: int, steps: int) -> list[int]:
    """The timesteps of a sampler with `steps` steps, evenly spaced from T to 0: steps + 1 decreasing ints.

    This "trailing" spacing, t_i = round(T − i·T/steps), starts at T for any number of steps (Lin et al. 2024, section
    3.3). ValueError unless 1 ≤ steps ≤ T.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps must be between 1 and T = {T}, not {steps}")
    return [round(T - i * T / steps) for i in range(steps)] + [0]


def cubic_times(T: int, steps: int) -> list[int]:
    """Like step_times, but evenly spaced in ∛t: t_i = round(T ((steps − i)/steps)³), raised near 0 until all differ.

    Few-step models use it (training/distillation.py); Song et al. 2021, appendix D.2, use a quadratic spacing.
    """
    times = step_times(T, steps)
    for i in range(1, steps):
        nearest = round(T * (steps - i) ** 3 / steps**3)
        times[i] = max(steps - i, min(nearest, times[i - 1] - 1))  # distinct, with room for the remaining steps
    return times


LOG_SNR = (-7.0, 5.0)  # the range of log-SNR in which images take shape, from layout to edges


@torch_defaults()
def log_snr_times(schedule: Schedule, steps: int, start: int | None = None) -> list[int]:
    """Like step_times, but evenly spaced in log-SNR, and from timestep `start` (default T) to 0.

    The interval from the log-SNR of `start`, or from LOG_SNR[0] if that is higher, to LOG_SNR[1] is cut into `steps`
    equal parts; the timesteps are those nearest to the cuts, moved until all differ (see Karras et al. 2022).
    """
    start = schedule.T if start is None else start
    if not 1 <= steps <= start <= schedule.T:
        raise ValueError(f"need 1 ≤ steps ≤ start ≤ T, but steps = {steps}, start = {start}, T = {schedule.T}")
    level = schedule.log_snr[1:]
    low = max(LOG_SNR[0], min(level[start - 1].item(), LOG_SNR[1]))
    wanted = torch.linspace(low, LOG_SNR[1], steps + 1, dtype=torch.float64)[1:-1]
    times = [start]
    for i, log_snr in enumerate(wanted, 2):
        nearest = int((level - log_snr).abs().argmin()) + 1
        times.append(max(steps + 1 - i, min(nearest, times[-1] - 1)))  # distinct, with room for the remaining steps
    return [*times, 0]
