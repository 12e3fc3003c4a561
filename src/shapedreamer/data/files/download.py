"""Download files; a file gets its name only when it is complete and its checksum is correct."""

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from textwrap import shorten
from time import monotonic
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from ...common import files
from ...common.errors import UserError
from ..limits import MAX_DOWNLOAD_BYTES, megabytes

BLOCK = 2**18  # bytes
TIMEOUT = 30.0  # seconds without data after which a mirror fails
MIN_BYTES = 30_000  # a mirror that sends less in TIMEOUT seconds is too slow
MAX_REASON_LENGTH = 200  # characters
RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class RemoteFile:
    """A file that is available at each of `urls` (http or https), which are tried in this order.

    sha256: of the content, in hexadecimal; "" if the host may change the file
    """

    name: str
    sha256: str
    urls: tuple[str, ...]


def cache_folder(name: str) -> Path:
    """Return the folder in which to store the data set `name`: in $SHAPEDREAMER_DATA, or else in the system's cache."""
    if root := os.environ.get("SHAPEDREAMER_DATA"):
        return Path(root).expanduser() / name
    return files.cache_folder() / name


def fetch(files: Sequence[RemoteFile], folder: Path) -> list[Path]:
    """Download the files that are missing in the folder, and return the paths of all.

    A file is written to NAME.part and renamed once it is complete and its checksum is correct. An interrupted download
    resumes where it stopped, unless the file has no checksum, because its content may have changed.
    UserError if an existing file has the wrong checksum (it stays unchanged), if no mirror provides a file, or if the
    folder is not writable.
    """
    console = Console(file=sys.stderr, soft_wrap=True)
    try:
        missing = [file for file in files if not _is_present(file, folder)]
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not (missing and console.is_terminal),
        ) as progress:
            for i, file in enumerate(missing):
                _download(file, missing[i:], folder, progress)
    except OSError as error:  # from the disk; network errors have become _MirrorErrors
        raise UserError(
            f"cannot store files in {folder}: {error.strerror or error}; fix this, or choose another folder with the "
            "environment variable SHAPEDREAMER_DATA"
        ) from error
    return [folder / file.name for file in files]


def _is_present(file: RemoteFile, folder: Path) -> bool:
    path = folder / file.name
    if not path.exists():
        return False
    if file.sha256 and (found := _sha256(path)) != file.sha256:
        raise UserError(
            f"{path} is damaged or the wrong file: its sha256 is {found} and must be {file.sha256}; "
            "move or delete it to download it again"
        )
    return True


def _download(file: RemoteFile, missing: Sequence[RemoteFile], folder: Path, progress: Progress) -> None:
    """Download a file from the first mirror that provides it.

    missing: this file and those still to come. If all mirrors fail, UserError says how to get them by hand.
    """
    part = folder / f"{file.name}.part"
    task = progress.add_task(file.name, total=None)
    failures = []
    for url in file.urls:
        description = f"{file.name} from {urlsplit(url).hostname}"
        progress.update(task, description=description)
        if not progress.console.is_terminal:
            _print_line(progress, f"downloading {description}")
        try:
            _download_from(url, file, part, progress, task)
        except _MirrorError as error:
            failures.append(f"  {url}: {shorten(str(error), MAX_REASON_LENGTH)}")  # a server may send many lines
        else:
            part.replace(folder / file.name)
            return
    needed = [f"  {other.urls[0]}" + (f"  sha256 {other.sha256}" if other.sha256 else "") for other in missing]
    raise UserError(
        "\n".join(
            (
                f"could not download {file.name}:",
                *failures,
                f"try again later, or put these files into {folder}, or into another folder and pass `data=PATH`:",
                *needed,
            )
        )
    )


class _MirrorError(Exception):
    """A mirror failed. The bytes received so far are good: the next mirror, or the next call, resumes after them."""


class _BadContentError(_MirrorError):
    """A mirror failed, and the bytes received so far are unusable."""


def _download_from(url: str, file: RemoteFile, part: Path, progress: Progress, task: TaskID) -> None:
    """Write the complete file to `part`, or raise a _MirrorError."""
    if not file.sha256:
        part.unlink(missing_ok=True)
    start = part.stat().st_size if part.exists() else 0
    try:
        _receive(url, start, part, progress, task)
        if file.sha256 and (found := _sha256(part)) != file.sha256:
            raise _BadContentError(f"wrong content: its sha256 is {found}")
    except _BadContentError:
        part.unlink(missing_ok=True)
        if not start:
            raise
        _download_from(url, file, part, progress, task)  # the bytes from an earlier call may have been wrong


def _receive(url: str, start: int, part: Path, progress: Progress, task: TaskID) -> None:
    """Append what is missing of `url` to `part`, which has `start` bytes; start over if the server cannot resume."""
    headers = {"User-Agent": "shapedreamer"}  # some hosts reject Python's default
    if start:
        headers["Range"] = f"bytes={start}-"
    with _mirror_errors():
        reply = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    resumes = reply.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    with reply, part.open("ab" if resumes else "wb") as file:
        size = start if resumes else 0
        total = None if reply.length is None else size + reply.length
        progress.reset(task, total=total, completed=size)
        last_size, last_time = size, monotonic()
        while total is None or size < total:
            if max(size, total or 0) > MAX_DOWNLOAD_BYTES:
                raise _BadContentError(f"too large: it has more than {megabytes(MAX_DOWNLOAD_BYTES)}")
            if (seconds := monotonic() - last_time) > TIMEOUT:
                if size - last_size < MIN_BYTES:
                    raise _MirrorError(f"too slow: {size - last_size} bytes in {seconds:.0f} s")
                if not progress.console.is_terminal:
                    _print_line(progress, _status(size, total, (size - last_size) / seconds))
                last_size, last_time = size, monotonic()
            with _mirror_errors():
                block = reply.read1(BLOCK)  # what has arrived; read() would wait for a full block, however slow
            if not block:
                break
            file.write(block)
            size += len(block)
            progress.update(task, completed=size)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and size < total:
        raise _MirrorError(f"connection closed after {size} of {total} bytes")


@contextmanager
def _mirror_errors() -> Iterator[None]:
    """Turn any HTTP or network error into a _MirrorError with a short reason."""
    try:
        yield
    except HTTPError as error:
        error.close()
        kind = _BadContentError if error.code == RANGE_NOT_SATISFIABLE else _MirrorError
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error  # a URLError's reason is the error it wraps
        raise _MirrorError(str(reason) or type(reason).__name__) from error


def _status(size: int, total: int | None, speed: float) -> str:
    """Format the progress of a download, to print without a terminal; size and total in bytes, speed in bytes/s."""
    if total is None:
        return f"{size / 1e6:.1f} MB  {speed / 1e6:.2f} MB/s"
    return f"{size / 1e6:.1f} of {total / 1e6:.1f} MB  {speed / 1e6:.2f} MB/s  {(total - size) / speed:.0f} s left"


def _print_line(progress: Progress, text: str) -> None:
    progress.console.print(text, markup=False, highlight=False)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
