"""The checks of the doctor: each looks for one of the usual faults of a diffusion model, and names it.

Each check measures a number and compares it with a limit. The limits were set by examining all shipped models. For the
finished ones, the worst value and the limit are:

    check            worst shipped model             limit
    data range       −0.95 to 1                      within −1 to 1, some values below −0.05, at least 1 wide
    x_T is noise     SNR 1e-8                        1e-3; DDPM's linear schedule has 4e-5. Stable Diffusion's has
                                                     5e-3, which is too much (Lin et al. 2024)
    held-out loss    0.65 × the baseline (turbo)     0.9
    noise levels     0.81 × a linear denoiser        1
    overfitting      1.08 × the training loss        1.5
    clipping         2.2% of the pixels              25%
    mean of samples  0.058, 2.3 standard errors      0.08, and 4 standard errors
    contrast         0.93 × real images              0.8
    variety          0.96 × real images              0.5
    copies           7% more than real images        25% more
    labels           change samples by 0.65,         0.1
                     wrong ones cost 31%             2%

An x₀-model that stopped after an eighth of its training (sprites-epoch-4) is within all of these limits. Shipped
models have no training losses and no raw weights. In runs of 620 steps of a small network, the loss at the end was
1.00 to 1.02 times the lowest (limit 1.3), and averaged weights had 1.00 to 1.01 times the loss of raw ones (limit
1.2).

After a NaN, or if the network has learnt nothing, the remaining checks are not made: they would add nothing.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.noise import fold
from ..data.spec import Dataset, DataSpec
from ..models.checkpoint import Checkpoint, State
from ..models.recipes import Recipe
from ..training.loop import WEIGHTS, learning_rate
from .case import BATCH, NUM_ERRORS, NUM_IMAGES, OVERSHOOT, Measurements, spread
from .memorisation import memorisation

MAX_TRAINING = 60_000  # training images to search for copies

# The limits; the docstring of this module lists what the shipped models measure.
MAX_TERMINAL_SNR = 1e-3
MIN_RANGE = 1.0  # highest minus lowest value of the images, where [−1, 1] would be 2
MIN_IMAGES_SEEN = 10_000  # the shortest training of a shipped model takes 60,000, and the guide recommends 40,000
MIN_STEPS_DONE = 0.9  # of the steps in the recipe
MAX_LOSS_JUMP = 2.0  # times the first loss
MAX_LOSS_RISE = 1.3  # times the lowest loss; training losses of batches of 32 vary by 4% between windows
MIN_WINDOW = 5  # steps whose loss is averaged; a curve has WINDOWS such windows
WINDOWS = 20
MIN_EMA_PROGRESS = 0.5  # of the way from the initial weights to the raw ones
MAX_EMA_LOSS = 1.2  # times the loss of the raw weights
MAX_LOSS = 0.9  # times the loss of the best constant
MAX_LINEAR_ERROR = 1.0  # times the error of the best linear denoiser
LOG_SNRS = (-4.0, -2.0, 0.0)  # noise levels where images take shape
MAX_GAP = 1.5  # held-out loss over training loss
MAX_HELD_OUT_RISE = 1.1  # last held-out loss over the best one
MAX_CLIPPED = 0.25  # share of the predicted pixels, in the second half of the steps
MAX_UNCLIPPED = 0.02  # share of the predicted pixels that are outside the range of the images, and not clipped
MAX_MEAN_SHIFT = 0.08
MAX_STANDARD_ERRORS = 4.0
MIN_CONTRAST = 0.8
MIN_VARIETY = 0.5
CLOSE = 0.5  # distance of a copy to its training image over the median distance of held-out images
MAX_COPIES = 0.25  # share of copies among the samples, above that among held-out images
MIN_LABEL_CHANGE = 0.1
MIN_LABEL_GAIN = 0.02
LABEL_LOG_SNR = -2.0  # noise level at which a wrong label costs most


@dataclass(frozen=True)
class Finding:
    """Something that ails a run.

    name     the fault in a few words, such as "label ignored"
    evidence the number that was measured, and the one that would be fine
    advice   what to do
    """

    name: str
    evidence: str
    advice: str


@dataclass(frozen=True)
class Check:
    """One line of a report: the value that was measured, and which values are fine.

    finding: None if the value is fine
    made:    False if the check does not apply or could not be made; then `measured` says why
    name:    what was checked, such as "data range"
    """

    measured: str
    fine: str = ""
    finding: Finding | None = None
    made: bool = True
    name: str = ""

    @property
    def symbol(self) -> str:
        """✓ fine, ✗ a finding, – not checked."""
        return "–" if not self.made else "✗" if self.finding else "✓"


def _skip(reason: str) -> Check:
    return Check(reason, made=False)


# ----- the checks, in the order of the report; causes come before their consequences


def not_a_number(evidence: str) -> Finding:
    return Finding(
        "NaN",
        f"{evidence} All weights, losses and predictions should be finite numbers.",
        "Use an earlier checkpoint, or train again with a lower learning rate. In your own training loop, clip the "
        "gradient, and stop before an update with a loss that is not finite.",
    )


def find_nonfinite_weights(checkpoint: Checkpoint) -> Check | None:
    """A finding if a weight is NaN or infinite; such a checkpoint cannot be loaded."""
    for kind, state in (("averaged", checkpoint.ema), ("raw", checkpoint.network)):
        bad = [name for name, value in state.items() if not torch.isfinite(value).all()]
        if bad:
            evidence = (
                f"{len(bad)} of the {len(state)} tensors of {kind} weights contain NaN or infinity, first {bad[0]}."
            )
            return Check(f"{len(bad)} tensors not finite", "all finite", not_a_number(evidence), name="finite numbers")
    return None


def _check_finite(exam: Measurements) -> Check:
    records = exam.case.metrics
    bad = [r["step"] for r in records if not all(math.isfinite(r[key]) for key in ("loss", "held_out") if key in r)]
    if bad:
        evidence = f"The loss in metrics.jsonl is NaN or infinite in {len(bad)} records, first at step {bad[0]:,}."
        return Check(f"loss not finite at step {bad[0]}", "finite", not_a_number(evidence))
    return Check("all finite", "all finite")


def _check_range(exam: Measurements) -> Check:
    low, high = exam.range
    spec = exam.spec
    measured, fine = f"{low:.3g} to {high:.3g}", "-1 to 1"
    problem, advice = "", ""
    if low < -1.001 or high > 1.001:
        problem = "Values outside [-1, 1] have more variance than the noise schedule assumes."
        advice = "Scale the images to [-1, 1] before training; for 8-bit values, x / 127.5 - 1."
    elif low > -0.05:
        problem = "No value is negative, so the images look like data in [0, 1] that were not rescaled."
        advice = "Rescale them before training: 2 x - 1. Then train again."
    elif high - low < MIN_RANGE:
        problem = f"They span {high - low:.2g}, less than {MIN_RANGE:g}, so there is little signal to learn from."
        advice = (
            "Give the images more contrast before training. A common cause is files with values 0 and 1, such as "
            "masks, which are almost black as 8-bit images: multiply them by 255."
        )
    elif spec.low > low + 0.05 or spec.high < high - 0.05:
        problem = (
            f"The DataSpec of the run says [{spec.low:g}, {spec.high:g}], and its predictions are clipped to that."
        )
        advice = "Scale the images to [-1, 1], set low and high of the DataSpec to -1 and 1, and train again."
    if not problem:
        return Check(measured, fine)
    evidence = f"The training images have values from {low:.3g} to {high:.3g}; -1 to 1 would be fine. {problem}"
    return Check(measured, fine, Finding("data range", evidence, advice))


def _check_terminal(exam: Measurements) -> Check:
    snr, T = exam.schedule.snr[-1].item(), exam.schedule.T
    measured, fine = f"SNR {snr:.2g} at T = {T}", f"at most {MAX_TERMINAL_SNR:g}"
    if snr <= MAX_TERMINAL_SNR:
        return Check(measured, fine)
    return Check(
        measured,
        fine,
        Finding(
            "signal left at T",
            f"x_T is not noise: SNR {snr:.2g} at T = {T}; {MAX_TERMINAL_SNR:g} or less would be fine. In training, x_T "
            f"contains the image times {exam.schedule.alpha_bar[-1].sqrt().item():.2g}. Sampling starts from pure "
            "noise, which the network has never seen, so the brightness of the samples is wrong.",
            "Train again with --schedule cosine, flow or linear_zero_snr, or with more timesteps: linear needs "
            "about 1,000.",
        ),
    )


def _check_length(exam: Measurements) -> Check:
    recipe, step = exam.recipe, exam.case.step
    if recipe is None or step is None or recipe.data.samples is None:
        return _skip("the recipe or the number of steps is unknown")
    step = max([step, *(record["step"] for record in exam.case.metrics)])
    seen, share = step * recipe.batch_size, step / recipe.steps
    measured = f"{seen:,} images, {share:.0%} of the steps"
    fine = f"{MIN_IMAGES_SEEN:,} or more, {MIN_STEPS_DONE:.0%}"
    if seen >= MIN_IMAGES_SEEN and share >= MIN_STEPS_DONE:
        return Check(measured, fine)
    if share < MIN_STEPS_DONE:
        why = (
            f"Training stopped at step {step:,} of {recipe.steps:,} ({share:.0%}); {MIN_STEPS_DONE:.0%} would be fine."
        )
        start = recipe.decay_start
        if start < recipe.steps and step:
            fallen = max(0.0, (step - start) / (recipe.steps - start))
            why += f" The learning rate has fallen by only {fallen:.0%}, and samples improve most near the end."
        advice = (
            "Continue the run with --resume, or use a later checkpoint."
            if step
            else "Train it, or use a later checkpoint."
        )
    else:
        why = f"The network has seen {seen:,} images; {MIN_IMAGES_SEEN:,} or more would be fine."
        advice = "Train for more --epochs. Simple images need about 40,000 images in total."
    return Check(measured, fine, Finding("training too short", why, advice))


def _check_curve(exam: Measurements) -> Check:
    steps = [record for record in exam.case.metrics if "loss" in record]
    if exam.few_step:
        return _skip("the loss of a critic says little")
    if len(steps) < WINDOWS * MIN_WINDOW:
        return _skip("no training losses" if not steps else f"{len(steps)} training losses are too few")
    curve = _windows([record["loss"] for record in steps])
    first = steps[0]["loss"] if steps[0]["step"] == 1 else curve[0]  # before the first update
    lowest, last, top = min(curve), statistics.mean(curve[-2:]), max(curve)
    jump, rise = top / max(first, 1e-12), last / max(lowest, 1e-12)
    measured = f"{last:.3g} at the end, {rise:.2f} x the lowest"
    fine = f"at most {MAX_LOSS_RISE:g} x"
    if jump <= MAX_LOSS_JUMP and rise <= MAX_LOSS_RISE:
        return Check(measured, fine)
    if jump > MAX_LOSS_JUMP:
        measured, fine = f"rose from {first:.3g} to {top:.3g}", f"at most {MAX_LOSS_JUMP:g} x the first"
        evidence = (
            f"The training loss rose from {first:.3g} to {top:.3g}, {jump:.1f} times the first loss; at most "
            f"{MAX_LOSS_JUMP:g} times would be fine."
        )
    else:
        evidence = (
            f"The training loss fell to {lowest:.3g} and then rose to {last:.3g}, {rise:.2f} times the lowest loss; at "
            f"most {MAX_LOSS_RISE:g} times would be fine."
        )
    rate = max((record.get("lr", 0.0) for record in steps), default=0.0)
    evidence += f" The highest learning rate was {rate:.2g}" + (f" ({exam.recipe.optimizer})." if exam.recipe else ".")
    advice = "Train again with a lower --lr: 3 to 10 times lower, and with warm-up."
    return Check(measured, fine, Finding("learning rate too large", evidence, advice))


def _windows(losses: list[float]) -> list[float]:
    """The medians of WINDOWS equal parts of a curve; a median is not affected by a few outliers."""
    size = len(losses) // WINDOWS
    return [statistics.median(losses[i * size : (i + 1) * size]) for i in range(WINDOWS)]


def _check_rate(exam: Measurements) -> Check:
    recipe = exam.recipe
    rates = [(record["step"], record["lr"]) for record in exam.case.metrics if "lr" in record]
    if recipe is None or not rates:
        return _skip("no learning rates were recorded")
    fine = "as in the recipe"
    for step, rate in rates:
        expected = learning_rate(recipe, step - 1)
        if abs(rate - expected) > 0.01 * recipe.lr:
            evidence = (
                f"At step {step:,} the learning rate was {rate:.3g}; by the recipe it should be {expected:.3g}. Before "
                "this step it followed the recipe."
            )
            advice = (
                "The usual cause is a resume that starts the schedule at step 0 again. Store the step with the "
                "optimizer, and compute the learning rate from it."
            )
            finding = Finding("schedule restarted", evidence, advice)
            return Check(f"{rate:.3g} at step {step:,}", f"{expected:.3g}", finding)
    return Check("as in the recipe", fine)


def _check_ema(exam: Measurements) -> Check:
    case, recipe = exam.case, exam.recipe
    if case.raw is None:
        return _skip("there are only averaged weights")
    if recipe is None or case.step == 0:
        return _skip("the network is not trained yet" if case.step == 0 else "the recipe is unknown")
    if recipe.ema_decay == 0:
        return _skip("the recipe has no averaging (ema_decay 0)")
    raw, ema = (_parameters(network) for network in (case.raw, exam.model.network))
    if all(torch.equal(value, ema[name]) for name, value in raw.items()):
        return Check(
            "equal to the raw weights",
            "an average of the raw weights",
            Finding(
                "EMA unused",
                f"The averaged weights equal the raw weights of step {case.step:,}, bit for bit. With a decay of "
                f"{recipe.ema_decay:g} they would differ. So nothing was averaged, and the samples are worse than they "
                "could be.",
                "Call ema.update(network, step) after every optimizer step, store the averaged copy in the checkpoint, "
                "and sample from it.",
            ),
        )
    progress = None if recipe.teacher or recipe.start else _progress(initial_weights(recipe), raw, ema)
    raw_loss = exam.loss(case.raw, *(part[:NUM_IMAGES] for part in exam.real))
    ratio = exam.losses.held_out / max(raw_loss, 1e-9)
    measured, fine = f"loss {ratio:.2f} x that of the raw weights", f"at most {MAX_EMA_LOSS:g} x"
    cold = progress is not None and progress < MIN_EMA_PROGRESS
    if not cold and (ratio <= MAX_EMA_LOSS or recipe.teacher):
        return Check(measured, fine)
    evidence = (
        f"The held-out loss is {exam.losses.held_out:.3g} with averaged weights and {raw_loss:.3g} with raw weights, "
        f"{ratio:.2f} times as much; at most {MAX_EMA_LOSS:g} times would be fine."
    )
    if cold and progress is not None:
        evidence += (
            f" The averaged weights have gone {max(progress, 0):.0%} of the way from the initial to the raw weights; "
            f"{MIN_EMA_PROGRESS:.0%} or more would be fine."
        )
        measured += f", {max(progress, 0):.0%} of the way"
    advice = (
        f"After {case.step:,} steps, an average with the constant decay {recipe.ema_decay:g} still contains "
        f"{recipe.ema_decay ** (case.step or 0):.0%} of the initial weights. Update the average after every step, warm "
        "up its decay as min(decay, (1 + n)/(10 + n)), use a lower decay, or train longer. "
        "For now, sample with --which raw."
    )
    return Check(measured, fine, Finding("EMA cold", evidence, advice))


def initial_weights(recipe: Recipe) -> State:
    """The weights with which `train` starts a recipe."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fold(recipe.seed, WEIGHTS))
        return _parameters(recipe.make_network())


