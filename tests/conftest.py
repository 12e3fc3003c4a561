"""Settings for all tests: one thread a process, and Hypothesis without random examples and time limits."""

import os

# Before torch is imported, also in the processes that tests start. The networks of the tests are so small that a second
# thread hardly helps, and beside other programs it makes them many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("shapedreamer", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("shapedreamer")
