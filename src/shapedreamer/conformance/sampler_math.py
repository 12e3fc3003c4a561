"""What a sampler must compute: the coefficients of each step, where it ends, its spread, and its order."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule, linear_zero_snr, step_times
from . import mistakes
from .exact import TABLE, output_std, variance
from .mistakes import Mistake
from .report import message
from .study import SHORT, Mode, Study
from .trace import Trace, equal, parameters
from .updates import TOLERANCE, Seen, explain, is_right, right

CLIP_NAMES = ("clip", "clip_x0", "clip_denoised", "clip_sample")
MEAN = 0.3
SMALL = 2.0**-6
"""By which unit inputs are scaled, so that a sampler that clips x̂₀ to [−1, 1] by itself finds nothing to clip."""


def rows_on_updates(study: Study) -> None:
    """c_x, c_0 and c_n of each step x_s = c_x x_t + c_0 x̂₀ + c_n z, and the mistake that gives those found."""
    for mode in study.modes:
        if not (mode in study.seen or mode in study.hidden or mode.is_solver):
            mistake = "a step is not one of DDPM or DDIM"
            study.row(mode.named("steps"), ["something else"], "made of x_t, x̂₀, z", mistake)
    causes = explain([each for seen in study.seen.values() for each in seen], study.alpha_bar)
    for mode, seen in study.seen.items():
        what = "DDPM, variance β" if mode.beta else "the posterior" if mode.eta == 1 else f"DDIM, η = {mode.eta:g}"
        _row_of_updates(study, mode.named("steps before the last"), [each for each in seen if each.s > 0], what, causes)
        _row_of_updates(study, mode.named("last step"), [each for each in seen if each.s <= 0], "x̂₀, no noise", causes)


def _row_of_updates(study: Study, name: str, seen: Sequence[Seen], expected: str, causes: Sequence[Mistake]) -> None:
    wrong = [each for each in seen if not is_right(each, study.alpha_bar)]
    if not wrong:
        study.rows.add(name, True, expected, expected)
        return
    own = explain(wrong, study.alpha_bar)
    shared = [cause for cause in causes if cause in own] or causes
    cause = shared[0] if shared else "the coefficients of a step are wrong"
    t, s, eta, beta, update = wrong[0]
    want = right(study.alpha_bar[t], study.alpha_bar[max(s, 0)], eta, beta)
    numbers = zip(("x_t", "x̂₀", "z"), update, want, strict=True)
    what, got, should = max(numbers, key=lambda each: abs(each[1] - each[2]))
    study.rows.add(name, False, expected, f"{t} → {s}: {got:.6f} {what}, not {should:.6f}", cause)


def rows_on_the_end(study: Study) -> None:
    """What holds at t = 0 for every sampler, also one whose steps look at more than x_t and x̂₀."""
    wrong = []
    for (mode, steps), trace in study.traces.items():
        answer = trace.calls[-1].answer
        away = min((trace.final - x0).abs().max().item() for x0 in (answer, answer.clamp(-1, 1)))
        if not away <= TOLERANCE:
            wrong.append(mode.named(f"{away:.2g} away, {steps} steps"))
            if mode not in study.seen:
                study.rows.causes += _cause_at_the_end(trace, study.alpha_bar)
    study.row("the output is the last x̂₀", wrong, "equal", "the last step does not end at x̂₀")
    spread = []
    for mode in study.modes:
        final = study.run(mode, SHORT, study.x_T, lambda x, t, k: torch.full_like(x, MEAN)).final
        if not (deviation := (final - MEAN).square().mean().sqrt().item()) <= TOLERANCE:
            spread.append(mode.named(f"{deviation:.2g}"))
    study.row("data at one point: standard deviation", spread, "0", "data at one point does not come out as it is")


def _cause_at_the_end(trace: Trace, alpha_bar: Sequence[float]) -> list[Mistake]:
    """Of a multistep solver: the last step weighs x_t by √((1−b)/(1−a)), whatever it makes of the last two x̂₀."""
    columns = [trace.groups[-1][-1].x, *(call.answer for call in trace.calls[-2:])]
    if not trace.final.isfinite().all():
        return []
    A = torch.stack([column.flatten() for column in columns], dim=1)
    weight = torch.linalg.lstsq(A, trace.final.flatten()[:, None]).solution[0].item()
    t, s = trace.times[-2:]
    b = 1 - weight**2 * (1 - alpha_bar[t])
    if s == 0 and abs(b - alpha_bar[1]) < TOLERANCE:
        return [mistakes.LAST_ALPHA_BAR]
    past_the_end = any(abs(b - alpha_bar[index]) < TOLERANCE for index in range(-1, -128, -1))
    return [mistakes.WRAPAROUND] if s <= 0 and past_the_end else []


def rows_on_clipping(study: Study) -> None:
    """Where x̂₀ is clipped, the ε of the step must be that of the clipped x̂₀. Only asked of steps that are right."""
    modes = [mode for mode, seen in study.seen.items() if all(is_right(each, study.alpha_bar) for each in seen)]
    clip: dict[str, object] = {name: True for name in CLIP_NAMES if name in parameters(study.sampler)}
    wrong: list[str] = []
    stale: list[str] = []
    changed: list[str] = []
    for mode in modes:
        for is_stale, where in _clipped_steps(study.probe(mode, SHORT, 6.0, clip), mode, study.alpha_bar):
            (stale if is_stale else wrong).append(mode.named(where))
        if clip and not equal(study.probe(mode, SHORT, options=clip).final, study.traces[mode, SHORT].final):
            changed.append(mode.named("another image"))
    if modes:
        mistake = "a step does not follow from the x̂₀ that it yields" if wrong else mistakes.STALE_EPS
        study.row("after a clip, ε is that of the clipped x̂₀", wrong or stale, "computed again", mistake)
    if clip:
        study.row("a clip that does not bite changes nothing", changed, "the same", "the clip changes what it need not")


def _clipped_steps(trace: Trace, mode: Mode, alpha_bar: Sequence[float]) -> Iterable[tuple[bool, str]]:
    """(whether its ε is stale, where) for each step that does not follow from x_t and the x̂₀ it yields."""
    states = trace.states
    for k, (call, step) in enumerate(zip(trace.calls, trace.steps, strict=True)):
        t, s = trace.times[k : k + 2]
        want = right(alpha_bar[t], alpha_bar[s], mode.eta, mode.beta)
        noises = [each.noise for each in trace.draws if each.calls in (k, k + 1)]
        ends = [states[k + 1] - want.noise * z for z in (noises if want.noise else []) or [torch.zeros_like(call.x)]]
        own, cut = call.answer, call.answer.clamp(-1, 1)
        follows = [want.x * call.x + want.x0 * x0 for x0 in ([step.x0] if trace.yielded else [own, cut])]
        if not _reached(ends, follows):
            stale = want.x * call.x + want.x0 * own + math.sqrt(alpha_bar[s]) * (cut - own)
            yield _reached(ends, [stale]), f"{t} → {s}"


def _reached(ends: Sequence[Tensor], images: Sequence[Tensor]) -> bool:
    return any((end - image).abs().max().item() < 1e-5 for end in ends for image in images)


def rows_on_std(study: Study) -> None:
    """The end-to-end table. Exact where the noise can be chosen; else by chance, within four standard errors."""
    for mode in study.modes:
        for steps, published in TABLE.get(mode.table, {}).items():
            by_chance = mode in study.hidden
            if (mode.is_solver and mode not in study.seen) or (steps > 50 and (by_chance or study.rows.failed)):
                continue  # other solvers end elsewhere; and a long run would tell nothing more
            run = _run_by_chance(study, mode, steps) if by_chance else _run_of_units(study, mode, steps)
            got = run.final.std().item() if by_chance else run.final.square().sum().sqrt().item() / SMALL
            as_planned = run.times == step_times(study.schedule.T, steps)
            expected = published if as_planned else _expected_std(study, mode, run.times, published)
            study.rows.add(
                mode.named(f"standard deviation, {steps} steps"),
                abs(got - expected) <= (0.01 if by_chance else 1e-6),
                f"{expected:.6f}",
                f"{got:.6f}",
                "the output does not have the right spread",
                "the closed form for data N(0, 0.5²), conformance/exact.py",
            )


def _run_by_chance(study: Study, mode: Mode, steps: int) -> Trace:
    generator = torch.Generator().manual_seed(1)
    return study.exact_run(mode, steps, torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.float64))


def _run_of_units(study: Study, mode: Mode, steps: int) -> Trace:
    """Image 0 of the batch begins at 1 and gets no noise, image k begins at 0 and gets the k-th noise alone, as a 1.

    The squares of where they end add up to the variance.
    """

    def draw(k: int, like: Tensor) -> Tensor:
        noise = torch.zeros_like(like)
        noise[k + 1 :][:1] = SMALL
        return noise

    draws_a_step = math.ceil(len(study.traces[mode, SHORT].draws) / SHORT)
    x_T = torch.zeros(1 + draws_a_step * steps, 1, 1, 1, dtype=torch.float64)
    x_T[0] = SMALL
    return study.exact_run(mode, steps, x_T, draw)


def _expected_std(study: Study, mode: Mode, times: list[int], published: float) -> float:
    """The number that belongs to the times visited, if they are others, but do go from T to 0."""
    sound = times[0] == study.schedule.T and min(times) == 0
    return output_std(times, mode.eta, mode.beta, study.schedule) if sound else published


def rows_on_order(study: Study) -> None:
    """How fast a solver of the flow converges, up to t ≈ 100: at t = 0, where the last step is DDIM's, all are slow."""
    mode = next((mode for mode in study.modes if mode.eta == 0), None)
    runs = [run for count in (20, 100) if mode and (run := _flow(study, mode, count))]
    common = set(runs[0].times) & set(runs[-1].times) - {0, study.schedule.T} if len(runs) == 2 else set()
    if mode is None or not common:
        return
    stop = min(common, key=lambda t: abs(t - 100))
    errors = [max(_error_at(stop, run, study.schedule), 1e-12) for run in runs]
    least = (study.order or (1.0 if mode in study.seen else 2.0)) - 0.2
    got = math.log(errors[0] / errors[1]) / math.log(len(runs[1].steps) / len(runs[0].steps))
    study.rows.add(
        mode.named(f"order of convergence, 20 to 100 steps, at t = {stop}"),
        got >= least,
        f"at least {least:.1f}",
        f"{got:.2f}",
        "the steps do not converge to the exact flow as fast as the order says",
        "the exact flow x_t/x_T = √(v_t/v_T) of data N(0, 0.5²), conformance/exact.py",
    )


