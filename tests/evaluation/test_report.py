"""The page shows the images and the numbers that were measured, and needs nothing from elsewhere."""

import base64
import io
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from shapedreamer.common.errors import UserError
from shapedreamer.data.arrays import Arrays
from shapedreamer.evaluation.distances import LEAST
from shapedreamer.evaluation.evaluator import Beside, Evaluation, Evidence, Shapes, Subject, evaluate
from shapedreamer.evaluation.report import check_folder, page, write_report
from shapedreamer.evaluation.sweep import Point, picture, table
from shapedreamer.evaluation.table import measures, verdict
from shapedreamer.evaluation.validity import ShapeReport
from shapedreamer.imaging.render import grid

Judged = tuple[Evaluation, Evidence]
POINTS = [Point("ddim", 0.0, n, n, "FID", 10 / n, 0.5, 256, 0, 1.0) for n in (1, 4)]
VOID = ("meta", "img", "br")


@pytest.fixture
def judged(of_images: Callable[[Tensor], Subject], data: tuple[Arrays, Arrays]) -> Judged:
    quality, evidence = evaluate(of_images(data[1].batch(torch.arange(200))[0]), LEAST)
    report = ShapeReport(0.5, 0.25, 0.99, 0.1, 1.5, {"circle": 0.75, "line": 0.25}, 0.9)
    real = replace(report, valid=1.0, kinds={"circle": 0.5, "line": 0.5})
    return replace(quality, shapes=Shapes(report, real), label_accuracy=Beside(0.625, 0.875)), evidence


class Page(HTMLParser):
    """What a page holds: its words, its pictures, the numbers of its table; fails if a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[tuple[str, np.ndarray]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        known = dict(attrs)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        if tag == "img":
            kind, _, content = (known["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(content))) as image:
                self.pictures.append((known["alt"] or "", np.asarray(image)))
                assert (str(image.width), str(image.height)) == (known["width"], known["height"])
        if tag == "tbody":
            self.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open[-1:] == ["b"] or (self.open[-1:] == ["td"] and len(self.rows[-1]) < 3):
            self.rows[-1].append(data)


def test_the_numbers_are_those_of_the_evaluation(judged: Judged) -> None:
    shown = Page(page(*judged))
    assert shown.rows == [[row.name, row.samples, row.real] for row in measures(asdict(judged[0]))]
    assert len(shown.rows) == 13
    changed = Page(page(replace(judged[0], fid=Beside(123.456, 7.0)), judged[1]))
    assert ["FID", "123", "7"] in changed.rows
    text = " ".join(" ".join(shown.words).split())
    for row in measures(asdict(judged[0])):
        assert row.means in text
        assert row.blind in text
    assert "256 samples beside 256 real images of squares" in text
    assert "Sampled with ddim, 20 steps, eta 0, guidance 1, seed 0" in text
    assert judged[0].features in text
    assert verdict(asdict(judged[0])) in text


def test_the_pictures_are_the_images(judged: Judged) -> None:
    _, evidence = judged
    pictures = Page(page(*judged)).pictures
    assert [alt for alt, _ in pictures[:2]] == ["a grid of samples", "a grid of real images"]
    for (_, shown), images in zip(pictures, (evidence.samples, evidence.real), strict=False):
        assert np.array_equal(shown, np.asarray(grid(images[:64], 8, 2)))
    assert len(pictures) == 2 + 8
    for (_, shown), pair in zip(pictures[2:], evidence.pairs, strict=True):
        assert np.array_equal(shown, np.asarray(grid(pair, 2, 2)))


def test_the_nearest_pairs_come_with_their_distances(judged: Judged) -> None:
    captions = re.findall(r"<figcaption>(\d\.\d{3})</figcaption>", page(*judged))
    expected = judged[1].copies.samples.sort().values[:8].tolist()
    assert captions == [f"{distance:.3f}" for distance in expected]


def test_the_charts_are_there_and_those_of_shapes_only_for_shapes(judged: Judged) -> None:
    html = page(*judged)
    assert html.count("<svg") == 2
    kinds = html[html.rindex("<svg") :]
    assert all(f">{kind}</text>" in kinds for kind in ("circle", "line"))
    samples, real = (re.findall(rf'class="{of}"[^>]* height="([\d.]+)"', kinds) for of in ("samples", "real"))
    assert [float(tall) / float(real[0]) for tall in samples + real] == pytest.approx([1.5, 0.5, 1, 1], abs=0.01)
    without = page(replace(judged[0], shapes=None, label_accuracy=None), judged[1])
    assert without.count("<svg") == 1
    assert "Which shapes" not in without
    assert judged[0].shapes is not None
    empty = ShapeReport(0.0, 0.0, 0.5, 0.5, None, None, None)
    nothing = replace(judged[0], shapes=replace(judged[0].shapes, samples=empty))
    assert page(nothing, judged[1]).count("<svg") == 1


def test_nothing_comes_from_anywhere_else(judged: Judged) -> None:
    html = page(*judged, POINTS)
    assert "http" not in html
    assert "//" not in re.sub(r"base64,[^\"]*", "", html)
    assert "<script" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert all(link.startswith("data:image/png;base64,") for link in Page(html).links)


def test_names_cannot_break_out_of_the_page(judged: Judged) -> None:
    evil = "</title><script>alert(\"1\")</script> & 'x'"
    html = page(replace(judged[0], model=evil, data=f"d{evil}", features=f"f{evil}"), judged[1])
    assert "<script" not in html
    assert html.count(escape(evil)) >= 4
    shown = Page(html)
    assert f"How good is {evil}?" in shown.words


def test_a_sweep_is_shown_where_there_is_one(judged: Judged) -> None:
    assert "How to sample it" not in page(*judged)
    html = page(*judged, POINTS)
    assert np.array_equal(Page(html).pictures[-1][1], np.asarray(picture(POINTS)))
    assert all(line in html for line in table(POINTS))


def test_it_is_written_beside_a_picture_of_samples(judged: Judged, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    for _ in range(2):  # over an old one, too
        assert write_report(folder, *judged) == [folder / "index.html", folder / "grid.png"]
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "index.html"]
    assert (folder / "index.html").read_text(encoding="utf-8") == page(*judged)
    with Image.open(folder / "grid.png") as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(grid(judged[1].samples[:64], 8)))


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, and a report is a folder"):
        check_folder(tmp_path / "file")
