"""Models that are known to be perfect, to copy, or to draw the wrong thing are found to be what they are."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.data.arrays import Arrays
from shapedreamer.data.drawn.shapes import Shapes
from shapedreamer.evaluation import evaluator
from shapedreamer.evaluation.classifier import IMAGES, Classifier
from shapedreamer.evaluation.distances import LEAST, fid, kid, precision_recall
from shapedreamer.evaluation.evaluator import Evaluation, Subject, draw, evaluate, real_images, subject
from shapedreamer.evaluation.memorisation import nearest
from shapedreamer.evaluation.table import verdict
from shapedreamer.evaluation.validity import ShapeReport
from shapedreamer.models.model import Model
from shapedreamer.models.recipes import DrawnData, FolderData, Sampling

Data = tuple[Arrays, Arrays]
OfImages = Callable[[Tensor], Subject]
Untrained = Callable[..., Path]


def pixels(data: Arrays, first: int = 0, last: int | None = None) -> Tensor:
    return data.batch(torch.arange(len(data))[first:last])[0]


# what real images are compared with


def numbered(n: int, first: int) -> Arrays:
    """Images and labels that say which one they are."""
    number = np.arange(first, first + n)
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8)[:, None, :, None]
    return Arrays("numbered", images, number[:, None].astype(np.float32), ("number",))


def numbers(images: Tensor) -> list[int]:
    high, low = ((images.flatten(1) + 1) * 127.5).round().long().unbind(1)
    return (256 * high + low).tolist()


@pytest.mark.parametrize(("num", "held_out"), [(256, 300), (300, 300), (400, 300), (500, 300), (256, 0 + 1)])
def test_the_sets_of_real_images_share_none_and_take_held_out_ones_first(num: int, held_out: int) -> None:
    reference, real, labels = real_images(numbered(700, 0), numbered(held_out, 1000), num)
    of_reference, of_real = numbers(reference), numbers(real)
    assert len(set(of_reference)) == len(set(of_real)) == len(set(of_reference + of_real)) / 2 == num
    assert max(of_reference) < 700
    spare = min(num, held_out)
    assert all(number >= 1000 for number in of_real[:spare])
    assert all(number < 700 for number in of_real[spare:])
    assert labels[:, 0].tolist() == of_real
    for some in (of_reference, of_real[:spare]):  # files are sorted by class: the first ones would be of one kind
        assert some != sorted(some) or spare == 1
    again = real_images(numbered(700, 0), numbered(held_out, 1000), num)
    assert all(map(torch.equal, (reference, real, labels), again))


@pytest.mark.parametrize(
    ("num", "training", "held_out", "says"),
    [
        (LEAST - 1, 1000, 1000, "num must be at least 256 for its numbers to mean anything, not 255"),
        (501, 700, 300, "too few images to compare 501 samples with: there are enough for --num 500"),
        (700, 300, 800, "there are enough for --num 300"),
        (256, 200, 100, "it takes 256 of each at the least"),
    ],
)
def test_too_few_images_are_an_error_that_says_how_many_there_are(
    num: int, training: int, held_out: int, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        real_images(numbered(training, 0), numbered(held_out, 1000), num)


@pytest.mark.parametrize(("training", "held_out", "most"), [(700, 300, 500), (300, 800, 300), (301, 300, 300)])
def test_as_many_as_it_says_are_enough(training: int, held_out: int, most: int) -> None:
    assert len(real_images(numbered(training, 0), numbered(held_out, 1000), most)[1]) == most
    with pytest.raises(UserError, match=f"--num {most}"):
        real_images(numbered(training, 0), numbered(held_out, 1000), most + 1)


# samples


def test_samples_are_those_of_the_model_in_256_levels(of_images: OfImages, data: Data) -> None:
    model = of_images(pixels(data[0])).model
    told: list[int] = []
    drawn, labels = draw(model, 150, Sampling("ddpm", 3), 1.0, 7, told.append)
    expected = model.sample(150, "ddpm", 3, seed=7)
    assert_close(drawn, expected, rtol=0, atol=1 / 255 + 1e-6)
    assert_close((drawn + 1) * 127.5, ((drawn + 1) * 127.5).round(), rtol=0, atol=1e-4)
    assert labels is None
    assert told == [64, 128, 150]


def test_samples_are_asked_for_labels_as_they_come_in_the_data(of_drawer: Callable[..., Subject], data: Data) -> None:
    stored = data[1].batch(torch.arange(300))[1][:40]
    asked: list[Tensor] = []

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        asked.append(label)
        return x

    model = of_drawer(network, stored).model
    _, labels = draw(model, 100, Sampling("ddim", 1), 1.0, 3, lambda _: None)
    assert labels is not None
    assert torch.equal(torch.cat(asked), labels)
    assert_close(labels, model.label_vectors("any", 100, 3))


# the numbers


def test_samples_that_are_the_real_images_are_perfect(
    of_images: OfImages, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, real, _ = real_images(*data, LEAST)
    it = of_images(reference)
    monkeypatch.setattr(evaluator, "draw", lambda *_: (reference, None))
    quality, evidence = evaluate(it, LEAST)
    assert quality.fid.samples == pytest.approx(0, abs=1e-9)
    assert quality.kid.samples < quality.kid.real
    assert (quality.precision.samples, quality.recall.samples) == (1, 1)
    assert (quality.copies.nearer, quality.copies.close) == (1, 1)
    assert torch.equal(evidence.samples, reference)
    assert torch.equal(evidence.real, real)

    monkeypatch.setattr(evaluator, "draw", lambda *_: (real, None))
    quality, _ = evaluate(it, LEAST)
    for measure in (quality.fid, quality.kid, quality.precision, quality.recall):
        assert measure.samples == measure.real  # it is the same measure
    assert quality.copies.nearer == 0.5
    assert quality.copies.close == quality.copies.close_held_out


def test_the_numbers_are_those_of_their_functions(of_images: OfImages, data: Data) -> None:
    it = of_images(pixels(data[0], 0, 50))
    quality, evidence = evaluate(it, LEAST, "ddpm", 6, seed=5)
    samples = draw(it.model, LEAST, Sampling("ddpm", 6), 1.0, 5, lambda _: None)[0]
    assert torch.equal(evidence.samples, samples)
    reference, real, _ = real_images(*data, LEAST)
    a, b, c = (it.classifier[0].see(images)[0] for images in (reference, samples, real))
    for beside, measure in ((quality.fid, fid), (quality.kid, kid)):
        assert (beside.samples, beside.real) == pytest.approx((measure(a, b), measure(a, c)), rel=1e-9)
    within = (quality.precision.samples, quality.recall.samples), (quality.precision.real, quality.recall.real)
    assert within == (precision_recall(a, b), precision_recall(a, c))
    distances, _ = nearest(samples, data[0])
    assert torch.equal(evidence.copies.samples, distances[:, 0])
    assert len(evidence.copies.held_out) == LEAST
    assert_close(evidence.copies.held_out, nearest(real, data[0])[0][:, 0])
    assert (quality.num, quality.seed, quality.sampler, quality.steps, quality.eta) == (LEAST, 5, "ddpm", 6, 0.0)
    assert (quality.model, quality.data) == ("the drawer", "squares")
    assert quality.label_accuracy is None
    assert quality.shapes is None
    assert quality.seconds > 0
    _, evidence = evaluate(it, 400)
    assert len(evidence.real) == 400
    assert len(evidence.copies.held_out) == 300  # the rest of the real images were trained on


def test_a_copying_machine_is_found_out(of_images: OfImages, data: Data) -> None:
    quality, evidence = evaluate(of_images(pixels(data[0])), LEAST)
    assert quality.copies.nearer == 1
    assert quality.copies.close == 1
    assert quality.copies.close_held_out < 0.02
    assert verdict(asdict(quality)).startswith("The model memorises")
    assert evidence.copies.samples.max() == 0  # in 256 levels a copy is exact
    assert torch.equal(evidence.pairs[:, 0], evidence.pairs[:, 1])


def test_a_model_of_new_images_is_not_taken_for_one_and_the_nearest_pairs_come_in_order(
    of_images: OfImages, data: Data
) -> None:
    quality, evidence = evaluate(of_images(pixels(data[1])), LEAST)
    assert quality.copies.nearer == pytest.approx(0.5, abs=0.1)
    assert quality.copies.close < 0.05
    assert verdict(asdict(quality)).startswith("Nothing is memorised")
    sample, training = evidence.pairs.double().unbind(1)
    distances = (sample - training).square().mean((1, 2, 3)).sqrt()
    assert_close(distances, evidence.copies.samples.sort().values[:8])
    assert distances.min() > 0.05


def test_few_copies_among_new_images_are_found_out_as_well(of_images: OfImages, data: Data) -> None:
    some = torch.cat([pixels(data[1], 0, 270), pixels(data[0], 0, 30)])
    quality, _ = evaluate(of_images(some), LEAST)
    assert quality.copies.close == pytest.approx(0.1, abs=0.05)
    assert verdict(asdict(quality)).startswith("The model memorises")


def test_label_accuracy_is_the_share_that_is_drawn_right(of_drawer: Callable[..., Subject], data: Data) -> None:
    """The network draws a bright quarter where its label says, but for the last label, which it takes for the first."""
    labels = data[0].batch(torch.arange(600))[1]
    each = torch.stack([pixels(data[0])[labels[:, k] == 1][0] for k in (0, 1, 2, 0)])

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return each[label.argmax(1)]

    it = of_drawer(network, labels)
    quality, _ = evaluate(it, LEAST, seed=2)
    asked = it.model.label_vectors("any", LEAST, 2)
    assert asked is not None
    assert quality.label_accuracy is not None
    assert quality.label_accuracy.samples == pytest.approx(1 - asked[:, 3].mean().item())
    assert 0.7 < quality.label_accuracy.samples < 0.8
    assert quality.label_accuracy.real == 1


def test_shapes_are_looked_for_where_the_data_have_shapes(
    of_images: OfImages, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ShapeReport(0.5, 0.25, 1.0, 0.1, None, None, None)
    asked_about: list[tuple[Tensor, Tensor | None]] = []

    def judge(images: Tensor, spec: object, asked: Tensor | None, progress: Callable[[int], None]) -> ShapeReport:
        asked_about.append((images, asked))
        progress(len(images))
        return report

    monkeypatch.setattr(evaluator, "primitives_of", lambda spec: "some")
    monkeypatch.setattr(evaluator, "judge", judge)
    told: list[tuple[str, int, int]] = []
    it = replace(of_images(pixels(data[1])), tell=lambda *words: told.append(words))
    quality, evidence = evaluate(it, LEAST)
    assert quality.shapes == evaluator.Shapes(report, report)
    (samples, no_labels), (real, no_real_labels) = asked_about
    assert torch.equal(samples, evidence.samples)
    assert torch.equal(real, evidence.real)
    assert no_labels is no_real_labels is None  # a model without labels: real images are not asked for any either
    assert [what for what, done, of in told if done == of] == [
        "sampling",
        "comparing",
        "shapes in samples",
        "shapes in real images",
    ]

    labels = data[0].batch(torch.arange(600))[1]
    it = replace(it, model=Model(it.model.network, it.model.schedule, "x0", data[0].spec, labels))
    monkeypatch.setattr(it.model.network, "draw", lambda x, t, label: x)
    evaluate(it, LEAST)
    its_labels = it.model.label_vectors("any", LEAST)
    assert its_labels is not None
    for (_, asked), labels in zip(asked_about[2:], (its_labels, real_images(*data, LEAST)[2]), strict=True):
        assert asked is not None
        assert torch.equal(asked, labels)


def test_an_evaluation_survives_json(of_images: OfImages, data: Data) -> None:
    quality, _ = evaluate(of_images(pixels(data[1])), LEAST)
    report = ShapeReport(0.5, 0.25, 1.0, 0.1, 1.5, {"circle": 0.75, "line": 0.25}, None)
    for whole in (quality, replace(quality, shapes=evaluator.Shapes(report, report), label_accuracy=quality.fid)):
        text = json.dumps(asdict(whole), allow_nan=False)
        assert TypeAdapter(Evaluation).validate_json(text) == whole


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"num": 255}, "num must be at least 256"),
        ({"num": 600}, "enough for --num 450"),
        ({"sampler": "euler"}, "no sampler 'euler'"),
        ({"steps": 21}, "between 1 and 20, not 21"),
        ({"eta": 2.0}, "eta must be between 0 and 1"),
        ({"sampler": "heun", "eta": 1.0}, "heun has none"),
        ({"seed": -1}, "seed must be between"),
        ({"guidance": 2.0}, "guidance 2 needs a label"),
    ],
)
def test_mistakes_are_found_before_anything_is_drawn(
    of_drawer: Callable[..., Subject], words: dict[str, Any], says: str
) -> None:
    def network(*_: Tensor) -> Tensor:
        raise AssertionError("drawn")

    with pytest.raises(UserError, match=says):
        evaluate(of_drawer(network), **{"num": LEAST} | words)


# whose features


def test_a_classifier_is_trained_where_none_is_in_the_box_and_only_once(
    of_images: OfImages, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Classifier(1, torch.eye(4)).eval()
    trained.accuracy = 0.875
    calls: list[tuple[Arrays, Arrays]] = []

    def train_classifier(training: Arrays, held_out: Arrays, progress: Callable[[int], None]) -> Classifier:
        calls.append((training, held_out))
        progress(128)
        progress(100)
        return trained

    monkeypatch.setattr(evaluator, "shipped", lambda spec: None)
    monkeypatch.setattr(evaluator, "train_classifier", train_classifier)
    told: list[tuple[str, int, int]] = []
    it = replace(of_images(pixels(data[1])), tell=lambda *words: told.append(words))
    for _ in range(2):
        classifier, name = it.classifier
        assert classifier is trained
    assert (
        name == "a classifier of squares trained for this, which recognises 87.5% of real images that it has not seen"
    )
    assert calls == [data]
    assert told == [("training a classifier", seen, IMAGES) for seen in (128, 228)]


def test_one_in_the_box_is_taken_and_named(of_images: OfImages, data: Data) -> None:
    _, name = of_images(pixels(data[1])).classifier
    assert name.startswith("a classifier of squares that comes with shapedreamer, which recognises 100.0%")


@pytest.mark.parametrize("names", [(), ("thing",)])
def test_images_without_labels_are_judged_by_an_untrained_network(names: tuple[str, ...], data: Data) -> None:
    training, held_out = (Arrays("loose", part.images, np.ones((len(part), len(names))), names) for part in data)
    its = [Subject("loose", None, training, held_out) for _ in range(2)]  # type: ignore[arg-type]
    state = torch.get_rng_state()
    (one, name), (other, _) = (it.classifier for it in its)
    assert torch.equal(torch.get_rng_state(), state)
    assert name == "an untrained network, as loose has no labels to learn"
    images = pixels(training, 0, 20)
    assert torch.equal(one.see(images)[0], other.see(images)[0])  # the same bits for everybody
    assert one.see(images)[0].std(0).max() > 1e-3


# from a run


def test_a_run_is_judged_by_its_own_images(untrained: Untrained, tmp_path: Path) -> None:
    run = untrained(DrawnData("shapes", 64), tmp_path / "run")
    it = subject(run)
    assert it.name == str(run)
    assert isinstance(it.training, Shapes)
    assert (len(it.training), len(it.held_out)) == (64, 64)
    assert torch.equal(it.training.batch(torch.arange(9))[0], Shapes(64).batch(torch.arange(9))[0])
    assert it.model.sampling == Sampling("heun", 3)
    with pytest.raises(UserError, match="draws its own images"):
        subject(run, "elsewhere")
    with pytest.raises(UserError, match="there is no run or checkpoint nowhere"):
        subject("nowhere")


def test_images_that_moved_are_found_and_others_are_refused(untrained: Untrained, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 1), np.uint8)
    for place in ("one", "moved/one"):
        (tmp_path / place).mkdir(parents=True)
        np.save(tmp_path / place / "images.npy", images)
    run = untrained(FolderData(str(tmp_path / "one")), tmp_path / "run")
    (tmp_path / "one" / "images.npy").rename(tmp_path / "gone.npy")
    assert len(subject(run, tmp_path / "moved" / "one").training) == 36
    np.save(tmp_path / "one" / "images.npy", 255 - images)
    with pytest.raises(UserError, match="was trained on other images than those of one: give it its own"):
        subject(run)
