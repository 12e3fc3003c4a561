"""One step of a sampler as three coefficients, and the mistakes that explain wrong ones.

A DDPM or DDIM step from t to s is linear: x_s = c_x x_t + c_0 x̂₀ + c_n z, where z is standard normal noise. Let
a = ᾱ_t and b = ᾱ_s, and let d be the coefficient of the predicted noise ε̂ = (x_t − √a x̂₀)/√(1−a), the direction
pointing to x_t. Then (Song et al. 2021, equation 12):

    c_x = d/√(1−a),    c_0 = √b − d √(a/(1−a)),    c_n = σ,    d = √(1−b−σ²),    σ² = η² (1−b)/(1−a) · (1−a/b).

η = 1 gives the mean and variance of the posterior, for the chain that contains only the visited timesteps.

Seen another way, x_s = √b x̂₀ + d ε̂ + σ z: signal, direction and noise. Their squares add up to 1 for every step that
keeps the variance of x_s, so ``end_of`` can tell at which ᾱ such a step ends.

``find_mistakes`` compares the coefficients of a sampler with those that each known mistake would produce.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import mistakes
from .mistakes import Mistake

TOLERANCE = 2e-6
"""Allowed error of a coefficient: above float32 rounding, below the effect of any mistake in the recorded runs."""
ROUNDING = 5e-7
"""Error of ᾱ in tables computed in float32."""


class Update(NamedTuple):
    """The coefficients of one step: x_s = x · x_t + x0 · x̂₀ + noise · z."""

    x: float
    x0: float
    noise: float


class ObservedUpdate(NamedTuple):
    """The update that a sampler made from t to s, and what was requested: eta, or the variance β (with eta = 1).

    steps:     the number of steps requested in this run, 0 if there is no run
    tolerance: allowed error of a coefficient when a mistake is looked for
    any_sigma: any amount of fresh noise is right, as for a sampler without eta that is neither DDIM nor DDPM
    """

    t: int
    s: int
    eta: float
    beta: bool
    update: Update
    steps: int = 0
    any_sigma: bool = False
    tolerance: float = TOLERANCE


def correct_update(a: float, b: float, eta: float, beta: bool = False) -> Update:
    """Return the correct update from ᾱ_t = a to ᾱ_s = b.

    beta: give the noise the variance 1 − a/b instead of the posterior variance, except in the last step (b = 1)
    """
    # σ²; negative only in a mistaken step, which goes to b < a
    skipped = 1 - _ratio(a, b)
    fresh = eta**2 * (1 - b) * _ratio(skipped, 1 - a) if eta else 0.0
    return _update(a, b, _root(1 - b - fresh), _root(skipped) * (b < 1) if beta else _root(fresh))


def is_correct(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    """Return whether the update is the correct one. An update to s < 0 never is."""
    if observed.s < 0:
        return False
    if observed.any_sigma:
        end = end_of(observed.update, alpha_bar[observed.t])
        return end is not None and abs(math.sqrt(end) - math.sqrt(alpha_bar[observed.s])) <= TOLERANCE
    return _close(observed.update, wanted(observed, alpha_bar))


def is_rounded(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    """Return whether the update is correct but for ᾱ stored in float32, which matters where 1 − ᾱ is small."""
    a, b = alpha_bar[observed.t], alpha_bar[max(observed.s, 0)]
    if observed.s < 0:
        return False
    if observed.any_sigma:
        end = end_of(observed.update, a, 2e-5)
        return end is not None and abs(end - b) <= 2e-5
    want = wanted(observed, alpha_bar)
    shifted = [
        correct_update(max(min(a + i * ROUNDING, 1 - 1e-9), 0.0), min(b + j * ROUNDING, 1.0) if observed.s else b,
                       observed.eta, observed.beta)
        for i in (-1, 1) for j in (-1, 1)
    ]  # fmt: skip
    prediction = 2e-7 * _root(b) / (1 - a)  # if ε̂ is converted to x̂₀ with these tables
    return all(
        abs(got - want_each) <= TOLERANCE + prediction * (k < 2) + max(abs(each[k] - want_each) for each in shifted)
        for k, (got, want_each) in enumerate(zip(observed.update, want, strict=True))
    )


def wanted(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> Update:
    """Return the correct update. If any σ is right, it is the one with the observed noise."""
    a, b = alpha_bar[observed.t], alpha_bar[max(observed.s, 0)]
    if not observed.any_sigma:
        return correct_update(a, b, observed.eta, observed.beta)
    noise = min(abs(observed.update.noise), _root(1 - b))
    return _update(a, b, _root(1 - b - noise**2), noise)


def decompose(update: Update, a: float) -> tuple[float, float, float]:
    """Return the factors of x̂₀, ε̂ and z: x_s = signal · x̂₀ + direction · ε̂ + noise · z."""
    return update.x0 + update.x * _root(a), update.x * _root(1 - a), update.noise


def end_of(update: Update, a: float, tolerance: float = 2 * TOLERANCE) -> float | None:
    """Return the ᾱ at which a step from ᾱ = a ends; None if it does not keep the variance, so that it ends nowhere."""
    signal, direction, noise = decompose(update, a)
    keeps_variance = abs(signal**2 + direction**2 + noise**2 - 1) <= tolerance
    return signal**2 if keeps_variance and signal >= -tolerance and direction >= -tolerance else None


def find_mistakes(observed: Sequence[ObservedUpdate], alpha_bar: Sequence[float]) -> list[Mistake]:
    """Return the mistakes that explain all wrong updates, preferably a single one that explains them all.

    The list is empty if no update is wrong. It is also empty if a wrong update has no explanation, because then the
    explanations of the others may be coincidence.
    """
    for allowance in (0.0, ROUNDING):  # first exactly; then as code with float32 tables would compute it
        if found := _find_mistakes(observed, alpha_bar, allowance):
            return found
    return []


def _find_mistakes(observed: Sequence[ObservedUpdate], alpha_bar: Sequence[float], allowance: float) -> list[Mistake]:
    incorrect = [each for each in observed if not is_correct(each, alpha_bar)]
    incorrect = [each for each in incorrect if not is_rounded(each, alpha_bar)] or incorrect
    wrong = [each._replace(tolerance=TOLERANCE + _ratio(allowance, 1 - alpha_bar[each.t])) for each in incorrect]
    # a timestep that is off by one is so in every step; single steps have another cause
    inner = [each for each in observed if each.s > 0]
    everywhere = sum(not is_correct(each, alpha_bar) for each in inner) >= 0.5 * len(inner)
    # at η = 0 forgotten noise looks like σ as the direction too, so it counts only if it explains everything
    for mistake, explains in ((mistakes.NOISE_FORGOTTEN, _noise_forgotten), *_HYPOTHESES):
        if mistake is mistakes.OFF_BY_ONE and not everywhere:
            continue
        if wrong and all(explains(each, alpha_bar) for each in wrong):
            return [mistake]
    found = [next((mistake for mistake, explains in _HYPOTHESES if explains(each, alpha_bar)), None) for each in wrong]
    named = [mistake for mistake in found if mistake is not None]
    return list(dict.fromkeys(named)) if len(named) == len(found) else []


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def _root(square: float) -> float:
    if square >= 0:
        return math.sqrt(square)
    return 0.0 if square > -1e-12 else math.nan


def _update(a: float, b: float, direction: float, noise: float) -> Update:
    x = _ratio(direction, _root(1 - a))
    return Update(x, _root(b) - x * _root(a), noise)


def _close(one: Update, other: Update, tolerance: float = TOLERANCE) -> bool:
    return all(abs(p - q) <= tolerance for p, q in zip(one, other, strict=True))


def _matches(observed: ObservedUpdate, update: Update) -> bool:
    """Whether both are equal. In the last step the noise may be missing, because the code may have a guard for it."""
    if _close(observed.update, update, observed.tolerance):
        return True
    return observed.s <= 0 and _close(observed.update, update._replace(noise=0.0), observed.tolerance)


# Each function below tells whether one mistake produces the observed update.

Hypothesis = Callable[[ObservedUpdate, Sequence[float]], bool]


def _last_alpha_bar(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    t, s, eta, beta = observed[:4]
    return s == 0 and _matches(observed, correct_update(alpha_bar[t], alpha_bar[1], eta, beta))


def _noise_on_last(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    want = correct_update(alpha_bar[observed.t], 1.0, observed.eta)
    update = observed.update
    return observed.s == 0 and update.noise > TOLERANCE and _close(update._replace(noise=0.0), want, observed.tolerance)


def _wraparound(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    t, s, observed_eta, beta = observed[:4]
    if s > 0:
        return False
    # The timesteps overshoot 0 by at most one stride. The stride is not known here: the last step may be shorter.
    indices = range(-1, -min(len(alpha_bar) // 2, 128), -1) if s == 0 else (s,)
    ends = [alpha_bar[index] for index in indices]
    # At these indices ᾱ_s < ᾱ_t, so σ² is negative, and code with a guard sets it to 0: hence also η = 0.
    return any(
        _matches(observed, correct_update(alpha_bar[t], b, eta, beta)) for b in ends for eta in (0.0, observed_eta)
    )


def _shifted(shift_t: int, shift_s: int) -> Hypothesis:
    def explains(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
        t, s = observed.t + shift_t, observed.s + shift_s
        if observed.s < 0 or max(t, s) >= len(alpha_bar):
            return False
        ends = (s,) if s >= 0 else (s, 0)  # in the last step, the code may have a guard against index −1
        return any(
            _matches(observed, correct_update(alpha_bar[t], alpha_bar[end], observed.eta, observed.beta))
            for end in ends
        )

    return explains


def _sigma_as_direction(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[observed.s]
    want = correct_update(a, b, observed.eta, observed.beta)
    return _close(observed.update, _update(a, b, want.noise, want.noise), observed.tolerance)


def _beta_of_one_step(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    if observed.t - observed.s <= 1:
        return False
    return any(_matches(observed, update) for update in _single_step_updates(observed, alpha_bar))


def _single_step_updates(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> Iterator[Update]:
    """The updates with the variance β_t or β̃_t of a single step, for each way to compute the mean."""
    a, b, before = alpha_bar[observed.t], alpha_bar[observed.s], alpha_bar[observed.t - 1]
    beta = 1 - a / before
    for variance in (beta, beta * (1 - before) / (1 - a), beta * (1 - b) / (1 - a)):
        noise = observed.eta * math.sqrt(variance)
        # the mean of the whole step, then that of a single step
        for update in (correct_update(a, b, observed.eta), correct_update(a, before, observed.eta),
                       correct_update(a, before, 1.0)):  # fmt: skip
            yield update._replace(noise=noise)
        yield _update(a, b, math.sqrt(max(1 - b - noise**2, 0.0)), noise)  # the mean of DDIM with this σ


def _velocity_as_eps(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    """Whether the step adds û = ε̂ − x̂₀ or v̂ = √a ε̂ − √(1−a) x̂₀ where ε̂ belongs."""
    a, b = alpha_bar[observed.t], alpha_bar[max(observed.s, 0)]
    noise = correct_update(a, b, observed.eta, observed.beta).noise
    direction = _root(1 - b - noise**2)
    right = _update(a, b, direction, noise)  # x_s = x · x_t + x0 · x̂₀ + noise · z
    flow = right._replace(x0=right.x0 - direction)
    of_v = _update(a, b, direction * _root(a), noise)
    v = of_v._replace(x0=of_v.x0 - direction * _root(1 - a))
    return observed.s > 0 and any(_close(observed.update, wrong, observed.tolerance) for wrong in (flow, v))


def _flow_sign(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    """Whether the step follows û on the line of flow matching the wrong way, from τ_t to 2τ_t − τ_s."""
    a, b = alpha_bar[observed.t], alpha_bar[max(observed.s, 0)]
    (scale_t, tau_t), (scale_s, tau_s) = ((_root(p) + _root(1 - p), _root(1 - p)) for p in (a, b))
    tau_t, tau_s = tau_t / scale_t, tau_s / scale_s
    step = _ratio(tau_s - tau_t, tau_t)  # û = (z − x̂₀)/τ
    wrong = Update(scale_s / scale_t * (1 - step), scale_s * step, 0.0)
    return _close(observed.update, wrong, observed.tolerance)


def _no_noise(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[observed.s]
    means = (correct_update(a, b, eta)._replace(noise=0.0) for eta in (observed.eta, 1.0))
    return observed.s > 0 and any(_close(observed.update, mean, observed.tolerance) for mean in means)


def _variance_as_std(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    want = correct_update(alpha_bar[observed.t], alpha_bar[observed.s], observed.eta, observed.beta)
    return _close(observed.update, want._replace(noise=want.noise**2), observed.tolerance)


def _direction_keeps_sigma(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[observed.s]
    noise = correct_update(a, b, observed.eta, observed.beta).noise
    return _close(observed.update, _update(a, b, _root(1 - b), noise), observed.tolerance)


def _beta_for_posterior(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[observed.s]
    return _close(observed.update, correct_update(a, b, 1.0)._replace(noise=_root(1 - a / b)), observed.tolerance)


def _fixed_stride(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    t, s, T = observed.t, observed.s, len(alpha_bar) - 1
    if not observed.steps or T % observed.steps == 0 or not 0 <= s < t:
        return False
    stride = T // observed.steps
    # rounding steps T / n instead of T // n; and 0-based libraries stop at their 0, our 1
    ends = {max(t - step, low) for step in (stride, stride + 1) for low in (0, 1)} - {s}
    return any(_ends_at(observed, alpha_bar, alpha_bar[end]) for end in ends)


def _ends_at(observed: ObservedUpdate, alpha_bar: Sequence[float], b: float) -> bool:
    """Whether the update is the correct one to ᾱ = b, or, if any σ is right, one that ends there."""
    a = alpha_bar[observed.t]
    if not observed.any_sigma:
        return _matches(observed, correct_update(a, b, observed.eta, observed.beta))
    end = end_of(observed.update, a)
    return end is not None and abs(math.sqrt(end) - math.sqrt(b)) <= observed.tolerance


def _ends_elsewhere(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    end = end_of(observed.update, alpha_bar[observed.t])
    if end is None or not 0 <= observed.s < observed.t:
        return False
    nearest = min(range(len(alpha_bar)), key=lambda u: abs(alpha_bar[u] - end))
    return nearest not in (observed.s, observed.t) and _ends_at(observed, alpha_bar, alpha_bar[nearest])


def _last_sigma(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    if observed.s != 0:
        return False
    signal, direction, noise = decompose(observed.update, alpha_bar[observed.t])
    in_sigma_scale = abs(signal - 1) <= TOLERANCE  # x₀ + σ ε
    keeps_variance = abs(signal**2 + direction**2 + noise**2 - 1) <= 2 * TOLERANCE
    if abs(signal**2 - alpha_bar[1]) < 1e-5:  # this is the σ of t = 1; see _last_alpha_bar
        return False
    return direction > 1e-4 and noise <= TOLERANCE and (in_sigma_scale or keeps_variance)


def _eta_root(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[max(observed.s, 0)]
    if not 0 < observed.eta < 1:
        return False
    want = correct_update(a, b, math.sqrt(observed.eta))
    stale = correct_update(a, b, observed.eta)._replace(noise=want.noise)
    return _matches(observed, want) or _matches(observed, stale)


def _beta_for_alpha_bar(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    t, s, update = observed.t, max(observed.s, 0), observed.update
    if t < 1:
        return False
    a, b = alpha_bar[t], alpha_bar[s]
    beta_t = 1 - a / alpha_bar[t - 1]
    beta_s = 1 - b / alpha_bar[s - 1] if s else 0.0
    etas = {observed.eta, 0.0}
    pairs = ((1 - beta_t, 1 - beta_s), (1 - beta_t, b), (a, 1 - beta_s), (beta_t, beta_s), (beta_t, b), (a, beta_s))
    if any(_matches(observed, correct_update(p, q, eta, observed.beta)) for p, q in pairs for eta in etas):
        return True
    # algorithm 2 of DDPM with the right ε̂: (x_t − β_t/√(1−ᾱ_t) ε̂)/√(1−β_t), but β_t in the place of 1−ᾱ_t
    for denominator in (beta_t, 1 - beta_t):
        factor = _ratio(beta_t, _root(denominator))
        of_x, of_eps = 1 / _root(1 - beta_t), -factor / _root(1 - beta_t)
        mean = Update(of_x + of_eps / _root(1 - a), -of_eps * _root(a) / _root(1 - a), update.noise)
        if s == t - 1 and _close(update, mean):
            return True
    return False


def _noise_forgotten(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    _, direction, noise = decompose(observed.update, alpha_bar[observed.t])
    return observed.s > 0 and abs(direction) <= TOLERANCE and noise <= TOLERANCE


def _compare_parts(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> tuple[bool, bool, bool]:
    """Whether signal, direction and noise are right."""
    a = alpha_bar[observed.t]
    got, want = decompose(observed.update, a), decompose(wanted(observed, alpha_bar), a)
    signal, direction, noise = (abs(p - q) <= 2 * TOLERANCE for p, q in zip(got, want, strict=True))
    return signal, direction, noise


_SHIFTS = ((-1, -1), (-1, 0), (0, -1), (1, 1), (1, 0), (0, 1))
# Mistakes of the last step come first: the others can match a wrong last step too, and then name the wrong cause.
_HYPOTHESES: tuple[tuple[Mistake, Hypothesis], ...] = (
    (mistakes.LAST_ALPHA_BAR, _last_alpha_bar),
    (mistakes.NOISE_ON_LAST_STEP, _noise_on_last),
    (mistakes.WRAPAROUND, _wraparound),
    (mistakes.LAST_SIGMA, _last_sigma),
    (mistakes.FIXED_STRIDE, _fixed_stride),
    (mistakes.ETA_ROOT, _eta_root),
    (mistakes.SIGMA_AS_DIRECTION, _sigma_as_direction),
    (mistakes.BETA_OF_ONE_STEP, _beta_of_one_step),
    (mistakes.NO_NOISE, _no_noise),
    (mistakes.VARIANCE_AS_STD, _variance_as_std),
    (mistakes.DIRECTION_KEEPS_SIGMA, _direction_keeps_sigma),
    (mistakes.BETA_FOR_POSTERIOR, _beta_for_posterior),
    *((mistakes.OFF_BY_ONE, _shifted(*shift)) for shift in _SHIFTS),
    (mistakes.BETA_FOR_ALPHA_BAR, _beta_for_alpha_bar),
    (mistakes.VELOCITY_AS_EPS, _velocity_as_eps),
    (mistakes.FLOW_SIGN, _flow_sign),
    (mistakes.ENDS_ELSEWHERE, _ends_elsewhere),
)
# If none of these fits, the parts of the step say at least which of its factors is wrong.
_PARTS: tuple[tuple[Mistake, tuple[bool, bool, bool]], ...] = (
    (mistakes.WRONG_DIRECTION, (True, False, True)),
    (mistakes.WRONG_SIGNAL, (False, True, True)),
    (mistakes.WRONG_NOISE, (True, True, False)),
)


def wrong_part(observed: Sequence[ObservedUpdate], alpha_bar: Sequence[float]) -> Mistake | None:
    """Return which factor is wrong in every wrong update, if it is the same one and the others are right."""
    wrong = [each for each in observed if each.s >= 0 and not is_correct(each, alpha_bar)]
    found = {_compare_parts(each, alpha_bar) for each in wrong}
    return next((mistake for mistake, parts in _PARTS if found == {parts}), None)
