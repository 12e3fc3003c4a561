"""A viewer's frames equal editing.melt, and their binary messages hold exactly those images."""

import contextlib
import struct
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import Prediction, SamplerName
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion import oracle
from shapedreamer.diffusion.denoiser import Denoise
from shapedreamer.diffusion.schedule import cosine
from shapedreamer.imaging import editing
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live.frames import (
    FRAME,
    TRACE,
    Dream,
    Frame,
    Header,
    Request,
    Sample,
    Trace,
    inpainting,
    sampling,
    unpack,
)
from shapedreamer.live.settings import SampleMessage, TraceMessage
from shapedreamer.models.model import Model
from shapedreamer.models.options import SampleOptions
from tests.watching import run_alone, settings, small_model

CONDITIONAL, UNCONDITIONAL = small_model(), small_model(labels=(), channels=3)
SAMPLERS: list[tuple[SamplerName, int, float]] = [  # sampler, steps, eta
    ("ddpm", 4, 0.0),
    ("ddim", 4, 0.0),
    ("ddim", 3, 1.0),
    ("ddim", 1, 0.0),
    ("heun", 5, 0.0),
    ("heun", 4, 0.0),
    ("midpoint", 3, 0.0),
    ("midpoint", 4, 0.0),
    ("heun_line", 4, 0.0),
    ("dpmpp_2m", 4, 0.0),
    ("dpmpp_2m", 4, 1.0),
]
KEEP = torch.arange(8).expand(8, 8) < 4


def assert_same_image(a: Tensor, b: Tensor) -> None:
    assert_close(a, b, rtol=0, atol=1e-5)


class SteppedDream(Dream):
    """A dream that the test advances frame by frame."""

    def advance(self, model: Model) -> tuple[Frame, Tensor]:
        frame = self.next()
        x = run_alone(frame.generate(model), model)
        assert self.is_current(frame)
        self.store(frame, x)
        return frame, x


def new_dream(image: Tensor | None = None, **changes: Any) -> SteppedDream:
    dream = SteppedDream()
    dream.set(1, settings(**changes), image)
    return dream


# the images


@pytest.mark.parametrize(("sampler", "steps", "eta"), SAMPLERS)
@pytest.mark.parametrize(
    ("label", "guidance", "num"),
    [("any", 1.0, 4), ("none", 1.0, 1), ({"circle": 2.0, "line": 1.0}, 2.5, 4), ({"square": 1.0}, 0.0, 1)],
    ids=["any", "none", "guidance 2.5", "guidance 0"],
)
def test_frames_equal_melt_from_a_sample(
    sampler: SamplerName, steps: int, eta: float, label: Any, guidance: float, num: int
) -> None:
    values = {"sampler": sampler, "steps": steps, "eta": eta, "label": label, "guidance": guidance, "num": num}
    dream = new_dream(**values, creativity=30)
    options = settings(**values).options()
    sample = CONDITIONAL.sample(num, options)
    for k, expected in enumerate(editing.melt(CONDITIONAL, sample, 30, 4, num, options)):
        frame, x = dream.advance(CONDITIONAL)
        assert (frame.k, frame.id, frame.pure) == (k, 1, True)
        assert_same_image(x, expected)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_frames_equal_melt_for_other_predictions(prediction: Prediction) -> None:
    model = small_model(prediction=prediction, channels=3)
    options = settings(num=4, label={"line": 1.0}, guidance=3.0).options()
    expected_frames = editing.melt(model, model.sample(4, options), 30, 3, 4, options)
    dream = new_dream(num=4, label={"line": 1.0}, guidance=3.0)
    for expected in expected_frames:
        assert_same_image(dream.advance(model)[1], expected)


def test_frames_equal_melt_for_an_exact_denoiser() -> None:
    class Exact(torch.nn.Module):
        def __init__(self, denoise: Denoise) -> None:
            super().__init__()
            self.denoise, self.unused = denoise, torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.denoise(x, t)

    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    network, spec = Exact(oracle.finite_data(images, cosine(50))), small_model(labels=()).spec
    model = Model(network, cosine(50), "x0", spec, precision="float32")
    options = settings(num=16, steps=10, sampler="ddpm").options()
    dream = new_dream(num=16, steps=10, sampler="ddpm", creativity=45)
    for expected in editing.melt(model, model.sample(16, options), 45, 3, 16, options):
        _, x = dream.advance(model)
        assert_same_image(x, expected)
        assert (torch.cdist(x.flatten(1), images.flatten(1)).min(dim=1).values < 0.1).all()


