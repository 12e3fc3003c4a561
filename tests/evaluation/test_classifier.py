"""The classifier learns what can be learnt, the same each time, and comes back from its file as it went in."""

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
from shapedreamer.evaluation.classifier import Classifier, save_classifier, shipped, train_classifier

Data = tuple[Arrays, Arrays]
CORNERS = ("top left", "top right", "bottom left", "bottom right")


@pytest.fixture(scope="module")
def trained(data: Data) -> Classifier:
    return train_classifier(*data, images=6000)


# learning


def test_what_is_easy_is_learnt_from_few_images(trained: Classifier, data: Data) -> None:
    assert trained.accuracy > 0.98
    images, labels = data[1].batch(torch.arange(300))
    _, seen = trained.see(images)
    assert (seen == trained.classes(labels)).float().mean().item() == pytest.approx(trained.accuracy)
    assert not trained.training


def test_the_same_bits_for_the_same_seed_and_no_others_are_disturbed(data: Data) -> None:
    state = torch.get_rng_state()
    one, same, other = (train_classifier(*data, images=256, seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_progress_counts_the_images_seen(data: Data) -> None:
    seen: list[int] = []
    train_classifier(*data, images=400, progress=seen.append)
    assert seen == [128, 128, 128]
    few = data[0].take(np.arange(50)), data[1]
    train_classifier(*few, images=120, progress=seen.append)
    assert seen[3:] == [50, 50]


def test_a_label_that_can_only_be_guessed_is_guessed(data: Data) -> None:
    """With labels that have nothing to do with the images, no more than chance is right."""
    random = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, 900)]
    training, held_out = (
        Arrays("luck", part.images, its, part.spec.labels)
        for part, its in zip(data, (random[:600], random[600:]), strict=True)
    )
    assert train_classifier(training, held_out, images=1000).accuracy == pytest.approx(0.25, abs=0.1)


# classes


def test_each_label_that_occurs_is_a_class_counts_as_well() -> None:
    training, held_out = Shapes(600), Shapes(200, held_out=True)
    network = train_classifier(training, held_out, images=128)
    labels = torch.cat([part.batch(torch.arange(len(part)))[1] for part in (training, held_out)])
    assert {tuple(label) for label in labels.tolist()} == {tuple(label) for label in network.known.tolist()}
    assert len(network.known) == 34  # 4 of one shape, 10 of two, 20 of three
    assert torch.equal(network.known[network.classes(labels)], labels)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 34)


def test_a_label_that_does_not_occur_has_no_class(trained: Classifier) -> None:
    assert torch.equal(trained.classes(trained.known), torch.arange(4))
    with pytest.raises(ValueError, match=r"no class has the label \[1\.0, 1\.0, 0\.0, 0\.0\]"):
        trained.classes(torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]]))


def test_what_it_sees_in_an_image_does_not_depend_on_the_others(
    trained: Classifier, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = data[1].batch(torch.arange(50))
    features, seen = trained.see(images)
    assert features.shape == (50, 128)
    assert torch.equal(seen, trained(images).argmax(1))
    monkeypatch.setattr(module, "CHUNK", 7)
    again, the_same = trained.see(images)
    assert_close(again, features)
    assert torch.equal(seen, the_same)


# files


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    return tmp_path


def test_a_shipped_classifier_is_the_saved_one_in_half_precision(
    trained: Classifier, data: Data, weights: Path
) -> None:
    path = weights / "squares.safetensors"
    save_classifier(trained, data[0].spec, path, {"machine": "a good one"})
    again = shipped(data[0].spec)
    assert again is not None
    for name, value in trained.state_dict().items():
        assert_close(again.state_dict()[name], value, rtol=2**-11, atol=2**-24)
    assert again.accuracy == pytest.approx(trained.accuracy, abs=5e-5)
    assert torch.equal(again.known, trained.known)
    assert not again.training
    images, _ = data[1].batch(torch.arange(300))
    assert_close(again.see(images)[0], trained.see(images)[0], rtol=0.02, atol=0.02)
    assert (again.see(images)[1] == trained.see(images)[1]).float().mean() > 0.99
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["machine"] == "a good one"
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
def test_a_classifier_of_other_images_is_not_shipped_for_these(
    trained: Classifier, data: Data, weights: Path, other: Callable[[np.ndarray], Arrays]
) -> None:
    save_classifier(trained, data[0].spec, weights / "squares.safetensors", {})
    images = data[0].images[:20]
    assert shipped(Arrays("squares", images[:, ::2], np.ones((20, 4)), CORNERS).spec) is not None
    assert shipped(other(images).spec) is None


@pytest.mark.parametrize("held_out", [Shapes(400, held_out=True), Sprites(400, held_out=True)])
def test_those_in_the_box_recognise_as_much_as_they_say(held_out: Shapes | Sprites) -> None:
    network = shipped(held_out.spec)
    assert network is not None
    images, labels = held_out.batch(torch.arange(400))
    right = (network.see(images)[1] == network.classes(labels)).float().mean().item()
    chance = (network.accuracy * (1 - network.accuracy) / 400) ** 0.5
    assert right == pytest.approx(network.accuracy, abs=3 * chance + 0.005)
    assert network.accuracy > 0.8
