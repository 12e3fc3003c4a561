"""shapedreamer forward: show the forward process, which turns images into noise."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from ..names import ScheduleName


def run(
    recipe: Positional[Literal["shapes"]],
    num: int = 8,
    times: tuple[int, ...] = (0, 50, 100, 200, 400, 600, 800, 999),
    schedule: ScheduleName = "linear",
    timesteps: int = 1000,
    seed: int = 0,
    out: Path = Path("forward.png"),
) -> None:
    """Show images of a data set with more and more noise in them.

    Args:
        recipe: Whose data.
        num: How many images.
        times: At which times t, 0 (clean) to T (noise).
        schedule: How the noise grows with t.
        timesteps: Number of noise levels T.
        seed: Of the noise.
        out: The picture.
    """
    from ..dream import forward_picture
    from ..recipes import shapes
    from ..render import save_picture
    from ..schedule import SCHEDULES

    save_picture(forward_picture(shapes().make_data(), SCHEDULES[schedule](timesteps), num, times, seed), out)
    print(out)
