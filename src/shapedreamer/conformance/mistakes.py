"""The mistakes that a report can name, each with a hint on how to fix it.

A name says what the code does wrong; the hint says what is right. ``REQUIRED`` lists the thirteen mistakes that the
checks must always find and name. tests/conformance/mutants.py contains code that makes each of them.
"""

from typing import NamedTuple


class Mistake(NamedTuple):
    """name: what the code does wrong, in plain words; hint: what is right and where to look, "" if there is none."""

    name: str
    hint: str = ""


NOISE_WITHOUT_ROOT = Mistake(
    "the forward process multiplies ε by 1−ᾱ_t instead of √(1−ᾱ_t)",
    "x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε. Take the square root of both factors; otherwise the variance of x_t is not 1.",
)
SIGMA_AS_DIRECTION = Mistake(
    "a step multiplies the predicted noise ε̂ by σ instead of √(1−ᾱ_s−σ²)",
    "A DDIM step has two noise terms: the direction pointing to x_t, √(1−ᾱ_s−σ²) ε̂, and the fresh noise, σ z. "
    "Only z is multiplied by σ.",
)
LAST_ALPHA_BAR = Mistake(
    "the last step uses ᾱ₁ instead of ᾱ₀ = 1",
    "The last step ends at t = 0, which is clean data, so ᾱ_s must be 1. If your table starts at t = 1, put a 1 in "
    "front of it.",
)
NOISE_ON_LAST_STEP = Mistake(
    "the last step adds noise",
    "A step that ends at t = 0 must return x̂₀. Noise added there stays in the image as grain: add noise only if s > 0.",
)
OFF_BY_ONE = Mistake(
    "t is off by one",
    "Timesteps run from 1 to T, and t = 0 (ᾱ₀ = 1) is clean data. Look for a table, a loop or a network call that "
    "counts from 0.",
)
STALE_EPS = Mistake(
    "ε is not recomputed after x̂₀ is clipped",
    "Clipping x̂₀ changes the ε that belongs to it. Recompute ε from x_t and the clipped x̂₀ before you take the step.",
)
BETA_OF_ONE_STEP = Mistake(
    "a step that skips timesteps uses the variance of a single step, β_t",
    "A step from t to s < t − 1 replaces several single steps, and its β is 1 − ᾱ_t/ᾱ_s. The table's β_t is right only "
    "for s = t − 1.",
)
WRAPAROUND = Mistake(
    "a negative timestep wraps around to the end of the table",
    "Print your timesteps for a number of steps that does not divide T: some are below 0. Python reads index −1 from "
    "the end of the table, where x_t is almost pure noise. Make the last timestep 0.",
)
AVERAGED_TABLES = Mistake(
    "the EMA averages buffers, such as the schedule tables",
    "Average the parameters only, and copy the buffers. Schedule tables are not learned, so averaging "
    "only makes them wrong.",
)
EMA_NOT_USED = Mistake(
    "sampling uses the raw weights instead of the EMA weights",
    "Check which network you pass to the sampler: it is the one being trained. Pass its EMA copy.",
)
DATA_FROM_ZERO = Mistake(
    "images are in [0, 1], but the model expects [−1, 1]",
    "Compute 2 · images − 1 once, where the images are loaded, so that black is −1.",
)
DROPPED_PER_BATCH = Mistake(
    "labels are dropped per batch instead of per image",
    "Draw one random number for each image in the batch, not one for the whole batch.",
)
GUIDANCE_SIGN = Mistake(
    "guidance moves away from the label: its sign is flipped, or cond and uncond are swapped",
    "Start at the unconditional prediction and move toward the conditional one: uncond + scale · (cond − uncond).",
)

REQUIRED = (
    NOISE_WITHOUT_ROOT,
    SIGMA_AS_DIRECTION,
    LAST_ALPHA_BAR,
    NOISE_ON_LAST_STEP,
    OFF_BY_ONE,
    STALE_EPS,
    BETA_OF_ONE_STEP,
    WRAPAROUND,
    AVERAGED_TABLES,
    EMA_NOT_USED,
    DATA_FROM_ZERO,
    DROPPED_PER_BATCH,
    GUIDANCE_SIGN,
)
"""The thirteen mistakes that the checks must always find and name."""

