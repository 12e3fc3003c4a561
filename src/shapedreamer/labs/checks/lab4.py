"""The checks of lab 4, Fast sampling."""

import itertools
import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...conformance import check_sampler
from ...diffusion import schedule as schedules
from ...diffusion.schedule import Schedule, step_times
from ..verdict import AnswerError, call, exercise, same, tensor
from .runs import Draws, Network, Run, name_mistake, noise, run, same_run, steps_of

SHAPE = (4, 1, 8, 8)


def _schedule() -> Schedule:
    T = int(torch.randint(100, 600, ()))
    return schedules.cosine(T) if torch.rand(()) < 0.5 else schedules.linear(T, 1e-4, 12 / T)


def _jump(T: int) -> tuple[int, int]:
    """Random t and s in the middle of the schedule, far from each other."""
    t = int(torch.randint(T // 2, 3 * T // 4, ()))
    return t, int(torch.randint(t // 3, t - T // 10, ()))


def _eps(x_t: Tensor, x0: Tensor, a: float) -> Tensor:
    return (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)


@exercise
def ddim_step(answer: Any) -> str:
    """Steps at η = 0, between 0 and 1, at 1, and to s = 0."""
    schedule = _schedule()
    start, end = _jump(schedule.T)
    some = 0.3 + 0.4 * torch.rand(()).item()
    for eta, t, s in ((0.0, start, end), (some, start, end), (1.0, start, end), (some, start, 0)):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x_t, x0, z = torch.randn(SHAPE), torch.rand(SHAPE) * 2 - 1, torch.randn(SHAPE)
        eps = _eps(x_t, x0, a)
        full = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        sigma = eta * full
        keep = math.sqrt(max(1 - b - sigma**2, 0))
        B, single = math.sqrt(b), math.sqrt(max((1 - b) / (1 - a) * schedule.beta[t].item(), 0))

        def with_sigma(wrong: float, x0: Tensor = x0, eps: Tensor = eps, z: Tensor = z, b: float = b) -> Tensor:
            return math.sqrt(b) * x0 + math.sqrt(max(1 - b - wrong**2, 0)) * eps + wrong * z

        mistakes = {
            "ε̂ is multiplied by √(1−ᾱ_s), but with fresh noise only √(1−ᾱ_s−σ²) is left for it": (
                B * x0 + math.sqrt(1 - b) * eps + sigma * z
            ),
            "ε̂ is multiplied by √(1−ᾱ_t), so the noise does not get less; it is √(1−ᾱ_s−σ²)": (
                B * x0 + math.sqrt(1 - a) * eps + sigma * z
            ),
            "x̂₀ is multiplied by √ᾱ_t, where the step starts; it is √ᾱ_s": (math.sqrt(a) * x0 + keep * eps + sigma * z),
            "the roots are missing in front of x̂₀ and ε̂": b * x0 + max(1 - b - sigma**2, 0) * eps + sigma * z,
            "the root in front of x̂₀ is missing: it is √ᾱ_s": b * x0 + keep * eps + sigma * z,
            "the root in front of ε̂ is missing: it is √(1−ᾱ_s−σ²)": (
                B * x0 + max(1 - b - sigma**2, 0) * eps + sigma * z
            ),
            "the fresh noise σ z is missing": B * x0 + keep * eps,
            "z is multiplied by σ², a variance; it is σ": B * x0 + keep * eps + sigma**2 * z,
            "you use x_t where ε̂, the noise in x_t, belongs": B * x0 + keep * x_t + sigma * z,
            "ε̂ is multiplied by σ; only z is": B * x0 + sigma * eps + sigma * z,
            "η has no effect: σ is η times the root": with_sigma(full),
            "η belongs in front of the root, not inside of it": with_sigma(math.sqrt(eta) * full),
            "σ uses β_t of the table; for a step from t to s it is 1 − ᾱ_t/ᾱ_s": with_sigma(eta * single),
            "σ is √(1−ᾱ_t/ᾱ_s), the factor (1−ᾱ_s)/(1−ᾱ_t) is missing in it": with_sigma(eta * math.sqrt(1 - a / b)),
            "the root in σ is missing": with_sigma(eta * full**2),
            "you return x̂₀; the step must keep noise of variance 1−ᾱ_s": x0,
            "ε̂ is divided by 1−ᾱ_t; it is √(1−ᾱ_t)": B * x0 + keep * eps / math.sqrt(1 - a) + sigma * z,
        }
        right = B * x0 + keep * eps + sigma * z
        where = f"wrong at η = {eta:.2f}" if s else "at s = 0 the step must return x̂₀"
        same(
            run(answer, x_t, x0, t, s, schedule, eta, z),
            right,
            f"{where}; check ε̂, σ and the three terms",
            mistakes,
            2e-4,
        )
    return "at η = 0 DDIM adds no noise, and at η = 1 it is DDPM."


@exercise
def timesteps(answer: Any) -> str:
    """Numbers of steps that divide T, and numbers that do not."""
    some = int(torch.randint(100, 1001, ()))
    random_steps = int(torch.randint(2, some, ()))
    for T, steps in ((500, 25), (500, 30), (1000, 53), (7, 5), (some, some), (some, random_steps), (some, 1)):
        result = call(answer, T, steps)
        if isinstance(result, Tensor) and result.ndim == 1:
            result = result.tolist()
        if not isinstance(result, (list, tuple)):
            raise AnswerError(f"return a list of timesteps; yours is of type {type(result).__name__}")
        times = [value.item() if hasattr(value, "item") else value for value in result]
        _judge_times(times, T, steps)
    return "start at T, end at 0, and round in between, for any number of steps."


def _judge_times(times: list[Any], T: int, steps: int) -> None:
    """AnswerError unless these are steps + 1 evenly spaced ints from T to 0."""
    here = f"timesteps({T}, {steps})"
    if not times:
        raise AnswerError(f"{here} is empty")
    if not all(isinstance(t, int) for t in times):
        raise AnswerError(
            f"{here} contains {times[1] if len(times) > 1 else times[0]}; timesteps are ints, so round them"
        )
    if min(times) < 0:
        raise AnswerError(
            f"{here} runs past the end: it contains {min(times)}, which reads the table from its other end"
        )
    if times == sorted(times) and len(times) > 1:
        raise AnswerError(f"{here} rises from {times[0]} to {times[-1]}; sampling falls from T to 0")
    if times[0] == T - 1:
        raise AnswerError(f"{here} starts at T − 1; timesteps run from 1 to T, and sampling starts at T")
    if times[0] != T:
        raise AnswerError(
            f"{here} starts at {times[0]}, not at T = {T}: with a stride T // steps the rest of the division is lost"
        )
    if times[-1] != 0:
        got = f"{here} ends at {times[-1]}"
        if len(times) == steps:
            raise AnswerError(f"{got}; append 0, where the last step lands: steps + 1 timesteps")
        raise AnswerError(f"{got}, not at 0: noise is left in the image. A stride T // steps does not divide T")
    if len(set(times)) < len(times):
        twice = next(t for t in times if times.count(t) > 1)
        raise AnswerError(f"{here} contains {twice} twice; every step must go to a smaller timestep")
    if len(times) != steps + 1:
        raise AnswerError(f"{here} has {len(times)} timesteps; {steps} steps need {steps + 1}, with both ends")
    if any(t <= s for t, s in itertools.pairwise(times)):
        raise AnswerError(f"{here} does not fall from each timestep to the next")
    gaps = [t - s for t, s in itertools.pairwise(times)]
    if max(gaps) - min(gaps) > 1:
        raise AnswerError(
            f"{here} is not evenly spaced: the longest step is {max(gaps)}, the shortest {min(gaps)}; "
            "round T − i T/steps"
        )


def _ddim(
    predict: Callable[[Tensor, int], Tensor],
    schedule: Schedule,
    x_T: Tensor,
    times: list[int],
    eta: float,
    draw: Callable[[int, int], Any],
    update: bool = True,
) -> Run:
    """DDIM; draw(t, s) is z. update: whether x changes from step to step."""
    x, seen = x_T, []
    for t, s in itertools.pairwise(times):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = predict(x, t)
        sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        x_s = math.sqrt(b) * x0 + math.sqrt(max(1 - b - sigma**2, 0)) * _eps(x, x0, a) + sigma * draw(t, s)
        seen.append((s, x_s))
        x = x_s if update else x
    return seen


@exercise
def ddim(answer: Any) -> str:
    """Every step of runs with a known network at η = 0, in between and 1; without a generator at η = 0."""
    T, seed = int(torch.randint(14, 30, ())), random.randrange(10**6)
    schedule = schedules.linear(T, 0.01, 0.3)
    some = 0.3 + 0.4 * torch.rand(()).item()
    for steps, eta in ((T, 0.0), (T // 2, some), (T // 3, 1.0), (T - 3, 0.0)):
        _judge_ddim(answer, schedule, steps, eta, seed)
    return "25 calls in the place of 500, with the same network."


def _judge_ddim(answer: Any, schedule: Schedule, steps: int, eta: float, seed: int) -> None:
    """AnswerError unless a run with so many steps and this η is right."""
    T = schedule.T
    x_T = torch.randn(SHAPE)
    network, draws = Network(schedule, SHAPE, limit=10 * T), Draws(seed)
    options = {"eta": eta, "generator": draws} if eta > 0 else {}
    try:
        result = run(answer, network, schedule, x_T, steps, **options)
    except AnswerError as error:
        if eta == 0 and "not callable" in error.message:
            raise AnswerError("at eta = 0 there is no generator; call it only if eta > 0") from None
        raise
    yours = steps_of(result, x_T)
    times = step_times(T, steps)
    first, ends = network.predict(x_T, T), dict(itertools.pairwise(times))

    def z(t: int, s: int, x_T: Tensor = x_T) -> Tensor:
        return noise(seed, t, x_T)

    def ddim_with(
        predict: Any = network.predict,
        eta: float = eta,
        draw: Any = z,
        times: list[int] = times,
        x: Tensor = x_T,
        **named: Any,
    ) -> Run:
        return _ddim(predict, schedule, x, times, eta, draw, **named)

    right = ddim_with()
    images = [x_T, *(x for _, x in right)]
    mistakes = {
        "eta has no effect: pass it on to ddim_step": ddim_with(eta=0.0),
        "you sample with η = 1, whatever eta is": ddim_with(eta=1.0),
        "z is 0 although eta is above 0, so noise is missing; ask the generator": ddim_with(draw=lambda t, s: 0),
        "every step adds the same noise; ask the generator inside of the loop": ddim_with(draw=lambda t, s: z(T, 0)),
        "ask the generator for the noise of t, where the step starts, not of s": ddim_with(
            draw=lambda t, s: noise(seed, s, x_T)
        ),
        "x does not change from step to step; store the result of ddim_step in x": ddim_with(update=False),
        "x0 is predicted once, from pure noise; call the network in every step": ddim_with(lambda x, t: first),
        "the network always gets x_T; pass it x, the image of this step": ddim_with(
            lambda x, t: network.predict(x_T, t)
        ),
        "the network is called at s, where the step ends; x is still at t": ddim_with(
            lambda x, t: network.predict(x, max(ends[t], 1))
        ),
        "you ignore `steps` and visit all T timesteps": ddim_with(times=step_times(T, T)),
        "you yield x before the step; take the step first, and yield Step(s, x, x0)": list(
            zip(times[1:], images, strict=False)
        ),
        "you yield before the step; take the step first, and yield Step(s, x, x0)": list(
            zip(times[:-1], images, strict=False)
        ),
        "a step lands on s, and you yield t; yield sd.samplers.Step(s, x, x0)": list(
            zip(times, images[1:], strict=False)
        ),
    }
    if same_run(yours, right, mistakes):
        return
    if eta > 0 and not draws.times:
        raise AnswerError("your noise does not come from the generator: use z = generator(t, like=x)")
    if len(yours) == 1 and steps > 1:
        raise AnswerError("you yield once; the yield belongs inside of the loop, after every step")
    if yours[-1][0] != 0:
        raise AnswerError(f"your last step lands on t = {yours[-1][0]}; it must land on 0")
    if network.times[0] != T:
        raise AnswerError(f"the first network call is at t = {network.times[0]}; x_T belongs to T = {T}")
    if [s for s, _ in yours] != times[1:] and len(yours) == steps:
        # another rounding is right as well: judge the steps at the learner's own timesteps
        own = [T, *(s for s, _ in yours)]
        if all(t > s for t, s in itertools.pairwise(own)) and same_run(yours, ddim_with(times=own), {}):
            return
    raise name_mistake(check_sampler, answer)


@exercise
def order(answer: Any) -> str:
    """Random errors that follow a power exactly."""
    for _ in range(4):
        p, C = 0.5 + 3 * torch.rand(()).item(), 0.1 + torch.rand(()).item()
        n = (int(torch.randint(5, 20, ())), int(torch.randint(30, 200, ())))
        e = (C * n[0] ** -p, C * n[1] ** -p)
        if torch.rand(()) < 0.3:
            n, e = (n[1], n[0]), (e[1], e[0])
        slope = math.log(e[0] / e[1]) / math.log(n[1] / n[0])
        mistakes = {
            "your sign is wrong: the error falls, so the order is positive": -slope,
            "you divide the other way round: log(e1/e2) is above, log(n2/n1) below": 1 / slope,
            "your order is upside down and has the wrong sign: it is log(e1/e2) / log(n2/n1)": -1 / slope,
            "you take the ratio of errors by the ratio of steps; take the logarithm of both": (e[0] / e[1])
            / (n[1] / n[0]),
            "this is log2 of the ratio of errors, which is the order only if the steps double; divide by log(n2/n1)": (
                math.log2(e[0] / e[1])
            ),
            "this is the logarithm of the ratio of errors; divide it by log(n2/n1)": math.log(e[0] / e[1]),
            "you use n2 − n1; it is the ratio of steps that counts": math.log(e[0] / e[1]) / (n[1] - n[0]),
            "you use e1 − e2; it is the ratio of errors that counts": (e[0] - e[1]) / math.log(n[1] / n[0]),
        }
        yours = tensor(call(answer, n, e), ())
        same(
            yours, torch.tensor(slope), "p = log(e1/e2) / log(n2/n1)", {k: torch.tensor(v) for k, v in mistakes.items()}
        )
    return "an order is a slope in a plot with logarithmic axes."


def _lam(t: int, schedule: Schedule) -> float:
    a = schedule.alpha_bar[t].item()
    return 0.5 * math.log(a / (1 - a))


@exercise
def dpmpp_2m_step(answer: Any) -> str:
    """A step with a step before, the first step, and the last."""
    schedule = _schedule()
    T = schedule.T
    r = int(torch.randint(7 * T // 10, 8 * T // 10, ()))
    t = int(torch.randint(5 * T // 10, 6 * T // 10, ()))
    s = int(torch.randint(T // 8, T // 4, ()))
    for case in ("middle", "first", "last"):
        x_t, x0, before = torch.randn(SHAPE), torch.rand(SHAPE) * 2 - 1, torch.rand(SHAPE) * 2 - 1
        s = 0 if case == "last" else s
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()

        def step(D: Tensor, seen: Tensor | None = None, a: float = a, b: float = b, x_t: Tensor = x_t) -> Tensor:
            return math.sqrt(b) * D + math.sqrt(1 - b) * _eps(x_t, D if seen is None else seen, a)

        if case == "first":
            try:
                result = run(answer, x_t, x0, None, None, t, s, schedule)
            except AnswerError as error:
                if "raised" in error.message:
                    raise AnswerError(
                        "in the first step r and x0_before are None; there is nothing to extrapolate, so use D = x0"
                    ) from None
                raise
            same(result, step(x0), "in the first step D = x0, so it is a DDIM step with η = 0")
            continue
        try:
            result = run(answer, x_t, x0, before, r, t, s, schedule)
        except AnswerError as error:
            if case == "last" and "raised" in error.message:
                raise AnswerError(f"in the last step, λ is infinite at s = 0; use D = x0. ({error.message})") from None
            raise
        if case == "last":
            if isinstance(result, Tensor) and not result.isfinite().all():
                raise AnswerError("the last step gives NaN or ∞, because λ is infinite at s = 0; use D = x0 there")
            same(result, x0, "the last step must return x0: D = x0, and no noise is left at s = 0")
            continue
        h, h_before = _lam(s, schedule) - _lam(t, schedule), _lam(t, schedule) - _lam(r, schedule)
        change, ratio = x0 - before, h / h_before

        def extrapolated(weight: float, x0: Tensor = x0, change: Tensor = change) -> Tensor:
            return x0 + weight * change

        D = extrapolated(ratio / 2)
        mistakes = {
            "you ignore x0_before: this is a DDIM step. Extrapolate: D = x̂₀ + h/(2h') (x̂₀ − x̂₀')": step(x0),
            "your ratio of step lengths is inverted: it is h/(2h'), the coming step over the step before": step(
                extrapolated(1 / ratio / 2)
            ),
            "the factor 1/2 is missing: D is x̂₀ in the middle of the step, h/(2h')": step(extrapolated(ratio)),
            "your sign is wrong: continue in the direction x̂₀ − x̂₀'": step(extrapolated(-ratio / 2)),
            "you measure the steps in t; measure h and h' in λ, half the log-SNR": step(
                extrapolated((t - s) / (r - t) / 2)
            ),
            "you left out the ratio of step lengths; the weight is h/(2h'), not 1/2": step(extrapolated(0.5)),
            "the ratio is right, but you start from x̂₀' instead of x̂₀": step(before + ratio / 2 * change),
            "ε̂ is computed from x̂₀; the step needs the ε̂ that belongs to D": step(D, x0),
            "the second term of D is missing x̂₀: D = x̂₀ + h/(2h') (x̂₀ − x̂₀')": step(ratio / 2 * change),
            "you measure the steps in ᾱ; measure h and h' in λ = ½ log(ᾱ/(1−ᾱ))": step(
                extrapolated(_ratio_of(lambda value: value, r, t, s, schedule) / 2)
            ),
            "your λ is log ᾱ; it is ½ log(ᾱ/(1−ᾱ))": step(extrapolated(_ratio_of(math.log, r, t, s, schedule) / 2)),
            "your λ is ᾱ/(1−ᾱ); take the logarithm": step(
                extrapolated(_ratio_of(lambda value: value / (1 - value), r, t, s, schedule) / 2)
            ),
            "you return D; take a DDIM step with it": D,
        }
        same(result, step(D), "the step is wrong; check λ, h, h' and D one by one", mistakes, tol=2e-4)
    return "the prediction of the step before is free, and it doubles the order."


def _ratio_of(measure: Callable[[float], float], r: int, t: int, s: int, schedule: Schedule) -> float:
    at = [measure(schedule.alpha_bar[time].item()) for time in (r, t, s)]
    return (at[2] - at[1]) / (at[1] - at[0])


def _two_m(
    predict: Callable[[Tensor, int], Tensor], schedule: Schedule, x_T: Tensor, times: list[int], **wrong: Any
) -> Tensor:
    """DPM-Solver++(2M) for a network that predicts ε, or with one of the mistakes in `wrong`."""
    x, before, h_before = x_T, None, math.nan
    for t, s in itertools.pairwise(times):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        eps = predict(x, t)
        x0 = eps if wrong.get("as_x0") else (x - math.sqrt(1 - a) * eps) / math.sqrt(a)
        h = _lam(s, schedule) - _lam(t, schedule) if s else math.nan
        D = x0
        if before is not None and s > 0 and not wrong.get("ddim"):
            ratio = h_before / h if wrong.get("inverted") else h / h_before
            ratio = 1.0 if wrong.get("constant") else ratio
            D = x0 + wrong.get("weight", 0.5) * ratio * (x0 - before)
        if not wrong.get("stale"):
            eps = _eps(x, D, a)
        x = math.sqrt(b) * D + math.sqrt(1 - b) * eps
        before, h_before = D if wrong.get("keeps_D") else x0, h
    return x


@exercise
def exam(answer: Any) -> str:
    """The final image for several numbers of steps, among them 1 and T."""
    T = int(torch.randint(14, 30, ()))
    schedule = schedules.linear(T, 0.01, 0.3)
    for steps in (T // 2, T - 3, 1, T):
        x_T = torch.randn(SHAPE)
        network = Network(schedule, SHAPE, limit=10 * T)
        times = step_times(T, steps)
        result = run(answer, network, schedule, x_T, steps)
        if isinstance(result, (list, tuple)):
            raise AnswerError("return the final image; this sampler need not yield its steps")
        right = partial(_two_m, network.predict, schedule, x_T, times)
        mistakes = {
            "you use the output of the network as x̂₀; this network predicts the noise ε": right(as_x0=True),
            "this is DDIM: x̂₀ is not extrapolated": right(ddim=True),
            "the ratio of step lengths is inverted; it is h/(2h')": right(inverted=True),
            "the factor 1/2 of h/(2h') is missing": right(weight=1.0),
            "your sign is wrong: continue in the direction x̂₀ − x̂₀'": right(weight=-0.5),
            "the weight is h/(2h'), not 1/2 in every step": right(constant=True),
            "you take the network's ε̂ for the step; with D in the place of x̂₀, ε̂ must be computed from D": right(
                stale=True
            ),
            "you store D as the prediction of the step before; store x̂₀": right(keeps_D=True),
        }
        yours = tensor(result, x_T.shape)
        try:
            same(yours, right(), "the image is wrong; check λ, h, h' and D", mistakes, tol=1e-3)
        except AnswerError as error:
            if error.message.startswith("the image is wrong") and network.times != times[:-1]:
                raise AnswerError(
                    f"with T = {T} and {steps} steps, the network must be called at {_shown(times[:-1])}; "
                    f"you called it at {_shown(network.times)}"
                ) from None
            raise
    return "one network call a step, and the error falls with the square of their number."


def _shown(times: list[int]) -> str:
    return ", ".join(map(str, times if len(times) < 7 else [*times[:3], "…", times[-1]])) or "no timestep"
