"""shapedreamer live: serve the live page from this machine."""

from typing import Annotated

from tyro.conf import Positional, arg

from ..common.names import DeviceName


def run(
    model: Annotated[
        Positional[str | None], arg(metavar="[MODEL]", help_behavior_hint="(default: shapes-turbo)")
    ] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    open: bool = False,
    allow_origin: tuple[str, ...] = (),
    device: DeviceName = "auto",
) -> None:
    """Serve the live page, on which a network dreams in your browser. Ctrl-C stops it.

    Args:
        model: The model to start with: a shipped model, a run folder or a checkpoint file. The page lists all
            shipped models but the checkpoints sprites-epoch-0 to -31.
        host: Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for everyone who can reach it.
        port: Port to listen on; 0 for any free port.
        open: Open the page in a browser.
        allow_origin: Other web pages that may connect, such as https://example.org; * allows any.
        device: Where to compute.
    """
    import sys
    import webbrowser
    from pathlib import Path

    from ..live import access

    with access.listen(host, port) as listener:  # before the slow imports, because the port may be taken
        from ..live.catalog import PREFERRED, Catalog, shipped
        from ..live.engine import Engine
        from ..live.server import make_server

        default = next(iter(shipped()), PREFERRED[0])
        first = str(Path(model or default))  # a run is named by its path, so that code copied from the page loads it
        catalog = Catalog({name: name for name in (first, *shipped())}, device)
        if model is not None:
            catalog[first]  # raises if it is damaged
        is_local, url = access.is_local(listener), access.url(listener, host)
        server = make_server(Engine(catalog), allow_origin=allow_origin, is_local=is_local)
        if not is_local:
            print("warning: everyone who can reach this machine can use the page; see docs/live.md", file=sys.stderr)
        print(f"{first}: open {url} in a browser; Ctrl-C stops", flush=True)
        if open:
            webbrowser.open(url)
        server.run(sockets=[listener])
