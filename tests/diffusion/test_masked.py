"""Masked diffusion: its forward process, the bound on the likelihood, and samplers, against what can be enumerated."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.noise import Noise
from shapedreamer.diffusion import masked
from shapedreamer.diffusion.denoiser import Denoise, inpainted
from shapedreamer.diffusion.samplers import sample
from shapedreamer.diffusion.schedule import SCHEDULES, Schedule, cosine, linear

D = 4
# four images of 2x2 pixels, whose pixels depend on each other
DATA = torch.tensor([[1, 1, -1, -1], [1, -1, 1, -1], [-1, -1, -1, 1], [1, 1, -1, 1]], dtype=torch.float64).view(
    4, 1, 2, 2
)
STATES = torch.tensor(list(itertools.product((-1, 0, 1), repeat=D)), dtype=torch.float64).view(-1, 1, 2, 2)
IMAGES = torch.tensor(list(itertools.product((-1, 1), repeat=D)), dtype=torch.float64).view(-1, 1, 2, 2)
MASKS = torch.tensor(list(itertools.product((False, True), repeat=D))).view(-1, 1, 2, 2)  # True: hidden


def even(T: int) -> Schedule:
    """ᾱ_t = 1 − t/T."""
    return Schedule(torch.linspace(1, 0, T + 1, dtype=torch.float64))


def hidden(num: int, pixels: int = D) -> Tensor:
    """x_T."""
    return torch.zeros(num, 1, 2, pixels // 2, dtype=torch.float64)


def chi_square(images: Tensor, expected: Tensor, p: Tensor) -> float:
    """Pearson's statistic for samples of these images with these probabilities; infinite if others appear."""
    counts = (images.flatten(1)[:, None] == expected.flatten(1)).all(2).sum(0)
    wanted = p * len(images)
    if counts.sum() < len(images):
        return math.inf
    return ((counts - wanted) ** 2 / wanted).sum().item()


LIMIT = {3: 16.27, 15: 37.70}  # chi-square exceeds it with probability 0.001, by degrees of freedom


def biased(x_t: Tensor, t: Tensor) -> Tensor:
    """A denoiser that is wrong: it mixes the exact one with its own view of each pixel."""
    own = torch.tensor([0.5, -0.2, 0.1, -0.6], dtype=x_t.dtype).view(1, 1, 2, 2) * (1 + x_t.sum((1, 2, 3), True) / 8)
    return torch.where(x_t == 0, 0.6 * masked.finite_data(DATA)(x_t, t) + 0.4 * own, x_t)


def log_p(denoise: Denoise, x0: Tensor, x_t: Tensor) -> Tensor:
    """Σ_hidden log p(x₀ᵢ | x_t): (B,)."""
    p = (1 + x0 * denoise(x_t, torch.zeros(len(x_t), dtype=torch.int64))) / 2
    return torch.where(x_t == 0, p.log(), 0.0).flatten(1).sum(1)


def bound(denoise: Denoise, x0: Tensor, schedule: Schedule) -> float:
    """The bound on −log p(x₀) in the docstring of loss_weight, by enumerating all masks."""
    weight = masked.loss_weight(schedule) * masked.timestep_distribution(schedule)
    number = MASKS.flatten(1).sum(1)
    loss = -log_p(denoise, x0.expand(16, -1, -1, -1), x0.masked_fill(MASKS, 0))
    a = masked.visibility(schedule)[:, None]
    return (weight[:, None] * (1 - a) ** number * a ** (D - number) * loss).sum().item()


def transition_matrix(denoise: Denoise, a: float, b: float) -> Tensor:
    """p(x_s | x_t) of ancestral sampling for all pairs of STATES, from its definition: (81, 81)."""
    x0 = denoise(STATES, torch.zeros(81, dtype=torch.int64)).flatten(1)[:, None]
    x_t, x_s = STATES.flatten(1)[:, None], STATES.flatten(1)[None]
    reveal = (b - a) / (1 - a)
    from_hidden = torch.where(x_s == 0, 1 - reveal, reveal * (1 + x_s * x0) / 2)
    return torch.where(x_t == 0, from_hidden, (x_s == x_t).double()).prod(2)


