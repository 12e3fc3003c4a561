"""Every point of a sweep is what its sampler makes of the same noise."""

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
from shapedreamer.evaluation.distances import LEAST, fid
from shapedreamer.evaluation.evaluator import Subject, draw, real_images
from shapedreamer.evaluation.sweep import WAYS, Point, apart, picture, sweep, table
from shapedreamer.evaluation.validity import ShapeReport
from shapedreamer.models.recipes import Sampling

Data = tuple[Arrays, Arrays]
OfImages = Callable[[Tensor], Subject]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", (1, 3, 20, 50))  # the model has T = 20


@pytest.fixture
def dreamer(of_images: OfImages, data: Data) -> Subject:
    return of_images(data[1].batch(torch.arange(60))[0])


def test_a_point_is_the_fid_of_its_samples_from_the_same_noise(few: None, dreamer: Subject, data: Data) -> None:
    points = sweep(dreamer, LEAST, seed=3)
    assert [(p.sampler, p.eta, p.steps, p.calls) for p in points] == [(*way, n, n) for way in WAYS for n in (1, 3, 20)]
    reference, real, _ = real_images(*data, LEAST)
    classifier, _ = dreamer.classifier
    seen = classifier.see(reference)[0]
    for point in points:
        samples, _ = draw(dreamer.model, LEAST, Sampling(point.sampler, point.steps, point.eta), 1.0, 3, lambda _: None)
        assert point.quality == pytest.approx(fid(classifier.see(samples)[0], seen), rel=1e-9)
        assert point.real == pytest.approx(fid(classifier.see(real)[0], seen), rel=1e-9)
        assert (point.measure, point.num, point.seed, point.guidance) == ("FID", LEAST, 3, 1.0)
    ddim = [point.quality for point in points if point.sampler == "ddim"]
    assert ddim == sorted(ddim, reverse=True)  # an exact denoiser gets better with each call


@pytest.mark.parametrize("steps", [1, 3, 20])
def test_one_line_stands_for_ddpm_and_for_ddim_with_eta_1(steps: int, dreamer: Subject) -> None:
    ddpm, ddim = (dreamer.model.sample(20, *way) for way in (("ddpm", steps), ("ddim", steps, 1.0)))
    assert_close(ddpm, ddim, rtol=0, atol=1e-4)


def test_where_the_data_have_shapes_quality_is_the_share_of_valid_images(
    few: None, dreamer: Subject, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Tensor] = []

    def judge(images: Tensor, spec: object, progress: Callable[[int], None]) -> ShapeReport:
        judged.append(images)
        for done in range(1, len(images) + 1):
            progress(done)
        return ShapeReport(len(judged) / 100, 0.0, 0.0, 0.0, None, None, None)

    monkeypatch.setattr(module, "primitives_of", lambda spec: "some")
    monkeypatch.setattr(module, "judge", judge)
    told: list[tuple[str, int, int]] = []
    points = sweep(replace(dreamer, tell=lambda *words: told.append(words)), LEAST)
    assert torch.equal(judged[0], real_images(*data, LEAST)[1])
    assert [point.quality for point in points] == [i / 100 for i in range(2, 17)]
    assert {point.real for point in points} == {0.01}
    assert {point.measure for point in points} == {"valid"}
    for point, images in zip(points, judged[1:], strict=True):
        way = Sampling(point.sampler, point.steps, point.eta)
        assert torch.equal(images, draw(dreamer.model, LEAST, way, 1.0, 0, lambda _: None)[0])

    assert len({(what, of) for what, _, of in told}) == 1
    done = [done for _, done, _ in told]
    assert all(a <= b for a, b in pairwise(done))  # it never goes back
    assert done[-1] == told[-1][2]  # and ends when all is done


