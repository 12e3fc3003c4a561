"""The server: the talk with a viewer, its limits, the answers to browsers and to those who watch the server."""

import asyncio
import json
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shapedreamer import __version__
from shapedreamer.cli import live as live_command
from shapedreamer.common.errors import UserError
from shapedreamer.live import server
from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import TRACE, Header, unpack
from shapedreamer.live.server import Bucket, Limits, _Session, app, listen, make_server
from shapedreamer.live.settings import longest_message, model_info
from shapedreamer.live.site import HEADERS, PAGE
from shapedreamer.models import zoo
from shapedreamer.models.model import Model
from tests.watching import Watcher, as_it_is, fragile, leaving_no_thread, set_to, small

pytest.importorskip("starlette", reason="needs the extra 'web'")
pytest.importorskip("httpx2", reason="needs the extra 'dev'")
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

MODELS = {"small": small(), "other": small(labels=(), channels=3)}


NO_LIMITS = Limits()
WS = "ws://dreams:8000/ws"


@contextmanager
def serving(
    limits: Limits = NO_LIMITS, allow_origin: tuple[str, ...] = (), pick: Any = as_it_is
) -> Iterator[tuple[TestClient, Engine]]:
    engine = Engine(MODELS, pick)
    with leaving_no_thread(), TestClient(app(engine, limits, allow_origin), base_url="http://dreams:8000") as client:
        yield client, engine


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving() as (client, _):
        yield client


def says(viewer: WebSocketTestSession, **message: Any) -> None:
    viewer.send_text(json.dumps(message))


def sets(viewer: WebSocketTestSession, id: int = 1, **changes: Any) -> None:
    viewer.send_text(set_to(id, **changes).model_dump_json(exclude_none=True))


def frame(viewer: WebSocketTestSession) -> Header:
    return unpack(viewer.receive_bytes())[0]


def closing(viewer: WebSocketTestSession) -> tuple[int, str]:
    """The code by which we are hung up on, and the reason that was told before."""
    last: dict[str, Any] = {}
    while (message := viewer.receive())["type"] != "websocket.close":
        if message.get("text"):
            last = json.loads(message["text"])
    assert last["type"] == "error"
    assert last["message"].endswith("; closing")
    return message["code"], last["message"]


# the talk


def test_a_viewer_is_greeted_sets_plays_steps_and_traces(client: TestClient) -> None:
    with client.websocket_connect(WS) as viewer:
        hello = viewer.receive_json()
        models = hello.pop("models")
        assert hello == {"type": "hello", "engine": "server", "version": __version__, "viewers": 1}
        assert models == [model_info(name, model) for name, model in MODELS.items()]
        sets(viewer, 3, num=4)
        assert frame(viewer)[:8] == (1, True, 3, 0, 4, 1, 8, 8)
        says(viewer, type="step")
        assert frame(viewer).number == 1
        says(viewer, type="play")
        for _ in range(5):
            assert frame(viewer).number > 1
        says(viewer, type="trace", id=4, sampler="ddpm", steps=3, eta=0)
        while (header := frame(viewer)).kind != TRACE:
            pass
        assert header[2:4] == (4, 3)


def test_viewers_dream_apart(client: TestClient) -> None:
    with client.websocket_connect(WS) as one, client.websocket_connect(WS) as two:
        assert (one.receive_json()["viewers"], two.receive_json()["viewers"]) == (1, 2)
        sets(one, 1, seed="1")
        sets(two, 2, model="other", num=4)
        first, second = unpack(one.receive_bytes()), unpack(two.receive_bytes())
        assert first[0][:8] == (1, True, 1, 0, 1, 1, 8, 8)
        assert second[0][:8] == (1, True, 2, 0, 4, 3, 8, 8)
    assert client.get("/healthz").json()["viewers"] == 0


