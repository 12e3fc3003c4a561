"""A loaded model gives the pictures that its seed, and nothing else, decides."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import shapedreamer as sd
from shapedreamer.common.device import has_fast_bf16
from shapedreamer.common.errors import UserError
from shapedreamer.common.names import Precision, SamplerName, Spacing
from shapedreamer.diffusion.schedule import cubic_times, log_snr_times, step_times
from shapedreamer.models.checkpoint import load_checkpoint
from shapedreamer.models.model import Model, from_checkpoint
from shapedreamer.models.recipes import Sampling
from shapedreamer.training.loop import train
from tests.tiny import FALLING, TOLD


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "run"
    train(replace(FALLING, epochs=2), out, sample_every=0, save_every=1)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return sd.load(run)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpmpp_2m"])
def test_images_are_as_the_spec_says(model: Model, sampler: SamplerName) -> None:
    images = model.sample(3, sampler=sampler, steps=5, seed=1)
    assert images.shape == (3, 1, 32, 32)
    assert images.dtype == torch.float32
    assert model.spec.check(images) is images
    assert torch.equal(images, model.sample(3, sampler=sampler, steps=5, seed=1))
    assert not torch.equal(images, model.sample(3, sampler=sampler, steps=5, seed=2))


@pytest.mark.parametrize("how", [{"eta": 0.0}, {"eta": 1.0}, {"sampler": "ddpm"}])
def test_the_batch_size_does_not_change_the_pictures(model: Model, how: dict[str, float]) -> None:
    """Kernels round differently at other batch sizes; the 8-bit pictures differ in no more than a shade or two."""
    whole = model.sample(10, steps=10, seed=3, **how)  # type: ignore[arg-type]
    for batch_size in (1, 3, 64):
        again = model.sample(10, steps=10, seed=3, batch_size=batch_size, **how)  # type: ignore[arg-type]
        assert (whole - again).abs().max() < 0.03
        assert (whole - again).abs().mean() < 1e-3


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model that is told labels: circle, rectangle, triangle, line."""
    return train(replace(TOLD, epochs=2), tmp_path_factory.mktemp("told") / "run", sample_every=0, save_every=0)


def test_a_label_can_be_said_in_many_ways(told: Model) -> None:
    vector = torch.tensor([[2.0, 0, 0, 1]]).expand(3, -1)
    expected = told.sample(3, steps=5, label=vector)
    for label in ("circle=2,line=1", {"line": 1, "circle": 2}, [2, 0, 0, 1], "0=2,3=1"):
        assert torch.equal(told.sample(3, steps=5, label=label), expected)
    assert not torch.equal(told.sample(3, steps=5, label="triangle"), expected)
    assert not torch.equal(told.sample(3, steps=5), expected)
    assert torch.equal(told.sample(3, steps=5, label=None), told.sample(3, steps=5, label=[0, 0, 0, 0]))
    assert torch.equal(told.sample(3, steps=5, label=None), told.sample(3, steps=5, label="none"))


def test_unless_told_otherwise_labels_come_as_in_the_data(told: Model, model: Model) -> None:
    assert told.labels is not None
    assert torch.equal(told.labels, TOLD.make_data()[1].batch(torch.arange(len(told.labels)))[1])
    drawn = told.label_vectors("any", 2000, seed=5)
    assert drawn is not None
    possible = {tuple(label) for label in told.labels.tolist()}
    assert {tuple(label) for label in drawn.tolist()} <= possible
    torch.testing.assert_close(drawn.mean(0), told.labels.mean(0), rtol=0, atol=0.1)
    assert torch.equal(told.sample(3, steps=5, seed=5), told.sample(3, steps=5, seed=5, label=drawn[:3]))
    assert torch.equal(told.label_vectors("any", 3, seed=5, first=7), drawn[7:10])  # type: ignore[arg-type]
    other = told.label_vectors("any", 2000, seed=6)
    assert other is not None
    assert not torch.equal(other, drawn)
    assert model.label_vectors("any", 2) is None  # of none there is none to draw


def test_a_label_that_is_called_any_or_none_is_a_label(told: Model) -> None:
    spec = replace(told.spec, labels=("any", "none", "some", "all"))
    model = Model(told.network, told.schedule, told.prediction, spec, told.labels)
    for place, name in enumerate(spec.labels):
        assert torch.equal(model.label_vectors(name, 1), torch.eye(4)[[place]])  # type: ignore[arg-type]


