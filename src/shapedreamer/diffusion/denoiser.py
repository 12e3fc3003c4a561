"""A denoiser is a function (x_t, t) -> x̂₀; guidance, clipping and inpainting are wrappers around one.

x_t is (B, C, H, W), t is (B,) int64 in 1…T, and x̂₀ is (B, C, H, W), a prediction of the clean image. A sampler needs
nothing else from a model. Guide first, then clip; the sampler computes ε̂ from the clipped x̂₀.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..common.names import Prediction
from .process import to_x0
from .schedule import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> ε̂, x̂₀, v̂ or û; usually an nn.Module


class Denoiser:
    """Turns a network that predicts ε, x₀, v or u into a denoiser.

    Raises ValueError for ε-prediction with ᾱ_T = 0: computing x̂₀ from ε̂ would divide by 0 at T.
    """

    def __init__(self, network: Network, schedule: Schedule, prediction: Prediction) -> None:
        if prediction == "eps" and schedule.alpha_bar[-1] == 0:
            raise ValueError(
                "eps-prediction cannot recover the image at zero terminal SNR (alpha_bar[T] = 0); "
                "use prediction flow, v or x0 with this schedule"
            )
        self.network, self.schedule, self.prediction = network, schedule, prediction

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        output = self.network(x_t, t).to(x_t.dtype)  # under autocast the network returns bfloat16
        return to_x0(self.prediction, output, x_t, t, self.schedule)


def with_label(network: Callable[..., Tensor], label: Tensor | None) -> Network:
    """Turn a network (x_t, t, label) -> prediction into one of (x_t, t) that is conditioned on this label.

    label: (B, L); None for the unconditional prediction, for which the network is called as network(x_t, t)
    """
    return lambda x_t, t: network(x_t, t) if label is None else network(x_t, t, label)


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): x̂₀ = x̂₀(∅) + scale · (x̂₀(label) − x̂₀(∅)).

    scale = 1 is the conditional model, 0 the unconditional one, and above 1 strengthens the label. (The paper's w is
    scale − 1.) Guiding x̂₀, ε̂, v̂ or û gives the same result, because for a given x_t each is an affine function of the
    others.
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
    """Clip x̂₀ to the range of the data, low…high."""
    return lambda x_t, t: denoise(x_t, t).clamp(low, high)


def inpainted(denoise: Denoise, image: Tensor, keep: Tensor) -> Denoise:
    """Replace x̂₀ by `image` wherever `keep` is True, so that a sampler keeps these pixels and generates the others.

    image: (B, C, H, W) or broadcastable to it
    keep: bool, broadcastable to (B, C, H, W)

    The sampler computes ε̂ and the next x from the result, so the kept pixels always have the same noise level as the
    others, and the network can match these to them (compare Song et al. 2021b, appendix I.2).
    """
    return lambda x_t, t: torch.where(keep, image, denoise(x_t, t))
