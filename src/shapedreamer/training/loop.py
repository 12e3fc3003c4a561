"""Training: algorithm 1 of DDPM (Ho et al. 2020), and around it what it takes to watch, stop and resume it.

    repeat
        x₀ ~ q(x₀)                  an image
        t ~ p(t)                    a time; uniform in the paper
        ε ~ N(0, 1)                 noise
        descend along ∇ |target − network(√ᾱ_t x₀ + √(1−ᾱ_t) ε, t)|²

A network that is told labels gets the image's as well, but now and then none, so that it learns to do without.

Everything random is a function of (seed, step), never of what ran before. So a run that is resumed at step k has the
bits of the run that was never stopped, and the batch of step k is the same for one process and for many.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..common.device import autocast, has_fast_bf16, pick_device
from ..common.errors import UserError
from ..common.names import DeviceName
from ..common.noise import fold
from ..data.spec import Dataset, DataSpec
from ..diffusion.denoiser import given
from ..diffusion.loss import denoising_loss, draw_times, loss_weight, stratified, time_density
from ..models.model import Model
from ..models.recipes import Recipe
from .log import RunLog
from .optim import make_optimizers
from .run import Run, signals

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
    save_every:    epochs between checkpoints that are kept, from the untrained epoch 0 on; 0 for none; `latest` and
                   `best` are written after every epoch

    Ctrl-C and SIGTERM finish the step, save, and then raise KeyboardInterrupt or SystemExit. UserError for a folder
    that holds another run, a damaged checkpoint, a loss that is not finite, a full disk.
    """
    if recipe.teacher:
        raise UserError("this recipe is of a model that was distilled from another: `shapedreamer distill` makes those")
    out = Path(out or Path("runs") / recipe.name)
    data, held_out = recipe.make_data()
    recipe = recipe.fitted(data)
    run = _Training(recipe, out, data.spec, held_out, pick_device(device))
    start = run.resume() if resume else run.begin(save_every)
    network, optimizers, schedule, weight, density = run.network, run.optimizers, run.schedule, run.weight, run.density

    log = RunLog(out, recipe, start, ("predicting nothing", run.loss_of_nothing), max_minutes)
    with log, signals() as caught:
        for step in range(start, recipe.steps):
            x0, t, eps, label = training_batch(recipe, data, density, step).to(run.device)
            error = denoising_loss(given(network, label), x0, t, eps, schedule, recipe.prediction)
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
                run.save("latest", step + 1, to_go_on=True)
            if (caught or out_of_time) and step + 1 < recipe.steps:
                log.say(f"stopped and saved at step {step + 1} of {recipe.steps}; --resume goes on from there")
                break
        else:
            log.say(f"trained {recipe.steps} steps; the run is in {out}")
        log.plots()
    return run.model(run.ema.network)


class Batch(NamedTuple):
    """x0 (B, C, H, W) in [−1, 1]; t (B,) int64; eps like x0; label (B, L), zeros for none, or None in a run without."""

    x0: Tensor
    t: Tensor
    eps: Tensor
    label: Tensor | None

    def to(self, device: torch.device) -> "Batch":
        label = None if self.label is None else self.label.to(device)
        return Batch(self.x0.to(device), self.t.to(device), self.eps.to(device), label)


def training_batch(recipe: Recipe, data: Dataset, density: Tensor, step: int) -> Batch:
    """What step 0, 1, … trains on, the same for every run of the recipe.

    Each epoch goes through the data in an order of its own; times are spread evenly over their distribution.
    """
    epoch, place = divmod(step, recipe.steps_per_epoch)
    order = torch.randperm(len(data), generator=seeded(recipe.seed, ORDER, epoch))
    x0, label = data.batch(order[place * recipe.batch_size : (place + 1) * recipe.batch_size])
    generator = seeded(recipe.seed, STEP, step)
    t, eps = _times_and_noise(x0, density, generator)
    told = torch.rand(len(x0), 1, generator=generator) >= recipe.label_dropout
    return Batch(x0, t, eps, label * told if recipe.network.context else None)


def held_out_batch(recipe: Recipe, data: Dataset, density: Tensor) -> Batch:
    """Images that training never sees, with times and noise that never change: losses on it can be compared."""
    x0, label = data.batch(torch.arange(min(HELD_OUT_IMAGES, len(data))))
    t, eps = _times_and_noise(x0, density, seeded(recipe.seed, HELD_OUT))
    return Batch(x0, t, eps, label if recipe.network.context else None)


def training_times(recipe: Recipe) -> Tensor:
    """How often the recipe trains on each time: (T+1,)."""
    levels = recipe.noise_levels
    log_snr, uniform = ((levels.mean, levels.std), levels.uniform) if levels else (None, 0.0)
    return time_density(recipe.make_schedule(), log_snr, uniform)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Of step 0, 1, …: it grows over the warm-up and then stays, or falls linearly to 0 at the end of the run."""
    grow = min(1.0, (step + 1) / (recipe.warmup + 1))
    fall = 1 - step / recipe.steps if recipe.lr_decay else 1.0
    return recipe.lr * grow * fall


class _Training(Run):
    """The parts of a training run. The algorithm is in `train`."""

    def __init__(self, recipe: Recipe, out: Path, spec: DataSpec, held_out: Dataset, device: torch.device) -> None:
        self.device = device
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision otherwise
        precision: Any = "bf16-mixed" if has_fast_bf16(device) else "32-true"
        self.fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(recipe.seed, WEIGHTS))
            bare = recipe.make_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        bare.to(device)
        optimizers = make_optimizers(bare, recipe.optimizer, recipe.lr, recipe.weight_decay)
        self.network, *self.optimizers = self.fabric.setup(bare, *optimizers)
        self.density = training_times(recipe)
        self.held_out = held_out_batch(recipe, held_out, self.density).to(device)
        super().__init__(recipe, out, spec, self.held_out.label, bare, self.optimizers)
        self.weight = loss_weight(recipe.weight, recipe.prediction, self.schedule).float().to(device)
        self.loss_of_nothing = self.held_out_losses(lambda x, *told: torch.zeros_like(x)).mean().item()

    def end_epoch(self, epoch: int, log: RunLog, sample_every: int, save_every: int) -> None:
        """Score the averaged weights, keep the best, save, and now and then sample."""
        step, last = epoch * self.recipe.steps_per_epoch, epoch == self.recipe.epochs
        losses = self.held_out_losses(self.ema.network)
        by_time = sorted(zip(self.held_out.t.tolist(), losses.tolist(), strict=True))
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
        self.save("latest", step, to_go_on=True)

    @torch.inference_mode()
    def held_out_losses(self, network: Callable[..., Tensor]) -> Tensor:
        """Loss of each held-out image: (N,)."""
        x0, t, eps, label = self.held_out
        with autocast(self.device):
            error = denoising_loss(given(network, label), x0, t, eps, self.schedule, self.recipe.prediction)
            return self.weight[t] * error

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


def seeded(seed: int, *purpose: int) -> torch.Generator:
    """Random numbers for one purpose, or one step of it, which no other has."""
    return torch.Generator().manual_seed(fold(seed, *purpose))


def _times_and_noise(x0: Tensor, density: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    t = draw_times(density, stratified(len(x0), generator))
    return t, torch.randn(x0.shape, generator=generator)
