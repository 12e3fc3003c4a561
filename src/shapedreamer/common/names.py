"""The allowed values of options, as types. They live apart from the code they select, so --help loads without torch."""

from typing import Literal

Process = Literal["gaussian", "masked"]
Prediction = Literal["eps", "x0", "v", "flow"]
ScheduleName = Literal["linear", "cosine", "linear_zero_snr", "flow"]
ZERO_SNR: tuple[ScheduleName, ...] = ("linear_zero_snr", "flow")  # schedules whose x_T is pure noise: ᾱ_T = 0
# the fewest and most timesteps T. With more, ᾱ_t of a linear schedule is too small for a float64 before T; a single
# timestep of pure noise would leave no image to learn from; tables of 100,000 entries stay below a megabyte
TIMESTEPS: dict[ScheduleName, tuple[int, int]] = {
    "linear": (1, 70_000),
    "cosine": (1, 100_000),
    "linear_zero_snr": (2, 70_000),
    "flow": (2, 100_000),
}
Weight = Literal["simple", "min_snr", "balanced"]
OptimizerName = Literal["adamw", "muon"]
SamplerName = Literal["ddpm", "ddim", "heun", "dpmpp_2m", "midpoint", "heun_line"]
WITH_ETA: tuple[SamplerName, ...] = ("ddim", "dpmpp_2m")  # samplers with an eta parameter
MAX_ETA = 2  # of those; that of the masked process is a share, at most 1
TWO_CALLS: tuple[SamplerName, ...] = ("heun", "midpoint", "heun_line")  # samplers that make two network calls a step
MaskedSamplerName = Literal["masked_ancestral", "masked_random", "masked_confidence"]
MASKED_WITH_ETA: tuple[MaskedSamplerName, ...] = ("masked_ancestral",)
AnySamplerName = Literal[SamplerName, MaskedSamplerName]
Spacing = Literal["even", "cubic", "log_snr"]
DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32"]
Which = Literal["ema", "raw"]
RecipeName = Literal["shapes", "patterns", "sprites", "mnist", "fashion_mnist", "folder"]
NetworkName = Literal["unet", "wide_unet", "context_unet", "dit"]
TimeAt = Literal["blocks", "bottleneck"]
Fit = Literal["none", "crop", "pad", "stretch"]
Mode = Literal["auto", "L", "RGB", "RGBA"]
ExploreMode = Literal["interpolate", "drift", "vary", "inpaint"]
ExportFormat = Literal["diffusers", "onnx"]
WeightPrecision = Literal["float32", "half", "int8"]
