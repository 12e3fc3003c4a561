"""A run folder has one writer, survives failures of its log, and is the same for equal runs."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from shapedreamer.common.errors import UserError
from shapedreamer.common.lock import NAME, lock_folder
from shapedreamer.imaging import render
from shapedreamer.models.checkpoint import RunConfig, load_checkpoint, read_config
from shapedreamer.networks.threads import torch_threads
from shapedreamer.training.board import Board
from shapedreamer.training.loop import train
from tests.tiny import TINY

ONE_EPOCH = replace(TINY, epochs=1, timesteps=8)
HOLD = "import sys, time; from pathlib import Path; from shapedreamer.common.lock import lock_folder\n" + (
    "with lock_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def test_a_folder_in_use_names_the_other_process_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match=f"is in use by process {other.pid} on "):
            train(ONE_EPOCH, tmp_path)
        other.send_signal(signal.SIGKILL)
    assert (tmp_path / NAME).exists()
    with lock_folder(tmp_path):
        pass
    assert not (tmp_path / NAME).exists()


def test_two_threads_cannot_write_to_one_folder(tmp_path: Path) -> None:
    entered = []

    def enter() -> None:
        try:
            with lock_folder(tmp_path):
                entered.append(True)
        except UserError:
            entered.append(False)

    with lock_folder(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert entered == [False]


def test_temporary_files_of_killed_writes_are_deleted_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    leftover = tmp_path / "checkpoints" / ".latest.safetensors.123.tmp"
    for path in (leftover, tmp_path / ".config.json.9.tmp", tmp_path / ".mine.tmp"):
        path.write_bytes(b"x")
    train(ONE_EPOCH, tmp_path, sample_every=0, save_every=0)
    assert [path.name for path in tmp_path.rglob("*.tmp")] == [".mine.tmp"]


def no_room(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("owner", "name", "message"),
    [
        (Board, "__init__", "TensorBoard failed"),
        (Board, "_write", "TensorBoard failed"),
        (render, "plot_lines", "the plots failed"),
        (render, "save_picture", "the sample grid failed"),
    ],
)
def test_a_log_that_fails_prints_one_note_and_the_training_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
    message: str,
) -> None:
    monkeypatch.setattr(owner, name, no_room)
    train(replace(ONE_EPOCH, epochs=2), tmp_path, sample_every=1, save_every=0)
    assert (tmp_path / "checkpoints" / "latest.safetensors").exists()
    assert capfd.readouterr().err.count(message) == 1


def test_the_files_of_equal_runs_are_equal(tmp_path: Path) -> None:
    for name in "ab":
        train(ONE_EPOCH, tmp_path / name, sample_every=0, save_every=0)
    for path in (tmp_path / "a").rglob("*"):
        if path.is_file() and path.parent.name != "tensorboard":
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path


def test_a_run_keeps_the_threads_that_it_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two threads are only requested here: on a busy machine they make small steps slow."""
    requested: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", requested.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    train(replace(ONE_EPOCH, threads=2), tmp_path, sample_every=0, save_every=0, max_minutes=0)
    assert requested == [2, 1]
    capfd.readouterr()
    train(ONE_EPOCH, tmp_path, resume=True, sample_every=0, save_every=0)
    assert "after step 1 of 4 (epoch 0 of 1 is done), with 2 threads" in capfd.readouterr().err
    assert requested == [2, 1, 2, 1]
    assert read_config(tmp_path).recipe.threads == 2
    with pytest.raises(UserError, match="threads = 2, not 3"):
        train(replace(ONE_EPOCH, threads=3), tmp_path, resume=True)


def test_a_run_that_did_not_record_its_threads_still_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to_json = RunConfig.to_json
    with monkeypatch.context() as patch:
        patch.setattr(
            RunConfig,
            "to_json",
            lambda self: to_json(self).replace(f'"threads": {torch.get_num_threads()}', '"threads": null'),
        )
        train(ONE_EPOCH, tmp_path, sample_every=0, save_every=0, max_minutes=0)
    assert read_config(tmp_path).recipe.threads is None
    train(ONE_EPOCH, tmp_path, resume=True, sample_every=0, save_every=0)
    assert read_config(tmp_path).recipe.threads == torch.get_num_threads()


def test_threads_are_restored() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_run_prints_its_held_out_loss_and_the_next_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shapes = replace(ONE_EPOCH, name="shapes")
    train(shapes, tmp_path / "a run", sample_every=0, save_every=0, max_minutes=0)
    assert f"shapedreamer train shapes --resume --out '{tmp_path / 'a run'}'" in capfd.readouterr().err
    train(shapes, tmp_path / "a run", resume=True, sample_every=0, save_every=0)
    printed = capfd.readouterr().err
    assert "epoch 1/1  held-out loss " in printed
    assert f"shapedreamer sample '{tmp_path / 'a run'}'" in printed


@pytest.mark.parametrize("folder", ["", "checkpoints"])
def test_a_lock_is_not_left_in_a_folder_that_cannot_be_used(tmp_path: Path, folder: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="already holds a run"):
        train(ONE_EPOCH, tmp_path)
    assert not (tmp_path / folder / NAME).exists()
    assert os.listdir(tmp_path) == ["checkpoints"]  # noqa: PTH208


def test_a_callback_gets_every_checkpoint_after_it_was_written(tmp_path: Path) -> None:
    saved: list[tuple[str, int]] = []

    def on_save(path: Path) -> None:
        assert path.parent == tmp_path / "run" / "checkpoints"
        saved.append((path.stem, load_checkpoint(path).step))

    train(replace(TINY, epochs=2), tmp_path / "run", sample_every=0, save_every=1, on_save=on_save)
    names = [("epoch-0000", 0), ("latest", 0), ("best", 4), ("epoch-0001", 4), ("latest", 4)]
    assert saved == [*names, ("best", 8), ("epoch-0002", 8), ("latest", 8)]
