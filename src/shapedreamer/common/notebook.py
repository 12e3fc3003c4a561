"""Whether the code runs in a notebook, and how to write to it."""

import sys
import textwrap
from typing import Any

from rich.console import Console

WIDTH = 100  # characters of a line in a notebook


def kernel_shell() -> Any | None:
    """The IPython shell of a notebook's kernel; None in a terminal, also in one that runs IPython."""
    ipython = sys.modules.get("IPython")  # a notebook has imported it
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell if shell is not None and hasattr(shell, "kernel") else None


def display(data: dict[str, str | bytes]) -> None:
    """Display something in the notebook. data: the same content in one or more formats, by MIME type."""
    from IPython import display as ipython

    ipython.display(data, raw=True)


def display_after_cell(data: dict[str, str | bytes]) -> None:
    """Display something in the notebook below everything else that the running cell displays."""
    shell = kernel_shell()
    if shell is None:
        return

    def once(*_: object) -> None:
        shell.events.unregister("post_run_cell", once)
        display(data)

    shell.events.register("post_run_cell", once)


def print_wrapped(text: str) -> None:
    """Print text. In a notebook its lines are wrapped between words, because Jupyter would break them inside words."""
    if kernel_shell() is not None:
        text = "\n".join(
            textwrap.fill(line, WIDTH, break_long_words=False, break_on_hyphens=False) for line in text.split("\n")
        )
    print(text)


def log_console() -> Console:
    """A console for progress: stderr; in a notebook plain lines on stdout, because stderr is red there."""
    if kernel_shell() is not None:
        return Console(file=sys.stdout, soft_wrap=True, force_jupyter=False, force_terminal=False, width=WIDTH)
    return Console(file=sys.stderr, soft_wrap=True)
