"""`shapedreamer evaluate`: what it prints, what it writes, and what it refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import TypeAdapter
from torch import Tensor

from shapedreamer import cli
from shapedreamer.evaluation import evaluator, sweep
from shapedreamer.evaluation.evaluator import Evaluation, evaluate, subject
from shapedreamer.evaluation.sweep import Point, picture
from shapedreamer.evaluation.validity import ShapeReport
from shapedreamer.imaging.render import grid
from shapedreamer.models.recipes import DrawnData

Untrained = Callable[..., Path]


@pytest.fixture(scope="module")
def sprites(untrained: Untrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(DrawnData("sprites", 300), tmp_path_factory.mktemp("evaluate") / "run", labels=True, timesteps=4)


@pytest.fixture(scope="module")
def shapes(untrained: Untrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(DrawnData("shapes", 256), tmp_path_factory.mktemp("evaluate") / "run", timesteps=2)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge who does not search: an image is valid if its first pixel is white."""

    def judge(
        images: Tensor, spec: object, asked: Tensor | None = None, progress: Callable[[int], None] | None = None
    ) -> ShapeReport:
        return ShapeReport((images[:, 0, 0, 0] > 0).double().mean().item(), 0.0, 1.0, 0.1, None, None, None)

    for module in (evaluator, sweep):
        monkeypatch.setattr(module, "judge", judge)


def shapedreamer(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `shapedreamer evaluate` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "evaluate", *map(str, words), "--device", "cpu"])
    try:
        return cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)


