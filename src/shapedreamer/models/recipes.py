"""Recipes: the data, network, schedule and training settings of a run, typed and named. A run stores its recipe.

A recipe holds only numbers and names. Its `make_…` methods build what it describes, and import torch only then, so the
command line can read names and defaults quickly.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_args

from pydantic import AliasChoices, Discriminator, Field

from ..common.errors import UserError
from ..common.names import (
    TIMESTEPS,
    ZERO_SNR,
    AnySamplerName,
    Fit,
    MaskedSamplerName,
    Mode,
    NetworkName,
    OptimizerName,
    Prediction,
    Process,
    RecipeName,
    SamplerName,
    ScheduleName,
    Spacing,
    TimeAt,
    Weight,
)
from ..common.values import as_choice, as_float, as_int
from .limits import MAX_PATCH, MAX_TOKENS, check

if TYPE_CHECKING:
    from ..data.spec import Dataset, DataSpec
    from ..diffusion.schedule import Schedule
    from ..networks.context_unet import ContextUnet
    from ..networks.dit import DiT
    from ..networks.unet import UNet

_STRICT: Mapping[str, str] = {"extra": "forbid"}  # reject unknown keys in a config.json


@dataclass(frozen=True)
class DrawnData:
    """`samples` images drawn on the fly from `seed`: see data/drawn/shapes.py, patterns.py and sprites.py."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["shapes", "patterns", "sprites"] = "shapes"
    samples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        check(self)

    def load(self) -> "tuple[Dataset, Dataset]":
        drawn = getattr(
            import_module(f"..data.drawn.{self.kind}", __package__), self.kind.title()
        )  # shapes.py has Shapes
        return drawn(self.samples, self.seed), drawn(self.samples, self.seed, held_out=True)


@dataclass(frozen=True)
class MnistData:
    """MNIST or Fashion-MNIST, from the folder `path` or downloaded: see data/files/mnist.py. samples: None for all."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["mnist", "fashion_mnist"] = "mnist"
    path: str | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        check(self)

    def load(self) -> "tuple[Dataset, Dataset]":
        from ..data.files.mnist import load

        return load(self.kind, Path(self.path) if self.path else None, self.samples)


@dataclass(frozen=True)
class TilesData:
    """Sprites drawn by people, in a format that data/files/tiles.py supports. samples: None for all.

    path: a folder or file; "dcss" for the tiles that `shapedreamer data fetch dcss` downloads
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    path: str
    kind: Literal["tiles"] = "tiles"
    samples: int | None = None

    def __post_init__(self) -> None:
        check(self)

    def load(self) -> "tuple[Dataset, Dataset]":
        from ..data.files.tiles import load

        return load(None if self.path == "dcss" else Path(self.path), self.samples)


