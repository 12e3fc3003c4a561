"""Exported pipeline folders: Diffusers loads them without this package and generates the same pictures."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from torch.testing import assert_close

import shapedreamer as sd
from shapedreamer.common.errors import UserError
from shapedreamer.common.noise import Noise
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion.schedule import SCHEDULES
from shapedreamer.export.pipeline import OURS, load_pipeline, save_pipeline
from shapedreamer.export.shuffle_vae import pixel_shuffle_vae
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Sampling
from shapedreamer.networks.context_unet import ContextUnet
from shapedreamer.networks.dit import DiT
from shapedreamer.networks.unet import UNet
from tests.random_weights import randomise

diffusers = pytest.importorskip("diffusers", reason="needs the extra 'diffusers'")

# DPM-Solver's set_timesteps calls np.array(tensor), and NumPy 2 warns that torch's __array__ has no copy argument
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.usefixtures("modules_cache"),
]

NOISE_MODULES = (
    "pipelines.dit.pipeline_dit",
    "pipelines.ddpm.pipeline_ddpm",
    "schedulers.scheduling_dpmsolver_multistep",
)
LABELS = ("left", "right, up", "down")
SMALL: dict[str, Any] = {"channels": (8, 16), "groups": 4, "head_dim": 8, "attention": (1,)}


def make_model(
    sampling: Sampling, schedule: Any = "cosine", prediction: Any = "x0", size: tuple[int, int] = (8, 8), **options: Any
) -> Model:
    network = UNet(**SMALL, **options).eval()
    randomise(network)
    with torch.no_grad():
        network.conv_out.weight.mul_(0.5)  # so that not every prediction is clipped
    labels = LABELS[: network.context_size]
    spec = DataSpec("small", network.in_channels, *size, labels)
    table = torch.eye(len(labels)) if labels else None
    return Model(network, SCHEDULES[schedule](1000), prediction, spec, table, sampling, "float32")


MODELS: dict[str, Callable[[], Model]] = {
    "unconditional, not square, ddim": lambda: make_model(Sampling("ddim", 10), "linear", "eps", (8, 12)),
    "ddpm, v": lambda: make_model(Sampling("ddpm", 20), "linear", "v"),
    "dpmpp_2m, RGB": lambda: make_model(Sampling("dpmpp_2m", 10), in_channels=3),
    "zero terminal SNR": lambda: make_model(Sampling("ddim", 10), "linear_zero_snr", "v"),
    "zero terminal SNR, log_snr": lambda: make_model(
        Sampling("ddim", 10, eta=1, spacing="log_snr"), "linear_zero_snr", "v"
    ),
    "labels": lambda: make_model(Sampling("ddim", 10, eta=1), context=3),
    "labels, log_snr, patch": lambda: make_model(
        Sampling("dpmpp_2m", 24, eta=1, spacing="log_snr"), context=3, patch=2
    ),
    "head, patch 4, not square": lambda: make_model(
        Sampling("ddim", 10, eta=1), "linear", "v", (8, 16), patch=4, head=4
    ),
    "head, labels, patch 2, RGB, log_snr": lambda: make_model(
        Sampling("dpmpp_2m", 10, eta=1, spacing="log_snr"), context=3, patch=2, in_channels=3, head=4
    ),
    "head, labels, zero terminal SNR": lambda: make_model(
        Sampling("ddim", 10), "linear_zero_snr", "v", context=3, head=4
    ),
    "cubic, patch, RGB": lambda: make_model(Sampling("ddim", 4, eta=1, spacing="cubic"), patch=2, in_channels=3),
}


# the rest runs with the slow tests
FAST = ("unconditional, not square, ddim", "labels, log_snr, patch", "head, labels, patch 2, RGB, log_snr")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in MODELS])
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]()


def has_head(model: Model) -> bool:
    """Whether the exported network has its own class, which takes images of the full size."""
    network: Any = model.network
    return network.head is not None


def load(folder: Path, trust: bool = False) -> Any:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder, trust_remote_code=trust, low_cpu_mem_usage=False, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    monkeypatch: pytest.MonkeyPatch, pipeline: Any, model: Model, num: int, steps: int, **options: Any
) -> Tensor:
    """The pipeline's pictures in [0, 1], from the noise of images 0…num − 1 of seed 0."""
    network: Any = model.network
    patch = 1 if has_head(model) else network.patch
    times = iter([0, *model.times(steps)])

    def noise(shape: tuple[int, ...], **_: Any) -> Tensor:
        x = Noise(0)(next(times), like=model.noise(num))
        x = pixel_unshuffle(x, patch)
        return x.repeat(shape[0] // num, 1, 1, 1)  # with guidance, DiTPipeline has each image twice

    for place in (
        "pipelines.dit.pipeline_dit",
        "pipelines.ddpm.pipeline_ddpm",
        "schedulers.scheduling_dpmsolver_multistep",
    ):
        monkeypatch.setattr(f"diffusers.{place}.randn_tensor", noise)
    return pipeline(num_inference_steps=steps, output_type="pt", **options).images


def test_pictures_are_the_same(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pipeline(model, tmp_path / "out")
    pipeline, steps = load(tmp_path / "out", has_head(model)), model.sampling.steps
    if type(pipeline).__name__ == "DDPMPipeline":
        assert model.labels is None
        theirs = generate(monkeypatch, pipeline, model, 3, steps, batch_size=3)
        ours = model.sample(3)
    elif model.labels is None:
        theirs = generate(monkeypatch, pipeline, model, 3, steps, class_labels=[0, 0, 0], guidance_scale=1.0)
        ours = model.sample(3)
    else:
        classes = {"class_labels": [0, 2, 1000]}
        theirs = generate(monkeypatch, pipeline, model, 3, steps, **classes, guidance_scale=1.0)
        ours = model.sample(3, label=torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 0, 0]]))
    assert_close(theirs, ours / 2 + 0.5, rtol=0, atol=1e-4)
    assert theirs.std() > 0.1
    assert ((theirs > 0.01) & (theirs < 0.99)).float().mean() > 0.02  # the rest is clipped


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labels, log_snr, patch", "head, labels, patch 2, RGB, log_snr"])
def test_guidance_is_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]()
    save_pipeline(model, tmp_path / "out")
    pipeline, steps = load(tmp_path / "out", has_head(model)), model.sampling.steps
    theirs = generate(monkeypatch, pipeline, model, 2, steps, class_labels=[1, 1], guidance_scale=3.0)
    assert_close(theirs, model.sample(2, label=1, guidance=3) / 2 + 0.5, rtol=0, atol=1e-4)


