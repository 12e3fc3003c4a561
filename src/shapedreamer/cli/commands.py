"""The subcommands by name."""

from collections.abc import Callable

from . import (
    compare,
    conform,
    data,
    distill,
    doctor,
    evaluate,
    explore,
    export,
    forward,
    import_,
    labs,
    live,
    machine,
    models,
    sample,
    site,
    train,
)

SUBCOMMANDS: dict[str, Callable[..., int | None]] = {
    "train": train.run,
    "distill": distill.run,
    "sample": sample.run,
    "evaluate": evaluate.run,
    "doctor": doctor.run,
    "compare": compare.run,
    "explore": explore.run,
    "forward": forward.run,
    "data": data.run,
    "conform": conform.run,
    "labs": labs.run,
    "models": models.run,
    "machine": machine.run,
    "export": export.run,
    "import": import_.run,
    "live": live.run,
    "site": site.run,
}
