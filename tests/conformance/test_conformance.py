"""Our own code passes every check, and for each mutant the report names its mistake and no other."""

import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shapedreamer import cli
from shapedreamer import conformance as c
from shapedreamer.cli import conform
from shapedreamer.common.errors import UserError
from shapedreamer.common.names import ScheduleName
from shapedreamer.common.noise import Noise
from shapedreamer.conformance import mistakes
from shapedreamer.conformance.mistakes import Mistake
from shapedreamer.conformance.schedule import PUBLISHED
from shapedreamer.diffusion.denoiser import Denoise, Denoiser, guided
from shapedreamer.diffusion.loss import denoising_loss
from shapedreamer.diffusion.process import diffuse, posterior, target, to_x0
from shapedreamer.diffusion.samplers import SAMPLERS, Step, ddim, ddpm, dpmpp_2m, heun, sample
from shapedreamer.diffusion.schedule import (
    Schedule,
    cosine,
    flow,
    linear,
    linear_zero_snr,
    step_times,
    zero_terminal_snr,
)
from shapedreamer.training.ema import EMA
from tests.conformance import mutants

Steps = Iterator[Step]


def drop_each_image(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    return labels * (torch.rand(len(labels), 1, generator=generator) >= probability)


cached_report = functools.cache(c.check_sampler)


# Our own code


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_our_samplers_pass(sampler: Callable[..., Steps]) -> None:
    report = cached_report(sampler)
    report.raise_if_failed()
    assert report.mistakes == []


def test_our_ode_solvers_have_order_2() -> None:
    c.check_sampler(heun, order=2).raise_if_failed()
    c.check_sampler(dpmpp_2m, order=2).raise_if_failed()
    assert not c.check_sampler(dpmpp_2m, order=4).passed


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear(), "linear"), (linear(500), "linear"), (linear(200), "linear"), (linear(77), "linear"),
        (cosine(), "cosine"), (cosine(500), "cosine"), (linear_zero_snr(), "linear_zero_snr"), (cosine(64), None),
    ],
)  # fmt: skip
def test_our_schedules_pass(schedule: Schedule, expected: Any) -> None:
    c.check_schedule(schedule, expected).raise_if_failed()
    c.check_schedule(schedule.alpha_bar.numpy(), expected).raise_if_failed()
    c.check_schedule(schedule.alpha_bar.tolist(), expected).raise_if_failed()


def test_our_other_functions_pass() -> None:
    for report in (
        c.check_zero_terminal_snr(),
        c.check_step_times(step_times),
        c.check_forward(diffuse),
        c.check_conversions(),
        c.check_posterior(posterior),
        c.check_loss(denoising_loss),
        c.check_loss_floor(0.1731, std=0.5),
        c.check_ema(EMA),
        c.check_sampling_weights(lambda raw, ema: mutants.samples_raw(ema, raw)),
        c.check_data(torch.linspace(-1, 1, 64).view(1, 1, 8, 8)),
        c.check_label_dropout(drop_each_image),
        c.check_guidance(guided),
    ):
        report.raise_if_failed()
        assert report.mistakes == []


# Mutants

