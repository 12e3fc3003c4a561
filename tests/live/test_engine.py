"""The engine: all viewers in one call, each with its own dream, in turn; and what happens when something goes wrong."""

import base64
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Semaphore
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.imaging import explore
from shapedreamer.imaging.figures import Way
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live import engine as engine_module
from shapedreamer.live import frames
from shapedreamer.live.engine import BATCH, MOST_TRACES, Engine
from shapedreamer.live.frames import FRAME, TRACE, Asking, Header, unpack
from shapedreamer.live.network import Network, eager
from shapedreamer.live.settings import Repaint, Trace
from shapedreamer.models.model import Model
from tests.watching import PATIENCE, Watcher, as_it_is, fragile, set_to, settings, small

MODELS = {"small": small(), "other": small(labels=(), channels=3)}


@contextmanager
def running(
    pick: Callable[[Model], tuple[Network, str]] = as_it_is, clock: Callable[[], float] | None = None
) -> Iterator[Engine]:
    """An engine that runs, and leaves no thread behind."""
    before = threading.active_count()
    engine = Engine(MODELS, pick) if clock is None else Engine(MODELS, pick, clock)
    for name in MODELS:
        engine.prepare(name)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        assert threading.active_count() == before


class Gate:
    """Networks that answer only when they are let, and keep how many images they were asked about."""

    def __init__(self) -> None:
        self.open, self.arrived = Semaphore(0), Semaphore(0)
        self.asked: list[tuple[str, int]] = []

    def pick(self, model: Model) -> tuple[Network, str]:
        name = next(name for name, its in MODELS.items() if its is model)

        def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            self.asked.append((name, len(x)))
            self.arrived.release()
            assert self.open.acquire(timeout=PATIENCE)
            return eager(model)(x, t, label)

        return network, "gate"

    def wait(self) -> None:
        """Until the next call has come."""
        assert self.arrived.acquire(timeout=PATIENCE)

    def calls(self, count: int) -> None:
        """Let so many calls pass, and wait for the one after."""
        for _ in range(count):
            self.open.release()
            self.wait()


def trace(id: int = 1, **changes: Any) -> Trace:
    values: dict[str, Any] = {"sampler": "ddim", "steps": 1, "eta": 0.0}
    return Trace(type="trace", id=id, **(values | changes))


def mask(count: int) -> str:
    """To dream the first so many of 64 pixels anew."""
    return base64.b64encode(b"\xff" * count + bytes(64 - count)).decode()


def settle(watcher: Watcher) -> list[int]:
    """The numbers of the frames that have come by the time that a long one of another viewer has been made."""
    other = Watcher(watcher.engine)
    other.says(set_to(steps=20))
    other.frame()
    watcher.engine.leave(other.viewer)
    numbers = []
    while (frame := watcher.engine.fetch(watcher.viewer)) is not None:
        assert isinstance(frame, bytes)
        numbers.append(unpack(frame)[0].number)
    return numbers


def assert_shows(body: bytes, x: Tensor) -> None:
    """Pixels are those of x, but for how its last digits round."""
    found = torch.frombuffer(bytearray(body), dtype=torch.uint8).int()
    assert (found - torch.from_numpy(to_uint8(x)).flatten().int()).abs().max() <= 1


# what a viewer sees


def test_a_dream_as_it_is_seen_is_that_of_the_library() -> None:
    model, way = MODELS["small"], settings(num=4, seed="9", label={"line": 2.0}, guidance=2.0, eta=1.0, steps=3).way()
    with running() as engine:
        watcher = Watcher(engine)
        watcher.says(set_to(7, num=4, seed="9", label={"line": 2.0}, guidance=2.0, eta=1.0, steps=3))
        for k, x in enumerate(explore.melt(model, model.sample(4, **way._asdict()), 30, 5, 4, way)):
            header, body = watcher.sees()
            assert header[:8] == (FRAME, True, 7, k, 4, 1, 8, 8)
            assert header.calls == 6  # 3 steps, each with and without the label
            assert header.ms > 0
            assert_shows(body, x)
            watcher.orders("step")


