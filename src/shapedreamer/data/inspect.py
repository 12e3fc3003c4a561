"""What is in a data set: the questions to ask before training on it."""

import hashlib
from collections import Counter

import torch
from torch import Tensor

from .spec import Dataset

CHUNK = 4096
SHEET_IMAGES = 128


def describe(data: Dataset) -> str:
    """Name, number, size and labels, from the spec alone."""
    spec = data.spec
    size = f"{spec.channels} x {spec.height} x {spec.width}, values in [{spec.low:g}, {spec.high:g}]"
    return f"{spec.name}: {len(data)} images, {size}; labels: {', '.join(spec.labels)}"


def inspect_data(data: Dataset) -> str:
    """A report on every image: range, mean, labels, duplicates. ValueError if an image is not as the spec says."""
    seen: Counter[bytes] = Counter()
    labels = torch.zeros(len(data.spec.labels))
    holding = torch.zeros(len(data.spec.labels))
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
        holding += (label > 0).sum(0)
        seen.update(hashlib.sha256(image.numpy().tobytes()).digest() for image in images)
    copies = len(data) - len(seen)
    lines = [
        describe(data),
        f"values:     {low:g} to {high:g}, mean {total / len(data):.4f}",
        f"duplicates: {copies} ({copies / len(data):.2%}); {len(seen)} distinct images",
        "label              total   images with it",
    ]
    for name, count, images_with in zip(data.spec.labels, labels.tolist(), holding.tolist(), strict=True):
        lines.append(f"  {name:<14} {count:>8g}   {images_with:>8g} ({images_with / len(data):.1%})")
    return "\n".join(lines)


def contact_sheet(data: Dataset) -> Tensor:
    """The first images of a data set: (N, C, H, W)."""
    return data.batch(torch.arange(min(SHEET_IMAGES, len(data))))[0]