SAMPLER_MUTANTS = [
    (mutants.ddim_sigma_as_direction, mistakes.SIGMA_AS_DIRECTION),
    (mutants.ddpm_sigma_as_direction, mistakes.SIGMA_AS_DIRECTION),
    (mutants.ddim_stops_at_one, mistakes.LAST_ALPHA_BAR),
    (mutants.ddim_final_alpha_of_first, mistakes.LAST_ALPHA_BAR),
    (mutants.dpmpp_2m_stops_at_one, mistakes.LAST_ALPHA_BAR),
    (mutants.ddpm_noise_on_last_step, mistakes.NOISE_ON_LAST_STEP),
    (mutants.ddim_noise_floor, mistakes.NOISE_ON_LAST_STEP),
    (mutants.ddim_passes_t_minus_one, mistakes.OFF_BY_ONE),
    (mutants.ddim_passes_end_of_step, mistakes.OFF_BY_ONE),
    (mutants.ddim_from_T_minus_one, mistakes.OFF_BY_ONE),
    (mutants.ddim_tables_one_early, mistakes.OFF_BY_ONE),
    (mutants.ddim_tables_one_late, mistakes.OFF_BY_ONE),
    (mutants.ddim_alpha_sigma_one_late, mistakes.OFF_BY_ONE),
    (mutants.ddim_stale_eps, mistakes.STALE_EPS),
    (mutants.ddim_stale_eps_on_request, mistakes.STALE_EPS),
    (mutants.ddpm_beta_of_table, mistakes.BETA_OF_ONE_STEP),
    (mutants.ddpm_skipping, mistakes.BETA_OF_ONE_STEP),
    (mutants.ddim_table_sigma, mistakes.BETA_OF_ONE_STEP),
    (mutants.ddim_wraps_by_stride, mistakes.WRAPAROUND),
    (mutants.ddim_wraps_silently, mistakes.WRAPAROUND),
    (mutants.ddim_wrong_stop, mistakes.WRAPAROUND),
    (mutants.ddim_sentinel, mistakes.WRAPAROUND),
]
OTHER_MUTANTS = [
    (c.check_forward, mutants.diffuse_without_root, mistakes.NOISE_WITHOUT_ROOT),
    (c.check_forward, mutants.diffuse_with_precomputed_tables, mistakes.NOISE_WITHOUT_ROOT),
    (c.check_loss, mutants.loss_without_root, mistakes.NOISE_WITHOUT_ROOT),
    (c.check_forward, mutants.diffuse_from_zero, mistakes.OFF_BY_ONE),
    (c.check_forward, mutants.diffuse_one_late, mistakes.OFF_BY_ONE),
    (c.check_forward, mutants.diffuse_from_table_of_T, mistakes.OFF_BY_ONE),
    (c.check_loss, mutants.loss_passes_t_minus_one, mistakes.OFF_BY_ONE),
    (c.check_posterior, mutants.posterior_of_one_step, mistakes.BETA_OF_ONE_STEP),
    (c.check_step_times, mutants.step_times_below_zero, mistakes.WRAPAROUND),
    (c.check_step_times, mutants.step_times_by_stride, mistakes.WRAPAROUND),
    (c.check_ema, mutants.EMAOfEverything, mistakes.AVERAGED_TABLES),
    (c.check_ema, mutants.EMAOfBuffers, mistakes.AVERAGED_TABLES),
    (c.check_sampling_weights, mutants.samples_raw, mistakes.EMA_NOT_USED),
    (c.check_sampling_weights, mutants.samples_loaded_raw_weights, mistakes.EMA_NOT_USED),
    (c.check_data, torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)), mistakes.DATA_FROM_ZERO),
    (c.check_data, mutants.FromZeroToOne(), mistakes.DATA_FROM_ZERO),
    (c.check_label_dropout, mutants.drop_all_or_none, mistakes.DROPPED_PER_BATCH),
    (c.check_label_dropout, mutants.drop_with_if, mistakes.DROPPED_PER_BATCH),
    (c.check_guidance, mutants.guided_minus, mistakes.GUIDANCE_SIGN),
    (c.check_guidance, mutants.guided_swapped, mistakes.GUIDANCE_SIGN),
    (c.check_guidance, mutants.guided_lerp, mistakes.GUIDANCE_SIGN),
]


@pytest.mark.parametrize(("mutant", "mistake"), SAMPLER_MUTANTS, ids=lambda each: getattr(each, "__name__", ""))
def test_the_mistake_of_a_sampler_mutant_is_named(mutant: Callable[..., Any], mistake: Mistake) -> None:
    assert c.check_sampler(mutant).mistakes == [mistake.name]


@pytest.mark.parametrize(("check", "mutant", "mistake"), OTHER_MUTANTS, ids=lambda each: getattr(each, "__name__", ""))
def test_the_mistake_of_a_mutant_is_named(check: Callable[[Any], c.Report], mutant: Any, mistake: Mistake) -> None:
    assert check(mutant).mistakes == [mistake.name]


def test_every_required_mistake_has_a_mutant() -> None:
    named = {mistake for _, mistake in SAMPLER_MUTANTS} | {mistake for _, _, mistake in OTHER_MUTANTS}
    assert named == set(c.REQUIRED)
    assert len(c.REQUIRED) == 13


# The reference numbers are in the checks


def test_the_end_to_end_table() -> None:
    shown = {(check.name, check.expected) for sampler in (ddim, ddpm) for check in cached_report(sampler).checks}
    for mode, numbers in (
        ("η = 0", ("0.498495", "0.471403", "0.369955")),
        ("η = 1", ("0.496110", "0.444100", "0.333475")),
        ("variance β̃", ("0.496110", "0.444100", "0.333475")),
        ("variance β", ("0.500752", "0.511719", "0.493901")),
    ):
        for steps, number in zip((1000, 50, 10), numbers, strict=True):
            assert (f"{mode}: output standard deviation, {steps} steps", number) in shown


def test_the_closed_form_gives_the_table() -> None:
    for column, (eta, beta) in {"η = 0": (0.0, False), "posterior": (1.0, False), "β": (1.0, True)}.items():
        for steps, number in c.TABLE[column].items():
            assert c.output_std(step_times(1000, steps), eta, beta, linear()) == pytest.approx(number, abs=6e-7)


def test_the_optimal_loss() -> None:
    assert c.optimal_eps_mse(1.0, linear()) == pytest.approx(0.27551, abs=5e-6)
    assert c.optimal_eps_mse(0.5, linear()) == pytest.approx(0.17305, abs=5e-6)
    assert c.OPTIMAL_EPS_MSE == {1.0: 0.27551, 0.5: 0.17305}


