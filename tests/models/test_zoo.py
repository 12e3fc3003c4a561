"""The box: every model in it is what its card says, and a run that is packed into it dreams on as before."""

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
from shapedreamer.evaluation import cards as packing
from shapedreamer.evaluation import evaluator
from shapedreamer.evaluation.cards import MOST, MOST_IN_ALL, in_a_wheel, pack
from shapedreamer.evaluation.classifier import Classifier, shipped
from shapedreamer.evaluation.validity import crispness
from shapedreamer.imaging.render import grid
from shapedreamer.models import zoo
from shapedreamer.models.checkpoint import Checkpoint, load_checkpoint, read_metrics, save_checkpoint
from shapedreamer.models.model import Model, find
from shapedreamer.models.recipes import DrawnData, FolderData, MnistData, Recipe, Sampling, TilesData, moved
from shapedreamer.training.loop import train
from tests.tiny import TOLD

SHARED = Path(__file__).parents[3] / "shared" / "data"
PLACES = {"mnist": "mnist", "fashion_mnist": "fashion_mnist", "tiles": "dcss/dcss_cc0_nov2015_32x32.npz"}
SAMPLES = 24  # of each model in the box: as many as there is time for in a default test run
LEAST = 256  # samples that can be evaluated
COMMANDS = ("shapedreamer train mnist --data digits", "shapedreamer sample runs/mnist")
WORDS: dict[str, Any] = {"about": "Squares on a line.", "data": "Drawn by a test, MIT", "machine": "a desk, « quick »"}


# The models in the box


class Shipped(NamedTuple):
    name: str
    card: zoo.Card
    checkpoint: Checkpoint
    model: Model
    samples: Tensor


@pytest.fixture(scope="module", params=zoo.names())
def boxed(request: pytest.FixtureRequest) -> Shipped:
    name: str = request.param
    model = sd.load(name, device="cpu")
    return Shipped(name, zoo.card(name), load_checkpoint(zoo.path(name)), model, model.sample(SAMPLES, seed=1))


def held_out_of(recipe: Recipe) -> Tensor:
    """Real images, for a model of data that can be had here."""
    place = None
    if not isinstance(recipe.data, DrawnData):
        place = SHARED / PLACES[recipe.data.kind]
        if not place.exists():
            pytest.skip("the real data are not here")
    elif recipe.data.kind == "patterns":
        pytest.importorskip("cv2", reason="needs the extra 'data'")
    _, held_out = moved(recipe, place).make_data()
    return held_out.batch(torch.arange(min(512, len(held_out))))[0]


def test_the_card_of_a_shipped_model_is_about_its_file(boxed: Shipped) -> None:
    recipe = boxed.checkpoint.config.recipe
    assert hashlib.sha256(zoo.path(boxed.name).read_bytes()).hexdigest() == boxed.card.sha256
    assert sum(p.numel() for p in boxed.model.network.parameters()) == boxed.card.parameters
    assert (boxed.card.seed, boxed.card.images) == (recipe.seed, boxed.checkpoint.step * recipe.batch_size)
    assert (boxed.card.quality["model"], boxed.card.quality["data"]) == (boxed.name, boxed.model.spec.name)
    way = boxed.model.chosen(None, None, None)
    assert [boxed.card.quality[key] for key in ("sampler", "steps", "eta")] == [way.sampler, way.steps, way.eta]
    assert [images for images, _ in boxed.card.curve][-1:] in ([], [boxed.card.images])
    assert boxed.card.commands
    assert all(value for value in vars(boxed.card).values() if isinstance(value, str))


def test_a_shipped_model_knows_no_place_of_the_machine_that_made_it(boxed: Shipped) -> None:
    assert getattr(boxed.checkpoint.config.recipe.data, "path", None) in (None, "dcss")
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|Users|mnt|opt)\b", str(asdict(boxed.card)))


