"""Rows of one comparison come from the same noise, and say truly what they cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

import shapedreamer as sd
from shapedreamer.cli import compare as cli
from shapedreamer.common.errors import UserError
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion import oracle
from shapedreamer.diffusion.schedule import cosine
from shapedreamer.imaging.compare import (
    Row,
    compare,
    compare_epochs,
    compare_samplers,
    parse_sampler,
    picture,
    stored_epochs,
    table,
    usual_samplers,
)
from shapedreamer.imaging.figures import Way
from shapedreamer.models.model import Model
from shapedreamer.models.recipes import Sampling
from shapedreamer.training.loop import train
from tests.tiny import FALLING

SCHEDULE = cosine(100)


class Told(nn.Module):
    """A network that is told labels, adds them to what the denoiser of N(0, 1) predicts, and counts its calls."""

    context_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.denoise, self.anything = oracle.gaussian(0.0, 1.0, SCHEDULE), nn.Parameter(torch.zeros(1))
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        shift = 0 if label is None else label.sum(1).view(-1, 1, 1, 1)
        return self.denoise(x, t) + shift


@pytest.fixture
def model() -> Model:
    return Model(Told(), SCHEDULE, "x0", DataSpec("numbers", 1, 4, 4, ("a", "b"), low=-1e9, high=1e9), torch.eye(2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "run"
    train(replace(FALLING, epochs=2), out, sample_every=0, save_every=1)
    return out


# samplers


def test_a_sampler_is_named_with_its_steps_and_eta() -> None:
    assert parse_sampler("ddim:20") == Sampling("ddim", 20, 0.0)
    assert parse_sampler("ddim:7:0.5") == Sampling("ddim", 7, 0.5)


@pytest.mark.parametrize("text", ["ddim", "ddim:", "ddim:many", "ddim:2.5", "ddim:20:much", "ddim:20:0:0", ""])
def test_words_that_name_no_sampler_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"'{text}' must be SAMPLER:STEPS"):
        parse_sampler(text)


@pytest.mark.parametrize(("T", "steps"), [(1000, [1000, 20, 10, 10]), (15, [15, 15, 10, 10]), (1, [1, 1, 1, 1])])
def test_the_usual_samplers_fit_any_number_of_timesteps(T: int, steps: list[int]) -> None:
    ways = [parse_sampler(text) for text in usual_samplers(T)]
    assert [way.sampler for way in ways] == ["ddpm", "ddim", "dpmpp_2m", "heun"]
    assert [way.steps for way in ways] == steps


def test_every_row_is_what_its_sampler_makes_of_the_same_noise(run: Path) -> None:
    trained = sd.load(run)
    rows = compare_samplers(trained, ["ddim:6", "ddim:6:0.5", "ddpm:6", "heun:6", "ddim:6"], 3, Way(seed=4))
    assert [row.name for row in rows] == ["ddim", "ddim, eta 0.5", "ddpm", "heun", "ddim"]
    assert torch.equal(rows[0].images, rows[-1].images)
    for row, (sampler, eta) in zip(rows, [("ddim", 0.0), ("ddim", 0.5), ("ddpm", 0.0), ("heun", 0.0)], strict=False):
        assert torch.equal(row.images, trained.sample(3, sampler, 6, eta, seed=4))  # type: ignore[arg-type]


STEPS = (7, 5, 6, 8, 5)


@pytest.mark.parametrize(
    ("way", "calls"),
    [
        (Way(), STEPS),
        (Way(label="a"), STEPS),
        (Way(label="a", guidance=0.0), STEPS),
        (Way(label="a", guidance=2.5), tuple(2 * steps for steps in STEPS)),
    ],
)
def test_calls_of_the_network_are_counted(model: Model, way: Way, calls: tuple[int, ...]) -> None:
    rows = compare_samplers(model, ["ddpm:7", "ddim:5", "dpmpp_2m:6", "heun:8", "heun:5"], 2, way)
    assert tuple(row.calls for row in rows) == calls
    warm_up = calls[0] // 7
    assert isinstance(model.network, Told)
    assert model.network.calls == sum(calls) + warm_up
    assert all(row.seconds > 0 for row in rows)
    assert not model.network._forward_pre_hooks  # nothing goes on counting


def test_labels_and_guidance_reach_every_row(model: Model) -> None:
    samplers = ["ddpm:5", "ddim:5"]
    for label, guidance in (("a", 1.0), ("b=3", 1.0), ("a", 2.0)):
        way = Way(label=label, guidance=guidance)
        for row in compare_samplers(model, samplers, 2, way, without_noise=True)[:2]:
            expected = model.sample(2, row.name, 5, label=label, guidance=guidance)  # type: ignore[arg-type]
            assert_close(row.images, expected)
    images = [compare_samplers(model, samplers, 2, Way(label=label), True)[2].images for label in (None, "a")]
    assert not torch.equal(*images)


@pytest.mark.parametrize(("samplers", "steps"), [(["ddim:3", "ddpm:25"], 25), (["ddim:3"], 100)])
def test_ddpm_without_noise_ends_at_the_mean(model: Model, samplers: list[str], steps: int) -> None:
    """For N(0, 1) the mean of x_s, given x_t, is √(ᾱ_t/ᾱ_s) x_t, whatever the steps: in the end √ᾱ_T x_T."""
    *others, row = compare_samplers(model, samplers, 3, Way(seed=8, label=None), without_noise=True)
    assert len(others) == len(samplers)
    assert row.name == "ddpm, no noise added"
    assert row.calls == steps
    assert_close(row.images, SCHEDULE.alpha_bar[-1].sqrt().float() * model.noise(3, seed=8), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("samplers", "num", "way", "says"),
    [
        (["ddim:20", "euler:20"], 2, Way(), "no sampler 'euler'"),
        (["ddim:20", "ddpm:101"], 2, Way(), "between 1 and 100, not 101"),
        (["ddim:20", "ddpm"], 2, Way(), "'ddpm' must be"),
        (["ddim:20", "heun:20:0.5"], 2, Way(), "heun has none"),
        (["ddim:20:nan"], 2, Way(), "eta must be between 0 and 1"),
        (["ddim:20"], 0, Way(), "num must be at least 1"),
        (["ddim:20"], 2, Way(seed=-1), "seed must be between"),
        (["ddim:20"], 2, Way(label="c"), "no label 'c'"),
        (["ddim:20"], 2, Way(label=None, guidance=3.0), "guidance 3 needs a label"),
    ],
)
def test_mistakes_are_found_before_anything_is_computed(
    model: Model, samplers: list[str], num: int, way: Way, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        compare_samplers(model, samplers, num, way)
    assert isinstance(model.network, Told)
    assert model.network.calls == 0


def test_a_model_without_labels_refuses_one_and_does_without(run: Path) -> None:
    assert len(compare(run, ["ddim:2"], num=1)) == 1
    with pytest.raises(UserError, match="trained without labels"):
        compare(run, ["ddim:2"], num=1, way=Way(label="circle"))


# epochs


def test_every_row_is_what_an_epoch_makes_of_the_same_noise(run: Path) -> None:
    rows = compare_epochs(run, [2, 1], 3, "dpmpp_2m:4", Way(seed=5))
    assert [(row.name, row.calls) for row in rows] == [("epoch 2", 4), ("epoch 1", 4)]
    for row, epoch in zip(rows, (2, 1), strict=True):
        stored = sd.load(run / "checkpoints" / f"epoch-{epoch:04d}.safetensors")
        assert torch.equal(row.images, stored.sample(3, "dpmpp_2m", 4, seed=5))
    assert not torch.equal(rows[0].images, rows[1].images)


def test_averaged_and_raw_weights_can_be_asked_for(run: Path) -> None:
    for which in ("ema", "raw"):
        (row,) = compare(run, epochs=[1], num=2, which=which)
        stored = sd.load(run / "checkpoints" / "epoch-0001.safetensors", which)
        assert torch.equal(row.images, stored.sample(2))  # 20 steps of ddim
        (row,) = compare(run, ["ddim:3"], num=2, which=which)
        assert torch.equal(row.images, sd.load(run, which).sample(2, steps=3))


def test_an_epoch_that_is_not_stored_is_named_beside_those_that_are(run: Path, tmp_path: Path) -> None:
    stored = sorted(stored_epochs(run))
    assert stored[-2:] == [1, 2]
    for epochs in ([3], [1, 3], [3, 1]):
        with pytest.raises(UserError, match=f"no checkpoint of epoch 3; .* {' '.join(map(str, stored))} .*save-every"):
            compare(run, epochs=epochs)
    with pytest.raises(UserError, match="no checkpoint of epoch 1; it has those of: none"):
        compare(tmp_path, epochs=[1])


def test_stored_epochs_come_in_order_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("epoch-0010", "epoch-0002", "epoch-12345", "epoch-best", "latest", "best"):
        (folder / f"{name}.safetensors").touch()
    (folder / "epoch-0003.optimizer.pt").touch()
    assert list(stored_epochs(tmp_path).items()) == [
        (epoch, folder / f"epoch-{epoch:04d}.safetensors") for epoch in (2, 10, 12345)
    ]


def test_epochs_are_compared_with_one_sampler_and_without_the_mistake(run: Path) -> None:
    with pytest.raises(UserError, match="one sampler, not 2: ddim:2 ddpm:3"):
        compare(run, ["ddim:2", "ddpm:3"], [1, 2])
    with pytest.raises(UserError, match="not with epochs"):
        compare(run, epochs=[1], without_noise=True)
    (row,) = compare(run, ["ddpm:3"], [2], num=1)
    assert row.calls == 3


# what is shown


def test_the_picture_has_the_images_of_each_row_and_words_beside_them() -> None:
    images = torch.linspace(-1, 1, 2 * 3 * 36).view(2, 3, 1, 6, 6)
    shown = picture([Row("ddim", 20, 1.25, images[0]), Row("ddpm, no noise added", 1, 0.5, images[1])])
    one, other = (picture([Row(name, 20, 1.25, images[0]), Row(name, 20, 1.25, images[1])]) for name in ("ab", "abc"))
    pixels = np.asarray(shown.convert("L"))
    side = pixels.shape[0] // 2
    grid = pixels[:, pixels.shape[1] - 3 * side :]
    assert grid[2, 2] == 0  # the first pixel of the first image
    assert grid[-3, -3] == 255  # the last of the last
    for row in (0, 1):
        assert pixels[row * side : (row + 1) * side, : pixels.shape[1] - 3 * side].max() > 200  # words
    assert one.size == other.size  # the longest line is the cost


def test_the_table_says_what_was_measured() -> None:
    nothing = torch.zeros(1, 1, 1, 1)
    lines = table([Row("ddim", 20, 1.254, nothing), Row("ddpm, no noise added", 1000, 61.0, nothing)]).splitlines()
    assert [line.split()[-2:] for line in lines] == [["calls", "seconds"], ["20", "1.25"], ["1000", "61.00"]]
    assert [line[:20].strip() for line in lines] == ["", "ddim", "ddpm, no noise added"]
    assert len({len(line) for line in lines}) == 1


def command(*words: object) -> None:
    tyro.cli(cli.run, args=list(map(str, words)), config=(tyro.conf.FlagCreatePairsOff,))


def test_the_command_writes_a_picture_and_prints_the_table(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command(run, "--num", 2, "--wrong", "no-noise")
    told = capsys.readouterr().out.splitlines()
    names = ["ddpm", "ddim", "dpmpp_2m", "heun", "ddpm, no noise added"]
    assert [line[:20].strip() for line in told] == ["", *names, "compare.png"]
    assert [line.split()[-2] for line in told[1:-1]] == ["50", "20", "10", "10", "50"]
    with Image.open("compare.png") as shown:
        assert shown.height > 2 * shown.width
    command(run, "--num", 2, "--epochs", 1, 2, "--samplers", "ddim:3", "--seed", 1, "--out", "epochs.png")
    assert [line[:7] for line in capsys.readouterr().out.splitlines()[1:3]] == ["epoch 1", "epoch 2"]
    for words, says in ((("--samplers", "ddim"), "must be SAMPLER:STEPS"), (("--out", "a.txt"), "must end in")):
        with pytest.raises(UserError, match=says):
            command(run, *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.png", "epochs.png"]
