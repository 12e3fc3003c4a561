"""The result of a check: ``Report`` holds rows of (name, expected, got) and the mistake that explains the failures.

``Checklist`` collects the rows while a check runs. It also decides which mistake a failed row is attributed to.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import ParamSpec, TypeVar

from .mistakes import Mistake

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Check:
    """One row of a report.

    mistake: what probably went wrong, in plain words, "" if the check passed
    hint:    how to fix it, "" if no hint is known
    source:  the paper or issue that says what is right
    """

    name: str
    passed: bool
    expected: str
    got: str
    mistake: str = ""
    hint: str = ""
    source: str = ""


@dataclass(frozen=True)
class Report:
    """All checks of one object. ``str(report)`` is a readable table."""

    title: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def mistakes(self) -> list[str]:
        """The suspected mistakes, without duplicates."""
        return list(dict.fromkeys(check.mistake for check in self.checks if check.mistake))

    def raise_if_failed(self) -> None:
        """Raise AssertionError with the table as its message, unless every check passed. For tests and notebooks."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        passed = sum(check.passed for check in self.checks)
        rows = [("", "check", "expected", "got")]
        rows += [("✓" if check.passed else "✗", check.name, check.expected, check.got) for check in self.checks]
        widths = [max(_width(row[column]) for row in rows) for column in range(4)]
        lines = [f"{self.title}: {passed} of {len(self.checks)} checks passed"]
        lines += ["  ".join(map(_pad, row, widths)).rstrip() for row in rows]
        for mistake in self.mistakes:
            first = next(check for check in self.checks if check.mistake == mistake)
            lines += ["", f"Suspected mistake: {mistake}"]
            lines += [f"  Hint: {first.hint}"] if first.hint else []
            lines += [f"  Source: {first.source}"] if first.source else []
        return "\n".join(lines)


class Checklist:
    """Collects the checks of a report. ``source`` applies to every check that does not pass its own.

    ``causes`` lists the mistakes with direct evidence. One mistake makes many checks fail, and a separate guess for
    each would hide it. So a failed check that was not added with a ``Mistake`` is attributed to the first cause. If no
    cause is known, it is attributed to the text of the first failed check. Therefore add the checks that reveal causes
    first.
    """

    def __init__(self, title: str, source: str) -> None:
        self.title, self.source = title, source
        self.checks: list[Check] = []
        self.causes: list[Mistake] = []

    @property
    def failed(self) -> bool:
        """Whether any check has failed so far."""
        return not all(check.passed for check in self.checks)

    def add(
        self, name: str, passed: bool, expected: str, got: str, mistake: Mistake | str = "", source: str = ""
    ) -> None:
        """Add a check. mistake: the ``Mistake`` that a failure proves, or a description if the cause is unknown."""
        suspect = mistake if isinstance(mistake, Mistake) else Mistake(mistake or f"failed: {name}")
        if not passed and isinstance(mistake, Mistake):
            self.causes.append(mistake)
        shown = Mistake("") if passed else suspect
        self.checks.append(Check(name, passed, expected, got, shown.name, shown.hint, source or self.source))

    def require(self, name: str, passed: bool, expected: str, otherwise: str, mistake: Mistake | str = "") -> None:
        """Add a yes-or-no check. "got" shows ``expected`` if it passed and ``otherwise`` if it failed."""
        self.add(name, passed, expected, expected if passed else otherwise, mistake)

    def attempt(self, name: str, call: Callable[[], Result]) -> Result | None:
        """Return ``call()``. If it raises an exception or returns None, add a failed check and return None."""
        try:
            result = call()
        except Exception as error:
            self.add(name, False, "no exception", describe_error(error), raised(error))
            return None
        if result is None:
            self.add(name, False, "a result", "None", "the function returned None")
        return result

    def report(self) -> Report:
        """Return the report, in which every failed check is attributed to a mistake."""
        known = {cause.name for cause in self.causes}
        failed = [Mistake(check.mistake, check.hint) for check in self.checks if not check.passed]
        first = next(iter([*self.causes, *failed]), Mistake(""))
        return Report(self.title, tuple(
            check if check.passed or check.mistake in known
            else replace(check, mistake=first.name, hint=first.hint)
            for check in self.checks
        ))  # fmt: skip


def report_exceptions(check: Callable[Parameters, Report]) -> Callable[Parameters, Report]:
    """Decorate a check so that it reports an exception as a failure instead of raising it.

    Such an exception means that the checked function returned something on which the check cannot even compute.
    """

    @wraps(check)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Report:
        try:
            return check(*args, **kwargs)
        except Exception as error:
            title = name_of(args[0] if args else None, check.__name__)
            checklist = Checklist(title, f"docstring of {check.__name__}")
            mistake = f"the arguments or results do not match the docstring of {check.__name__}"
            checklist.add("arguments and results", False, "as documented", describe_error(error), mistake)
            return checklist.report()

    return wrapper


def describe_error(error: Exception) -> str:
    """Return the type and message of an exception on one line, shortened to 160 characters."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def raised(error: Exception) -> str:
    """Return the text of a mistake for an exception whose cause is unknown."""
    return f"an exception was raised: {describe_error(error)}"


def format_number(value: float) -> str:
    """Format a number with ten significant digits, as many as the reference values have."""
    return f"{value:.10g}"


def name_of(thing: object, default: str) -> str:
    """Return the name of a function or class, for the title of its report."""
    return str(getattr(thing, "__name__", default))


def _width(text: str) -> int:
    return sum(not unicodedata.combining(letter) for letter in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
