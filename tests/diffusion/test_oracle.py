"""The exact denoisers against brute force: E[x₀ | x_t] summed over a grid, or over the images one by one."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.diffusion.oracle import finite_data, gaussian, gaussian_mixture
from shapedreamer.diffusion.schedule import Schedule, cosine, linear, linear_zero_snr

TIMES = (1, 5, 40, 80, 100)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal_density(x: Tensor, mean: float | Tensor, variance: float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def mean_on_a_grid(prior: Tensor, grid: Tensor, x_t: float, t: int, schedule: Schedule) -> float:
    """E[x₀ | x_t] = ∫ x₀ p(x₀) q(x_t | x₀) dx₀ / ∫ p(x₀) q(x_t | x₀) dx₀ for a single pixel."""
    a = schedule.alpha_bar[t].item()
    p = prior * normal_density(float64(x_t), math.sqrt(a) * grid, 1 - a)
    return ((p * grid).sum() / p.sum()).item()


@pytest.mark.parametrize("schedule", [linear(100), cosine(100)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.4, 0.2), (-1.0, 0.05)])
def test_gaussian_equals_the_integral(mean: float, std: float, schedule: Schedule) -> None:
    grid = torch.linspace(mean - 10 * std, mean + 10 * std, 20_001, dtype=torch.float64)
    prior = normal_density(grid, mean, std**2)
    denoise = gaussian(mean, std, schedule)
    for t in TIMES:
        for z in (-2.0, 0.0, 0.7):
            a = schedule.alpha_bar[t].item()
            x_t = math.sqrt(a) * mean + z * math.sqrt(a * std**2 + 1 - a)
            found = denoise(float64(x_t).view(1, 1, 1, 1), torch.tensor([t])).item()
            assert found == pytest.approx(mean_on_a_grid(prior, grid, x_t, t, schedule), abs=1e-9)


def test_gaussian_treats_pixels_and_images_independently() -> None:
    schedule = linear(100)
    mean = float64(0.1, -0.4, 0.9, 0.0).view(1, 2, 2)
    std = float64(0.1, 0.5, 1.0, 2.0).view(1, 2, 2)
    x_t = torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = gaussian(mean, std, schedule)(x_t, torch.tensor([3, 90]))
    for i, t in enumerate((3, 90)):
        for y in range(2):
            for x in range(2):
                one = gaussian(mean[0, y, x].item(), std[0, y, x].item(), schedule)
                alone = one(x_t[i, 0, y, x].view(1, 1, 1, 1), torch.tensor([t]))
                assert together[i, 0, y, x].item() == pytest.approx(alone.item(), rel=1e-12)


@pytest.mark.parametrize("schedule", [linear(100), cosine(100)])
def test_mixture_equals_the_integral(schedule: Schedule) -> None:
    means, stds, weights = (-0.8, 0.1, 0.9), (0.3, 0.02, 0.5), (0.5, 0.2, 0.3)
    grid = torch.linspace(-6, 6, 60_001, dtype=torch.float64)
    prior = sum(
        (w * normal_density(grid, m, s**2) for m, s, w in zip(means, stds, weights, strict=True)),
        start=torch.zeros_like(grid),
    )
    denoise = gaussian_mixture(float64(*means).view(3, 1, 1, 1), float64(*stds), float64(*weights), schedule)
    for t in TIMES:
        for x_t in (-1.1, 0.05, 0.6):
            found = denoise(float64(x_t).view(1, 1, 1, 1), torch.tensor([t])).item()
            assert found == pytest.approx(mean_on_a_grid(prior, grid, x_t, t, schedule), abs=1e-8)


def test_mixture_of_two_pixels_equals_the_integral() -> None:
    # components of unequal width differ in normalisation, (2π variance)^(dims/2); a single pixel cannot test dims
    schedule, axis = linear(100), torch.linspace(-5, 5, 801, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    means, stds, weights = [(0.5, -0.5), (-0.2, 0.3)], (0.1, 0.8), (0.3, 0.7)
    prior = torch.zeros_like(x)
    for (mx, my), s, w in zip(means, stds, weights, strict=True):
        prior += w * normal_density(x, mx, s**2) * normal_density(y, my, s**2)
    denoise = gaussian_mixture(
        torch.tensor(means, dtype=torch.float64).view(2, 1, 1, 2), float64(*stds), float64(*weights), schedule
    )
    for t in (40, 80, 100):
        a = schedule.alpha_bar[t].item()
        p = (
            prior
            * normal_density(x, 0.3 / math.sqrt(a), (1 - a) / a)
            * normal_density(y, -0.1 / math.sqrt(a), (1 - a) / a)
        )
        found = denoise(float64(0.3, -0.1).view(1, 1, 1, 2), torch.tensor([t])).flatten()
        assert_close(found, torch.stack([(p * x).sum(), (p * y).sum()]) / p.sum(), rtol=0, atol=1e-8)


def test_mixture_of_one_component_equals_gaussian() -> None:
    schedule = linear(100)
    x_t = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = torch.linspace(-1, 1, 18, dtype=torch.float64).view(2, 3, 3)
    t = torch.tensor([1, 20, 60, 100])
    mixture = gaussian_mixture(mean[None], float64(0.3), float64(1), schedule)
    assert_close(mixture(x_t, t), gaussian(mean, 0.3, schedule)(x_t, t), rtol=1e-12, atol=1e-12)
    halves = gaussian_mixture(mean.expand(2, 2, 3, 3), float64(0.3, 0.3), float64(0.5, 0.5), schedule)
    assert_close(halves(x_t, t), mixture(x_t, t), rtol=1e-12, atol=1e-12)


def test_a_component_of_weight_0_has_no_effect() -> None:
    schedule, x_t = linear(100), torch.full((1, 1, 1, 1), 0.9, dtype=torch.float64)
    t = torch.tensor([30])
    mixture = gaussian_mixture(float64(1, -1).view(2, 1, 1, 1), float64(0.1, 0.4), float64(0, 1), schedule)
    assert_close(mixture(x_t, t), gaussian(-1.0, 0.4, schedule)(x_t, t), rtol=1e-12, atol=0)


def brute_force(images: Tensor, x_t: Tensor, t: Tensor, schedule: Schedule) -> Tensor:
    """The mean of the images weighted by exp(−‖x_t − α x_i‖² / 2σ²), one image at a time, in Python floats."""
    out = torch.zeros_like(x_t, dtype=torch.float64)
    for b in range(len(x_t)):
        a = schedule.alpha_bar[t[b]].item()
        exponent = [
            -math.fsum(((x_t[b].double() - math.sqrt(a) * image) ** 2).flatten().tolist()) / (2 * (1 - a))
            for image in images.double()
        ]
        weight = [math.exp(e - max(exponent)) for e in exponent]
        for w, image in zip(weight, images.double(), strict=True):
            out[b] += w / math.fsum(weight) * image
    return out


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_finite_data_is_the_weighted_mean_of_the_images(dtype: torch.dtype) -> None:
    schedule, generator = linear(100), torch.Generator().manual_seed(0)
    images = torch.rand(7, 1, 4, 4, generator=generator).to(dtype) * 2 - 1
    t = torch.tensor([1, 1, 2, 10, 50, 100])
    # x_t at an image, and half-way between two similar images, where small errors at t = 1 would change the weights
    images[1] = images[0] + 0.01
    x_t = torch.randn(6, 1, 4, 4, generator=generator).to(dtype)
    x_t[0], x_t[1] = images[3], (images[0] + images[1]) / 2 + 0.001
    expected = brute_force(images, x_t, t, schedule)
    found = finite_data(images, schedule)(x_t, t)
    assert found.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    assert_close(found.double(), expected, rtol=0, atol=tolerance)
    assert_close(found[0].double(), images[3].double(), rtol=0, atol=1e-6)


def test_finite_data_of_one_image_returns_that_image() -> None:
    schedule = linear(100)
    image = torch.rand(1, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_t = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_close(finite_data(image, schedule)(x_t, torch.tensor([1, 50, 100])), image.expand(3, 2, 3, 3))


def test_a_mixture_of_narrow_components_approximates_finite_data() -> None:
    schedule, generator = linear(100), torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    x_t = torch.randn(4, 1, 3, 3, generator=generator, dtype=torch.float64)
    t = torch.tensor([5, 20, 60, 100])
    narrow = gaussian_mixture(images, torch.full((5,), 1e-7).double(), torch.full((5,), 0.2).double(), schedule)
    assert_close(narrow(x_t, t), finite_data(images, schedule)(x_t, t), rtol=0, atol=1e-9)


def test_at_zero_snr_the_prediction_is_the_mean_of_the_data() -> None:
    schedule, generator = linear_zero_snr(100), torch.Generator().manual_seed(0)
    images = torch.rand(5, 1, 3, 3, generator=generator, dtype=torch.float64)
    x_t, t = torch.randn(2, 1, 3, 3, generator=generator, dtype=torch.float64), torch.tensor([100, 100])
    stds, weights = torch.full((5,), 0.3).double(), float64(0.1, 0.2, 0.3, 0.4, 0)
    assert_close(finite_data(images, schedule)(x_t, t), images.mean(0).expand_as(x_t))
    assert_close(gaussian(0.3, 0.5, schedule)(x_t, t), torch.full_like(x_t, 0.3))
    mixture = gaussian_mixture(images, stds, weights, schedule)(x_t, t)
    assert_close(mixture, (weights.view(-1, 1, 1, 1) * images).sum(0).expand_as(x_t))
