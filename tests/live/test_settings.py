"""Messages from a page: what is taken, what is refused, and that the refusal says what would be right."""

import base64
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shapedreamer.common.errors import UserError
from shapedreamer.diffusion.schedule import cosine
from shapedreamer.imaging.figures import Way
from shapedreamer.live.settings import (
    LONGEST,
    Order,
    RefusedError,
    Repaint,
    Set,
    Trace,
    check_settings,
    check_way,
    error,
    image_of,
    keep_of,
    longest_message,
    model_info,
    parse,
)
from shapedreamer.models.model import load
from tests.watching import settings, small

LABELLED, BARE = small(), small(labels=(), channels=3)
SETTINGS: dict[str, Any] = settings().model_dump()
LONG = 100_000


def message(**changes: Any) -> dict[str, Any]:
    """A good message, but for changes of its settings."""
    return {"type": "set", "id": 7, "settings": {**SETTINGS, **changes}}


def refusal(words: object) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        parse(words if isinstance(words, str) else json.dumps(words), LONG)
    return caught.value


# what is taken


def test_every_message_is_understood() -> None:
    set_ = parse(json.dumps(message(label={"circle": 2, "line": 0.5}, eta=1, fps=12.5)), LONG)
    assert isinstance(set_, Set)
    assert (set_.id, set_.image) == (7, None)
    assert set_.settings == settings(label={"circle": 2.0, "line": 0.5}, eta=1.0, fps=12.5)
    assert parse(json.dumps({**message(), "image": "AAAA"}), LONG) == set_.model_copy(
        update={"settings": settings(), "image": "AAAA"}
    )
    for word in ("play", "pause", "step", "restart"):
        assert parse(json.dumps({"type": word}), LONG) == Order(type=word)
    assert parse('{"type": "repaint", "mask": "AP8="}', LONG) == Repaint(type="repaint", mask="AP8=")
    trace = {"type": "trace", "id": 2**32 - 1, "sampler": "heun", "steps": 50, "eta": 0}
    assert parse(json.dumps(trace), LONG) == Trace(type="trace", id=2**32 - 1, sampler="heun", steps=50, eta=0.0)


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "seed": ["0", "18446744073709551615", "007"],
        "num": [1, 4, 16],
        "sampler": ["ddpm", "ddim", "heun", "dpmpp_2m"],
        "steps": [1, 50],
        "eta": [0, 0.5, 1],
        "guidance": [-10, 10],
        "creativity": [0, 10**6],
        "label": ["any", "none", {}, {"a": 0, "b": 9}],
        "fps": [0, 60, 0.5],
    }.items(),
)
def test_the_ends_of_every_range_are_in_it(field: str, values: list[Any]) -> None:
    for value in values:
        found = parse(json.dumps(message(**{field: value})), LONG)
        assert isinstance(found, Set)
        assert getattr(found.settings, field) == value


def test_settings_are_a_way_to_sample() -> None:
    found = settings(seed=str(2**64 - 1), label={"line": 2.0}, guidance=3.0, eta=0.5, steps=9)
    assert found.way() == Way("ddim", 9, 0.5, 2**64 - 1, {"line": 2.0}, 3.0)
    assert settings(label="none").way().label is None
    assert settings(label="any").way().label == "any"


