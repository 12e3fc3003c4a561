"""Flow matching is the same process at another scale and pace, in closed form and against Diffusers and EDM."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import Prediction
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion.denoiser import Denoise, Denoiser
from shapedreamer.diffusion.loss import timestep_distribution
from shapedreamer.diffusion.oracle import gaussian, gaussian_mixture
from shapedreamer.diffusion.process import diffuse, target, to_eps, to_x0
from shapedreamer.diffusion.samplers import ddim, dpmpp_2m, heun, heun_line, midpoint, sample
from shapedreamer.diffusion.schedule import SCHEDULES, Schedule, cosine, flow, linear, step_times

SHAPE = (3, 1, 2, 2)


def normal(seed: int, like: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(like, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# the process


@given(st.integers(0, 1000))
def test_x_t_is_the_straight_path_at_another_scale(t: int) -> None:
    schedule, x0, eps, tau = flow(), normal(0), normal(1), t / 1000
    alpha, sigma = schedule.alpha_sigma(t, x0)
    path = (1 - tau) * x0 + tau * eps
    assert_close(diffuse(x0, t, eps, schedule) / (alpha + sigma), path, rtol=0, atol=1e-13)
    assert schedule.tau[t].item() == pytest.approx(tau, abs=1e-14)


def test_the_log_snr_of_flow_is_minus_two_logits_and_ends_at_pure_noise() -> None:
    schedule = flow(200)
    tau = torch.arange(1, 200, dtype=torch.float64) / 200
    assert_close(schedule.log_snr[1:-1], -2 * torch.logit(tau), rtol=0, atol=1e-10)
    assert schedule.alpha_bar[-1] == 0
    assert schedule.tau[-1] == 1


@pytest.mark.parametrize("shift", [0.01, 0.5, 3.0, 100.0])
def test_a_shift_adds_minus_two_log_shift_to_the_log_snr(shift: float) -> None:
    difference = flow(100, shift).log_snr[1:-1] - flow(100).log_snr[1:-1]
    assert_close(difference, torch.full_like(difference, -2 * math.log(shift)), rtol=0, atol=1e-6)
    assert flow(100_000, shift).T == 100_000  # strictly decreasing in float64


@pytest.mark.parametrize("shift", [0, -1, math.nan, math.inf, 1000, "3"])
def test_an_impossible_shift_is_refused(shift: float) -> None:
    with pytest.raises(UserError, match="shift must be"):
        flow(100, shift)


def test_a_single_timestep_is_refused() -> None:
    with pytest.raises(UserError, match="flow must be"):
        flow(1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_flow_prediction_works_with_every_schedule(name: str) -> None:
    schedule, x0, eps = SCHEDULES[name](500), normal(0), normal(1)  # type: ignore[index]
    for t in (1, 250, 500):
        x_t = diffuse(x0, t, eps, schedule)
        u = target("flow", x0, t, eps, schedule)
        assert torch.equal(u, eps - x0)
        assert_close(to_x0("flow", u, x_t, t, schedule), x0, rtol=0, atol=1e-12)


def test_tau_moves_every_schedule_along_the_line() -> None:
    for schedule in (linear(100), cosine(100), flow(100)):
        x0, eps = normal(0), normal(1)
        for t in (1, 40, 100):
            tau = schedule.tau[t]
            z = (1 - tau) * x0 + tau * eps
            assert_close(diffuse(x0, t, eps, schedule) * torch.hypot(1 - tau, tau), z, rtol=0, atol=1e-13)


def test_logit_normal_times_are_normal_log_snr() -> None:
    # τ = sigmoid(N(m, s²)) has log-SNR = −2 logit τ ~ N(−2m, (2s)²)
    m, s, schedule = 0.4, 0.9, flow(1000)
    p = timestep_distribution(schedule, log_snr=(-2 * m, 2 * s))
    normal_cdf = torch.special.ndtr((torch.logit(schedule.tau[1:-1] + 0.0005) - m) / s)
    assert_close(p.cumsum(0)[1:-1], normal_cdf, rtol=0, atol=2e-3)


# samplers


def euler_on_the_line(denoise: Denoise, schedule: Schedule, z: Tensor, steps: int) -> Tensor:
    """The textbook's sampler of flow matching, z_s = z + (τ_s − τ_t) û, without any of our formulas."""
    times = step_times(schedule.T, steps)
    for t, s in itertools.pairwise(times):
        tau, tau_s = t / schedule.T, s / schedule.T
        x = z / math.hypot(1 - tau, tau)
        u = (z - denoise(x, torch.full((len(x),), t))) / tau
        z = z + (tau_s - tau) * u
    return z


@pytest.mark.parametrize("steps", range(1, 54))
def test_euler_on_the_line_is_ddim(steps: int) -> None:
    schedule, x_T = flow(1000), normal(2)
    denoise = gaussian(0.1, 0.5, schedule)
    ours = sample(ddim(denoise, schedule, x_T, steps))
    assert_close(ours, euler_on_the_line(denoise, schedule, x_T, steps), rtol=0, atol=3e-15)


# a mixture of N(−½, ½²) and N(½, 0.3²)
MEANS, STDS, WEIGHTS = (-0.5, 0.5), (0.5, 0.3), (0.4, 0.6)


