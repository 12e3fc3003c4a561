"""The files of a run folder. They are written completely or not at all, and never read by pickle.

    config.json                       the recipe and the DataSpec
    checkpoints/latest.safetensors    network and averaged weights; metadata: step, config, digest
    checkpoints/latest-STEP.optimizer.pt   optimizer state, needed to resume
    checkpoints/best.safetensors, epoch-0010.safetensors, …   weights only
    metrics.jsonl                     one record per line

A checkpoint also contains the configuration, so the file can be moved and loaded by itself.
"""

import hashlib
import io
import json
import math
import re
import zipfile
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
from ..common.files import naming_disk_errors, write_atomic
from ..common.values import shown
from ..data.spec import DataSpec
from .eight_bits import from_eight_bits
from .limits import MAX_PARAMETERS
from .metrics import read_metrics as read_metrics
from .recipes import Recipe

State = dict[str, Tensor]
_OPTIMIZER_FILE = re.compile(r"[\w-]+-[0-9]+\.optimizer\.pt")  # a name without a folder
MAX_FAULTS = 5  # that an error lists
MAX_STEP = 2**63 - 1
MAX_BYTES = 10 * MAX_PARAMETERS  # of a checkpoint: weights and averaged weights in float32, and labels


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
            faults = [f"{'.'.join(map(str, e['loc']))[:200] or 'file'}: {e['msg'][:200]}" for e in error.errors()]
            more = f"; and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
            raise UserError(
                f"{source} is not the configuration of a run: {'; '.join(faults[:MAX_FAULTS])}{more}"
            ) from None
        except UserError as error:  # a setting out of range
            raise UserError(f"{source} is not the configuration of a run: {error}") from None


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
    write_atomic(folder / f"{name}.safetensors", _serialise(tensors, metadata))
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
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"checkpoint {path} has {size} bytes; at most {MAX_BYTES} are supported")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        stored_digest = metadata.pop("digest", None)
        digest = _digest(tensors, metadata)
    except (SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); use another one, or train again") from None
    if stored_digest is None:
        raise UserError(f"{path} is not a shapedreamer checkpoint: its metadata has no digest")
    if stored_digest != digest:
        raise UserError(f"checkpoint {path} is damaged: its content does not match its digest; use another one")
    labels = tensors.pop("labels", None)
    states: dict[str, State] = {"network": {}, "ema": {}}
    for key, value in tensors.items():
        kind, _, name = key.partition(".")
        if kind not in states:
            raise UserError(f"checkpoint {path} is damaged: it has an unknown tensor {shown(key)}")
        states[kind][name] = value
    missing = {"config", "step", "best_loss"} - metadata.keys()
    if missing:
        raise UserError(f"checkpoint {path} is damaged: its metadata has no {', '.join(sorted(missing))}")
    optimizer_file = metadata.get("optimizer_file", "")
    if optimizer_file and not _OPTIMIZER_FILE.fullmatch(optimizer_file):
        raise UserError(
            f"checkpoint {path} is damaged: {shown(optimizer_file)} is not an optimizer file of this folder"
        )
    return Checkpoint(
        config=RunConfig.from_json(metadata["config"], path),
        step=_step(metadata["step"], path),
        network=from_eight_bits(states["network"]),
        ema=from_eight_bits(states["ema"]),
        labels=labels,
        best_loss=_best_loss(metadata["best_loss"], path),
        optimizer_file=optimizer_file,
        optimizer_digest=metadata.get("optimizer_digest", ""),
        digest=digest,
    )


def read_outline(path: Path) -> tuple[RunConfig, bool]:
    """The configuration in a checkpoint, and whether it has labels, without reading its weights.

    UserError if the file is missing or not a checkpoint. Only load_checkpoint verifies the digest.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config, has_labels = (file.metadata() or {})["config"], "labels" in file.keys()
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"checkpoint {path} is missing or damaged ({error}); use another one") from None
    return RunConfig.from_json(config, path), has_labels


def _step(text: str, path: Path) -> int:
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) > MAX_STEP:
        raise UserError(f"checkpoint {path} is damaged: its step is {shown(text)}, not a number of steps")
    return int(text)


def _best_loss(text: str, path: Path) -> float:
    try:
        best_loss = float(text)
    except ValueError:
        best_loss = math.nan
    if math.isnan(best_loss):
        raise UserError(f"checkpoint {path} is damaged: its best_loss is {shown(text)}, not a number")
    return best_loss


def load_optimizers(folder: Path, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The optimizer states that belong to a checkpoint. UserError if the file is missing or damaged.

    training/states.py checks what they contain.
    """
    path = folder / checkpoint.optimizer_file
    if not checkpoint.optimizer_file or not path.is_file():
        raise UserError(f"cannot resume from this checkpoint: its optimizer state {path} is missing")
    weights = sum(value.nbytes for value in checkpoint.network.values())
    with naming_disk_errors(path, action="read"):
        if path.stat().st_size > 16 * weights + 2**24:  # a distillation stores eight tensors for each of its weights
            raise UserError(f"cannot resume: {path} is damaged, it is far too large")
        content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != checkpoint.optimizer_digest:
        raise UserError(f"cannot resume: {path} is damaged, its content does not match its digest")
    damaged = UserError(f"cannot resume: {path} is not the optimizer state of a run")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            size = sum(member.file_size for member in file.infolist())
        if size > len(content):  # torch.save does not compress, so this would fill the memory
            raise damaged
        states = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception:  # torch and pickle raise errors of nearly every kind for a file that is not theirs
        raise damaged from None
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        raise damaged
    return states


def read_config(run: Path) -> RunConfig:
    """The configuration in a run folder. UserError if there is none, or it is damaged."""
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"{run} is not a run folder: it has no config.json")
    with naming_disk_errors(path, action="read"):
        content = path.read_bytes()
    return RunConfig.from_json(content, path)


def _serialise(tensors: State, metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file, with its metadata sorted: safetensors itself writes them in random order."""
    content = save(tensors, dict(metadata))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def _digest(tensors: State, metadata: Mapping[str, str]) -> str:
    """SHA-256 of the metadata and of the name, dtype, shape and bits of every tensor."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
