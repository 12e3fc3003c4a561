"""Patterns: a pure function of (seed, index); every shape is complete and exact to the pixel; labels count them."""

import copy
import hashlib
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shapedreamer.common.errors import UserError
from shapedreamer.common.noise import bits, fold
from shapedreamer.data.drawn.patterns import (
    CIRCLE_RADIUS,
    KINDS,
    MAX_SHAPES,
    SIZE,
    SPEC,
    SQUARE_SIDE,
    WORDS,
    Patterns,
    draw_circle,
    draw_square,
)

pytest.importorskip("cv2", reason="needs the extra 'data'")

MAX_WORD = 2**32 - 1
ROW, COLUMN = np.mgrid[:SIZE, :SIZE]


def disc(radius: int, left: int, top: int) -> np.ndarray:
    return (COLUMN - left - radius) ** 2 + (ROW - top - radius) ** 2 <= radius**2


def square(side: int, left: int, top: int) -> np.ndarray:
    return (left <= COLUMN) & (left + side > COLUMN) & (top <= ROW) & (top + side > ROW)


# each shape


@given(radius=st.integers(*CIRCLE_RADIUS), at=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_circle_covers_the_pixels_within_its_radius(radius: int, at: tuple[float, float]) -> None:
    left, top = (round(place * (SIZE - 2 * radius - 1)) for place in at)
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    draw_circle(canvas, radius, left, top)
    assert np.array_equal(canvas, disc(radius, left, top))
    assert canvas.sum() == sum(2 * math.isqrt(radius**2 - y**2) + 1 for y in range(-radius, radius + 1))  # not clipped


@given(side=st.integers(*SQUARE_SIDE), at=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_square_covers_exactly_its_pixels(side: int, at: tuple[float, float]) -> None:
    left, top = (round(place * (SIZE - side)) for place in at)
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    draw_square(canvas, side, left, top)
    assert np.array_equal(canvas, square(side, left, top))
    assert canvas.sum() == side**2


def test_a_shape_is_added_to_the_canvas() -> None:
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    draw_square(canvas, 20, 10, 10)
    draw_circle(canvas, 8, 20, 5)
    assert np.array_equal(canvas, square(20, 10, 10) | disc(8, 20, 5))


# the images


def test_an_image_is_the_union_of_the_shapes_of_its_random_words_and_the_label_counts_them() -> None:
    data = Patterns(samples=300, seed=5)
    images, labels = data.batch(torch.arange(300))
    words = bits(fold(5, Patterns.purpose, 0), torch.arange(300), 1 + WORDS * MAX_SHAPES).tolist()
    seen = set()
    for i, (count, *shape_words) in enumerate(words):
        white, counts = np.zeros((SIZE, SIZE), bool), [0, 0]
        for shape in range(1 + (count * MAX_SHAPES >> 32)):
            kind, size, x, y = shape_words[WORDS * shape : WORDS * (shape + 1)]
            kind = kind * 2 >> 32
            low, high = (CIRCLE_RADIUS, SQUARE_SIDE)[kind]
            size = low + (size * (high - low + 1) >> 32)
            free = SIZE - (2 * size + 1, size)[kind]  # free columns, and as many free rows
            white |= (disc, square)[kind](size, x * (free + 1) >> 32, y * (free + 1) >> 32)
            counts[kind] += 1
            seen.add((KINDS[kind], size))
        assert np.array_equal(images[i, 0].numpy() > 0, white)
        assert labels[i].tolist() == counts
    assert seen == {("circle", r) for r in range(5, 15)} | {("square", s) for s in range(8, 27)}


def test_images_with_one_shape_match_their_label() -> None:
    images, labels = Patterns(samples=600).batch(torch.arange(600))
    single = labels.sum(1) == 1
    seen = torch.zeros(2)
    for image, label in zip(images[single, 0] > 0, labels[single], strict=True):
        columns, rows = image.any(0).nonzero().flatten(), image.any(1).nonzero().flatten()
        width = len(columns)
        assert len(rows) == width == columns[-1] - columns[0] + 1
        expected = disc((width - 1) // 2, 0, 0) if label[0] else square(width, 0, 0)
        whole = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert np.array_equal(whole, expected[:width, :width])
        seen += label
    assert (seen > 50).all()


def test_shapes_reach_all_of_the_frame() -> None:
    images, labels = Patterns(samples=2000, seed=2).batch(torch.arange(2000))
    for kind in range(2):
        reached = (images[labels[:, 1 - kind] == 0, 0] > 0).any(0)
        assert reached.any(0).all()
        assert reached.any(1).all()
        assert reached[4:-4, 4:-4].all()


def test_an_image_is_a_pure_function_of_seed_and_index() -> None:
    data = Patterns(samples=1000, seed=3)
    index = torch.tensor([7, 999, 0, 7, 512])
    images, labels = data.batch(index)
    for i, n in enumerate(index.tolist()):
        for other in (data, Patterns(samples=2000, seed=3), copy.deepcopy(data)):
            image, label = other.batch(torch.tensor([n]))
            assert torch.equal(image[0], images[i])
            assert torch.equal(label[0], labels[i])
    whole = data.batch(torch.arange(1000))[0]
    assert torch.equal(whole[index], images)
    assert torch.equal(data.batch(torch.arange(999, -1, -1))[0].flip(0), whole)


def test_images_match_the_spec() -> None:
    data = Patterns(samples=300)
    images, labels = data.batch(torch.arange(300))
    assert data.spec is SPEC
    assert SPEC.check(images) is images
    assert images.dtype == labels.dtype == torch.float32
    assert images.unique().tolist() == [-1, 1]
    assert labels.shape == (300, 2)
    assert SPEC.labels == KINDS == ("circle", "square")
    assert len(data) == 300
    assert set(labels.sum(1).tolist()) == {1, 2, 3}


def test_an_empty_batch_is_empty() -> None:
    images, labels = Patterns().batch(torch.arange(0))
    assert images.shape == (0, 1, SIZE, SIZE)
    assert labels.shape == (0, 2)


def test_counts_and_kinds_of_shapes_are_uniform() -> None:
    n = 3000
    labels = Patterns(samples=n, seed=1).batch(torch.arange(n))[1]
    counts = labels.sum(1).long().bincount(minlength=4)[1:] / n
    assert counts.tolist() == pytest.approx([1 / 3] * 3, abs=4 * math.sqrt(2 / 9 / n))
    shapes = labels.sum().item()
    assert (labels.sum(0) / shapes).tolist() == pytest.approx([1 / 2] * 2, abs=4 * math.sqrt(1 / 4 / shapes))


def test_other_seeds_give_other_images() -> None:
    index = torch.arange(50)
    sets = [Patterns(samples=50, seed=seed).batch(index)[0] for seed in (0, 1, 2**64 - 1)]
    for first, second in itertools.combinations(sets, 2):
        assert not (first == second).flatten(1).all(1).any()


def test_the_held_out_set_shares_no_random_numbers_with_the_training_set() -> None:
    train, held_out = Patterns(samples=500, seed=4), Patterns(samples=500, seed=4, held_out=True)
    index = torch.arange(500)
    words = [bits(data.seed, index, 1 + WORDS * MAX_SHAPES).flatten() for data in (train, held_out)]
    assert not torch.isin(words[0], words[1]).any()
    assert (train.batch(index)[0] == held_out.batch(index)[0]).flatten(1).all(1).sum() <= 1


@pytest.mark.parametrize("samples", [0, -1, 2**32 + 1])
def test_an_invalid_number_of_samples_is_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples must be between 1 and 2³², not {samples}"):
        Patterns(samples=samples)


def test_an_invalid_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="a seed must be between"):
        Patterns(seed=-1)


@pytest.mark.parametrize("index", [[-1], [10], [0, 10], [3, -1, 5]])
def test_an_index_out_of_range_is_refused(index: list[int]) -> None:
    with pytest.raises(IndexError, match=r"is outside 0…9"):
        Patterns(samples=10).batch(torch.tensor(index))


def test_the_largest_data_set_has_a_last_image() -> None:
    images, _ = Patterns(samples=2**32).batch(torch.tensor([MAX_WORD]))
    assert images.max() == 1


def test_without_opencv_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"needs cv2: pip install 'shapedreamer\[data\]'"):
        Patterns()


def test_the_first_images_never_change() -> None:
    # Published models refer to their data by seed. The drawing, the order of the random words, the folding of the seed
    # and OpenCV all affect this hash.
    images, labels = Patterns(seed=0).batch(torch.arange(12))
    digest = hashlib.sha256((images > 0).byte().numpy().tobytes() + labels.byte().numpy().tobytes()).hexdigest()
    assert digest == "49998b07e37b4a872dca16d29e447545e27f14177fa11298592488c486be8461"
