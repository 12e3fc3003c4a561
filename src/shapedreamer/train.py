"""Training: algorithm 1 of DDPM (Ho et al. 2020), and around it what it takes to watch, stop and resume it.

    repeat
        x₀ ~ q(x₀)                  an image
        t ~ p(t)                    a time; uniform in the paper
        ε ~ N(0, 1)                 noise
        descend along ∇ |target − network(√ᾱ_t x₀ + √(1−ᾱ_t) ε, t)|²

Everything random is a function of (seed, step), never of what ran before. So a run that is resumed at step k has the
bits of the run that was never stopped, and the batch of step k is the same for one process and for many.
"""

import logging
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from .checkpoint import RunConfig, load_checkpoint, load_optimizers, read_config, save_checkpoint, write_atomic
from .data.spec import Dataset
from .denoiser import Network
from .device import autocast, has_fast_bf16, pick_device
from .ema import EMA
from .errors import UserError
from .loss import denoising_loss, draw_times, loss_weight, stratified, time_density
from .model import Model
from .names import DeviceName
from .noise import fold
from .optim import make_optimizers
from .recipes import Recipe
from .runlog import RunLog

# What a seed is folded with, so that each purpose has numbers of its own
WEIGHTS, ORDER, STEP, HELD_OUT = 1, 2, 3, 4
HELD_OUT_IMAGES = 512
PREVIEW_IMAGES = 32


