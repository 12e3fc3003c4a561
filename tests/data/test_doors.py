"""Every door by which a file enters, with files that claim gigabytes: one line of error, in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="only Unix can limit the memory of a process")

from tests.data.hostile import DOORS

SECONDS = 5.0  # of the processor, for each file
PEAK_MB = 1000
DEFAULT = ("explore --image",)
OTHERS = tuple(door for door in DOORS if door not in DEFAULT)


@pytest.mark.parametrize("doors", [DEFAULT, pytest.param(OTHERS, marks=pytest.mark.slow)], ids=["default", "others"])
def test_a_file_that_claims_gigabytes_gives_one_line_of_error(doors: tuple[str, ...], tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.data.hostile", str(files), *doors],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) > 3 * len(doors)
    for name, code, seconds, peak, errors in results:
        assert code == 2, (name, code, errors)
        assert seconds < SECONDS, (name, seconds)
        assert peak < PEAK_MB, (name, peak)
        lines = errors.splitlines()
        assert lines[-1].startswith("error: "), (name, errors)
        assert len(lines) == 1 or lines[0].startswith("skipped 1 of 1 files"), (name, errors)
        assert "Traceback" not in errors
