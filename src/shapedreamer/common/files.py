"""Write files atomically, and turn disk errors into messages that say what to do."""

import contextlib
import errno
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import UserError

_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")  # as write_atomic names them


def cache_folder() -> Path:
    """The package's folder in the system's cache."""
    by_platform = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    caches = os.environ.get("XDG_CACHE_HOME") or by_platform.get(sys.platform, "~/.cache")
    return Path(caches).expanduser() / "shapedreamer"


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically: after a crash, `path` holds the old content or the new content, never part of it.

    Creates missing parent folders. UserError if the disk is full or the folder is not writable.
    """
    with atomic_file(path, len(content)) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path, size: int = 0) -> Iterator[IO[bytes]]:
    """Yield a file to write to piece by piece, and rename it to `path` at the end of the `with` block.

    size: about how many bytes the block writes. Otherwise like write_atomic.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_disk_errors(path, size):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_disk_errors(path: Path, size: int = 0, action: str = "write") -> Iterator[None]:
    """Turn an OSError inside the `with` block into a UserError that names `path` and says what to do.

    size:   how many bytes the block writes; the message mentions it when the disk is full
    action: "write", or "read" if that is what the block does
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"no room on the disk for {path} ({size / 1e6:.1f} MB); free some space and retry"
            ) from error
        if action == "read":
            raise UserError(f"cannot read {path}: {error.strerror or error}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot write {path}: {error.strerror}; choose another folder with `out`") from error
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder to write files to, and rename it to `out` at the end of the `with` block.

    After an error or Ctrl-C nothing is left. UserError if `out` exists already, the disk is full or it is not writable.
    """
    if out.exists() or out.is_symlink():
        raise UserError(f"{out} already exists; choose a new folder, or delete it first")
    with naming_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent)  # on the same disk as `out`
    with temporary, naming_disk_errors(out):
        folder = Path(temporary.name) / "new"  # TemporaryDirectory makes a folder that only its owner may read
        folder.mkdir()
        yield folder
        if out.exists():  # a rename would replace an empty folder
            raise UserError(f"{out} already exists; choose a new folder, or delete it first")
        folder.rename(out)
        _sync_folder(out.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writes to this folder that were killed. Nobody else may be writing to it."""
    for path in folder.glob(".*.tmp") if folder.is_dir() else ():
        if is_temporary(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def is_temporary(name: str) -> bool:
    """Whether a file has a name that write_atomic gives to a file which is not complete."""
    return _TEMPORARY.fullmatch(name) is not None


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure; Windows neither has nor needs this call."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