def test_the_published_values_of_the_schedules() -> None:
    values = {(name, T, row[0]): row[2] for (name, T), rows in PUBLISHED.items() for row in rows}
    assert values == {
        ("linear", 1000, "ᾱ_T"): 4.035829765e-5,
        ("linear", 1000, "√ᾱ_T"): 0.006352818,
        ("linear", 500, "ᾱ_T"): 6.352710797e-3,
        ("linear", 500, "√ᾱ_T"): 0.079703894,
        ("linear", 500, "SNR_T = ᾱ_T/(1−ᾱ_T)"): 0.006393,
        ("linear", 200, "ᾱ_T"): 0.132182754,
        ("linear", 200, "√ᾱ_T"): 0.363569463,
        ("cosine", 1000, "ᾱ_T"): 2.428766907e-9,
        ("cosine", 1000, "√ᾱ_T"): 4.928252e-5,
        ("cosine", 1000, "β₁"): 4.128422482e-5,
        ("cosine", 1000, "number of β clipped at 0.999"): 1,
        ("cosine", 1000, "ᾱ₅₀₀"): 0.49384359,
        ("cosine", 500, "ᾱ_T"): 9.715044036e-9,
        ("cosine", 500, "√ᾱ_T"): 9.856492e-5,
        ("linear_zero_snr", 1000, "ᾱ_T"): 0.0,
        ("linear_zero_snr", 1000, "β₁"): 1e-4,
    }


@pytest.mark.parametrize(
    ("name", "make", "T"), [("linear", linear, 1000), ("linear", linear, 200), ("cosine", cosine, 500)]
)
@pytest.mark.parametrize("at", [0.1, 0.5, 1.0])
def test_a_schedule_that_differs_in_the_sixth_digit_fails(
    name: ScheduleName, make: Callable[[int], Schedule], T: int, at: float
) -> None:
    alpha_bar = make(T).alpha_bar.clone()
    alpha_bar[int(at * T)] *= 1 + 1e-6
    assert c.check_schedule(alpha_bar).passed
    assert not c.check_schedule(alpha_bar, name).passed


def test_a_wrong_posterior_variance_of_the_second_step_fails() -> None:
    def slightly_wide(x0: Tensor, x_t: Tensor, t: int, s: int, schedule: Schedule) -> tuple[Tensor, float]:
        mean, variance = posterior(x0, x_t, t, s, schedule)
        return mean, variance * (1 + 1e-6)

    checks = {check.name: check for check in c.check_posterior(slightly_wide).checks}
    assert checks["β̃₂/β₂"].expected == "0.4547357658"
    assert not checks["β̃₂/β₂"].passed
    assert checks["β̃₁ = 0 exactly"].passed


# Invalid schedules


@pytest.mark.parametrize(
    ("alpha_bar", "mistake"),
    [
        (linear().alpha_bar[1:], mistakes.NO_TIME_ZERO),
        (linear().beta[1:], mistakes.NOT_CUMULATED),
        (1 - linear().beta, mistakes.NOT_CUMULATED),
        (linear().alpha_bar.float(), mistakes.SINGLE_PRECISION),
    ],
)
def test_the_mistake_of_a_wrong_table_is_named(alpha_bar: Tensor, mistake: Mistake) -> None:
    assert c.check_schedule(alpha_bar, "linear").mistakes == [mistake.name]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([1.0, math.nan, 0.1], "all values are finite"),
        ([1.0, 0.5, 0.5, 0.1], "ᾱ strictly decreases"),
        ([1.0, 0.5, -0.1], "ᾱ is not negative"),
        ([0.5, 0.2], "ᾱ₀ = 1: t = 0 is clean data"),
        ([1.0], "shape (T+1,)"),
        ([[1.0, 0.5]], "shape (T+1,)"),
    ],
)
def test_an_invalid_schedule_fails_the_matching_check(values: Any, name: str) -> None:
    report = c.check_schedule(values)
    assert name in {check.name for check in report.checks if not check.passed}
    assert len(report.mistakes) == 1


def test_a_schedule_other_than_the_expected_one_fails() -> None:
    assert c.check_schedule(cosine(), "linear").mistakes
    assert c.check_schedule(linear(), "linear_zero_snr").mistakes
    assert not c.check_zero_terminal_snr(rescale=lambda schedule: schedule).passed


def test_epsilon_at_zero_terminal_snr_must_be_refused() -> None:
    def accepts_everything(network: Denoise, schedule: Schedule, prediction: Any) -> Denoise:
        return lambda x, t: to_x0(prediction, network(x, t), x, t, schedule)

    report = c.check_zero_terminal_snr(zero_terminal_snr, accepts_everything)
    failed = [check.name for check in report.checks if not check.passed]
    assert failed == ["ε-prediction is refused"]
    c.check_zero_terminal_snr(zero_terminal_snr, Denoiser).raise_if_failed()


