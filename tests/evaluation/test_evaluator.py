"""Evaluations of models that are perfect, that copy, or that ignore labels, and the choice of real images."""

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

import shapedreamer as sd
from shapedreamer.common.errors import UserError
from shapedreamer.data.arrays import Arrays
from shapedreamer.data.drawn.shapes import Shapes
from shapedreamer.evaluation import evaluator
from shapedreamer.evaluation.classifier import TRAINING_IMAGES, Classifier
from shapedreamer.evaluation.distances import MIN_IMAGES, fid, kid, precision_recall
from shapedreamer.evaluation.evaluator import Evaluation, Subject, draw, evaluate_subject, load_subject, real_images
from shapedreamer.evaluation.memorisation import nearest
from shapedreamer.evaluation.table import verdict
from shapedreamer.evaluation.validity import KindReport, ShapeReport
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import DrawnData, FolderData, Sampling

Data = tuple[Arrays, Arrays]
ImagesSubject = Callable[[Tensor], Subject]
Untrained = Callable[..., Path]


def pixels(data: Arrays, first: int = 0, last: int | None = None) -> Tensor:
    return data.batch(torch.arange(len(data))[first:last])[0]


# which real images are used


def numbered(n: int, first: int) -> Arrays:
    """Images and labels that encode the index of each image."""
    number = np.arange(first, first + n)
    images = np.stack([number // 256, number % 256], axis=1).astype(np.uint8)[:, None, :, None]
    return Arrays("numbered", images, number[:, None].astype(np.float32), ("number",))


def numbers(images: Tensor) -> list[int]:
    high, low = ((images.flatten(1) + 1) * 127.5).round().long().unbind(1)
    return (256 * high + low).tolist()


@pytest.mark.parametrize(("num", "held_out"), [(256, 300), (300, 300), (400, 300), (500, 300), (256, 0 + 1)])
def test_real_images_are_held_out_first_and_do_not_overlap_the_reference(num: int, held_out: int) -> None:
    reference, real, labels = real_images(numbered(700, 0), numbered(held_out, 1000), num)
    reference_numbers, real_numbers = numbers(reference), numbers(real)
    assert (
        len(set(reference_numbers)) == len(set(real_numbers)) == len(set(reference_numbers + real_numbers)) / 2 == num
    )
    assert max(reference_numbers) < 700
    num_held_out = min(num, held_out)
    assert all(number >= 1000 for number in real_numbers[:num_held_out])
    assert all(number < 700 for number in real_numbers[num_held_out:])
    assert labels[:, 0].tolist() == real_numbers
    for order in (reference_numbers, real_numbers[:num_held_out]):  # shuffled, because files may be sorted by class
        assert order != sorted(order) or num_held_out == 1
    repeated = real_images(numbered(700, 0), numbered(held_out, 1000), num)
    assert all(map(torch.equal, (reference, real, labels), repeated))


@pytest.mark.parametrize(
    ("num", "training", "held_out", "message"),
    [
        (
            MIN_IMAGES - 1,
            1000,
            1000,
            "num must be at least 256, not 255: with fewer images the measures are unreliable",
        ),
        (501, 700, 300, "too few images to compare 501 samples with; use at most `num=500`"),
        (700, 300, 800, "use at most `num=300`"),
        (256, 200, 100, "at least 256 are needed"),
    ],
)
def test_error_for_too_few_images_states_the_maximum(num: int, training: int, held_out: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        real_images(numbered(training, 0), numbered(held_out, 1000), num)


@pytest.mark.parametrize(("training", "held_out", "max_num"), [(700, 300, 500), (300, 800, 300), (301, 300, 300)])
def test_the_stated_maximum_works(training: int, held_out: int, max_num: int) -> None:
    assert len(real_images(numbered(training, 0), numbered(held_out, 1000), max_num)[1]) == max_num
    with pytest.raises(UserError, match=f"`num={max_num}`"):
        real_images(numbered(training, 0), numbered(held_out, 1000), max_num + 1)


# samples


def test_samples_are_the_models_rounded_to_256_levels(images_subject: ImagesSubject, data: Data) -> None:
    model = images_subject(pixels(data[0])).model
    progress: list[int] = []
    samples, labels = draw(model, 150, SampleOptions("ddpm", 3, seed=7), progress.append)
    expected = model.sample(150, sampler="ddpm", steps=3, seed=7)
    assert_close(samples, expected, rtol=0, atol=1 / 255 + 1e-6)
    assert_close((samples + 1) * 127.5, ((samples + 1) * 127.5).round(), rtol=0, atol=1e-4)
    assert labels is None
    assert progress == [64, 128, 150]


def test_samples_are_conditioned_on_labels_from_the_data(function_subject: Callable[..., Subject], data: Data) -> None:
    stored = data[1].batch(torch.arange(300))[1][:40]
    received: list[Tensor] = []

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        received.append(label)
        return x

    model = function_subject(network, stored).model
    _, labels = draw(model, 100, SampleOptions("ddim", 1, seed=3), lambda _: None)
    assert labels is not None
    assert torch.equal(torch.cat(received), labels)
    assert_close(labels, model.label_vectors("any", 100, 3))


# the measures


def test_real_images_in_place_of_samples_get_perfect_scores(
    images_subject: ImagesSubject, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, real, _ = real_images(*data, MIN_IMAGES)
    subject = images_subject(reference)
    monkeypatch.setattr(evaluator, "draw", lambda *_: (reference, None))
    quality, evidence = evaluate_subject(subject, MIN_IMAGES)
    assert quality.fid.samples == pytest.approx(0, abs=1e-9)
    assert quality.kid.samples < quality.kid.real
    assert (quality.precision.samples, quality.recall.samples) == (1, 1)
    assert (quality.copies.nearer, quality.copies.close) == (1, 1)
    assert torch.equal(evidence.samples, reference)
    assert torch.equal(evidence.real, real)

    monkeypatch.setattr(evaluator, "draw", lambda *_: (real, None))
    quality, _ = evaluate_subject(subject, MIN_IMAGES)
    for measure in (quality.fid, quality.kid, quality.precision, quality.recall):
        assert measure.samples == measure.real  # the same images, so the same value
    assert quality.copies.nearer == 0.5
    assert quality.copies.close == quality.copies.close_held_out


def test_measures_agree_with_their_functions(images_subject: ImagesSubject, data: Data) -> None:
    subject = images_subject(pixels(data[0], 0, 50))
    quality, evidence = evaluate_subject(subject, MIN_IMAGES, SampleOptions("ddpm", 6, seed=5))
    samples = draw(subject.model, MIN_IMAGES, SampleOptions("ddpm", 6, seed=5), lambda _: None)[0]
    assert torch.equal(evidence.samples, samples)
    reference, real, _ = real_images(*data, MIN_IMAGES)
    a, b, c = (subject.classifier[0].predict(images)[0] for images in (reference, samples, real))
    for values, measure in ((quality.fid, fid), (quality.kid, kid)):
        assert (values.samples, values.real) == pytest.approx((measure(a, b), measure(a, c)), rel=1e-9)
    assert (quality.precision.samples, quality.recall.samples) == precision_recall(a, b)
    assert (quality.precision.real, quality.recall.real) == precision_recall(a, c)
    distances, _ = nearest(samples, data[0])
    assert torch.equal(evidence.copies.samples, distances[:, 0])
    assert len(evidence.copies.held_out) == MIN_IMAGES
    assert_close(evidence.copies.held_out, nearest(real, data[0])[0][:, 0])
    assert (quality.num, quality.seed, quality.sampler, quality.steps, quality.eta) == (MIN_IMAGES, 5, "ddpm", 6, 0.0)
    assert (quality.model, quality.data) == ("function", "squares")
    assert quality.label_accuracy is None
    assert quality.shapes is None
    assert quality.seconds > 0
    _, evidence = evaluate_subject(subject, 400)
    assert len(evidence.real) == 400
    assert len(evidence.copies.held_out) == 300  # the other real images are training images


def test_a_model_that_only_copies_is_detected(images_subject: ImagesSubject, data: Data) -> None:
    quality, evidence = evaluate_subject(images_subject(pixels(data[0])), MIN_IMAGES)
    assert quality.copies.nearer == 1
    assert quality.copies.close == 1
    assert quality.copies.close_held_out < 0.02
    assert verdict(asdict(quality)).startswith("The model memorises training images")
    assert evidence.copies.samples.max() == 0  # after rounding to 256 levels a copy is exact
    assert torch.equal(evidence.pairs[:, 0], evidence.pairs[:, 1])


def test_a_model_of_held_out_images_is_not_accused_of_copying_and_pairs_are_sorted(
    images_subject: ImagesSubject, data: Data
) -> None:
    quality, evidence = evaluate_subject(images_subject(pixels(data[1])), MIN_IMAGES)
    assert quality.copies.nearer == pytest.approx(0.5, abs=0.1)
    assert quality.copies.close < 0.05
    assert verdict(asdict(quality)).startswith("No sign of memorisation")
    sample, training = evidence.pairs.double().unbind(1)
    distances = (sample - training).square().mean((1, 2, 3)).sqrt()
    assert_close(distances, evidence.copies.samples.sort().values[:8])
    assert distances.min() > 0.05


def test_a_few_copies_among_new_images_are_detected(images_subject: ImagesSubject, data: Data) -> None:
    mixed = torch.cat([pixels(data[1], 0, 270), pixels(data[0], 0, 30)])
    quality, _ = evaluate_subject(images_subject(mixed), MIN_IMAGES)
    assert quality.copies.close == pytest.approx(0.1, abs=0.05)
    assert verdict(asdict(quality)).startswith("The model memorises training images")


def test_label_accuracy_is_the_share_of_correct_images(function_subject: Callable[..., Subject], data: Data) -> None:
    """The network draws the bright quarter of its label, except that it confuses the last label with the first."""
    labels = data[0].batch(torch.arange(600))[1]
    examples = torch.stack([pixels(data[0])[labels[:, k] == 1][0] for k in (0, 1, 2, 0)])

    def network(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return examples[label.argmax(1)]

    subject = function_subject(network, labels)
    quality, _ = evaluate_subject(subject, MIN_IMAGES, SampleOptions(seed=2))
    drawn_labels = subject.model.label_vectors("any", MIN_IMAGES, 2)
    assert drawn_labels is not None
    assert quality.label_accuracy is not None
    assert quality.label_accuracy.samples == pytest.approx(1 - drawn_labels[:, 3].mean().item())
    assert 0.7 < quality.label_accuracy.samples < 0.8
    assert quality.label_accuracy.real == 1


def test_shapes_are_searched_for_if_the_data_set_draws_shapes(
    images_subject: ImagesSubject, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = ShapeReport(0.5, 0.25, 1.0, 0.1, None, None, None)
    calls: list[tuple[Tensor, Tensor | None]] = []

    def judge(images: Tensor, spec: object, labels: Tensor | None, progress: Callable[[int], None]) -> ShapeReport:
        calls.append((images, labels))
        progress(len(images))
        return report

    monkeypatch.setattr(evaluator, "primitives_of", lambda spec: "some")
    monkeypatch.setattr(evaluator, "judge", judge)
    reports: list[tuple[str, int, int]] = []
    subject = replace(images_subject(pixels(data[1])), report=lambda *progress: reports.append(progress))
    quality, evidence = evaluate_subject(subject, MIN_IMAGES)
    assert quality.shapes == evaluator.Shapes(report, report)
    (samples, sample_labels), (real, real_labels) = calls
    assert torch.equal(samples, evidence.samples)
    assert torch.equal(real, evidence.real)
    assert sample_labels is real_labels is None  # an unconditional model: there is nothing to compare with
    assert [task for task, done, total in reports if done == total] == [
        "sampling",
        "comparing",
        "shapes in samples",
        "shapes in real images",
    ]

    labels = data[0].batch(torch.arange(600))[1]
    network, schedule = subject.model.network, subject.model.schedule
    subject = replace(subject, model=Model(network, schedule, "x0", data[0].spec, labels))
    monkeypatch.setattr(network, "predict", lambda x, t, label: x)
    evaluate_subject(subject, MIN_IMAGES)
    drawn_labels = subject.model.label_vectors("any", MIN_IMAGES)
    assert drawn_labels is not None
    for (_, found), expected in zip(calls[2:], (drawn_labels, real_images(*data, MIN_IMAGES)[2]), strict=True):
        assert found is not None
        assert torch.equal(found, expected)


def test_an_evaluation_round_trips_through_json(images_subject: ImagesSubject, data: Data) -> None:
    quality, _ = evaluate_subject(images_subject(pixels(data[1])), MIN_IMAGES)
    report = ShapeReport(0.5, 0.25, 1.0, 0.1, 1.5, {"circle": 0.75, "line": 0.25}, None)
    spans = {"valid": (0.4, 0.6), "intact": (0.25, 0.75)}
    kinds = {"circle": KindReport(9, 0.5, 0.25, spans), "line": KindReport(0, None, None, {})}
    complete = replace(report, intact=0.5, by_kind=kinds, intervals=spans)
    for evaluation in (
        quality,
        replace(quality, shapes=evaluator.Shapes(report, report), label_accuracy=quality.fid),
        replace(quality, shapes=evaluator.Shapes(complete, complete)),
    ):
        text = json.dumps(asdict(evaluation), allow_nan=False)
        assert TypeAdapter(Evaluation).validate_json(text) == evaluation


def test_evaluations_of_earlier_versions_can_be_read(images_subject: ImagesSubject, data: Data) -> None:
    quality, _ = evaluate_subject(images_subject(pixels(data[1])), MIN_IMAGES)
    report = ShapeReport(0.5, 0.25, 1.0, 0.1, 1.5, {"circle": 0.75, "line": 0.25}, 0.5)
    stored = asdict(replace(quality, shapes=evaluator.Shapes(report, report)))
    for part in stored["shapes"].values():
        for key in ("intact", "by_kind", "intervals"):
            assert part.pop(key) is None
    loaded = TypeAdapter(Evaluation).validate_json(json.dumps(stored))
    assert loaded.shapes == evaluator.Shapes(report, report)


@pytest.mark.parametrize(
    ("num", "options", "message"),
    [
        (255, {}, "num must be at least 256"),
        (600, {}, "use at most `num=450`"),
        (MIN_IMAGES, {"sampler": "euler"}, "unknown sampler 'euler'"),
        (MIN_IMAGES, {"steps": 21}, "between 1 and 20, not 21"),
        (MIN_IMAGES, {"eta": 3.0}, "eta must be between 0 and 2"),
        (MIN_IMAGES, {"sampler": "heun", "eta": 1.0}, "heun has no eta"),
        (MIN_IMAGES, {"seed": -1}, "seed must be between"),
        (MIN_IMAGES, {"guidance": 2.0}, "guidance 2 needs a label"),
        (MIN_IMAGES, {"label": "top left"}, "evaluation draws its labels from the data; leave out `label`"),
    ],
)
def test_invalid_arguments_are_reported_before_sampling(
    function_subject: Callable[..., Subject], num: int, options: dict[str, Any], message: str
) -> None:
    def network(*_: Tensor) -> Tensor:
        raise AssertionError("the network was called")

    with pytest.raises(UserError, match=message):
        evaluate_subject(function_subject(network), num, SampleOptions(**options))


# the classifier


def test_a_classifier_is_trained_once_if_none_is_shipped(
    images_subject: ImagesSubject, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Classifier(1, torch.eye(4)).eval()
    trained.accuracy = 0.875
    calls: list[tuple[Arrays, Arrays]] = []

    def train_classifier(training: Arrays, held_out: Arrays, progress: Callable[[int], None]) -> Classifier:
        calls.append((training, held_out))
        progress(128)
        progress(100)
        return trained

    monkeypatch.setattr(evaluator, "shipped_classifier", lambda spec: None)
    monkeypatch.setattr(evaluator, "train_classifier", train_classifier)
    reports: list[tuple[str, int, int]] = []
    subject = replace(images_subject(pixels(data[1])), report=lambda *progress: reports.append(progress))
    for _ in range(2):
        classifier, name = subject.classifier
        assert classifier is trained
    assert name == "a classifier of squares trained for this evaluation (87.5% accuracy on held-out images)"
    assert calls == [data]
    assert reports == [("training a classifier", seen, TRAINING_IMAGES) for seen in (128, 228)]


def test_a_shipped_classifier_is_used_and_described(images_subject: ImagesSubject, data: Data) -> None:
    _, name = images_subject(pixels(data[1])).classifier
    assert name == "a classifier of squares shipped with shapedreamer (100.0% accuracy on held-out images)"


@pytest.mark.parametrize("names", [(), ("thing",)])
def test_data_without_labels_use_an_untrained_network(names: tuple[str, ...], data: Data) -> None:
    training, held_out = (Arrays("loose", part.images, np.ones((len(part), len(names))), names) for part in data)
    subjects = [Subject("loose", None, training, held_out) for _ in range(2)]  # type: ignore[arg-type]
    state = torch.get_rng_state()
    (first, name), (second, _) = (subject.classifier for subject in subjects)
    assert torch.equal(torch.get_rng_state(), state)
    assert name == "an untrained network (loose has no labels to train a classifier on)"
    images = pixels(training, 0, 20)
    assert torch.equal(first.predict(images)[0], second.predict(images)[0])  # always the same weights
    assert first.predict(images)[0].std(0).max() > 1e-3


# loading a run


def test_load_subject_finds_the_training_data_of_a_run(untrained: Untrained, tmp_path: Path) -> None:
    run = untrained(DrawnData("shapes", 64), tmp_path / "run")
    subject = load_subject(run)
    assert subject.name == str(run)
    assert isinstance(subject.training, Shapes)
    assert (len(subject.training), len(subject.held_out)) == (64, 64)
    assert torch.equal(subject.training.batch(torch.arange(9))[0], Shapes(64).batch(torch.arange(9))[0])
    assert subject.model.sampling == Sampling("heun", 3)
    with pytest.raises(UserError, match="draws its own images"):
        load_subject(run, "elsewhere")
    with pytest.raises(UserError, match="there is no run or checkpoint nowhere"):
        load_subject("nowhere")


def test_moved_training_images_are_accepted_and_others_rejected(untrained: Untrained, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 8, 8, 1), np.uint8)
    for place in ("one", "moved/one"):
        (tmp_path / place).mkdir(parents=True)
        np.save(tmp_path / place / "images.npy", images)
    run = untrained(FolderData(str(tmp_path / "one")), tmp_path / "run")
    (tmp_path / "one" / "images.npy").rename(tmp_path / "gone.npy")
    assert len(load_subject(run, tmp_path / "moved" / "one").training) == 36
    np.save(tmp_path / "one" / "images.npy", 255 - images)
    with pytest.raises(
        UserError, match="not trained on the images of one; pass the path of its training images with `data`"
    ):
        load_subject(run)


# the public function


def test_public_evaluate_loads_a_run_and_measures_its_samples(untrained: Untrained, tmp_path: Path) -> None:
    run = untrained(DrawnData("sprites", 300), tmp_path / "run", labels=True, timesteps=4)
    reports: list[tuple[str, int, int]] = []
    options = SampleOptions("heun", 2, seed=3)
    quality = sd.evaluate(
        run,
        MIN_IMAGES,
        options,
        device="cpu",
        report=lambda *progress: reports.append(progress),
        sampler="ddim",
        eta=0.5,
    )
    subject = load_subject(run, device="cpu")
    expected, _ = evaluate_subject(subject, MIN_IMAGES, SampleOptions("ddim", 2, 0.5, seed=3))
    assert {**vars(quality), "seconds": 0} == {**vars(expected), "seconds": 0}
    assert (quality.model, quality.data, quality.num) == (str(run), "sprites", MIN_IMAGES)
    assert (quality.sampler, quality.steps, quality.eta, quality.seed) == ("ddim", 2, 0.5, 3)
    assert quality.label_accuracy is not None
    assert [task for task, done, total in reports if done == total] == ["sampling", "comparing"]


def test_public_evaluate_rejects_invalid_arguments(untrained: Untrained, tmp_path: Path) -> None:
    run = untrained(DrawnData("sprites", 300), tmp_path / "run", labels=True, timesteps=4)
    for arguments, message in (
        ({}, "too few images to compare 2000 samples with; use at most `num=300`"),
        ({"num": 255}, "num must be at least 256, not 255"),
        ({"num": MIN_IMAGES, "steps": 5}, "steps must be between 1 and 4"),
        ({"num": MIN_IMAGES, "label": "food"}, "evaluation draws its labels from the data"),
        ({"data": "elsewhere"}, "draws its own images"),
    ):
        with pytest.raises(UserError, match=message):
            sd.evaluate(run, **arguments)
    with pytest.raises(UserError, match="there is no run or checkpoint nowhere"):
        sd.evaluate("nowhere")
    with pytest.raises(TypeError, match="colour"):
        sd.evaluate(run, MIN_IMAGES, colour="red")
