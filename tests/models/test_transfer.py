"""Runs that are copied from a store: whole, resumable, and nothing left behind after an error."""

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.models.checkpoint import load_checkpoint
from shapedreamer.models.transfer import receive_run
from shapedreamer.training.loop import train
from tests.tiny import TINY


class Store:
    """A folder that answers as a modal.Volume does. `before_read` is called with each path before it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before_read: Any = lambda path: None

    def iterdir(self, path: str, *, recursive: bool = True) -> Iterator[Any]:
        assert recursive
        for found in sorted((self.folder / path.lstrip("/")).rglob("*")):
            kind = SimpleNamespace(name="DIRECTORY" if found.is_dir() else "FILE")
            yield SimpleNamespace(path=found.relative_to(self.folder).as_posix(), type=kind)

    def read_file(self, path: str) -> Iterator[bytes]:
        self.before_read(path)
        content = (self.folder / path).read_bytes()
        yield from (content[start : start + 10_000] for start in range(0, len(content), 10_000))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    train(TINY, folder / "mine", max_minutes=0, sample_every=0)
    return folder


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    shutil.copytree(trained, tmp_path / "store")
    return Store(tmp_path / "store")


def receive(store: Store, run: str = "mine") -> Path:
    return receive_run(store.folder.parent / "home", run, store.iterdir, store.read_file)


def test_a_run_is_copied_without_the_files_of_the_process_that_writes_it(store: Store) -> None:
    (store.folder / "mine" / "lock").touch()
    (store.folder / "mine" / "checkpoints" / ".best.safetensors.7.tmp").touch()
    (store.folder / "another" / "checkpoints").mkdir(parents=True)
    out = receive(store)
    (store.folder / "mine" / "lock").unlink()
    (store.folder / "mine" / "checkpoints" / ".best.safetensors.7.tmp").unlink()
    theirs = {path.relative_to(store.folder / "mine"): path for path in (store.folder / "mine").rglob("*")}
    assert {path.relative_to(out) for path in out.rglob("*")} == set(theirs)
    assert all(path.is_dir() or path.read_bytes() == (out / name).read_bytes() for name, path in theirs.items())
    assert [path.name for path in out.parent.iterdir()] == ["mine"]


def test_a_run_that_changes_during_the_copy_is_copied_again(store: Store, trained: Path) -> None:
    later = store.folder.parent / "later"
    shutil.copytree(trained / "mine", later)
    train(TINY, later, resume=True, max_minutes=0, sample_every=0)
    reads = []

    def save(path: str) -> None:
        if path.endswith("latest.safetensors"):
            reads.append(path)
            if len(reads) == 1:
                shutil.rmtree(store.folder / "mine")
                later.rename(store.folder / "mine")

    store.before_read = save
    out = receive(store)
    assert len(reads) == 2
    assert load_checkpoint(out / "checkpoints" / "latest.safetensors").step == 2
    train(TINY, out, resume=True, max_minutes=0, sample_every=0)


def test_a_run_that_is_not_whole_leaves_nothing_behind(store: Store) -> None:
    latest = store.folder / "mine" / "checkpoints" / "latest.safetensors"
    latest.write_bytes(latest.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"could not copy the run mine: checkpoint mine/.*latest.* is damaged"):
        receive(store)
    assert list((store.folder.parent / "home").iterdir()) == []


def test_an_interrupted_copy_leaves_nothing_behind(store: Store) -> None:
    def interrupt(path: str) -> None:
        if path.endswith("latest.safetensors"):
            raise KeyboardInterrupt

    store.before_read = interrupt
    with pytest.raises(KeyboardInterrupt):
        receive(store)
    assert list((store.folder.parent / "home").iterdir()) == []


def test_a_full_disk_is_reported_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def fail(self: Path, mode: str = "r") -> Any:
        opened.append(self)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(UserError, match="no room on the disk"):
        receive(store)
    assert len(opened) == 1


@pytest.mark.parametrize("run", ["other", "", ".", "..", "../store/mine", "mine/checkpoints"])
def test_a_run_that_does_not_exist_is_an_error_that_names_those_that_do(store: Store, run: str) -> None:
    with pytest.raises(UserError, match=r"there is no run .*; there are: mine|exists already"):
        receive(store, run)


def test_nothing_is_overwritten(store: Store) -> None:
    (store.folder.parent / "home" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match="exists already: move or delete it, or choose another `out`"):
        receive(store)
