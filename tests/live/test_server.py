"""The server: a viewer's connection, limits, responses to browsers, and addresses for monitoring."""

import asyncio
import json
import re
import socket
import subprocess
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
from shapedreamer.live import access, server
from shapedreamer.live.access import listen
from shapedreamer.live.catalog import Catalog, shipped
from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import TRACE, Header, unpack
from shapedreamer.live.seats import Seats
from shapedreamer.live.server import Limits, TokenBucket, _Session, make_app, make_server
from shapedreamer.live.settings import max_message_bytes, model_info
from shapedreamer.live.site import HEADERS, PAGE
from shapedreamer.models import zoo
from tests.watching import eager, failing, no_threads_left, set_message, small_model

pytest.importorskip("starlette", reason="needs the extra 'web'")
pytest.importorskip("httpx2", reason="needs the extra 'dev'")
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

MODELS = {"small": small_model(), "other": small_model(labels=(), channels=3)}
MAX_BYTES = max_message_bytes(list(MODELS.values()))
DEFAULT_LIMITS = Limits()
WS = "ws://dreams:8000/ws"


@contextmanager
def serving(
    limits: Limits = DEFAULT_LIMITS, allow_origin: tuple[str, ...] = (), choose_network: Any = eager
) -> Iterator[tuple[TestClient, Engine]]:
    engine, url = Engine(MODELS, choose_network), "http://dreams:8000"
    with no_threads_left(), TestClient(make_app(engine, limits, allow_origin), base_url=url) as client:
        yield client, engine


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with serving() as (client, _):
        yield client


def send(viewer: WebSocketTestSession, **message: Any) -> None:
    viewer.send_text(json.dumps(message))


def send_settings(viewer: WebSocketTestSession, id: int = 1, **changes: Any) -> None:
    viewer.send_text(set_message(id, **changes).model_dump_json(exclude_none=True))


def receive_frame(viewer: WebSocketTestSession) -> Header:
    return unpack(viewer.receive_bytes())[0]


def close_code_and_reason(viewer: WebSocketTestSession) -> tuple[int, str]:
    """The close code, and the text of the error message before it."""
    last: dict[str, Any] = {}
    while (message := viewer.receive())["type"] != "websocket.close":
        if message.get("text"):
            last = json.loads(message["text"])
    assert last["type"] == "error"
    assert last["message"].endswith("; closing")
    return message["code"], last["message"]


# a connection


def test_hello_set_step_play_and_trace(client: TestClient) -> None:
    with client.websocket_connect(WS) as viewer:
        hello = viewer.receive_json()
        models = hello.pop("models")
        assert hello == {"type": "hello", "engine": "server", "version": __version__, "viewers": 1}
        assert models == [model_info(name, model) for name, model in MODELS.items()]
        send_settings(viewer, 3, num=4)
        assert receive_frame(viewer)[:8] == (1, True, 3, 0, 4, 1, 8, 8)
        send(viewer, type="step")
        assert receive_frame(viewer).number == 1
        send(viewer, type="play")
        for _ in range(5):
            assert receive_frame(viewer).number > 1
        send(viewer, type="trace", id=4, sampler="ddpm", steps=3, eta=0)
        while (header := receive_frame(viewer)).kind != TRACE:
            pass
        assert header[2:4] == (4, 3)


def test_viewers_who_ask_for_it_are_told_when_the_number_of_viewers_changes(client: TestClient) -> None:
    with client.websocket_connect(f"{WS}?viewers") as one:
        assert one.receive_json()["viewers"] == 1
        for _ in range(2):
            with client.websocket_connect(WS) as two:
                assert two.receive_json()["viewers"] == 2
                assert one.receive_json() == {"type": "viewers", "viewers": 2}
            assert one.receive_json() == {"type": "viewers", "viewers": 1}


