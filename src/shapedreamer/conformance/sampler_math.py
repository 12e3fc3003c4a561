"""Checks of the numbers that a sampler computes: coefficients, final image, clipping and standard deviation.

Each ``add_..._checks`` function adds its checks to the checklist of a ``SamplerRuns``. check_sampler calls them in an
order in which causes come before their consequences.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from ..diffusion.schedule import linear_zero_snr, step_times
from . import mistakes
from .convergence import SMALL, path_errors, run_units
from .exact import TABLE, output_std
from .mistakes import Mistake
from .report import describe_error
from .sampler_runs import FEW_STEPS, Mode, SamplerRuns, no_noise, same_images
from .trace import Trace, equal, noise_by_step, parameters, solve_updates
from .updates import TOLERANCE, ObservedUpdate, Update, find_mistakes, is_correct, is_rounded, wanted, wrong_part

CLIP_NAMES = ("clip", "clip_x0", "clip_denoised", "clip_sample")
"""Names under which samplers have an option to clip x̂₀."""
CONSTANT = 0.3
"""The value of the single image in the check with a constant denoiser."""
TIMING = {mistakes.REPEATED_TIME, mistakes.IGNORES_STEPS, mistakes.FORM_OF_T, mistakes.IN_PLACE, mistakes.LAST_SIGMA}
"""Mistakes that do not explain wrong coefficients."""

LIMIT_OF_ONE_PART = 0.003
"""The largest error of an Euler method in the limit of many steps if all but one factor are exactly those of DDIM.

