"""shapedreamer site: the live page as a folder of files."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def run(
    out: Positional[Path],
    models: Annotated[
        Positional[tuple[str, ...]], arg(metavar="[MODEL ...]", help_behavior_hint="(default: all shipped models)")
    ] = (),
    runtime: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: npm downloads it)")] = None,
) -> None:
    """Write the live page as a folder for any static host. The models run in the viewer's browser.

    Args:
        out: A new or empty folder, or an earlier site, which is replaced.
        models: Shipped models, run folders (their best checkpoint is used) or checkpoint files. The page starts with
            the first one.
        runtime: The tarball of the npm package onnxruntime-web, which runs the models, if npm cannot download it.
    """
    from ..common.progress import Progress
    from ..live.site import build_site

    with Progress() as progress:
        sizes = build_site(out, models, runtime, progress=progress)
    for name, size in sizes.items():
        print(f"{size / 1000:9,.1f} kB  {out / name}")
    print(f"{out}: serve it with python3 -m http.server -d {out}, or copy it to any static host")
