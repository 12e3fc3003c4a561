"""A run under way: what of it is stored in its folder, how it is taken up again, and how it is stopped."""

import math
import signal
import threading
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


class Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any: ...


class Run:
    """A network in training, its averaged weights, and the folder they are kept in.

    labels:  (N, L) of some images, to be kept with the weights; None where the network is told none
    rest:    all else that it takes to go on exactly as before, such as optimizers
    """

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        spec: DataSpec,
        labels: Tensor | None,
        bare: nn.Module,
        rest: Sequence[Stateful],
    ) -> None:
        self.recipe, self.out, self.config, self.labels = recipe, out, RunConfig(recipe, spec), labels
        self.bare, self.ema, self.rest = bare, EMA(bare, recipe.ema_decay), rest
        self.schedule = recipe.make_schedule()
        self.checkpoints = out / "checkpoints"
        self.best_loss = math.inf

    def begin(self, save_every: int) -> int:
        """Make the folder, unless it holds a run that would be lost; return the first step."""
        if (self.checkpoints / "latest.safetensors").exists():
            raise UserError(f"{self.out} already holds a run: go on with it by --resume, or choose another --out")
        write_atomic(self.out / "config.json", self.config.to_json().encode())
        if save_every:
            self.save("epoch-0000", 0)
        self.save("latest", 0, to_go_on=True)
        return 0

    def resume(self) -> int:
        """Take up the run in the folder; return the step to go on with."""
        _check_same_recipe(self.out, read_config(self.out), self.config)
        before = load_checkpoint(self.checkpoints / "latest.safetensors")
        states = load_optimizers(self.checkpoints, before)  # first: without them there may be no raw weights either
        self.bare.load_state_dict(before.network)
        self.ema.network.load_state_dict(before.ema)
        for part, state in zip(self.rest, states, strict=True):
            part.load_state_dict(state)
        self.best_loss = before.best_loss
        write_atomic(self.out / "config.json", self.config.to_json().encode())
        return before.step

    def save(self, name: str, step: int, to_go_on: bool = False) -> None:
        """Write a checkpoint of this name; to_go_on: with all that it takes to."""
        rest = [part.state_dict() for part in self.rest] if to_go_on else None
        states = self.bare.state_dict(), self.ema.network.state_dict()
        save_checkpoint(self.checkpoints, name, self.config, step, *states, self.best_loss, self.labels, rest)

    def model(self, network: nn.Module) -> Model:
        recipe = self.recipe
        return Model(network, self.schedule, recipe.prediction, self.config.data, self.labels, recipe.sampling)


def _check_same_recipe(out: Path, old: RunConfig, new: RunConfig) -> None:
    """UserError if going on would not give the run that `new` describes. A longer run is one, at a constant rate.

    Its images may lie elsewhere by now, but must be the same.
    """
    if old.data != replace(new.data, name=old.data.name):  # a folder may have another name by now
        raise UserError(
            f"{out} was begun with other images of {old.data.name} than there are now; choose another --out"
        )
    changed = _differences(asdict(old.recipe), asdict(new.recipe))
    changed.pop("data.path", None)
    if not new.recipe.lr_decay:
        changed.pop("epochs", None)
    if changed:
        changes = ", ".join(f"{key} = {a!r}, not {b!r}" for key, (a, b) in changed.items())
        raise UserError(f"{out} was begun with {changes}; resume without changing it, or choose another --out")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    out: dict[str, tuple[Any, Any]] = {}
    for key in old:
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            out |= _differences(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            out[prefix + key] = (old[key], new[key])
    return out


@contextmanager
def signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the step under way can end; a second one has its usual effect.

    When all is done the first one has its effect, too: KeyboardInterrupt or SystemExit.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may listen to signals
        return
    usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def listen(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, listen)
    try:
        yield caught
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt if caught[0] == signal.SIGINT else SystemExit(128 + caught[0])
