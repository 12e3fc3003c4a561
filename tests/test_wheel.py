"""The wheel, built from the sdist and installed into an empty environment; and the bill of materials of the pins."""

import contextlib
import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from shapedreamer import __version__
from shapedreamer.models import zoo

ROOT = Path(__file__).parents[1]
TIMEOUT = 60.0  # seconds until a process ends after Ctrl-C


# the wheel


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    pytest.importorskip("build", reason="needs the extra 'dev'")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for name in ("src", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, source], check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel and the pinned core dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    install(folder / "bin", str(next(built.glob("*.whl"))))
    return folder / "bin"


def install(programs: Path, requirement: str) -> None:
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, requirement], check=True)


def run(programs: Path, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([programs / "shapedreamer", *words], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_the_wheel_has_what_the_package_needs_and_nothing_else(built: Path) -> None:
    needed = r"""shapedreamer/(.+/)?[a-z0-9_]+\.py | shapedreamer/py\.typed
        | shapedreamer/data/drawn/art/[a-z]+\.(txt|json) | shapedreamer/evaluation/weights/[a-z_]+\.safetensors
        | shapedreamer/models/zoo/weights/[a-z0-9_-]+\.(json|png|safetensors)
        | shapedreamer/live/page/(.+/)?[a-z-]+\.(js|css|html|json|svg)
        | shapedreamer-[0-9.]+\.dist-info/(METADATA|RECORD|WHEEL|entry_points\.txt|top_level\.txt|licenses/LICENSE)"""
    names = zipfile.ZipFile(next(built.glob("*.whl"))).namelist()
    assert [name for name in names if not re.fullmatch(needed, name, re.VERBOSE)] == []
    sources = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "shapedreamer").rglob("*.py")}
    assert sources <= set(names)
    assert {f"shapedreamer/models/zoo/weights/{name}.safetensors" for name in zoo.names()} <= set(names)


@pytest.mark.slow
def test_the_sdist_has_no_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as file:
        tops = {name.split("/")[1] for name in file.getnames() if "/" in name}
    assert tops == {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "src"}


@pytest.mark.slow
def test_the_core_alone_samples_a_shipped_model(environment: Path, tmp_path: Path) -> None:
    subprocess.run([environment / "python", "-m", "pip", "check"], check=True)
    done = run(environment, tmp_path, "sample", "shapes", "--num", "2", "--steps", "2", "--out", "samples.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_live_page_names_its_extra_and_works_with_it(environment: Path, built: Path, tmp_path: Path) -> None:
    done = run(environment, tmp_path, "live", "--port", "0")
    if done.returncode != 2 or "pip install 'shapedreamer[web]'" not in done.stderr:
        pytest.fail(done.stderr)
    assert done.stderr.count("\n") == 1
    install(environment, f"{next(built.glob('*.whl'))}[web]")
    with serving(environment, tmp_path) as address:
        page = urllib.request.urlopen(address).read().decode()
        assert "ShapeDreamer" in page
        assert urllib.request.urlopen(f"{address}/page/app.js").status == 200
        models = json.load(urllib.request.urlopen(f"{address}/models.json"))
        assert {model["name"] for model in models} == set(zoo.names())
        assert json.load(urllib.request.urlopen(f"{address}/healthz"))["version"] == __version__


@contextlib.contextmanager
def serving(programs: Path, folder: Path) -> Iterator[str]:
    """The address of the live page, which is served in the `with` block and then stopped by Ctrl-C."""
    words = [str(programs / "shapedreamer"), "live", "--port", "0"]
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+(?=;| )", process.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(TIMEOUT)


# the bill of materials


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_has_every_pin_once_and_a_scope_for_it(sbom: ModuleType) -> None:
    bill = sbom.bill_of_materials()
    scopes = {component["name"]: component["scope"] for component in bill["components"]}
    assert len(scopes) == len(bill["components"])
    assert {component["name"]: component["version"] for component in bill["components"]} == sbom.read_pins()
    assert scopes["torch"] == scopes["numpy"] == scopes["typing-extensions"] == "required"
    assert scopes["starlette"] == scopes["onnx"] == scopes["modal"] == "optional"
    assert scopes["pytest"] == scopes["sphinx"] == scopes["ruff"] == "excluded"


def test_the_bill_is_reproducible_and_its_references_lead_somewhere(sbom: ModuleType) -> None:
    bill = sbom.bill_of_materials()
    assert bill == sbom.bill_of_materials()
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    subject = bill["metadata"]["component"]["bom-ref"]
    known = {component["bom-ref"] for component in bill["components"]} | {subject}
    assert subject == f"pkg:pypi/shapedreamer@{__version__}"
    assert {entry["ref"] for entry in bill["dependencies"]} == known
    assert {name for entry in bill["dependencies"] for name in entry["dependsOn"]} <= known
    [core] = [entry["dependsOn"] for entry in bill["dependencies"] if entry["ref"] == subject]
    assert len(core) == 8


def test_a_pin_applies_to_its_version_of_python(sbom: ModuleType, tmp_path: Path) -> None:
    pins = 'Some_Thing==1 ; python_version < "3"\nSome_Thing==2.1 ; python_version >= "3"\n\nother==3\n'
    (tmp_path / "pins.txt").write_text(pins)
    assert sbom.read_pins(tmp_path / "pins.txt") == {"some-thing": "2.1", "other": "3"}
