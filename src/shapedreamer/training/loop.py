"""Training: algorithm 1 of DDPM (Ho et al. 2020), with logging, checkpoints and exact resume around it.

    repeat
        x₀ ~ q(x₀)                  an image
        t ~ p(t)                    a timestep; uniform in the paper
        ε ~ N(0, 1)                 noise
        take a gradient step on ∇ |target − network(√ᾱ_t x₀ + √(1−ᾱ_t) ε, t)|²

The masked process hides pixels instead of adding noise, and has another loss: see training_loss.

A conditional network also gets the image's class label. The label is dropped for some images, so that the network also
learns the unconditional prediction, which classifier-free guidance needs.

All randomness is a function of (seed, step), never of what ran before. So a run resumed at step k gives the same bits
as an uninterrupted one, and the batch of step k does not depend on the number of processes: each takes its share of
it, and the gradients are averaged.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.device import autocast, pick_device, torch_defaults
from ..common.errors import UserError
from ..common.names import DeviceName
from ..common.noise import fold
from ..common.processes import Group, connect
from ..common.values import as_int, as_path
from ..data.spec import Dataset, DataSpec
from ..diffusion import masked
from ..diffusion.denoiser import with_label
from ..diffusion.loss import denoising_loss, loss_weight, sample_timesteps, stratified_uniform, timestep_distribution
from ..models.checkpoint import Checkpoint, load_checkpoint, read_config
from ..models.model import Model, find_checkpoint
from ..models.recipes import Recipe
from ..models.weights import check_network, load_state
from ..networks.threads import InShares
from .fabric import make_fabric
from .log import RunLog, check_minutes
from .optim import make_optimizers
from .run import Run, with_resume, with_threads

# Folded into the seed, so that each purpose has its own random numbers
WEIGHTS, ORDER, STEP, HELD_OUT = 1, 2, 3, 4
HELD_OUT_IMAGES = 512


@torch_defaults()
def train(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    start_from: str | Path | None = None,
    resume: bool = False,
    device: DeviceName = "auto",
    accumulate: int = 1,
    max_minutes: float | None = None,
    sample_every: int = 10,
    save_every: int = 10,
    on_save: Callable[[Path], object] | None = None,
) -> Model:
    """Train a recipe in the run folder `out` (default runs/NAME) and return the model with averaged weights.

    start_from:    begin with the averaged weights of this model (a run, a checkpoint, or a pretrained model), whose
                   network must be the recipe's, and not with random weights; not needed to resume
    resume:        continue the run in `out`; only `epochs` may differ from its recipe, and only before the learning
                   rate falls
    accumulate:    compute the gradient of a batch in this many parts, which need less memory
    max_minutes:   stop after this time, with a checkpoint to resume from
    sample_every:  epochs between sample grids; 0 for a single grid at the end
    save_every:    epochs between checkpoints that are kept, starting with the untrained epoch 0; 0 for none. `latest`
                   and `best` are written after every epoch
    on_save:       called with the file of every checkpoint after it was written. `latest` is the last file of an epoch

    Ctrl-C and SIGTERM finish the current step, save, and then raise KeyboardInterrupt or SystemExit. UserError if the
    folder holds another run or another process is writing to it, if a checkpoint is damaged, the loss is not finite, or
    the disk is full.

    In a script started by torchrun, the processes share the work. Call this function in each, with equal arguments.
    """
    if recipe.teacher:
        raise UserError("this recipe describes a distilled model; make it with `shapedreamer distill`")
    out = as_path("out", out or Path("runs") / recipe.name)
    max_minutes = check_minutes(max_minutes)
    sample_every, save_every = as_int("sample_every", sample_every, 0), as_int("save_every", save_every, 0)
    accumulate = as_int("accumulate", accumulate, 1)
    group, torch_device = connect(pick_device(device))
    resume = with_resume(resume, out, group)
    start = None if start_from is None else group.first(lambda: load_checkpoint(find_checkpoint(start_from)))
    if start is not None:
        recipe = replace(recipe, start=start.digest)
    elif resume:
        recipe = replace(recipe, start=group.first(lambda: read_config(out).recipe.start))
    elif recipe.start:
        raise UserError("this recipe starts from the weights of another model; name it with `start_from`")
    recipe = with_threads(recipe, out if resume else None, group)
    data, held_out = group.in_turn(recipe.make_data)
    recipe = recipe.bind_data(data)
    check_network(recipe)
    group.check_batch(recipe.images_per_step, accumulate)
    share = group.share(recipe.images_per_step)
    run = _Training(recipe, out, data.spec, held_out, group, torch_device, accumulate, sample_every, save_every, start)
    run.on_save = on_save
    network, optimizers, schedule, weight, density = run.network, run.optimizers, run.schedule, run.weight, run.density
    image_loss = run.image_loss  # denoising_loss, or the loss of the masked process

    with run.session(resume, ("predicting zero", run.baseline_loss), max_minutes, save_every) as (log, steps):
        for step in steps:
            batch = training_batch(recipe, data, density, step, share).to(run.device)
            for x0, t, eps, label in run.micro_batches(batch):
                error = image_loss(with_label(network, label), x0, t, eps, schedule, recipe.prediction)
                loss = (weight[t] * error).mean()
                run.backward(loss, t, error)

            norm = run.fabric.clip_gradients(
                network, optimizers[0], max_norm=recipe.grad_clip, error_if_nonfinite=False
            )
            run.check_finite(step, norm)
            for optimizer in optimizers:
                for parameters in optimizer.param_groups:
                    parameters["lr"] = learning_rate(recipe, step)
                optimizer.step()
                optimizer.zero_grad()
            run.ema.update(run.bare, step)
            log.step(step + 1, run.mean_loss(), learning_rate(recipe, step))
    return run.model(run.ema.network)


class Batch(NamedTuple):
    """One training batch.

    x0, eps: (B, C, H, W), images in [−1, 1] and noise
    t:       (B,) int64
    label:   (B, L), zeros where it was dropped; None for an unconditional network
    """

    x0: Tensor
    t: Tensor
    eps: Tensor
    label: Tensor | None

    def to(self, device: torch.device) -> "Batch":
        label = None if self.label is None else self.label.to(device)
        return Batch(self.x0.to(device), self.t.to(device), self.eps.to(device), label)

    def split(self, parts: int) -> "Iterator[Batch]":
        """The batch in parts of equal size."""
        size = len(self.x0) // parts
        for rows in (slice(i * size, (i + 1) * size) for i in range(parts)):
            yield Batch(self.x0[rows], self.t[rows], self.eps[rows], None if self.label is None else self.label[rows])


def training_batch(recipe: Recipe, data: Dataset, density: Tensor, step: int, share: slice = slice(None)) -> Batch:
    """The batch of step 0, 1, …, the same in every run of the recipe. share: the rows of it to return.

    Each epoch visits the images in a new random order. The timesteps of a batch are stratified over their distribution.
    The random numbers of a row do not depend on the share.
    """
    epoch, place = divmod(step, recipe.steps_per_epoch)
    order = epoch_order(recipe.seed, epoch, len(data))
    index = order[place * recipe.batch_size : (place + 1) * recipe.batch_size].long()
    x0, label = data.batch(index[share])
    generator = seeded(recipe.seed, STEP, step)
    t, eps = _times_and_noise(len(index), x0.shape[1:], density, generator)
    keep = torch.rand(len(index), 1, generator=generator) >= recipe.label_dropout
    return Batch(x0, t[share], eps[share], label * keep[share] if recipe.network.context else None)


@lru_cache(maxsize=1)
def epoch_order(seed: int, epoch: int, images: int) -> Tensor:
    """The order in which an epoch visits the images: (images,) int32, at most 2³¹ − 1 of them.

    The last order is cached: to shuffle ten million images takes half a second, and their order takes 40 MB. int32
    needs half the memory of int64 and gives the same numbers.
    """
    return torch.randperm(images, generator=seeded(seed, ORDER, epoch), dtype=torch.int32)


def held_out_batch(recipe: Recipe, data: Dataset, density: Tensor) -> Batch:
    """Images that are never trained on, with fixed timesteps and noise, so that their losses can be compared."""
    x0, label = data.batch(torch.arange(min(HELD_OUT_IMAGES, len(data))))
    t, eps = _times_and_noise(len(x0), x0.shape[1:], density, seeded(recipe.seed, HELD_OUT))
    return Batch(x0, t, eps, label if recipe.network.context else None)


def training_loss(recipe: Recipe) -> tuple[Callable[..., Tensor], Tensor]:
    """The loss of each image, which is called like denoising_loss, and its weight at each timestep, (T+1,)."""
    if recipe.process == "masked":
        return masked.loss, masked.loss_weight(recipe.make_schedule())
    return denoising_loss, loss_weight(recipe.weight, recipe.prediction, recipe.make_schedule())


def training_density(recipe: Recipe) -> Tensor:
    """The distribution of the timesteps in training: (T+1,), which sums to 1.

    UserError if the recipe's noise levels are outside of its schedule.
    """
    levels = recipe.noise_levels
    if recipe.process == "masked" and levels is None:
        return masked.timestep_distribution(recipe.make_schedule())
    log_snr, uniform = ((levels.mean, levels.std), levels.uniform) if levels else (None, 0.0)
    try:
        return timestep_distribution(recipe.make_schedule(), log_snr, uniform)
    except ValueError as error:
        raise UserError(str(error)) from None


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of step 0, 1, …: linear warm-up, constant, and at the end of the run a linear fall to 0."""
    start, warmup = recipe.decay_start, min(1.0, (step + 1) / (recipe.warmup + 1))
    decay = 1 - (step - start) / (recipe.steps - start) if step > start else 1.0
    return recipe.lr * warmup * decay


