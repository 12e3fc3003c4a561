"""Run a network in torch or in onnxruntime, whichever is faster on this machine.

    model = fast_for_few(sd.load("shapes-turbo"))  # exports the network, which takes seconds
    model.sample(1)

onnxruntime is faster for one image, and torch for many. Where they meet depends on the network and the processor, so
both are measured.
"""

import copy
import logging
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..models.model import MAX_FLOAT32_IMAGES, Model, NetworkFunction
from .onnx import OnnxNetwork, to_onnx

TRIALS = 6  # timed network calls per runtime; the fastest one counts
log = logging.getLogger(__name__)


def eager_network(model: Model) -> NetworkFunction:
    """The model's network in torch, in float32, so that images match those of onnxruntime."""

    def network(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        with torch.inference_mode():
            x = x.contiguous(memory_format=torch.channels_last)
            return model.network(x, t) if label is None else model.network(x, t, label)

    return network


def onnx_network(model: Model) -> NetworkFunction:
    """The model's network in onnxruntime. The export takes seconds. UserError without the extra `export`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx(model, path)
        return OnnxNetwork(path, threads=torch.get_num_threads())


def fast_for_few(model: Model) -> Model:
    """A copy of the model that samples up to MAX_FLOAT32_IMAGES images at a time as fast as this machine can.

    Both runtimes are measured with each of these numbers of images, and onnxruntime is used where it is faster. The
    export takes seconds and the measurement less than one, so this pays in a program that samples often. The runtimes
    round differently, which can occasionally change an image. On a GPU, the copy samples as the model does.

    UserError without the extra `export`.
    """
    faster = copy.copy(model)
    if model.device.type == "cpu":
        runtimes = {"eager": eager_network(model), "onnxruntime": onnx_network(model)}
        numbers = range(1, MAX_FLOAT32_IMAGES + 1)
        faster.for_few = {num: runtimes[fastest(runtimes, model, num)] for num in numbers}
    return faster


def fastest_network(model: Model) -> tuple[NetworkFunction, str]:
    """The model's network in the runtime that is faster for one image, and its name: "eager" or "onnxruntime"."""
    runtimes = {"eager": eager_network(model)}
    if model.device.type == "cpu":
        try:
            runtimes["onnxruntime"] = onnx_network(model)
        except Exception as error:  # the extra is not installed; or the export failed, in one of many ways
            log.warning("the network runs in torch; onnxruntime is faster, but not available here (%s)", error)
    name = fastest(runtimes, model)
    return runtimes[name], name


def fastest(runtimes: Mapping[str, NetworkFunction], model: Model, num: int = 1) -> str:
    """The name of the runtime that is fastest for this number of images, measured with a few calls.

    (torch.compile is no candidate: it needs a C++ compiler, and it compiles again for every new batch size.)
    """
    x = torch.zeros(num, model.spec.channels, model.spec.height, model.spec.width, device=model.device)
    t = torch.ones(num, dtype=torch.int64, device=model.device)

    def seconds(name: str) -> float:
        times = [time.perf_counter()]
        for _ in range(TRIALS):
            runtimes[name](x, t).cpu()  # copying to the CPU waits until a GPU has finished
            times.append(time.perf_counter())
        return min(end - start for start, end in pairwise(times))

    return min(runtimes, key=seconds)
