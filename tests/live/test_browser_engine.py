"""The engine in a real browser, on a real site: it dreams what Python dreams. Needs Chromium, Playwright, and npm."""

import base64
import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch

import shapedreamer as sd
from shapedreamer.common.errors import UserError
from shapedreamer.imaging.explore import inpaint, melt
from shapedreamer.imaging.figures import Way
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live import site
from shapedreamer.live.frames import FRAME, TRACE, Header, unpack
from shapedreamer.models.model import Model
from shapedreamer.training.loop import train
from tests.tiny import TOLD

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
pytest.importorskip("onnxscript", reason="needs the extra 'export'")

MINUTE = 60_000.0  # milliseconds: patience, which on a machine that is not busy is never needed
# In an eighth of a value of 255 the network's sums, in another order than Python's, have been seen to differ; and so
# a byte that was about to be rounded up is rounded down.
MOST = 1
TOLD_WHILE_LOADING = (("loading the", ""), ("the", " is loaded"))
ENGINE = """async () => {
    const { BrowserEngine } = await import(new URL("page/engine/browser-engine.js", document.baseURI).href);
    const heard = { frames: [], messages: [], states: [] };
    const engine = new BrowserEngine("models.json");
    engine.onstate = (state) => heard.states.push(state);
    engine.onmessage = (message) => heard.messages.push(message);
    engine.onframe = (buffer) => heard.frames.push(btoa(String.fromCharCode(...new Uint8Array(buffer))));
    Object.assign(window, { engine, heard });
}"""


# a site, a host, a browser


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with a tiny model, which has learnt as good as nothing, and with sprites."""
    folder = tmp_path_factory.mktemp("site")
    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        try:
            runtime = site._fetched(Path(scratch))
        except UserError as error:
            pytest.skip(str(error))
        train(TOLD, folder / "tiny")
        page = Path(scratch) / "page"
        shutil.copytree(site.PAGE, page)
        (page / "index.html").write_text(
            '<!doctype html><meta name="engine" content="server" /><link rel="icon" href="data:,">'
        )
        patch.setattr(site, "PAGE", page)
        site.build_site(folder / "host" / "a path", [str(folder / "tiny"), "sprites"], runtime)
    return folder


class Handler(SimpleHTTPRequestHandler):
    headers_sent: ClassVar[dict[str, str]] = site.HEADERS

    def end_headers(self) -> None:
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


class Plain(Handler):
    headers_sent: ClassVar[dict[str, str]] = {}


@contextlib.contextmanager
def serving(folder: Path, handler: type[Handler] = Handler) -> Iterator[str]:
    """The address of a host of files."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a%20path/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def opened(browser: "Browser", address: str) -> "Iterator[Page]":
    """The bare page of a site, with an engine; nothing may go wrong on it, or come from elsewhere."""
    with browser.new_context(service_workers="block") as context:  # coi.js would load the page again
        page = context.new_page()
        page.set_default_timeout(MINUTE)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(address) else faults.append(request.url))
        page.goto(address)
        page.evaluate(ENGINE)
        wait(page, "heard.states.includes('open') || heard.states.includes('closed')")
        yield page
        assert faults == []


def wait(page: "Page", condition: str) -> None:
    page.wait_for_function(f"() => {condition}")


def send(page: "Page", **message: Any) -> None:
    page.evaluate("(message) => engine.send(message)", message)


def frames(page: "Page", count: int) -> list[tuple[Header, bytes]]:
    """The first frames and traces that have come, once there are so many."""
    wait(page, f"heard.frames.length >= {count} || heard.messages.at(-1).type === 'error'")
    assert len(page.evaluate("heard.frames")) >= count, heard(page, "error")
    return [unpack(base64.b64decode(frame)) for frame in page.evaluate("heard.frames")]


def heard(page: "Page", kind: str) -> list[str]:
    return [message["message"] for message in page.evaluate("heard.messages") if message["type"] == kind]


# what Python says


