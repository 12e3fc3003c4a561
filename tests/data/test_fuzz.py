"""Damaged files of every kind raise UserError or are read; see fuzz.py, which tries as many as you like."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fuzz import READERS, check

SEEDS = st.integers(0, 2**32)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=100)
@given(seed=SEEDS)
def test_a_damaged_file_raises_only_user_errors(name: str, seed: int) -> None:
    check(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=2000)
@given(seed=SEEDS)
def test_many_damaged_files_raise_only_user_errors(name: str, seed: int) -> None:
    check(name, seed)
