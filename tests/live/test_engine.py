"""The engine: batches over viewers, equal turns for all, playback speed, and errors."""

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
from shapedreamer.export.runtimes import eager_network
from shapedreamer.imaging import editing
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live import engine as engine_module
from shapedreamer.live import frames
from shapedreamer.live.engine import MAX_BATCH, MAX_TRACES, Engine
from shapedreamer.live.frames import FRAME, TRACE, Denoising, Header, unpack
from shapedreamer.live.settings import RepaintMessage, SampleMessage, TraceMessage
from shapedreamer.models.model import Model, NetworkFunction
from shapedreamer.models.options import SampleOptions
from tests.watching import TIMEOUT, Client, eager, failing, set_message, settings, small_model

MODELS = {"small": small_model(), "other": small_model(labels=(), channels=3)}


@contextmanager
def running(
    choose_network: Callable[[Model], tuple[NetworkFunction, str]] = eager, clock: Callable[[], float] | None = None
) -> Iterator[Engine]:
    """A running engine, which must leave no thread behind."""
    before = threading.active_count()
    engine = Engine(MODELS, choose_network) if clock is None else Engine(MODELS, choose_network, clock)
    for name in MODELS:
        engine.prepare(name)
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()
        assert threading.active_count() == before


class Gate:
    """Networks that block until the test lets a call pass, and record each call's model and batch size."""

    def __init__(self) -> None:
        self.passes, self.arrivals = Semaphore(0), Semaphore(0)
        self.calls: list[tuple[str, int]] = []

    def choose_network(self, model: Model) -> tuple[NetworkFunction, str]:
        name = next(name for name, other in MODELS.items() if other is model)

        def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            self.calls.append((name, len(x)))
            self.arrivals.release()
            assert self.passes.acquire(timeout=TIMEOUT)
            return eager_network(model)(x, t, label)

        return network, "gate"

    def wait(self) -> None:
        """Wait until the next call is blocked here."""
        assert self.arrivals.acquire(timeout=TIMEOUT)

    def let_pass(self, count: int) -> None:
        """Let `count` calls pass, and wait until the one after them is blocked."""
        for _ in range(count):
            self.passes.release()
            self.wait()

    def open(self, count: int = 1) -> None:
        """Let the next `count` calls pass, without waiting."""
        self.passes.release(count)


def trace_message(id: int = 1, **changes: Any) -> TraceMessage:
    values: dict[str, Any] = {"sampler": "ddim", "steps": 1, "eta": 0.0}
    return TraceMessage(type="trace", id=id, **(values | changes))


def repaint_message(count: int) -> RepaintMessage:
    """Inpaint the first `count` of 64 pixels."""
    mask = base64.b64encode(b"\xff" * count + bytes(64 - count)).decode()
    return RepaintMessage(type="repaint", mask=mask)


def frames_until_idle(client: Client) -> list[int]:
    """The numbers of the frames that arrive while the engine generates a slow frame for another viewer."""
    other = Client(client.engine)
    other.send(set_message(steps=20))
    other.receive_frame()
    client.engine.leave(other.viewer)
    numbers = []
    while (frame := client.engine.fetch(client.viewer)) is not None:
        assert isinstance(frame, bytes)
        numbers.append(unpack(frame)[0].number)
    return numbers


def assert_pixels(payload: bytes, x: Tensor) -> None:
    """Check that the pixels are those of x, except for rounding."""
    pixels = torch.frombuffer(bytearray(payload), dtype=torch.uint8).int()
    assert (pixels - torch.from_numpy(to_uint8(x)).flatten().int()).abs().max() <= 1


# what a viewer receives


