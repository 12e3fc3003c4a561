"""Messages from the page: which are valid, and what the error says about those that are not."""

import base64
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shapedreamer.common.errors import UserError
from shapedreamer.diffusion.schedule import cosine
from shapedreamer.live.settings import (
    MAX_ERROR_LENGTH,
    ControlMessage,
    InvalidMessageError,
    RepaintMessage,
    SampleMessage,
    SetMessage,
    TraceMessage,
    check_settings,
    decode_image,
    decode_mask,
    error_message,
    max_message_bytes,
    model_info,
    parse,
)
from shapedreamer.models import zoo
from shapedreamer.models.model import load
from shapedreamer.models.options import SampleOptions
from tests.watching import settings, small_model

CONDITIONAL, UNCONDITIONAL = small_model(), small_model(labels=(), channels=3)
SETTINGS: dict[str, Any] = settings().model_dump()
MAX_BYTES = 100_000
NEWER = ("motion", "every")  # optional: clients that are older than drift do not send them


def message(**changes: Any) -> dict[str, Any]:
    """A valid "set" message, with changes to its settings."""
    return {"type": "set", "id": 7, "settings": {**SETTINGS, **changes}}


def trace_text(field: str, value: str) -> str:
    """A "trace" message in JSON, with one field replaced."""
    fields = {"type": '"trace"', "id": "1", "sampler": '"ddim"', "steps": "1", "eta": "0"} | {field: value}
    return "{" + ", ".join(f'"{name}": {text}' for name, text in fields.items()) + "}"


def parse_error(data: object) -> InvalidMessageError:
    """The error for a text, or for the JSON of an object."""
    with pytest.raises(InvalidMessageError) as caught:
        parse(data if isinstance(data, str) else json.dumps(data), MAX_BYTES)
    return caught.value


# valid messages


def test_parse_accepts_every_type_of_message() -> None:
    set_ = parse(json.dumps(message(label={"circle": 2, "line": 0.5}, eta=1, fps=12.5)), MAX_BYTES)
    assert isinstance(set_, SetMessage)
    assert (set_.id, set_.image) == (7, None)
    assert set_.settings == settings(label={"circle": 2.0, "line": 0.5}, eta=1.0, fps=12.5)
    assert parse(json.dumps({**message(), "image": "AAAA"}), MAX_BYTES) == set_.model_copy(
        update={"settings": settings(), "image": "AAAA"}
    )
    for action in ("play", "pause", "step", "restart"):
        assert parse(json.dumps({"type": action}), MAX_BYTES) == ControlMessage(type=action)
    assert parse('{"type": "repaint", "mask": "AP8="}', MAX_BYTES) == RepaintMessage(type="repaint", mask="AP8=")
    trace = {"type": "trace", "id": 2**32 - 1, "sampler": "heun", "steps": 50, "eta": 0}
    expected = TraceMessage(type="trace", id=2**32 - 1, sampler="heun", steps=50, eta=0.0)
    assert parse(json.dumps(trace), MAX_BYTES) == expected
    assert parse(json.dumps({**trace, "frame": 7}), MAX_BYTES) == expected.model_copy(update={"frame": 7})
    sample = parse(json.dumps({**message(), "type": "sample"}), MAX_BYTES)
    assert sample == SampleMessage(type="sample", id=7, settings=settings())


def test_leading_zeros_of_a_seed_are_dropped() -> None:
    parsed = parse(json.dumps(message(seed="007")), MAX_BYTES)
    assert isinstance(parsed, SetMessage)
    assert parsed.settings.seed == "7"


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "seed": ["0", "18446744073709551615"],
        "num": [1, 4, 16],
        "sampler": ["ddpm", "ddim", "heun", "dpmpp_2m", "midpoint", "heun_line"],
        "steps": [1, 50],
        "eta": [0, 0.5, 1],
        "guidance": [-10, 10],
        "creativity": [0, 10**6],
        "label": ["any", "none", {}, {"a": 0, "b": 9}],
        "fps": [0, 60, 0.5],
    }.items(),
)
def test_ranges_include_their_limits(field: str, values: list[Any]) -> None:
    for value in values:
        parsed = parse(json.dumps(message(**{field: value})), MAX_BYTES)
        assert isinstance(parsed, SetMessage)
        assert getattr(parsed.settings, field) == value


