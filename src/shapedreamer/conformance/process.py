"""Checks of the forward process, of the conversions between ε, x₀ and v, and of the posterior."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..diffusion import process
from ..diffusion.schedule import Schedule, linear
from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, number, title_of, unfailing
from .updates import Seen, Update, explain, is_right, right

Diffuse = Callable[[Tensor, Tensor, Tensor, Schedule], Tensor]
Posterior = Callable[[Tensor, Tensor, int, int, Schedule], tuple[Tensor, Any]]


@unfailing
def check_forward(diffuse: Diffuse) -> Report:
    """Whether diffuse(x0, t, eps, schedule) -> x_t is √ᾱ_t x₀ + √(1−ᾱ_t) ε (Ho et al. 2020, equation 4).

    It gets images (B, C, H, W) float64, t (B,) int64 in 1…T, and the linear schedule, T = 1000.
    """
    schedule = linear()
    rows = Checklist(title_of(diffuse, "diffuse"), "Ho et al. 2020, equation 4")
    t = torch.arange(1, schedule.T + 1)
    weights = rows.attempt("t = 1…T", lambda: _weights(diffuse, t, schedule))
    if weights is None:  # a t that is off by one finds its entry everywhere but at the ends
        t = t[1:-1]
        try:
            weights = _weights(diffuse, t, schedule)
        except Exception:
            return rows.report()
    signal, noise = weights
    a = schedule.alpha_bar
    suspect = forward_mistake(signal, noise, t, a)
    for name, got, want in (("image: √ᾱ_t", signal, a[t].sqrt()), ("noise: √(1−ᾱ_t)", noise, (1 - a[t]).sqrt())):
        at = int((got - want).abs().argmax())
        good = bool((got - want).abs().max() < 1e-6)
        rows.add(f"weight of the {name}", good, f"{want[at]:.6f} at t = {t[at]}", f"{got[at]:.6f}", suspect)
    kept = signal**2 + noise**2
    at = int((kept - 1).abs().argmax())
    rows.add(
        "unit variance is kept", bool((kept - 1).abs().max() < 1e-6), "1", f"{kept[at]:.6f} at t = {t[at]}", suspect
    )
    chain_signal, chain_variance = _chain(schedule)
    apart = max((signal - chain_signal[t]).abs().max().item(), (noise**2 - chain_variance[t]).abs().max().item())
    rows.add("agrees with one-step noising, chained", apart < 1e-6, "0", f"{apart:.2g} apart", suspect)
    _row_of_shapes(rows, diffuse, signal, noise, t)
    return rows.report()


def _weights(diffuse: Diffuse, t: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """The factors of x₀ and ε at each time: (len(t),) each."""
    one, none = torch.ones(len(t), 1, 1, 1, dtype=torch.float64), torch.zeros(len(t), 1, 1, 1, dtype=torch.float64)
    signal = diffuse(one.clone(), t.clone(), none.clone(), schedule).flatten().double()
    return signal, diffuse(none, t.clone(), one, schedule).flatten().double()


def forward_mistake(signal: Tensor, noise: Tensor, t: Tensor, alpha_bar: Tensor) -> Mistake | str:
    """The mistake that gives weights like these."""
    a = alpha_bar[t]
    guesses = [
        (mistakes.NOISE_WITHOUT_ROOT, a.sqrt(), 1 - a),
        (mistakes.SIGNAL_WITHOUT_ROOT, a, (1 - a).sqrt()),
        (mistakes.SWAPPED, (1 - a).sqrt(), a.sqrt()),
    ]
    for shift in (-1, 1):
        b = alpha_bar[(t + shift).clamp(max=len(alpha_bar) - 1)]  # beyond the table the index is guarded, or it raises
        guesses.append((mistakes.OFF_BY_ONE, b.sqrt(), (1 - b).sqrt()))
    for mistake, of_signal, of_noise in guesses:
        if (signal - of_signal).abs().max() < 1e-6 and (noise - of_noise).abs().max() < 1e-6:
            return mistake
    return "x_t is not √ᾱ x₀ + √(1−ᾱ) ε"


def _chain(schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Factor of x₀ and variance of the noise after t single steps x_t = √(1−β_t) x_{t−1} + √β_t ε: (T+1,) each."""
    signal, variance = [1.0], [0.0]
    for beta in schedule.beta[1:].tolist():
        signal.append((1 - beta) ** 0.5 * signal[-1])
        variance.append((1 - beta) * variance[-1] + beta)
    return torch.tensor(signal, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)


