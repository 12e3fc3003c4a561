"""shapedreamer evaluate: how good a model's samples are, in numbers and pictures."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from ..common.errors import UserError
from ..common.names import DeviceName
from .options import EvaluateOptions


def run(
    model: Positional[Path],
    num: Annotated[int | None, arg(metavar="INT", help_behavior_hint="(default: 2000; 512 for a sweep)")] = None,
    sampling: OmitArgPrefixes[EvaluateOptions] = EvaluateOptions(),
    data: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: as in training)")] = None,
    json: bool = False,
    report: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: none)")] = None,
    sweep: Literal["steps"] | None = None,
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: sweep.png)")] = None,
    device: DeviceName = "auto",
    devices: int = 1,
) -> None:
    """Measure how good a model's samples are, each number beside that of real images.

    Measures the distance between samples and real images (FID, KID, precision, recall), whether samples show their
    label, whether they copy training images and, for data sets of shapes, whether they are shapes: all images, and
    those of each kind of shape, with 95% confidence intervals.

    Args:
        model: A run folder (its best checkpoint is used), a checkpoint file, or a shipped model.
        num: Number of samples, and of real images; at least 256.
        sampling: How to sample. Labels are always drawn from the data.
        data: Where the training images are now.
        json: Print a JSON object (for a sweep, a list) instead of a table.
        report: Also write a web page with all results to DIR/index.html.
        sweep: Measure quality against network calls, for every sampler; with --report, in addition.
        out: The picture of a sweep.
        device: Where to compute.
        devices: Processes on this machine that share the sampling: one for each GPU, or for groups of CPU cores.
    """
    from dataclasses import asdict
    from json import dumps

    from ..common.errors import require
    from ..common.processes import several
    from ..common.progress import Progress
    from ..evaluation import sweep as sweeping
    from ..evaluation.evaluator import NUM, evaluate_subject, ignore, load_subject
    from ..evaluation.report import check_folder, write_report
    from ..evaluation.table import lines_of
    from ..imaging.render import check_ending, save_picture

    if sweep:
        if not report and (sampling.sampler, sampling.steps, sampling.eta) != (None, None, None):
            raise UserError("a sweep tries every sampler: leave out --sampler, --steps and --eta")
        if (sampling.guidance_interval, sampling.guide_with, sampling.cfg_pp) != (None, None, False):
            raise UserError("a sweep takes --guidance only: leave out --guidance-interval, --guide-with and --cfg-pp")
        out = out or Path("sweep.png")
        check_ending(out)
        require("matplotlib", "track")
    elif out:
        raise UserError("--out is the picture of a sweep: add --sweep steps")
    results, points, paths = None, [], []
    with several(devices, device, "run the same command again") as group, Progress() as progress:
        if report:
            group.first(lambda: check_folder(report))
        subject = load_subject(model, data, device, progress if group.is_first else ignore, group)
        if report or not sweep:
            results = evaluate_subject(subject, NUM if num is None else num, sampling)
        if sweep:
            sweep_num = sweeping.NUM if num is None else num
            points = sweeping.sweep(subject, sweep_num, sampling.guidance, sampling.seed)
    if not group.is_first:
        return
    if out:
        save_picture(sweeping.picture(points), out)
        paths.append(out)
    if report and results:
        paths += write_report(report, *results, points)

    quality = asdict(results[0]) if results else {}
    if json:
        rows = [point._asdict() for point in points]
        print(dumps((quality | {"sweep": rows} if sweep else quality) if quality else rows, indent=2))
    else:
        print(*(lines_of(quality) if quality else []), *(sweeping.table(points) if sweep else []), *paths, sep="\n")
