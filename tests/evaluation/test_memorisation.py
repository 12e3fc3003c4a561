"""Nearest training images against brute force, and copies that are found among samples, however few."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.data.arrays import Arrays
from shapedreamer.data.drawn.shapes import Shapes
from shapedreamer.data.files import mnist
from shapedreamer.evaluation import memorisation as module
from shapedreamer.evaluation.memorisation import Memorisation, memorisation, nearest

SHARED = Path(__file__).parents[3] / "shared" / "data"


def arrays(images: np.ndarray) -> Arrays:
    return Arrays("some", images, np.zeros((len(images), 1), np.float32), ("any",))


def random(n: int, seed: int = 0, low: int = 0) -> Arrays:
    """Images 3 x 4 x 5 of random bytes from `low` up."""
    return arrays(np.random.default_rng(seed).integers(low, 256, (n, 4, 5, 3), np.uint8))


def pixels(data: Arrays, first: int = 0, last: int | None = None) -> Tensor:
    return data.batch(torch.arange(len(data))[first:last])[0]


def brute_force(images: Tensor, data: Arrays, k: int) -> tuple[list[list[float]], list[list[int]]]:
    distances, places = [], []
    for image in images.double():
        each = [((image - other) ** 2).mean().sqrt().item() for other in pixels(data).double()]
        order = sorted(range(len(each)), key=each.__getitem__)[:k]
        distances.append([each[i] for i in order])
        places.append(order)
    return distances, places


# nearest


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("chunk", [1, 7, 40, 512])
def test_nearest_is_what_brute_force_finds_whatever_the_chunks(
    monkeypatch: pytest.MonkeyPatch, k: int, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    data = random(40, seed=1)
    images = torch.cat([pixels(random(9, seed=2)), pixels(data, 5, 8)])
    distances, places = nearest(images, data, k)
    expected, where = brute_force(images, data, k)
    assert_close(distances, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert places.tolist() == where


def test_the_nearest_one_is_what_is_asked_for_by_default() -> None:
    data = random(20)
    distances, places = nearest(pixels(data), data)
    assert distances.tolist() == [[0.0]] * 20
    assert places.tolist() == [[i] for i in range(20)]


def test_the_unit_is_the_pixel() -> None:
    images = np.zeros((3, 4, 5, 3), np.uint8)
    images[1] = 255
    images[2, 0, 0, 0] = 255
    distances, places = nearest(torch.full((1, 3, 4, 5), -1.0), arrays(images), 3)
    assert places.tolist() == [[0, 2, 1]]
    assert distances[0].tolist() == pytest.approx([0, 2 / math.sqrt(60), 2], rel=1e-12)


def test_a_copy_is_told_from_an_image_that_differs_by_one_level_in_one_pixel() -> None:
    # for images of thousands of pixels, all far from 0, |x|² − 2xy + |y|² in single precision loses this difference
    images = np.repeat(np.random.default_rng(0).integers(250, 256, (1, 64, 64, 3), np.uint8), 200, axis=0)
    images.reshape(200, -1)[np.arange(1, 200), np.arange(1, 200)] -= 1
    data = arrays(images)
    asked = torch.tensor([0, 57, 199])
    distances, places = nearest(data.batch(asked)[0], data, 2)
    assert places[:, 0].tolist() == asked.tolist()
    assert distances[:, 0].tolist() == [0, 0, 0]
    assert places[1:, 1].tolist() == [0, 0]  # the others differ from these in two pixels
    assert distances[:, 1].tolist() == pytest.approx([1 / 127.5 / math.sqrt(3 * 64 * 64)] * 3, rel=1e-4)


def test_distances_are_exact_and_do_not_depend_on_how_bright_the_images_are() -> None:
    data = random(600, seed=1, low=240)
    images = pixels(data, 100, 110) + 1e-6
    distances, places = nearest(images, data)
    assert places[:, 0].tolist() == list(range(100, 110))
    exact = (images.double() - pixels(data, 100, 110).double()).square().mean((1, 2, 3)).sqrt()
    assert_close(distances[:, 0], exact, rtol=1e-12, atol=0)
    assert distances.max() < 1.2e-6


def test_a_shuffled_order_changes_nothing_but_the_places() -> None:
    data, images = random(700, seed=1), pixels(random(30, seed=2))
    order = np.random.default_rng(3).permutation(700)
    distances, places = nearest(images, data, 4)
    shuffled, elsewhere = nearest(images, data.take(order), 4)
    assert_close(shuffled, distances, rtol=1e-12, atol=0)
    assert torch.equal(torch.from_numpy(order)[elsewhere], places)


def test_equal_training_images_are_each_found_once() -> None:
    data = random(5)
    distances, places = nearest(pixels(data, 2, 3), data.take(np.array([0, 2, 1, 2, 4, 2])), 3)
    assert sorted(places[0].tolist()) == [1, 3, 5]
    assert distances.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("k", [0, -1, 21])
def test_k_must_be_a_number_of_training_images(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be between 1 and 20, the number of training images, not {k}"):
        nearest(pixels(random(3)), random(20), k)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 1, 4, 5), (2, 60), (3, 4, 5)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"those of some \(N, \*\(3, 4, 5\)\)"):
        nearest(torch.zeros(shape), random(20))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_images_that_are_not_finite_are_refused(value: float) -> None:
    images = pixels(random(3))
    images[1, 0, 2, 3] = value
    with pytest.raises(UserError, match="nan or infinite"):
        nearest(images, random(20))


# memorisation


def found(samples: list[float], held_out: list[float]) -> Memorisation:
    return Memorisation(torch.tensor(samples).double(), torch.tensor(held_out).double(), torch.zeros(0, 2).long())


def test_nearer_counts_pairs_and_halves_those_that_are_equal() -> None:
    assert found([1, 2], [3, 4, 5]).nearer == 1
    assert found([6, 7], [3, 4, 5]).nearer == 0
    assert found([3, 4, 5], [3, 4, 5]).nearer == 0.5
    assert found([1, 4], [2, 4, 9, 9]).nearer == pytest.approx((4 + 2.5) / 8)  # 1 before all; 4 before two, one equal
    assert found([0, 0], [0, 0]).nearer == 0.5


def test_nearer_of_samples_of_the_data_is_off_a_half_by_no_more_than_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    n, m = 100, 40
    off = torch.tensor(
        [
            Memorisation(
                torch.rand(n, generator=generator), torch.rand(m, generator=generator), torch.zeros(0, 2)
            ).nearer
            for _ in range(2000)
        ]
    )
    assert off.mean().item() == pytest.approx(0.5, abs=0.005)
    assert off.std().item() == pytest.approx(math.sqrt((n + m + 1) / (12 * n * m)), rel=0.06)


@pytest.mark.parametrize(("m", "share"), [(1, 1), (10, 0.1), (100, 0.01), (101, 2 / 101), (200, 0.01), (512, 6 / 512)])
def test_close_is_what_a_hundredth_of_the_held_out_images_reach(m: int, share: float) -> None:
    held_out = [float(i) for i in range(1, m + 1)]
    limit = math.ceil(m / 100)
    report = found([0.0, limit, limit + 0.5, 1e9], held_out[::-1])
    assert report.close_held_out == pytest.approx(share)
    assert report.close == 0.5  # 0 and the limit itself


def test_exact_copies_are_found_and_flagged() -> None:
    training = random(600, seed=1)
    copied = torch.tensor([599, 3, 77, 512, 0])
    report = memorisation(training.batch(copied)[0], pixels(random(50, seed=2)), training)
    assert report.samples.tolist() == [0] * 5
    assert report.pairs.tolist() == [[i, place] for i, place in enumerate(copied.tolist())]
    assert (report.nearer, report.close) == (1, 1)
    assert report.held_out.min() > 0.3


def test_a_few_copies_among_many_samples_come_first() -> None:
    training, honest = random(600, seed=1), pixels(random(200, seed=3))
    generator = torch.Generator().manual_seed(0)
    samples = honest.clone()
    for sample, place, noise in ((150, 7, 0.03), (20, 300, 0.01), (199, 0, 0.02)):
        image = training.batch(torch.tensor([place]))[0][0]
        samples[sample] = image + noise * torch.randn(image.shape, generator=generator)
    report = memorisation(samples, pixels(random(512, seed=2)), training, most=4)
    assert report.pairs[:3].tolist() == [[20, 300], [199, 0], [150, 7]]
    assert report.pairs.shape == (4, 2)
    assert 3 / 200 <= report.close < 0.05
    assert report.nearer == pytest.approx(0.5, abs=0.1)  # three are too few to move it


def test_the_distances_are_those_of_each_kind_and_the_pairs_are_the_nearest_of_all() -> None:
    training, samples, held_out = random(100, seed=1), pixels(random(30, seed=2)), pixels(random(20, seed=3))
    report = memorisation(samples, held_out, training, most=30)
    distances, places = nearest(samples, training)
    assert_close(report.samples, distances[:, 0], rtol=1e-12, atol=0)
    assert_close(report.held_out, nearest(held_out, training)[0][:, 0], rtol=1e-12, atol=0)
    order = sorted(range(30), key=lambda i: report.samples[i].item())
    assert report.pairs.tolist() == [[i, places[i, 0].item()] for i in order]
    assert memorisation(samples, held_out, training, most=99).pairs.shape == (30, 2)
    assert memorisation(samples, held_out, training).pairs.shape == (8, 2)


def test_new_drawings_are_not_taken_for_copies_and_blurred_copies_are() -> None:
    training = Shapes(2000)
    held_out = Shapes(300, held_out=True).batch(torch.arange(300))[0]
    new = Shapes(300, seed=9).batch(torch.arange(300))[0]
    copies = training.batch(torch.arange(300))[0] * 0.9
    honest = memorisation(new, held_out, training)
    chance = math.sqrt(601 / (12 * 300 * 300))
    assert abs(honest.nearer - 0.5) < 3 * chance
    assert memorisation(copies, held_out, training).nearer > 0.95
    mixed = memorisation(torch.cat([new[:200], copies[:100]]), held_out, training)
    assert mixed.nearer > 0.5 + 5 * chance


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="the real MNIST is not on this machine")
def test_real_digits_of_the_same_kind_are_as_near_as_held_out_ones() -> None:
    training, others = mnist.load("mnist", SHARED / "mnist", samples=3000)
    shuffled = others.take(np.random.default_rng(0).permutation(len(others))[:1000])
    report = memorisation(pixels(shuffled, 0, 500), pixels(shuffled, 500), training)
    assert report.nearer == pytest.approx(0.5, abs=3 * math.sqrt(1001 / (12 * 500 * 500)))
    assert report.close < 0.04
    ratio = report.samples.median() / report.held_out.median()
    assert ratio.item() == pytest.approx(1, abs=0.05)


def test_held_out_images_that_were_trained_on_tell_nothing() -> None:
    training = random(9)
    with pytest.raises(UserError, match="every held-out image of some is also a training image"):
        memorisation(pixels(random(4, seed=2)), pixels(training), training)
    memorisation(pixels(random(4, seed=2)), torch.cat([pixels(training), pixels(random(1, seed=3))]), training)


@pytest.mark.parametrize(("samples", "held_out"), [(0, 3), (3, 0)])
def test_there_must_be_images_of_both_kinds(samples: int, held_out: int) -> None:
    images = pixels(random(3))
    with pytest.raises(ValueError, match=f"not {samples} samples and {held_out} held out"):
        memorisation(images[:samples], images[:held_out], random(20, seed=1))
