"""A stand-in for the server that the page talks to: it speaks the protocol, hears everything, and does as tests say.

It dreams with the exact denoiser of a few of the pictures in the box, by Model and explore themselves, so that what it
shows is what a server would; and it can refuse, fall silent, and vanish.
"""

import base64
import http
import json
import mimetypes
import struct
import threading
import time
from collections.abc import Callable
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
from shapedreamer.diffusion.schedule import Schedule, cosine
from shapedreamer.imaging import render
from shapedreamer.imaging.explore import ANEW, inpaint, vary
from shapedreamer.imaging.figures import Way
from shapedreamer.models.model import Model
from shapedreamer.models.recipes import Sampling
from shapedreamer.models.zoo import WEIGHTS

PAGE = Path(shapedreamer.__file__).parent / "live" / "page"
PATIENCE = 30.0  # seconds; on a machine that is not busy it takes none of them
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


class Ideal(nn.Module):
    """A network that has learnt these images by heart, (N, C, H, W), and predicts x₀."""

    def __init__(self, images: Tensor, schedule: Schedule) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.denoise = oracle.finite_data(images, schedule)
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls += 1
        return self.denoise(x, t)


def model(name: str, labels: tuple[str, ...], size: int, scale: int, T: int) -> Model:
    """A model of the pictures on the card of one in the box, whose images are drawn `scale` times as large there."""
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
    return Model(Ideal(images, cosine(T)), cosine(T), "x0", spec, table, Sampling("ddim", 12, 1.0, "log_snr"))


def models() -> dict[str, Model]:
    """One in colour, one in grey with many labels, and one without labels and with another T."""
    return {
        "sprites": model("sprites", SPRITES, 16, 8, 500),
        "fashion_mnist": model("fashion_mnist", CLOTHES, 28, 4, 1000),
        "mnist": model("mnist", (), 28, 4, 200),
    }


def info(name: str, it: Model) -> dict[str, Any]:
    return {
        "name": name,
        "about": {"sprites": "characters, food and spells, 16x16", "mnist": "handwritten digits, 28x28"}.get(
            name, "clothes, shoes and bags, 28x28"
        ),
        "channels": it.spec.channels,
        "height": it.spec.height,
        "width": it.spec.width,
        "labels": list(it.spec.labels),
        "T": it.schedule.T,
        "alpha_bar": it.schedule.alpha_bar.tolist(),
        "prediction": "x0",
        "sampling": vars(it.sampling),
        "creativity": int((it.schedule.alpha_bar[:-1] > 0.2).sum()),
        "turbo": name == "mnist",
    }


