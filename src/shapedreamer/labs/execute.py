"""Execute a notebook: ``python -m shapedreamer.labs.execute NOTEBOOK``. `build` does this in a process of its own.

nbclient leaves sockets open; they are closed when this process ends.
"""

import sys
from pathlib import Path

from ..common.errors import UserError, require

TIMEOUT = 180  # seconds for a cell


def execute(path: Path) -> None:
    """Run all cells of a notebook in its folder, and write it with the outputs. Needs the extra `labs`.

    UserError if a cell fails.
    """
    nbformat, nbclient = require("nbformat", "labs"), require("nbclient", "labs")
    make_kernel = require("jupyter_client", "labs").AsyncKernelManager
    # over TCP, ipykernel 7 prints a warning; Windows has no other transport
    ipc = {} if sys.platform == "win32" else {"transport": "ipc", "ip": str(path.parent.resolve() / "socket")}
    notebook = nbformat.read(path, 4)
    client = nbclient.NotebookClient(
        notebook,
        make_kernel(kernel_name="python3", **ipc),
        timeout=TIMEOUT,
        startup_timeout=TIMEOUT,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    try:
        client.execute()
    except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as error:
        raise UserError(str(error).strip().splitlines()[-1]) from None
    nbformat.write(notebook, path)


if __name__ == "__main__":
    try:
        execute(Path(sys.argv[1]))
    except UserError as problem:
        print(problem)  # the kernel may still write to stderr
        sys.exit(1)
