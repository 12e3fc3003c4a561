"""Distillation: turn a trained model into one that needs few network calls.

Why a sampler makes many calls. A network trained on the squared error predicts the mean of all images that x_t may have
come from. At high noise that mean is a blur and not an image. So a sampler takes a small step towards it and asks
again, and the prediction changes along the way. In the plane of √ᾱ and √(1−ᾱ), a DDIM step is a straight line to x̂₀.
If x̂₀ stayed the same (as it does if the data are a single image), all steps would lie on one line, and one call would
do the work of a thousand: straight paths need few steps. But x̂₀ changes, the path is curved, and a few long steps
along its tangents end between images instead of at one.

What the student learns. It predicts *one* of the images that x_t may have come from, instead of their mean. If x̂₀ is
drawn from p(x₀ | x_t), a DDIM step with eta = 1, which samples q(x_s | x_t, x̂₀), lands exactly on the distribution of
noised images, however long the step is. So 4 calls, or 1, are as correct as 1,000. The noise in x_t decides which image
the student picks.

The student learns to generate from a critic, as in denoising diffusion GANs (Xiao et al. 2022). The critic sees two
images, the one that x_t was made from and the student's prediction, each together with x_u: x_t with even more noise.
It learns to tell the two apart, and the student learns to fool it. The loss is the paired one of Jolicoeur-Martineau
2019, with a gradient penalty on the critic, as Huang et al. 2024 recommend:

    repeat
        x₀ ~ q(x₀), t one of a few timesteps, most often T, x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε
        x_u ~ q(x_u | x_t), u the next of the few timesteps; after T, ᾱ_u = 0
        x̂₀ = student(x_t, t), clipped to the range of the data
        critic:   descend ∇ softplus(critic(x̂₀, x_u) − critic(x₀, x_u)) + γ/2 |∇_x₀ critic(x₀, x_u)|²
        student:  descend ∇ softplus(critic(x₀, x_u) − critic(x̂₀, x_u)) + λ ᾱ_t |x̂₀ − x₀|²

Why the critic sees x_u and not x_t: many images belong to one x_t, but the student, which has no randomness of its own,
always predicts the same one. A critic that saw x_t could recognise the student by that alone. Many x_t, and so many
predictions, lead to the same x_u.

The last term keeps x̂₀ close to x₀ at low noise, where x_t leaves little choice; at high noise the critic decides. Both
networks start from the teacher: the student is a copy of it, and the critic uses its encoder, which already has
features for such images. The critic is always conditioned on a timestep with little noise, because the images it judges
are clean.

The few timesteps are those used for sampling too: schedule.cubic_times, so that none but T has much noise. The
student's predictions are worst where x_t is almost, but not quite, pure noise. A call there hurts digits, and helps
shapes no more than a later call does (benchmarks/EXPERIMENTS.md).

Distribution matching (dmd_weight above 0) lets the teacher help at T, where one call makes a whole image (Yin et al.
2024, equation 7). Take an image y that the student generated, and noise it to y_s. The teacher predicts the clean image
as if y came from the data. A third network, the fake denoiser, starts as the teacher and trains only on the student's
images, so it predicts the clean image as if y came from the student. Where the two differ, the student generates y too
often:

        y = x̂₀ for those with t = T, s one of the teacher's timesteps, y_s ~ q(y_s | y)
        fake:     descend ∇ |fake(y_s, s) − y|²
        student:  also descend (fake(y_s, s) − teacher(y_s, s)) / |y − teacher(y_s, s)|₁, as a gradient of y

This favours common images. It improves digits, but makes too many shapes circles (benchmarks/EXPERIMENTS.md).
"""

