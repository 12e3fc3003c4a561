"""Runs one sampler in every mode that it supports, and keeps the traces and the coefficients of its steps.

A mode is a set of options together with what the sampler must then be, such as DDIM at η = 0.5. ``SamplerRuns`` finds
the modes from the parameters of the sampler, runs each with the step counts in ``STEP_COUNTS``, and offers further
runs with inputs that a check chooses.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..diffusion.oracle import gaussian
from ..diffusion.schedule import Schedule, linear
from . import mistakes
from .exact import DATA_STD
from .mistakes import Mistake
from .report import Checklist, describe_error, name_of, raised
from .trace import MAX_CALLS_PER_STEP, DrawNoise, PredictX0, Trace, equal, parameters, record, solve_updates
from .updates import TOLERANCE, ObservedUpdate, is_correct

STEP_COUNTS = (1000, 53, 10)
"""The numbers of steps to run; 53 does not divide T = 1000."""
FEW_STEPS = STEP_COUNTS[-1]
BATCH_SIZE = 8
SOURCE = "Song et al. 2021, equations 12 and 16; Ho et al. 2020, algorithm 2"


@dataclass(frozen=True, eq=False)
class Mode:
    """A way to call the sampler, and what it must then be: DDIM with this eta, or DDPM (eta = 1) with variance β.

    table: the column of ``exact.TABLE`` with the expected standard deviations, "" if there is none
    """

    label: str
    eta: float
    beta: bool = False
    options: dict[str, object] = field(default_factory=dict)
    table: str = ""

    @property
    def is_solver(self) -> bool:
        """Whether the sampler may be any ODE solver in this mode, not only DDIM."""
        return self.eta == 0 and not self.options

    def prefix(self, text: str) -> str:
        """Return the text with the label of the mode in front."""
        return f"{self.label}: {text}" if self.label else text


class SamplerRuns:
    """Runs a sampler; keeps its ``traces`` and the ``checklist`` of its report.

    order:        see check_sampler
    modes:        the modes in which the sampler runs without an exception
    hidden_noise: the modes whose noise can be neither recorded nor replaced, such as noise from numpy
    updates:      the coefficients of every step, for the modes in which the sampler must be DDPM or DDIM
    """

    def __init__(self, sampler: Callable[..., Any], order: float | None) -> None:
        self.sampler, self.order = sampler, order
        self.schedule = linear()
        self.alpha_bar: list[float] = self.schedule.alpha_bar.tolist()
        self.checklist = Checklist(name_of(sampler, "sampler"), SOURCE)
        generator = torch.Generator().manual_seed(0)
        max_calls = MAX_CALLS_PER_STEP * (STEP_COUNTS[0] + 1)
        self.x_T = torch.randn(BATCH_SIZE, 1, 1, 1, generator=generator, dtype=torch.float64)
        self._noise = torch.randn(2 * STEP_COUNTS[0], BATCH_SIZE, generator=generator, dtype=torch.float64)
        self._predictions = torch.rand(max_calls, BATCH_SIZE, generator=generator, dtype=torch.float64) - 0.5
        self.traces: dict[tuple[Mode, int], Trace] = {}
        self._intercept_torch = True
        self.modes = self._find_modes()
        for mode in self.modes:
            self._keep_trace(mode, FEW_STEPS)
        self._intercept_torch = any(trace.drew_from_torch for trace in self.traces.values())
        for mode in self.modes:
            for steps in STEP_COUNTS[1:-1] if mode.table else ():
                self._keep_trace(mode, steps)
        # With T steps, every step is a single DDPM step. One mode is enough: this run takes as long as all the others.
        mode = next((mode for mode in self.modes if mode.table == "posterior"), self.modes[0])
        self._keep_trace(mode, STEP_COUNTS[0])
        self.modes = [mode for mode in self.modes if (mode, FEW_STEPS) in self.traces]
        self.hidden_noise = {mode for mode in self.modes if self._has_hidden_noise(mode)}
        self.updates = {mode: updates for mode in self.modes if (updates := self._all_updates(mode))}
        if order is not None:
            self.updates = {mode: updates for mode, updates in self.updates.items() if not mode.is_solver}

    def add_check(
        self, name: str, failures: Iterable[str], expected: str, mistake: Mistake | str, source: str = ""
    ) -> None:
        """Add a check of all runs. failures: what was found in each run that fails; the report shows the first."""
        failure = next(iter(failures), None)
        self.checklist.add(name, failure is None, expected, failure or expected, mistake, source)

    # Runs

    def run(
        self, mode: Mode, steps: int, x_T: Tensor, predict_x0: PredictX0, *, draw_noise: DrawNoise | None = None,
        schedule: Schedule | None = None, options: dict[str, object] | None = None,
    ) -> Trace:  # fmt: skip
        """Run the sampler in a mode.

        draw_noise: the noise; fixed random numbers if None
        options:    added to the options of the mode
        """
        draw_noise = draw_noise or self._fixed_noise
        options = {**mode.options, **(options or {})}
        schedule = schedule or self.schedule
        return record(self.sampler, schedule, x_T, steps, predict_x0, draw_noise, options, self._intercept_torch)

    def run_random(self, mode: Mode, steps: int, size: float = 1.0, options: dict[str, object] | None = None) -> Trace:
        """Run with fixed random noise, and with random predictions x̂₀ in ±size/2 that do not depend on x_t."""
        return self.run(mode, steps, self.x_T, lambda x, t, k: size * self._predictions[k].view_as(x), options=options)

    def run_exact(self, mode: Mode, steps: int, x_T: Tensor, draw_noise: DrawNoise | None = None) -> Trace:
        """Run with the exact denoiser for data N(0, DATA_STD²)."""
        denoise = gaussian(0.0, DATA_STD, self.schedule)
        return self.run(mode, steps, x_T, lambda x, t, k: denoise(x, torch.full((len(x),), t)), draw_noise=draw_noise)

    def is_repeatable(self, mode: Mode) -> bool:
        """Return whether a run goes through the same images again after a different run."""
        self.run_random(mode, 2 * FEW_STEPS)
        again, before = self.run_random(mode, FEW_STEPS).states, self.traces[mode, FEW_STEPS].states
        return len(again) == len(before) and all(map(equal, again, before))

    def _fixed_noise(self, draw: int, like: Tensor) -> Tensor:
        row = self._noise[draw % len(self._noise)]
        return row.repeat(math.ceil(like.numel() / BATCH_SIZE))[: like.numel()].view_as(like).to(like.dtype)

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
        if "eta" in names and self.order is None and not self._is_multistep():
            for eta, table in ((0.0, "η = 0"), (0.5, ""), (1.0, "posterior")):
                modes.append(Mode(f"η = {eta:g}", eta, options={"eta": eta}, table=table))
        if "variance" in names:
            modes.append(Mode("variance β̃", 1.0, options={"variance": "posterior"}, table="posterior"))
            modes.append(Mode("variance β", 1.0, beta=True, options={"variance": "beta"}, table="β"))
        return modes or [self._guess_mode()]

    def _is_multistep(self) -> bool:
        """Whether the steps at eta = 0 depend, repeatably, on more than x_t, x̂₀ and noise."""
        mode = Mode("", 0.0, options={"eta": 0.0})
        try:
            self.traces[mode, FEW_STEPS] = trace = self.run_random(mode, FEW_STEPS)
            repeatable = self.is_repeatable(mode)
            del self.traces[mode, FEW_STEPS]
        except Exception:
            return False  # the same exception is raised again later, and reported there
        one_call_per_step = len(trace.calls) == len(trace.steps)
        return repeatable and not trace.draws and one_call_per_step and not self._solve_updates(trace, mode)

    def _guess_mode(self) -> Mode:
        """DDPM, with the variance that fits better, if the sampler draws noise; otherwise an ODE solver."""
        solver, ddpm = Mode("", 0.0, table="η = 0"), Mode("", 1.0, table="posterior")
        ddpm_beta = Mode("", 1.0, beta=True, table="β")
        try:
            self.traces[solver, FEW_STEPS] = trace = self.run_random(solver, FEW_STEPS)
            if not trace.draws and not trace.used_torch_rng and self.is_repeatable(solver):
                return solver
            del self.traces[solver, FEW_STEPS]
            self._intercept_torch = trace.drew_from_torch
            # With T steps, each step covers a single timestep, so the β of the step is the β_t of the table
            trace = self.run_random(ddpm, STEP_COUNTS[0])
        except Exception:
            return solver  # the same exception is raised again later, and reported there
        correct = {
            mode: sum(is_correct(update, self.alpha_bar) for update in self._solve_updates(trace, mode))
            for mode in (ddpm, ddpm_beta)
        }
        mode = max(correct, key=lambda mode: correct[mode])
        self.traces[mode, STEP_COUNTS[0]] = trace
        return mode

    def _has_hidden_noise(self, mode: Mode) -> bool:
        return mode.eta > 0 and not self.traces[mode, FEW_STEPS].draws and not self.is_repeatable(mode)

    def _all_updates(self, mode: Mode) -> list[ObservedUpdate]:
        traces = [trace for (each, _), trace in self.traces.items() if each is mode]
        return [update for trace in traces for update in self._solve_updates(trace, mode)]

    def _solve_updates(self, trace: Trace, mode: Mode) -> list[ObservedUpdate]:
        """The coefficients of every step; empty if a step depends on more than x_t, x̂₀ and noise."""
        if not len(trace.calls) == len(trace.steps) == len(trace.times) - 1 or max(trace.times) > self.schedule.T:
            return []
        updates, error = solve_updates(trace)
        if not error <= TOLERANCE:
            return []
        return [
            ObservedUpdate(t, s, mode.eta, mode.beta, update)
            for (t, s), update in zip(itertools.pairwise(trace.times), updates, strict=True)
        ]


def _mistake_behind(error: Exception) -> Mistake | str:
    """The mistake behind an exception of the sampler. An IndexError says which index was outside the table."""
    if isinstance(error, IndexError) and re.search(r"(?<!\d)-\d", str(error)):
        return mistakes.WRAPAROUND
    T = STEP_COUNTS[0]
    if isinstance(error, IndexError) and re.search(rf"\b(index|time|timestep) ({T}|{T + 1})\b", str(error)):
        return mistakes.OFF_BY_ONE
    if isinstance(error, TypeError) and "argument" in str(error):
        return "the sampler cannot be called as sampler(denoise, schedule, x_T, steps, …)"
    return raised(error)
