"""Errors that are the user's to mend: the command line prints their message, without a traceback, and exits with 2."""

import importlib
from types import ModuleType


class UserError(Exception):
    """The message names the thing that is wrong, its value, and what would be right."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module that only an extra installs; UserError names the extra when it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {error.name}: pip install 'shapedreamer[{extra}]'") from error
