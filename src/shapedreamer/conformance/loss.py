"""Checks of the loss: what it shows the network, and how small it can become."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule, linear
from . import mistakes
from .exact import OPTIMAL_EPS_MSE, optimal_eps_mse
from .process import forward_mistake
from .report import Checklist, Report, title_of, unfailing


@unfailing
def check_loss(loss: Callable[..., Tensor]) -> Report:
    """Whether loss(network, x0, t, eps, schedule, prediction) -> (B,) is the squared error of each image, for ε.

    The best network possible must reach the floor, exactly; and the network must be shown x_t and t rightly. The error
    is linear in (x₀, ε), so two images a time, (std, 0) and (0, 1), give its mean over all data N(0, std²).
    """
    schedule = linear()
    T, alpha_bar = schedule.T, schedule.alpha_bar
    rows = Checklist(title_of(loss, "loss"), "Ho et al. 2020, equation 14")
    t = torch.arange(1, T + 1).repeat(2)
    a = alpha_bar[t].view(-1, 1, 1, 1)
    x0 = torch.ones_like(a)
    x0[T:] = 0
    shown: list[tuple[Tensor, Tensor]] = []

    def best_loss(std: float) -> Tensor:
        def network(x_t: Tensor, time: Tensor, *_: Any) -> Tensor:
            shown.append((x_t.double().flatten(), time.flatten()))
            return (1 - a).sqrt() * x_t / (a * std**2 + 1 - a)

        return loss(network, std * x0, t, 1 - x0, schedule, "eps")

    losses = {std: rows.attempt("the loss", partial(best_loss, std)) for std in OPTIMAL_EPS_MSE}
    if not shown:
        rows.add("the network is called", False, "called", "not called", "the loss never calls the network")
    else:
        x_t, time = shown[0]
        off = time.shape == t.shape and bool(((time - t).abs() == 1).all())
        told, suspect = torch.equal(time, t), mistakes.OFF_BY_ONE if off else "the network is not told t"
        rows.holds("the network is told t", told, "t", "another time", suspect)
        signal, noise = x_t[:T], x_t[T:]
        want = torch.cat([alpha_bar[1:].sqrt(), (1 - alpha_bar[1:]).sqrt()])
        good = torch.allclose(x_t, want, rtol=0, atol=1e-6)
        rows.holds(
            "the network sees x_t", good, "x_t", "another image", forward_mistake(signal, noise, t[:T], alpha_bar)
        )
    for std, each in losses.items():
        if each is not None and each.shape != t.shape:
            got = str(tuple(each.shape))
            rows.add("one number an image", False, str(tuple(t.shape)), got, "the loss is not one number an image")
        elif each is not None:
            mean, expected = each.double().sum().item() / T, OPTIMAL_EPS_MSE[std]
            name = f"best ε-MSE, data of standard deviation {std:g}"
            mistake = "it is not the mean squared error"
            rows.add(name, abs(mean - expected) < 1e-5, f"{expected:.5f}", f"{mean:.5f}", mistake)
    return rows.report()


@unfailing
def check_loss_floor(loss: float, std: float, schedule: Schedule | None = None) -> Report:
    """Whether a measured ε-MSE, the mean over uniform t, is one that a network can have on data N(0, std²).

    Below the floor something leaks; above 1 a network that always answers 0 would be better. Data that is not Gaussian
    but of the same standard deviation may have a lower floor: this is for noise as data, the strictest test of a loop.
    """
    floor = optimal_eps_mse(std, schedule or linear())
    rows = Checklist("loss", "the closed form for data N(0, std²), conformance/exact.py")
    rows.add("not below the floor", loss >= 0.98 * floor, f"at least {floor:.5f}", f"{loss:.5f}", mistakes.LEAK)
    mistake = "the network predicts worse than nothing"
    rows.add("better than predicting nothing", loss < 1, "below 1", f"{loss:.5f}", mistake)
    return rows.report()
