"""One viewer's dream: what comes next, what it asks of the network on the way, and how it travels.

Frame 0 is a sample, or an image that was given; frame k ≥ 1 is frame k − 1 varied (`explore.melt`), so that one dream
melts into the next. How a frame is made is written here once more, as generators: where the library calls the network,
they stop and hand out what they ask, so that an engine can put the questions of many into one call. The samplers are
the library's own.
"""

import struct
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..common.noise import Noise, fold
from ..diffusion.denoiser import Denoise, inpainted
from ..diffusion.process import diffuse, transition
from ..diffusion.samplers import Step, Steps
from ..imaging.explore import AGAIN, ANEW, REPEAT, REPEATS
from ..imaging.figures import Way
from ..imaging.render import to_uint8
from ..models.model import Model
from .settings import Settings, Trace

BEGINNING = ("model", "seed", "num")  # what a dream begins again for when it is set to something else
PICTURE = ("sampler", "steps", "eta", "guidance", "creativity", "label")  # what else decides the pictures

R = TypeVar("R")


# stopping where the network is called


class Ask(NamedTuple):
    """What is x̂₀ of x_t (B, C, H, W) at the times t (B,), with this label (B, L) or None, and guided so much?"""

    x_t: Tensor
    t: Tensor
    label: Tensor | None
    guidance: float

    @property
    def told(self) -> list[Tensor | None]:
        """The labels that the network must be told, one after the other: none, the label, or for guidance both."""
        if self.label is None or self.guidance == 0:
            return [None]
        return [self.label] if self.guidance == 1 else [None, self.label]


Asking = Generator[Ask, Tensor, R]  # asks, is sent each x̂₀, and comes to an R


class _UnforeseenError(Exception):
    """A sampler wants an answer that is not there yet."""

    def __init__(self, x_t: Tensor, t: Tensor) -> None:
        self.x_t, self.t = x_t, t


def walk(
    model: Model,
    way: Way,
    x: Tensor,
    steps: Steps | None,
    noise: Noise,
    end: int = 0,
    around: Callable[[Denoise], Denoise] = lambda denoise: denoise,
    wanted: int | None = 1,
) -> Asking[list[Step]]:
    """The steps of model.walk from x (num, C, H, W) on, after one for where that begins, until they land on `end`.

    around: what wraps the denoiser
    wanted: how many of the last steps to return; None for all

    A sampler cannot be stopped inside a step. But it asks about the place where it has landed, and so the answer can be
    there before it goes on. Only Heun's method asks once more on the way. It fails there, and when that is answered too
    it walks again from the beginning: as samplers are pure, it comes to the same place with the same questions.
    """
    label = model.label_vectors(way.label, len(x), way.seed)
    start = steps[0] if isinstance(steps, Sequence) else model.schedule.T
    answers: list[Tensor] = []
    used = 0

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        nonlocal used
        if used == len(answers):
            raise _UnforeseenError(x_t, t)
        used += 1
        return answers[used - 1]

    while True:
        used, made = 0, deque([Step(start, x, x)], wanted)
        walking = model.walk(around(denoise), x, way.sampler, steps, way.eta, noise)
        try:
            while (here := made[-1]).t > end:
                if used == len(answers):
                    if way.sampler != "heun":  # which alone comes back to them
                        used = 0
                        answers.clear()
                    t = torch.full((len(x),), here.t, device=x.device)
                    answers.append((yield Ask(here.x, t, label, way.guidance)))
                made.append(next(walking))
            return list(made)
        except _UnforeseenError as asked:
            answers.append((yield Ask(asked.x_t, asked.t, label, way.guidance)))


def sampling(model: Model, num: int, way: Way, wanted: int | None = 1) -> Asking[list[Step]]:
    """The last steps of Model.stream; or all, after one for x_T, if wanted is None."""
    return walk(model, way, model.noise(num, way.seed), way.steps, Noise(way.seed), wanted=wanted)


def varying(model: Model, image: Tensor, t: int, num: int, way: Way, first: int) -> Asking[Tensor]:
    """What explore.vary gives."""
    eps = model.noise(num, way.seed, first)
    x_t = diffuse(image.to(eps), t, eps, model.schedule)
    times = model.times(min(model.chosen(way.sampler, way.steps, way.eta).steps, t), t)
    (last,) = yield from walk(model, way, x_t, times, Noise(way.seed, first))
    return last.x.cpu()


def inpainting(model: Model, image: Tensor, keep: Tensor, num: int, way: Way) -> Asking[Tensor]:
    """What explore.inpaint gives."""
    image, keep = image.to(model.device), keep.to(model.device)
    x = model.noise(num, way.seed, ANEW)
    for t, s in pairwise(model.times(model.chosen(way.sampler, way.steps, way.eta).steps)):
        for repeat in range(REPEATS if s else 1):
            seed = fold(way.seed, REPEAT, repeat) if repeat else way.seed
            if repeat:
                x = transition(x, s, t, Noise(fold(seed, AGAIN), ANEW)(t, like=x), model.schedule)
            times, noise = [t, s, 0] if s else [t, 0], Noise(seed, ANEW)
            (last,) = yield from walk(model, way, x, times, noise, s, lambda denoise: inpainted(denoise, image, keep))
            x = last.x
    return torch.where(keep, image, x).cpu()


# what comes next


