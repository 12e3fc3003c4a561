"""Explore what a model has learnt: between two samples, around an image, or inside a hole in one.

    interpolate   from the noise of one seed to that of another, and so from sample to sample
    drift         from sample to sample of one seed, without end
    vary, melt    add noise to an image up to timestep t and denoise it again: the same image, but different
    inpaint       generate a part of an image so that it matches the rest

Images come back on the CPU, in [−1, 1]. All randomness follows from options.seed. Functions raise UserError for a value
out of range.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..common.errors import UserError
from ..common.names import ExploreMode
from ..common.noise import Noise, fold
from ..common.values import as_choice, as_int, as_path
from ..data.arrays import Arrays
from ..data.limits import check_picture
from ..data.spec import DataSpec
from ..diffusion.denoiser import Denoise, inpainted
from ..diffusion.process import transition
from ..diffusion.samplers import Step, sample
from ..models.model import Model, load
from ..models.options import SampleOptions
from . import render
from .figures import MAX_FRAMES, history

PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA")  # not those that start programs
INTERPOLATION_FRAMES = 16
CREATIVITY = (0.5, 0.8, 0.9, 0.95, 0.98)  # fraction of noise in the variance of x_t: 1 − ᾱ_t
FRAME_MS = 80
DRIFT_EVERY = 60  # frames from one sample of a drift to the next
MAX_EVERY = 1000
MAX_FRAME = 10_000_000  # number of the last frame; image indices beyond it could reach RENOISE_OFFSET
# Offset into the noise stream, so that re-noising never reuses the x_T of a sample with the same seed: adding back the
# very noise that an image came from would change little about it.
RENOISE_OFFSET = 2**31
INPAINT_REPEATS = 10  # of each sampling step
REPEAT, ADDED_NOISE = 0x2EBEA7, 0xA6A12  # folded into a seed, for a repeat and for the noise that is added back


# between two samples


def slerp(a: Tensor, b: Tensor, fraction: float) -> Tensor:
    """From a (fraction 0) to b (fraction 1), each image (B, C, H, W) along the great circle through both.

    Shoemake 1985. Noise with many pixels lies close to a sphere, |x|² ≈ the number of pixels, and stays there along the
    circle. Along the straight line it would not: |(a + b) / 2|² of independent a and b is half of that, and no network
    has seen such weak noise at timestep T. Where a and b point the same way or opposite ways, the circle is not unique,
    and the straight line is used instead.
    """
    cosine = F.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cosine.acos().view(-1, 1, 1, 1)
    curved = angle.sin() > 1e-3
    from_a, from_b = (
        torch.where(curved, torch.sin(part * angle) / angle.sin(), part) for part in (1 - fraction, fraction)
    )
    return from_a * a + from_b * b


class InterpolatedNoise(Noise):
    """The noise of `start` (fraction 0), of `to` (fraction 1), or on the circle between them, at every step."""

    def __init__(self, start: Noise, to: Noise, fraction: float) -> None:
        super().__init__(start.seed, start.first)
        self.to, self.fraction = to, fraction

    def __call__(self, step: int, like: Tensor) -> Tensor:
        return slerp(super().__call__(step, like), self.to(step, like), self.fraction)


def interpolate(
    model: Model,
    num: int = 1,
    frames: int = INTERPOLATION_FRAMES,
    to: int = 1,
    options: SampleOptions = SampleOptions(),
) -> Tensor:
    """`num` paths from the samples of options.seed to those of the seed `to`: (frames, num, C, H, W), ends included.

    All noise is interpolated: x_T, and what ddpm, or ddim with an eta, adds at each step, which may matter more. With
    label "any", every frame has the labels of options.seed, so the last frame differs from the samples of `to`.
    """
    if frames < 2:
        raise UserError(f"frames must be at least 2, not {frames}")
    model.check_gaussian("interpolation between the noise of two seeds", "vary a sample instead")
    x = model.noise(num, options.seed)
    model.noise(num, to)  # raises for a seed out of range
    denoise = model.denoiser_for(num, options)
    images = []
    for frame in range(frames):
        noise = InterpolatedNoise(Noise(options.seed), Noise(to), frame / (frames - 1))
        steps = model.bind_sampler(options, noise)(denoise, x_T=noise(0, like=x))
        images.append(sample(steps).cpu())
    return torch.stack(images)


def write_interpolation(
    model: Model,
    out: str | Path,
    num: int,
    frames: int = INTERPOLATION_FRAMES,
    to: int | None = None,
    options: SampleOptions = SampleOptions(),
) -> None:
    """A picture with a row for each of `num` paths to the seed `to` (default: the next); or a GIF that loops."""
    out = as_path("out", out)
    to = options.seed + 1 if to is None else to
    images = interpolate(model, num, frames, to, options)
    if out.suffix.lower() in render.ANIMATIONS:
        _save_loop([*images, *images[1:-1].flip(0)], out)
        return
    titles = [f"seed {options.seed}", *[""] * (frames - 2), f"seed {to}"]
    render.save_picture(render.strip(list(images), titles), out)


# from sample to sample of one seed


class Start(NamedTuple):
    """What to sample from: x = x_T (num, C, H, W), the noise that the sampler adds, and the options with the labels."""

    x: Tensor
    noise: Noise
    options: SampleOptions


def start_of(model: Model, frame: int, num: int, options: SampleOptions, every: int) -> Start:
    """What frame number `frame` of a drift is sampled from: it depends on nothing else.

    Frame j·every starts from the noise of images j·num…j·num + num − 1 of the seed, so it shows exactly these samples.
    In between, all noise turns along the circle (see InterpolatedNoise), and labels drawn by "any" change in
    proportion. So every frame is a sample of the model, and a drift of any length stays as good as its first frame.

    every: frames from one sample to the next; 0 stays at the first. UserError unless it is 0…MAX_EVERY.
    """
    every = as_int("every", every, 0, MAX_EVERY)
    sample_number, frames_past = divmod(frame, every) if every else (0, 0)
    first, fraction = sample_number * num, frames_past / max(every, 1)
    options = with_labels_of(model, num, options, first)
    if fraction == 0:
        return Start(model.noise(num, options.seed, first), Noise(options.seed, first), options)
    model.check_gaussian("drifting through noise", "melt a sample instead")
    noise = InterpolatedNoise(Noise(options.seed, first), Noise(options.seed, first + num), fraction)
    if isinstance(options.label, Tensor):
        following = model.label_vectors("any", num, options.seed, first + num)
        assert following is not None
        options = replace(options, label=(1 - fraction) * options.label + fraction * following)
    return Start(noise(0, like=model.noise(num, options.seed)), noise, options)


def with_labels_of(model: Model, num: int, options: SampleOptions, first: int) -> SampleOptions:
    """The options with the labels of images first…first + num − 1 in place of "any"; unchanged for any other label."""
    if options.label != "any" or model.labels is None:
        return options
    return replace(options, label=model.label_vectors("any", num, options.seed, first))


def drift_frame(
    model: Model, frame: int, num: int = 1, options: SampleOptions = SampleOptions(), every: int = DRIFT_EVERY
) -> Tensor:
    """Frame number `frame` of a drift, (num, C, H, W). See start_of."""
    num, frame = model.check_num(num), as_int("frame", frame, 0, MAX_FRAME)
    x_T, noise, options = start_of(model, frame, num, options, every)
    return sample(model.bind_sampler(options, noise)(model.denoiser_for(num, options), x_T=x_T)).cpu()


def drift(
    model: Model,
    frames: int = MAX_FRAMES,
    num: int = 1,
    options: SampleOptions = SampleOptions(),
    every: int = DRIFT_EVERY,
) -> Tensor:
    """The first frames of a drift: (frames, num, C, H, W). The noise turns, and one sample becomes the next.

    every: frames from one sample of the seed to the next. See start_of.
    """
    if frames < 2:
        raise UserError(f"frames must be at least 2, not {frames}")
    return torch.stack([drift_frame(model, frame, num, options, every) for frame in range(frames)])


def write_drift(
    model: Model,
    out: str | Path,
    num: int,
    frames: int | None = None,
    every: int = DRIFT_EVERY,
    options: SampleOptions = SampleOptions(),
) -> None:
    """A GIF of a drift; or a picture with a row for each path, and `frames` columns (default 16) from frame 0 on."""
    out = as_path("out", out)
    if out.suffix.lower() in render.ANIMATIONS:
        _save_loop(list(drift(model, MAX_FRAMES if frames is None else frames, num, options, every)), out)
        return
    images = drift(model, INTERPOLATION_FRAMES if frames is None else frames, num, options, every)
    render.save_picture(render.strip(list(images), [str(frame) for frame in range(len(images))]), out)


# plans: what vary and inpaint ask of the sampler


class Leg(NamedTuple):
    """One run of the sampler from x, an image at times[0], down to timestep `end`.

    noise: what the sampler adds, if it adds any
    final: whether the image at `end` stays; False if this part is repeated
    """

    x: Tensor
    times: list[int]
    noise: Noise
    end: int = 0
    final: bool = True


# A plan yields legs, receives the image at the end of each, and returns the finished image. It calls no network itself,
# so a loop can run it (run_plan), and so can the live engine, which batches the network calls of many viewers.
Plan = Generator[Leg, Tensor, Tensor]


def run_plan(
    model: Model,
    plan: Plan,
    denoise: Denoise,
    options: SampleOptions,
    on_step: Callable[[Step], object] = lambda step: None,
) -> Tensor:
    """The finished image of a plan. on_step is called with every step of its final legs."""
    leg = next(plan)
    while True:
        for step in model.bind_sampler(options, leg.noise, leg.times)(denoise, x_T=leg.x):
            if leg.final:
                on_step(step)
            if step.t == leg.end:
                break
        try:
            leg = plan.send(step.x)
        except StopIteration as finished:
            image: Tensor = finished.value
            return image.cpu()


# around an image


def variation_plan(model: Model, image: Tensor, t: int, num: int, options: SampleOptions, first: int) -> Plan:
    """Add the noise of timestep t to an image, then denoise it from there (SDEdit, Meng et al. 2022)."""
    times = _variation_times(model, t, options)
    x_t = model.diffuse(image.expand(model.check_num(num), -1, -1, -1), t, options.seed, first)
    return (yield Leg(x_t, times, Noise(options.seed, first)))


def _variation_times(model: Model, t: int, options: SampleOptions) -> list[int]:
    """The timesteps from t to 0. UserError if t is out of range."""
    if not 1 <= t <= model.schedule.T:
        raise UserError(f"creativity is a timestep between 1 and T = {model.schedule.T}, not {t}")
    return model.times(min(model.resolve_sampling(options).steps, t), t)


def vary(
    model: Model,
    image: Tensor,
    t: int,
    num: int = 1,
    options: SampleOptions = SampleOptions(),
    first: int = RENOISE_OFFSET,
) -> Tensor:
    """`num` variations of an image, (num, C, H, W): noised to timestep t, and denoised again. See variation_plan.

    The noise hides all detail finer than itself, and the model generates that detail again. So t sets how much changes,
    from 1 (almost nothing) to T (everything).

    image:         (1, C, H, W), or (num, C, H, W) for a variation of each
    options.steps: steps from t to 0, at most t; heun, heun_line and midpoint make two network calls in each
    first:         number of the first variation, which determines its noise
    """
    denoise = model.denoiser_for(num, options, times=_variation_times(model, t, options))
    return run_plan(model, variation_plan(model, image, t, num, options, first), denoise, options)


def melt(
    model: Model,
    image: Tensor,
    t: int,
    frames: int = MAX_FRAMES,
    num: int = 1,
    options: SampleOptions = SampleOptions(),
    every: int = 0,
) -> Tensor:
    """An image that turns into others: (frames, num, C, H, W), each frame a variation of the one before.

    every: frames until a new sample of the seed, with a new label, replaces the image; 0 for never. Variations of
           variations lose contrast and variety, because every network errs a little, most of all a few-step model. New
           samples bound that. Frame j·every is that of a drift (see start_of).
    """
    if frames < 2:
        raise UserError(f"frames must be at least 2, not {frames}")
    every = as_int("every", every, 0, MAX_EVERY)
    images = [image.expand(num, -1, -1, -1)]
    for frame in range(1, frames):
        if every and frame % every == 0:
            images.append(drift_frame(model, frame, num, options, every))
        else:
            with_labels = with_labels_of(model, num, options, frame // every * num if every else 0)
            images.append(vary(model, images[-1], t, num, with_labels, RENOISE_OFFSET + frame * num))
    return torch.stack(images)


def write_variations(
    model: Model,
    out: str | Path,
    image: Tensor,
    num: int,
    creativity: Sequence[int] = (),
    frames: int | None = None,
    options: SampleOptions = SampleOptions(),
    every: int = 0,
) -> None:
    """A picture with a row for each timestep t, the image and then `num` variations; or a GIF of the image melting.

    creativity: timesteps t in 1…T; by default the first ones with the fractions of noise in CREATIVITY. A GIF needs
                exactly one.
    every:      of a GIF; see melt
    """
    out = as_path("out", out)
    if out.suffix.lower() in render.ANIMATIONS:
        if len(creativity) != 1:
            raise UserError(f"an animation needs exactly one creativity, not {len(creativity)}: `creativity=[T]`")
        length = MAX_FRAMES if frames is None else frames
        _save_loop(list(melt(model, image, creativity[0], length, num, options, every)), out)
        return
    if frames is not None or every:
        name = "every" if frames is None else "frames"
        raise UserError(
            f"`{name}` works for an animation only, and {out} is a picture: make `out` end in .gif or .webp"
        )
    alpha_bar = model.schedule.alpha_bar[:-1]
    times = creativity or sorted({int((alpha_bar > 1 - noise).sum()) for noise in CREATIVITY})
    rows = [torch.cat([image, vary(model, image, t, num, options)]) for t in times]
    picture = render.grid(torch.cat(rows), columns=1 + num)
    titles = ["image", *[""] * num]
    render.save_picture(render.labelled(picture, titles, [f"t = {t}" for t in times]), out)


# inside a hole in an image


def inpainting_plan(model: Model, image: Tensor, keep: Tensor, num: int, options: SampleOptions) -> Plan:
    """Sample with a denoiser that knows the pixels to keep, and repeat each step (RePaint, Lugmayr et al. 2022).

    One pass is not enough. x̂₀ is made to match the kept pixels, but the noise inside the hole is not, and it has
    decided much by then. So each step is repeated INPAINT_REPEATS times, adding the step's noise back in between, until
    the hole agrees. With an exact denoiser of two images that differ only in the hole, one pass finds the right image
    in 3 of 4 cases, ten repeats in 96 of 100.

    A masked model needs no repeats: the kept pixels are visible from the start, and the network sees them as they are.
    """
    if model.is_masked:
        x = torch.where(keep.to(model.device), model.fit(image).expand(model.check_num(num), -1, -1, -1), 0.0)
        times = model.times(model.resolve_sampling(options).steps)
        return (yield Leg(x, times, Noise(options.seed, RENOISE_OFFSET)))
    x = model.noise(num, options.seed, RENOISE_OFFSET)
    for t, s in pairwise(model.times(model.resolve_sampling(options).steps)):
        repeats = INPAINT_REPEATS if s else 1
        for repeat in range(repeats):
            seed = fold(options.seed, REPEAT, repeat) if repeat else options.seed  # new noise for each repeat
            if repeat:
                x = transition(x, s, t, Noise(fold(seed, ADDED_NOISE), RENOISE_OFFSET)(t, like=x), model.schedule)
            x = yield Leg(x, [t, s, 0] if s else [t, 0], Noise(seed, RENOISE_OFFSET), s, repeat == repeats - 1)
    return torch.where(keep.to(x.device), image.to(x), x)  # exact, where the sampler's arithmetic rounds


def inpaint(
    model: Model,
    image: Tensor,
    keep: Tensor,
    num: int = 1,
    options: SampleOptions = SampleOptions(),
    on_step: Callable[[Step], object] = lambda step: None,
) -> Tensor:
    """`num` images, (num, C, H, W), that equal `image`, (1, C, H, W), where `keep`, (H, W) bool, is True.

    on_step: called with every Step from noise to image
    """
    denoise = model.denoiser_for(num, options, times=model.times(model.resolve_sampling(options).steps))
    denoise = inpainted(denoise, model.fit(image), keep.to(model.device))
    return run_plan(model, inpainting_plan(model, image, keep, num, options), denoise, options, on_step)


def write_inpainting(
    model: Model, out: str | Path, image: Tensor, keep: Tensor, num: int, options: SampleOptions = SampleOptions()
) -> None:
    """A picture: the image, the image with the hole in grey, and `num` results; or a GIF from noise to the results."""
    out = as_path("out", out)
    if out.suffix.lower() in render.ANIMATIONS:
        steps: list[Step] = []
        inpaint(model, image, keep, num, options, steps.append)
        moments = history(iter(steps), model.noise(num, options.seed, RENOISE_OFFSET), model.schedule.T)
        render.save_animation([render.grid(moment.x, width=render.ANIMATION_WIDTH) for moment in moments], out)
        return
    hole = torch.where(keep, image, 0.0)
    row = [image, hole, *inpaint(model, image, keep, num, options).split(1)]
    render.save_picture(render.strip(row, ["image", "kept", *map(str, range(1, num + 1))]), out)


# files and the command line


def read_image(path: str | Path, spec: DataSpec) -> Tensor:
    """A picture file as an image (1, C, H, W) for the model. UserError if it is unreadable or has another size."""
    path = as_path("image", path)
    pixels = _pixels(path, spec, {1: "L", 3: "RGB", 4: "RGBA"}[spec.channels])
    image, _ = Arrays(path.name, pixels[None], np.zeros((1, 0)), ()).batch(torch.tensor([0]))
    return image


def read_mask(path: str | Path, spec: DataSpec) -> Tensor:
    """Which pixels to keep, (H, W) bool, from a picture that is white where the image is to be inpainted."""
    keep = torch.from_numpy(_pixels(as_path("mask", path), spec, "L")[:, :, 0] < 128)
    if keep.all():
        raise UserError(f"{path} has no white pixels: paint the part to inpaint white")
    return keep


def read_region(region: str, spec: DataSpec) -> Tensor:
    """Which pixels to keep, (H, W) bool: all outside "left,top,width,height". UserError if that is not in the image."""
    try:
        left, top, width, height = map(int, region.split(","))
    except ValueError:
        raise UserError(f"region {region!r} must be LEFT,TOP,WIDTH,HEIGHT in pixels, such as 16,0,16,32") from None
    if not (0 <= left < left + width <= spec.width and 0 <= top < top + height <= spec.height):
        raise UserError(f"region {region} must lie in the image, {spec.width} pixels wide and {spec.height} high")
    keep = torch.ones(spec.height, spec.width, dtype=torch.bool)
    keep[top : top + height, left : left + width] = False
    return keep


def explore(
    model: Model | str | Path,
    mode: ExploreMode,
    out: str | Path,
    num: int = 8,
    options: SampleOptions = SampleOptions(),
    *,
    to: int | None = None,
    frames: int | None = None,
    every: int | None = None,
    creativity: Sequence[int] = (),
    image: str | Path | None = None,
    region: str | None = None,
    mask: str | Path | None = None,
) -> None:
    """Write the picture or animation of a mode, in the format of the suffix of `out`. UserError for a foreign option.

    model:         a Model, or what `load` takes
    mode:          "interpolate", "drift", "vary" or "inpaint"
    to, frames, every, creativity:
                   see write_interpolation, write_drift and write_variations
    image:         for vary and inpaint; by default the first sample of options.seed
    region, mask:  see read_region and read_mask; by default the right half
    """
    out = as_path("out", out)
    render.check_ending(out)
    as_choice("mode", mode, get_args(ExploreMode))
    model = model if isinstance(model, Model) else load(model)
    foreign: dict[str, dict[str, object]] = {
        "interpolate": {
            "every": every,
            "creativity": creativity or None,
            "image": image,
            "region": region,
            "mask": mask,
        },
        "drift": {"to": to, "creativity": creativity or None, "image": image, "region": region, "mask": mask},
        "vary": {"to": to, "region": region, "mask": mask},
        "inpaint": {"to": to, "frames": frames, "every": every, "creativity": creativity or None},
    }
    for name, value in foreign[mode].items():
        if value is not None:
            others = " and ".join(m for m in foreign if name not in foreign[m])
            raise UserError(f"`{name}` does not apply to {mode}, only to {others}; leave it out")
    if mode == "interpolate":
        write_interpolation(model, out, num, INTERPOLATION_FRAMES if frames is None else frames, to, options)
        return
    if mode == "drift":
        write_drift(model, out, num, frames, DRIFT_EVERY if every is None else every, options)
        return
    x0 = model.sample(1, options) if image is None else read_image(image, model.spec)
    if options.label == "any" and not (
        every and image is None
    ):  # a variation of a sample keeps its label; the label of a picture file is unknown
        vectors = model.label_vectors("any", 1, options.seed) if image is None else None
        options = replace(options, label=None if vectors is None else vectors[0].tolist())
    if mode == "vary":
        write_variations(model, out, x0, num, creativity, frames, options, every or 0)
        return
    if region and mask:
        raise UserError("`region` and `mask` both mark the part to inpaint; leave one out")
    half = model.spec.width // 2
    region = region or f"{half},0,{model.spec.width - half},{model.spec.height}"
    keep = read_mask(mask, model.spec) if mask else read_region(region, model.spec)
    write_inpainting(model, out, x0, keep, num, options)


def _pixels(path: Path, spec: DataSpec, mode: str) -> np.ndarray:
    """A picture file of the spec's size as (H, W, C) uint8; transparent pixels become white unless mode is RGBA."""
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as file:
            check_picture(file, path)
            if file.size != (spec.width, spec.height):
                raise UserError(
                    f"{path} is {file.width} pixels wide and {file.height} high, "
                    f"but the model's images are {spec.width} wide and {spec.height} high: resize it"
                )
            if file.mode.startswith(("I", "F")):  # Pillow would clip everything above 255
                raise ValueError("it has more than 8 bits per channel; save it with 8")
            picture = file.convert("RGBA")
    except UserError:
        raise
    except Exception as error:  # decoders raise errors of nearly every kind for broken bytes
        raise UserError(f"cannot read the picture {path}: {getattr(error, 'strerror', None) or error}") from None
    if mode != "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(mode)
    return np.asarray(picture).reshape(spec.height, spec.width, -1)


def _save_loop(frames: Sequence[Tensor], out: Path) -> None:
    """Write grids of images (num, C, H, W) as an animation that loops without a pause."""
    pictures = [render.grid(frame, width=render.ANIMATION_WIDTH) for frame in frames]
    render.save_animation(pictures, out, FRAME_MS, hold_ms=FRAME_MS)
