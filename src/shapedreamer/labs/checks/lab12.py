"""The checks of lab 12, the bug clinic: is the bug gone, and is its cause named?

Each check gets the mended function, on which the decorator ``cause`` has put the letter of the diagnosis. If the bug is
still there, the message describes what can be seen, not the cause. If another letter was chosen, it says what one would
see if that were the cause. ``submitted`` has the functions with their bugs, as they stand in a learner's file.
"""

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ... import conformance
from ...conformance import mistakes
from ...conformance.report import Report
from ...diffusion import samplers
from ...diffusion.denoiser import Denoiser, clipped
from ...diffusion.schedule import Schedule, cosine, linear
from ..verdict import AnswerError, call, close, exercise, same, tensor
from .lab3 import call_dropout

Function = TypeVar("Function")
T = 100  # timesteps of the schedules in these checks


def cause(letters: str) -> Callable[[Function], Function]:
    """Decorate a function with the diagnosis: one letter, or two in the exam."""

    def note(function: Function) -> Function:
        function.cause = letters  # type: ignore[attr-defined]
        return function

    return note


def treat(answer: Any, right: str, symptoms: dict[str, str], test: Callable[[], None]) -> None:
    """AnswerError unless the code passes ``test`` and its diagnosis is ``right``.

    symptoms: for each other letter, what one would see if that were the cause
    """
    choices = sorted([*symptoms, *right])
    said = sorted(re.findall("[a-z]", str(getattr(answer, "cause", "?")).lower()))
    wrong = [letter for letter in said if letter in symptoms]
    named = "".join(said) == right
    if not said or len(said) > len(right) or not set(said) <= set(choices):
        which = "cause, too: write its letter" if len(right) == 1 else "causes, too: write both letters"
        advice = f'Name the {which} into @cause("?"); the choices are {", ".join(choices)}'
    elif wrong:
        advice = " ".join(f"It is not {letter}): {symptoms[letter]}." for letter in wrong).rstrip(".")
        advice = ("Half of your diagnosis is right. " if len(wrong) < len(said) else "") + advice
    else:
        advice = "Half of your diagnosis is right; name the other cause, too"
    try:
        test()
    except AnswerError as error:
        verdict = "Your diagnosis is right" if named else advice
        raise AnswerError(f"{error.message.rstrip('.?')}. {verdict}", error.yours, error.right) from None
    if not named:
        raise AnswerError(f"the code is right. {advice}")


def conforms(report: Report, bug: conformance.Mistake, still: str) -> None:
    """AnswerError with the mistake and the hint of a failed report, or with ``still`` if it is the original bug."""
    if report.passed:
        return
    name = next(iter(report.mistakes), "a check of shapedreamer.conformance failed")
    if name == bug.name:
        raise AnswerError(still)
    hint = next((check.hint for check in report.checks if check.mistake == name), "")
    raise AnswerError(f"{name}{'. ' * bool(hint)}{hint.rstrip('.')}")


def images(count: int = 3, channels: int = 3, size: int = 8) -> Tensor:
    """Random images with values between −1 and 1: (count, channels, size, size) float64."""
    return torch.rand(count, channels, size, size, dtype=torch.float64) * 2 - 1


def a_schedule() -> Schedule:
    return (cosine if torch.rand(()) < 0.5 else linear)(T)


