"""The checks of lab 10: means, few steps, a critic's losses, and distribution matching."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion import oracle, process
from ...diffusion.denoiser import Denoise
from ...diffusion.schedule import Schedule, cosine
from ..verdict import AnswerError, call, exercise, same

B, T = 4, 100


def _exact(schedule: Schedule, *shape: int) -> Denoise:
    """An exact denoiser of random images (C, H, W), in which every pixel influences all others."""
    means = torch.rand(4, *shape) * 2 - 1
    return oracle.gaussian_mixture(means, torch.full((4,), 0.4), F.normalize(torch.rand(4) + 0.5, p=1, dim=0), schedule)


@exercise
def two_points(answer: Any) -> str:
    """Compared with oracle.finite_data, one pixel at a time."""
    schedule = cosine(T)
    t = torch.randint(50, 80, (B,))
    x_t = torch.randn(B, 1, 5, 5)
    alpha, sigma = (value.double() for value in schedule.alpha_sigma(t, like=x_t))
    pixels = x_t.double().view(-1, 1, 1, 1)
    pair = torch.tensor([-1.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    right = oracle.finite_data(pair, schedule)(pixels, t.repeat_interleave(25)).view_as(x_t)
    a = alpha * x_t / sigma**2
    same(
        call(answer, x_t, t, schedule),
        right,
        "this is not tanh(α x_t / σ²)",
        {
            "this is the more probable value, −1 or +1; the squared error is smallest for the mean": x_t.sign(),
            "you divide by σ; the exponent has the variance σ²": torch.tanh(alpha * x_t / sigma),
            "α is missing: the two means of x_t are at −α and +α": torch.tanh(x_t / sigma**2),
            "you do not divide by σ²": torch.tanh(alpha * x_t),
            "the argument is twice too large: 2a is in the exponent, a in tanh": torch.tanh(2 * a),
            "this is P(+1 | x_t); the mean is P(+1) − P(−1)": torch.sigmoid(2 * a),
            "this is P(−1 | x_t); the mean is P(+1) − P(−1)": torch.sigmoid(-2 * a),
            "this is a itself; the mean is tanh a, between −1 and 1": a,
            "the sign is wrong: a positive x_t makes +1 more probable": -right,
            "you divide by 2σ²: the factor ½ is cancelled by the two terms that differ": torch.tanh(a / 2),
            "this is x_t/α, the estimate without any knowledge of the data": x_t / alpha,
            "this is the sigmoid of a; the mean is tanh a": torch.sigmoid(a),
        },
    )
    return "At t = T the mean is grey, a value that no data point has."


class _Noises:
    """noise() for a learner's loop: the same sequence of noise images for every instance."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.used = images, 0

    def __call__(self) -> Tensor:
        if self.used == len(self.images):
            raise AnswerError(f"you call noise() more than {self.used} times; once for each step that adds noise")
        self.used += 1
        return self.images[self.used - 1].clone()


