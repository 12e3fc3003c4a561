"""How many frames a second does the live page show? python -m benchmarks.live [MODEL]

In headless Chromium on this machine, with frames counted on the page, which dreams as fast as it can: with 1, 2 and 4
network calls a frame, by the engine on a server and by the one in the browser, with threads and without. Beside it, in
every round, the original's way to a frame: 20 calls of DDIM of a network of 18.5 million parameters, in float32.

What a picture is worth that dreams have melted into this often, with so many calls a frame: for models of shapes the
share of them that are true shapes after FRAMES frames.

And on the server, without a browser: 32 viewers beside one, over sockets and without (then the viewers are not programs
that want the processor too; told is how much of its time the engine has the network at work), each beside what the
network alone makes, run in the same way and in calls of as many images, which is the batch limit of the machine.

Needs the extras web, export, diffusers and dev, the browser chromium, and npm (or --runtime, as `shapedreamer site`).
"""

import asyncio
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from shapedreamer.common.errors import UserError
from shapedreamer.evaluation.validity import judge, primitives_of
from shapedreamer.imaging.explore import melt
from shapedreamer.imaging.figures import Way
from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import unpack
from shapedreamer.live.network import Network, fastest
from shapedreamer.live.settings import longest_message, model_info, parse
from shapedreamer.live.site import build_site
from shapedreamer.models.model import Model, load

from .sampling import original
from .throughput import machine, seconds

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from websockets.asyncio.client import ClientConnection

SERVER, THREADS, THREAD = "server", "browser, threads", "browser, one thread"
CALLS = (1, 2, 4)
VIEWERS = 32
WARM = 10  # frames that are not counted
FRAMES, CHAINS = 16, 256
SHOWN = "() => [Number(document.querySelector('#frame-number').value.replace(/\\D/g, '')), performance.now()]"


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def live(model: str) -> Iterator[str]:
    """The address of `shapedreamer live`."""
    with running("shapedreamer.cli", "live", model, "--port", "0") as process:
        assert process.stdout is not None
        words = process.stdout.readline()
        if "http://" not in words:
            raise UserError(f"the server did not start: {words}")
        print(words.split(";")[0], file=sys.stderr)
        yield words.split("http://")[1].split()[0]


@contextlib.contextmanager
def chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def site(folder: Path) -> Iterator[str]:
    """The address of a host of the site, which sends no headers: coi.js makes up for them, where it is let."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with running("http.server", port, "--bind", "127.0.0.1", "--directory", str(folder)):
        while socket.socket().connect_ex(("127.0.0.1", int(port))):
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"


def on_the_page(browser: "Browser", address: str, model: str, calls: int, length: float, threads: bool = True) -> float:
    """Frames a second that the page shows, over `length` seconds."""
    with browser.new_context(service_workers="allow" if threads else "block") as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"http://{address}/#model={model}&seed=1&steps={calls}&fps=0")
        page.wait_for_function(f"() => ({SHOWN})()[0] >= {WARM}")
        if threads and not page.evaluate("crossOriginIsolated"):
            raise UserError("the page has no threads")
        first, begin = page.evaluate(SHOWN)
        page.wait_for_timeout(1000 * length)
        last, end = page.evaluate(SHOWN)
        return float(1000 * (last - first) / (end - begin))


def wishes(model: Model, name: str, calls: int, seed: int) -> list[str]:
    """The messages of a viewer who wants one dream of so many calls a frame, as fast as it goes."""
    info: Any = model_info(name, model)
    settings = {"model": name, "num": 1, "sampler": "ddim", "steps": calls, "eta": 1.0, "guidance": 1.0, "fps": 0.0}
    settings |= {"creativity": info["creativity"], "label": "any", "seed": str(seed)}
    return [json.dumps({"type": "set", "id": 1, "settings": settings}), '{"type": "play"}']


def of_viewers(address: str, model: Model, name: str, calls: int, count: int, length: float) -> list[float]:
    """Frames a second that each of `count` viewers gets."""
    from websockets.asyncio.client import connect

    async def number(connection: "ClientConnection") -> int:
        """Of the next frame."""
        frame = await connection.recv()
        assert isinstance(frame, bytes), frame
        return unpack(frame)[0].number

    async def begun(seed: int) -> "ClientConnection":
        connection = await connect(f"ws://{address}/ws", max_size=None, compression=None)
        await connection.recv()
        for wish in wishes(model, name, calls, seed):
            await connection.send(wish)
        while await number(connection) < WARM:
            pass
        return connection

    async def watched(connection: "ClientConnection") -> float:
        first, begin = await number(connection), time.monotonic()
        while (now := time.monotonic()) < begin + length:
            last = await number(connection)
        await connection.close()
        return (last - first) / (now - begin)

    async def all_of_them() -> list[float]:
        connections = await asyncio.gather(*map(begun, range(count)))
        return await asyncio.gather(*map(watched, connections))

    return asyncio.run(all_of_them())


class Timed:
    """A network, and the seconds that it has been at work."""

    def __init__(self, network: Network) -> None:
        self.network, self.seconds = network, 0.0

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        begin = time.monotonic()
        answer = self.network(x, t, label)
        self.seconds += time.monotonic() - begin
        return answer


def of_engine(engine: Engine, network: Timed, name: str, calls: int, count: int, length: float) -> tuple[float, float]:
    """Frames a second that `count` viewers get together who are no more than calls of a function; and of all the time
    the share that the engine's network is at work.
    """
    model, news = engine.models[name], threading.Event()
    viewers = [engine.join(news.set, count) for _ in range(count)]
    for seed, viewer in enumerate(viewers):
        for wish in wishes(model, name, calls, seed):
            engine.heed(viewer, parse(wish, longest_message([model])))

    def fetched(most: float) -> int:
        """How many frames, in so many seconds."""
        frames, end = 0, time.monotonic() + most
        while time.monotonic() < end:
            news.wait(1)
            news.clear()
            frames += sum(engine.fetch(viewer) is not None for viewer in viewers)
        return frames

    fetched(length / 4)
    begin, before = time.monotonic(), network.seconds
    frames = fetched(length)
    took, at_work = time.monotonic() - begin, network.seconds - before
    for viewer in viewers:
        engine.leave(viewer)
    return frames / took, at_work / took


def of_network(network: Network, model: Model, batch: int, length: float) -> float:
    """Images a second of a network's calls of so many, and of nothing else."""
    x, t = model.noise(batch), torch.full((batch,), model.schedule.T)
    label = None if model.labels is None else model.label_vectors("any", batch)
    network(x, t, label)
    calls, begin = 0, time.monotonic()
    while (now := time.monotonic()) < begin + length:
        network(x, t, label)
        calls += 1
    return calls * batch / (now - begin)


