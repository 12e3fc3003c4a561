"""Runs one sampler in every mode that it supports, and keeps the traces and the coefficients of its steps.

A mode is a set of options together with what the sampler must then be, such as DDIM at η = 0.5. ``SamplerRuns`` finds
the modes from the parameters of the sampler, runs each with the step counts in ``STEP_COUNTS``, and offers further
runs with inputs that a check chooses.
"""

import itertools
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..diffusion.oracle import gaussian
from ..diffusion.schedule import Schedule, linear
from . import mistakes
from .exact import DATA_STD
from .mistakes import Mistake
from .report import Checklist, describe_error, name_of, raised
from .trace import (
    DrawNoise,
    PredictX0,
    SwappedArgumentsError,
    Trace,
    equal,
    max_calls,
    parameters,
    record,
    solve_updates,
)
from .updates import TOLERANCE, ObservedUpdate, is_correct, is_rounded, wanted

STEP_COUNTS = (1000, 53, 10)
"""The numbers of steps to run; 53 does not divide T = 1000."""
FEW_STEPS = STEP_COUNTS[-1]
IMAGES = (4, 2, 3, 5)
"""The shape of a batch. Every dimension is different, so that factors along the wrong one are noticed."""
SOURCE = "Song et al. 2021, equations 12 and 16; Ho et al. 2020, algorithm 2"


@dataclass(frozen=True, eq=False)
class Mode:
    """A way to call the sampler, and what it must then be: DDIM with this eta, or DDPM (eta = 1) with variance β.

    table:      the column of ``exact.TABLE`` with the expected standard deviations, "" if there is none
    any_method: the sampler may be any method in this mode. If its steps are not DDIM or DDPM steps, it is judged by
                whether it converges to the exact solution
    any_sigma:  a step may add any amount of noise, if it leaves as much less of the predicted noise
    """

    label: str
    eta: float
    beta: bool = False
    options: dict[str, object] = field(default_factory=dict)
    table: str = ""
    any_method: bool = False
    any_sigma: bool = False

    def prefix(self, text: str) -> str:
        """Return the text with the label of the mode in front."""
        return f"{self.label}: {text}" if self.label else text


class PathErrors(NamedTuple):
    """How a sampler approaches the exact solution: see ``convergence.path_errors``.

    order: the order of convergence
    error: the largest error of the run with the most steps
    limit: the largest error that is left when the errors are extrapolated to infinitely many steps
    """

    order: float
    error: float
    limit: float


