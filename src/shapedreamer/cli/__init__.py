"""The command `shapedreamer`: one short file for each subcommand, which parses its options and calls the library."""

import sys
from collections.abc import Callable

import tyro

from .. import __version__
from ..common.errors import UserError
from . import compare, conform, data, distill, evaluate, explore, forward, live, models, sample, site, train

SUBCOMMANDS: dict[str, Callable[..., int | None]] = {
    "train": train.run,
    "distill": distill.run,
    "sample": sample.run,
    "evaluate": evaluate.run,
    "compare": compare.run,
    "explore": explore.run,
    "forward": forward.run,
    "data": data.run,
    "conform": conform.run,
    "models": models.run,
    "live": live.run,
    "site": site.run,
}


def main() -> int:
    """Run the command line. A user's mistake prints one line on stderr; the exit code is then usually 2."""
    if sys.argv[1:] == ["--version"]:
        print(f"shapedreamer {__version__}")
        return 0
    try:
        result: int | None = tyro.extras.subcommand_cli_from_dict(
            SUBCOMMANDS,
            prog="shapedreamer",
            description="Train a small diffusion model on your own machine, and watch it dream.",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return result or 0
