"""Right and wrong answers to lab 13, Masked diffusion."""

import math

import torch
import torch.nn.functional as F

from tests.labs.answers import Answers

# hide


def hide_by_loop(x0, t, u, schedule):
    rows = [x * (v < schedule.alpha_bar[time].item()) for x, v, time in zip(x0, u, t.tolist(), strict=True)]
    return torch.stack(rows)


class HideInPlace:
    def __call__(self, x0, t, u, schedule):
        a = schedule.alpha_bar.gather(0, t)[:, None, None, None]
        x0[u > a] = 0
        return x0


def hide_with(keep=lambda u, a: u <= a, hidden=0.0, shift=0, index=slice(None), result=torch.where):
    def answer(x0, t, u, schedule):
        a = schedule.alpha_bar[t + shift].view(-1, 1, 1, 1)[index]
        return result(keep(u, a), x0, torch.tensor(hidden))

    return answer


# masked_loss


class LossBySoftplus:
    def __call__(self, logit, x0, x_t, alpha_bar):
        total = (F.softplus(-logit.double() * x0) * (x_t == 0)).sum(dim=(1, 2, 3))
        return total / x0[0].numel() / (1 - alpha_bar)


def loss_by_log(logit, x0, x_t, alpha_bar):
    p = logit.sigmoid()
    p = torch.where(x0 > 0, p, 1 - p)
    losses = []
    for i in range(len(x0)):
        hidden = x_t[i] == 0
        losses.append(-p[i][hidden].log().sum() / x0[i].numel() / (1 - alpha_bar[i]))
    return torch.stack(losses)


def loss_with(surprise=None, shown=lambda x_t: x_t == 0, reduce=None, weight=lambda a: 1 / (1 - a)):
    def answer(logit, x0, x_t, alpha_bar):
        target = (x0 + 1) / 2
        each = (
            surprise(logit, x0, target)
            if surprise
            else F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        )
        hidden = shown(x_t).float()
        total = reduce(each * hidden, hidden) if reduce else (each * hidden).flatten(1).mean(1)
        return total * weight(alpha_bar)

    return answer


def entropy(logit, target):
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def per_hidden(each, hidden):
    return each.flatten(1).sum(1) / hidden.flatten(1).sum(1)


# reveal_step


def reveal_in_place(x, x0, a, b, u, v):
    chosen = (x == 0).logical_and_(u < (b - a) / (1 - a))
    x[chosen] = (v < (1 + x0) / 2)[chosen] * 2.0 - 1
    return x


class RevealWithTensors:
    def __call__(self, x, x0, a, b, u, v):
        a, b = torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)
        stay_hidden = (1 - b) / (1 - a)
        value = torch.sign((1 + x0.double()) / 2 - v)
        return torch.where((x != 0) | (1 - u.double() <= stay_hidden), x.double(), value)


def reveal_with(r=lambda a, b: (b - a) / (1 - a), value=None, chosen=None, elsewhere=lambda x: x):
    def answer(x, x0, a, b, u, v):
        new = value(x0, u, v) if value else torch.where(v < (1 + x0) / 2, 1.0, -1.0)
        reveal = chosen(x, u, r(a, b)) if chosen else (x == 0) & (u < r(a, b))
        return torch.where(reveal, new, elsewhere(x))

    return answer


# reveal_best


def best_by_sorting(x, value, score, k):
    x = x.clone()
    for i in range(len(x)):
        hidden = (x[i].flatten() == 0).nonzero().flatten()
        chosen = hidden[score[i].flatten()[hidden].argsort(descending=True)[:k]]
        x[i].view(-1)[chosen] = value[i].view(-1)[chosen]
    return x


class BestByRank:
    def __call__(self, x, value, score, k):
        hidden = x == 0
        flat = torch.where(hidden, score, -torch.inf).flatten(1)
        rank = flat.argsort(1, descending=True).argsort(1).view_as(x)
        return x + value * (hidden & (rank < k))


