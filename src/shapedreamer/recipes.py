"""Recipes: data, network, schedule and training settings of a run, typed and named. A run stores its recipe.

A recipe is plain numbers and names. What it describes is built by its `make_…` methods, which import torch only
then, so that the command line can read names and defaults at no cost.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import UserError
from .names import OptimizerName, Prediction, ScheduleName, Weight

if TYPE_CHECKING:
    from .data.spec import Dataset
    from .networks.unet import UNet
    from .schedule import Schedule

_STRICT: Mapping[str, str] = {"extra": "forbid"}  # an unknown key in a config.json is an error


@dataclass(frozen=True)
class ShapesData:
    """The data set `shapes`: `samples` images an epoch draws from, made from `seed`. See data/shapes.py."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    samples: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class UNetConfig:
    """The arguments of networks/unet.py's UNet, which explains them."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    in_channels: int = 1
    channels: tuple[int, ...] = (32, 64, 128)
    blocks: int = 1
    attention: tuple[int, ...] = (1, 2)
    head_dim: int = 32
    groups: int = 32
    scale_shift: bool = False
    dropout: float = 0.0
    patch: int = 1


@dataclass(frozen=True)
class NoiseLevels:
    """Train on times whose log-SNR is normal with this mean and std, but for a share drawn uniformly. See loss.py."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    mean: float
    std: float
    uniform: float


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the bits of a trained model. The defaults are DDPM's, as in Ho et al. 2020.

    schedule, timesteps, prediction   the process and what the network predicts about it
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
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = _STRICT
    name: str
    data: ShapesData = field(default_factory=ShapesData)
    network: UNetConfig = field(default_factory=UNetConfig)
    schedule: ScheduleName = "linear"
    timesteps: int = 1000
    prediction: Prediction = "eps"
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

    def __post_init__(self) -> None:
        for name in ("timesteps", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.data.samples < 1:
            raise UserError(f"samples must be at least 1, not {self.data.samples}")
        if not self.lr > 0:
            raise UserError(f"lr must be above 0, not {self.lr}")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"seed must be between 0 and 2⁶⁴−1, not {self.seed}")
        if self.schedule == "linear_zero_snr" and self.prediction == "eps":
            raise UserError(
                "schedule linear_zero_snr leaves no image at T to predict eps against; use prediction v or x0"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches an epoch has; a data set smaller than a batch is one batch."""
        return max(1, self.data.samples // self.batch_size)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def make_schedule(self) -> "Schedule":
        from .schedule import SCHEDULES

        return SCHEDULES[self.schedule](self.timesteps)

    def make_network(self) -> "UNet":
        from .networks.unet import UNet

        return UNet(**asdict(self.network))

    def make_data(self, held_out: bool = False) -> "Dataset":
        from .data.shapes import Shapes

        return Shapes(self.data.samples, self.data.seed, held_out)


def shapes(*, quick: bool = False, **changes: Any) -> Recipe:
    """The recipe `shapes`: DDPM's own settings, which take hours on a CPU, or, if `quick`, those that take minutes.

    changes: as in `change`.
    """
    return change(_SHAPES_QUICK if quick else Recipe(name="shapes"), **changes)


def change(recipe: Recipe, *, samples: int | None = None, **changes: Any) -> Recipe:
    """The recipe with `samples` images an epoch and with other fields changed; None leaves a field as it is.

    UserError for a value that makes no sense.
    """
    if samples is not None:
        changes["data"] = replace(recipe.data, samples=samples)
    return replace(recipe, **{name: value for name, value in changes.items() if value is not None})


_SHAPES_QUICK = Recipe(
    name="shapes",
    network=UNetConfig(channels=(64, 128, 128), patch=2),
    schedule="cosine",
    prediction="x0",
    noise_levels=NoiseLevels(mean=-2.0, std=1.8, uniform=0.25),
    epochs=4,
    batch_size=32,
    optimizer="muon",
    lr=2e-3,
    weight_decay=0.01,
    lr_decay=True,
    warmup=50,
    ema_decay=0.998,
)
