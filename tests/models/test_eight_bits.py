"""Weights in 8 bits: the error is at most half a step, products are exact in float16, and damage is an error."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from shapedreamer.common.errors import UserError
from shapedreamer.models import eight_bits, zoo
from shapedreamer.models.checkpoint import load_checkpoint, save_checkpoint
from shapedreamer.models.eight_bits import from_eight_bits, to_eight_bits


def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, generator=generator) * torch.logspace(-3, 1, 6).view(-1, 1, 1, 1)
    weight[2] = 0
    return {"conv.weight": weight, "conv.bias": torch.randn(6, generator=generator), "count": torch.tensor([[3]])}


def test_every_weight_is_within_half_a_step_of_its_channel() -> None:
    before, after = state(), from_eight_bits(to_eight_bits(state()))
    weight = before["conv.weight"]
    largest = weight.flatten(1).abs().amax(1)
    step = largest / 127 * (1 + 2**-3)  # rounding the scale up to 4 bits adds an eighth at most
    error = (after["conv.weight"].float() - weight).abs().flatten(1).amax(1)
    assert (error <= step / 2 + 1e-12).all()
    assert not after["conv.weight"][2].any()
    assert torch.equal(after["conv.bias"], before["conv.bias"].half())
    assert torch.equal(after["count"], before["count"])
    assert after.keys() == before.keys()


def test_the_products_are_float16_numbers() -> None:
    stored = to_eight_bits(state())
    exact = stored["conv.weight"].double() * stored["conv.weight.scale"].double().view(-1, 1, 1, 1)
    assert torch.equal(from_eight_bits(stored)["conv.weight"].double(), exact)
    assert stored["conv.weight"].abs().max() <= 127


def test_weights_in_8_bits_do_not_change_when_they_are_stored_again() -> None:
    once = from_eight_bits(to_eight_bits(state()))
    assert all(torch.equal(a, b) for a, b in zip(once.values(), from_eight_bits(once).values(), strict=True))


def test_a_checkpoint_with_8_bits_is_loaded_as_float16(tmp_path: Path) -> None:
    original = load_checkpoint(zoo.path("sprites-epoch-0"))
    save_checkpoint(tmp_path, "small", original.config, 7, {}, to_eight_bits(original.ema), 0.5, original.labels)
    loaded = load_checkpoint(tmp_path / "small.safetensors")
    assert loaded.ema.keys() == original.ema.keys()
    assert {value.dtype for value in loaded.ema.values()} == {torch.float16}
    assert (tmp_path / "small.safetensors").stat().st_size < 0.6 * zoo.path("sprites-epoch-0").stat().st_size


@pytest.mark.parametrize(
    "scale", [None, torch.ones(6), torch.ones(5).half(), torch.ones(6, 1).half()], ids=["none", "float32", "5", "6x1"]
)
def test_weights_without_their_scales_are_an_error(scale: Tensor | None) -> None:
    stored = to_eight_bits(state())
    del stored["conv.weight.scale"]
    if scale is not None:
        stored["conv.weight.scale"] = scale
    with pytest.raises(UserError, match=r"conv\.weight are damaged: they have no scale for each channel"):
        from_eight_bits(stored)


def test_8_bit_scalars_and_too_many_weights_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="are damaged"):
        from_eight_bits({"x": torch.zeros(3, dtype=torch.int8), "x.scale": torch.ones(3).half()})
    monkeypatch.setattr(eight_bits, "MAX_PARAMETERS", 269)
    with pytest.raises(UserError, match="too many: at most 269"):
        from_eight_bits(to_eight_bits(state()))
