"""shapedreamer live: serve the live page from this machine."""

from typing import Annotated

from tyro.conf import Positional, arg

from ..common.names import DeviceName

PREFERRED = ("shapes-turbo", "shapes", "sprites")


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
        model: The model to start with: a shipped model, a run folder or a checkpoint file. All shipped models can be
            selected on the page.
        host: Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 for everyone who can reach it.
        port: Port to listen on; 0 for any free port.
        open: Open the page in a browser.
        allow_origin: Other web pages that may connect, such as https://example.org; * allows any.
        device: Where to compute.
    """
    import webbrowser
    from pathlib import Path

    from ..live.engine import Engine
    from ..live.server import listen, make_server
    from ..models import zoo
    from ..models.model import load

    default = next((name for name in PREFERRED if name in zoo.names()), PREFERRED[0])
    first = str(Path(model or default))  # the page names a run by its path, so that code copied from it loads this run
    models = {first: load(first, device=device)}
    models |= {other: load(other, device=device) for other in zoo.names() if other not in models}
    engine = Engine(models)
    server = make_server(engine, allow_origin=allow_origin)
    with listen(host, port) as socket:
        address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}"
        print(f"{first} runs in {engine.prepare(first)}; open {address} in a browser; Ctrl-C stops", flush=True)
        if open:
            webbrowser.open(address)
        server.run(sockets=[socket])
