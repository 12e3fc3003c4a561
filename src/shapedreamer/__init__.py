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
    from . import conformance
    from .common.errors import UserError
    from .common.noise import Noise
    from .diffusion import oracle, process, samplers, schedule
    from .diffusion.denoiser import Denoiser, clipped, guided
    from .evaluation.evaluator import evaluate
    from .imaging import render
    from .models import recipes
    from .models.model import Model, load
    from .networks.unet import UNet
    from .training.distillation import distill
    from .training.loop import train

__version__ = "0.1.0"
__all__ = [
    "Denoiser",
    "Model",
    "Noise",
    "UNet",
    "UserError",
    "clipped",
    "conformance",
    "distill",
    "evaluate",
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
_MODULES = {
    "conformance": "conformance",
    "oracle": "diffusion.oracle",
    "process": "diffusion.process",
    "recipes": "models.recipes",
    "render": "imaging.render",
    "samplers": "diffusion.samplers",
    "schedule": "diffusion.schedule",
}
_DEFINED_IN = {
    "Denoiser": "diffusion.denoiser",
    "Model": "models.model",
    "Noise": "common.noise",
    "UNet": "networks.unet",
    "UserError": "common.errors",
    "clipped": "diffusion.denoiser",
    "distill": "training.distillation",
    "evaluate": "evaluation.evaluator",
    "guided": "diffusion.denoiser",
    "load": "models.model",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{_MODULES[name]}")
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'shapedreamer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
