"""How the engine runs a network: with the fastest backend, and with one call for the requests of many viewers."""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..diffusion import masked
from ..diffusion.denoiser import Denoiser
from ..export.onnx import OnnxNetwork, to_onnx
from ..models.model import Model
from .frames import Request

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (x_t, t, label or None) -> the network's prediction

TRIALS = 6  # timed network calls per backend; the fastest one counts
log = logging.getLogger(__name__)


def eager_network(model: Model) -> Network:
    """The model's network in torch, in float32, so that images match those of the engine in the browser."""

    def network(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        with torch.inference_mode():
            x = x.contiguous(memory_format=torch.channels_last)
            return model.network(x, t) if label is None else model.network(x, t, label)

    return network


def onnx_network(model: Model) -> Network:
    """The model's network in onnxruntime. The export takes seconds. UserError without the extra `export`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        to_onnx(model, path)
        return OnnxNetwork(path)


def fastest_network(model: Model) -> tuple[Network, str]:
    """The model's network in its fastest backend, and the backend's name: "eager" or "onnxruntime".

    Measured with a few calls on one image. (torch.compile is not an option: it needs a C++ compiler, and it compiles
    again for every new batch size.)
    """
    backends = {"eager": eager_network(model)}
    if model.device.type == "cpu":
        try:
            backends["onnxruntime"] = onnx_network(model)
        except Exception as error:  # the extra is not installed; or the export failed, in one of many ways
            log.warning("the network runs in torch; onnxruntime is faster, but not available here (%s)", error)
    x = torch.zeros(1, model.spec.channels, model.spec.height, model.spec.width, device=model.device)
    t = torch.ones(1, dtype=torch.int64, device=model.device)

    def seconds(name: str) -> float:
        times = [time.perf_counter()]
        for _ in range(TRIALS):
            backends[name](x, t, None).cpu()  # copying to the CPU waits until a GPU has finished
            times.append(time.perf_counter())
        return min(end - start for start, end in pairwise(times))

    name = min(backends, key=seconds)
    return backends[name], name


def denoise(requests: Sequence[Request], model: Model, network: Network) -> list[Tensor]:
    """x̂₀ for each request, from one network call. The result equals calling Model.denoiser for each request."""
    rows = [(request, label) for request in requests for label in request.passes]
    x, t = torch.cat([request.x_t for request, _ in rows]), torch.cat([request.t for request, _ in rows])
    labels = None
    if model.labels is not None:  # zeros are the unconditional label
        zeros = x.new_zeros(len(x), model.labels.shape[1])
        labels = torch.cat([zeros[: len(request.x_t)] if label is None else label for request, label in rows])
    if model.is_masked:
        output = network(x, torch.zeros_like(t), labels)  # logits
    else:
        output = Denoiser(lambda x, t: network(x, t, labels), model.schedule, model.prediction)(x, t)
    outputs = iter(output.split([len(request.x_t) for request, _ in rows]))
    predictions = []
    for request in requests:
        x0 = next(outputs)
        if len(request.passes) == 2:
            x0 = x0 + request.guidance * (next(outputs) - x0)
        low, high = model.spec.low, model.spec.high
        predictions.append(masked.to_x0(x0, request.x_t) if model.is_masked else x0.clamp(low, high))
    return predictions
