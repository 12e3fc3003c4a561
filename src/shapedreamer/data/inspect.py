"""Describe a data set before you train on it: size, range, labels, duplicates."""

import hashlib

import torch
from torch import Tensor

from .spec import Dataset

CHUNK = 4096
SHEET_IMAGES = 128


def describe(data: Dataset) -> str:
    """One line with the name, number, size and labels of the images, without reading them."""
    spec = data.spec
    size = f"{spec.channels} x {spec.height} x {spec.width}, values in [{spec.low:g}, {spec.high:g}]"
    return f"{spec.name}: {len(data)} images, {size}; labels: {', '.join(spec.labels)}"


def inspect_data(data: Dataset) -> str:
    """A report on all images: range, mean, duplicates, labels. ValueError if an image does not match the spec."""
    digests: set[bytes] = set()
    labels = torch.zeros(len(data.spec.labels))
    images_per_label = torch.zeros(len(data.spec.labels))
    low, high, total = float("inf"), float("-inf"), 0.0
    for first in range(0, len(data), CHUNK):
        images, label = data.batch(torch.arange(first, min(first + CHUNK, len(data))))
        data.spec.check(images)
        low, high, total = (
            min(low, images.min().item()),
            max(high, images.max().item()),
            total + images.mean((1, 2, 3)).sum().item(),
        )
        labels += label.sum(0)
        images_per_label += (label > 0).sum(0)
        digests.update(hashlib.sha256(image.numpy().tobytes()).digest() for image in images)
    duplicates = len(data) - len(digests)
    lines = [
        describe(data),
        f"values:     {low:g} to {high:g}, mean {total / len(data):.4f}",
        f"duplicates: {duplicates} ({duplicates / len(data):.2%}); {len(digests)} distinct images",
        "label              total   images with it",
    ]
    for name, count, images_with in zip(data.spec.labels, labels.tolist(), images_per_label.tolist(), strict=True):
        lines.append(f"  {name:<14} {count:>8g}   {images_with:>8g} ({images_with / len(data):.1%})")
    return "\n".join(lines)


def contact_sheet(data: Dataset) -> Tensor:
    """The first 128 images of a data set, or all if there are fewer: (N, C, H, W)."""
    return data.batch(torch.arange(min(SHEET_IMAGES, len(data))))[0]