def written() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_json_is_one_object_that_comes_back_as_the_evaluation(
    sprites: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--num", 256, "--json", "--seed", 4, "--sampler", "ddim", "--steps", 2, "--eta", 0.5, "--guidance", 0)
    assert shapedreamer(monkeypatch, sprites, *words) == 0
    told = TypeAdapter(Evaluation).validate_json(capsys.readouterr().out)
    expected, _ = evaluate(subject(sprites, device="cpu"), 256, "ddim", 2, 0.5, 0.0, 4)
    assert {**vars(told), "seconds": 0} == {**vars(expected), "seconds": 0}
    assert (told.model, told.sampler, told.steps, told.eta, told.guidance) == (str(sprites), "ddim", 2, 0.5, 0.0)
    assert told.label_accuracy is not None
    assert not written()


def test_the_table_says_how_it_was_sampled_and_the_report_is_written(
    sprites: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shapedreamer(monkeypatch, sprites, "--num", 256, "--report", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"256 samples of {sprites} beside 256 real images of sprites"
    assert lines[1].startswith("heun, 3 steps, eta 0, guidance 1, seed 0")
    assert [line[:15].strip() for line in lines[3:8]] == ["FID", "KID", "precision", "recall", "label accuracy"]
    assert "a classifier of sprites that comes with shapedreamer" in lines[-3]
    assert lines[-2:] == [str(Path("out/index.html")), str(Path("out/grid.png"))]
    assert written() == sorted(lines[-2:])
    fid = lines[3].split()[1]
    assert f'<td class="number samples">{fid}</td>' in Path("out/index.html").read_text(encoding="utf-8")
    _, evidence = evaluate(subject(sprites, device="cpu"), 256)
    with Image.open("out/grid.png") as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(grid(evidence.samples[:64], 8)))


@pytest.mark.slow
def test_a_sweep_prints_a_table_or_a_list_and_writes_its_picture(
    shapes: Path, quick_judge: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shapedreamer(monkeypatch, shapes, "--sweep", "steps", "--num", 256) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("images made of one to three shapes (256 samples each); real images: ")
    assert lines[1].split() == ["network", "calls", "1", "2"]
    assert [line.split()[0] for line in lines[2:]] == ["ddpm", "ddim", "heun", "dpmpp_2m", "dpmpp_2m,", "sweep.png"]
    assert written() == ["sweep.png"]

    words = ("--sweep", "steps", "--num", 256, "--json", "--out", "other.png", "--seed", 1)
    assert shapedreamer(monkeypatch, shapes, *words) == 0
    points = [Point(**row) for row in json.loads(capsys.readouterr().out)]
    assert points == sweep.sweep(subject(shapes, device="cpu"), 256, seed=1)
    assert len(points) == 10
    with Image.open("other.png") as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(picture(points)))


@pytest.mark.slow
def test_a_report_of_a_sweep_has_both(
    shapes: Path, quick_judge: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--sweep", "steps", "--num", 256, "--report", "out", "--json", "--steps", 1)
    assert shapedreamer(monkeypatch, shapes, *words) == 0
    told = json.loads(capsys.readouterr().out)
    points = [Point(**row) for row in told.pop("sweep")]
    assert points == sweep.sweep(subject(shapes, device="cpu"), 256)
    quality = TypeAdapter(Evaluation).validate_python(told)
    assert quality.steps == 1
    assert quality.shapes is not None
    assert quality.shapes.real.valid == points[0].real
    assert written() == [str(Path("out/grid.png")), str(Path("out/index.html")), "sweep.png"]
    html = Path("out/index.html").read_text(encoding="utf-8")
    assert "How to sample it" in html
    assert "The numbers" in html


def test_how_many_where_nothing_is_said(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def refuse(what: str) -> Callable[..., None]:
        def function(it: object, num: int, *_: object) -> None:
            asked.append((what, num))
            raise KeyboardInterrupt

        return function

    monkeypatch.setattr(evaluator, "evaluate", refuse("evaluate"))
    monkeypatch.setattr(sweep, "sweep", refuse("sweep"))
    for words in ((), ("--sweep", "steps"), ("--num", 300), ("--num", 300, "--sweep", "steps"), ("--num", 0)):
        assert shapedreamer(monkeypatch, shapes, *words) == 130
    assert asked == [("evaluate", 2000), ("sweep", 512), ("evaluate", 300), ("sweep", 300), ("evaluate", 0)]


def test_progress_is_told_on_stderr_alone(
    shapes: Path, quick_judge: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shapedreamer.common import progress

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1)
    assert shapedreamer(monkeypatch, shapes, "--num", 256, "--json") == 0
    heard = capsys.readouterr()
    assert json.loads(heard.out)["num"] == 256
    assert "sampling  64/256" in heard.err
    assert "comparing  3/3  0s left" in heard.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere"], "there is no run or checkpoint nowhere"),
        (["RUN", "--num", "255"], "num must be at least 256"),
        (["RUN", "--num", "0"], "num must be at least 256"),
        (["RUN"], "too few images to compare 2000 samples with: there are enough for --num 300"),
        (["RUN", "--num", "256", "--steps", "5"], "steps must be between 1 and 4"),
        (["RUN", "--num", "256", "--steps", "0"], "steps must be between 1 and 4"),
        (["RUN", "--num", "256", "--eta", "2"], "eta must be between 0 and 1"),
        (["RUN", "--num", "256", "--seed", "-1"], "seed must be between"),
        (["RUN", "--num", "256", "--guidance", "nan"], "guidance must be finite"),
        (["RUN", "--data", "."], "draws its own images and reads none"),
        (["RUN", "--device", "mps"], "device mps is not available"),
        (["RUN", "--out", "a.png"], "--out is the picture of a sweep: add --sweep steps"),
        (["RUN", "--sweep", "steps", "--out", "a.txt"], "must end in .png"),
        (["RUN", "--sweep", "steps", "--steps", "0"], "leave out --sampler, --steps and --eta"),
        (["RUN", "--sweep", "steps", "--eta", "0"], "leave out --sampler, --steps and --eta"),
        (["RUN", "--sweep", "steps", "--num", "100"], "num must be at least 256"),
        (["RUN", "--report", "RUN/checkpoints/latest.safetensors"], "is a file, and a report is a folder"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
    sprites: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    words = [word.replace("RUN", str(sprites)) for word in words]
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "evaluate", *words])
    if "mps" in words and torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    assert cli.main() == 2
    heard = capsys.readouterr()
    assert heard.err.startswith("error: ")
    assert says in heard.err
    assert len(heard.err.splitlines()) == 1
    assert heard.out == ""
    assert not written()
