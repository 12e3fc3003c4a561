"""The engine in a real browser, on a real site: it generates what Python generates. Needs Chromium, Playwright, npm."""

import base64
import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import shapedreamer as sd
from shapedreamer.imaging.editing import inpaint, melt
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live import site
from shapedreamer.live.frames import FRAME, TRACE, Header, unpack
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import DiTConfig
from shapedreamer.training.loop import train
from tests.tiny import CONDITIONAL

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
for module, extra in (("onnxscript", "export"), ("playwright", "dev")):
    pytest.importorskip(module, reason=f"needs the extra '{extra}'")

from tests.live.browsing import TIMEOUT, Handler, WithoutHeaders, hosting  # noqa: E402  it needs playwright

# The browser adds up products in another order than Python. That has changed pixels by up to an eighth of a grey level,
# which can round to the next one.
MAX_DIFFERENCE = 1
TRANSFORMER = DiTConfig(patch=8, width=32, depth=2, head_dim=8)
ENGINE = """async () => {
    const { BrowserEngine } = await import(new URL("page/engine/browser-engine.js", document.baseURI).href);
    const received = { frames: [], messages: [], states: [] };
    const engine = new BrowserEngine("models.json");
    engine.onstate = (state) => received.states.push(state);
    engine.onmessage = (message) => received.messages.push(message);
    engine.onframe = (buffer) => received.frames.push(btoa(String.fromCharCode(...new Uint8Array(buffer))));
    Object.assign(window, { engine, received });
}"""


# a site, a host, a browser


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, runtime: Path) -> Path:
    """A site with a tiny, barely trained model, with sprites, and with a transformer."""
    folder = tmp_path_factory.mktemp("site")
    with TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        train(CONDITIONAL, folder / "tiny")
        train(replace(CONDITIONAL, network=TRANSFORMER), folder / "transformer", sample_every=0, save_every=0)
        page = Path(scratch) / "page"
        shutil.copytree(site.PAGE, page)
        (page / "index.html").write_text(
            '<!doctype html><meta name="engine" content="server" /><link rel="icon" href="data:,">'
        )
        patch.setattr(site, "PAGE", page)
        site.build_site(
            folder / "host" / "a path", [str(folder / "tiny"), "sprites", str(folder / "transformer")], runtime
        )
    return folder


@contextlib.contextmanager
def serving(folder: Path, handler: type[Handler] = Handler) -> Iterator[str]:
    """The address of a static host."""
    with hosting(folder, handler) as address:
        yield f"{address}a%20path/"


@contextlib.contextmanager
def opened(browser: "Browser", address: str) -> "Iterator[Page]":
    """An empty page of the site, with an engine. At the end, checks for errors and for requests to other hosts."""
    with browser.new_context(service_workers="block") as context:  # otherwise coi.js would reload the page
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(address) else problems.append(request.url))
        page.goto(address)
        page.evaluate(ENGINE)
        wait(page, "received.states.includes('open') || received.states.includes('closed')")
        yield page
        assert problems == []


def wait(page: "Page", condition: str) -> None:
    page.wait_for_function(f"() => {condition}")


def send(page: "Page", **message: Any) -> None:
    page.evaluate("(message) => engine.send(message)", message)


def frames(page: "Page", count: int) -> list[tuple[Header, bytes]]:
    """All frames and traces so far, once there are at least `count`."""
    wait(page, f"received.frames.length >= {count} || received.messages.at(-1)?.type === 'error'")
    assert len(page.evaluate("received.frames")) >= count, message_texts(page, "error")
    return [unpack(base64.b64decode(frame)) for frame in page.evaluate("received.frames")]


def message_texts(page: "Page", kind: str) -> list[str]:
    """The texts of all messages of a type, "error" or "note"."""
    return [message["message"] for message in page.evaluate("received.messages") if message["type"] == kind]


# what Python generates


def settings(model: Model, name: str, num: int = 1, creativity: int = 0, **others: Any) -> dict[str, Any]:
    default = model.sampling
    options = {"sampler": default.sampler, "steps": default.steps, "eta": default.eta, "guidance": 1, "label": "any"}
    return {"model": name, "seed": "5", "num": num, "creativity": creativity, "fps": 0, **options, **others}


def sample_options(values: dict[str, Any]) -> SampleOptions:
    sampler, steps, eta = values["sampler"], values["steps"], values["eta"]
    return SampleOptions(sampler, steps, eta, int(values["seed"]), values["label"], values["guidance"])


