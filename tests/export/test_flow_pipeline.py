"""Models with flow prediction in Diffusers: FlowMatchEulerDiscreteScheduler and a pipeline in the exported folder."""

import ast
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle
from torch.testing import assert_close

from shapedreamer.cli import with_options
from shapedreamer.common.errors import UserError
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion.schedule import SCHEDULES, flow
from shapedreamer.export.flow_parts import FLOW_PIPELINE
from shapedreamer.export.pipeline import OURS, load_pipeline, save_pipeline
from shapedreamer.models.model import Model, config_of
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Sampling
from shapedreamer.networks.dit import DiT
from shapedreamer.networks.unet import UNet
from tests.random_weights import randomise

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")

pytestmark = pytest.mark.usefixtures("modules_cache")

LABELS = ("left", "right", "up")
SMALL: dict[str, Any] = {"channels": (8, 16), "groups": 4, "head_dim": 8, "attention": (1,)}
DDIM = Sampling("ddim", 6)


def make_model(
    schedule: Any = "flow", sampling: Sampling = DDIM, size: tuple[int, int] = (8, 8), shift: float = 1, **options: Any
) -> Model:
    network = UNet(**SMALL, **options).eval()
    randomise(network)
    labels = LABELS[: network.context_size]
    spec = DataSpec("small", network.in_channels, *size, labels)
    table = torch.eye(len(labels)) if labels else None
    model = Model(network, SCHEDULES[schedule](1000), "flow", spec, table, sampling, "float32")
    if shift != 1:  # which no recipe has
        model.config, model.schedule = config_of(model), flow(1000, shift)
    return model


MODELS: dict[str, dict[str, Any]] = {
    "unconditional, not square": {"size": (8, 12)},
    "shift 3": {"shift": 3.0},
    "labels, cosine": {"schedule": "cosine", "context": 3},
    "patch 2, linear, RGB, cubic": {
        "schedule": "linear",
        "sampling": replace(DDIM, spacing="cubic"),
        "patch": 2,
        "in_channels": 3,
    },
    "patch 4, labels, not square, log_snr": {
        "sampling": replace(DDIM, spacing="log_snr"),
        "size": (16, 24),
        "patch": 4,
        "context": 3,
    },
    "head, patch 4, labels, not square": {"size": (16, 24), "patch": 4, "context": 3, "head": 4},
}


def exported(model: Model, folder: Path, **options: Any) -> Any:
    """The pipeline of a model, loaded by Diffusers from the files of an export."""
    save_pipeline(model, folder, SampleOptions(**options))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder, trust_remote_code=True, low_cpu_mem_usage=False, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latents(model: Model, num: int) -> Tensor:
    network: Any = model.network
    return pixel_unshuffle(model.noise(num), network.patch if network.head is None else 1)


@pytest.mark.parametrize("name", MODELS)
def test_flow_pictures_are_the_same(name: str, tmp_path: Path) -> None:
    model = make_model(**MODELS[name])
    pipeline = exported(model, tmp_path / "out")
    theirs = pipeline(latents=latents(model, 3), output_type="pt").images
    assert_close(theirs, model.sample(3, label=None) / 2 + 0.5, rtol=0, atol=1e-4)
    assert ((theirs > 0.01) & (theirs < 0.99)).float().mean() > 0.1  # the rest is clipped
    if model.labels is not None:
        classes = {"class_labels": [0, 2, 1000]}  # 1000: no label
        label = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 0]])
        for scale in (0.0, 1.0, 3.0):
            theirs = pipeline(latents=latents(model, 3), guidance_scale=scale, output_type="pt", **classes).images
            ours = model.sample(3, label=label, guidance=scale)
            assert_close(theirs, ours / 2 + 0.5, rtol=0, atol=1e-4)


def test_the_shift_of_a_schedule_is_applied_once(tmp_path: Path) -> None:
    model = make_model(shift=3.0)
    pipeline = exported(model, tmp_path / "out")
    pipeline(output_type="pt")
    assert pipeline.scheduler.config.shift == 1
    assert pipeline.scheduler.timesteps.tolist() == model.times(6)[:-1]
    assert_close(pipeline.scheduler.sigmas.double(), model.schedule.tau[model.times(6)], rtol=0, atol=1e-7)
    twice = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    twice.set_timesteps(sigmas=pipeline.scheduler.sigmas[:-1].tolist())
    assert (twice.sigmas - pipeline.scheduler.sigmas).abs().max() > 0.1


def test_another_number_of_steps_visits_evenly_spaced_timesteps(tmp_path: Path) -> None:
    model = make_model("cosine")
    pipeline = exported(model, tmp_path / "out", steps=4)
    assert pipeline.config.steps == 4
    theirs = pipeline(latents=latents(model, 2), num_inference_steps=12, output_type="pt").images
    assert_close(theirs, model.sample(2, steps=12) / 2 + 0.5, rtol=0, atol=1e-4)
    for steps in (0, 1001):
        with pytest.raises(ValueError, match=f"num_inference_steps must be between 1 and 1000, not {steps}"):
            pipeline(num_inference_steps=steps)


