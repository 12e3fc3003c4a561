"""From an object, or the name of one, to the check that is meant for it."""

import importlib
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

from ..common.errors import UserError
from ..common.names import ScheduleName
from ..diffusion.schedule import Schedule
from .data import check_data, check_label_dropout
from .guidance import check_guidance
from .loss import check_loss
from .process import check_forward, check_posterior
from .report import Report, message
from .sampler import check_sampler
from .schedule import check_schedule, check_step_times
from .trace import parameters
from .weights import check_ema, check_sampling_weights

Kind = Literal[
    "schedule", "step_times", "forward", "posterior", "sampler", "loss", "ema", "sampling_weights", "data",
    "label_dropout", "guidance",
]  # fmt: skip

_CHECKS: dict[Kind, Callable[[Any], Report]] = {
    "step_times": check_step_times,
    "forward": check_forward,
    "posterior": check_posterior,
    "loss": check_loss,
    "ema": check_ema,
    "sampling_weights": check_sampling_weights,
    "data": check_data,
    "label_dropout": check_label_dropout,
    "guidance": check_guidance,
}
# What tells a function is what it takes. The first that fits is it, so those that take more come first.
_TAKES: tuple[tuple[Kind, set[str]], ...] = (
    ("sampler", {"denoise", "schedule", "x_T", "steps"}),
    ("loss", {"network", "x0", "t", "eps"}),
    ("posterior", {"x0", "x_t", "t", "s"}),
    ("forward", {"x0", "t", "eps"}),
    ("guidance", {"conditional", "unconditional", "scale"}),
    ("label_dropout", {"labels", "probability"}),
    ("sampling_weights", {"raw_network", "ema_network"}),
    ("ema", {"network", "decay"}),
    ("step_times", {"T", "steps"}),
    ("schedule", {"T"}),
)


def check(thing: Any, kind: Kind | None = None, *, order: float | None = None, expected: ScheduleName | None = None,
          ) -> Report:  # fmt: skip
    """Run the check that is meant for this object. kind: which, if its parameters do not tell; see check_sampler for
    order, check_schedule for expected. Raises UserError where it cannot be told, or is not what `kind` says."""
    kind = kind or kind_of(thing)
    if order is not None and kind != "sampler":
        raise UserError(f"an order belongs to a sampler, and this is checked as {kind}")
    if expected is not None and kind != "schedule":
        raise UserError(f"the name of a schedule belongs to a schedule, and this is checked as {kind}")
    if kind == "sampler":
        return check_sampler(_callable(thing, kind), order=order)
    if kind == "schedule":
        return check_schedule(_made(thing), expected)
    return _CHECKS[kind](thing if kind == "data" else _callable(thing, kind))


def kind_of(thing: Any) -> Kind:
    """What kind of thing this is, by its type or the names of its parameters. Raises UserError if they do not say."""
    if isinstance(thing, Schedule) or (isinstance(thing, Tensor | np.ndarray) and thing.ndim == 1):
        return "schedule"
    if isinstance(thing, Tensor) or (hasattr(thing, "batch") and hasattr(thing, "__len__")):
        return "data"
    names = parameters(thing) if callable(thing) else set()
    for kind, needs in _TAKES:
        if needs <= names:
            return kind
    takes = f"takes ({', '.join(sorted(names))})" if callable(thing) else f"is a {type(thing).__name__}"
    raise UserError(f"it {takes}, which does not tell what it is; say --kind, one of {', '.join(get_args(Kind))}")


def load(target: str) -> Any:
    """The object that "module:name" or "path/to/file.py:name" names; modules are also looked for in the current folder.

    This runs the module. Raises UserError that says what is missing, and what is there.
    """
    where, colon, name = target.rpartition(":")
    if not (colon and where and name):
        raise UserError(f"{target!r} must be MODULE:NAME or path/to/file.py:NAME, as in my_sampler.py:ddim")
    module = _module(where)
    if not hasattr(module, name):
        there = [
            each for each, value in vars(module).items()
            if not each.startswith("_") and not isinstance(value, ModuleType)
            and getattr(value, "__module__", module.__name__) == module.__name__
        ]  # fmt: skip
        raise UserError(f"{where} has no {name!r}; it has: {', '.join(there) or 'nothing'}")
    return getattr(module, name)


def _module(where: str) -> ModuleType:
    path = Path(where)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"there is no file {where}")
    folder = str((path.parent if is_file else Path()).resolve())
    sys.path.insert(0, folder)
    try:
        return _run_file(path) if is_file else importlib.import_module(where)
    except ModuleNotFoundError as error:
        raise UserError(f"there is no module {error.name!r}, neither installed nor in {folder}") from error
    except Exception as error:
        raise UserError(f"{where} cannot be imported: {message(error)}") from error
    finally:
        sys.path.remove(folder)


def _run_file(path: Path) -> ModuleType:
    name = f"conform_{path.stem}"  # a file of any name, which must not stand in for a module of that name
    loader = SourceFileLoader(name, str(path))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    sys.modules[name] = module  # dataclasses look themselves up there
    loader.exec_module(module)
    return module


def _callable(thing: Any, kind: Kind) -> Any:
    if not callable(thing):
        raise UserError(f"a {kind} is something to call, not a {type(thing).__name__}")
    return thing


def _made(thing: Any) -> Any:
    """The schedule that a function of T makes for T = 1000, or the thing itself."""
    if not callable(thing):
        return thing
    try:
        return thing(1000)
    except Exception as error:
        raise UserError(f"it does not make a schedule of T = 1000: {message(error)}") from error