def best_with(score_of=None, guard=True, size=lambda k, n: min(k, n), result=None):
    def answer(x, value, score, k):
        s = score_of(x, score) if score_of else score.masked_fill(x != 0, -math.inf)
        flat = s.flatten(1)
        best = flat.topk(size(k, flat.shape[1]), dim=1).indices
        reveal = torch.zeros_like(flat, dtype=torch.bool).scatter(1, best, True).view(x.shape)
        if guard:
            reveal &= x == 0
        return result(reveal, x, value, score) if result else torch.where(reveal, value, x)

    return answer


# remask_step


def remask_in_place(x, x0, a, b, sigma, u, v):
    hidden = x == 0
    r = sigma * a / (1 - a) + (b - a) / (1 - a)
    x[~hidden & (u < sigma)] = 0
    x[hidden & (u < r)] = (torch.where(v < 0.5 + x0 / 2, 1.0, -1.0))[hidden & (u < r)]
    return x


class RemaskByProducts:
    def __call__(self, x, x0, a, b, sigma, u, v):
        hidden = (x == 0).double()
        value = 2 * (v < (1 + x0) / 2).double() - 1
        stay_hidden = ((1 - b) - sigma * a) / (1 - a)
        return hidden * value * (u < 1 - stay_hidden) + x * (u >= sigma)


def remask_with(
    r=lambda a, b, s: (b - (1 - s) * a) / (1 - a),
    keep=lambda u, s: u >= s,
    gone=lambda value: 0.0 * value,
    value=None,
):
    def answer(x, x0, a, b, sigma, u, v):
        new = value(x0, u) if value else torch.where(v < (1 + x0) / 2, 1.0, -1.0)
        shown = torch.where(u < r(a, b, sigma), new, 0.0)
        return torch.where(x == 0, shown, torch.where(keep(u, sigma), x, gone(new)))

    return answer


def remask_then_reveal(x, x0, a, b, sigma, u, v):
    x = torch.where((x != 0) & (u < sigma), 0.0, x)
    value = torch.where(v < (1 + x0) / 2, 1.0, -1.0)
    return torch.where((x == 0) & (u < (b - (1 - sigma) * a) / (1 - a)), value, x)


def reveal_then_remask(x, x0, a, b, sigma, u, v):
    value = torch.where(v < (1 + x0) / 2, 1.0, -1.0)
    x = torch.where((x == 0) & (u < (b - (1 - sigma) * a) / (1 - a)), value, x)
    return torch.where(u < sigma, 0.0, x)


# exam


class ExamByRevealTime:
    """Draws for each token the step in which it will be revealed, and values from the inverse of the distribution."""

    def __call__(self, predict_tokens, x, hidden, steps):
        when = torch.randint(steps, x.shape)
        for i in range(steps):
            p = predict_tokens(x).double()
            value = (p.cumsum(2) < torch.rand(*x.shape, 1)).sum(2).clamp(max=p.shape[2] - 1)
            now = (x == hidden) & (when == i)
            x[now] = value[now]
        return x


def exam_by_categorical(predict_tokens, x, hidden, steps):
    for i in range(steps):
        a, b = i / steps, (i + 1) / steps
        value = torch.distributions.Categorical(probs=predict_tokens(x)).sample()
        reveal = (torch.rand_like(x, dtype=torch.float64) < (b - a) / (1 - a)) & (x == hidden)
        x = x * ~reveal + value * reveal
    return x


def exam_with(
    r=lambda i, n: 1 / (n - i),
    draw=lambda p: torch.multinomial(p.flatten(0, 1), 1).view(p.shape[:2]),
    u=lambda x: torch.rand(x.shape),
    only_hidden=True,
    stuck=False,
    once=False,
    calls=lambda n: n,
):
    def answer(predict_tokens, x, hidden, steps):
        start, p = x, predict_tokens(x) if once else None
        for i in range(calls(steps)):
            if not once:
                p = predict_tokens(start if stuck else x)
            reveal = u(x) < r(i, steps)
            if only_hidden:
                reveal = reveal & (x == hidden)
            x = torch.where(reveal, draw(p), x)
        return x

    return answer


