"""Live pages of all runs in a folder, for a server that others train into: each shows the newest checkpoint.

/            the pages there are
/runs/NAME   the live page of a run, or of a shipped model; the addresses below it are those of server.py
"""

import asyncio
import contextlib
import html
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..common.errors import UserError, require
from ..common.files import naming_disk_errors
from ..export.runtimes import fastest_network
from ..models import zoo
from ..models.model import Model, NetworkFunction, load
from .engine import Engine
from .server import Limits, make_app

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

LIMITS = Limits(per_address=Limits().viewers)


class _Page(NamedTuple):
    """The page of one checkpoint, which `stamp` tells apart from an older one of the same run."""

    stamp: tuple[int, int]
    engine: Engine
    app: "ASGIApp"


def make_runs_app(
    folder: Path,
    refresh: Callable[[], object] = lambda: None,
    choose_network: Callable[[Model], tuple[NetworkFunction, str]] = fastest_network,
) -> "ASGIApp":
    """The pages of the runs in a folder as an ASGI application. It starts an engine when a run is first opened.

    refresh:        called before a page is opened, such as to fetch files that another machine has written
    choose_network: chooses how to run a model's network; see engine.py

    Opening a page again shows the checkpoint that is the newest then; pages that are open keep theirs. Any web page may
    connect, and one address may have all viewers, because a proxy in front may change the Host header and hide the
    addresses. UserError without the extra `web`.
    """
    require("starlette", "web")
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Mount, Route

    pages = _Pages(folder, refresh, choose_network)

    def index(request: "Request") -> "Response":
        links = (f'<li><a href="runs/{html.escape(name)}/">{html.escape(name)}</a></li>' for name in pages.names())
        return HTMLResponse(f"<!doctype html><title>ShapeDreamer</title><ul>{''.join(links)}</ul>")

    async def run(scope: "Scope", receive: "Receive", send: "Send") -> None:
        name, is_opened = scope["path_params"]["name"], scope["path"] == scope["root_path"] + "/"
        try:
            page = await asyncio.to_thread(pages.newest if is_opened else pages.current, name)
        except UserError as error:
            await PlainTextResponse(f"{error}\n", status_code=404)(scope, receive, send)
        else:
            await page.app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.to_thread(pages.close)

    return Starlette(routes=[Route("/", index), Mount("/runs/{name}", app=run)], lifespan=lifespan)


class _Pages:
    """The pages that are open, by name. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        refresh: Callable[[], object],
        choose_network: Callable[[Model], tuple[NetworkFunction, str]],
    ) -> None:
        self.folder, self.refresh, self.choose_network = folder, refresh, choose_network
        self.lock = threading.Lock()
        self.pages: dict[str, _Page] = {}
        self.replaced: list[_Page] = []  # which may still have viewers

    def names(self) -> list[str]:
        """The runs that have a checkpoint, and the shipped models."""
        with self.lock:
            self.refresh()
            runs = sorted(path.parents[1].name for path in self.folder.glob("*/checkpoints/latest.safetensors"))
        return runs + [name for name in zoo.names() if name not in runs]

    def current(self, name: str) -> _Page:
        """The page that was opened last, or the newest one if there is none. UserError if there is no such run."""
        page = self.pages.get(name)
        return page or self.newest(name)

    def newest(self, name: str) -> _Page:
        """The page of the newest checkpoint. UserError if there is no such run, or if the checkpoint is damaged."""
        with self.lock:
            self.refresh()
            path = self._checkpoint(name)
            stamp = path.stat().st_mtime_ns, path.stat().st_size
            page = self.pages.get(name)
            if page is None or page.stamp != stamp:
                self.replaced += [page] if page else []
                page = self.pages[name] = self._open(name, path, stamp)
            self.replaced = [old for old in self.replaced if not _stopped(old)]
            return page

    def close(self) -> None:
        """Stop all engines."""
        with self.lock:
            for page in (*self.pages.values(), *self.replaced):
                page.engine.stop()

    def _checkpoint(self, name: str) -> Path:
        if name not in {".", ".."} and "/" not in name:
            path = self.folder / name / "checkpoints" / "latest.safetensors"
            if path.exists():
                return path
        if name in zoo.names():
            return zoo.path(name)
        raise UserError(f"there is no run {name} with a checkpoint")

    def _open(self, name: str, path: Path, stamp: tuple[int, int]) -> _Page:
        # A loaded model keeps its file open, and a network volume may refuse to refresh while files on it are open.
        with tempfile.TemporaryDirectory() as copies:
            copy = Path(copies) / path.name
            with naming_disk_errors(copy):
                shutil.copyfile(path, copy)
            engine = Engine({name: load(copy)}, self.choose_network)
        engine.start()
        return _Page(stamp, engine, make_app(engine, LIMITS, allow_origin=["*"]))


def _stopped(page: _Page) -> bool:
    """Stop the engine of a page that was replaced, if it has no viewers any more; whether it was stopped."""
    if page.engine.stats().viewers:
        return False
    page.engine.stop()
    return True
