"""The forward process, its posterior compared with Bayes' rule on a grid, and conversions between prediction types."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.names import Prediction
from shapedreamer.diffusion.process import diffuse, posterior, target, to_eps, to_x0, transition
from shapedreamer.diffusion.schedule import SCHEDULES, Schedule, cosine, linear, linear_zero_snr

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
ONE = torch.ones(1, 1, 1, 1, dtype=torch.float64)
ZERO = torch.zeros_like(ONE)


def images(n: int, seed: int) -> Tensor:
    return torch.randn(n, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# forward process


def test_diffuse_to_timestep_0_changes_nothing() -> None:
    x0, eps = images(3, 0), images(3, 1)
    assert torch.equal(diffuse(x0, 0, eps, linear()), x0)
    assert torch.equal(diffuse(x0, torch.zeros(3, dtype=torch.int64), eps, linear()), x0)


def test_each_image_is_noised_to_its_own_timestep() -> None:
    schedule, x0, eps = linear(100), images(3, 0), images(3, 1)
    t = torch.tensor([1, 40, 100])
    x_t = diffuse(x0, t, eps, schedule)
    for i in range(3):
        a = schedule.alpha_bar[t[i]].item()
        assert_close(x_t[i], math.sqrt(a) * x0[i] + math.sqrt(1 - a) * eps[i], rtol=1e-14, atol=1e-15)
        assert torch.equal(diffuse(x0, int(t[i]), eps, schedule)[i], x_t[i])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_variance_stays_1(name: str) -> None:
    schedule = SCHEDULES[name](200)  # type: ignore[index]
    t = torch.arange(201)
    one, zero = ONE.expand(201, 1, 1, 1), ZERO.expand(201, 1, 1, 1)
    variance = diffuse(one, t, zero, schedule) ** 2 + diffuse(zero, t, one, schedule) ** 2
    assert_close(variance, one, rtol=1e-14, atol=0)


def test_the_sample_variance_of_noised_random_images_is_1() -> None:
    x0, eps = (torch.randn(2, 100_000, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).unbind(0)
    for t in (1, 300, 1000):
        x_t = diffuse(x0[None], t, eps[None], linear())
        assert x_t.var().item() == pytest.approx(1, abs=4 * math.sqrt(2 / 100_000))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_chain_of_all_transitions_equals_the_closed_form(name: str) -> None:
    schedule = SCHEDULES[name](300)  # type: ignore[index]
    signal, variance = ONE, 0.0
    for t in range(1, schedule.T + 1):
        signal = transition(signal, t - 1, t, ZERO, schedule)
        kept, added = transition(ONE, t - 1, t, ZERO, schedule), transition(ZERO, t - 1, t, ONE, schedule)
        variance = kept.item() ** 2 * variance + added.item() ** 2
        assert signal.item() == pytest.approx(diffuse(ONE, t, ZERO, schedule).item(), rel=1e-12)
        assert math.sqrt(variance) == pytest.approx(diffuse(ZERO, t, ONE, schedule).item(), rel=1e-12)


@given(st.lists(st.integers(1, 500), min_size=2, max_size=6, unique=True).map(sorted))
def test_transitions_of_any_stride_equal_the_closed_form(times: list[int]) -> None:
    schedule, x0 = cosine(500), images(1, 5)
    # track the image and the variance of the noise separately: the sum of independent noises is not one fixed tensor
    signal, variance, s = x0, 0.0, 0
    for t in times:
        signal = transition(signal, s, t, torch.zeros_like(x0), schedule)
        kept, added = transition(ONE, s, t, ZERO, schedule).item(), transition(ZERO, s, t, ONE, schedule).item()
        variance, s = kept**2 * variance + added**2, t
    assert_close(signal, diffuse(x0, s, torch.zeros_like(x0), schedule), rtol=1e-11, atol=1e-15)
    assert math.sqrt(variance) == pytest.approx(diffuse(ZERO, s, ONE, schedule).item(), rel=1e-12)


# posterior


def bayes_on_a_grid(x0: float, x_t: float, t: int, s: int, schedule: Schedule) -> tuple[float, float]:
    """Mean and variance of x_s, from q(x_s|x₀) q(x_t|x_s) on a fine grid instead of the posterior's formula."""
    a_s, ratio = schedule.alpha_bar[s].item(), (schedule.alpha_bar[t] / schedule.alpha_bar[s]).item()
    grid = math.sqrt(a_s) * x0 + math.sqrt(1 - a_s) * torch.linspace(-12, 12, 8_001, dtype=torch.float64)
    log_p = -((grid - math.sqrt(a_s) * x0) ** 2) / (2 * (1 - a_s))
    if ratio < 1:
        log_p = log_p - (x_t - math.sqrt(ratio) * grid) ** 2 / (2 * (1 - ratio))
    p = log_p.softmax(0)
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().item()


