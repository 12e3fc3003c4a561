"""Compare training and inference speed with other libraries, at equal architecture: python -m benchmarks.throughput

All networks have about 11 million parameters, channels 64/128/256 and attention at 8x8. Images are 32x32x1, in batches
of 64. The candidates take turns, so that slow phases of the machine affect all of them; the table shows the median over
the rounds. Peak memory is that of a process that only trains the candidate.

denoising-diffusion-pytorch is included if it is installed:
    pip install --no-deps denoising-diffusion-pytorch==2.3.4 einops
"""

import argparse
import contextlib
import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shapedreamer.common import device
from shapedreamer.common.device import autocast, pick_device
from shapedreamer.networks.unet import UNet

BATCH, SIZE, CHANNELS = 64, 32, (64, 128, 256)
HEAD_DIM = 32
DEVICE = pick_device()
Forward = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Candidate(NamedTuple):
    """A network and how it runs. `tuned` means bfloat16 where that is fast, channels_last and fused AdamW."""

    name: str
    build: Callable[[], nn.Module]
    forward: Forward
    tuned: bool


def shapedreamer_unet() -> nn.Module:
    return UNet(1, CHANNELS, blocks=1, attention=(2,), head_dim=HEAD_DIM)


def diffusers_unet() -> nn.Module:
    from diffusers import UNet2DModel

    plain, attending = "DownBlock2D", "AttnDownBlock2D"
    model: Any = UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        down_block_types=(plain, plain, attending),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in (attending, plain, plain)),
        attention_head_dim=HEAD_DIM,
    )
    return model


def lucidrains_unet() -> nn.Module:
    """The closest configuration: channels 64/128/256, full attention at 8x8. Two blocks per level are hard-coded."""
    for name in ("torchvision", "scipy", "accelerate", "ema_pytorch", "pytorch_fid"):  # the network does not use them
        for module in (name, f"{name}.transforms", f"{name}.optimize", f"{name}.inception", f"{name}.fid_score"):
            sys.modules.setdefault(module, MagicMock())
    unet = importlib.import_module("denoising_diffusion_pytorch").Unet
    model: nn.Module = unet(dim=64, dim_mults=(1, 2, 4), channels=1, full_attn=(False, False, True), flash_attn=True)
    return model


