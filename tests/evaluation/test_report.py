"""The page shows the measured values and the images, and loads no other resources."""

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
from shapedreamer.evaluation.distances import MIN_IMAGES
from shapedreamer.evaluation.evaluator import Evaluation, Evidence, SampleVsReal, Shapes, Subject, evaluate_subject
from shapedreamer.evaluation.report import check_folder, page, write_report
from shapedreamer.evaluation.sweep import Point, picture, table
from shapedreamer.evaluation.table import kind_rows, measures, verdict
from shapedreamer.evaluation.validity import KindReport, ShapeReport
from shapedreamer.imaging.render import grid

Results = tuple[Evaluation, Evidence]
POINTS = [Point("ddim", 0.0, n, n, "FID", 10 / n, 0.5, 256, 0, 1.0) for n in (1, 4)]
VOID_TAGS = ("meta", "img", "br")


@pytest.fixture
def results(images_subject: Callable[[Tensor], Subject], data: tuple[Arrays, Arrays]) -> Results:
    quality, evidence = evaluate_subject(images_subject(data[1].batch(torch.arange(200))[0]), MIN_IMAGES)
    report = ShapeReport(0.5, 0.25, 0.99, 0.1, 1.5, {"circle": 0.75, "line": 0.25}, 0.9)
    real = replace(report, valid=1.0, kinds={"circle": 0.5, "line": 0.5})
    return replace(quality, shapes=Shapes(report, real), label_accuracy=SampleVsReal(0.625, 0.875)), evidence


