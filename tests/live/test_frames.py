"""A dream, frame by frame: the pictures are those of explore.melt, and what travels is what was made."""

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

from shapedreamer.common.names import Prediction, SamplerName
from shapedreamer.common.noise import Noise
from shapedreamer.diffusion import oracle
from shapedreamer.diffusion.denoiser import Denoise
from shapedreamer.diffusion.schedule import cosine
from shapedreamer.imaging import explore
from shapedreamer.imaging.figures import Way
from shapedreamer.imaging.render import to_uint8
from shapedreamer.live.frames import FRAME, TRACE, Ask, Dream, Frame, Header, Traced, inpainting, sampling, unpack
from shapedreamer.live.settings import Settings, Trace
from shapedreamer.models.model import Model
from tests.watching import finished, settings, small

TOLD, BARE = small(), small(labels=(), channels=3)
WAYS: list[tuple[SamplerName, int, float]] = [
    ("ddpm", 4, 0.0),
    ("ddim", 4, 0.0),
    ("ddim", 3, 1.0),
    ("ddim", 1, 0.0),
    ("heun", 5, 0.0),
    ("heun", 4, 0.0),
    ("dpmpp_2m", 4, 0.0),
    ("dpmpp_2m", 4, 1.0),
]
KEEP = torch.arange(8).expand(8, 8) < 4


def close(a: Tensor, b: Tensor) -> None:
    assert_close(a, b, rtol=0, atol=1e-5)


class Watched(Dream):
    """A dream that goes on frame by frame."""

    def goes_on(self, model: Model) -> tuple[Frame, Tensor]:
        frame = self.next()
        x = finished(frame.make(model), model)
        assert self.wants(frame)
        self.landed(frame, x)
        return frame, x


def dreaming(image: Tensor | None = None, **changes: Any) -> Watched:
    dream = Watched()
    dream.set(1, settings(**changes), image)
    return dream


# the pictures


@pytest.mark.parametrize(("sampler", "steps", "eta"), WAYS)
@pytest.mark.parametrize(
    ("label", "guidance", "num"),
    [("any", 1.0, 4), ("none", 1.0, 1), ({"circle": 2.0, "line": 1.0}, 2.5, 4), ({"square": 1.0}, 0.0, 1)],
    ids=["any", "none", "guided", "forgotten"],
)
def test_a_dream_is_a_melting_sample(
    sampler: SamplerName, steps: int, eta: float, label: Any, guidance: float, num: int
) -> None:
    values = {"sampler": sampler, "steps": steps, "eta": eta, "label": label, "guidance": guidance, "num": num}
    dream = dreaming(**values, creativity=30)
    way = settings(**values).way()
    sampled = TOLD.sample(num, **way._asdict())
    for k, expected in enumerate(explore.melt(TOLD, sampled, 30, 4, num, way)):
        frame, x = dream.goes_on(TOLD)
        assert (frame.k, frame.id, frame.pure) == (k, 1, True)
        close(x, expected)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_so_it_is_for_every_prediction(prediction: Prediction) -> None:
    model = small(prediction=prediction, channels=3)
    way = settings(num=4, label={"line": 1.0}, guidance=3.0).way()
    melting = explore.melt(model, model.sample(4, **way._asdict()), 30, 3, 4, way)
    dream = dreaming(num=4, label={"line": 1.0}, guidance=3.0)
    for expected in melting:
        close(dream.goes_on(model)[1], expected)


def test_so_it_is_for_an_exact_denoiser() -> None:
    class Exact(torch.nn.Module):
        def __init__(self, denoise: Denoise) -> None:
            super().__init__()
            self.denoise, self.anything = denoise, torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.denoise(x, t)

    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)).sign()
    exact, spec = Exact(oracle.finite_data(images, cosine(50))), small(labels=()).spec
    model = Model(exact, cosine(50), "x0", spec, precision="float32")
    way = settings(num=16, steps=10, sampler="ddpm").way()
    dream = dreaming(num=16, steps=10, sampler="ddpm", creativity=45)
    for expected in explore.melt(model, model.sample(16, **way._asdict()), 45, 3, 16, way):
        _, x = dream.goes_on(model)
        close(x, expected)
        assert (torch.cdist(x.flatten(1), images.flatten(1)).min(dim=1).values < 0.1).all()


