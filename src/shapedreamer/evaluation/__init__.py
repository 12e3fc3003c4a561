"""How good are a model's samples? Every measure of the samples comes with the same measure of real images.

In the order to read it:

evaluator     draw samples and apply every measure below; `shapedreamer.evaluate` is defined here
distances     FID, KID, precision and recall: how far apart two sets of images are
classifier    the small network whose features the distances use, and which recognises labels
validity      for data sets of shapes: does an image consist of such shapes?
intervals     95% confidence intervals of shares and means
memorisation  are samples copies of training images?
doctor        what ails a run? `shapedreamer.diagnose` is defined here
case          the measurements of the doctor
ailments      the checks of the doctor, with their limits
sweep         quality against the number of network calls, for every sampler
table         the results as text, with what each measure means and what it cannot detect
charts        bar charts as SVG
report        the results as a web page
cards         package a trained model: its weights, its model card and a picture of samples
"""
