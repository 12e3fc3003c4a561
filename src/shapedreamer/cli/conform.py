"""shapedreamer conform: check a schedule, a sampler … of your own, and hear which mistake it makes."""

from typing import Literal

from tyro.conf import Positional

from ..common.names import ScheduleName


def run(
    target: Positional[str],
    kind: Literal[
        "auto", "schedule", "step_times", "forward", "posterior", "sampler", "loss", "ema", "sampling_weights", "data",
        "label_dropout", "guidance",
    ] = "auto",
    expected: ScheduleName | None = None,
    order: float | None = None,
) -> int:  # fmt: skip
    """Check a function of yours against the numbers that a correct one reproduces. Exits with 1 if it fails.

    Args:
        target: MODULE:NAME or path/to/file.py:NAME, such as my_sampler.py:ddim. The module is run.
        kind: What it is; auto tells it by the names of its parameters.
        expected: Which published schedule a schedule must be.
        order: The order of convergence that a solver of the flow must have.
    """
    from ..conformance import check, load

    report = check(load(target), None if kind == "auto" else kind, expected=expected, order=order)
    print(report)
    return 0 if report.passed else 1
