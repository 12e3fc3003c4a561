"""A data set so simple, and models of it so well understood, that every number about them is known beforehand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shapedreamer.data.arrays import Arrays, one_hot
from shapedreamer.diffusion.oracle import finite_data
from shapedreamer.diffusion.schedule import cosine
from shapedreamer.evaluation import evaluator
from shapedreamer.evaluation.classifier import Classifier
from shapedreamer.evaluation.evaluator import Subject
from shapedreamer.models.checkpoint import RunConfig, save_checkpoint
from shapedreamer.models.model import Model
from shapedreamer.models.recipes import DrawnData, FolderData, Recipe, Sampling, UNetConfig

SCHEDULE = cosine(20)
CORNERS = ("top left", "top right", "bottom left", "bottom right")


def squares(n: int, seed: int) -> Arrays:
    """Grey images 8 x 8 with a bright quarter, all of them different; the label is its place."""
    rng = np.random.default_rng(seed)
    images, corner = rng.integers(0, 60, (n, 8, 8, 1), np.uint8), rng.integers(0, 4, n)
    for image, which in zip(images, corner, strict=True):
        top, left = 4 * (which // 2), 4 * (which % 2)
        image[top : top + 4, left : left + 4] = rng.integers(120, 256, (4, 4, 1))
    return Arrays("squares", images, one_hot(corner, 4), CORNERS)


class Drawer(nn.Module):
    """A network that predicts x₀ as a function says; it is told labels where the model has any."""

    def __init__(self, draw: Callable[..., Tensor]) -> None:
        super().__init__()
        self.draw, self.anything = draw, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # exactly
            return self.draw(x.float(), t, *label)


class Looker(Classifier):
    """A classifier that is never wrong about bright quarters, with the features of an untrained network."""

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, _ = super().see(images)
        return features, nn.functional.avg_pool2d(images, 4).flatten(1).argmax(1)


@pytest.fixture(scope="session")
def data() -> tuple[Arrays, Arrays]:
    """600 training images, and 300 that are held out."""
    return squares(600, 0), squares(300, 1)


@pytest.fixture
def of_drawer(data: tuple[Arrays, Arrays], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """A subject whose network draws as a function says; `labels` (N, 4) if it is told some."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        looker = Looker(1, torch.eye(4)).eval()
    looker.accuracy = 1.0
    monkeypatch.setattr(evaluator, "shipped", lambda spec: looker)

    def make(draw: Callable[..., Tensor], labels: Tensor | None = None) -> Subject:
        model = Model(Drawer(draw), SCHEDULE, "x0", data[0].spec, labels, Sampling("ddim", 20, 0.0))
        return Subject("the drawer", model, *data)

    return make


@pytest.fixture
def of_images(of_drawer: Callable[..., Subject]) -> Callable[[Tensor], Subject]:
    """A subject whose model dreams of nothing but these images (N, 1, 8, 8)."""
    return lambda images: of_drawer(finite_data(images, SCHEDULE))


@pytest.fixture(scope="session")
def untrained() -> Callable[..., Path]:
    """Writes a run of the first weights on some data, sampled with 3 steps of heun where nothing else is said."""

    def store(images: DrawnData | FolderData, folder: Path, labels: bool = False, timesteps: int = 50) -> Path:
        network = UNetConfig(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=4)
        sampling = Sampling("heun", 3)
        recipe = Recipe("tiny", images, network, timesteps=timesteps, labels=labels, sampling=sampling)
        training, held_out = recipe.make_data()
        recipe = recipe.fitted(training)
        its_labels = held_out.batch(torch.arange(len(held_out)))[1] if labels else None
        weights = recipe.make_network().state_dict()
        config = RunConfig(recipe, training.spec)
        save_checkpoint(folder / "checkpoints", "latest", config, 0, {}, weights, 1.0, its_labels)
        return folder

    return store
