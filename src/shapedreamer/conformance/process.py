"""Checks of the forward process, of the conversions between ε, x₀, v and u, and of the posterior."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..diffusion import process
from ..diffusion.schedule import Schedule, linear
from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, format_number, name_of, report_exceptions, wrong_order
from .updates import ObservedUpdate, Update, correct_update, find_mistakes, is_correct

Diffuse = Callable[[Tensor, Tensor, Tensor, Schedule], Tensor]
PARAMETERS = ("x0", "t", "eps", "schedule")
Posterior = Callable[[Tensor, Tensor, int, int, Schedule], tuple[Tensor, Any]]


@report_exceptions
def check_forward(diffuse: Diffuse) -> Report:
    """Check that ``diffuse(x0, t, eps, schedule)`` returns √ᾱ_t x₀ + √(1−ᾱ_t) ε (Ho et al. 2020, equation 4).

    It is called with x0 and eps (B, C, H, W) float64, t (B,) int64 in 1…T, and the linear schedule, T = 1000.
    """
    schedule = linear()
    checklist = Checklist(name_of(diffuse, "diffuse"), "Ho et al. 2020, equation 4")
    if problem := wrong_order(diffuse, PARAMETERS):
        checklist.add("order of parameters", False, ", ".join(PARAMETERS), problem, mistakes.ARGUMENT_ORDER)
        return checklist.report()
    t = torch.arange(1, schedule.T + 1)
    factors = checklist.attempt("t = 1…T", lambda: _measure_factors(diffuse, t, schedule))
    if factors is None:  # if t is off by one, only the first or last timestep may be outside the table
        t = t[1:-1]
        try:
            factors = _measure_factors(diffuse, t, schedule)
        except Exception:
            return checklist.report()
    signal, noise = factors
    a = schedule.alpha_bar
    suspect = find_forward_mistake(signal, noise, t, a)
    for name, got, want in (("x₀: √ᾱ_t", signal, a[t].sqrt()), ("ε: √(1−ᾱ_t)", noise, (1 - a[t]).sqrt())):
        worst = int((got - want).abs().argmax())
        passed = bool((got - want).abs().max() < 1e-6)
        expected = f"{want[worst]:.6f} at t = {t[worst]}"
        checklist.add(f"factor of {name}", passed, expected, f"{got[worst]:.6f}", suspect)
    total_variance = signal**2 + noise**2
    worst = int((total_variance - 1).abs().argmax())
    passed = bool((total_variance - 1).abs().max() < 1e-6)
    checklist.add("the variance stays 1", passed, "1", f"{total_variance[worst]:.6f} at t = {t[worst]}", suspect)
    chain_signal, chain_variance = _chain_single_steps(schedule)
    error = max((signal - chain_signal[t]).abs().max().item(), (noise**2 - chain_variance[t]).abs().max().item())
    checklist.add("equals t single noising steps", error < 1e-6, "error 0", f"error {error:.2g}", suspect)
    _add_broadcasting_checks(checklist, diffuse, signal, noise, t)
    return checklist.report()


def _measure_factors(diffuse: Diffuse, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Return the factors of x₀ and of ε at each timestep, shape (len(t),) each."""
    ones, zeros = torch.ones(len(t), 1, 1, 1, dtype=torch.float64), torch.zeros(len(t), 1, 1, 1, dtype=torch.float64)
    signal = diffuse(ones.clone(), t.clone(), zeros.clone(), schedule).flatten().double()
    return signal, diffuse(zeros, t.clone(), ones, schedule).flatten().double()


def find_forward_mistake(signal: Tensor, noise: Tensor, t: Tensor, alpha_bar: Tensor) -> Mistake | str:
    """Return the mistake that explains these factors of x₀ (signal) and ε (noise) at the timesteps t."""
    a = alpha_bar[t]
    beta = 1 - a / alpha_bar[t - 1]
    T = len(alpha_bar) - 1
    tau, reverse = t.double() / T, alpha_bar[T - t]
    hypotheses = [
        (mistakes.NOISE_WITHOUT_ROOT, a.sqrt(), 1 - a),
        (mistakes.SIGNAL_WITHOUT_ROOT, a, (1 - a).sqrt()),
        (mistakes.SWAPPED, (1 - a).sqrt(), a.sqrt()),
        (mistakes.ON_THE_LINE, 1 - tau, tau),
        *((mistakes.TIME_REVERSED, *factors) for factors in ((tau, 1 - tau), (reverse.sqrt(), (1 - reverse).sqrt()))),
        *((mistakes.BETA_FOR_ALPHA_BAR, b.sqrt(), (1 - b).sqrt()) for b in (beta, 1 - beta)),
    ]
    for shift in (-1, 1):
        b = alpha_bar[(t + shift).clamp(max=len(alpha_bar) - 1)]  # beyond the table, the code clamps t or raises
        hypotheses.append((mistakes.OFF_BY_ONE, b.sqrt(), (1 - b).sqrt()))
    for mistake, wrong_signal, wrong_noise in hypotheses:
        if (signal - wrong_signal).abs().max() < 1e-6 and (noise - wrong_noise).abs().max() < 1e-6:
            return mistake
    return "x_t is not √ᾱ_t x₀ + √(1−ᾱ_t) ε"


