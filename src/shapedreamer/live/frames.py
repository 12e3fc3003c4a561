"""A viewer's dream, the animation on the page: which frame comes next, how it is generated, and how it is sent.

Frame 0 is a sample or an uploaded image. With motion "melt", frame k ≥ 1 is a variation of frame k − 1
(imaging.editing.melt). With motion "drift", every frame is a sample, and its noise turns a little from frame to frame
(imaging.editing.drift). The algorithms are those of the library. This module runs them as coroutines: wherever the
denoiser is called, the coroutine yields a Request and receives x̂₀, so that the engine can batch the requests of many
viewers into one network call.
"""

import struct
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.names import TWO_CALLS
from ..common.noise import Noise
from ..diffusion.denoiser import Denoise, inpainted
from ..diffusion.samplers import Step
from ..imaging.editing import RENOISE_OFFSET, Plan, inpainting_plan, start_of, variation_plan, with_labels_of
from ..imaging.render import to_uint8
from ..models.model import Model
from ..models.options import SampleOptions
from .settings import SampleMessage, Settings, TraceMessage

RESTARTS = ("model", "seed", "num")  # settings that restart the dream when they change
# Settings that apply from the next frame on. After a change, the seed alone no longer determines the picture.
CHANGES_PICTURE = ("sampler", "steps", "eta", "guidance", "creativity", "label", "motion", "every")

R = TypeVar("R")


# samplers as coroutines


class Request(NamedTuple):
    """Denoise x_t (B, C, H, W) at timesteps t (B,), conditioned on label (B, L) or None, with a guidance scale."""

    x_t: Tensor
    t: Tensor
    label: Tensor | None
    guidance: float

    @property
    def passes(self) -> list[Tensor | None]:
        """The label of each network pass; None is unconditional. Guidance needs both passes, unconditional first."""
        if self.label is None or self.guidance == 0:
            return [None]
        return [self.label] if self.guidance == 1 else [None, self.label]


Denoising = Generator[Request, Tensor, R]  # yields requests, receives each x̂₀, and returns an R


class _MissingPredictionError(Exception):
    """The sampler calls the denoiser for an x̂₀ that has not been requested yet."""

    def __init__(self, x_t: Tensor, t: Tensor) -> None:
        self.x_t, self.t = x_t, t


def run_sampler(
    model: Model,
    options: SampleOptions,
    x: Tensor,
    noise: Noise,
    times: Sequence[int] | None = None,
    end: int = 0,
    wrap: Callable[[Denoise], Denoise] = lambda denoise: denoise,
    keep_last: int | None = 1,
) -> Denoising[list[Step]]:
    """The steps of model.bind_sampler from x (num, C, H, W) down to timestep `end`, preceded by a Step for x itself.

    wrap:      wraps the denoiser
    keep_last: how many of the last steps to return; None for all

    A sampler cannot pause inside a step, but its first network call in a step is always for the image where the last
    step ended. So the coroutine requests that x̂₀ first, and then runs the step. Heun's method makes a second call
    inside the step. That call raises; the coroutine requests this x̂₀ too, and runs the sampler again from the start.
    Samplers are pure functions, so it makes the same calls and arrives at the same place.
    """
    label = model.label_vectors(options.label, len(x), options.seed)
    sampler = model.bind_sampler(options, noise, times)
    start = model.schedule.T if times is None else times[0]
    predictions: list[Tensor] = []
    used = 0

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal used
        if used == len(predictions):
            raise _MissingPredictionError(x_t, t)
        used += 1
        return predictions[used - 1]

    while True:
        used, trajectory = 0, deque([Step(start, x, x)], keep_last)
        steps = sampler(wrap(denoise), x_T=x)
        try:
            while (last := trajectory[-1]).t > end:
                if used == len(predictions):
                    if options.sampler not in TWO_CALLS:  # only these run again and reuse them
                        used = 0
                        predictions.clear()
                    t = torch.full((len(x),), last.t, device=x.device)
                    predictions.append((yield Request(last.x, t, label, options.guidance)))
                trajectory.append(next(steps))
            return list(trajectory)
        except _MissingPredictionError as missing:
            predictions.append((yield Request(missing.x_t, missing.t, label, options.guidance)))


