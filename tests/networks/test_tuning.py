"""The self-test of the CPU kernels: what it chooses, how that is kept, and that chunks do not change results."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from shapedreamer.cli import main
from shapedreamer.common.device import machine
from shapedreamer.networks import kernels, tuning
from shapedreamer.networks.kernels import DEFAULTS, SETTINGS, group_norm_silu, machine_settings, settings_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_the_fastest_value_is_chosen_unless_the_default_is_as_good() -> None:
    times = {2**18: 2.0, 2**19: 0.98, 2**20: 1.0, 2**21: 3.0}
    assert tuning.fastest({"CHUNK_SIZE": times}) == {"CHUNK_SIZE": 2**20}
    assert tuning.fastest({"CHUNK_SIZE": times | {2**19: 0.9}}) == {"CHUNK_SIZE": 2**19}


def test_the_self_test_measures_every_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock by which each piece of work takes as long as its setting is large."""
    now = 0.0

    def work() -> None:
        nonlocal now
        now += kernels.CHUNK_SIZE

    monkeypatch.setattr(tuning, "_normalise", lambda: work)
    monkeypatch.setattr(tuning, "_attend", lambda: work)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    seconds = tuning.self_test()
    assert seconds["CHUNK_SIZE"] == {value: value for value in SETTINGS["CHUNK_SIZE"]}
    assert seconds["MAX_PLAIN_ATTENTION_TOKENS"].keys() == set(SETTINGS["MAX_PLAIN_ATTENTION_TOKENS"])


def test_the_workloads_use_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def norm(x: torch.Tensor, *arguments: object) -> torch.Tensor:
        used.append("norm")
        return x

    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        used.append("attention")
        return v

    monkeypatch.setattr(kernels._GroupNorm, "apply", norm)
    monkeypatch.setattr(kernels, "_plain_attention", attention)
    tuning._normalise()()
    tuning._attend()()
    assert set(used) == {"norm", "attention"}


def test_settings_are_kept_for_each_machine() -> None:
    assert machine_settings() == DEFAULTS
    settings_file().parent.mkdir()
    settings_file().write_text(json.dumps({"another machine": {"CHUNK_SIZE": 2**18}}))
    assert machine_settings() == DEFAULTS
    tuning.keep({"CHUNK_SIZE": 2**19, "MAX_PLAIN_ATTENTION_TOKENS": 64})
    assert machine_settings() == {"CHUNK_SIZE": 2**19, "MAX_PLAIN_ATTENTION_TOKENS": 64}
    assert kernels.stored_settings()["another machine"] == {"CHUNK_SIZE": 2**18}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", "[" * 10**5, '"x"', json.dumps({machine(): 3}), json.dumps({machine(): {"CHUNK_SIZE": 7}})],
)
def test_a_damaged_file_means_the_defaults(content: str) -> None:
    settings_file().parent.mkdir()
    settings_file().write_text(content)
    assert machine_settings() == DEFAULTS


def test_the_command_shows_measures_and_forgets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def output(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["shapedreamer", "machine", *words])
        assert main() == 0
        return capsys.readouterr().out

    measured = {name: dict.fromkeys(values, 1.0) for name, values in SETTINGS.items()}
    measured["CHUNK_SIZE"][2**19] = 0.5
    monkeypatch.setattr(tuning, "self_test", lambda: measured)
    assert "CHUNK_SIZE = 1,048,576 (the default)" in output()
    assert "524,288: 500.0 ms" in output("--test")
    assert "CHUNK_SIZE = 524,288\n" in output()
    assert "CHUNK_SIZE = 1,048,576 (the default)" in output("--forget")
    monkeypatch.setattr(sys, "argv", ["shapedreamer", "machine", "--test", "--forget"])
    assert main() == 2
    assert "leave out one of the two" in capsys.readouterr().err


def test_the_size_of_the_chunks_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    norm = nn.GroupNorm(8, 16)
    x, gradient = (
        torch.randn(9, 16, 8, 8, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )

    def results(chunk: int) -> list[torch.Tensor]:
        monkeypatch.setattr(kernels, "CHUNK_SIZE", chunk)
        inputs = [x.clone(memory_format=torch.preserve_format).requires_grad_(), *norm.parameters()]
        out = group_norm_silu(norm, inputs[0])
        return [out, *torch.autograd.grad(out, inputs, gradient)]

    expected = results(2**20)
    for chunk in (1, 2000, 5000):
        assert all(torch.equal(a, b) for a, b in zip(expected, results(chunk), strict=True))
