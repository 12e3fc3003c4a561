"""Denoiser and its wrappers: prediction types agree, guidance follows one convention, and clipping comes last."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.common.names import Prediction
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion.denoiser import (
    Denoise,
    Denoiser,
    cfg_pp_scale,
    clipped,
    guided,
    inpainted,
    interval_scale,
    with_label,
)
from shapedreamer.diffusion.oracle import finite_data, gaussian, gaussian_mixture
from shapedreamer.diffusion.process import to_eps
from shapedreamer.diffusion.samplers import ddim, ddpm, sample
from shapedreamer.diffusion.schedule import Schedule, cosine, linear, linear_zero_snr, step_times

PREDICTIONS: tuple[Prediction, ...] = get_args(Prediction)
X = torch.randn(4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TIMES = torch.tensor([1, 20, 70, 100])


class OracleNetwork(nn.Module):
    """A network of any prediction type that computes its output from an exact denoiser."""

    def __init__(self, oracle: Denoise, schedule: Schedule, prediction: Prediction) -> None:
        super().__init__()
        self.oracle, self.schedule, self.prediction = oracle, schedule, prediction

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x0 = self.oracle(x, t)
        if self.prediction == "x0":
            return x0
        alpha, sigma = self.schedule.alpha_sigma(t, x)
        if self.prediction == "flow":
            return (x - (alpha + sigma) * x0) / sigma
        return (x - alpha * x0) / sigma if self.prediction == "eps" else (alpha * x - x0) / sigma


def constant(value: float) -> Denoise:
    return lambda x_t, t: torch.full_like(x_t, value)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [linear(100), cosine(100)])
def test_every_prediction_type_gives_the_same_x0(prediction: Prediction, schedule: Schedule) -> None:
    means = torch.stack([torch.full((2, 3, 3), -0.5), torch.full((2, 3, 3), 0.8)]).double()
    stds, weights = torch.tensor([0.3, 0.6]).double(), torch.tensor([0.4, 0.6]).double()
    for oracle in (gaussian(0.2, 0.5, schedule), gaussian_mixture(means, stds, weights, schedule)):
        denoise = Denoiser(OracleNetwork(oracle, schedule, prediction), schedule, prediction)
        assert_close(denoise(X, TIMES), oracle(X, TIMES), rtol=0, atol=1e-10)


def test_eps_prediction_with_zero_terminal_snr_is_rejected() -> None:
    with pytest.raises(ValueError, match="use prediction flow, v or x0"):
        Denoiser(nn.Identity(), linear_zero_snr(100), "eps")


@pytest.mark.parametrize("prediction", ["x0", "v", "flow"])
def test_other_predictions_work_at_zero_terminal_snr(prediction: Prediction) -> None:
    schedule = linear_zero_snr(100)
    oracle = gaussian(0.2, 0.5, schedule)
    denoise = Denoiser(OracleNetwork(oracle, schedule, prediction), schedule, prediction)
    assert_close(denoise(X, torch.full((4,), 100)), torch.full_like(X, 0.2), rtol=0, atol=1e-12)


def test_the_network_is_called_once_with_x_t_and_t() -> None:
    calls: list[tuple[Tensor, Tensor]] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        calls.append((x, t))
        return x

    assert torch.equal(Denoiser(network, linear(100), "x0")(X, TIMES), X)
    assert len(calls) == 1
    assert torch.equal(calls[0][0], X)
    assert torch.equal(calls[0][1], TIMES)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_half_precision_output_is_converted_to_the_dtype_of_x_t(prediction: Prediction) -> None:
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
def test_scales_0_and_1_call_only_one_model(scale: int) -> None:
    def unused(x_t: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("this model must not be called at this scale")

    denoise = guided(constant(1), unused, scale) if scale else guided(unused, constant(1), scale)
    assert denoise(X, TIMES).mean() == 1


@given(st.floats(-3, 8))
def test_guidance_is_linear_in_the_scale(scale: float) -> None:
    x0 = guided(constant(3), constant(1), scale)(X, TIMES)
    assert_close(x0, torch.full_like(X, 1 + scale * (3 - 1)), rtol=1e-12, atol=1e-12)


def test_a_scale_above_1_overshoots_the_conditional_prediction() -> None:
    assert (guided(constant(0.5), constant(0.0), 2.0)(X, TIMES) > 0.5).all()
    assert (guided(constant(-0.5), constant(0.0), 2.0)(X, TIMES) < -0.5).all()


def test_guiding_x0_equals_guiding_eps() -> None:
    schedule, scale = linear(100), 2.5
    conditional, unconditional = gaussian(0.9, 0.2, schedule), gaussian(0.0, 0.7, schedule)
    c, u = (to_eps(denoise(X, TIMES), X, TIMES, schedule) for denoise in (conditional, unconditional))
    eps = to_eps(guided(conditional, unconditional, scale)(X, TIMES), X, TIMES, schedule)
    assert_close(eps, u + scale * (c - u), rtol=0, atol=1e-11)


def test_guidance_of_a_mixture_follows_the_closed_form() -> None:
    """The data are two Gaussians with means −m and m and the same std. The label is the second one.

    With p = p(label | x_t) from Bayes' rule, guidance adds scale times this difference to E[x₀ | x_t]:

        E[x₀ | x_t, label] − E[x₀ | x_t] = 2m (1 − p) σ²/(α² std² + σ²)

    It points towards the label's mean, and is largest where x_t looks like the other Gaussian. The samples have mean m
    for scale 1, and a larger mean for scales above 1.
    """
    schedule, std, m = cosine(200), 0.3, 0.5
    means = torch.stack([torch.full((1, 1, 1), -m), torch.full((1, 1, 1), m)]).double()
    weights, stds = (torch.full((2,), value, dtype=torch.float64) for value in (0.5, std))
    conditional = gaussian(m, std, schedule)
    unconditional = gaussian_mixture(means, stds, weights, schedule)

    x = torch.linspace(-3, 3, 13, dtype=torch.float64).view(-1, 1, 1, 1)
    for timestep in (20, 100, 180):
        t = torch.full((13,), timestep)
        alpha, sigma = schedule.alpha_sigma(t, like=x)
        variance = alpha**2 * std**2 + sigma**2  # of x_t in each Gaussian
        p = torch.sigmoid(2 * alpha * m * x / variance)  # p(label | x_t)
        for scale in (0.0, 1.0, 3.0):
            expected = unconditional(x, t) + scale * 2 * m * (1 - p) * sigma**2 / variance
            assert_close(guided(conditional, unconditional, scale)(x, t), expected, rtol=0, atol=1e-12)

    x_T = Noise(0)(0, like=torch.zeros(4000, 1, 1, 1, dtype=torch.float64))
    samples = {s: sample(ddim(guided(conditional, unconditional, s), schedule, x_T, 100)) for s in (0.0, 1.0, 2.0, 4.0)}
    assert abs(samples[0.0].mean().item()) < 0.03  # half of the samples from each Gaussian
    assert samples[1.0].mean().item() == pytest.approx(m, abs=0.03)
    assert samples[1.0].std().item() == pytest.approx(std, abs=0.03)
    below_0 = {s: (x < 0).double().mean().item() for s, x in samples.items()}
    assert below_0[1.0] == pytest.approx(0.0478, abs=0.012)  # Φ(−m/std), the tail of the label's Gaussian
    assert m < samples[2.0].mean() < samples[4.0].mean()
    assert below_0[2.0] < 0.02  # guidance first removes the tail towards the other Gaussian
    assert samples[4.0].std() < samples[2.0].std() < samples[1.0].std()


# a scale for each timestep


def mixture(schedule: Schedule) -> tuple[Denoise, Denoise]:
    """Conditional and unconditional: the data are two Gaussians with different spreads, and the label is the second."""
    means = torch.stack([torch.full((2, 3, 3), -0.5), torch.full((2, 3, 3), 0.8)]).double()
    stds, weights = torch.tensor([0.3, 0.6]).double(), torch.tensor([0.4, 0.6]).double()
    return gaussian(0.8, 0.6, schedule), gaussian_mixture(means, stds, weights, schedule)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1.3, 2.7])
def test_a_table_of_equal_scales_is_bit_identical_with_the_number(scale: float, dtype: torch.dtype) -> None:
    schedule = cosine(100)
    conditional, unconditional = mixture(schedule)
    everywhere = interval_scale(scale, -math.inf, math.inf, schedule)
    assert everywhere.shape == (101,)
    x = X.to(dtype)
    expected = guided(conditional, unconditional, scale)(x, TIMES)
    assert torch.equal(guided(conditional, unconditional, everywhere)(x, TIMES), expected)


def test_each_image_of_a_batch_is_guided_with_the_scale_of_its_timestep() -> None:
    table = torch.arange(101, dtype=torch.float64)
    x0 = guided(constant(3), constant(1), table)(X, TIMES)
    assert_close(x0, (1 + 2 * table[TIMES]).view(-1, 1, 1, 1).expand_as(X), rtol=0, atol=1e-12)


def test_outside_of_the_interval_guidance_is_off_and_calls_only_the_conditional_model() -> None:
    def unused(x_t: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the unconditional model must not be called outside of the interval")

    schedule = cosine(100)
    conditional, unconditional = mixture(schedule)
    low, high = schedule.log_snr[[70, 20]].tolist()
    table = interval_scale(2.5, low, high, schedule)
    assert table.tolist() == [2.5 if 20 <= t <= 70 else 1 for t in range(101)]  # both ends are inside
    for timestep in (1, 19, 71, 100):
        t = torch.full((4,), timestep)
        assert torch.equal(guided(conditional, unused, table)(X, t), conditional(X, t))
    t = torch.full((4,), 70)
    expected = guided(conditional, unconditional, 2.5)(X, t)
    assert torch.equal(guided(conditional, unconditional, table)(X, t), expected)


@pytest.mark.parametrize("schedule", [linear(100), cosine(100)])
def test_guidance_in_an_interval_follows_the_papers_update(schedule: Schedule) -> None:
    """Kynkäänniemi et al. 2024, in the paper's variables: x/α, and guidance where σ_low < σ ≤ σ_high."""
    conditional, unconditional = mixture(schedule)
    sigma_low, sigma_high, scale = 0.19, 1.61, 3.0
    low, high = -2 * math.log(sigma_high), -2 * math.log(sigma_low)
    times = step_times(100, 17)
    sigmas = [math.sqrt(1 / schedule.alpha_bar[t].item() - 1) for t in times]
    y = X * math.sqrt(1 + sigmas[0] ** 2)
    guided_steps = 0
    for (t, _), (sigma, next_sigma) in zip(pairwise(times), pairwise(sigmas), strict=True):
        x, batch = y / math.sqrt(1 + sigma**2), torch.full((4,), t)
        D = conditional(x, batch)
        if sigma_low < sigma <= sigma_high:
            guided_steps += 1
            D = scale * D + (1 - scale) * unconditional(x, batch)
        y = y + (next_sigma - sigma) * (y - D) / sigma  # Euler's method
    assert 2 < guided_steps < 15
    denoise = guided(conditional, unconditional, interval_scale(scale, low, high, schedule))
    assert_close(sample(ddim(denoise, schedule, X, times)), y, rtol=0, atol=1e-12)


