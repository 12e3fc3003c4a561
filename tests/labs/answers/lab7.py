"""Right and wrong answers to lab 7, Flow matching."""

import itertools
import math
from typing import Any

import torch

from shapedreamer.diffusion.process import to_x0
from tests.labs.answers import Answers


def factors(t: int, schedule: Any) -> tuple[float, float]:
    a = schedule.alpha_bar[t].item()
    return math.sqrt(a), math.sqrt(1 - a)


# to_line


def line_by_table(x_t: Any, t: int, schedule: Any) -> Any:
    tau = schedule.tau[t]
    return x_t * torch.hypot(1 - tau, tau), tau


class LineInPlace:
    def __call__(self, x_t: Any, t: int, schedule: Any) -> Any:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        return [x_t.div_(alpha + sigma), float(sigma / (alpha + sigma))]


def line_with(z: Any = None, tau: Any = None) -> Any:
    """z(x_t, α, σ) and tau(α, σ) instead of the right ones."""

    def to_line(x_t: Any, t: int, schedule: Any) -> Any:
        alpha, sigma = factors(t, schedule)
        return (
            z(x_t, alpha, sigma) if z else x_t / (alpha + sigma),
            tau(alpha, sigma) if tau else sigma / (alpha + sigma),
        )

    return to_line


# x0_from_velocity


def x0_of_the_package(x_t: Any, u: Any, t: int, schedule: Any) -> Any:
    return to_x0("flow", u, x_t, t, schedule)


class X0InPlace:
    def __call__(self, x_t: Any, u: Any, t: int, schedule: Any) -> Any:
        alpha, sigma = factors(t, schedule)
        return x_t.double().sub_(sigma * u).div_(alpha + sigma)


def x0_with(formula: Any) -> Any:
    """formula(x_t, u, α, σ, τ, t/T) is the result."""

    def x0(x_t: Any, u: Any, t: int, schedule: Any) -> Any:
        alpha, sigma = factors(t, schedule)
        return formula(x_t, u, alpha, sigma, sigma / (alpha + sigma), t / schedule.T)

    return x0


# euler_step


def step_by_mixing(denoise: Any, z: Any, t: int, s: int, schedule: Any) -> Any:
    tau, tau_s = schedule.tau[t], schedule.tau[s]
    x0 = denoise((z / torch.hypot(tau, 1 - tau)).float(), torch.full((len(z),), t))
    eps = (z - (1 - tau) * x0) / tau
    return (1 - tau_s) * x0 + tau_s * eps


class StepByDDIM:
    def __call__(self, denoise: Any, z: Any, t: int, s: int, schedule: Any) -> Any:
        alpha, sigma = factors(t, schedule)
        x = z * (alpha + sigma)
        x0 = denoise(x, torch.full((len(z),), t))
        eps = (x - alpha * x0) / sigma
        alpha, sigma = factors(s, schedule)
        return (alpha * x0 + sigma * eps) / (alpha + sigma)


def step_with(formula: Any = None, scale: Any = None, at_s: bool = False, calls: int = 1) -> Any:
    """formula(z, x_t, x0, τ_t, τ_s) is the result, scale(τ_t, τ_s) is the divisor of z."""

    def step(denoise: Any, z: Any, t: int, s: int, schedule: Any) -> Any:
        tau, tau_s = schedule.tau[t].item(), schedule.tau[s].item()
        x_t = z / (scale(tau, tau_s) if scale else math.hypot(1 - tau, tau))
        for _ in range(calls):
            x0 = denoise(x_t, torch.full((len(z),), max(s, 1) if at_s else t))
        return formula(z, x_t, x0, tau, tau_s) if formula else z + (tau_s - tau) * (z - x0) / tau

    return step


def step_of_the_timesteps(denoise: Any, z: Any, t: int, s: int, schedule: Any) -> Any:
    tau = schedule.tau[t].item()
    x0 = denoise(z / math.hypot(1 - tau, tau), torch.full((len(z),), t))
    return z + (s - t) / schedule.T * (z - x0) / tau


def step_with_int(denoise: Any, z: Any, t: int, s: int, schedule: Any) -> Any:
    return denoise(z, t)


# midpoint_step


class MidpointInPlace:
    def __call__(self, velocity: Any, z: Any, tau: float, tau_s: float) -> Any:
        h = tau - tau_s
        middle = z.clone().sub_(velocity(z, tau), alpha=h / 2)
        return z.sub_(velocity(middle, tau - h / 2), alpha=h)


def midpoint_with_tensors(velocity: Any, z: Any, tau: float, tau_s: float) -> Any:
    times = torch.linspace(tau, tau_s, 3, dtype=torch.float64)
    k1 = velocity(z, times[0])
    k2 = velocity(z + (times[1] - times[0]) * k1, times[1])
    return z + (times[2] - times[0]) * k2