def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    device: DeviceName = "auto",
    max_minutes: float | None = None,
    sample_every: int = 10,
    save_every: int = 10,
) -> Model:
    """Train a recipe into the run folder `out` (runs/NAME unless given) and return the model with averaged weights.

    resume:        go on with the run that is in `out`; only a longer `epochs` may differ from its recipe
    max_minutes:   stop after so long, with a checkpoint to go on from
    sample_every:  epochs between sample grids; 0 for none but the last
    save_every:    epochs between checkpoints that are kept; `latest` and `best` are written after every epoch

    Ctrl-C and SIGTERM finish the step, save, and then raise KeyboardInterrupt or SystemExit. UserError for a folder
    that holds another run, a damaged checkpoint, a loss that is not finite, a full disk.
    """
    out = Path(out or Path("runs") / recipe.name)
    data = recipe.make_data()
    run = _Run(recipe, out, RunConfig(recipe, data.spec), pick_device(device))
    start = run.resume() if resume else run.begin()
    network, optimizers, schedule, weight, density = run.network, run.optimizers, run.schedule, run.weight, run.density

    with RunLog(out, recipe, start, run.loss_of_nothing, max_minutes) as log, _signals() as caught:
        for step in range(start, recipe.steps):
            x0, t, eps = training_batch(recipe, data, density, step)
            x0, t, eps = x0.to(run.device), t.to(run.device), eps.to(run.device)
            error = denoising_loss(network, x0, t, eps, schedule, recipe.prediction)
            loss = (weight[t] * error).mean()

            run.fabric.backward(loss)
            norm = run.fabric.clip_gradients(
                network, optimizers[0], max_norm=recipe.grad_clip, error_if_nonfinite=False
            )
            run.check_finite(step, t, error, norm)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step)
                optimizer.step()
                optimizer.zero_grad()
            run.ema.update(run.bare, step)

            log.step(step + 1, loss.item(), learning_rate(recipe, step))
            out_of_time = log.out_of_time()
            if (step + 1) % recipe.steps_per_epoch == 0:
                run.end_epoch((step + 1) // recipe.steps_per_epoch, log, sample_every, save_every)
            elif caught or out_of_time:
                run.save("latest", step + 1, with_optimizers=True)
            if (caught or out_of_time) and step + 1 < recipe.steps:
                log.say(f"stopped and saved at step {step + 1} of {recipe.steps}; --resume goes on from there")
                break
        else:
            log.say(f"trained {recipe.steps} steps; the run is in {out}")
        log.plots()
    if caught:
        raise KeyboardInterrupt if caught[0] == signal.SIGINT else SystemExit(128 + caught[0])
    return run.model(run.ema.network)


def training_batch(recipe: Recipe, data: Dataset, density: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """What step 0, 1, … trains on: x₀ (B, C, H, W), t (B,) and ε like x₀. The same for every run of the recipe.

    Each epoch goes through the data in an order of its own; times are spread evenly over their distribution.
    """
    epoch, place = divmod(step, recipe.steps_per_epoch)
    order = torch.randperm(len(data), generator=_generator(recipe.seed, ORDER, epoch))
    x0, _ = data.batch(order[place * recipe.batch_size : (place + 1) * recipe.batch_size])
    return x0, *_times_and_noise(x0, density, _generator(recipe.seed, STEP, step))


def held_out_batch(recipe: Recipe, data: Dataset, density: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images that training never sees, with times and noise that never change: losses on it can be compared."""
    x0, _ = data.batch(torch.arange(min(HELD_OUT_IMAGES, len(data))))
    return x0, *_times_and_noise(x0, density, _generator(recipe.seed, HELD_OUT))


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of step 0, 1, …: it grows over the warm-up and then stays, or falls linearly to 0 at the end of the run."""
    grow = min(1.0, (step + 1) / (recipe.warmup + 1))
    fall = 1 - step / recipe.steps if recipe.lr_decay else 1.0
    return recipe.lr * grow * fall


class _Run:
    """The parts of a run, and how they are stored, found again and checked. The algorithm is in `train`."""

    def __init__(self, recipe: Recipe, out: Path, config: RunConfig, device: torch.device) -> None:
        self.recipe, self.out, self.config, self.device = recipe, out, config, device
        self.checkpoints = out / "checkpoints"
        self.best_loss = math.inf
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision otherwise
        precision: Any = "bf16-mixed" if has_fast_bf16(device) else "32-true"
        self.fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(recipe.seed, WEIGHTS))
            self.bare = recipe.make_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.bare.to(device)
        self.ema = EMA(self.bare, recipe.ema_decay)
        optimizers = make_optimizers(self.bare, recipe.optimizer, recipe.lr, recipe.weight_decay)
        self.network, *self.optimizers = self.fabric.setup(self.bare, *optimizers)

        self.schedule = recipe.make_schedule()
        levels = recipe.noise_levels
        log_snr, uniform = ((levels.mean, levels.std), levels.uniform) if levels else (None, 0.0)
        self.density = time_density(self.schedule, log_snr, uniform)
        self.weight = loss_weight(recipe.weight, recipe.prediction, self.schedule).float().to(device)
        self.held_out = held_out_batch(recipe, recipe.make_data(held_out=True), self.density)
        self.loss_of_nothing = self.held_out_losses(lambda x, t: torch.zeros_like(x)).mean().item()

    def begin(self) -> int:
        """Make the folder, unless it holds a run that would be lost; return the first step."""
        if (self.checkpoints / "latest.safetensors").exists():
            raise UserError(f"{self.out} already holds a run: go on with it by --resume, or choose another --out")
        write_atomic(self.out / "config.json", self.config.to_json().encode())
        self.save("latest", 0, with_optimizers=True)
        return 0

    def resume(self) -> int:
        """Take up the run in the folder; return the step to go on with."""
        _check_same_recipe(self.out, read_config(self.out).recipe, self.recipe)
        before = load_checkpoint(self.checkpoints / "latest.safetensors")
        self.bare.load_state_dict(before.network)
        self.ema.network.load_state_dict(before.ema)
        for optimizer, state in zip(self.optimizers, load_optimizers(self.checkpoints, before), strict=True):
            optimizer.load_state_dict(state)
        self.best_loss = before.best_loss
        write_atomic(self.out / "config.json", self.config.to_json().encode())
        return before.step

    def save(self, name: str, step: int, with_optimizers: bool = False) -> None:
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers] if with_optimizers else None
        states = self.bare.state_dict(), self.ema.network.state_dict()
        save_checkpoint(self.checkpoints, name, self.config, step, *states, self.best_loss, optimizers)

    def end_epoch(self, epoch: int, log: RunLog, sample_every: int, save_every: int) -> None:
        """Score the averaged weights, keep the best, save, and now and then sample."""
        step, last = epoch * self.recipe.steps_per_epoch, epoch == self.recipe.epochs
        losses = self.held_out_losses(self.ema.network)
        by_time = sorted(zip(self.held_out[1].tolist(), losses.tolist(), strict=True))
        tenths = [by_time[i * len(by_time) // 10 : (i + 1) * len(by_time) // 10] for i in range(10)]
        means = [tuple(sum(column) / len(tenth) for column in zip(*tenth, strict=True)) for tenth in tenths if tenth]
        log.epoch(step, losses.mean().item(), [(t, loss) for t, loss in means])
        if losses.mean().item() < self.best_loss:
            self.best_loss = losses.mean().item()
            self.save("best", step)
        if save_every and epoch % save_every == 0:
            self.save(f"epoch-{epoch:04d}", step)
        if last or (sample_every and epoch % sample_every == 0):
            raw, ema = (self.model(net).sample(PREVIEW_IMAGES) for net in (self.bare, self.ema.network))
            self.bare.train()
            log.samples(step, raw, ema)
            if not last:
                log.plots()
        self.save("latest", step, with_optimizers=True)

    @torch.inference_mode()
    def held_out_losses(self, network: Network) -> Tensor:
        """Loss of each held-out image: (N,)."""
        x0, t, eps = (part.to(self.device) for part in self.held_out)
        with autocast(self.device):
            return self.weight[t] * denoising_loss(network, x0, t, eps, self.schedule, self.recipe.prediction)

    def check_finite(self, step: int, t: Tensor, error: Tensor, norm: Tensor | None) -> None:
        """UserError, before the weights are touched, if the loss or its gradient is not finite."""
        if norm is not None and torch.isfinite(norm) and torch.isfinite(error).all():
            return
        epoch, batch = divmod(step, self.recipe.steps_per_epoch)
        worst = int(t[torch.isfinite(error).logical_not().int().argmax()])
        raise UserError(
            f"the loss is no longer finite at step {step + 1} (epoch {epoch + 1}, batch {batch + 1}, noise level "
            f"t = {worst}, SNR {self.schedule.snr[worst].item():.3g}); the checkpoints before it are intact in "
            f"{self.checkpoints}. Try a lower --lr than {self.recipe.lr:g}"
        )

    def model(self, network: nn.Module) -> Model:
        return Model(network, self.schedule, self.recipe.prediction, self.config.data)


def _check_same_recipe(out: Path, old: Recipe, new: Recipe) -> None:
    """UserError if going on would not give the run that `new` describes. A longer run is one, at a constant rate."""
    changed = _differences(asdict(old), asdict(new))
    if not new.lr_decay:
        changed.pop("epochs", None)
    if changed:
        changes = ", ".join(f"{key} = {a!r}, not {b!r}" for key, (a, b) in changed.items())
        raise UserError(f"{out} was begun with {changes}; resume without changing it, or choose another --out")


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    out: dict[str, tuple[Any, Any]] = {}
    for key in old:
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            out |= _differences(old[key], new[key], f"{prefix}{key}.")
        elif old[key] != new[key]:
            out[prefix + key] = (old[key], new[key])
    return out


def _generator(seed: int, *purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(fold(seed, *purpose))


def _times_and_noise(x0: Tensor, density: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    t = draw_times(density, stratified(len(x0), generator))
    return t, torch.randn(x0.shape, generator=generator)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list, so that the step under way can end; a second one has its usual effect."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught  # only the main thread may listen to signals
        return
    usual: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def listen(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, usual[number])

    for number in usual:
        signal.signal(number, listen)
    try:
        yield caught
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


class _Callable(ModuleType):
    """Importing this module puts it where `shapedreamer.train` was the function; so let it be called like that."""

    __call__ = staticmethod(train)


sys.modules[__name__].__class__ = _Callable
