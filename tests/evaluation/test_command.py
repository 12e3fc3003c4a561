"""`shapedreamer evaluate`: its output, its files and its errors."""

import json
import subprocess
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
from shapedreamer.evaluation.evaluator import Evaluation, evaluate_subject, load_subject
from shapedreamer.evaluation.sweep import Point, picture
from shapedreamer.evaluation.validity import ShapeReport
from shapedreamer.imaging.render import grid
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import DrawnData
from tests.training.test_processes import finish, start, without_launcher

Untrained = Callable[..., Path]


@pytest.fixture(scope="module")
def sprites(untrained: Untrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(DrawnData("sprites", 300), tmp_path_factory.mktemp("evaluate") / "run", labels=True, timesteps=4)


@pytest.fixture(scope="module")
def shapes(untrained: Untrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained(DrawnData("shapes", 256), tmp_path_factory.mktemp("evaluate") / "run", timesteps=2)


@pytest.fixture(autouse=True)
def temporary_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def quick_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the slow search for shapes: an image is valid if its first pixel is white."""

    def judge(
        images: Tensor, spec: object, labels: Tensor | None = None, progress: Callable[[int], None] | None = None
    ) -> ShapeReport:
        return ShapeReport((images[:, 0, 0, 0] > 0).double().mean().item(), 0.0, 1.0, 0.1, None, None, None)

    for module in (evaluator, sweep):
        monkeypatch.setattr(module, "judge", judge)


def shapedreamer(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run `shapedreamer evaluate` in this process, and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "evaluate", *map(str, words), "--device", "cpu"])
    try:
        return cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)


def written_files() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_json_output_is_the_evaluation(
    sprites: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--num", 256, "--json", "--seed", 4, "--sampler", "ddim", "--steps", 2, "--eta", 0.5, "--guidance", 0)
    assert shapedreamer(monkeypatch, sprites, *words) == 0
    printed = TypeAdapter(Evaluation).validate_json(capsys.readouterr().out)
    expected, _ = evaluate_subject(
        load_subject(sprites, device="cpu"), 256, SampleOptions("ddim", 2, 0.5, seed=4, guidance=0.0)
    )
    assert {**vars(printed), "seconds": 0} == {**vars(expected), "seconds": 0}
    assert (printed.model, printed.sampler, printed.steps, printed.eta, printed.guidance) == (
        str(sprites),
        "ddim",
        2,
        0.5,
        0.0,
    )
    assert printed.label_accuracy is not None
    assert not written_files()


def test_prints_a_table_and_writes_the_report(
    sprites: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shapedreamer(monkeypatch, sprites, "--num", 256, "--report", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"256 samples of {sprites} compared with 256 real images of sprites"
    assert lines[1].startswith("sampled with heun, 3 steps, eta 0, guidance 1, seed 0, in ")
    assert [line[:15].strip() for line in lines[4:9]] == ["FID", "KID", "precision", "recall", "label accuracy"]
    assert "a classifier of sprites shipped with shapedreamer" in lines[-3]
    assert lines[-2:] == [str(Path("out/index.html")), str(Path("out/grid.png"))]
    assert written_files() == sorted(lines[-2:])
    fid = lines[4].split()[1]
    assert f'<td class="number samples">{fid}</td>' in Path("out/index.html").read_text(encoding="utf-8")
    _, evidence = evaluate_subject(load_subject(sprites, device="cpu"), 256)
    with Image.open("out/grid.png") as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(grid(evidence.samples[:64], 8)))


@pytest.mark.slow
def test_a_sweep_prints_a_table_or_json_and_writes_a_plot(
    shapes: Path, quick_judge: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shapedreamer(monkeypatch, shapes, "--sweep", "steps", "--num", 256) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("valid images, higher is better (256 samples per value); real images: ")
    assert lines[1].split() == ["network", "calls", "1", "2"]
    for line, (name, _) in zip(lines[2:-1], sweep.CURVES.values(), strict=True):
        assert line.startswith(f"{name}  ")
    assert lines[-1] == "sweep.png"
    assert written_files() == ["sweep.png"]

    words = ("--sweep", "steps", "--num", 256, "--json", "--out", "other.png", "--seed", 1)
    assert shapedreamer(monkeypatch, shapes, *words) == 0
    points = [Point(**row) for row in json.loads(capsys.readouterr().out)]
    assert points == sweep.sweep(load_subject(shapes, device="cpu"), 256, seed=1)
    assert len(points) == 2 * len(sweep.CURVES)
    with Image.open("other.png") as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(picture(points)))


@pytest.mark.slow
def test_a_report_can_include_a_sweep(
    shapes: Path, quick_judge: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--sweep", "steps", "--num", 256, "--report", "out", "--json", "--steps", 1)
    assert shapedreamer(monkeypatch, shapes, *words) == 0
    printed = json.loads(capsys.readouterr().out)
    points = [Point(**row) for row in printed.pop("sweep")]
    assert points == sweep.sweep(load_subject(shapes, device="cpu"), 256)
    quality = TypeAdapter(Evaluation).validate_python(printed)
    assert quality.steps == 1
    assert quality.shapes is not None
    assert quality.shapes.real.valid == points[0].real
    assert written_files() == [str(Path("out/grid.png")), str(Path("out/index.html")), "sweep.png"]
    html = Path("out/index.html").read_text(encoding="utf-8")
    assert "Samplers and network calls" in html
    assert "The numbers" in html


def test_default_number_of_samples(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    def stop(name: str) -> Callable[..., None]:
        def function(subject: object, num: int, *_: object) -> None:
            calls.append((name, num))
            raise KeyboardInterrupt

        return function

    monkeypatch.setattr(evaluator, "evaluate_subject", stop("evaluate"))
    monkeypatch.setattr(sweep, "sweep", stop("sweep"))
    for words in ((), ("--sweep", "steps"), ("--num", 300), ("--num", 300, "--sweep", "steps"), ("--num", 0)):
        assert shapedreamer(monkeypatch, shapes, *words) == 130
    assert calls == [("evaluate", 2000), ("sweep", 512), ("evaluate", 300), ("sweep", 300), ("evaluate", 0)]


def test_progress_goes_to_stderr_only(
    shapes: Path, quick_judge: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shapedreamer.common import progress

    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1)
    assert shapedreamer(monkeypatch, shapes, "--num", 256, "--json") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["num"] == 256
    assert "sampling  64/256" in output.err
    assert "comparing  3/3  0s left" in output.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no run or checkpoint nowhere"),
        (["RUN", "--num", "255"], "num must be at least 256"),
        (["RUN", "--num", "0"], "num must be at least 256"),
        (["RUN"], "too few images to compare 2000 samples with; use at most --num 300"),
        (["RUN", "--num", "256", "--steps", "5"], "steps must be between 1 and 4"),
        (["RUN", "--num", "256", "--steps", "0"], "steps must be between 1 and 4"),
        (["RUN", "--num", "256", "--eta", "3"], "eta must be between 0 and 2"),
        (["RUN", "--num", "256", "--seed", "-1"], "seed must be between"),
        (["RUN", "--num", "256", "--guidance", "nan"], "guidance must be finite"),
        (["RUN", "--data", "."], "draws its own images; leave out --data"),
        (["RUN", "--device", "mps"], "device mps is not available"),
        (["RUN", "--out", "a.png"], "--out is the picture of a sweep: add --sweep steps"),
        (["RUN", "--sweep", "steps", "--out", "a.txt"], "must end in .png"),
        (["RUN", "--sweep", "steps", "--steps", "0"], "leave out --sampler, --steps and --eta"),
        (["RUN", "--sweep", "steps", "--eta", "0"], "leave out --sampler, --steps and --eta"),
        (["RUN", "--sweep", "steps", "--num", "100"], "num must be at least 256"),
        (["RUN", "--report", "RUN/checkpoints/latest.safetensors"], "it is a file; choose a folder"),
    ],
)
def test_errors_are_one_line_with_exit_code_2(
    sprites: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    words = [word.replace("RUN", str(sprites)) for word in words]
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "evaluate", *words])
    if "mps" in words and torch.backends.mps.is_available():
        pytest.skip("this machine has an mps device")
    assert cli.main() == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert message in output.err
    assert len(output.err.splitlines()) == 1
    assert output.out == ""
    assert not written_files()


SHARED = """
import sys
from shapedreamer.common import device
device.has_fast_bf16 = lambda device: False  # in float32
import shapedreamer as sd
from dataclasses import asdict
from json import dumps
from shapedreamer.common.processes import connect
from shapedreamer.evaluation import sweep
from shapedreamer.evaluation.evaluator import load_subject
quality = asdict(sd.evaluate(sys.argv[1], 300, steps=2))
sweep.STEPS = (1,)
group, _ = connect(device.pick_device("cpu"))
points = sweep.sweep(load_subject(sys.argv[1], group=group), 300)
print(dumps([quality | {"seconds": 0}, points]), file=sys.stderr)
"""


@pytest.mark.slow
def test_any_number_of_processes_gets_the_same_numbers(sprites: Path) -> None:
    """300 samples are batches of 64, 64, 64, 64 and 44, which do not divide evenly."""
    results = set()
    for size in (1, 2):
        codes, errors = finish(start(size, ["-c", SHARED, str(sprites)]))
        assert codes == [0] * size, errors
        lines = [line for line in errors.splitlines() if line.startswith("[{")]
        assert len(lines) == size
        results |= set(lines)
    assert len(results) == 1


@pytest.mark.slow
def test_the_command_shares_the_sampling(
    sprites: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", str(sprites), "--num", "256", "--steps", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["shapedreamer", *words])
    assert cli.main() == 0
    alone = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-m", "shapedreamer", *words, "--devices", "2"]
    done = subprocess.run(command, env=without_launcher(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"seconds": 0} == alone | {"seconds": 0}
