"""`python -m shapedreamer.cli`: the same command, where `shapedreamer` is not on the PATH."""

import sys

from . import main

sys.exit(main())
