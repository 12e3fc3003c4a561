"""Right and wrong answers to lab 10."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

import shapedreamer as sd
from tests.labs.answers import Answers


def by_bayes(x_t, t, schedule):
    alpha, sigma = (value.double() for value in schedule.alpha_sigma(t, like=x_t))
    plus = (-((x_t - alpha) ** 2) / (2 * sigma**2)).exp()
    minus = (-((x_t + alpha) ** 2) / (2 * sigma**2)).exp()
    return (plus - minus) / (plus + minus)


class BySigmoid:
    def __call__(self, x_t, t, schedule):
        a = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)
        return x_t.mul_(2 * a.sqrt() / (1 - a)).sigmoid_().mul_(2).sub_(1)


def _points(function):
    """A wrong version: function(x_t, alpha, sigma)."""
    return lambda x_t, t, schedule: function(x_t, *schedule.alpha_sigma(t, like=x_t))


def steps(denoise, x_T, times, schedule, noise, kind="right"):
    """Right by default, with faults to choose from."""
    x = x_T
    for t, s in pairwise(times):
        x0 = denoise(x, torch.full((len(x),), t))
        mean, variance = sd.process.posterior(x0, x, t, s, schedule)
        z = noise() if s else 0
        if kind == "right":
            x = mean + variance**0.5 * z
        elif kind == "mean":
            x = mean
        elif kind == "variance":
            x = mean + variance * z
        elif kind == "full":
            x = mean + z
        elif kind == "x0":
            x = x0
        elif kind == "beta":
            x = mean + (1 - (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()) ** 0.5 * z
        elif kind == "fresh":
            x = sd.process.diffuse(x0, s, torch.as_tensor(z), schedule) if s else x0
        elif kind == "ddim":
            x = sd.process.diffuse(x0, s, sd.process.to_eps(x0, x, t, schedule), schedule)
        elif kind == "wrong t":
            x = mean + variance**0.5 * z
            denoise(x, torch.full((len(x),), s))
    return x


class Steps:
    """The formula of DDIM with η = 1, noise always drawn."""

    def __call__(self, denoise, x_T, times, schedule, noise):
        x = x_T.double()
        for i in range(len(times) - 1):
            t, s = times[i], times[i + 1]
            a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
            x0 = denoise(x, torch.tensor([t] * len(x)))
            sigma = math.sqrt((1 - b) / (1 - a) * (1 - a / b))
            eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
            x = math.sqrt(b) * x0 + math.sqrt(max(1 - b - sigma**2, 0)) * eps
            x += sigma * noise()
        return x


def _steps(kind):
    return lambda denoise, x_T, times, schedule, noise: steps(denoise, x_T, times, schedule, noise, kind)


def losses_by_log(real, fake):
    d = (fake - real).double()
    return torch.logaddexp(d, torch.zeros_like(d)).mean(), torch.logaddexp(-d, torch.zeros_like(d)).mean()


class Losses:
    def __call__(self, real, fake):
        return [-F.logsigmoid(real - fake).mean(), -F.logsigmoid(fake.sub_(real)).mean()]


def _losses(critic, student):
    """A wrong version: both are functions of real and fake."""
    return lambda real, fake: (critic(real, fake), student(real, fake))


def _critic(r, f):
    return F.softplus(f - r).mean()


def _student(r, f):
    return F.softplus(r - f).mean()


def r1(critic, x, gamma, graph=True, reduce=lambda g: g.square().flatten(1).sum(1).mean(), half=2, score=torch.sum):
    x = x.detach().requires_grad_(True)
    (g,) = torch.autograd.grad(score(critic(x)), x, create_graph=graph)
    return gamma / half * reduce(g)


class R1:
    def __call__(self, critic, x, gamma):
        x.requires_grad_()
        scores = critic(x)
        gradient = torch.autograd.grad(scores, x, torch.ones_like(scores), create_graph=True)[0]
        return 0.5 * gamma * (gradient**2).sum() / len(x)


def _r1(**faults):
    return lambda critic, x, gamma: r1(critic, x, gamma, **faults)


def _match(loss, grad=False, noisy=True, sign=1):
    """The exam's answer: loss(x, g), with faults to choose from."""

    def answer(x, teacher, fake, t, eps, schedule):
        with torch.set_grad_enabled(grad):
            x_t = sd.process.diffuse(x, t, eps, schedule) if noisy else x
            g = sign * (fake(x_t, t) - teacher(x_t, t))
        return loss(x, g)

    return answer


def pull_to_target(x, teacher, fake, t, eps, schedule):
    """The usual trick: half the squared distance to a target that is a constant."""
    x_t = sd.process.diffuse(x.detach(), t, eps, schedule)
    target = (x - (fake(x_t, t) - teacher(x_t, t))).detach()
    return 0.5 * F.mse_loss(x, target, reduction="sum") / len(x)


