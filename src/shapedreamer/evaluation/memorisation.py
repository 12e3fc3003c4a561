"""Are the samples new, or copies of training images? Measured by the distance to the nearest training image.

The distance alone says little: a simple image has close neighbours, a detailed one does not. So it is compared with the
same distance for real images that the model has not seen, as in "A non-parametric test to detect data-copying in
generative models" (Meehan et al. 2020), with a single cell. Distances between pixels reveal copies, but not images that
were shifted, mirrored or recoloured.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import UserError
from ..data.spec import Dataset

CHUNK = 512  # training images per matrix product
CLOSE_QUANTILE = 0.01  # "close" means: as close as the closest 1% of the held-out images


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training image, as `nearest` measures them, and statistics of them.

    samples:  (N,) float64, the distance of each sample
    held_out: (M,) float64, the distance of each held-out image
    pairs:    (P, 2) int64, for the samples closest to a training image: the index of the sample and that of the
              training image, closest pair first
    """

    samples: Tensor
    held_out: Tensor
    pairs: Tensor

    @property
    def nearer(self) -> float:
        """The probability that a sample is closer to the training images than a held-out image is.

        0.5 means no memorisation; 1 means that every sample is closer than every held-out image. Values far below 0.5
        mean that the samples do not resemble the data. The standard error around 0.5 is √((N + M + 1) / 12NM): 0.014
        for 2,000 samples and 512 held-out images. The paper's C_T is 0.5 − nearer, divided by that standard error.
        """
        return (1 + (self.held_out - self.samples[:, None]).sign().mean().item()) / 2

    @property
    def close(self) -> float:
        """The share of samples that are as close to a training image as the closest 1% of the held-out images.

        Compare it with `close_held_out`. It reveals a few copies among many samples. If the data are so simple that 1%
        of the held-out images equal a training image, only exact copies count; then `nearer` says more.
        """
        return self._share_close(self.samples)

    @property
    def close_held_out(self) -> float:
        """The same share for held-out images: 0.01, or more if there are few of them or many distances are equal."""
        return self._share_close(self.held_out)

    def _share_close(self, distances: Tensor) -> float:
        return (distances <= self.held_out.quantile(CLOSE_QUANTILE, interpolation="lower")).double().mean().item()


def memorisation(samples: Tensor, held_out: Tensor, training: Dataset, max_pairs: int = 8) -> Memorisation:
    """Find the nearest training image of each sample (N, C, H, W) and each held-out real image (M, C, H, W).

    max_pairs: how many of the closest pairs to return; at most N are
    UserError if every held-out image is also a training image; ValueError if there are no images. See also `nearest`.
    """
    if not len(samples) or not len(held_out):
        raise ValueError(f"need samples and held-out images, not {len(samples)} samples and {len(held_out)} held out")
    distances, indices = (column[:, 0] for column in nearest(torch.cat([samples.cpu(), held_out.cpu()]), training))
    sample_distances, held_out_distances = distances[: len(samples)], distances[len(samples) :]
    if not held_out_distances.any():
        raise UserError(
            f"every held-out image of {training.spec.name} is also a training image, so copies cannot be told from "
            "new images; use more distinct images"
        )
    closest = sample_distances.argsort(stable=True)[:max_pairs]
    return Memorisation(sample_distances, held_out_distances, torch.stack([closest, indices[closest]], dim=1))


@torch.inference_mode()
def nearest(images: Tensor, training: Dataset, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest training images of each image (N, C, H, W): distances (N, k) float64 and indices (N, k) int64.

    Nearest first; the order of equally distant images is arbitrary. The distance is the root mean square difference
    between pixels: 0 for a copy, and at most 2 for pixels in [−1, 1]. Computed on the CPU.
    ValueError for images of another size, or unless 1 <= k <= len(training); UserError for values that are not finite.
    """
    spec = training.spec
    size = (spec.channels, spec.height, spec.width)
    if images.shape[1:] != size:
        raise ValueError(f"images are {tuple(images.shape)}; for {spec.name} they must be (N, *{size})")
    if not 1 <= k <= len(training):
        raise ValueError(f"k must be between 1 and {len(training)}, the number of training images, not {k}")
    if not images.isfinite().all():
        raise UserError("some images have pixels that are NaN or infinite, so their nearest image is undefined")
    x = images.cpu().flatten(1).double()
    best = torch.full((len(x), k), torch.inf, dtype=torch.float64)
    indices = torch.zeros(len(x), k, dtype=torch.int64)
    for chunk in torch.arange(len(training)).split(CHUNK):
        y = _pixels(training, chunk)
        # |x − y|² without the term |x|², which does not change the order
        score = y.square().sum(1) - 2 * (x @ y.T)
        best, columns = torch.cat([best, score], 1).topk(k, largest=False)
        indices = torch.cat([indices, chunk.expand(len(x), -1)], 1).gather(1, columns)
    # The score of a copy is a difference of large numbers, which is not exactly 0. So compute the distances to the k
    # nearest images again, pixel by pixel.
    distances = [(_pixels(training, column) - x).square().mean(1).sqrt() for column in indices.unbind(1)]
    return torch.stack(distances, dim=1), indices


def _pixels(data: Dataset, index: Tensor) -> Tensor:
    return data.batch(index)[0].flatten(1).double()
