"""The checks of lab 0, Noise."""

import math
from typing import Any

import torch
from torch import Tensor

from ...diffusion import schedule as schedules
from ..verdict import AnswerError, call, exercise, same

SHAPE = (4, 1, 8, 8)


@exercise
def to_images(answer: Any) -> str:
    """Random pixels of a size that is not square, with 0 and 255 among them."""
    pixels = torch.randint(0, 256, (3, 6, 8, 3), dtype=torch.uint8)
    pixels[0, 0, 0] = torch.tensor([0, 255, 128], dtype=torch.uint8)
    yours = call(answer, pixels)
    if isinstance(yours, Tensor):
        if yours.shape == pixels.shape:
            raise AnswerError("the channels are still last; .permute(0, 3, 1, 2) puts them first")
        if yours.dtype == torch.uint8:
            raise AnswerError(
                "your images are still uint8, which has no fractions and no negative numbers; use .float()"
            )
    p = pixels.permute(0, 3, 1, 2)
    x = p.double()
    mistakes: dict[str, Tensor] = {
        "your images are in [0, 1]; stretch them to [−1, 1], where black is −1": x / 255,
        "your images are in [0, 2]; subtract 1": x / 127.5,
        "your images are in [−0.5, 0.5]; the range must be [−1, 1]": x / 255 - 0.5,
        "your images are in [−1, 0]; divide by 127.5, not by 255": x / 255 - 1,
        "black is 1 and white is −1 in your images; it must be the other way round": 1 - x / 127.5,
        "you calculate with uint8, which wraps around at 256; convert to float first": (2 * p).double() / 255 - 1,
        "the range is still 0…255; divide by 127.5 and subtract 1": x,
    }
    for divisor in (127, 128):
        mistakes[f"you divide by {divisor}; 255 must become exactly 1, so divide by 127.5"] = x / divisor - 1
    message = "the values are wrong: 0 must become −1, and 255 must become 1"
    if isinstance(yours, Tensor) and tuple(yours.shape) == (3, 3, 6, 8):
        flat = pixels.reshape(3, 3, 6, 8).double() / 127.5 - 1
        mistakes["you used reshape or view, which mixes up the pixels; permute moves the channels"] = flat
    if isinstance(yours, Tensor) and tuple(yours.shape) == (3, 3, 8, 6):
        raise AnswerError("your images are turned: height and width are swapped; use .permute(0, 3, 1, 2)")
    same(yours, x / 127.5 - 1, message, mistakes, tol=1e-5)
    return "convert to float before you calculate: bytes wrap around at 256, without an error."


@exercise
def noise_step(answer: Any) -> str:
    """One step with a random β, given as a float."""
    for low in (0.02, 0.3):
        beta = low + 0.3 * torch.rand(()).item()
        x, eps = torch.rand(SHAPE) * 2 - 1, torch.randn(SHAPE)
        yours = call(answer, x, beta, eps)
        shrunk, root = math.sqrt(1 - beta), math.sqrt(beta)
        mistakes = {
            "the root of β_t is missing: the noise must have the variance β_t": shrunk * x + beta * eps,
            "the root of 1−β_t is missing in the factor of the image": (1 - beta) * x + root * eps,
            "both roots are missing: √(1−β_t) and √β_t": (1 - beta) * x + beta * eps,
            "the factors are swapped: √(1−β_t) belongs to the image, √β_t to the noise": root * x + shrunk * eps,
            "the image is not shrunk, so the variance grows with every step; multiply it by √(1−β_t)": x + root * eps,
            "the noise is missing: add √β_t ε": shrunk * x,
            "the image is multiplied by 1−√β_t; it is √(1−β_t)": (1 - root) * x + root * eps,
            "you subtract the noise; its sign makes no difference to the distribution, but add it": shrunk * x
            - root * eps,
            "you add the noise unscaled; multiply it by √β_t": shrunk * x + eps,
        }
        same(yours, shrunk * x + root * eps, "x_t = √(1−β_t) x + √β_t ε", mistakes)
    return "with both roots, data of variance 1 keep the variance 1."


