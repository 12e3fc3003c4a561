"""The valid range of every setting in a recipe, each with its reason.

A recipe comes from Python, from the command line, or from a file that may be damaged or hostile. Its dataclasses call
`check` when they are made, so a setting out of range is a UserError before anything is built from it. The limits are
far above what the package is for, and low enough that a file of a few kilobytes cannot fill the memory.
"""

from collections.abc import Callable
from typing import Any, get_args

from ..common import names
from ..common.errors import UserError
from ..common.values import (
    as_bool,
    as_choice,
    as_float,
    as_int,
    as_ints,
    as_path,
    as_seed,
    as_text,
    shown,
)

MAX_SAMPLES = 10_000_000  # each epoch shuffles them: 40 MB
MAX_EPOCHS = 1_000_000_000  # only so that steps · epochs stays exact in a float64
MAX_BATCH = 65_536  # images in a step
MAX_LR = 1e30  # above, an update overflows float32 before the first loss can be checked
MAX_SIDE = 1024  # pixels; attention and convolutions of larger images do not fit the memory
MAX_LEVELS, MAX_WIDTH, MAX_BLOCKS, MAX_DEPTH = 8, 4096, 16, 64  # of a network; together with MAX_PARAMETERS
MAX_PATCH = 64
MAX_TOKENS = 4096  # that a transformer attends to: beyond, a step takes minutes on a CPU
MAX_PARAMETERS = 64_000_000  # twice those of DDPM's largest CIFAR-10 network; 256 MB in float32
MAX_LABELS = 10_000  # numbers in a label vector
MAX_NAME = 255  # characters: the length of a file name
MAX_THREADS = 1024

Rule = Callable[[str, Any], Any]


def check(config: object) -> None:
    """Replace each field of a dataclass by its plain value. UserError, naming the field, if one is out of range."""
    for name, rule in RULES[type(config).__name__].items():
        object.__setattr__(config, name, rule(name, getattr(config, name)))  # the dataclasses are frozen


def _whole(low: int, high: int) -> Rule:
    return lambda name, value: as_int(name, value, low, high)


def _real(low: float | None, high: float | None, above: float | None = None) -> Rule:
    return lambda name, value: as_float(name, value, low, high, above=above)


def _share(name: str, value: Any) -> float:
    """A number from 0 to 1; True, in files of older runs, is 1, and False 0."""
    return as_float(name, float(value) if isinstance(value, bool) else value, 0, 1)


def _choice(literal: Any) -> Rule:
    return lambda name, value: as_choice(name, value, get_args(literal))


def _optional(rule: Rule) -> Rule:
    return lambda name, value: None if value is None else rule(name, value)


def _path(name: str, value: Any) -> str:
    return str(as_path(name, value))


def _seed(name: str, value: Any) -> int:
    return as_seed(value, name)


def _text(name: str, value: Any) -> str:
    return as_text(name, value, MAX_NAME)


def _file_name(name: str, value: Any) -> str:
    """A name that is also the name of the default run folder, so it must not lead out of runs/."""
    text = as_text(name, value, MAX_NAME)
    if not text.isprintable() or text in ("", ".", "..") or set(text) & set("/\\"):
        raise UserError(f"{name} must be usable as the name of a folder, not {shown(text)}")
    return text


def _size(name: str, value: Any) -> tuple[int, ...]:
    size = as_ints(name, value, 1, MAX_SIDE, 2)
    if len(size) != 2:
        raise UserError(f"{name} must be a height and a width, not {shown(value)}")
    return size


def _channels(name: str, value: Any) -> tuple[int, ...]:
    channels = as_ints(name, value, 1, MAX_WIDTH, MAX_LEVELS)
    if not channels:
        raise UserError(f"{name} must have at least one entry")
    return channels


_SAMPLES = _optional(_whole(1, MAX_SAMPLES))

RULES: dict[str, dict[str, Rule]] = {
    "DrawnData": {"samples": _whole(1, MAX_SAMPLES), "seed": _seed},
    "MnistData": {"path": _optional(_path), "samples": _SAMPLES},
    "TilesData": {"path": _path, "samples": _SAMPLES},
    "FolderData": {
        "path": _path,
        "size": _optional(_size),
        "fit": _choice(names.Fit),
        "mode": _choice(names.Mode),
        "background": _text,
        "samples": _SAMPLES,
    },
    "UNetConfig": {
        "in_channels": _whole(1, MAX_WIDTH),
        "channels": _channels,
        "blocks": _whole(1, MAX_BLOCKS),
        "attention": lambda name, value: as_ints(name, value, 0, MAX_LEVELS - 1, MAX_LEVELS),
        "head_dim": _whole(1, MAX_WIDTH),
        "groups": _whole(1, MAX_WIDTH),
        "scale_shift": as_bool,
        "dropout": _real(0, 0.999),  # at 1 nothing is left to train
        "patch": _whole(1, MAX_PATCH),
        "context": _whole(0, MAX_LABELS),
        "time_at": _choice(names.TimeAt),
        "head": _whole(0, MAX_WIDTH),
    },
    "ContextUnetConfig": {
        "in_channels": _whole(1, MAX_WIDTH),
        "context": _whole(0, MAX_LABELS),
        "features": _whole(1, MAX_WIDTH),
        "groups": _whole(1, MAX_WIDTH),
    },
    "DiTConfig": {
        "in_channels": _whole(1, MAX_WIDTH),
        "patch": _whole(1, MAX_PATCH),
        "width": _whole(1, MAX_WIDTH),
        "depth": _whole(1, MAX_DEPTH),
        "head_dim": _whole(1, MAX_WIDTH),
        "context": _whole(0, MAX_LABELS),
    },
    "NoiseLevels": {"mean": _real(-100, 100), "std": _real(None, 100, above=0), "uniform": _real(0, 1)},
    "Sampling": {
        "sampler": _choice(names.AnySamplerName),
        "steps": _whole(1, max(high for _, high in names.TIMESTEPS.values())),
        "eta": _real(0, names.MAX_ETA),
        "spacing": _choice(names.Spacing),
    },
    "Recipe": {
        "name": _file_name,
        "process": _choice(names.Process),
        "schedule": _choice(names.ScheduleName),
        "timesteps": _whole(1, max(high for _, high in names.TIMESTEPS.values())),
        "prediction": _choice(names.Prediction),
        "labels": as_bool,
        "label_dropout": _real(0, 1),
        "weight": _choice(names.Weight),
        "epochs": _whole(1, MAX_EPOCHS),
        "batch_size": _whole(1, MAX_BATCH),
        "optimizer": _choice(names.OptimizerName),
        "lr": _real(None, MAX_LR, above=0),
        "weight_decay": _real(0, 1e6),
        "lr_decay": _share,
        "warmup": _whole(0, MAX_EPOCHS),
        "grad_clip": _real(None, MAX_LR, above=0),
        "ema_decay": _real(0, 1 - 1e-9),
        "seed": _seed,
        "start": _optional(_text),
        "teacher": _optional(_text),
        "dmd_weight": _real(0, 1e6),
        "terminal_share": _real(None, 1, above=0),
        "threads": _optional(_whole(1, MAX_THREADS)),
    },
}
