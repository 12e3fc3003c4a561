"""Variants of an exported ONNX network: with the whole sampler inside, and with smaller weights.

onnx.py's `to_onnx` applies them. Both work on the file's graph:

with_sampler   a Loop around the network, so that one run of the file turns noise into images
half_weights   weights stored as float16, and converted to float32 when the file is loaded: half the size
int8_weights   the large weights stored as 8-bit integers with a scale for each output channel: a quarter of the size

The computation stays in float32, which is what processors without a GPU are fast at.
"""

import itertools
import json
import math
from typing import Any

import numpy as np

from ..common.errors import UserError, require
from ..common.names import TWO_CALLS, Prediction
from ..diffusion.samplers import fresh_noise, place_in_step
from ..models.model import Model
from ..models.recipes import Sampling

MAX_STEPS = 100  # network calls of a file with a sampler: it holds a table of coefficients for every number of calls
COLUMNS = ("t", "x0_from_x", "x0_from_output", "extrapolation", "x_from_x", "x_from_x0", "x_from_noise")


def check_sampler(sampling: Sampling) -> None:
    """UserError for a sampler whose steps make two calls, and for those of masked models."""
    if sampling.sampler.startswith("masked_"):
        raise UserError(f"the sampler {sampling.sampler} cannot be exported; export the network alone")
    if sampling.sampler in TWO_CALLS:
        raise UserError(f"the sampler {sampling.sampler} cannot be exported; choose another, as in `sampler='ddim'`")


def step_coefficients(model: Model, sampling: Sampling, steps: int) -> list[list[float]]:
    """What each step of a sampler computes, as a row of numbers in the order of COLUMNS, in float64.

    A step of ddpm, ddim or dpmpp_2m leaves timestep t for s. With the network's output o, and x̂₀' of the step before:

        x̂₀ = clip(x0_from_x · x + x0_from_output · o),    D = x̂₀ + extrapolation · (x̂₀ − x̂₀')
        x  = x_from_x · x + x_from_x0 · D + x_from_noise · z

    diffusion/samplers.py has the formulas. There a = ᾱ_t and b = ᾱ_s too.
    """
    alpha_bar, log_snr = model.schedule.alpha_bar.tolist(), model.schedule.log_snr.tolist()
    rows, h_before = [], math.nan
    eta = 1.0 if sampling.sampler == "ddpm" else sampling.eta
    for number, (t, s) in enumerate(itertools.pairwise(model.times(steps))):
        a, b = alpha_bar[t], alpha_bar[s]
        alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
        from_x, from_output = _x0_weights(model.prediction, alpha, sigma)
        h, r = (log_snr[s] - log_snr[t]) / 2, 0.0
        if sampling.sampler == "dpmpp_2m" and number > 0 and s > 0:
            r = place_in_step(eta, a, b) * h / h_before
        h_before = h
        noise = fresh_noise(eta, a, b)
        direction = math.sqrt(max(1 - b - noise**2, 0.0)) / sigma  # of ε̂ = (x − α D)/σ
        rows.append([t, from_x, from_output, r, direction, math.sqrt(b) - alpha * direction, noise])
    return rows


