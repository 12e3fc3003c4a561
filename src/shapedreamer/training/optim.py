"""Muon: momentum whose steps have all directions equally long, which trains these networks in far fewer steps.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the scale of the steps, which lets it
share AdamW's learning rate and weight decay, is that of Liu et al. 2025, "Muon is scalable for LLM training".
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..common.device import has_fast_bf16
from ..common.names import OptimizerName


class Muon(torch.optim.Optimizer):
    """For weights of two or more dimensions; a convolution's are a matrix of (out, in · height · width).

    lr, weight_decay: as of AdamW; momentum: of the running mean of the gradients, in [0, 1).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                mean = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                direction = weight.grad.lerp_(mean, group["momentum"])  # Nesterov's look ahead; the gradient is used up
                # channels last, as the weights lie in memory: no copy, and the order of a matrix's columns is no matter
                rows = direction.movedim(1, -1)
                update = orthogonal(rows.flatten(1)).view(rows.shape).movedim(-1, 1)
                # the entries of an orthogonal m x n matrix are about max(m, n)^-1/2 in size; those of AdamW's steps 0.2
                scale = 0.2 * max(len(weight), weight[0].numel()) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, steps: int = 4) -> Tensor:
    """About U Vᵀ, where matrix = U S Vᵀ: the same directions, with all singular values near 1. Maybe in bfloat16.

    Newton-Schulz iteration on a polynomial whose slope at 0 is steep (Jordan et al. 2024), so that a few steps bring
    every singular value that is not tiny to somewhere between 0.7 and 1.2, which is near enough.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(torch.bfloat16 if has_fast_bf16(matrix.device) else torch.float32)
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):  # x ← 3.4445 x − 4.7750 (x xᵀ) x + 2.0315 (x xᵀ)² x
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if tall else x


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """The weights that Muon is for: matrices and kernels within the network, not those next to images and labels."""
    ends = ("conv_in.", "conv_out.", "context.")
    return [p for name, p in network.named_parameters() if p.ndim >= 2 and not name.startswith(ends)]


def make_optimizers(
    network: nn.Module, name: OptimizerName, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """ "adamw": AdamW for everything; "muon": Muon for the hidden matrices and AdamW for the rest."""
    hidden = hidden_matrices(network) if name == "muon" else []
    taken = {id(p) for p in hidden}
    rest = [p for p in network.parameters() if id(p) not in taken]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=lr, weight_decay=weight_decay, fused=True)]
    return optimizers + ([Muon(hidden, lr, weight_decay)] if hidden else [])
