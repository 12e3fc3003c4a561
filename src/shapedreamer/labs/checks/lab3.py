"""The checks of lab 3: label vectors, conditional denoisers, label dropout, mixing, and classifier-free guidance."""

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...conformance import Report, check_guidance, check_label_dropout
from ...diffusion import denoiser, samplers, schedule
from ..verdict import AnswerError, call, exercise, same, tensor

NAMES = ("human", "non-human", "food", "spell", "side-facing", "boat", "tree", "7")
L = 5
SHAPE = (1, 8, 8)


@exercise
def label_vector(answer: Any) -> str:
    """Random names and amounts, in a dict whose order is not that of the names; then a dict of whole numbers."""
    names = tuple(random_order(NAMES)[:L])
    chosen = [names[3], names[1]]  # neither the first two names nor in their order
    amounts = {name: round(0.2 + 0.6 * torch.rand(()).item() + number, 3) for number, name in enumerate(chosen)}
    right = torch.tensor([amounts.get(name, 0.0) for name in names])
    given = dict(amounts)
    try:
        yours = call(answer, given, names)
    except AnswerError as error:
        if "raised KeyError" in error.message and any(repr(name) in error.message for name in names):
            raise AnswerError(
                "a class that is not in the dict raises KeyError; amounts.get(name, 0) returns 0 for it"
            ) from None
        raise
    if given != amounts:
        raise AnswerError("your function changes the dict that it gets; read from it only (get, not pop)")
    if isinstance(yours, Tensor) and yours.shape == (len(amounts),):
        raise AnswerError(
            f"your vector has {len(amounts)} numbers, as many as there are amounts; it needs one for each of the "
            f"{L} names, with 0 for a class that is not in the dict"
        )
    if isinstance(yours, Tensor) and yours.shape == (1, L):
        raise AnswerError(f"your vector has shape (1, {L}); one label is a vector of shape ({L},)")
    if isinstance(yours, (list, tuple)):
        raise AnswerError("your function returns a Python list; make it a tensor: torch.tensor(…)")
    in_order = torch.tensor([*amounts.values(), *[0.0] * (L - len(amounts))])
    same(
        yours,
        right,
        "entry i must be the amount of names[i], or 0 if this class is not in the dict",
        {
            "your amounts stand in the order of the dict; the order of `names` decides where a class stands": (
                in_order
            ),
            "you set a 1 for each class in the dict; the amount may be any number, such as 0.6": right.sign(),
            "your amounts are scaled so that they sum to 1; pass them on unchanged": right / right.sum(),
            "your tensor holds whole numbers, so 0.6 became 0; make it float32": right.trunc(),
            "only one class is set; a label may hold several": torch.where(right == right.max(), right, 0.0),
            "your vector is reversed; entry 0 belongs to names[0]": right.flip(0),
        },
    )
    whole = call(answer, {names[2]: 1}, names)
    if not (isinstance(whole, Tensor) and whole.is_floating_point()):
        raise AnswerError(
            'for {"human": 1} your tensor holds integers; the network multiplies labels with its weights and needs '
            "float32"
        )
    same(whole, torch.eye(L)[2], "with a single class, its entry is its amount, and all others are 0")
    return "a name is for people; the network gets numbers, and any numbers will do."