class SamplerRuns:
    """Runs a sampler; keeps its ``traces`` and the ``checklist`` of its report.

    order:        see check_sampler
    modes:        the modes in which the sampler runs without an exception
    hidden_noise: the modes whose noise can be neither recorded nor replaced, such as noise from numpy
    updates:      the coefficients of every step, for the modes in which each step follows from (x_t, x̂₀, noise)
    start_scale:  the factor of x_T in the first network call, None if the first call does not get a multiple of x_T
    float32:      whether the coefficients are right except for rounding of the schedule to float32
    euler:        the modes whose coefficients are those of a convergent Euler method, with its errors. The check of
                  coefficients finds them
    """

    def __init__(self, sampler: Callable[..., Any], order: float | None) -> None:
        self.sampler, self.order = sampler, order
        self.schedule = linear()
        self.alpha_bar: list[float] = self.schedule.alpha_bar.tolist()
        self.checklist = Checklist(name_of(sampler, "sampler"), SOURCE)
        generator = torch.Generator().manual_seed(0)
        self.x_T = torch.randn(IMAGES, generator=generator, dtype=torch.float64)
        self._noise = torch.randn(2 * STEP_COUNTS[0], self.x_T.numel(), generator=generator, dtype=torch.float64)
        calls = max_calls(self.schedule.T, STEP_COUNTS[0])
        self._predictions = torch.rand(calls, self.x_T.numel(), generator=generator, dtype=torch.float64) - 0.5
        self.traces: dict[tuple[Mode, int], Trace] = {}
        self._intercept_torch = True
        self.modes = self._find_modes()
        for mode in self.modes:
            self._keep_trace(mode, FEW_STEPS)
        self._intercept_torch = any(trace.drew_from_torch for trace in self.traces.values())
        for mode in self.modes:
            for steps in STEP_COUNTS[1:-1]:
                self._keep_trace(mode, steps)
        # With T steps, every step is a single DDPM step. One mode is enough: this run takes as long as all the others.
        mode = next((mode for mode in self.modes if mode.table == "posterior"), self.modes[0])
        self._keep_trace(mode, STEP_COUNTS[0])
        self.modes = [mode for mode in self.modes if (mode, FEW_STEPS) in self.traces]
        self.hidden_noise = {mode for mode in self.modes if self._has_hidden_noise(mode)}
        self.updates = {mode: updates for mode in self.modes if (updates := self._all_updates(mode))}
        if order is not None:
            self.updates = {mode: updates for mode, updates in self.updates.items() if not mode.any_method}
        wrong = [each for each in itertools.chain(*self.updates.values()) if not is_correct(each, self.alpha_bar)]
        self.start_scale = _start_scale(self.traces.values())
        self.euler: dict[Mode, PathErrors] = {}
        self.float32 = bool(wrong) and all(is_rounded(each, self.alpha_bar) for each in wrong)

    def add_check(
        self, name: str, failures: Iterable[str], expected: str, mistake: Mistake | str, source: str = ""
    ) -> None:
        """Add a check of all runs. failures: what was found in each run that fails; the report shows the first."""
        failure = next(iter(failures), None)
        self.checklist.add(name, failure is None, expected, failure or expected, mistake, source)

    # Runs

    def run(
        self, mode: Mode, steps: int, x_T: Tensor, predict_x0: PredictX0, *, draw_noise: DrawNoise | None = None,
        schedule: Schedule | None = None, options: dict[str, object] | None = None, seed: int | None = None,
    ) -> Trace:  # fmt: skip
        """Run the sampler in a mode. The traces in ``traces`` decide how many calls a step makes.

        draw_noise: the noise; fixed random numbers if None
        options:    added to the options of the mode
        seed:       see trace.record
        """
        known = self.traces.get((mode, FEW_STEPS)) or self.traces.get((mode, steps))
        return record(
            self.sampler, schedule or self.schedule, x_T, steps, predict_x0, draw_noise or self._fixed_noise,
            {**mode.options, **(options or {})}, self._intercept_torch, seed,
            known.one_call_per_step if known else None,
        )  # fmt: skip

    def run_random(
        self, mode: Mode, steps: int, size: float = 1.0, options: dict[str, object] | None = None, *,
        x_T: Tensor | None = None, draw_noise: DrawNoise | None = None, seed: int | None = None,
    ) -> Trace:  # fmt: skip
        """Run with fixed random noise, and with random predictions x̂₀ in ±size/2 that do not depend on x_t."""
        x_T = self.x_T if x_T is None else x_T
        return self.run(
            mode, steps, x_T, lambda x, t, k: size * self.prediction(k)[: len(x)].view_as(x),
            draw_noise=draw_noise, options=options, seed=seed,
        )  # fmt: skip

    def prediction(self, k: int) -> Tensor:
        """Return the random prediction of network call k, in the shape of x_T."""
        return self._predictions[k].view_as(self.x_T)

    def run_exact(
        self, mode: Mode, steps: int, x_T: Tensor, draw_noise: DrawNoise | None = None, mean: float = 0.0
    ) -> Trace:
        """Run with the exact denoiser for data N(mean, DATA_STD²)."""
        denoise = gaussian(mean, DATA_STD, self.schedule)
        return self.run(mode, steps, x_T, lambda x, t, k: denoise(x, torch.full((len(x),), t)), draw_noise=draw_noise)

    def is_repeatable(self, mode: Mode) -> bool:
        """Return whether a run goes through the same images after a different run, and with another seed of torch."""
        self.run_random(mode, 2 * FEW_STEPS)
        return same_images(self.run_random(mode, FEW_STEPS, seed=1), self.traces[mode, FEW_STEPS])

    def uses_noise(self, mode: Mode) -> bool:
        """Return whether the images depend on the noise that is drawn, whatever draws it."""
        silent = self.run_random(mode, FEW_STEPS, draw_noise=no_noise, seed=1)
        return not same_images(silent, self.traces[mode, FEW_STEPS])

    def _fixed_noise(self, draw: int, like: Tensor) -> Tensor:
        if like.ndim > self.x_T.ndim:  # the noise of many steps at once
            return torch.stack([self._fixed_noise(k, row) for k, row in enumerate(like)])
        size = self._noise.shape[1]
        if like.numel() <= size:
            row = self._noise[draw % len(self._noise)][: like.numel()]
        else:  # the first images get the same noise in any batch
            generator = torch.Generator().manual_seed(draw)
            more = torch.randn(like.numel() - size, generator=generator, dtype=torch.float64)
            row = torch.cat([self._noise[draw % len(self._noise)], more])
        return row.view_as(like).to(like.dtype)

    def _keep_trace(self, mode: Mode, steps: int) -> None:
        """Run the sampler and keep the trace, or add a failed check if it raises an exception."""
        try:
            self.traces[mode, steps] = self.traces.get((mode, steps)) or self.run_random(mode, steps)
        except Exception as error:
            name = mode.prefix(f"{steps} steps")
            self.add_check(name, [describe_error(error)], "no exception", _mistake_behind(error))

    # Modes

    def _find_modes(self) -> list[Mode]:
        names, modes = parameters(self.sampler), []
        if "eta" in names and self.order is None:
            several = self._takes_other_steps({"eta": 0.0})
            for eta, table in ((0.0, "η = 0"), (0.5, ""), (1.0, "posterior")):
                table = "" if several else table
                modes.append(Mode(f"η = {eta:g}", eta, options={"eta": eta}, table=table, any_method=several))
        if "variance" in names:
            modes.append(Mode("variance β̃", 1.0, options={"variance": "posterior"}, table="posterior"))
            modes.append(Mode("variance β", 1.0, beta=True, options={"variance": "beta"}, table="β"))
        return modes or [self._guess_mode()]

    def _takes_other_steps(self, options: dict[str, object]) -> bool:
        """Whether the steps depend, repeatably and without noise, on more than x_t and x̂₀."""
        mode = Mode("", 0.0, options=options)
        try:
            self.traces[mode, FEW_STEPS] = trace = self.run_random(mode, FEW_STEPS)
            other = not trace.one_call_per_step and self.is_repeatable(mode) and not self.uses_noise(mode)
            return other and not self.is_nonlinear(mode)
        except Exception:
            return False  # the same exception is raised again later, and reported there
        finally:
            self.traces.pop((mode, FEW_STEPS), None)

    def is_nonlinear(self, mode: Mode) -> bool:
        """Whether a step follows from one call while images are small, but not when they are large."""
        return not self.traces[mode, FEW_STEPS].one_call_per_step and self.small_run(mode).one_call_per_step

    def small_run(self, mode: Mode) -> Trace:
        """Run with images, predictions and noise so small that nothing reaches the range of images."""
        known = self.traces.pop((mode, FEW_STEPS), None)  # so that this run finds out how many calls a step makes
        noise = self._fixed_noise
        try:
            return self.run_random(
                mode, FEW_STEPS, 0.1, x_T=0.05 * self.x_T, draw_noise=lambda k, like: 0.05 * noise(k, like)
            )
        finally:
            if known:
                self.traces[mode, FEW_STEPS] = known

    def _guess_mode(self) -> Mode:
        """The mode of a sampler without eta and variance: what its coefficients fit best.

        Without influence of the noise it is an ODE solver: DDIM, or any other. Otherwise it is DDPM with one of its two
        variances, or a sampler with a σ of its own.
        """
        solver = Mode("", 0.0, table="η = 0", any_method=True)
        ddpm, ddpm_beta = Mode("", 1.0, table="posterior"), Mode("", 1.0, beta=True, table="β")
        other = Mode("", 1.0, any_method=True, any_sigma=True)
        try:
            self.traces[solver, FEW_STEPS] = few = self.run_random(solver, FEW_STEPS)
            uses_noise = self.uses_noise(solver)
            if not uses_noise:
                mean_only = few.one_call_per_step and self._count_correct(few, solver) < self._count_means(few, ddpm)
                return ddpm if mean_only else solver
            del self.traces[solver, FEW_STEPS]
            self._intercept_torch = few.drew_from_torch
        except Exception:
            return solver  # the same exception is raised again later, and reported there
        traces = {FEW_STEPS: few}
        # With T steps, each step covers a single timestep, so the β of the step is the β_t of the table
        with suppress(Exception):  # raised again later, and reported there
            traces[STEP_COUNTS[0]] = self.run_random(ddpm, STEP_COUNTS[0])
        hidden = not few.draws  # then only the samples tell, and they must be those of DDPM
        if not few.one_call_per_step and not hidden:
            return other
        counts = {
            mode: sum(self._count_correct(trace, mode) for trace in traces.values())
            for mode in (ddpm, ddpm_beta, other)
        }
        # a σ of its own must fit everywhere; code that mistakes a part of DDPM is still DDPM
        candidates = (
            counts if counts[other] == sum(len(trace.calls) for trace in traces.values()) else (ddpm, ddpm_beta)
        )
        mode = max(candidates, key=lambda mode: counts[mode])
        if STEP_COUNTS[0] in traces:
            self.traces[mode, STEP_COUNTS[0]] = traces[STEP_COUNTS[0]]
        return mode

    def _count_correct(self, trace: Trace, mode: Mode) -> int:
        updates = self.updates_of(trace, mode)
        return sum(is_correct(update, self.alpha_bar) or is_rounded(update, self.alpha_bar) for update in updates)

    def _count_means(self, trace: Trace, mode: Mode) -> int:
        """The number of steps that are right except that their noise is missing."""
        updates = self.updates_of(trace, mode)
        with_noise = [
            update._replace(update=update.update._replace(noise=wanted(update, self.alpha_bar).noise))
            for update in updates
            if update.s >= 0
        ]
        return sum(is_correct(update, self.alpha_bar) for update in with_noise)

    def _has_hidden_noise(self, mode: Mode) -> bool:
        return mode.eta > 0 and not self.traces[mode, FEW_STEPS].draws and not self.is_repeatable(mode)

    def _all_updates(self, mode: Mode) -> list[ObservedUpdate]:
        runs = [(steps, trace) for (each, steps), trace in self.traces.items() if each is mode]
        return [update for steps, trace in runs for update in self.updates_of(trace, mode, steps)]

    def updates_of(self, trace: Trace, mode: Mode, steps: int = 0) -> list[ObservedUpdate]:
        """Return the coefficients of every step; empty if a step depends on more than x_t, x̂₀ and noise."""
        if not len(trace.calls) == len(trace.steps) == len(trace.times) - 1 or max(trace.times) > self.schedule.T:
            return []
        updates, error = solve_updates(trace)
        if not error <= TOLERANCE:
            return []
        return [
            ObservedUpdate(t, s, mode.eta, mode.beta, update, steps, mode.any_sigma)
            for (t, s), update in zip(itertools.pairwise(trace.times), updates, strict=True)
        ]


