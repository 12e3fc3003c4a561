"""shapedreamer distill: make a few-step model of a trained one."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..common.names import DeviceName


def run(
    model: Positional[Path],
    steps: int = 4,
    match: float = 0.0,
    pure: float = 0.7,
    lr: float = 1e-3,
    epochs: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: about 60,000 images)")] = None,
    seed: int = 0,
    data: Annotated[
        Path | None, arg(metavar="PATH", help_behavior_hint="(default: where they were in training)")
    ] = None,
    max_minutes: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: no limit)")] = None,
    sample_every: int = 1,
    device: DeviceName = "auto",
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: runs/RECIPE-turbo)")] = None,
    resume: bool = False,
) -> None:
    """Make a few-step model of a trained one: a few network calls do what took it many. Ctrl-C saves; --resume goes on.

    The result is a run like any other. It can be sampled with 1, 2, 4 or 8 calls, and of those --steps is what it takes
    where nothing is said.

    Args:
        model: A run folder (its best checkpoint is taken), a checkpoint file, or a model in the box; trained to predict
            x0 or v, as the recipes do by default.
        steps: Network calls that the new model is sampled with by default: 1, 2, 4 or 8.
        match: Weight of drawing the same pictures as often as the model does, besides being taken for real; 0 for none.
        pure: Share of the images of which it sees nothing but noise, as where a picture begins: the more, the better is
            one call.
        lr: Learning rate, of the model and of the critic that judges it.
        epochs: Passes over the images that the model was trained on.
        seed: Decides the order of the images, the times and the noise.
        data: Where the images lie by now.
        max_minutes: Stop after so many minutes, saved.
        sample_every: Epochs between sample grids; 0 for one at the end only.
        device: Where to compute.
        out: Run folder.
        resume: Go on with the run in the folder.
    """
    from ..training.distillation import distill

    distill(
        model,
        out,
        steps=steps,
        match=match,
        pure=pure,
        lr=lr,
        epochs=epochs,
        seed=seed,
        data=data,
        resume=resume,
        device=device,
        max_minutes=max_minutes,
        sample_every=sample_every,
    )
