"""The check of samplers: ours, or one that a learner wrote.

The sampler runs with known denoisers on "images" of one pixel, and everything is solved for instead of estimated.
With a linear denoiser the output is a weighted sum of x_T and the noise of each step. So if each image in the batch
gets only one of these terms, the batch shows every weight.

This module contains ``check_sampler`` and the checks of timesteps, yielded steps and randomness. sampler_math.py has
the checks of the numbers, sampler_runs.py runs the sampler, and updates.py knows the correct coefficients.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from . import mistakes
from .report import Report, describe_error, raised, report_exceptions
from .sampler_math import (
    add_clipping_checks,
    add_coefficient_checks,
    add_convergence_checks,
    add_output_checks,
    add_std_checks,
    add_zero_snr_checks,
)
from .sampler_runs import STEP_COUNTS, SamplerRuns
from .trace import Trace, equal


@report_exceptions
def check_sampler(sampler: Callable[..., Any], *, order: float | None = None) -> Report:
    """Check that ``sampler(denoise, schedule, x_T, steps, ...)`` computes correct steps, and name the mistake if not.

    sampler: yields steps (t, x, x0), or yields or returns images
    order:   the order of convergence that an ODE solver must have. If given, the steps are not compared with DDIM's
             coefficients, and ``eta`` keeps its default value. If None, a solver whose steps depend only on
             (x_t, x̂₀) must be DDIM, and any other solver must have order 2.

    The parameters of the sampler decide what it must be:

        eta         DDIM, or an ODE solver if its steps depend on more than x_t and x̂₀
        variance    DDPM, with "posterior" and with "beta"
        neither     DDPM if it draws noise, otherwise an ODE solver

    Its noise must come from ``generator(t, like=x)`` if it has this parameter, otherwise from torch. It is called with
    x_T (B, 1, 1, 1) float64, and must pass t (B,) int64 to the denoiser. If the sampler raises an exception, the
    report shows it as a failed check.
    """
    runs = SamplerRuns(sampler, order)
    if runs.modes:
        for topic, add_checks in _CHECKS.items():
            try:
                add_checks(runs)
            except Exception as error:
                runs.add_check(topic, [describe_error(error)], "no exception", raised(error))
    return runs.checklist.report()


def add_timestep_checks(runs: SamplerRuns) -> None:
    """Check which timesteps the sampler visits, and which it passes to the network."""
    T = runs.schedule.T
    traces = [(steps, trace, [call.t for call in trace.calls]) for (_, steps), trace in runs.traces.items()]
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
    runs.add_check(
        "n steps make n network calls",
        (f"{len(called)} calls for {steps} steps" for steps, _, called in traces if len(called) != steps),
        ", ".join(map(str, STEP_COUNTS)),
        "n steps do not make n network calls (does the stride T // n round down, or does a step make several calls?)",
    )
    runs.add_check(
        "timesteps strictly decrease", _not_decreasing(traces), "decreasing", "the timesteps do not strictly decrease"
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
    runs.add_check(
        "no random numbers are drawn if σ = 0",
        (mode.prefix("drawn") for mode, trace in traces if mode.eta == 0 and (trace.draws or trace.used_torch_rng)),
        "none",
        mistakes.NEEDLESS_NOISE,
    )
    runs.add_check(
        "each image and each step has its own noise",
        (mode.prefix(text) for mode, trace in traces for text in _shared_noise(trace)),
        "own noise",
        mistakes.SHARED_NOISE,
    )


def add_step_checks(runs: SamplerRuns) -> None:
    """Check that the yielded steps show what the sampler did, and that it modifies no tensor of the caller."""
    traces = runs.traces.values()
    runs.add_check(
        "the first x_t is x_T",
        ("different image" for trace in traces if not equal(trace.calls[0].x, trace.start)),
        "x_T",
        mistakes.OTHER_START,
    )
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


def _not_decreasing(traces: Iterable[tuple[int, Trace, list[int]]]) -> Iterable[str]:
    for _, trace, called in traces:
        one_call_per_step = len(called) == len(trace.steps)  # other samplers may call the network twice at one t
        for times in (trace.times, called) if one_call_per_step else (trace.times,):
            yield from (f"{t} → {s}" for t, s in itertools.pairwise(times) if s >= t)


def _unlike_calls(trace: Trace) -> Iterable[str]:
    groups = trace.calls_by_step
    for k, step in enumerate(trace.steps):
        group = groups[k] if k < len(groups) else []
        if k + 1 < len(groups) and not equal(step.x, groups[k + 1][-1].x):
            yield f"x at t = {step.t} differs"
        predictions = [x0 for call in group for x0 in (call.x0, call.x0.clamp(-1, 1))]
        if not any(equal(step.x0, x0) for x0 in predictions):
            yield f"x0 at t = {step.t} differs"


def _shared_noise(trace: Trace) -> Iterable[str]:
    drawn_at = [draw.t for draw in trace.draws if draw.t is not None]
    if len(set(drawn_at)) < len(drawn_at):
        yield "two draws at the same t"
    batch = len(trace.start)
    yield from (f"{tuple(z.shape)} for {batch} images" for _, _, z in trace.draws if not z.ndim or len(z) != batch)


_CHECKS: dict[str, Callable[[SamplerRuns], None]] = {
    "timesteps": add_timestep_checks,
    "randomness": add_randomness_checks,
    "yielded steps": add_step_checks,
    "coefficients": add_coefficient_checks,
    "output": add_output_checks,
    "clipping": add_clipping_checks,
    "standard deviation": add_std_checks,
    "order of convergence": add_convergence_checks,
    "zero terminal SNR": add_zero_snr_checks,
}
