"""The checks of lab 8: exact denoisers, memorisation, and the smallest possible loss."""

from typing import Any

import torch
from torch import Tensor

from ...diffusion import oracle, process
from ...diffusion.schedule import Schedule, cosine, linear
from ..verdict import AnswerError, call, close, exercise, same, tensor

N, B, SHAPE = 7, 5, (1, 3, 2)
T = 200
UNDERFLOW = (
    "with little noise your weights become NaN: exp of a large negative number is 0 and 0/0 is NaN; torch.softmax "
    "subtracts the largest exponent first"
)


def _problem() -> tuple[Tensor, Tensor, Tensor, Schedule]:
    """x_t, t, images and a schedule, for which several images are possible."""
    schedule = cosine(T) if torch.rand(()) < 0.5 else linear(T, 1e-3, 0.04)
    images = torch.randn(N, *SHAPE).clamp(-2, 2)
    # some signal and a lot of noise, so that all images have a weight and every mistake shows
    usable = ((schedule.alpha_bar > 0.1) & (schedule.alpha_bar < 0.5)).nonzero()[:, 0]
    t = usable[torch.randint(len(usable), (B,))]
    t[0], t[1] = usable[0], usable[-1]
    x_t = process.diffuse(images[torch.randint(N, (B,))], t, torch.randn(B, *SHAPE), schedule)
    return x_t, t, images, schedule


def _low_noise() -> tuple[Tensor, Tensor, Tensor, Schedule]:
    """Sharp images of many pixels with little noise: exp(−distance / 2σ²) is 0 in float64 for all of them."""
    schedule = cosine(T)
    images = torch.rand(N, 3, 16, 16) * 2 - 1
    t = torch.full((B,), 3)
    x_t = process.diffuse(torch.rand(B, 3, 16, 16) * 2 - 1, t, torch.randn(B, 3, 16, 16), schedule)
    return x_t, t, images, schedule


