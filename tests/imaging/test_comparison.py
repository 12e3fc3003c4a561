"""All rows of a comparison start from the same noise, and report their true number of network calls."""

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
from shapedreamer.imaging.comparison import (
    Row,
    compare,
    compare_epochs,
    compare_samplers,
    default_samplers,
    parse_sampler,
    picture,
    stored_epochs,
    table,
)
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.training.loop import train
from tests.tiny import TUNED

SCHEDULE = cosine(100)


class CountingNetwork(nn.Module):
    """A conditional network: the exact denoiser of N(0, 1), plus the sum of the label. It counts its calls."""

    context_size = 2

    def __init__(self) -> None:
        super().__init__()
        self.denoise = oracle.gaussian(0.0, 1.0, SCHEDULE)
        self.parameter = nn.Parameter(torch.zeros(1))  # Model reads its device
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        shift = 0 if label is None else label.sum(1).view(-1, 1, 1, 1)
        return self.denoise(x, t) + shift


@pytest.fixture
def model() -> Model:
    spec = DataSpec("numbers", 1, 4, 4, ("a", "b"), low=-1e9, high=1e9)
    return Model(CountingNetwork(), SCHEDULE, "x0", spec, torch.eye(2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compare") / "run"
    train(replace(TUNED, epochs=2), out, sample_every=0, save_every=1)
    return out


# samplers


def test_parse_sampler_reads_sampler_steps_and_eta() -> None:
    assert parse_sampler("ddim:20") == SampleOptions("ddim", 20, 0.0)
    assert parse_sampler("ddim:7:0.5") == SampleOptions("ddim", 7, 0.5)
    options = SampleOptions(seed=3, label="a", guidance=2.0)
    assert parse_sampler("heun:4", options) == SampleOptions("heun", 4, 0.0, seed=3, label="a", guidance=2.0)


@pytest.mark.parametrize("text", ["ddim", "ddim:", "ddim:many", "ddim:2.5", "ddim:20:much", "ddim:20:0:0", ""])
def test_malformed_samplers_are_rejected(text: str) -> None:
    with pytest.raises(UserError, match=f"'{text}' must be SAMPLER:STEPS"):
        parse_sampler(text)


@pytest.mark.parametrize(("T", "steps"), [(1000, [1000, 20, 10, 10]), (15, [15, 15, 10, 10]), (1, [1, 1, 1, 1])])
def test_the_default_samplers_work_with_any_number_of_timesteps(T: int, steps: list[int]) -> None:
    rows = [parse_sampler(text) for text in default_samplers(T)]
    assert [row.sampler for row in rows] == ["ddpm", "ddim", "dpmpp_2m", "heun"]
    assert [row.steps for row in rows] == steps


def test_every_row_shows_the_samples_of_its_sampler_from_the_same_noise(run: Path) -> None:
    trained = sd.load(run)
    rows = compare_samplers(trained, ["ddim:6", "ddim:6:0.5", "ddpm:6", "heun:6", "ddim:6"], 3, SampleOptions(seed=4))
    assert [row.name for row in rows] == ["ddim", "ddim, eta 0.5", "ddpm", "heun", "ddim"]
    assert torch.equal(rows[0].images, rows[-1].images)
    for row, (sampler, eta) in zip(rows, [("ddim", 0.0), ("ddim", 0.5), ("ddpm", 0.0), ("heun", 0.0)], strict=False):
        assert torch.equal(row.images, trained.sample(3, sampler=sampler, steps=6, eta=eta, seed=4))


STEPS = (7, 5, 6, 8, 5)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (SampleOptions(), STEPS),
        (SampleOptions(label="a"), STEPS),
        (SampleOptions(label="a", guidance=0.0), STEPS),
        (SampleOptions(label="a", guidance=2.5), tuple(2 * steps for steps in STEPS)),
    ],
)
def test_network_calls_are_counted(model: Model, options: SampleOptions, calls: tuple[int, ...]) -> None:
    rows = compare_samplers(model, ["ddpm:7", "ddim:5", "dpmpp_2m:6", "heun:8", "heun:5"], 2, options)
    assert tuple(row.calls for row in rows) == calls
    warm_up = calls[0] // 7
    assert isinstance(model.network, CountingNetwork)
    assert model.network.calls == sum(calls) + warm_up
    assert all(row.seconds > 0 for row in rows)
    assert not model.network._forward_pre_hooks  # the counter is removed afterwards


def test_labels_and_guidance_apply_to_every_row(model: Model) -> None:
    samplers = ["ddpm:5", "ddim:5"]
    for label, guidance in (("a", 1.0), ("b=3", 1.0), ("a", 2.0)):
        options = SampleOptions(label=label, guidance=guidance)
        for row in compare_samplers(model, samplers, 2, options, without_noise=True)[:2]:
            expected = model.sample(2, sampler=row.name, steps=5, label=label, guidance=guidance)
            assert_close(row.images, expected)
    images = [compare_samplers(model, samplers, 2, SampleOptions(label=label), True)[2].images for label in (None, "a")]
    assert not torch.equal(*images)


