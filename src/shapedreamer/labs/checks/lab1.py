"""The checks of lab 1, Sampling."""

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...conformance import check_sampler
from ...diffusion import schedule as schedules
from ...diffusion.process import posterior
from ...diffusion.schedule import Schedule, step_times
from ..verdict import AnswerError, call, close, exercise, same, tensor
from .runs import Draws, Network, Run, name_mistake, noise, run, same_run, steps_of

SHAPE = (4, 1, 8, 8)


def _schedule() -> Schedule:
    T = int(torch.randint(100, 600, ()))
    return schedules.cosine(T) if torch.rand(()) < 0.5 else schedules.linear(T, 1e-4, 12 / T)


def _jump(T: int) -> tuple[int, int]:
    """Random t and s in the middle of the schedule, far from each other."""
    t = int(torch.randint(T // 2, 3 * T // 4, ()))
    return t, int(torch.randint(t // 3, t - T // 10, ()))


def _alphas(t: int, s: int, schedule: Schedule) -> tuple[float, float, float, float]:
    """ᾱ_t, ᾱ_s, β of the step from t to s, and β_t of the table."""
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    return a, b, 1 - a / b, schedule.beta[t].item()


@exercise
def one_call(answer: Any) -> str:
    """One call of a known network, at t = T."""
    schedule = _schedule()
    T = schedule.T
    x_T = torch.randn(SHAPE)
    network = Network(schedule, SHAPE)
    result = call(answer, network, x_T, schedule)
    if not network.times:
        raise AnswerError("the denoiser was not called; your function gets it as its first argument")
    if set(network.times) != {T}:
        raise AnswerError(f"you call the denoiser at t = {network.times[0]}; pure noise is at t = T = {T}")
    if len(network.times) > 1:
        raise AnswerError(f"one call is enough for the whole batch; you made {len(network.times)}")
    right = network.predict(x_T, T)
    mistakes = {
        "you return the noise; return what the denoiser returns": x_T,
        "you subtract the prediction from the noise; the denoiser returns the clean image itself": x_T - right,
    }
    same(result, right, "return what the denoiser returns for x_T, unchanged", mistakes)
    return "from pure noise, the best prediction is the mean of all images."


@exercise
def posterior_mean(answer: Any) -> str:
    """The mean of q(x_s | x_t, x₀) in long steps, single steps, and the last step."""
    schedule = _schedule()
    T = schedule.T
    single = int(torch.randint(T // 4, T // 2, ()))
    for t, s in (_jump(T), (single, single - 1), (single, 0)):
        x_t, x0 = torch.randn(SHAPE), torch.rand(SHAPE) * 2 - 1
        a, b, beta, beta_t = _alphas(t, s, schedule)
        of_x0, of_x_t = math.sqrt(b) * beta / (1 - a), math.sqrt(1 - beta) * (1 - b) / (1 - a)
        swapped_a = math.sqrt(a) * beta / (1 - a) * x0 + of_x_t * x_t
        mistakes: dict[str, Tensor] = {
            "your weights are swapped: √ᾱ_s β/(1−ᾱ_t) belongs to x0, and √(1−β) (1−ᾱ_s)/(1−ᾱ_t) to x_t": (
                of_x0 * x_t + of_x_t * x0
            ),
            "you use β_t of the table; for a step from t to s the variance of the added noise is β = 1 − ᾱ_t/ᾱ_s, "
            "which is β_t only if s = t − 1": (
                (math.sqrt(b) * beta_t * x0 + math.sqrt(1 - beta_t) * (1 - b) * x_t) / (1 - a)
            ),
            "the roots are missing: x0 is weighted with √ᾱ_s, and x_t with √(1−β)": (
                (b * beta * x0 + (1 - beta) * (1 - b) * x_t) / (1 - a)
            ),
            "the root of ᾱ_s is missing in the weight of x0": (b * beta * x0 + (1 - a) * of_x_t * x_t) / (1 - a),
            "the root of 1−β is missing in the weight of x_t": of_x0 * x0 + (1 - beta) * (1 - b) / (1 - a) * x_t,
            "the weight of x0 contains √ᾱ_s, of the timestep where the step ends, not √ᾱ_t": swapped_a,
            "the denominator is 1−ᾱ_t in both weights; yours is missing": (
                math.sqrt(b) * beta * x0 + math.sqrt(1 - beta) * (1 - b) * x_t
            ),
            "the denominator of both weights is 1−ᾱ_t, of the timestep where the step starts; yours is 1−ᾱ_s": (
                (of_x0 * x0 + of_x_t * x_t) * (1 - a) / (1 - b) if s else torch.full(SHAPE, math.nan)
            ),
            "you left out x_t; the mean is a weighted sum of x0 and x_t": of_x0 * x0,
            "this is √ᾱ_s x0, the mean of x_s if only x0 is known; x_t is known too": math.sqrt(b) * x0,
        }
        right, _ = posterior(x0, x_t, t, s, schedule)
        where = "in the last step, to s = 0, the mean must be x0" if s == 0 else "the weighted sum is wrong"
        mistakes = {message: value for message, value in mistakes.items() if value.isfinite().all()}
        same(call(answer, x_t, x0, t, s, schedule), right, f"{where}; compare both weights with the formula", mistakes)
    return "far from the end the mean is mostly x_t, and in the last step it is x0 itself."


@exercise
def posterior_variance(answer: Any) -> str:
    """The variance β̃, compared relative to its size, which can be small."""
    schedule = _schedule()
    low = int(torch.randint(3, 9, ()))
    for t, s in (_jump(schedule.T), (low, low - 1)):
        a, b, beta, beta_t = _alphas(t, s, schedule)
        right = (1 - b) / (1 - a) * beta
        yours = tensor(call(answer, t, s, schedule), ()) / right
        mistakes = {
            "your variance is β, where the posterior variance β̃ belongs; they differ most at small t": beta,
            "this is (1−ᾱ_s)/(1−ᾱ_t); multiply it by β": (1 - b) / (1 - a),
            "this is the standard deviation; return the variance, without the root": math.sqrt(right),
            "your fraction is upside down: the numerator 1−ᾱ_s is smaller than the denominator 1−ᾱ_t": (
                (1 - a) / (1 - b) * beta
            ),
            "you use β_t of the table; for a step from t to s it is β = 1 − ᾱ_t/ᾱ_s": (1 - b) / (1 - a) * beta_t,
            "you use ᾱ_s/ᾱ_t the wrong way round: β = 1 − ᾱ_t/ᾱ_s is between 0 and 1": (1 - b) / (1 - a) * (1 - b / a),
            "the 1 − is missing in the fraction: it is (1−ᾱ_s)/(1−ᾱ_t)": b / a * beta,
            "this is β_t of the table, the variance of the forward process": beta_t,
        }
        typical = {message: torch.tensor(value / right) for message, value in mistakes.items()}
        same(yours, torch.tensor(1.0), "β̃ = (1−ᾱ_s)/(1−ᾱ_t) · β with β = 1 − ᾱ_t/ᾱ_s", typical, tol=1e-3)
    zero = tensor(call(answer, low, 0, schedule), ())
    if abs(zero.item()) > 1e-9:
        raise AnswerError("at s = 0 the variance must be exactly 0, because ᾱ₀ = 1: the clean image is certain")
    return "the posterior knows x0, so it is narrower than the forward step: β̃ is less than β."


@exercise
def ddpm_step(answer: Any) -> str:
    """A step with random z; the noise is also compared alone, because it can be small beside the image."""
    schedule = _schedule()
    middle, earlier = _jump(schedule.T)
    for t, s in ((middle, earlier), (middle, middle - 1), (middle, 0)):
        _, b, beta, _ = _alphas(t, s, schedule)
        x_t, x0, z = torch.randn(SHAPE), torch.rand(SHAPE) * 2 - 1, torch.randn(SHAPE)
        mean, variance = posterior(x0, x_t, t, s, schedule)
        yours = tensor(run(answer, x_t, x0, t, s, schedule, z), x_t.shape)
        right = mean + math.sqrt(variance) * z
        mistakes: dict[str, Tensor] = {
            "you multiply z by the variance; to get noise of variance v, multiply it by √v": mean + variance * z,
            "your variance is β, where the posterior variance β̃ belongs; they differ most at small t": (
                mean + math.sqrt(beta) * z
            ),
            "this is the mean without noise: add √β̃ z": mean,
            "the root of the variance is there, but the mean is not the posterior's: use posterior_mean(x_t, x0, …)": (
                x0 + math.sqrt(variance) * z
            ),
            "you add the noise to x_t; it belongs to the posterior mean": x_t + math.sqrt(variance) * z,
            "you swapped x_t and x0 when you called posterior_mean": (
                posterior(x_t, x0, t, s, schedule)[0] + math.sqrt(variance) * z
            ),
            "you add z with standard deviation 1; its variance must be β̃": mean + z,
            "you give the noise the variance 1−ᾱ_s, of all noise in x_s; a part of it is in the mean already": (
                mean + math.sqrt(1 - b) * z
            ),
            "you subtract the noise; its sign does not matter for the distribution, but add it, so that it can be "
            "compared": mean - math.sqrt(variance) * z,
        }
        if not close(yours, tensor(run(answer, x_t, x0, t, s, schedule, z), x_t.shape)):
            raise AnswerError("each call gives another result, so you draw noise of your own; use z, the argument")
        end = "at s = 0 the step must return x0 without noise" if s == 0 else "the step is mean + √β̃ z"
        same(yours, right, end, mistakes, tol=2e-4)
    return "at s = 0 the variance is 0, so the last step adds no noise without a special case."


def _ddpm(
    predict: Callable[[Tensor, int], Tensor],
    schedule: Schedule,
    x_T: Tensor,
    steps: int,
    draw: Callable[[int, int], float | Tensor],
    update: bool = True,
) -> Run:
    """DDPM; draw(t, s) is z. update: whether x changes from step to step."""
    x, times, seen = x_T, step_times(schedule.T, steps), []
    for t, s in itertools.pairwise(times):
        mean, variance = posterior(predict(x, t), x, t, s, schedule)
        x_s = mean + math.sqrt(variance) * draw(t, s)
        seen.append((s, x_s))
        x = x_s if update else x
    return seen


@exercise
def ddpm(answer: Any) -> str:
    """Every step of a run with a known network; what this cannot explain, the conformance suite names."""
    T, seed = int(torch.randint(14, 30, ())), random.randrange(10**6)
    schedule = schedules.linear(T, 0.01, 0.3)
    for steps in (T, T // 2):
        _judge_ddpm(answer, schedule, steps, seed)
    return "a sampler is a short loop: predict, step, repeat."


def _judge_ddpm(answer: Any, schedule: Schedule, steps: int, seed: int) -> None:
    """AnswerError unless a run with so many steps is right."""
    T = schedule.T
    x_T = torch.randn(SHAPE)
    network, draws = Network(schedule, SHAPE, limit=10 * T), Draws(seed)
    yours = steps_of(run(answer, network, schedule, x_T, steps, generator=draws), x_T)

    def z(t: int, s: int, x_T: Tensor = x_T) -> Tensor:
        return noise(seed, t, x_T)

    def ddpm_with(predict: Any = network.predict, draw: Any = z, n: int = steps, x: Tensor = x_T, **named: Any) -> Run:
        return _ddpm(predict, schedule, x, n, draw, **named)

    first = network.predict(x_T, T)
    times = step_times(T, steps)
    right = ddpm_with()
    images = [x_T, *(x for _, x in right)]
    ends = dict(itertools.pairwise(times))
    mistakes = {
        "every step adds the same noise; ask the generator inside of the loop, at every t": ddpm_with(
            draw=lambda t, s: z(T, 0)
        ),
        "the samples lack fresh noise: pass z = generator(t, like=x) to ddpm_step": ddpm_with(draw=lambda t, s: 0),
        "x does not change from step to step; store the result of ddpm_step in x": ddpm_with(update=False),
        "x0 is predicted once, from pure noise; call the network in every step": ddpm_with(lambda x, t: first),
        "the network is called at s, where the step ends; x is still at t": ddpm_with(
            lambda x, t: network.predict(x, max(ends[t], 1))
        ),
        "ask the generator for the noise of t, where the step starts, not of s": ddpm_with(
            draw=lambda t, s: noise(seed, s, x_T)
        ),
        "the network always gets x_T; pass it x, the image of this step": ddpm_with(
            lambda x, t: network.predict(x_T, t)
        ),
        "you yield x before the step; take the step first, and yield Step(s, x, x0)": list(
            zip(times[1:], images, strict=False)
        ),
        "you yield before the step; take the step first, and yield Step(s, x, x0)": list(
            zip(times[:-1], images, strict=False)
        ),
        "a step lands on s, and you yield t; yield sd.samplers.Step(s, x, x0)": list(
            zip(times, images[1:], strict=False)
        ),
        "you ignore `steps` and visit all T timesteps": ddpm_with(n=T),
    }
    if same_run(yours, right, mistakes):
        return
    if not draws.times:
        raise AnswerError("your noise does not come from the generator: use z = generator(t, like=x)")
    if len(yours) == 1:
        raise AnswerError("you yield once; the yield belongs inside of the loop, after every step")
    raise name_mistake(check_sampler, answer)


@exercise
def next_variance(answer: Any) -> str:
    """The variance after one step, with and without noise."""
    schedule = _schedule()
    for noise_added in (True, False, True):
        t, s = _jump(schedule.T)
        d, v = 0.3 + torch.rand(()).item(), 0.5 + torch.rand(()).item()
        a, b, beta, _ = _alphas(t, s, schedule)
        A, B = math.sqrt(b) * beta / (1 - a), math.sqrt(1 - beta) * (1 - b) / (1 - a)
        g, tilde = math.sqrt(a) * d**2 / (a * d**2 + 1 - a), (1 - b) / (1 - a) * beta
        added = tilde if noise_added else 0.0
        right = (A * g + B) ** 2 * v + added
        mistakes = {
            "you add the noise's variance although `noise` is False": (A * g + B) ** 2 * v + tilde,
            "the variance of the fresh noise is missing: add β̃ if `noise` is True": (A * g + B) ** 2 * v,
            "a factor c multiplies the variance by c²; the square of A g + B is missing": (A * g + B) * v + added,
            "this is the standard deviation; return the variance": math.sqrt(right),
            "A g x_t and B x_t are the same x_t, not independent: add A g and B before you square": (
                ((A * g) ** 2 + B**2) * v + added
            ),
            "you add √β̃, a standard deviation; variances add": (A * g + B) ** 2 * v + math.sqrt(added),
            "x̂₀ is g x_t; the factor g is missing": (A + B) ** 2 * v + added,
            "the weight B of x_t is missing": (A * g) ** 2 * v + added,
            "your g uses d where d², the variance of the data, belongs": (
                (A * math.sqrt(a) * d / (a * d + 1 - a) + B) ** 2 * v + added
            ),
            "the root of ᾱ_t is missing in the numerator of g": (
                (A * a * d**2 / (a * d**2 + 1 - a) + B) ** 2 * v + added
            ),
            "your fresh noise has the variance β; here it is β̃": (A * g + B) ** 2 * v + (beta if noise_added else 0),
            "v is the variance already; do not square it": (A * g + B) ** 2 * v**2 + added,
        }
        yours = tensor(run(answer, v, t, s, schedule, d, noise_added), ())
        same(yours, torch.tensor(right), "v_s = (A g + B)² v + β̃; check A, B and g one by one", mistakes, tol=1e-5)
    return "with the exact denoiser, the quality of a sampler is a calculation, not a matter of taste."


def _algorithm_2(
    predict: Callable[[Tensor, int], Tensor], schedule: Schedule, x_T: Tensor, draw: Callable[[int], Any], **wrong: Any
) -> Tensor:
    """DDPM's algorithm 2 for a network that predicts ε, or with one of the mistakes in `wrong`."""
    x = x_T
    for t in range(schedule.T, 0, -1):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[t - 1].item()
        beta = schedule.beta[t].item()
        eps = predict(x, max(1, t - wrong.get("shift", 0)))
        root = (lambda value: value) if wrong.get("no_root") else math.sqrt
        alpha = a if wrong.get("cumulative") else 1 - beta
        mean = (x - wrong.get("sign", 1) * beta / root(1 - a) * eps) / math.sqrt(alpha)
        if wrong.get("as_x0"):
            mean, _ = posterior(eps, x, t, t - 1, schedule)
        if wrong.get("no_division"):
            mean = x - beta / math.sqrt(1 - a) * eps
        variance = (1 - b) / (1 - a) * beta if wrong.get("posterior") else beta
        std = variance if wrong.get("as_std") else math.sqrt(variance)
        x = mean
        if t > 1 or wrong.get("last"):
            x = x + std * draw(t)
    return x


@exercise
def exam(answer: Any) -> str:
    """The final image of a network that predicts ε."""
    T, seed = int(torch.randint(8, 20, ())), random.randrange(10**6)
    schedule, x_T = schedules.linear(T, 0.02, 0.3), torch.randn(SHAPE)
    network, draws = Network(schedule, SHAPE, limit=10 * T), Draws(seed)
    yours = run(answer, network, schedule, x_T, draws)
    if isinstance(yours, (list, tuple)):
        raise AnswerError("return the final image; this sampler need not yield its steps")

    def with_mistake(draw: Any = lambda t: noise(seed, t, x_T), **wrong: Any) -> Tensor:
        return _algorithm_2(network.predict, schedule, x_T, draw, **wrong)

    mistakes = {
        "the last step adds noise, which stays in the image as grain: z = 0 in the step from t = 1": (
            with_mistake(last=True)
        ),
        "your fresh noise has the posterior variance β̃_t; here the variance is β_t": with_mistake(posterior=True),
        "you multiply z by the variance β_t; to get noise of variance v, multiply by √v": with_mistake(as_std=True),
        "no fresh noise is added: √β_t z is missing": with_mistake(lambda t: 0),
        "you use the output of the network as x̂₀; this network predicts the noise ε": with_mistake(as_x0=True),
        "the root is missing: ε̂ is multiplied by β_t/√(1−ᾱ_t)": with_mistake(no_root=True),
        "you divide by √ᾱ_t, the cumulative product; it is √(1−β_t), of one step": with_mistake(cumulative=True),
        "the division by √(1−β_t) is missing": with_mistake(no_division=True),
        "you add the predicted noise; subtract it": with_mistake(sign=-1),
        "the network is called one timestep too low: x is at t until the step is taken": with_mistake(shift=1),
        "every step adds the same noise; ask the generator inside of the loop": with_mistake(
            lambda t: noise(seed, T, x_T)
        ),
    }
    if isinstance(yours, Tensor) and not draws.times and len(network.times) == T:
        none = with_mistake(lambda t: 0)
        if yours.shape != none.shape or not torch.allclose(yours.double(), none.double(), atol=1e-3):
            raise AnswerError("your noise does not come from the generator: use generator(t, like=x)")
    try:
        same(
            yours,
            with_mistake(),
            "the image is wrong; compare the mean and the noise with the formula",
            mistakes,
            tol=1e-3,
        )
    except AnswerError as error:
        if error.message.startswith("the image is wrong") and network.times != list(range(T, 0, -1)):
            visited = ", ".join(map(str, network.times[:3]))
            raise AnswerError(
                f"call the network once at every t from T = {T} down to 1; you called it {len(network.times)} times, "
                f"starting at {visited}"
            ) from None
        raise
    return "this is algorithm 2 of the DDPM paper, word for word."
