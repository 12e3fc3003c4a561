"""The page and its engine on a server: one WebSocket a viewer, and answers for those who watch the server itself.

    /             the page; its files are at /page/…
    /ws           a viewer: JSON messages both ways, and frames as bytes; see settings.py and frames.py
    /models.json  what can be dreamt of
    /healthz      200 while the engine lives, else 503
    /metrics      numbers for Prometheus

Where we close a connection, an error says why first, and the code says it to programs: 1008 more messages than are
allowed, 1011 the engine has died, 1013 too many viewers, 4408 nothing has happened for long.
"""

import asyncio
import contextlib
import json
import logging
import math
import mimetypes
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .. import __version__
from ..common.errors import UserError, require
from .engine import Engine, Viewer
from .settings import RefusedError, error, longest_message, model_info, parse
from .site import HEADERS, PAGE

if TYPE_CHECKING:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket

TYPES = {  # what a system calls them may be anything, and a browser takes no script of another type
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
QUANTILES = (0.5, 0.9, 0.99)
LAST_WORDS = 5.0  # seconds that they have to get through
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a server puts up with.

    viewers   at once
    messages  of one viewer a second, lastingly; for a moment, twice as many
    idle      seconds in which a viewer says nothing and fetches nothing
    """

    viewers: int = 100
    messages: float = 500.0
    idle: float = 3600.0


def app(engine: Engine, limits: Limits = Limits(), allow_origin: Collection[str] = ()) -> "ASGIApp":
    """The server as an ASGI application, which starts the engine and stops it.

    allow_origin: origins of pages that may connect, such as https://example.org, beside those that come from here; "*"
    is any. UserError without the extra `web`.
    """
    require("starlette", "web")
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    for ending, kind in TYPES.items():
        mimetypes.add_type(kind, ending)
    models = [model_info(name, model) for name, model in engine.models.items()]
    longest = longest_message(list(engine.models.values()))

    def page(request: "Request") -> "Response":
        return FileResponse(PAGE / "index.html")

    def offered(request: "Request") -> "Response":
        return JSONResponse(models)

    def health(request: "Request") -> "Response":
        says = engine.failure or "ok"
        stats = engine.stats()
        return JSONResponse(
            {"status": says, "version": __version__, "viewers": stats.viewers, "networks": stats.networks},
            status_code=503 if engine.failure else 200,
        )

    def metrics(request: "Request") -> "Response":
        return PlainTextResponse(_metrics(engine), media_type="text/plain; version=0.0.4")

    async def viewer(websocket: "WebSocket") -> None:
        origin = websocket.headers.get("origin")
        if not _is_allowed(origin, websocket.headers.get("host", ""), allow_origin):
            log.warning(
                "refused a page from %s, which may not connect; --allow-origin %s would allow it", origin, origin
            )
            await websocket.close()  # which before it was accepted is 403
            return
        await _Session(websocket, engine, limits, models, longest).run()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    routes = [
        Route("/", page),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/models.json", offered),
        Route("/healthz", health),
        Route("/metrics", metrics),
        WebSocketRoute("/ws", viewer),
    ]
    return _with_headers(Starlette(routes=routes, lifespan=lifespan))


def _with_headers(app: "ASGIApp") -> "ASGIApp":
    """The app, with HEADERS in every answer, errors too."""
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    headers.append((b"cache-control", b"no-cache"))  # the page of another version would not understand us

    async def secured(scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_with(message: "Message") -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await app(scope, receive, send_with)

    return secured


def _is_allowed(origin: str | None, host: str, allowed: Collection[str]) -> bool:
    """Whether a page from there may connect. Browsers always say where a page is from; who does not is none."""
    return origin is None or urlsplit(origin).netloc == host or origin in allowed or "*" in allowed


def _metrics(engine: Engine) -> str:
    """In Prometheus' text format."""
    stats = engine.stats()
    lines = []
    for name, kind, says, value in (
        ("up", "gauge", "Whether the engine lives.", int(engine.failure is None)),
        ("viewers", "gauge", "Viewers who are connected.", stats.viewers),
        ("frames_total", "counter", "Frames made.", stats.frames),
        ("frames_per_second", "gauge", "Frames made a second, lately.", stats.frames_per_second),
        ("network_calls_total", "counter", "Network calls.", stats.calls),
        ("network_images_total", "counter", "Images in network calls.", stats.images),
    ):
        lines += [f"# HELP shapedreamer_{name} {says}", f"# TYPE shapedreamer_{name} {kind}"]
        lines.append(f"shapedreamer_{name} {value}")
    name, took = "shapedreamer_frame_seconds", stats.took
    lines += [f"# HELP {name} From the first step of a frame to its last, lately.", f"# TYPE {name} summary"]
    for share in QUANTILES:
        value = took[int(share * len(took))] if took else math.nan
        lines.append(f'{name}{{quantile="{share}"}} {value}'.replace("nan", "NaN"))
    lines += [f"{name}_sum {stats.seconds}", f"{name}_count {stats.frames}"]
    return "\n".join(lines) + "\n"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 is any that is free. UserError if there is no such place, or it is taken."""
    if not 0 <= port < 2**16:
        raise UserError(f"port must be between 0 and {2**16 - 1}, not {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(f"cannot listen on host {host}, port {port} ({reason}); try another --host or --port") from None


def make_server(engine: Engine, limits: Limits = Limits(), allow_origin: Collection[str] = ()) -> "uvicorn.Server":
    """What serves the app: its run(sockets=[…]) does, until Ctrl-C or SIGTERM. UserError without the extra `web`."""
    require("uvicorn", "web")
    require("websockets", "web")
    import uvicorn

    config = uvicorn.Config(
        app(engine, limits, allow_origin),
        log_level="warning",
        ws_max_size=2 * longest_message(list(engine.models.values())),  # what is longer closes its connection, by 1009
        ws_per_message_deflate=False,  # it would take longer than the network does
        timeout_graceful_shutdown=round(LAST_WORDS),
    )
    return uvicorn.Server(config)


class _ClosingError(Exception):
    """We hang up: with this code, and for a reason that is told first."""

    def __init__(self, code: int, says: str) -> None:
        super().__init__(says)
        self.code, self.says = code, says


class Bucket:
    """`rate` drops a second fall into it, and it holds so many; each message takes one out."""

    def __init__(self, rate: float, holds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.holds, self.clock = rate, holds, clock
        self.drops, self.filled = holds, clock()

    def take(self) -> bool:
        """Whether there was one to take."""
        now = self.clock()
        self.drops = min(self.holds, self.drops + self.rate * (now - self.filled))
        self.filled = now
        if self.drops < 1:
            return False
        self.drops -= 1
        return True


class _Session:
    """The talk with one viewer."""

    def __init__(
        self, websocket: "WebSocket", engine: Engine, limits: Limits, models: list[dict[str, object]], longest: int
    ) -> None:
        self.websocket, self.engine, self.limits = websocket, engine, limits
        self.models, self.longest = models, longest
        self.loop = asyncio.get_running_loop()
        self.news = asyncio.Event()
        self.bucket = Bucket(limits.messages, 2 * limits.messages)
        self.active = self.loop.time()  # when something was last said or fetched

    async def run(self) -> None:
        """Until one of us hangs up."""
        from starlette.websockets import WebSocketDisconnect

        await self.websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            try:
                await self._talk()
            except _ClosingError as end:
                with contextlib.suppress(asyncio.TimeoutError):  # of a viewer who does not listen
                    await asyncio.wait_for(self._hang_up(end), LAST_WORDS)

    async def _hang_up(self, end: _ClosingError) -> None:
        await self._send_json(error(f"{end.says}; closing"))
        await self.websocket.close(end.code)

    async def _talk(self) -> None:
        try:
            viewer = self.engine.join(lambda: self.loop.call_soon_threadsafe(self.news.set), self.limits.viewers)
        except UserError as no:
            raise _ClosingError(1011 if self.engine.failure else 1013, str(no)) from None
        try:
            viewers = self.engine.stats().viewers
            hello = {"type": "hello", "engine": "server", "version": __version__}
            await self._send_json({**hello, "models": self.models, "viewers": viewers})
            await _until_one_ends(self._hear(viewer), self._show(viewer), self._doze())
        finally:
            self.engine.leave(viewer)

    async def _hear(self, viewer: Viewer) -> None:
        """Do what the viewer says, and answer what makes no sense, until it hangs up."""
        while (message := await self.websocket.receive())["type"] == "websocket.receive":
            self.active = self.loop.time()
            if not self.bucket.take():
                raise _ClosingError(1008, f"these are more than {self.limits.messages:g} messages a second")
            if (says := self._heed(viewer, message)) is not None:
                await self._send_json(says)
            await asyncio.sleep(0)  # others have their turn, however many messages are there already

    def _heed(self, viewer: Viewer, message: "Message") -> dict[str, object] | None:
        """The error to answer with, if any."""
        id = None
        try:
            if message.get("text") is None:
                raise UserError(f"a message must be JSON text, and this is {len(message['bytes'])} bytes")
            said = parse(message["text"], self.longest)
            id = getattr(said, "id", None)
            self.engine.heed(viewer, said)
        except RefusedError as no:
            return error(no, no.id)
        except UserError as no:
            return error(no, id)
        return None

    async def _show(self, viewer: Viewer) -> None:
        """Send what the engine has for the viewer."""
        while True:
            await self.news.wait()
            self.news.clear()
            while (what := self.engine.fetch(viewer)) is not None:
                if isinstance(what, bytes):
                    await self.websocket.send_bytes(what)
                elif self.engine.failure is not None:
                    raise _ClosingError(1011, what)
                else:
                    await self._send_json(error(what))
                self.active = self.loop.time()

    async def _doze(self) -> None:
        """Hang up when nothing has happened for long."""
        while (left := self.active + self.limits.idle - self.loop.time()) > 0:
            await asyncio.sleep(left)
        raise _ClosingError(4408, f"nothing has happened for {self.limits.idle:g} seconds")

    async def _send_json(self, message: dict[str, object]) -> None:
        await self.websocket.send_text(json.dumps(message, ensure_ascii=False, allow_nan=False))


async def _until_one_ends(*parts: Coroutine[Any, Any, None]) -> None:
    """Run them side by side until the first ends, as that one ends; the others are cancelled."""
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
