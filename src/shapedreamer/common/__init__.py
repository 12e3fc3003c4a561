"""Small tools that every other package uses; this package imports nothing else from shapedreamer.

Read them in this order:

    errors      UserError: what the command line prints instead of a traceback
    values      integers, floats and paths from numpy, torch or a command line as plain Python values
    names       the names of samplers, schedules and other choices
    device      CPU, CUDA or MPS, and the precision
    noise       noise as a function of (seed, step, image index, pixel); docs/noise.md is its specification
    files       atomic writes, and clear messages when the disk refuses
    progress    progress bars and status lines
    lock        one writer to a folder
    processes   several processes that share the work
"""