def test_other_timesteps_of_a_model_with_its_own_spacing_all_differ(tmp_path: Path) -> None:
    pipeline = exported(make_model(sampling=replace(DDIM, spacing="log_snr")), tmp_path / "out")
    for steps in (1, 7, 50, 1000):
        pipeline.set_timesteps(steps, torch.device("cpu"))
        timesteps, sigmas = pipeline.scheduler.timesteps, pipeline.scheduler.sigmas
        assert (len(timesteps), timesteps[0]) == (steps, 1000)
        assert (timesteps.diff() < 0).all()
        assert_close(sigmas[:-1], timesteps / 1000, rtol=0, atol=1e-7)  # τ = t/T for the schedule flow


def test_the_pipeline_returns_pictures_and_knows_its_labels(tmp_path: Path) -> None:
    pipeline = exported(make_model(size=(8, 12), context=3), tmp_path / "out")
    assert pipeline.labels == {"left": 0, "right": 1, "up": 2}
    first, second = (pipeline(class_labels=[1, 2], generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert [(picture.mode, picture.size) for picture in first.images] == [("L", (12, 8))] * 2
    assert [p.tobytes() for p in first.images] == [p.tobytes() for p in second.images]
    assert pipeline(batch_size=3, output_type="np").images.shape == (3, 8, 12, 1)
    unconditional = exported(make_model(), tmp_path / "unconditional")
    with pytest.raises(ValueError, match="class_embedding needs to be initialized"):
        unconditional(class_labels=[1])


@pytest.mark.parametrize(
    "name", ["unconditional, not square", "labels, cosine", "patch 4, labels, not square, log_snr"]
)
def test_a_flow_export_returns_as_the_same_model(name: str, tmp_path: Path) -> None:
    model = make_model(**MODELS[name])
    save_pipeline(model, tmp_path / "out")
    (tmp_path / "out" / "pipeline.py").write_text("raise SystemExit('an import must not run this')")
    back = load_pipeline(tmp_path / "out")
    assert (back.spec, back.prediction, back.sampling) == (model.spec, "flow", model.sampling)
    assert torch.equal(back.schedule.alpha_bar, model.schedule.alpha_bar)
    weights = model.network.state_dict()
    assert back.network.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in back.network.state_dict().items())


# the code in the folder


def test_diffusers_runs_the_code_only_if_it_is_trusted(tmp_path: Path) -> None:
    exported(make_model(), tmp_path / "out")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`trust_remote_code=True`; read the file first" in card


def test_the_code_needs_only_torch_and_diffusers(tmp_path: Path) -> None:
    save_pipeline(make_model(), tmp_path / "out")
    code = (tmp_path / "out" / "pipeline.py").read_text(encoding="utf-8")
    assert code == FLOW_PIPELINE.read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {module.split(".")[0] for module in modules} == {"torch", "diffusers"}


@pytest.mark.slow
def test_the_snippet_of_a_flow_card_runs_without_this_package(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['shapedreamer'] = None\n"
    for number, name in enumerate(("unconditional, not square", "patch 4, labels, not square, log_snr")):
        folder = tmp_path / str(number)
        save_pipeline(make_model(**MODELS[name]), folder)
        snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        code += snippet.replace("PATH_OR_REPOSITORY", str(folder)).replace("sample.png", f"{number}.png")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["0.png", "1.png"]


# refusals


@pytest.mark.parametrize(
    ("sampler", "eta"),
    [("ddim", 1.0), ("ddim", 0.5), ("dpmpp_2m", 0.0), ("ddpm", 0.0), ("heun", 0.0), ("midpoint", 0.0)],
)
def test_only_euler_on_the_line_is_exported(sampler: Any, eta: float, tmp_path: Path) -> None:
    model = make_model(sampling=Sampling(sampler, 6, eta=eta))
    with pytest.raises(UserError, match=f"no counterpart for {sampler} with eta = {eta:g} .* flow prediction") as error:
        save_pipeline(model, tmp_path / "out")
    assert "choose `sampler='ddim'` and `eta=0`" in str(error.value)
    assert "choose --sampler ddim and --eta 0" in with_options(str(error.value))
    assert not (tmp_path / "out").exists()


def test_a_model_with_another_sampler_is_exported_with_ddim(tmp_path: Path) -> None:
    model = make_model(sampling=Sampling("dpmpp_2m", 6, eta=1))
    save_pipeline(model, tmp_path / "out", SampleOptions(sampler="ddim", eta=0))
    assert load_pipeline(tmp_path / "out").sampling == model.sampling


def test_networks_without_a_counterpart_are_refused_for_flow_too(tmp_path: Path) -> None:
    dit = DiT(width=32, depth=1, head_dim=8)
    for model, words in (
        (Model(dit, SCHEDULES["flow"](10), "flow", DataSpec("a", 1, 8, 8, ()), None, DDIM), "the network DiT"),
        (make_model(time_at="bottleneck"), "time_at='bottleneck'"),
        (make_model(in_channels=2), "images with 2 channels"),
    ):
        with pytest.raises(UserError, match="Diffusers has no counterpart for") as error:
            save_pipeline(model, tmp_path / "out")
        assert words in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_flow_folder_whose_parts_disagree_is_refused(tmp_path: Path) -> None:
    save_pipeline(make_model(context=3), tmp_path / "out")
    path = tmp_path / "out" / OURS
    stored = json.loads(path.read_text())
    stored["config"]["recipe"]["prediction"] = "v"
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"prediction_type None, but .* the network predicts v"):
        load_pipeline(tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match=r"is a .*FlowPipeline.*; only DDPMPipeline"):
        load_pipeline(tmp_path / "out")
