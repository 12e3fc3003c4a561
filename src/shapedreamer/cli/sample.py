"""shapedreamer sample: dream images with a trained model."""

from pathlib import Path

from tyro.conf import Positional

from ..names import DeviceName, SamplerName, Which


def run(
    model: Positional[Path],
    num: int = 64,
    sampler: SamplerName = "ddim",
    steps: int = 20,
    eta: float = 0.0,
    seed: int = 0,
    out: Path = Path("samples.png"),
    show_process: bool = False,
    which: Which = "ema",
    device: DeviceName = "auto",
) -> None:
    """Dream images with a trained model, and write them as a picture, an animation or an array.

    Args:
        model: A run folder (its best checkpoint is taken) or a checkpoint file.
        num: How many images.
        sampler: The way from noise to image.
        steps: Network calls.
        eta: Noise that ddim adds on the way, 0 to 1.
        seed: One seed, one set of pictures.
        out: samples.png is a grid, .npy the numbers (N, C, H, W) in [-1, 1], .gif and .webp the dream from noise on.
        show_process: Also write a strip from noise to image, x_t above and the predicted x0 below, beside `out`.
        which: Averaged weights or those of the last step.
        device: Where to compute.
    """
    from ..dream import write_dream
    from ..model import load

    for path in write_dream(load(model, which, device), out, num, sampler, steps, eta, seed, show_process):
        print(path)
