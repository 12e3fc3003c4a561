"""Every shipped model is what its card says, and a packed run gives the samples of the run."""

import errno
import gzip
import hashlib
import json
import math
import re
import runpy
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import shapedreamer as sd
from shapedreamer import cli
from shapedreamer.common.errors import UserError
from shapedreamer.data.files import mnist
from shapedreamer.evaluation import cards, evaluator
from shapedreamer.evaluation.cards import MAX_BYTES, MAX_TOTAL_BYTES, compressed_size, pack
from shapedreamer.evaluation.classifier import Classifier, shipped_classifier
from shapedreamer.evaluation.validity import crispness
from shapedreamer.imaging.render import grid
from shapedreamer.models import zoo
from shapedreamer.models.checkpoint import Checkpoint, load_checkpoint, read_metrics, save_checkpoint
from shapedreamer.models.eight_bits import from_eight_bits, to_eight_bits
from shapedreamer.models.model import Model, find_checkpoint
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import (
    DrawnData,
    FolderData,
    MnistData,
    Recipe,
    Sampling,
    TilesData,
    UNetConfig,
    with_data_path,
)
from shapedreamer.networks.unet import UNet
from shapedreamer.training.loop import train
from tests.tiny import CONDITIONAL

SHARED = Path(__file__).parents[3] / "shared" / "data"
PATHS = {"mnist": "mnist", "fashion_mnist": "fashion_mnist", "tiles": "dcss/dcss_cc0_nov2015_32x32.npz"}
SAMPLES = 24  # per shipped model; more would take too long in a default test run
MIN_SAMPLES = 256  # the minimum of evaluate
COMMANDS = ("shapedreamer train mnist --data digits", "shapedreamer sample runs/mnist")
TEXT: dict[str, Any] = {"about": "Squares on a line.", "data": "Drawn by a test, MIT", "machine": "a desk, « quick »"}


# The shipped models


class Shipped(NamedTuple):
    name: str
    card: zoo.Card
    checkpoint: Checkpoint
    model: Model
    samples: Tensor


@pytest.fixture(scope="module", params=zoo.names())
def shipped(request: pytest.FixtureRequest) -> Shipped:
    name: str = request.param
    model = sd.load(name, device="cpu")
    return Shipped(name, zoo.card(name), load_checkpoint(zoo.path(name)), model, model.sample(SAMPLES, seed=1))


def held_out_images(recipe: Recipe) -> Tensor:
    """Held-out real images of the recipe; skips the test if the data are not on this machine."""
    path = None
    if not isinstance(recipe.data, DrawnData):
        path = SHARED / PATHS[recipe.data.kind]
        if not path.exists():
            pytest.skip(f"the real data are not in {path}")
    elif recipe.data.kind == "patterns":
        pytest.importorskip("cv2", reason="needs the extra 'data'")
    _, held_out = with_data_path(recipe, path).make_data()
    return held_out.batch(torch.arange(min(512, len(held_out))))[0]


def test_the_card_of_a_shipped_model_matches_its_weight_file(shipped: Shipped) -> None:
    card, model, recipe = shipped.card, shipped.model, shipped.checkpoint.config.recipe
    assert hashlib.sha256(zoo.path(shipped.name).read_bytes()).hexdigest() == card.sha256
    assert sum(p.numel() for p in model.network.parameters()) == card.parameters
    before = card.images - shipped.checkpoint.step * recipe.batch_size  # of the model that it started from
    assert (card.seed, before > 0, before < 0) == (recipe.seed, recipe.start is not None, False)
    assert (card.quality["model"], card.quality["data"]) == (shipped.name, model.spec.name)
    sampling = model.resolve_sampling(SampleOptions())
    measured_with = [card.quality[key] for key in ("sampler", "steps", "eta")]
    assert measured_with == [sampling.sampler, sampling.steps, sampling.eta]
    assert [images for images, _ in card.curve][-1:] in ([], [card.images])
    assert card.commands
    assert all(value for value in vars(card).values() if isinstance(value, str))


