"""A small classifier of real images: what it sees are the features of FID, and whether a sample shows its label.

Labels may be counts; a class is any label that occurs in the data, such as "two circles and a line".
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

CHUNK = 500
IMAGES = 180_000  # that training sees
TESTED = 10_000  # held-out images, at most
WEIGHTS = Path(__file__).parent / "weights"


class Classifier(nn.Module):
    """Images (B, C, H, W) in [−1, 1] -> a score for each class, (B, K).

    known:     (K, L) the label that each class stands for
    accuracy:  share of held-out real images that it recognises; nan before it is tested
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
        """What the last layer sees: (B, 128)."""
        return self.body(x).float().mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def classes(self, labels: Tensor) -> Tensor:
        """Labels (N, L) as class numbers (N,) int64; ValueError for a label that does not occur in the data."""
        same = (labels[:, None] == self.known).all(2)
        if not same.any(1).all():
            raise ValueError(f"no class has the label {labels[~same.any(1)][0].tolist()}")
        return same.int().argmax(1)

    @torch.inference_mode()
    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (N, 128) of images (N, C, H, W), and the class that each looks like, (N,) int64."""
        parts = [self.features(chunk) for chunk in images.split(CHUNK)]
        features = torch.cat(parts)
        return features, self.head(features).argmax(1)


def train_classifier(
    data: Dataset, held_out: Dataset, images: int = IMAGES, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Classifier:
    """Learn the labels of a data set from its images shifted by up to two pixels, and test it on held-out ones.

    images: how many to see in all, each as often as it takes; progress is called with the number of those just seen.
    The same bits for the same arguments on the same machine, in bfloat16 where that is fast.
    """
    batch_size = min(128, len(data))
    generator = torch.Generator().manual_seed(fold(seed, 1))
    known = torch.cat([_labels(data), _labels(held_out)]).unique(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(seed, 0))
        network = Classifier(data.spec.channels, known).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.0, weight_decay=0.01, fused=True)
    steps = max(1, images // batch_size)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
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
            scores = network(shifted.contiguous(memory_format=torch.channels_last))
        F.cross_entropy(scores.float(), network.classes(labels)).backward()
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        if progress:
            progress(len(batch))
    network.eval()
    x, labels = held_out.batch(torch.arange(min(len(held_out), TESTED)))
    network.accuracy = (network.see(x)[1] == network.classes(labels)).float().mean().item()
    return network


def _labels(data: Dataset) -> Tensor:
    """All that occur, (K, L), each once."""
    return torch.cat([data.batch(index)[1].unique(dim=0) for index in torch.arange(len(data)).split(CHUNK)])


def save_classifier(network: Classifier, spec: DataSpec, path: Path, card: dict[str, str]) -> None:
    """Write its weights in half precision; the card, what one should know about them, goes into the metadata."""
    tensors = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    metadata = card | {"data": spec.name, "labels": json.dumps(spec.labels), "accuracy": f"{network.accuracy:.4f}"}
    write_atomic(path, save(tensors, metadata))


def shipped(spec: DataSpec) -> Classifier | None:
    """The classifier in the box for images of this kind, if there is one."""
    path = WEIGHTS / f"{spec.name}.safetensors"
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    if tuple(json.loads(metadata["labels"])) != spec.labels or tensors["body.0.weight"].shape[1] != spec.channels:
        return None  # another data set of the same name, such as a folder called "mnist"
    network = Classifier(spec.channels, tensors["known"].float())
    network.load_state_dict(tensors)
    network.accuracy = float(metadata["accuracy"])
    return network.eval()
