"""The description of a data set: training and held-out images are counted, in total and for each label."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapedreamer.data import inspect
from shapedreamer.data.arrays import Arrays, one_hot, split
from shapedreamer.data.files import folder
from shapedreamer.data.inspect import contact_sheet, describe, inspect_data

RANDOM = np.random.default_rng(0)


def test_held_out_images_are_counted_for_each_label(tmp_path: Path) -> None:
    for name, count in (("cats", 50), ("dogs", 30)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.fromarray(RANDOM.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / name / f"{i}.png")
    data, held_out = folder.load(tmp_path)
    assert isinstance(data, Arrays)
    assert isinstance(held_out, Arrays)
    assert "72 + 8 held out" in describe(data, held_out)
    report = inspect_data(data, held_out)
    assert "72 + 8 held out" in report
    rows = {line.split()[0]: line.split() for line in report.splitlines() if line.startswith("  ")}
    for i, name in enumerate(("cats", "dogs")):
        assert int(rows[name][1]) == data.labels[:, i].sum()
        assert int(rows[name][-1]) == held_out.labels[:, i].sum()
    assert sum(int(row[1]) + int(row[-1]) for row in rows.values()) == 80


def test_few_images_are_held_out_too() -> None:
    data, held_out = split(Arrays("few", RANDOM.integers(0, 256, (5, 4, 4, 1), np.uint8), np.zeros((5, 0)), ()))
    assert describe(data, held_out) == (
        "few: 5 images, 1 x 4 x 4, values in [-1, 1]; the same are held out, as fewer than 10 are distinct; labels: "
    )
    assert "held out" not in describe(data)


def test_large_images_are_read_in_smaller_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images = RANDOM.integers(0, 256, (20, 4, 4, 1), np.uint8)
    data = Arrays("many", images, one_hot(np.arange(20) % 3, 3), ("a", "b", "c"))
    report, sheet = inspect_data(data), contact_sheet(data)
    monkeypatch.setattr(inspect, "MAX_VALUES", 50)  # three images
    assert inspect_data(data) == report
    assert torch.equal(contact_sheet(data), sheet[:3])
