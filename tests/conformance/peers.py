"""Thin adapters that run the samplers of public libraries as ``sampler(denoise, schedule, x_T, steps)``.

Each adapter converts only what differs: 0-based timesteps, ε in the place of x̂₀, and σ form, where x = x₀ + σ ε. The
formulas stay those of the library. ``PEERS`` lists them with what the check must say, and docs/conformance.md shows the
table.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import torch
from torch import Tensor

from shapedreamer.conformance import mistakes
from shapedreamer.diffusion.denoiser import Denoise
from shapedreamer.diffusion.schedule import Schedule, step_times

Sampler = Callable[..., Tensor]

_UNUSED = (
    "torchvision", "clip", "wandb", "accelerate", "kornia", "skimage", "cleanfid", "dctorch", "jsonmerge", "torchsde",
    "torchdiffeq", "scipy", "ema_pytorch", "pytorch_fid", "matplotlib",
)  # fmt: skip
"""What the libraries import for training, images or metrics. Samplers work without it, so a stand-in does if it is not
installed."""


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Provides empty modules in the place of those in ``_UNUSED`` that are not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in _UNUSED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        module = MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module: object) -> None:
        pass


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    finder, before = _StandIns(), set(sys.modules)
    sys.meta_path.append(finder)  # last: what is installed is used
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], MagicMock):
                del sys.modules[name]


def load(module: str) -> Any:
    """Import a module of a peer. Raises ModuleNotFoundError if the peer is not installed."""
    with warnings.catch_warnings(), _stand_ins():
        warnings.simplefilter("ignore")
        return importlib.import_module(module)


def _batch(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, dtype=torch.int64)


def _eps(x: Tensor, x0: Tensor, a: float) -> Tensor:
    return (x - math.sqrt(a) * x0) / math.sqrt(1 - a)


# Diffusers


def diffusers(name: str, *, options: Sequence[str] = (), **config: Any) -> Sampler:
    """Return an adapter for a scheduler of Diffusers. options: arguments of ``step`` that the sampler takes too."""

    def run(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, **keywords: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scheduler = getattr(load("diffusers"), name)(
                num_train_timesteps=schedule.T, trained_betas=schedule.beta[1:].tolist(), **config
            )
            scheduler.set_timesteps(steps)
            x = x_T * float(scheduler.init_noise_sigma)
            for time in scheduler.timesteps:
                image = scheduler.scale_model_input(x, time)
                t = min(max(round(float(time)) + 1, 1), schedule.T)  # theirs are 0-based, and not always whole
                eps = _eps(image, denoise(image, _batch(t, x)), schedule.alpha_bar[t].item())
                x = scheduler.step(eps, time, x, **keywords).prev_sample
        return x

    if "eta" in options:

        def with_eta(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float) -> Tensor:
            return run(denoise, schedule, x_T, steps, eta=eta)

        return with_eta

    def without_eta(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        return run(denoise, schedule, x_T, steps)

    return without_eta


# Libraries in σ form


class _InSigma:
    """Our denoiser in σ form: called with x = x₀ + σ ε and σ, it returns x̂₀."""

    inner_model = None

    def __init__(self, denoise: Denoise, schedule: Schedule) -> None:
        self.denoise = denoise
        self.sigmas = ((1 - schedule.alpha_bar[1:]) / schedule.alpha_bar[1:]).sqrt()

    def __call__(self, x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
        sigma = sigma.flatten()[0]
        t = int((self.sigmas.log() - sigma.log()).abs().argmin()) + 1  # the nearest timestep
        scale = (1 + sigma**2).sqrt()
        return self.denoise(x / scale, _batch(t, x))


def _sigmas(schedule: Schedule, steps: int, last: float = 0.0) -> Tensor:
    a = schedule.alpha_bar[step_times(schedule.T, steps)]
    sigmas = ((1 - a) / a).sqrt()
    sigmas[-1] = last
    return sigmas


def k_diffusion(name: str, *, eta: bool = False, by_range: bool = False, last: float = 0.0, **config: Any) -> Sampler:
    """Return an adapter for a function of k_diffusion.sampling."""

    def run(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, **keywords: Any) -> Tensor:
        function = getattr(load("k_diffusion.sampling"), name)
        model, sigmas = _InSigma(denoise, schedule), _sigmas(schedule, steps, last)
        x = x_T * (1 + sigmas[0] ** 2).sqrt()
        if name.endswith(("sde", "ancestral")):
            keywords["noise_sampler"] = lambda sigma, sigma_next: torch.randn_like(x)
        if by_range:
            return function(model, x, sigmas[-2], sigmas[0], steps, disable=True, **config, **keywords)
        return function(model, x, sigmas, disable=True, **config, **keywords)

    if eta:

        def with_eta(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float) -> Tensor:
            return run(denoise, schedule, x_T, steps, eta=eta)

        return with_eta

    def without_eta(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        return run(denoise, schedule, x_T, steps)

    return without_eta


def smalldiffusion(*, appended_zero: bool = True, **config: Any) -> Sampler:
    """Return an adapter for smalldiffusion's ``samples``. Its own list of σ ends at the smallest σ, not at 0."""

    def sampler(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        module = load("smalldiffusion.diffusion")
        model = MagicMock()
        in_sigma = _InSigma(denoise, schedule)
        model.predict_eps_cfg = lambda x, sigma, *_: (x - in_sigma(x, sigma)) / sigma
        model.rand_input = lambda batch: torch.randn(batch, *x_T.shape[1:], dtype=x_T.dtype)
        sigmas = _sigmas(schedule, steps)
        if not appended_zero:
            sigmas = module.Schedule(in_sigma.sigmas).sample_sigmas(steps)
        accelerator = MagicMock(device="cpu")
        x = x_T * (1 + sigmas[0] ** 2).sqrt()
        return list(module.samples(model, sigmas, xt=x, batchsize=len(x), accelerator=accelerator, **config))[-1]

    return sampler


def azula(name: str, *, eta: bool = False, ends_at_x0: bool = False, **config: Any) -> Sampler:
    """Return an adapter for a sampler of azula.sample. ends_at_x0: return the last x̂₀ instead of a step to t = 0."""

    def run(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, **keywords: Any) -> Tensor:
        module = load("azula.sample")

        class Denoiser(torch.nn.Module):
            def schedule(self, time: Tensor) -> tuple[Tensor, Tensor]:
                t = (time * schedule.T).round().long()
                a = schedule.alpha_bar[t]
                return a.sqrt(), (1 - a).sqrt()

            def forward(self, x: Tensor, time: Tensor) -> Any:
                t = int((time * schedule.T).round())
                if t == 0:  # Heun's method asks for the denoised image at t = 0 too: that is x itself
                    return MagicMock(mean=x)
                return MagicMock(mean=denoise(x, _batch(t, x)))

        class Trailing(getattr(module, name)):  # type: ignore[misc]
            @property
            def timesteps(self) -> Tensor:
                return torch.tensor(step_times(schedule.T, steps), dtype=torch.float64) / schedule.T

            def step(self, x: Tensor, t: Tensor, s: Tensor, **keywords: Any) -> Tensor:
                if ends_at_x0 and s == 0:
                    return self.denoiser(x, t).mean
                return super().step(x, t, s, **keywords)

        return Trailing(Denoiser(), steps=steps, silent=True, dtype=torch.float64, **config, **keywords)(x_T)

    if eta:

        def with_eta(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float) -> Tensor:
            return run(denoise, schedule, x_T, steps, eta=eta)

        return with_eta

    def without_eta(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        return run(denoise, schedule, x_T, steps)

    return without_eta


def lucidrains(*, ddim: bool) -> Sampler:
    """Return an adapter for GaussianDiffusion of denoising-diffusion-pytorch."""

    def run(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int, eta: float) -> Tensor:
        module = load("denoising_diffusion_pytorch.denoising_diffusion_pytorch")

        class Network(torch.nn.Module):
            channels = out_dim = 2
            self_condition = False

            def forward(self, x: Tensor, t: Tensor, _: object = None) -> Tensor:
                return denoise(x, t + 1)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            diffusion = module.GaussianDiffusion(
                Network(), image_size=tuple(x_T.shape[2:]), timesteps=schedule.T,
                sampling_timesteps=steps if ddim else None, objective="pred_x0", beta_schedule="linear",
                ddim_sampling_eta=eta, auto_normalize=False,
            )  # fmt: skip
        diffusion.is_ddim_sampling = ddim  # even with T steps
        diffusion.channels = x_T.shape[1]
        first = [x_T]
        randn = torch.randn

        def start(*shape: Any, **keywords: Any) -> Tensor:
            return first.pop() if first else randn(*shape, **keywords)

        module.torch.randn, module.tqdm = start, lambda items, **_: items
        try:
            return diffusion.sample(len(x_T)).clone()
        finally:
            module.torch.randn = randn

    if not ddim:

        def ancestral(denoise: Denoise, schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
            return run(denoise, schedule, x_T, steps, 0.0)

        return ancestral
    return run


class Peer(NamedTuple):
    """A sampler of a public library. mistake: the name that the check must give, "" if it must pass."""

    library: str
    name: str
    sampler: Sampler
    mistake: str = ""
    why: str = ""


TRAILING: dict[str, Any] = {"timestep_spacing": "trailing"}
EXACT = TRAILING | {"clip_sample": False}
STRIDE = mistakes.FIXED_STRIDE.name
WRONG = "a step has the wrong coefficients"
PEERS: tuple[Peer, ...] = (
    Peer(
        "diffusers", "DDIM", diffusers("DDIMScheduler", options=("eta",), **EXACT), STRIDE, "prev_timestep = t − T // n"
    ),
    Peer(
        "diffusers",
        "DDIM, leading",
        diffusers("DDIMScheduler", clip_sample=False),
        "first network call is not at t = T",
        "the default spacing starts at 901 for 10 steps",
    ),
    Peer(
        "diffusers",
        "DDIM, set_alpha_to_one=False",
        diffusers("DDIMScheduler", set_alpha_to_one=False, **EXACT),
        mistakes.LAST_ALPHA_BAR.name,
        "the option means just that",
    ),
    Peer("diffusers", "DDIMParallel", diffusers("DDIMParallelScheduler", options=("eta",), **EXACT), STRIDE),
    Peer("diffusers", "DDPM", diffusers("DDPMScheduler", **EXACT)),
    Peer(
        "diffusers",
        "DDPM, fixed_large",
        diffusers("DDPMScheduler", variance_type="fixed_large", **EXACT),
        mistakes.NOISE_ON_LAST_STEP.name,
        "adds noise unless t = 0 (0-based), but the last step starts at T/n",
    ),
    Peer("diffusers", "DDPMParallel", diffusers("DDPMParallelScheduler", **EXACT)),
    Peer(
        "diffusers",
        "PNDM",
        diffusers("PNDMScheduler", **TRAILING),
        mistakes.LAST_ALPHA_BAR.name,
        "set_alpha_to_one is off by default",
    ),
    Peer("diffusers", "PNDM, set_alpha_to_one", diffusers("PNDMScheduler", set_alpha_to_one=True, **TRAILING)),
    Peer("diffusers", "PLMS", diffusers("PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=True, **TRAILING)),
    Peer("diffusers", "LMSDiscrete", diffusers("LMSDiscreteScheduler", **TRAILING)),
    Peer("diffusers", "EulerDiscrete", diffusers("EulerDiscreteScheduler", **TRAILING)),
    Peer("diffusers", "EulerAncestralDiscrete", diffusers("EulerAncestralDiscreteScheduler", **TRAILING)),
    Peer("diffusers", "HeunDiscrete", diffusers("HeunDiscreteScheduler", **TRAILING)),
    Peer("diffusers", "KDPM2Discrete", diffusers("KDPM2DiscreteScheduler", **TRAILING)),
    Peer("diffusers", "KDPM2AncestralDiscrete", diffusers("KDPM2AncestralDiscreteScheduler", **TRAILING)),
    Peer("diffusers", "DPMSolverMultistep", diffusers("DPMSolverMultistepScheduler", **TRAILING)),
    Peer(
        "diffusers", "DPMSolverMultistep, order 3", diffusers("DPMSolverMultistepScheduler", solver_order=3, **TRAILING)
    ),
    Peer(
        "diffusers",
        "DPMSolverMultistep, sde",
        diffusers("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", **TRAILING),
    ),
    Peer(
        "diffusers",
        "DPMSolverMultistep, dpmsolver",
        diffusers("DPMSolverMultistepScheduler", algorithm_type="dpmsolver", final_sigmas_type="sigma_min", **TRAILING),
        mistakes.LAST_ALPHA_BAR.name,
        "this algorithm cannot end at σ = 0",
    ),
    Peer(
        "diffusers",
        "DPMSolverMultistep, linspace",
        diffusers("DPMSolverMultistepScheduler"),
        mistakes.REPEATED_TIME.name,
        "1,000 steps visit one timestep twice",
    ),
    Peer("diffusers", "DPMSolverSinglestep", diffusers("DPMSolverSinglestepScheduler")),
    Peer(
        "diffusers",
        "DEISMultistep",
        diffusers("DEISMultistepScheduler", **TRAILING),
        mistakes.LAST_ALPHA_BAR.name,
        "it ends at sigma_min by default",
    ),
    Peer("diffusers", "UniPCMultistep", diffusers("UniPCMultistepScheduler", **TRAILING)),
    Peer(
        "diffusers",
        "UniPCMultistep, final σ = 0",
        diffusers("UniPCMultistepScheduler", final_sigmas_type="zero", **TRAILING),
    ),
    Peer(
        "diffusers",
        "SASolver",
        diffusers("SASolverScheduler", **TRAILING),
        mistakes.LAST_ALPHA_BAR.name,
        "it ends at sigma_min",
    ),
    Peer(
        "diffusers",
        "LCM",
        diffusers("LCMScheduler", original_inference_steps=1000),
        WRONG,
        "at t = 1 it returns x_t instead of x̂₀ (its boundary condition)",
    ),
    Peer(
        "diffusers",
        "TCD",
        diffusers("TCDScheduler", original_inference_steps=1000),
        WRONG,
        "it goes to another timestep first, and adds noise to get to the next",
    ),
    Peer("k-diffusion", "euler", k_diffusion("sample_euler")),
    Peer("k-diffusion", "heun", k_diffusion("sample_heun")),
    Peer("k-diffusion", "dpm_2", k_diffusion("sample_dpm_2")),
    Peer("k-diffusion", "lms", k_diffusion("sample_lms")),
    Peer("k-diffusion", "euler_ancestral", k_diffusion("sample_euler_ancestral", eta=True)),
    Peer("k-diffusion", "dpm_2_ancestral", k_diffusion("sample_dpm_2_ancestral", eta=True)),
    Peer("k-diffusion", "dpmpp_2s_ancestral", k_diffusion("sample_dpmpp_2s_ancestral", eta=True)),
    Peer("k-diffusion", "dpmpp_sde", k_diffusion("sample_dpmpp_sde", eta=True)),
    Peer("k-diffusion", "dpmpp_2m", k_diffusion("sample_dpmpp_2m")),
    Peer("k-diffusion", "dpmpp_2m_sde", k_diffusion("sample_dpmpp_2m_sde", eta=True)),
    Peer("k-diffusion", "dpmpp_2m_sde, heun", k_diffusion("sample_dpmpp_2m_sde", eta=True, solver_type="heun")),
    Peer("k-diffusion", "dpmpp_3m_sde", k_diffusion("sample_dpmpp_3m_sde", eta=True)),
    Peer(
        "k-diffusion",
        "dpm_fast",
        k_diffusion("sample_dpm_fast", by_range=True),
        mistakes.LAST_SIGMA.name,
        "it ends at sigma_min, which must be above 0",
    ),
    Peer(
        "k-diffusion",
        "euler, last σ 0.01",
        k_diffusion("sample_euler", last=0.01),
        mistakes.LAST_SIGMA.name,
        "set wrong on purpose",
    ),
    Peer("smalldiffusion", "samples", smalldiffusion()),
    Peer(
        "smalldiffusion",
        "samples, its own σ",
        smalldiffusion(appended_zero=False),
        mistakes.LAST_SIGMA.name,
        "sample_sigmas ends at the smallest σ of training",
    ),
    Peer("smalldiffusion", "samples, mu=0.5", smalldiffusion(mu=0.5)),
    Peer("smalldiffusion", "samples, gam=2", smalldiffusion(gam=2.0)),
    Peer("azula", "DDPMSampler", azula("DDPMSampler")),
    Peer(
        "azula", "DDIMSampler", azula("DDIMSampler", eta=True), mistakes.ETA_ROOT.name, "η is inside of the square root"
    ),
    Peer("azula", "EulerSampler", azula("EulerSampler")),
    Peer(
        "azula",
        "HeunSampler",
        azula("HeunSampler"),
        "an image contains NaN or ∞",
        "divides by σ at the end of the last step, so it needs σ > 0",
    ),
    Peer(
        "azula",
        "ItoSampler",
        azula("ItoSampler", eta=True),
        mistakes.NOISE_ON_LAST_STEP.name,
        "an Euler–Maruyama step to t = 0 adds noise like any other",
    ),
    Peer(
        "azula",
        "ItoSampler, last step x̂₀",
        azula("ItoSampler", eta=True, ends_at_x0=True),
        "",
        "Euler–Maruyama: a note, because its coefficients are not DDIM's",
    ),
    Peer("azula", "zABSampler", azula("zABSampler")),
    Peer("azula", "vABSampler", azula("vABSampler")),
    Peer("azula", "zEABSampler", azula("zEABSampler"), "an image contains NaN or ∞", "needs σ > 0 at the end"),
    Peer("azula", "xEABSampler", azula("xEABSampler"), "an image contains NaN or ∞", "needs σ > 0 at the end"),
    Peer("azula", "REABSampler", azula("REABSampler"), "an image contains NaN or ∞", "needs σ > 0 at the end"),
    Peer("azula", "PCSampler", azula("PCSampler")),
    Peer(
        "denoising-diffusion-pytorch",
        "p_sample_loop",
        lucidrains(ddim=False),
        mistakes.IGNORES_STEPS.name,
        "DDPM over all T; it has no number of steps",
    ),
    Peer("denoising-diffusion-pytorch", "ddim_sample", lucidrains(ddim=True)),
)

MODULES = {
    "diffusers": "diffusers",
    "k-diffusion": "k_diffusion",
    "smalldiffusion": "smalldiffusion",
    "azula": "azula",
    "denoising-diffusion-pytorch": "denoising_diffusion_pytorch",
}


def table() -> str:
    """Return the table of docs/conformance.md."""
    rows = ["| library | sampler | verdict | why |", "|---|---|---|---|"]
    for peer in PEERS:
        verdict = f"fails: {peer.mistake}" if peer.mistake else "passes"
        rows.append(f"| {peer.library} | {peer.name} | {verdict} | {peer.why} |")
    return "\n".join(rows)
