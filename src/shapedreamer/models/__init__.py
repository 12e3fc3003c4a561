"""What a model is and where it is kept, in the order to read it:

recipes     every setting of a training run, typed and named
checkpoint  the files of a run
model       load a trained model and sample from it
zoo         the models that come with the package
"""
