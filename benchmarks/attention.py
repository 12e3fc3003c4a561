"""Plain attention against the fused kernel, by number of tokens: python -m benchmarks.attention

Where plain is faster forward and backward, and its matrices are small enough to keep, sets PLAIN_ATTENTION_TOKENS in
networks/kernels.py. On a GPU the networks always take the fused kernel, and both columns are it.
"""

import statistics
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from shapedreamer.common.device import pick_device
from shapedreamer.networks import kernels

from .throughput import machine, seconds

IMAGES, HEADS, DIM, ROUNDS = 16, 4, 32, 7
LIMITS = {"plain": 10**9, "fused": 0}


def work(qkv: Tensor, limit: int, backward: bool) -> Callable[[], object]:
    """Attention as the networks do it, with another limit for the plain way."""

    def attend() -> Tensor:
        with patch.object(kernels, "PLAIN_ATTENTION_TOKENS", limit):
            return kernels.attention(*qkv.permute(2, 0, 3, 1, 4))

    if not backward:
        return torch.inference_mode()(attend)
    toward = torch.randn_like(attend())
    return lambda: torch.autograd.grad(attend(), qkv, toward)


def milliseconds(tokens: int, dtype: torch.dtype, backward: bool) -> dict[str, float]:
    """Median time of one call of each way, on a batch laid out as the networks lay it out, in turns."""
    qkv = torch.randn(IMAGES, tokens, 3, HEADS, DIM, device=pick_device(), dtype=dtype, requires_grad=True)
    ways = {way: work(qkv, limit, backward) for way, limit in LIMITS.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for i in range(ROUNDS + 1):
        for way, call in ways.items():
            took = min(seconds(call) for _ in range(3))
            if i > 0:  # the first round warms up
                times[way].append(took)
    return {way: 1000 * statistics.median(took) for way, took in times.items()}


def main() -> None:
    print(machine())
    print(f"{IMAGES} images, {HEADS} heads of {DIM}; milliseconds, and plain how many times as fast as fused\n")
    print("| | tokens | forward: plain | fused | ratio | with backward: plain | fused | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for dtype in (torch.bfloat16, torch.float32):
        for tokens in (16, 64, 144, 256, 576, 1024):
            cells = [str(dtype).removeprefix("torch."), str(tokens)]
            for backward in (False, True):
                ms = milliseconds(tokens, dtype, backward)
                cells += [f"{ms['plain']:.2f}", f"{ms['fused']:.2f}", f"{ms['fused'] / ms['plain']:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