def test_viewers_are_independent(client: TestClient) -> None:
    with client.websocket_connect(WS) as one, client.websocket_connect(WS) as two:
        assert (one.receive_json()["viewers"], two.receive_json()["viewers"]) == (1, 2)
        send_settings(one, 1, seed="1")
        send_settings(two, 2, model="other", num=4)
        first, second = unpack(one.receive_bytes()), unpack(two.receive_bytes())
        assert first[0][:8] == (1, True, 1, 0, 1, 1, 8, 8)
        assert second[0][:8] == (1, True, 2, 0, 4, 3, 8, 8)
    assert client.get("/healthz").json()["viewers"] == 0


def test_invalid_messages_are_answered_with_an_error_and_the_connection_stays_open(client: TestClient) -> None:
    with client.websocket_connect(WS) as viewer:
        viewer.receive_json()
        for message, id, reason in (
            ("", None, "must be JSON"),
            ('{"type": "step"}', None, 'send "set" before "step"'),
            (json.dumps({"type": "set", "id": 5, "settings": {}}), 5, "settings.model is missing"),
            (set_message(6, model="dog").model_dump_json(exclude_none=True), 6, "there is no model 'dog'"),
            ("x" * (MAX_BYTES + 1), None, "must have at most"),
            ("é" * MAX_BYTES, None, "must have at most"),
        ):
            viewer.send_text(message)
            answer = viewer.receive_json()
            assert (answer["type"], answer["id"]) == ("error", id)
            assert reason in answer["message"]
            assert len(answer["message"]) <= 400
        viewer.send_bytes(b"\0" * 100)
        assert viewer.receive_json()["message"] == "a message must be JSON text, not 100 bytes of binary data"
        send_settings(viewer)
        assert receive_frame(viewer).number == 0
        send(viewer, type="trace", id=9, sampler="heun", steps=3, eta=0.5)
        assert viewer.receive_json() == {
            "type": "error",
            "id": 9,
            "message": "heun has no eta; the samplers ddim and dpmpp_2m have one",
        }


def test_an_error_in_a_frame_is_sent_to_the_viewer(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("unlucky")

    with client.websocket_connect(WS) as viewer:
        viewer.receive_json()
        send_settings(viewer)
        receive_frame(viewer)
        with monkeypatch.context() as patch:
            patch.setattr("shapedreamer.live.frames.varying", fail)
            send(viewer, type="step")
            answer = viewer.receive_json()
        error = "stopped: could not generate the frame (RuntimeError: unlucky)"
        assert answer == {"type": "error", "id": None, "message": error}
        send(viewer, type="step")
        assert receive_frame(viewer).number == 1


# limits


def test_the_number_of_viewers_is_limited() -> None:
    with serving(Limits(viewers=1)) as (client, engine):
        with client.websocket_connect(WS) as viewer:
            assert viewer.receive_json()["type"] == "hello"
            with client.websocket_connect(WS) as other:
                code, reason = close_code_and_reason(other)
            assert (code, reason) == (1013, "the server is full (maximum: 1 viewers); try again later; closing")
            send_settings(viewer)
            receive_frame(viewer)
        with client.websocket_connect(WS) as viewer:
            assert viewer.receive_json()["type"] == "hello"
        assert engine.stats().viewers == 0


def test_viewers_receive_the_number_of_viewers_as_it_changes(client: TestClient) -> None:
    with client.websocket_connect(f"{WS}?viewers") as viewer:
        assert viewer.receive_json()["viewers"] == 1
        with client.websocket_connect(WS) as other:
            assert other.receive_json()["viewers"] == 2
            assert viewer.receive_json() == {"type": "viewers", "viewers": 2}
        assert viewer.receive_json() == {"type": "viewers", "viewers": 1}


def test_one_address_cannot_take_all_seats() -> None:
    with serving(Limits(viewers=2, per_address=1)) as (client, engine), client.websocket_connect(WS) as viewer:
        viewer.receive_json()
        with client.websocket_connect(WS) as other:
            code, reason = close_code_and_reason(other)
        assert (code, reason) == (
            1013,
            "the server is full for your address (maximum: 1 viewers); try again later; closing",
        )
        assert engine.stats().viewers == 1


def test_an_idle_viewer_makes_room() -> None:
    with serving(Limits(viewers=1, make_room=0)) as (client, engine), client.websocket_connect(WS) as idle:
        idle.receive_json()
        with client.websocket_connect(WS) as viewer:
            assert viewer.receive_json()["type"] == "hello"
            assert close_code_and_reason(idle) == (4408, "idle, so another viewer got this place; closing")
            send_settings(viewer)
            assert receive_frame(viewer).number == 0
            assert engine.stats().viewers == 1


def test_the_number_of_messages_per_second_is_limited() -> None:
    with serving(Limits(messages=0.001)) as (client, engine), client.websocket_connect(WS) as viewer:
        send(viewer, type="pause")
        assert close_code_and_reason(viewer) == (1008, "more than 0.001 messages per second; closing")
        assert engine.stats().viewers == 0


def test_token_bucket() -> None:
    now = 0.0
    bucket = TokenBucket(2.0, 5.0, lambda: now)
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    now = 0.4
    assert not bucket.take()
    now = 1.1
    assert [bucket.take() for _ in range(3)] == [True, True, False]
    now = 1000.0
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]


