"""Masked diffusion for black-and-white images: the process hides pixels, and the reverse process reveals them.

A pixel of x_t is −1 or +1 while it is visible, and 0 while it is hidden. ᾱ_t is the probability that it is still
visible at timestep t. x_T hides every pixel: the last ᾱ of a schedule counts as 0.

    forward   x_t = x₀ with probability ᾱ_t, else 0, for each pixel on its own
    reverse   the network sees x_t and outputs one logit for each pixel: p(x₀ = +1 | x_t) = sigmoid(logit)

As in the Gaussian process, a denoiser is a function (x_t, t) -> x̂₀ = E[x₀ | x_t], and a sampler needs nothing else: for
two values, the mean says it all, p(x₀ = +1 | x_t) = (1 + x̂₀)/2. Which pixels are visible tells what t was, so x̂₀ does
not depend on t, and networks get t = 0.

Sahoo et al. 2024 (MDLM) and Shi et al. 2024 (MD4) derive the process and its loss, Wang et al. 2025 (ReMDM) hiding
pixels again. Below, a = ᾱ_t at the start of a step, and b = ᾱ_s at its end.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.special import ndtr

from ..common.names import MaskedSamplerName, Prediction
from ..common.noise import Noise
from .denoiser import Denoise, Network
from .samplers import Sampler, Step, Steps, batch_of, check_eta, intervals
from .schedule import Schedule


def visibility(schedule: Schedule) -> Tensor:
    """ᾱ_t, the probability that a pixel is visible at timestep t: (T+1,) float64, from 1 at t = 0 to 0 at T."""
    return torch.cat([schedule.alpha_bar[:-1], schedule.alpha_bar.new_zeros(1)])


def binary(image: Tensor) -> Tensor:
    """An image with two values: +1 where it is above 0, else −1."""
    return (image > 0).to(image.dtype) * 2 - 1


def hide(x0: Tensor, t: int | Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
    """x_t ~ q(x_t | x₀): the image x₀, where each pixel is hidden (0) with probability 1 − ᾱ_t.

    A pixel is hidden if Φ(ε) > ᾱ_t, where ε ~ N(0, 1) as in `diffuse`, and Φ, the normal distribution function, makes
    it uniform. With the same ε, what is hidden at t stays hidden at every later timestep.

    x0, eps: (B, C, H, W), x0 of −1 and +1; t: an int or (B,) int64 in 0…T
    """
    a = visibility(schedule)[torch.as_tensor(t).cpu()].to(eps).view(-1, *[1] * (x0.ndim - 1))
    return x0.masked_fill(ndtr(eps) > a, 0)


def loss(
    network: Network, x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule, prediction: Prediction = "x0"
) -> Tensor:
    """The unweighted loss of each image: the sum of −log p(x₀ | x_t) over the hidden pixels / number of pixels, (B,).

    x0 (B, C, H, W) is made black and white by `binary`; t (B,) int64 in 1…T; eps (B, C, H, W) standard normal.
    prediction is there only so that the arguments are those of denoising_loss. loss_weight explains which bound on
    −log p(x₀) the weighted loss is.
    """
    x0 = binary(x0)
    x_t = hide(x0, t, eps, schedule)
    logit = network(x_t, torch.zeros_like(t)).float()
    error = F.binary_cross_entropy_with_logits(logit, (x0 + 1) / 2, reduction="none")
    return (error * (x_t == 0)).flatten(1).mean(1)


def loss_weight(schedule: Schedule) -> Tensor:
    """The weight 1/(1−ᾱ_t) of each timestep in the loss: (T+1,) float64, 0 at t = 0.

    1−ᾱ_t is the share of the pixels that are hidden, so the weighted loss is the loss per hidden pixel. With t from
    timestep_distribution, its mean is the bound of MDLM and MD4 on the negative log-likelihood:

        −log p(x₀) ≤ Σ_t (ᾱ_{t−1} − ᾱ_t)/(1 − ᾱ_t) E[Σ_hidden −log p(x₀ᵢ | x_t)] = pixels · E_t[weight_t loss_t]

    The bound is that of ancestral sampling in T steps. For T → ∞ it does not depend on the schedule, and with the exact
    denoiser it becomes an equality.
    """
    a = visibility(schedule)
    return torch.cat([a.new_zeros(1), 1 / (1 - a[1:])])


def timestep_distribution(schedule: Schedule) -> Tensor:
    """p(t) = ᾱ_{t−1} − ᾱ_t: (T+1,) float64, 0 at t = 0. It makes the share of hidden pixels uniform in [0, 1]."""
    a = visibility(schedule)
    return torch.cat([a.new_zeros(1), a[:-1] - a[1:]])


def to_x0(logit: Tensor, x_t: Tensor) -> Tensor:
    """x̂₀: 2 sigmoid(logit) − 1 = tanh(logit/2) where a pixel is hidden, and x_t where it is visible."""
    return torch.where(x_t == 0, torch.tanh(logit.to(x_t.dtype) / 2), x_t)


def denoiser(network: Network) -> Denoise:
    """Turns a network that outputs logits into a denoiser."""
    return lambda x_t, t: to_x0(network(x_t, torch.zeros_like(t)), x_t)


def guided(conditional: Network, unconditional: Network, scale: float) -> Network:
    """Classifier-free guidance: logit = logit(∅) + scale · (logit(label) − logit(∅)).

    Each pixel's probability becomes p ∝ p(∅)^(1−scale) p(label)^scale. scale means the same as in denoiser.guided,
    which acts on x̂₀; here that would leave the range of probabilities.
    """
    if scale in (0, 1):
        return conditional if scale == 1 else unconditional

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        base = unconditional(x_t, t)
        return base + scale * (conditional(x_t, t) - base)

    return network


def finite_data(images: Tensor) -> Denoise:
    """The exact denoiser for N equally likely images (N, C, H, W) of −1 and +1: the mean of those that match x_t.

    An image matches if it equals x_t in every visible pixel. If none does, those with the fewest differences count.
    """

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        y = images.to(x_t).flatten(1)
        agreement = x_t.flatten(1) @ y.T  # visible pixels that agree, minus those that differ: (B, N)
        match = (agreement == agreement.amax(1, keepdim=True)).to(x_t.dtype)
        return (match / match.sum(1, keepdim=True) @ y).view(x_t.shape)

    return denoise


def ancestral(
    denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps, *, eta: float = 0.0, generator: Noise
) -> Iterator[Step]:
    """Ancestral sampling: each hidden pixel is revealed with a probability, and drawn from x̂₀ if it is.

        hidden  → visible with probability (b − (1−σ) a)/(1 − a)
        visible → hidden  with probability σ = η min(1, (1−b)/a)

    η = 0 is MDLM: pixels stay visible. η > 0 is ReMDM's "rescaled" schedule: pixels that are hidden again can be
    corrected, and still a share b of the pixels is visible at s. All pixels are revealed in the last step.

    x_T is torch.zeros(B, C, H, W), or an image with some pixels hidden; `samplers` explains the other arguments.
    """
    check_eta(eta, 1)
    _check_start(x_T)
    x, visible = x_T, visibility(schedule).tolist()
    for t, s in intervals(schedule, steps):
        a, b = visible[t], visible[s]
        x0 = denoise(x, batch_of(t, x))
        u, value = _draw(x0, generator, t)
        sigma = eta * min(1.0, (1 - b) / a) if a > 0 else 0.0  # at T nothing is visible
        reveal = (b - (1 - sigma) * a) / (1 - a)
        x = torch.where(x == 0, value * (u <= reveal), x * (u > sigma))
        yield Step(s, x, x0)


def random(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps, *, generator: Noise) -> Iterator[Step]:
    """Reveal pixels in random order: after the step to s, exactly a share 1 − b of them is hidden, up to rounding."""
    return _in_order(denoise, schedule, x_T, steps, generator, lambda x0, u, b: u)


def confidence(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: Steps, *, generator: Noise) -> Iterator[Step]:
    """Reveal as many pixels as `random`, certain ones first: like MaskGIT (Chang et al. 2022).

    Pixels are chosen with probability ∝ p^(1/(1−b)), where p = (1 + `|x̂₀|`)/2 is the probability of the likelier value.
    The largest (1−b) g + log p are such a choice without repetition, where g is Gumbel noise. So the first pixels are
    nearly random, and the last ones are the doubtful ones. Without the noise, all images would begin alike.

    The order depends on what is visible, never on the values that are drawn: so with one pixel a step, the exact
    denoiser gives exact samples, as in any order.
    """

    def score(x0: Tensor, u: Tensor, b: float) -> Tensor:
        gumbel = -torch.log(-torch.log(u.clamp(max=1 - 1e-7)))
        return (1 - b) * gumbel + ((1 + x0.abs()) / 2).log()

    return _in_order(denoise, schedule, x_T, steps, generator, score)


SAMPLERS: dict[MaskedSamplerName, Sampler] = {
    "masked_ancestral": ancestral,
    "masked_random": random,
    "masked_confidence": confidence,
}


def _in_order(
    denoise: Denoise,
    schedule: Schedule,
    x_T: Tensor,
    steps: Steps,
    generator: Noise,
    score: Callable[[Tensor, Tensor, float], Tensor],
) -> Iterator[Step]:
    """Reveal the pixels with the highest score(x̂₀, u, b) first, where u is uniform noise."""
    _check_start(x_T)
    x, visible, pairs = x_T, visibility(schedule).tolist(), intervals(schedule, steps)
    first, hidden_first = pairs[0][0], (x == 0).flatten(1).sum(1, keepdim=True)
    for t, s in pairs:
        x0 = denoise(x, batch_of(t, x))
        u, value = _draw(x0, generator, t)
        hidden = (x == 0).flatten(1)
        keep_hidden = (hidden_first * ((1 - visible[s]) / (1 - visible[first]))).round()
        order = (
            score(x0, u, visible[s])
            .flatten(1)
            .masked_fill(~hidden, -torch.inf)
            .argsort(dim=1, descending=True, stable=True)
        )
        rank = order.argsort(1)
        reveal = hidden & (rank < hidden.sum(1, keepdim=True) - keep_hidden)
        x = torch.where(reveal.view_as(x), value, x)
        yield Step(s, x, x0)


def _draw(x0: Tensor, generator: Noise, t: int) -> tuple[Tensor, Tensor]:
    """For each pixel, a uniform number in (0, 1], and a value: +1 with probability (1 + x̂₀)/2, else −1."""
    if generator is None:
        raise ValueError("a masked sampler draws pixels and needs a generator")
    u, v = ndtr(generator(t, like=torch.cat([x0, x0], dim=1))).chunk(2, dim=1)
    return u, torch.where(v <= (1 + x0) / 2, 1.0, -1.0).to(x0.dtype)


def _check_start(x_T: Tensor) -> None:
    if not ((x_T == 0) | (x_T.abs() == 1)).all():
        raise ValueError("x_T of a masked sampler holds −1, 0 (hidden) and +1 only; start from torch.zeros, not noise")
