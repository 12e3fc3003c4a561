"""Checks whether a sampler converges to the exact solution, whatever method it uses.

For Gaussian data the exact denoiser is linear, so the exact image at every timestep is known: of the probability-flow
ODE the image itself, of a sampler that adds noise the variance. A method that is neither DDIM nor DDPM, such as Heun or
DPM-Solver++, has no table of right coefficients. It is right if its error shrinks with the number of steps as fast as
its order says. For these methods the check is required, and a sampler that cannot be checked does not pass.

``path_errors`` judges Euler methods. Their steps depend only on x_t and x̂₀, like those of DDIM and DDPM, but have other
coefficients. From these follow the mean and the standard deviation of x_t at every timestep, for any Gaussian data.
Both must converge to the exact ones.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule, step_times
from . import mistakes
from .exact import DATA_STD, variance
from .mistakes import Mistake
from .sampler_runs import FEW_STEPS, Mode, PathErrors, SamplerRuns
from .trace import Trace
from .updates import TOLERANCE, ObservedUpdate, wanted

STEPS = (20, 100)
"""The numbers of steps between which the error must shrink."""
LOW = 100
"""Errors are measured near this t: the last step is a first-order DDIM step in every solver."""
MEAN = 0.1
SMALL = 2.0**-6
"""Scale of unit inputs, small enough that a sampler which always clips x̂₀ to [−1, 1] has nothing to clip."""
SOURCE = "exact solution for data N(0.1, 0.5²), conformance/convergence.py"
Images = Sequence[tuple[int, Tensor]]
PATH_STEPS = (125, 250, 500)
"""The numbers of steps of an Euler method. Each is twice the one before, so that errors can be extrapolated."""
PATH_LIMITS = {0.5: 0.01, 1.0: 0.01, 0.1: 0.03}
"""Largest error allowed in the limit of many steps, by standard deviation of the data.

