"""A trained model, ready to dream: load one, sample it, or watch it step by step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import Checkpoint, load_checkpoint
from .data.spec import DataSpec
from .denoiser import Denoise, Denoiser, clipped
from .device import autocast, pick_device
from .errors import UserError
from .names import DeviceName, Prediction, SamplerName, Which
from .noise import Noise
from .samplers import SAMPLERS, Step, Steps
from .schedule import Schedule


class Model:
    """A network with all that it takes to sample from it. `spec` says what its images are."""

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction, spec: DataSpec) -> None:
        self.network = network.eval()
        self.schedule, self.prediction, self.spec = schedule, prediction, spec
        self.device = next(network.parameters()).device

    def denoiser(self) -> Denoise:
        """The network as a denoiser (x_t, t) -> x̂₀, clipped to the range of the data; see denoiser.py."""

        def network(x_t: Tensor, t: Tensor) -> Tensor:
            with torch.inference_mode(), autocast(self.device):
                return self.network(x_t.contiguous(memory_format=torch.channels_last), t)

        return clipped(Denoiser(network, self.schedule, self.prediction), self.spec.low, self.spec.high)

    def noise(self, num: int, seed: int = 0, first: int = 0) -> Tensor:
        """x_T of images first…first + num − 1 of this seed: (num, C, H, W)."""
        if num < 1:
            raise UserError(f"num must be at least 1, not {num}")
        if not 0 <= seed < 2**64:
            raise UserError(f"seed must be between 0 and 2⁶⁴−1, not {seed}")
        shape = (num, self.spec.channels, self.spec.height, self.spec.width)
        return Noise(seed, first)(0, like=torch.empty(shape, device=self.device))

    def stream(
        self,
        num: int = 1,
        sampler: SamplerName = "ddim",
        steps: Steps = 20,
        eta: float = 0.0,
        seed: int = 0,
        first: int = 0,
    ) -> Iterator[Step]:
        """Every Step(t, x, x0) from noise to image of images first…first + num − 1 of this seed, as one batch.

        steps: network calls; eta: noise of the sampler ddim, 0…1. UserError for a value that makes no sense.
        """
        if sampler not in SAMPLERS:
            raise UserError(f"there is no sampler {sampler!r}; there are: {', '.join(SAMPLERS)}")
        if isinstance(steps, int) and not 1 <= steps <= self.schedule.T:
            raise UserError(f"steps must be between 1 and {self.schedule.T}, not {steps}")
        if not 0 <= eta <= 1:
            raise UserError(f"eta must be between 0 and 1, not {eta:g}")
        if eta > 0 and sampler != "ddim":
            raise UserError(f"eta belongs to the sampler ddim; {sampler} has none")
        x_T = self.noise(num, seed, first)
        options: dict[str, Any] = {}
        if sampler in ("ddpm", "ddim"):
            options["generator"] = Noise(seed, first)
        if sampler == "ddim":
            options["eta"] = eta
        return SAMPLERS[sampler](self.denoiser(), self.schedule, x_T, steps, **options)

    def sample(
        self,
        num: int = 1,
        sampler: SamplerName = "ddim",
        steps: Steps = 20,
        eta: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
    ) -> Tensor:
        """num images, (num, C, H, W) float32 in [−1, 1] on the CPU. The seed decides them, and not the batch_size."""
        if num < 1 or batch_size < 1:
            raise UserError(f"num and batch_size must be at least 1, not {num} and {batch_size}")
        batches = []
        for first in range(0, num, batch_size):
            for step in self.stream(min(batch_size, num - first), sampler, steps, eta, seed, first):
                x = step.x
            batches.append(x.cpu())
        return torch.cat(batches)


def load(run: str | Path, which: Which = "ema", device: DeviceName = "auto") -> Model:
    """The model of a run (a folder: its best checkpoint, or else the latest) or of a checkpoint (a .safetensors file).

    which: the averaged weights ("ema") or those of the last step ("raw"). UserError if there is none or it is damaged.
    """
    path = Path(run)
    if not path.exists():
        raise UserError(f"there is no run or checkpoint {path}")
    if path.is_dir():
        best = path / "checkpoints" / "best.safetensors"
        path = best if best.exists() else path / "checkpoints" / "latest.safetensors"
    return from_checkpoint(load_checkpoint(path), which, device)


def from_checkpoint(checkpoint: Checkpoint, which: Which, device: DeviceName = "auto") -> Model:
    recipe = checkpoint.config.recipe
    network = recipe.make_network()
    network.load_state_dict(checkpoint.ema if which == "ema" else checkpoint.network)
    network = network.to(pick_device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, recipe.make_schedule(), recipe.prediction, checkpoint.config.data)
