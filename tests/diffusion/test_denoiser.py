"""Denoiser and its wrappers: every prediction type says the same, guidance has one convention, clipping comes last."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.common.names import Prediction
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion.denoiser import Denoise, Denoiser, clipped, guided, inpainted
from shapedreamer.diffusion.denoiser import given as given_label
from shapedreamer.diffusion.oracle import finite_data, gaussian, gaussian_mixture
from shapedreamer.diffusion.process import to_eps
from shapedreamer.diffusion.samplers import ddim, ddpm, sample
from shapedreamer.diffusion.schedule import Schedule, cosine, linear, linear_zero_snr

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


def test_guidance_moves_samples_of_a_mixture_as_the_theory_says() -> None:
    """Two Gaussians of one width, the label says which. In closed form, with p(label | x) as Bayes has it,

    guided x̂₀ = E[x₀ | x_t] + s (E[x₀ | x_t, label] − E[x₀ | x_t]), and along the line between the means
    E[x₀ | x_t, label] − E[x₀ | x_t] = (m₁ − m₀) (1 − p) · σ²/(α² std² + σ²): it points to the label's side, most where
    x_t looks like the other one. Samples end with mean at the label's for s = 1 and further out for s > 1.
    """
    schedule, std, m = cosine(200), 0.3, 0.5
    means = torch.stack([torch.full((1, 1, 1), -m), torch.full((1, 1, 1), m)]).double()
    half, stds = (torch.full((2,), value, dtype=torch.float64) for value in (0.5, std))
    conditional = gaussian(m, std, schedule)
    unconditional = gaussian_mixture(means, stds, half, schedule)

    x = torch.linspace(-3, 3, 13, dtype=torch.float64).view(-1, 1, 1, 1)
    for time in (20, 100, 180):
        t = torch.full((13,), time)
        alpha, sigma = schedule.alpha_sigma(t, like=x)
        v = alpha**2 * std**2 + sigma**2
        p = torch.sigmoid(2 * alpha * m * x / v)  # of the label, given x_t
        for scale in (0.0, 1.0, 3.0):
            expected = unconditional(x, t) + scale * 2 * m * (1 - p) * sigma**2 / v
            assert_close(guided(conditional, unconditional, scale)(x, t), expected, rtol=0, atol=1e-12)

    x_T = Noise(0)(0, like=torch.zeros(4000, 1, 1, 1, dtype=torch.float64))
    ends = {s: sample(ddim(guided(conditional, unconditional, s), schedule, x_T, 100)) for s in (0.0, 1.0, 2.0, 4.0)}
    assert abs(ends[0.0].mean().item()) < 0.03  # both sides, alike
    assert ends[1.0].mean().item() == pytest.approx(m, abs=0.03)
    assert ends[1.0].std().item() == pytest.approx(std, abs=0.03)
    assert (ends[1.0] < 0).double().mean().item() == pytest.approx(0.0478, abs=0.012)  # Φ(−m/std): the label's own tail
    assert m < ends[2.0].mean() < ends[4.0].mean()
    assert (ends[2.0] < 0).double().mean() < 0.02  # what could be taken for the other one goes first
    assert ends[4.0].std() < ends[2.0].std() < ends[1.0].std()


def test_a_network_is_given_its_label_and_called_without_one_when_there_is_none() -> None:
    def network(*told: Tensor) -> Tensor:
        calls.append(told)
        return told[0]

    calls: list[tuple[Tensor, ...]] = []
    label = torch.eye(4)
    given_label(network, label)(X, TIMES)
    given_label(network, None)(X, TIMES)
    assert [len(told) for told in calls] == [3, 2]
    assert calls[0][2] is label


# in-painting


def test_what_is_known_is_not_dreamt() -> None:
    keep = torch.zeros(3, 3, dtype=torch.bool)
    keep[:, 0] = True
    x0 = inpainted(constant(0.25), torch.tensor(-1.0).double(), keep)(X, TIMES)
    assert (x0[..., 0] == -1).all()
    assert (x0[..., 1:] == 0.25).all()


def test_the_known_part_stays_and_draws_the_rest_to_itself() -> None:
    """Of two images, the left half of one is known: the rest comes out as that one's, more often than not."""
    schedule = cosine(200)
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    keep = torch.arange(8) < 4
    denoise = finite_data(images, schedule)
    x_T = Noise(3)(0, like=torch.zeros(200, 1, 8, 8, dtype=torch.float64))
    for which in (0, 1):
        known = inpainted(denoise, images[which], keep)
        dreamt = sample(ddpm(known, schedule, x_T, 50, generator=Noise(4)))
        assert_close(dreamt[..., :4], images[which, ..., :4].expand(200, -1, -1, -1), rtol=0, atol=1e-12)
        share = (dreamt - images[which]).abs().flatten(1).amax(1).lt(1e-3).double().mean()
        assert share > 0.65  # without a look at the known half it would be a half, give or take 0.035


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
