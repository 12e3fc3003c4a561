"""A real server under load and with hostile clients: other viewers are not affected, and all resources are freed."""

import asyncio
import contextlib
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from shapedreamer.live.access import listen
from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import unpack
from shapedreamer.live.server import Limits, make_server
from shapedreamer.live.settings import Settings
from shapedreamer.models.model import Model
from tests.watching import TIMEOUT, eager, no_threads_left, set_message, small_model

pytest.importorskip("starlette", reason="needs the extra 'web'")
pytest.importorskip("uvicorn", reason="needs the extra 'web'")
pytest.importorskip("websockets", reason="needs the extra 'web'")
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.slow

MODELS = {
    "small": small_model(),
    "other": small_model(labels=(), channels=3),
    "large": small_model(channels=3, size=32),
}
READERS, NOT_READING, VANISHING = 130, 50, 20
FRAMES = 250  # received by each reader; takes about a minute on two cores
BUFFER = 2**14  # bytes of a socket's send or receive buffer, which a client that does not read soon fills
MAX_GROWTH = 2**26  # bytes by which memory may grow in the second half of the test
HOSTILE_MESSAGES = 10_000
INVALID_VALUES: list[Any] = [
    *(None, True, False, -1, 0.5, 51, 2**64, 10**300),
    *("x" * 1000, "\0", "💣", [], [[]], {}, {"a": {}}),
]


@contextlib.contextmanager
def serving(limits: Limits, models: Mapping[str, Model] = MODELS) -> Iterator[tuple[str, Engine]]:
    """The address and the engine of a running server, which must stop at the end and leave no thread behind."""
    engine = Engine(models, eager)
    server = make_server(engine, limits)
    server.config.ws_ping_interval = None  # a client that does not read answers no ping, and would be disconnected
    with no_threads_left(), listen("127.0.0.1", 0) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", engine
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)
            assert not thread.is_alive()


def count_viewers(address: str) -> int:
    with urlopen(f"http://{address}/healthz", timeout=TIMEOUT) as response:
        return int(json.load(response)["viewers"])


def wait_for_viewers(count: int, address: str) -> None:
    """Wait until exactly `count` viewers are connected."""
    end = time.monotonic() + TIMEOUT
    while (current := count_viewers(address)) != count:
        assert time.monotonic() < end, f"there are still {current} viewers"


async def open_connection(address: str) -> ClientConnection:
    """A connection with small buffers that has received "hello"."""
    end = socket.create_connection(address.split(":"), TIMEOUT)  # type: ignore[arg-type]
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    options: dict[str, Any] = {"sock": end, "compression": None, "max_size": None, "max_queue": 1}
    connection = await connect(f"ws://{address}/ws", open_timeout=TIMEOUT, ping_interval=None, **options)
    assert json.loads(await receive(connection))["type"] == "hello"
    return connection


