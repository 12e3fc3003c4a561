"""Our samplers compared with the schedulers of Hugging Face Diffusers, step by step, with the same network and noise.

Where the two are defined differently, the tests compute the expected difference:

- Diffusers counts timesteps from 0. The exporter takes care of that; here we call the network with t + 1.
- Its trailing timesteps are affected by rounding errors (test_timesteps).
- Its DDPM adds noise in the last step too, unless that step starts at its t = 0 (Pair.last_noise).
- Its DDIM computes the end of a step as t − T // steps and ignores its list of timesteps
  (test_ddim_if_the_number_of_steps_does_not_divide_T).
- Its DDIM keeps the ε̂ from before clipping by default (test_ddim_keeps_the_unclipped_eps_by_default).
- Its DPM-Solver replaces ᾱ_T = 0 by 2⁻²⁴ (test_dpmpp_2m_at_zero_terminal_snr).
- Its tables are float32 (test_float32_as_shipped).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.names import Prediction, ScheduleName
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion.denoiser import Denoise, Denoiser, Network, clipped
from shapedreamer.diffusion.process import to_eps
from shapedreamer.diffusion.samplers import Step, ddim, ddpm, dpmpp_2m
from shapedreamer.diffusion.schedule import SCHEDULES, Schedule, linear, linear_zero_snr, step_times
from shapedreamer.networks.unet import UNet

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")

# DPM-Solver's set_timesteps calls np.array(tensor), and NumPy 2 warns that torch's __array__ has no copy argument
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

T = 1000
ATOL = 1e-9  # in float64, for pixels up to 2e4: unclipped ε-prediction divides by √ᾱ_T = 5e-5


class CachedNoise(Noise):
    """Noise that computes each step once: both samplers use it, and computing it takes longer than running them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.cache: dict[int, Tensor] = {}

    def __call__(self, step: int, like: Tensor) -> Tensor:
        if step not in self.cache:
            self.cache[step] = super().__call__(step, like.double())
        return self.cache[step].to(like.dtype)


NOISE = CachedNoise(3)
X_T = NOISE(0, like=torch.zeros(2, 1, 8, 8, dtype=torch.float64))


def toy_network(x: Tensor, t: Tensor) -> Tensor:
    """A smooth, nonlinear function of neighbouring pixels and t. If t is off by one, the output changes by 2e-3."""
    phase = (2 * t.to(x.dtype) / T).view(-1, 1, 1, 1)
    return torch.sin(1.5 * x.roll(1, dims=3) + phase) + 0.3 * x


@dataclass(frozen=True)
class Pair:
    """One of our samplers and the Diffusers scheduler that should make the same steps.

    clip:       scheduler options equivalent to clipped() around our denoiser
    step:       options of the scheduler's step method
    last_noise: ᾱ at the start of the last step -> standard deviation of the noise that Diffusers adds in that step,
                unless it starts at its t = 0
    """

    ours: Callable[..., Iterator[Step]]
    scheduler: str
    options: dict[str, Any] = field(default_factory=dict)
    clip: dict[str, Any] = field(default_factory=lambda: {"clip_sample": True})
    step: dict[str, Any] = field(default_factory=dict)
    last_noise: Callable[[float], float] = lambda alpha_bar: 0.0


RECOMPUTE_EPS = {"use_clipped_model_output": True}
PAIRS = {
    "ddpm": Pair(
        partial(ddpm, generator=NOISE),
        "DDPMScheduler",
        {"variance_type": "fixed_small", "clip_sample": False},
        last_noise=lambda alpha_bar: 1e-10,  # the variance is 0, but clamped to 1e-20
    ),
    "ddpm beta": Pair(
        partial(ddpm, variance="beta", generator=NOISE),
        "DDPMScheduler",
        {"variance_type": "fixed_large", "clip_sample": False},
        last_noise=lambda alpha_bar: (1 - alpha_bar) ** 0.5,
    ),
    "ddim": Pair(ddim, "DDIMScheduler", {"clip_sample": False}, step=RECOMPUTE_EPS),
    "ddim eta 1": Pair(
        partial(ddim, eta=1.0, generator=NOISE),
        "DDIMScheduler",
        {"clip_sample": False},
        step=RECOMPUTE_EPS | {"eta": 1.0},
    ),
    "dpmpp_2m": Pair(
        dpmpp_2m,
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"},
        clip={"thresholding": True, "sample_max_value": 1.0},  # so the threshold is always 1
    ),
    "dpmpp_2m eta 1": Pair(
        partial(dpmpp_2m, eta=1.0, generator=NOISE),
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"},
        clip={"thresholding": True, "sample_max_value": 1.0},
    ),
}
SCHEDULE_OPTIONS: dict[ScheduleName, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "linear_zero_snr": {"beta_schedule": "linear", "rescale_betas_zero_snr": True},
}
PREDICTION_TYPES: dict[Prediction, str] = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
COMBINATIONS = [(s, p) for s in SCHEDULE_OPTIONS for p in PREDICTION_TYPES if (s, p) != ("linear_zero_snr", "eps")]

