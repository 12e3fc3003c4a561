"""Several processes that train, sample or evaluate one model together, on one machine or on several.

A launcher, such as torchrun, starts the same command several times and numbers the processes in environment variables.
Every process holds the whole network.

- Training: each process computes the gradient on its share of the batch, the gradients are averaged, and all processes
  take the same step (data parallelism, as in PyTorch's DistributedDataParallel). Process 0 alone writes files.
- Sampling and evaluating: each process generates its share of the images.

`Group` says which share is this process's, and makes the processes agree. With a single process it does nothing.
`several` starts the processes of `--devices`, and lets one process report an error that they share.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count as counter
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .device import pick_device
from .errors import UserError
from .names import DeviceName
from .values import as_int

Result = TypeVar("Result")

RESTARTS = "TORCHELASTIC_RESTART_COUNT"  # environment variable of torchrun
TIMEOUT = 600  # seconds that a process waits for the others, if SHAPEDREAMER_TIMEOUT does not say otherwise
CONNECT_TIMEOUT = 120  # seconds until all processes must have connected
EXIT_TIMEOUT = 5  # seconds for a process to notice by itself that another has ended
FAILURES = "failures"  # the key in the store that counts the processes that have failed
_numbers = counter()  # of the pieces of work that the others wait for


@dataclass(frozen=True)
class Group:
    """The processes of a run. rank: the number of this one, 0…size − 1; local_…: among those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is process 0, which alone writes files."""
        return self.rank == 0

    @property
    def option(self) -> str:
        """The option of the command line that starts as many processes, if they are all on one machine."""
        return f" --devices {self.size}" if 1 < self.size == self.local_size else ""

    @property
    def max_threads(self) -> int:
        """The cores of this machine for each of its processes; without a limit for a single process."""
        return max(1, _cores() // self.local_size) if self.size > 1 else sys.maxsize

    def share(self, images: int) -> slice:
        """This process's rows of a batch, of the same number in every process."""
        rows = images // self.size
        return slice(self.rank * rows, (self.rank + 1) * rows)

    def first(self, work: Callable[[], Result]) -> Result:
        """Do `work` in process 0 only, and return its result, or raise its UserError, in every process."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None]
        if self.is_first:
            try:
                outcome = [(work(), None)]
            except UserError as error:
                outcome = [(None, error)]
        dist.broadcast_object_list(outcome)
        result, failure = outcome[0]
        if failure is not None:
            raise failure
        return result

    def first_patiently(self, work: Callable[[], Result]) -> Result:
        """Like `first`, but the others wait as long as the work takes, unless process 0 has failed before."""
        if self.size == 1:
            return work()
        store, key = dist.distributed_c10d._get_default_store(), f"done {next(_numbers)}"

        def announced() -> Result:
            try:
                return work()
            finally:
                store.set(key, "")

        if self.is_first:
            return self.first(announced)
        while not store.check([key]):
            if store.add(FAILURES, 0):
                raise dist.DistStoreError("process 0 has failed")
            time.sleep(0.1)
        return self.first(work)

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Do `work` in one process of each machine, then in the others, which find what it has downloaded."""
        if self.size > 1 and self.local_rank:
            dist.monitored_barrier(timeout=_timeout())
        result = work()
        if self.size > 1 and not self.local_rank:
            dist.monitored_barrier(timeout=_timeout())
        return result

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags)
        return bool(flags)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over the processes."""
        if self.size == 1:
            return value
        total = value.detach().float().cpu().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes, concatenated in their order. Each process must have the same number."""
        if self.size == 1:
            return values
        parts = [torch.empty_like(values, device="cpu") for _ in range(self.size)]
        dist.all_gather(parts, values.detach().cpu().contiguous())
        return torch.cat(parts)

    def numbering(self, count: int) -> tuple[int, int]:
        """Number things of which this process has `count`: the number of its first one, and of all things."""
        counts = self.gather(torch.tensor([count])).tolist()
        return sum(counts[: self.rank]), sum(counts)

    def average_gradients(self, network: nn.Module) -> None:
        """Replace the gradients by their means over the processes; a missing gradient counts as 0.

        For networks with several backward passes in a step, which DistributedDataParallel does not support.
        """
        if self.size == 1:
            return
        parameters = [p for p in network.parameters() if p.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        means = (flat / self.size).split([p.numel() for p in parameters])
        for p, gradient, mean in zip(parameters, gradients, means, strict=True):
            p.grad = gradient.copy_(mean.view_as(gradient))

    def check_batch(self, images: int, accumulate: int = 1) -> None:
        """UserError unless a batch of this size divides evenly."""
        parts = self.size * accumulate
        if images % parts:
            each = f" with {accumulate} micro-batches each" if accumulate > 1 else ""
            among = f"{accumulate} micro-batches" if self.size == 1 else _count(self.size) + each
            raise UserError(
                f"a batch of {images} images cannot be divided evenly among {among}; "
                f"choose a `batch_size` that is a multiple of {parts}, such as {max(1, round(images / parts)) * parts}"
            )


SINGLE = Group()


def connect(device: torch.device) -> tuple[Group, torch.device]:
    """Connect the processes that a launcher started; return them, and the device of this one.

    Without a launcher there is one process, and `device` is returned. The environment variables are those of torchrun:
    RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT. UserError if they are invalid, the
    other processes cannot be reached in time, or a process has no device.
    """
    size = _variable("WORLD_SIZE", 1, low=1)
    if size == 1 or not dist.is_available():
        return SINGLE, device
    local_size = _variable("LOCAL_WORLD_SIZE", size, low=1)
    rank = _variable("RANK", 0, size - 1)
    group = Group(rank, size, _variable("LOCAL_RANK", rank % local_size, local_size - 1), local_size)
    if device.type == "mps":
        raise UserError(f"{_count(size)} cannot share the device mps; use `device='cpu'`")
    if device.type == "cuda":
        _check_devices(local_size, device)
        device = torch.device("cuda", group.local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _initialise(group, device)
    return group, device


def _initialise(group: Group, device: torch.device) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise UserError(f"WORLD_SIZE is {group.size}, but {name} is not set; start the processes with torchrun")
    _variable("MASTER_PORT", 0, 65535)
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, _cores() // group.local_size))
    connect_timeout = min(timedelta(seconds=CONNECT_TIMEOUT), _timeout())
    try:
        if group.rank:
            _wait_for_address(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), connect_timeout.seconds)
        store, rank, size = next(dist.rendezvous("env://", timeout=connect_timeout))  # type: ignore[attr-defined]
        # after a restart by torchrun, the store may still have the addresses of the processes that have ended
        store = dist.distributed_c10d.PrefixStore(f"attempt {_variable(RESTARTS, 0)}", store)
        # gloo also with GPUs: process 0 and the others agree on stops without waiting for the GPU
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_timeout())
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"process {group.rank} of {group.size} could not connect to the others at {address} within "
            f"{connect_timeout.seconds} s ({_reason(error)}); check that all processes were started, and that the "
            "address of the first machine is right and its port open"
        ) from None
    if group.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # else torchrun has the store
        _Exit.waiting = group.size
    atexit.register(_disconnect)


