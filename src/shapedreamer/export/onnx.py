"""Export a network to one ONNX file, and run it without torch: with onnxruntime, or onnxruntime-web in a browser.

    to_onnx(sd.load("digits"), "digits.onnx")
    network = OnnxNetwork("digits.onnx")
    denoise = sd.Denoiser(with_label(network, None), network.schedule, network.prediction)

This needs `pip install 'shapedreamer[export]'`. OnnxNetwork runs the file on the CPU and is called like the original
network, so `denoise` works with every sampler. Other programs read the file directly. Its inputs are

    x      (B, C, H, W) float32    the noisy images
    t      (B,) float32            their timesteps 1…T: whole numbers, but floats are simpler in JavaScript
    label  (B, L) float32          label vectors, in class-conditional networks only; zeros mean unconditional

and its output is `prediction` (B, C, H, W) float32. The batch size B is free. The file's metadata holds everything else
needed for sampling: "prediction" (what the network predicts: eps, x0, v, flow, or logit for a masked model), "T",
"alpha_bar" (T + 1 numbers, as JSON) and "data" (the DataSpec, as JSON). What the exporter adds, such as source lines
and paths on this machine, is removed.

With sampler=True, one run of the file does all of sampling. Then its inputs are

    noise  x_T, (B, C, H, W) float32; if the sampler adds noise, (S, B, C, H, W) with S >= steps: first x_T, and then
           what each step adds
    steps  () int64                the number of network calls, up to the "max_steps" in the file's metadata
    label  (B, L) float32          as above

and its output is `images` (B, C, H, W) float32. They equal those of model.sample with the same noise. The file's
metadata has another key, "sampling": the sampler, its eta, the number of steps that the model is meant for, and
max_steps, as JSON.

save_onnx writes a folder with such a file, a model card, and a script that samples with onnxruntime and NumPy alone.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import torch
from pydantic import TypeAdapter
from torch import Tensor

from ..common.device import torch_defaults
from ..common.errors import UserError, require
from ..common.files import new_folder, write_atomic
from ..common.names import Prediction, Process, WeightPrecision
from ..common.values import as_choice, as_int, as_path
from ..data.spec import DataSpec
from ..diffusion.schedule import Schedule
from ..models.model import Model
from ..models.options import SampleOptions
from ..networks.layers import as_context
from .card import model_card
from .onnx_variants import check_sampler, half_weights, int8_weights, with_sampler

# Opset 20 exports a GroupNorm as an InstanceNormalization between two Reshapes. From opset 21 on it is one operation,
# but onnxruntime splits that into more parts and runs 6 to 10% slower (measured on a CPU, batch sizes 1 and 16).
OPSET = 20

PRECISIONS: dict[WeightPrecision, str] = {
    "float32": "float32",
    "half": "float16",
    "int8": "8-bit integers, with a scale for each output channel",
}
LOGIT = "logit"  # what the network of a masked model outputs for each pixel, as the metadata calls it
_ALPHA_BAR, _DATA, _PREDICTION = TypeAdapter(list[float]), TypeAdapter(DataSpec), TypeAdapter[Prediction](Prediction)


@torch_defaults()
def to_onnx(
    model: Model,
    path: str | Path,
    *,
    sampler: bool = False,
    precision: WeightPrecision = "float32",
    options: SampleOptions = SampleOptions(),
) -> None:
    """Write the network of `model` as one ONNX file; the top of this module describes the format.

    sampler:   put all of sampling into the file
    precision: of the stored weights; the computation is in float32 in any case
    options:   the sampler and eta to put into the file; None means the model's own

    UserError if the extra `export` is not installed, the file cannot be written, or the sampler is heun.
    """
    path = as_path("path", path)
    as_choice("precision", precision, get_args(WeightPrecision))
    sampling = model.resolve_sampling(options)
    if sampler:
        check_sampler(sampling)
    require("onnxscript", "export")
    network = copy.deepcopy(model.network).eval().to("cpu", torch.float32)
    x = torch.zeros(2, model.spec.channels, model.spec.height, model.spec.width)  # a batch of 1 would become a constant
    inputs = {"x": x, "t": torch.ones(2)}
    if model.labels is not None:
        inputs["label"] = torch.zeros(2, model.labels.shape[1])
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    with _quiet_exporter(), torch.autocast("cpu", enabled=False):
        # two calls: given a module, torch.onnx.export silently makes the batch size constant if it cannot keep it free
        exported = torch.export.export(network, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["prediction"],
            dynamic_shapes=shapes,  # only to name the batch dimension
            verbose=False,
        )
    assert program is not None  # only the older exporter returns None
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # source files and line numbers
    graph.ClearField("value_info")  # shapes of intermediate results, which readers infer anyway
    for key, value in {
        "prediction": LOGIT if model.is_masked else model.prediction,
        "T": str(model.schedule.T),
        "alpha_bar": json.dumps(model.schedule.alpha_bar.tolist()),
        "data": _DATA.dump_json(model.spec).decode(),
    }.items():
        proto.metadata_props.add(key=key, value=value)
    if precision != "float32":
        {"half": half_weights, "int8": int8_weights}[precision](proto)
    if sampler:
        proto = with_sampler(proto, model, sampling)
    write_atomic(path, proto.SerializeToString())


SCRIPT = """\
# Sample from model.onnx: pip install onnxruntime pillow numpy
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