# what is refused


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("model", 5, "settings.model is 5: it should be a valid string"),
        ("seed", 5, "settings.seed is 5: it should be a valid string"),
        ("seed", "-1", "settings.seed is '-1'"),
        ("seed", "1e3", "settings.seed is '1e3'"),
        ("seed", " 1", "settings.seed is ' 1'"),
        ("seed", "1\n", "settings.seed is '1"),
        ("seed", "", "settings.seed is ''"),
        ("seed", "١", "settings.seed is '١'"),
        ("seed", "18446744073709551616", "must be at most 2⁶⁴−1"),
        ("seed", "9" * 1000, "settings.seed is '999"),
        ("num", 2, "settings.num is 2: it must be one of 1, 4, 16"),
        ("num", True, "settings.num is True: it should be a valid integer"),
        ("num", 1.0, "settings.num is 1.0: it should be a valid integer"),
        ("num", "4", "settings.num is '4': it should be a valid integer"),
        ("sampler", "DDIM", "should be 'ddpm', 'ddim', 'heun' or 'dpmpp_2m'"),
        ("sampler", ["ddim"], "settings.sampler is"),
        ("steps", 0, "settings.steps is 0: it should be greater than or equal to 1"),
        ("steps", 51, "settings.steps is 51: it should be less than or equal to 50"),
        ("steps", 4.0, "settings.steps is 4.0"),
        ("steps", True, "settings.steps is True"),
        ("steps", 10**400, "settings.steps is"),
        ("eta", -0.01, "settings.eta is -0.01"),
        ("eta", 1.01, "settings.eta is 1.01"),
        ("eta", False, "settings.eta is False: it should be a valid number"),
        ("guidance", 10.5, "settings.guidance is 10.5"),
        ("guidance", "1", "settings.guidance is '1'"),
        ("creativity", -1, "settings.creativity is -1"),
        ("creativity", 1.5, "settings.creativity is 1.5"),
        ("label", "circle", "settings.label is 'circle': it should be 'any' or 'none'"),
        ("label", None, "settings.label is None"),
        ("label", ["circle"], "settings.label is ['circle']"),
        ("label", {"circle": 9.5}, "settings.label.circle is 9.5: it should be less than or equal to 9"),
        ("label", {"circle": -1}, "settings.label.circle is -1"),
        ("label", {"circle": True}, "settings.label.circle is True"),
        ("label", {"circle": {"circle": 1}}, "settings.label.circle is {'circle': 1}"),
        ("fps", 61, "settings.fps is 61"),
        ("fps", None, "settings.fps is None"),
        ("other", 1, "there is no settings.other"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_value_and_what_is_right(field: str, value: Any, says: str) -> None:
    error = refusal(message(**{field: value}))
    assert says in str(error)
    assert error.id == 7


@pytest.mark.parametrize("field", [*SETTINGS, "id", "settings", "type"])
def test_every_field_must_be_there(field: str) -> None:
    words = message()
    (words["settings"] if field in SETTINGS else words).pop(field)
    error = refusal(words)
    assert field in str(error)
    assert "missing" in str(error) or "type" in str(error)
    assert error.id == (None if field == "id" else 7)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["eta", "guidance", "fps", "creativity", "steps"])
def test_numbers_are_finite(number: str, field: str) -> None:
    words = json.dumps(message(**{field: "HERE"})).replace('"HERE"', number)
    refusal(words)
    refusal(json.dumps(message(label={"circle": "HERE"})).replace('"HERE"', number))


@pytest.mark.parametrize(
    ("words", "says"),
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
        ("null", "message is None"),
        ("5", "message is 5"),
        ("[]", "message is []"),
        ("{}", "type is missing"),
        ('{"type": 5}', "'set', 'play', 'pause', 'step', 'restart', 'repaint', 'trace'"),
        ('{"type": "quit"}', "'set', 'play', 'pause', 'step', 'restart', 'repaint', 'trace'"),
        ('{"type": null}', "expected tags"),
        ('{"type": ["play"]}', "'play'"),
        ('{"type": "play", "now": true}', "there is no now"),
        ('{"type": "repaint"}', "mask is missing"),
        ('{"type": "repaint", "mask": [255]}', "mask is [255]"),
        ('{"type": "set", "id": 1, "settings": []}', "settings is []"),
        ('{"type": "trace", "id": 4294967296, "sampler": "ddim", "steps": 1, "eta": 0}', "id is 4294967296"),
        ('{"type": "trace", "id": -1, "sampler": "ddim", "steps": 1, "eta": 0}', "id is -1"),
        ('{"type": "trace", "id": true, "sampler": "ddim", "steps": 1, "eta": 0}', "id is True"),
        ('{"type": "trace", "id": 1, "sampler": "ddim", "steps": 51, "eta": 0}', "steps is 51"),
    ],
    ids=lambda words: words[:20],
)
def test_words_that_are_no_message(words: str, says: str) -> None:
    assert says in str(refusal(words))


def test_length_counts_in_bytes() -> None:
    words = json.dumps({"type": "play"})
    assert parse(words, len(words)) == Order(type="play")
    with pytest.raises(RefusedError, match="at most 15 bytes, not 16"):
        parse(words, 15)
    with pytest.raises(RefusedError, match="at most 4 bytes, not 5"):
        parse('"ü"x', 4)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_any_json_is_answered(words: Any) -> None:
    refusal(json.dumps(words))


@given(st.text())
def test_any_text_is_answered(words: str) -> None:
    refusal(words)


@given(st.sampled_from(sorted(SETTINGS)), json_values)
def test_a_setting_is_taken_as_it_is_or_refused(field: str, value: Any) -> None:
    try:
        found = parse(json.dumps(message(**{field: value})), LONG)
    except RefusedError:
        return
    assert isinstance(found, Set)
    back = getattr(found.settings, field)
    assert back == value
    assert type(back) is type(value) or (isinstance(back, float) and type(value) is int)


# what a model can do


