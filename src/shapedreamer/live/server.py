"""The live page on a server: a WebSocket for each viewer, and addresses for monitoring.

    /             the page; its files are under /page/
    /points.html  the view Points, which needs no engine
    /ws           the WebSocket: JSON messages both ways (settings.py), and binary frames to the page (frames.py)
    /models.json  the models to choose from
    /healthz      200 while the engine runs, 503 if it has stopped
    /metrics      metrics for Prometheus

Before the server closes a connection, it sends an error message with the reason. Close codes: 1008 too many messages,
1011 the engine has stopped, 1013 too many viewers, 4408 idle for too long.
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
from .engine import WINDOW, Engine, Viewer
from .settings import InvalidMessageError, error_message, max_message_bytes, model_info, parse
from .site import HEADERS, PAGE

if TYPE_CHECKING:
    import uvicorn
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from starlette.websockets import WebSocket

MEDIA_TYPES = {  # the operating system may map these endings to other types, with which browsers refuse scripts
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
}
QUANTILES = (0.5, 0.9, 0.99)
CLOSE_TIMEOUT = 5.0  # seconds for a viewer to receive the last messages
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    viewers   connected at the same time
    messages  per second from one viewer; twice as many in a burst
    idle      seconds without a message or a frame after which a connection is closed
    """

    viewers: int = 100
    messages: float = 500.0
    idle: float = 3600.0


def make_app(engine: Engine, limits: Limits = Limits(), allow_origin: Collection[str] = ()) -> "ASGIApp":
    """The server as an ASGI application. It starts the engine, and stops it at shutdown.

    allow_origin: origins of other pages that may connect, such as https://example.org; "*" allows any

    UserError without the extra `web`.
    """
    require("starlette", "web")
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    for ending, media_type in MEDIA_TYPES.items():
        mimetypes.add_type(media_type, ending)
    models = [model_info(name, model) for name, model in engine.models.items()]
    max_bytes = max_message_bytes(list(engine.models.values()))

    def index(request: "Request") -> "Response":
        return FileResponse(PAGE / "index.html")

    def points(request: "Request") -> "Response":
        return FileResponse(PAGE / "points.html")

    def list_models(request: "Request") -> "Response":
        return JSONResponse(models)

    def health(request: "Request") -> "Response":
        stats = engine.stats()
        return JSONResponse(
            {
                "status": engine.failure or "ok",
                "version": __version__,
                "viewers": stats.viewers,
                "networks": stats.networks,
            },
            status_code=503 if engine.failure else 200,
        )

    def metrics(request: "Request") -> "Response":
        return PlainTextResponse(_metrics(engine), media_type="text/plain; version=0.0.4")

    async def connect(websocket: "WebSocket") -> None:
        origin = websocket.headers.get("origin")
        if not _is_allowed(origin, websocket.headers.get("host", ""), allow_origin):
            log.warning("rejected a page from %s; to allow it, use --allow-origin %s", origin, origin)
            await websocket.close()  # before `accept`, this is a response with status 403
            return
        await _Session(websocket, engine, limits, models, max_bytes).run()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop)

    routes = [
        Route("/", index),
        Route("/points.html", points),
        Mount("/page", StaticFiles(directory=PAGE)),
        Route("/models.json", list_models),
        Route("/healthz", health),
        Route("/metrics", metrics),
        WebSocketRoute("/ws", connect),
    ]
    return _with_headers(Starlette(routes=routes, lifespan=lifespan))


