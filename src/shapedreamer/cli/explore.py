"""shapedreamer explore: wander between dreams, around an image, or into a hole in one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..common.names import DeviceName, ExploreMode, Precision, SamplerName, Which
from .options import AS_MADE


def run(
    model: Positional[Path],
    mode: Positional[ExploreMode],
    to: Annotated[int | None, arg(metavar="SEED", help_behavior_hint="(default: the seed after --seed)")] = None,
    frames: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: interpolate 16, vary 60)")] = None,
    creativity: Annotated[
        tuple[int, ...], arg(help_behavior_hint="(default: where 50, 80, 90, 95 and 98% are noise)")
    ] = (),
    image: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the dream of --seed)")] = None,
    region: Annotated[
        str | None, arg(metavar="LEFT,TOP,WIDTH,HEIGHT", help_behavior_hint="(default: the right half)")
    ] = None,
    mask: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the region)")] = None,
    num: int = 8,
    sampler: Annotated[SamplerName | None, arg(metavar="{ddpm,ddim,heun,dpmpp_2m}", help_behavior_hint=AS_MADE)] = None,
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint=AS_MADE)] = None,
    eta: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=AS_MADE)] = None,
    seed: int = 0,
    label: str = "any",
    guidance: float = 1.0,
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: MODE.png)")] = None,
    which: Which = "ema",
    device: DeviceName = "auto",
    precision: Precision = "auto",
) -> None:
    """Wander through what a model has learnt: interpolate between dreams, vary an image, or inpaint a part of one.

    interpolate goes from the dreams of one seed to those of another. vary puts noise into an image, and dreams it
    again from there; as a .gif, over and over. inpaint dreams a part of an image anew, to go with the rest.

    Args:
        model: A run folder (its best checkpoint is taken) or a checkpoint file.
        mode: What to do.
        to: interpolate: The seed to go to.
        frames: interpolate: Images from one seed to the other, both included. vary: Images in the .gif.
        creativity: vary: Times t up to which noise is put in, 1 (the image hardly changes) to T (all is forgotten).
        image: vary, inpaint: A picture file of the size of the model's images.
        region: inpaint: What to dream anew, in pixels.
        mask: inpaint: A picture that is white where to dream anew, instead of a region.
        num: How many of them.
        sampler: The way from noise to image.
        steps: Steps of the sampler; for vary, at most t.
        eta: Noise that ddim or dpmpp_2m adds on the way, 0 to 1.
        seed: One seed, one set of pictures.
        label: What to dream of: a name or number (boot, 7), or names with amounts (circle=2,line=1; human=1,food=0.6);
            any is as they come in the data, and none is none.
        guidance: How much the label counts: 1 as it is, more overshoots towards it, 0 forgets it.
        out: The picture, or with .gif or .webp an animation.
        which: Averaged weights or those of the last step.
        device: Where to compute.
        precision: auto is bfloat16 where that is fast; float32 gives the very picture of the live page.
    """
    from ..imaging.explore import explore
    from ..imaging.figures import Way
    from ..models.model import load

    out = out or Path(f"{mode}.png")
    explore(
        load(model, which, device, precision),
        mode,
        out,
        num,
        Way(sampler, steps, eta, seed, label, guidance),
        to=to,
        frames=frames,
        creativity=creativity,
        image=image,
        region=region,
        mask=mask,
    )
    print(out)