def test_frames_equal_melt() -> None:
    model = MODELS["small"]
    changes: dict[str, Any] = {"num": 4, "seed": "9", "label": {"line": 2.0}, "guidance": 2.0, "eta": 1.0, "steps": 3}
    options = settings(**changes).options()
    with running() as engine:
        client = Client(engine)
        client.send(set_message(7, **changes))
        for k, x in enumerate(editing.melt(model, model.sample(4, options), 30, 5, 4, options)):
            header, payload = client.receive_binary()
            assert header[:8] == (FRAME, True, 7, k, 4, 1, 8, 8)
            assert header.calls == 6  # 3 steps, each conditional and unconditional
            assert header.ms > 0
            assert_pixels(payload, x)
            client.control("step")


def test_simultaneous_viewers_get_the_frames_they_would_get_alone() -> None:
    all_changes: list[dict[str, Any]] = [
        {"seed": "1", "sampler": "ddpm", "steps": 4},
        {"seed": "2", "sampler": "heun", "steps": 5, "num": 4, "creativity": 10},
        {"seed": "3", "sampler": "dpmpp_2m", "steps": 3, "eta": 0.7, "label": {"circle": 1.0}, "guidance": 3.0},
        {"seed": "4", "eta": 1.0, "num": 16, "creativity": 50},
        {"seed": "5", "model": "other", "steps": 7, "creativity": 3},
        {"seed": "6", "model": "other", "sampler": "ddpm", "num": 4},
    ]
    with running() as engine:
        clients = [Client(engine) for _ in all_changes]
        for client, changes in zip(clients, all_changes, strict=True):
            client.send(set_message(**changes))
        expected = []
        for changes in all_changes:
            values, model = settings(**changes), MODELS[changes.get("model", "small")]
            sample = model.sample(values.num, values.options())
            expected.append(editing.melt(model, sample, values.creativity, 3, values.num, values.options()))
        for k in range(3):
            for client, images in zip(clients, expected, strict=True):
                header, payload = client.receive_binary()
                assert (header.number, header.pure) == (k, True)
                assert_pixels(payload, images[k])
                client.control("step")


def test_play_pause_and_step() -> None:
    with running() as engine:
        client = Client(engine)
        client.send(set_message())
        assert client.receive_frame().number == 0
        assert frames_until_idle(client) == []
        client.control("play")
        assert [client.receive_frame().number for _ in range(3)] == [1, 2, 3]
        client.control("pause")
        last = max([3, *frames_until_idle(client)])
        assert frames_until_idle(client) == []
        client.control("step")
        assert client.receive_frame().number == last + 1
        client.control("step", "step")
        while client.receive_frame().number < last + 3:
            pass
        assert frames_until_idle(client) == []
        client.control("play")
        with pytest.raises(UserError, match='send "pause" before "step"'):
            client.control("step")


def test_while_paused_frame_0_and_inpainted_frames_are_generated() -> None:
    with running() as engine:
        client = Client(engine)
        client.control("pause")
        client.send(set_message(1))
        assert client.receive_frame()[:4] == (FRAME, True, 1, 0)
        client.send(set_message(2, seed="6"))
        assert client.receive_frame()[:4] == (FRAME, True, 2, 0)
        client.send(set_message(3, seed="6", steps=3))
        assert frames_until_idle(client) == []
        client.control("restart")
        assert client.receive_frame()[:4] == (FRAME, True, 3, 0)
        client.send(set_message(4, image=bytes(range(64)), seed="6"))
        header, payload = client.receive_binary()
        assert header[:4] == (FRAME, False, 4, 0)
        assert header.calls == 0
        assert payload == bytes(range(64))
        client.send(repaint_message(32))
        header, payload = client.receive_binary()
        assert header[:4] == (FRAME, False, 4, 1)
        assert header.calls == 11  # the first step 10 times, the last step once
        assert payload[32:] == bytes(range(32, 64))
        assert payload[:32] != bytes(range(32))
        assert frames_until_idle(client) == []