def _parameters(network: nn.Module) -> State:
    return {name: value.detach().cpu() for name, value in network.named_parameters()}


def _progress(initial: State, raw: State, ema: State) -> float | None:
    """How far the averaged weights are on the way from the initial weights to the raw ones, usually 0 to 1.

    None if the raw weights are the initial ones, or do not belong to the network of the recipe.
    """
    if any(name not in initial or initial[name].shape != value.shape for name, value in raw.items()):
        return None
    way, done = (torch.cat([(state[name] - initial[name]).flatten().double() for name in raw]) for state in (raw, ema))
    length = way.square().sum().item()
    return (way * done).sum().item() / length if length else None


def _check_loss(exam: Measurements) -> Check:
    losses = exam.losses
    ratio = losses.held_out / max(losses.baseline, 1e-9)
    measured, fine = f"{ratio:.2f} x the baseline ({losses.baseline:.3g})", f"at most {MAX_LOSS:g} x"
    if ratio <= MAX_LOSS:
        return Check(measured, fine)
    evidence = (
        f"The held-out loss is {losses.held_out:.3g}. Predicting zero scores {losses.zero:.3g}, and the mean image "
        f"{losses.mean:.3g}; {MAX_LOSS * losses.baseline:.3g} or less would be fine. So the network has learnt nothing."
    )
    advice = (
        "Train it longer, if it is not trained yet. Otherwise look for a target that does not match the prediction "
        "type (eps, x0 or v), for weights that are never updated, or for a learning rate that is far too large or too "
        "small. `shapedreamer conform` checks your own loss."
    )
    return Check(measured, fine, Finding("loss at the baseline", evidence, advice))