NO_NOISE = Mistake(
    "the sampler adds no noise",
    "The mean of the posterior is not a sample from it. Add σ z in every step but the last; without it, images turn "
    "into blobs.",
)
VARIANCE_AS_STD = Mistake(
    "the noise is multiplied by its variance instead of its standard deviation",
    "To get noise of variance v, multiply z by √v.",
)
DIRECTION_KEEPS_SIGMA = Mistake(
    "a step multiplies the predicted noise ε̂ by √(1−ᾱ_s) instead of √(1−ᾱ_s−σ²)",
    "At s the noise must have variance 1−ᾱ_s in total. The fresh noise adds σ², so 1−ᾱ_s−σ² is left for ε̂.",
)
BETA_FOR_POSTERIOR = Mistake(
    "the posterior variance is β instead of β̃",
    "The posterior is conditioned on x₀, so it is narrower than the forward step: β̃ = β (1−ᾱ_s)/(1−ᾱ_t).",
)
SIGNAL_WITHOUT_ROOT = Mistake(
    "the forward process multiplies x₀ by ᾱ_t instead of √ᾱ_t",
    "x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε. Take the square root of both factors.",
)
SWAPPED = Mistake(
    "the forward process swaps √ᾱ_t and √(1−ᾱ_t)",
    "x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε. At t = 1, x_t is almost the clean image; at t = T, it is almost pure noise.",
)
V_SIGN = Mistake("v has the wrong sign", "v = √ᾱ_t ε − √(1−ᾱ_t) x₀ (Salimans & Ho 2022, section 4).")
FLOW_SIGN = Mistake(
    "the velocity of flow matching has the wrong sign: x₀ − ε instead of ε − x₀",
    "Here the path (1−τ) x₀ + τ ε runs from data to noise, so its velocity is u = ε − x₀, and a sampler follows it "
    "backward: z + (τ_s − τ_t) û with τ_s < τ_t. Courses that let time run from noise to data have the other sign.",
)
V_FOR_FLOW = Mistake(
    "the velocity v is used as that of flow matching, u",
    "v = √ᾱ_t ε − √(1−ᾱ_t) x₀ and u = ε − x₀ differ by a factor and a multiple of x_t.",
)
VELOCITY_AS_EPS = Mistake(
    "a velocity is used as the noise ε̂",
    "A network that predicts u = ε − x₀ or v does not predict ε. From u: x̂₀ = (x_t − σu)/(α+σ) with α = √ᾱ_t and "
    "σ = √(1−ᾱ_t), and ε̂ = (x_t − α x̂₀)/σ.",
)
TIME_REVERSED = Mistake(
    "time runs from noise to data",
    "Here t = 0 is clean data and t = T is noise. Many courses on flow matching count the other way: use T − t, and "
    "change the sign of the velocity.",
)
ON_THE_LINE = Mistake(
    "x_t is (1−τ) x₀ + τ ε with τ = t/T, the line of flow matching",
    "That is another scale of the same process. x_t = √ᾱ_t x₀ + √(1−ᾱ_t) ε has variance 1: divide z by "
    "√((1−τ)² + τ²), and use ᾱ = (1−τ)²/((1−τ)² + τ²), the schedule flow.",
)
SHIFT_TWICE = Mistake(
    "the shift is applied twice",
    "τ = shift · u/(1 + (shift − 1) u). Applied again, it acts like the shift squared. Shift either the table or the "
    "timesteps of the sampler.",
)
SINGLE_PRECISION = Mistake(
    "the schedule is stored in float32",
    "Compute the tables in float64 and convert them to float32 only where you use them. In float32, 1 − ᾱ₁ = 0.0001 "
    "keeps only four digits.",
)
NO_TIME_ZERO = Mistake(
    "ᾱ₀ = 1 is missing: the table starts at t = 1",
    "Put a 1 in front of the table. Then index t is timestep t, and t = 0 is clean data.",
)
NOT_CUMULATED = Mistake(
    "the table is not the cumulative product ᾱ",
    "ᾱ_t = (1−β₁)(1−β₂)…(1−β_t). Your table seems to contain β_t or 1−β_t; take the cumulative product of 1−β_t.",
)
LEAK = Mistake(
    "the loss is lower than a perfect network can reach",
    "Check that the network sees neither x₀ nor ε, that the target is not scaled, and that the mean is taken over "
    "uniformly sampled timesteps.",
)
DECAY_SWAPPED = Mistake(
    "decay and 1 − decay are swapped in the EMA",
    "Each update computes decay · average + (1 − decay) · weights.",
)
NO_WARM_UP = Mistake(
    "the EMA has no warm-up",
    "With a constant decay of 0.9999, the untrained initial weights still make up 90% of the average after 1,000 "
    "updates. Use min(decay, (1 + n)/(10 + n)) at update n.",
)
EMA_STANDS_STILL = Mistake(
    "the EMA does not follow the weights",
    "If the weights stay constant, the average must reach them after many updates. Check that update() writes into "
    "the averaged network.",
)
EMA_ALIASED = Mistake(
    "the EMA shares its weights with the network",
    "Keep a deep copy of the network. If both use the same tensors, there is nothing to average.",
)
KEPT_INSTEAD = Mistake(
    "the given probability is used to keep labels instead of dropping them",
    "Probability 1 must drop every label, and probability 0 must drop none.",
)
DROPPED_PER_NUMBER = Mistake(
    "single entries of a label are dropped instead of the whole label",
    "A label is one row. Keep the whole row or set all of it to 0.",
)
OTHER_SCALE = Mistake(
    "the guidance scale uses the other convention, w = scale − 1",
    "Some papers write (1 + w) cond − w uncond. Here scale 1 is the conditional model and 0 the unconditional one.",
)