def chain(denoise: Denoise, schedule: Schedule) -> Tensor:
    """The probability of each of STATES after all steps of ancestral sampling: (81,)."""
    p, visible = (STATES == 0).all(3).all(2).all(1).double(), masked.visibility(schedule).tolist()
    for t in range(schedule.T, 0, -1):
        p = p @ transition_matrix(denoise, visible[t], visible[t - 1])
    return p


def index_of(x: Tensor) -> int:
    return int((STATES == x).flatten(1).all(1).nonzero())


# the forward process


@pytest.mark.parametrize("name", SCHEDULES)
def test_visibility_falls_from_1_to_0_and_is_the_schedules_alpha_bar_in_between(name: str) -> None:
    schedule = SCHEDULES[name](10)  # type: ignore[index]
    a = masked.visibility(schedule)
    assert a[0] == 1
    assert a[-1] == 0
    assert torch.equal(a[1:-1], schedule.alpha_bar[1:-1])


def test_a_pixel_is_visible_with_probability_alpha_bar() -> None:
    schedule, n = cosine(8), 20_000
    eps = torch.randn(9, 1, 1, n, generator=torch.Generator().manual_seed(0))
    x_t = masked.hide(torch.ones_like(eps), torch.arange(9), eps, schedule)
    a = masked.visibility(schedule)
    share = x_t.double().flatten(1).mean(1)
    assert ((share - a).abs() <= 4 * (a * (1 - a) / n).sqrt()).all()
    assert share[0] == 1
    assert share[-1] == 0


def test_hidden_pixels_stay_hidden_at_later_timesteps_and_visible_ones_keep_their_value() -> None:
    schedule, eps = cosine(20), Noise(3)(0, like=torch.zeros(1, 1, 16, 16))
    x0 = masked.binary(Noise(4)(0, like=eps))
    steps = [masked.hide(x0, t, eps, schedule) for t in range(21)]
    assert torch.equal(steps[0], x0)
    for before, after in itertools.pairwise(steps):
        assert ((after == 0) | (after == before)).all()


def test_binary_images_are_black_and_white() -> None:
    image = torch.tensor([-1.0, -0.1, 0.0, 0.1, 1.0])
    assert masked.binary(image).tolist() == [-1, -1, -1, 1, 1]


# the loss


def test_loss_is_the_cross_entropy_of_hidden_pixels_over_all_pixels() -> None:
    schedule, logit = even(2), torch.tensor([[[[2.0, -1.0], [0.5, 0.0]]]])
    x0 = torch.tensor([[[[1.0, 1.0], [-1.0, -1.0]]]])
    eps = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])  # at ᾱ = 1/2 it hides where ε > 0: the first column
    times: list[Tensor] = []

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        assert x_t.tolist() == [[[[0, 1], [0, -1]]]]
        times.append(t)
        return logit

    loss = masked.loss(network, x0, torch.tensor([1]), eps, schedule)
    wanted = -(F.logsigmoid(torch.tensor(2.0)) + F.logsigmoid(torch.tensor(-0.5))) / 4
    assert_close(loss, wanted[None])
    assert times[0].tolist() == [0]


def test_the_weight_is_that_of_the_papers() -> None:
    for schedule in (cosine(10), linear(10), even(10)):
        a = masked.visibility(schedule)
        weight = masked.loss_weight(schedule) * masked.timestep_distribution(schedule)
        assert_close(weight[1:], (a[:-1] - a[1:]) / (1 - a[1:]))
        assert weight[0] == 0
        assert_close(masked.timestep_distribution(schedule).sum().item(), 1.0)


