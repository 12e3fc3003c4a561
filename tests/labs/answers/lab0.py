"""Right and wrong answers to lab 0, Noise."""

from typing import Any

import torch

from tests.labs.answers import Answers


def first(pixels: Any) -> Any:
    return pixels.permute(0, 3, 1, 2).float()


class ToImages:
    def __call__(self, pixels: Any) -> Any:
        return torch.einsum("bhwc->bchw", pixels.double()).mul_(2).sub_(255).div_(255)


def to_images_in_place(pixels: Any) -> Any:
    x = pixels.to(torch.float32).movedim(-1, 1).contiguous()
    x /= 255
    x -= 0.5
    x *= 2
    return x


class NoiseStep:
    def __call__(self, x: Any, beta_t: Any, eps: Any) -> Any:
        beta = torch.tensor(beta_t, dtype=torch.float64)
        return torch.sqrt(1 - beta) * x.double() + torch.sqrt(beta) * eps.double()


def noise_step_in_place(x: Any, beta_t: Any, eps: Any) -> Any:
    x *= (1 - beta_t) ** 0.5
    x += eps.mul_(beta_t**0.5)
    return x


def table_by_loop(beta: Any) -> Any:
    values = [1.0]
    for b in beta.tolist():
        values.append(values[-1] * (1 - b))
    return torch.tensor(values, dtype=torch.float64)


class Table:
    def __call__(self, beta: Any) -> Any:
        return torch.cat([beta.new_zeros(1), torch.log1p(-beta).cumsum(0)]).exp()


def table(beta: Any) -> Any:
    return table_by_loop(beta)


def diffuse_in_float(x0: Any, t: Any, eps: Any, alpha_bar: Any) -> Any:
    a = alpha_bar.float()[t][:, None, None, None]
    return a**0.5 * x0 + (1 - a) ** 0.5 * eps


class DiffuseInLoop:
    def __call__(self, x0: Any, t: Any, eps: Any, alpha_bar: Any) -> Any:
        out = x0.clone()
        for i, time in enumerate(t.tolist()):
            a = alpha_bar[time].item()
            out[i] = a**0.5 * x0[i] + (1 - a) ** 0.5 * eps[i]
        return out


def diffuse_with(formula: Any, shift: int = 0) -> Any:
    def diffuse(x0: Any, t: Any, eps: Any, alpha_bar: Any) -> Any:
        return formula(alpha_bar[t - shift].view(-1, 1, 1, 1), x0, eps)

    return diffuse


def diffuse_of_first(x0: Any, t: Any, eps: Any, alpha_bar: Any) -> Any:
    a = alpha_bar[t[0]]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def diffuse_without_view(x0: Any, t: Any, eps: Any, alpha_bar: Any) -> Any:
    a = alpha_bar[t]
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def log_snr(a: Any) -> Any:
    return torch.log(a) - torch.log1p(-a)


def same_noise_by_loop(t: int, alpha_bar: Any, other: Any) -> int:
    wanted = log_snr(alpha_bar[t])
    return min(range(1, len(other)), key=lambda u: abs(float(log_snr(other[u]) - wanted)))


class SameNoise:
    """Returns a tensor, and does not leave out t = 0."""

    def __call__(self, t: int, alpha_bar: Any, other: Any) -> Any:
        return (log_snr(other) - log_snr(alpha_bar[t])).abs().argmin()


def exam_as_list(pixels: Any, beta: Any, s: int, t: int, eps_s: Any, eps_t: Any) -> Any:
    x0, a = ToImages()(pixels), table(beta)
    x_s = a[s] ** 0.5 * x0 + (1 - a[s]) ** 0.5 * eps_s
    between = torch.prod(1 - beta[s:t])
    return [x_s, between**0.5 * x_s + (1 - between) ** 0.5 * eps_t]


class Exam:
    """x_s at once, and x_t from x0 and the sum of both noises."""

    def __call__(self, pixels: Any, beta: Any, s: int, t: int, eps_s: Any, eps_t: Any) -> Any:
        x0, a = first(pixels) / 127.5 - 1, table(beta).float()
        ratio = a[t] / a[s]
        noise = (ratio * (1 - a[s])).sqrt() * eps_s + (1 - ratio).sqrt() * eps_t
        return a[s].sqrt() * x0 + (1 - a[s]).sqrt() * eps_s, a[t].sqrt() * x0 + noise


def exam_with(**wrong: Any) -> Any:
    def exam(pixels: Any, beta: Any, s: int, t: int, eps_s: Any, eps_t: Any) -> Any:
        x0, a = first(pixels) / (255 if wrong.get("unit") else 127.5) - (0 if wrong.get("unit") else 1), table(beta)
        if wrong.get("shift"):
            a = a[1:]
        power = 1.0 if wrong.get("no_root") else 0.5
        x_s = a[s] ** 0.5 * x0 + (1 - a[s]) ** power * eps_s
        ratio = a[t] if wrong.get("again") else 1 - beta[t - 1] if wrong.get("single") else a[t] / a[s]
        x = x0 if wrong.get("x0") else x_s
        power = 1.0 if wrong.get("late_root") else 0.5
        x_t = ratio**0.5 * x + (1 - ratio) ** power * (eps_s if wrong.get("same") else eps_t)
        return x_t if wrong.get("one") else (x_s, x_t)

    return exam