def max_difference(found: bytes, images: torch.Tensor) -> int:
    """The largest difference, in grey levels, between the bytes and images (N, C, H, W)."""
    expected = to_uint8(images)
    pixels = np.frombuffer(found, np.uint8).reshape(expected.shape)
    assert expected.std() > 10  # the picture is not empty
    return int(np.abs(pixels.astype(int) - expected).max())


def tiny(built: Path) -> Model:
    """The model of the site, which stores its weights in half precision."""
    model = sd.load(built / "tiny", device="cpu", precision="float32")
    for weight in model.network.parameters():
        weight.data = weight.data.half().float()
    return model


@pytest.mark.parametrize("handler", [Handler, WithoutHeaders])
def test_frames_equal_those_of_python(built: Path, browser: "Browser", handler: type[Handler]) -> None:
    with serving(built / "host", handler) as address, opened(browser, address) as page:
        assert page.evaluate("crossOriginIsolated") == (handler is Handler)
        hello = page.evaluate("received.messages[0]")
        assert [hello["type"], hello["engine"], hello["version"]] == ["hello", "browser", sd.__version__]
        assert hello["models"] == json.loads((built / "host" / "a path" / "models.json").read_text())
        models = {"sprites": sd.load("sprites", device="cpu", precision="float32"), "tiny": tiny(built)}
        for id, (name, model) in enumerate(models.items()):
            values = settings(model, name, num=4, creativity=hello["models"][1 - id]["creativity"])
            send(page, type="set", id=id, settings=values)
            frames(page, 3 * id + 1)  # frame 0 needs no "step"
            send(page, type="step")
            send(page, type="step")
            found = frames(page, 3 * id + 3)[3 * id :]
            options = sample_options(values)
            expected = melt(model, model.sample(4, options), values["creativity"], 3, 4, options)
            for k, (header, pixels) in enumerate(found):
                assert header[:4] == (FRAME, True, id, k)
                assert header.calls == values["steps"]
                assert max_difference(pixels, expected[k]) <= MAX_DIFFERENCE
        notes = []
        for name in ("sprites", "tiny"):
            notes += [f"loading the model {name}", f"the model {name} is loaded"]
        if handler is WithoutHeaders and page.evaluate("navigator.hardwareConcurrency") > 1:
            notes[1] = "running on one thread: WebAssembly threads need the COOP and COEP headers"
        assert message_texts(page, "note") == notes
        sizes = json.loads((built / "host" / "a path" / "site.json").read_text())["sizes"]
        files = [sizes["runtime/ort-wasm-simd-threaded.wasm.gz"], *(sizes[f"models/{name}.onnx"] for name in models)]
        reports = page.evaluate("received.messages.filter((message) => message.type === 'progress')")
        assert reports
        for report in reports:  # sums over the downloads that run at the same time
            assert 0 < report["loaded"] <= report["total"]
            assert report["total"] in (*files, files[0] + files[1])


def test_a_transformer_runs_in_the_browser(built: Path, browser: "Browser") -> None:
    model = sd.load(built / "transformer", device="cpu", precision="float32")
    values = settings(model, "transformer", num=4, label={"circle": 1}, guidance=2)
    with serving(built / "host") as address, opened(browser, address) as page:
        send(page, type="set", id=0, settings=values)
        [(_, pixels)] = frames(page, 1)
    assert max_difference(pixels, model.sample(4, sample_options(values))) <= MAX_DIFFERENCE


def test_repainting_and_traces(built: Path, browser: "Browser") -> None:
    model = tiny(built)
    values = settings(model, "tiny", num=1, steps=4, label={"circle": 2, "line": 1}, guidance=1.5, creativity=30)
    with serving(built / "host") as address, opened(browser, address) as page:
        send(page, type="set", id=7, settings=values)
        frames(page, 1)
        hole = torch.zeros(model.spec.height, model.spec.width, dtype=torch.bool)
        hole[:, 10:] = True
        send(page, type="repaint", mask=base64.b64encode((hole.byte() * 255).numpy().tobytes()).decode())
        (header, pixels) = frames(page, 2)[1]
        assert header[:4] == (FRAME, False, 7, 1)
        options = sample_options(values)
        first = model.sample(1, options)
        assert max_difference(pixels, inpaint(model, first, ~hole, 1, options)) <= MAX_DIFFERENCE
        send(page, type="trace", id=8, sampler="heun", steps=5, eta=0)
        (header, data) = frames(page, 3)[2]
        steps = list(model.stream(1, options, sampler="heun", steps=5, eta=0))
        assert header[:4] == (TRACE, False, 8, len(steps))
        assert header.calls == 2 * 5
        size = first.numel()
        rows = np.frombuffer(data, "<f4").reshape(len(steps), 2 + 3 * size)
        for row, step in zip(rows, steps, strict=True):
            assert row[1:2].view("<i4") == step.t
            for found, expected in zip(row[2 + size :].reshape(2, size), (step.x0, step.x), strict=True):
                assert np.abs(found - expected.numpy().ravel()).max() < 1e-3


