"""Plot the training curves of the shipped models: python -m benchmarks.curves OUT.png

One line per model: the held-out loss of its averaged weights after every epoch, from its card. The models named
sprites-epoch-N are left out, because they are checkpoints of a single run.
"""

from pathlib import Path

import tyro
from tyro.conf import Positional

from shapedreamer.imaging.render import plot_lines
from shapedreamer.models import zoo


def main(out: Positional[Path]) -> None:
    """Draw the curves into a PNG. The current ones are in docs/curves.png."""
    curves = {name: zoo.card(name).curve for name in zoo.names() if not name.startswith("sprites-epoch")}
    lines = {name: ([images for images, _ in curve], [loss for _, loss in curve]) for name, curve in curves.items()}
    lines = {name: line for name, line in lines.items() if line[0]}  # few-step models have no held-out loss
    plot_lines(out, lines, "images seen", "held-out loss of the averaged weights", "The shipped models", log_y=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
