"""The nearest training images agree with brute force, and copies among samples are detected."""

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
    """n images, 3 x 4 x 5, of random bytes from `low` to 255."""
    return arrays(np.random.default_rng(seed).integers(low, 256, (n, 4, 5, 3), np.uint8))


def pixels(data: Arrays, first: int = 0, last: int | None = None) -> Tensor:
    return data.batch(torch.arange(len(data))[first:last])[0]


def brute_force(images: Tensor, data: Arrays, k: int) -> tuple[list[list[float]], list[list[int]]]:
    distances, indices = [], []
    for image in images.double():
        to_all = [((image - other) ** 2).mean().sqrt().item() for other in pixels(data).double()]
        order = sorted(range(len(to_all)), key=to_all.__getitem__)[:k]
        distances.append([to_all[i] for i in order])
        indices.append(order)
    return distances, indices


# nearest


@pytest.mark.parametrize("k", [1, 3, 40])
@pytest.mark.parametrize("chunk", [1, 7, 40, 512])
def test_nearest_agrees_with_brute_force_for_every_chunk_size(
    monkeypatch: pytest.MonkeyPatch, k: int, chunk: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    data = random(40, seed=1)
    images = torch.cat([pixels(random(9, seed=2)), pixels(data, 5, 8)])
    distances, indices = nearest(images, data, k)
    expected, expected_indices = brute_force(images, data, k)
    assert_close(distances, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert indices.tolist() == expected_indices


def test_k_is_1_by_default() -> None:
    data = random(20)
    distances, indices = nearest(pixels(data), data)
    assert distances.tolist() == [[0.0]] * 20
    assert indices.tolist() == [[i] for i in range(20)]


def test_the_distance_is_the_root_mean_square_of_pixel_differences() -> None:
    images = np.zeros((3, 4, 5, 3), np.uint8)
    images[1] = 255
    images[2, 0, 0, 0] = 255
    distances, indices = nearest(torch.full((1, 3, 4, 5), -1.0), arrays(images), 3)
    assert indices.tolist() == [[0, 2, 1]]
    assert distances[0].tolist() == pytest.approx([0, 2 / math.sqrt(60), 2], rel=1e-12)


def test_a_difference_of_one_level_in_one_pixel_is_detected() -> None:
    # For thousands of pixels that are far from 0, |x|² − 2xy + |y|² in single precision would lose this difference.
    images = np.repeat(np.random.default_rng(0).integers(250, 256, (1, 64, 64, 3), np.uint8), 200, axis=0)
    images.reshape(200, -1)[np.arange(1, 200), np.arange(1, 200)] -= 1
    data = arrays(images)
    chosen = torch.tensor([0, 57, 199])
    distances, indices = nearest(data.batch(chosen)[0], data, 2)
    assert indices[:, 0].tolist() == chosen.tolist()
    assert distances[:, 0].tolist() == [0, 0, 0]
    assert indices[1:, 1].tolist() == [0, 0]  # all other images differ from these in two pixels
    assert distances[:, 1].tolist() == pytest.approx([1 / 127.5 / math.sqrt(3 * 64 * 64)] * 3, rel=1e-4)


def test_distances_between_bright_images_are_exact() -> None:
    data = random(600, seed=1, low=240)
    images = pixels(data, 100, 110) + 1e-6
    distances, indices = nearest(images, data)
    assert indices[:, 0].tolist() == list(range(100, 110))
    exact = (images.double() - pixels(data, 100, 110).double()).square().mean((1, 2, 3)).sqrt()
    assert_close(distances[:, 0], exact, rtol=1e-12, atol=0)
    assert distances.max() < 1.2e-6


def test_shuffling_the_training_data_only_changes_the_indices() -> None:
    data, images = random(700, seed=1), pixels(random(30, seed=2))
    order = np.random.default_rng(3).permutation(700)
    distances, indices = nearest(images, data, 4)
    shuffled, shuffled_indices = nearest(images, data.take(order), 4)
    assert_close(shuffled, distances, rtol=1e-12, atol=0)
    assert torch.equal(torch.from_numpy(order)[shuffled_indices], indices)


def test_duplicate_training_images_are_each_found_once() -> None:
    data = random(5)
    distances, indices = nearest(pixels(data, 2, 3), data.take(np.array([0, 2, 1, 2, 4, 2])), 3)
    assert sorted(indices[0].tolist()) == [1, 3, 5]
    assert distances.tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("k", [0, -1, 21])
def test_k_must_not_exceed_the_number_of_training_images(k: int) -> None:
    with pytest.raises(ValueError, match=f"k must be between 1 and 20, the number of training images, not {k}"):
        nearest(pixels(random(3)), random(20), k)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 1, 4, 5), (2, 60), (3, 4, 5)])
def test_images_of_another_size_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"for some they must be \(N, \*\(3, 4, 5\)\)"):
        nearest(torch.zeros(shape), random(20))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_images_are_rejected(value: float) -> None:
    images = pixels(random(3))
    images[1, 0, 2, 3] = value
    with pytest.raises(UserError, match="NaN or infinite"):
        nearest(images, random(20))


# memorisation


def memorisation_of(samples: list[float], held_out: list[float]) -> Memorisation:
    return Memorisation(torch.tensor(samples).double(), torch.tensor(held_out).double(), torch.zeros(0, 2).long())


def test_nearer_counts_pairs_and_ties_count_half() -> None:
    assert memorisation_of([1, 2], [3, 4, 5]).nearer == 1
    assert memorisation_of([6, 7], [3, 4, 5]).nearer == 0
    assert memorisation_of([3, 4, 5], [3, 4, 5]).nearer == 0.5
    assert memorisation_of([1, 4], [2, 4, 9, 9]).nearer == pytest.approx(
        (4 + 2.5) / 8
    )  # 1 is below all four; 4 is below two and ties with one
    assert memorisation_of([0, 0], [0, 0]).nearer == 0.5


