"""The six samplers: the contract that all share, and the equations of each, tested with exact denoisers."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.names import TWO_CALLS, SamplerName
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion.denoiser import Denoise, Denoiser, clipped
from shapedreamer.diffusion.oracle import finite_data, gaussian
from shapedreamer.diffusion.process import diffuse, posterior, to_eps
from shapedreamer.diffusion.samplers import (
    SAMPLERS,
    Sampler,
    Step,
    Steps,
    ddim,
    ddpm,
    dpmpp_2m,
    heun,
    heun_line,
    midpoint,
    place_in_step,
    sample,
)
from shapedreamer.diffusion.schedule import Schedule, cosine, flow, linear, linear_zero_snr, step_times

Run = Callable[[Denoise, Schedule, Tensor, Steps, Noise], Iterator[Step]]
RUNS: dict[str, Run] = {
    "ddpm": lambda d, s, x, n, noise: ddpm(d, s, x, n, generator=noise),
    "ddpm beta": lambda d, s, x, n, noise: ddpm(d, s, x, n, variance="beta", generator=noise),
    "ddim": lambda d, s, x, n, noise: ddim(d, s, x, n),
    "ddim 0.5": lambda d, s, x, n, noise: ddim(d, s, x, n, eta=0.5, generator=noise),
    "ddim 1": lambda d, s, x, n, noise: ddim(d, s, x, n, eta=1.0, generator=noise),
    "heun": lambda d, s, x, n, noise: heun(d, s, x, n),
    "dpmpp_2m": lambda d, s, x, n, noise: dpmpp_2m(d, s, x, n),
    "dpmpp_2m 0.5": lambda d, s, x, n, noise: dpmpp_2m(d, s, x, n, eta=0.5, generator=noise),
    "dpmpp_2m 1": lambda d, s, x, n, noise: dpmpp_2m(d, s, x, n, eta=1.0, generator=noise),
    "midpoint": lambda d, s, x, n, noise: midpoint(d, s, x, n),
    "heun_line": lambda d, s, x, n, noise: heun_line(d, s, x, n),
}
ODE = ("ddim", "heun", "dpmpp_2m", "midpoint", "heun_line")
NOISY = ("ddpm", "ddpm beta", "ddim 0.5", "ddim 1", "dpmpp_2m 0.5", "dpmpp_2m 1")

every_sampler = pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)


def starting_noise(n: int, first: int = 0) -> Tensor:
    """x_T of images first…first + n − 1, for seed 1."""
    return Noise(1, first)(0, like=torch.zeros(n, 1, 2, 2, dtype=torch.float64))


class RecordingDenoiser:
    """A denoiser that records the timesteps of its calls and its predictions."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise = denoise
        self.times: list[int] = []
        self.predictions: list[Tensor] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (len(x_t),)
        assert t.dtype == torch.int64
        assert (t == t[0]).all()
        self.times.append(int(t[0]))
        self.predictions.append(self.denoise(x_t, t))
        return self.predictions[-1]


