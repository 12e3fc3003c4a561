"""Between dreams, around an image and into a hole in one, by exact denoisers and by a small trained model."""

import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

import shapedreamer as sd
from shapedreamer.cli import explore as cli
from shapedreamer.common.errors import UserError
from shapedreamer.common.names import ExploreMode, SamplerName
from shapedreamer.common.noise import Noise
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion import oracle, process
from shapedreamer.diffusion.denoiser import Denoise
from shapedreamer.diffusion.process import diffuse
from shapedreamer.diffusion.samplers import SAMPLERS, sample
from shapedreamer.diffusion.schedule import Schedule, cosine, linear, step_times
from shapedreamer.imaging import render
from shapedreamer.imaging.explore import (
    ANEW,
    Between,
    explore,
    inpaint,
    inpainting,
    interpolate,
    melt,
    read_image,
    read_mask,
    read_region,
    slerp,
    vary,
    write_variations,
)
from shapedreamer.imaging.figures import Way
from shapedreamer.models.model import Model
from shapedreamer.training.loop import train
from tests.tiny import FALLING

SCHEDULE = cosine(100)
THREE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
LEFT = torch.arange(8).expand(8, 8) < 4
NO_LIMIT = DataSpec("numbers", 1, 8, 8, (), low=-1e9, high=1e9)
BLACK_AND_WHITE = DataSpec("three", 1, 8, 8, ())
BLACK = Path("black.png")


class Exact(nn.Module):
    """A network that predicts what an exact denoiser knows."""

    def __init__(self, denoise: Denoise) -> None:
        super().__init__()
        self.denoise, self.anything = denoise, nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.denoise(x, t)


GAUSSIAN = Model(Exact(oracle.gaussian(0.0, 1.0, SCHEDULE)), SCHEDULE, "x0", NO_LIMIT)
MEMORY = Model(Exact(oracle.finite_data(THREE, SCHEDULE)), SCHEDULE, "x0", BLACK_AND_WHITE)


def shrinkage(times: list[int]) -> float:
    """What ddim multiplies an image by on its way, with the denoiser of N(0, 1): a cosine each step."""
    angles = SCHEDULE.alpha_bar[times].sqrt().acos()
    return (angles[:-1] - angles[1:]).cos().prod().item()


# slerp


@pytest.fixture
def ends() -> tuple[Tensor, Tensor]:
    a, b = GAUSSIAN.noise(6, seed=1), GAUSSIAN.noise(6, seed=2)
    return a, b / b.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * a.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def test_slerp_begins_and_ends_exactly_and_keeps_the_norm(ends: tuple[Tensor, Tensor]) -> None:
    a, b = ends
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)
    for share in (0.1, 0.5, 0.77):
        assert_close(slerp(a, b, share).flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))


def test_slerp_turns_evenly_in_the_plane_of_the_two(ends: tuple[Tensor, Tensor]) -> None:
    a, b = (x.flatten(1).double() for x in ends)
    angle = torch.nn.functional.cosine_similarity(a, b).acos()
    for share in (0.25, 0.6):
        x = slerp(*ends, share).flatten(1).double()
        assert_close(torch.nn.functional.cosine_similarity(a, x).acos(), share * angle, atol=1e-4, rtol=0)
        assert_close(torch.nn.functional.cosine_similarity(x, b).acos(), (1 - share) * angle, atol=1e-4, rtol=0)


def test_halfway_noise_is_noise_by_the_circle_and_half_of_it_by_the_line() -> None:
    a, b = GAUSSIAN.noise(400, seed=3), GAUSSIAN.noise(400, seed=4)
    assert slerp(a, b, 0.5).square().mean().item() == pytest.approx(1, abs=0.02)
    assert ((a + b) / 2).square().mean().item() == pytest.approx(0.5, abs=0.02)


def test_images_without_a_circle_go_along_the_line_and_do_not_disturb_the_others(ends: tuple[Tensor, Tensor]) -> None:
    a, b = ends
    b = torch.stack([a[0], 2 * a[1], -a[2], *b[3:]])
    x = slerp(a, b, 0.25)
    assert_close(x[:3], torch.stack([a[0], 1.25 * a[1], 0.5 * a[2]]))
    assert_close(x[3:], slerp(a[3:], b[3:], 0.25))