def _row_of_shapes(rows: Checklist, diffuse: Diffuse, signal: Tensor, noise: Tensor, t: Tensor) -> None:
    """A batch whose B, C, H and W are all 3, where a factor per image that lines up with the columns does not raise."""
    pick = torch.tensor([0, len(t) // 2, len(t) - 1])
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 3, 3, 3, 3, generator=generator, dtype=torch.float64)
    kept = x0.clone(), eps.clone()
    x_t = rows.attempt("images of 3 × 3 × 3", lambda: diffuse(x0, t[pick], eps, linear()))
    if x_t is None:
        return
    want = signal[pick].view(3, 1, 1, 1) * kept[0] + noise[pick].view(3, 1, 1, 1) * kept[1]
    good = x_t.shape == want.shape and bool(torch.allclose(x_t.double(), want, rtol=0, atol=1e-6))
    got = "its own" if good else "mixed up"
    rows.add(
        "each image of a batch has its own t", good, "its own", got, "the factors line up with columns, not images"
    )
    same = torch.equal(x0, kept[0]) and torch.equal(eps, kept[1])
    rows.add(
        "x0 and eps stay as they were", same, "unchanged", "unchanged" if same else "changed", "x0 is changed in place"
    )


@unfailing
def check_conversions(
    target: Callable[..., Tensor] = process.target,
    to_x0: Callable[..., Tensor] = process.to_x0,
    to_eps: Callable[..., Tensor] = process.to_eps,
) -> Report:
    """Whether ε ↔ x₀ ↔ v goes round to 1e-10 in float64, and v is √ᾱ ε − √(1−ᾱ) x₀. Signatures as in process.py."""
    schedule = linear()
    rows = Checklist("conversions", "Salimans & Ho 2022, section 4")
    t = torch.arange(1, schedule.T + 1)
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, len(t), 1, 2, 2, generator=generator, dtype=torch.float64)
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    v = a.sqrt() * eps - (1 - a).sqrt() * x0

    def row(name: str, call: Callable[[], Tensor], want: Tensor, mistake: Mistake | str) -> None:
        got = rows.attempt(name, call)
        if got is not None:
            error = (got - want).abs().max().item()
            named = mistakes.V_SIGN if want is v and torch.allclose(got, -v) else mistake
            rows.add(name, error < 1e-10, "error < 1e-10", f"error {error:.2g}", named)

    def around(name: str) -> Tensor:
        return to_x0(name, target(name, x0, t, eps, schedule), x_t, t, schedule)

    row("v = √ᾱ ε − √(1−ᾱ) x₀", lambda: target("v", x0, t, eps, schedule), v, "v is not √ᾱ ε − √(1−ᾱ) x₀")
    for name, output in (("eps", eps), ("x0", x0), ("v", v)):
        row(f"{name} → x0", partial(to_x0, name, output, x_t, t, schedule), x0, f"x₀ from {name} is wrong")
        row(f"x0 → {name} → x0", partial(around, name), x0, f"{name} and back is not x₀")
    row("x0 → eps", lambda: to_eps(x0, x_t, t, schedule), eps, "ε from x₀ is not (x_t − √ᾱ x₀)/√(1−ᾱ)")
    return rows.report()


@unfailing
def check_posterior(posterior: Posterior) -> Report:
    """Whether posterior(x0, x_t, t, s, schedule) -> (mean, variance) is q(x_s | x_t, x₀), also for strides.

    It gets images (B, 1, 1, 1) float64 and ints s < t (Ho et al. 2020, equations 6 and 7).
    """
    schedule = linear()
    alpha_bar: list[float] = schedule.alpha_bar.tolist()
    rows = Checklist(title_of(posterior, "posterior"), "Ho et al. 2020, equations 6 and 7")
    image = torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1, 1)

    def seen(t: int, s: int) -> Seen:
        mean, variance = posterior(image, image.flip(0), t, s, schedule)
        of_x0, of_x = mean.flatten().tolist()
        variance = variance.flatten()[0].item() if isinstance(variance, Tensor) else float(variance)
        return Seen(t, s, 1.0, False, Update(of_x, of_x0, variance**0.5 if variance >= 0 else float("nan")))

    pairs = ((1, 0), (2, 1), (1000, 999), (1000, 980), (500, 447), (20, 0))
    found = [each for t, s in pairs if (each := rows.attempt(f"{t} → {s}", partial(seen, t, s))) is not None]
    causes = explain(found, alpha_bar)
    for each in found:
        good, want = is_right(each, alpha_bar), right(alpha_bar[each.t], alpha_bar[each.s], 1.0)
        name = f"{each.t} → {each.s}: mean and standard deviation"
        rows.add(
            name,
            good,
            _numbers(want),
            _numbers(each.update),
            causes[0] if causes else "the mean or the variance is wrong",
        )
    variances = {(each.t, each.s): each.update.noise**2 for each in found}
    if (1, 0) in variances:
        rows.add("β̃₁ = 0 exactly", variances[1, 0] == 0, "0", number(variances[1, 0]), "β̃₁ is not 0")
    if (2, 1) in variances:
        ratio = variances[2, 1] / schedule.beta[2].item()
        rows.add("β̃₂/β₂", abs(ratio - 0.4547357658) < 1e-9, "0.4547357658", number(ratio), "β̃₂ is wrong")
    return rows.report()


def _numbers(update: Sequence[float]) -> str:
    of_x, of_x0, std = update
    return f"{of_x0:.6f} x₀ + {of_x:.6f} x_t ± {std:.6f}"