def test_play_pause_and_restart(built: Path, browser: "Browser") -> None:
    values = settings(tiny(built), "tiny", steps=2, creativity=20)
    with serving(built / "host") as address, opened(browser, address) as page:
        send(page, type="play")
        send(page, type="set", id=1, settings=values)
        assert [header.number for header, _ in frames(page, 5)][:5] == [0, 1, 2, 3, 4]
        send(page, type="set", id=2, settings={**values, "steps": 1})
        wait(page, "received.frames.some((frame) => atob(frame).charCodeAt(4) === 2)")  # the id
        send(page, type="pause")
        send(page, type="set", id=3, settings={**values, "seed": "6"})  # while paused, only frame 0 is generated
        wait(page, "atob(received.frames.at(-1)).charCodeAt(4) === 3")
        count = len(page.evaluate("received.frames"))
        send(page, type="restart")
        frames(page, count + 1)
        send(page, type="step")
        found = frames(page, count + 2)
        numbers = [(header.id, header.number, header.pure) for header, _ in found]
        first_run = [number for id, number, _ in numbers if id < 3]
        assert first_run == list(range(len(first_run)))  # no frame is skipped
        assert {pure for id, _, pure in numbers if id == 2} == {False}
        assert [row for row in numbers if row[0] == 3] == [(3, 0, True), (3, 0, True), (3, 1, True)]


def test_the_worker_waits_until_the_page_has_taken_a_frame(built: Path, browser: "Browser") -> None:
    values = settings(tiny(built), "tiny", steps=1)
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
        page.evaluate(worker, values)
        wait(page, "count.frames === 1")
        for i in range(1, 11):
            page.evaluate("worker.postMessage({ type: 'restart' })")
            page.evaluate("worker.postMessage({ type: 'nonsense' })")
            wait(page, f"count.errors === {i}")
        assert page.evaluate("count.frames") == 1
        page.evaluate("worker.postMessage({ type: 'taken' })")
        wait(page, "count.frames === 2")


def test_invalid_messages_are_answered_with_an_error_and_playback_continues(built: Path, browser: "Browser") -> None:
    values = settings(tiny(built), "tiny", steps=1)
    before_set: list[tuple[dict[str, Any], str]] = [
        ({"type": "step"}, 'send "set" before'),
        ({"type": "set", "id": 1, "settings": {**values, "steps": 0}}, "steps must be a whole number"),
        ({"type": "set", "id": -1, "settings": values}, "id must be"),
        ({"type": "set", "id": 1, "settings": values, "image": "AAAA"}, "image must be"),
        ({"type": "set", "id": 1}, "settings must be"),
        ({"type": "set", "id": 1, "settings": []}, "settings must be"),
        ({"type": "dance"}, 'send "set" before'),
        ({}, 'send "set" before'),
    ]
    with serving(built / "host") as address, opened(browser, address) as page:
        for message, _ in before_set:
            send(page, **message)
        send(page, type="set", id=3, settings=values)
        after_set: list[tuple[dict[str, Any], str]] = [
            ({"type": "repaint", "mask": "AAAA"}, "mask must be 1024 bytes long, not 3 bytes"),
            ({"type": "repaint", "mask": base64.b64encode(bytes(32 * 32)).decode()}, "mask selects nothing"),
            ({"type": "trace", "id": 1, "sampler": "ddim", "steps": 99, "eta": 0}, "steps must be"),
            ({"type": "toString"}, "message type must be one of set, play"),
        ]
        for message, _ in after_set:
            send(page, **message)
        wait(page, "received.frames.length === 1")
        invalid = [*before_set, *after_set]
        wait(page, f"received.messages.filter((message) => message.type === 'error').length === {len(invalid)}")
        for (_, reason), text in zip(invalid, message_texts(page, "error"), strict=True):
            assert reason in text