NUM, LABEL = 8, 0
session = onnxruntime.InferenceSession(Path(__file__).parent / "model.onnx", providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
data, steps = json.loads(about["data"]), json.loads(about["sampling"])["steps"]
rank = {node.name: len(node.shape) for node in session.get_inputs()}
shape = [NUM, data["channels"], data["height"], data["width"]]
shape = [steps, *shape] if rank["noise"] == 5 else shape  # one for x_T and one for each step that adds noise
noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
inputs = {"noise": noise, "steps": np.array(steps)}
if "label" in rank:
    inputs["label"] = np.eye(len(data["labels"]), dtype=np.float32)[[LABEL] * NUM]
(images,) = session.run(None, inputs)
pixels = np.hstack(((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))
Image.fromarray(pixels.squeeze()).save("samples.png")
"""


def save_onnx(
    model: Model,
    out: str | Path,
    *,
    sampler: bool = False,
    precision: WeightPrecision = "float32",
    options: SampleOptions = SampleOptions(),
    shipped: str = "",
) -> None:
    """Write a folder with model.onnx, see to_onnx, and a model card; with a sampler, also sample.py, which runs it.

    shipped: the name of the model if it is a shipped one, for its card

    The folder is written completely or not at all. UserError as for to_onnx, and if the folder exists.
    """
    sampling = model.resolve_sampling(options)
    eta = f", eta {sampling.eta:g}" if sampling.eta else ""
    notes = [f"The weights are stored in {PRECISIONS[precision]}. The computation is in float32."]
    if sampler:
        usage = f"```python\n{SCRIPT}```"
        notes.append(
            f"The sampler in the file is {sampling.sampler}{eta}. The model is meant for {sampling.steps} steps."
        )
    else:
        usage = "Inputs: `x`, noisy images (B, C, H, W); `t`, their timesteps (B,), 1 to T, as float32"
        usage += "; `label`, label vectors (B, L)." if model.labels is not None else "."
        usage += " Output: `prediction`. The metadata has `prediction`, `T`, `alpha_bar` and `data`."
    card = model_card(model, "onnx", usage, notes, shipped)
    with new_folder(as_path("out", out)) as folder:
        to_onnx(model, folder / "model.onnx", sampler=sampler, precision=precision, options=options)
        write_atomic(folder / "README.md", card.encode())
        if sampler:
            write_atomic(folder / "sample.py", SCRIPT.encode())


class OnnxNetwork:
    """A network loaded from a file that to_onnx wrote. onnxruntime runs it on the CPU; call it like the original.

    threads: number of threads; None for one per core

    The attributes `process`, `schedule`, `prediction` and `spec` come from the file. To get a denoiser, write
    `Denoiser(with_label(network, label), network.schedule, network.prediction)`, or for the process "masked"
    `masked.denoiser(with_label(network, label))`.

    UserError if the extra `export` is not installed, or if the file is missing, damaged or not written by to_onnx.
    """

    @torch_defaults()
    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        path = as_path("path", path)
        runtime = require("onnxruntime", "export")
        if not path.is_file():
            raise UserError(f"there is no ONNX file at {path}")
        options = runtime.SessionOptions()
        # 0: onnxruntime decides
        options.intra_op_num_threads = 0 if threads is None else as_int("threads", threads, 0, 1024)
        options.log_severity_level = 4  # fatal errors only; the exceptions below report the rest
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise UserError(f"{path} is damaged or not an ONNX file ({error}); export the model again") from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.process: Process = "masked" if metadata["prediction"] == LOGIT else "gaussian"
            self.prediction = "x0" if self.process == "masked" else _PREDICTION.validate_python(metadata["prediction"])
            self.schedule = Schedule(torch.tensor(_ALPHA_BAR.validate_json(metadata["alpha_bar"]), dtype=torch.float64))
            self.spec = _DATA.validate_json(metadata["data"])
        except (KeyError, ValueError):
            raise UserError(
                f"{path} was not written by to_onnx: its metadata lacks a valid prediction, alpha_bar or data"
            ) from None
        shapes = {node.name: node.shape for node in self._session.get_inputs()}
        self.context_size: int = shapes["label"][1] if "label" in shapes else 0

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """Return the prediction (B, C, H, W), on the device of x.

        x: (B, C, H, W); t: (B,); label: (B, L) vectors, (B,) int64 classes, or None for unconditional.
        ValueError if the images or labels do not have the size that the network was exported with.
        """
        C, H, W = self.spec.channels, self.spec.height, self.spec.width
        if x.shape[1:] != (C, H, W):
            raise ValueError(f"images have shape {tuple(x.shape)}; this network was exported for (B, {C}, {H}, {W})")
        inputs = {"x": x, "t": t}
        if self.context_size:
            inputs["label"] = as_context(label, x, self.context_size)
        elif label is not None:
            raise ValueError("this network is unconditional: call it without a label")
        arrays = {name: value.float().numpy(force=True) for name, value in inputs.items()}
        return torch.from_numpy(self._session.run(None, arrays)[0]).to(x.device)


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Suppress the exporter's messages about itself, such as that torchvision is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
