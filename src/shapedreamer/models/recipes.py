"""Recipes: data, network, schedule and training settings of a run, typed and named. A run stores its recipe.

A recipe is plain numbers and names. What it describes is built by its `make_…` methods, which import torch only
then, so that the command line can read names and defaults at no cost.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Discriminator

from ..common.errors import UserError
from ..common.names import (
    Fit,
    Mode,
    OptimizerName,
    Prediction,
    RecipeName,
    SamplerName,
    ScheduleName,
    Spacing,
    TimeAt,
    Weight,
)

if TYPE_CHECKING:
    from ..data.spec import Dataset, DataSpec
    from ..diffusion.schedule import Schedule
    from ..networks.context_unet import ContextUnet
    from ..networks.unet import UNet

_STRICT: Mapping[str, str] = {"extra": "forbid"}  # an unknown key in a config.json is an error


@dataclass(frozen=True)
class DrawnData:
    """Images drawn by a program, `samples` of them, from `seed`: see data/shapes.py, patterns.py and sprites.py."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["shapes", "patterns", "sprites"] = "shapes"
    samples: int = 10_000
    seed: int = 0

    def load(self) -> "tuple[Dataset, Dataset]":
        drawn = getattr(
            import_module(f"..data.drawn.{self.kind}", __package__), self.kind.title()
        )  # shapes.py has Shapes
        return drawn(self.samples, self.seed), drawn(self.samples, self.seed, held_out=True)


@dataclass(frozen=True)
class MnistData:
    """Digits or clothes, from the folder `path` or else the internet: see data/mnist.py. samples: None for all."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["mnist", "fashion_mnist"] = "mnist"
    path: str | None = None
    samples: int | None = None

    def load(self) -> "tuple[Dataset, Dataset]":
        from ..data.files.mnist import load

        return load(self.kind, Path(self.path) if self.path else None, self.samples)


@dataclass(frozen=True)
class TilesData:
    """Sprites that people drew, in one of the forms that data/tiles.py knows; samples: None for all.

    path: where they lie; "dcss" for the tiles that `shapedreamer data fetch dcss` downloads.
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    path: str
    kind: Literal["tiles"] = "tiles"
    samples: int | None = None

    def load(self) -> "tuple[Dataset, Dataset]":
        from ..data.files.tiles import load

        return load(None if self.path == "dcss" else Path(self.path), self.samples)


@dataclass(frozen=True)
class FolderData:
    """A folder of pictures: see data/folder.py, which explains the fields. samples: None for all."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    path: str
    kind: Literal["folder"] = "folder"
    size: tuple[int, int] | None = None
    fit: Fit = "none"
    mode: Mode = "auto"
    background: str = "white"
    samples: int | None = None

    def load(self) -> "tuple[Dataset, Dataset]":
        from ..data.files.folder import load

        return load(Path(self.path), self.size, self.fit, self.mode, self.background, self.samples)


@dataclass(frozen=True)
class UNetConfig:
    """The arguments of networks/unet.py's UNet, which explains them. The data decide in_channels and context."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["unet"] = "unet"
    in_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    attention: tuple[int, ...] = (1, 2)
    head_dim: int = 32
    groups: int = 32
    scale_shift: bool = False
    dropout: float = 0.0
    patch: int = 1
    context: int = 0
    time_at: TimeAt = "blocks"


@dataclass(frozen=True)
class ContextUnetConfig:
    """The arguments of networks/context_unet.py's ContextUnet. The data decide in_channels and context."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["context_unet"] = "context_unet"
    in_channels: int = 3
    context: int = 5
    features: int = 64
    groups: int = 32


@dataclass(frozen=True)
class NoiseLevels:
    """Train on times whose log-SNR is normal with this mean and std, but for a share drawn uniformly. See loss.py."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    mean: float
    std: float
    uniform: float


