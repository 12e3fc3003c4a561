"""Lightning Fabric for the processes of a training: precision, and the averaging of gradients."""

import logging
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy

from ..common.device import has_fast_bf16
from ..common.processes import Group


def make_fabric(group: Group, device: torch.device) -> Fabric:
    """Lightning Fabric for this process: its device, precision, and the averaging of gradients."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else it prints the precision
    precision: Any = "bf16-mixed" if has_fast_bf16(device) else "32-true"
    if group.size == 1:
        return Fabric(accelerator=device.type, devices=1, precision=precision)
    fabric = Fabric(
        accelerator=device.type,
        devices=group.local_size,
        num_nodes=group.size // group.local_size,
        strategy=DDPStrategy(),
        plugins=[TorchElasticEnvironment()],
        precision=precision,
    )
    fabric.launch()
    return fabric
