"""The loss by hand, its weights by the identity that defines them, and the distribution of the sampled timesteps."""

import itertools
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.common.names import Prediction, Weight
from shapedreamer.diffusion.loss import (
    denoising_loss,
    loss_weight,
    sample_timesteps,
    stratified_uniform,
    timestep_distribution,
)
from shapedreamer.diffusion.oracle import finite_data, gaussian
from shapedreamer.diffusion.process import target, to_eps
from shapedreamer.diffusion.schedule import Schedule, cosine, from_beta, linear, linear_zero_snr

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# the loss


def test_the_loss_by_hand() -> None:
    schedule = Schedule(float64(1, 0.64, 0.36))  # (α, σ) = (0.8, 0.6) at t = 1 and (0.6, 0.8) at t = 2
    x0 = float64(1, 2, -1, 0).view(2, 1, 1, 2)
    eps = float64(3, -1, 2, 1).view(2, 1, 1, 2)
    t = torch.tensor([1, 2])
    x_t = float64(0.8 * 1 + 0.6 * 3, 0.8 * 2 - 0.6, -0.6 + 0.8 * 2, 0.8).view(2, 1, 1, 2)
    inputs: list[Tensor] = []

    def network(x: Tensor, times: Tensor) -> Tensor:
        inputs.extend((x, times))
        return torch.full_like(x, 0.5)

    expected = {
        "eps": [(2.5**2 + 1.5**2) / 2, (1.5**2 + 0.5**2) / 2],
        "x0": [(0.5**2 + 1.5**2) / 2, (1.5**2 + 0.5**2) / 2],
        # v = (0.8·3 − 0.6·1, −0.8 − 0.6·2) and (0.6·2 + 0.8·1, 0.6)
        "v": [(1.3**2 + 2.5**2) / 2, (1.5**2 + 0.1**2) / 2],
        # u = (3 − 1, −1 − 2) and (2 + 1, 1)
        "flow": [(1.5**2 + 3.5**2) / 2, (2.5**2 + 0.5**2) / 2],
    }
    for prediction in PREDICTIONS:
        loss = denoising_loss(network, x0, t, eps, schedule, prediction)
        assert loss.shape == (2,)
        assert_close(loss, float64(*expected[prediction]), rtol=1e-6, atol=0)
        assert_close(inputs[-2], x_t, rtol=1e-14, atol=1e-15)
        assert torch.equal(inputs[-1], t)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_perfect_network_has_zero_loss(prediction: Prediction) -> None:
    schedule, x0 = linear(100), images(1, 0)
    oracle = finite_data(x0, schedule)

    def network(x: Tensor, t: Tensor) -> Tensor:
        exact = oracle(x, t)
        return target(prediction, exact, t, to_eps(exact, x, t, schedule), schedule)

    t = torch.tensor([1, 50, 100])
    loss = denoising_loss(network, x0.expand(3, 2, 3, 3), t, images(3, 1), schedule, prediction)
    assert loss.max() < 1e-12


@pytest.mark.parametrize(("std", "lowest"), [(1.0, 0.27551), (0.5, 0.17305)])
def test_the_lowest_possible_eps_loss(std: float, lowest: float) -> None:
    # the best network is linear in x₀ and ε here, so its mean loss is the loss at (x₀ = std, ε = 0) plus that at (0, 1)
    schedule = linear(1000)
    oracle = gaussian(0.0, std, schedule)
    t = torch.arange(1, 1001)
    zero = torch.zeros(1000, 1, 1, 1, dtype=torch.float64)

    def network(x: Tensor, times: Tensor) -> Tensor:
        return to_eps(oracle(x, times), x, times, schedule)

    loss = denoising_loss(network, zero + std, t, zero, schedule, "eps")
    loss = loss + denoising_loss(network, zero, t, zero + 1, schedule, "eps")
    assert loss.mean().item() == pytest.approx(lowest, abs=6e-6)


def test_the_error_of_a_half_precision_output_is_computed_in_float32() -> None:
    x0 = torch.full((2, 1, 8, 8), 0.25)
    t = torch.tensor([1, 2])

    def network(x: Tensor, times: Tensor) -> Tensor:
        return torch.full_like(x, 0.251953125).bfloat16()  # exact in bfloat16

    loss = denoising_loss(network, x0, t, torch.zeros_like(x0), linear(10), "x0")
    assert loss.dtype == torch.float32
    assert_close(loss, torch.full((2,), 0.001953125**2))


def test_the_gradient_reaches_the_network() -> None:
    network = nn.Conv2d(1, 1, 1)
    x0 = torch.zeros(2, 1, 2, 2)
    loss = denoising_loss(lambda x, t: network(x), x0, torch.tensor([3, 9]), torch.ones_like(x0), linear(10), "eps")
    loss.mean().backward()
    assert network.bias is not None
    assert network.bias.grad is not None
    with torch.no_grad():
        _, sigma = linear(10).alpha_sigma(torch.tensor([3, 9]), x0)
        expected = 2 * (network(sigma * torch.ones_like(x0)) - 1).mean()
    assert_close(network.bias.grad, expected[None])


