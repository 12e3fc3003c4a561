"""Runs a sampler that may be anyone's and writes down all that can be seen from outside: calls, noise, steps.

The denoiser is ours, so every image the sampler passes through and every time it asks about is seen, even if it
returns the last image alone. The noise is ours too, whether it comes from the generator that the contract passes in
or from torch's own: so the coefficients of each step can be solved for, instead of estimated.
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
from .updates import Update

Answer = Callable[[Tensor, int, int], Tensor]
"""(x_t, t, number of the call) -> x̂₀."""
Draw = Callable[[int, Tensor], Tensor]
"""(number of the draw, like) -> noise."""

RUNAWAY = 4
"""A sampler that calls its denoiser this many times more often than it has steps is stopped."""


class Call(NamedTuple):
    """One call of the denoiser: the time passed, what is odd about its form ("" if nothing), x_t, and x̂₀ answered."""

    t: int
    oddity: str
    x: Tensor
    answer: Tensor


class Drawn(NamedTuple):
    """Noise the sampler took: after how many calls of the denoiser, for which step (if it said so), and the noise."""

    calls: int
    step: int | None
    noise: Tensor


@dataclass
class Trace:
    """What one run did.

    times: those it went through, from its start to its end, one more than steps;
    steps: as yielded, or, if only images came back, as the calls show them.
    """

    start: Tensor
    calls: list[Call] = field(default_factory=list)
    draws: list[Drawn] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    yielded: bool = False
    changed: bool = False  # an image already yielded, or x_T, was written to later
    random: bool = False  # torch's global random numbers moved on
    from_torch: bool = False  # noise was asked of torch, and not of the generator

    @property
    def final(self) -> Tensor:
        """The image at the end."""
        return self.steps[-1].x

    @property
    def groups(self) -> list[list[Call]]:
        """The calls, those in a row at one time together: the last of group k sees the image that step k begins at."""
        return [list(group) for _, group in itertools.groupby(self.calls, key=lambda call: call.t)]

    @property
    def states(self) -> list[Tensor]:
        """The image at each call of the denoiser, and at the end."""
        return [call.x for call in self.calls] + [self.final]


def parameters(function: object) -> set[str]:
    """The names of the parameters of a callable; empty if Python cannot say."""
    try:
        return set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return set()


def record(
    sampler: Callable[..., Any],
    schedule: Schedule,
    x_T: Tensor,
    steps: int,
    answer: Answer,
    draw: Draw,
    options: dict[str, object],
    watch_torch: bool = True,
) -> Trace:
    """Run sampler(denoise, schedule, x_T, steps, **options) to its end.

    watch_torch: also answer torch.randn and its like, which costs some time at every call of torch.
    Raises what the sampler raises, and TypeError for a result that is neither an image, nor images, nor steps.
    """
    trace = Trace(x_T)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        if len(trace.calls) >= RUNAWAY * steps + RUNAWAY:
            raise RuntimeError(f"the sampler still calls the network after {len(trace.calls)} calls for {steps} steps")
        time, oddity = _read_time(t, len(x))
        x0 = answer(x, min(max(time, 1), schedule.T), len(trace.calls))
        trace.calls.append(Call(time, oddity, x.clone(), x0))
        return x0.clone()

    def drawn(like: Tensor, step: int | None = None) -> Tensor:
        noise = draw(len(trace.draws), like)
        trace.draws.append(Drawn(len(trace.calls), step, noise))
        return noise

    noise = _Noise()
    noise.draw = drawn
    passed = dict(options)
    if "generator" in parameters(sampler):
        passed["generator"] = noise
    given = x_T.clone()

    def drawn_from_torch(like: Tensor) -> Tensor:
        trace.from_torch = True
        return drawn(like)

    with _random_restored() as before, _TorchNoise(drawn_from_torch) if watch_torch else nullcontext():
        kept = [(item, _read(item)) for item in _items(sampler(denoise, schedule, given, steps, **passed))]
        trace.random = not torch.equal(before, torch.get_rng_state())
    if not kept:
        raise ValueError("the sampler yields nothing")
    if not trace.calls:
        raise ValueError("the sampler never calls its denoiser")
    trace.changed = not (equal(given, x_T) and all(equal(read.x, _image(item)) for item, read in kept))
    yielded = [Step(t, x, x0) for _, (t, x, x0) in kept if t is not None and x0 is not None]
    trace.yielded = len(yielded) == len(kept)
    if trace.yielded:
        trace.times, trace.steps = _times_of_steps(trace.calls, yielded, schedule), yielded
    else:
        trace.times = _times_of_calls(trace.calls, steps, schedule)
        trace.steps = _steps_of_calls(trace, kept[-1][1].x)
    return trace


def updates_seen(trace: Trace) -> tuple[list[Update], float]:
    """The coefficients of each step, of a sampler with one call a step, and the largest error of writing it this way.

    A step may use noise drawn before its call or after it. The error is far above rounding if a step looks at more
    than (x_t, x̂₀, noise), as multistep methods do.
    """
    columns, results = [], []
    states = trace.states
    noise: dict[int, list[Tensor]] = {}
    for each in trace.draws:
        noise.setdefault(each.calls, []).append(each.noise)
    width = 2 * max((len(each) for each in noise.values()), default=0)
    for k, call in enumerate(trace.calls):
        own = [*noise.get(k, []), *noise.get(k + 1, [])]
        shaped = [z.double().expand_as(call.x) for z in own]
        empty = [torch.zeros_like(call.answer)] * (width - len(own))
        columns.append(
            torch.stack([column.flatten() for column in (call.x.double(), call.answer, *shaped, *empty)], dim=1)
        )
        results.append(states[k + 1].double().flatten())
    A, y = torch.stack(columns), torch.stack(results)[..., None]
    if not (A.isfinite().all() and y.isfinite().all()):
        return [], math.inf
    solution = torch.linalg.lstsq(A, y).solution
    error = (A @ solution - y).abs().max().item()
    return [Update(row[0], row[1], sum(c**2 for c in row[2:]) ** 0.5) for row in solution[..., 0].tolist()], error


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two images are the same up to rounding, which may be that of float32."""
    if one.shape != other.shape:
        return False
    if one.dtype == other.dtype and torch.equal(one, other):  # mostly so, and much faster
        return True
    return torch.allclose(one.double(), other.double(), rtol=0, atol=1e-6, equal_nan=True)