@pytest.mark.parametrize(("samplers", "steps"), [(["ddim:3", "ddpm:25"], 25), (["ddim:3"], 100)])
def test_ddpm_without_noise_ends_at_the_mean(model: Model, samplers: list[str], steps: int) -> None:
    """For N(0, 1) the mean of x_s given x_t is √(ᾱ_t/ᾱ_s) x_t, so any number of steps ends at √ᾱ_T x_T."""
    *others, row = compare_samplers(model, samplers, 3, SampleOptions(seed=8, label=None), without_noise=True)
    assert len(others) == len(samplers)
    assert row.name == "ddpm, no noise added"
    assert row.calls == steps
    assert_close(row.images, SCHEDULE.alpha_bar[-1].sqrt().float() * model.noise(3, seed=8), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("samplers", "num", "options", "message"),
    [
        (["ddim:20", "euler:20"], 2, SampleOptions(), "unknown sampler 'euler'"),
        (["ddim:20", "ddpm:101"], 2, SampleOptions(), "between 1 and 100, not 101"),
        (["ddim:20", "ddpm"], 2, SampleOptions(), "'ddpm' must be"),
        (["ddim:20", "heun:20:0.5"], 2, SampleOptions(), "heun has no eta"),
        (["ddim:20:nan"], 2, SampleOptions(), "eta must be between 0 and 2"),
        (["ddim:20"], 0, SampleOptions(), "num must be at least 1"),
        (["ddim:20"], 2, SampleOptions(seed=-1), "seed must be between"),
        (["ddim:20"], 2, SampleOptions(label="c"), "no label 'c'"),
        (["ddim:20"], 2, SampleOptions(label=None, guidance=3.0), "guidance 3 needs a label"),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_computed(
    model: Model, samplers: list[str], num: int, options: SampleOptions, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compare_samplers(model, samplers, num, options)
    assert isinstance(model.network, CountingNetwork)
    assert model.network.calls == 0


def test_an_unconditional_model_can_be_compared_but_rejects_a_label(run: Path) -> None:
    assert len(compare(run, ["ddim:2"], num=1)) == 1
    with pytest.raises(UserError, match="trained without labels"):
        compare(run, ["ddim:2"], num=1, options=SampleOptions(label="circle"))


# epochs


def test_every_row_shows_the_samples_of_an_epoch_from_the_same_noise(run: Path) -> None:
    rows = compare_epochs(run, [2, 1], 3, "dpmpp_2m:4", SampleOptions(seed=5))
    assert [(row.name, row.calls) for row in rows] == [("epoch 2", 4), ("epoch 1", 4)]
    for row, epoch in zip(rows, (2, 1), strict=True):
        stored = sd.load(run / "checkpoints" / f"epoch-{epoch:04d}.safetensors")
        assert torch.equal(row.images, stored.sample(3, sampler="dpmpp_2m", steps=4, seed=5))
    assert not torch.equal(rows[0].images, rows[1].images)


def test_averaged_and_raw_weights_can_be_compared(run: Path) -> None:
    for which in ("ema", "raw"):
        (row,) = compare(run, epochs=[1], num=2, which=which)
        stored = sd.load(run / "checkpoints" / "epoch-0001.safetensors", which)
        assert torch.equal(row.images, stored.sample(2))  # both default to 20 steps of ddim
        (row,) = compare(run, ["ddim:3"], num=2, which=which)
        assert torch.equal(row.images, sd.load(run, which).sample(2, steps=3))


def test_the_error_about_a_missing_epoch_lists_the_stored_ones(run: Path, tmp_path: Path) -> None:
    stored = sorted(stored_epochs(run))
    assert stored[-2:] == [1, 2]
    for epochs in ([3], [1, 3], [3, 1]):
        with pytest.raises(UserError, match=f"no checkpoint of epoch 3; .* {' '.join(map(str, stored))} .*save_every"):
            compare(run, epochs=epochs)
    with pytest.raises(UserError, match="no checkpoint of epoch 1; it has those of: none"):
        compare(tmp_path, epochs=[1])


def test_stored_epochs_lists_epochs_in_order_and_ignores_other_files(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("epoch-0010", "epoch-0002", "epoch-12345", "epoch-best", "latest", "best"):
        (folder / f"{name}.safetensors").touch()
    (folder / "epoch-0003.optimizer.pt").touch()
    assert list(stored_epochs(tmp_path).items()) == [
        (epoch, folder / f"epoch-{epoch:04d}.safetensors") for epoch in (2, 10, 12345)
    ]


def test_epochs_need_exactly_one_sampler_and_no_wrong_row(run: Path) -> None:
    with pytest.raises(UserError, match="`epochs` needs exactly one sampler, not 2: ddim:2 ddpm:3"):
        compare(run, ["ddim:2", "ddpm:3"], [1, 2])
    with pytest.raises(UserError, match="`without_noise=True` and `epochs` do not work together"):
        compare(run, epochs=[1], without_noise=True)
    (row,) = compare(run, ["ddpm:3"], [2], num=1)
    assert row.calls == 3


# several models


def test_several_models_have_rows_from_the_same_noise_with_their_own_sampler(run: Path, model: Model) -> None:
    epoch = run / "checkpoints" / "epoch-0001.safetensors"
    loaded = sd.load(run)
    rows = compare([str(run), epoch, loaded], num=2, options=SampleOptions(seed=3))
    default = loaded.sampling
    assert [row.name for row in rows] == [
        f"{name}: {default.sampler}" for name in (run, epoch, f"model 3 of {loaded.spec.name}")
    ]
    assert {row.calls for row in rows} == {default.steps}
    assert_close(rows[0].images, loaded.sample(2, seed=3))
    assert torch.equal(rows[0].images, rows[2].images)
    assert not torch.equal(rows[0].images, rows[1].images)
    rows = compare((run, epoch), ["ddim:2", "ddpm:3"], num=1)
    assert [(row.name, row.calls) for row in rows] == [
        (f"{run}: ddim", 2),
        (f"{run}: ddpm", 3),
        (f"{epoch}: ddim", 2),
        (f"{epoch}: ddpm", 3),
    ]
    with pytest.raises(UserError, match=r"images of different sizes.* 1x32x32, model 2 of numbers: 1x4x4"):
        compare([run, model])
    with pytest.raises(UserError, match="`without_noise=True` works with one model only"):
        compare([run, epoch], without_noise=True)
    with pytest.raises(UserError, match="`epochs` needs the folder of one run"):
        compare([run, epoch], epochs=[1])
    with pytest.raises(UserError, match="there is no model to compare"):
        compare([])


def test_a_model_can_be_compared_without_a_file(model: Model) -> None:
    assert [row.calls for row in compare(model, ["ddim:2"], num=1)] == [2]


# the picture and the table


def test_the_command_takes_several_models(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(run), str(run), "--samplers", "ddim:2", "--num", "2", "--out", str(tmp_path / "a.png")]
    tyro.cli(cli.run, args=arguments, config=(tyro.conf.FlagCreatePairsOff,))
    assert capsys.readouterr().out.count(f"{run}: ddim") == 2
    assert (tmp_path / "a.png").exists()


def test_the_picture_has_a_titled_row_of_images_for_each_row() -> None:
    images = torch.linspace(-1, 1, 2 * 3 * 36).view(2, 3, 1, 6, 6)
    shown = picture([Row("ddim", 20, 1.25, images[0]), Row("ddpm, no noise added", 1, 0.5, images[1])])
    one, other = (picture([Row(name, 20, 1.25, images[0]), Row(name, 20, 1.25, images[1])]) for name in ("ab", "abc"))
    pixels = np.asarray(shown.convert("L"))
    side = pixels.shape[0] // 2
    grid = pixels[:, pixels.shape[1] - 3 * side :]
    assert grid[2, 2] == 0  # the first pixel of the first image
    assert grid[-3, -3] == 255  # the last pixel of the last image
    for row in (0, 1):
        assert pixels[row * side : (row + 1) * side, : pixels.shape[1] - 3 * side].max() > 200  # the title
    assert one.size == other.size  # the longest line of a title is the one with calls and seconds


def test_the_table_shows_calls_and_seconds_in_aligned_columns() -> None:
    image = torch.zeros(1, 1, 1, 1)
    lines = table([Row("ddim", 20, 1.254, image), Row("ddpm, no noise added", 1000, 61.0, image)]).splitlines()
    assert [line.split()[-2:] for line in lines] == [["calls", "seconds"], ["20", "1.25"], ["1000", "61.00"]]
    assert [line[:20].strip() for line in lines] == ["", "ddim", "ddpm, no noise added"]
    assert len({len(line) for line in lines}) == 1


def command(*arguments: object) -> None:
    """Run `shapedreamer compare` with these arguments in this process."""
    tyro.cli(cli.run, args=list(map(str, arguments)), config=(tyro.conf.FlagCreatePairsOff,))


def test_the_command_writes_a_picture_and_prints_the_table(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command(run, "--num", 2, "--wrong", "no-noise")
    lines = capsys.readouterr().out.splitlines()
    names = ["ddpm", "ddim", "dpmpp_2m", "heun", "ddpm, no noise added"]
    assert [line[:20].strip() for line in lines] == ["", *names, "compare.png"]
    assert [line.split()[-2] for line in lines[1:-1]] == ["50", "20", "10", "10", "50"]
    with Image.open("compare.png") as shown:
        assert shown.height > 2 * shown.width
    command(run, "--num", 2, "--epochs", 1, 2, "--samplers", "ddim:3", "--seed", 1, "--out", "epochs.png")
    assert [line[:7] for line in capsys.readouterr().out.splitlines()[1:3]] == ["epoch 1", "epoch 2"]
    for options, message in ((("--samplers", "ddim"), "must be SAMPLER:STEPS"), (("--out", "a.txt"), "must end in")):
        with pytest.raises(UserError, match=message):
            command(run, *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compare.png", "epochs.png"]
