"""The command line: the files that it writes, and its errors."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shapedreamer import cli
from shapedreamer.diffusion.process import diffuse
from shapedreamer.imaging.render import MARGIN, grid
from shapedreamer.models.model import load
from shapedreamer.training.loop import train
from tests.tiny import CONDITIONAL, TUNED


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    train(TUNED, out, sample_every=0, save_every=0)
    return out


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a conditional model."""
    out = tmp_path_factory.mktemp("cli") / "conditional"
    train(replace(CONDITIONAL, epochs=1), out, sample_every=0, save_every=0)
    return out


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty working directory."""
    monkeypatch.chdir(tmp_path)


def shapedreamer(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["shapedreamer", *map(str, arguments)])
    try:
        return cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("subcommand", [[], *([name] for name in cli.SUBCOMMANDS)])
def test_help_works_without_importing_torch(subcommand: list[str]) -> None:
    code = (
        "import sys; from shapedreamer import cli; sys.argv = ['shapedreamer', *sys.argv[1:], '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, *subcommand], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage: shapedreamer" in done.stdout


def test_sample_writes_a_grid_a_strip_an_array_and_animations(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--num", 5, "--steps", 4, "--seed", 2)
    assert shapedreamer(monkeypatch, "sample", run, *options, "--show-process") == 0
    assert shapedreamer(monkeypatch, "sample", run, *options, "--out", "a.npy") == 0
    assert shapedreamer(monkeypatch, "sample", run, *options, "--out", "a.gif") == 0
    assert shapedreamer(monkeypatch, "sample", run, *options, "--out", "a.webp", "--which", "raw") == 0
    images = np.load("a.npy")
    assert images.shape == (5, 1, 32, 32)
    assert images.dtype == np.float32
    assert np.abs(images).max() <= 1
    with Image.open("samples.png") as grid:
        assert grid.mode == "L"
        scale = (grid.width // 3 - 2 * MARGIN) // 32
        first = np.asarray(grid)[MARGIN : MARGIN + 32 * scale : scale, MARGIN : MARGIN + 32 * scale : scale]
        assert (first == np.round((images[0, 0] + 1) * 127.5)).all()  # the same image as in a.npy
        width = grid.width
    for name in ("a.gif", "a.webp"):
        with Image.open(name) as movie:
            assert movie.n_frames == 5
            assert movie.width < width
    assert Path("samples-process.png").exists()


def test_label_and_guidance_change_the_samples(conditional: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("--num", 3, "--steps", 3)
    for name, options in {
        "a": ("--label", "circle=2,line=1"),
        "b": ("--label", "line=1,circle=2"),
        "c": ("--label", "circle=2,line=1", "--guidance", 3),
        "d": ("--label", "none"),
        "e": ("--label", "circle=2,line=1", "--guidance", 0),
        "f": (),
    }.items():
        assert shapedreamer(monkeypatch, "sample", conditional, *common, *options, "--out", f"{name}.npy") == 0
    a, b, c, d, e, f = (np.load(f"{name}.npy") for name in "abcdef")
    assert (a == b).all()
    assert (d == e).all()
    assert not any((a == other).all() for other in (c, d, f))
    model = load(conditional, device="cpu")
    assert (model.sample(3, steps=3, label={"circle": 2, "line": 1}, guidance=3).numpy() == c).all()


def test_every_kind_of_guidance_has_an_option(
    conditional: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, common = load(conditional, device="cpu"), ("--num", 2, "--steps", 3, "--label", "line", "--out", "a.npy")
    ddim = ("--sampler", "ddim", "--eta", 0, "--guidance", 0.6)
    cases: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...] = (
        (("--guidance", 3, "--guidance-interval", -3, 3), {"guidance": 3, "guidance_interval": (-3, 3)}),
        (("--guidance", 1.5, "--guide-with", conditional), {"guidance": 1.5, "guide_with": conditional}),
        ((*ddim, "--cfg-pp"), {"sampler": "ddim", "eta": 0, "guidance": 0.6, "cfg_pp": True}),
    )
    for words, options in cases:
        assert shapedreamer(monkeypatch, "sample", conditional, *common, *words) == 0
        assert (model.sample(2, steps=3, label="line", **options).numpy() == np.load("a.npy")).all()
    capsys.readouterr()
    for command, message in (
        (("sample", conditional, *common, "--guidance-interval", 3, -3), "--guidance-interval 3 -3 is empty"),
        (("sample", conditional, *common, *ddim, "--cfg-pp", "--guidance", 2), "with CFG++, --guidance must be"),
        (("evaluate", conditional, "--sweep", "steps", "--cfg-pp"), "a sweep takes --guidance only: leave out"),
    ):
        assert shapedreamer(monkeypatch, *command) == 2
        assert message in capsys.readouterr().err


def test_a_sweep_has_a_row_for_each_label_or_guidance_scale_from_the_same_noise(
    conditional: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shapedreamer.imaging.figures import GUIDANCES

    model, common = load(conditional, device="cpu"), ("--num", 2, "--steps", 3, "--seed", 4)
    assert shapedreamer(monkeypatch, "sample", conditional, *common, "--sweep", "label", "--out", "label.png") == 0
    options = ("--sweep", "guidance", "--label", "line", "--out", "guidance.png")
    assert shapedreamer(monkeypatch, "sample", conditional, *common, *options) == 0
    rows = {
        "label.png": [model.sample(2, steps=3, seed=4, label=name) for name in model.spec.labels],
        "guidance.png": [model.sample(2, steps=3, seed=4, label="line", guidance=scale) for scale in GUIDANCES],
    }
    for path, images in rows.items():
        expected = np.asarray(grid(torch.cat(images), columns=2))
        with Image.open(path) as picture:
            shown = np.asarray(picture.convert("L"))
        assert (shown[-expected.shape[0] :, -expected.shape[1] :] == expected).all()


def test_forward_shows_the_output_of_diffuse(monkeypatch: pytest.MonkeyPatch) -> None:
    from shapedreamer.common.noise import Noise
    from shapedreamer.diffusion.schedule import linear
    from shapedreamer.imaging.figures import forward_picture
    from shapedreamer.models.recipes import shapes

    assert shapedreamer(monkeypatch, "forward", "shapes", "--num", 2, "--times", 0, 999) == 0
    data, _ = shapes().make_data()
    with Image.open("forward.png") as picture:
        shown = np.asarray(picture.convert("L"))
    assert (shown == np.asarray(forward_picture(data, linear(), 2, (0, 999)).convert("L"))).all()
    x0, _ = data.batch(torch.arange(2))
    noisy = diffuse(x0, 999, Noise(0)(0, like=x0), linear())
    scale = (shown.shape[1] // 2 - 2 * MARGIN) // 32
    side = 32 * scale + 2 * MARGIN
    top = shown.shape[0] - 2 * side
    corner = shown[top + MARGIN : top + side - MARGIN : scale, side + MARGIN : 2 * side - MARGIN : scale]
    assert (corner == ((noisy[0, 0].clamp(-1, 1) + 1) * 127.5).round().byte().numpy()).all()


def test_data_prints_counts_range_labels_and_duplicates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shapedreamer.data.drawn.shapes import Shapes

    assert shapedreamer(monkeypatch, "data", "shapes", "--samples", 500, "--inspect") == 0
    printed = capsys.readouterr().out
    images, labels = Shapes(500).batch(torch.arange(500))
    distinct = len({image.numpy().tobytes() for image in images})
    assert "500 images, 1 x 32 x 32, values in [-1, 1]" in printed
    assert f"duplicates: {500 - distinct} " in printed
    assert f"mean {images.mean():.4f}" in printed
    assert all(
        name in printed and f"{count:g}" in printed
        for name, count in zip(("circle", "rectangle", "triangle", "line"), labels.sum(0).tolist(), strict=True)
    )
    with Image.open("contact.png") as sheet:
        assert sheet.width > 500


@pytest.mark.slow
def test_train_resumes_with_the_stored_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("--samples", 8, "--batch-size", 4, "--timesteps", 3, "--sample-every", 0, "--out", "r")
    assert shapedreamer(monkeypatch, "train", "shapes", "--textbook", "--epochs", 1, *small) == 0
    assert shapedreamer(monkeypatch, "train", "shapes", "--epochs", 2, "--resume", "--out", "r") == 0
    assert Path("r/checkpoints/latest-4.optimizer.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "nowhere"], "there is no run or checkpoint nowhere"),
        (["sample", "RUN", "--num", "0"], "num must be at least 1"),
        (["sample", "RUN", "--steps", "51"], "steps must be between 1 and 50"),
        (["sample", "RUN", "--eta", "3"], "eta must be between 0 and 2"),
        (["sample", "RUN", "--out", "a.txt"], "must end in .png"),
        (["sample", "RUN", "--out", "/proc/nothing/a.png"], "cannot write"),
        (["train", "shapes", "--epochs", "0"], "epochs must be at least 1"),
        (["train", "shapes", "--resume"], "runs/shapes is not a run"),
        (["train", "shapes", "--textbook", "--schedule", "linear_zero_snr"], "prediction eps does not work with"),
        (["train", "shapes", "--resume", "--lr", "1", "--out", "RUN"], "was started with lr = 0.001, not 1.0"),
        (["train", "shapes", "--resume", "--textbook", "--out", "RUN"], "schedule = 'cosine', not 'linear'"),
        (["train", "shapes", "--out", "RUN"], "already holds a run"),
        (["forward", "shapes", "--times", "1001"], "times must lie between 0 and T = 1000"),
        (["forward", "shapes", "--num", "0"], "num must be between 1 and"),
        (["sample", "RUN", "--label", "circle"], "trained without labels (train with --labels yes)"),
        (["sample", "RUN", "--sweep", "label"], "trained without labels"),
        (["sample", "RUN", "--guidance", "2"], "guidance 2 needs a label"),
        (["sample", "CONDITIONAL", "--label", "cat"], "no label 'cat'; there are: circle, rectangle, triangle, line"),
        (["sample", "CONDITIONAL", "--label", "circle=two"], "write NAME or NAME=AMOUNT"),
        (["sample", "CONDITIONAL", "--sweep", "label", "--out", "a.npy"], "must end in .png"),
        (["train", "shapes", "--data", "."], "the recipe shapes draws its own images; --data works with: sprites"),
        (["train", "shapes", "--network", "context_unet"], "--network can be unet, wide_unet or dit"),
        (
            ["train", "shapes", "--resume", "--network", "dit", "--out", "RUN"],
            "was started with network = 'unet', not 'dit'",
        ),
        (["train", "shapes", "--label-dropout", "2"], "label_dropout must be between 0 and 1"),
        (["train", "folder"], "needs the folder of your images: --data PATH"),
        (["train", "folder", "--data", "nowhere"], "nowhere"),
        (["train", "folder", "--data", ".", "--size", "28"], "size '28' must be HEIGHTxWIDTH"),
        (["train", "mnist", "--fit", "crop"], "the recipe mnist has no fit; --fit works with: folder"),
        (["train", "shapes", "--resume", "--data", ".", "--out", "RUN"], "draws its own images; leave out --data"),
        (["forward", "sprites", "--times", "501"], "times must lie between 0 and T = 500"),
        (["data", "fetch"], "data fetch needs a name: dcss, mnist or fashion_mnist"),
        (["data", "shapes", "mnist"], "to download mnist, use: shapedreamer data fetch mnist"),
    ],
)
def test_a_users_mistake_prints_one_line_and_exits_with_2(
    run: Path,
    conditional: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    paths = {"RUN": run, "CONDITIONAL": conditional}
    assert shapedreamer(monkeypatch, *(paths.get(argument, argument) for argument in arguments)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not list(Path().iterdir())  # no file is left behind


@pytest.mark.parametrize("arguments", [["dream"], ["train", "cats"], ["sample"], ["sample", "x", "--sampler", "euler"]])
def test_unknown_commands_and_values_are_rejected(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert shapedreamer(monkeypatch, *arguments) == 2


def test_version_prints_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import shapedreamer as sd

    assert shapedreamer(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"shapedreamer {sd.__version__}\n"
