"""From a good model to one that needs few network calls.

Why a sampler makes many. A network trained on the squared error answers with the mean of all images that x_t may have
come from. Where there is much noise that is a blur, no image at all: so a sampler goes a little of the way towards it
and asks again, and what it hears changes under way. In the plane of √ᾱ and √(1−ᾱ) a DDIM step is a straight line to x̂₀.
If x̂₀ stayed the same, as it does where the data are a single image, all steps would lie on one line, and one call would
do what a thousand do: straight paths need few steps. It does not stay the same, the path is bent, and a few long steps
along its tangents end beside every image, between them.

What is learnt here is to answer with *one* of the images that x_t may have come from, and not with their mean. If x̂₀ is
drawn from p(x₀ | x_t), a step of DDIM with eta 1, which is q(x_s | x_t, x̂₀), lands exactly where noised images lie,
however far it goes: 4 calls, or 1, are as right as 1,000. What decides between the images is the noise in x_t itself.

To draw is learnt from a critic, as in denoising diffusion GANs (Xiao et al. 2022). It sees two images, the one that x_t
was made of and the network's answer, each beside an x_u: x_t with still more noise. It learns to tell which is which,
and the network to be taken for the other (the paired loss of Jolicoeur-Martineau 2019, with a penalty on the critic's
slope, as Huang et al. 2024 advise):

    repeat
        x₀ ~ q(x₀), t one of a few times, most often T, x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε
        x_u ~ q(x_u | x_t), u the next of the few times; after T, ᾱ_u = 0
        x̂₀ = network(x_t, t), clipped to the range of the data
        critic:   descend along ∇ softplus(critic(x̂₀, x_u) − critic(x₀, x_u)) + γ/2 |∇_x₀ critic(x₀, x_u)|²
        network:  descend along ∇ softplus(critic(x₀, x_u) − critic(x̂₀, x_u)) + λ ᾱ_t |x̂₀ − x₀|²

Why x_u, and not x_t: to an x_t belong many images, and the network, with no chance of its own, answers always with the
same one. A critic that saw x_t could learn to tell it by that alone. To an x_u belong many x_t, and many answers.

The last term holds the network to the image where little noise leaves little choice, so that the critic's part is where
there is some. Both begin as the teacher: the network whole, and the critic with its way down, which knows what such
images are made of. It is told a time of little noise, whatever t is, as the images that it judges have none.

The few times are those at which such a model is also sampled: cubic_times, after T none of much noise. Where x_t is
nearly noise and yet not quite, answers are the worst of all: a call there spoils digits, and helps shapes no more than
later ones do (benchmarks/SPEEDRUN.md).

At T, from where one call makes a whole picture, the teacher can help (`match` above 0), as in distribution matching
distillation (Yin et al. 2024, equation 7). Give a picture y of the network's own back to the noise. The teacher says
what y_s would be made of if y were from the data. A third denoiser, which begins as the teacher and learns from nothing
but such y, says what it would be made of if it were one of the network's. Where they differ, y is drawn too often:

        y = x̂₀ of those with t = T, s one of the teacher's times, y_s ~ q(y_s | y)
        own:      descend along ∇ |own(y_s, s) − y|²
        network:  descend along (own(y_s, s) − teacher(y_s, s)) / |y − teacher(y_s, s)|₁ too, as the gradient of y

That favours what is common: digits are better by it, and of shapes too many are circles (benchmarks/SPEEDRUN.md).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.device import autocast, pick_device
from ..common.errors import UserError
from ..common.names import DeviceName
from ..common.noise import fold
from ..data.spec import DataSpec
from ..diffusion.denoiser import Denoiser, given
from ..diffusion.process import diffuse
from ..diffusion.schedule import Schedule, cubic_times
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.model import Model, find
from ..models.recipes import Recipe, Sampling, moved
from ..networks.critic import Critic
from .log import RunLog
from .loop import PREVIEW_IMAGES, WEIGHTS, learning_rate, seeded, training_batch, training_times
from .run import Run, Stateful, signals

CALLS = (1, 2, 4, 8)  # the numbers of network calls that a few-step model is made for
IMAGES = 60_000  # to be seen in training, unless said otherwise
FAITH = 3.0  # λ
PENALTY = 0.1  # γ
OWN_RATE = 3e-4  # of learning, at which the denoiser of its own pictures keeps up with them
MATCHING, BESIDE = 77, 78  # apart from the purposes of random numbers in train.py
PENALTY_EVERY = 8  # steps, and then so many times γ: a second derivative costs much (Karras et al. 2020, appendix B)


def distill(
    model: str | Path,
    out: str | Path | None = None,
    *,
    steps: int = 4,
    match: float = 0.0,
    pure: float = 0.7,
    lr: float = 1e-3,
    epochs: int | None = None,
    seed: int = 0,
    data: str | Path | None = None,
    resume: bool = False,
    device: DeviceName = "auto",
    max_minutes: float | None = None,
    sample_every: int = 1,
) -> Model:
    """Make a few-step model of `model` (a run, a checkpoint, or a name in the box) in the run folder `out`.

    out:           runs/NAME-turbo unless given
    steps:         network calls that it is sampled with where nothing else is said, one of CALLS
    match:         weight of drawing the same pictures as often as the teacher; see above
    pure:          share of the images of which it sees x_T, where every picture begins and there is most to learn
    lr:            learning rate at the first step, of network and critic
    epochs:        passes over the images that the model was trained on; as many as make about IMAGES unless given
    data:          where those images lie by now, for recipes that read them
    resume:        go on with the run that is in `out`
    max_minutes:   stop after so long, with a checkpoint to go on from
    sample_every:  epochs between sample grids; 0 for none but the last

    Ctrl-C and SIGTERM finish the step, save, and then raise KeyboardInterrupt or SystemExit. UserError for a model of
    which none can be made, a folder that holds another run, a loss that is not finite, a full disk.
    """
    teacher = load_checkpoint(find(model))
    recipe = few_steps(moved(teacher.config.recipe, data), teacher.digest, steps)
    recipe = replace(recipe, match=match, pure=pure, lr=lr, seed=seed)
    images, _ = recipe.make_data()
    if images.spec != teacher.config.data:
        raise UserError(f"{model} was trained on other images than those of {data or images.spec.name}")
    if epochs is None:
        epochs = max(1, round(IMAGES / len(images)))
    recipe = replace(recipe, epochs=epochs).fitted(images)
    out = Path(out or Path("runs") / f"{recipe.name}-turbo")
    run = _Distillation(recipe, out, images.spec, teacher, pick_device(device))
    start = run.resume() if resume else run.begin(save_every=0)
    network, critic, schedule = run.bare, run.critic, run.schedule
    density = few_times(schedule, pure)
    times = density.nonzero()[:, 0]

    log = RunLog(out, recipe, start, ("a critic that guesses", math.log(2)), max_minutes)
    with log, signals() as caught:
        for step in range(start, recipe.steps):
            x0, t, eps, label = training_batch(recipe, images, density, step).to(run.device)
            x_t = diffuse(x0, t, eps, schedule)
            with autocast(run.device):
                fake = Denoiser(given(network, label), schedule, recipe.prediction)(x_t, t)
            fake = Clip.apply(fake, images.spec.low, images.spec.high)

            rate = run.set_learning_rate(step)
            more = torch.randn(x0.shape, generator=seeded(recipe.seed, BESIDE, step)).to(x_t)
            x_u = noised_on(x_t, t, more, schedule, times)
            critic.requires_grad_(True)
            with autocast(run.device):
                critic_loss = F.softplus(critic(fake.detach(), x_u, label) - critic(x0, x_u, label)).mean()
            critic_loss.backward()
            if step % PENALTY_EVERY == 0:
                (PENALTY_EVERY * PENALTY / 2 * slope(critic, x0, x_u, label)).backward()
            run.critic_optimizer.step()
            run.critic_optimizer.zero_grad()

            critic.requires_grad_(False)
            with autocast(run.device):
                taken_for_the_other = F.softplus(critic(x0, x_u, label) - critic(fake, x_u, label)).mean()
            at_T = t == schedule.T
            matching = torch.zeros_like(taken_for_the_other)
            if run.matched and at_T.any():
                towards = run.matched.away(fake[at_T].detach(), None if label is None else label[at_T], step)
                matching = (fake[at_T] * towards).flatten(1).mean(1).sum() / len(fake)
            error = (fake - x0).square().flatten(1).mean(1)
            faith = FAITH * (schedule.alpha_bar.to(error)[t] * error).mean()
            (taken_for_the_other + recipe.match * matching + faith).backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_clip)
            run.check_finite(step, critic_loss, norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
            run.ema.update(network, step)

            log.step(step + 1, critic_loss.item(), rate)
            out_of_time = log.out_of_time()
            epoch, within = divmod(step + 1, recipe.steps_per_epoch)
            if within == 0 or caught or out_of_time:
                run.save("latest", step + 1, to_go_on=True)
            if within == 0 and (epoch == recipe.epochs or (sample_every and epoch % sample_every == 0)):
                log.samples(step + 1, *(run.model(net).sample(PREVIEW_IMAGES) for net in (network, run.ema.network)))
                network.train()
            if (caught or out_of_time) and step + 1 < recipe.steps:
                log.say(f"stopped and saved at step {step + 1} of {recipe.steps}; --resume goes on from there")
                break
        else:
            log.say(f"distilled in {recipe.steps} steps; the run is in {out}")
        log.plots()
    return run.model(run.ema.network)


def few_steps(teacher: Recipe, digest: str, steps: int) -> Recipe:
    """The recipe of the few-step model that is made of a teacher's; digest: of the teacher's checkpoint.

    UserError for a teacher of which none can be made.
    """
    if teacher.teacher:
        raise UserError("this model needs few steps already; distill the one that it was made of")
    if teacher.prediction == "eps":
        raise UserError(
            "this model predicts eps, which says next to nothing about the image at t = T, where one call has to say "
            "all; distill a model that was trained to predict x0 or v"
        )
    if steps not in CALLS:
        raise UserError(f"steps must be one of {', '.join(map(str, CALLS))}, not {steps}")
    return replace(
        teacher,
        noise_levels=None,
        batch_size=32,
        optimizer="adamw",
        weight_decay=0.0,
        lr_decay=True,
        warmup=0,
        ema_decay=0.995,
        sampling=Sampling("ddim", steps, eta=1.0, spacing="cubic"),
        teacher=digest,
    )


def few_times(schedule: Schedule, pure: float) -> Tensor:
    """How often to train on each time: (T+1,) that sums to 1. At T `pure`, else as often as samplers of CALLS ask."""
    density = torch.zeros_like(schedule.alpha_bar)
    for calls in CALLS:
        density[cubic_times(schedule.T, min(calls, schedule.T))[1:-1]] += 1.0
    density *= (1 - pure) / density.sum().clamp(min=1)
    density[schedule.T] = 1 - density.sum()
    return density


class Clip(torch.autograd.Function):
    """x̂₀ clipped to low … high, as samplers do, with a gradient by which it can come back but goes no farther out.

    So what is black may be answered with less than black, and is black in the picture, where an answer that is right
    but for a little noise would be grey. The gradient of clamp is 0 out there: what is wrong would stay so.
    """

    @staticmethod
    def forward(ctx: Any, x0: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x0)
        ctx.range = low, high
        return x0.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (x0,), (low, high) = ctx.saved_tensors, ctx.range
        outwards = (x0 < low) & (gradient > 0) | (x0 > high) & (gradient < 0)  # one descends against the gradient
        return gradient.masked_fill(outwards, 0), None, None


def noised_on(x_t: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, times: Tensor) -> Tensor:
    """x_u ~ q(x_u | x_t), u being the next of `times` after t: √(ᾱ_u/ᾱ_t) x_t + √(1−ᾱ_u/ᾱ_t) ε. After the last it is ε.

    x_t, eps: (B, C, H, W), and eps ~ N(0, 1); t: (B,), of times, which rise.
    """
    alpha_bar = schedule.alpha_bar[times]
    left = torch.cat([alpha_bar[1:], torch.zeros(1)]) / alpha_bar
    ratio = left.to(x_t)[torch.searchsorted(times.to(t.device), t)].view(-1, 1, 1, 1)
    return ratio.sqrt() * x_t + (1 - ratio).sqrt() * eps


def slope(critic: Callable[..., Tensor], x0: Tensor, x_u: Tensor, label: Tensor | None) -> Tensor:
    """The mean over images of |∇_x₀ Σ critic(x₀, x_u)|² ("R1", Mescheder et al. 2018), which can be descended along.

    Of half the images, in float32. A critic that is steep where real images are could be anything a step beside them.
    """
    half = (len(x0) + 1) // 2
    x0 = x0[:half].detach().requires_grad_()
    scores = critic(x0, x_u[:half], None if label is None else label[:half])
    (gradient,) = torch.autograd.grad(scores.sum(), x0, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


class Matching:
    """The teacher, the denoiser of the network's own pictures, and where they differ."""

    def __init__(self, recipe: Recipe, teacher: Checkpoint, device: torch.device) -> None:
        self.recipe, self.schedule = recipe, recipe.make_schedule()
        self.levels = training_times(teacher.config.recipe).float()
        self.teacher, self.own = (recipe.make_network().to(device, memory_format=torch.channels_last) for _ in range(2))  # type: ignore[call-overload]
        self.teacher.load_state_dict(teacher.ema)
        self.teacher.eval().requires_grad_(False)
        self.own.load_state_dict(teacher.ema)
        self.optimizer = torch.optim.AdamW(
            self.own.parameters(), OWN_RATE, betas=(0.0, 0.99), weight_decay=recipe.weight_decay
        )

    def away(self, y: Tensor, label: Tensor | None, step: int) -> Tensor:
        """Let own learn from the pictures y (B, C, H, W); return in which direction there are too many of them."""
        generator = seeded(self.recipe.seed, MATCHING, step)
        s = torch.multinomial(self.levels, len(y), replacement=True, generator=generator).to(y.device)
        y_s = diffuse(y, s, torch.randn(y.shape, generator=generator).to(y.device), self.schedule)
        with autocast(y.device):
            own = Denoiser(given(self.own, label), self.schedule, self.recipe.prediction)(y_s, s)
            true = Denoiser(given(self.teacher, label), self.schedule, self.recipe.prediction)(y_s, s)
        (own.float() - y).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        size = (y - true).abs().mean(dim=(1, 2, 3), keepdim=True)
        return (own.detach() - true).float() / size.clamp(min=0.02)  # bfloat16 is not more exact than that


