"""Start a process that runs a learner's code, and end it when its time is over."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from .run import Task

MAX_OUTPUT = 20_000  # characters of a check's output that are shown
MAX_RESULT = 2**20  # bytes of a file with results
POLL = 0.05  # seconds
STOPPED = "stopped"
ENDED = "Python ended before the check was done; does the code call exit, or use too much memory?"
# without the working directory in front, where a learner's random.py would hide Python's own
CODE = (
    "import sys; sys.path[:] = [p for p in sys.path if p not in ('', '.')]; from shapedreamer.labs.run import main; "
    "sys.path.append(''); main(sys.argv[1])"
)


def run_task(
    task: Task,
    folder: Path,
    timeout: float,
    write: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    environment: dict[str, str] | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Run a task in a new process. Return its results, and why it ended early; "" if it did not.

    folder:  its working directory
    timeout: seconds until it is killed, with all processes that it has started
    write:   gets its output, piece by piece, up to MAX_OUTPUT characters
    stop:    is asked all the time whether to kill it now
    """
    with tempfile.TemporaryDirectory(prefix="shapedreamer-") as temporary:
        task = replace(task, result=str(Path(temporary, "result.jsonl")))
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", CODE, task.encode()],
            cwd=folder,
            env=_environment() | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if write else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if write else subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=hasattr(os, "killpg"),
        )
        reader = threading.Thread(target=_forward, args=(process.stdout, write), daemon=True) if write else None
        if reader:
            reader.start()
        reason = ""
        deadline = time.monotonic() + timeout
        try:
            while process.poll() is None and not reason:
                if stop():
                    reason = STOPPED
                elif time.monotonic() > deadline:
                    reason = f"it did not finish in {timeout:g} seconds; does a loop never end?"
                else:
                    time.sleep(POLL)
        finally:
            _kill(process)
        if reader:
            reader.join(timeout=1)
            if not reader.is_alive() and process.stdout is not None:
                process.stdout.close()
        return _results(Path(task.result)), reason or _death(process.returncode)


def _environment() -> dict[str, str]:
    source = str(Path(__file__).parents[2])
    paths = [
        source,
        *(str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path),
    ]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONIOENCODING": "utf-8",
        "SHAPEDREAMER_LABS": "runner",
        "MPLBACKEND": "Agg",
    }


def _forward(stream: Any, write: Callable[[str], None]) -> None:
    """Pass the output on. What is too much is read as well, or the process would wait forever."""
    left = MAX_OUTPUT
    for line in iter(lambda: stream.readline(1000), ""):
        if left > 0:
            write(line[:left])
            left -= len(line)
            if left <= 0:
                write("\n… there is more output, which is not shown\n")


def _kill(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)  # also processes that it has started
        else:
            process.kill()
    process.wait()


def _results(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(MAX_RESULT).splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            content = json.loads(line)
            if isinstance(content, dict) and isinstance(content.get("exercise"), str):
                found.append(content)
    return found


def _death(code: int | None) -> str:
    """Why a process ended that was not stopped; "" after a normal end."""
    if code == 0:
        return ""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            reasons = {
                "SIGKILL": "Python was killed before the check was done; perhaps there was not enough memory",
                "SIGXCPU": "it used too much processor time; does a loop never end?",
            }
            return reasons.get(name, f"Python crashed before the check was done ({name})")
    return ENDED
