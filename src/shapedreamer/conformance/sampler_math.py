"""Checks of the numbers that a sampler computes: coefficients, final image, clipping, standard deviation, convergence.

Each ``add_..._checks`` function adds its checks to the checklist of a ``SamplerRuns``. check_sampler calls them in an
order in which causes come before their consequences.
"""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule, linear_zero_snr, step_times
from . import mistakes
from .exact import TABLE, output_std, variance
from .mistakes import Mistake
from .report import describe_error
from .sampler_runs import FEW_STEPS, Mode, SamplerRuns
from .trace import Trace, equal, parameters
from .updates import TOLERANCE, ObservedUpdate, correct_update, find_mistakes, is_correct

CLIP_NAMES = ("clip", "clip_x0", "clip_denoised", "clip_sample")
"""Names under which samplers have an option to clip x̂₀."""
CONSTANT = 0.3
"""The value of the single image in the check with a constant denoiser."""
SMALL = 2.0**-6
"""Scale of unit inputs, small enough that a sampler which always clips x̂₀ to [−1, 1] has nothing to clip."""


def add_coefficient_checks(runs: SamplerRuns) -> None:
    """Check the coefficients of each step x_s = c_x x_t + c_0 x̂₀ + c_n z, and name the mistake behind wrong ones."""
    for mode in runs.modes:
        if not (mode in runs.updates or mode in runs.hidden_noise or mode.is_solver):
            mistake = "a step is not a DDPM or DDIM step: it depends on more than x_t, x̂₀ and noise"
            runs.add_check(mode.prefix("inputs of a step"), ["something else"], "x_t, x̂₀, noise", mistake)
    causes = find_mistakes([update for updates in runs.updates.values() for update in updates], runs.alpha_bar)
    for mode, updates in runs.updates.items():
        if mode.beta:
            expected = "DDPM, variance β"
        else:
            expected = "DDPM posterior" if mode.eta == 1 else f"DDIM, η = {mode.eta:g}"
        before_last = [update for update in updates if update.s > 0]
        last = [update for update in updates if update.s <= 0]
        _add_coefficient_check(runs, mode.prefix("coefficients before the last step"), before_last, expected, causes)
        _add_coefficient_check(runs, mode.prefix("coefficients of the last step"), last, "x̂₀, no noise", causes)


def _add_coefficient_check(
    runs: SamplerRuns, name: str, updates: Sequence[ObservedUpdate], expected: str, causes: Sequence[Mistake]
) -> None:
    wrong = [update for update in updates if not is_correct(update, runs.alpha_bar)]
    if not wrong:
        runs.checklist.add(name, True, expected, expected)
        return
    explanations = find_mistakes(wrong, runs.alpha_bar)
    shared = [cause for cause in causes if cause in explanations] or causes
    cause = shared[0] if shared else "a step has the wrong coefficients"
    t, s, eta, beta, update = wrong[0]
    correct = correct_update(runs.alpha_bar[t], runs.alpha_bar[max(s, 0)], eta, beta)
    coefficients = zip(("x_t", "x̂₀", "z"), update, correct, strict=True)
    term, got, want = max(coefficients, key=lambda each: abs(each[1] - each[2]))
    runs.checklist.add(name, False, expected, f"{t} → {s}: {got:.6f} {term}, not {want:.6f}", cause)


def add_output_checks(runs: SamplerRuns) -> None:
    """Check the final image. Its value is known for every sampler, even if a step depends on more than x_t and x̂₀."""
    wrong = []
    for (mode, steps), trace in runs.traces.items():
        x0 = trace.calls[-1].x0
        error = min((trace.final - image).abs().max().item() for image in (x0, x0.clamp(-1, 1)))
        if not error <= TOLERANCE:
            wrong.append(mode.prefix(f"off by {error:.2g}, {steps} steps"))
            if mode not in runs.updates:
                runs.checklist.causes += _causes_in_last_step(trace, runs.alpha_bar)
    runs.add_check("the output is the last x̂₀", wrong, "equal", "the last step does not end at x̂₀")
    off = []
    for mode in runs.modes:
        final = runs.run(mode, FEW_STEPS, runs.x_T, lambda x, t, k: torch.full_like(x, CONSTANT)).final
        if not (deviation := (final - CONSTANT).square().mean().sqrt().item()) <= TOLERANCE:
            off.append(mode.prefix(f"{deviation:.2g}"))
    mistake = "the output is not x̂₀ although the denoiser always predicts the same image"
    runs.add_check("constant x̂₀: deviation of the output from it", off, "0", mistake)


