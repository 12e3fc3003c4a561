"""The labs: exercises that check themselves.

    shapedreamer labs                    copy the labs to ./labs and work through them in the terminal
    from shapedreamer.labs import check, predict

To read the package, follow this order:

    verdict     what a check returns, and how it runs a learner's function safely
    checks/     the checks, a module for each lab: check.lab1.ddpm_step(my_function)
    predictions what the learner predicts, stored before something is measured and compared with it afterwards
    progress    which exercises are solved, in the file .progress.json of the learner's folder
    source      the format of the lab files, and how an exercise file is made from a solution
    assistance  hints, explanations and solutions
    run         what happens to a learner's file in a process of its own, which process starts and ends
    runner      `shapedreamer labs`: the list, the commands, and a check of every saved file
    jupyter     `shapedreamer labs --jupyter`: the same labs as notebooks
    report      `shapedreamer labs report`: a table of a class's submissions
    build       `make labs`: the exercise files, and the solved notebooks, which execute runs

The labs themselves are in the folder labs/ of the repository; an installed package has a copy in labs/sources.
"""

from . import checks as check
from .predictions import predict

__all__ = ["check", "predict"]
