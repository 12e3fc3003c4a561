"""Compare plain attention with the fused kernel, by number of tokens: python -m benchmarks.attention

The results set MAX_PLAIN_ATTENTION_TOKENS in networks/kernels.py: the largest number of tokens at which plain attention
is faster, forward and backward, and its matrices are small enough to keep in memory. On a GPU the networks always use
the fused kernel, so both columns measure the same.
"""

import statistics
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from shapedreamer.common.device import pick_device
from shapedreamer.networks import kernels

from .throughput import machine, seconds

IMAGES, HEADS, HEAD_DIM, ROUNDS = 16, 4, 32, 7
TOKEN_LIMITS = {"plain": 10**9, "fused": 0}  # values of MAX_PLAIN_ATTENTION_TOKENS that select each method


def attention_call(qkv: Tensor, limit: int, backward: bool) -> Callable[[], object]:
    """A function that runs attention as the networks do, with this value of MAX_PLAIN_ATTENTION_TOKENS."""

    def attend() -> Tensor:
        with patch.object(kernels, "MAX_PLAIN_ATTENTION_TOKENS", limit):
            return kernels.attention(*qkv.permute(2, 0, 3, 1, 4))

    if not backward:
        return torch.inference_mode()(attend)
    cotangent = torch.randn_like(attend())
    return lambda: torch.autograd.grad(attend(), qkv, cotangent)


def milliseconds(tokens: int, dtype: torch.dtype, backward: bool) -> dict[str, float]:
    """The median time of one call of each method. The methods take turns, on a batch in the networks' memory layout."""
    qkv = torch.randn(IMAGES, tokens, 3, HEADS, HEAD_DIM, device=pick_device(), dtype=dtype, requires_grad=True)
    calls = {method: attention_call(qkv, limit, backward) for method, limit in TOKEN_LIMITS.items()}
    times: dict[str, list[float]] = {method: [] for method in calls}
    for i in range(ROUNDS + 1):
        for method, call in calls.items():
            duration = min(seconds(call) for _ in range(3))
            if i > 0:  # the first round is the warm-up
                times[method].append(duration)
    return {method: 1000 * statistics.median(durations) for method, durations in times.items()}


def main() -> None:
    print(machine())
    print(f"{IMAGES} images, {HEADS} heads of {HEAD_DIM} channels; times in ms; speedup of plain over fused\n")
    print("| dtype | tokens | forward: plain | fused | speedup | forward and backward: plain | fused | speedup |")
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
