"""Right and wrong answers to lab 1, Sampling."""

import itertools
import math
from typing import Any

import torch

from shapedreamer.diffusion.process import posterior
from shapedreamer.diffusion.samplers import Step
from shapedreamer.diffusion.schedule import step_times
from tests.labs.answers import Answers


def numbers(t: int, s: int, schedule: Any) -> tuple[float, float, float]:
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    return a, b, 1 - a / b


# one_call


class OneCall:
    def __call__(self, denoise: Any, x_T: Any, schedule: Any) -> Any:
        return denoise(x_T, torch.tensor([schedule.T] * x_T.shape[0])).double()


def one_call_in_place(denoise: Any, x_T: Any, schedule: Any) -> Any:
    t = torch.zeros(len(x_T), dtype=torch.int64)
    t += schedule.T
    return denoise(x_T, t)


def full(x: Any, t: Any) -> Any:
    return torch.full((len(x),), t)


# posterior_mean


def mean_with_tensors(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
    ratio = a / b
    return (b.sqrt() * (1 - ratio) * x0 + ratio.sqrt() * (1 - b) * x_t) / (1 - a)


def mean_in_place(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    a, b, beta = numbers(t, s, schedule)
    x_t.mul_((1 - beta) ** 0.5 * (1 - b) / (1 - a))
    return x_t.add_(x0, alpha=b**0.5 * beta / (1 - a))


class MeanByPrecision:
    """The product of two Gaussians: precisions add."""

    def __call__(self, x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
        _a, b, beta = numbers(t, s, schedule)
        if s == 0:
            return x0
        prior, likelihood = 1 / (1 - b), (1 - beta) / beta
        mean = prior * b**0.5 * x0.double() + likelihood * x_t.double() / (1 - beta) ** 0.5
        return mean / (prior + likelihood)


def mean_swapped(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    return posterior(x_t, x0, t, s, schedule)[0]


def mean_of_table(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    a, b, _ = numbers(t, s, schedule)
    beta = schedule.beta[t].item()
    return (b**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - b) * x_t) / (1 - a)


def mean_without_roots(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    a, b, beta = numbers(t, s, schedule)
    return (b * beta * x0 + (1 - beta) * (1 - b) * x_t) / (1 - a)


def mean_without_one_root(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    a, b, beta = numbers(t, s, schedule)
    return (b**0.5 * beta * x0 + (1 - beta) * (1 - b) * x_t) / (1 - a)


def mean_without_denominator(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    _, b, beta = numbers(t, s, schedule)
    return b**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - b) * x_t


def mean_with_wrong_root(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    a, b, beta = numbers(t, s, schedule)
    return (a**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - b) * x_t) / (1 - a)


def mean_without_x_t(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    return schedule.alpha_bar[s].sqrt() * x0


def mean_of_pixels(x_t: Any, x0: Any, t: int, s: int, schedule: Any) -> Any:
    return mean_with_tensors(x_t, x0, t, s, schedule).mean()


# posterior_variance


class VarianceAsTensor:
    def __call__(self, t: int, s: int, schedule: Any) -> Any:
        a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
        return (1 - b) * (1 - a / b) / (1 - a)


def variance_by_precision(t: int, s: int, schedule: Any) -> float:
    _a, b, beta = numbers(t, s, schedule)
    return 1 / (1 / (1 - b) + (1 - beta) / beta) if s else 0.0


# ddpm_step


class StepInDouble:
    def __call__(self, x_t: Any, x0: Any, t: int, s: int, schedule: Any, z: Any) -> Any:
        mean, variance = posterior(x0.double(), x_t.double(), t, s, schedule)
        return mean + variance**0.5 * z.double()


def step_in_place(x_t: Any, x0: Any, t: int, s: int, schedule: Any, z: Any) -> Any:
    mean, variance = posterior(x0, x_t, t, s, schedule)
    if s > 0:
        mean += z.mul_(math.sqrt(variance))
    return mean


def step_like_ddim(x_t: Any, x0: Any, t: int, s: int, schedule: Any, z: Any) -> Any:
    """DDIM with η = 1 is DDPM."""
    a, b, beta = numbers(t, s, schedule)
    variance = (1 - b) / (1 - a) * beta
    eps = (x_t - a**0.5 * x0) / (1 - a) ** 0.5
    return b**0.5 * x0 + max(1 - b - variance, 0) ** 0.5 * eps + variance**0.5 * z


def step_with(std: Any, base: Any = None) -> Any:
    """A wrong step: std(a, b, beta) of the noise, and base(mean, x_t, x0)."""

    def step(x_t: Any, x0: Any, t: int, s: int, schedule: Any, z: Any) -> Any:
        mean, _ = posterior(x0, x_t, t, s, schedule)
        return (base(mean, x_t, x0) if base else mean) + std(*numbers(t, s, schedule)) * z

    return step


def step_with_own_noise(x_t: Any, x0: Any, t: int, s: int, schedule: Any, z: Any) -> Any:
    return StepInDouble()(x_t, x0, t, s, schedule, torch.randn_like(z))


def tilde(a: float, b: float, beta: float) -> float:
    return (1 - b) / (1 - a) * beta


# ddpm


def ddpm_as_list(denoise: Any, schedule: Any, x_T: Any, steps: int, *, generator: Any) -> Any:
    x, times, seen = x_T, step_times(schedule.T, steps), []
    for i in range(steps):
        t = torch.full((x.shape[0],), times[i], dtype=torch.int64)
        x0 = denoise(x, t)
        mean, variance = posterior(x0, x, times[i], times[i + 1], schedule)
        if times[i + 1] > 0:
            mean = mean + variance**0.5 * generator(times[i], like=x)
        x = mean
        seen.append((times[i + 1], x, x0))
    return seen


class DDPM:
    def __call__(self, denoise: Any, schedule: Any, x_T: Any, steps: int, *, generator: Any) -> Any:
        x = x_T.clone()
        times = step_times(schedule.T, steps)
        while len(times) > 1:
            t, s = times[0], times[1]
            x0 = denoise(x, torch.tensor([t] * len(x)))
            mean, variance = posterior(x0, x, t, s, schedule)
            x = variance**0.5 * generator(t, like=x) + mean
            yield Step(s, x.clone(), x0)
            times = times[1:]


def ddpm_with(**wrong: Any) -> Any:
    """DDPM with a mistake."""

    def ddpm(denoise: Any, schedule: Any, x_T: Any, steps: int, *, generator: Any) -> Any:
        x, times = x_T, step_times(schedule.T, schedule.T if wrong.get("all") else steps)
        z = generator(times[0], like=x) if wrong.get("same") else None
        for t, s in itertools.pairwise(times):
            called = max(s, 1) if wrong.get("early") else t
            form = called if wrong.get("int") else torch.full((len(x),), called)
            if wrong.get("float"):
                form = torch.full((len(x),), float(called))
            x0 = denoise(form, x) if wrong.get("order") else denoise(x_T if wrong.get("stuck") else x, form)
            mean, variance = posterior(x0, x, t, s, schedule)
            if not wrong.get("same"):
                z = generator(s if wrong.get("s") else t, like=x)
            if wrong.get("randn"):
                z = torch.randn_like(x)
            before, after = x, mean if wrong.get("no_noise") else mean + variance**0.5 * z
            if wrong.get("clamp"):
                after = after.clamp(-1, 1)
            x = before if wrong.get("forget") else after
            yield (t if wrong.get("t") else s, before if wrong.get("before") else after, x0)

    def plain(denoise: Any, schedule: Any, x_T: Any, steps: int, *, generator: Any) -> Any:
        seen = list(ddpm(denoise, schedule, x_T, steps, generator=generator if not wrong.get("randn") else torch_noise))
        return {"image": seen[-1][1], "last": [seen[-1]], "images": [x for _, x, _ in seen]}[wrong["result"]]

    return plain if "result" in wrong else ddpm


def torch_noise(t: int, like: Any) -> Any:
    return torch.randn_like(like)


def ddpm_with_own_noise(denoise: Any, schedule: Any, x_T: Any, steps: int, *, generator: Any) -> Any:
    yield from ddpm_with()(denoise, schedule, x_T, steps, generator=torch_noise)


def ddpm_without_end(denoise: Any, schedule: Any, x_T: Any, steps: int, *, generator: Any) -> Any:
    while True:
        denoise(x_T, torch.full((len(x_T),), schedule.T))


# next_variance


def variance_with_tensors(v: Any, t: int, s: int, schedule: Any, d: Any, noise: bool) -> Any:
    one = torch.ones((), dtype=torch.float64)
    a = schedule.alpha_bar[t]
    gain = a.sqrt() * d**2 / (a * d**2 + 1 - a)
    mean, tilde = posterior(gain * one, one, t, s, schedule)
    return mean.square() * v + noise * tilde


class VarianceByOracle:
    def __call__(self, v: Any, t: int, s: int, schedule: Any, d: Any, noise: bool) -> Any:
        from shapedreamer.diffusion import oracle

        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        mean, tilde = posterior(oracle.gaussian(0.0, d, schedule)(one, torch.tensor([t])), one, t, s, schedule)
        return mean.item() ** 2 * v + (tilde if noise else 0.0)


def wrong_variance(formula: Any) -> Any:
    """formula(A, B, g, v, tilde, noise, a, d) is the result."""

    def next_variance(v: Any, t: int, s: int, schedule: Any, d: Any, noise: bool) -> Any:
        a, b, beta = numbers(t, s, schedule)
        A, B = b**0.5 * beta / (1 - a), (1 - beta) ** 0.5 * (1 - b) / (1 - a)
        g = a**0.5 * d**2 / (a * d**2 + 1 - a)
        return formula(A, B, g, v, tilde(a, b, beta), noise, a, d)

    return next_variance


# exam


def exam_by_x0(network: Any, schedule: Any, x_T: Any, generator: Any) -> Any:
    x = x_T.double()
    for t in reversed(range(1, schedule.T + 1)):
        a = schedule.alpha_bar[t]
        x0 = (x - (1 - a).sqrt() * network(x, torch.full((len(x),), t)).double()) / a.sqrt()
        x, _ = posterior(x0, x, t, t - 1, schedule)
        x = x + (schedule.beta[t].sqrt() * generator(t, like=x_T) if t > 1 else 0)
    return x


class ExamInPlace:
    def __call__(self, network: Any, schedule: Any, x_T: Any, generator: Any) -> Any:
        x = x_T.clone()
        for t in range(schedule.T, 0, -1):
            beta = float(schedule.beta[t])
            x -= beta / (1 - float(schedule.alpha_bar[t])) ** 0.5 * network(x, torch.tensor([t] * len(x)))
            x /= (1 - beta) ** 0.5
            x += (t > 1) * beta**0.5 * generator(t, like=x)
        return x


def exam_with(**wrong: Any) -> Any:
    def exam(network: Any, schedule: Any, x_T: Any, generator: Any) -> Any:
        x = x_T
        for t in range(schedule.T - wrong.get("skip", 0), 0, -1):
            a, b, beta = numbers(t, t - 1, schedule)
            eps = network(x, torch.full((len(x),), t))
            if wrong.get("as_x0"):
                x, _ = posterior(eps, x, t, t - 1, schedule)
            else:
                root = 1 - a if wrong.get("no_root") else (1 - a) ** 0.5
                x = (x - beta / root * eps) / (a if wrong.get("cumulative") else 1 - beta) ** 0.5
            variance = tilde(a, b, beta) if wrong.get("posterior") else beta
            if t > 1 or wrong.get("last"):
                x = x + (variance if wrong.get("as_std") else variance**0.5) * generator(t, like=x)
        return [x] if wrong.get("list") else x

    return exam


def exam_without_noise(network: Any, schedule: Any, x_T: Any, generator: Any) -> Any:
    return exam_with()(network, schedule, x_T, lambda t, like: torch.zeros_like(like))


def exam_with_own_noise(network: Any, schedule: Any, x_T: Any, generator: Any) -> Any:
    return exam_with()(network, schedule, x_T, torch_noise)


ANSWERS = {
    "one_call": Answers(
        right=[OneCall(), one_call_in_place],
        wrong=[
            (lambda denoise, x, schedule: denoise(x, schedule.T), "a timestep for each image"),
            (lambda denoise, x, schedule: denoise(x, torch.tensor([schedule.T])), "you passed shape (1,)"),
            (lambda denoise, x, schedule: denoise(x, full(x, float(schedule.T))), "you passed floats"),
            (lambda denoise, x, schedule: denoise(x, full(x, schedule.T - 1)), "pure noise is at t = T"),
            (lambda denoise, x, schedule: denoise(x, full(x, 0)), "timesteps run from 1"),
            (lambda denoise, x, schedule: denoise(schedule.T, x), "image first"),
            (lambda denoise, x, schedule: x - denoise(x, full(x, schedule.T)), "clean image itself"),
            (lambda denoise, x, schedule: denoise(x, full(x, schedule.T)).mean(0), "returned shape"),
            (lambda denoise, x, schedule: x, "not called"),
        ],
    ),
    "posterior_mean": Answers(
        right=[mean_with_tensors, mean_in_place, MeanByPrecision()],
        wrong=[
            (mean_swapped, "swapped"),
            (mean_of_table, "β_t of the table"),
            (mean_without_roots, "roots are missing"),
            (mean_without_one_root, "root of 1−β"),
            (mean_without_denominator, "denominator is 1−ᾱ_t in both"),
            (mean_with_wrong_root, "not √ᾱ_t"),
            (mean_without_x_t, "x_t is known too"),
            (mean_of_pixels, "returned shape ()"),
        ],
    ),
    "posterior_variance": Answers(
        right=[VarianceAsTensor(), variance_by_precision],
        wrong=[
            (lambda t, s, schedule: numbers(t, s, schedule)[2], "your variance is β, where"),
            (lambda t, s, schedule: tilde(*numbers(t, s, schedule)) ** 0.5, "standard deviation"),
            (lambda t, s, schedule: (1 - schedule.alpha_bar[s]) / (1 - schedule.alpha_bar[t]), "multiply it by β"),
            (
                lambda t, s, schedule: (
                    (1 - schedule.alpha_bar[t]) / (1 - schedule.alpha_bar[s]) * numbers(t, s, schedule)[2]
                ),
                "upside down",
            ),
            (
                lambda t, s, schedule: (1 - schedule.alpha_bar[s]) / (1 - schedule.alpha_bar[t]) * schedule.beta[t],
                "β_t of the table",
            ),
            (lambda t, s, schedule: schedule.beta[t], "variance of the forward process"),
            (lambda t, s, schedule: max(tilde(*numbers(t, s, schedule)), 1e-5 * (s == 0)), "exactly 0"),
        ],
    ),
    "ddpm_step": Answers(
        right=[StepInDouble(), step_in_place, step_like_ddim],
        wrong=[
            (step_with(tilde), "multiply it by √v"),
            (step_with(lambda a, b, beta: beta**0.5), "where the posterior variance β̃ belongs"),
            (step_with(lambda a, b, beta: 0), "without noise"),
            (step_with_own_noise, "noise of your own"),
            (step_with(lambda *n: tilde(*n) ** 0.5, lambda mean, x_t, x0: x0), "not the posterior's"),
            (step_with(lambda *n: tilde(*n) ** 0.5, lambda mean, x_t, x0: x_t), "noise to x_t"),
            (step_with(lambda a, b, beta: 1.0), "standard deviation 1"),
            (step_with(lambda a, b, beta: (1 - b) ** 0.5), "variance 1−ᾱ_s"),
            (step_with(lambda *n: -(tilde(*n) ** 0.5)), "subtract the noise"),
        ],
    ),
    "ddpm": Answers(
        right=[ddpm_as_list, DDPM(), ddpm_with()],
        wrong=[
            (ddpm_with(same=True), "the same noise"),
            (ddpm_with(no_noise=True), "lack fresh noise"),
            (ddpm_with(forget=True), "does not change from step to step"),
            (ddpm_with(early=True), "called at s"),
            (ddpm_with(int=True), "a timestep for each image"),
            (ddpm_with(float=True), "a timestep for each image"),
            (ddpm_with(order=True), "a timestep for each image"),
            (ddpm_with(stuck=True), "always gets x_T"),
            (ddpm_with(s=True), "not of s"),
            (ddpm_with(before=True), "before the step"),
            (ddpm_with(t=True), "you yield t"),
            (ddpm_with(all=True), "ignore `steps`"),
            (ddpm_with(clamp=True), "clamped"),
            (ddpm_with(result="image"), "yield a step in every turn"),
            (ddpm_with(result="last"), "yield once"),
            (ddpm_with(result="images"), "yield sd.samplers.Step"),
            (ddpm_with_own_noise, "does not come from the generator"),
            (ddpm_without_end, "does its loop end"),
        ],
    ),
    "next_variance": Answers(
        right=[variance_with_tensors, VarianceByOracle()],
        wrong=[
            (wrong_variance(lambda A, B, g, v, w, noise, a, d: (A * g + B) ** 2 * v + w), "although `noise` is False"),
            (wrong_variance(lambda A, B, g, v, w, noise, a, d: (A * g + B) ** 2 * v), "fresh noise is missing"),
            (wrong_variance(lambda A, B, g, v, w, noise, a, d: (A * g + B) * v + noise * w), "multiplies the variance"),
            (
                wrong_variance(lambda A, B, g, v, w, noise, a, d: ((A * g + B) ** 2 * v + noise * w) ** 0.5),
                "return the variance",
            ),
            (
                wrong_variance(lambda A, B, g, v, w, noise, a, d: ((A * g) ** 2 + B**2) * v + noise * w),
                "not independent",
            ),
            (wrong_variance(lambda A, B, g, v, w, noise, a, d: (A * g + B) ** 2 * v + noise * w**0.5), "variances add"),
            (wrong_variance(lambda A, B, g, v, w, noise, a, d: (A + B) ** 2 * v + noise * w), "factor g is missing"),
            (wrong_variance(lambda A, B, g, v, w, noise, a, d: (A * g) ** 2 * v + noise * w), "weight B of x_t"),
        ],
    ),
    "exam": Answers(
        right=[exam_by_x0, ExamInPlace()],
        wrong=[
            (exam_with(last=True), "the last step adds noise"),
            (exam_with(posterior=True), "posterior variance"),
            (exam_with(as_std=True), "to get noise of variance v"),
            (exam_with(as_x0=True), "predicts the noise"),
            (exam_with(no_root=True), "the root is missing"),
            (exam_with(cumulative=True), "cumulative product"),
            (exam_with(skip=1), "call the network once at every t"),
            (exam_with(list=True), "return the final image"),
            (exam_without_noise, "no fresh noise"),
            (exam_with_own_noise, "does not come from the generator"),
        ],
    ),
}
