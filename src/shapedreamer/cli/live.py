"""shapedreamer live: the page, dreaming on this machine."""

from typing import Annotated

from tyro.conf import Positional, arg

from ..common.names import DeviceName

FAVOURITES = ("shapes-turbo", "shapes", "sprites")


def run(
    model: Annotated[
        Positional[str | None], arg(metavar="[MODEL]", help_behavior_hint="(default: shapes, by few steps)")
    ] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    open: bool = False,
    allow_origin: tuple[str, ...] = (),
    device: DeviceName = "auto",
) -> None:
    """Serve the live page: watch the network dream, in a browser. Ctrl-C ends it.

    Args:
        model: What dreams first: a model in the box, a run folder or a checkpoint. All in the box can be chosen on
            the page.
        host: Where to listen: 127.0.0.1 is for this machine alone, 0.0.0.0 for all who can reach it.
        port: Where to listen; 0 for any that is free.
        open: Open the page in a browser.
        allow_origin: Pages from elsewhere that may connect too, such as https://example.org; * is any.
        device: Where to compute.
    """
    import webbrowser
    from pathlib import Path

    from ..live.engine import Engine
    from ..live.server import listen, make_server
    from ..models import zoo
    from ..models.model import load

    first = model or next((name for name in FAVOURITES if name in zoo.names()), FAVOURITES[0])
    name = Path(first).resolve().stem if Path(first).exists() else first
    models = {name: load(first, device=device)}
    models |= {other: load(other, device=device) for other in zoo.names() if other not in models}
    engine = Engine(models)
    server = make_server(engine, allow_origin=allow_origin)
    with listen(host, port) as socket:
        address = f"http://{f'[{host}]' if ':' in host else host}:{socket.getsockname()[1]}"
        print(f"{name} runs in {engine.prepare(name)}; the page is at {address} and Ctrl-C ends it", flush=True)
        if open:
            webbrowser.open(address)
        server.run(sockets=[socket])