@dataclass(frozen=True)
class FolderData:
    """A folder of your own images: see data/files/folder.py, which explains the fields. samples: None for all."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    path: str
    kind: Literal["folder"] = "folder"
    size: tuple[int, int] | None = None
    fit: Fit = "none"
    mode: Mode = "auto"
    background: str = "white"
    samples: int | None = None

    def __post_init__(self) -> None:
        check(self)

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
    head: int = 0  # not in files of older runs

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class ContextUnetConfig:
    """The arguments of networks/context_unet.py's ContextUnet. The data decide in_channels and context."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["context_unet"] = "context_unet"
    in_channels: int = 3
    context: int = 5
    features: int = 64
    groups: int = 32

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class DiTConfig:
    """The arguments of networks/dit.py's DiT, which explains them. The data decide in_channels and context."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    kind: Literal["dit"] = "dit"
    in_channels: int = 1
    patch: int = 4
    width: int = 256
    depth: int = 6
    head_dim: int = 64
    context: int = 0

    def __post_init__(self) -> None:
        check(self)


NetworkConfig = UNetConfig | ContextUnetConfig | DiTConfig


@dataclass(frozen=True)
class NoiseLevels:
    """Sample t so that its log-SNR ~ N(mean, std²); for a fraction `uniform` of samples t is uniform. See loss.py."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    mean: float
    std: float
    uniform: float

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Sampling:
    """A model's default way to sample.

    steps    number of network calls
    eta      noise that ddim and dpmpp_2m add; see diffusion/samplers.py, and diffusion/masked.py for masked_ancestral
    spacing  of the timesteps of all samplers but heun: "even" in t, "cubic", or even in "log_snr"; see schedule.py
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    sampler: AnySamplerName = "ddim"
    steps: int = 20
    eta: float = 0.0
    spacing: Spacing = "even"

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights of a trained model, bit for bit. The defaults are DDPM's (Ho et al. 2020).

    UserError for a field out of range; limits.py lists the ranges.

    process                           "gaussian" adds noise, "masked" hides pixels; see diffusion/masked.py
    schedule, timesteps, prediction   ᾱ_t of the process, and what the network predicts
    labels                            whether the model is conditioned on class labels, if the data have any
    label_dropout                     fraction of training samples without label, for classifier-free guidance
    weight                            weighting of the loss over noise levels; see loss.py
    noise_levels                      distribution of the noise levels in training; None for uniform t, or of the
                                      masked process for a uniform share of hidden pixels
    epochs                            passes over data.samples images
    batch_size                        images per step
    optimizer, lr, weight_decay       see training/optim.py
    lr_decay                          share of the run, at its end, in which the learning rate falls linearly to 0, from
                                      0 to 1. Files of older runs have true for 1 and false for 0
    warmup                            steps over which the learning rate first grows from 0
    grad_clip                         maximum norm of the gradient
    ema_decay                         decay of the averaged weights, which are used for sampling; see training/ema.py
    seed                              determines the initial weights, the order of the images, timesteps and noise
    start                             digest of the checkpoint whose averaged weights the training starts from; None
                                      for random weights
    sampling                          the model's default sampler; it does not affect training
    teacher, dmd_weight, terminal_share
                                      of a distilled model: digest of the teacher's checkpoint, weight of distribution
                                      matching, and fraction of training samples at t = T; see training/distillation.py
    threads                           CPU threads to train with: sums in another order round differently. None, until
                                      training starts, for torch.get_num_threads()
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    name: str
    data: Annotated[DrawnData | MnistData | TilesData | FolderData, Discriminator("kind")] = field(
        default_factory=DrawnData
    )
    network: Annotated[NetworkConfig, Discriminator("kind")] = field(default_factory=UNetConfig)
    process: Process = "gaussian"  # not in files of older runs
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
    lr_decay: float = 0.0
    warmup: int = 0
    grad_clip: float = 1.0
    ema_decay: float = 0.999
    seed: int = 0
    start: str | None = None  # not in files of older runs
    sampling: Sampling = field(default_factory=Sampling)
    teacher: str | None = None
    # stored as `match` and `pure` in models distilled before these names
    dmd_weight: Annotated[float, Field(validation_alias=AliasChoices("dmd_weight", "match"))] = 0.0
    terminal_share: Annotated[float, Field(validation_alias=AliasChoices("terminal_share", "pure"))] = 0.7
    threads: int | None = None  # not in files of older runs

    def __post_init__(self) -> None:
        check(self)
        check_sampler(self.sampling.sampler, self.process)
        if self.process == "masked":
            as_float("eta of the masked process", self.sampling.eta, 0, 1)
        if self.process == "masked" and (self.prediction != "x0" or self.weight != "simple"):
            raise UserError(
                "the masked process predicts the hidden pixels and has its own weights: use prediction x0 and weight "
                f"simple, not {self.prediction} and {self.weight}"
            )
        as_int(f"timesteps of schedule {self.schedule}", self.timesteps, *TIMESTEPS[self.schedule])
        if self.schedule in ZERO_SNR and self.prediction == "eps":
            raise UserError(
                f"prediction eps does not work with schedule {self.schedule}, whose x_T is pure noise; use flow, v "
                "or x0"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch; a data set smaller than a batch counts as one."""
        if self.data.samples is None:
            raise ValueError("the number of images is unknown until they are read: call bind_data first")
        return max(1, self.data.samples // self.batch_size)

    @property
    def images_per_step(self) -> int:
        """Number of images in a batch: all of them if the data set is smaller than batch_size."""
        return self.batch_size if self.data.samples is None else min(self.batch_size, self.data.samples)

    @property
    def steps(self) -> int:
        """Number of optimizer steps in the whole run."""
        return self.epochs * self.steps_per_epoch

    @property
    def decay_start(self) -> int:
        """The last step before the learning rate falls, counted from 0; `steps` if it never does."""
        return self.steps - round(self.lr_decay * self.steps)

    def bind_data(self, data: "Dataset") -> "Recipe":
        """The recipe with what depends on the data filled in: number of images, channels, length of the labels.

        UserError if the network cannot process images of this size.
        """
        spec = data.spec
        context = len(spec.labels) if self.labels else 0
        if self.network.kind == "context_unet" and not context:
            raise UserError(f"the network context_unet needs class labels, but {spec.name} has none; use a unet")
        network = replace(self.network, in_channels=spec.channels, context=context)
        if isinstance(network, UNetConfig):
            network = _fit_to_size(network, spec)
        elif isinstance(network, DiTConfig):
            check_patch(network, spec)
        elif spec.height % 4 or spec.width % 4:
            raise _size_error(spec, 4)
        return replace(self, data=replace(self.data, samples=len(data)), network=network)

    def make_schedule(self) -> "Schedule":
        from ..diffusion.schedule import SCHEDULES

        return SCHEDULES[self.schedule](self.timesteps)

    @property
    def network_class(self) -> "type[UNet | ContextUnet | DiT]":
        from ..networks.context_unet import ContextUnet
        from ..networks.dit import DiT
        from ..networks.unet import UNet

        return {"unet": UNet, "context_unet": ContextUnet, "dit": DiT}[self.network.kind]

    def make_network(self) -> "UNet | ContextUnet | DiT":
        options = asdict(self.network)
        del options["kind"]
        return self.network_class(**options)

    def make_data(self) -> "tuple[Dataset, Dataset]":
        """The training images and held-out images of the same kind.

        UserError if they cannot be loaded, or if the process is masked and they are not black and white.
        """
        self.check_process()
        return self.data.load()

    def check_process(self) -> None:
        """UserError if the masked process cannot be trained on these images, as they have more than two values."""
        if self.process == "masked" and self.data.kind not in BLACK_AND_WHITE:
            colours = "colours" if self.data.kind in ("sprites", "tiles") else "shades of grey"
            raise UserError(
                f"the masked process needs images of black and white pixels, and those of {self.name} may have "
                f"{colours}: use the recipe {' or '.join(BLACK_AND_WHITE)}, or process gaussian"
            )


BLACK_AND_WHITE = ("shapes", "patterns")  # data that the masked process can be trained on


def check_sampler(sampler: str, process: Process) -> None:
    """UserError if a sampler is not one of this process."""
    names: tuple[str, ...] = get_args(MaskedSamplerName if process == "masked" else SamplerName)
    if sampler not in names:
        raise UserError(f"the sampler {sampler} does not work with a {process} model; use {' or '.join(names)}")


# Settings that give good images in minutes; benchmarks/EXPERIMENTS.md tells how they were found.
_TUNED: dict[str, Any] = {
    "schedule": "cosine",
    "prediction": "x0",
    "optimizer": "muon",
    "lr": 2e-3,
    "weight_decay": 0.01,
    "lr_decay": 1.0,
    "warmup": 50,
    "ema_decay": 0.998,
    "sampling": Sampling("dpmpp_2m", 24, eta=1.0, spacing="log_snr"),
}
_MASKED_SAMPLING = Sampling("masked_ancestral", 64)
_DRAWN: dict[str, Any] = {  # black and white
    **_TUNED,
    "epochs": 6,
    "batch_size": 64,
    "lr": 2.5e-3,
    "weight": "balanced",
    "noise_levels": NoiseLevels(mean=-2.0, std=1.8, uniform=0.25),  # two values take shape at high noise
    "sampling": Sampling("dpmpp_2m", 24, eta=2.0, spacing="log_snr"),  # more noise corrects outlines
}
# sides of the patches of a recipe's transformer where 4 is not best
_PATCHES = {"patterns": 8, "sprites": 2}
_SHADES = NoiseLevels(mean=-1.0, std=2.2, uniform=0.1)
# the best of the trials at equal images, for long trainings
_WIDE: dict[str, Any] = {"head": 32, "scale_shift": True, "time_at": "blocks"}


def shapes(*, textbook: bool = False, **changes: Any) -> Recipe:
    """White shapes on black, 32x32, with settings that give good images in minutes on two CPU cores.

    textbook: use DDPM's settings instead, which take hours
    changes:  fields of Recipe to override, as in with_overrides

    All recipes below take these arguments too.
    """
    recipe = Recipe(name="shapes")
    if not textbook:
        network = UNetConfig(channels=(64, 128, 128), patch=2, head=32, scale_shift=True)
        recipe = replace(recipe, network=network, labels=True, **_DRAWN)
    return with_overrides(recipe, **changes)


def patterns(*, textbook: bool = False, **changes: Any) -> Recipe:
    """Circles and squares, 64x64. `textbook`: the timestep enters at the bottleneck only. Needs the extra `data`."""
    network = UNetConfig(time_at="bottleneck")
    recipe = Recipe(name="patterns", data=DrawnData("patterns"), network=network, labels=True)
    if not textbook:
        network = UNetConfig(channels=(64, 128, 128), patch=4, head=32, scale_shift=True)
        recipe = replace(recipe, network=network, **_DRAWN)
    return with_overrides(recipe, **changes)


def sprites(*, textbook: bool = False, data: str | Path | None = None, **changes: Any) -> Recipe:
    """Sprites of game figures in colour, 16x16, with labels. data: sprites drawn by people, see data/files/tiles.py."""
    source = DrawnData("sprites") if data is None else TilesData(str(data))
    recipe = Recipe("sprites", source, ContextUnetConfig(), timesteps=500, labels=True, epochs=32, batch_size=100)
    if not textbook:
        recipe = replace(recipe, noise_levels=_SHADES, epochs=10 if data is None else 30, batch_size=64, **_TUNED)
    return with_overrides(recipe, **changes)


def mnist(*, textbook: bool = False, data: str | Path | None = None, **changes: Any) -> Recipe:
    """Handwritten digits, 28x28. data: a folder with the four files; by default they are downloaded."""
    return _mnist("mnist", textbook, data, changes)


def fashion_mnist(*, textbook: bool = False, data: str | Path | None = None, **changes: Any) -> Recipe:
    """Clothes, 28x28. data: a folder with the four files; by default they are downloaded."""
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
        # dpmpp_2m makes more images that are not digits; noise in the sampler spoils the textures of clothes
        settings: dict[str, Any] = {"sampler": "ddim"} if name == "mnist" else {"eta": 0.0}
        recipe = replace(recipe, sampling=replace(recipe.sampling, **settings))
    return with_overrides(recipe, **changes)


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
    """Your own images, in the folder `data`; data/files/folder.py explains size, fit, mode and background."""
    source = FolderData(str(data), size=size, fit=fit, mode=mode, background=background)
    recipe = Recipe("folder", source, labels=True)
    if not textbook:
        network = UNetConfig(channels=(64, 128, 128), patch=2)
        recipe = replace(recipe, network=network, noise_levels=_SHADES, epochs=30, batch_size=32, **_TUNED)
    return with_overrides(recipe, **changes)


RECIPES: dict[RecipeName, Callable[..., Recipe]] = {
    "shapes": shapes,
    "patterns": patterns,
    "sprites": sprites,
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "folder": folder,
}


def get_recipe(name: str, *, data: str | Path | None = None, **options: Any) -> Recipe:
    """The recipe of this name with those options that are not None.

    UserError if there is no such recipe, or for an option that it does not have.
    """
    function = RECIPES[as_choice("recipe", name, tuple(RECIPES))]  # type: ignore[index]
    options = {key: value for key, value in options.items() if value is not None}
    if data is not None:
        options["data"] = data
    parameters = inspect.signature(function).parameters
    if "data" in options and "data" not in parameters:
        raise UserError(f"the recipe {name} draws its own images; `data` works with: {_recipes_with('data')}")
    if "data" not in options and name == "folder":
        raise UserError("the recipe folder needs the folder of your images: `data=PATH`")
    for option in ("size", "fit", "mode", "background"):
        if option in options and option not in parameters:
            raise UserError(f"the recipe {name} has no {option}; `{option}` works with: {_recipes_with(option)}")
    return function(**options)


def with_data_path(recipe: Recipe, data: str | Path | None) -> Recipe:
    """The recipe with its images read from another path; None leaves it unchanged."""
    if data is None:
        return recipe
    if isinstance(recipe.data, DrawnData):
        raise UserError(f"the recipe {recipe.name} draws its own images; leave out `data`")
    return replace(recipe, data=replace(recipe.data, path=str(data)))


def _recipes_with(option: str) -> str:
    return ", ".join(name for name, function in RECIPES.items() if option in inspect.signature(function).parameters)


def with_overrides(
    recipe: Recipe, *, samples: int | None = None, network: NetworkName | NetworkConfig | None = None, **changes: Any
) -> Recipe:
    """The recipe with `samples` images per epoch and other fields replaced; None leaves a field unchanged.

    network: a configuration, or the name of one: the recipe's own; "wide_unet", for recipes with a UNet; or "dit" for
             its transformer, which AdamW trains

    UserError for a value out of range, or a network that the recipe does not have.
    """
    if changes.get("process") == "masked" and recipe.process != "masked":
        recipe = _masked(recipe)
    if isinstance(network, str):
        recipe = _with_network(recipe, network)
    else:
        changes["network"] = network
    if samples is not None:
        changes["data"] = replace(recipe.data, samples=samples)
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


def _masked(recipe: Recipe) -> Recipe:
    """The recipe with the settings of the masked process. UserError if its images are not black and white."""
    recipe = replace(
        recipe, process="masked", prediction="x0", weight="simple", noise_levels=None, sampling=_MASKED_SAMPLING
    )
    recipe.check_process()
    return recipe


def _with_network(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another network, or unchanged if it has one of this kind, so that a stored one stays."""
    as_choice("network", name, get_args(NetworkName))
    if name == recipe.network.kind:
        return recipe
    if name == "wide_unet" and isinstance(recipe.network, UNetConfig):
        # digits and clothes have two levels (28 = 4 · 7), and need fewer channels
        channels = (96, 128) if len(recipe.network.channels) == 2 else (128, 128, 192)
        return replace(recipe, network=replace(recipe.network, channels=channels, **_WIDE))
    if name != "dit":
        choices = {"unet": "unet, wide_unet or dit", "dit": "dit"}.get(recipe.network.kind, "context_unet or dit")
        raise UserError(f"the recipe {recipe.name} has no network {name}; `network` can be {choices}")
    network = DiTConfig(patch=_PATCHES.get(recipe.name, 4))
    # Muon's steps take a third longer and were no better after equal minutes (benchmarks/EXPERIMENTS.md)
    return replace(recipe, network=network, optimizer="adamw")


def check_patch(network: DiTConfig, spec: "DataSpec") -> None:
    """UserError, with the patches that fit, unless a network's patches fill images of this size and are not too many.

    Attention takes time and memory that grow with the square of their number.
    """
    H, W = spec.height, spec.width
    common = math.gcd(H, W)
    fitting = [p for p in range(1, MAX_PATCH + 1) if common % p == 0 and H * W // p**2 <= MAX_TOKENS]
    if network.patch not in fitting:
        names = f"patches that fit: {', '.join(map(str, fitting))}" if fitting else "no patch fits such images"
        raise UserError(
            f"images of {H}x{W} do not fit a transformer with patches of {network.patch}: they must divide height and "
            f"width, and at most {MAX_TOKENS} fit into the image; {names}, as in DiTConfig(patch=...)"
        )


def _fit_to_size(network: UNetConfig, spec: "DataSpec") -> UNetConfig:
    """The network without its coarsest levels if images of this size cannot be halved that often."""
    levels = len(network.channels)
    while levels > 1 and (spec.height % (network.patch << levels - 1) or spec.width % (network.patch << levels - 1)):
        levels -= 1
    divisor = max(2, network.patch)
    if spec.height % divisor or spec.width % divisor or network.patch << levels - 1 < 2:
        raise _size_error(spec, divisor)
    attention = tuple(level for level in network.attention if level < levels)
    return replace(network, channels=network.channels[:levels], attention=attention)


def _size_error(spec: "DataSpec", divisor: int) -> UserError:
    """An error that names the nearest size that fits."""
    near = "x".join(str(max(1, round(n / divisor)) * divisor) for n in (spec.height, spec.width))
    return UserError(
        f"images of {spec.height}x{spec.width} do not fit the network: height and width must be divisible by "
        f"{divisor}; the nearest size is {near} (for the recipe folder: `size=({near.replace('x', ', ')})` with `fit` "
        "crop, pad or stretch)"
    )
