"""Files of a run: whole or not at all, the same bits back, and every kind of damage noticed and named."""

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
from shapedreamer.models.recipes import shapes

CONFIG = RunConfig(shapes(), SPEC)
NETWORK = {"a.weight": torch.randn(3, 4), "count": torch.tensor(7), "half": torch.randn(5).bfloat16()}
EMA = {key: value + 1 for key, value in NETWORK.items()}
LABELS = torch.eye(3)[[0, 2, 2, 1]]
MEAN = torch.randn(3, 4)
OPTIMIZERS = [{"state": {0: {"step": torch.tensor(3.0), "exp_avg": MEAN}}, "param_groups": [{"lr": 1e-3}]}]


def save(folder: Path, step: int = 5) -> Path:
    save_checkpoint(folder, "latest", CONFIG, step, NETWORK, EMA, 0.25, LABELS, OPTIMIZERS)
    return folder / "latest.safetensors"


def test_round_trip_to_the_bit(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path))
    assert (checkpoint.config, checkpoint.step, checkpoint.best_loss) == (CONFIG, 5, 0.25)
    for saved, loaded in ((NETWORK, checkpoint.network), (EMA, checkpoint.ema)):
        assert saved.keys() == loaded.keys()
        assert all(torch.equal(saved[k], loaded[k]) and saved[k].dtype == loaded[k].dtype for k in saved)
    assert torch.equal(checkpoint.labels, LABELS)  # type: ignore[arg-type]
    [optimizer] = load_optimizers(tmp_path, checkpoint)
    assert optimizer["param_groups"] == OPTIMIZERS[0]["param_groups"]
    assert torch.equal(optimizer["state"][0]["exp_avg"], MEAN)


def test_a_network_without_labels_has_none(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "best", CONFIG, 5, NETWORK, EMA, 0.25)
    assert load_checkpoint(tmp_path / "best.safetensors").labels is None


def test_only_the_optimizer_file_in_use_stays(tmp_path: Path) -> None:
    for step in (5, 6):
        checkpoint = load_checkpoint(save(tmp_path, step))
    assert [p.name for p in tmp_path.glob("*.pt")] == ["latest-6.optimizer.pt"]
    load_optimizers(tmp_path, checkpoint)


@pytest.mark.parametrize("name", ["latest.safetensors", "latest-5.optimizer.pt"])
def test_any_flipped_bit_and_any_cut_is_noticed(tmp_path: Path, name: str) -> None:
    """Bits all over the file, its header and metadata too, and cuts from nothing to one byte short."""
    path = save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    rng = random.Random(0)
    places = [*range(min(len(whole), 64)), *(rng.randrange(len(whole)) for _ in range(150))]
    damaged = [whole[:i] + bytes([whole[i] ^ 1 << rng.randrange(8)]) + whole[i + 1 :] for i in places]
    damaged += [whole[:n] for n in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1)]
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"damaged|not a checkpoint"):
            load_optimizers(tmp_path, load_checkpoint(path))
    (tmp_path / name).write_bytes(whole)
    load_optimizers(tmp_path, load_checkpoint(path))


def test_missing_files_are_named(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(save(tmp_path))
    with pytest.raises(UserError, match=r"no checkpoint .*best\.safetensors.*latest\.safetensors"):
        load_checkpoint(tmp_path / "best.safetensors")
    (tmp_path / "latest-5.optimizer.pt").unlink()
    with pytest.raises(UserError, match=r"latest-5\.optimizer\.pt is missing"):
        load_optimizers(tmp_path, checkpoint)
    with pytest.raises(UserError, match="not a run"):
        read_config(tmp_path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(NETWORK, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="not a checkpoint of shapedreamer"):
        load_checkpoint(tmp_path / "other.safetensors")


def test_config_refuses_unknown_keys_and_wrong_types(tmp_path: Path) -> None:
    config = json.loads(CONFIG.to_json())
    config["recipe"]["learning_rate"] = 1
    config["recipe"]["epochs"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"recipe\.epochs.*recipe\.learning_rate"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not a run's configuration"):
        read_config(tmp_path)


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, "no")

    return fail


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
@pytest.mark.parametrize(
    ("code", "says"), [(errno.ENOSPC, "no room"), (errno.EROFS, "cannot write"), (errno.EACCES, "another folder")]
)
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, says: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(call, failing(code))
        with pytest.raises(UserError, match=says):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The system itself cuts the write short, by the limit on the size of files."""
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


def test_a_crash_between_any_two_writes_leaves_a_pair_that_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever rename is the last to happen, the checkpoint that is there has its own optimizer state."""
    rename = Path.replace
    for fatal in range(2):
        save(tmp_path, step=5)
        calls = 0

        def crash(self: Path, target: Path, fatal: int = fatal) -> Path:
            nonlocal calls
            calls += 1
            if calls > fatal:
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                save(tmp_path, step=6)
        checkpoint = load_checkpoint(tmp_path / "latest.safetensors")
        assert checkpoint.step == 5
        load_optimizers(tmp_path, checkpoint)


def test_metrics_forget_a_line_cut_short(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
