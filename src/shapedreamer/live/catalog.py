"""The models that a server offers. All are described at the start, from the first bytes of their checkpoints; each is
loaded when it is first used.
"""

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from ..common.names import DeviceName
from ..models import zoo
from ..models.checkpoint import read_outline
from ..models.model import Model, find_checkpoint, load

PREFERRED = ("shapes-turbo", "shapes", "sprites")  # to start with: fast models first


def shipped() -> list[str]:
    """The names of all shipped models, in the page's order: it starts with the first one."""
    first = [name for name in PREFERRED if name in zoo.names()][:1]
    return first + [name for name in zoo.names() if name not in first]


class Catalog(Mapping[str, Model]):
    """Models by name, loaded when they are first looked up. Thread-safe.

    runs:     the runs, checkpoints or shipped models by name
    outlines: the same models without weights

    UserError if there is no such model. A lookup raises it if the checkpoint is damaged.
    """

    def __init__(self, runs: Mapping[str, str | Path], device: DeviceName = "auto") -> None:
        self.outlines = {name: _outline(find_checkpoint(run)) for name, run in runs.items()}
        self._runs, self._device = dict(runs), device
        self._loaded: dict[str, Model] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Model:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load(self._runs[name], device=self._device)
            return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._runs  # Mapping's own method would load the model

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def outlines(models: Mapping[str, Model]) -> Mapping[str, Model]:
    """The models, or of a catalog their outlines: enough to describe them, but not to sample from them."""
    return models.outlines if isinstance(models, Catalog) else models


def _outline(path: Path) -> Model:
    """The model in a checkpoint file, without the weights."""
    config, has_labels = read_outline(path)
    recipe, labels = config.recipe, torch.empty(0, len(config.data.labels)) if has_labels else None
    arguments = recipe.make_schedule(), recipe.prediction, config.data, labels, recipe.sampling
    return Model(_NoNetwork(), *arguments, config=config, process=recipe.process)


class _NoNetwork(nn.Module):
    """In place of a network that has not been loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.empty(0))  # a model's device is that of its network's parameters
