"""Checks that any schedule, forward process or sampler must pass, also one you wrote; they name the mistake it makes.

    from shapedreamer.conformance import check_sampler

    report = check_sampler(my_ddim)      # my_ddim(denoise, schedule, x_T, steps, *, eta, generator)
    print(report)                        # a table, and the mistake if there is one
    report.raise_if_failed()             # in a test

What a function must take is written at its check. A function that raises fails its check with what it said.
"""

from .data import check_data, check_label_dropout
from .exact import OPTIMAL_EPS_MSE, TABLE, optimal_eps_mse, output_std
from .guidance import check_guidance
from .kinds import Kind, check, kind_of, load
from .loss import check_loss, check_loss_floor
from .mistakes import REQUIRED, Mistake
from .process import check_conversions, check_forward, check_posterior
from .report import Check, Report
from .sampler import check_sampler
from .schedule import check_schedule, check_step_times, check_zero_terminal_snr
from .weights import check_ema, check_sampling_weights

__all__ = [
    "OPTIMAL_EPS_MSE",
    "REQUIRED",
    "TABLE",
    "Check",
    "Kind",
    "Mistake",
    "Report",
    "check",
    "check_conversions",
    "check_data",
    "check_ema",
    "check_forward",
    "check_guidance",
    "check_label_dropout",
    "check_loss",
    "check_loss_floor",
    "check_posterior",
    "check_sampler",
    "check_sampling_weights",
    "check_schedule",
    "check_step_times",
    "check_zero_terminal_snr",
    "kind_of",
    "load",
    "optimal_eps_mse",
    "output_std",
]