def test_every_image_has_its_own_label_whatever_the_batch(told: Model) -> None:
    labels = torch.eye(4)
    whole = told.sample(4, steps=5, label=labels)
    for batch_size in (1, 3):
        assert (told.sample(4, steps=5, label=labels, batch_size=batch_size) - whole).abs().max() < 0.03
    assert (told.sample(4, steps=5, label="rectangle")[1] - whole[1]).abs().max() < 0.03


def test_guidance_1_is_the_label_and_0_is_none(told: Model) -> None:
    plain, without = told.sample(3, steps=5, label="circle"), told.sample(3, steps=5, label=None)
    assert torch.equal(told.sample(3, steps=5, label="circle", guidance=1), plain)
    assert torch.equal(told.sample(3, steps=5, label="circle", guidance=0), without)
    assert not torch.equal(told.sample(3, steps=5, label="circle", guidance=3), plain)


def test_the_guided_denoiser_is_the_formula_clipped(told: Model) -> None:
    x, t, label = told.noise(2, seed=1), torch.tensor([20, 50]), torch.eye(4)[:2]
    network, schedule = told.network, told.schedule
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(told.device)):
        conditional, unconditional = network(x, t, label).float(), network(x, t).float()  # this one predicts x₀
    assert told.prediction == "x0"
    assert schedule.T == 50
    expected = (unconditional + 2.5 * (conditional - unconditional)).clamp(-1, 1)
    torch.testing.assert_close(told.denoiser(label, 2.5)(x, t), expected)


def test_labels_that_make_no_sense_are_named(told: Model, model: Model) -> None:
    for wrong, says in (
        ({"label": "cat"}, "no label 'cat'; there are: circle, rectangle, triangle, line"),
        ({"label": [1, 2]}, r"has 4 numbers \(circle, rectangle, triangle, line\), not 2"),
        ({"label": torch.zeros(2, 4)}, r"labels for 3 images are \(3, 4\), not \(2, 4\)"),
        ({"label": None, "guidance": 2.0}, "guidance 2 needs a label"),
        ({"label": "circle", "guidance": float("nan")}, "guidance must be finite"),
    ):
        with pytest.raises(UserError, match=says):
            told.sample(3, **wrong)
    with pytest.raises(UserError, match="trained without labels"):
        model.sample(3, label="circle")


def test_the_stream_ends_in_the_sample_and_leaves_ordinary_tensors(model: Model) -> None:
    steps = list(model.stream(2, steps=7, seed=4))
    assert [s.t for s in steps][-1] == 0
    assert len(steps) == 7
    assert torch.equal(steps[-1].x, model.sample(2, steps=7, seed=4))
    steps[0].x.add_(1)  # a learner may write on what comes out
    steps[0].x0.requires_grad_()


def test_sampling_uses_the_averaged_weights(run: Path, model: Model) -> None:
    """The averaged weights are the default and differ from the raw ones, which can be asked for."""
    checkpoint = load_checkpoint(run / "checkpoints" / "best.safetensors")
    for which, state in (("ema", checkpoint.ema), ("raw", checkpoint.network)):
        loaded = sd.load(run, which=which).network.state_dict()  # type: ignore[arg-type]
        assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert torch.equal(model.sample(2, steps=3), sd.load(run, which="ema").sample(2, steps=3))
    assert not torch.equal(model.sample(2, steps=3), sd.load(run, which="raw").sample(2, steps=3))


