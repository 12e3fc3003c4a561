"""shapedreamer conform: check your own schedule, sampler, loss and more, and find out which mistake it makes."""

from typing import Literal

from tyro.conf import Positional

from ..common.errors import UserError
from ..common.names import ScheduleName

FAILED = 10
"""Exit status: a check was made and failed."""
NOT_RUN = 20
"""Exit status: the code could not be loaded, or a required check could not be made."""


class CannotRunError(UserError):
    """A target that cannot be checked; ``shapedreamer conform`` exits with status 20."""

    exit_code = NOT_RUN


def run(
    target: Positional[str | None] = None,
    kind: Literal[
        "auto", "schedule", "step_times", "forward", "posterior", "sampler", "loss", "ema", "sampling_weights", "data",
        "label_dropout", "guidance",
    ] = "auto",
    expected: ScheduleName | None = None,
    shift: float | None = None,
    order: float | None = None,
    stub: Literal[
        "schedule", "step_times", "forward", "posterior", "sampler", "loss", "ema", "sampling_weights", "data",
        "label_dropout", "guidance",
    ] | None = None,
) -> int:  # fmt: skip
    """Check your own function against exact answers, and name its mistake.

    What each kind must take and return:

      schedule          make(T) -> ᾱ for t = 0…T; or the table itself
      step_times        step_times(T, steps) -> [T, …, 0], steps + 1 numbers
      forward           diffuse(x0, t, eps, schedule) -> x_t
      posterior         posterior(x0, x_t, t, s, schedule) -> (mean, variance) of x_s
      sampler           sampler(denoise, schedule, x_T, steps, [eta, variance, generator]) -> image, or steps (t, x, x0)
      loss              loss(network, x0, t, eps, schedule, prediction) -> one loss per image (B,)
      ema               make_ema(network, decay) -> object with .network and .update(network, n)
      sampling_weights  sample(raw_network, ema_network), which must call only the second
      data              images (B, C, H, W), or a data set with len() and .batch(index) -> (images, labels)
      label_dropout     drop(labels, probability, generator) -> labels
      guidance          guided(conditional, unconditional, scale) -> denoiser

    "conform --stub KIND" prints a correct one to start from.

    Exit status: 0 if every check passed, 10 if a check failed, 20 if the code could not be loaded or a required check
    could not be made.

    Args:
        target: MODULE:NAME or path/to/file.py:NAME, such as my_sampler.py:ddim. The module is run.
        kind: What the target is. "auto" finds out from the names of its parameters.
        expected: For a schedule: the published schedule that it must match.
        shift: For "--expected flow": the time shift that it must have.
        order: For an ODE solver: the order of convergence that it must have.
        stub: Print a correct object of this kind to start from, instead of a check.
    """
    from ..conformance import check, load
    from ..conformance.stubs import stub as source_of

    if stub is not None:
        if target is not None:
            raise CannotRunError(f"--stub prints a {stub} and checks nothing; remove {target!r} or --stub")
        print(source_of(stub), end="")
        return 0
    if target is None:
        raise CannotRunError("say what to check, as in: shapedreamer conform my_sampler.py:ddim; or use --stub sampler")
    try:
        report = check(load(target), None if kind == "auto" else kind, expected=expected, shift=shift, order=order)
    except UserError as error:
        raise CannotRunError(str(error)) from error
    print(report)
    return 0 if report.passed else FAILED if report.failed else NOT_RUN
