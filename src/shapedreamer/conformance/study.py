"""One examination of one sampler: how it is run, with which noise and answers, and what is known of it so far."""

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
from .exact import STD
from .mistakes import Mistake
from .report import Checklist, message, title_of
from .trace import RUNAWAY, Answer, Draw, Trace, equal, parameters, record, updates_seen
from .updates import TOLERANCE, Seen, is_right

RUNS = (1000, 53, 10)
"""Numbers of steps tried; 53 does not divide T = 1000."""
SHORT = RUNS[-1]
BATCH = 8
SOURCE = "Song et al. 2021, equations 12 and 16; Ho et al. 2020, algorithm 2"


@dataclass(frozen=True, eq=False)
class Mode:
    """A way to call the sampler, and what it must then be: DDIM of this eta, or DDPM (eta = 1) with β as variance.

    table: the column of the end-to-end table that belongs to it, "" if none does.
    """

    label: str
    eta: float
    beta: bool = False
    options: dict[str, object] = field(default_factory=dict)
    table: str = ""

    @property
    def is_solver(self) -> bool:
        """Whether it may be any solver of the flow, not only DDIM."""
        return self.eta == 0 and not self.options

    def named(self, text: str) -> str:
        """The text of a row, with the mode in front."""
        return f"{self.label}: {text}" if self.label else text


