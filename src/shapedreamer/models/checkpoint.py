"""The files of a run folder. They are written completely or not at all, and never read by pickle.

    config.json                       the recipe and the DataSpec
    checkpoints/latest.safetensors    network and averaged weights; metadata: step, config, digest
    checkpoints/latest-STEP.optimizer.pt   optimizer state, needed to resume
    checkpoints/best.safetensors, epoch-0010.safetensors, …   weights only
    metrics.jsonl                     one record per line

A checkpoint also contains the configuration, so the file can be moved and loaded by itself.
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
    """The content of config.json. The round trip through JSON is exact; an unknown key is an error."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = {"extra": "forbid"}
    recipe: Recipe
    data: DataSpec

    def to_json(self) -> str:
        return _RUN_CONFIG.dump_json(self, indent=2).decode()

    @staticmethod
    def from_json(text: str | bytes, source: object) -> "RunConfig":
        """Parse JSON. UserError, naming `source` and each faulty field, if it is not the configuration of a run."""
        try:
            return _RUN_CONFIG.validate_json(text)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
            raise UserError(f"{source} is not the configuration of a run: {faults}") from None


_RUN_CONFIG = TypeAdapter(RunConfig)


@dataclass(frozen=True)
class Checkpoint:
    """Raw and averaged weights after `step` optimizer steps, and their configuration.

    labels: (N, L) labels of some real images; None for an unconditional model
    """

    config: RunConfig
    step: int
    network: State
    ema: State
    labels: Tensor | None
    best_loss: float  # the lowest held-out loss so far, infinite at first
    optimizer_file: str  # in the same folder; "" if there is none
    optimizer_digest: str
    digest: str  # SHA-256 of all of the above: equal for equal weights and configuration


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
    """Write folder/name.safetensors and, if given, the optimizer states beside it.

    The optimizer file has a new name at every step and is written first; the checkpoint stores that name. So if the
    power fails at any moment, the checkpoint on the disk still has its matching optimizer state.
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
    """Read a checkpoint. UserError if it is missing, truncated, changed by a single bit, or not one of ours."""
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in path.parent.glob("*.safetensors"))) or "none"
        raise UserError(f"there is no checkpoint {path}; the folder contains: {there}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); use another one, or train again") from None
    digest = metadata.pop("digest", None)
    if digest is None:
        raise UserError(f"{path} is not a shapedreamer checkpoint: its metadata has no digest")
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
    """The optimizer states that belong to a checkpoint. UserError if the file is missing or damaged."""
    path = folder / checkpoint.optimizer_file
    if not checkpoint.optimizer_file or not path.is_file():
        raise UserError(f"cannot resume from this checkpoint: its optimizer state {path} is missing")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checkpoint.optimizer_digest:
        raise UserError(f"cannot resume: {path} is damaged, its content does not match its digest")
    states: list[dict[str, Any]] = torch.load(io.BytesIO(content), weights_only=True)
    return states


def read_config(run: Path) -> RunConfig:
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder: it has no config.json")
    return RunConfig.from_json(path.read_bytes(), path)


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl, without a last line that a crash has truncated."""
    path = run / "metrics.jsonl"
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def _digest(tensors: State, metadata: Mapping[str, str]) -> str:
    """SHA-256 of the metadata and of the name, dtype, shape and bits of every tensor."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
