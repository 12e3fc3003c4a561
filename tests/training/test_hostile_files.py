"""A checkpoint, optimizer file, configuration or log whose digest is right and whose content is not.

Each is mutated at random, and every door that reads it must either work or raise a UserError: never another exception,
and never more than a little memory. The default run tries some 40 of each; the slow one 2,000. For 10,000:

    SHAPEDREAMER_MUTATIONS=10000 python -m pytest -m "" tests/training/test_hostile_files.py
"""

import contextlib
import copy
import hashlib
import json
import math
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from shapedreamer.common.errors import UserError
from shapedreamer.models import checkpoint as files
from shapedreamer.models.checkpoint import read_config, read_metrics
from shapedreamer.models.model import load
from shapedreamer.models.recipes import DiTConfig
from shapedreamer.training.log import RunLog
from shapedreamer.training.loop import train
from tests.tiny import CONDITIONAL, SMALL

RECIPE = replace(CONDITIONAL, epochs=2, network=replace(SMALL, channels=(8,), attention=()), timesteps=8)
FEW, MANY = 40, int(os.environ.get("SHAPEDREAMER_MUTATIONS", "2000"))
AMOUNTS = [FEW, pytest.param(MANY, marks=pytest.mark.slow)]
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2, 3, 2**31, 2**63, 2**64, 10**30, -0.5, 0.5, 1e30, 1e308, math.nan, math.inf, "", "x", "1",
    "../../x", "a" * 10_000, "٣", [], {}, [1], [[]], [8192, 8192], [0], {"kind": "unet"}, "cosine", "x0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its first step."""
    out = tmp_path_factory.mktemp("hostile") / "run"
    train(RECIPE, out, sample_every=0, save_every=0, max_minutes=0)
    return out


@pytest.fixture(scope="module")
def transformer_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a transformer, which was stopped after its first step."""
    out = tmp_path_factory.mktemp("hostile") / "transformer"
    network = DiTConfig(patch=8, width=16, depth=2, head_dim=8)
    train(replace(RECIPE, network=network), out, sample_every=0, save_every=0, max_minutes=0)
    return out


@pytest.fixture(autouse=True)
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots would take most of the time, and show only the log."""
    monkeypatch.setattr(RunLog, "plots", lambda log: None)


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """A test may not need more than a gigabyte more than the process had."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000


def mutate(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value in which a random part is replaced, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        value = dict(value)
        key = rng.choice(list(value))
        action = rng.random()
        if action < 0.1:
            del value[key]
        elif action < 0.15:
            value[rng.choice(["x", "", "told", *value])] = rng.choice(VALUES)
        else:
            value[key] = mutate(value[key], rng)
        return value
    if isinstance(value, (list, tuple)) and value and rng.random() < 0.7:
        parts = list(value)
        i = rng.randrange(len(parts))
        parts[i : i + 1] = rng.choice([[], [parts[i]] * 2, [mutate(parts[i], rng)], [mutate(parts[i], rng)]])
        return parts
    return copy.deepcopy(rng.choice(VALUES))


def mutate_tensor(value: Tensor, rng: random.Random) -> Tensor:
    """A tensor of another shape, type or content."""
    changes = [
        lambda: value[:-1] if value.ndim and len(value) > 1 else value[None],
        lambda: value[None],
        lambda: value.flatten(),
        lambda: value.double(),
        lambda: value.to(torch.int8),
        lambda: value.to(torch.complex64),
        lambda: value * math.nan,
        lambda: value * -1e38,
        lambda: value.new_zeros(0),
        lambda: torch.tensor(1.0),
    ]
    return rng.choice(changes)().contiguous()


def write_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a checkpoint with the digest that belongs to its content."""
    metadata = {key: value for key, value in metadata.items() if key != "digest"}
    save_file(tensors, path, {**metadata, "digest": files._digest(tensors, metadata)})


def enter(door: Callable[[Path], object], path: Path, seconds: float = 5) -> None:
    """Call a function that reads a file. UserError is fine, and so is success."""
    start = time.process_time()
    with contextlib.suppress(UserError):
        door(path)
    assert time.process_time() - start < seconds


def sample(path: Path) -> None:
    load(path, device="cpu").sample(1, steps=1)


def resume(folder: Path) -> None:
    train(read_config(folder).recipe, folder, resume=True, sample_every=0, save_every=0, max_minutes=0)


