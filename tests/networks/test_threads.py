"""A network in shares computes what the network computes, whichever thread is first."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from shapedreamer.networks import kernels, threads
from shapedreamer.networks.threads import InShares, in_shares, in_threads, number_of_shares, torch_threads
from shapedreamer.networks.unet import UNet


@pytest.fixture(autouse=True)
def small_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MIN_IMAGES_PER_THREAD", 2)


def tiny() -> UNet:
    torch.manual_seed(0)
    return UNet(1, (8, 8), attention=(1,), head_dim=8, groups=4, context=3).double()


def inputs(images: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(images, 1, 4, 4, generator=generator, dtype=torch.float64)
    return x, torch.arange(images) * 100, torch.eye(3, dtype=torch.float64)[torch.arange(images) % 3]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("frozen", [False, True])
def test_output_and_gradients_are_those_of_the_network(number: int, frozen: bool) -> None:
    """Also the gradient of the images, and with some weights that are not trained."""
    network, (x, t, label) = tiny(), inputs()
    network.time.requires_grad_(not frozen)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    results = []
    with torch_threads(number):
        for function in (network, InShares(network)):
            images = x.clone().requires_grad_()
            out = function(images, t, label)
            results.append([out, *torch.autograd.grad(out.square().sum(), [images, *weights])])
    assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_every_share_has_a_thread_of_its_own_in_the_callers_modes() -> None:
    """All are inside at the same time, or the barrier would break."""
    seen, together = [], threading.Barrier(3, timeout=60)

    class Spy(nn.Module):
        def forward(self, x: Tensor, t: None) -> Tensor:
            together.wait()
            modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
            seen.append((threading.get_ident(), len(x), torch.get_num_threads(), *modes))
            return x

    x = torch.arange(6.0)
    with torch_threads(6), torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = torch.get_num_threads()
        assert torch.equal(in_shares(Spy(), x, None), x)
        assert torch.get_num_threads() == before == 6
    assert len({thread for thread, *_ in seen}) == 3
    assert {tuple(rest) for _, *rest in seen} == {(2, 2, False, True, True)}


def test_gradients_are_summed_in_the_same_order_whoever_is_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum of three shares in float32 depends on the order."""
    network, (x, t, label) = tiny().float(), inputs()
    found = []
    for order in ([0, 1, 2], [2, 1, 0]):

        def in_turn(function: Any, items: list[Any], order: list[int] = order) -> list[Any]:
            results = {i: function(items[i]) for i in order}
            return [results[i] for i in sorted(order)]

        monkeypatch.setattr(threads, "in_threads", in_turn)
        with torch_threads(3):
            out = in_shares(network, x.float(), t, label.float())
            found.append(torch.autograd.grad(out.square().sum(), list(network.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_an_error_in_another_thread_is_raised_after_all_have_ended() -> None:
    ended = []

    def work(item: int) -> None:
        if item == 1:
            raise ValueError("share 1")
        ended.append(item)

    with torch_threads(3), pytest.raises(ValueError, match="share 1"):
        in_threads(work, [0, 1, 2])
    assert sorted(ended) == [0, 2]


@pytest.mark.parametrize(
    ("images", "max_threads", "number"),
    [(64, 2, 2), (32, 4, 2), (31, 2, 1), (16, 8, 1), (96, 4, 4), (96, 5, 4), (0, 2, 1)],
)
def test_shares_are_equal_and_not_too_small(images: int, max_threads: int, number: int) -> None:
    kernels.MIN_IMAGES_PER_THREAD = 16
    assert number_of_shares(images, max_threads) == number
