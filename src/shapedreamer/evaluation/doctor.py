"""What ails a run? `shapedreamer.diagnose` is defined here.

case.py takes the measurements, and ailments.py has the checks that judge them, with their limits.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..common.device import torch_defaults
from ..common.errors import UserError
from ..common.names import DeviceName
from ..models import zoo
from ..models.checkpoint import Checkpoint, load_checkpoint
from ..models.metrics import Record, parse_metrics
from ..models.model import find_checkpoint, from_checkpoint
from ..models.recipes import with_data_path
from .ailments import CHECKS, ENDS, Check, Finding, find_nonfinite_weights, not_a_number
from .case import Case, Measurements, NotFiniteError
from .evaluator import ReportProgress, ignore

WIDTH = 100  # of the report


@dataclass(frozen=True)
class Examination:
    """All checks of a run. ``str(examination)`` is a readable report."""

    name: str
    checks: tuple[Check, ...]

    @property
    def findings(self) -> list[Finding]:
        """What is wrong, in the order of the checks; causes come before their consequences."""
        return [check.finding for check in self.checks if check.finding]

    def __str__(self) -> str:
        made = sum(check.made for check in self.checks)
        count = len(self.findings)
        verdict = "nothing found" if not count else f"{count} finding{'s' * (count > 1)}"
        rows = [("", "check", "measured", "fine")]
        rows += [
            (c.symbol, c.name, c.measured if c.made else f"not checked: {c.measured}", c.fine) for c in self.checks
        ]
        widths = [max(len(row[i]) for row in rows if i < 2 or row[0] != "–") for i in range(4)]
        lines = [f"{self.name}: {verdict} in {made} check{'s' * (made != 1)}", ""]
        lines += [
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
        ]
        if count > 1:
            lines += ["", "Start with the first finding: the others may be its consequences."]
        for finding in self.findings:
            lines += ["", f"✗ {finding.name}"]
            lines += _paragraph("Measured", finding.evidence) + _paragraph("What to do", finding.advice)
        return "\n".join(lines)


def _paragraph(title: str, text: str) -> list[str]:
    return textwrap.wrap(f"{title}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    ")


def diagnose(
    run: str | Path | Case,
    data: str | Path | None = None,
    device: DeviceName = "auto",
    report: ReportProgress = ignore,
) -> list[Finding]:
    """What ails a run: a list of findings, empty if every check that could be made is fine.

        ``for finding in shapedreamer.diagnose("runs/shapes"): print(finding.name, finding.evidence, finding.advice)``

    run:    a run folder (its best checkpoint is examined), a checkpoint, a shipped model, or a Case of your own
    data:   where the training images are now, for recipes that read files
    report: called with the name of the current task, the steps done, and the total

    `examine` also returns the values that are fine. UserError if the run or its training images are missing or damaged.
    """
    return examine(run, data, device, report).findings


@torch_defaults()
def examine(
    run: str | Path | Case,
    data: str | Path | None = None,
    device: DeviceName = "auto",
    report: ReportProgress = ignore,
) -> Examination:
    """All checks of a run, with what was measured. The arguments and errors are those of `diagnose`."""
    if isinstance(run, Case):
        return Examination(run.name, tuple(_checks(run)))
    checkpoint = load_checkpoint(find_checkpoint(run))
    broken = find_nonfinite_weights(checkpoint)
    if broken:
        rest = (Check("the weights are not finite", made=False, name=name) for name in CHECKS if name != broken.name)
        return Examination(str(run), (broken, *rest))
    return Examination(str(run), tuple(_checks(_read_case(run, checkpoint, data, device, report))))


def _read_case(
    run: str | Path, checkpoint: Checkpoint, data: str | Path | None, device: DeviceName, report: ReportProgress
) -> Case:
    """The case of a loaded checkpoint. UserError if its images are missing, or are other images."""
    recipe, spec = checkpoint.config.recipe, checkpoint.config.data
    if recipe.process == "masked":
        raise UserError(
            f"{run} is a masked model, which the doctor cannot examine; measure it with `shapedreamer evaluate` instead"
        )
    training, held_out = with_data_path(recipe, data).make_data()
    if replace(training.spec, low=spec.low, high=spec.high) != spec:  # a wrong range is a finding, not an error
        raise UserError(
            f"{run} was not trained on the images of {data or training.spec.name}; "
            "pass the path of its training images as `data`"
        )
    model = from_checkpoint(checkpoint, "ema", device)
    raw = from_checkpoint(checkpoint, "raw", device).network if checkpoint.network else None
    metrics = tuple(_metrics(run, checkpoint))
    return Case(str(run), model, training, held_out, recipe, checkpoint.step, raw, metrics, report)


def _metrics(run: str | Path, checkpoint: Checkpoint) -> list[Record]:
    """The metrics of a run, those up to the step of a checkpoint file, or the curve on the card of a shipped model."""
    path = Path(run)
    if path.is_dir():
        return parse_metrics(path)[0]
    if path.exists():
        return [record for record in parse_metrics(path.parent.parent)[0] if record["step"] <= checkpoint.step]
    batch = checkpoint.config.recipe.batch_size
    return [{"step": images // batch, "held_out": loss} for images, loss in zoo.card(str(run)).curve]


def _checks(case: Case) -> Iterator[Check]:
    """All checks of a case. After a finding that spoils everything else, the later ones are not made."""
    measurements, reason = Measurements(case), ""
    for number, (name, check) in enumerate(CHECKS.items()):
        case.report("checks", number, len(CHECKS))
        if reason:
            yield Check(reason, made=False, name=name)
            continue
        try:
            outcome = check(measurements)
        except NotFiniteError as error:
            outcome = Check("NaN or infinite", "all finite", not_a_number(f"The {error}."))
            reason = "a prediction is not finite"
        yield replace(outcome, name=name)
        if outcome.finding and not reason:
            reason = ENDS.get(name, "")
    case.report("checks", len(CHECKS), len(CHECKS))