Only an error of that factor can then remain, so less is allowed than in ``convergence.PATH_LIMITS``.
"""


def add_coefficient_checks(runs: SamplerRuns) -> None:
    """Check the coefficients of each step x_s = c_x x_t + c_0 x̂₀ + c_n z, and name the mistake behind wrong ones."""
    ignored = _ignores_eta(runs)
    for mode in runs.modes:
        if mode in runs.updates or mode in runs.hidden_noise:
            continue
        if runs.is_nonlinear(mode):
            mistake: Mistake | str = "a step is not linear in x_t, x̂₀ and noise: it treats large values differently"
            if _is_clamped(runs.traces[mode, FEW_STEPS]):
                mistake = mistakes.CLAMPED_X
            runs.add_check(mode.prefix("steps are linear"), ["not linear"], "x_t, x̂₀, noise", mistake)
        elif not mode.any_method:
            mistake = "a step is not a DDPM or DDIM step: it depends on more than x_t, x̂₀ and noise"
            runs.add_check(mode.prefix("inputs of a step"), ["something else"], "x_t, x̂₀, noise", mistake)
    causes = find_mistakes([update for updates in runs.updates.values() for update in updates], runs.alpha_bar)
    for mode, updates in runs.updates.items():
        if mode.any_sigma:
            expected = "signal, direction and noise fit"
        elif mode.beta:
            expected = "DDPM, variance β"
        else:
            expected = "DDPM posterior" if mode.eta == 1 else f"DDIM, η = {mode.eta:g}"
        before_last = [update for update in updates if update.s > 0]
        last = [update for update in updates if update.s <= 0]
        _add_coefficient_check(runs, mode, "coefficients before the last step", before_last, expected, causes)
        _add_coefficient_check(runs, mode, "coefficients of the last step", last, "x̂₀, no noise", causes)
    if ignored is not None:
        runs.add_check("eta has an effect", ["none"] * ignored, "an effect", mistakes.ETA_IGNORED)


def _ignores_eta(runs: SamplerRuns) -> bool | None:
    """Return whether images do not depend on eta; then keep only the mode that fits best. None if there is no eta."""
    modes = [mode for mode in runs.modes if "eta" in mode.options]
    if len(modes) < 2:
        return None
    first, *others = [runs.traces[mode, FEW_STEPS] for mode in modes]
    ignored = all(same_images(first, other) for other in others)
    if ignored:
        counts = {mode: sum(is_correct(each, runs.alpha_bar) for each in runs.updates.get(mode, [])) for mode in modes}
        best = max(modes, key=lambda mode: counts[mode])
        runs.modes = [mode for mode in runs.modes if mode not in modes or mode is best]
        runs.updates = {mode: updates for mode, updates in runs.updates.items() if mode in runs.modes}
    return ignored


def _is_clamped(trace: Trace) -> bool:
    """Whether several pixels of the images after the first have exactly the largest value that occurs."""
    values = torch.stack([state.double().abs() for state in trace.states[1:-1]])
    return bool(((values - values.max()).abs() < 1e-9).sum() >= 3)


def _add_coefficient_check(
    runs: SamplerRuns, mode: Mode, name: str, updates: Sequence[ObservedUpdate], expected: str,
    causes: Sequence[Mistake],
) -> None:  # fmt: skip
    is_last = bool(updates) and updates[0].s <= 0
    name = mode.prefix(name)
    if not updates:
        runs.checklist.skip(name, "no such step was found")
        return
    wrong = [update for update in updates if not is_correct(update, runs.alpha_bar)]
    if not wrong:
        runs.checklist.add(name, True, expected, expected)
        return
    rounded = all(is_rounded(update, runs.alpha_bar) for update in wrong)
    wrong = wrong if rounded else [update for update in wrong if not is_rounded(update, runs.alpha_bar)]
    explanations = find_mistakes(wrong, runs.alpha_bar)
    shared = [cause for cause in causes if cause in explanations] or causes
    cause: Mistake | str = shared[0] if shared else "a step has the wrong coefficients"
    if not shared and is_last and mode in runs.euler:
        noisy = any(update.update.noise > TOLERANCE for update in wrong)
        cause = next(iter(explanations), mistakes.NOISE_ON_LAST_STEP if noisy else mistakes.NOISE_LEFT)
    elif not shared and not is_last and set(runs.checklist.causes) <= TIMING:
        cause = wrong_part(wrong, runs.alpha_bar) or cause
        if not runs.checklist.causes and "variance" not in mode.options:
            with suppress(Exception):  # a run failed that no other check makes
                found = path_errors(runs, mode)
                if found and (found.limit <= LIMIT_OF_ONE_PART or not isinstance(cause, Mistake)):
                    runs.euler[mode] = found
    t, s, update = wrong[0].t, wrong[0].s, wrong[0].update
    coefficients = zip(("x_t", "x̂₀", "z"), update, wanted(wrong[0], runs.alpha_bar), strict=True)
    term, got, want = max(coefficients, key=lambda each: abs(each[1] - each[2]))
    shown = f"{t} → {s}: {got:.6f} {term}, not {want:.6f}"
    if rounded:
        runs.checklist.note(name, False, expected, shown, mistakes.SINGLE_PRECISION)
    elif not is_last and mode in runs.euler:
        runs.checklist.note(name, False, expected, shown, mistakes.EULER)
    else:
        runs.checklist.add(name, False, expected, shown, cause)


def add_output_checks(runs: SamplerRuns) -> None:
    """Check the final image. Its value is known for every sampler, even if a step depends on more than x_t and x̂₀."""
    wrong: list[str] = []
    combined: list[str] = []
    rounded: list[str] = []
    for (mode, steps), trace in runs.traces.items():
        x0 = trace.calls[-1].x0
        error = min((trace.final - image).abs().max().item() for image in (x0, x0.clamp(-1, 1)))
        if error <= TOLERANCE:
            continue
        text = mode.prefix(f"off by {error:.2g}, {steps} steps")
        if error <= 1e-4:
            rounded.append(text)
            continue
        if mode in runs.updates or not trace.final.isfinite().all():
            wrong.append(text)
        elif mode in runs.modes:
            causes = _causes_in_last_step(trace, runs.alpha_bar)
            runs.checklist.causes += causes
            (wrong if causes or mode in runs.hidden_noise else combined).append(text)
    name = "the output is the last x̂₀"
    if combined and not wrong:
        runs.checklist.note(name, False, "equal", combined[0], mistakes.OTHER_LAST_STEP)
    elif rounded and not wrong:
        runs.checklist.note(name, False, "equal", rounded[0], mistakes.SINGLE_PRECISION)
    else:
        runs.add_check(name, wrong, "equal", "the last step does not end at x̂₀")
    off = []
    mistake: Mistake | str = "the output is not x̂₀ although the denoiser always predicts the same image"
    for mode in runs.modes:
        final = runs.run(mode, FEW_STEPS, runs.x_T, _constant).final
        if not (deviation := (final - CONSTANT).square().mean().sqrt().item()) <= 1e-4:
            off.append(mode.prefix(f"{deviation:.2g}"))
            silent = runs.run(mode, FEW_STEPS, runs.x_T, _constant, draw_noise=no_noise)
            if mode not in runs.updates and (silent.final - CONSTANT).abs().max() <= 1e-4:
                mistake = mistakes.NOISE_ON_LAST_STEP
            elif mode not in runs.updates:
                mistake = _cause_for_constant(silent, runs.alpha_bar) or mistake
    runs.add_check("constant x̂₀: deviation of the output from it", off, "0", mistake)


def _cause_for_constant(trace: Trace, alpha_bar: Sequence[float]) -> Mistake | None:
    """Return the mistake if the output for a constant x̂₀ still contains the noise of the last x_t, None if not."""
    call = trace.calls[-1]
    a = alpha_bar[min(max(call.t, 1), len(alpha_bar) - 1)]
    noise = (call.x.double() - math.sqrt(a) * CONSTANT) / math.sqrt(1 - a)
    columns = torch.stack([torch.full_like(noise, CONSTANT).flatten(), noise.flatten()], dim=1)
    target = trace.final.double().flatten()[:, None]
    if not (columns.isfinite().all() and target.isfinite().all()):
        return None
    solution = torch.linalg.lstsq(columns, target).solution
    signal, left = solution[:, 0].tolist()
    if (columns @ solution - target).abs().max() > 1e-4 or left < 1e-4:
        return None
    if abs(signal**2 - alpha_bar[1]) < 1e-5 and abs(left**2 - (1 - alpha_bar[1])) < 1e-5:
        return mistakes.LAST_ALPHA_BAR
    return mistakes.LAST_SIGMA if abs(signal**2 - 1) < 1e-3 or abs(signal**2 + left**2 - 1) < 1e-3 else None


def _constant(x: Tensor, t: int, k: int) -> Tensor:
    return torch.full_like(x, CONSTANT)


def _causes_in_last_step(trace: Trace, alpha_bar: Sequence[float]) -> list[Mistake]:
    """Return the mistake in the last step of a multistep solver, or an empty list if none is recognised.

    The factor of x_t in that step is √((1−b)/(1−a)), however it combines the last two x̂₀. So the factor shows which
    b = ᾱ_s the sampler used. In σ form the factor is σ_s/(σ_t √a), and the factors of x₀ add up to 1.
    """
    if not trace.final.isfinite().all() or len(trace.calls) < 2:
        return []
    columns = [trace.calls_by_step[-1][-1].x, *(call.x0 for call in trace.calls[-2:])]
    A = torch.stack([column.double().flatten() for column in columns], dim=1)
    y = trace.final.double().flatten()[:, None]
    solution = torch.linalg.lstsq(A, y).solution
    if (A @ solution - y).abs().max() > 10 * TOLERANCE:
        return []
    factor, *of_x0 = solution[:, 0].tolist()
    t, s = trace.times[-2:]
    b = 1 - factor**2 * (1 - alpha_bar[t])
    if s == 0 and factor > 1e-4 and abs(sum(of_x0) + factor * math.sqrt(alpha_bar[t]) - 1) < 10 * TOLERANCE:
        return [mistakes.LAST_SIGMA]
    if s == 0 and abs(b - alpha_bar[1]) < TOLERANCE:
        return [mistakes.LAST_ALPHA_BAR]
    wraps = any(abs(b - alpha_bar[index]) < TOLERANCE for index in range(-1, -128, -1))
    return [mistakes.WRAPAROUND] if s <= 0 and wraps else []


def add_clipping_checks(runs: SamplerRuns) -> None:
    """Check that a step that clips x̂₀ recomputes ε from the clipped x̂₀. Modes with wrong steps are skipped."""
    modes = [
        mode for mode, updates in runs.updates.items()
        if mode in runs.euler
        or all(is_correct(each, runs.alpha_bar) or is_rounded(each, runs.alpha_bar) for each in updates)
    ]  # fmt: skip
    clip: dict[str, object] = {name: True for name in CLIP_NAMES if name in parameters(runs.sampler)}
    wrong: list[str] = []
    stale: list[str] = []
    changed: list[str] = []
    for mode in modes:
        updates = solve_updates(runs.traces[mode, FEW_STEPS])[0]
        for is_stale, interval in _wrong_clipped_steps(
            runs.run_random(mode, FEW_STEPS, 6.0, clip), updates, runs.alpha_bar
        ):
            (stale if is_stale else wrong).append(mode.prefix(interval))
        if clip:
            clipped = runs.run_random(mode, FEW_STEPS, options=clip).final
            if not equal(clipped, runs.traces[mode, FEW_STEPS].final):
                changed.append(mode.prefix("different image"))
    name = "ε is recomputed from the clipped x̂₀"
    if not modes:
        runs.checklist.skip(name, "needs correct DDIM or DDPM steps", required=False)
    else:
        mistake: Mistake | str = "a step is not computed from the x̂₀ that it yields" if wrong else mistakes.STALE_EPS
        runs.add_check(name, wrong or stale, "recomputed", mistake)
    if clip:
        mistake = "the clip option changes the image although x̂₀ lies within [−1, 1]"
        runs.add_check("clipping changes nothing within [−1, 1]", changed, "same image", mistake)


def _wrong_clipped_steps(
    trace: Trace, updates: Sequence[Update], alpha_bar: Sequence[float]
) -> Iterable[tuple[bool, str]]:
    """Yield (whether its ε is stale, "t → s") for each step that does not follow from x_t and the x̂₀ it yields."""
    states, noise = trace.states, noise_by_step(trace)
    for k, (call, step, update) in enumerate(zip(trace.calls, trace.steps, updates, strict=True)):
        t, s = trace.times[k : k + 2]
        draws = noise[k]
        of_x0 = states[k + 1].double() - update.x * call.x.double()
        unclipped, clipped = call.x0, call.x0.clamp(-1, 1)
        candidates = [step.x0] if trace.yields_steps else [unclipped, clipped]
        # dynamic thresholding gives an x̂₀ that we do not know, but it lies in [−1, 1]
        unknown = not trace.yields_steps and not draws and of_x0.abs().max().item() <= update.x0 * (1 + 1e-6)
        if not unknown and not any(_is_noise(of_x0 - update.x0 * x0, draws) for x0 in candidates):
            stale = update.x0 * unclipped + math.sqrt(alpha_bar[s]) * (clipped - unclipped)
            yield _is_noise(of_x0 - stale, draws), f"{t} → {s}"


def _is_noise(image: Tensor, draws: Sequence[Tensor]) -> bool:
    """Whether the image is a combination of the noise that was drawn, up to rounding; 0 if none was drawn."""
    if draws:
        columns = torch.stack([z.double().flatten() for z in draws], dim=1)
        image = (
            image.flatten()
            - columns @ torch.linalg.lstsq(columns, image.flatten()[:, None], driver="gelsd").solution[:, 0]
        )
    return image.abs().max().item() < 1e-4


def add_std_checks(runs: SamplerRuns) -> None:
    """Check the standard deviation of the samples on data N(0, 0.5²).

    It is computed exactly if the noise can be chosen. If the noise is hidden, it is estimated from 20,000 samples,
    and may be off by four standard errors.
    """
    for mode in runs.modes:
        for steps, published in TABLE.get(mode.table, {}).items():
            estimated = mode in runs.hidden_noise
            if (mode not in runs.updates or mode in runs.euler) and not estimated:
                continue  # other methods have other standard deviations; see the check of convergence
            if steps > 10 and mistakes.IGNORES_STEPS in runs.checklist.causes:
                continue  # it would be the same run again
            if steps > 50 and (estimated or runs.checklist.failed):
                continue  # after a failed check, a long run would add nothing
            run = _run_for_estimate(runs, mode, steps) if estimated else run_units(runs, mode, steps)
            got = run.final.std().item() if estimated else run.final.square().sum().sqrt().item() / SMALL
            as_planned = run.times == step_times(runs.schedule.T, steps) and runs.start_scale in (1.0, None)
            expected = published if as_planned else _expected_std(runs, mode, run.times, published)
            tolerance = 0.01 if estimated else 5e-4 if runs.float32 else 1e-6
            runs.checklist.add(
                mode.prefix(f"output standard deviation, {steps} steps"),
                abs(got - expected) <= tolerance,
                f"{expected:.6f}",
                f"{got:.6f}",
                "the output has the wrong standard deviation",
                "closed form for data N(0, 0.5²), conformance/exact.py",
            )


def _run_for_estimate(runs: SamplerRuns, mode: Mode, steps: int) -> Trace:
    generator = torch.Generator().manual_seed(1)
    return runs.run_exact(mode, steps, torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.float64))


def _expected_std(runs: SamplerRuns, mode: Mode, times: list[int], published: float) -> float:
    """Return the standard deviation for these timesteps if they go from T to 0, otherwise the published one."""
    complete = times[0] == runs.schedule.T and min(times) == 0 and all(t > s for t, s in itertools.pairwise(times))
    if not complete:
        return published
    return output_std(times, mode.eta, mode.beta, runs.schedule, start=runs.start_scale or 1.0)


def add_zero_snr_checks(runs: SamplerRuns) -> None:
    """Check whether the sampler works at ᾱ_T = 0, where it must not divide by √ᾱ_T. If it does not, that is a note."""
    schedule = linear_zero_snr()
    wrong = []
    for mode in runs.modes:
        try:
            final = runs.run(mode, FEW_STEPS, runs.x_T, lambda x, t, k: x / 2, schedule=schedule).final
        except Exception as error:
            wrong.append(mode.prefix(describe_error(error)))
        else:
            wrong += [] if final.isfinite().all() else [mode.prefix("NaN")]
    name, source = "the output is finite at ᾱ_T = 0", "Lin et al. 2024, algorithm 1"
    got = wrong[0] if wrong else "finite"
    runs.checklist.note(name, not wrong, "finite", got, mistakes.DIVIDES_BY_SIGNAL, source)
