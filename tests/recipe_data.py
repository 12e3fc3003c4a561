"""Data for every recipe, for tests that go through all of them."""

from pathlib import Path

import numpy as np
import pytest

from shapedreamer.common.names import RecipeName

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_for(name: RecipeName, folder: Path, height: int = 30) -> Path | None:
    """The data of a recipe, written to an empty folder if there are none; skips the test if they are missing."""
    if name in ("mnist", "fashion_mnist"):
        data = SHARED / name
        if not data.exists():
            pytest.skip(f"the real data are not in {data}")
        return data
    if name == "folder":
        rng = np.random.default_rng(0)
        for kind in "ab":
            (folder / kind).mkdir(parents=True)
            np.save(folder / kind / "images.npy", rng.integers(0, 256, (20, height, 20, 3), np.uint8))
        return folder
    if name == "patterns":
        pytest.importorskip("cv2")
    return None
