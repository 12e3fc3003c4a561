"""A real server under load and under attack: nobody else notices, and all is released afterwards."""

import asyncio
import contextlib
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import unpack
from shapedreamer.live.server import Limits, listen, make_server
from tests.watching import PATIENCE, as_it_is, leaving_no_thread, set_to, small

pytest.importorskip("starlette", reason="needs the extra 'web'")
pytest.importorskip("uvicorn", reason="needs the extra 'web'")
pytest.importorskip("websockets", reason="needs the extra 'web'")
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow

MODELS = {"small": small(), "other": small(labels=(), channels=3), "large": small(channels=3, size=32)}
READERS, DEAF, VANISHING = 130, 50, 20
FRAMES = 450  # that each reader sees, which takes two cores about two minutes
BUFFER = 2**14  # bytes that the system keeps for who does not read
GROWTH = 2**26  # bytes of memory that may come to what they all take from the beginning
MANY = 10_000
NONSENSE: list[Any] = [None, True, False, -1, 0.5, 51, 2**64, 10**300, "x" * 1000, "\0", "💣", [], [[]], {}, {"a": {}}]


@contextlib.contextmanager
def serving(limits: Limits) -> Iterator[tuple[str, Engine]]:
    """A server at an address; when it is left, it ends and leaves no thread behind."""
    engine = Engine(MODELS, as_it_is)
    server = make_server(engine, limits)
    server.config.ws_ping_interval = None  # who does not read answers no ping, and would be hung up on for that
    with leaving_no_thread(), listen("127.0.0.1", 0) as where:
        where.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [where]})
        thread.start()
        try:
            yield f"127.0.0.1:{where.getsockname()[1]}", engine
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            assert not thread.is_alive()


def viewers(address: str) -> int:
    with urlopen(f"http://{address}/healthz", timeout=PATIENCE) as answer:
        return int(json.load(answer)["viewers"])


def wait_until_there_are(count: int, address: str) -> None:
    end = time.monotonic() + PATIENCE
    while (there := viewers(address)) != count:
        assert time.monotonic() < end, f"there are still {there} viewers"


async def greeted(address: str) -> ClientConnection:
    """One who has been greeted, over a connection that keeps little of what is not read."""
    end = socket.create_connection(address.split(":"), PATIENCE)  # type: ignore[arg-type]
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    options: dict[str, Any] = {"sock": end, "compression": None, "max_size": None, "max_queue": 1}
    connection = await connect(f"ws://{address}/ws", open_timeout=PATIENCE, ping_interval=None, **options)
    assert json.loads(await hear(connection))["type"] == "hello"
    return connection


