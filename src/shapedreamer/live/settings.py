"""The JSON messages between page and engine, and their validation.

    parse                             text from the page -> a message with valid fields
    check_settings, decode_image, …   whether the model supports what the message requests
    model_info                        the description of a model that the page receives

Every invalid message raises a UserError that names the field, its value and what is valid.
"""

import base64
import binascii
import re
import reprlib
from dataclasses import asdict
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json
from torch import Tensor

from ..common.errors import UserError
from ..common.names import MAX_ETA, AnySamplerName
from ..diffusion import masked
from ..imaging.editing import MAX_EVERY, MAX_FRAME
from ..models import zoo
from ..models.model import Model
from ..models.options import SampleOptions
from .thumbnails import thumbnail

MAX_STEPS = 50
NUMS = (1, 4, 16)  # images per frame
MAX_TURBO_STEPS = 8  # a model with at most this many default steps is called turbo
DEFAULT_NOISE = 0.8  # fraction of noise in the variance of x_t, for the default creativity
DEFAULT_TURBO_NOISE = 0.5  # with more, the digits of mnist-turbo lose 15% of their brightness in 16 frames
DEFAULT_HIDDEN = 0.95  # fraction of hidden pixels: the default creativity of masked models
MAX_ERROR_LENGTH = 400  # characters
MAX_TEXT_BYTES = 16_384  # of a message, without its image


def _check_seed(seed: str) -> str:
    if not re.fullmatch("[0-9]{1,20}", seed) or int(seed) >= 2**64:
        raise ValueError("must be a string of digits, 0 to 2⁶⁴−1")
    return str(int(seed))  # without leading zeros, so that equal seeds are equal strings


