"""Training learns, depends only on the recipe, and can be stopped in any way and resumed exactly."""

import errno
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from shapedreamer.common import progress
from shapedreamer.common.errors import UserError
from shapedreamer.common.names import RecipeName
from shapedreamer.data.files import folder
from shapedreamer.diffusion import oracle
from shapedreamer.diffusion.loss import denoising_loss, timestep_distribution
from shapedreamer.diffusion.process import to_eps
from shapedreamer.models.checkpoint import RunConfig, load_checkpoint, load_optimizers, read_config, read_metrics
from shapedreamer.models.model import find_checkpoint, load
from shapedreamer.models.recipes import RECIPES, FolderData, NoiseLevels, Recipe, get_recipe, sprites
from shapedreamer.training.loop import ORDER, epoch_order, held_out_batch, learning_rate, seeded, train, training_batch
from tests.recipe_data import data_for
from tests.tiny import CONDITIONAL, SMALL, TINY, TUNED

DATA = TINY.make_data()[0]
RANDPERM = torch.randperm


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averaged weights, optimizer states, best checkpoints and metrics are equal, bit for bit."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    for name in ("latest", "best"):
        one, two = (load_checkpoint(run / "checkpoints" / f"{name}.safetensors") for run in (a, b))
        assert (one.step, one.best_loss, one.config) == (two.step, two.best_loss, two.config)
        for x, y in ((one.network, two.network), (one.ema, two.ema)):
            assert x.keys() == y.keys()
            assert all(torch.equal(x[key], y[key]) for key in x)
    one, two = (load_checkpoint(run / "checkpoints" / "latest.safetensors") for run in (a, b))
    first, second = (load_optimizers(run / "checkpoints", c) for run, c in ((a, one), (b, two)))
    for state, other in zip(first, second, strict=True):
        assert state["param_groups"] == other["param_groups"]
        for i in state["state"]:
            assert all(torch.equal(state["state"][i][key], other["state"][i][key]) for key in state["state"][i])


def train_quietly(recipe: Recipe, out: Path) -> Path:
    """Train without sample grids and checkpoints of epochs."""
    train(recipe, out, sample_every=0, save_every=0)
    return out


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_quietly(TUNED, tmp_path_factory.mktemp("runs") / "uninterrupted")


def test_a_run_folder_contains_all_documented_files(tmp_path: Path) -> None:
    train(TINY, tmp_path / "run", sample_every=1, save_every=2)
    files = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*") if p.is_file()}
    events = {f for f in files if f.startswith("tensorboard/events")}
    assert len(events) == 1
    assert files - events == {
        "config.json",
        "metrics.jsonl",
        "loss.png",
        "loss_by_time.png",
        "checkpoints/latest.safetensors",
        "checkpoints/latest-12.optimizer.pt",
        "checkpoints/best.safetensors",
        "checkpoints/epoch-0000.safetensors",
        "checkpoints/epoch-0002.safetensors",
        "samples/epoch-0001.png",
        "samples/epoch-0002.png",
        "samples/epoch-0003.png",
    }


