"""FID, KID, precision and recall against closed forms, explicit loops and torchmetrics."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.evaluation import distances
from shapedreamer.evaluation.distances import MIN_IMAGES, fid, kid, precision_recall

FUNCTIONS: list[Callable[[Tensor, Tensor], object]] = [fid, kid, precision_recall]


def normal(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def whitened(n: int, d: int, seed: int = 0) -> Tensor:
    """Features with mean exactly 0 and covariance exactly the identity."""
    x = normal(n, d, seed)
    return torch.linalg.qr(x - x.mean(0)).Q * math.sqrt(n - 1)


def rotation(d: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed)).Q


def activations(n: int, d: int, seed: int) -> Tensor:
    """Features like those of a network: non-negative, some constantly 0, and correlated."""
    x = (normal(n, d, seed) @ normal(d, d, 99) / math.sqrt(d)).relu()
    x[:, : d // 8] = 0
    return x


def line(first: int, last: int) -> Tensor:
    """The integers from first to last as one-dimensional points: (N, 1)."""
    return torch.arange(first, last + 1, dtype=torch.float64)[:, None]


# FID


def test_whitened_features_have_zero_mean_and_identity_covariance() -> None:
    x = whitened(300, 5)
    assert_close(x.mean(0), torch.zeros(5).double(), rtol=0, atol=1e-12)
    assert_close(x.T.cov(), torch.eye(5).double(), rtol=0, atol=1e-12)


def test_fid_is_0_if_the_moments_are_equal() -> None:
    x = normal(400, 128)
    assert 0 <= fid(x, x) < 1e-10
    assert 0 <= fid(whitened(256, 16, seed=1), whitened(700, 16, seed=2)) < 1e-10


def test_fid_of_a_shift_is_its_squared_length() -> None:
    x, shift = activations(500, 24, seed=0), torch.linspace(-1, 2, 24).double()
    assert fid(x, x + shift) == pytest.approx(shift.square().sum().item(), rel=1e-11)


def test_fid_of_diagonal_covariances_is_the_squared_distance_of_the_standard_deviations() -> None:
    a, b = torch.tensor([0.0, 1.0, 2.0, 5.0]).double(), torch.tensor([3.0, 1.0, 0.5, 5.5]).double()
    x, y = whitened(300, 4, seed=1) * a, whitened(257, 4, seed=2) * b
    assert fid(x, y) == pytest.approx(9 + 0 + 2.25 + 0.25, rel=1e-12)


def test_fid_of_two_features_matches_the_closed_form() -> None:
    # (tr M^½)² = tr M + 2 √(det M) for 2 x 2, and these two covariances do not commute
    for seed in range(5):
        A, B = normal(2, 2, seed), normal(2, 2, seed + 50)
        a, b = A.T @ A, B.T @ B
        between = math.sqrt((a @ b).trace() + 2 * math.sqrt(a.det() * b.det()))
        expected = (a.trace() + b.trace()).item() - 2 * between
        assert fid(whitened(300, 2, 1) @ A, whitened(400, 2, 2) @ B) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_covariance_is_the_unbiased_one() -> None:
    x = torch.zeros(MIN_IMAGES, 1)
    x[0] = 1  # variance: (1 − 1/N) / (N − 1) = 1/N, and the mean is 1/N
    assert fid(x, torch.zeros(MIN_IMAGES, 1)) == pytest.approx(1 / MIN_IMAGES + 1 / MIN_IMAGES**2, rel=1e-12)


def test_fid_is_symmetric_and_invariant_to_order_rotation_and_translation() -> None:
    a, b = activations(300, 32, seed=1), 1.3 * activations(290, 32, seed=2) + 0.1
    value, turn = fid(a, b), rotation(32)
    assert value > 0.1
    assert fid(b, a) == pytest.approx(value, rel=1e-12)
    assert fid(a.flip(0), b[torch.randperm(290, generator=torch.Generator().manual_seed(0))]) == pytest.approx(value)
    assert fid(a @ turn, b @ turn) == pytest.approx(value, rel=1e-11)
    assert fid(a + 1e5, b + 1e5) == pytest.approx(value, rel=1e-7)
    assert fid(10 * a, 10 * b) == pytest.approx(100 * value, rel=1e-11)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_fid_with_fewer_images_than_features(scale: float) -> None:
    # The second set has scale² times the covariance of x, so FID = (1 − scale)² tr Σ. A third of Σ's eigenvalues are 0.
    x = normal(MIN_IMAGES, 384)
    mean = x.mean(0)
    expected = (1 - scale) ** 2 * x.var(0).sum().item()
    assert fid(x, mean + scale * (x - mean)) == pytest.approx(expected, rel=1e-11, abs=1e-9)


def test_fid_of_orthogonal_covariances_is_the_total_variance() -> None:
    a, b = torch.zeros(300, 600).double(), torch.zeros(280, 600).double()
    a[:, :3], b[:, 3:400] = normal(300, 3, seed=1), normal(280, 397, seed=2)
    between = (a.mean(0) - b.mean(0)).square().sum()
    assert fid(a, b) == pytest.approx((between + a.var(0).sum() + b.var(0).sum()).item(), rel=1e-12)


def test_fid_does_not_change_when_features_are_embedded_in_more_dimensions() -> None:
    a, b = normal(300, 3, seed=1), normal(300, 3, seed=2) @ normal(3, 3, seed=3)
    basis = rotation(128)[:3]
    assert fid(a @ basis, b @ basis) == pytest.approx(fid(a, b), rel=1e-11)
    assert fid(a @ basis, a @ basis) < 1e-12  # square roots of eigenvalues that are 0 up to rounding would give 1e-7


def test_fid_of_constant_features() -> None:
    ones, x = torch.ones(MIN_IMAGES, 128), whitened(300, 128)
    assert fid(ones, ones) == 0
    assert fid(ones, 3 * ones) == pytest.approx(4 * 128, rel=1e-12)
    assert fid(ones, x) == pytest.approx(128 + 128, rel=1e-12)  # the means differ by 1, and Σ is the identity


class Features(nn.Module):
    """A feature extractor for torchmetrics whose input already is the features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 8), (400, 333, 128), (256, 512, 200)])
