"""Everything people look at, in the order to read it:

render    tensors to grids, strips, animations, plots
figures   a model's samples as files
compare   samplers or epochs side by side
explore   interpolate, vary, inpaint
"""