def _check_levels(exam: Measurements) -> Check:
    if exam.few_step:
        return _skip("a few-step model predicts one image and not the mean")
    images, labels = (part[:NUM_ERRORS] for part in exam.images)
    label = None if exam.model.labels is None else labels
    ratios = []
    for log_snr in LOG_SNRS:
        model, linear = exam.errors(images, label, log_snr)
        ratios.append((model.mean().item() / max(linear.mean().item(), 1e-9), log_snr))
    worst, log_snr = max(ratios)
    t = exam.time_of(log_snr)
    measured, fine = f"{worst:.2f} x a linear denoiser at t = {t}", f"below {MAX_LINEAR_ERROR:g} x"
    if worst <= MAX_LINEAR_ERROR:
        return Check(measured, fine)
    evidence = (
        f"At t = {t} (log-SNR {log_snr:g}), the error of the predicted clean image is {worst:.2f} times that of a "
        f"linear denoiser, which uses only the mean and variance of each pixel; less than {MAX_LINEAR_ERROR:g} times "
        "would be fine. A low mean loss can hide this."
    )
    advice = (
        "Train longer, or more often at this noise level (noise_levels in the recipe). With eps-prediction, try x0 or "
        "v: at high noise, a small error of eps is a large error of the image. See loss_by_time.png in the run folder."
    )
    return Check(measured, fine, Finding("nothing learnt at some noise levels", evidence, advice))


