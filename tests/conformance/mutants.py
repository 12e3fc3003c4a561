"""Mutants: plausible functions that each contain one mistake, in a line marked with a comment.

They are written in the different styles that learners use: with our Noise or torch.randn, as generators of steps or
loops that return the final image, and with tables that start at t = 0 or t = 1.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shapedreamer.common.noise import Noise
from shapedreamer.diffusion.denoiser import Denoise
from shapedreamer.diffusion.process import to_eps
from shapedreamer.diffusion.samplers import Step
from shapedreamer.diffusion.schedule import Schedule, step_times


def _pairs(schedule: Schedule, steps: int) -> list[tuple[int, int]]:
    times = step_times(schedule.T, steps)
    return list(itertools.pairwise(times))


def _times(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64)


def _sigma(a: float, b: float, eta: float) -> float:
    return eta * math.sqrt(max((1 - b) / (1 - a) * (1 - a / b), 0.0))


def _ddim_step(x: Tensor, x0: Tensor, a: float, b: float, sigma: float = 0.0) -> Tensor:
    """A correct step without its noise."""
    eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    return math.sqrt(b) * x0 + math.sqrt(max(1 - b - sigma**2, 0.0)) * eps


# The forward process


def diffuse_without_root(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """A mistake found in a well-known course."""
    ab = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    return ab.sqrt() * x0 + (1 - ab) * eps  # no √


def diffuse_with_precomputed_tables(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """The same mistake in precomputed tables."""
    signal, noise = schedule.alpha_bar.sqrt(), 1 - schedule.alpha_bar  # no √
    return signal[t][:, None, None, None] * x0 + noise[t][:, None, None, None] * eps


def diffuse_from_zero(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Indexes the table with t − 1, although it has an entry for t = 0."""
    ab = schedule.alpha_bar[t - 1].view(-1, 1, 1, 1)  # t − 1
    return ab.sqrt() * x0 + (1 - ab).sqrt() * eps


