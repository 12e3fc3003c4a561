"""Procedurally drawn data sets, each image a function of (seed, index): shapes, patterns, sprites."""
