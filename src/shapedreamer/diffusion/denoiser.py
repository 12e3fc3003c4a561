"""A denoiser is any function (x_t, t) -> x̂₀, and everything that changes a denoiser is a wrapper around one.

x_t is (B, C, H, W), t is (B,) int64 in 1…T, x̂₀ is (B, C, H, W): the best guess at the clean image. Samplers see
nothing else. Wrap in this order: guide first, then clip (the noise is recomputed from the clipped x̂₀ by the sampler).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..common.names import Prediction
from .process import to_x0
from .schedule import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> a prediction; an nn.Module is one


class Denoiser:
    """A network that predicts ε, x₀ or v, as a denoiser.

    Raises ValueError for ε-prediction on a schedule with ᾱ_T = 0: there x_T holds no image to divide out.
    """

    def __init__(self, network: Network, schedule: Schedule, prediction: Prediction) -> None:
        if prediction == "eps" and schedule.alpha_bar[-1] == 0:
            raise ValueError(
                "eps-prediction says nothing about the image at a zero terminal SNR (alpha_bar[T] = 0); "
                "use prediction v or x0 with this schedule"
            )
        self.network, self.schedule, self.prediction = network, schedule, prediction

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        output = self.network(x_t, t).to(x_t.dtype)  # a network under autocast answers in bfloat16
        return to_x0(self.prediction, output, x_t, t, self.schedule)


def given(network: Callable[..., Tensor], label: Tensor | None) -> Network:
    """A network (x_t, t, label) -> prediction that is always told this label, (B, L); None for no label."""
    return lambda x_t, t: network(x_t, t) if label is None else network(x_t, t, label)


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): x̂₀ = x̂₀(∅) + scale · (x̂₀(label) − x̂₀(∅)).

    scale = 1 is the plain conditional model, 0 the unconditional one, more than 1 overshoots towards the label. (Their
    w counts from the other end: w = scale − 1.) Guiding x̂₀, ε or v is the same, as each is affine in the others.
    """
    if scale == 1:
        return conditional
    if scale == 0:
        return unconditional

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        base = unconditional(x_t, t)
        return base + scale * (conditional(x_t, t) - base)

    return denoise


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Keep x̂₀ within the range of the data."""
    return lambda x_t, t: denoise(x_t, t).clamp(low, high)


def inpainted(denoise: Denoise, image: Tensor, keep: Tensor) -> Denoise:
    """Let x̂₀ be `image` wherever `keep` is True, so that only the rest is dreamt, and dreamt to go with it.

    image (B, C, H, W) or one that broadcasts to it; keep likewise, bool. Where x̂₀ is known so is the noise in x_t: at
    every step the network sees the known pixels as noisy as the rest (as in Song et al. 2021b, appendix I.2).
    """
    return lambda x_t, t: torch.where(keep, image, denoise(x_t, t))
