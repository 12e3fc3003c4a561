"""Describe a data set before you train on it: size, range, labels, duplicates."""

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .arrays import DIGEST_BYTES
from .spec import Dataset

CHUNK = 4096  # images that are read together, fewer if they are large
SHEET_IMAGES = 128
MAX_VALUES = 2**24  # that are read together: 64 MB


def describe(data: Dataset, held_out: Dataset | None = None) -> str:
    """One line with the name, number, size and labels of the images, without reading them.

    held_out: the held-out images, which are then counted too
    """
    spec = data.spec
    size = f"{spec.channels} x {spec.height} x {spec.width}, values in [{spec.low:g}, {spec.high:g}]"
    counts = f"; {_count(data, held_out)}" if held_out is not None else ""
    return f"{spec.name}: {len(data)} images, {size}{counts}; labels: {', '.join(spec.labels)}"


def _count(data: Dataset, held_out: Dataset) -> str:
    """The number of training and held-out images, such as "72 + 8 held out"."""
    if held_out is data:
        return "the same are held out, as fewer than 10 are distinct"
    return f"{len(data)} + {len(held_out)} held out"


def inspect_data(data: Dataset, held_out: Dataset | None = None) -> str:
    """A report on all images: range, mean, duplicates, labels. ValueError if an image does not match the spec.

    held_out: the held-out images, which are then counted too, for each label
    """
    spec = data.spec
    digests = bytearray()
    labels = torch.zeros(len(spec.labels))
    images_per_label = torch.zeros(len(spec.labels))
    low, high, total = float("inf"), float("-inf"), 0.0
    for index in _chunks(data):
        images, label = data.batch(index)
        data.spec.check(images)
        low, high, total = (
            min(low, images.min().item()),
            max(high, images.max().item()),
            total + images.mean((1, 2, 3)).sum().item(),
        )
        labels += label.sum(0)
        images_per_label += (label > 0).sum(0)
        for image in images:
            digests += hashlib.sha256(image.numpy().tobytes()).digest()[:DIGEST_BYTES]
    distinct = len(np.unique(np.frombuffer(digests, f"V{DIGEST_BYTES}")))
    duplicates = len(data) - distinct
    lines = [
        describe(data, held_out),
        f"values:     {low:g} to {high:g}, mean {total / len(data):.4f}",
        f"duplicates: {duplicates} ({duplicates / len(data):.2%}); {distinct} distinct images",
        "label              total   images with it" + ("" if held_out is None else "      held out"),
    ]
    held_per_label = None if held_out is None else _images_per_label(held_out).tolist()
    for i, (name, count, images_with) in enumerate(
        zip(spec.labels, labels.tolist(), images_per_label.tolist(), strict=True)
    ):
        held = "" if held_per_label is None else f" {held_per_label[i]:>9g}"
        share = f"({images_with / len(data):.1%})"
        lines.append(f"  {name:<14} {count:>8g}   {images_with:>8g} {share:<8}{held}".rstrip())
    return "\n".join(lines)


def _images_per_label(data: Dataset) -> Tensor:
    """How many images have each label: (L,)."""
    return torch.stack([(data.batch(index)[1] > 0).sum(0) for index in _chunks(data)]).sum(0)


def _chunks(data: Dataset) -> Iterator[Tensor]:
    """The indices of all images, in chunks that fit into memory."""
    step = max(1, min(CHUNK, MAX_VALUES // _values_per_image(data)))
    for first in range(0, len(data), step):
        yield torch.arange(first, min(first + step, len(data)))


def _values_per_image(data: Dataset) -> int:
    return data.spec.channels * data.spec.height * data.spec.width


def contact_sheet(data: Dataset) -> Tensor:
    """The first 128 images of a data set, or all if there are fewer: (N, C, H, W). Fewer if they are large."""
    num = max(1, min(SHEET_IMAGES, MAX_VALUES // _values_per_image(data)))
    return data.batch(torch.arange(min(num, len(data))))[0]
