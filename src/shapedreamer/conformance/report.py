"""What a check found: rows of (name, expected, got), and the mistake that explains the rows that failed."""

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
    """One row. mistake: in plain words what probably went wrong, "" if it passed; source: where it is written."""

    name: str
    passed: bool
    expected: str
    got: str
    mistake: str = ""
    hint: str = ""
    source: str = ""


@dataclass(frozen=True)
class Report:
    """All rows about one thing. str(report) is a table for people."""

    title: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def mistakes(self) -> list[str]:
        """The mistakes suspected, each once."""
        return list(dict.fromkeys(check.mistake for check in self.checks if check.mistake))

    def raise_if_failed(self) -> None:
        """Raise AssertionError, whose text is the table, unless every check passed: for use in tests and notebooks."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        good = sum(check.passed for check in self.checks)
        rows = [("", "check", "expected", "got")]
        rows += [("✓" if check.passed else "✗", check.name, check.expected, check.got) for check in self.checks]
        widths = [max(_width(row[column]) for row in rows) for column in range(4)]
        lines = [f"{self.title}: {good} of {len(self.checks)} checks passed"]
        lines += ["  ".join(map(_pad, row, widths)).rstrip() for row in rows]
        for mistake in self.mistakes:
            first = next(check for check in self.checks if check.mistake == mistake)
            lines += ["", f"Suspected mistake: {mistake}"]
            lines += [f"  Hint: {first.hint}"] if first.hint else []
            lines += [f"  Source: {first.source}"] if first.source else []
        return "\n".join(lines)


class Checklist:
    """Collects the rows of a report; `source` is that of every row which names none of its own.

    causes: the mistakes that there is direct evidence for. One cause shows in many rows, and a guess for each row would
    bury it: so a row that failed and has no Mistake of its own is put down to the first cause, or, where there is none,
    to what the first failed row says. Hence rows go from cause to consequence.
    """

    def __init__(self, title: str, source: str) -> None:
        self.title, self.source = title, source
        self.checks: list[Check] = []
        self.causes: list[Mistake] = []

    @property
    def failed(self) -> bool:
        """Whether a row has failed."""
        return not all(check.passed for check in self.checks)

    def add(
        self, name: str, passed: bool, expected: str, got: str, mistake: Mistake | str = "", source: str = ""
    ) -> None:
        """Add a row. mistake: a Mistake that it proves by failing, or words for when no cause is known."""
        suspect = mistake if isinstance(mistake, Mistake) else Mistake(mistake or f"failed: {name}")
        if not passed and isinstance(mistake, Mistake):
            self.causes.append(mistake)
        shown = Mistake("") if passed else suspect
        self.checks.append(Check(name, passed, expected, got, shown.name, shown.hint, source or self.source))

    def holds(self, name: str, passed: bool, expected: str, otherwise: str, mistake: Mistake | str = "") -> None:
        """Add a row that shows `expected` again if it passed, and `otherwise` if not."""
        self.add(name, passed, expected, expected if passed else otherwise, mistake)

    def attempt(self, name: str, call: Callable[[], Result]) -> Result | None:
        """What call() returns; if it raises or returns None, a failed row that says so, and None."""
        try:
            result = call()
        except Exception as error:
            self.add(name, False, "runs", message(error), f"it raises {message(error)}")
            return None
        if result is None:
            self.add(name, False, "a result", "None", "it returns nothing")
        return result

    def report(self) -> Report:
        """The report, with every failed row put down to a cause."""
        known = {cause.name for cause in self.causes}
        failed = [Mistake(check.mistake, check.hint) for check in self.checks if not check.passed]
        first = next(iter([*self.causes, *failed]), Mistake(""))
        return Report(self.title, tuple(
            check if check.passed or check.mistake in known
            else replace(check, mistake=first.name, hint=first.hint)
            for check in self.checks
        ))  # fmt: skip


def unfailing(check: Callable[Parameters, Report]) -> Callable[Parameters, Report]:
    """Makes a check report what a learner's function gives, however odd, where its own arithmetic stumbles over it."""

    @wraps(check)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Report:
        try:
            return check(*args, **kwargs)
        except Exception as error:
            rows = Checklist(title_of(args[0] if args else None, check.__name__), "the text of " + check.__name__)
            mistake = f"what it takes or gives is not what {check.__name__} describes"
            rows.add("what it takes and gives", False, "as described", message(error), mistake)
            return rows.report()

    return guarded


def message(error: Exception) -> str:
    """An exception in one line: its type and what it says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def number(value: float) -> str:
    """A number with the digits that the reference tables have."""
    return f"{value:.10g}"


def title_of(thing: object, default: str) -> str:
    """What to call a learner's function in the title of its report."""
    return str(getattr(thing, "__name__", default))


def _width(text: str) -> int:
    return sum(not unicodedata.combining(letter) for letter in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
