"""Wander through what a model has learnt: between two dreams, around an image, or into a hole in one.

    interpolate   from the noise of one seed to that of another, and so from dream to dream
    vary, melt    noise goes into an image up to time t, and is taken out again: the image, but different
    inpaint       a part of an image is dreamt anew, to go with the rest

Images come back on the CPU, in [−1, 1]. All that is random follows from way.seed. UserError for a value that makes no
sense.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..common.errors import UserError
from ..common.names import ExploreMode
from ..common.noise import Noise, fold
from ..data.arrays import Arrays
from ..data.spec import DataSpec
from ..diffusion.denoiser import inpainted
from ..diffusion.process import diffuse, transition
from ..diffusion.samplers import Step, sample
from ..models.model import Model
from . import render
from .figures import FRAMES, Way, history

INTERPOLATION_FRAMES = 16
CREATIVITY = (0.5, 0.8, 0.9, 0.95, 0.98)  # share of the noise in the variance of x_t: 1 − ᾱ_t
FRAME_MS = 80
# What is dreamt again takes the noise of images from this number on, which no dream of the same seed began as: with the
# very noise that an image came from, little about it would change.
ANEW = 2**31
REPEATS = 10  # of a step of inpainting
REPEAT, AGAIN = 0x2EBEA7, 0xA6A12  # what a seed is folded with, for a repeat and for the noise that is put back


# between two dreams


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """From a (share 0) to b (share 1), each image (B, C, H, W) along the great circle that joins the two.

    Shoemake 1985. Noise of many pixels lies on a sphere, |x|² ≈ its number of pixels, and on the circle stays there. On
    the straight line it would not: of independent a and b, |(a + b) / 2|² is half of that, and a network has never seen
    so weak a noise at time T. Images that point the same way, whose circle is a point, or opposite ways, which many
    circles join, go along the straight line.
    """
    cosine = F.cosine_similarity(a.flatten(1), b.flatten(1)).clamp(-1, 1)
    angle = cosine.acos().view(-1, 1, 1, 1)
    curved = angle.sin() > 1e-3
    from_a, from_b = (torch.where(curved, torch.sin(part * angle) / angle.sin(), part) for part in (1 - share, share))
    return from_a * a + from_b * b


class Between(Noise):
    """The noise of one seed (share 0), of another (share 1), or on the circle that joins the two, at every step."""

    def __init__(self, seed: int, to: int, share: float) -> None:
        super().__init__(seed)
        self.to, self.share = Noise(to), share

    def __call__(self, step: int, like: Tensor) -> Tensor:
        return slerp(super().__call__(step, like), self.to(step, like), self.share)


def interpolate(
    model: Model, num: int = 1, frames: int = INTERPOLATION_FRAMES, to: int = 1, way: Way = Way()
) -> Tensor:
    """`num` ways from the dreams of way.seed to those of the seed `to`: (frames, num, C, H, W), both ends included.

    All noise goes from the one seed to the other: where a way begins, and what ddpm, or ddim with an eta, adds on it,
    which may decide more. The labels are those of way.seed in every frame, where way.label is "any": the last frame
    then is of other labels than the dreams of `to`.
    """
    if frames < 2:
        raise UserError(f"frames must be at least 2, not {frames}")
    x = model.noise(num, way.seed)
    model.noise(num, to)  # refuses a seed that cannot be
    denoise = model.denoiser_for(num, way.label, way.guidance, way.seed)
    images = []
    for frame in range(frames):
        noise = Between(way.seed, to, frame / (frames - 1))
        images.append(sample(model.walk(denoise, noise(0, like=x), way.sampler, way.steps, way.eta, noise)).cpu())
    return torch.stack(images)


def write_interpolation(
    model: Model, out: Path, num: int, frames: int = INTERPOLATION_FRAMES, to: int | None = None, way: Way = Way()
) -> None:
    """A picture with a row for each of `num` ways to the next seed or the seed `to`; or a GIF that goes and returns."""
    to = way.seed + 1 if to is None else to
    images = interpolate(model, num, frames, to, way)
    if out.suffix in render.ANIMATIONS:
        _save_loop([*images, *images[1:-1].flip(0)], out)
        return
    titles = [f"seed {way.seed}", *[""] * (frames - 2), f"seed {to}"]
    render.save_picture(render.strip(list(images), titles), out)


# around an image


def vary(model: Model, image: Tensor, t: int, num: int = 1, way: Way = Way(), first: int = ANEW) -> Tensor:
    """`num` variations of an image, (num, C, H, W): it is given the noise of time t, and denoised from there.

    SDEdit (Meng et al. 2022). The noise drowns what is finer than itself, and the model makes that up anew: t says how
    much of the image is forgotten, from 1 (almost nothing) to T (all of it).

    image:      (1, C, H, W), or (num, C, H, W) for a variation of each
    way.steps:  below t, at most t
    first:      number of the first variation, which decides its noise
    """
    if not 1 <= t <= model.schedule.T:
        raise UserError(f"creativity is a time between 1 and T = {model.schedule.T}, not {t}")
    steps = model.chosen(way.sampler, way.steps, way.eta).steps
    eps = model.noise(num, way.seed, first)
    x_t = diffuse(image.to(eps), t, eps, model.schedule)
    denoise, times = model.denoiser_for(num, way.label, way.guidance, way.seed), model.times(min(steps, t), t)
    return sample(model.walk(denoise, x_t, way.sampler, times, way.eta, Noise(way.seed, first))).cpu()


def melt(model: Model, image: Tensor, t: int, frames: int = FRAMES, num: int = 1, way: Way = Way()) -> Tensor:
    """An image that melts into others, `num` times: (frames, num, C, H, W), each frame varied from the one before."""
    if frames < 2:
        raise UserError(f"frames must be at least 2, not {frames}")
    images = [image.expand(num, -1, -1, -1)]
    for frame in range(1, frames):
        images.append(vary(model, images[-1], t, num, way, ANEW + frame * num))
    return torch.stack(images)


def write_variations(
    model: Model,
    out: Path,
    image: Tensor,
    num: int,
    creativity: Sequence[int] = (),
    frames: int | None = None,
    way: Way = Way(),
) -> None:
    """A picture with a row for each t, the image first and then `num` variations; or a GIF of the image melting.

    creativity: times t in 1…T; without any, the first times with the noise of CREATIVITY. A GIF needs exactly one.
    """
    if out.suffix in render.ANIMATIONS:
        if len(creativity) != 1:
            raise UserError(f"an animation needs exactly one creativity, not {len(creativity)}: --creativity T")
        _save_loop(list(melt(model, image, creativity[0], FRAMES if frames is None else frames, num, way)), out)
        return
    if frames is not None:
        raise UserError(f"frames belong to an animation, and {out} is a picture: let --out end in .gif or .webp")
    alpha_bar = model.schedule.alpha_bar[:-1]
    times = creativity or sorted({int((alpha_bar > 1 - noise).sum()) for noise in CREATIVITY})
    rows = [torch.cat([image, vary(model, image, t, num, way)]) for t in times]
    picture = render.grid(torch.cat(rows), columns=1 + num)
    titles = ["image", *[""] * num]
    render.save_picture(render.labelled(picture, titles, [f"t = {t}" for t in times]), out)


# a hole in an image


def inpainting(model: Model, image: Tensor, keep: Tensor, num: int = 1, way: Way = Way()) -> Iterator[Step]:
    """Every step of dreaming `num` images that are `image`, (1, C, H, W), where `keep`, (H, W) bool, is True.

    Going down once is not enough: x̂₀ is made to agree with what is kept, but the noise in the hole, which has decided
    much of it by then, is not. So each step is walked REPEATS times, with the step's noise put back in between, and
    the hole comes to agree (RePaint, Lugmayr et al. 2022). Of an exact denoiser of two images that differ in the hole,
    once down finds the right one in three cases of four, ten times down in 96 of 100.
    """
    denoise = inpainted(
        model.denoiser_for(num, way.label, way.guidance, way.seed), image.to(model.device), keep.to(model.device)
    )
    x = model.noise(num, way.seed, ANEW)
    for t, s in pairwise(model.times(model.chosen(way.sampler, way.steps, way.eta).steps)):
        for repeat in range(REPEATS if s else 1):
            seed = fold(way.seed, REPEAT, repeat) if repeat else way.seed  # each time with noise of its own
            if repeat:
                x = transition(x, s, t, Noise(fold(seed, AGAIN), ANEW)(t, like=x), model.schedule)
            step = next(model.walk(denoise, x, way.sampler, [t, s, 0] if s else [t, 0], way.eta, Noise(seed, ANEW)))
            x = step.x
        yield step


def inpaint(model: Model, image: Tensor, keep: Tensor, num: int = 1, way: Way = Way()) -> Tensor:
    """`num` images, (num, C, H, W), that are exactly `image`, (1, C, H, W), where `keep`, (H, W) bool, is True."""
    dreamt = sample(inpainting(model, image, keep, num, way)).cpu()
    return torch.where(keep, image, dreamt)  # as the samplers' arithmetic rounds


def write_inpainting(model: Model, out: Path, image: Tensor, keep: Tensor, num: int, way: Way = Way()) -> None:
    """A picture: the image, the image with grey for what is to be dreamt, and `num` results; or a GIF of the dream."""
    if out.suffix in render.ANIMATIONS:
        x_T = model.noise(num, way.seed, ANEW)
        moments = history(inpainting(model, image, keep, num, way), x_T, model.schedule.T)
        render.save_animation([render.grid(moment.x, width=render.ANIMATION_WIDTH) for moment in moments], out)
        return
    hole = torch.where(keep, image, 0.0)
    row = [image, hole, *inpaint(model, image, keep, num, way).split(1)]
    render.save_picture(render.strip(row, ["image", "kept", *map(str, range(1, num + 1))]), out)


# files and words


def read_image(path: Path, spec: DataSpec) -> Tensor:
    """A picture file as the model's images are: (1, C, H, W). UserError if it cannot be read or has another size."""
    pixels = _pixels(path, spec, {1: "L", 3: "RGB", 4: "RGBA"}[spec.channels])
    image, _ = Arrays(path.name, pixels[None], np.zeros((1, 0)), ()).batch(torch.tensor([0]))
    return image