class _Network:
    """A function (x_t, t, label) -> x̂₀ with random coefficients, which depends on each of them.

    It explains what is wrong with arguments that a real network would not take. need_label: refuse calls without one.
    """

    def __init__(self, need_label: bool) -> None:
        self.need_label = need_label
        self.gain = 0.3 + torch.rand(()).item()
        self.pattern = torch.randn(L, *SHAPE) * 0.8
        self.calls: list[bool] = []  # with a label?

    def __call__(self, x_t: Any, t: Any, label: Any = None) -> Tensor:
        if len(self.calls) > 500:
            raise AnswerError("your sampler calls the network again and again; does its loop end?")
        if not isinstance(x_t, Tensor) or x_t.ndim != 4:
            raise AnswerError("the first argument of the network is the image x_t (B, C, H, W), then t, then the label")
        if not isinstance(t, Tensor) or t.shape != (len(x_t),):
            raise AnswerError(
                "the second argument of the network is t, a tensor (B,); pass on what the sampler gives you, unchanged"
            )
        if label is None and self.need_label:
            raise AnswerError(
                "you call the network without the label, as network(x_t, t); this is the unconditional prediction"
            )
        B = len(x_t)
        if label is not None and (not isinstance(label, Tensor) or label.shape != (B, L)):
            shape = tuple(label.shape) if isinstance(label, Tensor) else type(label).__name__
            raise AnswerError(
                f"the network needs a label for each image of the batch, ({B}, {L}) for {B} images; you passed {shape}"
            )
        self.calls.append(label is not None)
        return self.predict(x_t, t, x_t.new_zeros(B, L) if label is None else label)

    def predict(self, x_t: Tensor, t: Tensor, label: Tensor) -> Tensor:
        moved = torch.einsum("bl,lchw->bchw", label.to(x_t.dtype), self.pattern.to(x_t.dtype))
        return torch.tanh(self.gain * x_t + 0.001 * t.view(-1, 1, 1, 1)) + moved


@exercise
def conditional(answer: Any) -> str:
    """The denoiser must work for batches of every size, and call the network each time."""
    network, label = _Network(need_label=True), torch.rand(L) + 0.1
    denoise = call(answer, network, label)
    _is_function(denoise, "conditional")
    for B in (4, 1, 7):
        x_t, t = torch.randn(B, *SHAPE), torch.randint(1, 500, (B,))
        yours = call(denoise, x_t, t)
        right = network.predict(x_t, t, label.expand(B, -1))
        same(
            yours,
            right,
            "the prediction is not that of the network for this x_t, this t and this label",
            {
                "you pass a label of zeros, which means no label": network.predict(x_t, t, torch.zeros(B, L)),
                "you pass a label of ones instead of `label`": network.predict(x_t, t, torch.ones(B, L)),
                "you change the label's amounts so that they sum to 1; pass it on unchanged": network.predict(
                    x_t, t, (label / label.sum()).expand(B, -1)
                ),
                "you pass t − 1 to the network; pass on t as it is": network.predict(x_t, t - 1, label.expand(B, -1)),
                "you return x_t, without the prediction": x_t,
            },
        )
    return "the sampler sees a function of (x_t, t), and the label travels inside of it."


def call_dropout(answer: Any, labels: Tensor, probability: float) -> Any:
    """Call a label dropout, also that of lab 12. A mask (B,), which does not fit labels (B, L), is explained."""
    try:
        return call(answer, labels, probability, torch.Generator().manual_seed(int(torch.randint(2**31, ()))))
    except AnswerError as error:
        if "must match the size" in error.message:
            raise AnswerError(
                f"a mask ({len(labels)},) cannot be multiplied with labels ({len(labels)}, {L}); it needs the shape "
                f"({len(labels)}, 1), so that each of its numbers acts on a row"
            ) from None
        raise


@exercise
def drop_labels(answer: Any) -> str:
    """The conformance suite's check of label dropout, after a look at the form of the result."""
    labels = torch.rand(6, L) + 0.5
    yours = call_dropout(answer, labels, 0.5)
    if isinstance(yours, Tensor) and yours.dtype == torch.bool:
        raise AnswerError("your function returns the mask; multiply the labels by it")
    tensor(yours, labels.shape)
    before = labels.clone()
    call(lambda: answer(labels, 1.0, torch.Generator().manual_seed(0)))
    if not torch.equal(labels, before):
        raise AnswerError(
            "you change the labels in place, and the data set loses them for good; change a copy: labels.clone()"
        )
    _require(check_label_dropout(answer))
    return "each image is decided on its own, so every batch trains both tasks."


