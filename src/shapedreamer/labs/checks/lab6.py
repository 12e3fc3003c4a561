"""The checks of lab 6: the cosine schedule, own images, the Fréchet distance, and its baseline."""

import math
from typing import Any

import torch
from torch import Tensor

from ..verdict import AnswerError, call, close, exercise, same, tensor
from .runs import run


@exercise
def cosine_alpha_bar(answer: Any) -> str:
    """Random T and s, and the default s."""
    T = int(torch.randint(50, 400, ()))
    for given in (0.008, 0.02 + 0.05 * torch.rand(()).item()):
        yours = call(answer, T) if given == 0.008 else call(answer, T, given)
        t = torch.arange(T + 1, dtype=torch.float64)

        def f(t: Tensor, s: float) -> Tensor:
            return torch.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2

        right = f(t, given) / f(t[:1], given)
        if isinstance(yours, Tensor) and yours.shape == (T,):
            raise AnswerError(f"your table has T = {T} entries; t runs from 0 to T, so it needs T + 1")
        same(
            yours,
            right,
            "ᾱ_t = f(t)/f(0) with f(t) = cos²((t/T + s)/(1 + s) · π/2)",
            {
                "the square is missing: f is cos²; the cosine itself is √ᾱ_t": right.sqrt(),
                "f(0) is missing: divide by it, so that ᾱ₀ is exactly 1": f(t, given),
                "s is missing": f(t, 0.0),
                "this is the sine; cos² falls from 1 to 0": 1 - f(t, given),
                "your table runs from T to 0; ᾱ₀ = 1 comes first": right.flip(0),
                "your angle is twice too large: it ends at π/2": torch.cos((t / T + given) / (1 + given) * math.pi) ** 2
                / torch.cos(torch.tensor(given / (1 + given) * math.pi, dtype=torch.float64)) ** 2,
                "your angle is not divided by 1 + s": torch.cos((t / T + given) * math.pi / 2) ** 2 / f(t[:1], given),
                "your s is always 0.008; use the argument": f(t, 0.008) / f(t[:1], 0.008),
                "this is β_t; the table of ᾱ_t is asked for": torch.cat([t[:1], 1 - right[1:] / right[:-1]]),
            },
            tol=2e-6,
        )
        if isinstance(yours, Tensor) and yours.dtype != torch.float64:
            raise AnswerError(
                "your table is float32; near T, ᾱ_t is tiny and needs float64: torch.arange(…, dtype=torch.float64)"
            )
    return "half of the variance is image at t = T/2, and the last part is not wasted on pure noise."


@exercise
def prepare(answer: Any) -> str:
    """Random drawings, shrunk by random factors."""
    for k, size in ((4, 6), (int(torch.randint(2, 4, ())), 7)):
        pixels = torch.randint(0, 256, (3, k * size, k * size)).byte()
        yours = call(answer, pixels, size)
        right = 1 - pixels.float().view(3, size, k, size, k).mean((2, 4))[:, None] / 127.5
        every = 1 - pixels[:, None, ::k, ::k].float() / 127.5
        if isinstance(yours, Tensor) and yours.shape == (3, size, size):
            raise AnswerError(f"the channel is missing: (3, 1, {size}, {size}), for example with [:, None]")
        if isinstance(yours, Tensor) and yours.shape == (3, size, size, 1):
            raise AnswerError(f"the channel comes before height and width: (3, 1, {size}, {size})")
        if isinstance(yours, Tensor) and not yours.is_floating_point():
            raise AnswerError(f"your images are {yours.dtype}; they must be float32")
        if isinstance(yours, Tensor) and yours.shape == (3, 1, k * size, k * size):
            raise AnswerError(f"your images keep their size; shrink them to ({size}, {size}) by the mean of each block")
        blocks = (1 - right) * 127.5
        wrapped = (255 - 2 * pixels.int()) % 256
        same(
            yours,
            right,
            "white paper (255) must become −1, ink (0) must become 1, and each pixel is the mean of a block",
            {
                "dark and light are not exchanged: the drawings are dark on white, and MNIST is white on black": -right,
                "your values run from 0 to 1; they must run from −1 to 1": (right + 1) / 2,
                "your values run from 0 to 1, and dark and light are not exchanged": blocks / 255,
                "your values still run from 0 to 255; they must run from −1 to 1": 255 - blocks,
                "your values are whole numbers from 0 to 255, as they came": blocks,
                "you take every k-th pixel; take the mean of each k × k block, or thin lines break up": every,
                "you take every k-th pixel, and dark and light are not exchanged": -every,
                "your blocks are not neighbours: view as (N, size, k, size, k), and average the dimensions 2 and 4": 1
                - pixels.float().view(3, k, size, k, size).mean((1, 3))[:, None] / 127.5,
                "you take the sum of each block; take the mean": 1 - blocks * k * k / 127.5,
                "rows and columns are swapped": right.transpose(2, 3),
                "uint8 wraps around: turn the pixels into floats before you calculate": (
                    wrapped.float().view(3, size, k, size, k).mean((2, 4))[:, None] / 127.5 - 1
                ),
            },
        )
    return "a model does not complain about a wrong form, so check it: range, channel, size, and one look."