def test_a_checkpoint_can_be_moved_away_and_loaded_alone(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "mine.safetensors"
    alone.write_bytes((run / "checkpoints" / "epoch-0002.safetensors").read_bytes())
    assert sd.load(alone).spec == sd.load(run).spec


def test_a_run_without_best_loads_its_latest(run: Path, tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "latest.safetensors").write_bytes((run / "checkpoints" / "latest.safetensors").read_bytes())
    assert sd.load(tmp_path / "run").sample(1, steps=2).shape == (1, 1, 32, 32)


def test_x0_is_clipped_to_the_range_of_the_data(model: Model) -> None:
    denoise = model.denoiser()
    x = 50 * torch.randn(2, 1, 32, 32)
    x0: Tensor = denoise(x, torch.tensor([50, 1]))
    assert x0.abs().max() <= 1


def test_what_is_not_said_is_as_the_model_is_best_sampled(model: Model) -> None:
    assert model.sampling == Sampling("ddim", 20, 0.0)
    lively = Model(model.network, model.schedule, model.prediction, model.spec, sampling=Sampling("ddim", 7, 1.0))
    expected = model.sample(2, "ddim", 7, 1.0, seed=3)
    assert torch.equal(lively.sample(2, seed=3), expected)
    assert torch.equal(lively.sample(2, steps=7, seed=3), expected)
    assert torch.equal(lively.sample(2, steps=5, seed=3), model.sample(2, "ddim", 5, 1.0, seed=3))
    assert torch.equal(lively.sample(2, eta=0.0, seed=3), model.sample(2, "ddim", 7, 0.0, seed=3))
    assert torch.equal(lively.sample(2, "heun", seed=3), model.sample(2, "heun", 7, seed=3))  # which has no eta
    many = Model(model.network, model.schedule, model.prediction, model.spec, sampling=Sampling(steps=1000))
    assert many.chosen(None, None, None).steps == model.schedule.T == 50
    rigid = Model(model.network, model.schedule, model.prediction, model.spec, sampling=Sampling("heun"))
    with pytest.raises(UserError, match="heun has none"):
        rigid.sample(1, eta=0.5)


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_the_network_runs_in_bfloat16_where_that_is_fast_and_not_in_float32(model: Model, precision: Precision) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(32))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            product = x @ self.weight
            kinds.add(product.dtype)
            return product

    kinds: set[torch.dtype] = set()
    Model(Product(), model.schedule, "x0", model.spec, precision=precision).sample(1, steps=2)
    fast = precision == "auto" and has_fast_bf16(model.device)
    assert kinds == {torch.bfloat16 if fast else torch.float32}


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m"])
def test_the_spacing_of_a_model_is_that_of_its_steps(model: Model, sampler: SamplerName) -> None:
    T, start = model.schedule.T, model.schedule.T - 3
    wanted: dict[Spacing, list[list[int]]] = {
        "even": [step_times(T, 6), step_times(start, 6)],
        "cubic": [cubic_times(T, 6), cubic_times(start, 6)],
        "log_snr": [log_snr_times(model.schedule, 6), log_snr_times(model.schedule, 6, start)],
    }
    for spacing, (times, late) in wanted.items():
        spaced = Model(model.network, model.schedule, "x0", model.spec, sampling=Sampling(spacing=spacing))
        assert [step.t for step in spaced.stream(1, sampler, 6)] == times[1:]
        assert torch.equal(spaced.sample(2, sampler, 6), model.sample(2, sampler, times))
        assert spaced.times(6, start) == late
        assert len(list(spaced.stream(1, "heun", 6))) == 4  # six calls
    assert len({str(times) for times, _ in wanted.values()}) == 3


def test_a_recipe_says_how_its_model_is_sampled(run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(run / "checkpoints" / "best.safetensors")
    recipe = replace(checkpoint.config.recipe, sampling=Sampling("heun", 9))
    loaded = from_checkpoint(replace(checkpoint, config=replace(checkpoint.config, recipe=recipe)), "ema")
    assert loaded.sampling == Sampling("heun", 9)


def test_wrong_words_are_named(model: Model, tmp_path: Path) -> None:
    for wrong, says in (
        ({"sampler": "euler"}, "no sampler 'euler'"),
        ({"steps": 51}, "between 1 and 50"),
        ({"steps": 0}, "between 1 and 50"),
        ({"num": 0}, "num"),
        ({"eta": 1.5}, "eta"),
        ({"sampler": "heun", "eta": 0.5}, "heun has none"),
        ({"seed": -1}, "seed"),
    ):
        with pytest.raises(UserError, match=says):
            model.sample(**wrong)
    with pytest.raises(UserError, match="there is no run"):
        sd.load(tmp_path / "nothing")
    with pytest.raises(UserError, match="there is no checkpoint"):
        sd.load(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_a_device_that_is_not_there_is_named(run: Path) -> None:
    with pytest.raises(UserError, match=r"cuda is not available.*cpu"):
        sd.load(run, device="cuda")
