"""The views that explain, in a real browser, with the engine in the server and with the one in the browser."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from torch import Tensor

import shapedreamer as sd
from shapedreamer.common.names import SamplerName
from shapedreamer.imaging.editing import melt
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live import site
from shapedreamer.models import zoo
from shapedreamer.models.options import SampleOptions

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = pytest.mark.slow
for module, extra in (("playwright", "dev"), ("starlette", "web"), ("uvicorn", "web"), ("onnxscript", "export")):
    pytest.importorskip(module, reason=f"needs the extra '{extra}'")

from shapedreamer.live.server import Limits  # noqa: E402  these need the modules above
from tests.live.browsing import Open, expect, follow, hosting, visiting  # noqa: E402
from tests.live.test_load import serving  # noqa: E402

MODELS = {"sprites": "sprites-epoch-31", "sprites-epoch-0": "sprites-epoch-0", "sprites-epoch-8": "sprites-epoch-8"}
SETTINGS = "#model=sprites&seed=7&sampler=ddim&steps=4&eta=0.5&creativity=300&label=none&paused=1"
OPTIONS = SampleOptions("ddim", 4, 0.5, 7, None)
MAX_DIFFERENCE = 1  # of a grey level: the engines add up products in different orders


@contextlib.contextmanager
def served(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server."""
    with serving(Limits(), {name: sd.load(run, device="cpu") for name, run in MODELS.items()}) as (address, _):
        yield f"http://{address}/"


@contextlib.contextmanager
def hosted(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a static site with the same models."""
    folder = request.getfixturevalue("tmp_path_factory").mktemp("lenses")
    shutil.copyfile(zoo.path("sprites-epoch-31"), folder / "sprites.safetensors")
    models = [str(folder / "sprites.safetensors"), *list(MODELS)[1:]]
    site.build_site(folder / "site", models, request.getfixturevalue("runtime"))
    with hosting(folder / "site") as address:
        yield address


@pytest.fixture(scope="module", params=[served, hosted])
def open_page(request: pytest.FixtureRequest, browser: "Browser") -> Iterator[Open]:
    """Opens a page. The browser starts before the server, because its threads stay when the server stops."""
    options: Any = {"service_workers": "block", "reduced_motion": "reduce"}
    with request.param(request) as address, visiting(browser, address, SETTINGS, **options) as visit:
        yield visit


@pytest.fixture(scope="module")
def pages(open_page: Open) -> "tuple[Page, Page]":
    """Two pages that stay open, because it takes a page of the static site long to load its model."""
    return open_page(), open_page()


@pytest.fixture
def visit(pages: "tuple[Page, Page]") -> "Callable[[str], Page]":
    """Opens a link in the first page, and then one in the second page."""
    unused = iter(pages)

    def visit(hash: str) -> "Page":
        page = next(unused)
        follow(page, hash)
        return page

    return visit


def fragment(page: "Page", pattern: str) -> str:
    """The hash of the page's URL, once it matches a pattern."""
    page.wait_for_url(re.compile(pattern))
    return "#" + urlsplit(page.url).fragment


def pixels(canvas: "Locator") -> np.ndarray:
    """The content of a canvas, (H, W, 3)."""
    width, height, values = canvas.evaluate(
        "canvas => [canvas.width, canvas.height, "
        "[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]]"
    )
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3].astype(int)


def figure(page: "Page", image: str) -> "Locator":
    return page.locator(f'figure[data-image="{image}"]').first


def assert_shows(canvas: "Locator", image: Tensor) -> None:
    """Check that a canvas shows the first image of a batch."""
    expected = to_uint8(image[:1])[0].astype(int)
    assert np.abs(pixels(canvas) - expected).max() <= MAX_DIFFERENCE


