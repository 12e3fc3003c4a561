"""A model's network as one ONNX file, for programs without torch: onnxruntime here, onnxruntime-web in a browser.

The file maps

    x      (B, C, H, W) float32    the noisy images
    t      (B,) float32            their times 1…T: whole numbers, as floats for the sake of JavaScript
    label  (B, L) float32          only where the network is told labels; zeros are no label

to `prediction` (B, C, H, W) float32, of what the network was trained to predict. B is free. Its metadata hold all else
that sampling needs: "prediction" (eps, x0 or v), "T", "alpha_bar" (T + 1 numbers, as JSON) and "data" (the DataSpec, as
JSON). What the exporter would add, such as lines of source code and their paths on this machine, is left out.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch import Tensor

from ..common.errors import UserError, require
from ..common.files import write_atomic
from ..common.names import Prediction
from ..data.spec import DataSpec
from ..diffusion.schedule import Schedule
from ..models.model import Model
from ..networks.layers import as_context

# From 21 on a GroupNorm is one operation of ONNX instead of an InstanceNormalization between two Reshapes; onnxruntime
# takes that one apart into more, and is 6 to 10% slower for it (measured on a CPU, batch 1 and 16).
OPSET = 20

_ALPHA_BAR, _DATA, _PREDICTION = TypeAdapter(list[float]), TypeAdapter(DataSpec), TypeAdapter[Prediction](Prediction)


def to_onnx(model: Model, path: Path) -> None:
    """Write the network of `model`, in float32, as one ONNX file; see above for what it maps to what.

    UserError where the extra `export` is not installed, or the file cannot be written.
    """
    require("onnxscript", "export")
    network = copy.deepcopy(model.network).eval().to("cpu", torch.float32)
    x = torch.zeros(2, model.spec.channels, model.spec.height, model.spec.width)  # a batch of 1 would stay 1
    inputs = {"x": x, "t": torch.ones(2)}
    if model.labels is not None:
        inputs["label"] = torch.zeros(2, model.labels.shape[1])
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    with _silence(), torch.autocast("cpu", enabled=False):
        # in two calls: given a module, torch.onnx writes a fixed batch where it cannot write a free one
        exported = torch.export.export(network, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["prediction"],
            dynamic_shapes=shapes,  # for the name of B alone
            verbose=False,
        )
    assert program is not None  # it is None only for the older exporter
    proto = program.model_proto
    graph = proto.graph
    for part in (graph, *graph.node, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # which line of which source file it comes from
    graph.ClearField("value_info")  # shapes in between, which every reader infers
    for key, value in {
        "prediction": model.prediction,
        "T": str(model.schedule.T),
        "alpha_bar": json.dumps(model.schedule.alpha_bar.tolist()),
        "data": _DATA.dump_json(model.spec).decode(),
    }.items():
        proto.metadata_props.add(key=key, value=value)
    write_atomic(path, proto.SerializeToString())


class OnnxNetwork:
    """The network in a file that to_onnx wrote, run by onnxruntime on the CPU; called as the network itself is.

    schedule, prediction, spec:  what the file says of the model, so that
                                 Denoiser(given(network, label), network.schedule, network.prediction) is its denoiser

    threads: how many to compute with; None for as many as there are cores.
    UserError where the extra `export` is not installed, and for a file that is missing, damaged, or not of ours.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = require("onnxruntime", "export")
        if not path.is_file():
            raise UserError(f"there is no ONNX file {path}")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0 is its own choice
        options.log_severity_level = 4  # what is wrong with a file is said below
        try:
            self._session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own, which share no type
            raise UserError(f"{path} is damaged or no ONNX file ({error}); export the model again") from None
        metadata = self._session.get_modelmeta().custom_metadata_map
        try:
            self.prediction = _PREDICTION.validate_python(metadata["prediction"])
            self.schedule = Schedule(torch.tensor(_ALPHA_BAR.validate_json(metadata["alpha_bar"]), dtype=torch.float64))
            self.spec = _DATA.validate_json(metadata["data"])
        except (KeyError, ValueError):
            raise UserError(
                f"{path} is not a model of shapedreamer: its metadata prediction, alpha_bar or data is missing or wrong"
            ) from None
        shapes = {node.name: node.shape for node in self._session.get_inputs()}
        self.context_size: int = shapes["label"][1] if "label" in shapes else 0

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,), label (B, L), classes (B,) int64 or None -> the prediction, on the device of x.

        ValueError for images or labels of another size than the network's.
        """
        size = (self.spec.channels, self.spec.height, self.spec.width)
        if x.shape[1:] != size:
            raise ValueError(f"images are {tuple(x.shape)}, and must be (B, *{size}), as when the file was written")
        inputs = {"x": x, "t": t}
        if self.context_size:
            inputs["label"] = as_context(label, x, self.context_size)
        elif label is not None:
            raise ValueError("this network was exported without labels: give it none")
        arrays = {name: value.float().numpy(force=True) for name, value in inputs.items()}
        return torch.from_numpy(self._session.run(None, arrays)[0]).to(x.device)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what the exporter says about itself, such as that torchvision is not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
