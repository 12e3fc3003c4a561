"""Checks of noise schedules: what every one must hold, and the numbers of the published ones."""

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
from ..diffusion.schedule import SCHEDULES, Schedule, linear, zero_terminal_snr
from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, number, title_of, unfailing

Published = tuple[str, Callable[[Tensor], float], float, float]
"""(what, how to read it off ᾱ, its value, the relative error that the digits given allow)."""


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
"""Linear is β 1e-4…0.02; cosine has s = 0.008 and β clipped at 0.999."""


@unfailing
def check_schedule(
    schedule: Schedule | Tensor | np.ndarray[Any, Any] | Sequence[float], expected: ScheduleName | None = None
) -> Report:
    """Whether this is a noise schedule, and, if `expected` names a published one, whether it is that one.

    schedule: a Schedule, or ᾱ alone over t = 0…T, as a tensor, an array or a list of T + 1 numbers.
    """
    given = schedule.alpha_bar if isinstance(schedule, Schedule) else schedule
    table = given.detach() if isinstance(given, Tensor) else torch.from_numpy(np.asarray(given))
    rows = Checklist(
        f"schedule {expected or ''}".rstrip(), "Ho et al. 2020, section 4; Nichol & Dhariwal 2021, equation 17"
    )
    rows.add("shape (T+1,)", table.ndim == 1 and len(table) > 1, "(T+1,)", str(tuple(table.shape)), "ᾱ is not (T+1,)")
    if not rows.checks[-1].passed:
        return rows.report()
    dtype = str(table.dtype).removeprefix("torch.")
    a = table.double()
    rising = bool((a[1:] > a[:-1]).all())
    cut = not rising and 0.9 < a[0].item() < 1
    named = mistakes.NOT_CUMULATED if rising else mistakes.NO_TIME_ZERO if cut else "ᾱ₀ is not 1"
    _row(rows, "all numbers finite", ~a.isfinite(), a, "finite", "ᾱ holds NaN or ∞")
    rows.add("ᾱ₀ = 1: t = 0 is clean", a[0].item() == 1, "1", number(a[0].item()), named)
    if cut:
        a = torch.cat([a.new_ones(1), a])  # so that what follows is judged by itself
    _row(rows, "ᾱ falls strictly", ~(a[1:] < a[:-1]), a[1:], "falling", "ᾱ does not fall")
    _row(rows, "ᾱ is never below 0", ~(a >= 0), a, "at least 0", "ᾱ falls below 0")
    beta = 1 - a[1:] / a[:-1]
    _row(rows, "β within (0, 1]", ~((beta > 0) & (beta <= 1)), beta, "(0, 1]", "β leaves (0, 1]")
    rows.add("computed in float64", table.dtype == torch.float64, "float64", dtype, mistakes.SINGLE_PRECISION)
    if expected is not None:
        _rows_of_published(rows, a, expected)
    return rows.report()


def _row(rows: Checklist, name: str, wrong: Tensor, values: Tensor, expected: str, mistake: str) -> None:
    """A row about every entry of a table; it shows the first that is wrong."""
    at = int(wrong.int().argmax())
    good = not wrong.any()
    rows.add(name, good, expected, expected if good else f"{number(values[at].item())} at index {at}", mistake)


def _rows_of_published(rows: Checklist, a: Tensor, expected: ScheduleName) -> None:
    T = len(a) - 1
    want = SCHEDULES[expected](T).alpha_bar
    error = ((a - want).abs() / want.clamp(min=1e-300)).max().item()
    alphas = torch.cat([want.new_ones(1), want[1:] / want[:-1]])  # 1 − β_t alone
    single = T > 1 and torch.allclose(a, alphas, rtol=1e-6, atol=0)
    suspect = mistakes.NOT_CUMULATED if single else f"it is another schedule than {expected}"
    rows.add(f"all of ᾱ, relative to {expected}", error <= 1e-9, "error ≤ 1e-09", f"error {error:.2g}", suspect)
    for what, read, value, tolerance in PUBLISHED.get((expected, T), ()):
        got = read(a)
        rows.add(what, abs(got - value) <= tolerance * abs(value), number(value), number(got), f"{what} is wrong")


