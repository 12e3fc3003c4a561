"""Guidance options of a model: intervals, autoguidance and CFG++, what they compute, and which combinations fail."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shapedreamer as sd
from shapedreamer.common.errors import UserError
from shapedreamer.diffusion.process import diffuse
from shapedreamer.diffusion.schedule import cosine, linear
from shapedreamer.imaging.comparison import compare_samplers
from shapedreamer.imaging.editing import RENOISE_OFFSET, inpaint, interpolate, vary
from shapedreamer.imaging.shards import make_index, write_shards
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.networks.unet import UNet
from tests.random_weights import randomise
from tests.tiny import CONDITIONAL

SPEC = CONDITIONAL.make_data()[0].spec
OPTIONS = SampleOptions("ddim", 6, 0.0, seed=3, label="circle")
PATTERNS = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """x̂₀ = strength · (x_t · t/T + pattern of the label), which often lies outside of −1…1."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        pattern = 0 if label is None else torch.einsum("bl,lchw->bchw", label, PATTERNS)
        x0: Tensor = self.strength * (x * (t / 50).view(-1, 1, 1, 1) + pattern)
        return x0


def make_model(strength: float = 0.8, **changes: Any) -> Model:
    arguments: dict[str, Any] = {"schedule": cosine(50), "spec": SPEC, "labels": torch.eye(4), "precision": "float32"}
    return Model(prediction="x0", **({"network": Network(strength)} | arguments | changes))


MODEL, WEAK = make_model(), make_model(0.5)
CIRCLE = torch.eye(4)[:1].expand(2, -1)


def predict(model: Model, x: Tensor, t: int, label: Tensor | None) -> Tensor:
    x0: Tensor = model.network(x, torch.full((len(x),), t), label).detach()
    return x0


