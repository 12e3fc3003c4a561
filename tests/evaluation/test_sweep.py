"""Every point of a sweep is the quality of samples from the same noise, and the plot and table show it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import SamplerName
from shapedreamer.data.arrays import Arrays
from shapedreamer.diffusion.samplers import SAMPLERS
from shapedreamer.evaluation import sweep as module
from shapedreamer.evaluation.distances import MIN_IMAGES, fid
from shapedreamer.evaluation.evaluator import Subject, draw, real_images
from shapedreamer.evaluation.sweep import CURVES, Point, picture, spread, sweep, table
from shapedreamer.evaluation.validity import ShapeReport
from shapedreamer.models.options import SampleOptions

Data = tuple[Arrays, Arrays]
ImagesSubject = Callable[[Tensor], Subject]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", (1, 3, 20, 50))  # the model has T = 20


@pytest.fixture
def subject(images_subject: ImagesSubject, data: Data) -> Subject:
    return images_subject(data[1].batch(torch.arange(60))[0])


def test_quality_is_the_fid_of_samples_from_the_same_noise(few_steps: None, subject: Subject, data: Data) -> None:
    points = sweep(subject, MIN_IMAGES, seed=3)
    assert [(p.sampler, p.eta, p.steps, p.calls) for p in points] == [
        (*curve, n, n) for curve in CURVES for n in (1, 3, 20)
    ]
    reference, real, _ = real_images(*data, MIN_IMAGES)
    classifier, _ = subject.classifier
    features = classifier.predict(reference)[0]
    for point in points:
        samples, _ = draw(
            subject.model, MIN_IMAGES, SampleOptions(point.sampler, point.steps, point.eta, 3), lambda _: None
        )
        assert point.quality == pytest.approx(fid(classifier.predict(samples)[0], features), rel=1e-9)
        assert point.real == pytest.approx(fid(classifier.predict(real)[0], features), rel=1e-9)
        assert (point.measure, point.num, point.seed, point.guidance) == ("FID", MIN_IMAGES, 3, 1.0)
        assert point.intact is point.real_intact is None
    ddim = [point.quality for point in points if point.sampler == "ddim"]
    assert ddim == sorted(ddim, reverse=True)  # an exact denoiser gets better with each call


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_ddpm_equals_ddim_with_eta_1(steps: int, subject: Subject) -> None:
    ddpm, ddim = (
        subject.model.sample(20, SampleOptions(*options)) for options in (("ddpm", steps), ("ddim", steps, 1.0))
    )
    assert_close(ddpm, ddim, rtol=0, atol=1e-4)


def test_quality_is_the_share_of_valid_images_if_the_data_set_draws_shapes(
    few_steps: None, subject: Subject, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Tensor] = []

    def judge(images: Tensor, spec: object, progress: Callable[[int], None]) -> ShapeReport:
        judged.append(images)
        for done in range(1, len(images) + 1):
            progress(done)
        return ShapeReport(len(judged) / 100, 0.0, 0.0, 0.0, None, None, None, intact=len(judged) / 200)

    monkeypatch.setattr(module, "primitives_of", lambda spec: "some")
    monkeypatch.setattr(module, "judge", judge)
    reports: list[tuple[str, int, int]] = []
    points = sweep(replace(subject, report=lambda *progress: reports.append(progress)), MIN_IMAGES)
    assert torch.equal(judged[0], real_images(*data, MIN_IMAGES)[1])
    assert [point.quality for point in points] == [i / 100 for i in range(2, 2 + 3 * len(CURVES))]
    assert {point.real for point in points} == {0.01}
    assert [point.intact for point in points] == [point.quality / 2 for point in points]
    assert {point.real_intact for point in points} == {0.005}
    assert {point.measure for point in points} == {"valid"}
    for point, images in zip(points, judged[1:], strict=True):
        options = SampleOptions(point.sampler, point.steps, point.eta)
        assert torch.equal(images, draw(subject.model, MIN_IMAGES, options, lambda _: None)[0])

    assert len({(task, total) for task, _, total in reports}) == 1
    steps = [done for _, done, _ in reports]
    assert all(a <= b for a, b in pairwise(steps))
    assert steps[-1] == reports[-1][2]  # progress reaches the total


@pytest.mark.parametrize(("guidance", "factor"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_guidance_doubles_the_network_calls(
    guidance: float, factor: int, function_subject: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    images_seen = 0

    def network(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        nonlocal images_seen
        images_seen += len(x)
        return x

    monkeypatch.setattr(module, "STEPS", (2,))
    points = sweep(function_subject(network, torch.eye(4)), MIN_IMAGES, guidance)
    assert [(point.calls, point.guidance) for point in points] == [(2 * factor, guidance)] * len(CURVES)
    assert images_seen == sum(point.calls for point in points) * MIN_IMAGES


@pytest.mark.parametrize(
    ("num", "guidance", "seed", "message"),
    [
        (255, 1.0, 0, "num must be at least 256"),
        (451, 1.0, 0, "use at most `num=450`"),
        (MIN_IMAGES, 2.0, 0, "guidance 2 needs a label"),
        (MIN_IMAGES, 1.0, -1, "seed must be between"),
    ],
)
def test_invalid_arguments_are_reported_before_computing(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, num: int, guidance: float, seed: int, message: str
) -> None:
    monkeypatch.delattr(module, "fid")
    with pytest.raises(UserError, match=message):
        sweep(subject, num, guidance, seed)


# table and plot


def make_points(measure: str, qualities: dict[SamplerName, list[float]], real: float) -> list[Point]:
    return [
        Point(sampler, 0.0, n, n, measure, value, real, 512, 0, 1.0)  # type: ignore[arg-type]
        for sampler, line in qualities.items()
        for n, value in zip((1, 4, 16), line, strict=True)
    ]


VALID = make_points("valid", {"ddpm": [0.0, 0.5, 0.75], "heun": [0.125, 0.25, 0.75]}, 0.96)
FID = make_points("FID", {"ddpm": [4000.0, 20.0, 1.25], "heun": [30.0, 2.0, 1.2]}, 0.5)


def test_the_table_has_a_line_per_sampler_and_a_column_per_number_of_calls() -> None:
    assert table(VALID) == [
        "valid images, higher is better (512 samples per value); real images: 96.0%",
        "network calls           1      4     16",
        "ddpm = ddim, eta 1   0.0%  50.0%  75.0%",
        "heun                12.5%  25.0%  75.0%",
    ]
    assert table(FID) == [
        "FID, lower is better (512 samples per value); real images: 0.5",
        "network calls          1   4    16",
        "ddpm = ddim, eta 1  4000  20  1.25",
        "heun                  30   2   1.2",
    ]


def test_the_table_of_valid_images_has_one_of_intact_images_below() -> None:
    points = [point._replace(intact=point.quality / 2, real_intact=0.99) for point in VALID]
    assert table(points) == [
        *table(VALID),
        "intact images, higher is better; real images: 99.0%",
        "network calls          1      4     16",
        "ddpm = ddim, eta 1  0.0%  25.0%  37.5%",
        "heun                6.2%  12.5%  37.5%",
        "95% intervals reach 4.3 points to each side, at most",
    ]


def test_every_sampler_has_a_curve() -> None:
    assert {point.sampler for point in VALID} < {sampler for sampler, _ in CURVES} == set(SAMPLERS)


@pytest.mark.parametrize("points", [VALID, FID])
def test_the_plot_draws_each_line_and_its_name_in_the_same_colour(points: list[Point]) -> None:
    pixels = np.asarray(picture(points).convert("RGB"))
    height, width, _ = pixels.shape
    for colour in (CURVES["ddpm", 0.0][1], CURVES["heun", 0.0][1], module.REAL_COLOUR):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        _, columns = np.nonzero((pixels == rgb).all(2))
        assert columns.min() < 0.3 * width  # the line
        assert columns.max() > 0.8 * width  # the name
    ddim = CURVES["ddim", 0.0][1]
    assert not (pixels == [int(ddim[i : i + 2], 16) for i in (1, 3, 5)]).all(2).any()
    assert (pixels[0] == 255).all()
    assert width > height > 400


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted), st.floats(0.01, 0.3))
def test_spread_keeps_the_gap_and_the_mean_height(heights: list[float], gap: float) -> None:
    moved = spread(heights, gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))
    assert sum(moved) == pytest.approx(sum(heights), abs=1e-9)  # the movements cancel
    if all(b - a >= gap for a, b in pairwise(heights)):
        assert moved == pytest.approx(heights, abs=1e-9)


def test_spread_moves_equal_heights_evenly() -> None:
    assert spread([0.2, 0.5, 0.5], 0.1) == pytest.approx([0.2, 0.45, 0.55])
    assert spread([0.5, 0.5, 0.62], 0.1) == pytest.approx([0.44, 0.54, 0.64])
    assert spread([0.3, 0.3, 0.49], 0.1) == pytest.approx([0.25, 0.35, 0.49])  # the last one need not move