def test_what_a_model_cannot_do_is_refused() -> None:
    changes: dict[str, Any]
    for model, changes, says in (
        (LABELLED, {"creativity": 51}, "creativity must be between 0 and T = 50, not 51"),
        (LABELLED, {"label": {"dog": 1.0}}, "no label 'dog'; there are: circle, line, square"),
        (LABELLED, {"label": {"1": 1.0}}, "no label '1'"),
        (LABELLED, {"label": "none", "guidance": 2.0}, "guidance 2 needs a label"),
        (LABELLED, {"sampler": "heun", "eta": 0.5}, "eta belongs to the samplers ddim and dpmpp_2m; heun has none"),
        (BARE, {"label": {"circle": 1.0}}, "without labels"),
        (BARE, {"label": {}}, "without labels"),
        (BARE, {"guidance": 2.0}, "guidance 2 needs a label"),
    ):
        with pytest.raises(UserError, match=says):
            check_settings(settings(**changes), model)
    for model, changes in (
        (LABELLED, {"creativity": 50, "steps": 50, "label": {"line": 9.0}, "guidance": -10.0}),
        (LABELLED, {"label": {}, "guidance": 2.0}),
        (LABELLED, {"label": "any", "guidance": 0.0}),
        (BARE, {"label": "any"}),
        (BARE, {"label": "none", "creativity": 0, "sampler": "heun", "steps": 1}),
    ):
        check_settings(settings(**changes), model)


def test_a_model_of_few_times_has_few_steps() -> None:
    model = small(schedule=cosine(10))
    with pytest.raises(UserError, match="steps must be between 1 and 10, not 11"):
        check_settings(settings(steps=11, creativity=5), model)
    check_way(model, "ddpm", 10, 0.0)
    with pytest.raises(UserError, match="eta belongs"):
        check_way(model, "ddpm", 10, 0.1)


def test_pixels_become_images() -> None:
    pixels = bytes(range(192)) * 4
    image = image_of(base64.b64encode(pixels).decode(), 4, BARE)
    assert image.shape == (4, 3, 8, 8)
    assert image.dtype == torch.float32
    for n, c, y, x in ((0, 0, 0, 0), (0, 2, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (3, 1, 7, 6)):
        expected = pixels[((n * 8 + y) * 8 + x) * 3 + c] / 127.5 - 1
        assert image[n, c, y, x].item() == pytest.approx(expected, abs=1e-6)
    assert image_of(base64.b64encode(b"\0" * 32 + b"\xff" * 32).decode(), 1, LABELLED).unique().tolist() == [-1, 1]


def test_a_mask_says_what_to_keep() -> None:
    mask = bytearray(64)
    mask[8 * 2 + 5] = 255
    keep = keep_of(base64.b64encode(mask).decode(), LABELLED)
    assert keep.shape == (8, 8)
    assert keep.logical_not().nonzero().tolist() == [[2, 5]]
    with pytest.raises(UserError, match="mask has no pixels of 255"):
        keep_of(base64.b64encode(bytes(64)).decode(), LABELLED)


@pytest.mark.parametrize("text", ["", "A", "AAA", "AA==", "é", "AAAA AAAA", "AAAA\n", "data:,", "A" * 90_000])
def test_what_is_no_image_or_mask_is_named(text: str) -> None:
    with pytest.raises(UserError, match=r"image (has \d+ bytes, and must have num·H·W·C = 4·8·8·1 = 256|is .*base64)"):
        image_of(text, 4, LABELLED)
    with pytest.raises(UserError, match=r"mask (has \d+ bytes, and must have H·W = 8·8 = 64|is .*base64)"):
        keep_of(text, LABELLED)


def test_the_longest_message_that_makes_sense_is_short_enough() -> None:
    image = base64.b64encode(bytes(16 * 3 * 8 * 8)).decode()
    words = json.dumps({**message(num=16, label={f"label {i}": 9.123456789 for i in range(100)}), "image": image})
    assert len(words) < longest_message([LABELLED, BARE]) < 2 * len(words) + 16_384


# what is said of a model


def test_a_model_is_described() -> None:
    info = model_info("my run", LABELLED)
    assert json.loads(json.dumps(info, allow_nan=False)) == info
    plain = ("name", "channels", "height", "width", "labels", "T", "prediction", "turbo")
    assert {key: info[key] for key in plain} == {
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
    assert info["alpha_bar"] == LABELLED.schedule.alpha_bar.tolist()
    t = info["creativity"]
    assert isinstance(t, int)
    assert 1 - LABELLED.schedule.alpha_bar[t] >= 0.8 > 1 - LABELLED.schedule.alpha_bar[t - 1]
    assert model_info("bare", BARE)["labels"] == []


def test_a_dream_of_a_few_step_model_begins_where_it_was_trained() -> None:
    model = load("shapes-turbo")
    assert model.sampling.spacing == "cubic"
    assert model_info("it", model)["creativity"] == 670  # of 1000, 670, 422, …, where 80% noise is at 703


def test_errors_are_short() -> None:
    assert error(UserError("no"), 5) == {"type": "error", "id": 5, "message": "no"}
    assert len(str(error("x" * 10_000)["message"])) == LONGEST
