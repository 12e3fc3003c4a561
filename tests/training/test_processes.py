"""Several processes train the same model as one, stop together, and end with one clear message if one of them dies."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from shapedreamer import cli
from shapedreamer.common import device
from shapedreamer.common.errors import UserError
from shapedreamer.common.processes import Group, connect
from shapedreamer.models.checkpoint import load_checkpoint, read_config, read_metrics
from shapedreamer.models.recipes import DrawnData
from shapedreamer.training.loop import train, training_batch, training_density
from tests.tiny import CONDITIONAL, TINY, TUNED

ROOT = Path(__file__).parents[2]
# 52 steps an epoch
MANY = DrawnData("shapes", samples=52 * 16)
RECIPES = {
    name: replace(recipe, data=MANY, epochs=1)
    for name, recipe in {"tiny": TINY, "tuned": TUNED, "conditional": CONDITIONAL}.items()
}
RECIPES["short"] = replace(TUNED, epochs=3)  # 12 steps

# What one of the processes runs. In float32, so that the results of different numbers of processes are close.
SCRIPT = """
import sys
sys.modules["torch.utils.tensorboard"] = None  # no plots
from dataclasses import replace
from shapedreamer.common import device
device.has_fast_bf16 = lambda device: False
from shapedreamer.training import fabric, optim
optim.has_fast_bf16 = fabric.has_fast_bf16 = device.has_fast_bf16
from shapedreamer.training.loop import train
from shapedreamer.training.distillation import distill
from tests.training.test_processes import RECIPES
"""
TRAIN = "train(replace(RECIPES[{name!r}], threads=1), {out!r}, resume={resume}, sample_every=0, "
TRAIN += "save_every=0, accumulate={accumulate}, max_minutes={max_minutes})\n"


@pytest.fixture
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    from shapedreamer.training import fabric, optim

    for module in (device, optim, fabric):
        monkeypatch.setattr(module, "has_fast_bf16", lambda device: False)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # no plots


def environment(rank: int, size: int, port: int, **more: str) -> dict[str, str]:
    numbers = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    numbers_as_text = {key: str(value) for key, value in numbers.items()}
    return clean | numbers_as_text | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path} | more


def without_launcher() -> dict[str, str]:
    """The environment of a command that starts its own processes."""
    launcher = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {key: value for key, value in environment(0, 1, 0).items() if key not in launcher}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(size: int, arguments: list[str], **more: str) -> list["subprocess.Popen[str]"]:
    """Start `python ARGUMENTS` in several processes, as a launcher does."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments], env=environment(rank, size, port, **more), stderr=subprocess.PIPE, text=True
        )
        for rank in range(size)
    ]


