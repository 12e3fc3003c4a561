"""Exported files: onnxruntime gives the same output and the same samples as the network itself."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from shapedreamer.common.errors import UserError
from shapedreamer.common.names import Prediction
from shapedreamer.common.noise import Noise
from shapedreamer.data.spec import DataSpec
from shapedreamer.diffusion.denoiser import Denoiser, with_label
from shapedreamer.diffusion.samplers import ddim, sample
from shapedreamer.diffusion.schedule import Schedule, cosine, linear
from shapedreamer.export.onnx import OnnxNetwork, to_onnx
from shapedreamer.models.model import Model
from shapedreamer.networks.context_unet import ContextUnet
from shapedreamer.networks.dit import DiT
from shapedreamer.networks.unet import UNet

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

LABELS = ("fire", "water", "earth", "air", "über")
SMALL: dict[str, Any] = {"channels": (8, 16), "groups": 4, "head_dim": 8, "attention": (1,)}


def make_model(
    network: UNet | ContextUnet | DiT,
    size: tuple[int, int],
    schedule: Schedule,
    prediction: Prediction = "eps",
    memory_format: torch.memory_format = torch.channels_last,  # as models are loaded
) -> Model:
    """A model with random weights, in the norms too, which freshly initialised would all be the same."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1 or not parameter.any():  # a transformer starts with gates of zero
                scale = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    network = network.to(memory_format=memory_format)  # type: ignore[call-overload]
    L = network.context_size
    spec = DataSpec("some data", network.in_channels, *size, LABELS[:L], low=-0.5, high=0.75, sha256="ab")
    return Model(network, schedule, prediction, spec, torch.eye(L) if L else None)


def inputs(model: Model, batch: int) -> tuple[Tensor, Tensor]:
    """Noise and timesteps from T down to 1."""
    shape = (batch, model.spec.channels, model.spec.height, model.spec.width)
    times = torch.linspace(model.schedule.T, 1, batch).round().long()
    return Noise(1)(0, like=torch.zeros(shape)), times


def labels_for(model: Model, batch: int) -> list[Tensor | None]:
    """The kinds of labels to test: None and, for a class-conditional network, vectors and classes."""
    if model.labels is None:
        return [None]
    L = model.labels.shape[1]
    return [None, Noise(2)(0, like=torch.zeros(batch, L)), torch.arange(batch) % L]


def assert_same_network(network: OnnxNetwork, model: Model) -> None:
    for batch in (1, 3, 5):
        x, t = inputs(model, batch)
        for label in labels_for(model, batch):
            found = network(x, t, label)
            with torch.inference_mode():
                expected = model.network(x, t, label)
            assert_close(found, expected, rtol=0, atol=1e-5)
            assert torch.equal(network(x, t.float(), label), found)  # a browser has no int64
            assert 0.1 < expected.std() < 10  # rule out a network that outputs almost nothing


@pytest.fixture(scope="module")
def model() -> Model:
    """A model with patches, attention, labels, time_at="bottleneck" and a head."""
    torch.manual_seed(0)
    network = UNet(**SMALL, patch=2, context=3, time_at="bottleneck", dropout=0.5, head=8)
    return make_model(network, (16, 8), cosine(60), "v")


