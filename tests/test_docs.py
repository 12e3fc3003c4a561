"""Every command in the README and in docs/ is run, with fewer images, and writes the files it says it writes.

Here a command runs in one process: tests/training/test_processes.py and tests/imaging/test_shards.py start several. Of
the commands for torchrun, every option is checked.
"""

import functools
import gzip
import re
import shlex
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.distributed.run import get_args_parser

from shapedreamer import cli
from shapedreamer.common.names import RecipeName
from shapedreamer.data.files import dcss, download, mnist
from shapedreamer.data.files.tiles import COURSE_IMAGES, COURSE_LABELS
from shapedreamer.evaluation.sweep import CURVES
from shapedreamer.export.runtimes import eager_network
from shapedreamer.models.recipes import ContextUnetConfig, Recipe, get_recipe
from shapedreamer.training.loop import train
from tests.tiny import SMALL

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs" / "labs.md"})]  # see tests/labs


def commands_of(page: Path) -> list[str]:
    return re.findall(r"^    (shapedreamer .*)$", page.read_text(), flags=re.MULTILINE)


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})
# The runs that the pages use: the recipe and its options. Here they are trained for one epoch.
RUNS: dict[str, tuple[RecipeName, dict[str, str]]] = {
    "shapes": ("shapes", {}),
    "masked": ("shapes", {"process": "masked"}),
    "patterns": ("patterns", {}),
    "sprites": ("sprites", {}),
    "epochs": ("sprites", {}),
    "mnist": ("mnist", {"data": "digits"}),
}
SHORT = {"--epochs": "1", "--samples": "32", "--batch-size": "8", "--sample-every": "0"}  # options for short training
EPOCHS = 31  # number of checkpoints for `compare --epochs`


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with small versions of all files that the pages use."""
    pytest.importorskip("cv2", reason="needs the extra 'data'")
    pytest.importorskip("uvicorn", reason="needs the extra 'web'")
    for module in ("diffusers", "onnxscript"):
        pytest.importorskip(module, reason="needs the extras 'diffusers' and 'export'")
    workdir = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    for name in ("course-sprites", "my-pictures/cats", "my-pictures/dogs", "digits", "runs"):
        (workdir / name).mkdir(parents=True)
    np.save(workdir / "course-sprites" / COURSE_IMAGES, rng.integers(0, 256, (40, 16, 16, 3), np.uint8))
    np.save(workdir / "course-sprites" / COURSE_LABELS, np.eye(5)[rng.integers(0, 5, 40)])
    for i, kind in enumerate(("cats", "dogs") * 10):
        picture = Image.fromarray(rng.integers(0, 256, (40 + i, 50, 3), np.uint8))
        picture.save(workdir / "my-pictures" / kind / f"{i}.png")
    for name in mnist.FILE_NAMES:
        sizes = (40, 28, 28) if "images" in name else (40,)
        header = struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)
        content = rng.integers(0, 256 if "images" in name else 10, sizes, np.uint8).tobytes()
        (workdir / "digits" / name).write_bytes(gzip.compress(header + content))
    for name in ("my_module.py", "my_sampler.py"):
        (workdir / name).write_text("from shapedreamer.diffusion.samplers import ddim as my_ddim\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workdir)
        patch.setattr("shapedreamer.training.run.PREVIEW_IMAGES", 4)
        for name, (recipe, options) in RUNS.items():
            train(tiny(recipe, options), Path("runs") / name, sample_every=0, save_every=1)
        stored = Path("runs/epochs/checkpoints/epoch-0001.safetensors").read_bytes()
        for epoch in range(2, EPOCHS + 1):
            Path(f"runs/epochs/checkpoints/epoch-{epoch:04d}.safetensors").write_bytes(stored)
        yield workdir


def tiny(name: RecipeName, options: dict[str, str]) -> Recipe:
    samples = 256 if name == "shapes" else 16  # `evaluate` needs 256 images
    recipe = get_recipe(name, samples=samples, epochs=1, batch_size=samples // 2, **options)
    small = ContextUnetConfig(features=16, groups=4) if name == "sprites" else SMALL
    return replace(recipe, network=small, labels=True)


def shortened(command: str) -> list[str]:
    """The words of a command, changed to train briefly and on few images, and to write to a new folder."""
    words = shlex.split(command, comments=True)
    if words[1] == "train":
        options = dict(SHORT)
        if "--resume" in words:
            options = {"--max-minutes": "0"}
        else:
            options["--out"] = f"runs/short-{COMMANDS.index(command)}"
        for option, value in options.items():
            if option in words:
                words[words.index(option) + 1] = value
            else:
                words += [option, value]
    if words[1] == "distill":
        words += ["--epochs", "1"]
    if words[1] == "live":
        words += ["--port", "0"]
    if words[1] == "data" and "fetch" not in words and "--samples" not in words:
        words += ["--samples", "32"]
    if "--devices" in words:
        words[words.index("--devices") + 1] = "1"
    if words[1] == "sample" and "--num" in words:
        place = words.index("--num") + 1
        words[place] = str(min(int(words[place]), 16))
    if words[1] == "compare":
        words = [re.sub(r"^ddpm:\d+$", "ddpm:50", word) for word in words]
    if words[1] == "evaluate":
        words += [] if "--num" in words else ["--num", "0"]
        words[words.index("--num") + 1] = "256"
        words += [] if "--sweep" in words else ["--steps", "2"]
    if words[1] != "export" and words[2:3] in (["mnist"], ["fashion_mnist"]) and "--data" not in words:
        words += ["--data", "digits"]
    return words


def test_the_pages_name_every_subcommand() -> None:
    named = {shlex.split(command)[1] for command in COMMANDS}
    assert named == set(cli.SUBCOMMANDS) - {"labs"}  # tests/labs runs it


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_two_trainings_of_a_page_write_the_same_run(page: Path) -> None:
    commands = [shlex.split(command, comments=True) for command in commands_of(page)]
    trainings = [words for words in commands if words[1] in ("train", "distill") and "--resume" not in words]
    runs = [words[words.index("--out") + 1] if "--out" in words else f"runs/{words[2]}" for words in trainings]
    assert len(runs) == len(set(runs))


def launched_commands() -> list[str]:
    """The commands of torchrun in docs/, each on one line."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))).replace("\\\n", "")
    return [line for line in re.findall(r"^    (torchrun .*)$", text, flags=re.MULTILINE) if "..." not in line]


