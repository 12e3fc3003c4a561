"""The doctor names each fault that is put into a healthy model, and finds nothing in healthy models.

The data are a mixture of Gaussians, for which the exact denoiser is known. So most models need no network: a healthy
one is the exact denoiser, and a sick one is that denoiser with a fault.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shapedreamer
from shapedreamer.common.errors import UserError
from shapedreamer.data.arrays import Arrays, one_hot
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion.oracle import finite_data, gaussian, gaussian_mixture
from shapedreamer.diffusion.process import to_eps
from shapedreamer.diffusion.schedule import Schedule, cosine, linear
from shapedreamer.evaluation import case as case_module
from shapedreamer.evaluation.ailments import CHECKS, Finding, initial_weights
from shapedreamer.evaluation.case import Case
from shapedreamer.evaluation.doctor import Examination, diagnose, examine
from shapedreamer.models.checkpoint import RunConfig, load_checkpoint, save_checkpoint
from shapedreamer.models.model import Model, find_checkpoint
from shapedreamer.models.recipes import DrawnData, Recipe, Sampling
from shapedreamer.training.loop import learning_rate, train
from tests.evaluation.conftest import FunctionNetwork
from tests.tiny import CONDITIONAL, SMALL

SHARED = Path(__file__).parents[3] / "shared" / "data"
NAMES = ("a", "b", "c", "d")
STD = 0.15
MEANS = torch.from_numpy(np.random.default_rng(7).choice([-0.7, 0.5], (4, 1, 8, 8))).float()
COSINE, SHORT, LONG = cosine(100), linear(50), linear(1000)


def mixture(n: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Arrays:
    """n images of the mixture, as 8-bit values; the label is the component. Values are scaled and shifted first."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 4, n)
    images = (MEANS.numpy()[classes, 0] + STD * rng.standard_normal((n, 8, 8))).clip(-1, 1)
    levels = ((scale * images + shift + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return Arrays("mixture", levels[..., None], one_hot(classes, 4), NAMES)


TRAINING, HELD_OUT = mixture(600, 0), mixture(300, 1)
RECIPE = Recipe(
    "mixture",
    DrawnData(samples=600),
    SMALL,
    schedule="cosine",
    timesteps=100,
    prediction="x0",
    epochs=60,
    batch_size=20,
    ema_decay=0.99,
    lr_decay=True,
    sampling=Sampling("ddim", 20, 1.0),
)
Predict = Callable[..., Tensor]


def exact(schedule: Schedule = COSINE) -> Predict:
    """E[x₀ | x_t], and with a label E[x₀ | x_t, label]."""
    unconditional = gaussian_mixture(MEANS, torch.full((4,), STD), torch.full((4,), 0.25), schedule)

    def predict(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        if not label:
            return unconditional(x, t)
        return gaussian(torch.einsum("nk,kchw->nchw", label[0], MEANS), STD, schedule)(x, t)

    return predict


def case_of(
    predict: Predict,
    schedule: Schedule = COSINE,
    labels: bool = False,
    spec: DataSpec | None = None,
    training: Arrays = TRAINING,
    held_out: Arrays = HELD_OUT,
    **fields: Any,
) -> Case:
    """A case whose model predicts x₀ with a function."""
    table = torch.from_numpy(held_out.labels) if labels else None
    spec = spec or training.spec
    model = Model(FunctionNetwork(predict), schedule, "x0", spec, table, Sampling("ddim", 20, 1.0))
    return Case("a model", model, training, held_out, **fields)


def names(case: Case) -> list[str]:
    return [finding.name for finding in diagnose(case)]


def losses(curve: Callable[[float], float], recipe: Recipe = RECIPE) -> tuple[dict[str, Any], ...]:
    """The metrics of a whole run; curve: the loss, where 0 is the begin of the run and 1 its end."""
    return tuple(
        {"step": step, "epoch": 1, "loss": curve(step / recipe.steps), "lr": learning_rate(recipe, step - 1)}
        for step in range(1, recipe.steps + 1)
    )


def falling(part: float) -> float:
    return 0.05 + math.exp(-8 * part)


def other_weights(predict: Predict) -> nn.Module:
    """A network with the same predictions as FunctionNetwork(predict), but another value of its unused parameter."""
    network = FunctionNetwork(predict)
    nn.init.ones_(network.unused)
    return network


HEALTHY = {
    "unconditional": case_of(exact()),
    "conditional": case_of(exact(), labels=True),
    "linear schedule": case_of(exact(LONG), LONG),
    "with metrics": case_of(exact(), recipe=RECIPE, step=RECIPE.steps, metrics=losses(falling)),
    "raw weights": case_of(
        exact(),
        recipe=RECIPE,
        step=RECIPE.steps,
        raw=other_weights(exact()),
    ),
}


@pytest.mark.parametrize("case", HEALTHY.values(), ids=HEALTHY)
def test_nothing_is_found_in_a_healthy_model(case: Case) -> None:
    examination = examine(case)
    assert examination.findings == [], str(examination)
    assert [check.name for check in examination.checks] == list(CHECKS)


def test_a_healthy_eps_model_of_another_program_is_healthy() -> None:
    predict = exact(LONG)

    def eps(x: Tensor, t: Tensor) -> Tensor:
        return to_eps(predict(x, t), x, t, LONG)

    model = Model(FunctionNetwork(eps), LONG, "eps", TRAINING.spec, None, Sampling("ddpm", 20))
    assert names(Case("eps", model, TRAINING, HELD_OUT)) == []


# Faults of the model or the data. Each is named, alone or with its direct consequences.

RIGHT = exact()
WIDE, NARROW = (replace(TRAINING.spec, low=low, high=high) for low, high in ((-10.0, 10.0), (0.0, 1.0)))
IN_0_1 = mixture(600, 0, 0.5, 0.5), mixture(300, 1, 0.5, 0.5)
MASKS = mixture(600, 0, 0.01, -0.99), mixture(300, 1, 0.01, -0.99)


def rescaled(scale: float, shift: float) -> Predict:
    """The exact denoiser of the images scale · x + shift."""
    denoise = gaussian_mixture(scale * MEANS + shift, torch.full((4,), scale * STD), torch.full((4,), 0.25), COSINE)
    return lambda x, t: denoise(x, t)


def with_nan_at_high_noise(x: Tensor, t: Tensor) -> Tensor:
    return torch.where(t.view(-1, 1, 1, 1) > 80, torch.nan, RIGHT(x, t))


def useless_at_high_noise(x: Tensor, t: Tensor) -> Tensor:
    return torch.where(t.view(-1, 1, 1, 1) > 85, -MEANS[:1] * 1.2, RIGHT(x, t))


def always_the_first_class(x: Tensor, t: Tensor) -> Tensor:
    first = torch.tensor([[1.0, 0, 0, 0]]).expand(len(x), 4)
    return torch.where(t.view(-1, 1, 1, 1) > 65, RIGHT(x, t, first), RIGHT(x, t))


def washed_out(x: Tensor, t: Tensor) -> Tensor:
    return MEANS.mean(0) + 0.6 * (RIGHT(x, t) - MEANS.mean(0))


def with_another_label(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
    if not label:
        return RIGHT(x, t)
    return 0.6 * RIGHT(x, t) + 0.4 * RIGHT(x, t, label[0].roll(1, 1))


FAULTS: dict[str, tuple[Case, str, set[str]]] = {
    "NaN": (case_of(with_nan_at_high_noise), "NaN", set()),
    "data in [0, 1]": (case_of(rescaled(0.5, 0.5), training=IN_0_1[0], held_out=IN_0_1[1]), "data range", set()),
    "masks of 0 and 1": (
        case_of(rescaled(0.01, -0.99), training=MASKS[0], held_out=MASKS[1]),
        "data range",
        {"loss at the baseline"},
    ),
    "a run that says [0, 1]": (
        case_of(exact(), spec=NARROW),
        "data range",
        {"nothing learnt at some noise levels", "clipping always bites", "mean drift", "samples washed out"},
    ),
    "too few timesteps": (case_of(exact(SHORT), SHORT), "signal left at T", {"mean drift", "samples washed out"}),
    "untrained": (case_of(lambda x, t: torch.zeros_like(x)), "loss at the baseline", set()),
    "useless at high noise": (
        case_of(useless_at_high_noise),
        "nothing learnt at some noise levels",
        {"mean drift", "samples all alike"},
    ),
    "never clipped": (
        case_of(lambda x, t: 1.7 * RIGHT(x, t), spec=WIDE),
        "clipping missing",
        {"nothing learnt at some noise levels", "mean drift"},
    ),
    "always clipped": (case_of(lambda x, t: 1.65 * RIGHT(x, t)), "clipping always bites", {"mean drift"}),
    "too bright": (case_of(lambda x, t: RIGHT(x, t) + 0.15), "mean drift", set()),
    "washed out": (case_of(washed_out), "samples washed out", set()),
    "one class only": (
        case_of(always_the_first_class),
        "samples all alike",
        {"nothing learnt at some noise levels", "mean drift", "loss at the baseline"},
    ),
    "copies": (case_of(finite_data(TRAINING.batch(torch.arange(40))[0], COSINE)), "memorisation", {"overfitting"}),
    "label ignored": (case_of(lambda x, t, *label: RIGHT(x, t), labels=True), "label ignored", set()),
    "label names in another order": (
        case_of(with_another_label, labels=True),
        "label misread",
        {"nothing learnt at some noise levels"},
    ),
}


@pytest.mark.parametrize(("case", "fault", "consequences"), FAULTS.values(), ids=FAULTS)
def test_a_fault_of_the_model_is_named(case: Case, fault: str, consequences: set[str]) -> None:
    examination = examine(case)
    found = [finding.name for finding in examination.findings]
    assert fault in found, str(examination)
    assert_sentences(examination.findings)
    assert set(found) <= {fault} | consequences, str(examination)


def assert_sentences(findings: list[Finding]) -> None:
    """Evidence and advice are sentences, and the evidence has numbers."""
    for finding in findings:
        assert finding.evidence.endswith(".")
        assert finding.advice.endswith(".")
        assert finding.name == "NaN" or any(character.isdigit() for character in finding.evidence)


# Faults of the training: the model is exact, and only its metrics or weights show the fault.


def trained(**fields: Any) -> Case:
    return case_of(exact(), **{"recipe": RECIPE, "step": RECIPE.steps, **fields})


def restarted() -> tuple[dict[str, Any], ...]:
    """A learning rate that starts again in the middle of the run."""
    records, half = losses(falling), RECIPE.steps // 2
    return records[:half] + tuple({**r, "lr": learning_rate(RECIPE, i)} for i, r in enumerate(records[half:]))


def overfitted() -> tuple[dict[str, Any], ...]:
    """A held-out loss that rises while the training loss falls."""
    held_out = [{"step": 180 * i, "epoch": i, "held_out": 0.1 + 0.01 * abs(i - 4), "by_time": []} for i in range(1, 11)]
    return tuple(sorted((*losses(falling), *held_out), key=lambda record: record["step"]))


TRAINING_FAULTS = {
    "learning rate too large": trained(metrics=losses(lambda part: 0.1 + 3 * part)),
    "schedule restarted": trained(metrics=restarted()),
    "overfitting": trained(metrics=overfitted()),
    "training too short": trained(step=RECIPE.steps // 3),
    "EMA unused": trained(raw=FunctionNetwork(exact())),
    "NaN": trained(metrics=losses(lambda part: math.nan if part > 0.9 else falling(part))),
}


@pytest.mark.parametrize(("fault", "case"), TRAINING_FAULTS.items())
def test_a_fault_of_the_training_is_named(fault: str, case: Case) -> None:
    findings = diagnose(case)
    assert [finding.name for finding in findings] == [fault]
    assert_sentences(findings)


def test_a_loss_that_jumps_and_recovers_means_a_learning_rate_that_is_too_large() -> None:
    jump = trained(metrics=losses(lambda part: 1.0 if part < 0.001 else 40 * math.exp(-20 * part) + 0.3))
    finding = next(finding for finding in diagnose(jump) if finding.name == "learning rate too large")
    assert "rose from 1 to " in finding.evidence


def test_too_few_images_are_too_short_a_training() -> None:
    recipe = replace(RECIPE, epochs=10)
    (finding,) = diagnose(trained(recipe=recipe, step=recipe.steps))
    assert (finding.name, "6,000 images" in finding.evidence) == ("training too short", True)


class Scaled(nn.Module):
    """The exact denoiser times a weight, which should be 1."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.weight * RIGHT(x.float(), t)


@pytest.mark.parametrize(("weight", "found"), [(0.99, []), (0.7, ["EMA cold"])])
def test_averaged_weights_that_lag_behind_are_cold(weight: float, found: list[str]) -> None:
    model = Model(Scaled(weight), COSINE, "x0", TRAINING.spec, None, Sampling("ddim", 20, 1.0))
    case = Case("scaled", model, TRAINING, HELD_OUT, RECIPE, RECIPE.steps, Scaled(1.0))
    assert [name for name in names(case) if name != "samples washed out"] == found


# Runs in files


def rewrite(
    out: Path,
    config: RunConfig | None = None,
    step: int | None = None,
    network: dict[str, Tensor] | None = None,
    ema: dict[str, Tensor] | None = None,
) -> Path:
    """A run folder with the shipped model sprites-epoch-31, of which some parts are replaced."""
    old = load_checkpoint(find_checkpoint("sprites-epoch-31"))
    ema = ema or {name: value.float() for name, value in old.ema.items()}
    step, config = old.step if step is None else step, config or old.config
    save_checkpoint(out / "checkpoints", "latest", config, step, network or {}, ema, math.inf, old.labels)
    return out


def initial_state() -> dict[str, Tensor]:
    """The state of sprites-epoch-31 before its training."""
    recipe = load_checkpoint(find_checkpoint("sprites-epoch-31")).config.recipe
    network = recipe.make_network()
    network.load_state_dict(initial_weights(recipe), strict=False)  # the others are tables
    return network.state_dict()


def test_averaged_weights_that_were_never_updated_are_cold(tmp_path: Path) -> None:
    original = load_checkpoint(find_checkpoint("sprites-epoch-31"))
    run = rewrite(tmp_path, network={k: v.float() for k, v in original.ema.items()}, ema=initial_state())
    cold, baseline = diagnose(run)  # the consequence: those weights are untrained
    assert (cold.name, baseline.name) == ("EMA cold", "loss at the baseline")
    assert "0% of the way" in cold.evidence


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    ema = {k: v.float() for k, v in load_checkpoint(find_checkpoint("sprites-epoch-31")).ema.items()}
    name = next(iter(ema))
    ema[name] = ema[name] * math.nan
    examination = examine(rewrite(tmp_path, ema=ema))
    assert [finding.name for finding in examination.findings] == ["NaN"]
    assert name in examination.findings[0].evidence
    assert [check.name for check in examination.checks] == list(CHECKS)
    assert not any(check.made for check in examination.checks[1:])


def test_an_untrained_shipped_model_is_at_the_baseline() -> None:
    examination = examine("sprites-epoch-0")
    assert [finding.name for finding in examination.findings] == ["training too short", "loss at the baseline"]
    text = str(examination)
    assert text.startswith("sprites-epoch-0: 2 findings in ")
    assert "Start with the first finding" in text


def test_a_run_that_was_stopped_early_is_too_short(tmp_path: Path) -> None:
    train(replace(CONDITIONAL, epochs=50), tmp_path / "run", max_minutes=0)
    examination = examine(tmp_path / "run")
    assert examination.findings[0].name == "training too short"
    assert "step 1 of 200" in examination.findings[0].evidence
    assert {check.name for check in examination.checks if check.made} >= {"averaged weights", "learning rate"}


def test_the_metrics_of_a_checkpoint_in_a_run_end_at_its_step(tmp_path: Path) -> None:
    run = rewrite(tmp_path, step=0, ema=initial_state())
    records = [{"step": step, "loss": math.nan if step > 5 else 1.0} for step in range(1, 10)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert [finding.name for finding in diagnose(run)] == ["NaN"]
    assert diagnose(run / "checkpoints" / "latest.safetensors")[0].name == "training too short"


def test_missing_images_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run or checkpoint"):
        diagnose(tmp_path / "nowhere")
    original = load_checkpoint(find_checkpoint("sprites-epoch-31"))
    spec = replace(original.config.data, name="others")
    with pytest.raises(UserError, match="was not trained on the images of sprites"):
        diagnose(rewrite(tmp_path, config=replace(original.config, data=spec)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sprites", "sprites-epoch-31", "sprites-turbo", "shapes", "shapes-turbo"])
def test_nothing_is_found_in_shipped_models(name: str) -> None:
    examination = examine(name)
    assert examination.findings == [], str(examination)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "mnist-turbo", "fashion_mnist"])
def test_nothing_is_found_in_shipped_models_of_files(name: str) -> None:
    data = SHARED / name.removesuffix("-turbo")
    if not data.exists():
        pytest.skip("needs the images")
    examination = examine(name, data)
    assert examination.findings == [], str(examination)


@pytest.mark.slow
def test_nothing_is_found_in_patterns() -> None:
    pytest.importorskip("cv2", reason="needs the extra 'data'")
    examination = examine("patterns")
    assert examination.findings == [], str(examination)


# The report


def test_the_report_lists_every_check_and_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(case_module, "NUM_SAMPLES", 64)
    text = str(examine(FAULTS["label ignored"][0]))
    assert text.startswith("a model: 1 finding in 12 checks\n")
    assert all(name in text for name in CHECKS)
    assert "✗ label ignored\n  Measured: With the same noise and another label" in text
    assert "\n  What to do: Check that training passes the labels" in text
    assert max(map(len, text.splitlines())) <= 120


def test_diagnose_is_a_top_level_name() -> None:
    assert shapedreamer.diagnose is diagnose
    assert isinstance(examine(HEALTHY["unconditional"]), Examination)