def test_a_shipped_model_is_right_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = sd.load("mnist", precision="float32")
    save_pipeline(model, tmp_path / "out", shipped="mnist")
    theirs = generate(monkeypatch, load(tmp_path / "out"), model, 2, 24, class_labels=[7, 3], guidance_scale=1.0)
    assert_close(theirs, model.sample(2, label=torch.eye(10)[[7, 3]]) / 2 + 0.5, rtol=0, atol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "diffusers"\n')
    for words in ("MNIST (LeCun", "CC BY-SA", "shapedreamer train mnist", "num_inference_steps=24", "FID 0.2", "7 7"):
        assert words in card


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 25, 50, 1000])
def test_other_numbers_of_steps_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Also the default numbers of steps of the pipelines, 50 and 1000."""
    model = MODELS["labels, log_snr, patch"]()
    save_pipeline(model, tmp_path / "out")
    pipeline = load(tmp_path / "out")
    pipeline.scheduler.set_timesteps(steps)
    assert len(pipeline.scheduler.timesteps.unique()) == steps
    if steps < 1000:
        images = pipeline(class_labels=[0], num_inference_steps=steps, output_type="pt").images
        assert images.isfinite().all()


def test_a_pipeline_knows_its_labels(tmp_path: Path) -> None:
    save_pipeline(MODELS["labels"](), tmp_path / "out")
    assert load(tmp_path / "out").labels == {"left": 0, "right  up": 1, "down": 2}


def test_the_export_returns_as_the_same_model(model: Model, tmp_path: Path) -> None:
    save_pipeline(model, tmp_path / "out")
    back = load_pipeline(tmp_path / "out")
    back.precision = "float32"
    assert (back.spec, back.prediction, back.sampling) == (model.spec, model.prediction, model.sampling)
    assert torch.equal(back.schedule.alpha_bar, model.schedule.alpha_bar)
    assert_close(dict(back.network.state_dict()), dict(model.network.state_dict()), rtol=0, atol=1e-6)
    assert_close(back.sample(2), model.sample(2), rtol=0, atol=1e-4)
    back.save(tmp_path / "run")
    stored = sd.load(tmp_path / "run", precision="float32")
    weights = back.network.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in stored.network.state_dict().items())
    assert_close(stored.sample(2), back.sample(2), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("channels", "patch"), [(1, 1), (1, 2), (3, 2)])
def test_the_vae_is_pixel_shuffle(channels: int, patch: int) -> None:
    vae = pixel_shuffle_vae(channels, patch)
    z = torch.rand(3, channels * patch**2, 6, 5) * 2 - 1
    with torch.inference_mode():
        assert_close(vae.decode(z).sample, pixel_shuffle(z, patch), rtol=0, atol=3e-6)
        assert_close(vae.encode(pixel_shuffle(z, patch)).latent, z, rtol=0, atol=3e-6)


@pytest.mark.slow
def test_the_snippet_of_the_card_runs_without_this_package(tmp_path: Path) -> None:
    for name in ("unconditional, not square, ddim", "labels, log_snr, patch"):
        folder = tmp_path / name.split()[0]
        save_pipeline(MODELS[name](), folder)
        snippet = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
        code = "import sys\nsys.modules['shapedreamer'] = None\n" + snippet.replace("PATH_OR_REPOSITORY", str(folder))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "sample.png").exists()


# refusals


REFUSED: dict[str, tuple[Callable[[], Model], str]] = {
    "context_unet": (
        lambda: Model(
            ContextUnet(features=16, groups=4),
            SCHEDULES["linear"](10),
            "eps",
            DataSpec("a", 3, 8, 8, tuple("abcde")),
            torch.eye(5),
        ),
        "the network ContextUnet",
    ),
    "dit": (
        lambda: Model(DiT(width=32, depth=1, head_dim=8), SCHEDULES["linear"](10), "eps", DataSpec("a", 1, 8, 8, ())),
        "the network DiT",
    ),
    "bottleneck": (lambda: make_model(Sampling("ddim", 10), time_at="bottleneck"), "time_at='bottleneck'"),
    "patch": (lambda: make_model(Sampling("ddim", 10), patch=4), "patch=4"),
    "heun": (lambda: make_model(Sampling("heun", 10)), "the sampler heun"),
    "eta": (lambda: make_model(Sampling("ddim", 10, eta=0.5)), "eta = 0.5"),
    "not square": (lambda: make_model(Sampling("ddim", 10), context=3, size=(8, 12)), "images of 8x12 with labels"),
    "zero snr": (lambda: make_model(Sampling("dpmpp_2m", 10), "linear_zero_snr", "v"), "dpmpp_2m at zero terminal SNR"),
    "two channels": (lambda: make_model(Sampling("ddim", 10), in_channels=2), "images with 2 channels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    with pytest.raises(UserError, match="Diffusers has no counterpart for") as error:
        save_pipeline(make(), tmp_path / "out")
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


def test_another_sampler_can_be_chosen(tmp_path: Path) -> None:
    save_pipeline(make_model(Sampling("heun", 9)), tmp_path / "out", SampleOptions(sampler="ddim", steps=30))
    assert "num_inference_steps=30" in (tmp_path / "out" / "README.md").read_text()


def test_more_noise_than_diffusers_can_add_is_lowered_to_eta_1(tmp_path: Path) -> None:
    own, most = (make_model(Sampling("dpmpp_2m", 9, eta=eta, spacing="log_snr")) for eta in (1.6, 1.0))
    save_pipeline(own, tmp_path / "own")
    save_pipeline(most, tmp_path / "most")
    scheduler = Path("scheduler") / "scheduler_config.json"
    assert (tmp_path / "own" / scheduler).read_bytes() == (tmp_path / "most" / scheduler).read_bytes()
    assert "adds more noise in each step (eta 1.6)" in (tmp_path / "own" / "README.md").read_text()
    with pytest.raises(UserError, match=r"no counterpart for eta = 1\.6; choose 0 or 1"):
        save_pipeline(own, tmp_path / "asked", SampleOptions(eta=1.6))


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    for existing in ("folder", "file"):
        out = tmp_path / existing
        out.mkdir() if existing == "folder" else out.write_text("mine")
        with pytest.raises(UserError, match=f"{existing} already exists"):
            save_pipeline(MODELS["labels"](), out)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shapedreamer.export.pipeline.write_atomic", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_pipeline(MODELS["labels"](), tmp_path / "new" / "out")
    assert not list((tmp_path / "new").iterdir())


# import


def foreign(folder: Path, scheduler: Any = None, pipeline: str = "DDPMPipeline", **options: Any) -> Path:
    unet = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        **{
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        }
        | options,
    )
    randomise(unet)
    getattr(diffusers, pipeline)(unet, scheduler or diffusers.DDPMScheduler()).save_pretrained(folder)
    return folder


def test_a_pipeline_of_diffusers_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With clip_sample, our DDIM is theirs with use_clipped_model_output."""
    folder = foreign(tmp_path / "theirs", diffusers.DDIMScheduler(timestep_spacing="trailing"), "DDIMPipeline")
    model = load_pipeline(folder)
    model.precision = "float32"
    assert (model.prediction, model.sampling.sampler, model.schedule.T, model.labels) == ("eps", "ddim", 1000, None)
    monkeypatch.setattr("diffusers.pipelines.ddim.pipeline_ddim.randn_tensor", lambda *_, **__: model.noise(2))
    pipeline = load(folder)
    theirs = pipeline(batch_size=2, num_inference_steps=20, use_clipped_model_output=True, output_type="pt").images
    assert_close(theirs, model.sample(2, steps=20) / 2 + 0.5, rtol=0, atol=1e-3)  # x̂₀ = (x − σ ε̂)/α with α = 0.006
    model.save(tmp_path / "run")
    assert torch.equal(sd.load(tmp_path / "run").noise(1), model.noise(1))


