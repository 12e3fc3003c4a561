"""Right and wrong answers to the exercises of lab 3."""

from typing import Any

import torch
import torch.nn.functional as F

import shapedreamer as sd
from tests.labs.answers import Answers

# label_vector


def loop(amounts: Any, names: Any) -> Any:
    vector = torch.zeros(len(names))
    for name, amount in amounts.items():
        vector[list(names).index(name)] = amount
    return vector


class AsClass:
    def __call__(self, amounts: Any, names: Any) -> Any:
        return sum(
            (float(amounts[name]) * torch.eye(len(names), dtype=torch.float64)[i])
            for i, name in enumerate(names)
            if name in amounts
        )


def dict_order(amounts: Any, names: Any) -> Any:
    return torch.tensor([*amounts.values(), *[0.0] * (len(names) - len(amounts))])


def popping(amounts: Any, names: Any) -> Any:
    return torch.tensor([float(amounts.pop(name, 0)) for name in names])


# conditional


def with_repeat(network: Any, label: Any) -> Any:
    return lambda x_t, t: network(x_t, t, label.repeat(x_t.shape[0], 1))


class Conditional:
    def __init__(self, network: Any, label: Any) -> None:
        self.network, self.label = network, label

    def __call__(self, x_t: Any, t: Any) -> Any:
        return self.network(x_t, t, torch.stack([self.label] * len(x_t)))


# drop_labels


def with_where(labels: Any, probability: float, generator: Any) -> Any:
    drop = torch.rand(labels.shape[0], generator=generator) < probability
    return torch.where(drop[:, None], 0.0, labels)


def with_clone(labels: Any, probability: float, generator: Any) -> Any:
    labels = labels.clone()
    labels[torch.rand(len(labels), generator=generator) < probability] = 0
    return labels


def per_entry(labels: Any, probability: float, generator: Any) -> Any:
    return labels * (torch.rand(labels.shape, generator=generator) >= probability)


def per_batch(labels: Any, probability: float, generator: Any) -> Any:
    return labels * float(torch.rand(1, generator=generator) >= probability)


def kept_instead(labels: Any, probability: float, generator: Any) -> Any:
    return labels * (torch.rand(len(labels), 1, generator=generator) < probability)


def in_place(labels: Any, probability: float, generator: Any) -> Any:
    labels *= torch.rand(len(labels), 1, generator=generator) >= probability
    return labels


def without_generator(labels: Any, probability: float, generator: Any) -> Any:
    return labels * (torch.rand(len(labels), 1) >= probability)


def like_dropout(labels: Any, probability: float, generator: Any) -> Any:
    return labels * (torch.rand(len(labels), 1, generator=generator) >= probability) / (1 - min(probability, 0.5))


def minus_one(labels: Any, probability: float, generator: Any) -> Any:
    keep = torch.rand(len(labels), 1, generator=generator) >= probability
    return torch.where(keep, labels, -1.0)


# blend


def blend_loop(a: Any, b: Any, steps: int) -> Any:
    return torch.stack([a + i / (steps - 1) * (b - a) for i in range(steps)])


def blend_lerp(a: Any, b: Any, steps: int) -> Any:
    return torch.lerp(a.expand(steps, -1), b.expand(steps, -1), torch.linspace(0, 1, steps)[:, None])


def weights(steps: int) -> Any:
    return torch.linspace(0, 1, steps)[:, None]


# guided


def two_weights(conditional: Any, unconditional: Any, scale: float) -> Any:
    return lambda x, t: scale * conditional(x, t) + (1 - scale) * unconditional(x, t)


class Guided:
    def __init__(self, conditional: Any, unconditional: Any, scale: float) -> None:
        self.conditional, self.unconditional, self.scale = conditional, unconditional, scale

    def __call__(self, x: Any, t: Any) -> Any:
        return torch.lerp(self.unconditional(x, t), self.conditional(x, t), self.scale)


# exam


def with_package(network: Any, schedule: Any, labels: Any, scale: float, x_T: Any, steps: Any) -> Any:
    guide = sd.guided(lambda x, t: network(x, t, labels), network, scale)
    return sd.samplers.sample(sd.samplers.ddim(sd.clipped(guide), schedule, x_T, steps))