def test_images_are_not_rounded_between_frames() -> None:
    model, options = UNCONDITIONAL, settings().options()
    dream = new_dream(model.sample(1) / 3)
    _, start = dream.advance(model)
    _, x = dream.advance(model)
    rounded = torch.from_numpy(to_uint8(start)).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.equal(start, model.sample(1) / 3)
    exact, from_rounded = (
        editing.vary(model, image, 30, 1, options, editing.RENOISE_OFFSET + 1) for image in (start, rounded)
    )
    assert_same_image(x, exact)
    assert not torch.allclose(x, from_rounded, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_new_settings_apply_from_the_next_frame_and_make_it_impure() -> None:
    dream = new_dream(num=4)
    x = [dream.advance(CONDITIONAL)[1] for _ in range(2)][-1]
    values: dict[str, Any] = {"num": 4}
    changes: list[dict[str, Any]] = [
        {"creativity": 12},
        {"sampler": "heun"},
        {"steps": 5},
        {"label": {"line": 2.0}},
        {"guidance": 2.0},
        {"sampler": "ddim", "eta": 0.5},
    ]
    for k, change in enumerate(changes, 2):
        values |= change
        dream.set(k, settings(**values), None)
        assert not dream.is_due
        frame, next_x = dream.advance(CONDITIONAL)
        assert (frame.k, frame.id, frame.pure) == (k, k, False)
        options, first = settings(**values).options(), editing.RENOISE_OFFSET + 4 * k
        assert_same_image(next_x, editing.vary(CONDITIONAL, x, values["creativity"], 4, options, first))
        x = next_x
    dream.restart()
    frame, x = dream.advance(CONDITIONAL)
    assert (frame.k, frame.pure) == (0, True)
    assert_same_image(x, CONDITIONAL.sample(4, settings(**values).options()))


def test_frames_stay_pure_if_only_fps_changes_or_settings_change_before_frame_0() -> None:
    dream = new_dream()
    dream.set(2, settings(steps=3), None)
    assert dream.advance(UNCONDITIONAL)[0].pure
    dream.set(3, settings(steps=3, fps=5.0), None)
    dream.set(4, settings(steps=3, fps=5.0), None)
    frame, _ = dream.advance(UNCONDITIONAL)
    assert (frame.k, frame.id, frame.pure) == (1, 4, True)
    dream.set(5, settings(steps=4), None)
    dream.set(6, settings(steps=3), None)  # the old value again, but a frame could have been generated in between
    assert not dream.advance(UNCONDITIONAL)[0].pure


@pytest.mark.parametrize("change", [{"seed": "6"}, {"num": 4}, {"model": "other"}])
def test_another_seed_num_or_model_restarts(change: dict[str, Any]) -> None:
    dream = new_dream(torch.zeros(1, 1, 8, 8), steps=3)
    dream.advance(CONDITIONAL)
    dream.set(2, settings(steps=4), None)
    dream.advance(CONDITIONAL)
    in_progress = dream.next()
    dream.set(3, settings(**change), None)
    assert dream.is_due
    assert not dream.is_current(in_progress)
    frame, x = dream.advance(CONDITIONAL)
    assert (frame.k, frame.id, frame.pure) == (0, 3, True)  # the uploaded image is no longer used
    assert not dream.is_due
    assert_same_image(x, CONDITIONAL.sample(frame.settings.num, settings(**change).options()))


def test_an_uploaded_image_becomes_frame_0_and_is_not_pure() -> None:
    image = CONDITIONAL.sample(4)
    dream = new_dream()
    dream.advance(CONDITIONAL)
    dream.set(2, settings(num=4), image)
    frame, x = dream.advance(CONDITIONAL)
    assert (frame.k, frame.pure) == (0, False)
    assert torch.equal(x, image)
    dream.set(3, settings(num=4, steps=1), None)  # without an image, the earlier one remains frame 0
    frame, x = dream.advance(CONDITIONAL)
    assert (frame.k, frame.pure) == (1, False)
    options, first = settings(steps=1).options(), editing.RENOISE_OFFSET + 4
    assert_same_image(x, editing.vary(CONDITIONAL, image, 30, 4, options, first))
    dream.restart()
    frame, x = dream.advance(CONDITIONAL)
    assert (frame.k, frame.pure) == (0, False)
    assert torch.equal(x, image)
    dream.set(4, settings(num=4, steps=1), image)
    assert dream.is_due


@pytest.mark.parametrize("sampler", ["ddim", pytest.param("heun", marks=pytest.mark.slow)])
def test_repaint_inpaints_the_first_image(sampler: SamplerName) -> None:
    dream = new_dream(num=4, steps=3, sampler=sampler)
    assert dream.is_due
    dream.advance(UNCONDITIONAL)
    _, previous = dream.advance(UNCONDITIONAL)
    assert not dream.is_due
    dream.repaint(KEEP)
    assert dream.is_due
    frame, x = dream.advance(UNCONDITIONAL)
    assert (frame.k, frame.pure) == (2, False)
    assert not dream.is_due
    options = settings(steps=3, sampler=sampler).options()
    assert_same_image(x, editing.inpaint(UNCONDITIONAL, previous[:1], KEEP, 4, options))
    assert torch.equal(x[..., :4], previous[:1, :, :, :4].expand(4, -1, -1, -1))
    frame, next_x = dream.advance(UNCONDITIONAL)
    assert (frame.k, frame.pure) == (3, False)
    assert_same_image(next_x, editing.vary(UNCONDITIONAL, x, 30, 4, options, editing.RENOISE_OFFSET + 12))


def test_repaint_waits_for_frame_0_and_is_cancelled_by_a_restart() -> None:
    dream = new_dream()
    dream.repaint(KEEP)
    assert dream.advance(UNCONDITIONAL)[0].keep is None
    assert dream.is_due
    assert dream.advance(UNCONDITIONAL)[0].keep is KEEP
    dream.repaint(KEEP)
    dream.restart()
    dream.advance(UNCONDITIONAL)
    assert not dream.is_due


@pytest.mark.parametrize(("sampler", "steps", "eta"), [("ddim", 3, 1.0), ("heun", 4, 0.0), ("dpmpp_2m", 3, 0.5)])
@pytest.mark.parametrize("label", ["any", {"line": 1.0}])
@pytest.mark.parametrize("motion", ["melt", "drift"])
def test_frames_equal_those_of_the_library_with_a_new_sample_every_3_frames(
    motion: str, label: Any, sampler: SamplerName, steps: int, eta: float
) -> None:
    values: dict[str, Any] = {"sampler": sampler, "steps": steps, "eta": eta, "label": label, "num": 4}
    options = settings(**values).options()
    if motion == "melt":
        expected = editing.melt(CONDITIONAL, CONDITIONAL.sample(4, options), 30, 5, 4, options, every=3)
    else:
        expected = editing.drift(CONDITIONAL, 5, 4, options, every=3)
    dream = new_dream(**values, motion=motion, every=3)
    for k in range(5):
        frame, x = dream.advance(CONDITIONAL)
        assert (frame.k, frame.pure) == (k, True)
        assert_same_image(x, expected[k])
    dream.set(2, settings(**values, motion=motion, every=3), None, 3)
    assert dream.is_due
    for k in (3, 4):  # frame 3 is a sample, so it does not need those before it
        frame, x = dream.advance(CONDITIONAL)
        assert (frame.k, frame.pure) == (k, True)
        assert_same_image(x, expected[k])


def test_after_a_change_frames_are_pure_again_from_the_next_sample_on() -> None:
    dream = new_dream(every=3)
    dream.advance(CONDITIONAL)
    dream.set(2, settings(every=3, steps=3), None)
    assert [dream.advance(CONDITIONAL)[0].pure for _ in range(4)] == [False, False, True, True]
    dream.set(3, settings(every=3, steps=3, motion="drift"), None)
    assert dream.advance(CONDITIONAL)[0].pure
    dream.repaint(KEEP)
    assert [dream.advance(CONDITIONAL)[0].pure for _ in range(2)] == [False, True]


def test_a_dream_that_cannot_start_at_a_later_frame_starts_at_frame_0() -> None:
    dream = new_dream(motion="drift", every=60)
    dream.set(2, settings(motion="drift", every=60), None, 40)
    dream.set(3, settings(motion="melt", every=60), None)
    assert dream.advance(CONDITIONAL)[0].k == 0


def test_an_uploaded_image_is_frame_0_and_not_pure_even_if_it_drifts_later() -> None:
    image = CONDITIONAL.sample(1)
    dream = new_dream(image)
    dream.set(2, settings(motion="drift", every=3), None)
    frame, x = dream.advance(CONDITIONAL)
    assert torch.equal(x, image)
    assert not frame.pure
    assert dream.advance(CONDITIONAL)[0].pure


def test_the_picture_stands_still_at_creativity_0() -> None:
    dream = new_dream(creativity=0)
    _, x = dream.advance(UNCONDITIONAL)
    frame = dream.next()
    assert frame.k == 1
    with pytest.raises(StopIteration) as end:
        next(frame.generate(UNCONDITIONAL))
    assert torch.equal(end.value.value, x)


def test_next_returns_an_unfinished_frame_again_but_it_is_not_due() -> None:
    dream = new_dream()
    dream.next()
    assert not dream.is_due
    frame, _ = dream.advance(UNCONDITIONAL)
    assert frame.k == 0


# samplers as coroutines


@pytest.mark.parametrize(("sampler", "steps", "eta"), SAMPLERS)
def test_requests_are_the_network_calls_of_the_sampler(sampler: SamplerName, steps: int, eta: float) -> None:
    options = SampleOptions(sampler, steps, eta, 5, {"line": 1.0}, 2.0)
    expected_calls: list[tuple[Tensor, Tensor]] = []
    denoise = CONDITIONAL.denoiser_for(4, options)

    def recording_denoise(x_t: Tensor, t: Tensor) -> Tensor:
        expected_calls.append((x_t, t))
        return denoise(x_t, t)

    expected_steps = list(CONDITIONAL.bind_sampler(options, Noise(5))(recording_denoise, x_T=CONDITIONAL.noise(4, 5)))
    denoising = sampling(CONDITIONAL, 4, options, keep_last=None)
    request = next(denoising)
    for i, (x_t, t) in enumerate(expected_calls):
        assert_same_image(request.x_t, x_t)
        assert torch.equal(request.t, t)
        assert request.guidance == 2.0
        assert request.label is not None
        assert torch.equal(request.label, torch.tensor([[0.0, 1.0, 0.0]] * 4))
        if i < len(expected_calls) - 1:
            request = denoising.send(denoise(request.x_t, request.t))
    with pytest.raises(StopIteration) as end:
        denoising.send(denoise(request.x_t, request.t))
    assert [step.t for step in end.value.value] == [50, *[step.t for step in expected_steps]]
    assert_same_image(end.value.value[-1].x, expected_steps[-1].x)


def test_label_any_gives_each_image_the_same_label_at_every_step() -> None:
    denoising = sampling(CONDITIONAL, 16, settings(seed="3").options())
    first, second = next(denoising), denoising.send(torch.zeros(16, 1, 8, 8))
    expected = CONDITIONAL.label_vectors("any", 16, 3)
    assert expected is not None
    assert len(expected.unique(dim=0)) == 3
    for request in (first, second):
        assert request.label is not None
        assert torch.equal(request.label, expected)


def test_the_guidance_scale_determines_the_network_passes() -> None:
    label = torch.eye(3)[:1]
    request = Request(CONDITIONAL.noise(1), torch.ones(1), label, 1.0)
    assert request.passes == [label]
    assert request._replace(guidance=0.0).passes == [None]
    assert request._replace(label=None).passes == [None]
    both = request._replace(guidance=-1.5).passes
    assert both[0] is None
    assert both[1] is label


def test_inpainting_makes_no_unnecessary_requests() -> None:
    """Each of 4 steps runs 10 times, except the last. A sampler that requested x̂₀ one step ahead would make more."""
    count = 0
    denoising = inpainting(UNCONDITIONAL, UNCONDITIONAL.sample(1), KEEP, 1, settings(steps=4).options())
    request = next(denoising)
    with contextlib.suppress(StopIteration):
        while True:
            count += 1
            request = denoising.send(torch.zeros_like(request.x_t))
    assert count == 3 * 10 + 1


# binary messages


def test_header_layout() -> None:
    header = Header(FRAME, True, 0x01020304, 0x05060708, 0x0910, 0x1112, 0x1314, 0x1516, 0x1718, 0.5)
    assert header.pack() == bytes.fromhex("5344 01 01 04030201 08070605 1009 1211 1413 1615 1817 0000 0000003f")
    assert header._replace(kind=TRACE, pure=False).pack()[:4] == b"SD\x02\x00"


@given(
    *[st.integers(0, 2**32 - 1)] * 2,
    *[st.integers(0, 3)] * 4,
    st.integers(0, 2**16 - 1),
    st.floats(width=32, allow_nan=False),
    st.booleans(),
)
def test_unpack_inverts_pack(
    id: int, k: int, num: int, C: int, H: int, W: int, calls: int, ms: float, pure: bool
) -> None:
    header = Header(FRAME, pure, id, k, num, C, H, W, calls, ms)
    payload = bytes(range(num * C * H * W))
    assert unpack(header.pack() + payload) == (header, payload)


def test_unpack_rejects_invalid_messages() -> None:
    data = Header(FRAME, True, 1, 2, 1, 1, 2, 2, 1, 0.0).pack() + b"1234"
    unpack(data)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"not a frame|must have 4"):
            unpack(data[:length])
    with pytest.raises(ValueError, match="must have 4"):
        unpack(data + b"5")
    with pytest.raises(ValueError, match="not a frame"):
        unpack(b"DS" + data[2:])
    with pytest.raises(ValueError, match="unknown kind 3"):
        unpack(data[:2] + b"\3" + data[3:])


