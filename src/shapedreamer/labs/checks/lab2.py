"""The checks of lab 2: the loss, the training step, the EMA, the loss by noise level, and a whole training loop."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...conformance import check_ema
from ...diffusion import process
from ...diffusion.schedule import Schedule, cosine, linear
from ..verdict import AnswerError, call, close, exercise, same, tensor
from .runs import run

L = 3
SHAPE = (3, 4, 4)


class _Network(nn.Module):
    """(x_t, t, label) -> x̂₀ with three random parameters; it remembers its inputs, and explains wrong ones."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T
        self.gain = nn.Parameter(0.3 + torch.rand(()))
        self.by_label = nn.Parameter(torch.randn(L))
        self.by_time = nn.Parameter(torch.rand(()))
        self.inputs: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x_t: Any, t: Any, label: Any = None) -> Tensor:
        if not isinstance(x_t, Tensor) or x_t.ndim != 4 or not isinstance(t, Tensor):
            raise AnswerError("call the network as network(x_t, t, label): the image first, then the timesteps (B,)")
        if t.is_floating_point() or t.shape != (len(x_t),):
            form = "floats" if t.is_floating_point() else f"shape {tuple(t.shape)}"
            raise AnswerError(f"t must be int64 with one timestep for each image, ({len(x_t)},); you pass {form}")
        if label is None:
            raise AnswerError("you call the network without the label; pass it as the third argument")
        if not isinstance(label, Tensor) or label.shape != (len(x_t), L):
            raise AnswerError(f"the label must be (B, {L}); pass it on as you get it")
        self.inputs.append((x_t.detach().clone(), t.clone(), label.clone()))
        return self.predict(x_t, t, label)

    def predict(self, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        shift = label @ self.by_label.to(label.dtype) + self.by_time * t / self.T
        return self.gain * x_t + shift.view(-1, 1, 1, 1)


def _batch(B: int) -> tuple[Tensor, Tensor, Tensor]:
    """x0, eps and labels."""
    return torch.rand(B, *SHAPE) * 2 - 1, torch.randn(B, *SHAPE), torch.rand(B, L)


@exercise
def denoising_loss(answer: Any) -> str:
    """Random images at random timesteps, then the gradient."""
    table = cosine(100) if torch.rand(()) < 0.5 else linear(100, 1e-3, 0.05)
    network, (x0, eps, label) = _Network(100), _batch(6)
    t = torch.randint(20, 90, (6,))
    yours = run(answer, network, x0, label, t, eps, table)
    if not network.inputs:
        raise AnswerError("your loss does not call the network")

    def error(x_t: Tensor, aim: Tensor, t: Tensor = t) -> Tensor:
        with torch.no_grad():
            return network.predict(x_t, t, label) - aim

    def mse(value: Tensor) -> Tensor:
        return value.square().flatten(1).mean(1)

    a = table.alpha_bar[t].float().view(-1, 1, 1, 1)
    x_t = process.diffuse(x0, t, eps, table)
    right = mse(error(x_t, x0))
    if isinstance(yours, Tensor) and yours.ndim == 0:
        raise AnswerError("you average over the whole batch; keep one loss for each image, (B,)")
    if isinstance(yours, Tensor) and yours.shape == x0.shape:
        raise AnswerError("you return the error of each pixel; average over C, H and W, so that (B,) is left")
    same(
        yours,
        right,
        "the loss is not the mean over the pixels of (x̂₀ − x₀)²",
        {
            "your forward process lacks the root: the noise is multiplied by √(1−ᾱ_t), not by 1−ᾱ_t": mse(
                error(a.sqrt() * x0 + (1 - a) * eps, x0)
            ),
            "your forward process lacks both roots: √ᾱ_t x₀ + √(1−ᾱ_t) ε": mse(error(a * x0 + (1 - a) * eps, x0)),
            "your forward process swaps √ᾱ_t and √(1−ᾱ_t)": mse(error((1 - a).sqrt() * x0 + a.sqrt() * eps, x0)),
            "the network sees the clean image x0; it must get x_t, or there is nothing to learn": mse(error(x0, x0)),
            "you sum over the pixels; take the mean, so that the loss does not depend on the size of the images": (
                right * x0[0].numel()
            ),
            "you compare with the noise; this network predicts the clean image, so the target is x0": mse(
                error(x_t, eps)
            ),
            "you compare with x_t; the target is the clean image x0": mse(error(x_t, x_t)),
            "this is the absolute error; square it": error(x_t, x0).abs().flatten(1).mean(1),
            "this is the root of the loss; leave the mean of the squares as it is": right.sqrt(),
            "the error is not squared": error(x_t, x0).flatten(1).mean(1),
            "you add noise of timestep t, but tell the network t − 1": mse(error(x_t, x0, t - 1)),
        },
    )
    if not (isinstance(yours, Tensor) and yours.requires_grad):
        raise AnswerError(
            "no gradient reaches the network: compute the loss without detach and without torch.no_grad()"
        )
    return "the squared error of x̂₀, and nothing else: all of diffusion training is in these lines."


class _Optimizer(torch.optim.SGD):
    """SGD that remembers the gradient of the network's gain at each step."""

    def __init__(self, network: _Network, lr: float) -> None:
        super().__init__(network.parameters(), lr=lr)
        self.gain = network.gain
        self.gradients: list[float | None] = []

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.gradients.append(None if self.gain.grad is None else self.gain.grad.item())
        super().step()


@exercise
def training_step(answer: Any) -> str:
    """Three steps of SGD with a small network: the timesteps, the noise, the gradients, and the result."""
    B, table = 96, cosine(4)
    network = _Network(4)
    optimizer = _Optimizer(network, lr=1e-3)
    expected: list[float] = []
    for step in range(3):
        x0, _, label = _batch(B)
        before = copy.deepcopy(network.state_dict())
        loss = run(answer, network, optimizer, x0, label, table)
        _one_call(network, step, B)
        x_t, t, passed = network.inputs[step]
        if not torch.equal(passed, label):
            raise AnswerError("the network does not get the labels of the batch")
        _timesteps(t, table.T)
        _noise(x_t, x0, t, table)
        # what this step should have done, from the weights before it
        twin = _Network(4)
        twin.load_state_dict(before)
        right = (twin.predict(x_t, t, label) - x0).square().mean()
        right.backward()
        expected.append(twin.gain.grad.item())  # type: ignore[union-attr]
        _gradient(optimizer, expected, step, B)
        _result(loss, right.item(), B)
    if torch.equal(network.inputs[0][1], network.inputs[1][1]):
        raise AnswerError("every step draws the same timesteps; do not set a seed in the step")
    return "draw, noise, predict, correct: repeat this often enough, and there is a model."


def _one_call(network: _Network, step: int, B: int) -> None:
    calls = len(network.inputs) - step
    if calls != 1:
        raise AnswerError(f"a training step calls the network once; yours calls it {calls} times")
    if len(network.inputs[-1][0]) != B:
        raise AnswerError("use the whole batch x0 in one call of the network")


def _timesteps(t: Tensor, T: int) -> None:
    seen = set(t.tolist())
    if 0 in seen:
        raise AnswerError("your timesteps contain 0, where the image is clean; draw them from 1 to T, T included")
    if len(seen) == 1:
        raise AnswerError("all images of the batch get the same t; draw one for each image: (len(x0),)")
    if max(seen) > T:
        raise AnswerError(f"t = {max(seen)} is larger than T = {T}")
    if T not in seen:
        raise AnswerError(
            "t never reaches T, where sampling starts: torch.randint leaves out its upper end, so it is T + 1"
        )
    if seen != set(range(1, T + 1)):
        raise AnswerError("some timesteps are never drawn; t must be uniform in 1…T")


def _noise(x_t: Tensor, x0: Tensor, t: Tensor, table: Schedule) -> None:
    eps = process.to_eps(x0, x_t, t, table)
    if close(x_t, x0) or eps.abs().max() < 1e-2:
        raise AnswerError("the network gets x0 without noise; draw eps from the standard normal distribution")
    if close(eps[0], eps[1]):
        raise AnswerError("all images get the same noise; draw it in the shape of x0: torch.randn_like(x0)")
    mean, std = eps.mean().item(), eps.std().item()
    if abs(mean - 0.5) < 0.1 and std < 0.5:
        raise AnswerError("your noise is uniform in [0, 1]; standard normal noise is torch.randn_like(x0), with an n")
    if abs(mean) > 0.1 or abs(std - 1) > 0.1:
        raise AnswerError(f"your noise has mean {mean:.2f} and standard deviation {std:.2f}; it must be 0 and 1")


def _gradient(optimizer: _Optimizer, expected: list[float], step: int, B: int) -> None:
    found = optimizer.gradients
    if len(found) != step + 1:
        calls = len(found) - step
        raise AnswerError(
            "the weights do not change: call optimizer.step()"
            if calls == 0
            else f"you call optimizer.step() {calls} times in one training step; once is right"
        )
    gradient, right = found[-1], expected[-1]
    if gradient is None or (gradient == 0 and abs(right) > 1e-6):
        raise AnswerError(
            "there is no gradient when optimizer.step() is called: the order is zero_grad, backward, step"
        )

    def is_(value: float) -> bool:
        return abs(gradient - value) <= 1e-3 * abs(value) + 1e-7

    if is_(right):
        return
    if step and is_(sum(expected)):
        raise AnswerError(
            "the gradients of all steps add up, because backward() adds to the old ones; call optimizer.zero_grad() in "
            "each step"
        )
    if step and is_(expected[-2]):
        raise AnswerError("you call optimizer.step() before backward(), so it uses the gradient of the step before")
    if is_(right * B):
        raise AnswerError(
            "you sum the losses of the batch; take the mean, so that the step does not grow with the batch"
        )
    raise AnswerError("the gradient is not that of the mean loss of the batch; is something detached or scaled?")


def _result(loss: Any, right: float, B: int) -> None:
    if isinstance(loss, Tensor) and loss.requires_grad:
        raise AnswerError(
            "you return a tensor with its graph, which fills the memory over many steps; return loss.item()"
        )
    value = tensor(loss, ()).item()
    if abs(value - right) <= 1e-4 * max(1.0, right):
        return
    if abs(value - right * B) <= 1e-3 * right * B:
        raise AnswerError("you return the sum of the losses; return the mean")
    raise AnswerError(f"you return {value:.4f}, but the mean loss of the batch is {right:.4f}")


class _Small(nn.Module):
    """A network with parameters and a table."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(4))
        self.table: Tensor
        self.register_buffer("table", torch.randn(5))


@exercise
def ema_update(answer: Any) -> str:
    """Random weights at a random update, then the conformance suite's check of the EMA."""
    for n, decay in ((int(torch.randint(0, 20, ())), 0.999), (int(torch.randint(500, 2000, ())), 0.9)):
        network, average = _Small(), _Small()
        weights, averages = ([p.detach().clone() for p in each.parameters()] for each in (network, average))
        try:
            result = call(answer, average, network, n, decay)
        except AnswerError as error:
            if "leaf Variable" in error.message:
                raise AnswerError(
                    "the averaged weights cannot be changed in place while gradients are recorded; work in "
                    "`with torch.no_grad():`"
                ) from None
            raise
        if result is not average:
            raise AnswerError(
                "change `average` in place (lerp_, copy_, or mul_ and add_) and return it; you return something else"
            )
        if any(not torch.equal(p, w) for p, w in zip(network.parameters(), weights, strict=True)):
            raise AnswerError("you change the weights of `network`, which is being trained; change only `average`")
        d = min(decay, (1 + n) / (10 + n))
        flat = [torch.cat([w.flatten() for w in each]) for each in (weights, averages)]
        w, old = flat
        same(
            torch.cat([p.detach().flatten() for p in average.parameters()]),
            d * old + (1 - d) * w,
            "the average must become d · average + (1 − d) · weights, with d = min(decay, (1 + n) / (10 + n))",
            {
                "decay and 1 − decay are swapped: the average keeps d of itself, and gets 1 − d of the new weights": (
                    (1 - d) * old + d * w
                ),
                "the warm-up is missing: d is the smaller one of decay and (1 + n) / (10 + n), small at first": (
                    decay * old + (1 - decay) * w
                ),
                "you never use decay: d is the smaller one of decay and (1 + n) / (10 + n)": (
                    (1 + n) / (10 + n) * old + 9 / (10 + n) * w
                ),
                "you copy the weights; average them with the old average": w,
                "the average does not change": old,
                "you add the new weights without shrinking the old average": old + (1 - d) * w,
                "only the first parameter is averaged; go through all of them": torch.cat(
                    [(d * old + (1 - d) * w)[:6], old[6:]]
                ),
            },
            tol=1e-5,
        )
        if not torch.equal(average.table, network.table):
            raise AnswerError(
                "the buffers are tables that are not learned: copy them from `network`, neither average nor skip them"
            )

    class Average:
        def __init__(self, network: nn.Module, decay: float) -> None:
            self.network, self.decay = copy.deepcopy(network), decay

        def update(self, network: nn.Module, n: int) -> None:
            answer(self.network, network, n, self.decay)

    report = check_ema(Average)
    if not report.passed:
        raise AnswerError(f"{report.mistakes[0]}" if report.mistakes else "the average is wrong after many updates")
    return "with d = 0.99 the average covers about the last 100 steps."


@exercise
def loss_by_level(answer: Any) -> str:
    """Random timesteps; the noise must be the one that is passed."""
    table, network, (x0, eps, label) = cosine(100), _Network(100), _batch(5)
    times: Sequence[int] = sorted(torch.randperm(100)[:4].add(1).tolist())
    yours = run(answer, network, x0, label, eps, list(times), table)

    def losses(times: Sequence[int], eps: Tensor = eps) -> Tensor:
        rows = []
        for t in times:
            batch = torch.full((len(x0),), t)
            with torch.no_grad():
                error = network.predict(process.diffuse(x0, batch, eps, table), batch, label) - x0
            rows.append(error.square().flatten(1).mean(1))
        return torch.stack(rows)

    if isinstance(yours, (list, tuple)):
        raise AnswerError(
            "your function returns a list; make it one tensor: torch.stack for tensors, torch.tensor for numbers"
        )
    if isinstance(yours, Tensor) and yours.ndim == 0:
        raise AnswerError(f"you average over the timesteps; keep one mean for each, ({len(times)},)")
    if isinstance(yours, Tensor) and yours.shape == (len(times), len(x0)):
        raise AnswerError(
            "you keep the loss of each image; average over the batch, and keep one mean for each timestep"
        )
    if isinstance(yours, Tensor) and yours.requires_grad:
        raise AnswerError("you record gradients, which costs time and memory; measure in `with torch.no_grad():`")
    at_once = [(x, t) for x, t, _ in network.inputs if x.shape == x0.shape]
    if at_once and not any(close(x, process.diffuse(x0, t, eps, table)) for x, t in at_once):
        raise AnswerError(
            "you draw your own noise or timesteps; use `eps` as it is passed, and the timesteps in `times`"
        )
    right = losses(times).mean(1)
    same(
        yours,
        right,
        "entry i must be the mean loss of all images at timestep times[i]",
        {
            "you use the place in the list as the timestep; use the timestep itself": losses(range(1, 5)).mean(1),
            "you use the place in the list, from 0, as the timestep; use the timestep itself": losses(range(4)).mean(1),
            "your order is reversed": right.flip(0),
            "only the first image is measured; take the mean over all": losses(times)[:, 0],
            "you sum over the images; take the mean": losses(times).sum(1),
            "your means accumulate: start again at each timestep": right.cumsum(0),
        },
    )
    return "a loss without its noise level is half of the story."


class _PerTimestep(nn.Module):
    """(x_t, t) -> weight[t] · x_t, the best form for Gaussian data; it remembers the weights at each call."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T
        self.weight = nn.Parameter(torch.zeros(T + 1))
        self.history: list[Tensor] = []
        self.times: list[Tensor] = []

    def forward(self, x_t: Any, t: Any) -> Tensor:
        if not isinstance(x_t, Tensor) or x_t.ndim != 4 or not isinstance(t, Tensor) or t.shape != (len(x_t),):
            raise AnswerError("call the network as network(x_t, t), with images (B, C, H, W) and timesteps (B,)")
        if t.is_floating_point():
            raise AnswerError("t must be int64, (B,): torch.randint")
        self.history.append(self.weight.detach().clone())
        self.times.append(t.clone())
        return self.weight[t].view(-1, 1, 1, 1) * x_t


@exercise
def exam(answer: Any) -> str:
    """A training on Gaussian data, where the best weights are known, and the average can be computed again."""
    T, steps, B, std, decay = 4, 350, 32, 0.7 + 0.2 * torch.rand(()).item(), 0.99
    table, network = cosine(T), _PerTimestep(T)
    images = std * torch.randn(2000, 1, 4, 4)
    result = run(answer, network, images, table, steps, B, 0.03, decay)
    if not isinstance(result, nn.Module):
        raise AnswerError(f"return the averaged network, an nn.Module; yours returns {type(result).__name__}")
    calls = len(network.history)
    if calls != steps:
        raise AnswerError(f"the network is called {calls} times in {steps} steps; it must be called once in each step")
    if any(len(t) != B for t in network.times):
        raise AnswerError(f"a batch has {len(network.times[0])} images; it must have batch_size = {B}")
    t = torch.cat(network.times)
    if t.min() < 1 or t.max() > T or len(t.unique()) < T:
        low, high = int(t.min()), int(t.max())
        raise AnswerError(f"your timesteps run from {low} to {high}; draw them from 1 to T = {T}, T included")
    if all(len(each.unique()) == 1 for each in network.times[:20]):
        raise AnswerError("all images of a batch get the same t; draw one for each image")
    last = network.weight.detach()
    if torch.equal(last, network.history[0]):
        raise AnswerError("the weights never change; is optimizer.step() called, on the parameters of `network`?")
    _optimum(last, table, std)
    if result is network:
        raise AnswerError("you return the network that was trained; return its average (EMA), a second network")
    _average(result, [*network.history[1:], last], network.history[0], decay)
    return "train on Gaussian data first: there you know what must come out."


def _optimum(weight: Tensor, table: Schedule, std: float) -> None:
    """AnswerError unless the weights are near the best ones for ε-prediction."""
    a = table.alpha_bar[1:].float()
    alpha, sigma, v = a.sqrt(), (1 - a).sqrt(), a * std**2 + 1 - a
    learned = weight[1:]
    known = {
        "": sigma / v,
        "your network learns to predict x0; in this exam the target is the noise eps": alpha * std**2 / v,
        "your forward process lacks the root: the noise is multiplied by √(1−ᾱ_t), not by 1−ᾱ_t": (1 - a)
        / (a * std**2 + (1 - a) ** 2),
        "your forward process swaps √ᾱ_t and √(1−ᾱ_t)": alpha / (std**2 * (1 - a) + a),
        "the network sees x0 without noise, so it cannot learn anything about eps": torch.zeros_like(a),
        "the network sees the noise without the image; it must get x_t": torch.ones_like(a),
        "the prediction has the wrong sign": -sigma / v,
    }
    distance = {message: (learned - best).abs().max().item() for message, best in known.items()}
    nearest = min(distance, key=lambda message: distance[message])
    if distance[nearest] < 0.2 and nearest:
        raise AnswerError(nearest)
    if distance[""] > 0.2:
        raise AnswerError(
            "after training, the weights are far from the best ones; check the noise, the target, zero_grad, and the "
            "learning rate"
        )


def _average(result: nn.Module, after: list[Tensor], first: Tensor, decay: float) -> None:
    """AnswerError unless the network has the average of the weights after each step."""

    def replay(warm_up: bool, swapped: bool = False) -> Tensor:
        average = first.clone()
        for n, weight in enumerate(after):
            d = min(decay, (1 + n) / (10 + n)) if warm_up else decay
            average = average.lerp(weight, d if swapped else 1 - d)
        return average

    yours = next(iter(result.parameters())).detach()
    if torch.equal(yours, after[-1]):
        raise AnswerError("you return the weights of the last step; return the averaged ones (EMA)")
    if torch.equal(yours, first):
        raise AnswerError("the averaged network still has the initial weights; update it after every step")
    same(
        yours,
        replay(True),
        "the returned weights are not the EMA of the weights after each step; check d_n and the order: step, then EMA",
        {
            "in your EMA, the warm-up is missing: d_n = min(decay, (1 + n) / (10 + n))": replay(False),
            "in your EMA, d and 1 − d are swapped": replay(True, swapped=True),
            "in your EMA, d and 1 − d are swapped, and the warm-up is missing": replay(False, swapped=True),
        },
        tol=2e-5,
    )
