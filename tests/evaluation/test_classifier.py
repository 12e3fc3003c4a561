"""The classifier learns labels reproducibly, and loading restores what was saved."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close

from shapedreamer.data.arrays import Arrays
from shapedreamer.data.drawn.shapes import Shapes
from shapedreamer.data.drawn.sprites import Sprites
from shapedreamer.evaluation import classifier as module
from shapedreamer.evaluation.classifier import Classifier, save_classifier, shipped_classifier, train_classifier

Data = tuple[Arrays, Arrays]
CORNERS = ("top left", "top right", "bottom left", "bottom right")


@pytest.fixture(scope="module")
def trained(data: Data) -> Classifier:
    return train_classifier(*data, images=6000)


# training


def test_easy_labels_are_learnt_from_few_images(trained: Classifier, data: Data) -> None:
    assert trained.accuracy > 0.98
    images, labels = data[1].batch(torch.arange(300))
    _, predicted = trained.predict(images)
    assert (predicted == trained.classes(labels)).float().mean().item() == pytest.approx(trained.accuracy)
    assert not trained.training


def test_training_is_reproducible_and_leaves_the_global_generator_alone(data: Data) -> None:
    state = torch.get_rng_state()
    first, repeated, other_seed = (train_classifier(*data, images=256, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    assert not torch.equal(first["head.weight"], other_seed["head.weight"])


def test_progress_receives_the_batch_sizes(data: Data) -> None:
    batch_sizes: list[int] = []
    train_classifier(*data, images=400, progress=batch_sizes.append)
    assert batch_sizes == [128, 128, 128]
    few = data[0].take(np.arange(50)), data[1]
    train_classifier(*few, images=120, progress=batch_sizes.append)
    assert batch_sizes[3:] == [50, 50]


def test_accuracy_is_at_chance_level_for_random_labels(data: Data) -> None:
    random = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, 900)]
    training, held_out = (
        Arrays("random", part.images, labels, part.spec.labels)
        for part, labels in zip(data, (random[:600], random[600:]), strict=True)
    )
    assert train_classifier(training, held_out, images=1000).accuracy == pytest.approx(0.25, abs=0.1)


# classes


def test_every_label_vector_that_occurs_is_a_class_even_counts() -> None:
    training, held_out = Shapes(600), Shapes(200, held_out=True)
    network = train_classifier(training, held_out, images=128)
    labels = torch.cat([part.batch(torch.arange(len(part)))[1] for part in (training, held_out)])
    assert {tuple(label) for label in labels.tolist()} == {tuple(label) for label in network.known.tolist()}
    assert len(network.known) == 34  # 4 of one shape, 10 of two, 20 of three
    assert torch.equal(network.known[network.classes(labels)], labels)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 34)


def test_unknown_labels_are_rejected(trained: Classifier) -> None:
    assert torch.equal(trained.classes(trained.known), torch.arange(4))
    with pytest.raises(ValueError, match=r"no class has the label \[1\.0, 1\.0, 0\.0, 0\.0\]"):
        trained.classes(torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]]))


def test_predictions_do_not_depend_on_the_batch(
    trained: Classifier, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = data[1].batch(torch.arange(50))
    features, classes = trained.predict(images)
    assert features.shape == (50, 128)
    assert torch.equal(classes, trained(images).argmax(1))
    monkeypatch.setattr(module, "CHUNK", 7)
    chunked_features, chunked_classes = trained.predict(images)
    assert_close(chunked_features, features)
    assert torch.equal(chunked_classes, classes)


# files


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    return tmp_path


def test_a_saved_classifier_is_loaded_in_half_precision(trained: Classifier, data: Data, weights: Path) -> None:
    path = weights / "squares.safetensors"
    save_classifier(trained, data[0].spec, path, {"machine": "test machine"})
    loaded = shipped_classifier(data[0].spec)
    assert loaded is not None
    for name, value in trained.state_dict().items():
        assert_close(loaded.state_dict()[name], value, rtol=2**-11, atol=2**-24)
    assert loaded.accuracy == pytest.approx(trained.accuracy, abs=5e-5)
    assert torch.equal(loaded.known, trained.known)
    assert not loaded.training
    images, _ = data[1].batch(torch.arange(300))
    assert_close(loaded.predict(images)[0], trained.predict(images)[0], rtol=0.02, atol=0.02)
    assert (loaded.predict(images)[1] == trained.predict(images)[1]).float().mean() > 0.99
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["machine"] == "test machine"
    assert path.stat().st_size < 2 * sum(value.numel() for value in trained.state_dict().values()) + 8000
    assert [file.name for file in weights.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "other",
    [
        lambda images: Arrays("circles", images, np.ones((20, 4)), ("a", "b", "c", "d")),
        lambda images: Arrays("squares", images, np.ones((20, 4)), ("a", "b", "c", "d")),
        lambda images: Arrays("squares", images, np.ones((20, 1)), ("top left",)),
        lambda images: Arrays("squares", images.repeat(3, axis=3), np.ones((20, 4)), CORNERS),
    ],
)
def test_a_classifier_for_other_data_is_not_loaded(
    trained: Classifier, data: Data, weights: Path, other: Callable[[np.ndarray], Arrays]
) -> None:
    save_classifier(trained, data[0].spec, weights / "squares.safetensors", {})
    images = data[0].images[:20]
    assert shipped_classifier(Arrays("squares", images[:, ::2], np.ones((20, 4)), CORNERS).spec) is not None
    assert shipped_classifier(other(images).spec) is None


@pytest.mark.parametrize("held_out", [Shapes(400, held_out=True), Sprites(400, held_out=True)])
def test_shipped_classifiers_reach_their_stated_accuracy(held_out: Shapes | Sprites) -> None:
    network = shipped_classifier(held_out.spec)
    assert network is not None
    images, labels = held_out.batch(torch.arange(400))
    accuracy = (network.predict(images)[1] == network.classes(labels)).float().mean().item()
    standard_error = (network.accuracy * (1 - network.accuracy) / 400) ** 0.5
    assert accuracy == pytest.approx(network.accuracy, abs=3 * standard_error + 0.005)
    assert network.accuracy > 0.8
