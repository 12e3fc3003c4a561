"""Right and wrong answers to lab 8."""

import math

import torch

import shapedreamer as sd
from tests.labs.answers import Answers


def weights_by_loop(x_t, t, images, schedule):
    rows = []
    for x, time in zip(x_t, t.tolist(), strict=True):
        a = schedule.alpha_bar[time].item()
        z = torch.stack([-((x - math.sqrt(a) * y) ** 2).sum() / (2 * (1 - a)) for y in images])
        z = z - z.max()
        rows.append(z.exp() / z.exp().sum())
    return torch.stack(rows)


class WeightsByProduct:
    def __call__(self, x_t, t, images, schedule):
        x, y = x_t.double().flatten(1), images.double().flatten(1)
        a = schedule.alpha_bar[t][:, None]
        z = (a.sqrt() * (x @ y.T) - a * y.square().sum(1) / 2).div_(1 - a)
        z -= z.logsumexp(1, keepdim=True)
        return z.exp_()


def _weights(exponent, dim=1, shrink=True):
    """A wrong version: exponent(distance, sigma) -> z."""

    def answer(x_t, t, images, schedule):
        a = schedule.alpha_bar[t].sqrt().view(-1, 1, 1) if shrink else 1
        distance = (x_t.double().flatten(1)[:, None] - a * images.double().flatten(1)).square().sum(2)
        return exponent(distance, (1 - schedule.alpha_bar[t]).sqrt().view(-1, 1)).softmax(dim)

    return answer


def naive_exp(x_t, t, images, schedule):
    a = schedule.alpha_bar[t].view(-1, 1)
    distance = (x_t.flatten(1)[:, None] - a.sqrt()[:, :, None] * images.flatten(1)).square().sum(2)
    p = (-distance / (2 * (1 - a))).exp()
    return p / p.sum(1, keepdim=True)


def not_normalised(x_t, t, images, schedule):
    return _weights(lambda d, s: -d / (2 * s**2))(x_t, t, images, schedule) * 0 + _raw(x_t, t, images, schedule)


def _raw(x_t, t, images, schedule):
    a = schedule.alpha_bar[t].view(-1, 1)
    distance = (x_t.double().flatten(1)[:, None] - a.sqrt()[:, :, None] * images.double().flatten(1)).square().sum(2)
    return (-distance / (2 * (1 - a))).exp()


def nudged(x_t, t, images, schedule):
    """Hides 0/0 by adding a small number to the sum."""
    p = _raw(x_t, t, images, schedule)
    return p / (p.sum(1, keepdim=True) + 1e-12)


def denoiser_from_package(images, schedule):
    return sd.oracle.finite_data(images, schedule)


class DenoiserObject:
    def __init__(self, images, schedule):
        self.images, self.schedule = images, schedule

    def __call__(self, x_t, t):
        p = WeightsByProduct()(x_t, t, self.images, self.schedule)
        out = torch.zeros(x_t.shape, dtype=torch.float64)
        for i, image in enumerate(self.images):
            out += p[:, i, None, None, None] * image
        return out


def _denoiser(combine):
    def make(images, schedule):
        def denoise(x_t, t):
            return combine(weights_by_loop(x_t, t, images, schedule), images, x_t, t, schedule)

        return denoise

    return make


def _mean(p, images):
    return torch.einsum("bn,nchw->bchw", p, images)


def eps_instead(p, images, x_t, t, schedule):
    return sd.process.to_eps(_mean(p, images), x_t, t, schedule)


def by_cdist(samples, images):
    return torch.cdist(samples.flatten(1).double(), images.flatten(1).double()).amin(1) / samples[0].numel() ** 0.5


def by_loop(samples, images):
    return torch.tensor([min(((x - y) ** 2).mean().sqrt().item() for y in images) for x in samples])


def _nearest(function):
    def answer(samples, images):
        return function(samples.flatten(1)[:, None] - images.flatten(1)[None])

    return answer


def paired(samples, images):
    return (samples - images[: len(samples)]).square().flatten(1).mean(1).sqrt()


def error_by_hand(denoise, x0, t, eps, schedule):
    a = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)
    x_t = x0.mul_(1).mul(a.sqrt()) + (1 - a).sqrt() * eps
    return torch.stack([((denoise(x_t, t) - x0)[i] ** 2).mean() for i in range(len(x0))])


class ErrorObject:
    def __call__(self, denoise, x0, t, eps, schedule):
        alpha, sigma = schedule.alpha_sigma(t, like=x0)
        return torch.nn.functional.mse_loss(denoise(alpha * x0 + sigma * eps, t), x0, reduction="none").mean((1, 2, 3))


