"""Right and wrong answers to the exercises of lab 6."""

import math
from typing import Any

import torch
import torch.nn.functional as F

import shapedreamer as sd
from tests.labs.answers import Answers

# cosine_alpha_bar


def with_list(T: int, s: float = 0.008) -> Any:
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T + 1)]
    return torch.tensor([value / f[0] for value in f], dtype=torch.float64)


def from_package(T: int, s: float = 0.008) -> Any:
    """With β clipped to 0.999, as in the paper."""
    return sd.schedule.cosine(T, s).alpha_bar


def cosine_with(f: Any, finish: Any = lambda f: f / f[0], T_plus: int = 1) -> Any:
    def wrong(T: int, s: float = 0.008) -> Any:
        return finish(f(torch.arange(T + T_plus, dtype=torch.float64), T, s))

    return wrong


def angle(t: Any, T: int, s: float) -> Any:
    return (t / T + s) / (1 + s) * math.pi / 2


# prepare


def pooled(pixels: Any, size: int) -> Any:
    images = pixels[:, None].float() / 255
    return -(F.avg_pool2d(images, pixels.shape[-1] // size) * 2 - 1)


class Prepare:
    def __call__(self, pixels: Any, size: int) -> Any:
        N, height, _ = pixels.shape
        k = height // size
        ink = 255 - pixels.to(torch.float64)
        small = ink.reshape(N, size, k, size * k).mean(2).reshape(N, 1, size, size, k).mean(-1)
        return small.mul_(2 / 255).sub_(1)


# frechet


def with_roots(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> Any:
    """By the symmetric matrix Σ_a^½ Σ_b Σ_a^½, whose eigenvalues are the same."""
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    roots = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt()
    return float(((mean_a - mean_b) ** 2).sum() + torch.trace(cov_a + cov_b) - 2 * roots.sum())


class Frechet:
    def __call__(self, mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> Any:
        eigenvalues = torch.linalg.eigvals(torch.matmul(cov_b, cov_a))
        difference = mean_a - mean_b
        return (
            difference @ difference
            + torch.diagonal(cov_a).sum()
            + cov_b.diag().sum()
            - 2 * eigenvalues.sqrt().real.sum()
        )


def frechet_with(of_roots: Any, means: Any = lambda d: d.square().sum(), finish: Any = lambda x: x) -> Any:
    def wrong(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> Any:
        return finish(means(mean_a - mean_b) + cov_a.trace() + cov_b.trace() - of_roots(cov_a, cov_b))

    return wrong


def roots(a: Any, b: Any) -> Any:
    return torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt().sum()


def without_clamp(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> Any:
    values = torch.linalg.eigvals(cov_a @ cov_b).real
    values = torch.where(values < 1e-9, -1e-12, values)  # rounding, made certain
    return (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * values.sqrt().sum()


# baseline


def shuffled(features: Any, n: int, fid: Any, generator: Any) -> Any:
    mixed = features[torch.randperm(len(features), generator=generator)]
    a, b = mixed[: 2 * n].chunk(2)
    return torch.tensor(fid(a, b))


def by_argsort(features: Any, n: int, fid: Any, generator: Any) -> Any:
    order = torch.rand(len(features), generator=generator).argsort()
    return fid(features[order[-n:]], features[order[:n]])


def baseline_with(first: Any, second: Any) -> Any:
    def wrong(features: Any, n: int, fid: Any, generator: Any) -> Any:
        order = torch.randperm(len(features), generator=generator)
        return fid(features[first(order, n)], features[second(order, n)])

    return wrong


def overlapping(features: Any, n: int, fid: Any, generator: Any) -> Any:
    a, b = (torch.randperm(len(features), generator=generator)[:n] for _ in range(2))
    return fid(features[a], features[b])


def with_repetition(features: Any, n: int, fid: Any, generator: Any) -> Any:
    half = len(features) // 2
    a, b = (torch.randint(half, (n,), generator=generator) for _ in range(2))
    return fid(features[a], features[half + b])


def without_generator(features: Any, n: int, fid: Any, generator: Any) -> Any:
    order = torch.randperm(len(features))
    return fid(features[order[:n]], features[order[n : 2 * n]])


# fid_infinity


def by_slope(n1: float, fid1: float, n2: float, fid2: float) -> Any:
    c = (fid1 - fid2) / (1 / n1 - 1 / n2)
    return fid1 - c / n1


def by_solving(n1: float, fid1: float, n2: float, fid2: float) -> Any:
    matrix = torch.tensor([[1, 1 / n1], [1, 1 / n2]], dtype=torch.float64)
    return torch.linalg.solve(matrix, torch.tensor([fid1, fid2], dtype=torch.float64))[0]


# exam


def to_levels(images: Any) -> Any:
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def judge(
    samples: Any,
    real: Any,
    features: Any,
    rounded: Any = to_levels,
    reference: Any = lambda real, N: real[:N],
    other: Any = lambda real, N: real[N : 2 * N],
    correction: int = 1,
) -> Any:
    def gaussian(images: Any) -> Any:
        found = features(images).double()
        centred = found - found.mean(0)
        return found.mean(0), centred.T @ centred / (len(found) - correction)

    N = len(samples)
    base = gaussian(reference(real, N))
    return with_roots(*gaussian(rounded(samples)), *base), with_roots(*gaussian(other(real, N)), *base)


def judge_uint8(samples: Any, real: Any, features: Any) -> Any:
    N = len(samples)
    images = (samples.clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).float().div(127.5).sub(1)
    sets = [features(each).double() for each in (images, real[N : 2 * N], real[:N])]
    moments = [(each.mean(0), each.T.cov()) for each in sets]
    return [Frechet()(*moments[i], *moments[2]) for i in (0, 1)]


def judge_with(**changes: Any) -> Any:
    return lambda *arguments: judge(*arguments, **changes)


ANSWERS = {
    "cosine_alpha_bar": Answers(
        right=[with_list, from_package],
        wrong=[
            (cosine_with(lambda t, T, s: torch.cos(angle(t, T, s))), "the square is missing"),
            (cosine_with(lambda t, T, s: torch.cos(angle(t, T, s)) ** 2, finish=lambda f: f), "f(0) is missing"),
            (cosine_with(lambda t, T, s: torch.cos(angle(t, T, 0)) ** 2), "s is missing"),
            (cosine_with(lambda t, T, s: torch.cos(angle(t, T, s)) ** 2, T_plus=0), "T + 1"),
            (cosine_with(lambda t, T, s: torch.cos(2 * angle(t, T, s)) ** 2), "twice too large"),
            (cosine_with(lambda t, T, s: torch.cos(angle(t, T, 0.008)) ** 2), "use the argument"),
            (cosine_with(lambda t, T, s: torch.cos(angle(t, T, s)) ** 2, lambda f: (f / f[0]).float()), "float32"),
            (cosine_with(lambda t, T, s: torch.cos(angle(t, T, s)) ** 2, lambda f: (f / f[0]).flip(0)), "from T to 0"),
        ],
    ),
    "prepare": Answers(
        right=[pooled, Prepare()],
        wrong=[
            (lambda pixels, size: -pooled(pixels, size), "not exchanged"),
            (lambda pixels, size: (pooled(pixels, size) + 1) / 2, "from 0 to 1"),
            (lambda pixels, size: (pooled(pixels, size) + 1) * 127.5, "from 0 to 255"),
            (lambda pixels, size: pooled(pixels, size)[:, 0], "channel is missing"),
            (lambda pixels, size: pooled(pixels, size).movedim(1, -1), "before height and width"),
            (
                lambda pixels, size: pooled(pixels[:, :: len(pixels[0]) // size, :: len(pixels[0]) // size], size),
                "every k-th",
            ),
            (lambda pixels, size: 1 - pixels[:, None].float() / 127.5, "keep their size"),
            (lambda pixels, size: 255 - pixels[:, None, :size, :size], "float32"),
            (lambda pixels, size: pooled(2 * pixels, size), "uint8 wraps around"),
            (lambda pixels, size: pooled(pixels.transpose(1, 2), size), "rows and columns"),
        ],
    ),
    "frechet": Answers(
        right=[with_roots, Frechet()],
        wrong=[
            (frechet_with(roots), "factor 2"),
            (frechet_with(lambda a, b: 2 * roots(a, b), means=lambda d: 0), "the means are missing"),
            (frechet_with(lambda a, b: 2 * roots(a, b), means=lambda d: d.norm()), "not squared"),
            (frechet_with(lambda a, b: -2 * roots(a, b)), "it is subtracted"),
            (frechet_with(lambda a, b: 2 * (a @ b).trace().sqrt()), "root of the trace"),
            (frechet_with(lambda a, b: 2 * (a @ b).trace()), "without their roots"),
            (frechet_with(lambda a, b: 2 * (a @ b).clamp(min=0).sqrt().trace()), "each entry"),
            (frechet_with(lambda a, b: 2 * roots(a, b), finish=lambda x: x.sqrt()), "root of the distance"),
            (lambda m, a, n, b: (m - n).square().sum(), "covariances are missing"),
            (frechet_with(lambda a, b: 2 * torch.linalg.eigvals(a @ b).sqrt().sum()), "complex"),
            (without_clamp, "clamp(min=0)"),
        ],
    ),
    "baseline": Answers(
        right=[shuffled, by_argsort],
        wrong=[
            (lambda features, n, fid, generator: fid(features[:n], features[n : 2 * n]), "sorted by class"),
            (overlapping, "overlap"),
            (baseline_with(lambda order, n: order[:n], lambda order, n: order[:n]), "the same images"),
            (baseline_with(lambda order, n: order[:n], lambda order, n: order[n:]), "both must have n"),
            (with_repetition, "twice"),
            (without_generator, "do not come from the generator"),
            (lambda features, n, fid, generator: 0.0, "does not call fid"),
            (lambda features, n, fid, generator: -shuffled(features, n, fid, generator), "unchanged"),
        ],
    ),
    "fid_infinity": Answers(
        right=[by_slope, by_solving],
        wrong=[
            (lambda n1, f1, n2, f2: f2, "extrapolate to N = ∞"),
            (lambda n1, f1, n2, f2: (f1 + f2) / 2, "the mean of both"),
            (lambda n1, f1, n2, f2: (f1 - f2) / (1 / n1 - 1 / n2), "this is c"),
            (lambda n1, f1, n2, f2: (n1 * f1 + n2 * f2) / (n1 + n2), "weighted mean"),
            (lambda n1, f1, n2, f2: n2 * f2 - n1 * f1, "division by n2 − n1"),
            (lambda n1, f1, n2, f2: (n1 * f2 - n2 * f1) / (n1 - n2), "its own N"),
            (lambda n1, f1, n2, f2: (n2 * f2 - n1 * f1) / (n1 - n2), "sign is wrong"),
        ],
    ),
    "exam": Answers(
        right=[judge, judge_uint8],
        wrong=[
            (judge_with(rounded=lambda x: x), "neither clipped nor rounded"),
            (judge_with(rounded=lambda x: x.clamp(-1, 1)), "not rounded"),
            (judge_with(rounded=lambda x: (x.clamp(-1, 1) * 127.5).round() / 127.5), "half a step"),
            (judge_with(reference=lambda real, N: real), "all real images"),
            (judge_with(correction=0), "divides by N;"),
            (judge_with(other=lambda real, N: real[:N]), "with itself"),
            (judge_with(other=lambda real, N: real[N:]), "as many as there are samples"),
            (lambda *arguments: judge(*arguments)[::-1], "swapped"),
            (lambda *arguments: judge(*arguments)[0], "two numbers"),
        ],
    ),
}