def _exponents(
    x_t: Tensor, t: Tensor, images: Tensor, schedule: Schedule, shrink: bool = True, h: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Squared distances (B, N) and variances (B, 1), in float64."""
    x, y = x_t.double().flatten(1), images.double().flatten(1)
    a = schedule.alpha_bar[t].sqrt().view(-1, 1)
    distance = (x[:, None] - (a[:, :, None] if shrink else 1) * y[None]).square().sum(2)
    return distance, a**2 * h**2 + 1 - a**2


@exercise
def posterior_weights(answer: Any) -> str:
    """Random images of six pixels, several of which are possible; then sharp images with little noise."""
    x_t, t, images, schedule = _problem()
    distance, variance = _exponents(x_t, t, images, schedule)
    unshrunk, _ = _exponents(x_t, t, images, schedule, shrink=False)
    z = -distance / (2 * variance)
    yours = call(answer, x_t, t, images, schedule)
    if isinstance(yours, Tensor) and yours.shape == (N, B):
        raise AnswerError(f"your weights are (N, B) = ({N}, {B}); a row for each x_t is needed, (B, N)")
    same(
        yours,
        z.softmax(1),
        "these are not the weights exp(−‖x_t − α·image‖² / 2σ²), divided by their sum over the images",
        {
            "you compare x_t with the images themselves; x_t lies near α·image": (-unshrunk / (2 * variance)).softmax(
                1
            ),
            "you divide by 2σ; the exponent has the variance 2σ²": (-distance / (2 * variance.sqrt())).softmax(1),
            "the factor ½ is missing: the exponent of a normal density is −distance / 2σ²": (2 * z).softmax(1),
            "the sign is wrong: your most distant image has the largest weight": (-z).softmax(1),
            "your softmax goes over the batch (dim=0); the weights of the images must sum to 1 for each x_t: dim=1": (
                z.softmax(0)
            ),
            "you take the mean over the pixels; ‖·‖² is their sum, so that every pixel counts as evidence": (
                z / images[0].numel()
            ).softmax(1),
            "your weights do not sum to 1: divide by their sum over the images (softmax does that)": z.exp(),
            "you use the distance; the exponent has its square": (-distance.sqrt() / (2 * variance)).softmax(1),
            "you do not divide by 2σ²; without it, the noise level has no influence": (-distance).softmax(1),
            "this is the logarithm of the weights; use softmax, not log_softmax": z.log_softmax(1),
        },
        tol=1e-3,
    )
    x_t, t, images, schedule = _low_noise()
    yours = call(answer, x_t, t, images, schedule)
    if isinstance(yours, Tensor) and not yours.isfinite().all():
        raise AnswerError(UNDERFLOW)
    distance, variance = _exponents(x_t, t, images, schedule)
    right = (-distance / (2 * variance)).softmax(1)
    if not close(tensor(yours, right.shape).sum(1), right.sum(1), 1e-3):
        raise AnswerError(UNDERFLOW.replace("become NaN", "no longer sum to 1"))
    same(yours, right, "with little noise your weights are wrong; is something added inside exp or to a sum?", tol=0.02)
    return "With little noise one image takes all the weight; with much noise all images share it."


@exercise
def exact_denoiser(answer: Any) -> str:
    """Compared with oracle.finite_data, and for one image, whose denoiser returns it always."""
    x_t, t, images, schedule = _problem()
    distance, variance = _exponents(x_t, t, images, schedule)
    p = (-distance / (2 * variance)).softmax(1)
    right = oracle.finite_data(images.double(), schedule)(x_t.double(), t)
    alpha, sigma = schedule.alpha_sigma(t, like=right)
    if isinstance(answer, Tensor):
        raise AnswerError("pass the function exact_denoiser itself, not its result")
    denoise = call(answer, images, schedule)
    if isinstance(denoise, Tensor):
        raise AnswerError("exact_denoiser must return the function denoise, not a tensor")
    flat = images.double().flatten(1)
    same(
        call(denoise, x_t, t),
        right,
        "this is not the mean of the images with the weights p(i | x_t)",
        {
            "you return the most likely image; the squared error is smallest for the weighted mean of all": images[
                p.argmax(1)
            ],
            "you return the plain mean of the images; each needs its weight p(i | x_t)": images.mean(0).expand_as(
                right
            ),
            "this is ε̂ = (x_t − α x̂₀)/σ; the denoiser returns x̂₀": (x_t - alpha * right) / sigma,
            "you divide by the number of images; the weights already sum to 1": right / N,
            "you return α·x̂₀; the mean is over the clean images, which are not multiplied by α": alpha * right,
            "you return x_t; the denoiser returns the mean of the images": x_t,
            "you weight with p²; use the weights once": (p**2 @ flat).view_as(right),
        },
        tol=1e-3,
    )
    one = torch.rand(1, *SHAPE) * 2 - 1
    same(
        call(call(answer, one, schedule), x_t, t),
        one.double().expand(B, *SHAPE),
        "with a single image in the data, the answer must be that image for every x_t",
        tol=1e-3,
    )
    return "No denoiser has a smaller squared error on these images."


@exercise
def nearest_distance(answer: Any) -> str:
    """Random images; one sample is a copy."""
    images, samples = torch.rand(N, 3, 4, 4) * 2 - 1, torch.rand(B, 3, 4, 4) * 2 - 1
    samples[0] = images[3]
    squares = (samples.double().flatten(1)[:, None] - images.double().flatten(1)[None]).square()
    mean_square = squares.mean(2)
    yours = call(answer, samples, images)
    if isinstance(yours, tuple):
        raise AnswerError("you return values and indices: min(dim=1) gives both; take .values")
    if isinstance(yours, Tensor) and yours.dtype == torch.int64:
        raise AnswerError("you return which image is nearest (argmin); the distance to it is needed")
    if isinstance(yours, Tensor) and yours.shape == (N,):
        raise AnswerError(f"you return a number for each of the {N} images; one for each of the {B} samples is needed")
    if isinstance(yours, Tensor) and yours.shape == (B, N):
        raise AnswerError("you return the distance to every image; take the smallest for each sample")
    same(
        yours,
        mean_square.min(1).values.sqrt(),
        "this is not the smallest root mean square difference between each sample and the images",
        {
            "the root is missing: this is the mean square": mean_square.min(1).values,
            "you sum over the pixels; the mean makes the distance independent of the image size": (
                squares.sum(2).min(1).values.sqrt()
            ),
            "you sum over the pixels, and the root is missing": squares.sum(2).min(1).values,
            "you average over the images; the nearest one is the minimum": mean_square.sqrt().mean(1),
            "you take the most distant image; the nearest one is the minimum": mean_square.max(1).values.sqrt(),
            "you compare sample i with image i; compare each sample with all images": (
                (samples.double() - images[:B].double()).square().flatten(1).mean(1).sqrt()
            ),
            "you average absolute differences; square them, take the mean, then the root": (
                squares.sqrt().mean(2).min(1).values
            ),
        },
        tol=2e-3,
    )
    return "A copy has distance 0. A small distance means something only next to that of real, unseen images."


@exercise
def denoising_error(answer: Any) -> str:
    """An exact Gaussian denoiser, on random images."""
    schedule = cosine(T)
    x0, eps = torch.rand(B, 2, 4, 4) * 2 - 1, torch.randn(B, 2, 4, 4)
    t = torch.randint(T // 4, T - T // 8, (B,))
    mean, std = torch.rand(()).item() * 0.4 + 0.1, torch.rand(()).item() * 0.5 + 0.3
    denoise = oracle.gaussian(mean, std, schedule)
    x_t = process.diffuse(x0, t, eps, schedule).double()
    alpha_bar = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    hat = denoise(x_t, t)
    error = (hat - x0).square().flatten(1)
    yours = call(answer, denoise, x0, t, eps, schedule)
    if isinstance(yours, float) or (isinstance(yours, Tensor) and yours.ndim == 0):
        raise AnswerError("you return one number; leave out the mean over the batch: one error for each image, (B,)")
    if isinstance(yours, Tensor) and yours.shape == x0.shape:
        raise AnswerError("you return a value for every pixel; take the mean over channels, height and width")
    again = call(answer, denoise, x0, t, eps, schedule)
    if not close(tensor(yours, t.shape), tensor(again, t.shape)):
        raise AnswerError("two calls give different errors: you draw noise of your own; use the argument eps")
    eps_hat = process.to_eps(hat, x_t, t, schedule)
    no_root = alpha_bar * x0 + (1 - alpha_bar) * eps
    same(
        yours,
        error.mean(1),
        "this is not the mean of (x̂₀ − x0)² over channels and pixels, with x̂₀ = denoise(x_t, t)",
        {
            "you pass the clean x0 to the denoiser; it must see x_t": (
                (denoise(x0.double(), t) - x0).square().flatten(1).mean(1)
            ),
            "you sum over the pixels; the mean is needed": error.sum(1),
            "you compare x̂₀ with the noise; the denoiser estimates x0": (hat - eps).square().flatten(1).mean(1),
            "you compare x̂₀ with x_t; compare it with the clean x0": (hat - x_t).square().flatten(1).mean(1),
            "you compare x_t with x0, without the denoiser": (x_t - x0).square().flatten(1).mean(1),
            "this is the error of ε̂; here the error of x̂₀ is needed": (eps_hat - eps).square().flatten(1).mean(1),
            "the square is missing: this is the mean absolute error": error.sqrt().mean(1),
            "you took the root; the mean squared error is needed": error.mean(1).sqrt(),
            "you made x_t without the roots: it is √ᾱ·x0 + √(1−ᾱ)·ε": (
                (denoise(no_root.double(), t) - x0).square().flatten(1).mean(1)
            ),
            "you made x_t as x0 + √(1−ᾱ)·ε; the image is multiplied by √ᾱ": (
                (denoise((x0 + (1 - alpha_bar).sqrt() * eps).double(), t) - x0).square().flatten(1).mean(1)
            ),
        },
        tol=1e-3,
    )
    return "The error on held-out images is what counts."


@exercise
def gaussian_floor(answer: Any) -> str:
    """Random std and t, compared with the formula."""
    schedule = cosine(T)
    for _ in range(5):
        std = 0.3 + 0.4 * torch.rand(()).item()
        t = int(torch.randint(T // 4, T - T // 8, ()))
        a = schedule.alpha_bar[t].item()
        total = a * std**2 + 1 - a
        yours = call(answer, std, t, schedule)
        if isinstance(yours, Tensor) and yours.numel() == 1:
            yours = yours.reshape(())
        same(
            yours,
            torch.tensor(a * std**2 / total, dtype=torch.float64),
            "this is not Var(ε) − Cov(ε, x_t)² / Var(x_t) with variance 1, covariance σ and variance α²s² + σ²",
            {
                "this is the share of the noise in x_t, σ²/(α²s² + σ²); subtract it from Var(ε) = 1": (1 - a) / total,
                "this is the floor of the error of x̂₀; the floor of ε̂ is smaller or larger by the factor SNR": (
                    std**2 * (1 - a) / total
                ),
                "you use std where its square belongs: the variance of x0 is std²": a * std / (a * std + 1 - a),
                "you use α where α² = ᾱ belongs; schedule.alpha_bar is already the square": (
                    a**0.5 * std**2 / (a**0.5 * std**2 + (1 - a) ** 0.5)
                ),
                "you use ᾱ as if it were α: α² is ᾱ, not ᾱ²": a**2 * std**2 / (a**2 * std**2 + (1 - a) ** 2),
                "the covariance must be squared: Cov(ε, x_t)² = σ²": 1 - (1 - a) ** 0.5 / total,
                "this is the SNR α²s²/σ²; divide by the whole variance α²s² + σ²": a * std**2 / (1 - a),
                "you ignore std: the variance of x_t is α²s² + σ², and it is 1 only for std = 1": a,
                "this is the root of the floor; the floor is a variance": (a * std**2 / total) ** 0.5,
                "the floor is not 0: noise and image cannot be separated exactly": 0.0,
            },
            tol=1e-5,
        )
    return "At small t the floor is almost 1: with little noise, noise and image are hard to tell apart."


@exercise
def exam(answer: Any) -> str:
    """Compared with oracle.gaussian_mixture, with random weights; then with little noise."""
    x_t, t, images, schedule = _problem()
    h = 0.4 + 0.4 * torch.rand(()).item()
    weights = torch.rand(N) + 0.05
    weights[2] += 1.0  # uneven, so that forgetting them shows
    weights = weights / weights.sum()

    def mixture(h: float, weights: Tensor) -> Tensor:
        return oracle.gaussian_mixture(images.double(), torch.full((N,), h), weights.double(), schedule)(
            x_t.double(), t
        )

    right = mixture(h, weights)
    distance, variance = _exponents(x_t, t, images, schedule, h=h)
    flat, a = images.double().flatten(1), schedule.alpha_bar[t].sqrt().view(-1, 1)
    log_w = weights.double().log()

    def combine(logits: Tensor, gain: Tensor) -> Tensor:
        mean = logits.softmax(1) @ flat
        return (mean + gain * (x_t.double().flatten(1) - a * mean)).view_as(right)

    gain = a * h**2 / variance
    noise_only = -distance / (2 * (1 - a**2))
    z = -distance / (2 * variance)
    denoise = call(answer, images, weights, h, schedule)
    if isinstance(denoise, Tensor):
        raise AnswerError("exam must return the function denoise, not a tensor")
    same(
        call(denoise, x_t, t),
        right,
        "this is not the mean of the best guesses of all clouds, weighted with p(i | x_t)",
        {
            "you treat all clouds as equally likely; p(i | x_t) also has the factor w_i": combine(z, gain),
            "your p(i | x_t) has the variance σ²; around a cloud it is v = α²h² + σ²": combine(
                log_w + noise_only, gain
            ),
            "you return the mean of the images; each cloud has a width, so add α h²/v · (x_t − α y_i)": combine(
                log_w + z, gain * 0
            ),
            "your gain is α h²/σ²; divide by the variance v = α²h² + σ²": combine(log_w + z, a * h**2 / (1 - a**2)),
            "your gain lacks the factor α: it is α h²/v": combine(log_w + z, h**2 / variance),
            "your gain has h where h² belongs": combine(log_w + z, a * h / variance),
            "v has h where h² belongs, or h is not squared": combine(
                log_w - distance / (2 * (a**2 * h + 1 - a**2)), a * h / (a**2 * h + 1 - a**2)
            ),
            "you add the weights inside the softmax; their logarithm belongs there": combine(
                weights.double() + z, gain
            ),
            "v is α²h² + σ²; the factor α² is missing": combine(
                log_w - distance / (2 * (h**2 + 1 - a**2)), a * h**2 / (h**2 + 1 - a**2)
            ),
            "the factor ½ is missing in the exponent": combine(log_w + 2 * z, gain),
        },
        tol=1e-3,
    )
    x_t, t, images, schedule = _low_noise()
    yours = call(call(answer, images, weights, 0.02, schedule), x_t, t)
    if isinstance(yours, Tensor) and not yours.isfinite().all():
        raise AnswerError(UNDERFLOW)
    same(yours, mixture(0.02, weights), "with little noise the result is wrong", tol=0.02)
    return "This is oracle.gaussian_mixture with equal widths: a kernel density estimate that denoises."