def _chain_single_steps(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Return the factor of x₀ and the variance of the noise after t single noising steps, shape (T+1,) each.

    A single step is x_t = √(1−β_t) x_{t−1} + √β_t ε.
    """
    signal, variance = [1.0], [0.0]
    for beta in schedule.beta[1:].tolist():
        signal.append((1 - beta) ** 0.5 * signal[-1])
        variance.append((1 - beta) * variance[-1] + beta)
    return torch.tensor(signal, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)


def _add_broadcasting_checks(checklist: Checklist, diffuse: Diffuse, signal: Tensor, noise: Tensor, t: Tensor) -> None:
    """Check a batch with B = C = H = W = 3. There, factors of shape (B,) broadcast over columns without an error."""
    chosen = torch.tensor([0, len(t) // 2, len(t) - 1])
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 3, 3, 3, generator=generator, dtype=torch.float64)
    x0_before, eps_before = x0.clone(), eps.clone()
    x_t = checklist.attempt("batch of shape (3, 3, 3, 3)", lambda: diffuse(x0, t[chosen], eps, linear()))
    if x_t is None:
        return
    want = signal[chosen].view(3, 1, 1, 1) * x0_before + noise[chosen].view(3, 1, 1, 1) * eps_before
    passed = x_t.shape == want.shape and bool(torch.allclose(x_t.double(), want, rtol=0, atol=1e-6))
    mistake = "the factors are broadcast over columns instead of images (reshape them to (B, 1, 1, 1))"
    checklist.require("each image has its own t", passed, "own t", "mixed up", mistake)
    unchanged = torch.equal(x0, x0_before) and torch.equal(eps, eps_before)
    checklist.require(
        "x0 and eps are not modified", unchanged, "unchanged", "changed", "x0 or eps is modified in place"
    )


@report_exceptions
def check_conversions(
    target: Callable[..., Tensor] = process.target,
    to_x0: Callable[..., Tensor] = process.to_x0,
    to_eps: Callable[..., Tensor] = process.to_eps,
) -> Report:
    """Check the conversions between ε, x₀, v = √ᾱ_t ε − √(1−ᾱ_t) x₀ and u = ε − x₀, with errors below 1e-10 in float64.

    Code that does not know "flow", the prediction of u, passes too.

    The functions have the signatures of those in diffusion/process.py.
    """
    schedule = linear()
    checklist = Checklist("conversions", "Salimans & Ho 2022, section 4")
    t = torch.arange(1, schedule.T + 1)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, len(t), 1, 2, 2, generator=generator, dtype=torch.float64)
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    v, u = a.sqrt() * eps - (1 - a).sqrt() * x0, eps - x0

    def as_eps(velocity: Tensor) -> Tensor:
        return (x_t - (1 - a).sqrt() * velocity) / a.sqrt()

    v_formula, u_formula = "v = √ᾱ_t ε − √(1−ᾱ_t) x₀", "u = ε − x₀"
    typical: dict[str, tuple[tuple[Mistake, Tensor], ...]] = {
        v_formula: ((mistakes.V_SIGN, -v),),
        "v → x0": ((mistakes.V_SIGN, a.sqrt() * x_t + (1 - a).sqrt() * v), (mistakes.VELOCITY_AS_EPS, as_eps(v))),
        u_formula: ((mistakes.FLOW_SIGN, -u), (mistakes.V_FOR_FLOW, v)),
        "flow → x0": (
            (mistakes.FLOW_SIGN, (x_t + (1 - a).sqrt() * u) / (a.sqrt() + (1 - a).sqrt())),
            (mistakes.VELOCITY_AS_EPS, as_eps(u)),
            (mistakes.V_FOR_FLOW, a.sqrt() * x_t - (1 - a).sqrt() * u),
        ),
    }

    def add_check(name: str, call: Callable[[], Tensor], want: Tensor, mistake: Mistake | str) -> None:
        got = checklist.attempt(name, call)
        if got is not None:
            error = (got - want).abs().max().item()
            named = [wrong for wrong, value in typical.get(name, ()) if torch.allclose(got, value)]
            suspect = named[0] if named else mistake
            checklist.add(name, error < 1e-10, "error < 1e-10", f"error {error:.2g}", suspect)

    def knows_flow() -> bool:
        """Whether "flow" is known: code that does not know it raises, or returns the same as for another prediction."""
        try:
            ours, inverse = target("flow", x0, t, eps, schedule), to_x0("flow", u, x_t, t, schedule)
        except Exception:
            return False
        others = [(target(p, x0, t, eps, schedule), to_x0(p, u, x_t, t, schedule)) for p in ("eps", "x0", "v")]
        return not any(torch.equal(ours, one) and torch.equal(inverse, other) for one, other in others)

    def convert_and_invert(prediction: str) -> Tensor:
        return to_x0(prediction, target(prediction, x0, t, eps, schedule), x_t, t, schedule)

    add_check(v_formula, lambda: target("v", x0, t, eps, schedule), v, f"{v_formula} does not hold")
    outputs = {"eps": eps, "x0": x0, "v": v}
    if knows_flow():
        outputs["flow"] = u
        add_check(u_formula, lambda: target("flow", x0, t, eps, schedule), u, f"{u_formula} does not hold")
    else:
        checklist.skip(u_formula, 'prediction "flow" is not known', required=False)
    for name, output in outputs.items():
        call = partial(to_x0, name, output, x_t, t, schedule)
        add_check(f"{name} → x0", call, x0, f"the conversion from {name} to x₀ is wrong")
        mistake = f"converting x₀ to {name} and back does not return x₀"
        add_check(f"x0 → {name} → x0", partial(convert_and_invert, name), x0, mistake)
    mistake = "the conversion from x₀ to ε is not (x_t − √ᾱ_t x₀)/√(1−ᾱ_t)"
    add_check("x0 → eps", lambda: to_eps(x0, x_t, t, schedule), eps, mistake)
    return checklist.report()


@report_exceptions
def check_posterior(posterior: Posterior) -> Report:
    """Check that ``posterior(x0, x_t, t, s, schedule)`` returns the (mean, variance) of q(x_s | x_t, x₀).

    Steps that skip timesteps, s < t − 1, are checked too (Ho et al. 2020, equations 6 and 7).

    It is called with x0 and x_t (B, 1, 1, 1) float64, ints s < t, and the linear schedule, T = 1000.
    """
    schedule = linear()
    alpha_bar: list[float] = schedule.alpha_bar.tolist()
    checklist = Checklist(name_of(posterior, "posterior"), "Ho et al. 2020, equations 6 and 7")
    image = torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1, 1)

    def measure(t: int, s: int) -> ObservedUpdate:
        mean, variance = posterior(image, image.flip(0), t, s, schedule)
        of_x0, of_x = mean.flatten().tolist()
        variance = variance.flatten()[0].item() if isinstance(variance, Tensor) else float(variance)
        std = variance**0.5 if variance >= 0 else float("nan")
        return ObservedUpdate(t, s, 1.0, False, Update(of_x, of_x0, std))

    pairs = ((1, 0), (2, 1), (1000, 999), (1000, 980), (500, 447), (20, 0))
    results = [checklist.attempt(f"{t} → {s}", partial(measure, t, s)) for t, s in pairs]
    updates = [update for update in results if update is not None]
    causes = find_mistakes(updates, alpha_bar)
    suspect = causes[0] if causes else "the mean or the variance is wrong"
    for observed in updates:
        want = correct_update(alpha_bar[observed.t], alpha_bar[observed.s], 1.0)
        name = f"{observed.t} → {observed.s}: mean ± standard deviation"
        passed = is_correct(observed, alpha_bar)
        checklist.add(name, passed, _format_update(want), _format_update(observed.update), suspect)
    variances = {(observed.t, observed.s): observed.update.noise**2 for observed in updates}
    if (1, 0) in variances:
        checklist.add("β̃₁ = 0 exactly", variances[1, 0] == 0, "0", format_number(variances[1, 0]), "β̃₁ is not 0")
    if (2, 1) in variances:
        ratio = variances[2, 1] / schedule.beta[2].item()
        passed = abs(ratio - 0.4547357658) < 1e-9
        checklist.add("β̃₂/β₂", passed, "0.4547357658", format_number(ratio), "β̃₂ is wrong")
    return checklist.report()


def _format_update(update: Sequence[float]) -> str:
    of_x, of_x0, std = update
    return f"{of_x0:.6f} x₀ + {of_x:.6f} x_t ± {std:.6f}"
