"""How the models in the box got better in training: python -m benchmarks.curves OUT.png

A line for each: the held-out loss of its averaged weights after every epoch, as its card has it. The epochs of the lab
on training, which are all of one run, are left out.
"""

from pathlib import Path

import tyro
from tyro.conf import Positional

from shapedreamer.imaging.render import plot_lines
from shapedreamer.models import zoo


def main(out: Positional[Path]) -> None:
    """Draw docs/curves.png, or what it would be by now."""
    curves = {name: zoo.card(name).curve for name in zoo.names() if not name.startswith("sprites-epoch")}
    lines = {name: ([images for images, _ in curve], [loss for _, loss in curve]) for name, curve in curves.items()}
    drawn = {name: line for name, line in lines.items() if line[0]}
    plot_lines(out, drawn, "images seen", "held-out loss of the averaged weights", "The models in the box", log_y=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