def test_fid_agrees_with_torchmetrics(n: int, m: int, d: int) -> None:
    metrics: Any = pytest.importorskip("torchmetrics.image.fid")
    a, b = activations(n, d, seed=1), activations(m, d, seed=2) * torch.linspace(0.5, 2, d) + 0.2
    reference = metrics.FrechetInceptionDistance(feature=Features(d), normalize=True).set_dtype(torch.float64)
    for rows in a.split(100):
        reference.update(rows, real=True)
    for rows in b.split(100):
        reference.update(rows, real=False)
    assert fid(a, b) == pytest.approx(reference.compute().item(), rel=1e-6)
    assert fid(a.float(), b.float()) == pytest.approx(fid(a, b), rel=1e-5)


# KID


def kernel(x: list[float], y: list[float]) -> float:
    return (math.fsum(p * q for p, q in zip(x, y, strict=True)) / len(x) + 1) ** 3


def test_kid_agrees_with_explicit_loops() -> None:
    x, y = normal(256, 2, seed=1), normal(261, 2, seed=2) + 0.3
    a, b = x.tolist(), y.tolist()
    aa = math.fsum(kernel(p, q) for i, p in enumerate(a) for j, q in enumerate(a) if i != j) / (256 * 255)
    bb = math.fsum(kernel(p, q) for i, p in enumerate(b) for j, q in enumerate(b) if i != j) / (261 * 260)
    ab = math.fsum(kernel(p, q) for p in a for q in b) / (256 * 261)
    assert kid(x, y) == pytest.approx(aa + bb - 2 * ab, rel=1e-11)
    assert kid(y, x) == pytest.approx(aa + bb - 2 * ab, rel=1e-11)


def test_kid_agrees_with_torchmetrics() -> None:
    metrics: Any = pytest.importorskip("torchmetrics.image.kid")
    a, b = activations(300, 128, seed=1), activations(300, 128, seed=2) + 0.1
    assert kid(a, b) == pytest.approx(metrics.poly_mmd(a, b).item(), rel=1e-9)


def test_kid_of_constant_features_is_the_kernel_between_two_points() -> None:
    p, q = [0.5, -1.0, 2.0], [1.0, 0.0, -3.0]
    a, b = torch.tensor([p]).expand(MIN_IMAGES, -1), torch.tensor([q]).expand(300, -1)
    assert kid(a, b) == pytest.approx(kernel(p, p) + kernel(q, q) - 2 * kernel(p, q), rel=1e-12)
    assert kid(a, a) == pytest.approx(0, abs=1e-12)


def test_kid_is_0_on_average_for_sets_from_one_distribution() -> None:
    values = torch.tensor([kid(normal(256, 4, 2 * i), normal(300, 4, 2 * i + 1)) for i in range(100)])
    standard_error = values.std().item() / 10
    assert abs(values.mean().item()) < 3 * standard_error
    assert (values < 0).sum() > 20
    # A biased estimate, which includes pairs of a sample with itself, would fail this test.
    self_kernel = (normal(10_000, 4).square().sum(1) / 4 + 1).pow(3).mean().item()
    assert 5 * standard_error < (self_kernel - 1) / 256