async def hear(connection: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(connection.recv(), PATIENCE)


async def frame(connection: ClientConnection) -> int:
    """The number of the next frame."""
    data = await hear(connection)
    assert isinstance(data, bytes), data
    return unpack(data)[0].number


async def end_of(connection: ClientConnection) -> tuple[int, str | bytes]:
    """The code by which we are hung up on, and what was said last."""
    last: str | bytes = ""
    try:
        while True:
            last = await hear(connection)
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else 1006, last


async def playing(address: str, **changes: Any) -> ClientConnection:
    connection = await greeted(address)
    await connection.send(set_to(**changes).model_dump_json(exclude_none=True))
    await connection.send('{"type": "play"}')
    return connection


def memory() -> int:
    """Bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux, which says what a process has")
def test_200_viewers_of_which_50_never_read_and_20_vanish() -> None:
    async def load(address: str, engine: Engine) -> None:
        deaf = await asyncio.gather(*[playing(address, model="large", num=16, seed=str(i)) for i in range(DEAF)])
        vanishing = await asyncio.gather(*[playing(address, seed=str(i)) for i in range(VANISHING)])
        seen = [0] * READERS

        async def reads(i: int) -> None:
            kind: dict[str, Any] = {"model": ("small", "other")[i % 2], "num": (1, 4)[i % 3 == 0], "steps": 1 + i % 2}
            connection = await playing(address, seed=str(i), **kind)
            last = -1
            while seen[i] < FRAMES:
                number = await frame(connection)
                assert number > last
                last = number
                seen[i] += 1
                if sum(seen) == READERS * FRAMES // 2:
                    halfway.extend(seen)
                    memories.append(memory())
            await connection.close()

        async def vanishes(connection: ClientConnection) -> None:
            await frame(connection)
            connection.transport.abort()

        halfway: list[int] = []
        memories: list[int] = []
        await asyncio.gather(*map(reads, range(READERS)), *map(vanishes, vanishing))
        assert min(halfway) > sum(halfway) / READERS / 2
        # those who do not read keep one frame each, and their dreams rest
        wait_until_there_are(DEAF, address)
        end = time.monotonic() + PATIENCE
        while not all(viewer.behind for viewer in list(engine._viewers)):
            assert time.monotonic() < end
            viewers(address)
        made = engine.stats().frames
        alive = await playing(address)
        while await frame(alive) < 20:
            pass
        await alive.close()
        assert engine.stats().frames - made < 30
        assert memory() - memories[0] < GROWTH
        for connection in deaf:
            connection.transport.abort()

    with serving(Limits(viewers=READERS + DEAF + VANISHING)) as (address, engine):
        assert viewers(address) == 0
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        asyncio.run(load(address, engine))
        wait_until_there_are(0, address)
        assert engine.failure is None
        assert engine.stats().frames >= READERS * FRAMES
        assert len(os.listdir("/proc/self/fd")) <= files + 2  # noqa: PTH208


def hostile(chance: random.Random) -> str | bytes:
    """A message that makes no sense: of a wrong form, of wrong values, or before the first `set`."""
    good: dict[str, Any] = set_to(chance.randrange(2**32)).model_dump(exclude_none=True)
    settings = good["settings"]

    def wrong_value() -> str:
        field = chance.choice(sorted(settings))
        values = [value for value in NONSENSE if not fits(field, value)]
        return json.dumps({**good, "settings": {**settings, field: chance.choice(values)}})

    def no_number() -> str:
        field = chance.choice(["num", "steps", "eta", "guidance", "creativity", "fps"])
        words = json.dumps({**good, "settings": {**settings, field: "HERE"}})
        return words.replace('"HERE"', chance.choice(["NaN", "Infinity", "-Infinity", "1e999", "0x1", "01", "1_0"]))

    def missing() -> str:
        del settings[chance.choice(sorted(settings))]
        return json.dumps(good)

    def unknown() -> str:
        where = chance.choice([good, settings])
        where[chance.choice(["__proto__", "constructor", "", "x" * 500, "Model"])] = chance.choice(NONSENSE)
        return json.dumps(good)

    def cut() -> str:
        words = json.dumps(good)
        return words[: chance.randrange(len(words))]

    def broken() -> str:
        words = list(json.dumps(good))
        words[chance.choice([i for i, letter in enumerate(words) if letter in '{}":,'])] = chance.choice("[#\\")
        return "".join(words)

    def deep() -> str:
        return chance.choice(["[", '{"type":', "-", '"', "\\u"]) * chance.randrange(1, 5000)

    def other_type() -> str:
        return json.dumps({**good, "type": chance.choice([*NONSENSE, "hello", "error", "SET", "set "])})

    def too_early() -> str:
        trace = {"type": "trace", "id": 1, "sampler": "ddim", "steps": 1, "eta": 0}
        early = [{"type": "step"}, {"type": "restart"}, {"type": "repaint", "mask": "////"}, trace]
        return json.dumps(chance.choice(early))

    def no_image() -> str:
        image = chance.choice(["", "A", "====", "AAAA", "\u0000", "/" * 4096, 5, [], {"0": 1}, True])
        return json.dumps({**good, "image": image})

    def impossible() -> str:
        changes: list[dict[str, Any]] = [
            {"creativity": 51},
            {"eta": 0.5, "sampler": "heun"},
            {"model": "dog"},
            {"label": {"dog": 1}},
            {"label": {"circle": 10}},
            {"label": "none", "guidance": 2},
            {"label": {"circle": 1}, "model": "other"},
        ]
        return json.dumps({**good, "settings": {**settings, **chance.choice(changes)}})

    def garbage() -> str:
        return "".join(chance.choices('{}[]",:0123456789.eE+-truefalsn \t\n\0é💣', k=chance.randrange(200)))

    def large() -> str:
        return json.dumps({**good, "image": "A" * chance.randrange(80_000, 90_000)})

    def binary() -> bytes:
        return chance.randbytes(chance.randrange(1000))

    texts = [wrong_value, no_number, missing, unknown, cut, broken, deep, other_type, too_early, no_image, impossible]
    kinds: list[Callable[[], str | bytes]] = [*texts, garbage, large, binary]
    return chance.choice(kinds)()


def fits(field: str, value: Any) -> bool:
    """Whether a setting may have this value after all."""
    if field == "label":
        return value == {}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return {
        "eta": value == 0.5,
        "guidance": value in (-1, 0.5),
        "creativity": False,
        "fps": value in (0.5, 51),
    }.get(field, False)


def test_10_000_hostile_messages_are_answered_each_and_nobody_else_notices() -> None:
    async def attack(address: str, engine: Engine) -> None:
        watcher = await playing(address)
        another = asyncio.Event()  # the watcher has had another frame

        async def watches() -> None:
            while True:
                await frame(watcher)
                another.set()

        async def attacks(seed: int) -> None:
            chance = random.Random(seed)
            connection = await greeted(address)
            for i in range(MANY // 10):
                message = hostile(chance)
                await connection.send(message)
                answer = json.loads(await hear(connection))
                assert answer["type"] == "error", message
                assert len(answer["message"]) <= 400
                if i % 50 == 0:  # the dream goes on, whatever it was
                    another.clear()
                    await asyncio.wait_for(another.wait(), PATIENCE)
            await connection.send(set_to(77, seed=str(seed)).model_dump_json(exclude_none=True))
            assert await frame(connection) == 0
            await connection.close()

        watching = asyncio.create_task(watches())
        await asyncio.gather(*map(attacks, range(10)))
        watching.cancel()
        await watcher.close()

    with serving(Limits(messages=1e6)) as (address, engine):
        asyncio.run(attack(address, engine))
        wait_until_there_are(0, address)
        assert engine.failure is None


@pytest.mark.parametrize(
    ("message", "code"), [("x" * 10_000_000, 1009), (b"\xff", 1007)], ids=["far too long", "no text"]
)
def test_what_breaks_the_protocol_ends_the_connection(message: str | bytes, code: int) -> None:
    async def breaks(address: str) -> None:
        connection = await greeted(address)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(message, text=True)
        assert (await end_of(connection))[0] == code

    with serving(Limits()) as (address, _):
        asyncio.run(breaks(address))
        wait_until_there_are(0, address)


def test_a_flood_is_hung_up_on() -> None:
    async def floods(address: str) -> None:
        connection = await greeted(address)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1000):
                await connection.send('{"type": "pause"}')
        code, last = await end_of(connection)
        assert code == 1008
        assert json.loads(last)["message"] == "these are more than 5 messages a second; closing"

    with serving(Limits(messages=5)) as (address, _):
        asyncio.run(floods(address))
        wait_until_there_are(0, address)


def test_the_server_ends_while_viewers_watch_and_one_does_not_read() -> None:
    async def watch(address: str, ready: threading.Event) -> None:
        deaf = await playing(address, model="large", num=16)
        watchers = [await playing(address) for _ in range(3)]
        for watcher in watchers:
            await frame(watcher)
        ready.set()
        for watcher in watchers:
            assert (await end_of(watcher))[0] == 1012
        deaf.transport.abort()

    ready = threading.Event()
    with serving(Limits()) as (address, engine):
        clients = threading.Thread(target=lambda: asyncio.run(watch(address, ready)))
        clients.start()
        assert ready.wait(PATIENCE)
    clients.join(PATIENCE)
    assert not clients.is_alive()
    assert engine.stats().viewers == 0
