"""Chooses the check for an object, by its type or by the names of its parameters, and loads objects by name.

``shapedreamer conform`` uses ``load`` and ``check`` on functions in any file or module.
"""

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
from ..common.values import as_float
from ..diffusion.schedule import Schedule
from .data import check_data, check_label_dropout
from .guidance import check_guidance
from .loss import check_loss
from .process import check_forward, check_posterior
from .report import Report, describe_error
from .sampler import check_sampler
from .schedule import check_schedule, check_step_times
from .trace import parameters
from .weights import check_ema, check_sampling_weights

Kind = Literal[
    "schedule", "step_times", "forward", "posterior", "sampler", "loss", "ema", "sampling_weights", "data",
    "label_dropout", "guidance",
]  # fmt: skip

SCHEDULE_T = 1000
"""The T that a function which makes a schedule is called with."""

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
# A function is recognised by the names of its parameters. The first match counts, so longer lists come first.
_PARAMETERS: tuple[tuple[Kind, set[str]], ...] = (
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
          shift: float | None = None) -> Report:  # fmt: skip
    """Run the check for this kind of object and return its report.

    kind:     chosen by ``kind_of(thing)`` if None
    order:    for a sampler only, see check_sampler
    expected: for a schedule only, see check_schedule
    shift:    for expected="flow" only, see check_schedule

    A callable schedule is called with T = 1000. Raises UserError if the kind cannot be determined, does not fit the
    object, or does not go with ``order``, ``expected`` or ``shift``.
    """
    kind = kind or kind_of(thing)
    if order is not None and kind != "sampler":
        raise UserError(f"order applies to samplers only, but this is checked as: {kind}; remove it")
    if expected is not None and kind != "schedule":
        raise UserError(f"expected applies to schedules only, but this is checked as: {kind}; remove it")
    if shift is not None:
        if expected != "flow":
            raise UserError("`shift` belongs to `expected='flow'`; add that, or remove it")
        as_float("shift", shift, 0.1, 10)
    if kind == "sampler":
        return check_sampler(_require_callable(thing, kind), order=order)
    if kind == "schedule":
        return check_schedule(_make_schedule(thing), expected, SCHEDULE_T if callable(thing) else None, shift)
    return _CHECKS[kind](thing if kind == "data" else _require_callable(thing, kind))


def kind_of(thing: Any) -> Kind:
    """Return the kind of an object, determined by its type or the names of its parameters.

    Raises UserError if neither determines it.
    """
    if isinstance(thing, Schedule) or (isinstance(thing, Tensor | np.ndarray) and thing.ndim == 1):
        return "schedule"
    if isinstance(thing, Tensor) or (hasattr(thing, "batch") and hasattr(thing, "__len__")):
        return "data"
    names = parameters(thing) if callable(thing) else set()
    for kind, required in _PARAMETERS:
        if required <= names:
            return kind
    found = f"a function of ({', '.join(sorted(names))})" if callable(thing) else f"a {type(thing).__name__}"
    raise UserError(f"cannot tell which check to run on {found}; choose with `kind`: {', '.join(get_args(Kind))}")


def load(target: str) -> Any:
    """Return the object that "module:name" or "path/to/file.py:name" refers to. This runs the module.

    Modules are also searched for in the current folder. Raises UserError if the module cannot be imported, or has no
    object of this name.
    """
    source, colon, name = target.rpartition(":")
    if not (colon and source and name):
        raise UserError(f"{target!r} must have the form MODULE:NAME or path/to/file.py:NAME, as in my_sampler.py:ddim")
    module = _import(source)
    if not hasattr(module, name):
        available = [
            key for key, value in vars(module).items()
            if not key.startswith("_") and not isinstance(value, ModuleType | int)
            and getattr(value, "__module__", module.__name__) == module.__name__
        ]  # fmt: skip
        raise UserError(f"{source} has no {name!r}; available: {', '.join(available) or 'nothing'}")
    return getattr(module, name)


def _import(source: str) -> ModuleType:
    path = Path(source)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"there is no file {source}")
    folder = str((path.parent if is_file else Path()).resolve())
    sys.path.insert(0, folder)
    try:
        return _run_file(path) if is_file else importlib.import_module(source)
    except ModuleNotFoundError as error:
        raise UserError(f"there is no module {error.name!r}: it is not installed, and not in {folder}") from error
    except Exception as error:
        raise UserError(f"{source} cannot be imported: {describe_error(error)}") from error
    finally:
        sys.path.remove(folder)


def _run_file(path: Path) -> ModuleType:
    name = f"conform_{path.stem}"  # with a prefix, so that a file called numpy.py does not replace numpy
    loader = SourceFileLoader(name, str(path))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    sys.modules[name] = module  # dataclasses look up their module there
    loader.exec_module(module)
    return module


def _require_callable(thing: Any, kind: Kind) -> Any:
    if not callable(thing):
        raise UserError(f"this is a {type(thing).__name__}, but the check of kind {kind} needs a function or class")
    return thing


def _make_schedule(thing: Any) -> Any:
    """Return thing(SCHEDULE_T) if it is callable, otherwise the thing itself."""
    if not callable(thing):
        return thing
    try:
        return thing(SCHEDULE_T)
    except Exception as error:
        raise UserError(f"calling this with T = 1000 does not make a schedule: {describe_error(error)}") from error
