"""Distillation: why a student that samples x̂₀ needs few calls, the parts of its training, and whole runs."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from shapedreamer import cli
from shapedreamer.common.errors import UserError
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion import oracle
from shapedreamer.diffusion.process import diffuse, transition
from shapedreamer.diffusion.samplers import ddim, sample
from shapedreamer.diffusion.schedule import Schedule, cosine, cubic_times, linear
from shapedreamer.models.checkpoint import load_checkpoint, load_optimizers, read_config, read_metrics
from shapedreamer.models.model import load
from shapedreamer.models.recipes import FolderData, NoiseLevels, Recipe, Sampling, UNetConfig
from shapedreamer.training.distillation import (
    CALLS,
    Clip,
    DistributionMatching,
    add_more_noise,
    distill,
    r1_penalty,
    student_recipe,
    timestep_density,
)
from shapedreamer.training.loop import train
from tests.tiny import CONDITIONAL, TINY, TUNED

COSINE = cosine(100)
IMAGES = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]).view(3, 1, 1, 2)


def posterior_sampler(images: Tensor, schedule: Schedule, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser that samples p(x₀ | x_t), where x₀ is one of the images: what the student should learn."""
    generator = torch.Generator().manual_seed(seed)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        distance = (x_t[:, None] - alpha[:, None] * images).flatten(2).square().sum(2)
        posterior = (-distance / (2 * sigma.view(-1, 1) ** 2)).softmax(1)
        return images[torch.multinomial(posterior, 1, generator=generator)[:, 0]]

    return denoise


def fractions(samples: Tensor) -> list[float]:
    """For each of IMAGES, the fraction of the samples that equal it."""
    return [(samples == image).flatten(1).all(1).double().mean().item() for image in IMAGES]


# Why few calls can be enough