def _causes_in_last_step(trace: Trace, alpha_bar: Sequence[float]) -> list[Mistake]:
    """Return the mistake in the last step of a multistep solver, or an empty list if none is recognised.

    The factor of x_t in that step is √((1−b)/(1−a)), however it combines the last two x̂₀. So the factor shows which
    b = ᾱ_s the sampler used.
    """
    columns = [trace.calls_by_step[-1][-1].x, *(call.x0 for call in trace.calls[-2:])]
    if not trace.final.isfinite().all():
        return []
    A = torch.stack([column.flatten() for column in columns], dim=1)
    factor = torch.linalg.lstsq(A, trace.final.flatten()[:, None]).solution[0].item()
    t, s = trace.times[-2:]
    b = 1 - factor**2 * (1 - alpha_bar[t])
    if s == 0 and abs(b - alpha_bar[1]) < TOLERANCE:
        return [mistakes.LAST_ALPHA_BAR]
    wraps = any(abs(b - alpha_bar[index]) < TOLERANCE for index in range(-1, -128, -1))
    return [mistakes.WRAPAROUND] if s <= 0 and wraps else []


def add_clipping_checks(runs: SamplerRuns) -> None:
    """Check that a step that clips x̂₀ recomputes ε from the clipped x̂₀. Modes with wrong steps are skipped."""
    modes = [mode for mode, updates in runs.updates.items() if all(is_correct(u, runs.alpha_bar) for u in updates)]
    clip: dict[str, object] = {name: True for name in CLIP_NAMES if name in parameters(runs.sampler)}
    wrong: list[str] = []
    stale: list[str] = []
    changed: list[str] = []
    for mode in modes:
        for is_stale, interval in _wrong_clipped_steps(
            runs.run_random(mode, FEW_STEPS, 6.0, clip), mode, runs.alpha_bar
        ):
            (stale if is_stale else wrong).append(mode.prefix(interval))
        if clip:
            clipped = runs.run_random(mode, FEW_STEPS, options=clip).final
            if not equal(clipped, runs.traces[mode, FEW_STEPS].final):
                changed.append(mode.prefix("different image"))
    if modes:
        mistake = "a step is not computed from the x̂₀ that it yields" if wrong else mistakes.STALE_EPS
        runs.add_check("ε is recomputed from the clipped x̂₀", wrong or stale, "recomputed", mistake)
    if clip:
        mistake = "the clip option changes the image although x̂₀ lies within [−1, 1]"
        runs.add_check("clipping changes nothing within [−1, 1]", changed, "same image", mistake)


def _wrong_clipped_steps(trace: Trace, mode: Mode, alpha_bar: Sequence[float]) -> Iterable[tuple[bool, str]]:
    """Yield (whether its ε is stale, "t → s") for each step that does not follow from x_t and the x̂₀ it yields."""
    states = trace.states
    for k, (call, step) in enumerate(zip(trace.calls, trace.steps, strict=True)):
        t, s = trace.times[k : k + 2]
        want = correct_update(alpha_bar[t], alpha_bar[s], mode.eta, mode.beta)
        draws = [draw.noise for draw in trace.draws if draw.calls in (k, k + 1)]
        ends = [states[k + 1] - want.noise * z for z in (draws if want.noise else []) or [torch.zeros_like(call.x)]]
        unclipped, clipped = call.x0, call.x0.clamp(-1, 1)
        candidates = [step.x0] if trace.yields_steps else [unclipped, clipped]
        if not _any_close(ends, [want.x * call.x + want.x0 * x0 for x0 in candidates]):
            stale = want.x * call.x + want.x0 * unclipped + math.sqrt(alpha_bar[s]) * (clipped - unclipped)
            yield _any_close(ends, [stale]), f"{t} → {s}"


def _any_close(ends: Sequence[Tensor], images: Sequence[Tensor]) -> bool:
    return any((end - image).abs().max().item() < 1e-5 for end in ends for image in images)


def add_std_checks(runs: SamplerRuns) -> None:
    """Check the standard deviation of the samples on data N(0, 0.5²).

    It is computed exactly if the noise can be chosen. If the noise is hidden, it is estimated from 20,000 samples,
    and may be off by four standard errors.
    """
    for mode in runs.modes:
        for steps, published in TABLE.get(mode.table, {}).items():
            estimated = mode in runs.hidden_noise
            other_solver = mode.is_solver and mode not in runs.updates  # has other, unknown standard deviations
            if other_solver or (steps > 50 and (estimated or runs.checklist.failed)):
                continue  # after a failed check, a long run would add nothing
            run = _run_for_estimate(runs, mode, steps) if estimated else _run_units(runs, mode, steps)
            got = run.final.std().item() if estimated else run.final.square().sum().sqrt().item() / SMALL
            as_planned = run.times == step_times(runs.schedule.T, steps)
            expected = published if as_planned else _expected_std(runs, mode, run.times, published)
            runs.checklist.add(
                mode.prefix(f"output standard deviation, {steps} steps"),
                abs(got - expected) <= (0.01 if estimated else 1e-6),
                f"{expected:.6f}",
                f"{got:.6f}",
                "the output has the wrong standard deviation",
                "closed form for data N(0, 0.5²), conformance/exact.py",
            )