import inspect
import math
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.device import autocast, pick_device, torch_defaults
from ..common.errors import UserError
from ..common.names import DeviceName
from ..common.noise import fold
from ..common.processes import SINGLE, Group, connect
from ..common.values import as_int, as_path
from ..data.spec import DataSpec
from ..diffusion.denoiser import Denoiser, with_label
from ..diffusion.process import diffuse
from ..diffusion.schedule import Schedule, cubic_times
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.model import Model, find_checkpoint
from ..models.recipes import Recipe, Sampling, with_data_path
from ..models.weights import network_with_weights
from ..networks.critic import Critic
from ..networks.threads import InShares
from .log import RunLog, check_minutes
from .loop import WEIGHTS, learning_rate, seeded, training_batch, training_density
from .run import Run, Stateful, with_resume, with_threads

CALLS = (1, 2, 4, 8)  # the numbers of network calls that a few-step model is trained for
IMAGES = 60_000  # to train on by default
RECON_WEIGHT = 3.0  # λ
R1_GAMMA = 0.1  # γ
R1_EVERY = 8  # steps between gradient penalties, weighted by as much: they are costly (Karras et al. 2020, appendix B)
FAKE_LR = 3e-4  # learning rate at which the fake denoiser keeps up with the student's images
DMD, CRITIC_NOISE = 77, 78  # purposes of random numbers, distinct from those in loop.py