FORM_OF_T = Mistake(
    "t is not passed to the network as an int64 tensor of shape (B,)",
    "The network expects one integer timestep, 1…T, for each image: torch.full((len(x),), t, dtype=torch.int64).",
)
OTHER_START = Mistake(
    "the sampler does not start from x_T",
    "Pass x_T unchanged to the first network call: do not draw other noise, and do not rescale it.",
)
NEEDLESS_NOISE = Mistake(
    "random numbers are drawn although no noise is added",
    "At η = 0 the image depends on x_T only, so this is harmless. But drawing noise that is not used changes all "
    "random numbers drawn later.",
)
SHARED_NOISE = Mistake(
    "the same noise is used more than once",
    "Draw new noise in the shape of x_t at each step, so that no two images or steps share it.",
)
HIDDEN_STATE = Mistake(
    "a run depends on earlier runs",
    "Look for a list, a cache or an attribute that is still there after the call.",
)
IN_PLACE = Mistake(
    "the sampler modifies x_T or a step it has already yielded",
    "x_T and the yielded steps belong to the caller. Create a new tensor in each step instead of writing in place.",
)

# Mistakes of samplers in public libraries and bug reports

NOT_CHECKED = Mistake(
    "a required check could not be made",
    "The rows marked ? say why. Until they can be checked, the code is not known to be right.",
)
REPEATED_TIME = Mistake(
    "the list of timesteps has one timestep twice",
    "A step from t to t does nothing, or divides by 0. Rounding an even spacing can repeat a timestep when there are "
    "almost T steps: remove duplicates, or use shapedreamer.diffusion.schedule.step_times.",
)
FIXED_STRIDE = Mistake(
    "a step goes to t − T // n, but the next network call is at another timestep",
    "Take the end of a step from the list of timesteps, not from a stride: the two differ whenever n does not divide T "
    "(huggingface/diffusers #5921, #11347).",
)
ENDS_ELSEWHERE = Mistake(
    "a step ends at another timestep than the one of the next network call",
    "The step from t must end at exactly the timestep s that the network gets next: use ᾱ_s of that timestep.",
)
IGNORES_STEPS = Mistake(
    "the sampler visits all T timesteps, however many steps are requested",
    "Use `steps`: loop over step_times(T, steps), and compute each step from ᾱ_t and ᾱ_s of the visited timesteps.",
)
LAST_SIGMA = Mistake(
    "the last σ is not 0",
    "The list of noise levels must end with σ = 0; otherwise noise of the last σ stays in the image.",
)
INVERTED_RATIO = Mistake(
    "the ratio of step lengths in the 2M formula is inverted",
    "DPM-Solver++(2M) extrapolates with h/(2h'), where h is the length of this step in λ and h' that of the step "
    "before.",
)
WRONG_WEIGHT = Mistake(
    "the 2M formula extrapolates with a wrong weight",
    "DPM-Solver++(2M) uses D = x̂₀ + h/(2h') (x̂₀ − x̂₀'), where h is the length of this step in λ and h' that of the "
    "step before. Check the sign, the factor 1/2 and the ratio.",
)
ETA_IGNORED = Mistake(
    "η has no effect",
    "The sampler accepts eta, but its images do not depend on it. Compute σ from eta, or remove the parameter.",
)
ETA_ROOT = Mistake(
    "the noise has σ = √(η …) instead of σ = η √(…)",
    "η multiplies the standard deviation, not the variance: keep it outside of the square root, or square it inside.",
)
BETA_FOR_ALPHA_BAR = Mistake(
    "β_t or 1−β_t is used where ᾱ_t is needed",
    "ᾱ_t is the cumulative product of 1−β_1 … 1−β_t. Some papers call it α_t, others call 1−β_t that.",
)
CLAMPED_X = Mistake(
    "x_t is clamped",
    "Only x̂₀ may be clipped to the range of images. x_t contains noise and must be free to leave that range.",
)
MIXED_IMAGES = Mistake(
    "images in a batch affect each other",
    "Each image must come out the same in any batch. Look for a maximum, mean or standard deviation that is taken over "
    "the whole batch; take it over the dimensions (C, H, W) of each image.",
)
ARGUMENT_ORDER = Mistake(
    "the parameters are in the wrong order",
    "They are passed by position, in the order of the documentation.",
)
DENOISE_ORDER = Mistake(
    "the network is called as denoise(t, x) instead of denoise(x, t)",
    "The image comes first, then the timesteps (B,).",
)
UNSCALED_INPUT = Mistake(
    "the network gets x_t in σ scale",
    "A sampler in σ form holds x₀ + σ ε. Divide that by √(1+σ²) before you pass it to the network.",
)
NOISE_FORGOTTEN = Mistake(
    "a step keeps x̂₀ and forgets the noise",
    "x_s must contain noise of variance 1−ᾱ_s: the predicted noise ε̂ times √(1−ᾱ_s−σ²), and fresh noise times σ.",
)
WRONG_DIRECTION = Mistake(
    "a step multiplies the predicted noise ε̂ by a wrong factor",
    "The factor of ε̂ is √(1−ᾱ_s−σ²), so that all noise in x_s has variance 1−ᾱ_s.",
)
WRONG_SIGNAL = Mistake(
    "a step multiplies x̂₀ by a wrong factor",
    "Written with x̂₀ and ε̂, the factor of x̂₀ is √ᾱ_s.",
)
WRONG_NOISE = Mistake(
    "the fresh noise has the wrong standard deviation",
    "It is σ = η √((1−ᾱ_s)/(1−ᾱ_t)) √(1−ᾱ_t/ᾱ_s), where η = 1 is DDPM.",
)
START_IN_SIGMA = Mistake(
    "x_T is multiplied by σ_T instead of √(1+σ_T²)",
    "Then x_T has variance 1−ᾱ_T instead of 1. Both approximate pure noise, and the difference is small.",
)
DIVIDES_BY_SIGNAL = Mistake(
    "not defined at ᾱ_T = 0",
    "Something is divided by √ᾱ_T, as every sampler in σ form does. It works with schedules whose SNR is above 0, but "
    "not with zero terminal SNR (Lin et al. 2024, algorithm 1).",
)
OTHER_LAST_STEP = Mistake(
    "the last step does not return the last x̂₀",
    "It combines several predictions, as multistep and midpoint methods do. That is consistent, but the last step is "
    "infinitely long in log-SNR, so most solvers end with a plain DDIM step.",
)
NOISE_LEFT = Mistake(
    "the last step leaves noise in the image",
    "An Euler step to t = 0 removes only part of the noise of x_t. Return the last x̂₀ instead.",
)
EULER = Mistake(
    "the coefficients are not those of DDIM or DDPM, but the sampler converges to the exact solution",
    "An Euler method in another variable, such as Euler–Maruyama in t, has coefficients of its own. The fewer the "
    "steps, the more its images differ from those of DDIM or DDPM.",
)

