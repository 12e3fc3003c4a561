"""Confidence intervals agree with their definitions."""

import math

import pytest
import torch

from shapedreamer.evaluation.intervals import Z, normal, wilson


@pytest.mark.parametrize(
    ("hits", "num"), [(0, 1), (1, 1), (0, 100), (100, 100), (105, 105), (3, 17), (131, 256), (1999, 2000)]
)
def test_wilson_ends_where_the_measured_share_is_z_standard_errors_away(hits: int, num: int) -> None:
    share, (low, high) = hits / num, wilson(hits / num, num)
    for end in (low, high):
        assert (end - share) ** 2 == pytest.approx(Z**2 * end * (1 - end) / num, abs=1e-12)
    assert 0 <= low <= share <= high <= 1
    assert high - low > 0
    assert (low == 0) == (hits == 0)
    assert (high == 1) == (hits == num)


def test_wilson_of_a_known_case() -> None:
    assert wilson(0.95, 20) == pytest.approx((0.7639, 0.9911), abs=1e-4)
    assert wilson(1, 100) == pytest.approx((0.963, 1), abs=1e-4)


def test_95_percent_of_the_intervals_contain_the_true_value() -> None:
    generator = torch.Generator().manual_seed(0)
    hits = (torch.rand(2000, 60, generator=generator) < 0.85).double().mean(1).tolist()
    assert sum(low <= 0.85 <= high for low, high in (wilson(share, 60) for share in hits)) / 2000 == pytest.approx(
        0.95, abs=0.02
    )
    values = torch.randn(2000, 60, generator=generator).double() + 3
    found = (normal(mean, std, 60) for mean, std in zip(values.mean(1).tolist(), values.std(1).tolist(), strict=True))
    assert sum(low <= 3 <= high for low, high in found) / 2000 == pytest.approx(0.95, abs=0.02)


def test_the_normal_interval_shrinks_with_the_square_root_of_the_number() -> None:
    low, high = normal(2.0, 3.0, 100)
    assert (low + high) / 2 == 2
    assert high - low == pytest.approx(2 * Z * 3 / math.sqrt(100))