ANSWERS = {
    "to_images": Answers(
        right=[ToImages(), to_images_in_place],
        wrong=[
            (lambda p: first(p) / 255, "in [0, 1]"),
            (lambda p: first(p) / 127.5, "in [0, 2]"),
            (lambda p: first(p) / 255 - 0.5, "[−0.5, 0.5]"),
            (lambda p: first(p) / 128 - 1, "divide by 128"),
            (lambda p: p.float() / 127.5 - 1, "channels are still last"),
            (lambda p: (2 * p).permute(0, 3, 1, 2) / 255 - 1, "wraps around"),
            (lambda p: p.reshape(3, 3, 6, 8).float() / 127.5 - 1, "mixes up the pixels"),
            (lambda p: p.permute(0, 3, 2, 1).float() / 127.5 - 1, "turned"),
            (lambda p: p.permute(0, 3, 1, 2), "still uint8"),
            (lambda p: 1 - first(p) / 127.5, "other way round"),
        ],
    ),
    "noise_step": Answers(
        right=[NoiseStep(), noise_step_in_place],
        wrong=[
            (lambda x, b, e: (1 - b) ** 0.5 * x + b * e, "root of β_t is missing"),
            (lambda x, b, e: (1 - b) * x + b**0.5 * e, "root of 1−β_t"),
            (lambda x, b, e: (1 - b) * x + b * e, "both roots"),
            (lambda x, b, e: b**0.5 * x + (1 - b) ** 0.5 * e, "swapped"),
            (lambda x, b, e: x + b**0.5 * e, "not shrunk"),
            (lambda x, b, e: (1 - b) ** 0.5 * x, "noise is missing"),
            (lambda x, b, e: (1 - b) ** 0.5 * x + e, "unscaled"),
        ],
    ),
    "make_alpha_bar": Answers(
        right=[table_by_loop, Table()],
        wrong=[
            (lambda beta: torch.cumprod(1 - beta, 0), "ᾱ₀ = 1 is missing"),
            (lambda beta: table(beta)[:-1], "last entry"),
            (lambda beta: torch.cat([torch.ones(1), torch.cumprod(beta, 0)]), "product of β"),
            (lambda beta: torch.cat([torch.ones(1), 1 - beta]), "of single steps"),
            (lambda beta: torch.cat([torch.ones(1), 1 - beta.cumsum(0)]), "not added"),
            (lambda beta: torch.cat([torch.zeros(1), torch.cumprod(1 - beta, 0)]), "yours is 0"),
            (lambda beta: table(beta).sqrt(), "without a root"),
            (lambda beta: table(beta).float(), "float64"),
            (lambda beta: table(beta).tolist(), "not a list"),
        ],
    ),
    "diffuse": Answers(
        right=[diffuse_in_float, DiffuseInLoop(), diffuse_with(lambda a, x, e: a.sqrt() * x + (1 - a).sqrt() * e)],
        wrong=[
            (diffuse_with(lambda a, x, e: a.sqrt() * x + (1 - a) * e), "root of 1−ᾱ_t is missing"),
            (diffuse_with(lambda a, x, e: a * x + (1 - a).sqrt() * e), "root of ᾱ_t is missing"),
            (diffuse_with(lambda a, x, e: a * x + (1 - a) * e), "both roots"),
            (diffuse_with(lambda a, x, e: (1 - a).sqrt() * x + a.sqrt() * e), "swapped"),
            (diffuse_with(lambda a, x, e: a.sqrt() * x + (1 - a).sqrt() * e, 1), "off by one"),
            (diffuse_of_first, "first image's timestep"),
            (diffuse_without_view, "(B, 1, 1, 1)"),
            (diffuse_with(lambda a, x, e: a.sqrt() * x), "noise is missing"),
            (diffuse_with(lambda a, x, e: x + (1 - a).sqrt() * e), "not shrunk"),
        ],
    ),
    "same_noise": Answers(
        right=[same_noise_by_loop, SameNoise()],
        wrong=[
            (lambda t, a, o: t, "t itself"),
            (lambda t, a, o: same_noise_by_loop(t, a, o) - 1, "one timestep too low"),
            (lambda t, a, o: round(t * (len(o) - 1) / (len(a) - 1)), "other"),
            (lambda t, a, o: int((log_snr(o[1:]) - log_snr(a[t])).argmin()) + 1, "take .abs()"),
            (lambda t, a, o: log_snr(a[t]), "an int"),
            (lambda t, a, o: -1, "run from 1"),
        ],
    ),
    "exam": Answers(
        right=[exam_as_list, Exam()],
        wrong=[
            (exam_with(unit=True), "[0, 1]"),
            (exam_with(shift=True), "off by one"),
            (exam_with(no_root=True), "root of 1−ᾱ_s"),
            (exam_with(again=True), "noised by ᾱ_t again"),
            (exam_with(x0=True), "start from x0"),  # with the factor of x_s
            (exam_with(x0=True, again=True), "start from x0"),
            (exam_with(late_root=True), "root of 1−ᾱ_t/ᾱ_s"),
            (exam_with(single=True), "single step"),
            (exam_with(same=True), "eps_t"),
            (exam_with(one=True), "both images"),
        ],
    ),
}