def test_autoguidance_and_intervals_shrink_a_gaussian_as_the_closed_form_says() -> None:
    """Both models are Gaussians around m, the weak one wider. Then the ODE for y = x/α is linear:

        d log(y − m)/dσ = w σ/(strong² + σ²) + (1 − w) σ/(weak² + σ²)

    With w everywhere, the samples have the standard deviation strong^w · weak^(1−w), below `strong` for w above 1. In
    an interval of σ, only the integral over the interval changes.
    """
    schedule, m, strong, weak, w = cosine(500), 0.2, 0.4, 0.6, 2.0
    x_T = torch.ones(1, 1, 1, 1, dtype=torch.float64)  # one standard deviation
    models = gaussian(m, strong, schedule), gaussian(m, weak, schedule)

    def std(scale: float | Tensor) -> float:
        return sample(ddim(guided(*models, scale), schedule, x_T, 500)).item() - m

    def integral(std: float, low: float, high: float) -> float:
        return 0.5 * math.log((std**2 + low**2) / (std**2 + high**2))

    assert std(1.0) == pytest.approx(strong, rel=1e-2)
    assert std(0.0) == pytest.approx(weak, rel=1e-2)
    assert std(w) == pytest.approx(strong**w * weak ** (1 - w), rel=2e-2)
    low, high = 0.3, 1.5
    factor = math.exp((w - 1) * (integral(strong, low, high) - integral(weak, low, high)))
    inside = interval_scale(w, -2 * math.log(high), -2 * math.log(low), schedule)
    assert factor < 0.85
    assert std(inside) == pytest.approx(strong * factor, rel=2e-2)