@dataclass(frozen=True)
class Frame:
    """Frame k of a dream, to be made of the frame before it.

    beginning  how often the viewer's dream has begun again before it
    id         of the settings
    pure       whether model, settings and k alone decide it
    before     frame k − 1, (num, C, H, W); for k = 0 the image to begin with, or None for a sample
    keep       what of the first image of `before` is kept, (H, W) bool, while the rest is dreamt anew; None to vary all
    """

    beginning: int
    id: int
    settings: Settings
    k: int
    pure: bool
    before: Tensor | None
    keep: Tensor | None

    def make(self, model: Model) -> Asking[Tensor]:
        """(num, C, H, W) float32, on the CPU."""
        num, way, t = self.settings.num, self.settings.way(), self.settings.creativity
        if self.before is None:
            (last,) = yield from sampling(model, num, way)
            return last.x.cpu()
        if self.keep is not None:
            return (yield from inpainting(model, self.before[:1], self.keep, num, way))
        if self.k == 0 or t == 0:
            return self.before
        return (yield from varying(model, self.before, t, num, way, ANEW + self.k * num))

    def pack(self, x: Tensor, calls: int, ms: float) -> bytes:
        """As the page gets it: a header, then num·H·W·C bytes."""
        num, C, H, W = x.shape
        header = Header(FRAME, self.pure, self.id, self.k, num, C, H, W, calls, ms)
        return header.pack() + to_uint8(x).tobytes()


@dataclass(frozen=True)
class Traced:
    """All steps to image 0 of the settings on the way that a trace asks for."""

    trace: Trace
    settings: Settings

    def make(self, model: Model) -> Asking[list[Step]]:
        """The steps, after one for x_T."""
        sampler, steps, eta = self.trace.sampler, self.trace.steps, self.trace.eta
        return sampling(model, 1, self.settings.way()._replace(sampler=sampler, steps=steps, eta=eta), wanted=None)

    def pack(self, steps: list[Step], calls: int, ms: float) -> bytes:
        """As the page gets it: a header, then for each step t, s, x_t, x̂₀ and x_s."""
        num, C, H, W = steps[0].x.shape
        header = Header(TRACE, False, self.trace.id, len(steps) - 1, num, C, H, W, calls, ms)
        parts = [header.pack()]
        for start, end in pairwise(steps):
            parts.append(struct.pack("<ii", start.t, end.t))
            parts += [x.float().numpy(force=True).astype("<f4").tobytes() for x in (start.x, end.x0, end.x)]
        return b"".join(parts)


class Dream:
    """What a viewer has set, and how far its dream has come.

    begins  whether frame 0 is still to be made
    """

    def __init__(self) -> None:
        self.id = 0
        self.settings: Settings | None = None
        self.begins = True
        self._given: Tensor | None = None  # what frame 0 is, if it is no sample
        self._x: Tensor | None = None  # the newest frame, of number _k
        self._k = -1
        self._pure = True
        self._keep: Tensor | None = None
        self._beginning = 0

    @property
    def is_due(self) -> bool:
        """Whether a frame is wanted even of a dream that is paused: frame 0, or one that is to be painted anew."""
        return self.settings is not None and (self.begins or self._keep is not None)

    def set(self, id: int, settings: Settings, image: Tensor | None) -> None:
        """These hold from the next frame on; with an image, or another model, seed or num, the dream begins again.

        image: (num, C, H, W)
        """
        before, self.id, self.settings = self.settings, id, settings
        if before is None or image is not None or _differ(before, settings, BEGINNING):
            self._given = image
            self.restart()
        elif not self.begins and _differ(before, settings, PICTURE):
            self._pure = False

    def restart(self) -> None:
        """Begin again at frame 0."""
        self._beginning += 1
        self.begins, self._x, self._k, self._keep = True, None, -1, None
        self._pure = self._given is None

    def repaint(self, keep: Tensor) -> None:
        """Let the next frame be this one's first image, dreamt anew but for what is kept: (H, W) bool."""
        self._keep = keep

    def next(self) -> Frame:
        """The frame to make now. It must be given to `landed`, or it will be made once more."""
        assert self.settings is not None
        before, keep = (self._given, None) if self._x is None else (self._x, self._keep)
        if self._x is not None:
            self._keep = None
        self.begins, self._pure = False, self._pure and keep is None
        return Frame(self._beginning, self.id, self.settings, self._k + 1, self._pure, before, keep)

    def wants(self, frame: Frame) -> bool:
        """Whether the dream has not begun again since."""
        return frame.beginning == self._beginning

    def landed(self, frame: Frame, x: Tensor) -> None:
        """A frame that is wanted has become x."""
        self._x, self._k = x, frame.k


def _differ(a: Settings, b: Settings, fields: Collection[str]) -> bool:
    return any(getattr(a, field) != getattr(b, field) for field in fields)


# how it travels

FRAME, TRACE = 1, 2
_HEADER = struct.Struct("<2sBBIIHHHHHxxf")


class Header(NamedTuple):
    """The first 28 bytes of a frame or trace.

    kind     FRAME or TRACE
    id       of the message that it belongs to
    number   k of a frame, steps of a trace
    calls    of the network, ms: milliseconds, that it took
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
    """Header and the rest of what came; ValueError unless it is a frame or trace, whole and no longer than it says."""
    if len(data) < _HEADER.size or data[:2] != b"SD":
        raise ValueError(f"{len(data)} bytes that are no frame")
    _, kind, flags, *numbers = _HEADER.unpack_from(data)
    header = Header(kind, bool(flags & 1), *numbers)
    pixels = header.num * header.C * header.H * header.W
    expected = {FRAME: pixels, TRACE: header.number * (8 + 12 * pixels)}.get(kind)
    if len(data) - _HEADER.size != expected:
        raise ValueError(f"a frame of kind {kind} has {len(data) - _HEADER.size} bytes, and must have {expected}")
    return header, data[_HEADER.size :]
