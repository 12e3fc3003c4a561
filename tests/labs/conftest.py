"""Two small labs, which need no model, in the place of the real ones."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shapedreamer.imaging import show
from shapedreamer.labs import assistance, checks, verdict
from shapedreamer.labs.source import OWN_LABS

NUMBERS = (90, 91)

LAB = '''\
# %% [markdown]
# # Lab {number}. Halves
# You halve numbers. You need to know what a half is. Time: 1 minute.

# %% tags=["setup"]
import torch

from shapedreamer.labs import check, predict

# %% tags=["prediction"] name="size"
predict("lab{number}.size", "a", a="a half is smaller", b="a half is larger")

# %% tags=["exercise"] name="half"
def half(x):
    """x (B, C, H, W) -> the same shape"""
    # begin solution
    return x / 2  # the secret solution
    # end solution

# %% tags=["check"] name="half"
if check.lab{number}.half(half):
    predict.measured("lab{number}.size", "a", "1 and 0.5")

# %% [markdown] tags=["hint"] name="half"
# The first hint.

# %% [markdown] tags=["hint"] name="half"
# The second hint.

# %% [markdown] tags=["hint"] name="half"
# The third hint.

# %% [markdown] tags=["explanation"] name="half"
# The explanation of half.

# %%
print("not run by a check")

# %% tags=["exercise"] name="quarter"
def quarter(x):
    # begin solution
    return half(half(x))
    # end solution

# %% tags=["check"] name="quarter"
check.lab{number}.quarter(quarter)

# %% [markdown] tags=["explanation"] name="quarter"
# The explanation of quarter.

# %% tags=["exercise", "exam"] name="exam"
def exam(x):
    # begin solution
    return x / 8
    # end solution

# %% tags=["check"] name="exam"
check.lab{number}.exam(exam)
'''

CHECKS = """\
import torch

from shapedreamer.labs.verdict import call, exercise, same


def _quotient(answer, number):
    x = torch.rand(2, 1, 8, 8)
    same(call(answer, x), x / number, f"divide by {number}", {"you return x itself": x})
    return "right, of course"


@exercise
def half(answer):
    return _quotient(answer, 2)


@exercise
def quarter(answer):
    return _quotient(answer, 4)


@exercise
def exam(answer):
    return _quotient(answer, 8)
"""


@pytest.fixture(autouse=True)
def small_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of the small labs. The working directory is another one, and empty."""
    if request.module.__name__.rpartition(".")[2] in ("test_answers", "test_real_labs"):
        yield tmp_path
        return
    folder, place = tmp_path / "sources", tmp_path / "place"
    (folder / "checks").mkdir(parents=True)
    place.mkdir()
    for number in NUMBERS:
        (folder / f"lab{number}_halves.py").write_text(LAB.format(number=number))
        (folder / "checks" / f"lab{number}.py").write_text(CHECKS)
    monkeypatch.setenv(OWN_LABS, str(folder))
    monkeypatch.chdir(place)
    monkeypatch.setattr(show, "FOLDER", show.FOLDER)
    monkeypatch.setattr(show, "PREFIX", show.PREFIX)
    monkeypatch.setattr(verdict, "SHOWN", [])
    monkeypatch.setattr(verdict, "TIME_LIMIT", verdict.TIME_LIMIT)
    assistance.solved_lab.cache_clear()
    importlib.invalidate_caches()
    yield folder
    assistance.solved_lab.cache_clear()
    for number in NUMBERS:
        sys.modules.pop(f"{checks.__name__}.lab{number}", None)
        vars(checks).pop(f"lab{number}", None)