def test_a_packed_frame_contains_its_pixels() -> None:
    dream = new_dream(num=4)
    frame, x = dream.advance(UNCONDITIONAL)
    header, payload = unpack(frame.pack(x, 7, 12.5))
    assert header == Header(FRAME, True, 1, 0, 4, 3, 8, 8, 7, 12.5)
    assert payload == to_uint8(x).tobytes()
    assert len(set(payload)) > 100


@pytest.mark.parametrize(("sampler", "steps", "eta"), SAMPLERS)
def test_a_packed_trace_contains_every_step(sampler: SamplerName, steps: int, eta: float) -> None:
    message = TraceMessage(type="trace", id=9, sampler=sampler, steps=steps, eta=eta)
    trace = Trace(message, settings(num=4, sampler="ddpm", steps=9, label={"line": 1.0}, guidance=2.0))
    result = run_alone(trace.generate(CONDITIONAL), CONDITIONAL)
    header, payload = unpack(trace.pack(result, 2 * steps, 3.0))
    expected = list(CONDITIONAL.stream(1, SampleOptions(sampler, steps, eta, 5, {"line": 1.0}, 2.0)))
    assert header == Header(TRACE, False, 9, len(expected), 1, 1, 8, 8, 2 * steps, 3.0)

    size = len(payload) // len(expected)
    parts = []
    for i in range(len(expected)):
        t, s = struct.unpack_from("<ii", payload, i * size)
        images = torch.frombuffer(bytearray(payload[i * size + 8 : (i + 1) * size]), dtype=torch.float32)
        parts.append((t, s, *images.view(3, 1, 1, 8, 8)))
    assert parts[0][0] == 50
    assert parts[-1][1] == 0
    assert_same_image(parts[0][2], CONDITIONAL.noise(1, 5))
    for before, after in pairwise(parts):
        assert before[1] == after[0]
        assert torch.equal(before[4], after[2])
    for (_, s, _, x0, x), step in zip(parts, expected, strict=True):
        assert s == step.t
        assert_same_image(x0, step.x0)
        assert_same_image(x, step.x)


