"""For tests of the live engine: models so small that a frame takes a millisecond, and a client of the engine."""

import base64
import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from shapedreamer.common.names import Prediction
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion.schedule import Schedule, cosine
from shapedreamer.export.runtimes import eager_network
from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import FRAME, Denoising, Header, unpack
from shapedreamer.live.network import denoise
from shapedreamer.live.settings import ControlMessage, Message, SetMessage, Settings
from shapedreamer.models.model import Model, NetworkFunction
from shapedreamer.models.recipes import Sampling
from shapedreamer.networks.unet import UNet

R = TypeVar("R")
TIMEOUT = 60  # seconds; a test that waits longer than this fails
LABELS = ("circle", "line", "square")


@contextlib.contextmanager
def no_threads_left() -> Iterator[None]:
    """Check that every thread started inside the block ends; AnyIO's worker threads may take a moment longer."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        assert thread.name == "AnyIO worker thread"
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def small_model(
    labels: Sequence[str] = LABELS,
    prediction: Prediction = "x0",
    channels: int = 1,
    size: int = 8,
    schedule: Schedule | None = None,
) -> Model:
    """A model with random weights for images (channels, size, size), by default with T = 50."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(channels, (8, 16), groups=4, head_dim=8, attention=(1,), patch=2, context=len(labels))
        for parameter in network.parameters():
            if parameter.ndim == 1:  # right after initialisation, all norms are identities
                parameter.data += 0.3 * torch.randn(parameter.shape)
    spec = DataSpec("some data", channels, size, size, tuple(labels))
    table = torch.eye(len(labels)) if labels else None
    sampling = Sampling("ddim", 2, 1.0, spacing="log_snr")
    # float32, because in bfloat16 a network's outputs depend on the batch size
    return Model(network, schedule or cosine(50), prediction, spec, table, sampling, "float32")


def eager(model: Model) -> tuple[NetworkFunction, str]:
    """For Engine's choose_network: always torch."""
    return eager_network(model), "eager"


def failing(model: Model) -> tuple[NetworkFunction, str]:
    """For Engine's choose_network: a network that raises for a batch of 16, which stops the engine."""

    def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        if len(x) == 16:
            raise MemoryError("no room")
        return eager_network(model)(x, t, label)

    return network, "failing"


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {"model": "small", "seed": "5", "num": 1, "sampler": "ddim", "steps": 2, "eta": 0.0}
    return Settings(**(values | {"guidance": 1.0, "creativity": 30, "label": "any", "fps": 0.0} | changes))


def set_message(id: int = 1, image: bytes | None = None, **changes: Any) -> SetMessage:
    text = None if image is None else base64.b64encode(image).decode()
    return SetMessage(type="set", id=id, settings=settings(**changes), image=text)


def run_alone(denoising: Denoising[R], model: Model) -> R:
    """The result of a coroutine whose requests are answered one at a time."""
    try:
        request = next(denoising)
        while True:
            request = denoising.send(denoise([request], model, eager_network(model))[0])
    except StopIteration as end:
        return end.value


class Client:
    """A viewer of an engine that can wait for results."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.updated = engine, threading.Event()
        self.viewer = engine.join(self.updated.set)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.engine.handle(self.viewer, message)

    def control(self, *actions: str) -> None:
        """Send "play", "pause", "step" or "restart"."""
        for action in actions:
            self.send(ControlMessage(type=action))  # type: ignore[arg-type]

    def receive(self) -> bytes | str:
        """The next frame, trace or error."""
        while True:
            self.updated.clear()
            update = self.engine.fetch(self.viewer)
            if update is not None:
                return update
            assert self.updated.wait(TIMEOUT), "received nothing"

    def receive_binary(self) -> tuple[Header, bytes]:
        """Header and payload of the next frame or trace."""
        update = self.receive()
        assert isinstance(update, bytes), update
        return unpack(update)

    def receive_frame(self) -> Header:
        header, _ = self.receive_binary()
        assert header.kind == FRAME
        return header