@exercise
def make_alpha_bar(answer: Any) -> str:
    """The table of a random schedule: its length, its first entry, its values and its precision."""
    T = int(torch.randint(20, 200, ()))
    beta = torch.linspace(1e-4, 0.02 + 0.2 * torch.rand(()).item(), T, dtype=torch.float64)
    product = torch.cumprod(1 - beta, 0)
    one = torch.ones(1, dtype=torch.float64)
    yours = call(answer, beta)
    if isinstance(yours, (list, tuple)):
        raise AnswerError("return a tensor, not a list: torch.tensor(values, dtype=torch.float64)")
    if isinstance(yours, Tensor) and yours.shape == product.shape:
        if torch.allclose(yours.double(), product, atol=1e-6):
            raise AnswerError("ᾱ₀ = 1 is missing: put a 1 in front, so that entry t of the table is timestep t")
        if torch.allclose(yours.double(), torch.cat([one, product[:-1]]), atol=1e-6):
            raise AnswerError("the last entry, ᾱ_T, is missing: the table has T + 1 entries")
    mistakes = {
        "this is the cumulative product of β; take that of 1−β": torch.cat([one, torch.cumprod(beta, 0)]),
        "this is 1−β, of single steps; ᾱ is the cumulative product": torch.cat([one, 1 - beta]),
        "this is 1 − (β₁ + … + β_t); the steps are multiplied, not added": torch.cat([one, 1 - torch.cumsum(beta, 0)]),
        "ᾱ₀ must be 1, the clean image; yours is 0": torch.cat([0 * one, product]),
        "this is √ᾱ; the table holds ᾱ, without a root": torch.cat([one, product]).sqrt(),
        "this is 1−ᾱ, the share of the noise; ᾱ is that of the image": 1 - torch.cat([one, product]),
        "the 1 stands at the end; ᾱ₀ = 1 is the first entry": torch.cat([product, one]),
        "this is exp(−(β₁ + … + β_t)), which is only close to the product of 1−β": torch.cat(
            [one, torch.exp(-torch.cumsum(beta, 0))]
        ),
    }
    same(yours, torch.cat([one, product]), "ᾱ_t = (1−β₁) ⋯ (1−β_t), with ᾱ₀ = 1 in front", mistakes, tol=1e-6)
    if yours.dtype != torch.float64:
        raise AnswerError(
            f"the values are right, but keep the table in float64, not {yours.dtype}: 1 − ᾱ₁ needs the digits"
        )
    return "ᾱ_t is the share of the image in the variance of x_t, and ᾱ₀ = 1 is the clean image."


