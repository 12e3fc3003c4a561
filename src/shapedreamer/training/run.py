"""A run in progress: its loop over steps, what it stores in its folder, and how it stops and resumes."""

import math
import shlex
import signal
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.files import remove_leftovers, write_atomic
from ..common.lock import lock_folder
from ..common.processes import Group, is_lost_connection, is_restart, lost_process
from ..data.spec import DataSpec
from ..models.checkpoint import (
    Checkpoint,
    RunConfig,
    load_checkpoint,
    load_optimizers,
    read_config,
    save_checkpoint,
)
from ..models.model import Model
from ..models.recipes import RECIPES, Recipe
from ..models.weights import load_state
from ..networks.threads import torch_threads
from .ema import EMA
from .log import RunLog, SilentLog
from .states import load_states

PREVIEW_IMAGES = 32
REPEATED_SIGNAL = 2  # seconds in which a signal comes again: from the terminal and from the launcher


class Stateful(Protocol):
    """Anything with a state to save and to load, such as a module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Run(ABC):
    """A network in training, its averaged weights, and the folder that stores them.

    labels:   (N, L) labels of some images, stored with the weights; None for an unconditional model
    stateful: everything else whose state is needed to resume exactly, such as optimizers
    on_save:  called with the file of every checkpoint after it was written, such as to copy it to another machine
    group:    the processes that train it; process 0 alone reads and writes the folder
    """

    on_save: Callable[[Path], object] | None = None

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        spec: DataSpec,
        labels: Tensor | None,
        bare: nn.Module,
        stateful: Sequence[Stateful],
        group: Group,
    ) -> None:
        self.group = group
        self.recipe, self.out, self.config, self.labels = recipe, out, RunConfig(recipe, spec), labels
        self.bare, self.ema, self.stateful = bare, EMA(bare, recipe.ema_decay), stateful
        self.schedule = recipe.make_schedule()
        self.checkpoints = out / "checkpoints"
        self.best_loss = math.inf

    def begin(self, save_every: int = 0) -> int:
        """Create the folder, unless it already holds a run; return the first step."""
        if (self.checkpoints / "latest.safetensors").exists():
            raise UserError(f"{self.out} already holds a run: continue it with `resume=True`, or choose another `out`")
        write_atomic(self.out / "config.json", self.config.to_json().encode())
        if save_every:
            self.save("epoch-0000", 0)
        self.save("latest", 0, resumable=True)
        return 0

    def resume(self) -> int:
        """Load the run in the folder; return the step to continue with."""
        latest, states = self.group.first(self._read)
        load_state(self.bare, latest.network, "raw weights")
        load_state(self.ema.network, latest.ema, "averaged weights")
        load_states(self.stateful, states)
        self.best_loss = latest.best_loss
        if self.group.is_first:
            write_atomic(self.out / "config.json", self.config.to_json().encode())
        return latest.step

    def _read(self) -> tuple[Checkpoint, list[dict[str, Any]]]:
        _check_same_recipe(self.out, read_config(self.out), self.config)
        latest = load_checkpoint(self.checkpoints / "latest.safetensors")
        _check_same_recipe(self.out, latest.config, self.config)
        if latest.step > self.recipe.steps:
            raise UserError(f"{self.out} has made {latest.step} steps, but its recipe has {self.recipe.steps}")
        _check_decay(self.out, latest.step, latest.config.recipe, self.recipe)
        # before the weights are loaded: without optimizer states there may be no raw weights either
        return latest, load_optimizers(self.checkpoints, latest)

    @contextmanager
    def session(
        self, resume: bool, baseline: tuple[str, float], max_minutes: float | None, save_every: int = 0
    ) -> Iterator[tuple[RunLog | SilentLog, Iterator[int]]]:
        """The log, and the steps still to do, counted from 0. The folder is locked for other processes meanwhile.

        Ctrl-C, SIGTERM or max_minutes end the steps early, after a save.
        """
        group, first = self.group, self.group.is_first
        with self._naming_lost_processes(), torch_threads(self._threads()), ExitStack() as stack:
            group.first(lambda: self._open_folder(stack))
            self._check_same_images()
            start = self.resume() if resume else group.first(lambda: self.begin(save_every))
            log = RunLog(self.out, self.recipe, start, baseline, max_minutes) if first else SilentLog()
            if resume:
                epochs, steps = self.recipe.epochs, self.recipe.steps
                done = f"step {start} of {steps} (epoch {start // self.recipe.steps_per_epoch} of {epochs} is done)"
                log.say(f"resuming {self.out} after {done}, with {self.recipe.threads} threads")
            if group.size > 1:
                images = self.recipe.images_per_step // group.size
                log.say(f"training in {group.size} processes, with {images} images each in a step")
            with log, stop_signals(REPEATED_SIGNAL if group.size > 1 else 0) as caught:
                yield log, self._steps(start, log, caught)

    def _open_folder(self, stack: ExitStack) -> None:
        """Lock the folder until the stack closes, and delete what killed processes have left in it."""
        stack.enter_context(lock_folder(self.out))
        for folder in (self.out, self.checkpoints, self.out / "samples"):
            remove_leftovers(folder)

    @contextmanager
    def _naming_lost_processes(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if self.group.size == 1 or not is_lost_connection(error):
                raise
            raise lost_process(error, f"Continue from the last checkpoint with: {self.resume_command}") from None

    def _threads(self) -> int:
        """The number of CPU threads of this process: no more than its share of the machine's cores."""
        number = self.recipe.threads
        return torch.get_num_threads() if number is None else min(number, self.group.max_threads)

    def _check_same_images(self) -> None:
        """UserError if another machine has other images than process 0."""
        name, ours = self.config.data.name, self.config.data
        if self.group.first(lambda: replace(ours, name="")) != replace(ours, name=""):
            raise UserError(f"the images of {name} on {socket.gethostname()} are not those of process 0")

    def _steps(self, start: int, log: RunLog | SilentLog, caught: list[int]) -> Iterator[int]:
        recipe = self.recipe
        for step in range(start, recipe.steps):
            yield step
            stop = self.group.any(bool(caught) or log.out_of_time())
            epoch, rest = divmod(step + 1, recipe.steps_per_epoch)
            if rest == 0:
                if isinstance(log, RunLog):
                    self.end_epoch(epoch, log)
                stop = stop or self.group.any(bool(caught))
            elif stop:
                self.save("latest", step + 1, resumable=True)
            if stop and step + 1 < recipe.steps:
                log.say(f"stopped and saved at step {step + 1} of {recipe.steps}; continue with --resume:")
                log.say(f"    {self.resume_command}")
                break
        else:
            log.say(f"finished {recipe.steps} steps; the run is in {self.out}; to sample from it:")
            log.say(f"    shapedreamer sample {shlex.quote(str(self.out))}")
        log.plots()

    @abstractmethod
    def end_epoch(self, epoch: int, log: RunLog) -> None:
        """Save, evaluate and sample after epoch 1, 2, … It must save `latest`, so that the run can resume.

        Called in process 0 only.
        """

    def save(self, name: str, step: int, resumable: bool = False) -> None:
        """Write a checkpoint of this name; resumable: with the state of everything that is needed to continue."""
        if not self.group.is_first:
            return
        states = [part.state_dict() for part in self.stateful] if resumable else None
        weights = self.bare.state_dict(), self.ema.network.state_dict()
        save_checkpoint(self.checkpoints, name, self.config, step, *weights, self.best_loss, self.labels, states)
        if self.on_save is not None:
            self.on_save(self.checkpoints / f"{name}.safetensors")

    @property
    def resume_command(self) -> str:
        """What to type to resume the run."""
        out = shlex.quote(str(self.out))
        if self.recipe.name in RECIPES:
            return f"shapedreamer train {self.recipe.name} --resume --out {out}{self.group.option}"
        return f"python: shapedreamer.train(recipe, {str(self.out)!r}, resume=True)"

    def preview(self, step: int, log: RunLog) -> None:
        """A sample grid with raw and averaged weights."""
        raw, ema = (self.model(network).sample(PREVIEW_IMAGES) for network in (self.bare, self.ema.network))
        self.bare.train()
        log.samples(step, raw, ema)

    def model(self, network: nn.Module) -> Model:
        """A model with this network and the run's recipe."""
        recipe, config = self.recipe, self.config
        return Model(
            *(network, self.schedule, recipe.prediction, config.data, self.labels, recipe.sampling),
            config=config,
            process=recipe.process,
        )


