"""Checks of images and of labels, as training gets them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, title_of, unfailing

IMAGES = 256
"""How many images of a data set are looked at."""


@unfailing
def check_data(data: Any) -> Report:
    """Whether images are as the library has them: float, (B, C, H, W), in [−1, 1], black at −1.

    data: a tensor of images, or a data set with `.batch(index) -> (images, labels)` and a length; its first 256 images
          are looked at.
    """
    rows = Checklist(f"data {title_of(type(data), '')}", "lucidrains/denoising-diffusion-pytorch #20, #47")
    images = data
    if not isinstance(data, Tensor):
        index = torch.arange(min(len(data), IMAGES))
        loaded = rows.attempt("a batch", lambda: (data.batch(index), data.batch(index)))
        if loaded is None:
            return rows.report()
        (images, labels), (again, _) = loaded
        same = torch.equal(images, again)
        rows.holds("an index is always the same image", same, "the same", "another", "an image changes when read again")
        pairs = labels.ndim == 2 and len(labels) == len(images)
        rows.add("labels (B, L)", pairs, f"({len(images)}, L)", str(tuple(labels.shape)), "labels are not (B, L)")
    images = images[:IMAGES]
    rows.add("images (B, C, H, W)", images.ndim == 4, "4 axes", str(tuple(images.shape)), "images are not (B, C, H, W)")
    dtype = str(images.dtype).removeprefix("torch.")
    rows.add("floating point", images.is_floating_point(), "float", dtype, "images are not floating point")
    low, high = images.double().min().item(), images.double().max().item()
    rows.add(
        "finite", math.isfinite(low) and math.isfinite(high), "finite", f"{low:g}…{high:g}", "images hold NaN or ∞"
    )
    spread = f"{low:.3g}…{high:.3g}"
    eight_bit = "8-bit values are fed in as they are: 0…255 instead of −1…1"
    outside = eight_bit if low >= 0 and high > 1 else "values lie outside of [−1, 1]"
    rows.add("within [−1, 1]", low >= -1 and high <= 1, "−1…1", spread, outside)
    from_zero: Mistake | str = mistakes.DATA_FROM_ZERO if 0 <= low and high <= 1 else "the range is not used down to −1"
    rows.add("the negative half is used", low < -0.5, "black at −1", spread, from_zero)
    return rows.report()


@unfailing
def check_label_dropout(drop: Callable[[Tensor, float, torch.Generator], Tensor]) -> Report:
    """Whether drop(labels (B, L), probability, generator) sets whole rows to 0, each for itself with that probability.

    For classifier-free guidance (Ho & Salimans 2022, algorithm 1): the network must learn both with and without labels.
    """
    rows = Checklist(title_of(drop, "label dropout"), "Ho & Salimans 2022, algorithm 1")
    B, L, rounds = 64, 5, 60
    labels = torch.rand(B, L, generator=torch.Generator().manual_seed(0)) + 0.5
    kept = labels.clone()

    def dropped(probability: float, seed: int = 1, times: int = rounds) -> Tensor | None:
        """(times, B, L)"""
        generator = torch.Generator().manual_seed(seed)
        name = f"probability {probability:g}"
        return rows.attempt(
            name, lambda: torch.stack([drop(labels, probability, generator).clone() for _ in range(times)])
        )

    runs = [dropped(0.25), dropped(0.25), dropped(0.0), dropped(1.0)]
    some, again, none, every = runs
    if some is None or again is None or none is None or every is None:
        return rows.report()
    if some.shape != (rounds, B, L):
        rows.add("labels (B, L)", False, f"({B}, {L})", str(tuple(some.shape[1:])), "the labels change their shape")
        return rows.report()
    if not torch.equal(labels, kept):
        rows.add("the labels passed in", False, "unchanged", "changed", "the data's own labels are overwritten")
        return rows.report()
    zero = some == 0
    whole = bool((zero.all(2) | (some == kept).all(2)).all())
    parts = bool((zero | (some == kept)).all())
    suspect: Mistake | str = mistakes.DROPPED_PER_NUMBER if parts else "labels become other than themselves or 0"
    rows.holds("a label stays or becomes 0 as a whole", whole, "whole rows", "parts of rows", suspect)
    share = zero.all(2).double().mean(1)
    all_or_none = bool(((share == 0) | (share == 1)).all() and 0 < share.mean() < 1)
    rows.holds("each image for itself", not all_or_none, "some of a batch", "all or none", mistakes.DROPPED_PER_BATCH)
    mean = zero.double().mean().item()  # of 60 × 64 rows: its standard deviation is 0.007
    inverted = abs(mean - 0.75) < 0.04 and not all_or_none
    suspect = mistakes.KEPT_INSTEAD if inverted else "labels are not dropped with the probability given"
    right = abs(mean - 0.25) < 0.04 or all_or_none  # 60 batches, all or none, say little about a probability
    rows.add("share dropped at probability 0.25", right, "0.25", f"{mean:.3f}", suspect)
    rows.holds("probability 0 drops none", bool((none == kept).all()), "none", "some", suspect)
    rows.holds("probability 1 drops all", not every.any(), "all", "not all", suspect)
    same, mistake = torch.equal(some, again), "the random numbers are not those of the generator"
    rows.holds("the generator alone decides", same, "the same again", "other rows", mistake)
    return rows.report()