class Study:
    """Runs the sampler, and keeps what it did (`traces`) and the rows of the report.

    order: see check_sampler. seen: the coefficients of every step, of the modes that must be DDPM or DDIM.
    """

    def __init__(self, sampler: Callable[..., Any], order: float | None) -> None:
        self.sampler, self.order = sampler, order
        self.schedule = linear()
        self.alpha_bar: list[float] = self.schedule.alpha_bar.tolist()
        self.rows = Checklist(title_of(sampler, "sampler"), SOURCE)
        generator = torch.Generator().manual_seed(0)
        self.x_T = torch.randn(BATCH, 1, 1, 1, generator=generator, dtype=torch.float64)
        self._noise = torch.randn(2 * RUNS[0], BATCH, generator=generator, dtype=torch.float64)
        self._answers = torch.rand(RUNAWAY * (RUNS[0] + 1), BATCH, generator=generator, dtype=torch.float64) - 0.5
        self.traces: dict[tuple[Mode, int], Trace] = {}
        self._watch_torch = True
        self.modes = self._modes()
        for mode in self.modes:
            self._try(mode, SHORT)
        self._watch_torch = any(trace.from_torch for trace in self.traces.values())
        for mode in self.modes:
            for steps in RUNS[1:-1] if mode.table else ():
                self._try(mode, steps)
        # Steps of one must be those of DDPM itself. One mode will do: such a run takes as long as all else
        self._try(next((mode for mode in self.modes if mode.table == "posterior"), self.modes[0]), RUNS[0])
        self.modes = [mode for mode in self.modes if (mode, SHORT) in self.traces]
        self.hidden = {mode for mode in self.modes if self._is_hidden(mode)}
        self.seen = {mode: seen for mode in self.modes if (seen := self._all_updates(mode))}
        if order is not None:
            self.seen = {mode: seen for mode, seen in self.seen.items() if not mode.is_solver}

    def row(self, name: str, wrong: Iterable[str], expected: str, mistake: Mistake | str, source: str = "") -> None:
        """Add a row about all runs; `wrong` says, of each run where it does not hold, what is so instead."""
        found = next(iter(wrong), None)
        self.rows.add(name, found is None, expected, found or expected, mistake, source)

    # Running

    def run(
        self, mode: Mode, steps: int, x_T: Tensor, answer: Answer, *, draw: Draw | None = None,
        schedule: Schedule | None = None, options: dict[str, object] | None = None,
    ) -> Trace:  # fmt: skip
        """A run in this mode; draw: the noise (arbitrary numbers if left out); options: besides those of the mode."""
        draw = draw or self._arbitrary_noise
        given = {**mode.options, **(options or {})}
        return record(self.sampler, schedule or self.schedule, x_T, steps, answer, draw, given, self._watch_torch)

    def probe(self, mode: Mode, steps: int, size: float = 1.0, options: dict[str, object] | None = None) -> Trace:
        """A run with arbitrary noise and a denoiser whose answers, within ±size/2, have nothing to do with x_t."""
        return self.run(mode, steps, self.x_T, lambda x, t, k: size * self._answers[k].view_as(x), options=options)

    def exact_run(self, mode: Mode, steps: int, x_T: Tensor, draw: Draw | None = None) -> Trace:
        """A run with the exact denoiser of data N(0, STD²)."""
        denoise = gaussian(0.0, STD, self.schedule)
        return self.run(mode, steps, x_T, lambda x, t, k: denoise(x, torch.full((len(x),), t)), draw=draw)

    def repeats(self, mode: Mode) -> bool:
        """Whether a run goes through the same images again, after another run."""
        self.probe(mode, 2 * SHORT)
        again, before = self.probe(mode, SHORT).states, self.traces[mode, SHORT].states
        return len(again) == len(before) and all(map(equal, again, before))

    def _arbitrary_noise(self, draw: int, like: Tensor) -> Tensor:
        row = self._noise[draw % len(self._noise)]
        return row.repeat(math.ceil(like.numel() / BATCH))[: like.numel()].view_as(like).to(like.dtype)

    def _try(self, mode: Mode, steps: int) -> None:
        try:
            self.traces[mode, steps] = self.traces.get((mode, steps)) or self.probe(mode, steps)
        except Exception as error:
            self.row(mode.named(f"{steps} steps"), [message(error)], "runs", _of_error(error))

    # What the sampler is

    def _modes(self) -> list[Mode]:
        names, modes = parameters(self.sampler), []
        if "eta" in names and self.order is None and not self._looks_further_back():
            for eta, table in ((0.0, "η = 0"), (0.5, ""), (1.0, "posterior")):
                modes.append(Mode(f"η = {eta:g}", eta, options={"eta": eta}, table=table))
        if "variance" in names:
            modes.append(Mode("variance β̃", 1.0, options={"variance": "posterior"}, table="posterior"))
            modes.append(Mode("variance β", 1.0, beta=True, options={"variance": "beta"}, table="β"))
        return modes or [self._guessed_mode()]

    def _looks_further_back(self) -> bool:
        """Whether with eta = 0 its steps are made of more than x_t, x̂₀ and noise, and of that every time the same."""
        mode = Mode("", 0.0, options={"eta": 0.0})
        try:
            self.traces[mode, SHORT] = trace = self.probe(mode, SHORT)
            repeats = self.repeats(mode)
            del self.traces[mode, SHORT]
        except Exception:
            return False  # what raises will raise again, where a row tells of it
        return repeats and not trace.draws and len(trace.calls) == len(trace.steps) and not self._updates(trace, mode)

    def _guessed_mode(self) -> Mode:
        """DDPM, with the variance that it seems to have, if the sampler draws noise; a solver of the flow if not."""
        solver, ddpm = Mode("", 0.0, table="η = 0"), Mode("", 1.0, table="posterior")
        with_beta = Mode("", 1.0, beta=True, table="β")
        try:
            self.traces[solver, SHORT] = trace = self.probe(solver, SHORT)
            if not trace.draws and not trace.random and self.repeats(solver):
                return solver
            del self.traces[solver, SHORT]
            self._watch_torch = trace.from_torch
            trace = self.probe(ddpm, RUNS[0])  # steps of one, where any β is that of the table
        except Exception:
            return solver  # what raises will raise again, where a row tells of it
        right = {
            mode: sum(is_right(e, self.alpha_bar) for e in self._updates(trace, mode)) for mode in (ddpm, with_beta)
        }
        mode = max(right, key=lambda mode: right[mode])
        self.traces[mode, RUNS[0]] = trace
        return mode

    def _is_hidden(self, mode: Mode) -> bool:
        """Whether this mode's noise comes from where it can be neither seen nor chosen."""
        return mode.eta > 0 and not self.traces[mode, SHORT].draws and not self.repeats(mode)

    def _all_updates(self, mode: Mode) -> list[Seen]:
        traces = [trace for (of, _), trace in self.traces.items() if of is mode]
        return [each for trace in traces for each in self._updates(trace, mode)]

    def _updates(self, trace: Trace, mode: Mode) -> list[Seen]:
        """The coefficients of every step; none if a step looks at more than x_t, x̂₀ and noise."""
        if not len(trace.calls) == len(trace.steps) == len(trace.times) - 1 or max(trace.times) > self.schedule.T:
            return []
        updates, error = updates_seen(trace)
        if not error <= TOLERANCE:
            return []
        return [
            Seen(t, s, mode.eta, mode.beta, update)
            for (t, s), update in zip(itertools.pairwise(trace.times), updates, strict=True)
        ]


def _of_error(error: Exception) -> Mistake | str:
    """What an exception says about its cause: which index was outside of the table."""
    if isinstance(error, IndexError) and re.search(r"(?<!\d)-\d", str(error)):
        return mistakes.WRAPAROUND
    if isinstance(error, IndexError) and re.search(rf"\b(index|time) ({RUNS[0]}|{RUNS[0] + 1})\b", str(error)):
        return mistakes.OFF_BY_ONE
    if isinstance(error, TypeError) and "argument" in str(error):
        return "it cannot be called as sampler(denoise, schedule, x_T, steps, …)"
    return f"it raises {message(error)}"
