"""shapedreamer site: the live page as a folder of files."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def run(
    out: Positional[Path],
    models: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[MODEL ...]", help_behavior_hint="(default: all in the box)")
    ] = (),
    runtime: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: npm fetches it)")] = None,
) -> None:
    """Write the live page as a folder of files, with models that dream in the viewer's browser: for any static host.

    Args:
        out: A folder: a new or empty one, or an earlier site, which is replaced.
        models: Names of models in the box, run folders (their best checkpoint is taken) or checkpoint files.
        runtime: The tarball of the npm package that runs the models, onnxruntime-web, where npm cannot fetch it.
    """
    from ..live.site import build_site

    build_site(out, models, runtime)
    print(f"{out}: serve it with python3 -m http.server -d {out}, or put it on any host of files")