class _Distillation(Run):
    """The parts of a run that distills. The algorithm is in `distill`."""

    def __init__(self, recipe: Recipe, out: Path, spec: DataSpec, teacher: Checkpoint, device: torch.device) -> None:
        self.device = device
        bare = recipe.make_network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        bare.load_state_dict(teacher.ema)
        least_noise = int(few_times(recipe.make_schedule(), recipe.pure).nonzero()[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(recipe.seed, WEIGHTS))
            self.critic = Critic(bare, least_noise).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        # no momentum: where the one was headed for is no longer the way once the other has moved
        optimizer, other = (
            torch.optim.AdamW(part.parameters(), recipe.lr, betas=(0.0, 0.99), weight_decay=recipe.weight_decay)
            for part in (bare, self.critic)
        )
        self.optimizer, self.critic_optimizer = optimizer, other
        rest: tuple[Stateful, ...] = (optimizer, other, self.critic)
        self.matched = Matching(recipe, teacher, device) if recipe.match else None
        if self.matched:
            rest += (self.matched.own, self.matched.optimizer)
        super().__init__(recipe, out, spec, teacher.labels, bare, rest)

    def set_learning_rate(self, step: int) -> float:
        """Let the rate of network and critic be that of step 0, 1, …; return it."""
        rate = learning_rate(self.recipe, step)
        for group in self.optimizer.param_groups + self.critic_optimizer.param_groups:
            group["lr"] = rate
        return rate

    def check_finite(self, step: int, critic_loss: Tensor, norm: Tensor) -> None:
        """UserError, before the network's weights are touched, if a loss or its gradient is not finite."""
        if not (torch.isfinite(critic_loss) and torch.isfinite(norm)):
            raise UserError(
                f"the loss is no longer finite at step {step + 1}; the checkpoint before it is intact in "
                f"{self.checkpoints}. Try another --seed"
            )