def test_options_of_settings() -> None:
    values = settings(seed=str(2**64 - 1), label={"line": 2.0}, guidance=3.0, eta=0.5, steps=9)
    assert values.options() == SampleOptions("ddim", 9, 0.5, 2**64 - 1, {"line": 2.0}, 3.0)
    assert settings(label="none").options().label is None
    assert settings(label="any").options().label == "any"


# invalid messages


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("model", 5, "settings.model must be a valid string, not 5"),
        ("seed", 5, "settings.seed must be a valid string, not 5"),
        ("seed", "-1", "settings.seed must be a string of digits, 0 to 2⁶⁴−1, not '-1'"),
        ("seed", "1e3", "0 to 2⁶⁴−1, not '1e3'"),
        ("seed", " 1", "0 to 2⁶⁴−1, not ' 1'"),
        ("seed", "1\n", "0 to 2⁶⁴−1, not '1"),
        ("seed", "", "0 to 2⁶⁴−1, not ''"),
        ("seed", "١", "0 to 2⁶⁴−1, not '١'"),
        ("seed", "18446744073709551616", "0 to 2⁶⁴−1, not '18446744073709551616'"),
        ("seed", "9" * 1000, "0 to 2⁶⁴−1, not '999"),
        ("num", 2, "settings.num must be one of 1, 4, 16, not 2"),
        ("num", True, "settings.num must be a valid integer, not True"),
        ("num", 1.0, "settings.num must be a valid integer, not 1.0"),
        ("num", "4", "settings.num must be a valid integer, not '4'"),
        (
            "sampler",
            "DDIM",
            "settings.sampler must be 'ddpm', 'ddim', 'heun', 'dpmpp_2m', 'midpoint', 'heun_line', "
            "'masked_ancestral', 'masked_random' or 'masked_confidence', not 'DDIM'",
        ),
        ("sampler", ["ddim"], "settings.sampler must be"),
        ("steps", 0, "settings.steps must be at least 1, not 0"),
        ("steps", 51, "settings.steps must be at most 50, not 51"),
        ("steps", 4.0, "settings.steps must be a valid integer, not 4.0"),
        ("steps", True, "settings.steps must be a valid integer, not True"),
        ("steps", 10**400, "settings.steps"),
        ("eta", -0.01, "settings.eta must be at least 0, not -0.01"),
        ("eta", 2.01, "settings.eta must be at most 2, not 2.01"),
        ("eta", False, "settings.eta must be a valid number, not False"),
        ("guidance", 10.5, "settings.guidance must be at most 10, not 10.5"),
        ("guidance", "1", "settings.guidance must be a valid number, not '1'"),
        ("creativity", -1, "settings.creativity must be at least 0, not -1"),
        ("creativity", 1.5, "settings.creativity must be a valid integer, not 1.5"),
        ("label", "circle", "settings.label must be 'any' or 'none', not 'circle'"),
        ("label", None, "settings.label must be 'any' or 'none', not None"),
        ("label", ["circle"], "settings.label must be 'any' or 'none', not ['circle']"),
        ("label", {"circle": 9.5}, "settings.label.circle must be at most 9, not 9.5"),
        ("label", {"circle": -1}, "settings.label.circle must be at least 0, not -1"),
        ("label", {"circle": True}, "settings.label.circle must be a valid number, not True"),
        ("label", {"circle": {"circle": 1}}, "settings.label.circle must be a valid number, not {'circle': 1}"),
        ("fps", 61, "settings.fps must be at most 60, not 61"),
        ("fps", None, "settings.fps must be a valid number, not None"),
        ("other", 1, "unknown field settings.other"),
    ],
)
def test_errors_name_the_setting_its_value_and_the_valid_range(field: str, value: Any, reason: str) -> None:
    error = parse_error(message(**{field: value}))
    assert reason in str(error)
    assert error.id == 7


