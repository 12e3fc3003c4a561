"""Right and wrong answers to the exercises of lab 5."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

import shapedreamer as sd
from tests.labs.answers import Answers

Step = sd.samplers.Step


# draw_circle


def with_meshgrid(x: int, y: int, radius: int, size: int) -> Any:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = torch.sqrt(((columns - x).double() ** 2) + (rows - y) ** 2)
    return torch.where(distance <= radius, 1.0, -1.0).unsqueeze(0)


def with_loops(x: int, y: int, radius: int, size: int) -> Any:
    image = torch.full((1, size, size), -1.0)
    for row in range(size):
        for column in range(size):
            if math.hypot(column - x, row - y) <= radius:
                image[0, row, column] = 1
    return image


def diamond(x: int, y: int, radius: int, size: int) -> Any:
    rows, columns = torch.arange(size).view(-1, 1), torch.arange(size)
    return (((columns - x).abs() + (rows - y).abs() <= radius).float() * 2 - 1)[None]


def strictly(x: int, y: int, radius: int, size: int) -> Any:
    rows, columns = torch.arange(size).view(-1, 1), torch.arange(size)
    return (((columns - x) ** 2 + (rows - y) ** 2 < radius**2).float() * 2 - 1)[None]


def squared(x: int, y: int, radius: int, size: int) -> Any:
    rows, columns = torch.arange(size).view(-1, 1), torch.arange(size)
    return (((columns - x) ** 2 + (rows - y) ** 2 <= radius).float() * 2 - 1)[None]


# place


def two_draws(radius: int, size: int, generator: Any) -> Any:
    x = torch.randint(radius, size - radius, (), generator=generator)
    y = torch.randint(radius, size - radius, (), generator=generator)
    return x, y


class Place:
    def __call__(self, radius: int, size: int, generator: Any) -> Any:
        return [int(radius + float(u) * (size - 2 * radius)) for u in torch.rand(2, generator=generator)]


def place_with(low: Any, high: Any, **changes: Any) -> Any:
    def wrong(radius: int, size: int, generator: Any) -> Any:
        options = {"generator": generator, **changes}
        return tuple(torch.randint(low(radius, size), high(radius, size), (2,), **options).tolist())

    return wrong


def diagonal(radius: int, size: int, generator: Any) -> Any:
    x = int(torch.randint(radius, size - radius, (), generator=generator))
    return x, x


def fractions(radius: int, size: int, generator: Any) -> Any:
    return tuple((radius + torch.rand(2, generator=generator) * (size - 1 - 2 * radius)).tolist())


# forward_strip


def with_loop(x0: Any, times: Any, eps: Any, schedule: Any) -> Any:
    return torch.stack([sd.process.diffuse(x0, t, eps, schedule) for t in times])


def in_place(x0: Any, times: Any, eps: Any, schedule: Any) -> Any:
    out = x0.double().repeat(len(times), 1, 1, 1)
    for i, t in enumerate(times):
        out[i] *= schedule.alpha_bar[t].sqrt()
        out[i] += (1 - schedule.alpha_bar[t]).sqrt() * eps
    return out


def strip_with(combine: Any) -> Any:
    def wrong(x0: Any, times: Any, eps: Any, schedule: Any) -> Any:
        a = schedule.alpha_bar[times].float().view(-1, 1, 1, 1)
        return combine(a, x0, eps)

    return wrong


def piled_up(x0: Any, times: Any, eps: Any, schedule: Any) -> Any:
    x, pictures = x0, []
    for t in times:
        x = sd.process.diffuse(x, t, eps, schedule)
        pictures.append(x)
    return torch.stack(pictures)


def one_before(x0: Any, times: Any, eps: Any, schedule: Any) -> Any:
    a = schedule.alpha_bar[[t - 1 for t in times]].float().view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def with_beta(x0: Any, times: Any, eps: Any, schedule: Any) -> Any:
    beta = schedule.beta[times].float().view(-1, 1, 1, 1)
    return (1 - beta).sqrt() * x0 + beta.sqrt() * eps


# add_time


def unsqueezed(h: Any, t: Any, mlp: Any, T: int) -> Any:
    return h + mlp(t.unsqueeze(1) / T).unsqueeze(-1).unsqueeze(-1).expand_as(h)


def added_in_place(h: Any, t: Any, mlp: Any, T: int) -> Any:
    B, C = h.shape[:2]
    h += mlp(t.float()[:, None].div(T)).view(B, C, 1, 1)
    return h


def add_with(combine: Any) -> Any:
    return lambda h, t, mlp, T: combine(h, mlp((t / T).view(-1, 1))[:, :, None, None])


# walk_back


def walk(denoise: Any, x_T: Any, times: Any, schedule: Any, generator: Any) -> Any:
    """By hand, with numbers instead of sd.process.posterior."""
    steps, x = [], x_T
    for i in range(len(times) - 1):
        t, s = times[i], times[i + 1]
        a, b = float(schedule.alpha_bar[t]), float(schedule.alpha_bar[s])
        beta = 1 - a / b
        x0 = denoise(x, torch.tensor([t] * len(x)))
        x = (b**0.5 * beta * x0 + (1 - beta) ** 0.5 * (1 - b) * x) / (1 - a)
        if s:
            x = x + generator(t, like=x) * ((1 - b) / (1 - a) * beta) ** 0.5
        steps.append((s, x, x0))
    return steps


def with_generator(denoise: Any, x_T: Any, times: Any, schedule: Any, generator: Any) -> Any:
    """A generator, with the package's sampler."""
    yield from sd.samplers.ddpm(denoise, schedule, x_T, times, generator=generator)