def test_traces_arrive_in_order_during_playback() -> None:
    model = MODELS["small"]
    with running() as engine:
        client = Client(engine)
        client.send(set_message(num=4, label={"line": 1.0}))
        client.control("play")
        client.send(
            trace_message(8, sampler="ddpm", steps=6),
            trace_message(9, sampler="heun", steps=5),
            set_message(2, model="other"),  # traces use the settings at the time of their request
        )
        traces: list[tuple[Header, bytes]] = []
        while len(traces) < 2:
            header, payload = client.receive_binary()
            if header.kind == TRACE:
                traces.append((header, payload))
        assert [header.id for header, _ in traces] == [8, 9]
        assert [header.calls for header, _ in traces] == [6, 5]
        header, payload = traces[0]
        steps = list(model.stream(1, SampleOptions("ddpm", 6, 0.0, 5, {"line": 1.0})))
        assert header.number == len(steps)
        size = len(payload) // len(steps)
        for i, step in enumerate(steps):
            assert struct.unpack_from("<ii", payload, i * size)[1] == step.t
            x = torch.frombuffer(bytearray(payload[i * size + 8 + 2 * 256 : (i + 1) * size]), dtype=torch.float32)
            assert_close(x.view(1, 1, 8, 8), step.x, rtol=0, atol=1e-5)


def test_a_restart_cancels_the_frame_in_progress() -> None:
    gate = Gate()
    with running(gate.choose_network) as engine:
        client = Client(engine)
        client.send(set_message(1, steps=5))
        gate.wait()
        gate.let_pass(2)
        client.send(set_message(2, steps=2, seed="6"))
        gate.let_pass(1)
        gate.open(2)
        header = client.receive_frame()
        assert header[:4] == (FRAME, True, 2, 0)
        assert len(gate.calls) == 3 + 2
        assert engine.stats().frames == 1


# batches and turns


def test_viewers_of_one_model_share_calls_and_models_take_turns() -> None:
    gate = Gate()
    with running(gate.choose_network) as engine:
        first = Client(engine)
        first.send(set_message(steps=9))
        gate.wait()
        for model in ("small", "other", "small", "other", "small"):
            Client(engine).send(set_message(model=model, steps=9))
        gate.let_pass(4)
        assert gate.calls == [("small", 1), ("small", 4), ("other", 2), ("small", 4), ("other", 2)]
        gate.open(100)


def test_batches_have_at_most_max_batch_images_and_viewers_take_turns() -> None:
    gate = Gate()
    with running(gate.choose_network) as engine:
        first = Client(engine)
        first.send(set_message(model="other"))
        gate.wait()
        clients = [Client(engine) for _ in range(3)]
        for client in clients:
            client.send(set_message(num=16, steps=40))
        gate.let_pass(61)
        assert gate.calls == [("other", 1)] * 2 + [("small", MAX_BATCH)] * 60  # two of the three viewers in each call
        gate.open()
        for client in clients:
            assert client.receive_frame().calls == 40


def test_guidance_doubles_the_batch() -> None:
    gate = Gate()
    with running(gate.choose_network) as engine:
        client = Client(engine)
        client.send(set_message(num=16, guidance=3.0))
        gate.wait()
        assert gate.calls == [("small", MAX_BATCH)]
        gate.open(10)
        assert client.receive_frame().calls == 4
        stats = engine.stats()
        assert (stats.calls, stats.images) == (2, 2 * MAX_BATCH)


def test_every_viewer_gets_a_fair_share_of_frames() -> None:
    with running() as engine:
        clients = [Client(engine) for _ in range(8)]
        updated = threading.Event()
        counts = [0] * len(clients)
        for i, client in enumerate(clients):
            client.viewer.on_update = updated.set
            client.send(set_message(model=("small", "other")[i % 2], num=(1, 16, 4)[i % 3], steps=3))
            client.control("play")
        while sum(counts) < 160:
            updated.clear()
            for i, client in enumerate(clients):
                counts[i] += isinstance(engine.fetch(client.viewer), bytes)
            assert updated.wait(TIMEOUT)
        assert min(counts) > sum(counts) / len(counts) / 2