def test_what_makes_no_sense_is_answered_and_the_talk_goes_on(client: TestClient) -> None:
    with client.websocket_connect(WS) as viewer:
        viewer.receive_json()
        for message, id, says_why in (
            ("", None, "must be JSON"),
            ('{"type": "step"}', None, "step comes too early"),
            (json.dumps({"type": "set", "id": 5, "settings": {}}), 5, "settings.model is missing"),
            (set_to(6, model="dog").model_dump_json(exclude_none=True), 6, "there is no model 'dog'"),
            ("x" * (longest_message(list(MODELS.values())) + 1), None, "must have at most"),
            ("é" * longest_message(list(MODELS.values())), None, "must have at most"),
        ):
            viewer.send_text(message)
            answer = viewer.receive_json()
            assert (answer["type"], answer["id"]) == ("error", id)
            assert says_why in answer["message"]
            assert len(answer["message"]) <= 400
        viewer.send_bytes(b"\0" * 100)
        assert viewer.receive_json()["message"] == "a message must be JSON text, and this is 100 bytes"
        sets(viewer)
        assert frame(viewer).number == 0
        says(viewer, type="trace", id=9, sampler="heun", steps=3, eta=0.5)
        assert viewer.receive_json() == {
            "type": "error",
            "id": 9,
            "message": "eta belongs to the samplers ddim and dpmpp_2m; heun has none",
        }


def test_a_dream_that_fails_says_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("unlucky")

    with client.websocket_connect(WS) as viewer:
        viewer.receive_json()
        sets(viewer)
        frame(viewer)
        with monkeypatch.context() as patch:
            patch.setattr("shapedreamer.live.frames.varying", fails)
            says(viewer, type="step")
            answer = viewer.receive_json()
        assert answer == {"type": "error", "id": None, "message": "the dream has stopped (RuntimeError: unlucky)"}
        says(viewer, type="step")
        assert frame(viewer).number == 1


# limits


def test_no_more_viewers_than_may_be() -> None:
    with serving(Limits(viewers=1)) as (client, engine):
        with client.websocket_connect(WS) as viewer:
            assert viewer.receive_json()["type"] == "hello"
            with client.websocket_connect(WS) as other:
                code, why = closing(other)
            assert (code, why) == (1013, "there are 1 viewers already, which is the most; try again later; closing")
            sets(viewer)
            frame(viewer)
        with client.websocket_connect(WS) as viewer:
            assert viewer.receive_json()["type"] == "hello"
        assert engine.stats().viewers == 0


def test_no_more_messages_than_may_be() -> None:
    with serving(Limits(messages=0.001)) as (client, engine), client.websocket_connect(WS) as viewer:
        assert closing_after(viewer, "pause") == (1008, "these are more than 0.001 messages a second; closing")
        assert engine.stats().viewers == 0


def closing_after(viewer: WebSocketTestSession, order: str) -> tuple[int, str]:
    says(viewer, type=order)
    return closing(viewer)


def test_a_bucket_lets_so_many_pass() -> None:
    now = 0.0
    bucket = Bucket(2.0, 5.0, lambda: now)
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    now = 0.4
    assert not bucket.take()
    now = 1.1
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now = 1000.0
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]


def test_who_says_and_fetches_nothing_is_hung_up_on() -> None:
    with serving(Limits(idle=0.05)) as (client, engine), client.websocket_connect(WS) as viewer:
        assert closing(viewer) == (4408, "nothing has happened for 0.05 seconds; closing")
        assert engine.stats().viewers == 0