def midpoint_with(formula: Any) -> Any:
    """formula(velocity, z, u, h, τ, τ_s) is the result; u is the velocity at the start."""
    return lambda velocity, z, tau, tau_s: formula(velocity, z, velocity(z, tau), tau_s - tau, tau, tau_s)


def three_calls(velocity: Any, z: Any, tau: float, tau_s: float) -> Any:
    velocity(z, tau)
    return MidpointInPlace()(velocity, z, tau, tau_s)


# log_snr_of


class LogSnrByRatio:
    def __call__(self, mean: float, std: float, shift: float) -> Any:
        ratio = math.exp(mean) * shift
        return [-math.log(ratio**2), math.sqrt(4 * std**2)]


def log_snr_as_tensor(mean: float, std: float, shift: float) -> Any:
    return torch.tensor([-2 * (mean + math.log(shift)), 2 * std], dtype=torch.float64)


# convert


class Convert:
    """A denoiser with the formula of the package, in float64."""

    def __init__(self, velocity: Any, schedule: Any) -> None:
        self.velocity, self.schedule = velocity, schedule

    def __call__(self, x_t: Any, t: Any) -> Any:
        alpha, sigma = self.schedule.alpha_sigma(t, like=x_t.double())
        u = -self.velocity((x_t / (alpha + sigma)).float(), (alpha / (alpha + sigma)).flatten())
        return (x_t - sigma * u) / (alpha + sigma)


def convert_one_by_one(velocity: Any, schedule: Any) -> Any:
    def denoise(x_t: Any, t: Any) -> Any:
        images = []
        for x, time in zip(x_t, t.tolist(), strict=True):
            tau = schedule.tau[time].item()
            z = x[None] * math.hypot(1 - tau, tau)
            images.append(z + tau * velocity(z, torch.tensor([1 - tau])))
        return torch.cat(images)

    return denoise


def convert_with(formula: Any) -> Any:
    """formula(f, x_t, α, σ, τ) is x̂₀, where the numbers are (B, 1, 1, 1) and f takes r in this shape."""

    def convert(velocity: Any, schedule: Any) -> Any:
        def denoise(x_t: Any, t: Any) -> Any:
            alpha, sigma = schedule.alpha_sigma(t, like=x_t)
            return formula(lambda y, r: velocity(y, r.flatten()), x_t, alpha, sigma, sigma / (alpha + sigma))

        return denoise

    return convert


def convert_with_time(time: Any) -> Any:
    """time(t, T) is passed as r."""

    def convert(velocity: Any, schedule: Any) -> Any:
        def denoise(x_t: Any, t: Any) -> Any:
            tau = schedule.tau[t].float().view(-1, 1, 1, 1)
            z = x_t * torch.hypot(1 - tau, tau)
            return z + tau * velocity(z, time(t, schedule.T))

        return denoise

    return convert


# exam


class Exam:
    """In the time of the other camp, forwards."""

    def __call__(self, network: Any, noise: Any, steps: int, shift: float) -> Any:
        def forward(y: Any, r: float) -> Any:
            return network(y / (r * r + (1 - r) ** 2) ** 0.5, torch.full((len(y),), r, dtype=torch.float64))

        u = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
        times = (1 - shift * u / (1 + (shift - 1) * u)).tolist()
        y = noise
        for r, after in itertools.pairwise(times):
            middle = (r + after) / 2
            y = y + (after - r) * forward(y + (middle - r) * forward(y, r), middle)
        return y


def exam_with(**wrong: Any) -> Any:
    def exam(network: Any, noise: Any, steps: int, shift: float) -> Any:
        def velocity(z: Any, tau: float) -> Any:
            scale = 1 if wrong.get("no_scale") else math.hypot(1 - tau, tau)
            r = torch.full((len(z),), tau if wrong.get("reversed") else 1 - tau)
            return wrong.get("sign", -1) * network(z / scale, r)

        def shifted(tau: float) -> float:
            k = wrong["k"](shift) if "k" in wrong else shift
            return k * tau / (1 + (k - 1) * tau)

        z = noise
        for i in range(steps):
            tau, tau_s = shifted(1 - i / steps), shifted(1 - (i + 1) / steps)
            middle = shifted(1 - (i + 0.5) / steps) if wrong.get("unshifted") else (tau + tau_s) / 2
            u = velocity(z, tau)
            if wrong.get("heun"):
                u = (u + velocity(z + (tau_s - tau) * u, tau_s)) / 2
            elif not wrong.get("euler"):
                u = velocity(z + (middle - tau) * u, middle)
            z = z + (tau_s - tau) * u
        return [z] if wrong.get("list") else z

    return exam


def exam_with_other_times(network: Any, noise: Any, steps: int, shift: float) -> Any:
    return exam_with()(network, noise, steps + 1, shift)