@pytest.mark.slow
def test_tensorboard_holds_losses_and_samples(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(TINY, tmp_path, sample_every=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/train", "loss/held_out", "speed/images_per_second"} <= set(tags["scalars"])
    assert tags["images"] == ["samples"]
    recorded = [r["loss"] for r in read_metrics(tmp_path) if "loss" in r]
    assert [s.value for s in events.Scalars("loss/train")] == pytest.approx(recorded)


def test_the_same_recipe_gives_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)  # the state of the global generator must not matter
    assert_same_run(uninterrupted, train_quietly(TUNED, tmp_path / "again"))


def test_training_does_not_use_the_global_generator(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    train_quietly(replace(TINY, epochs=1), tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_another_seed_gives_other_batches() -> None:
    density = timestep_distribution(TINY.make_schedule())
    one, two = (training_batch(replace(TINY, seed=s), DATA, density, 0) for s in (0, 1))
    assert not torch.equal(one[0], two[0])
    assert not torch.equal(one[2], two[2])


def test_an_epoch_visits_every_image_once_in_a_new_order() -> None:
    density = timestep_distribution(TINY.make_schedule())
    epochs = [torch.cat([training_batch(TINY, DATA, density, 4 * e + i)[0] for i in range(4)]) for e in range(2)]
    images = DATA.batch(torch.arange(64))[0]
    for epoch in epochs:
        assert torch.equal(*(x.flatten(1).sort(0).values for x in (epoch, images)))
    assert not torch.equal(*epochs)


@pytest.mark.parametrize("images", [1, 64, 10_007])
def test_the_order_of_an_epoch_is_that_of_randperm(images: int) -> None:
    """In int64, as it was computed at every step before it was cached, so that older runs resume to the same bits."""
    for seed, epoch in ((0, 0), (0, 1), (7, 2), (0, 0)):
        expected = torch.randperm(images, generator=seeded(seed, ORDER, epoch))
        assert torch.equal(epoch_order(seed, epoch, images).long(), expected)


def test_images_are_shuffled_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counting(n: int, **options: Any) -> Tensor:
        calls.append(n)
        return RANDPERM(n, **options)

    monkeypatch.setattr(torch, "randperm", counting)
    epoch_order.cache_clear()
    density = timestep_distribution(TINY.make_schedule())
    for step in range(8):  # two epochs
        training_batch(TINY, DATA, density, step)
    assert calls.count(len(DATA)) == 2


PEAK = """
import re, sys
from pathlib import Path
from shapedreamer.models.recipes import get_recipe
from shapedreamer.training.loop import training_batch, training_density
recipe = get_recipe("shapes", samples=int(sys.argv[1]))
data, _ = recipe.make_data()
for step in range(20):
    training_batch(recipe, data, training_density(recipe), step)
print(*re.findall(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure memory")
def test_ten_million_drawn_images_take_no_memory_except_for_their_order() -> None:
    peaks = []
    for samples in (100_000, 10_000_000):
        command = [sys.executable, "-c", PEAK, str(samples)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1000)
    assert peaks[1] - peaks[0] < 50  # MB


@pytest.mark.slow
def test_a_run_is_the_same_with_images_in_memory_and_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), np.uint8)
    for i, image in enumerate(pixels):
        place = tmp_path / "images" / "ab"[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{i}.png")
    recipe = replace(CONDITIONAL, data=FolderData(str(tmp_path / "images")), epochs=2, lr_decay=False)
    in_memory = train_quietly(recipe, tmp_path / "memory")
    train_quietly(replace(recipe, epochs=1), tmp_path / "disk")
    monkeypatch.setattr(folder, "max_bytes_in_memory", lambda: 0)
    train(recipe, tmp_path / "disk", resume=True, sample_every=0, save_every=0)
    assert_same_run(in_memory, tmp_path / "disk")


def test_labels_belong_to_their_images_and_are_dropped_image_by_image() -> None:
    density = timestep_distribution(CONDITIONAL.make_schedule())
    recipe = replace(CONDITIONAL.bind_data(DATA), label_dropout=0.3)
    unconditional = replace(recipe, network=replace(recipe.network, context=0))
    images, labels = DATA.batch(torch.arange(64))
    index = {image.numpy().tobytes(): i for i, image in enumerate(images)}
    kept = []
    for step in range(200):
        x0, _, eps, label = training_batch(recipe, DATA, density, step)
        assert label is not None
        expected = labels[[index[image.numpy().tobytes()] for image in x0]]
        has_label = label.any(1)
        assert torch.equal(label, expected * has_label[:, None])
        kept.append(has_label)
        without_labels = training_batch(unconditional, DATA, density, step)
        assert torch.equal(without_labels.eps, eps)  # labels do not change the other random numbers
        assert without_labels.label is None
    assert torch.cat(kept).double().mean().item() == pytest.approx(0.7, abs=4 * (0.3 * 0.7 / 3200) ** 0.5)
    assert any(has_label.any() and not has_label.all() for has_label in kept)  # not for whole batches
    assert torch.equal(held_out_batch(recipe, DATA, density).label, labels)  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_resumed_conditional_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    uninterrupted = train_quietly(CONDITIONAL, tmp_path / "uninterrupted")
    train(CONDITIONAL, tmp_path / "resumed", max_minutes=0.0, sample_every=0, save_every=0)
    train(CONDITIONAL, tmp_path / "resumed", resume=True, sample_every=0, save_every=0)
    assert_same_run(uninterrupted, tmp_path / "resumed")


def test_a_run_resumes_after_its_images_were_moved_but_not_after_they_changed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("before", "moved", "changed"):
        (tmp_path / name).mkdir()
    pictures = rng.integers(0, 256, (20, 8, 8), np.uint8)
    np.save(tmp_path / "before" / "a.npy", pictures)
    np.save(tmp_path / "moved" / "a.npy", pictures)
    pictures[7, 3, 3] ^= 1
    np.save(tmp_path / "changed" / "a.npy", pictures)
    recipe = replace(TINY, data=FolderData(str(tmp_path / "before")), epochs=1)
    train_quietly(recipe, tmp_path / "run")
    assert read_config(tmp_path / "run").recipe.data.samples == 18
    longer = replace(recipe, data=FolderData(str(tmp_path / "moved")), epochs=2)
    train(longer, tmp_path / "run", resume=True, sample_every=0)
    assert read_config(tmp_path / "run").recipe.epochs == 2
    with pytest.raises(UserError, match=r"the images of moved have changed since .* was started"):
        train(replace(longer, data=FolderData(str(tmp_path / "changed"))), tmp_path / "run", resume=True)


def test_the_held_out_batch_is_fixed_and_not_from_the_training_set() -> None:
    density = timestep_distribution(TINY.make_schedule())
    batch, again = (held_out_batch(TINY, TINY.make_data()[1], density) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(batch[:3], again[:3], strict=True))
    training = {image.numpy().tobytes() for image in DATA.batch(torch.arange(64))[0]}
    shared = [image for image in batch[0] if image.numpy().tobytes() in training]
    assert len(shared) <= 3  # small shapes can occur in both by chance


def test_the_learning_rate_warms_up_and_then_falls() -> None:
    recipe = replace(TUNED, warmup=3, lr=1.0)
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates[:4] == pytest.approx([0.25, 0.5 * 11 / 12, 0.75 * 10 / 12, 9 / 12])
    assert rates[-1] == pytest.approx(1 / 12)
    assert {learning_rate(replace(recipe, lr_decay=False, warmup=0), step) for step in range(12)} == {1.0}


def test_the_learning_rate_falls_in_the_last_share_of_the_run() -> None:
    recipe = replace(TUNED, warmup=1, lr=1.0, lr_decay=1 / 3)  # 12 steps, of which the last 4 fall
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates == [0.5, *[1.0] * 8, 0.75, 0.5, 0.25]
    assert recipe.decay_start == 8
    for share, start in ((0.0, 12), (0.01, 12), (0.3, 8), (0.5, 6), (1.0, 0)):
        assert replace(recipe, lr_decay=share).decay_start == start


@pytest.mark.parametrize(("old", "share"), [(True, 1.0), (False, 0.0)])
def test_a_decay_of_older_runs_gives_the_same_learning_rates(old: bool, share: float) -> None:
    recipe = replace(TUNED, warmup=3, lr_decay=old)
    for step in range(recipe.steps):  # the formula of older versions, bit for bit
        expected = recipe.lr * min(1.0, (step + 1) / 4) * (1 - step / recipe.steps if old else 1.0)
        assert learning_rate(recipe, step) == expected
    assert recipe == replace(TUNED, warmup=3, lr_decay=share)
    spec = TINY.make_data()[0].spec
    stored = RunConfig(recipe, spec).to_json()
    before = json.dumps(json.loads(stored) | {"recipe": json.loads(stored)["recipe"] | {"lr_decay": old}})
    read = RunConfig.from_json(before.encode(), Path("config.json"))
    assert read.recipe == recipe
    assert type(read.recipe.lr_decay) is float


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, "true"])
def test_a_decay_must_be_a_share(value: Any) -> None:
    with pytest.raises(UserError, match="lr_decay must be"):
        replace(TUNED, lr_decay=value)


@pytest.mark.slow
def test_epochs_can_be_added_until_the_learning_rate_falls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 4 steps an epoch, the rate of 2 epochs falls after step 5, that of 3 epochs after step 7."""
    monkeypatch.setattr("shapedreamer.training.log.RunLog.plots", lambda log: None)  # they take most of the time
    short, long = (replace(TUNED, epochs=epochs, lr_decay=0.5) for epochs in (2, 3))
    assert (short.decay_start, long.decay_start) == (4, 6)
    for steps, out in ((5, tmp_path / "before"), (6, tmp_path / "after")):
        stop_after(short, out, steps)
    train(long, tmp_path / "before", resume=True, sample_every=0, save_every=0)
    assert_same_run(train_quietly(long, tmp_path / "at_once"), tmp_path / "before")
    with pytest.raises(UserError, match=r"cannot change epochs = 2 of .* to 3 after 6 steps: .* falls after step 5"):
        train(long, tmp_path / "after", resume=True)
    train(short, tmp_path / "after", resume=True, sample_every=0, save_every=0)
    assert_same_run(train_quietly(short, tmp_path / "short"), tmp_path / "after")


def stop_after(recipe: Recipe, out: Path, steps: int) -> None:
    """Train the first steps of a recipe, and save."""
    done = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shapedreamer.training.log.RunLog.out_of_time", lambda _: next(done) == steps)
        train(recipe, out, max_minutes=1, sample_every=0, save_every=0)
    assert load_checkpoint(out / "checkpoints" / "latest.safetensors").step == steps


@pytest.mark.slow
def test_adding_epochs_to_a_run_equals_training_them_at_once(tmp_path: Path) -> None:
    train_quietly(replace(TINY, epochs=1), tmp_path / "extended")
    train(TINY, tmp_path / "extended", resume=True, sample_every=0, save_every=0)
    assert_same_run(train_quietly(TINY, tmp_path / "at_once"), tmp_path / "extended")


SCRIPT = """
import sys
from pathlib import Path
from shapedreamer.training import log
from shapedreamer.training.loop import train
sys.path.insert(0, {root!r})
from tests.tiny import TUNED
log.SECONDS_BETWEEN_LINES = -1  # print a line after every step, for the test to read
log.RunLog.plots = lambda log: None  # they would take most of the time
train(TUNED, Path({out!r}), resume={resume}, sample_every=0, save_every=0)
"""


def start(out: Path, resume: bool) -> subprocess.Popen[str]:
    """Train TUNED in another process."""
    code = SCRIPT.format(root=str(Path(__file__).parents[2]), out=str(out), resume=resume)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def kill_after(out: Path, resume: bool, lines: int, number: int) -> int:
    """Train in another process, send it a signal after it has printed `lines` lines, and return its exit code."""
    with start(out, resume) as process:
        assert process.stderr is not None
        for _ in range(lines):
            if not process.stderr.readline():
                break
        process.send_signal(number)
        process.stderr.read()
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_at_random_moments_and_resumed_equals_an_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    out = tmp_path / "killed"
    kill_after(out, False, rng.randrange(1, 6), signal.SIGKILL)
    for _ in range(2):
        load_checkpoint(out / "checkpoints" / "latest.safetensors")  # readable after every kill
        kill_after(out, True, rng.randrange(1, 6), signal.SIGKILL)
    with start(out, True) as process:
        assert process.stderr is not None
        errors = process.stderr.read()
    assert process.returncode == 0, errors
    assert_same_run(uninterrupted, out)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, None), (signal.SIGTERM, 143)])
