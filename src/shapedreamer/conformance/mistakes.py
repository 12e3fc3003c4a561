"""The mistakes that people really make in diffusion code, each with the words a report uses and what to do about it."""

from typing import NamedTuple


class Mistake(NamedTuple):
    """name: the mistake in plain words; hint: where to look, without giving the line of code away."""

    name: str
    hint: str = ""


NOISE_WITHOUT_ROOT = Mistake(
    "the √ on the noise is missing in the forward process",
    "x_t = √ᾱ x₀ + √(1−ᾱ) ε: both factors are roots, or the variance of x_t does not stay at 1.",
)
SIGMA_AS_DIRECTION = Mistake(
    "σ is used as the direction coefficient",
    "A DDIM step has two noise terms: the direction back to x_t, √(1−ᾱ_s−σ²) ε̂, and fresh noise, σ z.",
)
LAST_ALPHA_BAR = Mistake(
    "ᾱ_s is ᾱ₁ instead of 1 at the last step",
    "The last step goes to t = 0, which is clean data: ᾱ₀ = 1. A table that begins at t = 1 has no entry for it.",
)
NOISE_ON_LAST_STEP = Mistake(
    "noise is added on the last step",
    "A step that lands on t = 0 ends at x̂₀ itself: what is added there stays in the picture as grain.",
)
OFF_BY_ONE = Mistake(
    "t is off by one",
    "Times run over 1…T and ᾱ₀ = 1 is clean data. A table, a loop or a call of the network counts from 0 instead.",
)
STALE_EPS = Mistake(
    "ε is stale after a clip",
    "Once x̂₀ is clipped, the ε that belongs to it is another one: compute ε again from x_t and the clipped x̂₀.",
)
BETA_OF_ONE_STEP = Mistake(
    "β_t is used as the variance of a strided step",
    "A step from t to s < t − 1 adds up many βs: its β is 1 − ᾱ_t/ᾱ_s. The table's β_t belongs to one step of T.",
)
WRAPAROUND = Mistake(
    "a negative index wraps around in the step list",
    "Look at the times the step list holds when the number of steps does not divide T: below 0, Python counts from "
    "the end of the table, where all is noise.",
)
AVERAGED_TABLES = Mistake(
    "the schedule tables are averaged by the EMA",
    "Average the parameters alone and copy the buffers: a table is not learned, so its mean over time means nothing.",
)
EMA_NOT_USED = Mistake(
    "the EMA weights are never used for sampling",
    "Follow the network into the sampling call: it is the one being trained, and not its average.",
)
DATA_FROM_ZERO = Mistake(
    "data in [0, 1] is fed to a model trained on [−1, 1]",
    "Black must be −1: images · 2 − 1, once, where they are loaded.",
)
DROPPED_PER_BATCH = Mistake(
    "labels are dropped per batch instead of per image",
    "Draw one random number for each image of the batch, and not one for all.",
)
GUIDANCE_SIGN = Mistake(
    "the guidance sign is flipped",
    "Guidance starts at the unconditional answer and goes towards the conditional one: ∅ + scale · (label − ∅).",
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
"""The thirteen that the checks must always catch and name."""

NO_NOISE = Mistake(
    "the noise is never added back",
    "The mean of the posterior is not a sample of it: without fresh noise the pictures turn into blobs.",
)
VARIANCE_AS_STD = Mistake(
    "the variance multiplies the noise, instead of its square root",
    "Noise of variance v is √v · z.",
)
DIRECTION_KEEPS_SIGMA = Mistake(
    "σ² is not taken off the direction coefficient",
    "Of the noise 1−ᾱ_s at time s, σ² is fresh; only the rest, 1−ᾱ_s−σ², may point back to x_t.",
)
BETA_FOR_POSTERIOR = Mistake(
    "β is given as the posterior variance, instead of β̃",
    "The posterior knows x₀, so it is narrower than the forward step: β̃ = β (1−ᾱ_s)/(1−ᾱ_t).",
)
SIGNAL_WITHOUT_ROOT = Mistake(
    "the √ on the image is missing in the forward process",
    "x_t = √ᾱ x₀ + √(1−ᾱ) ε: both factors are roots.",
)
SWAPPED = Mistake(
    "√ᾱ and √(1−ᾱ) are swapped",
    "At t = 1 almost all of x_t must be the image, at t = T almost all noise.",
)
V_SIGN = Mistake("v has the wrong sign", "v = √ᾱ ε − √(1−ᾱ) x₀ (Salimans & Ho 2022, section 4).")
SINGLE_PRECISION = Mistake(
    "the schedule is kept in single precision",
    "Compute the tables in float64 and cast once, at use: 1 − ᾱ₁ = 0.0001 has only four digits left in float32.",
)
NO_TIME_ZERO = Mistake(
    "ᾱ₀ = 1 is missing: the table begins at t = 1",
    "Put a 1 in front, so that index t is time t and t = 0 is clean data.",
)
NOT_CUMULATED = Mistake(
    "the table is not the running product ᾱ",
    "ᾱ_t = (1−β₁)(1−β₂)…(1−β_t): not β_t, and not 1−β_t alone.",
)
LEAK = Mistake(
    "a leak: the loss is below what a perfect network reaches",
    "Does the network see x₀ or ε, is the target scaled, or is the loss averaged over times it was not taken at?",
)
DECAY_SWAPPED = Mistake(
    "decay and 1 − decay are swapped in the EMA",
    "The average keeps `decay` of itself and takes 1 − decay of the new weights.",
)
NO_WARM_UP = Mistake(
    "the EMA does not warm up",
    "With a plain decay of 0.9999 the first weights, which are noise, still hold 90% after 1,000 updates. "
    "Use min(decay, (1 + n)/(10 + n)) at update n.",
)
EMA_STANDS_STILL = Mistake(
    "the EMA does not follow the weights",
    "After many updates with the same weights the average must have reached them.",
)
EMA_ALIASED = Mistake(
    "the EMA shares its weights with the network",
    "Keep a deep copy: an average that is the network itself averages nothing.",
)
KEPT_INSTEAD = Mistake(
    "the probability of dropping a label is used as that of keeping it",
    "probability = 1 drops every label and 0 none.",
)
DROPPED_PER_NUMBER = Mistake(
    "single numbers of a label are dropped, not the whole label",
    "A label is one row: all of it stays, or all of it becomes 0.",
)
OTHER_SCALE = Mistake(
    "the guidance scale counts from the other end (w = scale − 1)",
    "Here scale 1 is the plain conditional model and 0 the unconditional one.",
)

FORM_OF_T = Mistake(
    "the network is not handed t as a tensor (B,) of int64",
    "A network looks up or embeds one whole number for each image of the batch: 1…T.",
)
OTHER_START = Mistake(
    "the sampler does not start from x_T",
    "Whoever passes x_T wants that noise to become the image: do not draw another, and do not scale it.",
)
NEEDLESS_NOISE = Mistake(
    "random numbers are drawn although no noise is added",
    "At η = 0 the image is a function of x_T alone; a draw that is not used still moves all that come after it.",
)
SHARED_NOISE = Mistake(
    "the same noise is used more than once",
    "Each step and each image of the batch needs noise of its own, in the shape of x_t.",
)
HIDDEN_STATE = Mistake(
    "something of one run is still there in the next",
    "Look for a list, a cache or an attribute that outlives the call.",
)
IN_PLACE = Mistake(
    "a tensor that is not the sampler's own is changed in place",
    "x_T belongs to the caller, and so does every step once it is yielded: make a new tensor for each.",
)
