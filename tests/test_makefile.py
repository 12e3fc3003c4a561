"""The Makefile's set-up: which build of PyTorch it installs, and what it says first. Here nothing is installed."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
# stands for Python, pip and uv: makes the environment, and writes what it was called with
echo "$(basename "$0") $*"
if [ "$2" = venv ]; then
    mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/uv && cp "$0" .venv/bin/shapedreamer
fi
"""
NOTE = "No NVIDIA driver found"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the Makefile and a stand-in for Python."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def make(folder: Path, *words: str) -> list[str]:
    """The lines that `make` prints, without the commands themselves."""
    environment = {name: value for name, value in os.environ.items() if name not in ("TORCH", "MAKEFLAGS", "MAKELEVEL")}
    done = subprocess.run(
        ["make", "--silent", f"PYTHON={folder / 'python'}", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def index(lines: list[str], words: str) -> int:
    return next(i for i, line in enumerate(lines) if words in line)


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's default build has CUDA on Linux only")
def test_without_a_driver_the_set_up_warns_first_and_goes_on(folder: Path) -> None:
    lines = make(folder, "setup", "NVIDIA_DRIVER=")
    assert lines[0].startswith(NOTE)
    assert "`make setup TORCH=cpu`" in lines[0]
    assert "gigabytes" in lines[0]
    assert "-e .[track" in lines[-1]
    assert not any("uv" in line.split("[")[0] for line in lines[1:])
    assert make(folder, "setup", "NVIDIA_DRIVER=") == []  # nothing to do
    os.utime(folder / "constraints.txt")
    assert not any(NOTE in line for line in make(folder, "setup", "NVIDIA_DRIVER="))  # PyTorch is there already


def test_with_a_driver_there_is_no_warning(folder: Path) -> None:
    assert not any(NOTE in line for line in make(folder, "setup", "NVIDIA_DRIVER=/proc/driver/nvidia/version"))


def test_the_cpu_build_is_installed_before_everything_else(folder: Path) -> None:
    lines = make(folder, "setup", "NVIDIA_DRIVER=", "TORCH=cpu")
    assert not any(NOTE in line for line in lines)
    assert index(lines, "sys.version_info") < index(lines, "-m venv")
    assert index(lines, "install --quiet -c constraints.txt uv") < index(lines, "--torch-backend=cpu torch")
    assert index(lines, "--torch-backend=cpu torch") < index(lines, "-e .[track")


def test_an_environment_keeps_the_cpu_build(folder: Path) -> None:
    make(folder, "setup", "TORCH=cpu")
    assert make(folder, "setup") == []
    os.utime(folder / "constraints.txt")
    assert any("--torch-backend=cpu torch" in line for line in make(folder, "setup"))


def test_an_environment_can_change_its_build(folder: Path) -> None:
    make(folder, "setup", "NVIDIA_DRIVER=")
    lines = make(folder, "setup", "TORCH=cpu")
    assert index(lines, "--reinstall --torch-backend=cpu torch") < index(lines, "-e .[track")
    assert any("--torch-backend=cu130 torch" in line for line in make(folder, "setup", "TORCH=cu130"))
    assert [path.name for path in (folder / ".venv").glob("torch-*")] == ["torch-cu130"]


def test_no_package_host_is_named() -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "docs/troubleshooting.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "download.pytorch" not in text
        assert "index-url" not in text