# interpolate


def test_an_interpolation_goes_from_dream_to_dream(model: Model) -> None:
    way = Way(steps=5, seed=1)
    images = interpolate(model, 3, 4, 7, way)
    assert images.shape == (4, 3, 1, 32, 32)
    assert torch.equal(images[0], model.sample(3, steps=5, seed=1))
    assert torch.equal(images[-1], model.sample(3, steps=5, seed=7))


def test_what_lies_between_comes_from_the_circle_between_the_noises() -> None:
    """With the denoiser of N(0, 1) a dream is its noise, but smaller."""
    a, b = GAUSSIAN.noise(2, seed=1), GAUSSIAN.noise(2, seed=2)
    images = interpolate(GAUSSIAN, 2, 5, 2, Way(steps=10, seed=1))
    scale = shrinkage(step_times(100, 10))
    for i, image in enumerate(images):
        assert_close(image, scale * slerp(a, b, i / 4))


@pytest.mark.parametrize("how", [{"sampler": "ddpm"}, {"sampler": "ddim", "eta": 1.0}])
def test_the_noise_added_on_the_way_goes_from_seed_to_seed_too(model: Model, how: dict[str, Any]) -> None:
    """Else both ends would be much the same image, as that noise decides more than where the way began."""
    way = Way(**how, steps=5, seed=1)
    images = interpolate(model, 3, 3, 7, way)
    assert_close(images[0], model.sample(3, **how, steps=5, seed=1))
    assert_close(images[-1], model.sample(3, **how, steps=5, seed=7))
    assert not torch.equal(images[1], images[0])
    noise, like = Between(1, 7, 0.25), torch.zeros(2, 1, 4, 4)
    assert torch.equal(noise(30, like), slerp(Noise(1)(30, like), Noise(7)(30, like), 0.25))


# vary and melt


@pytest.mark.parametrize(("t", "steps"), [(1, 20), (30, 7), (100, 10), (5, 5), (5, 99)])
def test_a_variation_is_the_image_with_the_noise_of_t_denoised_from_t(t: int, steps: int) -> None:
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    x_t = diffuse(image, t, GAUSSIAN.noise(3, 4, ANEW), SCHEDULE)
    scale = shrinkage(step_times(t, min(steps, t)))
    assert_close(vary(GAUSSIAN, image, t, 3, Way(steps=steps, seed=4)), scale * x_t)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_little_noise_leaves_the_image_and_all_noise_forgets_it(sampler: SamplerName) -> None:
    way = Way(sampler, steps=10, seed=5)
    image = MEMORY.sample(1, *way[:4])
    assert min((image - one).abs().max() for one in THREE) < 1e-3
    assert_close(vary(MEMORY, image, 20, 4, way), image.expand(4, -1, -1, -1), atol=1e-3, rtol=0)
    far = vary(MEMORY, image, 100, 40, way)
    distance = (far[:, None] - THREE).abs().flatten(2).amax(2)
    assert distance.amin(1).max() < 1e-3  # each is one of the three
    assert set(distance.argmin(1).tolist()) == {0, 1, 2}


def test_variations_of_several_images_go_with_their_images() -> None:
    assert_close(vary(MEMORY, THREE, 20, 3, Way(steps=5)), THREE, atol=1e-3, rtol=0)


def test_a_melting_image_is_varied_again_and_again_with_new_noise() -> None:
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    way = Way(steps=4, seed=6)
    frames = melt(GAUSSIAN, image, 40, 4, 2, way)
    assert frames.shape == (4, 2, 1, 8, 8)
    assert torch.equal(frames[0], image.expand(2, -1, -1, -1))
    alpha, sigma = (part.item() for part in SCHEDULE.alpha_sigma(40, like=image))
    scale = shrinkage(step_times(40, 4))
    noises = [(after / scale - alpha * before) / sigma for before, after in pairwise(frames)]
    every = torch.cat(noises).flatten(1)
    assert (every @ every.T / 64 - torch.eye(6)).abs().max() < 0.6  # six independent noises of 64 numbers


# inpaint


TWO = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
PAIR = Model(Exact(oracle.finite_data(TWO, SCHEDULE)), SCHEDULE, "x0", BLACK_AND_WHITE)


