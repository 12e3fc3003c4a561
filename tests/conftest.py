"""Settings for all tests: Hypothesis generates the same examples in every run and has no time limit."""

from hypothesis import settings

settings.register_profile("shapedreamer", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("shapedreamer")
