"""Counter-based noise: known answers, the tables in docs/noise.md, a second implementation and statistics."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common import noise
from shapedreamer.common.noise import Noise, bits, fold, normal, threefry2x32

MAX_WORD = 2**32 - 1
SPECIFICATION = Path(__file__).parents[2] / "docs" / "noise.md"
WORD = st.integers(0, MAX_WORD)
SEED = st.integers(0, 2**64 - 1)


def tensor(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """threefry2x32 of ints, after checking that tensors and arrays give the same words."""
    ints = threefry2x32(key, counter)
    tensors = threefry2x32(key, (tensor(counter[0]), tensor(counter[1])))
    arrays = threefry2x32(key, (np.array(counter[:1], np.uint32), np.array(counter[1:], np.uint32)))
    assert [x.item() for x in tensors] == [x.item() for x in arrays] == list(ints)
    assert {x.dtype for x in arrays} == {np.dtype(np.uint32)}
    return ints


# a second implementation, with plain ints and the math module, written from docs/noise.md and not from noise.py


def plain_threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    k = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x0, x1 = (counter[0] + k[0]) % 2**32, (counter[1] + k[1]) % 2**32
    for number in range(20):
        x0 = (x0 + x1) % 2**32
        r = (13, 15, 26, 6, 17, 29, 16, 24)[number % 8]
        x1 = ((x1 << r | x1 >> (32 - r)) % 2**32) ^ x0
        if number % 4 == 3:
            j = (number + 1) // 4
            x0, x1 = (x0 + k[j % 3]) % 2**32, (x1 + k[(j + 1) % 3] + j) % 2**32
    return x0, x1


def plain_fold(seed: int, *numbers: int) -> int:
    for number in numbers:
        high, low = plain_threefry((seed >> 32, seed & MAX_WORD), (number, len(numbers)))
        seed = high * 2**32 + low
    return seed


def plain_word(seed: int, index: int, w: int) -> int:
    return plain_threefry((seed >> 32, seed & MAX_WORD), (index, w // 2))[w % 2]


def plain_normal(seed: int, step: int, index: int, pixel: int) -> float:
    key, first = plain_fold(seed, step), pixel - pixel % 2
    u, w = ((plain_word(key, index, first + i) + 0.5) * 2.0**-32 for i in (0, 1))
    return math.sqrt(-2 * math.log(u)) * (math.sin if pixel % 2 else math.cos)(2 * math.pi * w)


# known answers


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((MAX_WORD, MAX_WORD), (MAX_WORD, MAX_WORD), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_threefry_matches_the_random123_known_answers(
    key: tuple[int, int], counter: tuple[int, int], words: tuple[int, int]
) -> None:
    assert threefry(key, counter) == words
    assert plain_threefry(key, counter) == words


@given(st.tuples(WORD, WORD), st.tuples(WORD, WORD))
def test_threefry_matches_the_specification(key: tuple[int, int], counter: tuple[int, int]) -> None:
    assert threefry(key, counter) == plain_threefry(key, counter)


@given(SEED, st.lists(WORD, max_size=4))
def test_fold_matches_the_specification(seed: int, numbers: list[int]) -> None:
    assert fold(seed, *numbers) == plain_fold(seed, *numbers)


@given(SEED, WORD, st.integers(0, 9))
def test_bits_match_the_specification(seed: int, index: int, count: int) -> None:
    assert bits(seed, tensor(index), count).tolist() == [[plain_word(seed, index, w) for w in range(count)]]


@given(SEED, WORD, WORD, st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)))
def test_normal_matches_the_specification(seed: int, step: int, index: int, shape: tuple[int, int, int]) -> None:
    z = normal(seed, step, tensor(index), shape)
    C, H, W = shape
    assert z.shape == (1, C, H, W)
    for c in range(C):
        for y in range(H):
            for x in range(W):
                expected = plain_normal(seed, step, index, (c * H + y) * W + x)
                assert z[0, c, y, x].item() == pytest.approx(expected, abs=1e-12)


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading of the specification."""

    def rows() -> Iterator[list[str]]:
        section = ""
        for line in SPECIFICATION.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                section = line.strip("# ")
            elif line.startswith("|") and section == heading:
                yield [cell.strip() for cell in line.strip("|").split("|")]

    _, rule, *values = rows()
    assert set("".join(rule)) == {"-"}
    return values