def read_mask(path: Path, spec: DataSpec) -> Tensor:
    """Which pixels to keep, (H, W) bool, from a picture that is white where the image is to be dreamt anew."""
    keep = torch.from_numpy(_pixels(path, spec, "L")[:, :, 0] < 128)
    if keep.all():
        raise UserError(f"{path} has no white pixels, which say what to dream anew")
    return keep


def read_region(region: str, spec: DataSpec) -> Tensor:
    """Which pixels to keep, (H, W) bool: all outside "left,top,width,height". UserError if it is not in the image."""
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
    model: Model,
    mode: ExploreMode,
    out: Path,
    num: int = 8,
    way: Way = Way(),
    *,
    to: int | None = None,
    frames: int | None = None,
    creativity: Sequence[int] = (),
    image: Path | None = None,
    region: str | None = None,
    mask: Path | None = None,
) -> None:
    """Write the picture or animation of a mode, by the ending of `out`. UserError for options of another mode.

    image:         for vary and inpaint; without one, the first dream of way.seed
    region, mask:  see read_region and read_mask; without either, the right half
    """
    render.check_ending(out)
    of_other_modes: dict[str, dict[str, object]] = {
        "interpolate": {"creativity": creativity or None, "image": image, "region": region, "mask": mask},
        "vary": {"to": to, "region": region, "mask": mask},
        "inpaint": {"to": to, "frames": frames, "creativity": creativity or None},
    }
    for name, value in of_other_modes[mode].items():
        if value is not None:
            raise UserError(f"--{name} says nothing to {mode}; leave it out")
    if mode == "interpolate":
        write_interpolation(model, out, num, INTERPOLATION_FRAMES if frames is None else frames, to, way)
        return
    x0 = model.sample(1, **way._asdict()) if image is None else read_image(image, model.spec)
    if way.label == "any":  # what comes of an image keeps its label; that of a picture file is not known
        vectors = model.label_vectors("any", 1, way.seed) if image is None else None
        way = way._replace(label=None if vectors is None else vectors[0].tolist())
    if mode == "vary":
        write_variations(model, out, x0, num, creativity, frames, way)
        return
    if region and mask:
        raise UserError("--region and --mask both say what to dream anew; leave one out")
    half = model.spec.width // 2
    region = region or f"{half},0,{model.spec.width - half},{model.spec.height}"
    keep = read_mask(mask, model.spec) if mask else read_region(region, model.spec)
    write_inpainting(model, out, x0, keep, num, way)


def _pixels(path: Path, spec: DataSpec, mode: str) -> np.ndarray:
    """A picture file of the spec's size as (H, W, C) uint8; but for the mode RGBA it is laid on white."""
    try:
        with Image.open(path) as file:
            if file.mode.startswith(("I", "F")):  # Pillow would cut off all that is above 255
                raise ValueError("it has more than 8 bits a pixel and channel")
            picture = file.convert("RGBA")
    except Exception as error:  # decoders meet broken bytes with errors of nearly every kind
        raise UserError(f"cannot read the picture {path}: {getattr(error, 'strerror', None) or error}") from None
    if picture.size != (spec.width, spec.height):
        raise UserError(
            f"{path} is {picture.width} pixels wide and {picture.height} high, "
            f"and must be as the model's images are: {spec.width} wide and {spec.height} high"
        )
    if mode != "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(mode)
    return np.asarray(picture).reshape(spec.height, spec.width, -1)


def _save_loop(frames: Sequence[Tensor], out: Path) -> None:
    """Write grids of images (num, C, H, W) as an animation that never rests."""
    pictures = [render.grid(frame, width=render.ANIMATION_WIDTH) for frame in frames]
    render.save_animation(pictures, out, FRAME_MS, hold_ms=FRAME_MS)
