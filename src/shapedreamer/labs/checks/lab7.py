"""The checks of lab 7, Flow matching."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...diffusion import schedule as schedules
from ...diffusion.schedule import Schedule
from ..verdict import AnswerError, call, exercise, same, tensor
from .runs import Network, run

SHAPE = (4, 1, 8, 8)
Velocity = Callable[[Tensor, float], Tensor]


def _schedule() -> Schedule:
    """A schedule with a clock of its own: its τ is far from t/T."""
    T = int(torch.randint(100, 600, ()))
    return schedules.linear(T, 1e-4, 12 / T) if torch.rand(()) < 0.5 else schedules.flow(T, shift=3.0)


def _early(T: int) -> int:
    """A timestep of which τ is neither near 1/2 nor near t/T: the linear and the shifted clock are fast there."""
    return int(torch.randint(T // 12, T // 8, ()))


def _late(T: int) -> int:
    return int(torch.randint(T // 2, 7 * T // 10, ()))


def _factors(t: int, schedule: Schedule) -> tuple[float, float, float]:
    """α, σ and τ."""
    a = schedule.alpha_bar[t].item()
    return math.sqrt(a), math.sqrt(1 - a), schedule.tau[t].item()


def _pair(result: Any, names: str) -> tuple[Any, Any]:
    if isinstance(result, Tensor) and result.shape == (2,):
        result = tuple(result)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        kind = type(result).__name__
        raise AnswerError(f"return two values, {names}; your function returned one object of type {kind}")
    return result[0], result[1]


@exercise
def to_line(answer: Any) -> str:
    """Random schedules at small and large t, and both ends of flow."""
    schedule, ends = _schedule(), schedules.flow(100)
    for clock, t in ((schedule, _early(schedule.T)), (schedule, _late(schedule.T)), (ends, 0), (ends, 100)):
        x_t, T = torch.randn(SHAPE), clock.T
        alpha, sigma, tau = _factors(t, clock)
        z, yours = _pair(run(answer, x_t, t, clock), "z and τ")
        if isinstance(z, (int, float)) and isinstance(yours, Tensor):
            raise AnswerError("return z first, then τ")
        taus = {
            "your τ is t/T, which only the schedule flow has; solve τ/(1−τ) = σ/α": t / T,
            "your τ is the share of the image; it is the share of noise, which grows with t": 1 - tau,
            "your τ is 1−ᾱ_t, the share of noise in the variance; on the line it is σ/(α+σ)": sigma**2,
            "your τ is σ, the factor of the noise in x_t; on the line the two factors add up to 1": sigma,
            "your τ is σ/α, the ratio of noise to image; solve τ/(1−τ) = σ/α for τ": sigma / max(alpha, 1e-9),
            "your τ lacks the roots: α is √ᾱ_t and σ is √(1−ᾱ_t)": sigma**2 / (alpha**2 + sigma**2),
        }
        points = {
            "your z is x_t times α+σ; the way to the line is to divide by it": x_t * (alpha + sigma),
            "your z has the scale of x_t; divide it, so that its factors α and σ become 1−τ and τ": x_t,
            "you divided by √(α²+σ²), which is 1; divide by α+σ": x_t / math.hypot(alpha, sigma),
            "you divided x_t by α, so that the factor of the image is 1; it must be 1−τ": x_t / max(alpha, 1e-9),
            "you divided by √((1−τ)²+τ²), which leads from z to x_t; go the other way": x_t / math.hypot(1 - tau, tau),
            "you multiplied x_t by 1−τ; the number is 1/(α+σ)": x_t * (1 - tau),
        }
        here = f"at t = {t}" if 0 < t < T else ("at t = 0, the clean image," if t == 0 else "in pure noise, ᾱ_T = 0,")
        same(tensor(yours, (), "τ"), torch.tensor(tau), f"{here} τ is wrong; it is σ/(α+σ)", taus)
        same(z, x_t / (alpha + sigma), f"{here} z is wrong; it is x_t/(α+σ)", points)
    return "one number for the clock and one for the scale, and x_t of any schedule is on the line."


@exercise
def x0_from_velocity(answer: Any) -> str:
    """Random schedules at small and large t, and ᾱ_T = 0."""
    schedule, ends = _schedule(), schedules.flow(100)
    for clock, t in ((schedule, _early(schedule.T)), (schedule, _late(schedule.T)), (ends, 100)):
        x_t, u = torch.randn(SHAPE), torch.randn(SHAPE)
        alpha, sigma, tau = _factors(t, clock)
        z = x_t / (alpha + sigma)
        safe = max(alpha, 1e-9)
        mistakes = {
            "you use the velocity as ε: (x_t − σu)/α is the formula of ε-prediction; here it is divided by α+σ": (
                (x_t - sigma * u) / safe
            ),
            "you use u as v: αx_t − σv is the formula of v-prediction, the direction along a circle": (
                alpha * x_t - sigma * u
            ),
            "your sign is wrong: u points from the image to the noise, so go back: z − τu": z + tau * u,
            "the scale is missing: start from z = x_t/(α+σ), not from x_t": x_t - tau * u,
            "the divisor α+σ is missing": x_t - sigma * u,
            "this is ε̂, the other end of the line; the image is at τ = 0": z + (1 - tau) * u,
            "you go back by 1−τ; from z to the image it is τ": z - (1 - tau) * u,
            "you go back by 1; from z to the image it is only τ": z - u,
            "your τ is t/T, which only the schedule flow has; take it from to_line": z - t / clock.T * u,
            "you multiplied x_t by α+σ; divide": x_t * (alpha + sigma) - tau * u,
            "you return z; go back along u for the time τ": z,
        }
        yours = run(answer, x_t, u, t, clock)
        if t == ends.T and isinstance(yours, Tensor) and not yours.isfinite().all():
            raise AnswerError("at ᾱ_T = 0 you divide by α = 0; the divisor is α+σ, which is never below 1")
        where = f"x̂₀ is wrong at t = {t}" if t < clock.T else "x̂₀ is wrong in pure noise, ᾱ_T = 0"
        same(yours, z - tau * u, f"{where}; it is z − τu", mistakes)
    return "x̂₀ = (x_t − σu)/(α+σ), for every schedule, and finite in pure noise."


@exercise
def euler_step(answer: Any) -> str:
    """A step in the middle, and a step to s = 0."""
    schedule = _schedule()
    for t, s in ((_late(schedule.T), _early(schedule.T)), (_late(schedule.T), 0)):
        z, network = torch.randn(SHAPE), Network(schedule, SHAPE, limit=10)
        tau, tau_s = schedule.tau[t].item(), schedule.tau[s].item()
        scale, scale_s = math.hypot(1 - tau, tau), math.hypot(1 - tau_s, tau_s)
        x_t = z / scale
        x0 = network.predict(x_t, t)
        u, h, clock = (z - x0) / tau, tau_s - tau, (s - t) / schedule.T

        def with_input(x: Tensor, at: int = t, z: Tensor = z, network: Network = network, tau: float = tau) -> Tensor:
            return (z - network.predict(x, at)) / tau

        mistakes = {
            "the denoiser gets z, but it needs x_t: divide z by √((1−τ)²+τ²)": z + h * with_input(z),
            "x_t is z divided by √((1−τ)²+τ²); you multiplied": z + h * with_input(z * scale),
            "you divided z by (1−τ)²+τ²; the root is missing": z + h * with_input(z / scale**2),
            "you scale z with the τ of s; x_t needs the τ of t": z + h * with_input(z / scale_s),
            "the denoiser is called at s, where the step ends; z is still at t": z + h * with_input(x_t, max(s, 1)),
            "û is (z − x̂₀)/τ, with z; you took x_t, which has another scale": z + h * (x_t - x0) / tau,
            "the whole step is made with x_t; the line is at the scale of z": x_t + h * (x_t - x0) / tau,
            "your sign is wrong, so the step adds noise: its length is τ_s − τ_t, which is negative": z - h * u,
            "you did not divide by τ: û = (z − x̂₀)/τ_t": z + h * (z - x0),
            "you divided by τ_s; the step starts at τ_t, so û = (z − x̂₀)/τ_t": z + h * (z - x0) / max(tau_s, 1e-9),
            "you use x̂₀ as the velocity; û is (z − x̂₀)/τ_t": z + h * x0,
            "you use ε̂ as the velocity; û is ε̂ − x̂₀ = (z − x̂₀)/τ_t": z + h * (z - (1 - tau) * x0) / tau,
            "you return x_s; stay on the line, and return z_s": (z + h * u) / scale_s,
            "you return x̂₀; go only as far as τ_s": x0,
            "your step has the length (s − t)/T, but τ is t/T only with the schedule flow; use schedule.tau": (
                z + clock * u
            ),
            "you step by τ_s; the length of the step is τ_s − τ_t": z + tau_s * u,
        }
        yours = run(answer, network, z, t, s, schedule)
        if s == 0 and isinstance(yours, Tensor) and not yours.isfinite().all():
            raise AnswerError("at s = 0 you divide by τ_s = 0; û = (z − x̂₀)/τ_t, with the τ where the step starts")
        if network.calls > 1:
            raise AnswerError(f"you call the denoiser {network.calls} times; a step of Euler's method calls it once")
        where = "the step is wrong" if s else "at s = 0 the step must end at x̂₀"
        same(yours, z + h * u, f"{where}; check x_t, x̂₀, û and the step one by one", mistakes, 2e-4)
    return "this step is DDIM with η = 0, at another scale."


class _Field:
    """A velocity (z, τ) -> u with random coefficients, which counts its calls."""

    def __init__(self) -> None:
        self.gain, self.phase = (0.5 + torch.rand(2)).tolist()
        self.base = torch.randn(1, *SHAPE[1:])
        self.times: list[float] = []

    def __call__(self, z: Any, tau: Any) -> Tensor:
        if not isinstance(z, Tensor):
            raise AnswerError(f"call velocity(z, τ) with the images first, not with {type(z).__name__}")
        try:
            time = float(tau)
        except (TypeError, ValueError):
            raise AnswerError("call velocity(z, τ) with one number as τ") from None
        if not -1e-9 <= time <= 1 + 1e-9:
            raise AnswerError(f"you call velocity at τ = {time:.3f}; τ is between tau_s and tau")
        self.times.append(time)
        return self.at(z, time)

    def at(self, z: Tensor, tau: float) -> Tensor:
        return 2 * torch.tanh(self.gain * z + self.base + math.sin(4 * tau + self.phase))


@exercise
def midpoint_step(answer: Any) -> str:
    """A step in the middle, and one to τ = 0, with a random field."""
    for low in (0.1 + 0.2 * torch.rand(()).item(), 0.0):
        field, z = _Field(), torch.randn(SHAPE)
        tau, tau_s = 0.6 + 0.4 * torch.rand(()).item(), low
        h, middle = tau_s - tau, (tau + tau_s) / 2
        u = field.at(z, tau)
        half = z + h / 2 * u
        u_m, u_end = field.at(half, middle), field.at(z + h * u, tau_s)
        mistakes = {
            "this is Euler's method: take the velocity in the middle for the whole step": z + h * u,
            "this is Heun's method, the mean of the velocities at both ends; take the one in the middle": (
                z + h / 2 * (u + u_end)
            ),
            "you take the velocity at the end of the step; take the one in the middle": z + h * u_end,
            "you continue from the middle for a whole step; start from z again": half + h * u_m,
            "you make two half steps of Euler's method; the second step starts from z and is whole": half + h / 2 * u_m,
            "your second step is only half as long; it is the whole step from z, τ_s − τ": z + h / 2 * u_m,
            "you evaluate the second velocity at the τ of the start; z_m is at (τ + τ_s)/2": (
                z + h * field.at(half, tau)
            ),
            "you evaluate the second velocity at τ_s, the end of the step; z_m is at (τ + τ_s)/2": (
                z + h * field.at(half, tau_s)
            ),
            "you go to the middle in time, but not in space: the second velocity needs z_m": z
            + h * field.at(z, middle),
            "you go a whole step to find the second velocity; z_m is half of a step away": (
                z + h * field.at(z + h * u, middle)
            ),
            "your sign is wrong: the length of the step is τ_s − τ, which is negative": (
                z - h * field.at(z - h / 2 * u, middle)
            ),
            "the first half step has the wrong sign: it goes to more noise": z + h * field.at(z - h / 2 * u, middle),
            "the second velocity is enough; you took the mean of both": z + h * (u + u_m) / 2,
            "you return z_m; make the whole step with the velocity that you find there": half,
        }
        same(run(answer, field, z, tau, tau_s), z + h * u_m, "the step is wrong; check z_m and its τ", mistakes)
        if len(field.times) != 2:
            raise AnswerError(f"the result is right, but you call velocity {len(field.times)} times; two are enough")
    return "two calls for a step, and the error falls with the square of their number."


@exercise
def log_snr_of(answer: Any) -> str:
    """Random means and standard deviations, without a shift and with one."""
    for shift in (1.0, 2 + 3 * torch.rand(()).item(), 0.2 + 0.3 * torch.rand(()).item()):
        mean, std = (0.3 + torch.rand(())).item(), (0.5 + torch.rand(())).item()
        log = math.log(shift)
        yours_mean, yours_std = _pair(call(answer, mean, std, shift), "mean and standard deviation")
        stds = {
            "your standard deviation lacks the factor 2: log-SNR = −2 log(τ/(1−τ))": std,
            "a standard deviation is positive: it is |−2| times std": -2 * std,
            "this is the variance; the standard deviation is 2·std": 4 * std**2,
            "the variance gets the factor 4, and the standard deviation its root, 2": 4 * std,
            "the shift adds a constant to the logarithm, so it does not change the standard deviation": 2 * std * shift,
            "the constant that the shift adds belongs to the mean, not to the standard deviation": 2 * std - 2 * log,
        }
        means = {
            "the shift is applied twice: it adds −2 log(shift) once": -2 * mean - 4 * log,
            "the shift is missing: it adds −2 log(shift)": -2 * mean,
            "the shift has the wrong sign: it moves τ to more noise, so the log-SNR falls": -2 * mean + 2 * log,
            "your sign is wrong: a larger τ is more noise, so a smaller log-SNR": 2 * mean + 2 * log,
            "the sign of the mean is wrong: log-SNR = −2 log(τ/(1−τ))": 2 * mean - 2 * log,
            "the factor 2 is missing: SNR is the square of the ratio of image to noise": -mean - log,
            "the factor 2 is missing in front of the mean": -mean - 2 * log,
            "the factor 2 is missing in front of log(shift)": -2 * mean - log,
            "you use shift in the place of its logarithm": -2 * mean - 2 * shift,
            "you multiplied the mean by shift; it multiplies τ/(1−τ), so it adds to the logarithm": -2 * mean * shift,
            "you used the logarithm to the base 2; it is the natural one": -2 * mean - 2 * math.log2(shift),
            "you used the logarithm to the base 10; it is the natural one": -2 * mean - 2 * math.log10(shift),
        }
        swapped = abs(float(tensor(yours_std, ())) - (-2 * mean - 2 * log)) < 1e-4
        if swapped and abs(float(tensor(yours_mean, ())) - 2 * std) < 1e-4:
            raise AnswerError("return the mean first, then the standard deviation")
        same(tensor(yours_std, ()), torch.tensor(2 * std), "the standard deviation is wrong; it is 2·std", stds)
        right = torch.tensor(-2 * mean - 2 * log)
        same(tensor(yours_mean, ()), right, "the mean is wrong; it is −2·mean − 2 log(shift)", means)
    return "a logit-normal τ is a normal log-SNR, and a shift moves it."


class _Foreign:
    """A network of the other camp, (y, r) -> x̂₀ − ε̂, with random coefficients and noise at r = 0."""

    def __init__(self) -> None:
        self.gain, self.phase = (0.5 + torch.rand(2)).tolist()
        self.base = torch.randn(1, *SHAPE[1:])
        self.times: list[float] = []

    def __call__(self, y: Any, r: Any) -> Tensor:
        if not isinstance(y, Tensor):
            raise AnswerError(f"call their network with the image first: (y, r), not with {type(y).__name__}")
        if not isinstance(r, Tensor) or r.shape != (len(y),):
            passed = f"shape {tuple(r.shape)}" if isinstance(r, Tensor) else f"a {type(r).__name__}"
            raise AnswerError(f"their network needs a time r for each image, a float tensor (B,); you passed {passed}")
        if not r.is_floating_point():
            raise AnswerError("their network needs a time r from 0 to 1, as floats; you passed ints: is it a timestep?")
        if not (-1e-6 <= r.min() and r.max() <= 1 + 1e-6):
            raise AnswerError(f"their network was called at r = {r.max().item():.3g}; r is from 0 (noise) to 1 (image)")
        self.times += r.tolist()
        if len(self.times) > 1000 * len(y):
            raise AnswerError("you call their network again and again; does your loop end?")
        return self.at(y, r.to(y.dtype))

    def at(self, y: Tensor, r: Tensor | float) -> Tensor:
        r = torch.as_tensor(r, dtype=y.dtype).view(-1, 1, 1, 1)
        return torch.tanh(self.gain * y + self.base + torch.sin(4 * r + self.phase)) * 1.5


@exercise
def convert(answer: Any) -> str:
    """A random network at different timesteps of a batch, and in pure noise."""
    schedule, ends = _schedule(), schedules.flow(100)
    for clock in (schedule, ends):
        T, f = clock.T, _Foreign()
        t = torch.randint(T // 10, T // 2, (SHAPE[0],)) if clock is schedule else torch.tensor([100, 1, 50, 25])
        x_t = torch.randn(SHAPE)
        denoise = run(answer, f, clock)
        if not callable(denoise):
            raise AnswerError(f"convert must return a function, denoise; yours returned a {type(denoise).__name__}")
        yours = run(denoise, x_t, t)
        tau, alpha, sigma = (v.float().view(-1, 1, 1, 1) for v in (clock.tau[t], *_roots(clock, t)))
        z, steps = x_t / (alpha + sigma), (t / T).view(-1, 1, 1, 1)
        velocity = f.at(z, 1 - tau)  # x̂₀ − ε̂
        mistakes = {
            "the velocity has the wrong sign: theirs points to the image, so x̂₀ = z + τ·velocity": z - tau * velocity,
            "time is reversed: their network has noise at r = 0, so r = 1 − τ": z + tau * f.at(z, tau),
            "sign and time are both reversed: r = 1 − τ, and x̂₀ = z + τ·velocity": z - tau * f.at(z, tau),
            "the scale is missing: their network sees y, which is z, not x_t": x_t + tau * f.at(x_t, 1 - tau),
            "their network sees x_t, but it needs z": z + tau * f.at(x_t, 1 - tau),
            "you start from x_t; x̂₀ is z + τ·velocity": x_t + tau * velocity,
            "the scale is the wrong way round: z = x_t·√((1−τ)²+τ²)": (
                x_t * (alpha + sigma) + tau * f.at(x_t * (alpha + sigma), 1 - tau)
            ),
            "you go by 1−τ; from z to the image it is τ": z + (1 - tau) * velocity,
            "this is ε̂, the other end of the line": z - (1 - tau) * velocity,
            "you use −velocity as ε̂; it is ε̂ − x̂₀": (x_t + sigma * velocity) / alpha.clamp(min=1e-9),
            "you use −velocity as v; it is the direction along a line, not a circle": alpha * x_t + sigma * velocity,
            "your r is 1 − t/T, but τ is t/T only with the schedule flow; use schedule.tau": (
                z + tau * f.at(z, 1 - steps)
            ),
            "your τ is t/T, which only the schedule flow has; use schedule.tau": (
                x_t * torch.hypot(1 - steps, steps) + steps * f.at(x_t * torch.hypot(1 - steps, steps), 1 - steps)
            ),
            "you return the velocity; a denoiser returns x̂₀ = z + τ·velocity": velocity,
        }
        same(yours, z + tau * velocity, "x̂₀ is wrong; check z, r and the sign of the velocity", mistakes, 2e-4)
    return "one sign, one 1 − τ and one scale, and any model of the other camp runs here."


def _roots(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    return schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()


def _sampled(f: _Foreign, noise: Tensor, steps: int, shift: float, **wrong: Any) -> Tensor:
    """The exam's result, or with one of the mistakes in `wrong`."""

    def shifted(tau: float) -> float:
        k = {"none": 1.0, "twice": shift**2, "inverse": 1 / shift}.get(wrong.get("clock", ""), shift)
        return k * tau / (1 + (k - 1) * tau)

    def velocity(z: Tensor, tau: float) -> Tensor:
        scale = 1.0 if wrong.get("no_scale") else math.hypot(1 - tau, tau) ** wrong.get("power", 1)
        return wrong.get("sign", -1) * f.at(z / scale, tau if wrong.get("reversed") else 1 - tau)

    z = noise
    for i in range(steps):
        before, after = 1 - i / steps, 1 - (i + 1) / steps
        tau, tau_s = shifted(before), shifted(after)
        h, u = tau_s - tau, velocity(z, tau)
        method = wrong.get("method", "midpoint")
        middle = shifted((before + after) / 2) if method == "unshifted" else (tau + tau_s) / 2
        if method == "heun":
            u = (u + velocity(z + h * u, tau_s)) / 2
        elif method == "continued":
            z = z + h / 2 * u
            u, h = velocity(z, middle), h / 2
        elif method != "euler":
            u = velocity(z + (middle - tau) * u, middle)
        z = z + h * u
    return z