# Mistakes beyond the required thirteen


def test_v_with_the_wrong_sign_is_named() -> None:
    def negated_target(prediction: Any, *args: Any) -> Tensor:
        return -target(prediction, *args) if prediction == "v" else target(prediction, *args)

    def negated_to_x0(prediction: Any, output: Tensor, *args: Any) -> Tensor:
        return to_x0(prediction, -output if prediction == "v" else output, *args)

    assert c.check_conversions(target=negated_target).mistakes == [mistakes.V_SIGN.name]
    # consistent with each other, but not with the definition of v
    assert c.check_conversions(target=negated_target, to_x0=negated_to_x0).mistakes == [mistakes.V_SIGN.name]


@pytest.mark.parametrize(
    ("mutant", "mistake"),
    [
        (mutants.ddim_velocity_as_eps, mistakes.VELOCITY_AS_EPS),
        (mutants.ddim_v_as_eps, mistakes.VELOCITY_AS_EPS),
        (mutants.flow_with_the_other_sign, mistakes.FLOW_SIGN),
        (mutants.flow_from_data_to_noise, mistakes.TIME_REVERSED),
    ],
)
def test_mistakes_of_samplers_for_flow_matching_are_named(
    mutant: Callable[..., Any], mistake: mistakes.Mistake
) -> None:
    report = c.check_sampler(mutant)
    assert report.failed
    assert mistake.name in report.mistakes


@pytest.mark.parametrize(
    ("mutant", "mistake"),
    [
        (mutants.diffuse_on_the_line, mistakes.ON_THE_LINE),
        (mutants.diffuse_from_noise_to_data, mistakes.TIME_REVERSED),
        (mutants.diffuse_at_T_minus_t, mistakes.TIME_REVERSED),
    ],
)
def test_forward_processes_of_flow_matching_are_named(mutant: Callable[..., Tensor], mistake: mistakes.Mistake) -> None:
    assert c.check_forward(mutant).mistakes == [mistake.name]


def test_mistakes_in_conversions_of_the_velocity_are_named() -> None:
    def target_of(wrong: Callable[[Tensor, Tensor, Any], Tensor]) -> Callable[..., Tensor]:
        def mutant(prediction: Any, x0: Tensor, t: Any, eps: Tensor, schedule: Schedule) -> Tensor:
            right = target(prediction, x0, t, eps, schedule)
            return wrong(x0, eps, (t, schedule)) if prediction == "flow" else right

        return mutant

    def to_x0_of(other: Any, sign: float = 1.0) -> Callable[..., Tensor]:
        def mutant(prediction: Any, output: Tensor, *args: Any) -> Tensor:
            return to_x0(other, sign * output, *args) if prediction == "flow" else to_x0(prediction, output, *args)

        return mutant

    opposite = c.check_conversions(target=target_of(lambda x0, eps, _: x0 - eps), to_x0=to_x0_of("flow", -1.0))
    assert opposite.mistakes == [mistakes.FLOW_SIGN.name]
    assert mistakes.FLOW_SIGN.name in c.check_conversions(to_x0=to_x0_of("flow", -1.0)).mistakes
    assert mistakes.VELOCITY_AS_EPS.name in c.check_conversions(to_x0=to_x0_of("eps")).mistakes
    assert mistakes.V_FOR_FLOW.name in c.check_conversions(to_x0=to_x0_of("v")).mistakes


@pytest.mark.parametrize("falls_through", [True, False])
def test_conversions_that_do_not_know_flow_pass(falls_through: bool) -> None:
    def known(prediction: Any) -> Any:
        if prediction == "flow" and not falls_through:
            raise ValueError(prediction)
        return "v" if prediction == "flow" else prediction

    report = c.check_conversions(
        target=lambda prediction, *args: target(known(prediction), *args),
        to_x0=lambda prediction, *args: to_x0(known(prediction), *args),
    )
    report.raise_if_failed()
    assert any("not known" in check.got for check in report.checks)


def test_a_schedule_of_flow_matching_is_checked_with_its_shift() -> None:
    c.check_schedule(flow(100), "flow").raise_if_failed()
    c.check_schedule(flow(100, 3.0), "flow", shift=3.0).raise_if_failed()
    assert c.check_schedule(flow(100, 9.0), "flow", shift=3.0).mistakes == [mistakes.SHIFT_TWICE.name]
    assert c.check_schedule(flow(100, 3.0), "flow").failed
    assert mistakes.TIME_REVERSED.name in c.check_schedule(flow(100).alpha_bar.flip(0)).mistakes
    with pytest.raises(UserError, match="belongs to `expected='flow'`"):
        c.check(flow(100), shift=3.0)
    with pytest.raises(UserError, match="shift must be"):
        c.check(flow(100), expected="flow", shift=0.0)


