"""What page and engine say to each other in JSON, and what of it makes sense.

    parse           a text from the page -> a message of the right form
    checked_way, …  whether a model can do what the message asks for
    model_info      what the page is told of a model

Every mistake is a UserError that names the field, its value and what would be right.
"""

import base64
import binascii
import reprlib
from dataclasses import asdict
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json
from torch import Tensor

from ..common.errors import UserError
from ..common.names import SamplerName
from ..imaging.figures import Way
from ..models import zoo
from ..models.model import Model

MOST_STEPS = 50
NUMS = (1, 4, 16)  # of images at once
FEW_STEPS = 8  # a model made for no more than so many is called turbo
CREATIVITY = 0.8  # the share of noise in the variance of x_t that the page begins with
LONGEST = 400  # characters of an error
ENVELOPE = 16_384  # bytes of a message beside its image


def _below_2_64(seed: str) -> str:
    if int(seed) >= 2**64:
        raise ValueError("must be at most 2⁶⁴−1")
    return seed


def _one_of_nums(num: int) -> int:
    if num not in NUMS:
        raise ValueError(f"must be one of {', '.join(map(str, NUMS))}")
    return num


def _kind_of_label(label: Any) -> str:
    return "amounts" if isinstance(label, dict) else "word"


Amount = Annotated[float, Field(ge=0, le=9)]
Label = Annotated[
    Annotated[Literal["any", "none"], Tag("word")] | Annotated[dict[str, Amount], Tag("amounts")],
    Discriminator(_kind_of_label),
]
Id = Annotated[int, Field(ge=0, lt=2**32)]
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Eta = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    """No field that is not named here, no text for a number, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(_Strict):
    """What a viewer may set.

    num         images at once
    creativity  the time t that each frame is noised to; 0 for a dream that stands still
    fps         frames a second; 0 for as fast as it goes
    """

    model: str
    seed: Annotated[str, Field(pattern="^[0-9]{1,20}$"), AfterValidator(_below_2_64)]  # JavaScript's numbers end at 2⁵³
    num: Annotated[int, AfterValidator(_one_of_nums)]  # Literal[1, 4, 16] would take true, and 1.0, for 1
    sampler: SamplerName
    steps: Steps
    eta: Eta
    guidance: Annotated[float, Field(ge=-10, le=10)]
    creativity: Annotated[int, Field(ge=0)]
    label: Label
    fps: Annotated[float, Field(ge=0, le=60)]

    def way(self) -> Way:
        label = None if self.label == "none" else self.label
        return Way(self.sampler, self.steps, self.eta, int(self.seed), label, self.guidance)


class Set(_Strict):
    """New settings; with an image (base64 of (num, H, W, C) bytes), the dream begins with it."""

    type: Literal["set"]
    id: Id
    settings: Settings
    image: str | None = None


class Order(_Strict):
    """A word that says all; step is for one frame of a dream that is paused, restart for frame 0 again."""

    type: Literal["play", "pause", "step", "restart"]


class Repaint(_Strict):
    """Dream a part of the first image anew: mask is base64 of (H, W) bytes, of which 255 is anew and 0 keeps."""

    type: Literal["repaint"]
    mask: str


class Trace(_Strict):
    """Show all steps to the first image of the settings, with another sampler than theirs."""

    type: Literal["trace"]
    id: Id
    sampler: SamplerName
    steps: Steps
    eta: Eta


Message = Set | Order | Repaint | Trace
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
_ID: TypeAdapter[int] = TypeAdapter(Id, config=ConfigDict(strict=True))


class RefusedError(UserError):
    """A message that is none; id: of what it was meant to be, if it has one."""

    def __init__(self, says: str, id: int | None = None) -> None:
        super().__init__(says)
        self.id = id


def parse(text: str, longest: int) -> Message:
    """The message that a text of at most `longest` bytes holds. RefusedError for any other."""
    length = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    if length > longest:
        raise RefusedError(f"a message must have at most {longest} bytes, not {length}")
    try:
        words = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise RefusedError(f"a message must be JSON: {error}") from None
    try:
        return _MESSAGE.validate_python(words)
    except ValidationError as error:
        raise RefusedError("; ".join(map(_told, error.errors())), _id_of(words)) from None


def _told(fault: ErrorDetails) -> str:
    field = ".".join(str(part) for part in fault["loc"][1:] if part not in ("word", "amounts")) or "message"
    if fault["type"] == "missing":
        return f"{field} is missing"
    if fault["type"] == "union_tag_not_found":
        return "type is missing"
    if fault["type"] == "extra_forbidden":
        return f"there is no {field}"
    says = fault["msg"].replace("Value error,", "it").replace("Input", "it", 1)
    return f"{field} is {reprlib.repr(fault['input'])}: {says}"


def _id_of(words: object) -> int | None:
    try:
        return _ID.validate_python(words["id"]) if isinstance(words, dict) else None
    except (KeyError, ValidationError):
        return None


# what fits a model


def longest_message(models: list[Model]) -> int:
    """Bytes of the longest message that makes sense: one with as many images as can be."""
    most = max(model.spec.channels * model.spec.height * model.spec.width for model in models)
    return ENVELOPE + max(NUMS) * most * 4 // 3


def check_settings(settings: Settings, model: Model) -> None:
    """UserError for settings that this model cannot follow."""
    check_way(model, settings.sampler, settings.steps, settings.eta)
    T = model.schedule.T
    if settings.creativity > T:
        raise UserError(f"creativity must be between 0 and T = {T}, not {settings.creativity}")
    way = settings.way()
    model.denoiser_for(1, way.label, way.guidance, way.seed)
    for name in way.label if isinstance(way.label, dict) else ():
        if name not in model.spec.labels:  # but a number, which it takes for the label in that place
            raise UserError(f"there is no label {name!r}; there are: {', '.join(model.spec.labels)}")


def check_way(model: Model, sampler: SamplerName, steps: int, eta: float) -> None:
    """UserError for a way from noise to image that there is not."""
    model.chosen(sampler, steps, eta)


def image_of(text: str, num: int, model: Model) -> Tensor:
    """An image from a message: (num, C, H, W) float32 in [−1, 1]. UserError if it is not base64 of so many bytes."""
    C, H, W = model.spec.channels, model.spec.height, model.spec.width
    pixels = _bytes_of("image", text, num * H * W * C, f"num·H·W·C = {num}·{H}·{W}·{C}")
    return pixels.view(num, H, W, C).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def keep_of(text: str, model: Model) -> Tensor:
    """Which pixels a mask keeps: (H, W) bool. UserError if it is not base64 of so many bytes, or keeps all."""
    H, W = model.spec.height, model.spec.width
    keep = _bytes_of("mask", text, H * W, f"H·W = {H}·{W}").view(H, W) < 128
    if keep.all():
        raise UserError("mask has no pixels of 255, which say what to dream anew")
    return keep


def _bytes_of(name: str, text: str, count: int, says: str) -> Tensor:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{name} is {reprlib.repr(text)}, and must be base64: {error}") from None
    if len(found) != count:
        raise UserError(f"{name} has {len(found)} bytes, and must have {says} = {count}")
    return torch.frombuffer(bytearray(found), dtype=torch.uint8)


# what the engine says


def model_info(name: str, model: Model) -> dict[str, object]:
    """What the page must know of a model to offer it, and to explain what it does."""
    spec, alpha_bar = model.spec, model.schedule.alpha_bar
    return {
        "name": name,
        "about": zoo.card(name).about if name in zoo.names() else f"a model of {spec.name}",
        "channels": spec.channels,
        "height": spec.height,
        "width": spec.width,
        "labels": [] if model.labels is None else list(spec.labels),
        "T": model.schedule.T,
        "alpha_bar": alpha_bar.tolist(),
        "prediction": model.prediction,
        "sampling": asdict(model.sampling),
        "creativity": _creativity(model),
        "turbo": model.sampling.steps <= FEW_STEPS,
    }


def _creativity(model: Model) -> int:
    """The time at which the share of noise is CREATIVITY; of few-step models the next below that they were trained at.

    Between such times they answer too darkly, and after a hundred frames 1 picture in 13 would be black for good.
    """
    t = int((model.schedule.alpha_bar[:-1] > 1 - CREATIVITY).sum())
    if model.sampling.spacing != "cubic":
        return t
    return next(s for s in model.times(min(FEW_STEPS, model.schedule.T)) if s <= t)


def error(says: object, id: int | None = None) -> dict[str, object]:
    """The message that something went wrong."""
    words = str(says)
    return {"type": "error", "id": id, "message": words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"}