def run_plan(
    model: Model, plan: Plan, options: SampleOptions, wrap: Callable[[Denoise], Denoise] = lambda denoise: denoise
) -> Denoising[Tensor]:
    """The finished image of a plan (see imaging.editing), on the CPU."""
    leg = next(plan)
    while True:
        (last,) = yield from run_sampler(model, options, leg.x, leg.noise, leg.times, leg.end, wrap)
        try:
            leg = plan.send(last.x)
        except StopIteration as finished:
            image: Tensor = finished.value
            return image.cpu()


def sampling(model: Model, num: int, options: SampleOptions, keep_last: int | None = 1) -> Denoising[list[Step]]:
    """The last steps of Model.stream; with keep_last=None, all of them, preceded by a Step for x_T."""
    x_T = model.noise(num, options.seed)
    return run_sampler(model, options, x_T, Noise(options.seed), keep_last=keep_last)


def varying(model: Model, image: Tensor, t: int, num: int, options: SampleOptions, first: int) -> Denoising[Tensor]:
    """The result of imaging.editing.vary."""
    return run_plan(model, variation_plan(model, image, t, num, options, first), options)


def inpainting(model: Model, image: Tensor, keep: Tensor, num: int, options: SampleOptions) -> Denoising[Tensor]:
    """The result of imaging.editing.inpaint."""
    image, keep = model.fit(image), keep.to(model.device)
    plan = inpainting_plan(model, image, keep, num, options)
    return run_plan(model, plan, options, lambda denoise: inpainted(denoise, image, keep))


# which frame comes next


@dataclass(frozen=True)
class Frame:
    """Frame k of a dream, made from the frame before it.

    restarts  how often the dream had restarted when the frame was started
    id        of the settings
    pure      whether the model, the settings and k determine it completely
    previous  frame k − 1, (num, C, H, W); for k = 0 the uploaded image, or None for a sample
    keep      when inpainting: which pixels of the first image of `previous` to keep, (H, W) bool; else None
    """

    restarts: int
    id: int
    settings: Settings
    k: int
    pure: bool
    previous: Tensor | None
    keep: Tensor | None

    @property
    def is_sample(self) -> bool:
        """Whether it starts from noise, and not from `previous`."""
        if self.keep is not None:
            return False
        return self.previous is None or (self.k > 0 and self.settings.is_sample(self.k))

    @property
    def _first_label(self) -> int:
        """Number of the seed's image whose label "any" image 0 has."""
        num, every = self.settings.num, self.settings.every
        return self.k // every * num if every else 0

    def generate(self, model: Model) -> Denoising[Tensor]:
        """The images, (num, C, H, W) float32 on the CPU."""
        num, every, t = self.settings.num, self.settings.every, self.settings.creativity
        options = self.settings.options()
        if self.keep is not None:
            assert self.previous is not None
            return (yield from inpainting(model, self.previous[:1], self.keep, num, options))
        if self.is_sample:
            x_T, noise, options = start_of(model, self.k, num, options, every)
            (last,) = yield from run_sampler(model, options, x_T, noise)
            return last.x.cpu()
        assert self.previous is not None
        if self.k == 0 or t == 0:
            return self.previous
        options = with_labels_of(model, num, options, self._first_label)
        return (yield from varying(model, self.previous, t, num, options, RENOISE_OFFSET + self.k * num))

    def steps(self, model: Model, options: SampleOptions) -> Denoising[list[Step]]:
        """All sampling steps of image 0, preceded by a Step for x_T.

        If the frame melted from an earlier one, two steps come first: that image at t = 0, and x_t.
        """
        num = self.settings.num
        if self.is_sample:
            x_T, noise, options = start_of(model, self.k, num, options, self.settings.every)
            if isinstance(options.label, Tensor):
                options = replace(options, label=options.label[:1])
            return (yield from run_sampler(model, options, x_T[:1], noise, keep_last=None))
        assert self.previous is not None
        image, first = self.previous[:1], RENOISE_OFFSET + self.k * num
        options = with_labels_of(model, 1, options, self._first_label)
        leg = next(variation_plan(model, image, self.settings.creativity, 1, options, first))
        noised, *steps = yield from run_sampler(model, options, leg.x, leg.noise, leg.times, keep_last=None)
        return [Step(0, image, image), noised._replace(x0=image), *steps]

    def pack(self, x: Tensor, calls: int, ms: float) -> bytes:
        """The frame as a binary message: a header, then num·H·W·C bytes."""
        num, C, H, W = x.shape
        header = Header(FRAME, self.pure, self.id, self.k, num, C, H, W, calls, ms)
        return header.pack() + to_uint8(x).tobytes()