def test_a_shipped_model_contains_no_local_paths(shipped: Shipped) -> None:
    assert getattr(shipped.checkpoint.config.recipe.data, "path", None) in (None, "dcss")
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|opt)\b", str(asdict(shipped.card)))


def test_samples_of_a_shipped_model_match_its_spec_and_differ(shipped: Shipped) -> None:
    spec = shipped.model.spec
    assert spec.check(shipped.samples).shape == (SAMPLES, spec.channels, spec.height, spec.width)  # check rejects NaN
    assert shipped.samples.std(0).mean() > 0.05


def test_samples_of_a_shipped_model_are_as_crisp_as_its_card_says(shipped: Shipped) -> None:
    shapes = shipped.card.quality["shapes"]
    if shapes is None:
        pytest.skip("the model does not generate shapes")
    assert abs(crispness(shipped.samples) - shapes["samples"]["crisp"]) < 0.03


def test_samples_of_a_shipped_model_show_their_labels_as_often_as_its_card_says(shipped: Shipped) -> None:
    classifier, accuracy = shipped_classifier(shipped.model.spec), shipped.card.quality["label_accuracy"]
    labels = shipped.model.label_vectors("any", SAMPLES, seed=1)
    if classifier is None or labels is None:
        pytest.skip("the model is unconditional, or no classifier is shipped for its data")
    share = (classifier.predict(shipped.samples)[1] == classifier.classes(labels)).double().mean().item()
    num = shipped.card.quality["num"]
    expected = (accuracy["samples"] * num + 1) / (num + 2)  # below 1 even if no sample was wrong
    assert abs(share - expected) <= 3 * math.sqrt(expected * (1 - expected) / SAMPLES)


def test_samples_of_a_shipped_model_are_as_bright_as_its_data(shipped: Shipped) -> None:
    if not shipped.card.images:
        pytest.skip("the model is untrained")
    real = held_out_images(shipped.checkpoint.config.recipe).mean((1, 2, 3))
    assert (shipped.samples.mean() - real.mean()).abs() < 4 * real.std() / math.sqrt(SAMPLES)


def test_the_weights_folder_holds_only_complete_models_and_stays_small() -> None:
    files = {path.name: path.stat().st_size for path in zoo.WEIGHTS.glob("*")}
    assert files.keys() == {f"{name}.{suffix}" for name in zoo.names() for suffix in ("safetensors", "json", "png")}
    assert all(size <= MAX_BYTES for size in files.values())
    assert sum(compressed_size(path) for path in zoo.WEIGHTS.glob("*")) <= MAX_TOTAL_BYTES


# Packing a run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in MNIST's format, with other images: a bright square, further to the right for higher digits."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in mnist.FILE_NAMES:
        count = 600 if "train" in name else 300
        classes = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 40, (count, 28, 28), np.uint8)
        for image, digit in zip(images, classes, strict=True):
            image[10:18, 2 * digit : 2 * digit + 8] += 200
        content = images if "images" in name else classes
        header = struct.pack(f">BBBB{content.ndim}I", 0, 0, 8, content.ndim, *content.shape)
        (folder / name).write_bytes(gzip.compress(header + content.tobytes()))
    return folder


@pytest.fixture(scope="module")
def run(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, sampling = MnistData(path=str(digits)), Sampling("ddim", 6, 0.5)
    recipe = replace(CONDITIONAL, data=data, epochs=2, batch_size=50, seed=3, sampling=sampling)
    out = tmp_path_factory.mktemp("zoo") / "run"
    train(recipe, out, sample_every=0, save_every=1)
    return out


def untrained_classifier(*_: object) -> Classifier:
    """A classifier with random weights, the same ones in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier(1, torch.eye(10)).eval()
    classifier.accuracy = 0.5
    return classifier


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder that contains the run as the model `digits`, with measured quality."""
    folder = tmp_path_factory.mktemp("packed") / "weights"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "WEIGHTS", folder)
        patch.setattr(evaluator, "shipped_classifier", untrained_classifier)
        pack(run, "digits", commands=COMMANDS, minutes=2.5, num=MIN_SAMPLES, **TEXT)
    return folder


@pytest.fixture
def weights(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, which replaces the package's. The working directory is an empty one next to it."""
    shutil.copytree(packed, tmp_path / "weights")
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "weights")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "weights"


