"""The checks of the labs, a module for each lab: ``check.lab1.ddpm_step(my_function)``.

Each check tests an answer on random inputs against the exact result, so there is no answer to look up. It prints a
Verdict, which is true if the answer passed. A module is imported when it is first used.
"""

import importlib
import os
from pathlib import Path
from typing import Any

from ..source import OWN_LABS


def __getattr__(name: str) -> Any:
    if not name.startswith("lab") or not name[3:].isdecimal():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if own := os.environ.get(OWN_LABS):
        __path__[:] = [str(Path(own, "checks").absolute()), *__path__[-1:]]
    try:
        return importlib.import_module(f".{name}", __name__)
    except ModuleNotFoundError:
        raise AttributeError(f"there is no {name}") from None