@exercise
def blend(answer: Any) -> str:
    """Random labels and numbers of steps; the ends must be exact."""
    for steps in (2, int(torch.randint(4, 9, ()))):
        a, b = torch.rand(L) + 0.2, torch.rand(L) * 2 + 1
        w = torch.linspace(0, 1, steps).view(-1, 1)
        right = (1 - w) * a + w * b
        try:
            yours = call(answer, a, b, steps)
        except AnswerError as error:
            if "must match the size" in error.message:
                raise AnswerError(
                    f"a weight for each step, ({steps},), cannot be multiplied with a label, ({L},); "
                    "give the weights the shape (steps, 1): w.view(-1, 1)"
                ) from None
            raise
        if isinstance(yours, (list, tuple)):
            raise AnswerError(
                f"your function returns a list; stack the labels into one tensor ({steps}, {L}): torch.stack(…)"
            )
        if isinstance(yours, Tensor) and yours.shape == (L, steps) and steps != L:
            raise AnswerError(f"your result is (L, steps); a row for each step is needed, ({steps}, {L})")
        if (
            isinstance(yours, Tensor)
            and yours.ndim == 2
            and yours.shape[1] == L
            and len(yours) in (steps - 1, steps + 1)
        ):
            raise AnswerError(f"you return {len(yours)} labels for steps = {steps}; both ends count as steps")
        short, inner = torch.arange(steps).view(-1, 1) / steps, (torch.arange(steps).view(-1, 1) + 1) / (steps + 1)
        same(
            yours,
            right,
            "row i must be (1 − w) · a + w · b with w = i / (steps − 1)",
            {
                "your path goes from b to a; the first row must be a": right.flip(0),
                "your path never reaches b: the weights are i / (steps − 1), not i / steps": (1 - short) * a
                + short * b,
                "your path leaves out both ends; the first row is a, the last is b": (1 - inner) * a + inner * b,
                "you add w · b without taking away from a: the weights of a and b must sum to 1": a + w * b,
                "a keeps the weight 1, and the direction b − a is missing; use a + w · (b − a)": a + w * a,
                "b has the weight 1 everywhere; it must start at 0": (1 - w) * a + b,
                "your rows are scaled to sum to 1; leave them as they are": right / right.sum(1, keepdim=True),
                "your rows are scaled to length 1; leave them as they are": right / right.norm(dim=1, keepdim=True),
            },
        )
    return "a label vector is a point, and the network can be asked for any point between those that it has seen."


