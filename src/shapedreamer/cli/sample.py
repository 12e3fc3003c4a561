"""shapedreamer sample: dream images with a trained model."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..common.names import DeviceName, Precision, SamplerName, Which
from .options import AS_MADE


def run(
    model: Positional[Path],
    num: int = 64,
    sampler: Annotated[SamplerName | None, arg(metavar="{ddpm,ddim,heun,dpmpp_2m}", help_behavior_hint=AS_MADE)] = None,
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint=AS_MADE)] = None,
    eta: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=AS_MADE)] = None,
    seed: int = 0,
    label: str = "any",
    guidance: float = 1.0,
    sweep: Literal["label", "guidance"] | None = None,
    out: Path = Path("samples.png"),
    show_process: bool = False,
    which: Which = "ema",
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> None:
    """Dream images with a trained model, and write them as a picture, an animation or an array.

    Args:
        model: A run folder (its best checkpoint is taken) or a checkpoint file.
        num: How many images.
        sampler: The way from noise to image.
        steps: Network calls.
        eta: Noise that ddim or dpmpp_2m adds on the way, 0 to 1.
        seed: One seed, one set of pictures.
        label: What to dream of: a name or number (boot, 7), or names with amounts (circle=2,line=1; human=1,food=0.6);
            any is one for each image, as they come in the data, and none is none.
        guidance: How much the label counts: 1 as it is, more overshoots towards it, 0 forgets it.
        sweep: A picture with a row for each label, or for each of several strengths of guidance, from the same noise.
        out: samples.png is a grid, .npy the numbers (N, C, H, W) in [-1, 1], .gif and .webp the dream from noise on.
        show_process: Also write a strip from noise to image, x_t above and the predicted x0 below, beside `out`.
        which: Averaged weights or those of the last step.
        device: Where to compute.
        precision: auto is bfloat16 where that is fast; float32 gives the very picture of the live page.
    """
    from ..imaging.figures import SWEEP_COLUMNS, Way, write_dream, write_sweep
    from ..models.model import load

    dreamer = load(model, which, device, precision)
    how = Way(sampler, steps, eta, seed, label, guidance)
    if sweep:
        paths = write_sweep(dreamer, sweep, out, min(num, SWEEP_COLUMNS), how)
    else:
        paths = write_dream(dreamer, out, num, how, show_process)
    for path in paths:
        print(path)