def test_a_loaded_model_works_offline(built: Path, browser: "Browser") -> None:
    values = settings(tiny(built), "tiny", steps=2, creativity=20)
    with serving(built / "host") as address, opened(browser, address) as page:
        send(page, type="set", id=1, settings=values)
        frames(page, 1)
        page.context.set_offline(True)
        for _ in range(3):
            send(page, type="step")
        assert frames(page, 4)[-1][0].number == 3


def test_missing_and_damaged_models_are_reported(built: Path, browser: "Browser", tmp_path: Path) -> None:
    shutil.copytree(built / "host", tmp_path, dirs_exist_ok=True)
    (tmp_path / "a path" / "models" / "tiny.onnx").write_bytes(b"damaged")
    values = settings(tiny(built), "tiny", steps=2, creativity=20)
    with serving(tmp_path) as address, opened(browser, address) as page:
        send(page, type="set", id=4, settings=values)
        wait(page, "received.messages.some((message) => message.type === 'error' && message.id === 4)")
        assert "could not load the model tiny" in message_texts(page, "error")[0]
        (tmp_path / "a path" / "models" / "tiny.onnx").write_bytes(
            (built / "host" / "a path" / "models" / "tiny.onnx").read_bytes()
        )
        page.evaluate("received.messages.length = 0")  # frames() stops waiting at an error
        send(page, type="restart")
        assert frames(page, 1)[0][0].number == 0
    (tmp_path / "a path" / "models.json").write_text("[")
    with serving(tmp_path) as address, opened(browser, address) as page:
        assert page.evaluate("received.states") == ["connecting", "closed"]
        failure = f"could not load the list of models from {address}models.json (SyntaxError"
        assert message_texts(page, "error")[0].startswith(failure)


def test_the_page_has_threads_if_the_host_sends_no_headers(built: Path, browser: "Browser") -> None:
    with serving(built / "host", WithoutHeaders) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_function("() => crossOriginIsolated", timeout=TIMEOUT)  # coi.js has reloaded the page
        assert page.evaluate("document.querySelector('meta[name=engine]').content") == "browser"


RUN_ON_GPU = """async ([length, shape, label]) => {
    const { openGraphics } = await import(new URL("page/engine/graphics.js", document.baseURI).href);
    const [runtime, model] = ["runtime/", "models/tiny.onnx"].map((path) => new URL(path, document.baseURI).href);
    const file = new Uint8Array(await (await fetch(model)).arrayBuffer());
    const gpu = await openGraphics(runtime, file, true);
    if (gpu === null) return null;
    const tensor = (values, shape) => new gpu.ort.Tensor("float32", Float32Array.from(values), shape);
    const x = tensor({ length, ...Array.from({ length }, (_, i) => Math.sin(i)) }, shape);
    const inputs = { x, t: tensor([20], [1]), label: tensor(label, [1, label.length]) };
    const { prediction } = await gpu.session.run(inputs);
    return { prediction: [...prediction.data], default: await openGraphics(runtime, file) };
}"""


def test_a_gpu_computes_the_same_predictions(built: Path, browser: "Browser") -> None:
    model = tiny(built)
    channels, height, width = model.spec.channels, model.spec.height, model.spec.width
    x = torch.arange(channels * height * width).sin().view(1, channels, height, width)
    label = torch.eye(len(model.spec.labels))[:1]
    with torch.inference_mode():
        expected = model.network(x, torch.tensor([20]), label).flatten()
    flags = [
        "--no-sandbox",
        "--enable-unsafe-webgpu",
        "--use-webgpu-adapter=swiftshader",
        "--enable-features=Vulkan",
    ]
    chromium = browser.browser_type.launch(executable_path=shutil.which("chromium"), args=flags)
    with contextlib.closing(chromium), serving(built / "host") as address, opened(chromium, address) as page:
        found = page.evaluate(RUN_ON_GPU, [x.numel(), list(x.shape), label[0].tolist()])
    if found is None:
        pytest.skip("this Chromium cannot emulate a GPU")
    assert (torch.tensor(found["prediction"]) - expected).abs().max() < 1e-3
    assert found["default"] is None  # a GPU emulated in software is not used by default
