"""The page in a real browser, with a fake engine that records its messages. Needs Chromium and Playwright."""

import base64
import re
import shlex
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image, ImageSequence

import shapedreamer
from shapedreamer import cli
from shapedreamer.imaging import render
from shapedreamer.imaging.editing import melt
from shapedreamer.models.options import SampleOptions

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow
pytest.importorskip("websockets", reason="needs the extra 'web'")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

from tests.live.browsing import SPRITES, Open, expect, follow  # noqa: E402  these need the modules above
from tests.live.fake_engine import FakeEngine  # noqa: E402

BACKGROUND = render.BACKGROUND
OPTIONS = SampleOptions("ddim", 6, 0.5, 7, "any", 1.0)


def pixels(page: "Page", selector: str = "#canvas") -> np.ndarray:
    """The content of a canvas, (H, W, 4) uint8."""
    width, height, values = page.locator(selector).first.evaluate(
        "canvas => [canvas.width, canvas.height, "
        "[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]]"
    )
    return np.array(values, np.uint8).reshape(height, width, 4)


def shown_images(page: "Page", num: int = 1, size: int = 16, channels: int = 3) -> np.ndarray:
    """The images on the page, (num, size, size, channels) uint8."""
    grid, columns, gap = pixels(page), int(num**0.5), round(size / 16)
    tiles = [divmod(i, columns) for i in range(num)]
    return np.stack(
        [
            grid[y * (size + gap) : y * (size + gap) + size, x * (size + gap) : x * (size + gap) + size, :channels]
            for y, x in tiles
        ]
    )


def expected_images(engine: FakeEngine, frame: int, num: int = 1) -> np.ndarray:
    """The images of this frame of SPRITES, generated in Python."""
    model = engine.models["sprites"]
    sample = model.sample(num, OPTIONS)
    return render.to_uint8(melt(model, sample, 450, frame + 1, num, OPTIONS)[-1] if frame else sample)


def settings(message: dict[str, Any]) -> dict[str, Any]:
    return message.get("settings", {})


def set_slider(page: "Page", selector: str, value: float) -> None:
    page.locator(selector).fill(f"{value:g}")


def show_more_settings(page: "Page") -> None:
    page.locator("#more summary").click()


# playback


