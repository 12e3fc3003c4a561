"""What a check says about a learner's answer, and how it runs the answer safely.

A check is a function with the decorator ``exercise``. It gets the learner's answer, tests it on random inputs, and
raises ``AnswerError`` with one sentence that names the mistake, or returns what is worth knowing after passing:

    @exercise
    def mean(answer: Any) -> str:
        x = rand(2, 3)
        same(call(answer, x), x.mean(), "you summed x; a mean divides the sum by the number of entries")
        return "numpy and torch have it as .mean()."

The decorated check never raises for a learner's mistake. It shows a Verdict, which is true if the answer passed.
"""

import contextlib
import functools
import inspect
import os
import signal
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..common.device import torch_defaults
from ..common.errors import UserError
from ..common.notebook import display, display_after_cell, kernel_shell, print_wrapped
from ..imaging import render
from ..imaging.show import show_picture
from . import assistance, progress
from .formulas import readable

TIME_LIMIT = 60  # seconds that a check may take
LIBRARIES = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), "<frozen")
MAX_IMAGES = 4  # images of a batch that a picture shows


class OutOfTimeError(BaseException):
    """The answer takes too long. Not an Exception, because an answer or a check that catches any would go on."""


class AnswerError(Exception):
    """The answer is wrong. message: one or two sentences; yours, right: image batches (B, C, H, W) to draw, if any."""

    def __init__(self, message: str, yours: Tensor | None = None, right: Tensor | None = None) -> None:
        super().__init__(message)
        self.message, self.yours, self.right = message, yours, right


@dataclass(frozen=True)
class Verdict:
    """The result of a check. It is true if the answer passed.

    exercise: such as "lab1.ddpm_step"
    message:  what is wrong and why, or what is worth knowing after passing
    picture:  the answer, the right answer and their difference; None if there is nothing to draw
    """

    exercise: str
    passed: bool
    message: str
    picture: Image.Image | None = None

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return f"{'✓' if self.passed else '✗'} {self.exercise}: {self.message}"

    def _ipython_display_(self) -> None:
        """Nothing: a notebook whose cell ends with a check has displayed the verdict already."""


def exercise(test: Callable[..., str | None]) -> Callable[..., Verdict]:
    """Make a check of ``test(answer, ...)``: its name is the exercise's, its module the lab's."""
    name = f"{test.__module__.rpartition('.')[2]}.{test.__name__}"

    @functools.wraps(test)
    def check(*answers: Any) -> Verdict:
        verdict = judge(name, test, answers)
        progress.record(name, verdict.passed)
        show(verdict)
        return verdict

    def hint() -> None:
        text = assistance.next_hint(name)
        if kernel_shell() is None:
            print(readable(text))
        else:
            display({"text/markdown": text, "text/plain": text})

    check.__annotations__ = {"return": Verdict}
    check.hint = hint  # type: ignore[attr-defined]
    check.test = test  # type: ignore[attr-defined]  # for tests: without showing and recording
    return check


@torch_defaults()
def judge(name: str, test: Callable[..., str | None], answers: tuple[Any, ...], seed: int | None = None) -> Verdict:
    """Run a check. Every fault of the answer, also an exception or an endless loop, is a verdict that did not pass.

    seed: of the random inputs; None for fresh ones. torch's global random state is the same afterwards.
    """
    if any(answer is None or answer is Ellipsis for answer in answers):
        return Verdict(name, False, "this exercise is not filled in yet")
    try:
        with time_limit(TIME_LIMIT), torch.random.fork_rng(devices=[]):
            torch.seed() if seed is None else torch.manual_seed(seed)
            return Verdict(name, True, test(*answers) or "right")
    except AnswerError as wrong:
        return Verdict(name, False, wrong.message, _picture(wrong))
    except NotImplementedError:
        return Verdict(name, False, "this exercise is not filled in yet")
    except OutOfTimeError:
        return Verdict(name, False, f"it did not finish in {TIME_LIMIT} seconds; does a loop never end?")
    except SystemExit:
        return Verdict(name, False, "your function calls exit(); remove that")
    except Exception as error:  # an answer of an unexpected kind
        kind = type(error).__name__
        return Verdict(name, False, f"the check cannot use your answer; it raised {kind}: {_first_line(error)}")


def show(verdict: Verdict) -> None:
    """Print a verdict, with its picture and, if the answer is wrong, how to get a hint.

    After passing, a notebook displays the explanation and the solution below the pictures of the cell, which the
    explanation describes; the runner prints them itself.
    """
    SHOWN.append(verdict)
    in_notebook = kernel_shell() is not None
    print_wrapped(str(verdict))
    if verdict.picture is not None:
        show_picture(verdict.picture, "yours, the right one, and the difference")
    if not verdict:
        print(f"  A hint? {HINT[MODE] if not in_notebook else f'Run check.{verdict.exercise}.hint()'}")
    elif in_notebook and MODE == "learner":
        with contextlib.suppress(UserError):  # a check that belongs to no lab
            text, code = assistance.explanation(verdict.exercise), assistance.solution(verdict.exercise)
            display_after_cell(
                {"text/markdown": f"{text}\n\n**A solution**\n\n```python\n{code}\n```", "text/plain": text}
            )