def with_zeros_and_loop(network: Any, schedule: Any, labels: Any, scale: float, x_T: Any, steps: Any) -> Any:
    def denoise(x: Any, t: Any) -> Any:
        cond, uncond = network(x, t, labels), network(x, t, torch.zeros_like(labels))
        return ((1 - scale) * uncond).add_(scale * cond).clamp_(-1, 1)

    for step in sd.samplers.ddim(denoise, schedule, x_T, steps):
        image = step.x
    return image


def both_at_once(network: Any, schedule: Any, labels: Any, scale: float, x_T: Any, steps: Any) -> Any:
    """One network call with a batch twice as large, as is usual."""

    def denoise(x: Any, t: Any) -> Any:
        twice = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([labels, labels * 0]))
        cond, uncond = twice.chunk(2)
        return (uncond + scale * (cond - uncond)).clamp(-1, 1)

    return sd.samplers.sample(sd.samplers.ddim(denoise, schedule, x_T, steps))


def exam_with(combine: Any) -> Any:
    """An exam with another formula for x̂₀, from the predictions with and without labels and the scale."""

    def digits(network: Any, schedule: Any, labels: Any, scale: float, x_T: Any, steps: Any) -> Any:
        def denoise(x: Any, t: Any) -> Any:
            return combine(network(x, t, labels), network(x, t), scale)

        return sd.samplers.sample(sd.samplers.ddim(denoise, schedule, x_T, steps))

    return digits


def first_label(network: Any, schedule: Any, labels: Any, scale: float, x_T: Any, steps: Any) -> Any:
    return with_package(network, schedule, labels[:1].expand(len(x_T), -1), scale, x_T, steps)


def the_stream(network: Any, schedule: Any, labels: Any, scale: float, x_T: Any, steps: Any) -> Any:
    guide = sd.guided(lambda x, t: network(x, t, labels), network, scale)
    return sd.samplers.ddim(sd.clipped(guide), schedule, x_T, steps)


def one_label(network: Any, schedule: Any, labels: Any, scale: float, x_T: Any, steps: Any) -> Any:
    guide = sd.guided(lambda x, t: network(x, t, labels[0]), network, scale)
    return sd.samplers.sample(sd.samplers.ddim(sd.clipped(guide), schedule, x_T, steps))


