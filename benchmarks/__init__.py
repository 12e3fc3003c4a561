"""Measurements side by side, in one run: `python -m benchmarks.NAME`. Ratios count; machines differ."""