MODE = os.environ.get("SHAPEDREAMER_LABS", "learner")  # "runner" inside `shapedreamer labs`, "build" in `make labs`
HINT = {"runner": "Type: hint", "learner": "Type: shapedreamer labs hint", "build": ""}
SHOWN: list[Verdict] = []  # for the runner


# Running a learner's function


def call(answer: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Call the learner's function. An exception in it, or no return value, becomes AnswerError with one clear sentence.

    Tensors are passed as copies, so that an answer may work in place.
    """
    if not callable(answer):
        raise AnswerError(f"pass the function itself, not {_kind(answer)}; leave out the parentheses")
    arguments = tuple(value.clone() if isinstance(value, Tensor) else value for value in arguments)
    try:
        result = answer(*arguments, **named)
        if inspect.isgenerator(result):
            result = list(result)
    except (AnswerError, NotImplementedError):
        raise
    except RecursionError:
        raise AnswerError("your function calls itself without end") from None
    except Exception as error:  # the learner's code may raise anything
        line = _line_of(error)
        raise AnswerError(f"your function raised {type(error).__name__}{line}: {_first_line(error)}") from None
    if result is None:
        raise AnswerError("your function returns None; is it filled in, and does it end with return?")
    if result is Ellipsis or result is NotImplemented:
        raise NotImplementedError
    return result


def tensor(result: Any, shape: tuple[int, ...] | torch.Size, name: str = "your function") -> Tensor:
    """The result as a float64 tensor. AnswerError unless it is a tensor of this shape with finite values."""
    if isinstance(result, (int, float)):
        result = torch.tensor(float(result), dtype=torch.float64)
    if not isinstance(result, Tensor):
        raise AnswerError(f"{name} returned {_kind(result)}, but a tensor of shape {tuple(shape)} is needed")
    if tuple(result.shape) != tuple(shape):
        raise AnswerError(f"{name} returned shape {tuple(result.shape)}, but {tuple(shape)} is needed")
    if not torch.isfinite(result).all():
        raise AnswerError(f"{name} returned NaN or ∞; is there a division by 0, or a root of a negative number?")
    return result.detach().double()


def same(yours: Any, right: Tensor, message: str, mistakes: dict[str, Any] | None = None, tol: float = 1e-4) -> None:
    """AnswerError unless ``yours`` has the shape and the values of ``right``, up to ``tol`` times its largest value.

    message:  what to say about any other wrong answer
    mistakes: what to say, and the result of a typical mistake; the first that equals ``yours`` is said instead
    """
    result, right = tensor(yours, right.shape), right.double()
    if close(result, right, tol):
        return
    for name, typical in (mistakes or {}).items():
        typical = torch.as_tensor(typical).double().expand_as(right)
        if close(result, typical, tol) and not close(typical, right, tol):
            raise AnswerError(name, result, right)
    raise AnswerError(message, result, right)


def close(a: Tensor, b: Tensor, tol: float = 1e-4) -> bool:
    """Whether two tensors are equal up to ``tol`` times the largest value of ``b`` (or times 1, if that is larger)."""
    return bool((a - b).abs().max() <= tol * max(1.0, b.abs().max().item()))


@contextlib.contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """OutOfTimeError in the `with` block after so many seconds. Without effect on Windows and in other threads."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGALRM"):
        yield  # the runner has a time limit of its own
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _picture(wrong: AnswerError) -> Image.Image | None:
    """Yours, the right one and the difference, side by side, for the first images of a batch."""
    if wrong.yours is None or wrong.right is None or wrong.right.ndim != 4 or wrong.right.shape[1] not in (1, 3):
        return None
    yours, right = wrong.yours[:MAX_IMAGES], wrong.right[:MAX_IMAGES]
    rows = torch.stack([yours, right, yours - right], dim=1).flatten(0, 1).float().clamp(-1, 1)
    return render.labelled(render.grid(rows, columns=3, width=384), ["yours", "right", "difference"])


def _kind(value: object) -> str:
    kind = type(value).__name__
    return f"a{'n' if kind[0] in 'aeiou' else ''} {kind}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no message")


def _line_of(error: BaseException) -> str:
    """Where in the learner's code an exception was raised, such as " in line 42"; "" if it is not in it."""
    number = learners_line(error)
    return f" in line {number}" if number else ""


def learners_line(error: BaseException) -> int | None:
    """The last line of the learner's code in a traceback: code that is in no package and not in the library."""
    found, trace = None, error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "site-packages" not in file and not file.startswith(LIBRARIES):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