def test_frames_stay_unrounded_between() -> None:
    dream = dreaming(BARE.sample(1) / 3)
    _, given = dream.goes_on(BARE)
    _, x = dream.goes_on(BARE)
    way = settings().way()
    rounded = torch.from_numpy(to_uint8(given)).permute(0, 3, 1, 2) / 127.5 - 1
    assert torch.equal(given, BARE.sample(1) / 3)
    close(x, explore.vary(BARE, given, 30, 1, way, explore.ANEW + 1))
    assert not torch.allclose(x, explore.vary(BARE, rounded, 30, 1, way, explore.ANEW + 1), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_settings_hold_from_the_next_frame_on_and_the_dream_is_no_longer_pure() -> None:
    dream = dreaming(num=4)
    x = [dream.goes_on(TOLD)[1] for _ in range(2)][-1]
    changed: dict[str, Any] = {"num": 4}
    changes: list[dict[str, Any]] = [
        {"creativity": 12},
        {"sampler": "heun"},
        {"steps": 5},
        {"label": {"line": 2.0}},
        {"guidance": 2.0},
        {"sampler": "ddim", "eta": 0.5},
    ]
    for k, change in enumerate(changes, 2):
        changed |= change
        dream.set(k, settings(**changed), None)
        assert not dream.is_due
        frame, after = dream.goes_on(TOLD)
        assert (frame.k, frame.id, frame.pure) == (k, k, False)
        close(after, explore.vary(TOLD, x, changed["creativity"], 4, settings(**changed).way(), explore.ANEW + 4 * k))
        x = after
    dream.restart()
    frame, x = dream.goes_on(TOLD)
    assert (frame.k, frame.pure) == (0, True)
    close(x, TOLD.sample(4, **settings(**changed).way()._asdict()))


def test_speed_and_what_is_set_before_the_first_frame_leave_a_dream_pure() -> None:
    dream = dreaming()
    dream.set(2, settings(steps=3), None)
    assert dream.goes_on(BARE)[0].pure
    dream.set(3, settings(steps=3, fps=5.0), None)
    dream.set(4, settings(steps=3, fps=5.0), None)
    frame, _ = dream.goes_on(BARE)
    assert (frame.k, frame.id, frame.pure) == (1, 4, True)
    dream.set(5, settings(steps=4), None)
    dream.set(6, settings(steps=3), None)  # and back: but who knows what was made in between
    assert not dream.goes_on(BARE)[0].pure


@pytest.mark.parametrize("change", [{"seed": "6"}, {"num": 4}, {"model": "other"}])
def test_some_changes_begin_the_dream_again(change: dict[str, Any]) -> None:
    dream = dreaming(torch.zeros(1, 1, 8, 8), steps=3)
    dream.goes_on(TOLD)
    dream.set(2, settings(steps=4), None)
    dream.goes_on(TOLD)
    under_way = dream.next()
    dream.set(3, settings(**change), None)
    assert dream.is_due
    assert not dream.wants(under_way)
    frame, x = dream.goes_on(TOLD)
    assert (frame.k, frame.id, frame.pure) == (0, 3, True)  # the image that was given is forgotten
    assert not dream.is_due
    close(x, TOLD.sample(frame.settings.num, **settings(**change).way()._asdict()))


def test_an_image_begins_a_dream_that_is_not_pure() -> None:
    image = TOLD.sample(4)
    dream = dreaming()
    dream.goes_on(TOLD)
    dream.set(2, settings(num=4), image)
    frame, x = dream.goes_on(TOLD)
    assert (frame.k, frame.pure) == (0, False)
    assert torch.equal(x, image)
    dream.set(3, settings(num=4, steps=1), None)  # says nothing of the image, which stays what the dream begins with
    frame, x = dream.goes_on(TOLD)
    assert (frame.k, frame.pure) == (1, False)
    close(x, explore.vary(TOLD, image, 30, 4, settings(steps=1).way(), explore.ANEW + 4))
    dream.restart()
    frame, x = dream.goes_on(TOLD)
    assert (frame.k, frame.pure) == (0, False)
    assert torch.equal(x, image)
    dream.set(4, settings(num=4, steps=1), image)
    assert dream.is_due


@pytest.mark.parametrize("sampler", ["ddim", pytest.param("heun", marks=pytest.mark.slow)])
def test_a_part_is_dreamt_anew(sampler: SamplerName) -> None:
    dream = dreaming(num=4, steps=3, sampler=sampler)
    assert dream.is_due
    dream.goes_on(BARE)
    _, before = dream.goes_on(BARE)
    assert not dream.is_due
    dream.repaint(KEEP)
    assert dream.is_due
    frame, x = dream.goes_on(BARE)
    assert (frame.k, frame.pure) == (2, False)
    assert not dream.is_due
    way = settings(steps=3, sampler=sampler).way()
    close(x, explore.inpaint(BARE, before[:1], KEEP, 4, way))
    assert torch.equal(x[..., :4], before[:1, :, :, :4].expand(4, -1, -1, -1))
    frame, after = dream.goes_on(BARE)
    assert (frame.k, frame.pure) == (3, False)
    close(after, explore.vary(BARE, x, 30, 4, way, explore.ANEW + 12))


def test_a_part_to_dream_anew_waits_for_the_first_frame_and_not_for_another_dream() -> None:
    dream = dreaming()
    dream.repaint(KEEP)
    assert dream.goes_on(BARE)[0].keep is None
    assert dream.is_due
    assert dream.goes_on(BARE)[0].keep is KEEP
    dream.repaint(KEEP)
    dream.restart()
    dream.goes_on(BARE)
    assert not dream.is_due


def test_without_creativity_a_dream_stands_still() -> None:
    dream = dreaming(creativity=0)
    _, x = dream.goes_on(BARE)
    frame = dream.next()
    assert frame.k == 1
    with pytest.raises(StopIteration) as end:
        next(frame.make(BARE))
    assert torch.equal(end.value.value, x)


def test_a_frame_that_was_not_finished_is_made_once_more_and_not_by_itself() -> None:
    dream = dreaming()
    dream.next()
    assert not dream.is_due
    frame, _ = dream.goes_on(BARE)
    assert frame.k == 0


# stopping where the network is called


@pytest.mark.parametrize(("sampler", "steps", "eta"), WAYS)
def test_the_questions_are_those_of_the_sampler(sampler: SamplerName, steps: int, eta: float) -> None:
    way = Way(sampler, steps, eta, 5, {"line": 1.0}, 2.0)
    expected: list[tuple[Tensor, Tensor]] = []
    denoise = TOLD.denoiser_for(4, way.label, way.guidance)

    def asked(x_t: Tensor, t: Tensor) -> Tensor:
        expected.append((x_t, t))
        return denoise(x_t, t)

    landed = list(TOLD.walk(asked, TOLD.noise(4, 5), sampler, steps, eta, Noise(5)))
    asks = sampling(TOLD, 4, way, wanted=None)
    ask = next(asks)
    for i, (x_t, t) in enumerate(expected):
        close(ask.x_t, x_t)
        assert torch.equal(ask.t, t)
        assert ask.guidance == 2.0
        assert ask.label is not None
        assert torch.equal(ask.label, torch.tensor([[0.0, 1.0, 0.0]] * 4))
        if i < len(expected) - 1:
            ask = asks.send(denoise(ask.x_t, ask.t))
    with pytest.raises(StopIteration) as end:
        asks.send(denoise(ask.x_t, ask.t))
    assert [step.t for step in end.value.value] == [50, *[step.t for step in landed]]
    close(end.value.value[-1].x, landed[-1].x)


def test_a_label_as_the_data_have_them_stays_with_its_image() -> None:
    asks = sampling(TOLD, 16, settings(seed="3").way())
    first, second = next(asks), asks.send(torch.zeros(16, 1, 8, 8))
    expected = TOLD.label_vectors("any", 16, 3)
    assert expected is not None
    assert len(expected.unique(dim=0)) == 3
    for ask in (first, second):
        assert ask.label is not None
        assert torch.equal(ask.label, expected)


def test_what_the_network_is_told() -> None:
    label = torch.eye(3)[:1]
    ask = Ask(TOLD.noise(1), torch.ones(1), label, 1.0)
    assert ask.told == [label]
    assert ask._replace(guidance=0.0).told == [None]
    assert ask._replace(label=None).told == [None]
    both = ask._replace(guidance=-1.5).told
    assert both[0] is None
    assert both[1] is label


def test_to_dream_a_part_anew_asks_no_more_than_it_must() -> None:
    """Each step is walked ten times, but for the last; a sampler that looks ahead would ask more."""
    asked = 0
    asks = inpainting(BARE, BARE.sample(1), KEEP, 1, settings(steps=4).way())
    ask = next(asks)
    with contextlib.suppress(StopIteration):
        while True:
            asked += 1
            ask = asks.send(torch.zeros_like(ask.x_t))
    assert asked == 3 * 10 + 1


# how it travels


def test_the_layout_of_a_frame() -> None:
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
def test_a_header_comes_back(
    id: int, k: int, num: int, C: int, H: int, W: int, count: int, ms: float, pure: bool
) -> None:
    header = Header(FRAME, pure, id, k, num, C, H, W, count, ms)
    body = bytes(range(num * C * H * W))
    assert unpack(header.pack() + body) == (header, body)


def test_what_is_no_frame_is_refused() -> None:
    data = Header(FRAME, True, 1, 2, 1, 1, 2, 2, 1, 0.0).pack() + b"1234"
    unpack(data)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"no frame|must have 4"):
            unpack(data[:length])
    with pytest.raises(ValueError, match="must have 4"):
        unpack(data + b"5")
    with pytest.raises(ValueError, match="no frame"):
        unpack(b"DS" + data[2:])
    with pytest.raises(ValueError, match="kind 3"):
        unpack(data[:2] + b"\3" + data[3:])