class RecordingNoise(Noise):
    """Noise that records the timesteps of its calls."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.steps: list[int] = []

    def __call__(self, step: int, like: Tensor) -> Tensor:
        self.steps.append(step)
        return super().__call__(step, like)


# the contract


def test_these_tests_cover_every_sampler() -> None:
    assert set(SAMPLERS) == set(get_args(SamplerName)) == {name.split()[0] for name in RUNS}
    assert SAMPLERS["ddpm"] is ddpm
    assert SAMPLERS["ddim"] is ddim
    assert SAMPLERS["heun"] is heun
    assert SAMPLERS["dpmpp_2m"] is dpmpp_2m
    assert SAMPLERS["midpoint"] is midpoint
    assert SAMPLERS["heun_line"] is heun_line


@every_sampler
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 53, 100])
def test_steps_is_the_number_of_calls_and_t_decreases_to_0(run: Run, n: int) -> None:
    schedule = linear(100)
    denoise = RecordingDenoiser(gaussian(0.1, 0.5, schedule))
    steps = list(run(denoise, schedule, starting_noise(2), n, Noise(0)))
    assert len(denoise.times) == n
    assert denoise.times[0] == 100
    assert all(1 <= t <= 100 for t in denoise.times)
    times = [step.t for step in steps]
    assert times[-1] == 0
    assert all(t > s for t, s in itertools.pairwise([100, *times]))


@pytest.mark.parametrize("name", [name for name in RUNS if name not in TWO_CALLS])
@pytest.mark.parametrize("n", [1, 2, 9, 100])
def test_samplers_with_one_call_per_step_visit_the_timesteps_of_step_times(name: str, n: int) -> None:
    schedule = linear(100)
    denoise = RecordingDenoiser(gaussian(0.1, 0.5, schedule))
    steps = list(RUNS[name](denoise, schedule, starting_noise(2), n, Noise(0)))
    assert [*denoise.times, 0] == step_times(100, n)
    assert [step.t for step in steps] == step_times(100, n)[1:]
    for step, prediction in zip(steps, denoise.predictions, strict=True):
        assert torch.equal(step.x0, prediction)


@pytest.mark.parametrize(("n", "num_steps"), [(1, 1), (2, 2), (3, 2), (4, 3), (9, 5), (10, 6), (99, 50), (100, 51)])
@pytest.mark.parametrize("sampler", [heun, heun_line])
def test_heun_calls_the_denoiser_at_both_ends_of_a_step(sampler: Sampler, n: int, num_steps: int) -> None:
    schedule = linear(100)
    denoise = RecordingDenoiser(gaussian(0.1, 0.5, schedule))
    steps = list(sampler(denoise, schedule, starting_noise(2), n))
    times = step_times(100, num_steps)
    assert [step.t for step in steps] == times[1:]
    # the last step, and for even n the first, is a DDIM step with one call
    ddim_steps = {num_steps - 1} | ({0} if n % 2 == 0 else set())
    calls = [times[i : i + 1] if i in ddim_steps else times[i : i + 2] for i in range(num_steps)]
    assert denoise.times == [t for step_calls in calls for t in step_calls]
    first_calls = itertools.accumulate([0, *(len(step_calls) for step_calls in calls[:-1])])
    for step, call in zip(steps, first_calls, strict=True):
        assert torch.equal(step.x0, denoise.predictions[call])


@pytest.mark.parametrize(("n", "num_steps"), [(1, 1), (2, 1), (3, 2), (4, 2), (9, 5), (10, 5), (99, 50), (100, 50)])
def test_midpoint_calls_the_denoiser_at_the_start_and_in_the_middle_of_a_step(n: int, num_steps: int) -> None:
    schedule = flow(100)
    denoise = RecordingDenoiser(gaussian(0.1, 0.5, schedule))
    steps = list(midpoint(denoise, schedule, starting_noise(2), n))
    times = step_times(100, num_steps)
    assert [step.t for step in steps] == times[1:]
    starts = [0, *range(1 if n % 2 else 2, n, 2)]  # with an odd number of calls, the first step makes only one
    assert [denoise.times[call] for call in starts] == times[:-1]
    for step, call, t in zip(steps, starts, times, strict=False):
        assert torch.equal(step.x0, denoise.predictions[call])
        if call + 1 < n and call + 1 not in starts:
            assert abs(denoise.times[call + 1] - (t + step.t) / 2) <= 0.5


@pytest.mark.parametrize("name", [name for name in RUNS if name != "midpoint"])
@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_the_last_step_lands_on_the_prediction(name: str, n: int) -> None:
    schedule = cosine(100)
    *_, last = RUNS[name](gaussian(0.1, 0.5, schedule), schedule, starting_noise(3), n, Noise(0))
    assert_close(last.x, last.x0, rtol=0, atol=1e-13)


@every_sampler
def test_a_constant_prediction_is_the_result(run: Run) -> None:
    point = torch.tensor([[[0.3, -0.7], [1.0, 0.0]]], dtype=torch.float64)
    schedule = linear(100)
    x = sample(run(lambda x_t, t: point.expand_as(x_t), schedule, starting_noise(5), 10, Noise(0)))
    assert_close(x, point.expand(5, 1, 2, 2), rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["ddpm", "ddpm beta", "ddim", "ddim 0.5", "ddim 1"])
def test_a_constant_prediction_gives_bitwise_equal_images(name: str) -> None:
    schedule = linear(100)
    x = sample(RUNS[name](lambda x_t, t: torch.full_like(x_t, 0.3), schedule, starting_noise(5), 10, Noise(0)))
    assert (x == x[0, 0, 0, 0]).all()


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("n", [1, 2, 10])
def test_every_step_but_the_last_adds_noise_for_the_timestep_that_it_leaves(name: str, n: int) -> None:
    schedule, noise = linear(100), RecordingNoise(0)
    sample(RUNS[name](gaussian(0.0, 0.5, schedule), schedule, starting_noise(2), n, noise))
    assert noise.steps == step_times(100, n)[:-2]


def test_ddim_with_eta_0_adds_no_noise() -> None:
    schedule, noise = linear(100), RecordingNoise(0)
    with_noise = sample(ddim(gaussian(0.0, 0.5, schedule), schedule, starting_noise(2), 10, eta=0.0, generator=noise))
    assert noise.steps == []
    assert torch.equal(with_noise, sample(ddim(gaussian(0.0, 0.5, schedule), schedule, starting_noise(2), 10)))


@every_sampler
def test_a_sampler_is_pure(run: Run) -> None:
    schedule, x_T = linear(100), starting_noise(2)
    before, state = x_T.clone(), torch.random.get_rng_state()

    def steps() -> Iterator[Step]:
        return run(gaussian(0.1, 0.5, schedule), schedule, x_T, 9, Noise(3))

    expected = list(steps())
    abandoned = steps()
    next(abandoned)
    for first, second, correct in zip(steps(), steps(), expected, strict=True):  # two runs that alternate
        for step in (first, second):
            assert step.t == correct.t
            assert torch.equal(step.x, correct.x)
            assert torch.equal(step.x0, correct.x0)
    assert torch.equal(x_T, before)
    assert torch.equal(torch.random.get_rng_state(), state)


@every_sampler
def test_an_image_does_not_depend_on_its_batch(run: Run) -> None:
    schedule = linear(100)
    images = torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for denoise in (gaussian(0.1, 0.5, schedule), finite_data(images, schedule)):
        whole = sample(run(denoise, schedule, starting_noise(8), 7, Noise(2)))
        for first, n in ((0, 8), (0, 3), (3, 5), (7, 1)):
            part = sample(run(denoise, schedule, starting_noise(n, first), 7, Noise(2, first)))
            assert_close(part, whole[first : first + n], rtol=0, atol=1e-11)


@every_sampler
def test_starting_at_a_later_timestep_gives_the_same_steps(run: Run) -> None:
    # x is the only state that is passed from step to step, except for dpmpp_2m, which also uses the last prediction
    schedule = linear(100)
    denoise = gaussian(0.1, 0.5, schedule)
    times = [100, 60, 30, 10, 0]
    whole = list(run(denoise, schedule, starting_noise(2), times, Noise(2)))
    later = list(run(denoise, schedule, whole[0].x, times[1:], Noise(2)))
    assert [step.t for step in later] == [step.t for step in whole[1:]]
    if run not in (RUNS["dpmpp_2m"], RUNS["dpmpp_2m 0.5"], RUNS["dpmpp_2m 1"]):
        for step, expected in zip(later, whole[1:], strict=True):
            assert torch.equal(step.x, expected.x)


@every_sampler
def test_steps_can_be_a_list_of_timesteps(run: Run) -> None:
    schedule = linear(100)
    denoise = gaussian(0.1, 0.5, schedule)
    times = [90, 41, 7, 0]
    steps = list(run(denoise, schedule, starting_noise(2), times, Noise(0)))
    assert [step.t for step in steps] == times[1:]
    if run not in [RUNS[name] for name in TWO_CALLS]:  # these make fewer steps than calls
        by_number = sample(run(denoise, schedule, starting_noise(2), 11, Noise(0)))
        assert torch.equal(sample(run(denoise, schedule, starting_noise(2), step_times(100, 11), Noise(0))), by_number)
    as_tuple = sample(run(denoise, schedule, starting_noise(2), tuple(times), Noise(0)))
    assert torch.equal(as_tuple, steps[-1].x)


@every_sampler
@pytest.mark.parametrize(
    "steps",
    [0, -1, 101, [], [0], [100], [100, 50], [50, 50, 0], [50, 60, 0], [101, 0], [50, -1], [50, -1, 0], [50, 0, 0]],
)
def test_invalid_steps_are_rejected(run: Run, steps: Steps) -> None:
    schedule = linear(100)
    denoise = RecordingDenoiser(gaussian(0.1, 0.5, schedule))
    with pytest.raises(ValueError, match="T = 100"):
        sample(run(denoise, schedule, starting_noise(1), steps, Noise(0)))
    assert denoise.times == []


def test_sample_returns_the_last_image() -> None:
    steps = [Step(t, torch.full((1,), float(t)), torch.zeros(1)) for t in (5, 2, 0)]
    assert sample(iter(steps)).item() == 0
    assert sample(iter(steps[:2])).item() == 2


# the equations


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_a_ddpm_step_samples_the_posterior(variance: str) -> None:
    schedule, x, noise = linear(100), starting_noise(3), Noise(4)
    denoise = gaussian(0.1, 0.5, schedule)
    step = next(RUNS["ddpm" if variance == "posterior" else "ddpm beta"](denoise, schedule, x, [70, 30, 0], noise))
    x0 = denoise(x, torch.full((3,), 70))
    mean, posterior_variance = posterior(x0, x, 70, 30, schedule)
    strided_beta = 1 - (1 - schedule.beta[31:71]).prod().item()  # of all steps from 30 to 70
    var = posterior_variance if variance == "posterior" else strided_beta
    assert_close(step.x, mean + math.sqrt(var) * noise(70, x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_ddim_step_is_equation_12(eta: float) -> None:
    schedule, x, noise = cosine(100), starting_noise(3), Noise(4)
    denoise = gaussian(0.1, 0.5, schedule)
    step = next(ddim(denoise, schedule, x, [70, 30, 0], eta=eta, generator=noise))
    a, b = schedule.alpha_bar[70].item(), schedule.alpha_bar[30].item()
    eps = (x - math.sqrt(a) * step.x0) / math.sqrt(1 - a)
    sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    expected = math.sqrt(b) * step.x0 + math.sqrt(1 - b - sigma**2) * eps + sigma * noise(70, x)
    assert_close(step.x, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
@pytest.mark.parametrize(("t", "s"), [(30, 28), (70, 65), (90, 88), (70, 20)])
def test_an_eta_above_1_adds_more_noise_where_there_is_image_and_at_most_all(sampler: Sampler, t: int, s: int) -> None:
    schedule, noise, x = cosine(100), Noise(6), starting_noise(2)
    step = next(sampler(gaussian(0.3, 0.5, schedule), schedule, x, [t, s, 0], eta=1.8, generator=noise))
    a, b = (schedule.alpha_bar[time].item() for time in (t, s))
    factor = {28: 1.8, 65: 1 + 0.8 * 2 * b, 88: 1 + 0.8 * 2 * b, 20: math.inf}[s]  # ᾱ is ½ at t = 50
    sigma = min(factor * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b), math.sqrt(1 - b))
    eps = (x - math.sqrt(a) * step.x0) / math.sqrt(1 - a)
    expected = math.sqrt(b) * step.x0 + math.sqrt(1 - b - sigma**2) * eps + sigma * noise(t, x)
    assert_close(step.x, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("eta", "times", "c"), [(1.0, [70, 60, 50, 0], 0.5), (0.3, [70, 60, 50, 0], 0.5), (2.0, [70, 60, 20, 0], 1.0)]
)
def test_dpmpp_2m_looks_further_ahead_the_less_noise_it_keeps(eta: float, times: list[int], c: float) -> None:
    """With all noise new, x_s depends on x̂₀ at the end of the step only: D is linear in λ up to there."""
    schedule, noise, x = cosine(100), Noise(6), starting_noise(2)
    first, second, _ = dpmpp_2m(gaussian(0.3, 0.5, schedule), schedule, x, times, eta=eta, generator=noise)
    lam = [schedule.log_snr[t].item() / 2 for t in times[:3]]
    a, b = (schedule.alpha_bar[t].item() for t in times[1:3])
    D = second.x0 + c * (lam[2] - lam[1]) / (lam[1] - lam[0]) * (second.x0 - first.x0)
    sigma = min(eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b)), math.sqrt(1 - b))
    eps = (first.x - math.sqrt(a) * D) / math.sqrt(1 - a)
    expected = math.sqrt(b) * D + math.sqrt(1 - b - sigma**2) * eps + sigma * noise(times[1], x)
    assert_close(second.x, expected, rtol=1e-11, atol=1e-12)


def test_dpmpp_2m_looks_ahead_to_the_middle_in_short_steps() -> None:
    """c − ½ falls in proportion to the length of the step, so that the order of the solver stays 2."""
    a = 0.8
    offsets = [place_in_step(1.8, a, a + change) - 0.5 for change in (1e-2, 1e-3, 1e-4)]
    assert offsets[0] > 0
    assert [offsets[0] / offsets[1], offsets[1] / offsets[2]] == pytest.approx([10, 10], rel=0.3)


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
def test_every_eta_gives_the_same_distribution_in_the_limit_of_many_steps(sampler: Sampler) -> None:
    """With η = 2, ddim's error is 3% after 1,000 steps, and falls in proportion to 1 / steps."""
    schedule, std = linear(1000), 0.5
    x = torch.randn(20_000, 1, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for eta in (1.0, 1.5, 2.0):
        few, many = (
            sample(sampler(gaussian(0.0, std, schedule), schedule, x, steps, eta=eta, generator=Noise(2)))
            for steps in (250, 1000)
        )
        assert abs(many.std().item() - std) < max(0.01, abs(few.std().item() - std) / 3)
        assert abs(many.mean().item()) < 0.015


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
@pytest.mark.parametrize("eta", [-0.1, 2.1, math.nan])
def test_an_invalid_eta_is_rejected_before_the_first_call(sampler: Sampler, eta: float) -> None:
    denoise = RecordingDenoiser(gaussian(0.0, 0.5, linear(100)))
    with pytest.raises(ValueError, match=f"eta must be between 0 and 2, not {eta}"):
        sample(sampler(denoise, linear(100), starting_noise(1), 5, eta=eta, generator=Noise(0)))
    assert denoise.times == []


@pytest.mark.parametrize("sampler", [ddim, dpmpp_2m])
def test_noise_needs_a_generator_but_a_single_step_adds_none(sampler: Sampler) -> None:
    denoise = gaussian(0.0, 0.5, linear(100))
    with pytest.raises(ValueError, match="needs a generator"):
        sample(sampler(denoise, linear(100), starting_noise(1), 5, eta=0.5))
    x_T = starting_noise(1)
    single = sample(sampler(denoise, linear(100), x_T, 1, eta=0.5))
    assert torch.equal(single, sample(sampler(denoise, linear(100), x_T, 1)))


@pytest.mark.parametrize("n", [1, 2, 7, 10, 100])
@pytest.mark.parametrize("schedule", [linear(100), cosine(100), linear_zero_snr(100)])
def test_ddpm_equals_ddim_with_eta_1(n: int, schedule: Schedule) -> None:
    images = torch.randn(5, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for denoise in (gaussian(0.3, 0.5, schedule), finite_data(images, schedule)):
        ddpm_steps = ddpm(denoise, schedule, starting_noise(4), n, generator=Noise(6))
        ddim_steps = ddim(denoise, schedule, starting_noise(4), n, eta=1.0, generator=Noise(6))
        for expected, step in zip(ddpm_steps, ddim_steps, strict=True):
            # where ᾱ_t is close to 0, ddim's 1 − ᾱ_s − σ² is only rounding error, and the square root enlarges it
            assert_close(expected.x, step.x, rtol=0, atol=1e-7 if schedule.alpha_bar[-1] < 1e-3 else 1e-11)


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m"])
def test_eps_is_computed_from_the_clipped_x0(name: str) -> None:
    # x̂₀ is clipped to 1, so ε̂ must be (x − √ᾱ · 1)/√(1−ᾱ), not the noise that belongs to the unclipped x̂₀
    schedule, x = linear(100), 3 + starting_noise(3).abs()
    unclipped = gaussian(0.0, 1.0, schedule)
    assert unclipped(x, torch.full((3,), 40)).min() > 1
    step = next(RUNS[name](clipped(unclipped), schedule, x, [40, 20, 0], Noise(0)))
    one = torch.ones_like(x)
    assert_close(step.x, diffuse(one, 20, to_eps(one, x, 40, schedule), schedule), rtol=1e-12, atol=0)


def test_a_heun_step_follows_the_average_of_two_slopes() -> None:
    schedule, x = cosine(100), starting_noise(3)
    denoise = gaussian(0.1, 0.5, schedule)
    step = next(heun(denoise, schedule, x, [70, 30, 0]))
    theta, phi = (math.atan2(*(value.item() for value in schedule.alpha_sigma(t, x)[::-1])) for t in (70, 30))

    def v(x: Tensor, t: int) -> Tensor:
        x0 = denoise(x, torch.full((3,), t))
        alpha, sigma = schedule.alpha_sigma(t, x)
        return alpha * to_eps(x0, x, t, schedule) - sigma * x0

    v_start = v(x, 70)
    end = math.cos(phi - theta) * x + math.sin(phi - theta) * v_start
    assert_close(step.x, x + (phi - theta) * (v_start + v(end, 30)) / 2, rtol=1e-11, atol=1e-12)


def test_dpmpp_2m_is_algorithm_2() -> None:
    schedule, x = cosine(100), starting_noise(3)
    denoise = gaussian(0.1, 0.5, schedule)
    times = [80, 60, 25, 10, 0]
    steps = list(dpmpp_2m(denoise, schedule, x, times))
    alpha = [math.sqrt(schedule.alpha_bar[t].item()) for t in times]
    sigma = [math.sqrt(1 - schedule.alpha_bar[t].item()) for t in times]
    lam = [math.log(a / s) if s else math.inf for a, s in zip(alpha, sigma, strict=True)]
    x0_before = None
    for i in range(1, 4):
        h = lam[i] - lam[i - 1]
        x0 = denoise(x, torch.full((3,), times[i - 1]))
        D = x0
        if x0_before is not None:
            r = (lam[i - 1] - lam[i - 2]) / h
            D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * x0_before
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * (math.exp(-h) - 1) * D
        x0_before = x0
        assert_close(steps[i - 1].x, x, rtol=1e-11, atol=1e-12)
    assert_close(steps[3].x, denoise(x, torch.full((3,), 10)), rtol=1e-11, atol=1e-12)


def test_dpmpp_2m_with_eta_1_is_sde_dpm_solver() -> None:
    """Lu et al. 2022b, SDE-DPM-Solver++(2M): x_s = σ_s/σ_t e^(−h) x_t + α_s (1 − e^(−2h)) D + σ_s √(1 − e^(−2h)) z."""
    schedule, x, noise = cosine(100), starting_noise(3), Noise(4)
    denoise = gaussian(0.1, 0.5, schedule)
    times = [80, 60, 25, 10, 0]
    steps = list(dpmpp_2m(denoise, schedule, x, times, eta=1.0, generator=noise))
    alpha = [math.sqrt(schedule.alpha_bar[t].item()) for t in times]
    sigma = [math.sqrt(1 - schedule.alpha_bar[t].item()) for t in times]
    x0_before, h_before = None, math.nan
    for i in range(1, 4):
        h = math.log(alpha[i] / sigma[i]) - math.log(alpha[i - 1] / sigma[i - 1])
        x0 = denoise(x, torch.full((3,), times[i - 1]))
        D = x0 if x0_before is None else x0 + h / h_before * (x0 - x0_before) / 2
        z = noise(times[i - 1], like=x)
        x = sigma[i] / sigma[i - 1] * math.exp(-h) * x + alpha[i] * (1 - math.exp(-2 * h)) * D
        x = x + sigma[i] * math.sqrt(1 - math.exp(-2 * h)) * z
        x0_before, h_before = x0, h
        assert_close(steps[i - 1].x, x, rtol=1e-11, atol=1e-12)
    assert_close(steps[3].x, denoise(x, torch.full((3,), 10)), rtol=1e-11, atol=1e-12)


def test_the_first_step_of_heun_and_dpmpp_2m_is_a_ddim_step() -> None:
    schedule = linear(100)
    denoise = gaussian(0.1, 0.5, schedule)
    for n in (2, 4, 10):
        steps = n // 2 + 1
        expected = next(ddim(denoise, schedule, starting_noise(3), steps)).x
        assert_close(next(heun(denoise, schedule, starting_noise(3), n)).x, expected, rtol=0, atol=1e-12)
        assert_close(next(dpmpp_2m(denoise, schedule, starting_noise(3), steps)).x, expected, rtol=0, atol=1e-12)


# accuracy


class Impulse(Noise):
    """Noise that is 1 for image i at the i-th timestep and 0 elsewhere. Image i then shows the effect of that noise."""

    def __init__(self, times: list[int]) -> None:
        super().__init__(0)
        self.times = times

    def __call__(self, step: int, like: Tensor) -> Tensor:
        out = torch.zeros_like(like)
        out[self.times.index(step)] = 1
        return out


@pytest.mark.parametrize(
    ("name", "n", "std"),
    [
        ("ddim", 1000, 0.498495),
        ("ddim", 50, 0.471403),
        ("ddim", 10, 0.369955),
        ("ddpm", 1000, 0.496110),
        ("ddpm", 50, 0.444100),
        ("ddpm", 10, 0.333475),
        ("ddim 1", 50, 0.444100),
        ("ddpm beta", 1000, 0.500752),
        ("ddpm beta", 50, 0.511719),
        ("ddpm beta", 10, 0.493901),
    ],
)
def test_the_exact_standard_deviation_of_gaussian_samples(name: str, n: int, std: float) -> None:
    # For data N(0, s²) a sampler is linear in x_T and in the noise of each step. So the variance of its samples is the
    # sum of the squares of its outputs when one of these is 1 and the others are 0.
    schedule = linear(1000)
    times = step_times(1000, n)[:-1]
    x_T = torch.zeros(n + 1, 1, 1, 1, dtype=torch.float64)
    x_T[-1] = 1
    output = sample(RUNS[name](gaussian(0.0, 0.5, schedule), schedule, x_T, n, Impulse(times)))
    assert math.sqrt((output**2).sum().item()) == pytest.approx(std, abs=6e-7)


def exact_flow(x_T: Tensor, std: float, start: int, end: int, schedule: Schedule) -> Tensor:
    """The solution of the probability-flow ODE at `end` for data N(0, std²): x stays proportional to the std of x_t."""
    variance = [(schedule.alpha_bar[t] * std**2 + 1 - schedule.alpha_bar[t]).item() for t in (start, end)]
    return x_T * math.sqrt(variance[1] / variance[0])


@pytest.mark.parametrize("name", ODE)
@pytest.mark.parametrize("schedule", [linear(1000), cosine(1000)])
def test_samplers_without_noise_converge_to_the_exact_flow(name: str, schedule: Schedule) -> None:
    std, x_T = 0.5, starting_noise(3)
    exact = exact_flow(x_T, std, 1000, 0, schedule)
    error = [
        (sample(RUNS[name](gaussian(0.0, std, schedule), schedule, x_T, n, Noise(0))) / exact - 1).abs().max().item()
        for n in (10, 100, 1000)
    ]
    assert error[0] > error[1] > error[2]
    assert error[2] < 0.004


def error_at_100(name: str, num_steps: int) -> float:
    schedule, std = linear(1000), 0.5
    times = [1000 - i * 900 // num_steps for i in range(num_steps + 1)]
    assert times[-1] == 100
    x_T = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    steps = RUNS[name](gaussian(0.0, std, schedule), schedule, x_T, [*times, 0], Noise(0))
    x = next(step.x for step in steps if step.t == 100)
    return abs((x - exact_flow(x_T, std, 1000, 100, schedule)).item())


@pytest.mark.parametrize(
    ("name", "low", "high"), [("ddim", 0.9, 1.1), ("heun", 1.9, 2.2), ("dpmpp_2m", 1.8, 3.5), ("heun_line", 1.9, 2.2)]
)
def test_order_of_convergence(name: str, low: float, high: float) -> None:
    order = math.log(error_at_100(name, 20) / error_at_100(name, 100)) / math.log(5)
    assert low <= order <= high


def test_midpoint_has_at_least_order_2() -> None:
    # 20 and 90 steps have a timestep in the middle; 100 do not, and the weights of the slopes make up for it
    assert math.log(error_at_100("midpoint", 20) / error_at_100("midpoint", 90)) / math.log(4.5) > 2
    assert error_at_100("midpoint", 100) < error_at_100("heun_line", 100) / 5


@every_sampler
@pytest.mark.parametrize("schedule", [linear(1000), cosine(1000)])
def test_fifty_calls_reproduce_images_of_a_finite_data_set(run: Run, schedule: Schedule) -> None:
    images = torch.randint(0, 2, (6, 1, 4, 4), generator=torch.Generator().manual_seed(5)).double() * 2 - 1
    x_T = Noise(9)(0, like=torch.zeros(24, 1, 4, 4, dtype=torch.float64))
    x = sample(run(finite_data(images, schedule), schedule, x_T, 50, Noise(9)))
    distance = torch.cdist(x.flatten(1), images.flatten(1))
    assert distance.min(1).values.max() < 1e-6
    assert len(distance.argmin(1).unique()) > 3  # of different images


# zero terminal SNR


@every_sampler
@pytest.mark.parametrize("n", [1, 2, 3, 10])
@pytest.mark.parametrize("schedule", [linear_zero_snr(100), flow(100)])
def test_v_prediction_stays_finite_at_zero_terminal_snr(run: Run, n: int, schedule: Schedule) -> None:
    oracle = gaussian(0.2, 0.5, schedule)

    def network(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, x)
        return (alpha * x - oracle(x, t)) / sigma

    steps = list(run(Denoiser(network, schedule, "v"), schedule, starting_noise(4), n, Noise(0)))
    for step in steps:
        assert step.x.isfinite().all()
        assert step.x0.isfinite().all()
    assert_close(steps[0].x0, torch.full_like(steps[0].x0, 0.2), rtol=0, atol=1e-12)  # the mean: x_T contains no image


@pytest.mark.parametrize("name", ODE)
def test_samplers_follow_the_exact_flow_from_zero_terminal_snr(name: str) -> None:
    schedule, x_T = linear_zero_snr(1000), starting_noise(3)
    x = sample(RUNS[name](gaussian(0.0, 0.5, schedule), schedule, x_T, 500, Noise(0)))
    assert_close(x, exact_flow(x_T, 0.5, 1000, 0, schedule), rtol=0.02, atol=0)
