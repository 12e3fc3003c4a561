"""Turn the values that people pass into plain Python values, or say what is wrong with them.

The Python API, recipes, the command line and the live page all check their values here. An integer may be a Python
int, a numpy integer or an integer tensor with one element; a float may be any of these or a real number. The result is
always a plain int, float or Path. A bool, a string or NaN is not a number.

Every function takes the argument's name first, and raises UserError with that name, the value and what is valid.
"""

import math
import operator
import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import UserError

SEED_LIMIT = 2**64 - 1
_POWERS: dict[float, str] = {2**64 - 1: "2⁶⁴−1", 2**32 - 1: "2³²−1"}


def as_int(name: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """The value as an int in low…high, both included."""
    if _is_bool(value) or getattr(value, "ndim", None):
        raise UserError(f"{name} must be a whole number, not {shown(value)}")
    try:
        number = operator.index(value)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be a whole number, not {shown(value)}") from None
    if (low is not None and number < low) or (high is not None and number > high):
        raise UserError(f"{name} must be {_range(number, low, high)}, not {shown(number)}")
    return number


def as_float(
    name: str,
    value: Any,
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    finite: bool = True,
) -> float:
    """The value as a float in low…high, both included, or strictly above `above`; finite: and neither NaN nor ∞."""
    if _is_bool(value) or isinstance(value, (str, bytes)) or getattr(value, "ndim", None):
        raise UserError(f"{name} must be a number, not {shown(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise UserError(f"{name} must be a number, not {shown(value)}") from None
    too_low = (low is not None and not number >= low) or (above is not None and not number > above)
    if too_low or (high is not None and not number <= high):
        raise UserError(f"{name} must be {_range(number, low, high, above)}, not {number}")
    if finite and not math.isfinite(number):
        raise UserError(f"{name} must be finite, not {number}")
    return number


def as_bool(name: str, value: Any) -> bool:
    """The value as a bool; only True and False, of Python, numpy or torch, are bools."""
    if not _is_bool(value):
        raise UserError(f"{name} must be True or False, not {shown(value)}")
    return bool(value)


def as_seed(value: Any, name: str = "seed") -> int:
    """The value as a seed, 0…2⁶⁴−1."""
    return as_int(name, value, 0, SEED_LIMIT)


def as_ints(name: str, values: Any, low: int, high: int, max_length: int) -> tuple[int, ...]:
    """A sequence (list, tuple, numpy array or tensor) of 1…max_length integers in low…high as a tuple of ints."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) != 1:
        raise UserError(f"{name} must be a list of whole numbers, not {shown(values)}")
    if len(values) > max_length:
        raise UserError(f"{name} must have at most {max_length} entries, not {len(values)}")
    return tuple(as_int(f"{name}[{i}]", value, low, high) for i, value in enumerate(values))


def as_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """The value, which must be one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f"unknown {name} {shown(value)}; choose one of {', '.join(choices)}")
    return str(value)


def as_text(name: str, value: Any, max_length: int) -> str:
    """The value as a str of at most max_length characters that can be printed."""
    if not isinstance(value, str):
        raise UserError(f"{name} must be a string, not {shown(value)}")
    if len(value) > max_length:
        raise UserError(f"{name} must have at most {max_length} characters, not {len(value)}")
    return str(value)


def as_path(name: str, value: Any) -> Path:
    """The value, a string or a path, as a Path that this system can represent; the file need not exist."""
    try:
        path = Path(value)
        os.fsencode(path)
        path.stat()  # exists would hide a null character
    except (FileNotFoundError, NotADirectoryError):
        return path
    except TypeError:
        raise UserError(f"{name} must be a path, not {shown(value)}") from None
    except PermissionError as error:
        raise UserError(f"cannot look at {name} {shown(str(value))}: {error.strerror}") from None
    except (OSError, ValueError) as error:  # too long, a null character, a surrogate
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name} {shown(str(value))} is not a valid path: {reason}") from None
    return path


def shown(value: Any) -> str:
    """A value as text for an error message: its repr on one line, at most 60 characters long."""
    if isinstance(value, int) and not isinstance(value, bool):
        digits = value.bit_length() * 0.30103
        return f"{value}" if digits < 40 else f"a number of about {digits:.0f} digits"
    try:
        text = " ".join(reprlib.repr(value).split())
    except Exception:  # the repr of a foreign object may do anything
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def _range(number: float, low: float | None, high: float | None, above: float | None = None) -> str:
    """The range as text, without a limit that is there for safety only and that the number respects."""
    low_text = None if low is None else f"at least {_number(low)}"
    if above is not None:
        low_text = f"above {_number(above)}"
    if high is None or (low_text and high > 10_000 and high not in _POWERS and not number > high):
        return low_text or "finite"
    if low is not None:
        return f"between {_number(low)} and {_number(high)}"
    return f"{low_text} and at most {_number(high)}" if low_text else f"at most {_number(high)}"


def _number(value: float) -> str:
    return _POWERS.get(value, str(value)) if isinstance(value, int) else f"{value:g}"
