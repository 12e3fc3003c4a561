"""The checks of lab 13, Masked diffusion."""

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...diffusion import schedule as schedules
from ..verdict import AnswerError, call, exercise, same, tensor
from .runs import run

SHAPE = (4, 1, 16, 16)


def _between(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _image() -> Tensor:
    """Random pixels, −1 or +1."""
    return torch.randint(0, 2, SHAPE).float() * 2 - 1


def _draw(x0: Tensor, v: Tensor) -> Tensor:
    return torch.where(v < (1 + x0) / 2, 1.0, -1.0)


@exercise
def hide(answer: Any) -> str:
    """Random images, each with a timestep of its own in the middle of the schedule."""
    T = int(torch.randint(10, 30, ()))
    schedule = schedules.cosine(T)
    times = torch.arange(T // 4, 3 * T // 4)
    t = times[torch.randperm(len(times))[:4]]
    x0, u = _image(), torch.rand(SHAPE)
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    visible = u <= a
    right = torch.where(visible, x0, 0.0)
    yours = call(answer, x0, t, u, schedule)
    mistakes = {
        "you hide with probability ᾱ_t; ᾱ_t is the probability that a pixel stays visible: u <= ᾱ_t": right
        + x0
        - 2 * right,
        "there is a root too much: a pixel is visible with probability ᾱ_t, not √ᾱ_t": torch.where(
            u <= a.sqrt(), x0, 0.0
        ),
        "hidden pixels are black in yours, so the network cannot tell them from black ones; hidden is 0": torch.where(
            visible, x0, -1.0
        ),
        "hidden pixels are white in yours, so the network cannot tell them from white ones; hidden is 0": torch.where(
            visible, x0, 1.0
        ),
        "you use ᾱ of t − 1; the index of the table is t": torch.where(
            u <= schedule.alpha_bar[t - 1].view(-1, 1, 1, 1), x0, 0.0
        ),
        "you hide or keep whole images; each pixel has a u of its own": torch.where(u[..., :1, :1] <= a, x0, 0.0),
        "you use the timestep of the first image for all; each image has its own t": torch.where(u <= a[:1], x0, 0.0),
        "you return which pixels are visible; return the image, with 0 where they are not": visible.double(),
        "you return which pixels are hidden; return the image, with 0 where they are": (~visible).double(),
        "you multiply the image by ᾱ_t; visible pixels keep their value, and hidden ones are 0": a * x0,
        "visible pixels keep their value: nothing is multiplied by √ᾱ_t": a.sqrt() * right,
    }
    same(yours, right, "a pixel keeps its value if u <= ᾱ_t, and is 0 otherwise", mistakes)
    return "A masked image holds less information, but all of it is true."


@exercise
def masked_loss(answer: Any) -> str:
    """Random logits, and a share of hidden pixels that differs from 1 − ᾱ."""
    x0 = _image()[..., :5, :6]
    hidden = torch.rand(x0.shape) < torch.tensor([0.2, 0.5, 0.6, 0.8]).view(4, 1, 1, 1)
    hidden[..., 0, 0], hidden[..., 0, 1] = True, False
    x_t, logit = x0.masked_fill(hidden, 0), 2 * torch.randn(x0.shape)
    alpha_bar = 0.2 + 0.6 * torch.rand(4)
    a = alpha_bar.double()

    def error(logit: Tensor = logit, target: Tensor = (x0 + 1) / 2) -> Tensor:
        return F.binary_cross_entropy_with_logits(logit.double(), target.double(), reduction="none")

    def mean(error: Tensor, shown: Tensor = hidden) -> Tensor:
        return (error * shown).flatten(1).mean(1)

    surprise, share = mean(error()), hidden.double().flatten(1).mean(1)
    p = torch.sigmoid(logit.double() * x0)
    yours = call(answer, logit, x0, x_t, alpha_bar)
    if isinstance(yours, float) or (isinstance(yours, Tensor) and yours.ndim == 0):
        raise AnswerError("you return one number; return the loss of each image, a tensor (B,)")
    if isinstance(yours, Tensor) and yours.shape == x0.shape:
        raise AnswerError(
            "you return a number for each pixel; average over the pixels of an image: .flatten(1).mean(1)"
        )
    mistakes = {
        "you count visible pixels too; only hidden ones are in question": error().flatten(1).mean(1) / (1 - a),
        "you count the visible pixels, not the hidden ones": mean(error(), ~hidden) / (1 - a),
        "the weight 1/(1−ᾱ) is missing": surprise,
        "you multiply by 1−ᾱ; the weight divides by it": surprise * (1 - a),
        "you divide by ᾱ, the share of visible pixels; divide by 1−ᾱ": surprise / a,
        "you divide by the number of pixels that happen to be hidden, another estimate; here, divide by the number of "
        "all pixels and by 1−ᾱ": surprise / share,
        "you average over the hidden pixels and divide by 1−ᾱ as well; divide the sum by the number of all pixels": (
            surprise / share / (1 - a)
        ),
        "you sum over the pixels; divide by their number": surprise * x0[0].numel() / (1 - a),
        "your target is −1 for black pixels; the cross-entropy needs 0 and 1: (x0 + 1) / 2": mean(error(target=x0))
        / (1 - a),
        "black and white are swapped: the logit is that of white, +1": mean(error(-logit)) / (1 - a),
        "the logits pass through a sigmoid twice; binary_cross_entropy_with_logits applies its own": mean(
            error(torch.sigmoid(logit))
        )
        / (1 - a),
        "this is a squared error; the loss is −log p": mean((2 * torch.sigmoid(logit.double()) - 1 - x0) ** 2)
        / (1 - a),
        "you average over the batch as well; each image has a loss of its own: .flatten(1).mean(1)": surprise.mean()
        / (1 - a),
        "you use log p; the loss is −log p": -surprise / (1 - a),
        "the logarithm is missing: the loss is −log p, not 1 − p": mean(1 - p) / (1 - a),
        "the target is x_t, which is 0 where a pixel is hidden; it is x0": mean(error(target=(x_t + 1) / 2)) / (1 - a),
    }
    right = surprise / (1 - a)
    same(yours, right, "this is not Σ_hidden −log p(x₀ᵢ) / (number of pixels · (1−ᾱ))", mistakes)
    return "With the exact denoiser, the mean of this loss is the entropy of the data."


@exercise
def reveal_step(answer: Any) -> str:
    """A step in the middle, the first step and the last, with a denoiser that does not keep visible pixels."""
    for case in ("middle", "first", "last"):
        a = 0.0 if case == "first" else _between(0.3, 0.35)
        b = 1.0 if case == "last" else _between(0.52, 0.57)
        x = torch.where(torch.rand(SHAPE) < a, _image(), 0.0)
        x0, u, v = torch.rand(SHAPE) * 1.8 - 0.9, torch.rand(SHAPE), torch.rand(SHAPE)
        hidden, value, r = x == 0, _draw(x0, v), (b - a) / (1 - a)

        def step(value: Tensor = value, r: float = r, u: Tensor = u, hidden: Tensor = hidden, x: Tensor = x) -> Tensor:
            return torch.where(hidden & (u < r), value, x)

        mistakes = {
            "you reveal all hidden pixels at once; u decides which": torch.where(hidden, value, x),
            "you reveal with probability b; a share a is visible already: it is (b−a)/(1−a)": step(r=b),
            "you reveal with probability b − a; only a share 1 − a is hidden, so it is (b−a)/(1−a)": step(r=b - a),
            "you divide by b; only a share 1 − a is hidden, so it is (b−a)/(1−a)": step(r=(b - a) / b),
            "you divide by 1 − b, the share that is hidden after the step; it is (b−a)/(1−a)": step(
                r=(b - a) / max(1 - b, 1e-9)
            ),
            "(1−b)/(1−a) is the probability that a pixel stays hidden; reveal with (b−a)/(1−a)": step(
                r=(1 - b) / (1 - a)
            ),
            "you reveal where u is above the probability; it is below": torch.where(hidden & (u >= r), value, x),
            "visible pixels are drawn again; only hidden ones may change": torch.where(u < r, value, x),
            "visible pixels are lost; they stay as they are": torch.where(hidden & (u < r), value, 0.0),
            "you take the likelier value; draw it, or all samples look alike: white if v < (1 + x̂₀)/2": step(
                torch.where(x0 > 0, 1.0, -1.0)
            ),
            "revealed pixels get x̂₀ itself, a shade of grey; a pixel is −1 or +1: white if v < (1 + x̂₀)/2": step(x0),
            "x̂₀ is a mean in [−1, 1], not a probability; that is (1 + x̂₀)/2": step(_draw(2 * x0 - 1, v)),
            "black and white are swapped: white if v < (1 + x̂₀)/2": step(-value),
            "u decides about the value too, so the two depend on each other; use v for the value": step(_draw(x0, u)),
            "revealed pixels that should be black are 0, which means hidden; black is −1": step((value > 0).float()),
        }
        where = {"middle": "", "first": "at a = 0, where all pixels are hidden, ", "last": "at b = 1 "}[case]
        message = f"{where}the result is wrong: check which pixels are revealed, and their values"
        if case == "last":
            message = "at b = 1 every hidden pixel must be revealed, and visible ones must stay"
        same(run(answer, x, x0, a, b, u, v), step(), message, mistakes)
    return "Pixels that are revealed in the same step are drawn independently."


@exercise
def reveal_best(answer: Any) -> str:
    """Scores of both signs; fewer and more than the number of hidden pixels, and more than all pixels."""
    x = torch.where(torch.rand(SHAPE) < 0.6, _image(), 0.0)
    hidden = x == 0
    value, score = _image(), torch.randn(SHAPE)
    numbers = hidden.flatten(1).sum(1)
    pixels = x[0].numel()

    def best(score: Tensor, k: int) -> Tensor:
        """A mask of the k largest of each image."""
        flat = score.flatten(1)
        index = flat.topk(min(k, pixels), dim=1).indices
        return torch.zeros_like(flat, dtype=torch.bool).scatter(1, index, True).view(x.shape)

    few, many = int(torch.randint(4, int(numbers.min()) // 2, ())), int(numbers.max()) + 7
    ordered = score.masked_fill(~hidden, -math.inf)
    for k in (few, 1, many, pixels + 5):
        try:
            yours = call(answer, x, value, score, k)
        except AnswerError as error:
            if "out of range" in error.message and k > pixels:
                raise AnswerError(
                    "there are fewer pixels than k, and topk raises an error: use min(k, number of pixels)"
                ) from None
            raise

        def reveal(chosen: Tensor) -> Tensor:
            return torch.where(chosen, value, x)

        over_batch = torch.zeros(x.numel(), dtype=torch.bool)
        over_batch[ordered.flatten().topk(min(k, int(numbers.sum()))).indices] = True
        lowest = best((-score).masked_fill(~hidden, -math.inf), k) & hidden
        mistakes = {
            "visible pixels take part: they win places and reveal nothing; give them a score of −∞": reveal(
                best(score, k) & hidden
            ),
            "visible pixels take part, and their values are overwritten; give them a score of −∞": reveal(
                best(score, k)
            ),
            "you set the scores of visible pixels to 0, which beats negative ones; use −∞": reveal(
                best(score * hidden, k) & hidden
            ),
            "you reveal the lowest scores; it is the highest": reveal(lowest),
            "you choose the k best of the whole batch; it is k in each image": reveal(over_batch.view(x.shape)),
            "you write the score into the image; write the value": torch.where(best(ordered, k) & hidden, score, x),
            "you reveal k − 1 pixels: the k-th best belongs to them": reveal(
                best(ordered, k - 1) & hidden if k > 1 else torch.zeros_like(hidden)
            ),
            "you reveal k + 1 pixels": reveal(best(ordered, k + 1) & hidden),
            "you keep the k best hidden and reveal the others; it is the other way round": reveal(
                hidden & ~best(ordered, k)
            ),
            "when fewer than k are hidden, visible pixels are overwritten; reveal only where x is 0": reveal(
                best(ordered, k)
            ),
            "you return the revealed pixels without those that were visible": value * (best(ordered, k) & hidden),
        }
        where = f"with k = {k} and {int(numbers.min())} to {int(numbers.max())} hidden pixels in an image"
        same(
            yours,
            reveal(best(ordered, k) & hidden),
            f"{where}, these are not the k hidden ones with the best score",
            mistakes,
        )
    return "With one pixel a step, any such order is exact, if the denoiser is."


@exercise
def remask_step(answer: Any) -> str:
    """Steps in the middle, with σ above 0 and equal to 0."""
    for sigma in (_between(0.15, 0.25), 0.0):
        a, b = _between(0.3, 0.35), _between(0.6, 0.65)
        x = torch.where(torch.rand(SHAPE) < a, _image(), 0.0)
        x0, u, v = torch.rand(SHAPE) * 1.8 - 0.9, torch.rand(SHAPE), torch.rand(SHAPE)
        hidden, value, right_r = x == 0, _draw(x0, v), (b - (1 - sigma) * a) / (1 - a)

        def step(
            r: float = right_r,
            sigma: float = sigma,
            value: Tensor = value,
            gone: float = 0.0,
            x: Tensor = x,
            u: Tensor = u,
            hidden: Tensor = hidden,
        ) -> Tensor:
            return torch.where(hidden, torch.where(u < r, value, 0.0), torch.where(u < sigma, gone, x))

        first_hidden = torch.where(~hidden & (u < sigma), 0.0, x)
        mistakes = {
            "r is that of reveal_step: more must be revealed, to make up for what is hidden again": step(
                r=(b - a) / (1 - a)
            ),
            "1 − σ of the visible pixels stay, not σ: r = (b − (1−σ)a)/(1 − a)": step(r=(b - sigma * a) / (1 - a)),
            "r must be divided by 1 − a, the share of hidden pixels": step(r=b - (1 - sigma) * a),
            "r = b/(1 − a) forgets that some pixels are visible already": step(r=b / (1 - a)),
            "you reveal with probability b; solve (1−σ)a + r(1−a) = b for r": step(r=b),
            "visible pixels stay with probability σ in yours; they are hidden with it": step(sigma=1 - sigma),
            "visible pixels are hidden where u is above σ; hide them where it is below": torch.where(
                hidden, step(), torch.where(u < sigma, x, 0.0)
            ),
            "no visible pixel is hidden again: hide it if u < σ": step(sigma=0.0),
            "no visible pixel is hidden again, and r is that of reveal_step": step(r=(b - a) / (1 - a), sigma=0.0),
            "visible pixels get a new value in the same step; they must become 0, so that the denoiser sees the image "
            "without them": torch.where((first_hidden == 0) & (u < right_r), value, first_hidden),
            "what you reveal is hidden again in the same step; decide both from x": torch.where(
                u < sigma, 0.0, torch.where(hidden & (u < right_r), value, x)
            ),
            "a pixel that is hidden again becomes 0, not black": step(gone=-1.0),
            "you take the likelier value; draw it: white if v < (1 + x̂₀)/2": step(value=torch.where(x0 > 0, 1.0, -1.0)),
            "u decides about the value too; use v for the value": step(value=_draw(x0, u)),
        }
        message = "hidden pixels are revealed if u < r, visible ones are hidden if u < σ"
        if sigma == 0:
            message = "with σ = 0 this must be reveal_step"
        same(run(answer, x, x0, a, b, sigma, u, v), step(), message, mistakes)
    return "A share b of the pixels is visible after the step, whatever σ is."


@exercise
def exam(answer: Any) -> str:
    """Statistics of many rows of tokens, whose probabilities depend on the place; half of the rows have a prompt."""
    B, L, K = 4000, 5, 4
    steps, hidden = int(torch.randint(3, 6, ())), K if torch.rand(()) < 0.5 else 50
    P = (torch.randn(L, K) * 0.4 + torch.eye(L, K) * 1.5).softmax(1)  # clearly uneven
    x = torch.full((B, L), hidden)
    x[: B // 2, 1], x[: B // 2, 3] = int(torch.randint(K, ())), int(torch.randint(K, ()))
    seen: list[Tensor] = []

    def predict(x: Any) -> Tensor:
        if len(seen) > 10 * steps:
            raise AnswerError("you call predict_tokens again and again; make one call in each step")
        if not isinstance(x, Tensor) or x.shape != (B, L):
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise AnswerError(f"call predict_tokens with all tokens, (B, L) = ({B}, {L}), not with {shape}")
        seen.append(x.clone())
        return P.expand(B, L, K).clone()

    result = call(answer, predict, x, hidden, steps)
    if isinstance(result, Tensor) and result.shape == (B, L, K):
        raise AnswerError("you return probabilities; return tokens, which you draw from them")
    final = tensor(result, (B, L)).long()
    _judge_calls(seen, x, steps)
    _judge_tokens([*seen, final], x, hidden, steps)
    _judge_values(final, seen[1], x, hidden, P)
    return "The same sampler works for pixels, letters and words."


def _judge_calls(seen: list[Tensor], x: Tensor, steps: int) -> None:
    """AnswerError unless the denoiser was called once in each step, with tokens that change."""
    if not seen:
        raise AnswerError("you never call predict_tokens")
    if len(seen) == 1:
        raise AnswerError(
            "you call predict_tokens once; call it in every step, since more tokens are visible each time"
        )
    if len(seen) != steps:
        raise AnswerError(f"you call predict_tokens {len(seen)} times; {steps} steps need {steps} calls")
    if not (seen[0] == x).all():
        raise AnswerError("the first call must get x, before anything is revealed")
    if all((tokens == x).all() for tokens in seen):
        raise AnswerError("predict_tokens always gets the first x; pass it the tokens that the last step returned")


def _judge_tokens(states: list[Tensor], x: Tensor, hidden: int, steps: int) -> None:
    """AnswerError unless the right number of tokens is revealed after each step, and visible tokens stay."""
    blank, final = x == hidden, states[-1]
    if (final[~blank] != x[~blank]).any():
        raise AnswerError("the prompt has changed; change only tokens that are hidden")
    for before, after in itertools.pairwise(states):
        if ((after == hidden) & (before != hidden)).any():
            raise AnswerError("a visible token is hidden again; here, visible tokens stay")
        if ((after != before) & (before != hidden)).any():
            raise AnswerError("tokens that are visible already are drawn again; only hidden ones may change")
    rows = blank.all(1)  # those without a prompt
    for left in (tokens[rows] == hidden for tokens in states[1:-1]):
        if not left.any() or left.all():
            continue
        if (left == left[:1]).all():
            raise AnswerError("every row reveals the same places; draw a random number for each token, (B, L)")
        if (left == left[:, :1]).all():
            raise AnswerError("all tokens of a row are revealed together; draw a random number for each token, (B, L)")
    shares = [(tokens == hidden)[blank].double().mean().item() for tokens in states]
    number = int(blank.sum())
    if abs(shares[-1] - (1 - 1 / steps) ** steps) < 0.01:
        raise AnswerError(
            f"{100 * shares[-1]:.0f}% of the tokens stay hidden: you reveal with probability 1/n in each step; it is "
            "(b−a)/(1−a) = 1/(n − i)"
        )
    for i, share in enumerate(shares):
        p = 1 - i / steps
        if abs(share - p) > 5.5 * math.sqrt(p * (1 - p) / number) + 1e-9:
            raise AnswerError(
                f"after {i} of {steps} steps {100 * share:.0f}% of the tokens are hidden; it must be {100 * p:.0f}%, "
                "so reveal with (b−a)/(1−a) = 1/(n − i)"
            )
    if (states[1][rows] == hidden).double().sum(1).var() < 0.5 * x.shape[1] * (1 - 1 / steps) / steps:
        raise AnswerError("each row reveals the same number of tokens; in ancestral sampling, each token decides alone")


def _judge_values(final: Tensor, second: Tensor, x: Tensor, hidden: int, P: Tensor) -> None:
    """AnswerError unless the tokens have these probabilities. second: the tokens after one step."""
    blank, K = x == hidden, P.shape[1]
    if (final[blank] == P.argmax(1).expand_as(final)[blank]).all():
        raise AnswerError("you take the most probable token; draw it, or all samples are alike: torch.multinomial")
    for place, p in enumerate(P):
        tokens = final[blank[:, place], place]
        early = second[(second[:, place] != hidden) & blank[:, place], place]
        if (early == early[0]).all():
            raise AnswerError("all rows get the same token; draw for each row: multinomial of p.flatten(0, 1)")
        counts = torch.stack([(tokens == k).sum() for k in range(K)]).double()
        if ((counts / len(tokens) - p).abs() > 5.5 * (p * (1 - p) / len(tokens)).sqrt()).any():
            uniform = (counts / len(tokens) - 1 / K).abs().max() < 0.05
            raise AnswerError(
                "you draw all tokens with the same probability; use those of predict_tokens"
                if uniform
                else "tokens do not have the probabilities that predict_tokens returns; draw with torch.multinomial"
            )
