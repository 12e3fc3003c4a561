"""Samplers as people write them, right and wrong: each stands for a kind that public code contains.

``RIGHT`` must pass, with these notes; for each in ``WRONG`` the report must name the mistake. Most are factories, so
that the tests can search for more of a kind.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shapedreamer.conformance import mistakes
from shapedreamer.conformance.mistakes import Mistake
from shapedreamer.diffusion.denoiser import Denoise
from shapedreamer.diffusion.schedule import Schedule, step_times

Sampler = Callable[..., Tensor]


def batch_of(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64)


def pairs(schedule: Schedule, steps: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise(step_times(schedule.T, steps)))


def move(x: Tensor, x0: Tensor, a: float, b: float, sigma: float = 0.0, factor: float = 1.0) -> Tensor:
    """A DDIM step without its noise; ``factor`` multiplies the predicted noise."""
    eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    return math.sqrt(b) * x0 + factor * math.sqrt(max(1 - b - sigma**2, 0.0)) * eps


def sigma_of(a: float, b: float, eta: float = 1.0) -> float:
    return eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))


def ddim_with(
    change_x0: Callable[[Tensor], Tensor] = lambda x0: x0,
    change_x: Callable[[Tensor], Tensor] = lambda x: x,
    factor: float = 1.0,
    repeat: bool = False,
    tables: Callable[[Schedule], Sequence[float]] = lambda schedule: schedule.alpha_bar.tolist(),
) -> Sampler:
    """Return DDIM at η = 0 with something changed."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x, table, times = x_T, tables(schedule), step_times(schedule.T, steps)
        if repeat:
            times[len(times) // 2] = times[len(times) // 2 - 1]
        for t, s in itertools.pairwise(times):
            x0 = change_x0(denoise(x, batch_of(t, x)))
            x = move(x, x0, table[t], table[s], factor=factor)
            x = change_x(x) if s else x
        return x

    return sampler


def stochastic(
    share: float | None = None, noise: Callable[[Tensor], Tensor] = torch.randn_like, scale: float = 1.0
) -> Sampler:
    """Return a sampler with noise of its own: σ is this share of √(1−ᾱ_s), or that of DDPM if None."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x, table = x_T, schedule.alpha_bar.tolist()
        for t, s in pairs(schedule, steps):
            a, b = table[t], table[s]
            sigma = sigma_of(a, b) if share is None else share * math.sqrt(1 - b)
            x = move(x, denoise(x, batch_of(t, x)), a, b, sigma)
            if s:
                x = x + scale * sigma * noise(x)
        return x

    return sampler


def in_sigma_form(*, last: float = 0.0, scaled: bool = True, start: float = 1.0) -> Sampler:
    """Return DDIM in σ form, x = x₀ + σ ε."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        a = schedule.alpha_bar[step_times(schedule.T, steps)]
        sigmas = ((1 - a) / a).sqrt()
        sigmas[-1] = last
        x = x_T * (start + sigmas[0] ** 2).sqrt()
        for (t, _), sigma, next_sigma in zip(pairs(schedule, steps), sigmas, sigmas[1:], strict=False):
            x0 = denoise(x / (1 + sigma**2).sqrt() if scaled else x, batch_of(t, x))
            x = x + (x - x0) / sigma * (next_sigma - sigma)
        return x

    return sampler


def multistep(
    weight: Callable[[float, float], float] = lambda h, before: h / (2 * before), *, repeat: bool = False,
    last: float = 0.0, eta: float = 0.0, noise_scale: float = 1.0,
) -> Sampler:  # fmt: skip
    """Return DPM-Solver++(2M) that extrapolates with this weight, in σ form."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        times = step_times(schedule.T, steps)
        if repeat:
            times[len(times) // 2] = times[len(times) // 2 - 1]
        table = schedule.alpha_bar.tolist()
        sigmas = [math.sqrt((1 - table[t]) / table[t]) for t in times]
        sigmas[-1] = last
        x, before, h_before = x_T * math.sqrt(1 + sigmas[0] ** 2), None, 0.0
        for k, t in enumerate(times[:-1]):
            x0 = denoise(x / math.sqrt(1 + sigmas[k] ** 2), batch_of(t, x))
            h = math.log(sigmas[k] / sigmas[k + 1]) if sigmas[k + 1] else math.inf
            guess = x0
            if before is not None and sigmas[k + 1]:
                guess = x0 + torch.tensor(weight(h, h_before) if h_before else math.nan) * (x0 - before)
            up = min(eta * math.sqrt(1 - (sigmas[k + 1] / sigmas[k]) ** 2), 1.0) * sigmas[k + 1]
            down = math.sqrt(sigmas[k + 1] ** 2 - up**2)
            x = guess + down / sigmas[k] * (x - guess)
            if up:
                x = x + noise_scale * up * torch.randn_like(x)
            before, h_before = x0, h
        return x

    return sampler


def heun(*, in_angle: bool) -> Sampler:
    """Return Heun's method, N steps and 2N − 1 calls, in σ or in the angle (where ᾱ_T = 0 is fine)."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        table = schedule.alpha_bar.tolist()

        def sigma(t: int) -> float:
            return math.sqrt((1 - table[t]) / table[t])

        def slope(x: Tensor, t: int) -> Tensor:
            return (x - denoise(x / math.sqrt(1 + sigma(t) ** 2), batch_of(t, x))) / sigma(t)

        def angle(t: int) -> float:
            return math.acos(math.sqrt(table[t]))

        def v(x: Tensor, t: int) -> Tensor:
            return (math.cos(angle(t)) * x - denoise(x, batch_of(t, x))) / math.sin(angle(t))

        x = x_T if in_angle else x_T * math.sqrt(1 + sigma(schedule.T) ** 2)
        for t, s in pairs(schedule, steps):
            if in_angle:
                d, h = v(x, t), angle(s) - angle(t)
                end = math.cos(h) * x + math.sin(h) * d
                x = x + h * (d + v(end, s)) / 2 if s else end
            else:
                d, h = slope(x, t), sigma(s) - sigma(t)
                x = x + h * (d + slope(x + h * d, s)) / 2 if s else x + h * d
        return x

    return sampler


def noise_table(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """DDPM with the noise of all steps drawn before the loop."""
    x, table, noise = x_T, schedule.alpha_bar.tolist(), torch.randn(steps, *x_T.shape, dtype=x_T.dtype)
    for k, (t, s) in enumerate(pairs(schedule, steps)):
        sigma = sigma_of(table[t], table[s])
        x = move(x, denoise(x, batch_of(t, x)), table[t], table[s], sigma) + sigma * noise[k]
    return x


def one_noise(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """DDPM with one draw for all steps."""
    x, table, noise = x_T, schedule.alpha_bar.tolist(), torch.randn_like(x_T)
    for t, s in pairs(schedule, steps):
        sigma = sigma_of(table[t], table[s])
        x = move(x, denoise(x, batch_of(t, x)), table[t], table[s], sigma) + sigma * noise
    return x


def thresholded(x0: Tensor) -> Tensor:
    """Dynamic thresholding (Saharia et al. 2022), for each image on its own."""
    largest = x0.abs().flatten(1).amax(1).clamp(min=1).view(-1, 1, 1, 1)
    return x0 / largest


def with_eta(change: Callable[[float], float], *, used: bool = True) -> Sampler:
    """Return DDIM with σ computed from a function of eta."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float = 0.0) -> Tensor:
        x, table = x_T, schedule.alpha_bar.tolist()
        for t, s in pairs(schedule, steps):
            sigma = sigma_of(table[t], table[s], change(eta) if used else 0.0)
            x = move(x, denoise(x, batch_of(t, x)), table[t], table[s], sigma)
            x = x + sigma * torch.randn_like(x)
        return x

    return sampler


def ignoring_eta(sampler: Sampler) -> Sampler:
    def ignores(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float = 0.0) -> Tensor:
        return sampler(denoise, schedule, x_T, steps)

    return ignores


def every_timestep(eta: float) -> Sampler:
    """Return DDIM over t = T…1, whatever the number of steps."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x, table = x_T, schedule.alpha_bar.tolist()
        for t in range(schedule.T, 0, -1):
            sigma = sigma_of(table[t], table[t - 1], eta)
            x = move(x, denoise(x, batch_of(t, x)), table[t], table[t - 1], sigma)
            x = x + sigma * torch.randn_like(x) if sigma else x
        return x

    return sampler


def goes_to(end: Callable[[int, int, int, int], int]) -> Sampler:
    """Return DDIM whose steps end at end(t, s, n, T), while the next call is at s."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x, table = x_T, schedule.alpha_bar.tolist()
        for t, s in pairs(schedule, steps):
            u = end(t, s, steps, schedule.T)
            x = move(x, denoise(x, batch_of(t, x)), table[t], table[u])
        return x

    return sampler


def swapped_arguments(denoise: Any, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    return ddim_with()(lambda x, t: denoise(t, x), schedule, x_T, steps)


def other_order(x_T: Tensor, denoise: Denoise, schedule: Schedule, steps: int) -> Tensor:
    return ddim_with()(denoise, schedule, x_T, steps)


# Euler methods in other variables than those of DDIM

Amount = Callable[[Schedule, int, int], float]
"""(schedule, t, s) -> the integral of β over a step."""


def beta_at_t(schedule: Schedule, t: int, s: int) -> float:
    """β_t times the length of the step, as Euler's method has it."""
    return schedule.beta[t].item() * (t - s)


def beta_integrated(schedule: Schedule, t: int, s: int) -> float:
    return math.log(schedule.alpha_bar[s].item() / schedule.alpha_bar[t].item())


def beta_summed(schedule: Schedule, t: int, s: int) -> float:
    return schedule.beta[s + 1 : t + 1].sum().item()


def beta_of_chain(schedule: Schedule, t: int, s: int) -> float:
    return 1 - schedule.alpha_bar[t].item() / schedule.alpha_bar[s].item()


def beta_of_one_step(schedule: Schedule, t: int, s: int) -> float:
    return schedule.beta[t].item()


def euler(
    amount: Amount = beta_at_t, *, drift: float = 0.5, score: float = 0.5, noise: float = 0.0, last: str = "x̂₀",
    change_x0: Callable[[Tensor], Tensor] = lambda x0: x0, change_x: Callable[[Tensor], Tensor] = lambda x: x,
    fresh: Callable[[Tensor, int], Tensor] = lambda x, t: torch.randn_like(x),
) -> Sampler:  # fmt: skip
    """Return Euler's method in t for dx = −drift β x dt − score β ∇log p dt + noise √β dw (Song et al. 2021).

    drift 1/2 and score 1/2 without noise is the probability-flow ODE, and drift 1/2, score 1, noise 1 the reverse SDE.
    last: "x̂₀" to return the last x̂₀, "mean" for an Euler step without its noise, "step" for one with it
    """

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x = x_T
        for t, s in pairs(schedule, steps):
            a, b = schedule.alpha_bar[t].item(), amount(schedule, t, s)
            x0 = change_x0(denoise(x, batch_of(t, x)))
            if s == 0 and last == "x̂₀":
                return x0
            gradient = (math.sqrt(a) * x0 - x) / (1 - a)
            x = x + drift * b * x + score * b * gradient
            if noise and (s or last == "step"):
                x = x + noise * math.sqrt(b) * fresh(x, t)
            x = change_x(x)
        return x

    return sampler


def euler_with_eta(change: Callable[[float], float] = lambda eta: eta, *, needed: bool = True) -> Sampler:
    """Return Euler–Maruyama whose noise grows with eta: the score has the factor (1 + η²)/2.

    needed: whether the factor of the score fits the noise; otherwise it stays 1/2
    """

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float = 0.0) -> Tensor:
        used = change(eta)
        run = euler(score=(1 + used**2) / 2 if needed else 0.5, noise=used)
        return run(denoise, schedule, x_T, steps)

    return sampler


def reverse_diffusion(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """The reverse diffusion predictor of Song et al. 2021, appendix E."""
    x = x_T
    for t, s in pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), beta_of_chain(schedule, t, s)
        x0 = denoise(x, batch_of(t, x))
        if s == 0:
            return x0
        x = (2 - math.sqrt(1 - b)) * x + b * (math.sqrt(a) * x0 - x) / (1 - a) + math.sqrt(b) * torch.randn_like(x)
    return x


def euler_in_angle(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Euler's method in the angle φ, where dx/dφ = v."""
    x = x_T
    for t, s in pairs(schedule, steps):
        here, there = (math.acos(schedule.alpha_bar[time].sqrt().item()) for time in (t, s))
        x0 = denoise(x, batch_of(t, x))
        x = x + (there - here) * (math.cos(here) * x - x0) / math.sin(here) if s else x0
    return x


def euler_in_log_sigma(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Euler's method in log σ, of x/√ᾱ."""
    x = x_T
    for t, s in pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0, z = denoise(x, batch_of(t, x)), x / math.sqrt(a)
        if s == 0:
            return x0
        x = math.sqrt(b) * (z + 0.5 * math.log((1 - b) / b * a / (1 - a)) * (z - x0))
    return x


def variance_exploding(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    """Euler–Maruyama in σ²: the reverse SDE of a variance-exploding process."""
    x = x_T
    for t, s in pairs(schedule, steps):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0, z = denoise(x, batch_of(t, x)), x / math.sqrt(a)
        if s == 0:
            return x0
        before, change = (1 - a) / a, (1 - a) / a - (1 - b) / b
        x = math.sqrt(b) * (z + change / before * (x0 - z) + math.sqrt(change) * torch.randn_like(x))
    return x


def perturbed(of_x: float = 1.0, of_x0: float = 1.0, of_noise: float = 1.0, eta: float = 0.0) -> Sampler:
    """Return DDIM whose coefficients are multiplied by these factors."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x, table = x_T, schedule.alpha_bar.tolist()
        for t, s in pairs(schedule, steps):
            x0, sigma = denoise(x, batch_of(t, x)), sigma_of(table[t], table[s], eta)
            keep = math.sqrt((1 - table[s] - sigma**2) / (1 - table[t]))
            x = of_x * keep * x + of_x0 * (math.sqrt(table[s]) - keep * math.sqrt(table[t])) * x0 if s else x0
            x = x + of_noise * sigma * torch.randn_like(x) if sigma else x
        return x

    return sampler


def ddim_with_sigma_s(sigma_s: Callable[[float, float, float], float]) -> Sampler:
    """Return DDIM with this function of ᾱ_s, t/T and s/T in the place of √(1−ᾱ_s), and √(1−σ_s²) in that of √ᾱ_s."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x, T = x_T, schedule.T
        for t, s in pairs(schedule, steps):
            a, x0 = schedule.alpha_bar[t].item(), denoise(x, batch_of(t, x))
            sigma = sigma_s(schedule.alpha_bar[s].item(), t / T, s / T)
            x = math.sqrt(1 - sigma**2) * x0 + sigma * (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
        return x

    return sampler


def one_minus_beta(schedule: Schedule) -> list[float]:
    return (1 - schedule.beta).tolist()


def float32_tables(schedule: Schedule) -> list[float]:
    return schedule.alpha_bar.float().tolist()


NOTES_OF_SIGMA = [mistakes.DIVIDES_BY_SIGNAL]
EULER = [mistakes.EULER]
EULER_WITHOUT_ZERO_SNR = [mistakes.EULER, mistakes.DIVIDES_BY_SIGNAL]
SDE: dict[str, Any] = {"score": 1.0, "noise": 1.0}
RIGHT: dict[str, tuple[Sampler, list[Mistake]]] = {
    "DDIM": (ddim_with(), []),
    "DDIM that clips x̂₀": (ddim_with(lambda x0: x0.clamp(-1, 1)), []),
    "DDIM with dynamic thresholding": (ddim_with(thresholded), []),
    "DDIM with float32 tables": (ddim_with(tables=float32_tables), [mistakes.SINGLE_PRECISION]),
    "DDIM with noise times 0": (with_eta(lambda eta: eta), [mistakes.NEEDLESS_NOISE]),
    "DDPM": (stochastic(), []),
    "DDPM with a table of noise": (noise_table, []),
    "a small σ of its own": (stochastic(0.3), []),
    "fresh noise in every step (LCM)": (stochastic(1.0), []),
    "DDIM in σ form": (in_sigma_form(), NOTES_OF_SIGMA),
    "DDIM in σ form from σ_T x_T": (in_sigma_form(start=0.0), [mistakes.START_IN_SIGMA, *NOTES_OF_SIGMA]),
    "2M in σ form": (multistep(), NOTES_OF_SIGMA),
    "SDE 2M in σ form": (multistep(eta=1.0), NOTES_OF_SIGMA),
    "textbook Heun in σ": (heun(in_angle=False), NOTES_OF_SIGMA),
    "textbook Heun in the angle": (heun(in_angle=True), []),
    "Euler of the probability-flow ODE in t": (euler(), EULER),
    "Euler of the probability-flow ODE, β integrated": (euler(beta_integrated), EULER_WITHOUT_ZERO_SNR),
    "Euler of the probability-flow ODE, β summed": (euler(beta_summed), EULER),
    "Euler of the probability-flow ODE, 1 − ᾱ_t/ᾱ_s": (euler(beta_of_chain), EULER),
    "Euler of the probability-flow ODE that clips x̂₀": (euler(change_x0=lambda x0: x0.clamp(-1, 1)), EULER),
    "Euler–Maruyama of the reverse SDE in t": (euler(**SDE), EULER),
    "Euler–Maruyama of the reverse SDE, β integrated": (euler(beta_integrated, **SDE), EULER_WITHOUT_ZERO_SNR),
    "Euler–Maruyama of the reverse SDE, 1 − ᾱ_t/ᾱ_s": (euler(beta_of_chain, **SDE), EULER),
    "Euler–Maruyama with half of the noise": (euler(score=0.75, noise=math.sqrt(0.5)), EULER),
    "Euler–Maruyama with eta": (euler_with_eta(), EULER),
    "reverse diffusion predictor": (reverse_diffusion, EULER),
    "Euler in the angle": (euler_in_angle, EULER),
    "Euler in log σ": (euler_in_log_sigma, EULER_WITHOUT_ZERO_SNR),
    "Euler–Maruyama in σ²": (variance_exploding, EULER_WITHOUT_ZERO_SNR),
}
COEFFICIENTS = "a step has the wrong coefficients"
WRONG: dict[str, tuple[Sampler, Mistake | str]] = {
    "x̂₀ scaled by the maximum of the batch": (
        ddim_with(lambda x0: x0 / x0.abs().max().clamp(min=1)), mistakes.MIXED_IMAGES),
    "x̂₀ clipped at a quantile of the batch": (
        ddim_with(lambda x0: x0.clamp(max=x0.flatten().quantile(0.9).clamp(min=1).item())), mistakes.MIXED_IMAGES),
    "x̂₀ minus the mean of the batch": (ddim_with(lambda x0: x0 - x0.mean()), mistakes.MIXED_IMAGES),
    "x_t normalised over the batch": (ddim_with(change_x=lambda x: x / x.std()), mistakes.MIXED_IMAGES),
    "x_t clamped to ±1": (ddim_with(change_x=lambda x: x.clamp(-1, 1)), mistakes.CLAMPED_X),
    "x_t clamped to ±1.5": (ddim_with(change_x=lambda x: x.clamp(-1.5, 1.5)), mistakes.CLAMPED_X),
    "half of the direction": (ddim_with(factor=0.5), mistakes.WRONG_DIRECTION),
    "all noise forgotten": (ddim_with(factor=0.0), mistakes.NOISE_FORGOTTEN),
    "x̂₀ scaled by 0.9": (ddim_with(lambda x0: 0.9 * x0), mistakes.WRONG_SIGNAL),
    "1 − β for ᾱ": (ddim_with(tables=one_minus_beta), mistakes.BETA_FOR_ALPHA_BAR),
    "a time twice": (ddim_with(repeat=True), mistakes.REPEATED_TIME),
    "2M with a time twice": (multistep(repeat=True), mistakes.REPEATED_TIME),
    "2M with the inverted ratio": (multistep(lambda h, before: before / (2 * h)), mistakes.INVERTED_RATIO),
    "2M with the wrong sign": (multistep(lambda h, before: -h / (2 * before)), mistakes.WRONG_WEIGHT),
    "2M without the half": (multistep(lambda h, before: h / before), mistakes.WRONG_WEIGHT),
    "2M that ignores the lengths of steps": (multistep(lambda h, before: 0.5), mistakes.WRONG_WEIGHT),
    "2M in σ form, last σ not 0": (multistep(last=0.01), mistakes.LAST_SIGMA),
    "σ form, last σ not 0": (in_sigma_form(last=0.01), mistakes.LAST_SIGMA),
    "σ form, last σ 0.3": (in_sigma_form(last=0.3), mistakes.LAST_SIGMA),
    "σ form, input not scaled": (in_sigma_form(scaled=False), mistakes.UNSCALED_INPUT),
    "SDE 2M with too much noise": (multistep(eta=1.0, noise_scale=1.3), "does not converge to the exact one"),
    "DDPM with too little noise": (stochastic(scale=0.8), mistakes.WRONG_NOISE),
    "DDPM with one noise for all pixels": (
        stochastic(noise=lambda x: torch.randn(len(x), 1, 1, 1, dtype=x.dtype)), mistakes.SHARED_NOISE),
    "DDPM with one noise for all steps": (one_noise, mistakes.SHARED_NOISE),
    "σ = √(η …)": (with_eta(math.sqrt), mistakes.ETA_ROOT),
    "η ignored": (with_eta(lambda eta: eta, used=False), mistakes.ETA_IGNORED),
    "η ignored by 2M": (ignoring_eta(multistep()), mistakes.ETA_IGNORED),
    "η ignored by Heun": (ignoring_eta(heun(in_angle=True)), mistakes.ETA_IGNORED),
    "DDPM over all T": (every_timestep(1.0), mistakes.IGNORES_STEPS),
    "DDIM over all T": (every_timestep(0.0), mistakes.IGNORES_STEPS),
    "steps to t − T // n": (goes_to(lambda t, s, n, T: max(t - T // n, 0)), mistakes.FIXED_STRIDE),
    "steps to (s + t) // 2": (goes_to(lambda t, s, n, T: (s + t) // 2 if s else 0), mistakes.ENDS_ELSEWHERE),
    "Euler of the ODE without the 1/2 of the score": (euler(score=1.0), COEFFICIENTS),
    "Euler of the ODE without any 1/2": (euler(drift=1.0, score=1.0), COEFFICIENTS),
    "Euler of the ODE without the drift": (euler(drift=0.0), COEFFICIENTS),
    "Euler of the ODE, score with the wrong sign": (euler(score=-0.5), COEFFICIENTS),
    "Euler of the ODE, drift with the wrong sign": (euler(drift=-0.5), COEFFICIENTS),
    "Euler of the ODE, β of one step": (euler(beta_of_one_step), COEFFICIENTS),
    "Euler of the ODE, score 5 % too large": (euler(beta_integrated, score=0.525), COEFFICIENTS),
    "Euler of the ODE, x_t clamped to ±1.5": (euler(change_x=lambda x: x.clamp(-1.5, 1.5)), mistakes.CLAMPED_X),
    "Euler of the ODE, half of a large x̂₀": (
        euler(change_x0=lambda x0: torch.where(x0.abs() > 1, x0 / 2, x0)), "not computed from the x̂₀"),
    "Euler of the ODE, noise left": (euler(last="mean"), mistakes.NOISE_LEFT),
    "Euler–Maruyama with the score of the ODE": (euler(beta_integrated, score=0.5, noise=1.0), COEFFICIENTS),
    "Euler–Maruyama without noise": (euler(score=1.0, noise=0.0), COEFFICIENTS),
    "Euler–Maruyama, β of one step": (euler(beta_of_one_step, **SDE), COEFFICIENTS),
    "Euler–Maruyama, β of one step in the noise": (
        euler(fresh=lambda x, t: torch.randn_like(x) * 0.3, **SDE), COEFFICIENTS),
    "Euler–Maruyama, score with the wrong sign": (euler(score=-1.0, noise=1.0), COEFFICIENTS),
    "Euler–Maruyama, noise 5 % too large": (euler(beta_integrated, score=1.0, noise=1.05), COEFFICIENTS),
    "Euler–Maruyama, noise 30 % too large near the end": (
        euler(beta_integrated, fresh=lambda x, t: torch.randn_like(x) * (1.3 if t < 50 else 1.0), **SDE), COEFFICIENTS),
    "Euler–Maruyama, noise in the last step": (euler(last="step", **SDE), mistakes.NOISE_ON_LAST_STEP),
    "Euler–Maruyama, noise left": (euler(last="mean", **SDE), mistakes.NOISE_LEFT),
    "Euler–Maruyama with √η": (euler_with_eta(math.sqrt), COEFFICIENTS),
    "Euler–Maruyama with the same score at every η": (euler_with_eta(needed=False), COEFFICIENTS),
    "DDIM, factor of x̂₀ 5 % too large": (perturbed(of_x0=1.05), mistakes.WRONG_SIGNAL),
    "DDIM, factor of x_t 5 % too large": (perturbed(of_x=1.05), COEFFICIENTS),
    "DDIM, both factors 5 % too small": (perturbed(of_x=0.95, of_x0=0.95), COEFFICIENTS),
    "DDPM, noise 5 % too large": (perturbed(of_noise=1.05, eta=1.0), mistakes.WRONG_NOISE),
    "DDPM, noise 0.5 % too large": (perturbed(of_noise=1.005, eta=1.0), mistakes.WRONG_NOISE),
    "DDIM with 1 − ᾱ_s for √(1−ᾱ_s)": (ddim_with_sigma_s(lambda b, t, s: 1 - b), COEFFICIENTS),
    "DDIM with √(1−ᾱ_s²) for √(1−ᾱ_s)": (ddim_with_sigma_s(lambda b, t, s: math.sqrt(1 - b**2)), COEFFICIENTS),
    "DDIM, error of σ_s as √h": (
        ddim_with_sigma_s(lambda b, t, s: math.sqrt(1 - b) * (1 - 0.3 * math.sqrt(t - s))), COEFFICIENTS),
    "DDIM, error of σ_s as h": (
        ddim_with_sigma_s(lambda b, t, s: math.sqrt(1 - b) * (1 - 0.1 * (t - s))), COEFFICIENTS),
    "denoise(t, x)": (swapped_arguments, mistakes.DENOISE_ORDER),
    "parameters in another order": (other_order, mistakes.ARGUMENT_ORDER),
}  # fmt: skip
