"""A network call for many requests gives each request the same result as a call of its own."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.names import Prediction
from shapedreamer.export.runtimes import eager_network, onnx_network
from shapedreamer.live.frames import Request
from shapedreamer.live.network import denoise
from shapedreamer.models.model import Model
from tests.watching import small_model

CONDITIONAL, UNCONDITIONAL = small_model(channels=3), small_model(labels=(), channels=3)


def new_request(model: Model, num: int, t: int, label: Tensor | None = None, guidance: float = 1.0) -> Request:
    return Request(model.noise(num, seed=t), torch.full((num,), t), label, guidance)


class RecordingNetwork:
    """A network that records its inputs."""

    def __init__(self, model: Model) -> None:
        self.network, self.calls = eager_network(model), list[tuple[Tensor, Tensor, Tensor | None]]()

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        self.calls.append((x, t, label))
        return self.network(x, t, label)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_one_call_equals_a_call_for_each_request(prediction: Prediction) -> None:
    model = small_model(prediction=prediction, channels=3)
    lines = torch.tensor([[0.0, 2.0, 1.0]]).expand(4, 3)
    requests = [
        new_request(model, 1, 50),
        new_request(model, 4, 7, lines),
        new_request(model, 4, 33, lines, 3.0),
        new_request(model, 1, 12, torch.eye(3)[1:2], 0.0),
        new_request(model, 16, 1, torch.eye(3)[torch.arange(16) % 3], -2.0),
        new_request(model, 4, 20, None),
    ]
    recording = RecordingNetwork(model)
    results = denoise(requests, model, recording)
    (x, t, label), *more = recording.calls
    assert not more
    assert len(x) == len(t) == 1 + 4 + 2 * 4 + 1 + 2 * 16 + 4
    assert label is not None
    for request, x0 in zip(requests, results, strict=True):
        expected = model.denoiser(request.label, request.guidance)(request.x_t, request.t)
        assert_close(x0, expected, rtol=0, atol=1e-5)
        assert -1 <= x0.min() <= x0.max() <= 1
    assert results[2].abs().max() == 1  # at least one result is clipped


def test_an_unconditional_network_is_called_without_a_label() -> None:
    recording = RecordingNetwork(UNCONDITIONAL)
    (x0,) = denoise([new_request(UNCONDITIONAL, 4, 9)], UNCONDITIONAL, recording)
    assert recording.calls[0][2] is None
    expected = UNCONDITIONAL.denoiser()(UNCONDITIONAL.noise(4, seed=9), torch.full((4,), 9))
    assert_close(x0, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [CONDITIONAL, UNCONDITIONAL], ids=["conditional", "unconditional"])
def test_onnxruntime_agrees_with_torch(model: Model) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    label = None if model.labels is None else torch.eye(3)[:2]
    requests = [new_request(model, 2, 30, label), new_request(model, 1, 9)]
    expected = denoise(requests, model, eager_network(model))
    for result, x0 in zip(denoise(requests, model, onnx_network(model)), expected, strict=True):
        assert_close(result, x0, rtol=0, atol=1e-5)