def _error(function):
    def answer(denoise, x0, t, eps, schedule):
        x_t = sd.process.diffuse(x0, t, eps, schedule)
        return function(denoise(x_t, t), x0, x_t, eps)

    return answer


def own_noise(denoise, x0, t, eps, schedule):
    return ErrorObject()(denoise, x0, t, torch.randn_like(eps), schedule)


def clean_input(denoise, x0, t, eps, schedule):
    return (denoise(x0, t) - x0).square().mean((1, 2, 3))


def no_roots(denoise, x0, t, eps, schedule):
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    return (denoise(a * x0 + (1 - a) * eps, t) - x0).square().mean((1, 2, 3))


def floor_from_covariance(std, t, schedule):
    alpha, sigma = schedule.alpha_sigma(t, like=torch.zeros(1, dtype=torch.float64))
    return 1 - sigma**2 / (alpha**2 * std**2 + sigma**2)


class FloorFromSnr:
    def __call__(self, std, t, schedule):
        snr = schedule.snr[t].item() * std**2
        return snr / (snr + 1)


def _floor(function):
    return lambda std, t, schedule: function(schedule.alpha_bar[t].item(), std)


def _cloud(uniform=False, noise_only=False, gain=None, log=True, half=2):
    """The exam's answer, with faults to choose from. gain: (a, v, h) -> the factor of x_t − α·mean."""

    def make(images, weights, h, schedule):
        def denoise(x_t, t):
            flat, x = images.double().flatten(1), x_t.double().flatten(1)
            a = schedule.alpha_bar[t].sqrt().view(-1, 1)
            v = a**2 * h**2 + 1 - a**2
            w = weights.double()
            prior = 0 if uniform else w.log() if log else w
            distance = (x[:, None] - a[:, :, None] * flat).square().sum(2)
            p = (prior - distance / (half * (1 - a**2 if noise_only else v))).softmax(1)
            mean = p @ flat
            return (mean + (gain or (lambda a, v, h: a * h**2 / v))(a, v, h) * (x - a * mean)).view(x_t.shape)

        return denoise

    return make


def cloud_from_package(images, weights, h, schedule):
    return sd.oracle.gaussian_mixture(images, torch.full((len(images),), h), weights, schedule)


class CloudByLoop:
    def __init__(self, images, weights, h, schedule):
        self.arguments = images, weights, h, schedule

    def __call__(self, x_t, t):
        images, weights, h, schedule = self.arguments
        alpha, sigma = (value.double() for value in schedule.alpha_sigma(t, like=x_t))
        v = alpha**2 * h**2 + sigma**2
        z = [w.log() - ((x_t - alpha * y) ** 2 / (2 * v)).sum((1, 2, 3)) for w, y in zip(weights, images, strict=True)]
        p = torch.stack(z).softmax(0)
        return sum(p[i].view(-1, 1, 1, 1) * (y + alpha * h**2 / v * (x_t - alpha * y)) for i, y in enumerate(images))