@pytest.mark.parametrize(("sampler", "steps", "eta"), SAMPLERS)
def test_the_steps_of_a_frame_lead_from_the_frame_before_it_to_the_frame(
    sampler: SamplerName, steps: int, eta: float
) -> None:
    values: dict[str, Any] = {"num": 4, "sampler": sampler, "steps": steps, "eta": eta}
    values |= {"label": {"line": 1.0}, "guidance": 2.0}
    dream = new_dream(**values)
    before, x, after = (dream.advance(CONDITIONAL)[1] for _ in range(3))
    message = TraceMessage(type="trace", id=9, sampler=sampler, steps=steps, eta=eta, frame=2)
    for number, start, end in ((2, x, after), (3, after, None)):
        trace = Trace(message, settings(**values), dream.traceable(number))
        noising, noised, *others = run_alone(trace.generate(CONDITIONAL), CONDITIONAL)
        assert (noising.t, noised.t, others[-1].t) == (0, 30, 0)
        for image in (noising.x, noising.x0, noised.x0):
            assert_same_image(image, start[:1])
        first = editing.RENOISE_OFFSET + 4 * number
        assert_same_image(noised.x, CONDITIONAL.diffuse(start[:1], 30, 5, first))
        end = dream.advance(CONDITIONAL)[1] if end is None else end
        assert_same_image(others[-1].x.clamp(-1, 1), end[:1])
    assert not torch.equal(before, x)


