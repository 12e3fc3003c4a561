"""Files from the internet: whole and with the right checksum, or not there at all."""

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

from ...common.errors import UserError

BLOCK = 2**18  # bytes
PATIENCE = 30.0  # seconds that a mirror may be silent,
LEAST = 30_000  # and bytes that it must send in that time
LONGEST_REASON = 200  # characters
RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True)
class RemoteFile:
    """A file, to be had at any of `urls` (http or https), which are tried in this order.

    sha256: of its content, in hexadecimal; "" where the host does not promise that it stays the same
    """

    name: str
    sha256: str
    urls: tuple[str, ...]


def cache_folder(name: str) -> Path:
    """Where the data set `name` is kept: in $SHAPEDREAMER_DATA or, without that, where the system keeps such things."""
    if chosen := os.environ.get("SHAPEDREAMER_DATA"):
        return Path(chosen).expanduser() / name
    custom = {"darwin": "~/Library/Caches", "win32": os.environ.get("LOCALAPPDATA", "~/AppData/Local")}
    caches = os.environ.get("XDG_CACHE_HOME") or custom.get(sys.platform, "~/.cache")
    return Path(caches).expanduser() / "shapedreamer" / name


def fetch(files: Sequence[RemoteFile], folder: Path) -> list[Path]:
    """The paths of the files in the folder; those that are not there are downloaded first.

    A file is written to NAME.part, and gets its name once it is whole and its checksum is right. A download that was
    broken off goes on from there, unless the file has no checksum: it may have become another one since.
    UserError if a file that is there has a wrong checksum (it is left as it is), if no mirror gives a file, or if the
    folder cannot be written to.
    """
    console = Console(file=sys.stderr, soft_wrap=True)
    try:
        missing = [file for file in files if not _is_there(file, folder)]
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
    except OSError as error:  # the disk's: those of the network have become _MirrorErrors
        raise UserError(
            f"cannot keep files in {folder}: {error.strerror or error}; mend that, or name another folder in the "
            "environment variable SHAPEDREAMER_DATA"
        ) from error
    return [folder / file.name for file in files]


def _is_there(file: RemoteFile, folder: Path) -> bool:
    path = folder / file.name
    if not path.exists():
        return False
    if file.sha256 and (found := _sha256(path)) != file.sha256:
        raise UserError(
            f"{path} is damaged, or another file than it should be: its sha256 is {found} and must be {file.sha256}; "
            "move it away, and it will be downloaded"
        )
    return True


def _download(file: RemoteFile, missing: Sequence[RemoteFile], folder: Path, progress: Progress) -> None:
    """Get a file from the first mirror that has it. If none does, UserError says how to get all that are missing."""
    part = folder / f"{file.name}.part"
    task = progress.add_task(file.name, total=None)
    failures = []
    for url in file.urls:
        what = f"{file.name} from {urlsplit(url).hostname}"
        progress.update(task, description=what)
        if not progress.console.is_terminal:
            _say(progress, f"downloading {what}")
        try:
            _from_mirror(url, file, part, progress, task)
        except _MirrorError as error:
            failures.append(f"  {url}: {shorten(str(error), LONGEST_REASON)}")  # the server's words may be many lines
        else:
            part.replace(folder / file.name)
            return
    wanted = [f"  {one.urls[0]}" + (f"  sha256 {one.sha256}" if one.sha256 else "") for one in missing]
    raise UserError(
        "\n".join(
            (
                f"could not download {file.name}:",
                *failures,
                f"try again later, or put these files into {folder}, or into a folder that you name with --data PATH:",
                *wanted,
            )
        )
    )


class _MirrorError(Exception):
    """Why a mirror failed. What has come is good: from there the next mirror can go on, or the next call."""


class _UselessError(_MirrorError):
    """Why a mirror failed, and what has come is of no use."""


def _from_mirror(url: str, file: RemoteFile, part: Path, progress: Progress, task: TaskID) -> None:
    """Write all of a file to `part`, or raise a _MirrorError."""
    if not file.sha256:
        part.unlink(missing_ok=True)
    start = part.stat().st_size if part.exists() else 0
    try:
        _receive(url, start, part, progress, task)
        if file.sha256 and (found := _sha256(part)) != file.sha256:
            raise _UselessError(f"wrong content, of sha256 {found}")
    except _UselessError:
        part.unlink(missing_ok=True)
        if not start:
            raise
        _from_mirror(url, file, part, progress, task)  # the fault may have been in what was there before


def _receive(url: str, start: int, part: Path, progress: Progress, task: TaskID) -> None:
    """Write what a URL gives to `part`, which has `start` bytes already; a server that cannot go on sends it all."""
    headers = {"User-Agent": "shapedreamer"}  # some hosts turn Python's own away
    if start:
        headers["Range"] = f"bytes={start}-"
    with _naming_failures():
        reply = urlopen(Request(url, headers=headers), timeout=PATIENCE)
    goes_on = reply.headers.get("Content-Range", "").startswith(f"bytes {start}-")
    with reply, part.open("ab" if goes_on else "wb") as file:
        size = start if goes_on else 0
        total = None if reply.length is None else size + reply.length
        progress.reset(task, total=total, completed=size)
        size_then, then = size, monotonic()
        while total is None or size < total:
            if (seconds := monotonic() - then) > PATIENCE:
                if size - size_then < LEAST:
                    raise _MirrorError(f"too slow: {size - size_then} bytes in {seconds:.0f} s")
                if not progress.console.is_terminal:
                    _say(progress, _line(size, total, (size - size_then) / seconds))
                size_then, then = size, monotonic()
            with _naming_failures():
                block = reply.read1(BLOCK)  # what has come: read() would wait for a whole block, however slow it is
            if not block:
                break
            file.write(block)
            size += len(block)
            progress.update(task, completed=size)
        file.flush()
        os.fsync(file.fileno())
    if total is not None and size < total:
        raise _MirrorError(f"it stopped after {size} of {total} bytes")


@contextmanager
def _naming_failures() -> Iterator[None]:
    """Turn whatever can go wrong with a server into a _MirrorError with a short reason."""
    try:
        yield
    except HTTPError as error:
        error.close()
        kind = _UselessError if error.code == RANGE_NOT_SATISFIABLE else _MirrorError
        raise kind(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error  # a URLError's is the error that it wraps
        raise _MirrorError(str(reason) or type(reason).__name__) from error


def _line(size: int, total: int | None, speed: float) -> str:
    """How far a download has come, where there is no terminal to draw a bar in; bytes, and bytes per second."""
    if total is None:
        return f"{size / 1e6:.1f} MB  {speed / 1e6:.2f} MB/s"
    return f"{size / 1e6:.1f} of {total / 1e6:.1f} MB  {speed / 1e6:.2f} MB/s  {(total - size) / speed:.0f} s left"


def _say(progress: Progress, text: str) -> None:
    progress.console.print(text, markup=False, highlight=False)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
