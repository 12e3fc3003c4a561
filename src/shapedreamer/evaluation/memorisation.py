"""Are the samples new, or copies of training images? By the distance of each to the nearest training image.

That distance alone says little: a simple image has near neighbours and a rich one has none. So it is compared with that
of real images which the model has never seen, as in "A non-parametric test to detect data-copying in generative models"
(Meehan et al. 2020), with one cell. Pixels tell copies, but not images that were shifted, mirrored or recoloured.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..common.errors import UserError
from ..data.spec import Dataset

CHUNK = 512  # training images at a time
CLOSE = 0.01  # as close as the nearest hundredth of the held-out images


@dataclass(frozen=True)
class Memorisation:
    """Distances to the nearest training image, as `nearest` measures them, and what they say.

    samples: (N,) float64, of each sample
    held_out: (M,) float64, of each held-out image
    pairs: (P, 2) int64, the places of a sample and of its training image, for the samples that lie nearest to theirs;
           the nearest pair comes first
    """

    samples: Tensor
    held_out: Tensor
    pairs: Tensor

    @property
    def nearer(self) -> float:
        """How likely it is that a sample lies nearer to the training images than a held-out image does.

        0.5: nothing is memorised; 1: all is. By chance it is off 0.5 by about √((N + M + 1) / 12NM), which is 0.014
        for 2,000 samples and 512 held-out images; C_T of the paper is 0.5 − nearer in units of that. Far below 0.5 the
        samples are unlike the data.
        """
        return (1 + (self.held_out - self.samples[:, None]).sign().mean().item()) / 2

    @property
    def close(self) -> float:
        """The share of samples as close to a training image as the closest hundredth of the held-out images.

        It shows a few copies among many samples; compare it with `close_held_out`. Where data are so simple that a
        hundredth of the held-out images are training images too, only exact copies count, and `nearer` tells more.
        """
        return self._share_close(self.samples)

    @property
    def close_held_out(self) -> float:
        """The same share of the held-out images: 0.01, or more where they are few or many distances are equal."""
        return self._share_close(self.held_out)

    def _share_close(self, distances: Tensor) -> float:
        return (distances <= self.held_out.quantile(CLOSE, interpolation="lower")).double().mean().item()


def memorisation(samples: Tensor, held_out: Tensor, training: Dataset, most: int = 8) -> Memorisation:
    """Compare samples (N, C, H, W) with held-out real images (M, C, H, W); both are looked up in `training`.

    most: pairs to return, or N if that is less.
    UserError if every held-out image is itself a training image; ValueError for no images; and as in `nearest`.
    """
    if not len(samples) or not len(held_out):
        raise ValueError(f"there must be images of both kinds, not {len(samples)} samples and {len(held_out)} held out")
    distances, indices = (found[:, 0] for found in nearest(torch.cat([samples.cpu(), held_out.cpu()]), training))
    of_samples, of_held_out = distances[: len(samples)], distances[len(samples) :]
    if not of_held_out.any():
        raise UserError(
            f"every held-out image of {training.spec.name} is also a training image, so nothing tells a copy from a "
            "likely image; use more data, or hold some out"
        )
    first = of_samples.argsort(stable=True)[:most]
    return Memorisation(of_samples, of_held_out, torch.stack([first, indices[first]], dim=1))


@torch.inference_mode()
def nearest(images: Tensor, training: Dataset, k: int = 1) -> tuple[Tensor, Tensor]:
    """The k nearest training images of each image (N, C, H, W): distances (N, k) float64 and places (N, k) int64.

    Nearest first; of equal ones, any. The distance is the root of the mean square of the differences between pixels:
    0 for a copy and, with pixels in [−1, 1], 2 at most. Computed on the CPU.
    ValueError for images of another size or a k outside 1…len(training); UserError for values that are not finite.
    """
    spec = training.spec
    size = (spec.channels, spec.height, spec.width)
    if images.shape[1:] != size:
        raise ValueError(f"images are {tuple(images.shape)}, and those of {spec.name} (N, *{size})")
    if not 1 <= k <= len(training):
        raise ValueError(f"k must be between 1 and {len(training)}, the number of training images, not {k}")
    if not images.isfinite().all():
        raise UserError("some images have values that are nan or infinite, and so no nearest image")
    x = images.cpu().flatten(1).double()
    best = torch.full((len(x), k), torch.inf, dtype=torch.float64)
    places = torch.zeros(len(x), k, dtype=torch.int64)
    for chunk in torch.arange(len(training)).split(CHUNK):
        y = _pixels(training, chunk)
        # |x − y|² but for |x|², which does not change who is nearest
        away = y.square().sum(1) - 2 * (x @ y.T)
        best, chosen = torch.cat([best, away], 1).topk(k, largest=False)
        places = torch.cat([places, chunk.expand(len(x), -1)], 1).gather(1, chosen)
    # a difference of large numbers is not 0 for a copy, so the distance to those found is measured pixel by pixel
    each = [(_pixels(training, at) - x).square().mean(1).sqrt() for at in places.unbind(1)]
    return torch.stack(each, dim=1), places


def _pixels(data: Dataset, index: Tensor) -> Tensor:
    return data.batch(index)[0].flatten(1).double()
