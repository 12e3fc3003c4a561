"""Right and wrong answers to lab 9."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

import shapedreamer as sd
from tests.labs.answers import Answers


def slerp_by_loop(a, b, fraction):
    out = torch.empty_like(a)
    for i in range(len(a)):
        w = math.acos(((a[i] * b[i]).sum() / a[i].norm() / b[i].norm()).item())
        out[i] = math.sin((1 - fraction) * w) / math.sin(w) * a[i] + math.sin(fraction * w) / math.sin(w) * b[i]
    return out


class Slerp:
    """Rotates a towards the part of b that is orthogonal to it."""

    def __call__(self, a, b, fraction):
        x, y = a.double().flatten(1), b.double().flatten(1)
        n, m = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
        x, y = x / n, y / m
        angle = (x * y).sum(1, keepdim=True).clamp(-1, 1).arccos()
        weights = [torch.sin(part * angle) / torch.sin(angle) for part in (1 - fraction, fraction)]
        return (weights[0] * x * n + weights[1] * y * m).view(a.shape)


def _angle(a, b):
    return F.cosine_similarity(a.flatten(1), b.flatten(1)).acos().view(-1, 1, 1, 1)


def _circle(a, b, f, angle):
    return (torch.sin((1 - f) * angle) * a + torch.sin(f * angle) * b) / torch.sin(angle)


def one_angle(a, b, f):
    return _circle(a, b, f, F.cosine_similarity(a.flatten(), b.flatten(), dim=0).acos())


def stretched(a, b, f):
    line = ((1 - f) * a + f * b).flatten(1)
    return (line / line.norm(dim=1, keepdim=True) * a.flatten(1).norm(dim=1, keepdim=True)).view(a.shape)


def unit_ends(a, b, f):
    return _circle(F.normalize(a.flatten(1)).view(a.shape), F.normalize(b.flatten(1)).view(a.shape), f, _angle(a, b))


def _ddim(denoise, schedule, x, times):
    return sd.samplers.sample(sd.samplers.ddim(denoise, schedule, x, times))


def variation_by_hand(image, eps, denoise, schedule, times):
    a = schedule.alpha_bar[times[0]].item()
    x = image.mul_(math.sqrt(a)).add_(math.sqrt(1 - a) * eps)
    for t, s in pairwise(times):
        x0 = denoise(x, torch.full((len(x),), t))
        x = sd.process.diffuse(x0, s, sd.process.to_eps(x0, x, t, schedule), schedule)
    return x


class Variation:
    def __call__(self, image, eps, denoise, schedule, times):
        x = sd.process.diffuse(image.double(), times[0], eps.double(), schedule)
        for step in sd.samplers.ddim(denoise, schedule, x, times, eta=0.0):
            x = step.x
        return x


def _variation(start):
    """A wrong version: start(image, eps, a) -> x_t, with a = ᾱ at times[0]."""

    def answer(image, eps, denoise, schedule, times):
        return _ddim(denoise, schedule, start(image, eps, schedule.alpha_bar[times[0]].item()), times)

    return answer


def noised_to_T(image, eps, denoise, schedule, times):
    return _ddim(denoise, schedule, sd.process.diffuse(image, schedule.T, eps, schedule), times)


def late_start(image, eps, denoise, schedule, times):
    return _ddim(denoise, schedule, sd.process.diffuse(image, times[0], eps, schedule), times[1:])


def only_noised(image, eps, denoise, schedule, times):
    return sd.process.diffuse(image, times[0], eps, schedule)


def one_call(image, eps, denoise, schedule, times):
    return denoise(only_noised(image, eps, denoise, schedule, times), torch.full((len(image),), times[0]))


def own_noise(image, eps, denoise, schedule, times):
    return variation_by_hand(image, torch.randn_like(eps), denoise, schedule, times)


def kept_in_place(denoise, image, keep):
    def kept(x_t, t):
        x0 = denoise(x_t, t).clone()
        mask = keep.expand(x0.shape)
        x0[mask] = image[mask]
        return x0

    return kept


class Kept:
    def __init__(self, denoise, image, keep):
        self.denoise, self.image, self.keep = denoise, image, keep.float()

    def __call__(self, x_t, t):
        return self.keep * self.image + (1 - self.keep) * self.denoise(x_t, t)


def _kept(function):
    """A wrong version: function(denoise, image, keep, x_t, t)."""
    return lambda denoise, image, keep: lambda x_t, t: function(denoise, image, keep, x_t, t)


def back_in_place(x_s, s, t, eps, schedule):
    ratio = float(schedule.alpha_bar[t] / schedule.alpha_bar[s])
    return x_s.mul_(ratio**0.5).add_(eps.mul_((1 - ratio) ** 0.5))


class Back:
    """From the schedule's β: the product of (1 − β) of the steps from s to t."""

    def __call__(self, x_s, s, t, eps, schedule):
        keep = (1 - schedule.beta[s + 1 : t + 1]).prod()
        return keep.sqrt() * x_s.double() + (1 - keep).sqrt() * eps.double()


