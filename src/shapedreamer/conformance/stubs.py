"""A starting point for each kind of object that can be checked, printed by ``shapedreamer conform --stub KIND``.

Each stub is short, correct and passes its check, so you can change one line at a time and watch the report.
"""

from .kinds import Kind

SIGNATURES: dict[Kind, str] = {
    "schedule": "make(T) -> ᾱ for t = 0…T; or the table itself",
    "step_times": "step_times(T, steps) -> [T, …, 0], steps + 1 numbers",
    "forward": "diffuse(x0, t, eps, schedule) -> x_t",
    "posterior": "posterior(x0, x_t, t, s, schedule) -> (mean, variance) of x_s",
    "sampler": "sampler(denoise, schedule, x_T, steps, [eta, variance, generator]) -> image, or steps (t, x, x0)",
    "loss": "loss(network, x0, t, eps, schedule, prediction) -> one loss per image (B,)",
    "ema": "make_ema(network, decay) -> object with .network and .update(network, n)",
    "sampling_weights": "sample(raw_network, ema_network), which must call only the second",
    "data": "images (B, C, H, W), or a data set with len() and .batch(index) -> (images, labels)",
    "label_dropout": "drop(labels, probability, generator) -> labels",
    "guidance": "guided(conditional, unconditional, scale) -> denoiser",
}
"""What each kind must take and return."""

STUBS: dict[Kind, str] = {
    "schedule": '''
import torch


def my_schedule(T):
    """Return ᾱ for t = 0…T: T + 1 numbers in float64 that fall from 1."""
    beta = torch.linspace(1e-4, 0.02, T, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)])
''',
    "step_times": '''
def my_step_times(T, steps):
    """Return steps + 1 timesteps that decrease from T to 0."""
    return [round(T - i * T / steps) for i in range(steps)] + [0]
''',
    "forward": '''
def my_diffuse(x0, t, eps, schedule):
    """Return x_t. x0 and eps (B, C, H, W); t (B,) int64 in 1…T; schedule.alpha_bar (T + 1,)."""
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps
''',
    "posterior": '''
def my_posterior(x0, x_t, t, s, schedule):
    """Return mean and variance of x_s, given x_t and x0. t and s are ints, 0 <= s < t."""
    a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
    beta = 1 - a / b
    mean = (b.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - b) * x_t) / (1 - a)
    return mean, beta * (1 - b) / (1 - a)
''',
    "sampler": '''
import torch


def my_sampler(denoise, schedule, x_T, steps):
    """Return the image that starts as the noise x_T (B, C, H, W): DDIM at eta = 0.

    denoise   denoise(x_t, t) returns the predicted clean image; t is an int64 tensor (B,) with values in 1…T
    schedule  schedule.alpha_bar holds ᾱ for t = 0…T, and schedule.T is T
    steps     the number of network calls

    Add `eta` to be checked at eta = 0, 0.5 and 1, or `variance` ("posterior" or "beta") for DDPM.
    Draw noise with torch.randn_like, or add `generator` and call generator(t, like=x).
    """
    times = [round(schedule.T - i * schedule.T / steps) for i in range(steps)] + [0]
    x = x_T
    for t, s in zip(times[:-1], times[1:]):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        x0 = denoise(x, torch.full((len(x),), t, dtype=torch.int64))
        eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
        x = b**0.5 * x0 + (1 - b) ** 0.5 * eps
    return x
''',
    "loss": '''
def my_loss(network, x0, t, eps, schedule, prediction):
    """Return the mean squared error of each image, (B,). It is checked with prediction = "eps"."""
    a = schedule.alpha_bar[t].view(-1, 1, 1, 1)
    x_t = a.sqrt() * x0 + (1 - a).sqrt() * eps
    return (network(x_t, t) - eps).square().flatten(1).mean(1)
''',
    "ema": '''
import copy

import torch


class MyEMA:
    """Holds a copy of a network, whose parameters are the moving average of the original's."""

    def __init__(self, network, decay):
        self.network, self.decay = copy.deepcopy(network), decay

    @torch.no_grad()
    def update(self, network, n):
        """Include the weights after training step n = 0, 1, 2, …"""
        decay = min(self.decay, (1 + n) / (10 + n))
        for average, weight in zip(self.network.parameters(), network.parameters()):
            average.lerp_(weight, 1 - decay)
        for copied, buffer in zip(self.network.buffers(), network.buffers()):
            copied.copy_(buffer)
''',
    "sampling_weights": '''
import torch


def my_sample(raw_network, ema_network):
    """Generate one image as your training script does. Both networks are called as network(x_t, t)."""
    x = torch.randn(1, 1, 8, 8)
    for t in (3, 2, 1):
        x = x - 0.1 * ema_network(x, torch.full((1,), t))
    return x
''',
    "data": '''
import torch


class MyData:
    """A data set of images in [-1, 1], where black is -1."""

    def __len__(self):
        return 16

    def batch(self, index):
        """Return images (B, C, H, W) and labels (B, L)."""
        images = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).repeat(len(index), 1, 1, 1)
        return images, torch.zeros(len(index), 3)


my_data = MyData()
''',
    "label_dropout": '''
import torch


def my_dropout(labels, probability, generator):
    """Set whole rows of labels (B, L) to 0 with this probability, each image on its own."""
    keep = torch.rand(len(labels), 1, generator=generator) >= probability
    return labels * keep
''',
    "guidance": '''
def my_guidance(conditional, unconditional, scale):
    """Return the guided denoiser. All denoisers map (x_t, t) to the predicted clean image."""

    def denoise(x_t, t):
        uncond = unconditional(x_t, t)
        return uncond + scale * (conditional(x_t, t) - uncond)

    return denoise
''',
}


def stub(kind: Kind) -> str:
    """Return the source of a correct object of this kind, to be saved in a file and changed."""
    source = STUBS[kind].lstrip("\n")
    first = next(line for line in source.splitlines() if line.startswith(("def ", "class ")))
    name = "my_data" if kind == "data" else first.split()[1].split("(")[0].strip(":")
    return f"# Check it with: shapedreamer conform THIS_FILE.py:{name} --kind {kind}\n{source}"
