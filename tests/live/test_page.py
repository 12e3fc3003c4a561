"""The page in a real browser, with an engine that hears all that it says. Needs Chromium and Playwright."""

import base64
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageSequence

import shapedreamer
from shapedreamer import cli
from shapedreamer.imaging import render
from shapedreamer.imaging.explore import melt
from shapedreamer.imaging.figures import Way

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow
pytest.importorskip("websockets", reason="needs the extra 'web'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

from tests.live.fake_engine import PATIENCE, FakeEngine  # noqa: E402  since it needs websockets

playwright.expect.set_options(timeout=1000 * PATIENCE)
BACKGROUND = render.BACKGROUND
SPRITES = "#model=sprites&seed=7&sampler=ddim&steps=6&eta=0.5&creativity=450&paused=1"
WAY = Way("ddim", 6, 0.5, 7, "any", 1.0)
Open = Callable[..., "Page"]


# an engine, a browser, a page


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture(autouse=True)
def forget(engine: FakeEngine) -> Iterator[None]:
    yield
    engine.forget()


@pytest.fixture
def wrong() -> list[str]:
    """What a page complained of."""
    return []


@pytest.fixture
def visit(browser: "Browser", engine: FakeEngine, wrong: list[str]) -> Iterator[Open]:
    """Open the page at an address; at the end, nothing must have gone wrong there, or to another host."""
    contexts, asked = [], set()

    def visit(address: str = SPRITES, width: int = 1280, height: int = 800, **options: Any) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.add(urlsplit(request.url)))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.goto(engine.url + address)
        expect(page.locator("#frame-number")).to_have_text(re.compile(r"\d"))  # a frame is there
        return page

    yield visit
    for context in contexts:
        context.close()
    assert {parts.netloc for parts in asked if parts.scheme not in ("blob", "data")} == {f"127.0.0.1:{engine.port}"}
    # of a server that is gone, and of `pixels`
    usual = ("WebSocket connection to", "net::ERR_CONNECTION_REFUSED", "Multiple readback operations")
    assert [text for text in wrong if not any(part in text for part in usual)] == []


def expect(locator: "Locator") -> Any:
    return playwright.expect(locator)


def pixels(page: "Page", selector: str = "#canvas") -> np.ndarray:
    """(H, W, 4) uint8: what is on a canvas."""
    width, height, values = page.locator(selector).first.evaluate(
        "canvas => [canvas.width, canvas.height, "
        "[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]]"
    )
    return np.array(values, np.uint8).reshape(height, width, 4)


def shown(page: "Page", num: int = 1, size: int = 16, channels: int = 3) -> np.ndarray:
    """(num, size, size, channels) uint8: the pictures on the page."""
    grid, columns, gap = pixels(page), int(num**0.5), round(size / 16)
    tiles = [divmod(i, columns) for i in range(num)]
    return np.stack(
        [
            grid[y * (size + gap) : y * (size + gap) + size, x * (size + gap) : x * (size + gap) + size, :channels]
            for y, x in tiles
        ]
    )


def dreamt(engine: FakeEngine, frame: int, num: int = 1, way: Way = WAY, creativity: int = 450) -> np.ndarray:
    """What Python dreams: frame number `frame`."""
    model = engine.models["sprites"]
    first = model.sample(num, *way)
    return render.to_uint8(melt(model, first, creativity, frame + 1, num, way)[-1] if frame else first)


def settings(message: dict[str, Any]) -> dict[str, Any]:
    return message.get("settings", {})


def slide(page: "Page", selector: str, value: float) -> None:
    page.locator(selector).fill(f"{value:g}")


def more(page: "Page") -> None:
    page.locator("#more summary").click()


# the dream