# weights


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_simple_weight_is_1_everywhere(prediction: Prediction) -> None:
    assert torch.equal(loss_weight("simple", prediction, linear(7)), torch.ones(8, dtype=torch.float64))


def test_min_snr_by_hand() -> None:
    schedule = Schedule(float64(1, 0.9, 0.8, 0.5, 0.2))  # SNR 9, 4, 1, 1/4
    expected: dict[Prediction, tuple[float, ...]] = {
        "eps": (5 / 9, 1, 1, 1),
        "x0": (5, 4, 1, 1 / 4),
        "v": (5 / 10, 4 / 5, 1 / 2, (1 / 4) / (5 / 4)),
        "flow": (5 / 16, 4 / 9, 1 / 4, (1 / 4) / (9 / 4)),
    }
    for prediction, values in expected.items():
        weight = loss_weight("min_snr", prediction, schedule)
        assert weight.dtype == torch.float64
        assert_close(weight[1:], float64(*values), rtol=1e-12, atol=0)
        assert weight[0].isfinite()
    assert_close(loss_weight("min_snr", "x0", schedule, gamma=2.0)[1:], float64(2, 2, 1, 1 / 4), rtol=1e-12, atol=0)


def test_balanced_by_hand() -> None:
    schedule = Schedule(float64(1, 0.99, 0.9, 0.5, 0.2))  # SNR 99, 9, 1, 1/4
    assert_close(loss_weight("balanced", "x0", schedule)[1:], float64(626, 226, 26, 7.25), rtol=1e-12, atol=0)
    assert_close(loss_weight("balanced", "v", schedule)[3:], float64(13, 5.8), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("weight", "of_x0"),
    [("min_snr", lambda snr: snr.clamp(max=5)), ("balanced", lambda snr: 1 + 25 * snr.clamp(max=25))],
)
@pytest.mark.parametrize("schedule", [linear(200), cosine(200)])
def test_a_weight_is_the_same_for_the_same_x0_error_with_every_prediction_type(
    schedule: Schedule, weight: Weight, of_x0: Callable[[Tensor], Tensor]
) -> None:
    T = schedule.T
    t, x0, eps, predicted_x0 = torch.arange(1, T + 1), images(T, 0), images(T, 1), images(T, 2)
    alpha, sigma = schedule.alpha_sigma(t, x0)
    x_t = alpha * x0 + sigma * eps
    weighted = []
    for prediction in PREDICTIONS:
        output = target(prediction, predicted_x0, t, to_eps(predicted_x0, x_t, t, schedule), schedule)
        error = (output - target(prediction, x0, t, eps, schedule)).square().flatten(1).mean(1)
        weighted.append(loss_weight(weight, prediction, schedule)[1:] * error)
    expected = of_x0(schedule.snr[1:]) * (predicted_x0 - x0).square().flatten(1).mean(1)
    for loss in weighted:
        assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["min_snr", "balanced"])
def test_weights_with_zero_terminal_snr_are_finite(name: Weight) -> None:
    predictions: tuple[Prediction, ...] = ("x0", "v", "flow")  # eps-prediction needs a positive SNR
    for prediction in predictions:
        weight = loss_weight(name, prediction, linear_zero_snr(100))
        assert weight.isfinite().all()
        assert (weight >= 0).all()


# sampling of t


def moments_of_log_snr(distribution: Tensor, schedule: Schedule) -> tuple[float, float]:
    level = schedule.snr[1:].log().clamp(-1e3, 1e3)
    mean = (distribution[1:] * level).sum().item()
    return mean, math.sqrt((distribution[1:] * (level - mean) ** 2).sum().item())


@pytest.mark.parametrize("schedule", [linear(1000), cosine(1000), linear_zero_snr(1000), linear(50)])
@pytest.mark.parametrize("log_snr", [None, (0.0, 2.0), (-3.0, 0.5), (2.4, 2.4)])
@pytest.mark.parametrize("uniform", [0.0, 0.3, 1.0])
def test_probabilities_are_not_negative_and_sum_to_1(
    schedule: Schedule, log_snr: tuple[float, float] | None, uniform: float
) -> None:
    distribution = timestep_distribution(schedule, log_snr, uniform)
    assert distribution.shape == (schedule.T + 1,)
    assert distribution.dtype == torch.float64
    assert distribution[0] == 0
    assert (distribution >= 0).all()
    assert distribution.sum().item() == pytest.approx(1, rel=1e-12)


def test_timesteps_are_uniform_by_default() -> None:
    assert_close(
        timestep_distribution(linear(20))[1:], torch.full((20,), 0.05, dtype=torch.float64), rtol=1e-14, atol=0
    )
    assert torch.equal(timestep_distribution(linear(20), uniform=0.5), timestep_distribution(linear(20)))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.5), (2.4, 1.0), (-3.0, 0.5)])
def test_the_log_snr_of_the_timesteps_is_normal(mean: float, std: float) -> None:
    schedule = cosine(4000)
    found = moments_of_log_snr(timestep_distribution(schedule, (mean, std)), schedule)
    assert found == pytest.approx((mean, std), abs=2e-3)


