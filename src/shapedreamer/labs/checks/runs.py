"""Runs of a learner's sampler with a known network, compared with the exact result step by step.

A check runs the sampler with `Network`, a denoiser without weights, and compares every image that it yields. If the
result is wrong and no typical mistake explains it, `name_mistake` asks the conformance suite, which takes seconds.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ...conformance import Report
from ...diffusion.schedule import Schedule
from ..verdict import AnswerError, call, close, tensor

Run = list[tuple[int, Tensor]]  # the (s, x_s) after each step
UNFINISHED = " (If it mentions NoneType or ellipsis, an earlier exercise is not filled in.)"


class Network:
    """A function (x_t, t) -> x̂₀ in (−1, 1) that depends on both, with random coefficients.

    It accepts only timesteps in the form that a real network needs, and stops a sampler that calls it without end.
    """

    def __init__(self, schedule: Schedule, shape: tuple[int, ...], limit: int = 1000) -> None:
        self.schedule, self.limit = schedule, limit
        self.gain, self.shift = torch.rand(2).tolist()
        self.base = torch.randn(1, *shape[1:]) / 2
        self.calls = 0
        self.times: list[int] = []  # at which it was called

    def __call__(self, x_t: Any, t: Any, *others: Any) -> Tensor:
        self.calls += 1
        if self.calls > self.limit:
            raise AnswerError("your sampler calls the network again and again; does its loop end?")
        if not isinstance(x_t, Tensor):
            raise AnswerError(f"call the network with the image first: (x_t, t), not with {type(x_t).__name__}")
        form = "the network needs a timestep for each image, an int64 tensor (B,): torch.full((len(x),), t)"
        if not isinstance(t, Tensor) or t.is_floating_point():
            raise AnswerError(f"{form}; you passed {'floats' if isinstance(t, Tensor) else type(t).__name__}")
        if t.shape != (len(x_t),):
            raise AnswerError(f"{form}; you passed shape {tuple(t.shape)}")
        T = self.schedule.T
        if not (1 <= t.min() and t.max() <= T):
            raise AnswerError(f"the network was called at t = {int(t[0])}, but timesteps run from 1 to T = {T}")
        self.times.append(int(t[0]))
        return self.predict(x_t, int(t[0]))

    def predict(self, x_t: Tensor, t: int) -> Tensor:
        phase = 3 * t / self.schedule.T + self.shift
        return torch.tanh((0.5 + self.gain) * x_t + self.base + torch.sin(torch.tensor(phase)))


class Draws:
    """A generator of noise, generator(t, like=x), that remembers the timesteps at which it was called."""

    def __init__(self, seed: int) -> None:
        self.seed, self.times = seed, list[int]()

    def __call__(self, t: Any, like: Tensor) -> Tensor:
        self.times.append(int(t))
        return noise(self.seed, int(t), like)


def noise(seed: int, t: int, like: Tensor) -> Tensor:
    """Standard normal noise that depends on seed and t."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(1000 * seed + t + 1), dtype=like.dtype)


def steps_of(result: Any, x_T: Tensor) -> Run:
    """The (s, x_s) that a sampler yielded. AnswerError if it did not yield steps."""
    if isinstance(result, Tensor):
        raise AnswerError("your sampler returns an image; it should yield a step in every turn of the loop")
    if not isinstance(result, (list, tuple)) or not result:
        raise AnswerError(f"your sampler should yield steps; it gave {_shown(result)}")
    run: Run = []
    for step in result:
        if not isinstance(step, tuple) or len(step) != 3:
            raise AnswerError(f"yield sd.samplers.Step(s, x, x0); you yielded {_shown(step)}")
        if not isinstance(step[0], int):
            raise AnswerError(f"the first field of a step is the timestep s, an int; yours is {_shown(step[0])}")
        run.append((step[0], tensor(step[1], x_T.shape, "a step of your sampler")))
    return run


def same_run(yours: Run, right: Run, mistakes: Mapping[str, Run]) -> bool:
    """Whether two runs are equal. AnswerError if ``yours`` is one of ``mistakes``."""
    if _equal(yours, right):
        return True
    for message, typical in mistakes.items():
        if _equal(yours, typical) and not _equal(typical, right):
            raise AnswerError(message, yours[-1][1], right[-1][1].double())
    return False


def _equal(a: Run, b: Run) -> bool:
    return len(a) == len(b) and all(
        s == u and close(x.double(), y.double(), 1e-3) for (s, x), (u, y) in zip(a, b, strict=True)
    )


def name_mistake(check: Callable[..., Report], function: Callable[..., Any]) -> AnswerError:
    """The error for a wrong function: the first mistake that the conformance suite finds in it."""
    report = check(function)
    for row in report.checks:
        if row.mistake and row.required and row.checked:
            return AnswerError(f"{row.mistake}. {row.hint}".strip())
    return AnswerError("the result is wrong, although the conformance suite finds no mistake in it")


def run(answer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """`call`, with a note for exceptions that an unfinished earlier exercise causes."""
    try:
        return call(answer, *arguments, **named)
    except AnswerError as error:
        if "NoneType" in error.message or "ellipsis" in error.message:
            raise AnswerError(error.message + UNFINISHED) from None
        raise


def _shown(value: object) -> str:
    return f"{value!r:.40}" if isinstance(value, (int, float, str)) else f"a {type(value).__name__}"