def test_an_idle_connection_is_closed() -> None:
    with serving(Limits(idle=0.05)) as (client, engine), client.websocket_connect(WS) as viewer:
        assert close_code_and_reason(viewer) == (4408, "no activity for 0.05 seconds; closing")
        assert engine.stats().viewers == 0


def test_messages_and_frames_count_as_activity() -> None:
    now = 0.0
    engine = Engine(MODELS, eager)
    viewer = engine.join(lambda: None)
    messages = [{"type": "websocket.receive", "text": "{}"}, {"type": "websocket.disconnect"}]

    class Socket:
        client, query_params = None, ()

        async def receive(self) -> dict[str, str]:
            nonlocal now
            now += 1
            return messages.pop(0)

        async def send_text(self, text: str) -> None:
            pass

        async def send_bytes(self, data: bytes) -> None:
            nonlocal now
            now += 10
            if now > 25:
                raise WebSocketDisconnect
            viewer.frame = b"another"

    async def receive_and_send() -> None:
        session = _Session(cast(Any, Socket()), engine, Seats(1, 1, 60), Limits(), [], 100)
        session.loop = cast(Any, SimpleNamespace(time=lambda: now))
        await session._receive(viewer)
        assert (now, session.last_activity) == (2, 1)
        viewer.frame = b"one"
        with pytest.raises(WebSocketDisconnect):
            await session._send_updates(viewer)
        assert (now, session.last_activity) == (32, 22)

    asyncio.run(receive_and_send())


