"""Between samples, around an image and inside a hole in one, with exact denoisers and a small trained model."""

import sys
from dataclasses import fields, replace
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
from shapedreamer.diffusion.samplers import SAMPLERS, Step
from shapedreamer.diffusion.schedule import Schedule, cosine, linear, step_times
from shapedreamer.imaging import render
from shapedreamer.imaging.editing import (
    RENOISE_OFFSET,
    InterpolatedNoise,
    drift,
    drift_frame,
    explore,
    inpaint,
    interpolate,
    melt,
    read_image,
    read_mask,
    read_region,
    slerp,
    start_of,
    vary,
    write_variations,
)
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from shapedreamer.training.loop import train
from tests.tiny import TUNED

SCHEDULE = cosine(100)
THREE = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
LEFT = torch.arange(8).expand(8, 8) < 4
NO_LIMIT = DataSpec("numbers", 1, 8, 8, (), low=-1e9, high=1e9)
BLACK_AND_WHITE = DataSpec("three", 1, 8, 8, ())
BLACK = Path("black.png")


class Exact(nn.Module):
    """An exact denoiser as a network with x₀-prediction."""

    def __init__(self, denoise: Denoise) -> None:
        super().__init__()
        self.denoise, self.parameter = denoise, nn.Parameter(torch.zeros(1))  # Model reads the parameter's device

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.denoise(x, t)


GAUSSIAN = Model(Exact(oracle.gaussian(0.0, 1.0, SCHEDULE)), SCHEDULE, "x0", NO_LIMIT)
MEMORISED = Model(Exact(oracle.finite_data(THREE, SCHEDULE)), SCHEDULE, "x0", BLACK_AND_WHITE)  # only THREE's images


def shrinkage(times: list[int]) -> float:
    """The factor by which ddim scales an image with the denoiser of N(0, 1): the product of a cosine per step."""
    angles = SCHEDULE.alpha_bar[times].sqrt().acos()
    return (angles[:-1] - angles[1:]).cos().prod().item()


# slerp


@pytest.fixture
def ends() -> tuple[Tensor, Tensor]:
    a, b = GAUSSIAN.noise(6, seed=1), GAUSSIAN.noise(6, seed=2)
    return a, b / b.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * a.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def test_slerp_starts_and_ends_exactly_and_preserves_the_norm(ends: tuple[Tensor, Tensor]) -> None:
    a, b = ends
    assert torch.equal(slerp(a, b, 0), a)
    assert torch.equal(slerp(a, b, 1), b)
    for fraction in (0.1, 0.5, 0.77):
        assert_close(slerp(a, b, fraction).flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))


def test_the_angle_of_slerp_is_proportional_to_the_fraction(ends: tuple[Tensor, Tensor]) -> None:
    a, b = (x.flatten(1).double() for x in ends)
    angle = torch.nn.functional.cosine_similarity(a, b).acos()
    for fraction in (0.25, 0.6):
        x = slerp(*ends, fraction).flatten(1).double()
        assert_close(torch.nn.functional.cosine_similarity(a, x).acos(), fraction * angle, atol=1e-4, rtol=0)
        assert_close(torch.nn.functional.cosine_similarity(x, b).acos(), (1 - fraction) * angle, atol=1e-4, rtol=0)


def test_halfway_noise_has_variance_1_on_the_circle_and_one_half_on_the_line() -> None:
    a, b = GAUSSIAN.noise(400, seed=3), GAUSSIAN.noise(400, seed=4)
    assert slerp(a, b, 0.5).square().mean().item() == pytest.approx(1, abs=0.02)
    assert ((a + b) / 2).square().mean().item() == pytest.approx(0.5, abs=0.02)


def test_parallel_images_use_the_straight_line_without_affecting_the_others(ends: tuple[Tensor, Tensor]) -> None:
    a, b = ends
    b = torch.stack([a[0], 2 * a[1], -a[2], *b[3:]])
    x = slerp(a, b, 0.25)
    assert_close(x[:3], torch.stack([a[0], 1.25 * a[1], 0.5 * a[2]]))
    assert_close(x[3:], slerp(a[3:], b[3:], 0.25))