@pytest.fixture(scope="module")
def file(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "new folder" / "model.onnx"
    model.network.train()  # the export must use eval mode regardless
    to_onnx(model, path)
    assert model.network.training
    model.network.eval()
    return path


@pytest.fixture(scope="module")
def network(file: Path) -> OnnxNetwork:
    return OnnxNetwork(file, threads=1)


def test_the_exported_network_gives_the_same_output(network: OnnxNetwork, model: Model) -> None:
    assert_same_network(network, model)
    x, t = inputs(model, 3)
    label = torch.eye(3)
    found = network(x, t, label)
    assert torch.equal(network(x, t, torch.arange(3)), found)
    assert not torch.allclose(found, network(x, t), atol=1e-3)  # the label makes a difference
    assert not torch.allclose(found, network(x, t - 1, label), atol=1e-4)  # and so does the timestep
    assert_close(network(x[1:2], t[1:2], label[1:2]), found[1:2], rtol=0, atol=1e-5)


def test_samples_are_the_same(network: OnnxNetwork, model: Model) -> None:
    x, _ = inputs(model, 3)
    for label in labels_for(model, 3):
        with torch.inference_mode():
            found, expected = (
                sample(ddim(Denoiser(with_label(n, label), network.schedule, network.prediction), model.schedule, x, 5))
                for n in (network, model.network)
            )
        assert_close(found, expected, rtol=0, atol=1e-4)


def test_any_memory_format_dtype_and_autograd_state_works(network: OnnxNetwork, model: Model) -> None:
    x, t = inputs(model, 3)
    found = network(x, t)
    assert torch.equal(network(x.contiguous(memory_format=torch.channels_last).requires_grad_(), t), found)
    assert torch.equal(network(x.double(), t), found)
    output = network(x, t)
    output.add_(1)  # the caller owns the output
    assert torch.equal(network(x, t), found)


def test_the_file_stores_everything_needed_for_sampling(network: OnnxNetwork, model: Model) -> None:
    assert network.prediction == model.prediction == "v"
    assert torch.equal(network.schedule.alpha_bar, model.schedule.alpha_bar)
    assert network.spec == model.spec
    assert network.context_size == 3


def test_the_export_is_a_single_file_with_named_inputs_and_metadata(file: Path) -> None:
    assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
    assert_plain(file)
    proto = onnx.load(file)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert metadata.keys() == {"prediction", "T", "alpha_bar", "data"}
    assert metadata["T"] == "60"
    sizes = {
        node.name: [d.dim_param or d.dim_value for d in node.type.tensor_type.shape.dim]
        for node in (*proto.graph.input, *proto.graph.output)
    }
    assert sizes == {"x": ["batch", 1, 16, 8], "t": ["batch"], "label": ["batch", 3], "prediction": ["batch", 1, 16, 8]}


def assert_plain(file: Path) -> None:
    """Check that a file is valid, uses only standard ONNX operations and float32, and contains no paths."""
    proto = onnx.load(file, load_external_data=False)
    onnx.checker.check_model(proto, full_check=True)
    assert [entry.domain for entry in proto.opset_import] == [""]
    assert not proto.functions
    assert all(node.domain == "" for node in proto.graph.node)
    assert "Cast" not in {node.op_type for node in proto.graph.node}
    types = {tensor.data_type for tensor in proto.graph.initializer}
    assert types <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    content = file.read_bytes()
    for word in (b".py", str(Path.home()).encode(), str(Path(__file__).parents[2]).encode()):
        assert word not in content


OTHERS: dict[str, tuple[type[UNet] | type[ContextUnet] | type[DiT], dict[str, Any], tuple[int, int]]] = {
    "context": (ContextUnet, {"in_channels": 3, "context": 5, "features": 16, "groups": 4}, (8, 12)),
    "dit": (DiT, {"in_channels": 3, "patch": 2, "width": 32, "depth": 3, "head_dim": 8, "context": 5}, (8, 12)),
    "plain": (UNet, {**SMALL, "attention": ()}, (8, 8)),
    "scale_shift, 2 blocks, context": (UNet, {**SMALL, "blocks": 2, "scale_shift": True, "context": 4}, (8, 8)),
    "attention everywhere, too many pixels for plain products": (
        UNet,
        {**SMALL, "attention": (0, 1)},
        (20, 20),
    ),
    "RGBA, 3 levels, patch 4": (UNet, {**SMALL, "in_channels": 4, "channels": (8, 16, 16), "patch": 4}, (32, 16)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_network_is_exported_without_output(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, options, size = OTHERS[name]
    torch.manual_seed(0)
    model = make_model(kind(**options), size, linear(1000), memory_format=torch.contiguous_format)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    file = tmp_path / "model.onnx"
    with torch.autocast("cpu", torch.bfloat16):  # the export is float32, even under autocast
        to_onnx(model, file)
    assert capfd.readouterr() == ("", "")
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())
    assert_plain(file)
    assert_same_network(OnnxNetwork(file), model)


# errors


def test_wrong_image_and_label_sizes_raise(network: OnnxNetwork, model: Model) -> None:
    x, t = inputs(model, 2)
    with pytest.raises(
        ValueError, match=re.escape("images have shape (2, 1, 8, 16); this network was exported for (B, 1, 16, 8)")
    ):
        network(x.transpose(2, 3), t)
    with pytest.raises(ValueError, match=re.escape("labels are (2, 4) torch.float32, and must be (2, 3) vectors")):
        network(x, t, torch.zeros(2, 4))


def test_a_missing_file_raises(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.onnx"):
        with pytest.raises(UserError, match=f"there is no ONNX file at {re.escape(str(path))}$"):
            OnnxNetwork(path)


def test_a_truncated_or_modified_file_raises(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = file.read_bytes()
    damaged = tmp_path / "damaged.onnx"
    cuts = [content[:size] for size in (0, 1, 100, len(content) // 2, len(content) - 1)]
    for wrong in (*cuts, b"\0" * 5000, b"<html>not found</html>", content.replace(b"Conv", b"Xonv")):
        damaged.write_bytes(wrong)
        with pytest.raises(UserError, match=re.escape(f"{damaged} is damaged or not an ONNX file")):
            OnnxNetwork(damaged)
    assert capfd.readouterr() == ("", "")


@contextlib.contextmanager
def metadata_of(file: Path, copy: Path) -> Iterator[dict[str, str]]:
    """Yield the metadata of `file`; on exit, write `copy` with the metadata as changed in the block."""
    proto = onnx.load(file)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    yield metadata
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, None) for key in ("prediction", "alpha_bar", "data")),
        ("prediction", "score"),
        ("alpha_bar", ""),
        ("alpha_bar", "{}"),
        ("alpha_bar", "[1.0, NaN]"),
        ("alpha_bar", "[0.5, 0.25]"),
        ("alpha_bar", '[1.0, "a"]'),
        ("data", "[]"),
        ("data", '{"name": "a", "channels": 1, "height": "x", "width": 8, "labels": []}'),
    ],
)
def test_missing_or_invalid_metadata_raises(file: Path, tmp_path: Path, key: str, value: str | None) -> None:
    with metadata_of(file, tmp_path / "other.onnx") as metadata:
        del metadata[key]
        if value is not None:
            metadata[key] = value
    with pytest.raises(
        UserError, match=r"other.onnx was not written by to_onnx: its metadata lacks a valid prediction, alpha"
    ):
        OnnxNetwork(tmp_path / "other.onnx")


def test_additional_metadata_is_ignored(file: Path, tmp_path: Path, model: Model) -> None:
    """This also shows that rewriting the metadata, as the previous test does, leaves a file readable."""
    with metadata_of(file, tmp_path / "ours.onnx") as metadata:
        metadata["remark"] = "hello"
    assert OnnxNetwork(tmp_path / "ours.onnx").spec == model.spec


@pytest.mark.parametrize("missing", ["onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(missing: str, file: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"shapedreamer\[export\]"):
        to_onnx(model, file) if missing == "onnxscript" else OnnxNetwork(file)
