"""Schedules: published values, the timesteps of samplers, and invalid input."""

import itertools
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from fractions import Fraction
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.names import ScheduleName
from shapedreamer.diffusion.schedule import (
    SCHEDULES,
    Schedule,
    cosine,
    cubic_times,
    flow,
    from_beta,
    linear,
    linear_zero_snr,
    log_snr_times,
    step_times,
    zero_terminal_snr,
)

IMAGES = torch.zeros(2, 1, 4, 4, dtype=torch.float64)


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "T", "alpha_bar_T", "alpha_T"),
    [
        (linear, 1000, 4.035829765e-5, 0.006352818),
        (linear, 500, 6.352710797e-3, 0.079703894),
        (linear, 200, 0.132182754, 0.363569463),
        (cosine, 1000, 2.428766907e-9, 4.928252e-5),
        (cosine, 500, 9.715044036e-9, 9.856492e-5),
    ],
)
def test_alpha_bar_ends_at_the_published_value(
    make: Callable[[int], Schedule], T: int, alpha_bar_T: float, alpha_T: float
) -> None:
    schedule = make(T)
    assert schedule.T == T
    assert len(schedule.alpha_bar) == T + 1
    assert schedule.alpha_bar.dtype == torch.float64
    assert schedule.alpha_bar[0] == 1
    assert schedule.alpha_bar[-1].item() == pytest.approx(alpha_bar_T, rel=1e-8, abs=0)
    assert schedule.alpha_sigma(T, IMAGES)[0].item() == pytest.approx(alpha_T, rel=2e-7, abs=0)


def test_the_terminal_snr_of_linear_500_is_the_published_value() -> None:
    assert linear(500).snr[-1].item() == pytest.approx(0.006393, abs=5e-7)


def test_linear_is_the_cumulative_product_of_1_minus_beta() -> None:
    T, log_product = 1000, 0.0
    alpha_bar = linear(T).alpha_bar
    for t in range(1, T + 1):
        log_product += math.log1p(-(1e-4 + (0.02 - 1e-4) * (t - 1) / (T - 1)))
        assert alpha_bar[t].item() == pytest.approx(math.exp(log_product), rel=1e-12)


def test_known_values_of_cosine() -> None:
    schedule = cosine(1000)
    assert schedule.beta[1].item() == pytest.approx(4.128422482e-5, rel=1e-8, abs=0)
    assert schedule.alpha_bar[500].item() == pytest.approx(0.49384359, rel=1e-8)
    clipped = schedule.beta > 0.999 - 1e-12
    assert clipped.sum() == 1
    assert clipped[-1]


def test_cosine_is_a_squared_cosine_up_to_the_clipped_beta() -> None:
    T, s = 250, 0.008
    alpha_bar = cosine(T).alpha_bar
    f = [math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2 for t in range(T)]
    for t in range(T):
        assert alpha_bar[t].item() == pytest.approx(f[t] / f[0], rel=1e-9)
    assert (1 - alpha_bar[T] / alpha_bar[T - 1]).item() == pytest.approx(0.999, rel=1e-12)


def test_beta_and_snr_follow_from_alpha_bar() -> None:
    schedule = Schedule(float64(1, 0.8, 0.2, 0))
    assert_close(schedule.beta, float64(0, 0.2, 0.75, 1), rtol=1e-14, atol=1e-16)
    assert_close(schedule.snr, float64(math.inf, 4, 0.25, 0), rtol=1e-14, atol=0)


@given(st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=40))
def test_from_beta_has_the_given_beta(values: list[float]) -> None:
    schedule = from_beta(float64(*values))
    assert schedule.T == len(values)
    assert_close(schedule.beta[1:], float64(*values), rtol=0, atol=1e-15)


@pytest.mark.parametrize("make", [linear, cosine, lambda: linear(500), lambda: linear(2)])
def test_zero_terminal_snr_is_exact(make: Callable[[], Schedule]) -> None:
    original = make()
    alpha_bar = original.alpha_bar.clone()
    rescaled = zero_terminal_snr(original)
    assert torch.equal(original.alpha_bar, alpha_bar)
    assert rescaled.T == original.T
    assert rescaled.alpha_bar[-1] == 0
    assert rescaled.alpha_bar[0] == 1
    assert rescaled.alpha_bar[1].item() == pytest.approx(alpha_bar[1].item(), rel=1e-14)
    # algorithm 1 is an affine map of √ᾱ for t ≥ 1, so ratios of differences do not change
    new, old = rescaled.alpha_bar.sqrt()[1:], alpha_bar.sqrt()[1:]
    assert_close((new - new[-1]) / (new[0] - new[-1]), (old - old[-1]) / (old[0] - old[-1]), rtol=1e-12, atol=1e-14)