# interpolate


def test_an_interpolation_goes_from_the_samples_of_one_seed_to_those_of_the_other(model: Model) -> None:
    images = interpolate(model, 3, 4, 7, SampleOptions(steps=5, seed=1))
    assert images.shape == (4, 3, 1, 32, 32)
    assert torch.equal(images[0], model.sample(3, steps=5, seed=1))
    assert torch.equal(images[-1], model.sample(3, steps=5, seed=7))


def test_the_frames_in_between_start_from_noise_on_the_circle() -> None:
    """With the denoiser of N(0, 1), a sample is its noise times a constant."""
    a, b = GAUSSIAN.noise(2, seed=1), GAUSSIAN.noise(2, seed=2)
    images = interpolate(GAUSSIAN, 2, 5, 2, SampleOptions(steps=10, seed=1))
    scale = shrinkage(step_times(100, 10))
    for i, image in enumerate(images):
        assert_close(image, scale * slerp(a, b, i / 4))


@pytest.mark.parametrize("sampler", [{"sampler": "ddpm"}, {"sampler": "ddim", "eta": 1.0}])
def test_the_noise_that_samplers_add_is_interpolated_too(model: Model, sampler: dict[str, Any]) -> None:
    """Otherwise both ends would look much the same, because this noise affects the image more than x_T does."""
    options = SampleOptions(**sampler, steps=5, seed=1)
    images = interpolate(model, 3, 3, 7, options)
    assert_close(images[0], model.sample(3, options))
    assert_close(images[-1], model.sample(3, options, seed=7))
    assert not torch.equal(images[1], images[0])
    noise, like = InterpolatedNoise(Noise(1), Noise(7), 0.25), torch.zeros(2, 1, 4, 4)
    assert torch.equal(noise(30, like), slerp(Noise(1)(30, like), Noise(7)(30, like), 0.25))


# drift


LABELLED = Model(
    Exact(oracle.gaussian(0.0, 1.0, SCHEDULE)), SCHEDULE, "x0", replace(NO_LIMIT, labels=("a", "b")), torch.eye(2)
)


def test_a_drift_goes_from_sample_to_sample_of_its_seed() -> None:
    options = SampleOptions("ddpm", steps=5, seed=3)
    images = drift(MEMORISED, 9, 2, options, every=4)
    for frame in (0, 4, 8):
        *_, last = MEMORISED.stream(2, options, first=frame // 4 * 2)
        assert torch.equal(images[frame], last.x)
    assert_close(images, torch.stack([drift_frame(MEMORISED, k, 2, options, every=4) for k in range(9)]))


def test_in_between_a_drift_starts_from_noise_on_the_circle() -> None:
    """With the denoiser of N(0, 1), a sample is its noise times a constant."""
    options = SampleOptions("ddim", steps=10, seed=1)
    a, b = GAUSSIAN.noise(2, 1, first=6), GAUSSIAN.noise(2, 1, first=8)
    assert_close(drift_frame(GAUSSIAN, 17, 2, options, every=5), shrinkage(step_times(100, 10)) * slerp(a, b, 0.4))


def test_labels_of_a_drift_change_in_proportion() -> None:
    seed = next(s for s in range(99) if not torch.equal(*LABELLED.label_vectors("any", 2, s)))  # type: ignore[misc]
    first, then = LABELLED.label_vectors("any", 2, seed)  # type: ignore[misc]
    options = SampleOptions(seed=seed)
    vectors = [start_of(LABELLED, frame, 1, options, every=4).options.label for frame in (0, 1, 4)]
    assert_close(torch.cat(vectors), torch.stack([first, 0.75 * first + 0.25 * then, then]))  # type: ignore[arg-type]
    fixed = replace(options, label="a")
    assert start_of(LABELLED, 1, 1, fixed, every=4).options.label == "a"


def test_a_drift_that_never_moves_on_stays_at_the_first_sample() -> None:
    images = drift(MEMORISED, 3, 2, SampleOptions(steps=5), every=0)
    assert torch.equal(images, MEMORISED.sample(2, steps=5).expand(3, -1, -1, -1, -1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"every": -1}, "every"), ({"every": 1001}, "every"), ({"every": 2.5}, "every"), ({"frames": 1}, "frames")],
)
def test_a_drift_out_of_range_is_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        drift(GAUSSIAN, **{"frames": 2, **arguments})


