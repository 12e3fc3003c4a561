"""Checks of noise schedules: the properties every schedule must have, and the values of the published ones.

Also checks of the rescaling to zero terminal SNR, and of the timesteps that a sampler visits.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..common.names import ScheduleName
from ..diffusion.denoiser import Denoiser
from ..diffusion.schedule import SCHEDULES, Schedule, flow, linear, zero_terminal_snr
from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, format_number, name_of, report_exceptions

Published = tuple[str, Callable[[Tensor], float], float, float]
"""(name, function that reads the quantity from ᾱ, published value, relative error that its digits allow)."""


def _last(a: Tensor) -> float:
    return a[-1].item()


def _last_root(a: Tensor) -> float:
    return math.sqrt(max(a[-1].item(), 0))


def _first_beta(a: Tensor) -> float:
    return (1 - a[1] / a[0]).item()


PUBLISHED: dict[tuple[str, int], tuple[Published, ...]] = {
    ("linear", 1000): (("ᾱ_T", _last, 4.035829765e-5, 1e-9), ("√ᾱ_T", _last_root, 0.006352818, 1e-7)),
    ("linear", 500): (
        ("ᾱ_T", _last, 6.352710797e-3, 1e-9),
        ("√ᾱ_T", _last_root, 0.079703894, 1e-7),
        ("SNR_T = ᾱ_T/(1−ᾱ_T)", lambda a: _last(a) / (1 - _last(a)), 0.006393, 1e-4),
    ),
    ("linear", 200): (("ᾱ_T", _last, 0.132182754, 1e-8), ("√ᾱ_T", _last_root, 0.363569463, 1e-8)),
    ("cosine", 1000): (
        ("ᾱ_T", _last, 2.428766907e-9, 1e-9),
        ("√ᾱ_T", _last_root, 4.928252e-5, 1e-6),
        ("β₁", _first_beta, 4.128422482e-5, 1e-9),
        ("number of β clipped at 0.999", lambda a: float((1 - a[1:] / a[:-1] > 0.999 - 1e-9).sum()), 1.0, 0.0),
        ("ᾱ₅₀₀", lambda a: a[500].item(), 0.49384359, 1e-8),
    ),
    ("cosine", 500): (("ᾱ_T", _last, 9.715044036e-9, 1e-9), ("√ᾱ_T", _last_root, 9.856492e-5, 1e-6)),
    ("linear_zero_snr", 1000): (("ᾱ_T", _last, 0.0, 0.0), ("β₁", _first_beta, 1e-4, 1e-9)),
}
"""The linear schedule has β from 1e-4 to 0.02. The cosine schedule has s = 0.008 and clips β at 0.999."""


@report_exceptions
def check_schedule(
    schedule: Schedule | Tensor | np.ndarray[Any, Any] | Sequence[float],
    expected: ScheduleName | None = None,
    T: int | None = None,
    shift: float | None = None,
) -> Report:
    """Check that this is a valid noise schedule and, if ``expected`` names a published one, that it is that one.

    schedule: a Schedule, or ᾱ for t = 0…T as a tensor, an array or a list of T + 1 numbers
    T:        the number of timesteps that it must have; a table that is one entry short is only a note if None
    shift:    of the schedule flow, 1 if None
    """
    alpha_bar = schedule.alpha_bar if isinstance(schedule, Schedule) else schedule
    table = alpha_bar.detach() if isinstance(alpha_bar, Tensor) else torch.from_numpy(np.asarray(alpha_bar))
    title = f"schedule (expected: {expected})" if expected else "schedule"
    checklist = Checklist(title, "Ho et al. 2020, section 4; Nichol & Dhariwal 2021, equation 17; Esser et al. 2024")
    valid_shape = table.ndim == 1 and len(table) > 1
    checklist.add("shape (T+1,)", valid_shape, "(T+1,)", str(tuple(table.shape)), "ᾱ does not have shape (T+1,)")
    if not valid_shape:
        return checklist.report()
    dtype = str(table.dtype).removeprefix("torch.")
    a = table.double()
    increasing = bool((a[1:] > a[:-1]).all())
    starts_at_one = not increasing and 0.9 < a[0].item() < 1  # at t = 1
    suspect: Mistake | str = "ᾱ₀ is not 1"
    if increasing:
        reversed_time = a[0].item() < 0.1 and a[-1].item() > 0.9
        suspect = mistakes.TIME_REVERSED if reversed_time else mistakes.NOT_CUMULATED
    elif starts_at_one:
        suspect = mistakes.NO_TIME_ZERO
    _add_table_check(checklist, "all values are finite", ~a.isfinite(), a, "finite", "ᾱ contains NaN or ∞")
    checklist.add("ᾱ₀ = 1: t = 0 is clean data", a[0].item() == 1, "1", format_number(a[0].item()), suspect)
    if starts_at_one:
        a = torch.cat([a.new_ones(1), a])  # so that the missing ᾱ₀ does not fail the checks below
    decreasing = a[1:] < a[:-1]
    _add_table_check(
        checklist, "ᾱ strictly decreases", ~decreasing, a[1:], "decreasing", "ᾱ does not strictly decrease"
    )
    _add_table_check(checklist, "ᾱ is not negative", ~(a >= 0), a, "at least 0", "ᾱ is negative")
    beta = 1 - a[1:] / a[:-1]
    in_range = (beta > 0) & (beta <= 1)
    _add_table_check(checklist, "β is in (0, 1]", ~in_range, beta, "(0, 1]", "β is outside (0, 1]")
    is_double = table.dtype == torch.float64
    checklist.add("stored in float64", is_double, "float64", dtype, mistakes.SINGLE_PRECISION)
    _add_length_check(checklist, len(a) - 1, T)
    if expected is not None:
        _add_published_checks(checklist, a, expected, 1.0 if shift is None else shift)
    return checklist.report()


def _add_length_check(checklist: Checklist, got: int, T: int | None) -> None:
    if T is not None:
        mistake = mistakes.TABLE_TOO_SHORT if got == T - 1 else "the schedule does not have T timesteps"
        checklist.add("number of timesteps", got == T, f"T = {T}", f"T = {got}", mistake)
    elif got >= 9 and (got + 1) % 10 == 0:  # 1000 entries, say: were 1000 timesteps meant?
        checklist.note("number of timesteps", False, f"T = {got + 1}?", f"T = {got}", mistakes.TABLE_TOO_SHORT)


def _add_table_check(
    checklist: Checklist, name: str, wrong: Tensor, values: Tensor, expected: str, mistake: str
) -> None:
    """Add a check of every entry of a table; if it fails, "got" shows the first wrong entry."""
    first = int(wrong.int().argmax())
    passed = not wrong.any()
    got = expected if passed else f"{format_number(values[first].item())} at index {first}"
    checklist.add(name, passed, expected, got, mistake)


def _add_published_checks(checklist: Checklist, a: Tensor, expected: ScheduleName, shift: float) -> None:
    T = len(a) - 1
    want = flow(T, shift).alpha_bar if expected == "flow" else SCHEDULES[expected](T).alpha_bar
    error = ((a - want).abs() / want.clamp(min=1e-300)).max().item()
    alphas = torch.cat([want.new_ones(1), want[1:] / want[:-1]])  # 1 − β_t
    not_cumulated = T > 1 and torch.allclose(a, alphas, rtol=1e-6, atol=0)
    suspect: Mistake | str = mistakes.NOT_CUMULATED if not_cumulated else f"this is not the {expected} schedule"
    if expected == "flow" and shift != 1 and torch.allclose(a, flow(T, shift**2).alpha_bar, rtol=1e-6, atol=0):
        suspect = mistakes.SHIFT_TWICE
    name = f"relative error of ᾱ ({expected})"
    checklist.add(name, error <= 1e-9, "error ≤ 1e-09", f"error {error:.2g}", suspect)
    for quantity, read, value, tolerance in PUBLISHED.get((expected, T), ()):
        got = read(a)
        passed = abs(got - value) <= tolerance * abs(value)
        mistake = f"{quantity} is not the published value"
        checklist.add(quantity, passed, format_number(value), format_number(got), mistake)


@report_exceptions
def check_zero_terminal_snr(
    rescale: Callable[[Schedule], Schedule] = zero_terminal_snr, denoiser: Callable[..., Any] = Denoiser
) -> Report:
    """Check that ᾱ_T is exactly 0 after rescaling, that ε-prediction is then refused, and that v-prediction works.

    rescale:  maps a Schedule to one with ᾱ_T = 0 by shifting and scaling √ᾱ, so that ᾱ₁ does not change
    denoiser: (network, schedule, prediction) -> denoiser; must raise ValueError for "eps" if ᾱ_T = 0
    """
    title = f"zero terminal SNR: {name_of(rescale, 'rescale')}"
    checklist = Checklist(title, "Lin et al. 2024, algorithm 1")
    before = linear()
    schedule = checklist.attempt("rescaling", lambda: rescale(before))
    if schedule is None:
        return checklist.report()
    a = schedule.alpha_bar
    checklist.add("ᾱ_T = 0 exactly", a[-1].item() == 0, "0", format_number(a[-1].item()), "ᾱ_T is not exactly 0")
    new_first, old_first = a[1].item(), before.alpha_bar[1].item()
    checklist.add(
        "ᾱ₁ does not change",
        abs(new_first - old_first) < 1e-12,
        format_number(old_first),
        format_number(new_first),
        "rescaling changes ᾱ₁",
    )
    root, old = a[1:].sqrt(), before.alpha_bar[1:].sqrt()
    error = (root - (old - old[-1]) * old[0] / (old[0] - old[-1])).abs().max().item()
    mistake = "√ᾱ is not shifted and scaled linearly"
    checklist.add("√ᾱ is shifted and scaled", error < 1e-9, "error ≤ 1e-09", f"error {error:.2g}", mistake)

    network = nn.Identity()
    refused = False
    try:
        denoiser(lambda x, t: network(x), schedule, "eps")
    except ValueError:
        refused = True
    mistake = "ε-prediction is accepted at ᾱ_T = 0, where x₀ = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t divides by 0"
    checklist.require("ε-prediction is refused", refused, "refused", "accepted", mistake)
    x, t = torch.linspace(-2, 2, 5, dtype=torch.float64).view(5, 1, 1, 1), torch.full((5,), schedule.T)
    x0 = checklist.attempt("v-prediction at t = T", lambda: denoiser(lambda x, t: x / 2, schedule, "v")(x, t))
    if x0 is not None:
        agrees = bool(torch.allclose(x0, -x / 2, rtol=0, atol=1e-12))
        otherwise = "another value" if x0.isfinite().all() else "NaN"
        mistake = "v-prediction does not give x̂₀ = −v at ᾱ_T = 0"
        checklist.require("v-prediction at t = T", agrees, "x̂₀ = −v", otherwise, mistake)
    return checklist.report()


@report_exceptions
def check_step_times(step_times: Callable[[int, int], Sequence[int]]) -> Report:
    """Check that ``step_times(T, steps)`` returns steps + 1 timesteps that strictly decrease from T to 0."""
    checklist = Checklist(name_of(step_times, "step times"), "Lin et al. 2024, section 3.3")
    for T, steps in ((1000, 1000), (1000, 250), (1000, 53), (1000, 50), (1000, 7), (1000, 1), (500, 25), (7, 5)):
        name = f"T = {T}, {steps} steps"
        times = checklist.attempt(name, partial(_integer_times, step_times, T, steps))
        if times is not None:
            mistake = _find_mistake(times, T, steps)
            shown = ", ".join(map(str, times if len(times) < 7 else [*times[:2], "…", *times[-3:]]))
            expected = f"{steps + 1} timesteps, {T}…0"
            checklist.add(name, not mistake, expected, f"{len(times)}: {shown}", mistake)
    return checklist.report()


def _integer_times(step_times: Callable[[int, int], Sequence[int]], T: int, steps: int) -> list[int]:
    return [int(t) for t in step_times(T, steps)]


def _find_mistake(times: Sequence[int], T: int, steps: int) -> Mistake | str:
    """Return what is wrong with the timesteps, or "" if nothing is."""
    if not times or times[0] != T:
        return mistakes.OFF_BY_ONE if times and times[0] == T - 1 else "the timesteps do not start at T"
    if min(times) < 0:
        return mistakes.WRAPAROUND
    if times[-1] != 0:
        return "the timesteps do not end at 0"
    if not all(t > s for t, s in itertools.pairwise(times)):
        return "the timesteps do not strictly decrease"
    return "" if len(times) == steps + 1 else "n steps must have n + 1 timesteps"
