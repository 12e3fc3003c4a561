"""A short self-test: which settings of kernels.py are the fastest on this machine. `shapedreamer machine` runs it.

A setting changes the speed, which depends on caches and instructions, and the order in which sums are rounded. The
fastest ones are kept in a file for each machine, which kernels.py reads when it is imported.
"""

import json
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import nn

from ..common.device import autocast, has_fast_bf16, machine
from ..common.files import write_atomic
from . import kernels
from .kernels import DEFAULTS, SETTINGS, attention, group_norm_silu, settings_file, stored_settings, upsample_conv
from .threads import in_shares
from .unet import UNet

ROUNDS = 7  # the fastest one counts
MIN_GAIN = 1.03  # speed, relative to the default, that makes a change worth it
Workload = Callable[[], object]


def self_test() -> dict[str, dict[int, float]]:
    """The seconds that each value of each setting takes."""
    workloads = {
        "CHUNK_SIZE": _normalise,
        "MAX_PLAIN_ATTENTION_TOKENS": _attend,
        "FUSED_UPSAMPLING": _upsample,
        "MIN_IMAGES_PER_THREAD": _train,
    }
    return {name: _measure(name, workloads[name]()) for name in SETTINGS}


def _measure(name: str, work: Workload) -> dict[int, float]:
    seconds = dict.fromkeys(SETTINGS[name], float("inf"))
    for _ in range(ROUNDS):  # in turn, so that slow phases of the machine affect all of them
        for value in seconds:
            with patch.object(kernels, name, value):
                start = time.perf_counter()
                work()
                seconds[value] = min(seconds[value], time.perf_counter() - start)
    return seconds


def _normalise() -> Workload:
    """A GroupNorm and SiLU of a training step, forward and backward."""
    norm = nn.GroupNorm(32, 64)
    x = torch.randn(64, 64, 32, 32).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    gradient = torch.ones_like(x)
    return lambda: group_norm_silu(norm, x).backward(gradient)


def _attend() -> Workload:
    """Attention over 8 x 8 and 16 x 16 pixels in a training step, forward and backward."""
    dtype = _dtype()
    inputs = [
        [torch.randn(16, 4, tokens, 32, dtype=dtype, requires_grad=True) for _ in range(3)] for tokens in (64, 256)
    ]

    def work() -> None:
        for q, k, v in inputs:
            mixed = attention(q, k, v)
            mixed.backward(torch.ones_like(mixed))

    return work


def _upsample() -> Workload:
    """The upsampling of a training step, forward and backward."""
    conv = nn.Conv2d(128, 128, 3, padding=1).to(_dtype())
    x = torch.randn(32, 128, 8, 8, dtype=_dtype()).contiguous(memory_format=torch.channels_last).requires_grad_()

    def work() -> None:
        out = upsample_conv(conv, x)
        out.backward(torch.ones_like(out))

    return work


def _train() -> Workload:
    """Forward and backward passes of a small U-Net, with batches of 32 and of 64 images of 8 x 8 pixels."""
    network = UNet(channels=(32, 64), attention=(1,))
    inputs = [(torch.randn(n, 1, 8, 8), torch.randint(1, 1000, (n,))) for n in (32, 64)]

    def work() -> None:
        for x, t in inputs:
            with autocast(torch.device("cpu")):
                in_shares(network, x, t).float().square().mean().backward()

    return work


def _dtype() -> torch.dtype:
    """The numbers that training on this CPU computes with."""
    return torch.bfloat16 if has_fast_bf16(torch.device("cpu")) else torch.float32


def fastest(seconds: dict[str, dict[int, float]]) -> dict[str, int]:
    """The value to use for each setting: the default, unless another one is at least MIN_GAIN times as fast."""
    best = {name: min(times, key=lambda value: times[value]) for name, times in seconds.items()}
    return {
        name: value if seconds[name][DEFAULTS[name]] >= MIN_GAIN * seconds[name][value] else DEFAULTS[name]
        for name, value in best.items()
    }


def keep(settings: dict[str, int]) -> None:
    """Store the settings of this machine; they take effect in the next process."""
    content = stored_settings() | {machine(): settings}
    write_atomic(settings_file(), json.dumps(content, indent=2).encode())
