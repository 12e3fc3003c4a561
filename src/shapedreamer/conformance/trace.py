"""Runs any sampler once and records what can be observed from outside: network calls, noise draws and steps.

The denoiser is ours, so we see every x_t and every timestep passed to it, even if the sampler only returns the final
image. The noise is ours too, whether the sampler takes it from its ``generator`` argument or from torch. Therefore the
coefficients of each step can be solved for instead of estimated.
"""

import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..diffusion.samplers import Step
from ..diffusion.schedule import Schedule, step_times
from .updates import TOLERANCE, Update

PredictX0 = Callable[[Tensor, int, int], Tensor]
"""(x_t, t, index of the network call) -> x̂₀."""
DrawNoise = Callable[[int, Tensor], Tensor]
"""(index of the draw, like) -> noise in the shape of ``like``."""

MAX_CALLS_PER_STEP = 4


class SwappedArgumentsError(TypeError):
    """The sampler called denoise(t, x)."""


def max_calls(T: int, steps: int) -> int:
    """A sampler that calls the network more often is stopped. Visiting all T timesteps, even twice, is allowed."""
    return max(MAX_CALLS_PER_STEP * (steps + 1), 2 * T + MAX_CALLS_PER_STEP)


class Call(NamedTuple):
    """One network call: timestep t, what is wrong with the form of t ("" if nothing), x_t, and the returned x̂₀."""

    t: int
    t_problem: str
    x: Tensor
    x0: Tensor


class NoiseDraw(NamedTuple):
    """One noise draw: the number of network calls before it, the t passed to the generator (or None), the noise."""

    calls: int
    t: int | None
    noise: Tensor


@dataclass
class Trace:
    """What the sampler did in one run.

    start: x_T as passed to the sampler
    times: the visited timesteps from start to end, one more than there are steps
    steps: as yielded; if the sampler yields or returns images only, reconstructed from the network calls
    """

    start: Tensor
    calls: list[Call] = field(default_factory=list)
    draws: list[NoiseDraw] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    yields_steps: bool = False  # the sampler yielded (t, x, x0), not only images
    modified: bool = False  # x_T or a yielded image was modified later
    used_torch_rng: bool = False  # the state of torch's global random number generator changed
    drew_from_torch: bool = False  # noise came from torch.randn or similar, not from the generator
    one_call_per_step: bool = False  # every image follows from (x_t, x̂₀, noise) of the call before it alone

    @property
    def final(self) -> Tensor:
        """The final image."""
        return self.steps[-1].x

    @property
    def calls_by_step(self) -> list[list[Call]]:
        """The calls of each step; step k starts at the x of the last call in group k.

        A method with several calls per step calls the network twice in a row at the same t (Heun), so equal t count
        as one step. Calls between t and s (midpoint) make a group of their own. If each image follows from a single
        call, then each call is a step, even at an equal t.
        """
        if self.one_call_per_step:
            return [[call] for call in self.calls]
        return [list(group) for _, group in itertools.groupby(self.calls, key=lambda call: call.t)]

    @property
    def visited(self) -> list[tuple[int, Tensor]]:
        """(t, x_t) where each step starts and, at the end, (0, final image)."""
        return [(group[-1].t, group[-1].x) for group in self.calls_by_step] + [(0, self.final)]

    @property
    def states(self) -> list[Tensor]:
        """The image at each network call, and the final image."""
        return [call.x for call in self.calls] + [self.final]


def parameters(function: object) -> set[str]:
    """Return the parameter names of a callable, or an empty set if Python cannot inspect it."""
    try:
        return set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return set()