def test_SCHEDULES_maps_every_name_to_its_schedule() -> None:
    assert set(SCHEDULES) == set(get_args(ScheduleName))
    assert torch.equal(SCHEDULES["linear"](300).alpha_bar, linear(300).alpha_bar)
    assert torch.equal(SCHEDULES["cosine"](300).alpha_bar, cosine(300).alpha_bar)
    assert torch.equal(SCHEDULES["linear_zero_snr"](300).alpha_bar, zero_terminal_snr(linear(300)).alpha_bar)
    assert torch.equal(SCHEDULES["flow"](300).alpha_bar, flow(300).alpha_bar)
    assert torch.equal(linear_zero_snr().alpha_bar, zero_terminal_snr(linear(1000)).alpha_bar)


@pytest.mark.parametrize(
    ("alpha_bar", "message"),
    [
        (torch.tensor([1.0, 0.5]), "float64"),
        (torch.ones(2, 2, dtype=torch.float64), "shape"),
        (float64(1), "shape"),
        (float64(0.99, 0.5), "clean data"),
        (float64(1, 0.5, 0.5), "fall"),
        (float64(1, 0.5, 0.6), "fall"),
        (float64(1, 0.5, -0.1), "below 0"),
        (float64(1, math.nan, 0.1), "fall"),
        (float64(1, 0.5, math.nan), "fall"),
    ],
)
def test_an_invalid_alpha_bar_is_rejected(alpha_bar: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(alpha_bar)


def test_a_schedule_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        linear(10).alpha_bar = cosine(10).alpha_bar  # type: ignore[misc]


# alpha_sigma


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_alpha_sigma_is_the_float64_table_cast_once(dtype: torch.dtype) -> None:
    schedule = linear(100)
    t = torch.tensor([0, 1, 57, 100])
    alpha, sigma = schedule.alpha_sigma(t, like=torch.zeros(4, 3, 2, 2, dtype=dtype))
    assert alpha.shape == sigma.shape == (4, 1, 1, 1)
    assert alpha.dtype == sigma.dtype == dtype
    for i, timestep in enumerate(t.tolist()):
        a = schedule.alpha_bar[timestep].item()
        assert alpha[i].item() == torch.tensor(math.sqrt(a), dtype=torch.float64).to(dtype).item()
        assert sigma[i].item() == torch.tensor(math.sqrt(1 - a), dtype=torch.float64).to(dtype).item()


def test_one_schedule_supports_several_dtypes() -> None:
    schedule = cosine(50)
    for dtype in (torch.float32, torch.float64, torch.float32):
        assert schedule.alpha_sigma(7, like=IMAGES.to(dtype))[1].dtype == dtype
    assert schedule.alpha_sigma(7, like=IMAGES)[0].item() == schedule.alpha_bar[7].sqrt().item()


def test_alpha_sigma_is_on_the_device_of_the_images() -> None:
    images = torch.empty(2, 1, 4, 4, device="meta")
    for value in (*linear(10).alpha_sigma(3, images), *linear(10).alpha_sigma(torch.tensor([3, 4]), images)):
        assert value.device.type == "meta"


def test_alpha_sigma_of_an_int_is_a_scalar_equal_to_that_of_a_tensor() -> None:
    schedule = linear(20)
    for t in range(21):
        scalars, batch = schedule.alpha_sigma(t, IMAGES), schedule.alpha_sigma(torch.tensor([t, t]), IMAGES)
        for scalar, values in zip(scalars, batch, strict=True):
            assert scalar.ndim == 0
            assert torch.equal(values, scalar.expand(2, 1, 1, 1))


def test_alpha_sigma_broadcasts_over_any_number_of_dimensions() -> None:
    t = torch.tensor([1, 2, 3])
    assert linear(10).alpha_sigma(t, torch.zeros(3, 5))[0].shape == (3, 1)
    assert linear(10).alpha_sigma(t, torch.zeros(3))[0].shape == (3,)
    assert linear(10).alpha_sigma(t[:0], torch.zeros(0, 1, 2, 2))[0].shape == (0, 1, 1, 1)


@pytest.mark.parametrize("t", [-1, 11, torch.tensor([3, -1]), torch.tensor([0, 11])])
def test_alpha_sigma_rejects_timesteps_outside_the_schedule(t: int | Tensor) -> None:
    with pytest.raises(IndexError, match=r"^timesteps? .* outside 0…10$"):
        linear(10).alpha_sigma(t, IMAGES)


def test_a_table_made_in_inference_mode_can_be_used_for_training() -> None:
    schedule = linear(10)
    with torch.inference_mode():
        schedule.alpha_sigma(3, IMAGES)
    parameter = torch.ones_like(IMAGES, requires_grad=True)
    alpha, _ = schedule.alpha_sigma(3, IMAGES)
    (parameter * alpha).sum().backward()
    assert parameter.grad is not None
    assert_close(parameter.grad, alpha.expand_as(IMAGES))


# step_times


def test_step_times_decrease_from_T_to_0_for_every_number_of_steps() -> None:
    T = 1000
    for n in range(1, T + 1):
        times = step_times(T, n)
        assert len(times) == n + 1
        assert times[0] == T
        assert times[-1] == 0
        assert all(t > s for t, s in itertools.pairwise(times))


@given(st.integers(1, 3000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_step_times_are_evenly_spaced_and_rounded(case: tuple[int, int]) -> None:
    T, n = case
    assert step_times(T, n) == [round(Fraction(T * (n - i), n)) for i in range(n + 1)]


def test_step_times_for_53_steps_of_1000() -> None:
    times = step_times(1000, 53)
    assert times[:6] == [1000, 981, 962, 943, 925, 906]
    assert times[-5:] == [75, 57, 38, 19, 0]


def test_T_steps_visit_every_timestep() -> None:
    assert step_times(7, 7) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert step_times(7, 1) == [7, 0]


@pytest.mark.parametrize("steps", [0, -1, 11])
def test_a_number_of_steps_outside_1_to_T_is_rejected(steps: int) -> None:
    with pytest.raises(ValueError, match="between 1 and T = 10"):
        step_times(10, steps)
    with pytest.raises(ValueError, match="between 1 and T = 10"):
        cubic_times(10, steps)


@given(st.integers(1, 3000).flatmap(lambda T: st.tuples(st.just(T), st.integers(1, T))))
def test_cubic_times_decrease_from_T_to_0(case: tuple[int, int]) -> None:
    T, n = case
    times = cubic_times(T, n)
    assert len(times) == n + 1
    assert (times[0], times[-1]) == (T, 0)
    assert all(t > s for t, s in itertools.pairwise(times))


def test_cubic_times_are_evenly_spaced_in_the_cube_root_of_t() -> None:
    assert cubic_times(1000, 4) == [1000, 422, 125, 16, 0]
    assert cubic_times(500, 2) == [500, 62, 0]  # 62.5 is rounded to the even neighbour
    T, n = 1_000_000, 30  # large enough that no two cubes round to the same number
    assert cubic_times(T, n) == [round(Fraction(T * (n - i) ** 3, n**3)) for i in range(n + 1)]


def test_cubic_times_that_would_coincide_are_raised() -> None:
    assert cubic_times(20, 8) == [20, 13, 8, 5, 4, 3, 2, 1, 0]  # the last four before 0 round to 2, 1, 0 and 0
    assert cubic_times(7, 7) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert cubic_times(7, 1) == [7, 0]


@given(st.sampled_from([cosine(1000), linear(1000), cosine(37), linear_zero_snr(500)]), st.data())
def test_log_snr_times_decrease_from_start_to_0(schedule: Schedule, data: st.DataObject) -> None:
    start = data.draw(st.integers(1, schedule.T))
    steps = data.draw(st.integers(1, start))
    times = log_snr_times(schedule, steps, start)
    assert len(times) == steps + 1
    assert times[0] == start
    assert times[-1] == 0
    assert all(t > s for t, s in itertools.pairwise(times))


def test_log_snr_times_are_evenly_spaced_in_log_snr() -> None:
    schedule = cosine(100_000)  # T is so large that rounding to integers hardly matters
    levels = schedule.snr[log_snr_times(schedule, 12)[1:-1]].log()
    assert_close(levels, torch.arange(-6.0, 5.0, dtype=torch.float64), atol=0.01, rtol=0)
    late = log_snr_times(schedule, 4, start=int((schedule.snr[1:].log() - 1).abs().argmin()) + 1)
    assert_close(schedule.snr[late[:-1]].log(), torch.tensor([1.0, 2, 3, 4], dtype=torch.float64), atol=0.01, rtol=0)


@pytest.mark.parametrize(("steps", "start"), [(0, None), (51, None), (8, 7), (1, 51), (1, 0)])
def test_log_snr_times_rejects_steps_and_start_outside_their_ranges(steps: int, start: int | None) -> None:
    used = 50 if start is None else start
    message = f"need 1 ≤ steps ≤ start ≤ T, but steps = {steps}, start = {used}, T = 50"
    with pytest.raises(ValueError, match=message):
        log_snr_times(cosine(50), steps, start)
