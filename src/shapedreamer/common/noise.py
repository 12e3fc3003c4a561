"""Counter-based noise: normal numbers as a function of (seed, step, image index, pixel).

The generator has no state, so an image gets the same noise in every batch, on every device and in every language.
Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a simplified block
cipher, turns a counter into 64 random bits, and Box-Muller turns those into two normal numbers. docs/noise.md is the
specification for implementations in other languages.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .device import torch_defaults

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_MASK = 0xFFFFFFFF

Words = TypeVar("Words", int, "npt.NDArray[Any]", Tensor)


def threefry2x32(key: tuple[int, int], counter: tuple[Words, Words]) -> tuple[Words, Words]:
    """Threefry-2x32-20: turn a counter of two 32-bit words into two random 32-bit words, under a key of two words.

    Words are 0…2³²−1. Counter words may be ints, uint32 arrays, or int64 tensors (torch has no complete uint32
    arithmetic), and broadcast against each other.
    """
    # uint32 arithmetic already wraps around
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
    """Derive a new 64-bit seed from (seed, numbers…), so that one seed can feed many independent streams.

    seed: 0…2⁶⁴−1; numbers: 0…2³²−1 each. ValueError if one is out of range.
    """
    _check_seed(seed)
    for number in numbers:
        if not 0 <= number <= _MASK:
            raise ValueError(f"{number} is outside 0…2³²−1")
        high, low = threefry2x32((seed >> 32, seed & _MASK), (number, len(numbers)))
        seed = high << 32 | low
    return seed


@torch_defaults()
def bits(seed: int, index: Tensor, count: int) -> Tensor:
    """Return `count` random 32-bit words for each image index: (B,) int64 -> (B, count) int64 in 0…2³²−1."""
    pairs = [torch.as_tensor(words).long() for words in _pairs(seed, index, count)]
    return torch.stack(pairs, dim=2).flatten(1)[:, :count]


def _pairs(seed: int, index: Tensor, count: int) -> tuple[Any, Any]:
    """Return `count` random words as pairs: all first words and all second words, each (B, ⌈count / 2⌉)."""
    _check_seed(seed)
    key, pairs = (seed >> 32, seed & _MASK), (count + 1) // 2
    if index.device.type == "cpu":  # numpy's uint32 takes a fifth of the time of torch's int64
        pair_numbers = np.arange(pairs, dtype=np.uint32)[None]
        return threefry2x32(key, (index.numpy().astype(np.uint32)[:, None], pair_numbers))
    return threefry2x32(key, (index[:, None], torch.arange(pairs, device=index.device)[None]))


def integers(word: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """Map random 32-bit words to integers in low…high, both included: low + ⌊word · (high − low + 1) / 2³²⌋."""
    return low + ((word * (high - low + 1)) >> 32)


@torch_defaults()
def normal(seed: int, step: int, index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return standard normal numbers for images `index` at `step`: (B,) int64 -> ``(B, *shape)`` float64.

    The result is on the device of `index`. Pixels are numbered along the flattened shape. The arithmetic is in float64,
    so that implementations in any language agree up to rounding.
    """
    count = math.prod(shape)
    # numpy on the CPU: the work is too small for torch's threads, which stall when other processes are busy
    xp: Any = np if index.device.type == "cpu" else torch
    # in (0, 1) and never 0, so the logarithm is finite
    u, v = ((xp.asarray(words, dtype=xp.float64) + 0.5) * 2.0**-32 for words in _pairs(fold(seed, step), index, count))
    radius, angle = xp.sqrt(-2 * xp.log(u)), 2 * math.pi * v
    z = torch.as_tensor(xp.stack([radius * xp.cos(angle), radius * xp.sin(angle)], 2))
    return z.flatten(1)[:, :count].reshape(len(index), *shape)


class Noise:
    """Noise for a batch of images: `noise(step, like)` returns (B, C, H, W), with the dtype and device of `like`.

    seed:  0…2⁶⁴−1
    first: index of the first image in the batch, 0…2³²−1; a batch of B holds the images first…first + B − 1.

    An image's noise depends on its index, not on the rest of the batch. Step 0 is the starting noise x_T; step t ≥ 1 is
    the noise that a sampler adds when it leaves timestep t. ValueError if `seed` or `first` is out of range.
    """

    def __init__(self, seed: int, first: int = 0) -> None:
        _check_seed(seed)
        if not 0 <= first <= _MASK:  # larger indices wrap around and repeat another image's noise
            raise ValueError(f"the first image's index must be between 0 and 2³²−1, not {first}")
        self.seed, self.first = seed, first

    def __call__(self, step: int, like: Tensor) -> Tensor:
        # Apple's GPU has no float64: generate the noise on the CPU and copy it
        device = torch.device("cpu") if like.device.type == "mps" else like.device
        index = torch.arange(self.first, self.first + len(like), device=device)
        return normal(self.seed, step, index, tuple(like.shape[1:])).to(like.dtype).to(like.device)


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**64:
        raise ValueError(f"a seed must be between 0 and 2⁶⁴−1, not {seed}")