ANSWERS = {
    "posterior_weights": Answers(
        right=[weights_by_loop, WeightsByProduct()],
        wrong=[
            (_weights(lambda d, s: -d / (2 * s**2), shrink=False), "x_t lies near α·image"),
            (_weights(lambda d, s: -d / (2 * s)), "you divide by 2σ"),
            (_weights(lambda d, s: -d / s**2), "factor ½ is missing"),
            (_weights(lambda d, s: d / (2 * s**2)), "the sign is wrong"),
            (_weights(lambda d, s: -d / (2 * s**2), dim=0), "dim=1"),
            (_weights(lambda d, s: -d / (12 * s**2)), "mean over the pixels"),
            (_weights(lambda d, s: -d.sqrt() / (2 * s**2)), "you use the distance"),
            (_weights(lambda d, s: -d), "you do not divide by 2σ²"),
            (not_normalised, "do not sum to 1"),
            (naive_exp, "0/0 is NaN"),
            (nudged, "no longer sum to 1"),
            (lambda x_t, t, images, schedule: weights_by_loop(x_t, t, images, schedule).T, "a row for each x_t"),
        ],
    ),
    "exact_denoiser": Answers(
        right=[denoiser_from_package, DenoiserObject],
        wrong=[
            (_denoiser(lambda p, images, *_: images[p.argmax(1)]), "most likely image"),
            (_denoiser(lambda p, images, x_t, *_: images.mean(0).expand_as(x_t)), "plain mean"),
            (_denoiser(eps_instead), "this is ε̂"),
            (_denoiser(lambda p, images, *_: _mean(p, images) / len(images)), "already sum to 1"),
            (_denoiser(lambda p, images, x_t, *_: x_t), "you return x_t"),
            (_denoiser(lambda p, images, *_: _mean(p**2, images)), "use the weights once"),
            (
                _denoiser(lambda p, images, x_t, t, schedule: schedule.alpha_sigma(t, x_t)[0] * _mean(p, images)),
                "you return α·x̂₀",
            ),
            (lambda images, schedule: images.mean(0), "must return the function"),
        ],
    ),
    "nearest_distance": Answers(
        right=[by_cdist, by_loop],
        wrong=[
            (_nearest(lambda d: d.square().mean(2).min(1).values), "the root is missing"),
            (_nearest(lambda d: d.square().sum(2).sqrt().min(1).values), "you sum over the pixels"),
            (_nearest(lambda d: d.square().mean(2).sqrt().mean(1)), "you average over the images"),
            (_nearest(lambda d: d.square().mean(2).sqrt().max(1).values), "most distant image"),
            (_nearest(lambda d: d.abs().mean(2).min(1).values), "absolute differences"),
            (_nearest(lambda d: d.square().mean(2).sqrt().min(0).values), "one for each of the"),
            (_nearest(lambda d: d.square().mean(2).sqrt().min(1)), "take .values"),
            (_nearest(lambda d: d.square().mean(2).argmin(1)), "which image is nearest"),
            (_nearest(lambda d: d.square().mean(2).sqrt()), "distance to every image"),
            (paired, "compare each sample with all images"),
        ],
    ),
    "denoising_error": Answers(
        right=[error_by_hand, ErrorObject()],
        wrong=[
            (clean_input, "it must see x_t"),
            (_error(lambda hat, x0, x_t, eps: (hat - x0).square().sum((1, 2, 3))), "you sum over the pixels"),
            (_error(lambda hat, x0, x_t, eps: (hat - eps).square().mean((1, 2, 3))), "with the noise"),
            (_error(lambda hat, x0, x_t, eps: (hat - x_t).square().mean((1, 2, 3))), "with x_t"),
            (_error(lambda hat, x0, x_t, eps: (x_t - x0).square().mean((1, 2, 3))), "without the denoiser"),
            (_error(lambda hat, x0, x_t, eps: (hat - x0).abs().mean((1, 2, 3))), "absolute error"),
            (_error(lambda hat, x0, x_t, eps: (hat - x0).square().mean((1, 2, 3)).sqrt()), "you took the root"),
            (_error(lambda hat, x0, x_t, eps: (hat - x0).square().mean()), "one error for each image"),
            (_error(lambda hat, x0, x_t, eps: (hat - x0).square()), "a value for every pixel"),
            (no_roots, "without the roots"),
            (own_noise, "noise of your own"),
        ],
    ),
    "gaussian_floor": Answers(
        right=[floor_from_covariance, FloorFromSnr()],
        wrong=[
            (_floor(lambda a, std: (1 - a) / (a * std**2 + 1 - a)), "share of the noise"),
            (_floor(lambda a, std: std**2 * (1 - a) / (a * std**2 + 1 - a)), "the error of x̂₀"),
            (_floor(lambda a, std: a * std / (a * std + 1 - a)), "its square belongs"),
            (_floor(lambda a, std: a**0.5 * std**2 / (a**0.5 * std**2 + (1 - a) ** 0.5)), "already the square"),
            (_floor(lambda a, std: a**2 * std**2 / (a**2 * std**2 + (1 - a) ** 2)), "α² is ᾱ, not ᾱ²"),
            (_floor(lambda a, std: 1 - (1 - a) ** 0.5 / (a * std**2 + 1 - a)), "must be squared"),
            (_floor(lambda a, std: a * std**2 / (1 - a)), "this is the SNR"),
            (_floor(lambda a, std: a), "you ignore std"),
            (_floor(lambda a, std: (a * std**2 / (a * std**2 + 1 - a)) ** 0.5), "root of the floor"),
            (_floor(lambda a, std: 0.0), "the floor is not 0"),
        ],
    ),
    "exam": Answers(
        right=[cloud_from_package, CloudByLoop],
        wrong=[
            (_cloud(uniform=True), "equally likely"),
            (_cloud(noise_only=True), "around a cloud"),
            (_cloud(gain=lambda a, v, h: 0), "each cloud has a width"),
            (_cloud(gain=lambda a, v, h: a * h**2 / (1 - a**2)), "divide by the variance v"),
            (_cloud(gain=lambda a, v, h: h**2 / v), "lacks the factor α"),
            (_cloud(gain=lambda a, v, h: a * h / v), "h where h² belongs"),
            (_cloud(log=False), "their logarithm"),
            (_cloud(half=1), "factor ½"),
        ],
    ),
}