def test_a_slow_viewer_skips_frames_and_delays_nobody() -> None:
    with running() as engine:
        slow, fast = Client(engine), Client(engine)
        for client in (slow, fast):
            client.send(set_message())
            client.control("play")
        while fast.receive_frame().number < 20:
            pass
        assert slow.receive_frame().number == 1  # it replaced frame 0; then the engine waited for this viewer
        assert slow.receive_frame().number >= 2
        while fast.receive_frame().number < 40:
            pass
        numbers = [slow.receive_frame().number for _ in range(3)]
        assert numbers == sorted(set(numbers))
        # a restart discards the frames that wait
        while fast.receive_frame().number < 60:
            pass
        slow.send(set_message(2, seed="8"))
        header = slow.receive_frame()
        assert header.id == 2
        assert header.number <= 1


def test_leaving_cancels_the_frames_in_progress() -> None:
    gate = Gate()
    with running(gate.choose_network) as engine:
        clients = [Client(engine) for _ in range(3)]
        for client in clients:
            client.send(set_message(steps=9))
        gate.wait()
        gate.let_pass(1)
        for client in clients:
            engine.leave(client.viewer)
        engine.leave(clients[0].viewer)  # a second time, which does nothing
        assert engine.stats().viewers == 0
        remaining = Client(engine)
        remaining.send(set_message(model="other"))
        gate.open(10)
        remaining.receive_frame()
        assert [name for name, _ in gate.calls[2:]] == ["other"] * 2
        for client in clients:
            assert engine.fetch(client.viewer) is None


# speed


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_fps_sets_the_speed() -> None:
    clock = Clock()
    with running(clock=clock) as engine:
        client = Client(engine)
        client.send(set_message(fps=4.0))
        client.control("play")
        assert client.receive_frame().number == 0
        for now, expected in (
            (1000.24, []),
            (1000.26, [1]),
            (1000.49, []),
            (1000.51, [2]),  # small delays do not add up
            (1000.74, []),
            (1005.0, [3]),  # and missed frames are not made up for
            (1005.24, []),
            (1005.25, [4]),
        ):
            clock.now = now
            assert frames_until_idle(client) == expected
        client.control("pause", "step")  # a single step does not wait
        assert client.receive_frame().number == 5
        client.control("play")
        client.send(set_message(2, fps=20.0))
        assert frames_until_idle(client) == []
        clock.now += 0.05
        assert frames_until_idle(client) == [6]
        client.send(set_message(3, fps=0.0))
        assert [client.receive_frame().number for _ in range(3)] == [7, 8, 9]


def test_at_creativity_0_frames_need_no_calls_and_come_at_60_fps() -> None:
    clock = Clock()
    with running(clock=clock) as engine:
        client = Client(engine)
        client.send(set_message(creativity=0))
        _, first = client.receive_binary()
        client.control("play")
        assert frames_until_idle(client) == []
        clock.now += 1 / 59
        header, payload = client.receive_binary()
        assert (header.number, header.calls) == (1, 0)
        assert payload == first
        client.control("pause", "step", "step")
        assert frames_until_idle(client) == []
        clock.now += 1 / 59
        assert frames_until_idle(client) == [2]


# errors