def gone_wrong(images: Tensor, image: Tensor) -> float:
    return ((images - image).abs().amax((1, 2, 3)) > 1e-3).double().mean().item()


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_the_rest_is_dreamt_to_go_with_what_is_kept(sampler: SamplerName) -> None:
    for image in TWO[:, None]:
        hidden = torch.where(LEFT, image, 0.3)  # what stands in the hole must not matter
        images = inpaint(PAIR, hidden, LEFT, 100, Way(sampler, steps=10))
        assert gone_wrong(images, image) < 0.05


def test_going_down_once_as_others_do_often_ends_in_the_wrong_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[inpaint.__module__], "REPEATS", 1)
    assert gone_wrong(inpaint(PAIR, TWO[:1], LEFT, 100, Way(steps=10)), TWO[:1]) > 0.1


def test_every_repeat_of_a_step_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    put_back: list[Tensor] = []
    walk, transition = Model.walk, process.transition

    def spy_walk(self: Model, *args: Any) -> Any:
        seeds.append(args[5].seed)
        return walk(self, *args)

    def spy_transition(x: Tensor, s: int, t: int, eps: Tensor, schedule: Schedule) -> Tensor:
        put_back.append(eps)
        return transition(x, s, t, eps, schedule)

    monkeypatch.setattr(Model, "walk", spy_walk)
    monkeypatch.setattr(sys.modules[inpaint.__module__], "transition", spy_transition)
    sample(inpainting(PAIR, TWO[:1], LEFT, 30, Way("ddpm", steps=4)))
    assert len(seeds) == 3 * 10 + 1
    assert len(set(seeds)) == 10  # the same for every step, which Noise tells apart by its time
    assert len(put_back) == 3 * 9
    agreement = torch.stack(put_back).flatten(1).corrcoef() - torch.eye(27)
    assert agreement.abs().max() < 0.1


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_what_is_kept_is_kept_to_the_last_bit(model: Model, sampler: SamplerName) -> None:
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    keep = read_region("5,7,20,3", model.spec)
    images = inpaint(model, image, keep, 3, Way(sampler, steps=6))
    assert torch.equal(images[..., keep], image[..., keep].expand(3, -1, -1))
    assert not torch.equal(images[0][..., ~keep], images[1][..., ~keep])


def test_the_dream_of_a_hole_begins_in_noise_that_no_dream_of_the_seed_has() -> None:
    nothing_kept = torch.zeros(8, 8, dtype=torch.bool)
    *_, last = inpainting(GAUSSIAN, torch.zeros(1, 1, 8, 8), nothing_kept, 2, Way(steps=1, seed=1))
    assert_close(last.x, shrinkage([100, 0]) * GAUSSIAN.noise(2, 1, ANEW), atol=1e-6, rtol=0)
    assert not torch.equal(GAUSSIAN.noise(2, 1, ANEW), GAUSSIAN.noise(2, 1))


# files and words


def spec(channels: int) -> DataSpec:
    return DataSpec("pictures", channels, 4, 6, ())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_file_comes_in_as_it_is(tmp_path: Path, channels: int) -> None:
    images = torch.randint(0, 256, (1, channels, 4, 6), generator=torch.Generator().manual_seed(2)) / 127.5 - 1
    render.save_picture(Image.fromarray(render.to_uint8(images)[0].squeeze()), tmp_path / "a.png")
    assert_close(read_image(tmp_path / "a.png", spec(channels)), images)


def test_a_picture_is_converted_to_the_channels_of_the_model(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 4), np.uint8)
    pixels[0] = (255, 0, 0, 255)
    pixels[1] = (0, 255, 0, 0)  # transparent
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", spec(3))[0, :, :2, 0].T.tolist() == [[1, -1, -1], [1, 1, 1]]
    assert read_image(tmp_path / "a.png", spec(4))[0, :, :2, 0].T.tolist() == [[1, -1, -1, 1], [-1, 1, -1, -1]]
    red, white = read_image(tmp_path / "a.png", spec(1))[0, 0, :2, 0].tolist()
    assert (red + 1) * 127.5 == pytest.approx(0.299 * 255, abs=0.5)
    assert white == 1
    Image.new("L", (6, 4), 200).save(tmp_path / "grey.png")
    assert_close(read_image(tmp_path / "grey.png", spec(3)), torch.full((1, 3, 4, 6), 200 / 127.5 - 1))


