"""shapedreamer conform: check your own schedule, sampler, loss and more, and find out which mistake it makes."""

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
    """Check your own function against exact answers, and name its mistake. Exits with status 1 if a check fails.

    Args:
        target: MODULE:NAME or path/to/file.py:NAME, such as my_sampler.py:ddim. The module is run.
        kind: What the target is. "auto" finds out from the names of its parameters.
        expected: For a schedule: the published schedule that it must match.
        order: For an ODE solver: the order of convergence that it must have.
    """
    from ..conformance import check, load

    report = check(load(target), None if kind == "auto" else kind, expected=expected, order=order)
    print(report)
    return 0 if report.passed else 1