def test_invalid_messages_are_rejected_and_change_nothing() -> None:
    with running() as engine:
        client = Client(engine)
        for action in ("step", "restart"):
            with pytest.raises(UserError, match=f'send "set" before "{action}"'):
                client.control(action)
        for early in (repaint_message(1), trace_message()):
            with pytest.raises(UserError, match=f'send "set" before "{early.type}"'):
                client.send(early)
        client.send(set_message(1))
        client.receive_frame()
        for message, error in (
            (set_message(2, model="dog"), "no model 'dog'; there are: small, other"),
            (set_message(2, creativity=51), "creativity must be between 0 and T = 50"),
            (set_message(2, image=b"few"), "image must have num·H·W·C = 1·8·8·1 = 64 bytes, not 3"),
            (set_message(2, image=bytes(64), num=4), "image must have num·H·W·C = 4·8·8·1 = 256 bytes, not 64"),
            (set_message(2, model="other", label={"line": 1.0}), "without labels"),
            (repaint_message(0), "mask selects nothing"),
            (trace_message(sampler="heun", eta=0.5), "heun has no eta"),
        ):
            with pytest.raises(UserError, match=error):
                client.send(message)
        assert frames_until_idle(client) == []
        client.control("step")
        assert client.receive_frame()[:4] == (FRAME, True, 1, 1)


def test_a_sample_of_other_settings_leaves_the_dream_as_it_is() -> None:
    other = settings(model="other", num=4, seed="8")
    with running() as engine:
        client = Client(engine)
        client.send(set_message(3))
        client.receive_binary()
        client.send(SampleMessage(type="sample", id=8, settings=other))
        header, payload = client.receive_binary()
        assert header[:5] == (FRAME, True, 8, 0, 4)
        assert_pixels(payload, MODELS["other"].sample(4, other.options()))
        client.control("step")
        assert client.receive_frame()[:4] == (FRAME, True, 3, 1)
        with pytest.raises(UserError, match="no model 'dog'"):
            client.send(SampleMessage(type="sample", id=9, settings=settings(model="dog")))


def test_the_number_of_waiting_traces_is_limited() -> None:
    gate = Gate()
    with running(gate.choose_network) as engine:
        client = Client(engine)
        client.send(set_message(steps=1))
        gate.wait()
        for id in range(MAX_TRACES):
            client.send(trace_message(id))
        with pytest.raises(UserError, match=f"{MAX_TRACES} traces are waiting already; try again later"):
            client.send(trace_message(99))
        gate.open(100)
        headers = [client.receive_binary()[0] for _ in range(MAX_TRACES + 1)]
        assert [header.id for header in headers if header.kind == TRACE] == list(range(MAX_TRACES))
        client.send(trace_message(99))
        assert client.receive_binary()[0].id == 99


def test_an_error_in_a_frame_stops_this_viewer_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    varying = frames.varying

    def varying_or_error(
        model: Model, image: Tensor, t: int, num: int, options: SampleOptions, first: int
    ) -> Denoising[Tensor]:
        if options.seed == 13:
            raise RuntimeError("unlucky")
        return varying(model, image, t, num, options, first)

    monkeypatch.setattr(frames, "varying", varying_or_error)
    with running() as engine:
        client, unlucky = Client(engine), Client(engine)
        client.send(set_message())
        unlucky.send(set_message(seed="13"))
        assert unlucky.receive_frame().number == 0
        for each in (client, unlucky):
            each.control("play")
        assert unlucky.receive() == "stopped: could not generate the frame (RuntimeError: unlucky)"
        assert frames_until_idle(unlucky) == []
        while client.receive_frame().number < 10:
            pass
        unlucky.send(set_message(2, seed="14"))
        assert unlucky.receive_frame()[:4] == (FRAME, True, 2, 0)
        assert engine.failure is None
    assert "unlucky" in caplog.text


def test_if_the_engine_stops_every_viewer_gets_the_error() -> None:
    with running(failing) as engine:
        clients = [Client(engine) for _ in range(3)]
        for client in clients[:2]:
            client.send(set_message())
            client.receive_frame()
        assert engine.failure is None
        clients[1].send(set_message(num=16))
        error = "the engine has stopped (MemoryError: no room)"
        for client in clients:
            assert client.receive() == error
        assert engine.failure == error
        with pytest.raises(UserError, match="the engine has stopped"):
            clients[0].control("play")
        with pytest.raises(UserError, match="the engine has stopped"):
            Client(engine)
        for client in clients:
            engine.leave(client.viewer)
        assert engine.stats().viewers == 0


