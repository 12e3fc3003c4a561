"""Options that several subcommands share: where a recipe's images come from, and how to sample."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Suppress, arg

from ..common.errors import UserError
from ..common.names import Fit, Mode
from ..models.options import SampleOptions


@dataclass(frozen=True)
class Images:
    """Where images come from, for recipes that read files.

    Args:
        data: A folder or file: of sprites (recipe sprites), of the MNIST files, or of your own images (recipe folder).
        size: HEIGHTxWIDTH to convert your own images to, such as 28x28.
        fit: How to convert images of another size.
        mode: Grey (L), RGB or RGBA; auto is L if all images are grey, else RGB.
        background: Colour behind transparent images, such as white or #ff8000.
    """

    data: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: the recipe's own)")] = None
    size: Annotated[str | None, arg(metavar="HxW", help_behavior_hint="(default: unchanged)")] = None
    fit: Annotated[Fit | None, arg(metavar="{none,crop,pad,stretch}", help_behavior_hint="(default: none)")] = None
    mode: Annotated[Mode | None, arg(metavar="{auto,L,RGB,RGBA}", help_behavior_hint="(default: auto)")] = None
    background: Annotated[str | None, arg(metavar="COLOUR", help_behavior_hint="(default: white)")] = None

    def options(self) -> dict[str, Any]:
        """The arguments for recipes.get_recipe; UserError for a malformed size."""
        return {**vars(self), "size": parse_size(self.size)}


@dataclass(frozen=True)
class EvaluateOptions(SampleOptions):
    """SampleOptions without --label: an evaluation draws the labels from the data."""

    label: Annotated[str, Suppress] = "any"


@dataclass(frozen=True)
class CompareOptions(SampleOptions):
    """SampleOptions without --sampler, --steps and --eta: --samplers gives them for each row."""

    sampler: Annotated[None, Suppress] = None
    steps: Annotated[None, Suppress] = None
    eta: Annotated[None, Suppress] = None


@dataclass(frozen=True)
class ShardOptions:
    """How to fill a folder with many images.

    Args:
        shards: Files of a folder: arrays as in a .npy, or tar archives of 8-bit PNGs with labels, for WebDataset.
        shard_size: Images in each file of a folder.
        devices: Processes on this machine that fill a folder together: one for each GPU, or for groups of CPU cores.
    """

    shards: Literal["npy", "tar"] = "npy"
    shard_size: int = 1024
    devices: int = 1


def command_again(devices: str) -> str:
    """This command, to be typed again. devices: the option that starts as many processes, if a launcher did it now."""
    words = shlex.join(["shapedreamer", *sys.argv[1:]])
    return words if "--devices" in words else words + devices


def parse_size(size: str | None) -> tuple[int, int] | None:
    """Parse a size, height first: "28x20" -> (28, 20). UserError for anything else."""
    if size is None:
        return None
    height, _, width = size.partition("x")
    if not all(side.isascii() and side.isdecimal() and len(side) < 10 and int(side) for side in (height, width)):
        raise UserError(f"size {size!r} must be HEIGHTxWIDTH in pixels, such as 28x28")
    return int(height), int(width)
