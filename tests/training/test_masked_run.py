"""A masked model from its recipe to its pictures: trained, resumed, sampled from, edited, exported, and refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import shapedreamer as sd
from shapedreamer.common.errors import UserError
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion import masked
from shapedreamer.diffusion.denoiser import with_label
from shapedreamer.export.onnx import OnnxNetwork, save_onnx, to_onnx
from shapedreamer.export.pipeline import save_pipeline
from shapedreamer.export.runtimes import eager_network
from shapedreamer.imaging.comparison import compare_epochs
from shapedreamer.imaging.editing import inpaint, interpolate, vary
from shapedreamer.imaging.figures import write_samples
from shapedreamer.live.frames import Denoising, inpainting, sampling, varying
from shapedreamer.live.network import denoise
from shapedreamer.live.settings import model_info
from shapedreamer.live.site import build_site
from shapedreamer.models.checkpoint import RunConfig, load_checkpoint
from shapedreamer.models.metrics import read_metrics
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import NoiseLevels, Sampling, get_recipe, with_overrides
from shapedreamer.training.loop import train, training_density, training_loss
from tests.tiny import CONDITIONAL

RECIPE = with_overrides(CONDITIONAL, process="masked", epochs=2, lr_decay=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masked") / "run"
    train(RECIPE, out, sample_every=0, save_every=1)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return sd.load(run, precision="float32")


def is_black_and_white(images: Tensor) -> bool:
    return bool((images.abs() == 1).all())


# recipes


def test_the_masked_process_brings_its_own_settings_which_can_be_overridden() -> None:
    for recipe in (sd.recipes.shapes(process="masked"), sd.recipes.shapes(process="masked", textbook=True)):
        assert (recipe.process, recipe.prediction, recipe.weight) == ("masked", "x0", "simple")
        assert recipe.sampling.sampler == "masked_ancestral"
        assert recipe.noise_levels is None
    levels, sampling = NoiseLevels(-3, 1, 0.1), Sampling("masked_random", 8)
    recipe = get_recipe("patterns", process="masked", noise_levels=levels, sampling=sampling, timesteps=100)
    assert (recipe.noise_levels, recipe.sampling, recipe.timesteps) == (levels, sampling, 100)
    assert with_overrides(recipe, process="masked") == recipe


def test_recipes_are_gaussian_unless_they_say_otherwise() -> None:
    assert sd.recipes.shapes().process == "gaussian"
    assert with_overrides(CONDITIONAL, process="gaussian") == CONDITIONAL


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mnist", "those of mnist may have shades of grey"),
        ("fashion_mnist", "those of fashion_mnist may have shades of grey"),
        ("sprites", "those of sprites may have colours"),
    ],
)
def test_images_with_more_than_two_values_are_refused(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"{reason}: use the recipe shapes or patterns, or process gaussian"):
        get_recipe(name, process="masked")
    recipe = replace(RECIPE, name=name, data=get_recipe(name).data)
    with pytest.raises(UserError, match=reason):
        recipe.make_data()
    with pytest.raises(UserError, match="those of folder may have shades of grey"):
        get_recipe("folder", data="pictures", process="masked")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prediction": "eps"}, "use prediction x0 and weight simple, not eps and simple"),
        ({"weight": "min_snr"}, "use prediction x0 and weight simple, not x0 and min_snr"),
        ({"sampling": Sampling("ddim")}, "the sampler ddim does not work with a masked model; use masked_ancestral or"),
        ({"process": "hidden"}, "unknown process 'hidden'"),
    ],
)
def test_settings_of_the_other_process_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        replace(RECIPE, **changes)
    with pytest.raises(UserError, match="the sampler masked_random does not work with a gaussian model; use ddpm or"):
        replace(CONDITIONAL, sampling=Sampling("masked_random"))


def test_training_minimises_the_bound() -> None:
    image_loss, weight = training_loss(RECIPE)
    schedule = RECIPE.make_schedule()
    assert image_loss is masked.loss
    assert torch.equal(weight, masked.loss_weight(schedule))
    assert torch.equal(training_density(RECIPE), masked.timestep_distribution(schedule))
    levels = replace(RECIPE, noise_levels=NoiseLevels(-2, 1, 0.0))
    assert not torch.equal(training_density(levels), training_density(RECIPE))


# runs


def test_a_run_learns_and_its_loss_starts_near_log_2(run: Path) -> None:
    losses = [record["loss"] for record in read_metrics(run) if "loss" in record]
    assert abs(losses[0] - 0.69) < 0.05
    assert losses[-1] < losses[0]
    stored = json.loads((run / "config.json").read_text())["recipe"]
    assert stored["process"] == "masked"
    assert load_checkpoint(run / "checkpoints" / "best.safetensors").config.recipe.process == "masked"


@pytest.mark.slow
def test_a_resumed_run_has_the_same_bits(run: Path, tmp_path: Path) -> None:
    train(replace(RECIPE, epochs=1), tmp_path / "run", sample_every=0, save_every=0)
    train(RECIPE, tmp_path / "run", resume=True, sample_every=0, save_every=0)
    ours, other = (load_checkpoint(folder / "checkpoints" / "latest.safetensors") for folder in (run, tmp_path / "run"))
    assert all(torch.equal(ours.network[name], other.network[name]) for name in ours.network)


def test_a_file_without_a_process_is_a_gaussian_one(run: Path) -> None:
    config = json.loads(
        RunConfig(CONDITIONAL, load_checkpoint(run / "checkpoints/best.safetensors").config.data).to_json()
    )
    del config["recipe"]["process"]
    assert RunConfig.from_json(json.dumps(config), "old").recipe == CONDITIONAL


# models


@pytest.mark.parametrize("sampler", masked.SAMPLERS)
def test_samples_are_black_and_white_and_do_not_depend_on_the_batch(model: Model, sampler: Any) -> None:
    options = SampleOptions(sampler, steps=6, seed=3)
    images = model.sample(5, options)
    assert is_black_and_white(images)
    assert (images == model.sample(5, options, batch_size=2)).double().mean() > 0.999  # rounding may flip a pixel
    assert not torch.equal(images, model.sample(5, replace(options, seed=4)))
    steps = list(model.stream(2, options))
    assert len(steps) == 6
    assert (steps[0].x == 0).any()


def test_labels_guidance_and_eta_change_the_samples(model: Model) -> None:
    options = SampleOptions(steps=6, label="circle")
    images = model.sample(4, options)
    changes: list[dict[str, Any]] = [
        {"label": "line"},
        {"guidance": 3.0},
        {"guidance": 0.0},
        {"eta": 0.5},
        {"label": None},
    ]
    for change in changes:
        changed = model.sample(4, replace(options, **change))
        assert is_black_and_white(changed)
        assert not torch.equal(images, changed)
    assert torch.equal(model.sample(4, replace(options, guidance=0.0)), model.sample(4, replace(options, label=None)))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"sampler": "ddim"},
            "the sampler ddim does not work with a masked model; use masked_ancestral or masked_random",
        ),
        ({"sampler": "masked_random", "eta": 0.5}, "masked_random has no eta; the sampler masked_ancestral has one"),
        ({"steps": 51}, "steps must be between 1 and 50, not 51"),
    ],
)
def test_invalid_options_are_refused(model: Model, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        model.sample(1, **changes)


def test_the_facts_name_the_process_and_a_saved_model_stays_masked(model: Model, tmp_path: Path) -> None:
    assert model.facts()["prediction"] == "hidden pixels"
    by_hand = Model(model.network, model.schedule, "x0", model.spec, model.labels, model.sampling, process="masked")
    by_hand.save(tmp_path / "copy.safetensors")
    copy = sd.load(tmp_path / "copy.safetensors", precision="float32")
    assert copy.is_masked
    assert torch.equal(copy.sample(2, steps=5), model.sample(2, steps=5))


# editing, pictures, comparison


def test_inpainting_keeps_the_visible_pixels(model: Model) -> None:
    image = model.sample(1, steps=5)
    keep = torch.arange(32).expand(32, -1) < 16
    for sampler in masked.SAMPLERS:
        results = inpaint(model, 0.5 * image, keep, 3, SampleOptions(sampler, steps=5))
        assert is_black_and_white(results)
        assert torch.equal(results[..., :16], image[..., :16].expand(3, -1, -1, -1))
    assert not torch.equal(results[0], results[1])


def test_variations_keep_most_pixels_at_an_early_timestep_and_few_at_a_late_one(model: Model) -> None:
    image = model.sample(1, steps=5, seed=8)
    early, late = (vary(model, image, t, 2, SampleOptions(steps=5)) for t in (2, 49))
    assert is_black_and_white(early)
    assert (early == image).double().mean() > (late == image).double().mean() + 0.02
    assert model.diffuse(image, 50).unique().tolist() == [0]


def test_interpolation_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match="two seeds does not work with a masked model; vary a sample instead"):
        interpolate(model)


@pytest.mark.slow
def test_pictures_and_animations_show_how_pixels_appear(model: Model, tmp_path: Path) -> None:
    paths = write_samples(model, tmp_path / "a.png", 4, SampleOptions(steps=5), show_process=True)
    paths += write_samples(model, tmp_path / "a.gif", 4, SampleOptions(steps=5))
    assert all(path.stat().st_size > 100 for path in paths)


@pytest.mark.slow
def test_compare_has_rows_of_masked_samplers(run: Path, model: Model) -> None:
    rows = sd.compare(model, num=2)
    assert [row.name for row in rows] == [
        *("masked_ancestral", "masked_ancestral", "masked_random", "masked_confidence"),
        "masked_ancestral, eta 0.1",
    ]
    assert [row.calls for row in rows] == [50, 16, 16, 16, 16]
    assert all(is_black_and_white(row.images) for row in rows)
    assert [row.name for row in compare_epochs(run, [0, 1], 2, None)] == ["epoch 0", "epoch 1"]
    with pytest.raises(UserError, match="does not work with a masked model; leave out `without_noise=True`"):
        sd.compare(model, num=2, without_noise=True)


# exports


@pytest.mark.slow
def test_the_network_is_exported_but_not_its_sampler_and_not_to_diffusers(model: Model, tmp_path: Path) -> None:
    for module in ("onnxscript", "onnxruntime"):
        pytest.importorskip(module)
    to_onnx(model, tmp_path / "a.onnx")
    network = OnnxNetwork(tmp_path / "a.onnx")
    assert (network.process, network.prediction) == ("masked", "x0")
    denoise_onnx = masked.denoiser(with_label(network, None))
    x_t, t = model.diffuse(model.sample(2, steps=5), 40), torch.full((2,), 40)
    torch.testing.assert_close(denoise_onnx(x_t, t), model.denoiser()(x_t, t), rtol=1e-4, atol=1e-4)
    save_onnx(model, tmp_path / "folder")
    assert "predicts a logit for each hidden pixel" in (tmp_path / "folder" / "README.md").read_text()
    with pytest.raises(UserError, match="the sampler masked_ancestral cannot be exported; export the network alone"):
        to_onnx(model, tmp_path / "b.onnx", sampler=True)
    with pytest.raises(UserError, match="Diffusers has no counterpart for the masked process"):
        save_pipeline(model, tmp_path / "pipeline")


# refusals of other tools


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (lambda run, out: sd.distill(run, out), "cannot distill a masked model: .* sample from this one with fewer"),
        (lambda run, out: sd.diagnose(run), "the doctor cannot examine; measure it with `shapedreamer evaluate` inst"),
        (lambda run, out: build_site(out, [str(run)]), "with a masked model; serve it with `shapedreamer live .*run`"),
        (lambda run, out: sd.load(run).sample(guidance_interval=(0, 1)), "leave out `guidance_interval`"),
    ],
    ids=["distill", "doctor", "site", "guidance"],
)
def test_what_has_no_meaning_is_refused(
    run: Path, tmp_path: Path, use: Callable[[Path, Path], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shapedreamer.live.site._runtime_files", lambda runtime: pytest.fail("downloaded first"))
    with pytest.raises(UserError, match=reason):
        use(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# the live page's engine


def finish(denoising: Denoising[Any], model: Model) -> Any:
    """Answer the requests of a coroutine as the engine does."""
    network = eager_network(model)
    try:
        request = next(denoising)
        while True:
            (x0,) = denoise([request], model, network)
            request = denoising.send(x0)
    except StopIteration as done:
        return done.value


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_the_engine_generates_the_librarys_images(model: Model, guidance: float) -> None:
    options = SampleOptions("masked_ancestral", 6, 0.2, 5, "circle", guidance)
    (last,) = finish(sampling(model, 2, options), model)
    assert (last.x == model.sample(2, options)).double().mean() > 0.999
    image, keep = model.sample(1, steps=5), torch.arange(32).expand(32, -1) < 16
    varied = finish(varying(model, image, 40, 2, options, 77), model)
    assert (varied == vary(model, image, 40, 2, options, 77)).double().mean() > 0.999
    painted = finish(inpainting(model, image * 0.3, keep, 2, options), model)
    assert (painted == inpaint(model, image, keep, 2, options)).double().mean() > 0.999
    assert is_black_and_white(painted)


def test_the_page_learns_the_process(model: Model) -> None:
    info = model_info("masked", model)
    assert (info["process"], info["about"]) == ("masked", "a masked model of shapes")
    assert info["alpha_bar"] == masked.visibility(model.schedule).tolist()
    hidden = 1 - masked.visibility(model.schedule)[info["creativity"]]  # type: ignore[index]
    assert 0.95 <= hidden < 1


def test_requests_of_several_viewers_share_a_call(model: Model) -> None:
    calls: list[int] = []
    network = eager_network(model)

    def counting(x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        calls.append(len(x))
        assert (t == 0).all()
        return network(x, t, label)

    options = [SampleOptions(steps=4, label="circle", guidance=g, seed=s) for g, s in ((1.0, 1), (2.0, 2), (0.0, 3))]
    requests = [next(sampling(model, 2, option)) for option in options]
    together = denoise(requests, model, counting)
    assert calls == [8]
    for option, request, x0 in zip(options, requests, together, strict=True):
        alone = model.denoiser_for(2, option)(request.x_t, request.t)
        torch.testing.assert_close(x0, alone, rtol=1e-4, atol=1e-5)


def test_noise_of_a_variation_is_that_of_the_images_numbers(model: Model) -> None:
    image = model.sample(3, steps=5)
    x_t = model.diffuse(image, 20, seed=4, first=9)
    eps = Noise(4, 9)(0, like=image)
    assert torch.equal(x_t, masked.hide(image, 20, eps, model.schedule))
    assert torch.equal(model.noise(3, 4), torch.zeros_like(image))
