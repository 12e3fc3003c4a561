"""Measure how many frames per second the live page shows: python -m benchmarks.live [MODEL]

Single viewer: headless Chromium on this machine counts the frames on the page, at unlimited speed, with 1, 2 and 4
network calls per frame. The engine runs on a server, in the browser with threads, and in the browser on one thread. In
every round, the original ShapeDreamer is measured too: 20 DDIM calls of a network with 18.5 million parameters.

Quality: for models of shapes, the share of valid shapes after 16 frames, for each number of calls.

Many viewers: 1 and 32 viewers of the server, without a browser. They are measured with sockets and without. Without
sockets, viewers are function calls, which use almost no CPU time; the table then shows the share of time in which the
engine's network is busy. The last column is the upper limit: the network alone, with all viewers in one batch.

Needs the extras web, export, diffusers and dev, the browser chromium, and npm (or --runtime, as for `shapedreamer
site`).
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
from shapedreamer.export.runtimes import fastest_network
from shapedreamer.imaging.editing import melt
from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import unpack
from shapedreamer.live.settings import max_message_bytes, model_info, parse
from shapedreamer.live.site import build_site
from shapedreamer.models.model import Model, NetworkFunction, load
from shapedreamer.models.options import SampleOptions

from .sampling import original
from .throughput import machine, seconds

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from websockets.asyncio.client import ClientConnection

SERVER, THREADS, ONE_THREAD = "server", "browser, threads", "browser, one thread"
CALLS = (1, 2, 4)
VIEWERS = 32
WARM_UP = 10  # frames before the measurement starts
FRAMES, CHAINS = 16, 256
FRAME_AND_TIME = "() => [Number(document.querySelector('#frame-number').value.replace(/\\D/g, '')), performance.now()]"


@contextlib.contextmanager
def running(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A Python module that runs in another process until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def live_server(model: str) -> Iterator[str]:
    """The address of a running `shapedreamer live`."""
    with running("shapedreamer.cli", "live", model, "--port", "0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "http://" not in line:
            raise UserError(f"the server did not start: {line}")
        print(line.split(";")[0], file=sys.stderr)
        yield line.split("http://")[1].split()[0]


@contextlib.contextmanager
def chromium() -> "Iterator[Browser]":
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """The address of a host that serves the site without headers; coi.js adds them, if service workers are allowed."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with running("http.server", port, "--bind", "127.0.0.1", "--directory", str(folder)):
        while socket.socket().connect_ex(("127.0.0.1", int(port))):
            time.sleep(0.1)
        yield f"127.0.0.1:{port}"


def page_fps(browser: "Browser", address: str, model: str, calls: int, length: float, threads: bool = True) -> float:
    """Frames per second that the page shows, over `length` seconds."""
    with browser.new_context(service_workers="allow" if threads else "block") as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"http://{address}/#model={model}&seed=1&steps={calls}&fps=0")
        page.wait_for_function(f"() => ({FRAME_AND_TIME})()[0] >= {WARM_UP}")
        if threads and not page.evaluate("crossOriginIsolated"):
            raise UserError("the page has no threads")
        first, start = page.evaluate(FRAME_AND_TIME)
        page.wait_for_timeout(1000 * length)
        last, end = page.evaluate(FRAME_AND_TIME)
        return float(1000 * (last - first) / (end - start))


def viewer_messages(model: Model, name: str, calls: int, seed: int) -> list[str]:
    """The messages of a viewer who plays one image, with this number of calls per frame, as fast as possible."""
    info: Any = model_info(name, model)
    settings = {"model": name, "num": 1, "sampler": "ddim", "steps": calls, "eta": 1.0, "guidance": 1.0, "fps": 0.0}
    settings |= {"creativity": info["creativity"], "label": "any", "seed": str(seed)}
    return [json.dumps({"type": "set", "id": 1, "settings": settings}), '{"type": "play"}']


def socket_fps(address: str, model: Model, name: str, calls: int, count: int, length: float) -> list[float]:
    """Frames per second that each of `count` viewers receives over a WebSocket."""
    from websockets.asyncio.client import connect

    async def next_frame(connection: "ClientConnection") -> int:
        """The number of the next frame."""
        frame = await connection.recv()
        assert isinstance(frame, bytes), frame
        return unpack(frame)[0].number

    async def start_playing(seed: int) -> "ClientConnection":
        connection = await connect(f"ws://{address}/ws", max_size=None, compression=None)
        await connection.recv()
        for message in viewer_messages(model, name, calls, seed):
            await connection.send(message)
        while await next_frame(connection) < WARM_UP:
            pass
        return connection

    async def measure(connection: "ClientConnection") -> float:
        first, start = await next_frame(connection), time.monotonic()
        while (now := time.monotonic()) < start + length:
            last = await next_frame(connection)
        await connection.close()
        return (last - first) / (now - start)

    async def measure_all() -> list[float]:
        connections = await asyncio.gather(*map(start_playing, range(count)))
        return await asyncio.gather(*map(measure, connections))

    return asyncio.run(measure_all())


class TimedNetwork:
    """A network that adds up the seconds its calls take."""

    def __init__(self, network: NetworkFunction) -> None:
        self.network, self.seconds = network, 0.0

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        start = time.monotonic()
        prediction = self.network(x, t, label)
        self.seconds += time.monotonic() - start
        return prediction