@pytest.mark.parametrize("denoise", [masked.finite_data(DATA), biased], ids=["exact", "biased"])
@pytest.mark.parametrize("schedule", [even(3), cosine(6)], ids=["even", "cosine"])
def test_the_bound_holds_for_the_distribution_that_ancestral_sampling_has(denoise: Denoise, schedule: Schedule) -> None:
    p = chain(denoise, schedule)
    assert_close(p.sum().item(), 1.0)
    assert p[(STATES == 0).flatten(1).any(1)].max() == 0  # no pixel stays hidden
    for x0 in DATA:
        assert bound(denoise, x0[None], schedule) >= -math.log(p[index_of(x0)])


def test_the_bound_of_the_exact_denoiser_tends_to_the_negative_log_likelihood() -> None:
    exact = masked.finite_data(DATA)
    gaps = [bound(exact, DATA[:1], even(T)) - math.log(4) for T in (10, 100, 1000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 2e-3
    assert_close(gaps[1] / gaps[2], 10.0, rtol=0.02, atol=0)  # the error of T steps is proportional to 1/T


def test_without_steps_the_bound_does_not_depend_on_the_schedule_and_is_worse_for_a_worse_denoiser() -> None:
    values = [bound(biased, DATA[:1], schedule) for schedule in (even(20_000), cosine(20_000))]
    assert_close(*values, rtol=2e-4, atol=0)
    assert values[0] > math.log(4)


def test_the_mean_training_loss_is_the_bound() -> None:
    schedule, exact, n = cosine(12), masked.finite_data(DATA), 40_000

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.atanh(exact(x_t, t).clamp(-1 + 1e-12, 1 - 1e-12)) * 2

    generator = torch.Generator().manual_seed(0)
    t = torch.multinomial(masked.timestep_distribution(schedule), n, replacement=True, generator=generator)
    eps = torch.randn(n, 1, 2, 2, dtype=torch.float64, generator=generator)
    loss = masked.loss(network, DATA[:1].expand(n, -1, -1, -1), t, eps, schedule) * masked.loss_weight(schedule)[t] * D
    wanted = bound(exact, DATA[:1], schedule)
    assert abs(loss.mean().item() - wanted) < 4 * loss.std().item() / n**0.5


# denoisers


def test_the_exact_denoiser_is_the_posterior_mean() -> None:
    x_t = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [1, 0, 1, 0]]).view(5, 1, 2, 2).double()
    x0 = masked.finite_data(DATA)(x_t, torch.zeros(5, dtype=torch.int64)).view(5, 4)
    third = 1 / 3
    wanted = [[0.5, 0, -0.5, 0], [1, third, -third, -third], [1, 1, -1, 0], [0, 0, -1, 1], [1, -1, 1, -1]]
    assert_close(x0, torch.tensor(wanted, dtype=torch.float64))


def test_a_denoiser_keeps_visible_pixels_and_turns_logits_into_means() -> None:
    seen: list[Tensor] = []

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        seen.append(t)
        return torch.full_like(x_t, math.log(3))

    x0 = masked.denoiser(network)(torch.tensor([[[[-1.0, 0.0]]]]), torch.tensor([7]))
    assert_close(x0, torch.tensor([[[[-1.0, 0.5]]]]))  # p = 3/4
    assert seen[0].tolist() == [0]


def test_guidance_acts_on_logits() -> None:
    def network(logit: float) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x_t, t: torch.full_like(x_t, logit)

    x_t, t = torch.zeros(1, 1, 1, 1), torch.tensor([3])
    for scale, wanted in {0.0: 1.0, 1.0: 3.0, 2.0: 5.0, -1.0: -1.0}.items():
        assert masked.guided(network(3.0), network(1.0), scale)(x_t, t).item() == wanted
    # p ∝ p(∅)^(1−scale) p(label)^scale
    p, q = torch.sigmoid(torch.tensor(1.0)), torch.sigmoid(torch.tensor(3.0))
    up, down = q**2 / p, (1 - q) ** 2 / (1 - p)
    guided = masked.denoiser(masked.guided(network(3.0), network(1.0), 2.0))(x_t, t)
    assert_close((1 + guided.flatten()[0]) / 2, up / (up + down))