def _covariance(D: int) -> Tensor:
    root = torch.randn(D, 2 * D, dtype=torch.float64)
    return root @ root.T / (2 * D)


def _frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> Tensor:
    roots = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt()
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * roots.sum()


@exercise
def frechet(answer: Any) -> str:
    """Random covariances, one without full rank, and equal Gaussians."""
    D = 5
    a, b = _covariance(D), 2 * _covariance(D)
    m, n = torch.randn(2, D, dtype=torch.float64)
    yours = call(answer, m, a, n, b)
    if isinstance(yours, Tensor) and yours.is_complex():
        raise AnswerError("your result is a complex number; take .real of the eigenvalues")
    right = _frechet(m, a, n, b)
    if isinstance(yours, Tensor) and yours.shape == (D, D):
        raise AnswerError("your result is a matrix; take the trace of the matrices")
    means, traces = (m - n).square().sum(), a.trace() + b.trace()
    roots = (traces + means - right) / 2
    values, vectors = torch.linalg.eigh(a)
    root_a = vectors @ values.sqrt().diag() @ vectors.T
    symmetric = torch.linalg.eigvalsh(root_a @ b @ root_a).clamp(min=0)
    same(
        yours,
        right,
        "the distance is ‖μ_a − μ_b‖² + tr Σ_a + tr Σ_b − 2 · (the sum of the roots of the eigenvalues of Σ_a Σ_b)",
        {
            "the factor 2 before the root is missing": means + traces - roots,
            "the means are missing": traces - 2 * roots,
            "the distance of the means is not squared": means.sqrt() + traces - 2 * roots,
            "only the means are compared; the covariances are missing": means,
            "you add the root; it is subtracted": means + traces + 2 * roots,
            "you take the root of the trace; take the trace of the root, the sum of the roots of the eigenvalues": (
                means + traces - 2 * (a @ b).trace().sqrt()
            ),
            "you sum the eigenvalues without their roots": means + traces - 2 * symmetric.sum(),
            "you multiply the matrices entry by entry; the product of matrices is cov_a @ cov_b": (
                means + traces - 2 * torch.linalg.eigvals(a * b).real.clamp(min=0).sqrt().sum()
            ),
            "you take the root of each entry; a matrix has another root, by its eigenvalues": (
                means + traces - 2 * (a @ b).clamp(min=0).sqrt().trace()
            ),
            "you return the root of the distance; FID is the squared distance, without a root": right.clamp(
                min=0
            ).sqrt(),
            "you sum all entries of the covariances; take their traces": means + a.sum() + b.sum() - 2 * roots,
        },
        tol=1e-6,
    )
    thin = torch.randn(D, 2, dtype=torch.float64)
    flat = thin @ thin.T
    yours = call(answer, m, flat, m, a)
    if isinstance(yours, Tensor) and not torch.isfinite(yours).all():
        raise AnswerError(
            "your result is NaN if a covariance does not have full rank: rounding makes an eigenvalue negative. "
            "clamp(min=0) before the root"
        )
    same(yours, _frechet(m, flat, m, a), "wrong for a covariance that does not have full rank", tol=1e-5)
    same(call(answer, m, a, m, a), torch.zeros(()), "the distance of a Gaussian to itself must be 0", tol=1e-5)
    return "equal Gaussians have distance 0; whether images with equal Gaussians are equal is another question."