@pytest.mark.parametrize("motion", ["melt", "drift"])
def test_the_steps_of_a_sample_start_from_its_noise(motion: str) -> None:
    """Frame 3 is a sample in both motions; frame 4 in a drift. Both are traced before and after they are made."""
    values: dict[str, Any] = {"num": 4, "steps": 4, "eta": 1.0, "label": "any", "motion": motion, "every": 3}
    dream = new_dream(**values)
    message = TraceMessage(type="trace", id=9, sampler="ddim", steps=4, eta=1.0, frame=3)
    for _ in range(3):
        dream.advance(CONDITIONAL)
    for k in (3, 4):
        trace = Trace(message, settings(**values), dream.traceable(k))
        before = run_alone(trace.generate(CONDITIONAL), CONDITIONAL)
        _, x = dream.advance(CONDITIONAL)
        trace = Trace(message, settings(**values), dream.traceable(k))
        after = run_alone(trace.generate(CONDITIONAL), CONDITIONAL)
        assert before[0].t == after[0].t == (50 if motion == "drift" or k == 3 else 0)
        assert_same_image(before[-1].x.clamp(-1, 1), x[:1])
        assert_same_image(after[-1].x.clamp(-1, 1), x[:1])
    dream.set(2, settings(num=4, creativity=30), None)
    assert dream.traceable(4).is_sample == (motion == "drift")  # it moved as it did when it was made
    assert not dream.traceable(5).is_sample


def test_frames_without_sampling_steps_cannot_be_traced() -> None:
    dream = new_dream(torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="no frame to trace yet"):
        dream.traceable(0)
    dream.advance(UNCONDITIONAL)
    with pytest.raises(UserError, match="frame 0 was drawn or repainted"):
        dream.traceable(0)
    assert dream.traceable(1).previous is not None
    dream.repaint(KEEP)
    dream.advance(UNCONDITIONAL)
    with pytest.raises(UserError, match="frame 1 was drawn or repainted"):
        dream.traceable(1)
    dream.set(2, settings(creativity=0), None)
    with pytest.raises(UserError, match="with creativity 0"):
        dream.traceable(2)


def test_a_sample_is_frame_0_of_its_settings() -> None:
    values = settings(num=4, sampler="ddpm", steps=3, label={"line": 1.0})
    sample = Sample(SampleMessage(type="sample", id=9, settings=values))
    x = run_alone(sample.generate(CONDITIONAL), CONDITIONAL)
    assert_same_image(x, CONDITIONAL.sample(4, values.options()))
    assert unpack(sample.pack(x, 3, 1.0))[0] == Header(FRAME, True, 9, 0, 4, 1, 8, 8, 3, 1.0)
