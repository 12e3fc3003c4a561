"""Shapes: a pure function of (seed, index); every shape is complete and within its size limits; labels count them."""

import hashlib
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shapedreamer.common.noise import bits, fold
from shapedreamer.data.drawn.shapes import (
    CIRCLE_RADIUS,
    KINDS,
    LINE_DIRECTIONS,
    LINE_LENGTH,
    LINE_WIDTH,
    MAX_SHAPES,
    RECTANGLE_SIDE,
    SIZE,
    SPEC,
    TRIANGLE_SIDE,
    Shapes,
    circle,
    line,
    rectangle,
    triangle,
)

MAX_WORD = 2**32 - 1
MIDDLE = 2**31
Draw = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
DRAW: dict[str, Draw] = {"circle": circle, "rectangle": rectangle, "triangle": triangle, "line": line}
WORD = st.one_of(st.sampled_from([0, 1, MIDDLE, MAX_WORD - 1, MAX_WORD]), st.integers(0, MAX_WORD))


def word_for(value: int, low: int, high: int) -> int:
    """The lowest random word that `integers` maps to `value` in low…high."""
    return -(-(value - low) * 2**32 // (high - low + 1))


def draw(function: Draw, *words: int) -> Tensor:
    return function(*(torch.tensor([word]) for word in words))[0]


def box(mask: Tensor) -> tuple[int, int, int, int]:
    """The bounding box (left, top, right, bottom) of the white pixels; right and bottom are exclusive."""
    columns, rows = mask.any(0).nonzero().flatten(), mask.any(1).nonzero().flatten()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def crop(mask: Tensor) -> Tensor:
    left, top, right, bottom = box(mask)
    return mask[top:bottom, left:right]


def inclusive(low: int, high: int) -> range:
    return range(low, high + 1)


# each shape


def test_every_size_has_an_equal_share_of_the_random_words() -> None:
    low, high = CIRCLE_RADIUS
    for radius in inclusive(low, high):
        lowest_word = word_for(radius, low, high)
        assert box(draw(circle, lowest_word, 0, 0, 0))[2] == 2 * radius
        if radius > low:
            assert box(draw(circle, lowest_word - 1, 0, 0, 0))[2] == 2 * radius - 2
    assert box(draw(circle, MAX_WORD, 0, 0, 0))[2] == 2 * high


@pytest.mark.parametrize("radius", inclusive(*CIRCLE_RADIUS))
def test_circle(radius: int) -> None:
    size = word_for(radius, *CIRCLE_RADIUS)
    mask = draw(circle, size, 0, MIDDLE, MIDDLE)
    left, top, right, bottom = box(mask)
    assert right - left == bottom - top == 2 * radius
    assert mask.sum().item() == pytest.approx(math.pi * radius**2, rel=0.14 if radius == 3 else 0.04)
    whole = crop(mask)
    for mirrored in (whole.flip(0), whole.flip(1), whole.T):
        assert torch.equal(whole, mirrored)
    assert torch.equal(draw(circle, size, MAX_WORD, MIDDLE, MIDDLE), mask)  # the second word is unused
    for x, y, corner in ((0, 0, (0, 0)), (MAX_WORD, 0, (SIZE - 2 * radius, 0)), (0, MAX_WORD, (0, SIZE - 2 * radius))):
        at_the_border = draw(circle, size, 0, x, y)
        assert box(at_the_border)[:2] == corner
        assert torch.equal(crop(at_the_border), whole)


@pytest.mark.parametrize("width", inclusive(*RECTANGLE_SIDE))
def test_rectangle(width: int) -> None:
    for height in inclusive(*RECTANGLE_SIDE):
        words = word_for(width, *RECTANGLE_SIDE), word_for(height, *RECTANGLE_SIDE)
        for x, left in ((0, 0), (MAX_WORD, SIZE - width), (MIDDLE, (SIZE - width + 1) // 2)):
            for y, top in ((0, 0), (MAX_WORD, SIZE - height), (MIDDLE, (SIZE - height + 1) // 2)):
                expected = torch.zeros(SIZE, SIZE, dtype=torch.bool)
                expected[top : top + height, left : left + width] = True
                assert torch.equal(draw(rectangle, *words, x, y), expected)


@pytest.mark.parametrize("base", inclusive(*TRIANGLE_SIDE))
def test_triangle(base: int) -> None:
    for height in inclusive(*TRIANGLE_SIDE):
        words = word_for(base, *TRIANGLE_SIDE), word_for(height, *TRIANGLE_SIDE)
        whole = crop(draw(triangle, *words, MIDDLE, MIDDLE))
        assert torch.equal(whole, whole.flip(1))
        rows = whole.sum(1)
        assert (rows[1:] >= rows[:-1]).all()  # the apex is at the top
        assert whole.sum().item() == pytest.approx(base * height / 2, rel=0.17)
        at_the_origin = draw(triangle, *words, 0, 0)
        for y in range(height):
            for x in range(base):  # |x + ½ − base/2| ≤ base/2 · (y + ½)/height, in integers
                inside = abs(2 * x + 1 - base) * 2 * height <= base * (2 * y + 1)
                assert at_the_origin[y, x].item() == inside
        for x, left in ((0, 0), (MAX_WORD, SIZE - base)):
            for y, top in ((0, 0), (MAX_WORD, SIZE - height)):
                mask = draw(triangle, *words, x, y)
                found = box(mask)
                assert found[0] >= left
                assert found[1] >= top
                assert found[2] <= left + base
                assert found[3] == top + height
                assert torch.equal(crop(mask), whole)


@pytest.mark.parametrize("direction", range(LINE_DIRECTIONS))
def test_line(direction: int) -> None:
    angle = direction * math.pi / LINE_DIRECTIONS
    for length in inclusive(*LINE_LENGTH):
        words = word_for(length, *LINE_LENGTH), word_for(direction, 0, LINE_DIRECTIONS - 1)
        mask = draw(line, *words, MIDDLE, MIDDLE)
        y, x = mask.nonzero().double().unbind(1)
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        assert length - 1.5 < along.max() - along.min() <= length + 1e-6  # between pixel centres
        assert 1 - 1e-6 <= across.max() - across.min() < LINE_WIDTH
        assert mask.sum().item() == pytest.approx(LINE_WIDTH * length, rel=0.17)
        if length >= 12:  # the axis from second moments, which is imprecise for short thick lines
            dx, dy = x - x.mean(), y - y.mean()
            found = 0.5 * math.atan2(2 * (dx * dy).sum().item(), (dx**2 - dy**2).sum().item())
            assert math.sin(found - angle) == pytest.approx(0, abs=0.03)
        for corner in ((0, 0), (MAX_WORD, 0), (0, MAX_WORD), (MAX_WORD, MAX_WORD)):  # never clipped by the frame
            assert torch.equal(crop(draw(line, *words, *corner)), crop(mask))


@pytest.mark.parametrize("kind", KINDS)
@given(words=st.tuples(WORD, WORD, WORD, WORD))
def test_a_shape_is_complete_for_any_random_words(kind: str, words: tuple[int, int, int, int]) -> None:
    mask = draw(DRAW[kind], *words)
    assert mask.shape == (SIZE, SIZE)
    assert mask.dtype == torch.bool
    assert torch.equal(crop(mask), crop(draw(DRAW[kind], *words[:2], MIDDLE, MIDDLE)))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_drawn_in_a_batch_equal_shapes_drawn_alone(kind: str) -> None:
    words = bits(1, torch.arange(20), 4)
    together = DRAW[kind](*words.unbind(1))
    assert together.shape == (20, SIZE, SIZE)
    for i in range(20):
        assert torch.equal(together[i], draw(DRAW[kind], *words[i].tolist()))


def test_shapes_reach_all_of_the_frame() -> None:
    words = bits(2, torch.arange(3000), 4)
    for kind in KINDS:
        reached = DRAW[kind](*words.unbind(1)).any(0)
        assert box(reached) == (0, 0, SIZE, SIZE)
        assert reached[3:-3, 3:-3].all()


# the images


def test_an_image_is_the_union_of_the_shapes_of_its_random_words_and_the_label_counts_them() -> None:
    data = Shapes(samples=200, seed=5)
    images, labels = data.batch(torch.arange(200))
    words = bits(fold(5, Shapes.purpose, 0), torch.arange(200), 1 + 5 * MAX_SHAPES).tolist()
    for i, (count, *shape_words) in enumerate(words):
        white, counts = torch.zeros(SIZE, SIZE, dtype=torch.bool), [0] * len(KINDS)
        for shape in range(1 + (count * MAX_SHAPES >> 32)):
            kind, *parameters = shape_words[5 * shape : 5 * shape + 5]
            kind = kind * len(KINDS) >> 32
            white |= draw(DRAW[KINDS[kind]], *parameters)
            counts[kind] += 1
        assert torch.equal(images[i, 0] > 0, white)
        assert labels[i].tolist() == counts


def test_images_with_one_shape_match_their_label() -> None:
    images, labels = Shapes(samples=600).batch(torch.arange(600))
    single = labels.sum(1) == 1
    seen = torch.zeros(len(KINDS))
    for image, label in zip(images[single], labels[single], strict=True):
        whole = crop(image[0] > 0)
        seen += label
        H, W = whole.shape
        full, area = bool(whole.all()), whole.float().mean().item()
        upright_line = LINE_WIDTH in (H, W)
        rows = whole.sum(1)
        match KINDS[int(label.argmax())]:
            case "rectangle":
                assert full
                assert not upright_line
            case "circle":
                assert H == W
                assert not full
                assert area == pytest.approx(math.pi / 4, rel=0.14)
            case "triangle":
                assert not full
                assert (rows[1:] >= rows[:-1]).all()
                assert area == pytest.approx(0.5, abs=0.15)
            case "line":
                assert whole.sum() <= LINE_WIDTH * LINE_LENGTH[1] * 1.17
                assert upright_line or not full
    assert (seen > 20).all()


def test_an_image_is_a_pure_function_of_seed_and_index() -> None:
    data = Shapes(samples=1000, seed=3)
    index = torch.tensor([7, 999, 0, 7, 512])
    images, labels = data.batch(index)
    for i, n in enumerate(index.tolist()):
        for other in (data, Shapes(samples=2000, seed=3)):
            image, label = other.batch(torch.tensor([n]))
            assert torch.equal(image[0], images[i])
            assert torch.equal(label[0], labels[i])
    whole = data.batch(torch.arange(1000))[0]
    assert torch.equal(whole[index], images)
    assert torch.equal(data.batch(torch.arange(999, -1, -1))[0].flip(0), whole)


def test_images_match_the_spec() -> None:
    data = Shapes(samples=300)
    images, labels = data.batch(torch.arange(300))
    assert data.spec is SPEC
    assert SPEC.check(images) is images
    assert images.dtype == labels.dtype == torch.float32
    assert images.unique().tolist() == [-1, 1]
    assert labels.shape == (300, len(SPEC.labels))
    assert SPEC.labels == KINDS
    assert len(data) == 300
    assert set(labels.sum(1).tolist()) == {1, 2, 3}


def test_an_empty_batch_is_empty() -> None:
    images, labels = Shapes().batch(torch.arange(0))
    assert images.shape == (0, 1, SIZE, SIZE)
    assert labels.shape == (0, len(KINDS))


def test_counts_and_kinds_of_shapes_are_uniform() -> None:
    n = 4000
    labels = Shapes(samples=n, seed=1).batch(torch.arange(n))[1]
    counts = labels.sum(1).long().bincount(minlength=4)[1:] / n
    assert counts.tolist() == pytest.approx([1 / 3] * 3, abs=4 * math.sqrt(2 / 9 / n))
    shapes = labels.sum().item()
    kinds = (labels.sum(0) / shapes).tolist()
    assert kinds == pytest.approx([1 / 4] * 4, abs=4 * math.sqrt(3 / 16 / shapes))


def test_other_seeds_give_other_images() -> None:
    index = torch.arange(50)
    sets = [Shapes(samples=50, seed=seed).batch(index)[0] for seed in (0, 1, 2**64 - 1)]
    for first, second in itertools.combinations(sets, 2):
        assert ((first == second).flatten(1).all(1)).sum() <= 1


def test_the_held_out_set_shares_no_random_numbers_with_the_training_set() -> None:
    train, held_out = Shapes(samples=500, seed=4), Shapes(samples=500, seed=4, held_out=True)
    index = torch.arange(500)
    words = [bits(data.seed, index, 1 + 5 * MAX_SHAPES).flatten() for data in (train, held_out)]
    assert not torch.isin(words[0], words[1]).any()
    assert ((train.batch(index)[0] == held_out.batch(index)[0]).flatten(1).all(1)).sum() <= 1
    labels = held_out.batch(index)[1]
    assert (labels.sum(0) / labels.sum()).tolist() == pytest.approx([1 / 4] * 4, abs=4 * math.sqrt(3 / 16 / 1000))


@pytest.mark.parametrize("samples", [0, -1, 2**32 + 1])
def test_an_invalid_number_of_samples_is_refused(samples: int) -> None:
    with pytest.raises(ValueError, match=f"samples must be between 1 and 2³², not {samples}"):
        Shapes(samples=samples)


def test_an_invalid_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="a seed must be between"):
        Shapes(seed=-1)


@pytest.mark.parametrize("index", [[-1], [10], [0, 10], [3, -1, 5]])
def test_an_index_out_of_range_is_refused(index: list[int]) -> None:
    with pytest.raises(IndexError, match=r"is outside 0…9"):
        Shapes(samples=10).batch(torch.tensor(index))


def test_the_largest_data_set_has_a_last_image() -> None:
    images, _ = Shapes(samples=2**32).batch(torch.tensor([MAX_WORD]))
    assert images.max() == 1


def test_the_first_images_never_change() -> None:
    # Published models refer to their data by seed, so "image 7 of seed 0" must stay the same image. Any change to the
    # drawing, the order of the random words or the folding of the seed changes this hash.
    images, labels = Shapes(seed=0).batch(torch.arange(12))
    digest = hashlib.sha256((images > 0).byte().numpy().tobytes() + labels.byte().numpy().tobytes()).hexdigest()
    assert digest == "84845ca3c4f92b16195a2ea809d7b1bcbb2adb5110c0db68f7ac6802cd7b39f9"
