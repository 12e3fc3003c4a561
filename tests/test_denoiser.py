"""Denoiser and its wrappers: every prediction type says the same, guidance has one convention, clipping comes last."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.denoiser import Denoise, Denoiser, clipped, guided
from shapedreamer.names import Prediction
from shapedreamer.oracle import gaussian, gaussian_mixture
from shapedreamer.process import to_eps
from shapedreamer.schedule import Schedule, cosine, linear, linear_zero_snr

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
X = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TIMES = torch.tensor([1, 20, 70, 100])


class Exact(nn.Module):
    """A network that predicts what an exact denoiser knows."""

    def __init__(self, oracle: Denoise, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.oracle, self.schedule, self.prediction = oracle, schedule, prediction

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x0 = self.oracle(x, t)
        if self.prediction == "x0":
            return x0
        alpha, sigma = self.schedule.alpha_sigma(t, x)
        return (x - alpha * x0) / sigma if self.prediction == "eps" else (alpha * x - x0) / sigma


def constant(value: float) -> Denoise:
    return lambda x_t, t: torch.full_like(x_t, value)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [linear(100), cosine(100)])
def test_every_prediction_type_gives_the_same_x0(prediction: Prediction, schedule: Schedule) -> None:
    means = torch.stack([torch.full((2, 3, 3), -0.5), torch.full((2, 3, 3), 0.8)]).double()
    stds, weights = torch.tensor([0.3, 0.6]).double(), torch.tensor([0.4, 0.6]).double()
    for oracle in (gaussian(0.2, 0.5, schedule), gaussian_mixture(means, stds, weights, schedule)):
        denoise = Denoiser(Exact(oracle, schedule, prediction), schedule, prediction)
        assert_close(denoise(X, TIMES), oracle(X, TIMES), rtol=0, atol=1e-10)


def test_eps_prediction_with_zero_terminal_snr_is_refused() -> None:
    with pytest.raises(ValueError, match="use prediction v or x0"):
        Denoiser(nn.Identity(), linear_zero_snr(100), "eps")


@pytest.mark.parametrize("prediction", ["x0", "v"])
def test_v_and_x0_know_the_image_at_zero_terminal_snr(prediction: Prediction) -> None:
    schedule = linear_zero_snr(100)
    oracle = gaussian(0.2, 0.5, schedule)
    denoise = Denoiser(Exact(oracle, schedule, prediction), schedule, prediction)
    assert_close(denoise(X, torch.full((4,), 100)), torch.full_like(X, 0.2), rtol=0, atol=1e-12)


def test_the_network_is_told_the_image_and_the_time() -> None:
    told: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        told.append((x, t))
        return x

    assert torch.equal(Denoiser(network, linear(100), "x0")(X, TIMES), X)
    assert len(told) == 1
    assert torch.equal(told[0][0], X)
    assert torch.equal(told[0][1], TIMES)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_half_precision_answer_is_used_in_full_precision(prediction: Prediction) -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, 0.3).bfloat16()

    x0 = Denoiser(network, linear(100), prediction)(X, TIMES)
    expected = Denoiser(lambda x, t: network(x, t).double(), linear(100), prediction)(X, TIMES)
    assert x0.dtype == torch.float64
    assert torch.equal(x0, expected)


# guidance


def test_scale_1_is_conditional_and_scale_0_unconditional() -> None:
    schedule = linear(100)
    conditional, unconditional = gaussian(0.9, 0.2, schedule), gaussian(0.0, 0.7, schedule)
    assert torch.equal(guided(conditional, unconditional, 1.0)(X, TIMES), conditional(X, TIMES))
    assert torch.equal(guided(conditional, unconditional, 0.0)(X, TIMES), unconditional(X, TIMES))


@pytest.mark.parametrize("scale", [0, 1])
def test_a_scale_that_needs_one_model_calls_one(scale: int) -> None:
    def never(x_t: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("this model has no say at this scale")

    denoise = guided(constant(1), never, scale) if scale else guided(never, constant(1), scale)
    assert denoise(X, TIMES).mean() == 1


@given(st.floats(-3, 8))
def test_guidance_is_linear_in_the_scale(scale: float) -> None:
    x0 = guided(constant(3), constant(1), scale)(X, TIMES)
    assert_close(x0, torch.full_like(X, 1 + scale * (3 - 1)), rtol=1e-12, atol=1e-12)


def test_a_scale_above_1_overshoots_towards_the_label() -> None:
    assert (guided(constant(0.5), constant(0.0), 2.0)(X, TIMES) > 0.5).all()
    assert (guided(constant(-0.5), constant(0.0), 2.0)(X, TIMES) < -0.5).all()


def test_guiding_x0_is_guiding_eps() -> None:
    schedule, scale = linear(100), 2.5
    conditional, unconditional = gaussian(0.9, 0.2, schedule), gaussian(0.0, 0.7, schedule)
    c, u = (to_eps(denoise(X, TIMES), X, TIMES, schedule) for denoise in (conditional, unconditional))
    eps = to_eps(guided(conditional, unconditional, scale)(X, TIMES), X, TIMES, schedule)
    assert_close(eps, u + scale * (c - u), rtol=0, atol=1e-11)


# clipping


def test_a_clip_keeps_x0_in_the_range_of_the_data() -> None:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return 3 * x_t

    assert torch.equal(clipped(denoise)(X, TIMES), (3 * X).clamp(-1, 1))
    narrow = clipped(denoise, 0.0, 0.25)(X, TIMES)
    assert narrow.min() == 0
    assert narrow.max() == 0.25


def test_a_clip_that_does_not_bite_changes_nothing() -> None:
    denoise = gaussian(0.0, 0.1, linear(100))
    small = X / 4
    assert denoise(small, TIMES).abs().max() < 1
    assert torch.equal(clipped(denoise)(small, TIMES), denoise(small, TIMES))


def test_guide_first_then_clip() -> None:
    # the overshoot is what gets clipped: clipping each model first would give 1 + 2 (1 − 1) = 1, too, but here 0.6
    conditional, unconditional = constant(1.2), constant(0.8)
    assert clipped(guided(conditional, unconditional, 0.5))(X, TIMES).max() == 1
    assert clipped(guided(conditional, unconditional, 3.0))(X, TIMES).max() == 1
    assert guided(clipped(conditional), clipped(unconditional), 3.0)(X, TIMES).max() > 1