def test_a_signal_stops_and_saves_a_run_that_resumes_exactly(
    uninterrupted: Path, tmp_path: Path, number: int, code: int | None
) -> None:
    out = tmp_path / "stopped"
    returned = kill_after(out, False, 2, number)
    assert returned == code or (code is None and returned in (1, -signal.SIGINT, 130))
    stopped_at = load_checkpoint(out / "checkpoints" / "latest.safetensors").step
    assert stopped_at == [r["step"] for r in read_metrics(out) if "loss" in r][-1] > 0
    train(TUNED, out, resume=True, sample_every=0, save_every=0)
    assert_same_run(uninterrupted, out)


def test_max_minutes_stops_and_saves_a_run_that_resumes_exactly(uninterrupted: Path, tmp_path: Path) -> None:
    train(TUNED, tmp_path, max_minutes=0.0, sample_every=0, save_every=0)
    assert load_checkpoint(tmp_path / "checkpoints" / "latest.safetensors").step == 1
    train(TUNED, tmp_path, resume=True, sample_every=0, save_every=0)
    assert_same_run(uninterrupted, tmp_path)


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    """Other threads, such as those of a notebook or a server, cannot receive signals."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            train_quietly(replace(TINY, epochs=1), tmp_path)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert read_metrics(tmp_path)


def test_a_run_starts_from_the_averaged_weights_of_another(uninterrupted: Path, tmp_path: Path) -> None:
    recipe, start = replace(TUNED, seed=1, weight="balanced"), load_checkpoint(find_checkpoint(uninterrupted))
    train(recipe, tmp_path / "whole", start_from=uninterrupted, sample_every=0, save_every=1)
    first = load_checkpoint(tmp_path / "whole" / "checkpoints" / "epoch-0000.safetensors")
    for state in (first.network, first.ema):
        assert state.keys() == start.ema.keys()
        assert all(torch.equal(state[key], start.ema[key]) for key in state)
    expected = replace(recipe, start=start.digest, threads=torch.get_num_threads())
    assert read_config(tmp_path / "whole").recipe == expected

    train(recipe, tmp_path / "part", start_from=uninterrupted, max_minutes=0, sample_every=0, save_every=0)
    train(recipe, tmp_path / "part", resume=True, sample_every=0, save_every=0)
    assert_same_run(tmp_path / "whole", tmp_path / "part")


def test_a_run_starts_only_from_a_model_with_its_network(uninterrupted: Path, tmp_path: Path) -> None:
    wider = replace(TUNED, network=replace(SMALL, channels=(16, 16)))
    with pytest.raises(UserError, match="weights of start_from do not fit the network of the recipe"):
        train(wider, tmp_path, start_from=uninterrupted)
    with pytest.raises(UserError, match="there is no run or checkpoint nowhere"):
        train(TUNED, tmp_path, start_from="nowhere")
    with pytest.raises(UserError, match="starts from the weights of another model; name it with `start_from`"):
        train(replace(TUNED, start="0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_errors_say_why_a_run_cannot_be_resumed(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already holds a run: continue it with `resume=True`"):
        train(TUNED, uninterrupted)
    with pytest.raises(UserError, match=r"was started with lr = 0\.001, not 0\.01; resume with the same settings"):
        train(replace(TUNED, lr=0.01), uninterrupted, resume=True)
    with pytest.raises(UserError, match=r"network\.channels"):
        train(replace(TUNED, network=replace(SMALL, channels=(16, 16))), uninterrupted, resume=True)
    with pytest.raises(UserError, match=r"epochs = 3, not 4"):  # the learning rate would fall more slowly
        train(replace(TUNED, epochs=4), uninterrupted, resume=True)
    with pytest.raises(UserError, match="not a run folder"):
        train(TUNED, tmp_path / "nowhere", resume=True)


def test_a_run_with_a_missing_or_damaged_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    train_quietly(TINY, tmp_path)
    latest = tmp_path / "checkpoints" / "latest.safetensors"
    content = latest.read_bytes()
    latest.write_bytes(content[:-5])
    with pytest.raises(UserError, match="damaged"):
        train(TINY, tmp_path, resume=True)
    latest.unlink()
    with pytest.raises(UserError, match="there is no checkpoint"):
        train(TINY, tmp_path, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no longer finite at step \d+ \(epoch \d+, batch \d+, noise level t = \d+"):
        train(replace(TINY, lr=1e30, epochs=30), tmp_path)
    kept = load_checkpoint(tmp_path / "checkpoints" / "latest.safetensors")
    assert all(torch.isfinite(w).all() for w in kept.network.values())


@pytest.mark.parametrize("written", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 8))])
def test_a_full_disk_at_any_write_leaves_a_run_that_resumes_exactly(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    fsync, calls = os.fsync, 0

    def fsync_on_a_full_disk(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 2 * written + 8:  # after the first checkpoint; each write syncs a file and its folder
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_on_a_full_disk)
        with pytest.raises(UserError, match="no room on the disk"):
            train(TUNED, tmp_path, sample_every=0, save_every=0)
    train(TUNED, tmp_path, resume=True, sample_every=0, save_every=0)
    assert_same_run(uninterrupted, tmp_path)


@pytest.mark.slow
def test_the_loss_lies_between_the_exact_denoisers_and_the_baseline(tmp_path: Path) -> None:
    """The held-out loss falls below that of predicting zero, and stays above that of the exact denoiser."""
    recipe = replace(TINY, epochs=30, lr=5e-3)
    train(recipe, tmp_path, sample_every=0, save_every=0)
    held_out = [r["held_out"] for r in read_metrics(tmp_path) if "held_out" in r]
    schedule = recipe.make_schedule()
    x0, t, eps, _ = held_out_batch(recipe, recipe.make_data()[1], timestep_distribution(schedule))
    baseline = eps.square().mean().item()
    assert held_out[-1] < 0.85 * baseline

    denoise = oracle.finite_data(x0, schedule)  # of the held-out images themselves

    def exact_eps(x_t: Tensor, t: Tensor) -> Tensor:
        return to_eps(denoise(x_t, t), x_t, t, schedule)

    lower_bound = denoising_loss(exact_eps, x0, t, eps, schedule, "eps").mean().item()
    assert lower_bound < held_out[-1]


def test_loss_by_time_covers_all_noise_levels(uninterrupted: Path) -> None:
    records = [r for r in read_metrics(uninterrupted) if "held_out" in r]
    assert [r["epoch"] for r in records] == [1, 2, 3]
    times = [t for t, _ in records[-1]["by_time"]]
    assert len(times) == 10
    assert times == sorted(times)
    assert min(times) < 10
    assert max(times) > 40


def test_the_best_checkpoint_has_the_lowest_held_out_loss(tmp_path: Path) -> None:
    """With this learning rate training diverges, so the best checkpoint is not the last."""
    train(replace(TINY, lr=0.3, epochs=6), tmp_path, sample_every=0, save_every=0)
    held_out = {r["step"]: r["held_out"] for r in read_metrics(tmp_path) if "held_out" in r}
    best = load_checkpoint(tmp_path / "checkpoints" / "best.safetensors")
    assert held_out[best.step] == min(held_out.values()) == best.best_loss


@pytest.mark.parametrize(("elapsed", "done", "total", "left"), [(30, 10, 40, 90), (5, 40, 40, 0)])
def test_time_left_assumes_the_speed_so_far(elapsed: float, done: int, total: int, left: float) -> None:
    assert progress.time_left(elapsed, done, total) == left
    assert math.isnan(progress.time_left(1, 0, 10))


def test_clock_formats_durations() -> None:
    assert [progress.clock(s) for s in (12.3, 75, 4000, math.nan)] == ["12s", "1m15s", "1h06m", "?"]


def test_metrics_contain_only_values_that_the_recipe_determines(uninterrupted: Path) -> None:
    lines = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert {frozenset(line) for line in lines} == {
        frozenset({"step", "epoch", "loss", "lr"}),
        frozenset({"step", "epoch", "held_out", "by_time"}),
    }
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 13))


@pytest.mark.slow
def test_the_command_line_and_python_give_the_same_bits(tmp_path: Path) -> None:
    options = "--epochs 1 --samples 128 --batch-size 32 --timesteps 100 --seed 3 --sample-every 0".split()
    command = [sys.executable, "-m", "shapedreamer.cli", "train", "sprites", *options, "--out", str(tmp_path / "a")]
    subprocess.run(command, check=True, capture_output=True)
    recipe = sprites(epochs=1, samples=128, batch_size=32, timesteps=100, seed=3)
    assert_same_run(tmp_path / "a", train_quietly(recipe, tmp_path / "b"))


@pytest.mark.parametrize("timesteps", [1, 2])
def test_the_shortest_schedules_train(timesteps: int, tmp_path: Path) -> None:
    assert train(replace(TUNED, timesteps=timesteps, epochs=1), tmp_path).schedule.T == timesteps


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_samples_with_flow_matching(name: RecipeName, tmp_path: Path) -> None:
    data, flow = data_for(name, tmp_path / "images"), {"schedule": "flow", "prediction": "flow"}
    recipe = get_recipe(name, data=data, samples=4, batch_size=4, epochs=1, **flow)
    model = load(train_quietly(recipe, tmp_path / "run"))
    assert (model.prediction, model.schedule.alpha_bar[-1].item()) == ("flow", 0)
    images = model.sample(1, sampler="midpoint", steps=2)
    assert images.isfinite().all()
    assert images.abs().max() <= 1


def test_noise_levels_outside_of_the_schedule_are_an_error(tmp_path: Path) -> None:
    recipe = replace(TUNED, noise_levels=NoiseLevels(90, 0.1, 0))
    with pytest.raises(UserError, match=r"choose a mean between .* or a larger std"):
        train(recipe, tmp_path)
    assert list(tmp_path.iterdir()) == []
