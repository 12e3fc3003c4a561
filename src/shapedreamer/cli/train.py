"""shapedreamer train: train a recipe into a run folder."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.names import DeviceName, Prediction, RecipeName, ScheduleName
from .options import Images


def _recipe(metavar: str) -> Any:
    """For an option that is the recipe's unless given."""
    return arg(metavar=metavar, help_behavior_hint="(default: the recipe's)")


def run(
    recipe: Positional[RecipeName],
    images: OmitArgPrefixes[Images] = Images(),
    textbook: bool = False,
    epochs: Annotated[int | None, _recipe("INT")] = None,
    samples: Annotated[int | None, _recipe("INT")] = None,
    batch_size: Annotated[int | None, _recipe("INT")] = None,
    lr: Annotated[float | None, _recipe("FLOAT")] = None,
    timesteps: Annotated[int | None, _recipe("INT")] = None,
    schedule: Annotated[ScheduleName | None, _recipe("{linear,cosine,linear_zero_snr}")] = None,
    prediction: Annotated[Prediction | None, _recipe("{eps,x0,v}")] = None,
    labels: Annotated[Literal["yes", "no"] | None, _recipe("{yes,no}")] = None,
    label_dropout: Annotated[float | None, _recipe("FLOAT")] = None,
    seed: Annotated[int | None, _recipe("INT")] = None,
    max_minutes: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: no limit)")] = None,
    sample_every: int = 10,
    save_every: int = 10,
    device: DeviceName = "auto",
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: runs/RECIPE)")] = None,
    resume: bool = False,
) -> None:
    """Train a model from nothing. Ctrl-C saves; --resume goes on.

    The recipes give good images in minutes on two CPU cores. With --textbook their settings are those of the textbook:
    learning rate 2e-4, linear schedule, eps-prediction, 1000 timesteps (sprites: 500), which take hours on a CPU.
    Epochs and batches are then 100 of 64; for sprites 32 of 100, for mnist and fashion_mnist 20 of 128.

    Args:
        recipe: What to train.
        textbook: The textbook's settings, as in the DDPM paper.
        epochs: Passes over the images.
        samples: Images in an epoch.
        batch_size: Images a step.
        lr: Learning rate.
        timesteps: Number of noise levels T.
        schedule: How the noise grows with t.
        prediction: What the network predicts.
        labels: Whether the network is told labels, so that you can ask for them; all recipes but shapes do.
        label_dropout: Share of the images whose label it is not told, 0 to 1.
        seed: Decides first weights, order of images, times and noise.
        max_minutes: Stop after so many minutes, saved.
        sample_every: Epochs between sample grids; 0 for one at the end only.
        save_every: Epochs between checkpoints that are kept; 0 for none but latest and best.
        device: Where to compute.
        out: Run folder.
        resume: Go on with the run in the folder.
    """
    from ..models.checkpoint import read_config
    from ..models.recipes import change, moved, named
    from ..training.loop import train

    out = out or Path("runs") / recipe
    if resume and not textbook:
        begun = moved(read_config(out).recipe, images.data)
    else:
        begun = named(recipe, textbook=textbook, **images.options())
    train(
        change(
            begun,
            epochs=epochs,
            samples=samples,
            batch_size=batch_size,
            lr=lr,
            timesteps=timesteps,
            schedule=schedule,
            prediction=prediction,
            labels=None if labels is None else labels == "yes",
            label_dropout=label_dropout,
            seed=seed,
        ),
        out,
        resume=resume,
        device=device,
        max_minutes=max_minutes,
        sample_every=sample_every,
        save_every=save_every,
    )
