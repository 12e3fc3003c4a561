"""shapedreamer train: train a recipe into a run folder."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..names import DeviceName, Prediction, ScheduleName
from ..recipes import shapes


def _recipe(metavar: str, name: str) -> Any:
    """For an option that is the recipe's unless given: the help says what the recipes say."""
    textbook, quick = (
        recipe.data.samples if name == "samples" else getattr(recipe, name) for recipe in (shapes(), shapes(quick=True))
    )
    hint = f"(default: {textbook}; with --quick {quick})" if textbook != quick else f"(default: {textbook})"
    return arg(metavar=metavar, help_behavior_hint=hint)


def run(
    recipe: Positional[Literal["shapes"]],
    quick: bool = False,
    epochs: Annotated[int | None, _recipe("INT", "epochs")] = None,
    samples: Annotated[int | None, _recipe("INT", "samples")] = None,
    batch_size: Annotated[int | None, _recipe("INT", "batch_size")] = None,
    lr: Annotated[float | None, _recipe("FLOAT", "lr")] = None,
    timesteps: Annotated[int | None, _recipe("INT", "timesteps")] = None,
    schedule: Annotated[ScheduleName | None, _recipe("{linear,cosine,linear_zero_snr}", "schedule")] = None,
    prediction: Annotated[Prediction | None, _recipe("{eps,x0,v}", "prediction")] = None,
    seed: Annotated[int | None, _recipe("INT", "seed")] = None,
    max_minutes: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: no limit)")] = None,
    sample_every: int = 10,
    save_every: int = 10,
    device: DeviceName = "auto",
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: runs/RECIPE)")] = None,
    resume: bool = False,
) -> None:
    """Train a model from nothing. Ctrl-C saves; --resume goes on.

    Without --quick the settings are those of the DDPM paper (100 epochs of 10000 images, batches of 64, learning rate
    2e-4, 1000 timesteps, linear schedule, eps-prediction), which take hours on a CPU.

    Args:
        recipe: What to train.
        quick: Settings that give shapes in minutes on two CPU cores.
        epochs: Passes over the images.
        samples: Images in an epoch.
        batch_size: Images a step.
        lr: Learning rate.
        timesteps: Number of noise levels T.
        schedule: How the noise grows with t.
        prediction: What the network predicts.
        seed: Decides first weights, order of images, times and noise.
        max_minutes: Stop after so many minutes, saved.
        sample_every: Epochs between sample grids; 0 for one at the end only.
        save_every: Epochs between checkpoints that are kept; 0 for none but latest and best.
        device: Where to compute.
        out: Run folder.
        resume: Go on with the run in the folder.
    """
    from ..checkpoint import read_config
    from ..recipes import change
    from ..train import train

    out = out or Path("runs") / recipe
    train(
        change(
            shapes(quick=quick) if quick or not resume else read_config(out).recipe,
            epochs=epochs,
            samples=samples,
            batch_size=batch_size,
            lr=lr,
            timesteps=timesteps,
            schedule=schedule,
            prediction=prediction,
            seed=seed,
        ),
        out,
        resume=resume,
        device=device,
        max_minutes=max_minutes,
        sample_every=sample_every,
        save_every=save_every,
    )
