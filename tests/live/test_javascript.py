"""Run the JavaScript tests of the page in Node; they compare its results with those of Python.

This module computes the expected values and writes them to a JSON file. The environment variable GOLDEN holds its path,
and page/golden.mjs reads it.
"""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import pairwise, product
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from shapedreamer.common.names import TWO_CALLS, WITH_ETA, Prediction, SamplerName, Spacing
from shapedreamer.common.noise import Noise
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion import oracle, process
from shapedreamer.diffusion.denoiser import Denoise
from shapedreamer.diffusion.samplers import SAMPLERS, Step
from shapedreamer.diffusion.schedule import (
    SCHEDULES,
    Schedule,
    cosine,
    cubic_times,
    flow,
    linear,
    linear_zero_snr,
    log_snr_times,
    step_times,
)
from shapedreamer.imaging.editing import drift_frame, inpaint, melt
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live.settings import model_info
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Sampling

FILES = sorted((Path(__file__).parent / "page").glob("*.test.mjs"))
COMPILER = "typescript@5.9.3"
COMPILER_SHA256 = "10e108c9cf7d5f2879053dff18515fb405abf2ccef63eaaf017d9c571687a1d3"  # of the tarball
SEED = 2**64 - 3
MEAN, STD = 0.3, 0.5
LABELS = ("circle", "square", "line")
TABLE = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 2], [0, 0.5, 0.5]])


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "golden.json"
    path.write_text(
        json.dumps(
            {
                "times": list(times()),
                "trajectories": list(trajectories()),
                "dreams": [dream_case(*case) for case in DREAM_CASES],
                "wandering": [wandering_case(*case) for case in DREAM_CASES],
                "pixels": pixels(),
                "points": points(),
            }
        )
    )
    return path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_javascript(file: Path, golden: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    result = subprocess.run(
        [node, "--test", "--test-reporter=spec", file],
        env={**os.environ, "GOLDEN": str(golden)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tests 0" not in result.stdout


@pytest.mark.slow
def test_the_page_passes_the_type_checker(tmp_path: Path) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("needs node and npm")
    download = subprocess.run([npm, "pack", "--prefer-offline", COMPILER], cwd=tmp_path, capture_output=True, text=True)
    if download.returncode:
        pytest.skip(f"npm could not download {COMPILER}")
    (tarball,) = tmp_path.glob("*.tgz")
    assert sha256(tarball.read_bytes()).hexdigest() == COMPILER_SHA256
    with tarfile.open(tarball) as archive:
        archive.extractall(tmp_path, filter="data")
    config = Path(__file__).parent / "page" / "tsconfig.json"
    result = subprocess.run(
        [node, tmp_path / "package" / "lib" / "tsc.js", "-p", config], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


# timesteps, for many numbers of steps and starting points


def times() -> Iterator[dict[str, Any]]:
    for name, T in product(SCHEDULES, (1, 10, 37, 1000)):
        if T == 1 and name != "linear":
            continue  # with T = 1, cosine and zero-SNR schedules leave no log-SNR range to divide
        schedule = SCHEDULES[name](T)
        counts = [n for n in (1, 2, 3, 4, 5, 7, 8, 16, 24, 37, 50, 999, 1000) if n <= T]
        starts = [t for t in (1, 5, 10, 36, 37, 300, 999, 1000) if t <= T]
        yield {
            "alpha_bar": schedule.alpha_bar.tolist(),
            "even": [[n, step_times(T, n)] for n in counts],
            "cubic": [[n, cubic_times(T, n)] for n in counts],
            "log_snr": [[n, t, log_snr_times(schedule, n, t)] for n, t in product(counts, starts) if n <= t],
        }


# samplers, in float64, with an exact denoiser


def trajectories() -> Iterator[dict[str, Any]]:
    for schedule in (linear(60), cosine(60), linear_zero_snr(60), flow(60)):
        even, uneven, late = step_times(60, 7), log_snr_times(schedule, 9), [33, 20, 4, 0]
        for ts in (even, uneven, late):
            yield trajectory(schedule, "ddpm", ts)
            yield from (trajectory(schedule, sampler, ts, eta) for sampler in WITH_ETA for eta in (0.0, 0.4, 1.0, 1.5))
            yield from (trajectory(schedule, sampler, ts) for sampler in TWO_CALLS)
        yield from (trajectory(schedule, sampler, calls) for sampler in TWO_CALLS for calls in (1, 2, 5, 8, 60))


def trajectory(schedule: Schedule, sampler: SamplerName, steps: int | list[int], eta: float = 0.0) -> dict[str, Any]:
    noise = Noise(SEED, 5)
    x_T = noise(0, like=torch.empty(2, 1, 3, 5, dtype=torch.float64))
    options: dict[str, Any] = {"generator": noise} if sampler not in TWO_CALLS else {}
    if sampler in WITH_ETA:
        options["eta"] = eta
    steps_taken = list(SAMPLERS[sampler](oracle.gaussian(MEAN, STD, schedule), schedule, x_T, steps, **options))
    befores = [Step(schedule.T if isinstance(steps, int) else steps[0], x_T, x_T), *steps_taken]
    return {
        "sampler": sampler,
        "alpha_bar": schedule.alpha_bar.tolist(),
        "steps": steps,
        "eta": eta,
        "mean": MEAN,
        "std": STD,
        "seed": str(SEED),
        "first": 5,
        "num": 2,
        "trajectory": [
            {"t": before.t, "s": step.t, "x": flat(before.x), "x0": flat(step.x0), "next": flat(step.x)}
            for before, step in pairwise(befores)
        ],
    }


# frames, in float32, with a network that exists in both languages


class StandIn(nn.Module):
    """A simple formula instead of a network; standIn in page/golden.mjs is the same."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T, self.unused = T, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        shift = torch.zeros(len(x)) if label is None else (label * torch.tensor([0.3, -0.2, 0.1])).sum(1)
        return torch.tanh(0.5 * x + shift.view(-1, 1, 1, 1)) * (0.4 + 0.5 * t / self.T).view(-1, 1, 1, 1)


def stand_in(schedule: Schedule, prediction: Prediction, spacing: Spacing, labels: bool) -> Model:
    spec = DataSpec("nothing", 2, 3, 4, LABELS)
    sampling = Sampling("ddim", 4, spacing=spacing)
    return Model(StandIn(schedule.T), schedule, prediction, spec, TABLE if labels else None, sampling)


CONDITIONAL = stand_in(cosine(40), "v", "log_snr", labels=True)
UNCONDITIONAL = stand_in(linear(40), "eps", "even", labels=False)
ZERO_SNR = stand_in(linear_zero_snr(40), "x0", "cubic", labels=True)
MIX = {"circle": 2.0, "line": 0.5}
DREAM_CASES: Sequence[tuple[Model, int, int, SampleOptions]] = [  # model, num, creativity, options
    (CONDITIONAL, 4, 20, SampleOptions("ddim", 5, 1.0, SEED, "any", 1.0)),
    (CONDITIONAL, 1, 30, SampleOptions("ddim", 4, 0.5, 7, MIX, 2.5)),
    (CONDITIONAL, 1, 2, SampleOptions("ddpm", 6, 0.0, 7, "any", 0.0)),  # more steps than timesteps up to the creativity
    (CONDITIONAL, 4, 40, SampleOptions("heun", 6, 0.0, 11, None, 1.0)),
    (CONDITIONAL, 1, 25, SampleOptions("heun", 5, 0.0, 12, {}, -1.0)),
    (UNCONDITIONAL, 4, 15, SampleOptions("dpmpp_2m", 5, 0.0, 5, "any", 1.0)),
    (UNCONDITIONAL, 1, 33, SampleOptions("ddpm", 8, 0.0, 5, None, 1.0)),
    (ZERO_SNR, 16, 18, SampleOptions("dpmpp_2m", 6, 0.8, 9, "any", 1.5)),
    (ZERO_SNR, 1, 1, SampleOptions("ddim", 3, 0.2, 9, {"square": 1.0}, 1.0)),
]
HOLE = torch.arange(12).view(3, 4) % 3 == 1


def dream_case(model: Model, num: int, creativity: int, options: SampleOptions) -> dict[str, Any]:
    """Three frames; the last one with HOLE inpainted in its first image; and all sampling steps of image 0."""
    frames = melt(model, model.sample(num, options), creativity, 3, num, options)
    trace = list(model.stream(1, options))
    return {
        "info": model_info("stand-in", model),
        "table": [] if model.labels is None else flat(model.labels),
        "settings": {
            "model": "stand-in",
            "seed": str(options.seed),
            "num": num,
            "sampler": options.sampler,
            "steps": options.steps,
            "eta": options.eta,
            "guidance": options.guidance,
            "creativity": creativity,
            "label": "none" if options.label is None else options.label,
            "fps": 0,
            "motion": "melt",
            "every": 0,
        },
        "frames": [flat(frame) for frame in frames],
        "pixels": [to_uint8(frame).ravel().tolist() for frame in frames],
        "hole": HOLE.flatten().int().tolist(),
        "repainted": flat(inpaint(model, frames[-1][:1], ~HOLE, num, options)),
        "trace": [{"s": step.t, "x0": flat(step.x0), "next": flat(step.x)} for step in trace],
    }


def wandering_case(model: Model, num: int, creativity: int, options: SampleOptions) -> dict[str, Any]:
    """Six frames that melt, with a new sample after every three, and six that drift from sample to sample."""
    case = dream_case(model, num, creativity, options)
    melting = melt(model, model.sample(num, options), creativity, 6, num, options, every=3)
    return {key: case[key] for key in ("info", "table", "settings")} | {
        "melt": [flat(frame) for frame in melting],
        "drift": [flat(drift_frame(model, frame, num, options, every=3)) for frame in range(6)],
    }


def pixels() -> dict[str, Any]:
    """Every byte as a number; and, as bytes, numbers right between two bytes and their neighbours."""
    middles = (torch.arange(-1, 256).float() + 0.5) / 127.5 - 1
    numbers = torch.cat([middles, middles.nextafter(torch.tensor(9.0)), middles.nextafter(torch.tensor(-9.0))])
    return {
        "numbers": numbers.tolist(),
        "bytes": to_uint8(numbers.view(1, 1, 1, -1)).ravel().tolist(),
        "of_bytes": (torch.arange(256).float() / 127.5 - 1).tolist(),
    }


# points of the plane, in float64, as images of two pixels


def points() -> dict[str, Any]:
    """Schedules, exact denoisers of a mixture, what a network should predict, and samples of the mixture."""
    generator = torch.Generator().manual_seed(3)
    means = torch.randn(5, 1, 1, 2, generator=generator, dtype=torch.float64)
    x = 2 * torch.randn(6, 1, 1, 2, generator=generator, dtype=torch.float64)
    schedules = {name: SCHEDULES[name](1000) for name in ("linear", "cosine", "flow")}

    def mixture(blur: float, schedule: Schedule) -> Denoise:
        stds, weights = torch.full((5,), blur, dtype=torch.float64), torch.full((5,), 0.2, dtype=torch.float64)
        return oracle.gaussian_mixture(means, stds, weights, schedule)

    def denoised(denoise: Denoise, t: int) -> list[float]:
        return flat(denoise(x, torch.full((6,), t)))

    def sample(name: str, sampler: SamplerName, calls: int) -> list[float]:
        schedule, noise = schedules[name], Noise(SEED, 0)
        x_T = noise(0, like=torch.empty(3, 1, 1, 2, dtype=torch.float64))
        options: dict[str, Any] = {} if sampler in TWO_CALLS else {"generator": noise}
        return flat(list(SAMPLERS[sampler](mixture(0.2, schedule), schedule, x_T, calls, **options))[-1].x)

    return {
        "alpha_bar": {name: schedule.alpha_bar.tolist() for name, schedule in schedules.items()},
        "means": flat(means),
        "x": flat(x),
        "denoised": [
            {"schedule": name, "t": t, "blur": blur, "x0": denoised(denoise, t)}
            for (name, schedule), t in product(schedules.items(), (1, 40, 500, 1000))
            for blur, denoise in ((0.2, mixture(0.2, schedule)), (0.0, oracle.finite_data(means, schedule)))
        ],
        "targets": [  # x0 = means, eps = x, x_t = diffuse(…)
            {
                "alpha_bar": schedules["cosine"].alpha_bar[t].item(),
                "prediction": prediction,
                "x_t": flat(process.diffuse(means, t, x[:5], schedules["cosine"])),
                "target": flat(process.target(prediction, means, t, x[:5], schedules["cosine"])),
            }
            for t, prediction in product((1, 300, 999), get_args(Prediction))
        ],
        "samples": [
            {"schedule": name, "sampler": sampler, "calls": calls, "seed": str(SEED), "x": sample(name, sampler, calls)}
            for name, sampler, calls in product(("cosine", "flow"), SAMPLERS, (1, 9))
        ],
    }


def flat(x: Tensor) -> list[float]:
    return x.flatten().tolist()
