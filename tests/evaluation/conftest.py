"""A simple data set, and models whose measures are known in advance."""

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
    """Distinct grey images, 8 x 8, with one bright quarter; the label says which quarter it is."""
    rng = np.random.default_rng(seed)
    images, corners = rng.integers(0, 60, (n, 8, 8, 1), np.uint8), rng.integers(0, 4, n)
    for image, corner in zip(images, corners, strict=True):
        top, left = 4 * (corner // 2), 4 * (corner % 2)
        image[top : top + 4, left : left + 4] = rng.integers(120, 256, (4, 4, 1))
    return Arrays("squares", images, one_hot(corners, 4), CORNERS)


class FunctionNetwork(nn.Module):
    """A network whose x₀-prediction is a function; it receives labels if the model has any."""

    def __init__(self, predict: Callable[..., Tensor]) -> None:
        super().__init__()
        self.predict, self.unused = predict, nn.Parameter(torch.zeros(1))  # Model reads the device from a parameter

    def forward(self, x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):  # full precision
            return self.predict(x.float(), t, *label)


class PerfectClassifier(Classifier):
    """A classifier that always finds the bright quarter, with the features of an untrained network."""

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features, _ = super().predict(images)
        return features, nn.functional.avg_pool2d(images, 4).flatten(1).argmax(1)


@pytest.fixture(scope="session")
def data() -> tuple[Arrays, Arrays]:
    """600 training images and 300 held-out images."""
    return squares(600, 0), squares(300, 1)


@pytest.fixture
def function_subject(data: tuple[Arrays, Arrays], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Subject]:
    """Makes a subject whose network is a function; with `labels` (N, 4) the model is conditional."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = PerfectClassifier(1, torch.eye(4)).eval()
    classifier.accuracy = 1.0
    monkeypatch.setattr(evaluator, "shipped_classifier", lambda spec: classifier)

    def make(predict: Callable[..., Tensor], labels: Tensor | None = None) -> Subject:
        model = Model(FunctionNetwork(predict), SCHEDULE, "x0", data[0].spec, labels, Sampling("ddim", 20, 0.0))
        return Subject("function", model, *data)

    return make


@pytest.fixture
def images_subject(function_subject: Callable[..., Subject]) -> Callable[[Tensor], Subject]:
    """Makes a subject whose model generates only the given images (N, 1, 8, 8)."""
    return lambda images: function_subject(finite_data(images, SCHEDULE))


@pytest.fixture(scope="session")
def untrained() -> Callable[..., Path]:
    """Writes a run with untrained weights; its default sampling is heun with 3 steps."""

    def write(images: DrawnData | FolderData, folder: Path, labels: bool = False, timesteps: int = 50) -> Path:
        network = UNetConfig(channels=(8, 16), groups=4, head_dim=8, attention=(1,), patch=4)
        sampling = Sampling("heun", 3)
        recipe = Recipe("tiny", images, network, timesteps=timesteps, labels=labels, sampling=sampling)
        training, held_out = recipe.make_data()
        recipe = recipe.bind_data(training)
        label_vectors = held_out.batch(torch.arange(len(held_out)))[1] if labels else None
        weights = recipe.make_network().state_dict()
        config = RunConfig(recipe, training.spec)
        save_checkpoint(folder / "checkpoints", "latest", config, 0, {}, weights, 1.0, label_vectors)
        return folder

    return write