A coefficient that is wrong by 2 % leaves an error of 0.02. Right methods leave up to 0.007, because the schedule is a
table: 1 − ᾱ_t/ᾱ_s, β_t summed and −log(ᾱ_t/ᾱ_s) differ even in a single step. Data that varies little shows errors near
t = 0, where methods converge slowly.
"""
MAX_PATH_ERROR = 0.06
"""Largest error allowed at the most steps, for data with standard deviation 0.5 or 1."""


def add_convergence_checks(runs: SamplerRuns) -> None:
    """Check that samplers converge to the exact solution: order 1 for DDIM, 2 for other ODE solvers.

    A first-order method that is not DDIM passes if it extrapolates ε̂ with a fixed weight (the gradient-estimation
    sampler). Samplers that add noise in another way than DDIM must reach the exact variance.
    """
    if mistakes.IGNORES_STEPS in runs.checklist.causes:
        return  # all runs are the same
    for mode in runs.modes:
        if mode in runs.euler:
            _add_euler_row(runs, mode)
            continue
        is_ddim = mode in runs.updates
        if mode in runs.hidden_noise or (is_ddim and mode.eta > 0):
            continue  # judged by the standard deviation of samples, or by the coefficients
        name = mode.prefix(f"convergence, {STEPS[0]} to {STEPS[1]} steps")
        try:
            if is_ddim or not runs.uses_noise(mode):
                _add_ode_check(runs, mode, name, is_ddim)
            else:
                _add_variance_check(runs, mode, name)
        except Exception as error:  # a run failed that no other check makes
            runs.checklist.skip(name, str(error) or type(error).__name__, required=not is_ddim)


def _add_ode_check(runs: SamplerRuns, mode: Mode, name: str, is_ddim: bool) -> None:
    x_T = torch.linspace(-0.5, 0.5, runs.x_T.numel(), dtype=torch.float64).view_as(runs.x_T)
    coarse, fine = (_run_ode(runs, mode, count, x_T) for count in STEPS)
    common = set(dict(coarse)) & set(dict(fine)) - {runs.schedule.T}
    if not common:
        runs.checklist.skip(name, "no timestep is visited by both runs", required=not is_ddim)
        return
    stop = min(common, key=lambda t: abs(t - LOW))
    errors = [_ode_error(images, stop, runs.schedule) for images in (coarse, fine)]
    if not all(map(math.isfinite, errors)):
        runs.checklist.add(name, False, "converges", "NaN", "the sampler does not converge to the exact ODE solution")
        return
    order = math.log(max(errors[0], 1e-12) / max(errors[1], 1e-12)) / math.log(len(fine) / len(coarse))
    required = (runs.order or (1.0 if is_ddim else 2.0)) - 0.2
    passed = order >= required
    expected, got = f"order at least {required:.1f}", f"order {order:.2f}"
    if not passed and not is_ddim and runs.order is None:
        weight = _fixed_weight(runs.traces[mode, FEW_STEPS], runs.alpha_bar)
        if weight is not None and 1 <= weight <= 2 + 1e-3:  # beyond, errors grow from step to step
            passed, expected, got = True, f"order 1: {weight:.3g} ε̂ − {weight - 1:.3g} ε̂ before", got
    if not (passed or is_ddim) and runs.order is None and errors[1] < 1e-3:
        passed = order >= 0.8 or (errors[1] < 2e-4 and errors[0] < 1e-2)  # an error may change its sign in between
        expected, got = "order 2, or an error below 0.001", f"{got}, error {errors[1]:.1g}"
    if runs.order is None and (wrong := _wrong_weight(runs, mode)):
        runs.checklist.add(name, False, "weight h/(2h')", wrong[1], wrong[0], "Lu et al. 2022b, algorithm 2")
        return
    mistake = "the sampler converges to the exact ODE solution more slowly than its order requires"
    runs.checklist.add(name, passed, expected, got, mistake, SOURCE)


def _add_euler_row(runs: SamplerRuns, mode: Mode) -> None:
    order, error, limit = runs.euler[mode]
    name = mode.prefix(f"convergence, {PATH_STEPS[0]} to {PATH_STEPS[-1]} steps")
    got = f"order {order:.2f}, error {error:.1%}, limit {limit:.1%}"
    runs.checklist.add(name, True, f"order at least {MIN_ORDER}, limit below 1%", got, source=PATH_SOURCE)


def _add_variance_check(runs: SamplerRuns, mode: Mode, name: str) -> None:
    errors = []
    for steps in STEPS:
        trace = run_units(runs, mode, steps)
        images = [(t, x) for t, x in main_images(trace, steps, runs.schedule.T) if t >= LOW]
        stds = [(t, x.square().sum().sqrt() / SMALL) for t, x in images]
        exact = [math.sqrt(variance(t, runs.schedule)) for t, _ in stds]
        errors.append(max(abs(std.item() / want - 1) for (_, std), want in zip(stds, exact, strict=True)))
    passed = errors[1] <= MAX_STD_ERROR and errors[1] <= max(0.6 * errors[0], 1e-3)
    shown = f"{errors[0]:.1%}, {errors[1]:.1%}"
    mistake = "the standard deviation of x_t does not converge to the exact one"
    runs.checklist.add(name, passed, f"error of std of x_t below {MAX_STD_ERROR:.0%}", shown, mistake, SOURCE)


MAX_STD_ERROR = 0.03


def run_units(runs: SamplerRuns, mode: Mode, steps: int) -> Trace:
    """Run a batch in which each image has a single nonzero input, so that the squared outputs add up to the variance.

    Image 0 starts at SMALL and gets no noise. Image k starts at 0; its k-th noise is SMALL, all others are 0.
    """

    def draw_noise(k: int, like: Tensor) -> Tensor:
        noise = torch.zeros_like(like)
        if like.ndim > 4:  # the noise of many steps at once
            for i in range(min(len(like), like.shape[1] - 1)):
                noise[i, i + 1] = SMALL
        else:
            noise[k + 1 :][:1] = SMALL
        return noise

    draws = runs.run_exact(mode, steps, torch.zeros(1, 1, 1, 1, dtype=torch.float64)).draws
    count = sum(len(draw.noise) if draw.noise.ndim > 4 else 1 for draw in draws)
    x_T = torch.zeros(1 + count, 1, 1, 1, dtype=torch.float64)
    x_T[0] = SMALL
    return runs.run_exact(mode, steps, x_T, draw_noise)


def _run_ode(runs: SamplerRuns, mode: Mode, count: int, x_T: Tensor) -> Images:
    """Return the images of a run with ``count`` steps. A solver that counts calls may need 2 count − 1 or 2 count."""
    found: Images = []
    for steps in (count, 2 * count - 1, 2 * count):
        trace = runs.run_exact(mode, steps, x_T, mean=MEAN)
        images = main_images(trace, count, runs.schedule.T)
        found = found or images
        if len(images) == count:
            return images
    return found


def main_images(trace: Trace, steps: int, T: int) -> Images:
    """Return (t, x_t) where steps start; without the stages inside of a step, if step_times says which these are."""
    visited = [(t, x.double()) for t, x in trace.visited[:-1]]
    planned = set(step_times(T, steps)[:-1])
    on_grid = [(t, x) for t, x in visited if t in planned]
    return on_grid if len(on_grid) == steps else visited


def _ode_error(images: Images, stop: int, schedule: Schedule) -> float:
    """Return the largest error of x_t at ``stop`` against the exact ODE solution from the first image, in stds."""

    def scaled(t: int, x: Tensor) -> Tensor:
        return (x - math.sqrt(schedule.alpha_bar[t].item()) * MEAN) / math.sqrt(variance(t, schedule, DATA_STD))

    return (scaled(stop, dict(images)[stop]) - scaled(*images[0])).abs().max().item()


# Euler methods, judged by the coefficients of their steps

MIN_ORDER = 0.8
PATH_SOURCE = "mean and standard deviation of x_t for Gaussian data, conformance/convergence.py"
Moments = tuple[float, float]
"""Errors of the mean and of the standard deviation of x_t, both relative to the exact standard deviation."""


def path_errors(runs: SamplerRuns, mode: Mode) -> PathErrors | None:
    """Return how a sampler converges whose steps follow from (x_t, x̂₀, noise); None if it does not.

    The error is compared along the whole path, for data of three standard deviations. A sampler with the parameter eta
    must also add the noise that eta asks for, in the limit of many steps.
    """
    observed = [runs.updates_of(runs.run_random(mode, steps), mode) for steps in PATH_STEPS]
    if not (all(map(_is_complete, observed)) and _adds_up(runs, mode) and _noise_fits_eta(observed[-1], mode, runs)):
        return None
    orders, errors, limits = [], [], []
    for std, max_limit in PATH_LIMITS.items():
        paths = [_moment_errors(updates, std, runs.schedule) for updates in observed]
        coarse, middle, fine = ([_interpolate(path, t) for t, _ in paths[0]] for path in paths)
        limit = _largest_change([(2 * f[0], 2 * f[1]) for f in fine], middle)
        if not limit <= max_limit:  # also if it is NaN
            return None
        if max_limit > min(PATH_LIMITS.values()):
            continue
        changes = _largest_change(coarse, middle), _largest_change(middle, fine)
        limits.append(limit)
        errors.append(max(abs(error) for _, moments in paths[-1] for error in moments))
        if changes[1] > 1e-3:  # otherwise there is nothing to measure the order with
            orders.append(math.log2(changes[0] / changes[1]))
    found = PathErrors(min(orders, default=1.0), max(errors), max(limits))
    return found if found.order >= MIN_ORDER and found.error <= MAX_PATH_ERROR else None


def _is_complete(updates: Sequence[ObservedUpdate]) -> bool:
    return bool(updates) and updates[-1].s == 0 and all(each.t > each.s for each in updates)


def _adds_up(runs: SamplerRuns, mode: Mode) -> bool:
    """Whether a run has the standard deviation that its coefficients say: each step has noise of its own."""
    trace = run_units(runs, mode, FEW_STEPS)
    v = 1.0
    for update in runs.updates_of(runs.traces[mode, FEW_STEPS], mode):
        v = _slope(update, DATA_STD, runs.schedule) ** 2 * v + update.update.noise**2
    return abs(trace.final.square().sum().sqrt().item() / SMALL - math.sqrt(v)) <= 1e-4 * math.sqrt(v)


def _noise_fits_eta(updates: Sequence[ObservedUpdate], mode: Mode, runs: SamplerRuns) -> bool:
    if "eta" not in mode.options:
        return True
    before_last = [update for update in updates if update.s >= LOW]
    got = sum(update.update.noise**2 for update in before_last)
    expected = sum(wanted(update, runs.alpha_bar).noise ** 2 for update in before_last)
    return abs(got - expected) <= 0.1 * expected + TOLERANCE


def _slope(observed: ObservedUpdate, std: float, schedule: Schedule) -> float:
    """Return the factor by which a step multiplies deviations from the mean, with the exact denoiser."""
    a, update = schedule.alpha_bar[observed.t].item(), observed.update
    return update.x + update.x0 * math.sqrt(a) * std**2 / variance(observed.t, schedule, std)


def _moment_errors(updates: Sequence[ObservedUpdate], std: float, schedule: Schedule) -> list[tuple[int, Moments]]:
    """Return (t, errors) from t = 0 upward, for data N(1, std²) and an exact first image."""
    T = updates[0].t
    mean, v = math.sqrt(schedule.alpha_bar[T].item()), variance(T, schedule, std)
    path = [(T, (0.0, 0.0))]
    for observed in updates:
        signal, slope = math.sqrt(schedule.alpha_bar[observed.t].item()), _slope(observed, std, schedule)
        # x̂₀ = 1 at the exact mean, √ᾱ_t
        mean = slope * (mean - signal) + observed.update.x * signal + observed.update.x0
        v = slope**2 * v + observed.update.noise**2
        exact = variance(observed.s, schedule, std)
        off = mean - math.sqrt(schedule.alpha_bar[observed.s].item())
        path.append((observed.s, (off / math.sqrt(exact), math.sqrt(v / exact) - 1)))
    return path[::-1]


def _interpolate(path: Sequence[tuple[int, Moments]], t: int) -> Moments:
    """Return the errors at t. Not all runs visit the same timesteps."""
    k = bisect_left(path, t, key=lambda point: point[0])
    (high, above), (low, below) = path[k], path[max(k - 1, 0)]
    w = (high - t) / (high - low) if high > t else 0.0
    return (1 - w) * above[0] + w * below[0], (1 - w) * above[1] + w * below[1]


def _largest_change(one: Sequence[Moments], other: Sequence[Moments]) -> float:
    pairs = zip(itertools.chain(*one), itertools.chain(*other), strict=True)
    differences = [abs(p - q) for p, q in pairs]
    return max(differences) if all(map(math.isfinite, differences)) else math.inf


# Formulas of multistep methods, fitted to a run with random predictions


def _fixed_weight(trace: Trace, alpha_bar: Sequence[float]) -> float | None:
    """Return w if each step follows w ε̂ + (1 − w) ε̂' in σ form, with the ε̂' of the step before; None if it does not."""
    if len(trace.calls) != len(trace.steps):
        return None
    weights = []
    for k in range(1, len(trace.calls) - 1):
        t, s = trace.times[k : k + 2]
        sigma, sigma_s = (math.sqrt((1 - alpha_bar[time]) / alpha_bar[time]) for time in (t, s))
        eps, before = (
            (call.x - math.sqrt(alpha_bar[call.t]) * call.x0) / math.sqrt(1 - alpha_bar[call.t])
            for call in (trace.calls[k], trace.calls[k - 1])
        )
        moved = trace.states[k + 1] / math.sqrt(alpha_bar[s]) - trace.states[k] / math.sqrt(alpha_bar[t])
        weight, residual = _fit(eps - before, moved / (sigma_s - sigma) - before)
        if residual > 1e-4:
            return None
        weights.append(weight)
    return weights[0] if weights and max(weights) - min(weights) < 1e-3 else None


def _wrong_weight(runs: SamplerRuns, mode: Mode) -> tuple[Mistake, str] | None:
    """Return the mistake in the weight of a 2M step, x̂₀ + w (x̂₀ − x̂₀'), None if there is none or it is another method.

    w must be h/(2h'), or get close to it in short steps. A w that is another multiple of h/h' or of h'/h, or the same
    in all steps, never does.
    """
    alpha_bar, trace = runs.alpha_bar, runs.traces[mode, FEW_STEPS]
    if len(trace.calls) != len(trace.steps) or trace.one_call_per_step:
        return None
    lam = [0.5 * math.log(alpha_bar[t] / (1 - alpha_bar[t])) if t else math.inf for t in trace.times]
    weights, ratios = [], []
    for k in range(1, len(trace.calls) - 1):
        t, s = trace.times[k : k + 2]
        ratios.append((lam[k + 1] - lam[k]) / (lam[k] - lam[k - 1]))
        keep = math.sqrt((1 - alpha_bar[s]) / (1 - alpha_bar[t]))
        x0, x0_before = trace.calls[k].x0, trace.calls[k - 1].x0
        moved = trace.states[k + 1] - keep * trace.states[k]
        weight, residual = _fit(x0 - x0_before, moved / (math.sqrt(alpha_bar[s]) - keep * math.sqrt(alpha_bar[t])) - x0)
        if not residual <= 1e-4:
            return None
        weights.append(weight)
    right = [ratio / 2 for ratio in ratios]
    off = [abs(weight - want) for weight, want in zip(weights, right, strict=True)]
    if not off or max(off) < 1e-3:
        return None
    k = off.index(max(off))
    shown = f"{weights[k]:.3f} at t = {trace.times[k + 1]}, not {right[k]:.3f}"
    if all(abs(weight * ratio - 0.5) < 1e-3 for weight, ratio in zip(weights, ratios, strict=True)):
        return mistakes.INVERTED_RATIO, shown
    for power in (1, -1, 0):
        factors = [weight / ratio**power for weight, ratio in zip(weights, ratios, strict=True)]
        if max(factors) - min(factors) < 1e-3:
            return mistakes.WRONG_WEIGHT, shown
    return None


def _fit(direction: Tensor, image: Tensor) -> tuple[float, float]:
    """Return the factor with which ``direction`` fits the image best, and the largest error."""
    factor = (direction.flatten() @ image.flatten() / direction.square().sum()).item()
    return factor, (image - factor * direction).abs().max().item()