def integer(low: int, high: int) -> int:
    """A random integer from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


# The code as it was submitted, with its bugs


class Submitted:
    """The buggy functions. Each is a copy of what the learner's file has."""

    @staticmethod
    def forward(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
        a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        return a.sqrt() * x0 + (1 - a) * eps

    @staticmethod
    def preview(network: nn.Module, ema_network: nn.Module, x_T: Tensor, schedule: Schedule) -> Tensor:
        denoise = clipped(Denoiser(network, schedule, "x0"))
        for step in samplers.ddim(denoise, schedule, x_T, 15):
            image = step.x
        return image

    @staticmethod
    def ema_update(average: nn.Module, network: nn.Module, decay: float) -> nn.Module:
        with torch.no_grad():
            for mine, new in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                mine.copy_(decay * mine + (1 - decay) * new)
        return average

    @staticmethod
    def ddim(denoise: Callable[[Tensor, Tensor], Tensor], schedule: Schedule, x_T: Tensor, steps: int) -> Tensor:
        stride = schedule.T // steps
        x = x_T
        for t in range(schedule.T, 0, -stride):
            s = t - stride
            a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
            x0 = denoise(x, torch.full((len(x),), t))
            eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
            x = math.sqrt(b) * x0 + math.sqrt(1 - b) * eps
        return x

    @staticmethod
    def ddim_step(x_t: Tensor, x0: Tensor, t: int, s: int, eta: float, z: Tensor, schedule: Schedule) -> Tensor:
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        eps = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
        sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
        direction = math.sqrt(1 - b)
        return math.sqrt(b) * x0 + direction * eps + sigma * z

    @staticmethod
    def clipped_step(x_t: Tensor, eps: Tensor, t: int, s: int, schedule: Schedule) -> Tensor:
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)
        x0 = x0.clamp(-1, 1)
        return math.sqrt(b) * x0 + math.sqrt(1 - b) * eps

    @staticmethod
    def load_images(pixels: Tensor) -> Tensor:
        return pixels.permute(0, 3, 1, 2).float() / 255

    @staticmethod
    def drop_labels(labels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        keep = torch.rand(1, 1, generator=generator) >= probability
        return labels * keep

    @staticmethod
    def to_picture(samples: Tensor) -> Tensor:
        low = samples.amin((1, 2, 3), keepdim=True)
        high = samples.amax((1, 2, 3), keepdim=True)
        levels = (samples - low) / (high - low) * 255
        return levels.round().to(torch.uint8)

    @staticmethod
    def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        return conditional + (scale - 1) * (unconditional - conditional)

    @staticmethod
    def train_steps(
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        loss: Callable[[nn.Module, int], Tensor],
        first: int,
        last: int,
    ) -> list[float]:
        losses = []
        for i in range(last - first):
            for group in optimizer.param_groups:
                group["lr"] = rate(i)
            value = loss(network, first + i)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
        return losses

    @staticmethod
    def score(samples: Tensor, real: Tensor, reference: Tensor) -> tuple[float, float]:
        few = samples[:64]  # sampling is slow
        return fid(few, reference), fid(real, reference)

    @staticmethod
    def exam(
        conditional: Callable[[Tensor, Tensor], Tensor],
        unconditional: Callable[[Tensor, Tensor], Tensor],
        schedule: Schedule,
        x_T: Tensor,
        steps: int,
        scale: float,
    ) -> Tensor:
        stride = math.ceil(schedule.T / steps)
        times = [schedule.T - i * stride for i in range(steps + 1)]
        x = x_T
        for t, s in itertools.pairwise(times):
            a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
            batch = torch.full((len(x),), t)
            with_label, without = conditional(x, batch), unconditional(x, batch)
            x0 = with_label + scale * (without - with_label)
            x0 = x0.clamp(-1, 1)
            eps = (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
            x = math.sqrt(b) * x0 + math.sqrt(1 - b) * eps
        return x


submitted = Submitted


def fid(features: Tensor, reference: Tensor) -> float:
    """Fréchet distance of two sets of features (N, D), for any N (evaluation.distances.fid refuses a small one)."""
    (mean, root), (other_mean, other_root) = _moments(features.double()), _moments(reference.double())
    cross = torch.linalg.svdvals(root @ other_root.T).sum()
    return float((mean - other_mean).square().sum() + root.square().sum() + other_root.square().sum() - 2 * cross)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and R with RᵀR = the covariance."""
    mean = features.mean(0)
    return mean, (features - mean) / math.sqrt(len(features) - 1)


# 1


@exercise
def forward(answer: Any) -> str:
    """x_t = √ᾱ x₀ + √(1−ᾱ) ε, with a timestep for each image."""
    still = (
        "the bug is still there: where ᾱ_t = 1/2, data of variance 1 become x_t of variance 3/4, and it should stay 1"
    )

    def on_copies(x0: Tensor, t: Tensor, eps: Tensor, schedule: Schedule) -> Tensor:
        result: Tensor = answer(x0.clone(), t.clone(), eps.clone(), schedule)
        return result

    def test() -> None:
        x0, eps, schedule = images(4), torch.randn(4, 3, 8, 8, dtype=torch.float64), a_schedule()
        t = torch.randint(T // 4, 3 * T // 4, (4,))
        a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
        one_step = schedule.alpha_bar[t - 1].view(-1, 1, 1, 1)
        yours = call(answer, x0, t, eps, schedule)
        same(
            yours,
            a.sqrt() * x0 + (1 - a).sqrt() * eps,
            "x_t is not √ᾱ_t x₀ + √(1−ᾱ_t) ε",
            {
                still: submitted.forward(x0, t, eps, schedule),
                "you took a root away: now x₀ has the factor ᾱ_t and ε the factor 1−ᾱ_t, and the variance is "
                "even smaller": (a * x0 + (1 - a) * eps),
                "now the factor of ε is right and that of x₀ is not: it was √ᾱ_t, and is ᾱ_t": a * x0
                + (1 - a).sqrt() * eps,
                "you swapped the factors: at t = 1, x_t must be almost the image": (1 - a).sqrt() * x0 + a.sqrt() * eps,
                "the factor of ε is 1−√ᾱ_t; the root belongs around all of 1−ᾱ_t": a.sqrt() * x0 + (1 - a.sqrt()) * eps,
                "the variance is 1 now, but each t uses ᾱ of the timestep before": (
                    one_step.sqrt() * x0 + (1 - one_step).sqrt() * eps
                ),
                "you divided x_t by its standard deviation; that gives variance 1, and another share of noise than "
                "ᾱ_t says": ((a.sqrt() * x0 + (1 - a) * eps) / (a + (1 - a) ** 2).sqrt()),
            },
        )
        conforms(conformance.check_forward(on_copies), mistakes.NOISE_WITHOUT_ROOT, still)

    treat(
        answer,
        "b",
        {
            "a": "if so, the curve of the grey image would lie on its expected line, since it has no signal to lose",
            "c": "with any table, √ of it and √ of one minus it have squares that add up to 1: the upper curve "
            "would be flat",
            "d": "if so, both curves would be moved by one timestep of 500, and nobody could see it",
        },
        test,
    )
    return (
        "Two factors whose squares add up to 1 keep the variance. Plot the std of x_t whenever you write a "
        "forward process."
    )


# 2


class _Blend(nn.Module):
    """A network that predicts a fixed image mixed with x_t, and counts its calls."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.image, self.calls = nn.Parameter(image), 0

    def forward(self, x_t: Tensor, t: Tensor, *_: Any, **__: Any) -> Tensor:
        self.calls += 1
        return (0.7 * self.image + 0.3 * x_t).to(x_t.dtype)


@exercise
def preview(answer: Any) -> str:
    """The preview comes from the averaged network, and the network in training is neither called nor changed."""

    def test() -> None:
        schedule, x_T = a_schedule(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
        network, average = _Blend(images(1)), _Blend(images(1))
        before = network.image.detach().clone(), average.image.detach().clone()

        def result(*networks: _Blend) -> Tensor:
            with torch.no_grad():
                return torch.stack([submitted.preview(each, each, x_T, schedule) for each in networks]).mean(0)

        raw, right = result(network), result(average)
        both = result(_Blend((before[0] + before[1]) / 2))
        network.calls = average.calls = 0
        yours = call(answer, network, average, x_T, schedule)
        changed = not torch.equal(network.image, before[0])
        if changed and torch.equal(network.image, before[1]):
            raise AnswerError(
                "you copy the average into the network that is being trained, so training would go on from the "
                "average; "
                "sampling must change no weights"
            )
        if changed or not torch.equal(average.image, before[1]):
            raise AnswerError("your preview changes the weights of a network; sampling must change none")
        same(
            yours,
            right,
            "the images are not those of a DDIM run of 15 steps with the averaged weights, with x̂₀ clipped; change "
            "nothing else",
            {
                "the bug is still there: the preview changes as fast as the weights of the last step do": raw,
                "you average the images or the weights of both networks; the average alone belongs here": both,
                "you average the images of both networks; the average of the weights alone belongs here": (raw + right)
                / 2,
            },
        )
        if network.calls:
            raise AnswerError("the images are right, but the network in training is called, too, for nothing")

    treat(
        answer,
        "c",
        {
            "a": "other noise gives other sprites in each column; here each row keeps its sprite and only its "
            "look changes",
            "b": "a decay close to 1 makes an average that hardly moves: the columns would be the same",
            "d": "if so, the first columns would show the blur of an untrained network, and the last ones sprites",
        },
        test,
    )
    return "An average that is computed and never used is easy to overlook: nothing crashes, and the log looks good."


# 3


class _WithTable(nn.Module):
    """A network with two parameters, a table and a counter as buffers, and a part with its own buffer."""

    table: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3))
        self.register_buffer("table", torch.rand(9, dtype=torch.float64))
        self.register_buffer("seen", torch.tensor(integer(100, 10_000)))
        self.norm = nn.BatchNorm1d(3)
        self.norm.running_mean = torch.randn(3)


@exercise
def ema_update(answer: Any) -> str:
    """The parameters are averaged, the buffers copied."""

    def test() -> None:
        average, network = _WithTable(), _WithTable()
        old, new = copy.deepcopy(average), copy.deepcopy(network)
        decay = 0.5 + 0.4 * torch.rand(()).item()
        call(answer, average, network, decay)
        _unchanged(network, new)
        for name, value in average.named_parameters():
            a, b = old.get_parameter(name), new.get_parameter(name)
            same(
                value,
                decay * a + (1 - decay) * b,
                "the parameters are not decay · average + (1 − decay) · network; that part was right before",
                {
                    "the parameters are copied now, so there is no average any more": b,
                    "the parameters of the average do not change any more": a,
                    "decay and 1 − decay are swapped: the average must keep the share `decay` of itself": (
                        (1 - decay) * a + decay * b
                    ),
                },
            )
        for name, buffer in average.named_buffers():
            before, now = old.get_buffer(name).double(), new.get_buffer(name).double()
            mixed = decay * before + (1 - decay) * now
            kind = "table" if buffer.is_floating_point() else "counter"
            same(
                buffer,
                now,
                f"the buffer {name} of the average is neither the old one nor that of the network",
                {
                    f"the bug is still there: the {kind} of the average lies between the old and the new one": (
                        mixed if kind == "table" else mixed.floor()
                    ),
                    "now the buffers of the average stay as they were when it was made: after the switch to another "
                    "schedule, the average keeps the old table": before,
                },
                tol=1e-6,
            )
        shared = {x.data_ptr() for x in network.state_dict().values()} & {
            x.data_ptr() for x in average.state_dict().values()
        }
        if shared:
            raise AnswerError("the average shares tensors with the network; copy the values with copy_()")

    treat(
        answer,
        "c",
        {
            "a": "if so, the table of the average would be almost the new one after the first update",
            "b": "if so, the network's own table would change with each update; its curve is the cosine schedule",
            "d": "float32 moves the values by less than 0.000001; these are wrong by more than 0.1",
        },
        test,
    )
    return "The rule: average what is learned, copy what is not."


def _unchanged(network: nn.Module, before: nn.Module) -> None:
    pairs = zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    if not all(torch.equal(a, b) for a, b in pairs):
        raise AnswerError("your update changes the network that is being trained; it must change the average only")


# 4


class _Recorder:
    """A denoiser that notes the timesteps of its calls. Its prediction is linear in x_t."""

    def __init__(self, schedule: Schedule) -> None:
        self.image, self.gain, self.schedule = images(1), 0.2 + 0.3 * torch.rand(()).item(), schedule
        self.times: list[int] = []

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        t = torch.as_tensor(t)
        if not (1 <= int(t.min()) and int(t.max()) <= self.schedule.T):
            raise AnswerError(
                f"the denoiser is called at t = {int(t.flatten()[0])}; the timesteps are 1…{self.schedule.T}"
            )
        self.times.append(int(t.flatten()[0]))
        return (self.image + self.gain * x_t).to(x_t.dtype)


def _check_times(times: list[int], steps: int) -> None:
    """AnswerError unless a run with this number of steps called the denoiser at falling timesteps from T."""
    if not times or times[0] != T:
        raise AnswerError(f"the first call of the denoiser must be at t = T = {T}, since x_T is noise")
    if any(t <= s for t, s in itertools.pairwise(times)):
        raise AnswerError("the timesteps do not fall from step to step")
    if len(times) != steps:
        raise AnswerError(
            f"no index is negative any more, but {steps} steps make {len(times)} calls of the denoiser when T is "
            f"{T}. Space "
            "the timesteps evenly instead: round(T − i T / steps), then 0"
        )


@exercise
def ddim(answer: Any) -> str:
    """DDIM for numbers of steps that do and do not divide T. Any falling timesteps from T are right."""

    def test() -> None:
        for steps in (10, integer(6, 9), integer(30, 33)):  # only the first divides T
            schedule, x_T = a_schedule(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
            denoise = _Recorder(schedule)
            yours = tensor(call(answer, denoise, schedule, x_T, steps), x_T.shape)
            times, old = list(denoise.times), tensor(submitted.ddim(denoise, schedule, x_T, steps), x_T.shape)
            if steps != 10 and close(yours, old):
                raise AnswerError(
                    f"the bug is still there: {steps} steps do not divide T = {T}, and the images come out as noise"
                )
            _check_times(times, steps)
            right = samplers.sample(samplers.ddim(denoise, schedule, x_T, [*times, 0]))
            short = samplers.sample(samplers.ddim(denoise, schedule, x_T, [*times[:-1], 0]))
            one = math.sqrt(schedule.alpha_bar[1].item())
            before_last = list(samplers.ddim(denoise, schedule, x_T, [*times, 0]))[-1].x0
            last_x = list(samplers.ddim(denoise, schedule, x_T, [*times, 0]))[-2].x
            a = schedule.alpha_bar[times[-1]].item()
            eps = (last_x - math.sqrt(a) * before_last) / math.sqrt(1 - a)
            same(
                yours,
                right,
                f"with {steps} steps, the image is not that of DDIM at the timesteps where you call the denoiser: "
                f"each step "
                "must end where the next one starts, and the last one at 0",
                {
                    "the last step ends at t = 1 now. It must end at 0, where ᾱ = 1: otherwise a little noise stays "
                    "in the image": (one * before_last + math.sqrt(1 - one**2) * eps),
                    "you left out the last step, so the image keeps the noise of its last timestep": last_x,
                    "the last step returns the x̂₀ of the step before": short,
                },
            )

    treat(
        answer,
        "a",
        {
            "b": "if so, every number of steps would leave grain in the images, also 25",
            "c": "without ε̂ the images would be blurred for every number of steps, and smooth",
            "d": "if so, more steps would always be worse, or always better; here 25 is fine and 30 is not",
        },
        test,
    )
    return (
        "Python reads index −1 from the end of a list, so this bug raises no error. Test samplers with a number "
        "of steps that does not divide T."
    )


# 5


@exercise
def ddim_step(answer: Any) -> str:
    """x_s = √b x̂₀ + √(1−b−σ²) ε̂ + σ z."""

    def test() -> None:
        for eta in (0.3 + 0.5 * torch.rand(()).item(), 1.0, 0.0):
            schedule, (x0, z) = a_schedule(), (images(), torch.randn(3, 3, 8, 8, dtype=torch.float64))
            t = integer(T // 2, 3 * T // 4)
            s = t - integer(10, 20)
            a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
            eps = torch.randn_like(z)
            x_t = math.sqrt(a) * x0 + math.sqrt(1 - a) * eps
            beta = (1 - b) / (1 - a) * (1 - a / b)
            sigma = eta * math.sqrt(beta)

            def step(
                direction: float, noise: float, b: float = b, x0: Tensor = x0, eps: Tensor = eps, z: Tensor = z
            ) -> Tensor:
                return math.sqrt(b) * x0 + direction * eps + noise * z

            at_zero = "; compare the images at η = 0, which were right before"
            same(
                call(answer, x_t, x0, t, s, eta, z, schedule),
                step(math.sqrt(1 - b - sigma**2), sigma),
                "x_s is not √ᾱ_s x̂₀ + √(1−ᾱ_s−σ²) ε̂ + σ z" + at_zero * (eta == 0),
                {
                    "the bug is still there: at η = 1 x_s has more noise than ᾱ_s says, and the network takes it "
                    "for detail": step(math.sqrt(1 - b), sigma),
                    "now only σ multiplies ε̂, so at η = 0 no noise is left and the samples become blobs": step(
                        sigma, sigma
                    ),
                    "the factor of ε̂ is 1−ᾱ_s−σ² without its square root": step(1 - b - sigma**2, sigma),
                    "you subtract σ, and a variance is needed: √(1−ᾱ_s−σ²)": step(
                        math.sqrt(max(1 - b - sigma, 0)), sigma
                    ),
                    "you subtract σ after the root: √(1−ᾱ_s) − σ. Variances add up, standard deviations do not": step(
                        math.sqrt(1 - b) - sigma, sigma
                    ),
                    "you removed the fresh noise σ z, so η does nothing": step(math.sqrt(1 - b), 0),
                    "the direction is right, but the fresh noise is gone": step(math.sqrt(1 - b - sigma**2), 0),
                    "the fresh noise is multiplied by σ², and σ is needed": step(math.sqrt(1 - b - sigma**2), sigma**2),
                    "the noise now has the share η of its variance, and σ = η √β̃ was right": step(
                        math.sqrt(1 - b - eta * beta), math.sqrt(eta * beta)
                    ),
                },
            )

    treat(
        answer,
        "d",
        {
            "a": "if so, the samples would be smooth blobs, and worst at η = 0, where σ is 0; but that column is fine",
            "b": "the variance is smaller than its root, so there would be too little noise: η = 1 would look "
            "smoother, not harsher",
            "c": "if so, each sample with η > 0 would be a whole sprite below a layer of grain; here the shapes "
            "themselves are broken",
        },
        test,
    )
    return (
        "At every s, the signal and all noise must have variances ᾱ_s and 1−ᾱ_s. Add up the squares of your "
        "factors: the sum must be 1."
    )


# 6


@exercise
def clipped_step(answer: Any) -> str:
    """x̂₀ is clipped, and ε̂ recomputed from x_t and the clipped x̂₀."""

    def test() -> None:
        schedule, x_t = a_schedule(), torch.randn(3, 3, 8, 8, dtype=torch.float64)
        t = integer(T // 2, 3 * T // 4)
        s = t - integer(10, 20)
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        eps = torch.randn_like(x_t)
        free = (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)  # reaches beyond [−1, 1]
        x0 = free.clamp(-1, 1)
        new = (x_t - math.sqrt(a) * x0) / math.sqrt(1 - a)
        right = math.sqrt(b) * x0 + math.sqrt(1 - b) * new
        unclipped = math.sqrt(b) * free + math.sqrt(1 - b) * eps
        same(
            call(answer, x_t, eps, t, s, schedule),
            right,
            "x_s is not √ᾱ_s x̂₀ + √(1−ᾱ_s) ε̂ with the clipped x̂₀ and the ε̂ that belongs to it",
            {
                "the bug is still there: with these x̂₀ and ε̂, √ᾱ_t x̂₀ + √(1−ᾱ_t) ε̂ is not x_t": (
                    math.sqrt(b) * x0 + math.sqrt(1 - b) * eps
                ),
                "you no longer clip x̂₀, so strong guidance drives the colours out of range": unclipped,
                "you clip x_s instead of x̂₀. x_s contains noise and may leave [−1, 1]": unclipped.clamp(-1, 1),
                "you clip x_s as well as x̂₀. x_s contains noise and may leave [−1, 1]": right.clamp(-1, 1),
                "you clip ε̂, which is noise and often larger than 1": math.sqrt(b) * x0
                + math.sqrt(1 - b) * new.clamp(-1, 1),
                "x̂₀ is the unclipped one, and ε̂ belongs to the clipped one": math.sqrt(b) * free
                + math.sqrt(1 - b) * new,
                "you use ᾱ_s to compute ε̂, but x_t is at t": (
                    math.sqrt(b) * x0 + math.sqrt(1 - b) * (x_t - math.sqrt(b) * x0) / math.sqrt(1 - b)
                ),
            },
        )
        inside = images() * 0.3
        noise = torch.randn_like(inside)
        x_t = math.sqrt(a) * inside + math.sqrt(1 - a) * noise
        same(
            call(answer, x_t, noise, t, s, schedule),
            math.sqrt(b) * inside + math.sqrt(1 - b) * noise,
            "an x̂₀ that lies within [−1, 1] needs no clipping, and your step changes it",
        )

    treat(
        answer,
        "b",
        {
            "a": "without clipping, the step is still consistent: whole sprites, with colours that are too strong",
            "c": "if so, nothing in the samples could be darker than a medium grey, at scale 1 as well",
            "d": "if so, no change of this function could help; but model.sample(guidance=6) gives whole sprites with "
            "the same network",
        },
        test,
    )
    return "x_t, x̂₀ and ε̂ are three names for two things. If you change one, recompute another."


# 7


@exercise
def load_images(answer: Any) -> str:
    """Bytes (B, H, W, C) become (B, C, H, W) in [−1, 1]."""

    def test() -> None:
        pixels = torch.randint(0, 256, (2, 6, 5, 3), dtype=torch.uint8)
        pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
        right = pixels.permute(0, 3, 1, 2).double() / 127.5 - 1
        wrapped = (2 * pixels).permute(0, 3, 1, 2).double() / 255 - 1
        yours = call(answer, pixels)
        if isinstance(yours, Tensor) and yours.shape == pixels.shape:
            raise AnswerError("the channels come last in your images; the network needs (B, C, H, W), as before")
        same(
            yours,
            right,
            "black (0) must become −1 and white (255) must become 1, evenly in between",
            {
                "the bug is still there: the darkest pixel is 0, and that is a medium grey for the network": (right + 1)
                / 2,
                "now the values go from 0 to 2: subtract 1": right + 1,
                "now the values go from −0.5 to 0.5; multiply by 2 as well": right / 2,
                "now the values go from −1 to 0: black is right, white is not": (right + 1) / 2 - 1,
                "you doubled the bytes before the division. A byte holds at most 255, so they wrap "
                "around to 0": wrapped,
                "white becomes 0.992, because 256 is used for 255": pixels.permute(0, 3, 1, 2).double() / 128 - 1,
                "the images are standardised now. Their range is another for each batch, and clipping x̂₀ "
                "needs [−1, 1]": ((pixels.double() - pixels.double().mean()) / pixels.double().std()).permute(
                    0, 3, 1, 2
                ),
                "height, width and channels are mixed up; keep permute(0, 3, 1, 2)": pixels.double().view(2, 3, 6, 5)
                / 127.5
                - 1,
            },
        )
        if not yours.is_floating_point():
            raise AnswerError("the images must be floating point")

    treat(
        answer,
        "d",
        {
            "a": "if so, some dark pixels would turn bright and the other way round: speckles, not a veil",
            "b": "blurred samples are dark where all sprites are dark, and the first row, without any network, is "
            "pale too",
            "c": "if so, the first row, which was not sampled, would not be pale",
        },
        test,
    )
    return (
        "Print min and max of a batch before every training run. With data in [0, 1] the signal is also half as "
        "large, so each SNR is a quarter."
    )


# 8


@exercise
def drop_labels(answer: Any) -> str:
    """One random number for each image."""

    def test() -> None:
        labels = torch.rand(16, 5) + 0.5
        yours = call_dropout(answer, labels, 0.5)
        tensor(yours, labels.shape)
        still = "the bug is still there: a batch of 64 loses all of its labels or none"
        conforms(conformance.check_label_dropout(answer), mistakes.DROPPED_PER_BATCH, still)

    treat(
        answer,
        "a",
        {
            "b": "the weights do not change during this measurement, so no step can be too large",
            "c": "each of the 100 batches in the plot has the same images, so no image can make one of them special",
            "d": "if so, nearly all batches would lie a little above the lower line, and none far above it",
        },
        test,
    )
    return (
        "Per batch or per image, the expected loss is the same. But the gradient of a step then comes from one "
        "kind of image only, and is noisier."
    )


# 9


@exercise
def to_picture(answer: Any) -> str:
    """[−1, 1] becomes 0…255 with one fixed scale; what is outside is clipped."""

    def test() -> None:
        samples = images(4).float() * torch.tensor([0.3, 0.5, 0.9, 1.2]).view(4, 1, 1, 1)
        samples = samples + torch.tensor([0.5, -0.2, 0.0, 0.1]).view(4, 1, 1, 1)
        exact = (samples.double() + 1) * 127.5
        right = exact.clamp(0, 255).round()
        low, high = samples.min(), samples.max()
        centred = samples - samples.mean((1, 2, 3), keepdim=True)
        yours = call(answer, samples)
        if isinstance(yours, Tensor) and yours.is_floating_point() and yours.max() <= 1.01:
            raise AnswerError("the picture needs levels from 0 to 255, and yours end at 1")
        result = tensor(yours, samples.shape)
        if (result - right).abs().max() <= 1:  # rounding or truncation
            return
        levels = {
            "the bug is still there: a picture that is too bright everywhere looks like one that is right": (
                submitted.to_picture(samples)
            ),
            "you stretch over the whole batch now. That keeps the differences within a batch, and the next batch has "
            "another "
            "scale: use the fixed range −1…1": (samples - low) / (high - low) * 255,
            "you subtract each picture's mean. That hides the drift completely": (centred + 1) * 127.5,
            "negative values become black: you scale 0…1, and images are in −1…1": samples.clamp(0, 1) * 255,
            "values outside −1…1 wrap around in uint8: clamp before you convert": exact.long() % 256,
            "values outside −1…1 wrap around: clamp before you convert": exact.round().long() % 256,
        }
        for message, typical in levels.items():
            difference = (result - typical.double().clamp(0, 255)).abs()
            if (difference <= 1.01).all():
                raise AnswerError(message, result / 127.5 - 1, right / 127.5 - 1)
        raise AnswerError(
            "−1 must become 0 and 1 must become 255 in every picture, and values outside must be clipped",
            result / 127.5 - 1,
            right / 127.5 - 1,
        )

    treat(
        answer,
        "b",
        {
            "a": "all three runs are in one batch, so the darkest run would look darker than the brightest one",
            "c": "clipping cuts off what is too bright: the third row would have large white areas",
            "d": "the means are computed from the very tensor that is shown, in the line above the picture",
        },
        test,
    )
    return (
        "A picture that adapts to its content cannot show a drift. Fix the scale, and print the mean and std next "
        "to the grid."
    )


# 10


@exercise
def guide(answer: Any) -> str:
    """uncond + scale · (cond − uncond)."""

    def test() -> None:
        cond, uncond = images(), images()
        for scale in (1.0, 0.0, 2 + 3 * torch.rand(()).item()):
            at_one = {
                0.0: "at scale 0 the result must be the unconditional prediction",
                1.0: "at scale 1 the result must be the conditional prediction; that was right before",
            }.get(scale, "the result is not uncond + scale · (cond − uncond)")
            known: dict[str, Tensor] = {}
            if scale > 1:
                known = {
                    "the bug is still there: the larger the scale, the less human the sprites": submitted.guide(
                        cond, uncond, scale
                    ),
                    "this is scale · cond alone, which makes the colours stronger and not the label": scale * cond,
                }
            if scale == 1:
                known = {
                    "you start at the conditional prediction, so scale 1 already exaggerates the label: that is the "
                    "paper's "
                    "w = scale − 1": 2 * cond - uncond,
                    "cond and uncond are swapped: scale 1 gives the unconditional prediction": uncond,
                    "uncond − cond points away from the label, and here you start at uncond as well": 2 * uncond - cond,
                    "this is the mean of both predictions, or a mixture of them; scale 1 must be cond alone": (
                        cond + uncond
                    )
                    / 2,
                }
            if scale == 0:
                known = {
                    "at scale 0 you get 2 cond − uncond, as in the submitted code: the sign of the difference is "
                    "still wrong": (2 * cond - uncond),
                    "at scale 0 you get the conditional prediction: you start at cond, and the scale counts "
                    "from uncond": cond,
                }
            yours = call(answer, cond, uncond, scale)
            if scale == 0 and close(tensor(yours, cond.shape), submitted.guide(cond, uncond, 0.0)):
                first = call(answer, cond, uncond, 3.0)
                if close(tensor(first, cond.shape), submitted.guide(cond, uncond, 3.0)):
                    raise AnswerError("the bug is still there: the larger the scale, the less human the sprites")
            same(yours, uncond + scale * (cond - uncond), at_one, known)

    treat(
        answer,
        "c",
        {
            "a": "if so, a larger scale would change nothing, since both predictions would be the same",
            "b": "if so, scale 1 would already be guided: a different sprite than without guidance, but a human, and "
            "more so at 4",
            "d": "without clipping, the colours would be too strong; the sprites would be human",
        },
        test,
    )
    return (
        "At scale 1 the wrong sign cannot be seen, because the term vanishes. Test guidance at 0, 1 and a third scale."
    )


# 11


class _Problem:
    """A regression with a batch for each step, a rate for each step, and an optimizer with momentum."""

    def __init__(self) -> None:
        self.inputs, self.targets = torch.randn(40, 8, 5), torch.randn(40, 8, 1)
        self.peak, self.seen = 0.005 + 0.005 * torch.rand(()).item(), list[int]()

    def rate(self, step: int) -> float:
        return self.peak * min(1.0, (step + 1) / 6) * (1 - step / 40)

    def loss(self, network: nn.Module, step: int) -> Tensor:
        self.seen.append(step)
        result: Tensor = (network(self.inputs[step]) - self.targets[step]).square().mean()
        return result

    def run(self, steps: Callable[..., Any], network: nn.Module, stops: Iterable[int]) -> list[float]:
        """Train to each of the steps in ``stops``, one session after the other; the losses of all."""
        optimizer, losses, first = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9), [], 0
        for last in stops:
            found = steps(network, optimizer, self.rate, self.loss, first, last)
            if not isinstance(found, (list, tuple)) or len(found) != last - first:
                raise AnswerError(f"return a list with the loss of each of the {last - first} steps")
            losses += [float(loss) for loss in found]
            first = last
        return losses


@exercise
def train_steps(answer: Any) -> str:
    """An interrupted run has the same losses and weights as an uninterrupted one."""

    def test() -> None:
        problem, start = _Problem(), nn.Linear(5, 1)
        stop = integer(15, 25)

        def result(steps: Callable[..., Any]) -> tuple[Tensor, Tensor]:
            network, problem.seen = copy.deepcopy(start), []
            losses = problem.run(steps, network, (stop, 40))
            return torch.tensor(losses, dtype=torch.float64), network.weight.detach()

        def shifted(
            rate: Callable[[int, int], float], batch: Callable[[int, int], int], zero: bool = True
        ) -> Callable[..., Any]:
            """The learner's function with another rate(first, i) and batch(first, i)."""

            def steps(network: Any, optimizer: Any, _: Any, loss: Any, first: int, last: int) -> list[float]:
                losses = []
                for i in range(last - first):
                    optimizer.param_groups[0]["lr"] = rate(first, i)
                    value = loss(network, batch(first, i))
                    if zero:
                        optimizer.zero_grad()
                    value.backward()
                    optimizer.step()
                    losses.append(value.item())
                return losses

            return steps

        def global_step(first: int, i: int) -> int:
            return first + i

        right, weight = result(shifted(lambda first, i: problem.rate(first + i), global_step))
        yours, your_weight = result(lambda *arguments: call(answer, *arguments))
        seen = problem.seen
        if seen == [*range(stop), *range(40 - stop)]:
            raise AnswerError(
                "after a resume your batches start again from the first; loss() needs the step of the whole run"
            )
        if sorted(seen) != list(range(40)):
            raise AnswerError("call loss(network, step) once for each step from first to last − 1")
        if not close(yours, right, 1e-5):  # the mistakes take time to compute
            same(
                yours,
                right,
                "the losses are not those of an uninterrupted run, in which step k has the learning rate rate(k)",
                {
                    "the bug is still there: the losses differ from those of the uninterrupted run right after "
                    "the resume": result(shifted(lambda first, i: problem.rate(i), global_step))[0],
                    "the learning rate stays at that of the step where the session began": result(
                        shifted(lambda first, i: problem.rate(first), global_step)
                    )[0],
                    "you use the rate of the last step for all steps": result(
                        shifted(lambda first, i: problem.rate(39 if first else stop - 1), global_step)
                    )[0],
                    "the rate is now one step ahead: step k needs rate(k)": result(
                        shifted(lambda first, i: problem.rate(first + i + 1), global_step)
                    )[0],
                    "the rate is now one step behind: set it before optimizer.step()": result(
                        shifted(lambda first, i: problem.rate(max(first + i - 1, 0)), global_step)
                    )[0],
                    "first is added twice": result(shifted(lambda first, i: problem.rate(2 * first + i), global_step))[
                        0
                    ],
                    "the gradients of earlier steps are not cleared: keep optimizer.zero_grad()": result(
                        shifted(lambda first, i: problem.rate(first + i), global_step, zero=False)
                    )[0],
                },
                tol=1e-5,
            )
        same(
            your_weight,
            weight,
            "the losses are right, but the last step did not change the weights as it should",
            tol=1e-5,
        )

    treat(
        answer,
        "b",
        {
            "a": "without its moments, Adam restarts with small, careful averages: a short bump, and then the "
            "rates would be as before",
            "c": "known batches would make the loss lower after the resume, not higher",
            "d": "if so, the very first loss after the resume would be another; it is printed, and is the same",
        },
        test,
    )
    return (
        "A resumed run should equal an uninterrupted one. That is the test to write: train 2 + 2 steps and 4 "
        "steps, and compare."
    )


# 12


@exercise
def score(answer: Any) -> str:
    """Both FIDs from all images, with the same number of images."""

    def test() -> None:
        D, n = 24, integer(200, 300)
        scale = torch.rand(D) + 0.5
        samples, real, reference = (torch.randn(count, D) * scale for count in (n, n + 150, 600))
        yours = call(answer, samples + 0.05, real, reference)
        samples = samples + 0.05
        if isinstance(yours, dict):
            yours = tuple(yours.values())
        if not isinstance(yours, (tuple, list, Tensor)) or len(yours) != 2:
            raise AnswerError("return two numbers: the FID of the samples and that of the real images")
        pair = torch.stack([tensor(value, (), "your function") for value in yours])

        def pair_of(a: Tensor, b: Tensor, to: Tensor = reference) -> Tensor:
            return torch.tensor([fid(a, to), fid(b, to)], dtype=torch.float64)

        right = pair_of(samples, real[:n])
        if close(pair, right, 1e-6):  # the mistakes take time to compute
            return
        same(
            pair,
            right,
            "use all samples, and as many of the real images: real[:len(samples)], both against the whole reference",
            {
                "the bug is still there: a perfect model gets an FID far above that of real images": pair_of(
                    samples[:64], real
                ),
                "the samples are all used now. But FID falls as N grows, so measure the real images with the same "
                "number, too": pair_of(samples, real),
                "both numbers are comparable now, and both are useless: 64 images are too few for a covariance of "
                "many features": pair_of(samples[:64], real[:64]),
                "the number of the real images matches, but the samples are still only 64": pair_of(
                    samples[:64], real[:n]
                ),
                "the reference is cut to the number of samples; use all of it": pair_of(
                    samples, real[:n], reference[:n]
                ),
                "the two numbers are in the wrong order: first the samples, then the real images": right.flip(0),
                "128 images are better than 64, and not all there are": pair_of(samples[:128], real[:128]),
            },
            tol=1e-6,
        )

    treat(
        answer,
        "a",
        {
            "b": "the samples of this table are real sprites, so no model can be at fault",
            "c": "bad luck would change from seed to seed, and sometimes be good luck; here every seed is far above",
            "d": "if so, the real images would score badly as well, since they have the same features",
        },
        test,
    )
    return (
        "FID is biased: with few images it is too high, by roughly a constant over N. Never compare two FIDs with "
        "different N."
    )


# The exam


@exercise
def exam(answer: Any) -> str:
    """Both bugs of the guided sampler: the timesteps end below 0, and guidance runs from cond to uncond."""

    def variant(
        wraps: bool, away: bool, denoisers: Any, schedule: Schedule, x_T: Tensor, steps: int, scale: float
    ) -> Tensor:
        """The image of the sampler with one of the bugs, both, or none."""
        conditional, unconditional = denoisers if not away else denoisers[::-1]
        stride = math.ceil(T / steps)
        times = (
            [T - i * stride for i in range(steps + 1)]
            if wraps
            else [round(T - i * T / steps) for i in range(steps)] + [0]
        )
        return submitted_loop(conditional, unconditional, schedule, x_T, times, scale)

    def test() -> None:
        found = []
        several = (12, 13, 15, 17)  # numbers for which only the last timestep of the submitted code is negative
        for steps, scale in ((10, 1.0), (10, 2.5), (several[integer(0, 3)], 1.0), (several[integer(0, 3)], 2.5)):
            schedule, x_T = a_schedule(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
            denoisers = _Recorder(schedule), _Recorder(schedule)
            yours = tensor(call(answer, *denoisers, schedule, x_T, steps, scale), x_T.shape)
            times = [t for i, t in enumerate(denoisers[0].times) if i == 0 or t != denoisers[0].times[i - 1]]
            pictures = {
                (wraps, away): variant(wraps, away, denoisers, schedule, x_T, steps, scale)
                for wraps in (False, True)
                for away in (False, True)
            }
            matches = [bugs for bugs, picture in pictures.items() if close(yours, picture)]
            if not matches:
                _exam_times(times, steps, scale)
                right = submitted_loop(*denoisers, schedule, x_T, [*times, 0], scale)
                if close(yours, right):
                    matches = [(False, False)]
                elif close(yours, submitted_loop(*denoisers[::-1], schedule, x_T, [*times, 0], scale)):
                    matches = [(False, True)]
                else:
                    _other_exam_mistake(yours, right, denoisers, schedule, x_T, times, scale)
            if (False, False) not in matches:
                found.append((steps, scale, matches[0], yours, pictures[False, False]))
        if not found:
            return
        noise = any(wraps for _, _, (wraps, _), _, _ in found)
        label = any(away for _, _, (_, away), _, _ in found)
        *_, yours, right = found[0]
        if noise and label:
            message = "both bugs are still there: 25 steps ignore the label, and 30 steps give noise"
        elif noise:
            message = "one bug is gone. The other one is still there: 30 steps give noise, and 25 do not"
        else:
            message = "one bug is gone. The other one is still there: scale 1 gives all kinds, and scale 4 no humans"
        raise AnswerError(message, yours, right)

    treat(
        answer,
        "be",
        {
            "a": "a stale ε̂ breaks the sprites at a large scale, for each number of steps; with 30 steps and scale "
            "1 nothing is clipped much",
            "c": "the wrong direction term does harm when η > 0, and this sampler has no η",
            "d": "without a root in the noise, 25 steps would be bad as well, at every scale",
            "f": "labels that were dropped per batch make training noisier; the network is the same for "
            "model.sample, whose humans are human",
        },
        test,
    )
    return (
        "One bug can hide another: the noise of 30 steps hid that the sprites had the wrong label. Mend one, look "
        "again, and mend the next."
    )


def submitted_loop(
    conditional: Any, unconditional: Any, schedule: Schedule, x_T: Tensor, times: list[int], scale: float
) -> Tensor:
    """Guided DDIM at these timesteps; an index below 0 counts from the end of the table."""
    x = x_T
    for t, s in itertools.pairwise(times):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        if t < 1:
            return x
        batch = torch.full((len(x),), t)
        without = unconditional(x, batch)
        x0 = (without + scale * (conditional(x, batch) - without)).clamp(-1, 1)
        x = math.sqrt(b) * x0 + math.sqrt(1 - b) * (x - math.sqrt(a) * x0) / math.sqrt(1 - a)
    return x


def _exam_times(times: list[int], steps: int, scale: float) -> None:
    _check_times(times, steps)


def _other_exam_mistake(
    yours: Tensor, right: Tensor, denoisers: Any, schedule: Schedule, x_T: Tensor, times: list[int], scale: float
) -> None:
    conditional, unconditional = denoisers
    w = submitted_loop(conditional, unconditional, schedule, x_T, [*times, 0], scale + 1)
    to_one = submitted_loop(conditional, unconditional, schedule, x_T, [*times, 1], scale)
    minus = submitted_loop(conditional, unconditional, schedule, x_T, [*times, 0], -scale)
    same(
        yours,
        right,
        "the image is not that of guided DDIM at your timesteps. Only two lines need a change; compare the others "
        "with the submitted code",
        {
            "you start at the conditional prediction, so scale 1 is guided already; start at the unconditional one": w,
            "the last step ends at t = 1. It must end at 0, where ᾱ = 1": to_one,
            "guidance still moves away from the label": minus,
        },
    )