@contextmanager
def counting_calls(*models: Model) -> Iterator[list[object]]:
    calls: list[object] = []
    hooks = [m.network.register_forward_pre_hook(lambda module, inputs: calls.append(None)) for m in models]
    yield calls
    for hook in hooks:
        hook.remove()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with two checkpoints: best, and an earlier one, epoch-0001."""
    out = tmp_path_factory.mktemp("guides") / "run"
    for path, factor in ((out, 1.0), (out / "checkpoints" / "epoch-0001.safetensors", 0.8)):
        network = UNet(channels=(8, 16), groups=4, head_dim=8, attention=(), patch=4, context=4)
        randomise(network)
        network.load_state_dict({name: factor * value for name, value in network.state_dict().items()})
        make_model(network=network).save(path)
    return out


# intervals


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.3])
def test_the_full_interval_is_bit_identical_with_none(sampler: Any, guidance: float) -> None:
    options = replace(OPTIONS, sampler=sampler, guidance=guidance, eta=None)
    expected = MODEL.sample(2, options)
    assert torch.equal(MODEL.sample(2, options, guidance_interval=(-math.inf, math.inf)), expected)


def test_with_scale_1_an_interval_or_a_weak_model_changes_nothing() -> None:
    expected = MODEL.sample(2, OPTIONS)
    assert torch.equal(MODEL.sample(2, OPTIONS, guidance_interval=(-1, 2)), expected)
    assert torch.equal(MODEL.sample(2, OPTIONS, guide_with=WEAK), expected)


def test_an_interval_takes_two_network_calls_inside_and_one_outside() -> None:
    times, log_snr = MODEL.times(6), MODEL.schedule.log_snr
    bounds = log_snr[times[1]].item(), log_snr[times[3]].item()  # three of six timesteps
    with counting_calls(MODEL) as calls:
        steps = list(MODEL.stream(2, OPTIONS, guidance=2.5, guidance_interval=bounds))
    assert len(calls) == 6 + 3
    x = MODEL.noise(2, 3)
    for i, (t, step) in enumerate(zip(times[:-1], steps, strict=True)):
        u, c = predict(MODEL, x, t, None), predict(MODEL, x, t, CIRCLE)
        assert torch.equal(step.x0, (u + 2.5 * (c - u) if 1 <= i <= 3 else c).clamp(-1, 1))
        x = step.x


def test_bounds_may_be_any_kind_of_number_and_become_floats() -> None:
    options = SampleOptions(guidance_interval=np.array([-1, 2]))  # type: ignore[arg-type]
    assert options == SampleOptions(guidance_interval=(-1.0, 2.0))
    assert SampleOptions(guidance_interval=[torch.tensor(-1), 2]) == options  # type: ignore[arg-type]
    assert json.dumps(options.guidance_interval) == "[-1.0, 2.0]"


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ((2, -1), r"`guidance_interval` 2 -1 is empty: did you mean -1 2\?"),
        ((1, 1), "`guidance_interval` 1 1 is empty: the lower log-SNR comes first, such as -3 3"),
        ((float("nan"), 1), "`guidance_interval` nan 1 is empty"),
        ((1, 2, 3), "must be two values of log-SNR, such as -3 3, not"),
        (2.0, "must be two values of log-SNR"),
        ("12", "must be two values of log-SNR"),
        ((1, "2"), r"guidance_interval\[1\] must be a number, not '2'"),
    ],
)
def test_an_invalid_interval_is_rejected(interval: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SampleOptions(guidance_interval=interval)


def test_an_interval_without_a_timestep_is_rejected() -> None:
    with pytest.raises(UserError, match=r"`guidance_interval` 50 60 contains no timestep: .* from -\d.* to \d"):
        MODEL.sample(1, OPTIONS, guidance=2, guidance_interval=(50, 60))


# autoguidance


def test_autoguidance_leads_away_from_the_weak_model_with_the_same_label() -> None:
    with counting_calls(MODEL, WEAK) as calls:
        steps = list(MODEL.stream(2, OPTIONS, guidance=1.5, guide_with=WEAK))
    assert len(calls) == 2 * 6
    x = MODEL.noise(2, 3)
    for t, step in zip(MODEL.times(6)[:-1], steps, strict=True):
        strong, weak = predict(MODEL, x, t, CIRCLE), predict(WEAK, x, t, CIRCLE)
        assert torch.equal(step.x0, (weak + 1.5 * (strong - weak)).clamp(-1, 1))
        x = step.x
    assert torch.equal(MODEL.sample(2, OPTIONS, guidance=0, guide_with=WEAK), WEAK.sample(2, OPTIONS))


def test_autoguidance_works_without_a_label() -> None:
    x, t = MODEL.noise(2, 3), torch.full((2,), 50)
    strong, weak = predict(MODEL, x, 50, None), predict(WEAK, x, 50, None)
    for labels in (torch.eye(4), None):  # a conditional and an unconditional model
        models = (make_model(strength, labels=labels) for strength in (0.8, 0.5))
        options = replace(OPTIONS, label=None, guidance=2.0, guide_with=None)
        denoise = next(models).denoiser_for(2, replace(options, guide_with=next(models)))
        assert torch.equal(denoise(x, t), (weak + 2 * (strong - weak)).clamp(-1, 1))


def test_the_weak_model_may_be_a_run_or_one_of_its_checkpoints(run: Path) -> None:
    path, options = run / "checkpoints" / "epoch-0001.safetensors", replace(OPTIONS, guidance=1.5, steps=2)
    model, weak = (sd.load(name, device="cpu", precision="float32") for name in (run, path))
    expected = model.sample(2, options, guide_with=weak)
    for guide in (path, str(path), path.with_suffix("")):
        assert torch.equal(model.sample(2, options, guide_with=guide), expected)
    assert model.guide(path) is model.guide(str(path))  # loaded once
    own = model.sample(2, options, guide_with=run)  # strong and weak are the same model
    torch.testing.assert_close(own, model.sample(2, options, guidance=1), rtol=0, atol=1e-4)
    assert not torch.allclose(own, expected, atol=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spec": replace(SPEC, height=28, width=28)}, "has images of 28x28x1, not 32x32x1$"),
        ({"labels": None}, "has the labels none, not circle, rectangle, triangle, line$"),
        ({"spec": replace(SPEC, labels=("a", "b", "c", "d"))}, "the labels a, b, c, d, not circle, "),
        ({"schedule": cosine(40)}, "has T = 40, not 50$"),
        ({"schedule": linear(50)}, "has another noise schedule$"),
        ({"schedule": linear(40), "labels": None}, "the labels none, not .*; T = 40, not 50$"),
    ],
)
def test_a_weak_model_of_another_kind_is_rejected_and_the_differences_are_named(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"`guide_with` needs a model with the same images, .*{message}"):
        MODEL.sample(1, OPTIONS, guidance=2, guide_with=make_model(**changes))


def test_a_weak_model_that_does_not_exist_is_rejected() -> None:
    with pytest.raises(UserError, match="there is no run or checkpoint nowhere"):
        MODEL.sample(1, OPTIONS, guidance=2, guide_with="nowhere")
    with pytest.raises(UserError, match="guide_with must be a path, not 3"):
        SampleOptions(guide_with=3)  # type: ignore[arg-type]


# CFG++


def cfg_pp_by_hand(scale: float, times: list[int], x: Tensor) -> Tensor:
    """Algorithm 2 of Chung et al. 2024, with both predictions of the image clipped."""
    alpha_bar = MODEL.schedule.alpha_bar.float()
    for t, s in pairwise(times):
        u, c = predict(MODEL, x, t, None), predict(MODEL, x, t, CIRCLE)
        x0, u = (u + scale * (c - u)).clamp(-1, 1), u.clamp(-1, 1)
        eps = (x - alpha_bar[t].sqrt() * u) / (1 - alpha_bar[t]).sqrt()
        x = alpha_bar[s].sqrt() * x0 + (1 - alpha_bar[s]).sqrt() * eps
    return x


@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("steps", [6, [45, 30, 5, 0]])
def test_cfg_pp_guides_the_image_but_not_the_noise(scale: float, steps: Any) -> None:
    options = replace(OPTIONS, guidance=scale, cfg_pp=True, steps=steps)
    times = MODEL.times(steps) if isinstance(steps, int) else steps
    with counting_calls(MODEL) as calls:
        x = MODEL.sample(2, options)
    assert len(calls) <= 2 * (len(times) - 1)
    torch.testing.assert_close(x, cfg_pp_by_hand(scale, times, MODEL.noise(2, 3)), rtol=0, atol=1e-5)


def test_cfg_pp_with_scale_0_is_unconditional_and_outside_of_an_interval_conditional() -> None:
    unconditional = MODEL.sample(2, OPTIONS, label=None)
    x = MODEL.sample(2, OPTIONS, guidance=0, cfg_pp=True)
    torch.testing.assert_close(x, unconditional, rtol=0, atol=1e-5)
    log_snr = MODEL.schedule.log_snr
    between = (log_snr[26].item(), log_snr[25].item())  # none of the sampler's timesteps
    options = replace(OPTIONS, steps=[50, 40, 10, 0])
    x = MODEL.sample(2, options, guidance=0.7, cfg_pp=True, guidance_interval=between)
    assert torch.equal(x, MODEL.sample(2, options))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "dpmpp_2m"}, "CFG.. is a change of ddim with eta 0, but this is dpmpp_2m with eta 0; sample with"),
        ({"sampler": "heun"}, "but this is heun with eta 0"),
        ({"eta": 1.0}, "but this is ddim with eta 1; sample with ddim and eta 0, or leave out `cfg_pp`"),
        ({"label": None}, "CFG.. needs a label; leave out `cfg_pp` or add `label`"),
        ({"guidance": 2.0}, "with CFG.., `guidance` must be between 0 and 1, not 2"),
        ({"guidance": -0.1}, "must be between 0 and 1, not -0.1"),
        ({"guide_with": WEAK}, "leave out `guide_with` or `cfg_pp`"),
        ({"cfg_pp": "yes"}, "cfg_pp must be True or False"),
    ],
)
def test_cfg_pp_rejects_what_it_does_not_work_with(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MODEL.sample(1, **(vars(OPTIONS) | {"guidance": 1.0, "cfg_pp": True} | changes))


def test_editing_with_cfg_pp_uses_the_timesteps_of_each_edit() -> None:
    options = replace(OPTIONS, guidance=0.6, cfg_pp=True, steps=4)
    image = torch.zeros(1, 1, 32, 32)
    eps = MODEL.noise(2, 3, RENOISE_OFFSET)
    expected = cfg_pp_by_hand(0.6, MODEL.times(4, 30), diffuse(image.expand_as(eps), 30, eps, MODEL.schedule))
    torch.testing.assert_close(vary(MODEL, image, 30, 2, options), expected, rtol=0, atol=1e-5)
    frames = interpolate(MODEL, 2, 2, 4, options)
    torch.testing.assert_close(frames[0], MODEL.sample(2, options), rtol=0, atol=1e-5)
    keep = torch.arange(32).expand(32, 32) < 16
    inpainted = inpaint(MODEL, image, keep, 2, options)
    assert (inpainted[..., :16] == 0).all()
    assert inpainted.abs().max() <= 1


# elsewhere


def test_a_comparison_guides_each_sampler_with_its_own_timesteps() -> None:
    options = SampleOptions(seed=3, label="circle", guidance=0.6, cfg_pp=True)
    rows = compare_samplers(MODEL, ["ddim:3", "ddim:6"], 2, options)
    for row, steps in zip(rows, (3, 6), strict=True):
        assert torch.equal(row.images, MODEL.sample(2, options, sampler="ddim", steps=steps))
    with pytest.raises(UserError, match="but this is heun"):
        compare_samplers(MODEL, ["ddim:3", "heun:4"], 2, options)


def test_a_folder_of_shards_is_completed_with_the_same_guidance_only(tmp_path: Path) -> None:
    out, options = tmp_path / "shards", replace(OPTIONS, guidance=1.5, steps=1)
    write_shards(MODEL, out, 2, options)
    stored = json.loads((out / "index.json").read_text())
    for key in ("guidance_interval", "guide", "cfg_pp"):
        assert stored.pop(key) is None
    (out / "index.json").write_text(json.dumps(stored))  # as versions without these options wrote it
    write_shards(MODEL, out, 2, options)
    with pytest.raises(UserError, match=r"was started with guidance_interval = None, not \[-1.0, 2.0\]"):
        write_shards(MODEL, out, 2, replace(options, guidance_interval=(-1, 2)))
    with pytest.raises(UserError, match="was started with guide = None, not '"):
        write_shards(MODEL, out, 2, replace(options, guide_with=WEAK))
    hashes = [make_index(MODEL, 2, replace(options, guide_with=guide)).guide for guide in (WEAK, make_model(0.4))]
    assert len(set(hashes)) == 2
    assert make_index(MODEL, 2, replace(options, guidance=1.0, cfg_pp=True)).cfg_pp is True
