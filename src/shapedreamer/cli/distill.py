"""shapedreamer distill: make a few-step model from a trained one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..common.names import DeviceName


def run(
    model: Positional[Path],
    steps: int = 4,
    dmd_weight: float = 0.0,
    terminal_share: float = 0.7,
    lr: float = 1e-3,
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: about 60,000 images)")] = None,
    seed: int = 0,
    data: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: as in the teacher's run)")] = None,
    max_minutes: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: no limit)")] = None,
    sample_every: int = 1,
    device: DeviceName = "auto",
    devices: int = 1,
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: runs/RECIPE-turbo)")] = None,
    resume: bool = False,
) -> None:
    """Distill a trained model into one that needs only a few network calls. Ctrl-C saves; --resume continues.

    The result is a run like any other. It can be sampled with 1, 2, 4 or 8 network calls; --steps sets the default.

    Args:
        model: The teacher: a run folder (its best checkpoint is used), a checkpoint file, or a shipped model. It must
            predict x0 or v, as models of the recipes do by default.
        steps: Default number of network calls of the new model: 1, 2, 4 or 8.
        dmd_weight: Weight of distribution matching, which makes the student generate each kind of image as often as
            the teacher does; 0 switches it off.
        terminal_share: Fraction of training samples at t = T. Higher improves one-step quality.
        lr: Learning rate of the student and its critic.
        epochs: Passes over the teacher's training images.
        seed: Determines the order of the images, timesteps and noise.
        data: Where the teacher's training images are now.
        max_minutes: Save and stop after this many minutes.
        sample_every: Epochs between sample grids; 0 for a single grid at the end.
        device: Where to compute.
        devices: Processes on this machine that share the work: one for each GPU, or for groups of CPU cores.
        out: Run folder.
        resume: Continue the run in --out.
    """
    from ..common.processes import several
    from ..training.distillation import distill

    with several(devices, device):
        distill(
            model,
            out,
            steps=steps,
            dmd_weight=dmd_weight,
            terminal_share=terminal_share,
            lr=lr,
            epochs=epochs,
            seed=seed,
            data=data,
            resume=resume,
            device=device,
            max_minutes=max_minutes,
            sample_every=sample_every,
        )