def test_many_are_dreamt_at_once_as_each_would_be_alone() -> None:
    ways: list[dict[str, Any]] = [
        {"seed": "1", "sampler": "ddpm", "steps": 4},
        {"seed": "2", "sampler": "heun", "steps": 5, "num": 4, "creativity": 10},
        {"seed": "3", "sampler": "dpmpp_2m", "steps": 3, "eta": 0.7, "label": {"circle": 1.0}, "guidance": 3.0},
        {"seed": "4", "eta": 1.0, "num": 16, "creativity": 50},
        {"seed": "5", "model": "other", "steps": 7, "creativity": 3},
        {"seed": "6", "model": "other", "sampler": "ddpm", "num": 4},
    ]
    with running() as engine:
        watchers = [Watcher(engine) for _ in ways]
        for watcher, way in zip(watchers, ways, strict=True):
            watcher.says(set_to(**way))
        melting = []
        for values in ways:
            wanted, model = settings(**values), MODELS[values.get("model", "small")]
            sampled = model.sample(wanted.num, **wanted.way()._asdict())
            melting.append(explore.melt(model, sampled, wanted.creativity, 3, wanted.num, wanted.way()))
        for k in range(3):
            for watcher, images in zip(watchers, melting, strict=True):
                header, body = watcher.sees()
                assert (header.number, header.pure) == (k, True)
                assert_shows(body, images[k])
                watcher.orders("step")


def test_it_plays_until_it_is_paused() -> None:
    with running() as engine:
        watcher = Watcher(engine)
        watcher.says(set_to())
        assert watcher.frame().number == 0
        assert settle(watcher) == []
        watcher.orders("play")
        assert [watcher.frame().number for _ in range(3)] == [1, 2, 3]
        watcher.orders("pause")
        last = max([3, *settle(watcher)])
        assert settle(watcher) == []
        watcher.orders("step")
        assert watcher.frame().number == last + 1
        watcher.orders("step", "step")
        while watcher.frame().number < last + 3:
            pass
        assert settle(watcher) == []
        watcher.orders("play")
        with pytest.raises(UserError, match="step is for a dream that is paused"):
            watcher.orders("step")


def test_a_paused_dream_shows_its_beginning_and_what_was_painted() -> None:
    with running() as engine:
        watcher = Watcher(engine)
        watcher.orders("pause")
        watcher.says(set_to(1))
        assert watcher.frame()[:4] == (FRAME, True, 1, 0)
        watcher.says(set_to(2, seed="6"))
        assert watcher.frame()[:4] == (FRAME, True, 2, 0)
        watcher.says(set_to(3, seed="6", steps=3))
        assert settle(watcher) == []
        watcher.orders("restart")
        assert watcher.frame()[:4] == (FRAME, True, 3, 0)
        watcher.says(set_to(4, image=bytes(range(64)), seed="6"))
        header, body = watcher.sees()
        assert header[:4] == (FRAME, False, 4, 0)
        assert header.calls == 0
        assert body == bytes(range(64))
        watcher.says(Repaint(type="repaint", mask=mask(32)))
        header, body = watcher.sees()
        assert header[:4] == (FRAME, False, 4, 1)
        assert header.calls == 11  # a step of 10 repeats, and the last
        assert body[32:] == bytes(range(32, 64))
        assert body[:32] != bytes(range(32))
        assert settle(watcher) == []


def test_traces_come_beside_the_frames_and_in_their_order() -> None:
    model = MODELS["small"]
    with running() as engine:
        watcher = Watcher(engine)
        watcher.says(set_to(num=4, label={"line": 1.0}))
        watcher.orders("play")
        watcher.says(trace(8, sampler="ddpm", steps=6), trace(9, sampler="heun", steps=5), set_to(2, model="other"))
        found: list[tuple[Header, bytes]] = []
        while len(found) < 2:
            header, body = watcher.sees()
            if header.kind == TRACE:
                found.append((header, body))
        assert [header.id for header, _ in found] == [8, 9]
        assert [header.calls for header, _ in found] == [6, 5]
        header, body = found[0]
        steps = list(model.stream(1, "ddpm", 6, 0.0, 5, label={"line": 1.0}))  # of the settings when it was asked for
        assert header.number == len(steps)
        size = len(body) // len(steps)
        for i, step in enumerate(steps):
            assert struct.unpack_from("<ii", body, i * size)[1] == step.t
            x = torch.frombuffer(bytearray(body[i * size + 8 + 2 * 256 : (i + 1) * size]), dtype=torch.float32)
            assert_close(x.view(1, 1, 8, 8), step.x, rtol=0, atol=1e-5)


