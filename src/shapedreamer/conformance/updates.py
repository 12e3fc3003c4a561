"""One step of a sampler as three numbers, and which mistake gives numbers like these.

A step t → s of DDPM or DDIM is linear: x_s = c_x x_t + c_0 x̂₀ + c_n z. With a = ᾱ_t, b = ᾱ_s and the coefficient d of
the direction back to x_t (Song et al. 2021, equation 12, with ε̂ = (x_t − √a x̂₀)/√(1−a)):

    c_x = d/√(1−a),    c_0 = √b − d √(a/(1−a)),    c_n = σ,    d = √(1−b−σ²),    σ² = η² (1−b)/(1−a) · (1−a/b).

η = 1 is the posterior of the chain that has only the visited times, mean and variance.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from . import mistakes
from .mistakes import Mistake

TOLERANCE = 2e-6
"""Of a coefficient: above the rounding of float32 images, below what any of the mistakes does in the runs looked at."""


class Update(NamedTuple):
    """x_s = x · x_t + x0 · x̂₀ + noise · z."""

    x: float
    x0: float
    noise: float


class Seen(NamedTuple):
    """The update that a sampler made from t to s; it was asked for this eta, or for β as variance (with eta = 1)."""

    t: int
    s: int
    eta: float
    beta: bool
    update: Update


def right(a: float, b: float, eta: float, beta: bool = False) -> Update:
    """The update from ᾱ_t = a to ᾱ_s = b; beta: noise of variance 1 − a/b instead of the posterior's, but for b = 1."""
    fresh = eta**2 * (1 - b) * _ratio(1 - a / b, 1 - a)  # σ²; negative, if at all, for a mistaken step up to b < a
    return _step(a, b, _root(1 - b - fresh), _root(1 - a / b) * (b < 1) if beta else _root(fresh))


def is_right(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    """Whether the update is what it should be. Below t = 0 nothing is."""
    if seen.s < 0:
        return False
    return _same(seen.update, right(alpha_bar[seen.t], alpha_bar[seen.s], seen.eta, seen.beta))


def explain(seen: Sequence[Seen], alpha_bar: Sequence[float]) -> list[Mistake]:
    """The mistakes behind the updates that are wrong: [] if none is, and also if some stay unexplained, for then the
    others may be mere coincidence. One mistake that explains all is better than several that each explain some."""
    wrong = [each for each in seen if not is_right(each, alpha_bar)]
    for mistake, fits in _HYPOTHESES:
        if wrong and all(fits(each, alpha_bar) for each in wrong):
            return [mistake]
    found = [next((mistake for mistake, fits in _HYPOTHESES if fits(each, alpha_bar)), None) for each in wrong]
    named = [mistake for mistake in found if mistake is not None]
    return list(dict.fromkeys(named)) if len(named) == len(found) else []


def _ratio(over: float, under: float) -> float:
    return over / under if under else math.nan


def _root(square: float) -> float:
    if square >= 0:
        return math.sqrt(square)
    return 0.0 if square > -1e-12 else math.nan


def _step(a: float, b: float, direction: float, noise: float) -> Update:
    x = _ratio(direction, _root(1 - a))
    return Update(x, _root(b) - x * _root(a), noise)


def _same(one: Update, other: Update, tolerance: float = TOLERANCE) -> bool:
    return all(abs(p - q) <= tolerance for p, q in zip(one, other, strict=True))


def _fits(seen: Seen, update: Update) -> bool:
    """Equal, or, at the end, equal but for the noise, which a guard for the last step may have left out."""
    return _same(seen.update, update) or (seen.s <= 0 and _same(seen.update, update._replace(noise=0.0)))


Fits = Callable[[Seen, Sequence[float]], bool]


def _last_alpha_bar(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    return seen.s == 0 and _fits(seen, right(alpha_bar[seen.t], alpha_bar[1], seen.eta, seen.beta))


def _noise_on_last(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    want = right(alpha_bar[seen.t], 1.0, seen.eta)
    return seen.s == 0 and seen.update.noise > TOLERANCE and _same(seen.update._replace(noise=0.0), want)


def _wraparound(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    if seen.s > 0:
        return False
    # a list that runs past 0 does so by at most one stride, which the last one, t − 0, need not be
    indices = range(-1, -min(len(alpha_bar) // 2, 128), -1) if seen.s == 0 else (seen.s,)
    ends = [alpha_bar[index] for index in indices]
    # there ᾱ_s < ᾱ_t, and the radicand of σ is negative: a guard makes it 0
    return any(_fits(seen, right(alpha_bar[seen.t], b, eta, seen.beta)) for b in ends for eta in (0.0, seen.eta))


def _shifted(at_t: int, at_s: int) -> Fits:
    def fits(seen: Seen, alpha_bar: Sequence[float]) -> bool:
        t, s = seen.t + at_t, seen.s + at_s
        if seen.s < 0 or max(t, s) >= len(alpha_bar):
            return False
        ends = (s,) if s >= 0 else (s, 0)  # at the last step an index of −1 may or may not be guarded
        return any(_fits(seen, right(alpha_bar[t], alpha_bar[end], seen.eta, seen.beta)) for end in ends)

    return fits


def _sigma_as_direction(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[seen.t], alpha_bar[seen.s]
    want = right(a, b, seen.eta, seen.beta)
    return _same(seen.update, _step(a, b, want.noise, want.noise))


def _beta_of_one_step(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    return seen.t - seen.s > 1 and any(_fits(seen, update) for update in _one_step_updates(seen, alpha_bar))


def _one_step_updates(seen: Seen, alpha_bar: Sequence[float]) -> Iterator[Update]:
    a, b, before = alpha_bar[seen.t], alpha_bar[seen.s], alpha_bar[seen.t - 1]
    beta = 1 - a / before
    for variance in (beta, beta * (1 - before) / (1 - a), beta * (1 - b) / (1 - a)):
        noise = seen.eta * math.sqrt(variance)
        for update in (right(a, b, seen.eta), right(a, before, seen.eta), right(a, before, 1.0)):
            yield update._replace(noise=noise)  # the mean of the stride, or that of one step too
        yield _step(a, b, math.sqrt(max(1 - b - noise**2, 0.0)), noise)  # as DDIM's σ


def _no_noise(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[seen.t], alpha_bar[seen.s]
    return seen.s > 0 and any(_same(seen.update, right(a, b, eta)._replace(noise=0.0)) for eta in (seen.eta, 1.0))


def _variance_as_std(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    want = right(alpha_bar[seen.t], alpha_bar[seen.s], seen.eta, seen.beta)
    return _same(seen.update, want._replace(noise=want.noise**2))


def _direction_keeps_sigma(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[seen.t], alpha_bar[seen.s]
    return _same(seen.update, _step(a, b, _root(1 - b), right(a, b, seen.eta, seen.beta).noise))


def _beta_for_posterior(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    a, b = alpha_bar[seen.t], alpha_bar[seen.s]
    return _same(seen.update, right(a, b, 1.0)._replace(noise=_root(1 - a / b)))


def _single_precision(seen: Seen, alpha_bar: Sequence[float]) -> bool:
    return seen.s >= 0 and _same(seen.update, right(alpha_bar[seen.t], alpha_bar[seen.s], seen.eta, seen.beta), 5e-4)


_SHIFTS = ((-1, -1), (-1, 0), (0, -1), (1, 1), (1, 0), (0, 1))
# What touches the last step alone comes first: the others could explain it too, and much that is right besides.
_HYPOTHESES: tuple[tuple[Mistake, Fits], ...] = (
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
