"""Files are written whole or not at all, and a disk that refuses says so in words."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, there is the old one or the new one and never a part of one.

    UserError on a full disk or a folder that cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming_disk_errors(path, len(content)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming_disk_errors(path: Path, size: int = 0) -> Iterator[None]:
    """Turn the system's refusal to write into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(f"no room on the disk for {path} ({size / 1e6:.1f} MB): free some, then go on") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot write {path}: {error.strerror}; choose another folder with --out") from error
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure; Windows has no such call and needs none."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