# samplers

every_sampler = pytest.mark.parametrize("name", masked.SAMPLERS)


@every_sampler
def test_samples_of_the_exact_denoiser_have_the_distribution_of_the_data(name: str) -> None:
    """With one pixel a step; ancestral sampling reveals two at once now and then, unless the steps are many."""
    exact, n = masked.finite_data(DATA), 3000
    schedule = even(100 if name == "masked_ancestral" else D)
    steps = schedule.T
    x = sample(masked.SAMPLERS[name](exact, schedule, hidden(n), steps, generator=Noise(5)))  # type: ignore[index]
    if name == "masked_ancestral":
        x = x[((x.flatten(1)[:, None] == DATA.flatten(1)).all(2)).any(1)]  # about 1 in 50 mixes two images
        assert len(x) > 0.96 * n
    assert chi_square(x, DATA, torch.full((4,), 0.25)) < LIMIT[3]


def test_ancestral_sampling_has_the_distribution_of_its_chain() -> None:
    schedule, n = even(3), 20_000
    x = sample(masked.ancestral(biased, schedule, hidden(n), 3, generator=Noise(6)))
    p = torch.stack([chain(biased, schedule)[index_of(image)] for image in IMAGES])
    assert chi_square(x, IMAGES, p) < LIMIT[15]


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_share_of_alpha_bar_is_visible_after_each_step_whatever_eta(eta: float) -> None:
    schedule, x_T = cosine(10), torch.zeros(4, 1, 50, 100)
    for step in masked.ancestral(lambda x, t: torch.zeros_like(x), schedule, x_T, 10, eta=eta, generator=Noise(0)):
        b = schedule.alpha_bar[step.t].item()
        assert abs((step.x != 0).double().mean().item() - b) <= 4 * (b * (1 - b) / x_T.numel()) ** 0.5


def test_eta_hides_pixels_again_so_that_they_can_change() -> None:
    """A denoiser that first says white and later black: what was revealed early stays white only without eta."""
    schedule = even(20)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.where(t.view(-1, 1, 1, 1) > 10, 1.0, -1.0).expand_as(x_t)

    x_T = torch.zeros(1, 1, 40, 40)
    white = {
        eta: (sample(masked.ancestral(denoise, schedule, x_T, 20, eta=eta, generator=Noise(1))) > 0)
        .float()
        .mean()
        .item()
        for eta in (0.0, 0.5, 1.0)
    }
    assert abs(white[0.0] - 0.5) < 0.05
    assert white[1.0] < white[0.5] < 0.1


@pytest.mark.parametrize("name", ["masked_random", "masked_confidence"])
def test_these_samplers_reveal_the_scheduled_number_of_pixels(name: str) -> None:
    schedule, x_T = cosine(100), torch.zeros(3, 1, 4, 8)
    for step in masked.SAMPLERS[name](  # type: ignore[index]
        lambda x, t: torch.zeros_like(x), schedule, x_T, 7, generator=Noise(0)
    ):
        left = (step.x == 0).flatten(1).sum(1)
        assert left.tolist() == [round(32 * (1 - schedule.alpha_bar[step.t].item()))] * 3


