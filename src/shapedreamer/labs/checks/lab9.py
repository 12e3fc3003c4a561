"""The checks of lab 9: interpolation, variations, in-painting and enlarging."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion import oracle, process, samplers
from ...diffusion.denoiser import Denoise
from ...diffusion.schedule import Schedule, cosine
from ..verdict import AnswerError, call, close, exercise, same, tensor

B, T = 3, 100


def _exact(schedule: Schedule, *shape: int) -> Denoise:
    """An exact denoiser of random images (C, H, W), in which every pixel influences all others."""
    weights = F.normalize(torch.rand(4) + 0.5, p=1, dim=0)
    return oracle.gaussian_mixture(_images(4, *shape), torch.full((4,), 0.5), weights, schedule)


def _images(*shape: int) -> Tensor:
    return torch.rand(*shape) * 2 - 1


def _random_times(start: int) -> list[int]:
    """Five timesteps that fall from `start` to 0, with steps of different lengths."""
    return [start, *(round(start * share) for share in (0.7, 0.45, 0.25, 0.1)), 0]


@exercise
def slerp(answer: Any) -> str:
    """Small images, so that the angles differ from each other and from 90°; then the ends and the length."""
    a, b = torch.randn(B, 1, 2, 2), torch.randn(B, 1, 2, 2)
    b[0] = 0.5 * a[0] + b[0]  # clearly another angle than 90°
    f = 0.2 + 0.15 * torch.rand(()).item()
    wide = (-1, 1, 1, 1)
    x, y = a.double().flatten(1), b.double().flatten(1)
    angle = F.cosine_similarity(x, y).acos().view(wide)
    batch_angle = F.cosine_similarity(x.flatten(), y.flatten(), dim=0).acos()

    def circle(f: float, angle: Tensor) -> Tensor:
        return (torch.sin((1 - f) * angle) * a.double() + torch.sin(f * angle) * b.double()) / torch.sin(angle)

    line = (1 - f) * a.double() + f * b.double()
    unit_a, unit_b = (F.normalize(v).view(a.shape) for v in (x, y))
    dot = (x * y).sum(1).clamp(-1, 1).acos().view(wide)
    same(
        call(answer, a, b, f),
        circle(f, angle),
        "this is not sin((1−f)ω)/sin ω · a + sin(f ω)/sin ω · b with the angle ω of each image",
        {
            "this is the straight line; its middle has too small a variance": line,
            "you use one angle for the whole batch; each image has its own": circle(f, batch_angle),
            "you start at b; fraction 0 must give a": circle(1 - f, angle),
            "you do not divide by sin ω": circle(f, angle) * torch.sin(angle),
            "√(1−f) a + √f b keeps the variance only if a and b are orthogonal, and it does not move evenly; use the "
            "angle": (1 - f) ** 0.5 * a.double() + f**0.5 * b.double(),
            "you stretch the straight line to a length; it does not move evenly along the circle": (
                line / line.flatten(1).norm(dim=1).view(wide) * x.norm(dim=1).view(wide)
            ),
            "you walk between a and b divided by their lengths; the weights belong to a and b themselves": (
                (torch.sin((1 - f) * angle) * unit_a + torch.sin(f * angle) * unit_b) / torch.sin(angle)
            ),
            "you use acos of the dot product; divide it by the lengths of a and b first": circle(f, dot),
            "you use the cosine as the angle; take acos of it": circle(f, angle.cos()),
            "acos returns radians; do not convert the angle": circle(f, angle * 180 / math.pi),
        },
        tol=1e-3,
    )
    for end, right in ((0.0, a), (1.0, b)):
        same(call(answer, a, b, end), right, f"fraction {end:g} must give {'b' if end else 'a'} itself", tol=1e-3)
    return "On the circle, noise keeps the strength that the network was trained on."


@exercise
def variation(answer: Any) -> str:
    """An exact denoiser and DDIM from a random timestep."""
    schedule = cosine(T)
    denoise = _exact(schedule, 1, 8, 8)
    image, eps = _images(B, 1, 8, 8), torch.randn(B, 1, 8, 8)
    times = _random_times(int(torch.randint(40, 80, ())))

    def run(x: Tensor, times: list[int] = times) -> Tensor:
        return samplers.sample(samplers.ddim(denoise, schedule, x.double(), times))

    def noised(t: int) -> Tensor:
        return process.diffuse(image, t, eps, schedule)

    a = schedule.alpha_bar[times[0]].item()
    yours = call(answer, image, eps, denoise, schedule, times)
    again = call(answer, image, eps, denoise, schedule, times)
    if not close(tensor(yours, image.shape), tensor(again, image.shape)):
        raise AnswerError("two calls give different results: use the argument eps, and DDIM with η = 0")
    same(
        yours,
        run(noised(times[0])),
        "this is not DDIM along times, started from the image with the noise of timestep times[0]",
        {
            "nothing of the image is left: you start from eps, or noise it to T; noise it to times[0]": run(noised(T)),
            "nothing of the image is left: you start from eps; start from the noised image": run(eps),
            "you start from the clean image; add the noise of timestep times[0] first": run(image),
            "you add σ·eps without multiplying the image with √ᾱ": run(image + (1 - a) ** 0.5 * eps),
            "you made x_t without the roots: it is √ᾱ·image + √(1−ᾱ)·eps": run(a * image + (1 - a) * eps),
            "this is the noisy image x_t; denoise it": noised(times[0]),
            "this is one denoiser call; run the sampler along all of times": (
                denoise(noised(times[0]).double(), torch.full((B,), times[0]))
            ),
            "you noise to times[0], but the sampler starts at T; it must start at times[0]": run(
                noised(times[0]), _random_times(T)
            ),
            "you start the sampler at times[1], but the image has the noise of times[0]": run(
                noised(times[0]), times[1:]
            ),
            "you noise the image to times[1]; the sampler starts at times[0]": run(noised(times[1])),
        },
        tol=1e-3,
    )
    return "The timestep decides what survives: noise hides fine details first."


@exercise
def keep_pixels(answer: Any) -> str:
    """A random mask; the denoiser's input must be x_t itself."""
    schedule = cosine(T)
    base = _exact(schedule, 1, 8, 8)
    image, x_t = _images(B, 1, 8, 8), torch.randn(B, 1, 8, 8)
    keep = torch.rand(8, 8) < 0.5
    keep[0], keep[1] = True, False
    t = torch.randint(30, T, (B,))
    alpha, _ = schedule.alpha_sigma(t, like=x_t)
    kept = call(answer, base, image, keep)
    if isinstance(kept, Tensor):
        raise AnswerError("keep_pixels must return the function kept, not a tensor")
    x0 = base(x_t, t)
    same(
        call(kept, x_t, t),
        torch.where(keep, image, x0),
        "x̂₀ must equal the image where keep is True and the denoiser's x̂₀ elsewhere",
        {
            "it is the wrong way round: keep is True where the image is known": torch.where(keep, x0, image),
            "you put the known pixels into x_t before denoising; replace them in x̂₀": base(
                torch.where(keep, image, x_t), t
            ),
            "you put noisy known pixels into x_t before denoising; replace them in x̂₀": base(
                torch.where(keep, alpha * image, x_t), t
            ),
            "you put the known pixels into x_t as well; the denoiser must see x_t unchanged": torch.where(
                keep, image, base(torch.where(keep, image, x_t), t)
            ),
            "outside the known pixels you return 0; the denoiser's x̂₀ belongs there": torch.where(keep, image, 0.0),
            "inside the known pixels you return 0; the image belongs there": torch.where(keep, 0.0, x0),
            "you do not replace anything": x0,
            "outside the known pixels you return x_t; the denoiser's x̂₀ belongs there": torch.where(keep, image, x_t),
            "you add the image to x̂₀; replace x̂₀ by it": x0 + keep * image,
            "you average the known pixels with x̂₀; they are known exactly": torch.where(keep, (image + x0) / 2, x0),
            "you multiply the known pixels with √ᾱ; x̂₀ is a clean image": torch.where(keep, alpha * image, x0),
        },
    )
    return "The sampler gives the kept pixels the right amount of noise at every step by itself."