def test_a_posterior_with_variance_beta_is_named() -> None:
    def wide(x0: Tensor, x_t: Tensor, t: int, s: int, schedule: Schedule) -> tuple[Tensor, Tensor]:
        mean, _ = posterior(x0, x_t, t, s, schedule)
        return mean, 1 - schedule.alpha_bar[t] / schedule.alpha_bar[s]

    assert c.check_posterior(wide).mistakes == [mistakes.BETA_FOR_POSTERIOR.name]


def test_factors_that_broadcast_over_columns_fail() -> None:
    def columns(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
        a = schedule.alpha_bar[t] if len(t) == x0.shape[3] else schedule.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt() * x0 + (1 - a).sqrt() * eps

    failed = [check.name for check in c.check_forward(columns).checks if not check.passed]
    assert failed == ["each image has its own t"]


def test_wrong_losses_fail() -> None:
    def doubled(*args: Any) -> Tensor:
        return 2 * denoising_loss(*args)

    assert c.check_loss(doubled).mistakes == ["the loss is not the mean squared error"]
    assert c.check_loss(lambda *args: denoising_loss(*args).mean()).mistakes == [
        "the loss does not return one number per image"
    ]
    assert not c.check_loss(lambda *args: torch.zeros(2000)).passed
    assert c.check_loss_floor(0.15, std=0.5).mistakes == [mistakes.LEAK.name]
    assert c.check_loss_floor(0.3, std=0.5).passed
    assert not c.check_loss_floor(1.2, std=0.5).passed


class _EMA:
    """An EMA in which a function of n decides the share of the new weights."""

    def __init__(self, network: nn.Module, share: Callable[[int], float]) -> None:
        self.inner, self.share = EMA(network, 0.5), share
        self.network = self.inner.network

    @torch.no_grad()
    def update(self, network: nn.Module, n: int) -> None:
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, self.share(n))


def test_the_mistake_of_a_wrong_ema_is_named() -> None:
    def plain(network: nn.Module, decay: float) -> _EMA:
        return _EMA(network, lambda n: 1 - decay)

    def swapped(network: nn.Module, decay: float) -> _EMA:
        return _EMA(network, lambda n: min(decay, (1 + n) / (10 + n)))

    def still(network: nn.Module, decay: float) -> _EMA:
        return _EMA(network, lambda n: 0.0)

    def aliased(network: nn.Module, decay: float) -> EMA:
        ema = EMA(network, decay)
        ema.network = network
        return ema

    assert c.check_ema(plain).mistakes == [mistakes.NO_WARM_UP.name]
    assert c.check_ema(swapped).mistakes == [mistakes.DECAY_SWAPPED.name]
    assert c.check_ema(still).mistakes == [mistakes.EMA_STANDS_STILL.name]
    assert c.check_ema(aliased).mistakes == [mistakes.EMA_ALIASED.name]


def test_sampling_with_both_networks_fails() -> None:
    report = c.check_sampling_weights(lambda raw, ema: mutants.samples_raw(ema, raw) + mutants.samples_raw(raw, ema))
    assert report.mistakes == [mistakes.EMA_NOT_USED.name]
    assert not c.check_sampling_weights(lambda raw, ema: torch.zeros(1)).passed


@pytest.mark.parametrize(
    "images",
    [
        torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8),
        torch.linspace(0, 255, 64).view(1, 1, 8, 8),
        torch.linspace(-2, 2, 64).view(1, 1, 8, 8),
        torch.linspace(-0.4, 0.4, 64).view(1, 1, 8, 8),
        torch.full((1, 1, 8, 8), math.nan),
        torch.linspace(-1, 1, 64).view(8, 8),
    ],
)
def test_images_of_the_wrong_shape_type_or_range_fail(images: Tensor) -> None:
    report = c.check_data(images)
    assert len(report.mistakes) == 1
    assert report.mistakes != [mistakes.DATA_FROM_ZERO.name]


