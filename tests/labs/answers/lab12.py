"""Right and wrong answers to lab 12. Each has a diagnosis: the letter that the decorator ``cause`` takes."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch

import shapedreamer as sd
from shapedreamer.labs.checks.lab12 import cause, fid, submitted

from . import Answers


class Said:
    """A function with a diagnosis."""

    def __init__(self, cause: str, function: Callable[..., Any]) -> None:
        self.cause, self.function = cause, function

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)

    def __repr__(self) -> str:
        return f"{self.cause}) {getattr(self.function, '__name__', self.function)}"


def fix(right: str, functions: list[Callable[..., Any]]) -> list[Any]:
    """Right answers, each with the right diagnosis, in one of the forms that the check accepts."""
    return [Said(form, function) for form, function in zip([right, f" {right.upper()} "] * 9, functions, strict=False)]


def mistakes(
    bug: str, letter: str, right: Callable[..., Any], others: dict[str, str], code: list[tuple[Callable[..., Any], str]]
) -> list[tuple[Any, str]]:
    """Wrong answers: the submitted code, wrong diagnoses of right code, and wrong code with the right diagnosis."""
    name, still = bug.split(": ", 1)
    buggy = getattr(submitted, name)
    last = next(iter(others))
    return [
        (Said("?", buggy), f"the bug is still there: {still}"),
        (Said("?", buggy), "Name the cause, too"),
        (Said(letter, buggy), "Your diagnosis is right"),
        (Said(last, buggy), others[last]),
        (Said("?", right), "the code is right. Name the cause"),
        (right, "the code is right. Name the cause"),
        (Said("none", right), "Name the cause"),
        *(
            (Said(other, right), f"the code is right. It is not {other}): {message}")
            for other, message in others.items()
        ),
        *((Said(letter, wrong), message) for wrong, message in code),
    ]


# 1


def forward(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
    alpha, sigma = schedule.alpha_sigma(t, like=x0)
    return alpha * x0 + sigma * eps


def forward_in_place(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
    a = schedule.alpha_bar[t].reshape(-1, 1, 1, 1)
    return x0.mul_(a**0.5).add_(eps.mul_((1 - a) ** 0.5))


class Forward:
    def __call__(self, x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
        a = schedule.alpha_bar[t].to(torch.float32)[:, None, None, None]
        return eps * torch.sqrt(1 - a) + x0 * torch.sqrt(a)


def with_factors(signal: Any, noise: Any) -> Any:
    def forward(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
        a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        return signal(a) * x0 + noise(a) * eps

    return forward


def one_step_early(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
    return forward(x0, t - 1, eps, schedule)


def normalised(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    return (a.sqrt() * x0 + (1 - a) * eps) / (a + (1 - a) ** 2).sqrt()


def of_beta(x0: Any, t: Any, eps: Any, schedule: Any) -> Any:
    beta = schedule.beta[t].view(-1, 1, 1, 1)
    return (1 - beta).sqrt() * x0 + beta.sqrt() * eps


# 2


def preview(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    return submitted.preview(ema_network, ema_network, x_T, schedule)


def preview_by_hand(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    x = x_T
    with torch.inference_mode():
        for t, s in pairwise(sd.schedule.step_times(schedule.T, 15)):
            a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
            x0 = ema_network(x, torch.full((len(x),), t)).clamp(-1, 1)
            x = b.sqrt() * x0 + (1 - b).sqrt() * (x - a.sqrt() * x0) / (1 - a).sqrt()
    return x


def preview_of_a_copy(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    network = copy.deepcopy(ema_network)
    return submitted.preview(network, network, x_T, schedule)


def mean_of_previews(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    return (submitted.preview(network, network, x_T, schedule) + preview(network, ema_network, x_T, schedule)) / 2


def loads_average(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    network.load_state_dict(ema_network.state_dict())
    return submitted.preview(network, network, x_T, schedule)


def mean_of_weights(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    both = copy.deepcopy(network)
    with torch.no_grad():
        for a, b in zip(both.parameters(), ema_network.parameters(), strict=True):
            a.lerp_(b, 0.5)
    return submitted.preview(both, both, x_T, schedule)


def calls_both(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    submitted.preview(network, network, x_T, schedule)
    return preview(network, ema_network, x_T, schedule)


def other_steps(network: Any, ema_network: Any, x_T: Any, schedule: Any) -> Any:
    return sd.samplers.sample(sd.samplers.ddim(sd.Denoiser(ema_network, schedule, "x0"), schedule, x_T, 3))


# 3


def ema(parameters: Any, buffers: Any) -> Any:
    def ema_update(average: Any, network: Any, decay: Any) -> Any:
        with torch.no_grad():
            for mine, new in zip(average.parameters(), network.parameters(), strict=True):
                parameters(mine, new, decay)
            for mine, new in zip(average.buffers(), network.buffers(), strict=True):
                buffers(mine, new, decay)
        return average

    return ema_update


def mean(mine: Any, new: Any, decay: Any) -> Any:
    mine.lerp_(new, 1 - decay)


def copied(mine: Any, new: Any, decay: Any) -> Any:
    mine.copy_(new)


def nothing(mine: Any, new: Any, decay: Any) -> Any:
    pass


def mixed(mine: Any, new: Any, decay: Any) -> Any:
    mine.copy_(decay * mine + (1 - decay) * new)


def by_name(average: Any, network: Any, decay: Any) -> Any:
    learned = dict(network.named_parameters())
    state = average.state_dict()
    for name, new in network.state_dict().items():
        state[name] = decay * state[name] + (1 - decay) * new if name in learned else new
    average.load_state_dict(state)
    return average


class Update:
    def __call__(self, average: Any, network: Any, decay: Any) -> Any:
        for mine, new in zip(average.parameters(), network.parameters(), strict=True):
            mine.data = mine.data.mul(decay).add(new.data, alpha=1 - decay)
        for mine, new in zip(average.buffers(), network.buffers(), strict=True):
            mine.data = new.data.clone()
        return average


def other_way_round(average: Any, network: Any, decay: Any) -> Any:
    ema(mean, copied)(network, average, decay)
    return average


# 4


def ddim_at(make_times: Any, steps_of_table: Any = lambda s: s) -> Any:
    def ddim(denoise: Any, schedule: Any, x_T: Any, steps: Any) -> Any:
        x = x_T
        for t, s in pairwise(make_times(schedule.T, steps)):
            a, b = (schedule.alpha_bar[time].item() for time in (t, steps_of_table(s)))
            x0 = denoise(x, torch.full((len(x),), t))
            eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
            x = math.sqrt(b) * x0 + math.sqrt(1 - b) * eps
        return x

    return ddim


def ours(denoise: Any, schedule: Any, x_T: Any, steps: Any) -> Any:
    for step in sd.samplers.ddim(denoise, schedule, x_T, steps):
        x = step.x
    return x


def even(T: Any, steps: Any) -> Any:
    return [round(T - i * T / steps) for i in range(steps)] + [0]


def floored(T: Any, steps: Any) -> Any:
    return [int(t) for t in torch.linspace(T, 0, steps + 1).tolist()]


def capped(T: Any, steps: Any) -> Any:
    return [*range(T, 0, -(T // steps)), 0]


def starts_late(T: Any, steps: Any) -> Any:
    return [t - 1 for t in even(T, steps)[:-1]] + [0]


# 5


def ddim_step_with(direction: Any, noise: Any = lambda b, sigma, eta: sigma) -> Any:
    def ddim_step(x_t: Any, x0: Any, t: Any, s: Any, eta: Any, z: Any, schedule: Any) -> Any:
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        eps = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
        sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        return math.sqrt(b) * x0 + direction(b, sigma) * eps + noise(b, sigma, eta) * z

    return ddim_step


def root(b: Any, sigma: Any) -> Any:
    return max(1 - b - sigma**2, 0) ** 0.5


def ddim_step_tensors(x_t: Any, x0: Any, t: Any, s: Any, eta: Any, z: Any, schedule: Any) -> Any:
    a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
    variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
    x_t -= a.sqrt() * x0
    return x0 * b.sqrt() + x_t / (1 - a).sqrt() * (1 - b - variance).clamp(min=0).sqrt() + variance.sqrt() * z


# 6


def clipped_step(x_t: Any, eps: Any, t: Any, s: Any, schedule: Any) -> Any:
    x0 = sd.process.to_x0("eps", eps, x_t, t, schedule).clamp(-1, 1)
    eps = sd.process.to_eps(x0, x_t, t, schedule)
    return sd.process.diffuse(x0, s, eps, schedule)


def clipped_step_by_slope(x_t: Any, eps: Any, t: Any, s: Any, schedule: Any) -> Any:
    a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
    x0 = torch.clip((x_t - (1 - a).sqrt() * eps) / a.sqrt(), -1, 1)
    ratio = ((1 - b) / (1 - a)).sqrt()
    return ratio * x_t + (b.sqrt() - ratio * a.sqrt()) * x0


def clipped_step_with(final: Any) -> Any:
    def clipped_step(x_t: Any, eps: Any, t: Any, s: Any, schedule: Any) -> Any:
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        free = (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)
        x0 = free.clamp(-1, 1)
        new = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
        return final(math.sqrt(b), math.sqrt(1 - b), free, x0, eps, new)

    return clipped_step


# 7


def load_images(pixels: Any) -> Any:
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


# 8


def drop_labels(labels: Any, probability: Any, generator: Any) -> Any:
    return labels * (torch.rand(len(labels), 1, generator=generator) >= probability)


def drop_with_where(labels: Any, probability: Any, generator: Any) -> Any:
    drop = torch.rand(len(labels), generator=generator) < probability
    return torch.where(drop[:, None], torch.zeros_like(labels), labels)


def drop_in_a_copy(labels: Any, probability: Any, generator: Any) -> Any:
    labels = labels.clone()
    labels[torch.bernoulli(torch.full((len(labels),), probability), generator=generator).bool()] = 0
    return labels


def drop_numbers(labels: Any, probability: Any, generator: Any) -> Any:
    return labels * (torch.rand(labels.shape, generator=generator) >= probability)


def keep_instead(labels: Any, probability: Any, generator: Any) -> Any:
    return labels * (torch.rand(len(labels), 1, generator=generator) < probability)


def drop_in_place(labels: Any, probability: Any, generator: Any) -> Any:
    labels *= torch.rand(len(labels), 1, generator=generator) >= probability
    return labels


def no_generator(labels: Any, probability: Any, generator: Any) -> Any:
    return labels * (torch.rand(len(labels), 1) >= probability)


def one_label(labels: Any, probability: Any, generator: Any) -> Any:
    return drop_labels(labels, probability, generator)[0]


# 9


def to_picture(samples: Any) -> Any:
    return ((samples + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def truncated(samples: Any) -> Any:
    return (samples.clamp(-1, 1).add(1).mul(127.5)).byte()


def as_floats(samples: Any) -> Any:
    return torch.clamp((samples.double() / 2 + 0.5) * 255, min=0, max=255)


def batch_stretch(samples: Any) -> Any:
    return ((samples - samples.min()) / (samples.max() - samples.min()) * 255).round().byte()


def from_zero(samples: Any) -> Any:
    return (samples.clamp(0, 1) * 255).round().byte()


def wraps(samples: Any) -> Any:
    return ((samples + 1) * 127.5).round().long().remainder(256).byte()


def centred(samples: Any) -> Any:
    return to_picture(samples - samples.mean((1, 2, 3), keepdim=True))


def to_one(samples: Any) -> Any:
    return (samples.clamp(-1, 1) + 1) / 2


# 10


def guide(conditional: Any, unconditional: Any, scale: Any) -> Any:
    return unconditional + scale * (conditional - unconditional)


# 11


def train_steps_with(
    rate_of: Any, batch_of: Any = lambda first, i, last: first + i, zero: bool = True, early: bool = True
) -> Any:
    def train_steps(network: Any, optimizer: Any, rate: Any, loss: Any, first: Any, last: Any) -> Any:
        losses = []
        for i in range(last - first):

            def set_rate(i: Any = i) -> Any:
                for group in optimizer.param_groups:
                    group["lr"] = rate(rate_of(first, i, last))

            if early:
                set_rate()
            if zero:
                optimizer.zero_grad()
            value = loss(network, batch_of(first, i, last))
            value.backward()
            optimizer.step()
            if not early:
                set_rate()
            losses.append(value.item())
        return losses

    return train_steps


def train_steps(network: Any, optimizer: Any, rate: Any, loss: Any, first: Any, last: Any) -> Any:
    losses = []
    for step in range(first, last):
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        value = loss(network, step)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    return losses


def steps_without_weights(network: Any, optimizer: Any, rate: Any, loss: Any, first: Any, last: Any) -> Any:
    return train_steps(network, optimizer, rate, loss, first, last)[:-1]


# 12


def score(samples: Any, real: Any, reference: Any) -> Any:
    return fid(samples, reference), fid(real[: len(samples)], reference)


def score_as_a_list(samples: Any, real: Any, reference: Any) -> Any:
    n = min(len(samples), len(real))
    return [torch.tensor(fid(features[:n], reference)) for features in (samples, real)]


def score_by_name(samples: Any, real: Any, reference: Any) -> Any:
    return dict(zip(("samples", "real"), score(samples, real, reference), strict=True))


def scores(count_samples: Any, count_real: Any) -> Any:
    def score(samples: Any, real: Any, reference: Any) -> Any:
        n = len(samples)
        return fid(samples[: count_samples(n)], reference), fid(real[: count_real(n)], reference)

    return score


# The exam


def exam_with(make_times: Any, guided: Any) -> Any:
    def exam(conditional: Any, unconditional: Any, schedule: Any, x_T: Any, steps: Any, scale: Any) -> Any:
        x = x_T
        for t, s in pairwise(make_times(schedule.T, steps)):
            a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
            batch = torch.full((len(x),), t)
            x0 = guided(conditional(x, batch), unconditional(x, batch), scale).clamp(-1, 1)
            eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
            x = math.sqrt(b) * x0 + math.sqrt(1 - b) * eps
        return x

    return exam


def exam_of_parts(conditional: Any, unconditional: Any, schedule: Any, x_T: Any, steps: Any, scale: Any) -> Any:
    return ours(sd.clipped(sd.guided(conditional, unconditional, scale)), schedule, x_T, steps)


def ceiling(T: Any, steps: Any) -> Any:
    return [T - i * math.ceil(T / steps) for i in range(steps + 1)]


def away(cond: Any, uncond: Any, scale: Any) -> Any:
    return cond + scale * (uncond - cond)


ANSWERS = {
    "forward": Answers(
        right=[*fix("b", [forward, forward_in_place, Forward()]), cause("b")(lambda *inputs: forward(*inputs))],
        wrong=mistakes(
            "forward: where ᾱ_t = 1/2",
            "b",
            forward,
            {
                "a": "if so, the curve of the grey image",
                "c": "with any table",
                "d": "if so, both curves would be moved",
            },
            [
                (with_factors(lambda a: a, lambda a: 1 - a), "you took a root away"),
                (with_factors(lambda a: a, lambda a: (1 - a).sqrt()), "that of x₀ is not"),
                (with_factors(lambda a: (1 - a).sqrt(), lambda a: a.sqrt()), "you swapped the factors"),
                (with_factors(lambda a: a.sqrt(), lambda a: 1 - a.sqrt()), "the root belongs around all of 1−ᾱ_t"),
                (with_factors(lambda a: a.sqrt(), lambda a: a.sqrt()), "x_t is not √ᾱ_t x₀ + √(1−ᾱ_t) ε"),
                (one_step_early, "the timestep before"),
                (normalised, "you divided x_t by its standard deviation"),
                (of_beta, "x_t is not"),
            ],
        ),
    ),
    "preview": Answers(
        right=fix("c", [preview, preview_by_hand, preview_of_a_copy]),
        wrong=mistakes(
            "preview: the preview changes as fast",
            "c",
            preview,
            {"a": "other noise gives", "b": "a decay close to 1", "d": "if so, the first columns"},
            [
                (mean_of_previews, "average the images of both networks"),
                (mean_of_weights, "average the images or the weights"),
                (loads_average, "you copy the average into the network"),
                (calls_both, "the network in training is called, too"),
                (other_steps, "the images are not those of a DDIM run of 15 steps"),
            ],
        ),
    ),
    "ema_update": Answers(
        right=fix("c", [ema(mean, copied), ema(mixed, copied), by_name, Update()]),
        wrong=mistakes(
            "ema_update: the table of the average",
            "c",
            ema(mean, copied),
            {
                "a": "if so, the table of the average",
                "b": "if so, the network's own table",
                "d": "float32 moves",
            },
            [
                (ema(copied, copied), "the parameters are copied now"),
                (ema(nothing, copied), "the parameters of the average do not change any more"),
                (ema(mean, nothing), "the buffers of the average stay as they were"),
                (ema(lambda a, b, d: a.lerp_(b, d), copied), "decay and 1 − decay are swapped"),
                (other_way_round, "your update changes the network that is being trained"),
                (ema(mean, lambda a, b, d: a.zero_()), "neither the old one nor that of the network"),
            ],
        ),
    ),
    "ddim": Answers(
        right=fix("a", [ddim_at(even), ddim_at(floored), ours]),
        wrong=mistakes(
            "ddim: ",
            "a",
            ours,
            {"b": "if so, every number of steps", "c": "without ε̂", "d": "if so, more steps"},
            [
                (ddim_at(capped), "no index is negative any more, but"),
                (ddim_at(even, lambda s: max(s, 1)), "the last step ends at t = 1 now"),
                (ddim_at(lambda T, steps: even(T, steps)[:-1]), "but"),
                (ddim_at(starts_late), "the first call of the denoiser must be at t = T"),
                (ddim_at(even, lambda s: s + 1 if s else 0), "is not that of DDIM at the timesteps"),
                (ddim_at(lambda T, steps: [*even(T, steps), -1]), "the timesteps are 1…100"),
            ],
        ),
    ),
    "ddim_step": Answers(
        right=fix("d", [ddim_step_with(root), ddim_step_tensors]),
        wrong=mistakes(
            "ddim_step: at η = 1",
            "d",
            ddim_step_with(root),
            {
                "a": "if so, the samples would be smooth",
                "b": "the variance is smaller",
                "c": "if so, each sample",
            },
            [
                (ddim_step_with(lambda b, sigma: sigma), "now only σ multiplies ε̂"),
                (ddim_step_with(lambda b, sigma: 1 - b - sigma**2), "without its square root"),
                (
                    ddim_step_with(lambda b, sigma: max(1 - b - sigma, 0) ** 0.5),
                    "you subtract σ, and a variance is needed",
                ),
                (ddim_step_with(lambda b, sigma: (1 - b) ** 0.5 - sigma), "Variances add up"),
                (ddim_step_with(lambda b, sigma: (1 - b) ** 0.5, lambda *_: 0), "you removed the fresh noise"),
                (ddim_step_with(root, lambda *_: 0), "the direction is right, but the fresh noise is gone"),
                (ddim_step_with(root, lambda b, sigma, eta: sigma**2), "multiplied by σ²"),
                (ddim_step_with(lambda b, sigma: b**0.5), "x_s is not"),
            ],
        ),
    ),
    "clipped_step": Answers(
        right=fix("b", [clipped_step, clipped_step_by_slope]),
        wrong=mistakes(
            "clipped_step: with these",
            "b",
            clipped_step,
            {
                "a": "without clipping",
                "c": "if so, nothing in the samples",
                "d": "if so, no change of this function",
            },
            [
                (clipped_step_with(lambda p, q, free, x0, eps, new: p * free + q * eps), "you no longer clip"),
                (
                    clipped_step_with(lambda p, q, free, x0, eps, new: (p * free + q * eps).clamp(-1, 1)),
                    "you clip x_s instead of x̂₀",
                ),
                (
                    clipped_step_with(lambda p, q, free, x0, eps, new: (p * x0 + q * new).clamp(-1, 1)),
                    "you clip x_s as well",
                ),
                (clipped_step_with(lambda p, q, free, x0, eps, new: p * x0 + q * new.clamp(-1, 1)), "you clip ε̂"),
                (clipped_step_with(lambda p, q, free, x0, eps, new: p * free + q * new), "x̂₀ is the unclipped one"),
                (clipped_step_with(lambda p, q, free, x0, eps, new: p * x0), "x_s is not"),
            ],
        ),
    ),
    "load_images": Answers(
        right=fix(
            "d",
            [
                load_images,
                lambda pixels: 2 * (pixels.movedim(-1, 1) / 255) - 1,
                lambda pixels: (pixels.double().permute(0, 3, 1, 2) / 255 - 0.5) / 0.5,
            ],
        ),
        wrong=mistakes(
            "load_images: the darkest pixel is 0",
            "d",
            load_images,
            {"a": "if so, some dark pixels", "b": "blurred samples", "c": "if so, the first row"},
            [
                (lambda pixels: load_images(pixels) + 1, "subtract 1"),
                (lambda pixels: load_images(pixels) / 2, "from −0.5 to 0.5"),
                (lambda pixels: load_images(pixels) / 2 - 0.5, "black is right, white is not"),
                (lambda pixels: (2 * pixels).permute(0, 3, 1, 2) / 255 - 1, "they wrap around to 0"),
                (lambda pixels: pixels.permute(0, 3, 1, 2) / 128 - 1, "white becomes 0.992"),
                (lambda pixels: pixels / 127.5 - 1, "the channels come last"),
                (lambda pixels: (pixels / 127.5 - 1).reshape(2, 3, 6, 5), "height, width and channels"),
                (lambda pixels: -load_images(pixels), "black (0) must become −1"),
            ],
        ),
    ),
    "drop_labels": Answers(
        right=fix("a", [drop_labels, drop_with_where, drop_in_a_copy]),
        wrong=mistakes(
            "drop_labels: a batch of 64",
            "a",
            drop_labels,
            {"b": "the weights do not change", "c": "each of the 100 batches", "d": "if so, nearly all batches"},
            [
                (drop_numbers, "single entries of a label are dropped"),
                (
                    lambda labels, p, generator: labels * (torch.rand(len(labels), generator=generator) >= p),
                    "so that each",
                ),
                (keep_instead, "used to keep labels instead"),
                (drop_in_place, "in place"),
                (no_generator, "do not come from the generator"),
                (one_label, "shape"),
            ],
        ),
    ),
    "to_picture": Answers(
        right=fix("b", [to_picture, truncated, as_floats]),
        wrong=mistakes(
            "to_picture: a picture that is too bright",
            "b",
            to_picture,
            {"a": "all three runs are in one batch", "c": "clipping cuts off", "d": "the means are computed"},
            [
                (batch_stretch, "you stretch over the whole batch"),
                (from_zero, "negative values become black"),
                (wraps, "wrap around"),
                (centred, "you subtract each picture's mean"),
                (to_one, "yours end at 1"),
                (lambda samples: 255 - to_picture(samples).float(), "−1 must become 0"),
            ],
        ),
    ),
    "guide": Answers(
        right=fix(
            "c",
            [
                guide,
                lambda cond, uncond, scale: scale * cond + (1 - scale) * uncond,
                lambda cond, uncond, scale: torch.lerp(uncond, cond, float(scale)),
                lambda cond, uncond, scale: cond.sub_(uncond).mul_(scale).add_(uncond),
            ],
        ),
        wrong=mistakes(
            "guide: the larger the scale",
            "c",
            guide,
            {"a": "if so, a larger scale", "b": "if so, scale 1 would already", "d": "without clipping"},
            [
                (lambda cond, uncond, scale: cond + scale * (cond - uncond), "you start at the conditional prediction"),
                (away, "cond and uncond are swapped"),
                (
                    lambda cond, uncond, scale: cond if scale < 2 else guide(cond, uncond, scale),
                    "you get the conditional prediction",
                ),
                (lambda cond, uncond, scale: uncond + scale * (uncond - cond), "uncond − cond points away"),
                (
                    lambda cond, uncond, scale: (cond + uncond) / 2 * (scale > 0) + uncond * (scale == 0),
                    "this is the mean",
                ),
                (lambda cond, uncond, scale: scale * cond + (scale == 0) * uncond, "this is scale · cond alone"),
                (lambda cond, uncond, scale: cond + (scale - 1) * cond.sign(), "at scale 0"),
            ],
        ),
    ),
    "train_steps": Answers(
        right=fix("b", [train_steps, train_steps_with(lambda first, i, last: first + i)]),
        wrong=mistakes(
            "train_steps: the losses differ from",
            "b",
            train_steps,
            {"a": "without its moments", "c": "known batches", "d": "if so, the very first loss"},
            [
                (
                    train_steps_with(lambda first, i, last: first + i, lambda first, i, last: i),
                    "your batches start again from the first",
                ),
                (train_steps_with(lambda first, i, last: first), "stays at that of the step where the session began"),
                (train_steps_with(lambda first, i, last: last - 1), "the rate of the last step"),
                (train_steps_with(lambda first, i, last: first + i + 1), "one step ahead"),
                (train_steps_with(lambda first, i, last: max(first + i - 1, 0)), "one step behind"),
                (train_steps_with(lambda first, i, last: 2 * first + i), "first is added twice"),
                (train_steps_with(lambda first, i, last: first + i, zero=False), "not cleared"),
                (train_steps_with(lambda first, i, last: 0), "the losses are not those"),
                (steps_without_weights, "return a list with the loss of each"),
            ],
        ),
    ),
    "score": Answers(
        right=fix("a", [score, score_as_a_list, score_by_name]),
        wrong=mistakes(
            "score: a perfect model",
            "a",
            score,
            {"b": "the samples of this table", "c": "bad luck would change", "d": "if so, the real images"},
            [
                (scores(lambda n: n, lambda n: None), "measure the real images with the same number"),
                (scores(lambda n: 64, lambda n: 64), "64 images are too few"),
                (scores(lambda n: 64, lambda n: n), "the samples are still only 64"),
                (scores(lambda n: 128, lambda n: 128), "128 images are better"),
                (lambda samples, real, reference: score(samples, real, reference)[::-1], "in the wrong order"),
                (
                    lambda samples, real, reference: score(samples, real, reference[: len(samples)]),
                    "the reference is cut",
                ),
                (lambda samples, real, reference: fid(samples, reference), "return two numbers"),
                (lambda samples, real, reference: (fid(samples, real), fid(real, reference)), "use all samples"),
            ],
        ),
    ),
    "exam": Answers(
        right=[
            Said("be", exam_with(even, guide)),
            Said("e, b", exam_with(floored, guide)),
            Said("EB", exam_of_parts),
        ],
        wrong=[
            (Said("?", submitted.exam), "both bugs are still there"),
            (Said("?", submitted.exam), "Name the causes, too: write both letters"),
            (Said("be", submitted.exam), "Your diagnosis is right"),
            (Said("be", exam_with(ceiling, guide)), "30 steps give noise"),
            (Said("be", exam_with(even, away)), "scale 1 gives all kinds"),
            (Said("be", exam_with(floored, away)), "scale 1 gives all kinds"),
            (Said("be", exam_with(capped, guide)), "calls of the denoiser"),
            (
                Said("be", exam_with(even, lambda cond, uncond, scale: cond + scale * (cond - uncond))),
                "scale 1 is guided already",
            ),
            (
                Said("be", exam_with(even, lambda cond, uncond, scale: uncond - scale * (cond - uncond))),
                "guidance still moves away",
            ),
            (Said("b", exam_of_parts), "Half of your diagnosis is right; name the other"),
            (Said("ab", exam_of_parts), "Half of your diagnosis is right. It is not a): a stale ε̂"),
            (Said("cd", exam_of_parts), "It is not c): the wrong direction term"),
            (Said("fe", exam_of_parts), "It is not f): labels that were dropped per batch"),
        ],
    ),
}
