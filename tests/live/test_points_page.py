"""The view Points in a real browser, in the files of a static site. Needs Chromium and Playwright."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from shapedreamer.live import site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
pytest.importorskip("playwright.sync_api", reason="needs playwright")

from tests.live.browsing import PHONE, Open, expect, hold, hosting, unexplained, visiting  # noqa: E402  it needs playwright

STILL = "#data=ring&train=0&t=0&plots=exact-ddim-5+network-ddim-5"  # an untrained network, and no animation


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page points.html on a static host, under a path."""
    folder = tmp_path_factory.mktemp("host")
    for name, content in site._page_files().items():
        path = folder / "a path" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with hosting(folder) as host:
        yield f"{host}a%20path/points.html"


@pytest.fixture
def visit(browser: "Browser", address: str) -> Iterator[Open]:
    def is_ready(page: "Page") -> None:
        expect(page.locator("#status-text")).not_to_have_text("loading…")

    with visiting(browser, address, STILL, ready=is_ready) as visit:
        yield visit


def picture(page: "Page", index: int = 0) -> str:
    """The content of a plot, as the URL of a PNG."""
    content: str = page.locator(".plot canvas").nth(index).evaluate("canvas => canvas.toDataURL()")
    return content


def distance(page: "Page", index: int) -> float:
    """The energy distance below a plot."""
    text = page.locator(".plot figcaption output").nth(index)
    expect(text).to_have_text(re.compile(r"^\d"))
    return float(text.inner_text())


def state(page: "Page", **expected: str) -> dict[str, str]:
    """The state in the URL, once it contains these values."""
    for key, value in expected.items():
        page.wait_for_function(
            "([key, value]) => new URLSearchParams(location.hash.slice(1)).get(key) === value", arg=[key, value]
        )
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).fragment).items()}


def test_the_network_learns_the_data_while_the_samples_change(visit: Open) -> None:
    page = visit()
    untrained, exact = distance(page, 1), distance(page, 0)
    assert exact < 0.3 * untrained
    before = picture(page, 1)
    page.locator("#train").click()
    expect(page.locator("#train")).to_have_text("Pause")
    page.wait_for_function("() => Number(document.querySelector('#step-text').value.replace(/\\D/g, '')) >= 150")
    page.locator("#train").click()
    expect(page.locator("#train")).to_have_text("Train on")
    page.wait_for_function(
        f"() => Number(document.querySelectorAll('.plot figcaption output')[1].value) < {0.8 * untrained}"
    )
    assert picture(page, 1) != before
    loss, floor = (float(page.locator(f"#{name}-text").inner_text()) for name in ("loss", "exact"))
    assert floor < loss
    expect(page.locator("#status-text")).to_have_text(re.compile("^trained for"))
    steps = re.sub(r"\D", "", page.locator("#step-text").inner_text())
    assert int(steps) >= 150
    assert state(page, train=steps)  # the link trains as far

    page.locator("#reset").click()
    page.wait_for_function("() => Number(document.querySelector('#step-text').value.replace(/\\D/g, '')) < 100")


def test_every_control_changes_the_plots_and_the_url(visit: Open) -> None:
    page = visit()
    distance(page, 0)
    last = picture(page)

    def changed() -> None:
        nonlocal last
        previous, last = last, picture(page)
        assert previous != last

    page.locator("#time").fill("400")
    state(page, t="600")  # written after the plots
    changed()
    expect(page.locator("#time-text")).to_have_text("t = 600 · 66% noise")
    for layer in ("paths", "density", "score", "data"):
        page.locator(f"[name=layer][value={layer}]").click()
        page.wait_for_function("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        changed()
    assert state(page, show="score")
    for name in ("spiral", "gaussians", "checkers", "smiley", "letters", "moons"):
        page.locator(f"[name=data][value={name}]").click()
        state(page, data=name)
    page.locator("[name=schedule][value=linear]").click()
    page.locator("[name=prediction][value=eps]").click()
    state(page, schedule="linear", prediction="eps")
    page.locator("[name=schedule][value=flow]").click()  # where ε does not determine x₀
    state(page, schedule="flow", prediction="v")
    expect(page.locator("[name=prediction][value=eps]")).to_be_disabled()
    page.locator("#blur").fill("0.2")
    page.locator("[name=count][value='4']").click()
    page.get_by_label("Denoiser of plot 1").select_option("network")
    page.get_by_label("Sampler of plot 2").select_option("midpoint")
    page.get_by_label("Calls of plot 2").fill("33")
    page.locator("#noise").click()
    found = state(page, plots="network-ddim-5 network-midpoint-33 exact-ddpm-20 exact-heun-20", blur="0.2")
    assert found["seed"] != "1"
    distance(page, 3)

    again = visit("#" + urlsplit(page.url).fragment)
    distance(again, 3)
    assert [distance(again, i) for i in range(4)] == [distance(page, i) for i in range(4)]
    for name in ("data", "schedule", "prediction", "count"):
        chosen = f"[...document.getElementsByName('{name}')].find((radio) => radio.checked).value"
        assert again.evaluate(chosen) == page.evaluate(chosen)


def test_points_are_drawn_by_mouse_and_by_keyboard_and_erased(visit: Open) -> None:
    page = visit("#data=drawn&train=0&t=0")
    canvas = page.locator(".plot canvas").first
    expect(page.locator("#data-hint")).to_have_text(re.compile("^Draw: 0 of 320 points"))
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 200, box["y"] + 100, steps=10)
    page.mouse.up()
    expect(page.locator("#data-hint")).to_have_text(re.compile("^Draw: [1-9]"))
    distance(page, 0)
    page.wait_for_function("() => new URLSearchParams(location.hash.slice(1)).has('points')")  # written a moment later

    page.locator("#clear").click()
    expect(page.locator("#data-hint")).to_have_text(re.compile("^Draw: 0 of"))
    canvas.focus()
    for key in ("ArrowRight", "Space", "Shift+ArrowUp", "Space"):
        page.keyboard.press(key)
    expect(page.locator("#data-hint")).to_have_text(re.compile("^Draw: 4 of"))
    # four points of two bytes each: 11 characters in base64
    page.wait_for_function("() => new URLSearchParams(location.hash.slice(1)).get('points')?.length === 11")
    reopened = visit("#" + urlsplit(page.url).fragment)
    expect(reopened.locator("#data-hint")).to_have_text(re.compile("^Draw: 4 of"))

    page.locator("[name=tool][value=erase]").click()
    canvas.focus()
    page.keyboard.press("Space")
    expect(page.locator("#data-hint")).to_have_text(re.compile("^Draw: 2 of"))