# Mistakes of other functions

SUMMED_PIXELS = Mistake(
    "the loss is summed over pixels",
    "Take the mean over the pixels of each image. The sum grows with the size of the images, and so does the "
    "learning rate that it needs.",
)
AVERAGED_BATCH = Mistake(
    "the loss is averaged over the batch",
    "Return one number per image, so that each can be weighted by its timestep: .flatten(1).mean(1).",
)
DETACHED = Mistake(
    "the loss has no gradient",
    "The prediction is detached from the graph (.detach(), .item(), .data, no_grad or numpy), so nothing is learned.",
)
TABLE_TOO_SHORT = Mistake(
    "the schedule has T−1 timesteps instead of T",
    "ᾱ for t = 0…T has T + 1 entries: a 1 for clean data, then T cumulative products.",
)
EMA_SKIPS_UPDATES = Mistake(
    "the EMA skips updates",
    "Every call of update() must average the weights. With an update every tenth call, a decay of 0.999 averages over "
    "ten times as many steps as it says (update_every in lucidrains/ema-pytorch).",
)
GUIDANCE_RESCALED = Mistake(
    "the guided prediction is rescaled",
    "This is guidance rescale (Lin et al. 2024, section 3.4), which changes the contrast of the images. Check "
    "uncond + scale · (cond − uncond) first, and rescale in a separate function.",
)
GUIDANCE_MIXES = Mistake(
    "guidance treats the images of a batch differently",
    "uncond + scale · (cond − uncond) must have the same weights for every image and pixel.",
)
