"""Check what an optimizer file contains before anything is loaded from it.

The file's digest shows that it has not changed since it was written. Here its content is compared with the optimizers
and networks that the recipe makes: wrong content would otherwise end in an exception of torch, or in wrong weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..models.weights import check_tensor, load_state

ENTRIES = {"AdamW": ("exp_avg", "exp_avg_sq"), "Muon": ("momentum",)}  # tensors of the shape of the parameter
MAX_STEPS = 2.0**63


def load_states(parts: Sequence[Any], states: Sequence[Any]) -> None:
    """Load each state into its optimizer or module, as the recipe made them. UserError if one does not fit."""
    if len(parts) != len(states):
        raise UserError(f"the optimizer file has {len(states)} states, but the recipe needs {len(parts)}")
    for number, (part, state) in enumerate(zip(parts, states, strict=True), 1):
        name = f"state {number} of the optimizer file"
        if isinstance(part, nn.Module):
            load_state(part, state, name)
            continue
        _check_optimizer(part, state, name)
        groups = zip(part.state_dict()["param_groups"], state["param_groups"], strict=True)
        part.load_state_dict({**state, "param_groups": [{**wanted, **group} for wanted, group in groups]})


def _check_optimizer(optimizer: Any, state: Any, name: str) -> None:
    expected = optimizer.state_dict()["param_groups"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kind = type(getattr(optimizer, "optimizer", optimizer)).__name__  # Fabric wraps optimizers
    if not isinstance(state, dict) or set(state) != {"state", "param_groups"}:
        raise UserError(f"{name} is damaged: it must have a state and param_groups")
    _check_groups(state["param_groups"], expected, name)
    if not isinstance(state["state"], dict):
        raise UserError(f"{name} is damaged: its state is not a table")
    for index, entries in state["state"].items():
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(parameters):
            raise UserError(f"{name} is damaged: it has a parameter that the recipe does not have")
        _check_entries(entries, parameters[index], kind, f"{name}, parameter {index},")


def _check_groups(groups: Any, expected: list[dict[str, Any]], name: str) -> None:
    """Groups must equal those of the recipe, except for the learning rate, which changes from step to step.

    Another version of torch may have settings that this one does not have, or the reverse; those are not compared, and
    `load_states` fills in the recipe's.
    """
    if not isinstance(groups, list) or len(groups) != len(expected):
        raise UserError(f"{name} is damaged: its number of parameter groups is not the recipe's")
    for group, wanted in zip(groups, expected, strict=True):
        if not isinstance(group, dict) or not {"params", "lr"} <= group.keys():
            raise UserError(f"{name} is damaged: a parameter group is incomplete")
        lr = group["lr"]
        if not isinstance(lr, float) or not 0 <= lr <= wanted["lr"]:  # it rises to the recipe's and falls
            raise UserError(f"{name} is damaged: its learning rate is not in this run's range")
        for key in wanted.keys() & group.keys() - {"lr"}:
            if type(group[key]) is not type(wanted[key]) or group[key] != wanted[key]:
                raise UserError(f"{name} is damaged: its {key} is not that of the recipe")


def _check_entries(entries: Any, parameter: Tensor, kind: str, name: str) -> None:
    needed = {*ENTRIES[kind], *(("step",) if kind == "AdamW" else ())}
    if not isinstance(entries, dict) or entries.keys() != needed:
        raise UserError(f"{name} is damaged: it must have {', '.join(sorted(needed))}")
    for key in ENTRIES[kind]:
        check_tensor(f"{name} {key}", entries[key], tuple(parameter.shape))
        if entries[key].dtype != parameter.dtype:
            raise UserError(f"{name} {key} has type {entries[key].dtype}, but the recipe needs {parameter.dtype}")
    if kind == "AdamW":
        check_tensor(f"{name} step", entries["step"], ())
        if not 0 <= entries["step"].item() < MAX_STEPS or torch.any(entries["exp_avg_sq"] < 0):
            raise UserError(f"{name} is damaged: a number that cannot be negative is")