@torch_defaults()
def distill(
    model: str | Path,
    out: str | Path | None = None,
    *,
    steps: int = 4,
    dmd_weight: float = 0.0,
    terminal_share: float = 0.7,
    lr: float = 1e-3,
    epochs: int | None = None,
    seed: int = 0,
    data: str | Path | None = None,
    resume: bool = False,
    device: DeviceName = "auto",
    max_minutes: float | None = None,
    sample_every: int = 1,
) -> Model:
    """Distill `model` (a run, a checkpoint, or a shipped model) into a few-step model in the run folder `out`.

    out:            by default runs/NAME-turbo
    steps:          the student's default number of network calls, one of CALLS
    dmd_weight:     weight of distribution matching with the teacher; see above
    terminal_share: fraction of training samples at t = T, where one call makes a whole image and most is to learn
    lr:             learning rate of student and critic at the first step
    epochs:         passes over the teacher's training images; by default as many as make about IMAGES
    data:           where those images are now, for recipes that read files
    resume:         continue the run in `out`
    max_minutes:    stop after this time, with a checkpoint to resume from
    sample_every:   epochs between sample grids; 0 for a single grid at the end

    Ctrl-C and SIGTERM finish the current step, save, and then raise KeyboardInterrupt or SystemExit. UserError for a
    model that cannot be distilled, a folder that holds another run, a loss that is not finite, or a full disk.
    """
    max_minutes, sample_every = check_minutes(max_minutes), as_int("sample_every", sample_every, 0)
    group, torch_device = connect(pick_device(device))
    teacher = group.first(lambda: load_checkpoint(find_checkpoint(model)))
    network_with_weights(teacher, "ema")  # checks them before the images are read
    recipe = student_recipe(with_data_path(teacher.config.recipe, data), teacher.digest, as_int("steps", steps))
    recipe = replace(recipe, dmd_weight=dmd_weight, terminal_share=terminal_share, lr=lr, seed=seed)
    images, _ = group.in_turn(recipe.make_data)
    if images.spec != teacher.config.data:
        raise UserError(f"{model} was trained on other images than those of {data or images.spec.name}")
    if epochs is None:
        epochs = max(1, round(IMAGES / len(images)))
    recipe = replace(recipe, epochs=epochs).bind_data(images)
    out = as_path("out", out or Path("runs") / f"{recipe.name}-turbo")
    resume = with_resume(resume, out, group)
    recipe = with_threads(recipe, out if resume else None, group)
    group.check_batch(recipe.images_per_step)
    share = group.share(recipe.images_per_step)
    run = _Distillation(recipe, out, images.spec, teacher, group, torch_device, sample_every)
    run.arguments = {"model": model, "data": data}
    student, critic, schedule = InShares(run.bare), InShares(run.critic), run.schedule
    density = timestep_density(schedule, terminal_share)
    times = density.nonzero()[:, 0]

    with run.session(resume, ("a critic at chance", math.log(2)), max_minutes) as (log, remaining):
        for step in remaining:
            x0, t, eps, label = training_batch(recipe, images, density, step, share).to(run.device)
            x_t = diffuse(x0, t, eps, schedule)
            with autocast(run.device):
                fake = Denoiser(with_label(student, label), schedule, recipe.prediction)(x_t, t)
            fake = Clip.apply(fake, images.spec.low, images.spec.high)

            rate = run.set_learning_rate(step)
            noise = seeded(recipe.seed, CRITIC_NOISE, step)
            more = torch.randn((recipe.images_per_step, *x0.shape[1:]), generator=noise)[share].to(x_t)
            x_u = add_more_noise(x_t, t, more, schedule, times)
            critic.requires_grad_(True)
            with autocast(run.device):
                critic_loss = F.softplus(critic(fake.detach(), x_u, label) - critic(x0, x_u, label)).mean()
            critic_loss.backward()
            if step % R1_EVERY == 0:
                (R1_EVERY * R1_GAMMA / 2 * r1_penalty(run.critic, x0, x_u, label, group)).backward()
            group.average_gradients(critic)
            run.critic_optimizer.step()
            run.critic_optimizer.zero_grad()

            critic.requires_grad_(False)
            with autocast(run.device):
                adversarial = F.softplus(critic(x0, x_u, label) - critic(fake, x_u, label)).mean()
            at_T = t == schedule.T
            matching = torch.zeros_like(adversarial)
            if run.matching and group.any(bool(at_T.any())):
                label_T = None if label is None else label[at_T]
                gradient = run.matching.dmd_gradient(fake[at_T].detach(), label_T, step, group)
                matching = (fake[at_T] * gradient).flatten(1).mean(1).sum() / len(fake)
            error = (fake - x0).square().flatten(1).mean(1)
            reconstruction = RECON_WEIGHT * (schedule.alpha_bar.to(error)[t] * error).mean()
            (adversarial + recipe.dmd_weight * matching + reconstruction).backward()
            group.average_gradients(student)
            critic_loss = group.mean(critic_loss)
            norm = nn.utils.clip_grad_norm_(student.parameters(), recipe.grad_clip)
            run.check_finite(step, critic_loss, norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.ema.update(student, step)
            log.step(step + 1, critic_loss.item(), rate)
    return run.model(run.ema.network)


def student_recipe(teacher: Recipe, digest: str, steps: int) -> Recipe:
    """The recipe of the few-step model distilled from a teacher; digest: of the teacher's checkpoint.

    UserError for a teacher that cannot be distilled.
    """
    if teacher.teacher:
        raise UserError("this is a few-step model already; distill the model that it was made from")
    if teacher.process == "masked":
        raise UserError(
            "cannot distill a masked model: its samples are drawn pixel by pixel and have no gradient; distill a "
            "model of the gaussian process, or sample from this one with fewer `steps`"
        )
    if teacher.prediction == "eps":
        raise UserError(
            "cannot distill a model with eps-prediction: at t = T, where one call makes a whole image, eps says almost "
            "nothing about it; use a model trained with prediction x0, v or flow"
        )
    if steps not in CALLS:
        raise UserError(f"steps must be one of {', '.join(map(str, CALLS))}, not {steps}")
    return replace(
        teacher,
        noise_levels=None,
        batch_size=32,
        optimizer="adamw",
        weight_decay=0.0,
        lr_decay=1.0,
        warmup=0,
        ema_decay=0.995,
        sampling=Sampling("ddim", steps, eta=1.0, spacing="cubic"),
        teacher=digest,
        start=None,
        threads=None,
    )


def timestep_density(schedule: Schedule, terminal_share: float) -> Tensor:
    """The distribution of timesteps in training, (T+1,): terminal_share at T, the rest where samplers call."""
    density = torch.zeros_like(schedule.alpha_bar)
    for calls in CALLS:
        density[cubic_times(schedule.T, min(calls, schedule.T))[1:-1]] += 1.0
    density *= (1 - terminal_share) / density.sum().clamp(min=1)
    density[schedule.T] = 1 - density.sum()
    return density


class Clip(torch.autograd.Function):
    """Clip x̂₀ to low … high, as samplers do. The gradient pulls values back inside but pushes none further out.

    So the network may predict less than black for a black pixel, which is black in the image; without clipping, the
    right value plus a little error would be grey. The gradient of clamp is 0 outside, and would leave wrong values
    there.
    """

    @staticmethod
    def forward(ctx: Any, x0: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x0)
        ctx.range = low, high
        return x0.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x0,), (low, high) = ctx.saved_tensors, ctx.range
        outwards = (x0 < low) & (gradient > 0) | (x0 > high) & (gradient < 0)  # descent moves against the gradient
        return gradient.masked_fill(outwards, 0), None, None