def test_confidence_prefers_certain_pixels_and_the_more_so_the_fewer_are_left() -> None:
    """The first pixel of a step to s is chosen with probability ∝ p^(1/(1−b))."""
    x0, n = torch.tensor([0.0, -0.5, 0.9, 1.0], dtype=torch.float64).view(1, 1, 2, 2), 20_000
    p = (1 + x0.abs().flatten()) / 2
    for a, b in ((1.0, 0.75), (0.3, 0.225), (0.1, 0.075)):  # 1 − ᾱ: one of four pixels in each case
        schedule = Schedule(torch.tensor([1, 1 - b, 1 - a, 0], dtype=torch.float64)) if a < 1 else even(D)
        steps = list(range(schedule.T, -1, -1)) if a == 1 else [2, 1, 0]
        step = next(masked.confidence(lambda x, t: x0.expand_as(x), schedule, hidden(n), steps, generator=Noise(2)))
        counts = (step.x != 0).flatten(1).double().sum(0)
        wanted = p ** (1 / b) / (p ** (1 / b)).sum() * n
        assert counts.sum() == n
        assert ((counts - wanted) ** 2 / wanted).sum() < LIMIT[3]


@every_sampler
def test_an_image_does_not_depend_on_the_batch_and_a_call_repeats_exactly(name: str) -> None:
    run, x_T, schedule = masked.SAMPLERS[name], torch.zeros(5, 1, 2, 2), cosine(50)  # type: ignore[index]
    exact = masked.finite_data(DATA.float())
    steps = list(run(exact, schedule, x_T, 9, generator=Noise(7)))
    again = list(run(exact, schedule, x_T[:2], 9, generator=Noise(7, first=3)))
    assert [step.t for step in steps] == [step.t for step in again]
    for step, other in zip(steps, again, strict=True):
        assert torch.equal(step.x[3:], other.x)
        assert torch.equal(step.x0[3:], other.x0)


@every_sampler
def test_the_last_image_is_black_and_white_and_earlier_ones_are_hidden_in_part(name: str) -> None:
    run, schedule = masked.SAMPLERS[name], cosine(50)  # type: ignore[index]
    steps = list(run(biased, schedule, hidden(200), 5, generator=Noise(8)))
    assert [step.t for step in steps] == [40, 30, 20, 10, 0]
    assert (steps[-1].x.abs() == 1).all()
    assert (steps[0].x == 0).any()
    for step in steps:
        assert step.x.unique().tolist() in ([0], [-1, 0, 1], [-1, 1])


@every_sampler
@pytest.mark.parametrize("steps", [1, 3, D])
def test_visible_pixels_of_x_T_stay_and_the_rest_is_exact(name: str, steps: int) -> None:
    """Inpainting: the two images of DATA that start with two white pixels."""
    x_T = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64).view(1, 1, 2, 2).expand(2000, -1, -1, -1)
    exact = inpainted(masked.finite_data(DATA), DATA[:1], x_T[:1] != 0)
    x = sample(masked.SAMPLERS[name](exact, even(D), x_T, steps, generator=Noise(9)))  # type: ignore[index]
    share = (x == DATA[0]).flatten(1).all(1).double().mean().item()
    assert (x.flatten(1)[:, :3] == torch.tensor([1, 1, -1])).all()
    assert abs(share - 0.5) < 0.05


@every_sampler
def test_bad_arguments_raise_before_the_first_call(name: str) -> None:
    run = masked.SAMPLERS[name]  # type: ignore[index]

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("called")

    with pytest.raises(ValueError, match=r"start from torch\.zeros, not noise"):
        next(run(denoise, even(4), torch.full((1, 1, 2, 2), 0.3), 4, generator=Noise(0)))
    with pytest.raises(ValueError, match="steps must be between 1 and T = 4, not 5"):
        next(run(denoise, even(4), torch.zeros(1, 1, 2, 2), 5, generator=Noise(0)))
    with pytest.raises(ValueError, match="needs a generator"):
        next(run(lambda x, t: x, even(4), torch.zeros(1, 1, 2, 2), 4, generator=None))
    if name == "masked_ancestral":
        with pytest.raises(ValueError, match="eta must be between 0 and 1, not 2"):
            next(run(denoise, even(4), torch.zeros(1, 1, 2, 2), 4, eta=2, generator=Noise(0)))