def same_draw_for_all(p):
    return torch.multinomial(p[0], 1).view(1, -1).expand(p.shape[:2])


def uniform_draw(p):
    return torch.randint(p.shape[2], p.shape[:2])


ANSWERS = {
    "hide": Answers(
        right=[hide_by_loop, HideInPlace()],
        wrong=[
            (hide_with(keep=lambda u, a: u > a), "you hide with probability ᾱ_t"),
            (hide_with(keep=lambda u, a: u <= a.sqrt()), "root too much"),
            (hide_with(hidden=-1.0), "black in yours"),
            (hide_with(hidden=1.0), "white in yours"),
            (hide_with(shift=-1), "ᾱ of t − 1"),
            (hide_with(index=slice(1)), "first image"),
            (hide_with(keep=lambda u, a: (u[..., :1, :1] <= a).expand_as(u)), "whole images"),
            (hide_with(result=lambda keep, x0, zero: keep), "which pixels are visible"),
            (hide_with(result=lambda keep, x0, zero: ~keep), "which pixels are hidden"),
            (lambda x0, t, u, s: x0 * s.alpha_bar[t].view(-1, 1, 1, 1), "multiply the image by ᾱ_t"),
        ],
    ),
    "masked_loss": Answers(
        right=[LossBySoftplus(), loss_by_log],
        wrong=[
            (loss_with(shown=lambda x_t: x_t == x_t), "count visible pixels too"),
            (loss_with(shown=lambda x_t: x_t != 0), "not the hidden ones"),
            (loss_with(weight=lambda a: 1), "weight 1/(1−ᾱ) is missing"),
            (loss_with(weight=lambda a: 1 - a), "multiply by 1−ᾱ"),
            (loss_with(weight=lambda a: 1 / a), "divide by ᾱ"),
            (loss_with(reduce=per_hidden, weight=lambda a: 1), "happen to be hidden"),
            (loss_with(reduce=per_hidden), "average over the hidden pixels"),
            (loss_with(reduce=lambda each, hidden: each.flatten(1).sum(1)), "you sum over the pixels"),
            (loss_with(reduce=lambda each, hidden: each.mean()), "over the batch"),
            (loss_with(surprise=lambda logit, x0, target: entropy(logit, x0)), "needs 0 and 1"),
            (loss_with(surprise=lambda logit, x0, target: entropy(-logit, target)), "are swapped"),
            (loss_with(surprise=lambda logit, x0, target: entropy(logit.sigmoid(), target)), "sigmoid twice"),
            (loss_with(surprise=lambda logit, x0, target: (2 * logit.sigmoid() - 1 - x0) ** 2), "squared error"),
            (lambda logit, x0, x_t, a: entropy(logit, (x0 + 1) / 2).mean(), "return the loss of each image"),
        ],
    ),
    "reveal_step": Answers(
        right=[reveal_in_place, RevealWithTensors()],
        wrong=[
            (reveal_with(r=lambda a, b: b), "with probability b;"),
            (reveal_with(r=lambda a, b: b - a), "with probability b − a"),
            (reveal_with(r=lambda a, b: (b - a) / b), "you divide by b;"),
            (reveal_with(r=lambda a, b: (1 - b) / (1 - a)), "stays hidden"),
            (reveal_with(chosen=lambda x, u, r: u < r), "visible pixels are drawn again"),
            (reveal_with(chosen=lambda x, u, r: x == 0), "all hidden pixels at once"),
            (reveal_with(chosen=lambda x, u, r: (x == 0) & (u > r)), "it is below"),
            (reveal_with(elsewhere=lambda x: 0 * x), "visible pixels are lost"),
            (reveal_with(value=lambda x0, u, v: x0.sign()), "likelier value"),
            (reveal_with(value=lambda x0, u, v: x0), "a shade of grey"),
            (reveal_with(value=lambda x0, u, v: torch.where(v < x0, 1.0, -1.0)), "not a probability"),
            (reveal_with(value=lambda x0, u, v: torch.where(u < (1 + x0) / 2, 1.0, -1.0)), "use v for the value"),
            (reveal_with(value=lambda x0, u, v: torch.where(v < (1 + x0) / 2, -1.0, 1.0)), "swapped"),
            (reveal_with(value=lambda x0, u, v: (v < (1 + x0) / 2).float()), "black is −1"),
        ],
    ),
    "reveal_best": Answers(
        right=[best_by_sorting, BestByRank()],
        wrong=[
            (best_with(score_of=lambda x, s: s), "win places and reveal nothing"),
            (best_with(score_of=lambda x, s: s, guard=False), "their values are overwritten"),
            (best_with(score_of=lambda x, s: s * (x == 0)), "beats negative ones"),
            (best_with(score_of=lambda x, s: (-s).masked_fill(x != 0, -math.inf)), "lowest scores"),
            (best_with(guard=False), "fewer than k are hidden"),
            (best_with(size=lambda k, n: k), "use min(k"),
            (best_with(size=lambda k, n: min(k - 1, n)), "k − 1 pixels"),
            (best_with(result=lambda r, x, value, score: torch.where(r, score, x)), "write the value"),
            (best_with(result=lambda r, x, value, score: value * r), "without those that were visible"),
            (best_with(result=lambda r, x, value, score: torch.where(~r & (x == 0), value, x)), "other way round"),
        ],
    ),
    "remask_step": Answers(
        right=[remask_in_place, RemaskByProducts()],
        wrong=[
            (remask_with(r=lambda a, b, s: (b - a) / (1 - a)), "make up for what is hidden again"),
            (remask_with(r=lambda a, b, s: (b - s * a) / (1 - a)), "not σ: r ="),
            (remask_with(r=lambda a, b, s: b - (1 - s) * a), "divided by 1 − a"),
            (remask_with(r=lambda a, b, s: b), "with probability b;"),
            (remask_with(keep=lambda u, s: u < s), "where u is above σ"),
            (remask_with(keep=lambda u, s: u >= 1 - s), "stay with probability σ"),
            (remask_with(keep=lambda u, s: u >= 0), "no visible pixel is hidden again: hide"),
            (remask_with(gone=lambda value: -value.abs()), "not black"),
            (remask_with(gone=lambda value: value), "new value in the same step"),
            (remask_with(value=lambda x0, u: x0.sign()), "likelier value"),
            (remask_with(value=lambda x0, u: torch.where(u < (1 + x0) / 2, 1.0, -1.0)), "use v for the value"),
            (remask_then_reveal, "new value in the same step"),
            (reveal_then_remask, "what you reveal is hidden again"),
        ],
    ),
    "exam": Answers(
        right=[ExamByRevealTime(), exam_by_categorical],
        wrong=[
            (exam_with(r=lambda i, n: 1 / n), "1/n in each step"),
            (exam_with(r=lambda i, n: (i + 1) / n), "must be"),
            (exam_with(draw=lambda p: p.argmax(2)), "most probable token"),
            (exam_with(draw=same_draw_for_all), "all rows get the same token"),
            (exam_with(draw=uniform_draw), "the same probability"),
            (exam_with(u=lambda x: torch.rand(x.shape[1])), "the same places"),
            (exam_with(u=lambda x: torch.rand(len(x), 1)), "a row are revealed together"),
            (exam_with(only_hidden=False), "the prompt has changed"),
            (exam_with(stuck=True), "always gets the first x"),
            (exam_with(once=True), "once; call it in every step"),
            (exam_with(calls=lambda n: n - 1), "need"),
            (lambda predict, x, hidden, steps: predict(x), "return tokens"),
        ],
    ),
}