def test_a_frame_travels_as_its_pixels() -> None:
    dream = dreaming(num=4)
    frame, x = dream.goes_on(BARE)
    header, body = unpack(frame.pack(x, 7, 12.5))
    assert header == Header(FRAME, True, 1, 0, 4, 3, 8, 8, 7, 12.5)
    assert body == to_uint8(x).tobytes()
    assert len(set(body)) > 100


@pytest.mark.parametrize(("sampler", "steps", "eta"), WAYS)
def test_a_trace_travels_step_by_step(sampler: SamplerName, steps: int, eta: float) -> None:
    asked = Trace(type="trace", id=9, sampler=sampler, steps=steps, eta=eta)
    set_: Settings = settings(num=4, sampler="ddpm", steps=9, label={"line": 1.0}, guidance=2.0)
    walk = Traced(asked, set_)
    made = finished(walk.make(TOLD), TOLD)
    header, body = unpack(walk.pack(made, 2 * steps, 3.0))
    expected = list(TOLD.stream(1, sampler, steps, eta, 5, label={"line": 1.0}, guidance=2.0))
    assert header == Header(TRACE, False, 9, len(expected), 1, 1, 8, 8, 2 * steps, 3.0)

    size = len(body) // len(expected)
    parts = []
    for i in range(len(expected)):
        t, s = struct.unpack_from("<ii", body, i * size)
        images = torch.frombuffer(bytearray(body[i * size + 8 : (i + 1) * size]), dtype=torch.float32)
        parts.append((t, s, *images.view(3, 1, 1, 8, 8)))
    assert parts[0][0] == 50
    assert parts[-1][1] == 0
    close(parts[0][2], TOLD.noise(1, 5))
    for before, after in pairwise(parts):
        assert before[1] == after[0]
        assert torch.equal(before[4], after[2])
    for (_, s, _, x0, x), step in zip(parts, expected, strict=True):
        assert s == step.t
        close(x0, step.x0)
        close(x, step.x)
