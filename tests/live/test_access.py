"""Who reaches the server: foreign hosts, malformed headers and half-open requests are refused, by a real server."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.live import access
from shapedreamer.live.access import client_of, is_allowed_host, is_local, listen, url
from shapedreamer.live.engine import Engine
from shapedreamer.live.server import Limits, make_server
from shapedreamer.live.site import PAGE
from shapedreamer.live.timeouts import timed_protocol
from tests.watching import TIMEOUT, eager, no_threads_left, small_model

pytest.importorskip("starlette", reason="needs the extra 'web'")
pytest.importorskip("uvicorn", reason="needs the extra 'web'")
pytest.importorskip("websockets", reason="needs the extra 'web'")

REQUEST_TIMEOUT = 0.5
HANDSHAKE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
KEY = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"


@contextlib.contextmanager
def serving(idle: float = 3600.0) -> Iterator[int]:
    """The port of a server that only this machine can reach. Its time limits are short."""
    server = make_server(Engine({"small": small_model()}, eager), Limits(idle=idle), is_local=True)
    server.config.http = timed_protocol(REQUEST_TIMEOUT, REQUEST_TIMEOUT)
    with no_threads_left(), listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving() as port:
        yield port


def answer(port: int, request: str, source: str = "127.0.0.1") -> str:
    """Everything that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT, (source, 0)) as connection:
        connection.sendall(request.encode("latin-1"))
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(2**16):
                received += data
        return received.decode("latin-1")


def status(port: int, headers: str, path: str = "/healthz") -> int:
    """The status of the response to a request with these headers."""
    return int(answer(port, f"GET {path} HTTP/1.1\r\n{headers}\r\n").split(" ")[1])


# hosts and origins


@pytest.mark.parametrize(
    ("host", "allowed", "accepted"),
    [
        ("localhost", (), True),
        ("LocalHost:8000", (), True),
        ("dreams.localhost:8000", (), True),
        ("127.0.0.1:8000", (), True),
        ("127.8.9.1", (), True),
        ("[::1]:8000", (), True),
        ("evil.example", (), False),
        ("evil.example:8000", (), False),
        ("localhost.evil.example", (), False),
        ("127.0.0.1.evil.example", (), False),
        ("evil.example@localhost", (), False),
        ("localhost:8000:8000", (), False),
        ("[::1", (), False),
        ("[", (), False),
        ("192.0.2.1", (), False),
        ("", (), False),
        ("\xff", (), False),
        ("dreams.example", ("https://dreams.example",), True),
        ("Dreams.Example", ("https://dreams.example",), True),
        ("evil.example", ("https://dreams.example",), False),
        ("evil.example", ("*",), True),
    ],
)
def test_hosts_of_a_server_on_this_machine(host: str, allowed: tuple[str, ...], accepted: bool) -> None:
    assert is_allowed_host([host], allowed) == accepted


def test_two_hosts_are_refused_and_a_client_without_one_is_no_browser() -> None:
    assert not is_allowed_host(["localhost", "evil.example"], ())
    assert is_allowed_host([], ())


@pytest.mark.parametrize("path", ["/", "/page/app.js", "/models.json", "/healthz", "/metrics", "/nothing"])
def test_foreign_hosts_get_no_response_but_403(port: int, path: str) -> None:
    response = answer(port, f"GET {path} HTTP/1.1\r\nHost: evil.example:{port}\r\nConnection: close\r\n\r\n")
    assert response.startswith("HTTP/1.1 403 ")
    assert "content-security-policy" in response
    assert response.endswith("To allow another host, use --allow-origin.\n")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("Host: localhost\r\nConnection: close\r\n", 200),
        ("Host: localhost\r\nHost: evil.example\r\n", 400),
        ("Connection: close\r\n", 400),
        ("Host: localhost\r\nRange: bytes=9-1,,\r\nConnection: close\r\n", 200),
        (
            "Host: localhost\r\nX-Forwarded-For: [, \xff, 999.1.2.3:x\r\nX-Forwarded-Proto: ]\r\nConnection: close\r\n",
            200,
        ),
        ("Host: localhost\r\nContent-Length: -1\r\n", 400),
        ("Host: localhost\r\nTransfer-Encoding: \xff\r\n", 400),
        (f"Host: localhost\r\nX: {'x' * 200_000}\r\n", 400),
        ("Host: localhost\r\n: nameless\r\n", 400),
    ],
)
def test_malformed_headers_are_no_error_of_the_server(port: int, headers: str, expected: int) -> None:
    assert status(port, headers) == expected


