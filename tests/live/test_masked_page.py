"""The page in a real browser, with a real engine and a masked model. Needs Chromium and Playwright."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image, ImageSequence

import shapedreamer as sd
from shapedreamer import cli
from shapedreamer.diffusion import masked
from shapedreamer.imaging import render
from shapedreamer.imaging.editing import melt
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Sampling
from tests.watching import small_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
for module, extra in {"playwright": "dev", "websockets": "web", "starlette": "web", "uvicorn": "web"}.items():
    pytest.importorskip(module, reason=f"needs the extra '{extra}'")

from shapedreamer.live.server import Limits  # noqa: E402  these need the modules above
from tests.live.browsing import Open, expect, visiting  # noqa: E402
from tests.live.test_load import serving  # noqa: E402
from tests.live.test_page import (  # noqa: E402
    CLIPBOARD,
    choose_tool,
    copied,
    paint,
    set_slider,
    show_more_settings,
    shown_images,
    tiles,
)

RUN = "runs/masked"
LINK = f"#model={quote(RUN, safe='')}&seed=3&steps=6&creativity=40&paused=1"
GAUSSIAN = small_model(size=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run RUN, a masked model with random weights."""
    folder = tmp_path_factory.mktemp("masked")
    network, schedule, spec, labels = GAUSSIAN.network, GAUSSIAN.schedule, GAUSSIAN.spec, GAUSSIAN.labels
    sampling = Sampling("masked_ancestral", 64)
    Model(network, schedule, "x0", spec, labels, sampling, process="masked").save(folder / RUN)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return sd.load(folder / RUN, precision="float32")


@pytest.fixture(scope="module")
def server(browser: "Browser", model: Model) -> Iterator[str]:
    """The address of the page. The browser starts first, because its threads stay when the server stops."""
    with serving(Limits(), {RUN: model, "gaussian": GAUSSIAN}) as (address, _):
        yield f"http://{address}/"


@pytest.fixture
def visit(browser: "Browser", server: str) -> Iterator[Open]:
    with visiting(browser, server, LINK) as visit:
        yield visit


def images_of(page: "Page", num: int = 1) -> np.ndarray:
    """The images on the page, (num, 32, 32) uint8, which must be black and white."""
    images = shown_images(page, num, 32, 1)[..., 0]
    assert set(np.unique(images)) <= {0, 255}
    return images


def step(page: "Page", frame: int) -> None:
    page.locator("#step").click()
    expect(page.locator("#frame-number")).to_have_text(str(frame))


def options_of(page: "Page") -> list[str]:
    return page.locator("#sampler option").evaluate_all("options => options.map(option => option.value)")


def test_frames_are_black_and_white_and_equal_those_in_python(visit: Open, model: Model) -> None:
    page = visit(LINK + "&num=4&sampler=masked_random")
    options = SampleOptions("masked_random", 6, seed=3)
    sample = model.sample(4, options)
    for frame, expected in enumerate(melt(model, sample, 40, 3, 4, options)):
        if frame:
            step(page, frame)
        assert (images_of(page, 4) == render.to_uint8(expected)[..., 0]).mean() > 0.999  # rounding may flip a pixel


def test_playback(visit: Open) -> None:
    page = visit(LINK.replace("paused=1", "fps=0&steps=2"))
    expect(page.locator("#frame-number")).to_have_text(re.compile(r"^\d{2,}$"))
    images_of(page)


def test_the_page_offers_the_samplers_of_masked_models(visit: Open) -> None:
    page = visit(LINK)
    show_more_settings(page)
    assert options_of(page) == list(masked.SAMPLERS)
    first = images_of(page)
    for frame, sampler in enumerate(("masked_random", "masked_confidence", "masked_ancestral"), 1):
        page.locator("#sampler").select_option(sampler)
        step(page, frame)
        assert (images_of(page) != first).any()
        expect(page.locator("#calls")).to_have_text("6")
        expect(page.locator("#eta")).to_be_enabled(enabled=sampler == "masked_ancestral")
    set_slider(page, "#eta", 0.5)
    set_slider(page, "#steps", 9)
    step(page, 4)
    expect(page.locator("#calls")).to_have_text("9")
    assert page.locator(".wrong").all_inner_texts() == [""] * page.locator(".wrong").count()


def test_creativity_is_the_share_of_hidden_pixels(visit: Open, model: Model) -> None:
    page = visit(LINK)
    text = page.locator("#creativity-text")
    hidden = 1 - masked.visibility(model.schedule)
    for t in (0, 20, 50):
        set_slider(page, "#creativity", t)
        expect(text).to_have_text(f"t = {t} of 50 · {100 * hidden[t]:.0f}% hidden")
    set_slider(page, "#creativity", 0)
    before = images_of(page)
    step(page, 1)
    assert (images_of(page) == before).all()
    set_slider(page, "#creativity", 50)  # nothing of the previous frame stays visible
    step(page, 2)
    assert 0.2 < (images_of(page) != before).mean() < 0.8


