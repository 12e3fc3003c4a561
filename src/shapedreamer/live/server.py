"""The live page on a server: a WebSocket for each viewer, and addresses for monitoring.

    /             the page; its files are under /page/
    /points.html  the view Points, which needs no engine
    /ws           the WebSocket: JSON messages both ways (settings.py), and binary frames to the page (frames.py);
                  with ?viewers, also a message whenever the number of viewers changes
    /models.json  the models to choose from
    /healthz      200 while the engine runs, 503 if it has stopped
    /metrics      metrics for Prometheus

Before the server closes a connection, it sends an error message with the reason. Close codes: 1008 too many messages,
1011 the engine has stopped, 1013 too many viewers, 4408 idle for too long, or idle while another viewer needs the seat.
"""

import asyncio
import contextlib
import json
import logging
import math
import mimetypes
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..common.errors import UserError, require
from .access import check_origins, client_of, is_allowed_host, is_allowed_origin
from .catalog import outlines
from .engine import WINDOW, Engine, Viewer
from .seats import NoSeatError, Seats
from .settings import InvalidMessageError, error_message, max_message_bytes, model_info, parse
from .site import HEADERS, PAGE
from .timeouts import timed_protocol

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

    viewers      connected at the same time
    per_address  of these, from one address
    messages     per second from one viewer; twice as many in a burst
    idle         seconds without a message or a frame after which a connection is closed
    make_room    the same, if another viewer needs the seat
    """

    viewers: int = 100
    per_address: int = 50
    messages: float = 500.0
    idle: float = 3600.0
    make_room: float = 60.0


def make_app(
    engine: Engine, limits: Limits = Limits(), allow_origin: Collection[str] = (), is_local: bool = False
) -> "ASGIApp":
    """The server as an ASGI application. It starts the engine, and stops it at shutdown.

    allow_origin: origins of other pages that may connect, such as https://example.org; "*" allows any
    is_local:     whether only this machine can reach the server, which then refuses requests to other hosts

    UserError without the extra `web`, or for an invalid origin.
    """
    require("starlette", "web")
    check_origins(allow_origin)
    from starlette.applications import Starlette
    from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    for ending, media_type in MEDIA_TYPES.items():
        mimetypes.add_type(media_type, ending)
    known = outlines(engine.models)
    models = [model_info(name, model) for name, model in known.items()]
    max_bytes = max_message_bytes(list(known.values()))
    seats = Seats(limits.viewers, limits.per_address, limits.make_room)

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
        origins, host = websocket.headers.getlist("origin"), websocket.headers.get("host", "")
        if not all(is_allowed_origin(origin, host, allow_origin) for origin in origins):
            log.warning("refused a page from %.200r; to allow it, use --allow-origin", ", ".join(origins))
            await websocket.close()  # before `accept`, this is a response with status 403
            return
        await _Session(websocket, engine, seats, limits, models, max_bytes).run()

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
    app: ASGIApp = Starlette(routes=routes, lifespan=lifespan)
    return _with_headers(_refusing_other_hosts(app, allow_origin) if is_local else app)


def _refusing_other_hosts(app: "ASGIApp", allow_origin: Collection[str]) -> "ASGIApp":
    """The app with status 403 for requests to other hosts than this machine; see access.is_allowed_host."""
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse
    from starlette.websockets import WebSocketClose

    async def app_for_local_hosts(scope: "Scope", receive: "Receive", send: "Send") -> None:
        hosts = [] if scope["type"] == "lifespan" else Headers(scope=scope).getlist("host")
        if is_allowed_host(hosts, allow_origin):
            await app(scope, receive, send)
            return
        log.warning("refused a request to the host %.200r; to allow it, use --allow-origin", ", ".join(hosts))
        refusal = "This server answers requests to localhost only. To allow another host, use --allow-origin.\n"
        is_socket = scope["type"] == "websocket"
        response = WebSocketClose() if is_socket else PlainTextResponse(refusal, status_code=403)
        await response(scope, receive, send)

    return app_for_local_hosts


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


def make_server(
    engine: Engine, limits: Limits = Limits(), allow_origin: Collection[str] = (), is_local: bool = False
) -> "uvicorn.Server":
    """A server for the app: run(sockets=[…]) serves until Ctrl-C or SIGTERM. Arguments and errors: see make_app."""
    require("uvicorn", "web")
    require("websockets", "web")
    import uvicorn

    config = uvicorn.Config(
        make_app(engine, limits, allow_origin, is_local),
        http=timed_protocol(),
        log_level="warning",
        ws_max_size=2
        * max_message_bytes(list(outlines(engine.models).values())),  # above it, the connection closes with 1009
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
        self,
        websocket: "WebSocket",
        engine: Engine,
        seats: Seats,
        limits: Limits,
        models: list[dict[str, object]],
        max_bytes: int,
    ) -> None:
        self.websocket, self.engine, self.seats, self.limits = websocket, engine, seats, limits
        self.models, self.max_bytes = models, max_bytes
        self.address = client_of(websocket.client.host) if websocket.client else None
        self.counts_viewers = "viewers" in websocket.query_params  # older clients do not expect that message
        self.loop = asyncio.get_running_loop()
        self.updated = asyncio.Event()  # the engine has something to fetch, or the number of viewers has changed
        self.displaced = asyncio.Event()  # another viewer has got this seat
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
            self.seats.take(self)
        except NoSeatError as error:
            raise _CloseError(1013, str(error)) from None
        try:
            await self._serve_viewer()
        finally:
            self.seats.leave(self)

    async def _serve_viewer(self) -> None:
        try:
            viewer = self.engine.join(lambda: self.loop.call_soon_threadsafe(self.updated.set))
        except UserError as error:
            raise _CloseError(1011, str(error)) from None
        try:
            await _run_until_first_ends(self._receive(viewer), self._send(viewer), self._close_when_idle())
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

    async def _send(self, viewer: Viewer) -> None:
        """Send "hello", and then the number of viewers, frames, traces and errors as they come."""
        viewers = len(self.seats)
        hello = {"type": "hello", "engine": "server", "version": __version__}
        await self._send_json({**hello, "models": self.models, "viewers": viewers})
        while True:
            await self.updated.wait()
            self.updated.clear()
            if self.counts_viewers and viewers != (viewers := len(self.seats)):
                await self._send_json({"type": "viewers", "viewers": viewers})
            await self._send_updates(viewer)

    async def _send_updates(self, viewer: Viewer) -> None:
        """Send everything that the engine has finished for this viewer."""
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
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.displaced.wait(), left)
                raise _CloseError(4408, "idle, so another viewer got this place")
        raise _CloseError(4408, f"no activity for {self.limits.idle:g} seconds")

    # for the seats

    @property
    def idle_time(self) -> float:
        """Seconds since the last message or frame."""
        return self.loop.time() - self.last_activity

    def displace(self) -> None:
        """Close the connection, because another viewer has got the seat."""
        self.displaced.set()

    def viewers_changed(self) -> None:
        """Tell the page the number of viewers."""
        self.updated.set()

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
