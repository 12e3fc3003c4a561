"""A fake of the live server, for tests of the page. It records every message, and tests can make it fail.

Its models are exact denoisers of a few images from the cards of shipped models. It generates frames with Model and
imaging.editing, so the page shows what a real server would send. It can reject a setting, disconnect, and stop.
"""

import base64
import http
import json
import mimetypes
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

import shapedreamer
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion import oracle
from shapedreamer.diffusion.samplers import Step
from shapedreamer.diffusion.schedule import Schedule, cosine
from shapedreamer.imaging import render
from shapedreamer.imaging.editing import (
    RENOISE_OFFSET,
    drift_frame,
    inpaint,
    start_of,
    variation_plan,
    vary,
    with_labels_of,
)
from shapedreamer.live.thumbnails import thumbnail
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Sampling
from shapedreamer.models.zoo import WEIGHTS

PAGE = Path(shapedreamer.__file__).parent / "live" / "page"
TIMEOUT = 30.0  # seconds; only a busy machine needs that long
CSP = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CSP,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
SPRITES = ("human", "non-human", "food", "spell", "side-facing")
CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")


class ExactNetwork(nn.Module):
    """A network that predicts x₀ exactly, for data that consists of these images, (N, C, H, W). Counts its calls."""

    def __init__(self, images: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.denoise = oracle.finite_data(images, schedule)
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.denoise(x, t)


def make_model(name: str, labels: tuple[str, ...], size: int, scale: int, T: int) -> Model:
    """A model of the 64 images on the card of a shipped model. scale: how much the card enlarges them."""
    with Image.open(WEIGHTS / f"{name}.png") as file:
        card = np.asarray(file)
    card = card[..., None] if card.ndim == 2 else card
    tile = size * scale + 2 * render.MARGIN
    pictures = card.reshape(8, tile, 8, tile, -1).swapaxes(1, 2).reshape(64, tile, tile, -1)
    start = render.MARGIN + scale // 2
    pixels = np.ascontiguousarray(pictures[:, start:-1:scale, start:-1:scale][:, :size, :size])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    spec = DataSpec(name, images.shape[1], size, size, labels)
    table = torch.eye(len(labels)) if labels else None
    return Model(ExactNetwork(images, cosine(T)), cosine(T), "x0", spec, table, Sampling("ddim", 12, 1.0, "log_snr"))


def make_models() -> dict[str, Model]:
    """One in colour, one in grey with many labels, and an unconditional one with another T."""
    return {
        "sprites": make_model("sprites", SPRITES, 16, 8, 500),
        "fashion_mnist": make_model("fashion_mnist", CLOTHES, 28, 4, 1000),
        "mnist": make_model("mnist", (), 28, 4, 200),
    }


def info(name: str, model: Model) -> dict[str, Any]:
    return {
        "name": name,
        "about": {"sprites": "characters, food and spells, 16x16", "mnist": "handwritten digits, 28x28"}.get(
            name, "clothes, shoes and bags, 28x28"
        ),
        "channels": model.spec.channels,
        "height": model.spec.height,
        "width": model.spec.width,
        "labels": list(model.spec.labels),
        "T": model.schedule.T,
        "alpha_bar": model.schedule.alpha_bar.tolist(),
        "prediction": "x0",
        "sampling": vars(model.sampling),
        "creativity": int((model.schedule.alpha_bar[:-1] > 0.2).sum()),
        "turbo": name == "mnist",
        "thumbnail": thumbnail(name, model.spec),
    }


class FakeEngine:
    """Serves the page, with the headers of the real server, and runs an engine for each connection.

    messages     every message received, oldest first
    connections  the open ones
    rejected     (setting, value, error): answer this value of this setting with this error
    ready        while this event is cleared, no frame is sent
    """

    def __init__(self) -> None:
        self.models = make_models()
        self.messages: list[dict[str, Any]] = []
        self.connections: list[ServerConnection] = []
        self.rejected: tuple[str, Any, str] | None = None
        self.ready = threading.Event()
        self.ready.set()
        self.changed = threading.Condition()
        self.port = 0
        self.server: Server | None = None

    def __enter__(self) -> "FakeEngine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Listen on a free port; after `stop`, on the same port again."""
        self.server = serve(self.serve_connection, "127.0.0.1", self.port, process_request=self.host, max_size=2**22)
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stop, as if the server's process had ended."""
        if self.server is not None:
            self.server.shutdown()
            self.server = None
        self.disconnect()

    def disconnect(self, code: int = 1000) -> None:
        for connection in list(self.connections):
            connection.close(code)

    def send(self, **message: Any) -> None:
        """Send a message to every page."""
        for connection in list(self.connections):
            connection.send(json.dumps(message))

    def wait(self, matches: Callable[[dict[str, Any]], Any], since: int = 0) -> dict[str, Any]:
        """Wait for a message that matches, from number `since` on, and return it."""

        def first_match() -> dict[str, Any] | None:
            return next((message for message in self.messages[since:] if matches(message)), None)

        with self.changed:
            assert self.changed.wait_for(lambda: first_match() is not None, TIMEOUT), f"only {self.messages[since:]}"
            message = first_match()
        assert message is not None
        return message

    def reset(self) -> None:
        """Wait until all pages have disconnected, so that none disturbs the next test, and forget their messages."""
        self.ready.set()
        with self.changed:
            assert self.changed.wait_for(lambda: not self.connections, TIMEOUT), "a page is still connected"
            self.messages.clear()
        self.rejected = None

    def host(self, connection: ServerConnection, request: Request) -> Response | None:
        """The page's files; None for the WebSocket."""
        if request.path.split("?")[0] == "/ws":
            return None
        name = "index.html" if request.path == "/" else request.path.removeprefix("/page/")
        path = (PAGE / name).resolve()
        if not path.is_relative_to(PAGE.resolve()) or not path.is_file():
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such file\n")
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(name)[0] or ""
        body = path.read_bytes()
        headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        return Response(200, "OK", Headers(headers), body)

    def serve_connection(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        viewer = Viewer(self, connection)
        try:
            infos = [info(name, model) for name, model in self.models.items()]
            hello = {"type": "hello", "engine": "server", "version": "0.1.0", "models": infos, "viewers": 1}
            connection.send(json.dumps(hello))
            while True:
                viewer.run_once()
        except ConnectionClosed:
            pass
        finally:
            with self.changed:
                self.connections.remove(connection)
                self.changed.notify_all()


class Viewer:
    """The engine of one connection."""

    def __init__(self, engine: FakeEngine, connection: ServerConnection) -> None:
        self.engine, self.connection = engine, connection
        self.settings: dict[str, Any] = {}
        self.id, self.k, self.playing, self.pure = 0, 0, False, True
        self.start_image: Tensor | None = None
        self.x = torch.empty(0)
        self.previous: Tensor | None = None
        self.next_start = 0.0  # when the next frame is due

    def run_once(self) -> None:
        """Handle a message, or send the next frame, whichever comes first."""
        wait = max(0.0, self.next_start - time.monotonic()) if self.playing and self.settings else None
        try:
            text = self.connection.recv(wait)
        except TimeoutError:
            self.step()
            return
        message = json.loads(text)
        with self.engine.changed:  # before handling it: a test that sees the effect must find the message here
            self.engine.messages.append(message)
            self.engine.changed.notify_all()
        getattr(self, f"on_{message['type']}")(message)

    def on_set(self, message: dict[str, Any]) -> None:
        settings, before = message["settings"], self.settings
        rejected = self.engine.rejected
        if rejected and settings[rejected[0]] == rejected[1]:
            self.connection.send(json.dumps({"type": "error", "id": message["id"], "message": rejected[2]}))
            return
        self.settings, self.id = settings, message["id"]
        changed = {name for name in settings if settings[name] != before.get(name)}
        if {"image", "frame"} & set(message) or changed & {"model", "seed", "num"}:
            self.start_image = self.decode(message["image"]) if "image" in message else None
            self.on_restart(message)
        elif changed - {"fps"}:
            self.pure = False

    def on_play(self, _: dict[str, Any]) -> None:
        self.playing, self.next_start = True, time.monotonic()

    def on_pause(self, _: dict[str, Any]) -> None:
        self.playing = False

    def on_step(self, _: dict[str, Any]) -> None:
        self.step()

    def on_restart(self, message: dict[str, Any]) -> None:
        self.k, self.pure = message.get("frame", 0), self.start_image is None
        start_image = self.start_image
        self.send_frame(self.sample if start_image is None else lambda: start_image)

    def sample(self) -> Tensor:
        """The frame as a sample of its own."""
        return drift_frame(self.model, self.k, self.settings["num"], self.options, self.settings["every"])

    def on_repaint(self, message: dict[str, Any]) -> None:
        H, W = self.x.shape[2:]
        mask = torch.frombuffer(bytearray(base64.b64decode(message["mask"])), dtype=torch.uint8).view(H, W)
        self.k, self.pure = self.k + 1, False
        self.send_frame(lambda: inpaint(self.model, self.x[:1], mask == 0, self.settings["num"], self.options))

    def on_trace(self, message: dict[str, Any]) -> None:
        options = replace(self.options, sampler=message["sampler"], steps=message["steps"], eta=message["eta"])
        k, T = message["frame"], self.model.schedule.T
        creativity, num, every = self.settings["creativity"], self.settings["num"], self.settings["every"]
        previous = self.previous if k == self.k else self.x
        if k is None or previous is None or self.is_sample(k):
            x, noise, options = start_of(self.model, k or 0, num, options, every)
            label = options.label[:1] if isinstance(options.label, Tensor) else options.label
            options = replace(options, label=label)
            sampler = self.model.bind_sampler(options, noise)
            steps = [Step(T, x[:1], x[:1]), *sampler(self.model.denoiser_for(1, options), x_T=x[:1])]
        else:
            first = RENOISE_OFFSET + k * num
            options = with_labels_of(self.model, 1, options, k // every * num if every else 0)
            leg = next(variation_plan(self.model, previous[:1], creativity, 1, options, first))
            sampler = self.model.bind_sampler(options, leg.noise, leg.times)
            steps = [Step(0, previous[:1], previous[:1]), Step(creativity, leg.x, previous[:1])]
            steps += sampler(self.model.denoiser_for(1, options), x_T=leg.x)
        body = b""
        for start, end in pairwise(steps):
            body += struct.pack("<ii", start.t, end.t)
            body += b"".join(image.numpy().tobytes() for image in (start.x, end.x0, end.x))
        self.connection.send(self.header(2, message["id"], len(steps) - 1, 1, len(steps) - 1, 3.5) + body)

    def on_sample(self, message: dict[str, Any]) -> None:
        settings = message["settings"]
        model, num = self.engine.models[settings["model"]], settings["num"]
        x = model.sample(num, self.options_of(settings))
        header = self.header(1, message["id"], 0, num, settings["steps"], 3.5, model)
        self.connection.send(header + render.to_uint8(x).tobytes())

    def step(self) -> None:
        self.next_start = time.monotonic() + 1 / (self.settings["fps"] or 60)
        self.k += 1
        t, num, every = self.settings["creativity"], self.settings["num"], self.settings["every"]
        if self.is_sample(self.k):
            self.pure = True
            self.send_frame(self.sample)
            return
        first = RENOISE_OFFSET + self.k * num
        options = with_labels_of(self.model, num, self.options, self.k // every * num if every else 0)
        self.send_frame(lambda: vary(self.model, self.x, t, num, options, first) if t else self.x)

    def is_sample(self, k: int) -> bool:
        """Whether frame k > 0 starts from noise."""
        every = self.settings["every"]
        return bool(self.settings["motion"] == "drift" or (self.settings["creativity"] and every and k % every == 0))

    def send_frame(self, make: Callable[[], Tensor]) -> None:
        network = self.model.network
        assert isinstance(network, ExactNetwork)
        calls, start = network.calls, time.perf_counter()
        self.previous, self.x = None if self.k == 0 else self.x, make()
        self.engine.ready.wait(TIMEOUT)
        ms = 1000 * (time.perf_counter() - start)
        header = self.header(1, self.id, self.k, len(self.x), network.calls - calls, ms)
        self.connection.send(header + render.to_uint8(self.x).tobytes())

    def header(
        self, kind: int, id: int, frame: int, num: int, calls: int, ms: float, model: Model | None = None
    ) -> bytes:
        spec = (model or self.model).spec
        size = (spec.channels, spec.height, spec.width)
        return struct.pack("<2sBBIIHHHHHHf", b"SD", kind, self.pure, id, frame, num, *size, calls, 0, ms)

    @property
    def model(self) -> Model:
        return self.engine.models[self.settings["model"]]

    @property
    def options(self) -> SampleOptions:
        return self.options_of(self.settings)

    @staticmethod
    def options_of(values: dict[str, Any]) -> SampleOptions:
        label = None if values["label"] == "none" else values["label"]
        return SampleOptions(
            values["sampler"], values["steps"], values["eta"], int(values["seed"]), label, values["guidance"]
        )

    def decode(self, text: str) -> Tensor:
        spec = self.model.spec
        pixels = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
        return pixels.view(-1, spec.height, spec.width, spec.channels).permute(0, 3, 1, 2) / 127.5 - 1


if __name__ == "__main__":
    with FakeEngine() as fake:
        print(fake.url, flush=True)
        threading.Event().wait()
