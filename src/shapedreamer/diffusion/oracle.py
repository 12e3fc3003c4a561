"""Exact denoisers: what a perfect network would predict, in closed form, for data with a known distribution.

Each function returns a denoiser (x_t, t) -> E[x₀ | x_t]; see denoiser.py. Below, α = √ᾱ_t and σ² = 1−ᾱ_t.
"""

from torch import Tensor

from .denoiser import Denoise
from .schedule import Schedule


def gaussian(mean: float | Tensor, std: float | Tensor, schedule: Schedule) -> Denoise:
    """The denoiser for independent pixels x₀ ~ N(mean, std²); mean and std may be tensors that broadcast to images.

    E[x₀ | x_t] = mean + α std² / (α² std² + σ²) · (x_t − α mean)
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return mean + gain * (x_t - alpha * mean)

    return denoise


def gaussian_mixture(means: Tensor, stds: Tensor, weights: Tensor, schedule: Schedule) -> Denoise:
    """The denoiser for a mixture of K isotropic Gaussians: means (K, C, H, W), stds (K,), weights (K,) that sum to 1.

    E[x₀ | x_t] = Σ_k p(k | x_t) E[x₀ | x_t, k],    p(k | x_t) ∝ weight_k N(x_t; α mean_k, α² std_k² + σ²)
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        mean, std = means.to(x_t), stds.to(x_t).view(-1, *[1] * (x_t.ndim - 1))
        a, variance = alpha[:, None], alpha[:, None] ** 2 * std**2 + sigma[:, None] ** 2  # (B, 1, …), (B, K, …)
        residual = x_t[:, None] - a * mean  # (B, K, C, H, W)
        dims = mean[0].numel()
        log_p = weights.to(x_t).log() - 0.5 * (residual**2 / variance).flatten(2).sum(2)
        log_p = log_p - 0.5 * dims * variance.flatten(1).log()
        posterior = log_p.softmax(1).view(*log_p.shape, *[1] * (x_t.ndim - 1))  # p(k | x_t)
        x0 = mean + a * std**2 / variance * residual
        return (posterior * x0).sum(1)

    return denoise


def finite_data(images: Tensor, schedule: Schedule) -> Denoise:
    """The denoiser for N equally likely images (N, C, H, W): the ideal denoiser of a training set.

    E[x₀ | x_t] is the mean of the images, weighted by exp(−‖x_t − α x_i‖² / 2σ²). Sampling with it reproduces them.
    """
    flat = images.flatten(1)

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t, like=x_t)
        y, x = flat.to(x_t), x_t.flatten(1)
        # ‖x − αy‖² without ‖x‖², which is the same for all images; this avoids a tensor of shape (B, N, pixels)
        distance = alpha.view(-1, 1) ** 2 * (y**2).sum(1) - 2 * alpha.view(-1, 1) * (x @ y.T)
        weight = (-distance / (2 * sigma.view(-1, 1) ** 2)).softmax(1)
        return (weight @ y).view(x_t.shape)

    return denoise