def record(
    sampler: Callable[..., Any],
    schedule: Schedule,
    x_T: Tensor,
    steps: int,
    predict_x0: PredictX0,
    draw_noise: DrawNoise,
    options: dict[str, object],
    intercept_torch: bool = True,
    seed: int | None = None,
    one_call_per_step: bool | None = None,
) -> Trace:
    """Run ``sampler(denoise, schedule, x_T, steps, **options)`` to its end and return its trace.

    intercept_torch:   also replace the noise of torch.randn and similar functions; this slows down every torch call
    seed:              of torch's random number generator, for random numbers that are not replaced
    one_call_per_step: see Trace; found out if None, which needs predictions that do not depend on x_t

    Raises whatever the sampler raises, ValueError if it yields nothing or never calls the network, and TypeError if
    its result is neither an image, nor images, nor steps.
    """
    trace = Trace(x_T)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if isinstance(t, Tensor) and t.shape == x_T.shape and x.shape != x_T.shape:
            raise SwappedArgumentsError("the sampler calls denoise(t, x)")
        if len(trace.calls) >= max_calls(schedule.T, steps):
            raise RuntimeError(f"stopped: the sampler called the network {len(trace.calls)} times for {steps} steps")
        time, problem = _read_t(t, len(x))
        x0 = predict_x0(x, min(max(time, 1), schedule.T), len(trace.calls))
        trace.calls.append(Call(time, problem, x.clone(), x0))
        return x0.clone()

    def record_draw(like: Tensor, t: int | None = None) -> Tensor:
        noise = draw_noise(len(trace.draws), like)
        trace.draws.append(NoiseDraw(len(trace.calls), t, noise))
        return noise

    def record_torch_draw(like: Tensor) -> Tensor:
        trace.drew_from_torch = True
        return record_draw(like)

    generator = _RecordingNoise()
    generator.record_draw = record_draw
    keywords = dict(options)
    if "generator" in parameters(sampler):
        keywords["generator"] = generator
    passed_x_T = x_T.clone()

    with _restore_rng(seed) as rng_state, _InterceptTorchNoise(record_torch_draw) if intercept_torch else nullcontext():
        outputs = [(item, _copy(item)) for item in _items(sampler(denoise, schedule, passed_x_T, steps, **keywords))]
        trace.used_torch_rng = not torch.equal(rng_state, torch.get_rng_state())
    if not outputs:
        raise ValueError("the sampler yielded no steps")
    if not trace.calls:
        raise ValueError("the sampler never called the network")
    unchanged = equal(passed_x_T, x_T) and all(equal(copy.x, _image(item)) for item, copy in outputs)
    trace.modified = not unchanged
    yielded = [Step(t, x, x0) for _, (t, x, x0) in outputs if t is not None and x0 is not None]
    trace.yields_steps = len(yielded) == len(outputs)
    final = outputs[-1][1].x
    if one_call_per_step is None:
        one_call_per_step = _solve(trace, [call.x for call in trace.calls] + [final])[1] <= TOLERANCE
    trace.one_call_per_step = one_call_per_step
    called = [group[0].t for group in trace.calls_by_step]
    if trace.yields_steps:
        trace.times, trace.steps = _times_from_steps(called, yielded, schedule), yielded
    else:
        trace.times = _times_from_calls(called, steps, schedule)
        trace.steps = _steps_from_calls(trace, final)
    return trace


def solve_updates(trace: Trace) -> tuple[list[Update], float]:
    """Return the coefficients of each step, and the largest error of the steps written with them.

    For samplers with one network call per step. A step may use noise drawn before or after its call. The error is far
    above rounding if a step depends on more than (x_t, x̂₀, noise), as multistep methods do.
    """
    return _solve(trace, trace.states)


def _solve(trace: Trace, states: Sequence[Tensor]) -> tuple[list[Update], float]:
    columns, results = [], []
    if any(state.shape != trace.start.shape for state in states):
        return [], math.inf
    per_step = noise_by_step(trace)
    width = max(map(len, per_step))
    for k, (call, candidates) in enumerate(zip(trace.calls, per_step, strict=True)):
        padding = [torch.zeros_like(call.x0)] * (width - len(candidates))
        images = (call.x, call.x0, *candidates, *padding)
        columns.append(torch.stack([image.double().flatten() for image in images], dim=1))
        results.append(states[k + 1].double().flatten())
    A, y = torch.stack(columns), torch.stack(results)[..., None]
    if not (A.isfinite().all() and y.isfinite().all()):
        return [], math.inf
    solution = torch.linalg.lstsq(A, y, driver="gelsd").solution  # zero columns make A rank-deficient
    error = (A @ solution - y).abs().max().item()
    return [Update(row[0], row[1], sum(c**2 for c in row[2:]) ** 0.5) for row in solution[..., 0].tolist()], error


def noise_by_step(trace: Trace) -> list[list[Tensor]]:
    """Return for each network call the noise that the step after it may use, in the shape of the images, float64.

    That is what was drawn just before or after the call, or a row of a table with the noise of many steps.
    """
    noise: dict[int, list[Tensor]] = {}
    tables = []
    for draw in trace.draws:
        if draw.noise.ndim == trace.start.ndim + 1:
            tables.append(draw.noise)
        else:
            noise.setdefault(draw.calls, []).append(draw.noise)
    return [
        [
            _expand(z, trace.start)
            for z in (*noise.get(k, []), *noise.get(k + 1, []), *(z for table in tables for z in _rows(table, k)))
        ]
        for k in range(len(trace.calls))
    ]