ANSWERS = {
    "to_line": Answers(
        right=[line_by_table, LineInPlace(), line_with()],
        wrong=[
            (lambda x, t, s: (line_with()(x, t, s)[0], t / s.T), "your τ is t/T"),
            (line_with(tau=lambda a, s: a / (a + s)), "share of the image"),
            (line_with(tau=lambda a, s: s * s), "share of noise in the variance"),
            (line_with(tau=lambda a, s: s), "your τ is σ, the factor"),
            (line_with(tau=lambda a, s: s / max(a, 1e-9)), "your τ is σ/α"),
            (line_with(z=lambda x, a, s: x * (a + s)), "z is x_t times α+σ"),
            (line_with(z=lambda x, a, s: x), "has the scale of x_t"),
            (line_with(z=lambda x, a, s: x / max(a, 1e-9)), "divided x_t by α"),
            (lambda x, t, s: line_with()(x, t, s)[0], "return two values"),
            (lambda x, t, s: line_with()(x, t, s)[::-1], "return z first"),
        ],
    ),
    "x0_from_velocity": Answers(
        right=[x0_of_the_package, X0InPlace()],
        wrong=[
            (x0_with(lambda x, u, a, s, tau, c: (x - s * u) / max(a, 1e-9)), "velocity as ε"),
            (x0_with(lambda x, u, a, s, tau, c: a * x - s * u), "u as v"),
            (x0_with(lambda x, u, a, s, tau, c: (x + s * u) / (a + s)), "sign is wrong"),
            (x0_with(lambda x, u, a, s, tau, c: x - tau * u), "the scale is missing"),
            (x0_with(lambda x, u, a, s, tau, c: x - s * u), "divisor α+σ is missing"),
            (x0_with(lambda x, u, a, s, tau, c: x / (a + s) + (1 - tau) * u), "this is ε̂"),
            (x0_with(lambda x, u, a, s, tau, c: x / (a + s) - (1 - tau) * u), "you go back by 1−τ"),
            (x0_with(lambda x, u, a, s, tau, c: x / (a + s) - u), "you go back by 1;"),
            (x0_with(lambda x, u, a, s, tau, c: x / (a + s) - c * u), "your τ is t/T"),
            (x0_with(lambda x, u, a, s, tau, c: x / (a + s)), "you return z"),
            (x0_with(lambda x, u, a, s, tau, c: (x / a - s / a * u) / (1 + s / a) if a else x * math.nan), "α = 0"),
        ],
    ),
    "euler_step": Answers(
        right=[step_by_mixing, StepByDDIM(), step_with()],
        wrong=[
            (step_with(scale=lambda tau, tau_s: 1), "the denoiser gets z"),
            (step_with(scale=lambda tau, tau_s: 1 / math.hypot(1 - tau, tau)), "you multiplied"),
            (step_with(scale=lambda tau, tau_s: (1 - tau) ** 2 + tau**2), "the root is missing"),
            (step_with(scale=lambda tau, tau_s: math.hypot(1 - tau_s, tau_s)), "τ of s; x_t needs"),
            (step_with(at_s=True), "called at s"),
            (step_with(calls=2), "calls it once"),
            (step_with(lambda z, x, x0, a, b: z + (b - a) * (x - x0) / a), "with z; you took x_t"),
            (step_with(lambda z, x, x0, a, b: z - (b - a) * (z - x0) / a), "the step adds noise"),
            (step_with(lambda z, x, x0, a, b: z + (b - a) * (z - x0)), "did not divide by τ"),
            (step_with(lambda z, x, x0, a, b: z + (b - a) * x0), "x̂₀ as the velocity"),
            (step_with(lambda z, x, x0, a, b: z + (b - a) * (z - (1 - a) * x0) / a), "ε̂ as the velocity"),
            (step_with(lambda z, x, x0, a, b: x0), "you return x̂₀"),
            (step_of_the_timesteps, "(s − t)/T"),
            (step_with_int, "a timestep for each image"),
        ],
    ),
    "midpoint_step": Answers(
        right=[MidpointInPlace(), midpoint_with_tensors],
        wrong=[
            (midpoint_with(lambda f, z, u, h, a, b: z + h * u), "this is Euler"),
            (midpoint_with(lambda f, z, u, h, a, b: z + h / 2 * (u + f(z + h * u, b))), "this is Heun"),
            (midpoint_with(lambda f, z, u, h, a, b: z + h * f(z + h * u, b)), "at the end of the step"),
            (midpoint_with(lambda f, z, u, h, a, b: (m := z + h / 2 * u) + h * f(m, a + h / 2)), "start from z again"),
            (midpoint_with(lambda f, z, u, h, a, b: (m := z + h / 2 * u) + h / 2 * f(m, a + h / 2)), "two half steps"),
            (midpoint_with(lambda f, z, u, h, a, b: z + h / 2 * f(z + h / 2 * u, a + h / 2)), "only half as long"),
            (midpoint_with(lambda f, z, u, h, a, b: z + h * f(z + h / 2 * u, a)), "at the τ of the start"),
            (midpoint_with(lambda f, z, u, h, a, b: z + h * f(z, a + h / 2)), "but not in space"),
            (midpoint_with(lambda f, z, u, h, a, b: z - h * f(z - h / 2 * u, a + h / 2)), "your sign is wrong"),
            (midpoint_with(lambda f, z, u, h, a, b: z + h / 2 * u), "you return z_m"),
            (three_calls, "two are enough"),
        ],
    ),
    "log_snr_of": Answers(
        right=[LogSnrByRatio(), log_snr_as_tensor],
        wrong=[
            (lambda m, s, k: (-2 * m - 4 * math.log(k), 2 * s), "applied twice"),
            (lambda m, s, k: (-2 * m, 2 * s), "the shift is missing"),
            (lambda m, s, k: (-2 * m + 2 * math.log(k), 2 * s), "wrong sign: it moves"),
            (lambda m, s, k: (2 * m + 2 * math.log(k), 2 * s), "sign"),
            (lambda m, s, k: (-m - math.log(k), 2 * s), "factor 2 is missing"),
            (lambda m, s, k: (-2 * m - math.log(k), 2 * s), "in front of log(shift)"),
            (lambda m, s, k: (-2 * m - 2 * math.log(k), s), "lacks the factor 2"),
            (lambda m, s, k: (-2 * m - 2 * math.log(k), 4 * s * s), "this is the variance"),
            (lambda m, s, k: (-2 * m - 2 * math.log(k), -2 * s), "is positive"),
            (lambda m, s, k: (-2 * m - 2 * math.log(k), 2 * s * k), "does not change the standard deviation"),
            (lambda m, s, k: (2 * s, -2 * m - 2 * math.log(k)), "mean first"),
            (lambda m, s, k: -2 * m - 2 * math.log(k), "return two values"),
        ],
    ),
    "convert": Answers(
        right=[Convert, convert_one_by_one],
        wrong=[
            (convert_with(lambda f, x, a, s, tau: x / (a + s) - tau * f(x / (a + s), 1 - tau)), "the wrong sign"),
            (convert_with(lambda f, x, a, s, tau: x / (a + s) + tau * f(x / (a + s), tau)), "time is reversed"),
            (convert_with(lambda f, x, a, s, tau: x / (a + s) - tau * f(x / (a + s), tau)), "both reversed"),
            (convert_with(lambda f, x, a, s, tau: x + tau * f(x, 1 - tau)), "the scale is missing"),
            (convert_with(lambda f, x, a, s, tau: x / (a + s) + tau * f(x, 1 - tau)), "but it needs z"),
            (convert_with(lambda f, x, a, s, tau: x + tau * f(x / (a + s), 1 - tau)), "you start from x_t"),
            (convert_with(lambda f, x, a, s, tau: x * (a + s) + tau * f(x * (a + s), 1 - tau)), "wrong way round"),
            (
                convert_with(lambda f, x, a, s, tau: (x + s * f(x / (a + s), 1 - tau)) / a.clamp(min=1e-9)),
                "−velocity as ε̂",
            ),
            (convert_with(lambda f, x, a, s, tau: a * x + s * f(x / (a + s), 1 - tau)), "−velocity as v"),
            (convert_with(lambda f, x, a, s, tau: f(x / (a + s), 1 - tau)), "you return the velocity"),
            (convert_with_time(lambda t, T: t), "is it a timestep"),
            (convert_with_time(lambda t, T: 1 - t / T), "your r is 1 − t/T"),
            (convert_with_time(lambda t, T: t.float()), "r is from 0 (noise)"),
            (convert_with_time(lambda t, T: 0.5), "a float tensor (B,)"),
            (lambda f, schedule: torch.zeros(4), "must return a function"),
        ],
    ),
    "exam": Answers(
        right=[Exam(), exam_with()],
        wrong=[
            (exam_with(sign=1), "the wrong sign"),
            (exam_with(reversed=True), "time is reversed"),
            (exam_with(sign=1, reversed=True), "both reversed"),
            (exam_with(no_scale=True), "the scale is missing"),
            (exam_with(k=lambda k: k * k), "applied twice"),
            (exam_with(k=lambda k: 1), "the shift is missing"),
            (exam_with(k=lambda k: 1 / k), "goes the wrong way"),
            (exam_with(euler=True), "this is Euler"),
            (exam_with(heun=True), "this is Heun"),
            (exam_with(unshifted=True), "you shift the middle"),
            (exam_with(list=True), "return the final image"),
            (exam_with_other_times, "must be called at r ="),
        ],
    ),
}