def test_white_in_a_mask_is_dreamt_anew(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1, 2:5] = 255
    pixels[3, 0], pixels[3, 1] = 128, 127
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    keep = read_mask(tmp_path / "mask.png", spec(3))
    assert keep.dtype == torch.bool
    assert keep.logical_not().nonzero().tolist() == [[1, 2], [1, 3], [1, 4], [3, 0]]


def test_a_region_is_dreamt_anew() -> None:
    assert read_region("1,2,4,1", spec(1)).logical_not().nonzero().tolist() == [[2, 1], [2, 2], [2, 3], [2, 4]]
    assert not read_region("0,0,6,4", spec(1)).any()


@pytest.mark.parametrize(
    "region", ["1,2,3", "a,0,1,1", "", "0,0,0,1", "0,0,1,0", "-1,0,2,2", "0,-1,2,2", "3,0,4,1", "0,3,1,2", "0,0,1,1,1"]
)
def test_a_region_that_is_none_is_named(region: str) -> None:
    with pytest.raises(UserError, match=f"region .*{region}"):
        read_region(region, spec(1))


def test_pictures_that_cannot_be_taken_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (6, 4)).save(tmp_path / "whole.png")
    Image.effect_noise((6, 4), 50).save(tmp_path / "noise.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "noise.png").read_bytes()[:50])
    Image.new("RGB", (4, 6)).save(tmp_path / "turned.png")
    Image.new("I;16", (6, 4)).save(tmp_path / "deep.png")
    for name, says in (
        ("none.png", "none.png: No such file"),
        ("text.png", "text.png: cannot identify"),
        ("cut.png", "cannot read the picture .*cut.png: "),
        ("turned.png", "turned.png is 4 pixels wide and 6 high, .* 6 wide and 4 high"),
        ("deep.png", "deep.png: it has more than 8 bits"),
    ):
        for read in (read_image, read_mask):
            with pytest.raises(UserError, match=says):
                read(tmp_path / name, spec(1))
    with pytest.raises(UserError, match=r"whole\.png has no white pixels"):
        read_mask(tmp_path / "whole.png", spec(1))


# the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explore") / "run"
    train(replace(FALLING, epochs=2), out, sample_every=0, save_every=0)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return sd.load(run)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def command(*words: object) -> None:
    tyro.cli(cli.run, args=list(map(str, words)), config=(tyro.conf.FlagCreatePairsOff,))


def tiles(path: str, rows: int, columns: int, top: int = 0, left: int = 0) -> np.ndarray:
    """The 32x32 images of a grid below and right of its titles: (rows, columns, 32, 32) uint8."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))[top:, left:]
    side = pixels.shape[1] // columns
    scale = (side - 2 * render.MARGIN) // 32
    assert pixels.shape == (rows * side, columns * side)
    each = pixels.reshape(rows, side, columns, side).swapaxes(1, 2)
    return each[:, :, render.MARGIN : -render.MARGIN : scale, render.MARGIN : -render.MARGIN : scale]


def eight_bits(images: Tensor) -> np.ndarray:
    return render.to_uint8(images)[..., 0]


@pytest.mark.usefixtures("elsewhere")
def test_interpolate_writes_a_row_for_each_way(run: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    command(run, "interpolate", "--num", 2, "--steps", 3, "--seed", 4, "--frames", 5)
    assert capsys.readouterr().out == "interpolate.png\n"
    images = tiles("interpolate.png", rows=2, columns=5, top=18)
    shown = interpolate(model, 2, 5, 5, Way(steps=3, seed=4))  # to the next seed
    for way in range(2):
        assert (images[way] == eight_bits(shown[:, way])).all()
    command(run, "interpolate", "--num", 2, "--steps", 3, "--seed", 4, "--to", 0)
    images = tiles("interpolate.png", rows=2, columns=16, top=18)
    assert (images[:, -1] == eight_bits(model.sample(2, steps=3, seed=0))).all()


@pytest.mark.usefixtures("elsewhere")
def test_an_interpolation_goes_there_and_back_without_a_rest(run: Path) -> None:
    command(run, "interpolate", "--num", 1, "--steps", 3, "--frames", 4, "--out", "a.webp")
    shown, durations = [], set()
    with Image.open("a.webp") as movie:
        for i in range(movie.n_frames):
            movie.seek(i)
            shown.append(movie.convert("L").tobytes())
            durations.add(movie.info["duration"])
    assert len(shown) == 6
    assert len(set(shown)) == 4
    assert (shown[5], shown[4]) == (shown[1], shown[2])
    assert len(durations) == 1


@pytest.mark.usefixtures("elsewhere")
def test_vary_writes_a_row_for_each_creativity(run: Path, model: Model) -> None:
    command(run, "vary", "--num", 2, "--steps", 3, "--seed", 4, "--creativity", 50, 7)
    images = tiles("vary.png", rows=2, columns=3, top=18, left=18)
    way = Way(steps=3, seed=4)
    dream = model.sample(1, steps=3, seed=4)
    for row, t in enumerate((50, 7)):
        assert (images[row, :1] == eight_bits(dream)).all()
        assert (images[row, 1:] == eight_bits(vary(model, dream, t, 2, way))).all()
    command(run, "vary", "--num", 1, "--steps", 2)
    tiles("vary.png", rows=5, columns=2, top=18, left=18)  # 5, 10, 20, 30 and 50 % of T


@pytest.mark.usefixtures("elsewhere")
def test_vary_takes_a_picture_and_melts_it(run: Path) -> None:
    Image.new("RGB", (32, 32), "white").save("white.jpg")
    command(run, "vary", "--num", 1, "--creativity", 1, "--image", "white.jpg")
    assert (tiles("vary.png", rows=1, columns=2, top=18, left=18)[0, 0] == 255).all()
    command(run, "vary", "--num", 2, "--steps", 2, "--creativity", 25, "--frames", 4, "--out", "melt.gif")
    with Image.open("melt.gif") as movie:
        assert movie.n_frames == 4
        assert movie.size[0] > movie.size[1]  # two images


@pytest.mark.usefixtures("elsewhere")
def test_inpaint_shows_the_image_the_hole_and_what_fills_it(run: Path, model: Model) -> None:
    command(run, "inpaint", "--num", 2, "--steps", 3, "--seed", 4)
    way = Way(steps=3, seed=4)
    dream = model.sample(1, steps=3, seed=4)
    image, hole, *results = tiles("inpaint.png", rows=1, columns=4, top=18)[0]
    assert (image == eight_bits(dream)).all()
    assert (hole[:, :16] == image[:, :16]).all()
    assert (hole[:, 16:] == 128).all()
    assert (np.stack(results) == eight_bits(inpaint(model, dream, read_region("16,0,16,32", model.spec), 2, way))).all()
    Image.new("L", (32, 32), "white").save("all.png")
    command(run, "inpaint", "--num", 1, "--steps", 3, "--mask", "all.png", "--image", "all.png", "--out", "b.png")
    assert (tiles("b.png", rows=1, columns=3, top=18)[0, 1] == 128).all()
    command(run, "inpaint", "--num", 2, "--steps", 3, "--region", "0,0,32,4", "--out", "a.gif")
    with Image.open("a.gif") as movie:
        assert movie.n_frames == 4


@pytest.mark.parametrize("schedule", [linear(1000), cosine(1000), cosine(3)], ids=["linear", "cosine", "short"])
def test_by_itself_vary_takes_the_first_times_that_hold_so_much_noise(
    monkeypatch: pytest.MonkeyPatch, schedule: Schedule
) -> None:
    titles: list[str] = []

    def spy(picture: Image.Image, columns: list[str], rows: list[str]) -> Image.Image:
        titles.extend(rows)
        return picture

    monkeypatch.setattr(render, "labelled", spy)
    monkeypatch.setattr(render, "save_picture", lambda picture, out: None)
    model = Model(Exact(oracle.gaussian(0.0, 1.0, schedule)), schedule, "x0", NO_LIMIT)
    write_variations(model, Path("a.png"), torch.zeros(1, 1, 8, 8), 1, way=Way(steps=1))
    times = [int(title.removeprefix("t = ")) for title in titles]
    assert sorted(set(times)) == times
    for t, noise in zip(times, (0.5, 0.8, 0.9, 0.95, 0.98), strict=True) if schedule.T == 1000 else ():
        assert 1 - schedule.alpha_bar[t].item() >= noise > 1 - schedule.alpha_bar[t - 1].item()
    assert 1 <= times[0] <= times[-1] <= schedule.T


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("mode", "options", "says"),
    [
        ("interpolate", {"frames": 1}, "frames must be at least 2, not 1"),
        ("interpolate", {"to": -1}, "seed must be between 0"),
        ("interpolate", {"num": 0}, "num must be at least 1"),
        ("interpolate", {"steps": 51}, "steps must be between 1 and 50"),
        ("interpolate", {"creativity": (5,)}, "--creativity says nothing to interpolate"),
        ("interpolate", {"image": Path("a.png")}, "--image says nothing to interpolate"),
        ("interpolate", {"region": "0,0,1,1"}, "--region says nothing to interpolate"),
        ("interpolate", {"mask": Path("a.png")}, "--mask says nothing to interpolate"),
        ("interpolate", {"out": Path("a.txt")}, "must end in .png"),
        ("interpolate", {"label": "circle"}, "trained without labels"),
        ("interpolate", {"guidance": 2.0}, "guidance 2 needs a label"),
        ("vary", {"to": 0}, "--to says nothing to vary"),
        ("vary", {"region": "0,0,1,1"}, "--region says nothing to vary"),
        ("vary", {"mask": Path("a.png")}, "--mask says nothing to vary"),
        ("vary", {"creativity": (0,)}, "between 1 and T = 50, not 0"),
        ("vary", {"creativity": (51,)}, "between 1 and T = 50, not 51"),
        ("vary", {"frames": 5}, "a.png is a picture"),
        ("vary", {"out": Path("a.gif")}, "exactly one creativity, not 0"),
        ("vary", {"out": Path("a.gif"), "creativity": (5, 6)}, "exactly one creativity, not 2"),
        ("vary", {"out": Path("a.gif"), "creativity": (5,), "frames": 1}, "frames must be at least 2, not 1"),
        ("vary", {"image": Path("nothing.png")}, "cannot read the picture nothing.png"),
        ("vary", {"image": BLACK, "steps": 0}, "steps must be between 1 and 50, not 0"),
        ("vary", {"image": BLACK, "seed": -1}, "seed must be between 0"),
        ("vary", {"image": BLACK, "num": 0}, "num must be at least 1"),
        ("vary", {"image": BLACK, "sampler": "heun", "eta": 1.0}, "heun has none"),
        ("inpaint", {"to": 0}, "--to says nothing to inpaint"),
        ("inpaint", {"frames": 5}, "--frames says nothing to inpaint"),
        ("inpaint", {"creativity": (5,)}, "--creativity says nothing to inpaint"),
        ("inpaint", {"region": "0,0,33,1"}, "32 pixels wide and 32 high"),
        ("inpaint", {"region": "0,0,1,1", "mask": Path("a.png")}, "leave one out"),
        ("inpaint", {"mask": Path("nothing.png")}, "cannot read the picture nothing.png"),
        ("inpaint", {"image": BLACK, "num": 0}, "num must be at least 1"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    model: Model, mode: ExploreMode, options: dict[str, Any], says: str
) -> None:
    Image.new("L", (32, 32)).save(BLACK)
    way = Way(**{name: value for name, value in options.items() if name in Way._fields})
    rest: dict[str, Any] = {"out": Path("a.png"), "num": 1} | {k: v for k, v in options.items() if k not in Way._fields}
    with pytest.raises(UserError, match=says):
        explore(model, mode, way=way, **rest)
    assert list(Path().iterdir()) == [BLACK]


@pytest.mark.usefixtures("elsewhere")
def test_words_of_the_command_that_are_wrong_are_named_too(run: Path) -> None:
    for words, says in (
        (("interpolate", "--creativity", 5), "--creativity says nothing to interpolate"),
        (("vary", "--out", "a.gif"), "exactly one creativity"),
        (("inpaint", "--region", "right"), "region 'right' must be"),
    ):
        with pytest.raises(UserError, match=says):
            command(run, *words)