def _rows(table: Tensor, k: int) -> list[Tensor]:
    """Return the noise that step k may use of a table with noise for every step, in either direction."""
    return [table[i] for i in sorted({k - 1, k, k + 1, len(table) - 1 - k, len(table) - 2 - k}) if 0 <= i < len(table)]


def _expand(noise: Tensor, like: Tensor) -> Tensor:
    """Return the noise in the shape of an image; zeros if its shape does not fit."""
    try:
        return noise.double().expand_as(like)
    except RuntimeError:
        return torch.zeros_like(like)


def equal(one: Tensor, other: Tensor) -> bool:
    """Return whether two images are equal up to float32 rounding."""
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype and torch.equal(one, other):  # the usual case, and much faster
        return True
    return torch.allclose(one.double(), other.double(), rtol=0, atol=1e-6, equal_nan=True)


class _RecordingNoise(torch.Generator):
    """A noise generator called as generator(t, like). It is also accepted where torch expects a torch.Generator."""

    record_draw: Callable[[Tensor, int | None], Tensor]

    def __call__(self, step: int, like: Tensor) -> Tensor:
        return self.record_draw(like, step)


class _InterceptTorchNoise(TorchFunctionMode):
    """Replaces the noise that torch.randn and similar functions return."""

    _NORMAL = frozenset({torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_})

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func not in self._NORMAL:
            return result
        mean, std = 0.0, 1.0
        if func in (torch.normal, torch.Tensor.normal_):  # called as normal(mean, std, …) or tensor.normal_(mean, std)
            arguments = dict(zip(("mean", "std"), args[func is not torch.normal :], strict=False)) | kwargs
            mean, std = arguments.get("mean", mean), arguments.get("std", std)
        return result.copy_(mean + std * self.draw(result))


@contextmanager
def _restore_rng(seed: int | None) -> Iterator[Tensor]:
    """Seed torch's global random number generator, yield its state, and restore the earlier state at the end."""
    state = torch.get_rng_state()
    if seed is not None:
        torch.manual_seed(seed)
    try:
        yield torch.get_rng_state()
    finally:
        torch.set_rng_state(state)


def _read_t(t: object, batch: int) -> tuple[int, str]:
    """Return the timestep as an int, and what is wrong with its form."""
    if not isinstance(t, Tensor):
        return round(float(t)), f"type {type(t).__name__}"  # type: ignore[arg-type]
    time = round(t.flatten()[0].item())
    if t.dtype != torch.int64 or tuple(t.shape) != (batch,):
        return time, f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
    return time, "" if bool((t == time).all()) else "different t in one batch"


class _Output(NamedTuple):
    """A copy of what the sampler yielded or returned: a step, or an image with t and x0 None."""

    t: int | None
    x: Tensor
    x0: Tensor | None


def _items(result: object) -> Iterable[object]:
    if isinstance(result, tuple) and result and isinstance(result[0], Tensor):
        return [result[0]]  # (image, anything else)
    return result if isinstance(result, Iterable) and not isinstance(result, Tensor | tuple) else [result]


def _image(item: Any) -> Tensor:
    image: Tensor = item if isinstance(item, Tensor) else item[1]
    return image


def _copy(item: object) -> _Output:
    if isinstance(item, Tensor):
        return _Output(None, item.clone(), None)
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[1], Tensor) and isinstance(item[2], Tensor):
        return _Output(int(item[0]), item[1].clone(), item[2].clone())
    raise TypeError(f"a sampler must yield steps (t, x, x0) or return the final image, not {type(item).__name__}")


def _times_from_steps(called: Sequence[int], steps: Sequence[Step], schedule: Schedule) -> list[int]:
    landed = [step.t for step in steps]
    if landed == called:  # either the steps report the t they start at, or the network gets the t where they end
        return [*called, 0] if landed[-1] != 0 else [schedule.T, *landed]
    offsets = {c - s for c, s in zip(called[1:], landed, strict=False)}
    return [called[0] - (offsets.pop() if len(offsets) == 1 else 0), *landed]


def _times_from_calls(called: Sequence[int], steps: int, schedule: Schedule) -> list[int]:
    planned = step_times(schedule.T, steps)
    shifted = len({c - t for c, t in zip(called, planned, strict=False)}) == 1 or called == planned[1:]
    return planned if shifted and len(called) == steps else [*called, 0]


def _steps_from_calls(trace: Trace, final: Tensor) -> list[Step]:
    images = [*(group[-1].x for group in trace.calls_by_step[1:]), final]
    predictions = [group[-1].x0 for group in trace.calls_by_step]
    return [Step(t, x, x0) for t, x, x0 in zip(trace.times[1:], images, predictions, strict=True)]