def test_a_timestep_gets_the_probability_of_the_log_snrs_nearest_to_its_own() -> None:
    # log-SNR 3, 1, 0, −4: intervals meet half-way, and begin and end at the first and the last log-SNR
    level = float64(3, 1, 0, -4)
    schedule = Schedule(torch.cat([float64(1), torch.sigmoid(level)]))
    mean, std = 0.5, 2.0
    edges = [3, 2, 0.5, -2, -4]
    cdf = [0.5 * (1 + math.erf((edge - mean) / std / math.sqrt(2))) for edge in edges]
    mass = float64(*(high - low for high, low in itertools.pairwise(cdf)))
    assert_close(timestep_distribution(schedule, (mean, std))[1:], mass / mass.sum(), rtol=1e-10, atol=0)


def test_a_fraction_of_the_timesteps_stays_uniform() -> None:
    schedule = linear(100)
    even, normal = timestep_distribution(schedule), timestep_distribution(schedule, (0.0, 1.0))
    assert_close(
        timestep_distribution(schedule, (0.0, 1.0), uniform=0.25), 0.25 * even + 0.75 * normal, rtol=1e-12, atol=0
    )
    assert torch.equal(timestep_distribution(schedule, (0.0, 1.0), uniform=1.0), even)


@pytest.mark.parametrize(
    ("log_snr", "uniform", "message"),
    [
        ((0.0, 0.0), 0.0, "std > 0"),
        ((0.0, -1.0), 0.0, "std > 0"),
        ((0.0, 1.0), -0.1, r"\[0, 1\]"),
        ((0.0, 1.0), 1.1, r"\[0, 1\]"),
        ((60.0, 0.5), 0.5, "reaches no timestep: choose a mean between"),  # unchecked, this divides by 0
        ((-300.0, 0.5), 0.0, "reaches no timestep: choose a mean between"),
    ],
)
def test_invalid_distributions_are_rejected(log_snr: tuple[float, float], uniform: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        timestep_distribution(linear(100), log_snr, uniform)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30).filter(lambda values: sum(values) > 0.01))
def test_evenly_spaced_numbers_reproduce_the_distribution(values: list[float]) -> None:
    distribution = torch.cat([float64(0), float64(*values) / sum(values)])
    n = 2000
    times = sample_timesteps(distribution, (torch.arange(n) + 0.5) / n)
    assert times.dtype == torch.int64
    assert times.min() >= 1
    count = times.bincount(minlength=len(distribution))
    assert len(count) == len(distribution)
    assert ((count - n * distribution).abs() <= 1 + 1e-6).all()


def test_a_single_timestep_has_probability_1() -> None:
    assert timestep_distribution(linear(1), (-2.0, 1.8), 0.1).tolist() == [0, 1]


def test_random_numbers_follow_the_distribution() -> None:
    distribution, n = timestep_distribution(cosine(40), (0.0, 2.0), uniform=0.2), 20_000
    u = torch.rand(n, generator=torch.Generator().manual_seed(0))
    count = sample_timesteps(distribution, u).bincount(minlength=41)
    chi_squared = ((count[1:] - n * distribution[1:]) ** 2 / (n * distribution[1:])).sum().item()
    assert chi_squared < 39 + 4 * math.sqrt(2 * 39)
    assert count[0] == 0


def test_numbers_at_the_ends_and_boundaries_of_the_unit_interval() -> None:
    distribution = timestep_distribution(linear(10))
    u = float64(0, 0.0999, 0.1001, 1 - 2**-53, 1)
    assert sample_timesteps(distribution, u).tolist() == [1, 1, 2, 10, 10]
    # the first timesteps have probability 0
    assert sample_timesteps(float64(0, 0, 0, 0.5, 0.5), float64(0, 0.6)).tolist() == [3, 4]
    # a boundary belongs to the later timestep
    halves = float64(0, 0.5, 0.25, 0.25)
    assert sample_timesteps(halves, float64(0.5, 0.75)).tolist() == [2, 3]


@pytest.mark.parametrize("n", [1, 2, 64, 1000])
def test_stratified_numbers_fall_one_in_each_interval(n: int) -> None:
    u = stratified_uniform(n, torch.Generator().manual_seed(5))
    assert u.shape == (n,)
    assert u.dtype == torch.float64
    assert torch.equal((u.sort().values * n).floor(), torch.arange(n).double())


def test_stratified_numbers_are_shuffled_and_depend_only_on_the_generator() -> None:
    first, again, other = (stratified_uniform(64, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, first.sort().values)
    first_numbers = torch.stack([stratified_uniform(8, torch.Generator().manual_seed(seed))[0] for seed in range(400)])
    # any interval can come first
    assert first_numbers.mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(1 / 12 / 400))


def test_stratified_batches_cover_all_noise_levels() -> None:
    distribution = timestep_distribution(from_beta(torch.full((16,), 0.1, dtype=torch.float64)))
    times = sample_timesteps(distribution, stratified_uniform(16, torch.Generator().manual_seed(0)))
    assert times.sort().values.tolist() == list(range(1, 17))
