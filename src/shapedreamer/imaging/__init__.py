"""Everything people look at, in the order to read it:

render      tensors to grids, strips, animations, plots
figures     a model's samples as files
shards      many samples, as a folder of files
comparison  models, samplers or epochs side by side
editing     interpolate, vary, inpaint
"""