@exercise
def exam(answer: Any) -> str:
    """Random networks, with several numbers of steps and shifts."""
    for steps, shift in ((3, 2 + torch.rand(()).item()), (int(torch.randint(4, 9, ())), 3.0), (5, 0.4), (1, 1.0)):
        f, noise = _Foreign(), torch.randn(SHAPE)
        right = partial(_sampled, f, noise, steps, shift)
        mistakes = {
            "the velocity has the wrong sign: theirs points to the image": right(sign=1),
            "time is reversed: their network has noise at r = 0, so r = 1 − τ": right(reversed=True),
            "sign and time are both reversed: noise is at r = 0, and their velocity points to the image": right(
                sign=1, reversed=True
            ),
            "the scale is missing: their network sees y divided by √(r²+(1−r)²)": right(no_scale=True),
            "their network sees y divided by √(r²+(1−r)²); you multiplied": right(power=-1),
            "the shift is applied twice": right(clock="twice"),
            "the shift is missing": right(clock="none"),
            "the shift goes the wrong way: it applies to τ, not to r = 1 − τ": right(clock="inverse"),
            "this is Euler's method; take the velocity in the middle of each step": right(method="euler"),
            "this is Heun's method; take the velocity in the middle of each step": right(method="heun"),
            "you make two half steps of Euler's method; the second starts from z again, and is whole": right(
                method="continued"
            ),
            "you shift the middle of the step; take the middle of the two shifted τ": right(method="unshifted"),
        }
        result = run(answer, f, noise, steps, shift)
        if isinstance(result, (list, tuple)):
            raise AnswerError("return the final image; this sampler need not yield its steps")
        yours = tensor(result, SHAPE)
        try:
            same(yours, right(), "the image is wrong; check the times, the scale and the sign", mistakes, 2e-4)
        except AnswerError as error:
            if not error.message.startswith("the image is wrong"):
                raise
            raise _wrong_times(f, steps, shift) or error from None
    return "sign, direction of time, scale, shift and solver: all that courses can disagree about."


def _wrong_times(f: _Foreign, steps: int, shift: float) -> AnswerError | None:
    """What is wrong with the times r at which their network was called; None if they are right."""
    each = [1 - i / steps for i in range(steps + 1)]
    taus = [shift * tau / (1 + (shift - 1) * tau) for tau in each]
    wanted = [1 - time for tau, tau_s in itertools.pairwise(taus) for time in (tau, (tau + tau_s) / 2)]
    called = f.times[:: SHAPE[0]]
    if len(called) == len(wanted) and all(abs(a - b) < 1e-3 for a, b in zip(called, wanted, strict=True)):
        return None
    return AnswerError(
        f"with {steps} steps and shift {shift:.2f}, their network must be called at r = {_shown(wanted)}; "
        f"you called it at {_shown(called)}"
    )


def _shown(times: list[float]) -> str:
    few = [f"{time:.3f}" for time in times]
    return ", ".join(few if len(few) < 7 else [*few[:4], "…", few[-1]]) or "no time"