def add_more_noise(x_t: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    """x_u ~ q(x_u | x_t) = √(ᾱ_u/ᾱ_t) x_t + √(1−ᾱ_u/ᾱ_t) ε, where u follows t in `times`. After the last, x_u = ε.

    x_t, eps: (B, C, H, W), eps ~ N(0, 1); t: (B,), each one of `times`, which ascend
    """
    alpha_bar = schedule.alpha_bar[times]
    ratios = torch.cat([alpha_bar[1:], torch.zeros(1)]) / alpha_bar
    ratio = ratios.to(x_t)[torch.searchsorted(times.to(t.device), t)].view(-1, 1, 1, 1)
    return ratio.sqrt() * x_t + (1 - ratio).sqrt() * eps


def r1_penalty(
    critic: Callable[..., Tensor], x0: Tensor, x_u: Tensor, label: Tensor | None, group: Group = SINGLE
) -> Tensor:
    """The mean over images of |∇_x₀ Σ critic(x₀, x_u)|² (R1, Mescheder et al. 2018), with a gradient of its own.

    It uses half of the images, in float32. A critic that is steep at real images says nothing useful a step beside
    them. The half is the first of the batch of all processes; the mean of their results is the mean over it.
    """
    half = (group.size * len(x0) + 1) // 2
    rows = min(max(half - group.rank * len(x0), 0), len(x0))
    if rows == 0:
        return x0.new_zeros((), requires_grad=True)
    x0 = x0[:rows].detach().requires_grad_()
    scores = critic(x0, x_u[:rows], None if label is None else label[:rows])
    (gradient,) = torch.autograd.grad(scores.sum(), x0, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() * (group.size * rows / half)


class DistributionMatching:
    """The teacher, and the fake denoiser that learns what the student's images look like."""

    def __init__(self, recipe: Recipe, teacher: Checkpoint, device: torch.device) -> None:
        self.recipe, self.schedule = recipe, recipe.make_schedule()
        self.density = training_density(teacher.config.recipe).float()
        self.teacher, self.fake = (
            network_with_weights(teacher, "ema").to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            for _ in range(2)
        )
        self.teacher.eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.fake.parameters(), FAKE_LR, betas=(0.0, 0.99), weight_decay=recipe.weight_decay
        )

    def dmd_gradient(self, y: Tensor, label: Tensor | None, step: int, group: Group = SINGLE) -> Tensor:
        """Train the fake denoiser on the student's images y (B, C, H, W); return the direction of too many of them.

        Each process of the group has its own images, maybe none.
        """
        first, images = group.numbering(len(y))
        rows = slice(first, first + len(y))
        generator = seeded(self.recipe.seed, DMD, step)
        s = torch.multinomial(self.density, images, replacement=True, generator=generator)[rows].to(y.device)
        eps = torch.randn((images, *y.shape[1:]), generator=generator)[rows].to(y.device)
        gradient = self._learn(y, s, eps, label, group.size * len(y) / images) if len(y) else y
        group.average_gradients(self.fake)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return gradient

    def _learn(self, y: Tensor, s: Tensor, eps: Tensor, label: Tensor | None, weight: float) -> Tensor:
        y_s = diffuse(y, s, eps, self.schedule)
        with autocast(y.device):
            fake = Denoiser(with_label(self.fake, label), self.schedule, self.recipe.prediction)(y_s, s)
            real = Denoiser(with_label(self.teacher, label), self.schedule, self.recipe.prediction)(y_s, s)
        (weight * (fake.float() - y).square().mean()).backward()
        size = (y - real).abs().mean(dim=(1, 2, 3), keepdim=True)
        return (fake.detach() - real).float() / size.clamp(min=0.02)  # about the precision of bfloat16


class _Distillation(Run):
    """The parts of a distillation run; the algorithm is in `distill`."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        spec: DataSpec,
        teacher: Checkpoint,
        group: Group,
        device: torch.device,
        sample_every: int,
    ) -> None:
        self.device, self.sample_every = device, sample_every
        self.arguments: dict[str, object] = {}
        student: Any = network_with_weights(teacher, "ema")
        student = student.to(device, memory_format=torch.channels_last)
        lowest_noise = int(timestep_density(recipe.make_schedule(), recipe.terminal_share).nonzero()[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(recipe.seed, WEIGHTS))
            self.critic = Critic(student, lowest_noise).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # no momentum: student and critic chase each other, so past gradients mislead
        self.optimizer, self.critic_optimizer = (
            torch.optim.AdamW(network.parameters(), recipe.lr, betas=(0.0, 0.99), weight_decay=recipe.weight_decay)
            for network in (student, self.critic)
        )
        stateful: tuple[Stateful, ...] = (self.optimizer, self.critic_optimizer, self.critic)
        self.matching = DistributionMatching(recipe, teacher, device) if recipe.dmd_weight else None
        if self.matching:
            stateful += (self.matching.fake, self.matching.optimizer)
        super().__init__(recipe, out, spec, teacher.labels, student, stateful, group)

    def end_epoch(self, epoch: int, log: RunLog) -> None:
        """Sample every few epochs and at the end, and save."""
        step = epoch * self.recipe.steps_per_epoch
        if epoch == self.recipe.epochs or (self.sample_every and epoch % self.sample_every == 0):
            self.preview(step, log)
        self.save("latest", step, resumable=True)  # last: a run that is killed before this makes the grid again

    @property
    def resume_command(self) -> str:
        """What to type to resume the run: the options that differ from the defaults, as its recipe must be the same."""
        recipe, defaults = self.recipe, inspect.signature(distill).parameters
        values = {
            "steps": recipe.sampling.steps,
            "dmd_weight": recipe.dmd_weight,
            "terminal_share": recipe.terminal_share,
            "lr": recipe.lr,
            "epochs": recipe.epochs,
            "seed": recipe.seed,
            "data": self.arguments.get("data"),
        }
        changed = {name: value for name, value in values.items() if value != defaults[name].default}
        options = [part for name, value in changed.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        model = str(self.arguments.get("model"))
        command = shlex.join(["shapedreamer", "distill", model, *options, "--resume", "--out", str(self.out)])
        return command + self.group.option

    def set_learning_rate(self, step: int) -> float:
        """Set and return the learning rate of student and critic for step 0, 1, …"""
        rate = learning_rate(self.recipe, step)
        for group in self.optimizer.param_groups + self.critic_optimizer.param_groups:
            group["lr"] = rate
        return rate

    def check_finite(self, step: int, critic_loss: Tensor, norm: Tensor) -> None:
        """UserError, before the student's weights change, if a loss or its gradient is not finite."""
        if not (torch.isfinite(critic_loss) and torch.isfinite(norm)):
            raise UserError(
                f"the loss is no longer finite at step {step + 1}. The last checkpoint in {self.checkpoints} is "
                "intact. Try another `seed` or a lower `lr`"
            )
