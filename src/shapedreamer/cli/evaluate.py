"""shapedreamer evaluate: how good a model is, in numbers and pictures."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from ..common.errors import UserError
from ..common.names import DeviceName, SamplerName
from .options import AS_MADE


def run(
    model: Positional[Path],
    num: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 2000; of a sweep 512)")] = None,
    sampler: Annotated[SamplerName | None, arg(metavar="{ddpm,ddim,heun,dpmpp_2m}", help_behavior_hint=AS_MADE)] = None,
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint=AS_MADE)] = None,
    eta: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=AS_MADE)] = None,
    guidance: float = 1.0,
    seed: int = 0,
    data: Annotated[
        Path | None, arg(metavar="PATH", help_behavior_hint="(default: where they were in training)")
    ] = None,
    json: bool = False,
    report: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = None,
    sweep: Literal["steps"] | None = None,
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: sweep.png)")] = None,
    device: DeviceName = "auto",
) -> None:
    """Say how good the samples of a model are, each number beside that of real images in their place.

    Measures how far samples and real images lie apart (FID, KID, precision, recall), whether they show their labels,
    whether training images are copied and, for data sets of shapes, whether they are shapes.

    Args:
        model: A run folder (its best checkpoint is taken), a checkpoint file, or a model in the box.
        num: How many samples, and as many real images; at least 256.
        sampler: The way from noise to image.
        steps: Network calls.
        eta: Noise that ddim or dpmpp_2m adds on the way, 0 to 1.
        guidance: How much the label counts: 1 as it is, more overshoots towards it, 0 forgets it.
        seed: One seed, one set of samples.
        data: Where the images lie by now that the model was trained on.
        json: Print one JSON object (for a sweep, a list) instead of a table.
        report: Also write a page, DIR/index.html, that shows it all.
        sweep: Instead, or for the report as well: quality against network calls, for every sampler.
        out: The picture of a sweep.
        device: Where to compute.
    """
    from dataclasses import asdict
    from json import dumps

    from ..common.errors import require
    from ..common.progress import Progress
    from ..evaluation import sweep as sweeping
    from ..evaluation.evaluator import NUM, evaluate, subject
    from ..evaluation.report import check_folder, write_report
    from ..evaluation.table import lines_of
    from ..imaging.render import check_ending, save_picture

    if sweep:
        if not report and (sampler, steps, eta) != (None, None, None):
            raise UserError("a sweep tries every sampler: leave out --sampler, --steps and --eta")
        out = out or Path("sweep.png")
        check_ending(out)
        require("matplotlib", "track")
    elif out:
        raise UserError("--out is the picture of a sweep: add --sweep steps")
    if report:
        check_folder(report)

    judged, points = None, []
    with Progress() as tell:
        it = subject(model, data, device, tell)
        if report or not sweep:
            judged = evaluate(it, NUM if num is None else num, sampler, steps, eta, guidance, seed)
        if sweep:
            points = sweeping.sweep(it, sweeping.NUM if num is None else num, guidance, seed)
    paths = []
    if out:
        save_picture(sweeping.picture(points), out)
        paths.append(out)
    if report and judged:
        paths += write_report(report, *judged, points)

    quality = asdict(judged[0]) if judged else {}
    if json:
        rows = [point._asdict() for point in points]
        print(dumps((quality | {"sweep": rows} if sweep else quality) if quality else rows, indent=2))
    else:
        print(*(lines_of(quality) if quality else []), *(sweeping.table(points) if sweep else []), *paths, sep="\n")
