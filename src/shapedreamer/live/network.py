"""One network call for the requests of many viewers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion import masked
from ..diffusion.denoiser import Denoiser
from ..models.model import Model, NetworkFunction
from .frames import Request


def denoise(requests: Sequence[Request], model: Model, network: NetworkFunction) -> list[Tensor]:
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
