"""The subcommands by name."""

from collections.abc import Callable

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
