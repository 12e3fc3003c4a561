"""Counter-based noise: the normal numbers of (seed, step, image index, pixel), the same in every batch and language.

There is no state. A block cipher with a short key, Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3"), turns a counter into 64 random bits, and Box-Muller turns those into two normal numbers.
docs/noise.md is the specification that other implementations follow.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_MASK = 0xFFFFFFFF

Words = TypeVar("Words", int, "npt.NDArray[Any]", Tensor)


def threefry2x32(key: tuple[int, int], counter: tuple[Words, Words]) -> tuple[Words, Words]:
    """Threefry-2x32-20: two 32-bit words of counter -> two 32-bit random words, under two words of key.

    Words are 0…2³²−1: ints, uint32 arrays, or int64 tensors, as torch has no full uint32 arithmetic. Those of any two
    shapes are broadcast together.
    """
    # a uint32 wraps around by itself
    wrapped: Callable[[Any], Any] = (lambda x: x) if isinstance(counter[0], np.ndarray) else (lambda x: x & _MASK)
    k0, k1 = key
    keys = (k0, k1, 0x1BD11BDA ^ k0 ^ k1)
    x0, x1 = wrapped(counter[0] + k0), wrapped(counter[1] + k1)
    for group in range(5):
        for i in range(4):
            r = _ROTATIONS[(4 * group + i) % 8]
            x0 = wrapped(x0 + x1)
            x1 = (wrapped(x1 << r) | (x1 >> (32 - r))) ^ x0
        x0 = wrapped(x0 + keys[(group + 1) % 3])
        x1 = wrapped(x1 + (keys[(group + 2) % 3] + group + 1 & _MASK))
    return x0, x1


def fold(seed: int, *numbers: int) -> int:
    """A new 64-bit seed for (seed, numbers…): how one seed serves many purposes without their streams meeting.

    seed: 0…2⁶⁴−1; numbers: 0…2³²−1 each. Raises ValueError outside.
    """
    _check_seed(seed)
    for number in numbers:
        if not 0 <= number <= _MASK:
            raise ValueError(f"{number} is outside 0…2³²−1")
        high, low = threefry2x32((seed >> 32, seed & _MASK), (number, len(numbers)))
        seed = high << 32 | low
    return seed


def bits(seed: int, index: Tensor, count: int) -> Tensor:
    """`count` random 32-bit words for each index: (B,) -> (B, count) int64 in 0…2³²−1."""
    pairs = [torch.as_tensor(words).long() for words in _pairs(seed, index, count)]
    return torch.stack(pairs, dim=2).flatten(1)[:, :count]


def _pairs(seed: int, index: Tensor, count: int) -> tuple[Any, Any]:
    """The first words and the second words of as many pairs as hold `count`, each (B, ⌈count / 2⌉)."""
    _check_seed(seed)
    key, pairs = (seed >> 32, seed & _MASK), (count + 1) // 2
    if index.device.type == "cpu":  # for which numpy has uint32: a fifth of the time
        of_all = np.arange(pairs, dtype=np.uint32)[None]
        return threefry2x32(key, (index.numpy().astype(np.uint32)[:, None], of_all))
    return threefry2x32(key, (index[:, None], torch.arange(pairs, device=index.device)[None]))


def integers(word: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """Random 32-bit words as integers in low…high, both included: word · (high − low + 1) / 2³², rounded down."""
    return low + ((word * (high - low + 1)) >> 32)


def normal(seed: int, step: int, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers for images `index` at `step`: (B,) int64 -> (B, *shape) float64, on the CPU or a GPU.

    Pixels are numbered along the flattened shape. Computed in float64, which every language agrees on up to rounding.
    """
    count = math.prod(shape)
    # on a CPU in numpy: torch's threads, called for so little, wait for a busy processor, and numpy has none
    xp: Any = np if index.device.type == "cpu" else torch
    # in (0, 1), never 0: the logarithm is finite
    u, v = ((xp.asarray(words, dtype=xp.float64) + 0.5) * 2.0**-32 for words in _pairs(fold(seed, step), index, count))
    radius, angle = xp.sqrt(-2 * xp.log(u)), 2 * math.pi * v
    z = torch.as_tensor(xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], 2))
    return z.flatten(1)[:, :count].reshape(len(index), *shape)


class Noise:
    """The noise of a batch of images: `noise(step, like)` -> (B, C, H, W), for any batch that has these images in it.

    seed:  0…2⁶⁴−1
    first: index of the batch's first image, 0…2³²−1; a batch of B holds the images first…first + B − 1.

    Step 0 is the starting noise x_T; step t ≥ 1 is what a sampler adds when it leaves time t.
    """

    def __init__(self, seed: int, first: int = 0) -> None:
        _check_seed(seed)
        if not 0 <= first <= _MASK:  # it would wrap around and repeat another image's noise
            raise ValueError(f"the first image's index must be between 0 and 2³²−1, not {first}")
        self.seed, self.first = seed, first

    def __call__(self, step: int, like: Tensor) -> Tensor:
        # float64 does not exist on Apple's GPU; there the numbers are made on the CPU and moved
        device = torch.device("cpu") if like.device.type == "mps" else like.device
        index = torch.arange(self.first, self.first + len(like), device=device)
        return normal(self.seed, step, index, tuple(like.shape[1:])).to(like.dtype).to(like.device)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed must be between 0 and 2⁶⁴−1, not {seed}")