@pytest.mark.parametrize("schedule", [linear(100), cosine(100), linear_zero_snr(100)])
@pytest.mark.parametrize("times", [[100, 0], step_times(100, 7), step_times(100, 100), [90, 89, 30, 2, 1, 0]])
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
def test_cfg_pp_follows_the_papers_update(schedule: Schedule, times: Sequence[int], scale: float) -> None:
    """Chung et al. 2024, algorithm 2: guided x̂₀, unconditional ε̂."""
    conditional, unconditional = mixture(schedule)
    x = X
    for t, s in pairwise(times):
        batch = torch.full((4,), t)
        c, u = conditional(x, batch), unconditional(x, batch)
        eps = to_eps(u, x, t, schedule)
        alpha_bar = schedule.alpha_bar[s].item()
        x = math.sqrt(alpha_bar) * ((1 - scale) * u + scale * c) + math.sqrt(1 - alpha_bar) * eps
    plain = guided(conditional, unconditional, scale)
    denoise = guided(plain, unconditional, cfg_pp_scale(times, schedule))
    assert_close(sample(ddim(denoise, schedule, X, times)), x, rtol=0, atol=1e-12)
    if len(times) > 2 and scale:
        assert not torch.allclose(sample(ddim(plain, schedule, X, times)), x, atol=1e-2)  # it is not plain guidance


