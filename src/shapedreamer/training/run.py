"""A run in progress: its loop over steps, what it stores in its folder, and how it stops and resumes."""

import math
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from torch import Tensor, nn

from ..common.errors import UserError
from ..common.files import write_atomic
from ..data.spec import DataSpec
from ..models.checkpoint import RunConfig, load_checkpoint, load_optimizers, read_config, save_checkpoint
from ..models.model import Model
from ..models.recipes import Recipe
from .ema import EMA
from .log import RunLog

PREVIEW_IMAGES = 32


class Stateful(Protocol):
    """Anything with a state to save and to load, such as a module or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Run(ABC):
    """A network in training, its averaged weights, and the folder that stores them.

    labels:   (N, L) labels of some images, stored with the weights; None for an unconditional model
    stateful: everything else whose state is needed to resume exactly, such as optimizers
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        spec: DataSpec,
        labels: Tensor | None,
        bare: nn.Module,
        stateful: Sequence[Stateful],
    ) -> None:
        self.recipe, self.out, self.config, self.labels = recipe, out, RunConfig(recipe, spec), labels
        self.bare, self.ema, self.stateful = bare, EMA(bare, recipe.ema_decay), stateful
        self.schedule = recipe.make_schedule()
        self.checkpoints = out / "checkpoints"
        self.best_loss = math.inf

    def begin(self, save_every: int = 0) -> int:
        """Create the folder, unless it already holds a run; return the first step."""
        if (self.checkpoints / "latest.safetensors").exists():
            raise UserError(f"{self.out} already holds a run: continue it with --resume, or choose another --out")
        write_atomic(self.out / "config.json", self.config.to_json().encode())
        if save_every:
            self.save("epoch-0000", 0)
        self.save("latest", 0, resumable=True)
        return 0

    def resume(self) -> int:
        """Load the run in the folder; return the step to continue with."""
        _check_same_recipe(self.out, read_config(self.out), self.config)
        latest = load_checkpoint(self.checkpoints / "latest.safetensors")
        states = load_optimizers(self.checkpoints, latest)  # first: without them there may be no raw weights either
        self.bare.load_state_dict(latest.network)
        self.ema.network.load_state_dict(latest.ema)
        for part, state in zip(self.stateful, states, strict=True):
            part.load_state_dict(state)
        self.best_loss = latest.best_loss
        write_atomic(self.out / "config.json", self.config.to_json().encode())
        return latest.step

    @contextmanager
    def session(self, start: int, log: RunLog) -> Iterator[Iterator[int]]:
        """The steps still to do, counted from 0. Ctrl-C, SIGTERM or max_minutes end them early, after a save."""
        with log, stop_signals() as caught:
            yield self._steps(start, log, caught)

    def _steps(self, start: int, log: RunLog, caught: list[int]) -> Iterator[int]:
        recipe = self.recipe
        for step in range(start, recipe.steps):
            yield step
            stop = bool(caught) or log.out_of_time()
            epoch, rest = divmod(step + 1, recipe.steps_per_epoch)
            if rest == 0:
                self.end_epoch(epoch, log)
                stop = stop or bool(caught)
            elif stop:
                self.save("latest", step + 1, resumable=True)
            if stop and step + 1 < recipe.steps:
                log.say(f"stopped and saved at step {step + 1} of {recipe.steps}; continue with --resume")
                break
        else:
            log.say(f"finished {recipe.steps} steps; the run is in {self.out}")
        log.plots()

    @abstractmethod
    def end_epoch(self, epoch: int, log: RunLog) -> None:
        """Save, evaluate and sample after epoch 1, 2, … It must save `latest`, so that the run can resume."""

    def save(self, name: str, step: int, resumable: bool = False) -> None:
        """Write a checkpoint of this name; resumable: with the state of everything that is needed to continue."""
        states = [part.state_dict() for part in self.stateful] if resumable else None
        weights = self.bare.state_dict(), self.ema.network.state_dict()
        save_checkpoint(self.checkpoints, name, self.config, step, *weights, self.best_loss, self.labels, states)

    def preview(self, step: int, log: RunLog) -> None:
        """A sample grid with raw and averaged weights."""
        raw, ema = (self.model(network).sample(PREVIEW_IMAGES) for network in (self.bare, self.ema.network))
        self.bare.train()
        log.samples(step, raw, ema)

    def model(self, network: nn.Module) -> Model:
        """A model with this network and the run's recipe."""
        recipe = self.recipe
        return Model(network, self.schedule, recipe.prediction, self.config.data, self.labels, recipe.sampling)


def _check_same_recipe(out: Path, old: RunConfig, new: RunConfig) -> None:
    """UserError unless resuming gives exactly the run that `new` describes.

    More epochs are allowed if the learning rate is constant. The images may have moved, but must be the same.
    """
    if old.data != replace(new.data, name=old.data.name):  # a folder may have been renamed
        raise UserError(
            f"the images of {old.data.name} have changed since {out} was started; restore them or choose another --out"
        )
    changed = _differences(asdict(old.recipe), asdict(new.recipe))
    changed.pop("data.path", None)
    if not new.recipe.lr_decay:
        changed.pop("epochs", None)
    if changed:
        changes = ", ".join(f"{key} = {a!r}, not {b!r}" for key, (a, b) in changed.items())
        raise UserError(f"{out} was started with {changes}; resume with the same settings, or choose another --out")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    out: dict[str, tuple[Any, Any]] = {}
    for key in old:
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            out |= _differences(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            out[prefix + key] = (old[key], new[key])
    return out


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the current step can finish. A second one acts at once.

    On leaving, the first one takes effect: KeyboardInterrupt or SystemExit.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread can receive signals
        return
    handlers: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
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
