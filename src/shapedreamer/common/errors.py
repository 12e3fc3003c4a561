"""Errors that the user can fix: the command line prints the message without a traceback and exits with status 2."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType


class UserError(Exception):
    """An error that the user can fix. The message says what is wrong, gives the value and says what to do."""

    exit_code = 2
    """The exit status of the command line."""

    reported = False
    """Whether another process of the same run has printed the error; see common/processes.py."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module that comes with an optional extra; UserError names the extra if it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"this needs {error.name}: pip install 'shapedreamer[{extra}]'") from error


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """For scripts: a UserError in the `with` block ends the program with its message on one line of stderr."""
    try:
        yield
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(error.exit_code)