@pytest.fixture
def quick_pack(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`pack` without an evaluation: it reuses the quality of `packed`."""
    quality = json.loads((packed / "digits.json").read_text(encoding="utf-8"))["quality"]
    evaluation = evaluator.Evaluation(**{f.name: quality[f.name] for f in fields(evaluator.Evaluation)})
    evidence = SimpleNamespace(samples=torch.zeros(64, 1, 28, 28))
    monkeypatch.setattr(evaluator, "load_subject", lambda weights, *_, **__: SimpleNamespace(model=sd.load(weights)))
    monkeypatch.setattr(evaluator, "evaluate_subject", lambda *_, **__: (evaluation, evidence))

    def pack_without_evaluation(run: Path, name: str, **options: Any) -> None:
        pack(run, name, commands=COMMANDS, minutes=2.5, **TEXT, **options)

    return pack_without_evaluation


def test_a_packed_model_has_the_averaged_weights_of_its_run_in_half_precision(run: Path, weights: Path) -> None:
    before, after = load_checkpoint(find_checkpoint(run)), load_checkpoint(weights / "digits.safetensors")
    assert after.network == {}
    assert before.ema.keys() == after.ema.keys()
    assert all(value.dtype == torch.float16 for value in after.ema.values())
    loaded = sd.load("digits").network.state_dict()
    for key, value in before.ema.items():
        assert torch.equal(loaded[key], value.half().float())
    assert (before.step, before.best_loss, before.config.data) == (after.step, after.best_loss, after.config.data)
    assert torch.equal(before.labels, after.labels)  # type: ignore[arg-type]
    assert zoo.path("digits").stat().st_size < 0.5 * find_checkpoint(run).stat().st_size


@pytest.mark.usefixtures("weights")
def test_a_packed_model_gives_the_samples_of_its_run(run: Path) -> None:
    """Compared in float32, because bfloat16 would round more than the half precision of the weights."""
    before, after = (sd.load(which, precision="float32").sample(16, seed=5) for which in (run, "digits"))
    assert 0 < (before - after).abs().max() < 0.02
    assert (before - after).abs().mean() < 5e-4
    assert before.std() > 0.1


def test_packing_removes_local_paths_and_changes_nothing_else_in_the_recipe(
    run: Path, digits: Path, weights: Path
) -> None:
    paths = find_checkpoint(run), weights / "digits.safetensors"
    before, after = (load_checkpoint(path).config.recipe for path in paths)
    assert str(digits).encode() in find_checkpoint(run).read_bytes()
    for path in weights.iterdir():
        for local in (digits, run, weights, Path.home(), Path(sys.prefix)):
            assert str(local).encode() not in path.read_bytes()
    assert before.data == MnistData(path=str(digits), samples=600)
    assert after == replace(before, data=MnistData(samples=600))


@pytest.mark.parametrize("data", [TilesData("/home/me/tiles"), FolderData("/home/me/tiles", size=(28, 28), fit="crop")])
def test_a_required_data_path_is_replaced_by_the_name_of_the_data(
    run: Path, weights: Path, quick_pack: Callable[..., None], data: TilesData | FolderData
) -> None:
    checkpoint = load_checkpoint(find_checkpoint(run))
    config = checkpoint.config
    config = replace(
        config, recipe=replace(config.recipe, data=data), data=replace(config.data, name="dcss", labels=())
    )
    states = checkpoint.network, checkpoint.ema
    save_checkpoint(Path(), "other", config, checkpoint.step, *states, checkpoint.best_loss)
    quick_pack(Path("other.safetensors"), "tiles")
    packed = load_checkpoint(weights / "tiles.safetensors")
    assert packed.config.recipe.data == replace(data, path="dcss")
    assert b"/home/me" not in zoo.path("tiles").read_bytes()
    assert packed.labels is None


@pytest.mark.usefixtures("weights")
def test_the_card_is_correct(run: Path, digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "shipped_classifier", untrained_classifier)
    card, model = zoo.card("digits"), sd.load("digits")
    assert {key: getattr(card, key) for key in TEXT} == TEXT
    assert (card.commands, card.minutes, card.seed) == (COMMANDS, 2.5, 3)
    assert card.images == load_checkpoint(find_checkpoint(run)).step * 50
    assert card.parameters == sum(p.numel() for p in model.network.parameters())
    assert card.sampling == "ddim, eta 0.5, 6 network calls"
    held_out = [record["held_out"] for record in read_metrics(run) if "held_out" in record]
    assert [images for images, _ in card.curve] == [600, 1200]
    assert [loss for _, loss in card.curve] == pytest.approx(held_out, abs=1e-5)
    assert card.sha256 == hashlib.sha256(zoo.path("digits").read_bytes()).hexdigest()
    of_model, _ = evaluator.evaluate_subject(evaluator.load_subject("digits", digits), MIN_SAMPLES)
    assert card.quality | {"seconds": 0} == json.loads(json.dumps(asdict(of_model))) | {"seconds": 0}
    of_run, _ = evaluator.evaluate_subject(evaluator.load_subject(run), MIN_SAMPLES)
    assert of_run.fid.samples != of_model.fid.samples  # so the card is about the packed file, not about the run


def test_the_picture_shows_64_samples_of_seed_0(weights: Path) -> None:
    with Image.open(weights / "digits.png") as picture:
        assert (np.asarray(picture) == np.asarray(grid(sd.load("digits").sample(64)))).all()


@pytest.mark.usefixtures("weights")
def test_any_stored_epoch_can_be_packed(run: Path, quick_pack: Callable[..., None]) -> None:
    for epoch in (0, 1):
        quick_pack(run, f"epoch-{epoch}", epoch=epoch)
        ema = load_checkpoint(run / "checkpoints" / f"epoch-000{epoch}.safetensors").ema
        loaded = sd.load(f"epoch-{epoch}").network.state_dict()
        assert all(torch.equal(loaded[key], ema[key].half().float()) for key in ema)
        assert zoo.card(f"epoch-{epoch}").images == 600 * epoch
        assert [images for images, _ in zoo.card(f"epoch-{epoch}").curve] == [600 * (e + 1) for e in range(epoch)]
    assert zoo.names() == ["digits", "epoch-0", "epoch-1"]
    quick_pack(run, "further", epoch=1, images_before=5000)
    assert (zoo.card("further").images, zoo.card("further").curve[0][0]) == (5600, 5600)
    with pytest.raises(UserError, match=r"no checkpoint .*epoch-0007.*epoch-0001\.safetensors"):
        quick_pack(run, "late", epoch=7)


@pytest.mark.usefixtures("weights")
def test_sharpening_scales_the_output_of_the_network(run: Path, quick_pack: Callable[..., None]) -> None:
    quick_pack(run, "sharp", sharpen=1.25)
    plain, sharp = (sd.load(name).network for name in ("digits", "sharp"))
    x, t = torch.randn(4, 1, 28, 28), torch.tensor([1, 20, 30, 50])
    with torch.no_grad():
        torch.testing.assert_close(sharp(x, t), 1.25 * plain(x, t), rtol=2e-3, atol=2e-3)
    for factor in (0.5, 1.6, math.nan):
        with pytest.raises(UserError, match=r"sharpen must be between 1 and 1\.5, not"):
            quick_pack(run, "sharper", sharpen=factor)
    assert "sharper" not in zoo.names()


@pytest.mark.usefixtures("weights")
def test_sharpening_scales_the_output_of_a_network_with_a_head(
    run: Path, tmp_path: Path, quick_pack: Callable[..., None]
) -> None:
    """The head sees the prediction of the U-Net, and must see the one it was trained with."""
    made = load_checkpoint(find_checkpoint(run))
    assert isinstance(made.config.recipe.network, UNetConfig)
    recipe = replace(made.config.recipe, network=replace(made.config.recipe.network, head=8))
    network = recipe.make_network()
    assert isinstance(network, UNet)
    assert network.head is not None
    for parameter in network.head.parameters():  # those of its last layer start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    config = replace(made.config, recipe=recipe)
    save_checkpoint(tmp_path, "plain", config, made.step, {}, network.state_dict(), made.best_loss, made.labels)
    quick_pack(tmp_path / "plain.safetensors", "sharp", sharpen=1.25)
    x, t = torch.randn(4, 1, 28, 28), torch.tensor([1, 20, 30, 50])
    with torch.no_grad():
        plain, sharp = network.eval()(x, t), sd.load("sharp").network(x, t)
    assert plain.abs().max() > 0.1
    torch.testing.assert_close(sharp, 1.25 * plain, rtol=5e-3, atol=5e-3)


@pytest.mark.usefixtures("weights")
def test_only_predictions_of_the_image_can_be_sharpened(
    run: Path, tmp_path: Path, quick_pack: Callable[..., None]
) -> None:
    made = load_checkpoint(find_checkpoint(run))
    config = replace(made.config, recipe=replace(made.config.recipe, prediction="v"))
    save_checkpoint(tmp_path, "velocity", config, made.step, {}, made.ema, made.best_loss, made.labels)
    with pytest.raises(UserError, match="only a U-Net that predicts x0 can be sharpened"):
        quick_pack(tmp_path / "velocity.safetensors", "sharp", sharpen=1.25)


@pytest.mark.parametrize("name", ["", "../digits", "a/b", "Digits", "a b", "a.b", "zahlen\n"])
@pytest.mark.usefixtures("weights")
def test_an_invalid_name_is_rejected(run: Path, quick_pack: Callable[..., None], name: str) -> None:
    with pytest.raises(UserError, match="is not valid: use only lowercase letters, digits, - and _"):
        quick_pack(run, name)
    assert zoo.names() == ["digits"]


def test_weights_that_are_too_large_are_rejected(
    run: Path, weights: Path, quick_pack: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(weights)
    size = zoo.path("digits").stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(cards, "MAX_BYTES", size // 2)  # 8-bit weights have scales and configuration too
        with pytest.raises(UserError, match=r"the weights of digits take 0\.\d MB; the maximum is 0 MB"):
            quick_pack(run, "digits")
    compressed = compressed_size(zoo.path("digits"))
    monkeypatch.setattr(cards, "MAX_TOTAL_BYTES", compressed * 5 // 4)
    with pytest.raises(UserError, match=r"with more, the weights in the package would take 0\.\d MB"):
        quick_pack(run, "more")
    assert contents(weights) == before
    quick_pack(run, "digits")  # the model that is replaced does not count
    monkeypatch.setattr(cards, "MAX_BYTES", size - 1)
    quick_pack(run, "digits")
    expected = from_eight_bits(to_eight_bits(load_checkpoint(find_checkpoint(run)).ema))
    loaded = sd.load("digits").network.state_dict()
    assert all(torch.equal(loaded[key], value.float()) for key, value in expected.items())


def test_a_model_ships_in_8_bits_if_all_would_be_too_large_together(
    run: Path, weights: Path, quick_pack: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = zoo.path("digits").stat().st_size
    monkeypatch.setattr(cards, "MAX_TOTAL_BYTES", compressed_size(zoo.path("digits")) * 9 // 5)
    quick_pack(run, "more")
    assert zoo.path("more").stat().st_size < 0.9 * size


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def raise_disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "no")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("shapedreamer.evaluation.cards.save_checkpoint", "no"),
        ("shapedreamer.evaluation.evaluator.load_subject", "no"),
        ("shapedreamer.evaluation.evaluator.evaluate_subject", "no"),
        ("shapedreamer.evaluation.cards.write_atomic", "no"),
        ("shapedreamer.evaluation.cards.save_picture", "no"),
        ("shapedreamer.evaluation.cards.TemporaryDirectory", "no room on the disk for"),
        ("os.fsync", "no room on the disk for"),
    ],
)
def test_a_failure_while_packing_leaves_the_weights_folder_unchanged(
    run: Path,
    weights: Path,
    quick_pack: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    message: str,
) -> None:
    before = contents(weights)
    for name in ("digits", "more"):
        with monkeypatch.context() as patch:
            patch.setattr(function, raise_disk_full)
            with pytest.raises((UserError, OSError), match=message):
                quick_pack(run, name)
        assert contents(weights) == before


@pytest.mark.parametrize("completed", [0, 1, 2])
def test_a_crash_between_two_files_never_leaves_a_model_with_the_wrong_card(
    run: Path, weights: Path, quick_pack: Callable[..., None], monkeypatch: pytest.MonkeyPatch, completed: int
) -> None:
    rename, calls = Path.replace, 0

    def crash(self: Path, target: Path) -> Path:
        nonlocal calls
        if target.parent == weights:
            calls += 1
            if calls > completed:
                raise KeyboardInterrupt
        return rename(self, target)

    for name in ("digits", "more"):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                quick_pack(run, name, epoch=1)
        for model in zoo.names():
            assert hashlib.sha256(zoo.path(model).read_bytes()).hexdigest() == zoo.card(model).sha256
        assert name not in zoo.names()
    quick_pack(run, "digits", epoch=1)
    assert zoo.card("digits").images == 600


@pytest.mark.usefixtures("weights", "quick_pack")
def test_packing_is_a_command_that_prints_errors_in_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(model: object, name: str) -> None:
        options = "--about A --data B --minutes 1.5 --machine C".split()
        monkeypatch.setattr(sys, "argv", ["pack", str(model), name, *options, "--commands", "make a", "make b"])
        monkeypatch.delitem(sys.modules, cards.__name__, raising=False)
        runpy.run_module(cards.__name__, run_name="__main__")

    command(run, "other")
    assert (zoo.card("other").commands, zoo.card("other").minutes) == (("make a", "make b"), 1.5)
    with pytest.raises(SystemExit) as stop:
        command("nowhere", "more")
    assert stop.value.code == "error: there is no run or checkpoint nowhere; the shipped models are: digits, other"


# Finding and using shipped models


def test_the_error_about_an_unknown_model_lists_the_shipped_ones(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no run or checkpoint unknown-name; the shipped models are: digits$"):
        sd.load("unknown-name")
    monkeypatch.setattr(zoo, "WEIGHTS", weights / "empty")
    with pytest.raises(UserError, match=r"the shipped models are: none$"):
        sd.load("digits")


def test_an_existing_path_takes_precedence_over_the_name_of_a_shipped_model(run: Path, weights: Path) -> None:
    assert find_checkpoint("digits") == find_checkpoint(Path("digits")) == weights / "digits.safetensors"
    shutil.copytree(run, "digits")
    assert find_checkpoint("digits") == Path("digits/checkpoints/best.safetensors")
    ema = load_checkpoint(find_checkpoint(run)).ema
    loaded = sd.load("digits").network.state_dict()
    assert all(torch.equal(loaded[key], ema[key]) for key in ema)


@pytest.mark.usefixtures("weights")
def test_a_packed_model_has_no_raw_weights() -> None:
    with pytest.raises(UserError, match="digits has only averaged weights; leave out `which='raw'`"):
        sd.load("digits", which="raw")


def shapedreamer(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["shapedreamer", *map(str, arguments)])
    return cli.main()


def test_commands_accept_a_shipped_model_by_name_or_path(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ("digits", weights / "digits.safetensors"):
        assert shapedreamer(monkeypatch, "sample", model, "--num", 3, "--label", 7, "--out", "a.npy") == 0
        assert (np.load("a.npy") == sd.load("digits").sample(3, label="7").numpy()).all()
    options = ("--num", 2, "--out", "a.png")
    for arguments in (
        ("compare", "digits", "--samplers", "ddim:3", "heun:2"),
        ("explore", "digits", "interpolate", "--frames", 3),
        ("explore", "digits", "vary", "--creativity", 20),
        ("explore", "digits", "inpaint", "--steps", 3),
    ):
        assert shapedreamer(monkeypatch, *arguments, *options) == 0
        assert Path("a.png").stat().st_size
        Path("a.png").unlink()


@pytest.mark.parametrize("options", [("--resume",), ("--resume", "--textbook"), ()])
def test_training_does_not_resume_or_overwrite_a_shipped_model(
    weights: Path,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    before = contents(weights)
    out = ("--data", digits, "--out", weights / "digits.safetensors")
    assert shapedreamer(monkeypatch, "train", "mnist", *options, *out) == 2
    errors = capsys.readouterr().err
    assert re.fullmatch(r"error: .*digits\.safetensors.*\n", errors)
    assert "is not a run folder: it has no config.json" in errors or not options
    assert contents(weights) == before


@pytest.mark.slow
@pytest.mark.usefixtures("weights")
def test_a_packed_model_can_be_exported_to_onnx() -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    from shapedreamer.export.onnx import OnnxNetwork, to_onnx

    model = sd.load("digits", device="cpu")
    x, t, label = model.noise(2), torch.tensor([3, 50]), torch.eye(10)[[2, 7]]
    with torch.inference_mode():
        expected = model.network(x, t, label)
    to_onnx(model, Path("digits.onnx"))
    torch.testing.assert_close(OnnxNetwork(Path("digits.onnx"), threads=1)(x, t, label), expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("weights")
def test_a_packed_model_can_be_converted_to_diffusers_and_back() -> None:
    pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")
    from shapedreamer.export.diffusers import from_diffusers, to_diffusers

    model = sd.load("digits", device="cpu")
    network: Any = model.network
    back = from_diffusers(to_diffusers(network, 28), patch=4)
    x, t, label = model.noise(2), torch.tensor([3, 50]), torch.eye(10)[[2, 7]]
    with torch.inference_mode():
        torch.testing.assert_close(back(x, t, label), network(x, t, label), rtol=0, atol=1e-4)


# shapedreamer models


@pytest.mark.usefixtures("weights")
def test_models_lists_the_shipped_models(
    run: Path,
    quick_pack: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick_pack(run, "another-one")
    capsys.readouterr()
    assert shapedreamer(monkeypatch, "models") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == ["name", "parameters", "sampled with"]
    millions = f"{zoo.card('digits').parameters / 1e6:.1f} M"
    assert [re.split("  +", line) for line in lines] == [
        [name, millions, "ddim, eta 0.5, 6 network calls", TEXT["about"]] for name in ("another-one", "digits")
    ]


@pytest.mark.usefixtures("weights")
def test_models_prints_the_whole_card_of_one_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shapedreamer.evaluation.table import lines_of

    assert shapedreamer(monkeypatch, "models", "digits") == 0
    printed, card = capsys.readouterr().out, zoo.card("digits")
    assert printed.startswith("digits: Squares on a line.\n")
    for text in (
        card.data,
        f"{card.parameters:,} parameters, trained on {card.images:,} images in 2 minutes, seed 3, on {card.machine}",
        *COMMANDS,
        card.sha256,
        *lines_of(card.quality),
    ):
        assert text in printed


def test_models_reports_an_unknown_name_and_an_empty_installation(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "error: there is no shipped model 'cats'; the shipped models are: {}\n"
    assert shapedreamer(monkeypatch, "models", "cats") == 2
    assert capsys.readouterr().err == message.format("digits")
    monkeypatch.setattr(zoo, "WEIGHTS", weights / "empty")
    assert shapedreamer(monkeypatch, "models") == 0
    assert capsys.readouterr().out == "no models come with this installation\n"
    assert shapedreamer(monkeypatch, "models", "cats") == 2
    assert capsys.readouterr().err == message.format("none")


@pytest.mark.parametrize("arguments", [["models"], ["models", "digits"]])
def test_models_does_not_import_torch(weights: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from pathlib import Path; from shapedreamer import cli; from shapedreamer.models import zoo\n"
        f"zoo.WEIGHTS = Path({str(weights)!r}); sys.argv = ['shapedreamer', *{arguments}]\n"
        "assert cli.main() == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout


def test_a_card_with_an_unknown_or_missing_key_is_rejected(weights: Path) -> None:
    card = json.loads((weights / "digits.json").read_text(encoding="utf-8"))
    for invalid in (card | {"colour": "red"}, {key: value for key, value in card.items() if key != "sha256"}):
        (weights / "digits.json").write_text(json.dumps(invalid))
        with pytest.raises(ValueError, match=r"colour|sha256"):
            zoo.card("digits")