COUNT_MESSAGES = """(() => {
    window.messages = 0;
    window.Worker = class extends Worker {
        onEach = this.addEventListener("message", () => window.messages++);
    };
})()"""


def test_without_data_the_network_stops_and_the_plots_are_empty(visit: Open) -> None:
    page = visit("#data=ring&train=100000&t=0&plots=exact-ddim-5+network-ddim-5")
    page.add_init_script(COUNT_MESSAGES)
    page.reload()
    distance(page, 1)
    choose = "() => { document.querySelector('#shapes input[value=drawn]').click(); return window.messages }"
    count = page.evaluate(choose)
    page.wait_for_function(f"() => window.messages > {count}")  # the worker sends something about the data before
    expect(page.locator("#status-text")).to_have_text("draw some points")
    captions = page.locator(".plot figcaption")
    assert [captions.nth(i).is_visible() for i in range(2)] == [False, False]
    page.locator("#shapes input[value=ring]").click()
    distance(page, 1)
    expect(page.locator("#status-text")).to_have_text("training in this browser")


def test_words_with_a_dotted_line_explain_themselves(visit: Open) -> None:
    page = visit(STILL, 390, 844, **PHONE)
    distance(page, 1)
    tip = page.locator("#explanation-tip")
    for word, text in (("exact", "no network can do better"), ("energy distance", "0: not at all")):
        page.get_by_role("button", name=word, exact=True).first.tap()
        expect(tip).to_contain_text(text)
    hold(page, page.locator("#noise"))
    expect(tip).to_have_text(re.compile("Other noise"))
    hold(page, page.locator("[name=prediction][value=x0]"))
    expect(tip).to_have_text(re.compile("The network outputs the clean point"))


def test_time_plays_from_noise_to_data_with_the_keyboard(visit: Open) -> None:
    page = visit()
    distance(page, 0)
    page.keyboard.press("0")
    state(page, t="1000")
    page.keyboard.press(".")
    state(page, t="990")
    page.keyboard.press(" ")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    state(page, t="0")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")
    page.keyboard.press("3")
    expect(page.locator("[name=layer][value=score]")).to_be_checked()
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme")
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()


def test_a_first_visit_trains_and_plays_unless_motion_is_reduced(visit: Open) -> None:
    page = visit("")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    expect(page.locator("#train")).to_have_text("Pause")
    still = visit("", reduced_motion="reduce")
    expect(still.locator("#play")).to_have_attribute("aria-label", "Play")
    expect(still.locator("#train")).to_have_text("Train")
    assert state(still, t="0", train="0")


def test_invalid_parts_of_the_url_are_reported(visit: Open) -> None:
    page = visit("#data=cats&train=0")
    expect(page.locator("#status")).to_contain_text("data must be moons, spiral")
    assert state(page, data="moons")


@pytest.mark.parametrize("width", [390, 1280])
def test_no_control_is_without_an_explanation(visit: Open, width: int) -> None:
    page = visit("#data=drawn&train=0&t=0", width)
    assert unexplained(page) == []
    page.locator("#help").click()
    assert unexplained(page) == []
    page.evaluate("() => document.querySelector('#panel').append(document.createElement('select'))")
    assert unexplained(page) == ["<select></select>"]


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390), (320, 640), (640, 400), (1280, 640)])
def test_plots_and_time_are_visible_together_at_every_size(visit: Open, width: int, height: int) -> None:
    page = visit(STILL, width, height)
    distance(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for name in (".plot canvas", ".plot:last-child canvas", "#time"):
        box = page.locator(name).first.bounding_box()
        assert box
        assert 0 <= box["y"] < box["y"] + box["height"] <= height
        assert name == "#time" or box["width"] > 110
    page.locator("#save").scroll_into_view_if_needed()  # the end of the settings
    expect(page.locator(".plot canvas").first).to_be_in_viewport()
    page.get_by_label("Calls of plot 2").scroll_into_view_if_needed()
    page.get_by_label("Calls of plot 2").fill("3")
    state(page, plots="exact-ddim-5 network-ddim-3")


def test_the_navigation_leads_to_points_and_back(visit: Open, address: str) -> None:
    page = visit()
    hrefs = page.locator("nav a").evaluate_all("links => links.map((link) => link.href)")
    home = address.removesuffix("points.html")
    assert hrefs == [home, f"{home}#view=microscope", f"{home}#view=draw", address]
    html = site._page_files()["index.html"].decode()
    assert re.search('<a href="points.html" title="[^"]+">Points</a>', html)