def test_melting_continues_from_every_sample_of_the_seed() -> None:
    options = SampleOptions("ddim", steps=4, eta=1.0, seed=3)
    images = melt(MEMORISED, MEMORISED.sample(2, options), 60, 6, 2, options, every=2)
    assert torch.equal(images[4], drift_frame(MEMORISED, 4, 2, options, every=2))
    assert torch.equal(images[5], vary(MEMORISED, images[4], 60, 2, options, RENOISE_OFFSET + 10))


# vary and melt


@pytest.mark.parametrize(("t", "steps"), [(1, 20), (30, 7), (100, 10), (5, 5), (5, 99)])
def test_a_variation_is_the_image_noised_to_t_and_denoised_from_t(t: int, steps: int) -> None:
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    x_t = diffuse(image, t, GAUSSIAN.noise(3, 4, RENOISE_OFFSET), SCHEDULE)
    scale = shrinkage(step_times(t, min(steps, t)))
    assert_close(vary(GAUSSIAN, image, t, 3, SampleOptions(steps=steps, seed=4)), scale * x_t)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_low_noise_keeps_the_image_and_noise_of_T_replaces_it(sampler: SamplerName) -> None:
    options = SampleOptions(sampler, steps=10, seed=5)
    image = MEMORISED.sample(1, options)
    assert min((image - known).abs().max() for known in THREE) < 1e-3
    assert_close(vary(MEMORISED, image, 20, 4, options), image.expand(4, -1, -1, -1), atol=1e-3, rtol=0)
    variations = vary(MEMORISED, image, 100, 40, options)
    distance = (variations[:, None] - THREE).abs().flatten(2).amax(2)
    assert distance.amin(1).max() < 1e-3  # each is one of the three
    assert set(distance.argmin(1).tolist()) == {0, 1, 2}


def test_each_of_several_images_gets_its_own_variation() -> None:
    assert_close(vary(MEMORISED, THREE, 20, 3, SampleOptions(steps=5)), THREE, atol=1e-3, rtol=0)


def test_melting_varies_the_previous_frame_with_new_noise_each_time() -> None:
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    frames = melt(GAUSSIAN, image, 40, 4, 2, SampleOptions(steps=4, seed=6))
    assert frames.shape == (4, 2, 1, 8, 8)
    assert torch.equal(frames[0], image.expand(2, -1, -1, -1))
    alpha, sigma = (part.item() for part in SCHEDULE.alpha_sigma(40, like=image))
    scale = shrinkage(step_times(40, 4))
    noises = [(after / scale - alpha * before) / sigma for before, after in pairwise(frames)]
    flat = torch.cat(noises).flatten(1)
    assert (flat @ flat.T / 64 - torch.eye(6)).abs().max() < 0.6  # six independent noise images of 64 pixels


# inpaint


TWO = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
PAIR = Model(Exact(oracle.finite_data(TWO, SCHEDULE)), SCHEDULE, "x0", BLACK_AND_WHITE)


def error_rate(images: Tensor, image: Tensor) -> float:
    """The fraction of the images that are not `image`."""
    return ((images - image).abs().amax((1, 2, 3)) > 1e-3).double().mean().item()


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_inpainting_finds_the_image_that_matches_the_kept_half(sampler: SamplerName) -> None:
    for image in TWO[:, None]:
        masked = torch.where(LEFT, image, 0.3)  # the pixels in the hole must not matter
        images = inpaint(PAIR, masked, LEFT, 100, SampleOptions(sampler, steps=10))
        assert error_rate(images, image) < 0.05


