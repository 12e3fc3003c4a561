"""Training, in the order to read it:

loop          the training loop, algorithm 1 of DDPM
ema, optim    averaged weights; the optimizers
run, log      what a run stores and how it resumes; what it reports
fabric        the precision, and the gradients of several processes
distillation  few-step models
"""