def _start_scale(traces: Iterable[Trace]) -> float | None:
    scales = []
    for trace in traces:
        x = trace.calls[0].x.double()
        scale = (x.flatten() @ trace.start.flatten() / trace.start.square().sum()).item()
        if not equal(x, scale * trace.start):
            return None
        scales.append(scale)
    return scales[0] if scales and max(scales) - min(scales) < 1e-6 else None


def same_images(one: Trace, other: Trace) -> bool:
    """Return whether two runs went through the same images."""
    return len(one.states) == len(other.states) and all(map(equal, one.states, other.states))


def no_noise(draw: int, like: Tensor) -> Tensor:
    """Return zeros in place of noise."""
    return torch.zeros_like(like)


def _mistake_behind(error: Exception) -> Mistake | str:
    """The mistake behind an exception of the sampler. An IndexError says which index was outside the table."""
    if isinstance(error, SwappedArgumentsError):
        return mistakes.DENOISE_ORDER
    if isinstance(error, IndexError) and re.search(r"(?<!\d)-\d", str(error)):
        return mistakes.WRAPAROUND
    T = STEP_COUNTS[0]
    if isinstance(error, IndexError) and re.search(rf"\b(index|time|timestep) ({T}|{T + 1})\b", str(error)):
        return mistakes.OFF_BY_ONE
    if isinstance(error, TypeError) and "argument" in str(error):
        return "the sampler cannot be called as sampler(denoise, schedule, x_T, steps, …)"
    return raised(error)
