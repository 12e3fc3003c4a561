"""Images held as bytes: exact values, reproducible subsets, and no held-out image in the training set."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shapedreamer.data.arrays import MAX_HELD_OUT, Arrays, first, one_hot, split


def random(n: int, channels: int = 3, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 4, 6, channels), np.uint8)
    return Arrays("random", images, one_hot(rng.integers(0, 3, n), 3), ("a", "b", "c"))


def numbered(n: int, copies: int = 1) -> Arrays:
    """n distinct images whose pixels and labels encode their number, each `copies` times."""
    number = np.arange(n * copies) % n
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8).reshape(-1, 1, 2, 1)
    return Arrays("numbered", images, number[:, None].astype(np.float32), ("number",))


def numbers(data: Arrays) -> list[int]:
    return data.labels[:, 0].astype(int).tolist()


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bytes_are_scaled_to_minus_one_to_one_in_channel_first_order(channels: int) -> None:
    data = random(5, channels)
    images, labels = data.batch(torch.tensor([4, 0, 4]))
    assert images.shape == (3, channels, 4, 6)
    assert images.dtype == labels.dtype == torch.float32
    expected = data.images[[4, 0, 4]].transpose(0, 3, 1, 2) / 127.5 - 1
    assert np.allclose(images.numpy(), expected, atol=1e-6)
    assert (labels.numpy() == data.labels[[4, 0, 4]]).all()
    assert data.spec.check(images) is images


def test_black_and_white_are_exactly_the_ends_of_the_range() -> None:
    data = Arrays("ends", np.array([0, 255], np.uint8).reshape(1, 1, 2, 1), np.zeros((1, 0)), ())
    assert data.batch(torch.tensor([0]))[0].flatten().tolist() == [-1, 1]


@pytest.mark.parametrize("index", [[-1], [5], [0, 99]])
def test_an_index_out_of_range_is_refused(index: list[int]) -> None:
    with pytest.raises(IndexError, match=r"outside 0…4"):
        random(5).batch(torch.tensor(index))


def test_the_hash_depends_on_every_bit_of_images_and_labels() -> None:
    sha256 = random(5).spec.sha256
    assert sha256 == random(5).spec.sha256
    changed = random(5)
    changed.images[3, 2, 1, 0] ^= 1
    relabelled = random(5).labels.copy()
    relabelled[2] = relabelled[2][::-1] + 1
    names = ("a", "b", "c")
    assert Arrays("random", changed.images, changed.labels, names).spec.sha256 != sha256
    assert Arrays("random", random(5).images, relabelled, names).spec.sha256 != sha256


@given(st.integers(10, 700), st.integers(1, 4))
def test_no_duplicate_of_a_held_out_image_is_in_the_training_set_and_all_images_are_used(n: int, copies: int) -> None:
    training, held_out = split(numbered(n, copies))
    assert not set(numbers(training)) & set(numbers(held_out))
    assert sorted(numbers(training) + copies * numbers(held_out)) == sorted(copies * list(range(n)))
    assert len(held_out) == min(MAX_HELD_OUT, n // 10)


@pytest.mark.parametrize("n", [1, 9])
def test_with_fewer_than_ten_images_both_sets_are_the_whole_data_set(n: int) -> None:
    training, held_out = split(numbered(n))
    assert numbers(training) == numbers(held_out) == list(range(n))


def test_a_subset_is_reproducible_and_covers_the_whole_data_set() -> None:
    data = numbered(1000)  # in order, as sorted files are
    subset = numbers(first(data, 100))
    assert subset == numbers(first(data, 100))
    assert subset[:50] == numbers(first(data, 50))
    assert len(set(subset)) == 100
    assert 400 < np.mean(subset) < 600
    assert first(data, None) is data
    assert first(data, 5000) is data


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros((0, 3))),
        (np.zeros((2, 4, 4), np.uint8), np.zeros((2, 3))),
        (np.zeros((2, 4, 4, 2), np.uint8), np.zeros((2, 3))),
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 3))),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((3, 3))),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((2, 2))),
    ],
)
def test_arrays_of_the_wrong_shape_or_type_are_refused(images: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"wrong: (images|labels) must be"):
        Arrays("wrong", images, labels, ("a", "b", "c"))
