"""Downloads against a server that misbehaves in every way: a file comes whole and right, or not at all."""

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
SOME = 300_000


class Asked(NamedTuple):
    """A request, and how much of a file it was answered with."""

    way: str
    range: str | None
    sent: int


class Server(ThreadingHTTPServer):
    """What it does with a request is the first part of the path: http://127.0.0.1:PORT/WAY/NAME."""

    daemon_threads = False  # so that server_close() waits for them all

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[Asked] = []
        self.over = threading.Event()

    def url(self, way: str, name: str = "file.bin") -> str:
        return f"http://127.0.0.1:{self.server_port}/{way}/{name}"

    def file(self, *ways: str, name: str = "file.bin", sha256: str = SHA256) -> RemoteFile:
        return RemoteFile(name, sha256, tuple(self.url(way, name) for way in ways))

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            raise


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        _, way, name = self.path.split("/")
        asked = self.headers["Range"]
        getattr(self, way)(int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0, name)

    def note(self, sent: int) -> None:
        """To be called before anything is sent: a test looks as soon as it has its answer."""
        self.server.asked.append(Asked(self.path.split("/")[1], self.headers["Range"], sent))

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", *, announced: int | None = -1, **headers: str) -> None:
        """announced: the Content-Length; −1 for the true one, None for none."""
        self.note(len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if announced is not None:
            self.send_header("Content-Length", str(len(body) if announced < 0 else announced))
        self.end_headers()
        self.wfile.write(body)

    def with_range(self, content: bytes, start: int, cut: int | None = None) -> None:
        """`content` from `start` on; cut: how much of it is really sent."""
        rest = content[start:]
        if start and not rest:
            self.reply(416, Content_Range=f"bytes */{len(content)}")
        elif start:
            whole = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.reply(206, rest[:cut], announced=len(rest), Content_Range=whole)
        else:
            self.reply(200, rest[:cut], announced=len(rest))

    def good(self, start: int, name: str) -> None:
        assert self.headers["User-Agent"] == "shapedreamer"
        self.with_range(CONTENT, start)

    def little(self, start: int, name: str) -> None:
        self.reply(200, CONTENT[:100])

    def no_range(self, start: int, name: str) -> None:
        self.reply(200, CONTENT)

    def shifted(self, start: int, name: str) -> None:
        """Goes on elsewhere than it was asked to."""
        if start:
            self.reply(206, CONTENT[start - 1 :], Content_Range=f"bytes {start - 1}-{len(CONTENT) - 1}/{len(CONTENT)}")
        else:
            self.reply(200, CONTENT)

    def unsatisfied(self, start: int, name: str) -> None:
        self.reply(416)

    def wrong(self, start: int, name: str) -> None:
        self.with_range(OTHER, start)

    def truncated(self, start: int, name: str) -> None:
        self.with_range(CONTENT, start, cut=SOME)

    def chunked(self, start: int, name: str) -> None:
        self.reply(200, self.chunks() + b"0\r\n\r\n", announced=None, Transfer_Encoding="chunked")

    def cut_chunks(self, start: int, name: str) -> None:
        self.reply(200, self.chunks()[:-1000], announced=None, Transfer_Encoding="chunked")

    def chunks(self) -> bytes:
        pieces = [CONTENT[i : i + 99_999] for i in range(0, len(CONTENT), 99_999)]
        return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)

    def no_length(self, start: int, name: str) -> None:
        self.reply(200, CONTENT, announced=None, Connection="close")

    def missing(self, start: int, name: str) -> None:
        self.reply(404)

    def broken(self, start: int, name: str) -> None:
        self.reply(500)

    def moved(self, start: int, name: str) -> None:
        self.reply(302, Location=f"/good/{name}")

    def moved_to_a_secret(self, start: int, name: str) -> None:
        self.reply(302, Location=f"file://{Path(__file__).resolve()}")

    def moved_in_a_circle(self, start: int, name: str) -> None:
        self.reply(302, Location=f"/moved_in_a_circle/{name}")

    def silent(self, start: int, name: str) -> None:
        self.note(0)
        self.server.over.wait()

    def dripping(self, start: int, name: str) -> None:
        self.reply(200, CONTENT[:1000], announced=len(CONTENT))
        self.server.over.wait()

    def kept_open(self, start: int, name: str) -> None:
        self.reply(200, CONTENT)
        self.server.over.wait()

    def stalled(self, start: int, name: str) -> None:
        self.reply(200, CONTENT[:SOME], announced=len(CONTENT))
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
    """A URL at which nothing listens: the port is taken, so that nobody else can listen there."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/file.bin"


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# what goes well


@pytest.mark.parametrize("way", ["good", "no_range", "chunked", "no_length", "kept_open", "moved"])
def test_a_file_comes_whole(server: Server, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "not" / "yet" / "there"
    assert fetch([server.file(way)], folder) == [folder / "file.bin"]
    assert (folder / "file.bin").read_bytes() == CONTENT
    assert listing(folder) == ["file.bin"]
    assert [asked.range for asked in server.asked] == [None] * (2 if way == "moved" else 1)


def test_only_what_is_not_there_is_downloaded(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [server.file("good", name=name) for name in ("b", "a", "c")]
    files.append(server.file("missing", name="changing", sha256=""))
    (tmp_path / "a").write_bytes(CONTENT)
    (tmp_path / "changing").write_bytes(b"without a checksum, whatever is there is right")
    paths = [tmp_path / name for name in ("b", "a", "c", "changing")]
    assert fetch(files, tmp_path) == paths
    assert len(server.asked) == 2
    assert all(path.read_bytes() == CONTENT for path in paths[:3])
    assert capfd.readouterr().err != ""
    assert fetch(files, tmp_path) == paths
    assert len(server.asked) == 2
    assert capfd.readouterr() == ("", "")


def test_a_file_gets_its_name_when_all_of_it_is_on_the_disk(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(handle: int) -> None:
        synced.append((os.fstat(handle).st_size, listing(tmp_path)))

    monkeypatch.setattr(os, "fsync", fsync)
    fetch([server.file("little", sha256="")], tmp_path)
    assert synced == [(100, ["file.bin.part"])]


# going on


@pytest.mark.parametrize("there", [1, SOME, len(CONTENT) - 1])
def test_a_download_goes_on_where_it_was_broken_off(server: Server, tmp_path: Path, there: int) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:there])
    fetch([server.file("good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [("good", f"bytes={there}-", len(CONTENT) - there)]
    assert listing(tmp_path) == ["file.bin"]


def test_an_empty_part_is_nothing_to_go_on_from(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").touch()
    fetch([server.file("good")], tmp_path)
    assert server.asked == [("good", None, len(CONTENT))]


def test_a_redirect_goes_on_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:SOME])
    fetch([server.file("moved")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked[-1] == ("good", f"bytes={SOME}-", len(CONTENT) - SOME)


def test_a_server_that_knows_no_ranges_sends_it_all(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:SOME])
    fetch([server.file("no_range")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [("no_range", f"bytes={SOME}-", len(CONTENT))]


@pytest.mark.parametrize(
    ("way", "part"),
    [
        ("good", CONTENT),  # whole, and was only not renamed: 416
        ("good", CONTENT + b"more"),
        ("good", OTHER[:SOME]),
        ("shifted", CONTENT[:SOME]),
    ],
)
def test_a_part_that_cannot_be_gone_on_from_is_begun_again(
    server: Server, tmp_path: Path, way: str, part: bytes
) -> None:
    (tmp_path / "file.bin.part").write_bytes(part)
    fetch([server.file(way)], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [asked.range for asked in server.asked] == [f"bytes={len(part)}-", None]
    assert listing(tmp_path) == ["file.bin"]


def test_a_file_without_a_checksum_is_begun_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(OTHER[:SOME])
    fetch([server.file("truncated", "good", sha256="")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [("truncated", None, SOME), ("good", None, len(CONTENT))]


def test_whoever_stops_it_finds_it_where_it_was(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.0, 0.0])  # as it begins, before the first block, and before the second

    def monotonic() -> float:
        for time in times:
            return time
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "monotonic", monotonic)
        with pytest.raises(KeyboardInterrupt):
            fetch([server.file("good")], tmp_path)
    there = (tmp_path / "file.bin.part").read_bytes()
    assert 0 < len(there) < len(CONTENT)
    assert CONTENT.startswith(there)
    assert listing(tmp_path) == ["file.bin.part"]
    fetch([server.file("good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked[-1] == ("good", f"bytes={len(there)}-", len(CONTENT) - len(there))


# mirrors that fail

FAILURES = {
    "missing": "HTTP 404 Not Found",
    "broken": "HTTP 500 Internal Server Error",
    "unsatisfied": "HTTP 416 Requested Range Not Satisfiable",
    "wrong": f"wrong content, of sha256 {hashlib.sha256(OTHER).hexdigest()}",
    "cut_chunks": "IncompleteRead",
    "moved_to_a_secret": "HTTP 302 Found - Redirection to url",
    "moved_in_a_circle": "HTTP 302 The HTTP server returned a redirect error",
    "closed": "Remote end closed connection without response",
    "garbled": "this is not HTTP",
    "truncated": f"it stopped after {SOME} of {len(CONTENT)} bytes",
}


@pytest.mark.parametrize("way", FAILURES)
def test_where_a_mirror_fails_the_next_one_is_asked(server: Server, tmp_path: Path, way: str) -> None:
    fetch([server.file(way, "good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert listing(tmp_path) == ["file.bin"]
    assert server.asked[0].way == way
    assert sum(asked.way == "good" for asked in server.asked) == 1


@pytest.mark.parametrize(("way", "reason"), FAILURES.items())
def test_why_a_mirror_failed_is_said(server: Server, tmp_path: Path, way: str, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch([server.file(way)], tmp_path)
    line = next(line for line in str(caught.value).splitlines() if line.startswith(f"  {server.url(way)}: "))
    assert reason in line
    assert len(str(caught.value).splitlines()) == 4
    assert len(line) < 300
    assert not (tmp_path / "file.bin").exists()


def test_where_nobody_listens_the_next_mirror_is_asked(server: Server, tmp_path: Path, refusing: str) -> None:
    with pytest.raises(UserError, match=f"{refusing}: .*refused"):
        fetch([RemoteFile("file.bin", SHA256, (refusing,))], tmp_path)
    fetch([RemoteFile("file.bin", SHA256, (refusing, server.url("good")))], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("way", ["silent", "stalled"])
def test_a_mirror_that_falls_silent_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(download, "PATIENCE", 0.2)
        patch.setattr(download, "LEAST", 0)
        with pytest.raises(UserError, match=f"{server.url(way)}: .*timed out"):
            fetch([server.file(way)], tmp_path)
    assert not (tmp_path / "file.bin").exists()
    fetch([server.file("good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_mirror_that_drips_is_left_for_the_next_which_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 0.0, 31.0])  # by this clock what comes first takes 31 s, and all else no time at all
    monkeypatch.setattr(download, "monotonic", lambda: next(times, 31.0))
    fetch([server.file("dripping", "good")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked[1] == ("good", "bytes=1000-", len(CONTENT) - 1000)


@pytest.mark.parametrize("way", ["missing", "broken", "closed", "garbled"])
def test_a_mirror_that_has_nothing_costs_nothing_of_what_has_come(server: Server, tmp_path: Path, way: str) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:SOME])
    fetch([server.file(way, "good")], tmp_path)
    assert server.asked == [(way, f"bytes={SOME}-", 0), ("good", f"bytes={SOME}-", len(CONTENT) - SOME)]


def test_what_a_mirror_that_stopped_has_sent_is_not_sent_again(server: Server, tmp_path: Path) -> None:
    fetch([server.file("truncated", "good")], tmp_path)
    assert server.asked == [("truncated", None, SOME), ("good", f"bytes={SOME}-", len(CONTENT) - SOME)]


def test_what_the_last_mirror_has_sent_is_kept_for_the_next_call(server: Server, tmp_path: Path) -> None:
    for there in (SOME, 2 * SOME):
        with pytest.raises(UserError, match=f"it stopped after {there} of {len(CONTENT)} bytes"):
            fetch([server.file("truncated")], tmp_path)
        assert (tmp_path / "file.bin.part").read_bytes() == CONTENT[:there]
    fetch([server.file("truncated")], tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [asked.range for asked in server.asked] == [None, f"bytes={SOME}-", f"bytes={2 * SOME}-"]


def test_wrong_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(OTHER[:SOME])
    with pytest.raises(UserError):
        fetch([server.file("wrong")], tmp_path)
    assert listing(tmp_path) == []
    fetch([server.file("wrong", "good")], tmp_path)
    assert [asked.range for asked in server.asked[-2:]] == [None, None]
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_when_all_fail_one_error_says_why_and_how_to_get_what_is_missing_by_hand(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "there").write_bytes(CONTENT)
    files = [
        server.file("missing", name="there"),
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
        f"try again later, or put these files into {tmp_path}, or into a folder that you name with --data PATH:",
        f"  {server.url('missing', 'second')}  sha256 {SHA256}",
        f"  {server.url('good', 'third')}",
    ]
    assert listing(tmp_path) == ["first", "there"]


# the user's own disk


def test_a_file_that_is_there_and_is_another_one_is_left_as_it_is(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(OTHER)
    with pytest.raises(UserError) as caught:
        fetch([server.file("good", name="another"), server.file("good")], tmp_path)
    assert str(path) in str(caught.value)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(OTHER).hexdigest() in str(caught.value)
    assert path.read_bytes() == OTHER
    assert server.asked == []


def test_a_folder_that_cannot_be_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"cannot keep files in {folder}: .*SHAPEDREAMER_DATA"):
            fetch([server.file("good")], folder)
    assert server.asked == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_is_said_and_no_other_mirror_asked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").symlink_to("/dev/full")
    with pytest.raises(UserError, match=f"cannot keep files in {tmp_path}: No space left on device"):
        fetch([server.file("good", "no_range")], tmp_path)
    assert [asked.way for asked in server.asked] == ["good"]
    assert not (tmp_path / "file.bin").exists()


# what it says


def test_without_a_terminal_it_says_lines(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    times = iter([0.0, 0.0, 100.0])  # the first block takes 100 s by this clock and the others no time at all
    monkeypatch.setattr(download, "monotonic", lambda: next(times, 100.0))
    monkeypatch.setattr(download, "LEAST", 1)
    fetch([server.file("missing", "good")], tmp_path)
    first, second, third = capfd.readouterr().err.splitlines()
    assert first == second == "downloading file.bin from 127.0.0.1"
    assert re.fullmatch(r"0\.\d of 0\.7 MB  0\.00 MB/s  \d+ s left", third)


def test_lines_say_how_far_it_is_and_how_long_it_will_take() -> None:
    assert download._line(1_000_000, 26_000_000, 500_000) == "1.0 of 26.0 MB  0.50 MB/s  50 s left"
    assert download._line(1_000_000, None, 500_000) == "1.0 MB  0.50 MB/s"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("there", [False, True])
def test_a_terminal_gets_a_bar(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    if there:
        (tmp_path / "file.bin").write_bytes(CONTENT)
    fetch([server.file("good")], tmp_path)
    shown = terminal.getvalue()
    if there:
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