def _run_for_estimate(runs: SamplerRuns, mode: Mode, steps: int) -> Trace:
    generator = torch.Generator().manual_seed(1)
    return runs.run_exact(mode, steps, torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.float64))


def _run_units(runs: SamplerRuns, mode: Mode, steps: int) -> Trace:
    """Run a batch in which each image has a single nonzero input, so that the squared outputs add up to the variance.

    Image 0 starts at SMALL and gets no noise. Image k starts at 0; its k-th noise is SMALL, all others are 0.
    """

    def draw_noise(k: int, like: Tensor) -> Tensor:
        noise = torch.zeros_like(like)
        noise[k + 1 :][:1] = SMALL
        return noise

    draws_per_step = math.ceil(len(runs.traces[mode, FEW_STEPS].draws) / FEW_STEPS)
    x_T = torch.zeros(1 + draws_per_step * steps, 1, 1, 1, dtype=torch.float64)
    x_T[0] = SMALL
    return runs.run_exact(mode, steps, x_T, draw_noise)


def _expected_std(runs: SamplerRuns, mode: Mode, times: list[int], published: float) -> float:
    """Return the standard deviation for these timesteps if they go from T to 0, otherwise the published one."""
    complete = times[0] == runs.schedule.T and min(times) == 0
    return output_std(times, mode.eta, mode.beta, runs.schedule) if complete else published


def add_convergence_checks(runs: SamplerRuns) -> None:
    """Check that an ODE solver converges with the required order.

    The order is measured at t ≈ 100, because the last step to t = 0 is a first-order DDIM step in every solver.
    """
    mode = next((mode for mode in runs.modes if mode.eta == 0), None)
    traces = [trace for steps in (20, 100) if mode and (trace := _run_ode(runs, mode, steps))]
    common = set(traces[0].times) & set(traces[-1].times) - {0, runs.schedule.T} if len(traces) == 2 else set()
    if mode is None or not common:
        return
    stop = min(common, key=lambda t: abs(t - 100))
    errors = [max(_ode_error(stop, trace, runs.schedule), 1e-12) for trace in traces]
    required = (runs.order or (1.0 if mode in runs.updates else 2.0)) - 0.2
    got = math.log(errors[0] / errors[1]) / math.log(len(traces[1].steps) / len(traces[0].steps))
    runs.checklist.add(
        mode.prefix(f"order of convergence, 20 to 100 steps, at t = {stop}"),
        got >= required,
        f"at least {required:.1f}",
        f"{got:.2f}",
        "the sampler converges to the exact ODE solution more slowly than its order requires",
        "exact ODE solution x_t/x_T = √(v_t/v_T) for data N(0, 0.5²), conformance/exact.py",
    )


def _run_ode(runs: SamplerRuns, mode: Mode, count: int) -> Trace | None:
    """Return a run with ``count`` steps. A solver that counts network calls may need steps = 2 count or 2 count − 1."""
    x_T = torch.full((1, 1, 1, 1), SMALL, dtype=torch.float64)
    traces = (runs.run_exact(mode, steps, x_T) for steps in (count, 2 * count - 1, 2 * count))
    return next((trace for trace in traces if len(trace.steps) == count), None)


def _ode_error(t: int, trace: Trace, schedule: Schedule) -> float:
    """Return the relative error of x_t against the exact ODE solution that starts at the same point."""
    x = trace.steps[trace.times.index(t) - 1].x.item()
    exact = trace.start.item() * math.sqrt(variance(t, schedule) / variance(trace.times[0], schedule))
    return abs(x / exact - 1)


def add_zero_snr_checks(runs: SamplerRuns) -> None:
    """Check that the sampler works at ᾱ_T = 0, where it must not divide by √ᾱ_T."""
    schedule = linear_zero_snr()
    wrong = []
    for mode in runs.modes:
        try:
            final = runs.run(mode, FEW_STEPS, runs.x_T, lambda x, t, k: x / 2, schedule=schedule).final
        except ArithmeticError as error:
            wrong.append(mode.prefix(describe_error(error)))
        else:
            wrong += [] if final.isfinite().all() else [mode.prefix("NaN")]
    mistake = "something is divided by √ᾱ_T, which is 0 at zero terminal SNR"
    runs.add_check("the output is finite at ᾱ_T = 0", wrong, "finite", mistake, "Lin et al. 2024, algorithm 1")
