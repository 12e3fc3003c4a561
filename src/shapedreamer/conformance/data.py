"""Checks of training data: the shape and range of images, and how labels are dropped for classifier-free guidance."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, name_of, report_exceptions

MAX_IMAGES = 256
"""The number of images of a data set that are checked."""


@report_exceptions
def check_data(data: Any) -> Report:
    """Check that images are floating point tensors of shape (B, C, H, W) in [−1, 1], where black is −1.

    data: a tensor of images, or a data set with a length and ``.batch(index)``, which returns (images, labels). The
          first 256 images are checked.
    """
    checklist = Checklist(f"data ({name_of(type(data), '?')})", "lucidrains/denoising-diffusion-pytorch #20, #47")
    images = data
    if not isinstance(data, Tensor):
        index = torch.arange(min(len(data), MAX_IMAGES))
        batches = checklist.attempt("load a batch", lambda: (data.batch(index), data.batch(index)))
        if batches is None:
            return checklist.report()
        (images, labels), (again, _) = batches
        mistake = "an image changes when it is loaded again"
        checklist.require("same index, same image", torch.equal(images, again), "same", "different", mistake)
        shape_matches = labels.ndim == 2 and len(labels) == len(images)
        expected = f"({len(images)}, L)"
        mistake = "the labels do not have shape (B, L)"
        checklist.add("labels have shape (B, L)", shape_matches, expected, str(tuple(labels.shape)), mistake)
    images = images[:MAX_IMAGES]
    shape, mistake = str(tuple(images.shape)), "the images do not have shape (B, C, H, W)"
    checklist.add("images have shape (B, C, H, W)", images.ndim == 4, "4 dimensions", shape, mistake)
    dtype = str(images.dtype).removeprefix("torch.")
    mistake = "the images are not floating point"
    checklist.add("images are floating point", images.is_floating_point(), "float", dtype, mistake)
    low, high = images.double().min().item(), images.double().max().item()
    finite = math.isfinite(low) and math.isfinite(high)
    checklist.add("values are finite", finite, "finite", f"{low:g}…{high:g}", "the images contain NaN or ∞")
    value_range = f"{low:.3g}…{high:.3g}"
    suspect: Mistake | str = "the images have values outside [−1, 1]"
    if low >= 0 and high > 1:
        suspect = "8-bit images are not rescaled: their values are in 0…255 instead of −1…1"
    checklist.add("values are in [−1, 1]", low >= -1 and high <= 1, "−1…1", value_range, suspect)
    suspect = mistakes.DATA_FROM_ZERO if 0 <= low and high <= 1 else "the images do not use the range down to −1"
    checklist.add("some values are below −0.5", low < -0.5, "black at −1", value_range, suspect)
    return checklist.report()


@report_exceptions
def check_label_dropout(drop: Callable[[Tensor, float, torch.Generator], Tensor]) -> Report:
    """Check that ``drop(labels (B, L), probability, generator)`` sets whole rows to 0 with that probability.

    Each row must be dropped independently. Classifier-free guidance needs this (Ho & Salimans 2022, algorithm 1),
    because the network must learn to denoise both with and without labels.
    """
    checklist = Checklist(name_of(drop, "label dropout"), "Ho & Salimans 2022, algorithm 1")
    B, L, rounds = 64, 5, 60
    labels = torch.rand(B, L, generator=torch.Generator().manual_seed(0)) + 0.5
    original = labels.clone()

    def drop_labels(probability: float) -> Tensor | None:
        """Return the labels after dropout in every round, shape (rounds, B, L), always with the same seed."""
        generator = torch.Generator().manual_seed(1)
        name = f"probability {probability:g}"
        return checklist.attempt(
            name, lambda: torch.stack([drop(labels, probability, generator).clone() for _ in range(rounds)])
        )

    quarter, again, none, every = [drop_labels(probability) for probability in (0.25, 0.25, 0.0, 1.0)]
    if quarter is None or again is None or none is None or every is None:
        return checklist.report()
    if quarter.shape != (rounds, B, L):
        shape, mistake = str(tuple(quarter.shape[1:])), "dropout changes the shape of the labels"
        checklist.add("labels have shape (B, L)", False, f"({B}, {L})", shape, mistake)
        return checklist.report()
    if not torch.equal(labels, original):
        mistake = "dropout modifies the labels of the data in place"
        checklist.add("input labels are not modified", False, "unchanged", "changed", mistake)
        return checklist.report()
    zero = quarter == 0
    whole_rows = bool((zero.all(2) | (quarter == original).all(2)).all())
    kept_or_zero = bool((zero | (quarter == original)).all())
    suspect: Mistake | str = mistakes.DROPPED_PER_NUMBER if kept_or_zero else "labels change to values other than 0"
    checklist.require("a label is kept or dropped as a whole", whole_rows, "whole rows", "parts of rows", suspect)
    share = zero.all(2).double().mean(1)
    all_or_none = bool(((share == 0) | (share == 1)).all() and 0 < share.mean() < 1)
    name = "images are dropped independently"
    checklist.require(name, not all_or_none, "some per batch", "all or none", mistakes.DROPPED_PER_BATCH)
    mean = zero.double().mean().item()  # over 60 × 64 rows: its standard deviation is 0.007
    inverted = abs(mean - 0.75) < 0.04 and not all_or_none
    suspect = mistakes.KEPT_INSTEAD if inverted else "labels are not dropped with the given probability"
    passed = abs(mean - 0.25) < 0.04 or all_or_none  # 60 batches are too few to estimate a probability
    checklist.add("share of labels dropped at probability 0.25", passed, "0.25", f"{mean:.3f}", suspect)
    checklist.require("probability 0 drops no label", bool((none == original).all()), "none", "some", suspect)
    checklist.require("probability 1 drops every label", not every.any(), "all", "not all", suspect)
    mistake = "the random numbers do not come from the generator"
    checklist.require("same generator, same result", torch.equal(quarter, again), "same", "different", mistake)
    return checklist.report()
