"""Checks of the training loss: what it passes to the network, and the smallest value that it can reach."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..diffusion.schedule import Schedule, linear
from . import mistakes
from .exact import OPTIMAL_EPS_MSE, optimal_eps_mse
from .mistakes import Mistake
from .process import find_forward_mistake
from .report import Checklist, Report, name_of, report_exceptions, wrong_order

PARAMETERS = ("network", "x0", "t", "eps", "schedule", "prediction")
IMAGE = (2, 3, 5)
"""Shape of an image. With more than one pixel, a sum over pixels is not a mean."""


@report_exceptions
def check_loss(loss: Callable[..., Tensor]) -> Report:
    """Check that ``loss(network, x0, t, eps, schedule, prediction)`` returns the ε-MSE of each image, shape (B,).

    The mean is taken over the pixels, not over the batch. The network must get the right x_t and t, and its gradient
    must be that of the mean squared error. The best possible network must reach exactly the minimum loss: its error is
    linear in (x₀, ε), so two images per timestep, (std, 0) and (0, 1), give the mean over all data N(0, std²).

    It is called with x0 and eps (B, 2, 3, 5) float64, t (B,) int64 in 1…T, the linear schedule, and "eps".
    """
    checklist = Checklist(name_of(loss, "loss"), "Ho et al. 2020, equation 14")
    if problem := wrong_order(loss, PARAMETERS):
        checklist.add("order of parameters", False, ", ".join(PARAMETERS), problem, mistakes.ARGUMENT_ORDER)
        return checklist.report()
    schedule = linear()
    T, alpha_bar = schedule.T, schedule.alpha_bar
    t = torch.arange(1, T + 1).repeat(2)
    a = alpha_bar[t].view(-1, 1, 1, 1)
    x0 = torch.ones(2 * T, *IMAGE, dtype=torch.float64)
    x0[T:] = 0
    calls: list[tuple[Tensor, Tensor]] = []

    def minimum_loss(std: float) -> Tensor:
        def best_network(x_t: Tensor, time: Tensor, *_: Any) -> Tensor:
            calls.append((x_t.double()[:, 0, 0, 0], time.flatten()))
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
    _add_reduction_checks(checklist, loss, schedule)
    for std, values in losses.items():
        if values is not None and values.shape == t.shape:
            mean, expected = values.detach().double().sum().item() / T, OPTIMAL_EPS_MSE[std]
            name = f"minimum ε-MSE, data with standard deviation {std:g}"
            mistake = "the loss is not the mean squared error"
            checklist.add(name, abs(mean - expected) < 1e-5, f"{expected:.5f}", f"{mean:.5f}", mistake)
    return checklist.report()


def _add_reduction_checks(checklist: Checklist, loss: Callable[..., Tensor], schedule: Schedule) -> None:
    """Check the shape, the mean over pixels, and the gradient, with a network whose output differs in every pixel."""
    B = 4
    generator = torch.Generator().manual_seed(0)
    x0, eps, output = torch.randn(3, B, *IMAGE, generator=generator, dtype=torch.float64)
    t = torch.tensor([1, 300, 700, schedule.T])
    weight = output.clone().requires_grad_()
    with torch.enable_grad():
        values = checklist.attempt(
            "four images", lambda: loss(lambda x_t, time, *_: weight * 1.0, x0.clone(), t.clone(), eps, schedule, "eps")
        )
        if values is None:
            return
        want = (output - eps).square().flatten(1).mean(1)
        pixels = eps[0].numel()
        shape = tuple(values.shape)
        got = values.detach().double()
        per_image = shape == (B,)
        mistake: Mistake | str = "the loss does not return one number per image"
        checklist.add("shape (B,)", per_image, f"({B},)", str(shape), mistake)
        reduced = got if per_image else got.sum().expand(B)
        matches = per_image and torch.allclose(got, want, rtol=1e-5, atol=0)
        mistake = "the loss is not the mean squared error"
        if per_image and torch.allclose(got, pixels * want, rtol=1e-5, atol=0):
            mistake = mistakes.SUMMED_PIXELS
        elif per_image and any(
            torch.allclose(reduced, each.expand(B), rtol=1e-5, atol=0) for each in (want.mean(), want.sum())
        ):
            mistake = mistakes.AVERAGED_BATCH
        if per_image:
            expected, shown = (f"{each[0]:.5f}, {each[1]:.5f}, …" for each in (want, got))
            checklist.add("mean over the pixels of each image", matches, expected, shown, mistake)
        name = "the gradient reaches the network"
        if not values.requires_grad:
            checklist.add(name, False, "a gradient", "none", mistakes.DETACHED)
            return
        (gradient,) = torch.autograd.grad(values.double().sum(), weight, allow_unused=True)
    detached = gradient is None or not bool(gradient.abs().sum() > 0)
    checklist.require(name, not detached, "a gradient", "none", mistakes.DETACHED)
    if not detached and matches:
        exact = 2 * (output - eps) / pixels
        correct = torch.allclose(gradient.double(), exact, rtol=1e-4, atol=1e-9)
        mistake = "the gradient is not that of the mean squared error (is part of the loss detached?)"
        checklist.require("the gradient is 2 (output − ε) / pixels", correct, "equal", "different", mistake)


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