class Sample(Frame):
    """Frame 0 of any settings, requested by the page beside its dream."""

    def __init__(self, message: SampleMessage) -> None:
        super().__init__(0, message.id, message.settings, 0, True, None, None)


@dataclass(frozen=True)
class Trace:
    """All sampling steps of image 0 of a frame, with the settings of the viewer but the sampler of the message.

    frame: see Dream.traceable; None for frame 0 of the seed
    """

    message: TraceMessage
    settings: Settings
    frame: Frame | None = None

    def generate(self, model: Model) -> Denoising[list[Step]]:
        """The steps, as in Frame.steps."""
        sampler, steps, eta = self.message.sampler, self.message.steps, self.message.eta
        options = replace(self.settings.options(), sampler=sampler, steps=steps, eta=eta)
        if self.frame is None:
            return sampling(model, 1, options, keep_last=None)
        return self.frame.steps(model, options)

    def pack(self, steps: list[Step], calls: int, ms: float) -> bytes:
        """The trace as a binary message: a header, then t, s, x_t, x̂₀ and x_s of each step."""
        num, C, H, W = steps[0].x.shape
        header = Header(TRACE, False, self.message.id, len(steps) - 1, num, C, H, W, calls, ms)
        parts = [header.pack()]
        for start, end in pairwise(steps):
            parts.append(struct.pack("<ii", start.t, end.t))
            parts += [x.float().numpy(force=True).astype("<f4").tobytes() for x in (start.x, end.x0, end.x)]
        return b"".join(parts)