@exercise
def diffuse(answer: Any) -> str:
    """Images at different timesteps, among them t = 0 and t = T."""
    T = int(torch.randint(50, 400, ()))
    table = schedules.cosine(T).alpha_bar
    x0, eps = torch.rand(SHAPE) * 2 - 1, torch.randn(SHAPE)
    t = torch.cat([torch.tensor([0, T]), torch.randint(T // 4, 3 * T // 4, (2,))])

    def shaped(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    a = shaped(table[t])
    right = a.sqrt() * x0 + (1 - a).sqrt() * eps
    before = shaped(table[t - 1])  # t − 1 = −1 reads the last entry
    first = table[t[0]]
    mistakes = {
        "the root of 1−ᾱ_t is missing: with 1−ᾱ_t the noise is too weak, and the variance of x_t dips below 1": (
            a.sqrt() * x0 + (1 - a) * eps
        ),
        "the root of ᾱ_t is missing in the factor of the image": a * x0 + (1 - a).sqrt() * eps,
        "both roots are missing: x_t = √ᾱ_t x0 + √(1−ᾱ_t) ε": a * x0 + (1 - a) * eps,
        "the factors are swapped: √ᾱ_t belongs to the image": (1 - a).sqrt() * x0 + a.sqrt() * eps,
        "t is off by one: entry t of this table is timestep t, and entry 0 the clean image": (
            before.sqrt() * x0 + (1 - before).sqrt() * eps
        ),
        "all images get the noise of the first image's timestep; t has an entry for each image": (
            first.sqrt() * x0 + (1 - first).sqrt() * eps
        ),
        "the noise is missing": a.sqrt() * x0,
        "the image is not shrunk; multiply it by √ᾱ_t": x0 + (1 - a).sqrt() * eps,
        "the factor of the noise is √(1−ᾱ_t), not 1−√ᾱ_t": a.sqrt() * x0 + (1 - a.sqrt()) * eps,
        "you subtract the noise; add it": a.sqrt() * x0 - (1 - a).sqrt() * eps,
    }
    try:
        yours = call(answer, x0, t, eps, table)
    except AnswerError as error:
        if "must match the size" in error.message or "broadcast" in error.message:
            message = "ᾱ_t has the shape (B,); give it the shape (B, 1, 1, 1) with .view(-1, 1, 1, 1)"
            raise AnswerError(message) from None
        raise
    same(yours, right, "x_t = √ᾱ_t x0 + √(1−ᾱ_t) ε, with the ᾱ_t of each image", mistakes)
    small, noise, odd = torch.rand(8, 3, 8, 8) * 2 - 1, torch.randn(8, 3, 8, 8), torch.randint(1, T + 1, (8,))
    b = shaped(table[odd])
    per_column = (table[odd].sqrt() * small + (1 - table[odd]).sqrt() * noise).double()
    wide = {
        "ᾱ_t was applied to the columns of pixels, not to the images; give it the shape (B, 1, 1, 1)": per_column,
    }
    same(call(answer, small, odd, noise, table), b.sqrt() * small + (1 - b).sqrt() * noise, "wrong for 8 images", wide)
    return "one line replaces t small steps, for each image with a timestep of its own."


@exercise
def same_noise(answer: Any) -> str:
    """Timesteps of one table looked up in another one."""
    for _ in range(3):
        linear = schedules.linear(int(torch.randint(500, 1001, ())), 1e-4, 0.02).alpha_bar
        cosine = schedules.cosine(int(torch.randint(300, 1001, ()))).alpha_bar
        t = int(torch.randint(len(linear) // 4, 3 * len(linear) // 4, ()))
        _same_noise(answer, t, linear, cosine)
        _same_noise(answer, int(torch.randint(len(cosine) // 3, 2 * len(cosine) // 3, ())), cosine, linear)
    return "equal SNR means equally noisy images; equal t does not."


def _same_noise(answer: Any, t: int, table: Tensor, other: Tensor) -> None:
    def log_snr(a: Tensor) -> Tensor:
        return torch.log(a / (1 - a))

    distance = (log_snr(other[1:]) - log_snr(table[t])).abs()
    right = int(distance.argmin()) + 1
    result = call(answer, t, table, other)
    if isinstance(result, Tensor) and result.numel() == 1 and not result.is_floating_point():
        result = int(result)
    if not isinstance(result, int) or isinstance(result, bool):
        got = "a tensor" if isinstance(result, Tensor) else f"{type(result).__name__}"
        raise AnswerError(f"return a timestep, an int; yours is {got}")
    if result == t != right:
        raise AnswerError("you returned t itself; with another schedule the same t has other noise")
    if not 1 <= result < len(other):
        raise AnswerError(f"you returned t = {result}; the timesteps of the other table run from 1 to {len(other) - 1}")
    if result == right or math.isclose(distance[result - 1].item(), distance[right - 1].item(), rel_tol=1e-9):
        return
    if result == right - 1 and result != t:
        raise AnswerError("you are one timestep too low: after you leave out t = 0, place 0 of argmin is timestep 1")
    if result == round(t * (len(other) - 1) / (len(table) - 1)):
        raise AnswerError("you scaled t to the length of the other table; look for the same SNR instead")
    if result == int((log_snr(other[1:]) - log_snr(table[t])).argmin()) + 1:
        raise AnswerError("you look for the smallest difference, with its sign; take .abs() first")
    if result == int((log_snr(other[1:]) - (log_snr(1 - table[t]))).abs().argmin()) + 1:
        raise AnswerError("your SNR of t is upside down: it is ᾱ/(1−ᾱ), image over noise")
    raise AnswerError(f"you returned t = {result}, but t = {right} has the nearest log-SNR")


@exercise
def exam(answer: Any) -> str:
    """Both images from stored pixels; each of the earlier mistakes is looked for in both."""
    T = int(torch.randint(40, 200, ()))
    beta = torch.linspace(1e-3, 8 / T, T, dtype=torch.float64)
    s = int(torch.randint(T // 5, T // 3, ()))
    t = int(torch.randint(T // 2, 2 * T // 3, ()))
    pixels = torch.randint(0, 256, (3, 6, 8, 3), dtype=torch.uint8)
    eps_s, eps_t = torch.randn(3, 3, 6, 8), torch.randn(3, 3, 6, 8)
    result = call(answer, pixels, beta, s, t, eps_s, eps_t)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise AnswerError("return both images: return x_s, x_t")
    x0 = pixels.permute(0, 3, 1, 2).double() / 127.5 - 1
    table = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)])
    a, b = table[t].item(), table[s].item()

    def mixed(x: Tensor, share: float, eps: Tensor) -> Tensor:
        return math.sqrt(share) * x + math.sqrt(1 - share) * eps

    x_s = mixed(x0, b, eps_s)
    later = table[s + 1].item()
    same(
        result[0],
        x_s,
        "x_s is wrong: it is √ᾱ_s x0 + √(1−ᾱ_s) eps_s",
        {
            "x_s: your images are in [0, 1]; the range must be [−1, 1]": mixed((x0 + 1) / 2, b, eps_s),
            "x_s: your table is off by one, ᾱ₀ = 1 belongs in front": mixed(x0, later, eps_s),
            "x_s: the root of 1−ᾱ_s is missing": math.sqrt(b) * x0 + (1 - b) * eps_s,
            "x_s: the root of ᾱ_s is missing": b * x0 + math.sqrt(1 - b) * eps_s,
            "x_s: both roots are missing": b * x0 + (1 - b) * eps_s,
            "x_s: you use β_s, of a single step, instead of ᾱ_s": mixed(x0, 1 - beta[s - 1].item(), eps_s),
        },
    )
    ratio = a / b
    same(
        result[1],
        mixed(x_s, ratio, eps_t),
        "x_s is right, x_t is not: it is the formula with ᾱ_t/ᾱ_s, applied to x_s",
        {
            "x_t: noised by ᾱ_t again; the noise up to s is there already, so the factor is ᾱ_t/ᾱ_s": (
                mixed(x_s, a, eps_t)
            ),
            "x_t: you start from x0; noise x_s further": mixed(x0, a, eps_t),
            "x_t: you start from x0, where x_s belongs, to which ᾱ_t/ᾱ_s applies": mixed(x0, ratio, eps_t),
            "x_t: the root of 1−ᾱ_t/ᾱ_s is missing": math.sqrt(ratio) * x_s + (1 - ratio) * eps_t,
            "x_t: the root of ᾱ_t/ᾱ_s is missing": ratio * x_s + math.sqrt(1 - ratio) * eps_t,
            "x_t: both roots are missing": ratio * x_s + (1 - ratio) * eps_t,
            "x_t: you use β_t, of a single step; from s to t it is 1−ᾱ_t/ᾱ_s": mixed(
                x_s, 1 - beta[t - 1].item(), eps_t
            ),
            "x_t: you add the noise of x_s again; use eps_t": mixed(x_s, ratio, eps_s),
            "x_t: ᾱ_t − ᾱ_s is no share of the image; the steps are multiplied, so divide": mixed(
                x_s, abs(b - a), eps_t
            ),
        },
    )
    return "noise can be added in any number of steps, and only ᾱ at the end counts."
