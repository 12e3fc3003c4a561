"""Right and wrong answers to lab 4, Fast sampling."""

import itertools
import math
from typing import Any

import torch

from shapedreamer.diffusion import samplers
from shapedreamer.diffusion.process import posterior
from shapedreamer.diffusion.samplers import Step
from shapedreamer.diffusion.schedule import step_times
from tests.labs.answers import Answers


def numbers(t: int, s: int, schedule: Any) -> tuple[float, float]:
    return schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()


def sigma_of(a: float, b: float, eta: float) -> float:
    return eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))


# ddim_step


class StepWithTensors:
    def __call__(self, x_t: Any, x0: Any, t: int, s: int, schedule: Any, eta: float, z: Any) -> Any:
        a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
        sigma = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
        eps = (x_t.double() - a.sqrt() * x0) / (1 - a).sqrt()
        return b.sqrt() * x0 + (1 - b - sigma**2).clamp(min=0).sqrt() * eps + sigma * z


def step_in_place(x_t: Any, x0: Any, t: int, s: int, schedule: Any, eta: float, z: Any) -> Any:
    a, b = numbers(t, s, schedule)
    sigma = sigma_of(a, b, eta)
    x_t.sub_(a**0.5 * x0).div_((1 - a) ** 0.5).mul_(max(1 - b - sigma**2, 0) ** 0.5)
    x_t += b**0.5 * x0
    x_t += z.mul_(sigma)
    return x_t


def step_with(formula: Any) -> Any:
    """formula(a, b, sigma, eta, x_t, x0, eps, z) is the result."""

    def step(x_t: Any, x0: Any, t: int, s: int, schedule: Any, eta: float, z: Any) -> Any:
        a, b = numbers(t, s, schedule)
        eps = (x_t - a**0.5 * x0) / (1 - a) ** 0.5
        return formula(a, b, sigma_of(a, b, eta), eta, x_t, x0, eps, z)

    return step


def root(value: float) -> float:
    return math.sqrt(max(value, 0))


def ddpm_whatever_eta(x_t: Any, x0: Any, t: int, s: int, schedule: Any, eta: float, z: Any) -> Any:
    mean, variance = posterior(x0, x_t, t, s, schedule)
    return mean + variance**0.5 * z


def beta_of_table(x_t: Any, x0: Any, t: int, s: int, schedule: Any, eta: float, z: Any) -> Any:
    a, b = numbers(t, s, schedule)
    sigma = eta * root((1 - b) / (1 - a) * schedule.beta[t].item())
    eps = (x_t - a**0.5 * x0) / (1 - a) ** 0.5
    return b**0.5 * x0 + root(1 - b - sigma**2) * eps + sigma * z


# timesteps


def times_by_linspace(T: int, steps: int) -> Any:
    return torch.linspace(T, 0, steps + 1, dtype=torch.float64).round().long()


class TimesRoundedDown:
    def __call__(self, T: int, steps: int) -> Any:
        return tuple((steps - i) * T // steps for i in range(steps + 1))


# ddim


class DDIM:
    def __call__(
        self, denoise: Any, schedule: Any, x_T: Any, steps: int, *, eta: float = 0.0, generator: Any = None
    ) -> Any:
        yield from samplers.ddim(denoise, schedule, x_T, steps, eta=eta, generator=generator)


def ddim_rounded_down(
    denoise: Any, schedule: Any, x_T: Any, steps: int, *, eta: float = 0.0, generator: Any = None
) -> Any:
    """Another rounding of the timesteps, returned as a list."""
    times = list(TimesRoundedDown()(schedule.T, steps))
    return list(samplers.ddim(denoise, schedule, x_T, times, eta=eta, generator=generator))


def ddim_with(**wrong: Any) -> Any:
    def ddim(denoise: Any, schedule: Any, x_T: Any, steps: int, *, eta: float = 0.0, generator: Any = None) -> Any:
        x, times = x_T, wrong["times"](schedule.T, steps) if "times" in wrong else step_times(schedule.T, steps)
        eta = wrong.get("eta", eta) if eta else eta
        z = generator(times[0], like=x) if wrong.get("same") and eta > 0 else 0
        for t, s in itertools.pairwise(times):
            x0 = denoise(x_T if wrong.get("stuck") else x, t if wrong.get("int") else torch.full((len(x),), t))
            if not wrong.get("same") and (eta > 0 or wrong.get("always")):
                z = torch.randn_like(x) if wrong.get("randn") else generator(s if wrong.get("s") else t, like=x)
            if wrong.get("no_z"):
                z = 0
            a, b = numbers(t, s, schedule)
            sigma = sigma_of(a, b, eta)
            eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
            after = b**0.5 * x0 + root(1 - b - sigma**2) * eps + sigma * z
            before, x = x, x if wrong.get("forget") else after
            yield Step(t if wrong.get("t") else s, before if wrong.get("before") else after, x0)

    def image(denoise: Any, schedule: Any, x_T: Any, steps: int, *, eta: float = 0.0, generator: Any = None) -> Any:
        return list(ddim(denoise, schedule, x_T, steps, eta=eta, generator=generator))[-1].x

    return image if wrong.get("image") else ddim


# order


class OrderByFit:
    def __call__(self, steps: Any, errors: Any) -> Any:
        x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (steps, errors))
        return -(y[1] - y[0]) / (x[1] - x[0])