def test_what_is_under_way_is_dropped_when_the_dream_begins_again() -> None:
    gate = Gate()
    with running(gate.pick) as engine:
        watcher = Watcher(engine)
        watcher.says(set_to(1, steps=5))
        gate.wait()
        gate.calls(2)
        watcher.says(set_to(2, steps=2, seed="6"))
        gate.calls(1)
        gate.open.release(2)
        header = watcher.frame()
        assert header[:4] == (FRAME, True, 2, 0)
        assert len(gate.asked) == 3 + 2
        assert engine.stats().frames == 1


# together, and in turn


def test_viewers_share_calls_and_models_take_turns() -> None:
    gate = Gate()
    with running(gate.pick) as engine:
        first = Watcher(engine)
        first.says(set_to(steps=9))
        gate.wait()
        for model in ("small", "other", "small", "other", "small"):
            Watcher(engine).says(set_to(model=model, steps=9))
        gate.calls(4)
        assert gate.asked == [("small", 1), ("small", 4), ("other", 2), ("small", 4), ("other", 2)]
        gate.open.release(100)


def test_a_call_has_no_more_images_than_pay_and_all_have_their_turn() -> None:
    gate = Gate()
    with running(gate.pick) as engine:
        first = Watcher(engine)
        first.says(set_to(model="other"))
        gate.wait()
        watchers = [Watcher(engine) for _ in range(3)]
        for watcher in watchers:
            watcher.says(set_to(num=16, steps=40))
        gate.calls(61)
        assert gate.asked == [("other", 1)] * 2 + [("small", BATCH)] * 60  # two of the three, in turns
        gate.open.release()
        for watcher in watchers:
            assert watcher.frame().calls == 40


def test_guidance_counts_twice() -> None:
    gate = Gate()
    with running(gate.pick) as engine:
        watcher = Watcher(engine)
        watcher.says(set_to(num=16, guidance=3.0))
        gate.wait()
        assert gate.asked == [("small", BATCH)]
        gate.open.release(10)
        assert watcher.frame().calls == 4
        stats = engine.stats()
        assert (stats.calls, stats.images) == (2, 2 * BATCH)


def test_nobody_gets_much_less_than_others() -> None:
    with running() as engine:
        watchers = [Watcher(engine) for _ in range(8)]
        news = threading.Event()
        counts = [0] * len(watchers)
        for i, watcher in enumerate(watchers):
            watcher.viewer.news = news.set
            watcher.says(set_to(model=("small", "other")[i % 2], num=(1, 16, 4)[i % 3], steps=3))
            watcher.orders("play")
        while sum(counts) < 160:
            news.clear()
            for i, watcher in enumerate(watchers):
                counts[i] += isinstance(engine.fetch(watcher.viewer), bytes)
            assert news.wait(PATIENCE)
        assert min(counts) > sum(counts) / len(counts) / 2


def test_who_does_not_fetch_keeps_the_newest_frame_and_holds_up_nobody() -> None:
    with running() as engine:
        slow, fast = Watcher(engine), Watcher(engine)
        for watcher in (slow, fast):
            watcher.says(set_to())
            watcher.orders("play")
        while fast.frame().number < 20:
            pass
        assert slow.frame().number == 1  # frame 0 was replaced, and then it waited
        assert slow.frame().number >= 2
        while fast.frame().number < 40:
            pass
        numbers = [slow.frame().number for _ in range(3)]
        assert numbers == sorted(set(numbers))
        # a dream that begins again is shown from its beginning
        while fast.frame().number < 60:
            pass
        slow.says(set_to(2, seed="8"))
        header = slow.frame()
        assert header.id == 2
        assert header.number <= 1


def test_who_leaves_is_dropped_with_all_that_is_under_way() -> None:
    gate = Gate()
    with running(gate.pick) as engine:
        watchers = [Watcher(engine) for _ in range(3)]
        for watcher in watchers:
            watcher.says(set_to(steps=9))
        gate.wait()
        gate.calls(1)
        for watcher in watchers:
            engine.leave(watcher.viewer)
        engine.leave(watchers[0].viewer)  # once is enough
        assert engine.stats().viewers == 0
        stayed = Watcher(engine)
        stayed.says(set_to(model="other"))
        gate.open.release(10)
        stayed.frame()
        assert [name for name, _ in gate.asked[2:]] == ["other"] * 2
        for watcher in watchers:
            assert engine.fetch(watcher.viewer) is None