def _x0_weights(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """The weights of x_t and of the network's output in x̂₀; see to_x0 in diffusion/process.py."""
    if prediction == "x0":
        return 0.0, 1.0
    if prediction == "flow":
        return 1 / (alpha + sigma), -sigma / (alpha + sigma)
    return (1 / alpha, -sigma / alpha) if prediction == "eps" else (alpha, -sigma)


def with_sampler(proto: Any, model: Model, sampling: Sampling) -> Any:
    """The ONNX model of a network with a loop around it that samples. See onnx.py for its inputs."""
    onnx = require("onnx", "export")
    helper, FLOAT, INT64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    network, spec = proto.graph, model.spec
    max_steps = min(MAX_STEPS, model.schedule.T)
    rows = list(itertools.chain.from_iterable(step_coefficients(model, sampling, n) for n in range(1, max_steps + 1)))
    stochastic = any(row[-1] for row in rows)

    def constant(name: str, value: Any, dtype: Any) -> Any:
        return onnx.numpy_helper.from_array(np.array(value, dtype), name)

    image = ["batch", spec.channels, spec.height, spec.width]
    body = [helper.make_node("Add", ["row_of_first_step", "i"], ["row"])]
    body.append(helper.make_node("Gather", ["coefficients", "row"], ["row_coefficients"]))
    body.append(helper.make_node("Split", ["row_coefficients"], list(COLUMNS), num_outputs=len(COLUMNS)))
    body[-1].output[0] = "t_of_step"
    body.append(helper.make_node("Expand", ["t_of_step", "batch_shape"], ["t"]))
    body += network.node  # x, t, label -> prediction
    body += [
        helper.make_node("Mul", ["x0_from_x", "x"], ["x0_part_of_x"]),
        helper.make_node("Mul", ["x0_from_output", "prediction"], ["x0_part_of_output"]),
        helper.make_node("Add", ["x0_part_of_x", "x0_part_of_output"], ["x0_unclipped"]),
        helper.make_node("Clip", ["x0_unclipped", "low", "high"], ["x0"]),
        helper.make_node("Sub", ["x0", "x0_before"], ["x0_change"]),
        helper.make_node("Mul", ["extrapolation", "x0_change"], ["x0_extrapolation"]),
        helper.make_node("Add", ["x0", "x0_extrapolation"], ["D"]),
        helper.make_node("Mul", ["x_from_x", "x"], ["next_part_of_x"]),
        helper.make_node("Mul", ["x_from_x0", "D"], ["next_part_of_x0"]),
        helper.make_node("Add", ["next_part_of_x", "next_part_of_x0"], ["next_mean" if stochastic else "x_next"]),
        helper.make_node("Identity", ["condition"], ["condition_next"]),
    ]
    if stochastic:  # the last step adds no noise, and takes any
        body += [
            helper.make_node("Add", ["i", "one"], ["noise_after_x_T"]),
            helper.make_node("Min", ["noise_after_x_T", "last_step"], ["noise_index"]),
            helper.make_node("Gather", ["noise", "noise_index"], ["z"]),
            helper.make_node("Mul", ["x_from_noise", "z"], ["next_part_of_noise"]),
            helper.make_node("Add", ["next_mean", "next_part_of_noise"], ["x_next"]),
        ]
    info = helper.make_tensor_value_info
    loop = helper.make_graph(
        body,
        "step",
        [
            info("i", INT64, []),
            info("condition", onnx.TensorProto.BOOL, []),
            info("x", FLOAT, image),
            info("x0_before", FLOAT, image),
        ],
        [info("condition_next", onnx.TensorProto.BOOL, []), info("x_next", FLOAT, image), info("x0", FLOAT, image)],
        initializer=list(network.initializer),
    )
    nodes = [
        helper.make_node("Sub", ["steps", "one"], ["last_step"]),
        helper.make_node("Mul", ["steps", "last_step"], ["twice_row_of_first_step"]),
        helper.make_node("Div", ["twice_row_of_first_step", "two"], ["row_of_first_step"]),
        # the first network call is for x_T
        helper.make_node("Gather", ["noise", "zero"], ["x_T"])
        if stochastic
        else helper.make_node("Identity", ["noise"], ["x_T"]),
        helper.make_node("Shape", ["x_T"], ["batch_shape"], start=0, end=1),
        helper.make_node("Loop", ["steps", "yes", "x_T", "x_T"], ["images", "x0_last"], body=loop),
    ]
    constants = [
        constant("coefficients", rows, np.float32),
        *(constant(name, value, np.int64) for name, value in (("zero", 0), ("one", 1), ("two", 2))),
        constant("yes", True, np.bool_),
        constant("low", spec.low, np.float32),
        constant("high", spec.high, np.float32),
    ]
    inputs = [info("noise", FLOAT, ["steps_or_more", *image] if stochastic else image), info("steps", INT64, [])]
    inputs += [value for value in network.input if value.name == "label"]
    graph = helper.make_graph(nodes, "sample", inputs, [info("images", FLOAT, image)], initializer=constants)
    result = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    result.metadata_props.extend(proto.metadata_props)
    about = {"sampler": sampling.sampler, "eta": sampling.eta, "steps": sampling.steps, "max_steps": max_steps}
    result.metadata_props.add(key="sampling", value=json.dumps(about))
    return result


def half_weights(proto: Any) -> None:
    """Store the weights as float16, and convert them to float32 in the graph, which the runtime does once.

    Vectors stay as they are. They are small, and one holds the frequencies of the timestep's features: rounded, they
    would turn the angle at t = 1000 by up to half a radian.
    """
    onnx = require("onnx", "export")
    nodes, weights = [], []
    for weight in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        if array.dtype != np.float32 or array.ndim < 2:
            weights.append(weight)
            continue
        weights.append(onnx.numpy_helper.from_array(array.astype(np.float16), f"{weight.name}_half"))
        nodes.append(onnx.helper.make_node("Cast", [weights[-1].name], [weight.name], to=onnx.TensorProto.FLOAT))
    _replace(proto.graph, weights, nodes)


def int8_weights(proto: Any) -> None:
    """Store the weights of convolutions and matrix products as 8-bit integers with a scale per output channel."""
    onnx = require("onnx", "export")
    axes: dict[str, int] = {}  # the axis of the output channels of each weight
    for node in proto.graph.node:
        if node.op_type == "Conv":
            axes[node.input[1]] = 0
        elif node.op_type == "ConvTranspose":
            axes[node.input[1]] = 1
        elif node.op_type == "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            axes[node.input[1]] = 0 if transposed else 1
        elif node.op_type == "MatMul":
            axes[node.input[1]] = 1
    nodes, weights = [], []
    for weight in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(weight)
        axis = axes.get(weight.name)
        if axis is None or array.dtype != np.float32 or array.ndim < 2:
            weights.append(weight)
            continue
        others = tuple(i for i in range(array.ndim) if i != axis)
        scale = np.abs(array).max(axis=others, keepdims=True) / 127
        scale[scale == 0] = 1
        integers = np.round(array / scale).astype(np.int8)
        parts = {"int8": integers, "scale": scale.ravel().astype(np.float32)}
        weights += [onnx.numpy_helper.from_array(part, f"{weight.name}_{name}") for name, part in parts.items()]
        names = [f"{weight.name}_{name}" for name in parts]
        nodes.append(onnx.helper.make_node("DequantizeLinear", names, [weight.name], axis=axis))
    _replace(proto.graph, weights, nodes)


def _replace(graph: Any, weights: list[Any], nodes: list[Any]) -> None:
    """Replace the weights of a graph, and put the nodes that convert them before all others."""
    nodes = [*nodes, *graph.node]
    for field, values in ((graph.initializer, weights), (graph.node, nodes)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del field[:]
        field.extend(copies)
