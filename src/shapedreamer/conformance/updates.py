"""One step of a sampler as three coefficients, and the mistakes that explain wrong ones.

A DDPM or DDIM step from t to s is linear: x_s = c_x x_t + c_0 x̂₀ + c_n z, where z is standard normal noise. Let
a = ᾱ_t and b = ᾱ_s, and let d be the coefficient of the predicted noise ε̂ = (x_t − √a x̂₀)/√(1−a), the direction
pointing to x_t. Then (Song et al. 2021, equation 12):

    c_x = d/√(1−a),    c_0 = √b − d √(a/(1−a)),    c_n = σ,    d = √(1−b−σ²),    σ² = η² (1−b)/(1−a) · (1−a/b).

η = 1 gives the mean and variance of the posterior, for the chain that contains only the visited timesteps.

``find_mistakes`` compares the coefficients of a sampler with those that each known mistake would produce.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import mistakes
from .mistakes import Mistake

TOLERANCE = 2e-6
"""Allowed error of a coefficient: above float32 rounding, below the effect of any mistake in the recorded runs."""


class Update(NamedTuple):
    """The coefficients of one step: x_s = x · x_t + x0 · x̂₀ + noise · z."""

    x: float
    x0: float
    noise: float


class ObservedUpdate(NamedTuple):
    """The update that a sampler made from t to s, and what was requested: eta, or the variance β (with eta = 1)."""

    t: int
    s: int
    eta: float
    beta: bool
    update: Update


def correct_update(a: float, b: float, eta: float, beta: bool = False) -> Update:
    """Return the correct update from ᾱ_t = a to ᾱ_s = b.

    beta: give the noise the variance 1 − a/b instead of the posterior variance, except in the last step (b = 1)
    """
    # σ²; negative only in a mistaken step, which goes to b < a
    fresh = eta**2 * (1 - b) * _ratio(1 - a / b, 1 - a)
    return _update(a, b, _root(1 - b - fresh), _root(1 - a / b) * (b < 1) if beta else _root(fresh))


def is_correct(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    """Return whether the update is the correct one. An update to s < 0 never is."""
    t, s, eta, beta, update = observed
    return s >= 0 and _close(update, correct_update(alpha_bar[t], alpha_bar[s], eta, beta))


def find_mistakes(observed: Sequence[ObservedUpdate], alpha_bar: Sequence[float]) -> list[Mistake]:
    """Return the mistakes that explain all wrong updates, preferably a single one that explains them all.

    The list is empty if no update is wrong. It is also empty if a wrong update has no explanation, because then the
    explanations of the others may be coincidence.
    """
    wrong = [each for each in observed if not is_correct(each, alpha_bar)]
    for mistake, explains in _HYPOTHESES:
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
    if _close(observed.update, update):
        return True
    return observed.s <= 0 and _close(observed.update, update._replace(noise=0.0))


# Each function below tells whether one mistake produces the observed update.

Hypothesis = Callable[[ObservedUpdate, Sequence[float]], bool]


def _last_alpha_bar(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    t, s, eta, beta, _ = observed
    return s == 0 and _matches(observed, correct_update(alpha_bar[t], alpha_bar[1], eta, beta))


def _noise_on_last(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    want = correct_update(alpha_bar[observed.t], 1.0, observed.eta)
    update = observed.update
    return observed.s == 0 and update.noise > TOLERANCE and _close(update._replace(noise=0.0), want)


def _wraparound(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    t, s, observed_eta, beta, _ = observed
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
    return _close(observed.update, _update(a, b, want.noise, want.noise))


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


def _no_noise(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[observed.s]
    means = (correct_update(a, b, eta)._replace(noise=0.0) for eta in (observed.eta, 1.0))
    return observed.s > 0 and any(_close(observed.update, mean) for mean in means)


def _variance_as_std(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    want = correct_update(alpha_bar[observed.t], alpha_bar[observed.s], observed.eta, observed.beta)
    return _close(observed.update, want._replace(noise=want.noise**2))


def _direction_keeps_sigma(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[observed.s]
    noise = correct_update(a, b, observed.eta, observed.beta).noise
    return _close(observed.update, _update(a, b, _root(1 - b), noise))


def _beta_for_posterior(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[observed.t], alpha_bar[observed.s]
    return _close(observed.update, correct_update(a, b, 1.0)._replace(noise=_root(1 - a / b)))


def _single_precision(observed: ObservedUpdate, alpha_bar: Sequence[float]) -> bool:
    t, s, eta, beta, update = observed
    return s >= 0 and _close(update, correct_update(alpha_bar[t], alpha_bar[s], eta, beta), 5e-4)


_SHIFTS = ((-1, -1), (-1, 0), (0, -1), (1, 1), (1, 0), (0, 1))
# Mistakes of the last step come first: the others can match a wrong last step too, and then name the wrong cause.
_HYPOTHESES: tuple[tuple[Mistake, Hypothesis], ...] = (
    (mistakes.LAST_ALPHA_BAR, _last_alpha_bar),
    (mistakes.NOISE_ON_LAST_STEP, _noise_on_last),
    (mistakes.WRAPAROUND, _wraparound),
    (mistakes.SIGMA_AS_DIRECTION, _sigma_as_direction),
    (mistakes.BETA_OF_ONE_STEP, _beta_of_one_step),
    (mistakes.NO_NOISE, _no_noise),
    (mistakes.VARIANCE_AS_STD, _variance_as_std),
    (mistakes.DIRECTION_KEEPS_SIGMA, _direction_keeps_sigma),
    (mistakes.BETA_FOR_POSTERIOR, _beta_for_posterior),
    *((mistakes.OFF_BY_ONE, _shifted(*shift)) for shift in _SHIFTS),
    (mistakes.SINGLE_PRECISION, _single_precision),
)