def finish(processes: list["subprocess.Popen[str]"], timeout: float = 600) -> tuple[list[int], str]:
    """The exit codes of the processes, and all that they have written to stderr."""
    try:
        errors = "".join(process.communicate(timeout=timeout)[1] for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    return [process.returncode for process in processes], errors


FORK = """
import os
for size, port, call in {jobs!r}:
    for rank in map(str, range(size)):
        if os.fork() == 0:
            numbers = {{"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_PORT": str(port)}}
            os.environ |= {{"RANK": rank, "LOCAL_RANK": rank, **numbers}}
            exec(call)
            sys.exit()
    if any([os.wait()[1] for _ in range(size)]):
        sys.exit("failed: " + call)
"""


def run_in(*jobs: tuple[int, str]) -> None:
    """Run each call (a line of Python) in its own number of processes, one call after the other.

    The processes are forked, to import the package once.
    """
    with_ports = [(size, free_port(), call) for size, call in jobs]
    codes, errors = finish(start(1, ["-c", SCRIPT + FORK.format(jobs=with_ports)]))
    assert codes == [0], errors


def training(
    size: int,
    out: Path,
    name: str,
    resume: bool = False,
    accumulate: int = 1,
    max_minutes: float | None = None,
) -> tuple[int, str]:
    """A training in this many processes, for `run_in`."""
    settings = {"resume": resume, "accumulate": accumulate, "max_minutes": max_minutes}
    return size, TRAIN.format(name=name, out=str(out), **settings).strip()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Train a recipe in one process, or return the run that another test has trained. For tests with `float32`."""

    @cache
    def train_alone(name: str) -> Path:
        out = tmp_path_factory.mktemp("alone") / name
        train(replace(RECIPES[name], threads=1), out, sample_every=0, save_every=0)
        return out

    return train_alone


def assert_close_runs(one: Path, other: Path, losses: float = 1e-5, weights: float = 1e-4) -> None:
    """The same configuration, every loss within `losses`, and every weight within `weights`."""
    assert (one / "config.json").read_bytes() == (other / "config.json").read_bytes()
    first, second = (read_metrics(run) for run in (one, other))
    assert [record["step"] for record in first] == [record["step"] for record in second]
    for a, b in zip(first, second, strict=True):
        for key in {"loss", "held_out"} & a.keys():
            assert a[key] == pytest.approx(b[key], abs=losses)
    this, that = (load_checkpoint(run / "checkpoints" / "latest.safetensors") for run in (one, other))
    assert this.step == that.step
    for x, y in ((this.network, that.network), (this.ema, that.ema)):
        assert max((x[key] - y[key]).abs().max().item() for key in x) < weights


# The same training for any number of processes


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_shares_of_all_processes_are_the_batch_of_one(size: int) -> None:
    data = TINY.make_data()[0]
    recipe = CONDITIONAL.bind_data(data)
    density = training_density(recipe)
    whole = training_batch(recipe, data, density, 5)
    shares = [training_batch(recipe, data, density, 5, Group(rank, size).share(16)) for rank in range(size)]
    for column, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(column, torch.cat(parts))  # type: ignore[arg-type]
    for part, rows in zip(whole.split(4), torch.arange(16).split(4), strict=True):
        assert torch.equal(part.eps, whole.eps[rows])


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_two_processes_train_the_same_model_as_one(alone: Callable[[str], Path], tmp_path: Path) -> None:
    """52 steps with Muon, gradient clipping and dropped labels."""
    run_in(training(2, tmp_path / "two", "conditional"))
    assert_close_runs(alone("conditional"), tmp_path / "two")


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("name", ["tiny", "tuned"])
def test_any_number_of_processes_and_micro_batches_trains_the_same_model(
    name: str, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    others = {
        tmp_path / f"{size}x{accumulate}": (size, accumulate) for size, accumulate in ((2, 1), (4, 1), (2, 4), (1, 4))
    }
    run_in(*(training(size, out, name, accumulate=accumulate) for out, (size, accumulate) in others.items()))
    for out in others:
        assert_close_runs(alone(name), out)


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_a_run_resumes_with_another_number_of_processes(alone: Callable[[str], Path], tmp_path: Path) -> None:
    runs = {tmp_path / f"{before} to {after}": (before, after) for before, after in ((1, 2), (2, 1), (2, 2))}
    run_in(*(training(before, run, "tiny", max_minutes=0) for run, (before, _) in runs.items()))
    for run in runs:
        assert load_checkpoint(run / "checkpoints" / "latest.safetensors").step == 1
    run_in(*(training(after, run, "tiny", resume=True) for run, (_, after) in runs.items()))
    for run in runs:
        assert_close_runs(alone("tiny"), run)


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
@pytest.mark.parametrize("dmd_weight", [0.0, 0.5])
def test_two_processes_distill_the_same_student_as_one(
    dmd_weight: float, alone: Callable[[str], Path], tmp_path: Path
) -> None:
    from shapedreamer.training.distillation import distill

    teacher = alone("conditional")
    options = {"epochs": 1, "dmd_weight": dmd_weight, "sample_every": 0}
    with contextlib.ExitStack() as stack:  # distill takes its thread count from torch
        before = torch.get_num_threads()
        stack.callback(torch.set_num_threads, before)
        torch.set_num_threads(1)
        distill(teacher, tmp_path / "one", **options)  # type: ignore[arg-type]
    run_in((2, f"distill({str(teacher)!r}, {str(tmp_path / 'two')!r}, **{options!r})"))
    assert_close_runs(tmp_path / "one", tmp_path / "two", losses=1e-4, weights=1e-3)  # AdamW without momentum


def first_works_and_fails() -> None:
    """What each process of the next test runs."""
    group, _ = connect(torch.device("cpu"))

    def fail() -> None:
        raise UserError(f"process {group.rank} has no room")

    for first in (group.first, group.first_patiently):
        assert first(lambda: group.rank) == 0
        with pytest.raises(UserError, match="process 0 has no room"):
            first(fail)


@pytest.mark.slow
def test_every_process_gets_the_result_or_the_error_of_the_first() -> None:
    run_in((2, "from tests.training.test_processes import first_works_and_fails; first_works_and_fails()"))


def test_gradients_of_a_single_process_are_left_alone() -> None:
    network = torch.nn.Linear(2, 2)
    Group().average_gradients(network)
    assert network.weight.grad is None


# Stopping, and processes that die


def endless(tmp_path: Path) -> list[str]:
    """The arguments of a training that takes minutes."""
    options = "--samples 64000 --batch-size 2 --epochs 1 --sample-every 0 --save-every 0".split()
    return ["-m", "shapedreamer", "train", "shapes", *options, "--out", str(tmp_path / "run")]


def wait_for_steps(run: Path, number: int = 2) -> None:
    for _ in range(6000):
        with contextlib.suppress(FileNotFoundError):
            if len((run / "metrics.jsonl").read_text().splitlines()) >= number:
                return
        time.sleep(0.1)
    raise AssertionError("the training does not start")


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_job_with_one_message(killed: int, tmp_path: Path) -> None:
    processes = start(2, endless(tmp_path))
    wait_for_steps(tmp_path / "run")
    processes[killed].kill()
    began = time.monotonic()
    codes, errors = finish(processes)
    assert time.monotonic() - began < 300  # half of the timeout
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] == 2
    assert errors.count("error:") == 1
    assert "error: another process of this run has ended or does not answer" in errors
    assert f"shapedreamer train shapes --resume --out {tmp_path / 'run'} --devices 2" in errors
    assert "Traceback" not in errors
    load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.safetensors")


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_job_after_the_timeout(tmp_path: Path) -> None:
    processes = start(2, endless(tmp_path), SHAPEDREAMER_TIMEOUT="20")
    wait_for_steps(tmp_path / "run")
    processes[1].send_signal(signal.SIGSTOP)
    codes, errors = finish(processes[:1])
    processes[1].kill()
    finish(processes[1:])
    assert codes == [2]
    assert "error: another process of this run has ended or does not answer" in errors


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_signal_to_any_process_stops_all_of_them_after_the_same_step(stopped: int, tmp_path: Path) -> None:
    processes = start(2, endless(tmp_path))
    wait_for_steps(tmp_path / "run")
    for _ in range(2):  # as from a terminal and from a launcher
        processes[stopped].send_signal(signal.SIGTERM)
    codes, errors = finish(processes)
    assert codes[stopped] == 128 + signal.SIGTERM
    assert codes[1 - stopped] == 0
    assert errors.count("stopped and saved at step") == 1
    step = load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.safetensors").step
    assert step == read_metrics(tmp_path / "run")[-1]["step"] > 0


def torchrun(*options: str) -> list[str]:
    return ["-m", "torch.distributed.run", "--nproc-per-node", "2", *options]


@pytest.mark.slow
def test_torchrun_restarts_a_run_from_its_last_checkpoint(tmp_path: Path) -> None:
    """The process with rank 1 kills itself in the second epoch of the first attempt."""
    out = tmp_path / "run"
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT
        + "import os, signal\nfrom shapedreamer.training import loop\nbatch = loop.training_batch\n"
        + "def deadly(recipe, data, density, step, share):\n"
        + "    if step == 6 and os.environ['TORCHELASTIC_RESTART_COUNT'] == '0' and os.environ['RANK'] == '1':\n"
        + "        os.kill(os.getpid(), signal.SIGKILL)\n"
        + "    return batch(recipe, data, density, step, share)\n"
        + "loop.training_batch = deadly\n"
        + TRAIN.format(name="short", out=str(out), resume=False, accumulate=1, max_minutes=None)
    )
    command = [sys.executable, *torchrun("--max-restarts", "1"), str(script)]
    done = subprocess.run(command, env=environment(0, 1, free_port()), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"resuming {out} after step 4 of 12" in done.stderr
    assert [r["step"] for r in read_metrics(out) if "loss" in r] == list(range(1, 13))


@pytest.mark.slow
def test_the_command_runs_under_torchrun_and_with_devices(tmp_path: Path) -> None:
    options = "--samples 64 --batch-size 16 --epochs 1 --sample-every 0 --save-every 0 --seed 3".split()
    env = without_launcher()
    for name, launcher, more in (
        ("torchrun", torchrun("-m", "shapedreamer"), []),
        ("devices", ["-m", "shapedreamer"], ["--devices", "2"]),
    ):
        command = [sys.executable, *launcher, "train", "shapes", *options, *more, "--out", str(tmp_path / name)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("training in 2 processes, with 8 images each in a step") == 1
        assert done.stderr.count("finished 4 steps") == 1
        assert not (tmp_path / name / "lock").exists()
    assert (tmp_path / "torchrun/metrics.jsonl").read_bytes() == (tmp_path / "devices/metrics.jsonl").read_bytes()


# Bad input


def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str, **env: str) -> str:
    """The one line with which `train shapes` refuses."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "train", "shapes", *options])
    assert cli.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_values_that_cannot_work_are_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = ("--out", str(tmp_path / "run"))
    assert "a batch of 64 images cannot be divided evenly among 3 micro-batches" in refuse(
        monkeypatch, capsys, "--accumulate", "3", *out
    )
    assert "accumulate must be at least 1, not 0" in refuse(monkeypatch, capsys, "--accumulate", "0", *out)
    assert "devices must be at least 1, not 0" in refuse(monkeypatch, capsys, "--devices", "0", *out)
    assert "there cannot be 999 processes: this machine has" in refuse(monkeypatch, capsys, "--devices", "999", *out)
    assert not (tmp_path / "run").exists()


def test_a_batch_must_divide_among_the_processes() -> None:
    Group(0, 4).check_batch(32, 2)
    with pytest.raises(
        UserError,
        match="a batch of 30 images cannot be divided evenly among 4 processes; choose a `batch_size` that is a "
        "multiple of 4, such as 32",
    ):
        Group(0, 4).check_batch(30)
    with pytest.raises(UserError, match=r"among 4 processes with 3 micro-batches each; .* multiple of 12, such as 36"):
        Group(0, 4).check_batch(32, 3)


def test_environment_variables_that_cannot_work_are_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    cpu = torch.device("cpu")
    for env, message in (
        ({"WORLD_SIZE": "two", "RANK": "0"}, "the environment variable WORLD_SIZE must be a whole number, not 'two'"),
        ({"WORLD_SIZE": "0"}, "the environment variable WORLD_SIZE must be at least 1, not 0"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "the environment variable RANK must be between 0 and 1, not 2"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE is 2, but MASTER_ADDR is not set; start .* with torchrun"),
    ):
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            with pytest.raises(UserError, match=message):
                connect(cpu)
    line = refuse(monkeypatch, capsys, "--devices", "3", WORLD_SIZE="2", RANK="0")
    assert "--devices is 3, but the launcher has started 2 processes on this machine" in line


def test_an_address_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(1, 2, free_port(), SHAPEDREAMER_TIMEOUT="1").items():
        monkeypatch.setenv(name, value)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"process 1 of 2 could not connect to the others at 127.0.0.1:\d+ within 1 s"):
        connect(torch.device("cpu"))
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_errors_of_all_processes_are_printed_once(tmp_path: Path) -> None:
    train(replace(RECIPES["short"], threads=1), tmp_path / "run", sample_every=0, save_every=0, max_minutes=0)
    for options in (["--batch-size", "31"], ["--out", str(tmp_path / "run")], ["--lr", "nan"], ["--nonsense"]):
        codes, errors = finish(start(2, ["-m", "shapedreamer", "train", "shapes", "--samples", "64", *options]))
        assert codes == [2, 2], errors
        errors = errors.replace(str(tmp_path), "")  # which has the name of this test
        assert errors.count("rror") == 1 or (options == ["--nonsense"] and errors.count("--nonsense") == 1), errors


# Two machines


@pytest.fixture
def two_hosts() -> Iterator[list[str]]:
    """Two network namespaces, 10.77.0.1 and 10.77.0.2, which see each other only through a cable."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"dreamers{os.getpid()}{letter}" for letter in "ab"]
    commands = [f"ip netns add {name}" for name in names]
    commands += [f"ip link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}"]
    for i, name in enumerate(names, 1):
        commands += [f"ip -n {name} addr add 10.77.0.{i}/24 dev eth0"]
        commands += [f"ip -n {name} link set {link} up" for link in ("lo", "eth0")]
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"this machine does not allow network namespaces: {command}: {done.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_two_machines_without_a_shared_disk_train_the_same_model_as_one(
    two_hosts: list[str], alone: Callable[[str], Path], tmp_path: Path
) -> None:
    """One process on each; the second machine has another, empty folder for the run, also when the run resumes."""
    for resume in (False, True):
        processes = []
        for node, host in enumerate(two_hosts):
            folder = tmp_path / f"machine{node}"
            folder.mkdir(exist_ok=True)
            script = folder / "script.py"
            settings = {"resume": resume, "accumulate": 1, "max_minutes": None if resume else 0.0}
            script.write_text(SCRIPT + TRAIN.format(name="tiny", out=str(folder / "run"), **settings))
            launcher = "--nnodes 2 --nproc-per-node 1 --master-addr 10.77.0.1 --master-port 29500".split()
            command = ["ip", "netns", "exec", host, sys.executable, "-m", "torch.distributed.run", *launcher]
            env = environment(0, 1, 0, GLOO_SOCKET_IFNAME="eth0")
            processes.append(
                subprocess.Popen(
                    [*command, "--node-rank", str(node), str(script)], env=env, stderr=subprocess.PIPE, text=True
                )
            )
        codes, errors = finish(processes)
        assert codes == [0, 0], errors
    assert_close_runs(alone("tiny"), tmp_path / "machine0" / "run")
    assert not (tmp_path / "machine1" / "run").exists()


@pytest.mark.usefixtures("float32")
def test_a_configuration_does_not_depend_on_the_processes(tmp_path: Path) -> None:
    train(replace(TINY, epochs=1), tmp_path, sample_every=0, save_every=0, accumulate=2)
    text = json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert not any(word in text for word in ("accumulate", "rank", "world", "device"))
    assert read_config(tmp_path).recipe.threads == torch.get_num_threads()
