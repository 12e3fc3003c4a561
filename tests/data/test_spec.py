"""DataSpec: it accepts images and labels that match, and its errors name what is wrong with others."""

from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from shapedreamer.common.errors import UserError
from shapedreamer.data.spec import DataSpec, Label

SPEC = DataSpec(name="test", channels=3, height=4, width=6, labels=("a", "b"))


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_matching_images_are_returned_unchanged(batch: int, dtype: torch.dtype) -> None:
    images = torch.linspace(-1, 1, batch * 72).view(batch, 3, 4, 6).to(dtype)
    assert SPEC.check(images) is images


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 1, 4, 6),
        torch.zeros(2, 3, 6, 4),
        torch.zeros(2, 3, 4, 7),
        torch.zeros(3, 4, 6),
        torch.zeros(2, 1, 3, 4, 6),
        torch.zeros(2, 3, 4, 6, dtype=torch.uint8),
        torch.zeros(2, 3, 4, 6, dtype=torch.int64),
    ],
)
def test_a_wrong_shape_or_type_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"test: images must be floats of shape \(B, 3, 4, 6\), not \("):
        SPEC.check(images)


@pytest.mark.parametrize("value", [-1.001, 1.001, 255.0, float("inf"), float("nan")])
def test_values_outside_the_range_are_refused(value: float) -> None:
    images = torch.zeros(2, 3, 4, 6)
    images[1, 2, 3, 5] = value
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        SPEC.check(images)


def test_the_range_comes_from_the_spec() -> None:
    spec = DataSpec(name="unit", channels=1, height=1, width=1, labels=(), low=0.0, high=1.0)
    assert spec.check(torch.ones(1, 1, 1, 1)).item() == 1
    with pytest.raises(ValueError, match=r"values must lie in \[0, 1\], not in \[-0.5, -0.5\]"):
        spec.check(torch.full((1, 1, 1, 1), -0.5))


def test_a_spec_is_immutable_and_hashable() -> None:
    assert DataSpec(**asdict(SPEC)) == SPEC
    assert hash(DataSpec(**asdict(SPEC))) == hash(SPEC)
    assert DataSpec(**{**asdict(SPEC), "width": 7}) != SPEC
    assert (SPEC.low, SPEC.high) == (-1, 1)
    with pytest.raises(FrozenInstanceError):
        SPEC.width = 7  # type: ignore[misc]


DIGITS = DataSpec("digits", 1, 28, 28, labels=tuple("0123456789"))
FIGURES = DataSpec("figures", 3, 16, 16, labels=("human", "non-human", "food"))


@pytest.mark.parametrize(
    ("label", "vector"),
    [
        ("human", [1, 0, 0]),
        ("human=1,food=0.6", [1, 0, 0.6]),
        (" human = 1 , food = 0.6 ", [1, 0, 0.6]),
        ({"food": 0.6, "human": 1}, [1, 0, 0.6]),
        ("non-human=2", [0, 2, 0]),
        (2, [0, 0, 1]),
        ("2", [0, 0, 1]),
        ("2=0.5,human", [1, 0, 0.5]),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
        ((1, 0, 0), [1, 0, 0]),
    ],
)
def test_a_label_becomes_a_vector(label: Label, vector: list[float]) -> None:
    assert FIGURES.vector(label) == pytest.approx(vector)


def test_a_numeric_name_takes_precedence_over_an_index() -> None:
    odd = DataSpec("odd", 1, 1, 1, labels=("1", "0"))
    assert odd.vector("1") == odd.vector(1) == [1, 0]
    assert DIGITS.vector(7) == DIGITS.vector("7") == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("cat", "no label 'cat'; there are: human, non-human, food"),
        ("human=1,cat=2", "no label 'cat'"),
        (3, "no label '3'; there are: human, non-human, food"),
        (-1, "no label '-1'"),
        ("", "no label ''"),
        ("human=much", "'human=much' is not a valid label: write NAME or NAME=AMOUNT; names: human, non-human, food"),
        ([1.0, 2.0], r"has 3 numbers \(human, non-human, food\), not 2"),
        ([1.0, 2.0, 3.0, 4.0], "not 4"),
        ("human=nan", "finite"),
        ({"food": float("inf")}, "finite"),
    ],
)
def test_an_invalid_label_is_refused_with_the_valid_names(label: Label, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FIGURES.vector(label)


def test_a_label_for_data_without_labels_is_refused() -> None:
    with pytest.raises(UserError, match="cannot use label 'cat': the data set plain has no labels"):
        DataSpec("plain", 1, 1, 1, labels=()).vector("cat")


def test_where_a_name_is_a_number_a_number_means_the_name() -> None:
    months = DataSpec("months", 1, 1, 1, labels=tuple(sorted(map(str, range(1, 13)))))
    assert months.labels[:3] == ("1", "10", "11")
    for label in ("0", 0, "13", "01", np.int64(0)):
        with pytest.raises(UserError, match=f"there is no label '{label}'; there are: 1, 10, 11"):
            months.vector(label)
    assert months.vector("2") == months.vector(2) == months.vector(np.int64(2)) == months.vector("2=1")
    assert months.vector("2").index(1) == months.labels.index("2")
    for name in ("01", "-1", "1.5", "+3"):
        with pytest.raises(UserError, match="no label '0'"):
            DataSpec("odd", 1, 1, 1, labels=("cat", name)).vector("0")


def test_an_index_of_many_digits_is_refused() -> None:
    with pytest.raises(UserError, match="no label '9"):
        FIGURES.vector("9" * 5000)


NAMES = st.text(alphabet="ab=, 01-.%[]", min_size=1, max_size=6)


@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True))
@example(["a,b", "x=1", "any", "none", "-1", " space ", "%s", "[bold]"])
@example(["x", "x=1", "a", "b", "a,b", " a"])
def test_every_name_can_be_used_as_a_label(names: list[str]) -> None:
    spec = DataSpec("odd", 1, 1, 1, labels=tuple(names))
    for i, name in enumerate(names):
        one_hot = [float(i == j) for j in range(len(names))]
        assert spec.vector(name) == one_hot
        assert spec.vector({name: 0.5}) == [value / 2 for value in one_hot]


def test_odd_names_can_be_combined_and_weighted() -> None:
    spec = DataSpec("odd", 1, 1, 1, labels=("a,b", "x=1", " space ", "c"))
    assert spec.vector("a,b=2,c,x=1=0.5") == [2, 0.5, 0, 1]
    assert spec.vector("c, space ,a,b") == [1, 0, 1, 1]
    with pytest.raises(UserError, match="no label 'a'"):
        spec.vector("a,c")
