"""shapedreamer sample: generate images with a trained model."""

from pathlib import Path
from typing import Literal

from tyro.conf import OmitArgPrefixes, Positional

from ..common.names import DeviceName, Precision, Which
from ..models.options import SampleOptions


def run(
    model: Positional[Path],
    num: int = 64,
    sampling: OmitArgPrefixes[SampleOptions] = SampleOptions(),
    sweep: Literal["label", "guidance"] | None = None,
    out: Path = Path("samples.png"),
    show_process: bool = False,
    which: Which = "ema",
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> None:
    """Generate images with a trained model and write them as a picture, an animation or an array.

    Args:
        model: A run folder (its best checkpoint is used), a checkpoint file, or a shipped model.
        num: Number of images.
        sampling: How to sample.
        sweep: A picture with a row for each label, or for each of several guidance scales, from the same noise.
        out: .png and other picture formats show a grid; .npy is an array (N, C, H, W) in [-1, 1]; .gif and .webp
            animate the denoising.
        show_process: Also write a strip from noise to image beside `out`, with x_t above and the predicted x0 below.
        which: Averaged weights (ema), or those of the last training step (raw).
        device: Where to compute.
        precision: auto is bfloat16 where the device is fast at it; float32 gives exactly the live page's images.
    """
    from ..imaging.figures import SWEEP_COLUMNS, write_samples, write_sweep
    from ..models.model import load

    loaded = load(model, which, device, precision)
    loaded.check_num(num)
    if sweep:
        paths = write_sweep(loaded, sweep, out, min(num, SWEEP_COLUMNS), sampling)
    else:
        paths = write_samples(loaded, out, num, sampling, show_process)
    for path in paths:
        print(path)