def test_torchrun_understands_its_commands_and_passes_the_rest_to_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = launched_commands()
    assert len(commands) == 3
    called: list[str] = []

    def stand_in(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(run)(lambda *args, **kwargs: called.append(name))

    monkeypatch.setattr(cli, "SUBCOMMANDS", {name: stand_in(name, run) for name, run in cli.SUBCOMMANDS.items()})
    for command in commands:
        options = get_args_parser().parse_args(shlex.split(command)[1:])
        assert options.module
        assert options.training_script == "shapedreamer"
        monkeypatch.setattr(sys, "argv", ["shapedreamer", *options.training_script_args])
        assert cli.main() == 0
    assert called == ["train", "train", "sample"]


def exit_status() -> int | str | None:
    """The exit status of the command in sys.argv."""
    try:
        return cli.main()
    except SystemExit as end:  # of --help
        return end.code


def is_slow(command: str) -> bool:
    """Whether the command trains a full-size network, or calls one too often for the default test run."""
    slow = ("train", "distill", "compare", "explore", "evaluate", "doctor", "export", "import", "live", "site")
    return command.split()[1] in slow or any(part in command for part in ("ddpm", "masked", ".gif"))


@pytest.mark.parametrize("command", [pytest.param(c, marks=[pytest.mark.slow] * is_slow(c), id=c) for c in COMMANDS])
def test_every_command_runs(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def fetch_dcss(folder: Path | None = None) -> Path:
        return workdir / "course-sprites"  # tests/data tests the download

    monkeypatch.chdir(workdir)
    monkeypatch.setenv("SHAPEDREAMER_DATA", str(workdir / "cache"))
    monkeypatch.setattr(dcss, "fetch_dcss", fetch_dcss)
    monkeypatch.setattr("shapedreamer.data.files.tiles.fetch_dcss", fetch_dcss)
    monkeypatch.setattr(download, "urlopen", None)  # no network access
    monkeypatch.setattr("shapedreamer.evaluation.sweep.STEPS", (1, 2))
    monkeypatch.setattr("shapedreamer.evaluation.sweep.CURVES", dict(list(CURVES.items())[:2]))
    monkeypatch.setattr("shapedreamer.evaluation.validity.BEAM_WIDTH", 1)  # a short search for shapes in noise
    monkeypatch.setattr("shapedreamer.evaluation.validity.BRANCHES", 1)
    monkeypatch.setattr("shapedreamer.export.runtimes.onnx_network", eager_network)  # tests/export exports networks
    monkeypatch.setattr("uvicorn.Server.run", lambda self, sockets: None)  # would serve until Ctrl-C
    monkeypatch.setattr("shapedreamer.live.site._runtime_files", lambda tarball: {})  # would download with npm
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # of my_module.py, which is no file of the command
    monkeypatch.setattr(sys, "argv", shortened(command))
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert exit_status() == 0, capsys.readouterr().err
    written = {path for path in workdir.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns}
    output = capsys.readouterr().out
    if sys.argv[1] in ("train", "distill"):
        assert any(path.name == "latest.safetensors" for path in written) or "--resume" in sys.argv
    elif sys.argv[1] in ("export", "import"):
        folder = workdir / output.splitlines()[-1]  # the command prints its name
        assert {"README.md", "config.json"} & {path.name for path in folder.iterdir()}
    elif sys.argv[1] == "site":
        assert any(path.suffix == ".onnx" for path in written)
    elif "--out" in sys.argv and (out := workdir / sys.argv[sys.argv.index("--out") + 1]).is_dir():
        assert {"index.json"} < {path.name for path in out.iterdir()}  # the second command for a folder completes it
    elif "--out" in sys.argv:
        assert out in written
    elif written:
        assert all(path.name in output for path in written)  # the command prints the names of its files
    else:
        assert output