def test_a_cfg_pp_step_on_a_mixture_follows_the_closed_form() -> None:
    """With the mixture of test_guidance_of_a_mixture_follows_the_closed_form, a step adds √ᾱ_s · scale · 2m (1−p) σ²/v

    to the unconditional step, where v = α² std² + σ². The last step has w = 1: plain guidance.
    """
    schedule, std, m, scale = cosine(200), 0.3, 0.5, 0.7
    means = torch.stack([torch.full((1, 1, 1), -m), torch.full((1, 1, 1), m)]).double()
    weights, stds = (torch.full((2,), value, dtype=torch.float64) for value in (0.5, std))
    conditional, unconditional = gaussian(m, std, schedule), gaussian_mixture(means, stds, weights, schedule)
    times = [140, 60, 0]
    w = cfg_pp_scale(times, schedule)
    assert w[60] == 1
    assert w[140] > 1
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).view(-1, 1, 1, 1)
    denoise = guided(guided(conditional, unconditional, scale), unconditional, w)
    with_guidance, without = (next(ddim(model, schedule, x, times)).x for model in (denoise, unconditional))
    alpha, sigma = schedule.alpha_sigma(140, like=x)
    variance = alpha**2 * std**2 + sigma**2
    p = torch.sigmoid(2 * alpha * m * x / variance)
    shift = schedule.alpha_bar[60].sqrt() * scale * 2 * m * (1 - p) * sigma**2 / variance
    assert_close(with_guidance, without + shift, rtol=0, atol=1e-12)


def test_with_label_passes_the_label_to_the_network_unless_it_is_none() -> None:
    def network(*arguments: Tensor) -> Tensor:
        calls.append(arguments)
        return arguments[0]

    calls: list[tuple[Tensor, ...]] = []
    label = torch.eye(4)
    with_label(network, label)(X, TIMES)
    with_label(network, None)(X, TIMES)
    assert [len(arguments) for arguments in calls] == [3, 2]
    assert calls[0][2] is label


# inpainting


def test_inpainted_replaces_the_kept_pixels() -> None:
    keep = torch.zeros(3, 3, dtype=torch.bool)
    keep[:, 0] = True
    x0 = inpainted(constant(0.25), torch.tensor(-1.0).double(), keep)(X, TIMES)
    assert (x0[..., 0] == -1).all()
    assert (x0[..., 1:] == 0.25).all()


def test_generated_pixels_match_the_kept_ones() -> None:
    """The data are two images. With the left half of one kept, most samples complete it to that image."""
    schedule = cosine(200)
    images = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    keep = torch.arange(8) < 4
    denoise = finite_data(images, schedule)
    x_T = Noise(3)(0, like=torch.zeros(200, 1, 8, 8, dtype=torch.float64))
    for image in images:
        x = sample(ddpm(inpainted(denoise, image, keep), schedule, x_T, 50, generator=Noise(4)))
        assert_close(x[..., :4], image[..., :4].expand(200, -1, -1, -1), rtol=0, atol=1e-12)
        share = (x - image).abs().flatten(1).amax(1).lt(1e-3).double().mean()
        assert share > 0.65  # if the kept half had no influence, it would be 0.5 ± 0.035


# clipping


def test_clipped_limits_x0_to_the_range_of_the_data() -> None:
    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return 3 * x_t

    assert torch.equal(clipped(denoise)(X, TIMES), (3 * X).clamp(-1, 1))
    narrow = clipped(denoise, 0.0, 0.25)(X, TIMES)
    assert narrow.min() == 0
    assert narrow.max() == 0.25


def test_clipped_changes_nothing_if_x0_is_in_range() -> None:
    denoise = gaussian(0.0, 0.1, linear(100))
    small = X / 4
    assert denoise(small, TIMES).abs().max() < 1
    assert torch.equal(clipped(denoise)(small, TIMES), denoise(small, TIMES))


def test_guide_first_then_clip() -> None:
    # clipping after guidance limits the overshoot to 1; clipping each model before it would not
    conditional, unconditional = constant(1.2), constant(0.8)
    assert clipped(guided(conditional, unconditional, 0.5))(X, TIMES).max() == 1
    assert clipped(guided(conditional, unconditional, 3.0))(X, TIMES).max() == 1
    assert guided(clipped(conditional), clipped(unconditional), 3.0)(X, TIMES).max() > 1