def test_without_repeats_inpainting_often_finds_the_wrong_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[inpaint.__module__], "INPAINT_REPEATS", 1)
    assert error_rate(inpaint(PAIR, TWO[:1], LEFT, 100, SampleOptions(steps=10)), TWO[:1]) > 0.1


def test_every_repeat_of_a_step_uses_different_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    added_noise: list[Tensor] = []
    bind_sampler, transition = Model.bind_sampler, process.transition

    def spy_sampler(self: Model, options: SampleOptions, noise: Noise, times: list[int]) -> Any:
        seeds.append(noise.seed)
        return bind_sampler(self, options, noise, times)

    def spy_transition(x: Tensor, s: int, t: int, eps: Tensor, schedule: Schedule) -> Tensor:
        added_noise.append(eps)
        return transition(x, s, t, eps, schedule)

    monkeypatch.setattr(Model, "bind_sampler", spy_sampler)
    monkeypatch.setattr(sys.modules[inpaint.__module__], "transition", spy_transition)
    inpaint(PAIR, TWO[:1], LEFT, 30, SampleOptions("ddpm", steps=4))
    assert len(seeds) == 3 * 10 + 1
    assert len(set(seeds)) == 10  # the same ten for every step, because Noise also depends on the timestep
    assert len(added_noise) == 3 * 9
    correlation = torch.stack(added_noise).flatten(1).corrcoef() - torch.eye(27)
    assert correlation.abs().max() < 0.1


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_kept_pixels_are_unchanged_bit_for_bit(model: Model, sampler: SamplerName) -> None:
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    keep = read_region("5,7,20,3", model.spec)
    images = inpaint(model, image, keep, 3, SampleOptions(sampler, steps=6))
    assert torch.equal(images[..., keep], image[..., keep].expand(3, -1, -1))
    assert not torch.equal(images[0][..., ~keep], images[1][..., ~keep])


def test_inpainting_starts_from_noise_that_no_sample_of_the_seed_starts_from() -> None:
    keep_nothing = torch.zeros(8, 8, dtype=torch.bool)
    steps: list[Step] = []
    inpaint(GAUSSIAN, torch.zeros(1, 1, 8, 8), keep_nothing, 2, SampleOptions(steps=1, seed=1), steps.append)
    last = steps[-1]
    assert_close(last.x, shrinkage([100, 0]) * GAUSSIAN.noise(2, 1, RENOISE_OFFSET), atol=1e-6, rtol=0)
    assert not torch.equal(GAUSSIAN.noise(2, 1, RENOISE_OFFSET), GAUSSIAN.noise(2, 1))


def test_on_step_sees_one_step_per_timestep_and_no_repeats() -> None:
    steps: list[Step] = []
    image = inpaint(PAIR, TWO[:1], LEFT, 3, SampleOptions(steps=4), steps.append)
    assert [step.t for step in steps] == step_times(100, 4)[1:]
    assert_close(steps[-1].x, image)


# picture files, masks and regions


def spec(channels: int) -> DataSpec:
    return DataSpec("pictures", channels, 4, 6, ())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_file_of_the_models_format_is_read_exactly(tmp_path: Path, channels: int) -> None:
    images = torch.randint(0, 256, (1, channels, 4, 6), generator=torch.Generator().manual_seed(2)) / 127.5 - 1
    render.save_picture(Image.fromarray(render.to_uint8(images)[0].squeeze()), tmp_path / "a.png")
    assert_close(read_image(tmp_path / "a.png", spec(channels)), images)


def test_a_picture_is_converted_to_the_models_channels(tmp_path: Path) -> None:
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