def test_texts_speak_of_hidden_pixels_and_not_of_noise(visit: Open) -> None:
    page = visit(LINK)
    show_more_settings(page)
    page.locator("#help").click()
    for text in (page.locator("#panel").inner_text(), page.locator("#help-dialog").inner_text()):
        assert "pixels" in text
        assert "noise" not in text
    page.keyboard.press("Escape")
    expect(page.locator("[data-view=microscope]")).to_be_disabled()
    page.keyboard.press("2")
    expect(page.locator("#status-text")).to_have_text(re.compile("not this one, which reveals hidden pixels"))
    page.locator("#model").select_option("gaussian")
    page.locator("#help").click()
    for text in (page.locator("#panel").inner_text(), page.locator("#help-dialog").inner_text()):
        assert "hidden" not in text
        assert "noise" in text
    expect(page.locator("[data-view=microscope]")).to_be_enabled()


def run_copied(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Run copied Python code or a command in this folder, and read the (last) frame that it writes: (H, W, 3)."""
    monkeypatch.chdir(folder)
    if code.startswith("shapedreamer "):
        arguments = shlex.split(code)
        monkeypatch.setattr(sys, "argv", arguments)
        assert cli.main() == 0
        out = arguments[-1]
    else:
        exec(code, {})
        out = "dream.png"
    with Image.open(out) as file:
        return np.asarray([frame.convert("RGB") for frame in ImageSequence.Iterator(file)][-1])


@pytest.mark.parametrize(
    ("num", "frame", "options"),
    [
        (4, 0, "&label=none&eta=0.25"),
        (1, 3, "&sampler=masked_confidence&label=mix&label.circle=2&guidance=2"),
    ],
)
def test_copied_code_loads_the_run_and_reproduces_the_picture(
    visit: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, num: int, frame: int, options: str
) -> None:
    page = visit(f"{LINK}&num={num}&frame={frame}{options}", **CLIPBOARD)
    expect(page.locator("#frame-number")).to_have_text(str(frame))
    picture = images_of(page, num)
    for kind in ("python", "command"):
        result = tiles(run_copied(copied(page, kind), folder, monkeypatch), num, 32)
        assert (result == picture[..., None]).mean() > 0.999  # rounding may flip a pixel


def test_code_from_a_picture_continues_as_the_page_does(
    visit: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(f"{LINK}&label=none", **CLIPBOARD)
    step(page, 1)
    set_slider(page, "#creativity", 30)
    page.wait_for_url(re.compile("image="))
    command = copied(page, "command").replace("--frames 60", "--frames 2")
    with page.expect_download() as download:
        page.locator("#share-picture").click()
    download.value.save_as(folder / download.value.suggested_filename)
    again = visit("#" + urlsplit(copied(page, "link")).fragment)
    step(again, 1)
    result = tiles(run_copied(command, folder, monkeypatch), 1, 32)
    assert (result == images_of(again)[..., None]).mean() > 0.999


def test_drawings_are_black_and_white(visit: Open) -> None:
    page = visit(LINK + "&view=draw")
    colours = page.locator("[name=colour]")
    assert colours.evaluate_all("inputs => inputs.map(input => input.value)") == ["#000000", "#ffffff"]
    paint(page, (2, 3), (20, 3))
    drawn = images_of(page)
    assert (drawn[0, 3, 2:21] == 255).all()
    choose_tool(page, "mask")
    set_slider(page, "#brush", 8)
    paint(page, (16, 20))  # the brush covers 3 pixels before this one, and 4 after it
    page.locator("#repaint").click()
    expect(page.locator("#frame-number")).to_have_text("1")
    repainted = images_of(page)
    rows, columns = np.nonzero((repainted != drawn)[0])
    assert 17 <= rows.min() <= rows.max() <= 24
    assert 13 <= columns.min() <= columns.max() <= 20
    page.locator("#model").select_option("gaussian")
    expect(colours).to_have_count(5)


def test_a_phone_reports_a_foreign_sampler_and_scrolls_only_vertically(visit: Open) -> None:
    page = visit(LINK + "&num=16&sampler=ddim", 360, 740, has_touch=True, is_mobile=True, device_scale_factor=2)
    expect(page.locator("#status-text")).to_have_text(
        "sampler must be one of masked_ancestral, masked_random, masked_confidence, not ddim"
    )
    page.locator("#problems-close").click()  # on a phone, the list covers the settings
    show_more_settings(page)
    for view in ("dream", "draw"):
        page.locator(f"nav [data-view={view}]").click()
        assert page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]") == [360, 360], view
