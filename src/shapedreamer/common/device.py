"""Choose the device and the precision to compute in."""

import contextlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch

from .errors import UserError
from .names import DeviceName, Precision
from .values import as_choice


def pick_device(name: DeviceName = "auto") -> torch.device:
    """Return the requested device; "auto" takes the first available of CUDA, Apple's MPS and the CPU.

    UserError if the device is not available.
    """
    as_choice("device", name, get_args(DeviceName))
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, is_available in available.items() if is_available))
    if not available[name]:
        choices = ", ".join(device for device, is_available in available.items() if is_available)
        raise UserError(f"device {name} is not available on this machine; choose one of: {choices}")
    return torch.device(name)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions, which make matrix products 2 (AVX-512) to 8 (AMX) times as fast."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def machine() -> str:
    """The processor, the number of threads, the bfloat16 instructions and the version of torch."""
    name, cpuinfo = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    fast = "AVX-512 BF16" if has_fast_bf16(torch.device("cpu")) else "none"
    units = "AMX" if torch.cpu._is_amx_tile_supported() else fast
    return f"{name}, {torch.get_num_threads()} threads, CPU bfloat16: {units}, torch {torch.__version__}"


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """Return a context that runs matrix products in bfloat16 if that is fast on the device.

    With precision "float32" the context changes nothing.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "auto" and has_fast_bf16(device))


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """New tensors are float32 on the CPU in the `with` block even if the caller has changed torch's defaults.

    The package names dtype and device where it wants others. Also works as a decorator: `@torch_defaults()`.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype == torch.float32 and device.type == "cpu":  # the usual case: a device context would slow down every call
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
