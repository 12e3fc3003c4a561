"""Checks that any sampler must pass: ours, or one that a learner wrote.

A sampler is run with exact denoisers, on "images" of one pixel, and everything is solved for instead of estimated: with
a linear denoiser the output is a sum of x_T and the noise of each step, so a batch in which each image gets one of them
alone shows every coefficient. study.py runs the sampler, updates.py knows the coefficients.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from . import mistakes
from .report import Report, message, unfailing
from .sampler_math import (
    rows_on_clipping,
    rows_on_order,
    rows_on_std,
    rows_on_the_end,
    rows_on_updates,
    rows_on_zero_snr,
)
from .study import RUNS, Study
from .trace import Trace, equal


@unfailing
def check_sampler(sampler: Callable[..., Any], *, order: float | None = None) -> Report:
    """Whether `sampler(denoise, schedule, x_T, steps, …)` samples rightly, and if not, which mistake it makes.

    sampler: yields steps (t, x, x0), or yields or returns images. What it is follows from its parameters: with `eta` it
             is DDIM (or a solver of the flow, if its steps look further back than x_t), with `variance` DDPM, and with
             neither DDPM if it draws noise and a solver of the flow if not. Its noise comes from
             `generator(t, like=x)`, if it has such a parameter, or from torch.
    order:   holds a solver of the flow to this order, and not to DDIM's coefficients; if it has `eta` too, then as it
             is where that is left out. Without an order, a solver that looks only at (x_t, x̂₀) must be DDIM, and any
             other must have order 2.

    Denoisers get x_t (B, 1, 1, 1) float64 and t (B,) int64. What the sampler raises becomes a row that failed.
    """
    study = Study(sampler, order)
    if study.modes:
        for rows in _ROWS:
            try:
                rows(study)
            except Exception as error:
                name = rows.__name__.replace("rows_on_", "the look at ").replace("_", " ")
                study.row(name, [message(error)], "runs", f"it raises {message(error)}")
    return study.rows.report()


def rows_on_times(study: Study) -> None:
    """Which times the sampler goes through, and which it tells the network."""
    T = study.schedule.T
    runs = [(steps, trace, [call.t for call in trace.calls]) for (_, steps), trace in study.traces.items()]
    below = [f"t = {low}" for _, trace, called in runs if (low := min(*trace.times, *called)) < 0]
    if below:
        study.row("no time is below 0", below, "0…T", mistakes.WRAPAROUND)
    shifted = [text for _, trace, _ in runs for text in _told_another_time(trace, T)]
    study.row("t is the time that x_t has", shifted, "the same", mistakes.OFF_BY_ONE)
    study.row(
        "t is a tensor (B,) of int64",
        (call.oddity for _, trace, _ in runs for call in trace.calls if call.oddity),
        "(B,) int64",
        mistakes.FORM_OF_T,
    )
    study.row(
        "the first call is at t = T",
        (f"{called[0]}" for _, _, called in runs if called[0] != T),
        f"{T}",
        "the first call of the network is not at t = T, where x_T is",
    )
    study.row(
        "n steps make n calls of the network",
        (f"{len(called)} for {steps}" for steps, _, called in runs if len(called) != steps),
        ", ".join(map(str, RUNS)),
        "n steps do not make n calls of the network (is the stride T // n rounded? are calls counted, or steps?)",
    )
    study.row("times fall, none comes twice", _not_falling(runs), "falling", "the times do not fall strictly")
    study.row(
        "the last step lands on t = 0",
        (f"{trace.steps[-1].t}" for _, trace, _ in runs if trace.steps[-1].t != 0),
        "0",
        "the last step does not say that it lands on t = 0 (a step's t is where it ends)",
    )


def rows_on_steps(study: Study) -> None:
    """Whether the stream of steps shows what was done, and leaves alone what is not the sampler's."""
    traces = study.traces.values()
    study.row(
        "the first x_t is x_T",
        ("another image" for trace in traces if not equal(trace.calls[0].x, trace.start)),
        "x_T",
        mistakes.OTHER_START,
    )
    study.row(
        "x and x0 are those the network saw and said",
        (text for trace in traces if trace.yielded for text in _unlike_calls(trace)),
        "the same",
        "the steps yielded are not those that were made",
    )
    study.row(
        "x_T and earlier steps stay as they were",
        ("written to later" for trace in traces if trace.changed),
        "unchanged",
        mistakes.IN_PLACE,
    )


def rows_on_randomness(study: Study) -> None:
    """The same arguments give the same steps, and noise is drawn where it is needed, and new each time."""
    study.row(
        "the same arguments give the same image",
        (mode.named("another") for mode in study.modes if mode not in study.hidden and not study.repeats(mode)),
        "the same",
        mistakes.HIDDEN_STATE,
    )
    traces = [(mode, trace) for (mode, _), trace in study.traces.items()]
    study.row(
        "where σ = 0 no random number is drawn",
        (mode.named("drawn") for mode, trace in traces if mode.eta == 0 and (trace.draws or trace.random)),
        "none",
        mistakes.NEEDLESS_NOISE,
    )
    study.row(
        "each image and step has its own noise",
        (mode.named(text) for mode, trace in traces for text in _shared_noise(trace)),
        "its own",
        mistakes.SHARED_NOISE,
    )


def _told_another_time(trace: Trace, T: int) -> Iterable[str]:
    """Where the network is told the number before or after that of the image's time, or the time the step ends at."""
    called = [group[0].t for group in trace.groups]
    if called[0] == trace.times[0] == T - 1:
        yield f"begins at {T - 1}"
    elif called == trace.times[1:] or {t - time for t, time in zip(called, trace.times, strict=False)} in ({-1}, {1}):
        yield f"{called[0]} at t = {trace.times[0]}"


def _not_falling(runs: Iterable[tuple[int, Trace, list[int]]]) -> Iterable[str]:
    for _, trace, called in runs:
        one_call_each = len(called) == len(trace.steps)  # others may well ask twice about a time
        for times in (trace.times, called) if one_call_each else (trace.times,):
            yield from (f"{t} → {s}" for t, s in itertools.pairwise(times) if s >= t)


def _unlike_calls(trace: Trace) -> Iterable[str]:
    groups = trace.groups
    for k, step in enumerate(trace.steps):
        group = groups[k] if k < len(groups) else []
        if k + 1 < len(groups) and not equal(step.x, groups[k + 1][-1].x):
            yield f"x at t = {step.t} differs"
        answers = [x0 for call in group for x0 in (call.answer, call.answer.clamp(-1, 1))]
        if not any(equal(step.x0, x0) for x0 in answers):
            yield f"x0 at t = {step.t} differs"


def _shared_noise(trace: Trace) -> Iterable[str]:
    asked = [drawn.step for drawn in trace.draws if drawn.step is not None]
    if len(set(asked)) < len(asked):
        yield "two draws for one t"
    batch = len(trace.start)
    yield from (f"{tuple(z.shape)} for {batch} images" for _, _, z in trace.draws if not z.ndim or len(z) != batch)


_ROWS: tuple[Callable[[Study], None], ...] = (
    rows_on_times,
    rows_on_randomness,
    rows_on_steps,
    rows_on_updates,
    rows_on_the_end,
    rows_on_clipping,
    rows_on_std,
    rows_on_order,
    rows_on_zero_snr,
)
