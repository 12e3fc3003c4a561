"""Options that several subcommands have: above all which images a recipe is about."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from ..common.errors import UserError
from ..common.names import Fit, Mode

AS_MADE = "(default: as the model was made for)"


@dataclass(frozen=True)
class Images:
    """Where images come from, for recipes that do not draw their own.

    Args:
        data: A folder or file of sprites (sprites), of MNIST's files, or of your own pictures (folder).
        size: HEIGHTxWIDTH of your own pictures, such as 28x28, if not as they are.
        fit: How pictures of another size get that one.
        mode: Grey (L), RGB or RGBA; auto takes L where all pictures are grey, and else RGB.
        background: What transparent pictures are laid on, such as white or #ff8000.
    """

    data: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the recipe's own)")] = None
    size: Annotated[str | None, arg(metavar="HxW", help_behavior_hint="(default: as they are)")] = None
    fit: Annotated[Fit | None, arg(metavar="{none,crop,pad,stretch}", help_behavior_hint="(default: none)")] = None
    mode: Annotated[Mode | None, arg(metavar="{auto,L,RGB,RGBA}", help_behavior_hint="(default: auto)")] = None
    background: Annotated[str | None, arg(metavar="COLOUR", help_behavior_hint="(default: white)")] = None

    def options(self) -> dict[str, Any]:
        """As arguments of recipes.named; UserError for a size that is none."""
        return {**vars(self), "size": parse_size(self.size)}


def parse_size(size: str | None) -> tuple[int, int] | None:
    """ "28x20" -> (28, 20), height first. UserError for anything else."""
    if size is None:
        return None
    height, _, width = size.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"size {size!r} must be HEIGHTxWIDTH in pixels, such as 28x28")
    return int(height), int(width)