def test_to_say_or_fetch_something_is_not_to_be_idle() -> None:
    now = 0.0
    watcher = Watcher(Engine(MODELS, as_it_is))
    said = [{"type": "websocket.receive", "text": "{}"}, {"type": "websocket.disconnect"}]

    class Socket:
        async def receive(self) -> dict[str, str]:
            nonlocal now
            now += 1
            return said.pop(0)

        async def send_text(self, text: str) -> None:
            pass

        async def send_bytes(self, data: bytes) -> None:
            nonlocal now
            now += 10
            if now > 25:
                raise WebSocketDisconnect
            watcher.viewer.frame = b"another"

    async def talk() -> None:
        session = _Session(cast(Any, Socket()), watcher.engine, Limits(), [], 100)
        session.loop = cast(Any, SimpleNamespace(time=lambda: now))
        await session._hear(watcher.viewer)
        assert (now, session.active) == (2, 1)
        watcher.viewer.frame = b"one"
        session.news.set()
        with pytest.raises(WebSocketDisconnect):
            await session._show(watcher.viewer)
        assert (now, session.active) == (32, 22)

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("origin", "allowed", "may"),
    [
        (None, (), True),
        ("http://dreams:8000", (), True),
        ("https://dreams:8000", (), True),  # a proxy may speak https
        ("http://dreams", (), False),
        ("http://dreams:8001", (), False),
        ("http://evil.example", (), False),
        ("http://dreams:8000.evil.example", (), False),
        ("http://evil.example/dreams:8000", (), False),
        ("null", (), False),
        ("", (), False),
        ("https://friend.example", ("https://friend.example",), True),
        ("http://friend.example", ("https://friend.example",), False),
        ("http://evil.example", ("*",), True),
    ],
)
def test_pages_from_elsewhere_may_not_connect(
    origin: str | None, allowed: tuple[str, ...], may: bool, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {} if origin is None else {"origin": origin}
    with serving(allow_origin=allowed) as (client, engine):
        if may:
            with client.websocket_connect(WS, headers=headers) as viewer:
                assert viewer.receive_json()["type"] == "hello"
            return
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(WS, headers=headers):
            pass
        assert "--allow-origin" in caplog.text
        assert engine.stats().viewers == 0


# when the engine dies


def test_when_the_engine_dies_viewers_are_told_and_so_are_those_who_ask(caplog: pytest.LogCaptureFixture) -> None:
    with serving(pick=fragile) as (client, engine):
        engine.prepare("small")
        assert client.get("/healthz").status_code == 200
        with client.websocket_connect(WS) as viewer, client.websocket_connect(WS) as other:
            viewer.receive_json()
            sets(viewer)
            frame(viewer)
            sets(viewer, num=16)
            dead = (1011, "the engine has died (MemoryError: no room); closing")
            assert closing(viewer) == dead
            assert closing(other) == dead
        with client.websocket_connect(WS) as late:
            assert closing(late) == dead
        health = client.get("/healthz")
        assert health.status_code == 503
        assert health.json()["status"] == "the engine has died (MemoryError: no room)"
        assert "shapedreamer_up 0\n" in client.get("/metrics").text
        assert engine.stats().viewers == 0


# answers to browsers


@pytest.mark.parametrize(
    "path", ["/", "/page/style.css", "/models.json", "/healthz", "/metrics", "/nothing", "/page/no"]
)
def test_every_answer_has_the_headers_that_keep_the_page_safe(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == (404 if "no" in path else 200)
    for name, value in HEADERS.items():
        assert answer.headers.get_list(name) == [value]
    assert client.post(path).headers["x-content-type-options"] == "nosniff"


def test_answers_to_our_own_mistakes_have_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(engine: Engine) -> str:
        raise RuntimeError("a mistake")

    monkeypatch.setattr(server, "_metrics", fails)
    engine = Engine(MODELS, as_it_is)
    with TestClient(app(engine), raise_server_exceptions=False) as client:
        answer = client.get("/metrics")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_page_and_its_files_come_as_what_they_are(client: TestClient) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert '<meta name="engine" content="server"' in index.text
    links = set(re.findall(r'(?:src|href)="([^"#]+)', index.text))
    assert links
    types = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
    for link in links:
        answer = client.get(f"/{link}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == types[Path(link).suffix]
    for script in PAGE.rglob("*.js"):
        answer = client.get(f"/page/{script.relative_to(PAGE).as_posix()}")
        assert answer.headers["content-type"] == types[".js"]
        assert answer.content == script.read_bytes()


@pytest.mark.parametrize(
    "path", ["/page/../server.py", "/page/%2e%2e/server.py", "/page//etc/passwd", "/page/..%2fserver.py"]
)
def test_nothing_but_the_page_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_models_are_told_as_in_hello(client: TestClient) -> None:
    with client.websocket_connect(WS) as viewer:
        assert client.get("/models.json").json() == viewer.receive_json()["models"]


def test_numbers_for_prometheus() -> None:
    with serving() as (client, engine), client.websocket_connect(WS) as viewer:
        viewer.receive_json()
        before = metrics(client)
        assert before["shapedreamer_frame_seconds", "0.5"] == "NaN"
        sets(viewer, num=4, steps=3)
        frame(viewer)
        for _ in range(4):
            says(viewer, type="step")
            frame(viewer)
        after = metrics(client)
        assert {name: value for (name, label), value in after.items() if not label} == {
            "shapedreamer_up": "1",
            "shapedreamer_viewers": "1",
            "shapedreamer_frames_total": "5",
            "shapedreamer_frames_per_second": "0.5",
            "shapedreamer_network_calls_total": "15",
            "shapedreamer_network_images_total": "60",
            "shapedreamer_frame_seconds_sum": str(engine.stats().seconds),
            "shapedreamer_frame_seconds_count": "5",
        }
        took = engine.stats().took
        quantiles = [float(after["shapedreamer_frame_seconds", share]) for share in ("0.5", "0.9", "0.99")]
        assert quantiles == [took[2], took[4], took[4]]


def metrics(client: TestClient) -> dict[tuple[str, str], str]:
    """Every number, by its name and quantile; all of them described."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {}
    for line in answer.text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP \w+ .+\.|TYPE \w+ (counter|gauge|summary))", line)
            continue
        match = re.fullmatch(r'(\w+)(?:\{quantile="([\d.]+)"\})? (\S+)', line)
        assert match is not None, line
        name, quantile, value = match.groups()
        assert f"# TYPE {name.removesuffix('_sum').removesuffix('_count')} " in answer.text
        found[name, quantile or ""] = value
    return found


# where it listens, and the command


def test_a_place_that_is_taken_or_none_is_named() -> None:
    with listen("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"cannot listen on host 127\.0\.0\.1, port {port} \(Address already in use"
        ):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"cannot listen on host 203\.0\.113\.1, port 0 \("):
        listen("203.0.113.1", 0)  # nobody's
    for port in (65_536, -1):
        with pytest.raises(UserError, match=f"port must be between 0 and 65535, not {port}"):
            listen("127.0.0.1", port)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(MODELS, as_it_is)
    for module in ("starlette", "uvicorn", "websockets"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(UserError, match=rf"this needs {module}: pip install 'shapedreamer\[web\]'"):
                make_server(engine)


class Command:
    """The command, but that it serves nothing: what it would have served."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, box: list[str]) -> None:
        self.engine = Engine(MODELS, as_it_is)
        self.loaded: list[str] = []
        self.opened: list[str] = []
        self.prepared: list[str] = []
        self.ports: list[int] = []
        self.allowed: object = None
        monkeypatch.setattr(zoo, "names", lambda: box)
        monkeypatch.setattr("shapedreamer.models.model.load", self.load)
        monkeypatch.setattr(server, "make_server", self.make_server)
        monkeypatch.setattr(Engine, "prepare", lambda engine, name: self.prepare(name))
        monkeypatch.setattr("webbrowser.open", self.opened.append)

    def load(self, name: str, device: str) -> Model:
        assert device == "cpu"
        self.loaded.append(name)
        return MODELS["small"]

    def prepare(self, name: str) -> str:
        self.prepared.append(name)
        return "eager"

    def make_server(self, engine: Engine, allow_origin: object) -> "Command":
        self.engine, self.allowed = engine, allow_origin
        return self

    def run(self, sockets: list[socket.socket]) -> None:
        self.ports = [where.getsockname()[1] for where in sockets]


def test_the_command_offers_all_that_is_in_the_box(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, ["mnist", "shapes", "shapes-turbo", "sprites"])
    live_command.run(port=0, device="cpu", allow_origin=("https://friend.example",))
    assert list(command.engine.models) == command.loaded == ["shapes-turbo", "mnist", "shapes", "sprites"]
    assert command.prepared == ["shapes-turbo"]
    assert command.allowed == ("https://friend.example",)
    assert command.opened == []
    (port,) = command.ports
    assert f"shapes-turbo runs in eager; the page is at http://127.0.0.1:{port} " in capsys.readouterr().out


def test_the_command_dreams_with_a_run_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command(monkeypatch, ["shapes", "sprites"])
    (tmp_path / "mine").mkdir()
    live_command.run(str(tmp_path / "mine"), host="localhost", port=0, open=True, device="cpu")
    assert list(command.engine.models) == ["mine", "shapes", "sprites"]
    assert command.loaded[0] == str(tmp_path / "mine")
    assert command.opened == [f"http://localhost:{command.ports[0]}"]
    assert command.opened[0] in capsys.readouterr().out
    live_command.run("sprites", port=0, device="cpu")
    assert list(command.engine.models) == ["sprites", "shapes"]


def test_mistakes_of_the_command_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no run or checkpoint dog; in the box are: "):
        live_command.run("dog")
    command = Command(monkeypatch, ["shapes"])
    with listen("127.0.0.1", 0) as taken, pytest.raises(UserError, match="Address already in use"):
        live_command.run(port=taken.getsockname()[1], device="cpu")
    assert command.prepared == []  # which takes seconds
