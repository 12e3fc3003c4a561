"""ShapeDreamer: learn image diffusion by building it, and watch a neural network dream.

    import shapedreamer as sd

    sd.train(sd.recipes.shapes(), "runs/shapes")
    model = sd.load("runs/shapes")
    images = model.sample(32, sampler="ddim", steps=25, seed=0)   # (32, 1, 32, 32) in [−1, 1]

The names below are all there is at the top; each is imported when it is first used, so that `import shapedreamer` and
the command line's help are quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import conformance, oracle, process, recipes, render, samplers, schedule
    from .denoiser import Denoiser, clipped, guided
    from .errors import UserError
    from .model import Model, load
    from .networks.unet import UNet
    from .noise import Noise
    from .train import train

__version__ = "0.1.0"
__all__ = [
    "Denoiser",
    "Model",
    "Noise",
    "UNet",
    "UserError",
    "clipped",
    "conformance",
    "guided",
    "load",
    "oracle",
    "process",
    "recipes",
    "render",
    "samplers",
    "schedule",
    "train",
]
_HOME = {
    "Denoiser": "denoiser",
    "clipped": "denoiser",
    "guided": "denoiser",
    "UserError": "errors",
    "Model": "model",
    "load": "model",
    "UNet": "networks.unet",
    "Noise": "noise",
    "train": "train",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'shapedreamer' has no attribute {name!r}")
    if name not in _HOME:
        return importlib.import_module(f"{__name__}.{name}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
