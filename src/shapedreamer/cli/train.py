"""shapedreamer train: train a recipe in a run folder."""

from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.names import DeviceName, NetworkName, Prediction, Process, RecipeName, ScheduleName, Weight
from .options import Images


def _recipe(metavar: str) -> Any:
    """For an option whose default is the recipe's."""
    return arg(metavar=metavar, help_behavior_hint="(default: the recipe's)")


def run(
    recipe: Positional[RecipeName],
    images: OmitArgPrefixes[Images] = Images(),
    textbook: bool = False,
    network: Annotated[NetworkName | None, _recipe("{unet,wide_unet,context_unet,dit}")] = None,
    epochs: Annotated[int | None, _recipe("INT")] = None,
    samples: Annotated[int | None, _recipe("INT")] = None,
    batch_size: Annotated[int | None, _recipe("INT")] = None,
    lr: Annotated[float | None, _recipe("FLOAT")] = None,
    lr_decay: Annotated[float | None, _recipe("FLOAT")] = None,
    process: Annotated[Process | None, _recipe("{gaussian,masked}")] = None,
    timesteps: Annotated[int | None, _recipe("INT")] = None,
    schedule: Annotated[ScheduleName | None, _recipe("{linear,cosine,linear_zero_snr,flow}")] = None,
    prediction: Annotated[Prediction | None, _recipe("{eps,x0,v,flow}")] = None,
    weight: Annotated[Weight | None, _recipe("{simple,min_snr,balanced}")] = None,
    labels: Annotated[Literal["yes", "no"] | None, _recipe("{yes,no}")] = None,
    label_dropout: Annotated[float | None, _recipe("FLOAT")] = None,
    seed: Annotated[int | None, _recipe("INT")] = None,
    start_from: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="(default: random weights)")] = None,
    max_minutes: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="(default: no limit)")] = None,
    sample_every: int = 10,
    save_every: int = 10,
    device: DeviceName = "auto",
    devices: int = 1,
    accumulate: int = 1,
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: runs/RECIPE)")] = None,
    resume: bool = False,
) -> None:
    """Train a model, from scratch or from the weights of another. Ctrl-C saves; --resume continues.

    The recipes give good images in minutes on two CPU cores. --textbook uses the settings of the DDPM paper instead:
    learning rate 2e-4, linear schedule, eps-prediction, 1000 timesteps (sprites: 500), which take hours on a CPU. It
    trains 100 epochs with batches of 64; sprites 32 epochs with 100, mnist and fashion_mnist 20 epochs with 128.

    Args:
        recipe: What to train.
        textbook: Use the settings of the DDPM paper.
        network: The recipe's own network; wide_unet, a larger one with a head at full resolution, for recipes with a
            unet; or dit, a small diffusion transformer, for every recipe.
        epochs: Passes over the images.
        samples: Images per epoch.
        batch_size: Images per step.
        lr: Learning rate.
        lr_decay: Share of the run, at its end, in which the learning rate falls to 0: 1 for all of it, 0 for none.
        process: gaussian adds noise to the images; masked hides pixels, for shapes and patterns.
        timesteps: Number of timesteps T.
        schedule: Noise schedule.
        prediction: What the network predicts.
        weight: Weight of each noise level in the loss. simple is 1. The others weight the error of the predicted image:
            min_snr by the SNR, at most 5; balanced so that all noise levels of a black-and-white image count about
            equally, which gives sharper edges.
        labels: Train a class-conditional model: the default if the images have labels, except with shapes --textbook.
        label_dropout: Fraction of training samples without label, 0 to 1, for classifier-free guidance.
        seed: Determines the initial weights, the order of the images, timesteps and noise.
        start_from: A run, a checkpoint or a pretrained model with the same network. Training starts from its averaged
            weights.
        max_minutes: Save and stop after this many minutes.
        sample_every: Epochs between sample grids; 0 for a single grid at the end.
        save_every: Epochs between checkpoints that are kept; 0 keeps only latest and best.
        device: Where to compute.
        devices: Processes on this machine that share the work: one for each GPU, or for groups of CPU cores.
        accumulate: Parts in which each process computes its gradient; more parts need less memory.
        out: Run folder.
        resume: Resume the run in --out.
    """
    from ..common.processes import several
    from ..models.checkpoint import read_config
    from ..models.recipes import get_recipe, with_data_path, with_overrides
    from ..training.loop import train

    out = out or Path("runs") / recipe
    with several(devices, device) as group:
        if resume and not textbook:
            settings = with_data_path(group.first(lambda: read_config(out).recipe), images.data)
        else:
            settings = get_recipe(recipe, textbook=textbook, **images.options())
        train(
            with_overrides(
                settings,
                network=network,
                epochs=epochs,
                samples=samples,
                batch_size=batch_size,
                lr=lr,
                lr_decay=lr_decay,
                process=process,
                timesteps=timesteps,
                schedule=schedule,
                prediction=prediction,
                weight=weight,
                labels=None if labels is None else labels == "yes",
                label_dropout=label_dropout,
                seed=seed,
            ),
            out,
            start_from=start_from,
            resume=resume,
            device=device,
            accumulate=accumulate,
            max_minutes=max_minutes,
            sample_every=sample_every,
            save_every=save_every,
        )
