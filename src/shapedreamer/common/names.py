"""The allowed values of options, as types. They live apart from the code they select, so --help loads without torch."""

from typing import Literal

Prediction = Literal["eps", "x0", "v"]
ScheduleName = Literal["linear", "cosine", "linear_zero_snr"]
Weight = Literal["simple", "min_snr"]
OptimizerName = Literal["adamw", "muon"]
SamplerName = Literal["ddpm", "ddim", "heun", "dpmpp_2m"]
WITH_ETA: tuple[SamplerName, ...] = ("ddim", "dpmpp_2m")  # samplers with an eta parameter
Spacing = Literal["even", "cubic", "log_snr"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32"]
Which = Literal["ema", "raw"]
RecipeName = Literal["shapes", "patterns", "sprites", "mnist", "fashion_mnist", "folder"]
TimeAt = Literal["blocks", "bottleneck"]
Fit = Literal["none", "crop", "pad", "stretch"]
Mode = Literal["auto", "L", "RGB", "RGBA"]
ExploreMode = Literal["interpolate", "vary", "inpaint"]