def _back(function):
    """A wrong version: function(a, b) -> factors of x_s and eps, with a = ᾱ_t, b = ᾱ_s."""

    def answer(x_s, s, t, eps, schedule):
        signal, noise = function(schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item())
        return signal * x_s + noise * eps

    return answer


def single_beta(x_s, s, t, eps, schedule):
    beta = schedule.beta[t].item()
    return math.sqrt(1 - beta) * x_s + math.sqrt(beta) * eps


def loop(denoise, schedule, times, repeats, noise, back=True, ratio=True, fresh=False, last=False, no_eps=False):
    """Right by default, with faults to choose from."""
    x = noise()
    for t, s in pairwise(times):
        count = repeats if s or last else 1
        while count:
            x0 = denoise(x, torch.full((len(x),), t))
            a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
            eps = noise() if fresh else (x - a**0.5 * x0) / (1 - a) ** 0.5
            x = b**0.5 * x0 + (0 if no_eps else (1 - b) ** 0.5) * eps
            count -= 1
            if count and back:
                share = a / b if ratio else a
                x = share**0.5 * x + (1 - share) ** 0.5 * noise()
    return x


class Loop:
    def __call__(self, denoise, schedule, times, repeats, noise):
        x = noise().double()
        for t, s in pairwise(times):
            batch_t = torch.full((x.shape[0],), t, dtype=torch.int64)
            for repeat in range(repeats):
                if repeat:
                    if s == 0:
                        break
                    x = sd.process.transition(x, s, t, noise(), schedule)
                x0 = denoise(x, batch_t)
                x = sd.process.diffuse(x0, s, sd.process.to_eps(x0, x, t, schedule), schedule)
        return x


def _faulty(**faults):
    return lambda *arguments: loop(*arguments, **faults)


def once(denoise, schedule, times, repeats, noise):
    return loop(denoise, schedule, times, 1, noise)


def _enlarge(correct, after=None, run=loop, **faults):
    """The exam's answer with another correction: correct(x0, small, k)."""

    def answer(small, k, denoise, schedule, times, repeats, noise):
        x = run(lambda x_t, t: correct(denoise(x_t, t), small, k), schedule, times, repeats, noise, **faults)
        return after(x, small, k) if after else x

    return answer


def _up(x, k):
    return x.repeat_interleave(k, 2).repeat_interleave(k, 3)