@pytest.mark.parametrize("field", [*(name for name in SETTINGS if name not in NEWER), "id", "settings", "type"])
def test_every_field_is_required(field: str) -> None:
    data = message()
    (data["settings"] if field in SETTINGS else data).pop(field)
    error = parse_error(data)
    assert field in str(error)
    assert "missing" in str(error) or "type" in str(error)
    assert error.id == (None if field == "id" else 7)


def test_clients_that_are_older_than_drift_melt_as_they_did() -> None:
    data = message()
    for field in NEWER:
        del data["settings"][field]
    found = parse(json.dumps(data), MAX_BYTES)
    assert isinstance(found, SetMessage)
    assert (found.settings.motion, found.settings.every) == ("melt", 0)


@pytest.mark.parametrize(
    ("motion", "every", "creativity", "samples"),
    [("drift", 4, 9, [0, 1, 4, 6]), ("melt", 4, 9, [0, 4]), ("melt", 4, 0, [0]), ("melt", 0, 9, [0])],
)
def test_which_frames_are_samples(motion: Any, every: int, creativity: int, samples: list[int]) -> None:
    chosen = settings(motion=motion, every=every, creativity=creativity)
    assert [frame for frame in (0, 1, 4, 6) if chosen.is_sample(frame)] == samples


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["eta", "guidance", "fps", "creativity", "steps"])
def test_numbers_must_be_finite(number: str, field: str) -> None:
    parse_error(json.dumps(message(**{field: "HERE"})).replace('"HERE"', number))
    parse_error(json.dumps(message(label={"circle": "HERE"})).replace('"HERE"', number))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must be JSON"),
        ("play", "must be JSON"),
        ("{'type': 'play'}", "must be JSON"),
        ('{"type": "play"} {"type": "pause"}', "must be JSON"),
        ('{"type": "play",}', "must be JSON"),
        ('"\\ud800"', "must be JSON"),
        ("[" * 5000, "recursion"),
        ('{"a":' * 5000, "recursion"),
        ('{"type": "set", "id": ' + "9" * 5000 + "}", "out of range"),
        ("null", "message must be a JSON object, not None"),
        ("5", "message must be a JSON object, not 5"),
        ("[]", "message must be a JSON object, not []"),
        ("{}", "type is missing"),
        ('{"type": 5}', "'set', 'play', 'pause', 'step', 'restart', 'repaint', 'trace', 'sample', not 5"),
        ('{"type": "quit"}', "'set', 'play', 'pause', 'step', 'restart', 'repaint', 'trace', 'sample', not 'quit'"),
        ('{"type": null}', "type must be one of 'set'"),
        ('{"type": ["play"]}', "type must be one of 'set'"),
        ('{"type": "play", "now": true}', "unknown field now"),
        ('{"type": "repaint"}', "mask is missing"),
        ('{"type": "repaint", "mask": [255]}', "mask must be a valid string, not [255]"),
        ('{"type": "set", "id": 1, "settings": []}', "settings must be a JSON object, not []"),
        (trace_text("id", "4294967296"), "id must be less than 4294967296, not 4294967296"),
        (trace_text("id", "-1"), "id must be at least 0, not -1"),
        (trace_text("id", "true"), "id must be a valid integer, not True"),
        (trace_text("steps", "51"), "steps must be at most 50, not 51"),
    ],
    ids=lambda text: text[:40],
)
def test_texts_that_are_not_messages(text: str, reason: str) -> None:
    assert reason in str(parse_error(text))


