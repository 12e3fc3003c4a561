"""A GPU samples and trains like the CPU. `python -m benchmarks.gpu` runs these tests with its measurements."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import shapedreamer as sd
from shapedreamer.common.names import DeviceName
from shapedreamer.models.checkpoint import read_metrics
from shapedreamer.models.recipes import Recipe
from shapedreamer.training.loop import train
from tests.tiny import CONDITIONAL, TINY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU: DeviceName = "cuda"


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run) if "loss" in record]


@pytest.mark.parametrize("name", ["shapes", "mnist"])
def test_a_gpu_samples_the_images_of_the_cpu(name: str) -> None:
    """In float32; a GPU computes convolutions in TF32."""
    models = [sd.load(name, device=device, precision="float32") for device in ("cpu", GPU)]
    ours, theirs = (model.sample(4, seed=1, steps=4) for model in models)
    assert theirs.device.type == "cpu"
    assert (ours - theirs).abs().mean() < 0.02


def test_a_gpu_samples_in_bfloat16() -> None:
    assert sd.load("shapes", device=GPU).sample(4, steps=4).isfinite().all()


@pytest.mark.parametrize("recipe", [TINY, CONDITIONAL], ids=["tiny", "conditional"])
def test_a_gpu_learns_as_the_cpu_does(tmp_path: Path, recipe: Recipe) -> None:
    cpu, gpu = tmp_path / "cpu", tmp_path / "gpu"
    train(recipe, cpu, device="cpu", sample_every=0, save_every=0)
    train(recipe, gpu, device=GPU, sample_every=0, save_every=0)
    assert losses(gpu) == pytest.approx(losses(cpu), rel=0.05)


def test_a_run_of_a_gpu_resumes_on_the_cpu(tmp_path: Path) -> None:
    recipe = replace(TINY, threads=1)
    train(recipe, tmp_path, device=GPU, sample_every=0, save_every=0, max_minutes=0)
    train(recipe, tmp_path, device="cpu", sample_every=0, save_every=0, resume=True)
    assert len(losses(tmp_path)) == recipe.steps
