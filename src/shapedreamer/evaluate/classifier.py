"""A small classifier of real images, which says whether a sample shows what its label asked for."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.spec import Dataset
from ..device import autocast
from ..noise import fold

CHUNK = 1000


class Classifier(nn.Module):
    """Images (B, C, H, W) in [−1, 1] -> a score for each class (B, classes); `features` are the (B, 128) before it."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()

        def conv(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]

        self.body = nn.Sequential(
            *conv(channels, 32, 1), *conv(32, 32, 2), *conv(32, 64, 1), *conv(64, 64, 2), *conv(64, 128, 1)
        )
        self.head = nn.Linear(128, classes)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def train_classifier(data: Dataset, epochs: int = 3, batch_size: int = 128, seed: int = 0) -> Classifier:
    """Learn the classes of a data set whose labels are one-hot, from its images shifted by up to two pixels.

    The same bits for the same arguments. ValueError for labels that are not one-hot.
    """
    torch_seed = torch.Generator().manual_seed(fold(seed, epochs))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(seed, 0))
        network = Classifier(data.spec.channels, len(data.spec.labels)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * (len(data) // batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0.01, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=torch_seed)
        for batch in order[: len(data) // batch_size * batch_size].view(-1, batch_size):
            images, labels = data.batch(batch)
            down, right = torch.randint(0, 5, (2,), generator=torch_seed).tolist()
            height, width = images.shape[2:]
            padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
            shifted = padded[:, :, down : down + height, right : right + width]
            with autocast(images.device):
                scores = network(shifted.contiguous(memory_format=torch.channels_last))
            F.cross_entropy(scores, classes(labels)).backward()
            optimizer.step()
            rate.step()
            optimizer.zero_grad()
    return network.eval()


def classes(labels: Tensor) -> Tensor:
    """One-hot labels (N, L) as class numbers (N,) int64; ValueError for others."""
    if not ((labels == 1).sum(1) == 1).all() or not ((labels == 0) | (labels == 1)).all():
        raise ValueError("a classifier needs labels that are one-hot: one 1 and else 0 in each")
    return labels.argmax(1)


@torch.inference_mode()
def classify(network: Classifier, images: Tensor) -> Tensor:
    """The class that each image looks like: (N, C, H, W) -> (N,) int64."""
    return torch.cat([network(chunk).argmax(1) for chunk in images.split(CHUNK)])


def recognised(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """For each class, the share of its images (N, C, H, W) that are taken for it: (L,), nan where there are none."""
    asked = classes(labels)
    right = (classify(network, images) == asked).float()
    return torch.stack([right[asked == label].mean() for label in range(labels.shape[1])])