@dataclass(frozen=True)
class Sampling:
    """How to sample where nothing else is said.

    steps    network calls
    eta      noise of the samplers WITH_ETA; see samplers.py
    spacing  of the steps of ddpm, ddim and dpmpp_2m: "even" in t, "cubic", or even in "log_snr"; see schedule.py
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    sampler: SamplerName = "ddim"
    steps: int = 20
    eta: float = 0.0
    spacing: Spacing = "even"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bits of a trained model. The fields' defaults are DDPM's, as in Ho et al. 2020.

    schedule, timesteps, prediction   the process and what the network predicts about it
    labels                            whether the network is told the labels, where the data have any
    label_dropout                     share of the images whose label it is not told, so that it learns to do without
    weight                            weight of the loss over the noise levels; see loss.py
    noise_levels                      which noise levels to train on; None for uniform times
    epochs                            passes over data.samples images
    batch_size                        images per step
    optimizer, lr, weight_decay       see optim.py
    lr_decay                          whether the learning rate falls linearly to 0 over the run
    warmup                            steps over which the learning rate first grows from 0
    grad_clip                         the largest norm of the gradient
    ema_decay                         of the averaged weights, which are the ones to sample with; see ema.py
    seed                              decides the first weights, the order of the images, the times and the noise
    sampling                          how the trained model is best sampled; training does not depend on it
    teacher, match, pure              digest of the checkpoint that the model was distilled from, how much it was to
                                      draw the same images as often, and the share of them that it saw at T; see
                                      distill.py
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    name: str
    data: Annotated[DrawnData | MnistData | TilesData | FolderData, Discriminator("kind")] = field(
        default_factory=DrawnData
    )
    network: Annotated[UNetConfig | ContextUnetConfig, Discriminator("kind")] = field(default_factory=UNetConfig)
    schedule: ScheduleName = "linear"
    timesteps: int = 1000
    prediction: Prediction = "eps"
    labels: bool = False
    label_dropout: float = 0.1
    weight: Weight = "simple"
    noise_levels: NoiseLevels | None = None
    epochs: int = 100
    batch_size: int = 64
    optimizer: OptimizerName = "adamw"
    lr: float = 2e-4
    weight_decay: float = 0.0
    lr_decay: bool = False
    warmup: int = 0
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    teacher: str | None = None
    match: float = 0.0
    pure: float = 0.7

    def __post_init__(self) -> None:
        for name in ("timesteps", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.data.samples is not None and self.data.samples < 1:
            raise UserError(f"samples must be at least 1, not {self.data.samples}")
        if not self.lr > 0:
            raise UserError(f"lr must be above 0, not {self.lr}")
        if not 0 <= self.label_dropout <= 1:
            raise UserError(f"label_dropout must be between 0 and 1, not {self.label_dropout}")
        if not 0 <= self.match < math.inf:
            raise UserError(f"match must be at least 0 and finite, not {self.match}")
        if not 0 < self.pure <= 1:
            raise UserError(f"pure must be above 0 and at most 1, not {self.pure}")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed must be between 0 and 2⁶⁴−1, not {self.seed}")
        if self.schedule == "linear_zero_snr" and self.prediction == "eps":
            raise UserError(
                "schedule linear_zero_snr leaves no image at T to predict eps against; use prediction v or x0"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches an epoch has; a data set smaller than a batch is one batch."""
        if self.data.samples is None:
            raise ValueError("the number of images is not known before they are read: use the recipe `fitted` to them")
        return max(1, self.data.samples // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def fitted(self, data: "Dataset") -> "Recipe":
        """The recipe with what its data decide filled in: number of images, channels, length of the labels.

        UserError if images of this size do not fit the network.
        """
        spec = data.spec
        context = len(spec.labels) if self.labels else 0
        if self.network.kind == "context_unet" and not context:
            raise UserError(f"the network context_unet is told labels, and there are none in {spec.name}")
        network = replace(self.network, in_channels=spec.channels, context=context)
        if isinstance(network, UNetConfig):
            network = _that_fits(network, spec)
        elif spec.height % 4 or spec.width % 4:
            raise _no_fit(spec, 4)
        return replace(self, data=replace(self.data, samples=len(data)), network=network)

    def make_schedule(self) -> "Schedule":
        from ..diffusion.schedule import SCHEDULES

        return SCHEDULES[self.schedule](self.timesteps)

    def make_network(self) -> "UNet | ContextUnet":
        from ..networks.context_unet import ContextUnet
        from ..networks.unet import UNet

        options = asdict(self.network)
        return {"unet": UNet, "context_unet": ContextUnet}[options.pop("kind")](**options)

    def make_data(self) -> "tuple[Dataset, Dataset]":
        """What to train on, and images of the same kind that are held out. UserError if they cannot be had."""
        return self.data.load()


# What gives good images in minutes, instead of DDPM's settings; how it was found stands in benchmarks/SPEEDRUN.md.
_TUNED: dict[str, Any] = {
    "schedule": "cosine",
    "prediction": "x0",
    "optimizer": "muon",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "lr_decay": True,
    "warmup": 50,
    "ema_decay": 0.998,
    "sampling": Sampling("dpmpp_2m", 24, eta=1.0, spacing="log_snr"),
}
_BLACK_AND_WHITE = NoiseLevels(mean=-2.0, std=1.8, uniform=0.25)  # decided early: noise hides two values badly
_SHADES = NoiseLevels(mean=-1.0, std=2.2, uniform=0.1)


def shapes(*, textbook: bool = False, **changes: Any) -> Recipe:
    """White shapes on black, 32x32, with settings that give good images in minutes on two CPU cores.

    textbook: DDPM's settings instead, which take hours; changes: as in `change`. So it is for every recipe below.
    """
    recipe = Recipe(name="shapes")
    if not textbook:
        network = UNetConfig(channels=(64, 128, 128), patch=2)
        recipe = replace(recipe, network=network, noise_levels=_BLACK_AND_WHITE, epochs=4, batch_size=32, **_TUNED)
    return change(recipe, **changes)


def patterns(*, textbook: bool = False, **changes: Any) -> Recipe:
    """Circles and squares, 64x64; the network is told the time at its bottleneck. Needs the extra `data`."""
    network = UNetConfig(time_at="bottleneck")
    recipe = Recipe(name="patterns", data=DrawnData("patterns"), network=network, labels=True)
    if not textbook:
        network = replace(network, channels=(64, 128, 128), patch=4)
        recipe = replace(recipe, network=network, noise_levels=_BLACK_AND_WHITE, epochs=8, batch_size=32, **_TUNED)
    return change(recipe, **changes)


def sprites(*, textbook: bool = False, data: str | Path | None = None, **changes: Any) -> Recipe:
    """Sprites of game figures in colour, 16x16, with labels; data: sprites that people drew, see data/tiles.py."""
    source = DrawnData("sprites") if data is None else TilesData(str(data))
    recipe = Recipe("sprites", source, ContextUnetConfig(), timesteps=500, labels=True, epochs=32, batch_size=100)
    if not textbook:
        recipe = replace(recipe, noise_levels=_SHADES, epochs=10 if data is None else 30, batch_size=64, **_TUNED)
    return change(recipe, **changes)


def mnist(*, textbook: bool = False, data: str | Path | None = None, **changes: Any) -> Recipe:
    """Handwritten digits, 28x28; data: a folder that has them, without one they are downloaded."""
    return _mnist("mnist", textbook, data, changes)


def fashion_mnist(*, textbook: bool = False, data: str | Path | None = None, **changes: Any) -> Recipe:
    """Clothes, 28x28; data: a folder that has them, without one they are downloaded."""
    return _mnist("fashion_mnist", textbook, data, changes)


def _mnist(
    name: Literal["mnist", "fashion_mnist"], textbook: bool, data: str | Path | None, changes: dict[str, Any]
) -> Recipe:
    network = UNetConfig(channels=(64, 64, 96))
    source = MnistData(name, None if data is None else str(data))
    recipe = Recipe(name, source, network, labels=True, epochs=20, batch_size=128)
    if not textbook:
        network = UNetConfig(channels=(64, 96), attention=(1,), patch=2)
        recipe = replace(recipe, network=network, noise_levels=_SHADES, epochs=2, batch_size=64, **_TUNED)
        # dpmpp_2m has the better FID here, too, and the more digits that are none
        recipe = replace(recipe, sampling=replace(recipe.sampling, sampler="ddim"))
    return change(recipe, **changes)


def folder(
    data: str | Path,
    *,
    textbook: bool = False,
    size: tuple[int, int] | None = None,
    fit: Fit = "none",
    mode: Mode = "auto",
    background: str = "white",
    **changes: Any,
) -> Recipe:
    """Your own pictures: data is a folder of them; size, fit, mode and background are explained in data/folder.py."""
    source = FolderData(str(data), size=size, fit=fit, mode=mode, background=background)
    recipe = Recipe("folder", source, labels=True)
    if not textbook:
        network = UNetConfig(channels=(64, 128, 128), patch=2)
        recipe = replace(recipe, network=network, noise_levels=_SHADES, epochs=30, batch_size=32, **_TUNED)
    return change(recipe, **changes)


RECIPES: dict[RecipeName, Callable[..., Recipe]] = {
    "shapes": shapes,
    "patterns": patterns,
    "sprites": sprites,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "folder": folder,
}


def named(name: RecipeName, *, data: str | Path | None = None, **options: Any) -> Recipe:
    """The recipe of this name, with the options of its function above that are not None. UserError if it has none."""
    function = RECIPES[name]
    options = {key: value for key, value in options.items() if value is not None}
    if data is not None:
        options["data"] = data
    takes = inspect.signature(function).parameters
    if "data" in options and "data" not in takes:
        raise UserError(f"the recipe {name} draws its own images and reads none; --data is for: {_that_take('data')}")
    if "data" not in options and name == "folder":
        raise UserError("the recipe folder needs the folder of your pictures: --data PATH")
    for option in ("size", "fit", "mode", "background"):
        if option in options and option not in takes:
            raise UserError(f"the recipe {name} has no {option}; --{option} is for: {_that_take(option)}")
    return function(**options)


def moved(recipe: Recipe, data: str | Path | None) -> Recipe:
    """The recipe with its images taken from another place, if one is given."""
    if data is None:
        return recipe
    if isinstance(recipe.data, DrawnData):
        raise UserError(f"the recipe {recipe.name} draws its own images and reads none")
    return replace(recipe, data=replace(recipe.data, path=str(data)))


def _that_take(option: str) -> str:
    return ", ".join(name for name, function in RECIPES.items() if option in inspect.signature(function).parameters)


def change(recipe: Recipe, *, samples: int | None = None, **changes: Any) -> Recipe:
    """The recipe with `samples` images an epoch and with other fields changed; None leaves a field as it is.

    UserError for a value that makes no sense.
    """
    if samples is not None:
        changes["data"] = replace(recipe.data, samples=samples)
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def _that_fits(network: UNetConfig, spec: "DataSpec") -> UNetConfig:
    """The network without the coarsest levels that images of this size cannot be halved for."""
    levels = len(network.channels)
    while levels > 1 and (spec.height % (network.patch << levels - 1) or spec.width % (network.patch << levels - 1)):
        levels -= 1
    least = max(2, network.patch)
    if spec.height % least or spec.width % least or network.patch << levels - 1 < 2:
        raise _no_fit(spec, least)
    attention = tuple(level for level in network.attention if level < levels)
    return replace(network, channels=network.channels[:levels], attention=attention)


def _no_fit(spec: "DataSpec", divisor: int) -> UserError:
    """An error that names the nearest size that fits."""
    near = "x".join(str(max(1, round(n / divisor)) * divisor) for n in (spec.height, spec.width))
    return UserError(
        f"images of {spec.height}x{spec.width} do not fit the network: height and width must be divisible by "
        f"{divisor}; the nearest size is {near} (for the recipe folder: --size {near} --fit crop, pad or stretch)"
    )
