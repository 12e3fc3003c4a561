"""A denoiser is a function (x_t, t) -> x̂₀; guidance, clipping and inpainting are wrappers around one.

x_t is (B, C, H, W), t is (B,) int64 in 1…T, and x̂₀ is (B, C, H, W), a prediction of the clean image. A sampler needs
nothing else from a model. Guide first, then clip; the sampler computes ε̂ from the clipped x̂₀.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..common.names import Prediction
from .process import to_x0
from .schedule import Schedule

Denoise = Callable[[Tensor, Tensor], Tensor]
Network = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) -> ε̂, x̂₀, v̂ or û; usually an nn.Module


class Denoiser:
    """A network that predicts ε, x₀, v or u as a denoiser. ValueError for ε with ᾱ_T = 0: x̂₀ would divide by 0 at T."""

    def __init__(self, network: Network, schedule: Schedule, prediction: Prediction) -> None:
        if prediction == "eps" and schedule.alpha_bar[-1] == 0:
            zero = "zero terminal SNR (alpha_bar[T] = 0)"
            raise ValueError(f"eps-prediction cannot recover the image at {zero}; use prediction flow, v or x0")
        self.network, self.schedule, self.prediction = network, schedule, prediction

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        output = self.network(x_t, t).to(x_t.dtype)  # under autocast the network returns bfloat16
        return to_x0(self.prediction, output, x_t, t, self.schedule)


def with_label(network: Callable[..., Tensor], label: Tensor | None) -> Network:
    """The network with a fixed label (B, L), as a function (x_t, t). None: unconditional, called without a label."""
    return lambda x_t, t: network(x_t, t) if label is None else network(x_t, t, label)


def guided(conditional: Denoise, unconditional: Denoise, scale: float | Tensor) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): x̂₀ = x̂₀(∅) + scale · (x̂₀(label) − x̂₀(∅)).

    scale = 1 is the conditional model, 0 the unconditional one, and above 1 strengthens the label. (The paper's w is
    scale − 1.) It may be a table (T+1,), with a scale for each timestep. Guiding x̂₀, ε̂, v̂ or û gives the same result:
    for a given x_t each is an affine function of the others. With a strong and a weak model in place of the two this is
    autoguidance (Karras et al. 2024b).
    """
    if not isinstance(scale, Tensor) and scale in (0, 1):
        return conditional if scale else unconditional

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        w = scale[t.cpu()].to(x_t).view(-1, *[1] * (x_t.ndim - 1)) if isinstance(scale, Tensor) else scale
        if isinstance(w, Tensor) and (w == 1).all():
            return conditional(x_t, t)  # one network call instead of two
        base = unconditional(x_t, t)
        return base + w * (conditional(x_t, t) - base)

    return denoise


def interval_scale(scale: float | Tensor, low: float, high: float, schedule: Schedule) -> Tensor:
    """The table for `guided` if guidance acts where low ≤ log-SNR ≤ high (Kynkäänniemi et al. 2024); elsewhere 1."""
    inside = (schedule.log_snr >= low) & (schedule.log_snr <= high)
    return torch.where(inside, scale, torch.ones_like(schedule.alpha_bar))


def cfg_pp_scale(times: Sequence[int], schedule: Schedule) -> Tensor:
    """The table w for `guided` that turns ddim (η = 0) into CFG++ (Chung et al. 2024, algorithm 2).

    CFG++ steps to x_s = √ᾱ_s x̂₀ + √(1−ᾱ_s) ε̂ with a guided x̂₀, but with the ε̂ of x̂₀(∅). With √ᾱ = cos θ at t and
    cos φ at s, this is the ddim step of x̂₀(∅) + w (x̂₀ − x̂₀(∅)), w = cos φ sin θ / sin(θ−φ). times: those of ddim
    """
    angle = torch.atan2((1 - schedule.alpha_bar).sqrt(), schedule.alpha_bar.sqrt())
    t, theta, phi = list(times[:-1]), angle[list(times[:-1])], angle[list(times[1:])]
    return torch.ones_like(angle).index_put((torch.tensor(t),), phi.cos() * theta.sin() / (theta - phi).sin())


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """Clip x̂₀ to the range of the data, low…high."""
    return lambda x_t, t: denoise(x_t, t).clamp(low, high)


def inpainted(denoise: Denoise, image: Tensor, keep: Tensor) -> Denoise:
    """Replace x̂₀ by `image` where `keep` (bool) is True, so that a sampler keeps these pixels and generates the others.

    ε̂ follows from the result, so kept pixels have the noise level of the others (compare Song et al. 2021b, I.2).
    """
    return lambda x_t, t: torch.where(keep, image, denoise(x_t, t))
