"""Nothing wrong passes and nothing right is refused: samplers of every kind, and a search for more of each kind."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from shapedreamer import conformance as c
from shapedreamer.conformance import mistakes
from shapedreamer.conformance.mistakes import Mistake
from shapedreamer.diffusion.schedule import Schedule, linear, step_times
from tests.conformance import kinds_of_samplers as kinds

few = settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", kinds.RIGHT)
def test_a_right_sampler_passes(name: str) -> None:
    sampler, notes = kinds.RIGHT[name]
    report = c.check_sampler(sampler)
    report.raise_if_failed()
    assert report.notes == [note.name for note in notes]


def _marked(names: Iterable[str]) -> list[ParameterSet]:
    """The names as parameters; those whose check makes thousands of steps are slow."""
    long = ("Euler–Maruyama", "DDPM over all T")
    return [pytest.param(n, marks=[pytest.mark.slow] * any(word in n for word in long)) for n in names]


@pytest.mark.parametrize("name", _marked(kinds.WRONG))
def test_the_mistake_of_a_wrong_sampler_is_named(name: str) -> None:
    sampler, mistake = kinds.WRONG[name]
    report = c.check_sampler(sampler)
    assert report.failed
    assert not report.passed
    assert len(report.mistakes) == 1
    assert (mistake.name if isinstance(mistake, Mistake) else mistake) in report.mistakes[0]


# A search for more of each kind


@pytest.mark.slow
@few
@given(st.floats(0.05, 1.5).filter(lambda factor: abs(factor - 1) > 1e-3))
def test_any_factor_of_the_predicted_noise_but_1_fails(factor: float) -> None:
    report = c.check_sampler(kinds.ddim_with(factor=factor))
    assert report.mistakes == [mistakes.WRONG_DIRECTION.name]


@pytest.mark.slow
@few
@given(st.floats(0.0, 1.0))
def test_any_amount_of_fresh_noise_is_right_if_the_rest_fits(share: float) -> None:
    c.check_sampler(kinds.stochastic(share)).raise_if_failed()


@pytest.mark.slow
@few
@given(st.sampled_from(["amax", "mean", "std", "median", "norm"]), st.floats(0.1, 2.0))
def test_any_statistic_of_the_batch_is_found(statistic: str, strength: float) -> None:
    def mix(x0: Tensor) -> Tensor:
        return x0 * (1 + strength * getattr(x0.abs(), statistic)())

    assert c.check_sampler(kinds.ddim_with(mix)).mistakes == [mistakes.MIXED_IMAGES.name]


@few
@given(st.floats(0.001, 0.5))
def test_any_last_sigma_above_0_is_found(last: float) -> None:
    assert c.check_sampler(kinds.in_sigma_form(last=last)).mistakes == [mistakes.LAST_SIGMA.name]


@few
@given(st.floats(0.3, 2.0))
def test_x_t_clamped_to_any_range_is_found(bound: float) -> None:
    report = c.check_sampler(kinds.ddim_with(change_x=lambda x: x.clamp(-bound, bound)))
    assert report.mistakes == [mistakes.CLAMPED_X.name]


@few
@given(st.floats(-2.0, 2.0).filter(lambda weight: abs(weight - 0.5) > 0.01 and abs(weight) > 0.01))
def test_2m_with_a_wrong_weight_is_named(weight: float) -> None:
    report = c.check_sampler(kinds.multistep(lambda h, before: weight * h / before))  # at weight 0 it is DDIM
    assert report.mistakes == [mistakes.WRONG_WEIGHT.name]


@pytest.mark.slow
@few
@given(st.floats(0.0, 3.0).filter(lambda scale: abs(scale - 1) > 0.01), st.booleans())
def test_noise_of_any_other_size_fails(scale: float, multistep: bool) -> None:
    sampler = kinds.multistep(eta=1.0, noise_scale=scale) if multistep else kinds.stochastic(scale=scale)
    assert (multistep and abs(scale - 1) < 0.1) or not c.check_sampler(sampler).passed


@pytest.mark.slow
@few
@given(st.sampled_from(["drift", "score", "noise"]), st.floats(0.5, 1.5).filter(lambda factor: abs(factor - 1) > 0.03))
def test_euler_maruyama_with_any_wrong_factor_fails(name: str, factor: float) -> None:
    factors: dict[str, Any] = {"drift": 0.5, "score": 1.0, "noise": 1.0}
    factors[name] *= factor
    report = c.check_sampler(kinds.euler(kinds.beta_integrated, **factors))
    assert report.mistakes == ["a step has the wrong coefficients"]


# What was not checked does not pass


def test_a_report_without_a_required_check_is_incomplete() -> None:
    row = c.Check("coefficients", False, "", "not checked", required=True, checked=False)
    report = c.Report("sampler", (c.Check("one", True, "1", "1"), row))
    assert not report.passed
    assert not report.failed
    assert "1 of 1 checks passed, 1 not checked" in str(report)
    assert not c.Report("nothing", ()).passed
    optional = c.Check("coefficients", False, "", "not checked", required=False, checked=False)
    assert c.Report("sampler", (c.Check("one", True, "1", "1"), optional)).passed


def test_a_sampler_that_raises_is_shown_as_not_checked() -> None:
    def raises(denoise: Any, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        raise RuntimeError("sizes differ")

    report = c.check_sampler(raises)
    assert report.failed
    assert sum(not check.checked for check in report.checks) >= 5


# Other functions


def test_the_reduction_and_the_gradient_of_a_loss_are_checked() -> None:
    def squared(network: Any, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
        a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        return (network(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps).square()

    def right(network: Any, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: str) -> Tensor:
        return squared(network, x0, t, eps, schedule).flatten(1).mean(1)

    def summed(network: Any, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: str) -> Tensor:
        return squared(network, x0, t, eps, schedule).flatten(1).sum(1)

    def averaged(network: Any, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: str) -> Tensor:
        return squared(network, x0, t, eps, schedule).mean().expand(len(x0))

    def detached(network: Any, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: str) -> Tensor:
        return right(lambda x, t: network(x, t).detach(), x0, t, eps, schedule, prediction)

    def without_graph(network: Any, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: str) -> Tensor:
        with torch.no_grad():
            return right(network, x0, t, eps, schedule, prediction)

    def reordered(network: Any, x0: Tensor, eps: Tensor, t: Tensor, schedule: Schedule, prediction: str) -> Tensor:
        return right(network, x0, t, eps, schedule, prediction)

    c.check_loss(right).raise_if_failed()
    for loss, mistake in (
        (summed, mistakes.SUMMED_PIXELS),
        (averaged, mistakes.AVERAGED_BATCH),
        (detached, mistakes.DETACHED),
        (without_graph, mistakes.DETACHED),
        (reordered, mistakes.ARGUMENT_ORDER),
    ):
        report = c.check_loss(loss)
        assert not report.passed
        assert report.mistakes == [mistake.name], loss


@few
@given(st.integers(2, 15), st.integers(0, 14))
def test_an_ema_that_skips_updates_is_found(every: int, offset: int) -> None:
    from shapedreamer.training.ema import EMA

    class Sparse(EMA):
        calls = offset

        def update(self, network: torch.nn.Module, n: int) -> None:
            self.calls += 1
            if self.calls % every == 0:
                super().update(network, n)

    class ByStep(EMA):
        def update(self, network: torch.nn.Module, n: int) -> None:
            if n % every == 0:
                super().update(network, n)

    for ema in (Sparse, ByStep):
        report = c.check_ema(ema)
        assert not report.passed
        assert mistakes.EMA_SKIPS_UPDATES.name in report.mistakes


def test_a_schedule_of_one_timestep_less_is_found() -> None:
    def short(T: int) -> Schedule:
        return linear(T - 1)

    assert c.check(short, "schedule").mistakes == [mistakes.TABLE_TOO_SHORT.name]
    assert c.check(linear, "schedule").passed
    assert c.check_schedule(linear(999)).notes == [mistakes.TABLE_TOO_SHORT.name]


def test_rescaled_guidance_is_named() -> None:
    def guide(rescale: str) -> Any:
        def guided(conditional: Any, unconditional: Any, scale: float) -> Any:
            def denoise(x: Tensor, t: Tensor) -> Tensor:
                cond, uncond = conditional(x, t), unconditional(x, t)
                out = uncond + scale * (cond - uncond)
                if rescale == "batch":
                    factor = cond.std() / out.std()
                else:
                    factor = cond.std((1, 2, 3), keepdim=True) / out.std((1, 2, 3), keepdim=True)
                return 0.7 * factor * out + 0.3 * out if rescale == "partly" else factor * out

            return denoise

        return guided

    for rescale in ("batch", "image", "partly"):
        assert c.check_guidance(guide(rescale)).mistakes == [mistakes.GUIDANCE_RESCALED.name]


def test_beta_in_the_place_of_alpha_bar_is_named_in_the_forward_process() -> None:
    def noised(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
        beta = schedule.beta[t].view(-1, 1, 1, 1)
        return (1 - beta).sqrt() * x0 + beta.sqrt() * eps

    assert c.check_forward(noised).mistakes == [mistakes.BETA_FOR_ALPHA_BAR.name]


def test_step_times_repeat_no_timestep() -> None:
    assert all(len(set(step_times(1000, n))) == n + 1 for n in (999, 500, 53))
    assert math.isclose(linear().alpha_bar[1].item(), 1 - 1e-4)


# Stubs


@pytest.mark.parametrize("kind", c.SIGNATURES)
def test_every_stub_passes_its_check(kind: Any) -> None:
    source = c.stub(kind)
    name = source.splitlines()[0].split(":")[2].split()[0]
    namespace: dict[str, Any] = {}
    exec(source, namespace)  # our own text
    thing = namespace[name]
    assert c.kind_of(thing) == kind or kind in ("schedule", "sampling_weights")
    c.check(thing, kind).raise_if_failed()