def walk_with(
    factor: Callable[[float, int], float] = lambda v, s: v**0.5 if s else 0.0,
    store: Callable[..., Any] = lambda t, s, before, x, x0: Step(s, x, x0),
    at: Callable[[int, int], int] = lambda t, s: t,
) -> Any:
    def wrong(denoise: Any, x_T: Any, times: Any, schedule: Any, generator: Any) -> Any:
        steps, x = [], x_T
        for t, s in pairwise(times):
            before = x
            x0 = denoise(x, torch.full((len(x),), at(t, s)))
            x, variance = sd.process.posterior(x0, x, t, s, schedule)
            x = x + factor(variance, s) * generator(t, like=x)
            steps.append(store(t, s, before, x, x0))
        return steps

    return wrong


def same_tensor(denoise: Any, x_T: Any, times: Any, schedule: Any, generator: Any) -> Any:
    steps, x = [], x_T.clone()
    for step in walk(denoise, x_T, times, schedule, generator):
        x.copy_(step[1])
        steps.append(Step(step[0], x, step[2]))
    return steps


def int_time(denoise: Any, x_T: Any, times: Any, schedule: Any, generator: Any) -> Any:
    return [Step(0, denoise(x_T, times[0]), x_T)]


# exam


def squares(left: Any, top: Any, side: Any, size: int) -> Any:
    images = torch.full((len(left), 1, size, size), -1.0)
    for image, a, b, n in zip(images, left.tolist(), top.tolist(), side.tolist(), strict=True):
        image[0, b : b + n, a : a + n] = 1
    return images


def exam(
    left: Any,
    top: Any,
    side: Any,
    size: int,
    eps: Any,
    denoise: Any,
    times: Any,
    schedule: Any,
    generator: Any,
    draw: Any = squares,
    noisy: Any = sd.process.diffuse,
    start: Any = lambda x0, x_t, eps: x_t,
    back: Any = walk,
) -> Any:
    x0 = draw(left, top, side, size)
    x_t = noisy(x0, times[0], eps, schedule)
    return x0, x_t, back(denoise, start(x0, x_t, eps), times, schedule, generator)[-1][1]


def exam_sampler(
    left: Any, top: Any, side: Any, size: int, eps: Any, denoise: Any, times: Any, schedule: Any, generator: Any
) -> Any:
    x0 = squares(left, top, side, size)
    alpha, sigma = schedule.alpha_sigma(times[0], like=x0)
    x_t = alpha * x0 + sigma * eps
    return [x0, x_t, sd.samplers.sample(sd.samplers.ddpm(denoise, schedule, x_t, times, generator=generator))]


def exam_with(**changes: Any) -> Any:
    return lambda *arguments: exam(*arguments, **changes)


def without_root(x0: Any, t: int, eps: Any, schedule: Any) -> Any:
    a = schedule.alpha_bar[t].item()
    return a**0.5 * x0 + (1 - a) * eps


