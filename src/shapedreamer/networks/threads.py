"""A network on several CPU threads, each of which computes its own share of the images.

PyTorch's threads share every operation instead, and wait for each other at its end, thousands of times in a second. If
a busy program takes one core away, the others wait too. The threads here meet only at the end of the forward and of the
backward pass (python -m benchmarks.neighbours).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from . import kernels


class InShares(nn.Module):
    """`network`, called as in_shares does. It has the same weights, and it can be trained."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, *inputs: Tensor | None) -> Tensor:
        return in_shares(self.network, x, *inputs)


def in_shares(network: Callable[..., Tensor], x: Tensor, *inputs: Tensor | None) -> Tensor:
    """network(x, *inputs) for images x (B, …), inputs that are (B, …) or None, and an output (B, …).

    On a CPU the images are split into shares, one for each of torch's threads. Gradients flow to the weights and to x.
    Their sum does not depend on which thread was first.
    """
    number = number_of_shares(len(x), torch.get_num_threads()) if x.device.type == "cpu" else 1
    if number == 1 or torch.compiler.is_compiling():
        return network(x, *inputs)
    shares = list(zip(*(_split(value, number) for value in (x, *inputs)), strict=True))
    if not torch.is_grad_enabled():
        return torch.cat(in_threads(lambda share: network(*share), shares))
    weights = network.parameters() if isinstance(network, nn.Module) else []
    return _InShares.apply(network, shares, x, *(weight for weight in weights if weight.requires_grad))


def number_of_shares(images: int, max_threads: int) -> int:
    """The number of equal shares for a batch: at most max_threads, each with MIN_IMAGES_PER_THREAD images or more."""
    enough = kernels.MIN_IMAGES_PER_THREAD
    return max(n for n in range(1, max_threads + 1) if n == 1 or (images % n == 0 and images // n >= enough))


def in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """[function(item) for item in items], each in a thread of its own. They divide torch's threads.

    The threads have the caller's gradient mode and autocast, which PyTorch keeps for each thread.
    """
    if len(items) == 1:
        return [function(items[0])]
    threads = max(1, torch.get_num_threads() // len(items))
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def call(item: Any) -> Any:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad), torch.autocast("cpu", dtype, enabled):
            return function(item)

    with torch_threads(threads):  # of the calling thread too, as Intel's MKL has one number for all threads
        pool = _pool(len(items) - 1, threads)
        others = [pool.submit(call, item) for item in items[1:]]
        try:
            return [call(items[0]), *(other.result() for other in others)]
        finally:
            wait(others)


@lru_cache
def _pool(number: int, threads: int) -> ThreadPoolExecutor:
    """Threads that stay: new ones would have to ask the system for memory in every step, which takes a fifth of it."""
    return ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(threads,))


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch compute with this number of CPU threads in the `with` block."""
    before = torch.get_num_threads()
    if number == before:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _InShares(torch.autograd.Function):
    """Forward and backward pass in threads: every share has a graph of its own."""

    @staticmethod
    def forward(
        ctx: Any, network: nn.Module, shares: list[Sequence[Tensor | None]], x: Tensor, *weights: Tensor
    ) -> Tensor:
        def predict(share: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
            images, *others = share
            assert images is not None
            images = images.detach().requires_grad_(x.requires_grad)
            return images, network(images, *others)

        with torch.enable_grad():
            ctx.graphs = in_threads(predict, shares)
        ctx.weights = weights
        return torch.cat([out.detach() for _, out in ctx.graphs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        wants_x = ctx.needs_input_grad[2]

        def differentiate(share: tuple[tuple[Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
            (images, out), grad = share
            inputs = (images, *ctx.weights) if wants_x else ctx.weights
            return torch.autograd.grad(out, inputs, grad, allow_unused=True)

        gradients = in_threads(differentiate, list(zip(ctx.graphs, gradient.chunk(len(ctx.graphs)), strict=True)))
        del ctx.graphs
        d_x = torch.cat([grads[0] for grads in gradients]) if wants_x else None
        weights = (grads[1:] if wants_x else grads for grads in gradients)
        return None, None, d_x, *(_sum(parts) for parts in zip(*weights, strict=True))


def _split(value: Tensor | None, number: int) -> Sequence[Tensor | None]:
    return [None] * number if value is None else value.chunk(number)


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the gradients of one weight, None if no share used it."""
    first, *others = parts
    for other in others:
        first = other if first is None else first if other is None else first.add_(other)
    return first
