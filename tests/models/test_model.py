"""Models load, sample, and resolve their options; samples depend only on the options and the seed."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

import shapedreamer as sd
from shapedreamer.common.device import has_fast_bf16
from shapedreamer.common.errors import UserError
from shapedreamer.common.names import Precision, SamplerName, Spacing
from shapedreamer.diffusion.schedule import cubic_times, log_snr_times, step_times
from shapedreamer.models import zoo
from shapedreamer.models.checkpoint import load_checkpoint
from shapedreamer.models.model import MAX_FLOAT32_IMAGES, Model, from_checkpoint
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Sampling
from shapedreamer.training.loop import train
from tests.tiny import CONDITIONAL, TUNED


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "run"
    train(replace(TUNED, epochs=2), out, sample_every=0, save_every=1)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return sd.load(run)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A conditional model with the labels circle, rectangle, triangle and line."""
    out = tmp_path_factory.mktemp("conditional") / "run"
    return train(replace(CONDITIONAL, epochs=2), out, sample_every=0, save_every=0)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpmpp_2m", "midpoint"])
def test_samples_match_the_spec_and_depend_on_the_seed(model: Model, sampler: SamplerName) -> None:
    images = model.sample(3, sampler=sampler, steps=5, seed=1)
    assert images.shape == (3, 1, 32, 32)
    assert images.dtype == torch.float32
    assert model.spec.check(images) is images
    assert torch.equal(images, model.sample(3, sampler=sampler, steps=5, seed=1))
    assert not torch.equal(images, model.sample(3, sampler=sampler, steps=5, seed=2))


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": 1.0}, {"sampler": "ddpm"}])
def test_the_batch_size_does_not_change_the_samples(model: Model, options: dict[str, Any]) -> None:
    """Kernels round differently at other batch sizes; 8-bit images differ by at most a few levels."""
    expected = model.sample(10, steps=10, seed=3, **options)
    for batch_size in (1, 3, 64):
        samples = model.sample(10, steps=10, seed=3, batch_size=batch_size, **options)
        assert (expected - samples).abs().max() < 0.03
        assert (expected - samples).abs().mean() < 1e-3


