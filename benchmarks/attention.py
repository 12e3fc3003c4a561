"""Plain attention against the fused kernel, by number of tokens: python -m benchmarks.attention

Where plain is faster forward and backward sets networks.layers.PLAIN_ATTENTION_TOKENS.
"""

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from shapedreamer.device import has_fast_bf16, pick_device

from .throughput import machine, seconds

BATCH, HEADS, DIM, ROUNDS = 64, 4, 32, 9
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q * DIM**-0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


def milliseconds(attend: Attention, tokens: int, backward: bool) -> float:
    """Median time of one call on a batch, with the layout that networks/layers.py gives q, k and v."""
    device = pick_device()
    dtype = torch.bfloat16 if has_fast_bf16(device) else torch.float32
    qkv = torch.randn(BATCH, tokens, 3, HEADS, DIM, device=device, dtype=dtype, requires_grad=backward)

    def work() -> None:
        out = attend(*qkv.permute(2, 0, 3, 1, 4))
        if backward:
            out.backward(torch.ones_like(out))

    work()
    return 1000 * statistics.median(seconds(work) for _ in range(ROUNDS))


def main() -> None:
    print(machine())
    print("tokens   forward: plain   fused   with backward: plain   fused   (ms)")
    for tokens in (16, 64, 144, 256, 576, 1024):
        times = [
            milliseconds(attend, tokens, b) for b in (False, True) for attend in (plain, F.scaled_dot_product_attention)
        ]
        print("{:6d} {:15.2f} {:7.2f} {:22.2f} {:7.2f}".format(tokens, *times))


if __name__ == "__main__":
    main()