class Page(HTMLParser):
    """Parses a page into texts, pictures, links and table rows; fails if a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.pictures: list[tuple[str, np.ndarray]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.feed(html)
        assert not self.open_tags

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID_TAGS:
            self.open_tags.append(tag)
        attributes = dict(attrs)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        if tag == "img":
            kind, _, content = (attributes["src"] or "").partition(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(content))) as image:
                self.pictures.append((attributes["alt"] or "", np.asarray(image)))
                assert (str(image.width), str(image.height)) == (attributes["width"], attributes["height"])
        if tag == "tbody":
            self.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open_tags[-1:] == ["b"] or (self.open_tags[-1:] == ["td"] and len(self.rows[-1]) < 3):
            self.rows[-1].append(data)


def test_the_table_shows_the_measures_of_the_evaluation(results: Results) -> None:
    shown = Page(page(*results))
    assert shown.rows == [[row.name, row.samples, row.real] for row in measures(asdict(results[0]))]
    assert len(shown.rows) == 13
    assert "by kind" not in shown.texts  # not measured in this evaluation
    changed = Page(page(replace(results[0], fid=SampleVsReal(123.456, 7.0)), results[1]))
    assert ["FID", "123", "7"] in changed.rows
    text = " ".join(" ".join(shown.texts).split())
    for row in measures(asdict(results[0])):
        assert row.explanation in text
        assert row.blind_spot in text
    assert "256 samples compared with 256 real images of squares" in text
    assert "Sampled with ddim, 20 steps, eta 0, guidance 1, seed 0" in text
    assert results[0].features in text
    assert verdict(asdict(results[0])) in text


def test_the_pictures_show_the_images(results: Results) -> None:
    _, evidence = results
    pictures = Page(page(*results)).pictures
    assert [alt for alt, _ in pictures[:2]] == ["a grid of samples", "a grid of real images"]
    for (_, shown), images in zip(pictures, (evidence.samples, evidence.real), strict=False):
        assert np.array_equal(shown, np.asarray(grid(images[:64], 8, 2)))
    assert len(pictures) == 2 + 8
    for (_, shown), pair in zip(pictures[2:], evidence.pairs, strict=True):
        assert np.array_equal(shown, np.asarray(grid(pair, 2, 2)))


def test_the_closest_pairs_are_shown_with_their_distances(results: Results) -> None:
    captions = re.findall(r"<figcaption>(\d\.\d{3})</figcaption>", page(*results))
    expected = results[1].copies.samples.sort().values[:8].tolist()
    assert captions == [f"{distance:.3f}" for distance in expected]


def test_the_chart_of_kinds_is_shown_only_for_data_sets_of_shapes(results: Results) -> None:
    html = page(*results)
    assert html.count("<svg") == 2
    kinds = html[html.rindex("<svg") :]
    assert all(f">{kind}</text>" in kinds for kind in ("circle", "line"))
    samples, real = (re.findall(rf'class="{name}"[^>]* height="([\d.]+)"', kinds) for name in ("samples", "real"))
    assert [float(height) / float(real[0]) for height in samples + real] == pytest.approx([1.5, 0.5, 1, 1], abs=0.01)
    without = page(replace(results[0], shapes=None, label_accuracy=None), results[1])
    assert without.count("<svg") == 1
    assert "Kinds of shapes" in html
    assert "Kinds of shapes" not in without
    assert results[0].shapes is not None
    none_valid = ShapeReport(0.0, 0.0, 0.5, 0.5, None, None, None)
    no_kinds = replace(results[0], shapes=replace(results[0].shapes, samples=none_valid))
    assert page(no_kinds, results[1]).count("<svg") == 1


def test_the_page_shows_intervals_and_the_measures_of_each_kind(results: Results) -> None:
    shapes = results[0].shapes
    assert shapes is not None
    kind = KindReport(200, 0.75, 0.5, {"valid": (0.7, 0.8), "intact": (0.4, 0.6), "share": (0.7, 0.9)})
    report = replace(
        shapes.samples,
        intact=0.375,
        by_kind={"circle": kind, "line": KindReport(0, None, None, {})},
        intervals={"valid": (0.45, 0.55), "intact": (0.3, 0.4)},
    )
    quality = replace(results[0], shapes=Shapes(report, report))
    html = page(quality, results[1])
    shown = Page(html)
    assert shown.rows[:2] == [["valid", "50.0%", "50.0%"], ["intact", "37.5%", "37.5%"]]
    assert html.count("<small>45.0–55.0%</small>") == 2  # samples and real images
    cells = re.findall(r"<th scope=\"row\"><b>(?:circle|line)</b></th>(.*)</tr>", html)
    assert [re.findall(r">([^<]+)</td>", row) for row in cells] == [
        row[1:] for row in kind_rows(asdict(quality)["shapes"])
    ]
    none_valid = replace(report, valid=0.0, kinds=None, shapes=None, asked=None)
    html = page(replace(quality, shapes=Shapes(none_valid, none_valid)), results[1])
    assert "Kinds of shapes" in html
    assert html.count("<svg") == 1


def test_the_page_loads_no_other_resources(results: Results) -> None:
    html = page(*results, POINTS)
    assert "http" not in html
    assert "//" not in re.sub(r"base64,[^\"]*", "", html)
    assert "<script" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert all(link.startswith("data:image/png;base64,") for link in Page(html).links)


def test_names_are_escaped(results: Results) -> None:
    malicious = "</title><script>alert(\"1\")</script> & 'x'"
    html = page(replace(results[0], model=malicious, data=f"d{malicious}", features=f"f{malicious}"), results[1])
    assert "<script" not in html
    assert html.count(escape(malicious)) >= 4
    shown = Page(html)
    assert f"How good is {malicious}?" in shown.texts


def test_a_sweep_is_shown_if_there_is_one(results: Results) -> None:
    assert "Samplers and network calls" not in page(*results)
    html = page(*results, POINTS)
    assert np.array_equal(Page(html).pictures[-1][1], np.asarray(picture(POINTS)))
    assert all(line in html for line in table(POINTS))


def test_write_report_writes_the_page_and_a_grid_of_samples(results: Results, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    for _ in range(2):  # the second time replaces the first report
        assert write_report(folder, *results) == [folder / "index.html", folder / "grid.png"]
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "index.html"]
    assert (folder / "index.html").read_text(encoding="utf-8") == page(*results)
    with Image.open(folder / "grid.png") as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(grid(results[1].samples[:64], 8)))


def test_check_folder_rejects_a_file(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write a report to .*file: it is a file; choose a folder"):
        check_folder(tmp_path / "file")