def test_samples_of_a_shipped_model_are_images_of_its_spec(boxed: Shipped) -> None:
    spec = boxed.model.spec
    assert spec.check(boxed.samples).shape == (SAMPLES, spec.channels, spec.height, spec.width)  # nan is outside, too
    assert boxed.samples.std(0).mean() > 0.05  # and not one image again and again


def test_a_shipped_model_is_as_crisp_as_its_card_says(boxed: Shipped) -> None:
    shapes = boxed.card.quality["shapes"]
    if shapes is None:
        pytest.skip("it does not dream of shapes")
    assert abs(crispness(boxed.samples) - shapes["samples"]["crisp"]) < 0.03


def test_a_shipped_model_shows_its_labels_as_often_as_its_card_says(boxed: Shipped) -> None:
    classifier, accuracy = shipped(boxed.model.spec), boxed.card.quality["label_accuracy"]
    labels = boxed.model.label_vectors("any", SAMPLES, seed=1)
    if classifier is None or labels is None:
        pytest.skip("it has no labels, or there is no classifier of them")
    share = (classifier.see(boxed.samples)[1] == classifier.classes(labels)).double().mean().item()
    num = boxed.card.quality["num"]
    expected = (accuracy["samples"] * num + 1) / (num + 2)  # not quite 1 where none was wrong
    assert abs(share - expected) <= 3 * math.sqrt(expected * (1 - expected) / SAMPLES)


def test_a_shipped_model_is_as_bright_as_its_data(boxed: Shipped) -> None:
    if not boxed.card.images:
        pytest.skip("it has seen none yet")
    real = held_out_of(boxed.checkpoint.config.recipe).mean((1, 2, 3))
    assert (boxed.samples.mean() - real.mean()).abs() < 4 * real.std() / math.sqrt(SAMPLES)


def test_the_box_is_small_and_holds_whole_models_alone() -> None:
    files = {path.name: path.stat().st_size for path in zoo.WEIGHTS.glob("*")}
    assert files.keys() == {f"{name}.{ending}" for name in zoo.names() for ending in ("safetensors", "json", "png")}
    assert all(size <= MOST for size in files.values())
    assert sum(in_a_wheel(path) for path in zoo.WEIGHTS.glob("*")) <= MOST_IN_ALL


# Packing a run


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's files with other images: a square that lies further to the right the higher the digit."""
    folder = tmp_path_factory.mktemp("somewhere") / "digits"
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
    recipe = replace(
        TOLD, data=MnistData(path=str(digits)), epochs=2, batch_size=50, seed=3, sampling=Sampling("ddim", 6, 0.5)
    )
    out = tmp_path_factory.mktemp("zoo") / "run"
    train(recipe, out, sample_every=0, save_every=1)
    return out


def any_classifier(*_: object) -> Classifier:
    """It has learnt nothing, but sees the same in the same images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = Classifier(1, torch.eye(10)).eval()
    classifier.accuracy = 0.5
    return classifier


@pytest.fixture(scope="module")
def packed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box with the run in it, measured by all that `evaluate` measures."""
    folder = tmp_path_factory.mktemp("box") / "weights"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "WEIGHTS", folder)
        patch.setattr(evaluator, "shipped", any_classifier)
        pack(run, "digits", commands=COMMANDS, minutes=2.5, num=LEAST, **WORDS)
    return folder


@pytest.fixture
def box(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that box in the place of the package's, and the folder that it is in as the current one."""
    shutil.copytree(packed, tmp_path / "box")
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "box")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "box"