def worth(model: Model, calls: int) -> str:
    """How many of CHAINS pictures are true shapes after FRAMES frames; – for a model of something else."""
    if primitives_of(model.spec) is None:
        return "–"
    way = Way(steps=calls, seed=11)
    creativity: Any = model_info("", model)["creativity"]
    last = melt(model, model.sample(CHAINS, **way._asdict()), creativity, FRAMES + 1, CHAINS, way)[-1]
    return f"{judge(last, model.spec).valid:.1%}"


def main(
    model: Positional[str] = "shapes-turbo", length: float = 8.0, rounds: int = 3, runtime: Path | None = None
) -> None:
    """Measure, and print tables.

    Args:
        model: A model in the box that is made for few calls.
        length: Seconds that each measurement takes.
        rounds: Turns of each; the median counts.
        runtime: The tarball of onnxruntime-web, where npm cannot fetch it.
    """
    dreamer, candidate = load(model, device="cpu"), next(iter(original()))
    frames: dict[str, list[float]] = {}
    with live(model) as served:
        with chromium() as browser, tempfile.TemporaryDirectory() as folder:
            build_site(Path(folder) / "site", [model], runtime)
            with site(Path(folder) / "site") as static:
                shows = partial(on_the_page, browser, model=model, length=length)
                for turn in range(rounds):
                    for calls in CALLS:
                        for way, rate in (
                            (SERVER, shows(served, calls=calls)),
                            (THREADS, shows(static, calls=calls)),
                            (THREAD, shows(static, calls=calls, threads=False)),
                        ):
                            frames.setdefault(f"{way}, {calls}", []).append(rate)
                    candidate.draw(1)
                    frames.setdefault("theirs", []).append(1 / seconds(lambda: candidate.draw(1)))
                    print(f"round {turn + 1} of {rounds}: {frames}", file=sys.stderr)
        network, how = fastest(dreamer)
        timed = Timed(network)
        engine = Engine({model: dreamer}, pick=lambda _: (timed, how))
        engine.prepare(model)
        engine.start()
        shares = []  # of the slowest viewer, beside the mean
        for turn in range(rounds):
            for count in (1, VIEWERS):
                each = of_viewers(served, dreamer, model, CALLS[-1], count, length)
                frames.setdefault(f"viewers, {count}", []).append(sum(each))
                rate, share = of_engine(engine, timed, model, CALLS[-1], count, length)
                frames.setdefault(f"engine, {count}", []).append(rate)
                frames.setdefault(f"at work, {count}", []).append(share)
                frames.setdefault(f"network, {count}", []).append(
                    of_network(network, dreamer, count, length) / CALLS[-1]
                )
            shares.append(min(each) / statistics.mean(each))
            print(f"round {turn + 1} of {rounds}: {frames}", file=sys.stderr)
        engine.stop()
    rates = {name: statistics.median(every) for name, every in frames.items()}
    print(f"{machine()}. {model}; frames a second.\n")
    print("| calls a frame | server | browser, threads | browser, one thread | true shapes |\n|---|---|---|---|---|")
    for calls in CALLS:
        cells = [f"{rates[f'{way}, {calls}']:.1f}" for way in (SERVER, THREADS, THREAD)]
        print(f"| {calls} | {' | '.join(cells)} | {worth(dreamer, calls)} |")
    print(f"| {candidate.calls} of {candidate.model} | {rates['theirs']:.2f} | | | |\n")
    print(
        f"| viewers of {CALLS[-1]} calls | images a second | without sockets | the network is at work "
        f"| {how} alone, at that batch |\n|---|---|---|---|---|"
    )
    for count in (1, VIEWERS):
        viewers, alone, limit = (f"{rates[f'{way}, {count}']:.1f}" for way in ("viewers", "engine", "network"))
        print(f"| {count} | {viewers} | {alone} | {rates[f'at work, {count}']:.0%} | {limit} |")
    print(f"\nThe slowest of {VIEWERS} viewers has {min(shares):.0%} of the mean.")


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except UserError as error:
        sys.exit(str(error))
