"""shapedreamer labs: exercises that check themselves."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def run(
    action: Annotated[Positional[str | None], arg(metavar="[ACTION]", help_behavior_hint="(default: start)")] = None,
    target: Annotated[Positional[Path | None], arg(metavar="[SUBMISSIONS]", help_behavior_hint="")] = None,
    folder: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="(default: labs)")] = None,
    jupyter: bool = False,
    out: Path = Path("report"),
    jobs: int = 2,
) -> int:
    """Learn diffusion by writing it: labs with exercises that check themselves.

    Without an action, the labs are copied to ./labs and the first unsolved exercise is opened. Work on the file in any
    editor: whenever you save it, it is checked here. Type help for the commands.

      hint          the next of three hints
      show          the pictures and numbers of the text above the current exercise
      check         check the current exercise
      next          go to the next unsolved exercise
      lab3          go to a lab, or to an exercise such as lab3.blend
      exam          go to the exam of the current lab; passing it solves the lab
      solution      the solution of the current exercise, once you have solved it
      reset         empty the current exercise again; your file is kept
      list          all labs, with your progress
      check-all     check every exercise in your files
      report        for teachers: check a folder of submissions and write report.csv and report.html

    Args:
        action: One of the actions above.
        target: For report: a folder with a subfolder or a file for each learner.
        folder: Where your files are.
        jupyter: Write the labs as notebooks and open JupyterLab.
        out: For report: the folder to write to.
        jobs: For report: how many files to check at the same time.
    """
    from ..common.errors import UserError
    from ..common.values import as_int

    if action == "report":
        from ..labs.report import write_report

        if target is None:
            raise UserError("say where the submissions are, as in: shapedreamer labs report submissions/")
        print(*write_report(target, out, as_int("jobs", jobs, 1, 64)), sep="\n")
        return 0
    if target is not None:
        raise UserError(f"{target} is not used: only report takes a folder of submissions")

    from ..labs.runner import Runner, learners_folder

    path = learners_folder(folder)
    if jupyter:
        from ..labs.jupyter import open_jupyter

        return open_jupyter(path)
    runner = Runner(path)
    if action is None:
        runner.watch()
        return 0
    return runner.run_once(action)
