"""Right and wrong answers to the exercises of lab 2."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

import shapedreamer as sd
from tests.labs.answers import Answers

diffuse = sd.process.diffuse


def alphas(t: Any, schedule: Any) -> Any:
    a = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)
    return a, 1 - a


# denoising_loss


def loss(network: Any, x0: Any, label: Any, t: Any, eps: Any, schedule: Any) -> Any:
    """By hand, and with another order of the means."""
    a, b = alphas(t, schedule)
    difference = x0 - network(a.sqrt() * x0 + b.sqrt() * eps, t, label)
    return (difference**2).mean(dim=(1, 2, 3))


class Loss:
    def __call__(self, network: Any, x0: Any, label: Any, t: Any, eps: Any, schedule: Any) -> Any:
        x_t = diffuse(x0.double(), t, eps.double(), schedule)
        return F.mse_loss(network(x_t.float(), t, label), x0, reduction="none").flatten(1).mean(1)


def loss_of(noisy: Any, reduce: Any = lambda error: error.square().flatten(1).mean(1), aim: Any = None) -> Any:
    """A wrong loss: with other noisy images, another reduction of the error, or another target."""

    def wrong(network: Any, x0: Any, label: Any, t: Any, eps: Any, schedule: Any) -> Any:
        x_t = noisy(x0, t, eps, schedule)
        return reduce(network(x_t, t, label) - (x0 if aim is None else aim(x0, eps, x_t)))

    return wrong


def without_root(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
    a, b = alphas(t, schedule)
    return a.sqrt() * x0 + b * eps


def without_roots(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
    a, b = alphas(t, schedule)
    return a * x0 + b * eps


# training_step


def draw(x0: Any, schedule: Any) -> Any:
    return torch.randint(1, schedule.T + 1, (len(x0),)), torch.randn_like(x0)


def step(network: Any, optimizer: Any, x0: Any, label: Any, schedule: Any) -> Any:
    """Zero the gradients at the end, and return a tensor without graph."""
    t, eps = draw(x0, schedule)
    value = loss(network, x0, label, t, eps, schedule).mean()
    value.backward()
    optimizer.step()
    optimizer.zero_grad()
    return value.detach()


class Step:
    def __call__(self, network: Any, optimizer: Any, x0: Any, label: Any, schedule: Any) -> Any:
        t = (torch.rand(len(x0)) * schedule.T).long() + 1
        value = loss(network, x0, label, t, torch.normal(0.0, 1.0, x0.shape), schedule).sum() / len(x0)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = None
        value.backward()
        optimizer.step()
        return value.detach().double()


def step_with(
    draw_t: Callable[..., Any] = lambda B, T: torch.randint(1, T + 1, (B,)),
    noise: Callable[..., Any] = torch.randn_like,
    zero: bool = True,
    take: bool = True,
    first: bool = False,
    late_zero: bool = False,
    reduce: Callable[..., Any] = torch.mean,
    result: Callable[..., Any] = lambda value: value.item(),
) -> Any:
    """A training step with one thing changed."""

    def wrong(network: Any, optimizer: Any, x0: Any, label: Any, schedule: Any) -> Any:
        value = reduce(loss(network, x0, label, draw_t(len(x0), schedule.T), noise(x0), schedule))
        if first:
            optimizer.step()
        if zero and not late_zero and not first:
            optimizer.zero_grad()
        if first:
            optimizer.zero_grad()
        value.backward()
        if late_zero:
            optimizer.zero_grad()
        if take and not first:
            optimizer.step()
        return result(value)

    return wrong


# ema_update


def ema(average: Any, network: Any, n: int, decay: float) -> Any:
    d = min(decay, (1 + n) / (10 + n))
    for a, w in zip(average.parameters(), network.parameters(), strict=True):
        a.data = d * a.data + (1 - d) * w.data
    for a, b in zip(average.buffers(), network.buffers(), strict=True):
        a.data.copy_(b)
    return average


@torch.no_grad()
def ema_state_dict(average: Any, network: Any, n: int, decay: float) -> Any:
    d = min(decay, (1 + n) / (10 + n))
    names = {name for name, _ in network.named_parameters()}
    old, new = average.state_dict(), network.state_dict()
    average.load_state_dict({k: d * old[k] + (1 - d) * new[k] if k in names else new[k] for k in old})
    return average


def ema_with(d_of: Any, buffers: str = "copy", copied: bool = False) -> Any:
    @torch.no_grad()
    def wrong(average: Any, network: Any, n: int, decay: float) -> Any:
        if copied:
            average = copy.deepcopy(average)
        d = d_of(n, decay)
        for a, w in zip(average.parameters(), network.parameters(), strict=True):
            a.mul_(d).add_(w, alpha=1 - d)
        for a, b in zip(average.buffers(), network.buffers(), strict=True):
            if buffers == "average":
                a.mul_(d).add_(b, alpha=1 - d)
            elif buffers == "copy":
                a.copy_(b)
        return average

    return wrong


def right_d(n: int, decay: float) -> float:
    return min(decay, (1 + n) / (10 + n))


def ema_with_gradients(average: Any, network: Any, n: int, decay: float) -> Any:
    for a, w in zip(average.parameters(), network.parameters(), strict=True):
        a.lerp_(w, 1 - right_d(n, decay))
    return average


@torch.no_grad()
def ema_of_network(average: Any, network: Any, n: int, decay: float) -> Any:
    for a, w in zip(average.parameters(), network.parameters(), strict=True):
        w.lerp_(a, right_d(n, decay))
        a.copy_(w)
    return average


# loss_by_level


@torch.no_grad()
def levels(network: Any, x0: Any, label: Any, eps: Any, times: Any, schedule: Any) -> Any:
    """All timesteps in one batch."""
    B, K = len(x0), len(times)
    t = torch.tensor(times).repeat_interleave(B)
    values = loss(network, x0.repeat(K, 1, 1, 1), label.repeat(K, 1), t, eps.repeat(K, 1, 1, 1), schedule)
    return values.view(K, B).mean(1)


def levels_floats(network: Any, x0: Any, label: Any, eps: Any, times: Any, schedule: Any) -> Any:
    found = torch.zeros(len(times), dtype=torch.float64)
    for i, t in enumerate(times):
        batch = t * torch.ones(len(x0), dtype=torch.long)
        found[i] = loss(network, x0, label, batch, eps, schedule).mean().item()
    return found


def levels_with(
    times_of: Any = lambda times: times, noise: Any = None, finish: Any = torch.stack, each: Any = None
) -> Any:
    @torch.no_grad()
    def wrong(network: Any, x0: Any, label: Any, eps: Any, times: Any, schedule: Any) -> Any:
        means = []
        for t in times_of(times):
            batch = torch.full((len(x0),), t)
            value = loss(network, x0, label, batch, eps if noise is None else noise(eps), schedule)
            means.append(value.mean() if each is None else each(value))
        return finish(means)

    return wrong


def with_gradients(network: Any, x0: Any, label: Any, eps: Any, times: Any, schedule: Any) -> Any:
    return torch.stack([loss(network, x0, label, torch.full((len(x0),), t), eps, schedule).mean() for t in times])


# exam


def train(
    network: Any,
    images: Any,
    schedule: Any,
    steps: int,
    batch_size: int,
    lr: float,
    decay: float,
    noisy: Any = diffuse,
    aim: Any = lambda x0, eps: eps,
    d_of: Any = right_d,
    high: int = 1,
    raw: bool = False,
) -> Any:
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for n in range(steps):
        optimizer.zero_grad()
        x0 = images[torch.randperm(len(images))[:batch_size]]
        t = torch.randint(1, schedule.T + high, (len(x0),))
        eps = torch.randn_like(x0)
        F.mse_loss(network(noisy(x0, t, eps, schedule), t), aim(x0, eps)).backward()
        optimizer.step()
        average = ema_with(d_of)(average, network, n, decay)
    return network if raw else average


class Train:
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        named["d_of"] = lambda n, decay: min((n + 1) / (n + 10), decay)
        return train(*arguments, **named)


def train_with(**changes: Any) -> Any:
    return lambda *arguments, **named: train(*arguments, **(named | changes))


ANSWERS = {
    "denoising_loss": Answers(
        right=[loss, Loss()],
        wrong=[
            (loss_of(without_root), "lacks the root"),
            (loss_of(without_roots), "lacks both roots"),
            (loss_of(lambda x0, t, eps, schedule: x0), "sees the clean image"),
            (loss_of(diffuse, lambda error: error.square().mean()), "over the whole batch"),
            (loss_of(diffuse, lambda error: error.square()), "the error of each pixel"),
            (loss_of(diffuse, lambda error: error.square().flatten(1).sum(1)), "sum over the pixels"),
            (loss_of(diffuse, lambda error: error.abs().flatten(1).mean(1)), "absolute error"),
            (loss_of(diffuse, lambda error: error.flatten(1).mean(1)), "not squared"),
            (loss_of(diffuse, aim=lambda x0, eps, x_t: eps), "predicts the clean image"),
            (torch.no_grad()(loss), "no gradient"),
            (
                lambda network, x0, label, t, eps, schedule: network(diffuse(x0, t, eps, schedule), t),
                "without the label",
            ),
            (lambda network, x0, label, t, eps, schedule: network(x0, t[0], label), "one timestep for each image"),
        ],
    ),
    "training_step": Answers(
        right=[step, Step()],
        wrong=[
            (step_with(draw_t=lambda B, T: torch.randint(0, T, (B,))), "contain 0"),
            (step_with(draw_t=lambda B, T: torch.randint(1, T, (B,))), "never reaches T"),
            (step_with(draw_t=lambda B, T: torch.randint(1, T + 1, (1,)).expand(B)), "the same t"),
            (step_with(noise=torch.rand_like), "uniform in [0, 1]"),
            (step_with(noise=lambda x: torch.randn_like(x[:1]).expand_as(x)), "the same noise"),
            (step_with(noise=torch.zeros_like), "without noise"),
            (step_with(zero=False), "add up"),
            (step_with(take=False), "call optimizer.step()"),
            (step_with(first=True), "zero_grad, backward, step"),
            (step_with(late_zero=True), "no gradient when"),
            (step_with(reduce=torch.sum), "sum the losses"),
            (step_with(result=lambda value: value), "loss.item()"),
            (step_with(result=lambda value: value.item() * 2), "mean loss of the batch is"),
        ],
    ),
    "ema_update": Answers(
        right=[ema, ema_state_dict],
        wrong=[
            (ema_with(lambda n, decay: 1 - right_d(n, decay)), "swapped"),
            (ema_with(lambda n, decay: decay), "warm-up is missing"),
            (ema_with(lambda n, decay: max(decay, (1 + n) / (10 + n))), "the smaller one"),
            (ema_with(lambda n, decay: (1 + n) / (10 + n)), "never use decay"),
            (ema_with(lambda n, decay: 0.0), "copy the weights"),
            (ema_with(lambda n, decay: 1.0), "does not change"),
            (ema_with(right_d, buffers="average"), "not learned"),
            (ema_with(right_d, buffers="skip"), "not learned"),
            (ema_with(right_d, copied=True), "in place"),
            (ema_with_gradients, "torch.no_grad()"),
            (ema_of_network, "which is being trained"),
        ],
    ),
    "loss_by_level": Answers(
        right=[levels, levels_floats],
        wrong=[
            (levels_with(times_of=lambda times: range(1, len(times) + 1)), "place in the list"),
            (levels_with(times_of=lambda times: times[::-1]), "reversed"),
            (levels_with(noise=torch.randn_like), "your own noise"),
            (levels_with(finish=lambda means: torch.stack(means).mean()), "average over the timesteps"),
            (levels_with(finish=list), "torch.stack"),
            (levels_with(each=lambda value: value), "each image"),
            (levels_with(each=lambda value: value.sum()), "sum over the images"),
            (levels_with(each=lambda value: value[0]), "only the first image"),
            (with_gradients, "record gradients"),
        ],
    ),
    "exam": Answers(
        right=[train, Train()],
        wrong=[
            (train_with(aim=lambda x0, eps: x0), "learns to predict x0"),
            (train_with(noisy=without_root), "lacks the root"),
            (train_with(noisy=lambda x0, t, eps, schedule: x0), "without noise"),
            (train_with(noisy=lambda x0, t, eps, schedule: eps), "without the image"),
            (train_with(raw=True), "return its average"),
            (train_with(d_of=lambda n, decay: 0.0), "weights of the last step"),
            (train_with(d_of=lambda n, decay: 1.0), "initial weights"),
            (train_with(d_of=lambda n, decay: decay), "warm-up is missing"),
            (train_with(d_of=lambda n, decay: 1 - right_d(n, decay)), "swapped"),
            (train_with(high=0), "T included"),
        ],
    ),
}
