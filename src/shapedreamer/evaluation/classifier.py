"""A small classifier, trained on real images. FID uses its features; label accuracy uses its predictions.

A label may hold counts, so every label vector that occurs in the data is a class, such as "two circles and a line".
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ..common.device import autocast
from ..common.files import write_atomic
from ..common.noise import fold
from ..data.spec import Dataset, DataSpec

CHUNK = 500  # images per forward pass
TRAINING_IMAGES = 180_000  # in total, over all passes through the data
MAX_TEST_IMAGES = 10_000
WEIGHTS = Path(__file__).parent / "weights"


class Classifier(nn.Module):
    """Maps images (B, C, H, W) in [−1, 1] to the logits of K classes, (B, K).

    known:     (K, L), the label vector of each class (stored under this name in the weight files)
    accuracy:  share of held-out real images that are classified correctly; NaN before the test
    """

    def __init__(self, channels: int, known: Tensor) -> None:
        super().__init__()

        def conv(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()]

        self.body = nn.Sequential(
            *conv(channels, 32, 1), *conv(32, 32, 2), *conv(32, 64, 1), *conv(64, 64, 2), *conv(64, 128, 1)
        )
        self.head = nn.Linear(128, len(known))
        self.known: Tensor
        self.register_buffer("known", known)
        self.accuracy = float("nan")

    def features(self, x: Tensor) -> Tensor:
        """The input of the last layer, (B, 128): the channels of the last feature map, averaged over all positions."""
        return self.body(x).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def classes(self, labels: Tensor) -> Tensor:
        """The class indices, (N,) int64, of label vectors (N, L). ValueError for a label that is not in the data."""
        matches = (labels[:, None] == self.known).all(2)
        if not matches.any(1).all():
            raise ValueError(f"no class has the label {labels[~matches.any(1)][0].tolist()}")
        return matches.int().argmax(1)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The features (N, 128) and the predicted class indices (N,) int64 of images (N, C, H, W)."""
        features = torch.cat([self.features(chunk) for chunk in images.split(CHUNK)])
        return features, self.head(features).argmax(1)


def train_classifier(
    data: Dataset,
    held_out: Dataset,
    images: int = TRAINING_IMAGES,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Classifier:
    """Train a classifier of a data set's labels, and measure its accuracy on held-out images.

    images:   how many images to train on in total; the data set is repeated as often as necessary
    progress: called after each step with the number of images in its batch

    Each batch is shifted by up to two pixels, as data augmentation. Computes in bfloat16 where that is fast. Equal
    arguments give bit-identical weights on the same machine.
    """
    batch_size = min(128, len(data))
    generator = torch.Generator().manual_seed(fold(seed, 1))
    known = torch.cat([_distinct_labels(data), _distinct_labels(held_out)]).unique(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(seed, 0))
        network = Classifier(data.spec.channels, known).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0.01, fused=True)
    steps = max(1, images // batch_size)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(data), generator=generator)
        batch, order = order[:batch_size], order[batch_size:]
        x, labels = data.batch(batch)
        down, right = torch.randint(0, 5, (2,), generator=generator).tolist()
        height, width = x.shape[2:]
        shifted = F.pad(x, (2, 2, 2, 2), mode="replicate")[:, :, down : down + height, right : right + width]
        with autocast(x.device):
            logits = network(shifted.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(logits.float(), network.classes(labels)).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if progress:
            progress(len(batch))
    network.eval()
    x, labels = held_out.batch(torch.arange(min(len(held_out), MAX_TEST_IMAGES)))
    network.accuracy = (network.predict(x)[1] == network.classes(labels)).float().mean().item()
    return network


def _distinct_labels(data: Dataset) -> Tensor:
    """The label vectors that occur in the data, (K, L); those of different chunks may repeat."""
    return torch.cat([data.batch(index)[1].unique(dim=0) for index in torch.arange(len(data)).split(CHUNK)])


def save_classifier(network: Classifier, spec: DataSpec, path: Path, card: dict[str, str]) -> None:
    """Write a classifier to a safetensors file: weights in half precision, and `card` (its training) as metadata."""
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    metadata = card | {"data": spec.name, "labels": json.dumps(spec.labels), "accuracy": f"{network.accuracy:.4f}"}
    write_atomic(path, save(tensors, metadata))


def shipped_classifier(spec: DataSpec) -> Classifier | None:
    """The classifier for this data set that comes with the package, or None if there is none."""
    path = WEIGHTS / f"{spec.name}.safetensors"
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if tuple(json.loads(metadata["labels"])) != spec.labels or tensors["body.0.weight"].shape[1] != spec.channels:
        return None  # another data set with the same name, such as an image folder called "mnist"
    network = Classifier(spec.channels, tensors["known"].float())
    network.load_state_dict(tensors)
    network.accuracy = float(metadata["accuracy"])
    return network.eval()
