"""95% confidence intervals: how far a measured share or mean may be from what infinitely many images would give."""

import math

Interval = tuple[float, float]
Z = 1.959964  # 95% of a normal distribution lie within Z standard deviations


def wilson(share: float, num: int) -> Interval:
    """The interval of a share that was measured with `num` images, at least one.

    It stays within 0 and 1, and its width is not 0 even if the share is 0 or 1: for 100 valid images of 100, it is
    0.963 to 1. Source: Wilson 1927.
    """
    centre = (share + Z**2 / (2 * num)) / (1 + Z**2 / num)
    half = Z * math.sqrt(share * (1 - share) / num + Z**2 / (4 * num**2)) / (1 + Z**2 / num)
    return max(0.0, round(centre - half, 12)), min(1.0, round(centre + half, 12))


def normal(mean: float, std: float, num: int) -> Interval:
    """The interval of a mean of `num` values with standard deviation `std`, by the central limit theorem."""
    half = Z * std / math.sqrt(num)
    return mean - half, mean + half
