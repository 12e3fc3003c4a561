"""How far two sets of images lie apart, by the features that a network sees in them: FID, KID, precision and recall.

Every function takes features (N, D) of two sets, which need not be of one size, and computes in float64. ValueError if
the shapes do not go together; UserError for fewer than LEAST images in a set, or features that are not finite. The
values depend on the network and, FID above all, on N: compare only those that have both in common.
"""

import math

import torch
from torch import Tensor

from ..common.errors import UserError

LEAST = 256  # twice the 128 features of our classifier: with N <= D a covariance is not even of full rank
CHUNK = 256  # rows at a time, so that an N x N table is never whole in memory


def fid(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the Gaussians with the means and covariances of two sets (Heusel et al. 2017), 0 or more.

    |μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½). With Σ = RᵀR, tr Σ is the sum of the squares of R, and the eigenvalues of
    Σa Σb are the squares of the singular values of Ra Rbᵀ: no covariance is made and no root taken of an eigenvalue
    that is 0 but for rounding, so features that are constant, or more than the images, are no special case.
    """
    a, b = _checked(a, b)
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    between = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * between
    return max(distance.item(), 0.0)  # equal sets can round to just below


def kid(a: Tensor, b: Tensor) -> float:
    """Unbiased estimate of MMD² with the kernel k(x, y) = (x·y / D + 1)³ (Bińkowski et al. 2018), from all samples.

    mean k(a, a') + mean k(b, b') − 2 mean k(a, b), over pairs of two different samples. For two sets of one
    distribution it is 0 on average, and so below 0 for about half of them.
    """
    a, b = _checked(a, b)
    return _mean_within(a) + _mean_within(b) - 2 * _kernel_sum(a, b) / (len(a) * len(b))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """The shares of fake images that could be real, and of real ones that could be faked (Kynkäänniemi et al. 2019).

    Precision is the share of fake images inside the manifold of the real ones, and recall the other way around. The
    manifold of a set is a ball around each of its images that just reaches the k-th nearest of the others.
    ValueError for a k outside 1…N − 1.
    """
    real, fake = _checked(real, fake)
    if not 1 <= k < min(len(real), len(fake)):
        raise ValueError(f"k must be between 1 and {min(len(real), len(fake)) - 1}, not {k}")
    return _share_inside(fake, real, k), _share_inside(real, fake, k)


def _checked(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"features are (N, D) with the same D, not {tuple(a.shape)} and {tuple(b.shape)}")
    if min(len(a), len(b)) < LEAST:
        raise UserError(
            f"sets of {len(a)} and {len(b)} images are too small to be compared: "
            f"it takes at least {LEAST} of each (--num {LEAST})"
        )
    if not (a.isfinite().all() and b.isfinite().all()):
        raise UserError("some features are nan or infinite, and so have no distance: see whether the images are finite")
    return a.double(), b.double()


def _gaussian(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean (D,) of features and a root R of their covariance: RᵀR = Σ, with N − 1 in the denominator."""
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / math.sqrt(len(x) - 1), mode="r").R


def _mean_within(x: Tensor) -> float:
    """The mean of k over every pair of two different ones of x."""
    with_itself = _kernel(x.square().sum(1), x.shape[1]).sum().item()
    return (_kernel_sum(x, x) - with_itself) / (len(x) * (len(x) - 1))


def _kernel_sum(x: Tensor, y: Tensor) -> float:
    """The sum of k over every pair of an x and a y."""
    return sum(_kernel(rows @ y.T, x.shape[1]).sum().item() for rows in x.split(CHUNK))


def _kernel(dot: Tensor, D: int) -> Tensor:
    return (dot / D + 1) ** 3


def _share_inside(points: Tensor, others: Tensor, k: int) -> float:
    """The share of points (N, D) that lie in a ball around one of the others (M, D)."""
    # the nearest of all is the image itself
    radius = torch.cat([_distances(rows, others).kthvalue(k + 1).values for rows in others.split(CHUNK)])
    inside = torch.cat([(_distances(rows, others) <= radius).any(1) for rows in points.split(CHUNK)])
    return inside.double().mean().item()


def _distances(x: Tensor, y: Tensor) -> Tensor:
    # by matrix products, which are faster, a copy would not be at distance 0
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