def test_there_are_no_more_viewers_than_may_be() -> None:
    with running() as engine:
        watchers = [Watcher(engine, most=2) for _ in range(2)]
        with pytest.raises(UserError, match="there are 2 viewers already"):
            Watcher(engine, most=2)
        engine.leave(watchers[0].viewer)
        Watcher(engine, most=2)
        assert engine.stats().viewers == 2


# speed


class Clock:
    """A clock that is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_frames_come_at_the_speed_that_was_set() -> None:
    clock = Clock()
    with running(clock=clock) as engine:
        watcher = Watcher(engine)
        watcher.says(set_to(fps=4.0))
        watcher.orders("play")
        assert watcher.frame().number == 0
        for now, frames in (
            (1000.24, []),
            (1000.26, [1]),
            (1000.49, []),
            (1000.51, [2]),  # lateness does not add up
            (1000.74, []),
            (1005.0, [3]),  # and what was missed is not made up for
            (1005.24, []),
            (1005.25, [4]),
        ):
            clock.now = now
            assert settle(watcher) == frames
        watcher.orders("pause", "step")  # at once
        assert watcher.frame().number == 5
        watcher.orders("play")
        watcher.says(set_to(2, fps=20.0))
        assert settle(watcher) == []
        clock.now += 0.05
        assert settle(watcher) == [6]
        watcher.says(set_to(3, fps=0.0))
        assert [watcher.frame().number for _ in range(3)] == [7, 8, 9]


def test_a_dream_that_stands_still_takes_no_calls_and_not_all_time() -> None:
    clock = Clock()
    with running(clock=clock) as engine:
        watcher = Watcher(engine)
        watcher.says(set_to(creativity=0))
        _, first = watcher.sees()
        watcher.orders("play")
        assert settle(watcher) == []
        clock.now += 1 / 59
        header, body = watcher.sees()
        assert (header.number, header.calls) == (1, 0)
        assert body == first
        watcher.orders("pause", "step", "step")
        assert settle(watcher) == []
        clock.now += 1 / 59
        assert settle(watcher) == [2]


# when something goes wrong


def test_what_makes_no_sense_is_refused_and_changes_nothing() -> None:
    with running() as engine:
        watcher = Watcher(engine)
        for word in ("step", "restart"):
            with pytest.raises(UserError, match=f"{word} comes too early: the first message is set"):
                watcher.orders(word)
        for message in (Repaint(type="repaint", mask=mask(1)), trace()):
            with pytest.raises(UserError, match=f"{message.type} comes too early"):
                watcher.says(message)
        watcher.says(set_to(1))
        watcher.frame()
        for wrong, says in (
            (set_to(2, model="dog"), "no model 'dog'; there are: small, other"),
            (set_to(2, creativity=51), "creativity must be between 0 and T = 50"),
            (set_to(2, image=b"few"), "image has 3 bytes"),
            (set_to(2, image=bytes(64), num=4), "image has 64 bytes, and must have num·H·W·C = 4·8·8·1 = 256"),
            (set_to(2, model="other", label={"line": 1.0}), "without labels"),
            (Repaint(type="repaint", mask=mask(0)), "mask has no pixels"),
            (trace(sampler="heun", eta=0.5), "eta belongs"),
        ):
            with pytest.raises(UserError, match=says):
                watcher.says(wrong)
        assert settle(watcher) == []
        watcher.orders("step")
        assert watcher.frame()[:4] == (FRAME, True, 1, 1)


def test_only_so_many_traces_may_wait() -> None:
    gate = Gate()
    with running(gate.pick) as engine:
        watcher = Watcher(engine)
        watcher.says(set_to(steps=1))
        gate.wait()
        for id in range(MOST_TRACES):
            watcher.says(trace(id))
        with pytest.raises(UserError, match=f"there are {MOST_TRACES} traces to come already"):
            watcher.says(trace(99))
        gate.open.release(100)
        found = [watcher.sees()[0] for _ in range(MOST_TRACES + 1)]
        assert [header.id for header in found if header.kind == TRACE] == list(range(MOST_TRACES))
        watcher.says(trace(99))
        assert watcher.sees()[0].id == 99


def test_a_dream_that_fails_stops_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    varying = frames.varying

    def failing(model: Model, image: Tensor, t: int, num: int, way: Way, first: int) -> Asking[Tensor]:
        if way.seed == 13:
            raise RuntimeError("unlucky")
        return varying(model, image, t, num, way, first)

    monkeypatch.setattr(frames, "varying", failing)
    with running() as engine:
        watcher, unlucky = Watcher(engine), Watcher(engine)
        watcher.says(set_to())
        unlucky.says(set_to(seed="13"))
        assert unlucky.frame().number == 0
        for each in (watcher, unlucky):
            each.orders("play")
        assert unlucky.fetches() == "the dream has stopped (RuntimeError: unlucky)"
        assert settle(unlucky) == []
        while watcher.frame().number < 10:
            pass
        unlucky.says(set_to(2, seed="14"))
        assert unlucky.frame()[:4] == (FRAME, True, 2, 0)
        assert engine.failure is None
    assert "unlucky" in caplog.text


def test_when_the_engine_dies_everybody_is_told() -> None:
    with running(fragile) as engine:
        watchers = [Watcher(engine) for _ in range(3)]
        for watcher in watchers[:2]:
            watcher.says(set_to())
            watcher.frame()
        assert engine.failure is None
        watchers[1].says(set_to(num=16))
        says = "the engine has died (MemoryError: no room)"
        for watcher in watchers:
            assert watcher.fetches() == says
        assert engine.failure == says
        with pytest.raises(UserError, match="the engine has died"):
            watchers[0].orders("play")
        with pytest.raises(UserError, match="the engine has died"):
            Watcher(engine)
        for watcher in watchers:
            engine.leave(watcher.viewer)
        assert engine.stats().viewers == 0


# networks


def test_a_network_is_picked_beside_the_dreaming_and_then_used() -> None:
    started, go, used = threading.Event(), threading.Event(), threading.Event()

    def pick(model: Model) -> tuple[Network, str]:
        started.set()
        assert go.wait(PATIENCE)

        def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            used.set()
            return eager(model)(x, t, label)

        return network, "quick"

    engine = Engine(MODELS, pick)
    engine.start()
    try:
        watcher = Watcher(engine)
        watcher.says(set_to())
        assert started.wait(PATIENCE)
        watcher.orders("play")
        while watcher.frame().number < 5:
            pass
        assert engine.stats().networks == {"small": "eager", "other": "eager"}
        go.set()
        while not used.is_set():
            watcher.frame()
        assert engine.stats().networks == {"small": "quick", "other": "eager"}
    finally:
        go.set()
        engine.stop()


def test_a_network_that_cannot_be_picked_runs_as_before(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()

    def pick(model: Model) -> tuple[Network, str]:
        failed.set()
        raise RuntimeError("no way")

    engine = Engine(MODELS, pick)
    engine.start()
    try:
        watcher = Watcher(engine)
        watcher.says(set_to())
        watcher.orders("play")
        assert failed.wait(PATIENCE)
        while watcher.frame().number < 5:
            pass
        watcher.says(set_to(2, seed="6"))  # it is not tried again
        assert engine.failure is None
    finally:
        engine.stop()
    assert caplog.text.count("no way") >= 1
    with pytest.raises(RuntimeError, match="no way"):
        engine.prepare("other")


def test_numbers_for_those_who_want_to_know() -> None:
    clock = Clock()
    with running(clock=clock) as engine:
        stats = engine.stats()
        assert stats == (0, 0, 0.0, 0, 0, 0.0, [], {"small": "eager", "other": "eager"})
        watcher = Watcher(engine)
        watcher.says(set_to(num=4, steps=3))
        watcher.frame()
        for _ in range(4):
            watcher.orders("step")
            watcher.frame()
        clock.now += 4
        stats = engine.stats()
        assert (stats.viewers, stats.frames, stats.calls, stats.images) == (1, 5, 15, 60)
        assert stats.frames_per_second == 5 / engine_module.WINDOW
        assert stats.took == [0.0] * 5
        clock.now += 7
        stats = engine.stats()
        assert (stats.frames, stats.frames_per_second, stats.took) == (5, 0.0, [])