@exercise
def guided(answer: Any) -> str:
    """A function must come out; then the conformance suite's check of guidance."""

    def conditional(x_t: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x_t

    def unconditional(x_t: Tensor, t: Tensor) -> Tensor:
        return -x_t

    denoise = call(answer, conditional, unconditional, 2.0)
    _is_function(denoise, "guided")
    x_t, t = torch.randn(3, *SHAPE), torch.tensor([3, 40, 500])
    tensor(call(denoise, x_t, t), x_t.shape)
    scale = 2 + 3 * torch.rand(()).item()
    yours = call(call(answer, conditional, unconditional, scale), x_t, t)
    cond, uncond = 0.5 * x_t, -x_t
    right = uncond + scale * (cond - uncond)
    same(
        yours,
        right,
        _mistake(check_guidance(answer)) or "guidance is uncond + scale · (cond − uncond)",
        {
            "you start from the conditional prediction, which is the paper's convention w = scale − 1; start from the "
            "unconditional one": cond + scale * (cond - uncond),
            "you move away from the label: it is uncond + scale · (cond − uncond), and in yours cond and uncond are "
            "swapped": cond + scale * (uncond - cond),
            "you start from the conditional prediction and go away from the label; it is uncond + scale · (cond − "
            "uncond)": cond - scale * (cond - uncond),
            "the scale multiplies both predictions; it multiplies only the difference cond − uncond": scale * cond,
            "you add scale · cond without taking uncond away: what is scaled is the difference cond − uncond": (
                uncond + scale * cond
            ),
            "the scale has no effect: this is the conditional prediction": cond,
            "this is only the difference times the scale; add it to the unconditional prediction": (
                scale * (cond - uncond)
            ),
        },
    )
    _require(check_guidance(answer))
    return "scale 0 ignores the label, 1 uses it, and above 1 overshoots in its direction."


@exercise
def exam(answer: Any) -> str:
    """Guided DDIM with a label for each image, and x̂₀ that leaves [−1, 1]."""
    table = schedule.cosine(int(torch.randint(60, 200, ())))
    network, labels = _Network(need_label=False), torch.eye(L)[torch.tensor([3, 0, 4, 1])]
    x_T, steps, scale = torch.randn(4, *SHAPE), int(torch.randint(6, 12, ())), 2 + 2 * torch.rand(()).item()

    def run(denoise: denoiser.Denoise) -> Tensor:
        return samplers.sample(samplers.ddim(denoise, table, x_T, steps))

    def with_labels(labels: Tensor) -> denoiser.Denoise:
        return lambda x, t: network.predict(x, t, labels)

    cond, uncond = with_labels(labels), with_labels(torch.zeros(4, L))
    clipped, guide = denoiser.clipped, denoiser.guided
    yours = call(answer, network, table, labels, scale, x_T, steps)
    if isinstance(yours, (list, tuple)):
        raise AnswerError(
            "your function returns the steps of the sampler; sd.samplers.sample(stream) is the image after the last"
        )
    if callable(yours):
        raise AnswerError("your function returns a denoiser; pass it to sd.samplers.ddim and return the image")
    same(
        yours,
        run(clipped(guide(cond, uncond, scale))),
        "the images are wrong; check the guidance formula, then the clipping, then the order of the arguments of ddim",
        {
            "you do not clip: clamp the guided prediction to [−1, 1]": run(guide(cond, uncond, scale)),
            "you clip before you guide; guidance then leaves [−1, 1] again. Guide first, then clip": run(
                guide(clipped(cond), clipped(uncond), scale)
            ),
            "you clip before and after guidance; only the guided prediction must be clipped": run(
                clipped(guide(clipped(cond), clipped(uncond), scale))
            ),
            "your guidance moves away from the label: cond and uncond are swapped": run(
                clipped(guide(uncond, cond, scale))
            ),
            "you start from the conditional prediction, which is the paper's w = scale − 1; start from the "
            "unconditional one": run(clipped(guide(cond, uncond, 1 + scale))),
            "the scale has no effect: you sample the conditional model": run(clipped(cond)),
            "you sample the unconditional model; the labels have no effect": run(clipped(uncond)),
            "all images get the first label; each has its own": run(
                clipped(guide(with_labels(labels[:1].expand(4, -1)), uncond, scale))
            ),
            "you clip the image at the end, but not the prediction in each step": run(guide(cond, uncond, scale)).clamp(
                -1, 1
            ),
            "this is only one prediction from pure noise; use a sampler": clipped(guide(cond, uncond, scale))(
                x_T, torch.full((4,), table.T)
            ),
        },
    )
    return "a label vector, two predictions, one clip: this is how conditional models are sampled everywhere."


def random_order(values: tuple[str, ...]) -> list[str]:
    """The values in random order; the order depends on torch's seed."""
    return random.Random(int(torch.randint(2**31, ()))).sample(values, len(values))


def _is_function(value: Any, name: str) -> Callable[..., Any]:
    if not callable(value):
        kind = type(value).__name__
        raise AnswerError(
            f"{name} must return a function (x_t, t) -> x̂₀, which the sampler calls; yours returns {kind}"
        )
    function: Callable[..., Any] = value
    return function


def _mistake(report: Report) -> str:
    """The first mistake of a report with its hint, "" if it passed."""
    for row in report.checks:
        if row.mistake and row.required:
            return f"{row.mistake}. {row.hint}".strip()
    return ""


def _require(report: Report) -> None:
    """AnswerError with the first mistake of a report, unless it passed."""
    if not report.passed:
        raise AnswerError(_mistake(report) or "the result is wrong")
