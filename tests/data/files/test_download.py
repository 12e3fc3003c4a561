"""Downloads from a server that misbehaves in every way: a file arrives complete and correct, or not at all."""

import hashlib
import io
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from shapedreamer.common.errors import UserError
from shapedreamer.data.files import download
from shapedreamer.data.files.download import RemoteFile, cache_folder, fetch

CONTENT = np.random.default_rng(0).bytes(700_000)  # more than two blocks
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
PARTIAL = 300_000


class ReceivedRequest(NamedTuple):
    """A request, and how many bytes of the file the server sent in reply."""

    behaviour: str
    range: str | None
    sent: int


class Server(ThreadingHTTPServer):
    """A server whose behaviour depends on the first part of the path: http://127.0.0.1:PORT/BEHAVIOUR/NAME."""

    daemon_threads = False  # so that server_close() waits for all threads

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[ReceivedRequest] = []
        self.over = threading.Event()

    def url(self, behaviour: str, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/{name}"

    def file(self, *behaviours: str, name: str = "file.bin", sha256: str = SHA256) -> RemoteFile:
        return RemoteFile(name, sha256, tuple(self.url(behaviour, name) for behaviour in behaviours))

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that close the connection."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            raise


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        _, behaviour, name = self.path.split("/")
        requested = self.headers["Range"]
        getattr(self, behaviour)(int(requested.removeprefix("bytes=").removesuffix("-")) if requested else 0, name)

    def note(self, sent: int) -> None:
        """Record the request. Call this before sending anything: a test may check it as soon as it has the reply."""
        self.server.requests.append(ReceivedRequest(self.path.split("/")[1], self.headers["Range"], sent))

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", *, length: int | None = -1, **headers: str) -> None:
        """length: the Content-Length header; −1 for the true length, None for no header."""
        self.note(len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        self.wfile.write(body)

    def with_range(self, content: bytes, start: int, cut: int | None = None) -> None:
        """Send `content` from `start` on; cut: the number of bytes to send before closing the connection."""
        rest = content[start:]
        if start and not rest:
            self.reply(416, Content_Range=f"bytes */{len(content)}")
        elif start:
            whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.reply(206, rest[:cut], length=len(rest), Content_Range=whole)
        else:
            self.reply(200, rest[:cut], length=len(rest))

    def good(self, start: int, name: str) -> None:
        assert self.headers["User-Agent"] == "shapedreamer"
        self.with_range(CONTENT, start)

    def little(self, start: int, name: str) -> None:
        self.reply(200, CONTENT[:100])

    def no_range(self, start: int, name: str) -> None:
        self.reply(200, CONTENT)

    def shifted(self, start: int, name: str) -> None:
        """Resume at another position than the requested one."""
        if start:
            self.reply(206, CONTENT[start - 1 :], Content_Range=f"bytes {start - 1}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.reply(200, CONTENT)

    def unsatisfied(self, start: int, name: str) -> None:
        self.reply(416)

    def wrong(self, start: int, name: str) -> None:
        self.with_range(OTHER, start)

    def truncated(self, start: int, name: str) -> None:
        self.with_range(CONTENT, start, cut=PARTIAL)

    def chunked(self, start: int, name: str) -> None:
        self.reply(200, self.chunks() + b"0\r\n\r\n", length=None, Transfer_Encoding="chunked")

    def cut_chunks(self, start: int, name: str) -> None:
        self.reply(200, self.chunks()[:-1000], length=None, Transfer_Encoding="chunked")

    def chunks(self) -> bytes:
        pieces = [CONTENT[i : i + 99_999] for i in range(0, len(CONTENT), 99_999)]
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)

    def no_length(self, start: int, name: str) -> None:
        self.reply(200, CONTENT, length=None, Connection="close")

    def missing(self, start: int, name: str) -> None:
        self.reply(404)

    def broken(self, start: int, name: str) -> None:
        self.reply(500)

    def redirected(self, start: int, name: str) -> None:
        self.reply(302, Location=f"/good/{name}")

    def redirected_to_a_local_file(self, start: int, name: str) -> None:
        self.reply(302, Location=f"file://{Path(__file__).resolve()}")

    def redirected_in_a_loop(self, start: int, name: str) -> None:
        self.reply(302, Location=f"/redirected_in_a_loop/{name}")

    def silent(self, start: int, name: str) -> None:
        self.note(0)
        self.server.over.wait()

    def dripping(self, start: int, name: str) -> None:
        self.reply(200, CONTENT[:1000], length=len(CONTENT))
        self.server.over.wait()

    def kept_open(self, start: int, name: str) -> None:
        self.reply(200, CONTENT)
        self.server.over.wait()

    def stalled(self, start: int, name: str) -> None:
        self.reply(200, CONTENT[:PARTIAL], length=len(CONTENT))
        self.server.over.wait()

    def closed(self, start: int, name: str) -> None:
        self.note(0)

    def garbled(self, start: int, name: str) -> None:
        self.note(0)
        self.wfile.write(b"this is not HTTP" + 1000 * b" or is it" + b"\r\n\r\n")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def refusing() -> Iterator[str]:
    """A URL at which no server listens: the port is bound, so that no other process can listen on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/file.bin"


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# success


@pytest.mark.parametrize("behaviour", ["good", "no_range", "chunked", "no_length", "kept_open", "redirected"])
def test_a_file_is_downloaded_completely(server: Server, tmp_path: Path, behaviour: str) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    assert fetch([server.file(behaviour)], folder) == [folder / "file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert listing(folder) == ["file.bin"]
    assert [request.range for request in server.requests] == [None] * (2 if behaviour == "redirected" else 1)


def test_only_missing_files_are_downloaded(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = [server.file("good", name=name) for name in ("b", "a", "c")]
    files.append(server.file("missing", name="changing", sha256=""))
    (tmp_path / "a").write_bytes(CONTENT)
    (tmp_path / "changing").write_bytes(b"without a checksum, any content is accepted")
    paths = [tmp_path / name for name in ("b", "a", "c", "changing")]
    assert fetch(files, tmp_path) == paths
    assert len(server.requests) == 2
    assert all(path.read_bytes() == CONTENT for path in paths[:3])
    assert capfd.readouterr().err != ""
    assert fetch(files, tmp_path) == paths
    assert len(server.requests) == 2
    assert capfd.readouterr() == ("", "")


def test_a_file_is_synced_to_disk_before_it_is_renamed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(handle: int) -> None:
        synced.append((os.fstat(handle).st_size, listing(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    fetch([server.file("little", sha256="")], tmp_path)
    assert synced == [(100, ["file.bin.part"])]


# resuming


@pytest.mark.parametrize("received", [1, PARTIAL, len(CONTENT) - 1])
def test_an_interrupted_download_resumes(server: Server, tmp_path: Path, received: int) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:received])
    fetch([server.file("good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("good", f"bytes={received}-", len(CONTENT) - received)]
    assert listing(tmp_path) == ["file.bin"]


def test_an_empty_part_is_not_resumed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").touch()
    fetch([server.file("good")], tmp_path)
    assert server.requests == [("good", None, len(CONTENT))]


def test_a_redirected_download_resumes_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:PARTIAL])
    fetch([server.file("redirected")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests[-1] == ("good", f"bytes={PARTIAL}-", len(CONTENT) - PARTIAL)


def test_a_server_without_range_support_sends_the_whole_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:PARTIAL])
    fetch([server.file("no_range")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("no_range", f"bytes={PARTIAL}-", len(CONTENT))]


@pytest.mark.parametrize(
    ("behaviour", "part"),
    [
        ("good", CONTENT),  # complete but not yet renamed: the server replies 416
        ("good", CONTENT + b"more"),
        ("good", OTHER[:PARTIAL]),
        ("shifted", CONTENT[:PARTIAL]),
    ],
)
def test_an_unusable_part_is_downloaded_again(server: Server, tmp_path: Path, behaviour: str, part: bytes) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    fetch([server.file(behaviour)], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [f"bytes={len(part)}-", None]
    assert listing(tmp_path) == ["file.bin"]


def test_a_file_without_a_checksum_is_downloaded_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(OTHER[:PARTIAL])
    fetch([server.file("truncated", "good", sha256="")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("truncated", None, PARTIAL), ("good", None, len(CONTENT))]


def test_a_download_stopped_by_the_user_resumes(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.0, 0.0])  # at the start, before the first block and before the second

    def monotonic() -> float:
        for time in times:
            return time
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "monotonic", monotonic)
        with pytest.raises(KeyboardInterrupt):
            fetch([server.file("good")], tmp_path)
    received = (tmp_path / "file.bin.part").read_bytes()
    assert 0 < len(received) < len(CONTENT)
    assert CONTENT.startswith(received)
    assert listing(tmp_path) == ["file.bin.part"]
    fetch([server.file("good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests[-1] == ("good", f"bytes={len(received)}-", len(CONTENT) - len(received))


# mirrors that fail

FAILURES = {
    "missing": "HTTP 404 Not Found",
    "broken": "HTTP 500 Internal Server Error",
    "unsatisfied": "HTTP 416 Requested Range Not Satisfiable",
    "wrong": f"wrong content: its sha256 is {hashlib.sha256(OTHER).hexdigest()}",
    "cut_chunks": "IncompleteRead",
    "redirected_to_a_local_file": "HTTP 302 Found - Redirection to url",
    "redirected_in_a_loop": "HTTP 302 The HTTP server returned a redirect error",
    "closed": "Remote end closed connection without response",
    "garbled": "this is not HTTP",
    "truncated": f"connection closed after {PARTIAL} of {len(CONTENT)} bytes",
}


@pytest.mark.parametrize("behaviour", FAILURES)
def test_if_a_mirror_fails_the_next_one_is_used(server: Server, tmp_path: Path, behaviour: str) -> None:
    fetch([server.file(behaviour, "good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert listing(tmp_path) == ["file.bin"]
    assert server.requests[0].behaviour == behaviour
    assert sum(request.behaviour == "good" for request in server.requests) == 1


@pytest.mark.parametrize(("behaviour", "reason"), FAILURES.items())
def test_the_error_says_why_a_mirror_failed(server: Server, tmp_path: Path, behaviour: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch([server.file(behaviour)], tmp_path)
    line = next(line for line in str(caught.value).splitlines() if line.startswith(f"  {server.url(behaviour)}: "))
    assert reason in line
    assert len(str(caught.value).splitlines()) == 4
    assert len(line) < 300
    assert not (tmp_path / "file.bin").exists()


def test_if_no_server_listens_the_next_mirror_is_used(server: Server, tmp_path: Path, refusing: str) -> None:
    with pytest.raises(UserError, match=f"{refusing}: .*refused"):
        fetch([RemoteFile("file.bin", SHA256, (refusing,))], tmp_path)
    fetch([RemoteFile("file.bin", SHA256, (refusing, server.url("good")))], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("behaviour", ["silent", "stalled"])
def test_a_mirror_that_stops_sending_times_out(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(download, "TIMEOUT", 0.2)
        patch.setattr(download, "MIN_BYTES", 0)
        with pytest.raises(UserError, match=f"{server.url(behaviour)}: .*timed out"):
            fetch([server.file(behaviour)], tmp_path)
    assert not (tmp_path / "file.bin").exists()
    fetch([server.file("good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_the_next_mirror_resumes_after_one_that_is_too_slow(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.0, 31.0])  # by this clock the first block takes 31 s and the others no time
    monkeypatch.setattr(download, "monotonic", lambda: next(times, 31.0))
    fetch([server.file("dripping", "good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests[1] == ("good", "bytes=1000-", len(CONTENT) - 1000)


@pytest.mark.parametrize("behaviour", ["missing", "broken", "closed", "garbled"])
def test_a_mirror_that_sends_nothing_leaves_the_part_intact(server: Server, tmp_path: Path, behaviour: str) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:PARTIAL])
    fetch([server.file(behaviour, "good")], tmp_path)
    assert server.requests == [
        (behaviour, f"bytes={PARTIAL}-", 0),
        ("good", f"bytes={PARTIAL}-", len(CONTENT) - PARTIAL),
    ]


def test_the_next_mirror_resumes_after_a_closed_connection(server: Server, tmp_path: Path) -> None:
    fetch([server.file("truncated", "good")], tmp_path)
    assert server.requests == [("truncated", None, PARTIAL), ("good", f"bytes={PARTIAL}-", len(CONTENT) - PARTIAL)]


def test_the_next_call_resumes_after_the_last_mirror_failed(server: Server, tmp_path: Path) -> None:
    for received in (PARTIAL, 2 * PARTIAL):
        with pytest.raises(UserError, match=f"connection closed after {received} of {len(CONTENT)} bytes"):
            fetch([server.file("truncated")], tmp_path)
        assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:received]
    fetch([server.file("truncated")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [request.range for request in server.requests] == [None, f"bytes={PARTIAL}-", f"bytes={2 * PARTIAL}-"]


def test_wrong_content_is_deleted(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(OTHER[:PARTIAL])
    with pytest.raises(UserError):
        fetch([server.file("wrong")], tmp_path)
    assert listing(tmp_path) == []
    fetch([server.file("wrong", "good")], tmp_path)
    assert [request.range for request in server.requests[-2:]] == [None, None]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_if_all_mirrors_fail_the_error_says_why_and_how_to_download_by_hand(server: Server, tmp_path: Path) -> None:
    (tmp_path / "present").write_bytes(CONTENT)
    files = [
        server.file("missing", name="present"),
        server.file("good", name="first"),
        server.file("missing", "broken", name="second"),
        server.file("good", "missing", name="third", sha256=""),
    ]
    with pytest.raises(UserError) as caught:
        fetch(files, tmp_path)
    assert str(caught.value).splitlines() == [
        "could not download second:",
        f"  {server.url('missing', 'second')}: HTTP 404 Not Found",
        f"  {server.url('broken', 'second')}: HTTP 500 Internal Server Error",
        f"try again later, or put these files into {tmp_path}, or into another folder and pass `data=PATH`:",
        f"  {server.url('missing', 'second')}  sha256 {SHA256}",
        f"  {server.url('good', 'third')}",
    ]
    assert listing(tmp_path) == ["first", "present"]


# the local disk


def test_an_existing_file_with_the_wrong_checksum_is_left_unchanged(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(OTHER)
    with pytest.raises(UserError) as caught:
        fetch([server.file("good", name="another"), server.file("good")], tmp_path)
    assert str(path) in str(caught.value)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert path.read_bytes() == OTHER
    assert server.requests == []


def test_an_impossible_folder_raises(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"cannot store files in {folder}: .*SHAPEDREAMER_DATA"):
            fetch([server.file("good")], folder)
    assert server.requests == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_raises_without_trying_another_mirror(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"cannot store files in {tmp_path}: No space left on device"):
        fetch([server.file("good", "no_range")], tmp_path)
    assert [request.behaviour for request in server.requests] == ["good"]
    assert not (tmp_path / "file.bin").exists()


# progress


def test_without_a_terminal_progress_is_printed_as_lines(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 0.0, 100.0])  # by this clock the first block takes 100 s and the others no time
    monkeypatch.setattr(download, "monotonic", lambda: next(times, 100.0))
    monkeypatch.setattr(download, "MIN_BYTES", 1)
    fetch([server.file("missing", "good")], tmp_path)
    first, second, third = capfd.readouterr().err.splitlines()
    assert first == second == "downloading file.bin from 127.0.0.1"
    assert re.fullmatch(r"0\.\d of 0\.7 MB  0\.00 MB/s  \d+ s left", third)


def test_status_lines_show_size_speed_and_time_left() -> None:
    assert download._status(1_000_000, 26_000_000, 500_000) == "1.0 of 26.0 MB  0.50 MB/s  50 s left"
    assert download._status(1_000_000, None, 500_000) == "1.0 MB  0.50 MB/s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("present", [False, True])
def test_in_a_terminal_a_bar_is_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: bool
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    if present:
        (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch([server.file("good")], tmp_path)
    shown = terminal.getvalue()
    if present:
        assert shown == ""
    else:
        assert "file.bin from 127.0.0.1" in shown
        assert "700.0/700.0 kB" in shown
        assert "downloading" not in shown


# the cache folder


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {"SHAPEDREAMER_DATA": "/big/disk", "XDG_CACHE_HOME": "/cache"}, "/big/disk/mnist"),
        ("linux", {"SHAPEDREAMER_DATA": "~/data"}, "/home/me/data/mnist"),
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache/shapedreamer/mnist"),
        ("linux", {"SHAPEDREAMER_DATA": "", "XDG_CACHE_HOME": ""}, "/home/me/.cache/shapedreamer/mnist"),
        ("linux", {"LOCALAPPDATA": "/local"}, "/home/me/.cache/shapedreamer/mnist"),
        ("darwin", {}, "/home/me/Library/Caches/shapedreamer/mnist"),
        ("darwin", {"XDG_CACHE_HOME": "/cache"}, "/cache/shapedreamer/mnist"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/shapedreamer/mnist"),
        ("win32", {}, "/home/me/AppData/Local/shapedreamer/mnist"),
    ],
)
def test_the_cache_folder(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], folder: str
) -> None:
    for name in ("SHAPEDREAMER_DATA", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/me", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_folder("mnist") == Path(folder)