class _Exit:
    """How this process ends.

    status:  the exit status after a failure, which does not wait for the others; None to disconnect first
    waiting: how many processes share the store that ends with this process; they need it to agree on who reports
    """

    status: int | None = None
    waiting: int = 0


def _disconnect() -> None:
    if _Exit.status is None:
        dist.destroy_process_group()
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if _Exit.waiting:
        _let_others_fail()
    os._exit(_Exit.status)  # torch's threads would wait for the processes that have ended


def _let_others_fail() -> None:
    """Cut the connections, so that the others fail, and keep the store until they have learnt that this one reports."""
    with suppress(RuntimeError):
        store = dist.distributed_c10d._get_default_store()
        threading.Thread(target=dist.destroy_process_group, daemon=True).start()  # it may wait for one that has ended
        end = time.monotonic() + EXIT_TIMEOUT
        while store.add(FAILURES, 0) < _Exit.waiting and time.monotonic() < end:
            time.sleep(0.05)


def _wait_for_address(host: str, port: int, seconds: float) -> None:
    """Wait until something listens at the address. OSError after this time. Quieter than torch, which logs each try."""
    end = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(1.0, end - time.monotonic())):
                return
        except OSError:
            if time.monotonic() > end:
                raise
        time.sleep(0.2)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an exception means that another process has ended, or does not answer."""
    text = str(error)
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in text for word in ("gloo", "NCCL", "monitoredBarrier"))
    )


def lost_process(error: BaseException, advice: str) -> UserError:
    """The error of a process whose connection to another one broke."""
    _Exit.status = 1
    return UserError(f"another process of this run has ended or does not answer ({_reason(error)}). {advice}")


def is_restart() -> bool:
    """Whether torchrun has restarted the processes, after one of them failed (torchrun --max-restarts)."""
    return _variable(RESTARTS, 0) > 0


@contextmanager
def several(devices: int, device: DeviceName, advice: str = "continue with --resume") -> Iterator[Group]:
    """Run a command in several processes: in the `with` block, this process is one of the group.

    advice: what to do if one of them is killed

    Without a launcher and with devices > 1, this process becomes process 0, and starts the same command for the others.
    If processes fail, their UserErrors are marked as reported, except for the first.

    This is not Fabric's launcher: that kills process 0 without a message when another process ends, even during a save.
    """
    devices = as_int("devices", devices, 1)
    if _is_launched():
        local_size = _variable("LOCAL_WORLD_SIZE", _variable("WORLD_SIZE", 1, low=1), low=1)
        if devices not in (1, local_size):
            raise UserError(
                f"`devices` is {devices}, but the launcher has started {_count(local_size)} on this machine; "
                "leave out `devices`"
            )
        with _one_report(device) as group:
            yield group
        return
    if devices == 1:
        yield SINGLE
        return
    _check_devices(devices, pick_device(device))
    before = dict(os.environ)
    with _free_port() as port:
        numbers = {"WORLD_SIZE": devices, "LOCAL_WORLD_SIZE": devices, "MASTER_PORT": port}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in numbers.items()}}
    command = [sys.executable, "-m", "shapedreamer", *sys.argv[1:]]
    others = [
        subprocess.Popen(
            command, env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdin=subprocess.DEVNULL
        )
        for rank in range(1, devices)
    ]
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}
    done = threading.Event()
    threading.Thread(target=_watch, args=(others, done, advice), daemon=True).start()
    try:
        with _one_report(device) as group:
            yield group
        for process in others:
            process.wait()
    finally:
        done.set()
        for process in others:
            process.kill()  # it leaves no file half-written, and this process has said what is wrong
            process.wait()
        _Exit.waiting = 0
        os.environ.clear()
        os.environ.update(before)


def _watch(others: Sequence["subprocess.Popen[bytes]"], done: threading.Event, advice: str) -> None:
    """End this process if another one fails and this one does not notice, such as while it waits for a GPU."""
    while not done.wait(0.2):
        failed = [(rank, process) for rank, process in enumerate(others, 1) if process.poll() not in (None, 0)]
        if failed and not done.wait(EXIT_TIMEOUT):
            rank, process = failed[0]
            if process.returncode != UserError.exit_code:  # else it has reported its error
                ending = _ending(process.returncode)
                message = f"error: process {rank} of {len(others) + 1} has ended with {ending}; {advice}"
                print(message, file=sys.stderr, flush=True)
            for other in others:
                other.kill()
            os._exit(UserError.exit_code)


@contextmanager
def _one_report(device: DeviceName) -> Iterator[Group]:
    """Connect the processes; of all that fail in the `with` block, one keeps its error, and the others are marked."""
    try:
        group, _ = connect(pick_device(device))
    except UserError as error:  # without a connection, one process of each machine reports
        error.reported = os.environ.get("LOCAL_RANK", "0") != "0"
        raise
    try:
        try:
            yield group
        except RuntimeError as error:
            if group.size == 1 or not is_lost_connection(error):
                raise
            raise lost_process(error, "Run the same command again") from None
    except UserError as error:
        error.reported = not _is_first_to_fail(group)
        _Exit.status = error.exit_code
        raise
    except BaseException as error:
        _Exit.status = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        if isinstance(error, KeyboardInterrupt):
            _Exit.status = 128 + signal.SIGINT
        raise


def _is_first_to_fail(group: Group) -> bool:
    if group.size == 1:
        return True
    try:
        return dist.distributed_c10d._get_default_store().add(FAILURES, 1) == 1
    except RuntimeError:  # the process that had the store has ended; no process of its machine can report for this one
        return group.local_rank == min(1, group.local_size - 1)


def _is_launched() -> bool:
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def _check_devices(number: int, device: torch.device) -> None:
    """UserError if this machine has fewer devices than processes."""
    if device.type == "mps":
        raise UserError(f"{_count(number)} cannot share the device mps; use `device='cpu'`")
    there = torch.cuda.device_count() if device.type == "cuda" else _cores()
    if number > there and (device.type == "cuda" or not _is_launched()):
        name = "GPU" if device.type == "cuda" else "CPU core"
        raise UserError(f"there cannot be {_count(number)}: this machine has {there} {name}{'s' * (there != 1)}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


def _timeout() -> timedelta:
    return timedelta(seconds=_variable("SHAPEDREAMER_TIMEOUT", TIMEOUT, 86400, low=1))


def _variable(name: str, default: int, high: int | None = None, low: int = 0) -> int:
    """An environment variable as an integer. UserError if it is not one, or out of range."""
    text = os.environ.get(name, "")
    if not text:
        return default
    try:
        return as_int(f"the environment variable {name}", int(text), low, high)
    except ValueError:
        raise UserError(f"the environment variable {name} must be a whole number, not {text[:40]!r}") from None


def _count(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _reason(error: BaseException) -> str:
    """The first line of an exception of torch, without its source file and line."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.removeprefix("[").rpartition("cc:")[2].partition(". ")[0][:160].lstrip("0123456789] ").rstrip(". ")


def _ending(code: int) -> str:
    try:
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    except ValueError:
        return f"signal {-code}"
