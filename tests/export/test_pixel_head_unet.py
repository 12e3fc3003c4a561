"""Networks with a head in Diffusers: a class of their own in the exported folder."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion.schedule import SCHEDULES
from shapedreamer.export.network_part import HEAD_CODE, NULL_CLASS, TRUNK, export_network
from shapedreamer.export.pipeline import OURS, load_pipeline, save_pipeline
from shapedreamer.models.model import Model
from shapedreamer.models.recipes import Sampling
from shapedreamer.networks.unet import UNet
from tests.random_weights import randomise

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")

pytestmark = pytest.mark.usefixtures("modules_cache")

TIMES = torch.tensor([1, 2, 500, 1000])
LABELS = ("left", "right", "up")


def make_model(patch: int = 2, context: int = 3, schedule: Any = "cosine", prediction: Any = "x0") -> Model:
    options: dict[str, Any] = {"channels": (8, 16), "groups": 4, "head_dim": 8, "attention": (1,)}
    network = UNet(**options, patch=patch, context=context, head=4).eval()
    randomise(network)
    spec = DataSpec("small", 1, 16, 16, LABELS[:context])
    table = torch.eye(context) if context else None
    return Model(network, SCHEDULES[schedule](1000), prediction, spec, table, Sampling("ddim", 4), "float32")


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("context", [0, 3])
@torch.inference_mode()
def test_both_networks_compute_the_same_function(patch: int, context: int) -> None:
    from shapedreamer.export.pixel_head_unet import PixelHeadUNet

    model = make_model(patch, context)
    part: Any = export_network(model)
    theirs = PixelHeadUNet(**part.config).eval()
    theirs.load_state_dict(part.state)
    x = model.noise(len(TIMES))
    label = torch.tensor([0, 2, 1, 0]) if context else None
    assert_close(theirs(x, TIMES - 1, label).sample, model.network(x, TIMES, label), rtol=0, atol=1e-5)
    assert_close(theirs(x, 499, label, return_dict=False)[0], theirs(x, torch.full((4,), 499), label).sample)
    if context:
        no_label = torch.full((4,), NULL_CLASS)
        assert_close(theirs(x, TIMES - 1, no_label).sample, model.network(x, TIMES), rtol=0, atol=1e-5)
    coarse = theirs.unet(torch.nn.functional.pixel_unshuffle(x, patch), TIMES - 1, label).sample
    without_head = torch.nn.functional.pixel_shuffle(coarse, patch)
    assert (model.network(x, TIMES, label) - without_head).abs().mean() > 0.01


@pytest.mark.parametrize("prediction", ["x0", "flow"])
def test_import_reads_the_weights_and_runs_no_code(prediction: str, tmp_path: Path) -> None:
    model = make_model(schedule="flow" if prediction == "flow" else "cosine", prediction=prediction)
    save_pipeline(model, tmp_path / "out")
    codes = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.py")}
    part = "unet" if prediction == "flow" else "transformer"
    assert codes == {f"{part}/{HEAD_CODE.name}"} | ({"pipeline.py"} if prediction == "flow" else set())
    for code in codes:
        (tmp_path / "out" / code).write_text("raise SystemExit('an import must not run this')")
    back, weights = load_pipeline(tmp_path / "out"), model.network.state_dict()
    assert (back.spec, back.prediction, back.sampling) == (model.spec, model.prediction, model.sampling)
    assert_close(dict(back.network.state_dict()), dict(weights), rtol=0, atol=0 if prediction == "flow" else 1e-6)
    assert all(torch.equal(back.network.state_dict()[name], weights[name]) for name in weights if "head" in name)


def test_the_folder_has_only_code_json_and_safetensors(tmp_path: Path) -> None:
    save_pipeline(make_model(), tmp_path / "out")
    endings = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert endings == {".json", ".safetensors", ".py", ".md"}
    (weights,) = (tmp_path / "out" / "transformer").glob("*.safetensors")
    assert {name.partition(".")[0] + "." for name in load_file(weights)} == {TRUNK, "head."}


def test_diffusers_runs_the_class_only_if_it_is_trusted(tmp_path: Path) -> None:
    save_pipeline(make_model(), tmp_path / "out")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`trust_remote_code=True`; read the file first" in card
    assert 'from_pretrained("PATH_OR_REPOSITORY", trust_remote_code=True)' in card


def test_the_class_needs_only_torch_and_diffusers(tmp_path: Path) -> None:
    save_pipeline(make_model(), tmp_path / "out")
    code = (tmp_path / "out" / "transformer" / HEAD_CODE.name).read_text(encoding="utf-8")
    assert code == HEAD_CODE.read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {module.split(".")[0] for module in modules} == {"typing", "torch", "diffusers"}


@pytest.mark.parametrize("file", ["config.json", "*.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "half"])
def test_a_half_downloaded_head_is_an_error(file: str, damage: str, tmp_path: Path) -> None:
    save_pipeline(make_model(), tmp_path / "out")
    (path,) = (tmp_path / "out" / "transformer").glob(file)
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"it has no|is damaged|incomplete or damaged"):
        load_pipeline(tmp_path / "out")


def test_a_head_that_the_configuration_lacks_is_refused(tmp_path: Path) -> None:
    save_pipeline(make_model(), tmp_path / "out")
    path = tmp_path / "out" / OURS
    stored = json.loads(path.read_text())
    stored["config"]["recipe"]["network"]["head"] = 0
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"the network of .* is not that of shapedreamer.json: .*head\.conv"):
        load_pipeline(tmp_path / "out")
    path.unlink()
    with pytest.raises(UserError, match="is a DiTPipeline; only DDPMPipeline"):
        load_pipeline(tmp_path / "out")


def test_a_class_of_another_package_is_refused(tmp_path: Path) -> None:
    save_pipeline(make_model(context=0), tmp_path / "out")
    (tmp_path / "out" / OURS).unlink()
    with pytest.raises(
        UserError, match=r"the unet of .* is \['pixel_head_unet', 'PixelHeadUNet'\]; only a UNet2DModel"
    ):
        load_pipeline(tmp_path / "out")


@pytest.mark.slow
def test_the_snippet_of_a_card_with_a_head_runs_without_this_package(tmp_path: Path) -> None:
    code = "import sys\nsys.modules['shapedreamer'] = None\n"
    models = (make_model(patch=4), make_model(patch=1, context=0), make_model(schedule="flow", prediction="flow"))
    for number, model in enumerate(models):
        folder = tmp_path / str(number)
        save_pipeline(model, folder)
        snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        code += snippet.replace("PATH_OR_REPOSITORY", str(folder)).replace("sample.png", f"{number}.png")
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["0.png", "1.png", "2.png"]