def copy_run(run: Path, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return Path(shutil.copytree(run, folder))


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_checkpoint_with_wrong_content_is_a_user_error(run: Path, tmp_path: Path, amount: int) -> None:
    with safe_open(run / "checkpoints" / "latest.safetensors", "pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    rng = random.Random(0)
    for number in range(amount):
        changed, text = dict(tensors), dict(metadata)
        kind = rng.random()
        key = rng.choice(list(changed))
        if kind < 0.5:
            text["config"] = json.dumps(mutate(json.loads(text["config"]), rng))
        elif kind < 0.6:
            text[rng.choice([*text, "x"])] = str(rng.choice(VALUES))
        elif kind < 0.65:
            text.pop(rng.choice(list(text)))
        elif kind < 0.75:
            changed[rng.choice(["x", "ema.x", "labels.x", key + "x"])] = changed.pop(key)
        else:
            changed[key] = mutate_tensor(changed[key], rng)
        path = tmp_path / "x.safetensors"
        write_checkpoint(path, changed, text)
        enter(sample, path)
        if number % 10 == 0:
            folder = copy_run(run, tmp_path / "run")
            shutil.copyfile(path, folder / "checkpoints" / "latest.safetensors")
            enter(resume, folder)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_an_optimizer_file_with_wrong_content_is_a_user_error(run: Path, tmp_path: Path, amount: int) -> None:
    [path] = (run / "checkpoints").glob("*.optimizer.pt")
    states = torch.load(path, weights_only=True)
    with safe_open(run / "checkpoints" / "latest.safetensors", "pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    rng = random.Random(1)
    for _ in range(amount // 4):
        changed = copy.deepcopy(states)
        state = rng.choice(changed)
        if rng.random() < 0.5:
            state["param_groups"] = mutate(state["param_groups"], rng)
        elif rng.random() < 0.2:
            changed = mutate(changed, rng)
        else:
            entries = state["state"][rng.choice(list(state["state"]))]
            key = rng.choice(list(entries))
            entries[key] = mutate_tensor(entries[key], rng) if rng.random() < 0.8 else rng.choice(VALUES)
        folder = copy_run(run, tmp_path / "run")
        torch.save(changed, folder / "checkpoints" / path.name)
        digest = hashlib.sha256((folder / "checkpoints" / path.name).read_bytes()).hexdigest()
        write_checkpoint(
            folder / "checkpoints" / "latest.safetensors", tensors, {**metadata, "optimizer_digest": digest}
        )
        enter(resume, folder)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_configuration_with_wrong_content_is_a_user_error(run: Path, tmp_path: Path, amount: int) -> None:
    config = json.loads((run / "config.json").read_text())
    rng = random.Random(2)
    folder = copy_run(run, tmp_path / "run")
    for number in range(amount):
        (folder / "config.json").write_text(json.dumps(mutate(config, rng)))
        enter(lambda run: read_config(run).recipe.make_schedule(), folder)
        if number % 5 == 0:
            enter(resume, folder)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_damaged_log_never_blocks_a_run(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], amount: int
) -> None:
    train(RECIPE, copy_run(run, tmp_path / "whole"), resume=True, sample_every=0, save_every=0)
    content = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    records = read_metrics(tmp_path / "whole")
    (tmp_path / "log").mkdir()
    rng = random.Random(3)
    for _ in range(amount):
        i = rng.randrange(len(content))
        damaged = content[:i] + bytes([content[i] ^ 1 << rng.randrange(8)]) + content[i + 1 :]
        (tmp_path / "log" / "metrics.jsonl").write_bytes(damaged)
        capfd.readouterr()
        found = read_metrics(tmp_path / "log")
        lost = sum(record not in found for record in records)
        assert lost <= 2
        if len(found) < len(records) - 1:
            assert "damaged line(s)" in capfd.readouterr().err


def test_a_run_whose_log_is_damaged_resumes_and_says_so(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = copy_run(run, tmp_path / "run")
    log = folder / "metrics.jsonl"
    log.write_bytes(b"\xff{]\n" + log.read_bytes())
    train(RECIPE, folder, resume=True, sample_every=0, save_every=0)
    assert "1 damaged line(s), which are left out: 1" in capfd.readouterr().err
    assert (folder / "metrics.damaged.jsonl").read_bytes().startswith(b"\xff{]")
    train(RECIPE, copy_run(run, tmp_path / "other"), resume=True, sample_every=0, save_every=0)
    assert log.read_bytes() == (tmp_path / "other" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("amount", [FEW, pytest.param(FEW * 10, marks=pytest.mark.slow)])
def test_a_transformer_with_wrong_settings_is_a_user_error(transformer_run: Path, tmp_path: Path, amount: int) -> None:
    with safe_open(transformer_run / "checkpoints" / "latest.safetensors", "pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    rng = random.Random(4)
    for _ in range(amount):
        config = json.loads(metadata["config"])
        config["recipe"]["network"] = mutate(config["recipe"]["network"], rng)
        if rng.random() < 0.3:
            config["data"][rng.choice(["height", "width"])] = rng.choice([8, 1016, 1021, 1024])
        write_checkpoint(tmp_path / "x.safetensors", tensors, {**metadata, "config": json.dumps(config)})
        enter(sample, tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("network", "size", "message"),
    [
        ({"width": 4096, "depth": 64}, 32, "parameters; at most"),
        ({"depth": 10**6}, 32, "depth must be"),
        ({"head_dim": 5}, 32, "must be divisible by 4 and divide width"),
        ({"patch": 7}, 32, "do not fit the network"),
        ({"patch": 1}, 1024, "patches that fit: 16, 32, 64"),
    ],
)
def test_a_transformer_cannot_fill_the_memory(
    transformer_run: Path, tmp_path: Path, network: dict[str, int], size: int, message: str
) -> None:
    with safe_open(transformer_run / "checkpoints" / "latest.safetensors", "pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    config = json.loads(metadata["config"])
    config["recipe"]["network"].update(network)
    config["data"].update(height=size, width=size)
    write_checkpoint(tmp_path / "x.safetensors", tensors, {**metadata, "config": json.dumps(config)})
    with pytest.raises(UserError, match=message):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "change",
    [{"network": {"channels": [8192, 8192]}}, {"network": {"channels": [4096] * 8}}, {"timesteps": 200_000_000}],
)
def test_a_small_file_cannot_fill_the_memory(run: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    with safe_open(run / "checkpoints" / "latest.safetensors", "pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
    config = json.loads(metadata["config"])
    for key, value in change.items():
        config["recipe"][key] = {**config["recipe"][key], **value} if isinstance(value, dict) else value
    write_checkpoint(tmp_path / "x.safetensors", tensors, {**metadata, "config": json.dumps(config)})
    with pytest.raises(UserError, match=r"8192|parameters|timesteps"):
        load(tmp_path / "x.safetensors")