@unfailing
def check_zero_terminal_snr(
    rescale: Callable[[Schedule], Schedule] = zero_terminal_snr, denoiser: Callable[..., Any] = Denoiser
) -> Report:
    """Whether ᾱ_T = 0 is reached exactly, refused together with ε-prediction, and harmless with v-prediction.

    rescale:  Schedule -> Schedule with ᾱ_T = 0, √ᾱ shifted and stretched so that ᾱ₁ stays.
    denoiser: (network, schedule, prediction) -> denoiser; raises ValueError where the two do not go together.
    """
    title = f"zero terminal SNR: {title_of(rescale, 'rescale')}"
    rows = Checklist(title, "Lin et al. 2024, algorithm 1")
    before = linear()
    schedule = rows.attempt("rescaling", lambda: rescale(before))
    if schedule is None:
        return rows.report()
    a = schedule.alpha_bar
    rows.add("ᾱ_T = 0 exactly", a[-1].item() == 0, "0", number(a[-1].item()), "ᾱ_T is not exactly 0")
    first, was = a[1].item(), before.alpha_bar[1].item()
    rows.add("ᾱ₁ stays", abs(first - was) < 1e-12, number(was), number(first), "ᾱ₁ has moved")
    root, old = a[1:].sqrt(), before.alpha_bar[1:].sqrt()
    error = (root - (old - old[-1]) * old[0] / (old[0] - old[-1])).abs().max().item()
    rows.add(
        "√ᾱ is shifted and stretched", error < 1e-9, "error ≤ 1e-09", f"error {error:.2g}", "√ᾱ is bent, not rescaled"
    )

    network = nn.Identity()
    refused = "accepted"
    try:
        denoiser(lambda x, t: network(x), schedule, "eps")
    except ValueError:
        refused = "refused"
    rows.add(
        "ε-prediction is refused",
        refused == "refused",
        "refused",
        refused,
        "ε-prediction is accepted at ᾱ_T = 0, where x₀ = (x_t − σ ε)/0",
    )
    x, t = torch.linspace(-2, 2, 5, dtype=torch.float64).view(5, 1, 1, 1), torch.full((5,), schedule.T)
    v = rows.attempt("v-prediction at t = T", lambda: denoiser(lambda x, t: x / 2, schedule, "v")(x, t))
    if v is not None:
        agrees = bool(torch.allclose(v, -x / 2, rtol=0, atol=1e-12))
        rows.add("v-prediction at t = T: x̂₀ = −v", agrees, "finite", "finite" if v.isfinite().all() else "NaN",
                 "v-prediction does not give x̂₀ = −v where ᾱ = 0")  # fmt: skip
    return rows.report()


@unfailing
def check_step_times(step_times: Callable[[int, int], Sequence[int]]) -> Report:
    """Whether step_times(T, steps) -> the steps + 1 times of a sampler falls from T to 0, none twice, none below 0."""
    rows = Checklist(title_of(step_times, "step times"), "Lin et al. 2024, section 3.3")
    for T, steps in ((1000, 1000), (1000, 250), (1000, 53), (1000, 50), (1000, 7), (1000, 1), (500, 25), (7, 5)):
        name = f"T = {T}, {steps} steps"
        times = rows.attempt(name, partial(_integers, step_times, T, steps))
        if times is not None:
            wrong = _wrong_with(times, T, steps)
            shown = ", ".join(map(str, times if len(times) < 7 else [*times[:2], "…", *times[-3:]]))
            rows.add(name, not wrong, f"{steps + 1} times, {T}…0", f"{len(times)}: {shown}", wrong)
    return rows.report()


def _integers(step_times: Callable[[int, int], Sequence[int]], T: int, steps: int) -> list[int]:
    return [int(t) for t in step_times(T, steps)]


def _wrong_with(times: Sequence[int], T: int, steps: int) -> Mistake | str:
    """What is wrong with these times, "" if nothing."""
    if not times or times[0] != T:
        return mistakes.OFF_BY_ONE if times and times[0] == T - 1 else "the times do not begin at T"
    if min(times) < 0:
        return mistakes.WRAPAROUND
    if times[-1] != 0:
        return "the times do not end at 0"
    if not all(t > s for t, s in itertools.pairwise(times)):
        return "the times do not fall strictly"
    return "" if len(times) == steps + 1 else "n steps do not make n + 1 times"