@pytest.mark.parametrize("calls", [1, 2, 4, 8])
def test_on_a_straight_path_one_call_is_as_good_as_many(calls: int) -> None:
    """If the data are a single image, x̂₀ is constant and the path is straight."""
    x_T = torch.randn(5, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    steps = list(ddim(oracle.finite_data(IMAGES[:1], COSINE), COSINE, x_T, calls))
    assert_close(steps[-1].x, IMAGES[:1].expand(5, -1, -1, -1))


def test_on_a_curved_path_one_call_ends_between_the_images() -> None:
    x_T = torch.randn(500, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    one, many = (sample(ddim(oracle.finite_data(IMAGES, COSINE), COSINE, x_T, calls)) for calls in (1, 100))
    assert_close(one.mean(0), IMAGES.mean(0), atol=0.05, rtol=0)
    assert one.std() < 0.6  # all samples are similar, and none is one of the images
    assert (many - one).abs().mean() > 0.3
    assert sum(fractions(many.round())) > 0.99


@pytest.mark.parametrize("calls", [1, 2, 4, 8])
def test_a_denoiser_that_samples_the_posterior_is_exact_with_any_number_of_calls(calls: int) -> None:
    N = 3000
    x_T = torch.randn(N, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    times = cubic_times(COSINE.T, calls)
    samples = sample(ddim(posterior_sampler(IMAGES, COSINE, 2), COSINE, x_T, times, eta=1.0, generator=Noise(3)))
    error = 4 * math.sqrt(1 / 3 * 2 / 3 / N)
    assert fractions(samples) == pytest.approx([1 / 3] * 3, abs=error)


# The parts of the training


@pytest.mark.parametrize("schedule", [cosine(1000), cosine(500), linear(1000), cosine(5)], ids=str)
def test_training_uses_only_the_timesteps_of_the_few_step_samplers(schedule: Schedule) -> None:
    density = timestep_density(schedule, 0.6)
    times = {t for calls in CALLS if calls <= schedule.T for t in cubic_times(schedule.T, calls)[:-1]}
    assert times <= set(density.nonzero().flatten().tolist())
    assert density[1:].count_nonzero() <= sum(CALLS)
    assert density[0] == 0
    assert density.sum() == pytest.approx(1)
    assert density[-1] == pytest.approx(0.6)


def test_a_terminal_share_of_1_trains_only_at_T() -> None:
    assert timestep_density(COSINE, 1.0).nonzero().tolist() == [[COSINE.T]]


def test_a_timestep_that_three_numbers_of_calls_share_is_trained_three_times_as_often() -> None:
    density = timestep_density(COSINE, 0.5)
    by_three, by_two, by_one = (cubic_times(COSINE.T, calls)[1] for calls in (2, 4, 8))  # of 2, 4 and 8; 4 and 8; 8
    assert_close(density[[by_three, by_two, by_one]] / density[by_one], density.new_tensor([3, 2, 1]))


@pytest.mark.parametrize("schedule", [COSINE, linear(1000)])
def test_adding_more_noise_follows_the_forward_process_to_the_next_timestep(schedule: Schedule) -> None:
    times = timestep_density(schedule, 0.5).nonzero()[:, 0]
    x0, eps, more = torch.randn(3, len(times), 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t = diffuse(x0, times, eps, schedule)
    x_u = add_more_noise(x_t, times, more, schedule, times)
    for i, (t, u) in enumerate(pairwise(times.tolist())):
        assert_close(x_u[i], transition(x_t[i], t, u, more[i], schedule))
    assert_close(x_u[-1], more[-1], rtol=0, atol=0)  # after T, x_u is pure noise


def test_more_noise_hides_that_the_prediction_is_a_function_of_x_t() -> None:
    """With images of one pixel, black or white equally often, the student's prediction from noise is its sign."""
    noise, more = torch.randn(2, 20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    prediction, T = noise.sign(), torch.full((20_000,), COSINE.T)
    correlation = (prediction * noise).mean().item()
    assert_close(correlation, math.sqrt(2 / math.pi), rtol=0, atol=0.03)  # E|ε|; with real images it would be 0
    x_u = add_more_noise(noise, T, more, COSINE, T[:1])
    assert_close((prediction * x_u).mean().item(), 0.0, rtol=0, atol=0.03)


def test_the_r1_penalty_is_the_squared_gradient_for_half_of_the_images_and_is_differentiable() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)

    def critic(x: Tensor, x_t: Tensor, label: Tensor | None) -> Tensor:
        assert len(x) == len(x_t) == 2
        assert label is not None
        assert len(label) == 2
        return (x.flatten(1) * weight).sum(1, keepdim=True).expand(-1, 2)  # two scores for each image, to be summed

    x = torch.randn(4, 1, 1, 2)
    value = r1_penalty(critic, x, x, torch.ones(4, 1))
    assert_close(value, torch.tensor(4 * 25.0))
    value.backward()
    assert_close(weight.grad, 8 * weight.detach())


def test_the_gradient_of_clip_pulls_values_back_inside_and_pushes_none_further_out() -> None:
    x0 = torch.tensor([-1.5, -1.5, -1.0, -1.0, 0.3, 0.3, 1.0, 1.0, 1.5, 1.5], requires_grad=True)
    gradient = torch.tensor([1.0, -1.0] * 5)  # descent decreases and increases the values in turn
    clipped = Clip.apply(x0, -1.0, 1.0)
    assert torch.equal(clipped, x0.detach().clamp(-1, 1))
    clipped.backward(gradient)
    assert x0.grad is not None
    assert x0.grad.tolist() == [0, -1, 1, -1, 1, -1, 1, -1, 1, 0]


def test_with_clipping_black_is_learnt_exactly_and_without_it_becomes_grey() -> None:
    """Learn the shift of a prediction that equals black plus a little noise."""
    noise = 0.1 * torch.randn(1000, generator=torch.Generator().manual_seed(0))

    def grey_fraction(clip: Callable[[Tensor], Tensor]) -> float:
        shift = torch.zeros((), requires_grad=True)
        for _ in range(300):
            (gradient,) = torch.autograd.grad((clip(shift - 1 + noise) + 1).square().mean(), shift)
            shift = (shift - 0.5 * gradient).detach().requires_grad_()
        return ((shift - 1 + noise).clamp(-1, 1) > -0.99).double().mean().item()

    assert grey_fraction(lambda x0: x0) > 0.4
    assert grey_fraction(lambda x0: Clip.apply(x0, -1.0, 1.0)) < 0.02


def distribution_matching(teacher: Path) -> DistributionMatching:
    checkpoint = load_checkpoint(teacher / "checkpoints/best.safetensors")
    recipe = replace(student_recipe(checkpoint.config.recipe, "abc", 4), dmd_weight=1.0)
    return DistributionMatching(recipe, checkpoint, torch.device("cpu"))


def test_the_dmd_gradient_is_0_while_the_fake_denoiser_equals_the_teacher(teacher: Path) -> None:
    matching = distribution_matching(teacher)
    y = load(teacher).sample(8, seed=1)
    label = torch.zeros(8, matching.recipe.network.context)
    assert torch.equal(matching.dmd_gradient(y, label, 0), torch.zeros_like(y))
    assert not torch.equal(matching.dmd_gradient(y, label, 1), torch.zeros_like(y))


@pytest.mark.slow
def test_the_dmd_gradient_leads_away_from_images_that_the_student_generates_too_often(teacher: Path) -> None:
    matching = distribution_matching(teacher)
    white = torch.ones(16, *load(teacher).sample(1).shape[1:])
    label = torch.zeros(16, matching.recipe.network.context)
    for group in matching.optimizer.param_groups:
        group["lr"] = 0.01
    before = {key: value.clone() for key, value in matching.teacher.state_dict().items()}
    for step in range(60):
        gradient = matching.dmd_gradient(white, label, step)
    assert (gradient > 0).double().mean() > 0.9  # the fake denoiser expects white, and descent makes y darker
    assert all(torch.equal(before[key], value) for key, value in matching.teacher.state_dict().items())
    assert gradient.isfinite().all()


def test_the_student_keeps_the_teachers_data_network_and_process() -> None:
    recipe = student_recipe(replace(CONDITIONAL, start="def"), "abc", 2)
    assert (recipe.teacher, recipe.start) == ("abc", None)
    for field in ("data", "network", "schedule", "timesteps", "prediction", "labels"):
        assert getattr(recipe, field) == getattr(CONDITIONAL, field)
    assert recipe.sampling == Sampling("ddim", 2, 1.0, "cubic")
    assert recipe.teacher == "abc"


@pytest.mark.parametrize(
    ("teacher", "steps", "message"),
    [
        (TINY, 4, "eps-prediction"),
        (replace(TUNED, teacher="abc"), 4, "few-step model already"),
        (TUNED, 3, "one of 1, 2, 4, 8, not 3"),
        (TUNED, 0, "one of 1, 2, 4, 8, not 0"),
    ],
)
def test_unsuitable_teachers_and_steps_are_rejected(teacher: Recipe, steps: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        student_recipe(teacher, "abc", steps)


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_invalid_dmd_weights_are_rejected(weight: float) -> None:
    with pytest.raises(UserError, match=r"dmd_weight must be (at least 0|between 0 and)"):
        replace(TUNED, dmd_weight=weight)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
def test_invalid_terminal_shares_are_rejected(share: float) -> None:
    with pytest.raises(UserError, match="terminal_share must be above 0 and at most 1"):
        replace(TUNED, terminal_share=share)


# Whole runs


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a trained model."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(CONDITIONAL, out, sample_every=0, save_every=0)
    return out


@pytest.fixture(scope="module")
def uninterrupted(teacher: Path) -> Path:
    """A distillation run that was never stopped."""
    distill(teacher, teacher.with_name("turbo"), epochs=4, sample_every=2)
    return teacher.with_name("turbo")


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averaged weights, optimizers, critic and metrics are equal, bit for bit."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    one, two = (load_checkpoint(run / "checkpoints" / "latest.safetensors") for run in (a, b))
    assert (one.step, one.config) == (two.step, two.config)
    assert all(torch.equal(one.network[key], two.network[key]) for key in one.network)
    assert all(torch.equal(one.ema[key], two.ema[key]) for key in one.ema)
    assert one.optimizer_digest == two.optimizer_digest


def test_a_distillation_run_has_the_usual_files(teacher: Path, uninterrupted: Path) -> None:
    model = load(uninterrupted)
    assert model.sampling == Sampling("ddim", 4, 1.0, "cubic")
    assert_close(model.sample(2, seed=3), model.sample(2, sampler="ddim", steps=4, eta=1.0, seed=3))
    assert_close(model.labels, load(teacher).labels)
    assert sorted(p.name for p in (uninterrupted / "samples").iterdir()) == ["epoch-0002.png", "epoch-0004.png"]
    losses = [r["loss"] for r in read_metrics(uninterrupted)]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)  # the critic starts at chance
    assert len(list((uninterrupted / "checkpoints").iterdir())) == 2


def test_the_student_starts_as_a_copy_of_the_teacher(teacher: Path, tmp_path: Path) -> None:
    distill(teacher, tmp_path / "run", lr=3e-4, epochs=1, max_minutes=0)
    after_one_step = load_checkpoint(tmp_path / "run/checkpoints/latest.safetensors").network
    weights = load_checkpoint(teacher / "checkpoints/best.safetensors").ema
    change = max((after_one_step[key] - weights[key]).abs().max().item() for key in weights)
    assert change == pytest.approx(3e-4, rel=1e-3)  # one step of AdamW


def test_a_resumed_run_equals_an_uninterrupted_one(teacher: Path, uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(teacher, out, epochs=4, sample_every=2, max_minutes=0)
    for _ in range(2):
        distill(teacher, out, epochs=4, sample_every=2, max_minutes=0, resume=True)
    assert load_checkpoint(out / "checkpoints/latest.safetensors").step == 3
    distill(teacher, out, epochs=4, sample_every=2, resume=True)
    assert_same_run(out, uninterrupted)


@pytest.mark.slow
def test_a_resumed_run_with_distribution_matching_equals_an_uninterrupted_one(teacher: Path, tmp_path: Path) -> None:
    uninterrupted, resumed = tmp_path / "uninterrupted", tmp_path / "resumed"
    distill(teacher, uninterrupted, epochs=2, sample_every=0, dmd_weight=1.0)
    distill(teacher, resumed, epochs=2, sample_every=0, dmd_weight=1.0, max_minutes=0)
    with pytest.raises(UserError, match=r"was started with dmd_weight = 1\.0, not 0\.0"):
        distill(teacher, resumed, epochs=2, sample_every=0, resume=True)
    distill(teacher, resumed, epochs=2, sample_every=0, dmd_weight=1.0, resume=True)
    assert_same_run(resumed, uninterrupted)
    latest = load_checkpoint(uninterrupted / "checkpoints/latest.safetensors")
    assert len(load_optimizers(uninterrupted / "checkpoints", latest)) == 5
    without = distill(teacher, tmp_path / "without", epochs=2, sample_every=0)
    assert not torch.equal(without.sample(1), load(uninterrupted).sample(1))


def test_a_run_with_the_old_keys_match_and_pure_can_be_resumed(
    teacher: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    config = (out / "config.json").read_text(encoding="utf-8")
    old = config.replace('"dmd_weight"', '"match"').replace('"terminal_share"', '"pure"')
    (out / "config.json").write_text(old, encoding="utf-8")
    distill(teacher, out, epochs=4, sample_every=2, resume=True)
    assert (out / "config.json").read_text(encoding="utf-8") == config != old
    assert_same_run(out, uninterrupted)


def test_another_seed_gives_another_run(teacher: Path, uninterrupted: Path, tmp_path: Path) -> None:
    distill(teacher, tmp_path / "run", epochs=4, sample_every=0, seed=1)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() != (uninterrupted / "metrics.jsonl").read_bytes()


def test_errors_say_why_a_run_cannot_be_started_or_resumed(teacher: Path, uninterrupted: Path, tmp_path: Path) -> None:
    train(replace(CONDITIONAL, seed=9), tmp_path / "other", sample_every=0, save_every=0)
    with pytest.raises(UserError, match="was started with teacher = "):
        distill(tmp_path / "other", uninterrupted, epochs=4, resume=True)
    with pytest.raises(UserError, match="already holds a run"):
        distill(teacher, uninterrupted, epochs=4)
    with pytest.raises(UserError, match="this is a few-step model already"):
        distill(uninterrupted, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_train_does_not_resume_a_distillation_run(uninterrupted: Path) -> None:
    with pytest.raises(UserError, match="make it with `shapedreamer distill`"):
        train(read_config(uninterrupted).recipe, uninterrupted, resume=True)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shapedreamer.training.distillation.RECON_WEIGHT", math.inf)
    with pytest.raises(UserError, match=r"no longer finite at step 1\."):
        distill(teacher, tmp_path / "run", epochs=1)
    kept = load_checkpoint(tmp_path / "run/checkpoints/latest.safetensors")
    assert kept.step == 0
    assert all(torch.isfinite(value).all() for value in kept.network.values())
    assert len(load_optimizers(tmp_path / "run/checkpoints", kept)) == 3


def test_the_command_passes_its_options_on_and_reports_the_run(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--epochs 1 --steps 2 --terminal-share 0.25 --lr 2e-4"
    monkeypatch.setattr("sys.argv", ["shapedreamer", "distill", str(teacher), *options.split()])
    assert cli.main() == 0
    assert "finished 2 steps; the run is in runs/tiny-turbo" in capsys.readouterr().err.replace("\\", "/")
    assert load("runs/tiny-turbo").sampling.steps == 2
    recipe = read_config(Path("runs/tiny-turbo")).recipe
    assert (recipe.terminal_share, recipe.lr) == (0.25, 2e-4)


@pytest.mark.slow
def test_in_one_call_the_student_generates_images_where_the_teacher_predicts_the_mean(tmp_path: Path) -> None:
    left = np.zeros((16, 16), np.uint8)
    left[4:12, 1:8] = 255
    right = left[:, ::-1]
    (tmp_path / "two").mkdir()
    for i in range(32):
        Image.fromarray(left if i % 2 else right).save(tmp_path / f"two/{i}.png")
    recipe = Recipe(
        name="two",
        data=FolderData(str(tmp_path / "two")),
        network=UNetConfig(channels=(16, 32), groups=8, head_dim=16, attention=(1,), patch=4),
        schedule="cosine",
        timesteps=50,
        prediction="x0",
        noise_levels=NoiseLevels(-2, 1.8, 0.25),
        epochs=60,
        batch_size=16,
        optimizer="muon",
        lr=2e-3,
        lr_decay=True,
        ema_decay=0.95,
    )
    both = torch.from_numpy(np.stack([left, right]) / 127.5 - 1).float()[:, None, None]
    before = train(recipe, tmp_path / "teacher", sample_every=0, save_every=0).sample(64, steps=1)
    after = distill(tmp_path / "teacher", tmp_path / "turbo", epochs=130, sample_every=0).sample(64, steps=1)
    errors = [(both - images).abs().flatten(2).mean(2).amin(0).mean().item() for images in (before, after)]
    assert errors[1] < errors[0] / 3
    is_left = (after - both[0]).abs().flatten(1).mean(1) < (after - both[1]).abs().flatten(1).mean(1)
    assert 0.15 < is_left.double().mean() < 0.85