@pytest.mark.parametrize("range", ["bytes=", "bytes=9-1", "bytes=1-2,", "x", "bytes=" + "0-0," * 1000, "bytes=\xff"])
@pytest.mark.parametrize("path", ["/", "/page/app.js"])
def test_malformed_ranges_of_files_are_no_error_of_the_server(port: int, path: str, range: str) -> None:
    headers = f"Host: localhost\r\nConnection: close\r\nRange: {range}\r\nIf-Range: \xff\r\nIf-Modified-Since: ?\r\n"
    assert status(port, headers, path) in (200, 206, 400, 416)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (HANDSHAKE + KEY + "Host: localhost\r\nOrigin: http://[\r\n", 403),
        (HANDSHAKE + KEY + "Host: localhost\r\nOrigin: http://[::1\r\n", 403),
        (HANDSHAKE + KEY + "Host: localhost\r\nOrigin: \xff\r\n", 403),
        (HANDSHAKE + KEY + "Host: localhost\r\nOrigin:\r\n", 403),
        (HANDSHAKE + KEY + "Host: localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n", 400),
        (HANDSHAKE + KEY + "Host: evil.example\r\nOrigin: http://evil.example\r\n", 403),
        (HANDSHAKE + KEY + "Host: [\r\n", 403),
        (HANDSHAKE + "Host: localhost\r\n", 400),
        (HANDSHAKE + "Host: localhost\r\nSec-WebSocket-Key: \xff\r\n", 400),
    ],
)
def test_malformed_handshakes_are_refused(port: int, headers: str, expected: int) -> None:
    assert status(port, headers, "/ws") == expected


def test_a_page_of_this_server_connects(port: int) -> None:
    request = f"GET /ws HTTP/1.1\r\nHost: localhost:8000\r\nOrigin: http://localhost:8000\r\n{HANDSHAKE}{KEY}\r\n"
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(request.encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 101 ")


# half-open requests


@pytest.mark.parametrize(
    "request_part",
    [
        "",
        "GET / HT",
        "GET / HTTP/1.1\r\nHost: localhost\r\nX: ",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nx",
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET",
    ],
)
def test_a_request_that_never_ends_is_closed(port: int, request_part: str) -> None:
    answer(port, request_part)  # returns only because the server closes the connection


def test_a_request_that_comes_byte_by_byte_is_closed(port: int) -> None:
    async def trickle() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
        closed = asyncio.ensure_future(reader.read())
        with contextlib.suppress(ConnectionError):
            while not closed.done():
                writer.write(b"x")
                await asyncio.wait({closed}, timeout=REQUEST_TIMEOUT / 5)
            await closed
        writer.close()

    asyncio.run(asyncio.wait_for(trickle(), TIMEOUT))


def test_a_client_that_reads_no_response_is_closed(port: int) -> None:
    requests = 1000
    with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
        connection.sendall(b"GET /page/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * requests)
        for _ in range(4):
            answer(port, "")  # takes REQUEST_TIMEOUT
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while data := connection.recv(2**16):
                received += len(data)
    assert received < requests * (PAGE / "style.css").stat().st_size


def test_time_limits_do_not_apply_to_a_viewer() -> None:
    from websockets.sync.client import connect

    with serving(idle=3 * REQUEST_TIMEOUT) as port, connect(f"ws://localhost:{port}/ws") as viewer:
        assert '"hello"' in str(viewer.recv(TIMEOUT))
        assert "no activity for 1.5 seconds" in str(viewer.recv(TIMEOUT))


# addresses


def test_listen_names_an_address_that_is_taken_or_invalid() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"cannot listen on host 127\.0\.0\.1, port {port} \(Address already in use"
        ):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"cannot listen on host 203\.0\.113\.1, port 0 \("):
        listen("203.0.113.1", 0)  # reserved for documentation
    for host in ("x" * 300, "a..b"):
        with pytest.raises(UserError, match=rf"cannot listen on host {host}, port 0 \("):
            listen(host, 0)
    for port in (65_536, -1):
        with pytest.raises(UserError, match=f"port must be between 0 and 65535, not {port}"):
            listen("127.0.0.1", port)


def test_the_address_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen("localhost", 0) as local, listen("0.0.0.0", 0) as everywhere:
        assert (is_local(local), is_local(everywhere)) == (True, False)
        assert url(local, "localhost") == f"http://localhost:{local.getsockname()[1]}"
        monkeypatch.setattr(access, "_own_address", lambda family: "192.0.2.7")
        assert url(everywhere, "0.0.0.0") == f"http://192.0.2.7:{everywhere.getsockname()[1]}"
        monkeypatch.setattr(access, "_own_address", lambda family: None)  # no network
        assert url(everywhere, "0.0.0.0") == f"http://127.0.0.1:{everywhere.getsockname()[1]}"


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_ipv6_addresses_are_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        listener = listen("::", 0)
    except UserError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert not is_local(listener)
        monkeypatch.setattr(access, "_own_address", lambda family: None)
        assert url(listener, "::") == f"http://[::1]:{listener.getsockname()[1]}"


def test_the_own_address_is_one_of_this_machine() -> None:
    address = access._own_address(socket.AF_INET)
    if address is None:
        pytest.skip("this machine is in no network")
    with listen(address, 0) as listener:
        assert listener.getsockname()[0] == address


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_network_counts_as_one_client(address: str, client: str) -> None:
    assert client_of(address) == client
