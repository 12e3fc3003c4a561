"""The faster of torch and onnxruntime runs the network, and the images stay the same."""

import copy
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.export import runtimes
from shapedreamer.export.runtimes import eager_network, fast_for_few, fastest_network
from shapedreamer.models.model import MAX_FLOAT32_IMAGES, Model, NetworkFunction
from tests.watching import small_model

CONDITIONAL, UNCONDITIONAL = small_model(channels=3), small_model(labels=(), channels=3)


def test_networks_run_in_float32_even_where_bfloat16_is_faster() -> None:
    x, t = UNCONDITIONAL.noise(1), torch.ones(1)
    with torch.inference_mode():
        expected = UNCONDITIONAL.network(x, t)
    prediction = eager_network(UNCONDITIONAL)(x, t)
    assert prediction.dtype == torch.float32
    assert_close(prediction, expected, rtol=0, atol=1e-6)


def use_networks(
    monkeypatch: pytest.MonkeyPatch,
    eager_seconds: Callable[[int, int], float],
    onnx_seconds: Callable[[int, int], float],
) -> dict[str, NetworkFunction]:
    """Networks that return x, and take as long as these functions of (calls before, images) say."""
    now = 0.0

    def network_taking(seconds: Callable[[int, int], float]) -> NetworkFunction:
        calls = 0

        def run(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
            nonlocal now, calls
            now += seconds(calls, len(x))
            calls += 1
            return x

        return run

    eager, onnx = network_taking(eager_seconds), network_taking(onnx_seconds)
    monkeypatch.setattr(runtimes, "eager_network", lambda model: eager)
    monkeypatch.setattr(runtimes, "onnx_network", lambda model: onnx)
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    return {"eager": eager, "onnxruntime": onnx}


@pytest.mark.parametrize(("eager_seconds", "onnx_seconds", "name"), [(2.0, 1.0, "onnxruntime"), (1.0, 2.0, "eager")])
def test_the_runtime_whose_fastest_call_is_faster_is_chosen(
    monkeypatch: pytest.MonkeyPatch, eager_seconds: float, onnx_seconds: float, name: str
) -> None:
    last = runtimes.TRIALS - 1
    networks = use_networks(
        monkeypatch,
        lambda call, images: eager_seconds if call == last else 1000.0,
        lambda call, images: onnx_seconds if call == last else 100.0,
    )
    chosen, chosen_name = fastest_network(UNCONDITIONAL)
    assert chosen_name == name
    assert chosen is networks[name]


def test_the_runtime_is_chosen_for_each_number_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = use_networks(monkeypatch, lambda call, images: 3.0 + images, lambda call, images: 0.5 + 2.0 * images)
    model = fast_for_few(UNCONDITIONAL)
    assert model.for_few == {num: networks["onnxruntime" if num < 3 else "eager"] for num in (1, 2, 3, 4)}
    assert not UNCONDITIONAL.for_few


class Counting:
    """A model's network, which records the number of images of each call."""

    def __init__(self, model: Model) -> None:
        self.model, self.network, self.images = model, eager_network(model), list[int]()

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.images.append(len(x))
        return self.network(x, t, label)


def test_few_images_come_from_the_faster_runtime_and_more_from_torch() -> None:
    network, model = Counting(CONDITIONAL), copy.copy(CONDITIONAL)
    model.for_few, called = dict.fromkeys((1, 2, MAX_FLOAT32_IMAGES), network), network.images
    for num in (1, MAX_FLOAT32_IMAGES):
        called.clear()
        images = model.sample(num, steps=3, label="any")
        assert called == [num] * 3
        assert torch.equal(images, CONDITIONAL.sample(num, steps=3, label="any"))
    called.clear()
    model.sample(2, steps=2, batch_size=1)
    assert called == [1] * 4
    called.clear()
    model.sample(3, steps=2)  # here torch is faster
    model.sample(MAX_FLOAT32_IMAGES + 1, steps=2)
    model.sample(2 * MAX_FLOAT32_IMAGES, steps=2, batch_size=1)
    assert not called


@pytest.mark.slow
def test_few_images_are_the_same_in_onnxruntime() -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    for model in (CONDITIONAL, UNCONDITIONAL):
        faster = fast_for_few(model)
        faster.for_few = dict.fromkeys(faster.for_few, runtimes.onnx_network(model))
        for num in (1, 3):
            assert_close(faster.sample(num, steps=4), model.sample(num, steps=4), rtol=0, atol=1e-4)


def test_networks_run_in_torch_without_the_extra_export(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(model: Model) -> NetworkFunction:
        raise UserError("this needs onnxscript: pip install 'shapedreamer[export]'")

    monkeypatch.setattr(runtimes, "onnx_network", missing)
    chosen, name = fastest_network(UNCONDITIONAL)
    assert name == "eager"
    assert chosen(UNCONDITIONAL.noise(1), torch.ones(1), None).shape == (1, 3, 8, 8)
    assert "shapedreamer[export]" in caplog.text
    with pytest.raises(UserError, match="export"):
        fast_for_few(UNCONDITIONAL)
