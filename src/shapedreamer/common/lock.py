"""One process at a time may write to a folder, such as a run."""

import contextlib
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import UserError
from .files import naming_disk_errors

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = "lock"


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold the folder in the `with` block. UserError, which names the other process, if it is in use.

    The lock is one of the operating system's on the file `lock`. The system releases it when the process ends, however
    it ends, so a lock file that a killed process left behind does not block anyone. Where there are no such locks, as
    on Windows and on some network drives, the folder is not locked.
    """
    path = folder / NAME
    with naming_disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # deleted first, while nobody else can hold it
            path.unlink(missing_ok=True)
        file.close()


def _acquire(path: Path) -> IO[str]:
    while True:
        file = path.open("a+")
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(file)
            file.close()
            raise UserError(
                f"{path.parent} is in use by {owner}; wait until it ends or stop it, or choose another `out`"
            ) from None
        except OSError:  # this file system has no locks
            pass
        if _is_file_at(file, path):
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "command": " ".join(sys.argv)}))
            file.flush()
            return file
        file.close()  # the previous owner deleted it between our open and flock


def _is_file_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(file: IO[str]) -> str:
    """The process that holds the lock, as it described itself."""
    try:
        file.seek(0)
        owner = json.loads(file.read(10_000))
        return f"process {int(owner['pid'])} on {owner['host']} ({owner['command'][:200]})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
