"""The models in the box: `shapedreamer.load("shapes")` needs no training and no network.

Each is three files in weights/: NAME.safetensors (a checkpoint of averaged weights alone, in half precision), NAME.json
(its card: where it comes from and how good it is) and NAME.png (what it dreams). evaluation/cards.py makes all three from a run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Card:
    """What is told about a shipped model.

    about       what it dreams of, in a sentence
    data        what it was trained on, and its licence
    commands    all that it takes to train it again, from nothing
    seed        of those commands
    images      how many it saw in training
    minutes     that it took
    machine     that it took them on
    parameters  of its network
    sampling    the sampler and network calls it was measured with
    quality     what `shapedreamer evaluate --json` said about it: see evaluate/evaluation.py
    curve       (images seen, held-out loss of the averaged weights) after each epoch; empty where it has no such loss
    sha256      of the weights' file
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
    """Of all models in the box."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def path(name: str) -> Path:
    """The checkpoint of the model of this name."""
    return WEIGHTS / f"{name}.safetensors"


def card(name: str) -> Card:
    """What is told about the model of this name."""
    from pydantic import TypeAdapter

    return TypeAdapter(Card).validate_json((WEIGHTS / f"{name}.json").read_bytes())


def table() -> str:
    """A line for each model: name, parameters, how to sample it, what it dreams of."""
    if not names():
        return "there are no models in the box"
    lines = [("name", "parameters", "sampled with", "")]
    for name in names():
        it = card(name)
        lines.append((name, f"{it.parameters / 1e6:.1f} M", it.sampling, it.about))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
