"""Settings for every test: property tests draw the same examples each time, and take the time that they need."""

from hypothesis import settings

settings.register_profile("shapedreamer", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("shapedreamer")