# Precision and recall


def test_precision_and_recall_are_1_for_equal_sets_and_0_for_distant_ones() -> None:
    x = normal(300, 8)
    assert precision_recall(x, x) == (1, 1)
    assert precision_recall(x, x[torch.randperm(300, generator=torch.Generator().manual_seed(0))]) == (1, 1)
    assert precision_recall(x, x + 100) == (0, 0)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_recall_if_half_of_the_points_are_covered(k: int) -> None:
    # The last fake point has neighbours on one side only, so its ball has radius k; the ball includes its boundary.
    real, fake = line(0, 511), line(0, 255)
    assert precision_recall(real, fake, k) == (1, (256 + k) / 512)
    assert precision_recall(fake, real, k) == ((256 + k) / 512, 1)


def test_k_is_3_by_default() -> None:
    assert precision_recall(line(0, 511), line(0, 255)) == (1, 259 / 512)


def test_a_collapsed_generator_has_high_precision_and_low_recall() -> None:
    real = activations(512, 64, seed=0) * math.pi + 100  # so far from 0 that |x|² − 2xy + |y|² would not be 0 for x = y
    fake = real[7].expand(MIN_IMAGES, -1)
    assert precision_recall(real, fake) == (1, 1 / 512)  # each ball is a single point and contains only that image
    assert precision_recall(real, fake + 1e-9)[1] == 0


def test_a_generator_with_outliers_has_high_recall_and_lower_precision() -> None:
    real = line(0, 255)
    assert precision_recall(real, torch.cat([real, real + 10_000])) == (0.5, 1)


def test_precision_and_recall_agree_with_explicit_loops() -> None:
    real, fake = normal(260, 3, seed=1), normal(256, 3, seed=2) * 1.5 + 0.5

    def share_inside(points: Tensor, others: Tensor, k: int) -> float:
        balls = [(x, sorted(math.dist(x, y) for y in others.tolist())[k]) for x in others.tolist()]
        hits = [any(math.dist(point, x) <= radius for x, radius in balls) for point in points.tolist()]
        return sum(hits) / len(hits)

    for k in (1, 3):
        found = precision_recall(real, fake, k)
        assert found == (share_inside(fake, real, k), share_inside(real, fake, k))
        assert 0.05 < found[0] < 0.95


@pytest.mark.parametrize("k", [-1, 0, 256, 300])
def test_k_must_be_smaller_than_both_sets(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be between 1 and 255, not {k}"):
        precision_recall(normal(400, 2), normal(256, 2), k)


# All measures


@pytest.mark.parametrize("function", FUNCTIONS)
def test_too_few_images_are_rejected(function: Callable[[Tensor, Tensor], object]) -> None:
    few, enough = normal(MIN_IMAGES - 1, 4), normal(MIN_IMAGES, 4)
    function(enough, enough)
    for a, b in ((few, enough), (enough, few)):
        with pytest.raises(UserError, match=rf"{len(a)} and {len(b)} images: .* at least 256 .*`num=256`"):
            function(a, b)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_features_are_rejected(function: Callable[[Tensor, Tensor], object], value: float) -> None:
    good, bad = normal(MIN_IMAGES, 4), normal(MIN_IMAGES, 4)
    bad[-1, 2] = value
    for a, b in ((good, bad), (bad, good)):
        with pytest.raises(UserError, match="NaN or infinite"):
            function(a, b)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("shape", [(MIN_IMAGES, 5), (MIN_IMAGES,), (MIN_IMAGES, 4, 1)])
def test_features_of_the_wrong_shape_are_rejected(
    function: Callable[[Tensor, Tensor], object], shape: tuple[int, ...]
) -> None:
    for a, b in ((torch.zeros(MIN_IMAGES, 4), torch.zeros(shape)), (torch.zeros(shape), torch.zeros(MIN_IMAGES, 4))):
        with pytest.raises(ValueError, match="same D"):
            function(a, b)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_single_precision_features_are_computed_in_double_precision(
    function: Callable[[Tensor, Tensor], object],
) -> None:
    a, b = activations(300, 16, seed=1).float(), activations(300, 16, seed=2).float() + 30
    assert function(a, b) == function(a.double(), b.double())


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_the_chunk_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    a, b = activations(300, 16, seed=1), activations(257, 16, seed=2)
    expected = kid(a, b), precision_recall(a, b)
    monkeypatch.setattr(distances, "CHUNK", chunk)
    assert kid(a, b) == pytest.approx(expected[0], rel=1e-9)
    assert precision_recall(a, b) == expected[1]
