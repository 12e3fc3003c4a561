"""The check of samplers: ours, or one that a learner wrote.

The sampler runs with known denoisers on small images, and everything is solved for instead of estimated. Random
predictions that do not depend on x_t show the coefficients of each step. With a linear denoiser the output is a
weighted sum of x_T and the noise of each step. So if each image in the batch gets only one of these terms, the batch
shows every weight. A sampler is judged by these numbers alone, not by how many random numbers it draws.

This module contains ``check_sampler`` and the checks of timesteps, batches, yielded steps and randomness.
sampler_math.py and convergence.py have the checks of the numbers, sampler_runs.py runs the sampler, and updates.py
knows the correct coefficients.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import mistakes
from .convergence import add_convergence_checks
from .report import Checklist, Report, describe_error, name_of, raised, report_exceptions, wrong_order
from .sampler_math import (
    add_clipping_checks,
    add_coefficient_checks,
    add_output_checks,
    add_std_checks,
    add_zero_snr_checks,
)
from .sampler_runs import FEW_STEPS, STEP_COUNTS, SamplerRuns
from .trace import MAX_CALLS_PER_STEP, Trace, equal, solve_updates
from .updates import TOLERANCE

PARAMETERS = ("denoise", "schedule", "x_T", "steps")
_OTHERS = torch.tensor([1.0, -3.0, 2.0, 0.1], dtype=torch.float64).view(-1, 1, 1, 1)  # keeps the first image
MAX_EXTRA_CALLS = 12
"""The most network calls that a method may add to its first steps; a Runge-Kutta start of PNDM makes 9 more."""


@report_exceptions
def check_sampler(sampler: Callable[..., Any], *, order: float | None = None) -> Report:
    """Check that ``sampler(denoise, schedule, x_T, steps, ...)`` computes correct steps, and name the mistake if not.

    sampler: yields steps (t, x, x0), or yields or returns images
    order:   the order of convergence that an ODE solver must have. If given, the steps are not compared with DDIM's
             coefficients, and ``eta`` keeps its default value. If None, a solver whose steps depend only on
             (x_t, x̂₀) must be DDIM or a convergent Euler method, and any other solver must have order 2.

    The parameters of the sampler decide what it must be:

        eta         DDIM, or any other method whose noise grows with eta if its steps depend on more than x_t and x̂₀
        variance    DDPM, with "posterior" and with "beta"
        neither     an ODE solver if noise does not change its images. Otherwise DDPM, or any method whose noise has
                    the right total variance

    One step may make several network calls: n steps of Heun's method make 2n − 1.

    Its noise must come from ``generator(t, like=x)`` if it has this parameter, otherwise from torch. It is called with
    x_T (B, 1, 1, 1) float64, and must pass t (B,) int64 to the denoiser. If the sampler raises an exception, the
    report shows it as a failed check. Rows that are marked as notes do not fail the report: a schedule rounded to
    float32, an Euler method with other coefficients than DDIM or DDPM, random numbers that are drawn but not used, and
    a sampler that does not work at ᾱ_T = 0.
    """
    if problem := wrong_order(sampler, PARAMETERS):
        checklist = Checklist(name_of(sampler, "sampler"), "docstring of check_sampler")
        checklist.add("order of parameters", False, ", ".join(PARAMETERS), problem, mistakes.ARGUMENT_ORDER)
        return checklist.report()
    runs = SamplerRuns(sampler, order)
    for topic, add_checks in _CHECKS.items():
        if not runs.modes:
            runs.checklist.skip(topic, "the sampler did not run")
            continue
        try:
            add_checks(runs)
        except Exception as error:
            runs.add_check(topic, [describe_error(error)], "no exception", raised(error))
    return runs.checklist.report()


def add_timestep_checks(runs: SamplerRuns) -> None:
    """Check which timesteps the sampler visits, and which it passes to the network."""
    T = runs.schedule.T
    traces = [
        (steps, trace, [group[0].t for group in trace.calls_by_step]) for (_, steps), trace in runs.traces.items()
    ]
    negative = [f"t = {lowest}" for _, trace, called in traces if (lowest := min(*trace.times, *called)) < 0]
    if negative:
        runs.add_check("no timestep is negative", negative, "0…T", mistakes.WRAPAROUND)
    runs.add_check(
        "the network gets the timestep of x_t",
        [text for _, trace, _ in traces for text in _shifted_timesteps(trace, T)],
        "same t",
        mistakes.OFF_BY_ONE,
    )
    runs.add_check(
        "t is an int64 tensor of shape (B,)",
        (call.t_problem for _, trace, _ in traces for call in trace.calls if call.t_problem),
        "(B,) int64",
        mistakes.FORM_OF_T,
    )
    runs.add_check(
        "the first network call is at t = T",
        (f"{called[0]}" for _, _, called in traces if called[0] != T),
        f"{T}",
        "the first network call is not at t = T, the timestep of x_T",
    )
    counts = list(_wrong_call_counts(runs))
    every = [text for text, visits_all in counts if visits_all]
    runs.add_check(
        "n steps make n network calls",
        every or [text for text, _ in counts],
        ", ".join(map(str, STEP_COUNTS)),
        mistakes.IGNORES_STEPS if every else
        "n steps do not make n network calls (does the stride T // n round down, or does a step make several calls?)",
    )  # fmt: skip
    runs.add_check(
        "no timestep is visited twice",
        (text for _, trace, _ in traces for text in _repeated_timesteps(trace)),
        "once each",
        # a stride that is off by one repeats timesteps too
        mistakes.REPEATED_TIME.name if mistakes.OFF_BY_ONE in runs.checklist.causes else mistakes.REPEATED_TIME,
    )
    upward = all(called == sorted(called) for _, _, called in traces)
    mistake = mistakes.TIME_REVERSED if upward else "the timesteps do not decrease"
    runs.add_check("timesteps decrease", _not_decreasing(traces), "decreasing", mistake)
    runs.add_check(
        "every image is finite",
        (f"{steps} steps" for steps, trace, _ in traces if not all(x.isfinite().all() for x in trace.states)),
        "finite",
        "an image contains NaN or ∞",
    )
    runs.add_check(
        "the last step ends at t = 0",
        (f"{trace.steps[-1].t}" for _, trace, _ in traces if trace.steps[-1].t != 0),
        "0",
        "the last step does not report t = 0 (the t of a step is where it ends, not where it starts)",
    )


def add_randomness_checks(runs: SamplerRuns) -> None:
    """Check that runs are repeatable, and that noise is drawn only where it is needed and never used twice."""
    runs.add_check(
        "same arguments, same image",
        (
            mode.prefix("different image")
            for mode in runs.modes
            if mode not in runs.hidden_noise and not runs.is_repeatable(mode)
        ),
        "same image",
        mistakes.HIDDEN_STATE,
    )
    traces = [(mode, trace) for (mode, _), trace in runs.traces.items()]
    drawn = [mode.prefix("drawn") for mode, trace in traces if mode.eta == 0 and (trace.draws or trace.used_torch_rng)]
    name = "no random numbers are drawn if σ = 0"
    runs.checklist.note(name, not drawn, "none", "drawn" if drawn else "none", mistakes.NEEDLESS_NOISE)
    runs.add_check(
        "η = 0 adds no noise",
        (mode.prefix("noise added") for mode in runs.modes if mode.eta == 0 and runs.uses_noise(mode)),
        "no noise",
        "noise is added although η is 0",
    )
    if any(trace.draws for mode, trace in traces if mode.eta > 0):
        runs.add_check(
            "each image and each step has its own noise",
            (mode.prefix(text) for mode, trace in traces for text in _shared_noise(trace, runs.uses_noise(mode))),
            "own noise",
            mistakes.SHARED_NOISE,
        )


def add_batch_checks(runs: SamplerRuns) -> None:
    """Check that an image does not depend on the other images in its batch, however large their values are."""
    mixed, alone = [], []
    for mode in runs.modes:
        if mode in runs.hidden_noise:
            continue
        before = runs.traces[mode, FEW_STEPS]
        large = runs.run_random(mode, FEW_STEPS, 6.0)
        for same, size in ((before, 1.0), (large, 6.0)):
            changed = runs.run(mode, FEW_STEPS, runs.x_T * _OTHERS, partial(_predict_others, runs, size))
            if not _same_first_image(same, changed):
                mixed.append(mode.prefix("changes with the others"))
        name = mode.prefix("a batch of one image")
        single = runs.checklist.attempt(name, partial(runs.run_random, mode, FEW_STEPS, x_T=runs.x_T[:1]))
        if single is not None and not _same_first_image(before, single):
            alone.append(mode.prefix("differs in a batch of one"))
    if len(runs.hidden_noise) == len(runs.modes):
        runs.checklist.skip("images do not affect each other", "the noise cannot be replaced", required=False)
    else:
        runs.add_check("images do not affect each other", mixed or alone, "independent", mistakes.MIXED_IMAGES)


def _predict_others(runs: SamplerRuns, size: float, x: Tensor, t: int, k: int) -> Tensor:
    return size * runs.prediction(k) * (4 * _OTHERS - 3)


def _same_first_image(one: Trace, other: Trace) -> bool:
    return len(one.states) == len(other.states) and all(
        equal(x[:1], y[:1]) for x, y in zip(one.states, other.states, strict=True)
    )


def add_step_checks(runs: SamplerRuns) -> None:
    """Check that the yielded steps show what the sampler did, and that it modifies no tensor of the caller."""
    traces = runs.traces.values()
    different = ["different image" for trace in traces if not equal(trace.calls[0].x, trace.start)]
    scale, a = runs.start_scale, runs.alpha_bar[-1]
    shown = different[0] if different and scale is None else f"{scale:.6f} x_T" if different else "x_T"
    if scale is not None and abs(scale - math.sqrt(1 - a)) < 1e-6:
        runs.checklist.note("the first x_t is x_T", not different, "x_T", shown, mistakes.START_IN_SIGMA)
    else:
        in_sigma_scale = scale is not None and any(
            abs(scale / factor - 1) < 1e-3 for factor in (1 / math.sqrt(a), math.sqrt((1 - a) / a))
        )
        mistake = mistakes.UNSCALED_INPUT if in_sigma_scale else mistakes.OTHER_START
        runs.add_check("the first x_t is x_T", [shown] if different else [], "x_T", mistake)
    if any(trace.yields_steps for trace in traces):
        runs.add_check(
            "x and x0 of each step match the network calls",
            (text for trace in traces if trace.yields_steps for text in _unlike_calls(trace)),
            "equal",
            "the sampler yields an x or x0 that differs from those in its network calls",
        )
    runs.add_check(
        "x_T and earlier steps are not modified",
        ("modified later" for trace in traces if trace.modified),
        "unchanged",
        mistakes.IN_PLACE,
    )


def _shifted_timesteps(trace: Trace, T: int) -> Iterable[str]:
    """Describe a run where the network gets t − 1, t + 1, or the timestep at which the step ends, instead of t."""
    called = [group[0].t for group in trace.calls_by_step]
    if called[0] == trace.times[0] == T - 1:
        yield f"starts at {T - 1}"
    elif called == trace.times[1:] or {t - time for t, time in zip(called, trace.times, strict=False)} in ({-1}, {1}):
        yield f"{called[0]} at t = {trace.times[0]}"


def _wrong_call_counts(runs: SamplerRuns) -> Iterable[tuple[str, bool]]:
    """Yield (what is wrong, whether it visits all T timesteps) for each run with another number of network calls.

    A DDIM or DDPM step makes one call. Other methods may make k calls per step, fewer in the last step, and some more
    at the beginning; but k and what is added must be the same for every number of steps.
    """
    T = runs.schedule.T
    for mode in runs.modes:
        counts = {steps: len(trace.calls) for (each, steps), trace in runs.traces.items() if each is mode}
        regular = any(
            len({count - k * steps for steps, count in counts.items()}) == 1
            and -k <= next(count - k * steps for steps, count in counts.items()) <= MAX_EXTRA_CALLS
            for k in range(1, MAX_CALLS_PER_STEP + 1)
        )
        if regular and (mode not in runs.updates or mode.any_sigma):
            continue
        for steps, count in counts.items():
            if count != steps:
                visits_all = steps <= T // 10 and count >= T - 1
                yield mode.prefix(f"{count} calls for {steps} steps"), visits_all


def _repeated_timesteps(trace: Trace) -> Iterable[str]:
    """Describe where the network is called twice in a row at one t, and the second call is not a stage of the step."""
    updates = solve_updates(trace)[0] if trace.one_call_per_step else []
    for k, (before, after) in enumerate(itertools.pairwise(trace.calls)):
        if before.t != after.t:
            continue
        same = before.x.dtype == after.x.dtype and torch.allclose(before.x, after.x, rtol=0, atol=1e-12)
        corrects = bool(updates) and updates[k].noise > TOLERANCE  # a corrector adds noise and removes as much
        finite = [bool(x.isfinite().all()) for x in trace.states[k : k + 3]]
        # a length of 0 in λ: NaN at once, or in the next step (at the end it is a division by σ = 0)
        nan_next = finite == [True, True, False] and k + 2 < len(trace.calls) and equal(before.x, after.x)
        divided_by_zero = finite[:2] == [True, False] or nan_next
        if divided_by_zero or same or (trace.one_call_per_step and not corrects):
            yield f"{before.t} → {after.t}"


def _not_decreasing(traces: Iterable[tuple[int, Trace, list[int]]]) -> Iterable[str]:
    for _, trace, called in traces:
        one_call_per_step = len(called) == len(trace.steps)  # other samplers may call the network twice at one t
        for times in (trace.times, called) if one_call_per_step else (trace.times,):
            yield from (f"{t} → {s}" for t, s in itertools.pairwise(times) if s > t)


def _unlike_calls(trace: Trace) -> Iterable[str]:
    times = {step.t for step in trace.steps}
    groups = trace.calls_by_step
    if len(groups) > len(trace.steps):  # without calls between the timesteps of the steps, as of a midpoint method
        groups = groups[:1] + [group for group in groups[1:] if group[0].t in times]
    for k, step in enumerate(trace.steps):
        group = groups[k] if k < len(groups) else []
        if k + 1 < len(groups) and not equal(step.x, groups[k + 1][-1].x):
            yield f"x at t = {step.t} differs"
        predictions = [x0 for call in group for x0 in (call.x0, call.x0.clamp(-1, 1))]
        if not any(equal(step.x0, x0) for x0 in predictions):
            yield f"x0 at t = {step.t} differs"


def _shared_noise(trace: Trace, used: bool) -> Iterable[str]:
    drawn_at = [draw.t for draw in trace.draws if draw.t is not None]
    if len(set(drawn_at)) < len(drawn_at):
        yield "two draws at the same t"
    size = trace.start.numel()
    small = (draw.noise for draw in trace.draws if draw.noise.numel() < size)
    yield from (f"{tuple(z.shape)} for images {tuple(trace.start.shape)}" for z in small)
    if used and not trace.one_call_per_step and trace.draws and max(draw.calls for draw in trace.draws) <= 1:
        drawn = sum(draw.noise.numel() for draw in trace.draws)
        if drawn < size * (len(trace.steps) - 1):
            yield f"noise for {drawn // size} of {len(trace.steps)} steps"


_CHECKS: dict[str, Callable[[SamplerRuns], None]] = {
    "timesteps": add_timestep_checks,
    "batches": add_batch_checks,
    "randomness": add_randomness_checks,
    "yielded steps": add_step_checks,
    "coefficients": add_coefficient_checks,
    "output": add_output_checks,
    "clipping": add_clipping_checks,
    "standard deviation": add_std_checks,
    "convergence": add_convergence_checks,
    "zero terminal SNR": add_zero_snr_checks,
}
