"""Checks of the training loss: what it passes to the network, and the smallest value that it can reach."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule, linear
from . import mistakes
from .exact import OPTIMAL_EPS_MSE, optimal_eps_mse
from .process import find_forward_mistake
from .report import Checklist, Report, name_of, report_exceptions


@report_exceptions
def check_loss(loss: Callable[..., Tensor]) -> Report:
    """Check that ``loss(network, x0, t, eps, schedule, prediction)`` returns the ε-MSE of each image, shape (B,).

    The network must get the right x_t and t, and the best possible network must reach exactly the minimum loss. Its
    error is linear in (x₀, ε), so two images per timestep, (std, 0) and (0, 1), give the mean over all data N(0, std²).
    """
    schedule = linear()
    T, alpha_bar = schedule.T, schedule.alpha_bar
    checklist = Checklist(name_of(loss, "loss"), "Ho et al. 2020, equation 14")
    t = torch.arange(1, T + 1).repeat(2)
    a = alpha_bar[t].view(-1, 1, 1, 1)
    x0 = torch.ones_like(a)
    x0[T:] = 0
    calls: list[tuple[Tensor, Tensor]] = []

    def minimum_loss(std: float) -> Tensor:
        def best_network(x_t: Tensor, time: Tensor, *_: Any) -> Tensor:
            calls.append((x_t.double().flatten(), time.flatten()))
            return (1 - a).sqrt() * x_t / (a * std**2 + 1 - a)

        return loss(best_network, std * x0, t, 1 - x0, schedule, "eps")

    losses = {std: checklist.attempt("the loss", partial(minimum_loss, std)) for std in OPTIMAL_EPS_MSE}
    if not calls:
        checklist.add("the network is called", False, "called", "not called", "the loss never calls the network")
    else:
        x_t, time = calls[0]
        same_t = torch.equal(time, t)
        off_by_one = time.shape == t.shape and bool(((time - t).abs() == 1).all())
        suspect = mistakes.OFF_BY_ONE if off_by_one else "the loss does not pass t to the network"
        checklist.require("the network gets t", same_t, "t", "different t", suspect)
        want = torch.cat([alpha_bar[1:].sqrt(), (1 - alpha_bar[1:]).sqrt()])
        same_x_t = torch.allclose(x_t, want, rtol=0, atol=1e-6)
        forward_mistake = find_forward_mistake(x_t[:T], x_t[T:], t[:T], alpha_bar)
        checklist.require("the network gets x_t", same_x_t, "x_t", "different image", forward_mistake)
    for std, values in losses.items():
        if values is not None and values.shape != t.shape:
            mistake = "the loss does not return one number per image"
            checklist.add("shape (B,)", False, str(tuple(t.shape)), str(tuple(values.shape)), mistake)
        elif values is not None:
            mean, expected = values.double().sum().item() / T, OPTIMAL_EPS_MSE[std]
            name = f"minimum ε-MSE, data with standard deviation {std:g}"
            mistake = "the loss is not the mean squared error"
            checklist.add(name, abs(mean - expected) < 1e-5, f"{expected:.5f}", f"{mean:.5f}", mistake)
    return checklist.report()


@report_exceptions
def check_loss_floor(loss: float, std: float, schedule: Schedule | None = None) -> Report:
    """Check that a measured ε-MSE, the mean over uniform t, is possible on data N(0, std²).

    Below the minimum, something leaks x₀ or ε to the network. Above 1, predicting zero would be better. Data that is
    not Gaussian may have a lower minimum at the same standard deviation, so train on Gaussian noise as data for this
    check. That is the strictest test of a training loop.

    schedule: the schedule of the training run; linear, T = 1000, if None
    """
    floor = optimal_eps_mse(std, schedule or linear())
    checklist = Checklist("loss", "closed form for data N(0, std²), conformance/exact.py")
    checklist.add("not below the minimum", loss >= 0.98 * floor, f"at least {floor:.5f}", f"{loss:.5f}", mistakes.LEAK)
    mistake = "the loss is worse than that of predicting zero"
    checklist.add("better than predicting zero", loss < 1, "below 1", f"{loss:.5f}", mistake)
    return checklist.report()
