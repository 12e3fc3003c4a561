"""shapedreamer explore: from sample to sample, around an image, or inside a hole in one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.names import DeviceName, ExploreMode, Precision, Which
from ..models.options import SampleOptions

MAX_FRAMES = 10_000  # a quarter of an hour of animation


def run(
    model: Positional[Path],
    mode: Positional[ExploreMode],
    to: Annotated[int | None, arg(metavar="SEED", help_behavior_hint="(default: --seed plus 1)")] = None,
    frames: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: 16; as an animation, drift and vary 60)")
    ] = None,
    every: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: drift 60, vary never)")] = None,
    creativity: Annotated[
        tuple[int, ...], arg(help_behavior_hint="(default: where 50, 80, 90, 95 and 98% of the variance is noise)")
    ] = (),
    image: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the sample of --seed)")] = None,
    region: Annotated[
        str | None, arg(metavar="LEFT,TOP,WIDTH,HEIGHT", help_behavior_hint="(default: the right half)")
    ] = None,
    mask: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: --region)")] = None,
    num: int = 8,
    sampling: OmitArgPrefixes[SampleOptions] = SampleOptions(),
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: MODE.png)")] = None,
    which: Which = "ema",
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> None:
    """Explore what a model has learnt: move from sample to sample, vary an image, or inpaint a part of one.

    interpolate goes from the samples of one seed to those of another. drift goes on from sample to sample of one seed,
    as the live page does. vary adds noise to an image and denoises it
    again; as a .gif, over and over. inpaint generates a part of an image so that it matches the rest.

    Args:
        model: A run folder (its best checkpoint is used), a checkpoint file, or a shipped model.
        mode: What to do.
        to: interpolate: the seed to go to.
        frames: interpolate: steps between the two seeds; drift: its frames; vary as a .gif: its frames.
        every: drift: frames from one sample of the seed to the next; vary as a .gif: frames until a new sample starts.
        creativity: vary: the timestep t to noise the image to, 1 (little changes) to T (everything); several make rows.
        image: vary, inpaint: a picture to start from, of the model's size.
        region: inpaint: the part to generate, in pixels.
        mask: inpaint: a picture that is white where to generate and black elsewhere, of the model's size.
        num: Number of interpolations, drifts, variations or inpaintings.
        sampling: How to sample; for vary, at most t steps are made.
        out: The picture, or with .gif or .webp an animation.
        which: Averaged weights (ema), or those of the last training step (raw).
        device: Where to compute.
        precision: auto is bfloat16 where the device is fast at it; float32 gives exactly the live page's images.
    """
    from ..common.values import as_int
    from ..imaging.editing import explore
    from ..models.model import load

    out = out or Path(f"{mode}.png")
    loaded = load(model, which, device, precision)
    loaded.check_num(num)
    if frames is not None:
        loaded.check_num(num * as_int("frames", frames, 0, MAX_FRAMES))
    explore(
        loaded,
        mode,
        out,
        num,
        sampling,
        to=to,
        frames=frames,
        every=every,
        creativity=creativity,
        image=image,
        region=region,
        mask=mask,
    )
    print(out)