@pytest.mark.parametrize(("guidance", "factor"), [(0.0, 1), (1.0, 1), (2.0, 2)])
def test_guidance_takes_two_calls_a_step(
    guidance: float, factor: int, of_drawer: Callable[..., Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def network(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return x

    monkeypatch.setattr(module, "STEPS", (2,))
    points = sweep(of_drawer(network, torch.eye(4)), LEAST, guidance)
    assert [(point.calls, point.guidance) for point in points] == [(2 * factor, guidance)] * len(WAYS)
    assert seen == sum(point.calls for point in points) * LEAST


@pytest.mark.parametrize(
    ("num", "guidance", "seed", "says"),
    [
        (255, 1.0, 0, "num must be at least 256"),
        (451, 1.0, 0, "enough for --num 450"),
        (LEAST, 2.0, 0, "guidance 2 needs a label"),
        (LEAST, 1.0, -1, "seed must be between"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    dreamer: Subject, monkeypatch: pytest.MonkeyPatch, num: int, guidance: float, seed: int, says: str
) -> None:
    monkeypatch.delattr(module, "fid")
    with pytest.raises(UserError, match=says):
        sweep(dreamer, num, guidance, seed)


# what is shown


def points_of(measure: str, qualities: dict[SamplerName, list[float]], real: float) -> list[Point]:
    return [
        Point(sampler, 0.0, n, n, measure, value, real, 512, 0, 1.0)  # type: ignore[arg-type]
        for sampler, line in qualities.items()
        for n, value in zip((1, 4, 16), line, strict=True)
    ]


VALID = points_of("valid", {"ddpm": [0.0, 0.5, 0.75], "heun": [0.125, 0.25, 0.75]}, 0.96)
FID = points_of("FID", {"ddpm": [4000.0, 20.0, 1.25], "heun": [30.0, 2.0, 1.2]}, 0.5)


def test_the_table_has_a_line_for_each_sampler_and_a_column_for_each_number_of_calls() -> None:
    assert table(VALID) == [
        "images made of one to three shapes (512 samples each); real images: 96.0%",
        "network calls           1      4     16",
        "ddpm = ddim, eta 1   0.0%  50.0%  75.0%",
        "heun                12.5%  25.0%  75.0%",
    ]
    assert table(FID) == [
        "FID, lower is better (512 samples each); real images: 0.5",
        "network calls          1   4    16",
        "ddpm = ddim, eta 1  4000  20  1.25",
        "heun                  30   2   1.2",
    ]


def test_a_sampler_that_makes_fewer_steps_leaves_no_gap_in_the_names() -> None:
    assert {point.sampler for point in VALID} < {sampler for sampler, _ in WAYS} == set(SAMPLERS)


@pytest.mark.parametrize("points", [VALID, FID])
def test_the_picture_has_each_line_in_its_colour_and_its_name_beside_it(points: list[Point]) -> None:
    pixels = np.asarray(picture(points).convert("RGB"))
    height, width, _ = pixels.shape
    for colour in (WAYS["ddpm", 0.0][1], WAYS["heun", 0.0][1], module.REAL):
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        _, columns = np.nonzero((pixels == rgb).all(2))
        assert columns.min() < 0.3 * width  # the line
        assert columns.max() > 0.8 * width  # the name
    ddim = WAYS["ddim", 0.0][1]
    assert not (pixels == [int(ddim[i : i + 2], 16) for i in (1, 3, 5)]).all(2).any()
    assert (pixels[0] == 255).all()
    assert width > height > 400


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted), st.floats(0.01, 0.3))
def test_names_are_kept_apart_and_moved_no_farther_than_it_takes(heights: list[float], gap: float) -> None:
    moved = apart(heights, gap)
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(moved))
    assert sum(moved) == pytest.approx(sum(heights), abs=1e-9)  # as far up as down
    if all(b - a >= gap for a, b in pairwise(heights)):
        assert moved == pytest.approx(heights, abs=1e-9)


def test_two_names_at_one_height_part_evenly() -> None:
    assert apart([0.2, 0.5, 0.5], 0.1) == pytest.approx([0.2, 0.45, 0.55])
    assert apart([0.5, 0.5, 0.62], 0.1) == pytest.approx([0.44, 0.54, 0.64])
    assert apart([0.3, 0.3, 0.49], 0.1) == pytest.approx([0.25, 0.35, 0.49])  # nothing is in the way of the last
