"""shapedreamer import: a model of Diffusers as a run folder."""

from pathlib import Path

from tyro.conf import Positional


def run(folder: Positional[Path], out: Positional[Path]) -> None:
    """Turn a pipeline folder of Diffusers into a run folder that every other command reads.

    The pipeline is one that "export" wrote, or a DDPMPipeline or DDIMPipeline with a UNet2DModel. What has no
    counterpart here is an error that names it.

    Args:
        folder: The pipeline folder.
        out: A new run folder, or a file that ends in .safetensors.
    """
    from ..export.pipeline import load_pipeline

    load_pipeline(folder).save(out)
    print(out)