def test_labels_of_a_foreign_pipeline_get_numbers(tmp_path: Path) -> None:
    model = load_pipeline(foreign(tmp_path / "theirs", num_class_embeds=4))
    assert model.spec.labels == ("0", "1", "2", "3")
    assert model.sampling.sampler == "ddpm"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta_schedule": "scaled_linear"}, "betas"),
        ({"beta_end": 0.03}, "betas"),
        ({"trained_betas": [0.1] * 1000}, "trained_betas"),
        ({"clip_sample_range": 2.0}, "clip_sample_range = 2.0"),
        ({"variance_type": "learned"}, "variance_type = learned"),
    ],
)
def test_a_scheduler_without_a_counterpart_is_refused_by_name(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    folder = foreign(tmp_path / "theirs", diffusers.DDPMScheduler(**options))
    with pytest.raises(UserError, match=words):
        load_pipeline(folder)


def test_a_network_without_a_counterpart_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="flip_sin_to_cos=False"):
        load_pipeline(foreign(tmp_path / "theirs", flip_sin_to_cos=False))


def test_a_pipeline_or_scheduler_of_another_kind_is_refused_by_name(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "theirs", diffusers.PNDMScheduler())
    with pytest.raises(UserError, match="class = PNDMScheduler"):
        load_pipeline(folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))
    with pytest.raises(UserError, match="is a FluxPipeline"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    "file",
    ["model_index.json", "scheduler/scheduler_config.json", "transformer/config.json", "transformer/*.safetensors"],
)
@pytest.mark.parametrize("damage", ["missing", "half"])
def test_a_half_downloaded_folder_is_an_error(tmp_path: Path, file: str, damage: str) -> None:
    save_pipeline(MODELS["labels"](), tmp_path / "out")
    (path,) = (tmp_path / "out").glob(file)
    content = path.read_bytes()
    path.unlink() if damage == "missing" else path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"it has no|is damaged|incomplete or damaged"):
        load_pipeline(tmp_path / "out")


def test_our_own_file_is_checked(tmp_path: Path) -> None:
    save_pipeline(MODELS["labels, log_snr, patch"](), tmp_path / "out")
    whole = json.loads((tmp_path / "out" / OURS).read_text())
    config = whole["config"]
    for change, words in (
        ({"config": 3}, "is damaged"),
        ({"times": [1.0, 2.0]}, "time_proj"),
        ({"labels": [[1.0]]}, "table of labels"),
        ({"config": config | {"recipe": config["recipe"] | {"prediction": "v"}}}, "prediction_type sample"),
    ):
        (tmp_path / "out" / OURS).write_text(json.dumps(whole | change))
        with pytest.raises(UserError, match=words):
            load_pipeline(tmp_path / "out")


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"shapedreamer\[diffusers\]"):
        save_pipeline(MODELS["labels"](), tmp_path / "out")
    with pytest.raises(UserError, match=r"shapedreamer\[diffusers\]"):
        load_pipeline(tmp_path / "out")
