"""Training and forward speed at equal architecture, beside other libraries: python -m benchmarks.throughput

About 11 million parameters, channels 64/128/256, attention at 8x8, images of 32x32x1, batches of 64. Every candidate
takes its turn in every round, so that a slow spell of the machine hits all; the median of its rounds counts. Peak
memory is that of a process which does nothing but train the candidate.

denoising-diffusion-pytorch is measured where it is installed:
    pip install --no-deps denoising-diffusion-pytorch==2.3.4 einops
"""

import argparse
import contextlib
import importlib
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shapedreamer.common.device import autocast, has_fast_bf16, pick_device
from shapedreamer.networks.unet import UNet

BATCH, SIZE, CHANNELS = 64, 32, (64, 128, 256)
HEAD_DIM = 32
DEVICE = pick_device()
Forward = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Candidate(NamedTuple):
    """A network and how it is used: `tuned` means bfloat16 where it is fast, channels_last and fused AdamW."""

    name: str
    build: Callable[[], nn.Module]
    forward: Forward
    tuned: bool


def ours() -> nn.Module:
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
    """The nearest it comes: 64/128/256 channels, full attention at 8x8; two blocks a level are built in."""
    for name in ("torchvision", "scipy", "accelerate", "ema_pytorch", "pytorch_fid"):  # of no use to the network
        for module in (name, f"{name}.transforms", f"{name}.optimize", f"{name}.inception", f"{name}.fid_score"):
            sys.modules.setdefault(module, MagicMock())
    unet = importlib.import_module("denoising_diffusion_pytorch").Unet
    model: nn.Module = unet(dim=64, dim_mults=(1, 2, 4), channels=1, full_attn=(False, False, True), flash_attn=True)
    return model


def call(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    out: Tensor = network(x, t)
    return out


def call_diffusers(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    out: Tensor = network(x, t).sample
    return out


CANDIDATES = [
    Candidate("shapedreamer", ours, call, tuned=True),
    Candidate("UNet2DModel as used", diffusers_unet, call_diffusers, tuned=False),
    Candidate("UNet2DModel tuned", diffusers_unet, call_diffusers, tuned=True),
    Candidate("denoising-diffusion-pytorch as used", lucidrains_unet, call, tuned=False),
    Candidate("denoising-diffusion-pytorch tuned", lucidrains_unet, call, tuned=True),
]


class Bench:
    """A candidate ready to be measured: `train` and `infer` do one batch each."""

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
        """Of a forward pass of one image, 10⁹ floating-point operations."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.candidate.forward(self.network, self.x[:1], self.t[:1])
        return counter.get_total_flops() / 1e9


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_tflops(dtype: torch.dtype, n: int = 2048) -> float:
    """What this machine's matrix product reaches at best, 10¹² floating-point operations a second."""
    a, b = (torch.randn(n, n, device=DEVICE).to(dtype) for _ in range(2))
    return 2 * n**3 / min(seconds(lambda: torch.mm(a, b)) for _ in range(8)) / 1e12


def peak_memory(name: str) -> float:
    """MB that a fresh process needs at most to train the candidate for three steps, with all that it imports."""
    code = [sys.executable, "-m", "benchmarks.throughput", "--memory-of", name]
    return float(subprocess.run(code, check=True, capture_output=True, text=True).stdout)


def high_water() -> float:
    """MB that this process has held at most (on a GPU: of the GPU's)."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure has in it what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return float(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def installed() -> Iterator[Bench]:
    for candidate in CANDIDATES:
        try:
            yield Bench(candidate)
        except ImportError as error:
            print(f"{candidate.name} is left out: {error}", file=sys.stderr)


def measure(rounds: int) -> dict[str, Any]:
    benches = list(installed())
    times: dict[tuple[str, str], list[float]] = {}
    for i in range(rounds + 1):
        for bench in benches:
            for what, work in (("train", bench.train), ("infer", bench.infer), ("single", lambda b=bench: b.infer(1))):
                took = min(seconds(work) for _ in range(5 if what == "single" else 1))
                if i > 0:  # the first round warms up
                    times.setdefault((bench.candidate.name, what), []).append(took)
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
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    if DEVICE.type == "cuda":
        name = torch.cuda.get_device_name()
    units = (
        "AMX"
        if torch.cpu._is_amx_tile_supported()
        else "AVX-512 BF16"
        if has_fast_bf16(torch.device("cpu"))
        else "none"
    )
    return f"{name}, {torch.get_num_threads()} threads, bfloat16 units of the CPU: {units}, torch {torch.__version__}"


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    rows = {row["name"]: row for row in result["rows"]}
    used, tuned = rows["UNet2DModel as used"], rows["UNet2DModel tuned"]
    lines = [
        f"{result['machine']}; matrix products reach {result['peak_bf16']:.2f} TFLOP/s in bfloat16 and "
        f"{result['peak_fp32']:.2f} in float32.",
        "",
        "| | parameters | training, images/s | × used | × tuned | of the peak | forward, images/s | × used | × tuned "
        "| of the peak | batch 1 | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        peak = result["peak_fp32" if name.endswith("as used") else "peak_bf16"] * 1000
        cells = [name, f"{row['parameters'] / 1e6:.1f} M"]
        for what, work in (("train", 3), ("infer", 1)):
            speed = row[what]
            cells += [f"{speed:.1f}", f"{speed / used[what]:.2f}", f"{speed / tuned[what]:.2f}"]
            cells += [f"{speed * row['gflop'] * work / peak:.0%}"]
        cells += [f"{row['single_ms']:.1f} ms", f"{row['memory_mb']:.0f} MB"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="turns that each candidate takes (default: 7)")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # how peak_memory calls itself
    arguments = parser.parse_args()
    if arguments.memory_of:
        bench = Bench(next(c for c in CANDIDATES if c.name == arguments.memory_of))
        for _ in range(3):
            bench.train()
        print(high_water())
        return
    result = measure(arguments.rounds)
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