class FakeEngine:
    """A host of the page, with the headers of the real one, and an engine for all who look at it.

    messages     all that it has heard, oldest first
    connections  that are open
    refusing     the setting -> value that it refuses, with this message
    """

    def __init__(self) -> None:
        self.models = models()
        self.messages: list[dict[str, Any]] = []
        self.connections: list[ServerConnection] = []
        self.refusing: tuple[str, Any, str] | None = None
        self.heard = threading.Condition()
        self.port = 0
        self.server: Server | None = None

    def __enter__(self) -> "FakeEngine":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.vanish()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Listen, after a first time again on the same port."""
        self.server = serve(self.talk, "127.0.0.1", self.port, process_request=self.host, max_size=2**22)
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def vanish(self) -> None:
        """Be gone, as a server whose process has ended."""
        if self.server is not None:
            self.server.shutdown()
            self.server = None
        self.hang_up()

    def hang_up(self, code: int = 1000) -> None:
        for connection in list(self.connections):
            connection.close(code)

    def say(self, **message: Any) -> None:
        """To everybody."""
        for connection in list(self.connections):
            connection.send(json.dumps(message))

    def wait(self, wanted: Callable[[dict[str, Any]], Any], since: int = 0) -> dict[str, Any]:
        """The first message from number `since` on that is wanted; AssertionError where none comes."""

        def found() -> dict[str, Any] | None:
            return next((message for message in self.messages[since:] if wanted(message)), None)

        with self.heard:
            assert self.heard.wait_for(lambda: found() is not None, PATIENCE), f"only {self.messages[since:]}"
            message = found()
        assert message is not None
        return message

    def forget(self) -> None:
        """Be as at first, once everybody has gone: what a page said last must not be heard as the next one's."""
        with self.heard:
            assert self.heard.wait_for(lambda: not self.connections, PATIENCE), "a page is still there"
            self.messages.clear()
        self.refusing = None

    def host(self, connection: ServerConnection, request: Request) -> Response | None:
        """The page's files; None for the WebSocket."""
        if request.path == "/ws":
            return None
        name = "index.html" if request.path == "/" else request.path.removeprefix("/page/")
        path = PAGE / name
        if "/" in name or not path.is_file():
            return connection.respond(http.HTTPStatus.NOT_FOUND, "there is no such page\n")
        kind = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(name)[0] or ""
        body = path.read_bytes()
        headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        return Response(200, "OK", Headers(headers), body)

    def talk(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        viewer = Viewer(self, connection)
        try:
            listed = [info(name, it) for name, it in self.models.items()]
            hello = {"type": "hello", "engine": "server", "version": "0.1.0", "models": listed, "viewers": 1}
            connection.send(json.dumps(hello))
            while True:
                viewer.go_on()
        except ConnectionClosed:
            pass
        finally:
            with self.heard:
                self.connections.remove(connection)
                self.heard.notify_all()


class Viewer:
    """One connection's dream."""

    def __init__(self, engine: FakeEngine, connection: ServerConnection) -> None:
        self.engine, self.connection = engine, connection
        self.settings: dict[str, Any] = {}
        self.id, self.k, self.playing, self.pure = 0, 0, False, True
        self.given: Tensor | None = None
        self.x = torch.empty(0)
        self.next = 0.0  # when the next frame is due

    def go_on(self) -> None:
        """Hear a message, or show the next frame, whichever is due first."""
        wait = max(0.0, self.next - time.monotonic()) if self.playing and self.settings else None
        try:
            text = self.connection.recv(wait)
        except TimeoutError:
            self.step()
            return
        message = json.loads(text)
        with self.engine.heard:  # before it is done: who sees what came of it can look up what was asked
            self.engine.messages.append(message)
            self.engine.heard.notify_all()
        getattr(self, f"on_{message['type']}")(message)

    def on_set(self, message: dict[str, Any]) -> None:
        settings, before = message["settings"], self.settings
        refusing = self.engine.refusing
        if refusing and settings[refusing[0]] == refusing[1]:
            self.connection.send(json.dumps({"type": "error", "id": message["id"], "message": refusing[2]}))
            return
        self.settings, self.id = settings, message["id"]
        changed = {name for name in settings if settings[name] != before.get(name)}
        if "image" in message or changed & {"model", "seed", "num"}:
            self.given = self.images(message["image"]) if "image" in message else None
            self.on_restart(message)
        elif changed - {"fps"}:
            self.pure = False

    def on_play(self, _: dict[str, Any]) -> None:
        self.playing, self.next = True, time.monotonic()

    def on_pause(self, _: dict[str, Any]) -> None:
        self.playing = False

    def on_step(self, _: dict[str, Any]) -> None:
        self.step()

    def on_restart(self, _: dict[str, Any]) -> None:
        self.k, self.pure = 0, self.given is None
        self.show(lambda: self.model.sample(self.settings["num"], *self.way) if self.given is None else self.given)

    def on_repaint(self, message: dict[str, Any]) -> None:
        H, W = self.x.shape[2:]
        mask = torch.frombuffer(bytearray(base64.b64decode(message["mask"])), dtype=torch.uint8).view(H, W)
        self.k, self.pure = self.k + 1, False
        self.show(lambda: inpaint(self.model, self.x[:1], mask == 0, self.settings["num"], self.way))

    def on_trace(self, message: dict[str, Any]) -> None:
        way = self.way._replace(sampler=message["sampler"], steps=message["steps"], eta=message["eta"])
        t, x = self.model.schedule.T, self.model.noise(1, way.seed)
        body = b""
        steps = list(self.model.stream(1, **way._asdict()))
        for step in steps:
            body += struct.pack("<ii", t, step.t) + b"".join(y.numpy().tobytes() for y in (x, step.x0, step.x))
            t, x = step.t, step.x
        self.connection.send(self.header(2, message["id"], len(steps), 1, len(steps), 3.5) + body)

    def step(self) -> None:
        self.next = time.monotonic() + 1 / (self.settings["fps"] or 60)
        self.k += 1
        t, num = self.settings["creativity"], self.settings["num"]
        self.show(lambda: vary(self.model, self.x, t, num, self.way, ANEW + self.k * num) if t else self.x)

    def show(self, make: Callable[[], Tensor]) -> None:
        network = self.model.network
        assert isinstance(network, Ideal)
        calls, began = network.calls, time.perf_counter()
        self.x = make()
        ms = 1000 * (time.perf_counter() - began)
        header = self.header(1, self.id, self.k, len(self.x), network.calls - calls, ms)
        self.connection.send(header + render.to_uint8(self.x).tobytes())

    def header(self, kind: int, id: int, frame: int, num: int, calls: int, ms: float) -> bytes:
        spec = self.model.spec
        size = (spec.channels, spec.height, spec.width)
        return struct.pack("<2sBBIIHHHHHHf", b"SD", kind, self.pure, id, frame, num, *size, calls, 0, ms)

    @property
    def model(self) -> Model:
        return self.engine.models[self.settings["model"]]

    @property
    def way(self) -> Way:
        it = self.settings
        label = None if it["label"] == "none" else it["label"]
        return Way(it["sampler"], it["steps"], it["eta"], int(it["seed"]), label, it["guidance"])

    def images(self, text: str) -> Tensor:
        spec = self.model.spec
        pixels = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
        return pixels.view(-1, spec.height, spec.width, spec.channels).permute(0, 3, 1, 2) / 127.5 - 1


if __name__ == "__main__":
    with FakeEngine() as fake:
        print(fake.url, flush=True)
        threading.Event().wait()