def test_length_is_measured_in_bytes() -> None:
    text = json.dumps({"type": "play"})
    assert parse(text, len(text)) == ControlMessage(type="play")
    with pytest.raises(InvalidMessageError, match="at most 15 bytes, not 16"):
        parse(text, 15)
    with pytest.raises(InvalidMessageError, match="at most 4 bytes, not 5"):
        parse('"ü"x', 4)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_arbitrary_json_raises_only_invalid_message_error(data: Any) -> None:
    parse_error(json.dumps(data))


@given(st.text())
def test_arbitrary_text_raises_only_invalid_message_error(text: str) -> None:
    parse_error(text)


@given(st.sampled_from(sorted(SETTINGS)), json_values)
def test_parse_never_converts_a_value(field: str, value: Any) -> None:
    try:
        parsed = parse(json.dumps(message(**{field: value})), MAX_BYTES)
    except InvalidMessageError:
        return
    assert isinstance(parsed, SetMessage)
    parsed_value = getattr(parsed.settings, field)
    assert parsed_value == value
    assert type(parsed_value) is type(value) or (isinstance(parsed_value, float) and type(value) is int)


# what a model supports


def test_check_settings_rejects_what_the_model_does_not_support() -> None:
    changes: dict[str, Any]
    for model, changes, reason in (
        (CONDITIONAL, {"creativity": 51}, "creativity must be between 0 and T = 50, not 51"),
        (CONDITIONAL, {"label": {"dog": 1.0}}, "no label 'dog'; there are: circle, line, square"),
        (CONDITIONAL, {"label": {"1": 1.0}}, "no label '1'"),
        (CONDITIONAL, {"label": "none", "guidance": 2.0}, "guidance 2 needs a label"),
        (CONDITIONAL, {"sampler": "heun", "eta": 0.5}, "heun has no eta; the samplers ddim and dpmpp_2m have one"),
        (UNCONDITIONAL, {"label": {"circle": 1.0}}, "without labels"),
        (UNCONDITIONAL, {"label": {}}, "without labels"),
        (UNCONDITIONAL, {"guidance": 2.0}, "guidance 2 needs a label"),
    ):
        with pytest.raises(UserError, match=reason):
            check_settings(settings(**changes), model)
    for model, changes in (
        (CONDITIONAL, {"creativity": 50, "steps": 50, "label": {"line": 9.0}, "guidance": -10.0}),
        (CONDITIONAL, {"label": {}, "guidance": 2.0}),
        (CONDITIONAL, {"label": "any", "guidance": 0.0}),
        (UNCONDITIONAL, {"label": "any"}),
        (UNCONDITIONAL, {"label": "none", "creativity": 0, "sampler": "heun", "steps": 1}),
    ):
        check_settings(settings(**changes), model)


def test_steps_cannot_exceed_the_timesteps_of_the_model() -> None:
    model = small_model(schedule=cosine(10))
    with pytest.raises(UserError, match="steps must be between 1 and 10, not 11"):
        check_settings(settings(steps=11, creativity=5), model)
    check_settings(settings(sampler="ddpm", steps=10, creativity=5), model)
    with pytest.raises(UserError, match="ddpm has no eta"):
        check_settings(settings(sampler="ddpm", steps=10, eta=0.1, creativity=5), model)


