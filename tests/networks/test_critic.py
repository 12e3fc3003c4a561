"""The critic begins as the network's own way down, blind to x_t, and can learn to see it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from shapedreamer.networks.context_unet import ContextUnet
from shapedreamer.networks.critic import Critic
from shapedreamer.networks.unet import UNet

NETWORKS: dict[str, Callable[[], UNet | ContextUnet]] = {
    "unet": lambda: UNet(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=2, context=3),
    "no labels": lambda: UNet(channels=(32, 64), attention=(), patch=1),
    "bottleneck": lambda: UNet(channels=(8, 16), groups=4, head_dim=8, attention=(1,), time_at="bottleneck", context=3),
    "context_unet": lambda: ContextUnet(in_channels=3, context=3, features=16, groups=4),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> UNet | ContextUnet:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def inputs(network: UNet | ContextUnet) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    x, x_t = torch.randn(2, 5, network.in_channels, 16, 16, generator=torch.Generator().manual_seed(1))
    return x, x_t, torch.eye(5, 3) if network.context_size else None


def test_it_begins_as_the_networks_way_down_and_blind_to_the_noisy_image(network: UNet | ContextUnet) -> None:
    critic, (x, x_t, label) = Critic(network, 7), inputs(network)
    t = torch.full((5,), 7)
    coarsest, kept, _ = network.encode(x, t, label)
    its_coarsest, its_kept, _ = critic.network.encode(torch.cat([x, x_t], 1), t, label)
    for mine, its in zip([*kept, coarsest], [*its_kept, its_coarsest], strict=True):
        torch.testing.assert_close(its, mine)
    scores = [head(h) for head, h in zip(critic.heads, [*its_kept, its_coarsest], strict=True)]
    assert torch.equal(critic(x, x_t, label), torch.cat(scores, 1))  # so it is told 7, and nothing else
    assert torch.equal(critic(x, x_t, label), critic(x, -x_t, label))
    assert network.in_channels * 2 == critic.network.in_channels  # and the network itself is as it was


def test_it_scores_every_image_by_itself_at_every_depth(network: UNet | ContextUnet) -> None:
    critic, (x, x_t, label) = Critic(network, 7), inputs(network)
    scores = critic(x, x_t, label)
    assert scores.shape == (5, len(critic.heads))
    alone = critic(x[3:4], x_t[3:4], None if label is None else label[3:4])
    torch.testing.assert_close(alone, scores[3:4])


@pytest.mark.slow
def test_it_can_learn_whether_two_images_belong_together(network: UNet | ContextUnet) -> None:
    """Which a critic that never saw x_t could not: each image is as often right as wrong."""
    critic, (x, _, label) = Critic(network, 7), inputs(network)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    for _ in range(120):
        right, wrong = critic(x, x, label), critic(x, x.roll(1, 0), label)
        loss = nn.functional.softplus(wrong - right).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (right.mean(1) > wrong.mean(1)).all()
    assert loss < 0.2
