"""shapedreamer compare: the same noise through several samplers, or through the weights of several epochs."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.names import DeviceName, Which
from .options import CompareOptions


def run(
    models: Annotated[Positional[tuple[Path, ...]], arg(metavar="MODEL [MODEL ...]")],
    samplers: Annotated[
        tuple[str, ...],
        arg(
            help_behavior_hint="(default: ddpm:T ddim:20 dpmpp_2m:10 heun:10; for several models their own; "
            "with --epochs ddim:20)"
        ),
    ] = (),
    epochs: Annotated[tuple[int, ...], arg(help_behavior_hint="(default: none)")] = (),
    wrong: Literal["no-noise"] | None = None,
    num: int = 8,
    sampling: OmitArgPrefixes[CompareOptions] = CompareOptions(),
    out: Path = Path("compare.png"),
    which: Which = "ema",
    device: DeviceName = "auto",
) -> None:
    """Sample from the same noise with several models or samplers, or after several epochs of training, and compare.

    Writes a picture with a row for each, and prints its number of network calls and seconds.

    Args:
        models: Run folders (their best checkpoint is used), checkpoint files, or shipped models.
        samplers: SAMPLER:STEPS for each row, such as ddim:20; ddim:20:0.5 has eta 0.5.
        epochs: Compare the weights after these epochs; the run folder must have their checkpoints.
        wrong: Add a row with a mistake: ddpm that forgets to add noise.
        num: Number of images in a row.
        sampling: How to sample.
        out: The picture.
        which: Averaged weights (ema), or those of the last training step (raw).
        device: Where to compute.
    """
    from ..imaging.comparison import compare, picture, table
    from ..imaging.render import check_ending, save_picture

    check_ending(out)
    rows = compare(models, samplers, epochs, num, sampling, wrong == "no-noise", which, device)
    save_picture(picture(rows), out)
    print(table(rows))
    print(out)