@pytest.mark.parametrize(("t", "s"), [(2, 1), (10, 9), (500, 499), (1000, 999), (1000, 1), (700, 350), (60, 40)])
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_posterior_is_that_of_bayes_rule(name: str, t: int, s: int) -> None:
    schedule = SCHEDULES[name](1000)  # type: ignore[index]
    for x0, eps in ((0.7, 0.3), (-1.0, -1.6), (0.0, 1.1)):
        x_t = diffuse(x0 * ONE, t, eps * ONE, schedule)
        mean, variance = posterior(x0 * ONE, x_t, t, s, schedule)
        expected_mean, expected_variance = bayes_on_a_grid(x0, x_t.item(), t, s, schedule)
        assert mean.item() == pytest.approx(expected_mean, rel=1e-8, abs=1e-9)
        assert variance == pytest.approx(expected_variance, rel=1e-7)


def test_known_values_of_the_posterior_variance() -> None:
    schedule = linear(1000)
    assert posterior(ONE, ONE, 1, 0, schedule)[1] == 0
    ratio = posterior(ONE, ONE, 2, 1, schedule)[1] / schedule.beta[2].item()
    assert ratio == pytest.approx(0.4547357658, rel=1e-8)


@given(st.integers(1, 1000))
def test_the_posterior_at_timestep_0_is_the_image(t: int) -> None:
    x0, x_t = images(2, 1), images(2, 2)
    mean, variance = posterior(x0, x_t, t, 0, linear())
    assert variance == 0
    assert_close(mean, x0, rtol=1e-15, atol=0)


def test_the_posterior_averaged_over_x_t_is_the_forward_process() -> None:
    # with x_t ~ q(x_t|x₀), the mean and variance of x_s ~ q(x_s|x_t, x₀) must be those of q(x_s|x₀)
    schedule = linear(1000)
    for t, s in ((1000, 980), (500, 1), (3, 2)):
        mean = posterior(ONE, diffuse(ONE, t, ZERO, schedule), t, s, schedule)[0].item()
        gain = posterior(ZERO, ONE, t, s, schedule)[0].item()
        variance = posterior(ZERO, ONE, t, s, schedule)[1] + gain**2 * (1 - schedule.alpha_bar[t].item())
        assert mean == pytest.approx(diffuse(ONE, s, ZERO, schedule).item(), rel=1e-12)
        assert variance == pytest.approx(1 - schedule.alpha_bar[s].item(), rel=1e-12)


def test_the_posterior_at_zero_terminal_snr_ignores_x_T() -> None:
    schedule, x0 = linear_zero_snr(), images(2, 4)
    mean, variance = posterior(x0, images(2, 5), 1000, 800, schedule)
    a = schedule.alpha_bar[800].item()
    assert_close(mean, math.sqrt(a) * x0, rtol=1e-14, atol=0)  # equal to q(x_s | x₀), since x_T contains no image
    assert variance == pytest.approx(1 - a, rel=1e-14)


# conversions


@pytest.mark.parametrize("prediction", PREDICTIONS)
@given(t=st.lists(st.integers(1, 1000), min_size=2, max_size=2), seed=st.integers(0, 1000))
def test_converting_a_target_back_gives_x0_and_eps(prediction: Prediction, t: list[int], seed: int) -> None:
    for schedule in (linear(), cosine()):
        x0, eps, times = images(2, seed), images(2, seed + 1), torch.tensor(t)
        x_t = diffuse(x0, times, eps, schedule)
        recovered = to_x0(prediction, target(prediction, x0, times, eps, schedule), x_t, times, schedule)
        assert_close(recovered, x0, rtol=0, atol=1e-10)
        assert_close(to_eps(recovered, x_t, times, schedule), eps, rtol=0, atol=1e-10)


