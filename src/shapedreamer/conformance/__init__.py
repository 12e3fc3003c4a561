"""Check diffusion code against exact answers, and name the mistake if a check fails.

The checks take any schedule, forward process, posterior, sampler, loss, EMA, data set, label dropout or guidance
function, including your own:

    from shapedreamer.conformance import check_sampler

    report = check_sampler(my_ddim)      # my_ddim(denoise, schedule, x_T, steps, *, eta, generator)
    print(report)                        # a table of checks, then the suspected mistake and a hint
    report.raise_if_failed()             # for use in a test

Each ``check_...`` function documents the signature it expects. An exception raised by your code becomes a failed check.
A check that could not be made is shown as such, and the report does not pass. A note is shown and does not fail it.

To read the package, follow this order:

    mistakes         the mistakes a report can name, each with a hint
    report           Check, Report, and the Checklist that builds a report
    updates          one DDPM or DDIM step as three coefficients, and which mistake explains wrong ones
    exact            closed-form results for Gaussian data: minimum loss and output standard deviation
    schedule, process, guidance, loss, weights, data
                     the checks that need no sampler
    trace            runs a sampler once and records its network calls, noise and steps
    sampler_runs     runs a sampler in every mode and keeps the traces
    sampler          check_sampler, and the checks of timesteps, batches, yielded steps and randomness
    sampler_math     the checks of coefficients, clipping and output standard deviation
    convergence      the check of methods that are neither DDIM nor DDPM: do they converge to the exact solution?
    kinds            loads an object by name and picks its check, for ``shapedreamer conform``
    stubs            what each kind must take, and a correct example of each
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
from .stubs import SIGNATURES, stub
from .weights import check_ema, check_sampling_weights

__all__ = [
    "OPTIMAL_EPS_MSE",
    "REQUIRED",
    "SIGNATURES",
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
    "stub",
]
