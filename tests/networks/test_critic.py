"""The critic starts as the encoder of the network, ignores x_u at first, and can learn to use it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from shapedreamer.networks.context_unet import ContextUnet
from shapedreamer.networks.critic import Critic
from shapedreamer.networks.dit import DiT
from shapedreamer.networks.unet import UNet

NETWORKS: dict[str, Callable[[], UNet | ContextUnet | DiT]] = {
    "unet": lambda: UNet(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=2, context=3),
    "no labels": lambda: UNet(channels=(32, 64), attention=(), patch=1),
    "bottleneck": lambda: UNet(channels=(8, 16), groups=4, head_dim=8, attention=(1,), time_at="bottleneck", context=3),
    "dit": lambda: DiT(in_channels=3, patch=4, width=32, depth=4, head_dim=8, context=3),
    "context_unet": lambda: ContextUnet(in_channels=3, context=3, features=16, groups=4),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> UNet | ContextUnet | DiT:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


def inputs(network: UNet | ContextUnet | DiT) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    x, x_u = torch.randn(2, 5, network.in_channels, 16, 16, generator=torch.Generator().manual_seed(1))
    return x, x_u, torch.eye(5, 3) if network.context_size else None


def test_the_critic_starts_as_the_encoder_and_ignores_the_noisy_image(network: UNet | ContextUnet | DiT) -> None:
    critic, (x, x_u, label) = Critic(network, 7), inputs(network)
    t = torch.full((5,), 7)
    coarsest, skips, _ = network.encode(x, t, label)
    critic_coarsest, critic_skips, _ = critic.network.encode(torch.cat([x, x_u], 1), t, label)
    for found, expected in zip([*critic_skips, critic_coarsest], [*skips, coarsest], strict=True):
        torch.testing.assert_close(found, expected)
    scores = [head(h) for head, h in zip(critic.heads, [*critic_skips, critic_coarsest], strict=True)]
    assert torch.equal(critic(x, x_u, label), torch.cat(scores, 1))  # conditioned on t = 7, as above
    assert torch.equal(critic(x, x_u, label), critic(x, -x_u, label))
    assert network.in_channels * 2 == critic.network.in_channels  # the original network is unchanged


def test_each_image_gets_a_score_per_depth_independent_of_its_batch(network: UNet | ContextUnet | DiT) -> None:
    critic, (x, x_u, label) = Critic(network, 7), inputs(network)
    scores = critic(x, x_u, label)
    assert scores.shape == (5, len(critic.heads))
    alone = critic(x[3:4], x_u[3:4], None if label is None else label[3:4])
    torch.testing.assert_close(alone, scores[3:4])


@pytest.mark.slow
def test_the_critic_learns_which_pairs_of_images_match(network: UNet | ContextUnet | DiT) -> None:
    """Impossible without looking at x_u: every image occurs equally often in matching and mismatched pairs."""
    critic, (x, _, label) = Critic(network, 7), inputs(network)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    for _ in range(120):
        match, mismatch = critic(x, x, label), critic(x, x.roll(1, 0), label)
        loss = nn.functional.softplus(mismatch - match).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (match.mean(1) > mismatch.mean(1)).all()
    assert loss < 0.2
