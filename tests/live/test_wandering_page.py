"""Drift, renewed dreams, the list of models and the dreaming icon, in a real browser with the fake engine."""

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from shapedreamer.imaging import render
from shapedreamer.imaging.editing import drift_frame, melt
from shapedreamer.models.options import SampleOptions

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow
for module, extra in {"playwright": "dev", "websockets": "web"}.items():
    pytest.importorskip(module, reason=f"needs the extra '{extra}'")

from tests.live.browsing import Open, expect  # noqa: E402  these need the modules above
from tests.live.fake_engine import FakeEngine  # noqa: E402  these need the modules above
from tests.live.test_page import (  # noqa: E402
    CLIPBOARD,
    copied,
    set_slider,
    settings,
    show_more_settings,
    shown_images,
)

OPTIONS = SampleOptions("ddim", 4, 1.0, 7)
LINK = "#model=sprites&seed=7&num=4&sampler=ddim&steps=4&eta=1&creativity=300&label=any&fps=12&paused=1"
ICON = "document.querySelector('link[rel=icon]').href"


def show_frame(page: "Page", number: int) -> np.ndarray:
    expect(page.locator("#frame-number")).to_have_text(str(number))
    return shown_images(page, 4)


def test_a_drift_starts_at_any_frame_and_python_makes_the_same_picture(visit: Open, engine: FakeEngine) -> None:
    model = engine.models["sprites"]
    page = visit(LINK + "&motion=drift&every=60&frame=777", **CLIPBOARD)
    expected = render.to_uint8(drift_frame(model, 777, 4, OPTIONS, every=60))
    assert (show_frame(page, 777) == expected).all()
    assert [message["type"] for message in engine.messages] == ["set", "pause"]  # no frame before it was made
    code = copied(page, "python")
    assert "drift_frame(model, 777, num=4, options=options, every=60)" in code
    page.keyboard.press("Escape")
    page.locator("#step").click()
    assert (show_frame(page, 778) == render.to_uint8(drift_frame(model, 778, 4, OPTIONS, every=60))).all()
    show_more_settings(page)
    set_slider(page, "#guidance", 1.5)  # a frame of a drift depends on nothing before it
    page.locator("#step").click()
    show_frame(page, 779)
    page.wait_for_url(re.compile("motion=drift.*frame=779"))
    assert "image=" not in page.url


def test_old_links_melt_without_renewal_and_new_ones_are_renewed(visit: Open, engine: FakeEngine) -> None:
    model = engine.models["sprites"]
    sample = model.sample(4, OPTIONS)
    old = visit(LINK + "&frame=4")
    assert (show_frame(old, 4) == render.to_uint8(melt(model, sample, 300, 5, 4, OPTIONS)[4])).all()
    sent = settings(engine.messages[0])
    assert (sent["motion"], sent["every"], sent["fps"]) == ("melt", 0, 12)
    new = visit(LINK + "&motion=melt&every=3&frame=4")
    assert (show_frame(new, 4) == render.to_uint8(melt(model, sample, 300, 5, 4, OPTIONS, every=3)[4])).all()


def test_the_controls_of_motion(visit: Open, engine: FakeEngine) -> None:
    page = visit(LINK + "&motion=melt&every=16")
    drift, melting = (page.locator(f"input[name=motion][value={name}]") for name in ("drift", "melt"))
    expect(page.locator("#creativity")).to_be_visible()
    expect(page.locator("#every-text")).to_have_text("every 16 frames")
    drift.check(force=True)
    sent = settings(engine.wait(lambda message: settings(message).get("motion") == "drift"))
    assert (sent["every"], sent["fps"]) == (60, 30)
    expect(page.locator("#creativity")).to_be_hidden()
    set_slider(page, "#every", 0)
    engine.wait(lambda message: settings(message).get("every") == 0)
    expect(page.locator("#every-text")).to_have_text("never")
    melting.check(force=True)
    engine.wait(lambda message: (settings(message).get("motion"), settings(message).get("every")) == ("melt", 16))
    page.locator("#model").select_option("mnist")  # a few-step model
    sent = settings(engine.wait(lambda message: settings(message).get("model") == "mnist"))
    assert (sent["motion"], sent["every"], sent["fps"]) == ("drift", 60, 30)


def test_models_are_grouped_and_show_samples(visit: Open, engine: FakeEngine) -> None:
    page = visit(LINK)
    groups: Any = page.locator("#model optgroup").evaluate_all(
        "groups => groups.map(group => [group.label.split(':')[0], [...group.children].map(option => option.value)])"
    )
    assert dict(groups)["Few-step models"] == ["mnist"]
    assert "sprites" in dict(groups)["Models"]
    thumbnail = page.locator("#thumbnail")
    expect(thumbnail).to_have_attribute("alt", "four samples of sprites")
    assert thumbnail.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [64, 16]


def test_the_icon_dreams_unless_the_viewer_prefers_less_motion(visit: Open) -> None:
    page = visit(LINK.replace("paused=1", "motion=melt"))
    page.wait_for_function(f"() => {ICON}.startsWith('data:image/png')")
    first = page.evaluate(ICON)
    page.wait_for_function(f"first => {ICON} !== first", arg=first)
    still = visit(LINK, reduced_motion="reduce")
    assert still.evaluate(ICON).endswith("icon.svg")
