"""Measure the samplers of the live page's race: python -m benchmarks.race MODEL

Adds the model to quality.json, which the page shows beside the pictures: for each sampler and number of network calls,
the share of good samples with its 95% interval, and FID. A good sample of a data set of shapes is valid; of other data,
the classifier recognises its label. All samplers start from the same noise and use the same labels.
"""

import json
from typing import Any

import tyro
from tyro.conf import Positional

from shapedreamer.common.errors import exit_on_user_error
from shapedreamer.common.files import write_atomic
from shapedreamer.common.names import SamplerName
from shapedreamer.evaluation.evaluator import Evaluation, SampleVsReal, Subject, evaluate_subject, load_subject
from shapedreamer.evaluation.intervals import wilson
from shapedreamer.live.site import PAGE
from shapedreamer.models.options import SampleOptions

SAMPLERS: tuple[SamplerName, ...] = ("ddpm", "ddim", "heun", "dpmpp_2m")
CALLS = (1, 2, 4, 8, 16, 50)
QUALITY = PAGE / "quality.json"


def good(evaluation: Evaluation) -> tuple[str, SampleVsReal]:
    """What a good sample is, and the share of good samples and of good real images."""
    if evaluation.shapes is not None:
        return "valid", SampleVsReal(evaluation.shapes.samples.valid, evaluation.shapes.real.valid)
    assert evaluation.label_accuracy is not None, "the data set has neither shapes nor labels"
    return "right label", evaluation.label_accuracy


def measure(subject: Subject, num: int, seed: int) -> dict[str, Any]:
    """The entry of a model in quality.json."""
    entry: dict[str, Any] = {"num": num, "seed": seed, "points": []}
    for sampler in SAMPLERS:
        for calls in CALLS:
            evaluation, _ = evaluate_subject(subject, num, SampleOptions(sampler, calls, seed=seed, eta=0.0))
            entry["measure"], share = good(evaluation)
            entry["real"], entry["real_fid"] = round(share.real, 4), round(evaluation.fid.real, 2)
            low, high = (round(bound, 4) for bound in wilson(share.samples, num))
            point = {"sampler": sampler, "calls": calls, "share": round(share.samples, 4), "low": low, "high": high}
            entry["points"].append({**point, "fid": round(evaluation.fid.samples, 2)})
            print(point, flush=True)
    return entry


def main(model: Positional[str], num: int = 256, seed: int = 0) -> None:
    """Measure a shipped model and store the result.

    Args:
        model: The name of a shipped model.
        num: Number of samples for each sampler and number of calls.
        seed: Determines the noise and the labels.
    """
    entries = json.loads(QUALITY.read_text()) if QUALITY.exists() else {}
    entries[model] = measure(load_subject(model), num, seed)
    write_atomic(QUALITY, (json.dumps(dict(sorted(entries.items())), indent=1) + "\n").encode())


if __name__ == "__main__":
    with exit_on_user_error():
        tyro.cli(main)