def test_nearer_has_the_documented_standard_error() -> None:
    generator = torch.Generator().manual_seed(0)
    n, m = 100, 40
    values = torch.tensor(
        [
            Memorisation(
                torch.rand(n, generator=generator), torch.rand(m, generator=generator), torch.zeros(0, 2)
            ).nearer
            for _ in range(2000)
        ]
    )
    assert values.mean().item() == pytest.approx(0.5, abs=0.005)
    assert values.std().item() == pytest.approx(math.sqrt((n + m + 1) / (12 * n * m)), rel=0.06)


@pytest.mark.parametrize(("m", "share"), [(1, 1), (10, 0.1), (100, 0.01), (101, 2 / 101), (200, 0.01), (512, 6 / 512)])
def test_close_is_the_distance_of_the_closest_hundredth_of_held_out_images(m: int, share: float) -> None:
    held_out = [float(i) for i in range(1, m + 1)]
    limit = math.ceil(m / 100)
    report = memorisation_of([0.0, limit, limit + 0.5, 1e9], held_out[::-1])
    assert report.close_held_out == pytest.approx(share)
    assert report.close == 0.5  # 0 and the limit itself


def test_exact_copies_are_detected() -> None:
    training = random(600, seed=1)
    copied = torch.tensor([599, 3, 77, 512, 0])
    report = memorisation(training.batch(copied)[0], pixels(random(50, seed=2)), training)
    assert report.samples.tolist() == [0] * 5
    assert report.pairs.tolist() == [[i, index] for i, index in enumerate(copied.tolist())]
    assert (report.nearer, report.close) == (1, 1)
    assert report.held_out.min() > 0.3


def test_the_closest_pairs_come_first() -> None:
    training, new = random(600, seed=1), pixels(random(200, seed=3))
    generator = torch.Generator().manual_seed(0)
    samples = new.clone()
    for sample, index, noise in ((150, 7, 0.03), (20, 300, 0.01), (199, 0, 0.02)):
        image = training.batch(torch.tensor([index]))[0][0]
        samples[sample] = image + noise * torch.randn(image.shape, generator=generator)
    report = memorisation(samples, pixels(random(512, seed=2)), training, max_pairs=4)
    assert report.pairs[:3].tolist() == [[20, 300], [199, 0], [150, 7]]
    assert report.pairs.shape == (4, 2)
    assert 3 / 200 <= report.close < 0.05
    assert report.nearer == pytest.approx(0.5, abs=0.1)  # three copies are too few to change it


def test_distances_and_pairs_agree_with_nearest() -> None:
    training, samples, held_out = random(100, seed=1), pixels(random(30, seed=2)), pixels(random(20, seed=3))
    report = memorisation(samples, held_out, training, max_pairs=30)
    distances, indices = nearest(samples, training)
    assert_close(report.samples, distances[:, 0], rtol=1e-12, atol=0)
    assert_close(report.held_out, nearest(held_out, training)[0][:, 0], rtol=1e-12, atol=0)
    order = sorted(range(30), key=lambda i: report.samples[i].item())
    assert report.pairs.tolist() == [[i, indices[i, 0].item()] for i in order]
    assert memorisation(samples, held_out, training, max_pairs=99).pairs.shape == (30, 2)
    assert memorisation(samples, held_out, training).pairs.shape == (8, 2)


def test_new_drawings_do_not_count_as_copies_but_dimmed_copies_do() -> None:
    training = Shapes(2000)
    held_out = Shapes(300, held_out=True).batch(torch.arange(300))[0]
    new = Shapes(300, seed=9).batch(torch.arange(300))[0]
    copies = training.batch(torch.arange(300))[0] * 0.9
    report = memorisation(new, held_out, training)
    standard_error = math.sqrt(601 / (12 * 300 * 300))
    assert abs(report.nearer - 0.5) < 3 * standard_error
    assert memorisation(copies, held_out, training).nearer > 0.95
    mixed = memorisation(torch.cat([new[:200], copies[:100]]), held_out, training)
    assert mixed.nearer > 0.5 + 5 * standard_error


@pytest.mark.skipif(not (SHARED / "mnist").is_dir(), reason="MNIST is not on this machine")
def test_unseen_digits_are_as_close_as_held_out_digits() -> None:
    training, others = mnist.load("mnist", SHARED / "mnist", samples=3000)
    shuffled = others.take(np.random.default_rng(0).permutation(len(others))[:1000])
    report = memorisation(pixels(shuffled, 0, 500), pixels(shuffled, 500), training)
    assert report.nearer == pytest.approx(0.5, abs=3 * math.sqrt(1001 / (12 * 500 * 500)))
    assert report.close < 0.04
    ratio = report.samples.median() / report.held_out.median()
    assert ratio.item() == pytest.approx(1, abs=0.05)


def test_held_out_images_must_differ_from_the_training_images() -> None:
    training = random(9)
    with pytest.raises(UserError, match="every held-out image of some is also a training image"):
        memorisation(pixels(random(4, seed=2)), pixels(training), training)
    memorisation(pixels(random(4, seed=2)), torch.cat([pixels(training), pixels(random(1, seed=3))]), training)


@pytest.mark.parametrize(("samples", "held_out"), [(0, 3), (3, 0)])
def test_samples_and_held_out_images_are_required(samples: int, held_out: int) -> None:
    images = pixels(random(3))
    with pytest.raises(ValueError, match=f"not {samples} samples and {held_out} held out"):
        memorisation(images[:samples], images[:held_out], random(20, seed=1))