def _means(x, k):
    B, C, H, W = x.shape
    return x.reshape(B, C, H // k, k, W // k, k).mean((3, 5))


def _right(x0, small, k):
    return x0 + _up(small - _means(x0, k), k)


ANSWERS = {
    "slerp": Answers(
        right=[slerp_by_loop, Slerp()],
        wrong=[
            (lambda a, b, f: (1 - f) * a + f * b, "straight line"),
            (one_angle, "one angle for the whole batch"),
            (lambda a, b, f: _circle(a, b, 1 - f, _angle(a, b)), "you start at b"),
            (lambda a, b, f: _circle(a, b, f, _angle(a, b)) * _angle(a, b).sin(), "do not divide by sin"),
            (lambda a, b, f: (1 - f) ** 0.5 * a + f**0.5 * b, "orthogonal"),
            (stretched, "you stretch the straight line"),
            (unit_ends, "divided by their lengths"),
            (lambda a, b, f: _circle(a, b, f, _angle(a, b).cos()), "take acos"),
            (lambda a, b, f: _circle(a, b, f, _angle(a, b).rad2deg()), "radians"),
        ],
    ),
    "variation": Answers(
        right=[variation_by_hand, Variation()],
        wrong=[
            (noised_to_T, "nothing of the image is left"),
            (_variation(lambda image, eps, a: eps), "nothing of the image"),
            (_variation(lambda image, eps, a: image), "from the clean image"),
            (_variation(lambda image, eps, a: image + math.sqrt(1 - a) * eps), "without multiplying"),
            (_variation(lambda image, eps, a: a * image + (1 - a) * eps), "without the roots"),
            (only_noised, "denoise it"),
            (one_call, "one denoiser call"),
            (late_start, "times[1]"),
            (own_noise, "use the argument eps"),
        ],
    ),
    "keep_pixels": Answers(
        right=[kept_in_place, Kept],
        wrong=[
            (_kept(lambda d, image, keep, x, t: torch.where(keep, d(x, t), image)), "wrong way round"),
            (_kept(lambda d, image, keep, x, t: d(torch.where(keep, image, x), t)), "before denoising"),
            (
                _kept(lambda d, image, keep, x, t: torch.where(keep, image, d(torch.where(keep, image, x), t))),
                "must see x_t unchanged",
            ),
            (_kept(lambda d, image, keep, x, t: keep * image), "you return 0"),
            (_kept(lambda d, image, keep, x, t: d(x, t) * ~keep), "the image belongs there"),
            (_kept(lambda d, image, keep, x, t: d(x, t)), "do not replace anything"),
            (_kept(lambda d, image, keep, x, t: torch.where(keep, image, x)), "you return x_t"),
            (_kept(lambda d, image, keep, x, t: d(x, t) + keep * image), "you add the image"),
            (lambda denoise, image, keep: torch.where(keep, image, 0.0), "must return the function"),
        ],
    ),
    "back_to_t": Answers(
        right=[back_in_place, Back()],
        wrong=[
            (_back(lambda a, b: (a**0.5, (1 - a) ** 0.5)), "as if x_s were a clean image"),
            (_back(lambda a, b: (a / b, 1 - a / b)), "both roots"),
            (_back(lambda a, b: ((a / b) ** 0.5, 1 - a / b)), "the noise's factor"),
            (_back(lambda a, b: (a / b, (1 - a / b) ** 0.5)), "the image's factor"),
            (single_beta, "single step"),
            (_back(lambda a, b: (1, (1 - a / b) ** 0.5)), "do not shrink"),
            (_back(lambda a, b: ((a / b) ** 0.5, (1 - a) ** 0.5)), "already has a part"),
            (_back(lambda a, b: ((a / b) ** 0.5, (b - a) ** 0.5)), "divide by ᾱ_s"),
            (_back(lambda a, b: ((1 - a / b) ** 0.5, (a / b) ** 0.5)), "swapped"),
            (_back(lambda a, b: ((b / a) ** 0.5, math.sqrt(1 - b / a))), "upside down"),
            (_back(lambda a, b: ((a / b) ** 0.5, 0)), "no noise"),
        ],
    ),
    "repeated_sampling": Answers(
        right=[loop, Loop()],
        wrong=[
            (_faulty(back=False), "without going back to t"),
            (_faulty(ratio=False), "as if x_s were clean"),
            (_faulty(fresh=True), "in the step itself"),
            (once, "every step once"),
            (_faulty(last=True), "you repeat the last step too"),
            (_faulty(no_eps=True), "ε̂ is missing"),
            (lambda denoise, schedule, times, repeats, noise: noise(), "at no timestep"),
        ],
    ),
    "exam": Answers(
        right=[_enlarge(_right), _enlarge(_right, run=Loop())],
        wrong=[
            (_enlarge(lambda x0, small, k: x0), "you do not correct"),
            (_enlarge(lambda x0, small, k: x0, after=_right), "only the finished image"),
            (_enlarge(lambda x0, small, k: _up(small, k)), "no detail"),
            (_enlarge(lambda x0, small, k: x0 - _up(small - _means(x0, k), k)), "sign of the correction"),
            (_enlarge(_right, back=False), "without going back"),
            (_enlarge(_right, ratio=False), "as if x_s were clean"),
            (_enlarge(_right, fresh=True), "in the step itself"),
        ],
    ),
}