@pytest.fixture
def unmeasured(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`pack` in no time: what is measured is what was measured before."""
    quality = json.loads((packed / "digits.json").read_text(encoding="utf-8"))["quality"]
    measured = evaluator.Evaluation(**{f.name: quality[f.name] for f in fields(evaluator.Evaluation)})
    evidence = SimpleNamespace(samples=torch.zeros(64, 1, 28, 28))
    monkeypatch.setattr(evaluator, "subject", lambda weights, *_, **__: SimpleNamespace(model=sd.load(weights)))
    monkeypatch.setattr(evaluator, "evaluate", lambda *_, **__: (measured, evidence))

    def quick(run: Path, name: str, **options: Any) -> None:
        pack(run, name, commands=COMMANDS, minutes=2.5, **WORDS, **options)

    return quick


def test_a_packed_model_has_the_runs_averaged_weights_to_half_precision_and_all_else(run: Path, box: Path) -> None:
    before, after = load_checkpoint(find(run)), load_checkpoint(box / "digits.safetensors")
    assert after.network == {}
    assert before.ema.keys() == after.ema.keys()
    assert all(value.dtype == torch.float16 for value in after.ema.values())
    loaded = sd.load("digits").network.state_dict()
    for key, value in before.ema.items():
        assert torch.equal(loaded[key], value.half().float())
    assert (before.step, before.best_loss, before.config.data) == (after.step, after.best_loss, after.config.data)
    assert torch.equal(before.labels, after.labels)  # type: ignore[arg-type]
    assert zoo.path("digits").stat().st_size < 0.5 * find(run).stat().st_size


@pytest.mark.usefixtures("box")
def test_a_packed_model_dreams_what_its_run_dreams(run: Path) -> None:
    """In float32: elsewhere bfloat16 rounds more than half precision does."""
    before, after = (sd.load(which, precision="float32").sample(16, seed=5) for which in (run, "digits"))
    assert 0 < (before - after).abs().max() < 0.02
    assert (before - after).abs().mean() < 5e-4
    assert before.std() > 0.1


def test_no_place_of_this_machine_is_in_the_files_and_else_the_recipe_is_the_same(
    run: Path, digits: Path, box: Path
) -> None:
    before, after = (load_checkpoint(path).config.recipe for path in (find(run), box / "digits.safetensors"))
    assert str(digits).encode() in find(run).read_bytes()
    for path in box.iterdir():
        for place in (digits, run, box, Path.home(), Path(sys.prefix)):
            assert str(place).encode() not in path.read_bytes()
    assert before.data == MnistData(path=str(digits), samples=600)
    assert after == replace(before, data=MnistData(samples=600))


@pytest.mark.parametrize("data", [TilesData("/home/me/tiles"), FolderData("/home/me/tiles", size=(28, 28), fit="crop")])
def test_where_a_path_must_be_said_it_is_the_name_of_the_data(
    run: Path, box: Path, unmeasured: Callable[..., None], data: TilesData | FolderData
) -> None:
    it = load_checkpoint(find(run))
    config = replace(
        it.config, recipe=replace(it.config.recipe, data=data), data=replace(it.config.data, name="dcss", labels=())
    )
    save_checkpoint(Path(), "other", config, it.step, it.network, it.ema, it.best_loss)
    unmeasured(Path("other.safetensors"), "tiles")
    assert load_checkpoint(box / "tiles.safetensors").config.recipe.data == replace(data, path="dcss")
    assert b"/home/me" not in zoo.path("tiles").read_bytes()
    assert load_checkpoint(box / "tiles.safetensors").labels is None


def test_the_card_says_what_is_so(run: Path, digits: Path, box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluator, "shipped", any_classifier)
    card, model = zoo.card("digits"), sd.load("digits")
    assert {key: getattr(card, key) for key in WORDS} == WORDS
    assert (card.commands, card.minutes, card.seed) == (COMMANDS, 2.5, 3)
    assert card.images == load_checkpoint(find(run)).step * 50
    assert card.parameters == sum(p.numel() for p in model.network.parameters())
    assert card.sampling == "ddim, eta 0.5, 6 network calls"
    held_out = [record["held_out"] for record in read_metrics(run) if "held_out" in record]
    assert [images for images, _ in card.curve] == [600, 1200]
    assert [loss for _, loss in card.curve] == pytest.approx(held_out, abs=1e-5)
    assert card.sha256 == hashlib.sha256(zoo.path("digits").read_bytes()).hexdigest()
    again, _ = evaluator.evaluate(evaluator.subject("digits", digits), LEAST)
    assert card.quality | {"seconds": 0} == json.loads(json.dumps(asdict(again))) | {"seconds": 0}
    of_run, _ = evaluator.evaluate(evaluator.subject(run), LEAST)
    assert of_run.fid.samples != again.fid.samples  # so it was the packed file that was measured


def test_the_picture_is_64_samples_of_seed_0(box: Path) -> None:
    with Image.open(box / "digits.png") as picture:
        assert (np.asarray(picture) == np.asarray(grid(sd.load("digits").sample(64)))).all()


def test_any_epoch_can_be_packed(run: Path, box: Path, unmeasured: Callable[..., None]) -> None:
    for epoch in (0, 1):
        unmeasured(run, f"epoch-{epoch}", epoch=epoch)
        ema = load_checkpoint(run / "checkpoints" / f"epoch-000{epoch}.safetensors").ema
        loaded = sd.load(f"epoch-{epoch}").network.state_dict()
        assert all(torch.equal(loaded[key], ema[key].half().float()) for key in ema)
        assert zoo.card(f"epoch-{epoch}").images == 600 * epoch
        assert [images for images, _ in zoo.card(f"epoch-{epoch}").curve] == [600 * (e + 1) for e in range(epoch)]
    assert zoo.names() == ["digits", "epoch-0", "epoch-1"]
    with pytest.raises(UserError, match=r"no checkpoint .*epoch-0007.*epoch-0001\.safetensors"):
        unmeasured(run, "late", epoch=7)


@pytest.mark.parametrize("name", ["", "../digits", "a/b", "Digits", "a b", "a.b", "zahlen\n"])
def test_a_name_that_is_no_files_is_refused(run: Path, box: Path, unmeasured: Callable[..., None], name: str) -> None:
    with pytest.raises(UserError, match="must be of small letters, digits, - and _ alone"):
        unmeasured(run, name)
    assert zoo.names() == ["digits"]


def test_the_box_stays_small(
    run: Path, box: Path, unmeasured: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(box)
    size = zoo.path("digits").stat().st_size
    with monkeypatch.context() as patch:
        patch.setattr(packing, "MOST", size - 1)
        with pytest.raises(UserError, match=r"the weights of digits are 0\.\d MB, and must be at most 0 MB"):
            unmeasured(run, "digits")
    monkeypatch.setattr(packing, "MOST_IN_ALL", in_a_wheel(zoo.path("digits")) * 3 // 2)
    with pytest.raises(UserError, match=r"with more there would be 0\.\d MB of weights in the package"):
        unmeasured(run, "more")
    assert contents(box) == before
    unmeasured(run, "digits")  # what is replaced does not count


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "no")


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        ("shapedreamer.evaluation.cards.save_checkpoint", "no"),
        ("shapedreamer.evaluation.evaluator.subject", "no"),
        ("shapedreamer.evaluation.evaluator.evaluate", "no"),
        ("shapedreamer.evaluation.cards.write_atomic", "no"),
        ("shapedreamer.evaluation.cards.save_picture", "no"),
        ("shapedreamer.evaluation.cards.TemporaryDirectory", "no room on the disk for"),
        ("os.fsync", "no room on the disk for"),
    ],
)
def test_whatever_fails_the_box_is_as_it_was(
    run: Path,
    box: Path,
    unmeasured: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    breaks: str,
    says: str,
) -> None:
    before = contents(box)
    for name in ("digits", "more"):
        with monkeypatch.context() as patch:
            patch.setattr(breaks, full_disk)
            with pytest.raises((UserError, OSError), match=says):
                unmeasured(run, name)
        assert contents(box) == before


@pytest.mark.parametrize("fatal", [0, 1, 2])
def test_a_crash_between_any_two_files_leaves_no_model_beside_another_ones_card(
    run: Path, box: Path, unmeasured: Callable[..., None], monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    rename, calls = Path.replace, 0

    def crash(self: Path, target: Path) -> Path:
        nonlocal calls
        if target.parent == box:
            calls += 1
            if calls > fatal:
                raise KeyboardInterrupt
        return rename(self, target)

    for name in ("digits", "more"):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crash)
            with pytest.raises(KeyboardInterrupt):
                unmeasured(run, name, epoch=1)
        for there in zoo.names():
            assert hashlib.sha256(zoo.path(there).read_bytes()).hexdigest() == zoo.card(there).sha256
        assert name not in zoo.names()
    unmeasured(run, "digits", epoch=1)
    assert zoo.card("digits").images == 600


def test_packing_is_a_command_and_a_mistake_is_one_line(
    run: Path,
    box: Path,
    unmeasured: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def command(model: object, name: str) -> None:
        words = ["--about", "A", "--data", "B", "--commands", "make a", "make b", "--minutes", "1.5", "--machine", "C"]
        monkeypatch.setattr(sys, "argv", ["pack", str(model), name, *words])
        monkeypatch.delitem(sys.modules, packing.__name__, raising=False)
        runpy.run_module(packing.__name__, run_name="__main__")

    command(run, "other")
    assert (zoo.card("other").commands, zoo.card("other").minutes) == (("make a", "make b"), 1.5)
    with pytest.raises(SystemExit) as stop:
        command("nowhere", "more")
    assert stop.value.code == "error: there is no run or checkpoint nowhere; in the box are: digits, other"


# Finding and using what is in the box


def test_a_name_that_is_not_there_is_answered_with_those_that_are(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no run or checkpoint shapes-that-do-not-exist; in the box are: digits$"):
        sd.load("shapes-that-do-not-exist")
    monkeypatch.setattr(zoo, "WEIGHTS", box / "empty")
    with pytest.raises(UserError, match=r"in the box are: none$"):
        sd.load("digits")


def test_a_path_that_exists_wins_over_a_name(run: Path, box: Path) -> None:
    assert find("digits") == find(Path("digits")) == box / "digits.safetensors"
    shutil.copytree(run, "digits")
    assert find("digits") == Path("digits/checkpoints/best.safetensors")
    ema = load_checkpoint(find(run)).ema
    loaded = sd.load("digits").network.state_dict()
    assert all(torch.equal(loaded[key], ema[key]) for key in ema)


def test_a_packed_model_has_no_raw_weights(box: Path) -> None:
    with pytest.raises(UserError, match="digits has averaged weights alone; leave out --which raw"):
        sd.load("digits", which="raw")


def shapedreamer(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run the command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["shapedreamer", *map(str, words)])
    return cli.main()


def test_commands_take_a_packed_model_by_its_name_or_its_path(box: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for model in ("digits", box / "digits.safetensors"):
        assert shapedreamer(monkeypatch, "sample", model, "--num", 3, "--label", 7, "--out", "a.npy") == 0
        assert (np.load("a.npy") == sd.load("digits").sample(3, label="7").numpy()).all()
    quick = ("--num", 2, "--out", "a.png")
    for words in (
        ("compare", "digits", "--samplers", "ddim:3", "heun:2"),
        ("explore", "digits", "interpolate", "--frames", 3),
        ("explore", "digits", "vary", "--creativity", 20),
        ("explore", "digits", "inpaint", "--steps", 3),
    ):
        assert shapedreamer(monkeypatch, *words, *quick) == 0
        assert Path("a.png").stat().st_size
        Path("a.png").unlink()


@pytest.mark.parametrize("words", [("--resume",), ("--resume", "--textbook"), ()])
def test_a_packed_model_cannot_be_trained_on(
    box: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    before = contents(box)
    out = ("--data", digits, "--out", box / "digits.safetensors")
    assert shapedreamer(monkeypatch, "train", "mnist", *words, *out) == 2
    heard = capsys.readouterr().err
    assert re.fullmatch(r"error: .*digits\.safetensors.*\n", heard)
    assert "is not a run: it has no config.json" in heard or not words
    assert contents(box) == before


@pytest.mark.slow
def test_a_packed_model_becomes_one_of_onnx(box: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    from shapedreamer.export.onnx import OnnxNetwork, to_onnx

    model = sd.load("digits", device="cpu")
    x, t, label = model.noise(2), torch.tensor([3, 50]), torch.eye(10)[[2, 7]]
    with torch.inference_mode():
        expected = model.network(x, t, label)
    to_onnx(model, Path("digits.onnx"))
    torch.testing.assert_close(OnnxNetwork(Path("digits.onnx"), threads=1)(x, t, label), expected, rtol=0, atol=1e-4)


def test_a_packed_model_becomes_one_of_diffusers(box: Path) -> None:
    pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")
    from shapedreamer.export.diffusers import from_diffusers, to_diffusers

    model = sd.load("digits", device="cpu")
    network: Any = model.network
    back = from_diffusers(to_diffusers(network, 28), patch=4)
    x, t, label = model.noise(2), torch.tensor([3, 50]), torch.eye(10)[[2, 7]]
    with torch.inference_mode():
        torch.testing.assert_close(back(x, t, label), network(x, t, label), rtol=0, atol=1e-4)


# What is told about it


def test_models_lists_what_is_in_the_box(
    run: Path,
    box: Path,
    unmeasured: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unmeasured(run, "another-one")
    capsys.readouterr()
    assert shapedreamer(monkeypatch, "models") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == ["name", "parameters", "sampled with"]
    millions = f"{zoo.card('digits').parameters / 1e6:.1f} M"
    assert [re.split("  +", line) for line in lines] == [
        [name, millions, "ddim, eta 0.5, 6 network calls", WORDS["about"]] for name in ("another-one", "digits")
    ]


def test_models_tells_all_about_one(
    box: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shapedreamer.evaluation.table import lines_of

    assert shapedreamer(monkeypatch, "models", "digits") == 0
    told, card = capsys.readouterr().out, zoo.card("digits")
    assert told.startswith("digits: Squares on a line.\n")
    for words in (
        card.data,
        f"{card.parameters:,} parameters, trained on {card.images:,} images in 2 minutes, seed 3, on {card.machine}",
        *COMMANDS,
        card.sha256,
        *lines_of(card.quality),
    ):
        assert words in told


def test_models_of_an_empty_box_and_of_no_such_name(
    box: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shapedreamer(monkeypatch, "models", "cats") == 2
    assert capsys.readouterr().err == "error: there is no model 'cats' in the box; there are: digits\n"
    monkeypatch.setattr(zoo, "WEIGHTS", box / "empty")
    assert shapedreamer(monkeypatch, "models") == 0
    assert capsys.readouterr().out == "there are no models in the box\n"
    assert shapedreamer(monkeypatch, "models", "cats") == 2
    assert capsys.readouterr().err == "error: there is no model 'cats' in the box; there are: none\n"


@pytest.mark.parametrize("words", [["models"], ["models", "digits"]])
def test_models_needs_no_torch(box: Path, words: list[str]) -> None:
    code = (
        "import sys; from pathlib import Path; from shapedreamer import cli; from shapedreamer.models import zoo\n"
        f"zoo.WEIGHTS = Path({str(box)!r}); sys.argv = ['shapedreamer', *{words}]\n"
        "assert cli.main() == 0; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "digits" in done.stdout


def test_a_card_with_a_word_too_many_or_too_few_is_refused(box: Path) -> None:
    card = json.loads((box / "digits.json").read_text(encoding="utf-8"))
    for wrong in (card | {"colour": "red"}, {key: value for key, value in card.items() if key != "sha256"}):
        (box / "digits.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"colour|sha256"):
            zoo.card("digits")