def _flow(study: Study, mode: Mode, count: int) -> Trace | None:
    """A run of `count` steps; where a step takes two calls, that needs about twice as many calls."""
    x_T = torch.full((1, 1, 1, 1), SMALL, dtype=torch.float64)
    runs = (study.exact_run(mode, steps, x_T) for steps in (count, 2 * count - 1, 2 * count))
    return next((run for run in runs if len(run.steps) == count), None)


def _error_at(t: int, trace: Trace, schedule: Schedule) -> float:
    """Relative error of x_t against the exact flow from where the run began."""
    x = trace.steps[trace.times.index(t) - 1].x.item()
    exact = trace.start.item() * math.sqrt(variance(t, schedule) / variance(trace.times[0], schedule))
    return abs(x / exact - 1)


def rows_on_zero_snr(study: Study) -> None:
    """At ᾱ_T = 0 nothing may be divided by √ᾱ_T."""
    schedule = linear_zero_snr()
    wrong = []
    for mode in study.modes:
        try:
            final = study.run(mode, SHORT, study.x_T, lambda x, t, k: x / 2, schedule=schedule).final
        except ArithmeticError as error:
            wrong.append(mode.named(message(error)))
        else:
            wrong += [] if final.isfinite().all() else [mode.named("NaN")]
    mistake = "something is divided by √ᾱ_T, which is 0 at a zero terminal SNR"
    study.row("with ᾱ_T = 0 the output is finite", wrong, "finite", mistake, "Lin et al. 2024, algorithm 1")