@pytest.mark.parametrize(
    ("origin", "allowed", "accepted"),
    [
        (None, (), True),
        ("http://dreams:8000", (), True),
        ("https://dreams:8000", (), True),  # behind a proxy with https
        ("http://dreams", (), False),
        ("http://dreams:8001", (), False),
        ("http://evil.example", (), False),
        ("http://dreams:8000.evil.example", (), False),
        ("http://evil.example/dreams:8000", (), False),
        ("null", (), False),
        ("", (), False),
        ("http://[", (), False),
        ("http://[::1", (), False),
        ("http://dreams:99999999", (), False),
        ("chrome-extension://dreams:8000", (), False),
        ("http://user@dreams:8000", (), False),
        ("https://friend.example", ("https://friend.example",), True),
        ("http://friend.example", ("https://friend.example",), False),
        ("http://evil.example", ("*",), True),
    ],
)
def test_pages_of_other_origins_are_rejected(
    origin: str | None, allowed: tuple[str, ...], accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {} if origin is None else {"origin": origin}
    with serving(allow_origin=allowed) as (client, engine):
        if accepted:
            with client.websocket_connect(WS, headers=headers) as viewer:
                assert viewer.receive_json()["type"] == "hello"
            return
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(WS, headers=headers):
            pass
        assert "--allow-origin" in caplog.text
        assert engine.stats().viewers == 0


# when the engine stops


def test_if_the_engine_stops_connections_close_and_monitoring_shows_it(caplog: pytest.LogCaptureFixture) -> None:
    with serving(choose_network=failing) as (client, engine):
        engine.prepare("small")
        assert client.get("/healthz").status_code == 200
        with client.websocket_connect(WS) as viewer, client.websocket_connect(WS) as other:
            viewer.receive_json()
            send_settings(viewer)
            receive_frame(viewer)
            send_settings(viewer, num=16)
            expected = (1011, "the engine has stopped (MemoryError: no room); closing")
            assert close_code_and_reason(viewer) == expected
            assert close_code_and_reason(other) == expected
        with client.websocket_connect(WS) as late:
            assert close_code_and_reason(late) == expected
        health = client.get("/healthz")
        assert health.status_code == 503
        assert health.json()["status"] == "the engine has stopped (MemoryError: no room)"
        assert "shapedreamer_up 0\n" in client.get("/metrics").text
        assert engine.stats().viewers == 0


# responses to browsers


@pytest.mark.parametrize(
    "path", ["/", "/points.html", "/page/style.css", "/models.json", "/healthz", "/metrics", "/nothing", "/page/no"]
)
def test_every_response_has_the_security_headers(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == (404 if "no" in path else 200)
    for name, value in HEADERS.items():
        assert response.headers.get_list(name) == [value]
    assert client.post(path).headers["x-content-type-options"] == "nosniff"


def test_responses_to_internal_errors_have_the_security_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(engine: Engine) -> str:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server, "_metrics", fail)
    engine = Engine(MODELS, eager)
    with TestClient(make_app(engine), raise_server_exceptions=False) as client:
        response = client.get("/metrics")
    assert response.status_code == 500
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


def test_the_page_and_its_files_have_the_right_media_types(client: TestClient) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert '<meta name="engine" content="server"' in index.text
    links = set(re.findall(r'(?:src|href)="([^"#]+)', index.text))
    assert links
    types = {
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".html": "text/html; charset=utf-8",
    }
    for link in links:
        response = client.get(f"/{link}")
        assert response.status_code == 200
        assert response.headers["content-type"] == types[Path(link).suffix]
    for script in PAGE.rglob("*.js"):
        response = client.get(f"/page/{script.relative_to(PAGE).as_posix()}")
        assert response.headers["content-type"] == types[".js"]
        assert response.content == script.read_bytes()


@pytest.mark.parametrize(
    "path", ["/page/../server.py", "/page/%2e%2e/server.py", "/page//etc/passwd", "/page/..%2fserver.py"]
)
def test_no_file_outside_the_page_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_models_json_equals_the_models_in_hello(client: TestClient) -> None:
    with client.websocket_connect(WS) as viewer:
        assert client.get("/models.json").json() == viewer.receive_json()["models"]


def test_metrics() -> None:
    with serving() as (client, engine), client.websocket_connect(WS) as viewer:
        viewer.receive_json()
        before = get_metrics(client)
        assert before["shapedreamer_frame_seconds", "0.5"] == "NaN"
        send_settings(viewer, num=4, steps=3)
        receive_frame(viewer)
        for _ in range(4):
            send(viewer, type="step")
            receive_frame(viewer)
        after = get_metrics(client)
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
        times = engine.stats().frame_times
        quantiles = [float(after["shapedreamer_frame_seconds", quantile]) for quantile in ("0.5", "0.9", "0.99")]
        assert quantiles == [times[2], times[4], times[4]]


def get_metrics(client: TestClient) -> dict[tuple[str, str], str]:
    """Every value by its name and quantile, after checking that each metric has a description and a type."""
    response = client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    values = {}
    for line in response.text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP \w+ .+\.|TYPE \w+ (counter|gauge|summary))", line)
            continue
        match = re.fullmatch(r'(\w+)(?:\{quantile="([\d.]+)"\})? (\S+)', line)
        assert match is not None, line
        name, quantile, value = match.groups()
        assert f"# TYPE {name.removesuffix('_sum').removesuffix('_count')} " in response.text
        values[name, quantile or ""] = value
    return values


