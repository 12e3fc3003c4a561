"""A folder of shards: the same images for any number of processes, resumed after interruptions, never half-written."""

import io
import json
import math
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shapedreamer import cli
from shapedreamer.common.errors import UserError
from shapedreamer.common.lock import lock_folder
from shapedreamer.imaging import figures, render
from shapedreamer.imaging.shards import is_folder, make_index, write_shards
from shapedreamer.models.checkpoint import RunConfig, save_checkpoint
from shapedreamer.models.model import Model, load
from shapedreamer.models.options import SampleOptions
from tests.random_weights import randomise
from tests.tiny import CONDITIONAL
from tests.training.test_processes import finish, start, torchrun, without_launcher

OPTIONS = SampleOptions(steps=2, seed=5)
NUM = 150  # in shards of 66: three shards, the last of 18, with batches of 64, 2 and 18
SAME = {"num": NUM, "shard_size": 66}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights and labels."""
    folder = tmp_path_factory.mktemp("shards")
    data, _ = CONDITIONAL.make_data()
    recipe = CONDITIONAL.bind_data(data)
    network = recipe.make_network()
    randomise(network)
    _, labels = data.batch(torch.arange(16))
    save_checkpoint(folder, "model", RunConfig(recipe, data.spec), 0, {}, network.state_dict(), math.inf, labels)
    return folder / "model.safetensors"


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return load(run, precision="float32")


@pytest.fixture(scope="module")
def alone(run: Path, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a single process has filled."""
    return write(model, tmp_path_factory.mktemp("alone") / "out", name=str(run))


def write(model: Model, out: Path, options: SampleOptions = OPTIONS, **more: Any) -> Path:
    return write_shards(model, out, options=options, **(SAME | more))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def command(run: Path, out: Path, *more: str) -> list[str]:
    options = f"--num {NUM} --shard-size 66 --steps 2 --seed 5 --precision float32".split()
    return ["-m", "shapedreamer", "sample", str(run), *options, "--out", f"{out}/", *more]


