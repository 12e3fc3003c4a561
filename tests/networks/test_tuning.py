"""The self-test of the CPU kernels: what it chooses, how that is kept, and that chunks do not change results."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shapedreamer.cli import main
from shapedreamer.common.device import machine
from shapedreamer.networks import kernels, threads, tuning
from shapedreamer.networks.kernels import (
    DEFAULTS,
    SETTINGS,
    group_norm_silu,
    machine_settings,
    settings_file,
    upsample_conv,
)
from shapedreamer.networks.threads import torch_threads


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

    for workload in ("_normalise", "_attend", "_upsample", "_train"):
        monkeypatch.setattr(tuning, workload, lambda: work)
    monkeypatch.setattr("time.perf_counter", lambda: now)
    seconds = tuning.self_test()
    assert seconds["CHUNK_SIZE"] == {value: value for value in SETTINGS["CHUNK_SIZE"]}
    assert {name: tuple(times) for name, times in seconds.items()} == SETTINGS


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


@pytest.mark.parametrize("fused", [0, 1])
def test_both_ways_to_upsample_are_measured_and_agree(fused: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    plain, transposed = F.interpolate, F.conv_transpose2d

    def upsample(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(0)
        return plain(*arguments, **options)

    def convolve(*arguments: Any, **options: Any) -> torch.Tensor:
        calls.append(1)
        return transposed(*arguments, **options)

    monkeypatch.setattr(F, "interpolate", upsample)
    monkeypatch.setattr(F, "conv_transpose2d", convolve)
    monkeypatch.setattr(kernels, "FUSED_UPSAMPLING", fused)
    tuning._upsample()()
    assert calls == [fused]
    conv, x = nn.Conv2d(2, 3, 3, padding=1).double(), torch.randn(1, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(upsample_conv(conv, x), conv(plain(x, scale_factor=2.0)))


def test_the_training_of_the_self_test_depends_on_the_images_per_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tiny(nn.Conv2d):
        def __init__(self, **options: object) -> None:
            super().__init__(1, 1, 1)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x)

    monkeypatch.setattr(tuning, "UNet", Tiny)
    shares = []
    in_threads = threads.in_threads

    def count(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        shares.append(len(items))
        return in_threads(function, items)

    monkeypatch.setattr(threads, "in_threads", count)
    train = tuning._train()
    for least, expected in ((8, [2] * 4), (32, [2] * 2), (64, [])):  # forward and backward pass of each batch
        monkeypatch.setattr(kernels, "MIN_IMAGES_PER_THREAD", least)
        shares.clear()
        with torch_threads(2):
            train()
        assert shares == expected


def test_settings_are_kept_for_each_machine() -> None:
    assert machine_settings() == DEFAULTS
    settings_file().parent.mkdir()
    settings_file().write_text(json.dumps({"another machine": {"CHUNK_SIZE": 2**18}}))
    assert machine_settings() == DEFAULTS
    tuning.keep({"CHUNK_SIZE": 2**19, "MAX_PLAIN_ATTENTION_TOKENS": 64})  # by a version with fewer settings
    assert machine_settings() == DEFAULTS | {"CHUNK_SIZE": 2**19, "MAX_PLAIN_ATTENTION_TOKENS": 64}
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