# the address, and the command


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(MODELS, eager)
    for module in ("starlette", "uvicorn", "websockets"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, module, None)
            with pytest.raises(UserError, match=rf"this needs {module}: pip install 'shapedreamer\[web\]'"):
                make_server(engine)


class FakeCommand:
    """Replaces what the command calls, and records how. Serves nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = Engine(MODELS, eager)
        self.opened: list[str] = []
        self.ports: list[int] = []
        self.allowed: object = None
        self.is_local = False
        monkeypatch.setattr(server, "make_server", self.make_server)
        monkeypatch.setattr("webbrowser.open", self.opened.append)

    def make_server(self, engine: Engine, allow_origin: object, is_local: bool) -> "FakeCommand":
        self.engine, self.allowed, self.is_local = engine, allow_origin, is_local
        return self

    def run(self, sockets: list[socket.socket]) -> None:
        self.ports = [socket.getsockname()[1] for socket in sockets]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> FakeCommand:
    return FakeCommand(monkeypatch)


def test_the_command_offers_all_shipped_models(command: FakeCommand, capsys: pytest.CaptureFixture[str]) -> None:
    live_command.run(port=0, device="cpu", allow_origin=("https://friend.example",))
    catalog = command.engine.models
    assert isinstance(catalog, Catalog)
    assert list(catalog) == ["shapes-turbo", *(name for name in zoo.names() if name != "shapes-turbo")]
    assert catalog._loaded == {}
    assert (command.allowed, command.is_local, command.opened) == (("https://friend.example",), True, [])
    (port,) = command.ports
    output = capsys.readouterr()
    assert output.out == f"shapes-turbo: open http://127.0.0.1:{port} in a browser; Ctrl-C stops\n"
    assert output.err == ""


def test_the_command_starts_with_the_given_run(
    command: FakeCommand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    MODELS["small"].save(tmp_path / "shapes")
    monkeypatch.chdir(tmp_path.parent)
    live_command.run(f"{tmp_path.name}/shapes/", host="localhost", port=0, open=True, device="cpu")
    run = f"{tmp_path.name}/shapes"  # not the shipped model of that name
    assert list(command.engine.models) == [run, *shipped()]
    assert command.engine.models[run].spec == MODELS["small"].spec
    assert command.opened == [f"http://localhost:{command.ports[0]}"]
    assert command.opened[0] in capsys.readouterr().out
    live_command.run("sprites", port=0, device="cpu")
    assert next(iter(command.engine.models)) == "sprites"


def test_the_command_prints_a_reachable_address_and_a_warning(
    command: FakeCommand, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(access, "_own_address", lambda family: "192.0.2.7")
    live_command.run("sprites-epoch-0", host="0.0.0.0", port=0, device="cpu")
    output = capsys.readouterr()
    assert f"open http://192.0.2.7:{command.ports[0]} in a browser" in output.out
    assert output.err.startswith("warning: everyone who can reach this machine can use the page")
    assert output.err.count("\n") == 1
    assert not command.is_local


def test_the_command_names_an_unknown_model_and_an_invalid_origin(command: FakeCommand) -> None:
    with pytest.raises(UserError, match="there is no run or checkpoint dog; the shipped models are: "):
        live_command.run("dog", port=0)
    with pytest.raises(UserError, match=r"`allow_origin` must be like https://example\.org, or \*, not 'example\.org'"):
        make_app(Engine(MODELS, eager), allow_origin=("example.org",))


def test_a_port_that_is_taken_is_named_before_torch_is_imported() -> None:
    code = """
import sys
from shapedreamer.cli.live import run
try:
    run(port=int(sys.argv[1]))
finally:
    print("torch" in sys.modules)
"""
    with listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        result = subprocess.run([sys.executable, "-c", code, port], capture_output=True, text=True)
    assert "Address already in use" in result.stderr
    assert result.stdout == "False\n"