def test_a_link_shows_the_same_picture_as_python(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&frame=3&num=4")
    expect(page.locator("#frame-number")).to_have_text("3")
    assert (shown_images(page, 4) == expected_images(engine, 3, 4)).all()
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")


def test_a_link_to_the_dream_on_the_page_starts_it_again(visit: Open) -> None:
    page = visit(SPRITES + "&frame=2")
    expect(page.locator("#frame-number")).to_have_text("2")
    follow(page, SPRITES)
    expect(page.locator("#frame-number")).to_have_text("0")
    expect(page.locator("#stage")).to_have_attribute("aria-busy", "false")


def test_playback_starts_at_once_and_counts_frames(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&fps=0")
    message = engine.wait(lambda message: message["type"] == "set")
    assert (settings(message)["model"], settings(message)["label"], settings(message)["fps"]) == ("sprites", "any", 0)
    engine.wait(lambda message: message["type"] == "play")
    expect(page.locator("#frame-number")).to_have_text(re.compile(r"^\d{2,}$"))
    expect(page.locator("#rate")).to_have_text(re.compile(r"^\d{2}$"))
    expect(page.locator("#calls")).to_have_text("2")
    expect(page.locator("#status-text")).to_have_text("dreaming on the server")


def test_every_visit_without_a_link_uses_another_seed(visit: Open, engine: FakeEngine) -> None:
    visit(""), visit("")
    first, second = (settings(m)["seed"] for m in engine.messages if m["type"] == "set" and "image" not in m)
    assert first != second


# controls

CONTROLS: dict[str, tuple[Callable[["Page"], object], str, object]] = {
    "creativity": (lambda page: set_slider(page, "#creativity", 123), "creativity", 123),
    "creativity 0": (lambda page: set_slider(page, "#creativity", 0), "creativity", 0),
    "model": (lambda page: page.locator("#model").select_option("fashion_mnist"), "model", "fashion_mnist"),
    "any": (lambda page: page.keyboard.press("]"), "creativity", 460),
    "none": (lambda page: page.locator("input[name=label][value=none]").check(force=True), "label", "none"),
    "mix": (lambda page: page.locator("input[name=label][value=mix]").check(force=True), "label", {"human": 1}),
    "amount": (lambda page: set_slider(page, "[aria-label=food]", 0.6), "label", {"food": 0.6}),
    "only": (lambda page: page.get_by_title("only side-facing").click(), "label", {"side-facing": 1}),
    "num": (lambda page: page.locator("input[name=num][value='16']").check(force=True), "num", 16),
    "fps": (lambda page: set_slider(page, "#fps", 30), "fps", 30),
    "max fps": (lambda page: set_slider(page, "#fps", 61), "fps", 0),
    "sampler": (lambda page: page.locator("#sampler").select_option("dpmpp_2m"), "sampler", "dpmpp_2m"),
    "a sampler without eta": (lambda page: page.locator("#sampler").select_option("heun"), "sampler", "heun"),
    "steps": (lambda page: set_slider(page, "#steps", 17), "steps", 17),
    "eta": (lambda page: set_slider(page, "#eta", 0.25), "eta", 0.25),
    "guidance": (lambda page: set_slider(page, "#guidance", -2.5), "guidance", -2.5),
}


def has(field: str, value: object, message: dict[str, Any]) -> bool:
    """Whether a message sets this value of a setting."""
    return bool(settings(message).get(field) == value)


def test_every_control_sends_its_setting(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    show_more_settings(page)
    before = settings(engine.messages[0])
    for name, (act, field, value) in CONTROLS.items():
        follow(page, SPRITES)
        since = len(engine.messages)
        act(page)
        after = settings(engine.wait(partial(has, field, value), since))
        expected = {**before, field: value}
        if value == "heun":
            expected["eta"] = 0
        if field != "model":
            assert after == expected, name
        else:
            assert (after["seed"], after["creativity"]) == ("7", 703)


def test_seed(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    show_more_settings(page)
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
    assert (shown_images(page) == expected_images(engine, 1)).all()
    page.locator("#restart").click()
    expect(number).to_have_text("0")
    since = len(engine.messages)
    page.locator("#play").click()
    engine.wait(lambda message: message == {"type": "play"}, since)
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    page.locator("#step").click()  # also pauses
    engine.wait(lambda message: message == {"type": "step"}, since)
    assert [message["type"] for message in engine.messages[since:]] == ["play", "pause", "step"]
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")


def test_reset_to_model_defaults(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    show_more_settings(page)
    page.locator("#as-made").click()
    after = settings(engine.wait(lambda message: settings(message).get("steps") == 12))
    assert (after["sampler"], after["eta"], after["creativity"], after["seed"]) == ("ddim", 1, 352, "7")


def test_scale_enlarges_pixels_by_a_whole_factor(visit: Open) -> None:
    page = visit(SPRITES + "&num=16")
    show_more_settings(page)
    canvas = page.locator("#canvas")
    set_slider(page, "#scale", 5)
    box = canvas.bounding_box()
    assert box
    assert (box["width"], box["height"]) == (5 * 67, 5 * 67)  # 4 pictures of 16 pixels and 3 gaps of 1
    set_slider(page, "#scale", 0)
    box = canvas.bounding_box()
    assert box
    assert (box["width"] % 67, box["width"] > 335) == (0, True)
    assert canvas.evaluate("canvas => getComputedStyle(canvas).imageRendering") == "pixelated"


def test_an_unconditional_model_has_no_label_controls(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=mnist&guidance=4&paused=1")
    assert settings(engine.messages[0])["guidance"] == 1
    expect(page.locator("#labels")).to_be_hidden()
    show_more_settings(page)
    expect(page.locator("#guidance")).to_be_disabled()
    expect(page.locator("#creativity")).to_have_attribute("max", "200")


def test_the_layout_does_not_shift(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&fps=0")
    page.evaluate(  # numbers may move within their own element
        "() => { window.shifts = [];"
        "const moved = ({ node }) => node?.parentElement && !(node.parentElement instanceof HTMLOutputElement);"
        "new PerformanceObserver(list => { for (const { sources } of list.getEntries())"
        "window.shifts.push(...sources.filter(moved).map(({ node }) => node.parentElement.outerHTML)) })"
        ".observe({ type: 'layout-shift' }) }"
    )
    expect(page.locator("#frame-number")).to_have_text(re.compile(r"^\d{3}"))
    engine.rejected = ("creativity", 77, "creativity 77 is invalid")
    set_slider(page, "#creativity", 77)
    expect(page.locator("[data-field=creativity] .wrong")).to_have_text("creativity 77 is invalid")
    engine.send(type="note", message="a note " * 30)
    expect(page.locator("#status-text")).to_have_text(re.compile("^a note"))
    page.locator("input[name=label][value=none]").check(force=True)
    page.locator("#play").click()
    assert page.evaluate("() => new Promise(done => requestAnimationFrame(() => done(window.shifts)))") == []


# the URL


def test_the_url_reproduces_the_picture(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES)
    show_more_settings(page)
    page.get_by_title("only food").click()
    set_slider(page, "[aria-label=human]", 0.5)
    set_slider(page, "#guidance", 1.5)
    set_slider(page, "#scale", 7)
    page.locator("input[name=num][value='4']").check(force=True)
    expect(page.locator("#canvas")).to_have_attribute("width", "33")
    page.locator("#restart").click()
    for frame in ("1", "2"):
        page.locator("#step").click()
        expect(page.locator("#frame-number")).to_have_text(frame)
    page.wait_for_url(re.compile("frame=2"))
    fragment = urlsplit(page.url).fragment
    assert "image=" not in fragment
    since = len(engine.messages)
    again = visit(f"#{fragment}")
    expect(again.locator("#frame-number")).to_have_text("2")
    assert settings(engine.messages[since]) == settings([m for m in engine.messages[:since] if m["type"] == "set"][-1])
    assert (pixels(again) == pixels(page)).all()
    again.wait_for_url(re.compile(re.escape(fragment)))


def test_the_url_contains_a_picture_that_no_seed_reproduces(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&num=4")
    page.locator("#step").click()
    expect(page.locator("#frame-number")).to_have_text("1")
    set_slider(page, "#creativity", 100)
    page.wait_for_url(re.compile("image="))
    page.locator("#step").click()
    expect(page.locator("#frame-number")).to_have_text("2")
    first = shown_images(page, 4)
    page.locator("#share").click()
    expect(page.locator("#share-text")).to_contain_text("image=")
    again = visit("#" + urlsplit(page.locator("#share-text").inner_text()).fragment)
    expect(again.locator("#frame-number")).to_have_text("0")
    assert (shown_images(again, 4) == first).all()


def test_invalid_keys_in_the_url_are_reported_and_the_others_applied(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=dragons&steps=99&seed=5&image=%00&paused=1")
    problems = "unknown model dragons, using sprites instead; steps must be.*not 99; the picture in the URL is damaged"
    expect(page.locator("#status-text")).to_have_text(re.compile(problems))
    assert (settings(engine.messages[0])["model"], settings(engine.messages[0])["seed"]) == ("sprites", "5")


def test_a_new_url_in_the_same_tab_is_applied(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    page.evaluate("() => { location.hash = '#model=mnist&seed=3&paused=1' }")
    engine.wait(lambda message: settings(message).get("model") == "mnist" and settings(message)["seed"] == "3")
    expect(page.locator("#model")).to_have_value("mnist")


# share


def run_python(code: str, engine: FakeEngine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Run the code with the engine's models, and read dream.png: (height, width, 3)."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(shapedreamer, "load", lambda name, precision: engine.models[name], raising=False)
    exec(code, {})
    return np.asarray(Image.open("dream.png").convert("RGB"))


def run_command(code: str, engine: FakeEngine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Run the command with the engine's models, and read the (last) frame of its file: (height, width, 3)."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        "shapedreamer.models.model.load", lambda path, which, device, precision: engine.models[str(path)]
    )
    arguments = shlex.split(code)
    monkeypatch.setattr(sys, "argv", arguments)
    assert cli.main() == 0
    with Image.open(arguments[-1]) as file:
        return np.asarray([frame.convert("RGB") for frame in ImageSequence.Iterator(file)][-1])


def tiles(picture: np.ndarray, num: int, size: int = 16) -> np.ndarray:
    """The images in an enlarged grid of render.py, at their own size: (num, size, size, 3)."""
    columns = int(num**0.5)
    tile = picture.shape[0] // columns
    scale = (tile - 2 * render.MARGIN) // size
    middles = render.MARGIN + scale // 2 + scale * np.arange(size)
    corners = [(tile * (i // columns), tile * (i % columns)) for i in range(num)]
    return np.stack([picture[np.ix_(top + middles, left + middles)] for top, left in corners])


def copied(page: "Page", kind: str) -> str:
    """The text that the share dialog copies: "link", "python" or "command"."""
    if not page.locator("#share-dialog").is_visible():
        page.locator("#share").click()
    page.locator(f"input[name=share][value={kind}]").check(force=True)
    page.locator("#share-copy").click()
    expect(page.locator("#share-copy")).to_have_text("Copied")
    text = page.evaluate("() => navigator.clipboard.readText()")
    assert isinstance(text, str)
    return text


CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}


@pytest.mark.parametrize(
    ("num", "frame", "options"),
    [
        (1, 0, ""),
        (4, 0, "&label=none"),
        (1, 3, "&label=mix&label.food=0.6"),
        (4, 2, ""),
        (1, 3, "&motion=melt&every=2"),
        (1, 4, "&motion=drift&every=3"),
    ],
)
def test_copied_code_reproduces_the_picture(
    visit: Open, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int, frame: int, options: str
) -> None:
    page = visit(f"{SPRITES}&num={num}&frame={frame}{options}", **CLIPBOARD)
    expect(page.locator("#frame-number")).to_have_text(str(frame))
    picture = shown_images(page, num)
    python = run_python(copied(page, "python"), engine, tmp_path, monkeypatch)
    assert (tiles(python, num) == picture).all()
    if num > 1 and frame:
        page.locator("input[name=share][value=command]").check(force=True)
        expect(page.locator("#share-note")).to_have_text(re.compile("no command"))
        expect(page.locator("#share-copy")).to_be_disabled()
        return
    command = run_command(copied(page, "command"), engine, tmp_path, monkeypatch)
    assert (tiles(command, num) == picture).all()


def test_the_share_dialog_refers_to_the_frame_that_is_shown(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&fps=0")
    expect(page.locator("#frame-number")).not_to_have_text("0")  # a later frame has an index in the code
    page.keyboard.press("c")
    engine.wait(lambda message: message["type"] == "pause", 3)
    engine.send(type="note", message="no more frames will come")
    expect(page.locator("#status-text")).to_have_text("no more frames will come")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    page.locator("input[name=share][value=python]").check(force=True)
    number = page.locator("#frame-number").inner_text()
    expect(page.locator("#share-text")).to_contain_text(f"[{number}]")
    page.keyboard.press("Escape")
    engine.wait(lambda message: message["type"] == "play", 4)


@pytest.mark.parametrize("num", [1, 4])
def test_copied_code_starts_from_the_saved_picture_if_no_seed_reproduces_it(
    visit: Open, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num: int
) -> None:
    page = visit(f"{SPRITES}&num={num}&frame=1&label=none", **CLIPBOARD)
    expect(page.locator("#frame-number")).to_have_text("1")
    set_slider(page, "#creativity", 200)
    page.wait_for_url(re.compile("image="))
    code = copied(page, "python")
    with page.expect_download() as download:
        page.locator("#share-picture").click()
    assert download.value.suggested_filename == "dream-start.png"
    download.value.save_as(tmp_path / "dream-start.png")
    assert (tiles(run_python(code, engine, tmp_path, monkeypatch), num) == shown_images(page, num)).all()
    link = copied(page, "link")
    again = visit("#" + urlsplit(link).fragment)
    again.locator("#step").click()
    expect(again.locator("#frame-number")).to_have_text("1")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    assert (render.to_uint8(namespace["frames"][1]) == shown_images(again, num)).all()
    if num == 1:
        command = copied(page, "command").replace("--frames 60", "--frames 2")
        assert (tiles(run_command(command, engine, tmp_path, monkeypatch), 1) == shown_images(again)).all()


# save


def test_save_png(visit: Open, tmp_path: Path) -> None:
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


def test_save_gif(visit: Open, engine: FakeEngine, tmp_path: Path) -> None:
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
    expected = [expected_images(engine, k)[0] for k in range(4)]
    assert (expected[1] != expected[3]).any()
    matches = [[k for k in range(4) if (frame[12::24, 12::24] == expected[k]).all()] for frame in frames]
    assert all(matches)  # every frame of the GIF equals one of them exactly
    assert 2 <= len(frames) <= 4
    assert np.asarray(frames[-1]).shape == (384, 384, 3)


# the microscope


def facts(page: "Page", column: int = 0) -> list[str]:
    return page.locator(".look").nth(column).locator(".facts dd").all_inner_texts()


def test_the_microscope_shows_each_step(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=microscope")
    trace = engine.wait(lambda message: message["type"] == "trace")
    assert (trace["sampler"], trace["steps"], trace["eta"]) == ("ddim", 6, 0.5)
    scrub = page.locator("#scrub")
    expect(scrub).to_have_attribute("max", "5")
    model = engine.models["sprites"]
    t, x = model.schedule.T, model.noise(1, 7)
    for i, step in enumerate(model.stream(1, OPTIONS)):
        set_slider(page, "#scrub", i)
        expect(page.locator("#scrub-text")).to_have_text(f"step {i + 1} of 6")
        signal, noise = (value.item() for value in model.schedule.alpha_sigma(t, like=x.double()))
        assert facts(page)[:3] == [f"{t} → {step.t}", f"{signal:.3f}", f"{noise:.3f}"]
        eps = (x - signal * step.x0) / noise
        max_change = (step.x - x).abs().max().item()
        # each image with the value of white
        images = {"x_t": (x, 1.0), "x̂_0": (step.x0, 1.0), "ε̂": (eps, 3.0), "x_s": (step.x, 1.0)}
        for symbol, (image, high) in {**images, "x_s − x_t": (step.x - x, max_change)}.items():
            canvas = pixels(page, f'figure[data-image="{symbol}"] canvas')[..., :3].astype(int)
            expected = (127.5 * (1 + image[0] / high)).clamp(0, 255).permute(1, 2, 0).numpy()
            assert np.abs(canvas - expected).max() <= 1
        t, x = step.t, step.x
    update = page.locator(".equation").nth(1)
    expect(update.locator(".value")).to_have_text(["1.000", "0.000", "0.000"])  # the last step ends at x̂₀
    assert page.locator(".equation").nth(1).get_attribute("aria-label") == "xs = 1.000 x̂0 + 0.000 ε̂ + 0.000 z"


def test_two_samplers_start_from_the_same_noise(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&seed=3&steps=8&eta=1&view=microscope")
    page.locator("#beside").check()
    for sampler in ("ddpm", "ddim"):
        trace = {"type": "trace", "sampler": sampler, "steps": 8, "eta": 0}
        engine.wait(lambda message, trace=trace: trace.items() <= message.items())  # type: ignore[misc]
    expect(page.locator(".look").nth(1).locator(".facts dd").first).to_have_text(re.compile("→"))
    set_slider(page, "#scrub", 0)
    first, second = (pixels(page, f".look:nth-of-type({i}) .figures figure:nth-of-type(1) canvas") for i in (1, 2))
    assert (first == second).all()
    set_slider(page, "#scrub", 5)
    first, second = (pixels(page, f".look:nth-of-type({i}) .figures figure:nth-of-type(1) canvas") for i in (1, 2))
    assert (first != second).any()
    assert facts(page, 0)[0] == facts(page, 1)[0]
    page.wait_for_url(re.compile("step=5"))
    again = visit("#" + urlsplit(page.url).fragment)
    expect(again.locator("#scrub-text")).to_have_text("step 6 of 8")
    expect(again.locator(".look").nth(1).locator(".facts dd").first).to_have_text(facts(page, 1)[0])
    assert [again.locator(".look select").nth(i).input_value() for i in (0, 1)] == ["ddpm", "ddim"]


def test_the_microscope_follows_the_settings(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&seed=3&steps=4&paused=1&view=microscope")
    expect(page.locator("#scrub")).to_have_attribute("max", "3")
    since = len(engine.messages)
    page.keyboard.press("r")
    engine.wait(lambda message: message["type"] == "trace", since)
    page.locator(".look select").first.select_option("heun")
    page.locator(".look input").first.fill("9")
    trace = engine.wait(lambda message: message.get("sampler") == "heun" and message["steps"] == 9, since)
    assert trace["eta"] == 0
    expect(page.locator("#scrub")).to_have_attribute("max", "4")
    set_slider(page, "#scrub", 0)
    expect(page.locator(".equation").nth(1).locator(".term")).to_have_count(2)
    page.keyboard.press("Space")
    expect(page.locator("#scrub-text")).to_have_text("step 5 of 5")
    page.keyboard.press(",")
    expect(page.locator("#scrub-text")).to_have_text("step 4 of 5")


# drawing


def on_screen(page: "Page", x: float, y: float) -> tuple[float, float]:
    """The position of a pixel of the picture on the screen."""
    box = page.locator("#overlay").bounding_box()
    assert box
    width, height = page.locator("#canvas").evaluate("canvas => [canvas.width, canvas.height]")
    return box["x"] + (x + 0.5) * box["width"] / width, box["y"] + (y + 0.5) * box["height"] / height


def paint(page: "Page", *points: tuple[int, int]) -> None:
    page.mouse.move(*on_screen(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*on_screen(page, *point))
    page.mouse.up()


def choose_tool(page: "Page", name: str) -> None:
    page.locator(f"input[name=tool][value={name}]").check(force=True)


def decode(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def url_contains(image: np.ndarray) -> Callable[[str], bool]:
    """Whether a URL contains this picture. The page updates its URL a little after each change."""

    def contains(url: str) -> bool:
        found = re.search("image=([^&]*)", urlsplit(url).fragment)
        if found is None:
            return False
        deflated = base64.urlsafe_b64decode(found[1] + "==")
        return zlib.decompress(deflated, -zlib.MAX_WBITS) == image.tobytes()

    return contains


def test_draw_and_continue_from_the_drawing(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    expected = expected_images(engine, 0)[0]
    page.locator("[name=colour][value='#d9483b']").check(force=True)
    paint(page, (2, 3), (6, 3), (6, 5))
    expected[3, 2:7] = expected[4:6, 6] = (0xD9, 0x48, 0x3B)
    set_slider(page, "#brush", 2)
    page.locator("[name=colour][value='#000000']").check(force=True)
    paint(page, (10, 10))
    expected[10:12, 10:12] = 0
    set_slider(page, "#brush", 1)
    choose_tool(page, "eraser")
    paint(page, (3, 3))
    inner = np.pad(np.ones((14, 14), bool), 1)
    border = expected_images(engine, 0)[0][~inner]
    colours, counts = np.unique(border, axis=0, return_counts=True)
    expected[3, 3] = shown_images(page)[0, 3, 3]
    assert counts[(colours == expected[3, 3]).all(axis=1)].item() == counts.max()
    paint(page, (0, 0))
    page.locator("#undo").click()
    assert (shown_images(page)[0] == expected).all()
    page.wait_for_url(url_contains(expected))
    again = visit("#" + urlsplit(page.url).fragment)
    assert (shown_images(again)[0] == expected).all()
    since = len(engine.messages)
    page.locator("#dream-on").click()
    message = engine.wait(lambda message: "image" in message, since)
    assert (decode(message["image"]).reshape(16, 16, 3) == expected).all()
    engine.wait(lambda message: message["type"] == "play", since)
    expect(page.locator("#drawing")).to_be_hidden()
    page.wait_for_url(re.compile("image="))


def test_a_drawing_is_kept_while_another_view_is_open(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    paint(page, (2, 3), (6, 3))
    drawn = shown_images(page)
    assert (drawn != expected_images(engine, 0)).any()
    page.locator("[data-view=dream]").click()
    expect(page.locator("#drawing")).to_be_hidden()
    assert (shown_images(page) == expected_images(engine, 0)).all()
    page.locator("[data-view=draw]").click()
    assert (shown_images(page) == drawn).all()
    page.locator("#undo").click()
    assert (shown_images(page) == expected_images(engine, 0)).all()
    page.locator("[data-view=microscope]").click()
    page.locator("[data-view=draw]").click()  # the drawing is empty now
    assert (shown_images(page) == expected_images(engine, 0)).all()
    expect(page.locator("#undo")).to_be_disabled()


def test_inpaint_the_masked_area(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    before = shown_images(page)
    choose_tool(page, "mask")
    expect(page.locator("#repaint")).to_be_disabled()
    set_slider(page, "#brush", 4)
    paint(page, (8, 8), (12, 8))
    since = len(engine.messages)
    page.locator("#repaint").click()
    mask = decode(engine.wait(lambda message: message["type"] == "repaint", since)["mask"]).reshape(16, 16)
    assert set(np.unique(mask)) == {0, 255}
    assert mask[8, 8:12].all()
    assert mask.sum() < 255 * 16 * 16 / 4
    expect(page.locator("#frame-number")).to_have_text("1")
    assert (shown_images(page)[:, mask == 0] == before[:, mask == 0]).all()
    expect(page.locator("#repaint")).to_be_disabled()  # the mask is cleared after use
    choose_tool(page, "pencil")
    set_slider(page, "#brush", 1)
    paint(page, (0, 0), (15, 0))
    paint(page, (8, 12))
    choose_tool(page, "mask")
    paint(page, (8, 12))
    since = len(engine.messages)
    page.locator("#repaint").click()
    engine.wait(lambda message: message["type"] == "repaint", since)
    assert [message["type"] for message in engine.messages[since:]] == ["set", "repaint"]
    drawn = decode(engine.messages[since]["image"]).reshape(16, 16, 3)
    assert (drawn[0] == 0).all()
    assert (drawn[12, 8] == 0).all()
    expect(page.locator("#repaint")).to_be_disabled()
    expect(page.locator("#frame-number")).to_have_text("1")
    assert np.argwhere((shown_images(page)[0] != drawn).any(axis=2)).tolist() == [[12, 8]]  # only the masked pixel


def test_draw_on_one_of_four_grey_pictures(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=fashion_mnist&seed=2&num=4&steps=3&paused=1&view=draw")
    before = shown_images(page, 4, 28, 1)
    paint(page, (30 + 5, 30 + 7))  # the fourth picture, after 28 pixels and a gap of 2
    after = shown_images(page, 4, 28, 1)
    assert np.argwhere(after != before).tolist() in ([[3, 7, 5, 0]], [])
    assert after[3, 7, 5] == 255
    choose_tool(page, "mask")
    paint(page, (40, 3))
    expect(page.locator("#repaint")).to_be_disabled()  # the mask applies to the first picture
    paint(page, (4, 3))
    expect(page.locator("#repaint")).to_be_enabled()


# keys


def test_every_control_can_be_reached_with_the_keyboard(visit: Open) -> None:
    page = visit()
    get_name = "one => one.id || one.title || one.getAttribute('aria-label') || one.name || one.textContent"
    expected = page.evaluate(
        "() => [...document.querySelectorAll('button, input, select, summary')]"
        ".filter(one => one.checkVisibility() && !one.disabled && (one.type !== 'radio' || one.checked))"
        f".map({get_name})"
    )
    reached, outlines = [], []
    for _ in range(2 * len(expected)):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "() => { const one = document.activeElement;"
            "const style = getComputedStyle(one.type === 'radio' ? one.nextElementSibling : one);"
            f"return [({get_name})(one), style.outlineStyle + ' ' + style.outlineWidth] }}"
        )
        reached.append(name)
        outlines.append((name, outline))
    assert set(expected) <= set(reached), set(expected) - set(reached)
    assert {outline for name, outline in outlines if name in expected} == {"solid 2px"}


def test_keyboard_shortcuts(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_be_visible()
    keys = page.locator("#keys kbd").all_inner_texts()
    page.keyboard.press("Escape")
    assert keys == ["space", ".", ",", "0", "R", "[", "]", "1", "2", "3", "U", "S", "G", "C", "F", "T", "?"]

    def press(key: str, kind: str) -> dict[str, Any]:
        since = len(engine.messages)
        page.keyboard.press(key)
        return engine.wait(lambda message: message["type"] == kind, since)

    press(".", "step")
    press("0", "restart")
    press("Space", "play")
    press("Space", "pause")
    assert settings(press("[", "set"))["creativity"] == 440
    assert settings(press("r", "set"))["seed"] != "7"
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


def test_a_button_of_a_closed_dialog_does_not_receive_the_space_key(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    since = len(engine.messages)
    page.evaluate(
        "document.querySelector('#help-dialog button').dispatchEvent("
        "new KeyboardEvent('keydown', {key: ' ', bubbles: true, cancelable: true}))"
    )
    engine.wait(lambda message: message["type"] == "play", since)


def test_single_key_shortcuts_can_be_switched_off(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    page.keyboard.press("?")
    page.locator("#keys-on").uncheck()
    page.keyboard.press("Escape")
    since = len(engine.messages)
    page.keyboard.press("r")
    page.locator("#step").click()
    engine.wait(lambda message: message["type"] == "step", since)
    assert [message["type"] for message in engine.messages[since:]] == ["step"]


def test_draw_with_the_keyboard(visit: Open, engine: FakeEngine) -> None:
    page = visit(SPRITES + "&view=draw")
    expected = expected_images(engine, 0)[0]
    page.locator("#overlay").focus()
    for key in ("ArrowUp", "ArrowLeft", "Space", "Shift+ArrowRight", "Shift+ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expected[7, 7:10] = 0
    assert (shown_images(page)[0] == expected).all()
    expect(page.locator("#overlay")).to_have_attribute("aria-label", re.compile("column 10, row 9"))
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    expected[7, 9] = expected_images(engine, 0)[0][7, 9]
    assert (shown_images(page)[0] == expected).all()


# accessibility and preferences


def test_every_control_has_an_accessible_name(visit: Open) -> None:
    page = visit()
    show_more_settings(page)
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
def test_narrow_screens_scroll_only_vertically(visit: Open, width: int) -> None:
    page = visit(SPRITES + "&num=16", width, 740, has_touch=True, is_mobile=True, device_scale_factor=2)
    show_more_settings(page)
    for view in ("dream", "microscope", "draw"):
        page.locator(f"nav [data-view={view}]").click()
        if view == "microscope":
            page.locator("#beside").check()
            expect(page.locator(".look").nth(1).locator(".facts dd").first).to_have_text(re.compile("→"))
        widths = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [width, width], view
        too_small = page.evaluate(
            "() => [...document.querySelectorAll('button')].filter(one => one.checkVisibility())"
            ".map(one => [one.id || one.textContent, one.getBoundingClientRect()])"
            ".filter(([, { width, height }]) => width < 32 || height < 32).map(([name]) => name)"
        )
        assert too_small == [], view
    page.locator("nav [data-view=dream]").click()
    for button, dialog in (("#help", "#help-dialog"), ("#share", "#share-dialog")):
        page.locator(button).click()
        box = page.locator(dialog).bounding_box()
        assert box
        assert 0 <= box["x"] < box["x"] + box["width"] <= width
        assert 0 <= box["y"] < box["y"] + box["height"] <= 740
        assert page.locator(dialog).evaluate("dialog => dialog.scrollWidth - dialog.clientWidth") == 0
        page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_has_enough_contrast(visit: Open, scheme: str) -> None:
    """At least 4.5 to 1, as required by the Web Content Accessibility Guidelines (AA)."""
    page = visit(SPRITES, color_scheme=scheme)
    names = ("ground", "surface", "raised", "text", "quiet", "accent", "on-accent", "bad")
    get_colour = (
        "name => { const probe = document.body.appendChild(document.createElement('i'));"
        "probe.style.color = `var(--${name})`; const pen = new OffscreenCanvas(1, 1).getContext('2d');"
        "pen.fillStyle = getComputedStyle(probe).color; pen.fillRect(0, 0, 1, 1);"
        "return [...pen.getImageData(0, 0, 1, 1).data] }"
    )
    colours = {name: page.evaluate(get_colour, name)[:3] for name in names}

    def luminance(name: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colours[name])]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    assert (luminance("ground") < 0.05) == (scheme == "dark")
    pairs = [(text, ground) for text in ("text", "quiet", "accent", "bad") for ground in ("ground", "surface")]
    for text, ground in [*pairs, ("text", "raised"), ("on-accent", "accent")]:
        assert contrast(text, ground) >= 4.5, f"{text} on {ground}: {contrast(text, ground):.2f}"


def test_the_theme_is_stored(visit: Open) -> None:
    page = visit(SPRITES, color_scheme="dark")
    background = "body => getComputedStyle(body).backgroundColor"
    dark = page.locator("body").evaluate(background)
    page.locator("#theme").click()
    light = page.locator("body").evaluate(background)
    assert light != dark
    page.reload()
    expect(page.locator("#frame-number")).to_have_text("0")
    assert page.locator("body").evaluate(background) == light


def test_with_reduced_motion_the_page_starts_paused(visit: Open, engine: FakeEngine) -> None:
    page = visit("", reduced_motion="reduce")
    expect(page.locator("#play")).to_have_attribute("aria-label", "Play")
    assert not any(message["type"] == "play" for message in engine.messages)


def test_a_hidden_page_pauses(visit: Open, engine: FakeEngine) -> None:
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


def test_an_error_appears_next_to_its_control(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    show_more_settings(page)
    engine.rejected = ("steps", 40, "steps must be at most 39")
    set_slider(page, "#steps", 40)
    wrong = page.locator("[data-field=steps] .wrong")
    expect(wrong).to_have_text("steps must be at most 39")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#steps")).to_have_value("6")
    set_slider(page, "#steps", 12)
    expect(wrong).to_have_text("")
    expect(page.locator("#steps")).to_have_attribute("aria-invalid", "false")


def test_the_page_reconnects_when_the_server_is_back(visit: Open, engine: FakeEngine) -> None:
    page = visit("#model=sprites&steps=2&seed=11")
    status = page.locator("#status-text")
    engine.stop()
    expect(status).to_have_text(re.compile(r"^connection lost, retrying in \d+ s$"))
    canvas = pixels(page)
    assert canvas.any()  # the last picture is still there
    since = len(engine.messages)
    engine.start()
    again = engine.wait(lambda message: message["type"] == "set", since)
    assert settings(again)["seed"] == "11"
    engine.wait(lambda message: message["type"] == "play", since)
    expect(status).to_have_text("dreaming on the server")


def test_the_reason_for_closing_is_shown(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    since = len(engine.messages)
    engine.send(type="error", id=None, message="the server is full; closing")
    engine.disconnect()
    expect(page.locator("#status-text")).to_have_text("the server is full, retrying in 1 s")
    engine.wait(lambda message: message["type"] == "set", since)
    expect(page.locator("#status-text")).to_have_text("dreaming on the server")


def test_an_idle_page_reconnects_when_it_is_used(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    engine.send(type="error", id=None, message="no activity for 3600 seconds; closing")
    engine.disconnect(4408)
    status = page.locator("#status-text")
    expect(status).to_have_text("no activity for 3600 seconds; press play to continue")
    since = len(engine.messages)
    page.locator("#play").click()
    engine.wait(lambda message: message["type"] == "play", since)
    expect(status).to_have_text("dreaming on the server")


def test_notes_and_errors_appear_in_the_status_line(visit: Open, engine: FakeEngine) -> None:
    page = visit()
    engine.send(type="note", message="this browser has no WebAssembly threads: one thread used")
    expect(page.locator("#status-text")).to_have_text("this browser has no WebAssembly threads: one thread used")
    expect(page.locator("#status")).to_have_attribute("data-mood", "good")
    engine.send(type="error", id=None, message="out of memory")
    expect(page.locator("#status-text")).to_have_text("out of memory")
    expect(page.locator("#status")).to_have_attribute("data-mood", "bad")


def test_the_content_security_policy_is_enforced(visit: Open, problems: list[str]) -> None:
    """Inline scripts, inline styles and requests to other hosts are blocked."""
    page = visit()
    violations = page.evaluate(
        "() => new Promise(done => { const violations = []; addEventListener('securitypolicyviolation', event => {"
        "violations.push(event.effectiveDirective); if (violations.length === 3) done(violations.sort()) });"
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.evil = 1' }));"
        "document.body.setAttribute('style', 'color: red');"
        "fetch('http://127.0.0.1:9/').catch(() => {}) })"
    )
    assert violations == ["connect-src", "script-src-elem", "style-src-attr"]
    assert page.evaluate("() => window.evil") is None
    problems.clear()
