"""The command `shapedreamer`: one short file for each subcommand, which parses its options and calls the library.

This module imports only small modules, so that Ctrl-C during the slow imports ends the command without a traceback.
"""

import os
import re
import shutil
import signal
import sys
from types import FrameType
from typing import Any

USER_ERROR, INTERRUPTED, CLOSED_PIPE = 2, 130, 141  # exit codes; the last two are 128 plus the number of the signal
STOP_SIGNALS = ("SIGTERM", "SIGHUP")  # by name, because Windows lacks the second

_ARGUMENT = re.compile(r"`([a-z_]+)(?:=([^`\n]*))?`")  # of a Python function, in an error of the library
_OPTIONS = {  # that are not called like the argument
    "labels=True": "--labels yes",
    "resume=True": "--resume",
    "without_noise=True": "--wrong no-noise",
}

MIN_COLUMNS = 40
MAX_ARGUMENT = 4096  # characters; the longest path of Linux


def main() -> int:
    """Run the command line and return its exit code. A user's mistake prints one line on stderr, and returns 2."""
    for name in STOP_SIGNALS:
        if (
            getattr(signal, name, None) and signal.getsignal(getattr(signal, name)) is signal.SIG_DFL
        ):  # nohup ignores it
            signal.signal(getattr(signal, name), _stop)
    try:
        try:
            return _run()
        finally:
            _flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has what it wanted
        _discard_output()
        return CLOSED_PIPE
    except SystemExit:  # from the parser, after --help or an invalid option
        raise
    except OSError as error:  # such as a full disk behind stdout, or a file that nothing else has reported
        _discard_output()
        return _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")


def _stop(number: int, frame: FrameType | None) -> None:
    """End the command as Ctrl-C does, so that no temporary files are left. A second signal changes nothing."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _run() -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows "?" for what it cannot
    if shutil.get_terminal_size().columns < MIN_COLUMNS:
        os.environ["COLUMNS"] = str(MIN_COLUMNS)  # in less, the help would never end: no column holds a word
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        from .. import __version__

        print(f"shapedreamer {__version__}")
        return 0

    for argument in arguments:
        if len(argument) > MAX_ARGUMENT or "\0" in argument:
            return _fail(f"{argument[:40]!r}… is not a valid argument: it is too long, or has a null character")

    import tyro

    from ..common.errors import UserError

    if arguments and not arguments[0].startswith("-") and arguments[0] not in _subcommands():
        return _fail(_unknown_command(arguments[0]))
    try:
        result: int | None = tyro.extras.subcommand_cli_from_dict(
            _subcommands(),
            prog="shapedreamer",
            description="Train a small diffusion model on your own machine, and watch it dream.",
            args=arguments or ["--help"],
            config=(tyro.conf.FlagCreatePairsOff,),
            console_outputs=os.environ.get("RANK", "0") == "0",  # of several processes, one prints the help
        )
    except UserError as error:
        return error.exit_code if error.reported else _fail(with_options(str(error)), error.exit_code)
    except MemoryError:
        return _fail("there is not enough memory; try a smaller --num, --batch-size or image")
    return result or 0


def with_options(message: str) -> str:
    """An error of the library with the options of the command line: `save_every=2` becomes --save-every 2.

    The library speaks Python, and puts the arguments of its functions in backticks.
    """

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        if value is None:
            return f"--{name.replace('_', '-')}"
        if match[0].strip("`") in _OPTIONS:
            return _OPTIONS[match[0].strip("`")]
        value = re.sub(r"^\((\w+), (\w+)\)$", r"\1x\2", value).strip("[]'")
        return f"--{name.replace('_', '-')} {value}"

    return _ARGUMENT.sub(option, message)


def _subcommands() -> dict[str, Any]:
    return getattr(sys.modules[__name__], "SUBCOMMANDS")  # noqa: B009  so that __getattr__ is called


def __getattr__(name: str) -> Any:
    if name != "SUBCOMMANDS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .commands import SUBCOMMANDS

    return SUBCOMMANDS


def _unknown_command(name: str) -> str:
    import difflib

    similar = difflib.get_close_matches(name, _subcommands(), n=1)
    hint = f"did you mean {similar[0]}?" if similar else f"choose one of {', '.join(_subcommands())}"
    return f"there is no command {name[:60]!r}; {hint}"


def _fail(message: str, code: int = USER_ERROR) -> int:
    """Print an error on one line of stderr, if there still is a stderr."""
    try:
        print("error:", " ".join(message.split()), file=sys.stderr, flush=True)
    except OSError:
        _discard_output(2)
    return code


def _flush() -> None:
    """Write what is still in the buffer now, where an error can be reported, and not when Python exits."""
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def _discard_output(handle: int = 1) -> None:
    """Send what is left in a stream's buffer nowhere, so that Python does not report it again when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, handle)
    os.close(null)
