"""Models so small that a frame takes a millisecond, and one who watches an engine dream with them."""

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
from shapedreamer.live.engine import Engine
from shapedreamer.live.frames import FRAME, Asking, Header, unpack
from shapedreamer.live.network import Network, answer, eager
from shapedreamer.live.settings import Message, Order, Set, Settings
from shapedreamer.models.model import Model
from shapedreamer.models.recipes import Sampling
from shapedreamer.networks.unet import UNet

R = TypeVar("R")
PATIENCE = 60  # seconds after which a test that waits for something fails
LABELS = ("circle", "line", "square")


@contextlib.contextmanager
def leaving_no_thread() -> Iterator[None]:
    """All threads begun within have ended; but those of AnyIO, which it tells to end and does not wait for, soon do."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        assert thread.name == "AnyIO worker thread"
        thread.join(PATIENCE)
        assert not thread.is_alive()


def small(
    labels: Sequence[str] = LABELS,
    prediction: Prediction = "x0",
    channels: int = 1,
    size: int = 8,
    schedule: Schedule | None = None,
) -> Model:
    """A model with random weights, (channels, size, size), on a schedule of 50 times."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(channels, (8, 16), groups=4, head_dim=8, attention=(1,), patch=2, context=len(labels))
        for parameter in network.parameters():
            if parameter.ndim == 1:  # freshly made, all norms are alike and do nothing
                parameter.data += 0.3 * torch.randn(parameter.shape)
    spec = DataSpec("some data", channels, size, size, tuple(labels))
    drawn = torch.eye(len(labels)) if labels else None
    sampling = Sampling("ddim", 2, 1.0, spacing="log_snr")
    # a network says the same alone as in a batch, but for products in bfloat16
    return Model(network, schedule or cosine(50), prediction, spec, drawn, sampling, "float32")


def fragile(model: Model) -> tuple[Network, str]:
    """A way to run a network that fails with 16 images, and takes the engine with it."""

    def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        if len(x) == 16:
            raise MemoryError("no room")
        return eager(model)(x, t, label)

    return network, "fragile"


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {"model": "small", "seed": "5", "num": 1, "sampler": "ddim", "steps": 2, "eta": 0.0}
    return Settings(**(values | {"guidance": 1.0, "creativity": 30, "label": "any", "fps": 0.0} | changes))


def set_to(id: int = 1, image: bytes | None = None, **changes: Any) -> Set:
    text = None if image is None else base64.b64encode(image).decode()
    return Set(type="set", id=id, settings=settings(**changes), image=text)


def finished(asks: Asking[R], model: Model) -> R:
    """What comes of work that asks the model's network."""
    try:
        ask = next(asks)
        while True:
            ask = asks.send(answer([ask], model, eager(model))[0])
    except StopIteration as end:
        return end.value


def as_it_is(model: Model) -> tuple[Network, str]:
    return eager(model), "eager"


class Watcher:
    """One who watches an engine, and waits until something is to be seen."""

    def __init__(self, engine: Engine, most: int = 1000) -> None:
        self.engine, self.news = engine, threading.Event()
        self.viewer = engine.join(self.news.set, most)

    def says(self, *messages: Message) -> None:
        for message in messages:
            self.engine.heed(self.viewer, message)

    def orders(self, *words: str) -> None:
        for word in words:
            self.says(Order(type=word))  # type: ignore[arg-type]

    def fetches(self) -> bytes | str:
        """The next frame, trace or trouble."""
        while True:
            self.news.clear()
            what = self.engine.fetch(self.viewer)
            if what is not None:
                return what
            assert self.news.wait(PATIENCE), "nothing came"

    def sees(self) -> tuple[Header, bytes]:
        what = self.fetches()
        assert isinstance(what, bytes), what
        return unpack(what)

    def frame(self) -> Header:
        header, _ = self.sees()
        assert header.kind == FRAME
        return header