def _check_overfitting(exam: Measurements) -> Check:
    gap = exam.losses.held_out / max(exam.losses.training, 1e-9)
    curve = [record["held_out"] for record in exam.case.metrics if "held_out" in record]
    rise = curve[-1] / max(min(curve), 1e-9) if curve else 1.0
    losses = [record["loss"] for record in exam.case.metrics if "loss" in record]
    measured = f"held-out loss {gap:.2f} x the training loss"
    fine = f"at most {MAX_GAP:g} x"
    evidence = ""
    if gap > MAX_GAP:
        evidence = (
            f"With the same noise, the loss is {exam.losses.held_out:.3g} for held-out images and "
            f"{exam.losses.training:.3g} for training images, {gap:.2f} times as much; {MAX_GAP:g} times or less would "
            "be fine."
        )
    elif rise > MAX_HELD_OUT_RISE and not _rising(losses):
        evidence = (
            f"The held-out loss fell to {min(curve):.3g} and then rose to {curve[-1]:.3g}, {rise:.2f} times the best; "
            f"at most {MAX_HELD_OUT_RISE:g} times would be fine. The training loss did not rise."
        )
        measured, fine = f"held-out loss rose to {rise:.2f} x the best", f"at most {MAX_HELD_OUT_RISE:g} x"
    if not evidence:
        return Check(measured, fine)
    advice = (
        "Use the best checkpoint (a run folder stands for it), and train for fewer epochs. More images or a smaller "
        "network help, too."
    )
    return Check(measured, fine, Finding("overfitting", evidence, advice))