def test_white_pixels_of_a_mask_are_inpainted(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6), np.uint8)
    pixels[1, 2:5] = 255
    pixels[3, 0], pixels[3, 1] = 128, 127
    Image.fromarray(pixels).save(tmp_path / "mask.png")
    keep = read_mask(tmp_path / "mask.png", spec(3))
    assert keep.dtype == torch.bool
    assert keep.logical_not().nonzero().tolist() == [[1, 2], [1, 3], [1, 4], [3, 0]]


def test_the_pixels_of_a_region_are_inpainted() -> None:
    assert read_region("1,2,4,1", spec(1)).logical_not().nonzero().tolist() == [[2, 1], [2, 2], [2, 3], [2, 4]]
    assert not read_region("0,0,6,4", spec(1)).any()


@pytest.mark.parametrize(
    "region", ["1,2,3", "a,0,1,1", "", "0,0,0,1", "0,0,1,0", "-1,0,2,2", "0,-1,2,2", "3,0,4,1", "0,3,1,2", "0,0,1,1,1"]
)
def test_invalid_regions_are_rejected(region: str) -> None:
    with pytest.raises(UserError, match=f"region .*{region}"):
        read_region(region, spec(1))


def test_unusable_pictures_are_rejected_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    Image.new("L", (6, 4)).save(tmp_path / "whole.png")
    Image.effect_noise((6, 4), 50).save(tmp_path / "noise.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "noise.png").read_bytes()[:50])
    Image.new("RGB", (4, 6)).save(tmp_path / "turned.png")
    Image.new("I;16", (6, 4)).save(tmp_path / "deep.png")
    for name, message in (
        ("none.png", "none.png: No such file"),
        ("text.png", "text.png: cannot identify"),
        ("cut.png", "cannot read the picture .*cut.png: "),
        ("turned.png", "turned.png is 4 pixels wide and 6 high, .* 6 wide and 4 high"),
        ("deep.png", "deep.png: it has more than 8 bits"),
    ):
        for read in (read_image, read_mask):
            with pytest.raises(UserError, match=message):
                read(tmp_path / name, spec(1))
    with pytest.raises(UserError, match=r"whole\.png has no white pixels"):
        read_mask(tmp_path / "whole.png", spec(1))


# the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explore") / "run"
    train(replace(TUNED, epochs=2), out, sample_every=0, save_every=0)
    return out


@pytest.fixture(scope="module")
def model(run: Path) -> Model:
    return sd.load(run)


@pytest.fixture
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test in an empty working directory."""
    monkeypatch.chdir(tmp_path)


def command(*arguments: object) -> None:
    """Run `shapedreamer explore` with these arguments in this process."""
    tyro.cli(cli.run, args=list(map(str, arguments)), config=(tyro.conf.FlagCreatePairsOff,))


def tiles(path: str, rows: int, columns: int, top: int = 0, left: int = 0) -> np.ndarray:
    """The 32x32 images of a grid with titles of these sizes: (rows, columns, 32, 32) uint8."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("L"))[top:, left:]
    side = pixels.shape[1] // columns
    scale = (side - 2 * render.MARGIN) // 32
    assert pixels.shape == (rows * side, columns * side)
    images = pixels.reshape(rows, side, columns, side).swapaxes(1, 2)
    return images[:, :, render.MARGIN : -render.MARGIN : scale, render.MARGIN : -render.MARGIN : scale]


def in_8_bit(images: Tensor) -> np.ndarray:
    return render.to_uint8(images)[..., 0]


@pytest.mark.usefixtures("in_tmp_path")
def test_interpolate_writes_a_row_for_each_path(run: Path, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    command(run, "interpolate", "--num", 2, "--steps", 3, "--seed", 4, "--frames", 5)
    assert capsys.readouterr().out == "interpolate.png\n"
    images = tiles("interpolate.png", rows=2, columns=5, top=18)
    shown = interpolate(model, 2, 5, 5, SampleOptions(steps=3, seed=4))  # to the next seed
    for path in range(2):
        assert (images[path] == in_8_bit(shown[:, path])).all()
    command(run, "interpolate", "--num", 2, "--steps", 3, "--seed", 4, "--to", 0)
    images = tiles("interpolate.png", rows=2, columns=16, top=18)
    assert (images[:, -1] == in_8_bit(model.sample(2, steps=3, seed=0))).all()


@pytest.mark.usefixtures("in_tmp_path")
def test_an_animated_interpolation_goes_there_and_back_without_a_pause(run: Path) -> None:
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


@pytest.mark.usefixtures("in_tmp_path")
def test_vary_writes_a_row_for_each_creativity(run: Path, model: Model) -> None:
    command(run, "vary", "--num", 2, "--steps", 3, "--seed", 4, "--creativity", 50, 7)
    images = tiles("vary.png", rows=2, columns=3, top=18, left=18)
    options = SampleOptions(steps=3, seed=4)
    sampled = model.sample(1, options)
    for row, t in enumerate((50, 7)):
        assert (images[row, :1] == in_8_bit(sampled)).all()
        assert (images[row, 1:] == in_8_bit(vary(model, sampled, t, 2, options))).all()
    command(run, "vary", "--num", 1, "--steps", 2)
    tiles("vary.png", rows=5, columns=2, top=18, left=18)  # a row for each of CREATIVITY


@pytest.mark.usefixtures("in_tmp_path")
def test_vary_starts_from_a_picture_file_and_writes_animations(run: Path) -> None:
    Image.new("RGB", (32, 32), "white").save("white.jpg")
    command(run, "vary", "--num", 1, "--creativity", 1, "--image", "white.jpg")
    assert (tiles("vary.png", rows=1, columns=2, top=18, left=18)[0, 0] == 255).all()
    command(run, "vary", "--num", 2, "--steps", 2, "--creativity", 25, "--frames", 4, "--out", "melt.gif")
    with Image.open("melt.gif") as movie:
        assert movie.n_frames == 4
        assert movie.size[0] > movie.size[1]  # two images


@pytest.mark.usefixtures("in_tmp_path")
def test_inpaint_shows_the_image_the_hole_and_the_results(run: Path, model: Model) -> None:
    command(run, "inpaint", "--num", 2, "--steps", 3, "--seed", 4)
    options = SampleOptions(steps=3, seed=4)
    sampled = model.sample(1, options)
    image, hole, *results = tiles("inpaint.png", rows=1, columns=4, top=18)[0]
    assert (image == in_8_bit(sampled)).all()
    assert (hole[:, :16] == image[:, :16]).all()
    assert (hole[:, 16:] == 128).all()
    expected = inpaint(model, sampled, read_region("16,0,16,32", model.spec), 2, options)
    assert (np.stack(results) == in_8_bit(expected)).all()
    Image.new("L", (32, 32), "white").save("all.png")
    command(run, "inpaint", "--num", 1, "--steps", 3, "--mask", "all.png", "--image", "all.png", "--out", "b.png")
    assert (tiles("b.png", rows=1, columns=3, top=18)[0, 1] == 128).all()
    command(run, "inpaint", "--num", 2, "--steps", 3, "--region", "0,0,32,4", "--out", "a.gif")
    with Image.open("a.gif") as movie:
        assert movie.n_frames == 4


@pytest.mark.parametrize("schedule", [linear(1000), cosine(1000), cosine(3)], ids=["linear", "cosine", "short"])
def test_vary_by_default_uses_the_first_timesteps_with_the_noise_of_creativity(
    monkeypatch: pytest.MonkeyPatch, schedule: Schedule
) -> None:
    titles: list[str] = []

    def spy(picture: Image.Image, columns: list[str], rows: list[str]) -> Image.Image:
        titles.extend(rows)
        return picture

    monkeypatch.setattr(render, "labelled", spy)
    monkeypatch.setattr(render, "save_picture", lambda picture, out: None)
    model = Model(Exact(oracle.gaussian(0.0, 1.0, schedule)), schedule, "x0", NO_LIMIT)
    write_variations(model, Path("a.png"), torch.zeros(1, 1, 8, 8), 1, options=SampleOptions(steps=1))
    times = [int(title.removeprefix("t = ")) for title in titles]
    assert sorted(set(times)) == times
    for t, noise in zip(times, (0.5, 0.8, 0.9, 0.95, 0.98), strict=True) if schedule.T == 1000 else ():
        assert 1 - schedule.alpha_bar[t].item() >= noise > 1 - schedule.alpha_bar[t - 1].item()
    assert 1 <= times[0] <= times[-1] <= schedule.T


@pytest.mark.usefixtures("in_tmp_path")
@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("interpolate", {"frames": 1}, "frames must be at least 2, not 1"),
        ("interpolate", {"to": -1}, "seed must be between 0"),
        ("interpolate", {"num": 0}, "num must be at least 1"),
        ("interpolate", {"steps": 51}, "steps must be between 1 and 50"),
        ("interpolate", {"creativity": (5,)}, "`creativity` does not apply to interpolate"),
        ("interpolate", {"image": Path("a.png")}, "`image` does not apply to interpolate"),
        ("interpolate", {"region": "0,0,1,1"}, "`region` does not apply to interpolate"),
        ("interpolate", {"mask": Path("a.png")}, "`mask` does not apply to interpolate"),
        ("interpolate", {"out": Path("a.txt")}, "must end in .png"),
        ("interpolate", {"label": "circle"}, "trained without labels"),
        ("interpolate", {"guidance": 2.0}, "guidance 2 needs a label"),
        ("interpolate", {"every": 5}, "`every` does not apply to interpolate"),
        ("drift", {"to": 0}, "`to` does not apply to drift"),
        ("drift", {"every": 1001}, "every must be between 0 and 1000"),
        ("vary", {"every": 5}, "`every` works for an animation only"),
        ("vary", {"to": 0}, "`to` does not apply to vary"),
        ("vary", {"region": "0,0,1,1"}, "`region` does not apply to vary"),
        ("vary", {"mask": Path("a.png")}, "`mask` does not apply to vary"),
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
        ("vary", {"image": BLACK, "sampler": "heun", "eta": 1.0}, "heun has no eta"),
        ("inpaint", {"to": 0}, "`to` does not apply to inpaint"),
        ("inpaint", {"frames": 5}, "`frames` does not apply to inpaint"),
        ("inpaint", {"creativity": (5,)}, "`creativity` does not apply to inpaint"),
        ("inpaint", {"region": "0,0,33,1"}, "32 pixels wide and 32 high"),
        ("inpaint", {"region": "0,0,1,1", "mask": Path("a.png")}, "leave one out"),
        ("inpaint", {"mask": Path("nothing.png")}, "cannot read the picture nothing.png"),
        ("inpaint", {"image": BLACK, "num": 0}, "num must be at least 1"),
    ],
)
def test_invalid_options_are_rejected_before_anything_is_written(
    model: Model, mode: ExploreMode, options: dict[str, Any], message: str
) -> None:
    Image.new("L", (32, 32)).save(BLACK)
    names = {field.name for field in fields(SampleOptions)}
    sampling = SampleOptions(**{name: value for name, value in options.items() if name in names})
    arguments: dict[str, Any] = {"out": Path("a.png"), "num": 1}
    arguments |= {name: value for name, value in options.items() if name not in names}
    with pytest.raises(UserError, match=message):
        explore(model, mode, options=sampling, **arguments)
    assert list(Path().iterdir()) == [BLACK]


@pytest.mark.usefixtures("in_tmp_path")
def test_the_command_rejects_invalid_options_too(run: Path) -> None:
    for arguments, message in (
        (("interpolate", "--creativity", 5), "`creativity` does not apply to interpolate"),
        (("vary", "--out", "a.gif"), "exactly one creativity"),
        (("inpaint", "--region", "right"), "region 'right' must be"),
    ):
        with pytest.raises(UserError, match=message):
            command(run, *arguments)
