"""shapedreamer doctor: what ails a run, and what to do about it."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..common.errors import UserError
from ..common.names import DeviceName
from .conform import FAILED, CannotRunError


def run(
    model: Positional[Path],
    data: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: as in training)")] = None,
    device: DeviceName = "auto",
) -> int:
    """Name what ails a run: what was measured, what would be fine, and what to do.

    Checks the range of the images, the noise at T, the length and the curve of the training, the averaged weights, the
    held-out loss at every noise level, and 96 samples: clipping, mean, contrast, variety, copies of training images and
    whether they follow their label.

    Exit status: 0 if nothing was found, 10 if something was, 20 if the run could not be examined.

    Args:
        model: A run folder (its best checkpoint is examined), a checkpoint file, or a shipped model.
        data: Where the training images are now.
        device: Where to compute.
    """
    from ..common.progress import Progress
    from ..evaluation.doctor import examine

    try:
        with Progress() as progress:
            examination = examine(model, data, device, progress)
    except UserError as error:
        raise CannotRunError(str(error)) from error
    print(examination)
    return FAILED if examination.findings else 0