@exercise
def back_to_t(answer: Any) -> str:
    """Random s < t, compared with the formula."""
    schedule = cosine(T)
    s = int(torch.randint(20, 50, ()))
    t = s + int(torch.randint(15, 40, ()))
    x_s, eps = torch.randn(B, 1, 6, 6), torch.randn(B, 1, 6, 6)
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
    ratio = a / b
    beta = schedule.beta[t].item()

    def mix(signal: float, noise: float) -> Tensor:
        return signal * x_s.double() + noise * eps.double()

    try:
        yours = call(answer, x_s, s, t, eps, schedule)
    except AnswerError as error:
        if "math domain error" in error.message:
            message = "you take the root of a negative number; the ratio ᾱ_t/ᾱ_s is below 1. Is yours upside down?"
            raise AnswerError(message) from None
        raise
    same(
        yours,
        mix(ratio**0.5, (1 - ratio) ** 0.5),
        "this is not √(ᾱ_t/ᾱ_s) x_s + √(1 − ᾱ_t/ᾱ_s) ε",
        {
            "you use ᾱ_t as if x_s were a clean image; it has noise already, so the ratio ᾱ_t/ᾱ_s belongs there": mix(
                a**0.5, (1 - a) ** 0.5
            ),
            "both roots are missing": mix(ratio, 1 - ratio),
            "the root of the noise's factor is missing": mix(ratio**0.5, 1 - ratio),
            "the root of the image's factor is missing": mix(ratio, (1 - ratio) ** 0.5),
            "you use β_t, the noise of the single step from t − 1 to t; from s to t there is more": mix(
                (1 - beta) ** 0.5, beta**0.5
            ),
            "you do not shrink x_s, so the variance grows with every repeat": mix(1.0, (1 - ratio) ** 0.5),
            "your noise is √(1−ᾱ_t); x_s already has a part of it": mix(ratio**0.5, (1 - a) ** 0.5),
            "your noise is √(ᾱ_s−ᾱ_t), the part of the variance in x0's units; divide by ᾱ_s": mix(
                ratio**0.5, (b - a) ** 0.5
            ),
            "the factors are swapped: √(ᾱ_t/ᾱ_s) belongs to x_s": mix((1 - ratio) ** 0.5, ratio**0.5),
            "you add no noise": mix(ratio**0.5, 0.0),
        },
    )
    same(call(answer, x_s, 0, t, eps, schedule), mix(a**0.5, (1 - a) ** 0.5), "for s = 0 it must equal diffuse")
    return "With s = t − 1 this is one step of DDPM's Markov chain (Ho et al. 2020, equation 2)."


