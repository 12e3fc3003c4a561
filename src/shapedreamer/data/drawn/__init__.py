"""Images drawn by a program, as a function of (seed, index): shapes, patterns, sprites."""