def _rising(losses: list[float]) -> bool:
    """Whether a training loss rises too, which is no overfitting."""
    if len(losses) < WINDOWS * MIN_WINDOW:
        return False
    curve = _windows(losses)
    return statistics.mean(curve[-2:]) > min(curve) * MAX_LOSS_RISE


def _check_clipping(exam: Measurements) -> Check:
    sampled, (low, high) = exam.sampled, exam.range
    missing = statistics.mean(sampled.unclipped)
    late = sampled.clipped[len(sampled.clipped) // 2 :]
    biting = statistics.mean(late)
    spec = exam.spec
    if missing > MAX_UNCLIPPED:
        return Check(
            f"{missing:.1%} of pixels outside the data",
            f"at most {MAX_UNCLIPPED:.0%}",
            Finding(
                "clipping missing",
                f"During sampling, {missing:.1%} of the predicted pixels are outside the range of the images, "
                f"[{low:.3g}, {high:.3g}], because predictions are clipped only to [{spec.low:g}, {spec.high:g}]; at "
                f"most {MAX_UNCLIPPED:.0%} would be fine. Such errors grow from step to step.",
                "Clip the predicted image to the range of the data in every step, and compute eps again from the "
                f"result: clipped(denoise, {low:.3g}, {high:.3g}). In a run, set low and high of the DataSpec.",
            ),
        )
    measured, fine = f"{biting:.1%} of pixels are clipped", f"at most {MAX_CLIPPED:.0%}"
    if exam.few_step:
        return Check(measured, "any share: trained that way")
    if biting <= MAX_CLIPPED:
        return Check(measured, fine)
    return Check(
        measured,
        fine,
        Finding(
            "clipping always bites",
            f"In the second half of sampling, where x_t is almost an image, clipping to [{spec.low:g}, {spec.high:g}] "
            f"changes {biting:.1%} of the predicted pixels by {OVERSHOOT:g} or more; at most {MAX_CLIPPED:.0%} would "
            "be fine. So the clipping shapes the samples more than the network does.",
            "Check that the network was trained on images in this range, with the same schedule and prediction type "
            "(eps, x0 or v) as in sampling.",
        ),
    )


def _check_mean(exam: Measurements) -> Check:
    samples, real = (images.mean((2, 3)).double() for images in (exam.sampled.samples, exam.real[0]))
    error = (samples.var(0) / len(samples) + real.var(0, correction=0) / len(real)).sqrt().clamp(min=1e-6)
    shift = samples.mean(0) - real.mean(0)
    channel = int(shift.abs().argmax())
    by, errors = shift[channel].item(), (shift / error)[channel].abs().item()
    measured, fine = (
        f"{by:+.3f}, {errors:.1f} standard errors",
        f"at most {MAX_MEAN_SHIFT:g}, or {MAX_STANDARD_ERRORS:g}",
    )
    if abs(by) <= MAX_MEAN_SHIFT or errors <= MAX_STANDARD_ERRORS:
        return Check(measured, fine)
    where = f" in channel {channel}" if len(shift) > 1 else ""
    evidence = (
        f"The mean of the samples is {samples.mean(0)[channel].item():.3f}{where}, that of real images "
        f"{real.mean(0)[channel].item():.3f}: a shift of {by:+.3f}, or {errors:.0f} standard errors; up to "
        f"{MAX_MEAN_SHIFT:g} would be fine. Pictures that are stretched to full contrast hide this."
    )
    advice = (
        "If x_T is not noise, fix that first. Otherwise train longer, sample with more steps, and check that samples "
        "are scaled back exactly as the images were scaled."
    )
    return Check(measured, fine, Finding("mean drift", evidence, advice))


def _check_contrast(exam: Measurements) -> Check:
    ratio = exam.sampled.samples.std().item() / max(exam.real[0].std().item(), 1e-9)
    measured, fine = f"{ratio:.2f} x that of real images", f"at least {MIN_CONTRAST:g} x"
    if ratio >= MIN_CONTRAST:
        return Check(measured, fine)
    evidence = (
        f"The standard deviation of pixels is {exam.sampled.samples.std().item():.3f} in samples and "
        f"{exam.real[0].std().item():.3f} in real images, {ratio:.2f} times as much; at least {MIN_CONTRAST:g} times "
        "would be fine."
    )
    advice = (
        "Sample with more steps, or with eta 1. Other causes are too little training, and a sampler that does not add "
        "its noise; `shapedreamer conform` checks your own sampler."
    )
    return Check(measured, fine, Finding("samples washed out", evidence, advice))


def _check_variety(exam: Measurements) -> Check:
    samples, real = exam.sampled.samples, exam.real[0]
    # divided by the contrast, which has a check of its own
    ratio = spread(samples) / max(spread(real), 1e-9) * real.std().item() / max(samples.std().item(), 1e-9)
    measured, fine = f"{ratio:.2f} x that of real images", f"at least {MIN_VARIETY:g} x"
    if ratio >= MIN_VARIETY:
        return Check(measured, fine)
    evidence = (
        f"Two samples differ by {spread(samples):.3f} (root mean square), two real images by {spread(real):.3f}. At "
        f"equal contrast, that is {ratio:.2f} times as much; at least {MIN_VARIETY:g} times would be fine."
    )
    advice = (
        "Check that each sample starts from its own noise. If so, the network predicts almost the same image for every "
        "x_t: train longer, or with a lower learning rate."
    )
    return Check(measured, fine, Finding("samples all alike", evidence, advice))


class _First:
    """The first images of a data set."""

    def __init__(self, data: Dataset, num: int) -> None:
        self.spec: DataSpec = data.spec
        self.data, self.num = data, min(num, len(data))

    def __len__(self) -> int:
        return self.num

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.data.batch(index)


def _check_memorisation(exam: Measurements) -> Check:
    if _check_contrast(exam).finding or _check_variety(exam).finding:
        return _skip("the samples are too flat: a flat image is near to all others")
    try:
        copies = memorisation(exam.sampled.samples, exam.real[0], _First(exam.case.training, MAX_TRAINING))
    except UserError:
        return _skip("every held-out image is also a training image")
    # Samples that are a bit too smooth are nearer to every image, not only to training images. A copy is much nearer.
    limit = CLOSE * copies.held_out.median()
    close, close_real = ((part < limit).double().mean().item() for part in (copies.samples, copies.held_out))
    measured, fine = f"{close:.0%} of samples are close", f"at most {close_real + MAX_COPIES:.0%}"
    if close <= close_real + MAX_COPIES:
        return Check(measured, fine)
    evidence = (
        f"{close:.0%} of the samples are close to a training image, and {close_real:.0%} of the held-out images; up to "
        f"{close_real + MAX_COPIES:.0%} would be fine. Close means nearer than {limit.item():.3f}, which is {CLOSE:g} "
        "times the median distance of held-out images. The median distance of the samples is "
        f"{copies.samples.median().item():.3f}."
    )
    advice = (
        "Train on more images, for fewer epochs, or with a smaller network. `shapedreamer evaluate RUN --report DIR` "
        "shows the nearest pairs."
    )
    return Check(measured, fine, Finding("memorisation", evidence, advice))


def _check_label(exam: Measurements) -> Check:
    model, sampled = exam.model, exam.sampled
    if model.labels is None or sampled.labels is None:
        return _skip("the model is unconditional")
    images, labels = exam.real[0][:NUM_ERRORS], exam.real[1][:NUM_ERRORS]
    others = labels.roll(1, 0)
    different = (others != labels).any(1)
    labels_of_samples = sampled.labels[:BATCH]
    changed = (labels_of_samples.roll(1, 0) != labels_of_samples).any(1).cpu()
    if different.sum() < 8 or changed.sum() < 8:
        return _skip("nearly all images have the same label")
    right, _ = exam.errors(images, labels, LABEL_LOG_SNR)
    wrong, _ = exam.errors(images, others, LABEL_LOG_SNR)
    gain = (wrong[different].mean() / right[different].mean()).item() - 1
    relabelled = exam.sample(exam.clipped(labels_of_samples.roll(1, 0)))
    change = (relabelled - sampled.samples[:BATCH])[changed].square().mean().sqrt().item() / max(
        spread(sampled.samples), 1e-9
    )
    measured = f"change samples by {change:.2f}, wrong ones cost {gain:.0%}"
    fine = f"at least {MIN_LABEL_CHANGE:g}, {MIN_LABEL_GAIN:.0%}"
    if change >= MIN_LABEL_CHANGE and gain >= MIN_LABEL_GAIN:
        return Check(measured, fine)
    advice = (
        "Check that training passes the labels to the network, and drops them only for some images (--label-dropout "
        "0.1), drawn for each image and not once for the batch."
    )
    if change < MIN_LABEL_CHANGE:
        name = "label ignored"
        evidence = (
            f"With the same noise and another label, a sample changes {change:.3f} times as much as with other noise; "
            f"{MIN_LABEL_CHANGE:g} times or more would be fine. So samples do not depend on the label, and "
            "classifier-free guidance has no effect."
        )
    else:
        name = "label misread" if gain < -MIN_LABEL_GAIN else "label ignored"
        evidence = (
            f"With a wrong label, the error of the predicted image changes by {gain:+.1%}; {MIN_LABEL_GAIN:+.0%} or "
            "more would be fine. So the label says nothing true about the image."
        )
        advice += " Check that the labels are in the same order as in training."
    return Check(measured, fine, Finding(name, evidence, advice))


CHECKS: dict[str, Callable[[Measurements], Check]] = {
    "finite numbers": _check_finite,
    "data range": _check_range,
    "x_T is noise": _check_terminal,
    "length of training": _check_length,
    "training loss": _check_curve,
    "learning rate": _check_rate,
    "averaged weights": _check_ema,
    "held-out loss": _check_loss,
    "noise levels": _check_levels,
    "overfitting": _check_overfitting,
    "clipping": _check_clipping,
    "mean of samples": _check_mean,
    "contrast": _check_contrast,
    "variety": _check_variety,
    "copies": _check_memorisation,
    "labels": _check_label,
}
# checks after whose finding the later ones would say nothing new
ENDS = {"finite numbers": "the losses are not finite", "held-out loss": "the network has learnt nothing"}