def _check_num(num: int) -> int:
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
FrameNumber = Annotated[int, Field(ge=0, le=MAX_FRAME)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Eta = Annotated[float, Field(ge=0, le=MAX_ETA)]  # of masked models at most 1, which the engine checks


class _Strict(BaseModel):
    """Rejects unknown fields, strings in place of numbers, and NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Settings(_Strict):
    """A viewer's settings.

    seed        decimal digits, because JavaScript numbers are exact only up to 2⁵³
    num         images per frame
    creativity  the timestep t to which each frame is noised while pictures melt; at 0 the picture stands still
    motion      how a frame becomes the next: "melt" adds noise to it and denoises it again; "drift" turns the noise
                that it is sampled from. Clients that do not send this setting are older than drift, and melt
    every       frames until the next sample of the seed is reached, with a new label if label is "any"; 0 for never
    fps         frames per second; 0 is as fast as possible
    """

    model: str
    seed: Annotated[str, AfterValidator(_check_seed)]
    num: Annotated[int, AfterValidator(_check_num)]  # Literal[1, 4, 16] would accept True and 1.0 as 1
    sampler: AnySamplerName
    steps: Steps
    eta: Eta
    guidance: Annotated[float, Field(ge=-10, le=10)]
    creativity: Annotated[int, Field(ge=0)]
    label: Label
    fps: Annotated[float, Field(ge=0, le=60)]
    motion: Literal["melt", "drift"] = "melt"
    every: Annotated[int, Field(ge=0, le=MAX_EVERY)] = 0

    def is_sample(self, frame: int) -> bool:
        """Whether this frame starts from noise and not from the frame before it, unless a picture was uploaded."""
        if frame == 0 or self.motion == "drift":
            return True
        return self.creativity > 0 and self.every > 0 and frame % self.every == 0

    @property
    def stands_still(self) -> bool:
        """Whether every frame shows the same picture, without a network call."""
        return self.motion == "melt" and self.creativity == 0

    def options(self) -> SampleOptions:
        """These settings as options for sampling."""
        label = None if self.label == "none" else self.label
        return SampleOptions(self.sampler, self.steps, self.eta, int(self.seed), label, self.guidance)


class SetMessage(_Strict):
    """New settings. An image (base64 of (num, H, W, C) bytes) becomes frame 0. frame: where to start instead."""

    type: Literal["set"]
    id: Id
    settings: Settings
    image: str | None = None
    frame: FrameNumber | None = None


class ControlMessage(_Strict):
    """Play or pause; generate one frame while paused ("step"); start again at frame 0 ("restart")."""

    type: Literal["play", "pause", "step", "restart"]


class RepaintMessage(_Strict):
    """Inpaint part of the first image. mask: base64 of (H, W) bytes, 255 where to inpaint, 0 where to keep."""

    type: Literal["repaint"]
    mask: str


class TraceMessage(_Strict):
    """Send all sampling steps of the first image, with this sampler instead of the one in the settings.

    frame: number of the frame to trace. If it is the latest one, the trace starts from the frame before it, otherwise
           from the latest one. None traces the sample that the seed begins with.
    """

    type: Literal["trace"]
    id: Id
    sampler: AnySamplerName
    steps: Steps
    eta: Eta
    frame: FrameNumber | None = None


class SampleMessage(_Strict):
    """Send frame 0 of these settings. The dream does not change."""

    type: Literal["sample"]
    id: Id
    settings: Settings


Message = SetMessage | ControlMessage | RepaintMessage | TraceMessage | SampleMessage
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])
_ID: TypeAdapter[int] = TypeAdapter(Id, config=ConfigDict(strict=True))


class InvalidMessageError(UserError):
    """A message that `parse` rejects. id: the id in the message, if there is a valid one."""

    def __init__(self, reason: str, id: int | None = None) -> None:
        super().__init__(reason)
        self.id = id


def parse(text: str, max_bytes: int) -> Message:
    """The message in a text. InvalidMessageError if the text is longer than max_bytes or not a valid message."""
    length = len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    if length > max_bytes:
        raise InvalidMessageError(f"a message must have at most {max_bytes} bytes, not {length}")
    try:
        data = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidMessageError(f"a message must be JSON: {error}") from None
    try:
        return _MESSAGE.validate_python(data)
    except ValidationError as error:
        raise InvalidMessageError("; ".join(map(_describe, error.errors())), _message_id(data)) from None


def _describe(error: ErrorDetails) -> str:
    """One of pydantic's errors as a message that names the field, what is valid, and the value."""
    field = ".".join(str(part) for part in error["loc"][1:] if part not in ("word", "amounts")) or "message"
    kind, value = error["type"], error["input"]
    reason = error["msg"].replace("greater than or equal to", "at least").replace("less than or equal to", "at most")
    if kind == "missing":
        return f"{field} is missing"
    if kind == "union_tag_not_found":
        return "type is missing"
    if kind == "extra_forbidden":
        return f"unknown field {field}"
    if kind == "union_tag_invalid":
        return f"type must be one of {error['ctx']['expected_tags']}, not {reprlib.repr(value['type'])}"
    if kind in ("model_type", "model_attributes_type"):
        return f"{field} must be a JSON object, not {reprlib.repr(value)}"
    for start in ("Value error, must", "Input should", "String should"):
        if reason.startswith(start):
            return f"{field} must{reason.removeprefix(start)}, not {reprlib.repr(value)}"
    return f"{field} is {reprlib.repr(value)}: {reason}"


def _message_id(data: object) -> int | None:
    try:
        return _ID.validate_python(data["id"]) if isinstance(data, dict) else None
    except (KeyError, ValidationError):
        return None


# what a model supports


def max_message_bytes(models: list[Model]) -> int:
    """Length in bytes that no valid message exceeds: that of one with the largest image."""
    pixels = max(model.spec.channels * model.spec.height * model.spec.width for model in models)
    return MAX_TEXT_BYTES + max(NUMS) * pixels * 4 // 3


def check_settings(settings: Settings, model: Model) -> None:
    """UserError for settings that this model does not support."""
    options = settings.options()
    model.resolve_sampling(options)
    T = model.schedule.T
    if settings.creativity > T:
        raise UserError(f"creativity must be between 0 and T = {T}, not {settings.creativity}")
    if settings.motion == "drift":
        model.check_gaussian("drifting through noise", 'set motion to "melt"')
    model.denoiser_for(1, options)
    for name in options.label if isinstance(options.label, dict) else ():
        if name not in model.spec.labels:  # DataSpec.vector also accepts numbers; the page knows names only
            raise UserError(f"there is no label {name!r}; there are: {', '.join(model.spec.labels)}")


def decode_image(text: str, num: int, model: Model) -> Tensor:
    """Images from base64: (num, C, H, W) float32 in [−1, 1]. UserError if it is not base64 or has the wrong size."""
    C, H, W = model.spec.channels, model.spec.height, model.spec.width
    pixels = _decode_bytes("image", text, num * H * W * C, f"num·H·W·C = {num}·{H}·{W}·{C}")
    return pixels.view(num, H, W, C).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()


def decode_mask(text: str, model: Model) -> Tensor:
    """Which pixels to keep, (H, W) bool, from a mask in base64.

    UserError if it is not base64, has the wrong size, or keeps every pixel.
    """
    H, W = model.spec.height, model.spec.width
    keep = _decode_bytes("mask", text, H * W, f"H·W = {H}·{W}").view(H, W) < 128
    if keep.all():
        raise UserError("mask selects nothing: set the pixels to repaint to 255")
    return keep


def _decode_bytes(field: str, text: str, length: int, formula: str) -> Tensor:
    """(length,) uint8. formula: how the length is computed, for the error."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{field} must be base64, not {reprlib.repr(text)} ({error})") from None
    if len(decoded) != length:
        raise UserError(f"{field} must have {formula} = {length} bytes, not {len(decoded)}")
    return torch.frombuffer(bytearray(decoded), dtype=torch.uint8)


# messages to the page


def model_info(name: str, model: Model) -> dict[str, object]:
    """What the page needs to know about a model to offer it and to explain its sampling steps."""
    spec, alpha_bar, kind = model.spec, model.schedule.alpha_bar, "model"
    process = {}  # left out in the files of older sites, too
    if model.is_masked:
        alpha_bar, kind, process = masked.visibility(model.schedule), "masked model", {"process": model.process}
    return {
        "name": name,
        "about": zoo.card(name).about if name in zoo.names() else f"a {kind} of {spec.name}",
        "channels": spec.channels,
        "height": spec.height,
        "width": spec.width,
        "labels": [] if model.labels is None else list(spec.labels),
        "T": model.schedule.T,
        "alpha_bar": alpha_bar.tolist(),
        "prediction": model.prediction,
        "sampling": asdict(model.sampling),
        "creativity": _default_creativity(model),
        "turbo": model.sampling.steps <= MAX_TURBO_STEPS,
        "thumbnail": thumbnail(name, spec),
        **process,
        **_checkpoint(name),
    }


def _checkpoint(name: str) -> dict[str, object]:
    """For a shipped model that is one of several checkpoints of a training run: which one, and the loss so far."""
    match = re.fullmatch(r"(.+)-epoch-(\d+)", name)
    if match is None or name not in zoo.names():
        return {}
    return {"checkpoint": {"run": match[1], "epoch": int(match[2]), "curve": zoo.card(name).curve}}


def _default_creativity(model: Model) -> int:
    """The first timestep where the fraction of noise reaches DEFAULT_NOISE, or that of hidden pixels DEFAULT_HIDDEN.

    For few-step models, the last timestep they were trained at with at most DEFAULT_TURBO_NOISE. Between the timesteps
    of their training, their predictions are too dark.
    """
    few_steps = model.sampling.spacing == "cubic"
    level = DEFAULT_HIDDEN if model.is_masked else DEFAULT_TURBO_NOISE if few_steps else DEFAULT_NOISE
    t = int((model.schedule.alpha_bar[:-1] > 1 - level).sum())
    return next(s for s in model.times(min(MAX_TURBO_STEPS, model.schedule.T)) if s <= t) if few_steps else t


def error_message(error: object, id: int | None = None) -> dict[str, object]:
    """An error as a message to the page. id: that of the message which caused it."""
    text = str(error)
    if len(text) > MAX_ERROR_LENGTH:
        text = text[: MAX_ERROR_LENGTH - 1] + "…"
    return {"type": "error", "id": id, "message": text}
