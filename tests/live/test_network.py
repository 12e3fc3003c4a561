"""Running networks: many questions in one call are answered as each alone, by the way that is fastest."""

import time

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import Prediction
from shapedreamer.live import network
from shapedreamer.live.frames import Ask
from shapedreamer.live.network import Network, answer, eager, fastest
from shapedreamer.models.model import Model
from tests.watching import small

TOLD, BARE = small(channels=3), small(labels=(), channels=3)


def ask(model: Model, num: int, t: int, label: Tensor | None = None, guidance: float = 1.0) -> Ask:
    return Ask(model.noise(num, seed=t), torch.full((num,), t), label, guidance)


class Counted:
    """A network that keeps what it is asked."""

    def __init__(self, model: Model) -> None:
        self.network, self.calls = eager(model), list[tuple[Tensor, Tensor, Tensor | None]]()

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        self.calls.append((x, t, label))
        return self.network(x, t, label)


@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_one_call_answers_as_many_calls_would(prediction: Prediction) -> None:
    model = small(prediction=prediction, channels=3)
    lines = torch.tensor([[0.0, 2.0, 1.0]]).expand(4, 3)
    asks = [
        ask(model, 1, 50),
        ask(model, 4, 7, lines),
        ask(model, 4, 33, lines, 3.0),
        ask(model, 1, 12, torch.eye(3)[1:2], 0.0),
        ask(model, 16, 1, torch.eye(3)[torch.arange(16) % 3], -2.0),
        ask(model, 4, 20, None),
    ]
    counted = Counted(model)
    together = answer(asks, model, counted)
    (x, t, label), *more = counted.calls
    assert not more
    assert len(x) == len(t) == 1 + 4 + 2 * 4 + 1 + 2 * 16 + 4
    assert label is not None
    for its, x0 in zip(asks, together, strict=True):
        assert_close(x0, model.denoiser(its.label, its.guidance)(its.x_t, its.t), rtol=0, atol=1e-5)
        assert -1 <= x0.min() <= x0.max() <= 1
    assert together[2].abs().max() == 1  # so that to clip is to change


def test_a_network_without_labels_is_told_none() -> None:
    counted = Counted(BARE)
    (x0,) = answer([ask(BARE, 4, 9)], BARE, counted)
    assert counted.calls[0][2] is None
    assert_close(x0, BARE.denoiser()(BARE.noise(4, seed=9), torch.full((4,), 9)), rtol=0, atol=1e-5)


def test_networks_run_in_float32_where_products_could_be_in_bfloat16() -> None:
    x, t = BARE.noise(1), torch.ones(1)
    with torch.inference_mode():
        expected = BARE.network(x, t)
    assert eager(BARE)(x, t, None).dtype == torch.float32
    assert_close(eager(BARE)(x, t, None), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("eager_takes", "onnx_takes", "name"), [(2.0, 1.0, "onnxruntime"), (1.0, 2.0, "eager")])
def test_the_fastest_way_is_taken(
    monkeypatch: pytest.MonkeyPatch, eager_takes: float, onnx_takes: float, name: str
) -> None:
    now = 0.0

    def lasting(seconds: list[float]) -> Network:
        rest = iter(seconds)

        def run(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            nonlocal now
            now += next(rest)
            return x

        return run

    slow_at_first = [100.0, *[1000.0] * (network.TRIALS - 2)]
    ways = {"eager": lasting([*slow_at_first, eager_takes]), "onnx": lasting([*slow_at_first, onnx_takes])}
    monkeypatch.setattr(network, "eager", lambda model: ways["eager"])
    monkeypatch.setattr(network, "onnx", lambda model: ways["onnx"])
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    found, found_name = fastest(BARE)
    assert found_name == name
    assert found is ways[name.removesuffix("runtime")]


def test_without_the_extra_a_network_runs_in_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(model: Model) -> Network:
        raise UserError("this needs onnxscript: pip install 'shapedreamer[export]'")

    monkeypatch.setattr(network, "onnx", missing)
    found, name = fastest(BARE)
    assert name == "eager"
    assert found(BARE.noise(1), torch.ones(1), None).shape == (1, 3, 8, 8)
    assert "shapedreamer[export]" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("model", [TOLD, BARE], ids=["told", "bare"])
def test_onnxruntime_says_the_same(model: Model) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    label = None if model.labels is None else torch.eye(3)[:2]
    asks = [ask(model, 2, 30, label), ask(model, 1, 9)]
    for x0, expected in zip(answer(asks, model, network.onnx(model)), answer(asks, model, eager(model)), strict=True):
        assert_close(x0, expected, rtol=0, atol=1e-5)
    found, name = fastest(model)
    assert name in ("eager", "onnxruntime")
    assert_close(answer(asks, model, found)[0], answer(asks, model, eager(model))[0], rtol=0, atol=1e-5)
