"""The shipped models: `shapedreamer.load("shapes")` needs no training and no network.

Each has three files in weights/: NAME.safetensors (a checkpoint with averaged weights only, in half precision, or in
8 bits if it is large), NAME.json (its model card: how it was trained and how good it is) and NAME.png (samples).
evaluation/cards.py makes all three from a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Card:
    """The model card of a shipped model.

    about       what it generates, in a sentence
    data        what it was trained on, and its licence
    commands    the commands that train it again from scratch
    seed        of those commands
    images      number of training images seen
    minutes     training time
    machine     that it was trained on
    parameters  number of parameters of its network
    sampling    the sampler and number of network calls used to measure it
    quality     the output of `shapedreamer evaluate --json`: see evaluation/evaluator.py
    curve       (images seen, held-out loss of the averaged weights) after each epoch; empty for distilled models
    sha256      of the weight file
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}
    about: str
    data: str
    commands: tuple[str, ...]
    seed: int
    images: int
    minutes: float
    machine: str
    parameters: int
    sampling: str
    quality: dict[str, Any]
    curve: tuple[tuple[int, float], ...]
    sha256: str


def names() -> list[str]:
    """The names of all shipped models."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def path(name: str) -> Path:
    """The checkpoint file of a shipped model."""
    return WEIGHTS / f"{name}.safetensors"


def card(name: str) -> Card:
    """The card of a shipped model."""
    from pydantic import TypeAdapter

    return TypeAdapter(Card).validate_json((WEIGHTS / f"{name}.json").read_bytes())


def table() -> str:
    """A table of all shipped models: name, parameters, default sampler, what it generates."""
    if not names():
        return "no models come with this installation"
    lines = [("name", "parameters", "sampled with", "")]
    for name in names():
        model = card(name)
        lines.append((name, f"{model.parameters / 1e6:.1f} M", model.sampling, model.about))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
