"""Settings for all tests: one thread a process, and Hypothesis without random examples and time limits."""

import os
import sys
from pathlib import Path

# Before torch is imported, also in the processes that tests start. The networks of the tests are so small that a second
# thread hardly helps, and beside other programs it makes them many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("shapedreamer", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("shapedreamer")


@pytest.fixture
def modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Diffusers copies a folder's code to a cache before it runs it. Other tests must not share this cache."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))  # in other processes
    monkeypatch.setattr(sys, "path", [*sys.path])  # Diffusers appends the cache