every_schedule = pytest.mark.parametrize("schedule", SCHEDULE_OPTIONS)
every_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


@contextmanager
def diffusers_in(dtype: torch.dtype, noise: Tensor | None = None) -> Iterator[None]:
    """Make Diffusers compute everything in `dtype`, and use `noise` as its random noise.

    Diffusers hard-codes float32 for its tables, for σ and for DPM-Solver's sample. This function makes the name float32
    mean `dtype`. In float64, no rounding errors can hide a small mistake.
    """
    with (
        mock.patch.object(torch, "float32", dtype),
        mock.patch.object(np, "float32", np.float64 if dtype == torch.float64 else np.float32),
        mock.patch("diffusers.schedulers.scheduling_ddpm.randn_tensor", return_value=noise),
        mock.patch("diffusers.schedulers.scheduling_ddim.randn_tensor", return_value=noise),
        mock.patch("diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor", return_value=noise),
    ):
        yield


def make_scheduler(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    with diffusers_in(dtype):
        return getattr(diffusers, name)(num_train_timesteps=T, timestep_spacing="trailing", **options)


def scheduler_for(
    pair: Pair, schedule: ScheduleName, prediction: Prediction, clip: bool = False, dtype: torch.dtype = torch.float64
) -> Any:
    options = SCHEDULE_OPTIONS[schedule] | pair.options | (pair.clip if clip else {})
    return make_scheduler(pair.scheduler, dtype, prediction_type=PREDICTION_TYPES[prediction], **options)


def denoiser_for(
    schedule: Schedule, prediction: Prediction, clip: bool = False, network: Network = toy_network
) -> Denoise:
    denoise = Denoiser(network, schedule, prediction)
    return clipped(denoise) if clip else denoise


@torch.inference_mode()
def their_steps(
    scheduler: Any, x: Tensor, steps: int, network: Network = toy_network, **options: Any
) -> list[tuple[int, Tensor]]:
    """The steps of a Diffusers pipeline: (1-based timestep at which a step starts, image after it)."""
    with diffusers_in(x.dtype):
        scheduler.set_timesteps(steps)
    result = []
    for t in (scheduler.timesteps + 1).tolist():
        output = network(x, torch.full((len(x),), t))
        with diffusers_in(x.dtype, NOISE(t, like=x)):
            x = scheduler.step(output, t - 1, x, **options).prev_sample
        result.append((t, x))
    return result


def assert_same_steps(
    pair: Pair,
    scheduler: Any,
    schedule: Schedule,
    denoise: Denoise,
    steps: int,
    x_T: Tensor = X_T,
    network: Network = toy_network,
    atol: float = ATOL,
) -> None:
    """Check that both give the same images, apart from the noise that Diffusers adds in the last step.

    If this fails, the first index in the message is the number of the step.
    """
    with torch.inference_mode():
        ours = list(pair.ours(denoise, schedule, x_T, steps))
    times, images = zip(*their_steps(scheduler, x_T, steps, network, **pair.step), strict=True)
    assert times == tuple(step_times(T, steps)[:-1])
    expected = torch.stack([step.x for step in ours])
    if times[-1] > 1:
        expected[-1] += pair.last_noise(schedule.alpha_bar[times[-1]].item()) * NOISE(times[-1], like=x_T)
    assert_close(torch.stack(images), expected, rtol=0, atol=atol)


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
@every_schedule
def test_alpha_bar(scheduler: str, schedule: ScheduleName) -> None:
    ours = SCHEDULES[schedule](T).alpha_bar[1:]
    theirs = make_scheduler(scheduler, **SCHEDULE_OPTIONS[schedule]).alphas_cumprod
    assert_close(theirs, ours, rtol=0, atol=1e-14)
    as_shipped = make_scheduler(scheduler, torch.float32, **SCHEDULE_OPTIONS[schedule]).alphas_cumprod
    assert_close(as_shipped.double(), ours, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted({pair.scheduler for pair in PAIRS.values()}))
def test_timesteps(name: str) -> None:
    """The timesteps are equal for 10, 50 and 1000 steps; for other numbers of steps rounding makes a difference.

    Diffusers rounds np.arange(T, 0, -T / steps). If rounding errors leave a tiny positive number where 0 should end the
    range, there is one more timestep (−1, which is our 0). A number halfway between two integers can round to either.
    """
    scheduler = make_scheduler(name)
    for steps in range(1, T + 1):
        scheduler.set_timesteps(steps)
        ours, theirs = step_times(T, steps), (scheduler.timesteps + 1).tolist()
        assert theirs[steps:] in ([], [0])
        assert steps not in (10, 50, T) or theirs == ours[:-1]
        for i, (t, s) in enumerate(zip(ours[:-1], theirs, strict=False)):
            assert t == s or (abs(t - s) == 1 and Fraction(T * (steps - i), steps).denominator == 2)


@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("clip", [False, True], ids=["free", "clipped"])
@pytest.mark.parametrize(("schedule", "prediction"), COMBINATIONS)
@every_pair
def test_every_step_of_10_and_50(
    pair: Pair, schedule: ScheduleName, prediction: Prediction, clip: bool, steps: int
) -> None:
    table = SCHEDULES[schedule](T)
    if pair.scheduler == "DPMSolverMultistepScheduler" and schedule == "linear_zero_snr":
        table = almost_zero_snr()
    scheduler = scheduler_for(pair, schedule, prediction, clip)
    assert_same_steps(pair, scheduler, table, denoiser_for(table, prediction, clip), steps)


@pytest.mark.parametrize(
    ("schedule", "prediction", "clip"), [("linear", "eps", False), ("cosine", "v", True)], ids=["linear", "cosine"]
)
@every_pair
def test_every_step_of_1000(pair: Pair, schedule: ScheduleName, prediction: Prediction, clip: bool) -> None:
    table = SCHEDULES[schedule](T)
    scheduler = scheduler_for(pair, schedule, prediction, clip)
    assert_same_steps(pair, scheduler, table, denoiser_for(table, prediction, clip), T)


@every_pair
def test_every_step_with_a_unet(pair: Pair) -> None:
    torch.manual_seed(0)
    network = UNet(channels=(8, 16), attention=(1,), head_dim=8, groups=4).double()
    schedule = linear(T)
    denoise = denoiser_for(schedule, "v", network=network)
    assert_same_steps(pair, scheduler_for(pair, "linear", "v"), schedule, denoise, 20, network=network)


@every_pair
def test_float32_as_shipped(pair: Pair) -> None:
    """With its float32 tables, Diffusers stays within 1e-5 in 50 steps. (In 1000 steps, the error is 2e-4.)"""
    schedule = linear(T)
    scheduler = scheduler_for(pair, "linear", "v", dtype=torch.float32)
    assert_same_steps(pair, scheduler, schedule, denoiser_for(schedule, "v"), 50, x_T=X_T.float(), atol=1e-5)


def test_ddim_if_the_number_of_steps_does_not_divide_T() -> None:
    """With 53 steps, each step of Diffusers goes 1000 // 53 = 18 timesteps down, but the next starts 18.87 lower.

    So every step after the first starts from an image of another timestep, and the last one ends at t = 1, with noise
    left in the image. Each step equals one of ours between the same timesteps.
    """
    schedule = linear(T)
    denoise = denoiser_for(schedule, "v")
    x = X_T
    for t, image in their_steps(scheduler_for(PAIRS["ddim"], "linear", "v"), X_T, 53):
        end = t - T // 53
        step = next(ddim(denoise, schedule, x, [t, end, 0]))
        assert_close(image, step.x, rtol=0, atol=ATOL)
        x = image
    assert end == 1


def test_ddim_keeps_the_unclipped_eps_by_default() -> None:
    """After clipping x̂₀, Diffusers still uses the network's ε̂, although √ᾱ x̂₀ + √(1−ᾱ) ε̂ is then no longer x_t."""
    schedule = linear(T)
    t, s = step_times(T, 10)[:2]
    scheduler = scheduler_for(PAIRS["ddim"], "linear", "eps", clip=True)
    _, theirs = their_steps(scheduler, X_T, 10)[0]
    ours = next(ddim(denoiser_for(schedule, "eps", clip=True), schedule, X_T, 10))
    unclipped_eps = toy_network(X_T, torch.full((2,), t))
    difference = (1 - schedule.alpha_bar[s]).sqrt() * (unclipped_eps - to_eps(ours.x0, X_T, t, schedule))
    assert_close(theirs, ours.x + difference, rtol=0, atol=ATOL)
    assert difference.abs().max() > 0.1


def almost_zero_snr() -> Schedule:
    """Zero terminal SNR as in Diffusers' DPM-Solver: ᾱ_T = 2⁻²⁴, which keeps σ = √((1−ᾱ)/ᾱ) finite.

    This is above the ᾱ of the three timesteps before T. A Schedule must decrease, so these are changed too; 50 steps or
    fewer do not visit them.
    """
    alpha_bar = linear_zero_snr(T).alpha_bar.clone()
    alpha_bar[-5:] = torch.linspace(alpha_bar[-5].item(), 2**-24, 5, dtype=torch.float64)
    return Schedule(alpha_bar)


def test_dpmpp_2m_at_zero_terminal_snr() -> None:
    """If ᾱ_T is exactly 0, our second step is first-order too: the first is infinitely long in λ, so it has no slope.

    Diffusers uses √ᾱ_T = 2⁻¹² and a second-order second step, so the images differ slightly. For the same ᾱ_T they are
    equal: test_every_step_of_10_and_50 uses almost_zero_snr.
    """
    pair, schedule = PAIRS["dpmpp_2m"], linear_zero_snr(T)
    *_, (_, theirs) = their_steps(scheduler_for(pair, "linear_zero_snr", "v"), X_T, 50)
    *_, ours = pair.ours(denoiser_for(schedule, "v"), schedule, X_T, 50)
    assert 1e-4 < (theirs - ours.x).abs().max() < 1e-2