@exercise
def baseline(answer: Any) -> str:
    """A spy in the place of fid sees which rows it gets."""
    M, n = 60, 20
    features = torch.arange(M).float().view(-1, 1) * torch.tensor([1.0, 1000.0])
    calls: list[tuple[list[int], list[int]]] = []
    returned = torch.rand(()).item() + 0.5

    def fid(a: Any, b: Any) -> float:
        for each in (a, b):
            if not isinstance(each, Tensor) or each.ndim != 2 or each.shape[1] != 2:
                shape = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
                raise AnswerError(f"fid needs the features of two sets, (n, D) each; it got {shape}")
        calls.append(([int(row[0]) for row in a], [int(row[0]) for row in b]))
        return returned

    generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
    state = torch.random.get_rng_state()
    for _ in range(3):
        result = tensor(call(answer, features, n, fid, generator), ())
    if not calls:
        raise AnswerError("your function does not call fid; it returns fid(first set, second set)")
    for a, b in calls:
        if len(a) != n or len(b) != n:
            raise AnswerError(f"your sets have {len(a)} and {len(b)} images; both must have n = {n}")
        if sorted(a) == sorted(b):
            raise AnswerError("both sets are the same images, so the result is 0 whatever the images; take other ones")
        if len(set(a)) < n or len(set(b)) < n:
            raise AnswerError("some images are in a set twice; choose without repetition: torch.randperm")
        if set(a) & set(b):
            raise AnswerError("your sets overlap, which makes the baseline too small; no image may be in both")
    first = calls[0][0]
    if sorted(first) == list(range(n)) or first == sorted(first):
        raise AnswerError("your sets are in the order of the data, which may be sorted by class; choose at random")
    if len(calls) > 1 and calls[0] == calls[1]:
        raise AnswerError("every call chooses the same images; do not set a seed in the function")
    if not torch.equal(state, torch.random.get_rng_state()):
        raise AnswerError(
            "your random numbers do not come from the generator; pass generator=generator to torch.randperm"
        )
    if not close(result, torch.tensor(returned, dtype=torch.float64)):
        raise AnswerError("return what fid returns, unchanged")
    return "read every FID next to this number, with the same N."


@exercise
def fid_infinity(answer: Any) -> str:
    """Two points on a curve a + c/N."""
    for _ in range(2):
        limit, c = 0.5 + 3 * torch.rand(()).item(), 100 + 300 * torch.rand(()).item()
        n1, n2 = int(torch.randint(200, 400, ())), int(torch.randint(500, 3000, ()))
        f1, f2 = limit + c / n1, limit + c / n2
        yours = call(answer, n1, f1, n2, f2)
        mistakes = {
            "this is the FID with n2 images; extrapolate to N = ∞": f2,
            "this is the mean of both; extrapolate to N = ∞": (f1 + f2) / 2,
            "this is c; FID_∞ is asked for": c,
            "the sign is wrong; it is (n2 · fid2 − n1 · fid1) / (n2 − n1)": -limit,
            "n1 and n2 are swapped: each FID is multiplied by its own N": (n1 * f2 - n2 * f1) / (n1 - n2),
            "this is a weighted mean; subtract, so that c cancels": (n1 * f1 + n2 * f2) / (n1 + n2),
            "the division by n2 − n1 is missing": n2 * f2 - n1 * f1,
            "you divide by n1 + n2; it is n2 − n1": (n2 * f2 - n1 * f1) / (n1 + n2),
        }
        typical = {message: torch.tensor(value, dtype=torch.float64) for message, value in mistakes.items()}
        right = torch.tensor(limit, dtype=torch.float64)
        same(yours, right, "solve fid1 = FID_∞ + c/n1 and fid2 = FID_∞ + c/n2 for FID_∞", typical, tol=1e-5)
        same(call(answer, n2, f2, n1, f1), right, "the order of the two measurements must not matter", tol=1e-5)
    return "two measurements, two unknowns."