class Dream:
    """A viewer's settings and latest frame. `next` returns the frame to generate, `store` takes the result.

    restarting  whether the next frame is frame 0
    """

    def __init__(self) -> None:
        self.id = 0
        self.settings: Settings | None = None
        self.restarting = True
        self._upload: Tensor | None = None  # frame 0, if it is not a sample
        self._x: Tensor | None = None  # the latest frame, number _k
        self._frame: Frame | None = None  # how it was made
        self._k = -1
        self._pure = True
        self._keep: Tensor | None = None
        self._restarts = 0

    @property
    def is_due(self) -> bool:
        """Whether a frame is due even while the viewer has paused: frame 0, or an inpainted one."""
        return self.settings is not None and (self.restarting or self._keep is not None)

    def set(self, id: int, settings: Settings, image: Tensor | None, frame: int | None = None) -> None:
        """Use these settings from the next frame on. An image, a frame, or another model, seed or num restarts it.

        image: (num, C, H, W)
        frame: number of the frame to start at; settings.is_sample(frame) must hold
        """
        before, self.id, self.settings = self.settings, id, settings
        if before is None or image is not None or frame is not None or _differ(before, settings, RESTARTS):
            self._upload = image
            self.restart(frame or 0)
        elif self.restarting and not settings.is_sample(self._k + 1):
            self.restart()
        elif not self.restarting and _differ(before, settings, CHANGES_PICTURE):
            self._pure = False

    def restart(self, frame: int = 0) -> None:
        """Start again, at frame 0 or at another one that settings.is_sample."""
        self._restarts += 1
        self.restarting, self._x, self._k, self._keep, self._frame = True, None, frame - 1, None, None
        self._pure = self._upload is None

    def repaint(self, keep: Tensor) -> None:
        """Inpaint the first image in the next frame. keep: which pixels to keep, (H, W) bool."""
        self._keep = keep

    def next(self) -> Frame:
        """The frame to generate now. Without a call to `store`, the next call returns the same frame number."""
        assert self.settings is not None
        previous, keep = (self._upload, None) if self._x is None else (self._x, self._keep)
        if self._x is not None:
            self._keep = None
        k, self.restarting = self._k + 1, False
        from_noise = self._x is not None or self._upload is None
        self._pure = keep is None and (self._pure or (from_noise and self.settings.is_sample(k)))
        return Frame(self._restarts, self.id, self.settings, k, self._pure, previous, keep)

    def is_current(self, frame: Frame) -> bool:
        """Whether the dream has not restarted since `next` returned this frame."""
        return frame.restarts == self._restarts

    def store(self, frame: Frame, x: Tensor) -> None:
        """Take the images x, (num, C, H, W), of a frame that is still current."""
        self._x, self._k, self._frame = x, frame.k, frame

    def traceable(self, number: int) -> Frame:
        """Frame `number` with the current settings. The latest frame moves as it did when it was made; any other frame
        starts from the latest one, unless it is a sample.

        UserError if sampling steps did not make it, or with the creativity set now would not.
        """
        frame = self._frame
        if frame is None or self._x is None or self.settings is None:
            raise UserError("there is no frame to trace yet; wait for the first one")
        if number != frame.k:
            frame = replace(frame, k=number, previous=self._x, keep=None, settings=self.settings)
        else:
            moved = {"motion": frame.settings.motion, "every": frame.settings.every}
            previous = None if frame.is_sample else frame.previous
            frame = replace(frame, settings=self.settings.model_copy(update=moved), previous=previous)
        if frame.keep is not None or (frame.k == 0 and frame.previous is not None):
            raise UserError(f"frame {frame.k} was drawn or repainted and has no sampling steps; make the next frame")
        if not frame.is_sample and self.settings.creativity == 0:
            raise UserError("with creativity 0 a frame equals the one before it; set creativity to at least 1")
        return frame


def _differ(a: Settings, b: Settings, fields: Collection[str]) -> bool:
    return any(getattr(a, field) != getattr(b, field) for field in fields)


# binary messages

FRAME, TRACE = 1, 2
_HEADER = struct.Struct("<2sBBIIHHHHHxxf")


class Header(NamedTuple):
    """The first 28 bytes of a frame or trace.

    kind     FRAME or TRACE
    pure     see Frame
    id       of the settings, or of the message that requested the trace
    number   k of a frame, or number of steps of a trace
    calls    network calls made
    ms       milliseconds taken
    """

    kind: int
    pure: bool
    id: int
    number: int
    num: int
    C: int
    H: int
    W: int
    calls: int
    ms: float

    def pack(self) -> bytes:
        return _HEADER.pack(b"SD", *self)


def unpack(data: bytes) -> tuple[Header, bytes]:
    """Header and payload of a frame or trace; ValueError if the header is invalid or does not match the length."""
    if len(data) < _HEADER.size or data[:2] != b"SD":
        raise ValueError(f"not a frame: {len(data)} bytes without a valid header")
    _, kind, flags, *numbers = _HEADER.unpack_from(data)
    header = Header(kind, bool(flags & 1), *numbers)
    pixels = header.num * header.C * header.H * header.W
    expected = {FRAME: pixels, TRACE: header.number * (8 + 12 * pixels)}.get(kind)
    if expected is None:
        raise ValueError(f"not a frame: unknown kind {kind}")
    if len(data) - _HEADER.size != expected:
        raise ValueError(
            f"a message of kind {kind} must have {expected} bytes of payload, not {len(data) - _HEADER.size}"
        )
    return header, data[_HEADER.size :]
