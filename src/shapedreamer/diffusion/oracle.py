"""Exact denoisers, in closed form: what a perfect network would answer, for data whose distribution is known.

Each returns a function (x_t, t) -> E[x₀ | x_t], see denoiser.py. With α = √ᾱ_t, σ² = 1−ᾱ_t.
"""

from torch import Tensor

from .denoiser import Denoise
from .schedule import Schedule


def gaussian(mean: float | Tensor, std: float | Tensor, schedule: Schedule) -> Denoise:
    """Data ~ N(mean, std²), each pixel for itself: E[x₀|x_t] = mean + α std² / (α² std² + σ²) · (x_t − α mean)."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    return denoise


def gaussian_mixture(means: Tensor, stds: Tensor, weights: Tensor, schedule: Schedule) -> Denoise:
    """Data from a mixture of K isotropic Gaussians: means (K, C, H, W), stds (K,), weights (K,) summing to 1.

    Each component answers as `gaussian` does, weighted by how likely it is that x_t came from it.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        m, s = means.to(x_t), stds.to(x_t).view(-1, *[1] * (x_t.ndim - 1))
        a, v = alpha[:, None], alpha[:, None] ** 2 * s**2 + sigma[:, None] ** 2  # (B, 1, …), (B, K, …)
        away = x_t[:, None] - a * m  # (B, K, C, H, W)
        dims = m[0].numel()
        log_p = weights.to(x_t).log() - 0.5 * (away**2 / v).flatten(2).sum(2) - 0.5 * dims * v.flatten(1).log()
        each = m + a * s**2 / v * away
        return (log_p.softmax(1).view(*log_p.shape, *[1] * (x_t.ndim - 1)) * each).sum(1)

    return denoise


def finite_data(images: Tensor, schedule: Schedule) -> Denoise:
    """Data that is one of N images, each as likely: (N, C, H, W). The ideal denoiser of a training set.

    E[x₀|x_t] is the mean of the images weighted by exp(−|x_t − α xᵢ|² / 2σ²). A network that reached it would have
    memorised its data: sampling with it gives the training images themselves.
    """
    flat = images.flatten(1)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        y, x = flat.to(x_t), x_t.flatten(1)
        # |x − αy|² but for |x|², which all images share: no (B, N, pixels) tensor is ever made
        distance = alpha.view(-1, 1) ** 2 * (y**2).sum(1) - 2 * alpha.view(-1, 1) * (x @ y.T)
        weight = (-distance / (2 * sigma.view(-1, 1) ** 2)).softmax(1)
        return (weight @ y).view(x_t.shape)

    return denoise
