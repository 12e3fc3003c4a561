"""Pictures are displayed in a notebook and written to files elsewhere; a Model and a Step display themselves."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import shapedreamer as sd
from shapedreamer.common import notebook
from shapedreamer.diffusion.samplers import Step
from shapedreamer.imaging import render, show
from shapedreamer.models.model import Model
from tests.tiny import TINY


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a notebook has displayed."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(show, "kernel_shell", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(show, "display", found.append)
    return found


def images(count: int = 4, channels: int = 1) -> torch.Tensor:
    return torch.rand(count, channels, 8, 6) * 2 - 1


def steps() -> list[Step]:
    return [Step(t, images(), images()) for t in range(99, -1, -1)]


def test_files_are_numbered_and_their_paths_printed(capsys: pytest.CaptureFixture[str]) -> None:
    sd.show(images())
    sd.animate(steps())
    Path("pictures/009-mine.png").write_bytes(b"")
    sd.show(images())
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["pictures/001.png", "pictures/002.gif", "pictures/010.png"]
    with Image.open("pictures/002.gif") as animation:
        assert animation.n_frames == show.MAX_FRAMES


def test_a_grid_has_the_pixels_of_the_images() -> None:
    batch = images(3)
    picture = show.picture_of(batch, columns=3)
    assert picture == render.grid(batch, columns=3, width=3 * show.TILE)
    assert show.picture_of(batch[0]).size == show.picture_of(batch[:1]).size


@pytest.mark.parametrize(("columns", "count"), [(3, 3), (3, 2), (3, 6), (2, 2), (1, 6)])
def test_titles_for_columns_rows_or_images(columns: int, count: int) -> None:
    titles = [f"title {i}" for i in range(count)]
    picture = show.picture_of(images(6), titles, columns)
    plain = show.picture_of(images(6), None, columns)
    assert picture.width * picture.height > plain.width * plain.height


def test_images_with_nan_are_grey_and_a_note_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    batch = images(3)
    batch[1] = float("nan")
    picture = np.asarray(show.picture_of(batch, columns=3))
    assert "1 of 3 images have pixels that are NaN or ∞; they are grey here" in capsys.readouterr().out
    assert picture[picture.shape[0] // 2, picture.shape[1] // 2] == 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text",), "images must be a tensor"),
        ((torch.zeros(3),), r"shape \(B, C, H, W\)"),
        ((torch.zeros(2, 5, 4, 4),), "C = 1, 3 or 4"),
        ((torch.zeros(0, 1, 4, 4),), "shape"),
        ((torch.zeros(4, 1, 4, 4), ["a", "b", "c"]), "3 titles do not fit: give 2"),
        ((torch.zeros(4, 1, 4, 4), None, 0), "columns must be at least 1"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(sd.UserError, match=message):
        sd.show(*arguments)


def test_an_empty_animation_and_a_crooked_line_are_errors() -> None:
    with pytest.raises(sd.UserError, match="there are no steps to animate"):
        sd.animate(iter(()))
    with pytest.raises(sd.UserError, match="line 'a' has 2 xs and 3 ys"):
        sd.plot({"a": ([1, 2], [1, 2, 3])})


def test_a_plot_takes_lists_arrays_and_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    lines = {"a": ([1, 2], np.array([1.0, 2.0])), "b": (torch.tensor([1, 2]), (3, 4))}
    sd.plot(lines, "x", "y", "both", log_x=True, log_y=True)
    assert "picture: pictures/001.png (both)" in capsys.readouterr().out


def test_a_notebook_shows_everything_inline(
    displayed: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    sd.show(images())
    sd.animate(steps()[:3])
    assert list(displayed[0]) == ["image/png", "text/plain"]
    assert '<img src="data:image/gif;base64,' in displayed[1]["text/html"]
    assert len(displayed[1]["text/html"]) < 20_000  # the browser enlarges it
    assert not Path("pictures").exists()
    assert capsys.readouterr().out == ""


def test_a_model_displays_itself_as_a_table() -> None:
    model = sd.load("shapes-turbo")
    assert isinstance(model, Model)
    table = model._repr_html_()
    for word in ("shapes", "32×32, grey", "4,638,788", "x₀", "ddim, 4 steps", "circle"):
        assert word in table


def test_a_step_displays_its_images() -> None:
    interactive = pytest.importorskip("IPython.core.formatters")
    formatter = interactive.DisplayFormatter()
    sd._display_steps(SimpleNamespace(display_formatter=formatter))
    data, _ = formatter.format(steps()[0])
    with Image.open(io.BytesIO(data["image/png"])) as picture:
        assert picture.format == "PNG"


def test_progress_in_a_notebook_is_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(notebook, "kernel_shell", lambda: SimpleNamespace(kernel=None))
    sd.train(TINY, tmp_path / "run", sample_every=0, save_every=0)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "held-out loss" in captured.out
    assert "\x1b" not in captured.out
    assert len(captured.out.splitlines()) < 12