class _Noise(torch.Generator):
    """Noise as the contract has it, generator(step, like), that also passes where torch wants a generator."""

    draw: Callable[[Tensor, int | None], Tensor]

    def __call__(self, step: int, like: Tensor) -> Tensor:
        return self.draw(like, step)


class _TorchNoise(TorchFunctionMode):
    """Puts our noise in the place of what torch.randn and its like draw."""

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
        if func in (torch.normal, torch.Tensor.normal_):  # (mean, std, …), the latter behind the tensor itself
            given = dict(zip(("mean", "std"), args[func is not torch.normal :], strict=False)) | kwargs
            mean, std = given.get("mean", mean), given.get("std", std)
        return result.copy_(mean + std * self.draw(result))


@contextmanager
def _random_restored() -> Iterator[Tensor]:
    """Gives the state of torch's global random numbers, and goes back to it at the end."""
    state = torch.get_rng_state()
    try:
        yield state
    finally:
        torch.set_rng_state(state)


def _read_time(t: object, batch: int) -> tuple[int, str]:
    if not isinstance(t, Tensor):
        return round(float(t)), f"a {type(t).__name__}"  # type: ignore[arg-type]
    time = round(t.flatten()[0].item())
    if t.dtype != torch.int64 or tuple(t.shape) != (batch,):
        return time, f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}"
    return time, "" if bool((t == time).all()) else "different times in one batch"


class _Read(NamedTuple):
    """A copy of what a sampler gave: a step, or an image alone."""

    t: int | None
    x: Tensor
    x0: Tensor | None


def _items(result: object) -> Iterable[object]:
    if isinstance(result, tuple) and result and isinstance(result[0], Tensor):
        return [result[0]]  # (image, whatever else)
    return result if isinstance(result, Iterable) and not isinstance(result, Tensor | tuple) else [result]


def _image(item: Any) -> Tensor:
    image: Tensor = item if isinstance(item, Tensor) else item[1]
    return image


def _read(item: object) -> _Read:
    if isinstance(item, Tensor):
        return _Read(None, item.clone(), None)
    if isinstance(item, tuple) and len(item) == 3 and isinstance(item[1], Tensor) and isinstance(item[2], Tensor):
        return _Read(int(item[0]), item[1].clone(), item[2].clone())
    raise TypeError(f"a sampler yields steps (t, x, x0) or returns the final image, not a {type(item).__name__}")


def _called(calls: Sequence[Call]) -> list[int]:
    """The times the network was asked about; a time asked about twice in a row counts once."""
    return [t for t, _ in itertools.groupby(call.t for call in calls)]


def _times_of_steps(calls: Sequence[Call], steps: Sequence[Step], schedule: Schedule) -> list[int]:
    called, landed = _called(calls), [step.t for step in steps]
    if landed == called:  # either steps tell the time they began at, or the network is told where they end
        return [*called, 0] if landed[-1] != 0 else [schedule.T, *landed]
    offsets = {c - s for c, s in zip(called[1:], landed, strict=False)}
    return [called[0] - (offsets.pop() if len(offsets) == 1 else 0), *landed]


def _times_of_calls(calls: Sequence[Call], steps: int, schedule: Schedule) -> list[int]:
    called, planned = _called(calls), step_times(schedule.T, steps)
    shifted = len({c - t for c, t in zip(called, planned, strict=False)}) == 1 or called == planned[1:]
    return planned if shifted and len(called) == steps else [*called, 0]


def _steps_of_calls(trace: Trace, final: Tensor) -> list[Step]:
    images = [*(group[-1].x for group in trace.groups[1:]), final]
    answers = [group[-1].answer for group in trace.groups]
    return [Step(t, x, x0) for t, x, x0 in zip(trace.times[1:], images, answers, strict=True)]
