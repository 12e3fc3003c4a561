"""shapedreamer forward: show the forward process, which turns images into noise."""

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.names import RecipeName, ScheduleName
from .options import Images

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.999)  # of T


def run(
    recipe: Positional[RecipeName],
    images: OmitArgPrefixes[Images] = Images(),
    num: int = 8,
    times: Annotated[
        tuple[int, ...], arg(help_behavior_hint="(default: 0 50 100 200 400 600 800 999 for T = 1000)")
    ] = (),
    schedule: ScheduleName = "linear",
    timesteps: Annotated[
        int | None, arg(metavar="INT", help_behavior_hint="(default: the recipe's, 500 for sprites, else 1000)")
    ] = None,
    seed: int = 0,
    out: Path = Path("forward.png"),
) -> None:
    """Show images of a data set with more and more noise.

    Args:
        recipe: The recipe whose images to show.
        num: Number of images.
        times: Timesteps t to show, from 0 (clean) to T (noise).
        schedule: Noise schedule.
        timesteps: Number of timesteps T.
        seed: Seed of the noise.
        out: The picture.
    """
    from ..common.values import as_seed
    from ..diffusion.schedule import SCHEDULES
    from ..imaging.figures import forward_picture
    from ..imaging.render import check_ending, save_picture
    from ..models.recipes import get_recipe

    check_ending(out)
    seed = as_seed(seed)
    settings = get_recipe(recipe, **images.options())
    table = SCHEDULES[schedule](settings.timesteps if timesteps is None else timesteps)
    times = times or tuple(int(fraction * table.T) for fraction in FRACTIONS)
    data, _ = settings.make_data()
    save_picture(forward_picture(data, table, num, times, seed), out)
    print(out)
