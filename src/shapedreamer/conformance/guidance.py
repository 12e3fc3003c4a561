"""Check of classifier-free guidance: how much of each model is in the guided prediction, at several scales."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, describe_error, name_of, raised, report_exceptions


@report_exceptions
def check_guidance(guided: Callable[..., Callable[[Tensor, Tensor], Tensor]]) -> Report:
    """Check that ``guided(conditional, unconditional, scale)`` returns the guided denoiser.

    It must compute uncond + scale · (cond − uncond). Scale 1 is the conditional model, scale 0 the unconditional one
    (Ho & Salimans 2022, equation 6, where w = scale − 1). All denoisers map (x_t (B, C, H, W), t (B,)) to x̂₀.
    """
    checklist = Checklist(name_of(guided, "guidance"), "Ho & Salimans 2022, equation 6")
    x_t = torch.linspace(-1, 1, 24, dtype=torch.float64).view(2, 1, 3, 4)
    t = torch.tensor([3, 800])

    def conditional(x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x.square() + 0.3

    def unconditional(x: Tensor, t: Tensor) -> Tensor:
        return -0.25 * x + 0.001 * t.view(-1, 1, 1, 1)

    cond, uncond = conditional(x_t, t), unconditional(x_t, t)
    basis = torch.stack([cond.flatten(), uncond.flatten()], dim=1)

    def solve_weights(scale: float) -> tuple[float, float]:
        """Return the weights of the conditional and the unconditional prediction, NaN if their sum does not fit."""
        out = guided(conditional, unconditional, scale)(x_t, t)
        of_cond, of_uncond = torch.linalg.lstsq(basis, out.flatten()[:, None].double()).solution[:, 0].tolist()
        residual = basis @ torch.tensor([of_cond, of_uncond], dtype=torch.float64) - out.flatten()
        if residual.abs().max().item() < 1e-9:
            return of_cond, of_uncond
        factors = out.double() / (uncond + scale * (cond - uncond))
        per_image = factors.flatten(1)
        if bool(((per_image - per_image[:, :1]).abs() < 1e-6).all()):  # one factor for each image
            reduced.append(mistakes.GUIDANCE_RESCALED)
        elif all(_fits(basis.view(len(x_t), -1, 2)[i], out.double()[i]) for i in range(len(x_t))):
            reduced.append(mistakes.GUIDANCE_MIXES)
        return float("nan"), float("nan")

    reduced: list[Mistake] = []

    found: dict[float, tuple[float, float]] = {}
    for scale in (0.0, 1.0, 2.0, 7.5):
        try:
            found[scale] = solve_weights(scale)
        except Exception as error:
            checklist.add(f"scale {scale:g}", False, "no exception", describe_error(error), raised(error))
    suspect: Mistake | str = "guidance is not uncond + scale · (cond − uncond)"
    if 2.0 in found and 7.5 in found:
        slope = (found[7.5][0] - found[2.0][0]) / 5.5
        at_zero = found[2.0][0] - 2 * slope
        if reduced or _is_rescaled(found):
            suspect = reduced[0] if reduced else mistakes.GUIDANCE_RESCALED
        elif slope < 0:
            suspect = mistakes.GUIDANCE_SIGN
        elif abs(slope - 1) < 1e-6 and abs(at_zero - 1) < 1e-6:
            suspect = mistakes.OTHER_SCALE
    meaning = {0.0: "is the unconditional model", 1.0: "is the conditional model"}
    for scale, (of_cond, of_uncond) in found.items():
        passed = abs(of_cond - scale) < 1e-6 and abs(of_uncond - (1 - scale)) < 1e-6
        name = f"scale {scale:g} {meaning.get(scale, 'strengthens the label')}"
        checklist.add(name, passed, _format_sum(scale, 1 - scale), _format_sum(of_cond, of_uncond), suspect)
    return checklist.report()


def _fits(basis: Tensor, out: Tensor) -> bool:
    solution = torch.linalg.lstsq(basis, out.flatten()[:, None]).solution
    return bool((basis @ solution - out.flatten()[:, None]).abs().max() < 1e-9)


def _is_rescaled(found: dict[float, tuple[float, float]]) -> bool:
    """Whether cond and uncond have the right ratio at every scale above 1, but not the right size."""
    large = [(scale, weights) for scale, weights in found.items() if scale > 1]
    factors = [of_cond / scale for scale, (of_cond, _) in large]
    right_ratio = all(
        abs(of_uncond - factor * (1 - scale)) < 1e-6
        for (scale, (_, of_uncond)), factor in zip(large, factors, strict=True)
    )
    return right_ratio and all(0 < factor for factor in factors) and any(abs(factor - 1) > 1e-6 for factor in factors)


def _format_sum(of_cond: float, of_uncond: float) -> str:
    cond, uncond = (round(weight, 6) + 0.0 for weight in (of_cond, of_uncond))  # + 0.0 turns −0 into 0
    return f"{cond:g} cond {'-' if uncond < 0 else '+'} {abs(uncond):g} uncond"
