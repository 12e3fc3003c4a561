"""The page's flow in a real browser: waits, history, reconnecting, links, small screens, explanations, the tour."""

import re
import unicodedata
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from shapedreamer.labs.source import read_labs

pytestmark = pytest.mark.slow
pytest.importorskip("websockets", reason="needs the extra 'web'")
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from tests.live.browsing import PHONE, SPRITES, Open, expect, hold, unexplained  # noqa: E402  these need the modules above
from tests.live.fake_engine import FakeEngine  # noqa: E402  it needs websockets
from tests.live.test_page import (  # noqa: E402
    choose_tool,
    paint,
    set_slider,
    settings,
    show_more_settings,
    shown_images,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

NUM_SCENES = 8
LENSES = ("schedule", "training", "race")


def hash_of(page: "Page") -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).fragment)


# waits


def test_every_wait_shows_itself(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    stage, wait = page.locator("#stage"), page.locator("#stage .waiting")
    expect(stage).to_have_attribute("aria-busy", "false")

    def check(text: str) -> None:
        expect(wait).to_contain_text(text)
        expect(stage).to_have_attribute("aria-busy", "true")
        expect(page.locator("#status-text")).to_have_text(text)
        engine.ready.set()
        expect(stage).to_have_attribute("aria-busy", "false")
        expect(wait).to_be_hidden()

    show_more_settings(page)
    engine.ready.clear()
    page.locator("#model").select_option("mnist")
    check("waiting for the first picture of mnist")
    engine.ready.clear()
    page.locator("input[name=num][value='16']").check(force=True)
    check("waiting for the first picture of mnist")
    engine.ready.clear()
    page.locator("#step").click()
    check("generating the next frame")
    page.locator("[data-view=draw]").click()
    choose_tool(page, "mask")
    paint(page, (8, 8), (12, 8))
    engine.ready.clear()
    page.locator("#repaint").click()
    check("repainting the masked area")


def test_a_download_has_a_progress_bar(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    engine.ready.clear()
    page.locator("#randomize").click()
    engine.send(type="progress", message="loading the model sprites", loaded=3_100_000, total=12_400_000)
    expect(page.locator("#stage .waiting")).to_have_text("loading the model sprites3.1 of 12.4 MB")
    expect(page.locator("#stage progress")).to_have_attribute("value", "0.25")
    expect(page.locator("#status-text")).to_have_text("loading the model sprites")
    engine.send(type="progress", message="loading the model sprites", loaded=3_200_000, total=0)
    expect(page.locator("#stage .waiting .detail")).to_have_text("3.2 MB")
    assert page.locator("#stage progress").get_attribute("value") is None
    engine.ready.set()
    expect(page.locator("#stage .waiting")).to_be_hidden()


def test_a_slow_engine_samples_only_the_first_and_the_latest_trace(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&seed=7&motion=melt&every=0&steps=6&frame=1&paused=1&view=microscope")
    expect(page.locator("#scrub-text")).to_have_text("step 3 of 6")
    engine.ready.clear()
    page.get_by_role("button", name="Next frame").last.click()  # which takes the engine long
    for sampler in ("heun", "midpoint", "ddpm"):
        page.locator("#looks select").first.select_option(sampler)
        page.wait_for_url(re.compile(f"look={sampler}"))  # written after the trace is requested
    engine.ready.set()
    expect(page.locator(".equation", has_text="β")).to_have_count(1)
    expect(page.locator("#microscope")).to_have_attribute("aria-busy", "false")
    samplers = [message["sampler"] for message in engine.messages if message["type"] == "trace"]
    assert "heun" in samplers
    assert "midpoint" not in samplers
    assert samplers[-1] == "ddpm"


# history and connections


def test_back_and_forward_walk_the_views(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    shown = page.locator("nav [aria-current=true]")
    page.locator("nav [data-view=microscope]").click()
    expect(page.locator("#scrub-text")).to_have_text(re.compile(r"of [1-9]\d*$"))
    set_slider(page, "#scrub", 4)
    page.wait_for_url(re.compile("step=4"))
    page.keyboard.press("3")
    page.locator("#randomize").click()  # a setting adds no entry
    expect(page.locator("#drawing")).to_be_visible()
    seed = settings(engine.wait(lambda message: settings(message).get("seed", "7") != "7"))["seed"]
    page.go_back()
    expect(shown).to_have_text("Microscope")
    expect(page.locator("#scrub-text")).to_have_text(re.compile("^step 5 of"))
    page.go_back()
    expect(shown).to_have_text("Dream")
    page.go_forward()
    expect(shown).to_have_text("Microscope")
    page.go_forward()
    expect(shown).to_have_text("Draw")
    assert page.locator("#seed").input_value() == seed  # the views are of one dream
    page.wait_for_url(re.compile(f"seed={seed}.*view=draw"))  # written a moment later
    page.evaluate("() => { location.hash = '#model=mnist&seed=3&paused=1' }")
    expect(page.locator("#model")).to_have_value("mnist")
    page.go_back()  # to the dream before the link
    expect(page.locator("#model")).to_have_value("sprites")
    expect(page.locator("#seed")).to_have_value(seed)
    expect(shown).to_have_text("Draw")


def test_back_restores_another_visit_as_it_was_left(visit: Open) -> None:
    page = visit()
    shown, seed = page.locator("nav [aria-current=true]"), page.locator("#seed")
    page.locator("nav [data-view=microscope]").click()
    page.wait_for_url(re.compile("view=microscope"))
    page.locator("#seed").evaluate("seed => { seed.value = '9'; seed.dispatchEvent(new Event('change')) }")
    page.evaluate("() => { location.hash = '#model=mnist&seed=3&paused=1' }")  # before the URL shows the new seed
    expect(page.locator("#model")).to_have_value("mnist")
    page.evaluate("() => history.go(-2)")  # to an entry whose URL shows the first seed
    expect(page.locator("#model")).to_have_value("sprites")
    expect(seed).to_have_value("9")
    expect(shown).to_have_text("Dream")
    page.wait_for_url(re.compile("seed=9"))
    page.go_forward()
    expect(shown).to_have_text("Microscope")
    expect(seed).to_have_value("9")
    page.go_forward()
    expect(page.locator("#model")).to_have_value("mnist")
    page.go_back()
    expect(shown).to_have_text("Microscope")
    page.go_back()
    expect(shown).to_have_text("Dream")
    expect(seed).to_have_value("9")
    page.reload()
    page.wait_for_url(re.compile("seed=9"))
    show_more_settings(page)
    seed.fill("11")
    seed.press("Enter")
    page.go_forward()  # a reload does not separate the views of a dream
    expect(shown).to_have_text("Microscope")
    expect(seed).to_have_value("11")


def test_reconnecting_resumes_the_dream_where_it_was(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&seed=11&fps=30")
    number = page.locator("#frame-number")
    expect(number).to_have_text(re.compile(r"^\d{2}$"))
    engine.stop()
    expect(page.locator("#status-text")).to_have_text(re.compile("^connection lost"))
    before = int(number.inner_text())
    page.evaluate(
        "() => { window.numbers = []; new MutationObserver(() => numbers.push("
        "Number(document.getElementById('frame-number').textContent)))"
        ".observe(document.getElementById('frame-number'), { childList: true, characterData: true, subtree: true }) }"
    )
    since = len(engine.messages)
    engine.start()
    engine.wait(lambda message: message["type"] == "play", since)
    expect(page.locator("#status-text")).to_have_text("dreaming on the server")
    page.locator("#play").click()
    numbers = page.evaluate("() => numbers")
    assert numbers
    assert min(numbers) >= before  # no earlier frame is shown again
    page.wait_for_url(re.compile("frame="))
    assert "image" not in hash_of(page)  # still a frame of the seed


def test_the_number_of_viewers_is_live(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    expect(page.locator("#engine-text")).to_have_text("0.1.0 · 1 viewer")
    engine.send(type="viewers", viewers=3)
    expect(page.locator("#engine-text")).to_have_text("0.1.0 · 3 viewers")


def test_with_reduced_motion_a_link_starts_paused(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2", reduced_motion="reduce")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")
    assert not any(message["type"] == "play" for message in engine.messages)


# links and errors


def test_the_link_to_many_pictures_is_short(visit: Open) -> None:
    page = visit(SPRITES + "&num=16&frame=1")
    expect(page.locator("#frame-number")).to_have_text("1")
    set_slider(page, "#creativity", 100)
    page.wait_for_url(re.compile("image="))
    exact = shown_images(page, 16).astype(int)
    page.locator("#share").click()
    expect(page.locator("#share-text")).to_contain_text("image=")
    link = page.locator("#share-text").inner_text()
    bits = int(parse_qs(urlsplit(link).fragment)["bits"][0])
    note = page.locator("#share-note").inner_text()
    assert f"with {2**bits} shades per colour" in note
    assert ("still long" in note) == (len(link) > 4500)
    assert len(link) < 6500  # exactly, 16 sprites take 12,000
    again = visit("#" + urlsplit(link).fragment)
    assert np.abs(shown_images(again, 16) - exact).max() <= 255 / (2**bits - 1) / 2 + 1


def test_a_long_list_of_errors_stays_until_it_is_closed(visit: Open) -> None:
    page = visit("#model=dragons&steps=99&seed=-4&creativity=9999&paused=1", 390, 844, **PHONE)
    expect(page.locator("#problems-list li")).to_have_text(
        [re.compile("unknown model dragons"), re.compile("^seed"), re.compile("^steps"), re.compile("^creativity")]
    )
    expect(page.locator("#problems-title")).to_have_text("4 problems")
    page.locator("#problems-close").click()
    expect(page.locator("#problems")).to_be_hidden()


def test_a_long_error_of_the_engine_is_shown_completely(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES, 390, 844, **PHONE)
    engine.send(type="error", id=None, message="out of memory")
    expect(page.locator("#status-text")).to_have_text("out of memory")
    expect(page.locator("#problems")).to_be_hidden()
    engine.send(type="error", id=None, message="a long error " * 20)
    expect(page.locator("#problems-list")).to_contain_text("a long error " * 19)


# small screens


def obscured(page: "Page") -> list[str]:
    """The controls that something else covers when they have the focus."""
    found: list[str] = page.evaluate(
        "() => [...document.querySelectorAll('button, select, summary, a')]"
        ".filter((one) => one.checkVisibility() && !one.disabled)"
        ".filter((one) => { one.focus();"
        "const { x, y, width, height } = one.getBoundingClientRect();"
        "const found = document.elementFromPoint(x + width / 2, y + height / 2);"
        "return one !== found && !one.contains(found) })"
        ".map((one) => one.id || one.textContent || one.title)"
    )
    return found


@pytest.mark.parametrize(("width", "height"), [(844, 390), (320, 640), (640, 400)])  # the last: 1280x800 at 200% zoom
def test_small_screens(visit: Open, width: int, height: int) -> None:
    page = visit(SPRITES + "&num=16&tour=1", width, height, **(PHONE if width != 640 else {}))
    show_more_settings(page)
    scene = page.locator("#tour-question")
    for view in ("dream", "microscope", "draw", *LENSES):
        show_view(page, view)
        assert page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]") == [width, width], view
        is_lens = view in ("microscope", *LENSES)
        if view != "dream":  # the panel of a new view begins at its top, and a lens stands below the scene
            assert page.locator("#panel").evaluate("panel => panel.scrollTop") == 0, view
            if width > height or is_lens:
                expect(scene).to_be_in_viewport()
        assert obscured(page) == [], view
        panel = box(page.locator("#panel"))
        picture = box(page.locator("#lenses" if is_lens else "#canvas"))
        if width > height:  # beside the controls, and all of it visible
            assert picture["x"] + picture["width"] <= panel["x"], view
            assert picture["y"] + picture["height"] <= height, view
            assert panel["y"] + panel["height"] <= height, view
        elif not is_lens:
            assert picture["height"] >= 0.3 * height
    assert "went wrong" not in page.locator("#status-text").inner_text()


def show_view(page: "Page", view: str) -> None:
    """Open a view or a lens, and wait until it is complete."""
    if view in LENSES:
        page.locator("nav [data-view=microscope]").click()
        page.locator(f"input[name=lens][value={view}]").check(force=True)
        expect(page.locator(f"#{view}")).not_to_have_attribute("aria-busy", "true")
    else:
        page.locator(f"nav [data-view={view}]").click()
        if view == "microscope":
            page.locator("input[name=lens][value=microscope]").check(force=True)
            expect(page.locator("#scrub-text")).to_have_text(re.compile(r"of [1-9]\d*$"))


def test_a_wait_of_a_long_lens_is_on_the_screen(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=race&calls=2", 390, 844, **PHONE)
    expect(page.locator("#race")).to_have_attribute("aria-busy", "false")
    assert box(page.locator("#lenses"))["height"] > 844
    engine.send(type="progress", message="loading the model sprites", loaded=1, total=4)
    expect(page.locator("#lenses .waiting")).to_be_in_viewport(ratio=1)
    waiting, scrubber = box(page.locator("#lenses .waiting")), box(page.locator("#race .scrubber"))
    assert waiting["y"] + waiting["height"] <= scrubber["y"]


def test_large_numbers_of_a_slow_machine_fit_on_a_small_screen(visit: Open) -> None:
    page = visit(SPRITES, 320, 640, **PHONE)
    expect(page.locator("#ms")).to_have_text(re.compile(r"^(\d{1,3}\.\d|\d{4,})$"))
    for name, text in (("frame-number", "12\u202f345"), ("ms", "12345"), ("calls", "100"), ("rate", "60")):
        page.locator(f"#{name}").evaluate("(output, text) => { output.value = text }", text)
    assert page.evaluate("() => document.documentElement.scrollWidth") == 320


def test_a_term_in_a_sentence_is_as_wide_as_its_text(visit: Open) -> None:
    page = visit(SPRITES + "&view=race&calls=2")
    term = page.locator(".explanation .explain", has_text="FID")
    sizes = "term => { const text = document.createRange(); text.selectNodeContents(term);"
    widths = term.evaluate(sizes + "return [term, text].map((part) => part.getBoundingClientRect().width) }")
    assert abs(widths[0] - widths[1]) < 1


def test_sliders_beside_the_picture_are_long_enough(visit: Open) -> None:
    page = visit("#model=sprites&seed=7&motion=melt&every=0&steps=6&frame=1&paused=1", 640, 400)
    show_more_settings(page)
    for view in ("dream", "microscope"):
        show_view(page, view)
        for slider in page.locator("input[type=range]:visible").all():
            assert box(slider)["width"] > 80, (view, slider.get_attribute("id"))


@pytest.mark.parametrize("frame", [0, 1])  # a sample, and a frame with a slider for its noise
@pytest.mark.parametrize("width", [320, 390])
def test_the_next_frame_of_the_microscope_has_no_row_of_its_own(visit: Open, width: int, frame: int) -> None:
    link = f"#model=sprites&seed=7&motion=melt&every=0&steps=6&frame={frame}&paused=1&view=microscope"
    page = visit(link, width, 844, **PHONE)
    expect(page.locator("#scrub-text")).to_have_text("step 3 of 6")
    button, switch = box(page.get_by_role("button", name="Next frame").last), box(page.locator("#microscope .switch"))
    assert button["y"] <= switch["y"] + switch["height"] / 2 <= button["y"] + button["height"]
    assert switch["x"] + switch["width"] <= button["x"]
    assert button["x"] + button["width"] <= width


def test_the_race_keeps_the_places_of_its_pictures(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES, 390, 844, **PHONE)
    engine.ready.clear()
    page.locator("nav [data-view=microscope]").click()
    page.locator("input[name=lens][value=race]").check(force=True)
    expect(page.locator("#race .pending")).to_have_count(4)
    canvases = page.locator("#race .lanes canvas")
    places = [box(canvas) for canvas in canvases.all()]
    assert places[0]["y"] == places[1]["y"] < places[2]["y"]
    engine.ready.set()
    expect(page.locator("#race .pending")).to_have_count(0)
    assert [box(canvas) for canvas in canvases.all()] == places


def test_captions_of_many_pictures_do_not_overlap(visit: Open) -> None:
    for width, height in ((1280, 800), (320, 640)):
        page = visit(SPRITES + "&view=microscope&look=dpmpp_2m-6-0.5+ddpm-6-0&step=2", width, height)
        expect(page.locator(".look.traced")).to_have_count(2)
        fits = "captions => captions.every((caption) => caption.scrollWidth <= caption.clientWidth)"
        assert page.locator(".figures figcaption").evaluate_all(fits)
        assert all(box(canvas)["width"] >= 32 for canvas in page.locator(".figures canvas").all())
        assert "went wrong" not in page.locator("#status-text").inner_text()  # such as a ResizeObserver loop


def box(locator: "Locator") -> Any:
    found = locator.bounding_box()
    assert found
    return found


# explanations


def test_every_control_and_symbol_is_explained(visit: Open) -> None:
    page = visit()
    show_more_settings(page)
    tip = page.locator("#explanation-tip")
    controls = "creativity model labels-title num-title fps scale seed sampler steps eta guidance".split()
    for name in controls:
        term = page.locator(f"button.explain#term-{name}, button.explain#{name}")
        term.focus()
        expect(tip).to_be_visible()
        assert len(tip.inner_text()) > 30, name
        assert term.get_attribute("aria-describedby") == "explanation-tip"
        page.keyboard.press("Escape")
        expect(tip).to_be_hidden()
        term.hover()
        expect(tip).to_be_visible()
        page.mouse.move(5, 5)
        expect(tip).to_be_hidden()
    for name, text in (
        ("model", "predicts the clean picture"),
        ("sampler", "DDIM jumps"),
        ("eta", "DDIM becomes DDPM"),
    ):
        page.locator(f"#term-{name}").focus()
        expect(tip).to_contain_text(text)
    page.locator("#term-steps").focus()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Lab 4: Fast sampling"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "steps"
    expect(tip).to_be_hidden()
    page.locator("nav [data-view=microscope]").click()
    expect(page.locator("#scrub-text")).to_have_text(re.compile(r"of [1-9]\d*$"))
    symbols = page.locator("#microscope .look").first.locator(".explain")
    assert symbols.count() >= 9
    for symbol in symbols.all():
        symbol.hover()
        expect(tip).to_be_visible()
        page.mouse.move(5, 5)
        expect(tip).to_be_hidden()


def test_no_control_is_without_an_explanation(visit: Open) -> None:
    page = visit("#model=sprites&seed=7&motion=melt&every=0&steps=6&frame=1&paused=1&tour=1")
    show_more_settings(page)
    for view in ("dream", "draw", "microscope", *LENSES):
        show_view(page, view)
        assert unexplained(page) == [], view
    show_view(page, "microscope")
    name, slider = box(page.locator("#term-depth")), box(page.locator("#depth"))
    assert name["x"] + name["width"] <= slider["x"]
    page.locator("#beside").check()
    symbols = page.locator(".figures figcaption b, .facts dt, #schedule b")
    assert symbols.count() == symbols.locator(".explain").count()
    show_view(page, "draw")
    choose_tool(page, "mask")
    assert unexplained(page) == []
    for opener, dialog in (("#share", "#share-dialog"), ("#help", "#help-dialog")):
        page.locator(opener).click()
        expect(page.locator(dialog)).to_be_visible()
        assert unexplained(page) == [], dialog
        page.keyboard.press("Escape")
    page.evaluate("() => document.querySelector('#more > div').append(document.createElement('select'))")
    assert unexplained(page) == ["<select></select>"]


def letters(text: str) -> set[str]:
    """The letters of a formula, with the accents that change their meaning."""
    decomposed = unicodedata.normalize("NFD", text)
    return {found for found in re.findall(r"\w[\u0300-\u036f]*", decomposed) if found[0].isalpha()}


def test_every_letter_of_an_equation_is_explained(visit: Open) -> None:
    page = visit("#model=sprites&seed=7&motion=melt&every=0&steps=6&eta=1&frame=1&paused=1&view=microscope")
    expect(page.locator("#scrub-text")).to_have_text("step 3 of 6")
    tip, parts = page.locator("#explanation-tip"), page.locator(".look").first.locator(".equation button")
    found = set()
    for sampler, its_own in {
        "ddim": "σ",
        "ddpm": "β",
        "heun": "φ",
        "dpmpp_2m": "r",
        "midpoint": "τ",
        "heun_line": "c",
    }.items():
        page.locator("#looks select").first.select_option(sampler)
        expect(parts.filter(has_text=its_own)).not_to_have_count(0)
        for part in parts.all():
            part.focus()
            formula = part.locator(".math").inner_text()
            known = [line.split(":")[0] for line in tip.inner_text().splitlines()]
            assert letters(formula) <= letters("".join(known)), (sampler, formula)
            found |= letters(formula)
    assert len(found) >= 15
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()


def test_a_title_opens_when_a_finger_holds_the_control_or_the_keyboard_focuses_it(
    visit: Open, engine: FakeEngine
) -> None:
    page = visit(SPRITES + "&view=draw", 390, 844, **PHONE)
    tip, seed = page.locator("#explanation-tip"), page.locator("#seed").input_value()
    hold(page, page.locator("#randomize"))
    expect(tip).to_have_text(re.compile("New random seed"))
    assert page.locator("#seed").input_value() == seed  # the button was held, not pressed
    page.locator("h1").tap()
    expect(tip).to_be_hidden()
    hold(page, page.locator("input[name=tool][value=mask]"))
    expect(tip).to_have_text(re.compile("Mark an area to repaint"))
    page.locator("input[name=tool][value=mask]").tap()
    expect(page.locator("input[name=tool][value=mask]")).to_be_checked()
    expect(tip).to_be_hidden()
    page.locator("#term-brush").tap()
    expect(tip).to_contain_text("Width of a stroke")
    page.locator("#share").tap()
    hold(page, page.locator("input[name=share][value=python]"))
    expect(tip).to_have_text(re.compile("Python code"))
    tip.click()  # the dialog does not cover it
    page.keyboard.press("Escape")
    expect(page.locator("#share-dialog")).to_be_hidden()

    page = visit()
    page.locator("#restart").focus()
    page.keyboard.press("Tab")
    expect(page.locator("#explanation-tip")).to_have_text(re.compile("Play or pause"))
    page.keyboard.press("Tab")
    expect(page.locator("#explanation-tip")).to_have_text(re.compile("Next frame"))
    page.keyboard.press("Escape")
    expect(page.locator("#explanation-tip")).to_be_hidden()


def test_an_explanation_opens_with_a_tap_and_links_to_its_lab(visit: Open) -> None:
    page = visit(SPRITES, 390, 844, **PHONE)
    show_more_settings(page)
    page.locator("#term-guidance").tap()
    tip = page.locator("#explanation-tip")
    expect(tip).to_contain_text("above 1 exaggerates it")
    where = box(tip)
    assert 0 <= where["x"] < where["x"] + where["width"] <= 390
    with page.context.expect_page() as opened:
        tip.locator("a").tap()
    expect(opened.value.locator("#lab3 code")).to_have_text("shapedreamer labs lab3")
    titles = opened.value.locator("#labs h2").all_inner_texts()
    back = opened.value.get_by_role("link", name="Back to the live page")
    assert back.evaluate("link => link.href") == page.url.split("#")[0]
    labs = read_labs()
    assert len(titles) == len(labs)
    assert [title.split(".")[0] for title in titles] == [f"Lab {number}" for number in range(len(labs))]
    page.locator("#counter .explain").first.tap()
    expect(tip).to_contain_text("number of this frame")
    page.locator("h1").tap()
    expect(tip).to_be_hidden()


# the tour


def test_the_tour(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    page.locator("#tour-invitation a").click()
    for scene in range(1, NUM_SCENES + 1):
        expect(page.locator("#tour")).to_contain_text(f"scene {scene} of {NUM_SCENES}")
        expect(page.locator("#tour-choices button")).to_have_count(3)
        expect(page.locator("#tour-result")).to_have_text("")
        page.locator("#tour-choices button").nth(scene % 3).click()
        expect(page.locator("#tour-result")).to_contain_text("Vary it.")
        expect(page.locator("#tour-choices .right")).to_have_count(1)
        page.wait_for_url(re.compile(rf"tour={scene}\.{scene % 3 + 1}"))
        if scene < NUM_SCENES:
            page.get_by_text("Next scene").click()
            expect(page.locator("#tour-title")).to_be_focused()
    expect(page.get_by_text("Next scene")).to_have_count(0)
    page.go_back()
    expect(page.locator("#tour")).to_contain_text("scene 7 of 8")
    expect(page.locator("#tour-result")).to_contain_text("Vary it.")  # the guess is in the URL
    assert hash_of(page)["label.food"] == ["1"]
    page.get_by_text("End the tour").click()
    expect(page.locator("#tour")).to_be_hidden()
    page.wait_for_url(lambda url: "tour" not in url)


def test_scenes_without_their_model_say_so(visit: Open) -> None:
    page = visit("#tour=5")  # the engine has no sprites-turbo
    expect(page.locator("#tour .hint")).to_contain_text("does not offer the model sprites-turbo")
