"""Errors that the user can fix: the command line prints the message without a traceback and exits with status 2."""

import importlib
from types import ModuleType


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, gives the value and says what to do."""

    exit_code = 2
    """The exit status of the command line."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module that comes with an optional extra; UserError names the extra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {error.name}: pip install 'shapedreamer[{extra}]'") from error