def shapedreamer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints on stderr, and its error on one line."""
    monkeypatch.setattr(sys, "argv", ["shapedreamer", *map(str, arguments)])
    code = cli.main()
    text = capsys.readouterr().err
    assert code == (2 if "error:" in text else 0)
    return text


# The images


def test_the_shards_hold_the_images_of_the_seed(model: Model, alone: Path) -> None:
    names = [f"samples-0000{i}.npy" for i in range(3)]
    assert sorted(contents(alone)) == ["index.json", *names]
    images = np.concatenate([np.load(alone / name) for name in names])
    assert [len(np.load(alone / name)) for name in names] == [66, 66, 18]
    assert images.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(images), model.sample(NUM, OPTIONS), rtol=0, atol=1e-5)


def test_two_processes_write_the_same_bytes_as_one(run: Path, alone: Path, tmp_path: Path) -> None:
    codes, errors = finish(start(2, command(run, tmp_path / "two")))
    assert codes == [0, 0], errors
    assert contents(tmp_path / "two") == contents(alone)
    assert errors.count(f"sampling 150 images into {tmp_path / 'two'}, 3 shards of up to 66, in 2 processes") == 1


@pytest.mark.slow
def test_both_launchers_write_the_same_bytes(run: Path, alone: Path, tmp_path: Path) -> None:
    """Three processes of torchrun, which without the -- takes --num for an option of its own, and two of --devices."""
    words = command(run, tmp_path / "torchrun")[1:]
    for launched in (
        [*torchrun("--nproc-per-node", "3", "-m"), "--", *words],
        command(run, tmp_path / "devices", "--devices", "2"),
    ):
        process = [sys.executable, *launched]
        done = subprocess.run(process, env=without_launcher(), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    for name in ("torchrun", "devices"):
        assert contents(tmp_path / name) == contents(alone)


# Interruptions


def test_a_second_call_writes_only_what_is_missing_or_cut_off(model: Model, alone: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(alone, tmp_path / "out"))
    (out / "samples-00000.npy").unlink()
    with (out / "samples-00002.npy").open("r+b") as file:
        file.truncate(5000)
    (out / ".samples-00001.npy.1234.tmp").write_bytes(b"left by a killed process")
    before = (out / "samples-00001.npy").stat().st_mtime_ns
    write(model, out)
    assert (out / "samples-00001.npy").stat().st_mtime_ns == before
    assert {k: v for k, v in contents(out).items() if k != "index.json"} == {
        k: v for k, v in contents(alone).items() if k != "index.json"
    }


def test_ctrl_c_keeps_complete_shards_and_says_how_to_continue(
    model: Model, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def press(*arguments: Any) -> None:
        save(*arguments)
        raise KeyboardInterrupt

    save = render.save_array
    with monkeypatch.context() as patch:
        patch.setattr(render, "save_array", press)
        with pytest.raises(KeyboardInterrupt):
            write(model, tmp_path / "out", command="THE COMMAND")
    assert "Continue with: THE COMMAND" in capsys.readouterr().err
    assert sorted(contents(tmp_path / "out")) == ["index.json", "samples-00000.npy"]
    write(model, tmp_path / "out")
    assert "3 shards of up to 66, 1 of them complete" in capsys.readouterr().err.replace("\n", " ")
    for name in ("samples-00000.npy", "samples-00002.npy"):
        assert (tmp_path / "out" / name).read_bytes() == (alone / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_with_the_command_to_continue(run: Path, tmp_path: Path, killed: int) -> None:
    out = tmp_path / "out"
    words = ["-m", "shapedreamer", "sample", str(run), "--num", "1000000", "--shard-size", "100", "--out", f"{out}/"]
    processes = start(2, words)
    for _ in range(600):
        if out.is_dir() and len(list(out.glob("*.npy"))) > 3:
            break
        time.sleep(0.1)
    processes[killed].send_signal(signal.SIGKILL)
    codes, errors = finish(processes, 120)
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] == 2
    assert errors.count("error:") == 1
    assert f"Continue with: shapedreamer sample {run} --num 1000000 --shard-size 100 --out {out}/ --devices 2" in errors
    assert "Traceback" not in errors
    shape = (100, 1, 32, 32)
    assert all(np.load(path).shape == shape for path in out.glob("*.npy"))


# Settings


def test_other_settings_are_refused_by_name(run: Path, model: Model, alone: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(alone, tmp_path / "out"))
    before = contents(out)
    for more, message in (
        ({"num": 151}, "was started with num = 150, not 151; use the same settings, or choose a new folder"),
        ({"shard_size": 64}, "shard_size = 66, not 64"),
        ({"shards": "tar"}, "shards = 'npy', not 'tar'"),
        ({"options": replace(OPTIONS, seed=6, label="circle")}, "seed = 5, not 6, label = 'any', not 'circle'"),
        ({"options": replace(OPTIONS, sampler="heun", steps=4)}, "sampler = .*, not 'heun', steps = 2, not 4"),
    ):
        with pytest.raises(UserError, match=message):
            write(model, out, **more)
    other = load(run, precision="float32")
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    with pytest.raises(UserError, match="was started with weights = '"):
        write(other, out, name=str(run))
    with pytest.raises(UserError, match=r"was started with model = '.*', not 'cats'; use"):
        write(other, out, name="cats")
    assert contents(out) == before
    write(model, out, name="the same model under another path")
    assert contents(out) == before


def test_an_index_describes_every_setting(model: Model) -> None:
    index = make_index(model, 5, SampleOptions(steps=[50, 20, 0], label={"circle": 2.0}))
    stored = json.loads(index.to_json())
    assert (stored["steps"], stored["label"], stored["num"], stored["precision"]) == (
        [50, 20, 0],
        {"circle": 2.0},
        5,
        "float32",
    )
    assert json.loads(make_index(model, 5, SampleOptions(label=[0, 1, 0, 0])).to_json())["label"] == [0, 1, 0, 0]


# Tar


def test_a_tar_holds_pictures_and_labels(model: Model, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(model, tmp_path / name, shards="tar")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    expected = render.to_uint8(model.sample(NUM, OPTIONS))
    labels = model.label_vectors("any", NUM, OPTIONS.seed)
    assert labels is not None
    with tarfile.open(tmp_path / "a" / "samples-00001.tar") as tar:
        assert tar.getnames()[:2] == ["000000066.png", "000000066.json"]
        assert len(tar.getnames()) == 132
        for k in (66, 131):
            with Image.open(io.BytesIO(tar.extractfile(f"{k:09d}.png").read())) as picture:  # type: ignore[union-attr]
                assert picture.mode == "L"
                assert abs(np.asarray(picture).astype(int) - expected[k, :, :, 0]).max() <= 1
            amounts = json.loads(tar.extractfile(f"{k:09d}.json").read())  # type: ignore[union-attr]
            assert [amounts.get(name, 0) for name in model.spec.labels] == labels[k].tolist()


def test_a_cut_off_tar_is_written_again(model: Model, tmp_path: Path) -> None:
    write(model, tmp_path, shards="tar")
    before = contents(tmp_path)
    for size in (0, 10240, 12345):
        with (tmp_path / "samples-00000.tar").open("r+b") as file:
            file.truncate(size)
        write(model, tmp_path, shards="tar")
        assert contents(tmp_path) == before


def test_a_class_is_a_number(model: Model, tmp_path: Path) -> None:
    write(model, tmp_path, replace(OPTIONS, label="triangle"), num=3, shards="tar")
    with tarfile.open(tmp_path / "samples-00000.tar") as tar:
        assert tar.getnames()[:2] == ["000000000.png", "000000000.cls"]
        assert tar.extractfile("000000002.cls").read() == b"2"  # type: ignore[union-attr]


# Bad input


def test_values_that_cannot_work_write_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, message in (
        (("--out", "d/", "--num", "0"), "num must be at least 1, not 0"),
        (("--out", "d", "--num", 2**33), "num must be between 1 and 4294967296, not 8589934592"),
        (("--out", "d", "--num", 2**31, "--shard-size", "1"), "more than 1000000 shards; use --shard-size 2148 or"),
        (("--out", "d", "--shard-size", "0"), "shard_size must be at least 1, not 0"),
        (("--out", "d", "--sweep", "label"), "d is a folder of arrays: leave out --sweep and --show-process"),
        (("--out", "d", "--show-process"), "d is a folder of arrays: leave out --sweep and --show-process"),
        (("--out", "a.npy", "--shards", "tar"), "are for a folder; end --out with /"),
        (("--out", "d", "--devices", "999"), "there cannot be 999 processes"),
        (("--out", "d", "--steps", "51"), "steps must be between 1 and 50"),
        (("--out", "d", "--label", "cat"), "no label 'cat'"),
        (("--out", ""), "--out is empty"),
    ):
        text = shapedreamer(monkeypatch, capsys, "sample", run, *options)
        assert message in text
        assert text.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_folders_that_are_not_ours_are_left_alone(model: Model, tmp_path: Path) -> None:
    for name, content, message in (
        ("holiday.jpg", "x", "already holds other files, such as holiday.jpg; choose a new folder"),
        ("index.json", "{}", "index.json does not describe samples"),
        ("index.json", "<html>", "index.json does not describe samples"),
    ):
        out = tmp_path / "out"
        out.mkdir()
        (out / name).write_text(content)
        with pytest.raises(UserError, match=message):
            write(model, out)
        assert contents(out) == {name: content.encode()}
        shutil.rmtree(out)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file is a file; choose the name of a folder"):
        write(model, tmp_path / "file")
    with pytest.raises(UserError, match="cannot write /proc/nothing"):
        write(model, Path("/proc/nothing"))
    with lock_folder(tmp_path / "locked"), pytest.raises(UserError, match="is in use by process"):
        write(model, tmp_path / "locked")
    (tmp_path / "empty").mkdir()
    write(model, tmp_path / "empty", num=1)


@pytest.mark.parametrize("kind", ["npy", "tar"])
def test_a_full_disk_leaves_no_part_of_a_shard(
    model: Model, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files stands in for a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"no room on the disk for .*samples-00000.* MB\); free some space"):
            write(model, tmp_path, shards=kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(contents(tmp_path)) == ["index.json"]
    write(model, tmp_path, shards=kind)


def test_what_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "dots.v2").mkdir()
    folders: list[str | Path] = ["many/", "many", "v1.2/", tmp_path / "many", tmp_path / "dots.v2"]
    assert [is_folder(out) for out in folders] == [True] * 5
    for out in ("a.png", "a/b.npy", Path("x.gif"), "a.txt"):
        assert not is_folder(out)


# Memory


def test_an_array_is_written_like_numpy_writes_it(tmp_path: Path) -> None:
    images = torch.rand(3, 2, 5, 4)
    render.save_array(images, tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", images.numpy())
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_an_array_needs_no_history(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are the same with and without the moments that an animation needs."""
    figures.write_samples(model, tmp_path / "a.png", 70, OPTIONS, show_process=True)
    monkeypatch.setattr(figures, "history", None)
    figures.write_samples(model, tmp_path / "b.png", 70, OPTIONS)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


