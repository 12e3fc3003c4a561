"""How the engine runs a network: by the fastest way there is, and for the questions of many at once."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..diffusion.denoiser import Denoiser
from ..export.onnx import OnnxNetwork, to_onnx
from ..models.model import Model
from .frames import Ask

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, label or None) -> a prediction

TRIALS = 6  # network calls, of which the fastest counts
log = logging.getLogger(__name__)


def eager(model: Model) -> Network:
    """The model's network as it is, in float32, so that the picture is that of a browser."""

    def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        with torch.inference_mode():
            x = x.contiguous(memory_format=torch.channels_last)
            return model.network(x, t) if label is None else model.network(x, t, label)

    return network


def onnx(model: Model) -> Network:
    """The model's network run by onnxruntime. It takes seconds to make; UserError without the extra `export`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx(model, path)
        return OnnxNetwork(path)


def fastest(model: Model) -> tuple[Network, str]:
    """The way to run a model's network that is faster with one image, by a few calls of each way, and its name.

    (torch.compile is not among them: it needs a C++ compiler, and compiles again for other numbers of images.)
    """
    ways = {"eager": eager(model)}
    if model.device.type == "cpu":
        try:
            ways["onnxruntime"] = onnx(model)
        except Exception as error:  # the extra is missing; or exporting has failed, which it does in many ways
            log.warning("the network runs in torch, which is slower than onnxruntime (%s)", error)
    x = torch.zeros(1, model.spec.channels, model.spec.height, model.spec.width, device=model.device)
    t = torch.ones(1, dtype=torch.int64, device=model.device)

    def seconds(name: str) -> float:
        times = [time.perf_counter()]
        for _ in range(TRIALS):
            ways[name](x, t, None).cpu()  # a GPU is done when its answer is here
            times.append(time.perf_counter())
        return min(end - start for start, end in pairwise(times))

    name = min(ways, key=seconds)
    return ways[name], name


def answer(asks: Sequence[Ask], model: Model, network: Network) -> list[Tensor]:
    """x̂₀ for each question about images of this model, from one network call; as Model.denoiser has it, one by one."""
    rows = [(ask, label) for ask in asks for label in ask.told]
    x, t = torch.cat([ask.x_t for ask, _ in rows]), torch.cat([ask.t for ask, _ in rows])
    labels = None
    if model.labels is not None:  # zeros are no label
        none = x.new_zeros(len(x), model.labels.shape[1])
        labels = torch.cat([none[: len(ask.x_t)] if label is None else label for ask, label in rows])
    denoise = Denoiser(lambda x, t: network(x, t, labels), model.schedule, model.prediction)
    pieces = iter(denoise(x, t).split([len(ask.x_t) for ask, _ in rows]))
    answers = []
    for ask in asks:
        x0 = next(pieces)
        if len(ask.told) == 2:
            x0 = x0 + ask.guidance * (next(pieces) - x0)
        answers.append(x0.clamp(model.spec.low, model.spec.high))
    return answers