ANSWERS = {
    "label_vector": Answers(
        right=[loop, AsClass()],
        wrong=[
            (dict_order, "the order of `names` decides"),
            (lambda amounts, names: torch.tensor([amounts[name] for name in names]), "raises KeyError; amounts.get"),
            (lambda amounts, names: torch.tensor([float(name in amounts) for name in names]), "may be any number"),
            (lambda amounts, names: torch.tensor(list(amounts.values())), "one for each of the"),
            (lambda amounts, names: loop(amounts, names) / sum(amounts.values()), "scaled so that they sum to 1"),
            (lambda amounts, names: loop(amounts, names).long(), "whole numbers"),
            (lambda amounts, names: [amounts.get(name, 0.0) for name in names], "Python list"),
            (lambda amounts, names: torch.tensor([amounts.get(name, 0) for name in names]), "holds integers"),
            (lambda amounts, names: loop(amounts, names)[None], "shape (1, 5)"),
            (popping, "changes the dict"),
        ],
    ),
    "conditional": Answers(
        right=[with_repeat, Conditional],
        wrong=[
            (lambda network, label: lambda x, t: network(x, t), "without the label"),
            (lambda network, label: lambda x, t: network(x, t, label), "a label for each image"),
            (lambda network, label: lambda x, t: network(x, t, label[None]), "a label for each image"),
            (lambda network, label: lambda x, t: network(x, t, label.expand(4, -1)), "(1, 5) for 1 images"),
            (lambda network, label: lambda x, t: network(t, x, label.expand(len(x), -1)), "the first argument"),
            (lambda network, label: lambda x, t: network(x, t, torch.zeros(len(x), len(label))), "label of zeros"),
            (lambda network, label: network, "without the label"),
            (lambda network, label: torch.zeros(3), "must return a function"),
            (lambda network, label: lambda x, t: network(x, t[0], label.expand(len(x), -1)), "a tensor (B,)"),
            (lambda network, label: lambda x, t: x, "without the prediction"),
            (lambda network, label: lambda x, t: None, "returns None"),
        ],
    ),
    "drop_labels": Answers(
        right=[with_where, with_clone],
        wrong=[
            (per_entry, "single entries"),
            (lambda labels, p, generator: labels * (torch.rand(len(labels), generator=generator) >= p), "so that each"),
            (per_batch, "per batch"),
            (kept_instead, "keep labels"),
            (in_place, "change a copy"),
            (without_generator, "do not come from the generator"),
            (like_dropout, "other than 0"),
            (minus_one, "other than 0"),
            (lambda labels, probability, generator: labels, "given probability"),
            (lambda labels, p, generator: torch.rand(len(labels), 1, generator=generator) >= p, "the mask"),
            (lambda labels, p, generator: F.dropout(labels, p), "other than 0"),
        ],
    ),
    "blend": Answers(
        right=[blend_loop, blend_lerp],
        wrong=[
            (lambda a, b, steps: blend_loop(b, a, steps), "from b to a"),
            (lambda a, b, steps: torch.linspace(0, 1, steps) * b, "the shape (steps, 1)"),
            (lambda a, b, steps: torch.stack([a + i / steps * (b - a) for i in range(steps)]), "never reaches b"),
            (lambda a, b, steps: blend_loop(a, b, steps + 2)[1:-1], "leaves out both ends"),
            (lambda a, b, steps: a + weights(steps) * b, "weights of a and b must sum to 1"),
            (lambda a, b, steps: blend_loop(a, b, steps).T, "needed"),
            (lambda a, b, steps: list(blend_loop(a, b, steps)), "torch.stack"),
            (lambda a, b, steps: blend_loop(a, b, steps + 1), "both ends count"),
            (lambda a, b, steps: F.normalize(blend_loop(a, b, steps)), "scaled to length 1"),
        ],
    ),
    "guided": Answers(
        right=[two_weights, Guided],
        wrong=[
            (lambda c, u, s: lambda x, t: c(x, t) + s * (c(x, t) - u(x, t)), "w = scale − 1"),
            (lambda c, u, s: lambda x, t: c(x, t) + s * (u(x, t) - c(x, t)), "swapped"),
            (lambda c, u, s: lambda x, t: u(x, t) + s * c(x, t), "without taking uncond away"),
            (lambda c, u, s: lambda x, t: s * c(x, t), "only the difference"),
            (lambda c, u, s: lambda x, t: c(x, t), "has no effect"),
            (lambda c, u, s: lambda x, t: s * (c(x, t) - u(x, t)), "add it to the unconditional"),
            (lambda c, u, s: torch.zeros(3), "must return a function"),
            (lambda c, u, s: lambda x, t: u(x, t) + (s - 1) * (c(x, t) - u(x, t)), "uncond + scale"),
        ],
    ),
    "exam": Answers(
        right=[with_package, with_zeros_and_loop, both_at_once],
        wrong=[
            (exam_with(lambda c, u, s: u + s * (c - u)), "you do not clip"),
            (exam_with(lambda c, u, s: u.clamp(-1, 1) + s * (c.clamp(-1, 1) - u.clamp(-1, 1))), "before you guide"),
            (exam_with(lambda c, u, s: (c + s * (u - c)).clamp(-1, 1)), "moves away from the label"),
            (exam_with(lambda c, u, s: (c + s * (c - u)).clamp(-1, 1)), "w = scale − 1"),
            (exam_with(lambda c, u, s: c.clamp(-1, 1)), "no effect"),
            (exam_with(lambda c, u, s: u.clamp(-1, 1)), "unconditional model"),
            (first_label, "each has its own"),
            (the_stream, "returns the steps"),
            (one_label, "a label for each image"),
        ],
    ),
}