def pair(text: str) -> tuple[int, int]:
    first, second = text.split()
    return int(first, 16), int(second, 16)


def test_tables_in_the_specification_are_correct() -> None:
    vectors, folds, words, normals = (table(name) for name in ("threefry", "fold", "bits", "normal"))
    assert min(len(rows) for rows in (vectors, folds, words, normals)) >= 4
    for key, counter, expected in vectors:
        assert threefry(pair(key), pair(counter)) == pair(expected)
    for seed, numbers, new in folds:
        assert f"{fold(int(seed, 16), *map(int, numbers.split())):016x}" == new
    for seed, index, first in words:
        found = bits(int(seed, 16), tensor(int(index)), len(first.split()))[0].tolist()
        assert " ".join(f"{word:08x}" for word in found) == first
    for seed, step, index, pixel, z in normals:
        image = normal(int(seed, 16), int(step), tensor(int(index)), (int(pixel) + 1,))
        assert image[0, -1].item() == pytest.approx(float(z), abs=1e-12)


# no dependence on the batch or on earlier calls


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8), st.integers(0, 50))
def test_noise_of_an_image_does_not_depend_on_its_batch(index: list[int], step: int) -> None:
    together = normal(3, step, tensor(*index), (1, 3, 3))
    for i, alone in enumerate(index):
        assert_close(together[i], normal(3, step, tensor(alone), (1, 3, 3))[0], rtol=0, atol=1e-14)
    words = bits(3, tensor(*index), 7)
    for i, alone in enumerate(index):
        assert torch.equal(words[i], bits(3, tensor(alone), 7)[0])


@pytest.mark.parametrize("step", [0, 1, 999])
def test_image_7_gets_the_same_noise_in_any_batch(step: int) -> None:
    alone = Noise(5, first=7)(step, torch.zeros(1, 1, 4, 4, dtype=torch.float64))[0]
    for first, size in ((0, 8), (7, 3), (3, 100)):
        batch = Noise(5, first)(step, torch.zeros(size, 1, 4, 4, dtype=torch.float64))
        assert_close(batch[7 - first], alone, rtol=0, atol=1e-14)


def test_noise_object_returns_normal_of_its_indices() -> None:
    like = torch.zeros(3, 2, 2, 5)
    expected = normal(11, 4, tensor(6, 7, 8), (2, 2, 5))
    assert torch.equal(Noise(11, first=6)(4, like), expected.float())
    assert torch.equal(Noise(11, first=6)(4, like.double()), expected)
    assert Noise(11)(4, like.bfloat16()).dtype == torch.bfloat16


def test_calls_have_no_side_effects() -> None:
    source, like = Noise(1), torch.zeros(2, 1, 3, 3)
    first = source(5, like)
    source(6, like)
    assert torch.equal(source(5, like), first)
    state = torch.random.get_rng_state()
    source(7, like)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_odd_pixel_counts_give_a_prefix_of_even_ones() -> None:
    odd, even = normal(2, 3, tensor(0, 9), (3, 3)), normal(2, 3, tensor(0, 9), (10,))
    assert odd.shape == (2, 3, 3)
    assert torch.equal(odd.flatten(1), even[:, :9])
    assert torch.equal(bits(2, tensor(4), 5), bits(2, tensor(4), 6)[:, :5])
    assert normal(2, 3, tensor(0), (1, 1, 1)).shape == (1, 1, 1, 1)


def test_each_seed_step_and_index_gives_a_different_stream() -> None:
    streams = [
        normal(seed, step, tensor(index), (64,))[0]
        for seed in (0, 1, 2**32, 2**32 + 1, 2**64 - 1)
        for step in (0, 1, 2, 1000)
        for index in (0, 1, 2, MAX_WORD)
    ]
    values = torch.stack(streams)
    assert len(values.flatten().unique()) == values.numel()


def test_fold_gives_distinct_seeds() -> None:
    seeds = [0, 5, 2**32, 2**64 - 1]
    numbers = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (MAX_WORD,)]
    folded = {fold(seed, *n) for seed in seeds for n in numbers}
    assert len(folded) == len(seeds) * len(numbers)
    assert all(0 <= seed < 2**64 for seed in folded)
    assert fold(5, 1, 2) != fold(fold(5, 1), 2)


# ranges


