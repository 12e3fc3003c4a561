"""The checks of lab 5: drawing circles, the forward strip, the timestep at the bottleneck, and the walk back."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ...diffusion.process import diffuse, posterior
from ...diffusion.schedule import Schedule, cosine, linear
from ..verdict import AnswerError, call, close, exercise, same, tensor
from .runs import Draws, Network, noise, run


def _int(low: int, high: int) -> int:
    """A random int in low…high."""
    return int(torch.randint(low, high + 1, ()))


def _grid(size: int) -> tuple[Tensor, Tensor]:
    return torch.arange(size).view(-1, 1), torch.arange(size)


def _picture(inside: Tensor) -> Tensor:
    return inside.float() * 2 - 1


@exercise
def draw_circle(answer: Any) -> str:
    """A circle off the centre, with x ≠ y, and one that is cut by the border."""
    for size in (24, 17):
        x, y, r = _int(5, size // 2 - 1), _int(size // 2 + 2, size - 5), _int(3, 6)
        rows, columns = _grid(size)
        dx, dy = (columns - x).abs(), (rows - y).abs()
        right = _picture(dx**2 + dy**2 <= r**2)[None]
        yours = call(answer, x, y, r, size)
        if isinstance(yours, Tensor) and yours.shape == (size, size):
            raise AnswerError(f"your image has shape ({size}, {size}); the channel is missing: (1, {size}, {size})")
        if isinstance(yours, Tensor) and yours.dtype == torch.bool:
            raise AnswerError("your function returns a mask of True and False; turn it into floats −1 and 1")
        yours = tensor(yours, right.shape)
        mistakes = {
            "your pixels are 0 and 1; images in this package are −1 and 1, so scale them by 2 and subtract 1": (
                (right + 1) / 2
            ),
            "your pixels are 0 and 255; images in this package are −1 and 1": (right + 1) * 127.5,
            "your circle is black on white; inside is white (1)": -right,
            "x and y are swapped: x is the column and y the row; an image is indexed [channel, row, column]": (
                _picture((columns - y) ** 2 + (rows - x) ** 2 <= r**2)[None]
            ),
            "pixels at exactly the distance r are missing: use <=": _picture(dx**2 + dy**2 < r**2)[None],
            "you compare the squared distance with r; compare it with r²": _picture(dx**2 + dy**2 <= r)[None],
            "this is a diamond: the distance is the root of the sum of squares, not |dx| + |dy|": _picture(
                dx + dy <= r
            )[None],
            "this is a square: the distance is the root of the sum of squares, not the larger one of |dx| and |dy|": (
                _picture(torch.maximum(dx.expand(size, size), dy.expand(size, size)) <= r)[None]
            ),
            "this is the outline only; fill the circle": _picture(
                (dx**2 + dy**2 <= r**2) & (dx**2 + dy**2 > (r - 1) ** 2)
            )[None],
            "your radius is used as a diameter": _picture(4 * (dx**2 + dy**2) <= r**2)[None],
        }
        same(_batch(yours), _batch(right), "the white pixels are not those at a distance of at most r from (x, y)", {
            message: _batch(typical) for message, typical in mistakes.items()
        })  # fmt: skip
    return "a mask and a range: that is a data set without a single file."


def _batch(image: Tensor) -> Tensor:
    return image[None]  # (1, 1, H, W), so that a wrong answer is drawn


@exercise
def place(answer: Any) -> str:
    """Many draws: the smallest and the largest centre must occur, and nothing beyond."""
    radius, size = _int(3, 5), 16
    low, high = radius, size - 1 - radius
    generator = torch.Generator().manual_seed(_int(0, 2**31 - 1))
    state = torch.random.get_rng_state()
    found = []
    for _ in range(300):
        result = call(answer, radius, size, generator)
        if isinstance(result, Tensor) and result.shape == (2,):
            result = result.tolist()
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise AnswerError("your function must return two numbers, x and y: return x, y")
        if not all(float(value).is_integer() for value in (tensor(v, ()) for v in result)):
            raise AnswerError("the centre must be a pixel, so x and y are whole numbers; torch.randint draws them")
        found.append((int(result[0]), int(result[1])))
    xs, ys = [x for x, _ in found], [y for _, y in found]
    smallest, largest = min(xs + ys), max(xs + ys)
    if smallest == 0 or largest == size - 1:
        raise AnswerError(
            "your centre may be anywhere in the image, so circles are cut at the border; keep the radius free"
        )
    if smallest < low or largest > high:
        raise AnswerError(
            f"with radius {radius} and size {size}, your centres run from {smallest} to {largest}; they may only run "
            f"from {low} to {high}, or the circle is cut at the border"
        )
    if not torch.equal(state, torch.random.get_rng_state()):
        raise AnswerError(
            "your random numbers do not come from the generator; pass generator=generator to torch.randint"
        )
    if len(set(found)) == 1:
        raise AnswerError("every call returns the same place; do not set a seed in the function")
    if all(x == y for x, y in found):
        raise AnswerError("x and y are always equal; draw two numbers")
    if largest < high:
        raise AnswerError(
            f"the centre {high} never occurs: the circle then ends at pixel {size - 1}, which is still inside. The "
            "upper end of torch.randint is excluded"
        )
    if smallest > low:
        raise AnswerError(f"the centre {low} never occurs: the circle then starts at pixel 0, which is still inside")
    return f"{high - low + 1} columns and as many rows are possible for this radius."


@exercise
def forward_strip(answer: Any) -> str:
    """A strip that starts at t = 0, with one noise."""
    table = cosine(200) if torch.rand(()) < 0.5 else linear(200, 1e-3, 0.05)
    times = [0, _int(10, 40), _int(60, 100), _int(120, 180)]
    x0, eps = torch.rand(1, 8, 8) * 2 - 1, torch.randn(1, 8, 8)
    a = table.alpha_bar[times].float().view(-1, 1, 1, 1)
    try:
        yours = call(answer, x0, list(times), eps, table)
    except AnswerError as error:
        if "must match the size" in error.message:
            message = "ᾱ of the strip has the shape (len(times),); with .view(-1, 1, 1, 1) it multiplies images"
            raise AnswerError(message) from None
        raise
    if isinstance(yours, (list, tuple)):
        raise AnswerError("your function returns a list of pictures; stack them into one tensor: torch.stack(…)")
    right = a.sqrt() * x0 + (1 - a).sqrt() * eps
    piled = [x0]
    for weight in a[1:]:
        piled.append(weight.sqrt() * piled[-1] + (1 - weight).sqrt() * eps)
    before, wrapped = (
        table.alpha_bar[[max(t - 1, lowest) for t in times]].float().view(-1, 1, 1, 1) for lowest in (0, -1)
    )
    same(
        yours,
        right,
        "x_t is √ᾱ_t x₀ + √(1−ᾱ_t) ε, from the clean image for every t",
        {
            "the root of the noise is missing: it is √(1−ᾱ_t) ε, not (1−ᾱ_t) ε": a.sqrt() * x0 + (1 - a) * eps,
            "both roots are missing: √ᾱ_t x₀ + √(1−ᾱ_t) ε": a * x0 + (1 - a) * eps,
            "√ᾱ_t and √(1−ᾱ_t) are swapped: at t = 0 the image must be clean": (1 - a).sqrt() * x0 + a.sqrt() * eps,
            "you add noise to an image that does not shrink; x₀ is multiplied by √ᾱ_t": x0 + (1 - a).sqrt() * eps,
            "each picture is made from the one before; make each from the clean image x0": torch.stack(piled),
            "you add noise of β_t of a single step; after t steps it is 1 − ᾱ_t": (
                (1 - table.beta[times]).sqrt().float().view(-1, 1, 1, 1) * x0
                + table.beta[times].sqrt().float().view(-1, 1, 1, 1) * eps
            ),
            "t is off by one: ᾱ_t is schedule.alpha_bar[t], and index 0 is the clean image": (
                before.sqrt() * x0 + (1 - before).sqrt() * eps
            ),
            "t is off by one: ᾱ_t is schedule.alpha_bar[t]; index −1 is the last entry, pure noise": (
                wrapped.sqrt() * x0 + (1 - wrapped).sqrt() * eps
            ),
        },
    )
    return "the same noise, more and more of it, and less and less of the image."


@exercise
def add_time(answer: Any) -> str:
    """C, H and W differ, and then are equal to B, where wrong broadcasting raises no error."""
    T = 1000
    weight = torch.randn(1)
    for B, C, size in ((4, 6, (3, 5)), (4, 4, (4, 4))):
        h, t = torch.randn(B, C, *size), torch.randperm(T)[:B] + 1
        pattern = torch.randn(C)

        def mlp(time: Any, pattern: Tensor = pattern, B: int = B) -> Tensor:
            if not isinstance(time, Tensor) or time.shape != (B, 1):
                shape = tuple(time.shape) if isinstance(time, Tensor) else type(time).__name__
                raise AnswerError(f"the MLP needs one column, a tensor ({B}, 1); you pass {shape}: .view(-1, 1)")
            if not time.is_floating_point():
                raise AnswerError("the MLP needs floats; t holds integers: t.float()")
            return torch.sin(3 * time * pattern + weight)

        def result(time: Tensor, mlp: Callable[[Tensor], Tensor] = mlp) -> Tensor:
            return mlp(time.float().view(-1, 1))[:, :, None, None]

        right = h + result(t / T)
        mistakes = {
            "the MLP gets t; it needs t/T, a number between 0 and 1": h + result(t),
            "you multiply the features; add the timestep to them": h * result(t / T),
            "all images get the timestep of the first; each has its own": h + result(t[:1].expand(B) / T),
            "h itself is lost: return h plus the result of the MLP": result(t / T).expand_as(h),
            "the timestep has no effect: add the result of the MLP to h": h,
            "you divide by T twice": h + result(t / T / T),
            "the MLP gets 1 − t/T; it needs t/T": h + result(1 - t / T),
        }
        if size == (4, 4):
            time = result(t / T)[:, :, 0, 0]
            mistakes["(B, C) is broadcast along H and W; with [:, :, None, None] it belongs to images and channels"] = (
                h + time
            )
        try:
            yours = call(answer, h, t, mlp, T)
        except AnswerError as error:
            if "must match the size" in error.message:
                message = "(B, C) does not broadcast with (B, C, H, W); give it two dimensions with [:, :, None, None]"
                raise AnswerError(message) from None
            raise
        same(yours, right, "the result is not h + mlp(t/T), broadcast over H and W", mistakes)
    return "one number for each channel, the same at all positions: the timestep says how noisy, not where."


Pictures = list[tuple[int, Tensor, Tensor]]  # (s, x_s, x̂₀)


def _walk(
    network: Network,
    x: Tensor,
    times: list[int],
    table: Schedule,
    seed: int,
    scale: Callable[[float], float] = math.sqrt,
    last_noise: bool = False,
) -> Pictures:
    """The right walk back, or one with another factor of the noise."""
    steps: Pictures = []
    for t, s in pairwise(times):
        x0 = network.predict(x, t)
        mean, variance = posterior(x0, x, t, s, table)
        if last_noise and s == 0:
            variance = posterior(x0, x, t, 1, table)[1] if t > 1 else variance
        x = mean + scale(variance) * noise(seed, t, x) if s or last_noise else mean
        steps.append((s, x, x0))
    return steps


def _equal(a: Pictures, b: Pictures) -> bool:
    return len(a) == len(b) and all(
        s == u and close(x, y.double(), 1e-3) and close(x0, y0.double(), 1e-3)
        for (s, x, x0), (u, y, y0) in zip(a, b, strict=True)
    )


@exercise
def walk_back(answer: Any) -> str:
    """A walk with long steps through a known network; every yielded picture is compared."""
    table = cosine(_int(60, 120))
    shape = (2, 1, 8, 8)
    T, seed = table.T, _int(0, 10_000)
    times = [T, T - _int(8, 15), T // 2, T // 3, _int(4, 9), 0]
    network, x_T, draws = Network(table, shape), torch.randn(shape), Draws(seed)
    start = x_T.clone()
    result = run(answer, network, x_T, list(times), table, draws)
    if isinstance(result, Tensor):
        raise AnswerError("your function returns an image; return the list of all steps")
    if not isinstance(result, (list, tuple)):
        raise AnswerError(f"return the list of steps; yours is {type(result).__name__}")
    if not result:
        raise AnswerError("your list is empty; is the loop filled in? Append a step in every turn")
    yours: Pictures = []
    for step in result:
        if not isinstance(step, tuple) or len(step) != 3:
            raise AnswerError("append sd.samplers.Step(s, x, x0) in every turn")
        if not isinstance(step[0], int):
            raise AnswerError("the first field of a step is the timestep s, an int")
        yours.append((step[0], tensor(step[1], shape, "the x of a step"), tensor(step[2], shape, "the x0 of a step")))
    if len(yours) != len(times) - 1:
        raise AnswerError(
            f"your list has {len(yours)} steps; {len(times) - 1} are needed, one for each interval of times"
        )
    if [s for s, _, _ in yours] == times[:-1]:
        raise AnswerError("your steps hold t, where the step starts; store s, where it lands")
    right = _walk(network, start, times, table, seed)
    if _equal(yours, right):
        return "every picture on the way is worth a look: coarse first, fine last."
    known = {
        "no noise is added; x_s is the mean plus noise of the variance": _walk(
            network, start, times, table, seed, scale=lambda v: 0.0
        ),
        "you multiply the noise by the variance; its root, the standard deviation, is right": _walk(
            network, start, times, table, seed, scale=lambda v: v
        ),
        "you add the noise with the factor 1; multiply it by the root of the variance": _walk(
            network, start, times, table, seed, scale=lambda v: 1.0
        ),
    }
    for message, typical in known.items():
        if _equal(yours, typical):
            raise AnswerError(message, yours[-1][1], right[-1][1].double())
    if all(close(x, yours[-1][1]) for _, x, _ in yours):
        raise AnswerError(
            "all pictures in your list are the same: one tensor is changed in place again and again. Make a new tensor "
            "in each step"
        )
    if _equal(yours, [(s, x0, x0) for s, _, x0 in right]):
        raise AnswerError("x and x0 of your steps are the same; x is the image with the noise of s")
    if _equal(yours, [(s, x0, x) for s, x, x0 in right]):
        raise AnswerError("x and x0 are swapped in your steps: Step(s, x, x0)")
    before = [start, *[x for _, x, _ in right[:-1]]]
    if _equal(yours, [(s, x, x0) for (s, _, x0), x in zip(right, before, strict=True)]):
        raise AnswerError("you store the image before the step; store x_s, where the step lands")
    if _equal(yours[:-1], right[:-1]):
        raise AnswerError("the last step adds noise, which stays in the image as grain; add it only if s > 0")
    if network.times and network.times != times[:-1]:
        raise AnswerError("the denoiser must get the timestep of x, which is t; yours gets others")
    raise AnswerError(
        "the images are wrong; the step is: x0 from the denoiser, mean and variance from the posterior, plus noise",
        yours[-1][1],
        right[-1][1].double(),
    )


@exercise
def exam(answer: Any) -> str:
    """Squares, their noise, and the walk back from the middle of the schedule."""
    table, size, B = cosine(100), 12, 3
    left, top = torch.randint(0, 3, (B,)), torch.randint(4, 7, (B,))
    side = torch.randint(3, 6, (B,))
    eps, seed = torch.randn(B, 1, size, size), _int(0, 10_000)
    times = [_int(50, 70), 30, 9, 0]
    network, draws = Network(table, (B, 1, size, size)), Draws(seed)
    result = run(answer, left, top, side, size, eps, network, list(times), table, draws)
    if not isinstance(result, (tuple, list)) or len(result) != 3:
        raise AnswerError("return three tensors: return x0, x_t, result")
    shape = (B, 1, size, size)
    x0, x_t, image = (tensor(each, shape, name) for each, name in zip(result, ("x0", "x_t", "the result"), strict=True))
    rows, columns = _grid(size)
    l, u, n = (value.view(-1, 1, 1, 1) for value in (left, top, side))  # noqa: E741

    def squares(a: Tensor, b: Tensor, n: Tensor) -> Tensor:
        return _picture((columns >= a) & (columns < a + n) & (rows >= b) & (rows < b + n))

    right = squares(l, u, n)
    same(
        x0,
        right,
        "x0 is wrong: a square covers the columns left…left + side − 1 and the rows top…top + side − 1",
        {
            "your squares are one pixel too large: the last column is left + side − 1": squares(l, u, n + 1),
            "your squares are one pixel too small: the first column is left itself": squares(l + 1, u + 1, n - 1),
            "left and top are swapped: left is about columns, top about rows": squares(u, l, n),
            "your pixels are 0 and 1; they must be −1 and 1": (right + 1) / 2,
            "your squares are black on white": -right,
            "all your squares have the size of the first": squares(l, u, n[:1]),
            "left and top are used as the centre; they are the corner": squares(l - n // 2, u - n // 2, n),
        },
    )
    a = table.alpha_bar[times[0]].item()
    end = table.alpha_bar[table.T].item()
    noisy = diffuse(right, times[0], eps, table)
    same(
        x_t,
        noisy,
        "x_t is wrong: √ᾱ_t x₀ + √(1−ᾱ_t) ε with t = times[0]",
        {
            "the root of the noise is missing: √(1−ᾱ_t) ε": math.sqrt(a) * right + (1 - a) * eps,
            "both roots are missing: √ᾱ_t x₀ + √(1−ᾱ_t) ε": a * right + (1 - a) * eps,
            "you noise the squares to T; the walk starts at times[0]": math.sqrt(end) * right
            + math.sqrt(1 - end) * eps,
            "x_t is the noise alone; the squares are missing": eps,
            "x_t is the clean image; add the noise": right,
        },
    )
    walk = _walk(network, noisy, times, table, seed)[-1][1]
    same(
        image,
        walk,
        "the squares and their noise are right, but the walk back is not; compare it with walk_back",
        {
            "the walk starts from pure noise; it starts from x_t": _walk(network, eps, times, table, seed)[-1][1],
            "the walk starts from x0; it starts from x_t": _walk(network, right, times, table, seed)[-1][1],
            "the walk adds no noise": _walk(network, noisy, times, table, seed, scale=lambda v: 0.0)[-1][1],
            "the noise in the walk is multiplied by the variance, not by its root": (
                _walk(network, noisy, times, table, seed, scale=lambda v: v)[-1][1]
            ),
            "the result is a single prediction from x_t; walk back in steps": network.predict(noisy, times[0]),
        },
        tol=1e-3,
    )
    return "draw, noise, denoise: with these three you can vary any image."