def test_targets_by_hand() -> None:
    # (α, σ) is (0.8, 0.6) at t = 1 and (0.6, 0.8) at t = 2
    schedule = Schedule(torch.tensor([1, 0.64, 0.36], dtype=torch.float64))
    x0, eps = 2 * ONE, 5 * ONE
    assert target("eps", x0, 1, eps, schedule).item() == 5
    assert target("x0", x0, 1, eps, schedule).item() == 2
    assert target("v", x0, 1, eps, schedule).item() == pytest.approx(0.8 * 5 - 0.6 * 2)
    assert target("v", x0, 2, eps, schedule).item() == pytest.approx(0.6 * 5 - 0.8 * 2)
    assert target("flow", x0, 1, eps, schedule).item() == 5 - 2
    x_t = diffuse(x0, 2, eps, schedule)
    assert x_t.item() == pytest.approx(0.6 * 2 + 0.8 * 5)
    assert to_x0("flow", ONE, x_t, 2, schedule).item() == pytest.approx((5.2 - 0.8) / 1.4)
    assert to_x0("eps", ONE, x_t, 2, schedule).item() == pytest.approx((5.2 - 0.8) / 0.6)
    assert to_x0("x0", ONE, x_t, 2, schedule).item() == 1
    assert to_x0("v", ONE, x_t, 2, schedule).item() == pytest.approx(0.6 * 5.2 - 0.8)
    assert to_eps(ONE, x_t, 2, schedule).item() == pytest.approx((5.2 - 0.6) / 0.8)


@given(st.integers(0, 1000))
def test_x_t_and_v_are_a_rotation_of_x0_and_eps(t: int) -> None:
    schedule, x0, eps = linear(), images(1, 1), images(1, 2)
    x_t, v = diffuse(x0, t, eps, schedule), target("v", x0, t, eps, schedule)
    assert_close(x_t**2 + v**2, x0**2 + eps**2, rtol=1e-13, atol=0)
    alpha, sigma = schedule.alpha_sigma(t, x0)
    assert_close(sigma * x_t + alpha * v, eps, rtol=1e-12, atol=1e-13)


def test_conversions_accept_an_int_or_a_timestep_for_each_image() -> None:
    schedule, x0, eps = linear(50), images(2, 1), images(2, 2)
    t = torch.tensor([20, 20])
    for prediction in PREDICTIONS:
        assert torch.equal(target(prediction, x0, 20, eps, schedule), target(prediction, x0, t, eps, schedule))
        assert torch.equal(to_x0(prediction, eps, x0, 20, schedule), to_x0(prediction, eps, x0, t, schedule))
    assert torch.equal(to_eps(x0, eps, 20, schedule), to_eps(x0, eps, t, schedule))


def test_v_and_u_are_finite_at_zero_terminal_snr() -> None:
    schedule, x0, eps = linear_zero_snr(), images(2, 1), images(2, 2)
    T = schedule.T
    assert torch.equal(diffuse(x0, T, eps, schedule), eps)
    v = target("v", x0, T, eps, schedule)
    assert torch.equal(v, -x0)
    assert torch.equal(to_x0("v", v, eps, T, schedule), x0)
    u = target("flow", x0, T, eps, schedule)
    assert_close(to_x0("flow", u, eps, T, schedule), x0, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("s", "t"), [(-1, 5), (5, 5), (6, 5), (0, 1001)])
def test_timesteps_out_of_order_or_out_of_range_are_rejected(s: int, t: int) -> None:
    x = torch.zeros(1, 1, 2, 2)
    message = f"timesteps must be 0 ≤ s < t ≤ 1000, not s = {s}, t = {t}"
    with pytest.raises(IndexError, match=message):
        transition(x, s, t, x, linear())
    with pytest.raises(IndexError, match=message):
        posterior(x, x, t, s, linear())