def exact_flow(x_T: Tensor) -> Tensor:
    """The probability-flow ODE carries each quantile of the noise to the same quantile of the data."""
    wanted = torch.special.ndtr(x_T)
    low, high = torch.full_like(x_T, -10), torch.full_like(x_T, 10)
    for _ in range(60):
        middle = (low + high) / 2
        terms = zip(MEANS, STDS, WEIGHTS, strict=True)
        cdf = torch.stack([weight * torch.special.ndtr((middle - mean) / std) for mean, std, weight in terms]).sum(0)
        low, high = torch.where(cdf < wanted, middle, low), torch.where(cdf < wanted, high, middle)
    return (low + high) / 2


def rms_error(name: str, calls: int) -> float:
    schedule = flow(1000)
    means, stds, weights = (torch.tensor(values, dtype=torch.float64) for values in (MEANS, STDS, WEIGHTS))
    denoise = gaussian_mixture(means.view(-1, 1, 1, 1), stds, weights, schedule)
    x_T = torch.special.ndtri((torch.arange(1000, dtype=torch.float64) + 0.5) / 1000).view(-1, 1, 1, 1)
    sampler = {"euler": ddim, "heun": heun, "dpmpp_2m": dpmpp_2m, "midpoint": midpoint, "heun_line": heun_line}[name]
    return (sample(sampler(denoise, schedule, x_T, calls)) - exact_flow(x_T)).square().mean().sqrt().item()


TABLE = {  # calls of the network: 4, 8, 16, 32; docs/concepts.md shows it
    "euler": (0.174, 0.0915, 0.0472, 0.024),
    "heun": (0.125, 0.0378, 0.0101, 0.00256),
    "dpmpp_2m": (0.131, 0.0215, 0.00812, 0.00291),
    "midpoint": (0.0355, 0.00599, 0.00162, 0.000421),
    "heun_line": (0.138, 0.0464, 0.0136, 0.00365),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_of_errors(name: str) -> None:
    found = [rms_error(name, calls) for calls in (4, 8, 16, 32)]
    assert found == pytest.approx(TABLE[name], rel=0.02)


# other libraries


def test_flow_match_euler_of_diffusers_takes_the_same_steps() -> None:
    diffusers = pytest.importorskip("diffusers")
    schedule, x_T = flow(1000), normal(3)
    denoise = gaussian(0.1, 0.5, schedule)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    for steps in (1, 2, 7, 20):
        times = step_times(1000, steps)
        scheduler.set_timesteps(sigmas=[t / 1000 for t in times[:-1]])
        z = x_T
        for t in scheduler.timesteps:
            tau = t.item() / 1000
            x = z / math.hypot(1 - tau, tau)
            u = (z - denoise(x, torch.full((3,), round(t.item())))) / tau
            z = scheduler.step(u, t, z.float(), return_dict=False)[0].double()
        assert_close(z, sample(ddim(denoise, schedule, x_T, steps)), rtol=0, atol=2e-6)  # Diffusers computes in float32


def test_the_shift_of_diffusers_is_ours() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    assert_close(scheduler.sigmas.double().flip(0), flow(1000, shift=3.0).tau[1:], rtol=0, atol=1e-6)


def test_the_preconditioning_of_edm_is_v_prediction() -> None:
    # Karras et al. 2022, table 1, with σ_data = 1. Their x is x₀ + σ ε, so ours is x/√(1+σ²)
    schedule, x0, eps = cosine(1000), normal(0), normal(1)
    for t in (1, 300, 999):
        alpha, sigma_t = (each.item() for each in schedule.alpha_sigma(t, x0))
        sigma = sigma_t / alpha
        x = x0 + sigma * eps
        c_skip, c_out, c_in = 1 / (sigma**2 + 1), sigma / math.sqrt(sigma**2 + 1), 1 / math.sqrt(sigma**2 + 1)
        assert_close(c_in * x, diffuse(x0, t, eps, schedule), rtol=0, atol=1e-12)  # what the network sees
        F = (x0 - c_skip * x) / c_out  # what it learns
        assert_close(F, -target("v", x0, t, eps, schedule), rtol=0, atol=1e-9)
        weight = (sigma**2 + 1) / sigma**2
        assert weight * c_out**2 == pytest.approx(1)  # their weight of the error of D is one of 1 for v


def test_every_prediction_gives_the_same_samples() -> None:
    schedule, x_T = flow(100), normal(4)
    oracle = gaussian(0.1, 0.5, schedule)

    def network(prediction: Prediction) -> Denoiser:
        def output(x: Tensor, t: Tensor) -> Tensor:
            x0 = oracle(x, t)
            return target(prediction, x0, t, to_eps(x0, x, t, schedule), schedule)

        return Denoiser(output, schedule, prediction)

    for eta in (0.0, 1.0):
        expected = sample(ddim(oracle, schedule, x_T, 9, eta=eta, generator=Noise(0)))
        for prediction in ("x0", "v", "flow"):
            found = sample(ddim(network(prediction), schedule, x_T, 9, eta=eta, generator=Noise(0)))
            assert_close(found, expected, rtol=0, atol=1e-12)