def order_in_base_2(steps: Any, errors: Any) -> float:
    (n1, n2), (e1, e2) = steps, errors
    return math.log2(e2 / e1) / math.log2(n1 / n2)


# dpmpp_2m_step


def lam(t: int, schedule: Any) -> float:
    a = schedule.alpha_bar[t].item()
    return 0.5 * math.log(a / (1 - a))


class StepOfThePaper:
    """With the exponential of h, as the paper writes it; λ may be the whole log-SNR in the ratio."""

    def __call__(self, x_t: Any, x0: Any, x0_before: Any, r: Any, t: int, s: int, schedule: Any) -> Any:
        if s == 0:
            return x0
        a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
        h = lam(s, schedule) - lam(t, schedule)
        D = x0
        if x0_before is not None:
            D = x0 + (x0 - x0_before) * h / (lam(t, schedule) - lam(r, schedule)) / 2
        return ((1 - b) / (1 - a)).sqrt() * x_t.double() - b.sqrt() * math.expm1(-h) * D


def step_with_log_snr(x_t: Any, x0: Any, x0_before: Any, r: Any, t: int, s: int, schedule: Any) -> Any:
    a, b = numbers(t, s, schedule)
    if x0_before is not None and s != 0:
        log_snr = schedule.log_snr
        x0 = x0 + (log_snr[s] - log_snr[t]).item() / (2 * (log_snr[t] - log_snr[r]).item()) * (x0 - x0_before)
    return b**0.5 * x0 + (1 - b) ** 0.5 * (x_t - a**0.5 * x0) / (1 - a) ** 0.5


def second_order_with(weight: Any = None, **wrong: Any) -> Any:
    """weight(h, h', t − s, r − t) instead of h/(2h')."""

    def step(x_t: Any, x0: Any, x0_before: Any, r: Any, t: int, s: int, schedule: Any) -> Any:
        a, b = numbers(t, s, schedule)
        D = x0
        last = s == 0 and not wrong.get("infinite")
        if (x0_before is not None or wrong.get("first")) and not last:
            end = schedule.log_snr[s].item() / 2
            h, before = end - lam(t, schedule), lam(t, schedule) - lam(r, schedule)
            factor = weight(h, before, t - s, r - t) if weight else h / before / 2
            D = (x0_before if wrong.get("from_before") else x0) + factor * (x0 - x0_before)
        eps = (x_t - a**0.5 * (x0 if wrong.get("stale") else D)) / (1 - a) ** 0.5
        return b**0.5 * D + (1 - b) ** 0.5 * eps

    return step


# exam


class Exam:
    def __call__(self, network: Any, schedule: Any, x_T: Any, steps: int) -> Any:
        def denoise(x_t: Any, t: Any) -> Any:
            alpha, sigma = schedule.alpha_sigma(t, like=x_t)
            return (x_t - sigma * network(x_t, t)) / alpha

        return samplers.sample(samplers.dpmpp_2m(denoise, schedule, x_T, steps))


def exam_with(**wrong: Any) -> Any:
    def exam(network: Any, schedule: Any, x_T: Any, steps: int) -> Any:
        x, before, r = x_T, None, None
        step = StepOfThePaper() if wrong.get("paper") else second_order_with(**wrong)
        times = wrong["times"](schedule.T, steps) if "times" in wrong else step_times(schedule.T, steps)
        for t, s in itertools.pairwise(times):
            a = schedule.alpha_bar[t].item()
            eps = network(x, torch.full((len(x),), t))
            x0 = eps if wrong.get("as_x0") else (x - (1 - a) ** 0.5 * eps) / a**0.5
            x = step(x, x0, None if wrong.get("ddim") else before, r, t, s, schedule)
            before, r = x0, t
        return [x] if wrong.get("list") else x

    return exam