def test_decode_image() -> None:
    pixels = bytes(range(192)) * 4
    image = decode_image(base64.b64encode(pixels).decode(), 4, UNCONDITIONAL)
    assert image.shape == (4, 3, 8, 8)
    assert image.dtype == torch.float32
    for n, c, y, x in ((0, 0, 0, 0), (0, 2, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (3, 1, 7, 6)):
        expected = pixels[((n * 8 + y) * 8 + x) * 3 + c] / 127.5 - 1
        assert image[n, c, y, x].item() == pytest.approx(expected, abs=1e-6)
    black_and_white = base64.b64encode(b"\0" * 32 + b"\xff" * 32).decode()
    assert decode_image(black_and_white, 1, CONDITIONAL).unique().tolist() == [-1, 1]


def test_decode_mask() -> None:
    mask = bytearray(64)
    mask[8 * 2 + 5] = 255
    keep = decode_mask(base64.b64encode(mask).decode(), CONDITIONAL)
    assert keep.shape == (8, 8)
    assert keep.logical_not().nonzero().tolist() == [[2, 5]]
    with pytest.raises(UserError, match="mask selects nothing"):
        decode_mask(base64.b64encode(bytes(64)).decode(), CONDITIONAL)


@pytest.mark.parametrize("text", ["", "A", "AAA", "AA==", "é", "AAAA AAAA", "AAAA\n", "data:,", "A" * 90_000])
def test_decode_errors_name_the_expected_length(text: str) -> None:
    with pytest.raises(UserError, match=r"image must (have num·H·W·C = 4·8·8·1 = 256 bytes, not \d+|be base64, not)"):
        decode_image(text, 4, CONDITIONAL)
    with pytest.raises(UserError, match=r"mask must (have H·W = 8·8 = 64 bytes, not \d+|be base64, not)"):
        decode_mask(text, CONDITIONAL)


def test_max_message_bytes_fits_the_largest_valid_message() -> None:
    image = base64.b64encode(bytes(16 * 3 * 8 * 8)).decode()
    text = json.dumps({**message(num=16, label={f"label {i}": 9.123456789 for i in range(100)}), "image": image})
    assert len(text) < max_message_bytes([CONDITIONAL, UNCONDITIONAL]) < 2 * len(text) + 16_384


# messages to the page


def test_model_info_names_the_checkpoints_of_a_training_run() -> None:
    first, later = (model_info(f"sprites-epoch-{epoch}", CONDITIONAL)["checkpoint"] for epoch in (0, 8))
    assert first == {"run": "sprites", "epoch": 0, "curve": ()}
    assert later == {"run": "sprites", "epoch": 8, "curve": zoo.card("sprites-epoch-8").curve}
    assert len(zoo.card("sprites-epoch-8").curve) == 8
    for name in ("sprites", "my-epoch-8", "runs/sprites-epoch-8"):
        assert "checkpoint" not in model_info(name, CONDITIONAL)


def test_model_info() -> None:
    info = model_info("my run", CONDITIONAL)
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    simple = ("name", "channels", "height", "width", "labels", "T", "prediction", "turbo")
    assert {key: info[key] for key in simple} == {
        "name": "my run",
        "channels": 1,
        "height": 8,
        "width": 8,
        "labels": ["circle", "line", "square"],
        "T": 50,
        "prediction": "x0",
        "turbo": True,
    }
    assert info["sampling"] == {"sampler": "ddim", "steps": 2, "eta": 1.0, "spacing": "log_snr"}
    assert info["alpha_bar"] == CONDITIONAL.schedule.alpha_bar.tolist()
    t = info["creativity"]
    assert isinstance(t, int)
    assert 1 - CONDITIONAL.schedule.alpha_bar[t] >= 0.8 > 1 - CONDITIONAL.schedule.alpha_bar[t - 1]
    assert model_info("bare", UNCONDITIONAL)["labels"] == []


def test_the_default_creativity_of_a_few_step_model_is_a_timestep_it_was_trained_at() -> None:
    model = load("shapes-turbo")
    assert model.sampling.spacing == "cubic"
    assert model_info("turbo", model)["creativity"] == 422  # trained at 1000, 670, 422, …; 50% noise would be at 497


def test_error_messages_are_truncated() -> None:
    assert error_message(UserError("no"), 5) == {"type": "error", "id": 5, "message": "no"}
    assert len(str(error_message("x" * 10_000)["message"])) == MAX_ERROR_LENGTH
