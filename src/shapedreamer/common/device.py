"""Where to compute and in which precision, chosen by what the machine has."""

import torch

from .errors import UserError
from .names import DeviceName, Precision


def pick_device(name: DeviceName = "auto") -> torch.device:
    """The device asked for, or the best there is: CUDA, Apple's MPS, the CPU. UserError if it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(device for device, there in available.items() if there))
    if not available[name]:
        there = ", ".join(device for device, is_there in available.items() if is_there)
        raise UserError(f"device {name} is not available on this machine; there is: {there}")
    return torch.device(name)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 instructions, which make products 2 (AVX-512) to 8 (AMX) times as fast."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return False


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """A context in which products run in bfloat16 where that is fast, unless the precision is "float32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "auto" and has_fast_bf16(device))