ANSWERS = {
    "draw_circle": Answers(
        right=[with_meshgrid, with_loops],
        wrong=[
            (lambda x, y, r, size: with_loops(y, x, r, size), "swapped"),
            (lambda x, y, r, size: (with_loops(x, y, r, size) + 1) / 2, "0 and 1"),
            (lambda x, y, r, size: (with_loops(x, y, r, size) + 1) * 127.5, "0 and 255"),
            (lambda x, y, r, size: -with_loops(x, y, r, size), "black on white"),
            (lambda x, y, r, size: with_loops(x, y, r, size)[0], "the channel is missing"),
            (lambda x, y, r, size: with_loops(x, y, r, size) > 0, "True and False"),
            (diamond, "diamond"),
            (strictly, "use <="),
            (squared, "with r²"),
            (lambda x, y, r, size: with_loops(x, y, r + 2, size), "at most r"),
        ],
    ),
    "place": Answers(
        right=[two_draws, Place()],
        wrong=[
            (place_with(lambda r, size: 0, lambda r, size: size), "anywhere in the image"),
            (place_with(lambda r, size: r, lambda r, size: size - r - 1), "never occurs"),
            (place_with(lambda r, size: r + 1, lambda r, size: size - r), "never occurs"),
            (place_with(lambda r, size: r, lambda r, size: size - r + 1), "may only run"),
            (place_with(lambda r, size: r, lambda r, size: size - r, generator=None), "do not come from the generator"),
            (diagonal, "always equal"),
            (fractions, "whole numbers"),
            (lambda r, size, generator: size // 2, "two numbers"),
            (lambda r, size, generator: (size // 2, size // 2), "the same place"),
        ],
    ),
    "forward_strip": Answers(
        right=[with_loop, in_place],
        wrong=[
            (strip_with(lambda a, x0, eps: a.sqrt() * x0 + (1 - a) * eps), "root of the noise"),
            (strip_with(lambda a, x0, eps: a * x0 + (1 - a) * eps), "both roots"),
            (strip_with(lambda a, x0, eps: (1 - a).sqrt() * x0 + a.sqrt() * eps), "swapped"),
            (strip_with(lambda a, x0, eps: x0 + (1 - a).sqrt() * eps), "does not shrink"),
            (piled_up, "from the one before"),
            (with_beta, "single step"),
            (lambda x0, times, eps, schedule: list(with_loop(x0, times, eps, schedule)), "torch.stack"),
            (lambda x0, times, eps, s: with_loop(x0, [max(t - 1, 0) for t in times], eps, s), "off by one"),
            (one_before, "the last entry"),
            (lambda x0, times, eps, s: s.alpha_bar[times].sqrt() * x0, ".view(-1, 1, 1, 1)"),
        ],
    ),
    "add_time": Answers(
        right=[unsqueezed, added_in_place],
        wrong=[
            (lambda h, t, mlp, T: h + mlp(t.float().view(-1, 1))[:, :, None, None], "it needs t/T"),
            (lambda h, t, mlp, T: h + mlp(t / T)[:, :, None, None], "one column"),
            (lambda h, t, mlp, T: h + mlp(t.view(-1, 1))[:, :, None, None], "t.float()"),
            (lambda h, t, mlp, T: h + mlp((t / T).view(-1, 1)), "does not broadcast"),
            (add_with(lambda h, time: h * time), "you multiply"),
            (add_with(lambda h, time: time.expand_as(h)), "h itself is lost"),
            (add_with(lambda h, time: h), "no effect"),
            (add_with(lambda h, time: h + time[:, :, 0, 0] if h.shape[1] == 4 else h + time), "[:, :, None, None]"),
            (lambda h, t, mlp, T: h + mlp((t * 0 + t[0]).view(-1, 1) / T)[:, :, None, None], "each has its own"),
        ],
    ),
    "walk_back": Answers(
        right=[walk, with_generator],
        wrong=[
            (walk_with(factor=lambda v, s: 0.0), "no noise is added"),
            (walk_with(factor=lambda v, s: v), "the variance"),
            (walk_with(factor=lambda v, s: 1.0 if s else 0.0), "factor 1"),
            (walk_with(factor=lambda v, s: v**0.5 if s else 0.1), "as grain"),
            (walk_with(store=lambda t, s, before, x, x0: Step(t, x, x0)), "where the step starts"),
            (walk_with(store=lambda t, s, before, x, x0: Step(s, before, x0)), "before the step"),
            (walk_with(store=lambda t, s, before, x, x0: Step(s, x0, x)), "swapped"),
            (walk_with(store=lambda t, s, before, x, x0: Step(s, x0, x0)), "the same; x is"),
            (walk_with(store=lambda t, s, before, x, x0: x), "append sd.samplers.Step"),
            (walk_with(at=lambda t, s: max(s, 1)), "which is t"),
            (same_tensor, "in place again"),
            (int_time, "int64 tensor"),
            (lambda *arguments: walk(*arguments)[-1][1], "list of all steps"),
            (lambda *arguments: walk(*arguments)[-1:], "one for each interval"),
            (lambda *arguments: [], "empty"),
        ],
    ),
    "exam": Answers(
        right=[exam, exam_sampler],
        wrong=[
            (exam_with(draw=lambda a, b, n, size: squares(b, a, n, size)), "swapped"),
            (exam_with(draw=lambda a, b, n, size: squares(a, b, n + 1, size)), "too large"),
            (exam_with(draw=lambda a, b, n, size: squares(a, b, n, size).clamp(min=0)), "0 and 1"),
            (exam_with(noisy=without_root), "root of the noise"),
            (exam_with(noisy=lambda x0, t, eps, s: sd.process.diffuse(x0, s.T, eps, s)), "to T"),
            (exam_with(start=lambda x0, x_t, eps: eps), "from pure noise"),
            (exam_with(start=lambda x0, x_t, eps: x0), "starts from x0"),
            (exam_with(back=walk_with(factor=lambda v, s: 0.0)), "adds no noise"),
            (lambda *arguments: exam(*arguments)[:2], "three tensors"),
        ],
    ),
}