def forward(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    out: Tensor = network(x, t)
    return out


def forward_diffusers(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    out: Tensor = network(x, t).sample
    return out


CANDIDATES = [
    Candidate("shapedreamer", shapedreamer_unet, forward, tuned=True),
    Candidate("UNet2DModel, default", diffusers_unet, forward_diffusers, tuned=False),
    Candidate("UNet2DModel, tuned", diffusers_unet, forward_diffusers, tuned=True),
    Candidate("denoising-diffusion-pytorch, default", lucidrains_unet, forward, tuned=False),
    Candidate("denoising-diffusion-pytorch, tuned", lucidrains_unet, forward, tuned=True),
]


class Bench:
    """A candidate, ready to measure: `train` and `infer` each process one batch."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        torch.manual_seed(0)
        self.network = candidate.build().to(DEVICE)
        self.x = torch.randn(BATCH, 1, SIZE, SIZE, device=DEVICE)
        self.t = torch.randint(1, 1000, (BATCH,), device=DEVICE)
        if candidate.tuned:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, fused=candidate.tuned or None)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        return autocast(DEVICE) if self.candidate.tuned else contextlib.nullcontext()

    def train(self) -> None:
        with self.precision():
            out = self.candidate.forward(self.network, self.x, self.t)
        (out.float() - self.x).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.inference_mode()
    def infer(self, images: int = BATCH) -> None:
        with self.precision():
            self.candidate.forward(self.network, self.x[:images], self.t[:images])

    def gflop(self) -> float:
        """The cost of a forward pass of one image, in 10⁹ floating-point operations."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.candidate.forward(self.network, self.x[:1], self.t[:1])
        return counter.get_total_flops() / 1e9


def seconds(function: Callable[[], object]) -> float:
    """How long one call of the function takes. On a GPU this includes the work that it queues."""
    start = time.perf_counter()
    function()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_tflops(dtype: torch.dtype, n: int = 2048) -> float:
    """The speed of this machine's matrix products, in 10¹² floating-point operations per second: the best of 8."""
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * n**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(8)) / 1e12


def peak_memory(name: str) -> float:
    """Peak memory in MB of a new process that trains the candidate for three steps, including its imports."""
    code = [sys.executable, "-m", "benchmarks.throughput", "--memory-of", name]
    return float(subprocess.run(code, check=True, capture_output=True, text=True).stdout)


def peak_memory_so_far() -> float:
    """Peak memory in MB of this process so far; on a GPU, the GPU's memory."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would include memory of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def installed_benches() -> Iterator[Bench]:
    for candidate in CANDIDATES:
        try:
            yield Bench(candidate)
        except ImportError as error:
            print(f"skipped {candidate.name}: {error}", file=sys.stderr)


def measure(rounds: int) -> dict[str, Any]:
    """The results of all candidates, with `train` and `infer` in images per second."""
    benches = list(installed_benches())
    times: dict[tuple[str, str], list[float]] = {}
    for i in range(rounds + 1):
        for bench in benches:
            for kind, function in (
                ("train", bench.train),
                ("infer", bench.infer),
                ("single", partial(bench.infer, 1)),
            ):
                duration = min(seconds(function) for _ in range(5 if kind == "single" else 1))
                if i > 0:  # the first round is the warm-up
                    times.setdefault((bench.candidate.name, kind), []).append(duration)
        print(f"round {i} of {rounds}", file=sys.stderr)
    rows = [
        {
            "name": bench.candidate.name,
            "parameters": sum(p.numel() for p in bench.network.parameters()),
            "gflop": bench.gflop(),
            "train": BATCH / statistics.median(times[bench.candidate.name, "train"]),
            "infer": BATCH / statistics.median(times[bench.candidate.name, "infer"]),
            "single_ms": 1000 * statistics.median(times[bench.candidate.name, "single"]),
            "memory_mb": peak_memory(bench.candidate.name),
        }
        for bench in benches
    ]
    return {
        "machine": machine(),
        "peak_bf16": peak_tflops(torch.bfloat16),
        "peak_fp32": peak_tflops(torch.float32),
        "rows": rows,
    }


def machine() -> str:
    """A description of this machine: processor or GPU, threads, bfloat16 instructions, version of torch."""
    return device.machine() if DEVICE.type == "cpu" else f"{torch.cuda.get_device_name()}, {device.machine()}"


def table(result: dict[str, Any]) -> str:
    """The results as a Markdown table."""
    rows = {row["name"]: row for row in result["rows"]}
    default, tuned = rows["UNet2DModel, default"], rows["UNet2DModel, tuned"]
    lines = [
        f"{result['machine']}. Matrix products reach {result['peak_bf16']:.2f} TFLOP/s in bfloat16 and "
        f"{result['peak_fp32']:.2f} in float32. × default and × tuned: speed relative to UNet2DModel.",
        "",
        "| | parameters | training, images/s | × default | × tuned | % of peak | inference, images/s | × default "
        "| × tuned | % of peak | batch size 1 | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        peak = result["peak_fp32" if name.endswith("default") else "peak_bf16"] * 1000
        cells = [name, f"{row['parameters'] / 1e6:.1f} M"]
        for kind, passes in (("train", 3), ("infer", 1)):  # a backward pass costs two forward passes
            speed = row[kind]
            cells += [f"{speed:.1f}", f"{speed / default[kind]:.2f}", f"{speed / tuned[kind]:.2f}"]
            cells += [f"{speed * row['gflop'] * passes / peak:.0%}"]
        cells += [f"{row['single_ms']:.1f} ms", f"{row['memory_mb']:.0f} MB"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds to measure (default: 7)")
    parser.add_argument("--json", type=Path, help="also write the results to this JSON file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # used by peak_memory
    arguments = parser.parse_args()
    if arguments.memory_of:
        bench = Bench(next(c for c in CANDIDATES if c.name == arguments.memory_of))
        for _ in range(3):
            bench.train()
        print(peak_memory_so_far())
        return
    result = measure(arguments.rounds)
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