def settings(model: Model, name: str, num: int = 1, creativity: int = 0, **others: Any) -> dict[str, Any]:
    best = model.sampling
    way = {"sampler": best.sampler, "steps": best.steps, "eta": best.eta, "guidance": 1, "label": "any"}
    return {"model": name, "seed": "5", "num": num, "creativity": creativity, "fps": 0, **way, **others}


def way(of: dict[str, Any]) -> Way:
    return Way(of["sampler"], of["steps"], of["eta"], int(of["seed"]), of["label"], of["guidance"])


def apart(found: bytes, images: torch.Tensor) -> int:
    """The largest difference of bytes from images (N, C, H, W)."""
    expected = to_uint8(images)
    pixels = np.frombuffer(found, np.uint8).reshape(expected.shape)
    assert expected.std() > 10  # it is no empty picture
    return int(np.abs(pixels.astype(int) - expected).max())


def tiny(built: Path) -> Model:
    return sd.load(built / "tiny", device="cpu", precision="float32")


@pytest.mark.parametrize("handler", [Handler, Plain])
def test_one_seed_is_one_picture(built: Path, browser: "Browser", handler: type[Handler]) -> None:
    with serving(built / "host", handler) as address, opened(browser, address) as page:
        assert page.evaluate("crossOriginIsolated") == (handler is Handler)
        hello = page.evaluate("heard.messages[0]")
        assert [hello["type"], hello["engine"], hello["version"]] == ["hello", "browser", sd.__version__]
        assert hello["models"] == json.loads((built / "host" / "a path" / "models.json").read_text())
        models = {"sprites": sd.load("sprites", device="cpu", precision="float32"), "tiny": tiny(built)}
        for id, (name, model) in enumerate(models.items()):
            of = settings(model, name, num=4, creativity=hello["models"][1 - id]["creativity"])
            send(page, type="set", id=id, settings=of)
            frames(page, 3 * id + 1)  # frame 0 comes by itself
            send(page, type="step")
            send(page, type="step")
            found = frames(page, 3 * id + 3)[3 * id :]
            dreamt = melt(model, model.sample(4, **way(of)._asdict()), of["creativity"], 3, 4, way(of))
            for k, (header, pixels) in enumerate(found):
                assert header[:4] == (FRAME, True, id, k)
                assert header.calls == of["steps"]
                assert apart(pixels, dreamt[k]) <= MOST
        notes = [f"{word} model {name}{more}" for name in ("sprites", "tiny") for word, more in TOLD_WHILE_LOADING]
        if handler is Plain and page.evaluate("navigator.hardwareConcurrency") > 1:
            notes[1] = "no WebAssembly threads without the headers COOP and COEP: one thread used"
        assert heard(page, "note") == notes


def test_repainting_and_traces(built: Path, browser: "Browser") -> None:
    model = tiny(built)
    of = settings(model, "tiny", num=1, steps=4, label={"circle": 2, "line": 1}, guidance=1.5, creativity=30)
    with serving(built / "host") as address, opened(browser, address) as page:
        send(page, type="set", id=7, settings=of)
        frames(page, 1)
        hole = torch.zeros(model.spec.height, model.spec.width, dtype=torch.bool)
        hole[:, 10:] = True
        send(page, type="repaint", mask=base64.b64encode((hole.byte() * 255).numpy().tobytes()).decode())
        (header, pixels) = frames(page, 2)[1]
        assert header[:4] == (FRAME, False, 7, 1)
        first = model.sample(1, **way(of)._asdict())
        assert apart(pixels, inpaint(model, first, ~hole, 1, way(of))) <= MOST
        send(page, type="trace", id=8, sampler="heun", steps=5, eta=0)
        (header, data) = frames(page, 3)[2]
        steps = list(model.stream(1, **(way(of)._replace(sampler="heun", steps=5, eta=0))._asdict()))
        assert header[:4] == (TRACE, False, 8, len(steps))
        assert header.calls == 2 * 5
        size = first.numel()
        rows = np.frombuffer(data, "<f4").reshape(len(steps), 2 + 3 * size)
        for row, step in zip(rows, steps, strict=True):
            assert row[1:2].view("<i4") == step.t
            for found, expected in zip(row[2 + size :].reshape(2, size), (step.x0, step.x), strict=True):
                assert np.abs(found - expected.numpy().ravel()).max() < 1e-3


