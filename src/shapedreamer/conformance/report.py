"""The result of a check: ``Report`` holds rows of (name, expected, got) and the mistake that explains the failures.

A row either passed, failed, is a note (worth knowing, but no failure), or could not be checked. A required row that
could not be checked keeps the report from passing: what was not looked at is not known to be right.

``Checklist`` collects the rows while a check runs. It also decides which mistake a failed row is attributed to.
"""

import inspect
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import ParamSpec, TypeVar

from .mistakes import NOT_CHECKED, Mistake

Result = TypeVar("Result")
Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Check:
    """One row of a report.

    mistake:  what probably went wrong, in plain words, "" if the check passed
    hint:     how to fix it, "" if no hint is known
    source:   the paper or issue that says what is right
    required: whether the report fails if this row did not pass; a row that is not required is a note
    checked:  False if the check could not be made; then ``got`` says why
    """

    name: str
    passed: bool
    expected: str
    got: str
    mistake: str = ""
    hint: str = ""
    source: str = ""
    required: bool = True
    checked: bool = True

    @property
    def symbol(self) -> str:
        """✓ passed, ✗ failed, ! a note, ? not checked."""
        if self.passed:
            return "✓"
        return "?" if not self.checked else "✗" if self.required else "!"


@dataclass(frozen=True)
class Report:
    """All checks of one object. ``str(report)`` is a readable table."""

    title: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every required check was made and passed. A report without any check has not passed."""
        return bool(self.checks) and all(check.passed for check in self.checks if check.required)

    @property
    def failed(self) -> bool:
        """Whether a required check was made and failed. A report that neither passed nor failed is incomplete."""
        return any(check.checked and check.required and not check.passed for check in self.checks)

    @property
    def mistakes(self) -> list[str]:
        """The suspected mistakes, without duplicates."""
        return list(dict.fromkeys(check.mistake for check in self.checks if check.mistake and check.required))

    @property
    def notes(self) -> list[str]:
        """What is worth knowing but does not fail the report, without duplicates."""
        return list(dict.fromkeys(check.mistake for check in self.checks if check.mistake and not check.required))

    def raise_if_failed(self) -> None:
        """Raise AssertionError with the table as its message, unless the report passed. For tests and notebooks."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        count = {symbol: sum(check.symbol == symbol for check in self.checks) for symbol in "✓✗!?"}
        title = f"{self.title}: {count['✓']} of {count['✓'] + count['✗']} checks passed"
        title += f", {count['?']} not checked" * bool(count["?"]) + f", {count['!']} to note" * bool(count["!"])
        rows = [("", "check", "expected", "got")]
        rows += [(check.symbol, check.name, check.expected, check.got) for check in self.checks]
        widths = [max(_width(row[column]) for row in rows) for column in range(4)]
        lines = [title, *("  ".join(map(_pad, row, widths)).rstrip() for row in rows)]
        for label, names in (("Suspected mistake", self.mistakes), ("Note", self.notes)):
            for name in names:
                first = next(check for check in self.checks if check.mistake == name)
                lines += ["", f"{label}: {name}"]
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
        """Whether any required check has failed so far."""
        return not all(check.passed for check in self.checks if check.required and check.checked)

    def add(
        self, name: str, passed: bool, expected: str, got: str, mistake: Mistake | str = "", source: str = ""
    ) -> None:
        """Add a check. mistake: the ``Mistake`` that a failure proves, or a description if the cause is unknown."""
        suspect = mistake if isinstance(mistake, Mistake) else Mistake(mistake or f"failed: {name}")
        if not passed and isinstance(mistake, Mistake):
            self.causes.append(mistake)
        shown = Mistake("") if passed else suspect
        self.checks.append(Check(name, passed, expected, got, shown.name, shown.hint, source or self.source))

    def note(
        self, name: str, passed: bool, expected: str, got: str, mistake: Mistake | str = "", source: str = ""
    ) -> None:
        """Add a check that does not fail the report: the row is a note if it did not pass."""
        note = Mistake("") if passed else mistake if isinstance(mistake, Mistake) else Mistake(mistake)
        self.checks.append(
            Check(name, passed, expected, got, note.name, note.hint, source or self.source, required=False)
        )

    def skip(self, name: str, reason: str, *, required: bool = True) -> None:
        """Add a row for a check that could not be made. If it is required, the report cannot pass."""
        mistake = NOT_CHECKED.name if required else ""
        self.checks.append(
            Check(name, False, "", f"not checked: {reason}", mistake, "", self.source, required, checked=False)
        )

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
        failed = [check for check in self.checks if check.required and check.checked and not check.passed]
        first = next(iter([*self.causes, *(Mistake(check.mistake, check.hint) for check in failed)]), Mistake(""))

        def attribute(check: Check) -> Check:
            if check.passed or not check.required or check.mistake in known or (not check.checked and not failed):
                return check
            return replace(check, mistake=first.name, hint=first.hint)

        return Report(self.title, tuple(map(attribute, self.checks)))


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


def wrong_order(function: object, names: Sequence[str]) -> str:
    """Return the parameters of a function if it has all of these names by position but in another order, else ""."""
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    positional = [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY and each.name in names]
    return ", ".join(positional) if sorted(positional) == sorted(names) and positional != list(names) else ""


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