def _loop(
    denoise: Denoise,
    schedule: Schedule,
    times: list[int],
    repeats: int,
    noise: Callable[[], Tensor],
    back: bool = True,
    ratio: bool = True,
    fresh: bool = False,
    no_eps: bool = False,
) -> Tensor:
    """The repeated sampler, with faults to choose from."""
    x = noise()
    for t, s in pairwise(times):
        for repeat in range(repeats if s > 0 else 1):
            if repeat and back:
                x = (
                    process.transition(x, s, t, noise(), schedule)
                    if ratio
                    else process.diffuse(x, t, noise(), schedule)
                )
            x0 = denoise(x, torch.full((len(x),), t))
            eps = noise() if fresh else process.to_eps(x0, x, t, schedule)
            x = process.diffuse(x0, s, eps * 0 if no_eps else eps, schedule)
    return x


class _Noises:
    """noise() for a learner's loop: the same sequence of noise images for every instance."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.used = images, 0

    def __call__(self) -> Tensor:
        if self.used == len(self.images):
            raise AnswerError(
                f"you call noise() more than {len(self.images)} times: once for the start and once for every repeat "
                "of a step but its first"
            )
        self.used += 1
        return self.images[self.used - 1].clone()


class _Counted:
    """A denoiser that records the timesteps at which it is called."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.times = denoise, list[int]()

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.times.append(int(torch.as_tensor(t).flatten()[0]))
        return self.denoise(x_t, t)


