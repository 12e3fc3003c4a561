"""What the tests of pages share: hosts of pages, and a browser that visits them and reports what goes wrong."""

import contextlib
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import pytest

from shapedreamer.live import site

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

TIMEOUT = 60_000.0  # milliseconds; only a busy machine needs that long
playwright.expect.set_options(timeout=TIMEOUT)
# messages that are expected when a server has stopped, and when a test reads the pixels of a canvas
EXPECTED = ("WebSocket connection to", "net::ERR_CONNECTION_REFUSED", "Multiple readback operations")
PHONE = {"has_touch": True, "is_mobile": True}
SPRITES = "#model=sprites&seed=7&sampler=ddim&steps=6&eta=0.5&creativity=450&paused=1"
Open = Callable[..., "Page"]


class Handler(SimpleHTTPRequestHandler):
    """A static host that sends the headers of a site."""

    headers_sent: ClassVar[dict[str, str]] = site.HEADERS

    def end_headers(self) -> None:
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


class WithoutHeaders(Handler):
    headers_sent: ClassVar[dict[str, str]] = {}


@contextlib.contextmanager
def hosting(folder: Path, handler: type[Handler] = Handler) -> Iterator[str]:
    """The address of a static host."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def expect(locator: "Locator") -> Any:
    return playwright.expect(locator)


def wait_for_frame(page: "Page") -> None:
    expect(page.locator("#frame-number")).to_have_text(re.compile(r"\d"))


@contextlib.contextmanager
def visiting(
    browser: "Browser",
    address: str,
    start: str,
    problems: list[str] | None = None,
    ready: Callable[["Page"], object] = wait_for_frame,
    **defaults: Any,
) -> Iterator[Open]:
    """Opens a page at a hash, by default at `start`, and waits until it is ready. At the end, checks that there were no
    errors, and no requests to other hosts.

    problems  the list that receives errors and warnings
    defaults  options of the browser's context
    """
    contexts, urls, found = [], set(), [] if problems is None else problems

    def on_console(message: "ConsoleMessage") -> None:
        if message.type in ("error", "warning") and not any(part in message.text for part in EXPECTED):
            found.append(message.text)

    def visit(hash: str = start, width: int = 1280, height: int = 800, **options: Any) -> "Page":
        context = browser.new_context(viewport={"width": width, "height": height}, **{**defaults, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("request", lambda request: urls.add(urlsplit(request.url)))
        page.on("pageerror", lambda error: found.append(str(error)))
        page.on("console", on_console)
        page.goto(address + hash)
        ready(page)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert {parts.netloc for parts in urls if parts.scheme not in ("blob", "data")} == {urlsplit(address).netloc}
    assert found == []


# Clears the number of the frame as soon as the page has begun another visit, in the same task. The page may still draw
# the old picture before that, and the new one arrives later.
FOLLOW = """(hash) => {
    const number = document.getElementById("frame-number");
    const before = history.state?.visit;
    number.value = "";
    history.replaceState(null, "", "#");
    history.replaceState = (state, ...others) => {
        History.prototype.replaceState.call(history, state, ...others);
        if (state.visit === before) return;
        delete history.replaceState;
        queueMicrotask(() => (number.value = ""));
    };
    location.hash = hash;
}"""


def follow(page: "Page", hash: str) -> None:
    """Open a link in a page that is open already, and wait for its first frame."""
    page.evaluate(FOLLOW, hash)
    wait_for_frame(page)


def hold(page: "Page", locator: "Locator") -> None:
    """Hold a finger on an element until its explanation appears."""
    locator.scroll_into_view_if_needed()
    box = locator.bounding_box()
    assert box
    point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    touch = page.context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    expect(page.locator("#explanation-tip")).to_be_visible()
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


# A control is explained by its own title or that of its group, by a term or a hint beside it, or by its description.
UNEXPLAINED = """() => {
    const isExplained = (control) => {
        const group = control.closest("[role=radiogroup]") ?? control;
        const ids = [control.getAttribute("aria-describedby"), group.getAttribute("aria-labelledby")];
        const others = ids.join(" ").split(" ").flatMap((id) => document.getElementById(id) ?? []);
        const field = control.closest(".field, [data-field], .option, .options, #depth-field");
        return control.matches(".explain")
            || control.closest("[title]:not([title=''])") !== null
            || control.querySelector(":scope > title") !== null
            || control.labels?.[0]?.querySelector("small") != null
            || others.some((other) => other.matches(".explain, .hint") && other.textContent.trim())
            || [...(field?.querySelectorAll(".explain, .hint") ?? [])].some((hint) => hint.textContent.trim());
    };
    const controls = document.querySelectorAll("button, select, input, summary, [role=slider], nav a");
    return [...controls]
        .filter((control) => control.checkVisibility() && !control.closest("#tour-choices, .equation"))
        .filter((control) => !isExplained(control))
        .map((control) => control.id || control.getAttribute("aria-label") || control.outerHTML);
}"""


def unexplained(page: "Page") -> list[str]:
    """The visible controls without an explanation. Choices of the tour and images in equations are not controls."""
    found: list[str] = page.evaluate(UNEXPLAINED)
    return found