# ru_maxrss would not do: a process inherits it from the one that started it, here pytest, which hides its own peak
PEAK = """
import re, sys, torch
from pathlib import Path
from shapedreamer.imaging.figures import write_samples
from shapedreamer.models.model import load
from shapedreamer.models.options import SampleOptions
def memory(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
torch.set_num_threads(1)
model, options = load(sys.argv[1]), SampleOptions(sampler="ddim", steps=1)
model.sample(64, options)
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = memory("VmRSS")
if sys.argv[2].endswith(".npy"):
    write_samples(model, sys.argv[2], int(sys.argv[3]), options)
else:
    from shapedreamer.imaging.shards import write_shards
    write_shards(model, sys.argv[2], int(sys.argv[3]), options, shard_size=256)
print("MiB:", memory("VmHWM") - before, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to measure memory")
def test_memory_does_not_grow_with_the_number_of_images(run: Path, tmp_path: Path) -> None:
    """8,000 images are 31 MiB: an array is in memory about once, without its history, and of a folder one shard."""
    peaks = []
    for out in ("a.npy", "folder"):
        codes, text = finish(start(1, ["-c", PEAK, str(run), str(tmp_path / out), "8000"]))
        assert codes == [0], text
        peaks.append(float(text.rpartition("MiB:")[2]))
    assert 28 < peaks[0] < 62  # less than 28 would mean that it is not measured
    assert peaks[1] < 15