def test_it_plays_and_pauses_and_begins_again(built: Path, browser: "Browser") -> None:
    of = settings(tiny(built), "tiny", steps=2, creativity=20)
    with serving(built / "host") as address, opened(browser, address) as page:
        send(page, type="play")
        send(page, type="set", id=1, settings=of)
        assert [header.number for header, _ in frames(page, 5)][:5] == [0, 1, 2, 3, 4]
        send(page, type="set", id=2, settings={**of, "steps": 1})
        wait(page, "heard.frames.some((frame) => atob(frame).charCodeAt(4) === 2)")  # the id
        send(page, type="pause")
        send(page, type="set", id=3, settings={**of, "seed": "6"})  # paused, it shows its frame 0 and no more
        wait(page, "atob(heard.frames.at(-1)).charCodeAt(4) === 3")
        count = len(page.evaluate("heard.frames"))
        send(page, type="restart")
        frames(page, count + 1)
        send(page, type="step")
        found = frames(page, count + 2)
        numbers = [(header.id, header.number, header.pure) for header, _ in found]
        of_first = [number for id, number, _ in numbers if id < 3]
        assert of_first == list(range(len(of_first)))  # none is left out
        assert {pure for id, _, pure in numbers if id == 2} == {False}
        assert [row for row in numbers if row[0] == 3] == [(3, 0, True), (3, 0, True), (3, 1, True)]


def test_a_page_that_takes_no_frame_gets_no_second(built: Path, browser: "Browser") -> None:
    of = settings(tiny(built), "tiny", steps=1)
    worker = """(settings) => {
        const worker = new Worker(new URL("page/engine/worker.js", document.baseURI), { type: "module" });
        const count = { frames: 0, errors: 0 };
        worker.onmessage = ({ data }) => {
            if (data instanceof ArrayBuffer) count.frames++;
            else if (data.type === "error") count.errors++;
            else if (data.type === "hello") worker.postMessage({ type: "set", id: 0, settings });
        };
        worker.postMessage({ type: "open", url: new URL("models.json", document.baseURI).href });
        Object.assign(window, { worker, count });
    }"""
    with serving(built / "host") as address, opened(browser, address) as page:
        page.evaluate(worker, of)
        wait(page, "count.frames === 1")
        for i in range(1, 11):
            page.evaluate("worker.postMessage({ type: 'restart' })")
            page.evaluate("worker.postMessage({ type: 'nonsense' })")
            wait(page, f"count.errors === {i}")
        assert page.evaluate("count.frames") == 1
        page.evaluate("worker.postMessage({ type: 'taken' })")
        wait(page, "count.frames === 2")


def test_what_is_wrong_is_said_and_the_dream_goes_on(built: Path, browser: "Browser") -> None:
    of = settings(tiny(built), "tiny", steps=1)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"type": "step"}, "comes too early"),
        ({"type": "set", "id": 1, "settings": {**of, "steps": 0}}, "steps must be a whole number"),
        ({"type": "set", "id": -1, "settings": of}, "id must be"),
        ({"type": "set", "id": 1, "settings": of, "image": "AAAA"}, "image must be of"),
        ({"type": "set", "id": 1}, "settings must be"),
        ({"type": "dance"}, "comes too early"),
        ({}, "comes too early"),
    ]
    with serving(built / "host") as address, opened(browser, address) as page:
        for message, _ in wrong:
            send(page, **message)
        send(page, type="set", id=3, settings=of)
        later: list[tuple[dict[str, Any], str]] = [
            ({"type": "repaint", "mask": "AAAA"}, "mask must be of 1024, not of 3 bytes"),
            ({"type": "repaint", "mask": base64.b64encode(bytes(32 * 32)).decode()}, "mask must have pixels of 255"),
            ({"type": "trace", "id": 1, "sampler": "ddim", "steps": 99, "eta": 0}, "steps must be"),
            ({"type": "toString"}, "message type must be one of set, play"),
        ]
        for message, _ in later:
            send(page, **message)
        wait(page, "heard.frames.length === 1")
        wait(page, f"heard.messages.filter((message) => message.type === 'error').length === {len(wrong + later)}")
        for (_, says), said in zip([*wrong, *later], heard(page, "error"), strict=True):
            assert says in said