def test_few_images_are_computed_in_float32(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of all images of the request, so that the batch size does not matter."""
    monkeypatch.setattr("shapedreamer.common.device.has_fast_bf16", lambda device: True)
    used: list[torch.dtype] = []
    first = next(part for part in model.network.modules() if isinstance(part, nn.Conv2d))
    precise = copy.copy(model)
    precise.precision = "float32"
    with first.register_forward_hook(lambda module, inputs, output: used.append(output.dtype)):
        assert torch.equal(model.sample(MAX_FLOAT32_IMAGES, steps=2), precise.sample(MAX_FLOAT32_IMAGES, steps=2))
        *_, last = model.stream(1, steps=2)
        assert torch.equal(last.x, precise.sample(1, steps=2))
        assert set(used) == {torch.float32}
        used.clear()
        model.sample(MAX_FLOAT32_IMAGES + 1, steps=2, batch_size=1)
        assert set(used) == {torch.bfloat16}


def test_options_by_keyword_replace_those_of_sample_options(conditional: Model) -> None:
    options = SampleOptions("ddim", 7, eta=0.5, seed=3, label="circle", guidance=2.0)
    expected = conditional.sample(2, sampler="ddim", steps=7, eta=0.5, seed=3, label="circle", guidance=2.0)
    assert torch.equal(conditional.sample(2, options), expected)
    assert torch.equal(conditional.sample(2, replace(options, seed=4, steps=3), seed=3, steps=7), expected)
    assert torch.equal(list(conditional.stream(2, replace(options, label="line"), label="circle"))[-1].x, expected)
    with pytest.raises(TypeError, match="unexpected keyword argument 'stepz'"):
        conditional.sample(2, stepz=7)


def test_a_label_can_be_given_in_many_forms(conditional: Model) -> None:
    vector = torch.tensor([[2.0, 0, 0, 1]]).expand(3, -1)
    expected = conditional.sample(3, steps=5, label=vector)
    for label in ("circle=2,line=1", {"line": 1, "circle": 2}, [2, 0, 0, 1], "0=2,3=1"):
        assert torch.equal(conditional.sample(3, steps=5, label=label), expected)
    assert not torch.equal(conditional.sample(3, steps=5, label="triangle"), expected)
    assert not torch.equal(conditional.sample(3, steps=5), expected)
    unconditional = conditional.sample(3, steps=5, label=None)
    assert torch.equal(unconditional, conditional.sample(3, steps=5, label=[0, 0, 0, 0]))
    assert torch.equal(unconditional, conditional.sample(3, steps=5, label="none"))


def test_by_default_labels_are_drawn_from_the_data(conditional: Model, model: Model) -> None:
    assert conditional.labels is not None
    held_out = CONDITIONAL.make_data()[1]
    assert torch.equal(conditional.labels, held_out.batch(torch.arange(len(conditional.labels)))[1])
    drawn = conditional.label_vectors("any", 2000, seed=5)
    assert drawn is not None
    possible = {tuple(label) for label in conditional.labels.tolist()}
    assert {tuple(label) for label in drawn.tolist()} <= possible
    torch.testing.assert_close(drawn.mean(0), conditional.labels.mean(0), rtol=0, atol=0.1)
    expected = conditional.sample(3, steps=5, seed=5, label=drawn[:3])
    assert torch.equal(conditional.sample(3, steps=5, seed=5), expected)
    assert torch.equal(conditional.label_vectors("any", 3, seed=5, first=7), drawn[7:10])  # type: ignore[arg-type]
    other = conditional.label_vectors("any", 2000, seed=6)
    assert other is not None
    assert not torch.equal(other, drawn)
    assert model.label_vectors("any", 2) is None  # an unconditional model has no labels to draw from


def test_a_class_may_be_named_any_or_none(conditional: Model) -> None:
    spec = replace(conditional.spec, labels=("any", "none", "some", "all"))
    model = Model(conditional.network, conditional.schedule, conditional.prediction, spec, conditional.labels)
    for index, name in enumerate(spec.labels):
        assert torch.equal(model.label_vectors(name, 1), torch.eye(4)[[index]])  # type: ignore[arg-type]


def test_every_image_keeps_its_own_label_at_any_batch_size(conditional: Model) -> None:
    labels = torch.eye(4)
    expected = conditional.sample(4, steps=5, label=labels)
    for batch_size in (1, 3):
        assert (conditional.sample(4, steps=5, label=labels, batch_size=batch_size) - expected).abs().max() < 0.03
    assert (conditional.sample(4, steps=5, label="rectangle")[1] - expected[1]).abs().max() < 0.03


def test_guidance_1_is_conditional_and_guidance_0_unconditional(conditional: Model) -> None:
    with_label, without = (conditional.sample(3, steps=5, label=label) for label in ("circle", None))
    assert torch.equal(conditional.sample(3, steps=5, label="circle", guidance=1), with_label)
    assert torch.equal(conditional.sample(3, steps=5, label="circle", guidance=0), without)
    assert not torch.equal(conditional.sample(3, steps=5, label="circle", guidance=3), with_label)


def test_the_guided_denoiser_follows_the_formula_and_is_clipped(conditional: Model) -> None:
    x, t, label = conditional.noise(2, seed=1), torch.tensor([20, 50]), torch.eye(4)[:2]
    network, schedule = conditional.network, conditional.schedule
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(conditional.device)):
        with_label, without = network(x, t, label).float(), network(x, t).float()  # both are x̂₀
    assert conditional.prediction == "x0"
    assert schedule.T == 50
    expected = (without + 2.5 * (with_label - without)).clamp(-1, 1)
    torch.testing.assert_close(conditional.denoiser(label, 2.5)(x, t), expected)


def test_invalid_labels_and_guidance_are_rejected(conditional: Model, model: Model) -> None:
    for invalid, message in (
        ({"label": "cat"}, "no label 'cat'; there are: circle, rectangle, triangle, line"),
        ({"label": [1, 2]}, r"has 4 numbers \(circle, rectangle, triangle, line\), not 2"),
        ({"label": torch.zeros(2, 4)}, r"labels for 3 images must be \(3, 4\), not \(2, 4\)"),
        ({"label": None, "guidance": 2.0}, "guidance 2 needs a label"),
        ({"label": "circle", "guidance": float("nan")}, "guidance must be finite"),
    ):
        with pytest.raises(UserError, match=message):
            conditional.sample(3, **invalid)
    with pytest.raises(UserError, match="trained without labels"):
        model.sample(3, label="circle")


def test_the_stream_ends_with_the_sample_and_yields_ordinary_tensors(model: Model) -> None:
    steps = list(model.stream(2, steps=7, seed=4))
    assert [s.t for s in steps][-1] == 0
    assert len(steps) == 7
    assert torch.equal(steps[-1].x, model.sample(2, steps=7, seed=4))
    steps[0].x.add_(1)  # no inference tensors: users may modify them or compute gradients
    steps[0].x0.requires_grad_()


def test_sampling_uses_the_averaged_weights_by_default(run: Path, model: Model) -> None:
    checkpoint = load_checkpoint(run / "checkpoints" / "best.safetensors")
    for which, state in (("ema", checkpoint.ema), ("raw", checkpoint.network)):
        loaded = sd.load(run, which=which).network.state_dict()  # type: ignore[arg-type]
        assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert torch.equal(model.sample(2, steps=3), sd.load(run, which="ema").sample(2, steps=3))
    assert not torch.equal(model.sample(2, steps=3), sd.load(run, which="raw").sample(2, steps=3))


def test_a_checkpoint_file_can_be_loaded_without_its_run(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes((run / "checkpoints" / "epoch-0002.safetensors").read_bytes())
    assert sd.load(copy).spec == sd.load(run).spec


@pytest.mark.parametrize("name", [name for name in zoo.names() if name.endswith("-turbo")])
def test_shipped_few_step_models_load_with_their_stored_keys_old_or_new(name: str) -> None:
    with safe_open(zoo.path(name), "pt") as file:
        stored = json.loads(file.metadata()["config"])["recipe"]
    recipe = load_checkpoint(zoo.path(name)).config.recipe
    assert recipe.teacher == stored["teacher"] is not None
    assert recipe.dmd_weight == stored.get("match", stored.get("dmd_weight", 0.0))
    assert recipe.terminal_share == stored.get("pure", stored.get("terminal_share", 0.7))
    model = sd.load(name, device="cpu")
    assert model.sampling == recipe.sampling
    spec = model.spec
    assert model.sample(1, steps=1).shape == (1, spec.channels, spec.height, spec.width)


def test_a_run_without_a_best_checkpoint_loads_the_latest(run: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "latest.safetensors").write_bytes((run / "checkpoints" / "latest.safetensors").read_bytes())
    assert sd.load(tmp_path / "run").sample(1, steps=2).shape == (1, 1, 32, 32)


def test_x0_is_clipped_to_the_range_of_the_data(model: Model) -> None:
    denoise = model.denoiser()
    x = 50 * torch.randn(2, 1, 32, 32)
    x0: Tensor = denoise(x, torch.tensor([50, 1]))
    assert x0.abs().max() <= 1


def with_sampling(model: Model, sampling: Sampling) -> Model:
    return Model(model.network, model.schedule, model.prediction, model.spec, sampling=sampling)


def test_options_that_are_none_use_the_models_defaults(model: Model) -> None:
    assert model.sampling == Sampling("ddim", 20, 0.0)
    stochastic = with_sampling(model, Sampling("ddim", 7, 1.0))
    expected = model.sample(2, sampler="ddim", steps=7, eta=1.0, seed=3)
    assert torch.equal(stochastic.sample(2, seed=3), expected)
    assert torch.equal(stochastic.sample(2, steps=7, seed=3), expected)
    for changes in ({"steps": 5}, {"eta": 0.0}):
        options: dict[str, Any] = {"steps": 7, "eta": 1.0} | changes
        assert torch.equal(stochastic.sample(2, seed=3, **changes), model.sample(2, sampler="ddim", seed=3, **options))
    assert torch.equal(stochastic.sample(2, sampler="heun", seed=3), model.sample(2, sampler="heun", steps=7, seed=3))
    assert with_sampling(model, Sampling(steps=1000)).resolve_sampling(SampleOptions()).steps == model.schedule.T == 50
    with pytest.raises(UserError, match="heun has no eta"):
        with_sampling(model, Sampling("heun")).sample(1, eta=0.5)


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_the_network_runs_in_bfloat16_only_with_auto_precision_on_a_fast_device(
    model: Model, precision: Precision
) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(32))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            product = x @ self.weight
            dtypes.add(product.dtype)
            return product

    dtypes: set[torch.dtype] = set()
    Model(Product(), model.schedule, "x0", model.spec, precision=precision).sample(MAX_FLOAT32_IMAGES + 1, steps=2)
    fast = precision == "auto" and has_fast_bf16(model.device)
    assert dtypes == {torch.bfloat16 if fast else torch.float32}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_samplers_use_the_models_spacing(model: Model, sampler: SamplerName) -> None:
    T, start = model.schedule.T, model.schedule.T - 3
    expected: dict[Spacing, list[list[int]]] = {
        "even": [step_times(T, 6), step_times(start, 6)],
        "cubic": [cubic_times(T, 6), cubic_times(start, 6)],
        "log_snr": [log_snr_times(model.schedule, 6), log_snr_times(model.schedule, 6, start)],
    }
    for spacing, (times, times_from_start) in expected.items():
        spaced = Model(model.network, model.schedule, "x0", model.spec, sampling=Sampling(spacing=spacing))
        assert [step.t for step in spaced.stream(1, sampler=sampler, steps=6)] == times[1:]
        assert torch.equal(spaced.sample(2, sampler=sampler, steps=6), model.sample(2, sampler=sampler, steps=times))
        assert spaced.times(6, start) == times_from_start
        assert len(list(spaced.stream(1, sampler="heun", steps=6))) == 4  # six network calls
    assert len({str(times) for times, _ in expected.values()}) == 3


def test_a_model_takes_its_default_sampling_from_the_recipe(run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run / "checkpoints" / "best.safetensors")
    recipe = replace(checkpoint.config.recipe, sampling=Sampling("heun", 9))
    loaded = from_checkpoint(replace(checkpoint, config=replace(checkpoint.config, recipe=recipe)), "ema")
    assert loaded.sampling == Sampling("heun", 9)


def test_invalid_options_are_rejected(model: Model, tmp_path: Path) -> None:
    for invalid, message in (
        (
            {"sampler": "euler"},
            "unknown sampler 'euler'; choose one of ddpm, ddim, heun, dpmpp_2m, midpoint, heun_line, "
            "masked_ancestral, masked_random, masked_confidence",
        ),
        ({"steps": 51}, "steps must be between 1 and 50, not 51"),
        ({"steps": 0}, "steps must be between 1 and 50, not 0"),
        ({"num": 0}, "num must be at least 1, not 0"),
        ({"eta": 2.5}, r"eta must be between 0 and 2, not 2\.5"),
        ({"sampler": "heun", "eta": 0.5}, "heun has no eta; the samplers ddim and dpmpp_2m have one"),
        ({"seed": -1}, "seed must be between 0 and 2⁶⁴−1, not -1"),
    ):
        with pytest.raises(UserError, match=message):
            model.sample(**invalid)
    with pytest.raises(UserError, match="there is no run"):
        sd.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="there is no checkpoint"):
        sd.load(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available")
def test_an_unavailable_device_is_rejected(run: Path) -> None:
    with pytest.raises(UserError, match=r"cuda is not available.*cpu"):
        sd.load(run, device="cuda")


# a model as an object


def test_a_saved_model_loads_as_the_same_model(conditional: Model, tmp_path: Path) -> None:
    for path in (str(tmp_path / "copy.safetensors"), tmp_path / "new" / "run"):
        conditional.save(path)
        copy = sd.load(path)
        assert (copy.config, copy.spec, copy.sampling) == (conditional.config, conditional.spec, conditional.sampling)
        assert copy.labels is not None
        assert conditional.labels is not None
        assert torch.equal(copy.labels, conditional.labels)
        assert torch.equal(copy.sample(2), conditional.sample(2))
    with pytest.raises(UserError, match=r"run already exists"):
        conditional.save(tmp_path / "new" / "run")
    conditional.save(tmp_path / "copy.safetensors")  # a file is replaced
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.safetensors", "new"]


def test_a_model_made_by_hand_can_be_saved(conditional: Model, tmp_path: Path) -> None:
    made = Model(
        conditional.network, sd.schedule.linear(50), "v", conditional.spec, conditional.labels, Sampling("ddim", 3)
    )
    made.save(tmp_path / "made.safetensors")
    copy = sd.load(tmp_path / "made.safetensors")
    assert copy.config is not None
    assert copy.config.recipe.schedule == "linear"
    assert torch.equal(copy.schedule.alpha_bar, made.schedule.alpha_bar)
    assert torch.equal(copy.sample(2), made.sample(2))
    other = Model(conditional.network, sd.schedule.linear(50, beta_end=0.5), "v", conditional.spec)
    with pytest.raises(UserError, match="the schedule is none of linear, cosine, linear_zero_snr, flow"):
        other.save(tmp_path / "other.safetensors")


def test_to_moves_a_model_and_returns_it(conditional: Model) -> None:
    assert conditional.to("cpu") is conditional
    assert conditional.to(torch.device("cpu")).device.type == "cpu"
    with pytest.raises(UserError, match="unknown device 'tpu'"):
        conditional.to("tpu")  # type: ignore[arg-type]


def test_the_repr_says_what_a_model_is(conditional: Model, model: Model) -> None:
    for part in ("shapes", "32×32, grey", "circle, rectangle", "UNet", "x₀", "ddim", "device: cpu"):
        assert part in repr(conditional)
    assert "labels: none" in repr(model)
    assert "\n" not in repr(model)


def test_explore_takes_a_path_and_strings(conditional: Model, tmp_path: Path) -> None:
    conditional.save(tmp_path / "m.safetensors")
    sd.explore(str(tmp_path / "m.safetensors"), "vary", str(tmp_path / "a.png"), 2, SampleOptions(steps=2))
    sd.explore(conditional, "inpaint", str(tmp_path / "b.png"), 1, SampleOptions(steps=2), region="0,0,4,4")
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / "b.png").exists()
    with pytest.raises(UserError, match="unknown mode 'paint'"):
        sd.explore(conditional, "paint", tmp_path / "c.png")  # type: ignore[arg-type]