ANSWERS = {
    "ddim_step": Answers(
        right=[StepWithTensors(), step_in_place],
        wrong=[
            (step_with(lambda a, b, s, n, x, x0, e, z: b**0.5 * x0 + (1 - b) ** 0.5 * e + s * z), "is left for it"),
            (step_with(lambda a, b, s, n, x, x0, e, z: b**0.5 * x0 + (1 - a) ** 0.5 * e + s * z), "√(1−ᾱ_t), so"),
            (step_with(lambda a, b, s, n, x, x0, e, z: a**0.5 * x0 + root(1 - b - s * s) * e + s * z), "it is √ᾱ_s"),
            (
                step_with(lambda a, b, s, n, x, x0, e, z: b**0.5 * x0 + root(1 - b - s * s) * e),
                "fresh noise σ z is missing",
            ),
            (
                step_with(lambda a, b, s, n, x, x0, e, z: b**0.5 * x0 + root(1 - b - s * s) * x + s * z),
                "you use x_t where",
            ),
            (step_with(lambda a, b, s, n, x, x0, e, z: b**0.5 * x0 + s * e + s * z), "only z is"),
            (step_with(lambda a, b, s, n, x, x0, e, z: b * x0 + (1 - b - s * s) * e + s * z), "roots are missing"),
            (step_with(lambda a, b, s, n, x, x0, e, z: x0), "you return x̂₀"),
            (ddpm_whatever_eta, "η has no effect"),
            (beta_of_table, "β_t of the table"),
        ],
    ),
    "timesteps": Answers(
        right=[times_by_linspace, TimesRoundedDown()],
        wrong=[
            (lambda T, n: [*range(T, 0, -(T // n)), 0], "steps need"),
            (lambda T, n: list(range(T, -1, -(T // n))), "stride"),
            (lambda T, n: [T - i * (T // n) for i in range(n + 1)], "stride T // steps"),
            (lambda T, n: [i * (T // n) for i in range(n, -1, -1)], "stride T // steps"),
            (lambda T, n: [T - i * math.ceil(T / n) for i in range(n + 1)], "runs past the end"),
            (lambda T, n: [T - 1 - i * T // n for i in range(n)] + [0], "starts at T − 1"),
            (lambda T, n: [round(T - i * T / n) for i in range(n)], "append 0"),
            (lambda T, n: [T - i * T / n for i in range(n + 1)], "round them"),
            (lambda T, n: step_times(T, n)[::-1], "rises"),
            (lambda T, n: [*range(T, T - n, -1), 0], "not evenly spaced"),
            (lambda T, n: [T, *step_times(T, n)], "twice"),
        ],
    ),
    "ddim": Answers(
        right=[DDIM(), ddim_rounded_down, ddim_with()],
        wrong=[
            (ddim_with(eta=0.0), "eta has no effect"),
            (ddim_with(eta=1.0), "η = 1, whatever eta is"),
            (ddim_with(no_z=True), "z is 0"),
            (ddim_with(same=True), "the same noise"),
            (ddim_with(s=True), "not of s"),
            (ddim_with(forget=True), "does not change from step to step"),
            (ddim_with(stuck=True), "always gets x_T"),
            (ddim_with(int=True), "a timestep for each image"),
            (ddim_with(always=True), "there is no generator"),
            (ddim_with(randn=True), "does not come from the generator"),
            (ddim_with(before=True), "before the step"),
            (ddim_with(t=True), "you yield t"),
            (ddim_with(image=True), "yield a step in every turn"),
            (ddim_with(times=lambda T, n: step_times(T, T)), "ignore `steps`"),
            (ddim_with(times=lambda T, n: [i * (T // n) for i in range(n, -1, -1)]), "belongs to T"),
            (ddim_with(times=lambda T, n: step_times(T, n)[:-1]), "must land on 0"),
        ],
    ),
    "order": Answers(
        right=[OrderByFit(), order_in_base_2],
        wrong=[
            (lambda n, e: math.log(e[1] / e[0]) / math.log(n[1] / n[0]), "sign is wrong"),
            (lambda n, e: math.log(n[1] / n[0]) / math.log(e[0] / e[1]), "other way round"),
            (lambda n, e: (e[0] / e[1]) / (n[1] / n[0]), "logarithm of both"),
            (lambda n, e: math.log2(e[0] / e[1]), "only if the steps double"),
            (lambda n, e: math.log(e[0] / e[1]), "divide it by"),
            (lambda n, e: math.log(e[0] / e[1]) / (n[1] - n[0]), "ratio of steps"),
        ],
    ),
    "dpmpp_2m_step": Answers(
        right=[StepOfThePaper(), step_with_log_snr, second_order_with()],
        wrong=[
            (second_order_with(lambda h, g, u, v: 0), "ignore x0_before"),
            (second_order_with(lambda h, g, u, v: g / h / 2), "inverted"),
            (second_order_with(lambda h, g, u, v: h / g), "factor 1/2"),
            (second_order_with(lambda h, g, u, v: -h / g / 2), "sign is wrong"),
            (second_order_with(lambda h, g, u, v: u / v / 2), "measure the steps in t"),
            (second_order_with(lambda h, g, u, v: 0.5), "not 1/2"),
            (second_order_with(stale=True), "belongs to D"),
            (second_order_with(from_before=True), "start from x̂₀'"),
            (second_order_with(first=True), "in the first step"),
            (second_order_with(infinite=True), "infinite at s = 0"),
        ],
    ),
    "exam": Answers(
        right=[Exam(), exam_with(paper=True)],
        wrong=[
            (exam_with(as_x0=True), "predicts the noise"),
            (exam_with(ddim=True), "this is DDIM"),
            (exam_with(weight=lambda h, g, u, v: g / h / 2), "inverted"),
            (exam_with(weight=lambda h, g, u, v: h / g), "factor 1/2"),
            (exam_with(weight=lambda h, g, u, v: -h / g / 2), "sign is wrong"),
            (exam_with(weight=lambda h, g, u, v: 0.5), "not 1/2"),
            (exam_with(times=lambda T, n: [i * (T // n) for i in range(n, -1, -1)]), "must be called at"),
            (exam_with(infinite=True), "NaN"),
            (exam_with(list=True), "return the final image"),
        ],
    ),
}