def drag(page: "Page", plot: str, fraction: float) -> None:
    """Drag on a plot, to a place between its axes."""
    box = page.locator(plot).bounding_box()
    assert box
    left, width = box["x"] + 44, box["width"] - 88
    page.mouse.move(left + width / 2, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(left + fraction * width, box["y"] + 60, steps=3)
    page.mouse.up()


def test_the_microscope_explains_the_frame_on_screen(visit: "Callable[[str], Page]") -> None:
    page = visit(SETTINGS + "&frame=2&view=microscope&look=ddim-4-0.5&step=0&of=2")
    model = sd.load("sprites-epoch-31", device="cpu", precision="float32")
    frames = melt(model, model.sample(1, OPTIONS), 300, 4, 1, OPTIONS)
    ends = page.locator(".journey figure")
    expect(ends.nth(1)).to_contain_text("frame 2")
    assert_shows(ends.nth(0).locator("canvas"), frames[1])
    assert_shows(ends.nth(1).locator("canvas"), frames[2])
    expect(page.locator(".noising").first).to_have_text(re.compile("t.=.300"))
    x_t = model.diffuse(frames[1], 300, 7, 2**31 + 2)
    assert_shows(figure(page, "x_t").locator("canvas"), x_t)
    expect(page.locator("#scrub-text")).to_have_text("step 1 of 4")

    # a term lights up its picture, by pointer and by focus
    term = page.locator('.equation .term[data-image="z"]')
    for light, dark in ((term.hover, lambda: page.mouse.move(1, 1)), (term.focus, term.blur)):
        light()
        expect(figure(page, "z")).to_have_class("lit")
        expect(figure(page, "x_t")).not_to_have_class("lit")
        dark()
        expect(figure(page, "z")).not_to_have_class("lit")
    # z is what the sampler added: x_s minus the other terms
    assert np.abs(pixels(figure(page, "z").locator("canvas")) - 127.5).mean() > 20

    # the creativity slider makes the frame again; a link shows the same steps
    page.locator("#depth").fill("120")
    expect(page.locator(".noising").first).to_have_text(re.compile("t.=.120"))
    assert_shows(ends.nth(0).locator("canvas"), frames[1])
    end = pixels(ends.nth(1).locator("canvas"))
    again = visit(fragment(page, "creativity=120.*of=2.*image="))
    expect(again.locator(".journey figcaption").nth(1)).to_have_text(re.compile("frame 2"))
    assert np.abs(pixels(again.locator(".journey figure canvas").nth(1)) - end).max() <= 8  # the link rounds to bytes

    page.locator("#next-frame").click()
    expect(ends.nth(1)).to_contain_text("frame 3")
    page.locator("input[name=of][value=noise]").check(force=True)
    expect(ends.nth(0)).to_be_hidden()
    assert_shows(ends.nth(1).locator("canvas"), frames[0])
    fragment(page, "of=noise")


def test_the_schedule_follows_the_creativity_and_sets_it(visit: "Callable[[str], Page]") -> None:
    page = visit(SETTINGS + "&view=schedule")
    model = sd.load("sprites-epoch-31", device="cpu", precision="float32")
    handle, creativity = page.get_by_role("slider", name="Timestep t"), page.locator("#creativity")
    expect(handle).to_have_attribute("aria-valuenow", "300")
    expect(page.locator("#schedule .film")).to_be_visible()
    canvas = page.locator("#schedule .sum canvas")
    image = model.sample(1, OPTIONS)
    noise = model.noise(1, 7)
    signal, sigma = (value.item() for value in model.schedule.alpha_sigma(300, like=image.double()))
    for place, expected in enumerate((signal * image, sigma * noise / 3, signal * image + sigma * noise)):
        assert_shows(canvas.nth(place), expected)
    facts = page.locator("#schedule dd").all_inner_texts()
    assert facts[:3] == ["300", f"{signal:.3f}", f"{sigma:.3f}"]

    handle.focus()
    for key, t in (("ArrowRight", 301), ("PageDown", 276), ("Home", 0), ("End", 500)):
        page.keyboard.press(key)
        expect(handle).to_have_attribute("aria-valuenow", str(t))
        expect(creativity).to_have_value(str(t))
    assert_shows(canvas.nth(2), noise)  # no signal is left at T
    drag(page, "#schedule .plot", 0.25)
    expect(handle).to_have_attribute("aria-valuenow", re.compile("12[3-7]"))
    page.locator("#schedule .strip").click(position={"x": 5, "y": 5})
    expect(creativity).to_have_value(re.compile(r"^1?\d$"))
    creativity.fill("444")
    expect(handle).to_have_attribute("aria-valuenow", "444")
    again = visit(fragment(page, "creativity=444.*view=schedule"))
    expect(again.get_by_role("slider", name="Timestep t")).to_have_attribute("aria-valuenow", "444")


def test_training_shows_the_checkpoints_of_a_run(visit: "Callable[[str], Page]") -> None:
    page = visit(SETTINGS + "&view=training&epoch=8")
    text, sheet = page.locator("#training .scrubber output"), page.locator("#training canvas")
    expect(sheet).to_have_attribute("aria-label", "16 pictures after epoch 8")
    expect(text).to_have_text("epoch 8 of 8")
    model = sd.load("sprites-epoch-8", device="cpu", precision="float32")
    expected = to_uint8(model.sample(16, seed=7)).astype(int)
    sheet_pixels = pixels(sheet)
    tiles = np.stack([sheet_pixels[y : y + 16, x : x + 16] for y in range(0, 67, 17) for x in range(0, 67, 17)])
    assert np.abs(tiles - expected).mean() < 0.1
    expect(page.locator("#training .split .hint")).to_contain_text("held-out loss is 0.190")
    page.keyboard.press(",")
    expect(text).to_have_text("epoch 0 of 8")
    expect(sheet).to_have_attribute("aria-label", "16 pictures after epoch 0")
    fragment(page, "view=training&epoch=0")
    page.keyboard.press("Space")
    expect(text).to_have_text("epoch 8 of 8")
    drag(page, "#training .plot", 0.1)
    expect(text).to_have_text("epoch 0 of 8")

    # the checkpoints are not in the list of models, but links to them work
    assert page.locator("#model option").all_inner_texts() == ["sprites"]
    other = visit(SETTINGS.replace("model=sprites", "model=sprites-epoch-8"))
    expect(other.locator("#model")).to_have_value("sprites-epoch-8")
    assert_shows(other.locator("#canvas"), model.sample(1, OPTIONS))


def test_the_race_runs_four_samplers_from_one_noise(visit: "Callable[[str], Page]") -> None:
    page = visit(SETTINGS + "&view=race&calls=3")
    model = sd.load("sprites-epoch-31", device="cpu", precision="float32")
    race, lanes = page.locator("#race"), page.locator("#race .lanes figure")
    expect(race).to_have_attribute("aria-busy", "false")
    samplers: tuple[SamplerName, ...] = ("ddpm", "ddim", "heun", "dpmpp_2m")
    for place, sampler in enumerate(samplers):
        expected = model.sample(1, SampleOptions(sampler, 3, 0.0, 7, None))
        assert_shows(lanes.nth(place).locator("canvas"), expected)
    expect(lanes.nth(1)).to_contain_text("DDIM95.7% (92.5% to 97.6%), FID 5.19 with 4 calls")
    expect(page.locator("#race .hint")).to_contain_text("Measured with 256 samples per point")
    page.keyboard.press(".")
    expect(page.locator("#race .scrubber output")).to_have_text("4 calls")
    handle = page.get_by_role("slider", name="Network calls").last
    expect(race).to_have_attribute("aria-busy", "false")
    drag(page, "#race .plot", 0)
    expect(page.locator("#race .scrubber output")).to_have_text("1 call")
    expect(race).to_have_attribute("aria-busy", "false")
    one, other = (pixels(lanes.nth(place).locator("canvas")) for place in (1, 2))
    assert np.abs(one - other).max() <= MAX_DIFFERENCE  # with one call, Heun is DDIM
    page.locator("#race .plot .handle").focus()
    page.keyboard.press("End")
    expect(page.locator("#race .scrubber output")).to_have_text("50 calls")
    assert handle.count() == 1
    again = visit(fragment(page, "view=race&calls=50"))
    expect(again.locator("#race .scrubber output")).to_have_text("50 calls")


@pytest.mark.parametrize("open_page", [served], indirect=True)
@pytest.mark.parametrize(("width", "height"), [(360, 740), (844, 390)])
def test_phones_scroll_only_vertically(open_page: Open, width: int, height: int) -> None:
    page = open_page(SETTINGS + "&frame=1", width, height, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.locator("nav [data-view=microscope]").click()
    for lens in ("microscope", "schedule", "training", "race"):
        page.locator(f"input[name=lens][value={lens}]").check(force=True)
        expect(page.locator(f"#{lens}")).to_be_visible()
        picture = page.locator(f"#{lens} canvas:not(.strip):visible").last
        expect(picture).to_be_visible()
        assert page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]") == [width, width], lens


@pytest.mark.parametrize("open_page", [served], indirect=True)
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_curves_and_labels_have_enough_contrast(open_page: Open, scheme: str) -> None:
    page = open_page(SETTINGS + "&view=schedule", color_scheme=scheme)
    colours = page.locator("#schedule .plot text").evaluate_all(
        "texts => texts.map(text => getComputedStyle(text).fill)"
    )
    background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    for colour in {*colours}:
        assert contrast(colour, background) >= 4.5, (colour, background)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2, 1 to 21."""
    light = []
    for colour in (one, other):
        values = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)