def _check_same_recipe(out: Path, old: RunConfig, new: RunConfig) -> None:
    """UserError unless resuming gives exactly the run that `new` describes.

    Another number of epochs is allowed unless the learning rate falls from the first step on; see _check_decay.
    The images may have moved, but must be the same.
    """
    if old.data != replace(new.data, name=old.data.name):  # a folder may have been renamed
        raise UserError(
            f"the images of {old.data.name} have changed since {out} was started; restore them or choose another `out`"
        )
    changed = _differences(asdict(old.recipe), asdict(new.recipe))
    changed.pop("data.path", None)
    if old.recipe.threads is None:  # a run of a version that did not record them
        changed.pop("threads", None)
    if new.recipe.lr_decay < 1:
        changed.pop("epochs", None)
    if changed:
        changes = ", ".join(f"{key} = {a!r}, not {b!r}" for key, (a, b) in changed.items())
        raise UserError(f"{out} was started with {changes}; resume with the same settings, or choose another `out`")


def _check_decay(out: Path, step: int, old: Recipe, new: Recipe) -> None:
    """UserError unless the first `step` steps have the same learning rates with both numbers of epochs.

    If they do, the weights so far are those of the longer run too, and resuming equals training all epochs at once.
    """
    start = min(old.decay_start, new.decay_start)
    if old.epochs != new.epochs and step - 1 > start:
        raise UserError(
            f"cannot change epochs = {old.epochs} of {out} to {new.epochs} after {step} steps: with lr_decay = "
            f"{new.lr_decay:g} the learning rate falls after step {start + 1}; resume with epochs = {old.epochs}, or "
            "choose another `out`"
        )


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    out: dict[str, tuple[Any, Any]] = {}
    for key in old:
        kinds = [part[key].get("kind") if isinstance(part[key], dict) else None for part in (old, new)]
        if kinds[0] != kinds[1]:  # such as another network, which has other settings
            out[prefix + key] = kinds[0], kinds[1]
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            out |= _differences(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            out[prefix + key] = (old[key], new[key])
    return out


def with_threads(recipe: Recipe, resumed: Path | None, group: Group) -> Recipe:
    """The recipe with a thread count for each process: its own, else that of the run to resume, else torch's.

    Sums are rounded in an order that depends on the number of threads, so a run keeps the one that it started with.
    """

    def number() -> int:
        stored = None if resumed is None else read_config(resumed).recipe.threads
        return recipe.threads or stored or torch.get_num_threads()

    return replace(recipe, threads=group.first(number))


def with_resume(resume: bool, out: Path, group: Group) -> bool:
    """Whether to resume the run in `out`: on request, or if torchrun restarts a run that has a checkpoint."""
    latest = out / "checkpoints" / "latest.safetensors"
    return resume or group.first(lambda: is_restart() and latest.exists())


@contextmanager
def stop_signals(repeated: float = 0) -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the current step can finish. A second one acts at once.

    repeated: seconds after the first one in which others do nothing

    On leaving, the first one takes effect: KeyboardInterrupt or SystemExit.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread can receive signals
        return
    began = 0.0
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, frame: FrameType | None) -> None:
        nonlocal began
        if not caught:
            began = time.monotonic()
        elif number in caught and time.monotonic() - began > repeated:
            signal.signal(number, handlers[number])
            signal.raise_signal(number)
            return
        caught.append(number)
        if not repeated:
            signal.signal(number, handlers[number])

    for number in handlers:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt if caught[0] == signal.SIGINT else SystemExit(128 + caught[0])
