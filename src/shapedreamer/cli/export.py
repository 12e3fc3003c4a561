"""shapedreamer export: a model as a folder for other software."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from ..common.names import ExportFormat, SamplerName, WeightPrecision, Which
from ..models.options import MODEL_DEFAULT


def run(
    model: Positional[Path],
    format: Positional[ExportFormat],
    out: Positional[Path],
    with_sampler: bool = False,
    precision: WeightPrecision = "float32",
    sampler: Annotated[
        SamplerName | None, arg(metavar="{ddpm,ddim,dpmpp_2m}", help_behavior_hint=MODEL_DEFAULT)
    ] = None,
    steps: Annotated[int | None, arg(metavar="INT", help_behavior_hint=MODEL_DEFAULT)] = None,
    eta: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint=MODEL_DEFAULT)] = None,
    which: Which = "ema",
) -> None:
    """Write a model as a folder for other software, with a model card.

    diffusers is a pipeline folder that DiffusionPipeline.from_pretrained loads; it generates the same images. onnx is
    one file for any ONNX runtime.

    Args:
        model: A run folder (its best checkpoint is used), a checkpoint file, or a shipped model.
        format: What to write.
        out: A new folder.
        with_sampler: onnx: put all of sampling into the file, so that one run of it turns noise into images.
        precision: onnx: of the stored weights. half is half the size, int8 a quarter.
        sampler: How the pipeline, or a file with a sampler, gets from noise to image.
        steps: Number of network calls that it is meant for.
        eta: Noise that ddim and dpmpp_2m add at each step, 0 to 2; 1 is as much as ddpm.
        which: Averaged weights (ema), or those of the last training step (raw).
    """
    from ..common.errors import UserError
    from ..export.card import shipped_name
    from ..models.model import load
    from ..models.options import SampleOptions

    options = SampleOptions(sampler=sampler, steps=steps, eta=eta)
    if format == "diffusers":
        if with_sampler or precision != "float32":
            raise UserError("--with-sampler and --precision work with the format onnx only; leave them out")
        from ..export.pipeline import save_pipeline

        save_pipeline(load(model, which, "cpu"), out, options, shipped_name(model))
    else:
        from ..export.onnx import save_onnx

        save_onnx(
            load(model, which, "cpu"),
            out,
            sampler=with_sampler,
            precision=precision,
            options=options,
            shipped=shipped_name(model),
        )
    print(out)
