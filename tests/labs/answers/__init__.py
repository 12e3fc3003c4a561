"""Right and wrong answers to the exercises, a module for each lab."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answers:
    """right: answers in another style than the solution's; wrong: answers, each with a fragment of its message."""

    right: list[Any] = field(default_factory=list)
    wrong: list[tuple[Any, str]] = field(default_factory=list)
