"""Distilling: why one drawn answer does what many mean ones do, and a run that learns it, stops and goes on."""

import math
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
from shapedreamer.training.distillation import CALLS, Clip, Matching, distill, few_steps, few_times, noised_on, slope
from shapedreamer.training.loop import train
from tests.tiny import FALLING, TINY, TOLD

COSINE = cosine(100)
IMAGES = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]]).view(3, 1, 1, 2)


def drawn_from(images: Tensor, schedule: Schedule, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A denoiser that draws from p(x₀ | x_t), where x₀ is one of the images: what is to be learnt, exactly."""
    generator = torch.Generator().manual_seed(seed)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        away = (x_t[:, None] - alpha[:, None] * images).flatten(2).square().sum(2)
        chances = (-away / (2 * sigma.view(-1, 1) ** 2)).softmax(1)
        return images[torch.multinomial(chances, 1, generator=generator)[:, 0]]

    return denoise


def shares(samples: Tensor) -> list[float]:
    """Of the samples that are each of the images exactly."""
    return [(samples == image).flatten(1).all(1).double().mean().item() for image in IMAGES]


# Why


@pytest.mark.parametrize("calls", [1, 2, 4, 8])
def test_where_the_path_is_straight_one_call_is_as_good_as_many(calls: int) -> None:
    """x̂₀ never changes where the data are one image."""
    x_T = torch.randn(5, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    steps = list(ddim(oracle.finite_data(IMAGES[:1], COSINE), COSINE, x_T, calls))
    assert_close(steps[-1].x, IMAGES[:1].expand(5, -1, -1, -1))


def test_where_it_is_bent_one_call_ends_between_the_images() -> None:
    x_T = torch.randn(500, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    one, many = (sample(ddim(oracle.finite_data(IMAGES, COSINE), COSINE, x_T, calls)) for calls in (1, 100))
    assert_close(one.mean(0), IMAGES.mean(0), atol=0.05, rtol=0)
    assert one.std() < 0.6  # much the same for all, and none of the images
    assert (many - one).abs().mean() > 0.3
    assert sum(shares(many.round())) > 0.99


@pytest.mark.parametrize("calls", [1, 2, 4, 8])
def test_who_draws_instead_is_right_in_any_number_of_calls(calls: int) -> None:
    N = 3000
    x_T = torch.randn(N, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    times = cubic_times(COSINE.T, calls)
    samples = sample(ddim(drawn_from(IMAGES, COSINE, 2), COSINE, x_T, times, eta=1.0, generator=Noise(3)))
    error = 4 * math.sqrt(1 / 3 * 2 / 3 / N)
    assert shares(samples) == pytest.approx([1 / 3] * 3, abs=error)


# What it trains on


@pytest.mark.parametrize("schedule", [cosine(1000), cosine(500), linear(1000), cosine(5)], ids=str)
def test_it_trains_on_the_times_that_few_calls_ask_for_and_on_no_other(schedule: Schedule) -> None:
    density = few_times(schedule, 0.6)
    asked = {t for calls in CALLS if calls <= schedule.T for t in cubic_times(schedule.T, calls)[:-1]}
    assert asked <= set(density.nonzero().flatten().tolist())
    assert density[1:].count_nonzero() <= sum(CALLS)
    assert density[0] == 0
    assert density.sum() == pytest.approx(1)
    assert density[-1] == pytest.approx(0.6)


def test_it_may_train_at_T_alone() -> None:
    assert few_times(COSINE, 1.0).nonzero().tolist() == [[COSINE.T]]


def test_a_time_that_three_of_the_samplers_ask_at_is_trained_on_three_times_as_often() -> None:
    density = few_times(COSINE, 0.5)
    halves, quarters, eighths = (cubic_times(COSINE.T, calls)[1] for calls in (2, 4, 8))  # asked by 2, 4, 8; 4, 8; 8
    assert_close(density[[halves, quarters, eighths]] / density[eighths], density.new_tensor([3, 2, 1]))


@pytest.mark.parametrize("schedule", [COSINE, linear(1000)])
def test_noised_on_it_is_what_the_next_time_makes_of_the_image(schedule: Schedule) -> None:
    times = few_times(schedule, 0.5).nonzero()[:, 0]
    x0, eps, more = torch.randn(3, len(times), 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t = diffuse(x0, times, eps, schedule)
    x_u = noised_on(x_t, times, more, schedule, times)
    for i, (t, u) in enumerate(pairwise(times.tolist())):
        assert_close(x_u[i], transition(x_t[i], t, u, more[i], schedule))
    assert_close(x_u[-1], more[-1], rtol=0, atol=0)  # after T nothing is left


def test_the_critic_cannot_tell_an_answer_by_the_noise_that_it_is_a_function_of() -> None:
    """Images are one pixel, black or white, and the answer to noise is its sign, which is as often either."""
    noise, more = torch.randn(2, 20_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    answer, T = noise.sign(), torch.full((20_000,), COSINE.T)
    assert_close((answer * noise).mean().item(), math.sqrt(2 / math.pi), rtol=0, atol=0.03)  # E|ε|, 0 for real images
    assert_close((answer * noised_on(noise, T, more, COSINE, T[:1])).mean().item(), 0.0, rtol=0, atol=0.03)


def test_slope_is_the_squared_gradient_of_half_the_images_and_can_be_descended() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)

    def critic(x: Tensor, x_t: Tensor, label: Tensor | None) -> Tensor:
        assert len(x) == len(x_t) == 2
        assert label is not None
        assert len(label) == 2
        return (x.flatten(1) * weight).sum(1, keepdim=True).expand(-1, 2)  # two scores, which are summed

    x = torch.randn(4, 1, 1, 2)
    value = slope(critic, x, x, torch.ones(4, 1))
    assert_close(value, torch.tensor(4 * 25.0))
    value.backward()
    assert_close(weight.grad, 8 * weight.detach())


def test_what_is_clipped_can_come_back_and_goes_no_farther_out() -> None:
    x0 = torch.tensor([-1.5, -1.5, -1.0, -1.0, 0.3, 0.3, 1.0, 1.0, 1.5, 1.5], requires_grad=True)
    gradient = torch.tensor([1.0, -1.0] * 5)  # by turns to descend towards less, and towards more
    shown = Clip.apply(x0, -1.0, 1.0)
    assert torch.equal(shown, x0.detach().clamp(-1, 1))
    shown.backward(gradient)
    assert x0.grad is not None
    assert x0.grad.tolist() == [0, -1, 1, -1, 1, -1, 1, -1, 1, 0]


def test_black_is_learnt_exactly_where_the_answer_is_clipped_and_greyish_where_it_is_not() -> None:
    """An answer that is right but for a little noise: what it is shifted by is learnt."""
    noise = 0.1 * torch.randn(1000, generator=torch.Generator().manual_seed(0))

    def grey(clip: Callable[[Tensor], Tensor]) -> float:
        shift = torch.zeros((), requires_grad=True)
        for _ in range(300):
            (gradient,) = torch.autograd.grad((clip(shift - 1 + noise) + 1).square().mean(), shift)
            shift = (shift - 0.5 * gradient).detach().requires_grad_()
        return ((shift - 1 + noise).clamp(-1, 1) > -0.99).double().mean().item()

    assert grey(lambda x0: x0) > 0.4
    assert grey(lambda x0: Clip.apply(x0, -1.0, 1.0)) < 0.02


def matching(teacher: Path) -> Matching:
    checkpoint = load_checkpoint(teacher / "checkpoints/best.safetensors")
    recipe = replace(few_steps(checkpoint.config.recipe, "abc", 4), match=1.0)
    return Matching(recipe, checkpoint, torch.device("cpu"))


def test_where_own_pictures_are_as_common_as_the_teachers_nothing_is_to_be_moved(teacher: Path) -> None:
    found = matching(teacher)
    y = load(teacher).sample(8, seed=1)
    label = torch.zeros(8, found.recipe.network.context)
    assert torch.equal(found.away(y, label, 0), torch.zeros_like(y))  # own is still the teacher
    assert not torch.equal(found.away(y, label, 1), torch.zeros_like(y))


def test_what_is_drawn_too_often_is_moved_to_what_the_teacher_would_see(teacher: Path) -> None:
    found = matching(teacher)
    white, label = torch.ones(16, *load(teacher).sample(1).shape[1:]), torch.zeros(16, found.recipe.network.context)
    for group in found.optimizer.param_groups:
        group["lr"] = 0.01
    before = {key: value.clone() for key, value in found.teacher.state_dict().items()}
    for step in range(60):
        towards = found.away(white, label, step)
    assert (towards > 0).double().mean() > 0.9  # own has learnt that all is white, and to descend is to be less so
    assert all(torch.equal(before[key], value) for key, value in found.teacher.state_dict().items())
    assert towards.isfinite().all()


def test_the_recipe_is_the_teachers_but_for_how_it_is_learnt_and_sampled() -> None:
    recipe = few_steps(TOLD, "abc", 2)
    assert (recipe.data, recipe.network, recipe.schedule, recipe.timesteps, recipe.prediction, recipe.labels) == (
        (TOLD.data, TOLD.network, TOLD.schedule, TOLD.timesteps, TOLD.prediction, TOLD.labels)
    )
    assert recipe.sampling == Sampling("ddim", 2, 1.0, "cubic")
    assert recipe.teacher == "abc"


@pytest.mark.parametrize(
    ("teacher", "steps", "message"),
    [
        (TINY, 4, "predicts eps"),
        (replace(FALLING, teacher="abc"), 4, "few steps already"),
        (FALLING, 3, "one of 1, 2, 4, 8, not 3"),
        (FALLING, 0, "one of 1, 2, 4, 8, not 0"),
    ],
)
def test_what_cannot_be_distilled_is_refused(teacher: Recipe, steps: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        few_steps(teacher, "abc", steps)


@pytest.mark.parametrize("match", [-1.0, math.inf, math.nan])
def test_a_weight_is_a_number_from_0_on(match: float) -> None:
    with pytest.raises(UserError, match="match must be at least 0"):
        replace(FALLING, match=match)


@pytest.mark.parametrize("pure", [0.0, -0.1, 1.1, math.nan])
def test_a_share_is_above_0_and_at_most_1(pure: float) -> None:
    with pytest.raises(UserError, match="pure must be above 0 and at most 1"):
        replace(FALLING, pure=pure)


# A run


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(TOLD, out, sample_every=0, save_every=0)
    return out


@pytest.fixture(scope="module")
def unbroken(teacher: Path) -> Path:
    distill(teacher, teacher.with_name("turbo"), epochs=4, sample_every=2)
    return teacher.with_name("turbo")


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, averaged weights, optimizers, critic and metrics, all to the last bit."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    one, two = (load_checkpoint(run / "checkpoints" / "latest.safetensors") for run in (a, b))
    assert (one.step, one.config) == (two.step, two.config)
    assert all(torch.equal(one.network[key], two.network[key]) for key in one.network)
    assert all(torch.equal(one.ema[key], two.ema[key]) for key in one.ema)
    assert one.optimizer_digest == two.optimizer_digest


def test_it_is_a_run_like_any_other(teacher: Path, unbroken: Path) -> None:
    model = load(unbroken)
    assert model.sampling == Sampling("ddim", 4, 1.0, "cubic")
    assert_close(model.sample(2, seed=3), model.sample(2, "ddim", 4, 1.0, seed=3))
    assert_close(model.labels, load(teacher).labels)
    assert sorted(p.name for p in (unbroken / "samples").iterdir()) == ["epoch-0002.png", "epoch-0004.png"]
    losses = [r["loss"] for r in read_metrics(unbroken)]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(math.log(2), abs=0.1)  # a critic that cannot tell yet
    assert len(list((unbroken / "checkpoints").iterdir())) == 2


def test_it_begins_as_the_teacher(teacher: Path, tmp_path: Path) -> None:
    distill(teacher, tmp_path / "run", lr=3e-4, epochs=1, max_minutes=0)
    begun = load_checkpoint(tmp_path / "run/checkpoints/latest.safetensors")
    taught = load_checkpoint(teacher / "checkpoints/best.safetensors").ema
    moved = max((begun.network[key] - taught[key]).abs().max().item() for key in taught)
    assert moved == pytest.approx(3e-4, rel=1e-3)  # one step of AdamW


def test_resumed_it_is_the_run_that_was_never_stopped(teacher: Path, unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(teacher, out, epochs=4, sample_every=2, max_minutes=0)
    for _ in range(2):
        distill(teacher, out, epochs=4, sample_every=2, max_minutes=0, resume=True)
    assert load_checkpoint(out / "checkpoints/latest.safetensors").step == 3
    distill(teacher, out, epochs=4, sample_every=2, resume=True)
    assert_same_run(out, unbroken)


def test_so_it_is_where_the_teachers_pictures_are_matched(teacher: Path, unbroken: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    distill(teacher, whole, epochs=2, sample_every=0, match=1.0)
    distill(teacher, parts, epochs=2, sample_every=0, match=1.0, max_minutes=0)
    with pytest.raises(UserError, match="match = 1"):
        distill(teacher, parts, epochs=2, sample_every=0, resume=True)
    distill(teacher, parts, epochs=2, sample_every=0, match=1.0, resume=True)
    assert_same_run(parts, whole)
    latest = load_checkpoint(whole / "checkpoints/latest.safetensors")
    assert len(load_optimizers(whole / "checkpoints", latest)) == 5
    plain = distill(teacher, tmp_path / "plain", epochs=2, sample_every=0)
    assert not torch.equal(plain.sample(1), load(whole).sample(1))


def test_the_seed_decides(teacher: Path, unbroken: Path, tmp_path: Path) -> None:
    distill(teacher, tmp_path / "run", epochs=4, sample_every=0, seed=1)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() != (unbroken / "metrics.jsonl").read_bytes()


def test_another_teacher_is_not_the_same_run(teacher: Path, unbroken: Path, tmp_path: Path) -> None:
    train(replace(TOLD, seed=9), tmp_path / "other", sample_every=0, save_every=0)
    with pytest.raises(UserError, match="teacher = "):
        distill(tmp_path / "other", unbroken, epochs=4, resume=True)
    with pytest.raises(UserError, match="already holds a run"):
        distill(teacher, unbroken, epochs=4)
    with pytest.raises(UserError, match="few steps already"):
        distill(unbroken, tmp_path / "twice")
    assert not (tmp_path / "twice").exists()


def test_training_does_not_take_it_up(unbroken: Path) -> None:
    with pytest.raises(UserError, match="shapedreamer distill"):
        train(read_config(unbroken).recipe, unbroken, resume=True)


def test_a_loss_that_is_not_finite_stops_it_and_spares_the_checkpoint(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shapedreamer.training.distillation.FAITH", math.inf)
    with pytest.raises(UserError, match="no longer finite at step 1;"):
        distill(teacher, tmp_path / "run", epochs=1)
    kept = load_checkpoint(tmp_path / "run/checkpoints/latest.safetensors")
    assert kept.step == 0
    assert all(torch.isfinite(value).all() for value in kept.network.values())
    assert len(load_optimizers(tmp_path / "run/checkpoints", kept)) == 3


def test_the_command_says_what_it_makes(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = "--epochs 1 --steps 2 --pure 0.25 --lr 2e-4"
    monkeypatch.setattr("sys.argv", ["shapedreamer", "distill", str(teacher), *options.split()])
    assert cli.main() == 0
    assert "distilled in 2 steps; the run is in runs/tiny-turbo" in capsys.readouterr().err.replace("\\", "/")
    assert load("runs/tiny-turbo").sampling.steps == 2
    recipe = read_config(Path("runs/tiny-turbo")).recipe
    assert (recipe.pure, recipe.lr) == (0.25, 2e-4)


@pytest.mark.slow
def test_it_learns_to_draw_where_its_teacher_gives_the_mean(tmp_path: Path) -> None:
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
    after = distill(tmp_path / "teacher", tmp_path / "turbo", epochs=400, sample_every=0).sample(64, steps=1)
    wrong = [(both - images).abs().flatten(2).mean(2).amin(0).mean().item() for images in (before, after)]
    assert wrong[1] < wrong[0] / 3
    side = (after - both[0]).abs().flatten(1).mean(1) < (after - both[1]).abs().flatten(1).mean(1)
    assert 0.15 < side.double().mean() < 0.85
