"""The moments between noise and image that animations and strips show."""

from itertools import pairwise

import pytest
import torch

from shapedreamer.common.names import SamplerName
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion import oracle
from shapedreamer.diffusion.samplers import SAMPLERS, ddim
from shapedreamer.diffusion.schedule import linear
from shapedreamer.imaging.figures import MAX_FRAMES, history, process_picture

SCHEDULE = linear()
DENOISE = oracle.gaussian(0.0, 0.5, SCHEDULE)
X_T = torch.randn(2, 1, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 7, 60, 1000])
def test_a_history_runs_from_noise_to_image_in_at_most_max_frames(steps: int) -> None:
    moments = history(ddim(DENOISE, SCHEDULE, X_T, steps), X_T, SCHEDULE.T)
    assert moments[0].t == 1000
    assert torch.equal(moments[0].x, X_T)
    assert moments[-1].t == 0
    assert torch.equal(moments[-1].x, list(ddim(DENOISE, SCHEDULE, X_T, steps))[-1].x)
    assert len(moments) == min(steps, MAX_FRAMES) + 1
    gaps = [a.t - b.t for a, b in pairwise(moments)]
    assert min(gaps) > 0
    assert max(gaps) <= 2 * max(1000 // MAX_FRAMES, 1000 // steps)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_each_moment_holds_the_prediction_made_from_its_x_t(sampler: SamplerName) -> None:
    options = {"generator": Noise(0)} if sampler in ("ddpm", "ddim") else {}
    for t, x, x0 in history(SAMPLERS[sampler](DENOISE, SCHEDULE, X_T, 20, **options), X_T, SCHEDULE.T)[:-1]:
        torch.testing.assert_close(x0, DENOISE(x, torch.tensor([t, t])))


def test_the_process_strip_has_a_column_per_moment_and_two_rows_per_image() -> None:
    moments = history(ddim(DENOISE, SCHEDULE, X_T, 4), X_T, SCHEDULE.T)
    few, many = (process_picture(m) for m in (moments, moments * 5))
    tile = few.width // 5
    assert 2 * 2 * tile * 0.9 < few.height < 2 * 2 * tile * 1.1  # x_t and x̂₀ of two images in square tiles, and titles
    assert many.width // 10 < tile  # at most ten columns