def test_the_mistake_of_wrong_label_dropout_is_named() -> None:
    def kept_instead(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        return drop_each_image(labels, 1 - probability, generator)

    def single_entries(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        return labels * (torch.rand(labels.shape, generator=generator) >= probability)

    def in_place(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        return labels.mul_(drop_each_image(torch.ones_like(labels), probability, generator))

    def global_generator(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        return labels * (torch.rand(len(labels), 1) >= probability)

    assert c.check_label_dropout(kept_instead).mistakes == [mistakes.KEPT_INSTEAD.name]
    assert c.check_label_dropout(single_entries).mistakes == [mistakes.DROPPED_PER_NUMBER.name]
    assert c.check_label_dropout(in_place).mistakes == ["dropout modifies the labels of the data in place"]
    assert c.check_label_dropout(global_generator).mistakes == ["the random numbers do not come from the generator"]


def test_the_other_guidance_convention_is_named() -> None:
    def other(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
        return guided(conditional, unconditional, 1 + scale)

    assert c.check_guidance(other).mistakes == [mistakes.OTHER_SCALE.name]


# Samplers in the styles that learners use


def test_a_correct_sampler_that_only_returns_the_image_passes() -> None:
    def final(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> tuple[Tensor, str]:
        return sample(ddpm(denoise, schedule, x_T, steps, generator=lambda t, like: torch.randn_like(like))), "more"  # type: ignore[arg-type]

    c.check_sampler(final).raise_if_failed()


def test_a_correct_sampler_with_torch_normal_passes() -> None:
    def gaussian_steps(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        x, times = x_T, step_times(schedule.T, steps)
        for t, s in itertools.pairwise(times):
            mean, variance = posterior(denoise(x, torch.full((len(x),), t)), x, t, s, schedule)
            x = torch.normal(mean, math.sqrt(variance)) if s > 0 else mean
        return x

    c.check_sampler(gaussian_steps).raise_if_failed()


def test_a_correct_solver_that_only_returns_the_image_passes() -> None:
    c.check_sampler(lambda d, s, x, n: sample(heun(d, s, x, n))).raise_if_failed()


def test_a_correct_sampler_in_float32_passes() -> None:
    def single(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> list[Tensor]:
        return [step.x for step in ddim(lambda x, t: denoise(x, t).float(), schedule, x_T.float(), steps)]

    c.check_sampler(single).raise_if_failed()


def test_the_variance_of_ddpm_is_recognised_from_its_noise() -> None:
    def wide(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, generator: Noise) -> Steps:
        yield from ddpm(denoise, schedule, x_T, steps, variance="beta", generator=generator)

    report = c.check_sampler(wide)
    report.raise_if_failed()
    assert "0.511719" in str(report)


def with_numpy(correct: bool) -> Callable[..., Steps]:
    """Return a sampler whose noise is hidden from the check, so that its output must be estimated from samples."""
    random = np.random.default_rng(0)

    def noise(t: int, like: Tensor) -> Tensor:
        return torch.from_numpy(random.standard_normal(like.shape)) * (1 if correct else 1.3)

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
        yield from ddpm(denoise, schedule, x_T, steps, generator=noise)  # type: ignore[arg-type]

    return sampler


def test_a_sampler_with_hidden_noise_is_judged_by_its_samples() -> None:
    c.check_sampler(with_numpy(correct=True)).raise_if_failed()
    assert c.check_sampler(with_numpy(correct=False)).mistakes == ["the output has the wrong standard deviation"]


def without_noise(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float) -> Steps:
    class ZeroNoise(Noise):
        def __call__(self, step: int, like: Tensor) -> Tensor:
            return torch.zeros_like(like)

    return ddim(denoise, schedule, x_T, steps, eta=eta, generator=ZeroNoise(0))


def with_float32_tables(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    rounded = schedule.alpha_bar.float().double()
    return sample(ddim(denoise, Schedule(rounded), x_T, steps))


def leading_timesteps(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
    stride = schedule.T // steps
    return ddim(denoise, schedule, x_T, [*range(stride * (steps - 1) + 1, 0, -stride), 0])


def too_many_steps(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
    return ddim(denoise, schedule, x_T, [*range(schedule.T, 0, -(schedule.T // steps)), 0])


def two_calls_per_step(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
    return heun(denoise, schedule, x_T, step_times(schedule.T, steps))


def yields_start_of_step(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
    t = schedule.T
    for step in ddim(denoise, schedule, x_T, steps):
        yield step._replace(t=t)
        t = step.t


def modifies_x_T(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
    for step in ddim(denoise, schedule, x_T, steps):
        yield step._replace(x=x_T.copy_(step.x))


def starts_from_other_noise(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
    return sample(ddim(denoise, schedule, torch.randn_like(x_T), steps))


def shares_noise(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float) -> Steps:
    noise = lambda t, like: torch.randn(1, 1, 1, 1, dtype=like.dtype)  # noqa: E731
    return ddim(denoise, schedule, x_T, steps, eta=eta, generator=noise)  # type: ignore[arg-type]


def draws_unused_noise(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float) -> Steps:
    for step in ddim(denoise, schedule, x_T, steps, eta=eta, generator=lambda t, like: torch.randn_like(like)):  # type: ignore[arg-type]
        torch.rand(1)
        yield step


def passes_float_t(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
    return ddim(lambda x, t: denoise(x, t.float()), schedule, x_T, steps)


def raises(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Steps:
    raise RuntimeError("sizes\n  differ")


def lacks_parameters(denoise: Denoise, schedule: Schedule) -> Steps:
    raise AssertionError


def returns_nothing(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> None:
    sample(ddim(denoise, schedule, x_T, steps))


def never_ends(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> None:
    while True:
        denoise(x_T, torch.ones(len(x_T), dtype=torch.int64))


@pytest.mark.parametrize(
    ("sampler", "mistake"),
    [
        (without_noise, mistakes.NO_NOISE.name),
        (leading_timesteps, "the first network call is not at t = T"),
        (too_many_steps, "n steps do not make n network calls"),
        (yields_start_of_step, "the last step does not report t = 0"),
        (modifies_x_T, mistakes.IN_PLACE.name),
        (starts_from_other_noise, mistakes.OTHER_START.name),
        (shares_noise, mistakes.SHARED_NOISE.name),
        (passes_float_t, mistakes.FORM_OF_T.name),
        (raises, "RuntimeError: sizes differ"),
        (lacks_parameters, "the sampler cannot be called as sampler(denoise, schedule, x_T, steps, …)"),
        (returns_nothing, "not NoneType"),
        (never_ends, "the sampler called the network 2004 times for 10 steps"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_other_mistakes_of_a_sampler_are_described(sampler: Callable[..., Any], mistake: str) -> None:
    found = c.check_sampler(sampler).mistakes
    assert len(found) == 1
    assert mistake in found[0]


@pytest.mark.parametrize(
    ("sampler", "note"),
    [
        (with_float32_tables, mistakes.SINGLE_PRECISION.name),
        (draws_unused_noise, mistakes.NEEDLESS_NOISE.name),
        (two_calls_per_step, None),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_is_harmless_is_a_note(sampler: Callable[..., Any], note: str | None) -> None:
    report = c.check_sampler(sampler)
    report.raise_if_failed()
    assert report.notes == ([note] if note else [])
    assert report.mistakes == []


def test_state_kept_between_runs_is_found() -> None:
    images: list[Tensor] = []

    def with_memory(
        denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float, generator: Noise
    ) -> Steps:
        for step in ddim(denoise, schedule, x_T, steps, eta=eta, generator=generator):
            images.append(step.x[:1])
            yield step._replace(x=step.x + 1e-3 * images[-min(len(images), 12)])

    assert mistakes.HIDDEN_STATE.name in c.check_sampler(with_memory).mistakes


def test_two_mistakes_are_both_named() -> None:
    def two_mistakes(
        denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, *, eta: float, generator: Noise
    ) -> Steps:
        for step in mutants.ddim_sigma_as_direction(denoise, schedule, x_T, steps, eta=eta, generator=generator):
            grain = 0.1 * generator(1, like=step.x) if step.t == 0 and eta > 0 else 0.0
            yield step._replace(x=step.x + grain)

    both = {mistakes.SIGMA_AS_DIRECTION.name, mistakes.NOISE_ON_LAST_STEP.name}
    assert set(c.check_sampler(two_mistakes).mistakes) == both


# The report


def test_a_report_is_a_table_that_names_the_mistake_once() -> None:
    report = c.check_sampler(mutants.ddim_sigma_as_direction)
    lines = str(report).splitlines()
    good = sum(check.passed for check in report.checks)
    made = [check for check in report.checks if check.checked]
    assert lines[0] == f"ddim_sigma_as_direction: {good} of {len(made)} checks passed, 1 not checked"
    assert sum(line.startswith("✓") for line in lines) == good
    assert sum(line.startswith("✗") for line in lines) == len(made) - good >= 5
    assert sum(line.startswith("?") for line in lines) == 1
    assert str(report).count("Suspected mistake: a step multiplies the predicted noise ε̂ by σ") == 1
    assert str(report).count("Hint: ") == str(report).count("Suspected mistake") == 1
    assert "√(1−ᾱ_s−σ²)" in str(report)
    assert "Source: " in str(report)
    assert max(map(len, lines[: len(report.checks) + 2])) < 130
    with pytest.raises(AssertionError, match="a step multiplies the predicted noise ε̂ by σ"):
        report.raise_if_failed()


def test_columns_align_despite_combining_accents() -> None:
    rows = (c.Check("x̂₀", True, "1", "1"), c.Check("beta", False, "1", "2", "a mistake"))
    lines = str(c.Report("both", rows)).splitlines()
    assert lines[2] == "✓  x̂₀     1         1"
    assert lines[3] == "✗  beta   1         2"


def test_a_passed_report_names_no_mistake() -> None:
    report = c.check_guidance(guided)
    assert report.passed
    assert report.mistakes == []
    assert "Suspected" not in str(report)
    assert all(check.source and not check.mistake and not check.hint for check in report.checks)


def test_a_check_reports_nonsense_instead_of_raising() -> None:
    checks: tuple[Callable[[Any], c.Report], ...] = (
        c.check_forward, c.check_posterior, c.check_loss, c.check_ema, c.check_sampling_weights, c.check_label_dropout,
        c.check_guidance, c.check_step_times, c.check_sampler,
    )  # fmt: skip
    for check in checks:
        for nonsense in (lambda *args, **kwargs: None, lambda: None, lambda *args: "text"):
            report = check(nonsense)
            assert not report.passed
            assert report.mistakes
    assert not c.check_data(object()).passed
    assert not c.check_schedule("text").passed  # type: ignore[arg-type]


# The command


def test_the_command_recognises_the_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert conform.run("shapedreamer.diffusion.samplers:heun", order=2) == 0
    assert conform.run("shapedreamer.diffusion.schedule:cosine", expected="cosine") == 0
    assert conform.run("shapedreamer.diffusion.schedule:cosine", kind="schedule", expected="linear") == conform.FAILED
    for name in (
        "shapedreamer.diffusion.process:diffuse",
        "shapedreamer.diffusion.process:posterior",
        "shapedreamer.diffusion.schedule:step_times",
        "shapedreamer.diffusion.denoiser:guided",
        "shapedreamer.diffusion.loss:denoising_loss",
        "shapedreamer.training.ema:EMA",
    ):
        assert conform.run(name) == 0
    out = capsys.readouterr().out
    assert "heun: " in out
    assert "Suspected mistake: this is not the linear schedule" in out


def test_the_command_loads_a_file_and_names_its_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    for name, mistake in (
        ("ddim_wraps_silently", mistakes.WRAPAROUND),
        ("EMAOfEverything", mistakes.AVERAGED_TABLES),
        ("samples_raw", mistakes.EMA_NOT_USED),
        ("drop_with_if", mistakes.DROPPED_PER_BATCH),
    ):
        assert conform.run(f"{Path(mutants.__file__)}:{name}") == conform.FAILED
        assert f"Suspected mistake: {mistake.name}\n" in capsys.readouterr().out


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "neighbour.py").write_text("import torch\nimages = torch.linspace(-1, 1, 16).view(1, 1, 4, 4)\n")
    (tmp_path / "my_data.py").write_text("from neighbour import images\ntable = [1.0, 0.5, 0.1]\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    assert conform.run("my_data:images") == 0
    assert conform.run("my_data.py:images", kind="data") == 0
    assert conform.run("my_data:table", kind="schedule") == 0
    assert sys.path == path


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ("shapedreamer.diffusion.samplers", "auto", "MODULE:NAME"),
        ("no_such_module_here:ddim", "auto", "no module 'no_such_module_here'"),
        ("no_such_file.py:ddim", "auto", "no file no_such_file.py"),
        ("shapedreamer.diffusion.samplers:dimm", "auto", "has no 'dimm'; available: Step, ddpm, ddim, heun, dpmpp_2m"),
        ("broken.py:x", "auto", "broken.py cannot be imported: ZeroDivisionError"),
        ("math:pi", "auto", "cannot tell which check to run on a float"),
        ("math:pi", "sampler", "this is a float, but the check of kind sampler needs a function or class"),
        ("shapedreamer.common.noise:fold", "auto", "choose with `kind`: schedule, step_times"),
        ("shapedreamer.training.ema:EMA", "schedule", "does not make a schedule"),
    ],
)
def test_a_wrong_target_raises_a_one_line_error(
    target: str, kind: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        conform.run(target, kind)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="order applies to samplers only"):
        conform.run("shapedreamer.diffusion.process:diffuse", order=2)
    with pytest.raises(UserError, match="expected applies to schedules only"):
        conform.run("shapedreamer.diffusion.process:diffuse", expected="linear")


def test_the_command_offers_every_kind_and_imports_no_torch() -> None:
    kinds = conform.run.__annotations__["kind"].__args__
    assert kinds == ("auto", *c.Kind.__args__)  # type: ignore[attr-defined]
    code = "import sys, shapedreamer.cli.conform; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_help_says_what_each_kind_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, signature in c.SIGNATURES.items():
        assert f"{kind:16s}  {signature}\n" in str(conform.run.__doc__)
        assert f"| `{kind}` | `{signature}` |" in Path("README.md").read_text(encoding="utf-8")
        assert conform.run(stub=kind) == 0
        assert capsys.readouterr().out == c.stub(kind)


def test_exit_codes_separate_a_failed_check_from_code_that_could_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, code in (
        (["shapedreamer.diffusion.process:diffuse"], 0),
        ([f"{Path(mutants.__file__)}:diffuse_without_root"], 10),
        (["no_such_module_here:ddim"], 20),
        ([], 20),
        (["--stub", "loss", "shapedreamer.diffusion.process:diffuse"], 20),
    ):
        monkeypatch.setattr(sys, "argv", ["shapedreamer", "conform", *arguments])
        assert cli.main() == code
    assert "error: there is no module 'no_such_module_here'" in capsys.readouterr().err