def test_a_link_shows_the_very_picture_that_python_dreams(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&frame=3&num=4")
    expect(page.locator("#frame-number")).to_have_text("3")
    assert (shown(page, 4) == dreamt(engine, 3, 4)).all()
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")


def test_it_dreams_at_once_and_counts(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&fps=0")
    begins = engine.wait(lambda message: message["type"] == "set")
    assert (settings(begins)["model"], settings(begins)["label"], settings(begins)["fps"]) == ("sprites", "any", 0)
    engine.wait(lambda message: message["type"] == "play")
    expect(page.locator("#frame-number")).to_have_text(re.compile(r"^\d{2,}$"))
    expect(page.locator("#rate")).to_have_text(re.compile(r"^\d{2}$"))
    expect(page.locator("#calls")).to_have_text("2")
    expect(page.locator("#status-text")).to_have_text("dreaming on the server")


def test_every_visit_without_a_link_dreams_of_another_seed(visit: Open, engine: FakeEngine) -> None:
    visit(""), visit("")
    first, second = (settings(m)["seed"] for m in engine.messages if m["type"] == "set" and "image" not in m)
    assert first != second


# controls

CONTROLS: dict[str, tuple[Callable[["Page"], object], str, object]] = {
    "creativity": (lambda page: slide(page, "#creativity", 123), "creativity", 123),
    "creativity 0": (lambda page: slide(page, "#creativity", 0), "creativity", 0),
    "model": (lambda page: page.locator("#model").select_option("fashion_mnist"), "model", "fashion_mnist"),
    "any": (lambda page: page.keyboard.press("]"), "creativity", 460),
    "none": (lambda page: page.locator("input[name=label][value=none]").check(force=True), "label", "none"),
    "mix": (lambda page: page.locator("input[name=label][value=mix]").check(force=True), "label", {"human": 1}),
    "amount": (lambda page: slide(page, "[aria-label=food]", 0.6), "label", {"food": 0.6}),
    "only": (lambda page: page.get_by_title("only side-facing").click(), "label", {"side-facing": 1}),
    "num": (lambda page: page.locator("input[name=num][value='16']").check(force=True), "num", 16),
    "fps": (lambda page: slide(page, "#fps", 30), "fps", 30),
    "as fast as it goes": (lambda page: slide(page, "#fps", 61), "fps", 0),
    "sampler": (lambda page: page.locator("#sampler").select_option("dpmpp_2m"), "sampler", "dpmpp_2m"),
    "a sampler without eta": (lambda page: page.locator("#sampler").select_option("heun"), "sampler", "heun"),
    "steps": (lambda page: slide(page, "#steps", 17), "steps", 17),
    "eta": (lambda page: slide(page, "#eta", 0.25), "eta", 0.25),
    "guidance": (lambda page: slide(page, "#guidance", -2.5), "guidance", -2.5),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_sends_what_it_says(visit: Open, engine: FakeEngine, name: str) -> None:
    act, field, value = CONTROLS[name]
    page = visit()
    more(page)
    before = settings(engine.messages[0])
    since = len(engine.messages)
    act(page)
    after = settings(engine.wait(lambda message: settings(message).get(field) == value, since))
    expected = {**before, field: value}
    if value == "heun":
        expected["eta"] = 0
    if field != "model":
        assert after == expected
    else:
        assert (after["seed"], after["creativity"]) == ("7", 703)


def test_seed(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    more(page)
    page.locator("#seed").fill("18446744073709551615")
    page.keyboard.press("Enter")
    engine.wait(lambda message: settings(message).get("seed") == "18446744073709551615")
    since = len(engine.messages)
    page.locator("#seed").fill("18446744073709551616")
    page.keyboard.press("Enter")
    wrong = page.locator("[data-field=seed] .wrong")
    expect(wrong).to_have_text("seed must be a whole number from 0 to 2⁶⁴ − 1")
    expect(page.locator("#seed")).to_have_attribute("aria-invalid", "true")
    assert engine.messages[since:] == []
    page.locator("#randomize").click()
    assert settings(engine.wait(lambda message: message["type"] == "set", since))["seed"] != "18446744073709551615"


def test_play_pause_step_restart(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    number = page.locator("#frame-number")
    page.locator("#step").click()
    expect(number).to_have_text("1")
    assert (shown(page) == dreamt(engine, 1)).all()
    page.locator("#restart").click()
    expect(number).to_have_text("0")
    since = len(engine.messages)
    page.locator("#play").click()
    engine.wait(lambda message: message == {"type": "play"}, since)
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    page.locator("#step").click()  # which pauses, too
    engine.wait(lambda message: message == {"type": "step"}, since)
    assert [message["type"] for message in engine.messages[since:]] == ["play", "pause", "step"]
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")


def test_as_the_model_was_made_for(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    more(page)
    page.locator("#as-made").click()
    after = settings(engine.wait(lambda message: settings(message).get("steps") == 12))
    assert (after["sampler"], after["eta"], after["creativity"], after["seed"]) == ("ddim", 1, 352, "7")


def test_scale_and_grid_keep_every_pixel_square(visit: Open) -> None:
    page = visit(SPRITES + "&num=16")
    more(page)
    canvas = page.locator("#canvas")
    slide(page, "#scale", 5)
    box = canvas.bounding_box()
    assert box
    assert (box["width"], box["height"]) == (5 * 67, 5 * 67)  # 4 pictures of 16 pixels and 3 gaps of 1
    slide(page, "#scale", 0)
    box = canvas.bounding_box()
    assert box
    assert (box["width"] % 67, box["width"] > 335) == (0, True)
    assert canvas.evaluate("canvas => getComputedStyle(canvas).imageRendering") == "pixelated"


def test_a_model_without_labels_offers_none(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=mnist&guidance=4&paused=1")
    assert settings(engine.messages[0])["guidance"] == 1
    expect(page.locator("#labels")).to_be_hidden()
    more(page)
    expect(page.locator("#guidance")).to_be_disabled()
    expect(page.locator("#creativity")).to_have_attribute("max", "200")


def test_nothing_jumps(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&fps=0")
    page.evaluate(  # numbers may move within their own place
        "() => { window.shifts = [];"
        "const moved = ({ node }) => node?.parentElement && !(node.parentElement instanceof HTMLOutputElement);"
        "new PerformanceObserver(list => { for (const { sources } of list.getEntries())"
        "window.shifts.push(...sources.filter(moved).map(({ node }) => node.parentElement.outerHTML)) })"
        ".observe({ type: 'layout-shift' }) }"
    )
    expect(page.locator("#frame-number")).to_have_text(re.compile(r"^\d{3}"))
    engine.refusing = ("creativity", 77, "creativity 77 is refused")
    slide(page, "#creativity", 77)
    expect(page.locator("[data-field=creativity] .wrong")).to_have_text("creativity 77 is refused")
    engine.say(type="note", message="a note " * 30)
    expect(page.locator("#status-text")).to_have_text(re.compile("^a note"))
    page.locator("input[name=label][value=none]").check(force=True)
    page.locator("#play").click()
    assert page.evaluate("() => new Promise(done => requestAnimationFrame(() => done(window.shifts)))") == []


# the address


def test_the_address_leads_to_the_same_picture(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES)
    more(page)
    page.get_by_title("only food").click()
    slide(page, "[aria-label=human]", 0.5)
    slide(page, "#guidance", 1.5)
    slide(page, "#scale", 7)
    page.locator("input[name=num][value='4']").check(force=True)
    expect(page.locator("#canvas")).to_have_attribute("width", "33")
    page.locator("#restart").click()
    for frame in ("1", "2"):
        page.locator("#step").click()
        expect(page.locator("#frame-number")).to_have_text(frame)
    page.wait_for_url(re.compile("frame=2"))
    address = urlsplit(page.url).fragment
    assert "image=" not in address
    since = len(engine.messages)
    again = visit(f"#{address}")
    expect(again.locator("#frame-number")).to_have_text("2")
    assert settings(engine.messages[since]) == settings([m for m in engine.messages[:since] if m["type"] == "set"][-1])
    assert (pixels(again) == pixels(page)).all()
    again.wait_for_url(re.compile(re.escape(address)))


def test_the_address_carries_a_picture_that_no_seed_leads_to(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&num=4")
    page.locator("#step").click()
    expect(page.locator("#frame-number")).to_have_text("1")
    slide(page, "#creativity", 100)
    page.wait_for_url(re.compile("image="))
    page.locator("#step").click()
    expect(page.locator("#frame-number")).to_have_text("2")
    first = shown(page, 4)
    page.locator("#share").click()
    expect(page.locator("#share-text")).to_contain_text("image=")
    again = visit("#" + urlsplit(page.locator("#share-text").inner_text()).fragment)
    expect(again.locator("#frame-number")).to_have_text("0")
    assert (shown(again, 4) == first).all()


def test_an_address_that_makes_no_sense_is_told_of_and_the_rest_followed(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=dragons&steps=99&seed=5&image=%00&paused=1")
    expect(page.locator("#status-text")).to_have_text(re.compile("no model dragons.*steps must be.*not 99.*damaged"))
    assert (settings(engine.messages[0])["model"], settings(engine.messages[0])["seed"]) == ("sprites", "5")


def test_another_address_in_the_same_tab_is_followed(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    page.evaluate("() => { location.hash = '#model=mnist&seed=3&paused=1' }")
    engine.wait(lambda message: settings(message).get("model") == "mnist" and settings(message)["seed"] == "3")
    expect(page.locator("#model")).to_have_value("mnist")


# copy


def run_python(code: str, engine: FakeEngine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """dream.png that the code makes of the engine's models: (height, width, 3)."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(shapedreamer, "load", lambda name, precision: engine.models[name], raising=False)
    exec(code, {})
    return np.asarray(Image.open("dream.png").convert("RGB"))


def run_command(code: str, engine: FakeEngine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the command writes, of an animation the last frame."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        "shapedreamer.models.model.load", lambda path, which, device, precision: engine.models[str(path)]
    )
    words = shlex.split(code)
    monkeypatch.setattr(sys, "argv", words)
    assert cli.main() == 0
    with Image.open(words[-1]) as file:
        return np.asarray([frame.convert("RGB") for frame in ImageSequence.Iterator(file)][-1])


def tiles(picture: np.ndarray, num: int, size: int = 16) -> np.ndarray:
    """The pictures in a grid of render.py, each pixel once: (num, size, size, 3)."""
    columns = int(num**0.5)
    wide = picture.shape[0] // columns
    scale = (wide - 2 * render.MARGIN) // size
    middles = render.MARGIN + scale // 2 + scale * np.arange(size)
    corners = [(wide * (i // columns), wide * (i % columns)) for i in range(num)]
    return np.stack([picture[np.ix_(top + middles, left + middles)] for top, left in corners])


def copied(page: "Page", what: str) -> str:
    if not page.locator("#share-dialog").is_visible():
        page.locator("#share").click()
    page.locator(f"input[name=share][value={what}]").check(force=True)
    page.locator("#share-copy").click()
    expect(page.locator("#share-copy")).to_have_text("Copied")
    text = page.evaluate("() => navigator.clipboard.readText()")
    assert isinstance(text, str)
    return text


CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}


@pytest.mark.parametrize(
    ("num", "frame", "options"), [(1, 0, ""), (4, 0, "&label=none"), (1, 3, "&label=mix&label.food=0.6"), (4, 2, "")]
)
def test_copied_code_makes_the_same_picture(
    visit: Open, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int, frame: int, options: str
) -> None:
    page = visit(f"{SPRITES}&num={num}&frame={frame}{options}", **CLIPBOARD)
    expect(page.locator("#frame-number")).to_have_text(str(frame))
    picture = shown(page, num)
    python = run_python(copied(page, "python"), engine, tmp_path, monkeypatch)
    assert (tiles(python, num) == picture).all()
    if num > 1 and frame:
        page.locator("input[name=share][value=command]").check(force=True)
        expect(page.locator("#share-note")).to_have_text(re.compile("no command"))
        expect(page.locator("#share-copy")).to_be_disabled()
        return
    command = run_command(copied(page, "command"), engine, tmp_path, monkeypatch)
    assert (tiles(command, num) == picture).all()


def test_what_is_shared_is_what_is_shown(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&fps=0")
    page.keyboard.press("c")
    engine.wait(lambda message: message["type"] == "pause", 3)
    engine.say(type="note", message="no more frames are under way")
    expect(page.locator("#status-text")).to_have_text("no more frames are under way")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    page.locator("input[name=share][value=python]").check(force=True)
    number = page.locator("#frame-number").inner_text()
    expect(page.locator("#share-text")).to_contain_text(f"[{number}]")
    page.keyboard.press("Escape")
    engine.wait(lambda message: message["type"] == "play", 4)


@pytest.mark.parametrize("num", [1, 4])
def test_copied_code_begins_with_a_picture_that_no_seed_leads_to(
    visit: Open, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int
) -> None:
    page = visit(f"{SPRITES}&num={num}&frame=1&label=none", **CLIPBOARD)
    expect(page.locator("#frame-number")).to_have_text("1")
    slide(page, "#creativity", 200)
    page.wait_for_url(re.compile("image="))
    code = copied(page, "python")
    with page.expect_download() as download:
        page.locator("#share-picture").click()
    assert download.value.suggested_filename == "dream-start.png"
    download.value.save_as(tmp_path / "dream-start.png")
    assert (tiles(run_python(code, engine, tmp_path, monkeypatch), num) == shown(page, num)).all()
    link = copied(page, "link")
    again = visit("#" + urlsplit(link).fragment)
    again.locator("#step").click()
    expect(again.locator("#frame-number")).to_have_text("1")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert (render.to_uint8(namespace["frames"][1]) == shown(again, num)).all()
    if num == 1:
        command = copied(page, "command").replace("--frames 60", "--frames 2")
        assert (tiles(run_command(command, engine, tmp_path, monkeypatch), 1) == shown(again)).all()


# save


def test_png_is_the_picture_enlarged(visit: Open, tmp_path: Path) -> None:
    for address, channels in ((SPRITES + "&num=4", 3), ("#model=mnist&paused=1", 1)):
        page = visit(address)
        with page.expect_download() as download:
            page.locator("#save-png").click()
        download.value.save_as(tmp_path / "saved.png")
        with Image.open(tmp_path / "saved.png") as file:
            assert file.mode == {1: "L", 3: "RGB"}[channels]
            saved = np.asarray(file)
        side = pixels(page).shape[0]
        scale = saved.shape[0] // side
        assert scale == round(1024 / side)
        assert saved.shape[:2] == (scale * side, scale * side)
        grid = pixels(page)
        expected = np.where(grid[..., 3:] == 255, grid, BACKGROUND)[..., :channels].squeeze()
        assert (saved == expected.repeat(scale, 0).repeat(scale, 1)).all()


def test_gif_is_the_last_seconds(visit: Open, engine: FakeEngine, tmp_path: Path) -> None:
    page = visit(SPRITES)
    for frame in range(1, 4):
        page.locator("#step").click()
        expect(page.locator("#frame-number")).to_have_text(str(frame))
    with page.expect_download() as download:
        page.keyboard.press("g")
    expect(page.locator("#gif-text")).to_have_text("GIF")
    download.value.save_as(tmp_path / "saved.gif")
    with Image.open(tmp_path / "saved.gif") as file:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]
        assert file.info["loop"] == 0
    wanted = [dreamt(engine, k)[0] for k in range(4)]
    assert (wanted[1] != wanted[3]).any()
    places = [[k for k in range(4) if (frame[12::24, 12::24] == wanted[k]).all()] for frame in frames]
    assert all(places)  # each is one of them, to the last value
    assert 2 <= len(frames) <= 4
    assert np.asarray(frames[-1]).shape == (384, 384, 3)


# the microscope


def numbers(page: "Page", which: int = 0) -> list[str]:
    return page.locator(".look").nth(which).locator(".facts dd").all_inner_texts()


def test_the_microscope_shows_each_step(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=microscope")
    asked = engine.wait(lambda message: message["type"] == "trace")
    assert (asked["sampler"], asked["steps"], asked["eta"]) == ("ddim", 6, 0.5)
    scrub = page.locator("#scrub")
    expect(scrub).to_have_attribute("max", "5")
    model = engine.models["sprites"]
    t, x = model.schedule.T, model.noise(1, 7)
    for i, step in enumerate(model.stream(1, **WAY._asdict())):
        slide(page, "#scrub", i)
        expect(page.locator("#scrub-text")).to_have_text(f"step {i + 1} of 6")
        signal, noise = (value.item() for value in model.schedule.alpha_sigma(t, like=x.double()))
        facts = numbers(page)
        assert facts[:3] == [f"{t} → {step.t}", f"{signal:.3f}", f"{noise:.3f}"]
        eps = (x - signal * step.x0) / noise
        most = (step.x - x).abs().max().item()
        for which, image, high in ((0, x, 1.0), (1, step.x0, 1.0), (2, eps, 3.0), (3, step.x - x, most)):
            found = pixels(page, f"figure:nth-of-type({which + 1}) canvas")[..., :3].astype(int)
            expected = (127.5 * (1 + image[0] / high)).clamp(0, 255).permute(1, 2, 0).numpy()
            assert np.abs(found - expected).max() <= 1
        t, x = step.t, step.x
    update = page.locator(".equation").nth(1)
    expect(update.locator(".value")).to_have_text(["1.000", "0.000", "0.000"])  # the last step lands on its guess
    assert page.locator(".equation").nth(1).get_attribute("aria-label") == "xs = 1.000 x̂0 + 0.000 ε̂ + 0.000 z"


def test_two_samplers_begin_with_the_same_noise(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&seed=3&steps=8&eta=1&view=microscope")
    page.locator("#beside").check()
    for sampler in ("ddpm", "ddim"):
        asked = {"type": "trace", "sampler": sampler, "steps": 8, "eta": 0}
        engine.wait(lambda message, asked=asked: asked.items() <= message.items())  # type: ignore[misc]
    expect(page.locator(".look").nth(1).locator(".facts dd").first).to_have_text(re.compile("→"))
    slide(page, "#scrub", 0)
    first, second = (pixels(page, f".look:nth-of-type({i}) figure:nth-of-type(1) canvas") for i in (1, 2))
    assert (first == second).all()
    slide(page, "#scrub", 5)
    first, second = (pixels(page, f".look:nth-of-type({i}) figure:nth-of-type(1) canvas") for i in (1, 2))
    assert (first != second).any()
    assert numbers(page, 0)[0] == numbers(page, 1)[0]
    page.wait_for_url(re.compile("step=5"))
    again = visit("#" + urlsplit(page.url).fragment)
    expect(again.locator("#scrub-text")).to_have_text("step 6 of 8")
    expect(again.locator(".look").nth(1).locator(".facts dd").first).to_have_text(numbers(page, 1)[0])
    assert [again.locator(".look select").nth(i).input_value() for i in (0, 1)] == ["ddpm", "ddim"]


def test_the_microscope_follows(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&seed=3&steps=4&paused=1&view=microscope")
    expect(page.locator("#scrub")).to_have_attribute("max", "3")
    since = len(engine.messages)
    page.keyboard.press("r")
    engine.wait(lambda message: message["type"] == "trace", since)
    page.locator(".look select").first.select_option("heun")
    page.locator(".look input").first.fill("9")
    asked = engine.wait(lambda message: message.get("sampler") == "heun" and message["steps"] == 9, since)
    assert asked["eta"] == 0
    expect(page.locator("#scrub")).to_have_attribute("max", "4")
    slide(page, "#scrub", 0)
    expect(page.locator(".equation").nth(1).locator(".term")).to_have_count(2)
    page.keyboard.press("Space")
    expect(page.locator("#scrub-text")).to_have_text("step 5 of 5")
    page.keyboard.press(",")
    expect(page.locator("#scrub-text")).to_have_text("step 4 of 5")


# drawing


def at(page: "Page", x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture is on the screen."""
    box = page.locator("#overlay").bounding_box()
    assert box
    width, height = page.locator("#canvas").evaluate("canvas => [canvas.width, canvas.height]")
    return box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height


def paint(page: "Page", *points: tuple[int, int]) -> None:
    page.mouse.move(*at(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*at(page, *point))
    page.mouse.up()


def tool(page: "Page", name: str) -> None:
    page.locator(f"input[name=tool][value={name}]").check(force=True)


def bytes_of(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def test_draw_and_dream_on(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    expected = dreamt(engine, 0)[0]
    page.locator("[name=colour][value='#d9483b']").check(force=True)
    paint(page, (2, 3), (6, 3), (6, 5))
    expected[3, 2:7] = expected[4:6, 6] = (0xD9, 0x48, 0x3B)
    slide(page, "#brush", 2)
    page.locator("[name=colour][value='#000000']").check(force=True)
    paint(page, (10, 10))
    expected[10:12, 10:12] = 0
    slide(page, "#brush", 1)
    tool(page, "eraser")
    paint(page, (3, 3))
    inner = np.pad(np.ones((14, 14), bool), 1)
    border = dreamt(engine, 0)[0][~inner]
    colours, counts = np.unique(border, axis=0, return_counts=True)
    expected[3, 3] = shown(page)[0, 3, 3]
    assert counts[(colours == expected[3, 3]).all(axis=1)].item() == counts.max()
    paint(page, (0, 0))
    page.locator("#undo").click()
    assert (shown(page)[0] == expected).all()
    page.wait_for_url(re.compile("image="))
    again = visit("#" + urlsplit(page.url).fragment)
    assert (shown(again)[0] == expected).all()
    since = len(engine.messages)
    page.locator("#dream-on").click()
    begins = engine.wait(lambda message: "image" in message, since)
    assert (bytes_of(begins["image"]).reshape(16, 16, 3) == expected).all()
    engine.wait(lambda message: message["type"] == "play", since)
    expect(page.locator("#drawing")).to_be_hidden()
    page.wait_for_url(re.compile("image="))


def test_a_drawing_waits_while_one_looks_elsewhere(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    paint(page, (2, 3), (6, 3))
    drawn = shown(page)
    assert (drawn != dreamt(engine, 0)).any()
    page.locator("[data-view=dream]").click()
    expect(page.locator("#drawing")).to_be_hidden()
    assert (shown(page) == dreamt(engine, 0)).all()
    page.locator("[data-view=draw]").click()
    assert (shown(page) == drawn).all()
    page.locator("#undo").click()
    assert (shown(page) == dreamt(engine, 0)).all()
    page.locator("[data-view=microscope]").click()
    page.locator("[data-view=draw]").click()  # nothing is drawn any more
    assert (shown(page) == dreamt(engine, 0)).all()
    expect(page.locator("#undo")).to_be_disabled()


def test_repaint_what_is_masked(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    before = shown(page)
    tool(page, "mask")
    expect(page.locator("#repaint")).to_be_disabled()
    slide(page, "#brush", 4)
    paint(page, (8, 8), (12, 8))
    since = len(engine.messages)
    page.locator("#repaint").click()
    mask = bytes_of(engine.wait(lambda message: message["type"] == "repaint", since)["mask"]).reshape(16, 16)
    assert set(np.unique(mask)) == {0, 255}
    assert mask[8, 8:12].all()
    assert mask.sum() < 255 * 16 * 16 / 4
    expect(page.locator("#frame-number")).to_have_text("1")
    assert (shown(page)[:, mask == 0] == before[:, mask == 0]).all()
    expect(page.locator("#repaint")).to_be_disabled()  # the mask has been used
    tool(page, "pencil")
    slide(page, "#brush", 1)
    paint(page, (0, 0), (15, 0))
    paint(page, (8, 12))
    tool(page, "mask")
    paint(page, (8, 12))
    since = len(engine.messages)
    page.locator("#repaint").click()
    engine.wait(lambda message: message["type"] == "repaint", since)
    assert [message["type"] for message in engine.messages[since:]] == ["set", "repaint"]
    drawn = bytes_of(engine.messages[since]["image"]).reshape(16, 16, 3)
    assert (drawn[0] == 0).all()
    assert (drawn[12, 8] == 0).all()
    expect(page.locator("#repaint")).to_be_disabled()
    expect(page.locator("#frame-number")).to_have_text("1")
    assert np.argwhere((shown(page)[0] != drawn).any(axis=2)).tolist() == [[12, 8]]  # what was masked, and that alone


def test_draw_on_one_of_four_in_grey(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=fashion_mnist&seed=2&num=4&steps=3&paused=1&view=draw")
    before = shown(page, 4, 28, 1)
    paint(page, (30 + 5, 30 + 7))  # the fourth: after 28 pixels and a gap of 2
    after = shown(page, 4, 28, 1)
    assert np.argwhere(after != before).tolist() in ([[3, 7, 5, 0]], [])
    assert after[3, 7, 5] == 255
    tool(page, "mask")
    paint(page, (40, 3))
    expect(page.locator("#repaint")).to_be_disabled()  # the mask is of the first picture
    paint(page, (4, 3))
    expect(page.locator("#repaint")).to_be_enabled()


# keys


def test_keys_alone_reach_everything(visit: Open) -> None:
    page = visit()
    named = "one => one.id || one.title || one.getAttribute('aria-label') || one.name || one.textContent"
    wanted = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, summary')]"
        f".filter(one => one.checkVisibility() && !one.disabled && (one.type !== 'radio' || one.checked)).map({named})"
    )
    reached, outlines = [], []
    for _ in range(2 * len(wanted)):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "() => { const one = document.activeElement;"
            "const style = getComputedStyle(one.type === 'radio' ? one.nextElementSibling : one);"
            f"return [({named})(one), style.outlineStyle + ' ' + style.outlineWidth] }}"
        )
        reached.append(name)
        outlines.append((name, outline))
    assert set(wanted) <= set(reached), set(wanted) - set(reached)
    assert {outline for name, outline in outlines if name in wanted} == {"solid 2px"}


def test_keys_do_what_the_help_says(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    listed = page.locator("#keys kbd").all_inner_texts()
    page.keyboard.press("Escape")
    assert listed == ["space", ".", ",", "0", "R", "[", "]", "1", "2", "3", "U", "S", "G", "C", "F", "T", "?"]

    def sends(key: str, kind: str) -> dict[str, Any]:
        since = len(engine.messages)
        page.keyboard.press(key)
        return engine.wait(lambda message: message["type"] == kind, since)

    sends(".", "step")
    sends("0", "restart")
    sends("Space", "play")
    sends("Space", "pause")
    assert settings(sends("[", "set"))["creativity"] == 440
    assert settings(sends("r", "set"))["seed"] != "7"
    page.keyboard.press("2")
    expect(page.locator("#microscope")).to_be_visible()
    page.keyboard.press("3")
    expect(page.locator("#drawing")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator("#drawing")).to_be_hidden()
    with page.expect_download():
        page.keyboard.press("s")
    page.keyboard.press("c")
    expect(page.locator("#share-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("t")
    assert page.locator("html").get_attribute("data-theme") in ("dark", "light")
    page.keyboard.press("f")
    expect(page.locator("#stage:fullscreen")).to_be_visible()
    page.keyboard.press("f")
    expect(page.locator("#stage:not(:fullscreen)")).to_be_visible()


def test_a_button_of_a_dialog_that_has_just_closed_does_not_take_the_space_bar(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    since = len(engine.messages)
    page.evaluate(
        "document.querySelector('#help-dialog button').dispatchEvent("
        "new KeyboardEvent('keydown', {key: ' ', bubbles: true, cancelable: true}))"
    )
    engine.wait(lambda message: message["type"] == "play", since)


def test_single_keys_can_be_switched_off(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    page.keyboard.press("?")
    page.locator("#keys-on").uncheck()
    page.keyboard.press("Escape")
    since = len(engine.messages)
    page.keyboard.press("r")
    page.locator("#step").click()
    engine.wait(lambda message: message["type"] == "step", since)
    assert [message["type"] for message in engine.messages[since:]] == ["step"]


def test_draw_with_keys_alone(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    expected = dreamt(engine, 0)[0]
    page.locator("#overlay").focus()
    for key in ("ArrowUp", "ArrowLeft", "Space", "Shift+ArrowRight", "Shift+ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expected[7, 7:10] = 0
    assert (shown(page)[0] == expected).all()
    expect(page.locator("#overlay")).to_have_attribute("aria-label", re.compile("column 10, row 9"))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    expected[7, 9] = dreamt(engine, 0)[0][7, 9]
    assert (shown(page)[0] == expected).all()


# who it is for


def test_every_control_has_a_name(visit: Open) -> None:
    page = visit()
    more(page)
    for view in ("dream", "microscope", "draw"):
        page.locator(f"nav [data-view={view}]").click()
        client = page.context.new_cdp_session(page)
        nodes = client.send("Accessibility.getFullAXTree")["nodes"]
        focusable = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", []))
            and node["role"]["value"] not in ("RootWebArea", "generic")
        ]
        assert len(focusable) > 15
        assert [role for role, name in focusable if not name.strip()] == []


@pytest.mark.parametrize("width", [360, 412, 768])
def test_a_telephone_scrolls_only_down(visit: Open, width: int) -> None:
    page = visit(SPRITES + "&num=16", width, 740, has_touch=True, is_mobile=True, device_scale_factor=2)
    more(page)
    for view in ("dream", "microscope", "draw"):
        page.locator(f"nav [data-view={view}]").click()
        if view == "microscope":
            page.locator("#beside").check()
            expect(page.locator(".look").nth(1).locator(".facts dd").first).to_have_text(re.compile("→"))
        wide = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert wide == [width, width], view
        small = page.evaluate(
            "() => [...document.querySelectorAll('button')].filter(one => one.checkVisibility())"
            ".map(one => [one.id || one.textContent, one.getBoundingClientRect()])"
            ".filter(([, { width, height }]) => width < 32 || height < 32).map(([name]) => name)"
        )
        assert small == [], view
    page.locator("nav [data-view=dream]").click()
    for opens, dialog in (("#help", "#help-dialog"), ("#share", "#share-dialog")):
        page.locator(opens).click()
        box = page.locator(dialog).bounding_box()
        assert box
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert 0 <= box["y"] < box["y"] + box["height"] <= 740
        page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_words_can_be_read_by_night_and_by_day(visit: Open, scheme: str) -> None:
    """Contrast of at least 4.5 to 1, as the Web Content Accessibility Guidelines (AA) ask."""
    page = visit(SPRITES, color_scheme=scheme)
    names = ("ground", "surface", "raised", "text", "quiet", "accent", "on-accent", "bad")
    shade = (
        "name => { const probe = document.body.appendChild(document.createElement('i'));"
        "probe.style.color = `var(--${name})`; const pen = new OffscreenCanvas(1, 1).getContext('2d');"
        "pen.fillStyle = getComputedStyle(probe).color; pen.fillRect(0, 0, 1, 1);"
        "return [...pen.getImageData(0, 0, 1, 1).data] }"
    )
    shades = {name: page.evaluate(shade, name)[:3] for name in names}

    def light(name: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in shades[name])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((light(a), light(b)))
        return (high + 0.05) / (low + 0.05)

    assert (light("ground") < 0.05) == (scheme == "dark")
    pairs = [(text, paper) for text in ("text", "quiet", "accent", "bad") for paper in ("ground", "surface")]
    for text, paper in [*pairs, ("text", "raised"), ("on-accent", "accent")]:
        assert contrast(text, paper) >= 4.5, f"{text} on {paper}: {contrast(text, paper):.2f}"


def test_the_theme_is_remembered(visit: Open) -> None:
    page = visit(SPRITES, color_scheme="dark")
    ground = "body => getComputedStyle(body).backgroundColor"
    night = page.locator("body").evaluate(ground)
    page.locator("#theme").click()
    day = page.locator("body").evaluate(ground)
    assert day != night
    page.reload()
    expect(page.locator("#frame-number")).to_have_text("0")
    assert page.locator("body").evaluate(ground) == day


def test_who_wants_less_motion_begins_with_a_still_picture(visit: Open, engine: FakeEngine) -> None:
    page = visit("", reduced_motion="reduce")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")
    assert not any(message["type"] == "play" for message in engine.messages)


def test_a_page_that_nobody_sees_does_not_dream(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2")
    hide = (
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange')) }"
    )
    since = len(engine.messages)
    page.evaluate(hide, True)
    engine.wait(lambda message: message["type"] == "pause", since)
    page.evaluate(hide, False)
    engine.wait(lambda message: message["type"] == "play", since)


# errors


def test_what_is_refused_stands_beside_its_control(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    more(page)
    engine.refusing = ("steps", 40, "steps must be at most 39")
    slide(page, "#steps", 40)
    wrong = page.locator("[data-field=steps] .wrong")
    expect(wrong).to_have_text("steps must be at most 39")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#steps")).to_have_value("6")
    slide(page, "#steps", 12)
    expect(wrong).to_have_text("")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "false")


def test_a_server_that_is_gone_is_waited_for(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&seed=11")
    status = page.locator("#status-text")
    engine.vanish()
    expect(status).to_have_text(re.compile(r"^server gone, retrying in \d+ s$"))
    canvas = pixels(page)
    assert canvas.any()  # the last picture stays
    since = len(engine.messages)
    engine.start()
    again = engine.wait(lambda message: message["type"] == "set", since)
    assert settings(again)["seed"] == "11"
    engine.wait(lambda message: message["type"] == "play", since)
    expect(status).to_have_text("dreaming on the server")


def test_a_server_that_closes_says_why(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    since = len(engine.messages)
    engine.say(type="error", id=None, message="there are 100 viewers already; closing")
    engine.hang_up()
    expect(page.locator("#status-text")).to_have_text("there are 100 viewers already, retrying in 1 s")
    engine.wait(lambda message: message["type"] == "set", since)
    expect(page.locator("#status-text")).to_have_text("dreaming on the server")


def test_an_idle_page_is_let_go_until_it_is_wanted(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    engine.say(type="error", id=None, message="nothing has happened for 3600 seconds; closing")
    engine.hang_up(4408)
    status = page.locator("#status-text")
    expect(status).to_have_text("nothing has happened for 3600 seconds; press play to go on")
    since = len(engine.messages)
    page.locator("#play").click()
    engine.wait(lambda message: message["type"] == "play", since)
    expect(status).to_have_text("dreaming on the server")


def test_notes_and_other_errors_are_told_calmly(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    engine.say(type="note", message="this browser has no WebAssembly threads: one thread used")
    expect(page.locator("#status-text")).to_have_text("this browser has no WebAssembly threads: one thread used")
    expect(page.locator("#status")).to_have_attribute("data-mood", "good")
    engine.say(type="error", id=None, message="out of memory")
    expect(page.locator("#status-text")).to_have_text("out of memory")
    expect(page.locator("#status")).to_have_attribute("data-mood", "bad")


def test_the_policy_holds(visit: Open, wrong: list[str]) -> None:
    """What the page does not do, a foreign script could not do either."""
    page = visit()
    broken = page.evaluate(
        "() => new Promise(done => { const broken = []; addEventListener('securitypolicyviolation', event => {"
        "broken.push(event.effectiveDirective); if (broken.length === 3) done(broken.sort()) });"
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.evil = 1' }));"
        "document.body.setAttribute('style', 'color: red');"
        "fetch('http://127.0.0.1:9/').catch(() => {}) })"
    )
    assert broken == ["connect-src", "script-src-elem", "style-src-attr"]
    assert page.evaluate("() => window.evil") is None
    wrong.clear()
