"""A bad value at any option of any command prints one line, exits with 2, and writes nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shapedreamer import cli

MODEL = "sprites-epoch-0"
LONG_PATH, LONG_NUMBER = "a" * 300, "9" * 5000
WHOLE = ["-1", "0", str(2**63), str(2**64), "100000000", LONG_NUMBER, "1.5", "nan", "", "x"]
REAL = ["nan", "inf", "-inf", "-1", "1e308", "1e999", LONG_NUMBER, "", "x"]
SEED = ["-1", str(2**64), LONG_NUMBER, "1.5", "nan", ""]
PATHS = [LONG_PATH, "a\0b", "/proc/nothing/a.png"]

SAMPLE, TRAIN = ["sample", MODEL, "--steps", "1"], ["train", "shapes", "--samples", "8", "--batch-size", "8"]
DOORS: list[tuple[list[str], str, list[str]]] = [
    (["sample"], "", [LONG_PATH, "a\0b", "/root/\udcff", "shpes"]),
    (["sample", MODEL], "--num", WHOLE),
    (["sample", MODEL], "--steps", WHOLE),
    (["sample", MODEL], "--eta", REAL),
    (SAMPLE, "--seed", SEED),
    (SAMPLE, "--label", [LONG_NUMBER, "3=1e30", "3=nan", "3=" + LONG_NUMBER, "cat", "-1", "99", ""]),
    ([*SAMPLE, "--label", "1"], "--guidance", ["nan", "inf", "1e308", "x"]),
    (SAMPLE, "--out", [*PATHS, LONG_PATH + ".png", "a.txt"]),
    (["compare", MODEL], "--num", WHOLE),
    (["compare", MODEL, "--num", "1"], "--samplers", ["ddim:-1", "ddim:" + LONG_NUMBER, "ddim:2:nan", "x"]),
    (["explore", MODEL, "interpolate", "--num", "1", "--steps", "1"], "--frames", WHOLE),
    (["explore", MODEL, "interpolate", "--num", "1", "--steps", "1"], "--to", SEED),
    (["explore", MODEL, "vary", "--num", "1", "--steps", "1"], "--creativity", ["-1", "0", "9999", LONG_NUMBER]),
    (["explore", MODEL, "vary", "--num", "1", "--steps", "1"], "--image", PATHS),
    (["forward", "shapes"], "--num", WHOLE),
    (["forward", "shapes", "--num", "1"], "--timesteps", WHOLE),
    (["forward", "shapes", "--num", "1", "--schedule", "linear_zero_snr"], "--timesteps", ["1", "100000"]),
    (["forward", "shapes", "--num", "1"], "--seed", SEED),
    (["forward", "shapes", "--num", "1"], "--times", ["-1", "1001", LONG_NUMBER]),
    (TRAIN, "--epochs", ["-1", "0", str(2**63), LONG_NUMBER, "1.5"]),
    (TRAIN, "--timesteps", ["-1", "0", "200000000", LONG_NUMBER]),
    ([*TRAIN, "--textbook"], "--timesteps", ["100000"]),
    (TRAIN, "--samples", ["-1", "0", str(2**63), LONG_NUMBER]),
    (TRAIN, "--batch-size", ["-1", "0", str(2**63)]),
    (TRAIN, "--lr", REAL),
    (TRAIN, "--lr-decay", REAL),
    (TRAIN, "--label-dropout", REAL),
    (TRAIN, "--seed", SEED),
    (TRAIN, "--max-minutes", ["nan", "-1", "x"]),
    (TRAIN, "--sample-every", ["-1", "x"]),
    (TRAIN, "--save-every", ["-1", "x"]),
    (TRAIN, "--out", [LONG_PATH, "a\0b", "/proc/nothing"]),
    (["train", "folder"], "--data", [LONG_PATH, "a\0b", "nowhere"]),
    (["train", "folder", "--data", "."], "--size", ["0x0", LONG_NUMBER + "x1", "99999x99999"]),
    (["distill", "sprites"], "--steps", ["0", "3", "-1", LONG_NUMBER]),
    (["distill", "sprites"], "--lr", REAL),
    (["distill", "sprites"], "--dmd-weight", ["nan", "inf", "-1"]),
    (["distill", "sprites"], "--terminal-share", ["nan", "0", "2"]),
    (["distill", "sprites"], "--epochs", ["0", "-1", str(2**63)]),
    (["distill", "sprites"], "--max-minutes", ["nan", "-1"]),
    (["distill", "sprites"], "--sample-every", ["-1"]),
    (["distill", "sprites"], "--out", [LONG_PATH, "a\0b"]),
    (["distill"], "", [LONG_PATH, "nowhere"]),
]
CASES = [(start, option, value) for start, option, values in DOORS for value in values]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["shapedreamer", *arguments])
    try:
        return cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in an empty working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("start", "option", "value"), CASES, ids=lambda part: str(part)[:20].encode("unicode_escape").decode()
)
def test_a_bad_value_prints_one_line_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], start: list[str], option: str, value: str
) -> None:
    argument = [f"{option}={value}"] if option and option not in ("--samplers", "--creativity", "--times") else []
    arguments = [*start, *(argument or [part for part in (option, value) if part])]
    assert run(monkeypatch, *arguments) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert len(errors) < 2000
    if errors.startswith("error: "):  # the parser has its own, framed messages for values of the wrong type
        assert len(errors.splitlines()) == 1
    else:
        assert "For full helptext" in errors
    assert not list(Path().iterdir())


# terminals


def command(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run the command in another process, with `env` added to the environment."""
    environment = {**os.environ, **options.pop("env", {})}  # type: ignore[dict-item]
    return subprocess.run(
        [sys.executable, "-m", "shapedreamer.cli", *arguments],
        env=environment, text=True, timeout=60, stderr=subprocess.PIPE, **{"stdout": subprocess.PIPE, **options},
    )  # type: ignore[call-overload]  # fmt: skip


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "5"},
        {"PYTHONIOENCODING": "ascii"},
        *(pytest.param(other, marks=pytest.mark.slow) for other in ({"COLUMNS": "x"}, {"HOME": ""}, {"TERM": "dumb"})),
    ],
)
def test_the_command_works_in_poor_terminals(environment: dict[str, str]) -> None:
    assert "usage: shapedreamer" in command("--help", env=environment).stdout
    failed = command("forward", "shapes", "--seed", "-1", env=environment)
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: seed must be between 0 and 2")


def test_a_full_disk_behind_stdout_is_an_error_and_a_closed_pipe_is_not() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = command("models", stdout=full)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")
    read, write = os.pipe()
    os.close(read)
    done = command("models", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_during_the_imports_prints_no_traceback() -> None:
    """The module that is interrupted is a stand-in that waits, so the signal always arrives during the imports."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background process may have inherited none
        "class Slow:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'tyro': print('importing', flush=True); time.sleep(30)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from shapedreamer import cli\nsys.argv = ['shapedreamer', 'models']\nsys.exit(cli.main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "")


def test_no_command_shows_the_help_and_a_typo_gets_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch) == 0
    assert "usage: shapedreamer" in capsys.readouterr().out
    assert run(monkeypatch, "sampel", "shapes") == 2
    assert capsys.readouterr().err == "error: there is no command 'sampel'; did you mean sample?\n"
    assert run(monkeypatch, "sample", "shpes") == 2
    assert "but there is a model shapes" in capsys.readouterr().err
