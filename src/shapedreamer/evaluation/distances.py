"""Distances between two sets of images, computed from their features: FID, KID, precision and recall.

Every function takes the features of two sets, (N, D) and (M, D), and computes in float64. ValueError if the shapes do
not match; UserError if a set has fewer than MIN_IMAGES images, or if a feature is not finite. The values depend on the
network that computes the features and on N (FID in particular): compare only values that share both.
"""

import math

import torch
from torch import Tensor

from ..common.errors import UserError

MIN_IMAGES = 256  # twice the 128 features of our classifier: with N <= D the covariance does not have full rank
CHUNK = 256  # rows per matrix product, so that the N x M matrix is never held in memory


def fid(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between two Gaussians with the sets' means and covariances (Heusel et al. 2017). At least 0.

        ``|μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½)``

    Write Σ = RᵀR. Then tr Σ is the sum of the squared entries of R, and the eigenvalues of Σa Σb are the squared
    singular values of Ra Rbᵀ. So the code computes no covariance, and takes no square root of an eigenvalue that is 0
    up to rounding. Constant features, or more features than images, need no special case.
    """
    a, b = _checked(a, b)
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    cross_term = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * cross_term
    return max(distance.item(), 0.0)  # rounding can make it slightly negative for equal sets


def kid(a: Tensor, b: Tensor) -> float:
    """Kernel distance: the unbiased estimate of MMD² with k(x, y) = (x·y / D + 1)³ (Bińkowski et al. 2018).

        ``mean k(a, a') + mean k(b, b') − 2 mean k(a, b)``

    The means run over all pairs of different images. For two sets from the same distribution the expected value is 0,
    so small negative values are normal.
    """
    a, b = _checked(a, b)
    return _mean_within(a) + _mean_within(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019), each between 0 and 1.

    Precision is the share of fake images inside the manifold of the real images; recall is the share of real images
    inside the manifold of the fake images. The manifold of a set is the union of balls around its images; the radius
    of a ball is the distance to the k-th nearest neighbour within the set. ValueError unless 1 <= k <= N − 1.
    """
    real, fake = _checked(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k must be between 1 and {min(len(real), len(fake)) - 1}, not {k}")
    return _share_inside(fake, real, k), _share_inside(real, fake, k)


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features must be (N, D) with the same D, not {tuple(a.shape)} and {tuple(b.shape)}")
    if min(len(a), len(b)) < MIN_IMAGES:
        raise UserError(
            f"cannot compare {len(a)} and {len(b)} images: each set needs at least {MIN_IMAGES} (`num={MIN_IMAGES}`)"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError("some features are NaN or infinite; check that all pixels of the samples are finite")
    return a.double(), b.double()


def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) of the features, and a root R of their covariance: RᵀR = Σ, normalised by N − 1."""
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / math.sqrt(len(x) - 1), mode="r").R


def _mean_within(x: Tensor) -> float:
    """The mean of k(x, x') over all pairs of different rows of x."""
    diagonal = _kernel(x.square().sum(1), x.shape[1]).sum().item()
    return (_kernel_sum(x, x) - diagonal) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """The sum of k(x, y) over all pairs of rows."""
    return sum(_kernel(rows @ y.T, x.shape[1]).sum().item() for rows in x.split(CHUNK))


def _kernel(dot: Tensor, D: int) -> Tensor:
    return (dot / D + 1) ** 3


def _share_inside(points: Tensor, others: Tensor, k: int) -> float:
    """The share of `points` (N, D) inside the manifold of `others` (M, D); see precision_recall."""
    # k + 1, because the nearest neighbour of an image is the image itself
    radius = torch.cat([_distances(rows, others).kthvalue(k + 1).values for rows in others.split(CHUNK)])
    inside = torch.cat([(_distances(rows, others) <= radius).any(1) for rows in points.split(CHUNK)])
    return inside.double().mean().item()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # Matrix products would be faster, but the distance between equal rows would not be exactly 0.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
