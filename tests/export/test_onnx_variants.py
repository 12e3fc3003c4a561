"""ONNX files with a sampler inside and with smaller weights; the folder with its card and script."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import WeightPrecision
from shapedreamer.common.noise import Noise
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion.schedule import SCHEDULES
from shapedreamer.export.onnx import SCRIPT, OnnxNetwork, save_onnx, to_onnx
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Sampling
from shapedreamer.networks.unet import UNet
from tests.random_weights import randomise

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

SMALL: dict[str, Any] = {"channels": (8, 16), "groups": 4, "head_dim": 8, "attention": (1,)}


def make_model(sampling: Sampling, schedule: Any = "cosine", prediction: Any = "x0", context: int = 0) -> Model:
    network = UNet(**SMALL, context=context, patch=2).eval()
    randomise(network)
    with torch.no_grad():
        network.conv_out.weight.mul_(0.5)  # so that not every prediction is clipped
    spec = DataSpec("small", 1, 8, 12, tuple("abc")[:context])
    table = torch.eye(context) if context else None
    return Model(network, SCHEDULES[schedule](200), prediction, spec, table, sampling, "float32")


def noise_for(model: Model, num: int, steps: int) -> Tensor:
    """The noise that model.sample uses: x_T, and with eta above 0 what each step adds."""
    x_T = model.noise(num)
    if model.sampling.sampler != "ddpm" and not model.sampling.eta:
        return x_T
    return torch.stack([Noise(0)(t, like=x_T) for t in [0, *model.times(steps)[:-2]]])


def run(file: Path, **inputs: Any) -> Tensor:
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: np.asarray(value) for name, value in inputs.items()})[0])


MODELS: dict[str, tuple[Any, ...]] = {
    "ddim, eps": (Sampling("ddim", 5), "linear", "eps"),
    "ddpm, v": (Sampling("ddpm", 7), "cosine", "v"),
    "dpmpp_2m, labels": (Sampling("dpmpp_2m", 9, eta=1, spacing="log_snr"), "cosine", "x0", 3),
    "dpmpp_2m, much noise": (Sampling("dpmpp_2m", 9, eta=1.6, spacing="log_snr"), "cosine", "x0"),
    "ddim, zero terminal SNR": (Sampling("ddim", 4, eta=0.3, spacing="cubic"), "linear_zero_snr", "v"),
}
slow_but_one = [pytest.param(name, marks=[pytest.mark.slow] * (name != "dpmpp_2m, labels"), id=name) for name in MODELS]


@pytest.mark.parametrize("name", slow_but_one)
def test_one_run_of_the_file_samples(name: str, tmp_path: Path) -> None:
    model = make_model(*MODELS[name])
    to_onnx(model, tmp_path / "model.onnx", sampler=True)
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    about = json.loads({entry.key: entry.value for entry in proto.metadata_props}["sampling"])
    assert about == {
        "sampler": model.sampling.sampler,
        "eta": model.sampling.eta,
        "steps": model.sampling.steps,
        "max_steps": 100,
    }
    for num, steps in ((1, model.sampling.steps), (3, 12), (2, 1), (2, 100)):
        inputs: dict[str, Any] = {"noise": noise_for(model, num, steps), "steps": steps}
        label: Any = None
        if model.labels is not None:
            label = inputs["label"] = torch.eye(3)[torch.arange(num) % 3]
        ours = model.sample(num, steps=steps, label=label)
        tolerance = 1e-5 if model.prediction == "x0" else 1e-4  # for eps and v, x̂₀ is a difference of large numbers
        assert_close(run(tmp_path / "model.onnx", **inputs), ours, rtol=0, atol=tolerance)
        assert ours.std() > 0.1


@pytest.mark.slow
def test_too_many_steps_or_too_little_noise_is_an_error(tmp_path: Path) -> None:
    model = make_model(*MODELS["dpmpp_2m, labels"])
    to_onnx(model, tmp_path / "model.onnx", sampler=True, options=SampleOptions(sampler="ddim", eta=1))
    for noise, steps in ((101, 101), (4, 5)):
        inputs = {"noise": np.zeros((noise, 1, 1, 8, 12), np.float32), "steps": steps}
        with pytest.raises(Exception, match=r"out of data bounds|out of range|indices element"):
            run(tmp_path / "model.onnx", **inputs, label=np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("sampler", [False, True])
@pytest.mark.slow
def test_smaller_weights(sampler: bool, tmp_path: Path) -> None:
    model = make_model(Sampling("ddim", 10), context=3)

    def export(precision: WeightPrecision) -> tuple[int, Tensor]:
        """The size of the file, and its output."""
        path = tmp_path / f"{precision}.onnx"
        to_onnx(model, path, sampler=sampler, precision=precision)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        if sampler:
            return path.stat().st_size, run(path, noise=model.noise(3), steps=10, label=torch.eye(3))
        return path.stat().st_size, OnnxNetwork(path)(model.noise(3), torch.tensor([200, 50, 1]))

    weights = 4 * sum(parameter.numel() for parameter in model.network.parameters())
    whole_size, whole = export("float32")
    cases: tuple[tuple[WeightPrecision, float, float], ...] = (("half", 0.6, 0.02), ("int8", 0.45, 0.2))
    for precision, ratio, tolerance in cases:
        size, small = export(precision)
        assert whole_size - size > (1 - ratio) * weights
        assert 0 < (whole - small).abs().mean() < tolerance


@pytest.mark.slow
def test_the_folder_has_one_file_a_card_and_a_short_script(tmp_path: Path) -> None:
    model = make_model(*MODELS["dpmpp_2m, labels"])
    save_onnx(model, tmp_path / "out", sampler=True, precision="half")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.onnx", "sample.py"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "onnx"\n')
    assert SCRIPT in card
    assert "float16" in card
    lines = [line for line in SCRIPT.splitlines() if line and not line.startswith(("#", "import", "from"))]
    assert len(lines) <= 20
    code = (
        "import sys\nsys.modules.update(torch=None, shapedreamer=None)\nimport runpy\nrunpy.run_path('out/sample.py')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "samples.png").exists()


def test_the_docs_show_the_script() -> None:
    docs = Path(__file__).parents[2] / "docs" / "export.md"
    assert f"```python\n{SCRIPT}```" in docs.read_text(encoding="utf-8")


@pytest.mark.slow
def test_without_a_sampler_there_is_no_script(tmp_path: Path) -> None:
    save_onnx(make_model(Sampling("heun", 5)), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "model.onnx"]


def test_heun_is_refused_by_name_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the sampler heun cannot be exported"):
        save_onnx(make_model(Sampling("heun", 5)), tmp_path / "out", sampler=True)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} already exists")):
        save_onnx(make_model(Sampling("ddim", 5)), tmp_path)