@exercise
def exam(answer: Any) -> str:
    """Small images with a known feature function; samples beyond [−1, 1] and between the levels."""
    N, D = 40, 4
    weight = torch.randn(D, 12)

    def levels(images: Tensor) -> Tensor:
        return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1

    def features(images: Any) -> Tensor:
        if not isinstance(images, Tensor) or images.shape[1:] != (3, 2, 2):
            raise AnswerError("features needs images (B, C, H, W), as they are in samples and real")
        # very sensitive to the last bits of a pixel, as a classifier may be
        x = images.flatten(1).float()
        return x @ weight.T + 0.5 * torch.sin(x * 300).mean(1, keepdim=True) * torch.arange(1, D + 1)

    real = levels(torch.randn(2 * N + 9, 3, 2, 2) * 0.5)
    samples = torch.randn(N, 3, 2, 2) * 0.7 + 0.2

    def gaussian(images: Tensor, biased: bool = False) -> tuple[Tensor, Tensor]:
        found = features(images).double()
        return found.mean(0), found.T.cov(correction=0 if biased else 1)

    def distance(a: Tensor, b: Tensor, biased: bool = False) -> Tensor:
        return _frechet(*gaussian(a, biased), *gaussian(b, biased))

    result = run(answer, samples, real, features)
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise AnswerError("return two numbers: the FID of the samples, and the FID of other real images")
    value, other = (tensor(each, (), name) for each, name in zip(result, ("the FID", "the baseline"), strict=True))
    reference, others, rounded = real[:N], real[N : 2 * N], levels(samples)
    right, right_other = distance(rounded, reference), distance(others, reference)
    if close(value, right_other, 1e-6) and close(other, right, 1e-6):
        raise AnswerError("your numbers are swapped; the FID of the samples comes first")
    steps = (samples.clamp(-1, 1) * 127.5).round() / 127.5
    wrong = "the FID of the samples is wrong; compare rounding, mean, covariance and distance with the comments"
    imprecise = "the FID of the samples is nearly right; compute mean and covariance in float64, with .double()"
    same(
        value,
        right,
        imprecise if close(value, right, 1e-4) else wrong,
        {
            "the samples are not rounded to 256 levels": distance(samples.clamp(-1, 1), reference),
            "the samples are neither clipped nor rounded": distance(samples, reference),
            "you round without clipping first": distance(((samples + 1) * 127.5).round() / 127.5 - 1, reference),
            "your levels are off by half a step: add 1 before you multiply by 127.5, and subtract it afterwards": (
                distance(steps, reference)
            ),
            "the reference is all real images; it is the first N": distance(rounded, real),
            "the reference is the other real images; it is the first N": distance(rounded, others),
            "your covariance divides by N; divide by N − 1, as torch.cov does": distance(
                rounded, reference, biased=True
            ),
            "only the means are compared": (gaussian(rounded)[0] - gaussian(reference)[0]).square().sum(),
        },
        tol=1e-6,
    )
    same(
        other,
        right_other,
        "the baseline is wrong: it compares real[N : 2 * N] with the reference real[:N]",
        {
            "the baseline compares the reference with itself": torch.zeros(()),
            "the baseline uses all the other real images; it must have N, as many as there are samples": distance(
                real[N:], reference
            ),
            "the baseline compares the samples with the other real images": distance(rounded, others),
            "the baseline compares with all real images; the reference is the first N": distance(others, real),
        },
        tol=1e-6,
    )
    return "same N, same features, same reference, same levels: only then are two FIDs comparable."
