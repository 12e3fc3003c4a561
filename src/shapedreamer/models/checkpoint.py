"""A run is a folder, and this is how its files are written and read: whole or not at all, and never by pickle.

    config.json                       the recipe and the DataSpec
    checkpoints/latest.safetensors    network and averaged weights; metadata: step, config, digest
    checkpoints/latest-STEP.optimizer.pt   what else it takes to go on from there
    checkpoints/best.safetensors, epoch-0010.safetensors, …   weights alone
    metrics.jsonl                     a line per record

A checkpoint holds the configuration too, so that the one file can be moved away and loaded alone.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..common.errors import UserError
from ..common.files import write_atomic
from ..data.spec import DataSpec
from .recipes import Recipe

State = dict[str, Tensor]


@dataclass(frozen=True)
class RunConfig:
    """What config.json holds. It comes back from JSON exactly as it was; an unknown key is an error."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}
    recipe: Recipe
    data: DataSpec

    def to_json(self) -> str:
        return _RUN_CONFIG.dump_json(self, indent=2).decode()

    @staticmethod
    def from_json(text: str | bytes, source: object) -> "RunConfig":
        """UserError, naming `source` and each field, if the text is not a run's configuration."""
        try:
            return _RUN_CONFIG.validate_json(text)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
            raise UserError(f"{source} is not a run's configuration: {faults}") from None


_RUN_CONFIG = TypeAdapter(RunConfig)


@dataclass(frozen=True)
class Checkpoint:
    """Weights at a step (optimizer steps done so far), raw and averaged, and the configuration they belong to.

    labels: (N, L) of some images, as labels come in the data; None where the network is told none
    """

    config: RunConfig
    step: int
    network: State
    ema: State
    labels: Tensor | None
    best_loss: float  # the lowest held-out loss so far; infinite before the first
    optimizer_file: str  # in the same folder; "" where there is none
    optimizer_digest: str
    digest: str  # SHA-256 of all of the above; the same weights and configuration have the same


def save_checkpoint(
    folder: Path,
    name: str,
    config: RunConfig,
    step: int,
    network: State,
    ema: State,
    best_loss: float,
    labels: Tensor | None = None,
    optimizers: list[dict[str, Any]] | None = None,
) -> None:
    """Write folder/name.safetensors and, if states of optimizers are given, those beside it.

    The optimizers' file is new with every step and is written first; the checkpoint names the one it goes with. So
    whatever moment the power fails at, the checkpoint that is there has its own optimizer state.
    """
    metadata = {"config": config.to_json(), "step": str(step), "best_loss": repr(best_loss)}
    if optimizers is not None:
        buffer = io.BytesIO()
        torch.save(optimizers, buffer)
        metadata["optimizer_file"] = f"{name}-{step}.optimizer.pt"
        metadata["optimizer_digest"] = hashlib.sha256(buffer.getvalue()).hexdigest()
        write_atomic(folder / metadata["optimizer_file"], buffer.getvalue())
    tensors = {
        f"{kind}.{key}": value.detach().cpu().contiguous()
        for kind, state in (("network", network), ("ema", ema))
        for key, value in state.items()
    }
    if labels is not None:
        tensors["labels"] = labels.cpu().contiguous()
    metadata["digest"] = _digest(tensors, metadata)
    write_atomic(folder / f"{name}.safetensors", save(tensors, metadata))
    if optimizers is not None:
        for old in folder.glob(f"{name}-*.optimizer.pt"):
            if old.name != metadata["optimizer_file"]:
                old.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """UserError if the file is missing, cut short, changed by as much as a bit, or no checkpoint of ours."""
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in path.parent.glob("*.safetensors"))) or "none"
        raise UserError(f"there is no checkpoint {path}; checkpoints in that folder: {there}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); use another one, or train again") from None
    digest = metadata.pop("digest", None)
    if digest is None:
        raise UserError(f"{path} is not a checkpoint of shapedreamer: it has no digest in its metadata")
    if digest != _digest(tensors, metadata):
        raise UserError(f"checkpoint {path} is damaged: its content does not match its digest; use another one")
    labels = tensors.pop("labels", None)
    states: dict[str, State] = {"network": {}, "ema": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        states[kind][name] = value
    return Checkpoint(
        config=RunConfig.from_json(metadata["config"], path),
        step=int(metadata["step"]),
        network=states["network"],
        ema=states["ema"],
        labels=labels,
        best_loss=float(metadata["best_loss"]),
        optimizer_file=metadata.get("optimizer_file", ""),
        optimizer_digest=metadata.get("optimizer_digest", ""),
        digest=digest,
    )


def load_optimizers(folder: Path, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The states of the optimizers that go with a checkpoint; UserError if it is missing or damaged."""
    path = folder / checkpoint.optimizer_file
    if not checkpoint.optimizer_file or not path.is_file():
        raise UserError(f"cannot go on from this checkpoint: its optimizer state {path} is missing")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checkpoint.optimizer_digest:
        raise UserError(f"{path} is damaged: its content does not match its digest; it cannot be resumed from")
    states: list[dict[str, Any]] = torch.load(io.BytesIO(content), weights_only=True)
    return states


def read_config(run: Path) -> RunConfig:
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{run} is not a run: it has no config.json")
    return RunConfig.from_json(path.read_bytes(), path)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; a last line that a crash cut short is left out."""
    path = run / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def _digest(tensors: State, metadata: Mapping[str, str]) -> str:
    """SHA-256 over every name, type, shape and bit of the tensors, and over the metadata."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
