"""Bring a run home from a store on another machine, such as a volume of a cloud."""

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from ..common.errors import UserError
from ..common.files import naming_disk_errors
from .checkpoint import load_checkpoint, load_optimizers, read_config

ATTEMPTS = 3


def receive_run(
    folder: Path, run: str, list_files: Callable[[str], Iterable[Any]], read_file: Callable[[str], Iterable[bytes]]
) -> Path:
    """Copy the run of this name from a store to `folder / run`, which must not exist; return that path.

    list_files: yields everything below a path of the store; each entry has the `path` in the store and a `type`, whose
                name is "FILE" for files, as in modal.Volume.iterdir
    read_file:  yields the content of a file of the store in parts

    A training may be writing to the store meanwhile. So the copy is checked: it must be possible to resume from its
    latest checkpoint. If not, it is copied again. UserError if the folder exists, if there is no such run, if three
    copies fail, or if the disk is full; then nothing is left behind.
    """
    out, part = folder / run, folder / f".{run}.{os.getpid()}.part"
    if out.exists():
        raise UserError(f"{out} exists already: move or delete it, or choose another `out`")
    try:
        for attempt in range(1, ATTEMPTS + 1):
            paths = _files(run, list_files)
            try:
                _copy(part, paths, read_file)
                _check(part)
                break
            except (_ChangedError, FileNotFoundError) as error:
                shutil.rmtree(part)
                if attempt == ATTEMPTS:
                    reason = str(error).replace(str(part), run)
                    raise UserError(f"could not copy the run {run}: {reason}; try again later") from None
        with naming_disk_errors(out):
            part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


class _ChangedError(Exception):
    """The files of a copy do not belong together."""


def _files(run: str, list_files: Callable[[str], Iterable[Any]]) -> dict[str, PurePosixPath]:
    """The files of a run: the path in the store, and the one in the run folder. Those of a running process are omitted.

    UserError if there is no such run.
    """
    paths = [entry.path for entry in list_files("/") if entry.type.name == "FILE"]
    split = {path: PurePosixPath(path.lstrip("/")).parts for path in paths}
    runs = sorted({parts[0] for parts in split.values() if parts[1:] == ("config.json",)})
    if run not in runs:
        raise UserError(f"there is no run {run!r}; there are: {', '.join(runs) or 'none'}")
    return {
        path: PurePosixPath(*parts[1:])
        for path, parts in split.items()
        if parts[0] == run and parts[1:] != ("lock",) and not parts[-1].startswith(".")
    }


def _copy(folder: Path, paths: dict[str, PurePosixPath], read_file: Callable[[str], Iterable[bytes]]) -> None:
    for path, name in paths.items():
        target = folder / name
        with naming_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("wb")
        with file:
            for content in read_file(path):
                with naming_disk_errors(target, len(content)):
                    file.write(content)


def _check(folder: Path) -> None:
    """_ChangedError if the run in the folder cannot be resumed."""
    checkpoints = folder / "checkpoints"
    try:
        read_config(folder)
        load_optimizers(checkpoints, load_checkpoint(checkpoints / "latest.safetensors"))
    except UserError as error:
        raise _ChangedError(error) from None
