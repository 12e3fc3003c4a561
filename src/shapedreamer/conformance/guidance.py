"""A check of classifier-free guidance."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import mistakes
from .mistakes import Mistake
from .report import Checklist, Report, message, title_of, unfailing


@unfailing
def check_guidance(guided: Callable[..., Callable[[Tensor, Tensor], Tensor]]) -> Report:
    """Whether guided(conditional, unconditional, scale) -> denoiser is x̂₀(∅) + scale · (x̂₀(label) − x̂₀(∅)).

    Denoisers are (x_t (B, C, H, W), t (B,)) -> x̂₀. Scale 1 is the conditional, 0 the unconditional one.
    """
    rows = Checklist(title_of(guided, "guidance"), "Ho & Salimans 2022, equation 6")
    x_t = torch.linspace(-1, 1, 8, dtype=torch.float64).view(2, 1, 2, 2)
    t = torch.tensor([3, 800])

    def conditional(x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x.square() + 0.3

    def unconditional(x: Tensor, t: Tensor) -> Tensor:
        return -0.25 * x + 0.001 * t.view(-1, 1, 1, 1)

    c, u = conditional(x_t, t), unconditional(x_t, t)
    basis = torch.stack([c.flatten(), u.flatten()], dim=1)

    def weights(scale: float) -> tuple[float, float]:
        """How much of the conditional and of the unconditional answer is in the guided one."""
        out = guided(conditional, unconditional, scale)(x_t, t)
        of_c, of_u = torch.linalg.lstsq(basis, out.flatten()[:, None].double()).solution[:, 0].tolist()
        rest = (basis @ torch.tensor([of_c, of_u], dtype=torch.float64) - out.flatten()).abs().max().item()
        return (of_c, of_u) if rest < 1e-9 else (float("nan"), float("nan"))

    found: dict[float, tuple[float, float]] = {}
    for scale in (0.0, 1.0, 2.0, 7.5):
        try:
            found[scale] = weights(scale)
        except Exception as error:
            rows.add(f"scale {scale:g}", False, "runs", message(error), f"it raises {message(error)}")
    suspect: Mistake | str = "guidance is not ∅ + scale · (label − ∅)"
    if 2.0 in found and 7.5 in found:
        slope = (found[7.5][0] - found[2.0][0]) / 5.5
        at_zero = found[2.0][0] - 2 * slope
        if slope < 0:
            suspect = mistakes.GUIDANCE_SIGN
        elif abs(slope - 1) < 1e-6 and abs(at_zero - 1) < 1e-6:
            suspect = mistakes.OTHER_SCALE
    meaning = {0.0: "the unconditional model", 1.0: "the conditional model"}
    for scale, (of_c, of_u) in found.items():
        good = abs(of_c - scale) < 1e-6 and abs(of_u - (1 - scale)) < 1e-6
        name = f"scale {scale:g}: {meaning[scale]}" if scale in meaning else f"scale {scale:g}: towards the label"
        rows.add(name, good, f"{scale:g} label + {1 - scale:g} ∅", f"{_tidy(of_c)} label + {_tidy(of_u)} ∅", suspect)
    return rows.report()


def _tidy(value: float) -> str:
    return f"{round(value, 6) + 0.0:g}"  # + 0.0: no −0
