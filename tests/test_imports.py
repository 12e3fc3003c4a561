"""The house rules of imports: the core dependencies are enough for every module, and arrows point one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import shapedreamer

SOURCE = Path(shapedreamer.__file__).parent
MODULES = sorted(
    ".".join(("shapedreamer", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.name != "__main__.py"
)
EXTRAS = (
    "tensorboard",
    "matplotlib",
    "diffusers",
    "cv2",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "torchmetrics",
    "pytest",
    "hypothesis",
)
WITHOUT_EXTRAS = f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # None: as if it was not installed


def run_without_extras(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS + code], capture_output=True, text=True)


@pytest.mark.slow
def test_every_module_imports_with_the_core_dependencies_alone() -> None:
    code = f"import importlib\nfor name in {MODULES!r}: importlib.import_module(name)"
    done = run_without_extras(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_without_the_extra_says_so_and_trains(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[1])
    code = f"sys.path.insert(0, {root!r})\nfrom tests.tiny import TINY\nfrom shapedreamer.train import train\n"
    done = run_without_extras(code + f"train(TINY, {str(tmp_path / 'run')!r})")
    assert done.returncode == 0, done.stderr
    assert "no TensorBoard and no plots: this needs tensorboard: pip install 'shapedreamer[track]'" in done.stderr
    assert (tmp_path / "run" / "samples" / "epoch-0003.png").exists()
    assert not (tmp_path / "run" / "loss.png").exists()


# From the ground up: a module imports only what stands on a line above its own, or before it on its line.
FLOORS = [
    ["errors", "names", "evaluate.table", "evaluate.charts"],
    ["device", "schedule", "noise", "data.spec", "data.arrays"],
    ["data.drawn", "data.shapes", "data.patterns", "data.sprite_parts", "data.sprites"],
    ["data.download", "data.mnist", "data.dcss", "data.tiles", "data.folder", "data.inspect"],
    ["networks.fast", "networks.layers", "networks.unet", "networks.context_unet", "networks.critic"],
    ["process", "denoiser", "oracle", "samplers", "ema", "loss", "optim"],
    ["recipes", "checkpoint", "zoo", "model", "render", "dream", "explore", "compare", "run", "runlog"],
    ["evaluate.distances", "evaluate.classifier", "evaluate.memorisation", "evaluate.validity", "evaluate.progress"],
    ["evaluate.evaluation", "evaluate.sweep", "evaluate.report", "zoo.pack"],
    ["train", "distill", "export", "live", "conformance", "cli"],
]
RANK = {name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)}


def rank(module: str) -> tuple[int, int]:
    """Where a module stands; one in a package that is named as a whole stands where the package does."""
    name = module.removeprefix("shapedreamer.")
    return RANK.get(name) or RANK[name.split(".")[0]]


def imported(module: str) -> set[str]:
    """The modules of ours that a module imports when it is itself imported (not inside its functions)."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            full = ".".join(base)
            found |= {f"{full}.{alias.name}" for alias in node.names} & set(MODULES) or {full}
    return {name for name in found if name in MODULES and name != "shapedreamer"}


@pytest.mark.parametrize(
    "module", [m for m in MODULES if m != "shapedreamer" and not m.endswith((".data", ".networks"))]
)
def test_arrows_point_one_way(module: str) -> None:
    for other in imported(module):
        same_package = rank(module) == rank(other)
        assert same_package or rank(other) < rank(module), f"{module} imports {other}, which stands above it"


def test_networks_and_data_know_nothing_of_diffusion() -> None:
    diffusion = {f"shapedreamer.{name}" for name in ("schedule", "process", "denoiser", "samplers", "loss")}
    for module in MODULES:
        if module.startswith(("shapedreamer.networks", "shapedreamer.data")):
            assert not imported(module) & diffusion
