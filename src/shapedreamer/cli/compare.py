"""shapedreamer compare: the same noise through several samplers, or through the weights of several epochs."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..common.names import DeviceName, Which


def run(
    model: Positional[Path],
    samplers: Annotated[
        tuple[str, ...],
        arg(help_behavior_hint="(default: ddpm:T ddim:20 dpmpp_2m:10 heun:10; with --epochs ddim:20)"),
    ] = (),
    epochs: Annotated[tuple[int, ...], arg(help_behavior_hint="(default: none)")] = (),
    wrong: Literal["no-noise"] | None = None,
    num: int = 8,
    seed: int = 0,
    label: str = "any",
    guidance: float = 1.0,
    out: Path = Path("compare.png"),
    which: Which = "ema",
    device: DeviceName = "auto",
) -> None:
    """Dream from the same noise with several samplers, or after several epochs of training, and compare.

    Writes a picture with a row for each, and prints how many network calls and seconds it took.

    Args:
        model: A run folder (its best checkpoint is taken) or a checkpoint file.
        samplers: SAMPLER:STEPS of each row, such as ddim:20; ddim:20:0.5 has eta 0.5.
        epochs: Compare the weights after these epochs, of which the run folder must have kept checkpoints.
        wrong: Add a row with a mistake: ddpm that forgets to add noise on the way.
        num: How many images in a row.
        seed: One seed, one set of pictures.
        label: What to dream of: a name or number (boot, 7), or names with amounts (circle=2,line=1; human=1,food=0.6);
            any is as they come in the data, and none is none.
        guidance: How much the label counts: 1 as it is, more overshoots towards it, 0 forgets it.
        out: The picture.
        which: Averaged weights or those of the last step.
        device: Where to compute.
    """
    from ..imaging.compare import compare, picture, table
    from ..imaging.figures import Way
    from ..imaging.render import check_ending, save_picture

    check_ending(out)
    way = Way(seed=seed, label=label, guidance=guidance)
    rows = compare(model, samplers, epochs, num, way, wrong == "no-noise", which, device)
    save_picture(picture(rows), out)
    print(table(rows))
    print(out)
