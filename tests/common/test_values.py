"""Numbers from numpy, torch and Python become the same plain values; everything else is a UserError."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import shapedreamer as sd
from shapedreamer.common.errors import UserError
from shapedreamer.common.values import as_float, as_int, as_ints, as_path, shown
from shapedreamer.models.options import SampleOptions
from shapedreamer.models.recipes import Recipe, Sampling, UNetConfig

WHOLE: list[Callable[[int], Any]] = [
    int, np.int8, np.uint8, np.int32, np.int64, np.uint64, np.array, torch.tensor,
    lambda n: torch.tensor(n, dtype=torch.int32),
]  # fmt: skip
NOT_WHOLE: list[Any] = [
    True, np.True_, torch.tensor(True), 2.0, np.float32(2), torch.tensor(2.0), "2", b"2", None, [2], np.array([2]),
    torch.tensor([2]), 2j, math.nan, object(), {}, 10**5000,
]  # fmt: skip


def _name(value: object) -> str:
    """Name a parameter, without the address in memory that the text of an object has."""
    return "object" if type(value) is object else ascii(shown(value))


@pytest.mark.parametrize("kind", WHOLE)
@given(number=st.integers(0, 100))
def test_every_kind_of_integer_becomes_a_plain_int(kind: Callable[[int], Any], number: int) -> None:
    value = as_int("n", kind(number), 0, 100)
    assert type(value) is int
    assert value == number
    assert as_ints("n", [kind(number)], 0, 100, 1) == (number,)
    options = SampleOptions(steps=kind(number), seed=kind(number), label=kind(number))
    assert options == SampleOptions(steps=number, seed=number, label=number)
    assert {type(options.steps), type(options.seed), type(options.label)} == {int}


@pytest.mark.parametrize("value", NOT_WHOLE, ids=_name)
def test_what_is_not_an_integer_is_rejected_by_name_everywhere(value: Any) -> None:
    with pytest.raises(UserError, match=r"^n must be "):
        as_int("n", value, 0, 100)
    doors: list[tuple[str, Callable[[], object]]] = [
        ("epochs", lambda: Recipe("x", epochs=value)),
        ("seed", lambda: Recipe("x", seed=value)),
        ("steps", lambda: Sampling(steps=value)),
        ("blocks", lambda: UNetConfig(blocks=value)),
        ("timesteps", lambda: sd.schedule.linear(value)),
    ]
    for name, door in doors:
        with pytest.raises(UserError, match=name):
            door()


@given(st.one_of(st.floats(), st.integers(), st.text(), st.binary(), st.none(), st.lists(st.floats())))
def test_any_value_gives_a_finite_float_or_an_error_of_one_line(value: Any) -> None:
    try:
        number = as_float("x", value, -1e9, 1e9)
    except UserError as error:
        message = str(error)
        assert message.startswith("x must be ")
        assert "\n" not in message
    else:
        assert -1e9 <= number <= 1e9


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, torch.tensor, int, np.int64])
def test_every_kind_of_float_becomes_a_plain_float(kind: Callable[[float], Any]) -> None:
    assert type(as_float("x", kind(3))) is float
    assert SampleOptions(guidance=kind(3)) == SampleOptions(guidance=3.0)


@pytest.mark.parametrize("value", ["a" * 300, "a\0b", "\ud800", 3, None, object()], ids=_name)
def test_a_path_that_no_file_can_have_is_rejected(value: Any) -> None:
    with pytest.raises(UserError, match="out"):
        as_path("out", value)
    for door in (lambda: sd.load(value), lambda: sd.train(sd.recipes.shapes(), value)):
        if value is not None:  # None is the default folder
            with pytest.raises(UserError):
                door()
    assert as_path("out", "a") == Path("a")


@pytest.mark.parametrize(("dtype", "device"), [(torch.float64, "cpu"), (torch.float16, "cpu"), (torch.float32, "meta")])
def test_the_defaults_of_torch_do_not_matter(dtype: torch.dtype, device: str) -> None:
    def images() -> torch.Tensor:
        model = sd.load("sprites-epoch-0", device="cpu", precision="float32")
        return model.sample(2, steps=3, seed=1, label={"human": 1})

    expected, schedule = images(), sd.schedule.cosine(50).alpha_bar
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        found, table = images(), sd.schedule.cosine(50).alpha_bar
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(found, expected)
    assert torch.equal(table, schedule)


def test_loading_and_sampling_leave_the_random_state_of_torch_alone() -> None:
    before = torch.get_rng_state()
    sd.load("sprites-epoch-0", device="cpu").sample(1, steps=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_images_that_are_not_finite_are_an_error() -> None:
    model = sd.load("sprites-epoch-0", device="cpu")
    with pytest.raises(UserError, match="not finite"):
        model.sample(1, steps=2, label={"human": 1e38})
