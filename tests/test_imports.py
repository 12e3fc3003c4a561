"""Rules for imports: every module imports with the core dependencies alone, and packages import in one direction."""

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
# parts of an export, which need diffusers; no module imports them
COPIED = {"shapedreamer.export.flow_pipeline", "shapedreamer.export.pixel_head_unet"}
CORE_MODULES = [module for module in MODULES if module not in COPIED]
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
    "jupyterlab",
    "nbclient",
    "jupytext",
)
WITHOUT_EXTRAS = f"import sys\nsys.modules.update(dict.fromkeys({EXTRAS!r}))\n"  # importing a None module fails


def run_without_extras(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS + code], capture_output=True, text=True)


@pytest.mark.slow
def test_every_module_imports_with_the_core_dependencies_alone() -> None:
    code = f"import importlib\nfor name in {CORE_MODULES!r}: importlib.import_module(name)"
    done = run_without_extras(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_without_the_track_extra_prints_a_note_and_continues(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[1])
    code = f"sys.path.insert(0, {root!r})\nfrom tests.tiny import TINY\nfrom shapedreamer.training.loop import train\n"
    done = run_without_extras(code + f"train(TINY, {str(tmp_path / 'run')!r})")
    assert done.returncode == 0, done.stderr
    assert "no TensorBoard and no plots: this needs tensorboard: pip install 'shapedreamer[track]'" in done.stderr
    assert (tmp_path / "run" / "samples" / "epoch-0003.png").exists()
    assert not (tmp_path / "run" / "loss.png").exists()


# A package imports only packages on the lines above its own.
PACKAGES = [
    "common",
    "diffusion",
    "networks",
    "data",
    "models",
    "imaging",
    "training",
    "evaluation",
    "conformance",
    "export",
    "live",
    "labs",
    "cli",
]


def package_of(module: str) -> str:
    return module.split(".")[1]


def imported_by(module: str) -> set[str]:
    """The modules of this package that a module imports, at its top or inside functions."""
    path = SOURCE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            full = ".".join(base)
            found |= {f"{full}.{alias.name}" for alias in node.names} & set(MODULES) or {full}
    return {name for name in found if name in MODULES and name != "shapedreamer"}


SUBMODULES = [module for module in MODULES if module != "shapedreamer"]


def test_every_module_is_in_a_package() -> None:
    assert {package_of(module) for module in SUBMODULES} == set(PACKAGES)


@pytest.mark.parametrize("module", SUBMODULES)
def test_a_package_imports_only_packages_above_it(module: str) -> None:
    above = PACKAGES[: PACKAGES.index(package_of(module)) + 1]
    for other in imported_by(module):
        assert package_of(other) in above, f"{module} imports {other}, but {package_of(other)} is below it in PACKAGES"


@pytest.mark.parametrize("package", ["networks", "data"])
def test_networks_and_data_import_only_common(package: str) -> None:
    for module in SUBMODULES:
        if package_of(module) == package:
            assert {package_of(other) for other in imported_by(module)} <= {"common", package}


@pytest.mark.parametrize("name", [name for name in shapedreamer.__all__ if callable(getattr(shapedreamer, name))])
def test_no_module_has_the_name_of_a_public_function(name: str) -> None:
    assert f"shapedreamer.{name}" not in MODULES


def test_no_module_imports_a_file_that_is_only_copied() -> None:
    assert [module for module in MODULES if imported_by(module) & COPIED] == []


@pytest.mark.slow
def test_importing_submodules_does_not_replace_public_names() -> None:
    code = (
        f"import importlib, inspect\nfor name in {CORE_MODULES!r}: importlib.import_module(name)\n"
        "import shapedreamer as sd\nassert 'recipe' in inspect.signature(sd.train).parameters\n"
        "assert inspect.ismodule(sd.samplers) and sd.samplers.ddim"
    )
    assert run_without_extras(code).returncode == 0