@exercise
def few_steps(answer: Any) -> str:
    """An exact denoiser, four steps and a fixed sequence of noise images."""
    schedule = cosine(T)
    denoise = _exact(schedule, 1, 5, 5)
    times = [T, 70, 45, 20, 0]
    x_T = torch.randn(B, 1, 5, 5)
    images = torch.randn(len(times) - 1, *x_T.shape)
    calls: list[int] = []

    def recording(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(int(torch.as_tensor(t).flatten()[0]))
        return denoise(x_t, t)

    yours = call(answer, recording, x_T, times, schedule, _Noises(images))
    if calls != times[:-1]:
        raise AnswerError(
            f"with times = {times} the denoiser must be called at {times[:-1]}, but you call it at {calls}"
        )

    def run(kind: str) -> Tensor:
        x, noises = x_T.double(), _Noises(images.double())
        for t, s in pairwise(times):
            x0 = denoise(x, torch.full((B,), t))
            mean, variance = process.posterior(x0, x, t, s, schedule)
            beta = 1 - (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()
            z = noises() if s > 0 else torch.zeros(())
            x = {
                "right": mean + variance**0.5 * z,
                "no noise": mean,
                "no root": mean + variance * z,
                "full": mean + z,
                "beta": mean + beta**0.5 * z,
                "fresh": process.diffuse(x0, s, z, schedule) if s else x0,
                "ddim": process.diffuse(x0, s, process.to_eps(x0, x, t, schedule), schedule),
                "x0": x0,
                "x0 noisy": x0 + variance**0.5 * z,
            }[kind]
        return x

    same(
        yours,
        run("right"),
        "this is not mean + √variance · noise of q(x_s | x_t, x̂₀) in each step",
        {
            "x never changes: compute x_s in every step": x_T,
            "you add no noise; x_s is drawn from a distribution, mean plus √variance · noise": run("no noise"),
            "you multiply the noise with the variance; its root, the standard deviation, belongs there": run("no root"),
            "you add noise of variance 1; multiply it with the root of the posterior variance": run("full"),
            "you use the variance β; the posterior variance is smaller": run("beta"),
            "you draw x_s from x̂₀ alone; q(x_s | x_t, x̂₀) also has x_t": run("fresh"),
            "this is DDIM with η = 0; draw x_s from the posterior": run("ddim"),
            "you keep x̂₀ as x_s, so x has no noise at timestep s": run("x0"),
            "you add the noise to x̂₀; add it to the mean of the posterior": run("x0 noisy"),
        },
        tol=1e-3,
    )
    return "The same step as DDPM's: only the network is different."


@exercise
def losses(answer: Any) -> str:
    """Random scores, also large ones."""
    real, fake = torch.randn(B, 3) * 2, torch.randn(B, 3) * 2
    d = (fake - real).double()

    def pair(critic: Tensor, student: Tensor) -> Tensor:
        return torch.stack([critic.mean(), student.mean()])

    def both(yours: Any) -> Tensor:
        if not isinstance(yours, (tuple, list)) or len(yours) != 2:
            raise AnswerError("return two scalars: the critic's loss and the student's loss")
        values = [torch.as_tensor(value) for value in yours if isinstance(value, (Tensor, float, int))]
        if len(values) != 2 or any(value.numel() != 1 for value in values):
            raise AnswerError("both losses must be scalars: take the mean over all scores")
        return torch.stack([value.detach().double().reshape(()) for value in values])

    right = pair(F.softplus(d), F.softplus(-d))
    same(
        both(call(answer, real, fake)),
        right,
        "these are not the means of softplus(fake − real) and softplus(real − fake)",
        {
            "critic and student are swapped: the critic's loss is small if real images score higher": right.flip(0),
            "both losses are the critic's; the student wants the opposite": pair(F.softplus(d), F.softplus(d)),
            "both losses are the student's; the critic wants the opposite": pair(F.softplus(-d), F.softplus(-d)),
            "you take softplus of the mean; take the mean of softplus": pair(
                F.softplus(d.mean()), F.softplus(-d.mean())
            ),
            "the softplus is missing": pair(d, -d),
            "this is max(0, z); softplus is smooth: log(1 + eᶻ)": pair(d.relu(), (-d).relu()),
            "you sum over the scores; take the mean": right * d.numel(),
            "you sum over each row; take the mean of all scores": right * d.shape[1],
            "this is the loss without pairs (softplus of each score alone); here scores are compared": pair(
                F.softplus(fake.double()) + F.softplus(-real.double()), F.softplus(-fake.double())
            ),
            "this is the sigmoid; softplus is log(1 + eᶻ)": pair(torch.sigmoid(d), torch.sigmoid(-d)),
            "the student's loss is not minus the critic's; softplus has its argument reversed": pair(
                F.softplus(d), -F.softplus(d)
            ),
        },
    )
    large = both(call(answer, real * 0 + 500, fake * 0 - 500))
    if not large.isfinite().all():
        raise AnswerError("with large scores your loss is ∞ or NaN; F.softplus is safe, log(1 + exp(z)) is not")
    return "Losses of two networks against each other do not fall as training succeeds."


@exercise
def r1_penalty(answer: Any) -> str:
    """A random critic, the value, and whether its weights get a gradient."""
    first = nn.Linear(12, 8)
    critic = nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(8, 2)).double()
    x, gamma = torch.randn(B, 1, 3, 4, dtype=torch.float64), 0.5 + torch.rand(()).item()
    point = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    squares = gradient.square().flatten(1)
    right = gamma / 2 * squares.sum(1).mean()
    yours = call(answer, critic, x, gamma)
    if isinstance(yours, Tensor) and yours.shape == (B,):
        raise AnswerError("you return a penalty for each image; take the mean over the batch")
    if isinstance(yours, Tensor) and yours.shape == x.shape:
        raise AnswerError("you return a number for each pixel; sum over the pixels and take the mean over the images")
    rows = squares.detach().sum(1)
    same(
        yours,
        right.detach(),
        "this is not γ/2 times the mean over the images of ‖∇C‖²",
        {
            "the factor ½ is missing: γ/2": right.detach() * 2,
            "γ is missing": right.detach() / gamma,
            "γ/2 is missing": right.detach() * 2 / gamma,
            "you take the mean over the pixels; ‖·‖² is their sum": right.detach() / 12,
            "you sum over the images; take their mean": right.detach() * B,
            "the square is missing: this is the norm of the gradient": gamma / 2 * rows.sqrt().mean(),
            "this is WGAN-GP's penalty (‖∇C‖ − 1)²; R1 is ‖∇C‖²": gamma / 2 * (rows.sqrt() - 1).square().mean(),
            "you take the gradient of the mean score, so it is too small by the size of the batch": (
                right.detach() / (2 * B) ** 2
            ),
            "you divide by the batch before the square; take the gradient of the sum of the scores": (
                right.detach() / B**2
            ),
            "this is the penalty on the scores; R1 is on their gradient": (
                gamma / 2 * critic(x).detach().square().sum(1).mean()
            ),
        },
    )
    weight = first.weight
    expected = torch.autograd.grad(right, weight)[0]
    if not isinstance(yours, Tensor) or not yours.requires_grad:
        raise AnswerError(
            "the value is right, but the critic cannot learn from it: use create_graph=True, and no detach"
        )
    (found,) = torch.autograd.grad(yours, weight, allow_unused=True)
    if found is None:
        raise AnswerError("the value is right, but it does not reach the critic's weights: use create_graph=True")
    same(found, expected, "the value is right, but its gradient for the critic's weights is not")
    return "create_graph=True keeps the graph of the gradient, so that the critic can learn from it."


@exercise
def exam(answer: Any) -> str:
    """The gradient with respect to the samples, for two random exact denoisers."""
    schedule = cosine(T)
    teacher, fake = _exact(schedule, 1, 3, 3), _exact(schedule, 1, 3, 3)
    start = torch.randn(B, 1, 3, 3, dtype=torch.float64)
    t, eps = torch.randint(20, 75, (B,)), torch.randn(B, 1, 3, 3, dtype=torch.float64)

    def gradient_of(loss: Tensor, x: Tensor) -> Tensor:
        return torch.autograd.grad(loss, x, retain_graph=True)[0]

    x = start.clone().requires_grad_(True)
    yours = call(answer, x, teacher, fake, t, eps, schedule)  # `call` passes a copy of x, which keeps the graph
    if not isinstance(yours, Tensor) or yours.numel() != 1:
        raise AnswerError("return a scalar tensor: the mean over the batch of x · g")
    if not yours.requires_grad:
        raise AnswerError("your loss has no gradient: only g is a constant; the x in x · g must keep its graph")
    (found,) = torch.autograd.grad(yours.reshape(()), x, allow_unused=True)
    if found is None:
        raise AnswerError("your loss does not depend on x: the x in x · g must keep its graph")
    x_t = process.diffuse(start, t, eps, schedule)
    g = fake(x_t, t) - teacher(x_t, t)
    right = g / B
    point = start.clone().requires_grad_(True)
    moving = process.diffuse(point, t, eps, schedule)
    difference = fake(moving, t) - teacher(moving, t)
    alpha, _ = schedule.alpha_sigma(t, like=start)
    clean = fake(start, t) - teacher(start, t)
    no_root = process.diffuse(start, t, eps * 0, schedule)
    same(
        found,
        right,
        "the gradient of your loss is not (x̂₀_fake − x̂₀_teacher) / B",
        {
            "the sign is wrong: samples move against fake − teacher, so the loss is the mean of x · (fake − teacher)": (
                -right
            ),
            "a gradient flows through the denoisers; compute x_t and g under torch.no_grad()": gradient_of(
                (point * difference).flatten(1).sum(1).mean(), point
            ),
            "this is the squared difference with a gradient through the denoisers; g must be a constant": gradient_of(
                difference.square().flatten(1).sum(1).mean(), point
            ),
            "you take the mean over the pixels too; sum over C, H, W and take the mean over the batch": right / 9,
            "you sum over the batch; take the mean": g,
            "you denoise x itself; add the noise of timestep t first": clean / B,
            "you denoise √ᾱ·x without noise; x_t also has √(1−ᾱ)·eps": ((fake(no_root, t) - teacher(no_root, t)) / B),
            "you take x_t · g; the loss is x · g (the factor α is too much)": alpha * right,
            "you use only the teacher; g is the difference fake − teacher": -teacher(x_t, t) / B,
            "you use only the fake denoiser; g is the difference fake − teacher": fake(x_t, t) / B,
            "your gradient is twice too large": 2 * right,
        },
        tol=1e-4,
    )
    return "The teacher says where the data is, the fake denoiser where the samples are."
