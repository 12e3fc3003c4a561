"""A transformer goes through everything that a U-Net does: training, resuming, sampling, saving, distilling."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import shapedreamer as sd
from shapedreamer.models.recipes import DiTConfig
from shapedreamer.networks.dit import DiT
from shapedreamer.training.loop import train
from shapedreamer.training.optim import hidden_matrices
from tests.tiny import CONDITIONAL

RECIPE = replace(CONDITIONAL, network=DiTConfig(patch=8, width=32, depth=2, head_dim=8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("transformer") / "run"
    train(RECIPE, out, sample_every=0, save_every=0)
    return out


def test_a_trained_transformer_loads_samples_and_saves(run: Path, tmp_path: Path) -> None:
    model = sd.load(run)
    assert isinstance(model.network, DiT)
    assert model.network.context_size == 4
    assert model.facts()["network"] == "DiT"
    images = model.sample(2, steps=2, label="circle=1", guidance=2.0)
    assert images.shape == (2, 1, 32, 32)
    assert not torch.equal(images, model.sample(2, steps=2, label="line=1", guidance=2.0))
    model.config = None  # as if made by hand
    model.save(tmp_path / "x.safetensors")
    assert torch.equal(sd.load(tmp_path / "x.safetensors").sample(2, steps=2, label="circle=1", guidance=2.0), images)


def test_muon_trains_the_hidden_matrices_of_a_transformer() -> None:
    network = DiT(patch=8, width=32, depth=1, head_dim=8, context=4)
    hidden = {id(p) for p in hidden_matrices(network)}
    names = {name for name, p in network.named_parameters() if id(p) in hidden}
    block = {f"blocks.0.{layer}.weight" for layer in ("time", "qkv", "out", "linear1", "linear2")}
    assert names == block | {"time.linear1.weight", "time.linear2.weight", "time_out.weight"}


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    train(RECIPE, tmp_path / "run", sample_every=0, save_every=0, max_minutes=0)
    model = train(RECIPE, tmp_path / "run", resume=True, sample_every=0, save_every=0)
    whole = sd.load(run / "checkpoints/latest.safetensors").network.state_dict()
    assert all(torch.equal(value, whole[key]) for key, value in model.network.state_dict().items())


@pytest.mark.slow
def test_a_transformer_can_be_distilled(run: Path, tmp_path: Path) -> None:
    student = sd.distill(run, tmp_path / "turbo", steps=2, epochs=1, dmd_weight=0.5, sample_every=0)
    assert isinstance(student.network, DiT)
    assert student.sample(2, label="circle=1").isfinite().all()
    teacher = sd.load(run).network.state_dict()
    assert any(not torch.equal(value, teacher[key]) for key, value in student.network.state_dict().items())