def _with_headers(app: "ASGIApp") -> "ASGIApp":
    """The app with HEADERS added to every response, including errors."""
    headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    headers.append((b"cache-control", b"no-cache"))  # a cached page of another version might not fit this server

    async def app_with_headers(scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_with_headers(message: "Message") -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await app(scope, receive, send_with_headers)

    return app_with_headers


def _is_allowed(origin: str | None, host: str, allowed: Collection[str]) -> bool:
    """Whether a page of this origin may connect. Browsers always send an origin; other clients need not."""
    return origin is None or urlsplit(origin).netloc == host or origin in allowed or "*" in allowed


def _metrics(engine: Engine) -> str:
    """The engine's statistics in Prometheus' text format."""
    stats = engine.stats()
    window = f"over the last {WINDOW:g} seconds"
    lines = []
    for name, kind, description, value in (
        ("up", "gauge", "Whether the engine runs.", int(engine.failure is None)),
        ("viewers", "gauge", "Connected viewers.", stats.viewers),
        ("frames_total", "counter", "Frames generated.", stats.frames),
        ("frames_per_second", "gauge", f"Frames generated per second, {window}.", stats.frames_per_second),
        ("network_calls_total", "counter", "Network calls.", stats.calls),
        ("network_images_total", "counter", "Images in network calls.", stats.images),
    ):
        lines += [f"# HELP shapedreamer_{name} {description}", f"# TYPE shapedreamer_{name} {kind}"]
        lines.append(f"shapedreamer_{name} {value}")
    name, times = "shapedreamer_frame_seconds", stats.frame_times
    lines += [f"# HELP {name} Time to generate a frame; quantiles {window}.", f"# TYPE {name} summary"]
    for quantile in QUANTILES:
        value = times[int(quantile * len(times))] if times else math.nan
        lines.append(f'{name}{{quantile="{quantile}"}} {value}'.replace("nan", "NaN"))
    lines += [f"{name}_sum {stats.seconds}", f"{name}_count {stats.frames}"]
    return "\n".join(lines) + "\n"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on host and port; port 0 is any free port. UserError if that is impossible."""
    if not 0 <= port < 2**16:
        raise UserError(f"port must be between 0 and {2**16 - 1}, not {port}")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise UserError(f"cannot listen on host {host}, port {port} ({reason}); try another `host` or `port`") from None


def make_server(engine: Engine, limits: Limits = Limits(), allow_origin: Collection[str] = ()) -> "uvicorn.Server":
    """A server for the app: run(sockets=[…]) serves until Ctrl-C or SIGTERM. UserError without the extra `web`."""
    require("uvicorn", "web")
    require("websockets", "web")
    import uvicorn

    config = uvicorn.Config(
        make_app(engine, limits, allow_origin),
        log_level="warning",
        ws_max_size=2 * max_message_bytes(list(engine.models.values())),  # above it, the connection closes with 1009
        ws_per_message_deflate=False,  # compression would take longer than the network call
        timeout_graceful_shutdown=round(CLOSE_TIMEOUT),
    )
    return uvicorn.Server(config)


class _CloseError(Exception):
    """Close the connection with this code, after an error message with this reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class TokenBucket:
    """A rate limiter. It gains `rate` tokens per second, up to `capacity`; each message takes one."""

    def __init__(self, rate: float, capacity: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.capacity, self.clock = rate, capacity, clock
        self.tokens, self.last_update = capacity, clock()

    def take(self) -> bool:
        """Take a token; False if there is none."""
        now = self.clock()
        self.tokens = min(self.capacity, self.tokens + self.rate * (now - self.last_update))
        self.last_update = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class _Session:
    """The connection of one viewer."""

    def __init__(
        self, websocket: "WebSocket", engine: Engine, limits: Limits, models: list[dict[str, object]], max_bytes: int
    ) -> None:
        self.websocket, self.engine, self.limits = websocket, engine, limits
        self.models, self.max_bytes = models, max_bytes
        self.loop = asyncio.get_running_loop()
        self.updated = asyncio.Event()  # the engine has something to fetch
        self.bucket = TokenBucket(limits.messages, 2 * limits.messages)
        self.last_activity = self.loop.time()  # when a message was last received or sent

    async def run(self) -> None:
        """Serve the viewer until one side closes the connection."""
        from starlette.websockets import WebSocketDisconnect

        await self.websocket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            try:
                await self._serve()
            except _CloseError as error:
                with contextlib.suppress(asyncio.TimeoutError):  # of a viewer that does not read
                    await asyncio.wait_for(self._close(error), CLOSE_TIMEOUT)

    async def _close(self, error: _CloseError) -> None:
        await self._send_json(error_message(f"{error.reason}; closing"))
        await self.websocket.close(error.code)

    async def _serve(self) -> None:
        try:
            viewer = self.engine.join(lambda: self.loop.call_soon_threadsafe(self.updated.set), self.limits.viewers)
        except UserError as error:
            raise _CloseError(1011 if self.engine.failure else 1013, str(error)) from None
        try:
            viewers = self.engine.stats().viewers
            hello = {"type": "hello", "engine": "server", "version": __version__}
            await self._send_json({**hello, "models": self.models, "viewers": viewers})
            await _run_until_first_ends(self._receive(viewer), self._send_updates(viewer), self._close_when_idle())
        finally:
            self.engine.leave(viewer)

    async def _receive(self, viewer: Viewer) -> None:
        """Handle messages, and answer invalid ones with an error, until the viewer disconnects."""
        while (message := await self.websocket.receive())["type"] == "websocket.receive":
            self.last_activity = self.loop.time()
            if not self.bucket.take():
                raise _CloseError(1008, f"more than {self.limits.messages:g} messages per second")
            if (answer := self._handle(viewer, message)) is not None:
                await self._send_json(answer)
            await asyncio.sleep(0)  # let other tasks run, even if more messages have arrived already

    def _handle(self, viewer: Viewer, received: "Message") -> dict[str, object] | None:
        """The error to answer with, if the message is invalid."""
        id = None
        try:
            if received.get("text") is None:
                raise UserError(f"a message must be JSON text, not {len(received['bytes'])} bytes of binary data")
            message = parse(received["text"], self.max_bytes)
            id = getattr(message, "id", None)
            self.engine.handle(viewer, message)
        except InvalidMessageError as error:
            return error_message(error, error.id)
        except UserError as error:
            return error_message(error, id)
        return None

    async def _send_updates(self, viewer: Viewer) -> None:
        """Send frames, traces and errors of the engine as they come."""
        while True:
            await self.updated.wait()
            self.updated.clear()
            while (update := self.engine.fetch(viewer)) is not None:
                if isinstance(update, bytes):
                    await self.websocket.send_bytes(update)
                elif self.engine.failure is not None:
                    raise _CloseError(1011, update)
                else:
                    await self._send_json(error_message(update))
                self.last_activity = self.loop.time()

    async def _close_when_idle(self) -> None:
        while (left := self.last_activity + self.limits.idle - self.loop.time()) > 0:
            await asyncio.sleep(left)
        raise _CloseError(4408, f"no activity for {self.limits.idle:g} seconds")

    async def _send_json(self, message: dict[str, object]) -> None:
        await self.websocket.send_text(json.dumps(message, ensure_ascii=False, allow_nan=False))


async def _run_until_first_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently until one ends, cancel the others, and raise what the first one raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
