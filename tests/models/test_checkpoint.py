"""The files of a run round-trip exactly, are written completely or not at all, and damage to them is reported."""

import errno
import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shapedreamer.common.errors import UserError
from shapedreamer.common.files import write_atomic
from shapedreamer.data.drawn.shapes import SPEC
from shapedreamer.models.checkpoint import (
    RunConfig,
    load_checkpoint,
    load_optimizers,
    read_config,
    read_metrics,
    save_checkpoint,
)
from shapedreamer.models.recipes import Recipe, shapes

CONFIG = RunConfig(shapes(), SPEC)
NETWORK = {"a.weight": torch.randn(3, 4), "count": torch.tensor(7), "half": torch.randn(5).bfloat16()}
EMA = {key: value + 1 for key, value in NETWORK.items()}
LABELS = torch.eye(3)[[0, 2, 2, 1]]
MEAN = torch.randn(3, 4)
OPTIMIZERS = [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": MEAN}}, "param_groups": [{"lr": 1e-3}]}]


def save(folder: Path, step: int = 5) -> Path:
    """Write a checkpoint with an optimizer state."""
    save_checkpoint(folder, "latest", CONFIG, step, NETWORK, EMA, 0.25, LABELS, OPTIMIZERS)
    return folder / "latest.safetensors"


def test_checkpoints_round_trip_bit_for_bit(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path))
    assert (checkpoint.config, checkpoint.step, checkpoint.best_loss) == (CONFIG, 5, 0.25)
    for saved, loaded in ((NETWORK, checkpoint.network), (EMA, checkpoint.ema)):
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[k], loaded[k]) and saved[k].dtype == loaded[k].dtype for k in saved)
    assert torch.equal(checkpoint.labels, LABELS)  # type: ignore[arg-type]
    [optimizer] = load_optimizers(tmp_path, checkpoint)
    assert optimizer["param_groups"] == OPTIMIZERS[0]["param_groups"]
    assert torch.equal(optimizer["state"][0]["exp_avg"], MEAN)


def test_the_checkpoint_of_an_unconditional_model_has_no_labels(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "best", CONFIG, 5, NETWORK, EMA, 0.25)
    assert load_checkpoint(tmp_path / "best.safetensors").labels is None


def test_saving_deletes_the_previous_optimizer_file(tmp_path: Path) -> None:
    for step in (5, 6):
        checkpoint = load_checkpoint(save(tmp_path, step))
    assert [p.name for p in tmp_path.glob("*.pt")] == ["latest-6.optimizer.pt"]
    load_optimizers(tmp_path, checkpoint)


@pytest.mark.parametrize("name", ["latest.safetensors", "latest-5.optimizer.pt"])
def test_any_flipped_bit_and_any_truncation_is_detected(tmp_path: Path, name: str) -> None:
    """Flip bits everywhere, including the header and metadata; truncate to lengths from 0 to one byte less."""
    path = save(tmp_path)
    intact = (tmp_path / name).read_bytes()
    rng = random.Random(0)
    positions = [*range(min(len(intact), 64)), *(rng.randrange(len(intact)) for _ in range(150))]
    damaged = [intact[:i] + bytes([intact[i] ^ 1 << rng.randrange(8)]) + intact[i + 1 :] for i in positions]
    damaged += [intact[:n] for n in (0, 1, 7, 8, 9, len(intact) // 2, len(intact) - 1)]
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"damaged|not a shapedreamer checkpoint"):
            load_optimizers(tmp_path, load_checkpoint(path))
    (tmp_path / name).write_bytes(intact)
    load_optimizers(tmp_path, load_checkpoint(path))


def test_errors_name_missing_files(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path))
    with pytest.raises(UserError, match=r"no checkpoint .*best\.safetensors.*latest\.safetensors"):
        load_checkpoint(tmp_path / "best.safetensors")
    (tmp_path / "latest-5.optimizer.pt").unlink()
    with pytest.raises(UserError, match=r"latest-5\.optimizer\.pt is missing"):
        load_optimizers(tmp_path, checkpoint)
    with pytest.raises(UserError, match="not a run"):
        read_config(tmp_path)


def test_other_safetensors_files_are_rejected(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(NETWORK, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not a shapedreamer checkpoint"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_unknown_keys_and_wrong_types_in_a_config_are_rejected(tmp_path: Path) -> None:
    config = json.loads(CONFIG.to_json())
    config["recipe"]["learning_rate"] = 1
    config["recipe"]["epochs"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"recipe\.epochs.*recipe\.learning_rate"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not the configuration of a run"):
        read_config(tmp_path)


def with_old_keys(config: str) -> str:
    """The JSON with the names that dmd_weight and terminal_share had in the first distilled models."""
    old = config.replace('"dmd_weight"', '"match"').replace('"terminal_share"', '"pure"')
    assert '"match": 0.5' in old
    assert '"pure": 0.25' in old
    return old


DISTILLED = RunConfig(Recipe("shapes", teacher="abc", dmd_weight=0.5, terminal_share=0.25), SPEC)


def test_a_config_with_the_old_keys_match_and_pure_still_loads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(with_old_keys(DISTILLED.to_json()))
    assert read_config(tmp_path) == DISTILLED
    assert '"match"' not in read_config(tmp_path).to_json()  # files are written with the new names


def test_a_checkpoint_with_the_old_keys_match_and_pure_still_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to_json = RunConfig.to_json
    with monkeypatch.context() as patch:
        patch.setattr(RunConfig, "to_json", lambda self: with_old_keys(to_json(self)))
        save_checkpoint(tmp_path, "latest", DISTILLED, 5, NETWORK, EMA, 0.25)
    assert b"match" in (tmp_path / "latest.safetensors").read_bytes()
    checkpoint = load_checkpoint(tmp_path / "latest.safetensors")
    assert checkpoint.config == DISTILLED
    assert all(torch.equal(checkpoint.ema[key], EMA[key]) for key in EMA)


def test_a_key_that_is_given_under_both_names_is_rejected() -> None:
    config = json.loads(DISTILLED.to_json())
    config["recipe"]["match"] = 1.0
    with pytest.raises(UserError, match=r"recipe\.match"):
        RunConfig.from_json(json.dumps(config), "config.json")


def raise_os_error(code: int) -> Callable[..., Any]:
    """A function that takes anything and raises OSError with this code."""

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, "no")

    return fail


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "no room"), (errno.EROFS, "cannot write"), (errno.EACCES, "another folder")]
)
def test_a_failed_write_leaves_the_old_file_intact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, message: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(call, raise_os_error(code))
        with pytest.raises(UserError, match=message):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_write_that_the_system_cuts_short_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    path = save(tmp_path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"no room on the disk for .*latest-6\.optimizer\.pt"):
            save(tmp_path, step=6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    load_optimizers(tmp_path, load_checkpoint(path))
    assert not list(tmp_path.glob("*.tmp"))


def test_a_crash_between_two_writes_leaves_a_checkpoint_with_its_optimizer_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.replace
    for completed in range(2):
        save(tmp_path, step=5)
        calls = 0

        def crash(self: Path, target: Path, completed: int = completed) -> Path:
            nonlocal calls
            calls += 1
            if calls > completed:
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, step=6)
        checkpoint = load_checkpoint(tmp_path / "latest.safetensors")
        assert checkpoint.step == 5
        load_optimizers(tmp_path, checkpoint)


def test_a_truncated_last_line_of_the_metrics_is_ignored(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