def diffuse_one_late(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Indexes the table with t + 1, which is past its end at t = T."""
    ab = schedule.alpha_bar[t + 1].view(-1, 1, 1, 1)  # t + 1
    return ab.sqrt() * x0 + (1 - ab).sqrt() * eps


def diffuse_from_table_of_T(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Uses a table without t = 0, but indexes it with t."""
    ab = (1 - schedule.beta[1:]).cumprod(0)[t.clamp(max=schedule.T - 1)].view(-1, 1, 1, 1)
    return ab.sqrt() * x0 + (1 - ab).sqrt() * eps


def loss_without_root(
    network: Callable[[Tensor, Tensor], Tensor], x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: str
) -> Tensor:
    """The training loss of the same course."""
    x_t = diffuse_without_root(x0, t, eps, schedule)
    return (network(x_t, t) - eps).square().flatten(1).mean(1)


def loss_passes_t_minus_one(
    network: Callable[[Tensor, Tensor], Tensor], x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: str
) -> Tensor:
    """Passes the 0-based timestep of other libraries to the network."""
    ab = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = ab.sqrt() * x0 + (1 - ab).sqrt() * eps
    return (network(x_t, t - 1) - eps).square().flatten(1).mean(1)  # t − 1


# σ as the coefficient of ε̂


def ddim_sigma_as_direction(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Uses σ where √(1−ᾱ_s−σ²) is correct."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        sigma = _sigma(a, b, eta)
        x = math.sqrt(b) * x0 + sigma * to_eps(x0, x, t, schedule)  # σ
        if sigma > 0:
            x = x + sigma * generator(t, like=x)
        yield Step(s, x, x0)


def ddpm_sigma_as_direction(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """The same at η = 1, with noise from torch; returns only the image."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        z = torch.randn_like(x) if s > 0 else torch.zeros_like(x)
        x0 = denoise(x, _times(t, x))
        sigma = _sigma(a, b, 1.0)
        x = math.sqrt(b) * x0 + sigma * to_eps(x0, x, t, schedule) + sigma * z  # σ
    return x


# ᾱ₁ instead of ᾱ₀ = 1 in the last step


def ddim_stops_at_one(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Never indexes the table below 1."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[max(s, 1)].item()  # ᾱ₁
        x0 = denoise(x, _times(t, x))
        sigma = _sigma(a, b, eta)
        x = _ddim_step(x, x0, a, b, sigma)
        if sigma > 0:
            x = x + sigma * generator(t, like=x)
        yield Step(s, x, x0)


def ddim_final_alpha_of_first(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Like set_alpha_to_one=False in Diffusers."""
    final = schedule.alpha_bar[1].item()  # ᾱ₁
    x = x_T
    for t, s in _pairs(schedule, steps):
        b = schedule.alpha_bar[s].item() if s > 0 else final
        x = _ddim_step(x, denoise(x, _times(t, x)), schedule.alpha_bar[t].item(), b)
    return x


def dpmpp_2m_stops_at_one(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Iterator[Step]:
    """Uses t = 1 in the last step, because λ is infinite at t = 0."""

    def half_log_snr(t: int) -> float:
        a = schedule.alpha_bar[max(t, 1)].item()  # ᾱ₁
        return 0.5 * math.log(a / (1 - a))

    x, previous, h_before = x_T, None, math.nan
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[max(s, 1)].item()
        x0 = denoise(x, _times(t, x))
        h = half_log_snr(s) - half_log_snr(t)
        guess = x0 if previous is None else x0 + h / (2 * h_before) * (x0 - previous)
        x = math.sqrt((1 - b) / (1 - a)) * x - math.sqrt(b) * math.expm1(-h) * guess
        previous, h_before = x0, h
        yield Step(s, x, x0)


# Noise in the last step


def ddpm_noise_on_last_step(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, variance: str = "posterior", generator: Noise
) -> Iterator[Step]:
    """Adds noise without "if s > 0". Harmless for the posterior variance, which is 0 there, but visible with β."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        var = 1 - a / b if variance == "beta" else _sigma(a, b, 1.0) ** 2
        x = _ddim_step(x, x0, a, b, _sigma(a, b, 1.0)) + math.sqrt(var) * generator(t, like=x)  # even at s = 0
        yield Step(s, x, x0)


def ddim_noise_floor(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float = 1.0
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Clamps σ to a minimum, as code that takes its logarithm does."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        sigma = _sigma(a, b, eta)
        x = _ddim_step(x, x0, a, b, sigma)
        if eta > 0:
            x = x + max(sigma, 1e-3) * torch.randn_like(x)  # 0.001 at s = 0
        yield s, x, x0


# t off by one


def ddim_passes_t_minus_one(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Passes the 0-based timestep of other libraries to the network."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t - 1, x))  # t − 1
        sigma = _sigma(a, b, eta)
        x = _ddim_step(x, x0, a, b, sigma)
        if sigma > 0:
            x = x + sigma * generator(t, like=x)
        yield Step(s, x, x0)


def ddim_passes_end_of_step(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Passes s to the network, the timestep at which the step ends."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        x0 = denoise(x, _times(s, x))  # s
        x = _ddim_step(x, x0, schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item())
    return x


def ddim_from_T_minus_one(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Iterator[Step]:
    """Starts at T − 1."""
    x = x_T
    stride = (schedule.T - 1) / steps  # T − 1
    times = [round(schedule.T - 1 - i * stride) for i in range(steps)] + [0]
    for t, s in itertools.pairwise(times):
        x0 = denoise(x, _times(t, x))
        x = _ddim_step(x, x0, schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item())
        yield Step(s, x, x0)


def ddim_tables_one_early(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Reads both ᾱ one timestep too early."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t - 1].item(), schedule.alpha_bar[max(s - 1, 0)].item()  # t − 1, s − 1
        x0 = denoise(x, _times(t, x))
        if a == 1:
            x = x0
        else:
            sigma = _sigma(a, b, eta)
            x = _ddim_step(x, x0, a, b, sigma)
            if sigma > 0 and s > 0:
                x = x + sigma * generator(t, like=x)
        yield Step(s, x, x0)


def ddim_tables_one_late(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Reads ᾱ_{t+1}, which is past the end of the table at t = T."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t + 1].item(), schedule.alpha_bar[s].item()  # t + 1
        x = _ddim_step(x, denoise(x, _times(t, x)), a, b)
    return x


def ddim_alpha_sigma_one_late(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """The same with alpha_sigma, which raises its own IndexError."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        x0 = denoise(x, _times(t, x))
        alpha, sigma = schedule.alpha_sigma(t + 1, like=x)  # t + 1
        alpha_s, sigma_s = schedule.alpha_sigma(s, like=x)
        x = alpha_s * x0 + sigma_s * (x - alpha * x0) / sigma
    return x


# ε not recomputed after clipping


def ddim_stale_eps(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Computes ε before x̂₀ is clipped, and does not recompute it."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        eps = to_eps(x0, x, t, schedule)
        x0 = x0.clamp(-1, 1)  # eps is stale
        sigma = _sigma(a, b, eta)
        x = math.sqrt(b) * x0 + math.sqrt(1 - b - sigma**2) * eps
        if sigma > 0:
            x = x + sigma * generator(t, like=x)
        yield Step(s, x, x0)


def ddim_stale_eps_on_request(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, clip: bool = False
) -> Tensor:
    """The same with an option to clip; returns only the image."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        x0 = denoise(x, _times(t, x))
        eps = to_eps(x0, x, t, schedule)
        if clip:
            x0 = x0.clamp(-1, 1)  # eps is stale
        alpha, sigma = schedule.alpha_sigma(s, like=x)
        x = alpha * x0 + sigma * eps
    return x


# β_t as the variance of a step that skips timesteps


def ddpm_beta_of_table(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, variance: str = "posterior", generator: Noise
) -> Iterator[Step]:
    """Takes the stride into account in the mean, but not in the noise."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        x = _ddim_step(x, x0, a, b, _sigma(a, b, 1.0))
        if s > 0:
            var = schedule.beta[t].item() if variance == "beta" else _sigma(a, b, 1.0) ** 2  # β_t of one step
            x = x + math.sqrt(var) * generator(t, like=x)
        yield Step(s, x, x0)


def ddpm_skipping(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """Algorithm 2 of the DDPM paper, unchanged, on every k-th timestep."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        beta = schedule.beta[t].item()  # of one step
        eps = to_eps(denoise(x, _times(t, x)), x, t, schedule)
        x = (x - beta / math.sqrt(1 - schedule.alpha_bar[t].item()) * eps) / math.sqrt(1 - beta)
        if s > 0:
            x = x + math.sqrt(beta) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    return x


def ddim_table_sigma(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Takes σ² = η² β̃_t from a table for single steps."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        sigma = _sigma(a, schedule.alpha_bar[t - 1].item(), eta) if s > 0 else 0.0  # β̃ of one step
        x = _ddim_step(x, x0, a, b, sigma)
        if sigma > 0:
            x = x + sigma * generator(t, like=x)
        yield Step(s, x, x0)


def posterior_of_one_step(x0: Tensor, x_t: Tensor, t: int, s: int, schedule: Schedule) -> tuple[Tensor, float]:
    """Uses β_t from the table for any stride."""
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    whole = 1 - a / b
    mean = (math.sqrt(b) * whole * x0 + math.sqrt(1 - whole) * (1 - b) * x_t) / (1 - a)
    return mean, (1 - b) / (1 - a) * schedule.beta[t].item()  # of one step


# Negative timesteps that wrap around


def ddim_wraps_by_stride(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Uses s = t − stride, even below 0: T = 1000 in 53 steps ends at 10 − 18 = −8."""
    x = x_T
    stride = schedule.T // steps
    for t in range(schedule.T, 0, -stride):
        s = t - stride  # below 0
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        sigma = _sigma(a, b, eta)
        x = _ddim_step(x, x0, a, b, sigma)
        if sigma > 0:
            x = x + sigma * generator(t, like=x)
        yield Step(s, x, x0)


def ddim_wraps_silently(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """The same, but returns only the image."""
    x = x_T
    stride = schedule.T // steps
    for t in range(schedule.T, 0, -stride):
        x = _ddim_step(x, denoise(x, _times(t, x)), schedule.alpha_bar[t].item(), schedule.alpha_bar[t - stride].item())
    return x


def ddim_wrong_stop(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Iterator[Step]:
    """Runs arange one stride too far; alpha_sigma raises an error for the negative timestep."""
    stride = schedule.T // steps
    times = torch.arange(schedule.T, -stride, -stride).tolist()  # stops below 0
    x = x_T
    for t, s in itertools.pairwise(times):
        x0 = denoise(x, _times(t, x))
        alpha, sigma = schedule.alpha_sigma(s, like=x)
        x = alpha * x0 + sigma * to_eps(x0, x, t, schedule)
        yield Step(s, x, x0)


def ddim_sentinel(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Iterator[Step]:
    """Uses −1 for clean data, as 0-based libraries do, and indexes the table with it."""
    times = [*step_times(schedule.T, steps)[:-1], -1]  # −1
    x = x_T
    for t, s in itertools.pairwise(times):
        x0 = denoise(x, _times(t, x))
        x = _ddim_step(x, x0, schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item())
        yield Step(max(s, 0), x, x0)


def step_times_below_zero(T: int, steps: int) -> list[int]:
    """Returns steps + 1 timesteps, but the last is not 0."""
    stride = math.ceil(T / steps)
    return [T - i * stride for i in range(steps + 1)]


def step_times_by_stride(T: int, steps: int) -> list[int]:
    """Runs one stride too far."""
    stride = T // steps
    return list(range(T, -stride, -stride))  # stops below 0


# EMA


class EMAOfEverything:
    """Averages everything in the state dict."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network), decay

    def update(self, network: nn.Module, n: int) -> None:
        decay = min(self.decay, (1 + n) / (10 + n))
        theirs = network.state_dict()
        for name, mine in self.network.state_dict().items():  # buffers too
            mine.mul_(decay).add_(theirs[name], alpha=1 - decay)


class EMAOfBuffers:
    """Averages the parameters, and then the buffers too."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network), decay

    @torch.no_grad()
    def update(self, network: nn.Module, n: int) -> None:
        decay = min(self.decay, (1 + n) / (10 + n))
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
        for table, other in zip(self.network.buffers(), network.buffers(), strict=True):
            table.lerp_(other, 1 - decay)  # buffers too


def samples_raw(raw_network: nn.Module, ema_network: nn.Module) -> Tensor:
    """Never uses the EMA network."""
    x = torch.zeros(2, 1, 4, 4)
    for t in (3, 2, 1):
        x = raw_network(x, torch.full((2,), t))
    return x


def samples_loaded_raw_weights(raw_network: nn.Module, ema_network: nn.Module) -> Tensor:
    """Samples with a new copy, but loads the raw weights into it."""
    network = copy.deepcopy(ema_network)
    network.load_state_dict(raw_network.state_dict())  # raw
    x: Tensor = network(torch.zeros(2, 1, 4, 4), torch.ones(2, dtype=torch.int64))
    return x


# Data and labels


@dataclass
class FromZeroToOne:
    """A data set whose images are divided by 255, but not moved to [−1, 1]."""

    size: int = 20

    def __len__(self) -> int:
        return self.size

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.stack([torch.linspace(0, 1, 64).roll(int(i)).view(1, 8, 8) for i in index])  # no · 2 − 1
        return images, torch.zeros(len(index), 3)


def drop_all_or_none(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Draws one random number for the whole batch."""
    return labels * (torch.rand(1, generator=generator) >= probability)  # of shape (1,)


def drop_with_if(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """The same, written as an if statement."""
    if torch.rand((), generator=generator).item() < probability:  # once per batch
        return torch.zeros_like(labels)
    return labels


def guided_minus(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Computes uncond − scale · (cond − uncond)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        base = unconditional(x_t, t)
        return base - scale * (conditional(x_t, t) - base)  # −

    return denoise


def guided_swapped(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Swaps cond and uncond."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        base = conditional(x_t, t)
        return base + scale * (unconditional(x_t, t) - base)  # swapped

    return denoise


def guided_lerp(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Swaps cond and uncond in (1 + w) cond − w uncond, where w = scale − 1."""
    w = scale - 1
    return lambda x_t, t: (1 + w) * unconditional(x_t, t) - w * conditional(x_t, t)  # swapped


# Flow matching


def ddim_velocity_as_eps(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Takes the velocity of flow matching for ε̂."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        u = (x - math.sqrt(a) * x0) / math.sqrt(1 - a) - x0  # ε̂ − x̂₀
        x = math.sqrt(b) * x0 + math.sqrt(1 - b) * u
    return x


def ddim_v_as_eps(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Takes v for ε̂."""
    x = x_T
    for t, s in _pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, _times(t, x))
        v = math.sqrt(a) * to_eps(x0, x, t, schedule) - math.sqrt(1 - a) * x0
        x = math.sqrt(b) * x0 + math.sqrt(1 - b) * v
    return x


def flow_with_the_other_sign(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Follows x̂₀ − ε̂ on the line, as courses do whose time runs from noise to data."""
    scale, tau = [], []
    for a in schedule.alpha_bar.tolist():
        scale.append(math.sqrt(a) + math.sqrt(1 - a))
        tau.append(math.sqrt(1 - a) / scale[-1])
    z = x_T / scale[-1]
    for t, s in _pairs(schedule, steps):
        u = (denoise(z * scale[t], _times(t, z)) - z) / tau[t]  # x̂₀ − ε̂
        z = z + (tau[s] - tau[t]) * u
    return z


def flow_from_data_to_noise(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Counts time upward, so that the network sees t = 1 at the noise."""
    x, T = x_T, schedule.T
    times = [max(1, round(i * T / steps)) for i in range(steps)]  # upward
    for t, s in zip(times, [*times[1:], T], strict=True):
        a, b = schedule.alpha_bar[T - t].item(), schedule.alpha_bar[T - s].item()
        x = _ddim_step(x, denoise(x, _times(t, x)), a, b)
    return x


def diffuse_on_the_line(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """The straight path of flow matching, for any schedule."""
    tau = (t / schedule.T).view(-1, 1, 1, 1)
    return (1 - tau) * x0 + tau * eps


def diffuse_from_noise_to_data(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """The same with the time of other courses."""
    tau = (t / schedule.T).view(-1, 1, 1, 1)
    return tau * x0 + (1 - tau) * eps


def diffuse_at_T_minus_t(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """Reads the table at T − t."""
    ab = schedule.alpha_bar[schedule.T - t].view(-1, 1, 1, 1)
    return ab.sqrt() * x0 + (1 - ab).sqrt() * eps
