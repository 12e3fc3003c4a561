"""shapedreamer sample: generate images with a trained model."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.names import DeviceName, Precision, Which
from ..models.options import SampleOptions
from .options import ShardOptions, command_again


def run(
    model: Positional[Path],
    num: int = 64,
    sampling: OmitArgPrefixes[SampleOptions] = SampleOptions(),
    sweep: Literal["label", "guidance"] | None = None,
    out: Annotated[str, arg(metavar="PATH")] = "samples.png",
    show_process: bool = False,
    files: OmitArgPrefixes[ShardOptions] = ShardOptions(),
    which: Which = "ema",
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> None:
    """Generate images with a trained model and write them as a picture, an animation, an array or a folder of arrays.

    Args:
        model: A run folder (its best checkpoint is used), a checkpoint file, or a shipped model.
        num: Number of images.
        sampling: How to sample.
        sweep: A picture with a row for each label, or for each of several guidance scales, from the same noise.
        out: .png and other picture formats show a grid; .npy is an array (N, C, H, W) in [-1, 1]; .gif and .webp
            animate the denoising. A name without a suffix or with / at its end is a folder of shards, for any number
            of images: run the same command again to complete it.
        show_process: Also write a strip from noise to image beside `out`, with x_t above and the predicted x0 below.
        files: How to fill a folder.
        which: Averaged weights (ema), or those of the last training step (raw).
        device: Where to compute.
        precision: auto is bfloat16 where it is faster: on devices with instructions for it, for more than four images
            on a CPU. float32 gives exactly the live page's images.
    """
    from ..common.errors import UserError
    from ..common.processes import several
    from ..imaging.figures import SWEEP_COLUMNS, write_samples, write_sweep
    from ..imaging.shards import is_folder, write_shards
    from ..models.model import load

    with several(files.devices, device, "run the same command again to continue") as group:
        folder = is_folder(out)
        if folder and (sweep or show_process):
            raise UserError(f"{out} is a folder of arrays: leave out --sweep and --show-process, or choose a picture")
        if not folder and (group.size > 1 or files != ShardOptions()):
            raise UserError("--shards, --shard-size and several processes are for a folder; end --out with /")
        loaded = load(model, which, device, precision)
        if folder:
            again = command_again(group.option)
            settings = sampling, files.shards, files.shard_size
            paths = [write_shards(loaded, out, num, *settings, name=str(model), group=group, command=again)]
        elif sweep:
            paths = write_sweep(loaded, sweep, out, min(loaded.check_num(num), SWEEP_COLUMNS), sampling)
        else:
            paths = write_samples(loaded, out, loaded.check_num(num), sampling, show_process)
        for path in paths if group.is_first else ():
            print(path)
