"""ShapeDreamer: learn image diffusion by building it, and watch a neural network dream.

    import shapedreamer as sd

    sd.train(sd.recipes.shapes(), "runs/shapes")
    model = sd.load("runs/shapes")
    images = model.sample(32, sampler="ddim", steps=25, seed=0)   # (32, 1, 32, 32) in [−1, 1]

The names below are all there is at the top; each is imported when it is first used, so that `import shapedreamer` and
the command line's help are quick.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if sys.version_info < (3, 10):  # noqa: UP036  a copy that pip did not install can meet an older Python
    sys.tracebacklimit = 0
    raise ImportError("ShapeDreamer needs Python 3.10 or newer; this is Python " + sys.version.split()[0])

if TYPE_CHECKING:
    from . import conformance
    from .common.errors import UserError
    from .common.noise import Noise
    from .diffusion import masked, oracle, process, samplers, schedule
    from .diffusion.denoiser import Denoiser, clipped, guided
    from .evaluation.doctor import diagnose
    from .evaluation.evaluator import evaluate
    from .imaging import render
    from .imaging.comparison import compare
    from .imaging.editing import explore
    from .imaging.show import animate, plot, show
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
    "animate",
    "clipped",
    "compare",
    "conformance",
    "diagnose",
    "distill",
    "evaluate",
    "explore",
    "guided",
    "load",
    "masked",
    "oracle",
    "plot",
    "process",
    "recipes",
    "render",
    "samplers",
    "schedule",
    "show",
    "train",
]
_MODULES = {
    "conformance": "conformance",
    "masked": "diffusion.masked",
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
    "animate": "imaging.show",
    "clipped": "diffusion.denoiser",
    "compare": "imaging.comparison",
    "diagnose": "evaluation.doctor",
    "distill": "training.distillation",
    "evaluate": "evaluation.evaluator",
    "explore": "imaging.editing",
    "guided": "diffusion.denoiser",
    "load": "models.model",
    "plot": "imaging.show",
    "show": "imaging.show",
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


def _display_steps(shell: Any) -> None:
    """Let a notebook display a Step as a picture. This is here because diffusion/ must not import imaging/."""

    def png(step: Any) -> bytes:
        content: bytes = importlib.import_module(f"{__name__}.imaging.show").step_png(step)
        return content

    shell.display_formatter.formatters["image/png"].for_type_by_name(f"{__name__}.diffusion.samplers", "Step", png)


_shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
if _shell is not None:
    _display_steps(_shell)