class Match:
    def __call__(self, x, teacher, fake, t, eps, schedule):
        a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * x.detach() + (1 - a).sqrt() * eps
        g = fake(x_t, t) - teacher(x_t, t)
        return torch.einsum("bchw,bchw->", x, g) / x.shape[0]


def only_teacher(x, teacher, fake, t, eps, schedule):
    x_t = sd.process.diffuse(x.detach(), t, eps, schedule)
    return -(x * teacher(x_t, t)).sum() / len(x)


def _inner(x, g):
    return (x * g).flatten(1).sum(1).mean()


ANSWERS = {
    "two_points": Answers(
        right=[by_bayes, BySigmoid()],
        wrong=[
            (_points(lambda x, a, s: x.sign()), "more probable value"),
            (_points(lambda x, a, s: torch.tanh(a * x / s)), "you divide by σ;"),
            (_points(lambda x, a, s: torch.tanh(x / s**2)), "α is missing"),
            (_points(lambda x, a, s: torch.tanh(a * x)), "do not divide by σ²"),
            (_points(lambda x, a, s: torch.tanh(2 * a * x / s**2)), "twice too large"),
            (_points(lambda x, a, s: torch.sigmoid(2 * a * x / s**2)), "this is P(+1 | x_t)"),
            (_points(lambda x, a, s: a * x / s**2), "a itself"),
            (_points(lambda x, a, s: -torch.tanh(a * x / s**2)), "sign is wrong"),
            (_points(lambda x, a, s: torch.tanh(a * x / (2 * s**2))), "divide by 2σ²"),
        ],
    ),
    "few_steps": Answers(
        right=[steps, Steps()],
        wrong=[
            (_steps("mean"), "you add no noise"),
            (_steps("variance"), "its root"),
            (_steps("full"), "noise of variance 1"),
            (_steps("beta"), "variance β"),
            (_steps("fresh"), "from x̂₀ alone"),
            (_steps("ddim"), "DDIM with η = 0"),
            (_steps("x0"), "you keep x̂₀"),
            (_steps("wrong t"), "but you call it at"),
            (lambda denoise, x_T, *others: x_T, "but you call it at"),
        ],
    ),
    "losses": Answers(
        right=[losses_by_log, Losses()],
        wrong=[
            (_losses(_student, _critic), "are swapped"),
            (_losses(_critic, _critic), "the student wants the opposite"),
            (_losses(_critic, lambda r, f: -_critic(r, f)), "not minus the critic's"),
            (_losses(lambda r, f: (f - r).mean(), lambda r, f: (r - f).mean()), "softplus is missing"),
            (
                _losses(lambda r, f: F.softplus((f - r).mean()), lambda r, f: F.softplus((r - f).mean())),
                "softplus of the mean",
            ),
            (_losses(lambda r, f: F.relu(f - r).mean(), lambda r, f: F.relu(r - f).mean()), "max(0, z)"),
            (_losses(lambda r, f: F.softplus(f - r).sum(), lambda r, f: F.softplus(r - f).sum()), "you sum over"),
            (_losses(lambda r, f: F.softplus(f - r), lambda r, f: F.softplus(r - f)), "must be scalars"),
            (
                _losses(lambda r, f: (1 + (f - r).exp()).log().mean(), lambda r, f: (1 + (r - f).exp()).log().mean()),
                "F.softplus is safe",
            ),
            (_critic, "return two scalars"),
        ],
    ),
    "r1_penalty": Answers(
        right=[r1, R1()],
        wrong=[
            (_r1(half=1), "factor ½"),
            (_r1(reduce=lambda g: g.square().mean()), "mean over the pixels"),
            (_r1(reduce=lambda g: g.square().sum()), "sum over the images"),
            (_r1(reduce=lambda g: g.flatten(1).norm(dim=1).mean()), "the square is missing"),
            (_r1(reduce=lambda g: (g.flatten(1).norm(dim=1) - 1).square().mean()), "WGAN-GP"),
            (_r1(reduce=lambda g: g.square().flatten(1).sum(1)), "for each image"),
            (_r1(score=torch.mean), "the mean score"),
            (_r1(graph=False), "create_graph=True"),
            (lambda critic, x, gamma: r1(critic, x, 1.0), "γ is missing"),
            (lambda critic, x, gamma: gamma / 2 * critic(x).square().sum(1).mean(), "penalty on the scores"),
        ],
    ),
    "exam": Answers(
        right=[pull_to_target, Match()],
        wrong=[
            (_match(_inner, sign=-1), "sign is wrong"),
            (_match(_inner, grad=True), "flows through the denoisers"),
            (_match(lambda x, g: (x * g).mean()), "over the pixels too"),
            (_match(lambda x, g: (x * g).sum()), "you sum over the batch"),
            (_match(_inner, noisy=False), "add the noise of timestep t first"),
            (_match(lambda x, g: g.square().flatten(1).sum(1).mean(), grad=True), "squared difference"),
            (_match(lambda x, g: _inner(x.detach(), g)), "has no gradient"),
            (only_teacher, "you use only the teacher"),
        ],
    ),
}
