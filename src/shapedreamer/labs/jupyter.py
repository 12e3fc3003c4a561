"""`shapedreamer labs --jupyter`: the labs as notebooks in JupyterLab."""

import os
import subprocess
import sys
from pathlib import Path

from ..common.errors import UserError, require
from . import progress
from .runner import copy_labs
from .source import read_labs

# over TCP, ipykernel 7 prints a warning into the first cell; Windows has no other transport
TRANSPORT = [] if sys.platform == "win32" else ["--KernelManager.transport=ipc"]
# in a container one is usually root, and JupyterLab would refuse to start
ROOT = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def open_jupyter(folder: Path, *options: str) -> int:
    """Write the exercise notebooks that the folder does not have yet, and run JupyterLab in it. Return its exit code.

    options: further options of JupyterLab
    UserError without the extra `labs`.
    """
    try:
        require("jupyterlab", "labs")
    except UserError as error:
        raise UserError(f"{error}; or use the runner, which needs no notebook") from None
    written = copy_labs(read_labs(), folder, notebooks=True)
    if repaired := progress.repair(folder):
        print(repaired)
    print(f"{len(written)} notebooks written to {folder}; Ctrl-C ends JupyterLab", flush=True)
    print("If no browser opens, open the address with ?token= that appears below.", flush=True)
    command = [sys.executable, "-m", "jupyterlab", *TRANSPORT, *ROOT, *options]
    return subprocess.run(command, cwd=folder, check=False).returncode