def test_a_frame_that_is_due_in_the_far_future_does_not_stop_the_engine() -> None:
    with running() as engine:
        client, other = Client(engine), Client(engine)
        for id, fps in enumerate((1e-300, 5e-324), 1):
            client.send(set_message(id, fps=fps))
            client.control("restart", "play")
            client.receive_frame()
            other.send(set_message(id, seed=str(id)))
            other.receive_frame()
        assert engine.failure is None


# networks


def test_models_are_looked_up_when_a_viewer_first_selects_them() -> None:
    looked_up: list[str] = []

    class Recorded(dict[str, Model]):
        def __getitem__(self, name: str) -> Model:
            looked_up.append(name)
            if name == "damaged":
                raise UserError("checkpoint damaged.safetensors is damaged")
            return super().__getitem__(name)

    engine = Engine(Recorded(MODELS, damaged=MODELS["small"]), eager)
    engine.start()
    try:
        client = Client(engine)
        assert looked_up == []
        with pytest.raises(UserError, match=r"damaged\.safetensors is damaged"):
            client.send(set_message(model="damaged"))
        client.send(set_message(2))
        client.receive_frame()
        assert set(looked_up) == {"damaged", "small"}
        assert engine.stats().networks == {"small": "eager"}
    finally:
        engine.stop()


def test_a_network_is_chosen_in_the_background_and_then_used() -> None:
    started, go, used = threading.Event(), threading.Event(), threading.Event()

    def choose_network(model: Model) -> tuple[NetworkFunction, str]:
        started.set()
        assert go.wait(TIMEOUT)

        def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            used.set()
            return eager_network(model)(x, t, label)

        return network, "quick"

    engine = Engine(MODELS, choose_network)
    engine.start()
    try:
        client = Client(engine)
        client.send(set_message())
        assert started.wait(TIMEOUT)
        client.control("play")
        while client.receive_frame().number < 5:
            pass
        assert engine.stats().networks == {"small": "eager"}
        go.set()
        while not used.is_set():
            client.receive_frame()
        assert engine.stats().networks == {"small": "quick"}
    finally:
        go.set()
        engine.stop()


def test_if_choosing_a_network_fails_the_model_keeps_running_in_torch(caplog: pytest.LogCaptureFixture) -> None:
    failed = threading.Event()

    def choose_network(model: Model) -> tuple[NetworkFunction, str]:
        failed.set()
        raise RuntimeError("no backend")

    engine = Engine(MODELS, choose_network)
    engine.start()
    try:
        client = Client(engine)
        client.send(set_message())
        client.control("play")
        assert failed.wait(TIMEOUT)
        while client.receive_frame().number < 5:
            pass
        client.send(set_message(2, seed="6"))  # the engine does not try again
        assert engine.failure is None
    finally:
        engine.stop()
    assert caplog.text.count("no backend") >= 1
    with pytest.raises(RuntimeError, match="no backend"):
        engine.prepare("other")


def test_stats() -> None:
    clock = Clock()
    with running(clock=clock) as engine:
        stats = engine.stats()
        assert stats == (0, 0, 0.0, 0, 0, 0.0, [], {"small": "eager", "other": "eager"})
        client = Client(engine)
        client.send(set_message(num=4, steps=3))
        client.receive_frame()
        for _ in range(4):
            client.control("step")
            client.receive_frame()
        clock.now += 4
        stats = engine.stats()
        assert (stats.viewers, stats.frames, stats.calls, stats.images) == (1, 5, 15, 60)
        assert stats.frames_per_second == 5 / engine_module.WINDOW
        assert stats.frame_times == [0.0] * 5
        clock.now += 7
        stats = engine.stats()
        assert (stats.frames, stats.frames_per_second, stats.frame_times) == (5, 0.0, [])