async def receive(connection: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(connection.recv(), TIMEOUT)


async def receive_frame(connection: ClientConnection) -> int:
    """The number of the next frame."""
    data = await receive(connection)
    assert isinstance(data, bytes), data
    return unpack(data)[0].number


async def wait_for_close(connection: ClientConnection) -> tuple[int, str | bytes]:
    """The close code, and the last message before it."""
    last: str | bytes = ""
    try:
        while True:
            last = await receive(connection)
    except ConnectionClosed as end:
        return end.rcvd.code if end.rcvd else 1006, last


async def start_playing(address: str, **changes: Any) -> ClientConnection:
    connection = await open_connection(address)
    await connection.send(set_message(**changes).model_dump_json(exclude_none=True))
    await connection.send('{"type": "play"}')
    return connection


def memory() -> int:
    """Bytes of memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc, which only Linux has")
def test_200_viewers_with_50_that_never_read_and_20_that_vanish() -> None:
    async def generate_load(address: str, engine: Engine) -> None:
        not_reading = await asyncio.gather(
            *[start_playing(address, model="large", num=16, seed=str(i)) for i in range(NOT_READING)]
        )
        vanishing = await asyncio.gather(*[start_playing(address, seed=str(i)) for i in range(VANISHING)])
        counts = [0] * READERS

        async def read(i: int) -> None:
            model, num, steps = ("small", "other")[i % 2], (1, 4)[i % 3 == 0], 1 + i % 2
            connection = await start_playing(address, seed=str(i), model=model, num=num, steps=steps)
            last = -1
            while counts[i] < FRAMES:
                number = await receive_frame(connection)
                assert number > last
                last = number
                counts[i] += 1
                if sum(counts) == READERS * FRAMES // 2:
                    counts_halfway.extend(counts)
                    memory_halfway.append(memory())
            await connection.close()

        async def vanish(connection: ClientConnection) -> None:
            await receive_frame(connection)
            connection.transport.abort()

        counts_halfway: list[int] = []
        memory_halfway: list[int] = []
        await asyncio.gather(*map(read, range(READERS)), *map(vanish, vanishing))
        assert min(counts_halfway) > sum(counts_halfway) / READERS / 2
        # the engine keeps one frame for each viewer that does not read, and generates no more for it
        wait_for_viewers(NOT_READING, address)
        end = time.monotonic() + TIMEOUT
        while not all(viewer.is_behind for viewer in list(engine._viewers)):
            assert time.monotonic() < end
            count_viewers(address)
        frames_before = engine.stats().frames
        reading = await start_playing(address)
        while await receive_frame(reading) < 20:
            pass
        await reading.close()
        assert engine.stats().frames - frames_before < 30
        assert memory() - memory_halfway[0] < MAX_GROWTH
        for connection in not_reading:
            connection.transport.abort()

    everyone = READERS + NOT_READING + VANISHING
    with serving(Limits(viewers=everyone, per_address=everyone)) as (address, engine):
        assert count_viewers(address) == 0
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        asyncio.run(generate_load(address, engine))
        wait_for_viewers(0, address)
        assert engine.failure is None
        assert engine.stats().frames >= READERS * FRAMES
        assert len(os.listdir("/proc/self/fd")) <= files + 2  # noqa: PTH208


def hostile_message(rng: random.Random) -> str | bytes:
    """An invalid message: malformed, with invalid values, or sent before the first "set"."""
    valid: dict[str, Any] = set_message(rng.randrange(2**32)).model_dump(exclude_none=True)
    settings = valid["settings"]

    def wrong_value() -> str:
        field = rng.choice(sorted(settings))
        values = [value for value in INVALID_VALUES if not is_valid(field, value)]
        return json.dumps({**valid, "settings": {**settings, field: rng.choice(values)}})

    def invalid_number() -> str:
        field = rng.choice(["num", "steps", "eta", "guidance", "creativity", "fps"])
        text = json.dumps({**valid, "settings": {**settings, field: "HERE"}})
        return text.replace('"HERE"', rng.choice(["NaN", "Infinity", "-Infinity", "1e999", "0x1", "01", "1_0"]))

    def missing_field() -> str:
        required = [name for name, field in Settings.model_fields.items() if field.is_required()]
        del settings[rng.choice(required)]
        return json.dumps(valid)

    def unknown_field() -> str:
        target = rng.choice([valid, settings])
        target[rng.choice(["__proto__", "constructor", "", "x" * 500, "Model"])] = rng.choice(INVALID_VALUES)
        return json.dumps(valid)

    def truncated() -> str:
        text = json.dumps(valid)
        return text[: rng.randrange(len(text))]

    def corrupted() -> str:
        letters = list(json.dumps(valid))
        letters[rng.choice([i for i, letter in enumerate(letters) if letter in '{}":,'])] = rng.choice("[#\\")
        return "".join(letters)

    def deeply_nested() -> str:
        return rng.choice(["[", '{"type":', "-", '"', "\\u"]) * rng.randrange(1, 5000)

    def unknown_type() -> str:
        return json.dumps({**valid, "type": rng.choice([*INVALID_VALUES, "hello", "error", "SET", "set "])})

    def too_early() -> str:
        trace = {"type": "trace", "id": 1, "sampler": "ddim", "steps": 1, "eta": 0}
        early = [{"type": "step"}, {"type": "restart"}, {"type": "repaint", "mask": "////"}, trace]
        return json.dumps(rng.choice(early))

    def invalid_image() -> str:
        image = rng.choice(["", "A", "====", "AAAA", "\u0000", "/" * 4096, 5, [], {"0": 1}, True])
        return json.dumps({**valid, "image": image})

    def unsupported() -> str:
        changes: list[dict[str, Any]] = [
            {"creativity": 51},
            {"eta": 0.5, "sampler": "heun"},
            {"model": "dog"},
            {"label": {"dog": 1}},
            {"label": {"circle": 10}},
            {"label": "none", "guidance": 2},
            {"label": {"circle": 1}, "model": "other"},
        ]
        return json.dumps({**valid, "settings": {**settings, **rng.choice(changes)}})

    def garbage() -> str:
        return "".join(rng.choices('{}[]",:0123456789.eE+-truefalsn \t\n\0é💣', k=rng.randrange(200)))

    def large() -> str:
        return json.dumps({**valid, "image": "A" * rng.randrange(80_000, 90_000)})

    def binary() -> bytes:
        return rng.randbytes(rng.randrange(1000))

    kinds: list[Callable[[], str | bytes]] = [
        *(wrong_value, invalid_number, missing_field, unknown_field, truncated, corrupted, deeply_nested, unknown_type),
        *(too_early, invalid_image, unsupported, garbage, large, binary),
    ]
    return rng.choice(kinds)()


def is_valid(field: str, value: Any) -> bool:
    """Whether this value from INVALID_VALUES happens to be valid for a setting."""
    if field == "label":
        return value == {}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return {
        "eta": value == 0.5,
        "guidance": value in (-1, 0.5),
        "creativity": False,
        "fps": value in (0.5, 51),
        "every": value == 51,
    }.get(field, False)


def test_10_000_hostile_messages_are_all_answered_and_do_not_affect_other_viewers() -> None:
    async def attack(address: str) -> None:
        other = await start_playing(address)
        got_frame = asyncio.Event()

        async def watch() -> None:
            while True:
                await receive_frame(other)
                got_frame.set()

        async def send_hostile_messages(seed: int) -> None:
            rng = random.Random(seed)
            connection = await open_connection(address)
            for i in range(HOSTILE_MESSAGES // 10):
                message = hostile_message(rng)
                await connection.send(message)
                answer = json.loads(await receive(connection))
                assert answer["type"] == "error", message
                assert len(answer["message"]) <= 400
                if i % 50 == 0:  # the other viewer still gets frames
                    got_frame.clear()
                    await asyncio.wait_for(got_frame.wait(), TIMEOUT)
            await connection.send(set_message(77, seed=str(seed)).model_dump_json(exclude_none=True))
            assert await receive_frame(connection) == 0
            await connection.close()

        watching = asyncio.create_task(watch())
        await asyncio.gather(*map(send_hostile_messages, range(10)))
        watching.cancel()
        await other.close()

    with serving(Limits(messages=1e6)) as (address, engine):
        asyncio.run(attack(address))
        wait_for_viewers(0, address)
        assert engine.failure is None


@pytest.mark.parametrize(
    ("message", "code"), [("x" * 10_000_000, 1009), (b"\xff", 1007)], ids=["far too long", "not UTF-8"]
)
def test_violations_of_the_websocket_protocol_close_the_connection(message: str | bytes, code: int) -> None:
    async def violate(address: str) -> None:
        connection = await open_connection(address)
        with contextlib.suppress(ConnectionClosed):
            await connection.send(message, text=True)
        assert (await wait_for_close(connection))[0] == code

    with serving(Limits()) as (address, _):
        asyncio.run(violate(address))
        wait_for_viewers(0, address)


def test_a_flood_of_messages_closes_the_connection() -> None:
    async def flood(address: str) -> None:
        connection = await open_connection(address)
        with contextlib.suppress(ConnectionClosed):
            for _ in range(1000):
                await connection.send('{"type": "pause"}')
        code, last = await wait_for_close(connection)
        assert code == 1008
        assert json.loads(last)["message"] == "more than 5 messages per second; closing"

    with serving(Limits(messages=5)) as (address, _):
        asyncio.run(flood(address))
        wait_for_viewers(0, address)


def test_the_server_stops_while_viewers_are_connected_and_one_does_not_read() -> None:
    async def watch(address: str, ready: threading.Event) -> None:
        not_reading = await start_playing(address, model="large", num=16)
        connections = [await start_playing(address) for _ in range(3)]
        for connection in connections:
            await receive_frame(connection)
        ready.set()
        for connection in connections:
            assert (await wait_for_close(connection))[0] == 1012
        not_reading.transport.abort()

    ready = threading.Event()
    with serving(Limits()) as (address, engine):
        clients = threading.Thread(target=lambda: asyncio.run(watch(address, ready)))
        clients.start()
        assert ready.wait(TIMEOUT)
    clients.join(TIMEOUT)
    assert not clients.is_alive()
    assert engine.stats().viewers == 0
