"""`python -m shapedreamer`: the same command, where `shapedreamer` is not on the PATH, or under torchrun."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