class _Training(Run):
    """The parts of a training run; the algorithm is in `train`."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        spec: DataSpec,
        held_out: Dataset,
        group: Group,
        device: torch.device,
        accumulate: int,
        sample_every: int,
        save_every: int,
        start: Checkpoint | None,
    ) -> None:
        self.device, self.accumulate, self.sample_every, self.save_every = device, accumulate, sample_every, save_every
        self.fabric = make_fabric(group, device)
        self.parts: list[tuple[Tensor, Tensor, Tensor]] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(recipe.seed, WEIGHTS))
            bare = recipe.make_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if start is not None:
            load_state(bare, start.ema, "weights of start_from")
        bare.to(device)
        optimizers = make_optimizers(bare, recipe.optimizer, recipe.lr, recipe.weight_decay)
        self.network, *self.optimizers = self.fabric.setup(InShares(bare), *optimizers)
        self.density = training_density(recipe)
        self.held_out = held_out_batch(recipe, held_out, self.density).to(device)
        super().__init__(recipe, out, spec, self.held_out.label, bare, self.optimizers, group)
        self.image_loss, weight = training_loss(recipe)
        self.weight = weight.float().to(device)
        self.baseline_loss = self.held_out_losses(lambda x, *_: torch.zeros_like(x)).mean().item()

    def end_epoch(self, epoch: int, log: RunLog) -> None:
        """Evaluate the averaged weights on held-out images, keep the best, save, and sample every few epochs."""
        step, last = epoch * self.recipe.steps_per_epoch, epoch == self.recipe.epochs
        losses = self.held_out_losses(self.ema.network)
        by_time = sorted(zip(self.held_out.t.tolist(), losses.tolist(), strict=True))
        tenths = [by_time[i * len(by_time) // 10 : (i + 1) * len(by_time) // 10] for i in range(10)]
        means = [tuple(sum(column) / len(tenth) for column in zip(*tenth, strict=True)) for tenth in tenths if tenth]
        log.epoch(step, losses.mean().item(), [(t, loss) for t, loss in means])
        if losses.mean().item() < self.best_loss:
            self.best_loss = losses.mean().item()
            self.save("best", step)
        if self.save_every and epoch % self.save_every == 0:
            self.save(f"epoch-{epoch:04d}", step)
        if last or (self.sample_every and epoch % self.sample_every == 0):
            self.preview(step, log)
            if not last:
                log.plots()
        self.save("latest", step, resumable=True)

    @torch.inference_mode()
    def held_out_losses(self, network: Callable[..., Tensor]) -> Tensor:
        """Loss of each held-out image: (N,)."""
        x0, t, eps, label = self.held_out
        with autocast(self.device):
            error = self.image_loss(with_label(network, label), x0, t, eps, self.schedule, self.recipe.prediction)
            return self.weight[t] * error

    def micro_batches(self, batch: Batch) -> Iterator[Batch]:
        """The parts of this process's batch. The processes exchange their gradients in the last one only."""
        self.parts.clear()
        for number, part in enumerate(batch.split(self.accumulate), 1):
            waiting = number < self.accumulate and self.group.size > 1
            with self.fabric.no_backward_sync(self.network, enabled=waiting):
                yield part

    def backward(self, loss: Tensor, t: Tensor, error: Tensor) -> None:
        """Add the gradient of a micro-batch to that of the step."""
        self.fabric.backward(loss / self.accumulate)
        self.parts.append((loss.detach(), t, error.detach()))

    def mean_loss(self) -> float:
        """The loss of the step, over all micro-batches and processes."""
        return self.group.mean(torch.stack([loss for loss, *_ in self.parts]).sum() / self.accumulate).item()

    def check_finite(self, step: int, norm: Tensor | None) -> None:
        """UserError, before the weights change, if the loss or its gradient is not finite."""
        t, error = (torch.cat(columns) for columns in list(zip(*self.parts, strict=True))[1:])
        if norm is not None and torch.isfinite(norm) and torch.isfinite(error).all():
            return
        if norm is not None and not torch.isfinite(norm):  # which all processes see, as the gradient is the mean
            t, error = self.group.gather(t), self.group.gather(error)
        epoch, batch = divmod(step, self.recipe.steps_per_epoch)
        worst = int(t[torch.isfinite(error).logical_not().int().argmax()])
        raise UserError(
            f"the loss is no longer finite at step {step + 1} (epoch {epoch + 1}, batch {batch + 1}, noise level "
            f"t = {worst}, SNR {self.schedule.snr[worst].item():.3g}). The checkpoints in {self.checkpoints} are "
            f"intact. Try `lr` below {self.recipe.lr:g}"
        )


def seeded(seed: int, *purpose: int) -> torch.Generator:
    """A generator whose random numbers belong to one purpose, or to one step of it."""
    return torch.Generator().manual_seed(fold(seed, *purpose))


def _times_and_noise(
    images: int, shape: torch.Size, density: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    t = sample_timesteps(density, stratified_uniform(images, generator))
    return t, torch.randn((images, *shape), generator=generator)