def engine_fps(
    engine: Engine, network: TimedNetwork, name: str, calls: int, count: int, length: float
) -> tuple[float, float]:
    """Frames per second of `count` viewers in this process together, and the share of time the network is busy."""
    model, updated = engine.models[name], threading.Event()
    viewers = [engine.join(updated.set) for _ in range(count)]
    for seed, viewer in enumerate(viewers):
        for message in viewer_messages(model, name, calls, seed):
            engine.handle(viewer, parse(message, max_message_bytes([model])))

    def count_frames(duration: float) -> int:
        """Fetch frames for this number of seconds, and return how many there were."""
        frames, end = 0, time.monotonic() + duration
        while time.monotonic() < end:
            updated.wait(1)
            updated.clear()
            frames += sum(engine.fetch(viewer) is not None for viewer in viewers)
        return frames

    count_frames(length / 4)
    start, busy_before = time.monotonic(), network.seconds
    frames = count_frames(length)
    duration, busy = time.monotonic() - start, network.seconds - busy_before
    for viewer in viewers:
        engine.leave(viewer)
    return frames / duration, busy / duration


def network_throughput(network: NetworkFunction, model: Model, batch: int, length: float) -> float:
    """Images per second of the network alone, with this batch size."""
    x, t = model.noise(batch), torch.full((batch,), model.schedule.T)
    label = None if model.labels is None else model.label_vectors("any", batch)
    network(x, t, label)
    calls, start = 0, time.monotonic()
    while (now := time.monotonic()) < start + length:
        network(x, t, label)
        calls += 1
    return calls * batch / (now - start)


def valid_share(model: Model, calls: int) -> str:
    """The share of CHAINS images that are valid shapes after FRAMES frames; – for models of other data."""
    if primitives_of(model.spec) is None:
        return "–"
    options = SampleOptions(steps=calls, seed=11)
    creativity: Any = model_info("", model)["creativity"]
    last = melt(model, model.sample(CHAINS, options), creativity, FRAMES + 1, CHAINS, options)[-1]
    return f"{judge(last, model.spec).valid:.1%}"


def main(
    model: Positional[str] = "shapes-turbo", length: float = 8.0, rounds: int = 3, runtime: Path | None = None
) -> None:
    """Measure, and print tables in Markdown.

    Args:
        model: A shipped few-step model.
        length: Seconds per measurement.
        rounds: How often to measure; the tables show the median.
        runtime: The tarball of onnxruntime-web, if npm cannot download it.
    """
    loaded, baseline = load(model, device="cpu"), next(iter(original()))
    results: dict[str, list[float]] = {}
    with live_server(model) as server:
        with chromium() as browser, tempfile.TemporaryDirectory() as folder:
            build_site(Path(folder) / "site", [model], runtime)
            with static_host(Path(folder) / "site") as static:
                measure = partial(page_fps, browser, model=model, length=length)
                for number in range(1, rounds + 1):
                    for calls in CALLS:
                        for place, fps in (
                            (SERVER, measure(server, calls=calls)),
                            (THREADS, measure(static, calls=calls)),
                            (ONE_THREAD, measure(static, calls=calls, threads=False)),
                        ):
                            results.setdefault(f"{place}, {calls}", []).append(fps)
                    baseline.draw(1)
                    results.setdefault("original", []).append(1 / seconds(lambda: baseline.draw(1)))
                    print(f"round {number} of {rounds}: {results}", file=sys.stderr)
        network, backend = fastest_network(loaded)
        timed = TimedNetwork(network)
        engine = Engine({model: loaded}, lambda _: (timed, backend))
        engine.prepare(model)
        engine.start()
        slowest = []  # frame rate of the slowest viewer, as a share of the mean
        for number in range(1, rounds + 1):
            for count in (1, VIEWERS):
                viewer_rates = socket_fps(server, loaded, model, CALLS[-1], count, length)
                engine_rate, busy = engine_fps(engine, timed, model, CALLS[-1], count, length)
                limit = network_throughput(network, loaded, count, length) / CALLS[-1]
                results.setdefault(f"sockets, {count}", []).append(sum(viewer_rates))
                results.setdefault(f"engine, {count}", []).append(engine_rate)
                results.setdefault(f"busy, {count}", []).append(busy)
                results.setdefault(f"network, {count}", []).append(limit)
            slowest.append(min(viewer_rates) / statistics.mean(viewer_rates))
            print(f"round {number} of {rounds}: {results}", file=sys.stderr)
        engine.stop()
    medians = {name: statistics.median(values) for name, values in results.items()}
    print(f"{machine()}. {model}; frames per second.\n")
    print("| calls per frame | server | browser, threads | browser, one thread | valid |\n|---|---|---|---|---|")
    for calls in CALLS:
        cells = [f"{medians[f'{place}, {calls}']:.1f}" for place in (SERVER, THREADS, ONE_THREAD)]
        print(f"| {calls} | {' | '.join(cells)} | {valid_share(loaded, calls)} |")
    print(f"| {baseline.calls}, {baseline.model} | {medians['original']:.2f} | | | |\n")
    print(
        f"| viewers, {CALLS[-1]} calls per frame | images/s in total | without sockets | network busy "
        f"| {backend} alone, same batch size |\n|---|---|---|---|---|"
    )
    for count in (1, VIEWERS):
        sockets, direct, alone = (f"{medians[f'{name}, {count}']:.1f}" for name in ("sockets", "engine", "network"))
        print(f"| {count} | {sockets} | {direct} | {medians[f'busy, {count}']:.0%} | {alone} |")
    print(f"\nThe slowest of {VIEWERS} viewers gets {min(slowest):.0%} of the mean frame rate.")


if __name__ == "__main__":
    try:
        tyro.cli(main, description=__doc__)
    except UserError as error:
        sys.exit(str(error))
