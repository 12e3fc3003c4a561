"""Muon: momentum with orthogonalised updates, which trains these networks in far fewer steps than AdamW.

The optimizer is that of Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". Its updates are
scaled as in Liu et al. 2025, "Muon is scalable for LLM training", so that AdamW's learning rate and weight decay fit.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..common.device import has_fast_bf16
from ..common.names import OptimizerName
from ..networks.threads import in_threads


class Muon(torch.optim.Optimizer):
    """Trains weights of two or more dimensions; a kernel counts as a matrix of shape (out, in · height · width).

    lr, weight_decay: as for AdamW. momentum: decay of the moving average of the gradients, in [0, 1).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:  # here, as the threads would add them in any order
                self.state[weight].setdefault("momentum", torch.zeros_like(weight))
            in_threads(partial(self._update, group), shares_of_work(group["params"]))

    def _update(self, group: dict[str, Any], weights: list[nn.Parameter]) -> None:
        for weight in weights:
            assert weight.grad is not None
            average = self.state[weight]["momentum"].lerp_(weight.grad, 1 - group["momentum"])
            direction = weight.grad.lerp_(average, group["momentum"])  # Nesterov momentum; overwrites the gradient
            # channels last is the memory layout of the weights: no copy; the order of the columns does not matter
            rows = direction.movedim(1, -1)
            update = orthogonalise(rows.flatten(1)).view(rows.shape).movedim(-1, 1)
            # the entries of an orthogonal m x n matrix have RMS max(m, n)^-1/2; AdamW's update has about 0.2
            scale = 0.2 * max(len(weight), weight[0].numel()) ** 0.5
            weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def shares_of_work(weights: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """The weights in one list for each of torch's threads, so that all take about equally long; one list on a GPU."""
    number = min(torch.get_num_threads(), len(weights)) if weights[0].device.type == "cpu" else 1
    shares: list[list[nn.Parameter]] = [[] for _ in range(number)]
    work = [0] * number
    for weight in sorted(weights, key=_work, reverse=True):
        least = work.index(min(work))
        shares[least].append(weight)
        work[least] += _work(weight)
    return shares


def _work(weight: Tensor) -> int:
    """In proportion to the multiplications of orthogonalise."""
    return weight.numel() * min(len(weight), weight[0].numel())


def orthogonalise(matrix: Tensor, steps: int = 4) -> Tensor:
    """Approximately U Vᵀ for matrix = U S Vᵀ: keeps the singular vectors and moves the singular values towards 1.

    Newton-Schulz iteration (Jordan et al. 2024) with a polynomial that is steep at 0: a few steps bring all singular
    values that are not tiny into about [0.7, 1.2], which is accurate enough. The result is in bfloat16 if that is fast
    on the device, otherwise in float32.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(torch.bfloat16 if has_fast_bf16(matrix.device) else torch.float32)
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):  # x ← 3.4445 x − 4.7750 (x xᵀ) x + 2.0315 (x xᵀ)² x
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.T if tall else x


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """The matrices and kernels to train with Muon: all but the input and output convolutions and label embedding."""
    excluded = ("conv_in.", "conv_out.", "context.", "head.conv_in.", "head.conv_out.")
    return [p for name, p in network.named_parameters() if p.ndim >= 2 and not name.startswith(excluded)]


def make_optimizers(
    network: nn.Module, name: OptimizerName, lr: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """The optimizers of a network: AdamW, or for "muon" AdamW and Muon, which trains the hidden matrices."""
    hidden = hidden_matrices(network) if name == "muon" else []
    hidden_ids = {id(p) for p in hidden}
    others = [p for p in network.parameters() if id(p) not in hidden_ids]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=lr, weight_decay=weight_decay, fused=True)]
    return optimizers + ([Muon(hidden, lr, weight_decay)] if hidden else [])