def test_offline_once_loaded(built: Path, browser: "Browser") -> None:
    of = settings(tiny(built), "tiny", steps=2, creativity=20)
    with serving(built / "host") as address, opened(browser, address) as page:
        send(page, type="set", id=1, settings=of)
        frames(page, 1)
        page.context.set_offline(True)
        # and the server is gone too, but not the page
        for _ in range(3):
            send(page, type="step")
        assert frames(page, 4)[-1][0].number == 3


def test_a_site_without_models_says_so(built: Path, browser: "Browser", tmp_path: Path) -> None:
    shutil.copytree(built / "host", tmp_path, dirs_exist_ok=True)
    (tmp_path / "a path" / "models" / "tiny.onnx").write_bytes(b"damaged")
    of = settings(tiny(built), "tiny", steps=2, creativity=20)
    with serving(tmp_path) as address, opened(browser, address) as page:
        send(page, type="set", id=4, settings=of)
        wait(page, "heard.messages.some((message) => message.type === 'error' && message.id === 4)")
        assert "could not load the model tiny" in heard(page, "error")[0]
        (tmp_path / "a path" / "models" / "tiny.onnx").write_bytes(
            (built / "host" / "a path" / "models" / "tiny.onnx").read_bytes()
        )
        send(page, type="restart")
        assert frames(page, 1)[0][0].number == 0
    (tmp_path / "a path" / "models.json").write_text("[")
    with serving(tmp_path) as address, opened(browser, address) as page:
        assert page.evaluate("heard.states") == ["connecting", "closed"]
        assert heard(page, "error")[0].startswith(f"there are no models at {address}models.json (SyntaxError")


def test_threads_where_the_host_sends_no_headers(built: Path, browser: "Browser") -> None:
    with serving(built / "host", Plain) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_function("() => crossOriginIsolated", timeout=MINUTE)  # coi.js has loaded it again
        assert page.evaluate("document.querySelector('meta[name=engine]').content") == "browser"


ON_THE_CARD = """async ([length, shape, label]) => {
    const { openGraphics } = await import(new URL("page/engine/graphics.js", document.baseURI).href);
    const [runtime, model] = ["runtime/", "models/tiny.onnx"].map((path) => new URL(path, document.baseURI).href);
    const file = new Uint8Array(await (await fetch(model)).arrayBuffer());
    const card = await openGraphics(runtime, file, true);
    if (card === null) return null;
    const tensor = (values, shape) => new card.ort.Tensor("float32", Float32Array.from(values), shape);
    const x = tensor({ length, ...Array.from({ length }, (_, i) => Math.sin(i)) }, shape);
    const asked = { x, t: tensor([20], [1]), label: tensor(label, [1, label.length]) };
    const { prediction } = await card.session.run(asked);
    return { prediction: [...prediction.data], imitated: await openGraphics(runtime, file) };
}"""


def test_a_graphics_card_says_the_same(built: Path, browser: "Browser") -> None:
    model = tiny(built)
    channels, height, width = model.spec.channels, model.spec.height, model.spec.width
    x = torch.arange(channels * height * width).sin().view(1, channels, height, width)
    label = torch.eye(len(model.spec.labels))[:1]
    with torch.inference_mode():
        expected = model.network(x, torch.tensor([20]), label).flatten()
    imitating = [
        "--no-sandbox",
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--enable-features=Vulkan",
    ]
    chromium = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=imitating)
    with contextlib.closing(chromium), serving(built / "host") as address, opened(chromium, address) as page:
        found = page.evaluate(ON_THE_CARD, [x.numel(), list(x.shape), label[0].tolist()])
    if found is None:
        pytest.skip("this Chromium cannot imitate a graphics card")
    assert (torch.tensor(found["prediction"]) - expected).abs().max() < 1e-3
    assert found["imitated"] is None  # one that is made of software is none