@pytest.mark.parametrize("seed", [-1, 2**64, -(2**63)])
def test_seeds_outside_64_bits_raise(seed: int) -> None:
    for call in (lambda: fold(seed, 0), lambda: bits(seed, tensor(0), 1), lambda: Noise(seed)):
        with pytest.raises(ValueError, match="between 0 and 2⁶⁴−1"):
            call()


@pytest.mark.parametrize("number", [-1, 2**32])
def test_numbers_and_indices_outside_32_bits_raise(number: int) -> None:
    with pytest.raises(ValueError, match="outside 0…2³²−1"):
        fold(0, number)
    with pytest.raises(ValueError, match="outside 0…2³²−1"):
        normal(0, number, tensor(0), (2,))
    with pytest.raises(ValueError, match="between 0 and 2³²−1"):
        Noise(0, first=number)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (0, MAX_WORD), (MAX_WORD, 0), (MAX_WORD, MAX_WORD), (2**31, 2**30)])
def test_extreme_words_give_finite_numbers(a: int, b: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_pairs", lambda seed, index, count: (tensor(a)[None], tensor(b)[None]))
    z = normal(0, 0, tensor(0), (2,))[0]
    u, w = (a + 0.5) / 2**32, (b + 0.5) / 2**32
    radius = math.sqrt(-2 * math.log(u))
    assert 0 < radius <= math.sqrt(66 * math.log(2)) * (1 + 1e-12)
    assert z[0].item() == pytest.approx(radius * math.cos(2 * math.pi * w), abs=1e-12)
    assert z[1].item() == pytest.approx(radius * math.sin(2 * math.pi * w), abs=1e-12)


# statistics; the noise is fixed, so each of these tests always passes or always fails

N = 60_000


@pytest.fixture(scope="module")
def sample() -> Tensor:
    return normal(2024, 0, torch.arange(200), (N // 200,))


def test_moments_match_a_normal_distribution(sample: Tensor) -> None:
    z = sample.flatten()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10395 - 225)):
        assert (z**power).mean().item() == pytest.approx(moment, abs=4 * math.sqrt(variance / N))
    assert z.abs().max() < 6.77


@pytest.mark.parametrize("part", [slice(None), slice(0, None, 2), slice(1, None, 2)])
def test_kolmogorov_smirnov_distance_is_small(sample: Tensor, part: slice) -> None:
    z = sample[:, part].flatten().sort().values  # all, cosines only, sines only
    empirical = torch.arange(len(z) + 1, dtype=torch.float64) / len(z)
    cdf = torch.special.ndtr(z)
    distance = torch.maximum(empirical[1:] - cdf, cdf - empirical[:-1]).max().item()
    assert distance * math.sqrt(len(z)) < 1.95  # truly normal samples exceed this once in 1000 times


def test_positive_and_negative_are_equally_likely(sample: Tensor) -> None:
    assert (sample > 0).double().mean().item() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(N))
    left, right = sample.flatten().sort().values[:1000].mean(), sample.flatten().sort().values[-1000:].mean()
    assert (left + right).abs() < 0.05


def test_neighbouring_values_are_independent(sample: Tensor) -> None:
    step, seed = normal(2024, 1, torch.arange(200), (N // 200,)), normal(2025, 0, torch.arange(200), (N // 200,))
    # squares too: the two numbers of a Box-Muller pair share a radius, but must still be independent
    for a, b in (
        (sample[:, ::2], sample[:, 1::2]),
        (sample[:, :-1], sample[:, 1:]),
        (sample[:-1], sample[1:]),
        (sample, step),
        (sample, seed),
    ):
        limit = 4 / math.sqrt(a.numel())
        assert (a * b).mean().abs() < limit
        assert ((a**2 - 1) * (b**2 - 1)).mean().abs() < 2 * limit


def test_each_bit_of_a_word_is_set_half_the_time() -> None:
    words = bits(7, torch.arange(300), 100).flatten()
    for bit in range(32):
        share = ((words >> bit) & 1).double().mean().item()
        assert share == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(words)))
    assert words.min() >= 0
    assert words.max() <= MAX_WORD


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_numbers() -> None:
    index = tensor(0, 7, MAX_WORD)
    assert torch.equal(bits(5, index.cuda(), 9).cpu(), bits(5, index, 9))
    assert_close(normal(5, 3, index.cuda(), (3, 5, 5)).cpu(), normal(5, 3, index, (3, 5, 5)), rtol=0, atol=1e-12)