def _check_calls(found: list[int], times: list[int], repeats: int) -> None:
    """AnswerError unless each step but the last was made `repeats` times."""
    expected = [t for t, s in pairwise(times) for _ in range(repeats if s else 1)]
    if found == expected:
        return
    if found == times[:-1]:
        raise AnswerError(f"you make every step once; every step but the last is needed {repeats} times")
    if found == [t for t in times[:-1] for _ in range(repeats)]:
        raise AnswerError("you repeat the last step too; it lands on the finished image, and is made once")
    raise AnswerError(
        f"with times = {times} and repeats = {repeats} the denoiser must be called at {expected}, but you call it at "
        f"{found or 'no timestep'}"
    )


@exercise
def repeated_sampling(answer: Any) -> str:
    """An exact denoiser and a fixed sequence of noise images."""
    schedule = cosine(T)
    denoise = _exact(schedule, 1, 6, 6)
    times, repeats = _random_times(T), 3
    images = torch.randn(30, B, 1, 6, 6)
    exact = images[: 1 + 4 * (repeats - 1)]
    counted = _Counted(denoise)
    noises = _Noises(images)
    yours = call(answer, counted, schedule, times, repeats, noises)
    _check_calls(counted.times, times, repeats)
    right = _loop(denoise, schedule, times, repeats, _Noises(exact.double()))

    def wrong(**faults: bool) -> Tensor:
        return _loop(denoise, schedule, times, repeats, _Noises(images.double()), **faults)

    same(
        yours,
        right,
        "the result is not that of DDIM steps (η = 0) with noise added back between the repeats",
        {
            "you repeat a step without going back to t: x is at s already": wrong(back=False),
            "you go back with ᾱ_t as if x_s were clean; use back_to_t": wrong(ratio=False),
            "you draw new noise in the step itself; DDIM uses ε̂, computed from x and x̂₀": wrong(fresh=True),
            "x never changes: compute x_s from x̂₀ and ε̂ in every step": images[0],
            "ε̂ is missing in the step: x_s = √ᾱ_s x̂₀ + √(1−ᾱ_s) ε̂": wrong(no_eps=True),
        },
        tol=2e-3,
    )
    return "Each repeat gives the hole another chance to follow the pixels that are known."


@exercise
def exam(answer: Any) -> str:
    """Block means of random images, an exact denoiser, a fixed sequence of noise images."""
    schedule = cosine(T)
    k = 2 + int(torch.randint(2, ()))
    denoise = _exact(schedule, 1, 3 * k, 3 * k)
    times, repeats = _random_times(T), 3
    small = _images(B, 1, 3, 3)
    images = torch.randn(30, B, 1, 3 * k, 3 * k)
    counted = _Counted(denoise)
    yours = call(answer, small, k, counted, schedule, times, repeats, _Noises(images))
    _check_calls(counted.times, times, repeats)

    def up(x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=k)

    def run(correct: Callable[[Tensor], Tensor], **faults: bool) -> Tensor:
        return _loop(lambda x, t: correct(denoise(x, t)), schedule, times, repeats, _Noises(images.double()), **faults)

    def right(x0: Tensor) -> Tensor:
        return x0 + up(small.double() - F.avg_pool2d(x0, k))

    result = run(right)
    uncorrected = run(lambda x0: x0)
    same(
        yours,
        result,
        "these are not the images of the sampler with corrected x̂₀, although the timesteps are right",
        {
            "you do not correct x̂₀; its block means must be those of small": uncorrected,
            "you correct only the finished image; correct x̂₀ in every step": right(uncorrected),
            "you replace x̂₀ by the enlarged small image, so no detail can form": run(lambda x0: up(small.double())),
            "the sign of the correction is wrong: add up(small − means)": run(
                lambda x0: x0 - up(small.double() - F.avg_pool2d(x0, k))
            ),
            "you add the enlarged small image; add the difference to the present block means": run(
                lambda x0: x0 + up(small.double())
            ),
            "you repeat a step without going back to t: x is at s already": run(right, back=False),
            "you go back with ᾱ_t as if x_s were clean; the ratio ᾱ_t/ᾱ_s belongs there": run(right, ratio=False),
            "you draw new noise in the step itself; DDIM uses ε̂, computed from x and x̂₀": run(right, fresh=True),
        },
        tol=2e-3,
    )
    return "One network, another wrapper, another task: no training was needed."
